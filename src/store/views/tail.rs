//! Entries that are in the journal and not yet in the file: bounded, in memory, in order.

use std::collections::VecDeque;

use super::Block;

/// Most entries kept. More are dropped and read from the journal again.
pub const MOST_ENTRIES: usize = if cfg!(test) { 4_096 } else { 65_536 };

/// The entries of `from..end`; the file has those before `applied`. Where `applied < from`, what lies between is only in
/// the journal.
pub struct Tail {
    blocks: VecDeque<Block>,
    entries: usize,
    from: u64,
    end: u64,
    applied: u64,
    pub closing: bool,
    /// Write what there is before stopping.
    pub drain: bool,
}

/// What a reader has to fold.
pub enum Pending {
    /// Blocks that have the entries from the one asked for on, perhaps with some before it.
    Blocks(Vec<Block>),
    /// The tail begins later; the journal has what comes before this end.
    Missing(u64),
    /// The file is further than the reader's transaction.
    Moved,
}

impl Tail {
    pub fn new(applied: u64, journal_size: u64) -> Tail {
        Tail {
            blocks: VecDeque::new(),
            entries: 0,
            from: journal_size,
            end: journal_size,
            applied,
            closing: false,
            drain: false,
        }
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The journal's size, as far as it is known here.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn unapplied(&self) -> u64 {
        self.end.saturating_sub(self.applied)
    }

    /// Takes a block. One that does not follow on, or does not fit, empties the tail: the journal has it all.
    pub fn push(&mut self, block: Block) {
        let (Some((first, _)), Some((last, _))) = (block.first(), block.last()) else { return };
        if first.seq != self.end || self.entries + block.len() > MOST_ENTRIES {
            self.blocks.clear();
            self.entries = 0;
            self.from = first.seq;
        }
        if block.len() > MOST_ENTRIES {
            (self.from, self.end) = (last.seq + 1, last.seq + 1);
            return;
        }
        self.end = last.seq + 1;
        self.entries += block.len();
        self.blocks.push_back(block);
    }

    /// What to fold for a reader whose transaction has `applied` entries, from the entry `from` on.
    pub fn after(&self, applied: u64, from: u64) -> Pending {
        if self.applied > applied {
            return Pending::Moved;
        }
        if from >= self.end {
            return Pending::Blocks(Vec::new());
        }
        if from < self.from {
            return Pending::Missing(self.end);
        }
        let mut wanted: Vec<Block> = self.blocks.iter().rev().take_while(|b| ends(b) > from).cloned().collect();
        wanted.reverse();
        Pending::Blocks(wanted)
    }

    pub fn blocks(&self) -> Vec<Block> {
        self.blocks.iter().cloned().collect()
    }

    /// Where the follower goes on, and about `most` entries from there; none if only the journal has them.
    pub fn batch(&self, most: usize) -> (u64, Vec<Block>) {
        let mut entries = 0;
        let mut batch = Vec::new();
        if self.applied >= self.from {
            for block in self.blocks.iter().skip_while(|b| ends(b) <= self.applied) {
                if entries > 0 && entries + block.len() > most {
                    break;
                }
                entries += block.len();
                batch.push(block.clone());
            }
        }
        (self.applied, batch)
    }

    /// The file has every entry before `end` now.
    pub fn applied_to(&mut self, end: u64) {
        self.applied = end;
        while self.blocks.front().is_some_and(|b| ends(b) <= end) {
            if let Some(block) = self.blocks.pop_front() {
                self.entries -= block.len();
                self.from = ends(&block);
            }
        }
        if self.blocks.is_empty() {
            self.from = self.from.max(end);
            self.end = self.end.max(end);
        }
    }

    /// The file was opened again and has only so many entries.
    pub fn restart(&mut self, applied: u64) {
        self.applied = applied;
    }
}

fn ends(block: &Block) -> u64 {
    block.last().map_or(0, |(entry, _)| entry.seq + 1)
}
