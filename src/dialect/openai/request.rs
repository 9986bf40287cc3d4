//! Reads requests of the OpenAI protocol: model, bounds of input and output, tools, what the body claims.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::dialect::members::Members;
use crate::dialect::prompt::Prompt;
use crate::dialect::reading::cut;
use crate::dialect::tokens::framing;
use crate::dialect::{Billing, CallFacts, DialectError, Metering, RequestHead};
use crate::domain::Component;

/// Fields that decide cost: given twice, the request is refused.
const KNOWN: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "messages",
    "input",
    "prompt",
    "tools",
    "background",
    "service_tier",
    "previous_response_id",
    "conversation",
];
/// Parts read as text, and parts read as they stand.
const TEXT_PARTS: &[&str] = &["instructions", "messages", "input", "prompt", "suffix"];
const JSON_PARTS: &[&str] = &["tools", "functions", "response_format", "text"];
/// What a body may claim about its caller (clients 3).
const CLAIMS: &[&str] = &["user", "safety_identifier", "prompt_cache_key"];
const MAX_CLAIMS: usize = 16;
const MAX_CLAIM: usize = 256;

/// The facts of a request for `endpoint`.
pub fn read(
    endpoint: &'static str,
    metering: Metering,
    head: &RequestHead,
    body: &[u8],
) -> Result<CallFacts, DialectError> {
    let mut facts = CallFacts::of(endpoint, metering);
    facts.response_id = stored_answer(endpoint, head.path);
    if metering == Metering::Retrieval {
        facts.stream = head.query.is_some_and(|q| q.split('&').any(|p| p == "stream=true"));
        return Ok(facts);
    }
    if metering != Metering::Metered {
        // Paths we do not meter may have any body; its model is said where it can be read.
        if let Ok(members) = Members::of_body(body, &[]) {
            facts.model = members.text("model").ok().flatten();
            facts.stream = members.truth("stream").ok().flatten().unwrap_or(false);
            claims(&members, &mut facts.claimed);
        }
        return Ok(facts);
    }
    if let Some(read) = units(endpoint, head, body, &mut facts) {
        return read.map(|()| facts);
    }
    let members = Members::of_body(body, KNOWN)?;
    // A template kept at the vendor (OpenAI's `prompt` object, Portkey's path) may name the model itself.
    let stored_prompt = members.get("prompt").is_some_and(|p| p.get().starts_with('{'));
    let templated = stored_prompt || head.path.split('/').any(|p| p == "prompts");
    facts.model = members.text("model")?.filter(|m| !m.is_empty());
    // Azure goes by the deployment in the path, whatever the body says.
    facts.model_in_body = facts.model.is_some() && deployment(head.path).is_none();
    facts.model = facts.model.or_else(|| deployment(head.path));
    if facts.model.is_none() && !templated {
        return Err(DialectError("`model` is missing: name the model, such as \"model\": \"gpt-5.2\"".into()));
    }
    facts.stream = members.truth("stream")?.unwrap_or(false);
    facts.asked_for_usage = !facts.stream || endpoint == "responses" || asks_for_usage(&members);
    output(&members, &mut facts)?;
    weigh(&members, &mut facts);
    tools(&members, &mut facts);
    facts.job = members.truth("background").ok().flatten().unwrap_or(false);
    let stored = ["previous_response_id", "conversation"].iter().any(|n| members.get(n).is_some());
    facts.continues = members.text("previous_response_id").ok().flatten();
    facts.unbounded |= stored || templated;
    if let Ok(Some(tier)) = members.text("service_tier") {
        facts.price_context.insert("service_tier".into(), tier);
    }
    claims(&members, &mut facts.claimed);
    Ok(facts)
}

