//! Reads what is stored again, slowly, and holds it against its hashes: a disk that forgets is found before an auditor does.
//!
//! A pass goes from the oldest entry of the oldest epoch to where the journal stood when the pass began, a tile's entries
//! at a time: every
//! leaf and commitment, the leaves against their tile, each full tile against the one above it, and at the end the root
//! of all of it against the head. A step reads about as many bytes as it is told, in short read transactions, and
//! remembers where it was; the next one goes on there. What does not fit is logged once, named by file and entry, and
//! counted; the pass goes on behind it. Nothing is mended here: a backup is, by an operator.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::Micros;
use crate::domain::time::SECOND;
use crate::ledger::tree;

use super::history::{History, Tree};
use super::journal::Stored;
use super::reader::Reader;
use super::tiles::{BYTES, WIDTH, hashes, tile_end};
use super::writer::unpoisoned;
use super::{Head, StoreError};

/// A pass begins so long after the one before has ended.
const EVERY: i64 = 24 * 3_600 * SECOND;
/// Findings remembered, so that each is told once; beyond it they are counted only.
const REMEMBERED: usize = 1_000;

/// How far it is, and what it found since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Passes that came to their end.
    pub passes: u64,
    /// Entries of this pass that were read, and how many it will read.
    pub at: u64,
    pub of: u64,
    /// Bytes read since the process began.
    pub bytes: u64,
    pub findings: u64,
    /// The newest finding: file, entry, and what is wrong.
    pub newest: Option<String>,
    pub finished_at: Option<Micros>,
}

#[derive(Default)]
struct Progress {
    shown: Scrubbed,
    /// The pass under way: the epochs to be read, the present one last.
    pass: VecDeque<(Arc<Reader>, Tree)>,
    /// The entry of its first epoch that is read next.
    next: u64,
    told: BTreeSet<String>,
}

/// The one scrub of a data folder; idle until it is stepped.
#[derive(Default)]
pub struct Scrub {
    progress: Mutex<Progress>,
}

impl Scrub {
    pub fn shown(&self) -> Scrubbed {
        self.lock().shown.clone()
    }

    #[cfg(test)]
    pub fn told(&self) -> Vec<String> {
        self.lock().told.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        unpoisoned(self.progress.lock())
    }

    /// Reads on, about `budget` bytes, or begins a pass if one is due. False: there is nothing to do now.
    pub fn step(&self, history: &History, head: &Head, now: Micros, budget: u64) -> bool {
        // One at a time; who comes second goes away.
        let Ok(mut progress) = self.progress.try_lock() else { return false };
        if progress.pass.is_empty() && !progress.begin(history, head, now) {
            return false;
        }
        let end = progress.shown.bytes + budget;
        while progress.shown.bytes < end {
            let Some((reader, tree)) = progress.pass.front().cloned() else { break };
            if progress.next >= tree.size {
                progress.finish(&reader, &tree, now);
            } else {
                progress.stretch(&reader, tree.size);
            }
        }
        true
    }
}

impl Progress {
    fn begin(&mut self, history: &History, head: &Head, now: Micros) -> bool {
        let due = self.shown.finished_at.is_none_or(|at| now.0 - at.0 >= EVERY);
        if !due || head.size == 0 {
            return false;
        }
        self.pass = history.epochs(head).into();
        (self.shown.at, self.shown.of) = (0, self.pass.iter().map(|(_, tree)| tree.size).sum());
        self.open();
        true
    }

    /// Goes to the first entry there is of the epoch that is next.
    fn open(&mut self) {
        let Some((reader, _)) = self.pass.front().cloned() else { return };
        self.next = reader.journal.oldest().ok().flatten().unwrap_or(0);
        self.shown.at += self.next;
    }

    /// The entries of one tile, or what there is of it.
    fn stretch(&mut self, reader: &Reader, size: u64) {
        let from = self.next;
        let to = ((from / WIDTH + 1) * WIDTH).min(size);
        if let Err(error) = self.compare(reader, from, to) {
            // The error names the file where it knows it.
            let file = reader.journal.file_name_of(from).unwrap_or_else(|| "journal".into());
            self.found(format!("`{file}`, entries {from} to {}: {error}", to - 1));
        }
        self.next = to;
        self.shown.at += to - from;
    }

