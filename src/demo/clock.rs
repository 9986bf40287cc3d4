//! The demo's clock: led through the past while the history is written, the system's from then on.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::domain::Micros;
use crate::store::Clock;
use crate::store::clock::SystemClock;

/// Where the clock takes its time from.
enum Source {
    /// The instants of the requests to come, then the last one for as long as nothing follows.
    Past {
        next: VecDeque<Micros>,
        last: Micros,
    },
    Present,
}

/// See the module.
pub struct DemoClock(Mutex<Source>);

impl DemoClock {
    /// Stands at `start` until it is led on.
    pub fn at(start: Micros) -> DemoClock {
        DemoClock(Mutex::new(Source::Past { next: VecDeque::new(), last: start }))
    }

    /// Tells the real time from the first.
    pub fn present() -> DemoClock {
        DemoClock(Mutex::new(Source::Present))
    }

    /// The instants of the next requests, in their order. One that lies in the future of the real clock is cut to it.
    pub fn lead(&self, instants: impl IntoIterator<Item = Micros>) {
        let present = SystemClock.now();
        if let Source::Past { next, .. } = &mut *self.source() {
            next.clear();
            next.extend(instants.into_iter().map(|at| at.min(present)));
        }
    }

    /// The history is over.
    pub fn arrive(&self) {
        *self.source() = Source::Present;
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Clock for DemoClock {
    fn now(&self) -> Micros {
        match &mut *self.source() {
            Source::Present => SystemClock.now(),
            Source::Past { next, last } => {
                *last = next.pop_front().unwrap_or(*last);
                *last
            }
        }
    }

    fn led(&self) -> bool {
        matches!(&*self.source(), Source::Past { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_each_request_its_instant_and_then_the_present() {
        let clock = DemoClock::at(Micros(5));
        assert_eq!(clock.now(), Micros(5));
        clock.lead([Micros(10), Micros(20)]);
        assert_eq!([clock.now(), clock.now(), clock.now()], [Micros(10), Micros(20), Micros(20)]);
        assert!(clock.led());
        clock.arrive();
        assert!(!clock.led() && clock.now() > Micros(1_000_000_000_000_000));
    }
}
