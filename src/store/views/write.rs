//! Writes a batch: everything is worked out beforehand, in the order of its keys, and put into the file in one
//! transaction.
//!
//! Commits are durable now and then only: what a crash takes is made again from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use redb::{Database, Durability, Table, WriteTransaction};

use crate::domain::{Call, Outcome};
use crate::store::{StoreError, give_way};

use super::bytes::Packer;
use super::chunk;
use super::fold::Delta;
use super::names;
use super::tables::{
    ATTEMPTS, CALLS, CHUNKS, DIRECTORY, IDS, META, QUARTERS, REPLACED, Reached, Reader, SET_IDS, SETS, TOLD, Times,
    WIDTH, damaged, encode, entries_of, failed, id_time, is_stray, response_key, stretch_of,
};

/// A stretch that is so many entries behind is sealed even if some of its calls still run.
const PATIENCE: u64 = if cfg!(test) { 512 } else { 65_536 };
/// Bytes of a value in one piece: a page of 4,096 with its key and its head.
const PIECE: usize = 4_000;

/// A batch ready to be written.
pub struct Batch {
    pub reached: Reached,
    rows: Vec<(u64, Vec<u8>)>,
    gone_rows: Vec<u64>,
    ids: Vec<(u128, u64)>,
    gone_ids: Vec<u128>,
    /// No chunk: every call of the stretch still has its row.
    chunks: Vec<(u32, Option<Vec<u8>>, Times)>,
    names: Vec<(u64, u64)>,
    replaced: Vec<(Vec<u8>, u64)>,
    attempts: BTreeMap<u64, u64>,
    told: BTreeMap<u64, Vec<u8>>,
    pub quarters: Vec<Quarter>,
    first_new_set: u32,
    new_sets: Vec<Arc<[u8]>>,
    /// Calls that had ended before the batch and were changed in it, as they were.
    pub reopened: BTreeMap<u64, Call>,
}

/// The sums of a quarter before and after; `None`: there are none.
pub struct Quarter {
    pub quarter: u32,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// Works out what a delta changes in the tables that `reader` sees.
pub fn prepare(reader: &Reader<'_>, delta: Delta) -> Result<Option<Batch>, StoreError> {
    let Some((applied, at)) = delta.end else { return Ok(None) };
    let mut packer = Packer::new()?;
    let mut names: Vec<_> = delta.responses.iter().map(|((p, r), seq)| (names::hash(p, r), *seq)).collect();
    names.sort_unstable();
    let mut batch = Batch {
        reached: Reached { applied, at, sealed: reader.reached.sealed },
        rows: Vec::new(),
        gone_rows: Vec::new(),
        ids: Vec::new(),
        gone_ids: Vec::new(),
        chunks: Vec::new(),
        names,
        replaced: delta.replaced.iter().map(|((p, r), seq)| (response_key(p, r), *seq)).collect(),
        attempts: delta.attempts,
        told: delta.told,
        quarters: Vec::new(),
        first_new_set: delta.first_new_set,
        new_sets: delta.new_sets,
        reopened: delta.reopened,
    };
    let mut calls = delta.calls;
    batch.reopen(reader, &mut calls, &mut packer)?;
    batch.seal(reader, &mut calls, &mut packer)?;
    for (seq, call) in calls {
        give_way(seq);
        batch.rows.push((seq, encode(&call)?));
        if delta.ids.contains_key(&call.id) {
            batch.ids.push((call.id.0, seq));
        }
    }
    batch.ids.sort_unstable();
    batch.gone_ids.sort_unstable();
    let mut buckets = delta.buckets.iter().peekable();
    while let Some(((quarter, _), _)) = buckets.peek() {
        let quarter = *quarter;
        let mut changes = Vec::new();
        while let Some(((_, set), bucket)) = buckets.next_if(|((q, _), _)| *q == quarter) {
            changes.push((*set, bucket));
        }
        let after = reader.sums(quarter)?.changed(&changes, &mut packer)?;
        batch.quarters.push(Quarter { quarter, before: reader.quarter(quarter)?, after });
    }
    Ok(Some(batch))
}

impl Batch {
    /// Changed calls of stretches that are sealed already: those in a chunk change there, and the ones that kept their
    /// rows join it when the last of them has ended.
    fn reopen(
        &mut self,
        reader: &Reader<'_>,
        calls: &mut BTreeMap<u64, Call>,
        packer: &mut Packer,
    ) -> Result<(), StoreError> {
        let stretches: BTreeSet<u64> = calls.range(..self.reached.sealed).map(|(seq, _)| seq / WIDTH).collect();
        for stretch in stretches {
            give_way(0);
            let stretch = stretch_of(stretch * WIDTH)?;
            let stored = rows(reader, entries_of(stretch))?;
            let in_chunk = calls.range(entries_of(stretch)).any(|(seq, _)| !stored.contains_key(seq));
            if is_open(&stored, calls, entries_of(stretch)) && !in_chunk {
                continue;
            }
            let times = reader.times(stretch)?.ok_or_else(|| damaged("a sealed stretch is not in the directory"))?;
            let mut all: BTreeMap<u64, Call> = reader.whole_chunk(stretch)?.into_iter().map(|c| (c.seq, c)).collect();
            all.append(&mut joined(&stored, calls, entries_of(stretch), |seq, call| {
                call.outcome != Outcome::Running || !stored.contains_key(&seq)
            }));
            self.pack(stretch, all, &stored, times, packer)?;
        }
        Ok(())
    }

