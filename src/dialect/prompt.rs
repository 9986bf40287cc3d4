//! Weighs what a request gives the model to read, and collects its text for counting.
//!
//! Text is measured in decoded bytes. What is not text (pictures, audio, documents in base64) is not counted by size
//! but gets an allowance in tokens, an upper bound of what vendors charge for one; what cannot be seen from here (a
//! remote picture, a file id) makes the request unbounded.

use serde_json::value::RawValue;

use super::json_scan::{JsonScan, Kind, Seg, Sink, Text, Want};
use super::members::Members;
use super::reading::cut;

/// Text that is collected for counting.
const MAX_TEXT: usize = 256 << 10;
/// The most tokens one picture costs: OpenAI's patch models 1,536 patches × 2.46, Anthropic's 4,784 (2026-11-23).
const PICTURE_TOKENS: u64 = 5_000;
/// `gpt-4o-mini` counts a picture 33 times, to make it cost as much as on its big sister (2026-11-23).
const PICTURE_TOKENS_4O_MINI: u64 = 37_000;
/// A short document: a page is read as text and as a picture.
const DOCUMENT_TOKENS: u64 = 5_000;

const NAMES: &[&str] = &[
    "cache_control",
    "call_id",
    "data",
    "encrypted_content",
    "fileUri",
    "file_data",
    "file_id",
    "file_uri",
    "file_url",
    "id",
    "image_url",
    "input_audio",
    "media_type",
    "mimeType",
    "mime_type",
    "role",
    "signature",
    "thoughtSignature",
    "thought_signature",
    "tool_call_id",
    "tool_use_id",
    "type",
    "uri",
    "url",
];

/// What the model is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub text_bytes: u64,
    pub allowance: u64,
    pub unbounded: bool,
}

/// Adds up the parts of a request.
#[derive(Debug, Default)]
pub(super) struct Prompt {
    pub weight: Weight,
    picture: u64,
    /// Base64 without a type beside it may be sound or a film.
    media: bool,
    /// Collected only when wanted.
    text: Option<String>,
}

impl Prompt {
    /// For measuring a request of `model`.
    pub fn measure(model: Option<&str>) -> Prompt {
        let small = model.is_some_and(|m| m.contains("gpt-4o-mini"));
        Prompt { picture: if small { PICTURE_TOKENS_4O_MINI } else { PICTURE_TOKENS }, ..Prompt::default() }
    }

    /// For a vendor whose requests carry sound and films as well as pictures.
    pub fn with_media(model: Option<&str>) -> Prompt {
        Prompt { media: true, ..Prompt::measure(model) }
    }

    /// The text of a body's parts, for counting; empty where the body cannot be read.
    pub fn text_of(body: &[u8], text: &[&str], json: &[&str]) -> String {
        let Ok(members) = Members::of_body(body, &[]) else { return String::new() };
        let mut prompt = Prompt { text: Some(String::new()), ..Prompt::measure(None) };
        prompt.add(&members, text, json);
        prompt.text.unwrap_or_default()
    }

    /// The parts of a body that are text or messages, and those the model reads as JSON.
    pub fn add(&mut self, members: &Members, text: &[&str], json: &[&str]) {
        text.iter().for_each(|name| self.add_text(members.get(name)));
        json.iter().for_each(|name| self.add_json(members.get(name)));
    }

    /// A part made of messages or text: its strings are read.
    pub fn add_text(&mut self, value: Option<&RawValue>) {
        if let Some(value) = value {
            JsonScan::new(NAMES).feed(value.get().as_bytes(), self);
            self.push("\n");
        }
    }

    /// A part the model reads in some form of its own, such as tools: all its bytes count.
    pub fn add_json(&mut self, value: Option<&RawValue>) {
        if let Some(value) = value {
            self.weight.text_bytes += value.get().len() as u64;
            self.push(cut(value.get(), MAX_TEXT));
            self.push("\n");
        }
    }

    fn push(&mut self, piece: &str) {
        if let Some(text) = &mut self.text {
            let room = MAX_TEXT.saturating_sub(text.len());
            text.push_str(cut(piece, room));
        }
    }

    fn binary(&mut self, text: &Text<'_>, key: &str, audio: bool) {
        let bytes = text.bytes / 4 * 3;
        let head = text.text.rsplit(";base64,").next().unwrap_or(text.text);
        let document = key == "file_data" || head.starts_with("JVBERi") || text.text.starts_with("data:application/");
        self.weight.allowance += if audio {
            // 10 tokens a second at 4 kB a second, the lowest rate of speech that is common.
            50 + bytes / 400
        } else if document {
            DOCUMENT_TOKENS + bytes / 4
        } else if self.media && !is_picture(head) {
            // 300 tokens a second of film with sound, at 24 kB a second; sound alone is far less.
            DOCUMENT_TOKENS + bytes / 80
        } else {
            self.picture
        };
    }
}

use Seg::{At, Key};

