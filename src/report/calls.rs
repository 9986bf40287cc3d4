//! Pages of calls, newest first. A cursor is the sequence that the next page begins before.
//!
//! A page ends when it is full, or when it was looked for long enough: a filter that few calls pass gives short pages, even
//! empty ones, with a cursor to look on.

use std::time::Duration;

use crate::domain::Filter;
use crate::store::Ledger;

use super::{CallPage, ReportError};

/// Most calls of one page.
pub const MOST_CALLS: usize = 1_000;

/// How long the calls of one page are looked for.
const LONGEST: Duration = Duration::from_secs(2);

/// One page. `cursor` is the `next_cursor` of the page before.
pub fn calls(ledger: &Ledger, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<CallPage, ReportError> {
    let before = cursor.map(str::parse::<u64>).transpose().map_err(|_| {
        ReportError::invalid("cursor", "is not one of ours: take `next_cursor` of the page before as it is")
    })?;
    let limit = limit.clamp(1, MOST_CALLS);
    // One more than asked for tells whether there is a next page.
    let (mut calls, as_of, left) = ledger.views().calls_within(filter, before, limit + 1, LONGEST)?;
    let more = calls.len() > limit;
    calls.truncate(limit);
    let next = if more { calls.last().map(|call| call.seq) } else { left };
    let next_cursor = next.map(|seq| seq.to_string());
    Ok(CallPage { calls, next_cursor, as_of })
}
