//! Cohere's protocol: chat and generate of version 1 (lines of JSON when streamed) and chat of version 2 (events), embed
//! and rerank.
//!
//! What Cohere charges are its *billed units*; the tokens beside them include its template and stand in no invoice
//! (provider-usage 9, state of 2026-11-23). No answer names the model, so the request's counts.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::counts::{Counts, at, flag};
use super::framing::Shape;
use super::free::FreeMeter;
use super::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use super::members::{self, Members};
use super::prompt::Prompt;
use super::reading::{MAX_RAW, add_text, add_tool, keep_vendor_usage, output_so_far, verdict, want_text, word};
use super::small::Small;
use super::tap::{AnswerTap, Meter, Seen};
use super::{
    Billing, CallFacts, Client, Dialect, DialectError, Edit, Metering, Observation, RefusalResponse, RequestHead,
    ResponseHead, Tap, retry_headers,
};
use crate::domain::{Component, Refusal, Usage};

/// Fields that decide cost: given twice, the request is refused.
const KNOWN: &[&str] =
    &["model", "stream", "max_tokens", "messages", "message", "prompt", "texts", "documents", "tools"];
const TEXT_PARTS: &[&str] =
    &["preamble", "chat_history", "message", "messages", "prompt", "texts", "inputs", "query", "documents"];
const JSON_PARTS: &[&str] = &["tools", "response_format"];

/// The dialect `cohere`.
pub struct Cohere;

impl Dialect for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        if let Some(mistake) = super::path_mistake(head.path) {
            return Err(DialectError(mistake));
        }
        let (endpoint, metering, billing) = endpoint(head.method, head.path);
        let mut facts = CallFacts { billing, ..CallFacts::of(endpoint, metering) };
        facts.asked_for_usage = true;
        if metering != Metering::Metered {
            return Ok(facts);
        }
        let members = Members::of_body(body, KNOWN)?;
        // Version 1 has models of its own for a request that names none.
        facts.model = members.text("model")?.filter(|m| !m.is_empty());
        facts.model_in_body = facts.model.is_some();
        facts.model = facts.model.or_else(|| default_model(endpoint));
        facts.stream = members.truth("stream")?.unwrap_or(false);
        if billing == Billing::Tokens {
            facts.output_cap = members.count("max_tokens")?;
            facts.output_cap_field = Some("max_tokens");
            facts.choices = members.count("num_generations")?.unwrap_or(1).max(1);
        }
        let mut prompt = Prompt::measure(facts.model.as_deref());
        prompt.add(&members, TEXT_PARTS, JSON_PARTS);
        facts.input_bytes = prompt.weight.text_bytes;
        facts.input_allowance = prompt.weight.allowance;
        // Connectors search and read on their own; conversations are kept at the vendor.
        let hidden = ["connectors", "conversation_id"].iter().any(|n| members.get(n).is_some());
        facts.unbounded = prompt.weight.unbounded || hidden;
        facts.tools_offered = members.list("tools").len().min(u32::MAX as usize) as u32;
        Ok(facts)
    }

    /// Cohere always sends usage: only the output cap is ever written.
    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        let body = members::rewrite(body, "model", edit.model.as_deref());
        members::edit(&body, false, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, _: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        let mut names = super::openai::request::tool_names(body)?;
        let members = Members::of_body(body, &[]).ok()?;
        // Connectors are tools that run at Cohere.
        names.extend(members.list("connectors").into_iter().map(|_| "connector".to_owned()));
        Some(names)
    }

    fn prompt_text(&self, _: &CallFacts, body: &[u8]) -> String {
        Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, _: bool) -> Box<dyn Tap> {
        if facts.metering != Metering::Metered {
            return Box::new(AnswerTap::new(head, false, Box::<FreeMeter>::default()));
        }
        let lines =
            facts.stream && head.headers.get("content-type").is_none_or(|t| !t.as_bytes().starts_with(b"text/"));
        let shape = if lines { Shape::Lines } else { Shape::Sniff };
        let meter = CohereMeter { billing: facts.billing, ..CohereMeter::default() };
        Box::new(AnswerTap::shaped(head, false, Box::new(meter), shape))
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, _: Client) -> RefusalResponse {
        let body = json!({ "id": call_id, "message": refusal.message, "code": refusal.code.name() });
        RefusalResponse {
            status: refusal.code.status(),
            headers: retry_headers(refusal),
            body: body.to_string().into(),
        }
    }

    /// Version 2 streams end with a `message-end`, whose reason is `ERROR` where they failed.
    fn cut(&self, _: &CallFacts, refusal: &Refusal, _: Client) -> Bytes {
        let delta = json!({ "finish_reason": "ERROR", "error": refusal.message });
        let event = json!({ "type": "message-end", "delta": delta });
        format!("event: message-end\ndata: {event}\n\n").into()
    }

    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }
}

