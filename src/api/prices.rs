//! `prices/quote`: what a usage costs, line by line, by the price book in force.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::domain::{Catalogue, CostLine, Micros, Money, Usage};
use crate::pricing::PriceBook;

use super::{Api, ApiError};

/// What to price.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QuoteQuestion")]
pub struct Question {
    /// A price list, or a configured provider.
    pub provider: String,
    pub model: String,
    /// Default: now.
    pub at: Option<Micros>,
    /// `{"service_tier": "flex"}`, `{"processing": "batch"}`, …
    #[serde(default)]
    pub context: BTreeMap<String, String>,
    #[schemars(with = "Usage")]
    pub usage: serde_json::Value,
}

/// A priced usage.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Quote")]
pub struct QuoteView {
    pub model_id: String,
    pub cost_usd: Money,
    pub lines: Vec<CostLine>,
    pub price_book: u32,
}

pub fn quote_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<QuoteView>()
}

pub fn question_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Question>()
}

pub async fn quote(State(api): State<Api>, body: Bytes) -> Result<Json<QuoteView>, ApiError> {
    let now = api.ledger.clock().now();
    answer(&api.ledger.catalogue(), &api.price_book(), now, &body).map(Json)
}

/// The answer, for any catalogue and book.
pub fn answer(catalogue: &Catalogue, book: &PriceBook, now: Micros, body: &[u8]) -> Result<QuoteView, ApiError> {
    let question: Question = serde_json::from_slice(body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("the question: {error}")))?;
    let usage: Usage = serde_json::from_value(question.usage).map_err(|error| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_usage", format!("`usage`: {error}"))
    })?;
    let list = catalogue.providers.get(&question.provider).map_or(&question.provider, |p| &p.price_as);
    let at = question.at.unwrap_or(now);
    let cost = book.quote(list, &question.model, at, &question.context, &usage)?;
    Ok(QuoteView { model_id: cost.model, cost_usd: cost.total, lines: cost.lines, price_book: book.version() })
}
