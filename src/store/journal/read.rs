//! Reads the files and what is pending behind them, in short transactions.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::block;
use crate::store::media::File;
use crate::store::tiles::tile_end;
use crate::store::writer::unpoisoned;

use super::{
    BLOCKS, CATALOGUES, CHECKPOINTS, EDGE, Edge, GROUPS, Journal, KNOWN_ROOTS, PERSONS, Pending, SNAPSHOTS, Sealed,
    Stored, TILES, absent, damaged, log, number, reading,
};

impl Journal {
    /// Size and right edge of the tree as the files have it.
    pub(super) fn edge(&self) -> Result<Option<Edge>, StoreError> {
        let Some(last) = self.lock().len().checked_sub(1) else { return Ok(None) };
        let Some((name, file)) = self.file_at(last)? else { return Ok(None) };
        let value = reading(&name, &file, |txn| {
            Ok(txn.open_table(EDGE)?.get(self.epoch)?.map(|value| value.value().to_vec()))
        })?;
        let value = value.ok_or_else(|| damaged(&name, "the tree's edge is missing"))?;
        edge_of(&name, &value).map(Some)
    }

    /// The sealed snapshot of a month.
    pub fn sealed(&self, month: &str) -> Result<Option<Sealed>, StoreError> {
        let Some(place) = self.lock().iter().position(|m| m.name == month) else { return Ok(None) };
        let Some((name, file)) = self.file_at(place)? else { return Ok(None) };
        let value = reading(&name, &file, |txn| {
            let Some(table) = absent(txn.open_table(SNAPSHOTS))? else { return Ok(None) };
            let persons = txn.open_table(PERSONS)?.get(self.epoch)?.map(|value| value.value().to_vec());
            let catalogue = match absent(txn.open_table(CATALOGUES))? {
                Some(table) => table.get(self.epoch)?.map(|value| value.value().to_vec()),
                None => None,
            };
            Ok(table.get(self.epoch)?.map(|value| (value.value().to_vec(), catalogue, persons)))
        })?;
        let first = self.lock().get(place).and_then(|m| m.first);
        Ok(first.zip(value).map(|(first, (snapshot, catalogue, persons))| Sealed {
            first,
            snapshot,
            catalogue,
            persons,
        }))
    }

    /// A full tile.
    pub fn tile(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        // The feed that wrote the last leaf under the tile wrote the tile.
        let Some(end) = tile_end(level, index) else { return Ok(None) };
        let Some((name, file, _)) = self.file_of(end - 1)? else { return Ok(None) };
        reading(&name, &file, |txn| {
            let Some(table) = absent(txn.open_table(TILES))? else { return Ok(None) };
            Ok(table.get((self.epoch, level, index))?.map(|value| value.value().to_vec()))
        })
    }