    /// Seals what follows on, as far as calls have ended or are old enough.
    fn seal(
        &mut self,
        reader: &Reader<'_>,
        calls: &mut BTreeMap<u64, Call>,
        packer: &mut Packer,
    ) -> Result<(), StoreError> {
        while self.reached.sealed + WIDTH <= self.reached.applied {
            let stretch = stretch_of(self.reached.sealed)?;
            let range = entries_of(stretch);
            let stored = rows(reader, range.clone())?;
            if is_open(&stored, calls, range.clone()) && self.reached.applied - range.end < PATIENCE {
                return Ok(());
            }
            let times = times(stored.values().chain(calls.range(range.clone()).map(|(_, call)| call)));
            let ended = joined(&stored, calls, range.clone(), |_, call| call.outcome != Outcome::Running);
            if let Some(times) = times {
                self.pack(stretch, ended, &stored, times, packer)?;
            }
            self.reached.sealed = range.end;
        }
        Ok(())
    }

    /// Makes a chunk of calls; those that had rows lose them.
    fn pack(
        &mut self,
        stretch: u32,
        calls: BTreeMap<u64, Call>,
        stored: &BTreeMap<u64, Call>,
        times: Times,
        packer: &mut Packer,
    ) -> Result<(), StoreError> {
        for (seq, call) in &calls {
            let stray = is_stray(call.id, call.started_at);
            if stored.contains_key(seq) {
                self.gone_rows.push(*seq);
                if !stray {
                    self.gone_ids.push(call.id.0);
                }
            } else if stray {
                self.ids.push((call.id.0, *seq));
            }
        }
        let chunk = if calls.is_empty() { None } else { Some(chunk::encode(calls.into_values().collect(), packer)?) };
        self.chunks.push((stretch, chunk, times));
        Ok(())
    }

    /// Writes it, all or nothing.
    pub fn write(&self, db: &Database, durable: bool) -> Result<(), StoreError> {
        let mut tx = db.begin_write().map_err(failed)?;
        if durable {
            // The allocator's state is kept with the commit: opening after a crash takes milliseconds at any size.
            tx.set_quick_repair(true);
        } else {
            tx.set_durability(Durability::None).map_err(failed)?;
        }
        self.write_calls(&tx)?;
        self.write_sums(&tx)?;
        names::add(&tx, &self.names)?;
        let mut meta = tx.open_table(META).map_err(failed)?;
        meta.insert("applied", self.reached.applied).map_err(failed)?;
        meta.insert("at", self.reached.at.0 as u64).map_err(failed)?;
        meta.insert("sealed", self.reached.sealed).map_err(failed)?;
        drop(meta);
        tx.commit().map_err(failed)
    }

