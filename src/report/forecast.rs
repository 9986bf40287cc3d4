//! Where budgets stand and where their periods will end: sums of the last four weeks from the views, balances from the
//! ledger's state, and the pure arithmetic of [`crate::budget::forecast`] over both.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::budget::forecast::{self, DAYS, Forecast, History, Unforeseen};
use crate::budget::{Calendar, Window, period};
use crate::domain::time::QUARTER;
use crate::domain::{Budget, Call, Dimension, Filter, Metric, Micros, Money, Outcome};
use crate::ledger::index::BudgetIndex;
use crate::rollup::{DimSet, Measures, quarter_start};
use crate::store::{AsOf, Ledger};

use super::ReportError;

/// Where a budget stands in its current period, and where it is going. Amounts are in units of the budget's metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    pub budget: String,
    pub metric: Metric,
    pub period: Window,
    /// With what was raised, carried over and reset.
    pub limit: i128,
    pub posted: i128,
    pub held: i128,
    /// Burn-down: limit − posted − held. Negative where a budget that refuses nothing is past its limit.
    pub left: i128,
    /// What goes in a day: the median of the last seven whole days; none before there is one.
    pub burn_rate: Option<i128>,
    /// When the limit is reached at that rate; none if it never is.
    pub exhausted_at: Option<Micros>,
    /// What the period will come to, or why that cannot be said.
    pub forecast: Result<Forecast, Unforeseen>,
    /// Yesterday and today came to nothing although such days used to come to something.
    pub silent: bool,
    /// Use by day in the budget's zone, oldest first, the last being today: at most 29.
    pub days: Vec<(Date, i128)>,
    /// As of which entry the history is. Balances are never behind.
    pub as_of: AsOf,
}

impl Outlook {
    /// Whole days until the limit is reached at the present rate.
    pub fn days_left(&self, now: Micros) -> Option<i64> {
        self.exhausted_at.map(|at| (at.0 - now.0) / 86_400_000_000)
    }
}

/// The outlook of one budget as of `now`. A budget that is not declared has no balance: all of its limit is left. Blocks.
pub fn forecast(ledger: &Ledger, budget: &Budget, now: Micros) -> Result<Outlook, ReportError> {
    let mut all = forecasts(ledger, &[Arc::new(budget.clone())], now)?;
    all.pop().ok_or_else(|| ReportError::invalid("budget", "its periods cannot be cut: look at its zone and anchor"))
}

/// The outlooks of many budgets, in one reading of the sums. A budget whose periods cannot be cut is left out. Blocks.
pub fn forecasts(ledger: &Ledger, budgets: &[Arc<Budget>], now: Micros) -> Result<Vec<Outlook>, ReportError> {
    let mut readings = Readings::of(budgets, now);
    let as_of = readings.read(ledger, now)?;
    let outlook = |reading: Reading| {
        let standing = ledger.standing(&reading.budget.id, now).filter(|s| s.window.id == reading.window.id);
        let undeclared = (0, 0, reading.budget.limit.amount);
        let amounts = standing.map_or(undeclared, |s| (s.posted, s.held, s.allowance.total()));
        reading.outlook(now, amounts, as_of)
    };
    Ok(readings.all.into_iter().map(outlook).collect())
}

/// One budget, while its history is read.
struct Reading {
    budget: Arc<Budget>,
    window: Window,
    zone: TimeZone,
    today: Date,
    /// By days before today: 0 is today.
    days: Vec<i128>,
    hours: [i128; 24],
}

struct Readings {
    all: Vec<Reading>,
    by_id: HashMap<String, usize>,
    index: BudgetIndex,
}

/// The day and hour of a quarter of an hour, by zone: sums come in the order of time, for one combination after another.
type Clock = HashMap<String, (u32, Date, usize)>;

impl Readings {
    fn of(budgets: &[Arc<Budget>], now: Micros) -> Readings {
        let mut readings = Readings { all: Vec::new(), by_id: HashMap::new(), index: BudgetIndex::default() };
        for budget in budgets {
            let (Ok(calendar), Ok(zone)) = (Calendar::of(budget), period::zone(&budget.time_zone)) else { continue };
            readings.index.replace(None, Some(budget));
            readings.by_id.insert(budget.id.clone(), readings.all.len());
            let today = zone.to_datetime(now.timestamp()).date();
            let (window, days) = (calendar.window(now), vec![0; DAYS + 1]);
            readings.all.push(Reading { budget: budget.clone(), window, zone, today, days, hours: [0; 24] });
        }
        readings
    }

