//! OpenAI's chat completions, completions, embeddings and model list.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Random;
use super::answer::{Answer, Finish, Tokens, count};
use super::ask::Ask;
use super::faults::Directive;
use super::models::{MODELS, Model, Vendor};
use super::pace::Rhythm;
use super::wire::{Reply, error, event};

/// The usage object of chat completions and completions.
pub fn usage(tokens: Tokens, model: &Model) -> Value {
    let mut prompt_details = json!({"cached_tokens": tokens.cache_read, "audio_tokens": 0});
    if model.cache_writes {
        prompt_details["cache_write_tokens"] = json!(tokens.cache_write_5m);
    }
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0
        }
    })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

/// What stands at the top of every object of an answer.
struct Head<'a> {
    id: String,
    object: &'static str,
    created: i64,
    model: &'a Model,
    tier: String,
    fingerprint: String,
}

impl Head<'_> {
    fn with(&self, rest: Value) -> Value {
        let mut object = json!({
            "id": self.id, "object": self.object, "created": self.created, "model": self.model.snapshot,
            "service_tier": self.tier, "system_fingerprint": self.fingerprint
        });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        object
    }
}

fn head<'a>(ask: &Ask, model: &'a Model, random: &mut Random, object: &'static str, now_s: i64) -> Head<'a> {
    let prefix = if object.starts_with("chat") { "chatcmpl" } else { "cmpl" };
    let tier = match ask.service_tier.as_deref() {
        Some("flex") => "flex",
        Some("priority" | "fast") => "priority",
        _ => "default",
    };
    Head {
        id: format!("{prefix}-{}", random.token(29)),
        object,
        created: now_s,
        model,
        tier: tier.into(),
        fingerprint: format!("fp_{}", random.token(10)),
    }
}

/// `POST /chat/completions`.
pub fn chat(ask: &Ask, model: &Model, answer: &Answer, rhythm: &mut Rhythm, random: &mut Random, now_s: i64) -> Reply {
    let mut tokens = answer.tokens;
    tokens.output *= ask.choices;
    tokens.reasoning *= ask.choices;
    if ask.stream {
        let head = head(ask, model, random, "chat.completion.chunk", now_s);
        return Reply::events(chat_chunks(ask, &head, answer, usage(tokens, model), rhythm));
    }
    let head = head(ask, model, random, "chat.completion", now_s);
    if ask.directive == Some(Directive::StreamError) {
        let body = error(Vendor::OpenAi, 500, "The server had an error while processing your request.", "");
        return Reply::json(200, &body, rhythm.whole(0));
    }
    let mut message = json!({"role": "assistant", "content": answer.text(), "refusal": null, "annotations": []});
    if let Some(call) = &answer.tool {
        message["content"] = Value::Null;
        message["tool_calls"] =
            json!([{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text()}}]);
    }
    let choices: Vec<Value> = (0..ask.choices)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish_reason(answer.finish)}))
        .collect();
    let mut body = head.with(json!({"choices": choices}));
    if ask.directive != Some(Directive::NoUsage) {
        body["usage"] = usage(tokens, model);
    }
    Reply::json(200, &body, rhythm.whole(answer.tokens.output))
}

