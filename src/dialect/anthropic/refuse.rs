//! Refusals as Anthropic's SDKs and Claude Code understand them (clients 1, 4, 5; checked on 2026-11-23).

use bytes::Bytes;
use serde_json::json;

use crate::dialect::{Client, RefusalResponse, retry_headers};
use crate::domain::{Code, Refusal};

fn kind(code: Code) -> &'static str {
    match code.status() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 if code == Code::UpstreamUnavailable => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// The answer before the first byte.
pub fn response(refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
    let (mut status, mut kind) = (refusal.code.status(), kind(refusal.code));
    if refusal.code == Code::UpstreamUnavailable {
        status = 529;
    }
    // Claude Code calls a 403 a failed sign-in and asks its user to log in again.
    if client == Client::ClaudeCode && status == 403 {
        (status, kind) = (400, "invalid_request_error");
    }
    let body = json!({
        "type": "error",
        "error": { "type": kind, "message": refusal.message },
        "request_id": call_id,
    });
    RefusalResponse { status, headers: retry_headers(refusal), body: body.to_string().into() }
}

/// The event that ends a running stream.
pub fn event(refusal: &Refusal, _: Client) -> Bytes {
    let data = json!({ "type": "error", "error": { "type": kind(refusal.code), "message": refusal.message } });
    format!("event: error\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_code_has_a_body_of_the_dialect() {
        for code in Code::ALL {
            let r = response(&Refusal::new(*code, "why"), "id-1", Client::Other);
            let body: Value = serde_json::from_slice(&r.body).unwrap();
            assert_eq!(
                (&body["type"], &body["error"]["message"], &body["request_id"]),
                (&json!("error"), &json!("why"), &json!("id-1"))
            );
            assert!(r.status >= 400);
        }
        let status = |code, client| response(&Refusal::new(code, ""), "", client).status;
        assert_eq!(status(Code::UpstreamUnavailable, Client::Other), 529);
        assert_eq!(status(Code::BudgetExceeded, Client::ClaudeCode), 402);
        assert_eq!(status(Code::PolicyDenied, Client::ClaudeCode), 400);
        assert_eq!(status(Code::PolicyDenied, Client::Other), 403);
    }
}
