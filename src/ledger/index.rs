//! Which budgets cover a call, without looking at all of them; and which period they are in, without a calendar per call.
//!
//! Derived from the catalogue, so it is neither encoded nor compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::entry::Admit;
use crate::budget::{Calendar, Window};
use crate::domain::catalogue::{Map, covers};
use crate::domain::{Budget, Dimension, Micros};

/// Budgets by one exact word of their `match`, the others apart.
#[derive(Clone, Debug, Default)]
pub struct BudgetIndex {
    exact: BTreeMap<Dimension, Map<String, List>>,
    /// Without an exact word: looked at for every call.
    rest: List,
    calendars: Map<String, Arc<Covered>>,
    /// The period the newest hold on a budget was in.
    windows: Map<String, Arc<Window>>,
    /// The entry by which budgets last changed: calls admitted since then hold on all that cover them.
    pub changed_at: u64,
}

/// In ascending order of ids. Shared by copies of the index until one of them changes it.
type List = Arc<Vec<Arc<Covered>>>;

/// A budget ready for use.
#[derive(Debug)]
pub struct Covered {
    pub budget: Arc<Budget>,
    calendar: Calendar,
}

impl Covered {
    /// The period an instant is in.
    pub fn window(&self, at: Micros) -> Window {
        self.calendar.window(at)
    }
}

/// Two indexes of one catalogue are equal, whatever they remember.
impl PartialEq for BudgetIndex {
    fn eq(&self, _: &BudgetIndex) -> bool {
        true
    }
}
impl Eq for BudgetIndex {}

// Most telling first: a budget is filed under the first of these it names without a `*`.
const TELLING: [Dimension; 12] = [
    Dimension::Run,
    Dimension::Agent,
    Dimension::Credential,
    Dimension::Workflow,
    Dimension::Service,
    Dimension::Principal,
    Dimension::Application,
    Dimension::Owner,
    Dimension::Tenant,
    Dimension::CostCentre,
    Dimension::BusinessUnit,
    Dimension::Environment,
];

fn filed_under(budget: &Budget) -> Option<(Dimension, &str)> {
    TELLING.into_iter().find_map(|d| budget.matches.get(&d).filter(|v| !v.contains('*')).map(|v| (d, v.as_str())))
}

impl BudgetIndex {
    /// One budget changed, came or went. A budget whose periods cannot be cut covers nothing; none such is ever declared.
    pub fn replace(&mut self, before: Option<&Arc<Budget>>, after: Option<&Arc<Budget>>) {
        if let Some(old) = before {
            self.windows.remove(&old.id);
            self.calendars.remove(&old.id);
            let list = self.list(old);
            if let Ok(at) = list.binary_search_by(|c| c.budget.id.as_str().cmp(&old.id)) {
                list.remove(at);
            }
            self.tidy(old);
        }
        let Some(new) = after else { return };
        let Ok(calendar) = Calendar::of(new) else { return };
        let covered = Arc::new(Covered { budget: new.clone(), calendar });
        self.calendars.insert(new.id.clone(), covered.clone());
        let list = self.list(new);
        let at = list.partition_point(|c| c.budget.id < new.id);
        list.insert(at, covered);
    }

