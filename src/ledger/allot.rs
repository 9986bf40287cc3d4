//! What operators allocated to a budget beside its declared limit, and what a period hands to the next.
//!
//! A raise lasts until its instant, a reset is of one period, a grant opens the band of `grace_pct`. All are entries; no
//! job ends them: who asks at a later instant gets the answer of that instant. What a period hands on is derived from its
//! sums each time it is asked, so it follows while the last calls of that period still settle.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::accounts::Accounts;
use super::index::Covered;
use crate::budget::Window;
use crate::domain::catalogue::Map;
use crate::domain::{Allocation, AllocationKind, Allowance, Budget, Micros, Rollover};

/// Most allocations of a budget that may be in force or still count for what it hands on.
pub const MOST_ALLOCATIONS: usize = 50;

/// By budget. One that has nothing beside its declared limit is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotments {
    by_budget: Map<String, Arc<Allotment>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Allotment {
    /// Since when the budget counts what it counts and hands on what it leaves: periods before that handed nothing on.
    since: Micros,
    /// A period in which the limit was changed, and the limit it began with.
    began_with: Option<(String, i128)>,
    allocated: Vec<Allocated>,
}

/// An allocation, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocated {
    /// Its entry, where the reason stands; absent after a new epoch began.
    pub seq: Option<u64>,
    pub at: Micros,
    pub actor: String,
    pub allocation: Allocation,
}

impl Allocated {
    /// In force at an instant; a reset for as long as its period lasts.
    pub fn in_force(&self, at: Micros) -> bool {
        self.allocation.until.is_none_or(|until| at < until)
    }
}

impl Allotment {
    fn new(since: Micros) -> Allotment {
        Allotment { since, began_with: None, allocated: Vec::new() }
    }

    fn of(&self, kind: AllocationKind) -> impl Iterator<Item = &Allocated> {
        self.allocated.iter().filter(move |a| a.allocation.kind == kind)
    }

    fn resets(&self, period: &str) -> i128 {
        let of_period = |a: &&Allocated| a.allocation.period.as_deref() == Some(period);
        self.of(AllocationKind::Reset).filter(of_period).fold(0, |sum, a| sum.saturating_add(a.allocation.amount))
    }
}

/// What a break-glass grant opens.
fn grace(budget: &Budget, limit: i128) -> i128 {
    limit.saturating_mul(budget.grace_pct.unwrap_or(0).into()) / 100
}

impl Allotments {
    /// What is allocated to a budget, oldest first.
    pub fn allocated(&self, budget: &str) -> &[Allocated] {
        self.by_budget.get(budget).map_or(&[], |a| &a.allocated)
    }

    /// What a budget may use in the period `window`, asked at `at`.
    pub fn allowance(&self, covered: &Covered, window: &Window, accounts: &Accounts, at: Micros) -> Allowance {
        let budget = &*covered.budget;
        let mut allowance = Allowance::declared(budget.limit.amount);
        let own = self.by_budget.get(&budget.id);
        if let Some(own) = own {
            let raised = own.of(AllocationKind::Raise).filter(|a| a.in_force(at));
            allowance.raised = raised.fold(0, |sum, a| sum.saturating_add(a.allocation.amount));
            allowance.reset = own.resets(&window.id);
            if own.of(AllocationKind::Grant).any(|a| a.in_force(at)) {
                allowance.grace = grace(budget, budget.limit.amount);
            }
        }
        if budget.rollover != Rollover::None {
            allowance.carried = carried(own.map(|own| &**own), covered, window, accounts);
        }
        allowance
    }

    pub(super) fn allocate(&mut self, covered: &Covered, allocated: Allocated) {
        let at = allocated.at;
        let own = self.own(&covered.budget.id, Micros(i64::MIN));
        let window = covered.window(at);
        let before = window.start.map(|start| covered.window(Micros(start.0.saturating_sub(1))));
        // What neither this period nor the one before can ask for any more goes.
        let start = before.as_ref().and_then(|before| before.start).unwrap_or(at);
        let ids = [Some(window.id), before.map(|before| before.id)];
        own.allocated.retain(|a| match &a.allocation.period {
            Some(period) => ids.iter().flatten().any(|id| id == period),
            None => a.allocation.until.is_none_or(|until| until > start),
        });
        own.allocated.push(allocated);
    }

