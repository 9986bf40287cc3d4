//! Refusals as AWS's SDKs understand them (clients 4 and 5; checked with real clients on 2026-11-23).

use bytes::Bytes;
use serde_json::json;

use crate::dialect::event_stream::frame;
use crate::dialect::{RefusalResponse, retry_headers};
use crate::domain::{Code, Refusal};

/// HTTP status, exception, and the same as a stream's frames write it.
fn words(code: Code) -> (u16, &'static str, &'static str) {
    match code.status() {
        401 => (401, "UnrecognizedClientException", "validationException"),
        402 => (402, "ServiceQuotaExceededException", "throttlingException"),
        403 => (403, "AccessDeniedException", "validationException"),
        408 => (408, "ModelTimeoutException", "modelTimeoutException"),
        429 => (429, "ThrottlingException", "throttlingException"),
        503 => (503, "ServiceUnavailableException", "serviceUnavailableException"),
        status @ 500.. => (status, "InternalServerException", "internalServerException"),
        _ => (400, "ValidationException", "validationException"),
    }
}

/// The answer before the first byte.
pub fn response(refusal: &Refusal) -> RefusalResponse {
    let (status, kind, _) = words(refusal.code);
    let mut headers = retry_headers(refusal);
    headers.push(("x-amzn-errortype", kind.into()));
    let body = json!({ "message": refusal.message, "code": refusal.code.name() });
    RefusalResponse { status, headers, body: body.to_string().into() }
}

/// The frame that ends a running stream.
pub fn event(refusal: &Refusal) -> Bytes {
    let (_, _, kind) = words(refusal.code);
    let headers = [(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")];
    frame(&headers, json!({ "message": refusal.message }).to_string().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_code_has_a_body_and_a_type_of_the_dialect() {
        for code in Code::ALL {
            let r = response(&Refusal::new(*code, "why"));
            let body: Value = serde_json::from_slice(&r.body).unwrap();
            assert_eq!(body["message"], "why");
            let kind = r.headers.iter().find(|(name, _)| *name == "x-amzn-errortype").unwrap();
            assert!(r.status >= 400 && kind.1.ends_with("Exception"));
        }
        let budget = response(&Refusal::new(Code::BudgetExceeded, ""));
        assert_eq!(budget.status, 402);
        assert!(budget.headers.contains(&("x-amzn-errortype", "ServiceQuotaExceededException".into())));
        assert_eq!(response(&Refusal::new(Code::ModelNotAllowed, "")).status, 400);
    }
}
