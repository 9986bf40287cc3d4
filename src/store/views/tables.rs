//! The tables of `views.redb`, and what is read of them in one short transaction.
//!
//! Young calls are rows, by sequence. A stretch of 1,024 entries whose calls have all ended is *sealed*: its calls become
//! one chunk (see [`super::chunk`]) and their rows go. A call that runs on while everything around it is sealed keeps its
//! row, and joins the chunk when the last such of its stretch has ended. Values larger than a page are cut into pieces of
//! one page, because redb rounds what is larger up to the next power of two.
//!
//! A call is found by its id without an index: ids of our own making have their time in them, and a directory says which
//! stretches have ids of that time. Only ids of young calls, and ids that do not keep to their time, are in a table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::{Call, CallId, Filter, Micros};
use crate::rollup::{Bucket, DimSet};
use crate::store::StoreError;

use super::bytes::put;
use super::chunk::{self, Wanted};
use super::fold::Base;
use super::names;
use super::sums::Sums;

/// Format of the whole file; another one means that it is built anew.
pub const FORMAT: u64 = 4;
/// Entries of one stretch. Small in tests, so that theirs are sealed, too.
pub const WIDTH: u64 = if cfg!(test) { 32 } else { 1_024 };
/// First byte of every row.
const ENVELOPE: u8 = 1;
/// Combinations of dimensions kept decoded.
const CACHED_SETS: usize = 65_536;
/// Quarters kept unpacked by one reader.
const CACHED_QUARTERS: usize = 64;
/// Further attempts looked at for those of one call.
const ATTEMPTS_AFTER: usize = 10_000;
/// How far before and after its call's admission the time of an id may be, in milliseconds, for it to be found by it.
const ID_EARLY: i64 = 600_000;
const ID_LATE: i64 = 60_000;

pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta.v1");
pub const CALLS: TableDefinition<u64, &[u8]> = TableDefinition::new("calls.v2");
pub const IDS: TableDefinition<u128, u64> = TableDefinition::new("calls_by_id.v1");
/// (stretch, piece).
pub const CHUNKS: TableDefinition<(u32, u16), &[u8]> = TableDefinition::new("chunks.v2");
/// Stretch → first and last start, in microseconds; least and greatest time in an id, in milliseconds.
pub const DIRECTORY: TableDefinition<u32, Times> = TableDefinition::new("directory.v2");
/// Answers of attempts that another attempt replaced.
pub const REPLACED: TableDefinition<&[u8], u64> = TableDefinition::new("calls_by_response.v1");
pub const ATTEMPTS: TableDefinition<u64, u64> = TableDefinition::new("attempts.v1");
/// (quarter of an hour, piece).
pub const QUARTERS: TableDefinition<(u32, u16), &[u8]> = TableDefinition::new("quarters.v2");
pub const SETS: TableDefinition<u32, &[u8]> = TableDefinition::new("dimensions.v1");
pub const SET_IDS: TableDefinition<&[u8], u32> = TableDefinition::new("dimension_ids.v1");
/// ALERT and DELIVERY entries: see [`super::told`].
pub const TOLD: TableDefinition<u64, &[u8]> = TableDefinition::new("told.v1");

/// See [`DIRECTORY`].
pub type Times = (i64, i64, u64, u64);

pub fn damaged(what: impl ToString) -> StoreError {
    StoreError::Damaged { file: super::FILE.to_owned(), what: what.to_string() }
}

/// What redb says: a full disk is no damage.
pub fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(e) => match StoreError::io(super::FILE, &e) {
            full @ StoreError::Full(_) => full,
            _ => damaged(e),
        },
        other => damaged(other),
    }
}

pub fn encode(row: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(row, vec![ENVELOPE]).map_err(damaged)
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&ENVELOPE, row)) => postcard::from_bytes(row).map_err(damaged),
        _ => Err(damaged("a row of an unknown version")),
    }
}

/// The key of the combination of dimensions a call is counted under: what [`encode`] makes of its [`DimSet`], without
/// making one.
pub fn set_key(call: &Call, key: &mut Vec<u8>) -> Result<(), StoreError> {
    let values = DimSet::values(call);
    key.clear();
    key.push(ENVELOPE);
    put(key, values.len() as u64);
    for value in values {
        key.push(u8::from(value.is_some()));
        if let Some(value) = value {
            put(key, value.len() as u64);
            key.extend_from_slice(value.as_bytes());
        }
    }
    Ok(())
}

