//! Balances: what each period of each budget has posted and holds. Part of the state, changed by `apply` alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{Alert, Opening};
use crate::domain::Micros;
use crate::domain::call::BudgetHold;
use crate::domain::catalogue::Map;

/// Balances by budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// A budget's periods, older first.
    by_budget: Map<String, Arc<Vec<Period>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Period {
    id: String,
    /// An instant in it: tells which of two periods is the older.
    within: Micros,
    posted: i128,
    held: i128,
    open_holds: u64,
    /// Alerts raised: kind and threshold.
    fired: Vec<(String, Option<u16>)>,
}

/// What one period of a budget has, in units of the budget's metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    pub budget: &'a str,
    pub period: &'a str,
    pub posted: i128,
    pub held: i128,
    pub open_holds: u64,
}

impl Position<'_> {
    /// Settled + held.
    pub fn used(&self) -> i128 {
        self.posted.saturating_add(self.held)
    }
}

impl Accounts {
    pub fn iter(&self) -> impl Iterator<Item = Position<'_>> {
        self.by_budget.iter().flat_map(|(budget, periods)| periods.iter().map(|p| p.position(budget)))
    }

    pub fn get<'a>(&'a self, budget: &'a str, period: &str) -> Option<Position<'a>> {
        self.find(budget, period).map(|p| p.position(budget))
    }

    /// Whether this alert was raised in the period already.
    pub fn has_fired(&self, budget: &str, period: &str, kind: &str, threshold: Option<u16>) -> bool {
        self.find(budget, period).is_some_and(|p| p.has_fired(kind, threshold))
    }

    fn find(&self, budget: &str, period: &str) -> Option<&Period> {
        self.by_budget.get(budget)?.iter().rev().find(|p| p.id == period)
    }

    // The period, made if this is the first entry that touches it; then all but the two newest that nothing holds on go.
    fn touch(&mut self, budget: &str, period: &str, within: Micros) -> &mut Period {
        // Two lookups, but no copy of the id on the way every call takes.
        if !self.by_budget.contains_key(budget) {
            self.by_budget.insert(budget.to_owned(), Arc::new(Vec::with_capacity(2)));
        }
        let periods = self.by_budget.get_mut(budget).expect("it was put there just now");
        let periods = Arc::make_mut(periods);
        let at = match periods.iter().rposition(|p| p.id == period) {
            Some(at) => at,
            None => {
                let idle = periods.iter().filter(|p| p.open_holds == 0).count();
                let mut too_many = idle.saturating_sub(1);
                periods.retain(|p| {
                    let goes = p.open_holds == 0 && p.within < within && too_many > 0;
                    too_many -= usize::from(goes);
                    !goes
                });
                let at = periods.partition_point(|p| p.within <= within);
                periods.insert(at, Period::new(period, within));
                at
            }
        };
        &mut periods[at]
    }

    /// A hold of a call admitted at `at`.
    pub(super) fn hold(&mut self, hold: &BudgetHold, at: Micros) {
        let period = self.touch(&hold.budget, &hold.period, at);
        period.held = period.held.saturating_add(hold.amount);
        period.open_holds += 1;
    }

    /// More of a hold that is there.
    pub(super) fn raise(&mut self, hold: &BudgetHold, at: Micros) {
        let period = self.touch(&hold.budget, &hold.period, at);
        period.held = period.held.saturating_add(hold.amount);
    }

    /// What stands under one name goes on under another: what was posted there is all that is taken over.
    pub(super) fn take_over(&mut self, from: &str, to: &str) {
        let Some(periods) = self.by_budget.remove(from) else { return };
        for period in periods.iter() {
            self.touch(to, &period.id, period.within).posted = period.posted;
        }
    }

    /// A hold becomes what it came to. A budget that is gone takes nothing.
    pub(super) fn post(&mut self, hold: &BudgetHold, amount: i128) {
        let Some(periods) = self.by_budget.get_mut(&hold.budget) else { return };
        let Some(period) = Arc::make_mut(periods).iter_mut().rev().find(|p| p.id == hold.period) else { return };
        period.held = period.held.saturating_sub(hold.amount);
        period.open_holds = period.open_holds.saturating_sub(1);
        period.posted = period.posted.saturating_add(amount);
    }

    /// What was posted before the budget, or its change, took effect at `at`.
    pub(super) fn open_with(&mut self, budget: &str, openings: &[Opening], at: Micros) {
        for opening in openings {
            self.touch(budget, &opening.period, at).posted = opening.posted;
        }
    }

    pub(super) fn fired(&mut self, alert: &Alert, at: Micros) {
        let period = self.touch(&alert.budget, &alert.period, at);
        if !period.has_fired(&alert.kind, alert.threshold) {
            period.fired.push((alert.kind.clone(), alert.threshold));
        }
    }

    pub(super) fn remove(&mut self, budget: &str) {
        self.by_budget.remove(budget);
    }

    /// As the encoding before versions 4 and 5 had them: by budget, in the order in which entries first touched them.
    pub(super) fn of_old(old: impl Iterator<Item = (String, Vec<OldPeriod>)>) -> Accounts {
        let periods = |periods: Vec<OldPeriod>| {
            // Nothing tells their instants, but their order: before every period to come.
            let numbered = (0..).zip(periods);
            let period = |(n, (id, posted, held, open_holds, fired))| Period {
                id,
                within: Micros(n),
                posted,
                held,
                open_holds,
                fired,
            };
            Arc::new(numbered.map(period).collect::<Vec<_>>())
        };
        Accounts { by_budget: old.map(|(budget, old)| (budget, periods(old))).collect() }
    }
}

/// Id, posted, held, open holds, alerts raised.
pub(super) type OldPeriod = (String, i128, i128, u64, Vec<(String, Option<u16>)>);

impl Period {
    fn new(id: &str, within: Micros) -> Period {
        Period { id: id.to_owned(), within, posted: 0, held: 0, open_holds: 0, fired: Vec::new() }
    }

    fn has_fired(&self, kind: &str, threshold: Option<u16>) -> bool {
        self.fired.iter().any(|(k, t)| k == kind && *t == threshold)
    }

    fn position<'a>(&'a self, budget: &'a str) -> Position<'a> {
        let Period { id, posted, held, open_holds, .. } = self;
        Position { budget, period: id, posted: *posted, held: *held, open_holds: *open_holds }
    }
}
