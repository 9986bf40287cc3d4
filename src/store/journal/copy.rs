//! Copies a journal file while it is written: in short read transactions, into a fresh file, which compacts it too.
//!
//! What a month's file has only grows, but for its last stretch and the tree's edge. So everything before the last
//! stretch is copied in chunks, each as of its own instant, and the rest (the last stretch, the edge, what is small) in
//! one last transaction: the copy is the file as of that one. A plain copy of an open file would be torn.

use std::time::{Duration, Instant};

use redb::{ReadTransaction, TableHandle, WriteTransaction};

use crate::ledger::tree::Tree;
use crate::store::StoreError;
use crate::store::media::{File, Media, catch};
use crate::store::small::{close, copy_table};

use super::read::edge_of;
use super::{
    BLOCKS, CATALOGUES, CHECKPOINTS, COSIGNATURES, EDGE, GROUPS, Journal, META, NEEDS_LOG, PERSONS, SNAPSHOTS, TILES,
    absent, damaged, explain, number, reading,
};

/// One chunk, at most about: what keeps a read transaction short.
const MOST_BYTES: usize = 4 << 20;
const MOST_TIME: Duration = Duration::from_millis(50);
/// Levels of tiles: 256⁸ entries are more than there can be.
const LEVELS: u8 = 8;

/// What a copied file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Entries of the epoch up to its end.
    pub size: u64,
    pub root: [u8; 32],
}

/// Where the next chunk goes on, and what is left of this one.
struct Chunk {
    block: u64,
    tiles: [u64; LEVELS as usize],
    checkpoint: u64,
    bytes: usize,
    since: Instant,
    /// The last one: everything that is left.
    last: bool,
}

impl Chunk {
    fn took(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        !self.last && (self.bytes >= MOST_BYTES || self.since.elapsed() >= MOST_TIME)
    }
}

impl Journal {
    /// The folder this journal is in.
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// Names of the files that have entries, oldest first. One made ready for a month to come is not among them.
    pub fn file_names(&self) -> Vec<String> {
        self.lock().iter().map(super::Month::file_name).collect()
    }

    /// Copies one of the files into another folder, under its name. Commits and feeds go on meanwhile.
    pub fn copy_file(&self, name: &str, to: &Media) -> Result<Copied, StoreError> {
        let copy = to.make_alone(name)?;
        let now = Instant::now();
        let mut chunk = Chunk { block: 0, tiles: [0; 8], checkpoint: 0, bytes: 0, since: now, last: false };
        while self.copy_chunk(name, &copy, &mut chunk)?.is_none() {}
        self.feed_all()?;
        chunk.last = true;
        let copied = self.copy_chunk(name, &copy, &mut chunk)?;
        close(name, copy)?;
        copied.ok_or_else(|| damaged(name, "the tree's edge is missing"))
    }

    fn open_file(&self, name: &str) -> Result<std::sync::Arc<File>, StoreError> {
        let place = self.lock().iter().position(|month| month.file_name() == name);
        let found = place.map(|place| self.file_at(place)).transpose()?.flatten();
        found.map(|(_, file)| file).ok_or(StoreError::Closed)
    }

    /// One read transaction's part of the copy; what the copy has by now, unless more was left than one chunk takes.
    fn copy_chunk(&self, name: &str, copy: &File, chunk: &mut Chunk) -> Result<Option<Copied>, StoreError> {
        let File::Writable(copy) = copy else { return Err(StoreError::Closed) };
        (chunk.bytes, chunk.since) = (0, Instant::now());
        let begin = || {
            let mut out = copy.begin_write()?;
            // A copy that a crash interrupts is of no use anyway: only the last write waits for the disk.
            let durability = if chunk.last { redb::Durability::Immediate } else { redb::Durability::None };
            out.set_durability(durability)?;
            out.set_quick_repair(chunk.last);
            Ok::<_, redb::Error>(out)
        };
        let out = catch(name, begin)?.map_err(|e| explain(name, e))?;
        let file = self.open_file(name)?;
        let edge = reading(name, &file, |source| {
            let Some(edge) = source.open_table(EDGE)?.get(self.epoch)?.map(|value| value.value().to_vec()) else {
                return Ok(None);
            };
            let whole = self.copy_growing(source, &out, chunk, number(&edge, 1).unwrap_or(0))?;
            if chunk.last {
                copy_rest(source, &out)?;
            }
            Ok(whole.then_some(edge))
        })?;
        catch(name, || out.commit())?.map_err(|e| explain(name, e.into()))?;
        let Some(edge) = edge else { return Ok(None) };
        let (size, edge) = edge_of(name, &edge)?;
        let tree = Tree::from_edge(size, edge).map_err(|e| damaged(name, e.to_string()))?;
        Ok(Some(Copied { size, root: tree.root() }))
    }

