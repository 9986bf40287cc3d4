//! What a request becomes: the entries that follow from it, in one block, and the answer to who asked.
//!
//! Nothing is changed here. The writer gives the entries their sequence from [`State::next_seq`] on, applies them and
//! answers once they are durable. Replay never comes here, so a later version may decide otherwise.

use super::admit;
use super::declare;
use super::entry::{Alert, Body, Erasable, NewEntry, Person, Settle};
use super::request::{Reply, Request};
use super::state::{Open, State, posted_by};
use crate::budget::crossed;
use crate::domain::{Budget, CallId, Metric, Micros, Money};

/// Most calls one request settles from their holds: what is more waits for the next. Keeps a block bounded.
pub const MOST_INTERRUPTED: usize = 50_000;

/// Entries to write and the answer once they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Empty where nothing is to be recorded.
    pub entries: Vec<NewEntry>,
    /// Sequences in it are those the entries will have.
    pub reply: Reply,
}

/// Decides on a request at journal time `at`.
pub fn decide(state: &State, at: Micros, request: &Request) -> Decision {
    match request {
        Request::Admit(request) => admit::admit(state, at, request),
        Request::Settle { call, attempt, settle, erasable } => settle_call(state, *call, *attempt, settle, erasable),
        Request::Job { call, attempt, vendor_id, state: job_state } => {
            job(state, *call, *attempt, vendor_id, job_state)
        }
        Request::Deny { deny, erasable } => record(state, Body::Deny(deny.clone()), (**erasable).clone()),
        Request::Declare { actor, changes, openings, reason } => {
            declare::declare(state, at, actor, changes, openings, reason.as_deref())
        }
        Request::Admin { actor, action, subject, reason } => {
            let body = Body::Admin { actor: actor.clone(), action: action.clone(), subject: subject.clone() };
            record(state, body, because(reason.as_deref()))
        }
        Request::InterruptAll => interrupt(state, |open| !open.job),
        Request::ExpireLeases => interrupt(state, |open| open.lease_until <= at),
        Request::Gap { reason, count, quotes } => {
            let body = Body::Gap { reason: reason.clone(), count: *count, quotes: quotes.clone() };
            record(state, body, Erasable::default())
        }
        Request::Key { purpose, vkey, actor, reason } => {
            let body = Body::Key { purpose: purpose.clone(), vkey: vkey.clone(), actor: actor.clone() };
            record(state, body, because(reason.as_deref()))
        }
    }
}

/// A reason a person typed stands where it can be erased.
pub(super) fn because(reason: Option<&str>) -> Erasable {
    let person = reason.map(|r| Person { reason: Some(r.to_owned()), ..Person::default() });
    Erasable { person, ..Erasable::default() }
}

/// An entry that stands alone.
pub(super) fn entry(body: Body, reference: Option<u64>) -> NewEntry {
    NewEntry { body, reference, erasable: Erasable::default() }
}

fn record(state: &State, body: Body, erasable: Erasable) -> Decision {
    let reply = Reply::Recorded { seq: state.next_seq() };
    Decision { entries: vec![NewEntry { body, reference: None, erasable }], reply }
}

fn nothing() -> Decision {
    Decision { entries: Vec::new(), reply: Reply::Settled { seq: None, changed: false } }
}

/// An ALERT for every threshold that `used` has reached and that was not told yet in this period.
pub(super) fn thresholds(
    state: &State,
    budget: &Budget,
    period: &str,
    used: i128,
    reference: Option<u64>,
    entries: &mut Vec<NewEntry>,
) {
    let reached = budget.alert_at_percent.iter().copied().filter(|p| crossed(used, budget.limit.amount, *p));
    for percent in reached {
        alert(state, &budget.id, period, "actual", Some(percent), reference, entries);
    }
}

/// An ALERT, unless it was raised already, in this block or before.
pub(super) fn alert(
    state: &State,
    budget: &str,
    period: &str,
    kind: &str,
    threshold: Option<u16>,
    reference: Option<u64>,
    entries: &mut Vec<NewEntry>,
) {
    let same = |a: &Alert| a.budget == budget && a.period == period && a.kind == kind && a.threshold == threshold;
    let in_block = entries.iter().any(|e| matches!(&e.body, Body::Alert(a) if same(a)));
    if in_block || state.accounts().has_fired(budget, period, kind, threshold) {
        return;
    }
    let alert = Alert { budget: budget.to_owned(), period: period.to_owned(), kind: kind.to_owned(), threshold };
    entries.push(entry(Body::Alert(alert), reference));
}

fn settle_call(state: &State, call: CallId, attempt: u8, settle: &Settle, erasable: &Erasable) -> Decision {
    let Some(open) = state.open_attempt(call, attempt) else { return nothing() };
    let seq = state.next_seq();
    let body = Body::Settle(Box::new(settle.clone()));
    let mut entries = vec![NewEntry { body, reference: Some(open.seq), erasable: erasable.clone() }];
    let passed = overrun(open, settle, seq, &mut entries);
    for h in &open.holds {
        let (id, period) = (&h.hold.budget, &h.hold.period);
        let Some(budget) = state.catalogue().budgets.get(id) else { continue };
        let before = state.balance(id, period).map_or(0, |p| p.used());
        let used = before - h.hold.amount + posted_by(settle, h.metric);
        thresholds(state, budget, period, used, Some(seq), &mut entries);
        if passed.contains(id) {
            alert(state, id, period, "overrun", None, Some(seq), &mut entries);
        }
    }
    Decision { entries, reply: Reply::Settled { seq: Some(seq), changed: true } }
}

// The OVERRUN of a settlement above its hold, and the budgets whose hold was passed. Tool calls are never held, so they
// cannot pass anything.
fn overrun(open: &Open, settle: &Settle, seq: u64, entries: &mut Vec<NewEntry>) -> Vec<String> {
    let excess = settle.cost.map_or(Money::ZERO, |cost| Money((cost.0 - open.hold.0).max(0)));
    let passed =
        |h: &&super::state::OpenHold| h.metric != Metric::ToolCalls && posted_by(settle, h.metric) > h.hold.amount;
    let budgets: Vec<String> = open.holds.iter().filter(passed).map(|h| h.hold.budget.clone()).collect();
    if !excess.is_zero() || !budgets.is_empty() {
        entries.push(entry(Body::Overrun { excess, budgets: budgets.clone() }, Some(seq)));
    }
    budgets
}

fn job(state: &State, call: CallId, attempt: u8, vendor_id: &str, job_state: &str) -> Decision {
    let Some(open) = state.open_attempt(call, attempt) else { return nothing() };
    // Polled again with nothing new: no entry.
    if open.vendor.as_ref().is_some_and(|(id, state)| id == vendor_id && state == job_state) {
        return nothing();
    }
    let body = Body::Batch { vendor_id: vendor_id.to_owned(), state: job_state.to_owned() };
    Decision { entries: vec![entry(body, Some(open.seq))], reply: Reply::Recorded { seq: state.next_seq() } }
}

// Settles open calls from their holds, oldest first. The answer names the first entry; who gets `changed` asks again.
fn interrupt(state: &State, which: impl Fn(&Open) -> bool) -> Decision {
    let lost = state.running().filter(|open| which(open)).take(MOST_INTERRUPTED);
    let entries: Vec<NewEntry> =
        lost.map(|open| entry(Body::Interrupted { cost: open.cost_if_lost() }, Some(open.seq))).collect();
    if entries.is_empty() {
        return nothing();
    }
    Decision { entries, reply: Reply::Settled { seq: Some(state.next_seq()), changed: true } }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
