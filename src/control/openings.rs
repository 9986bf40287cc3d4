//! What a new budget finds already spent: a budget made in the middle of a month counts the whole month.
//!
//! The sums come from the views, as of some entry; the calls that ended since then are watched and added one by one, the
//! last of them by the writer at the moment it decides. A call that is under way then is counted when it ends.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::domain::{Budget, Call, Change, Filter, Metric, Micros, Money, Outcome};
use crate::ledger::counts_anew;
use crate::ledger::opening::Counting;
use crate::rollup::{DimSet, Measures};
use crate::store::{Ledger, StoreError, Watch};

/// How long the views may take to have what is decided already.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts what the budgets among the changes that count anew have posted. `None`: there is nothing to count.
pub(super) async fn count(ledger: &Ledger, changes: &[Change]) -> Result<Option<(Watch, Counting)>, StoreError> {
    let catalogue = ledger.catalogue();
    let anew = changes.iter().filter_map(|change| match change {
        Change::Budget(id, Some(after)) if counts_anew(catalogue.budgets.get(id).map(|b| &**b), after) => Some(after),
        _ => None,
    });
    let head = ledger.head();
    let counting = Counting::of(anew, ledger.clock().now().max(head.at));
    if counting.is_empty() || head.position() == 0 {
        return Ok(None);
    }
    let ledger = ledger.clone();
    let counted = tokio::task::spawn_blocking(move || posted(&ledger, counting)).await;
    counted.map_err(|e| StoreError::Unwritable(format!("budgets could not be counted: {e}")))?.map(Some)
}

fn posted(ledger: &Ledger, counting: Counting) -> Result<(Watch, Counting), StoreError> {
    let watch = ledger.watch();
    let until = Instant::now() + PATIENCE;
    while watch.sequence(ledger.views().as_of()?.seq).is_none() {
        if Instant::now() > until {
            return Err(StoreError::Busy);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let starts = counting.starts();
    let counting = RefCell::new(counting);
    for start in starts {
        from_sums(ledger, &watch, start, &counting)?;
        if counting.borrow().wants(start, |budget| !in_sums(budget)) {
            from_calls(ledger, &watch, start, &counting)?;
        }
    }
    Ok((watch, counting.into_inner()))
}

/// Whether the sums of quarters of an hour know every dimension the budget matches.
fn in_sums(budget: &Budget) -> bool {
    budget.matches.keys().all(|d| DimSet::has(*d))
}

fn from_sums(
    ledger: &Ledger,
    watch: &Watch,
    start: Option<Micros>,
    counting: &RefCell<Counting>,
) -> Result<(), StoreError> {
    let as_of = ledger.views().tally(
        start,
        None,
        &mut |_, set, measures| {
            // What the sums do not know they are not asked: such budgets are counted call by call.
            let value = |d| if DimSet::has(d) { set.get(d) } else { None };
            counting.borrow_mut().add(start, value, |metric| of_measures(metric, measures), in_sums);
        },
        &mut |call| {
            if was_let_go(call) {
                counting.borrow_mut().add(start, |d| call.dimension(d), |metric| of_call(metric, call), in_sums);
            }
        },
    )?;
    let as_of = watch.sequence(as_of.seq).ok_or(StoreError::Busy)?;
    counting.borrow_mut().complete(start, as_of, in_sums);
    Ok(())
}

fn from_calls(
    ledger: &Ledger,
    watch: &Watch,
    start: Option<Micros>,
    counting: &RefCell<Counting>,
) -> Result<(), StoreError> {
    let by_call = |budget: &Budget| !in_sums(budget);
    let as_of = ledger.views().counted(&Filter { from: start, ..Filter::default() }, &mut |call| {
        if was_let_go(call) {
            counting.borrow_mut().add(start, |d| call.dimension(d), |metric| of_call(metric, call), by_call);
        }
    })?;
    let as_of = watch.sequence(as_of.seq).ok_or(StoreError::Busy)?;
    counting.borrow_mut().complete(start, as_of, by_call);
    Ok(())
}

fn was_let_go(call: &Call) -> bool {
    call.outcome != Outcome::Refused
}

fn of_call(metric: Metric, call: &Call) -> i128 {
    crate::budget::amount::actual(metric, call.cost, &call.usage, call.tools_called)
}

fn of_measures(metric: Metric, m: &Measures) -> i128 {
    match metric {
        Metric::Usd => m.cost.max(Money::ZERO).0,
        Metric::Tokens => m.usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => m.calls.into(),
        Metric::ToolCalls => m.tool_calls.into(),
    }
}
