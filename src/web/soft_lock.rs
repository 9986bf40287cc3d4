//! Slows down guessing of passwords: after each failure the account and the source wait, twice as long each time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::Micros;
use crate::domain::time::SECOND;

/// The longest wait.
const LONGEST: i64 = 15 * 60 * SECOND;
/// Failures are forgotten after a day without one.
const FORGOTTEN: i64 = 24 * 3_600 * SECOND;
/// Most accounts and sources remembered; the oldest failure makes room.
const CAPACITY: usize = 10_000;

/// Who is failing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    Account(String),
    /// An IPv4 /24 or IPv6 /64.
    Source(String),
}

impl Suspect {
    /// The network an address is in.
    pub fn source(address: IpAddr) -> Suspect {
        Suspect::Source(match address {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        })
    }
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Micros,
}

impl Failures {
    /// 1 s after the first failure, doubling.
    fn until(&self) -> Micros {
        let wait = SECOND.saturating_mul(1 << self.count.saturating_sub(1).min(20)).min(LONGEST);
        Micros(self.last.0.saturating_add(wait))
    }
}

/// The failures of late.
#[derive(Debug, Default)]
pub struct SoftLock(BTreeMap<Suspect, Failures>);

impl SoftLock {
    /// Whole seconds until any of these may try again; `None` means now.
    pub fn wait(&self, suspects: &[Suspect], now: Micros) -> Option<i64> {
        let longest = suspects.iter().filter_map(|s| self.0.get(s)).map(|f| f.until().0 - now.0).max()?;
        (longest > 0).then(|| (longest + SECOND - 1) / SECOND)
    }

    /// Notes a failure of all of these.
    pub fn failed(&mut self, suspects: &[Suspect], now: Micros) {
        for suspect in suspects {
            if self.0.len() >= CAPACITY && !self.0.contains_key(suspect) {
                let oldest = self.0.iter().min_by_key(|(_, f)| f.last).map(|(s, _)| s.clone());
                oldest.and_then(|s| self.0.remove(&s));
            }
            let failures = self.0.entry(suspect.clone()).or_insert(Failures { count: 0, last: now });
            if now.0 - failures.last.0 > FORGOTTEN {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
    }

    /// A success clears the account; the source stays, since it may be trying others.
    pub fn succeeded(&mut self, account: &Suspect) {
        self.0.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Suspect {
        Suspect::Account(name.into())
    }

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour() {
        let mut lock = SoftLock::default();
        let (ada, now) = ([account("ada")], Micros(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            lock.failed(&ada, now);
            waits.push(lock.wait(&ada, now).unwrap());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(lock.wait(&ada, Micros(900 * SECOND)), None);
    }

    #[test]
    fn one_account_does_not_lock_out_another_but_a_source_waits_for_all() {
        let mut lock = SoftLock::default();
        let source = Suspect::source("192.0.2.7".parse().unwrap());
        assert_eq!(source, Suspect::Source("192.0.2.0/24".into()));
        lock.failed(&[account("ada"), source.clone()], Micros(0));
        assert_eq!(lock.wait(&[account("bob")], Micros(0)), None);
        assert_eq!(lock.wait(&[account("bob"), source], Micros(0)), Some(1));
        lock.succeeded(&account("ada"));
        assert_eq!(lock.wait(&[account("ada")], Micros(0)), None);
    }

    #[test]
    fn a_day_without_failure_starts_anew_and_memory_is_bounded() {
        let mut lock = SoftLock::default();
        for _ in 0..5 {
            lock.failed(&[account("ada")], Micros(0));
        }
        let later = Micros(FORGOTTEN + SECOND);
        lock.failed(&[account("ada")], later);
        assert_eq!(lock.wait(&[account("ada")], later), Some(1));
        for n in 0..CAPACITY as i64 + 10 {
            lock.failed(&[account(&n.to_string())], Micros(n));
        }
        assert!(lock.0.len() <= CAPACITY);
    }
}
