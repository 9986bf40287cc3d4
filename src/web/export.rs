//! Lists as files: the same address with `format=csv`, `json` or `ndjson`. Each export is an ADMIN entry with its filter.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::ledger::request::Request;
use crate::report::{self, CsvStyle, Export, SpendQuery, Stamp, Step};

use super::data;
use super::error::PageError;
use super::layers::Ctx;
use super::query::{Format, Query};

/// Pieces of a file that may wait for a slow reader.
const PIECES: usize = 16;

fn style(format: Format) -> Export {
    let format = match format {
        Format::Csv => report::Format::Csv,
        Format::Ndjson => report::Format::Ndjson,
        Format::Json | Format::Html => report::Format::Json,
    };
    Export { format, style: CsvStyle { raw: false, bom: false } }
}

/// Every call of the filter, streamed while it is read.
pub async fn calls(ctx: &Ctx, query: &Query) -> Result<Response, PageError> {
    record(ctx, "calls", query).await?;
    let export = style(query.format);
    let (filter, zone, ledger) = (query.filter(), query.zone_name.clone(), ctx.web.ledger.clone());
    let name = report::file_name("calls", &filter, &zone, &[], export.format);
    let stamp = Stamp::now(&ledger, &zone)?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut sink = |piece: Vec<u8>| sender.blocking_send(Ok(Bytes::from(piece))).is_ok();
        if let Err(e) = report::export_calls(&ledger, &filter, export, &stamp, &mut sink) {
            tracing::error!(error = %e, "an export of calls ended early");
            // A body that breaks off tells the reader that the file is not whole.
            let _ = sender.blocking_send(Err(std::io::Error::other("the export broke off")));
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|piece| (piece, r)) });
    // Compression asks once more after the end, which an unfolded stream does not forgive.
    Ok(file(Body::from_stream(pieces.fuse().boxed()), query.format, &name))
}

/// The table of the spend page.
pub async fn spend(ctx: &Ctx, query: &Query) -> Result<Response, PageError> {
    record(ctx, "spend", query).await?;
    let export = style(query.format);
    let question = SpendQuery {
        filter: query.filter(),
        by: query.by.clone(),
        step: query.step.unwrap_or(Step::None),
        time_zone: query.zone_name.clone(),
    };
    let name = report::file_name("spend", &question.filter, &query.zone_name, &question.by, export.format);
    let stamp = Stamp::now(&ctx.web.ledger, &query.zone_name)?;
    let answer = data::spend(&ctx.web.ledger, question.clone()).await?;
    let text = report::export_spend(&question, &answer, export, &stamp);
    Ok(file(Body::from(text), query.format, &name))
}

async fn record(ctx: &Ctx, what: &str, query: &Query) -> Result<(), PageError> {
    let operator = ctx.session.as_ref().map(|s| s.operator.clone()).unwrap_or_default();
    let subject: String = query.own_url(what).chars().take(500).collect();
    let request = Request::Admin {
        actor: format!("operator:{operator}"),
        action: "export".to_owned(),
        subject: Some(subject),
        reason: None,
    };
    ctx.web.ledger.submit(request).await?;
    Ok(())
}

fn file(body: Body, format: Format, name: &str) -> Response {
    let content_type = match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Ndjson => "application/x-ndjson",
        Format::Json | Format::Html => "application/json",
    };
    let mut response = body.into_response();
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        head.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}
