//! The tables of `views.redb`: how rows are encoded, read in one short transaction, and written in one batch.
//!
//! Keys are integers and bytes, time first, so that a batch touches few pages; values are postcard in a version envelope.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::{Call, CallId, Micros};
use crate::rollup::{Bucket, DimSet};
use crate::store::StoreError;

use super::fold::{Base, Delta};

/// Format of the whole file; another one means that it is built anew.
pub const FORMAT: u64 = 1;
/// First byte of every value.
const ENVELOPE: u8 = 1;
/// Combinations of dimensions kept decoded.
const CACHED_SETS: usize = 65_536;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta.v1");
const CALLS: TableDefinition<u64, &[u8]> = TableDefinition::new("calls.v1");
const IDS: TableDefinition<u128, u64> = TableDefinition::new("calls_by_id.v1");
const RESPONSES: TableDefinition<&[u8], u64> = TableDefinition::new("calls_by_response.v1");
const ATTEMPTS: TableDefinition<u64, u64> = TableDefinition::new("attempts.v1");
const ROLLUPS: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("rollups.v1");
const SETS: TableDefinition<u32, &[u8]> = TableDefinition::new("dimensions.v1");
const SET_IDS: TableDefinition<&[u8], u32> = TableDefinition::new("dimension_ids.v1");

pub fn damaged(what: impl ToString) -> StoreError {
    StoreError::Damaged { file: "views.redb".to_owned(), what: what.to_string() }
}

fn encode(row: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(row, vec![ENVELOPE]).map_err(damaged)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&ENVELOPE, row)) => postcard::from_bytes(row).map_err(damaged),
        _ => Err(damaged("a row of an unknown version")),
    }
}

/// The key of an answer: the provider's id has no NUL, being a slug.
fn response_key(provider: &str, response: &str) -> Vec<u8> {
    [provider.as_bytes(), &[0], response.as_bytes()].concat()
}

/// Decoded combinations of dimensions by their number; they are never renumbered while the file is open.
#[derive(Default)]
pub struct SetCache(Mutex<HashMap<u32, Arc<DimSet>>>);

/// Makes all tables, so that readers find them. `Ok(None)`: the file is of another format.
pub fn prepare(db: &Database) -> Result<Option<(u64, Micros)>, StoreError> {
    let tx = db.begin_write().map_err(damaged)?;
    let found = {
        let mut meta = tx.open_table(META).map_err(damaged)?;
        let get = |key: &str| meta.get(key).map(|v| v.map(|v| v.value())).map_err(damaged);
        let (format, applied, at) = (get("format")?, get("applied")?, get("at")?);
        if format.is_none() {
            meta.insert("format", FORMAT).map_err(damaged)?;
        }
        if format.is_some_and(|f| f != FORMAT) {
            None
        } else {
            Some((applied.unwrap_or(0), Micros(at.unwrap_or(0) as i64)))
        }
    };
    tx.open_table(CALLS).map_err(damaged)?;
    tx.open_table(IDS).map_err(damaged)?;
    tx.open_table(RESPONSES).map_err(damaged)?;
    tx.open_table(ATTEMPTS).map_err(damaged)?;
    tx.open_table(ROLLUPS).map_err(damaged)?;
    tx.open_table(SETS).map_err(damaged)?;
    tx.open_table(SET_IDS).map_err(damaged)?;
    tx.commit().map_err(damaged)?;
    Ok(found)
}

/// One read transaction. Short: at most one page of rows, or one pass over the sums while the follower waits.
pub struct Reader<'c> {
    calls: ReadOnlyTable<u64, &'static [u8]>,
    ids: ReadOnlyTable<u128, u64>,
    responses: ReadOnlyTable<&'static [u8], u64>,
    attempts: ReadOnlyTable<u64, u64>,
    rollups: ReadOnlyTable<(u32, u32), &'static [u8]>,
    sets: ReadOnlyTable<u32, &'static [u8]>,
    set_ids: ReadOnlyTable<&'static [u8], u32>,
    cache: &'c SetCache,
    /// Entries with a smaller sequence are in.
    pub applied: u64,
    pub at: Micros,
}

