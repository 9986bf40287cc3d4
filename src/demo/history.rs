//! Writes the planned days into the ledger: the same requests that the gateway sends, in the order of their time.
//!
//! Nothing is pasted into views or sums. Holds, refusals by budgets, alerts and the change of months come out as the
//! state machine decides them; what an agent is refused today depends on what it spent this morning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::{HeaderMap, HeaderValue};

use crate::domain::call::CostLine;
use crate::domain::{
    Attribution, CallId, Catalogue, Code, Component, CostBasis, Environment, Key, Micros, Money, Outcome, Provider,
    Usage, UsageBasis,
};
use crate::gateway::{Credential, attribute};
use crate::ledger::entry::{Admit, Deny, Erasable, Network, Settle};
use crate::ledger::request::{AdmitRequest, Judged, Reply, Request};
use crate::pricing::{PriceBook, PriceContext, UpperBound};
use crate::store::Ledger;

use super::clock::DemoClock;
use super::plan::{Calendar, Fate, Planned};
use super::random::Random;
use super::sandbox::models::{self, Vendor};
use super::workload::Api;

/// Requests handed to the writer at once.
const BATCH: usize = 4_000;
/// Output cap the organisation's software sets on its calls, in tokens.
const OUTPUT_CAP: u64 = 4_096;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub calls: u64,
    pub refused: u64,
    pub took: Duration,
}

/// Writes the days of `calendar` up to `until`. Blocks: never on an async thread.
pub fn write(ledger: &Ledger, clock: &DemoClock, calendar: &Calendar, until: Micros) -> anyhow::Result<Written> {
    let begun = Instant::now();
    let teller = Teller::new(ledger.catalogue());
    let mut written = Written::default();
    let mut events: Vec<(Micros, Request)> = Vec::new();
    for days_ago in (0..calendar.days).rev() {
        let day = calendar.day(days_ago);
        let horizon = day.last().map_or(Micros(0), |call| call.at);
        teller.tell(&day, until, &mut events)?;
        // Settlements that fall into the next day wait for it, so that all is written in the order of time.
        events.sort_by_key(|(at, _)| *at);
        let later = events.split_off(events.partition_point(|(at, _)| *at <= horizon));
        hand_over(ledger, clock, std::mem::replace(&mut events, later), &mut written)?;
    }
    hand_over(ledger, clock, events, &mut written)?;
    written.took = begun.elapsed();
    Ok(written)
}

fn hand_over(
    ledger: &Ledger,
    clock: &DemoClock,
    events: Vec<(Micros, Request)>,
    written: &mut Written,
) -> anyhow::Result<()> {
    let mut events = events.into_iter();
    loop {
        let (instants, requests): (Vec<Micros>, Vec<Request>) = events.by_ref().take(BATCH).unzip();
        if requests.is_empty() {
            return Ok(());
        }
        written.refused += requests.iter().filter(|request| matches!(request, Request::Deny { .. })).count() as u64;
        clock.lead(instants);
        for reply in ledger.submit_all(requests).context("the history cannot be written")? {
            match reply {
                Reply::Admitted(_) => written.calls += 1,
                Reply::Denied(_) => written.refused += 1,
                _ => {}
            }
        }
    }
}

/// Turns plans into requests as the gateway would make them.
struct Teller {
    catalogue: Arc<Catalogue>,
    book: Arc<PriceBook>,
    keys: BTreeMap<(String, Environment), Arc<Key>>,
}

impl Teller {
    fn new(catalogue: Arc<Catalogue>) -> Teller {
        let book = PriceBook::for_catalogue(&catalogue);
        let keys = catalogue.keys.values().map(|key| ((key.service.clone(), key.environment), key.clone())).collect();
        Teller { catalogue, book, keys }
    }

    fn tell(&self, day: &[Planned], until: Micros, events: &mut Vec<(Micros, Request)>) -> anyhow::Result<()> {
        let mut before = None;
        for call in day {
            let done = Micros(call.at.0 + i64::from(call.total_ms) * 1_000);
            if done >= until {
                continue;
            }
            let mut random = Random::new(call.seed);
            let id = call_id(call.at, &mut random);
            let retry_of = before.filter(|_| call.retry);
            before = Some(id);
            if let Some(deny) = self.turned_away(call, &mut random)? {
                events.push((call.at, deny));
            }
            events.push((call.at, self.admit(call, id, retry_of, &mut random)?));
            events.push((done, self.settle(call, id, &mut random)?));
        }
        Ok(())
    }

