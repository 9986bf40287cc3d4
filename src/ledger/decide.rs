//! What a request becomes: the entries that follow from it, in one block, and the answer to who asked.
//!
//! Nothing is changed here. The writer gives the entries their sequence from [`State::next_seq`] on, applies them and
//! answers once they are durable. Replay never comes here, so a later version may decide otherwise.

use super::admit::{self, MOST_BUDGETS};
use super::declare;
use super::entry::{Alert, Body, Erasable, NewEntry, Person, Settle};
use super::index::Covered;
use super::raise;
use super::request::{Reply, Request};
use super::state::{Open, OpenHold, State, posted_by, staged_account};
use crate::budget::crossed;
use crate::domain::call::BudgetHold;
use crate::domain::{Budget, CallId, Enforcement, Metric, Micros, Money};

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
        Request::Settle { call, attempt, settle, erasable } => {
            settle_call(state, at, *call, *attempt, settle, erasable)
        }
        Request::Extend { call, attempt, per_output_token, tokens } => {
            extend::extend(state, at, *call, *attempt, *per_output_token, *tokens)
        }
        Request::Allocate { actor, budget, what, reason } => {
            allocate::allocate(state, at, actor, budget, what, reason.as_deref())
        }
        Request::Job { call, attempt, vendor_id, state: job_state } => {
            job(state, *call, *attempt, vendor_id, job_state)
        }
        Request::Deny { deny, erasable } => record(state, Body::Deny(deny.clone()), (**erasable).clone()),
        Request::Declare { actor, changes, openings, reason } => {
            declare::declare(state, at, actor, changes, openings, reason.as_deref())
        }
        Request::Stage { actor, begin, changes, reason } => {
            declare::stage(state, at, actor, *begin, changes, reason.as_deref())
        }
        Request::Counted { request, counting } => match (&**request, counting.openings(at)) {
            (Request::Declare { actor, changes, reason, .. }, Some(mut openings)) => {
                openings.retain(|(_, opening)| opening.posted != 0);
                declare::declare(state, at, actor, changes, &openings, reason.as_deref())
            }
            (Request::Openings { actor, .. }, Some(openings)) => declare::open(state, actor, &openings),
            // Nothing else is counted, and who sends it has counted for the period that is.
            _ => nothing(),
        },
        Request::Openings { actor, openings } => declare::open(state, actor, openings),
        Request::Effect { actor } => declare::effect(state, actor),
        Request::Unstage { actor } => declare::unstage(state, actor),
        Request::Admin { actor, action, subject, reason } => {
            let body = Body::Admin { actor: actor.clone(), action: action.clone(), subject: subject.clone() };
            record(state, body, because(reason.as_deref()))
        }
        // Who was staging something died with the process, too.
        Request::InterruptAll => interrupt(state, |open| !open.job, declare::dropped(state, "restart")),
        Request::ExpireLeases => interrupt(state, |open| open.lease_until <= at, None),
        Request::Gap { reason, count, quotes } => {
            let body = Body::Gap { reason: reason.clone(), count: *count, quotes: quotes.clone() };
            record(state, body, Erasable::default())
        }
        Request::Evaluate(evaluation) => raise::evaluate(state, at, evaluation),
        Request::Deliver { delivery, reason } => raise::deliver(state, delivery, reason.as_deref()),
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

