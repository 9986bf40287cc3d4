//! What runs now: the open calls of the ledger with what this process knows of them, and the way to end one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::control;
use crate::domain::{CallView, CostBasis, Micros, Money};
use crate::gateway::{NotStopped, Underway};
use crate::report::{Ask, MOST_CALLS};

use super::calls::parse_id;
use super::{Actor, Api, ApiError};

/// A call that has not ended.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RunningCall")]
struct RunningView {
    #[serde(flatten)]
    call: CallView,
    /// Runs on at the vendor (a background response, a batch): not to be stopped here.
    job: bool,
    /// The answer has begun. Null where another process carries the call.
    answering: Option<bool>,
    /// Output that has passed, reckoned from its length.
    output_tokens_so_far: Option<u64>,
    /// Input by its length and output so far at the price in force. Null: no price, or not known here.
    cost_so_far_usd: Option<Money>,
    /// Always `estimated`; null where there is no cost so far.
    cost_so_far_basis: Option<CostBasis>,
    /// Somebody ended it; it is being settled.
    stopping: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RunningCalls")]
struct PageView {
    /// Oldest first.
    calls: Vec<RunningView>,
    /// How many run in all, whatever the filter.
    running: usize,
    as_of: Micros,
}

/// A call that was ended.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StoppedCall")]
struct StoppedView {
    #[serde(flatten)]
    call: CallView,
}

/// Why; kept where it can be erased.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StopReason")]
struct Reason {
    reason: String,
}

pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<PageView>()
}

pub fn stopped_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<StoppedView>()
}

pub fn reason_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Reason>()
}

pub async fn list(
    State(api): State<Api>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let ask = Ask::calls(&pairs, &api.zone())?;
    api.blocking(move |api| {
        let open = api.ledger.running();
        let limit = ask.limit.unwrap_or(MOST_CALLS).min(MOST_CALLS);
        let mut calls = Vec::new();
        for open in &open {
            if calls.len() == limit {
                break;
            }
            let Some(call) = api.ledger.call(open.call)? else { continue };
            if ask.filter.accepts(|dimension| call.dimension(dimension)) && ask.filter.in_range(call.started_at) {
                let call = CallView { hold_usd: open.hold, ..CallView::from(&call) };
                calls.push(RunningView::new(call, open.job, api.in_flight.get(open.call)));
            }
        }
        let page = PageView { calls, running: open.len(), as_of: api.ledger.clock().now() };
        Ok(Json(serde_json::to_value(page).map_err(ApiError::internal)?))
    })
    .await
}

impl RunningView {
    fn new(call: CallView, job: bool, seen: Option<Underway>) -> RunningView {
        let cost_so_far_usd = seen.as_ref().and_then(|seen| seen.cost_so_far);
        RunningView {
            call,
            job,
            answering: seen.as_ref().map(|seen| seen.answering),
            output_tokens_so_far: seen.as_ref().map(|seen| seen.output_tokens),
            cost_so_far_usd,
            cost_so_far_basis: cost_so_far_usd.map(|_| CostBasis::Estimated),
            stopping: seen.is_some_and(|seen| seen.stopping),
        }
    }
}

/// 200 with the settled call; 202 where its settlement takes longer than a few seconds.
pub async fn stop(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    text: Bytes,
) -> Result<(StatusCode, Json<serde_json::Value>), ApiError> {
    let id = parse_id(&id)?;
    let given = serde_json::from_slice::<Reason>(&text);
    let given = given.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", error))?;
    let reason = control::reason(&given.reason)?;
    let call = api.in_flight.end(&api.ledger, &actor.0, &reason, id).await?;
    let status = if call.completed_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let view = serde_json::to_value(StoppedView { call: CallView::from(&call) }).map_err(ApiError::internal)?;
    Ok((status, Json(view)))
}

impl From<NotStopped> for ApiError {
    fn from(error: NotStopped) -> ApiError {
        match error {
            NotStopped::Unknown(_) => ApiError::new(StatusCode::NOT_FOUND, "not_found", error),
            NotStopped::Ended(_) | NotStopped::Job(_) => ApiError::new(StatusCode::CONFLICT, "conflict", error),
            NotStopped::Store(error) => error.into(),
        }
    }
}
