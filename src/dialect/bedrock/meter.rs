//! Reads answers of Bedrock: those of `converse`, and of `invoke` in the native shape of each vendor.
//!
//! A stream's frames are named (`converse-stream`), or are all `chunk` with the vendor's own event inside (`invoke`);
//! Amazon's models put the name of the converse event around it. The last frame has the usage.

use http::HeaderMap;

use super::usage::Stated;
use crate::dialect::counts::flag;
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, keep_vendor_usage, output_so_far, verdict, want_text, word,
};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{End, Observation, Verdict};
use crate::domain::Usage;

/// Bedrock's own counts beside the vendor's event.
pub(super) const METRICS: &str = "amazon-bedrock-invocationMetrics";

const NAMES: &[&str] = &[
    "amazon-bedrock-invocationMetrics",
    "choices",
    "completion",
    "completionReason",
    "completions",
    "content",
    "contentBlockDelta",
    "contentBlockStart",
    "data",
    "delta",
    "finishReason",
    "finish_reason",
    "generation",
    "generation_token_count",
    "generations",
    "id",
    "input",
    "inputTextTokenCount",
    "latency",
    "message",
    "messageStart",
    "messageStop",
    "metadata",
    "model",
    "name",
    "output",
    "outputText",
    "outputs",
    "performanceConfig",
    "prompt_token_count",
    "reason",
    "reasoningContent",
    "reasoningText",
    "results",
    "serviceTier",
    "start",
    "stopReason",
    "stop_reason",
    "text",
    "tokenCount",
    "toolUse",
    "totalOutputTextTokenCount",
    "type",
    "usage",
];

/// The meter of one answer.
#[derive(Default)]
pub(super) struct BedrockMeter {
    obs: Observation,
    /// By the body, by Bedrock's metrics, by its headers.
    stated: Stated,
    metered: Stated,
    /// Only input is billed.
    vectors: bool,
    results: Option<u64>,
    tool: Option<String>,
    /// The event under way has what ends a stream.
    last: bool,
    /// It came whole.
    ended: bool,
    broke: bool,
}

impl BedrockMeter {
    pub fn new(headers: &HeaderMap, vectors: bool) -> BedrockMeter {
        let mut meter = BedrockMeter { metered: Stated::headers(headers), vectors, ..BedrockMeter::default() };
        meter.obs.error = error_of(headers);
        meter
    }
}

/// The type in `x-amzn-errortype`, without the address behind it.
pub(super) fn error_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-amzn-errortype")?.to_str().ok()?;
    word(text.split([':', ',']).next().unwrap_or(text))
}

use Seg::{At, Key};

/// The path inside a converse event that Amazon's models put their events in.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [Key("messageStart" | "contentBlockStart" | "contentBlockDelta" | "messageStop" | "metadata"), rest @ ..] => {
            rest
        }
        _ => path,
    }
}

