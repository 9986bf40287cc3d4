//! `ledger`: where the journal stands, the signed checkpoint of it, the proof of one call, and another signing key.
//!
//! What outsiders verify is text (`Accept: text/plain`): the signed note, and one `.tlog-proof` per entry, one after the
//! other. Asking for either signs a checkpoint where the newest one is too old; that changes no state but the signer's.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::domain::Micros;
use crate::report::{self, Receipt};
use crate::store::Signed;

use super::calls::parse_id;
use super::{Actor, Api, ApiError};

/// Size and root of the journal's tree (RFC 6962, SHA-256).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Checkpoint")]
pub struct HeadView {
    epoch: u64,
    /// Entries of this epoch.
    size: u64,
    /// Hexadecimal.
    root: String,
    /// Time of the newest entry.
    at: Micros,
    /// The newest signed note and its size, which may be some entries behind; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointView>,
    /// The key that signs, as others verify with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    vkey: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SignedCheckpoint")]
struct CheckpointView {
    size: u64,
    /// Hexadecimal.
    root: String,
    /// A C2SP signed note.
    note: String,
}

impl From<Signed> for CheckpointView {
    fn from(signed: Signed) -> CheckpointView {
        CheckpointView { size: signed.size, root: HEXLOWER.encode(&signed.root), note: signed.note }
    }
}

/// Another key, and the checkpoint that the old and the new one signed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Rotation")]
pub struct RotationView {
    vkey: String,
    checkpoint: CheckpointView,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RotationReason")]
#[serde(deny_unknown_fields)]
pub struct Reason {
    reason: String,
}

/// How much of an older tree the receiver knows, and in which form it wants the proof.
#[derive(Deserialize)]
pub struct Wanted {
    since: Option<u64>,
    /// `tlog-proof`: the text, for links, whose `Accept` nobody chooses.
    format: Option<String>,
}

/// The entries of a call and how each is in the tree of `tree_size` entries with `root`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Proof")]
pub struct ProofView {
    epoch: u64,
    tree_size: u64,
    root: String,
    entries: Vec<ProofEntryView>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ProofEntry")]
struct ProofEntryView {
    /// Where it differs from the one above: the path leads to the root of that epoch's whole tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    seq: u64,
    at: Micros,
    kind: String,
    leaf_hash: String,
    /// Leaf first.
    inclusion_path: Vec<String>,
}

impl From<&Receipt> for ProofView {
    fn from(receipt: &Receipt) -> ProofView {
        let entries = receipt.entries.iter().map(|entry| ProofEntryView {
            epoch: (entry.epoch != receipt.epoch).then_some(entry.epoch),
            seq: entry.seq,
            at: entry.ts,
            kind: entry.kind.name(),
            leaf_hash: HEXLOWER.encode(&entry.leaf_hash),
            inclusion_path: entry.path.iter().map(|hash| HEXLOWER.encode(hash)).collect(),
        });
        let root = HEXLOWER.encode(&receipt.root);
        ProofView { epoch: receipt.epoch, tree_size: receipt.tree_size, root, entries: entries.collect() }
    }
}

pub fn head_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<HeadView>()
}

pub fn proof_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ProofView>()
}

pub fn rotation_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<RotationView>()
}

pub fn reason_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Reason>()
}

/// Whether text is asked for, not JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| first.trim_start().starts_with("text/plain"))
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

pub async fn head(State(api): State<Api>, headers: HeaderMap) -> Result<Response, ApiError> {
    if wants_text(&headers) {
        return Ok(text(api.blocking(|api| Ok(api.ledger.checkpoint()?)).await?.note));
    }
    let head = api.ledger.head();
    let view = HeadView {
        epoch: head.epoch,
        size: head.size,
        root: HEXLOWER.encode(&head.root),
        at: head.at,
        checkpoint: api.ledger.last_checkpoint().map(CheckpointView::from),
        vkey: api.ledger.vkey(),
    };
    Ok(Json(view).into_response())
}

pub async fn proof(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(Wanted { since, format }): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let call = parse_id(&id)?;
    let file = format.as_deref() == Some("tlog-proof");
    let as_text = file || wants_text(&headers);
    api.blocking(move |api| {
        let receipt =
            report::receipt(&api.ledger, call)?.ok_or_else(|| ApiError::not_found(format!("call `{call}`")))?;
        if as_text {
            let entries: Vec<u64> = receipt.entries.iter().map(|entry| entry.position).collect();
            let mut answer = text(api.ledger.proofs(&entries, since)?.concat());
            let name = format!("attachment; filename=\"{call}.tlog-proof\"");
            if let Some(name) = HeaderValue::try_from(name).ok().filter(|_| file) {
                answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
            }
            return Ok(answer);
        }
        Ok(Json(ProofView::from(&receipt)).into_response())
    })
    .await
}

/// Makes another signing key. Recorded with who asked and why before the key signs anything.
pub async fn rotate(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    body: Bytes,
) -> Result<(StatusCode, Json<RotationView>), ApiError> {
    let Reason { reason } =
        serde_json::from_slice(&body).map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", error))?;
    if reason.trim().is_empty() {
        return Err(ApiError::invalid("reason", "say why the key is changed"));
    }
    api.blocking(move |api| {
        api.ledger.start_signing()?;
        let signed = api.ledger.rotate_key(&actor.0, Some(reason))?;
        let vkey = api.ledger.vkey().unwrap_or_default();
        Ok((StatusCode::CREATED, Json(RotationView { vkey, checkpoint: signed.into() })))
    })
    .await
}
