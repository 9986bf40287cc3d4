//! The one writer: takes requests from a bounded queue, decides them against the state, and commits what they became.
//!
//! A commit is one redb transaction with one block. What arrives while it is under way shares the next one (group
//! commit); when nothing is under way the first request commits at once. `strict` answers after the commit; `relaxed`
//! answers what belongs to a call once it is decided, and commits within 50 ms. What is declared is answered after the
//! commit in any case: who was told that a key exists, or is revoked, may rely on it at once.
//!
//! The state in memory may be one block ahead of the disk, never more, and nobody is told about it before the block is
//! there. When a commit fails everything not on disk is forgotten: the files are opened again, the state is made anew from
//! them, and until that works every request is refused. Then a GAP entry says how many were.

mod mend;
mod month;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::Micros;
use crate::ledger::decide::{Decision, decide};
use crate::ledger::entry::{Body, Entry, Erasable, NewEntry};
use crate::ledger::opening::Counting;
use crate::ledger::request::{Reply, Request};
use crate::ledger::state::State;
use crate::ledger::tree::Tree;

use super::block::{self, MAX_ENTRIES, Prepared, SALT};
use super::journal::feed::Feeder;
use super::journal::{Opening, Pending};
use super::keeper::Keeper;
use super::keys::Place;
use super::media::Media;
use super::reader::Reader;
use super::shared::Shared;
use super::snapshot::{Carried, Part, Running};
use super::tiles::{Tile, Tiles};
use super::time::JournalTime;
use super::trouble::{Part as InTrouble, Troubles};
use super::views::Views;
use super::{Durability, StoreError};

use mend::Broken;

/// `relaxed`: how long an answered request may wait for the disk at most (50 ms is promised, the commit is in it).
const RELAXED_WINDOW: Duration = Duration::from_millis(20);
/// How long a busy writer waits for those it has just answered, before it commits with fewer than last time.
const GATHER: Duration = Duration::from_micros(300);
/// Fewer than this many in a commit is no crowd to wait for: the wait would cost more than the commit it saves.
const CROWD: usize = 16;
/// How often the writer looks round when nobody asks.
const TICK: Duration = Duration::from_secs(1);
/// Most entries one request may become: positions in a block have 16 bits.
const MAX_DECIDED: usize = 60_000;

