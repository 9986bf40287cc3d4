//! Reads answers of chat/completions, completions and embeddings: whole, or as chunks.
//!
//! A chunk's `choices[].delta` is a body's `choices[].message`, so that one reader serves both. Look-alikes add their
//! own places for usage: `x_groq.usage`, `choices[0].usage` (Moonshot), every chunk (Perplexity, always cumulative).
//! The last one wins; nothing is ever summed over chunks.

use std::collections::BTreeSet;

use super::usage;
use crate::dialect::counts::flag;
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, error_type, keep_vendor_usage, output_so_far, want_text, word,
};
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{End, Observation, Verdict};
use crate::domain::{Component, Usage};

/// Tool calls told apart within one answer.
const MAX_TOOLS: usize = 4096;

const NAMES: &[&str] = &[
    // Bedrock's own counts, for the meter around this one.
    "amazon-bedrock-invocationMetrics",
    "arguments",
    "choices",
    "content",
    "custom",
    "delta",
    "detail",
    "error",
    "executed_tools",
    "finish_reason",
    "function",
    "function_call",
    "id",
    "index",
    "input",
    "message",
    "model",
    "name",
    "reasoning",
    "reasoning_content",
    "refusal",
    "service_tier",
    "text",
    "thinking",
    "tool_calls",
    "usage",
    "usage_breakdown",
    "value",
    "x_groq",
];

/// A piece of a tool call: its place may be told after its name.
#[derive(Default)]
struct ToolPiece {
    position: u32,
    index: Option<u32>,
    id: Option<String>,
    name: Option<String>,
}

/// The meter of one answer.
#[derive(Default)]
pub struct ChatMeter {
    /// Whether a success without usage is a gap: false for paths that cost nothing.
    metered: bool,
    obs: Observation,
    usage: Option<Usage>,
    breakdown: Option<Usage>,
    /// Raw usage objects of the event, in order: read when its model is known.
    pending: Vec<Vec<u8>>,
    choice: u32,
    tools: Vec<ToolPiece>,
    legacy_call: Option<String>,
    /// Tool calls that have been counted: choice and index, or choice and id.
    seen: BTreeSet<(u32, u64)>,
    executed: BTreeSet<(u32, u32)>,
    event_has_choice: bool,
    event_has_usage: bool,
    finished: bool,
    done: bool,
    tiered: bool,
}

impl ChatMeter {
    pub fn new(metered: bool) -> ChatMeter {
        ChatMeter { metered, ..ChatMeter::default() }
    }

    fn end_choice(&mut self) {
        for tool in std::mem::take(&mut self.tools) {
            // A server without indexes tells pieces apart by id; without both, by position.
            let key = match (tool.index, &tool.id) {
                (Some(index), _) => u64::from(index),
                (None, Some(id)) => 1 << 63 | id_hash(id),
                (None, None) => u64::from(tool.position),
            };
            if self.seen.len() < MAX_TOOLS && self.seen.insert((self.choice, key)) {
                add_tool(&mut self.obs, tool.name.as_deref());
            }
        }
        // Snowflake sends the object with empty texts where there is no call; a stream names it once.
        if let Some(name) = self.legacy_call.take()
            && self.seen.insert((self.choice, u64::MAX))
        {
            add_tool(&mut self.obs, Some(&name));
        }
        self.choice = 0;
    }

    /// The last one counts; a few before it are kept in case it cannot be read.
    fn note_usage(&mut self, json: Vec<u8>) {
        if self.pending.len() == 4 {
            self.pending.remove(0);
        }
        self.pending.push(json);
    }

    fn read_usage(&mut self) {
        for json in std::mem::take(&mut self.pending) {
            let model = self.obs.model.clone();
            if let Some(usage) = usage::read(&json, model.as_deref(), &mut self.obs) {
                keep_vendor_usage(&mut self.obs, &json);
                self.usage = Some(usage);
            }
        }
    }

    fn groq(&mut self, json: &[u8]) {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return };
        if let Some(inner) = value.get("usage").filter(|u| u.is_object()) {
            self.note_usage(inner.to_string().into_bytes());
        }
        if let Some(inner) = value.get("usage_breakdown").filter(|u| u.is_object()) {
            self.breakdown = usage::breakdown(inner.to_string().as_bytes(), &mut self.obs).or(self.breakdown.take());
        }
        if value.get("error").is_some_and(|e| !e.is_null()) {
            self.obs.error.get_or_insert_with(|| "error".into());
        }
    }
}

