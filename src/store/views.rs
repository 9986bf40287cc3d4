//! Everything derived from the journal: calls, their indexes and the sums of spend, in a file that may be deleted.
//!
//! The writer commits to the journal and nothing else; a follower thread folds what was committed into `views.redb` in
//! batches, within a second. Until then an entry waits in the *tail*, in memory. Readers lay the tail over the tables, so
//! that no answer is behind the journal, except while the file is being built anew: then lists and sums say as of which
//! sequence they are, and a single call is looked for in the journal itself. The tail is bounded; what does not fit is
//! read from the journal again, by a thread of its own that decodes ahead of the follower.
//!
//! No reader holds up the follower and none makes the file grow: each look is one short transaction, and a long pass over
//! the sums is many of them (see `passes`).

mod bytes;
mod check;
mod chunk;
mod descent;
mod find;
mod fold;
mod follow;
mod names;
mod passes;
#[cfg(test)]
pub(crate) mod samples;
mod scan;
mod sums;
mod tables;
mod tail;
#[cfg(test)]
mod tests;
mod told;
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use redb::backends::InMemoryBackend;

use crate::ledger::entry::{Entry, Erasable};

use super::media::Handle;
use super::trouble::{Part, Troubles};
use super::{AsOf, StoreError};
use fold::Delta;
use passes::Passes;
use tables::{Reached, Reader, SetCache, damaged};
use tail::Tail;

pub use check::{Check, check};
pub use tables::FORMAT;

/// Reads entries of the journal: from a sequence on, at most so many.
pub type Journal = Arc<dyn Fn(u64, usize) -> Result<Vec<(Entry, Erasable)>, StoreError> + Send + Sync>;
/// What one commit appended.
pub type Block = Arc<Vec<(Entry, Erasable)>>;

/// Name of the file.
const FILE: &str = "views.redb";
/// redb's page cache for this file.
const CACHE_BYTES: usize = 32 << 20;

/// The derived side of a ledger. Dropping it stops the follower after its current batch.
pub struct Views {
    inner: Arc<Inner>,
    follower: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    /// `None` = in memory.
    file: Option<PathBuf>,
    db: Mutex<Arc<Handle<Database>>>,
    journal: Journal,
    sets: SetCache,
    tail: Mutex<Tail>,
    /// Wakes the follower (new entries, closing) and who waits for it.
    moved: Condvar,
    /// The tail folded over the tables as of a sequence; made again once the follower has moved on.
    overlay: Mutex<Option<Overlay>>,
    /// Long readings of the sums.
    passes: Passes,
    /// A reader found something that cannot be.
    suspect: AtomicBool,
    troubles: OnceLock<Arc<Troubles>>,
}

struct Overlay {
    /// Entries the tables had.
    base: u64,
    /// Entries folded.
    end: u64,
    delta: Arc<Delta>,
}

/// One consistent look: tables as of a sequence, and what the tail adds.
struct View<'a> {
    reader: Reader<'a>,
    delta: Arc<Delta>,
    as_of: AsOf,
    /// The tail does not join the tables: only its own calls can be told from it.
    gap: bool,
}

impl Views {
    /// Opens or builds the views of a journal that has `journal_size` entries, and starts to follow it. A file that is
    /// damaged, of another format, or of another journal is built anew.
    pub fn open(dir: Option<&Path>, journal: Journal, journal_size: u64) -> Result<Views, StoreError> {
        let views = Views::still(dir, journal, journal_size)?;
        let inner = views.inner.clone();
        let follower = std::thread::Builder::new().name("views".into()).spawn(move || inner.follow());
        let follower = follower.map_err(|e| StoreError::Unwritable(format!("no thread for the views: {e}")))?;
        *views.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
        Ok(views)
    }

    /// The same without a thread: they follow by [`Views::step`].
    pub(super) fn still(dir: Option<&Path>, journal: Journal, journal_size: u64) -> Result<Views, StoreError> {
        let file = dir.map(|dir| dir.join(FILE));
        let (db, reached) = open_file(file.as_deref(), &journal, journal_size)?;
        let inner = Arc::new(Inner {
            file,
            db: Mutex::new(Arc::new(Handle::new(db))),
            journal,
            sets: SetCache::default(),
            tail: Mutex::new(Tail::new(reached.applied, journal_size)),
            moved: Condvar::new(),
            overlay: Mutex::new(None),
            passes: Passes::default(),
            suspect: AtomicBool::new(false),
            troubles: OnceLock::new(),
        });
        Ok(Views { inner, follower: Mutex::default() })
    }

