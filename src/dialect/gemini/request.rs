//! Reads requests of Google's protocols: the model and the method stand in the path, names in the body may be written in
//! either of protobuf's two ways.

use http::Method;
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
    "agent",
    "stream",
    "contents",
    "systemInstruction",
    "system_instruction",
    "generationConfig",
    "generation_config",
    "tools",
    "input",
    "requests",
    "instances",
];
const TEXT_PARTS: &[&str] =
    &["systemInstruction", "system_instruction", "contents", "content", "requests", "instances", "input"];
const JSON_PARTS: &[&str] = &["tools"];
const MAX_CLAIM: usize = 256;
const MAX_CLAIMS: usize = 16;

/// The last two parts of `…/models/M:method`: what is asked of which model. Tuned models and Vertex's endpoints stand in
/// the place of models.
pub(super) fn method_of(path: &str) -> Option<(&str, &str)> {
    let (rest, method) = path.rsplit('/').next()?.rsplit_once(':')?;
    Some((rest, method)).filter(|(model, method)| !model.is_empty() && !method.is_empty())
}

/// What a path is (provider-usage 1 and 4, 2026-11-23).
pub(super) fn endpoint(method: &Method, path: &str) -> (&'static str, Metering) {
    use Metering::{Free, Metered, Retrieval, Unmetered};
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let post = method == Method::POST;
    let get = method == Method::GET || method == Method::HEAD;
    let has = |name| parts.contains(&name);
    let unmetered = ("unmetered", Unmetered);
    if let Some((_, verb)) = method_of(path).filter(|_| post) {
        return match verb {
            "generateContent" | "streamGenerateContent" => ("generateContent", Metered),
            "embedContent" | "batchEmbedContents" => ("embeddings", Metered),
            "predict" => ("predict", Metered),
            "countTokens" | "computeTokens" => ("countTokens", Free),
            "rawPredict" | "streamRawPredict" if has("anthropic") => ("messages", Metered),
            "rawPredict" | "streamRawPredict" if has("mistralai") => ("chat.completions", Metered),
            "cancel" | "fetchPredictOperation" | "wait" => ("operations", Free),
            _ => unmetered,
        };
    }
    match parts.as_slice() {
        [.., "interactions"] if post => ("interactions", Metered),
        [.., "interactions", _] if get => ("interactions.retrieve", Retrieval),
        [.., "interactions", _, "cancel"] if post => ("interactions.cancel", Free),
        [.., "interactions", _] if method == Method::DELETE => ("interactions.delete", Free),
        _ if has("files") || has("cachedContents") => ("files", Free),
        [.., "models"] | [.., "models", _] if get => ("models", Free),
        _ if get && ["operations", "batches", "tunedModels", "fileSearchStores"].into_iter().any(has) => {
            ("lists", Free)
        }
        _ => unmetered,
    }
}

/// The facts of a request for `endpoint`.
pub(super) fn read(
    endpoint: &'static str,
    metering: Metering,
    head: &RequestHead,
    body: &[u8],
) -> Result<CallFacts, DialectError> {
    let mut facts = CallFacts::of(endpoint, metering);
    facts.asked_for_usage = true;
    let (model, method) = method_of(head.path).unzip();
    facts.model = model.map(str::to_owned);
    facts.stream = method == Some("streamGenerateContent");
    facts.response_id = interaction(endpoint, head.path);
    if metering == Metering::Retrieval {
        facts.stream = head.query.is_some_and(|q| q.split('&').any(|p| p == "stream=true"));
        return Ok(facts);
    }
    if metering != Metering::Metered {
        return Ok(facts);
    }
    let members = Members::of_body(body, KNOWN)?;
    match endpoint {
        "interactions" => interactions(&members, &mut facts)?,
        "embeddings" => facts.billing = Billing::Input,
        "predict" => {
            let embeds = facts.model.as_deref().is_some_and(|m| m.contains("embedding") || m.contains("gecko"));
            facts.billing = if embeds { Billing::Input } else { Billing::Units };
        }
        _ => {}
    }
    output(&members, &mut facts)?;
    weigh(&members, &mut facts);
    tools(&members, &mut facts);
    if ["cachedContent", "cached_content"].iter().any(|n| members.get(n).is_some()) {
        facts.unbounded = true;
    }
    context(&members, head, &mut facts);
    for (name, value) in members.get("labels").and_then(Members::of).iter().flat_map(Members::iter) {
        if facts.claimed.len() < MAX_CLAIMS
            && let Ok(value) = serde_json::from_str::<String>(value.get())
        {
            facts.claimed.insert(format!("labels.{}", cut(name, 64)), cut(&value, MAX_CLAIM).into());
        }
    }
    Ok(facts)
}

