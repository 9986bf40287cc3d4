//! Refusals as Google's SDKs understand them (clients 4 and 5; checked with real clients on 2026-11-23).

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::{RefusalResponse, retry_headers};
use crate::domain::{Code, Refusal};

/// HTTP status and canonical status.
fn words(code: Code) -> (u16, &'static str) {
    match code.status() {
        401 => (401, "UNAUTHENTICATED"),
        402 => (402, "FAILED_PRECONDITION"),
        403 => (403, "PERMISSION_DENIED"),
        404 => (404, "NOT_FOUND"),
        408 => (408, "DEADLINE_EXCEEDED"),
        413 => (400, "INVALID_ARGUMENT"),
        429 => (429, "RESOURCE_EXHAUSTED"),
        503 => (503, "UNAVAILABLE"),
        status @ 500.. => (status, "INTERNAL"),
        status => (status, "INVALID_ARGUMENT"),
    }
}

fn object(refusal: &Refusal, call_id: Option<&str>) -> Value {
    let (code, status) = words(refusal.code);
    let mut metadata = json!({});
    if let Some(id) = call_id {
        metadata["call"] = id.into();
    }
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refusal.code.name().to_uppercase(),
        "domain": "weighbridge",
        "metadata": metadata,
    });
    json!({ "code": code, "message": refusal.message, "status": status, "details": [info] })
}

/// The answer before the first byte.
pub fn response(refusal: &Refusal, call_id: &str) -> RefusalResponse {
    let body = json!({ "error": object(refusal, Some(call_id)) });
    RefusalResponse { status: words(refusal.code).0, headers: retry_headers(refusal), body: body.to_string().into() }
}

/// The event that ends a running stream.
pub fn event(refusal: &Refusal) -> Bytes {
    format!("data: {}\r\n\r\n", json!({ "error": object(refusal, None) })).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_body_of_the_dialect() {
        for code in Code::ALL {
            let r = response(&Refusal::new(*code, "why"), "id-1");
            let body: Value = serde_json::from_slice(&r.body).unwrap();
            assert_eq!((&body["error"]["message"], &body["error"]["code"]), (&json!("why"), &json!(r.status)));
            assert!(r.status >= 400 && body["error"]["status"].is_string());
            assert_eq!(body["error"]["details"][0]["metadata"]["call"], "id-1");
        }
        let budget = response(&Refusal::new(Code::BudgetExceeded, ""), "");
        let body: Value = serde_json::from_slice(&budget.body).unwrap();
        assert_eq!((budget.status, &body["error"]["status"]), (402, &json!("FAILED_PRECONDITION")));
        assert_eq!(body["error"]["details"][0]["reason"], "BUDGET_EXCEEDED");
        let event = String::from_utf8(event(&Refusal::new(Code::RateLimited, "slow")).to_vec()).unwrap();
        assert!(event.starts_with("data: {\"error\":") && event.ends_with("\r\n\r\n"));
    }
}
