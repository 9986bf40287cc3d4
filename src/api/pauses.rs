//! `pauses`: what is paused now, pausing at once, ending a pause early.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::control::{self, By, NewPause, PauseView};
use crate::domain::Micros;

use super::{Actor, Api, ApiError, Endpoint, endpoint};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Pauses")]
struct PausesView {
    pauses: Vec<PauseView>,
    as_of: Micros,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NewPauseAnswer")]
struct MadeView {
    #[serde(flatten)]
    pause: PauseView,
    /// How many running calls were ended by it.
    calls_cut: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: String,
}

pub fn endpoints() -> Vec<Endpoint> {
    let all: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<PausesView>();
    let one: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<PauseView>();
    let made: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<MadeView>();
    let mut make =
        endpoint("POST", "/pauses", "Pause a key, service, agent, model or provider at once", made, post(create));
    make.body = Some(|g| g.subschema_for::<NewPause>());
    vec![
        endpoint("GET", "/pauses", "What is paused now, with who, why and until when", all, get(list)),
        make,
        // Models have slashes.
        endpoint("DELETE", "/pauses/{*id}", "End a pause before its time; ?reason= is required", one, delete(end)),
    ]
}

async fn list(State(api): State<Api>) -> Result<Json<PausesView>, ApiError> {
    api.blocking(|api| Ok(Json(PausesView { pauses: control::pauses(&api.ledger)?, as_of: api.ledger.clock().now() })))
        .await
}

async fn create(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    text: Bytes,
) -> Result<(StatusCode, Json<MadeView>), ApiError> {
    let new: NewPause =
        serde_json::from_slice(&text).map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", error))?;
    let by = By::new(actor.0, api.ledger.clock().now());
    let pause = control::pause(&api.ledger, &by, new).await?;
    let calls_cut = api.in_flight.cut_paused(&api.ledger);
    Ok((StatusCode::CREATED, Json(MadeView { pause, calls_cut })))
}

/// Answers with the pause that was ended.
async fn end(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Query(given): Query<Reason>,
) -> Result<Json<PauseView>, ApiError> {
    let by = By::new(actor.0, api.ledger.clock().now());
    Ok(Json(control::resume(&api.ledger, &by, &id, &given.reason).await?))
}