fn chat_chunks(ask: &Ask, head: &Head, answer: &Answer, usage: Value, rhythm: &mut Rhythm) -> Vec<(Duration, Bytes)> {
    let wants_usage = ask.include_usage && ask.directive != Some(Directive::NoUsage);
    let mut frames = Vec::with_capacity(answer.pieces.len() + 8);
    let chunk = |wait: Duration, index: u64, delta: Value, finish: Value| {
        let mut body = head
            .with(json!({"choices": [{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]}));
        if wants_usage {
            body["usage"] = Value::Null;
        }
        (wait, event(None, &body))
    };
    let first = rhythm.first(answer.tokens.reasoning);
    for index in 0..ask.choices {
        let wait = if index == 0 { first } else { Duration::ZERO };
        frames.push(chunk(wait, index, json!({"role": "assistant", "content": "", "refusal": null}), Value::Null));
    }
    if let Some(call) = &answer.tool {
        for index in 0..ask.choices {
            let opening = json!({"tool_calls": [{"index": 0, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}]});
            frames.push(chunk(rhythm.later(), index, opening, Value::Null));
            for piece in &call.arguments {
                let delta = json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]});
                frames.push(chunk(rhythm.later(), index, delta, Value::Null));
            }
        }
    }
    for piece in &answer.pieces {
        for index in 0..ask.choices {
            frames.push(chunk(rhythm.later(), index, json!({"content": piece}), Value::Null));
        }
    }
    if ask.directive == Some(Directive::StreamError) {
        let body = error(Vendor::OpenAi, 500, "The server had an error while processing your request.", "");
        frames.push((rhythm.later(), event(None, &body)));
        frames.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
        return frames;
    }
    for index in 0..ask.choices {
        frames.push(chunk(rhythm.later(), index, json!({}), json!(finish_reason(answer.finish))));
    }
    if wants_usage {
        frames.push((Duration::ZERO, event(None, &head.with(json!({"choices": [], "usage": usage})))));
    }
    frames.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    frames
}

/// `POST /completions`.
pub fn completions(
    ask: &Ask,
    model: &Model,
    answer: &Answer,
    rhythm: &mut Rhythm,
    random: &mut Random,
    now_s: i64,
) -> Reply {
    let head = head(ask, model, random, "text_completion", now_s);
    let choice = |text: &str, finish: Value| json!({"choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": finish}]});
    let finish = json!(finish_reason(answer.finish));
    if !ask.stream {
        let mut body = head.with(choice(&answer.text(), finish));
        body["usage"] = usage(answer.tokens, model);
        return Reply::json(200, &body, rhythm.whole(answer.tokens.output));
    }
    let mut frames: Vec<_> = answer
        .pieces
        .iter()
        .enumerate()
        .map(|(n, piece)| {
            let wait = if n == 0 { rhythm.first(0) } else { rhythm.later() };
            (wait, event(None, &head.with(choice(piece, Value::Null))))
        })
        .collect();
    frames.push((Duration::ZERO, event(None, &head.with(choice("", finish)))));
    if ask.include_usage {
        let last = head.with(json!({"choices": [], "usage": usage(answer.tokens, model)}));
        frames.push((Duration::ZERO, event(None, &last)));
    }
    frames.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    Reply::events(frames)
}

/// `POST /embeddings`: unit vectors, as numbers or in base64 as the SDKs ask.
pub fn embeddings(body: &Value, model: &Model, rhythm: &mut Rhythm, random: &mut Random) -> Reply {
    let inputs: Vec<String> = match &body["input"] {
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().take(2_048).filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    };
    let full = if model.name.ends_with("large") { 3_072 } else { 1_536 };
    let dimensions = body["dimensions"].as_u64().unwrap_or(full).clamp(1, full) as usize;
    let base64 = body["encoding_format"].as_str() == Some("base64");
    let data: Vec<Value> = (0..inputs.len())
        .map(|index| json!({"object": "embedding", "index": index, "embedding": vector(random, dimensions, base64)}))
        .collect();
    let tokens: u64 = inputs.iter().map(|text| count(model.name, text).max(1)).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let answer = json!({"object": "list", "data": data, "model": model.snapshot, "usage": usage});
    Reply::json(200, &answer, rhythm.whole(0))
}

fn vector(random: &mut Random, dimensions: usize, base64: bool) -> Value {
    let raw: Vec<f32> = (0..dimensions).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    let unit = raw.into_iter().map(|x| x / length);
    if base64 {
        let bytes: Vec<u8> = unit.flat_map(f32::to_le_bytes).collect();
        return json!(data_encoding::BASE64.encode(&bytes));
    }
    json!(unit.collect::<Vec<f32>>())
}

/// `GET /models`.
pub fn models() -> Value {
    let data: Vec<Value> = MODELS
        .iter()
        .filter(|m| m.vendor != Vendor::Anthropic)
        .map(|m| json!({"id": m.name, "object": "model", "created": 1_760_000_000, "owned_by": "sandbox"}))
        .collect();
    json!({"object": "list", "data": data})
}
