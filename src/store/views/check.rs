//! Builds the views anew from the journal and compares: what cannot be rebuilt bit for bit is a bug.

use std::path::Path;

use crate::domain::{Call, Filter, Money};
use crate::store::StoreError;

use super::fold::Delta;
use super::tables::{self, Reader, SetCache, damaged};
use super::{BATCH, Journal, Views, open_file};

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

/// Rebuilds from the journal into `scratch` (a folder of its own; `None` = in memory) and compares row by row with what the
/// live views have. Constant memory with a folder; nothing of the live side is changed.
pub fn check(live: &Views, scratch: Option<&Path>, journal: &Journal) -> Result<Check, StoreError> {
    let none: Journal = std::sync::Arc::new(|_, _| Ok(Vec::new()));
    let file = scratch.map(|dir| dir.join("views.redb"));
    let (fresh, _) = open_file(file.as_deref(), &none, 0)?;
    let sets = SetCache::default();
    // The live file must not move under the comparison.
    let _quiet = live.inner.quiet.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let live_db = live.inner.database();
    let reader = Reader::open(&live_db, &live.inner.sets)?;
    rebuild(&fresh, &sets, journal, reader.applied)?;
    let fresh_reader = Reader::open(&fresh, &sets)?;
    let mut found = Check { entries: reader.applied, ..Check::default() };
    found.difference = compare_calls(&reader, &fresh_reader, &mut found)?;
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
        let mut delta = Delta::default();
        delta.fold(&Reader::open(fresh, sets)?, &entries)?;
        next = delta.end.map(|(end, _)| end).ok_or_else(|| damaged(format!("the journal has no entry {next}")))?;
        tables::write(fresh, &delta)?;
    }
    Ok(())
}

/// What was erased from the journal since a row was made may be gone from its rebuild; nothing else may differ.
fn without_erasable(mut call: Call) -> Call {
    call.claimed.clear();
    call
}

fn compare_calls(live: &Reader<'_>, fresh: &Reader<'_>, found: &mut Check) -> Result<Option<String>, StoreError> {
    let mut ours = live.calls_down(0, u64::MAX)?;
    let mut theirs = fresh.calls_down(0, u64::MAX)?;
    loop {
        let (a, b) = match (ours.next().transpose()?, theirs.next().transpose()?) {
            (None, None) => return Ok(None),
            (Some((seq, _)), None) => return Ok(Some(format!("the views have a call at {seq}, the journal none"))),
            (None, Some((seq, _))) => return Ok(Some(format!("the journal has a call at {seq}, the views none"))),
            (Some((_, a)), Some((_, b))) => (without_erasable(a), without_erasable(b)),
        };
        if a != b {
            return Ok(Some(format!("call {} (entry {}) is not what the journal says", a.id, a.seq)));
        }
        found.calls += 1;
        found.cost += a.cost.unwrap_or(Money::ZERO);
    }
}

/// Indexes and sums, by a digest per table: order-independent would hide nothing, but the tables are ordered anyway.
fn compare_rest(live: &Reader<'_>, fresh: &Reader<'_>) -> Result<Option<String>, StoreError> {
    use sha2::{Digest, Sha256};
    let digests = |reader: &Reader<'_>| {
        let mut tables = std::collections::BTreeMap::<&'static str, Sha256>::new();
        reader.dump(&mut |table, key, value| {
            let digest = tables.entry(table).or_default();
            digest.update((key.len() as u64).to_be_bytes());
            digest.update(&key);
            digest.update((value.len() as u64).to_be_bytes());
            digest.update(&value);
        })?;
        Ok::<_, StoreError>(tables.into_iter().map(|(name, digest)| (name, digest.finalize())).collect::<Vec<_>>())
    };
    let (ours, theirs) = (digests(live)?, digests(fresh)?);
    let differs = |name: &str| ours.iter().find(|(n, _)| *n == name) != theirs.iter().find(|(n, _)| *n == name);
    let names = ["calls_by_id", "calls_by_response", "attempts", "rollups", "dimensions"];
    Ok(names.into_iter().find(|n| differs(n)).map(|n| format!("table `{n}` is not what the journal says")))
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
