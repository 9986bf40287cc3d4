//! Pages of calls, newest first. A cursor is the sequence that the next page begins before.

use crate::domain::Filter;
use crate::store::Ledger;

use super::{CallPage, ReportError};

/// Most calls of one page.
pub const MOST_CALLS: usize = 1_000;

/// One page. `cursor` is the `next_cursor` of the page before.
pub fn calls(ledger: &Ledger, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<CallPage, ReportError> {
    let before = cursor.map(str::parse::<u64>).transpose().map_err(|_| {
        ReportError::invalid("cursor", "is not one of ours: take `next_cursor` of the page before as it is")
    })?;
    let limit = limit.clamp(1, MOST_CALLS);
    // One more than asked for tells whether there is a next page.
    let (mut calls, as_of) = ledger.views().calls(filter, before, limit + 1)?;
    let more = calls.len() > limit;
    calls.truncate(limit);
    let next_cursor = calls.last().filter(|_| more).map(|call| call.seq.to_string());
    Ok(CallPage { calls, next_cursor, as_of })
}