impl<'c> Reader<'c> {
    pub fn open(db: &Database, cache: &'c SetCache) -> Result<Reader<'c>, StoreError> {
        let tx = db.begin_read().map_err(damaged)?;
        let meta = tx.open_table(META).map_err(damaged)?;
        let get = |key: &str| meta.get(key).map(|v| v.map_or(0, |v| v.value())).map_err(damaged);
        Ok(Reader {
            calls: tx.open_table(CALLS).map_err(damaged)?,
            ids: tx.open_table(IDS).map_err(damaged)?,
            responses: tx.open_table(RESPONSES).map_err(damaged)?,
            attempts: tx.open_table(ATTEMPTS).map_err(damaged)?,
            rollups: tx.open_table(ROLLUPS).map_err(damaged)?,
            sets: tx.open_table(SETS).map_err(damaged)?,
            set_ids: tx.open_table(SET_IDS).map_err(damaged)?,
            cache,
            applied: get("applied")?,
            at: Micros(get("at")? as i64),
        })
    }

    pub fn response(&self, provider: &str, response: &str) -> Result<Option<u64>, StoreError> {
        let key = response_key(provider, response);
        Ok(self.responses.get(key.as_slice()).map_err(damaged)?.map(|v| v.value()))
    }

    /// Calls of `from..before`, newest first.
    pub fn calls_down(
        &self,
        from: u64,
        before: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, Call), StoreError>> + '_, StoreError> {
        let rows = self.calls.range(from..before.max(from)).map_err(damaged)?.rev();
        Ok(rows.map(|row| {
            let (key, value) = row.map_err(damaged)?;
            Ok((key.value(), decode(value.value())?))
        }))
    }

