//! The web UI: pages rendered on the server, whole without JavaScript, made quicker by htmx where there is some.
//!
//! Each page is a struct and its handler side by side in one file; the handler asks `report` or the ledger one question
//! and returns the struct. `layers` has what every answer passes: session, same-origin check, headers, error pages.

mod accounts;
mod alerts;
mod assets;
mod budget;
mod budgets;
mod burn;
mod calls;
mod chart;
mod data;
mod emergency;
mod error;
mod export;
mod filters;
mod format;
mod govern;
mod help;
mod layers;
mod overview;
mod policies;
mod policy_form;
mod profile;
mod query;
mod range;
mod receipt;
mod running;
mod search;
mod shell;
mod sign_in;
mod soft_lock;
mod spend;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::middleware;
use axum::routing::{get, post};

use crate::domain::Micros;
use crate::gateway::InFlight;
use crate::notify::Notifier;
use crate::store::Ledger;

pub use accounts::{OperatorId, setup_link, sign_in_link};

/// What pages need; clones are cheap and equal.
#[derive(Clone)]
pub struct Web {
    pub ledger: Ledger,
    /// Pages are served over TLS: cookies are `Secure` and browsers are told to stay there.
    pub https: bool,
    /// Where software reaches the gateway, for snippets: `http://127.0.0.1:8700`.
    pub gateway: String,
    /// The calls under way in the gateway beside.
    in_flight: InFlight,
    /// Sends tests of channels.
    notifier: Option<Notifier>,
    soft_lock: Arc<Mutex<soft_lock::SoftLock>>,
    /// Passwords are hashed two at a time: each takes 19 MiB and a good part of a core.
    hashing: Arc<tokio::sync::Semaphore>,
}

impl Web {
    pub fn new(ledger: Ledger, https: bool, gateway: impl Into<String>) -> Web {
        Web {
            ledger,
            https,
            gateway: gateway.into(),
            in_flight: InFlight::default(),
            notifier: None,
            soft_lock: Arc::default(),
            hashing: Arc::new(tokio::sync::Semaphore::new(2)),
        }
    }

    /// Shows and ends the calls under way in a gateway.
    pub fn with_calls(mut self, in_flight: InFlight) -> Web {
        self.in_flight = in_flight;
        self
    }

    /// Sends tests of channels with it.
    pub fn with_notifier(self, notifier: Notifier) -> Web {
        Web { notifier: Some(notifier), ..self }
    }

    fn now(&self) -> Micros {
        self.ledger.clock().now()
    }
}

/// Every page. Mount it at the root of the web listener.
pub fn router(web: Web) -> Router {
    let signed_in = Router::new()
        .route("/", get(overview::show))
        .route("/spend", get(spend::show))
        .route("/alerts", get(alerts::list))
        .route("/alerts/channels", get(alerts::channels))
        .route("/alerts/channels/test", post(alerts::test))
        .route("/alerts/{id}", get(alerts::show))
        .route("/alerts/{id}/{act}", post(alerts::act))
        .route("/budgets", get(budgets::list).post(budget::create))
        .route("/budgets/new", get(budget::new))
        .route("/budgets/{id}", get(budget::show))
        .route("/budgets/{id}/edit", get(budget::edit).post(budget::update))
        .route("/budgets/{id}/{what}", post(budget::change))
        .route("/catalogue", get(govern::services))
        .route("/keys", get(govern::keys))
        .route("/providers", get(govern::providers))
        .route("/policies", get(policies::list))
        .route("/policies/new", get(policy_form::new).post(policy_form::create))
        .route("/policies/simulate", get(policies::simulate).post(policies::replay))
        .route("/policies/export", get(policies::export))
        .route("/policies/{id}", get(policies::show))
        .route("/policies/{id}/edit", get(policy_form::edit).post(policy_form::change))
        .route("/policies/{id}/mode", post(policies::switch))
        .route("/policies/{id}/delete", post(policies::remove))
        .route("/calls", get(calls::list))
        .route("/calls/running", get(running::show))
        .route("/calls/{id}", get(receipt::show))
        .route("/calls/{id}/stop", get(running::ask).post(running::stop))
        .route("/emergency", get(emergency::show))
        .route("/emergency/pause", post(emergency::pause))
        .route("/emergency/resume", post(emergency::resume))
        .route("/search", get(search::jump))
        .route("/profile", get(profile::show))
        .route("/profile/sessions/end", post(profile::end_session))
        .route("/profile/keys", post(profile::switch_keys))
        .route("/sign-out", post(sign_in::sign_out))
        .route_layer(middleware::from_fn(layers::require_session));
    let open = Router::new()
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-in/link", post(sign_in::use_link))
        .route("/setup", get(sign_in::setup).post(sign_in::create_first))
        .route("/theme", post(profile::switch_theme))
        .route("/help", get(help::list))
        .route("/help/{code}", get(help::show));
    let pages = layers::around_pages(open.merge(signed_in).fallback(layers::not_found), &web);
    Router::new()
        .route("/static/{*name}", get(assets::serve))
        .merge(pages)
        .layer(middleware::from_fn_with_state(web.clone(), layers::headers))
        .with_state(web)
}

/// The operator whose session these headers carry, for the API.
pub fn session_operator(web: &Web, headers: &HeaderMap) -> Option<OperatorId> {
    layers::session(web, headers).map(|s| s.operator)
}
