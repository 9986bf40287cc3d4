//! The follower: keeps the file up to date, batch by batch.
//!
//! Near the journal's end it takes what the writer left in the tail, already decoded. Far behind (a new file, a long
//! absence) it reads the journal, and then another thread reads and decodes ahead of it. A commit is made durable now and
//! then; what a crash takes with it is folded again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ledger::entry::{Entry, Erasable};
use crate::store::StoreError;

use super::fold::Delta;
use super::tables::{Reader, damaged};
use super::{Inner, Journal, tail, write};

/// Entries in one batch of the follower.
pub const BATCH: usize = if cfg!(test) { 512 } else { 8_192 };
/// Entries after which a commit is durable.
const DURABLE_ENTRIES: u64 = 16 * BATCH as u64;
/// Batches after which a commit is durable, however small they were.
const DURABLE_BATCHES: u32 = 16;
/// How long the follower lets entries gather before it writes them.
const GATHER: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });
/// Pause after a failure, before the follower tries again.
const RETRY: Duration = Duration::from_secs(1);
/// Batches decoded ahead.
const AHEAD: usize = 2;

/// Time between two rebuilds that readers ask for: what is still wrong after one is not the file's fault.
const REBUILD: Duration = Duration::from_secs(600);

/// What the follower remembers between batches.
#[derive(Default)]
struct Progress {
    ahead: Option<Ahead>,
    /// Since the last durable commit.
    entries: u64,
    batches: u32,
}

/// What there is to do.
enum Next {
    Batch,
    /// What is left before stopping.
    LastBatch,
    /// The file is of no use any more.
    Rebuild,
    Stop,
}

