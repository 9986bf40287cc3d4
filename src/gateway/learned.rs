//! What streams say as a rule: how many output tokens such calls came to lately, so that an `expected` hold fits them.
//!
//! Advice from the edge, not a balance: the writer decides with the number it is handed, and a call that says more is
//! extended. Bounded: so many kinds of calls, so many calls of each. A start reads the newest calls again.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{Call, Component, Filter, Micros, Outcome, UsageBasis};
use crate::store::Ledger;

/// Calls of one kind that are remembered.
const CALLS: usize = 200;
/// Calls before their number tells anything.
const ENOUGH: usize = 20;
/// Kinds of calls that are remembered.
const KINDS: usize = 4_096;
/// Output expected of a call whose kind is not known yet, in tokens.
const UNKNOWN: u64 = 4_096;
/// The least that is expected, in tokens.
const LEAST: u64 = 256;
/// After so many calls of a kind its rule is found again.
const EVERY: usize = 8;
/// Calls a start reads at most, and how old they may be in seconds.
const SEED_CALLS: usize = 20_000;
const SEED_AGE_S: i64 = 7 * 86_400;

/// What is expected of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Output tokens, all choices together.
    pub output: u64,
    /// Tokens that are billed for 100 reckoned from the length of what passes: more where a model thinks unseen, or writes
    /// what its tokenizer cuts small.
    pub billed_percent: u64,
}

const NO_RULE: Rule = Rule { output: UNKNOWN, billed_percent: 150 };

/// The newest calls of one kind: output tokens billed, and reckoned while they passed (0 = not known).
#[derive(Default)]
struct Kind {
    calls: VecDeque<(u32, u32)>,
    learned: usize,
    rule: Option<Rule>,
    used_at: u64,
}

/// Kinds of calls by application, model and class of prompts.
#[derive(Default)]
pub struct Learned {
    kinds: Mutex<(HashMap<u64, Kind>, u64)>,
    hasher: RandomState,
}

impl Kind {
    fn learn(&mut self, billed: u32, reckoned: u32) {
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back((billed, reckoned));
        self.learned += 1;
        if self.learned <= 2 * ENOUGH || self.learned % EVERY == 0 {
            self.rule = rule(&self.calls);
        }
    }
}

/// The 95th percentile of the calls and a fifth more.
fn rule(calls: &VecDeque<(u32, u32)>) -> Option<Rule> {
    if calls.len() < ENOUGH {
        return None;
    }
    let output = percentile(calls.iter().map(|(billed, _)| u64::from(*billed)))?;
    let ratios = calls.iter().filter(|(_, reckoned)| *reckoned >= 16);
    let ratio = percentile(ratios.map(|(billed, reckoned)| u64::from(*billed) * 100 / u64::from(*reckoned)));
    Some(Rule {
        output: (output * 6 / 5).max(LEAST),
        billed_percent: ratio.map_or(NO_RULE.billed_percent, |ratio| ratio.clamp(100, 2_000)),
    })
}

fn percentile(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    let at = (values.len() * 95).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(at).1)
}

impl Learned {
    fn key(&self, application: &str, model: &str, class: &str) -> u64 {
        self.hasher.hash_one((application, model, class))
    }

    fn kinds(&self) -> MutexGuard<'_, (HashMap<u64, Kind>, u64)> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is expected of a call of this kind.
    pub fn rule(&self, application: &str, model: &str, class: &str) -> Rule {
        let key = self.key(application, model, class);
        self.kinds().0.get(&key).and_then(|kind| kind.rule).unwrap_or(NO_RULE)
    }

    /// A call of this kind has ended, by the provider's own word.
    pub fn learn(&self, application: &str, model: &str, class: &str, billed: u64, reckoned: u64) {
        let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let key = self.key(application, model, class);
        let (kinds, clock) = &mut *self.kinds();
        *clock += 1;
        if kinds.len() >= KINDS && !kinds.contains_key(&key) {
            let oldest = kinds.iter().min_by_key(|(_, kind)| kind.used_at).map(|(key, _)| *key);
            oldest.map(|oldest| kinds.remove(&oldest));
        }
        let kind = kinds.entry(key).or_default();
        kind.used_at = *clock;
        kind.learn(short(billed), short(reckoned));
    }

    /// Learns from the newest calls on record. Reads the views: blocks. What was learned since is newer and stays.
    pub fn recall(&self, ledger: &Ledger, now: Micros) {
        let filter = Filter { from: Some(now.plus_seconds(-SEED_AGE_S)), ..Filter::default() };
        let mut calls: Vec<(u64, u32)> = Vec::new();
        let mut left = SEED_CALLS;
        let seen = ledger.views().visit(&filter, None, &mut |call| {
            left -= 1;
            calls.extend(self.of(&call));
            left > 0
        });
        if let Err(error) = seen {
            tracing::warn!(%error, "what calls say as a rule is learned anew");
        }
        let (kinds, _) = &mut *self.kinds();
        // Newest first, so each stands before those that are there.
        for (key, billed) in calls {
            if kinds.len() >= KINDS && !kinds.contains_key(&key) {
                continue;
            }
            let kind = kinds.entry(key).or_default();
            if kind.calls.len() < CALLS {
                kind.calls.push_front((billed, 0));
            }
        }
        kinds.values_mut().for_each(|kind| kind.rule = rule(&kind.calls));
    }

    fn of(&self, call: &Call) -> Option<(u64, u32)> {
        let whole = call.stream && call.outcome == Outcome::Completed && call.usage_basis == UsageBasis::Vendor;
        let who = call.who.as_ref().filter(|_| whole)?;
        let billed = call.usage.get(Component::OutputTokens)?;
        let (model, class) = (call.model_requested.as_deref()?, who.prompt_class.as_deref().unwrap_or_default());
        Some((self.key(&who.application, model, class), u32::try_from(billed).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_calls_is_expected_to_say_what_it_said() {
        let learned = Learned::default();
        assert_eq!(learned.rule("a", "m", "chat"), NO_RULE);
        for n in 0..19 {
            learned.learn("a", "m", "chat", 1_000 + n, 500);
        }
        assert_eq!(learned.rule("a", "m", "chat"), NO_RULE, "19 are not enough");
        learned.learn("a", "m", "chat", 100_000, 500);
        assert_eq!(learned.rule("a", "m", "chat"), Rule { output: 1_018 * 6 / 5, billed_percent: 203 });
        assert_eq!(learned.rule("a", "m", "extract"), NO_RULE);
        // What is older than the last 200 is forgotten.
        (0..300).for_each(|_| learned.learn("a", "m", "chat", 10, 10));
        assert_eq!(learned.rule("a", "m", "chat"), Rule { output: LEAST, billed_percent: 150 });
    }

    #[test]
    fn as_many_kinds_are_remembered_as_there_is_room_for() {
        let learned = Learned::default();
        for n in 0..KINDS + 10 {
            learned.learn("a", &n.to_string(), "", 1, 1);
        }
        assert_eq!(learned.kinds().0.len(), KINDS);
    }
}