/// The id in `…/interactions/{id}` and below it.
fn interaction(endpoint: &str, path: &str) -> Option<String> {
    let mut parts = path.split('/').filter(|p| !p.is_empty()).rev();
    let id = match endpoint {
        "interactions.retrieve" | "interactions.delete" => parts.next(),
        "interactions.cancel" => parts.nth(1),
        _ => None,
    };
    id.map(str::to_owned)
}

fn interactions(members: &Members, facts: &mut CallFacts) -> Result<(), DialectError> {
    facts.model = members.text("model")?.filter(|m| !m.is_empty());
    facts.model_in_body = facts.model.is_some();
    facts.model = facts.model.take().or(members.text("agent")?).filter(|m| !m.is_empty());
    if facts.model.is_none() {
        return Err(DialectError("`model` is missing: name a model, or an `agent`".into()));
    }
    facts.stream = members.truth("stream")?.unwrap_or(false);
    facts.job = members.truth("background").ok().flatten().unwrap_or(false);
    facts.continues = members.text("previous_interaction_id").ok().flatten();
    // An agent reads and writes on its own, out of sight.
    facts.unbounded = facts.continues.is_some() || members.get("agent").is_some();
    Ok(())
}

/// The configuration of the output, and the name of the member it is written in.
fn configuration<'a>(members: &Members<'a>) -> Option<(&'static str, Members<'a>)> {
    ["generationConfig", "generation_config"].into_iter().find_map(|n| Some((n, Members::of(members.get(n)?)?)))
}