/// An ALERT for every threshold that `used` of `limit` has reached and that was not told yet in this period.
pub(super) fn thresholds(
    state: &State,
    budget: &Budget,
    period: &str,
    used: i128,
    limit: i128,
    reference: Option<u64>,
    entries: &mut Vec<NewEntry>,
) {
    let reached = budget.alert_at_percent.iter().copied().filter(|p| crossed(used, limit, *p));
    for percent in reached {
        raise_once(state, &budget.id, period, ("actual", Some(percent)), Some((used, limit)), reference, entries);
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
    raise_once(state, budget, period, (kind, threshold), None, reference, entries);
}

/// The same with what is used and what the limit is at that moment; absent: as the state stands.
fn raise_once(
    state: &State,
    budget: &str,
    period: &str,
    (kind, threshold): (&str, Option<u16>),
    standing: Option<(i128, i128)>,
    reference: Option<u64>,
    entries: &mut Vec<NewEntry>,
) {
    let same = |a: &Alert| a.budget == budget && a.period == period && a.kind == kind && a.threshold == threshold;
    let in_block = entries.iter().any(|e| matches!(&e.body, Body::Alert(a) if same(a)));
    if in_block || state.accounts().has_fired(budget, period, kind, threshold) {
        return;
    }
    let declared = state.catalogue().budgets.get(budget);
    // Asked as of the last entry: a raise that ended since is not worth a clock here.
    let stands = || state.standing(budget, state.last_ts()).filter(|s| s.window.id == period);
    let standing = standing.or_else(|| stands().map(|s| (s.used(), s.allowance.total())));
    let (used, limit) = standing.map_or((None, declared.map(|b| b.limit.amount)), |(u, l)| (Some(u), Some(l)));
    let alert = Alert {
        budget: budget.to_owned(),
        period: period.to_owned(),
        kind: kind.to_owned(),
        threshold,
        used: Some(used.unwrap_or(0)),
        limit,
        ..Alert::default()
    };
    let routes = declared.map(|b| raise::routes_of(state.catalogue(), b)).unwrap_or_default();
    let body = raise::routed(state, alert, routes, raise::asked_for(entries));
    entries.push(entry(body, reference));
}

/// What a budget refuses with: every threshold below, then `denied`, each once in its period.
pub(super) fn refused(
    state: &State,
    budget: &Budget,
    period: &str,
    reference: Option<u64>,
    entries: &mut Vec<NewEntry>,
) {
    for percent in budget.alert_at_percent.iter().copied().filter(|p| *p <= 100) {
        alert(state, &budget.id, period, "actual", Some(percent), reference, entries);
    }
    alert(state, &budget.id, period, "denied", None, reference, entries);
}

/// What a budget may use in the period of a call admitted at `admitted`, asked at `at`.
fn limit_of(state: &State, budget: &str, admitted: Micros, at: Micros) -> Option<i128> {
    let (covered, window) = (state.index().covered(budget)?, state.index().window(budget, admitted)?);
    Some(state.allowance(covered, &window, at).total())
}

fn settle_call(state: &State, at: Micros, call: CallId, attempt: u8, settle: &Settle, erasable: &Erasable) -> Decision {
    let Some(open) = state.open_attempt(call, attempt) else { return nothing() };
    let late = late_holds(state, open);
    let mut entries = Vec::with_capacity(2);
    extend_late(open, &late, &mut entries);
    let seq = state.next_seq() + entries.len() as u64;
    let body = Body::Settle(Box::new(settle.clone()));
    entries.push(NewEntry { body, reference: Some(open.seq), erasable: erasable.clone() });
    let held = open.holds.iter().map(|h| (h, h.hold.amount)).chain(late.iter().map(|h| (h, 0)));
    let used = |h: &OpenHold, held: i128| {
        let before = state.balance(&h.hold.budget, &h.hold.period).map_or(0, |p| p.used());
        before - held + posted_by(settle, h.metric)
    };
    let limit = |id: &str| limit_of(state, id, open.at, at);
    let over = |h: &&OpenHold| {
        let budget = state.catalogue().budgets.get(&h.hold.budget).filter(|b| b.enforcement == Enforcement::Hard);
        budget.and_then(|b| limit(&b.id)).is_some_and(|limit| used(h, 0) > limit)
    };
    let passed = overrun(open, settle, late.iter().filter(over), seq, &mut entries);
    for (h, held) in held {
        let (id, period) = (&h.hold.budget, &h.hold.period);
        let (Some(budget), Some(limit)) = (state.catalogue().budgets.get(id), limit(id)) else { continue };
        thresholds(state, budget, period, used(h, held), limit, Some(seq), &mut entries);
        if passed.contains(id) {
            alert(state, id, period, "overrun", None, Some(seq), &mut entries);
        }
    }
    Decision { entries, reply: Reply::Settled { seq: Some(seq), changed: true } }
}

// The OVERRUN of a settlement above its hold, and the budgets whose hold was passed. Tool calls are never held, so they
// cannot pass anything.
fn overrun<'a>(
    open: &'a Open,
    settle: &Settle,
    late_and_over: impl Iterator<Item = &'a OpenHold>,
    seq: u64,
    entries: &mut Vec<NewEntry>,
) -> Vec<String> {
    let excess = settle.cost.map_or(Money::ZERO, |cost| Money((cost.0 - open.hold.0).max(0)));
    let passed = |h: &&OpenHold| h.metric != Metric::ToolCalls && posted_by(settle, h.metric) > h.hold.amount;
    let passed = open.holds.iter().filter(passed).chain(late_and_over);
    let budgets: Vec<String> = passed.map(|h| h.hold.budget.clone()).collect();
    if !excess.is_zero() || !budgets.is_empty() {
        entries.push(entry(Body::Overrun { excess, budgets: budgets.clone() }, Some(seq)));
    }
    budgets
}