    fn who(&self, call: &Planned) -> anyhow::Result<Attribution> {
        let workload = call.workload;
        let key =
            self.keys.get(&(workload.service.to_owned(), workload.environment)).context("a sample key is missing")?;
        let service = self.catalogue.services.get(workload.service).context("a sample service is missing")?;
        let mut headers = HeaderMap::new();
        for (name, value) in [("wb-workflow", call.workflow), ("wb-run", call.run.as_deref())] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value)?);
            }
        }
        let resolved = attribute::resolve(&Credential::Key(key.clone()), service, &headers, str::to_owned);
        resolved.map(|(who, _)| who).map_err(|refusal| anyhow::anyhow!(refusal.message))
    }

    fn provider(&self, call: &Planned) -> anyhow::Result<&Provider> {
        let provider = self.catalogue.providers.get(call.choice.provider);
        provider
            .map(std::sync::Arc::as_ref)
            .with_context(|| format!("sample provider `{}` is missing", call.choice.provider))
    }

    fn bound(&self, call: &Planned, provider: &Provider) -> Option<UpperBound> {
        // As the gateway bounds a prompt it has not counted: half a token per byte of four-byte tokens.
        let context = PriceContext::new();
        self.book.upper_bound(&provider.price_as, call.choice.model, call.at, &context, call.input * 2)
    }

    fn admit(
        &self,
        call: &Planned,
        id: CallId,
        retry_of: Option<CallId>,
        random: &mut Random,
    ) -> anyhow::Result<Request> {
        let provider = self.provider(call)?;
        let bound = self.bound(call, provider);
        let embeds = call.choice.api == Api::Embeddings;
        let admit = Admit {
            call: id,
            attempt: 1,
            received_at: call.at,
            who: self.who(call)?.into(),
            provider: provider.id.clone(),
            dialect: provider.dialect.clone(),
            endpoint: call.choice.api.endpoint().into(),
            unmetered: false,
            stream: call.stream,
            job: false,
            model: Some(call.choice.model.into()),
            price_model: bound.as_ref().map(|bound| bound.model.clone()),
            price_book: self.book.version(),
            catalogue_revision: self.catalogue.revision,
            tools_offered: call.workload.tools.len() as u32,
            hold: Money::ZERO,
            holds: Vec::new(),
            input_bound: call.input * 2,
            output_bound: 0,
            output_limit: None,
            unbounded: false,
            retry_of,
            lease_until: call.at.plus_seconds(900),
            model_sent: None,
            rules: Vec::new(),
        };
        Ok(Request::Admit(Box::new(AdmitRequest {
            admit,
            erasable: Erasable { network: Some(network(call, random)), ..Erasable::default() },
            fixed: bound.as_ref().map_or(Money::ZERO, |bound| bound.fixed),
            per_output_token: bound.as_ref().map(|bound| bound.per_output_token),
            output_wanted: if embeds { 0 } else { OUTPUT_CAP },
            may_limit_output: false,
            choices: 1,
            expected_output: None,
            max_cost: None,
            allow_unpriced: call.workload.environment == Environment::Exploratory,
            allow_unmetered: false,
            policy: Judged::default(),
        })))
    }

    fn settle(&self, call: &Planned, id: CallId, random: &mut Random) -> anyhow::Result<Request> {
        let provider = self.provider(call)?;
        let model = models::find(call.choice.model);
        let served = model.map_or(call.choice.model, |model| model.snapshot).to_owned();
        let (usage, usage_basis) = usage(call);
        let price = self.price(provider, &served, call, &usage, usage_basis);
        let failed = matches!(call.fate, Fate::Failed(_));
        let settle = Settle {
            outcome: match call.fate {
                Fate::Completed => Outcome::Completed,
                Fate::Cancelled => Outcome::Cancelled,
                Fate::Failed(_) | Fate::Truncated => Outcome::Failed,
            },
            http_status: Some(if let Fate::Failed(status) = call.fate { status } else { 200 }),
            model_served: (!failed).then_some(served),
            provider_request_id: Some(request_id(model.map(|m| m.vendor), random)),
            response_id: None,
            finish_reason: finish_reason(call).map(str::to_owned),
            service_tier: (!failed && call.choice.provider != "onprem").then(|| tier(call).to_owned()),
            usage,
            usage_basis,
            tools_called: u32::from(call.tool.is_some() && call.fate == Fate::Completed),
            tool_names: call.tool.filter(|_| call.fate == Fate::Completed).map(str::to_owned).into_iter().collect(),
            cost: price.cost,
            cost_basis: price.basis,
            cost_lines: price.lines,
            price_model: price.model,
            first_byte_ms: Some(call.first_ms.min(call.total_ms)),
            total_ms: call.total_ms,
            overhead_us: random.log_normal(900.0, 0.4) as u32,
            flags: if call.fate == Fate::Truncated { vec!["stream_truncated".into()] } else { Vec::new() },
        };
        Ok(Request::Settle { call: id, attempt: 1, settle: Box::new(settle), erasable: Box::default() })
    }

    fn price(&self, provider: &Provider, served: &str, call: &Planned, usage: &Usage, basis: UsageBasis) -> Price {
        if usage.is_empty() {
            return Price { cost: Some(Money::ZERO), basis: CostBasis::Exact, lines: Vec::new(), model: None };
        }
        match self.book.quote(&provider.price_as, served, call.at, &PriceContext::new(), usage) {
            Ok(cost) => Price {
                cost: Some(cost.total),
                basis: if basis == UsageBasis::Vendor { CostBasis::Exact } else { CostBasis::Estimated },
                lines: cost.lines,
                model: Some(cost.model),
            },
            Err(_) => Price { cost: None, basis: CostBasis::Unpriced, lines: Vec::new(), model: None },
        }
    }

    /// Now and then somebody is turned away at the edge: a model the policy denies, a key that never was.
    fn turned_away(&self, call: &Planned, random: &mut Random) -> anyhow::Result<Option<Request>> {
        let test = call.workload.environment == Environment::Test;
        let (who, code, by, model, status) = if test && random.chance(0.06) {
            let by = Some("policy:no-frontier-in-test".to_owned());
            (Some(self.who(call)?), Code::PolicyDenied, by, Some("claude-opus-5-5".to_owned()), 403)
        } else if random.chance(0.0015) {
            (None, Code::KeyInvalid, None, None, 401)
        } else {
            return Ok(None);
        };
        let deny = Deny {
            call: call_id(call.at, random),
            received_at: call.at,
            detail: who.is_none().then(|| "credential_unknown".into()),
            who,
            code,
            by,
            provider: Some("anthropic".into()),
            dialect: Some("anthropic".into()),
            endpoint: Some("messages".into()),
            stream: false,
            model,
            http_status: status,
            tools_offered: 0,
            hold: None,
            available: None,
            catalogue_revision: self.catalogue.revision,
            retry_of: None,
            count: 1,
            rules: Vec::new(),
        };
        let erasable = Erasable { network: Some(network(call, random)), ..Erasable::default() };
        Ok(Some(Request::Deny { deny: Box::new(deny), erasable: Box::new(erasable) }))
    }
}

