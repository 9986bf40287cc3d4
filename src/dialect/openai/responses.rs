//! Reads answers of the Responses API: a whole response, a stored one, or the events of a stream.
//!
//! The terminal event (`response.completed`, `.incomplete`, `.failed`, `.cancelled`) has the whole response in it,
//! often megabytes: it is read in passing. Text comes from the deltas, items and usage from the terminal event; where
//! a stream breaks off, items come from the events that announced them.

use std::collections::BTreeMap;

use super::usage;
use crate::dialect::counts::{Counts, at, flag};
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, error_type, keep_vendor_usage, output_so_far, verdict, want_text, word,
};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{Observation, Verdict};
use crate::domain::Component;

/// Items told apart within one answer.
const MAX_ITEMS: usize = 4096;
/// Of a summary, roughly.
const BYTES_PER_TOKEN: u64 = 4;

const NAMES: &[&str] = &[
    "action",
    "arguments",
    "code",
    "content",
    "delta",
    "encrypted_content",
    "environment",
    "error",
    "id",
    "incomplete_details",
    "input",
    "item",
    "model",
    "name",
    "output",
    "output_index",
    "refusal",
    "response",
    "service_tier",
    "status",
    "summary",
    "text",
    "tool_usage",
    "type",
    "usage",
];

/// An output item, as far as it is a call.
#[derive(Clone, Default)]
struct Item {
    kind: String,
    name: Option<String>,
    /// `search`, `open_page`, …
    action: Option<String>,
    /// `local`, `container_reference`, …
    environment: Option<String>,
    refusal: bool,
    sealed: Sealed,
}

/// Reasoning that passed encrypted: only its length says how much it was.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sealed {
    characters: u64,
    /// The part of it that is envelope.
    envelope: u64,
}

impl Sealed {
    fn of(text: &Text<'_>) -> Sealed {
        // OpenAI's and Bedrock's envelopes are large, xAI's is next to nothing.
        let enveloped = text.text.starts_with("gAAAA") || text.text.starts_with("rsn_");
        Sealed { characters: text.bytes, envelope: if enveloped { 850 } else { 0 } }
    }

    /// Tokens sealed in it: one for every 6.2 characters of base64, read off the reasoning counts that vendors state
    /// beside it (OpenAI, Azure, Bedrock, xAI; recorded until 2026-11).
    fn tokens(self) -> u64 {
        if self.characters == 0 {
            0
        } else {
            (self.characters.saturating_sub(self.envelope).saturating_mul(5) / 31).max(8)
        }
    }
}

impl Item {
    /// Calls the client is to execute.
    fn is_client_call(&self) -> bool {
        match self.kind.as_str() {
            "function_call" | "custom_tool_call" | "computer_call" | "local_shell_call" | "apply_patch_call" => true,
            "shell_call" => !self.in_container(),
            _ => false,
        }
    }

    /// Calls the provider executed itself.
    fn is_server_call(&self) -> bool {
        match self.kind.as_str() {
            "web_search_call"
            | "file_search_call"
            | "code_interpreter_call"
            | "image_generation_call"
            | "mcp_call"
            | "tool_search_call" => true,
            "shell_call" => self.in_container(),
            _ => false,
        }
    }

    fn in_container(&self) -> bool {
        self.environment.as_deref().is_some_and(|e| e.starts_with("container"))
    }
}

/// The meter of one answer.
#[derive(Default)]
pub struct ResponsesMeter {
    obs: Observation,
    /// The data of the event, or the body, is the response itself, not an event around one.
    event_type: String,
    usage: Option<Vec<u8>>,
    tool_usage: Option<Vec<u8>>,
    status: Option<String>,
    incomplete: Option<String>,
    /// The item being read, and where it belongs.
    item: Item,
    output_index: Option<u64>,
    announced: BTreeMap<u64, Item>,
    /// Bytes of summaries of the reasoning; the length of the sealed reasoning stands for them too.
    summary_bytes: u64,
    bytes_before: u64,
    /// The items of the response object of this event.
    listed: Vec<Item>,
    items: Vec<Item>,
    terminal: bool,
    streamed: bool,
    /// Reasoning passed as text.
    reasoned: bool,
    /// There was reasoning of which nothing passed.
    hidden: bool,
}

impl ResponsesMeter {
    pub fn new() -> ResponsesMeter {
        ResponsesMeter::default()
    }

