//! `/spend`: who consumed what, by one or two dimensions, as bars over time and as a table.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;

use crate::domain::{Component, Dimension, Environment, Filter};
use crate::report::{Measures, Spend, SpendQuery, SpendRow, Step};

use super::calls::{self, push_url, tidy};
use super::chart::{self, Chart, Input, InputColumn};
use super::error::PageError;
use super::filters::{self, Chip, Choice, Form, RangeLink};
use super::format;
use super::layers::Ctx;
use super::query::{Defaults, Format, Metric, Query, step_name};
use super::range::{Range, Slot};
use super::shell::{self, Shell};
use super::{data, export};

/// What `/spend` takes when its URL is silent.
pub const DEFAULTS: Defaults = Defaults {
    range: "mtd",
    by: &[Dimension::Service],
    limit: 50,
    parameters: &["by", "metric", "step", "compare", "basis", "sort", "limit"],
};
/// What stands for calls without a value.
const NONE: &str = "(none)";

#[derive(Template)]
#[template(path = "spend/show.html", blocks = ["view"])]
struct SpendPage {
    shell: Shell,
    by_words: String,
    first_words: &'static str,
    range_words: String,
    zone: String,
    chips: Vec<Chip>,
    ranges: Vec<RangeLink>,
    form: Form,
    by_first: Vec<Choice>,
    by_second: Vec<Choice>,
    metrics: Vec<Choice>,
    compares: Vec<Choice>,
    tiles: Vec<Tile>,
    metric_title: &'static str,
    step_words: &'static str,
    chart: Chart,
    caption: String,
    columns: Vec<Head>,
    rows: Vec<Row>,
    total: Row,
    keys: usize,
    shown: usize,
    all: usize,
    more: Option<String>,
    wider: Option<String>,
    /// A first call to copy, where there has never been one.
    snippet: Option<String>,
    as_of: Option<String>,
    csv: String,
    json: String,
}

/// A figure that leads to the rows behind it.
#[derive(Clone, Debug)]
pub struct Tile {
    pub label: &'static str,
    pub unit: &'static str,
    pub value: String,
    pub sub: String,
    pub href: String,
}

struct Head {
    label: String,
    numeric: bool,
    /// Shown where there is room: a picture of what the figures say too.
    wide: bool,
    sort: Option<&'static str>,
    href: Option<String>,
}

#[derive(Default)]
struct Row {
    keys: Vec<Key>,
    calls_href: String,
    cost: String,
    cost_exact: String,
    bar: String,
    share: String,
    change: Option<String>,
    calls: String,
    input: String,
    cached: String,
    output: String,
    tools: String,
    refused: String,
    failed: String,
    marked: String,
}

struct Key {
    text: String,
    href: String,
}

/// `GET /spend`.
pub async fn show(ctx: Ctx) -> Result<Response, PageError> {
    let query = ctx.query(DEFAULTS)?;
    if query.format != Format::Html {
        return export::spend(&ctx, &query).await;
    }
    if let Some(tidy) = tidy(&ctx, &query, "/spend") {
        return Ok(tidy);
    }
    let sort = Sort::read(query.sort.as_deref())?;
    let table = data::spend(&ctx.web.ledger, question(&query, query.by.clone(), Step::None)).await?;
    let step = query.step_or_auto();
    let over_time = data::spend(&ctx.web.ledger, question(&query, query.by[..1].to_vec(), step)).await?;
    let before = if query.compare {
        let (from, to) = query.range.comparable(&query.zone, ctx.now);
        let mut earlier = question(&query, query.by.clone(), Step::None);
        (earlier.filter.from, earlier.filter.to) = (Some(from), Some(to));
        Some(data::spend(&ctx.web.ledger, earlier).await?)
    } else {
        None
    };
    let mut page = SpendPage::new(&ctx, &query, sort, table, over_time, before);
    if page.rows.is_empty() && data::calls(&ctx.web.ledger, Filter::default(), None, 1).await?.calls.is_empty() {
        page.snippet = Some(calls::snippet(&ctx));
    }
    let pushed = ctx.partial.then(|| query.own_url("/spend"));
    Ok(push_url(ctx.html(&page, page.as_view())?, pushed))
}

fn question(query: &Query, by: Vec<Dimension>, step: Step) -> SpendQuery {
    SpendQuery { filter: query.filter(), by, step, time_zone: query.zone_name.clone() }
}

