//! Reads requests of Bedrock: the model stands in the path, URL-encoded; the body is Bedrock's own (`converse`) or the
//! vendor's (`invoke`).

use http::Method;
use serde_json::value::RawValue;

use crate::dialect::members::Members;
use crate::dialect::prompt::Prompt;
use crate::dialect::reading::cut;
use crate::dialect::tokens::framing;
use crate::dialect::{Billing, CallFacts, DialectError, Metering, RequestHead};

/// Fields that decide cost: given twice, the request is refused.
const KNOWN: &[&str] = &[
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "max_tokens",
    "prompt",
    "inputText",
    "textGenerationConfig",
    "anthropic_version",
    "tools",
];
const TEXT_PARTS: &[&str] = &[
    "system",
    "messages",
    "prompt",
    "inputText",
    "message",
    "chat_history",
    "texts",
    "query",
    "documents",
    "preamble",
    "content",
    "singleEmbeddingParams",
];
const JSON_PARTS: &[&str] = &["toolConfig", "tools", "outputConfig"];
const MAX_CLAIM: usize = 256;
const MAX_CLAIMS: usize = 16;

/// What a path is (provider-usage 6, 2026-11-23), and the part of it that names the model.
pub(super) fn endpoint<'a>(method: &Method, path: &'a str) -> (&'static str, Metering, Option<&'a str>) {
    use Metering::{Free, Metered, Unmetered};
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let post = method == Method::POST;
    match parts.as_slice() {
        [.., "model", model, "converse" | "converse-stream"] if post => ("converse", Metered, Some(model)),
        [.., "model", model, "invoke" | "invoke-with-response-stream"] if post => ("invoke", Metered, Some(model)),
        [.., "model", model, "count-tokens"] if post => ("countTokens", Free, Some(model)),
        [.., "guardrail", _, "version", _, "apply"] if post => ("guardrail", Metered, None),
        [.., "async-invoke"] if method == Method::GET => ("lists", Free, None),
        _ => ("unmetered", Unmetered, None),
    }
}