fn endpoint(method: &Method, path: &str) -> (&'static str, Metering, Billing) {
    use Metering::{Free, Metered, Unmetered};
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [.., "chat"] if method == Method::POST => ("chat", Metered, Billing::Tokens),
        [.., "generate"] if method == Method::POST => ("generate", Metered, Billing::Tokens),
        [.., "embed"] if method == Method::POST => ("embeddings", Metered, Billing::Input),
        [.., "rerank"] if method == Method::POST => ("rerank", Metered, Billing::Units),
        [.., "classify"] if method == Method::POST => ("classify", Metered, Billing::Units),
        [.., "tokenize" | "detokenize" | "check-api-key"] => ("tokenize", Free, Billing::Tokens),
        [.., "models"] | [.., "models", _] if method == Method::GET => ("models", Free, Billing::Tokens),
        _ => ("unmetered", Unmetered, Billing::Tokens),
    }
}

fn default_model(endpoint: &str) -> Option<String> {
    matches!(endpoint, "chat" | "generate").then(|| "command".to_owned())
}

const NAMES: &[&str] = &[
    "arguments",
    "content",
    "delta",
    "error_type",
    "event_type",
    "finish_reason",
    "function",
    "generation_id",
    "generations",
    "id",
    "is_finished",
    "message",
    "meta",
    "name",
    "parameters",
    "response",
    "response_id",
    "text",
    "thinking",
    "tool_calls",
    "tool_plan",
    "type",
    "usage",
];

/// The meter of one answer.
#[derive(Default)]
struct CohereMeter {
    billing: Billing,
    obs: Observation,
    event: String,
    /// The line under way says that it is the last.
    last: bool,
    /// The last line, or event, came whole.
    ended: bool,
    finished: bool,
    billed: Option<Usage>,
    searches: Option<u64>,
    tool: Option<String>,
    /// Calls were announced by events: those of the whole answer behind them are the same.
    announced: bool,
}

impl CohereMeter {
    fn read_usage(&mut self, json: &[u8]) {
        let Some(value) = Small::read(json).filter(Small::is_object) else { return };
        let Some(billed) = at(&value, "billed_units").filter(|b| b.is_object()) else { return };
        keep_vendor_usage(&mut self.obs, json);
        let mut c = Counts::new(billed, &mut self.obs.flags);
        let (input, output, image) = (c.get("input_tokens"), c.get("output_tokens"), c.get("image_tokens"));
        self.searches = c.get("search_units");
        let mut usage = Usage::new();
        if let Some(n) = input.or(image.map(|_| 0)) {
            usage.set(Component::InputTokens, n.saturating_add(image.unwrap_or(0)));
        }
        for (component, n) in [(Component::OutputTokens, output), (Component::InputImageTokens, image)] {
            if let Some(n) = n {
                usage.set(component, n);
            }
        }
        self.billed = Some(usage).filter(|u| !u.is_empty());
    }
}

use Seg::{At, Key};

/// The path inside a whole answer, for the body itself and for `response` of the last line of version 1.
fn inner(path: &[Seg]) -> &[Seg] {
    match path {
        [Key("response"), rest @ ..] | [Key("delta"), rest @ ..] => rest,
        _ => path,
    }
}

