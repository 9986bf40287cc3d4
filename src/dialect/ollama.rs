//! Ollama's own protocol: chat, generate and embed, streamed as lines of JSON unless the request says otherwise.
//!
//! Usage stands in the last line, the one that says `done`. A prompt that was cached may be counted in part, or not at all
//! (provider-usage 9, state of 2026-11-23): what is not stated is not known.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::counts::{BAD_COUNT, MAX_COUNT, flag};
use super::framing::Shape;
use super::free::FreeMeter;
use super::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use super::members::{self, Members};
use super::openai::OpenAi;
use super::prompt::Prompt;
use super::reading::{MAX_RAW, add_text, add_tool, output_so_far, verdict, want_text, word};
use super::tap::{AnswerTap, Meter, Seen};
use super::tokens::framing;
use super::{
    Billing, CallFacts, Client, Dialect, DialectError, Edit, Metering, Observation, RefusalResponse, RequestHead,
    ResponseHead, Tap, Verdict, retry_headers,
};
use crate::domain::{Component, Refusal, Usage};

/// Fields that decide cost: given twice, the request is refused.
const KNOWN: &[&str] = &["model", "stream", "messages", "prompt", "system", "input", "options", "tools"];
const TEXT_PARTS: &[&str] = &["system", "prompt", "suffix", "messages", "input"];
const JSON_PARTS: &[&str] = &["tools", "format"];

/// The dialect `ollama`. Its OpenAI-compatible paths (`/v1/…`) are read as OpenAI's.
pub struct Ollama;

/// Whether a call is one of the OpenAI-compatible paths, by its endpoint.
fn compatible(endpoint: &str) -> bool {
    !matches!(endpoint, "chat" | "generate" | "embed" | "unmetered" | "free")
}

impl Dialect for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        if head.path.starts_with("/v1/") || head.path.contains("/v1/") {
            return OpenAi.read_request(head, body);
        }
        let (endpoint, metering) = endpoint(head.method, head.path);
        let mut facts = CallFacts::of(endpoint, metering);
        facts.asked_for_usage = true;
        if metering != Metering::Metered {
            return Ok(facts);
        }
        let members = Members::of_body(body, KNOWN)?;
        facts.model = members.text("model")?.filter(|m| !m.is_empty());
        if facts.model.is_none() {
            return Err(DialectError("`model` is missing: name the model, such as \"model\": \"llama3.3\"".into()));
        }
        facts.model_in_body = true;
        if endpoint == "embed" {
            facts.billing = Billing::Input;
        } else {
            facts.stream = members.truth("stream")?.unwrap_or(true);
            let options = members.get("options").and_then(Members::of);
            // A negative number asks for as much as there is.
            facts.output_cap = options.and_then(|o| o.count("num_predict").ok().flatten());
            facts.output_cap_field = Some("options.num_predict");
        }
        let mut prompt = Prompt::measure(facts.model.as_deref());
        prompt.add(&members, TEXT_PARTS, JSON_PARTS);
        facts.tools_offered = members.list("tools").len().min(u32::MAX as usize) as u32;
        facts.input_bytes = prompt.weight.text_bytes;
        facts.input_allowance = prompt.weight.allowance;
        if endpoint != "embed" {
            facts.input_allowance += framing(facts.model.as_deref().unwrap_or_default(), facts.tools_offered);
        }
        facts.unbounded = prompt.weight.unbounded;
        Ok(facts)
    }

    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        let body = members::rewrite(body, "model", edit.model.as_deref());
        members::edit(&body, edit.include_usage, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, _: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        super::openai::request::tool_names(body)
    }

    fn prompt_text(&self, facts: &CallFacts, body: &[u8]) -> String {
        if compatible(facts.endpoint) {
            return OpenAi.prompt_text(facts, body);
        }
        Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, drop_usage: bool) -> Box<dyn Tap> {
        if compatible(facts.endpoint) {
            return OpenAi.tap(facts, head, drop_usage);
        }
        if facts.metering != Metering::Metered {
            return Box::new(AnswerTap::new(head, false, Box::<FreeMeter>::default()));
        }
        let shape = if facts.stream { Shape::Lines } else { Shape::Sniff };
        let meter = OllamaMeter { embeds: facts.billing == Billing::Input, ..OllamaMeter::default() };
        Box::new(AnswerTap::shaped(head, false, Box::new(meter), shape))
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
        let _ = (call_id, client);
        let body = json!({ "error": refusal.message, "code": refusal.code.name() });
        RefusalResponse {
            status: refusal.code.status(),
            headers: retry_headers(refusal),
            body: body.to_string().into(),
        }
    }

    fn cut(&self, facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
        if compatible(facts.endpoint) {
            return OpenAi.cut(facts, refusal, client);
        }
        format!("{}\n", json!({ "error": refusal.message })).into()
    }

    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }
}

fn endpoint(method: &Method, path: &str) -> (&'static str, Metering) {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [.., "api", "chat"] if method == Method::POST => ("chat", Metering::Metered),
        [.., "api", "generate"] if method == Method::POST => ("generate", Metering::Metered),
        [.., "api", "embed" | "embeddings"] if method == Method::POST => ("embed", Metering::Metered),
        [.., "api", "tags" | "ps" | "version" | "show" | "pull" | "push" | "create" | "copy" | "delete"] => {
            ("free", Metering::Free)
        }
        _ => ("unmetered", Metering::Unmetered),
    }
}

const NAMES: &[&str] = &[
    "arguments",
    "content",
    "done",
    "done_reason",
    "error",
    "eval_count",
    "function",
    "message",
    "model",
    "name",
    "prompt_eval_count",
    "response",
    "thinking",
    "tool_calls",
];

