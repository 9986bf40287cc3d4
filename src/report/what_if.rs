//! What a budget would have done: the calls of a range, in the order in which they began, put against a limit that was not
//! in force.
//!
//! Each call counts with what it came to, not with what it would have held. In force, a budget also counts the holds of
//! calls under way, so it refuses a little earlier, and it lowers a caller's output before it refuses; the figures are those
//! of a budget whose calls follow one another.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::budget::{Calendar, Window};
use crate::domain::catalogue::covers;
use crate::domain::{Budget, Call, Component, Dimension, Filter, Metric, Micros, Money, Outcome};
use crate::store::{AsOf, Ledger};

use super::ReportError;

/// Most calls that are put against a budget: the newest of the range.
pub const MOST_REPLAYED: usize = 500_000;

/// What a budget would have refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WhatIf {
    /// Calls of the range that the budget covers; those that were refused then are not among them.
    pub calls: u64,
    /// What they cost.
    pub cost_usd: Money,
    /// Those of them it would have refused.
    pub refused: u64,
    /// What these cost.
    pub refused_usd: Money,
    /// Calls whose cost is not known: a budget of money counts them as nothing.
    pub unpriced: u64,
    /// By service, most money first.
    pub by_service: Vec<WhatIfService>,
    /// Each period of the budget in the range, in order.
    pub periods: Vec<WhatIfPeriod>,
    /// There were more calls than are looked at: the older ones are left out.
    pub truncated: bool,
    #[serde(skip)]
    pub as_of: AsOf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WhatIfService {
    pub service: String,
    pub calls: u64,
    pub refused: u64,
    pub refused_usd: Money,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WhatIfPeriod {
    pub period: String,
    pub calls: u64,
    pub refused: u64,
    pub refused_usd: Money,
    /// When the first of them was.
    pub first_refused_at: Option<Micros>,
}

/// A call as far as a budget looks at it.
struct Counted {
    at: Micros,
    /// In units of the budget's metric.
    amount: i128,
    cost: Money,
    /// Place in the list of services.
    service: usize,
}

/// Puts the calls of `filter` against `budget`, which need not be declared; whatever it says, it is taken as hard.
pub fn what_if(ledger: &Ledger, budget: &Budget, filter: &Filter) -> Result<WhatIf, ReportError> {
    let calendar = Calendar::of(budget).map_err(|e| ReportError::invalid("period", e))?;
    let mut answer = WhatIf::default();
    let mut services: Vec<String> = Vec::new();
    let mut found: Vec<Counted> = Vec::new();
    answer.as_of = ledger.views().visit(filter, None, &mut |call| {
        if !counts(budget, &call) {
            return true;
        }
        if found.len() >= MOST_REPLAYED {
            answer.truncated = true;
            return false;
        }
        answer.unpriced += u64::from(call.cost.is_none());
        let name = call.who.as_ref().map_or("", |w| w.service.as_str());
        let service = services.iter().position(|s| s == name).unwrap_or_else(|| {
            services.push(name.to_owned());
            services.len() - 1
        });
        let cost = call.cost.unwrap_or_default();
        found.push(Counted { at: call.started_at, amount: amount(budget.limit.metric, &call), cost, service });
        true
    })?;
    found.sort_by_key(|c| c.at);
    let rows = services.into_iter().map(|service| WhatIfService { service, ..WhatIfService::default() });
    let mut rows: Vec<_> = rows.collect();
    pass(&calendar, budget.limit.amount, &found, &mut rows, &mut answer);
    rows.sort_by(|a, b| (b.refused_usd, b.refused, &a.service).cmp(&(a.refused_usd, a.refused, &b.service)));
    answer.by_service = rows;
    Ok(answer)
}

/// One call after the other, each in its period.
fn pass(calendar: &Calendar, limit: i128, calls: &[Counted], rows: &mut [WhatIfService], answer: &mut WhatIf) {
    let mut used: BTreeMap<String, i128> = BTreeMap::new();
    let mut window: Option<Window> = None;
    for call in calls {
        let within = window.take().filter(|w| w.contains(call.at)).unwrap_or_else(|| calendar.window(call.at));
        let used = used.entry(within.id.clone()).or_default();
        if answer.periods.last().is_none_or(|p| p.period != within.id) {
            answer.periods.push(WhatIfPeriod { period: within.id.clone(), ..WhatIfPeriod::default() });
        }
        window = Some(within);
        // What costs nothing passes an exhausted budget of money, as it does in force.
        let refused = call.amount > 0 && used.saturating_add(call.amount) > limit;
        if !refused {
            *used = used.saturating_add(call.amount);
        }
        let row = &mut rows[call.service];
        let (one, cost) = if refused { (1, call.cost) } else { (0, Money::ZERO) };
        (answer.calls, answer.cost_usd) = (answer.calls + 1, answer.cost_usd.saturating_add(call.cost));
        (answer.refused, answer.refused_usd) = (answer.refused + one, answer.refused_usd.saturating_add(cost));
        (row.calls, row.refused, row.refused_usd) =
            (row.calls + 1, row.refused + one, row.refused_usd.saturating_add(cost));
        if let Some(period) = answer.periods.last_mut() {
            (period.calls, period.refused) = (period.calls + 1, period.refused + one);
            period.refused_usd = period.refused_usd.saturating_add(cost);
            if refused && period.first_refused_at.is_none() {
                period.first_refused_at = Some(call.at);
            }
        }
    }
}

fn counts(budget: &Budget, call: &Call) -> bool {
    let ended = !matches!(call.outcome, Outcome::Running | Outcome::Refused);
    // Budgets go by the model that is asked for: what will be served is not known when they decide.
    let of = |d| match d {
        Dimension::Model => call.model_requested.as_deref(),
        d => call.dimension(d),
    };
    ended && covers(&budget.matches, of)
}

fn amount(metric: Metric, call: &Call) -> i128 {
    let tokens = |c| i128::from(call.usage.get(c).unwrap_or(0));
    match metric {
        Metric::Usd => call.cost.unwrap_or_default().0,
        Metric::Tokens => tokens(Component::InputTokens) + tokens(Component::OutputTokens),
        Metric::Calls => 1,
        Metric::ToolCalls => call.tools_called.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Limit, PeriodKind};

    fn daily(limit: i128) -> Budget {
        let limit = Limit { metric: Metric::Calls, amount: limit };
        Budget { time_zone: "Europe/Berlin".into(), ..Budget::plain("b", limit, PeriodKind::Day) }
    }

    fn against(limit: i128, calls: &[(&str, i128)]) -> WhatIf {
        let calls: Vec<_> = calls
            .iter()
            .map(|(at, amount)| Counted {
                at: at.parse().unwrap(),
                amount: *amount,
                cost: Money(*amount * 10),
                service: 0,
            })
            .collect();
        let mut answer = WhatIf::default();
        let calendar = Calendar::of(&daily(limit)).unwrap();
        pass(&calendar, limit, &calls, &mut [WhatIfService::default()], &mut answer);
        answer
    }

    #[test]
    fn each_period_begins_anew_and_what_was_refused_uses_nothing() {
        // 22:59 and 23:01 UTC lie on either side of midnight in Berlin.
        let answer = against(
            10,
            &[
                ("2026-11-23T10:00:00Z", 6),
                ("2026-11-23T11:00:00Z", 5),
                ("2026-11-23T12:00:00Z", 4),
                ("2026-11-23T22:59:00Z", 1),
                ("2026-11-23T23:01:00Z", 10),
                ("2026-11-23T23:02:00Z", 0),
            ],
        );
        assert_eq!((answer.calls, answer.refused, answer.refused_usd), (6, 2, Money(60)));
        let periods: Vec<_> = answer.periods.iter().map(|p| (p.calls, p.refused)).collect();
        assert_eq!(periods, [(4, 2), (2, 0)]);
        assert_eq!(answer.periods[0].first_refused_at, Some("2026-11-23T11:00:00Z".parse().unwrap()));
        assert_eq!(against(0, &[("2026-11-23T10:00:00Z", 1)]).refused, 1);
    }
}
