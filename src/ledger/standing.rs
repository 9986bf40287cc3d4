//! Where a budget stands at an instant: its period, what it has posted and holds, and what it may use.

use std::sync::Arc;

use super::allot::Allocated;
use super::index::Covered;
use super::state::State;
use crate::budget::Window;
use crate::domain::{Allowance, Budget, Micros};

/// A budget in the period of an instant. Amounts are in units of its metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub budget: Arc<Budget>,
    pub window: Window,
    pub posted: i128,
    pub held: i128,
    pub open_holds: u64,
    /// What posted + held must not pass, by its parts.
    pub allowance: Allowance,
}

impl Standing {
    /// Settled + held.
    pub fn used(&self) -> i128 {
        self.posted.saturating_add(self.held)
    }

    /// What is left to hold; below zero where it was passed or lowered.
    pub fn available(&self) -> i128 {
        self.allowance.total().saturating_sub(self.used())
    }
}

impl State {
    /// Where a declared budget stands at `at`: the one place that says what its limit is.
    pub fn standing(&self, budget: &str, at: Micros) -> Option<Standing> {
        let covered = self.index().covered(budget)?;
        let window = self.index().window(budget, at)?.into_owned();
        let p = self.accounts().get(budget, &window.id);
        let (posted, held, open_holds) = p.map_or((0, 0, 0), |p| (p.posted, p.held, p.open_holds));
        let allowance = self.allowance(covered, &window, at);
        Some(Standing { budget: covered.budget.clone(), window, posted, held, open_holds, allowance })
    }

    /// Every declared budget, by id.
    pub fn standings(&self, at: Micros) -> Vec<Standing> {
        self.catalogue().budgets.keys().filter_map(|id| self.standing(id, at)).collect()
    }

    /// What a budget may use in `window`, asked at `at`, which may be later.
    pub(super) fn allowance(&self, covered: &Covered, window: &Window, at: Micros) -> Allowance {
        self.allotments().allowance(covered, window, self.accounts(), at)
    }

    /// Raises, resets and grants of a budget that are in force or still count, oldest first.
    pub fn allocated(&self, budget: &str) -> &[Allocated] {
        self.allotments().allocated(budget)
    }
}