impl Sink for BedrockMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match inner(path) {
            [] => Want::Enter,
            [Key(METRICS | "usage")] => {
                // Amazon's models state usage in their last event, `metadata`; the others' metrics come with theirs.
                self.last |= path != [Key("usage")];
                Want::Raw(MAX_RAW)
            }
            // Converse: a message, or its events.
            [Key("output" | "start" | "delta")] | [Key("output"), Key("message")] if container => Want::Enter,
            [Key("output"), Key("message"), Key("content")] => Want::Enter,
            [Key("output"), Key("message"), Key("content"), At(_)] => Want::Enter,
            [Key("output"), Key("message"), Key("content"), At(_), part @ ..] | [Key("start" | "delta"), part @ ..] => {
                self.part(part, container)
            }
            [Key("serviceTier")] | [Key("serviceTier"), Key("type")] => Want::Enter,
            [Key("performanceConfig")] | [Key("performanceConfig"), Key("latency")] => Want::Enter,
            // The vendors' own shapes.
            [Key("id" | "model" | "stopReason" | "stop_reason" | "finish_reason" | "completionReason")] => Want::Enter,
            [
                Key(
                    "inputTextTokenCount"
                    | "totalOutputTextTokenCount"
                    | "prompt_token_count"
                    | "generation_token_count",
                ),
            ] => Want::Enter,
            [Key("outputText" | "generation" | "completion" | "text")] if !container => want_text(&self.obs),
            [Key("results" | "outputs" | "generations" | "completions" | "choices")] => Want::Enter,
            [Key("results" | "outputs" | "generations" | "completions" | "choices"), At(_)] => Want::Enter,
            [Key("results" | "outputs" | "generations" | "completions" | "choices"), At(_), rest @ ..] => match rest {
                [Key("outputText" | "text")] if !container => want_text(&self.obs),
                [Key("data")] => Want::Enter,
                [Key("data"), Key("text")] => want_text(&self.obs),
                [Key("tokenCount" | "completionReason" | "stop_reason" | "finish_reason" | "finishReason")] => {
                    Want::Enter
                }
                [Key("finishReason"), Key("reason")] => Want::Enter,
                _ => Want::Skip,
            },
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match inner(path) {
            [Key("id")] if self.obs.response_id.is_none() => self.obs.response_id = word(text.text),
            [Key("id")] => {}
            [Key("model")] => self.obs.model = word(text.text),
            [
                ..,
                Key("stopReason" | "stop_reason" | "finish_reason" | "completionReason" | "finishReason" | "reason"),
            ] => {
                self.obs.finish_reason_raw = word(text.text).or(self.obs.finish_reason_raw.take());
            }
            [Key("serviceTier"), _] => self.obs.service_tier = word(text.text),
            [Key("performanceConfig"), _] => {
                if let Some(latency) = word(text.text) {
                    self.obs.price_context.insert("latency".into(), latency);
                }
            }
            [.., Key("toolUse"), Key("name")] => self.tool = word(text.text),
            [.., Key("toolUse"), Key("type")] => {
                // Run by the provider: not a call for the client.
                if text.text == "server_tool_use" {
                    self.tool = None;
                    self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
                }
            }
            _ => add_text(&mut self.obs, text),
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        let n = text.parse::<u64>().ok().filter(|n| *n <= crate::dialect::counts::MAX_COUNT);
        let Some(n) = n else {
            if text != "null" {
                flag(&mut self.obs.flags, crate::dialect::counts::BAD_COUNT);
            }
            return;
        };
        match inner(path) {
            [Key("inputTextTokenCount" | "prompt_token_count")] => self.stated.input = Some(n),
            [Key("totalOutputTextTokenCount" | "generation_token_count")] => self.stated.output = Some(n),
            // Titan counts each of its answers.
            [.., Key("tokenCount")] => self.results = Some(self.results.unwrap_or(0).saturating_add(n)),
            _ => {}
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(json) = json else {
            flag(&mut self.obs.flags, "object_too_large");
            return;
        };
        match inner(path) {
            [Key(METRICS)] => {
                if let Some(value) = Small::read(json).filter(Small::is_object) {
                    self.metered = Stated::metrics(&value, &mut self.obs.flags);
                }
            }
            [Key("usage")] => {
                let Some(value) = Small::read(json).filter(Small::is_object) else { return };
                keep_vendor_usage(&mut self.obs, json);
                self.stated = self.stated.overlay(Stated::usage_object(&value, &mut self.obs.flags));
            }
            // What a tool is called with.
            _ => {
                let text = String::from_utf8_lossy(json);
                add_text(&mut self.obs, Text { text: &text, bytes: json.len() as u64 });
            }
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [.., Key("toolUse")] = inner(path)
            && let Some(name) = self.tool.take()
        {
            add_tool(&mut self.obs, Some(&name));
        }
    }
}

impl BedrockMeter {
    fn part(&mut self, part: &[Seg], container: bool) -> Want {
        match part {
            [Key("text")] if !container => want_text(&self.obs),
            [Key("reasoningContent" | "toolUse")] | [Key("reasoningContent"), Key("reasoningText")] => Want::Enter,
            [Key("reasoningContent"), .., Key("text")] if !container => want_text(&self.obs),
            [Key("toolUse"), Key("name" | "type")] => Want::Enter,
            [Key("toolUse"), Key("input")] if container => Want::Raw(MAX_RAW),
            [Key("toolUse"), Key("input")] => want_text(&self.obs),
            _ => Want::Skip,
        }
    }
}

impl Meter for BedrockMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], _: &[u8]) -> bool {
        event == b"metadata" || event.first() == Some(&b'!') || (event == b"chunk" && self.last)
    }

    fn done(&mut self, event: &[u8], _: &[u8], whole: Whole) -> bool {
        if let Some(name) = event.strip_prefix(b"!") {
            self.obs.error = word(&String::from_utf8_lossy(name));
            self.broke = true;
        }
        self.ended |= self.is_last(event, b"") && whole == Whole::Complete;
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        if self.stated.output.is_none() {
            self.stated.output = self.results;
        }
        obs.finish_reason = obs.finish_reason_raw.as_deref().and_then(finish_reason);
        if obs.finish_reason == Some("stop")
            && obs.tools_called > 0
            && obs.finish_reason_raw.as_deref() == Some("tool_use")
        {
            obs.finish_reason = Some("tool_calls");
        }
        if seen.status < 400 && !self.broke {
            obs.error = None;
        }
        let complete = if seen.streamed { self.ended } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        book(&mut obs, self.stated, self.metered, &seen, self.vectors);
        obs
    }
}

