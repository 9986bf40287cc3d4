//! The journal's files: one per UTC month of the commit, `journal-2026-11.redb`.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `block.v1` | (epoch, first sequence) | the entries of one commit ([`super::block`]) |
//! | `group.v1` | (epoch, first sequence, group 1 to 4) | that commit's erasable groups ([`super::block`]) |
//! | `tile.v1` | (epoch, level, index) | 256 hashes, full tiles only ([`super::tiles`]) |
//! | `edge.v1` | epoch | version 1, size (8), then the hashes of the tree's right edge, 32 bytes each |
//! | `snapshot.v1` | epoch | the sealed snapshot the month begins with ([`super::snapshot`]); absent in a ledger's first month |
//! | `carried-catalogue.v1` | epoch | the catalogue that belongs to the snapshot, which has its SHA-256; there before the month begins |
//! | `carried-person.v1` | epoch | the owners' names that belong to the snapshot, sealed like a group 2 of its SNAPSHOT entry |
//! | `checkpoint.v1` | (epoch, size) | the signed note of a tree of that size; in the month it was signed in |
//! | `cosig.v1` | (epoch, size, witness) | a cosignature line; registered, written by a later version |
//! | `meta.v1` | name | `format`: 1 (8 bytes); `month`: text; `genesis`: epoch (8), first sequence (8), root before it (32); `before`: entries of earlier epochs (8); `log`: 1, entries after this file's may be in `commit.log` alone |
//!
//! A later epoch ([`super::epoch`]) has files of its own, `journal-2026-11-e1.redb`, beside those of the earlier ones.
//!
//! A tile lies in the file of the month whose entries filled it. A commit does not go there at once: it goes to
//! `commit.log` ([`log`]) and is *pending* until it is fed to the month's file ([`feed`]). Readers see what is pending
//! behind what the files have, so that to them a commit is there once it is acknowledged.
//!
//! One redb transaction writes stretches, groups, tiles and edge together, `Immediate` and with quick-repair, so that a
//! file opens at once after a crash whatever its size. Readers use short transactions and are not in the writer's way; a
//! page that cannot be read is an error, not a panic.

mod begin;
pub mod copy;
pub mod feed;
pub mod log;
mod month;
mod read;
#[cfg(test)]
mod tampering;
mod txn;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::TableDefinition;

use super::StoreError;
use super::block::{self, Raw};
use super::media::{File, Media, catch};
use super::snapshot::Part;
use super::tiles::{Tile, tile_end};
use super::writer::unpoisoned;
use feed::Growing;
use log::{Appended, Log};
use month::Month;

#[cfg(test)]
pub use tampering::{rewrite, set_format, store_as_before_the_log};
use txn::{absent, damaged, number};
pub use txn::{explain, reading, writing};

/// Size and right edge of the tree, the hashes of its whole subtrees from left to right.
pub type Edge = (u64, Vec<[u8; 32]>);

const BLOCKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("block.v1");
const GROUPS: TableDefinition<(u64, u64, u8), &[u8]> = TableDefinition::new("group.v1");
const TILES: TableDefinition<(u64, u8, u64), &[u8]> = TableDefinition::new("tile.v1");
const EDGE: TableDefinition<u64, &[u8]> = TableDefinition::new("edge.v1");
const SNAPSHOTS: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot.v1");
const CATALOGUES: TableDefinition<u64, &[u8]> = TableDefinition::new("carried-catalogue.v1");
const PERSONS: TableDefinition<u64, &[u8]> = TableDefinition::new("carried-person.v1");
const CHECKPOINTS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("checkpoint.v1");
const COSIGNATURES: TableDefinition<(u64, u64, &[u8]), &[u8]> = TableDefinition::new("cosig.v1");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta.v1");

/// Format of the files this version writes, and the newest it reads.
pub const FORMAT: u64 = 1;
/// Name in `meta.v1` of what says that `commit.log` must be there.
const NEEDS_LOG: &str = "log";
/// Roots of tiles remembered; the right edge of a tree is made of at most 255 a level.
const KNOWN_ROOTS: usize = 4_096;
/// Files of past months kept open at once.
const OPEN_PAST: usize = 4;

/// An entry as read, with the stored values of its groups 1 to 4.
#[derive(Clone, Debug)]
pub struct Stored {
    pub seq: u64,
    pub raw: Raw,
    pub groups: Vec<(u8, Vec<u8>)>,
}

/// A commit on its way to the month's file.
pub struct Pending {
    pub commit: block::Builder,
    /// Right edge of the tree after it.
    pub edge: Vec<[u8; 32]>,
    /// The tiles it fills.
    pub tiles: Vec<Tile>,
}

impl Pending {
    /// Sequence after its last entry.
    pub fn end(&self) -> u64 {
        self.commit.end()
    }
}

/// How the newest month is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the one process that writes.
    Write,
    /// To look at; no other process has it open.
    Read,
    /// To look at while a server writes.
    Beside,
}

