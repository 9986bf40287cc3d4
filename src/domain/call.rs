//! A call: one metered request, from admission or refusal to its settlement.

use serde::{Deserialize, Serialize};

use super::filter::Dimension;
use super::id::CallId;
use super::identity::{Attribution, Claimed};
use super::money::Money;
use super::refusal::Code;
use super::time::Micros;
use super::usage::{Component, Usage};

/// How a call ended. The number is what the journal stores: never renumber, only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Outcome {
    /// Admitted and not yet settled. Never in the journal: what a running call shows.
    Running = 0,
    Completed = 1,
    Failed = 2,
    /// The caller hung up, or an operator ended it.
    Cancelled = 3,
    /// The process died; settled at restart from its hold.
    Interrupted = 4,
    Refused = 5,
    Cached = 6,
}

impl Outcome {
    pub const ALL: [Outcome; 7] = [
        Outcome::Running,
        Outcome::Completed,
        Outcome::Failed,
        Outcome::Cancelled,
        Outcome::Interrupted,
        Outcome::Refused,
        Outcome::Cached,
    ];

    pub const fn name(self) -> &'static str {
        ["running", "completed", "failed", "cancelled", "interrupted", "refused", "cached"][self as usize]
    }

    pub fn from_number(number: u8) -> Option<Outcome> {
        Outcome::ALL.get(number as usize).copied()
    }
}

/// Where the usage of a call comes from. The number is what the journal stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum UsageBasis {
    /// There is none: refused, failed before any token, or a path that costs nothing.
    None = 0,
    /// The provider reported it.
    Vendor = 1,
    /// Our tokenizer over the bytes that passed.
    Counted = 2,
    /// Without the bytes: from a hold, or from the request alone.
    Estimated = 3,
}

impl UsageBasis {
    pub const fn name(self) -> &'static str {
        ["none", "vendor", "counted", "estimated"][self as usize]
    }
    pub fn from_number(number: u8) -> Option<UsageBasis> {
        [UsageBasis::None, UsageBasis::Vendor, UsageBasis::Counted, UsageBasis::Estimated].get(number as usize).copied()
    }
}

/// How sure a cost is. The number is what the journal stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum CostBasis {
    /// Reported usage at the price book's prices, or nothing was used.
    Exact = 0,
    /// Usage was counted or estimated.
    Estimated = 1,
    /// The provider stated the cost.
    Vendor = 2,
    /// No price: the cost is unknown, not zero.
    Unpriced = 3,
}

impl CostBasis {
    pub const fn name(self) -> &'static str {
        ["exact", "estimated", "vendor", "unpriced"][self as usize]
    }
    pub fn from_number(number: u8) -> Option<CostBasis> {
        [CostBasis::Exact, CostBasis::Estimated, CostBasis::Vendor, CostBasis::Unpriced].get(number as usize).copied()
    }
}

/// One line of a cost: `quantity × unit_price_usd / per`, rounded half-even to 10⁻¹⁵ USD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CostLine {
    pub component: Component,
    pub quantity: u64,
    /// Decimal text, as the price list has it.
    pub unit_price_usd: String,
    pub per: u64,
    /// The tier the price is of: more input tokens than this. 0 = base.
    pub tier_from_tokens: u64,
    pub cost_usd: Money,
}

/// A hold on one budget, in the unit of that budget's metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetHold {
    pub budget: String,
    /// Period id such as `2026-11@Europe/Berlin`.
    pub period: String,
    pub amount: i128,
}

/// One call as lists and receipts show it: everything its entries say, in one row of the views.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub id: CallId,
    /// Sequence of the ADMIT, or of the DENY that refused it.
    pub seq: u64,
    /// Sequence of the SETTLE or INTERRUPTED that ended it.
    pub settled_seq: Option<u64>,
    /// Journal time of the ADMIT or DENY: the instant that counts for price, catalogue, budget and report.
    pub started_at: Micros,
    pub completed_at: Option<Micros>,
    pub outcome: Outcome,
    /// Code and what refused (`budget:…`, `policy:…`).
    pub refusal: Option<(Code, Option<String>)>,
    /// Absent where nobody was identified.
    pub who: Option<Attribution>,
    pub claimed: Claimed,
    pub provider: Option<String>,
    pub dialect: Option<String>,
    /// `chat.completions`, `messages`, …; `unmetered` for vendor paths that are only passed on.
    pub endpoint: String,
    /// The vendor path was passed on without metering.
    pub unmetered: bool,
    pub stream: bool,
    pub model_requested: Option<String>,
    pub model_served: Option<String>,
    pub http_status: Option<u16>,
    pub provider_request_id: Option<String>,
    /// The vendor's id of the answer, by which a stored response is retrieved.
    pub response_id: Option<String>,
    pub finish_reason: Option<String>,
    /// The tier the response reported.
    pub service_tier: Option<String>,
    pub usage: Usage,
    pub usage_basis: UsageBasis,
    pub tools_offered: u32,
    pub tools_called: u32,
    pub tool_names: Vec<String>,
    /// Absent = unknown: not yet settled, or unpriced.
    pub cost: Option<Money>,
    pub cost_basis: CostBasis,
    pub cost_lines: Vec<CostLine>,
    /// The price book's model whose prices were used.
    pub price_model: Option<String>,
    pub price_book: u32,
    pub hold: Money,
    pub holds: Vec<BudgetHold>,
    /// The output cap that was written into the request to keep it affordable, in tokens.
    pub output_limit: Option<u64>,
    pub catalogue_revision: u64,
    pub attempts: u8,
    pub retry_of: Option<CallId>,
    pub first_byte_ms: Option<u32>,
    pub total_ms: Option<u32>,
    /// Microseconds of the call that were ours: from the last byte of the request to its forwarding, commit included.
    pub overhead_us: Option<u32>,
    /// What was odd about the answer (`cached_over_input`, `stream_truncated`, …).
    pub flags: Vec<String>,
    /// How many requests this row is: 1, or more where refusals of unidentified callers were folded into one entry.
    pub stands_for: u64,
}

impl Call {
    /// Whether an attempt of it has ended: what it has cost so far is then part of every sum, while the next attempt
    /// runs, too.
    pub fn counts(&self) -> bool {
        self.outcome != Outcome::Running || self.attempts > 1
    }

    /// The call's value of a dimension. `model` is the one served, or asked for where none was.
    pub fn dimension(&self, dimension: Dimension) -> Option<&str> {
        match dimension {
            Dimension::Provider => self.provider.as_deref(),
            Dimension::Model => self.model_served.as_deref().or(self.model_requested.as_deref()),
            Dimension::Outcome => Some(self.outcome.name()),
            _ => self.who.as_ref()?.dimension(dimension),
        }
    }
}