    fn settle_items(&mut self) {
        let items = if self.items.is_empty() {
            std::mem::take(&mut self.announced).into_values().collect()
        } else {
            std::mem::take(&mut self.items)
        };
        let mut searches = 0;
        for item in &items {
            if item.is_client_call() {
                add_tool(&mut self.obs, Some(item.name.as_deref().unwrap_or(&item.kind)));
            } else if item.is_server_call() {
                self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
                let search = item.action.as_deref().is_none_or(|a| a == "search");
                searches += u64::from(item.kind == "web_search_call" && search);
            }
        }
        let sealed: u64 = items.iter().map(|item| item.sealed.tokens()).fold(0, u64::saturating_add);
        self.obs.hidden_tokens = sealed.saturating_sub(self.summary_bytes / BYTES_PER_TOKEN);
        self.hidden = items.iter().any(|item| item.kind == "reasoning") && sealed == 0 && !self.reasoned;
        let refused = items.iter().any(|i| i.refusal);
        self.obs.finish_reason = self.finish_reason(refused);
        if let Some(usage) = &mut self.obs.usage {
            let counted = self.tool_usage.as_deref().and_then(|json| hosted_searches(json, &mut self.obs.flags));
            if let Some(n) = counted.or((searches > 0).then_some(searches)) {
                usage.set(Component::WebSearches, n);
            }
        }
    }

    fn finish_reason(&mut self, refused: bool) -> Option<&'static str> {
        let status = self.status.clone()?;
        self.obs.finish_reason_raw = Some(match (status.as_str(), &self.incomplete) {
            ("incomplete", Some(reason)) => reason.clone(),
            _ => status.clone(),
        });
        Some(match (status.as_str(), self.incomplete.as_deref()) {
            ("completed", _) if refused => "refusal",
            ("completed", _) if self.obs.tools_called > 0 => "tool_calls",
            ("completed", _) => "stop",
            ("incomplete", Some("max_output_tokens")) => "length",
            ("incomplete", Some("content_filter")) => "content_filter",
            ("failed", _) => "error",
            ("cancelled", _) => "cancelled",
            _ => "other",
        })
    }
}

/// Searches the answer counts itself: open and find actions are items too, but are not charged.
fn hosted_searches(json: &[u8], flags: &mut Vec<&'static str>) -> Option<u64> {
    let value = Small::read(json)?;
    Counts::new(&value, flags).get("web_search.num_requests")
}

/// The path inside a response object, for the body itself and for `response` of an event.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [Key("response"), rest @ ..] => rest,
        _ => path,
    }
}

use Seg::{At, Key};

impl ResponsesMeter {
    fn want_item(&self, rest: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match rest {
            [] => Want::Enter,
            [Key("type" | "name" | "action" | "environment" | "content" | "summary")] => Want::Enter,
            [Key("encrypted_content")] => Want::Text(8),
            [Key("action" | "environment"), Key("type")] => Want::Enter,
            [Key("content" | "summary"), At(_)] => Want::Enter,
            [Key("content" | "summary"), At(_), Key("type" | "refusal")] => Want::Enter,
            // In a stream the deltas have passed already.
            [Key("content" | "summary"), At(_), Key("text")] | [Key("arguments" | "input" | "code")]
                if !container && !self.streamed =>
            {
                want_text(&self.obs)
            }
            _ => Want::Skip,
        }
    }
}

