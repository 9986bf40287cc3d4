//! `/budgets`: what each budget has spent and holds now, of its limit.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::Query as AxumQuery;
use axum::response::Response;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::domain::{Budget, Catalogue, Dimension, Enforcement, Filter, Metric, Micros, Money, PeriodKind};
use crate::report::{self, Outlook, SpendQuery, Step};
use crate::store::{Balance, Ledger};

use super::error::PageError;
use super::filters;
use super::format;
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

/// Days that a suggestion is made from.
const OBSERVED_DAYS: i64 = 30;

#[derive(Template)]
#[template(path = "budgets/list.html", blocks = ["view"])]
struct BudgetsPage {
    shell: Shell,
    budgets: Vec<ListRow>,
    /// How many are declared, whatever the filter.
    declared: usize,
    states: Vec<(&'static str, bool)>,
    periods: Vec<(&'static str, bool)>,
    params: Params,
    suggestion: Option<Suggestion>,
}

/// A budget in the list, below the one it is a part of.
struct ListRow {
    row: BudgetRow,
    part: bool,
    burn: String,
    ends: String,
    over_allocated: Option<String>,
}

/// A first budget, made of what was spent.
struct Suggestion {
    limit: String,
    words: String,
}

/// Which budgets.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Params {
    #[serde(default)]
    state: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    period: String,
    #[serde(default)]
    owner: String,
}

/// States of the list, in the order of their trouble.
const STATES: [&str; 4] = ["ok", "warning", "over, alerts only", "over, refusing"];

/// A budget with its balance, as pages show it.
#[derive(Clone, Debug)]
pub struct BudgetRow {
    pub id: String,
    pub href: String,
    pub calls: String,
    pub covers: String,
    pub period: String,
    pub enforcement: &'static str,
    pub spent: String,
    pub held: String,
    pub limit: String,
    pub left: String,
    /// Percent of the bar.
    pub spent_bar: String,
    pub held_bar: String,
    /// `good`, `warn`, `bad`.
    pub tone: &'static str,
    pub state: String,
    /// `ok`, `warning`, `over, alerts only`, `over, refusing`.
    pub words: &'static str,
    /// Spent and held of the limit, in tenths of a percent.
    pub per_mille: u64,
}

/// `GET /budgets`.
pub async fn list(ctx: Ctx, AxumQuery(params): AxumQuery<Params>) -> Result<Response, PageError> {
    let catalogue = ctx.web.ledger.catalogue();
    let all = rows(&catalogue, &ctx.web.ledger.balances(ctx.now));
    let (ledger, now) = (ctx.web.ledger.clone(), ctx.now);
    let budgets: Vec<Arc<Budget>> = catalogue.budgets.values().cloned().collect();
    let none = budgets.is_empty();
    let read = tokio::task::spawn_blocking(move || -> Result<_, PageError> {
        let suggestion = if none { suggestion(&ledger, now)? } else { None };
        Ok((report::forecasts(&ledger, &budgets, now)?, suggestion))
    });
    let (outlooks, suggestion) = read.await??;
    let outlooks: HashMap<&str, &Outlook> = outlooks.iter().map(|o| (o.budget.as_str(), o)).collect();
    let wanted = |row: &BudgetRow| {
        let Some(budget) = catalogue.budgets.get(&row.id) else { return false };
        (params.state.is_empty() || row.words == params.state)
            && (params.period.is_empty() || row.period.starts_with(&params.period))
            && (params.scope.is_empty()
                || row.covers.contains(params.scope.trim())
                || row.id.contains(params.scope.trim()))
            && (params.owner.is_empty() || owned_by(&catalogue, budget, params.owner.trim()))
    };
    let declared = all.len();
    let shown: Vec<BudgetRow> = all.into_iter().filter(wanted).collect();
    let page = BudgetsPage {
        shell: Shell::new(&ctx, "Budgets"),
        budgets: in_tree(&catalogue, shown)
            .into_iter()
            .map(|(row, part)| {
                let outlook = outlooks.get(row.id.as_str());
                let (burn, ends) = outlook.map_or_else(Default::default, |o| going(o, &ctx.zone()));
                let over_allocated = catalogue.budgets.get(&row.id).and_then(|b| children(&catalogue, b).1);
                ListRow { row, part, burn, ends, over_allocated }
            })
            .collect(),
        declared,
        states: STATES.map(|state| (state, state == params.state)).to_vec(),
        periods: ["minute", "hour", "day", "week", "month", "quarter", "year", "in total"]
            .map(|period| (period, period == params.period))
            .to_vec(),
        params,
        suggestion,
    };
    ctx.html(&page, page.as_view())
}

/// Those that are a part of another right below it; the rest as they come.
fn in_tree(catalogue: &Catalogue, rows: Vec<BudgetRow>) -> Vec<(BudgetRow, bool)> {
    let parent = |row: &BudgetRow| catalogue.budgets.get(&row.id).and_then(|b| b.parent.clone());
    let (roots, mut parts): (Vec<_>, Vec<_>) =
        rows.iter().cloned().partition(|row| parent(row).is_none_or(|p| !rows.iter().any(|r| r.id == p)));
    let mut all = Vec::with_capacity(rows.len());
    for root in roots {
        // A part of a part stands below the topmost: deeper trees are rare, and a row says what it is a part of.
        let mut of = vec![root.id.clone()];
        all.push((root, false));
        while let Some(id) = of.pop() {
            let (own, rest): (Vec<_>, Vec<_>) = parts.into_iter().partition(|row| parent(row).as_deref() == Some(&id));
            parts = rest;
            of.extend(own.iter().map(|row| row.id.clone()));
            all.extend(own.into_iter().map(|row| (row, true)));
        }
    }
    // Two that name each other as parents are below none.
    all.extend(parts.into_iter().map(|row| (row, true)));
    all
}

/// The budgets that name this one as their parent, with their limits; and a warning where those add up to more than it.
pub fn children(catalogue: &Catalogue, parent: &Budget) -> (Vec<(String, String)>, Option<String>) {
    let own = catalogue.budgets.values().filter(|b| b.parent.as_deref() == Some(&parent.id));
    let own: Vec<_> = own.collect();
    let (metric, unit) = (parent.limit.metric, unit(parent.limit.metric));
    let alike = own.iter().filter(|b| b.limit.metric == metric && b.period == parent.period);
    let sum = alike.fold(0_i128, |sum, b| sum.saturating_add(b.limit.amount));
    let limit = parent.limit.amount;
    let warning = (sum > limit).then(|| {
        format!(
            "Over-allocated: the parts of {} add up to {unit} {}, more than its {unit} {}",
            parent.id,
            amount(metric, sum),
            amount(metric, limit)
        )
    });
    let words = |b: &Budget| format!("{} {}", self::unit(b.limit.metric), amount(b.limit.metric, b.limit.amount));
    (own.iter().map(|b| (b.id.clone(), words(b))).collect(), warning)
}

fn owned_by(catalogue: &Catalogue, budget: &Budget, owner: &str) -> bool {
    let of = |d| budget.matches.get(&d).map(String::as_str);
    let service = of(Dimension::Service).and_then(|id| catalogue.services.get(id));
    of(Dimension::Owner) == Some(owner) || service.is_some_and(|service| service.owner == owner)
}

/// What goes in a day, and when the limit or the period ends it.
fn going(outlook: &Outlook, zone: &TimeZone) -> (String, String) {
    let burn = outlook.burn_rate.map_or_else(|| format::UNKNOWN.to_owned(), |n| amount(outlook.metric, n));
    let day = |at: Micros| at.timestamp().to_zoned_datetime(zone.clone()).strftime("%-d %b").to_string();
    let ends = match (outlook.left <= 0, outlook.exhausted_at, outlook.period.end) {
        (true, ..) => "used up".to_owned(),
        (_, Some(at), Some(end)) if at < end => format!("until {}", day(at)),
        (_, Some(at), None) => format!("until {}", day(at)),
        (_, None, _) if outlook.burn_rate.is_none() => format::UNKNOWN.to_owned(),
        _ => "the period".to_owned(),
    };
    (burn, ends)
}

/// A daily budget a third above what all but the dearest days of a month cost.
fn suggestion(ledger: &Ledger, now: Micros) -> Result<Option<Suggestion>, PageError> {
    let from = Some(now.plus_seconds(-OBSERVED_DAYS * 86_400));
    let query = SpendQuery {
        filter: Filter { from, ..Filter::default() },
        by: Vec::new(),
        step: Step::Day,
        time_zone: ledger.catalogue().organisation.time_zone.clone(),
    };
    let mut days: Vec<Money> = report::spend(ledger, &query)?.rows.iter().map(|row| row.measures.cost).collect();
    days.sort();
    let Some(dear) = days.get((days.len() * 95).div_ceil(100).saturating_sub(1)).filter(|cost| !cost.is_zero()) else {
        return Ok(None);
    };
    // To the cent above, so that it reads well.
    let cent = Money::usd(1).0 / 100;
    let limit = Money((dear.0.saturating_mul(13) / 10 + cent - 1) / cent * cent);
    let words = format!(
        "95 of 100 days of the last {OBSERVED_DAYS} cost USD {} or less. A daily budget of USD {} that only tells would be a beginning.",
        format::money(*dear),
        format::money(limit)
    );
    Ok(Some(Suggestion { limit: limit.to_string(), words }))
}

/// Every declared budget, the fullest first.
pub fn rows(catalogue: &Catalogue, balances: &[Balance]) -> Vec<BudgetRow> {
    let row = |b: &Arc<Budget>| row(b, balances.iter().find(|x| x.budget == b.id));
    let mut rows: Vec<BudgetRow> = catalogue.budgets.values().map(row).collect();
    rows.sort_by(|a, b| b.per_mille.cmp(&a.per_mille).then_with(|| a.id.cmp(&b.id)));
    rows
}

/// A budget as lists show it.
pub fn row(budget: &Budget, balance: Option<&Balance>) -> BudgetRow {
    let (posted, held) = balance.map_or((0, 0), |b| (b.posted, b.held));
    let limit = balance.map_or(budget.limit.amount, |b| b.allowance.total());
    let (amount, unit) = (|n| amount(budget.limit.metric, n), unit(budget.limit.metric));
    let used = posted.saturating_add(held);
    let share = format::per_mille(used, limit).unwrap_or(if used > 0 { 1_000 } else { 0 });
    let bar = |n: i128| format::per_mille(n, limit).unwrap_or(0).min(1_000);
    let spent_bar = bar(posted);
    let held_bar = bar(held).min(1_000 - spent_bar);
    let decimal = |n: u64| format!("{}.{}", n / 10, n % 10);
    let (tone, shape) = match share {
        1_000.. => ("bad", "▲"),
        800.. => ("warn", "◆"),
        _ => ("good", "●"),
    };
    BudgetRow {
        href: format!("/budgets/{}", budget.id),
        calls: calls_of(budget),
        covers: covers(budget),
        period: period(budget, balance),
        enforcement: match budget.enforcement {
            Enforcement::Hard => "refuses",
            Enforcement::Alert => "alerts only",
        },
        spent: amount(posted),
        held: amount(held),
        limit: format!("{} {unit}", amount(limit)),
        left: amount(limit.saturating_sub(used)),
        spent_bar: decimal(spent_bar),
        held_bar: decimal(held_bar),
        tone,
        state: format!("{shape} {}", format::percent(used.max(0), limit)),
        words: match (share, budget.enforcement) {
            (1_000.., Enforcement::Hard) => STATES[3],
            (1_000.., Enforcement::Alert) => STATES[2],
            (800.., _) => STATES[1],
            _ => STATES[0],
        },
        per_mille: share,
        id: budget.id.clone(),
    }
}

/// An amount in units of a metric, as people read it.
pub fn amount(metric: Metric, n: i128) -> String {
    match metric {
        Metric::Usd => format::money(Money(n)),
        _ if n < 0 => format!("\u{2212}{}", format::count(u64::try_from(-n).unwrap_or(u64::MAX))),
        _ => format::count(u64::try_from(n).unwrap_or(u64::MAX)),
    }
}

/// What a metric is counted in.
pub fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Usd => "USD",
        Metric::Tokens => "tokens",
        Metric::Calls => "calls",
        Metric::ToolCalls => "tool calls",
    }
}