    fn write_calls(&self, tx: &WriteTransaction) -> Result<(), StoreError> {
        let mut calls = tx.open_table(CALLS).map_err(failed)?;
        for seq in &self.gone_rows {
            calls.remove(seq).map_err(failed)?;
        }
        for (seq, row) in &self.rows {
            give_way(*seq);
            calls.insert(seq, row.as_slice()).map_err(failed)?;
        }
        let mut ids = tx.open_table(IDS).map_err(failed)?;
        for id in &self.gone_ids {
            ids.remove(id).map_err(failed)?;
        }
        for (id, seq) in &self.ids {
            give_way(*seq);
            ids.insert(id, seq).map_err(failed)?;
        }
        let mut chunks = tx.open_table(CHUNKS).map_err(failed)?;
        let mut directory = tx.open_table(DIRECTORY).map_err(failed)?;
        for (stretch, chunk, times) in &self.chunks {
            give_way(0);
            put_pieces(&mut chunks, *stretch, chunk.as_deref())?;
            directory.insert(stretch, times).map_err(failed)?;
        }
        let mut replaced = tx.open_table(REPLACED).map_err(failed)?;
        for (key, seq) in &self.replaced {
            replaced.insert(key.as_slice(), seq).map_err(failed)?;
        }
        let mut attempts = tx.open_table(ATTEMPTS).map_err(failed)?;
        for (admit, seq) in &self.attempts {
            attempts.insert(admit, seq).map_err(failed)?;
        }
        let mut told = tx.open_table(TOLD).map_err(failed)?;
        for (position, row) in &self.told {
            told.insert(position, row.as_slice()).map_err(failed)?;
        }
        Ok(())
    }

    fn write_sums(&self, tx: &WriteTransaction) -> Result<(), StoreError> {
        let mut sets = tx.open_table(SETS).map_err(failed)?;
        let mut numbers = tx.open_table(SET_IDS).map_err(failed)?;
        for (number, key) in (self.first_new_set..).zip(&self.new_sets) {
            sets.insert(number, &**key).map_err(failed)?;
            numbers.insert(&**key, number).map_err(failed)?;
        }
        let mut quarters = tx.open_table(QUARTERS).map_err(failed)?;
        for quarter in &self.quarters {
            put_pieces(&mut quarters, quarter.quarter, quarter.after.as_deref())?;
        }
        Ok(())
    }
}

/// The stored rows of a range.
fn rows(reader: &Reader<'_>, range: Range<u64>) -> Result<BTreeMap<u64, Call>, StoreError> {
    reader.rows(range)?.map(|call| call.map(|call| (call.seq, call))).collect()
}

/// Whether a call of the range still runs after the batch.
fn is_open(stored: &BTreeMap<u64, Call>, calls: &BTreeMap<u64, Call>, range: Range<u64>) -> bool {
    let running = |call: &Call| call.outcome == Outcome::Running;
    stored.values().any(|call| running(call) && !calls.contains_key(&call.seq))
        || calls.range(range).any(|(_, call)| running(call))
}

/// The wanted calls of the range as they are after the batch; what comes out of `calls` is not left there.
fn joined(
    stored: &BTreeMap<u64, Call>,
    calls: &mut BTreeMap<u64, Call>,
    range: Range<u64>,
    wanted: impl Fn(u64, &Call) -> bool,
) -> BTreeMap<u64, Call> {
    let mut from = calls.split_off(&range.start);
    calls.append(&mut from.split_off(&range.end));
    let mut joined = BTreeMap::new();
    for (seq, call) in stored {
        if !from.contains_key(seq) && wanted(*seq, call) {
            joined.insert(*seq, call.clone());
        }
    }
    for (seq, call) in from {
        if wanted(seq, &call) {
            joined.insert(seq, call);
        } else {
            calls.insert(seq, call);
        }
    }
    joined
}

/// What the directory says of a stretch with these calls.
fn times<'a>(calls: impl Iterator<Item = &'a Call>) -> Option<Times> {
    let mut times: Option<Times> = None;
    for call in calls {
        let (at, millis) = (call.started_at.0, id_time(call.id));
        let known = times.get_or_insert((at, at, u64::MAX, 0));
        (known.0, known.1) = (known.0.min(at), known.1.max(at));
        if !is_stray(call.id, call.started_at) {
            (known.2, known.3) = (known.2.min(millis), known.3.max(millis));
        }
    }
    times
}

/// Puts a value in the place of the one there was, whatever number of pieces each has.
fn put_pieces(
    table: &mut Table<'_, (u32, u16), &'static [u8]>,
    key: u32,
    value: Option<&[u8]>,
) -> Result<(), StoreError> {
    let mut next = 0u16;
    for piece in value.unwrap_or_default().chunks(PIECE) {
        table.insert((key, next), piece).map_err(failed)?;
        next = next.checked_add(1).ok_or_else(|| damaged("a value of too many pieces"))?;
    }
    while table.remove((key, next)).map_err(failed)?.is_some() {
        next = next.saturating_add(1);
    }
    Ok(())
}
