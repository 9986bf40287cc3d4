//! `/budgets/{id}/raises`, `…/reset`, `…/grants`: what operators allocate to a budget beside its declared limit.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{self, AllocationView, By};

use super::{Actor, Api, ApiError, Endpoint, endpoint};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Allocations")]
struct AllocationsView {
    allocations: Vec<AllocationView>,
}

type Made = Result<(StatusCode, Json<AllocationsView>), ApiError>;

pub fn endpoints() -> Vec<Endpoint> {
    let all: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<AllocationsView>();
    let mut raise =
        endpoint("POST", "/budgets/{id}/raises", "Raise a budget until an instant", all, post(raise_budget));
    raise.body = Some(|g| g.subschema_for::<control::Raise>());
    let mut reset = endpoint(
        "POST",
        "/budgets/{id}/reset",
        "Give back what the current period has posted; nothing is deleted",
        all,
        post(reset_budget),
    );
    reset.body = Some(|g| g.subschema_for::<control::Reset>());
    let mut grant = endpoint(
        "POST",
        "/budgets/{id}/grants",
        "Break-glass: open the band of grace_pct above the limit until an instant",
        all,
        post(grant_budget),
    );
    grant.body = Some(|g| g.subschema_for::<control::Grant>());
    let list = endpoint(
        "GET",
        "/budgets/{id}/allocations",
        "Raises, resets and grants that are in force or still count",
        all,
        get(list),
    );
    vec![list, raise, reset, grant]
}

fn body<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(text).map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, "malformed", e.to_string()))
}

impl Api {
    fn now_by(&self, actor: Actor) -> By {
        By::new(actor.0, self.ledger.clock().now())
    }

    async fn allocations(&self, id: String) -> Result<Json<AllocationsView>, ApiError> {
        let listed = self.blocking(move |api| Ok(control::allocations(&api.ledger, &id)?)).await?;
        Ok(Json(AllocationsView { allocations: listed }))
    }
}

async fn list(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<AllocationsView>, ApiError> {
    api.allocations(id).await
}

async fn raise_budget(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    text: Bytes,
) -> Made {
    control::raise(&api.ledger, &api.now_by(actor), &id, body(&text)?).await?;
    Ok((StatusCode::CREATED, api.allocations(id).await?))
}

async fn reset_budget(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    text: Bytes,
) -> Made {
    control::reset(&api.ledger, &api.now_by(actor), &id, body(&text)?).await?;
    Ok((StatusCode::CREATED, api.allocations(id).await?))
}

async fn grant_budget(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    text: Bytes,
) -> Made {
    control::grant(&api.ledger, &api.now_by(actor), &id, body(&text)?).await?;
    Ok((StatusCode::CREATED, api.allocations(id).await?))
}
