//! Keeping the hold of a stream ahead of what it says.
//!
//! A stream that holds less than its upper bound asks for more before it has said what is held: the answer waits for the
//! commit, as the first byte did. Where the budgets do not afford more, the stream is ended with the dialect's error event
//! and costs what has passed.

use std::sync::Arc;

use crate::domain::{CallId, Money, Refusal};
use crate::ledger::request::{Admitted, Denied, Reply, Request};
use crate::store::Ledger;

use super::authorize::journal_unavailable;
use super::classify::Asked;
use super::learned::Rule;

/// Percent of what is held after which more is asked for.
const AHEAD: u64 = 80;
/// The least asked for at once, in tokens: each time is a commit.
const LEAST_STEP: u64 = 256;

/// The hold of a stream that is extended.
#[derive(Clone)]
pub(super) struct Cover {
    call: CallId,
    per_output_token: Money,
    billed_percent: u64,
    /// Output tokens that are held.
    held: u64,
    /// Output tokens it can say at most.
    most: u64,
    step: u64,
}

impl Cover {
    /// Of a call whose hold is less than its upper bound.
    pub fn of(call: CallId, asked: &Asked, admitted: &Admitted, rule: Rule) -> Option<Cover> {
        let held = admitted.covers?;
        let per_choice = admitted.output_limit.unwrap_or(asked.cost.output_wanted);
        Some(Cover {
            call,
            per_output_token: asked.cost.per_output_token.unwrap_or_default(),
            billed_percent: rule.billed_percent,
            held,
            most: per_choice.saturating_mul(asked.facts.choices.max(1)),
            step: (rule.output / 2).max(LEAST_STEP),
        })
    }

    /// How many more tokens to ask for once so many have passed, as reckoned from their length.
    fn wanted(&self, reckoned: u64) -> Option<u64> {
        let passed = reckoned.saturating_mul(self.billed_percent).div_ceil(100);
        if self.held >= self.most || passed.saturating_mul(100) < self.held.saturating_mul(AHEAD) {
            return None;
        }
        // So many that as many as a step may pass before it is asked again.
        let ahead = passed.saturating_mul(100).div_ceil(AHEAD).saturating_sub(self.held);
        Some(ahead.saturating_add(self.step).min(self.most - self.held))
    }

    /// Holds more where that is due. An error says why the stream has to end.
    pub async fn extend(&mut self, ledger: &Ledger, reckoned: u64) -> Result<(), Refusal> {
        let Some(tokens) = self.wanted(reckoned) else { return Ok(()) };
        let (call, per_output_token) = (self.call, self.per_output_token);
        let request = Request::Extend { call, attempt: 1, per_output_token, tokens };
        match ledger.submit_shared(Arc::new(request)).await {
            Ok(Reply::Extended { tokens }) => {
                self.held = self.held.saturating_add(tokens);
                Ok(())
            }
            Ok(Reply::Denied(denied)) => Err(refusal(denied)),
            // It is not open any more: somebody has settled it, and what it says is not held anywhere.
            Ok(_) | Err(_) => Err(journal_unavailable().refusal),
        }
    }
}

fn refusal(denied: Denied) -> Refusal {
    let Denied { code, by, message, resets_at, remaining, .. } = denied;
    let message = format!("{message} The stream was cut; what it said until then is on the receipt.");
    Refusal { code, by, message, resets_at, remaining, retry_after_s: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(held: u64, most: u64) -> Cover {
        Cover { call: CallId(1), per_output_token: Money(1), billed_percent: 150, held, most, step: 300 }
    }

    #[test]
    fn more_is_asked_for_before_what_is_held_has_passed() {
        assert_eq!(cover(600, 10_000).wanted(319), None, "478.5 of 600");
        assert_eq!(cover(600, 10_000).wanted(320), Some(300), "480 of 600, and a step");
        assert_eq!(cover(0, 10_000).wanted(0), Some(300), "nothing is held: at once");
        assert_eq!(cover(600, 700).wanted(320), Some(100), "no more than it can say");
        assert_eq!(cover(700, 700).wanted(10_000), None);
        // A large piece at once: all of it, and a step.
        assert_eq!(cover(600, 10_000).wanted(1_600), Some(2_400 * 100 / 80 - 600 + 300));
    }
}
