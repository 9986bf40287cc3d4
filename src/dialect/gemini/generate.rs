//! Reads answers of `generateContent` and `streamGenerateContent`: one response, events, or the elements of one array.
//!
//! The finish reason stays `STOP` where a function is to be called, so that is derived from the parts. No event says that
//! it is the last one: the one with a finish reason may be, and its end waits for what comes next.

use super::usage::Stated;
use crate::dialect::counts::flag;
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, error_type, keep_vendor_usage, output_so_far, verdict, want_text, word,
};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{End, Observation, Verdict};
use crate::domain::Component;

const NAMES: &[&str] = &[
    "args",
    "blockReason",
    "candidates",
    "code",
    "content",
    "error",
    "executableCode",
    "finishReason",
    "functionCall",
    "groundingChunks",
    "groundingMetadata",
    "maps",
    "modelVersion",
    "name",
    "partialArgs",
    "parts",
    "promptFeedback",
    "queries",
    "responseId",
    "stringValue",
    "text",
    "toolCall",
    "toolType",
    "usageMetadata",
    "webSearchQueries",
];

/// Finish reasons by number, as Vertex's SDK over REST asks for them.
const FINISH: [&str; 10] = [
    "",
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "OTHER",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MALFORMED_FUNCTION_CALL",
];

/// A tool that Google ran itself, in the parts of the answer.
#[derive(Default)]
struct ToolCall {
    kind: String,
    queries: u64,
}

/// The meter of one answer.
#[derive(Default)]
pub(super) struct GenerateMeter {
    obs: Observation,
    stated: Option<Stated>,
    /// The model asked for: how searches are billed depends on it where the answer does not name its own.
    asked: Option<String>,
    blocked: Option<String>,
    call: Option<String>,
    tool: ToolCall,
    /// Queries of the grounding, stated once or again with later chunks, and those of search tools.
    grounded: u64,
    tool_queries: u64,
    queries: u64,
}

impl GenerateMeter {
    pub fn new(model: Option<&str>, headers: &http::HeaderMap) -> GenerateMeter {
        let mut meter = GenerateMeter { asked: model.map(str::to_owned), ..GenerateMeter::default() };
        meter.obs.service_tier =
            headers.get("x-gemini-service-tier").and_then(|v| v.to_str().ok()).and_then(word).map(|t| t.to_lowercase());
        meter
    }

    fn ended(&self) -> bool {
        self.obs.finish_reason_raw.is_some() || self.blocked.is_some()
    }

    fn searches(&self) -> u64 {
        let queries = self.grounded.max(self.tool_queries);
        let model = self.obs.model.as_deref().or(self.asked.as_deref()).unwrap_or_default();
        // Up to Gemini 2.5 a grounded request is billed, from Gemini 3 on each query.
        if generation(model) >= 3 { queries } else { queries.min(1) }
    }
}

/// The number behind `gemini-`: 2 of `gemini-2.5-pro`. A name without one (`gemini-pro-latest`) is of the newest.
fn generation(model: &str) -> u64 {
    let Some(rest) = model.rsplit('/').next().and_then(|m| m.strip_prefix("gemini-")) else { return u64::MAX };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(u64::MAX)
}

use Seg::{At, Key};

/// The path inside a response: an error may be the only element of an array.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [At(_), rest @ ..] => rest,
        _ => path,
    }
}