    fn own(&mut self, budget: &str, since: Micros) -> &mut Allotment {
        Arc::make_mut(self.by_budget.entry(budget.to_owned()).or_insert_with(|| Arc::new(Allotment::new(since))))
    }

    /// A budget changed at `at`, came or went. `anew`: what it had posted says nothing about what it counts now.
    pub(super) fn declared(&mut self, before: Option<&Budget>, after: Option<(&Covered, bool)>, at: Micros) {
        let Some((covered, anew)) = after else {
            before.map(|before| self.by_budget.remove(&before.id));
            return;
        };
        let budget = &*covered.budget;
        let Some(before) = before else {
            if budget.rollover != Rollover::None {
                self.by_budget.insert(budget.id.clone(), Arc::new(Allotment::new(at)));
            }
            return;
        };
        if before.limit.metric != budget.limit.metric {
            self.by_budget.remove(&budget.id);
        }
        let hands_on = budget.rollover != Rollover::None;
        let begins = hands_on && before.rollover == Rollover::None;
        let keeps = hands_on || self.by_budget.contains_key(&budget.id);
        if !keeps || (!anew && !begins && before.limit == budget.limit) {
            return;
        }
        let own = self.own(&budget.id, Micros(i64::MIN));
        if begins {
            // The present period is the first that hands on.
            own.since = at;
        }
        if anew {
            (own.since, own.began_with) = (at, None);
            own.allocated.retain(|a| a.allocation.kind != AllocationKind::Reset);
        } else {
            let period = covered.window(at).id;
            if own.began_with.as_ref().is_none_or(|(known, _)| *known != period) {
                own.began_with = Some((period, before.limit.amount));
            }
        }
    }

    /// In a new epoch, where the entries of the old one have other numbers.
    pub(super) fn carry_over(&mut self) {
        let mut carried = Map::new();
        for (id, own) in &self.by_budget {
            let mut own = Allotment::clone(own);
            own.allocated.iter_mut().for_each(|a| a.seq = None);
            carried.insert(id.clone(), Arc::new(own));
        }
        self.by_budget = carried;
    }
}

/// What the period before hands to `window`. Of the limit it began with: what was carried into it is not handed on.
fn carried(own: Option<&Allotment>, covered: &Covered, window: &Window, accounts: &Accounts) -> i128 {
    let (budget, Some(start)) = (&*covered.budget, window.start) else { return 0 };
    if own.is_some_and(|own| own.since >= start) {
        return 0;
    }
    let before = covered.window(Micros(start.0.saturating_sub(1)));
    let used = accounts.get(&budget.id, &before.id).map_or(0, |p| p.used());
    let changed = own.and_then(|own| own.began_with.as_ref()).filter(|(period, _)| *period == window.id);
    let limit = changed.map_or(budget.limit.amount, |(_, limit)| *limit);
    let reset = own.map_or(0, |own| own.resets(&before.id));
    let left = limit.saturating_add(reset).saturating_sub(used);
    match budget.rollover {
        Rollover::None => 0,
        Rollover::Unused => left.clamp(0, limit),
        Rollover::Overage => {
            let then = |a: &&Allocated| a.at < start && a.allocation.until > before.start;
            let raised = own.map_or(0, |own| {
                let raised = own.of(AllocationKind::Raise).filter(then);
                let granted = own.of(AllocationKind::Grant).any(|a| then(&a));
                let raised = raised.fold(0i128, |sum, a| sum.saturating_add(a.allocation.amount));
                raised.saturating_add(if granted { grace(budget, limit) } else { 0 })
            });
            left.saturating_add(raised).min(0)
        }
    }
}