impl SpendPage {
    fn new(
        ctx: &Ctx,
        query: &Query,
        sort: Sort,
        mut table: Spend,
        over_time: Spend,
        before: Option<Spend>,
    ) -> SpendPage {
        sort.apply(&mut table.rows);
        let step = query.step_or_auto();
        let slots = query.range.slots(step, &query.zone);
        let by_words = query.by.iter().map(|d| filters::words(*d)).collect::<Vec<_>>().join(" and ");
        let range_words = query.range.in_words(&query.zone);
        let dearest = table.rows.iter().map(|r| r.measures.cost.0).max().unwrap_or(0);
        let earlier: BTreeMap<_, _> =
            before.iter().flat_map(|b| &b.rows).map(|r| (r.key.clone(), r.measures.cost.0)).collect();
        let rows = table.rows.iter().take(query.limit).map(|r| {
            let change = before.as_ref().map(|_| earlier.get(&r.key).copied().unwrap_or(0));
            row(query, r, &table.total, dearest, change)
        });
        let total = Row {
            change: before.as_ref().map(|b| format::change(table.total.cost.0, b.total.cost.0)),
            share: format::percent(table.total.cost.0, table.total.cost.0),
            ..figures(&table.total)
        };
        let format = |f: Format| query.changed(|q| q.format = f).own_url("/spend");
        let wider = Range::preset("ytd", &query.zone, ctx.now).filter(|_| query.range.preset != Some("ytd"));
        SpendPage {
            shell: Shell::new(ctx, "Spend"),
            first_words: filters::words(query.by[0]),
            chips: filters::chips(query, "/spend"),
            ranges: filters::ranges(query, "/spend", ctx.now),
            form: filters::form(query, &ctx.web.ledger.catalogue()),
            by_first: by_choices(query.by.first(), false),
            by_second: by_choices(query.by.get(1), true),
            metrics: Metric::ALL
                .iter()
                .map(|(m, value, label)| Choice { value, label, chosen: *m == query.metric })
                .collect(),
            compares: vec![
                Choice { value: "", label: "nothing", chosen: !query.compare },
                Choice { value: "prev", label: "span before", chosen: query.compare },
            ],
            tiles: tiles(ctx, query, &table.total, before.as_ref()),
            metric_title: query.metric.title(),
            step_words: if step == Step::None { "range" } else { step_name(step) },
            chart: draw(query, &slots, &over_time),
            caption: format!(
                "Spend by {by_words}, {range_words}, {}, USD at the price book of each call",
                query.zone_name
            ),
            columns: heads(query, sort),
            keys: query.by.len(),
            shown: table.rows.len().min(query.limit),
            all: table.rows.len(),
            more: (table.rows.len() > query.limit && query.limit < 500)
                .then(|| query.changed(|q| q.limit = 500).own_url("/spend")),
            wider: wider.map(|range| query.changed(|q| q.range = range).own_url("/spend")),
            snippet: None,
            as_of: shell::as_of(ctx, table.as_of),
            csv: format(Format::Csv),
            json: format(Format::Json),
            rows: rows.collect(),
            zone: query.zone_name.clone(),
            range_words,
            by_words,
            total,
        }
    }
}

fn by_choices(chosen: Option<&Dimension>, optional: bool) -> Vec<Choice> {
    let none = Choice { value: "", label: "nothing else", chosen: chosen.is_none() };
    let dimensions =
        Dimension::ALL.iter().map(|d| Choice { value: d.name(), label: filters::words(*d), chosen: chosen == Some(d) });
    optional.then_some(none).into_iter().chain(dimensions).collect()
}

fn tiles(ctx: &Ctx, query: &Query, total: &Measures, before: Option<&Spend>) -> Vec<Tile> {
    let calls = query.url("/calls", &calls::DEFAULTS);
    let outcome = |value: &str| query.with(Dimension::Outcome, Some(value)).url("/calls", &calls::DEFAULTS);
    let per_thousand = i128::from(total.calls);
    let unit_cost = if per_thousand == 0 {
        "no call".to_owned()
    } else {
        format!("USD {} per 1000 calls", format::money(crate::domain::Money(total.cost.0 * 1_000 / per_thousand)))
    };
    let tokens = |c| total.usage.get(c).unwrap_or(0);
    let (input, cached) = (tokens(Component::InputTokens), tokens(Component::CacheReadTokens));
    let spend_sub = match before {
        Some(before) => {
            let (from, to) = query.range.comparable(&query.zone, ctx.now);
            format::change_against(total.cost.0, before.total.cost.0, &query.days_in_words(from, to))
        }
        None => unit_cost,
    };
    vec![
        Tile { label: "Spend", unit: "USD", value: format::money(total.cost), sub: spend_sub, href: calls.clone() },
        Tile {
            label: "Calls",
            unit: "",
            value: format::count(total.calls),
            sub: format!("{} failed", format::count(total.failed)),
            href: calls.clone(),
        },
        Tile {
            label: "Tokens",
            unit: "",
            value: format::short_count(input.saturating_add(tokens(Component::OutputTokens))),
            sub: format!(
                "{} in, {} of it from cache",
                format::short_count(input),
                format::percent(cached.into(), input.into())
            ),
            href: calls,
        },
        Tile {
            label: "Refused",
            unit: "",
            value: format::count(total.refused),
            sub: marked_words(total),
            href: outcome("refused"),
        },
    ]
}