    /// The first call that started at or after `at`, or the sequence after the last one. Sequence follows time, so this is
    /// a binary search.
    pub fn first_at(&self, at: Micros) -> Result<u64, StoreError> {
        let end = self.calls.last().map_err(damaged)?.map_or(0, |(key, _)| key.value() + 1);
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(row) = self.calls.range(middle..high).map_err(damaged)?.next() else {
                high = middle;
                continue;
            };
            let (key, value) = row.map_err(damaged)?;
            if started_at(value.value())? < at {
                low = key.value() + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Sums of the quarters `from..to`, oldest first.
    pub fn buckets(
        &self,
        from: u32,
        to: u32,
        visit: &mut dyn FnMut(u32, Arc<DimSet>, Bucket) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for row in self.rollups.range((from, 0)..(to.max(from), 0)).map_err(damaged)? {
            let (key, value) = row.map_err(damaged)?;
            let (quarter, set) = key.value();
            visit(quarter, self.set(set)?, decode(value.value())?)?;
        }
        Ok(())
    }

    fn set(&self, id: u32) -> Result<Arc<DimSet>, StoreError> {
        let mut cache = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = cache.get(&id) {
            return Ok(set.clone());
        }
        let row = self.sets.get(id).map_err(damaged)?;
        let set: Arc<DimSet> = Arc::new(decode(row.ok_or_else(|| damaged("a sum of nothing"))?.value())?);
        if cache.len() >= CACHED_SETS {
            cache.clear();
        }
        cache.insert(id, set.clone());
        Ok(set)
    }

    /// Every row of every table as bytes, for a comparison. `visit` gets table, key and value.
    pub fn dump(&self, visit: &mut dyn FnMut(&'static str, Vec<u8>, Vec<u8>)) -> Result<(), StoreError> {
        macro_rules! each {
            ($name:literal, $table:expr, $key:expr, $value:expr) => {
                for row in $table.iter().map_err(damaged)? {
                    let (key, value) = row.map_err(damaged)?;
                    visit($name, $key(key.value()), $value(value.value()));
                }
            };
        }
        let number = |n: u64| n.to_be_bytes().to_vec();
        let bytes = |b: &[u8]| b.to_vec();
        each!("calls_by_id", self.ids, |n: u128| n.to_be_bytes().to_vec(), number);
        each!("calls_by_response", self.responses, bytes, number);
        each!("attempts", self.attempts, number, number);
        each!("rollups", self.rollups, |(q, s): (u32, u32)| [q.to_be_bytes(), s.to_be_bytes()].concat(), bytes);
        each!("dimensions", self.sets, |n: u32| n.to_be_bytes().to_vec(), bytes);
        Ok(())
    }
}

/// `started_at` alone: the fourth field of a row, so that a search decodes no more than it needs.
fn started_at(row: &[u8]) -> Result<Micros, StoreError> {
    match row.split_first() {
        Some((&ENVELOPE, row)) => {
            let ((_, _, _, at), _): ((CallId, u64, Option<u64>, Micros), _) =
                postcard::take_from_bytes(row).map_err(damaged)?;
            Ok(at)
        }
        _ => Err(damaged("a row of an unknown version")),
    }
}

impl Base for Reader<'_> {
    fn call(&self, seq: u64) -> Result<Option<Call>, StoreError> {
        self.calls.get(seq).map_err(damaged)?.map(|row| decode(row.value())).transpose()
    }
    fn seq_of(&self, id: CallId) -> Result<Option<u64>, StoreError> {
        Ok(self.ids.get(id.0).map_err(damaged)?.map(|v| v.value()))
    }
    fn call_of_attempt(&self, admit: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.attempts.get(admit).map_err(damaged)?.map(|v| v.value()))
    }
    fn bucket(&self, quarter: u32, set: &DimSet) -> Result<Option<Bucket>, StoreError> {
        let key = encode(set)?;
        let Some(id) = self.set_ids.get(key.as_slice()).map_err(damaged)?.map(|v| v.value()) else { return Ok(None) };
        self.rollups.get((quarter, id)).map_err(damaged)?.map(|row| decode(row.value())).transpose()
    }
    fn knows(&self, set: &DimSet) -> Result<bool, StoreError> {
        let key = encode(set)?;
        Ok(self.set_ids.get(key.as_slice()).map_err(damaged)?.is_some())
    }
}

/// Writes a delta, all of it or nothing.
pub fn write(db: &Database, delta: &Delta) -> Result<(), StoreError> {
    let Some((applied, at)) = delta.end else { return Ok(()) };
    let mut tx = db.begin_write().map_err(damaged)?;
    // The allocator's state is kept with each commit: opening after a crash takes milliseconds at any size.
    tx.set_quick_repair(true);
    write_calls(&tx, delta)?;
    write_buckets(&tx, delta)?;
    let mut meta = tx.open_table(META).map_err(damaged)?;
    meta.insert("applied", applied).map_err(damaged)?;
    meta.insert("at", at.0 as u64).map_err(damaged)?;
    drop(meta);
    tx.commit().map_err(damaged)
}

fn write_calls(tx: &WriteTransaction, delta: &Delta) -> Result<(), StoreError> {
    let mut calls = tx.open_table(CALLS).map_err(damaged)?;
    for (seq, call) in &delta.calls {
        calls.insert(seq, encode(call)?.as_slice()).map_err(damaged)?;
    }
    let mut ids = tx.open_table(IDS).map_err(damaged)?;
    for (id, seq) in &delta.ids {
        ids.insert(id.0, seq).map_err(damaged)?;
    }
    let mut responses = tx.open_table(RESPONSES).map_err(damaged)?;
    for ((provider, response), seq) in &delta.responses {
        responses.insert(response_key(provider, response).as_slice(), seq).map_err(damaged)?;
    }
    let mut attempts = tx.open_table(ATTEMPTS).map_err(damaged)?;
    for (admit, seq) in &delta.attempts {
        attempts.insert(admit, seq).map_err(damaged)?;
    }
    Ok(())
}

fn write_buckets(tx: &WriteTransaction, delta: &Delta) -> Result<(), StoreError> {
    let mut sets = tx.open_table(SETS).map_err(damaged)?;
    let mut set_ids = tx.open_table(SET_IDS).map_err(damaged)?;
    let mut next = sets.last().map_err(damaged)?.map_or(0, |(id, _)| id.value() + 1);
    for set in &delta.new_sets {
        let bytes = encode(set)?;
        sets.insert(next, bytes.as_slice()).map_err(damaged)?;
        set_ids.insert(bytes.as_slice(), next).map_err(damaged)?;
        next = next.checked_add(1).ok_or_else(|| damaged("too many combinations of dimensions"))?;
    }
    let mut rollups = tx.open_table(ROLLUPS).map_err(damaged)?;
    for ((quarter, set), bucket) in &delta.buckets {
        let bytes = encode(set)?;
        let id = set_ids.get(bytes.as_slice()).map_err(damaged)?.map(|v| v.value());
        let id = id.ok_or_else(|| damaged("a sum without its dimensions"))?;
        if bucket.is_empty() {
            rollups.remove((*quarter, id)).map_err(damaged)?;
        } else {
            rollups.insert((*quarter, id), encode(bucket)?.as_slice()).map_err(damaged)?;
        }
    }
    Ok(())
}
