//! What is written beside the commits: a month's beginning, the file of the month to come, checkpoints.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::store::StoreError;
use crate::store::block;
use crate::store::media::{File, HOT_CACHE};
use crate::store::snapshot::Part;
use crate::store::writer::unpoisoned;

use super::feed::Growing;
use super::{
    Ahead, CATALOGUES, CHECKPOINTS, COSIGNATURES, FORMAT, Journal, META, Month, NEEDS_LOG, Opening, PERSONS, Pending,
    SNAPSHOTS, TILES, damaged, month_of, writing,
};

impl Journal {
    /// Keeps a signed note in the month being written, between two feeds. Its entries may still be pending.
    pub fn put_checkpoint(&self, size: u64, note: &str) -> Result<(), StoreError> {
        let _not_growing = unpoisoned(self.growing.lock());
        let (name, file) = self.newest()?;
        writing(&name, &file, |txn| {
            txn.open_table(CHECKPOINTS)?.insert((self.epoch, size), note.as_bytes())?;
            Ok(())
        })
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
            meta.insert(NEEDS_LOG, [1].as_slice())?;
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
}
