//! Declared state that waits for the one entry that makes it so: how a large `apply` takes effect at once and costs no turn
//! of the writer more than a few dozen changes.
//!
//! Its content comes in as staged entries, a slice at a time, with other requests between them. Each is put on a copy of
//! the catalogue and of the index of budgets, which share what they have in common with those in force, so that the last
//! entry only has to take their place. It names the first staged entry, their number and the hash of them all. What is
//! declared in the usual way meanwhile goes to both copies; what is staged cannot be declared in the usual way until then.
//!
//! A budget that counts anew finds what calls have posted before, in entries that state these openings. From that entry on
//! it counts, and from the last on it holds and refuses. Where another budget of its id is still in force its sums stand
//! under [`shadow`] until then.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::codec::encode_body;
use super::entry::Body;
use super::index::BudgetIndex;
use super::leaf::Hash;
use crate::domain::catalogue::Map;
use crate::domain::{Budget, Catalogue, Change, Rollover};

/// What is staged so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staging {
    /// Sequence of the first staged entry.
    pub first: u64,
    /// Staged entries so far.
    pub count: u64,
    /// SHA-256 over the hash before and group 0 of the next staged entry, from 32 zero bytes on.
    pub sha256: Hash,
    /// By noun and id.
    #[serde(with = "super::declared::changes")]
    changes: Map<(String, String), Arc<Change>>,
    /// How many of them are prices.
    pub prices: u32,
    /// Budgets in force whose holds or sums are other ones afterwards.
    touched: Map<String, ()>,
    /// Budgets among them that count already.
    counting: Map<String, ()>,
    #[serde(skip)]
    catalogue: Arc<Catalogue>,
    #[serde(skip)]
    index: BudgetIndex,
}

/// Copies follow from the rest, so they make no difference.
impl PartialEq for Staging {
    fn eq(&self, other: &Staging) -> bool {
        let facts = |s: &Staging| (s.first, s.count, s.sha256, s.prices);
        let lists = |s: &Staging| (s.changes.clone(), s.touched.clone(), s.counting.clone());
        facts(self) == facts(other) && lists(self) == lists(other)
    }
}
impl Eq for Staging {}

/// Under what a staged budget's sums stand while another of its id is in force. No id looks like it.
pub fn shadow(budget: &str) -> String {
    format!("~{budget}")
}

/// Whether what the budget hands from period to period has to be looked at when it changes.
fn hands_on(before: &Budget, after: &Budget) -> bool {
    let differs = (before.limit, before.rollover) != (after.limit, after.rollover);
    differs && (before.rollover, after.rollover) != (Rollover::None, Rollover::None)
}

impl Staging {
    pub fn begin(first: u64, catalogue: &Arc<Catalogue>, index: &BudgetIndex) -> Staging {
        Staging {
            first,
            count: 0,
            sha256: [0; 32],
            changes: Map::new(),
            prices: 0,
            touched: Map::new(),
            counting: Map::new(),
            catalogue: catalogue.clone(),
            index: index.clone(),
        }
    }

    /// Of what was kept; the copies are made by [`Staging::restore`].
    pub(super) fn of_parts(
        first: u64,
        count: u64,
        sha256: Hash,
        changes: Map<(String, String), Arc<Change>>,
        prices: u32,
        touched: Map<String, ()>,
        counting: Map<String, ()>,
    ) -> Staging {
        let (catalogue, index) = Default::default();
        Staging { first, count, sha256, changes, prices, touched, counting, catalogue, index }
    }

    /// Makes the copies again after the rest was read.
    pub fn restore(&mut self, catalogue: &Arc<Catalogue>, index: &BudgetIndex) {
        (self.catalogue, self.index) = (catalogue.clone(), index.clone());
        for change in self.changes.values().cloned().collect::<Vec<_>>() {
            self.put(&change);
        }
    }

