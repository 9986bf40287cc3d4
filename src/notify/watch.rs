//! The hourly look: where budgets are heading, which have fallen silent, which keys end soon. The views and balances are
//! read here; what follows from them the ledger decides, so that a restart repeats nothing.

use std::sync::Arc;

use crate::domain::{Budget, Catalogue, Micros};
use crate::ledger::due;
use crate::ledger::outbox::Outbox;
use crate::ledger::request::{BudgetOutlook, Evaluation, Request};
use crate::report::{self, Outlook};
use crate::store::Ledger;

use super::Notifier;

/// Entries of one request at most: what is more goes into the next.
const AT_ONCE: usize = 50;

/// Which hour since 1970 an instant is in.
pub fn hour_of(at: Micros) -> i64 {
    at.0.div_euclid(3_600_000_000)
}

impl Notifier {
    /// Looks at everything once; true if it came to its end. Looking twice in an hour is looking once.
    pub async fn evaluate(&self) -> bool {
        let ledger = self.ledger.clone();
        let looked = tokio::task::spawn_blocking(move || look(&ledger));
        let evaluations = match looked.await {
            Ok(Ok(evaluations)) => evaluations,
            Ok(Err(error)) => return failed(&error),
            Err(error) => return failed(&error),
        };
        for evaluation in evaluations {
            if let Err(error) = self.ledger.submit(Request::Evaluate(Box::new(evaluation))).await {
                return failed(&error);
            }
        }
        true
    }
}

fn failed(error: &dyn std::fmt::Display) -> bool {
    tracing::warn!(%error, "forecasts and ends of keys could not be looked at");
    false
}

fn look(ledger: &Ledger) -> Result<Vec<Evaluation>, report::ReportError> {
    let (now, catalogue, outbox) = (ledger.clock().now(), ledger.catalogue(), ledger.outbox());
    let budgets: Vec<Arc<Budget>> = catalogue.budgets.values().cloned().collect();
    // A look at nothing does not read the sums of four weeks.
    let outlooks = if budgets.is_empty() { Vec::new() } else { report::forecasts(ledger, &budgets, now)? };
    let watched = outlooks.into_iter().filter_map(|outlook| {
        let budget = catalogue.budgets.get(&outlook.budget)?;
        matters(budget, outlook, &outbox)
    });
    let watched: Vec<BudgetOutlook> = watched.collect();
    let keys = ending(&catalogue, &outbox, now);
    let mut all: Vec<Evaluation> =
        watched.chunks(AT_ONCE).map(|part| Evaluation { outlooks: part.to_vec(), keys: Vec::new() }).collect();
    all.extend(keys.chunks(AT_ONCE).map(|part| Evaluation { outlooks: Vec::new(), keys: part.to_vec() }));
    Ok(all)
}

/// What the ledger has to hear of: where something is over, or was.
fn matters(budget: &Budget, outlook: Outlook, outbox: &Outbox) -> Option<BudgetOutlook> {
    let foreseen = outlook.forecast.ok().map(|f| f.amount).filter(|_| budget.forecast_alert);
    let over = foreseen.is_some_and(|foreseen| foreseen >= outlook.limit);
    let watched = outbox.stage(&budget.id, &outlook.period.id).is_some();
    let turned = outlook.silent != outbox.is_silent(&budget.id);
    (over || watched || turned).then_some(BudgetOutlook {
        budget: outlook.budget,
        period: outlook.period.id,
        used: outlook.posted.saturating_add(outlook.held),
        limit: outlook.limit,
        foreseen,
        silent: outlook.silent,
    })
}

/// Keys whose end is due to be announced and was not.
fn ending(catalogue: &Catalogue, outbox: &Outbox, now: Micros) -> Vec<String> {
    let is_due = |key: &crate::domain::Key| {
        let ends = key.expires_at.filter(|ends| *ends > now)?;
        let days = due(now, key.created_at, ends)?;
        outbox.warned(&key.id, ends).is_none_or(|told| told > days).then(|| key.id.clone())
    };
    let active = |key: &&Arc<crate::domain::Key>| key.status == crate::domain::catalogue::KeyStatus::Active;
    catalogue.keys.values().filter(active).filter_map(|key| is_due(key)).collect()
}
