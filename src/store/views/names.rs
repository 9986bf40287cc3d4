//! From a vendor's answer id to the calls it may belong to: an index of hashes, in sorted runs.
//!
//! Such ids are random, so that a tree of them would be touched all over by every batch, and they are long. Kept are 40
//! bits of a hash and the call's sequence: new names in a small tree, then, when there are many, a sorted run of pages
//! that is written once; sixteen runs become one. A look-up asks every run, costs microseconds in each, and gives
//! candidates: which of them it is, the call's own row says. Seven bytes a name.

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};

use crate::store::StoreError;

use super::bytes::{put, take};
use super::tables::damaged;

/// (hash, call).
pub const NEW: TableDefinition<(u64, u64), ()> = TableDefinition::new("names_new.v2");
/// (run, first hash of the page) → names.
pub const PAGES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("names.v2");
/// Run → how many names.
pub const RUNS: TableDefinition<u32, u64> = TableDefinition::new("names_runs.v2");

/// New names that become a run.
const RUN: u64 = if cfg!(test) { 64 } else { 65_536 };
/// Small runs that become a large one.
const MERGE: usize = 16;
/// Names on one page.
const PAGE: usize = if cfg!(test) { 8 } else { 256 };
/// Bits of a hash that are left out.
const SHORTER: u32 = 24;

/// The hash of an answer's name. A slug, as a provider's id is, has no NUL.
pub fn hash(provider: &str, response: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(provider);
    hash.update([0]);
    hash.update(response);
    let digest = hash.finalize();
    let first = digest.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first) >> SHORTER
}

/// Adds names, ascending.
pub fn add(tx: &WriteTransaction, names: &[(u64, u64)]) -> Result<(), StoreError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut new = tx.open_table(NEW).map_err(damaged)?;
    for name in names {
        new.insert(*name, ()).map_err(damaged)?;
    }
    if new.len().map_err(damaged)? < RUN {
        return Ok(());
    }
    let mut all = Vec::new();
    for row in new.iter().map_err(damaged)? {
        all.push(row.map_err(damaged)?.0.value());
    }
    new.retain(|_, ()| false).map_err(damaged)?;
    let mut pages = tx.open_table(PAGES).map_err(damaged)?;
    let mut runs = tx.open_table(RUNS).map_err(damaged)?;
    let next = |runs: &Table<'_, u32, u64>| runs.last().map(|r| r.map_or(0, |(run, _)| run.value() + 1));
    let run = next(&runs).map_err(damaged)?;
    write_run(&mut pages, &mut runs, run, &all)?;
    let mut small = Vec::new();
    for row in runs.iter().map_err(damaged)? {
        let (run, count) = row.map_err(damaged)?;
        if count.value() < RUN * MERGE as u64 {
            small.push(run.value());
        }
    }
    if small.len() < MERGE {
        return Ok(());
    }
    let mut all = Vec::new();
    for run in &small {
        for row in pages.range((*run, 0)..=(*run, u64::MAX)).map_err(damaged)? {
            let (key, page) = row.map_err(damaged)?;
            read_page(key.value().1, page.value(), &mut |hash, seq| all.push((hash, seq)))?;
        }
    }
    all.sort_unstable();
    for run in &small {
        pages.retain_in((*run, 0)..=(*run, u64::MAX), |_, _| false).map_err(damaged)?;
        runs.remove(run).map_err(damaged)?;
    }
    write_run(&mut pages, &mut runs, run + 1, &all)
}

fn write_run(
    pages: &mut Table<'_, (u32, u64), &'static [u8]>,
    runs: &mut Table<'_, u32, u64>,
    run: u32,
    names: &[(u64, u64)],
) -> Result<(), StoreError> {
    let mut rest = names;
    while let Some((first, _)) = rest.first() {
        // Names of one hash stay on one page, or a look-up would miss some.
        let mut end = rest.len().min(PAGE);
        while end < rest.len() && rest[end].0 == rest[end - 1].0 {
            end += 1;
        }
        let mut page = Vec::with_capacity(8 * end);
        let mut before = *first;
        for (hash, seq) in &rest[..end] {
            put(&mut page, hash - before);
            put(&mut page, *seq);
            before = *hash;
        }
        pages.insert((run, *first), page.as_slice()).map_err(damaged)?;
        rest = &rest[end..];
    }
    runs.insert(run, names.len() as u64).map_err(damaged)?;
    Ok(())
}

fn read_page(first: u64, page: &[u8], visit: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    let (mut rest, mut hash) = (page, first);
    while !rest.is_empty() {
        hash += take(&mut rest)?;
        visit(hash, take(&mut rest)?);
    }
    Ok(())
}

/// The calls that a name of this hash may belong to, the newest first.
pub fn candidates(
    new: &impl ReadableTable<(u64, u64), ()>,
    pages: &impl ReadableTable<(u32, u64), &'static [u8]>,
    runs: &impl ReadableTable<u32, u64>,
    hash: u64,
) -> Result<Vec<u64>, StoreError> {
    let mut found = Vec::new();
    for row in new.range((hash, 0)..=(hash, u64::MAX)).map_err(damaged)? {
        found.push(row.map_err(damaged)?.0.value().1);
    }
    for run in runs.iter().map_err(damaged)? {
        let run = run.map_err(damaged)?.0.value();
        let page = pages.range((run, 0)..=(run, hash)).map_err(damaged)?.next_back();
        let Some((key, page)) = page.transpose().map_err(damaged)? else { continue };
        read_page(key.value().1, page.value(), &mut |at, seq| {
            if at == hash {
                found.push(seq);
            }
        })?;
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup();
    Ok(found)
}

/// Every name, in no order.
pub fn each(
    new: &impl ReadableTable<(u64, u64), ()>,
    pages: &impl ReadableTable<(u32, u64), &'static [u8]>,
    visit: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    for row in new.iter().map_err(damaged)? {
        let (hash, seq) = row.map_err(damaged)?.0.value();
        visit(hash, seq);
    }
    for row in pages.iter().map_err(damaged)? {
        let (key, page) = row.map_err(damaged)?;
        read_page(key.value().1, page.value(), visit)?;
    }
    Ok(())
}
