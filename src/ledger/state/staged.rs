//! What the state does with an `apply` in slices: takes them in, makes them so by one entry, or drops them.

use std::sync::Arc;

use super::{ApplyError, State};
use crate::domain::{Catalogue, Change, Micros};
use crate::ledger::declare::counts_anew;
use crate::ledger::entry::{Apply, ApplyStep, Body, BudgetOpening, Opening};
use crate::ledger::staging::{Staging, shadow};

impl State {
    /// A change takes effect, here and on what is staged.
    pub(super) fn put(&mut self, change: &Change) {
        Arc::make_mut(&mut self.catalogue).apply(change.clone());
        if let Some(staging) = &mut self.staging {
            staging.put(change);
        }
    }

    /// Where a pause is on record, here and on what is staged.
    pub(super) fn note_pause(&mut self, id: &str, seq: Option<u64>) {
        Arc::make_mut(&mut self.catalogue).note_pause(id, seq);
        if let Some(staging) = &mut self.staging {
            staging.note_pause(id, seq);
        }
    }

    pub(super) fn stage(&mut self, seq: u64, ts: Micros, body: &Body) -> Result<(), ApplyError> {
        let change = match body {
            Body::Catalogue { change, .. } | Body::Price { change, .. } => (**change).clone(),
            Body::Budget { id, budget, .. } => Change::Budget(id.clone(), budget.as_deref().cloned()),
            _ => return Err(ApplyError::NotStaged { seq }),
        };
        let staging = self.staging.get_or_insert_with(|| Staging::begin(seq, &self.catalogue, &self.index));
        let budget = match &change {
            Change::Budget(id, Some(_)) if !self.catalogue.budgets.contains_key(id) => Some(id.clone()),
            _ => None,
        };
        staging.stage(body, change, &self.catalogue);
        // A budget to come that hands on what it leaves does so from now on: nothing is left to do when it is in force.
        if let Some(covered) = budget.and_then(|id| staging.index().covered(&id)) {
            self.allotments.declared(None, Some((covered, true)), ts);
        }
        Ok(())
    }

    pub(super) fn apply_staged(&mut self, seq: u64, ts: Micros, apply: &Apply) -> Result<(), ApplyError> {
        let Some(staging) = &mut self.staging else { return Err(ApplyError::NotStaged { seq }) };
        if (apply.first, apply.count, apply.sha256) != (staging.first, staging.count, staging.sha256) {
            return Err(ApplyError::NotStaged { seq });
        }
        match apply.step {
            ApplyStep::Openings => {
                for BudgetOpening { budget, period, posted } in &apply.openings {
                    let opening = Opening { period: period.clone(), posted: *posted };
                    let account = staged_account(&self.catalogue, budget);
                    self.accounts.open_with(&account, &[opening], ts);
                    staging.count_from_now(budget, &self.catalogue);
                }
            }
            ApplyStep::Effect => self.take_effect(seq, ts),
            ApplyStep::Dropped => self.drop_staged(),
        }
        Ok(())
    }

    pub(super) fn drop_staged(&mut self) {
        let Some(staging) = self.staging.take() else { return };
        staging.counting().for_each(|id| self.accounts.remove(&staged_account(&self.catalogue, id)));
        for budget in staging.new_budgets(&self.catalogue) {
            self.allotments.declared(Some(budget), None, Micros::default());
        }
    }

    /// What was staged takes the place of what was in force. What costs time here are budgets that were in force and go,
    /// count something else or count anew; all others were made ready when they were staged.
    fn take_effect(&mut self, seq: u64, ts: Micros) {
        let Some(staging) = self.staging.take() else { return };
        for id in staging.touched() {
            let metric = |c: &Catalogue| c.budgets.get(id).map(|b| b.limit.metric);
            self.rehold(id, metric(&self.catalogue), metric(staging.catalogue()));
            self.accounts.take_over(&shadow(id), id);
            let before = self.catalogue.budgets.get(id).map(|b| &**b);
            let after = staging.index().covered(id).map(|c| (&**c, counts_anew(before, &c.budget)));
            self.allotments.declared(before, after, ts);
        }
        let mut after = staging.catalogue().clone();
        let whole = Arc::make_mut(&mut after);
        whole.revision = self.catalogue.revision + staging.len() as u64;
        whole.price_book = self.catalogue.price_book.saturating_add(staging.prices);
        self.catalogue = after;
        self.index = staging.index().clone();
        self.index.changed_at = seq;
    }
}

/// Under what a staged budget's sums stand.
pub fn staged_account(in_force: &Catalogue, budget: &str) -> String {
    if in_force.budgets.contains_key(budget) { shadow(budget) } else { budget.to_owned() }
}
