//! An answer on its way: head, pieces with the pause before each, and how it ends.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::Random;
use super::models::Vendor;

/// A reply, written before it is sent: the pauses are part of it.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub frames: Vec<(Duration, Bytes)>,
    /// The connection breaks after the last frame.
    pub breaks: bool,
}

impl Reply {
    /// A JSON body after `wait`.
    pub fn json(status: u16, body: &Value, wait: Duration) -> Reply {
        let headers = vec![("content-type", "application/json".into())];
        Reply { status, headers, frames: vec![(wait, Bytes::from(body.to_string()))], breaks: false }
    }

    /// An event stream.
    pub fn events(frames: Vec<(Duration, Bytes)>) -> Reply {
        let headers = vec![("content-type", "text/event-stream; charset=utf-8".into())];
        Reply { status: 200, headers, frames, breaks: false }
    }

    /// A web page where an API was asked: what a captive portal or a wrong base URL gives.
    pub fn html() -> Reply {
        let page = "<!doctype html><html><body><h1>Welcome</h1><p>Sign in to continue.</p></body></html>";
        let headers = vec![("content-type", "text/html; charset=utf-8".into())];
        Reply { status: 200, headers, frames: vec![(Duration::ZERO, Bytes::from(page))], breaks: false }
    }

    /// Keeps a third of what was to come. A reply of one piece is cut inside it.
    pub fn cut(mut self, breaks: bool) -> Reply {
        if let [(_, only)] = self.frames.as_mut_slice() {
            *only = only.slice(..only.len() / 3);
        } else {
            self.frames.truncate((self.frames.len() / 3).max(1));
        }
        self.breaks = breaks;
        self
    }

    /// As an HTTP response. Dropping the body stops it, as a vendor stops when the caller hangs up.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        let breaks = self.breaks;
        *response.body_mut() = match self.frames.as_slice() {
            [(wait, only)] if wait.is_zero() && !breaks => Body::from(only.clone()),
            _ => Body::from_stream(stream::unfold((self.frames.into_iter(), breaks), send_next)),
        };
        response
    }
}

type Frames = (std::vec::IntoIter<(Duration, Bytes)>, bool);

async fn send_next((mut frames, breaks): Frames) -> Option<(Result<Bytes, std::io::Error>, Frames)> {
    match frames.next() {
        Some((wait, bytes)) => {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            Some((Ok(bytes), (frames, breaks)))
        }
        None if breaks => {
            // What was sent is to arrive before the connection breaks.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Err(std::io::Error::other("broken on purpose")), (frames, false)))
        }
        None => None,
    }
}

/// `data: {…}` and, where the API names its events, `event: …` before it.
pub fn event(name: Option<&str>, data: &Value) -> Bytes {
    Bytes::from(match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    })
}

/// The error object of a vendor for a status.
pub fn error(vendor: Vendor, status: u16, message: &str, request_id: &str) -> Value {
    if vendor == Vendor::Anthropic {
        let kind = match status {
            400 | 422 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            _ => "api_error",
        };
        return json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id});
    }
    let (kind, code) = match status {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        404 => ("invalid_request_error", json!("model_not_found")),
        429 => ("requests", json!("rate_limit_exceeded")),
        500.. => ("server_error", Value::Null),
        _ => ("invalid_request_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// Headers every answer of a vendor has.
pub fn common_headers(vendor: Vendor, random: &mut Random, request_id: &str) -> Vec<(&'static str, String)> {
    let left = random.between(9_000, 9_999).to_string();
    if vendor == Vendor::Anthropic {
        return vec![
            ("request-id", request_id.to_owned()),
            ("anthropic-organization-id", "5a0db0c8-0000-4000-8000-5a0db0c85a0d".into()),
            ("anthropic-ratelimit-requests-limit", "10000".into()),
            ("anthropic-ratelimit-requests-remaining", left),
            ("anthropic-ratelimit-tokens-limit", "4000000".into()),
            ("anthropic-ratelimit-tokens-remaining", random.between(3_000_000, 3_999_000).to_string()),
        ];
    }
    vec![
        ("x-request-id", request_id.to_owned()),
        ("openai-version", "2020-10-01".into()),
        ("openai-organization", "sandbox".into()),
        ("openai-processing-ms", random.between(180, 2_400).to_string()),
        ("x-ratelimit-limit-requests", "10000".into()),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", "6ms".into()),
        ("x-ratelimit-limit-tokens", "4000000".into()),
        ("x-ratelimit-remaining-tokens", random.between(3_000_000, 3_999_000).to_string()),
    ]
}
