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
//! | `meta.v1` | name | `format`: 1 (8 bytes); `month`: text; `genesis`: epoch (8), first sequence (8), root before it (32); `before`: entries of earlier epochs (8) |
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

pub mod copy;
pub mod feed;
pub mod log;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Durability, ReadTransaction, TableDefinition, WriteTransaction};

use super::StoreError;
use super::block::{self, Raw};
use super::media::{File, HOT_CACHE, Media, catch};
use super::snapshot::Part;
use super::tiles::{Tile, tile_end};
use super::writer::unpoisoned;
use feed::Growing;
use log::{Appended, Log};

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

#[derive(Clone)]
struct Month {
    epoch: u64,
    name: String,
    file: Option<Arc<File>>,
    /// Sequence of its first entry, once looked up.
    first: Option<u64>,
}

impl Month {
    fn file_name(&self) -> String {
        match self.epoch {
            0 => format!("journal-{}.redb", self.name),
            epoch => format!("journal-{}-e{epoch}.redb", self.name),
        }
    }
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

    /// Opens a month's file and reads where it begins.
    fn look_into(&self, month: &mut Month, newest: bool) -> Result<(), StoreError> {
        let name = month.file_name();
        let file = match (&month.file, newest && self.mode == Mode::Write) {
            (Some(file), _) => file.clone(),
            (None, true) => Arc::new(self.media.open(&name, HOT_CACHE)?),
            (None, false) => Arc::new(self.media.open_read_only(&name)?),
        };
        if month.first.is_none() {
            month.first = self.read_beginning(&name, &file)?;
        }
        month.file = Some(file);
        Ok(())
    }

    /// First sequence of a file, after its format was found to be one we know.
    fn read_beginning(&self, name: &str, file: &File) -> Result<Option<u64>, StoreError> {
        reading(name, file, |txn| {
            let Some(meta) = absent(txn.open_table(META))? else { return Ok(None) };
            let format = meta.get("format")?.and_then(|v| number(v.value(), 0));
            let genesis = meta.get("genesis")?.and_then(|v| Some((number(v.value(), 0)?, number(v.value(), 8)?)));
            Ok(format.zip(genesis))
        })
        .and_then(|found| match found {
            None => Ok(None),
            Some((format, _)) if format > FORMAT => {
                Err(StoreError::Newer { file: name.into(), found: format, known: FORMAT })
            }
            Some((_, (epoch, first))) if epoch == self.epoch => Ok(Some(first)),
            Some((_, (epoch, _))) => Err(damaged(name, format!("it is of epoch {epoch}, not {}", self.epoch))),
        })
    }

    /// The month being written, if any entry was ever written.
    pub fn month(&self) -> Option<String> {
        self.lock().last().map(|m| m.name.clone())
    }

    /// Names of the months there are, oldest first.
    pub fn months(&self) -> Vec<String> {
        self.lock().iter().map(|m| m.name.clone()).collect()
    }

    /// The open file of a month, by its place in the list.
    fn file(&self, months: &mut [Month], place: usize) -> Result<(String, Arc<File>), StoreError> {
        let newest = place + 1 == months.len();
        if !newest && months[place].file.is_none() {
            let open: Vec<usize> = (0..months.len() - 1).filter(|&i| months[i].file.is_some()).collect();
            // Far past months are read rarely and in order: the one farthest away is not needed soon.
            if open.len() >= OPEN_PAST
                && let Some(&farthest) = open.iter().max_by_key(|&&i| i.abs_diff(place))
            {
                months[farthest].file = None;
            }
        }
        let mut month = months[place].clone();
        self.look_into(&mut month, newest)?;
        months[place] = month.clone();
        let file = month.file.clone().ok_or(StoreError::Closed)?;
        Ok((month.file_name(), file))
    }

    /// The file that has the entry `seq`, and the place of its month.
    fn file_of(&self, seq: u64) -> Result<Option<(String, Arc<File>, usize)>, StoreError> {
        let mut months = self.lock();
        for place in (0..months.len()).rev() {
            if months[place].first.is_none() {
                self.file(&mut months, place)?;
            }
            if months[place].first.is_some_and(|first| first <= seq) {
                let (name, file) = self.file(&mut months, place)?;
                return Ok(Some((name, file, place)));
            }
        }
        Ok(None)
    }

    /// The file that has the entry `seq`, by name.
    pub fn file_name_of(&self, seq: u64) -> Option<String> {
        self.file_of(seq).ok().flatten().map(|(name, ..)| name)
    }

    fn file_at(&self, place: usize) -> Result<Option<(String, Arc<File>)>, StoreError> {
        let mut months = self.lock();
        if place >= months.len() { Ok(None) } else { self.file(&mut months, place).map(Some) }
    }