/// FNV-1a: only tells ids of one answer apart.
fn id_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)) >> 1
}

use Seg::{At, Key};

impl Sink for ChatMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match path {
            [] => Want::Enter,
            [Key("usage" | "usage_breakdown" | "x_groq" | "error")] => Want::Raw(MAX_RAW),
            [Key("choices"), At(_), Key("usage")] => Want::Raw(MAX_RAW),
            [Key("choices"), At(_)] => {
                self.event_has_choice = true;
                Want::Enter
            }
            [Key("id" | "model" | "service_tier" | "choices" | "detail")] => Want::Enter,
            [Key("value")] => want_text(&self.obs),
            [Key("choices"), At(_), Key("text")] => want_text(&self.obs),
            [Key("choices"), At(_), Key("index" | "finish_reason" | "message" | "delta")] => Want::Enter,
            [Key("choices"), At(_), Key("message" | "delta"), rest @ ..] => match rest {
                [Key("tool_calls"), At(_)] if self.tools.len() >= MAX_TOOLS => Want::Skip,
                [Key("tool_calls"), At(n)] => {
                    self.tools.push(ToolPiece { position: *n, ..ToolPiece::default() });
                    Want::Enter
                }
                [Key("function_call")] => Want::Enter,
                [Key("executed_tools"), At(n)] => {
                    if self.executed.len() < MAX_TOOLS {
                        self.executed.insert((self.choice, *n));
                    }
                    Want::Skip
                }
                [Key("content" | "reasoning_content" | "reasoning" | "refusal" | "thinking")] if !container => {
                    want_text(&self.obs)
                }
                [Key("content"), .., Key("text" | "thinking" | "content")] if !container => want_text(&self.obs),
                [Key("content" | "tool_calls" | "executed_tools")] => Want::Enter,
                [Key("content"), ..] => Want::Enter,
                [Key("tool_calls"), At(_), Key("index" | "id" | "function" | "custom")] => Want::Enter,
                [Key("tool_calls"), At(_), Key("function" | "custom"), Key("name")] => Want::Enter,
                [Key("tool_calls"), At(_), Key("function" | "custom"), Key("arguments" | "input")] => {
                    want_text(&self.obs)
                }
                [Key("function_call"), Key("name")] => Want::Enter,
                [Key("function_call"), Key("arguments")] => want_text(&self.obs),
                _ => Want::Skip,
            },
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match path {
            [Key("id")] if self.obs.response_id.is_none() => self.obs.response_id = word(text.text),
            [Key("model")] if self.obs.model.is_none() => self.obs.model = word(text.text),
            [Key("service_tier")] => {
                if let Some(tier) = word(text.text) {
                    self.obs.service_tier = Some(tier);
                    self.tiered = true;
                }
            }
            [Key("id" | "model")] => {}
            [Key("detail")] => {
                self.obs.error.get_or_insert_with(|| "error".into());
            }
            [Key("choices"), At(_), Key("finish_reason")] => {
                self.finished = true;
                self.obs.finish_reason_raw = Some(text.text.to_string());
            }
            [Key("choices"), At(_), Key("message" | "delta"), Key("tool_calls"), At(_), rest @ ..] => {
                let Some(tool) = self.tools.last_mut() else { return };
                match rest {
                    [Key("id")] => tool.id = word(text.text),
                    [_, Key("name")] => tool.name = word(text.text),
                    _ => add_text(&mut self.obs, text),
                }
            }
            [Key("choices"), At(_), _, Key("function_call"), Key("name")] => self.legacy_call = word(text.text),
            _ => add_text(&mut self.obs, text),
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        match path {
            [Key("choices"), At(_), Key("index")] => self.choice = text.parse().unwrap_or(0),
            [Key("choices"), At(_), _, Key("tool_calls"), At(_), Key("index")] => {
                if let Some(tool) = self.tools.last_mut() {
                    tool.index = text.parse().ok();
                }
            }
            _ => {}
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(json) = json else {
            flag(&mut self.obs.flags, "object_too_large");
            return;
        };
        if json == b"null" {
            return;
        }
        match path {
            [Key("error")] => self.obs.error = Some(error_type(json)),
            [Key("x_groq")] => self.groq(json),
            [Key("usage_breakdown")] => {
                self.breakdown = usage::breakdown(json, &mut self.obs).or(self.breakdown.take());
            }
            _ => {
                self.event_has_usage |= path == [Key("usage")];
                self.note_usage(json.to_vec());
            }
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [Key("choices"), At(_)] = path {
            self.end_choice();
        }
    }
}

impl Meter for ChatMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, _: &[u8], head: &[u8]) -> bool {
        head.trim_ascii() == b"[DONE]"
    }