/// What a month begins with.
pub struct Opening<'a> {
    pub month: &'a str,
    pub first: u64,
    pub root: [u8; 32],
    /// Absent in a ledger's first month, which carries nothing over.
    pub snapshot: Option<&'a [u8]>,
    /// What lies beside the snapshot.
    pub catalogue: Option<&'a Part>,
    /// The names that go with the snapshot, sealed.
    pub persons: Option<&'a [u8]>,
}

/// A sealed snapshot as read.
pub struct Sealed {
    /// Sequence of the file's first entry: the SNAPSHOT that has its hash, or the GAP before it that opens an epoch.
    pub first: u64,
    pub snapshot: Vec<u8>,
    /// What lies beside it, where it has no catalogue of its own.
    pub catalogue: Option<Vec<u8>>,
    pub persons: Option<Vec<u8>>,
}

/// The files, newest last. Shared by the writer and every reader.
pub struct Journal {
    media: Media,
    mode: Mode,
    pub epoch: u64,
    /// Entries of the epochs before this one.
    pub before: u64,
    months: Mutex<Vec<Month>>,
    /// Absent where nothing is written.
    log: Mutex<Option<Log>>,
    /// Commits that the newest file does not have yet, oldest first. Bounded by the log.
    pending: Mutex<VecDeque<Arc<Pending>>>,
    /// Entries the files have.
    fed: AtomicU64,
    /// Held while a feed is under way.
    growing: Mutex<Growing>,
    /// Roots of full tiles, as proofs found them: the unfinished tiles on the right edge are made of them.
    roots: Mutex<HashMap<(u8, u64), [u8; 32]>>,
    /// The file of the month to come, once it is made.
    ahead: Mutex<Option<Ahead>>,
}

struct Ahead {
    month: String,
    file: Arc<File>,
    /// Hash of the catalogue in it.
    catalogue: [u8; 32],
}

impl Journal {
    /// Opens the newest month of the newest epoch; the others when they are asked for. A folder without a journal gives
    /// an empty one.
    pub fn open(media: Media, mode: Mode) -> Result<Journal, StoreError> {
        for epoch in Journal::epochs(&media)?.into_iter().rev() {
            let journal = Journal::open_epoch(media.clone(), mode, epoch)?;
            // Without a month it is an epoch that a crash caught before its first entry.
            if journal.month().is_some() {
                return Ok(journal);
            }
            journal.close()?;
        }
        Journal::open_epoch(media, mode, 0)
    }

