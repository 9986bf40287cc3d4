//! `/`: is spend under control right now, and who must act?

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;

use crate::domain::catalogue::KeyStatus;
use crate::domain::{Catalogue, Dimension, Environment, Filter, Match, Micros, Money};
use crate::report::{Spend, SpendQuery, Step};

use super::budgets::{self, BudgetRow};
use super::calls::{self, CallRow};
use super::chart::Chart;
use super::data;
use super::error::PageError;
use super::format;
use super::layers::Ctx;
use super::query::{Defaults, Query, link};
use super::range::Range;
use super::shell::{self, Shell};
use super::spend::{self, Tile};

/// What `/` takes when its URL is silent.
const DEFAULTS: Defaults = Defaults { range: "30d", by: &[], limit: 50, parameters: &[] };
/// Lines of "needs attention".
const ATTENTION: usize = 8;
/// Keys that end within this are pointed out.
const KEY_DAYS: i64 = 14;
/// Budgets and calls shown.
const BUDGETS: usize = 6;
const CALLS: usize = 10;

#[derive(Template)]
#[template(path = "overview/show.html", blocks = ["view"])]
struct OverviewPage {
    shell: Shell,
    zone: String,
    as_of: Option<String>,
    empty: bool,
    no_keys: bool,
    snippet: String,
    tiles: Vec<Tile>,
    range_words: String,
    chart: Chart,
    attention: Vec<Attention>,
    more_attention: usize,
    budgets: Vec<BudgetRow>,
    tops: Vec<Top>,
    calls: Vec<CallRow>,
}

/// Something that a person should look at.
#[derive(Clone, Debug)]
struct Attention {
    /// `bad` or `warn`.
    tone: &'static str,
    title: String,
    detail: String,
    href: String,
}

/// The ten dearest of a dimension.
struct Top {
    title: &'static str,
    noun: &'static str,
    caption: String,
    href: String,
    rows: Vec<TopRow>,
}

struct TopRow {
    name: String,
    href: String,
    cost: String,
    exact: String,
    segments: Vec<Segment>,
}

/// A piece of a bar: one environment, so that production is never mixed with the rest.
struct Segment {
    class: usize,
    x: String,
    width: String,
}

/// `GET /`.
pub async fn show(ctx: Ctx) -> Result<Response, PageError> {
    let query = ctx.query(DEFAULTS)?;
    let ask = |by: &[Dimension], step, filter: Filter| SpendQuery {
        filter,
        by: by.to_vec(),
        step,
        time_zone: query.zone_name.clone(),
    };
    let ledger = &ctx.web.ledger;
    let over_time = data::spend(ledger, ask(&[Dimension::Environment], Step::Day, query.filter())).await?;
    let month = Range::preset("mtd", &query.zone, ctx.now).ok_or_else(|| PageError::internal("no range mtd"))?;
    let within = |from, to| Filter { from: Some(from), to: Some(to), dimensions: query.filters.clone() };
    let this_month =
        data::spend(ledger, ask(&[Dimension::Environment], Step::None, within(month.from, month.to))).await?;
    let (from, to) = month.comparable(&query.zone, ctx.now);
    let last_month = data::spend(ledger, ask(&[], Step::None, within(from, to))).await?;
    let day = within(ctx.now.plus_seconds(-86_400), ctx.now.plus_seconds(1));
    let last_day = data::spend(ledger, ask(&[], Step::None, day)).await?;
    let catalogue = ledger.catalogue();
    let third = if over_time_has_agents(&ctx, &query).await? { Dimension::Agent } else { Dimension::Owner };
    let mut tops = Vec::new();
    for dimension in [Dimension::Service, Dimension::Model, third] {
        let found = data::spend(ledger, ask(&[dimension, Dimension::Environment], Step::None, query.filter())).await?;
        tops.push(top(&query, dimension, &found));
    }
    let latest =
        data::calls(ledger, Filter { dimensions: query.filters.clone(), ..Filter::default() }, None, CALLS).await?;
    let unpriced = data::spend(ledger, ask(&[Dimension::Model], Step::None, query.filter())).await?;
    let interrupted = outcome_in(&ctx, &query, "interrupted").await?;
    let budgets = budgets::rows(&catalogue, &ledger.balances(ctx.now));
    let mut attention = attention(&ctx, &query, &catalogue, &budgets, &unpriced, interrupted);
    let more_attention = attention.len().saturating_sub(ATTENTION);
    attention.truncate(ATTENTION);
    let page = OverviewPage {
        shell: Shell::new(&ctx, "Overview"),
        as_of: shell::as_of(&ctx, over_time.as_of),
        empty: latest.calls.is_empty() && query.filters.is_empty(),
        no_keys: catalogue.keys.is_empty(),
        snippet: calls::snippet(&ctx),
        tiles: tiles(&query, &month, &this_month, &last_month, &last_day, (from, to)),
        range_words: query.range.in_words(&query.zone),
        chart: spend::draw(&by_environment(&query), &query.range.slots(Step::Day, &query.zone), &over_time),
        attention,
        more_attention,
        budgets: budgets.into_iter().take(BUDGETS).collect(),
        tops,
        calls: latest.calls.iter().map(|c| CallRow::new(c, &query.zone)).collect(),
        zone: query.zone_name.clone(),
    };
    ctx.html(&page, page.as_view())
}