    fn is_ordinary(&self) -> bool {
        self.event_has_choice
    }

    fn done(&mut self, event: &[u8], head: &[u8], whole: Whole) -> bool {
        let ours = whole == Whole::Complete && self.event_has_usage && !self.event_has_choice;
        self.done |= head.trim_ascii() == b"[DONE]";
        if event == b"error" {
            self.obs.error.get_or_insert_with(|| "error".into());
        }
        self.read_usage();
        self.event_has_choice = false;
        self.event_has_usage = false;
        ours && self.obs.error.is_none()
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        self.end_choice();
        self.read_usage();
        let mut obs = std::mem::take(&mut self.obs);
        obs.server_tool_calls = self.executed.len() as u32;
        obs.usage = whole_usage(self.usage.take(), self.breakdown.take());
        // OpenAI leaves the count out where nothing was generated.
        if let Some(usage) = obs.usage.as_mut().filter(|_| self.finished && obs.output_bytes == 0)
            && usage.get(Component::OutputTokens).is_none()
        {
            usage.set(Component::OutputTokens, 0);
        }
        obs.finish_reason_raw = obs.finish_reason_raw.filter(|_| self.finished);
        obs.finish_reason = obs.finish_reason_raw.as_deref().and_then(finish_reason);
        if let Some(tier) = &obs.service_tier {
            obs.price_context.insert("service_tier".into(), tier.clone());
        }
        // A stream without its marker is whole if it finished: Perplexity, Writer and GPUStack leave the marker out.
        // One that ends inside an event is not.
        let finished =
            self.finished && seen.whole != Whole::Partial && (seen.end == End::Complete || obs.usage.is_some());
        let complete = if seen.streamed { self.done || finished } else { seen.whole == Whole::Complete };
        obs.verdict = crate::dialect::reading::verdict(&mut obs, &seen, complete);
        if obs.verdict == Verdict::Error && seen.status >= 400 {
            // What failed before it began used nothing; some servers echo ids and models in their errors.
            obs.usage = None;
        }
        if !self.metered {
            obs.usage = None;
        } else if obs.usage.is_none() && seen.status < 400 {
            obs.usage_missing = true;
        }
        searches(&mut obs);
        obs
    }
}

/// The breakdown of a compound system, unless the figure at the top already is its sum.
fn whole_usage(top: Option<Usage>, inner: Option<Usage>) -> Option<Usage> {
    let same = |a: &Usage, b: &Usage| {
        [Component::InputTokens, Component::OutputTokens].into_iter().all(|c| a.get(c) == b.get(c))
    };
    match (top, inner) {
        (Some(top), Some(inner)) if same(&top, &inner) => Some(top),
        (top, inner) => inner.or(top),
    }
}

/// Models that search on every call bill one search each and do not count it (provider-usage 2.1).
fn searches(obs: &mut Observation) {
    let searching = obs.model.as_deref().is_some_and(|m| m.contains("-search-preview"));
    if let (true, Some(usage)) = (searching, &mut obs.usage) {
        usage.set(Component::WebSearches, 1);
    }
}

/// One spelling for the reasons of all look-alikes.
fn finish_reason(raw: &str) -> Option<&'static str> {
    Some(match raw {
        "" => return None,
        "stop" | "eos" | "end_turn" | "stop_sequence" | "COMPLETE" => "stop",
        "length" | "max_tokens" | "model_length" => "length",
        "tool_calls" | "function_call" | "tool_use" => "tool_calls",
        "content_filter" => "content_filter",
        "refusal" => "refusal",
        "error" => "error",
        _ => "other",
    })
}
