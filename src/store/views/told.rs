//! What was told of alerts: their entries and what became of them, newest first, without a walk through the journal.
//!
//! A row has the time, the kind and group 0 of its entry as the journal has it, so that there is one decoder. What a person
//! typed is not in it: reasons stay where they can be erased.

use crate::domain::Micros;
use crate::ledger::codec::{decode_body, encode_body, kind_of};
use crate::ledger::entry::{Body, Entry};
use crate::store::StoreError;

use super::Views;
use super::tables::{damaged, decode, encode};

/// The row of an entry.
pub fn row(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    encode(&(entry.ts, kind_of(&entry.body), encode_body(&entry.body)))
}

fn read(row: &[u8]) -> Result<(Micros, Body), StoreError> {
    let (at, kind, body): (Micros, u64, Vec<u8>) = decode(row)?;
    Ok((at, decode_body(kind, &body).map_err(damaged)?))
}

impl Views {
    /// ALERT and DELIVERY entries before a position, newest first, at most `limit`: position, time and body.
    pub fn told(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Micros, Body)>, StoreError> {
        let before = before.unwrap_or(u64::MAX);
        let mut rows = self.inner.view(|view| {
            let newest = view.delta.told.range(..before).rev().take(limit);
            let mut rows: Vec<(u64, Vec<u8>)> = newest.map(|(position, row)| (*position, row.clone())).collect();
            let from = rows.last().map_or(before, |(position, _)| *position);
            rows.extend(view.reader.told(from, limit.saturating_sub(rows.len()))?);
            Ok(rows)
        })?;
        rows.dedup_by_key(|(position, _)| *position);
        rows.into_iter().map(|(position, row)| read(&row).map(|(at, body)| (position, at, body))).collect()
    }
}
