//! Brings the state to where the journal stands: newest fitting snapshot, then replay of what came after it.
//!
//! The running snapshot is tried first, then the sealed one of the newest month, then a replay from the first entry. Each
//! ends in the same comparison: the tree that results has the right edge that was written down with the last commit. So a snapshot that
//! does not belong to this journal is noticed, whatever it says about itself.

use sha2::{Digest, Sha256};

use crate::ledger::entry::{Body, Entry};
use crate::ledger::leaf::leaf_hash;

use super::StoreError;
use super::journal::Sealed;
use super::keys::Place;
use super::media::Media;
use super::reader::{MAX_READ, Reader};
use super::snapshot::{self, Carried, Running};
use super::tiles::WIDTH;

/// The state after the last entry in the journal.
pub fn recover(reader: &Reader, media: &Media) -> Result<Carried, StoreError> {
    let mut carried = replayed(reader, media)?;
    remind(reader, &mut carried)?;
    Ok(carried)
}

/// Calls that a snapshot had as open get their words back from their ADMIT, so that a budget made later finds them.
fn remind(reader: &Reader, carried: &mut Carried) -> Result<(), StoreError> {
    let oldest = reader.journal.oldest()?.unwrap_or(0);
    let mut wanted = carried.state.wordless().into_iter().filter(|seq| *seq >= oldest).peekable();
    while let Some(first) = wanted.peek().copied() {
        // As many as are packed together: what is open is often close together, too.
        for stored in reader.journal.read(first, WIDTH as usize, false)? {
            if wanted.next_if_eq(&stored.seq).is_some() {
                let (_, entry) = stored.raw.open(stored.seq).map_err(damaged)?;
                if let Body::Admit(admit) = &entry.body {
                    carried.state.remind(stored.seq, admit);
                }
            }
        }
        // Of an epoch before, or not there: it stays without.
        wanted.next_if_eq(&first);
    }
    Ok(())
}

fn replayed(reader: &Reader, media: &Media) -> Result<Carried, StoreError> {
    let journal = &reader.journal;
    let Some((size, edge)) = journal.last_edge()? else { return Ok(Carried::genesis(journal.epoch)) };
    journal.give_tiles(reader.tiles_of_pending()?);
    match running(reader, media, size) {
        Ok(Some(carried)) => match replay(reader, carried, size, &edge) {
            Ok(carried) => return Ok(carried),
            Err(e) => tracing::warn!(error = %e, "the running snapshot does not fit the journal: replaying without it"),
        },
        Ok(None) => {}
        Err(what) => tracing::warn!(what, "the running snapshot is of no use: replaying without it"),
    }
    let start = sealed(reader)?.unwrap_or_else(|| Carried::genesis(journal.epoch));
    replay(reader, start, size, &edge)
}

/// The running snapshot, if it is of this journal and not ahead of it.
fn running(reader: &Reader, media: &Media, size: u64) -> Result<Option<Carried>, String> {
    let Some(bytes) = media.read_side(snapshot::FILE).map_err(|e| e.to_string())? else { return Ok(None) };
    let carried = Running::from_file(&bytes)?.opened(reader.keys.as_deref())?;
    if carried.epoch != reader.journal.epoch || carried.size() > size {
        return Err(format!("it is of entry {} and the journal has {size}", carried.size()));
    }
    check_last_leaves(reader, &carried).map_err(|e| e.to_string())?;
    Ok(Some(carried))
}

/// The last entries before the snapshot, read again and hashed, are the ones it was made after.
fn check_last_leaves(reader: &Reader, carried: &Carried) -> Result<(), StoreError> {
    let size = carried.size();
    let first = size / WIDTH * WIDTH;
    let known = carried.tiles.levels().first().map(Vec::as_slice).unwrap_or_default();
    for (stored, known) in reader.journal.read(first, (size - first) as usize, false)?.iter().zip(known) {
        stored.raw.open(stored.seq).map_err(damaged)?;
        if leaf_hash(&stored.raw.leaf) != *known {
            return Err(damaged(format!("entry {} is not the one that was hashed into the tree", stored.seq)));
        }
    }
    Ok(())
}

/// The sealed snapshot the newest month begins with, after its hash was found in the SNAPSHOT entry.
pub fn sealed(reader: &Reader) -> Result<Option<Carried>, StoreError> {
    let Some(month) = reader.journal.month() else { return Ok(None) };
    sealed_of(reader, &month)
}

/// The sealed snapshot of a month; `None` in a ledger's first month.
pub fn sealed_of(reader: &Reader, month: &str) -> Result<Option<Carried>, StoreError> {
    let Some(Sealed { first, snapshot, catalogue, persons }) = reader.journal.sealed(month)? else { return Ok(None) };
    let opening = reader.entries(first, 2)?;
    // An epoch begins with a GAP, its SNAPSHOT follows.
    let after_gap = matches!(opening.first(), Some((Entry { body: Body::Gap { .. }, .. }, _))) && first == 0;
    let promised = match opening.get(usize::from(after_gap)).map(|(entry, _)| &entry.body) {
        Some(Body::Snapshot { sha256, .. }) => *sha256,
        _ => return Err(damaged(format!("month {month} does not begin with a SNAPSHOT entry"))),
    };
    if Sha256::digest(&snapshot).as_slice() != promised {
        return Err(damaged(format!("the sealed snapshot of {month} does not fit its SNAPSHOT entry {first}")));
    }
    let mut carried = Carried::decode_sealed(&snapshot, catalogue.as_deref()).map_err(damaged)?;
    if carried.size() != first {
        return Err(damaged(format!("the sealed snapshot of {month} is of entry {}, not {first}", carried.size())));
    }
    if let (Some(persons), Some(keys)) = (persons, &reader.keys) {
        let place = Place { epoch: reader.journal.epoch, seq: first + u64::from(after_gap), group: 2 };
        if let Some((_, names)) = keys.open_group(&place, &persons)? {
            carried.recall_persons(&names).map_err(damaged)?;
        }
    }
    Ok(Some(carried))
}

fn replay(reader: &Reader, mut carried: Carried, size: u64, edge: &[[u8; 32]]) -> Result<Carried, StoreError> {
    let mut full = Vec::new();
    while carried.size() < size {
        let from = carried.size();
        let wanted = usize::try_from(size - from).unwrap_or(MAX_READ).min(MAX_READ);
        let stored = reader.journal.read(from, wanted, false)?;
        if stored.is_empty() {
            return Err(damaged(format!("entry {from} is missing")));
        }
        for stored in &stored {
            let (leaf, entry) = stored.raw.open(stored.seq).map_err(damaged)?;
            let apply = carried.state.apply(&entry);
            apply.map_err(|e| damaged(format!("entry {} cannot be applied: {e}", stored.seq)))?;
            // Names are all that replay takes from the erasable groups; the many entries of calls have none.
            if matches!(entry.body, Body::Catalogue { .. } | Body::Staged(_)) && leaf.commitments.contains_key(&2) {
                for (entry, erasable) in reader.entries(stored.seq, 1)? {
                    carried.state.recall(&entry.body, &erasable);
                }
            }
            let hash = leaf_hash(&stored.raw.leaf);
            carried.tree.push(hash);
            carried.tiles.push(stored.seq, hash, &mut full);
            full.clear();
        }
    }
    if carried.tree.edge() != edge {
        return Err(damaged(format!("the {size} entries do not give the tree that was committed")));
    }
    Ok(carried)
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged { file: "journal".into(), what }
}