/// The state behind the chart: bars lead to the services of their day.
fn by_environment(query: &Query) -> Query {
    query.changed(|q| q.by = vec![Dimension::Service])
}

async fn outcome_in(ctx: &Ctx, query: &Query, outcome: &str) -> Result<usize, PageError> {
    let filter = query.with(Dimension::Outcome, Some(outcome)).filter();
    Ok(data::calls(&ctx.web.ledger, filter, None, 100).await?.calls.len())
}

/// Whether any call of late names an agent; else owners are the more useful third table.
async fn over_time_has_agents(ctx: &Ctx, query: &Query) -> Result<bool, PageError> {
    let mut filter = query.filter();
    filter.dimensions.push((Dimension::Agent, Match::Is("*".into())));
    Ok(!data::calls(&ctx.web.ledger, filter, None, 1).await?.calls.is_empty())
}

fn tiles(query: &Query, month: &Range, now: &Spend, before: &Spend, day: &Spend, span: (Micros, Micros)) -> Vec<Tile> {
    let mut this_month = query.clone();
    this_month.range = month.clone();
    let days = query.days_in_words(span.0, span.1);
    let total = &now.total;
    let admitted = i128::from(total.calls);
    let marked = i128::from(total.unpriced + total.estimated);
    let refused = query.changed(|q| {
        q.range = Range { preset: Some("7d"), ..q.range.clone() };
    });
    vec![
        Tile {
            label: "Spend this month",
            unit: "USD",
            value: format::money(total.cost),
            sub: format!("{}; {}", production(now), format::change_against(total.cost.0, before.total.cost.0, &days)),
            href: this_month.url("/spend", &spend::DEFAULTS),
        },
        Tile {
            label: "Calls this month",
            unit: "",
            value: format::count(total.calls),
            sub: format::change_against(total.calls.into(), before.total.calls.into(), &days),
            href: this_month.url("/calls", &calls::DEFAULTS),
        },
        Tile {
            label: "Refused, last 24 hours",
            unit: "",
            value: format::count(day.total.refused),
            sub: format!("{} calls went through", format::count(day.total.calls)),
            href: refused.with(Dimension::Outcome, Some("refused")).url("/calls", &calls::DEFAULTS),
        },
        Tile {
            label: "Without an exact cost, this month",
            unit: "",
            value: format::percent(marked, admitted),
            sub: spend::marked_words(total),
            href: this_month.changed(|q| q.by = vec![Dimension::Model]).url("/spend", &spend::DEFAULTS),
        },
    ]
}

/// What of a sum is production: a figure for everything is never taken for it.
fn production(all: &Spend) -> String {
    let of =
        |row: &&crate::report::SpendRow| row.key.first().and_then(|k| k.as_deref()) == Some(Environment::Prod.name());
    let prod = all.rows.iter().find(of).map_or(Money::ZERO, |row| row.measures.cost);
    match prod == all.total.cost {
        true => "all of it production".to_owned(),
        false => format!("production {}", format::money(prod)),
    }
}

/// Facts that ask for action, the gravest first.
fn attention(
    ctx: &Ctx,
    query: &Query,
    catalogue: &Catalogue,
    budgets: &[BudgetRow],
    by_model: &Spend,
    interrupted: usize,
) -> Vec<Attention> {
    let mut found = Vec::new();
    for b in budgets.iter().filter(|b| b.per_mille >= 800) {
        found.push(Attention {
            tone: b.tone,
            title: format!("Budget {} is at {}.{} %", b.id, b.per_mille / 10, b.per_mille % 10),
            detail: format!("{} spent, {} held, of {}; at the limit it {}", b.spent, b.held, b.limit, b.enforcement),
            href: b.href.clone(),
        });
    }
    found.extend(keys_ending(ctx, catalogue));
    for row in by_model.rows.iter().filter(|r| r.measures.unpriced > 0) {
        let model = row.key.first().cloned().flatten();
        found.push(Attention {
            tone: "warn",
            title: format!("Model {} has no price", model.as_deref().unwrap_or("(none)")),
            detail: format!(
                "{} calls with an unknown cost, which no sum contains",
                format::count(row.measures.unpriced)
            ),
            href: query.with(Dimension::Model, model.as_deref()).url("/calls", &calls::DEFAULTS),
        });
    }
    if interrupted > 0 {
        let count = if interrupted == 100 { "100 or more".to_owned() } else { interrupted.to_string() };
        found.push(Attention {
            tone: "warn",
            title: format!("{count} calls were interrupted"),
            detail: "The process ended under them; they are settled from their holds, not from reported usage".into(),
            href: query.with(Dimension::Outcome, Some("interrupted")).url("/calls", &calls::DEFAULTS),
        });
    }
    found.extend(owners_without_contact(catalogue));
    found.sort_by_key(|a| a.tone != "bad");
    found
}

