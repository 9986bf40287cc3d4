//! All epochs of a folder as one row of entries: what lists and sums are made of.
//!
//! An entry's *position* is its sequence plus the entries of the epochs before it: in the first epoch, the only one most
//! ledgers ever have, both are the same. Views, cursors and receipts go by position, so that a call is found in whatever
//! epoch it began; trees, checkpoints and proofs go by epoch and sequence, as the entries themselves say.

use std::sync::Arc;

use crate::ledger::entry::{Body, Entry, Erasable};

use super::StoreError;
use super::journal::{Journal, Mode};
use super::media::Media;
use super::reader::{MAX_READ, Reader};

/// The epochs before the present one, oldest first, and the present one.
pub struct History {
    past: Vec<Past>,
    current: Arc<Reader>,
}

struct Past {
    reader: Arc<Reader>,
    size: u64,
}

/// Where an entry is.
pub struct Spot<'a> {
    pub reader: &'a Arc<Reader>,
    /// In its epoch.
    pub seq: u64,
    /// Entries of its epoch; absent in the present one, which grows.
    pub size: Option<u64>,
}

impl History {
    pub fn open(media: &Media, current: Arc<Reader>) -> Result<History, StoreError> {
        let mut past = Vec::new();
        for epoch in Journal::epochs(media)?.into_iter().filter(|epoch| *epoch < current.journal.epoch) {
            match Journal::open_epoch(media.clone(), Mode::Read, epoch) {
                Ok(journal) => {
                    let size = journal.size();
                    past.push(Past {
                        reader: Arc::new(Reader { journal: Arc::new(journal), keys: current.keys.clone() }),
                        size,
                    });
                }
                Err(error) => tracing::error!(%error, epoch, "an older epoch of the journal cannot be read"),
            }
        }
        Ok(History { past, current })
    }

    /// The entry at a position, or the first one after it.
    pub fn spot(&self, position: u64) -> Spot<'_> {
        let past = self.past.iter().find(|past| position < past.reader.journal.before + past.size);
        match past {
            Some(Past { reader, size }) => {
                Spot { reader, seq: position.saturating_sub(reader.journal.before), size: Some(*size) }
            }
            None => {
                Spot { reader: &self.current, seq: position.saturating_sub(self.current.journal.before), size: None }
            }
        }
    }

    /// Entries from a position on, at most `limit`, numbered by position.
    pub fn entries(&self, from: u64, limit: usize) -> Result<Vec<(Entry, Erasable)>, StoreError> {
        let limit = limit.min(MAX_READ);
        let mut entries: Vec<(Entry, Erasable)> = Vec::new();
        while entries.len() < limit {
            let next = entries.last().map_or(from, |(entry, _)| entry.seq + 1);
            let spot = self.spot(next);
            let left = spot.size.map_or(u64::MAX, |size| size - spot.seq);
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(limit - entries.len());
            let read = spot.reader.entries(spot.seq, wanted)?;
            if read.is_empty() {
                break;
            }
            entries.extend(self.positioned(spot.reader, read));
            if spot.size.is_none() {
                break;
            }
        }
        Ok(entries)
    }

    fn positioned(&self, reader: &Reader, read: Vec<(Entry, Erasable)>) -> Vec<(Entry, Erasable)> {
        let mut entries = reader.positioned(read);
        // The first entries of an epoch may name calls of an earlier one.
        for (entry, _) in &mut entries {
            if let Body::CutOff { epoch, admit, .. } = &entry.body {
                let earlier = self.past.iter().find(|past| past.reader.journal.epoch == *epoch);
                entry.reference = earlier.map(|past| past.reader.journal.before + admit);
            }
        }
        entries
    }
}