/// What is billed by other units than tokens of a conversation; nothing for endpoints that are not.
fn units(endpoint: &str, head: &RequestHead, body: &[u8], facts: &mut CallFacts) -> Option<Result<(), DialectError>> {
    if !matches!(endpoint, "images" | "audio.transcriptions" | "audio.speech" | "rerank" | "ocr") {
        return None;
    }
    facts.billing = Billing::Units;
    facts.asked_for_usage = true;
    let kind = head.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/") {
        facts.model = form_field(body, "model");
        facts.stream = form_field(body, "stream").as_deref() == Some("true");
        // The sound or the picture itself is in the form, and is read by the model.
        facts.unbounded = true;
        return Some(Ok(()));
    }
    let members = match Members::of_body(body, KNOWN) {
        Ok(members) => members,
        Err(error) => return Some(Err(error)),
    };
    let read = members.text("model").and_then(|model| Ok((model, members.truth("stream")?)));
    Some(read.map(|(model, stream)| {
        facts.model = model.filter(|m| !m.is_empty());
        facts.model_in_body = facts.model.is_some() && deployment(head.path).is_none();
        facts.model = facts.model.take().or_else(|| deployment(head.path));
        facts.stream =
            stream.unwrap_or(false) || members.text("stream_format").ok().flatten().as_deref() == Some("sse");
        // Some speech models are billed by tokens of text and sound: their lists have no price for characters.
        if endpoint == "audio.speech" {
            let text = members.text("input").ok().flatten().unwrap_or_default();
            let characters = text.chars().count() as u64;
            facts.known.set(Component::InputCharacters, characters);
            facts.hosted_fees.push((Component::InputCharacters, Some(characters)));
        }
        let mut prompt = Prompt::measure(facts.model.as_deref());
        prompt.add(&members, &["prompt", "input", "query", "documents", "images", "image", "document"], &[]);
        facts.input_bytes = prompt.weight.text_bytes;
        facts.input_allowance = prompt.weight.allowance;
        facts.unbounded = prompt.weight.unbounded || endpoint == "ocr";
        claims(&members, &mut facts.claimed);
    }))
}

/// A short field of a multipart form; the file beside it is passed over.
fn form_field(body: &[u8], name: &str) -> Option<String> {
    let label = format!("name=\"{name}\"");
    for at in memchr::memmem::find_iter(body, label.as_bytes()).take(8) {
        let rest = &body[at + label.len()..];
        // Part headers end with an empty line; only white space or another header may stand between.
        let Some(end) = memchr::memmem::find(rest.get(..256.min(rest.len()))?, b"\r\n\r\n") else { continue };
        let value = &rest[end + 4..];
        let Some(stop) = memchr::memmem::find(&value[..value.len().min(512)], b"\r\n") else { continue };
        if let Ok(text) = std::str::from_utf8(&value[..stop])
            && !text.is_empty()
        {
            return Some(text.to_owned());
        }
    }
    None
}

/// The id in `…/responses/{id}` and below it.
fn stored_answer(endpoint: &str, path: &str) -> Option<String> {
    if !["responses.retrieve", "responses.input_items", "responses.cancel", "responses.delete"].contains(&endpoint) {
        return None;
    }
    let mut parts = path.split('/').filter(|p| !p.is_empty()).rev();
    let id = match endpoint {
        "responses.input_items" | "responses.cancel" => parts.nth(1),
        _ => parts.next(),
    };
    id.map(str::to_string)
}

/// Azure's deployment stands in the path: `/openai/deployments/{d}/…`.
fn deployment(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    parts.find(|p| *p == "deployments")?;
    parts.next().filter(|d| !d.is_empty()).map(str::to_string)
}

fn asks_for_usage(members: &Members) -> bool {
    let options = members.get("stream_options").and_then(Members::of);
    options.is_some_and(|o| o.get("include_usage").is_some_and(|v| v.get() == "true"))
}

fn output(members: &Members, facts: &mut CallFacts) -> Result<(), DialectError> {
    let fields: &[&'static str] = match facts.endpoint {
        "chat.completions" => &["max_completion_tokens", "max_tokens"],
        "completions" => &["max_tokens"],
        "responses" => &["max_output_tokens"],
        _ => &[],
    };
    for field in fields {
        if let Some(cap) = members.count(field)? {
            (facts.output_cap, facts.output_cap_field) = (Some(cap), Some(*field));
            break;
        }
    }
    if facts.output_cap_field.is_none() {
        facts.output_cap_field = match facts.endpoint {
            // OpenAI's reasoning models refuse the old name, look-alikes do not all know the new one.
            "chat.completions" if is_openai(facts.model.as_deref()) => Some("max_completion_tokens"),
            "chat.completions" => Some("max_tokens"),
            _ => fields.first().copied(),
        };
    }
    let n = members.count("n")?.unwrap_or(1).max(members.count("best_of")?.unwrap_or(1)).max(1);
    // A list of prompts is that many completions.
    let prompts = if facts.endpoint == "completions" { prompts(members) } else { 1 };
    facts.choices = n.saturating_mul(prompts);
    Ok(())
}

fn prompts(members: &Members) -> u64 {
    let list = members.list("prompt");
    // A list of numbers is one prompt given as tokens.
    if list.iter().any(|p| p.get().starts_with(['"', '['])) { list.len() as u64 } else { 1 }
}