/// How many calls have a cost that is unknown or estimated: said on every sum.
pub fn marked_words(total: &Measures) -> String {
    format!("{} unpriced, {} estimated", format::count(total.unpriced), format::count(total.estimated))
}

/// The sum of a row, or the word for what it is when no call in it has a price: an unknown cost is no zero.
pub fn cost_words(m: &Measures) -> String {
    if m.cost.is_zero() && m.unpriced > 0 { "unpriced".to_owned() } else { format::money(m.cost) }
}

/// The figures of a row, without its keys.
fn figures(m: &Measures) -> Row {
    let tokens = |c| m.usage.get(c).map_or_else(|| format::UNKNOWN.to_owned(), format::count);
    let input = m.usage.get(Component::InputTokens).unwrap_or(0);
    let cached = m.usage.get(Component::CacheReadTokens).unwrap_or(0);
    Row {
        cost: cost_words(m),
        cost_exact: m.cost.to_string(),
        calls: format::count(m.calls),
        input: tokens(Component::InputTokens),
        cached: format::percent(cached.into(), input.into()),
        output: tokens(Component::OutputTokens),
        tools: format::count(m.tool_calls),
        refused: format::count(m.refused),
        failed: format::count(m.failed),
        marked: if m.unpriced + m.estimated == 0 {
            String::new()
        } else {
            format!("{} / {}", format::count(m.unpriced), format::count(m.estimated))
        },
        ..Row::default()
    }
}

fn row(query: &Query, row: &SpendRow, total: &Measures, dearest: i128, before: Option<i128>) -> Row {
    let narrowed = query.by.iter().zip(&row.key).fold(query.clone(), |q, (d, v)| q.with(*d, v.as_deref()));
    let keys = query.by.iter().zip(&row.key).map(|(dimension, value)| Key {
        text: value.clone().unwrap_or_else(|| NONE.to_owned()),
        href: deeper(&query.with(*dimension, value.as_deref()), *dimension),
    });
    let per_mille = format::per_mille(row.measures.cost.0.max(0), dearest).unwrap_or(0);
    Row {
        keys: keys.collect(),
        calls_href: narrowed.url("/calls", &calls::DEFAULTS),
        bar: format!("{}.{}", per_mille / 10, per_mille % 10),
        share: if row.measures.cost.is_zero() && row.measures.unpriced > 0 {
            format::UNKNOWN.to_owned()
        } else {
            format::percent(row.measures.cost.0, total.cost.0)
        },
        change: before.map(|b| format::change(row.measures.cost.0, b)),
        ..figures(&row.measures)
    }
}

/// The next question after choosing a value: owner → service → agent → workflow → key → calls.
fn deeper(query: &Query, chosen: Dimension) -> String {
    let next = match chosen {
        Dimension::Tenant | Dimension::BusinessUnit | Dimension::CostCentre | Dimension::Application => {
            Dimension::Service
        }
        Dimension::Environment | Dimension::Owner | Dimension::Principal | Dimension::ChargedTo => Dimension::Service,
        Dimension::Service => Dimension::Model,
        Dimension::Provider => Dimension::Model,
        Dimension::Model | Dimension::Outcome | Dimension::PromptClass => Dimension::Service,
        Dimension::Agent => Dimension::Workflow,
        Dimension::Workflow => Dimension::Run,
        Dimension::Credential | Dimension::Run => return query.url("/calls", &calls::DEFAULTS),
    };
    if query.filters.iter().any(|(d, _)| *d == next) {
        return query.url("/calls", &calls::DEFAULTS);
    }
    query.changed(|q| q.by = vec![next]).url("/spend", &DEFAULTS)
}

/// The value of a metric in a row.
fn value(metric: Metric, m: &Measures) -> i128 {
    let tokens = |c| i128::from(m.usage.get(c).unwrap_or(0));
    match metric {
        Metric::Cost => m.cost.0,
        Metric::Calls => m.calls.into(),
        Metric::InputTokens => tokens(Component::InputTokens),
        Metric::OutputTokens => tokens(Component::OutputTokens),
        Metric::CacheReadTokens => tokens(Component::CacheReadTokens),
        Metric::ToolCalls => m.tool_calls.into(),
        Metric::Refused => m.refused.into(),
        Metric::Failed => m.failed.into(),
    }
}