impl Sink for ResponsesMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        match path {
            [Key("response")] => {
                self.streamed = true;
                return Want::Enter;
            }
            [Key("delta")] if kind == Kind::String => return want_text(&self.obs),
            [Key("type" | "output_index")] => return Want::Enter,
            [Key("id")] if self.streamed => return Want::Skip,
            [Key("item"), rest @ ..] => {
                if rest.is_empty() {
                    self.streamed = true;
                    self.item = Item::default();
                }
                return self.want_item(rest, kind);
            }
            _ => {}
        }
        match inner(path) {
            [] => Want::Enter,
            [Key("usage" | "tool_usage" | "error" | "incomplete_details")] => Want::Raw(MAX_RAW),
            [Key("id" | "model" | "status" | "service_tier" | "output")] => Want::Enter,
            [Key("output"), At(_), rest @ ..] => {
                if rest.is_empty() {
                    self.item = Item::default();
                }
                self.want_item(rest, kind)
            }
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match path {
            [Key("type")] => return self.event_type = text.text.to_string(),
            // Encrypted reasoning is no text, and audio is base64; both come under other names or are short.
            [Key("delta")] => return add_text(&mut self.obs, text),
            _ => {}
        }
        let item = match inner(path) {
            // The terminal event's id is the one under which the response is stored.
            [Key("id")] => return self.obs.response_id = word(text.text).or(self.obs.response_id.take()),
            [Key("model")] => return self.obs.model = word(text.text).or(self.obs.model.take()),
            [Key("service_tier")] => {
                return self.obs.service_tier = word(text.text).or(self.obs.service_tier.take());
            }
            [Key("status")] => return self.status = word(text.text),
            [Key("item"), rest @ ..] | [Key("output"), At(_), rest @ ..] => rest,
            _ => return,
        };
        match item {
            [Key("type")] => self.item.kind = text.text.to_string(),
            [Key("name")] => self.item.name = word(text.text),
            [Key("encrypted_content")] => self.item.sealed = Sealed::of(&text),
            [Key("action"), Key("type")] => self.item.action = word(text.text),
            [Key("environment"), Key("type")] => self.item.environment = word(text.text),
            [Key("content"), At(_), Key("type")] => self.item.refusal |= text.text == "refusal",
            [Key("content" | "summary"), At(_), Key("text" | "refusal")] | [Key("arguments" | "input" | "code")]
                if !self.streamed =>
            {
                add_text(&mut self.obs, text);
            }
            _ => {}
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        if let [Key("output_index")] = path {
            self.output_index = text.parse().ok();
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
        match inner(path) {
            [Key("usage")] => self.usage = Some(json.to_vec()),
            [Key("tool_usage")] => self.tool_usage = Some(json.to_vec()),
            [Key("error")] => self.obs.error = Some(error_type(json)),
            [Key("incomplete_details")] => {
                let value = Small::read(json).unwrap_or(Small::Null);
                self.incomplete = at(&value, "reason").and_then(Small::as_str).and_then(word);
            }
            _ => {}
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [Key("output"), At(_)] = inner(path)
            && self.listed.len() < MAX_ITEMS
        {
            self.listed.push(std::mem::take(&mut self.item));
        }
    }
}

impl Meter for ResponsesMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], _: &[u8]) -> bool {
        // The data names its type; the event field is a copy that some servers leave out, or send alone.
        is_terminal(&self.event_type) || (self.event_type.is_empty() && is_terminal(&String::from_utf8_lossy(event)))
    }

    fn done(&mut self, event: &[u8], _: &[u8], _: Whole) -> bool {
        self.terminal |= self.is_last(event, b"");
        let kind = std::mem::take(&mut self.event_type);
        if kind == "error" || event == b"error" {
            self.obs.error.get_or_insert_with(|| "error".into());
        }
        if kind.starts_with("response.output_item.") {
            let next = self.announced.len() as u64;
            let index = self.output_index.unwrap_or(next);
            if self.announced.len() < MAX_ITEMS || self.announced.contains_key(&index) {
                let mut item = std::mem::take(&mut self.item);
                item.sealed = item.sealed.max(self.announced.get(&index).map(|i| i.sealed).unwrap_or_default());
                self.announced.insert(index, item);
            }
        }
        let passed = self.obs.output_bytes - std::mem::replace(&mut self.bytes_before, self.obs.output_bytes);
        if kind.starts_with("response.reasoning") && passed > 0 {
            self.reasoned = true;
            self.summary_bytes = self.summary_bytes.saturating_add(passed);
        }
        let listed = std::mem::take(&mut self.listed);
        if !listed.is_empty() {
            self.items = listed;
        }
        self.output_index = None;
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let model = self.obs.model.clone();
        if let Some(json) = self.usage.take() {
            self.obs.usage = usage::read(&json, model.as_deref(), &mut self.obs);
            keep_vendor_usage(&mut self.obs, &json);
        }
        self.settle_items();
        let mut obs = std::mem::take(&mut self.obs);
        if let Some(tier) = &obs.service_tier {
            obs.price_context.insert("service_tier".into(), tier.clone());
        }
        if self.status.as_deref() == Some("failed") {
            obs.error.get_or_insert_with(|| "error".into());
        }
        let complete = if seen.streamed { self.terminal } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        let runs_on = matches!(self.status.as_deref(), Some("queued" | "in_progress"));
        if obs.verdict == Verdict::Ok && runs_on && !self.terminal {
            obs.verdict = Verdict::Pending;
        }
        obs.usage_missing = obs.usage.is_none() && seen.status < 400 && obs.verdict != Verdict::Pending;
        if obs.usage_missing && self.hidden {
            flag(&mut obs.flags, "reasoning_unseen");
        }
        obs
    }
}

fn is_terminal(event: &str) -> bool {
    matches!(event, "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(characters: usize, prefix: &str) -> u64 {
        Sealed::of(&Text { text: prefix, bytes: characters as u64 }).tokens()
    }

    #[test]
    fn the_length_of_sealed_reasoning_says_how_much_it_was() {
        assert_eq!(sealed(0, ""), 0);
        assert_eq!(sealed(100, "gAAAAABq"), 8, "an envelope with hardly anything in it");
        assert_eq!(sealed(850 + 6_200, "gAAAAABq"), 1_000);
        assert_eq!(sealed(620, "m3kGq0Lz"), 100);
        assert!(sealed(usize::MAX, "gAAAAABq") > 1 << 50);
    }
}
