//! Folds calls into buckets of a quarter of an hour: what spend reports add up.
//!
//! A bucket is a quarter of an hour of UTC and one combination of dimensions. Every civil time zone is a whole number of
//! quarters off UTC, so that days, weeks and months of any zone are sums of whole buckets. A call is counted in the
//! quarter it *started* in, once it has ended: refused, or settled. What an attempt of it has cost is counted as soon as
//! that attempt has ended, while the next one runs, too: money that was spent is in the sums at every instant.

mod calendar;

use crate::domain::time::QUARTER;
use crate::domain::{Call, CostBasis, Dimension, Micros, Money, Outcome, Usage, UsageBasis};

pub use calendar::{Calendar, CalendarError, Step};

/// What is added up. Sums of known values; `unpriced` says how many calls have an unknown cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Measures {
    /// Admitted calls that have ended.
    pub calls: u64,
    /// Requests refused.
    pub refused: u64,
    pub failed: u64,
    pub unpriced: u64,
    /// Calls whose usage was counted or estimated by us.
    pub estimated: u64,
    pub tool_calls: u64,
    pub usage: Usage,
    pub cost: Money,
    pub avoided: Money,
    pub total_ms: u64,
}

impl Measures {
    /// What one call adds; nothing while its first attempt runs.
    pub fn of(call: &Call) -> Option<Measures> {
        if !call.counts() {
            return None;
        }
        let mut m = Measures::default();
        match call.outcome {
            Outcome::Running => {}
            Outcome::Refused => m.refused = call.stands_for,
            _ => m.calls = 1,
        }
        m.failed = u64::from(call.outcome == Outcome::Failed);
        m.unpriced = u64::from(m.calls == 1 && call.cost.is_none());
        m.estimated = u64::from(matches!(call.usage_basis, UsageBasis::Counted | UsageBasis::Estimated));
        m.tool_calls = u64::from(call.tools_called);
        m.usage = call.usage.clone();
        m.cost = call.cost.unwrap_or(Money::ZERO);
        m.total_ms = call.total_ms.map_or(0, u64::from);
        Some(m)
    }

    /// Adds what another call or bucket has.
    pub fn add(&mut self, other: &Measures) {
        self.calls += other.calls;
        self.refused += other.refused;
        self.failed += other.failed;
        self.unpriced += other.unpriced;
        self.estimated += other.estimated;
        self.tool_calls += other.tool_calls;
        self.usage.add(&other.usage);
        self.cost += other.cost;
        self.avoided += other.avoided;
        self.total_ms += other.total_ms;
    }

    /// How sure the sum of costs is: the least sure of its parts, `unpriced` where some part has no price.
    pub fn cost_basis(&self) -> CostBasis {
        match (self.unpriced, self.estimated) {
            (0, 0) => CostBasis::Exact,
            (0, _) => CostBasis::Estimated,
            _ => CostBasis::Unpriced,
        }
    }
}

/// One bucket as it is kept: its sums, and how many calls knew each usage count, so that taking a call out again (it is
/// tried once more) leaves *unknown* rather than 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bucket {
    pub measures: Measures,
    known: Usage,
}

impl Bucket {
    pub fn add(&mut self, call: &Measures) {
        self.measures.add(call);
        self.known.add(&call.usage.iter().map(|(c, _)| (c, 1)).collect());
    }

    /// Takes out what [`Bucket::add`] put in.
    pub fn subtract(&mut self, call: &Measures) {
        let m = &mut self.measures;
        m.calls -= call.calls;
        m.refused -= call.refused;
        m.failed -= call.failed;
        m.unpriced -= call.unpriced;
        m.estimated -= call.estimated;
        m.tool_calls -= call.tool_calls;
        m.cost -= call.cost;
        m.avoided -= call.avoided;
        m.total_ms -= call.total_ms;
        for (component, n) in call.usage.iter() {
            match self.known.get(component) {
                Some(known) if known > 1 => {
                    self.known.set(component, known - 1);
                    let sum = m.usage.get(component).unwrap_or(0);
                    m.usage.set(component, sum.saturating_sub(n));
                }
                _ => {
                    self.known.clear(component);
                    m.usage.clear(component);
                }
            }
        }
    }

    /// True if nothing is left in it.
    pub fn is_empty(&self) -> bool {
        self.measures == Measures::default()
    }
}

/// One combination of dimensions. `run` is not among them: there are as many runs as people like, and reports by run read
/// the calls themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct DimSet(Vec<Option<String>>);

impl DimSet {
    /// Whether buckets know the dimension.
    pub const fn has(dimension: Dimension) -> bool {
        !matches!(dimension, Dimension::Run)
    }

    /// The combination a call is counted under.
    pub fn of(call: &Call) -> DimSet {
        DimSet(DimSet::values(call).map(|value| value.map(str::to_owned)).collect())
    }

    /// The values of [`DimSet::of`], in its order, without a copy: they encode to the same bytes.
    pub fn values(call: &Call) -> impl ExactSizeIterator<Item = Option<&str>> {
        const KNOWN: [Dimension; Dimension::ALL.len() - 1] = known();
        KNOWN.iter().map(|dimension| call.dimension(*dimension))
    }

    /// The value of a dimension; `None` = the calls have none.
    pub fn get(&self, dimension: Dimension) -> Option<&str> {
        debug_assert!(DimSet::has(dimension), "buckets do not know {dimension}");
        let before = |d: &&Dimension| **d != dimension;
        let index = Dimension::ALL.iter().take_while(before).filter(|d| DimSet::has(**d)).count();
        self.0.get(index)?.as_deref()
    }
}

/// The dimensions buckets know, in the order of all.
const fn known() -> [Dimension; Dimension::ALL.len() - 1] {
    let mut known = [Dimension::Tenant; Dimension::ALL.len() - 1];
    let (mut from, mut to) = (0, 0);
    while from < Dimension::ALL.len() {
        if DimSet::has(Dimension::ALL[from]) {
            known[to] = Dimension::ALL[from];
            to += 1;
        }
        from += 1;
    }
    known
}

/// The quarter of an hour an instant is in, counted from 1970 (UTC). Instants before are in the first.
pub fn quarter_of(at: Micros) -> u32 {
    u32::try_from(at.0.div_euclid(QUARTER).max(0)).unwrap_or(u32::MAX)
}

/// Where a quarter begins.
pub fn quarter_start(quarter: u32) -> Micros {
    Micros(i64::from(quarter) * QUARTER)
}