/// Bars by the first dimension; a column leads to its own slot of time.
pub fn draw(query: &Query, slots: &[Slot], spend: &Spend) -> Chart {
    let mut totals: BTreeMap<Option<&str>, i128> = BTreeMap::new();
    let mut cells: BTreeMap<(&str, Option<&str>), i128> = BTreeMap::new();
    for row in &spend.rows {
        let key = row.key.first().and_then(Option::as_deref);
        let value = value(query.metric, &row.measures);
        *totals.entry(key).or_default() += value;
        *cells.entry((row.bucket.as_deref().unwrap_or_default(), key)).or_default() += value;
    }
    let mut series: Vec<_> = totals.into_iter().filter(|(_, v)| *v != 0).collect();
    series.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    // Environments keep one colour everywhere, whatever they cost.
    let environment = |key: &Option<&str>| key.is_some_and(|k| Environment::from_name(k).is_some());
    if !series.is_empty() && series.iter().all(|(key, _)| environment(key)) {
        series = Environment::ALL.iter().map(|e| (Some(e.name()), 0)).collect();
    }
    let column = |slot: &Slot| InputColumn {
        label: slot.label.clone(),
        href: query.spanning(slot.from, slot.to).url("/spend", &DEFAULTS),
        values: series.iter().map(|(key, _)| cells.get(&(slot.name.as_str(), *key)).copied().unwrap_or(0)).collect(),
    };
    chart::stacked(Input {
        columns: slots.iter().map(column).collect(),
        series: series.iter().map(|(key, _)| key.unwrap_or(NONE).to_owned()).collect(),
        is_money: query.metric == Metric::Cost,
    })
}

/// The order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sort {
    column: &'static str,
    descending: bool,
}

/// Columns by which the table can be sorted.
const SORTABLE: [&str; 8] =
    ["value", "cost", "calls", "input_tokens", "output_tokens", "tool_calls", "refused", "failed"];

impl Sort {
    fn read(text: Option<&str>) -> Result<Sort, PageError> {
        let text = text.unwrap_or("-cost");
        let name = text.strip_prefix('-').unwrap_or(text);
        let column = SORTABLE.iter().find(|c| **c == name).ok_or_else(|| super::query::QueryError {
            field: "sort".into(),
            message: format!(
                "`{}` is none of {}, with - in front for descending",
                name.chars().take(40).collect::<String>(),
                SORTABLE.join(", ")
            ),
        })?;
        Ok(Sort { column, descending: text.starts_with('-') })
    }

    fn apply(self, rows: &mut [SpendRow]) {
        let metric = Metric::ALL.iter().find(|m| m.1 == self.column).map(|m| m.0);
        // Rows come dearest first, and sorting keeps that order among equals.
        match metric {
            Some(metric) => rows.sort_by_key(|r| value(metric, &r.measures)),
            None => rows.sort_by(|a, b| a.key.cmp(&b.key)),
        }
        if self.descending {
            rows.reverse();
        }
    }
}

fn heads(query: &Query, sort: Sort) -> Vec<Head> {
    let sortable = |label: &str, column: &'static str, numeric: bool| {
        let here = sort.column == column;
        let descending = if here { !sort.descending } else { numeric };
        let text = format!("{}{column}", if descending { "-" } else { "" });
        Head {
            label: label.to_owned(),
            numeric,
            wide: false,
            sort: here.then_some(if sort.descending { "descending" } else { "ascending" }),
            href: Some(query.changed(|q| q.sort = (text != "-cost").then_some(text)).own_url("/spend")),
        }
    };
    let plain =
        |label: &str, numeric: bool| Head { label: label.to_owned(), numeric, wide: false, sort: None, href: None };
    let mut heads = vec![sortable(&capital(filters::words(query.by[0])), "value", false)];
    heads.extend(query.by.get(1).map(|d| plain(&capital(filters::words(*d)), false)));
    let bar = Head { wide: true, ..plain("Share of the dearest", false) };
    heads.extend([sortable("Cost, USD", "cost", true), bar, plain("Of total", true)]);
    if query.compare {
        heads.push(plain("Change", true));
    }
    heads.extend([
        sortable("Calls", "calls", true),
        sortable("Tokens in", "input_tokens", true),
        plain("From cache", true),
        sortable("Tokens out", "output_tokens", true),
        sortable("Tool calls", "tool_calls", true),
        sortable("Refused", "refused", true),
        sortable("Failed", "failed", true),
        plain("Unpriced / est.", true),
    ]);
    heads
}

/// With a capital letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
