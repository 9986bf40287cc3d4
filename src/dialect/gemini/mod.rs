//! Google's protocols: Gemini on AI Studio and on Vertex, and what stands beside it on the same hosts: embeddings,
//! interactions, `predict`, and other vendors' models and the OpenAI-compatible paths, which their own dialects read.

mod generate;
mod interactions;
mod refuse;
mod request;
mod usage;
mod vectors;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::anthropic::Anthropic;
use super::framing::Shape;
use super::free::FreeMeter;
use super::openai::OpenAi;
use super::tap::{AnswerTap, Meter};
use super::{
    CallFacts, Client, Dialect, DialectError, Edit, Observation, RefusalResponse, RequestHead, ResponseHead, Tap,
    members,
};
use crate::domain::Refusal;

/// The dialects `gemini` and `vertex`: the same words, another credential.
pub struct Gemini {
    vertex: bool,
}

/// Gemini on `generativelanguage.googleapis.com`.
pub const AI_STUDIO: Gemini = Gemini { vertex: false };
/// Gemini on `aiplatform.googleapis.com`.
pub const VERTEX: Gemini = Gemini { vertex: true };

/// The dialect that reads a call of another vendor's protocol, by its endpoint.
fn foreign(endpoint: &str) -> Option<&'static dyn Dialect> {
    match endpoint {
        "messages" => Some(&Anthropic),
        "chat.completions" => Some(&OpenAi),
        _ => None,
    }
}

impl Dialect for Gemini {
    fn name(&self) -> &'static str {
        if self.vertex { "vertex" } else { "gemini" }
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        if let Some(mistake) = super::path_mistake(head.path) {
            return Err(DialectError(mistake));
        }
        if head.path.contains("/openai/") || head.path.contains("/openapi/") {
            return OpenAi.read_request(head, body);
        }
        let (endpoint, metering) = request::endpoint(head.method, head.path);
        let Some(dialect) = foreign(endpoint) else { return request::read(endpoint, metering, head, body) };
        // The path names the model and says whether the answer streams.
        let (model, method) = request::method_of(head.path).unwrap_or_default();
        let named = request::foreign(body, model);
        let path = if endpoint == "messages" { "/v1/messages" } else { "/v1/chat/completions" };
        let inner = RequestHead { path, ..*head };
        let mut facts = dialect.read_request(&inner, named.as_deref().unwrap_or(body))?;
        facts.stream |= method == "streamRawPredict";
        facts.model_in_body = false;
        Ok(facts)
    }

    /// Google always sends usage: only the output cap is ever written, but for calls of the OpenAI-compatible path.
    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        let body = members::rewrite(body, "model", edit.model.as_deref());
        members::edit(&body, edit.include_usage, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, facts: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        match foreign(facts.endpoint) {
            Some(dialect) => dialect.tool_names(facts, body),
            None => request::tool_names(body),
        }
    }

    fn prompt_text(&self, facts: &CallFacts, body: &[u8]) -> String {
        match foreign(facts.endpoint) {
            Some(dialect) => dialect.prompt_text(facts, body),
            None => request::prompt_text(body),
        }
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, drop_usage: bool) -> Box<dyn Tap> {
        if let Some(dialect) = foreign(facts.endpoint) {
            return dialect.tap(facts, head, drop_usage);
        }
        let meter: Box<dyn Meter> = match facts.endpoint {
            "generateContent" => Box::new(generate::GenerateMeter::new(facts.model.as_deref(), head.headers)),
            "interactions" | "interactions.retrieve" => Box::<interactions::InteractionMeter>::default(),
            "embeddings" | "predict" => Box::<vectors::VectorMeter>::default(),
            _ => Box::<FreeMeter>::default(),
        };
        let shape = if facts.stream { Shape::Array } else { Shape::Sniff };
        Box::new(AnswerTap::shaped(head, false, meter, shape))
    }

    fn refuse(&self, refusal: &Refusal, call_id: &str, _: Client) -> RefusalResponse {
        refuse::response(refusal, call_id)
    }

    fn cut(&self, facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes {
        match foreign(facts.endpoint) {
            Some(dialect) => dialect.cut(facts, refusal, client),
            None => refuse::event(refusal),
        }
    }

    /// AI Studio takes keys; Vertex takes keys too (express mode), and access tokens.
    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        let secret = secret.expose_secret();
        headers.remove(AUTHORIZATION);
        let key = !self.vertex || secret.starts_with("AIza") || secret.starts_with("AQ.");
        let (name, text) = if key {
            (HeaderName::from_static("x-goog-api-key"), secret.to_owned())
        } else {
            (AUTHORIZATION, format!("Bearer {secret}"))
        };
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
}

/// What the answer says of the way it was served: it decides the price.
fn tier(obs: &mut Observation, stated: &usage::Stated) {
    if let Some(traffic) = &stated.traffic {
        obs.price_context.insert("traffic_type".into(), traffic.clone());
        let tier = match traffic.as_str() {
            "ON_DEMAND_PRIORITY" => Some("priority"),
            "ON_DEMAND_FLEX" => Some("flex"),
            _ => None,
        };
        if let Some(tier) = tier {
            obs.service_tier.get_or_insert_with(|| tier.into());
        }
        if traffic == "PROVISIONED_THROUGHPUT" {
            // Paid for by the hour: the list price is what it would have cost.
            super::counts::flag(&mut obs.flags, "provisioned_throughput");
        }
    }
    if let Some(tier) = &stated.tier {
        obs.service_tier = Some(tier.to_lowercase());
    }
    if let Some(tier) = &obs.service_tier {
        obs.price_context.insert("service_tier".into(), tier.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn the_providers_credential_stands_where_the_host_takes_it() {
        let authorized = |dialect: &Gemini, secret: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wbk_x"));
            dialect.authorize(&mut headers, &SecretString::from(secret));
            assert!(headers.values().all(HeaderValue::is_sensitive));
            let (name, value) = headers.iter().next().unwrap();
            (headers.len(), format!("{name}: {}", value.to_str().unwrap()))
        };
        assert_eq!(authorized(&AI_STUDIO, "AIza1"), (1, "x-goog-api-key: AIza1".into()));
        assert_eq!(authorized(&VERTEX, "AIza1"), (1, "x-goog-api-key: AIza1".into()));
        assert_eq!(authorized(&VERTEX, "ya29.x"), (1, "authorization: Bearer ya29.x".into()));
    }

    #[test]
    fn claude_on_vertex_is_read_by_its_own_dialect_with_the_model_of_the_path() {
        let headers = HeaderMap::new();
        let path = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-5-5:streamRawPredict";
        let head = RequestHead { method: &Method::POST, path, query: None, headers: &headers };
        let body = br#"{"anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[]}"#;
        let facts = VERTEX.read_request(&head, body).unwrap();
        assert_eq!((facts.endpoint, facts.model.as_deref()), ("messages", Some("claude-sonnet-5-5")));
        assert!(facts.stream);
        assert_eq!((facts.output_cap, facts.output_cap_field), (Some(9), Some("max_tokens")));
    }
}
