//! Folds calls into buckets of a quarter of an hour: what spend reports add up.

use crate::domain::{Money, Usage};

/// What is added up. Sums of known values; `unpriced` says how many calls have an unknown cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Measures {
    /// Admitted calls.
    pub calls: u64,
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
