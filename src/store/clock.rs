//! The writer's clock, so that tests and the demo's history can bring their own.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::domain::Micros;

/// What time it is.
pub trait Clock: Send + Sync {
    /// The present. The writer asks once for each request, in the order of the requests, before it decides.
    fn now(&self) -> Micros;

    /// Microseconds since some fixed instant of this process, by a clock that nobody sets: what jumps of [`Clock::now`]
    /// are measured against. A clock without one of its own never jumps.
    fn monotonic(&self) -> i64 {
        self.now().0
    }

    /// True while the clock is led through the past on purpose (the demo's history): its jumps against the monotonic
    /// clock are meant, and no GAP entry is written for them. Never for a clock that tells the real time.
    fn led(&self) -> bool {
        false
    }
}

/// The system's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        Micros::from_timestamp(jiff::Timestamp::now())
    }

    fn monotonic(&self) -> i64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct SetClock(AtomicI64);

impl SetClock {
    pub fn new(at: Micros) -> SetClock {
        SetClock(AtomicI64::new(at.0))
    }
    pub fn set(&self, at: Micros) {
        self.0.store(at.0, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Micros {
        Micros(self.0.load(Ordering::SeqCst))
    }
}
