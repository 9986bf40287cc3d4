//! Questions to `report`, asked off the async threads, since answers come from disk.

use crate::domain::{CallId, Filter};
use crate::report::{self, CallPage, Receipt, ReportError, Spend, SpendQuery};
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

pub async fn receipt(ledger: &Ledger, id: CallId) -> Result<Option<Receipt>, PageError> {
    ask(ledger, move |l| report::receipt(l, id)).await
}