    /// Follows the budgets of a kind from one catalogue to a later one; costs what has changed between the two.
    pub fn follow(
        &mut self,
        before: &Map<String, Arc<Budget>>,
        after: &Map<String, Arc<Budget>>,
        kind: impl Fn(&Budget) -> bool,
    ) {
        for change in before.diff(after) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            self.replace(old.filter(|b| kind(b)), new.filter(|b| kind(b)));
        }
    }

    fn list(&mut self, budget: &Budget) -> &mut Vec<Arc<Covered>> {
        Arc::make_mut(match filed_under(budget) {
            Some((dimension, value)) => self.exact.entry(dimension).or_default().entry(value.to_owned()).or_default(),
            None => &mut self.rest,
        })
    }

    /// Keeps no empty list: words come and go.
    fn tidy(&mut self, budget: &Budget) {
        let Some((dimension, value)) = filed_under(budget) else { return };
        let Some(by_value) = self.exact.get_mut(&dimension) else { return };
        if by_value.get(value).is_some_and(|list| list.is_empty()) {
            by_value.remove(value);
        }
        if by_value.is_empty() {
            self.exact.remove(&dimension);
        }
    }

    /// The budgets that cover a call, in ascending order of their ids.
    pub fn covering<'w>(&self, value: impl Fn(Dimension) -> Option<&'w str> + Copy) -> Vec<&Arc<Covered>> {
        let mut found: Vec<&Arc<Covered>> = Vec::with_capacity(8);
        for (dimension, by_value) in &self.exact {
            if let Some(list) = value(*dimension).and_then(|v| by_value.get(v)) {
                found.extend(list.iter().filter(|c| covers(&c.budget.matches, value)));
            }
        }
        found.extend(self.rest.iter().filter(|c| covers(&c.budget.matches, value)));
        found.sort_unstable_by(|a, b| a.budget.id.cmp(&b.budget.id));
        found
    }

    /// The period of a budget at an instant: remembered from the last hold, or cut anew.
    pub fn window(&self, budget: &str, at: Micros) -> Option<std::borrow::Cow<'_, Window>> {
        match self.windows.get(budget) {
            Some(window) if window.contains(at) => Some(std::borrow::Cow::Borrowed(&**window)),
            _ => self.calendars.get(budget).map(|c| std::borrow::Cow::Owned(c.calendar.window(at))),
        }
    }

    /// A budget ready for use.
    pub fn covered(&self, id: &str) -> Option<&Arc<Covered>> {
        self.calendars.get(id)
    }

    pub fn budget(&self, id: &str) -> Option<&Arc<Budget>> {
        self.calendars.get(id).map(|covered| &covered.budget)
    }

    /// Remembers the period a hold was put in.
    pub fn remember(&mut self, budget: &str, period: &str, at: Micros) {
        if self.windows.get(budget).is_some_and(|w| w.id == period) {
            return;
        }
        if let Some(covered) = self.calendars.get(budget) {
            self.windows.insert(budget.to_owned(), Arc::new(covered.calendar.window(at)));
        }
    }
}

/// The value of a dimension, as far as a call has one when it is admitted: `model` is the one that the provider is asked
/// for.
pub fn dimension(admit: &Admit, dimension: Dimension) -> Option<&str> {
    match dimension {
        Dimension::Provider => Some(&admit.provider),
        Dimension::Model => admit.model_sent.as_deref().or(admit.model.as_deref()),
        _ => admit.who.dimension(dimension),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Enforcement;
    use crate::ledger::testing::hard;

    /// Word and enforcement of a budget, by its number; absent = not declared.
    type Drawn = Vec<Option<(u8, bool)>>;

    fn drawn() -> impl Strategy<Value = Drawn> {
        proptest::collection::vec(proptest::option::of((0u8..4, any::<bool>())), 12)
    }

    fn budgets(drawn: &Drawn) -> Map<String, Arc<Budget>> {
        let declared =
            drawn.iter().enumerate().filter_map(|(n, drawn)| drawn.map(|(word, refuses)| (n, word, refuses)));
        let made = declared.map(|(n, word, refuses)| {
            let mut budget = Budget { id: format!("b{n}"), ..hard("b", "1") };
            budget.enforcement = if refuses { Enforcement::Hard } else { Enforcement::Alert };
            let pattern = if word == 0 { "*".to_owned() } else { format!("w{word}") };
            budget.matches = [(Dimension::Service, pattern)].into();
            (budget.id.clone(), Arc::new(budget))
        });
        made.collect()
    }

    proptest! {
        #[test]
        fn an_index_that_follows_covers_what_one_look_at_all_would(first in drawn(), second in drawn(), word in 1u8..4) {
            let (first, second) = (budgets(&first), budgets(&second));
            let refuses = |budget: &Budget| budget.enforcement == Enforcement::Hard;
            let mut index = BudgetIndex::default();
            index.follow(&Map::new(), &first, refuses);
            index.follow(&first, &second, refuses);
            let service = format!("w{word}");
            let value = |d| (d == Dimension::Service).then_some(service.as_str());
            let found: Vec<&str> = index.covering(value).iter().map(|c| c.budget.id.as_str()).collect();
            let all = second.values().filter(|b| refuses(b) && covers(&b.matches, value));
            prop_assert_eq!(found, all.map(|b| b.id.as_str()).collect::<Vec<_>>());
        }
    }
}
