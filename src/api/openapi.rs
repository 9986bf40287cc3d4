//! `openapi.json` (OpenAPI 3.1), made of the table of endpoints and the types they answer with.

use axum::Json;
use axum::extract::State;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::domain::Dimension;

use super::{Api, Endpoint, Query, endpoints};

pub async fn show(State(_): State<Api>) -> Json<Value> {
    Json(document())
}

/// The whole document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let item = operation(&endpoint, &mut generator);
        let path = paths.entry(format!("/api/v1{}", endpoint.path)).or_insert_with(|| json!({}));
        path[endpoint.method.to_ascii_lowercase()] = item;
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".into(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weighbridge", "version": env!("CARGO_PKG_VERSION"),
            "description": "Metered calls to language models: who made them, what they may cost, what they did cost. Money is a decimal string of US dollars; a count that is not known is absent."
        },
        "security": [{ "operator": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "operator": { "type": "http", "scheme": "bearer", "description": "An operator's token (wbo_…), or the configured operator token" } },
            "schemas": schemas
        }
    })
}

fn operation(endpoint: &Endpoint, generator: &mut schemars::SchemaGenerator) -> Value {
    let media = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut answer = media((endpoint.answer)(generator).to_value());
    if matches!(endpoint.query, Query::Calls | Query::Spend) {
        answer["text/csv"] = json!({ "schema": { "type": "string" } });
        answer["application/x-ndjson"] = json!({ "schema": { "type": "string" } });
    }
    if endpoint.path == "/backup" {
        answer = json!({ "application/x-tar": { "schema": { "type": "string", "format": "binary" } } });
    }
    let failed = json!({ "description": "No", "content": media(json!({ "$ref": "#/components/schemas/Error" })) });
    let mut operation = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(endpoint),
        "parameters": parameters(endpoint),
        "responses": { "200": { "description": "Done", "content": answer }, "4XX": failed, "5XX": failed }
    });
    if let Some(body) = endpoint.body {
        operation["requestBody"] = json!({ "required": true, "content": media(body(generator).to_value()) });
    }
    operation
}

/// `get_calls_id`: unique, since a path has each method once.
fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    format!("{}_{}", endpoint.method.to_ascii_lowercase(), words.join("_"))
}

fn parameters(endpoint: &Endpoint) -> Value {
    let text = |kind: &str, name: &str, about: &str| json!({ "in": kind, "name": name, "required": kind == "path", "description": about, "schema": { "type": "string" } });
    let in_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = in_path.map(|name| text("path", name, "Which one")).collect();
    if endpoint.query == Query::None {
        return Value::Array(all);
    }
    for dimension in Dimension::ALL {
        let about = "A value; `a*` is a glob, `!a` excludes, `(none)` is the absence of one; repeated = any of them";
        all.push(text("query", dimension.name(), about));
    }
    if endpoint.query == Query::Running {
        all.push(text("query", "limit", "Calls of an answer, 1 to 1000"));
        return Value::Array(all);
    }
    all.push(text("query", "from", "Start of the call, inclusive: a date in the zone, or RFC 3339"));
    all.push(text("query", "to", "Exclusive"));
    all.push(text("query", "tz", "IANA name; default: the organisation's"));
    all.push(text("query", "format", "json, csv or ndjson; default by Accept, else json"));
    all.push(text("query", "csv", "raw: without the apostrophes that keep spreadsheets from running a cell"));
    all.push(text("query", "bom", "1: a byte order mark before the CSV"));
    all.push(text("query", "min_seq", "Wait until the answer has the entries before this sequence"));
    if endpoint.query == Query::Spend {
        all.push(text("query", "by", "Up to four dimensions, separated by commas"));
        all.push(text("query", "step", "none, hour, day, week or month"));
    } else {
        all.push(text("query", "limit", "Calls of a page, 1 to 1000"));
        all.push(text("query", "cursor", "`next_cursor` of the page before"));
    }
    Value::Array(all)
}

fn error_schema() -> Value {
    json!({
        "type": "object", "required": ["error"],
        "properties": { "error": {
            "type": "object", "required": ["code", "message"],
            "properties": {
                "code": { "type": "string" }, "message": { "type": "string" },
                "field": { "type": "string", "description": "The parameter or field that is wrong" }
            }
        } }
    })
}