fn is_openai(model: Option<&str>) -> bool {
    let name = model.unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or(name);
    let o_series = name.starts_with('o') && name.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    o_series || ["gpt-", "chatgpt-", "ft:gpt-", "codex-"].iter().any(|p| name.starts_with(p)) && !name.contains("oss")
}

fn weigh(members: &Members, facts: &mut CallFacts) {
    let mut prompt = Prompt::measure(facts.model.as_deref());
    prompt.add(members, TEXT_PARTS, JSON_PARTS);
    facts.input_bytes = prompt.weight.text_bytes;
    facts.input_allowance = prompt.weight.allowance;
    facts.unbounded = prompt.weight.unbounded;
}

fn tools(members: &Members, facts: &mut CallFacts) {
    let tools = members.list("tools");
    facts.tools_offered = (tools.len() + members.list("functions").len()).min(u32::MAX as usize) as u32;
    if matches!(facts.endpoint, "chat.completions" | "responses") {
        facts.input_allowance += framing(facts.model.as_deref().unwrap_or_default(), facts.tools_offered);
    }
    let limit = members.count("max_tool_calls").ok().flatten();
    for tool in tools {
        hosted(tool, limit, facts);
    }
    if members.get("web_search_options").is_some() {
        facts.unbounded = true;
        fee(facts, Component::WebSearches, Some(1));
    }
}

/// Hosted tools put into the prompt what nobody here sees; some have a fee per call.
fn hosted(tool: &RawValue, limit: Option<u64>, facts: &mut CallFacts) {
    let kind = Members::of(tool).and_then(|m| m.text("type").ok().flatten()).unwrap_or_default();
    match kind.as_str() {
        "" | "function" | "custom" | "local_shell" | "apply_patch" => return,
        k if k.starts_with("web_search") || k == "x_search" => fee(facts, Component::WebSearches, limit),
        "file_search" => fee(facts, Component::StorageSearches, limit),
        _ => {}
    }
    facts.unbounded = true;
}

fn fee(facts: &mut CallFacts, component: Component, most: Option<u64>) {
    if !facts.hosted_fees.iter().any(|(c, _)| *c == component) {
        facts.hosted_fees.push((component, most));
    }
}

fn claims(members: &Members, claimed: &mut BTreeMap<String, String>) {
    for name in CLAIMS {
        if let Ok(Some(value)) = members.text(name) {
            claimed.insert((*name).into(), cut(&value, MAX_CLAIM).into());
        }
    }
    let metadata = members.get("metadata").and_then(Members::of);
    for (name, value) in metadata.iter().flat_map(|m| m.iter()) {
        if claimed.len() < MAX_CLAIMS
            && let Ok(value) = serde_json::from_str::<String>(value.get())
        {
            claimed.insert(format!("metadata.{}", cut(name, 64)), cut(&value, MAX_CLAIM).into());
        }
    }
}

/// Names of the tools offered; of those that run at the provider, their types.
pub fn tool_names(body: &[u8]) -> Option<Vec<String>> {
    let members = Members::of_body(body, &[]).ok()?;
    let text = |members: &Members, name: &str| members.text(name).ok().flatten();
    let named = |tool: &RawValue| {
        let tool = Members::of(tool)?;
        let kind = text(&tool, "type");
        match kind.as_deref() {
            None | Some("function" | "custom") => {
                let inside = ["function", "custom"].into_iter().find_map(|k| tool.get(k)).and_then(Members::of);
                text(&tool, "name").or_else(|| text(&inside?, "name"))
            }
            Some(_) => kind,
        }
    };
    // One that has no name can be in no list of names.
    let all = members.list("tools").into_iter().chain(members.list("functions"));
    let mut names: Vec<String> = all.map(|tool| named(tool).unwrap_or_else(|| "(unnamed)".to_owned())).collect();
    if members.get("web_search_options").is_some() {
        names.push("web_search".to_owned());
    }
    Some(names)
}

