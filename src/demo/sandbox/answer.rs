//! What the model of the sandbox would say, and what the vendor would bill for it.

use serde_json::Value;

use super::Random;
use super::ask::Ask;
use super::cache::PrefixCache;
use super::faults::Directive;
use super::models::{Model, Vendor};
use super::words;

/// Longest answer that nobody limited, in tokens.
const LONGEST: u64 = 1_500;
/// OpenAI caches prompts from this many tokens on, in steps of 128 (prompt caching guide, 2026-11).
const OPENAI_CACHE_FROM: u64 = 1_024;

/// Why the answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    ToolCalls,
}

/// A tool the model wants run.
#[derive(Clone, Debug)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text in the pieces in which a stream sends it.
    pub arguments: Vec<String>,
}

impl ToolCall {
    pub fn text(&self) -> String {
        self.arguments.concat()
    }
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap_or_default()
    }
}

/// Tokens as the vendor counts them; `input` is everything that went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub cache_read: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    pub output: u64,
    pub reasoning: u64,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub pieces: Vec<String>,
    pub tool: Option<ToolCall>,
    pub finish: Finish,
    pub tokens: Tokens,
}

impl Answer {
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// What `model` answers to `ask`: decided by seed and request alone, but for what the prompt cache remembers.
    pub fn make(seed: u64, model: &Model, ask: &Ask, cache: &PrefixCache) -> Answer {
        let mut random = Random::new(seed ^ ask.fingerprint);
        let mut tokens = input_tokens(model, ask, cache);
        let wanted = match ask.directive {
            Some(Directive::Length(n)) => n,
            _ => (random.log_normal(110.0, 0.8) as u64).clamp(8, LONGEST),
        };
        let limit = ask.max_output.unwrap_or(model.max_output).max(1);
        tokens.reasoning = match (model.reasoning, ask.directive) {
            (_, Some(Directive::Length(_))) | (false, _) => 0,
            (true, _) => (random.log_normal(160.0, 0.7) as u64 / 64 * 64).min(limit / 2),
        };
        let tool = wants_tool(&mut random, ask).then(|| call_a_tool(&mut random, model, ask));
        let mut answer = Answer { pieces: Vec::new(), tool, finish: Finish::ToolCalls, tokens };
        if answer.tool.is_none() {
            answer.write(&mut random, wanted, limit - tokens.reasoning.min(limit));
        }
        let visible = match &answer.tool {
            Some(call) => (count(model.name, &call.text()) + count(model.name, &call.name) + 8).min(limit),
            None => answer.tokens.output,
        };
        answer.tokens.output = visible + answer.tokens.reasoning;
        answer
    }

    /// Writes about `wanted` tokens, at most `limit`. Exactly one piece is one token here: what is billed is what the
    /// vendor says, and a stream sends a token at a time.
    fn write(&mut self, random: &mut Random, wanted: u64, limit: u64) {
        let take = wanted.min(limit);
        self.pieces = words::prose(random).take(take as usize).collect();
        self.tokens.output = take;
        self.finish = if wanted > limit { Finish::Length } else { Finish::Stop };
    }
}

fn wants_tool(random: &mut Random, ask: &Ask) -> bool {
    !ask.tools.is_empty() && !ask.after_tool && (ask.tool_required || random.chance(0.8))
}

fn call_a_tool(random: &mut Random, model: &Model, ask: &Ask) -> ToolCall {
    let (name, schema) = random.pick(&ask.tools).clone();
    let text = words::arguments(random, &schema).to_string();
    let mut arguments: Vec<String> = Vec::new();
    for (index, c) in text.chars().enumerate() {
        match arguments.last_mut() {
            Some(piece) if index % 5 != 0 => piece.push(c),
            _ => arguments.push(c.to_string()),
        }
    }
    let id = match model.vendor {
        Vendor::Anthropic => format!("toolu_01{}", random.token(22)),
        _ => format!("call_{}", random.token(24)),
    };
    ToolCall { id, name, arguments }
}

