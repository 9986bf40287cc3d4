//! The writer's clock, so that tests and the demo's history can bring their own.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::Micros;

/// What time it is.
pub trait Clock: Send + Sync {
    fn now(&self) -> Micros;
}

/// The system's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        Micros::from_timestamp(jiff::Timestamp::now())
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