impl Sink for CohereMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        let whole = path.first() == Some(&Key("response"));
        match inner(path) {
            // A stream is known by the id it began with.
            [Key("id" | "response_id" | "generation_id")] if whole => Want::Skip,
            [] => Want::Enter,
            [Key("usage" | "meta")] => Want::Raw(MAX_RAW),
            [Key("id" | "response_id" | "generation_id" | "finish_reason" | "event_type" | "type" | "error_type")] => {
                Want::Enter
            }
            [Key("is_finished")] => Want::Enter,
            // What came in pieces comes again, whole.
            [Key("text" | "generations" | "tool_calls")] if whole && self.obs.output_bytes > 0 => Want::Skip,
            [Key("text")] if !container => want_text(&self.obs),
            [Key("message")] => {
                if container {
                    Want::Enter
                } else {
                    Want::Skip
                }
            }
            [Key("message"), Key("content" | "tool_calls")] | [Key("generations" | "tool_calls")] => Want::Enter,
            [Key("message"), Key("tool_plan")] => want_text(&self.obs),
            [Key("message"), Key("content"), Key("text" | "thinking")] if !container => want_text(&self.obs),
            [Key("message"), Key("content"), At(_)] | [Key("generations" | "tool_calls"), At(_)] => Want::Enter,
            [Key("message"), Key("content"), At(_), Key("text" | "thinking")] if !container => want_text(&self.obs),
            [Key("generations"), At(_), Key("text")] if !container => want_text(&self.obs),
            [Key("generations"), At(_), Key("finish_reason")] => Want::Enter,
            // Version 2 has one call in an event, and a list in a body.
            [Key("message"), Key("tool_calls"), Key("function")]
            | [Key("message"), Key("tool_calls"), At(_)]
            | [Key("message"), Key("tool_calls"), At(_), Key("function")] => Want::Enter,
            [Key("message"), Key("tool_calls"), .., Key("name")] => Want::Enter,
            [Key("message"), Key("tool_calls"), .., Key("arguments")] if !container => want_text(&self.obs),
            [Key("tool_calls"), At(_), Key("name")] => Want::Enter,
            [Key("tool_calls"), At(_), Key("parameters")] => Want::Raw(MAX_RAW),
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match inner(path) {
            [Key("id" | "response_id")] => self.obs.response_id = word(text.text).or(self.obs.response_id.take()),
            [Key("generation_id")] => {
                self.obs.response_id = self.obs.response_id.take().or_else(|| word(text.text));
            }
            [Key("finish_reason")] | [Key("generations"), At(_), Key("finish_reason")] => {
                self.obs.finish_reason_raw = word(text.text);
                self.finished = true;
            }
            [Key("event_type" | "type")] => self.event = text.text.to_owned(),
            [Key("error_type")] => self.obs.error = word(text.text),
            [.., Key("name")] => self.tool = word(text.text),
            _ => add_text(&mut self.obs, text),
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        if path == [Key("is_finished")] && text == "true" {
            self.last = true;
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(json) = json else {
            flag(&mut self.obs.flags, "object_too_large");
            return;
        };
        match inner(path) {
            _ if json == b"null" => {}
            [Key("usage" | "meta")] => self.read_usage(json),
            _ => {
                let text = String::from_utf8_lossy(json);
                add_text(&mut self.obs, Text { text: &text, bytes: json.len() as u64 });
            }
        }
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        let ended = match inner(path) {
            [.., Key("tool_calls"), At(_)] => true,
            [Key("message"), Key("tool_calls")] => path.first() == Some(&Key("delta")),
            _ => false,
        };
        if let Some(name) = self.tool.take_if(|_| ended) {
            let again = self.announced && path.first() == Some(&Key("response"));
            self.announced = true;
            if !again {
                add_tool(&mut self.obs, Some(&name));
            }
        }
    }
}

impl Meter for CohereMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, event: &[u8], head: &[u8]) -> bool {
        self.last || head.trim_ascii() == b"[DONE]" || event == b"error"
    }

    fn may_be_last(&self) -> bool {
        self.event == "message-end"
    }

    fn done(&mut self, _: &[u8], head: &[u8], whole: Whole) -> bool {
        let event = std::mem::take(&mut self.event);
        let last = (self.last || event == "message-end") && whole == Whole::Complete;
        self.ended |= last || head.trim_ascii() == b"[DONE]";
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        obs.finish_reason_raw = obs.finish_reason_raw.filter(|_| self.finished);
        obs.finish_reason = obs.finish_reason_raw.as_deref().map(finish_reason);
        if obs.finish_reason == Some("error") {
            obs.error.get_or_insert_with(|| "error".into());
        }
        if seen.status < 400 && obs.finish_reason != Some("error") {
            obs.error = None;
        }
        let complete = if seen.streamed { self.ended } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        obs.usage = self.billed.take();
        let has = |c| obs.usage.as_ref().is_some_and(|u| u.get(c).is_some());
        let whole = match self.billing {
            Billing::Tokens => has(Component::OutputTokens),
            Billing::Input => has(Component::InputTokens),
            Billing::Units => true,
        };
        obs.usage_missing = !whole && seen.status < 400;
        obs
    }
}

