//! What a request to the sandbox asks for, whichever API it came by.

use serde_json::Value;

use super::super::random::fnv;
use super::faults::Directive;

/// A request, read.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub model: String,
    /// Everything the model reads, in order.
    pub prompt: String,
    /// Bytes of `prompt` that the caller marked as worth caching (Anthropic's `cache_control`), and for an hour or not.
    pub marked: Option<(usize, bool)>,
    /// Messages: each costs a few tokens of its own.
    pub messages: u64,
    /// Tools offered, as (name, schema of the arguments).
    pub tools: Vec<(String, Value)>,
    /// The caller insists on a tool.
    pub tool_required: bool,
    /// The last message is a tool's result, so the answer is text.
    pub after_tool: bool,
    pub max_output: Option<u64>,
    pub stream: bool,
    /// OpenAI: `stream_options.include_usage`.
    pub include_usage: bool,
    pub choices: u64,
    pub service_tier: Option<String>,
    pub directive: Option<Directive>,
    /// Who the caller says the user is.
    pub user: Option<String>,
    /// What tests know a call by: `metadata.run`, else the user.
    pub marker: Option<String>,
    pub fingerprint: u64,
}

impl Ask {
    /// Reads a body of `/chat/completions`, `/completions`, `/responses`, `/embeddings`, `/messages` or `/complete`.
    pub fn read(raw: &[u8], body: &Value) -> Ask {
        let mut ask = Ask { fingerprint: fnv(raw), choices: 1, ..Ask::default() };
        ask.model = text(body, "model").unwrap_or_default();
        ask.stream = body["stream"].as_bool().unwrap_or(false);
        ask.include_usage = body["stream_options"]["include_usage"].as_bool().unwrap_or(false);
        ask.choices = body["n"].as_u64().unwrap_or(1).clamp(1, 16);
        ask.service_tier = text(body, "service_tier");
        ask.max_output = ["max_completion_tokens", "max_tokens", "max_output_tokens", "max_tokens_to_sample"]
            .iter()
            .find_map(|field| body[*field].as_u64());
        ask.user = text(body, "user")
            .or_else(|| text(body, "safety_identifier"))
            .or_else(|| text(&body["metadata"], "user_id"));
        ask.marker = text(&body["metadata"], "run").or_else(|| ask.user.clone());
        ask.directive = ask.user.as_deref().and_then(Directive::parse).or_else(|| Directive::parse(&ask.model));
        ask.read_tools(body);
        for field in ["system", "instructions"] {
            ask.add(&body[field]);
        }
        for field in ["messages", "input", "prompt"] {
            ask.add_list(&body[field]);
        }
        ask
    }

    fn read_tools(&mut self, body: &Value) {
        for tool in body["tools"].as_array().into_iter().flatten() {
            let inner = if tool["function"].is_object() { &tool["function"] } else { tool };
            let schema = if inner["input_schema"].is_object() { &inner["input_schema"] } else { &inner["parameters"] };
            if let Some(name) = text(inner, "name") {
                self.prompt.push_str(&inner.to_string());
                self.tools.push((name, schema.clone()));
            }
            self.mark(tool);
        }
        let choice = &body["tool_choice"];
        self.tool_required = matches!(choice.as_str(), Some("required"))
            || choice["type"].as_str().is_some_and(|kind| matches!(kind, "any" | "tool" | "function"));
        if choice.as_str() == Some("none") || choice["type"].as_str() == Some("none") {
            self.tools.clear();
        }
    }

    fn add_list(&mut self, value: &Value) {
        match value {
            Value::Array(items) => {
                for item in items {
                    self.messages += 1;
                    self.after_tool = is_tool_result(item);
                    self.add(item);
                }
            }
            Value::Null => {}
            other => {
                self.messages += 1;
                self.add(other);
            }
        }
    }

    /// Text wherever it stands: strings, parts, messages, tool results.
    fn add(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                self.prompt.push_str(text);
                self.prompt.push('\n');
            }
            Value::Array(parts) => parts.iter().for_each(|part| self.add(part)),
            Value::Object(part) => {
                for field in ["role", "content", "text", "output", "arguments", "input", "name", "thinking"] {
                    match part.get(field) {
                        Some(Value::Object(inner)) if field == "input" => {
                            self.prompt.push_str(&Value::Object(inner.clone()).to_string());
                        }
                        Some(inner) => self.add(inner),
                        None => {}
                    }
                }
                self.mark(value);
            }
            Value::Number(number) => self.prompt.push_str(&number.to_string()),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn mark(&mut self, value: &Value) {
        if value["cache_control"].is_object() {
            let hour = value["cache_control"]["ttl"].as_str() == Some("1h");
            self.marked = Some((self.prompt.len(), hour));
        }
    }
}

fn is_tool_result(message: &Value) -> bool {
    message["role"].as_str() == Some("tool")
        || message["type"].as_str() == Some("function_call_output")
        || message["content"].as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_result"))
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Ask {
        Ask::read(body.to_string().as_bytes(), &body)
    }

    #[test]
    fn both_dialects_are_read_to_the_same_facts() {
        let openai = read(json!({"model": "gpt-5.2", "max_completion_tokens": 50, "stream": true,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "weigh this"}]}],
            "tools": [{"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}]}));
        let anthropic = read(json!({"model": "claude-sonnet-5-5", "max_tokens": 50, "stream": true,
            "messages": [{"role": "user", "content": "weigh this"}],
            "tools": [{"name": "weigh", "input_schema": {"type": "object"}}]}));
        for ask in [openai, anthropic] {
            assert!(ask.stream && ask.max_output == Some(50) && ask.messages == 1, "{ask:?}");
            assert!(ask.prompt.contains("weigh this"));
            assert_eq!(ask.tools[0].0, "weigh");
        }
    }

    #[test]
    fn a_tool_result_asks_for_text_and_a_user_may_carry_a_directive() {
        let ask = read(json!({"model": "m", "user": "sandbox-error-500",
            "messages": [{"role": "tool", "tool_call_id": "x", "content": "7 t"}]}));
        assert!(ask.after_tool);
        assert_eq!(ask.directive, Some(Directive::Error(500)));
    }

    #[test]
    fn what_is_marked_for_the_cache_ends_where_the_mark_stands() {
        let ask = read(json!({"model": "m", "max_tokens": 5,
            "system": [{"type": "text", "text": "long rules", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [{"role": "user", "content": "question"}]}));
        let (end, hour) = ask.marked.unwrap();
        assert!(hour && ask.prompt[..end].contains("long rules") && !ask.prompt[..end].contains("question"));
    }
}
