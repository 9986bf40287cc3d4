//! How the appliance is: for people with a token, and for machines without.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::domain::Micros;

use super::Api;

/// State of the store.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub struct HealthView {
    /// `ok`; `degraded` = the journal cannot be written and calls are refused.
    status: &'static str,
    version: &'static str,
    journal_entries: u64,
    /// Time of the newest entry.
    newest_entry_at: Micros,
    /// Entries that the derived file does not have yet.
    views_behind: u64,
    open_calls: u64,
    catalogue_revision: u64,
}

pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<HealthView>()
}

pub async fn show(State(api): State<Api>) -> Json<HealthView> {
    let head = api.ledger.head();
    Json(HealthView {
        status: if api.ledger.healthy() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        journal_entries: head.size,
        newest_entry_at: head.at,
        views_behind: head.size.saturating_sub(api.ledger.views().applied()),
        open_calls: api.ledger.running().len() as u64,
        catalogue_revision: api.ledger.catalogue().revision,
    })
}

/// The process answers.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Calls can be recorded.
pub async fn ready(State(api): State<Api>) -> (StatusCode, &'static str) {
    if api.ledger.healthy() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the journal cannot be written; calls are refused\n")
    }
}