/// What the writer is sent.
pub enum Message {
    One(Arc<Request>, oneshot::Sender<Result<Reply, StoreError>>, OwnedSemaphorePermit),
    Many(Many),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// Requests that are taken in order, a block at a time, so that others get their turn in between.
pub struct Many {
    pub requests: VecDeque<Request>,
    pub replies: Vec<Reply>,
    pub answer: SyncSender<Result<Vec<Reply>, StoreError>>,
}

/// Why a request became nothing.
enum Failure {
    /// It alone is refused; state and block are as before.
    Refused(StoreError),
    /// State and block cannot be trusted any more.
    Broken(StoreError),
}

/// Who waits for a commit, with the answer it will get and its place in the queue.
type Waiter = (oneshot::Sender<Result<Reply, StoreError>>, Reply, OwnedSemaphorePermit);

/// The rules: what becomes of a request.
pub type Decide = fn(&State, Micros, &Request) -> Decision;

/// How the writer works: with threads that do what lies behind the commits, or step by step with none; by the rules, or
/// in a test by broken ones.
#[derive(Clone, Copy)]
pub struct Hands {
    pub threads: bool,
    pub decide: Decide,
}

impl Default for Hands {
    fn default() -> Hands {
        Hands { threads: true, decide }
    }
}

/// Everything the writer thread owns.
pub struct Writer {
    pub shared: Arc<Shared>,
    reader: Arc<Reader>,
    views: Arc<Views>,
    media: Media,
    keeper: Keeper,
    feeder: Feeder,
    troubles: Arc<Troubles>,
    decide: Decide,
    durability: Durability,
    time: JournalTime,
    tree: Tree,
    tiles: Tiles,
    builder: block::Builder,
    full_tiles: Vec<Tile>,
    done: Vec<(Entry, Erasable)>,
    /// Who is answered by the next commit.
    waiting: Vec<Waiter>,
    /// Requests of the block under construction that nobody waits for in `waiting`: answered already (`relaxed`), or
    /// of a message of many.
    answered: u64,
    /// Waiters of the last commit: what a busy writer may expect again.
    last_batch: usize,
    salts: Vec<u8>,
    broken: Option<Broken>,
    /// Requests refused because the month's file could not be written.
    turned_away: u64,
    /// Those of them that a GAP entry in the block under construction stands for.
    noted: u64,
    threads: bool,
    /// The catalogue as the next month begins with it, and when it was last looked after.
    part: Arc<Mutex<Option<Part>>>,
    prepared: Instant,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        reader: Arc<Reader>,
        views: Arc<Views>,
        media: Media,
        hands: Hands,
        keeper: Keeper,
        troubles: Arc<Troubles>,
        durability: Durability,
        carried: Carried,
    ) -> Result<Writer, StoreError> {
        let time = JournalTime::new(shared.clock.clone(), carried.state.last_ts());
        let feeder = Feeder::start(reader.journal.clone(), troubles.clone(), hands.threads)?;
        let size = carried.size();
        shared.replace(carried.state, &carried.tree);
        Ok(Writer {
            shared,
            reader,
            views,
            media,
            keeper,
            feeder,
            troubles,
            decide: hands.decide,
            durability,
            time,
            tree: carried.tree,
            tiles: carried.tiles,
            builder: block::Builder::new(size),
            full_tiles: Vec::new(),
            done: Vec::new(),
            waiting: Vec::new(),
            answered: 0,
            last_batch: 0,
            salts: Vec::new(),
            broken: None,
            turned_away: 0,
            noted: 0,
            threads: hands.threads,
            part: Arc::default(),
            prepared: Instant::now(),
        })
    }