impl Inner {
    /// The follower's life: wait, gather, write, until it is told to stop.
    pub(super) fn follow(&self) {
        let mut progress = Progress::default();
        let mut rebuilt: Option<Instant> = None;
        loop {
            let closing = match self.next() {
                Next::Stop => return,
                Next::Rebuild if rebuilt.is_some_and(|at| at.elapsed() < REBUILD) => continue,
                Next::Rebuild => {
                    rebuilt = Some(Instant::now());
                    progress = Progress::default();
                    self.rebuild("a reader found it damaged, or it was removed");
                    continue;
                }
                Next::Batch => false,
                Next::LastBatch => true,
            };
            let done = catch_unwind(AssertUnwindSafe(|| self.apply_batch(&mut progress, closing)));
            let error = match done {
                Ok(Ok(())) => {
                    self.out_of_trouble();
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => damaged("a page cannot be read"),
            };
            self.in_trouble(&error);
            if closing {
                return;
            }
            progress = Progress::default();
            self.pause();
            self.reopen();
        }
    }

    /// Waits until there is something to do.
    fn next(&self) -> Next {
        let mut tail = self.tail();
        let mut gathered = false;
        loop {
            if tail.closing {
                // What is far behind is being built anew: the next start goes on with it.
                let near = (1..=tail::MOST_ENTRIES as u64).contains(&tail.unapplied());
                return if tail.drain && near { Next::LastBatch } else { Next::Stop };
            }
            if self.suspect.swap(false, Ordering::SeqCst) {
                return Next::Rebuild;
            }
            if tail.unapplied() >= BATCH as u64 || (gathered && tail.unapplied() > 0) {
                return Next::Batch;
            }
            if tail.unapplied() == 0 {
                tail = self.moved.wait(tail).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.moved.wait_timeout_while(tail, GATHER, |t| !t.closing && t.unapplied() < BATCH as u64);
            tail = waited.unwrap_or_else(PoisonError::into_inner).0;
            gathered = true;
        }
    }

    /// Begins a new file. Who still reads the old one keeps its handle.
    fn rebuild(&self, why: &str) {
        let Some(file) = &self.file else { return };
        if let Err(error) = std::fs::remove_file(file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(%error, "views.redb cannot be removed");
        }
        tracing::warn!(why, "views.redb is built anew from the journal");
        self.reopen();
    }

    /// One batch, for who has no follower.
    pub(super) fn step(&self) -> Result<(), StoreError> {
        self.apply_batch(&mut Progress::default(), false)
    }

    fn apply_batch(&self, progress: &mut Progress, closing: bool) -> Result<(), StoreError> {
        let db = self.database();
        let (from, mut blocks) = self.tail().batch(BATCH);
        if blocks.is_empty() {
            blocks.push(Arc::new(self.read(progress, from)?));
        } else {
            progress.ahead = None;
        }
        let batch = {
            let reader = Reader::open(&db, &self.sets)?;
            let mut delta = Delta::default();
            for block in &blocks {
                delta.fold(&reader, block.iter().filter(|(entry, _)| entry.seq >= from))?;
            }
            drop(blocks);
            write::prepare(&reader, delta)?
        };
        let Some(batch) = batch else {
            return Err(damaged(format!("the journal has no entry {from} to make views of")));
        };
        let end = batch.reached.applied;
        progress.entries += end - from;
        progress.batches += 1;
        let durable = closing || progress.entries >= DURABLE_ENTRIES || progress.batches >= DURABLE_BATCHES;
        self.passes.around(&batch, || batch.write(&db, durable))?;
        if durable {
            (progress.entries, progress.batches) = (0, 0);
            if self.file.as_ref().is_some_and(|file| !file.exists()) {
                self.suspect.store(true, Ordering::SeqCst);
            }
        }
        self.tail().applied_to(end);
        self.moved.notify_all();
        Ok(())
    }

    /// The entries from `from` on, decoded ahead if there are many more.
    fn read(&self, progress: &mut Progress, from: u64) -> Result<Vec<(Entry, Erasable)>, StoreError> {
        if progress.ahead.as_ref().is_none_or(|ahead| ahead.next != from) {
            let end = self.tail().end();
            if end - from <= 2 * BATCH as u64 {
                progress.ahead = None;
                return (self.journal)(from, BATCH);
            }
            progress.ahead = Some(Ahead::start(self.journal.clone(), from, end)?);
        }
        let read = progress.ahead.as_mut().and_then(Ahead::take);
        match read {
            Some(read) => read,
            // It has come to its end.
            None => {
                progress.ahead = None;
                (self.journal)(from, BATCH)
            }
        }
    }

    /// Waits a while; false if it is time to stop.
    pub(super) fn pause(&self) -> bool {
        let tail = self.tail();
        let waited = self.moved.wait_timeout_while(tail, RETRY, |t| !t.closing);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }
}

type Read = Result<Vec<(Entry, Erasable)>, StoreError>;

/// A thread that reads the journal ahead of the follower.
struct Ahead {
    /// The entry the next take begins with.
    next: u64,
    reads: Option<Receiver<Read>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    fn start(journal: Journal, from: u64, end: u64) -> Result<Ahead, StoreError> {
        let (send, reads) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new().name("views-read".into());
        let thread = thread.spawn(move || read_ahead(&journal, from, end, &send));
        let thread = thread.map_err(|e| StoreError::Unwritable(format!("no thread to read ahead: {e}")))?;
        Ok(Ahead { next: from, reads: Some(reads), thread: Some(thread) })
    }

    fn take(&mut self) -> Option<Read> {
        let read = self.reads.as_ref()?.recv().ok()?;
        if let Ok(entries) = &read {
            self.next = entries.last().map_or(self.next, |(entry, _)| entry.seq + 1);
        }
        Some(read)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nobody takes any more: the thread ends with its current read.
        self.reads = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads ahead for the views has died");
        }
    }
}

fn read_ahead(journal: &Journal, mut next: u64, end: u64, send: &SyncSender<Read>) {
    while next < end {
        let read = journal(next, BATCH);
        let reached = match &read {
            Ok(entries) => entries.last().map(|(entry, _)| entry.seq + 1),
            Err(_) => None,
        };
        if send.send(read).is_err() {
            return;
        }
        let Some(reached) = reached else { return };
        next = reached;
    }
}
