//! `/metrics` for Prometheus: what was called, refused and spent, and how the store keeps up.
//!
//! Labels are providers, environments, outcomes, codes, directions and budgets: all declared or fixed, so that no caller
//! can grow the number of series. Amounts here are floating point because the format is; reports are exact.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::domain::time::QUARTER;
use crate::domain::{Code, Component, Dimension, Filter, Match, Money, Outcome};
use crate::rollup::{Measures, quarter_of};
use crate::store::StoreError;

use super::{Api, ApiError};

/// Quarters of an hour whose sums may still change: two days. Older ones are added up once.
const OPEN_QUARTERS: u32 = (2 * 86_400 * 1_000_000 / QUARTER) as u32;

type Sums = BTreeMap<(String, &'static str, &'static str), Measures>;

/// What need not be added up again at the next scrape.
#[derive(Default)]
pub struct Totals(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Sums of the quarters before this one.
    before: u32,
    sums: Sums,
    refusals: BTreeMap<Code, u64>,
    /// Refusals of the entries before this one are counted.
    seen: Option<u64>,
}

pub async fn show(State(api): State<Api>) -> Result<Response, ApiError> {
    let text = api.blocking(|api| Ok(render(api)?)).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn render(api: &Api) -> Result<String, StoreError> {
    let (sums, refusals) = collect(api)?;
    let mut out = Page::default();
    out.family("weighbridge_calls", "counter", "Calls that have ended, by provider, environment and outcome");
    for ((provider, environment, outcome), m) in &sums {
        let n = m.calls + m.refused;
        out.sample(
            "weighbridge_calls_total",
            &[("provider", provider), ("environment", environment), ("outcome", outcome)],
            n,
        );
    }
    let mut providers = BTreeMap::<&str, Measures>::new();
    for ((provider, _, _), m) in &sums {
        providers.entry(provider).or_default().add(m);
    }
    out.family("weighbridge_cost_usd", "counter", "Known cost in US dollars, by provider");
    for (provider, m) in &providers {
        out.sample("weighbridge_cost_usd_total", &[("provider", provider)], dollars(m.cost));
    }
    out.family("weighbridge_unpriced_calls", "counter", "Calls whose cost is unknown, by provider");
    for (provider, m) in &providers {
        out.sample("weighbridge_unpriced_calls_total", &[("provider", provider)], m.unpriced);
    }
    out.family("weighbridge_tokens", "counter", "Tokens in and out; cache reads are part of what went in");
    for (provider, m) in &providers {
        for (kind, component) in [
            ("input", Component::InputTokens),
            ("cache_read", Component::CacheReadTokens),
            ("output", Component::OutputTokens),
        ] {
            let n = m.usage.get(component).unwrap_or(0);
            out.sample("weighbridge_tokens_total", &[("provider", provider), ("kind", kind)], n);
        }
    }
    out.family("weighbridge_refusals", "counter", "Requests refused since the start of the process, by code");
    for code in Code::ALL {
        out.sample("weighbridge_refusals_total", &[("code", code.name())], refusals.get(code).copied().unwrap_or(0));
    }
    store(api, &mut out);
    Ok(out.end())
}

fn store(api: &Api, out: &mut Page) {
    let gauges = api.ledger.gauges();
    for (name, help, value) in [
        ("weighbridge_healthy", "1 while the journal can be written", u64::from(api.ledger.healthy())),
        ("weighbridge_journal_entries", "Entries in the journal", api.ledger.head().size),
        ("weighbridge_views_lag_entries", "Entries the derived file does not have yet", gauges.views_behind),
        ("weighbridge_writer_queue", "Requests accepted and not yet answered", gauges.queued),
        ("weighbridge_open_calls", "Calls admitted and not yet settled", gauges.open_calls),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, &[], value);
    }
    out.family("weighbridge_commit_seconds", "histogram", "Time of one commit of the journal");
    for (micros, commits) in &gauges.commit_histogram {
        let bound = if *micros == u64::MAX { "+Inf".to_owned() } else { seconds(*micros).to_string() };
        out.sample("weighbridge_commit_seconds_bucket", &[("le", &bound)], commits);
    }
    out.sample("weighbridge_commit_seconds_sum", &[], seconds(gauges.commit_us));
    out.sample("weighbridge_commit_seconds_count", &[], gauges.commits);
    out.family("weighbridge_budget_used_ratio", "gauge", "Settled and held, over the limit, in the current period");
    let catalogue = api.ledger.catalogue();
    for balance in api.ledger.balances(api.ledger.clock().now()) {
        let limit = catalogue.budgets.get(&balance.budget).map_or(0, |b| b.limit.amount);
        if limit > 0 {
            let used = (balance.posted + balance.held) as f64 / limit as f64;
            out.sample("weighbridge_budget_used_ratio", &[("budget", &balance.budget)], used);
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn dollars(amount: Money) -> f64 {
    amount.0 as f64 / crate::domain::money::UNITS_PER_USD as f64
}

/// Sums over everything, adding up only what may have changed since the last scrape.
fn collect(api: &Api) -> Result<(Sums, BTreeMap<Code, u64>), StoreError> {
    let views = api.ledger.views();
    let mut kept = api.totals.0.lock().unwrap_or_else(PoisonError::into_inner);
    let as_of = views.as_of()?;
    // A provider is a label while it is declared; what is left of others goes under one name.
    let known: HashSet<String> = api.ledger.catalogue().providers.keys().cloned().collect();
    let closed = quarter_of(as_of.at).saturating_sub(OPEN_QUARTERS);
    if closed > kept.before + OPEN_QUARTERS {
        let from = kept.before;
        views.rollups(from, closed, &mut |_, set, m| add(&mut kept.sums, &known, |d| set.get(d), m))?;
        kept.before = closed;
    }
    let mut sums = kept.sums.clone();
    views.rollups(kept.before, u32::MAX, &mut |_, set, m| add(&mut sums, &known, |d| set.get(d), m))?;
    let seen = *kept.seen.get_or_insert(as_of.seq);
    let refused = vec![(Dimension::Outcome, Match::Is(Outcome::Refused.name().into()))];
    let filter = Filter { dimensions: refused, ..Filter::default() };
    views.visit_since(&filter, seen, as_of.seq, &mut |call| {
        if let Some((code, _)) = &call.refusal {
            *kept.refusals.entry(*code).or_default() += call.stands_for;
        }
    })?;
    kept.seen = Some(as_of.seq);
    Ok((sums, kept.refusals.clone()))
}

fn add<'a>(sums: &mut Sums, known: &HashSet<String>, value: impl Fn(Dimension) -> Option<&'a str>, m: &Measures) {
    let provider = match value(Dimension::Provider) {
        Some(provider) if known.contains(provider) => provider,
        Some(_) => "other",
        None => "none",
    };
    let environment = value(Dimension::Environment).and_then(crate::domain::Environment::from_name);
    let outcome = Outcome::ALL.into_iter().find(|o| value(Dimension::Outcome) == Some(o.name()));
    let key = (provider.to_owned(), environment.map_or("none", |e| e.name()), outcome.map_or("none", Outcome::name));
    sums.entry(key).or_default().add(m);
}

/// OpenMetrics text.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if n == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}
