//! The sandbox over HTTP, as a caller sees it.

use serde_json::{Value, json};

use super::super::client::Client;
use super::{Sandbox, Settings};

const AUTH: (&str, &str) = ("authorization", "Bearer sandbox");
const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

async fn sandbox() -> Sandbox {
    Sandbox::start(Settings::for_tests()).await.unwrap()
}

async fn post(sandbox: &Sandbox, path: &str, body: Value) -> (u16, String, bool) {
    let url = format!("http://{}{path}", sandbox.address());
    let mut answer = Client::default().post(&url, &[AUTH, VERSION], &body).await.unwrap();
    let (bytes, whole) = answer.drain().await;
    (answer.status, String::from_utf8(bytes).unwrap(), whole)
}

async fn post_openai(sandbox: &Sandbox, path: &str, body: Value) -> (u16, String, bool) {
    let url = format!("http://{}{path}", sandbox.address());
    let mut answer = Client::default().post(&url, &[AUTH], &body).await.unwrap();
    let (bytes, whole) = answer.drain().await;
    (answer.status, String::from_utf8(bytes).unwrap(), whole)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn events(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]").map(parsed).collect()
}

fn question(model: &str) -> Value {
    json!({"model": model, "max_tokens": 4000, "messages": [{"role": "user", "content": "weigh this"}]})
}

#[tokio::test]
async fn a_stream_says_what_the_plain_answer_says() {
    let sandbox = sandbox().await;
    let mut body = question("gpt-5.2");
    body["user"] = json!("sandbox-length-30");
    let (status, plain, _) = post_openai(&sandbox, "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, 200, "{plain}");
    assert_eq!(parsed(&plain)["model"], "gpt-5.2-2025-12-11");
    assert_eq!(parsed(&plain)["usage"]["completion_tokens"], 30);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (_, text, whole) = post_openai(&sandbox, "/v1/chat/completions", body).await;
    assert!(whole && text.ends_with("data: [DONE]\n\n"));
    let events = events(&text);
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 30);
    let written = events.iter().filter(|e| e["choices"][0]["delta"]["content"].as_str().is_some_and(|t| !t.is_empty()));
    assert_eq!(written.count(), 30);
}

#[tokio::test]
async fn usage_comes_in_a_chat_stream_only_when_asked_for() {
    let mut body = question("gpt-4o");
    body["stream"] = json!(true);
    let (_, text, _) = post_openai(&sandbox().await, "/v1/chat/completions", body).await;
    assert!(!text.contains("usage") && text.contains("finish_reason\":\"stop"), "{text}");
}

#[tokio::test]
async fn messages_end_with_their_stop_and_carry_cumulative_usage() {
    let mut body = question("claude-sonnet-5-5");
    body["stream"] = json!(true);
    let (_, text, _) = post(&sandbox().await, "/v1/messages", body).await;
    let events = events(&text);
    assert_eq!(events[0]["type"], "message_start");
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    let delta = events.iter().find(|e| e["type"] == "message_delta").unwrap();
    assert!(delta["usage"]["output_tokens"].as_u64().unwrap() >= 8, "{delta}");
}

#[tokio::test]
async fn a_background_response_is_queued_and_then_found() {
    let sandbox = sandbox().await;
    let body = json!({"model": "gpt-5.4-mini", "input": "weigh this", "background": true});
    let (_, text, _) = post_openai(&sandbox, "/v1/responses", body).await;
    let queued = parsed(&text);
    assert_eq!((queued["status"].as_str(), queued["usage"].is_null()), (Some("queued"), true));
    let url = format!("{}/responses/{}", sandbox.openai_url(), queued["id"].as_str().unwrap());
    let done = Client::default().get(&url, &[AUTH]).await.unwrap().json().await.unwrap();
    assert_eq!(done["status"], "completed");
    assert!(done["usage"]["output_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_response_stream_ends_with_the_terminal_event_that_fits() {
    let sandbox = sandbox().await;
    for (extra, last) in [
        (json!({}), "response.completed"),
        (json!({"max_output_tokens": 5}), "response.incomplete"),
        (json!({"user": "sandbox-stream-error"}), "response.failed"),
    ] {
        let mut body = json!({"model": "gpt-4.1", "input": "weigh", "stream": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let (_, text, _) = post_openai(&sandbox, "/v1/responses", body).await;
        assert_eq!(events(&text).last().unwrap()["type"], last);
    }
}

#[tokio::test]
async fn faults_come_on_demand_in_the_dialect_that_asked() {
    let sandbox = sandbox().await;
    let mut body = question("sandbox-error-429");
    let (status, text, _) = post_openai(&sandbox, "/v1/chat/completions", body.clone()).await;
    assert_eq!((status, parsed(&text)["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")));
    body["model"] = json!("claude-haiku-4-5");
    body["metadata"] = json!({"user_id": "sandbox-error-529"});
    let (status, text, _) = post(&sandbox, "/v1/messages", body.clone()).await;
    assert_eq!((status, parsed(&text)["error"]["type"].as_str()), (529, Some("overloaded_error")));
    body["metadata"] = json!({"user_id": "sandbox-abort"});
    body["stream"] = json!(true);
    let (status, text, whole) = post(&sandbox, "/v1/messages", body).await;
    assert!(status == 200 && !whole && !text.contains("message_stop"));
}

#[tokio::test]
async fn who_brings_no_credential_or_a_wrong_one_is_refused() {
    let settings = Settings { api_key: Some("right".into()), ..Settings::for_tests() };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let url = format!("{}/chat/completions", sandbox.openai_url());
    for (key, status) in [("Bearer wrong", 401), ("Bearer right", 200)] {
        let answer = Client::default().post(&url, &[("authorization", key)], &question("gpt-4o")).await.unwrap();
        assert_eq!(answer.status, status);
    }
    assert_eq!(Client::default().post(&url, &[], &question("gpt-4o")).await.unwrap().status, 401);
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64() {
    let sandbox = sandbox().await;
    for (format, check) in [("float", 1_536_usize), ("base64", 1_536 * 4)] {
        let body = json!({"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": format});
        let answer = parsed(&post_openai(&sandbox, "/v1/embeddings", body).await.1);
        assert_eq!(answer["data"].as_array().unwrap().len(), 2);
        let vector = &answer["data"][0]["embedding"];
        let length = match vector.as_str() {
            Some(text) => data_encoding::BASE64.decode(text.as_bytes()).unwrap().len(),
            None => vector.as_array().unwrap().len(),
        };
        assert_eq!(length, check);
    }
}

#[tokio::test]
async fn what_it_saw_is_remembered_with_the_marker() {
    let sandbox = sandbox().await;
    let mut body = question("gpt-4o");
    body["user"] = json!("run-17");
    post_openai(&sandbox, "/v1/chat/completions", body).await;
    let seen = sandbox.seen();
    assert_eq!((seen.len(), seen[0].marker.as_deref(), seen[0].status), (1, Some("run-17"), 200));
}
