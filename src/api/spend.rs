//! `spend`: by any dimension, in steps, as JSON or a file.

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::{Schema, SchemaGenerator, json_schema};
use sha2::{Digest, Sha256};

use crate::domain::{CostBasis, Dimension, Money, Usage};
use crate::report::{self, Ask, Export, Format, Stamp, export_spend, file_name};

use super::{Actor, Api, ApiError, file};

pub async fn show(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ask = Ask::spend(&pairs, &api.zone())?;
    let format = file::format(&ask, &headers);
    let name = file_name("spend", &ask.filter, &ask.time_zone, &ask.by, format);
    let (bytes, rows) = api
        .blocking(move |api| {
            if let Some(seq) = ask.min_seq {
                super::calls::wait_for(api, seq)?;
            }
            let query = ask.spend_query();
            let spend = report::spend(&api.ledger, &query)?;
            let stamp = Stamp { as_of: spend.as_of, ..Stamp::now(&api.ledger, &ask.time_zone)? };
            let bytes = export_spend(&query, &spend, Export { format, style: ask.style }, &stamp);
            Ok((bytes, spend.rows.len() as u64))
        })
        .await?;
    if format == Format::Json {
        return Ok(file::response(Body::from(bytes), format, None));
    }
    file::record(&api.ledger, &actor, &name, rows, &Sha256::digest(&bytes)).await?;
    Ok(file::response(Body::from(bytes), format, Some(name)))
}

pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut sums = serde_json::Map::new();
    for name in ["calls", "refused", "failed", "unpriced", "estimated", "tool_calls", "total_ms"] {
        sums.insert(name.into(), serde_json::json!({ "type": "integer" }));
    }
    let money = generator.subschema_for::<Money>();
    sums.insert("usage".into(), generator.subschema_for::<Usage>().to_value());
    sums.insert("cost_usd".into(), money.clone().to_value());
    sums.insert("cost_basis".into(), generator.subschema_for::<CostBasis>().to_value());
    sums.insert("avoided_usd".into(), money.to_value());
    let coverage = "Share of calls whose cost is known, as a decimal from 0 to 1";
    sums.insert("coverage".into(), serde_json::json!({ "type": ["string", "null"], "description": coverage }));
    let total = json_schema!({ "type": "object", "properties": sums });
    for dimension in Dimension::ALL {
        sums.insert(dimension.name().into(), serde_json::json!({ "type": ["string", "null"] }));
    }
    sums.insert("bucket".into(), serde_json::json!({ "type": "string" }));
    json_schema!({
        "type": "object",
        "properties": {
            "rows": { "type": "array", "items": { "type": "object", "properties": sums } },
            "total": total,
            "as_of": { "type": "string", "format": "date-time" },
            "as_of_seq": { "type": "integer" },
            "basis": { "type": "string" },
            "tz": { "type": "string" },
            "ledger_head": { "type": "string" }
        }
    })
}
