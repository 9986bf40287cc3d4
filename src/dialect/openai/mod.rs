//! OpenAI's protocol, and that of everyone who speaks it: Azure, Groq, Mistral, xAI, DeepSeek, OpenRouter, vLLM, …
//!
//! Paths are matched by their ending, since look-alikes put them under prefixes of their own
//! (`/openai/deployments/{d}/…`, `/api/paas/v4/…`).

pub(super) mod chat;
mod refuse;
pub(super) mod request;
mod responses;
mod units;
mod usage;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};

use super::free::FreeMeter;
use super::tap::{AnswerTap, Meter};
use super::{
    CallFacts, Client, Dialect, DialectError, Edit, Metering, RefusalResponse, RequestHead, ResponseHead, Tap, members,
};
use crate::domain::Refusal;

/// The dialect `openai`.
pub struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        if let Some(mistake) = super::path_mistake(head.path) {
            return Err(DialectError(mistake));
        }
        let (endpoint, metering) = endpoint(head.method, head.path);
        request::read(endpoint, metering, head, body)
    }

    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        let body = members::rewrite(body, "model", edit.model.as_deref());
        members::edit(&body, edit.include_usage, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, _: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        request::tool_names(body)
    }

    fn prompt_text(&self, _: &CallFacts, body: &[u8]) -> String {
        request::prompt_text(body)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, drop_usage: bool) -> Box<dyn Tap> {
        let meter: Box<dyn Meter> = match facts.endpoint {
            "chat.completions" | "completions" | "embeddings" => Box::new(chat::ChatMeter::new(true)),
            "responses" | "responses.retrieve" => Box::new(responses::ResponsesMeter::new()),
            "images" | "audio.transcriptions" | "audio.speech" | "rerank" | "ocr" => {
                let kind = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
                Box::new(units::UnitsMeter::new(kind))
            }
            _ => Box::new(FreeMeter::default()),
        };
        Box::new(AnswerTap::new(head, drop_usage, meter))
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
        refuse::response(refusal, call_id, client)
    }

    fn cut(&self, facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
        refuse::event(facts, refusal, client)
    }

    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }
}

/// The dialect `azure-openai`: OpenAI's, with Azure's own place for the key. Claude on Azure speaks Anthropic's.
pub struct Azure;

impl Azure {
    fn of(path: &str) -> &'static dyn Dialect {
        if path.contains("/anthropic/") { &super::anthropic::Anthropic } else { &OpenAi }
    }

    fn by(facts: &CallFacts) -> &'static dyn Dialect {
        if matches!(facts.endpoint, "messages" | "messages.count_tokens") {
            &super::anthropic::Anthropic
        } else {
            &OpenAi
        }
    }
}

impl Dialect for Azure {
    /// Its callers speak OpenAI's protocol: a path without a prefix may lead here.
    fn name(&self) -> &'static str {
        "openai"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        Azure::of(head.path).read_request(head, body)
    }

    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        Azure::by(facts).edit(facts, body, edit)
    }

    fn tool_names(&self, facts: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        Azure::by(facts).tool_names(facts, body)
    }

    fn prompt_text(&self, facts: &CallFacts, body: &[u8]) -> String {
        Azure::by(facts).prompt_text(facts, body)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, drop_usage: bool) -> Box<dyn Tap> {
        Azure::by(facts).tap(facts, head, drop_usage)
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse {
        OpenAi.refuse(refusal, call_id, client)
    }

    fn cut(&self, facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
        Azure::by(facts).cut(facts, refusal, client)
    }

    /// A key stands in `api-key`; an Entra token is a bearer.
    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        if secret.expose_secret().starts_with("eyJ") {
            return OpenAi.authorize(headers, secret);
        }
        headers.remove(AUTHORIZATION);
        if let Ok(mut value) = HeaderValue::from_str(secret.expose_secret()) {
            value.set_sensitive(true);
            headers.insert("api-key", value);
        }
    }
}