impl Sink for GenerateMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match inner(path) {
            [] | [Key("candidates" | "promptFeedback")] | [Key("candidates"), At(_)] => Want::Enter,
            [Key("usageMetadata" | "error")] => Want::Raw(MAX_RAW),
            [Key("modelVersion" | "responseId")] | [Key("promptFeedback"), Key("blockReason")] => Want::Enter,
            [Key("candidates"), At(_), rest @ ..] => match rest {
                [Key("finishReason" | "content" | "groundingMetadata")] | [Key("content"), Key("parts")] => Want::Enter,
                [Key("content"), Key("parts"), At(_)] => Want::Enter,
                [Key("content"), Key("parts"), At(_), part @ ..] => self.part(part, container),
                [Key("groundingMetadata"), Key("webSearchQueries")] => {
                    self.queries = 0;
                    Want::Enter
                }
                [Key("groundingMetadata"), Key("webSearchQueries"), At(_)] => Want::Text(1),
                [Key("groundingMetadata"), Key("groundingChunks")] => Want::Enter,
                [Key("groundingMetadata"), Key("groundingChunks"), At(_)] => Want::Enter,
                [Key("groundingMetadata"), Key("groundingChunks"), At(_), Key("maps")] => {
                    // Billed by itself, but no price list has it.
                    flag(&mut self.obs.flags, "grounded_with_maps");
                    Want::Skip
                }
                _ => Want::Skip,
            },
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match inner(path) {
            [Key("modelVersion")] => self.obs.model = word(text.text).or(self.obs.model.take()),
            [Key("responseId")] if self.obs.response_id.is_none() => self.obs.response_id = word(text.text),
            [Key("responseId")] => {}
            [Key("promptFeedback"), _] => self.blocked = word(text.text),
            [_, _, Key("finishReason")] => {
                if let Some(reason) = word(text.text).filter(|r| r != "FINISH_REASON_UNSPECIFIED") {
                    self.obs.finish_reason_raw = Some(reason);
                }
            }
            [.., Key("functionCall"), Key("name")] => self.call = word(text.text),
            [.., Key("toolCall"), Key("toolType")] => self.tool.kind = text.text.to_owned(),
            [.., Key("webSearchQueries"), At(_)] => self.queries += u64::from(text.bytes > 0),
            [.., Key("queries"), At(_)] => self.tool.queries += u64::from(text.bytes > 0),
            _ => add_text(&mut self.obs, text),
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        if let [_, _, Key("finishReason")] = inner(path) {
            let reason = text.parse().ok().and_then(|n: usize| FINISH.get(n).copied().or(Some("OTHER")));
            if let Some(reason) = reason.filter(|r| !r.is_empty()) {
                self.obs.finish_reason_raw = Some(reason.to_owned());
            }
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(json) = json else {
            flag(&mut self.obs.flags, "object_too_large");
            return;
        };
        match inner(path) {
            _ if json == b"null" => {}
            [Key("error")] => self.obs.error = Some(error_type(json)),
            [Key("usageMetadata")] => {
                let Some(value) = Small::read(json).filter(Small::is_object) else { return };
                keep_vendor_usage(&mut self.obs, json);
                let later = Stated::metadata(&value, &mut self.obs.flags);
                self.stated = Some(self.stated.take().unwrap_or_default().overlay(later));
            }
            // The arguments of a call, which the model wrote.
            _ => {
                let text = String::from_utf8_lossy(json);
                add_text(&mut self.obs, Text { text: &text, bytes: json.len() as u64 });
            }
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        match inner(path) {
            [.., Key("functionCall")] => {
                // A call that arrives in pieces names itself once.
                if let Some(name) = self.call.take() {
                    add_tool(&mut self.obs, Some(&name));
                }
            }
            [.., Key("toolCall")] => {
                let tool = std::mem::take(&mut self.tool);
                self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
                if tool.kind.starts_with("GOOGLE_SEARCH") {
                    self.tool_queries = self.tool_queries.saturating_add(tool.queries.max(1));
                }
            }
            [.., Key("groundingMetadata"), Key("webSearchQueries")] => self.grounded = self.grounded.max(self.queries),
            _ => {}
        }
    }
}

impl GenerateMeter {
    fn part(&mut self, part: &[Seg], container: bool) -> Want {
        match part {
            [Key("text")] if !container => want_text(&self.obs),
            [Key("functionCall" | "toolCall" | "executableCode")] => {
                if part == [Key("executableCode")] {
                    self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
                }
                Want::Enter
            }
            [Key("executableCode"), Key("code")] => want_text(&self.obs),
            [Key("functionCall"), Key("name")] => Want::Enter,
            [Key("functionCall"), Key("args")] => Want::Raw(MAX_RAW),
            [Key("functionCall"), Key("partialArgs")] => Want::Enter,
            [Key("functionCall"), Key("partialArgs"), At(_)] => Want::Enter,
            [Key("functionCall"), Key("partialArgs"), At(_), Key("stringValue")] => want_text(&self.obs),
            [Key("toolCall"), Key("toolType" | "args")] => Want::Enter,
            [Key("toolCall"), Key("args"), Key("queries")] => Want::Enter,
            [Key("toolCall"), Key("args"), Key("queries"), At(_)] => Want::Text(1),
            _ => Want::Skip,
        }
    }
}

impl Meter for GenerateMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn may_be_last(&self) -> bool {
        self.ended() || self.obs.error.is_some()
    }

    fn done(&mut self, _: &[u8], _: &[u8], _: Whole) -> bool {
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let searches = self.searches();
        let ended = self.ended();
        let mut obs = std::mem::take(&mut self.obs);
        let whole = seen.whole != Whole::Partial || seen.closed;
        let complete = if seen.streamed { ended && whole } else { seen.whole == Whole::Complete };
        obs.finish_reason = match (&obs.finish_reason_raw, &self.blocked) {
            (Some(raw), _) => Some(finish_reason(raw, obs.tools_called > 0)),
            (None, Some(_)) => Some("content_filter"),
            (None, None) => None,
        };
        obs.finish_reason_raw = obs.finish_reason_raw.or(self.blocked.take());
        obs.verdict = verdict(&mut obs, &seen, complete);
        if let Some(stated) = self.stated.take() {
            let finished = ended || (!seen.streamed && seen.end == End::Complete);
            obs.usage = stated.usage(finished, &mut obs.flags);
            super::tier(&mut obs, &stated);
        }
        if let Some(usage) = obs.usage.as_mut().filter(|_| searches > 0) {
            usage.set(Component::WebSearches, searches);
        }
        let counted = obs.usage.as_ref().is_some_and(|u| u.get(Component::OutputTokens).is_some());
        let failed = obs.verdict == Verdict::Error && obs.usage.is_none() && obs.output_bytes == 0;
        obs.usage_missing = !counted && seen.status < 400 && !failed;
        obs
    }
}

fn finish_reason(raw: &str, calls: bool) -> &'static str {
    match raw {
        "STOP" if calls => "tool_calls",
        "STOP" => "stop",
        "MAX_TOKENS" => "length",
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "MODEL_ARMOR"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => "content_filter",
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE" => "error",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_billed_by_the_generation_of_the_model() {
        for (model, n) in [
            ("gemini-2.5-pro", 2),
            ("gemini-3-flash-preview", 3),
            ("models/gemini-2.0-flash", 2),
            ("gemini-pro-latest", u64::MAX),
            ("gemini-10-x", 10),
        ] {
            assert_eq!(generation(model), n, "{model}");
        }
    }
}
