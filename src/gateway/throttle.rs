//! What outsiders may do before anyone is identified: bounded in attempts, in entries and in memory.
//!
//! Twenty bad credentials in a minute from one source prefix (/24 or /64) bring 60 s of 429 before anything is parsed. A
//! source that showed a good key within the hour is not locked out with its neighbours: there only the bad key id is.
//! Beyond 60 unidentified attempts a minute from one prefix, records are folded into one entry with a count.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::domain::Micros;
use crate::domain::time::SECOND;

const BAD_PER_MINUTE: u32 = 20;
const RECORDS_PER_MINUTE: u32 = 60;
const MINUTE: i64 = 60 * SECOND;
const GOOD_FOR: i64 = 3_600 * SECOND;
/// Most prefixes and pairs remembered; beyond, what is over is forgotten, then everything.
const MAX_REMEMBERED: usize = 20_000;

/// The part of an address that one party usually holds: /24 of IPv4, /64 of IPv6.
pub fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !((1u128 << 64) - 1))),
    }
}

#[derive(Clone, Copy)]
struct Window {
    since: Micros,
    count: u32,
    blocked_until: Micros,
}

impl Window {
    /// Counts one more; true once the limit is passed in this minute.
    fn hit(&mut self, now: Micros, limit: u32) -> bool {
        if now.0 - self.since.0 >= MINUTE {
            *self = Window { since: now, count: 0, blocked_until: self.blocked_until };
        }
        self.count += 1;
        self.count >= limit
    }
}

/// Counters of bad credentials and of records. Give it the time; it keeps none.
#[derive(Default)]
pub struct Throttle {
    prefixes: HashMap<IpAddr, Window>,
    pairs: HashMap<(IpAddr, String), Window>,
    good: HashMap<IpAddr, Micros>,
    records: HashMap<IpAddr, Records>,
}

#[derive(Clone, Copy)]
struct Records {
    since: Micros,
    written: u32,
    folded: u64,
}

/// What becomes of the record of an unidentified attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Write it; the number is how many it stands for.
    Write(u64),
    /// It is counted into a later one.
    Fold,
}

impl Throttle {
    /// Seconds for which a source is refused before anything is parsed, if it is.
    pub fn blocked(&self, source: IpAddr, now: Micros) -> Option<u8> {
        if source.to_canonical().is_loopback() || self.has_good(source, now) {
            return None;
        }
        self.prefixes.get(&prefix(source)).and_then(|w| left(w.blocked_until, now))
    }

    /// The same for one key id from one source.
    pub fn blocked_key(&self, source: IpAddr, key_id: &str, now: Micros) -> Option<u8> {
        if source.to_canonical().is_loopback() {
            return None;
        }
        self.pairs.get(&(prefix(source), key_id.to_owned())).and_then(|w| left(w.blocked_until, now))
    }

    /// A credential that did not verify.
    pub fn bad(&mut self, source: IpAddr, key_id: Option<&str>, now: Micros) {
        if source.to_canonical().is_loopback() {
            return;
        }
        let fresh = Window { since: now, count: 0, blocked_until: Micros(0) };
        let until = now.plus_seconds(60);
        forget(&mut self.prefixes, |w| w.since.0.max(w.blocked_until.0) + MINUTE < now.0);
        forget(&mut self.pairs, |w| w.since.0.max(w.blocked_until.0) + MINUTE < now.0);
        let window = self.prefixes.entry(prefix(source)).or_insert(fresh);
        if window.hit(now, BAD_PER_MINUTE) {
            window.blocked_until = until;
        }
        let window = self.pairs.entry((prefix(source), key_id.unwrap_or_default().to_owned())).or_insert(fresh);
        if window.hit(now, BAD_PER_MINUTE) {
            window.blocked_until = until;
        }
    }

    /// A credential that verified.
    pub fn good(&mut self, source: IpAddr, now: Micros) {
        forget(&mut self.good, |at| at.0 + GOOD_FOR < now.0);
        self.good.insert(source, now);
    }

    fn has_good(&self, source: IpAddr, now: Micros) -> bool {
        self.good.get(&source).is_some_and(|at| now.0 - at.0 < GOOD_FOR)
    }

