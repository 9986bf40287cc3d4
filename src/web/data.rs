//! Questions to `report`, asked off the async threads, since answers come from disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Budget, CallId, Filter, Policy};
use crate::pricing::PriceBook;
use crate::report::{self, CallPage, Receipt, Replay, ReportError, Spend, SpendQuery, WhatIf};
use crate::store::Ledger;

use super::error::PageError;

impl From<ReportError> for PageError {
    fn from(e: ReportError) -> PageError {
        match e {
            ReportError::Invalid { field, message } => super::query::QueryError { field, message }.into(),
            ReportError::Store(e) => e.into(),
        }
    }
}

async fn ask<T, F>(ledger: &Ledger, question: F) -> Result<T, PageError>
where
    T: Send + 'static,
    F: FnOnce(&Ledger) -> Result<T, ReportError> + Send + 'static,
{
    let ledger = ledger.clone();
    Ok(tokio::task::spawn_blocking(move || question(&ledger)).await??)
}

pub async fn spend(ledger: &Ledger, query: SpendQuery) -> Result<Spend, PageError> {
    ask(ledger, move |l| report::spend(l, &query)).await
}

pub async fn calls(
    ledger: &Ledger,
    filter: Filter,
    cursor: Option<String>,
    limit: usize,
) -> Result<CallPage, PageError> {
    ask(ledger, move |l| report::calls(l, &filter, cursor.as_deref(), limit)).await
}

/// How many calls each policy, budget or other rule refused.
pub async fn refused_by(ledger: &Ledger, filter: Filter) -> Result<BTreeMap<String, u64>, PageError> {
    let filter = super::policies::refused_filter(filter);
    ask(ledger, move |l| {
        let mut counts = BTreeMap::new();
        l.views().visit(&filter, None, &mut |call| {
            if let Some((_, Some(by))) = call.refusal {
                *counts.entry(by).or_insert(0) += call.stands_for;
            }
            counts.len() < 10_000
        })?;
        Ok(counts)
    })
    .await
}

pub async fn replay(
    ledger: &Ledger,
    prices: Arc<PriceBook>,
    proposed: Vec<Policy>,
    filter: Filter,
) -> Result<Replay, PageError> {
    ask(ledger, move |l| report::replay(l, &prices, &proposed, &filter)).await
}

pub async fn what_if(ledger: &Ledger, budget: Budget, filter: Filter) -> Result<WhatIf, PageError> {
    ask(ledger, move |l| report::what_if(l, &budget, &filter)).await
}

pub async fn receipt(ledger: &Ledger, id: CallId) -> Result<Option<Receipt>, PageError> {
    ask(ledger, move |l| report::receipt(l, id)).await
}