fn covers(budget: &Budget) -> String {
    if budget.matches.is_empty() {
        return "every call".to_owned();
    }
    let pair = |(d, v): (&Dimension, &String)| format!("{} {v}", filters::words(*d));
    budget.matches.iter().map(pair).collect::<Vec<_>>().join(", ")
}

/// The name of the running period: `2026-11@Europe/Berlin` is read as `month 2026-11, Europe/Berlin`.
fn period(budget: &Budget, balance: Option<&Balance>) -> String {
    let kind = match budget.period {
        PeriodKind::Minute => "minute",
        PeriodKind::Hour => "hour",
        PeriodKind::Day => "day",
        PeriodKind::Week => "week",
        PeriodKind::Month => "month",
        PeriodKind::Quarter => "quarter",
        PeriodKind::Year => "year",
        PeriodKind::Total => return "in total".to_owned(),
    };
    match balance.and_then(|b| b.period.split_once('@')) {
        Some((name, zone)) => format!("{kind} {name}, {zone}"),
        None => format!("{kind}, {}", budget.time_zone),
    }
}

/// The calls that a calendar budget's running period covers, as near as the filters of a page can say it.
fn calls_of(budget: &Budget) -> String {
    let range = match budget.period {
        PeriodKind::Minute | PeriodKind::Hour | PeriodKind::Day => "today",
        PeriodKind::Week => "7d",
        PeriodKind::Month => "mtd",
        PeriodKind::Quarter => "qtd",
        PeriodKind::Year | PeriodKind::Total => "ytd",
    };
    let mut pairs = vec![("range", range.to_owned())];
    pairs.extend(budget.matches.iter().map(|(d, v)| (d.name(), v.clone())));
    link("/calls", &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Limit;

    fn budget(limit: Limit) -> Budget {
        Budget {
            matches: [(Dimension::Service, "invoice-bot".to_owned())].into(),
            time_zone: "Europe/Berlin".into(),
            enforcement: Enforcement::Hard,
            ..Budget::plain("b", limit, PeriodKind::Month)
        }
    }

    #[test]
    fn a_budget_shows_what_is_spent_held_and_left() {
        let budget = budget(Limit { metric: Metric::Usd, amount: Money::usd(500).0 });
        let balance = Balance {
            budget: "b".into(),
            period: "2026-11@Europe/Berlin".into(),
            posted: Money::usd(412).0,
            held: Money::usd(6).0,
            open_holds: 2,
            allowance: crate::domain::Allowance::declared(budget.limit.amount),
            start: None,
            end: None,
        };
        let row = row(&budget, Some(&balance));
        assert_eq!((row.spent.as_str(), row.left.as_str(), row.tone), ("412.00", "82.00", "warn"));
        assert_eq!(row.state, "◆ 83.6\u{a0}%");
        assert_eq!((row.spent_bar.as_str(), row.held_bar.as_str()), ("82.4", "1.2"));
        assert_eq!(row.period, "month 2026-11, Europe/Berlin");
        assert_eq!(row.calls, "/calls?range=mtd&service=invoice-bot");
    }

    #[test]
    fn a_bar_never_leaves_its_track() {
        let budget = budget(Limit { metric: Metric::Calls, amount: 10 });
        let allowance = crate::domain::Allowance::declared(10);
        let (budget_id, period) = ("b".to_owned(), "x".to_owned());
        let over = Balance {
            budget: budget_id,
            period,
            posted: 25,
            held: 5,
            open_holds: 1,
            allowance,
            start: None,
            end: None,
        };
        let row = row(&budget, Some(&over));
        assert_eq!((row.spent_bar.as_str(), row.held_bar.as_str(), row.tone), ("100.0", "0.0", "bad"));
        assert_eq!((row.limit.as_str(), row.left.as_str()), ("10 calls", "\u{2212}20"));
    }
}