/// Holds on budgets that came to cover an open call after it was admitted, so that what it costs is not lost between what
/// such a budget found posted and what is held on it. They are taken just before the call ends: a call that runs is never
/// measured against a budget its caller could not know.
fn late_holds(state: &State, open: &Open) -> Vec<OpenHold> {
    let (index, staging) = (state.index(), state.staging().filter(|staging| !staging.nothing_counts()));
    let known = open.seq >= index.changed_at && staging.is_none();
    let Some(words) = open.words.0.as_ref().filter(|_| !known) else { return Vec::new() };
    let mut late: Vec<OpenHold> = Vec::new();
    let mut hold = |account: String, covered: &Covered| {
        let metric = covered.budget.limit.metric;
        let hold = BudgetHold { budget: account, period: covered.window(open.at).id, amount: open.need(metric) };
        let same = |h: &OpenHold| h.hold.budget == hold.budget;
        if open.holds.len() + late.len() < MOST_BUDGETS && !open.holds.iter().chain(&late).any(same) {
            late.push(OpenHold { hold, metric });
        }
    };
    for covered in index.covering(|d| words.get(d)) {
        hold(covered.budget.id.clone(), covered);
    }
    if let Some(staging) = staging {
        for covered in staging.index().covering(|d| words.get(d)) {
            let id = &covered.budget.id;
            if staging.counts(id) {
                hold(staged_account(state.catalogue(), id), covered);
            }
        }
    }
    late
}

fn extend_late(open: &Open, late: &[OpenHold], entries: &mut Vec<NewEntry>) {
    if !late.is_empty() {
        let holds = late.iter().map(|h| h.hold.clone()).collect();
        entries.push(entry(Body::Extend { holds, cost: Money::ZERO, tokens: 0 }, Some(open.seq)));
    }
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
fn interrupt(state: &State, which: impl Fn(&Open) -> bool, first: Option<NewEntry>) -> Decision {
    let mut entries = Vec::from_iter(first);
    for open in state.running().filter(|open| which(open)) {
        if entries.len() >= MOST_INTERRUPTED {
            break;
        }
        extend_late(open, &late_holds(state, open), &mut entries);
        entries.push(entry(Body::Interrupted { cost: open.cost_if_lost() }, Some(open.seq)));
    }
    if entries.is_empty() {
        return nothing();
    }
    Decision { entries, reply: Reply::Settled { seq: Some(state.next_seq()), changed: true } }
}

mod allocate;
mod extend;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