fn input_tokens(model: &Model, ask: &Ask, cache: &PrefixCache) -> Tokens {
    let input = count(model.name, &ask.prompt) + 4 * ask.messages + 3;
    let mut tokens = Tokens { input, ..Tokens::default() };
    let share = |bytes: usize| input * bytes as u64 / ask.prompt.len().max(1) as u64;
    if model.vendor == Vendor::Anthropic {
        let Some((marked, hour)) = ask.marked.filter(|(marked, _)| share(*marked) >= 1_024) else { return tokens };
        let prefix = ask.prompt.get(..marked).unwrap_or(&ask.prompt);
        tokens.cache_read = share(cache.look(model.name, prefix).bytes);
        let written = share(marked) - tokens.cache_read;
        *(if hour { &mut tokens.cache_write_1h } else { &mut tokens.cache_write_5m }) = written;
    } else if input >= OPENAI_CACHE_FROM {
        tokens.cache_read = share(cache.look(model.name, &ask.prompt).bytes) / 128 * 128;
        if model.cache_writes {
            tokens.cache_write_5m = input / 128 * 128 - tokens.cache_read;
        }
    }
    tokens
}

/// Tokens of a text as the vendor would count them.
pub fn count(_model: &str, text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::super::models::find;
    use super::*;
    use serde_json::json;

    fn answer(model: &str, body: Value, cache: &PrefixCache) -> Answer {
        let ask = Ask::read(body.to_string().as_bytes(), &body);
        Answer::make(1, find(model).unwrap(), &ask, cache)
    }

    #[test]
    fn an_answer_never_passes_its_limit_and_says_why_it_ended() {
        let cache = PrefixCache::default();
        for limit in [1, 2, 7, 40] {
            for model in ["gpt-4o", "gpt-5.2", "claude-haiku-4-5"] {
                let body = json!({"max_tokens": limit, "user": "sandbox-length-50", "messages": [{"role": "user", "content": "x"}]});
                let made = answer(model, body, &cache);
                assert!(made.tokens.output <= limit && made.tokens.reasoning <= made.tokens.output, "{made:?}");
                assert_eq!(made.finish, Finish::Length);
            }
        }
        let made = answer("gpt-4o", json!({"user": "sandbox-length-50", "messages": []}), &cache);
        assert_eq!((made.tokens.output, made.finish), (50, Finish::Stop));
    }

    #[test]
    fn a_long_prompt_is_cached_the_second_time() {
        let cache = PrefixCache::default();
        let body = json!({"messages": [{"role": "user", "content": "rules of the weighbridge ".repeat(400)}]});
        assert_eq!(answer("gpt-5.2", body.clone(), &cache).tokens.cache_read, 0);
        let again = answer("gpt-5.2", body, &cache).tokens;
        assert!(
            again.cache_read > 1_000 && again.cache_read <= again.input && again.cache_read.is_multiple_of(128),
            "{again:?}"
        );
    }

    #[test]
    fn anthropic_caches_only_what_is_marked() {
        let cache = PrefixCache::default();
        let text = "rules of the weighbridge ".repeat(400);
        let plain = json!({"messages": [{"role": "user", "content": text}]});
        answer("claude-sonnet-5-5", plain.clone(), &cache);
        assert_eq!(answer("claude-sonnet-5-5", plain, &cache).tokens.cache_read, 0);
        let marked =
            json!({"system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}], "messages": []});
        let first = answer("claude-sonnet-5-5", marked.clone(), &cache).tokens;
        let second = answer("claude-sonnet-5-5", marked, &cache).tokens;
        assert!(first.cache_write_5m > 1_000 && first.cache_read == 0, "{first:?}");
        assert_eq!((second.cache_read, second.cache_write_5m), (first.cache_write_5m, 0));
    }

    #[test]
    fn a_required_tool_is_called_with_arguments_in_pieces() {
        let body = json!({"tool_choice": "required", "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "weigh", "parameters": {"properties": {"n": {"type": "integer"}, "id": {"type": "string"}}}}}]});
        let made = answer("gpt-4o", body, &PrefixCache::default());
        let call = made.tool.unwrap();
        assert_eq!((made.finish, call.name.as_str()), (Finish::ToolCalls, "weigh"));
        assert!(call.arguments.len() > 2 && call.value()["n"].is_u64());
    }
}