    fn compare(&mut self, reader: &Reader, from: u64, to: u64) -> Result<(), StoreError> {
        let stored = reader.journal.read(from, (to - from) as usize, true)?;
        // Counted at least once, so that a step ends also where nothing can be read.
        self.shown.bytes += stored.iter().map(bytes_of).sum::<u64>().max(1);
        let mut leaves = Vec::with_capacity(stored.len());
        for stored in &stored {
            match reader.open(stored) {
                Ok(opened) => leaves.push(opened.hash),
                Err(error) => {
                    let file = reader.journal.file_name_of(stored.seq).unwrap_or_else(|| "journal".into());
                    self.found(format!("`{file}`, entry {}: {error}", stored.seq));
                    leaves.push([0; 32]);
                }
            }
        }
        if leaves.len() as u64 != to - from {
            let what = format!("entry {} is missing", from + leaves.len() as u64);
            return Err(StoreError::Damaged { file: "journal".into(), what });
        }
        // A tile that is not in the files yet is made of these leaves when it is written.
        let whole = from.is_multiple_of(WIDTH) && to - from == WIDTH && to <= reader.journal.fed();
        if whole { self.climb(reader, from / WIDTH, &leaves) } else { Ok(()) }
    }

    /// A tile of leaves against the stored one, then each tile that ends here against the hash in the one above it.
    fn climb(&mut self, reader: &Reader, index: u64, leaves: &[[u8; 32]]) -> Result<(), StoreError> {
        let damaged = |what: String| StoreError::Damaged { file: "journal".into(), what };
        let mut index = index;
        let mut kept = self.tile(reader, 0, index)?;
        if let Some(at) = leaves.iter().zip(&kept).position(|(leaf, kept)| leaf != kept) {
            return Err(damaged(format!("entry {} is not the one in its tile", index * WIDTH + at as u64)));
        }
        for level in 1u8.. {
            let (above, place) = (index / WIDTH, (index % WIDTH) as usize);
            // Not full yet: its hashes are made of the tiles below when they are needed.
            if tile_end(level, above).is_none_or(|end| end > reader.journal.fed()) {
                return Ok(());
            }
            let upper = self.tile(reader, level, above)?;
            if upper.get(place) != Some(&tree::root_of(&kept)) {
                return Err(damaged(format!(
                    "tile {level}/{above} does not have the hash of tile {}/{index}",
                    level - 1
                )));
            }
            if place as u64 != WIDTH - 1 {
                return Ok(());
            }
            (index, kept) = (above, upper);
        }
        Ok(())
    }

    fn tile(&mut self, reader: &Reader, level: u8, index: u64) -> Result<Vec<[u8; 32]>, StoreError> {
        let tile = reader.journal.tile(level, index)?.filter(|tile| tile.len() == BYTES);
        self.shown.bytes += BYTES as u64;
        let missing =
            || StoreError::Damaged { file: "journal".into(), what: format!("tile {level}/{index} is missing") };
        Ok(hashes(&tile.ok_or_else(missing)?))
    }

    fn finish(&mut self, reader: &Reader, tree: &Tree, now: Micros) {
        let what = format!("the first {} entries of epoch {}", tree.size, reader.journal.epoch);
        match reader.root(tree.size) {
            Ok(root) if root == tree.root => {}
            Ok(_) => self.found(format!("the tiles do not give the root of {what}")),
            Err(error) => self.found(format!("the root of {what}: {error}")),
        }
        self.pass.pop_front();
        self.open();
        if self.pass.is_empty() {
            self.shown.passes += 1;
            self.shown.finished_at = Some(now);
        }
    }

    fn found(&mut self, what: String) {
        self.shown.findings += 1;
        if self.told.len() < REMEMBERED && self.told.insert(what.clone()) {
            tracing::error!(what, "stored bytes are not what was written: restore them from a backup");
        }
        self.shown.newest = Some(what);
    }
}

fn bytes_of(stored: &Stored) -> u64 {
    let groups: usize = stored.groups.iter().map(|(_, value)| value.len()).sum();
    (stored.raw.leaf.len() + stored.raw.body.len() + groups) as u64
}
