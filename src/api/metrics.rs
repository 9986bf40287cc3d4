//! `/metrics` for Prometheus: what was called, refused and spent, and how the store keeps up.
//!
//! Nothing is counted on the way: a scrape reads the views and the store and writes what they say, so that it agrees with
//! the reports. Labels are providers, environments, outcomes, codes, directions and budgets: all declared or fixed, so
//! that no caller can grow the number of series. Amounts here are floating point because the format is; reports are exact.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::domain::time::QUARTER;
use crate::domain::{Code, Component, Dimension, Filter, Match, Money, Outcome};
use crate::rollup::{Measures, quarter_of};
use crate::store::{Gauges, Part, Scrubbed, StoreError};

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
    let scrape = api.blocking(|api| Ok(Scrape::take(api)?)).await?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut out = String::new();
    text::encode(&mut out, &registry).map_err(|_| ApiError::internal("the metrics could not be written"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], out).into_response())
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Calls {
    provider: String,
    environment: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Provider {
    provider: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Tokens {
    provider: String,
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Refusals {
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Budget {
    budget: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct InTrouble {
    part: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// What there is to say at one instant.
#[derive(Debug)]
struct Scrape {
    sums: Sums,
    refusals: BTreeMap<Code, u64>,
    gauges: Gauges,
    healthy: bool,
    entries: u64,
    checkpoint: u64,
    scrub: Scrubbed,
    /// Deliveries on their way, and given up.
    alerts: (u64, u64),
    /// Every part of the store, and whether it is in trouble.
    troubles: Vec<(Part, bool)>,
    /// Settled and held, over the limit.
    budgets: Vec<(String, f64)>,
    process: Process,
}

fn troubles(api: &Api) -> Vec<(Part, bool)> {
    let now = api.ledger.troubles();
    Part::ALL.map(|part| (part, now.iter().any(|(in_trouble, _)| *in_trouble == part))).to_vec()
}

impl Scrape {
    fn take(api: &Api) -> Result<Scrape, StoreError> {
        let (sums, refusals) = collect(api)?;
        let mut budgets = Vec::new();
        for balance in api.ledger.balances(api.ledger.clock().now()) {
            let limit = balance.allowance.total();
            if limit > 0 {
                budgets.push((balance.budget, (balance.posted + balance.held) as f64 / limit as f64));
            }
        }
        let outbox = api.ledger.outbox();
        Ok(Scrape {
            alerts: (outbox.waiting().count() as u64, outbox.dead().count() as u64),
            sums,
            refusals,
            gauges: api.ledger.gauges(),
            healthy: api.ledger.healthy(),
            entries: api.ledger.head().size,
            checkpoint: api.ledger.last_checkpoint().map_or(0, |signed| signed.size),
            scrub: api.ledger.scrubbed(),
            troubles: troubles(api),
            budgets,
            process: Process::look(),
        })
    }

    fn providers(&self) -> BTreeMap<&str, Measures> {
        let mut providers = BTreeMap::<&str, Measures>::new();
        for ((provider, _, _), m) in &self.sums {
            providers.entry(provider).or_default().add(m);
        }
        providers
    }

    fn calls(&self, page: &mut Page) -> fmt::Result {
        let by_outcome = self.sums.iter().map(|((provider, environment, outcome), m)| {
            (Calls { provider: provider.clone(), environment, outcome }, m.calls + m.refused)
        });
        let help = "Calls that have ended, by provider, environment and outcome";
        page.counters("weighbridge_calls", help, by_outcome)?;
        let providers = self.providers();
        let of = |provider: &str| Provider { provider: provider.to_owned() };
        let cost = providers.iter().map(|(p, m)| (of(p), dollars(m.cost)));
        page.counters("weighbridge_cost_usd", "Known cost in US dollars, by provider", cost)?;
        let unpriced = providers.iter().map(|(p, m)| (of(p), m.unpriced));
        page.counters("weighbridge_unpriced_calls", "Calls whose cost is unknown, by provider", unpriced)?;
        let kinds = [
            ("input", Component::InputTokens),
            ("cache_read", Component::CacheReadTokens),
            ("output", Component::OutputTokens),
        ];
        let tokens = providers.iter().flat_map(|(provider, m)| {
            kinds.map(|(kind, component)| {
                (Tokens { provider: provider.to_string(), kind }, m.usage.get(component).unwrap_or(0))
            })
        });
        page.counters("weighbridge_tokens", "Tokens in and out; cache reads are part of what went in", tokens)?;
        let codes = Code::ALL.iter();
        let refusals =
            codes.map(|code| (Refusals { code: code.name() }, self.refusals.get(code).copied().unwrap_or(0)));
        page.counters("weighbridge_refusals", "Requests refused since the start of the process, by code", refusals)
    }

    fn store(&self, page: &mut Page) -> fmt::Result {
        for (name, help, value) in [
            ("weighbridge_healthy", "1 while the journal can be written", u64::from(self.healthy)),
            ("weighbridge_journal_entries", "Entries in the journal", self.entries),
            ("weighbridge_views_lag_entries", "Entries the derived file does not have yet", self.gauges.views_behind),
            ("weighbridge_writer_queue", "Requests accepted and not yet answered", self.gauges.queued),
            ("weighbridge_open_calls", "Calls admitted and not yet settled", self.gauges.open_calls),
            ("weighbridge_checkpoint_entries", "Entries of the newest signed checkpoint", self.checkpoint),
            ("weighbridge_scrub_entries", "Stored entries that the scrub's present pass has read again", self.scrub.at),
            ("weighbridge_scrub_passes", "Passes of the scrub since the process began", self.scrub.passes),
            ("weighbridge_alerts_waiting", "Deliveries of alerts on their way", self.alerts.0),
            ("weighbridge_alerts_given_up", "Deliveries of alerts given up, to be tried again by hand", self.alerts.1),
            ("weighbridge_scrub_findings", "Stored bytes found not to fit their hashes", self.scrub.findings),
        ] {
            page.gauge(name, help, value)?;
        }
        let troubles = self.troubles.iter().map(|(part, bad)| (InTrouble { part: part.name() }, u64::from(*bad)));
        page.gauges("weighbridge_trouble", "1 while this part of the store cannot be written", troubles)?;
        page.histogram("weighbridge_commit_seconds", "Time of one commit of the journal", &self.gauges)?;
        let used = self.budgets.iter().map(|(budget, used)| (Budget { budget: budget.clone() }, *used));
        let help = "Settled and held, over the limit, in the current period";
        page.gauges("weighbridge_budget_used_ratio", help, used)
    }

    fn process(&self, page: &mut Page) -> fmt::Result {
        let build = Build { version: env!("CARGO_PKG_VERSION") };
        page.gauges("weighbridge_build_info", "1, with the version of the binary", [(build, 1u64)])?;
        if let Some(bytes) = self.process.resident_bytes {
            page.gauge("process_resident_memory_bytes", "Resident memory", bytes)?;
        }
        if let Some(open) = self.process.open_fds {
            page.gauge("process_open_fds", "Open file descriptors", open)?;
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.calls(&mut page)?;
        self.store(&mut page)?;
        self.process(&mut page)
    }
}

/// The process as Linux sees it; nothing where it does not say.
#[derive(Debug)]
struct Process {
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
}

impl Process {
    fn look() -> Process {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        Process { resident_bytes: kib.map(|kib| kib * 1024), open_fds: open }
    }
}

/// Families of metrics, one after another.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters<L: EncodeLabelSet, N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// The store counts commits up to each bound; here each bucket has its own, and the encoder adds them up again.
    fn histogram(&mut self, name: &str, help: &str, commits: &Gauges) -> fmt::Result {
        let mut before = 0;
        let mut buckets = Vec::with_capacity(commits.commit_histogram.len());
        for (micros, up_to) in &commits.commit_histogram {
            let bound = if *micros == u64::MAX { f64::INFINITY } else { seconds(*micros) };
            buckets.push((bound, up_to.saturating_sub(before)));
            before = before.max(*up_to);
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        // The counters are read one by one: the last bucket is the count that fits the others.
        metric.encode_histogram::<NoLabelSet>(seconds(commits.commit_us), before, &buckets, None)
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
