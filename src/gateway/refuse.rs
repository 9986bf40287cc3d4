//! Saying no: in the caller's dialect, with the headers that explain it, and on the record.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::domain::{Code, Money, Refusal};
use crate::ledger::entry::Deny;
use crate::ledger::request::Request;

use super::Gateway;
use super::body::Body;
use super::ids;
use super::throttle::Record;
use super::ticket::Ticket;

/// A request that ends here.
#[derive(Debug)]
pub struct Refused {
    pub refusal: Refusal,
    /// More exact than the code, for the record only.
    pub detail: Option<String>,
    /// What the call would have held.
    pub hold: Option<Money>,
    /// The writer has it already, or cannot take it.
    pub recorded: bool,
    /// The provider may have received the request.
    pub reached: bool,
}

impl Refused {
    pub fn new(refusal: Refusal) -> Refused {
        Refused { refusal, detail: None, hold: None, recorded: false, reached: false }
    }

    /// A refusal with nothing but a code and its message.
    pub fn with(code: Code, message: impl Into<String>) -> Refused {
        Refused::new(Refusal::new(code, message))
    }

    /// The same, on the record already.
    pub fn recorded(refusal: Refusal) -> Refused {
        Refused { recorded: true, ..Refused::new(refusal) }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::new(refusal)
    }
}

impl Gateway {
    /// Records a refusal and words it. The record is durable before the answer goes out.
    pub(super) async fn refuse(&self, ticket: &Ticket, refused: Refused) -> Response<Body> {
        let answer = ticket.dialect.refuse(&refused.refusal, &ticket.id.to_string(), ticket.client);
        if let Some(key) = ticket.idempotency_key.as_ref().filter(|_| !refused.reached) {
            let credential = ticket.who.as_ref().map_or("", |w| w.credential.as_str());
            self.replays().release(credential, key, ticket.id);
        }
        if !refused.recorded {
            self.record(ticket, &refused, answer.status).await;
        }
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::Whole(answer.body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in &answer.headers {
            put(headers, name, value);
        }
        if !headers.contains_key(http::header::CONTENT_TYPE) {
            put(headers, "content-type", "application/json");
        }
        self.explain(headers, ticket, &refused.refusal);
        response
    }

    fn explain(&self, headers: &mut HeaderMap, ticket: &Ticket, refusal: &Refusal) {
        let id = ticket.id.to_string();
        for name in ["wb-request-id", "x-request-id", "request-id"] {
            put(headers, name, &id);
        }
        put(headers, "wb-deny", refusal.code.name());
        if let Some(policy) = refusal.by.as_deref().and_then(|by| by.strip_prefix("policy:")) {
            put(headers, "wb-policy", policy);
        }
        if let Some(budget) = refusal.by.as_deref().and_then(|by| by.strip_prefix("budget:")) {
            put(headers, "wb-budget", budget);
        }
        if let Some(at) = refusal.resets_at {
            put(headers, "wb-budget-resets-at", &at.to_string());
        }
        if let Some(remaining) = refusal.remaining {
            put(headers, "wb-budget-remaining-usd", &remaining.to_string());
        }
        if let Some(base) = &self.inner.settings.help_base {
            put(headers, "wb-help", &format!("{base}/help/{}", refusal.code.name()));
        }
    }

    async fn record(&self, ticket: &Ticket, refused: &Refused, http_status: u16) {
        let count = if ticket.who.is_some() {
            1
        } else {
            match self.throttle().record(ticket.peer.ip(), ticket.received_at) {
                Record::Write(count) => count,
                Record::Fold => return,
            }
        };
        let deny = Deny { http_status, count, ..deny(ticket, refused) };
        let request = Request::Deny { deny: Box::new(deny), erasable: Box::new(ticket.erasable()) };
        if let Err(error) = self.inner.ledger.submit(request).await {
            tracing::warn!(call = %ticket.id, %error, "a refusal could not be recorded");
        }
    }

    /// Writes what was folded out of the record of unidentified attempts. `all` at shut-down.
    pub async fn write_folded(&self, all: bool) {
        let now = self.now();
        let folded = self.throttle().take_folded(now, all);
        for (prefix, count) in folded {
            let deny = Deny {
                call: ids::new_call(),
                received_at: now,
                who: None,
                code: Code::KeyInvalid,
                detail: Some(format!("folded:{prefix}")),
                by: None,
                provider: None,
                dialect: None,
                endpoint: None,
                stream: false,
                model: None,
                http_status: Code::KeyInvalid.status(),
                tools_offered: 0,
                hold: None,
                available: None,
                catalogue_revision: 0,
                retry_of: None,
                count,
                rules: Vec::new(),
            };
            let request = Request::Deny { deny: Box::new(deny), erasable: Box::default() };
            if let Err(error) = self.inner.ledger.submit(request).await {
                tracing::warn!(%error, count, "folded refusals could not be recorded");
            }
        }
    }
}

fn deny(ticket: &Ticket, refused: &Refused) -> Deny {
    Deny {
        call: ticket.id,
        received_at: ticket.received_at,
        who: ticket.who.as_deref().cloned(),
        code: refused.refusal.code,
        detail: refused.detail.clone(),
        by: refused.refusal.by.clone(),
        provider: ticket.provider.clone(),
        dialect: Some(ticket.dialect.name().to_owned()),
        endpoint: ticket.endpoint.map(str::to_owned),
        stream: ticket.stream,
        model: ticket.model.clone(),
        http_status: refused.refusal.code.status(),
        tools_offered: ticket.tools_offered,
        hold: refused.hold,
        available: refused.refusal.remaining,
        catalogue_revision: ticket.catalogue_revision,
        retry_of: ticket.retry_of,
        count: 1,
        rules: ticket.rules.clone(),
    }
}

/// Sets a header to a text of ours; what no header can carry is left out.
pub fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// The same for a name that is not at hand as a header's.
pub fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}
