//! Reads entries and proofs from the journal, checking everything against its hashes on the way.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ledger::codec;
use crate::ledger::entry::{Entry, Erasable};
use crate::ledger::leaf::{self, Leaf};
use crate::ledger::tree;

use super::StoreError;
use super::journal::{Journal, Stored};
use super::keys::{DataKeys, Place, split};
use super::tiles::{BYTES, Tile, WIDTH, hashes, tile_end};

/// Entries read at most in one go: keeps read transactions short.
pub const MAX_READ: usize = 10_000;

/// The reading side of a data folder. Shared by every reader; no state of its own.
pub struct Reader {
    pub journal: Arc<Journal>,
    /// Absent where the root key is not at hand: sealed groups stay closed.
    pub keys: Option<Arc<DataKeys>>,
}

/// An entry read and found to fit its commitments.
pub struct Opened {
    pub leaf: Leaf,
    pub hash: [u8; 32],
    pub entry: Entry,
    pub erasable: Erasable,
    /// Groups that are committed to and not there, or that cannot be opened.
    pub missing: Vec<u8>,
}

impl Reader {
    /// Entries from `from` on, at most `limit`, with their groups 1 to 4.
    pub fn entries(&self, from: u64, limit: usize) -> Result<Vec<(Entry, Erasable)>, StoreError> {
        let stored = self.journal.read(from, limit.min(MAX_READ), true)?;
        stored.iter().map(|s| self.open(s).map(|o| (o.entry, o.erasable))).collect()
    }

    /// Entries of this epoch numbered by position: what lists and sums go by ([`super::history`]).
    pub fn positioned(&self, mut entries: Vec<(Entry, Erasable)>) -> Vec<(Entry, Erasable)> {
        let before = self.journal.before;
        if before > 0 {
            for (entry, _) in &mut entries {
                entry.seq += before;
                entry.reference = entry.reference.map(|reference| reference + before);
            }
        }
        entries
    }

    /// Decodes an entry and checks it; says which of its groups are not there any more.
    pub fn open(&self, stored: &Stored) -> Result<Opened, StoreError> {
        let (leaf, entry) = stored.raw.open(stored.seq).map_err(damaged)?;
        let mut open: Vec<(u8, Vec<u8>)> = Vec::new();
        for (group, value) in &stored.groups {
            let place = Place { epoch: self.journal.epoch, seq: stored.seq, group: *group };
            let salted = match (group, &self.keys) {
                (2 | 3, Some(keys)) => keys.open_group(&place, value)?,
                (2 | 3, None) => None,
                _ => Some(
                    split(value)
                        .ok_or_else(|| damaged(format!("group {group} of entry {} is cut short", stored.seq)))?,
                ),
            };
            let Some((salt, bytes)) = salted else { continue };
            if !leaf.commits_to(*group, &salt, &bytes) {
                return Err(damaged(format!("entry {}: group {group} does not fit its commitment", stored.seq)));
            }
            open.push((*group, bytes));
        }
        let refs: Vec<(u8, &[u8])> = open.iter().map(|(g, b)| (*g, b.as_slice())).collect();
        let erasable = codec::decode_groups(&refs).map_err(|e| damaged(format!("entry {}: {e}", stored.seq)))?;
        let present = |group: &u8| *group == 0 || refs.iter().any(|(g, _)| g == group);
        let missing = leaf.commitments.keys().copied().filter(|group| !present(group)).collect();
        Ok(Opened { hash: leaf::leaf_hash(&stored.raw.leaf), leaf, entry, erasable, missing })
    }