    /// Whether the record of an unidentified attempt is written or folded.
    pub fn record(&mut self, source: IpAddr, now: Micros) -> Record {
        forget(&mut self.records, |r| r.folded == 0 && r.since.0 + MINUTE < now.0);
        let entry = self.records.entry(prefix(source)).or_insert(Records { since: now, written: 0, folded: 0 });
        if now.0 - entry.since.0 >= MINUTE {
            let folded = std::mem::take(&mut entry.folded);
            *entry = Records { since: now, written: 1, folded: 0 };
            return Record::Write(folded + 1);
        }
        if entry.written < RECORDS_PER_MINUTE {
            entry.written += 1;
            return Record::Write(1);
        }
        entry.folded += 1;
        Record::Fold
    }

    /// What was folded and whose minute is over: to be written now. `all` at shut-down.
    pub fn take_folded(&mut self, now: Micros, all: bool) -> Vec<(IpAddr, u64)> {
        let over = |r: &Records| r.folded > 0 && (all || now.0 - r.since.0 >= MINUTE);
        self.records.iter_mut().filter(|(_, r)| over(r)).map(|(p, r)| (*p, std::mem::take(&mut r.folded))).collect()
    }
}

fn left(until: Micros, now: Micros) -> Option<u8> {
    // Clients wait what they are told, so they are never told more than half a minute.
    (until > now).then(|| ((until.0 - now.0 + SECOND - 1) / SECOND).clamp(1, 30) as u8)
}

fn forget<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, over: impl Fn(&V) -> bool) {
    if map.len() >= MAX_REMEMBERED {
        map.retain(|_, v| !over(v));
        if map.len() >= MAX_REMEMBERED {
            map.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Micros = Micros(1_000_000_000_000);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn twenty_bad_keys_in_a_minute_block_the_prefix_for_a_minute() {
        let mut t = Throttle::default();
        for i in 0..20 {
            assert_eq!(t.blocked(ip("192.0.2.7"), T0), None, "{i}");
            t.bad(ip("192.0.2.7"), Some("wbk_p00000000000"), T0);
        }
        assert!(t.blocked(ip("192.0.2.99"), T0).is_some());
        assert_eq!(t.blocked(ip("192.0.3.1"), T0), None);
        assert_eq!(t.blocked(ip("192.0.2.7"), T0.plus_seconds(61)), None);
    }

    #[test]
    fn loopback_and_sources_with_a_good_key_are_not_locked_out() {
        let mut t = Throttle::default();
        t.good(ip("192.0.2.8"), T0);
        for _ in 0..50 {
            t.bad(ip("192.0.2.7"), Some("wbk_pBAD"), T0);
            t.bad(ip("127.0.0.1"), None, T0);
        }
        assert_eq!(t.blocked(ip("192.0.2.8"), T0), None);
        assert!(t.blocked_key(ip("192.0.2.8"), "wbk_pBAD", T0).is_some());
        assert_eq!(t.blocked_key(ip("192.0.2.8"), "wbk_pGOOD", T0), None);
        assert_eq!(t.blocked(ip("127.0.0.1"), T0), None);
    }

    #[test]
    fn beyond_sixty_a_minute_attempts_are_folded_and_none_is_lost() {
        let mut t = Throttle::default();
        let mut written = 0;
        for _ in 0..200 {
            if let Record::Write(n) = t.record(ip("198.51.100.1"), T0) {
                written += n;
            }
        }
        assert_eq!(written, 60);
        assert!(t.take_folded(T0, false).is_empty());
        let later: u64 = t.take_folded(T0.plus_seconds(61), false).iter().map(|(_, n)| n).sum();
        assert_eq!(written + later, 200);
    }

    #[test]
    fn memory_is_bounded_whoever_knocks() {
        let mut t = Throttle::default();
        for i in 0..(MAX_REMEMBERED as u32 * 2) {
            t.bad(IpAddr::V4(Ipv4Addr::from(i << 8)), Some("x"), T0);
            t.record(IpAddr::V4(Ipv4Addr::from(i << 8)), T0);
        }
        assert!(
            t.prefixes.len() <= MAX_REMEMBERED && t.pairs.len() <= MAX_REMEMBERED && t.records.len() <= MAX_REMEMBERED
        );
    }
}
