//! Reads answers of Anthropic's messages, and of the old complete endpoint.
//!
//! A stream states usage twice: `message_start` has the input and a placeholder for the output, `message_delta` has
//! cumulative counts that win where they differ (provider-usage 5.2, 2026-11-23). Until a `message_delta` came, the
//! output is unknown, not the placeholder: [`Observation::usage_missing`] is set and only the input is given.

use crate::dialect::counts::{Counts, at, flag, text as text_at};
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, error_type, keep_vendor_usage, output_so_far, verdict, want_text, word,
};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{Observation, Verdict};
use crate::domain::{Component, Usage};

/// Side calls (compaction, advisor) read of one answer.
const MAX_SIDE: usize = 256;

const NAMES: &[&str] = &[
    // Bedrock's own counts, for the meter around this one.
    "amazon-bedrock-invocationMetrics",
    "completion",
    "content",
    "content_block",
    "delta",
    "error",
    "id",
    "message",
    "model",
    "name",
    "partial_json",
    "stop_reason",
    "text",
    "thinking",
    "type",
    "usage",
];

/// Counts as Anthropic states them: exclusive of each other.
#[derive(Clone, Copy, Debug, Default)]
struct Stated {
    input: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    written_5m: Option<u64>,
    written_1h: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
    searches: Option<u64>,
}

impl Stated {
    fn of(value: &Small, flags: &mut Vec<&'static str>) -> Stated {
        let mut c = Counts::new(value, flags);
        Stated {
            input: c.get("input_tokens"),
            read: c.get("cache_read_input_tokens"),
            written: c.get("cache_creation_input_tokens"),
            written_5m: c.get("cache_creation.ephemeral_5m_input_tokens"),
            written_1h: c.get("cache_creation.ephemeral_1h_input_tokens"),
            output: c.get("output_tokens"),
            thinking: c.get("output_tokens_details.thinking_tokens"),
            searches: c.get("server_tool_use.web_search_requests"),
        }
    }

    /// Later counts win, field by field.
    fn overlay(self, later: Stated) -> Stated {
        Stated {
            input: later.input.or(self.input),
            read: later.read.or(self.read),
            written: later.written.or(self.written),
            written_5m: later.written_5m.or(self.written_5m),
            written_1h: later.written_1h.or(self.written_1h),
            output: later.output.or(self.output),
            thinking: later.thinking.or(self.thinking),
            searches: later.searches.or(self.searches),
        }
    }

    /// In our words: inclusive. Writes that no lifetime was stated for are 5-minute ones, the default.
    fn usage(self) -> Option<Usage> {
        let mut usage = Usage::new();
        let split = self.written_5m.unwrap_or(0).saturating_add(self.written_1h.unwrap_or(0));
        let written = self.written.map(|w| w.max(split)).or((split > 0).then_some(split));
        if let Some(input) = self.input {
            let all = input.saturating_add(self.read.unwrap_or(0)).saturating_add(written.unwrap_or(0));
            usage.set(Component::InputTokens, all);
        }
        let mut set = |component, count: Option<u64>| {
            if let Some(n) = count {
                usage.set(component, n);
            }
        };
        set(Component::CacheReadTokens, self.read);
        set(Component::CacheWriteTokens, written);
        set(Component::CacheWrite5mTokens, written.map(|w| w - self.written_1h.unwrap_or(0).min(w)));
        set(Component::CacheWrite1hTokens, self.written_1h);
        set(Component::OutputTokens, self.output);
        set(Component::OutputReasoningTokens, self.thinking.map(|t| t.min(self.output.unwrap_or(t))));
        set(Component::WebSearches, self.searches.filter(|n| *n > 0));
        (!usage.is_empty()).then_some(usage)
    }
}

/// A content block, as far as it is a call.
#[derive(Default)]
struct Block {
    kind: String,
    name: Option<String>,
}

/// The meter of one answer.
#[derive(Default)]
pub struct MessagesMeter {
    /// The old endpoint never states usage.
    legacy: bool,
    obs: Observation,
    event_type: String,
    start: Stated,
    delta: Option<Stated>,
    /// The `message` object of `message_start` is being read, not a whole body.
    in_start: bool,
    block: Block,
    stopped: bool,
}

impl MessagesMeter {
    pub fn new(legacy: bool) -> MessagesMeter {
        MessagesMeter { legacy, ..MessagesMeter::default() }
    }

    fn read_usage(&mut self, json: &[u8], start: bool) {
        let Some(value) = Small::read(json) else { return };
        if !value.is_object() {
            return;
        }
        keep_vendor_usage(&mut self.obs, json);
        let stated = Stated::of(&value, &mut self.obs.flags);
        if start {
            self.start = stated;
        } else {
            self.delta = Some(self.delta.unwrap_or_default().overlay(stated));
        }
        for name in ["service_tier", "speed", "inference_geo"] {
            if let Some(word) = text_at(&value, name) {
                self.obs.price_context.insert(name.into(), word);
            }
        }
        if let Some(tier) = self.obs.price_context.get("service_tier") {
            self.obs.service_tier = Some(tier.clone());
        }
        if let Some(iterations) = at(&value, "iterations").and_then(Small::as_array) {
            self.read_iterations(iterations);
        }
    }