    /// Where it tells from now on what goes wrong while it follows.
    pub(super) fn tell(&self, troubles: Arc<Troubles>) {
        // Told once, when the ledger is put together.
        let _ = self.inner.troubles.set(troubles);
    }

    /// Writes one batch of what was committed, if there is any.
    pub(super) fn step(&self) -> Result<(), StoreError> {
        if self.inner.tail().unapplied() == 0 { Ok(()) } else { self.inner.step() }
    }

    /// Takes what a commit appended. Never blocks on anything but a short lock: called by the writer.
    pub fn committed(&self, block: Block) {
        let mut tail = self.inner.tail();
        tail.push(block);
        drop(tail);
        self.inner.moved.notify_all();
    }

    /// Entries that are in the file.
    pub fn applied(&self) -> u64 {
        self.inner.tail().applied()
    }

    /// As of which entry lists and sums are while they are behind the journal, because the file is being built anew;
    /// `None`: they have everything.
    pub fn behind(&self) -> Result<Option<AsOf>, StoreError> {
        self.inner.view(|view| Ok(view.gap.then_some(view.as_of)))
    }

    /// Waits until the file has every entry before `seq`; false after the time is out.
    pub fn wait_for(&self, seq: u64, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut tail = self.inner.tail();
        while tail.applied() < seq {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || tail.closing {
                return false;
            }
            tail = self.inner.moved.wait_timeout(tail, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes what the tail has and stops the follower.
    pub fn close(&self) {
        self.stop(true);
    }

    fn stop(&self, drain: bool) {
        let mut tail = self.inner.tail();
        tail.closing = true;
        tail.drain = drain;
        drop(tail);
        self.inner.moved.notify_all();
        let follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        if follower.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps the views has died");
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        self.stop(false);
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

impl Inner {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Arc<Handle<Database>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes one look. A page that redb cannot make sense of is an error, not the end of the process.
    fn view<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.database();
        let found = catch_unwind(AssertUnwindSafe(|| {
            let view = self.take_view(&db)?;
            look(&view)
        }));
        self.noted(found.unwrap_or_else(|_| Err(unreadable())))
    }

    /// Takes one look at the file alone.
    fn file<T>(&self, look: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.reader(|reader| look(&reader))
    }

    fn reader<T>(&self, look: impl FnOnce(Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.database();
        let found = catch_unwind(AssertUnwindSafe(|| look(Reader::open(&db, &self.sets)?)));
        self.noted(found.unwrap_or_else(|_| Err(unreadable())))
    }

    /// Tells the follower of a damaged file: it builds it anew.
    fn noted<T>(&self, found: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(&found, Err(StoreError::Damaged { file, .. }) if file == FILE) {
            let tail = self.tail();
            self.suspect.store(true, Ordering::SeqCst);
            drop(tail);
            self.moved.notify_all();
        }
        found
    }

    fn take_view(&self, db: &Database) -> Result<View<'_>, StoreError> {
        loop {
            let reader = Reader::open(db, &self.sets)?;
            let Reached { applied, at, .. } = reader.reached;
            let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
            if overlay.as_ref().is_none_or(|o| o.base != applied) {
                *overlay = Some(Overlay { base: applied, end: applied, delta: Arc::default() });
            }
            let Some(over) = overlay.as_mut() else { continue };
            let pending = self.tail().after(applied, over.end);
            let blocks = match pending {
                // The follower has moved on since the transaction began: look again.
                tail::Pending::Moved => continue,
                tail::Pending::Blocks(blocks) => blocks,
                tail::Pending::Missing(to) if to - over.end <= tail::MOST_ENTRIES as u64 => {
                    vec![Arc::new((self.journal)(over.end, (to - over.end) as usize)?)]
                }
                tail::Pending::Missing(_) => {
                    let as_of = AsOf { seq: applied, at };
                    return Ok(View { reader, delta: Arc::new(self.fold_tail_alone()?), as_of, gap: true });
                }
            };
            if !blocks.is_empty() {
                let folded = over.fold(&reader, &blocks);
                if folded.is_err() {
                    // Half of a block is in it: the next look begins anew.
                    *overlay = None;
                }
                folded?;
                continue;
            }
            let delta = over.delta.clone();
            let (seq, at) = delta.end.unwrap_or((applied, at));
            return Ok(View { reader, delta, as_of: AsOf { seq, at }, gap: false });
        }
    }

    /// The calls that begin in the tail, where what lies between the file and the tail is too much to read for one look.
    fn fold_tail_alone(&self) -> Result<Delta, StoreError> {
        let blocks = self.tail().blocks();
        let mut delta = Delta::default();
        for block in &blocks {
            delta.fold(&fold::Nothing, block.iter())?;
        }
        Ok(delta)
    }

    fn in_trouble(&self, error: &StoreError) {
        match self.troubles.get() {
            Some(troubles) => troubles.failed(Part::Views, error),
            None => tracing::error!(%error, "the views fall behind the journal"),
        }
    }

    fn out_of_trouble(&self) {
        if let Some(troubles) = self.troubles.get() {
            troubles.over(Part::Views);
        }
    }

    /// redb refuses everything after an I/O error until the file is opened again; a damaged file is built anew.
    fn reopen(&self) {
        let Some(file) = &self.file else { return };
        // The old handle holds the file's lock: something empty in its place while the file is opened.
        let Ok(stand_in) = memory() else { return };
        self.replace(stand_in, 0);
        loop {
            let size = self.tail().end();
            match open_file(Some(file), &self.journal, size) {
                Ok((opened, reached)) => return self.replace(opened, reached.applied),
                Err(error) => self.in_trouble(&error),
            }
            // A reader that still looks at the old handle, or a disk that is full: both pass.
            if !self.pause() {
                return;
            }
        }
    }

    /// Another file, which has so many entries.
    fn replace(&self, db: Database, applied: u64) {
        let mut current = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Handle::new(db));
        *overlay = None;
        self.sets.clear();
        self.tail().restart(applied);
    }
}

impl Overlay {
    /// Folds what comes after it.
    fn fold(&mut self, reader: &Reader<'_>, blocks: &[Block]) -> Result<(), StoreError> {
        let before = self.end;
        let delta = Arc::make_mut(&mut self.delta);
        for block in blocks {
            delta.fold(reader, block.iter().filter(|(entry, _)| entry.seq >= before))?;
        }
        self.end = delta.end.map_or(before, |(end, _)| end);
        if self.end == before {
            return Err(damaged(format!("the journal has no entry {before} to make views of")));
        }
        Ok(())
    }
}

fn unreadable() -> StoreError {
    damaged("a page cannot be read; delete the file and it is built anew")
}

fn memory() -> Result<Database, StoreError> {
    let db = Database::builder().create_with_backend(InMemoryBackend::new()).map_err(damaged)?;
    tables::prepare(&db)?;
    Ok(db)
}

/// Opens the file, or makes a new one in its place where it is of no use. Says how far it has come.
fn open_file(file: Option<&Path>, journal: &Journal, journal_size: u64) -> Result<(Database, Reached), StoreError> {
    let Some(file) = file else { return Ok((memory()?, Reached::default())) };
    let open = || {
        catch_unwind(|| {
            let opened = Database::builder().set_cache_size(CACHE_BYTES).create(file);
            let db = opened.map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(file.display().to_string()),
                error => tables::failed(error),
            })?;
            let found = tables::prepare(&db)?;
            Ok((db, found))
        })
        .unwrap_or_else(|_| Err(damaged("it cannot be read")))
    };
    let reason = match open() {
        Ok((db, Some(reached))) => {
            let Reached { applied, at, .. } = reached;
            if applied == 0 {
                return Ok((db, reached));
            }
            let last = if applied <= journal_size { journal(applied - 1, 1)? } else { Vec::new() };
            if last.first().is_some_and(|(entry, _)| entry.seq == applied - 1 && entry.ts == at) {
                return Ok((db, reached));
            }
            format!("it is of another journal, or of more than the {journal_size} entries there are")
        }
        Ok((_, None)) => "it is of another format".to_owned(),
        Err(error @ (StoreError::InUse(_) | StoreError::Full(_))) => return Err(error),
        Err(error) => error.to_string(),
    };
    tracing::warn!(reason, "views.redb is built anew from the journal");
    std::fs::remove_file(file).map_err(|e| StoreError::Unwritable(format!("`{}`: {e}", file.display())))?;
    let (db, _) = open()?;
    Ok((db, Reached::default()))
}
