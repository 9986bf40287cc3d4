//! Everything derived from the journal: calls, their indexes and the sums of spend, in a file that may be deleted.
//!
//! The writer commits to the journal and nothing else; a follower thread folds what was committed into `views.redb` in
//! batches, within a second. Until then an entry waits in the *tail*, in memory. Readers lay the tail over the tables, so
//! that no answer is behind the journal, except while the file is being built anew: then lists and sums say as of which
//! sequence they are. The tail is bounded; what does not fit is read from the journal again.

mod check;
mod fold;
#[cfg(test)]
pub(crate) mod samples;
mod scan;
mod tables;
mod tail;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use redb::backends::InMemoryBackend;

use crate::domain::{Call, CallId, Outcome};
use crate::ledger::entry::{Body, Entry, Erasable};

use super::{AsOf, KnownResponse, StoreError};
use fold::{Base, Delta};
use tables::{Reader, SetCache, damaged};
use tail::Tail;

pub use check::{Check, check};

/// Reads entries of the journal: from a sequence on, at most so many.
pub type Journal = Arc<dyn Fn(u64, usize) -> Result<Vec<(Entry, Erasable)>, StoreError> + Send + Sync>;
/// What one commit appended.
pub type Block = Arc<Vec<(Entry, Erasable)>>;