    /// Compaction and advisors are billed but are not in the top level (provider-usage 5.3).
    fn read_iterations(&mut self, iterations: &[Small]) {
        self.obs.side_usage.clear();
        for iteration in iterations.iter().take(MAX_SIDE) {
            let kind = at(iteration, "type").and_then(Small::as_str);
            if !matches!(kind, Some("compaction" | "advisor_message")) {
                continue;
            }
            if let Some(usage) = Stated::of(iteration, &mut self.obs.flags).usage() {
                self.obs.side_usage.push((text_at(iteration, "model"), usage));
            }
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        match block.kind.as_str() {
            "tool_use" => add_tool(&mut self.obs, block.name.as_deref()),
            "server_tool_use" | "mcp_tool_use" => {
                self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
            }
            _ => {}
        }
    }
}

use Seg::{At, Key};

/// The path inside a message, for the body itself and for `message` of `message_start`.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [Key("message"), rest @ ..] => rest,
        _ => path,
    }
}

impl Sink for MessagesMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        if path == [Key("message")] {
            self.in_start = true;
        }
        match inner(path) {
            [] | [Key("content")] | [Key("delta")] => Want::Enter,
            [Key("usage" | "error")] => Want::Raw(MAX_RAW),
            [Key("type" | "id" | "model" | "stop_reason")] | [Key("delta"), Key("stop_reason")] => Want::Enter,
            [Key("content"), At(_)] | [Key("content_block")] => {
                self.block = Block::default();
                Want::Enter
            }
            [Key("content"), At(_), Key("type" | "name")] | [Key("content_block"), Key("type" | "name")] => Want::Enter,
            [Key("content"), At(_), Key("text" | "thinking")]
            | [Key("content_block"), Key("text" | "thinking")]
            | [Key("delta"), Key("text" | "thinking" | "partial_json")]
            | [Key("completion")]
                if !container =>
            {
                want_text(&self.obs)
            }
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match (path, inner(path)) {
            ([Key("type")], _) => self.event_type = text.text.to_string(),
            (_, [Key("id")]) if self.obs.response_id.is_none() => self.obs.response_id = word(text.text),
            (_, [Key("model")]) => self.obs.model = word(text.text).or(self.obs.model.take()),
            (_, [Key("stop_reason")] | [Key("delta"), Key("stop_reason")]) => {
                self.obs.finish_reason_raw = word(text.text);
            }
            (_, [Key("content"), At(_), Key("type")] | [Key("content_block"), Key("type")]) => {
                self.block.kind = text.text.to_string();
            }
            (_, [Key("content"), At(_), Key("name")] | [Key("content_block"), Key("name")]) => {
                self.block.name = word(text.text);
            }
            (_, [Key("id" | "type")]) => {}
            _ => add_text(&mut self.obs, text),
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
            _ => self.read_usage(json, path.first() == Some(&Key("message"))),
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [Key("content"), At(_)] | [Key("content_block")] = inner(path) {
            self.end_block();
        }
    }
}

impl Meter for MessagesMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], _: &[u8]) -> bool {
        let kind = if self.event_type.is_empty() { event } else { self.event_type.as_bytes() };
        let finished = self.obs.finish_reason_raw.is_some();
        matches!(kind, b"message_stop" | b"error") || (self.legacy && kind == b"completion" && finished)
    }

    fn done(&mut self, event: &[u8], _: &[u8], _: Whole) -> bool {
        let last = self.is_last(event, b"");
        let kind = std::mem::take(&mut self.event_type);
        if kind == "error" || event == b"error" {
            self.obs.error.get_or_insert_with(|| "error".into());
        } else {
            self.stopped |= last;
        }
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        obs.finish_reason = obs.finish_reason_raw.as_deref().map(finish_reason);
        let complete = if seen.streamed { self.stopped } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        let stated = match self.delta {
            Some(delta) => self.start.overlay(delta),
            None => {
                if self.start.output.is_some() {
                    flag(&mut obs.flags, "output_placeholder");
                }
                Stated { output: None, thinking: None, ..self.start }
            }
        };
        obs.usage = stated.usage().filter(|_| !self.legacy);
        let counted = obs.usage.as_ref().is_some_and(|u| u.get(Component::OutputTokens).is_some());
        obs.usage_missing = !counted && seen.status < 400;
        if obs.verdict == Verdict::Error && obs.usage.is_none() && !seen.streamed {
            obs.usage_missing = false;
        }
        obs
    }
}

fn finish_reason(raw: &str) -> &'static str {
    match raw {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "pause_turn" => "pause",
        "refusal" => "refusal",
        _ => "other",
    }
}
