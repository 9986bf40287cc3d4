//! Reads requests of Anthropic's protocol.

use serde_json::value::RawValue;

use crate::dialect::members::Members;
use crate::dialect::prompt::Prompt;
use crate::dialect::reading::cut;
use crate::dialect::tokens::framing;
use crate::dialect::{CallFacts, DialectError, Metering};
use crate::domain::Component;

/// Fields that decide cost: given twice, the request is refused.
const KNOWN: &[&str] =
    &["model", "stream", "max_tokens", "max_tokens_to_sample", "messages", "system", "tools", "prompt", "speed"];
const TEXT_PARTS: &[&str] = &["system", "messages", "prompt"];
const JSON_PARTS: &[&str] = &["tools", "output_format", "output_config"];
const MAX_CLAIM: usize = 256;

/// The facts of a request for `endpoint`.
pub fn read(endpoint: &'static str, metering: Metering, body: &[u8]) -> Result<CallFacts, DialectError> {
    let mut facts = CallFacts::of(endpoint, metering);
    facts.asked_for_usage = true;
    if metering != Metering::Metered {
        if let Ok(members) = Members::of_body(body, &[]) {
            facts.model = members.text("model").ok().flatten();
            facts.stream = members.truth("stream").ok().flatten().unwrap_or(false);
        }
        return Ok(facts);
    }
    let members = Members::of_body(body, KNOWN)?;
    facts.model = members.text("model")?.filter(|m| !m.is_empty());
    if facts.model.is_none() {
        return Err(DialectError("`model` is missing: name the model, such as \"model\": \"claude-opus-5\"".into()));
    }
    facts.model_in_body = true;
    facts.stream = members.truth("stream")?.unwrap_or(false);
    let field = if endpoint == "complete" { "max_tokens_to_sample" } else { "max_tokens" };
    facts.output_cap = members.count(field)?;
    facts.output_cap_field = Some(field);
    let mut prompt = Prompt::measure(None);
    prompt.add(&members, TEXT_PARTS, JSON_PARTS);
    facts.input_bytes = prompt.weight.text_bytes;
    facts.input_allowance = prompt.weight.allowance;
    // A container keeps files and a transcript at the vendor; MCP servers answer where nobody here sees it.
    let hidden = ["container", "mcp_servers"].iter().any(|n| members.get(n).is_some());
    facts.unbounded = prompt.weight.unbounded || hidden;
    tools(&members, &mut facts);
    for name in ["service_tier", "speed", "inference_geo"] {
        if let Ok(Some(value)) = members.text(name) {
            facts.price_context.insert(name.into(), value);
        }
    }
    let user = members.get("metadata").and_then(Members::of).and_then(|m| m.text("user_id").ok().flatten());
    if let Some(user) = user {
        facts.claimed.insert("metadata.user_id".into(), cut(&user, MAX_CLAIM).into());
    }
    Ok(facts)
}

fn tools(members: &Members, facts: &mut CallFacts) {
    let tools = members.list("tools");
    facts.tools_offered = tools.len().min(u32::MAX as usize) as u32;
    facts.input_allowance += framing(facts.model.as_deref().unwrap_or_default(), facts.tools_offered);
    for tool in tools {
        hosted(tool, facts);
    }
}

/// Tools that Anthropic runs itself put into the prompt what nobody here sees; searches have a fee.
fn hosted(tool: &RawValue, facts: &mut CallFacts) {
    let Some(tool) = Members::of(tool) else { return };
    let kind = tool.text("type").ok().flatten().unwrap_or_default();
    let runs_there = ["web_search", "web_fetch", "code_execution", "advisor", "tool_search", "mcp_toolset"];
    if kind.starts_with("web_search") && facts.hosted_fees.is_empty() {
        facts.hosted_fees.push((Component::WebSearches, tool.count("max_uses").ok().flatten()));
    }
    // The client's own tools (bash, text editor, computer) come with a description of about 700 tokens each.
    if ["bash_", "text_editor_", "computer_"].iter().any(|p| kind.starts_with(p)) {
        facts.input_allowance += 700;
    }
    facts.unbounded |= runs_there.iter().any(|p| kind.starts_with(p));
}

/// Names of the tools offered; of those that run at Anthropic, their types.
pub fn tool_names(body: &[u8]) -> Option<Vec<String>> {
    let members = Members::of_body(body, &[]).ok()?;
    let named = |tool: &RawValue| {
        let tool = Members::of(tool)?;
        let text = |name: &str| tool.text(name).ok().flatten();
        text("type").filter(|kind| kind != "custom").or_else(|| text("name"))
    };
    // One that has no name can be in no list of names.
    let mut names: Vec<String> =
        members.list("tools").into_iter().map(|tool| named(tool).unwrap_or_else(|| "(unnamed)".to_owned())).collect();
    if members.get("mcp_servers").is_some() {
        names.push("mcp".to_owned());
    }
    Some(names)
}

/// The text of a request, for counting.
pub fn prompt_text(body: &[u8]) -> String {
    Prompt::text_of(body, TEXT_PARTS, JSON_PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(body: &str) -> Result<CallFacts, DialectError> {
        read("messages", Metering::Metered, body.as_bytes())
    }

    #[test]
    fn a_message_request_tells_what_it_may_cost() {
        let f = facts(
            r#"{"model":"claude-opus-5","max_tokens":1024,"stream":true,"system":[{"type":"text","text":"be kind"}],
                "messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}],"metadata":{"user_id":"u"},"speed":"fast"}"#,
        )
        .unwrap();
        assert!(f.stream && f.asked_for_usage && !f.unbounded);
        assert_eq!((f.output_cap, f.output_cap_field, f.input_bytes), (Some(1024), Some("max_tokens"), 7 + 8 + 5));
        assert_eq!((f.claimed["metadata.user_id"].as_str(), f.price_context["speed"].as_str()), ("u", "fast"));
    }

    #[test]
    fn hosted_tools_are_unbounded_and_searches_have_a_fee() {
        let f = facts(r#"{"model":"m","max_tokens":1,"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5}]}"#)
            .unwrap();
        assert_eq!(f.hosted_fees, [(Component::WebSearches, Some(5))]);
        assert!(f.unbounded);
        assert!(facts("{}").unwrap_err().0.contains("`model` is missing"));
    }
}
