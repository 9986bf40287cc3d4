//! Budgets as declared: what they count, over which calls, in which window.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Dimension;
use super::money::Money;

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Cost, in units of 10⁻¹⁵ USD.
    Usd,
    /// Input and output tokens.
    Tokens,
    Calls,
    /// Tools the model asked the caller to run.
    ToolCalls,
}

/// A limit in units of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub metric: Metric,
    pub amount: i128,
}

impl Limit {
    /// The limit as money, where it counts money.
    pub fn usd(self) -> Option<Money> {
        (self.metric == Metric::Usd).then_some(Money(self.amount))
    }
}

/// Whether a budget refuses or only tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// settled + held never passes the limit.
    Hard,
    /// Never refuses.
    #[default]
    Alert,
}

/// The window a limit holds for, in the budget's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeriodKind {
    Minute,
    Hour,
    Day,
    /// Monday to Sunday (ISO 8601).
    Week,
    Month,
    Quarter,
    Year,
    Total,
}

/// A declared budget. Its balances are not here: the ledger's state holds them, and nothing else does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub id: String,
    /// Every pair must match for a call to be covered; empty covers every call.
    pub matches: BTreeMap<Dimension, String>,
    pub limit: Limit,
    pub period: PeriodKind,
    /// Date (`2026-11-15`) from which periods are counted; absent = calendar periods.
    pub anchor: Option<String>,
    /// IANA zone the periods are cut in.
    pub time_zone: String,
    /// First month of the fiscal year (1 to 12), for quarters and years.
    pub fiscal_year_start_month: u8,
    pub enforcement: Enforcement,
    pub alert_at_percent: Vec<u16>,
    pub notify: Vec<String>,
}
