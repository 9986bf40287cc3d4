//! Answers questions about the past: calls, receipts, spend. Reads views and the unapplied tail, changes nothing.
//!
//! A question comes as the query of a page or of the API ([`Ask`]); the answer goes out as values for a page, or as CSV,
//! JSON and NDJSON (`export`). Every answer says as of which entry it is, and every sum is exact to the last 10⁻¹⁵ USD:
//! the total of a range is the sum of its rows is the sum of its calls.

mod alerts;
mod ask;
mod calls;
mod csv;
mod export;
mod forecast;
mod receipt;
mod replay;
mod simulate;
mod spend;
#[cfg(test)]
mod tests;
mod what_if;

use crate::domain::policy::RuleSeen;
use crate::domain::{Call, Dimension, Filter, Micros};
use crate::ledger::entry::{Erasable, Kind};
pub use crate::rollup::{Measures, Step};
pub use crate::store::AsOf;
use crate::store::StoreError;

pub use alerts::{
    AlertFilter, AlertPage, AlertRow, AlertState, ChannelRow, KINDS, MOST_ALERTS, Place, Status, alert, alerts,
    channels,
};
pub use ask::{Ask, Format, nearest};
pub use calls::{MOST_CALLS, calls};
pub use csv::{CsvStyle, guarded};
pub use export::{Export, Stamp, export_calls, export_spend, file_name};
pub use forecast::{Outlook, forecast, forecasts};
pub use receipt::receipt;
pub use replay::{MOST_JUDGED, Replay, ReplayCall, ReplayRule, ReplayService, replay};
pub use simulate::{Answer, AnswerRefusal, Question, simulate};
pub use spend::{SpendRowView, SpendTotalView, spend};
pub use what_if::{MOST_REPLAYED, WhatIf, WhatIfPeriod, WhatIfService, what_if};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The question is wrong; the field is the query's name for it.
    #[error("`{field}`: {message}")]
    Invalid { field: String, message: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReportError {
    fn invalid(field: &str, message: impl ToString) -> ReportError {
        ReportError::Invalid { field: field.to_owned(), message: message.to_string() }
    }
}

/// Calls, newest first.
#[derive(Clone, Debug, Default)]
pub struct CallPage {
    pub calls: Vec<Call>,
    /// Where the next page begins; absent at the end.
    pub next_cursor: Option<String>,
    pub as_of: AsOf,
}

/// A question about spend.
#[derive(Clone, Debug)]
pub struct SpendQuery {
    pub filter: Filter,
    /// Group by these, in this order; empty = one row.
    pub by: Vec<Dimension>,
    pub step: Step,
    /// IANA name.
    pub time_zone: String,
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendRow {
    /// Values of `by`, in its order; `None` = calls without one.
    pub key: Vec<Option<String>>,
    /// Start of the bucket in the query's zone: `2026-11-23`, `2026-11-23T18:00+01:00`, `2026-11`.
    pub bucket: Option<String>,
    pub measures: Measures,
}

/// The answer: rows by cost, dearest first, and the total over all of them.
#[derive(Clone, Debug, Default)]
pub struct Spend {
    pub rows: Vec<SpendRow>,
    pub total: Measures,
    pub as_of: AsOf,
}

/// One call with everything that proves it.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub call: Call,
    /// Rules of policies that were looked at, in order.
    pub rules: Vec<RuleSeen>,
    /// The model that was asked of the provider, where a policy put it in place of the caller's.
    pub model_sent: Option<String>,
    pub entries: Vec<ReceiptEntry>,
    /// The tree of the newest of its entries.
    pub epoch: u64,
    pub tree_size: u64,
    pub root: [u8; 32],
}

/// An entry of a call's life.
#[derive(Clone, Debug)]
pub struct ReceiptEntry {
    /// Where the entry stands among those of all epochs: what lists go by. In the first epoch it is `seq`.
    pub position: u64,
    pub epoch: u64,
    /// In its epoch: the index of its leaf.
    pub seq: u64,
    pub ts: Micros,
    pub kind: Kind,
    pub leaf_hash: [u8; 32],
    /// Inclusion path, leaf's sibling first: in the tree of `Receipt::tree_size`, or in the whole tree of an earlier epoch.
    pub path: Vec<[u8; 32]>,
    pub erasable: Erasable,
}