/// What a call cost, as far as that is known.
struct Price {
    cost: Option<Money>,
    basis: CostBasis,
    lines: Vec<CostLine>,
    model: Option<String>,
}

fn usage(call: &Planned) -> (Usage, UsageBasis) {
    if let Fate::Failed(_) = call.fate {
        return (Usage::new(), UsageBasis::None);
    }
    let usage = Usage::new().with(Component::InputTokens, call.input);
    if call.choice.api == Api::Embeddings {
        return (usage, UsageBasis::Vendor);
    }
    if call.fate != Fate::Completed {
        // What had passed when the stream ended, by our own count.
        return (usage.with(Component::OutputTokens, (call.output - call.reasoning) / 3), UsageBasis::Counted);
    }
    let mut usage = usage.with(Component::OutputTokens, call.output).with(Component::CacheReadTokens, call.cached);
    match call.choice.api {
        Api::Messages => {
            let written = if call.cached > 0 { (call.input - call.cached) / 8 } else { 0 };
            usage.set(Component::CacheWriteTokens, written);
            usage.set(Component::CacheWrite5mTokens, written);
            usage.set(Component::CacheWrite1hTokens, 0);
        }
        _ => usage.set(Component::OutputReasoningTokens, call.reasoning),
    }
    (usage, UsageBasis::Vendor)
}

