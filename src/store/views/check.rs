//! Builds the views anew from the journal and compares: what cannot be rebuilt is a bug.
//!
//! How calls lie in rows and chunks depends on where batches ended; what they say does not. So calls, sums and names are
//! compared as read, the rest byte by byte.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::domain::{Call, Filter, Money};
use crate::store::StoreError;

use super::descent::{Descent, Step};
use super::fold::{Base, Delta};
use super::follow::BATCH;
use super::tables::{Reader, SetCache, damaged, is_stray};
use super::{Journal, Views, open_file, sums, write};

/// What a rebuild found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Entries both sides have.
    pub entries: u64,
    pub calls: u64,
    /// The sum of all known costs.
    pub cost: Money,
    /// The first thing that differs, in words; absent = the views are what the journal says.
    pub difference: Option<String>,
}

/// Rebuilds from the journal into `scratch` (a folder of its own; `None` = in memory) and compares everything with what the
/// live views have. Constant memory with a folder; nothing of the live side is changed. Its transaction stays open
/// throughout: for a file that nobody else writes to meanwhile.
pub fn check(live: &Views, scratch: Option<&Path>, journal: &Journal) -> Result<Check, StoreError> {
    let none: Journal = std::sync::Arc::new(|_, _| Ok(Vec::new()));
    let file = scratch.map(|dir| dir.join("views.redb"));
    let (fresh, _) = open_file(file.as_deref(), &none, 0)?;
    let sets = SetCache::default();
    let live_db = live.inner.database();
    let reader = Reader::open(&live_db, &live.inner.sets)?;
    rebuild(&fresh, &sets, journal, reader.reached.applied)?;
    let fresh_reader = Reader::open(&fresh, &sets)?;
    let mut found = Check { entries: reader.reached.applied, ..Check::default() };
    found.difference = compare_calls(&reader, &fresh_reader, &mut found)?;
    if found.difference.is_none() {
        found.difference = compare_sums(&reader, &fresh_reader)?;
    }
    if found.difference.is_none() {
        found.difference = compare_rest(&reader, &fresh_reader)?;
    }
    Ok(found)
}

fn rebuild(fresh: &redb::Database, sets: &SetCache, journal: &Journal, end: u64) -> Result<(), StoreError> {
    let mut next = 0;
    while next < end {
        let most = usize::try_from(end - next).unwrap_or(BATCH).min(BATCH);
        let entries = journal(next, most)?;
        let batch = {
            let mut delta = Delta::default();
            let reader = Reader::open(fresh, sets)?;
            delta.fold(&reader, &entries)?;
            write::prepare(&reader, delta)?
        };
        let batch = batch.ok_or_else(|| damaged(format!("the journal has no entry {next}")))?;
        next = batch.reached.applied;
        batch.write(fresh, false)?;
    }
    Ok(())
}

/// What was erased from the journal since a row was made may be gone from its rebuild; nothing else may differ.
fn without_erasable(mut call: Call) -> Call {
    call.claimed.clear();
    call
}

/// The next call down, whatever lies between.
fn next(descent: &mut Descent<'_>) -> Result<Option<Call>, StoreError> {
    loop {
        match descent.next()? {
            Step::Call(call) => return Ok(Some(*call)),
            Step::Passed(_) => {}
            Step::End => return Ok(None),
        }
    }
}

fn compare_calls(live: &Reader<'_>, fresh: &Reader<'_>, found: &mut Check) -> Result<Option<String>, StoreError> {
    let all = Filter::default();
    let mut ours = Descent::new(live, 0..u64::MAX, &all)?;
    let mut theirs = Descent::new(fresh, 0..u64::MAX, &all)?;
    loop {
        let (a, b) = match (next(&mut ours)?, next(&mut theirs)?) {
            (None, None) => return Ok(None),
            (Some(a), None) => return Ok(Some(format!("the views have a call at {}, the journal none", a.seq))),
            (None, Some(b)) => return Ok(Some(format!("the journal has a call at {}, the views none", b.seq))),
            (Some(a), Some(b)) => (without_erasable(a), without_erasable(b)),
        };
        if a != b {
            return Ok(Some(format!("call {} (entry {}) is not what the journal says", a.id, a.seq)));
        }
        // Others are found by the time in their id; the first of a stretch stands for all of it.
        let sampled = is_stray(a.id, a.started_at) || a.seq >= live.reached.sealed || found.calls.is_multiple_of(512);
        if sampled && live.seq_of(a.id)? != Some(a.seq) {
            return Ok(Some(format!("call {} (entry {}) is not found by its id", a.id, a.seq)));
        }
        found.calls += 1;
        found.cost += a.cost.unwrap_or(Money::ZERO);
    }
}

/// Sums are compared as read: how they are packed says nothing.
fn compare_sums(live: &Reader<'_>, fresh: &Reader<'_>) -> Result<Option<String>, StoreError> {
    let digest = |reader: &Reader<'_>| {
        let (mut digest, mut failed) = (Sha256::new(), None);
        reader.quarters(0..u32::MAX, &mut |quarter, value| {
            let read = sums::each(&value, &mut |set, bucket| {
                digest.update(quarter.to_be_bytes());
                digest.update(set.to_be_bytes());
                digest.update(postcard::to_stdvec(&bucket).map_err(damaged)?);
                Ok(())
            });
            failed = read.err();
            failed.is_none()
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(digest.finalize()),
        }
    };
    let same = digest(live)? == digest(fresh)?;
    Ok((!same).then(|| "the sums are not what the journal says".to_owned()))
}

/// Indexes and combinations, by a digest per table that does not depend on an order: the sum of the digests of its rows.
fn compare_rest(live: &Reader<'_>, fresh: &Reader<'_>) -> Result<Option<String>, StoreError> {
    let digests = |reader: &Reader<'_>| {
        let mut tables = BTreeMap::<&'static str, (u64, u128)>::new();
        reader.dump(&mut |table, key, value| {
            let row = Sha256::new().chain_update((key.len() as u64).to_be_bytes()).chain_update(key);
            let row = row.chain_update(value).finalize();
            let row = row.first_chunk().copied().map_or(0, u128::from_be_bytes);
            let (rows, sum) = tables.entry(table).or_default();
            (*rows, *sum) = (*rows + 1, sum.wrapping_add(row));
        })?;
        Ok::<_, StoreError>(tables)
    };
    let (ours, theirs) = (digests(live)?, digests(fresh)?);
    let names = ["names", "calls_by_response", "attempts", "told", "dimensions"];
    let differs = names.into_iter().find(|name| ours.get(name) != theirs.get(name));
    Ok(differs.map(|name| format!("table `{name}` is not what the journal says")))
}

impl Views {
    /// Calls and their known cost, over everything: a control total.
    pub fn totals(&self) -> Result<(u64, Money), StoreError> {
        let (mut calls, mut cost) = (0, Money::ZERO);
        self.visit(&Filter::default(), None, &mut |call| {
            calls += 1;
            cost += call.cost.unwrap_or(Money::ZERO);
            true
        })?;
        Ok((calls, cost))
    }
}