    /// The stored note of the smallest tree of at least `size` entries.
    pub fn checkpoint_from(&self, size: u64) -> Result<Option<(u64, String)>, StoreError> {
        let places = self.lock().len();
        for place in 0..places {
            let Some((name, file)) = self.file_at(place)? else { break };
            let found = reading(&name, &file, |txn| {
                let Some(table) = absent(txn.open_table(CHECKPOINTS))? else { return Ok(None) };
                let first = table.range((self.epoch, size)..=(self.epoch, u64::MAX))?.next().transpose()?;
                Ok(first.map(|(key, note)| (key.value().1, String::from_utf8_lossy(note.value()).into_owned())))
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The root of a full tile, if a proof has needed it before.
    pub fn known_root(&self, level: u8, index: u64) -> Option<[u8; 32]> {
        unpoisoned(self.roots.lock()).get(&(level, index)).copied()
    }

    /// Remembers the root of a full tile, which no entry can change any more.
    pub fn remember_root(&self, level: u8, index: u64, root: [u8; 32]) {
        let mut roots = unpoisoned(self.roots.lock());
        if roots.len() >= KNOWN_ROOTS {
            roots.clear();
        }
        roots.insert((level, index), root);
    }

    /// Entries from `from` on, at least one whole block's rest if there is any, until `limit` are read; in one short
    /// read transaction per file.
    pub fn read(&self, from: u64, limit: usize, with_groups: bool) -> Result<Vec<Stored>, StoreError> {
        // Looked at first: what is not pending any more by now, the files have.
        let pending = self.pending_from(from, limit);
        let mut entries = match pending.first() {
            Some(first) if first.commit.first <= from => Vec::new(),
            _ => self.read_files(from, limit, with_groups)?,
        };
        for pending in pending {
            let next = from + entries.len() as u64;
            if entries.len() >= limit {
                break;
            }
            if pending.end() <= next {
                continue;
            }
            if pending.commit.first > next {
                return Err(damaged("journal", format!("entry {next} is missing")));
            }
            let skip = (next - pending.commit.first) as usize;
            read_pending(&pending, skip, with_groups, &mut entries).map_err(|what| damaged(log::NAME, what))?;
        }
        entries.truncate(limit);
        Ok(entries)
    }

    fn pending_from(&self, from: u64, limit: usize) -> Vec<Arc<Pending>> {
        let pending = unpoisoned(self.pending.lock());
        let start = pending.partition_point(|pending| pending.end() <= from);
        let last = from.saturating_add(limit as u64);
        let wanted = pending.range(start..).take_while(|next| next.commit.first < last);
        wanted.cloned().collect()
    }

    fn read_files(&self, from: u64, limit: usize, with_groups: bool) -> Result<Vec<Stored>, StoreError> {
        let mut entries = Vec::new();
        let Some((mut name, mut file, mut place)) = self.file_of(from)? else { return Ok(entries) };
        let mut next = from;
        while entries.len() < limit {
            let before = entries.len();
            next = self.read_file(&name, &file, next, limit, with_groups, &mut entries)?;
            place += 1;
            match self.file_at(place)? {
                Some((following, handle)) => (name, file) = (following, handle),
                None => break,
            }
            if entries.len() == before && before > 0 {
                return Err(damaged(&name, format!("entry {next} is missing")));
            }
        }
        Ok(entries)
    }

    fn read_file(
        &self,
        name: &str,
        file: &File,
        from: u64,
        limit: usize,
        with_groups: bool,
        entries: &mut Vec<Stored>,
    ) -> Result<u64, StoreError> {
        let epoch = self.epoch;
        let mut altered = None;
        let mut next = from;
        reading(name, file, |txn| {
            let Some(blocks) = absent(txn.open_table(BLOCKS))? else { return Ok(()) };
            let groups = txn.open_table(GROUPS)?;
            let Some(start) = blocks.range((epoch, 0)..=(epoch, from))?.next_back().transpose()?.map(|b| b.0.value().1)
            else {
                return Ok(());
            };
            for row in blocks.range((epoch, start)..=(epoch, u64::MAX))? {
                let (key, value) = row?;
                let first = key.value().1;
                let raws = match block::read_block(value.value()) {
                    Ok(raws) => raws,
                    Err(what) => {
                        altered = Some(format!("block {first}: {what}"));
                        return Ok(());
                    }
                };
                let base = entries.len();
                let skip = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
                if first > next {
                    altered = Some(format!("entry {next} is missing: the next block begins with {first}"));
                    return Ok(());
                }
                let count = raws.len();
                entries.extend(raws.into_iter().enumerate().skip(skip).map(|(i, raw)| Stored {
                    seq: first + i as u64,
                    raw,
                    groups: Vec::new(),
                }));
                if with_groups {
                    for group in 1..=4u8 {
                        let Some(value) = groups.get((epoch, first, group))? else { continue };
                        match block::read_groups(value.value()) {
                            Ok(found) => attach(&mut entries[base..], skip, group, found),
                            Err(what) => altered = Some(format!("group {group} of block {first}: {what}")),
                        }
                    }
                }
                next = next.max(first + count as u64);
                if entries.len() >= limit {
                    return Ok(());
                }
            }
            Ok(())
        })?;
        match altered {
            Some(what) => Err(StoreError::Altered { file: name.into(), entry: next, what }),
            None => Ok(next),
        }
    }
}

/// Adds a pending commit's entries but the first `skip`.
fn read_pending(pending: &Pending, skip: usize, with_groups: bool, entries: &mut Vec<Stored>) -> Result<(), String> {
    let base = entries.len();
    let raws = block::read_block(&pending.commit.block)?;
    let numbered = (pending.commit.first..).zip(raws).skip(skip);
    entries.extend(numbered.map(|(seq, raw)| Stored { seq, raw, groups: Vec::new() }));
    if with_groups {
        for (group, value) in (1u8..).zip(&pending.commit.groups).filter(|(_, value)| !value.is_empty()) {
            attach(&mut entries[base..], skip, group, block::read_groups(value)?);
        }
    }
    Ok(())
}

/// Gives each group to its entry; `skip` entries of the block were not wanted.
fn attach(entries: &mut [Stored], skip: usize, group: u8, found: Vec<(u16, Vec<u8>)>) {
    for (position, bytes) in found {
        let Some(position) = usize::from(position).checked_sub(skip) else { continue };
        if let Some(entry) = entries.get_mut(position) {
            entry.groups.push((group, bytes));
        }
    }
}

/// The stored edge of a tree.
pub(super) fn edge_of(name: &str, value: &[u8]) -> Result<Edge, StoreError> {
    match (value.first(), number(value, 1), value.get(9..).map(<[u8]>::as_chunks::<32>)) {
        (Some(1), Some(size), Some((hashes, []))) => Ok((size, hashes.to_vec())),
        _ => Err(damaged(name, "the tree's edge is not of a known form")),
    }
}
