//! Budgets as declared: what they count, over which calls, in which window.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Dimension;
use super::money::Money;
use super::time::Micros;

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

/// What a streamed call holds at first. Calls that do not stream hold their upper bound in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reservation {
    /// The upper bound: nothing has to be added while it streams.
    #[default]
    Strict,
    /// What such calls cost as a rule, extended ahead of the stream.
    Expected,
}

/// What becomes of a stream that the budget cannot afford to extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MidstreamExceed {
    /// It ends with the dialect's error event and costs what has streamed.
    Cut,
    /// It goes on, and what it costs above its hold is an overrun. Only for budgets that never refuse.
    Finish,
}

/// What a period hands to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rollover {
    #[default]
    None,
    /// What the period before left of its declared limit, of that period alone.
    Unused,
    /// What the period before used above all it was granted is taken off.
    Overage,
}

/// A declared budget. Its balances are not here: the ledger's state holds them, and nothing else does.
///
/// Its limit in a period is not `limit` alone: raises, resets, what the period before left and break-glass count too. One
/// function adds them up, `State::standing` (`Ledger::balances` outside), as an [`Allowance`]; admission, pages and API
/// all ask it.
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
    /// The budget above it in the tree people see. It changes no sum: every budget that matches counts a call.
    pub parent: Option<String>,
    pub reservation: Reservation,
    /// Absent: cut by a hard budget, finish by one that only alerts.
    pub on_midstream_exceed: Option<MidstreamExceed>,
    pub rollover: Rollover,
    /// Percent of the limit that a break-glass grant opens above it; absent = none.
    pub grace_pct: Option<u16>,
    /// Tell when the forecast for the period's end reaches the limit.
    pub forecast_alert: bool,
}

impl Budget {
    /// Whether a stream is cut where this budget cannot afford more of it.
    pub fn cuts(&self) -> bool {
        self.enforcement == Enforcement::Hard || self.on_midstream_exceed == Some(MidstreamExceed::Cut)
    }

    /// A budget of this limit and period that says nothing else: covers every call, never refuses, UTC.
    pub fn plain(id: impl Into<String>, limit: Limit, period: PeriodKind) -> Budget {
        Budget {
            id: id.into(),
            matches: BTreeMap::new(),
            limit,
            period,
            anchor: None,
            time_zone: "UTC".to_owned(),
            fiscal_year_start_month: 1,
            enforcement: Enforcement::Alert,
            alert_at_percent: Vec::new(),
            notify: Vec::new(),
            parent: None,
            reservation: Reservation::Strict,
            on_midstream_exceed: None,
            rollover: Rollover::None,
            grace_pct: None,
            forecast_alert: false,
        }
    }
}

/// What an operator can allocate to a budget beside its declared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllocationKind {
    /// More until an instant, in every period that is in force until then.
    Raise,
    /// What was posted is given back to the current period. It stays posted.
    Reset,
    /// Break-glass: the band of `grace_pct` is open until an instant.
    Grant,
}

impl AllocationKind {
    pub const fn name(self) -> &'static str {
        match self {
            AllocationKind::Raise => "raise",
            AllocationKind::Reset => "reset",
            AllocationKind::Grant => "grant",
        }
    }
}

/// An allocation to a budget, in units of its metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    pub kind: AllocationKind,
    /// Of a raise or a reset.
    pub amount: i128,
    /// Of a reset.
    pub period: Option<String>,
    /// The first instant at which it is over; absent for a reset of a period without end.
    pub until: Option<Micros>,
}

/// What a budget may use in one period, by its parts, in units of its metric: a function of what is in the journal and of
/// the instant at which it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// The declared limit.
    pub declared: i128,
    /// Temporary raises in force.
    pub raised: i128,
    /// From the period before; below zero where it takes off.
    pub carried: i128,
    /// What manual resets of this period gave back.
    pub reset: i128,
    /// The band that a break-glass grant in force opens.
    pub grace: i128,
}

impl Allowance {
    pub fn declared(amount: i128) -> Allowance {
        Allowance { declared: amount, ..Allowance::default() }
    }

    /// What settled + held must not pass. Never below zero.
    pub fn total(&self) -> i128 {
        let parts = [self.raised, self.carried, self.reset, self.grace];
        parts.iter().fold(self.declared, |sum, part| sum.saturating_add(*part)).max(0)
    }
}
