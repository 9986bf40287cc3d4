//! What the writer shows to readers: the state as decided, the declared state and the head as committed, and gauges.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::domain::Catalogue;
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
}

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
        self.publish(tree);
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
