//! What the writer shows to readers: the state as decided, the declared state and the head as committed, and gauges.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::domain::Catalogue;
use crate::ledger::entry::Entry;
use crate::ledger::opening::{Counting, Ended};
use crate::ledger::state::State;
use crate::ledger::tree::Tree;

use super::Head;
use super::clock::Clock;
use super::writer::unpoisoned;

/// Shared by the writer and every handle. The state is locked for the microseconds of one decision, never during I/O.
pub struct Shared {
    pub clock: Arc<dyn Clock>,
    pub healthy: AtomicBool,
    pub gauges: Meters,
    state: RwLock<State>,
    catalogue: ArcSwap<Catalogue>,
    head: Mutex<Head>,
    /// How many count what budgets have posted; the calls that end meanwhile.
    counters: AtomicUsize,
    ended: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    calls: Vec<Ended>,
    /// Some are not there: too many, or a commit failed.
    lost: bool,
}

/// Most calls that are kept while somebody counts: who is slower counts again.
const MOST_ENDS: usize = 65_536;

impl Shared {
    /// `before`: entries of the epochs before this one.
    pub fn new(clock: Arc<dyn Clock>, epoch: u64, before: u64) -> Shared {
        let state = State::new();
        Shared {
            clock,
            healthy: AtomicBool::new(true),
            gauges: Meters::default(),
            catalogue: ArcSwap::new(state.catalogue().clone()),
            head: Mutex::new(Head {
                epoch,
                before,
                size: 0,
                root: Tree::new().root(),
                applied: 0,
                at: state.last_ts(),
            }),
            state: RwLock::new(state),
            counters: AtomicUsize::new(0),
            ended: Mutex::default(),
        }
    }

    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        let state = unpoisoned(self.state.read());
        f(&state)
    }

    pub fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = unpoisoned(self.state.write());
        f(&mut state)
    }

    /// Another state altogether: at start and after a failure.
    pub fn replace(&self, state: State, tree: &Tree) {
        *unpoisoned(self.state.write()) = state;
        unpoisoned(self.ended.lock()).lost = true;
        self.publish(tree);
    }

    /// From now on the calls that end are kept, until the guard is dropped.
    pub fn watch(self: &Arc<Shared>) -> Watch {
        // The writer notes an end under the lock on the state: none falls between the two lines.
        let since = self.read(|state| {
            if self.counters.fetch_add(1, Ordering::SeqCst) == 0 {
                *unpoisoned(self.ended.lock()) = Ends::default();
            }
            state.next_seq()
        });
        Watch { shared: self.clone(), before: self.head().before, since }
    }

    /// Notes the call that an entry ends; before the entry is applied.
    pub fn note_end(&self, state: &State, entry: &Entry) {
        if self.counters.load(Ordering::SeqCst) == 0 {
            return;
        }
        let Some(call) = Ended::by(state, entry) else { return };
        let mut ends = unpoisoned(self.ended.lock());
        if ends.calls.len() < MOST_ENDS {
            ends.calls.push(call);
        } else {
            ends.lost = true;
        }
    }

    /// Adds the calls that ended since the sums were read. `false`: they are not all there, count again.
    pub fn catch_up(&self, counting: &mut Counting) -> bool {
        let ends = unpoisoned(self.ended.lock());
        ends.calls.iter().for_each(|call| counting.ended(call));
        if let Some(last) = ends.calls.last() {
            counting.reached(last.seq + 1);
        }
        !ends.lost && self.counters.load(Ordering::SeqCst) > 0
    }

    /// What is in the state is on disk now.
    pub fn publish(&self, tree: &Tree) {
        let state = unpoisoned(self.state.read());
        if !Arc::ptr_eq(state.catalogue(), &self.catalogue.load()) {
            self.catalogue.store(state.catalogue().clone());
        }
        let mut head = unpoisoned(self.head.lock());
        (head.size, head.root, head.at) = (tree.size(), tree.root(), state.last_ts());
    }

    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.load_full()
    }

    pub fn head(&self) -> Head {
        unpoisoned(self.head.lock()).clone()
    }
}

/// While it lives, calls that end are kept for who counts what budgets have posted.
pub struct Watch {
    shared: Arc<Shared>,
    /// Entries of earlier epochs.
    before: u64,
    /// Entries from this sequence on are watched.
    since: u64,
}

impl Watch {
    /// Whether sums as of a position ([`super::history`]) have everything that ended before the watch began: the sequence
    /// they are as of.
    pub fn sequence(&self, position: u64) -> Option<u64> {
        position.checked_sub(self.before).filter(|seq| *seq >= self.since)
    }

    /// See [`Shared::catch_up`].
    pub fn catch_up(&self, counting: &mut Counting) -> bool {
        self.shared.catch_up(counting)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.shared.counters.fetch_sub(1, Ordering::SeqCst) == 1 {
            unpoisoned(self.shared.ended.lock()).calls = Vec::new();
        }
    }
}

/// Counters the writer keeps about itself.
#[derive(Default)]
pub struct Meters {
    commits: AtomicU64,
    entries: AtomicU64,
    micros: AtomicU64,
    /// Commits by duration: bucket i has those under 2^i times 64 µs; the last has the rest.
    buckets: [AtomicU64; BUCKETS],
}

const BUCKETS: usize = 16;

/// A reading of the writer's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauges {
    pub commits: u64,
    pub entries: u64,
    /// Time spent in commits, in microseconds.
    pub commit_us: u64,
    /// (upper bound in microseconds, commits up to it), cumulative.
    pub commit_histogram: Vec<(u64, u64)>,
    /// Requests accepted and not yet answered.
    pub queued: u64,
    /// Entries committed that the views do not have on disk yet.
    pub views_behind: u64,
    pub open_calls: u64,
}

impl Meters {
    pub fn commit(&self, took: Duration, entries: usize) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        let bucket = (0..BUCKETS - 1).find(|i| micros < 64 << i).unwrap_or(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, queued: u64, views_behind: u64, open_calls: u64) -> Gauges {
        let mut sum = 0;
        let histogram = self.buckets.iter().enumerate().map(|(i, n)| {
            sum += n.load(Ordering::Relaxed);
            (if i + 1 == BUCKETS { u64::MAX } else { 64 << i }, sum)
        });
        Gauges {
            commits: self.commits.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            commit_us: self.micros.load(Ordering::Relaxed),
            commit_histogram: histogram.collect(),
            queued,
            views_behind,
            open_calls,
        }
    }
}
