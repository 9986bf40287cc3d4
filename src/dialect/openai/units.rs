//! Reads answers of what is not a conversation: images, transcription and speech, rerank, OCR.
//!
//! Some are billed by tokens and say so, some by seconds or pages, some (DALL·E's pictures, speech) say nothing: then what
//! the request states counts, or the call has no cost that is known.

use super::usage;
use crate::dialect::counts::{Counts, MAX_COUNT, at, flag};
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{MAX_RAW, add_text, error_type, keep_vendor_usage, verdict, want_text, word};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{Observation, Verdict};
use crate::domain::{Component, Usage};

const NAMES: &[&str] = &[
    "code",
    "data",
    "delta",
    "document_annotation",
    "duration",
    "error",
    "id",
    "model",
    "service_tier",
    "text",
    "type",
    "usage",
    "usage_info",
];

/// The meter of one answer.
#[derive(Default)]
pub struct UnitsMeter {
    obs: Observation,
    usage: Usage,
    seconds: Option<u64>,
    pages: Option<u64>,
    annotated: bool,
    images: u64,
    event: String,
    last: bool,
    /// A sound, or a text without any JSON, is an answer too.
    opaque: bool,
}

impl UnitsMeter {
    pub fn new(content_type: Option<&str>) -> UnitsMeter {
        let kind = content_type.unwrap_or("application/json").trim_start().to_ascii_lowercase();
        let json = kind.starts_with("application/json") || kind.starts_with("text/event-stream");
        UnitsMeter { opaque: !json, ..UnitsMeter::default() }
    }

    fn read_usage(&mut self, json: &[u8]) {
        let Some(value) = Small::read(json).filter(Small::is_object) else { return };
        keep_vendor_usage(&mut self.obs, json);
        let model = self.obs.model.clone();
        if let Some(usage) = usage::read(json, model.as_deref(), &mut self.obs) {
            self.usage = usage;
        }
        // Mistral beside its tokens, OpenAI instead of them.
        for name in ["seconds", "prompt_audio_seconds"] {
            if let Some(seconds) = at(&value, name).and_then(whole_seconds) {
                self.seconds = Some(seconds);
            }
        }
    }
}

/// Seconds as they are billed: begun ones are whole.
fn whole_seconds(value: &Small) -> Option<u64> {
    match value {
        Small::Count(n) => Some(*n).filter(|n| *n <= MAX_COUNT),
        Small::Number(n) if n.is_finite() && (0.0..1e12).contains(n) => Some(n.ceil() as u64),
        _ => None,
    }
}

use Seg::{At, Key};

impl Sink for UnitsMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        match path {
            [] => Want::Enter,
            [Key("usage" | "usage_info" | "error")] => Want::Raw(MAX_RAW),
            [Key("model" | "id" | "type" | "duration" | "service_tier" | "code")] => Want::Enter,
            [Key("text" | "delta")] if kind == Kind::String => want_text(&self.obs),
            [Key("data")] if kind == Kind::Array => Want::Enter,
            [Key("data"), At(_)] => {
                self.images = self.images.saturating_add(1);
                Want::Skip
            }
            [Key("document_annotation")] => {
                self.annotated |= kind != Kind::Scalar;
                Want::Skip
            }
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match path {
            [Key("model")] => self.obs.model = word(text.text),
            [Key("id")] => self.obs.response_id = word(text.text),
            [Key("service_tier")] => self.obs.service_tier = word(text.text),
            [Key("type")] => self.event = text.text.to_owned(),
            [Key("duration")] => {
                self.seconds = text.text.parse::<f64>().ok().and_then(|n| whole_seconds(&Small::Number(n)))
            }
            // Deltas come again with the event that ends a stream.
            [Key("text")] if self.event.ends_with(".done") && self.obs.output_bytes > 0 => {}
            [Key("text" | "delta")] => add_text(&mut self.obs, text),
            _ => {}
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        if path == [Key("duration")] {
            self.seconds = text.parse::<f64>().ok().and_then(|n| whole_seconds(&Small::Number(n)));
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(json) = json else {
            flag(&mut self.obs.flags, "object_too_large");
            return;
        };
        match path {
            _ if json == b"null" => {}
            [Key("error")] => self.obs.error = Some(error_type(json)),
            [Key("usage")] => self.read_usage(json),
            _ => {
                let Some(value) = Small::read(json).filter(Small::is_object) else { return };
                keep_vendor_usage(&mut self.obs, json);
                self.pages = Counts::new(&value, &mut self.obs.flags).get("pages_processed");
            }
        }
    }
}

impl Meter for UnitsMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], head: &[u8]) -> bool {
        let kind = if self.event.is_empty() { event } else { self.event.as_bytes() };
        let ends: [&[u8]; 5] = [
            b"transcript.text.done",
            b"speech.audio.done",
            b"image_generation.completed",
            b"image_edit.completed",
            b"error",
        ];
        ends.contains(&kind) || head.trim_ascii() == b"[DONE]"
    }

    fn done(&mut self, event: &[u8], head: &[u8], whole: Whole) -> bool {
        let marker = head.trim_ascii() == b"[DONE]";
        self.last |= marker || (whole == Whole::Complete && self.is_last(event, head));
        // Pieces of a transcript have ids of their own.
        if !self.event.is_empty() {
            self.obs.response_id = None;
        }
        if event == b"error" || self.event == "error" {
            self.obs.error.get_or_insert_with(|| "error".into());
        }
        self.event.clear();
        false
    }

    fn observe(&mut self, mut seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        if self.opaque && !seen.streamed && seen.status < 400 {
            seen.whole = Whole::Complete;
        }
        let complete = if seen.streamed { self.last } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete && (!self.opaque || seen.end == crate::dialect::End::Complete));
        let mut usage = std::mem::take(&mut self.usage);
        if usage.is_empty()
            && let Some(seconds) = self.seconds
        {
            usage.set(Component::InputAudioSeconds, seconds);
        }
        if let Some(pages) = self.pages {
            usage.set(Component::InputDocumentPages, pages);
            if self.annotated {
                usage.set(Component::InputAnnotatedDocumentPages, pages);
            }
        }
        if usage.is_empty() && self.images > 0 && obs.vendor_cost.is_none() {
            flag(&mut obs.flags, "billed_by_image");
        }
        if let Some(tier) = &obs.service_tier {
            obs.price_context.insert("service_tier".into(), tier.clone());
        }
        obs.usage = (!usage.is_empty() && obs.verdict != Verdict::Error).then_some(usage);
        // Recognised text is no generated text that would have to be counted.
        obs.usage_missing = false;
        obs
    }
}
