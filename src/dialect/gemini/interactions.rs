//! Reads answers of the interactions API: one made, one stored, or the events of a stream.
//!
//! A background agent answers `in_progress` without usage; its usage comes when it is fetched. In a stream, running counts
//! stand beside some events; the interaction that the last event has in it wins.

use super::usage::Stated;
use crate::dialect::counts::{Counts, flag};
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{
    MAX_RAW, add_text, add_tool, error_type, keep_vendor_usage, output_so_far, verdict, want_text, word,
};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{Observation, Verdict};
use crate::domain::Component;

const NAMES: &[&str] = &[
    "agent",
    "arguments",
    "content",
    "delta",
    "error",
    "event_type",
    "id",
    "interaction",
    "metadata",
    "model",
    "name",
    "outputs",
    "partial_arguments",
    "queries",
    "service_tier",
    "status",
    "step",
    "steps",
    "text",
    "thought",
    "type",
    "usage",
];

/// One step or output, as far as it is a call.
#[derive(Default)]
struct Item {
    kind: String,
    name: Option<String>,
    queries: u64,
}

/// The meter of one answer.
#[derive(Default)]
pub(super) struct InteractionMeter {
    obs: Observation,
    stated: Stated,
    any: bool,
    searches: u64,
    status: Option<String>,
    terminal: bool,
    ended: bool,
    event_type: String,
    item: Item,
    /// Items were announced by events: those of the whole interaction behind them are the same.
    announced: bool,
}

impl InteractionMeter {
    fn read_usage(&mut self, json: &[u8]) {
        let Some(value) = Small::read(json).filter(Small::is_object) else { return };
        keep_vendor_usage(&mut self.obs, json);
        let later = Stated::interaction(&value, &mut self.obs.flags);
        self.stated = std::mem::take(&mut self.stated).overlay(later);
        self.any = true;
        let counted = value.get("grounding_tool_count").and_then(Small::as_array).unwrap_or_default();
        let searches = counted.iter().filter(|c| {
            c.get("type").and_then(Small::as_str).is_some_and(|t| t.contains("search") && !t.contains("file"))
        });
        let flags = &mut self.obs.flags;
        let sum = searches.filter_map(|c| Counts::new(c, flags).get("count")).fold(0, u64::saturating_add);
        self.searches = self.searches.max(sum);
    }

    fn end_item(&mut self) {
        let item = std::mem::take(&mut self.item);
        match item.kind.as_str() {
            "function_call" => add_tool(&mut self.obs, item.name.as_deref()),
            kind if kind.ends_with("_call") => {
                self.obs.server_tool_calls = self.obs.server_tool_calls.saturating_add(1);
                if kind == "google_search_call" {
                    self.searches = self.searches.saturating_add(item.queries.max(1));
                }
            }
            _ => {}
        }
    }
}

use Seg::{At, Key};

/// The path inside an interaction, for the body itself and for `interaction` of an event.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [Key("interaction"), rest @ ..] => rest,
        _ => path,
    }
}

