//! `calls`: pages, files, what runs now, and one call with its proof.

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::domain::policy::RuleSeen;
use crate::domain::{CallId, CallView, Micros, PostingsView};
use crate::report::{self, Ask, Format};

use super::evidence::ProofView;
use super::{Actor, Api, ApiError, file};

/// Calls of a page where the question does not say.
const PAGE: usize = 100;
/// Longest wait for entries that the caller knows to exist.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Calls")]
struct PageView {
    calls: Vec<CallView>,
    next_cursor: Option<String>,
    as_of: Micros,
    /// Entries before this are in.
    as_of_seq: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Receipt")]
struct ReceiptView {
    #[serde(flatten)]
    call: CallView,
    postings: PostingsView,
    /// Rules of policies that were looked at, in order, with what each found.
    rules: Vec<RuleSeen>,
    /// The model that was asked of the provider, where a policy put it in place of the caller's.
    model_sent: Option<String>,
    proof: ProofView,
}

pub fn page_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<PageView>()
}

pub fn receipt_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ReceiptView>()
}

pub async fn list(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ask = Ask::calls(&pairs, &api.zone())?;
    let format = file::format(&ask, &headers);
    let page = api
        .blocking(move |api| {
            if let Some(seq) = ask.min_seq {
                wait_for(api, seq)?;
            }
            if format != Format::Json {
                return Ok(Err(ask));
            }
            let limit = ask.limit.unwrap_or(PAGE);
            Ok(Ok(report::calls(&api.ledger, &ask.filter, ask.cursor.as_deref(), limit)?))
        })
        .await?;
    match page {
        Ok(page) => Ok(Json(PageView {
            calls: page.calls.iter().map(CallView::from).collect(),
            next_cursor: page.next_cursor,
            as_of: page.as_of.at,
            as_of_seq: page.as_of.seq,
        })
        .into_response()),
        Err(ask) => file::calls(&api, actor, ask, format),
    }
}

/// Answers only once the entries before `seq` can be in the answer.
pub fn wait_for(api: &Api, seq: u64) -> Result<(), ApiError> {
    let views = api.ledger.views();
    if views.as_of()?.seq >= seq || (seq <= api.ledger.head().position() && views.wait_for(seq, PATIENCE)) {
        return Ok(());
    }
    Err(ApiError::invalid("min_seq", format!("the journal has {} entries so far", api.ledger.head().position())))
}

pub async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let call = parse_id(&id)?;
    api.blocking(move |api| {
        let receipt =
            report::receipt(&api.ledger, call)?.ok_or_else(|| ApiError::not_found(format!("call `{call}`")))?;
        let view = ReceiptView {
            call: CallView::from(&receipt.call),
            postings: PostingsView::from(&receipt.call),
            rules: receipt.rules.clone(),
            model_sent: receipt.model_sent.clone(),
            proof: ProofView::from(&receipt),
        };
        Ok(Json(view).into_response())
    })
    .await
}

pub fn parse_id(id: &str) -> Result<CallId, ApiError> {
    let short: String = id.chars().take(60).collect();
    id.parse().map_err(|_| ApiError::invalid("id", format!("`{short}` is not the id of a call (wb-request-id)")))
}
