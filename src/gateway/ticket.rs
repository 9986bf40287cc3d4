//! What is known of one request as it moves through the stages: the facts every record and every answer needs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderName, header};

use crate::dialect::{Client, Dialect};
use crate::domain::identity::Claimed;
use crate::domain::policy::RuleSeen;
use crate::domain::{Attribution, CallId, Micros};
use crate::ledger::entry::{Content, Erasable, Network, Person};
use crate::policy::Downgraded;

use super::{ids, names};

/// One request, from its head on. Stages fill it in; refusals and settlements read it.
#[derive(Clone)]
pub struct Ticket {
    pub id: CallId,
    /// When the head had been read.
    pub received_at: Micros,
    /// The same instant for measuring durations.
    pub started: Instant,
    /// When the last byte of the request was here: our own share of the time counts from then.
    pub read_at: Instant,
    pub peer: SocketAddr,
    /// In whose words errors are told.
    pub dialect: &'static dyn Dialect,
    pub client: Client,
    /// The caller takes `wb-cost-usd` as a trailer.
    pub trailers: bool,
    pub network: Network,
    pub who: Option<Arc<Attribution>>,
    pub claimed: Claimed,
    pub provider: Option<String>,
    pub endpoint: Option<&'static str>,
    pub model: Option<String>,
    pub stream: bool,
    pub tools_offered: u32,
    pub catalogue_revision: u64,
    pub retry_of: Option<CallId>,
    /// Keyed hash of the request's body.
    pub fingerprint: Option<[u8; 32]>,
    /// `wb-idempotency-key`, once it is claimed for this call.
    pub idempotency_key: Option<String>,
    /// Rules of policies that were looked at.
    pub rules: Vec<RuleSeen>,
    /// Policies that only warn, and that the call breaks.
    pub warnings: Vec<String>,
    /// The cheaper model a policy sent it to.
    pub downgraded: Option<Downgraded>,
}

impl Ticket {
    /// A ticket for a request that has just arrived.
    pub fn new(head: &Parts, peer: SocketAddr, now: Micros, dialect: &'static dyn Dialect) -> Ticket {
        let started = Instant::now();
        Ticket {
            id: ids::new_call(),
            received_at: now,
            started,
            read_at: started,
            peer,
            dialect,
            client: client(&head.headers),
            trailers: wants_trailers(&head.headers),
            network: network(&head.headers, peer),
            who: None,
            claimed: Claimed::new(),
            provider: None,
            endpoint: None,
            model: None,
            stream: false,
            tools_offered: 0,
            catalogue_revision: 0,
            retry_of: None,
            fingerprint: None,
            idempotency_key: None,
            rules: Vec::new(),
            warnings: Vec::new(),
            downgraded: None,
        }
    }

    /// The erasable groups of this call's first entry.
    pub fn erasable(&self) -> Erasable {
        let person = Person { claimed: self.claimed.clone(), reason: None };
        Erasable {
            network: Some(self.network.clone()),
            person: (!person.claimed.is_empty()).then_some(person),
            content: self.fingerprint.map(|body| Content { body: Some(body) }),
            vendor_usage: None,
        }
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Clients that handle errors in ways of their own say who they are.
fn client(headers: &HeaderMap) -> Client {
    let starts = |name: &HeaderName, prefix: &str| {
        text(headers, name).and_then(|v| v.get(..prefix.len())).is_some_and(|v| v.eq_ignore_ascii_case(prefix))
    };
    if starts(&names::ORIGINATOR, "codex") || starts(&header::USER_AGENT, "codex") {
        Client::Codex
    } else if starts(&header::USER_AGENT, "claude-cli") {
        Client::ClaudeCode
    } else {
        Client::Other
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    text(headers, header::TE).is_some_and(|te| te.split(',').any(|t| t.trim().eq_ignore_ascii_case("trailers")))
}

fn network(headers: &HeaderMap, peer: SocketAddr) -> Network {
    let (trace_id, parent_id) = trace(headers).unzip();
    let user_agent = text(headers, header::USER_AGENT).map(|ua| ua.chars().take(256).collect());
    Network { peer: Some(peer.to_string()), user_agent, trace_id, parent_id }
}

/// W3C trace context: correlation, never identity.
fn trace(headers: &HeaderMap) -> Option<(String, String)> {
    let mut parts = text(headers, &names::TRACEPARENT)?.split('-');
    let (_version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(trace, 32) && hex(parent, 16)).then(|| (trace.to_ascii_lowercase(), parent.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn clients_with_ways_of_their_own_are_recognised() {
        assert_eq!(client(&headers("originator", "codex_cli_rs")), Client::Codex);
        assert_eq!(client(&headers("user-agent", "codex_exec/0.169.0")), Client::Codex);
        assert_eq!(client(&headers("user-agent", "claude-cli/2.1.197 (external, cli)")), Client::ClaudeCode);
        assert_eq!(client(&headers("user-agent", "OpenAI/Python 3.54.0")), Client::Other);
    }

    #[test]
    fn trace_context_is_kept_only_where_it_is_well_formed() {
        let good = headers("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(trace(&good).unwrap().1, "00f067aa0ba902b7");
        assert!(trace(&headers("traceparent", "00-xyz-1-01")).is_none());
        assert!(wants_trailers(&headers("te", "gzip, Trailers")));
    }
}
