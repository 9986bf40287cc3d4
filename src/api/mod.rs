//! The admin API: what the pages and the command line offer, as JSON under `/api/v1`, and `/metrics` beside it.
//!
//! One table, `endpoints`, is the router and the OpenAPI document alike, so that neither can say what the other does not
//! know. Handlers ask `report` one question or give `control` one command, and wrap the answer.

mod alerts;
mod allocations;
mod auth;
mod backup;
mod calls;
mod declared;
mod error;
mod evidence;
mod file;
mod health;
mod metrics;
mod openapi;
mod operators;
mod outlook;
mod pauses;
mod policies;
mod prices;
mod running;
mod spend;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{self, MethodRouter};
use schemars::{Schema, SchemaGenerator};
use secrecy::SecretString;

use crate::gateway::InFlight;
use crate::notify::Notifier;
use crate::pricing::PriceBook;
use crate::store::Ledger;

pub use auth::Actor;
pub use error::ApiError;
use metrics::Totals;

/// Names the operator of a web session, as an actor such as `operator:ada`.
pub type SessionHook = Arc<dyn Fn(&HeaderMap) -> Option<String> + Send + Sync>;

/// A price book and its number in the catalogue.
type NumberedBook = (u32, Arc<PriceBook>);

/// What the handlers share. Clones are cheap and equal.
#[derive(Clone)]
pub struct Api {
    pub(crate) ledger: Ledger,
    operator_token: Option<Arc<SecretString>>,
    session: Option<SessionHook>,
    notifier: Option<Notifier>,
    /// The price book of the catalogue it was last asked for.
    book: Arc<Mutex<Option<NumberedBook>>>,
    totals: Arc<Totals>,
    /// The calls of this process; none where the API is over a folder.
    in_flight: InFlight,
}

impl Api {
    /// `operator_token` is the one of the configuration.
    pub fn new(ledger: Ledger, operator_token: Option<SecretString>) -> Api {
        Api {
            ledger,
            operator_token: operator_token.map(Arc::new),
            session: None,
            notifier: None,
            book: Arc::default(),
            totals: Arc::default(),
            in_flight: InFlight::default(),
        }
    }

    /// Shows and ends the calls under way in a gateway.
    pub fn with_calls(mut self, in_flight: InFlight) -> Api {
        self.in_flight = in_flight;
        self
    }

    /// Accepts web sessions too, for reading.
    pub fn with_session(mut self, hook: SessionHook) -> Api {
        self.session = Some(hook);
        self
    }

    /// Sends tests of channels with it.
    pub fn with_notifier(mut self, notifier: Notifier) -> Api {
        self.notifier = Some(notifier);
        self
    }

    fn price_book(&self) -> Arc<PriceBook> {
        let catalogue = self.ledger.catalogue();
        let mut held = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some((version, book)) if *version == catalogue.price_book => book.clone(),
            _ => {
                let book = PriceBook::for_catalogue(&catalogue);
                *held = Some((catalogue.price_book, book.clone()));
                book
            }
        }
    }

    /// The zone in which dates are meant where a question names none.
    fn zone(&self) -> String {
        self.ledger.catalogue().organisation.time_zone.clone()
    }

    /// Runs what reads the store where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Api) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let api = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&api)).await;
        done.unwrap_or_else(|error| Err(ApiError::internal(error)))
    }
}

/// One path and method: how it is answered and described.
struct Endpoint {
    method: &'static str,
    /// Below `/api/v1`.
    path: &'static str,
    summary: &'static str,
    query: Query,
    body: Option<fn(&mut SchemaGenerator) -> Schema>,
    answer: fn(&mut SchemaGenerator) -> Schema,
    handler: MethodRouter<Api>,
}

/// Which query parameters a path takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    None,
    Calls,
    Spend,
    /// Dimensions and a limit: what runs is no file.
    Running,
}

fn endpoint(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: fn(&mut SchemaGenerator) -> Schema,
    handler: MethodRouter<Api>,
) -> Endpoint {
    Endpoint { method, path, summary, query: Query::None, body: None, answer, handler }
}