/// The meter of one answer.
#[derive(Default)]
struct OllamaMeter {
    embeds: bool,
    obs: Observation,
    /// The line under way says that it is the last.
    ended: bool,
    /// It came whole.
    whole: bool,
    input: Option<u64>,
    output: Option<u64>,
    tool: Option<String>,
}

use Seg::{At, Key};

impl Sink for OllamaMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        let container = matches!(kind, Kind::Object | Kind::Array);
        match path {
            [] | [Key("message")] | [Key("message"), Key("tool_calls")] => Want::Enter,
            [Key("model" | "done" | "done_reason" | "prompt_eval_count" | "eval_count")] => Want::Enter,
            [Key("error")] => Want::Text(256),
            [Key("response" | "thinking")] if !container => want_text(&self.obs),
            [Key("message"), Key("content" | "thinking")] if !container => want_text(&self.obs),
            [Key("message"), Key("tool_calls"), At(_)]
            | [Key("message"), Key("tool_calls"), At(_), Key("function")]
            | [Key("message"), Key("tool_calls"), At(_), Key("function"), Key("name")] => Want::Enter,
            [Key("message"), Key("tool_calls"), At(_), Key("function"), Key("arguments")] => Want::Raw(MAX_RAW),
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match path {
            [Key("model")] => self.obs.model = word(text.text).or(self.obs.model.take()),
            [Key("done_reason")] => self.obs.finish_reason_raw = word(text.text),
            [Key("error")] => self.obs.error = Some("error".into()),
            [.., Key("function"), Key("name")] => self.tool = word(text.text),
            _ => add_text(&mut self.obs, text),
        }
    }

    fn scalar(&mut self, path: &[Seg], text: &str) {
        let mut count = || {
            let n = text.parse::<u64>().ok().filter(|n| *n <= MAX_COUNT);
            if n.is_none() && text != "null" {
                flag(&mut self.obs.flags, BAD_COUNT);
            }
            n
        };
        match path {
            [Key("done")] => self.ended |= text == "true",
            [Key("prompt_eval_count")] => self.input = count(),
            [Key("eval_count")] => self.output = count(),
            _ => {}
        }
    }

    fn raw(&mut self, _: &[Seg], json: Option<&[u8]>) {
        let json = json.unwrap_or_default();
        let text = String::from_utf8_lossy(json);
        add_text(&mut self.obs, Text { text: &text, bytes: json.len() as u64 });
    }

    fn end(&mut self, path: &[Seg], _: Kind) {
        if let [Key("message"), Key("tool_calls"), At(_)] = path {
            add_tool(&mut self.obs, self.tool.take().as_deref());
        }
    }
}

impl Meter for OllamaMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn is_last(&self, _: &[u8], _: &[u8]) -> bool {
        self.ended || self.obs.error.is_some()
    }

    fn done(&mut self, _: &[u8], _: &[u8], whole: Whole) -> bool {
        self.whole |= self.ended && whole == Whole::Complete;
        false
    }

    fn output_so_far(&self) -> u64 {
        output_so_far(&self.obs)
    }

    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        // Versions before 0.1.30 give no reason.
        obs.finish_reason = match obs.finish_reason_raw.as_deref() {
            Some("stop") | None if obs.tools_called > 0 && self.ended => Some("tool_calls"),
            Some("stop") => Some("stop"),
            Some("length") => Some("length"),
            Some(_) => Some("other"),
            None => None,
        };
        let complete = if seen.streamed { self.whole } else { seen.whole == Whole::Complete };
        obs.verdict = verdict(&mut obs, &seen, complete);
        let mut usage = Usage::new();
        for (component, n) in [(Component::InputTokens, self.input), (Component::OutputTokens, self.output)] {
            if let Some(n) = n {
                usage.set(component, n);
            }
        }
        let whole = if self.embeds { self.input.is_some() } else { self.output.is_some() };
        obs.usage = (!usage.is_empty()).then_some(usage);
        obs.usage_missing = !whole && seen.status < 400;
        if obs.verdict == Verdict::Error && seen.status >= 400 {
            obs.usage = None;
        }
        obs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{End, Progress};

    #[test]
    fn a_stream_is_the_default_and_its_last_line_is_held_back() {
        let headers = HeaderMap::new();
        let head = RequestHead { method: &Method::POST, path: "/api/chat", query: None, headers: &headers };
        let facts =
            Ollama.read_request(&head, br#"{"model":"llama3","messages":[],"options":{"num_predict":-1}}"#).unwrap();
        assert!(facts.stream && facts.output_cap.is_none());
        let mut tap = Ollama.tap(&facts, &ResponseHead { status: 200, headers: &headers }, false);
        let mut pass = Vec::new();
        let first = Bytes::from_static(b"{\"model\":\"llama3\",\"message\":{\"content\":\"h\"},\"done\":false}\n");
        assert_eq!(tap.feed(first.clone(), &mut pass), Progress::More);
        assert_eq!(pass.concat(), first, "passes at once");
        let last =
            Bytes::from_static(b"{\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":7,\"eval_count\":1}\n");
        assert_eq!(tap.feed(last, &mut pass), Progress::Last);
        assert!(pass.concat().ends_with(b"\"eval_count\":1}"));
        let seen = tap.finish(End::Complete);
        assert_eq!((seen.verdict, seen.finish_reason), (Verdict::Ok, Some("stop")));
        assert_eq!(seen.usage.unwrap(), Usage::new().with(Component::InputTokens, 7).with(Component::OutputTokens, 1));
    }
}
