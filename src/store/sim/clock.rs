//! A clock that a seed drives: it passes, it is set, and it stands at the edges of calendars.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::Micros;
use crate::store::Clock;

/// Wall and monotonic time, in microseconds.
#[derive(Debug)]
pub struct SimClock {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

/// Instants at which some calendar turns: months and years, a leap day, summer time in Berlin and New York.
pub const EDGES: [&str; 14] = [
    "2026-03-08T07:00:00Z",
    "2026-03-29T01:00:00Z",
    "2026-10-25T01:00:00Z",
    "2026-11-01T06:00:00Z",
    "2026-11-30T23:00:00Z",
    "2026-12-01T00:00:00Z",
    "2026-12-31T23:00:00Z",
    "2027-01-01T00:00:00Z",
    "2027-01-01T05:00:00Z",
    "2027-03-28T01:00:00Z",
    "2028-02-29T00:00:00Z",
    "2028-03-01T00:00:00Z",
    "2028-12-31T23:00:00Z",
    "2029-01-01T00:00:00Z",
];

/// An edge as an instant.
pub fn edge(n: usize) -> Micros {
    EDGES[n % EDGES.len()].parse().expect("the edges are written as instants")
}

impl SimClock {
    pub fn new(at: Micros) -> SimClock {
        SimClock { wall: AtomicI64::new(at.0), monotonic: AtomicI64::new(0) }
    }

    /// Time passes, for both.
    pub fn pass(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
        self.monotonic.fetch_add(micros, Ordering::SeqCst);
    }

    /// The wall clock is set.
    pub fn jump(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Micros {
        Micros(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> i64 {
        self.monotonic.load(Ordering::SeqCst)
    }
}
