//! The decision on more for a stream that runs: as much of what it asks for as every budget that may stop it affords.

use super::{Decision, entry, limit_of, nothing, refused, thresholds};
use crate::budget::{Bound, words};
use crate::domain::call::BudgetHold;
use crate::domain::{CallId, Code, Metric, Micros, Money};
use crate::ledger::entry::Body;
use crate::ledger::request::{Denied, Reply};
use crate::ledger::state::{OpenHold, State};

/// No stream is extended by fewer tokens than this, unless it wants fewer: each extension is a commit.
const LEAST_EXTENSION: u64 = 64;

pub(super) fn extend(
    state: &State,
    at: Micros,
    call: CallId,
    attempt: u8,
    per_output_token: Money,
    wanted: u64,
) -> Decision {
    let Some(open) = state.open_attempt(call, attempt) else { return nothing() };
    // The input is held already.
    let more = Bound { fixed: Money::ZERO, per_output_token: Some(per_output_token), input_tokens: 0 };
    let need = |h: &OpenHold, tokens: u64| match h.metric {
        Metric::Calls => 0,
        metric => more.need(metric, tokens),
    };
    let used = |h: &OpenHold| state.balance(&h.hold.budget, &h.hold.period).map_or(0, |p| p.used());
    let mut tokens = wanted;
    for h in &open.holds {
        let (id, period) = (&h.hold.budget, &h.hold.period);
        let (Some(budget), Some(limit)) = (state.catalogue().budgets.get(id), limit_of(state, id, open.at, at)) else {
            continue;
        };
        let left = limit.saturating_sub(used(h));
        if !budget.cuts() || need(h, tokens) == 0 || need(h, tokens) <= left {
            continue;
        }
        tokens = more.affordable_output(h.metric, left).unwrap_or(0);
        if tokens < LEAST_EXTENSION.min(wanted) {
            let resets_at = state.index().window(id, open.at).and_then(|w| w.end);
            let mut entries = Vec::new();
            refused(state, budget, period, Some(open.seq), &mut entries);
            let denied = Denied {
                seq: state.next_seq(),
                at,
                code: Code::BudgetExceeded,
                by: Some(format!("budget:{id}")),
                message: words::refusal(budget, used(h), limit, need(h, wanted), resets_at),
                resets_at,
                remaining: (h.metric == Metric::Usd).then_some(Money(left)),
            };
            return Decision { entries, reply: Reply::Denied(denied) };
        }
    }
    let hold = |h: &OpenHold| BudgetHold {
        budget: h.hold.budget.clone(),
        period: h.hold.period.clone(),
        amount: need(h, tokens),
    };
    let holds = open.holds.iter().map(hold).filter(|hold| hold.amount > 0).collect();
    let mut entries = vec![entry(Body::Extend { holds, cost: more.cost(tokens), tokens }, Some(open.seq))];
    for h in &open.holds {
        let (id, amount) = (&h.hold.budget, need(h, tokens));
        let (Some(budget), Some(limit)) = (state.catalogue().budgets.get(id), limit_of(state, id, open.at, at)) else {
            continue;
        };
        thresholds(state, budget, &h.hold.period, used(h) + amount, limit, Some(open.seq), &mut entries);
    }
    Decision { entries, reply: Reply::Extended { tokens } }
}