/// The model behind its URL encoding. Of an ARN the part that names a model: the price list knows no accounts.
pub(super) fn model(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((b, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *b == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(*b);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split_once('/') {
        // `…:foundation-model/M`, `…:inference-profile/us.M` name a model; others (provisioned, imported) only an id.
        Some((kind, name)) if kind.ends_with(":foundation-model") || kind.ends_with(":inference-profile") => {
            name.to_owned()
        }
        _ => text,
    }
}

/// The facts of a request.
pub(super) fn read(head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
    let (endpoint, metering, segment) = endpoint(head.method, head.path);
    let mut facts = CallFacts::of(endpoint, metering);
    facts.asked_for_usage = true;
    facts.model = segment.map(model);
    facts.stream = head.path.trim_end_matches('/').ends_with("-stream");
    if metering != Metering::Metered {
        return Ok(facts);
    }
    // An embedding may be asked for with a picture as its whole body; all others are objects.
    let members = Members::of_body(body, KNOWN)?;
    let named = facts.model.clone().unwrap_or_default();
    let is = |part: &str| named.contains(part);
    facts.billing = match endpoint {
        "guardrail" => Billing::Units,
        "invoke" if is("embed") => Billing::Input,
        "invoke" if ["rerank", "image", "canvas", "stability.", "reel", "luma."].into_iter().any(is) => Billing::Units,
        _ => Billing::Tokens,
    };
    if endpoint == "invoke" && facts.billing == Billing::Tokens {
        facts.endpoint = shape(&members, &named);
    }
    output(&members, &mut facts)?;
    let mut prompt = Prompt::with_media(facts.model.as_deref());
    prompt.add(&members, TEXT_PARTS, JSON_PARTS);
    facts.input_bytes = prompt.weight.text_bytes;
    facts.input_allowance = prompt.weight.allowance;
    facts.unbounded = prompt.weight.unbounded;
    let tools = members.get("toolConfig").and_then(Members::of).map(|t| t.list("tools").len()).unwrap_or_default();
    facts.tools_offered = tools.max(members.list("tools").len()).min(u32::MAX as usize) as u32;
    if facts.billing == Billing::Tokens {
        facts.input_allowance += framing(&named, facts.tools_offered);
    }
    if let Some(tier) = members.get("serviceTier").and_then(Members::of).and_then(|t| t.text("type").ok().flatten()) {
        facts.price_context.insert("service_tier".into(), tier);
    }
    for (name, value) in members.get("requestMetadata").and_then(Members::of).iter().flat_map(Members::iter) {
        if facts.claimed.len() < MAX_CLAIMS
            && let Ok(value) = serde_json::from_str::<String>(value.get())
        {
            facts.claimed.insert(format!("requestMetadata.{}", cut(name, 64)), cut(&value, MAX_CLAIM).into());
        }
    }
    Ok(facts)
}

/// Names of the tools offered, Amazon's own (`systemTool`) among them.
pub(super) fn tool_names(body: &[u8]) -> Option<Vec<String>> {
    let members = Members::of_body(body, &[]).ok()?;
    let config = members.get("toolConfig").and_then(Members::of);
    let tools = config.map(|c| c.list("tools")).unwrap_or_default();
    let named = |tool: &RawValue| {
        let tool = Members::of(tool)?;
        let inside = ["toolSpec", "systemTool"].into_iter().find_map(|n| tool.get(n)).and_then(Members::of);
        inside?.text("name").ok().flatten()
    };
    // A cache point between them is no tool; what has no name can be in no list of names.
    let is_tool = |tool: &&RawValue| Members::of(tool).is_none_or(|t| t.get("cachePoint").is_none());
    let names = tools.into_iter().filter(is_tool).map(|tool| named(tool).unwrap_or_else(|| "(unnamed)".to_owned()));
    Some(names.collect())
}

/// Which protocol the body of an `invoke` is in: the answer will be in it too. The id may be an ARN that names no vendor.
fn shape(members: &Members, model: &str) -> &'static str {
    let has = |name: &str| members.get(name).is_some();
    if has("anthropic_version") && has("messages") {
        "invoke.messages"
    } else if has("inferenceConfig") || has("schemaVersion") || has("inputText") || model.contains("amazon.nova") {
        "invoke"
    } else if has("messages") {
        "invoke.chat"
    } else {
        "invoke"
    }
}

/// The output cap stands in a different place for each vendor.
fn output(members: &Members, facts: &mut CallFacts) -> Result<(), DialectError> {
    let nested = |object: &str, name: &str| -> Result<Option<u64>, DialectError> {
        members.get(object).and_then(Members::of).map_or(Ok(None), |o| o.count(name))
    };
    let model = facts.model.as_deref().unwrap_or_default();
    let (cap, field) = match facts.endpoint {
        "converse" => (nested("inferenceConfig", "maxTokens")?, Some("inferenceConfig.maxTokens")),
        "invoke.messages" => (members.count("max_tokens")?, Some("max_tokens")),
        "invoke.chat" => {
            let newer = members.count("max_completion_tokens")?;
            let field = if newer.is_some() { "max_completion_tokens" } else { "max_tokens" };
            (newer.or(members.count("max_tokens")?), Some(field))
        }
        "invoke" if members.get("inputText").is_some() && facts.billing == Billing::Tokens => {
            (nested("textGenerationConfig", "maxTokenCount")?, Some("textGenerationConfig.maxTokenCount"))
        }
        "invoke" if model.contains("nova") || members.get("inferenceConfig").is_some() => {
            let older = nested("inferenceConfig", "max_new_tokens")?;
            let field = if older.is_some() { "inferenceConfig.max_new_tokens" } else { "inferenceConfig.maxTokens" };
            (older.or(nested("inferenceConfig", "maxTokens")?), Some(field))
        }
        "invoke" => {
            let mut found = (None, None);
            for name in ["max_tokens", "max_gen_len", "max_tokens_to_sample", "maxTokens"] {
                if let Some(cap) = members.count(name)? {
                    found = (Some(cap), Some(name));
                    break;
                }
            }
            found
        }
        _ => (None, None),
    };
    (facts.output_cap, facts.output_cap_field) = (cap, field);
    facts.choices = members.count("num_generations").ok().flatten().unwrap_or(1).max(1);
    Ok(())
}

/// The text of a request, for counting.
pub(super) fn prompt_text(body: &[u8]) -> String {
    Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn facts(path: &str, body: &str) -> CallFacts {
        let headers = HeaderMap::new();
        read(&RequestHead { method: &Method::POST, path, query: None, headers: &headers }, body.as_bytes()).unwrap()
    }

    #[test]
    fn the_model_is_read_out_of_the_path() {
        for (segment, want) in [
            ("us.anthropic.claude-sonnet-4-5-20250929-v1%3A0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
            ("amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0"),
            (
                "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Famazon.titan-tg1-large",
                "amazon.titan-tg1-large",
            ),
            ("arn:aws:bedrock:us-east-1:1:inference-profile%2Fus.amazon.nova-lite-v1%3A0", "us.amazon.nova-lite-v1:0"),
            ("arn:aws:sagemaker:us-east-1:1:endpoint%2Fe", "arn:aws:sagemaker:us-east-1:1:endpoint/e"),
            ("100%", "100%"),
        ] {
            assert_eq!(model(segment), want);
        }
    }

    #[test]
    fn each_vendors_request_tells_its_shape_and_its_cap() {
        for (path, body, endpoint, cap, field) in [
            (
                "/model/m/converse-stream",
                r#"{"messages":[],"inferenceConfig":{"maxTokens":64}}"#,
                "converse",
                Some(64),
                Some("inferenceConfig.maxTokens"),
            ),
            (
                "/model/arn%3Ax/invoke",
                r#"{"anthropic_version":"bedrock-2023-05-31","messages":[],"max_tokens":10}"#,
                "invoke.messages",
                Some(10),
                Some("max_tokens"),
            ),
            (
                "/model/openai.gpt-oss-120b-1:0/invoke",
                r#"{"messages":[],"max_completion_tokens":7}"#,
                "invoke.chat",
                Some(7),
                Some("max_completion_tokens"),
            ),
            (
                "/model/amazon.titan-text-lite-v1/invoke",
                r#"{"inputText":"x","textGenerationConfig":{"maxTokenCount":5}}"#,
                "invoke",
                Some(5),
                Some("textGenerationConfig.maxTokenCount"),
            ),
            (
                "/model/amazon.nova-micro-v1:0/invoke",
                r#"{"messages":[],"inferenceConfig":{"max_new_tokens":9}}"#,
                "invoke",
                Some(9),
                Some("inferenceConfig.max_new_tokens"),
            ),
            ("/model/meta.llama3/invoke", r#"{"prompt":"x","max_gen_len":3}"#, "invoke", Some(3), Some("max_gen_len")),
            ("/model/amazon.titan-embed-text-v2:0/invoke", r#"{"inputText":"x"}"#, "invoke", None, None),
        ] {
            let f = facts(path, body);
            assert_eq!((f.endpoint, f.output_cap), (endpoint, cap), "{path}");
            if cap.is_some() {
                assert_eq!(f.output_cap_field, field, "{path}");
            }
            assert_eq!(f.stream, path.ends_with("-stream"));
        }
        assert_eq!(facts("/model/cohere.embed-v4:0/invoke", r#"{"texts":["a"]}"#).billing, Billing::Input);
        assert_eq!(facts("/model/cohere.rerank-v3-5:0/invoke", r#"{"query":"a"}"#).billing, Billing::Units);
        let tools = br#"{"toolConfig":{"tools":[{"toolSpec":{"name":"f"}},{"cachePoint":{"type":"default"}},{"systemTool":{"name":"nova_grounding"}}]}}"#;
        assert_eq!(tool_names(tools).unwrap(), ["f", "nova_grounding"]);
        let claimed = facts("/model/m/converse", r#"{"messages":[],"requestMetadata":{"team":"a"}}"#).claimed;
        assert_eq!(claimed["requestMetadata.team"], "a");
    }
}