impl Sink for InteractionMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match inner(path) {
            [] | [Key("metadata" | "delta")] => Want::Enter,
            [Key("usage" | "error")] | [Key("metadata"), Key("usage")] => Want::Raw(MAX_RAW),
            [Key("id" | "status" | "model" | "agent" | "service_tier" | "event_type")] => Want::Enter,
            [Key("steps" | "outputs")] if self.announced => Want::Skip,
            [Key("steps" | "outputs")] => Want::Enter,
            [Key("steps" | "outputs"), At(_)] | [Key("step" | "content")] => {
                self.announced |= matches!(inner(path), [Key(_)]);
                self.item = Item::default();
                Want::Enter
            }
            [Key("steps" | "outputs"), At(_), rest @ ..] | [Key("step" | "content"), rest @ ..] => match rest {
                [Key("type" | "name")] => Want::Enter,
                [Key("arguments")] if self.item.kind != "function_call" => Want::Enter,
                [Key("arguments")] => Want::Raw(MAX_RAW),
                [Key("arguments"), Key("queries")] => Want::Enter,
                [Key("arguments"), Key("queries"), At(_)] => Want::Text(1),
                [Key("text")] | [Key("content"), .., Key("text")] if !container => want_text(&self.obs),
                [Key("content")] | [Key("content"), At(_)] => Want::Enter,
                _ => Want::Skip,
            },
            [Key("delta"), Key("text" | "arguments" | "partial_arguments" | "thought")] if !container => {
                want_text(&self.obs)
            }
            [Key("delta"), Key("content")] => Want::Enter,
            [Key("delta"), Key("content"), Key("text")] if !container => want_text(&self.obs),
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match inner(path) {
            [Key("id")] if self.obs.response_id.is_none() => self.obs.response_id = word(text.text),
            [Key("model" | "agent")] if self.obs.model.is_none() => self.obs.model = word(text.text),
            [Key("service_tier")] => self.obs.service_tier = word(text.text),
            [Key("status")] => self.status = word(text.text),
            [Key("event_type")] => self.event_type = text.text.to_owned(),
            [Key("id" | "model" | "agent")] => {}
            [Key("steps" | "outputs"), At(_), Key("type")] | [Key("step" | "content"), Key("type")] => {
                self.item.kind = text.text.to_owned();
            }
            [Key("steps" | "outputs"), At(_), Key("name")] | [Key("step" | "content"), Key("name")] => {
                self.item.name = word(text.text);
            }
            [.., Key("queries"), At(_)] => self.item.queries += u64::from(text.bytes > 0),
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
            [.., Key("usage")] => self.read_usage(json),
            _ => {
                let text = String::from_utf8_lossy(json);
                add_text(&mut self.obs, Text { text: &text, bytes: json.len() as u64 });
            }
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [Key("steps" | "outputs"), At(_)] | [Key("step" | "content")] = inner(path) {
            self.end_item();
        }
    }
}

impl Meter for InteractionMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], head: &[u8]) -> bool {
        head.trim_ascii() == b"[DONE]" || event == b"error"
    }

    fn may_be_last(&self) -> bool {
        self.event_type.starts_with("interaction.complete")
    }

    fn done(&mut self, event: &[u8], head: &[u8], whole: Whole) -> bool {
        let kind = std::mem::take(&mut self.event_type);
        self.terminal |=
            whole == Whole::Complete && (kind.starts_with("interaction.complete") || kind == "interaction.failed");
        self.ended |= head.trim_ascii() == b"[DONE]";
        if event == b"error" || kind == "error" {
            self.obs.error.get_or_insert_with(|| "error".into());
        }
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        let status = self.status.take();
        let pending = matches!(status.as_deref(), Some("in_progress" | "queued"));
        if status.as_deref() == Some("failed") {
            obs.error.get_or_insert_with(|| "failed".into());
        }
        let complete = if seen.streamed { self.terminal || self.ended } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        if obs.verdict == Verdict::Ok && pending {
            obs.verdict = Verdict::Pending;
        }
        obs.finish_reason = status.as_deref().map(|s| finish_reason(s, obs.tools_called > 0));
        // An event of a stream that broke off says `in_progress`: that is no end.
        if seen.streamed && !complete {
            obs.finish_reason = None;
        }
        obs.finish_reason_raw = status.filter(|_| obs.finish_reason.is_some());
        if self.any {
            obs.usage = self.stated.usage(complete && !pending, &mut obs.flags);
        }
        let stated = std::mem::take(&mut self.stated);
        super::tier(&mut obs, &stated);
        if let Some(usage) = obs.usage.as_mut().filter(|_| self.searches > 0) {
            usage.set(Component::WebSearches, self.searches);
        }
        let counted = obs.usage.as_ref().is_some_and(|u| u.get(Component::OutputTokens).is_some());
        obs.usage_missing = !counted && seen.status < 400 && obs.verdict != Verdict::Pending;
        if obs.verdict == Verdict::Error && obs.usage.is_none() && !seen.streamed {
            obs.usage_missing = false;
        }
        obs
    }
}

fn finish_reason(status: &str, calls: bool) -> &'static str {
    match status {
        "requires_action" => "tool_calls",
        "completed" if calls => "tool_calls",
        "completed" => "stop",
        "failed" => "error",
        "cancelled" => "cancelled",
        _ => "other",
    }
}