fn output(members: &Members, facts: &mut CallFacts) -> Result<(), DialectError> {
    let config = configuration(members);
    let inside = config.as_ref().map(|(_, c)| c);
    let count = |names: [&str; 2]| -> Result<Option<u64>, DialectError> {
        for (name, config) in names.into_iter().filter_map(|n| Some((n, inside?))) {
            if let Some(n) = config.count(name)? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    };
    facts.output_cap = count(["maxOutputTokens", "max_output_tokens"])?;
    facts.choices = count(["candidateCount", "candidate_count"])?.unwrap_or(1).max(1);
    let snake = inside.is_some_and(|c| c.get("max_output_tokens").is_some()) || facts.endpoint == "interactions";
    facts.output_cap_field = match (facts.endpoint, config.as_ref().map(|(n, _)| *n), snake) {
        ("generateContent" | "interactions", Some("generation_config"), true) => {
            Some("generation_config.max_output_tokens")
        }
        ("generateContent", Some("generation_config"), false) => Some("generation_config.maxOutputTokens"),
        ("generateContent", _, true) => Some("generationConfig.max_output_tokens"),
        ("generateContent", _, false) => Some("generationConfig.maxOutputTokens"),
        ("interactions", _, _) => Some("generation_config.max_output_tokens"),
        _ => None,
    };
    Ok(())
}

fn weigh(members: &Members, facts: &mut CallFacts) {
    let mut prompt = Prompt::with_media(facts.model.as_deref());
    prompt.add(members, TEXT_PARTS, JSON_PARTS);
    if let Some((_, config)) = configuration(members) {
        for name in ["responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"] {
            prompt.add_json(config.get(name));
        }
    }
    facts.input_bytes = prompt.weight.text_bytes;
    facts.input_allowance = prompt.weight.allowance;
    facts.unbounded |= prompt.weight.unbounded;
}

fn tools(members: &Members, facts: &mut CallFacts) {
    for tool in members.list("tools") {
        let Some(tool) = Members::of(tool) else { continue };
        let declared =
            ["functionDeclarations", "function_declarations"].iter().map(|n| tool.list(n).len()).sum::<usize>();
        let named = tool.iter().filter(|(name, _)| !name.starts_with("function")).count();
        // Interactions write one object a tool, with its type in it.
        let flat = tool.text("type").ok().flatten();
        let offered = if flat.is_some() { 1 } else { declared + named };
        facts.tools_offered = facts.tools_offered.saturating_add(offered.min(u32::MAX as usize) as u32);
        match flat {
            Some(kind) => hosted(&kind, facts),
            None => tool.iter().for_each(|(name, _)| hosted(name, facts)),
        }
    }
    if matches!(facts.endpoint, "generateContent" | "interactions") {
        facts.input_allowance += framing(facts.model.as_deref().unwrap_or_default(), facts.tools_offered);
    }
}

/// Tools that Google runs itself put into the prompt what nobody here sees; searches have a fee.
fn hosted(name: &str, facts: &mut CallFacts) {
    match name {
        "function" | "functionDeclarations" | "function_declarations" => return,
        "googleSearch"
        | "google_search"
        | "googleSearchRetrieval"
        | "google_search_retrieval"
        | "enterpriseWebSearch"
        | "enterprise_web_search" => {
            if facts.hosted_fees.is_empty() {
                facts.hosted_fees.push((Component::WebSearches, None));
            }
        }
        _ => {}
    }
    facts.unbounded = true;
}

/// Names of the tools offered; of those that run at Google, what they are called (`google_search`, `code_execution`).
pub(super) fn tool_names(body: &[u8]) -> Option<Vec<String>> {
    let members = Members::of_body(body, &[]).ok()?;
    let mut names = Vec::new();
    for tool in members.list("tools") {
        let Some(tool) = Members::of(tool) else { continue };
        let text = |m: &Members, name: &str| m.text(name).ok().flatten();
        match text(&tool, "type") {
            Some(kind) if kind == "function" => names.push(text(&tool, "name").unwrap_or_else(|| "(unnamed)".into())),
            Some(kind) => names.push(kind),
            None => {
                for (name, value) in tool.iter() {
                    if !matches!(name, "functionDeclarations" | "function_declarations") {
                        names.push(snake(name));
                        continue;
                    }
                    let declared: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
                    let named = declared.into_iter().map(|d| Members::of(d).and_then(|d| text(&d, "name")));
                    // One that has no name can be in no list of names.
                    names.extend(named.map(|n| n.unwrap_or_else(|| "(unnamed)".into())));
                }
            }
        }
    }
    Some(names)
}

/// One spelling for both of protobuf's: `googleSearch` is `google_search`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Modifiers of the price as asked for.
fn context(members: &Members, head: &RequestHead, facts: &mut CallFacts) {
    let mut tier = None;
    for name in ["serviceTier", "service_tier"] {
        tier = tier.or(members.text(name).ok().flatten());
    }
    let header = head.headers.get("x-vertex-ai-llm-shared-request-type").and_then(|v| v.to_str().ok());
    if let Some(tier) = tier.or(header.map(str::to_owned)) {
        facts.price_context.insert("service_tier".into(), tier.to_lowercase());
    }
}

/// The text of a request, for counting.
pub(super) fn prompt_text(body: &[u8]) -> String {
    Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
}

/// The body of a request to a model of another vendor on Vertex, which leaves its model to the path.
pub(super) fn foreign(body: &[u8], model: &str) -> Option<Vec<u8>> {
    let members: Members = Members::of_body(body, &[]).ok()?;
    if members.get("model").is_some() {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() + model.len() + 16);
    let name = serde_json::to_string(model).ok()?;
    let open = body.iter().position(|b| *b == b'{')?;
    out.extend_from_slice(&body[..=open]);
    out.extend_from_slice(format!("\"model\":{name}").as_bytes());
    if members.iter().next().is_some() {
        out.push(b',');
    }
    out.extend_from_slice(&body[open + 1..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn facts(path: &str, body: &str) -> Result<CallFacts, DialectError> {
        let headers = HeaderMap::new();
        let head = RequestHead { method: &Method::POST, path, query: None, headers: &headers };
        let (endpoint, metering) = endpoint(&Method::POST, path);
        read(endpoint, metering, &head, body.as_bytes())
    }

    #[test]
    fn a_request_tells_what_it_may_cost_in_either_spelling() {
        for (config, max, count, system, field) in [
            (
                "generationConfig",
                "maxOutputTokens",
                "candidateCount",
                "systemInstruction",
                "generationConfig.maxOutputTokens",
            ),
            (
                "generation_config",
                "max_output_tokens",
                "candidate_count",
                "system_instruction",
                "generation_config.max_output_tokens",
            ),
        ] {
            let body = format!(
                r#"{{"contents":[{{"role":"user","parts":[{{"text":"hello"}}]}}],"{system}":{{"parts":[{{"text":"be kind"}}]}},
                "{config}":{{"{max}":50,"{count}":2}},"tools":[{{"functionDeclarations":[{{"name":"f"}},{{"name":"g"}}]}}]}}"#
            );
            let f = facts("/v1beta/models/gemini-2.5-flash:streamGenerateContent", &body).unwrap();
            assert_eq!((f.model.as_deref(), f.stream, f.unbounded), (Some("gemini-2.5-flash"), true, false));
            assert_eq!((f.output_cap, f.output_cap_field, f.choices, f.tools_offered), (Some(50), Some(field), 2, 2));
            assert_eq!(
                f.input_bytes,
                8 + 5 + 7 + r#"[{"functionDeclarations":[{"name":"f"},{"name":"g"}]}]"#.len() as u64
            );
        }
    }

    #[test]
    fn what_cannot_be_seen_is_unbounded_and_searches_have_a_fee() {
        let of = |extra: &str| {
            facts("/v1/models/gemini-3-pro:generateContent", &format!(r#"{{"contents":[],{extra}}}"#)).unwrap()
        };
        assert!(!of(r#""safetySettings":[]"#).unbounded);
        assert!(of(r#""cachedContent":"cachedContents/1""#).unbounded);
        assert!(of(r#""tools":[{"codeExecution":{}}]"#).unbounded);
        let file = r#"{"contents":[{"parts":[{"fileData":{"fileUri":"gs://b/x.mp4","mimeType":"video/mp4"}}]}]}"#;
        assert!(facts("/v1/models/gemini-3-pro:generateContent", file).unwrap().unbounded);
        let offered = br#"{"tools":[{"googleSearch":{}},{"function_declarations":[{"name":"f"},{}]},{"type":"function","name":"g"}]}"#;
        assert_eq!(tool_names(offered).unwrap(), ["google_search", "f", "(unnamed)", "g"]);
        let search = of(r#""tools":[{"googleSearch":{}},{"functionDeclarations":[{"name":"f"}]}]"#);
        assert_eq!((search.hosted_fees.as_slice(), search.tools_offered), (&[(Component::WebSearches, None)][..], 2));
        let agent =
            facts("/v1beta/interactions", r#"{"agent":"deep-research","input":"x","background":true}"#).unwrap();
        assert!(agent.job && agent.unbounded);
        assert_eq!(agent.model.as_deref(), Some("deep-research"));
    }

    #[test]
    fn paths_are_known_on_both_hosts() {
        use Metering::*;
        let vertex = "/v1beta1/projects/p/locations/global/publishers/google/models/gemini-3-pro";
        for (method, path, want) in [
            ("POST", "/v1beta/models/gemini-2.5-flash:generateContent".to_owned(), ("generateContent", Metered)),
            ("POST", format!("{vertex}:streamGenerateContent"), ("generateContent", Metered)),
            ("POST", "/v1beta1/publishers/google/models/gemini-3:generateContent".into(), ("generateContent", Metered)),
            ("POST", "/v1/projects/p/locations/l/endpoints/123:generateContent".into(), ("generateContent", Metered)),
            ("POST", format!("{vertex}:countTokens"), ("countTokens", Free)),
            ("POST", "/v1beta/models/gemini-embedding-2:batchEmbedContents".into(), ("embeddings", Metered)),
            ("POST", format!("{vertex}:predict"), ("predict", Metered)),
            ("POST", format!("{vertex}:predictLongRunning"), ("unmetered", Unmetered)),
            (
                "POST",
                "/v1/projects/p/locations/l/publishers/anthropic/models/claude:rawPredict".into(),
                ("messages", Metered),
            ),
            ("POST", "/v1beta/interactions".into(), ("interactions", Metered)),
            ("GET", "/v1beta/interactions/v1_x".into(), ("interactions.retrieve", Retrieval)),
            ("POST", "/v1beta/models/gemini-3:batchGenerateContent".into(), ("unmetered", Unmetered)),
            ("GET", "/v1beta/models".into(), ("models", Free)),
            ("POST", "/upload/v1beta/files".into(), ("files", Free)),
            ("GET", "/v1beta/models/gemini-3:generateContent".into(), ("models", Free)),
        ] {
            assert_eq!(endpoint(&method.parse().unwrap(), &path), want, "{method} {path}");
        }
        let stored = read("interactions.retrieve", Retrieval, &head_of("/v1beta/interactions/v1_x"), b"").unwrap();
        assert_eq!(stored.response_id.as_deref(), Some("v1_x"));
    }

    fn head_of(path: &'static str) -> RequestHead<'static> {
        static EMPTY: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        RequestHead { method: &Method::GET, path, query: None, headers: &EMPTY }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = |path: &str, body: &str| facts(path, body).unwrap_err().0;
        assert!(error("/v1/models/m:generateContent", "[]").contains("not a JSON object"));
        assert!(error("/v1/models/m:generateContent", r#"{"contents":[],"contents":[]}"#).contains("given twice"));
        assert!(
            error("/v1/models/m:generateContent", r#"{"generationConfig":{"maxOutputTokens":-1}}"#)
                .contains("`maxOutputTokens`")
        );
        assert!(error("/v1beta/interactions", "{}").contains("`model` is missing"));
    }
}
