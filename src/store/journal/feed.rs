//! Feeds the month's file behind the commits: what is pending goes there in stretches, one redb transaction at a time.
//!
//! A stretch is the entries of one tile, packed ([`crate::store::block`]). The last one grows from feed to feed until it
//! is whole: its value is written again, longer. So nothing has to be repacked later, and a power cut leaves the file as
//! the last feed left it, with the rest in `commit.log`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::WriteTransaction;

use crate::store::block::{self, Builder};
use crate::store::trouble::{Part, Troubles};
use crate::store::writer::unpoisoned;
use crate::store::{StoreError, give_way};

use super::{BLOCKS, EDGE, GROUPS, Journal, Pending, TILES, absent, damaged, reading, writing};

/// Entries of one feed, about: what one redb transaction takes in a few milliseconds.
const MOST_ENTRIES: usize = 16_384;
const MOST_BYTES: usize = 8 << 20;
/// The feeder starts once so much is pending…
const SOON_BYTES: usize = 2 << 20;
/// …or something has been for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// First and longest pause after a feed that failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The stretch that is not whole yet, as the file has it.
#[derive(Default)]
pub(super) enum Growing {
    /// Not looked up since the file was opened.
    #[default]
    Unknown,
    Known(Option<Builder>),
}

impl Journal {
    /// Puts what is pending, or the first part of it, into the month's file. Gives how many entries that were.
    pub fn feed(&self) -> Result<u64, StoreError> {
        let mut growing = unpoisoned(self.growing.lock());
        self.feed_some(&mut growing, &|bytes, entries| bytes < MOST_BYTES && entries < MOST_ENTRIES)
    }

    /// Puts all that is pending by now into the month's file. What comes in the meantime waits for the next time: under
    /// load there would always be a little more.
    pub fn feed_all(&self) -> Result<(), StoreError> {
        let size = self.size();
        while self.fed() < size && self.feed()? > 0 {}
        Ok(())
    }

    /// A commit that the log cannot take: straight to the month's file, after all before it.
    pub(super) fn feed_directly(&self, pending: Pending) -> Result<(), StoreError> {
        self.feed_all()?;
        let mut growing = unpoisoned(self.growing.lock());
        self.push(Arc::new(pending));
        let fed = self.feed_some(&mut growing, &|_, _| true);
        if fed.is_err() {
            // Nobody is told of it: it is not pending either.
            unpoisoned(self.pending.lock()).pop_back();
        }
        fed.map(drop)
    }

    fn feed_some(&self, growing: &mut Growing, more: &dyn Fn(usize, usize) -> bool) -> Result<u64, StoreError> {
        if matches!(growing, Growing::Unknown) {
            self.take_stock()?;
        }
        let batch = self.batch(more);
        let Some(last) = batch.last() else { return Ok(0) };
        let fed = self.write_batch(growing, &batch).inspect_err(|_| {
            *growing = Growing::Unknown;
            self.drop_newest();
        })?;
        *growing = Growing::Known(fed);
        let (count, end) = (last.end() - batch[0].commit.first, last.end());
        self.fed.store(end, Ordering::SeqCst);
        unpoisoned(self.pending.lock()).retain(|pending| pending.end() > end);
        Ok(count)
    }

    /// A feed that was reported as failed may have reached the file after all: what the file has is not pending.
    fn take_stock(&self) -> Result<(), StoreError> {
        let stored = self.edge()?.map_or(0, |(size, _)| size);
        if stored > self.fed.load(Ordering::SeqCst) {
            self.fed.store(stored, Ordering::SeqCst);
            unpoisoned(self.pending.lock()).retain(|pending| pending.end() > stored);
        }
        Ok(())
    }

    fn batch(&self, more: &dyn Fn(usize, usize) -> bool) -> Vec<Arc<Pending>> {
        let pending = unpoisoned(self.pending.lock());
        let (mut bytes, mut entries) = (0, 0);
        let wanted = pending.iter().take_while(|next| {
            let fits = entries == 0 || more(bytes, entries);
            bytes += next.commit.bytes();
            entries += next.commit.count;
            fits
        });
        wanted.cloned().collect()
    }

    /// One transaction; gives the stretch that is not whole yet.
    fn write_batch(&self, growing: &Growing, batch: &[Arc<Pending>]) -> Result<Option<Builder>, StoreError> {
        let (name, file) = self.newest()?;
        let growing = match growing {
            Growing::Known(growing) => growing.clone(),
            Growing::Unknown => self.stored_stretch(batch[0].commit.first)?,
        };
        let mut stretches: Vec<Builder> = growing.into_iter().collect();
        for pending in batch {
            give_way(pending.commit.first);
            Builder::stretch(&mut stretches, &pending.commit).map_err(|what| damaged(&name, what))?;
        }
        writing(&name, &file, |txn| self.write_stretches(txn, &stretches, batch))?;
        Ok(stretches.pop().filter(|last| !last.is_whole()))
    }

    pub(super) fn write_stretches(
        &self,
        txn: &WriteTransaction,
        stretches: &[Builder],
        batch: &[Arc<Pending>],
    ) -> Result<(), redb::Error> {
        let mut blocks = txn.open_table(BLOCKS)?;
        let mut groups = txn.open_table(GROUPS)?;
        for stretch in stretches {
            give_way(0);
            blocks.insert((self.epoch, stretch.first), &*block::pack(&stretch.block))?;
            for (group, value) in (1u8..).zip(&stretch.groups).filter(|(_, value)| !value.is_empty()) {
                groups.insert((self.epoch, stretch.first, group), &*block::pack(value))?;
            }
        }
        if batch.iter().any(|pending| !pending.tiles.is_empty()) {
            let mut tiles = txn.open_table(TILES)?;
            for (level, index, bytes) in batch.iter().flat_map(|pending| &pending.tiles) {
                tiles.insert((self.epoch, *level, *index), bytes.as_slice())?;
            }
        }
        if let Some(last) = batch.last() {
            let mut edge = Vec::with_capacity(9 + 32 * last.edge.len());
            edge.push(1);
            edge.extend_from_slice(&last.end().to_le_bytes());
            edge.extend(last.edge.iter().flatten());
            txn.open_table(EDGE)?.insert(self.epoch, edge.as_slice())?;
        }
        Ok(())
    }

