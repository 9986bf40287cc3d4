//! How the appliance is: for people with a token, and for machines without.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::domain::Micros;
use crate::store::{FORMATS, Scrubbed};

use super::{Api, ApiError};

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
    /// What cannot be written at the moment: `journal` and `room` stop calls, the others are behind until they can.
    troubles: Vec<TroubleView>,
    catalogue_revision: u64,
    /// What reading the stored bytes again has found so far.
    scrub: ScrubView,
    /// Bytes that may still be written to the file system of the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    /// Epoch and entries of the newest line of `head.log`; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_log: Option<NotedView>,
    /// Formats of the files as this version writes them.
    formats: std::collections::BTreeMap<&'static str, u64>,
    /// Entries of the newest signed checkpoint; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_entries: Option<u64>,
}

/// What `head.log` says was there.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Noted")]
struct NotedView {
    epoch: u64,
    entries: u64,
}

/// A part of the store in trouble.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Trouble")]
struct TroubleView {
    /// `journal`, `views`, `head_log`, `checkpoint`, `snapshot`, `next_month`, `core` or `room`.
    part: &'static str,
    why: String,
}

/// Stored bytes read again and held against their hashes.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Scrub")]
struct ScrubView {
    /// Passes that came to their end since the process began.
    passes: u64,
    /// Entries of the pass under way.
    at: u64,
    of: u64,
    findings: u64,
    /// File, entry, and what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_finding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Micros>,
}

impl From<Scrubbed> for ScrubView {
    fn from(s: Scrubbed) -> ScrubView {
        let Scrubbed { passes, at, of, findings, newest, finished_at, .. } = s;
        ScrubView { passes, at, of, findings, newest_finding: newest, finished_at }
    }
}

pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<HealthView>()
}

pub async fn show(State(api): State<Api>) -> Result<Json<HealthView>, ApiError> {
    api.blocking(|api| Ok(Json(health(api)))).await
}

fn health(api: &Api) -> HealthView {
    let head = api.ledger.head();
    HealthView {
        status: if api.ledger.healthy() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        journal_entries: head.position(),
        newest_entry_at: head.at,
        views_behind: head.position().saturating_sub(api.ledger.views().applied()),
        open_calls: api.ledger.running().len() as u64,
        troubles: api.ledger.troubles().into_iter().map(|(part, why)| TroubleView { part: part.name(), why }).collect(),
        catalogue_revision: api.ledger.catalogue().revision,
        scrub: api.ledger.scrubbed().into(),
        free_bytes: api.ledger.free_bytes(),
        head_log: api.ledger.last_noted().map(|(epoch, entries)| NotedView { epoch, entries }),
        formats: FORMATS.into(),
        checkpoint_entries: api.ledger.last_checkpoint().map(|signed| signed.size),
    }
}

/// The process answers.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Calls can be recorded.
pub async fn ready(State(api): State<Api>) -> (StatusCode, &'static str) {
    if api.ledger.healthy() && api.ledger.scrubbed().findings > 0 {
        // Calls can go on; the operator must look.
        (StatusCode::OK, "ready; stored bytes are damaged: see /api/v1/health\n")
    } else if api.ledger.healthy() && !api.ledger.troubles().is_empty() {
        (StatusCode::OK, "ready; not everything can be written: see troubles in /api/v1/health\n")
    } else if api.ledger.healthy() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the journal cannot be written; calls are refused\n")
    }
}
