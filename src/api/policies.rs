//! `policies/simulate`, `policies/replay`, `policies/export`: rules tried out before they are in force.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::instant;
use crate::control::{self, Proposal};
use crate::domain::{Filter, Micros};
use crate::report::{self, Answer, Question, Replay, WhatIf};

use super::{Api, ApiError};

/// What is replayed where no range is given.
const DAY: i64 = 86_400;

/// A call to be imagined, and what is to be tried out with it.
#[derive(JsonSchema)]
#[schemars(rename = "SimulateQuestion")]
#[allow(dead_code, reason = "read in two steps, so that what is unknown is refused; this is its schema")]
pub struct SimulateBody {
    #[schemars(flatten)]
    question: Question,
    /// `[[policy]]` sections that take the place of those of their ids, or stand behind all others.
    toml: Option<String>,
}

/// What is to be tried out with the calls of a range.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReplayQuestion")]
pub struct ReplayBody {
    /// `[[policy]]` and `[[budget]]` sections.
    toml: Option<String>,
    /// The same as JSON.
    #[serde(default)]
    #[schemars(with = "Vec<crate::config::file::Policy>")]
    policies: Vec<Value>,
    #[serde(default)]
    #[schemars(with = "Vec<crate::config::file::Budget>")]
    budgets: Vec<Value>,
    /// An instant or a date in the organisation's zone; default 24 hours ago.
    from: Option<String>,
    /// Exclusive; default now.
    to: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReplayAnswer")]
pub struct ReplayView {
    from: Micros,
    to: Micros,
    /// All proposed policies together; absent where none was given.
    policies: Option<Replay>,
    /// Each proposed budget for itself.
    budgets: Vec<BudgetReplay>,
    as_of: Micros,
    as_of_seq: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct BudgetReplay {
    id: String,
    #[serde(flatten)]
    what_if: WhatIf,
}

pub fn answer_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Answer>()
}
pub fn question_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<SimulateBody>()
}
pub fn replay_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ReplayView>()
}
pub fn replay_question_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ReplayBody>()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("the question: {error}")))
}

pub async fn simulate(State(api): State<Api>, body: Bytes) -> Result<Json<Answer>, ApiError> {
    let mut body: Map<String, Value> = read(&body)?;
    let toml = body.remove("toml").and_then(|text| text.as_str().map(str::to_owned));
    let question: Question = read(Value::Object(body).to_string().as_bytes())?;
    api.blocking(move |api| {
        let catalogue = api.ledger.catalogue();
        let proposal = match &toml {
            Some(text) => control::propose_toml(&catalogue, text)?,
            None => Proposal::default(),
        };
        let now = api.ledger.clock().now();
        Ok(Json(report::simulate(&catalogue, &api.price_book(), &proposal.policies, &question, now)?))
    })
    .await
}

pub async fn replay(State(api): State<Api>, body: Bytes) -> Result<Json<ReplayView>, ApiError> {
    let body: ReplayBody = read(&body)?;
    api.blocking(move |api| {
        let catalogue = api.ledger.catalogue();
        let mut proposal = control::propose(&catalogue, body.policies, body.budgets)?;
        if let Some(text) = &body.toml {
            let more = control::propose_toml(&catalogue, text)?;
            proposal.policies.extend(more.policies);
            proposal.budgets.extend(more.budgets);
        }
        if proposal.policies.is_empty() && proposal.budgets.is_empty() {
            return Err(ApiError::wrong("toml", "give a [[policy]] or a [[budget]] to be tried out".to_owned()));
        }
        let now = api.ledger.clock().now();
        let zone = TimeZone::get(&api.zone()).unwrap_or(TimeZone::UTC);
        let time = |field: &str, text: Option<&str>, default: Micros| match text {
            None => Ok(default),
            Some(text) => instant(text, &zone, 0)
                .ok_or_else(|| ApiError::wrong(field, format!("`{text}` is neither an instant nor a date"))),
        };
        let to = time("to", body.to.as_deref(), now)?;
        let from = time("from", body.from.as_deref(), to.plus_seconds(-DAY))?;
        let filter = Filter { from: Some(from), to: Some(to), dimensions: Vec::new() };
        let policies = match proposal.policies.is_empty() {
            true => None,
            false => Some(report::replay(&api.ledger, &api.price_book(), &proposal.policies, &filter)?),
        };
        let budgets = proposal.budgets.iter().map(|budget| {
            let what_if = report::what_if(&api.ledger, budget, &filter)?;
            Ok(BudgetReplay { id: budget.id.clone(), what_if })
        });
        let budgets = budgets.collect::<Result<Vec<_>, ApiError>>()?;
        let as_of = api.ledger.views().as_of()?;
        Ok(Json(ReplayView { from, to, policies, budgets, as_of: as_of.at, as_of_seq: as_of.seq }))
    })
    .await
}

/// All policies as sections of a configuration file.
pub async fn export(State(api): State<Api>) -> Response {
    let text = control::policies_toml(&api.ledger.catalogue());
    ([(header::CONTENT_TYPE, "application/toml")], text).into_response()
}