/// The key of an answer: the provider's id has no NUL, being a slug.
pub fn response_key(provider: &str, response: &str) -> Vec<u8> {
    [provider.as_bytes(), &[0], response.as_bytes()].concat()
}

/// Milliseconds since 1970 in an id, if it is a UUIDv7.
pub fn id_time(id: CallId) -> u64 {
    (id.0 >> 80) as u64
}

/// Whether an id is too far from its call's admission to be found by its time.
pub fn is_stray(id: CallId, started_at: Micros) -> bool {
    let after = started_at.0.div_euclid(1_000) - id_time(id) as i64;
    !(-ID_LATE..=ID_EARLY).contains(&after)
}

/// The stretch an entry is in.
pub fn stretch_of(seq: u64) -> Result<u32, StoreError> {
    u32::try_from(seq / WIDTH).map_err(damaged)
}

/// The entries of a stretch.
pub fn entries_of(stretch: u32) -> Range<u64> {
    let first = u64::from(stretch) * WIDTH;
    first..first + WIDTH
}

/// Combinations of dimensions by their number and the other way round. Numbers follow the order of first use in the
/// journal, so they are the same for every file made of it.
#[derive(Default)]
pub struct SetCache(Mutex<Sets>);

#[derive(Default)]
struct Sets {
    by_number: HashMap<u32, Arc<DimSet>>,
    by_key: HashMap<Vec<u8>, u32>,
}

impl SetCache {
    /// Forgets everything: the file is another one now.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Sets::default();
    }
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Entries with a smaller sequence are in.
    pub applied: u64,
    /// Time of the last of them.
    pub at: Micros,
    /// Ended calls with a smaller sequence are in chunks.
    pub sealed: u64,
}

impl Reached {
    fn read(meta: &impl ReadableTable<&'static str, u64>) -> Result<Reached, StoreError> {
        let get = |key: &str| meta.get(key).map(|v| v.map_or(0, |v| v.value())).map_err(damaged);
        Ok(Reached { applied: get("applied")?, at: Micros(get("at")? as i64), sealed: get("sealed")? })
    }
}

/// Makes all tables, so that readers find them. `Ok(None)`: the file is of another format.
pub fn prepare(db: &Database) -> Result<Option<Reached>, StoreError> {
    let tx = db.begin_write().map_err(failed)?;
    let found = {
        let mut meta = tx.open_table(META).map_err(failed)?;
        let format = meta.get("format").map_err(failed)?.map(|v| v.value());
        if format.is_none() {
            meta.insert("format", FORMAT).map_err(failed)?;
        }
        if format.is_some_and(|f| f != FORMAT) { None } else { Some(Reached::read(&meta)?) }
    };
    if found.is_none() {
        tx.abort().map_err(failed)?;
        return Ok(None);
    }
    tx.open_table(CALLS).map_err(failed)?;
    tx.open_table(IDS).map_err(failed)?;
    tx.open_table(CHUNKS).map_err(failed)?;
    tx.open_table(DIRECTORY).map_err(failed)?;
    tx.open_table(REPLACED).map_err(failed)?;
    tx.open_table(ATTEMPTS).map_err(failed)?;
    tx.open_table(QUARTERS).map_err(failed)?;
    tx.open_table(SETS).map_err(failed)?;
    tx.open_table(SET_IDS).map_err(failed)?;
    tx.open_table(TOLD).map_err(failed)?;
    tx.open_table(names::NEW).map_err(failed)?;
    tx.open_table(names::PAGES).map_err(failed)?;
    tx.open_table(names::RUNS).map_err(failed)?;
    tx.commit().map_err(failed)?;
    Ok(found)
}

/// One read transaction. Short: at most one page of rows, or some quarters of sums.
pub struct Reader<'c> {
    calls: ReadOnlyTable<u64, &'static [u8]>,
    pub ids: ReadOnlyTable<u128, u64>,
    chunks: ReadOnlyTable<(u32, u16), &'static [u8]>,
    directory: ReadOnlyTable<u32, Times>,
    replaced: ReadOnlyTable<&'static [u8], u64>,
    attempts: ReadOnlyTable<u64, u64>,
    quarters: ReadOnlyTable<(u32, u16), &'static [u8]>,
    sets: ReadOnlyTable<u32, &'static [u8]>,
    set_ids: ReadOnlyTable<&'static [u8], u32>,
    told: ReadOnlyTable<u64, &'static [u8]>,
    names: (ReadOnlyTable<(u64, u64), ()>, ReadOnlyTable<(u32, u64), &'static [u8]>, ReadOnlyTable<u32, u64>),
    cache: &'c SetCache,
    unpacked: RefCell<HashMap<u32, Arc<Sums>>>,
    pub reached: Reached,
}