fn finish_reason(call: &Planned) -> Option<&'static str> {
    match call.fate {
        Fate::Completed if call.choice.api == Api::Embeddings => None,
        Fate::Completed if call.tool.is_some() => Some("tool_calls"),
        Fate::Completed => Some("stop"),
        _ => None,
    }
}

fn tier(call: &Planned) -> &'static str {
    if call.choice.api == Api::Messages { "standard" } else { "default" }
}

fn request_id(vendor: Option<Vendor>, random: &mut Random) -> String {
    match vendor {
        Some(Vendor::Anthropic) => format!("req_011C{}", random.token(20)),
        _ => format!("req_{}", random.token(32)),
    }
}

fn network(call: &Planned, random: &mut Random) -> Network {
    let agent = match call.choice.api {
        Api::Messages => "Anthropic/Python 2.12.0",
        _ => "OpenAI/Python 3.54.0",
    };
    let service = super::random::fnv(call.workload.service.as_bytes()) % 250;
    Network {
        peer: Some(format!("10.20.{service}.{}:{}", random.between(2, 9), random.between(32_768, 60_999))),
        user_agent: Some(agent.into()),
        trace_id: None,
        parent_id: None,
    }
}

/// A UUIDv7 of that instant.
fn call_id(at: Micros, random: &mut Random) -> CallId {
    let mut tail = [0u8; 10];
    random.fill(&mut tail);
    let id = uuid::Builder::from_unix_timestamp_millis((at.0 / 1_000).max(0) as u64, &tail).into_uuid();
    CallId(id.as_u128())
}

#[cfg(test)]
mod tests {
    use super::super::organisation::{self, Addresses};
    use super::*;
    use crate::config::Config;
    use crate::domain::catalogue::KeyStatus;
    use crate::domain::{Call, Change, Filter, PriceOverride};
    use crate::store::{Clock, Durability, Options};

    const SEED: u64 = 1;

    /// The sample organisation in a ledger in memory, and days of history in it.
    fn told(days: i64) -> (Ledger, Written, Micros) {
        let until: Micros = "2026-11-09T18:00:00Z".parse().unwrap();
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        let last = zone.to_datetime(until.timestamp()).date();
        let calendar = Calendar { seed: SEED, zone, last, days };
        let clock = Arc::new(DemoClock::at(until.plus_seconds(-86_400 * (days + 1))));
        let options = Options { durability: Durability::Strict, clock: clock.clone() };
        let ledger = Ledger::open_in_memory(options).unwrap();
        let declare = Request::Declare { actor: "demo".into(), changes: changes(), openings: Vec::new(), reason: None };
        let replies = ledger.submit_all(vec![declare]).unwrap();
        assert!(matches!(replies[0], Reply::Declared { .. }), "{replies:?}");
        let written = write(&ledger, &clock, &calendar, until).unwrap();
        // Lists may be behind what was written this fast.
        assert!(ledger.views().wait_for(ledger.head().size, std::time::Duration::from_secs(60)));
        (ledger, written, clock.now())
    }

