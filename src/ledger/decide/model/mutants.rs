//! Ledgers that are broken on purpose: each must be noticed.

use super::{Decide, Decision, decide};
use crate::domain::{Allocation, AllocationKind, Micros, Money};
use crate::ledger::entry::{Body, Entry};
use crate::ledger::request::{Reply, Request};
use crate::ledger::state::State;

pub struct Mutant {
    pub name: &'static str,
    pub decide: Decide,
    /// How what it breaks may begin.
    pub noticed_by: &'static [&'static str],
}

pub const ALL: &[Mutant] = &[
    Mutant { name: "admits over the limit", decide: admits_over_the_limit, noticed_by: &["I3"] },
    Mutant { name: "extends by more than there is", decide: extends_by_more, noticed_by: &["I3"] },
    Mutant { name: "gives back twice what was posted", decide: resets_twice, noticed_by: &["a reset gives"] },
    Mutant { name: "forgets a hold", decide: forgets_a_hold, noticed_by: &["I2"] },
    Mutant { name: "warns of nothing", decide: warns_of_nothing, noticed_by: &["I7"] },
    Mutant { name: "warns when it has refused", decide: warns_too_late, noticed_by: &["I7"] },
    Mutant { name: "cuts streams without a word", decide: cuts_in_silence, noticed_by: &["I7"] },
    Mutant { name: "settles twice", decide: settles_twice, noticed_by: &["I5"] },
    Mutant { name: "lives an hour ahead", decide: lives_ahead, noticed_by: &["I2"] },
    Mutant { name: "lets the interrupted go for nothing", decide: interrupts_for_nothing, noticed_by: &["I1"] },
];

/// Where a budget refuses a call, decides as if it had been raised.
fn admits_over_the_limit(state: &State, at: Micros, request: &Request) -> Decision {
    let decision = decide(state, at, request);
    let Reply::Denied(denied) = &decision.reply else { return decision };
    let Some(budget) = denied.by.as_deref().and_then(|by| by.strip_prefix("budget:")) else { return decision };
    let allocation = Allocation { kind: AllocationKind::Raise, amount: 1 << 60, period: None, until: None };
    let body = Body::Allocate { actor: "nobody".into(), budget: budget.to_owned(), allocation };
    let mut other = state.clone();
    let (seq, ts) = (state.next_seq(), state.last_ts());
    if other.apply(&Entry { seq, ts, reference: None, body }).is_err() {
        return decision;
    }
    // The other state is an entry ahead.
    let mut decision = decide(&other, at, request);
    for new in decision.entries.iter_mut().filter(|new| new.reference >= Some(seq)) {
        new.reference = new.reference.map(|of| of - 1);
    }
    decision
}

fn extends_by_more(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Extend { holds, cost, tokens } = &mut new.body
            && *tokens > 0
        {
            (*cost, *tokens) = (Money(cost.0 * 20), *tokens * 20);
            holds.iter_mut().for_each(|hold| hold.amount *= 20);
        }
    }
    decision
}

fn resets_twice(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Allocate { allocation, .. } = &mut new.body
            && allocation.kind == AllocationKind::Reset
        {
            allocation.amount *= 2;
        }
    }
    decision
}

fn forgets_a_hold(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Admit(admit) = &mut new.body {
            admit.holds.pop();
        }
    }
    decision
}

fn warns_of_nothing(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    decision.entries.retain(|new| !matches!(new.body, Body::Alert(_)));
    decision
}

/// The refusal first, its warnings behind it.
fn warns_too_late(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    if matches!((request, &decision.reply), (Request::Admit(_), Reply::Denied(_))) {
        decision.entries.reverse();
    }
    decision
}

fn cuts_in_silence(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    if matches!((request, &decision.reply), (Request::Extend { .. }, Reply::Denied(_))) {
        decision.entries.clear();
    }
    decision
}

fn settles_twice(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    let settle = decision.entries.iter().find(|new| matches!(new.body, Body::Settle(_))).cloned();
    decision.entries.extend(settle);
    decision
}

fn lives_ahead(state: &State, at: Micros, request: &Request) -> Decision {
    decide(state, at.plus_seconds(3_600), request)
}

fn interrupts_for_nothing(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Interrupted { cost } = &mut new.body {
            *cost = Some(Money::ZERO);
        }
    }
    decision
}