    /// The file's last block, if it is a stretch that can grow; `next`: the entry that is to follow.
    fn stored_stretch(&self, next: u64) -> Result<Option<Builder>, StoreError> {
        let (name, file) = self.newest()?;
        let found = reading(&name, &file, |txn| {
            let Some(blocks) = absent(txn.open_table(BLOCKS))? else { return Ok(None) };
            let Some((key, block)) = blocks.range((self.epoch, 0)..=(self.epoch, u64::MAX))?.next_back().transpose()?
            else {
                return Ok(None);
            };
            let first = key.value().1;
            let groups = txn.open_table(GROUPS)?;
            let mut values = [const { None }; 4];
            for (group, value) in (1u8..).zip(&mut values) {
                *value = groups.get((self.epoch, first, group))?;
            }
            let values = [0, 1, 2, 3].map(|n: usize| values[n].as_ref().map(|guard| guard.value()));
            Ok(Some(Builder::resume(first, block.value(), values)))
        })?;
        let stretch = found.transpose().map_err(|what| damaged(&name, what))?;
        match stretch {
            Some(stretch) if stretch.end() != next => {
                Err(damaged(&name, format!("its last block ends with entry {}, not {next}", stretch.end())))
            }
            stretch => Ok(stretch.filter(|stretch| !stretch.is_whole())),
        }
    }

    pub(super) fn push(&self, pending: Arc<Pending>) {
        unpoisoned(self.pending.lock()).push_back(pending);
    }
}

/// The thread that feeds, and how it goes.
pub struct Feeder {
    shared: Arc<Shared>,
    troubles: Arc<Troubles>,
    journal: Arc<Journal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Hunger>,
    moved: Condvar,
}

#[derive(Default)]
struct Hunger {
    bytes: usize,
    since: Option<Instant>,
    stop: bool,
    /// Why the last feed failed.
    trouble: Option<String>,
}

impl Feeder {
    /// Without a thread nothing is fed but by [`Journal::feed`].
    pub fn start(journal: Arc<Journal>, troubles: Arc<Troubles>, with_thread: bool) -> Result<Feeder, StoreError> {
        let shared = Arc::new(Shared::default());
        let thread = with_thread.then(|| {
            let (shared, journal, troubles) = (shared.clone(), journal.clone(), troubles.clone());
            std::thread::Builder::new().name("feeder".into()).spawn(move || shared.run(&journal, &troubles))
        });
        let thread =
            thread.transpose().map_err(|e| StoreError::Unwritable(format!("no thread for the feeder: {e}")))?;
        Ok(Feeder { shared, troubles, journal, thread })
    }

    /// A commit of so many bytes is pending.
    pub fn pending(&self, bytes: usize) {
        let mut hunger = self.shared.lock();
        let (before, first) = (hunger.bytes, hunger.since.is_none());
        hunger.bytes += bytes;
        hunger.since.get_or_insert_with(Instant::now);
        // Woken for the first, to look at the clock, and when it is enough: not for each.
        if first || (before < SOON_BYTES && hunger.bytes >= SOON_BYTES) {
            drop(hunger);
            self.shared.moved.notify_one();
        }
    }

    /// Why the month's file cannot be written at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Feeds once, for who has no thread.
    pub fn step(&self) -> Result<u64, StoreError> {
        let fed = self.journal.feed();
        self.shared.tell(&self.troubles, fed.as_ref().err());
        fed
    }

    /// Ends the thread; what is pending stays so.
    pub fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.moved.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that feeds the journal's files has died");
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Hunger> {
        unpoisoned(self.state.lock())
    }

    fn run(&self, journal: &Journal, troubles: &Troubles) {
        let mut pause = BACK_OFF.0;
        while self.wait() {
            let fed = journal.feed_all();
            self.tell(troubles, fed.as_ref().err());
            if fed.is_ok() {
                pause = BACK_OFF.0;
            } else {
                self.rest(pause);
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }

    fn tell(&self, troubles: &Troubles, error: Option<&StoreError>) {
        self.lock().trouble = error.map(ToString::to_string);
        match error {
            Some(error) => troubles.failed(Part::Journal, error),
            None => troubles.over(Part::Journal),
        }
    }

    /// Waits until it is time to feed; false: stop.
    fn wait(&self) -> bool {
        let mut hunger = self.lock();
        loop {
            if hunger.stop {
                return false;
            }
            let left = hunger.since.map(|since| (since + PATIENCE).saturating_duration_since(Instant::now()));
            if hunger.trouble.is_some() || hunger.bytes >= SOON_BYTES || left.is_some_and(|left| left.is_zero()) {
                (hunger.bytes, hunger.since) = (0, None);
                return true;
            }
            hunger = match left {
                Some(left) => unpoisoned(self.moved.wait_timeout(hunger, left)).0,
                None => unpoisoned(self.moved.wait(hunger)),
            };
        }
    }

    fn rest(&self, pause: Duration) {
        let hunger = self.lock();
        drop(self.moved.wait_timeout_while(hunger, pause, |hunger| !hunger.stop));
    }
}
