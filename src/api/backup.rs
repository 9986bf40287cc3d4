//! `GET /backup`: a backup, streamed as it is made, and recorded once it is whole.
//!
//! Whoever reads it slowly slows down nobody else: what goes out is read from copies, a few chunks ahead at most. The
//! body ends properly only if the backup does; what it is worth, its manifest says.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use schemars::{Schema, SchemaGenerator};
use tokio::sync::mpsc::{self, Sender};

use crate::ledger::request::Request;
use crate::store::Ledger;
use crate::store::backup::{BackupError, Manifest};

use super::{Actor, Api, ApiError};

/// Chunks on their way to a client that reads slowly, and bytes of each.
const CHUNKS: usize = 4;
const CHUNK: usize = 256 << 10;

type Piece = Result<Bytes, BackupError>;

pub fn schema(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "string", "format": "binary" })
}

pub async fn make(State(api): State<Api>, Extension(actor): Extension<Actor>) -> Result<Response, ApiError> {
    let (sender, mut receiver) = mpsc::channel::<Piece>(CHUNKS);
    let ledger = api.ledger.clone();
    tokio::spawn(async move {
        if let Err(error) = write(&ledger, actor, sender.clone()).await {
            tracing::error!(%error, "a backup was cut short");
            // The client may be gone; then nobody is left to be told.
            let _ = sender.send(Err(error)).await;
        }
    });
    // What is refused is refused before a byte is sent.
    let first = receiver.recv().await.unwrap_or(Err(BackupError::Failed("the backup broke off".into())))?;
    let rest = stream::unfold(receiver, async |mut r| r.recv().await.map(|piece| (piece, r)));
    let body = stream::once(async { Ok(first) }).chain(rest).map(|piece| piece.map_err(io::Error::other));
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let name = HeaderValue::from_static("attachment; filename=\"weighbridge-backup.tar\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

async fn write(ledger: &Ledger, actor: Actor, sender: Sender<Piece>) -> Result<(), BackupError> {
    let own = ledger.clone();
    let work = move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, Out(sender));
        own.backup(&mut out)
    };
    let made = tokio::task::spawn_blocking(work).await;
    let manifest: Manifest = made.map_err(|e| BackupError::Failed(e.to_string()))??;
    let subject = format!("epoch={} entries={} root={}", manifest.epoch, manifest.size, manifest.root);
    let (actor, action) = (actor.0, "backup".to_owned());
    ledger.submit(Request::Admin { actor, action, subject: Some(subject), reason: None }).await?;
    Ok(())
}

/// Sends what is written; fails once the client is gone.
struct Out(Sender<Piece>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "who asked for it has hung up"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
