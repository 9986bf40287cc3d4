//! What all entries so far add up to: the catalogue, open calls and jobs, balances. One pure function changes it.
//!
//! Bounded by what is declared and what is open, not by history: of each budget the current and the previous period are
//! kept, and older ones while a call still holds on them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::accounts::{Accounts, Position};
use super::allot::{Allocated, Allotments};
use super::declare::counts_anew;
use super::entry::{Admit, Body, Entry, Erasable, Settle};
use super::index::BudgetIndex;
use super::outbox::{AlertId, Outbox};
use super::staging::Staging;
use super::words::{Remembered, Words};
use crate::budget::amount::actual;
use crate::domain::call::BudgetHold;
use crate::domain::catalogue::Map;
use crate::domain::{Budget, CallId, Catalogue, Change, Metric, Micros, Money, Owner, Usage};

/// Why an entry cannot follow: the journal is not what this program wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("entry {found} where {expected} is next")]
    Sequence { expected: u64, found: u64 },
    #[error("entry {seq} is older than the one before it")]
    Time { seq: u64 },
    #[error("entry {seq} refers to {reference:?}, which is not an open call")]
    NotOpen { seq: u64, reference: Option<u64> },
    #[error("entry {seq} is not about what was staged")]
    NotStaged { seq: u64 },
    #[error("entry {seq} admits attempt {attempt} of call {call}, which is open already")]
    AlreadyOpen { seq: u64, call: CallId, attempt: u8 },
}

/// One attempt of a call that has been admitted and not yet ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Sequence of the ADMIT.
    pub seq: u64,
    /// Journal time of the ADMIT.
    pub at: Micros,
    pub call: CallId,
    pub attempt: u8,
    pub provider: String,
    /// Lives at the vendor: no restart ends it.
    pub job: bool,
    /// The vendor's id of the job and its last known state.
    pub vendor: Option<(String, String)>,
    pub hold: Money,
    /// The hold is an upper bound, not a zero for want of a price.
    pub priced: bool,
    /// Upper bound of input and output.
    pub tokens: u64,
    pub holds: Vec<OpenHold>,
    pub lease_until: Micros,
    #[serde(skip)]
    pub words: Remembered,
}

/// A hold with the metric its amount is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenHold {
    pub hold: BudgetHold,
    pub metric: Metric,
}

impl Open {
    /// The holds as the ADMIT had them.
    pub fn budget_holds(&self) -> Vec<BudgetHold> {
        self.holds.iter().map(|h| h.hold.clone()).collect()
    }

    /// What it costs if nothing else is ever known: its hold, unless there was no price to hold by.
    pub fn cost_if_lost(&self) -> Option<Money> {
        self.priced.then_some(self.hold)
    }

    // What the call itself needs of a metric, where a budget changes what it counts.
    pub(super) fn need(&self, metric: Metric) -> i128 {
        match metric {
            Metric::Usd => self.hold.0,
            Metric::Tokens => self.tokens.into(),
            Metric::Calls => 1,
            Metric::ToolCalls => 0,
        }
    }
}

