//! `/budgets`: what each budget has spent and holds now, of its limit.

use askama::Template;
use axum::response::Response;

use crate::domain::{Budget, Catalogue, Dimension, Enforcement, Metric, Money, PeriodKind};
use crate::store::Balance;

use super::error::PageError;
use super::filters;
use super::format;
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

#[derive(Template)]
#[template(path = "budgets/list.html", blocks = ["view"])]
struct BudgetsPage {
    shell: Shell,
    budgets: Vec<BudgetRow>,
}

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
    /// Spent and held of the limit, in tenths of a percent.
    pub per_mille: u64,
}

/// `GET /budgets`.
pub async fn list(ctx: Ctx) -> Result<Response, PageError> {
    let budgets = rows(&ctx.web.ledger.catalogue(), &ctx.web.ledger.balances(ctx.now));
    let page = BudgetsPage { shell: Shell::new(&ctx, "Budgets"), budgets };
    ctx.html(&page, page.as_view())
}

/// Every declared budget, the fullest first.
pub fn rows(catalogue: &Catalogue, balances: &[Balance]) -> Vec<BudgetRow> {
    let row = |b: &std::sync::Arc<Budget>| row(b, balances.iter().find(|x| x.budget == b.id));
    let mut rows: Vec<BudgetRow> = catalogue.budgets.values().map(row).collect();
    rows.sort_by(|a, b| b.per_mille.cmp(&a.per_mille).then_with(|| a.id.cmp(&b.id)));
    rows
}

fn row(budget: &Budget, balance: Option<&Balance>) -> BudgetRow {
    let (posted, held) = balance.map_or((0, 0), |b| (b.posted, b.held));
    let limit = balance.map_or(budget.limit.amount, |b| b.allowance.total());
    let amount = |n: i128| match budget.limit.metric {
        Metric::Usd => format::money(Money(n)),
        _ if n < 0 => format!("\u{2212}{}", format::count(u64::try_from(-n).unwrap_or(u64::MAX))),
        _ => format::count(u64::try_from(n).unwrap_or(u64::MAX)),
    };
    let unit = match budget.limit.metric {
        Metric::Usd => " USD",
        Metric::Tokens => " tokens",
        Metric::Calls => " calls",
        Metric::ToolCalls => " tool calls",
    };
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
        href: format!("/budgets#{}", budget.id),
        calls: calls_of(budget),
        covers: covers(budget),
        period: period(budget, balance),
        enforcement: match budget.enforcement {
            Enforcement::Hard => "refuses",
            Enforcement::Alert => "alerts only",
        },
        spent: amount(posted),
        held: amount(held),
        limit: format!("{}{unit}", amount(limit)),
        left: amount(limit.saturating_sub(used)),
        spent_bar: decimal(spent_bar),
        held_bar: decimal(held_bar),
        tone,
        state: format!("{shape} {}", format::percent(used.max(0), limit)),
        per_mille: share,
        id: budget.id.clone(),
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