/// What a path is. Known-free ones per provider-usage 1 (2026-11-23); whatever is not known is not metered.
fn endpoint(method: &Method, path: &str) -> (&'static str, Metering) {
    use Metering::{Free, Metered, Retrieval, Unmetered};
    let path = path.to_ascii_lowercase();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let post = method == Method::POST;
    let get = method == Method::GET || method == Method::HEAD;
    let delete = method == Method::DELETE;
    let has = |name| parts.contains(&name);
    match parts.as_slice() {
        _ if has("organization") && get => ("organization", Free),
        [.., "chat" | "fim", "completions"] | [.., "chat"] if post => ("chat.completions", Metered),
        [.., "chat", "completions"] | [.., "chat", "completions", _] | [.., "chat", "completions", _, "messages"] => {
            ("chat.completions.stored", Free)
        }
        [.., "completions"] if post => ("completions", Metered),
        [.., "embeddings"] if post => ("embeddings", Metered),
        [.., "responses"] | [.., "responses", "compact"] if post => ("responses", Metered),
        [.., "responses", "input_tokens"] if post => ("responses.input_tokens", Free),
        [.., "responses", _, "cancel"] if post => ("responses.cancel", Free),
        [.., "responses", _, "input_items"] if get => ("responses.input_items", Free),
        [.., "responses", _] if get => ("responses.retrieve", Retrieval),
        [.., "responses", _] if delete => ("responses.delete", Free),
        [.., "models"] | [.., "models", _] if get || delete => ("models", Free),
        [.., "models", _, _] if get => ("models", Free),
        [.., "moderations"] if post => ("moderations", Free),
        [.., "images"] | [.., "images", "generations" | "edits" | "variations"] if post => ("images", Metered),
        [.., "audio", "transcriptions" | "translations"] if post => ("audio.transcriptions", Metered),
        [.., "audio", "speech"] if post => ("audio.speech", Metered),
        [.., "rerank"] if post => ("rerank", Metered),
        [.., "ocr"] if post => ("ocr", Metered),
        _ if has("files") || has("uploads") => ("files", Free),
        [.., "batches", _, "cancel"] if post => ("batches", Free),
        [.., "batches"] | [.., "batches", _] if get => ("batches", Free),
        _ if has("conversations") => ("conversations", Free),
        _ if get && ["fine_tuning", "vector_stores", "assistants", "threads", "evals"].into_iter().any(has) => {
            ("lists", Free)
        }
        _ => ("unmetered", Unmetered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_takes_a_key_and_a_token_in_different_places() {
        for (secret, name, value) in [("k1", "api-key", "k1"), ("eyJ0.x.y", "authorization", "Bearer eyJ0.x.y")] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wbk_x"));
            Azure.authorize(&mut headers, &SecretString::from(secret));
            assert_eq!((headers.len(), headers[name].to_str().unwrap()), (1, value));
        }
    }

    #[test]
    fn paths_are_known_by_their_ending() {
        use Metering::*;
        for (method, path, want) in [
            ("POST", "/v1/chat/completions", ("chat.completions", Metered)),
            ("POST", "/chat/completions/", ("chat.completions", Metered)),
            ("POST", "//openai/deployments/d/chat/completions", ("chat.completions", Metered)),
            ("POST", "/api/paas/v4/chat/completions", ("chat.completions", Metered)),
            ("POST", "/v1/completions", ("completions", Metered)),
            ("POST", "/openai/v1/responses", ("responses", Metered)),
            ("POST", "/v1/responses/compact", ("responses", Metered)),
            ("POST", "/v1/responses/input_tokens", ("responses.input_tokens", Free)),
            ("POST", "/v1/responses/resp_1/cancel", ("responses.cancel", Free)),
            ("GET", "/v1/responses/resp_1", ("responses.retrieve", Retrieval)),
            ("DELETE", "/v1/responses/resp_1", ("responses.delete", Free)),
            ("GET", "/v1/models", ("models", Free)),
            ("GET", "/v1/batches/b", ("batches", Free)),
            ("POST", "/v1/batches", ("unmetered", Unmetered)),
            ("POST", "/v1/images/generations", ("images", Metered)),
            ("POST", "/v1/audio/translations", ("audio.transcriptions", Metered)),
            ("POST", "/v1/ocr", ("ocr", Metered)),
            ("POST", "/v1/threads/t/runs", ("unmetered", Unmetered)),
            ("GET", "/v1/something/new", ("unmetered", Unmetered)),
        ] {
            assert_eq!(endpoint(&method.parse().unwrap(), path), want, "{method} {path}");
        }
    }
}