/// What is booked: by the body, where Bedrock's own metering, by which it bills, does not say otherwise.
pub(super) fn book(obs: &mut Observation, stated: Stated, metered: Stated, seen: &Seen, vectors: bool) {
    if seen.status >= 400 {
        obs.usage = None;
        return;
    }
    let differs = |a: Option<u64>, b: Option<u64>| a.is_some() && b.is_some() && a != b;
    if differs(stated.input, metered.input) || differs(stated.output, metered.output) {
        flag(&mut obs.flags, "metrics_differ");
    }
    obs.usage = stated.overlay(metered).usage(&mut obs.flags);
    finish(obs, seen, vectors);
}

/// Whether something is missing, and the tier.
pub(super) fn finish(obs: &mut Observation, seen: &Seen, vectors: bool) {
    use crate::domain::Component::{InputTokens, OutputTokens};
    let has = |usage: &Option<Usage>, c| usage.as_ref().is_some_and(|u| u.get(c).is_some());
    let whole = if vectors { has(&obs.usage, InputTokens) } else { has(&obs.usage, OutputTokens) };
    obs.usage_missing = !whole && !(obs.verdict == Verdict::Error && !seen.streamed);
    if seen.end != End::Complete && seen.streamed && obs.verdict == Verdict::Ok && !whole {
        obs.verdict = Verdict::Truncated;
    }
    if let Some(tier) = &obs.service_tier {
        obs.price_context.insert("service_tier".into(), tier.clone());
    }
}

/// One spelling for the reasons of all vendors.
pub(super) fn finish_reason(raw: &str) -> Option<&'static str> {
    Some(match raw.to_ascii_lowercase().as_str() {
        "" => return None,
        "end_turn" | "stop_sequence" | "stop" | "finish" | "complete" | "endoftext" | "eos" | "stop_criteria_met" => {
            "stop"
        }
        "max_tokens" | "length" | "model_context_window_exceeded" => "length",
        "tool_use" | "tool_call" | "tool_calls" => "tool_calls",
        "guardrail_intervened" | "content_filtered" | "content_filter" | "error_toxic" => "content_filter",
        "malformed_model_output" | "malformed_tool_use" | "error" => "error",
        "refusal" => "refusal",
        _ => "other",
    })
}
