//! What an operator allocates to a budget beside its declared limit: a raise that ends by itself, a reset that deletes
//! nothing, a break-glass grant. Each is one entry with its author and reason; no `apply` undoes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::instant;
use crate::domain::{AllocationKind, Budget, Metric, Micros, Money};
use crate::ledger::request::{Allocate, Reply, Request};
use crate::store::{AllocationOf, Ledger};

use super::{By, ControlError};

/// A raise as people ask for it: exactly one amount, that of the budget's metric.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raise {
    /// Decimal US dollars
    pub by_usd: Option<String>,
    pub by_tokens: Option<u64>,
    pub by_calls: Option<u64>,
    pub by_tool_calls: Option<u64>,
    /// The last day (in the organisation's zone) or the instant at which it ends
    pub until: String,
    pub reason: String,
}

/// A break-glass grant: the band of `grace_pct` above the limit is open until then.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The last day (in the organisation's zone) or the instant at which it ends
    pub until: String,
    pub reason: String,
}

/// A manual reset: what the current period has posted stays posted and does not count against its limit any more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    pub reason: String,
}

/// An allocation as it is listed with its budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Allocation")]
pub struct AllocationView {
    /// raise, reset or grant
    pub kind: &'static str,
    /// In US dollars, tokens or calls, as the budget counts; absent for a grant
    pub amount: Option<String>,
    pub period: Option<String>,
    pub until: Option<Micros>,
    pub in_force: bool,
    pub at: Micros,
    pub actor: String,
    /// Absent where it was erased
    pub reason: Option<String>,
}

/// Raises a budget for a time.
pub async fn raise(ledger: &Ledger, by: &By, budget: &str, raise: Raise) -> Result<(), ControlError> {
    let declared = declared(ledger, budget)?;
    let amount = amount(&declared, &raise)?;
    let until = until(ledger, &raise.until)?;
    allocate(ledger, by, budget, Allocate::Raise { by: amount, until }, &raise.reason).await
}

/// Gives back to the current period what it has posted.
pub async fn reset(ledger: &Ledger, by: &By, budget: &str, reset: Reset) -> Result<(), ControlError> {
    declared(ledger, budget)?;
    allocate(ledger, by, budget, Allocate::Reset, &reset.reason).await
}

/// Opens the band above a budget's limit for a time.
pub async fn grant(ledger: &Ledger, by: &By, budget: &str, grant: Grant) -> Result<(), ControlError> {
    declared(ledger, budget)?;
    let until = until(ledger, &grant.until)?;
    allocate(ledger, by, budget, Allocate::Grant { until }, &grant.reason).await
}

/// What is allocated to a budget, oldest first. Blocks.
pub fn allocations(ledger: &Ledger, budget: &str) -> Result<Vec<AllocationView>, ControlError> {
    let (declared, now) = (declared(ledger, budget)?, ledger.clock().now());
    let of = |AllocationOf { allocated, reason }: AllocationOf| {
        let in_force = allocated.in_force(now);
        let (allocation, at, actor) = (allocated.allocation, allocated.at, allocated.actor);
        let amount = (allocation.kind != AllocationKind::Grant).then(|| match declared.limit.metric {
            Metric::Usd => Money(allocation.amount).to_string(),
            _ => allocation.amount.to_string(),
        });
        let (kind, period, until) = (allocation.kind.name(), allocation.period, allocation.until);
        AllocationView { kind, amount, period, until, in_force, at, actor, reason }
    };
    Ok(ledger.allocations(budget)?.into_iter().map(of).collect())
}

fn declared(ledger: &Ledger, budget: &str) -> Result<Budget, ControlError> {
    let found = ledger.catalogue().budgets.get(budget).map(|b| Budget::clone(b));
    found.ok_or_else(|| ControlError::NotFound { noun: "budget", id: budget.chars().take(80).collect() })
}

fn amount(budget: &Budget, raise: &Raise) -> Result<i128, ControlError> {
    let mut given = Vec::new();
    if let Some(text) = &raise.by_usd {
        let money = text.parse::<Money>().map_err(|e| ControlError::field("by_usd", e.to_string()))?;
        given.push((Metric::Usd, money.0));
    }
    let counts =
        [(Metric::Tokens, raise.by_tokens), (Metric::Calls, raise.by_calls), (Metric::ToolCalls, raise.by_tool_calls)];
    given.extend(counts.into_iter().filter_map(|(metric, n)| n.map(|n| (metric, i128::from(n)))));
    let field = match budget.limit.metric {
        Metric::Usd => "by_usd",
        Metric::Tokens => "by_tokens",
        Metric::Calls => "by_calls",
        Metric::ToolCalls => "by_tool_calls",
    };
    match given[..] {
        [(metric, amount)] if metric == budget.limit.metric => Ok(amount),
        _ => Err(ControlError::field(field, format!("budget `{}` is raised by exactly one `{field}`", budget.id))),
    }
}

fn until(ledger: &Ledger, text: &str) -> Result<Micros, ControlError> {
    let zone = &ledger.catalogue().organisation.time_zone;
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    let what = || format!("`{text}` is not a date: write 2026-11-30 (the last day) or 2026-11-30T18:00:00Z");
    instant(text, &zone, 1).ok_or_else(|| ControlError::field("until", what()))
}

async fn allocate(ledger: &Ledger, by: &By, budget: &str, what: Allocate, reason: &str) -> Result<(), ControlError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > 1_000 {
        return Err(ControlError::field("reason", "say why in 1 to 1000 characters"));
    }
    let request =
        Request::Allocate { actor: by.actor.clone(), budget: budget.to_owned(), what, reason: Some(reason.to_owned()) };
    match ledger.submit(request).await? {
        Reply::Denied(denied) => Err(ControlError::Conflict(denied.message)),
        _ => Ok(()),
    }
}
