//! Answers that are files: streamed as they are read, and recorded as exports with their rows and hash.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::domain::Filter;
use crate::ledger::request::Request;
use crate::report::{Ask, Export, Format, ReportError, Stamp, export_calls, file_name};
use crate::store::{Ledger, StoreError};

use super::{Actor, Api, ApiError};

/// Chunks on their way to a client that reads slowly.
const CHUNKS: usize = 4;

/// What the question, or else its `Accept` header, wants.
pub fn format(ask: &Ask, headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    ask.format.or_else(|| accept.and_then(Format::accepted)).unwrap_or_default()
}

/// A body with its type and, where people save it, a name.
pub fn response(body: Body, format: Format, name: Option<String>) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    let disposition = name.and_then(|name| HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")).ok());
    if let Some(disposition) = disposition {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

/// Records that a file went out: what it was, how many rows, and the SHA-256 of its bytes.
pub async fn record(ledger: &Ledger, actor: &Actor, name: &str, rows: u64, sha256: &[u8]) -> Result<(), StoreError> {
    let subject = format!("{name} rows={rows} sha256={}", data_encoding::HEXLOWER.encode(sha256));
    let (actor, action) = (actor.0.clone(), "export".to_owned());
    ledger.submit(Request::Admin { actor, action, subject: Some(subject), reason: None }).await?;
    Ok(())
}

/// Every call of a question, as a stream. It ends only once it is recorded: a file nobody knows of is cut short.
pub fn calls(api: &Api, actor: Actor, ask: Ask, format: Format) -> Result<Response, ApiError> {
    for (field, set) in [("limit", ask.limit.is_some()), ("cursor", ask.cursor.is_some())] {
        if set {
            return Err(ApiError::invalid(field, "is for pages of JSON; a file has every call of its filter"));
        }
    }
    let ledger = api.ledger.clone();
    let name = file_name("calls", &ask.filter, &ask.time_zone, &[], format);
    let stamp = Stamp::now(&ledger, &ask.time_zone)?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(CHUNKS);
    let export = Export { format, style: ask.style };
    let subject = name.clone();
    tokio::spawn(async move {
        let done = write(&ledger, ask.filter, export, stamp, sender.clone()).await;
        let recorded = match done {
            Ok((rows, hash)) => record(&ledger, &actor, &subject, rows, &hash).await.map_err(|e| e.to_string()),
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            tracing::error!(error, "an export was cut short");
            // The client may be gone; then nobody is left to be told.
            let _ = sender.send(Err(std::io::Error::other(error))).await;
        }
    });
    let chunks = futures_util::stream::unfold(receiver, async |mut r| r.recv().await.map(|chunk| (chunk, r)));
    Ok(response(Body::from_stream(chunks), format, Some(name)))
}

async fn write(
    ledger: &Ledger,
    filter: Filter,
    export: Export,
    stamp: Stamp,
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(u64, Vec<u8>), String> {
    let ledger = ledger.clone();
    let work = move || -> Result<(u64, Vec<u8>), ReportError> {
        let mut hash = Sha256::new();
        let rows = export_calls(&ledger, &filter, export, &stamp, &mut |chunk| {
            hash.update(&chunk);
            sender.blocking_send(Ok(chunk.into())).is_ok()
        })?;
        Ok((rows, hash.finalize().to_vec()))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
