//! What a new budget finds already spent: a budget made in the middle of a month counts the whole month.
//!
//! The sums come from the views and the tail of the journal, as of one sequence. A call that is under way then has no hold
//! on the budget and settles without it, since a call counts on the budgets that admitted it.

use crate::budget::Calendar;
use crate::domain::catalogue::covers;
use crate::domain::{Budget, Call, Catalogue, Change, Filter, Metric, Micros, Money, Outcome};
use crate::ledger::entry::Opening;
use crate::rollup::{DimSet, Measures};
use crate::store::{Ledger, StoreError};

/// Openings of the budgets among the changes that count anew.
pub(super) fn openings(
    ledger: &Ledger,
    catalogue: &Catalogue,
    changes: &[Change],
    now: Micros,
) -> Result<Vec<(String, Opening)>, StoreError> {
    let mut all = Vec::new();
    if ledger.head().position() == 0 {
        return Ok(all);
    }
    for change in changes {
        let Change::Budget(id, Some(budget)) = change else { continue };
        if !counts_anew(catalogue.budgets.get(id).map(|b| &**b), budget) {
            continue;
        }
        let Ok(calendar) = Calendar::of(budget) else { continue };
        let window = calendar.window(now);
        let posted = posted(ledger, budget, window.start)?;
        if posted > 0 {
            all.push((id.clone(), Opening { period: window.id, posted }));
        }
    }
    Ok(all)
}

/// Whether what the budget has posted says nothing about what it counts now.
fn counts_anew(before: Option<&Budget>, after: &Budget) -> bool {
    let Some(before) = before else { return true };
    let cut = |b: &Budget| (b.period, b.anchor.clone(), b.time_zone.clone(), b.fiscal_year_start_month);
    before.matches != after.matches || before.limit.metric != after.limit.metric || cut(before) != cut(after)
}

/// What the calls a budget covers have posted since `from`: from the sums of quarters of an hour where those know every
/// dimension the budget matches, else call by call.
fn posted(ledger: &Ledger, budget: &Budget, from: Option<Micros>) -> Result<i128, StoreError> {
    let metric = budget.limit.metric;
    let mut sum = 0i128;
    let by_call = |call: &Call| match call.outcome {
        Outcome::Running | Outcome::Refused => 0,
        _ if !covers(&budget.matches, |d| call.dimension(d)) => 0,
        _ => crate::budget::amount::actual(metric, call.cost, &call.usage, call.tools_called),
    };
    if !budget.matches.keys().all(|d| DimSet::has(*d)) {
        let filter = Filter { from, ..Filter::default() };
        ledger.views().visit(&filter, None, &mut |call| {
            sum += by_call(&call);
            true
        })?;
        return Ok(sum);
    }
    let mut ends = 0i128;
    ledger.views().tally(
        from,
        None,
        &mut |_, set, measures| {
            if covers(&budget.matches, |d| set.get(d)) {
                sum += of_measures(metric, measures);
            }
        },
        &mut |call| ends += by_call(call),
    )?;
    Ok(sum + ends)
}

fn of_measures(metric: Metric, m: &Measures) -> i128 {
    match metric {
        Metric::Usd => m.cost.max(Money::ZERO).0,
        Metric::Tokens => m.usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => m.calls.into(),
        Metric::ToolCalls => m.tool_calls.into(),
    }
}
