//! AWS Bedrock's protocol: `converse` and `invoke`, plain and as binary event streams, counting and guardrails.
//!
//! Its SDKs sign what they send with a key that is ours to check, not Amazon's: their signature ends here, and the request
//! goes on under the provider's own credential, signed anew (or with a Bedrock API key, as a bearer).

mod meter;
mod native;
mod refuse;
mod request;
mod sign;
mod usage;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::anthropic::messages::MessagesMeter;
use super::framing::Shape;
use super::free::FreeMeter;
use super::openai::chat::ChatMeter;
use super::tap::{AnswerTap, Meter};
use super::{
    Billing, CallFacts, Client, Dialect, DialectError, Edit, RefusalResponse, RequestHead, ResponseHead, Signing, Tap,
    members,
};
use crate::domain::Refusal;

/// The dialect `bedrock`.
pub struct Bedrock;

impl Dialect for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError> {
        request::read(head, body)
    }

    /// Bedrock always sends usage: only the output cap is ever written.
    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes {
        members::edit(body, false, facts.output_cap_field.zip(edit.output_cap))
    }

    fn tool_names(&self, facts: &CallFacts, body: &[u8]) -> Option<Vec<String>> {
        match facts.endpoint {
            "invoke.messages" => super::anthropic::request::tool_names(body),
            "invoke.chat" => super::openai::request::tool_names(body),
            _ => request::tool_names(body),
        }
    }

    fn prompt_text(&self, _: &CallFacts, body: &[u8]) -> String {
        request::prompt_text(body)
    }

    fn tap(&self, facts: &CallFacts, head: &ResponseHead, _: bool) -> Box<dyn Tap> {
        let native = |inner: Box<dyn Meter>| Box::new(native::NativeMeter::new(inner, head.headers));
        let meter: Box<dyn Meter> = match facts.endpoint {
            "invoke.messages" => native(Box::new(MessagesMeter::new(false))),
            "invoke.chat" => native(Box::new(ChatMeter::new(true))),
            "converse" | "invoke" | "guardrail" => {
                Box::new(meter::BedrockMeter::new(head.headers, facts.billing != Billing::Tokens))
            }
            _ => Box::<FreeMeter>::default(),
        };
        let json = head.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
        let shape = if facts.stream && !json { Shape::Frames } else { Shape::Sniff };
        Box::new(AnswerTap::shaped(head, false, meter, shape))
    }

    fn refuse(&self, refusal: &Refusal, _: &str, _: Client) -> RefusalResponse {
        refuse::response(refusal)
    }

    fn cut(&self, _: &CallFacts, refusal: &Refusal, _: Client) -> Bytes {
        refuse::event(refusal)
    }

    /// A Bedrock API key is a bearer. An access key signs, which takes the whole request: see [`Dialect::sign`].
    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString) {
        headers.remove(AUTHORIZATION);
        let secret = secret.expose_secret();
        if sign::AccessKey::parse(secret).is_some() {
            return;
        }
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {secret}")) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }

    fn sign(&self, headers: &mut HeaderMap, request: &Signing, secret: &SecretString) {
        let Some(key) = sign::AccessKey::parse(secret.expose_secret()) else { return };
        let region = sign::region(request.url.host().unwrap_or_default());
        let Signing { method, url, body, at } = *request;
        sign::sign(headers, &key, &sign::Signed { method, url, body, region, service: "bedrock", at });
    }
}
