//! OpenAI's responses: plain, streamed, and in the background with retrieval.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::Random;
use super::answer::{Answer, Finish, Tokens};
use super::ask::Ask;
use super::faults::Directive;
use super::models::Model;
use super::pace::Rhythm;
use super::wire::{Reply, event};

/// Stored answers kept; the oldest go first.
const STORED: usize = 4_096;

/// Answers that can be retrieved, by id.
#[derive(Default)]
pub struct Stored {
    inner: Mutex<(VecDeque<String>, HashMap<String, Kept>)>,
}

struct Kept {
    ready: Instant,
    body: Value,
    cancelled: bool,
}

impl Stored {
    fn keep(&self, id: &str, body: Value, ready: Instant) {
        let mut guard = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (order, kept) = &mut *guard;
        order.push_back(id.to_owned());
        kept.insert(id.to_owned(), Kept { ready, body, cancelled: false });
        if order.len() > STORED
            && let Some(oldest) = order.pop_front()
        {
            kept.remove(&oldest);
        }
    }

    /// The answer as it stands: queued or in progress until its time has come.
    pub fn get(&self, id: &str) -> Option<Value> {
        let guard = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let kept = guard.1.get(id)?;
        let status = match (kept.cancelled, Instant::now() >= kept.ready) {
            (true, _) => "cancelled",
            (false, true) => return Some(kept.body.clone()),
            (false, false) => "in_progress",
        };
        Some(unfinished(&kept.body, status))
    }

    /// Ends an answer that is under way; one that is ready stays as it is.
    pub fn cancel(&self, id: &str) -> Option<Value> {
        let mut guard = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let kept = guard.1.get_mut(id)?;
        kept.cancelled |= Instant::now() < kept.ready;
        drop(guard);
        self.get(id)
    }
}

fn unfinished(body: &Value, status: &str) -> Value {
    let mut body = body.clone();
    body["status"] = json!(status);
    body["output"] = json!([]);
    body["usage"] = Value::Null;
    body
}

fn usage(tokens: Tokens, model: &Model) -> Value {
    let mut details = json!({"cached_tokens": tokens.cache_read});
    if model.cache_writes {
        details["cache_write_tokens"] = json!(tokens.cache_write_5m);
    }
    json!({
        "input_tokens": tokens.input, "input_tokens_details": details, "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning}, "total_tokens": tokens.input + tokens.output
    })
}

/// `POST /responses`.
pub fn create(
    ask: &Ask,
    request: &Value,
    model: &Model,
    answer: &Answer,
    rhythm: &mut Rhythm,
    random: &mut Random,
    stored: &Stored,
    now_s: i64,
) -> Reply {
    let id = format!("resp_{}", random.token(48));
    let body = finished(&id, ask, request, model, answer, random, now_s);
    let whole = rhythm.whole(answer.tokens.output);
    let background = request["background"].as_bool().unwrap_or(false);
    if background || request["store"].as_bool().unwrap_or(true) {
        stored.keep(&id, body.clone(), Instant::now() + if background { whole } else { Duration::ZERO });
    }
    match (background, ask.stream) {
        (true, false) => Reply::json(200, &unfinished(&body, "queued"), Duration::ZERO),
        (_, true) => Reply::events(stream(&body, ask, answer, rhythm)),
        (false, false) => Reply::json(200, &body, whole),
    }
}

fn finished(
    id: &str,
    ask: &Ask,
    request: &Value,
    model: &Model,
    answer: &Answer,
    random: &mut Random,
    now_s: i64,
) -> Value {
    let failed = ask.directive == Some(Directive::StreamError);
    let (status, incomplete) = match answer.finish {
        _ if failed => ("failed", Value::Null),
        Finish::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
        _ => ("completed", Value::Null),
    };
    let mut output = Vec::new();
    if answer.tokens.reasoning > 0 {
        output.push(json!({"id": format!("rs_{}", random.token(48)), "type": "reasoning", "summary": []}));
    }
    output.push(item(answer, random, status));
    let error =
        if failed { json!({"code": "server_error", "message": "The model failed to answer."}) } else { Value::Null };
    let usage = if ask.directive == Some(Directive::NoUsage) { Value::Null } else { usage(answer.tokens, model) };
    json!({
        "id": id, "object": "response", "created_at": now_s, "status": status,
        "background": request["background"].as_bool().unwrap_or(false), "error": error,
        "incomplete_details": incomplete, "instructions": request["instructions"],
        "max_output_tokens": ask.max_output, "model": model.snapshot, "output": output,
        "parallel_tool_calls": true, "previous_response_id": request["previous_response_id"],
        "reasoning": {"effort": if model.reasoning { json!("medium") } else { Value::Null }, "summary": null},
        "service_tier": "default", "store": request["store"].as_bool().unwrap_or(true), "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto",
        "tools": request.get("tools").cloned().unwrap_or(json!([])), "top_p": 1.0, "truncation": "disabled",
        "usage": usage, "user": ask.user, "metadata": request.get("metadata").cloned().unwrap_or(json!({}))
    })
}