/// The text of a request, for counting.
pub fn prompt_text(body: &[u8]) -> String {
    Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::dialect::{Dialect, openai::OpenAi};

    fn facts(path: &str, body: &str) -> Result<CallFacts, DialectError> {
        let headers = HeaderMap::new();
        let head = RequestHead { method: &Method::POST, path, query: None, headers: &headers };
        OpenAi.read_request(&head, body.as_bytes())
    }

    #[test]
    fn a_chat_request_tells_what_it_may_cost() {
        let f = facts(
            "/v1/chat/completions",
            r#"{"model":"gpt-5.2","stream":true,"n":3,"max_tokens":50,"user":"u1","metadata":{"team":"a"},
                "messages":[{"role":"user","content":"hello there"}],"tools":[{"type":"function","function":{"name":"f"}}],
                "service_tier":"flex","stream_options":{"include_usage":true}}"#,
        )
        .unwrap();
        assert_eq!(f.model.as_deref(), Some("gpt-5.2"));
        assert!(f.stream && f.asked_for_usage && !f.unbounded && !f.job);
        assert_eq!(
            (f.choices, f.output_cap, f.output_cap_field, f.tools_offered),
            (3, Some(50), Some("max_tokens"), 1)
        );
        assert_eq!(f.input_bytes, 8 + 11 + r#"[{"type":"function","function":{"name":"f"}}]"#.len() as u64);
        assert_eq!(f.price_context["service_tier"], "flex");
        assert_eq!(f.claimed["metadata.team"], "a");
    }

    #[test]
    fn what_cannot_be_seen_is_unbounded() {
        let responses =
            |extra: &str| facts("/v1/responses", &format!(r#"{{"model":"gpt-5.2","input":"hi",{extra}}}"#)).unwrap();
        assert!(!responses(r#""store":true"#).unbounded);
        assert!(responses(r#""previous_response_id":"resp_1""#).unbounded);
        assert!(responses(r#""conversation":"conv_1""#).unbounded);
        let search = responses(r#""tools":[{"type":"web_search"}],"max_tool_calls":4"#);
        assert_eq!(search.hosted_fees, [(Component::WebSearches, Some(4))]);
        assert!(search.unbounded);
        assert!(responses(r#""background":true"#).job);
    }

    #[test]
    fn the_field_of_a_cap_of_ours_fits_the_model() {
        let field = |model: &str| {
            facts("/v1/chat/completions", &format!(r#"{{"model":"{model}","messages":[]}}"#)).unwrap().output_cap_field
        };
        assert_eq!(field("gpt-5.2"), Some("max_completion_tokens"));
        assert_eq!(field("openai/o3-mini"), Some("max_completion_tokens"));
        assert_eq!(field("openai/gpt-oss-120b"), Some("max_tokens"));
        assert_eq!(field("mistral-large"), Some("max_tokens"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = |body: &str| facts("/v1/chat/completions", body).unwrap_err().0;
        assert!(error("{").contains("not a JSON object"));
        assert!(error("{}").contains("`model` is missing"));
        assert!(error(r#"{"model":5}"#).contains("`model` is 5"));
        assert!(error(r#"{"model":"m","stream":"yes"}"#).contains("`stream`"));
        assert!(error(r#"{"model":"m","max_tokens":-1}"#).contains("`max_tokens`"));
        assert!(error(r#"{"model":"m","model":"n"}"#).contains("given twice"));
        assert!(facts("/v1/v1/chat/completions", "{}").unwrap_err().0.contains("base URL"));
        assert_eq!(facts("/openai/deployments/d1/chat/completions", "{}").unwrap().model.as_deref(), Some("d1"));
    }

    #[test]
    fn what_is_billed_by_other_units_is_read_from_json_and_from_forms() {
        let speech = facts("/v1/audio/speech", r#"{"model":"tts-1","input":"h\u00e9llo"}"#).unwrap();
        assert_eq!((speech.billing, speech.known.get(Component::InputCharacters)), (Billing::Units, Some(5)));
        let spoken = facts("/v1/audio/speech", r#"{"model":"gpt-4o-mini-tts","input":"hi","stream_format":"sse"}"#);
        assert!(spoken.is_ok_and(|f| f.stream));
        let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\
            --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "multipart/form-data; boundary=b".parse().unwrap());
        let head =
            RequestHead { method: &Method::POST, path: "/v1/audio/transcriptions", query: None, headers: &headers };
        let read = OpenAi.read_request(&head, form.as_bytes()).unwrap();
        assert_eq!((read.model.as_deref(), read.endpoint), (Some("whisper-1"), "audio.transcriptions"));
    }

    #[test]
    fn a_list_of_prompts_is_that_many_choices() {
        let choices =
            |p: &str| facts("/v1/completions", &format!(r#"{{"model":"m","n":2,"prompt":{p}}}"#)).unwrap().choices;
        assert_eq!(
            (choices(r#""a""#), choices(r#"["a","b","c"]"#), choices("[1,2,3]"), choices("[[1],[2]]")),
            (2, 6, 2, 4)
        );
    }
}