    /// Declared state as it will be.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    pub fn index(&self) -> &BudgetIndex {
        &self.index
    }

    /// How many things change.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn has(&self, change: &Change) -> bool {
        let (noun, id) = change.subject();
        self.changes.contains_key(&(noun.to_owned(), id))
    }

    /// Owners that are staged.
    pub fn owners(&self) -> impl Iterator<Item = &crate::domain::Owner> {
        let staged = self.changes.range(("owner".to_owned(), String::new())..("owner\0".to_owned(), String::new()));
        staged.filter_map(|(_, change)| match &**change {
            Change::Owner(_, owner) => owner.as_ref(),
            _ => None,
        })
    }

    /// Staged budgets that are not in force under any form.
    pub fn new_budgets<'a>(&'a self, in_force: &'a Catalogue) -> impl Iterator<Item = &'a Budget> {
        let budgets = self.changes.range(("budget".to_owned(), String::new())..("budget\0".to_owned(), String::new()));
        budgets.filter_map(|(_, change)| match &**change {
            Change::Budget(id, Some(budget)) if !in_force.budgets.contains_key(id) => Some(budget),
            _ => None,
        })
    }

    /// Whether a staged budget counts already.
    pub fn counts(&self, budget: &str) -> bool {
        self.counting.contains_key(budget)
    }

    pub fn counting(&self) -> impl Iterator<Item = &String> {
        self.counting.keys()
    }

    pub fn nothing_counts(&self) -> bool {
        self.counting.is_empty()
    }

    pub(super) fn count_from_now(&mut self, budget: &str, in_force: &Catalogue) {
        if in_force.budgets.contains_key(budget) {
            self.touched.insert(budget.to_owned(), ());
        }
        self.counting.insert(budget.to_owned(), ());
    }

    /// Takes in a staged entry.
    pub(super) fn stage(&mut self, body: &Body, change: Change, in_force: &Catalogue) {
        let (noun, id) = change.subject();
        if let Change::Budget(id, after) = &change
            && let Some(before) = in_force.budgets.get(id)
            && after.as_ref().is_none_or(|after| after.limit.metric != before.limit.metric || hands_on(before, after))
        {
            self.touched.insert(id.clone(), ());
        }
        self.put(&change);
        self.prices += u32::from(matches!(change, Change::Price { .. }));
        self.changes.insert((noun.to_owned(), id), Arc::new(change));
        self.count += 1;
        self.sha256 = Sha256::new().chain_update(self.sha256).chain_update(encode_body(body)).finalize().into();
    }

    /// Puts a change on the copies.
    pub(super) fn put(&mut self, change: &Change) {
        let before = match change {
            Change::Budget(id, _) => self.catalogue.budgets.get(id).cloned(),
            _ => None,
        };
        Arc::make_mut(&mut self.catalogue).apply(change.clone());
        if let Change::Budget(id, _) = change {
            self.index.replace(before.as_ref(), self.catalogue.budgets.get(id));
        }
    }

    /// Budgets in force whose holds or sums are other ones afterwards.
    pub(super) fn touched(&self) -> impl Iterator<Item = &String> {
        self.touched.keys()
    }

    pub(super) fn note_pause(&mut self, id: &str, seq: Option<u64>) {
        Arc::make_mut(&mut self.catalogue).note_pause(id, seq);
    }

    /// Changes an owner in what is staged, and in the copy.
    pub(super) fn owner_mut(&mut self, id: &str, change: &dyn Fn(&mut crate::domain::Owner)) {
        if let Some(owner) = Arc::make_mut(&mut self.catalogue).owners.get_mut(id) {
            change(Arc::make_mut(owner));
        }
        if let Some(staged) = self.changes.get_mut(&("owner".to_owned(), id.to_owned()))
            && let Change::Owner(_, Some(owner)) = Arc::make_mut(staged)
        {
            change(owner);
        }
    }
}

#[cfg(test)]
mod tests;