impl<'c> Reader<'c> {
    pub fn open(db: &Database, cache: &'c SetCache) -> Result<Reader<'c>, StoreError> {
        let tx = db.begin_read().map_err(damaged)?;
        let meta = tx.open_table(META).map_err(damaged)?;
        Ok(Reader {
            calls: tx.open_table(CALLS).map_err(damaged)?,
            ids: tx.open_table(IDS).map_err(damaged)?,
            chunks: tx.open_table(CHUNKS).map_err(damaged)?,
            directory: tx.open_table(DIRECTORY).map_err(damaged)?,
            replaced: tx.open_table(REPLACED).map_err(damaged)?,
            attempts: tx.open_table(ATTEMPTS).map_err(damaged)?,
            quarters: tx.open_table(QUARTERS).map_err(damaged)?,
            sets: tx.open_table(SETS).map_err(damaged)?,
            set_ids: tx.open_table(SET_IDS).map_err(damaged)?,
            told: tx.open_table(TOLD).map_err(damaged)?,
            names: (
                tx.open_table(names::NEW).map_err(damaged)?,
                tx.open_table(names::PAGES).map_err(damaged)?,
                tx.open_table(names::RUNS).map_err(damaged)?,
            ),
            cache,
            unpacked: RefCell::default(),
            reached: Reached::read(&meta)?,
        })
    }

    /// What was told before a position, newest first.
    pub fn told(&self, before: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let rows = self.told.range(..before).map_err(damaged)?.rev().take(limit);
        let owned = rows.map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).map_err(damaged));
        owned.collect()
    }

    /// The call of an answer's id, the newest if there are several.
    pub fn response(&self, provider: &str, response: &str) -> Result<Option<u64>, StoreError> {
        let (new, pages, runs) = &self.names;
        for seq in names::candidates(new, pages, runs, names::hash(provider, response))? {
            let call = self.call(seq)?;
            let same = |c: &Call| c.provider.as_deref() == Some(provider) && c.response_id.as_deref() == Some(response);
            if call.is_some_and(|call| same(&call)) {
                return Ok(Some(seq));
            }
        }
        let key = response_key(provider, response);
        Ok(self.replaced.get(key.as_slice()).map_err(damaged)?.map(|v| v.value()))
    }

    /// The ADMITs of the further attempts of a call, as far as they are near it.
    pub fn attempts_of(&self, call: u64) -> Result<Vec<u64>, StoreError> {
        let mut found = Vec::new();
        for row in self.attempts.range(call..).map_err(damaged)?.take(ATTEMPTS_AFTER) {
            let (admit, of) = row.map_err(damaged)?;
            if of.value() == call {
                found.push(admit.value());
            }
        }
        Ok(found)
    }

    /// The rows of `range`, ascending.
    pub fn rows(
        &self,
        range: Range<u64>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<Call, StoreError>>, StoreError> {
        let rows = self.calls.range(range.start..range.end.max(range.start)).map_err(damaged)?;
        Ok(rows.map(|row| decode(row.map_err(damaged)?.1.value())))
    }

    /// The wanted calls of a stretch's chunk, ascending.
    pub fn chunk(&self, stretch: u32, wanted: &Wanted<'_>) -> Result<Vec<Call>, StoreError> {
        match pieces(&self.chunks, stretch)? {
            Some(chunk) => chunk::decode(&chunk, wanted),
            None => Ok(Vec::new()),
        }
    }

    /// Everything in a stretch's chunk.
    pub fn whole_chunk(&self, stretch: u32) -> Result<Vec<Call>, StoreError> {
        self.chunk(stretch, &Wanted { filter: &Filter::default(), range: 0..u64::MAX, id: None })
    }

    /// The last stretch before `end` that has a chunk.
    pub fn chunk_before(&self, end: u32) -> Result<Option<u32>, StoreError> {
        let last = self.directory.range(..end).map_err(damaged)?.next_back();
        Ok(last.transpose().map_err(damaged)?.map(|(stretch, _)| stretch.value()))
    }

    /// What the directory says of a stretch.
    pub fn times(&self, stretch: u32) -> Result<Option<Times>, StoreError> {
        Ok(self.directory.get(stretch).map_err(damaged)?.map(|times| times.value()))
    }

    /// A sequence that no call which started at or after `at` is before, close to the first such call. Sequence follows
    /// time, so this is a binary search.
    pub fn first_at(&self, at: Micros) -> Result<u64, StoreError> {
        let stretch = self.first_stretch(|times| times.1 >= at.0)?;
        let in_chunks = entries_of(stretch).start;
        // Rows among the chunks are few, and as old as those; a call that started before `at` may be given as well.
        if in_chunks < self.reached.sealed {
            return Ok(in_chunks);
        }
        let end = self.calls.last().map_err(damaged)?.map_or(0, |(key, _)| key.value() + 1);
        let (mut low, mut high) = (self.reached.sealed, end.max(self.reached.sealed));
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

    /// A sequence that every call which started before `at` is before.
    pub fn end_at(&self, at: Micros) -> Result<u64, StoreError> {
        let first = self.first_at(at)?;
        if first >= self.reached.sealed {
            return Ok(first);
        }
        Ok(entries_of(stretch_of(first)?).end)
    }

    /// The first stretch whose times are as wanted, where all after one that is are, too; else the one after the last.
    fn first_stretch(&self, wanted: impl Fn(&Times) -> bool) -> Result<u32, StoreError> {
        let (mut low, mut high) = (0, stretch_of(self.reached.sealed)?);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(row) = self.directory.range(middle..high).map_err(damaged)?.next() else {
                high = middle;
                continue;
            };
            let (stretch, times) = row.map_err(damaged)?;
            if wanted(&times.value()) {
                high = middle;
            } else {
                low = stretch.value() + 1;
            }
        }
        Ok(low)
    }

    /// The sealed call of an id, by the time in it.
    fn sealed_call(&self, id: CallId) -> Result<Option<u64>, StoreError> {
        let millis = id_time(id);
        let around = millis as i64;
        let earliest = around.saturating_sub(ID_LATE).saturating_mul(1_000);
        let latest = around.saturating_add(ID_EARLY + 1).saturating_mul(1_000);
        let first = self.first_stretch(|times| times.1 >= earliest)?;
        for row in self.directory.range(first..).map_err(damaged)? {
            let (stretch, times) = row.map_err(damaged)?;
            let times = times.value();
            if times.0 > latest {
                break;
            }
            if (times.2..=times.3).contains(&millis) {
                let wanted = Wanted { filter: &Filter::default(), range: 0..u64::MAX, id: Some(id) };
                if let Some(call) = self.chunk(stretch.value(), &wanted)?.first() {
                    return Ok(Some(call.seq));
                }
            }
        }
        Ok(None)
    }

    /// Sums of quarters, as stored: those of `range`, oldest first, until `visit` says no.
    pub fn quarters(&self, range: Range<u32>, visit: &mut dyn FnMut(u32, Vec<u8>) -> bool) -> Result<(), StoreError> {
        let mut current: Option<(u32, Vec<u8>)> = None;
        for row in self.quarters.range((range.start, 0)..(range.end.max(range.start), 0)).map_err(damaged)? {
            let (key, piece) = row.map_err(damaged)?;
            let (quarter, number) = key.value();
            match &mut current {
                Some((same, bytes)) if *same == quarter && number > 0 => bytes.extend_from_slice(piece.value()),
                _ => {
                    if let Some((done, bytes)) = current.replace((quarter, piece.value().to_vec()))
                        && !visit(done, bytes)
                    {
                        return Ok(());
                    }
                }
            }
        }
        if let Some((done, bytes)) = current {
            visit(done, bytes);
        }
        Ok(())
    }

    /// Sums of one quarter, as stored.
    pub fn quarter(&self, quarter: u32) -> Result<Option<Vec<u8>>, StoreError> {
        pieces(&self.quarters, quarter)
    }

    /// Sums of one quarter.
    pub fn sums(&self, quarter: u32) -> Result<Arc<Sums>, StoreError> {
        if let Some(known) = self.unpacked.borrow().get(&quarter) {
            return Ok(known.clone());
        }
        let stored = self.quarter(quarter)?;
        let sums = Arc::new(stored.map_or_else(|| Ok(Sums::default()), |value| Sums::open(&value))?);
        let mut unpacked = self.unpacked.borrow_mut();
        if unpacked.len() >= CACHED_QUARTERS {
            unpacked.clear();
        }
        unpacked.insert(quarter, sums.clone());
        Ok(sums)
    }

    /// The combination of a number.
    pub fn set(&self, number: u32) -> Result<Arc<DimSet>, StoreError> {
        let mut cache = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = cache.by_number.get(&number) {
            return Ok(set.clone());
        }
        let row = self.sets.get(number).map_err(damaged)?;
        let set = Arc::new(read_set(row.ok_or_else(|| damaged("a sum of nothing"))?.value())?);
        if cache.by_number.len() >= CACHED_SETS {
            cache.by_number.clear();
        }
        cache.by_number.insert(number, set.clone());
        Ok(set)
    }

    /// Visits what tables have beside calls and sums as bytes, for a comparison: table, key and value. Names come in no
    /// order.
    pub fn dump(&self, visit: &mut dyn FnMut(&'static str, Vec<u8>, Vec<u8>)) -> Result<(), StoreError> {
        let number = |n: u64| n.to_be_bytes().to_vec();
        let (new, pages, _) = &self.names;
        names::each(new, pages, &mut |hash, seq| visit("names", number(hash), number(seq)))?;
        for row in self.replaced.iter().map_err(damaged)? {
            let (key, value) = row.map_err(damaged)?;
            visit("calls_by_response", key.value().to_vec(), number(value.value()));
        }
        for row in self.attempts.iter().map_err(damaged)? {
            let (key, value) = row.map_err(damaged)?;
            visit("attempts", number(key.value()), number(value.value()));
        }
        for row in self.told.iter().map_err(damaged)? {
            let (key, value) = row.map_err(damaged)?;
            visit("told", number(key.value()), value.value().to_vec());
        }
        for row in self.sets.iter().map_err(damaged)? {
            let (key, value) = row.map_err(damaged)?;
            visit("dimensions", number(key.value().into()), value.value().to_vec());
        }
        Ok(())
    }
}

/// Reads the key of a combination.
pub fn read_set(key: &[u8]) -> Result<DimSet, StoreError> {
    decode(key)
}

/// The pieces of a value, together.
pub fn pieces(table: &impl ReadableTable<(u32, u16), &'static [u8]>, key: u32) -> Result<Option<Vec<u8>>, StoreError> {
    let mut value = None;
    for piece in table.range((key, 0)..=(key, u16::MAX)).map_err(damaged)? {
        value.get_or_insert_with(Vec::new).extend_from_slice(piece.map_err(damaged)?.1.value());
    }
    Ok(value)
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
        if let Some(row) = self.calls.get(seq).map_err(damaged)? {
            return decode(row.value()).map(Some);
        }
        if seq >= self.reached.sealed {
            return Ok(None);
        }
        let wanted = Wanted { filter: &Filter::default(), range: seq..seq + 1, id: None };
        Ok(self.chunk(stretch_of(seq)?, &wanted)?.pop())
    }
    fn seq_of(&self, id: CallId) -> Result<Option<u64>, StoreError> {
        match self.ids.get(id.0).map_err(damaged)? {
            Some(seq) => Ok(Some(seq.value())),
            None => self.sealed_call(id),
        }
    }
    fn call_of_attempt(&self, admit: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.attempts.get(admit).map_err(damaged)?.map(|v| v.value()))
    }
    fn bucket(&self, quarter: u32, set: u32) -> Result<Option<Bucket>, StoreError> {
        self.sums(quarter)?.get(set)
    }
    fn set_id(&self, key: &[u8]) -> Result<Option<u32>, StoreError> {
        let mut cache = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was put there by a reader that saw more is not known here yet.
        let next = self.next_set()?;
        if let Some(number) = cache.by_key.get(key).filter(|number| **number < next) {
            return Ok(Some(*number));
        }
        let Some(number) = self.set_ids.get(key).map_err(damaged)?.map(|v| v.value()) else { return Ok(None) };
        if cache.by_key.len() >= CACHED_SETS {
            cache.by_key.clear();
        }
        cache.by_key.insert(key.to_vec(), number);
        Ok(Some(number))
    }
    fn next_set(&self) -> Result<u32, StoreError> {
        Ok(self.sets.last().map_err(damaged)?.map_or(0, |(number, _)| number.value() + 1))
    }
}