fn item(answer: &Answer, random: &mut Random, status: &str) -> Value {
    let status = if status == "failed" { "incomplete" } else { status };
    match &answer.tool {
        Some(call) => json!({
            "id": format!("fc_{}", random.token(48)), "type": "function_call", "status": "completed",
            "arguments": call.text(), "call_id": call.id, "name": call.name
        }),
        None => json!({
            "id": format!("msg_{}", random.token(48)), "type": "message", "status": status, "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text()}]
        }),
    }
}

/// The events of a stream, numbered as the vendor numbers them.
struct Events {
    frames: Vec<(Duration, Bytes)>,
    number: u64,
}

impl Events {
    fn push(&mut self, wait: Duration, kind: &str, fields: Value) {
        let mut data = json!({"type": kind, "sequence_number": self.number});
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        self.number += 1;
        self.frames.push((wait, event(Some(kind), &data)));
    }
}

fn stream(body: &Value, ask: &Ask, answer: &Answer, rhythm: &mut Rhythm) -> Vec<(Duration, Bytes)> {
    let mut events = Events { frames: Vec::with_capacity(answer.pieces.len() + 12), number: 0 };
    let begun = unfinished(body, "in_progress");
    events.push(Duration::ZERO, "response.created", json!({"response": begun}));
    events.push(Duration::ZERO, "response.in_progress", json!({"response": begun}));
    let mut wait = rhythm.first(answer.tokens.reasoning);
    let output = body["output"].as_array().cloned().unwrap_or_default();
    for (index, item) in output.iter().enumerate() {
        let mut opening = item.clone();
        opening["status"] = json!("in_progress");
        if item["type"] == "message" {
            opening["content"] = json!([]);
        } else if item["type"] == "function_call" {
            opening["arguments"] = json!("");
        }
        events.push(
            std::mem::take(&mut wait),
            "response.output_item.added",
            json!({"output_index": index, "item": opening}),
        );
        match &answer.tool {
            Some(call) if item["type"] == "function_call" => {
                for piece in &call.arguments {
                    let fields = json!({"item_id": item["id"], "output_index": index, "delta": piece});
                    events.push(rhythm.later(), "response.function_call_arguments.delta", fields);
                }
                let fields = json!({"item_id": item["id"], "output_index": index, "arguments": call.text()});
                events.push(Duration::ZERO, "response.function_call_arguments.done", fields);
            }
            None if item["type"] == "message" => text_events(&mut events, item, index, answer, rhythm),
            _ => {}
        }
        events.push(Duration::ZERO, "response.output_item.done", json!({"output_index": index, "item": item}));
    }
    let last = match (ask.directive, answer.finish) {
        (Some(Directive::StreamError), _) => "response.failed",
        (_, Finish::Length) => "response.incomplete",
        _ => "response.completed",
    };
    events.push(Duration::ZERO, last, json!({"response": body}));
    events.frames
}

fn text_events(events: &mut Events, item: &Value, index: usize, answer: &Answer, rhythm: &mut Rhythm) {
    let part = |text: String| json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
    let at = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
    let with = |name: &str, value: Value| {
        let mut fields = at.clone();
        fields[name] = value;
        fields
    };
    events.push(Duration::ZERO, "response.content_part.added", with("part", part(String::new())));
    for piece in &answer.pieces {
        let mut fields = with("delta", json!(piece));
        fields["logprobs"] = json!([]);
        events.push(rhythm.later(), "response.output_text.delta", fields);
    }
    let mut done = with("text", json!(answer.text()));
    done["logprobs"] = json!([]);
    events.push(Duration::ZERO, "response.output_text.done", done);
    events.push(Duration::ZERO, "response.content_part.done", with("part", part(answer.text())));
}