impl Sink for Prompt {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        match (path.last(), kind) {
            (
                Some(Key(
                    "cache_control" | "signature" | "encrypted_content" | "thoughtSignature" | "thought_signature",
                )),
                _,
            ) => Want::Skip,
            (
                Some(Key(
                    "type" | "role" | "id" | "call_id" | "tool_call_id" | "tool_use_id" | "media_type" | "mimeType"
                    | "mime_type",
                )),
                Kind::String,
            ) => {
                // A role costs a token or two with the marks around it, whatever the dialect.
                if path.last() == Some(&Key("role")) {
                    self.weight.text_bytes += 8;
                    return Want::Text(32);
                }
                Want::Skip
            }
            (_, Kind::String) => Want::Text(if self.text.is_some() { MAX_TEXT } else { 64 }),
            (_, Kind::Scalar) => {
                self.weight.text_bytes += 4;
                Want::Skip
            }
            _ => Want::Enter,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        let remote = ["http:", "https:", "gs:", "s3:"].iter().any(|p| text.text.starts_with(p));
        let inline = text.text.starts_with("data:");
        match path {
            [.., Key("role")] => {
                self.push("\n");
                self.push(text.text);
                self.push(":\n");
            }
            [.., Key("input_audio"), Key("data")] => self.binary(&text, "data", true),
            [.., Key("file_id" | "fileUri" | "file_uri")] => self.weight.unbounded = true,
            [.., Key("url" | "image_url" | "file_url" | "file_data")] if inline => {
                let audio = text.text.starts_with("data:audio/");
                self.binary(&text, "url", audio);
            }
            [.., Key("file_data")] => self.binary(&text, "file_data", false),
            [.., Key("url" | "uri" | "image_url" | "file_url")] if remote => self.weight.unbounded = true,
            [.., Key("data")] if is_base64(text.text) => self.binary(&text, "data", false),
            _ => {
                self.weight.text_bytes += text.bytes;
                self.push(text.text);
                if !matches!(path.last(), Some(At(_))) {
                    self.push(" ");
                }
            }
        }
    }
}

/// A picture by its first bytes: PNG, JPEG, GIF, WebP (whose first bytes are those of WAV; `EBP` tells it).
fn is_picture(text: &str) -> bool {
    ["iVBORw0KGgo", "/9j/", "R0lGOD"].iter().any(|magic| text.starts_with(magic))
        || (text.starts_with("UklGR") && text.get(12..16) == Some("RUJQ"))
}

/// Base64 as vendors take it; the data of a plain text document has spaces or marks soon enough.
fn is_base64(text: &str) -> bool {
    let head = &text.as_bytes()[..text.len().min(64)];
    head.len() >= 16 && head.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(json: &str) -> Weight {
        let raw: Box<RawValue> = RawValue::from_string(json.into()).unwrap();
        let mut prompt = Prompt::measure(None);
        prompt.add_text(Some(&raw));
        prompt.weight
    }

    #[test]
    fn pictures_are_an_allowance_and_remote_ones_unbounded() {
        let picture = "iVBORw0KGgo".repeat(4000);
        let inline = weigh(&format!(
            r#"[{{"content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}]}}]"#
        ));
        assert_eq!(inline, Weight { text_bytes: 0, allowance: PICTURE_TOKENS, unbounded: false });
        let anthropic = weigh(&format!(
            r#"[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{picture}"}}}}]"#
        ));
        assert_eq!(anthropic.allowance, PICTURE_TOKENS);
        assert!(weigh(r#"[{"type":"input_image","image_url":"https://x.example/a.png"}]"#).unbounded);
        assert!(weigh(r#"[{"type":"document","source":{"type":"file","file_id":"f"}}]"#).unbounded);
        assert!(!weigh(r#"[{"content":"see https://x.example"}]"#).unbounded);
    }

    #[test]
    fn sound_and_films_are_more_than_a_picture_where_they_may_come() {
        let of = |head: &str| {
            let data = format!("{head}{}", "A".repeat(400_000));
            let json = format!(r#"[{{"parts":[{{"inlineData":{{"data":"{data}","mimeType":"x/y"}}}}]}}]"#);
            let raw: Box<RawValue> = RawValue::from_string(json).unwrap();
            let mut prompt = Prompt::with_media(None);
            prompt.add_text(Some(&raw));
            prompt.weight.allowance
        };
        assert_eq!(of("UklGRhAgMEBXRUJQ"), PICTURE_TOKENS);
        assert_eq!(of("/9j/4AAQSkZJRgAB"), PICTURE_TOKENS);
        assert!(of("UklGRhAgMEBXQVZF") > 8_000);
        assert!(of("AAAAIGZ0eXBpc29t") > 8_000);
        assert!(of("JVBERi0xLjQKJdPr") > 50_000);
    }

    #[test]
    fn text_is_measured_decoded() {
        assert_eq!(weigh(r#""\u00e9\n""#).text_bytes, 3);
        assert_eq!(weigh(r#"[{"role":"user","content":"hello"}]"#).text_bytes, 13);
    }

    #[test]
    fn collected_text_has_its_roles_and_a_bound() {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "é".repeat(300_000));
        let text = Prompt::text_of(body.as_bytes(), &["messages"], &[]);
        assert!(text.starts_with("\nuser:\né"));
        assert!(text.len() <= MAX_TEXT);
    }
}