/// The state of one epoch. A clone costs the same whatever is in it, so a snapshot is taken between two calls and encoded
/// elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    next_seq: u64,
    last_ts: Micros,
    #[serde(with = "super::declared::whole")]
    catalogue: Arc<Catalogue>,
    /// By sequence of the ADMIT, so oldest first.
    open: Map<u64, Arc<Open>>,
    accounts: Accounts,
    /// Derived: the open attempt of a call.
    by_call: Map<(CallId, u8), u64>,
    /// Derived: provider → the vendor's id → ADMIT.
    jobs: Map<String, Map<String, u64>>,
    allotments: Allotments,
    staging: Option<Staging>,
    outbox: Outbox,
    #[serde(skip)]
    index: BudgetIndex,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// Before the first entry. The price book is the shipped one, which counts as 1.
    pub fn new() -> State {
        let mut catalogue = Catalogue::default();
        catalogue.price_book = 1;
        State {
            next_seq: 0,
            last_ts: Micros(0),
            catalogue: Arc::new(catalogue),
            open: Map::new(),
            accounts: Accounts::default(),
            by_call: Map::new(),
            jobs: Map::new(),
            allotments: Allotments::default(),
            staging: None,
            outbox: Outbox::default(),
            index: BudgetIndex::default(),
        }
    }

    /// Sequence the next entry will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Journal time of the newest entry.
    pub fn last_ts(&self) -> Micros {
        self.last_ts
    }

    /// Declared state; a clone of the pointer stays as it is.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// How many attempts are open.
    pub fn open_calls(&self) -> usize {
        self.open.len()
    }

    /// Open attempts, oldest first.
    pub fn running(&self) -> impl Iterator<Item = &Open> {
        self.open.values().map(|open| &**open)
    }

    /// The open attempt of a call.
    pub fn open_attempt(&self, call: CallId, attempt: u8) -> Option<&Open> {
        self.by_call.get(&(call, attempt)).and_then(|seq| self.open.get(seq)).map(|open| &**open)
    }

    /// The open attempt that an ADMIT began.
    pub fn open_by(&self, admit: u64) -> Option<&Open> {
        self.open.get(&admit).map(|open| &**open)
    }

    /// All kept periods of all budgets, by budget, older first.
    pub fn balances(&self) -> impl Iterator<Item = Position<'_>> {
        self.accounts.iter()
    }

    /// What a budget's period has; nothing if no entry has touched it.
    pub fn balance<'a>(&'a self, budget: &'a str, period: &str) -> Option<Position<'a>> {
        self.accounts.get(budget, period)
    }

    /// What a budget has used (settled + held) in the period `at` is in; nothing if no entry has touched it.
    pub fn used(&self, budget: &str, at: Micros) -> Option<i128> {
        let window = self.index.window(budget, at)?;
        self.accounts.get(budget, &window.id).map(|position| position.used())
    }

    /// Alerts on their way, and what is watched.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The name of a declared budget's period at an instant.
    pub fn period_of(&self, budget: &str, at: Micros) -> Option<String> {
        self.index.window(budget, at).map(|window| window.id.clone())
    }

    /// The open job with that id at the vendor.
    pub fn job(&self, provider: &str, vendor_id: &str) -> Option<(CallId, u8)> {
        let seq = self.jobs.get(provider)?.get(vendor_id)?;
        self.open.get(seq).map(|open| (open.call, open.attempt))
    }

    /// Declared state that is not in force yet.
    pub(super) fn staging(&self) -> Option<&Staging> {
        self.staging.as_ref()
    }

    /// How many changes are staged and not in force yet.
    pub fn staged(&self) -> usize {
        self.staging.as_ref().map_or(0, Staging::len)
    }

    /// Open calls whose words a start from a snapshot has lost, by their ADMIT.
    pub fn wordless(&self) -> Vec<u64> {
        self.running().filter(|open| open.words.0.is_none()).map(|open| open.seq).collect()
    }

    /// Gives an open call its words back, from its ADMIT.
    pub fn remind(&mut self, seq: u64, admit: &Admit) {
        let same = |open: &Arc<Open>| (open.call, open.attempt) == (admit.call, admit.attempt);
        if let Some(open) = self.open.get_mut(&seq).filter(|open| same(open)) {
            Arc::make_mut(open).words = Remembered(Some(Arc::new(Words::of(admit))));
        }
    }

    pub(super) fn index(&self) -> &BudgetIndex {
        &self.index
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    pub(super) fn allotments(&self) -> &Allotments {
        &self.allotments
    }

    /// Applies the next entry. On an error nothing has changed.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let Entry { seq, ts, reference, body } = entry;
        let (seq, ts) = (*seq, *ts);
        if seq != self.next_seq {
            return Err(ApplyError::Sequence { expected: self.next_seq, found: seq });
        }
        if ts < self.last_ts {
            return Err(ApplyError::Time { seq });
        }
        match body {
            Body::Admit(admit) => self.admit(seq, ts, admit)?,
            Body::Settle(settle) => {
                let open = self.take(seq, *reference)?;
                self.post(&open, |h| posted_by(settle, h.metric));
            }
            Body::Interrupted { cost } => {
                let open = self.take(seq, *reference)?;
                self.post(&open, |h| interrupted(*cost, h));
            }
            Body::Batch { vendor_id, state } => self.job_state(seq, *reference, vendor_id, state)?,
            Body::Catalogue { change, .. } | Body::Price { change, .. } => {
                self.put(change);
                if let Change::Pause(id, Some(_)) = &**change {
                    self.note_pause(id, Some(seq));
                }
            }
            Body::Budget { id, budget, opening, .. } => {
                self.budget(id, budget.as_deref(), ts);
                self.accounts.open_with(id, opening, ts);
                self.index.changed_at = seq;
            }
            Body::Allocate { actor, budget, allocation } => {
                if let Some(covered) = self.index.covered(budget) {
                    let (actor, allocation) = (actor.clone(), allocation.clone());
                    self.allotments.allocate(covered, Allocated { seq: Some(seq), at: ts, actor, allocation });
                }
            }
            Body::Staged(body) => self.stage(seq, ts, body)?,
            Body::Apply(apply) => self.apply_staged(seq, ts, apply)?,
            Body::Extend { holds, cost, tokens } => self.extend(seq, *reference, holds, *cost, *tokens)?,
            Body::Alert(alert) => {
                // What may be raised again keeps its own account in the outbox.
                if matches!(alert.kind.as_str(), "actual" | "denied" | "overrun") {
                    self.accounts.fired(alert, ts);
                }
                self.outbox.raised(AlertId { at: ts, seq }, alert);
            }
            Body::Delivery(delivery) => self.outbox.delivery(ts, delivery),
            // Posted before the epoch began, in the state it began with.
            Body::CutOff { .. }
            | Body::Deny(_)
            | Body::Admin { .. }
            | Body::Overrun { .. }
            | Body::Gap { .. }
            | Body::Key { .. }
            | Body::Snapshot { .. }
            | Body::Unknown { .. } => {}
        }
        self.next_seq = seq + 1;
        self.last_ts = ts;
        Ok(())
    }

    /// Takes in what an entry's erasable groups add to declared state: an owner's name and mail address. Call it after
    /// [`State::apply`]; where the group was erased the owner is its id alone. No balance, sum or decision depends on it.
    pub fn recall(&mut self, body: &Body, erasable: &Erasable) {
        let (body, staged) = match body {
            Body::Staged(body) => (&**body, true),
            body => (body, false),
        };
        let Body::Catalogue { change, .. } = body else { return };
        let (Change::Owner(id, Some(_)), Some(person)) = (&**change, &erasable.person) else { return };
        let (name, email) = (person.claimed.get("name"), person.claimed.get("email"));
        if (name, email) == (None, None) {
            return;
        }
        let set = |owner: &mut Owner| (owner.name, owner.email) = (name.cloned(), email.cloned());
        match &mut self.staging {
            Some(staging) => staging.owner_mut(id, &set),
            None if staged => return,
            None => {}
        }
        if !staged && let Some(owner) = Arc::make_mut(&mut self.catalogue).owners.get_mut(id) {
            set(Arc::make_mut(owner));
        }
    }

    /// Owners whose name or mail address [`State::recall`] took in, in force or staged.
    pub fn named_owners(&self) -> impl Iterator<Item = &Owner> {
        let staged = self.staging.iter().flat_map(Staging::owners);
        let owners = self.catalogue.owners.values().map(|owner| &**owner).chain(staged);
        owners.filter(|owner| owner.name.is_some() || owner.email.is_some())
    }

    /// The state without what [`State::recall`] took in: what entries alone give, and what may be kept unsealed.
    pub fn without_persons(&self) -> State {
        let mut state = self.clone();
        let named = |owner: &Arc<Owner>| owner.name.is_some() || owner.email.is_some();
        if state.catalogue.owners.values().any(named) {
            state.catalogue = Arc::new(state.catalogue.without_persons());
        }
        if let Some(staging) = &mut state.staging {
            let staged = staging.catalogue().clone();
            for owner in staged.owners.values().filter(|owner| named(owner)) {
                staging.owner_mut(&owner.id, &|owner| (owner.name, owner.email) = (None, None));
            }
        }
        state
    }

    /// What a new epoch begins with: everything declared and posted, no entry yet, and no call open. Each that was is
    /// settled from its hold, jobs too, since nothing of the old epoch can end in the new one; they are given back.
    pub fn carried_over(&self) -> (State, Vec<Open>) {
        let mut state = self.clone();
        let open: Vec<Open> = state.running().cloned().collect();
        for open in &open {
            state.post(open, |h| interrupted(open.cost_if_lost(), h));
        }
        (state.open, state.by_call, state.jobs) = Default::default();
        state.drop_staged();
        state.allotments.carry_over();
        // Their entries stand in the old epoch.
        for id in self.catalogue.pauses.keys() {
            state.note_pause(id, None);
        }
        state.next_seq = 0;
        (state, open)
    }

    fn admit(&mut self, seq: u64, at: Micros, admit: &Admit) -> Result<(), ApplyError> {
        let key = (admit.call, admit.attempt);
        if self.by_call.contains_key(&key) {
            return Err(ApplyError::AlreadyOpen { seq, call: admit.call, attempt: admit.attempt });
        }
        let budgets = &self.catalogue.budgets;
        let metric = |id: &str| budgets.get(id).map_or(Metric::Usd, |b| b.limit.metric);
        let holds: Vec<OpenHold> =
            admit.holds.iter().map(|hold| OpenHold { metric: metric(&hold.budget), hold: hold.clone() }).collect();
        for h in &holds {
            self.accounts.hold(&h.hold, at);
            self.index.remember(&h.hold.budget, &h.hold.period, at);
        }
        let open = Open {
            seq,
            at,
            call: admit.call,
            attempt: admit.attempt,
            provider: admit.provider.clone(),
            job: admit.job,
            vendor: None,
            hold: admit.hold,
            priced: has_bound(admit),
            tokens: admit.input_bound.saturating_add(admit.output_bound),
            holds,
            lease_until: admit.lease_until,
            words: Remembered(Some(Arc::new(Words::of(admit)))),
        };
        self.open.insert(seq, Arc::new(open));
        self.by_call.insert(key, seq);
        Ok(())
    }

    // Ends an open attempt.
    fn take(&mut self, seq: u64, reference: Option<u64>) -> Result<Arc<Open>, ApplyError> {
        let open = reference.and_then(|r| self.open.remove(&r)).ok_or(ApplyError::NotOpen { seq, reference })?;
        self.by_call.remove(&(open.call, open.attempt));
        if let Some((vendor_id, _)) = &open.vendor {
            self.forget_job(&open.provider, vendor_id);
        }
        Ok(open)
    }

    fn forget_job(&mut self, provider: &str, vendor_id: &str) {
        if let Some(jobs) = self.jobs.get_mut(provider) {
            jobs.remove(vendor_id);
            if jobs.is_empty() {
                self.jobs.remove(provider);
            }
        }
    }

    fn post(&mut self, open: &Open, amount: impl Fn(&OpenHold) -> i128) {
        for h in &open.holds {
            self.accounts.post(&h.hold, amount(h));
        }
    }

    fn job_state(&mut self, seq: u64, reference: Option<u64>, id: &str, state: &str) -> Result<(), ApplyError> {
        let not_open = ApplyError::NotOpen { seq, reference };
        let Some(open) = reference.and_then(|r| self.open.get_mut(&r)) else { return Err(not_open) };
        let open = Arc::make_mut(open);
        open.job = true;
        let (admit, provider) = (open.seq, open.provider.clone());
        let before = open.vendor.replace((id.to_owned(), state.to_owned()));
        if let Some((old, _)) = before.filter(|(old, _)| old != id) {
            self.forget_job(&provider, &old);
        }
        self.jobs.entry(provider).or_default().insert(id.to_owned(), admit);
        Ok(())
    }

    fn extend(
        &mut self,
        seq: u64,
        reference: Option<u64>,
        holds: &[BudgetHold],
        cost: Money,
        tokens: u64,
    ) -> Result<(), ApplyError> {
        let not_open = ApplyError::NotOpen { seq, reference };
        let Some(open) = reference.and_then(|r| self.open.get_mut(&r)) else { return Err(not_open) };
        let open = Arc::make_mut(open);
        (open.hold, open.tokens) = (open.hold.saturating_add(cost), open.tokens.saturating_add(tokens));
        for hold in holds {
            match open.holds.iter_mut().find(|h| h.hold.budget == hold.budget && h.hold.period == hold.period) {
                Some(there) => {
                    there.hold.amount = there.hold.amount.saturating_add(hold.amount);
                    self.accounts.raise(hold, open.at);
                }
                None => {
                    let id = hold.budget.strip_prefix('~').unwrap_or(&hold.budget);
                    let staged = self.staging.as_ref().filter(|s| s.counts(id)).map(Staging::catalogue);
                    let budget = staged.unwrap_or(&self.catalogue).budgets.get(id);
                    let metric = budget.map_or(Metric::Usd, |b| b.limit.metric);
                    open.holds.push(OpenHold { hold: hold.clone(), metric });
                    self.accounts.hold(hold, open.at);
                }
            }
        }
        Ok(())
    }

    fn budget(&mut self, id: &str, budget: Option<&Budget>, at: Micros) {
        let before = self.catalogue.budgets.get(id).cloned();
        self.put(&Change::Budget(id.to_owned(), budget.cloned()));
        let after = self.catalogue.budgets.get(id);
        self.index.replace(before.as_ref(), after);
        let after = after.map(|b| b.limit.metric);
        self.allot(id, before.as_deref(), at);
        self.rehold(id, before.map(|b| b.limit.metric), after);
    }

    /// What becomes of a budget's allocations when it comes, changes or goes; it is as it is now in the index.
    fn allot(&mut self, id: &str, before: Option<&Budget>, at: Micros) {
        let after = self.index.covered(id).map(|covered| (&**covered, counts_anew(before, &covered.budget)));
        self.allotments.declared(before, after, at);
    }

    /// What becomes of a budget's holds and sums when it goes or counts something else.
    fn rehold(&mut self, id: &str, before: Option<Metric>, after: Option<Metric>) {
        match after {
            // A removed budget takes its holds with it, so that one declared later under its id starts clean.
            None => {
                self.accounts.remove(id);
                self.outbox.forget(id);
                self.each_on(id, |open, _| open.holds.retain(|h| h.hold.budget != id));
            }
            // It counts something else now: what is open is held in the new unit, what was posted in the old is gone.
            Some(metric) if before.is_some_and(|old| old != metric) => {
                self.accounts.remove(id);
                self.each_on(id, |open, accounts| {
                    let (need, at) = (open.need(metric), open.at);
                    for h in open.holds.iter_mut().filter(|h| h.hold.budget == id) {
                        h.metric = metric;
                        h.hold.amount = need;
                        accounts.hold(&h.hold, at);
                    }
                });
            }
            Some(_) => {}
        }
    }

    /// Every open call that holds on a budget.
    fn each_on(&mut self, budget: &str, mut change: impl FnMut(&mut Open, &mut Accounts)) {
        let holds_on = |open: &Open| open.holds.iter().any(|h| h.hold.budget == budget);
        let seqs: Vec<u64> = self.running().filter(|open| holds_on(open)).map(|open| open.seq).collect();
        for seq in seqs {
            if let Some(open) = self.open.get_mut(&seq) {
                change(Arc::make_mut(open), &mut self.accounts);
            }
        }
    }
}

// Whether the hold bounds the cost: there was a price, or nothing that could cost anything.
fn has_bound(admit: &Admit) -> bool {
    let free = !admit.unmetered && admit.input_bound == 0 && admit.output_bound == 0;
    free || admit.price_model.is_some() || !admit.hold.is_zero()
}

// What a call settled from its hold posts: nothing of a cost that is not known.
fn interrupted(cost: Option<Money>, h: &OpenHold) -> i128 {
    if cost.is_some() || h.metric != Metric::Usd { h.hold.amount } else { 0 }
}

/// What a settlement posts to a budget of this metric.
pub(super) fn posted_by(settle: &Settle, metric: Metric) -> i128 {
    let usage: &Usage = &settle.usage;
    actual(metric, settle.cost, usage, settle.tools_called)
}

mod encode;
mod legacy;
mod staged;
#[cfg(test)]
mod tests;

pub use encode::StateError;
pub(super) use staged::staged_account;
