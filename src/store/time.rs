//! Journal time: never smaller than the last entry's, and not led astray by a clock that is set.
//!
//! The wall clock is followed as long as it runs with the monotonic one. A jump of more than a minute is not followed
//! until the clock has stood by it for ten seconds: a forward jump then is, a backward one never is (journal time goes on
//! by the monotonic clock, and keeps the distance until the wall clock comes back). Each is a GAP entry.

use std::sync::Arc;

use crate::domain::Micros;
use crate::domain::time::SECOND;

use super::clock::Clock;

/// A larger difference between the two clocks is a jump.
const JUMP: i64 = 60 * SECOND;
/// How long a clock must stand by its jump.
const CONFIRMED_AFTER: i64 = 10 * SECOND;
/// Two readings within this are the same jump.
const SAME: i64 = 2 * SECOND;

/// Makes journal time of the clock's readings.
pub struct JournalTime {
    clock: Arc<dyn Clock>,
    wall: i64,
    mono: i64,
    /// Journal time is the wall clock plus this; not negative.
    ahead: i64,
    doubted: Option<Doubt>,
    note: Option<String>,
}

struct Doubt {
    since: i64,
    by: i64,
}

impl JournalTime {
    /// Goes on from the last entry's time.
    pub fn new(clock: Arc<dyn Clock>, last: Micros) -> JournalTime {
        let (wall, mono) = (clock.now().0, clock.monotonic());
        let behind = last.0 - wall;
        let doubtful = behind > JUMP && !clock.led();
        let note = doubtful.then(|| format!("the clock is {} s behind the journal", behind / SECOND));
        JournalTime { clock, wall, mono, ahead: if doubtful { behind } else { 0 }, doubted: None, note }
    }

    /// The time of the next entry.
    pub fn now(&mut self, last: Micros) -> Micros {
        let (wall, mono) = (self.clock.now().0, self.clock.monotonic());
        let jump = (wall - self.wall) - (mono - self.mono);
        if self.clock.led() {
            (self.ahead, self.doubted) = (0, None);
        } else if jump.abs() > JUMP && !self.confirmed(jump, mono) {
            return last.max(Micros(self.wall + self.ahead + (mono - self.mono)));
        } else if jump.abs() <= JUMP {
            self.doubted = None;
        }
        (self.wall, self.mono) = (wall, mono);
        last.max(Micros(wall + self.ahead))
    }

    /// Whether a jump has been stood by; then journal time is set up to go on with it.
    fn confirmed(&mut self, jump: i64, mono: i64) -> bool {
        match &self.doubted {
            Some(doubt) if (doubt.by - jump).abs() <= SAME => {
                if mono - doubt.since < CONFIRMED_AFTER {
                    return false;
                }
            }
            _ => {
                self.doubted = Some(Doubt { since: mono, by: jump });
                self.note = Some(format!("the clock jumped by {} s; not followed", jump / SECOND));
                return false;
            }
        }
        self.doubted = None;
        if jump < 0 {
            self.ahead -= jump;
        } else {
            let followed = jump - self.ahead.min(jump);
            self.ahead -= self.ahead.min(jump);
            self.note = Some(format!("the clock stands by its jump; journal time follows by {} s", followed / SECOND));
        }
        true
    }

    /// What is to be put on record about the clock, once.
    pub fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct TwoClocks(Mutex<(i64, i64)>);

    impl TwoClocks {
        fn pass(&self, seconds: i64) {
            let mut both = self.0.lock().unwrap();
            both.0 += seconds * SECOND;
            both.1 += seconds * SECOND;
        }
        fn jump(&self, seconds: i64) {
            self.0.lock().unwrap().0 += seconds * SECOND;
        }
    }

    impl Clock for TwoClocks {
        fn now(&self) -> Micros {
            Micros(self.0.lock().unwrap().0)
        }
        fn monotonic(&self) -> i64 {
            self.0.lock().unwrap().1
        }
    }

    #[test]
    fn a_clock_set_back_two_hours_does_not_set_the_journal_back() {
        let clock = Arc::new(TwoClocks::default());
        clock.pass(100_000);
        let mut time = JournalTime::new(clock.clone(), Micros(0));
        let mut last = time.now(Micros(0));
        clock.jump(-7_200);
        for second in 0..40 {
            clock.pass(1);
            let next = time.now(last);
            assert_eq!(next.0 - last.0, SECOND, "second {second}");
            last = next;
        }
        assert!(time.take_note().unwrap().contains("jumped by -7200 s"));
        assert_eq!(time.take_note(), None);
        clock.jump(7_200);
        for _ in 0..40 {
            clock.pass(1);
            let next = time.now(last);
            assert_eq!(next.0 - last.0, SECOND);
            last = next;
        }
        assert_eq!(last, clock.now(), "back at the clock's own time");
    }

    #[test]
    fn a_jump_forward_is_followed_once_the_clock_stands_by_it() {
        let clock = Arc::new(TwoClocks::default());
        let mut time = JournalTime::new(clock.clone(), Micros(0));
        clock.jump(3_600);
        assert_eq!(time.now(Micros(0)), Micros(0));
        assert!(time.take_note().unwrap().contains("not followed"));
        clock.pass(5);
        assert_eq!(time.now(Micros(0)), Micros(5 * SECOND));
        clock.pass(6);
        assert_eq!(time.now(Micros(0)), clock.now());
        assert!(time.take_note().unwrap().contains("follows by 3600 s"));
    }

    #[test]
    fn a_start_with_a_clock_behind_the_journal_goes_on_from_the_journal() {
        let clock = Arc::new(TwoClocks::default());
        let last = Micros(7_200 * SECOND);
        let mut time = JournalTime::new(clock.clone(), last);
        assert!(time.take_note().unwrap().contains("7200 s behind"));
        clock.pass(3);
        assert_eq!(time.now(last), last.plus_seconds(3));
    }
}