    /// Runs until it is told to close, or nobody can send any more.
    pub fn run(mut self, queue: Receiver<Message>) {
        let mut later: VecDeque<Many> = VecDeque::new();
        let closing = loop {
            let first = match later.pop_front() {
                Some(many) => Some(Message::Many(many)),
                None => match queue.recv_timeout(self.patience()) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break None,
                },
            };
            self.recover_from_trouble();
            let Some(first) = first else {
                // Who waits has been told if it failed.
                let _ = self.flush();
                self.look_round();
                continue;
            };
            if let Some(closing) = self.block(first, &queue, &mut later) {
                break Some(closing);
            }
        };
        let result = self.close();
        if let Some(closing) = closing {
            // Who asked may have stopped waiting.
            let _ = closing.send(result);
        }
    }

    fn patience(&self) -> Duration {
        match &self.broken {
            Some(broken) => broken.again_at.saturating_duration_since(Instant::now()).min(TICK),
            None => TICK,
        }
    }

    /// Takes what has queued, commits it, answers.
    fn block(
        &mut self,
        first: Message,
        queue: &Receiver<Message>,
        later: &mut VecDeque<Many>,
    ) -> Option<oneshot::Sender<Result<(), StoreError>>> {
        let started = Instant::now();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next.take() {
            match message {
                Message::One(request, answer, permit) => self.one(&request, answer, permit),
                Message::Many(many) => self.some_of(many, later),
                Message::Close(answer) => {
                    return Some(answer);
                }
            }
            taken += 1;
            if self.builder.count >= MAX_ENTRIES || !later.is_empty() {
                break;
            }
            next = match queue.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => {
                    let until = started + self.window(taken);
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() { None } else { queue.recv_timeout(left).ok() }
                }
            };
        }
        self.last_batch = taken;
        // Who waits has been told if it failed.
        let _ = self.flush();
        self.look_round();
        None
    }

    /// How long a block may stay open from its first request on.
    fn window(&self, taken: usize) -> Duration {
        match self.durability {
            Durability::Relaxed if !self.builder.is_empty() => RELAXED_WINDOW,
            // Nearly alone, or everybody of last time is here again: at once.
            _ if self.last_batch < CROWD || taken >= self.last_batch => Duration::ZERO,
            _ => GATHER,
        }
    }

    /// Takes one request; it is answered by the commit, or at once if it is refused.
    pub(super) fn one(
        &mut self,
        request: &Request,
        answer: oneshot::Sender<Result<Reply, StoreError>>,
        permit: OwnedSemaphorePermit,
    ) {
        match self.take(request) {
            Ok(reply) if self.durability == Durability::Relaxed && is_of_a_call(request) => {
                self.answered += 1;
                let _ = answer.send(Ok(reply));
            }
            Ok(reply) => self.waiting.push((answer, reply, permit)),
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Takes a part of the requests, at most to the end of the block; the rest waits for its next turn.
    fn some_of(&mut self, mut many: Many, later: &mut VecDeque<Many>) {
        let mut taken = 0;
        while self.builder.count < MAX_ENTRIES {
            let Some(request) = many.requests.pop_front() else { break };
            match self.take(&request) {
                Ok(reply) => {
                    many.replies.push(reply);
                    taken += 1;
                }
                Err(error) => {
                    let _ = many.answer.send(Err(error));
                    return;
                }
            }
        }
        if !many.requests.is_empty() {
            self.answered += taken;
            later.push_back(many);
            return;
        }
        // Answered here and not with the others: only then are all its blocks on disk.
        self.answered += taken;
        let answer = match self.flush() {
            Ok(()) => Ok(many.replies),
            Err(why) => Err(StoreError::Unwritable(why)),
        };
        let _ = many.answer.send(answer);
    }

    /// Decides one request and puts what it became into the block.
    fn take(&mut self, request: &Request) -> Result<Reply, StoreError> {
        if let Some(broken) = &mut self.broken {
            broken.refused += 1;
            return Err(StoreError::Unwritable(broken.why.clone()));
        }
        if !ends_a_call(request)
            && let Some(why) = self.why_not_admit()
        {
            self.turned_away += 1;
            self.shared.healthy.store(false, Ordering::SeqCst);
            return Err(StoreError::Unwritable(why));
        }
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.try_take(request)));
        match attempt {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::Broken(error))) => {
                self.troubles.failed(InTrouble::Journal, &error);
                self.break_off(error.reason(), 1);
                Err(StoreError::Unwritable(error.reason()))
            }
            Err(_) => {
                self.break_off("the state machine met a case it does not know".into(), 1);
                Err(StoreError::Unwritable("the request could not be decided; nothing of it was recorded".into()))
            }
        }
    }

    /// Why nothing but the end of a call is taken: the month's file does not grow, or there is no room left to give up.
    fn why_not_admit(&self) -> Option<String> {
        self.feeder.trouble().or_else(|| self.troubles.no_room())
    }

    fn try_take(&mut self, request: &Request) -> Result<Reply, Failure> {
        let at = self.time.now(self.last_ts());
        if self.reader.journal.month().is_some_and(|month| month != at.utc_month()) {
            self.flush().map_err(|why| Failure::Broken(StoreError::Unwritable(why)))?;
            self.begin_month(at)?;
        }
        if let Some(reason) = self.time.take_note() {
            tracing::warn!(reason, "journal time");
            self.decide_and_add(at, &Request::Gap { reason: format!("clock: {reason}"), count: 0, quotes: None })?;
        }
        self.decide_and_add(at, request)
    }

    fn last_ts(&self) -> Micros {
        self.shared.read(|state| state.last_ts())
    }

    fn decide_and_add(&mut self, at: Micros, request: &Request) -> Result<Reply, Failure> {
        let counted = match request {
            Request::Counted { request, counting } => Some(self.counted(at, request, counting)?),
            _ => None,
        };
        let request = counted.as_ref().unwrap_or(request);
        let decision = self.shared.read(|state| (self.decide)(state, at, request));
        self.add(at, decision.entries)?;
        Ok(decision.reply)
    }

    /// The request with the calls that ended since its budgets were counted, the last of them a moment ago.
    fn counted(&self, at: Micros, request: &Request, counting: &Counting) -> Result<Request, Failure> {
        let mut counting = counting.clone();
        if self.shared.catch_up(&mut counting) && counting.openings(at).is_some() {
            return Ok(Request::Counted { request: Box::new(request.clone()), counting: Box::new(counting) });
        }
        Err(Failure::Refused(StoreError::Busy))
    }

    /// Gives the entries sequence, time and salts, applies them, and puts them into the block: all or none.
    fn add(&mut self, at: Micros, entries: Vec<NewEntry>) -> Result<(), Failure> {
        if entries.len() > MAX_DECIDED {
            let n = entries.len();
            return Err(Failure::Refused(StoreError::Refused(format!(
                "{n} changes at once are more than {MAX_DECIDED}: send them in parts"
            ))));
        }
        let first = self.tree.size();
        let mut prepared = Vec::with_capacity(entries.len());
        for (seq, new) in (first..).zip(entries) {
            let entry = Entry { seq, ts: at, reference: new.reference, body: new.body };
            let bytes = Prepared::new(&entry, &new.erasable, || self.salt());
            let bytes = bytes.map_err(|what| Failure::Refused(StoreError::Refused(format!("not recorded: {what}"))))?;
            let groups = self.seal(&entry, &bytes).map_err(Failure::Broken)?;
            prepared.push((entry, new.erasable, bytes, groups));
        }
        let applied = self.shared.write(|state| {
            prepared.iter().try_for_each(|(entry, erasable, ..)| {
                self.shared.note_end(state, entry);
                state.apply(entry)?;
                state.recall(&entry.body, erasable);
                Ok::<(), crate::ledger::state::ApplyError>(())
            })
        });
        applied.map_err(|e| Failure::Broken(StoreError::Unwritable(format!("an entry cannot be applied: {e}"))))?;
        for (entry, erasable, bytes, groups) in prepared {
            self.tree.push(bytes.hash);
            self.tiles.push(entry.seq, bytes.hash, &mut self.full_tiles);
            self.builder.push(at, &bytes.raw, &groups);
            self.done.push((entry, erasable));
        }
        Ok(())
    }

    /// Groups 1 to 4 as `group.v1` has them. An entry that names no tenant is sealed under the organisation's own key.
    fn seal(&self, entry: &Entry, bytes: &Prepared) -> Result<Vec<(u8, Vec<u8>)>, StoreError> {
        let tenant = match &entry.body {
            Body::Admit(admit) => admit.who.tenant.as_deref(),
            Body::Deny(deny) => deny.who.as_ref().and_then(|who| who.tenant.as_deref()),
            _ => None,
        };
        let seal = |(group, salt, clear): &(u8, [u8; SALT], Vec<u8>)| {
            let value = match (group, &self.reader.keys) {
                (2 | 3, Some(keys)) => {
                    let place = Place { epoch: self.reader.journal.epoch, seq: entry.seq, group: *group };
                    keys.seal(tenant.unwrap_or_default(), &place, salt, clear)?
                }
                (2 | 3, None) => return Err(StoreError::Unwritable("the data keys are not open".into())),
                _ => [salt.as_slice(), clear].concat(),
            };
            Ok((*group, value))
        };
        bytes.groups.iter().map(seal).collect()
    }

    /// A fresh salt. Random bytes are drawn a page at a time: each draw costs a call into the generator.
    fn salt(&mut self) -> [u8; SALT] {
        if self.salts.len() < SALT {
            self.salts.resize(256 * SALT, 0);
            rand::fill(&mut self.salts).expect("the system's random generator gives bytes once the system is up");
        }
        let rest = self.salts.len() - SALT;
        let salt = self.salts[rest..].try_into().expect("the slice is one salt long");
        self.salts.truncate(rest);
        salt
    }

    fn carried(&self) -> Carried {
        Carried {
            epoch: self.reader.journal.epoch,
            state: self.shared.read(Clone::clone),
            tree: self.tree.clone(),
            tiles: self.tiles.clone(),
        }
    }

    /// Names of persons, sealed like a group 2 of the entry `seq`; nothing where there are none.
    fn seal_names(&self, seq: u64, names: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(keys) = self.reader.keys.as_ref().filter(|_| !names.is_empty()) else { return Ok(None) };
        let place = Place { epoch: self.reader.journal.epoch, seq, group: 2 };
        keys.seal("", &place, &super::seal::random(), names).map(Some)
    }

    fn running_snapshot(&self) -> Result<Running, StoreError> {
        let carried = self.carried();
        let persons = self.seal_names(carried.size(), &carried.persons())?;
        Ok(Running { carried, persons })
    }

    /// Commits the block and answers who waits for it.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.why.clone());
        }
        if !self.builder.is_empty() {
            let (started, count) = (Instant::now(), self.builder.count);
            if let Err(error) = self.write() {
                self.troubles.failed(InTrouble::Journal, &error);
                let why = error.reason();
                self.break_off(why.clone(), 0);
                return Err(why);
            }
            self.shared.gauges.commit(started.elapsed(), count);
            self.committed();
        }
        for (answer, reply, _permit) in self.waiting.drain(..) {
            // A caller that hung up does not read its answer; what it asked for is done.
            let _ = answer.send(Ok(reply));
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let pending = self.take_block();
        if self.reader.journal.month().is_some() {
            let bytes = self.reader.journal.commit(pending)?;
            self.feeder.pending(bytes);
            return Ok(());
        }
        // The very first entries of a ledger: nothing is carried over.
        let month = pending.commit.at.utc_month();
        let opening = Opening {
            month: &month,
            first: 0,
            root: Tree::new().root(),
            snapshot: None,
            catalogue: None,
            persons: None,
        };
        self.reader.journal.begin(&opening, pending)
    }

    /// The block as it goes to disk; the next one begins.
    fn take_block(&mut self) -> Pending {
        let commit = std::mem::replace(&mut self.builder, block::Builder::new(self.tree.size()));
        Pending { commit, edge: self.tree.edge().to_vec(), tiles: std::mem::take(&mut self.full_tiles) }
    }

    /// The block is on disk: tells everybody, starts the next.
    fn committed(&mut self) {
        self.shared.publish(&self.tree);
        self.views.committed(Arc::new(self.reader.positioned(std::mem::take(&mut self.done))));
        self.answered = 0;
        self.noted = 0;
    }

    /// Side file and snapshot, when it is time; off this thread.
    pub(super) fn look_round(&mut self) {
        if self.broken.is_some() || !self.builder.is_empty() {
            return;
        }
        let head = self.shared.head();
        self.keeper.note_head(&head);
        if self.keeper.wants_snapshot(head.size) {
            match self.running_snapshot() {
                Ok(running) => self.keeper.snapshot(running),
                Err(error) => tracing::warn!(%error, "the running snapshot cannot be made"),
            }
        }
        self.prepare_month();
    }

    pub(super) fn feeder(&self) -> &Feeder {
        &self.feeder
    }

    pub(super) fn close(mut self) -> Result<(), StoreError> {
        let flushed = self.flush().map_err(StoreError::Unwritable);
        let kept = match flushed {
            Ok(()) => {
                let running = self.running_snapshot();
                running.and_then(|running| self.keeper.close(&self.shared.head(), running))
            }
            Err(_) => Ok(()),
        };
        self.feeder.stop();
        self.views.close();
        self.shared.healthy.store(false, Ordering::SeqCst);
        flushed.and(kept).and(self.reader.journal.close())
    }
}

/// Locks whatever a panic left locked: the state is made anew after one.
pub fn unpoisoned<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// What is taken although the month's file cannot be written: calls under way may end, and what is missing is said, as
/// long as the log has room.
fn ends_a_call(request: &Request) -> bool {
    use Request::{ExpireLeases, Gap, InterruptAll, Job, Settle};
    matches!(request, Settle { .. } | Job { .. } | ExpireLeases | InterruptAll | Gap { .. })
}

/// What `relaxed` may answer ahead of the disk.
fn is_of_a_call(request: &Request) -> bool {
    matches!(request, Request::Admit(_) | Request::Settle { .. } | Request::Deny { .. } | Request::Job { .. })
}
