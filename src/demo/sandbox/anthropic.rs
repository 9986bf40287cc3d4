//! Anthropic's messages, token counting, the old text completions, and its model list.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Random;
use super::answer::{Answer, Finish, Tokens};
use super::ask::Ask;
use super::faults::Directive;
use super::models::{MODELS, Model, Vendor};
use super::pace::Rhythm;
use super::wire::{Reply, error, event};

/// Usage as Anthropic reports it: `input_tokens` without what the cache read or wrote.
fn usage(tokens: Tokens, output: u64) -> Value {
    let written = tokens.cache_write_5m + tokens.cache_write_1h;
    json!({
        "input_tokens": tokens.input - tokens.cache_read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m, "ephemeral_1h_input_tokens": tokens.cache_write_1h
        },
        "output_tokens": output,
        "service_tier": "standard"
    })
}

fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}

/// `POST /v1/messages`.
pub fn messages(ask: &Ask, model: &Model, answer: &Answer, rhythm: &mut Rhythm, random: &mut Random) -> Reply {
    let id = format!("msg_01{}", random.token(22));
    let mut message = json!({
        "id": id, "type": "message", "role": "assistant", "model": model.snapshot, "content": [],
        "stop_reason": null, "stop_sequence": null
    });
    if ask.stream {
        // The vendor's placeholder: whoever books it as the output count of an aborted stream books too little.
        message["usage"] = usage(answer.tokens, random.between(1, 4));
        return Reply::events(stream(&message, ask, answer, rhythm));
    }
    if ask.directive == Some(Directive::StreamError) {
        return Reply::json(200, &error(Vendor::Anthropic, 529, "Overloaded", ""), rhythm.whole(0));
    }
    message["content"] = match &answer.tool {
        Some(call) => json!([{"type": "tool_use", "id": call.id, "name": call.name, "input": call.value()}]),
        None => json!([{"type": "text", "text": answer.text()}]),
    };
    message["stop_reason"] = json!(stop_reason(answer.finish));
    if ask.directive != Some(Directive::NoUsage) {
        message["usage"] = usage(answer.tokens, answer.tokens.output);
    }
    Reply::json(200, &message, rhythm.whole(answer.tokens.output))
}

fn stream(message: &Value, ask: &Ask, answer: &Answer, rhythm: &mut Rhythm) -> Vec<(Duration, Bytes)> {
    let mut frames = Vec::with_capacity(answer.pieces.len() + 8);
    let mut push = |wait: Duration, kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        frames.push((wait, event(Some(kind), &data)));
    };
    let mut message = message.clone();
    if ask.directive == Some(Directive::NoUsage) {
        message["usage"] = Value::Null;
    }
    push(rhythm.first(answer.tokens.reasoning), "message_start", json!({"message": message}));
    let block = match &answer.tool {
        Some(call) => json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    };
    push(Duration::ZERO, "content_block_start", json!({"index": 0, "content_block": block}));
    push(Duration::ZERO, "ping", json!({}));
    for piece in answer.tool.iter().flat_map(|call| &call.arguments) {
        let delta = json!({"type": "input_json_delta", "partial_json": piece});
        push(rhythm.later(), "content_block_delta", json!({"index": 0, "delta": delta}));
    }
    for piece in &answer.pieces {
        let delta = json!({"type": "text_delta", "text": piece});
        push(rhythm.later(), "content_block_delta", json!({"index": 0, "delta": delta}));
    }
    if ask.directive == Some(Directive::StreamError) {
        push(rhythm.later(), "error", error(Vendor::Anthropic, 529, "Overloaded", ""));
        return frames;
    }
    push(Duration::ZERO, "content_block_stop", json!({"index": 0}));
    let mut delta = json!({"delta": {"stop_reason": stop_reason(answer.finish), "stop_sequence": null}});
    if ask.directive != Some(Directive::NoUsage) {
        delta["usage"] = usage(answer.tokens, answer.tokens.output);
        if let Some(usage) = delta["usage"].as_object_mut() {
            // As recorded: the final event repeats the counts, but not the split of the writes.
            usage.remove("cache_creation");
            usage.remove("service_tier");
        }
    }
    push(Duration::ZERO, "message_delta", delta);
    push(Duration::ZERO, "message_stop", json!({}));
    frames
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(answer: &Answer) -> Reply {
    Reply::json(200, &json!({"input_tokens": answer.tokens.input}), Duration::ZERO)
}

/// `POST /v1/complete`: text in, text out, no usage.
pub fn complete(ask: &Ask, model: &Model, answer: &Answer, rhythm: &mut Rhythm, random: &mut Random) -> Reply {
    let reason = if answer.finish == Finish::Length { "max_tokens" } else { "stop_sequence" };
    let id = format!("compl_01{}", random.token(22));
    let body = |text: &str, reason: Value| json!({"type": "completion", "id": id, "completion": text, "stop_reason": reason, "model": model.snapshot, "stop": null, "log_id": id});
    if !ask.stream {
        return Reply::json(200, &body(&answer.text(), json!(reason)), rhythm.whole(answer.tokens.output));
    }
    let mut frames: Vec<_> = answer
        .pieces
        .iter()
        .enumerate()
        .map(|(n, piece)| {
            let wait = if n == 0 { rhythm.first(0) } else { rhythm.later() };
            (wait, event(Some("completion"), &body(piece, Value::Null)))
        })
        .collect();
    frames.push((Duration::ZERO, event(Some("completion"), &body("", json!(reason)))));
    Reply::events(frames)
}

/// `GET /v1/models` for callers that speak Anthropic.
pub fn models() -> Value {
    let data: Vec<Value> = MODELS
        .iter()
        .filter(|m| m.vendor == Vendor::Anthropic)
        .map(|m| json!({"type": "model", "id": m.name, "display_name": m.name, "created_at": "2026-08-24T00:00:00Z"}))
        .collect();
    let (first, last) = (data.first().map(|m| m["id"].clone()), data.last().map(|m| m["id"].clone()));
    json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
}