    /// The hashes of the nodes of a tree of `size` leaves.
    pub fn nodes(&self, size: u64) -> Nodes<'_> {
        Nodes { reader: self, size, full: HashMap::new(), unfinished: None }
    }

    /// The tiles that entries not in the files yet fill: the log does not have them.
    pub fn tiles_of_pending(&self) -> Result<Vec<Tile>, StoreError> {
        let mut tiles = Vec::new();
        for level in 0u8.. {
            let Some(span) = tile_end(level, 0).filter(|span| *span <= self.journal.size()) else { break };
            for index in self.journal.fed() / span..self.journal.size() / span {
                tiles.push((level, index, self.tile_of_pending(level, index)?));
            }
        }
        Ok(tiles)
    }

    /// A tile whose last entries are not in the files yet, made from what is below it.
    fn tile_of_pending(&self, level: u8, index: u64) -> Result<Vec<u8>, StoreError> {
        let end = tile_end(level, index).filter(|end| *end > self.journal.fed());
        let end = end.ok_or_else(|| damaged(format!("tile {level}/{index} is missing")))?;
        let first = index * WIDTH;
        let hashes: Result<Vec<[u8; 32]>, StoreError> = match level.checked_sub(1) {
            None => {
                let stored = self.journal.read(first, WIDTH as usize, false)?;
                Ok(stored.iter().map(|s| leaf::leaf_hash(&s.raw.leaf)).collect())
            }
            Some(below) => (first..first + WIDTH)
                .map(|number| {
                    let tile = self.journal.tile(below, number)?.filter(|t| t.len() == BYTES);
                    let tile = tile.map_or_else(|| self.tile_of_pending(below, number), Ok)?;
                    Ok(tree::root_of(&hashes(&tile)))
                })
                .collect(),
        };
        let tile = hashes?.concat();
        if tile.len() == BYTES { Ok(tile) } else { Err(damaged(format!("entries before {end} are missing"))) }
    }

    /// Leaf hash of an entry and its path in the tree of `size` leaves. The leaf is hashed from the entry as stored, so
    /// a changed entry gives a proof that does not verify.
    pub fn inclusion(&self, seq: u64, size: u64) -> Result<([u8; 32], Vec<[u8; 32]>), StoreError> {
        if seq >= size {
            return Err(StoreError::Refused(format!("entry {seq} is not in a tree of {size} entries")));
        }
        let stored = self.journal.read(seq, 1, false)?;
        let stored = stored.first().ok_or_else(|| StoreError::Refused(format!("there is no entry {seq}")))?;
        let mut nodes = self.nodes(size);
        let path = tree::inclusion(seq, size, |level, index| nodes.node(level, index))?;
        Ok((leaf::leaf_hash(&stored.raw.leaf), path))
    }

    /// Root of the first `size` entries.
    pub fn root(&self, size: u64) -> Result<[u8; 32], StoreError> {
        let mut nodes = self.nodes(size);
        let mut edge = Vec::new();
        let mut at = 0;
        while at < size {
            let level = (size - at).ilog2() as u8;
            edge.push(nodes.node(level, at >> level)?);
            at += 1 << level;
        }
        let edge = tree::Tree::from_edge(size, edge).map_err(|e| damaged(e.to_string()))?;
        Ok(edge.root())
    }
}

/// Looks nodes up in stored tiles, and makes those of unfinished tiles from what is below them.
pub struct Nodes<'a> {
    reader: &'a Reader,
    size: u64,
    full: HashMap<(u8, u64), Vec<u8>>,
    /// Leaf hashes of the unfinished tile of level 0: its index and the hashes.
    unfinished: Option<Vec<[u8; 32]>>,
}

/// Tiles one proof may keep in memory; a proof needs a handful.
const CACHED_TILES: usize = 64;

impl Nodes<'_> {
    /// The hash of the node `index` of tree level `level`, a perfect subtree within the tree.
    pub fn node(&mut self, level: u8, index: u64) -> Result<[u8; 32], StoreError> {
        let (tile_level, tile, row) = tree::place_in_tile(level, index);
        if self.is_full(tile_level, tile) {
            let hashes = hashes(self.tile(tile_level, tile)?);
            let row = hashes.get(row).ok_or_else(|| damaged(format!("tile {tile_level}/{tile} is cut short")))?;
            return Ok(tree::root_of(row));
        }
        let first = tile * WIDTH;
        let row: Result<Vec<_>, _> = row.map(|n| self.hash(tile_level, first + n as u64)).collect();
        Ok(tree::root_of(&row?))
    }

    fn is_full(&self, level: u8, index: u64) -> bool {
        (index + 1).checked_shl(8 * (u32::from(level) + 1)).is_some_and(|end| end <= self.size)
    }

    /// A hash of an unfinished tile.
    fn hash(&mut self, level: u8, number: u64) -> Result<[u8; 32], StoreError> {
        if level == 0 {
            return self.leaf(number);
        }
        if let Some(root) = self.reader.journal.known_root(level - 1, number) {
            return Ok(root);
        }
        // The tile below is full, else this hash would not be in the tree.
        let below = hashes(self.tile(level - 1, number)?);
        let root = tree::root_of(&below);
        self.reader.journal.remember_root(level - 1, number, root);
        Ok(root)
    }

    fn leaf(&mut self, seq: u64) -> Result<[u8; 32], StoreError> {
        let first = self.size / WIDTH * WIDTH;
        if self.unfinished.is_none() {
            let stored = self.reader.journal.read(first, (self.size - first) as usize, false)?;
            self.unfinished = Some(stored.iter().map(|s| leaf::leaf_hash(&s.raw.leaf)).collect());
        }
        let known = self.unfinished.as_ref().and_then(|hashes| hashes.get(seq.checked_sub(first)? as usize));
        known.copied().ok_or_else(|| damaged(format!("entry {seq} is missing")))
    }

    fn tile(&mut self, level: u8, index: u64) -> Result<&[u8], StoreError> {
        if self.full.len() >= CACHED_TILES && !self.full.contains_key(&(level, index)) {
            self.full.clear();
        }
        match self.full.entry((level, index)) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let stored = self.reader.journal.tile(level, index)?.filter(|t| t.len() == BYTES);
                let tile = match stored {
                    Some(tile) => tile,
                    None => self.reader.tile_of_pending(level, index)?,
                };
                Ok(place.insert(tile))
            }
        }
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged { file: "journal".into(), what }
}
