//! Remembers prompt prefixes, as vendors' prompt caches do: by hash, never the text.

use std::collections::HashMap;
use std::sync::Mutex;

use super::super::random::{fnv, fnv_step};

/// Most prefixes remembered; when full, the older half is forgotten.
const CAPACITY: usize = 65_536;
/// Bytes between two prefixes that are remembered.
const STEP: usize = 512;

/// What of a prompt was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Bytes of the prompt, from its start, that were seen before.
    pub bytes: usize,
}

/// Prefixes of all models.
#[derive(Default)]
pub struct PrefixCache {
    seen: Mutex<(u64, HashMap<u64, u64>)>,
}

impl PrefixCache {
    /// How much of `prompt` was known for `model`; remembers the rest.
    pub fn look(&self, model: &str, prompt: &str) -> Known {
        let mut guard = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (tick, seen) = &mut *guard;
        let (mut hash, mut known, mut unbroken) = (fnv(model.as_bytes()), 0, true);
        for (index, byte) in prompt.bytes().enumerate() {
            hash = fnv_step(hash, byte);
            let end = index + 1;
            if end % STEP != 0 && end != prompt.len() {
                continue;
            }
            *tick += 1;
            unbroken &= seen.insert(hash, *tick).is_some();
            if unbroken {
                known = end;
            }
        }
        if seen.len() > CAPACITY {
            let horizon = tick.saturating_sub(CAPACITY as u64 / 2);
            seen.retain(|_, used| *used > horizon);
        }
        Known { bytes: known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_seen_before_is_known_up_to_where_it_differs() {
        let cache = PrefixCache::default();
        let prompt = "a".repeat(2000);
        assert_eq!(cache.look("m", &prompt).bytes, 0);
        assert_eq!(cache.look("m", &prompt).bytes, 2000);
        assert_eq!(cache.look("other", &prompt).bytes, 0);
        let longer = format!("{}{}", &prompt[..1600], "b".repeat(900));
        assert_eq!(cache.look("m", &longer).bytes, 1536);
    }

    #[test]
    fn memory_is_bounded() {
        let cache = PrefixCache::default();
        for n in 0..CAPACITY + 10 {
            cache.look("m", &n.to_string());
        }
        assert!(cache.seen.lock().unwrap().1.len() <= CAPACITY + 1);
    }
}