fn keys_ending(ctx: &Ctx, catalogue: &Catalogue) -> Vec<Attention> {
    let soon = ctx.now.plus_seconds(KEY_DAYS * 86_400);
    let mut ending: Vec<_> = catalogue
        .keys
        .values()
        .filter(|k| k.status == KeyStatus::Active)
        .filter_map(|k| k.expires_at.filter(|e| *e < soon).map(|e| (e, k)))
        .collect();
    ending.sort_by_key(|(e, _)| *e);
    let zone = ctx.zone();
    let line = |(at, key): (Micros, &std::sync::Arc<crate::domain::Key>)| {
        let past = at <= ctx.now;
        Attention {
            tone: if past { "bad" } else { "warn" },
            title: format!("Key {} of {} {}", key.id, key.service, if past { "has ended" } else { "ends soon" }),
            detail: format!("{} on {}", if past { "ended" } else { "ends" }, format::when(at, &zone).long),
            href: link("/calls", &[("range", "30d".into()), ("credential", key.id.clone())]),
        }
    };
    // Keys long gone are nobody's worry any more.
    let month_ago = ctx.now.plus_seconds(-30 * 86_400);
    ending.into_iter().filter(|(e, _)| *e > month_ago).map(line).collect()
}

fn owners_without_contact(catalogue: &Catalogue) -> Vec<Attention> {
    let mut services: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for s in catalogue.services.values() {
        let contact = catalogue.owners.get(&s.owner).is_some_and(|o| o.email.is_some());
        if !contact {
            services.entry(&s.owner).or_default().push(&s.id);
        }
    }
    let line = |(owner, services): (&str, Vec<&str>)| Attention {
        tone: "warn",
        title: format!("Owner {owner} has no contact"),
        detail: format!("answers for {}", services.join(", ")),
        href: link("/spend", &[("by", "service".into()), ("owner", owner.to_owned())]),
    };
    services.into_iter().map(line).collect()
}

fn top(query: &Query, dimension: Dimension, spend: &Spend) -> Top {
    let mut sums: BTreeMap<Option<&str>, (i128, BTreeMap<usize, i128>)> = BTreeMap::new();
    for row in &spend.rows {
        let cost = row.measures.cost.0;
        let class =
            row.key.get(1).cloned().flatten().and_then(|e| Environment::from_name(&e)).map_or(7, |e| e as usize);
        let entry = sums.entry(row.key.first().and_then(Option::as_deref)).or_default();
        entry.0 += cost;
        *entry.1.entry(class).or_default() += cost;
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, (cost, _))| *cost > 0).collect();
    sums.sort_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
    let dearest = sums.first().map_or(0, |s| s.1.0);
    let rows = sums.iter().take(10).map(|(name, (cost, parts))| TopRow {
        name: name.unwrap_or("(none)").to_owned(),
        href: query.with(dimension, *name).changed(|q| q.by = vec![next(dimension)]).url("/spend", &spend::DEFAULTS),
        cost: format::money(crate::domain::Money(*cost)),
        exact: crate::domain::Money(*cost).to_string(),
        segments: segments(parts, dearest),
    });
    let noun = super::filters::words(dimension);
    Top {
        title: match dimension {
            Dimension::Service => "Services",
            Dimension::Model => "Models",
            Dimension::Agent => "Agents",
            _ => "Owners",
        },
        noun,
        caption: format!("The dearest by {noun}, {}, USD", query.range.in_words(&query.zone)),
        href: query.changed(|q| q.by = vec![dimension]).url("/spend", &spend::DEFAULTS),
        rows: rows.collect(),
    }
}

fn next(dimension: Dimension) -> Dimension {
    if dimension == Dimension::Service { Dimension::Model } else { Dimension::Service }
}

fn segments(parts: &BTreeMap<usize, i128>, dearest: i128) -> Vec<Segment> {
    let mut x = 0;
    let decimal = |n: u64| format!("{}.{}", n / 10, n % 10);
    let mut segments = Vec::new();
    for (class, cost) in parts {
        let width = format::per_mille(*cost, dearest).unwrap_or(0);
        if width > 0 {
            segments.push(Segment { class: *class, x: decimal(x), width: decimal(width) });
        }
        x += width;
    }
    segments
}