    fn read(&mut self, ledger: &Ledger, now: Micros) -> Result<AsOf, ReportError> {
        // A day more than any zone needs; what lies before is left out day by day.
        let from = Micros((now.0 - (DAYS as i64 + 2) * 86_400_000_000).div_euclid(QUARTER) * QUARTER);
        let by_call = self.all.iter().any(|reading| !in_sums(&reading.budget));
        // What a combination of dimensions counts for is worked out once. The `Arc` kept with it keeps its address its own.
        let mut counted: HashMap<*const DimSet, (Arc<DimSet>, Vec<usize>)> = HashMap::new();
        let clock = RefCell::new(Clock::new());
        let this = RefCell::new(&mut *self);
        let as_of = ledger.views().tally(
            Some(from),
            None,
            &mut |quarter, set, measures| {
                let this = &mut **this.borrow_mut();
                let known = |d| if DimSet::has(d) { set.get(d) } else { None };
                let (_, for_whom) =
                    counted.entry(Arc::as_ptr(set)).or_insert_with(|| (set.clone(), this.covering(known, in_sums)));
                for at in for_whom.iter() {
                    let amount = of_measures(this.all[*at].budget.limit.metric, measures);
                    this.all[*at].add(quarter, amount, &mut clock.borrow_mut());
                }
            },
            &mut |call| this.borrow_mut().add_call(call, in_sums, &mut clock.borrow_mut()),
        )?;
        if by_call {
            let filter = Filter { from: Some(from), ..Filter::default() };
            ledger.views().counted(&filter, &mut |call| {
                self.add_call(call, |budget| !in_sums(budget), &mut clock.borrow_mut());
            })?;
        }
        Ok(as_of)
    }

    fn covering<'w>(
        &self,
        value: impl Fn(Dimension) -> Option<&'w str> + Copy,
        wanted: impl Fn(&Budget) -> bool,
    ) -> Vec<usize> {
        let covering = self.index.covering(value).into_iter().filter(|c| wanted(&c.budget));
        covering.filter_map(|c| self.by_id.get(&c.budget.id).copied()).collect()
    }

    fn add_call(&mut self, call: &Call, wanted: impl Fn(&Budget) -> bool, clock: &mut Clock) {
        if call.outcome == Outcome::Refused || !call.counts() {
            return;
        }
        for at in self.covering(|d| call.dimension(d), wanted) {
            let metric = self.all[at].budget.limit.metric;
            let amount = crate::budget::amount::actual(metric, call.cost, &call.usage, call.tools_called);
            self.all[at].add(crate::rollup::quarter_of(call.started_at), amount, clock);
        }
    }
}

/// Whether the sums of quarters of an hour know every dimension the budget matches.
fn in_sums(budget: &Budget) -> bool {
    budget.matches.keys().all(|d| DimSet::has(*d))
}

fn of_measures(metric: Metric, m: &Measures) -> i128 {
    match metric {
        Metric::Usd => m.cost.max(Money::ZERO).0,
        Metric::Tokens => m.usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => m.calls.into(),
        Metric::ToolCalls => m.tool_calls.into(),
    }
}

impl Reading {
    fn add(&mut self, quarter: u32, amount: i128, clock: &mut Clock) {
        let name = &self.budget.time_zone;
        let (date, hour) = match clock.get(name) {
            Some((same, date, hour)) if *same == quarter => (*date, *hour),
            _ => {
                let local = self.zone.to_datetime(quarter_start(quarter).timestamp());
                let (date, hour) = (local.date(), usize::from(local.hour().unsigned_abs()));
                clock.insert(name.clone(), (quarter, date, hour));
                (date, hour)
            }
        };
        let back = (self.today - date).get_days();
        let Some(day) = usize::try_from(back).ok().and_then(|back| self.days.get_mut(back)) else { return };
        *day = day.saturating_add(amount);
        if back > 0 {
            self.hours[hour] = self.hours[hour].saturating_add(amount);
        }
    }

    fn outlook(self, now: Micros, (posted, held, limit): (i128, i128, i128), as_of: AsOf) -> Outlook {
        let Reading { budget, window, zone, today, days, hours } = self;
        // From the first day with any use on; what was before it is not known to be nothing.
        let first = days.iter().rposition(|day| *day != 0).unwrap_or(0);
        let history = History { days: days[1..=first].iter().rev().copied().collect(), hours, today: days[0] };
        let left = limit.saturating_sub(posted).saturating_sub(held);
        let burn_rate = forecast::burn_rate(&history);
        let exhausted_at = burn_rate.and_then(|rate| forecast::exhausted_at(now, left, rate));
        let dated = |(back, day): (usize, &i128)| (forecast::days_before(today, back), *day);
        Outlook {
            budget: budget.id.clone(),
            metric: budget.limit.metric,
            limit,
            posted,
            held,
            left,
            burn_rate,
            exhausted_at,
            forecast: forecast::forecast(&history, &window, &zone, now, posted),
            silent: held == 0 && forecast::is_silent(&history, &zone, now),
            days: days[..=first].iter().enumerate().rev().map(dated).collect(),
            period: window,
            as_of,
        }
    }
}
