//! `ledger`: where the journal stands, and the proof of one call.

use axum::Json;
use axum::extract::{Path, State};
use data_encoding::HEXLOWER;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::domain::Micros;
use crate::report::{self, Receipt};

use super::calls::parse_id;
use super::{Api, ApiError};

/// Size and root of the journal's tree (RFC 6962, SHA-256).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Checkpoint")]
pub struct HeadView {
    epoch: u64,
    /// Entries.
    size: u64,
    /// Hexadecimal.
    root: String,
    /// Time of the newest entry.
    at: Micros,
}

/// The entries of a call and how each is in the tree of `tree_size` entries with `root`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Proof")]
pub struct ProofView {
    tree_size: u64,
    root: String,
    entries: Vec<ProofEntryView>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ProofEntry")]
struct ProofEntryView {
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
            seq: entry.seq,
            at: entry.ts,
            kind: entry.kind.name(),
            leaf_hash: HEXLOWER.encode(&entry.leaf_hash),
            inclusion_path: entry.path.iter().map(|hash| HEXLOWER.encode(hash)).collect(),
        });
        ProofView { tree_size: receipt.tree_size, root: HEXLOWER.encode(&receipt.root), entries: entries.collect() }
    }
}

pub fn head_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<HeadView>()
}

pub fn proof_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ProofView>()
}

pub async fn head(State(api): State<Api>) -> Json<HeadView> {
    let head = api.ledger.head();
    Json(HeadView { epoch: head.epoch, size: head.size, root: HEXLOWER.encode(&head.root), at: head.at })
}

pub async fn proof(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<ProofView>, ApiError> {
    let call = parse_id(&id)?;
    api.blocking(move |api| {
        let receipt =
            report::receipt(&api.ledger, call)?.ok_or_else(|| ApiError::not_found(format!("call `{call}`")))?;
        Ok(Json(ProofView::from(&receipt)))
    })
    .await
}
