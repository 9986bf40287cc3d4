//! What a budget that counts anew finds already spent: added up outside, completed at the moment it is decided on.
//!
//! The sum of a budget's period comes from the views as of some entry. Calls that ended since then are added one by one,
//! the last of them by the writer itself between two requests, so that the opening is exact as of the entry that states
//! it. What is under way then is not in it: each such call gets its hold when it ends (EXTEND).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::{Body, Entry, Opening};
use super::index::BudgetIndex;
use super::state::State;
use super::words::Words;
use crate::budget::Window;
use crate::budget::amount::actual;
use crate::domain::{Budget, Dimension, Metric, Micros};

/// A call that has just ended: what it was, when it was admitted, and what it posts to whom counts it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Sequence of the SETTLE or INTERRUPTED.
    pub seq: u64,
    at: Micros,
    words: Arc<Words>,
    /// By metric: money, tokens, calls, tool calls.
    amounts: [i128; 4],
}

const METRICS: [Metric; 4] = [Metric::Usd, Metric::Tokens, Metric::Calls, Metric::ToolCalls];

impl Ended {
    /// What an entry ends, seen before it is applied. `None`: it ends nothing, or a call whose words are not known.
    pub fn by(state: &State, entry: &Entry) -> Option<Ended> {
        if !matches!(entry.body, Body::Settle(_) | Body::Interrupted { .. }) {
            return None;
        }
        let open = state.open_by(entry.reference?)?;
        let amount = |metric: Metric| match &entry.body {
            Body::Settle(settle) => actual(metric, settle.cost, &settle.usage, settle.tools_called),
            Body::Interrupted { cost: None } if metric == Metric::Usd => 0,
            _ => open.need(metric),
        };
        Some(Ended { seq: entry.seq, at: open.at, words: open.words.0.clone()?, amounts: METRICS.map(amount) })
    }
}

/// Budgets whose openings are being added up.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    index: BudgetIndex,
    sums: BTreeMap<String, Sum>,
}

#[derive(Clone, Debug)]
struct Sum {
    window: Window,
    metric: Metric,
    posted: i128,
    /// Entries with a smaller sequence are in.
    up_to: u64,
}

impl Counting {
    /// For these budgets, in the period that `at` is in. One whose periods cannot be cut is left out.
    pub fn of<'a>(budgets: impl IntoIterator<Item = &'a Budget>, at: Micros) -> Counting {
        let mut counting = Counting::default();
        for budget in budgets {
            let budget = Arc::new(budget.clone());
            counting.index.replace(None, Some(&budget));
            if let Some(window) = counting.index.window(&budget.id, at) {
                let sum = Sum { window: window.into_owned(), metric: budget.limit.metric, posted: 0, up_to: 0 };
                counting.sums.insert(budget.id.clone(), sum);
            }
        }
        counting
    }

    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Where the periods begin: what has to be read.
    pub fn starts(&self) -> BTreeSet<Option<Micros>> {
        self.sums.values().map(|sum| sum.window.start).collect()
    }

    /// Whether budgets of this kind are among those whose period begins at `start`.
    pub fn wants(&self, start: Option<Micros>, kind: impl Fn(&Budget) -> bool) -> bool {
        let mut ids = self.sums.iter().filter(|(_, sum)| sum.window.start == start).map(|(id, _)| id);
        ids.any(|id| self.index.budget(id).is_some_and(|budget| kind(budget)))
    }

    /// Adds what calls of these words posted, to the budgets that cover them and whose period begins at `start`.
    pub fn add<'w>(
        &mut self,
        start: Option<Micros>,
        value: impl Fn(Dimension) -> Option<&'w str> + Copy,
        amount: impl Fn(Metric) -> i128,
        wanted: impl Fn(&Budget) -> bool,
    ) {
        for covered in self.index.covering(value) {
            let sum = self.sums.get_mut(&covered.budget.id).filter(|sum| sum.window.start == start);
            if let Some(sum) = sum.filter(|_| wanted(&covered.budget)) {
                sum.posted = sum.posted.saturating_add(amount(sum.metric));
            }
        }
    }

    /// Says as of which entry the sums of the periods from `start` are.
    pub fn complete(&mut self, start: Option<Micros>, up_to: u64, wanted: impl Fn(&Budget) -> bool) {
        for (id, sum) in self.sums.iter_mut().filter(|(_, sum)| sum.window.start == start) {
            if self.index.budget(id).is_some_and(|budget| wanted(budget)) {
                sum.up_to = up_to;
            }
        }
    }

    /// Adds a call that ended after the sums were read.
    pub fn ended(&mut self, ended: &Ended) {
        for covered in self.index.covering(|d| ended.words.get(d)) {
            let Some(sum) = self.sums.get_mut(&covered.budget.id) else { continue };
            if ended.seq >= sum.up_to && sum.window.contains(ended.at) {
                let amount = METRICS.iter().zip(ended.amounts).find(|(m, _)| **m == sum.metric).map_or(0, |(_, n)| n);
                sum.posted = sum.posted.saturating_add(amount);
            }
        }
    }

    /// The entry before which all of it is in, after [`Counting::ended`] was given everything before `seq`.
    pub fn reached(&mut self, seq: u64) {
        self.sums.values_mut().for_each(|sum| sum.up_to = sum.up_to.max(seq));
    }

    /// The openings, of every budget one; none if a period has turned since and it has to be counted again.
    pub fn openings(&self, at: Micros) -> Option<Vec<(String, Opening)>> {
        let opening = |(id, sum): (&String, &Sum)| {
            let opening = Opening { period: sum.window.id.clone(), posted: sum.posted };
            sum.window.contains(at).then(|| (id.clone(), opening))
        };
        self.sums.iter().map(opening).collect()
    }

    /// Parts of at most `most` budgets: one entry each.
    pub fn parts(self, most: usize) -> Vec<Counting> {
        let mut parts: Vec<Counting> = Vec::new();
        for (n, (id, sum)) in self.sums.into_iter().enumerate() {
            if n % most == 0 {
                parts.push(Counting::default());
            }
            if let (Some(part), Some(budget)) = (parts.last_mut(), self.index.budget(&id)) {
                part.index.replace(None, Some(budget));
                part.sums.insert(id, sum);
            }
        }
        parts
    }
}
