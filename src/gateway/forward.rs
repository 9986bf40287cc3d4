//! Sending a call on: bytes untouched but for the permitted edits, the head rebuilt, the provider's credential added.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use secrecy::SecretString;

use crate::dialect::{Edit, Signing};
use crate::domain::{Code, Refusal};

use super::Gateway;
use super::classify::Asked;
use super::refuse::Refused;

/// Why no answer came.
#[derive(Debug)]
pub struct NoAnswer {
    /// True if the provider may have received the request.
    pub sent: bool,
    pub reason: String,
}

impl Gateway {
    /// Sends the request and waits for the head of the answer. Redirects are not followed and nothing that was sent is
    /// sent again.
    pub(super) async fn forward(
        &self,
        asked: &Asked,
        headers: HeaderMap,
        edit: &Edit,
        secret: Option<&SecretString>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let unsent = |reason: String| NoAnswer { sent: false, reason };
        let client = self.inner.clients.of(asked.provider.internal, &asked.url).map_err(|e| unsent(e.to_string()))?;
        let at = jiff::Timestamp::from_microsecond(self.now().0).unwrap_or_default();
        let request = build(asked, headers, edit, secret, at).map_err(|e| unsent(e.to_string()))?;
        let wait = Duration::from_secs(asked.provider.idle_timeout_s.max(1).into());
        match tokio::time::timeout(wait, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(NoAnswer { sent: !error.is_connect(), reason: chain(&error) }),
            Err(_) => Err(NoAnswer { sent: true, reason: format!("no answer within {} s", wait.as_secs()) }),
        }
    }
}

fn build(
    asked: &Asked,
    mut headers: HeaderMap,
    edit: &Edit,
    secret: Option<&SecretString>,
    at: jiff::Timestamp,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let edited = *edit != Edit::default();
    let body = if edited {
        headers.remove(header::CONTENT_ENCODING);
        asked.dialect.edit(&asked.facts, &asked.body.decoded, edit)
    } else {
        asked.body.raw.clone()
    };
    // What passes is read by the meter, so it must not be compressed.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(secret) = secret {
        asked.dialect.authorize(&mut headers, secret);
        let signing = Signing { method: &asked.method, url: &asked.url, body: &body, at };
        asked.dialect.sign(&mut headers, &signing, secret);
    }
    let mut request = Request::builder().method(asked.method.clone()).uri(asked.url.clone()).body(Full::new(body))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The whole chain of an error: the outer one alone says "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// What the caller is told when its provider does not answer. The reason stays in the log: it may name inner addresses.
pub(super) fn upstream_unavailable(provider: &str) -> Refused {
    let mut refusal = Refusal::new(
        Code::UpstreamUnavailable,
        format!(
            "Weighbridge: provider '{provider}' did not answer. This is not a refusal of ours; a retry may succeed."
        ),
    );
    refusal.retry_after_s = Some(2);
    Refused::recorded(refusal)
}