    /// The epochs that have files, in order.
    pub fn epochs(media: &Media) -> Result<Vec<u64>, StoreError> {
        let mut epochs: Vec<u64> = media.names()?.iter().filter_map(|n| month_of(n)).map(|(epoch, _)| epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        Ok(epochs)
    }

    /// The files of one epoch.
    pub fn open_epoch(media: Media, mode: Mode, epoch: u64) -> Result<Journal, StoreError> {
        let mut journal = Journal::unopened(media, mode, epoch);
        journal.reopen()?;
        journal.before = journal.stored_before()?;
        Ok(journal)
    }

    /// An epoch without entries, after so many of others; [`Journal::begin`] makes its first file.
    pub fn create(media: Media, epoch: u64, before: u64) -> Result<Journal, StoreError> {
        let mut journal = Journal::unopened(media, Mode::Write, epoch);
        journal.reopen()?;
        if journal.month().is_some() {
            return Err(damaged("journal", format!("epoch {epoch} has entries already")));
        }
        journal.before = before;
        Ok(journal)
    }

    fn unopened(media: Media, mode: Mode, epoch: u64) -> Journal {
        Journal {
            media,
            mode,
            epoch,
            before: 0,
            months: Mutex::default(),
            log: Mutex::default(),
            pending: Mutex::default(),
            fed: AtomicU64::new(0),
            growing: Mutex::default(),
            roots: Mutex::default(),
            ahead: Mutex::default(),
        }
    }

    fn stored_before(&self) -> Result<u64, StoreError> {
        let Some(last) = self.lock().len().checked_sub(1) else { return Ok(0) };
        let Some((name, file)) = self.file_at(last)? else { return Ok(0) };
        reading(&name, &file, |txn| {
            Ok(txn.open_table(META)?.get("before")?.and_then(|value| number(value.value(), 0)).unwrap_or(0))
        })
    }

    /// Drops every handle, opens the newest month again and reads the log: after an error, handles are of no more use.
    pub fn reopen(&self) -> Result<(), StoreError> {
        let mut growing = unpoisoned(self.growing.lock());
        *growing = Growing::Unknown;
        *unpoisoned(self.ahead.lock()) = None;
        unpoisoned(self.roots.lock()).clear();
        self.close_files()?;
        let own = |name: &String| month_of(name).filter(|(epoch, _)| *epoch == self.epoch).map(|(_, month)| month);
        let mut names: Vec<String> = self.media.names()?.iter().filter_map(own).collect();
        names.sort();
        let new = |name| Month { epoch: self.epoch, name, file: None, first: None };
        let mut months: Vec<Month> = names.into_iter().map(new).collect();
        // A file without a beginning is one that a crash caught before its first commit.
        while let Some(month) = months.last_mut() {
            self.look_into(month, true)?;
            if month.first.is_some() {
                break;
            }
            months.pop();
        }
        *self.lock() = months;
        let fed = self.edge()?.map_or(0, |(size, _)| size);
        if self.mode != Mode::Beside && self.needs_log()? && !self.media.names()?.iter().any(|name| name == log::NAME) {
            let what = "the newest entries may have been in it alone".to_owned();
            return Err(StoreError::Missing { file: log::NAME.into(), what });
        }
        let pending = match self.mode {
            Mode::Write => {
                let (log, pending) = Log::open(&self.media, self.epoch, fed)?;
                *unpoisoned(self.log.lock()) = Some(log);
                pending
            }
            Mode::Read => Log::read(&self.media, self.epoch, fed)?,
            // A log that is being written may change under the eyes: what the files have is enough then.
            Mode::Beside => Log::read(&self.media, self.epoch, fed).unwrap_or_default(),
        };
        self.fed.store(fed, Ordering::SeqCst);
        *unpoisoned(self.pending.lock()) = pending.into_iter().map(Arc::new).collect();
        Ok(())
    }

    /// Entries there are, pending ones included.
    pub fn size(&self) -> u64 {
        let last = unpoisoned(self.pending.lock()).back().map(|pending| pending.end());
        last.unwrap_or_else(|| self.fed())
    }

    /// Entries the files have.
    pub fn fed(&self) -> u64 {
        self.fed.load(Ordering::SeqCst)
    }

    /// Right edge of the tree of all entries, as it was written down with the last of them.
    pub fn last_edge(&self) -> Result<Option<Edge>, StoreError> {
        let last = unpoisoned(self.pending.lock()).back().map(|pending| (pending.end(), pending.edge.clone()));
        last.map_or_else(|| self.edge(), |edge| Ok(Some(edge)))
    }

    /// Gives tiles to the pending commits that fill them: the log does not have them.
    pub fn give_tiles(&self, tiles: Vec<Tile>) {
        let mut pending = unpoisoned(self.pending.lock());
        for tile in tiles {
            let Some(end) = tile_end(tile.0, tile.1) else { continue };
            let filler = pending.iter_mut().find(|p| p.commit.first < end && end <= p.end());
            // Nobody reads or feeds yet: this is a start.
            if let Some(filler) = filler.and_then(Arc::get_mut) {
                filler.tiles.push(tile);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Month>> {
        self.months.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a commit; it is on disk when this returns. Gives the bytes that are pending by it: none where the log could
    /// not take it and it went to the month's file at once.
    pub fn commit(&self, pending: Pending) -> Result<usize, StoreError> {
        let mut log = unpoisoned(self.log.lock());
        let log = log.as_mut().ok_or(StoreError::Closed)?;
        let mut appended = log.append(self.epoch, &pending, self.fed())?;
        if appended == Appended::Full {
            self.feed_all()?;
            appended = log.append(self.epoch, &pending, self.fed())?;
        }
        if appended != Appended::Written {
            return self.feed_directly(pending).map(|()| 0);
        }
        let bytes = pending.commit.bytes();
        self.push(Arc::new(pending));
        Ok(bytes)
    }

    /// After a failure: everything goes to the month's file, and the log begins anew.
    pub fn start_over(&self) -> Result<(), StoreError> {
        self.feed_all()?;
        if let Some(log) = unpoisoned(self.log.lock()).as_mut() {
            log.start_over();
        }
        Ok(())
    }

    /// Puts what is pending into the files and closes those that nobody reads at the moment; a reader's handle closes
    /// with the reader.
    pub fn close(&self) -> Result<(), StoreError> {
        let fed = self.feed_all();
        unpoisoned(self.log.lock()).take();
        self.close_files().and(fed)
    }

    fn close_files(&self) -> Result<(), StoreError> {
        let months = std::mem::take(&mut *self.lock());
        for month in months {
            let name = month.file_name();
            if let Some(file) = month.file.and_then(Arc::into_inner) {
                // What follows an error is an error again; the file itself is as the last commit left it.
                if let Err(e) = catch(&name, || file.close())? {
                    tracing::warn!(file = name, error = %e, "closing a journal file");
                }
            }
        }
        Ok(())
    }
}

/// Epoch and month of a file.
pub fn month_of(file_name: &str) -> Option<(u64, String)> {
    let name = file_name.strip_prefix("journal-")?.strip_suffix(".redb")?;
    let (month, epoch) = match name.split_once("-e") {
        None => (name, 0),
        Some((month, epoch)) => (month, epoch.parse().ok().filter(|n: &u64| *n > 0 && n.to_string() == epoch)?),
    };
    let shape = month.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    (month.len() == 7 && shape).then(|| (epoch, month.to_string()))
}
