//! Anthropic's protocol: messages, the old complete endpoint, and what costs nothing beside them.

pub(super) mod messages;
mod refuse;
pub(super) mod request;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};

use super::free::FreeMeter;
use super::tap::{AnswerTap, Meter};
use super::{
    CallFacts, Client, Dialect, DialectError, Edit, Metering, RefusalResponse, RequestHead, ResponseHead, Tap, members,
};
use crate::domain::Refusal;

/// The dialect `anthropic`.
pub struct Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        if let Some(mistake) = super::path_mistake(head.path) {
            return Err(DialectError(mistake));
        }
        let (endpoint, metering) = endpoint(head.method, head.path);
        request::read(endpoint, metering, body)
    }

    /// Anthropic always sends usage: only the output cap is ever written.
    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        let body = members::rewrite(body, "model", edit.model.as_deref());
        members::edit(&body, false, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, _: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        request::tool_names(body)
    }

    fn prompt_text(&self, _: &CallFacts, body: &[u8]) -> String {
        request::prompt_text(body)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, _: bool) -> Box<dyn Tap> {
        let meter: Box<dyn Meter> = match facts.endpoint {
            "messages" => Box::new(messages::MessagesMeter::new(false)),
            "complete" => Box::new(messages::MessagesMeter::new(true)),
            _ => Box::new(FreeMeter::default()),
        };
        Box::new(AnswerTap::new(head, false, meter))
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
        refuse::response(refusal, call_id, client)
    }

    fn cut(&self, _: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
        refuse::event(refusal, client)
    }

    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        headers.remove(AUTHORIZATION);
        if let Ok(mut value) = HeaderValue::from_str(secret.expose_secret()) {
            value.set_sensitive(true);
            headers.insert("x-api-key", value);
        }
    }
}

/// What a path is (provider-usage 1, 2026-11-23).
fn endpoint(method: &Method, path: &str) -> (&'static str, Metering) {
    use Metering::{Free, Metered, Unmetered};
    let path = path.to_ascii_lowercase();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let post = method == Method::POST;
    let get = method == Method::GET || method == Method::HEAD;
    let has = |name| parts.contains(&name);
    match parts.as_slice() {
        [.., "messages", "count_tokens"] if post => ("messages.count_tokens", Free),
        [.., "messages", "batches"] | [.., "messages", "batches", _] if get => ("messages.batches", Free),
        [.., "messages", "batches", _, "cancel"] if post => ("messages.batches", Free),
        [.., "messages", "batches", _] if method == Method::DELETE => ("messages.batches", Free),
        _ if has("batches") => ("unmetered", Unmetered),
        [.., "messages"] if post && !has("threads") => ("messages", Metered),
        [.., "complete"] if post => ("complete", Metered),
        [.., "models"] | [.., "models", _] if get => ("models", Free),
        _ if has("files") => ("files", Free),
        _ if has("organizations") && get => ("organization", Free),
        _ => ("unmetered", Unmetered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_their_ending() {
        use Metering::*;
        for (method, path, want) in [
            ("POST", "/v1/messages", ("messages", Metered)),
            ("POST", "/anthropic/v1/messages/", ("messages", Metered)),
            ("POST", "/v1/messages/count_tokens", ("messages.count_tokens", Free)),
            ("POST", "/v1/messages/batches", ("unmetered", Unmetered)),
            ("GET", "/v1/messages/batches/b/results", ("unmetered", Unmetered)),
            ("GET", "/v1/messages/batches/b", ("messages.batches", Free)),
            ("POST", "/v1/complete", ("complete", Metered)),
            ("POST", "/v1/threads/t/messages", ("unmetered", Unmetered)),
            ("GET", "/v1/models", ("models", Free)),
        ] {
            assert_eq!(endpoint(&method.parse().unwrap(), path), want, "{method} {path}");
        }
    }

    #[test]
    fn the_callers_own_credential_does_not_travel_with_ours() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wbk_x"));
        Anthropic.authorize(&mut headers, &SecretString::from("sk-ant-1"));
        assert!(!headers.contains_key(AUTHORIZATION));
        assert_eq!(headers["x-api-key"], "sk-ant-1");
        assert!(headers["x-api-key"].is_sensitive());
    }
}