/// Everything the API answers.
fn endpoints() -> Vec<Endpoint> {
    use routing::{get, post};
    let any: fn(&mut SchemaGenerator) -> Schema = |_| schemars::json_schema!({ "type": "object" });
    let mut all = vec![
        endpoint("GET", "/calls", "Metered calls, newest first", calls::page_schema, get(calls::list)),
        endpoint(
            "GET",
            "/calls/running",
            "What runs now, with what it has come to so far and what it holds",
            running::schema,
            get(running::list),
        ),
        endpoint(
            "POST",
            "/calls/{id}/stop",
            "End a call that runs: its caller gets an error, what had passed is settled",
            running::stopped_schema,
            post(running::stop),
        ),
        endpoint(
            "GET",
            "/calls/{id}",
            "One call with its postings and its proof",
            calls::receipt_schema,
            get(calls::show),
        ),
        endpoint("GET", "/spend", "Spend by any dimension, in steps of time", spend::schema, get(spend::show)),
        endpoint(
            "POST",
            "/policies/simulate",
            "Decision and rules for a call that nobody has made",
            policies::answer_schema,
            post(policies::simulate),
        ),
        endpoint(
            "POST",
            "/policies/replay",
            "Past calls before proposed policies and budgets: what would have been decided otherwise",
            policies::replay_schema,
            post(policies::replay),
        ),
        endpoint("GET", "/policies/export", "All policies as TOML", any, get(policies::export)),
        endpoint("POST", "/prices/quote", "What a usage costs", prices::quote_schema, post(prices::quote)),
        endpoint(
            "GET",
            "/ledger/checkpoint",
            "Size and root of the journal; as text/plain a signed checkpoint of now",
            evidence::head_schema,
            get(evidence::head),
        ),
        endpoint(
            "GET",
            "/ledger/proof/{id}",
            "The entries of a call and their inclusion paths; as text/plain one .tlog-proof per entry",
            evidence::proof_schema,
            get(evidence::proof),
        ),
        endpoint(
            "POST",
            "/ledger/rotate-key",
            "Another signing key, from one checkpoint on that both sign",
            evidence::rotation_schema,
            post(evidence::rotate),
        ),
        endpoint(
            "GET",
            "/backup",
            "Everything but the root key as one tar file, complete once it has its manifest; recorded",
            backup::schema,
            get(backup::make),
        ),
        endpoint("GET", "/health", "State of the store", health::schema, get(health::show)),
        endpoint("GET", "/openapi.json", "This document", any, get(openapi::show)),
    ];
    for found in &mut all {
        match found.path {
            "/calls" => found.query = Query::Calls,
            "/calls/running" => found.query = Query::Running,
            "/calls/{id}/stop" => found.body = Some(running::reason_schema),
            "/spend" => found.query = Query::Spend,
            "/ledger/rotate-key" => found.body = Some(evidence::reason_schema),
            "/prices/quote" => found.body = Some(prices::question_schema),
            "/policies/simulate" => found.body = Some(policies::question_schema),
            "/policies/replay" => found.body = Some(policies::replay_question_schema),
            _ => {}
        }
    }
    all.extend(declared::endpoints());
    all.extend(allocations::endpoints());
    all.extend(operators::endpoints());
    all.extend(pauses::endpoints());
    all.extend(alerts::endpoints());
    all
}

/// The API and the machine-readable state, to be mounted at the root of the web listener.
pub fn router(api: Api) -> Router {
    let mut v1 = Router::new();
    for found in endpoints() {
        v1 = v1.route(found.path, found.handler);
    }
    let v1 = v1.fallback(error::unknown_path).method_not_allowed_fallback(error::wrong_method);
    let guarded = Router::new().nest("/api/v1", v1).route("/metrics", routing::get(metrics::show));
    let guarded = guarded.layer(axum::middleware::from_fn_with_state(api.clone(), auth::require));
    Router::new()
        .route("/healthz", routing::get(health::alive))
        .route("/readyz", routing::get(health::ready))
        .merge(guarded)
        .with_state(api)
}
