//! All epochs of a folder as one row of entries: what lists and sums are made of.
//!
//! An entry's *position* is its sequence plus the entries of the epochs before it: in the first epoch, the only one most
//! ledgers ever have, both are the same. Views, cursors and receipts go by position, so that a call is found in whatever
//! epoch it began; trees, checkpoints and proofs go by epoch and sequence, as the entries themselves say.

use std::sync::Arc;

use crate::ledger::entry::{Body, Entry, Erasable};
use crate::ledger::tree;

use super::journal::{Journal, Mode};
use super::media::Media;
use super::reader::{MAX_READ, Reader};
use super::{Head, StoreError};

/// The epochs before the present one, oldest first, and the present one.
pub struct History {
    past: Vec<Past>,
    current: Arc<Reader>,
}

struct Past {
    reader: Arc<Reader>,
    size: u64,
    /// By the right edge that was stored with the last entry.
    root: [u8; 32],
}

/// Where an entry is.
pub struct Spot<'a> {
    pub reader: &'a Arc<Reader>,
    /// In its epoch.
    pub seq: u64,
    /// Entries of its epoch; absent in the present one, which grows.
    pub size: Option<u64>,
}

/// Size and root of an epoch's tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    pub size: u64,
    pub root: [u8; 32],
}

impl Past {
    fn open(media: &Media, current: &Reader, epoch: u64) -> Result<Past, StoreError> {
        let journal = Journal::open_epoch(media.clone(), Mode::Read, epoch)?;
        let (size, edge) = journal.last_edge()?.unwrap_or_default();
        let tree = tree::Tree::from_edge(size, edge);
        let root = tree.map_err(|e| StoreError::Damaged { file: "journal".into(), what: e.to_string() })?.root();
        let reader = Arc::new(Reader { journal: Arc::new(journal), keys: current.keys.clone() });
        Ok(Past { reader, size, root })
    }
}

impl History {
    pub fn open(media: &Media, current: Arc<Reader>) -> Result<History, StoreError> {
        let mut past = Vec::new();
        for epoch in Journal::epochs(media)?.into_iter().filter(|epoch| *epoch < current.journal.epoch) {
            match Past::open(media, &current, epoch) {
                Ok(opened) => past.push(opened),
                Err(error) => tracing::error!(%error, epoch, "an older epoch of the journal cannot be read"),
            }
        }
        Ok(History { past, current })
    }

    /// The journals of all epochs that can be read, the present one last.
    pub fn journals(&self) -> impl Iterator<Item = &Arc<Journal>> {
        self.past.iter().map(|past| &past.reader.journal).chain([&self.current.journal])
    }

    /// Every epoch with its tree, the present one as of `head`.
    pub fn epochs(&self, head: &Head) -> Vec<(Arc<Reader>, Tree)> {
        let past = self.past.iter().map(|past| (past.reader.clone(), Tree { size: past.size, root: past.root }));
        past.chain([(self.current.clone(), Tree { size: head.size, root: head.root })]).collect()
    }

    /// The entry at a position, or the first one after it.
    pub fn spot(&self, position: u64) -> Spot<'_> {
        let past = self.past.iter().find(|past| position < past.reader.journal.before + past.size);
        match past {
            Some(Past { reader, size, .. }) => {
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
