//! Ending a call that runs: on record first, then done.

use std::time::{Duration, Instant};

use crate::domain::{Call, CallId};
use crate::ledger::request::Request;
use crate::store::{Ledger, StoreError};

use super::flight::InFlight;

/// How long who asked waits for the settlement: counting what passed takes a moment.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Why a call was not ended.
#[derive(Debug, thiserror::Error)]
pub enum NotStopped {
    #[error("call `{0}` not found")]
    Unknown(CallId),
    #[error("call `{0}` has ended already: there is nothing to stop")]
    Ended(CallId),
    #[error("call `{0}` runs at the vendor, not here: cancel it there, through the path its API has for that")]
    Job(CallId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl InFlight {
    /// Ends a call for an operator: an ADMIN entry says who and why, then the upstream is let go, the caller is told, and
    /// what had passed is settled as cancelled. Gives the call as it is then; one whose settlement takes longer than a few
    /// seconds is still running in it.
    pub async fn end(&self, ledger: &Ledger, actor: &str, reason: &str, id: CallId) -> Result<Call, NotStopped> {
        let call = find(ledger, id).await?;
        if call.completed_at.is_some() {
            return Err(NotStopped::Ended(id));
        }
        // Between its admission and its first step a call is on record and not yet under way here.
        let by = Instant::now() + PATIENCE;
        while self.get(id).is_none() {
            match ledger.running().iter().find(|open| open.call == id) {
                Some(open) if open.job => return Err(NotStopped::Job(id)),
                Some(_) if Instant::now() < by => tokio::time::sleep(LOOK).await,
                _ => return Err(NotStopped::Ended(id)),
            }
        }
        let request = Request::Admin {
            actor: actor.to_owned(),
            action: "call.stop".to_owned(),
            subject: Some(id.to_string()),
            reason: Some(reason.to_owned()),
        };
        ledger.submit(request).await?;
        self.stop(id);
        let by = Instant::now() + PATIENCE;
        loop {
            let call = find(ledger, id).await?;
            if call.completed_at.is_some() || Instant::now() >= by {
                return Ok(call);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn find(ledger: &Ledger, id: CallId) -> Result<Call, NotStopped> {
    let ledger = ledger.clone();
    let found = tokio::task::spawn_blocking(move || ledger.call(id)).await;
    let found = found.map_err(|e| StoreError::Unwritable(format!("a call could not be looked up: {e}")))??;
    found.ok_or(NotStopped::Unknown(id))
}