/// Entries in one batch of the follower.
const BATCH: usize = 8_192;
/// How long the follower lets entries gather before it writes them.
const GATHER: Duration = Duration::from_millis(200);
/// How far back a single call is looked for in the journal while the file is far behind.
const FAR: u64 = 262_144;
/// Pause after a failure, before the follower tries again.
const RETRY: Duration = Duration::from_secs(1);
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
    db: Mutex<Arc<Database>>,
    journal: Journal,
    sets: SetCache,
    tail: Mutex<Tail>,
    /// Wakes the follower (new entries, closing) and who waits for it.
    moved: Condvar,
    /// The tail folded over the tables as of a sequence; made again once the follower has moved on.
    overlay: Mutex<Option<Overlay>>,
    /// Held shared by a pass over the sums, exclusively by the follower's write: pages that a long reader pins are
    /// never freed, so nothing is written while one is under way.
    quiet: RwLock<()>,
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
        let file = dir.map(|dir| dir.join("views.redb"));
        let (db, applied) = open_file(file.as_deref(), &journal, journal_size)?;
        let inner = Arc::new(Inner {
            file,
            db: Mutex::new(Arc::new(db)),
            journal,
            sets: SetCache::default(),
            tail: Mutex::new(Tail::new(applied, journal_size)),
            moved: Condvar::new(),
            overlay: Mutex::new(None),
            quiet: RwLock::new(()),
        });
        let follower = {
            let inner = inner.clone();
            std::thread::Builder::new().name("views".into()).spawn(move || inner.follow())
        };
        let follower = follower.map_err(|e| StoreError::Unwritable(format!("no thread for the views: {e}")))?;
        Ok(Views { inner, follower: Mutex::new(Some(follower)) })
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

    /// One call, never behind.
    pub fn call(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        self.inner.view(|view| {
            let seq = match view.delta.ids.get(&id) {
                Some(seq) => Some(*seq),
                None => view.reader.seq_of(id)?,
            };
            let found = seq.map(|seq| view.delta.call(&view.reader, seq)).transpose()?.flatten();
            if found.is_none() && view.gap { self.inner.search(id, view.reader.applied) } else { Ok(found) }
        })
    }

    /// The call that a vendor's answer id belongs to, never behind.
    pub fn response(&self, provider: &str, response_id: &str) -> Result<Option<KnownResponse>, StoreError> {
        self.inner.view(|view| {
            let key = (provider.to_owned(), response_id.to_owned());
            let seq = match view.delta.responses.get(&key) {
                Some(seq) => Some(*seq),
                None => view.reader.response(provider, response_id)?,
            };
            let call = seq.map(|seq| view.delta.call(&view.reader, seq)).transpose()?.flatten();
            Ok(call.map(|call| KnownResponse {
                call: call.id,
                attempt: call.attempts,
                open: call.outcome == Outcome::Running,
            }))
        })
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

    fn database(&self) -> Arc<Database> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes one look. A page that redb cannot make sense of is an error, not the end of the process.
    fn view<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.database();
        let found = catch_unwind(AssertUnwindSafe(|| {
            let view = self.take_view(&db)?;
            look(&view)
        }));
        found.unwrap_or_else(|_| Err(damaged("a page cannot be read; delete the file and it is built anew")))
    }

    fn take_view(&self, db: &Database) -> Result<View<'_>, StoreError> {
        loop {
            let reader = Reader::open(db, &self.sets)?;
            let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
            if overlay.as_ref().is_none_or(|o| o.base != reader.applied) {
                *overlay = Some(Overlay { base: reader.applied, end: reader.applied, delta: Arc::default() });
            }
            let Some(over) = overlay.as_mut() else { continue };
            let pending = self.tail().after(reader.applied, over.end);
            let pending = match pending {
                // The follower has moved on since the transaction began: look again.
                tail::Pending::Moved => continue,
                tail::Pending::Blocks(blocks) => blocks,
                tail::Pending::Missing(to) if to - over.end <= tail::MOST_ENTRIES as u64 => {
                    let missing = (self.journal)(over.end, (to - over.end) as usize)?;
                    Arc::make_mut(&mut over.delta).fold(&reader, &missing)?;
                    let reached = over.delta.end.map_or(over.end, |(end, _)| end);
                    if reached == over.end {
                        return Err(damaged(format!("the journal has no entry {reached} to make views of")));
                    }
                    over.end = reached;
                    continue;
                }
                tail::Pending::Missing(_) => {
                    let as_of = AsOf { seq: reader.applied, at: reader.at };
                    return Ok(View { reader, delta: Arc::new(self.fold_tail_alone()?), as_of, gap: true });
                }
            };
            if !pending.is_empty() {
                let delta = Arc::make_mut(&mut over.delta);
                for block in &pending {
                    delta.fold(&reader, block.iter().filter(|(entry, _)| entry.seq >= over.end))?;
                    over.end = delta.end.map_or(over.end, |(end, _)| end);
                }
            }
            let delta = over.delta.clone();
            let (seq, at) = delta.end.unwrap_or((reader.applied, reader.at));
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

    /// A call that neither file nor tail has: from the newest entries of the journal itself.
    fn search(&self, id: CallId, applied: u64) -> Result<Option<Call>, StoreError> {
        let end = self.tail().end();
        let mut next = applied.max(end.saturating_sub(FAR));
        let mut delta = Delta::default();
        let mut mine = Vec::new();
        while next < end {
            let entries = (self.journal)(next, BATCH)?;
            let Some((last, _)) = entries.last() else { break };
            next = last.seq + 1;
            for (entry, erasable) in &entries {
                let begins = match &entry.body {
                    Body::Admit(admit) => admit.call == id,
                    Body::Deny(deny) => deny.call == id,
                    _ => false,
                };
                if begins {
                    mine.push(entry.seq);
                }
                if begins || entry.reference.is_some_and(|r| mine.contains(&r)) {
                    delta.fold(&fold::Nothing, [&(entry.clone(), erasable.clone())])?;
                }
            }
        }
        Ok(delta.calls.into_values().next())
    }

    /// The follower's life: wait, gather, write, until it is told to stop.
    fn follow(&self) {
        while let Some(drain) = self.next_batch() {
            let done = catch_unwind(AssertUnwindSafe(|| self.apply_batch()));
            let error = match done {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => damaged("a page cannot be read"),
            };
            tracing::error!(%error, "the views fall behind the journal");
            if drain {
                return;
            }
            self.pause();
            self.reopen(&error);
        }
    }

    /// Waits until there is something to write. `None`: stop. `Some(true)`: stop after the tail.
    fn next_batch(&self) -> Option<bool> {
        let mut tail = self.tail();
        let mut gathered = false;
        loop {
            if tail.closing {
                // What is far behind is being built anew: the next start goes on with it.
                let near = (1..=tail::MOST_ENTRIES as u64).contains(&tail.unapplied());
                return (tail.drain && near).then_some(true);
            }
            if tail.unapplied() >= BATCH as u64 || (gathered && tail.unapplied() > 0) {
                return Some(false);
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

    fn apply_batch(&self) -> Result<(), StoreError> {
        let db = self.database();
        let (from, blocks) = self.tail().batch(BATCH);
        let entries = if blocks.is_empty() { vec![Arc::new((self.journal)(from, BATCH)?)] } else { blocks };
        let mut delta = Delta::default();
        {
            let reader = Reader::open(&db, &self.sets)?;
            for block in &entries {
                delta.fold(&reader, block.iter().filter(|(entry, _)| entry.seq >= from))?;
            }
        }
        let Some((end, _)) = delta.end else {
            return Err(damaged(format!("the journal has no entry {from} to make views of")));
        };
        {
            let _alone = self.quiet.write().unwrap_or_else(PoisonError::into_inner);
            tables::write(&db, &delta)?;
        }
        self.tail().applied_to(end);
        self.moved.notify_all();
        Ok(())
    }

    fn pause(&self) {
        let tail = self.tail();
        drop(self.moved.wait_timeout_while(tail, RETRY, |t| !t.closing));
    }

    /// redb refuses everything after an I/O error until the file is opened again; a damaged file is built anew.
    fn reopen(&self, error: &StoreError) {
        let Some(file) = &self.file else { return };
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        // The old handle holds the file's lock: something in its place while the file is opened.
        let Ok(stand_in) = memory() else { return };
        *db = Arc::new(stand_in);
        let size = self.tail().end();
        match open_file(Some(file), &self.journal, size) {
            Ok((opened, applied)) => {
                *db = Arc::new(opened);
                self.tail().restart(applied);
            }
            Err(again) => tracing::error!(%error, %again, "views.redb cannot be opened"),
        }
    }
}

fn memory() -> Result<Database, StoreError> {
    let db = Database::builder().create_with_backend(InMemoryBackend::new()).map_err(damaged)?;
    tables::prepare(&db)?;
    Ok(db)
}

/// Opens the file, or makes a new one in its place where it is of no use. Gives how many entries it has.
fn open_file(file: Option<&Path>, journal: &Journal, journal_size: u64) -> Result<(Database, u64), StoreError> {
    let Some(file) = file else { return Ok((memory()?, 0)) };
    let open = || {
        catch_unwind(|| {
            let opened = Database::builder().set_cache_size(CACHE_BYTES).create(file);
            let db = opened.map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(file.display().to_string()),
                error => damaged(error),
            })?;
            let found = tables::prepare(&db)?;
            Ok((db, found))
        })
        .unwrap_or_else(|_| Err(damaged("it cannot be read")))
    };
    let reason = match open() {
        Ok((db, Some((applied, at)))) => {
            if applied == 0 {
                return Ok((db, 0));
            }
            let last = if applied <= journal_size { journal(applied - 1, 1)? } else { Vec::new() };
            if last.first().is_some_and(|(entry, _)| entry.seq == applied - 1 && entry.ts == at) {
                return Ok((db, applied));
            }
            format!("it is of another journal, or of more than the {journal_size} entries there are")
        }
        Ok((_, None)) => "it is of another format".to_owned(),
        Err(error @ StoreError::InUse(_)) => return Err(error),
        Err(error) => error.to_string(),
    };
    tracing::warn!(reason, "views.redb is built anew from the journal");
    std::fs::remove_file(file).map_err(|e| StoreError::Unwritable(format!("`{}`: {e}", file.display())))?;
    let (db, _) = open()?;
    Ok((db, 0))
}