fn finish_reason(raw: &str) -> &'static str {
    match raw {
        "COMPLETE" | "STOP_SEQUENCE" => "stop",
        "MAX_TOKENS" | "ERROR_LIMIT" => "length",
        "TOOL_CALL" => "tool_calls",
        "ERROR_TOXIC" => "content_filter",
        "ERROR" | "TIMEOUT" => "error",
        "USER_CANCEL" => "cancelled",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{End, Verdict};

    fn read(body: &str, path: &str, request: &str, kind: &str) -> Observation {
        let headers = HeaderMap::new();
        let head = RequestHead { method: &Method::POST, path, query: None, headers: &headers };
        let facts = Cohere.read_request(&head, request.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_str(kind).unwrap());
        let mut tap = Cohere.tap(&facts, &ResponseHead { status: 200, headers: &headers }, false);
        tap.feed(Bytes::copy_from_slice(body.as_bytes()), &mut Vec::new());
        tap.finish(End::Complete)
    }

    #[test]
    fn billed_units_are_what_counts() {
        let body = r#"{"id":"i","message":{"role":"assistant","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]},
            "finish_reason":"TOOL_CALL","usage":{"billed_units":{"input_tokens":8,"output_tokens":3},
            "tokens":{"input_tokens":503,"output_tokens":9,"reasoning_tokens":5},"cached_tokens":480}}"#;
        let seen = read(body, "/v2/chat", r#"{"model":"command-a","messages":[]}"#, "application/json");
        let usage = seen.usage.unwrap();
        assert_eq!(usage.get(Component::InputTokens), Some(8));
        assert_eq!((usage.get(Component::OutputTokens), usage.get(Component::CacheReadTokens)), (Some(3), None));
        assert_eq!((seen.tools_called, seen.finish_reason, seen.verdict), (1, Some("tool_calls"), Verdict::Ok));
    }

    #[test]
    fn lines_of_version_one_end_with_the_whole_answer() {
        let body = concat!(
            r#"{"event_type":"stream-start","generation_id":"g","is_finished":false}"#,
            "\n",
            r#"{"event_type":"text-generation","text":"Arr","is_finished":false}"#,
            "\n",
            r#"{"event_type":"stream-end","is_finished":true,"finish_reason":"COMPLETE","response":{"response_id":"r","text":"Arr","meta":{"billed_units":{"input_tokens":7,"output_tokens":1}}}}"#,
            "\n",
        );
        let seen = read(body, "/v1/chat", r#"{"message":"hi","stream":true}"#, "application/stream+json");
        assert_eq!((seen.output_text.as_str(), seen.verdict), ("Arr", Verdict::Ok));
        assert_eq!(seen.usage.unwrap().get(Component::OutputTokens), Some(1));
        let broken = read(&body[..160], "/v1/chat", r#"{"message":"hi","stream":true}"#, "application/stream+json");
        assert_eq!((broken.verdict, broken.usage_missing), (Verdict::Truncated, true));
    }
}
