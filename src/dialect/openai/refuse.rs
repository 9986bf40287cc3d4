//! Refusals as OpenAI's SDKs understand them (clients 1, 4, 5; checked with real clients on 2026-11-23).

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::{CallFacts, Client, RefusalResponse, retry_headers};
use crate::domain::time::SECOND;
use crate::domain::{Code, Refusal};

/// The error's type and code.
fn words(code: Code) -> (&'static str, &'static str) {
    match code.status() {
        401 => ("authentication_error", "invalid_api_key"),
        402 => ("insufficient_quota", code.name()),
        403 => ("permission_error", code.name()),
        404 if code == Code::ModelNotAllowed => ("invalid_request_error", "model_not_found"),
        429 => ("rate_limit_error", "rate_limit_exceeded"),
        500.. => ("server_error", code.name()),
        _ => ("invalid_request_error", code.name()),
    }
}

fn object(refusal: &Refusal) -> Value {
    let (kind, code) = words(refusal.code);
    json!({ "message": refusal.message, "type": kind, "param": null, "code": code })
}

/// The answer before the first byte.
pub fn response(refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
    let mut error = object(refusal);
    let mut status = refusal.code.status();
    if client == Client::Codex {
        match status {
            // Codex sends 402 six times, but understands its own "usage limit" at once and shows when it ends.
            402 => {
                status = 429;
                error["type"] = "usage_limit_reached".into();
                if let Some(at) = refusal.resets_at {
                    error["resets_at"] = at.0.div_euclid(SECOND).into();
                }
            }
            // It sends 401 and 403 six times as well, 400 once.
            403 => status = 400,
            _ => {}
        }
    }
    let body = json!({ "error": error, "request_id": call_id });
    RefusalResponse { status, headers: retry_headers(refusal), body: body.to_string().into() }
}

/// The event that ends a running stream.
pub fn event(facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
    let error = object(refusal);
    if !matches!(facts.endpoint, "responses" | "responses.retrieve") {
        return format!("data: {}\n\ndata: [DONE]\n\n", json!({ "error": error })).into();
    }
    if client == Client::Codex {
        // Codex takes an `error` event for a dropped line and reconnects; a failed response it takes as final.
        let code = if refusal.code.status() == 402 { "insufficient_quota" } else { words(refusal.code).1 };
        let failed = json!({
            "type": "response.failed",
            "response": {
                "object": "response", "status": "failed", "model": facts.model, "output": [],
                "error": { "code": code, "message": refusal.message },
            },
        });
        return format!("event: response.failed\ndata: {failed}\n\n").into();
    }
    format!("event: error\ndata: {}\n\n", json!({ "type": "error", "error": error })).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Metering;
    use crate::domain::Micros;

    fn budget() -> Refusal {
        Refusal {
            resets_at: Some(Micros(1_800_000_000 * SECOND)),
            ..Refusal::new(Code::BudgetExceeded, "budget `b` is used up")
        }
    }

    #[test]
    fn a_budget_is_402_and_never_retried() {
        let r = response(&budget(), "id-1", Client::Other);
        let body: Value = serde_json::from_slice(&r.body).unwrap();
        assert_eq!(
            (r.status, &body["error"]["code"], &body["error"]["type"]),
            (402, &json!("budget_exceeded"), &json!("insufficient_quota"))
        );
        assert_eq!(r.headers, [("x-should-retry", "false".to_string())]);
        assert_eq!(body["request_id"], "id-1");
    }

    #[test]
    fn codex_is_told_in_its_own_words() {
        let r = response(&budget(), "id-1", Client::Codex);
        let body: Value = serde_json::from_slice(&r.body).unwrap();
        assert_eq!(
            (r.status, &body["error"]["type"], &body["error"]["resets_at"]),
            (429, &json!("usage_limit_reached"), &json!(1_800_000_000))
        );
        assert!(r.headers.iter().all(|(n, _)| *n != "retry-after"));
        assert_eq!(response(&Refusal::new(Code::PolicyDenied, "no"), "i", Client::Codex).status, 400);
        let facts = CallFacts::of("responses", Metering::Metered);
        assert!(event(&facts, &budget(), Client::Codex).starts_with(b"event: response.failed\n"));
        assert!(event(&facts, &budget(), Client::Other).starts_with(b"event: error\n"));
    }

    #[test]
    fn a_rate_says_when_to_come_back_and_never_later_than_30_seconds() {
        let rate = Refusal { retry_after_s: Some(200), ..Refusal::new(Code::RateLimited, "slow down") };
        let r = response(&rate, "i", Client::Other);
        assert_eq!((r.status, r.headers), (429, vec![("retry-after", "30".to_string())]));
        let down = response(&Refusal::new(Code::UpstreamUnavailable, "down"), "i", Client::Other);
        assert_eq!((down.status, down.headers), (503, vec![("retry-after", "2".to_string())]));
    }

    #[test]
    fn a_cut_chat_stream_ends_with_its_marker() {
        let facts = CallFacts::of("chat.completions", Metering::Metered);
        let event = event(&facts, &budget(), Client::Other);
        assert!(event.starts_with(b"data: {\"error\":") && event.ends_with(b"\n\ndata: [DONE]\n\n"));
    }
}