    fn changes() -> Vec<Change> {
        let keys = organisation::keys(SEED, |bytes| bytes.fill(3));
        let addresses = Addresses {
            listen: "127.0.0.1:8700",
            web_listen: "127.0.0.1:8701",
            data_dir: "data",
            openai_url: "http://127.0.0.1:9/v1",
            anthropic_url: "http://127.0.0.1:9",
            provider_key: "sandbox",
            operator_token: "token-of-a-test-of-the-demo",
        };
        let text = organisation::configuration(&addresses, &keys, |_| "never".into());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("demo.toml");
        std::fs::write(&file, text).unwrap();
        let declared = Config::load(&file).unwrap_or_else(|error| panic!("{error}")).declared;
        let organisation = declared.organisation.unwrap();
        let in_zone = |mut budget: crate::domain::Budget| {
            budget.time_zone.clone_from(&organisation.time_zone);
            budget.fiscal_year_start_month = organisation.fiscal_year_start_month;
            budget
        };
        let budgets: Vec<_> = declared.budgets.into_iter().map(in_zone).collect();
        let mut changes = vec![Change::Organisation(organisation)];
        changes.extend(declared.services.into_iter().map(|s| Change::Service(s.id.clone(), Some(s))));
        changes.extend(declared.providers.into_iter().map(|(p, _)| Change::Provider(p.id.clone(), Some(p))));
        changes.extend(declared.policies.into_iter().map(|p| Change::Policy(p.id.clone(), Some(p))));
        changes.extend(budgets.into_iter().map(|b| Change::Budget(b.id.clone(), Some(b))));
        let mut prices: BTreeMap<(String, String), Vec<PriceOverride>> = BTreeMap::new();
        for price in declared.prices {
            prices.entry((price.provider.clone(), price.model.clone())).or_default().push(price);
        }
        changes.extend(prices.into_iter().map(|((provider, model), prices)| Change::Price { provider, model, prices }));
        changes.extend(declared.keys.into_iter().map(|key| {
            let id = key.secret.id().to_owned();
            let stored = Key {
                id: id.clone(),
                hash: [0; 32],
                service: key.service,
                environment: key.environment,
                created_at: Micros(0),
                expires_at: None,
                status: KeyStatus::Active,
                allow_models: None,
                note: None,
                not_before: None,
                allow_cidrs: None,
                lineage: None,
                successor: None,
            };
            Change::Key(id, Some(stored))
        }));
        changes
    }

    fn all_calls(ledger: &Ledger) -> Vec<Call> {
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let (calls, _) = ledger.calls(&Filter::default(), before, 2_000).unwrap();
            let Some(last) = calls.last() else { return all };
            before = Some(last.seq);
            all.extend(calls);
        }
    }

    #[test]
    fn the_past_is_written_through_the_ledger_with_all_that_a_newcomer_should_see() {
        let (ledger, written, now) = told(16);
        let calls = all_calls(&ledger);
        assert_eq!(calls.len() as u64, written.calls + written.refused);
        let count = |wanted: &dyn Fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
        for outcome in [Outcome::Completed, Outcome::Failed, Outcome::Cancelled, Outcome::Refused] {
            assert!(count(&|call| call.outcome == outcome) > 20, "{outcome:?}");
        }
        let by = |call: &Call, who: &str| call.refusal.as_ref().is_some_and(|(_, by)| by.as_deref() == Some(who));
        assert!(
            count(&|call| by(call, "budget:returns-agent-day")) > 100,
            "the runaway agent is stopped by its budget"
        );
        assert!(count(&|call| by(call, "policy:no-frontier-in-test")) > 5);
        assert!(count(&|call| call.who.is_none()) > 5, "some never said who they were");
        assert!(count(&|call| call.cost_basis == CostBasis::Unpriced) > 5, "a model without a price");
        assert!(count(&|call| call.usage_basis == UsageBasis::Counted) > 20, "streams that broke off");
        assert!(count(&|call| call.retry_of.is_some()) > 20, "retries");
        let october = count(&|call| call.started_at.utc_month() == "2026-10");
        assert!(october > 1_000 && october < calls.len() - 1_000, "the months roll over");
        assert!(calls.iter().all(|call| call.price_model.is_some()
            || call.cost_basis != CostBasis::Exact
            || call.outcome != Outcome::Completed));
        assert!(ledger.running().is_empty() && ledger.balances(now).iter().all(|balance| balance.held == 0));
    }

    #[test]
    fn the_same_seed_writes_the_same_history() {
        let facts = || {
            let (ledger, _, _) = told(2);
            all_calls(&ledger)
                .into_iter()
                .map(|call| (call.id, call.seq, call.started_at, call.cost))
                .collect::<Vec<_>>()
        };
        assert_eq!(facts(), facts());
    }
}
