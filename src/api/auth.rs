//! Who asks: an operator's token, the configured token, or, for reading, a web session.

use aws_lc_rs::{constant_time, digest};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::ExposeSecret;

use crate::domain::key::{Secret, SecretKind};

use super::{Api, ApiError};

/// Who is recorded for what the request changes: `operator:ada`, `token` for the configured one.
#[derive(Clone, Debug)]
pub struct Actor(pub String);

/// Lets a request through with its [`Actor`], or answers 401.
pub async fn require(State(api): State<Api>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let actor = actor(&api, request.headers(), reading).ok_or_else(ApiError::unauthorized)?;
    request.extensions_mut().insert(Actor(actor));
    let mut response = next.run(request).await;
    // Answers are about money and people: no cache on the way keeps them.
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
    Ok(response)
}

fn actor(api: &Api, headers: &HeaderMap, reading: bool) -> Option<String> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        // A session's cookie comes along with any request a browser makes, so it may read and not change.
        return api.session.as_ref().filter(|_| reading).and_then(|session| session(headers));
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let token = token.trim();
    if api.operator_token.as_ref().is_some_and(|known| same(known.expose_secret(), token)) {
        return Some("token".to_owned());
    }
    let secret = Secret::parse(token).ok().filter(|s| s.kind == SecretKind::Operator)?;
    operator_of(api, &secret)
}

/// Compares digests, so that neither content nor length shows in the time it takes.
fn same(known: &str, given: &str) -> bool {
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    constant_time::verify_slices_are_equal(hash(known).as_ref(), hash(given).as_ref()).is_ok()
}

/// The operator whose token it is, found by the token's hash: nothing to compare, so nothing to time.
fn operator_of(api: &Api, secret: &Secret) -> Option<String> {
    let found = api.ledger.core().token(&secret.hash(api.ledger.pepper()));
    match found {
        Ok(token) => {
            let now = api.ledger.clock().now();
            let token = token.filter(|token| token.expires_at.is_none_or(|end| now < end))?;
            let operator = api.ledger.core().operator(&token.operator).ok()??;
            (!operator.disabled).then(|| format!("operator:{}", operator.id))
        }
        Err(error) => {
            tracing::error!(%error, "operators' tokens cannot be read");
            None
        }
    }
}
