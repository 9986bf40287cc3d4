//! What was asked before: idempotency keys, and the retries clients make by themselves. In memory only, bounded.
//!
//! Answers are not kept yet, so a second use of a `wb-idempotency-key` is refused with the first call's id and not
//! forwarded: it is metered once. A retry is a new call that names the one it repeats: same key, same body, within two
//! minutes, and the client's own retry counter above zero.

use std::collections::HashMap;

use crate::domain::time::SECOND;
use crate::domain::{CallId, Micros};

const KEEP_KEYS: i64 = 24 * 3_600 * SECOND;
const KEEP_BODIES: i64 = 120 * SECOND;
const MAX_KEYS: usize = 100_000;
const MAX_BODIES: usize = 50_000;
/// Longest idempotency key, in bytes.
pub const MAX_KEY: usize = 128;

/// Memory of recent calls by their idempotency key and by their body, each within one credential's namespace.
#[derive(Default)]
pub struct Replays {
    keys: HashMap<(String, String), (CallId, Micros)>,
    bodies: HashMap<(String, [u8; 32]), (CallId, Micros)>,
}

impl Replays {
    /// Claims an idempotency key for a call. `Err`: the call that has it already.
    pub fn claim(&mut self, credential: &str, key: &str, call: CallId, now: Micros) -> Result<(), CallId> {
        let slot = (credential.to_owned(), key.to_owned());
        if let Some((first, at)) = self.keys.get(&slot)
            && now.0 - at.0 < KEEP_KEYS
        {
            return Err(*first);
        }
        make_room(&mut self.keys, MAX_KEYS, now.0 - KEEP_KEYS);
        self.keys.insert(slot, (call, now));
        Ok(())
    }

    /// Gives a key back: its call never reached a provider, so the next use may.
    pub fn release(&mut self, credential: &str, key: &str, call: CallId) {
        let slot = (credential.to_owned(), key.to_owned());
        if self.keys.get(&slot).is_some_and(|(first, _)| *first == call) {
            self.keys.remove(&slot);
        }
    }

    /// Notes a body; the call it repeats, if the client says it is a retry.
    pub fn seen(&mut self, credential: &str, body: [u8; 32], call: CallId, retry: bool, now: Micros) -> Option<CallId> {
        make_room(&mut self.bodies, MAX_BODIES, now.0 - KEEP_BODIES);
        let before = self.bodies.insert((credential.to_owned(), body), (call, now));
        before.filter(|(_, at)| retry && now.0 - at.0 < KEEP_BODIES).map(|(first, _)| first)
    }
}

/// Drops what is older than `oldest`, then the older half, when the map is full.
fn make_room<K: std::hash::Hash + Eq>(map: &mut HashMap<K, (CallId, Micros)>, most: usize, oldest: i64) {
    if map.len() < most {
        return;
    }
    map.retain(|_, (_, at)| at.0 > oldest);
    if map.len() >= most {
        let mut times: Vec<i64> = map.values().map(|(_, at)| at.0).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        let mut room = most / 2;
        map.retain(|_, (_, at)| {
            let keep = at.0 >= median && room > 0;
            room -= usize::from(keep);
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_once_per_credential_and_day() {
        let mut r = Replays::default();
        assert_eq!(r.claim("a", "k", CallId(1), Micros(0)), Ok(()));
        assert_eq!(r.claim("a", "k", CallId(2), Micros(5)), Err(CallId(1)));
        assert_eq!(r.claim("b", "k", CallId(3), Micros(5)), Ok(()));
        assert_eq!(r.claim("a", "k", CallId(4), Micros(KEEP_KEYS)), Ok(()));
        r.release("a", "k", CallId(4));
        assert_eq!(r.claim("a", "k", CallId(5), Micros(KEEP_KEYS + 1)), Ok(()));
    }

    #[test]
    fn a_retry_names_the_call_it_repeats() {
        let mut r = Replays::default();
        assert_eq!(r.seen("a", [1; 32], CallId(1), false, Micros(0)), None);
        assert_eq!(r.seen("a", [1; 32], CallId(2), true, Micros(SECOND)), Some(CallId(1)));
        assert_eq!(r.seen("a", [1; 32], CallId(3), true, Micros(500 * SECOND)), None);
        assert_eq!(r.seen("b", [1; 32], CallId(4), true, Micros(500 * SECOND)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut r = Replays::default();
        for i in 0..(MAX_BODIES as u128 * 3) {
            let mut body = [0; 32];
            body[..16].copy_from_slice(&i.to_be_bytes());
            r.seen("a", body, CallId(i), false, Micros(0));
        }
        assert!(r.bodies.len() <= MAX_BODIES);
    }
}