    /// The tables that grow at their end; false where the chunk was full before all was copied.
    fn copy_growing(
        &self,
        source: &ReadTransaction,
        out: &WriteTransaction,
        chunk: &mut Chunk,
        size: u64,
    ) -> Result<bool, redb::Error> {
        Ok(self.copy_blocks(source, out, chunk)?
            && self.copy_tiles(source, out, chunk)?
            && self.copy_checkpoints(source, out, chunk, size)?)
    }

    fn copy_blocks(
        &self,
        source: &ReadTransaction,
        out: &WriteTransaction,
        chunk: &mut Chunk,
    ) -> Result<bool, redb::Error> {
        let epoch = self.epoch;
        let (blocks, groups) = (source.open_table(BLOCKS)?, source.open_table(GROUPS)?);
        let (mut to_blocks, mut to_groups) = (out.open_table(BLOCKS)?, out.open_table(GROUPS)?);
        let last = blocks.range((epoch, 0)..=(epoch, u64::MAX))?.next_back().transpose()?.map(|row| row.0.value().1);
        for row in blocks.range((epoch, chunk.block)..=(epoch, u64::MAX))? {
            let (key, block) = row?;
            let first = key.value().1;
            // It may still grow.
            if Some(first) == last && !chunk.last {
                break;
            }
            to_blocks.insert((epoch, first), block.value())?;
            chunk.took(block.value().len());
            for group in 1..=4u8 {
                if let Some(value) = groups.get((epoch, first, group))? {
                    to_groups.insert((epoch, first, group), value.value())?;
                    chunk.took(value.value().len());
                }
            }
            chunk.block = first + 1;
            if chunk.is_full() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn copy_tiles(
        &self,
        source: &ReadTransaction,
        out: &WriteTransaction,
        chunk: &mut Chunk,
    ) -> Result<bool, redb::Error> {
        let epoch = self.epoch;
        let mut to = out.open_table(TILES)?;
        let Some(tiles) = absent(source.open_table(TILES))? else { return Ok(true) };
        for level in 0..LEVELS {
            let next = chunk.tiles[usize::from(level)];
            for row in tiles.range((epoch, level, next)..=(epoch, level, u64::MAX))? {
                let (key, tile) = row?;
                to.insert(key.value(), tile.value())?;
                chunk.took(tile.value().len());
                chunk.tiles[usize::from(level)] = key.value().2 + 1;
                if chunk.is_full() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Only of trees that the file has: those of entries that are still pending come with them, or not at all.
    fn copy_checkpoints(
        &self,
        source: &ReadTransaction,
        out: &WriteTransaction,
        chunk: &mut Chunk,
        size: u64,
    ) -> Result<bool, redb::Error> {
        let epoch = self.epoch;
        let mut to = out.open_table(CHECKPOINTS)?;
        let Some(notes) = absent(source.open_table(CHECKPOINTS))? else { return Ok(true) };
        if chunk.checkpoint > size {
            return Ok(true);
        }
        for row in notes.range((epoch, chunk.checkpoint)..=(epoch, size))? {
            let (key, note) = row?;
            to.insert(key.value(), note.value())?;
            chunk.took(note.value().len());
            chunk.checkpoint = key.value().1 + 1;
            if chunk.is_full() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a month begins with and what is small. A table of another name would be missing in the copy: that is an error.
fn copy_rest(source: &ReadTransaction, out: &WriteTransaction) -> Result<(), redb::Error> {
    for table in [EDGE, SNAPSHOTS, CATALOGUES, PERSONS] {
        copy_table(source, out, table)?;
    }
    copy_table(source, out, META)?;
    out.open_table(META)?.remove(NEEDS_LOG)?;
    copy_table(source, out, COSIGNATURES)?;
    let copied: Vec<String> = out.list_tables()?.map(|table| table.name().to_owned()).collect();
    match source.list_tables()?.find(|table| !copied.iter().any(|name| name == table.name())) {
        Some(unknown) => Err(redb::Error::TableDoesNotExist(unknown.name().to_owned())),
        None => Ok(()),
    }
}