    /// Sequence of the oldest entry there is: 0 until a month is dropped.
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
        let mut months = self.lock();
        if months.is_empty() {
            return Ok(None);
        }
        self.file(&mut months, 0)?;
        Ok(months[0].first)
    }

    /// The newest month's file.
    fn newest(&self) -> Result<(String, Arc<File>), StoreError> {
        let mut months = self.lock();
        let last = months.len().checked_sub(1).ok_or(StoreError::Closed)?;
        self.file(&mut months, last)
    }

    /// Lets go of the newest month's file: after an error its handle is of no more use.
    fn drop_newest(&self) {
        if let Some(month) = self.lock().last_mut() {
            month.file = None;
        }
    }

    /// Size and right edge of the tree as the files have it.
    fn edge(&self) -> Result<Option<Edge>, StoreError> {
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

    /// Keeps a signed note in the month being written, between two feeds. Its entries may still be pending.
    pub fn put_checkpoint(&self, size: u64, note: &str) -> Result<(), StoreError> {
        let _not_growing = unpoisoned(self.growing.lock());
        let (name, file) = self.newest()?;
        writing(&name, &file, |txn| {
            txn.open_table(CHECKPOINTS)?.insert((self.epoch, size), note.as_bytes())?;
            Ok(())
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
        let mut malformed = None;
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
                        malformed = Some(format!("block {first}: {what}"));
                        return Ok(());
                    }
                };
                let base = entries.len();
                let skip = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
                if first > next {
                    malformed = Some(format!("entry {next} is missing: the next block begins with {first}"));
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
                            Err(what) => malformed = Some(format!("group {group} of block {first}: {what}")),
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
        match malformed {
            Some(what) => Err(damaged(name, what)),
            None => Ok(next),
        }
    }

    /// Begins a month: makes its file and writes its beginning together with its first commit. Everything before it is
    /// in the file of the month before.
    pub fn begin(&self, opening: &Opening<'_>, first: Pending) -> Result<(), StoreError> {
        self.feed_all()?;
        let mut growing = unpoisoned(self.growing.lock());
        let mut month = Month { epoch: self.epoch, name: opening.month.into(), file: None, first: Some(opening.first) };
        let name = month.file_name();
        self.clear_ahead(opening.month)?;
        let ahead = unpoisoned(self.ahead.lock()).take();
        let (file, has) = match ahead {
            Some(Ahead { file, catalogue, .. }) => (file, Some(catalogue)),
            None => (self.make(&name)?, None),
        };
        let catalogue = opening.catalogue.filter(|part| has != Some(part.sha256));
        let mut stretches = Vec::new();
        block::Builder::stretch(&mut stretches, &first.commit).map_err(|what| damaged(&name, what))?;
        let first = [Arc::new(first)];
        writing(&name, &file, |txn| {
            txn.open_table(CHECKPOINTS)?;
            txn.open_table(COSIGNATURES)?;
            txn.open_table(TILES)?;
            let mut meta = txn.open_table(META)?;
            meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
            meta.insert("month", opening.month.as_bytes())?;
            let mut genesis = Vec::with_capacity(48);
            genesis.extend_from_slice(&self.epoch.to_le_bytes());
            genesis.extend_from_slice(&opening.first.to_le_bytes());
            genesis.extend_from_slice(&opening.root);
            meta.insert("genesis", genesis.as_slice())?;
            meta.insert("before", self.before.to_le_bytes().as_slice())?;
            let mut snapshots = txn.open_table(SNAPSHOTS)?;
            if let Some(snapshot) = opening.snapshot {
                snapshots.insert(self.epoch, snapshot)?;
            }
            if let Some(part) = catalogue {
                txn.open_table(CATALOGUES)?.insert(self.epoch, part.bytes.as_slice())?;
            }
            let mut carried = txn.open_table(PERSONS)?;
            if let Some(persons) = opening.persons {
                carried.insert(self.epoch, persons)?;
            }
            self.write_stretches(txn, &stretches, &first)
        })?;
        self.fed.store(first[0].end(), Ordering::SeqCst);
        *growing = Growing::Unknown;
        month.file = Some(file);
        let mut months = self.lock();
        // The month before is read-only from now on: its handle goes when its last reader has.
        if let Some(past) = months.last_mut() {
            past.file = None;
        }
        months.push(month);
        Ok(())
    }

    fn make(&self, name: &str) -> Result<Arc<File>, StoreError> {
        let file = Arc::new(self.media.open(name, HOT_CACHE)?);
        self.media.sync_names().map_err(|e| StoreError::Unwritable(e.to_string()))?;
        Ok(file)
    }

    /// Makes the file of a month to come, with the catalogue it will most likely begin with. Until it begins the file does
    /// not count: a start passes over it, and [`Journal::begin`] goes on with it or replaces what is in it.
    pub fn prepare(&self, month: &str, part: &Part) -> Result<(), StoreError> {
        let name = Month { epoch: self.epoch, name: month.into(), file: None, first: None }.file_name();
        // Held all the while, so that the month does not begin in the middle of it.
        let mut ahead = unpoisoned(self.ahead.lock());
        if self.month().is_some_and(|current| current.as_str() >= month) {
            return Ok(());
        }
        let file = match ahead.take().filter(|ahead| ahead.month == month) {
            Some(ahead) => ahead.file,
            None => self.make(&name)?,
        };
        writing(&name, &file, |txn| {
            txn.open_table(CATALOGUES)?.insert(self.epoch, part.bytes.as_slice())?;
            Ok(())
        })?;
        *ahead = Some(Ahead { month: month.into(), file, catalogue: part.sha256 });
        Ok(())
    }

    /// Takes files away that were made ready for months that did not come.
    fn clear_ahead(&self, month: &str) -> Result<(), StoreError> {
        let mut ahead = unpoisoned(self.ahead.lock());
        if ahead.as_ref().is_some_and(|ahead| ahead.month != month) {
            *ahead = None;
        }
        let last = self.month().unwrap_or_default();
        for name in self.media.names()? {
            let of_ours = month_of(&name).filter(|(epoch, _)| *epoch == self.epoch).map(|(_, other)| other);
            if of_ours.is_some_and(|other| other > last && other != month) {
                self.media.remove_file(&name);
            }
        }
        Ok(())
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
fn edge_of(name: &str, value: &[u8]) -> Result<Edge, StoreError> {
    match (value.first(), number(value, 1), value.get(9..).map(<[u8]>::as_chunks::<32>)) {
        (Some(1), Some(size), Some((hashes, []))) => Ok((size, hashes.to_vec())),
        _ => Err(damaged(name, "the tree's edge is not of a known form")),
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

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn damaged(file: &str, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { file: file.into(), what: what.into() }
}

/// `None` where the table was never made.
fn absent<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, redb::TableError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Runs `f` in a read transaction; redb's errors and panics become ours.
pub fn reading<T>(
    name: &str,
    file: &File,
    f: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    catch(name, || f(&file.read()?))?.map_err(|e| explain(name, e))
}

/// Runs `f` in a write transaction and commits it, durable when this returns.
pub fn writing<T>(
    name: &str,
    file: &File,
    f: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let File::Writable(db) = file else {
        return Err(StoreError::Unwritable(format!("`{name}` is open for reading only")));
    };
    let write = || {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        let result = f(&txn)?;
        txn.commit()?;
        Ok::<T, redb::Error>(result)
    };
    catch(name, write)?.map_err(|e| explain(name, e))
}

/// redb's error in our words.
pub fn explain(name: &str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. } => damaged(name, error.to_string()),
        redb::Error::Io(e) => StoreError::io(name, &e),
        other => StoreError::Unwritable(format!("`{name}`: {other}")),
    }
}

/// Makes a file claim another format.
#[cfg(test)]
pub fn set_format(media: &Media, name: &str, format: u64) {
    let file = media.open(name, super::media::COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        Ok(txn.open_table(META)?.insert("format", format.to_le_bytes().as_slice()).map(drop)?)
    })
    .unwrap();
}

/// Stores a month's blocks as the version before the log did: one for each commit, unpacked.
#[cfg(test)]
pub fn store_as_before_the_log(media: &Media, name: &str) {
    use redb::ReadableTable;

    let journal = Journal::open(media.clone(), Mode::Write).unwrap();
    let entries = journal.read(0, usize::MAX, true).unwrap();
    journal.close().unwrap();
    let file = media.open(name, super::media::COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        txn.delete_table(GROUPS)?;
        let mut groups = txn.open_table(GROUPS)?;
        let mut blocks = txn.open_table(BLOCKS)?;
        let keys: Vec<(u64, u64)> =
            blocks.iter()?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
        for key in &keys {
            blocks.remove(key)?;
        }
        let mut rest = entries.as_slice();
        for size in (1..=3).cycle() {
            let (commit, after) = rest.split_at(size.min(rest.len()));
            let Some(first) = commit.first() else { break };
            let mut builder = block::Builder::new(first.seq);
            commit.iter().for_each(|e| builder.push(crate::domain::Micros(0), &e.raw, &e.groups));
            blocks.insert((keys[0].0, first.seq), builder.block.as_slice())?;
            for (group, value) in (1u8..).zip(&builder.groups).filter(|(_, value)| !value.is_empty()) {
                groups.insert((keys[0].0, first.seq, group), value.as_slice())?;
            }
            rest = after;
        }
        Ok(())
    })
    .unwrap();
}

/// Writes a month's entries anew, as someone with the file and without the key would. Groups 1 to 4 go: they would have
/// to be moved with their entries.
#[cfg(test)]
pub fn rewrite(media: &Media, name: &str, change: impl FnOnce(&mut Vec<Raw>)) {
    use redb::ReadableTable;

    let file = media.open(name, super::media::COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        txn.delete_table(GROUPS)?;
        txn.open_table(GROUPS)?;
        let mut blocks = txn.open_table(BLOCKS)?;
        let keys: Vec<(u64, u64)> =
            blocks.iter()?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
        let mut entries = Vec::new();
        for key in &keys {
            entries.extend(block::read_block(blocks.remove(key)?.unwrap().value()).unwrap());
        }
        change(&mut entries);
        let mut builder = block::Builder::new(keys[0].1);
        entries.iter().for_each(|raw| builder.push(crate::domain::Micros(0), raw, &[]));
        blocks.insert(keys[0], builder.block.as_slice())?;
        Ok(())
    })
    .unwrap();
}
