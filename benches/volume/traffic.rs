//! Believable calls from a seed, in the order of time, without end and in constant memory: what an organisation of sixty
//! services sends through the gateway, as the gateway would hand it to the writer.
//!
//! Some services are busy and most are not; a third of the calls belongs to a run; prompts are long and mostly cached;
//! now and then a caller hangs up, a vendor fails, a budget or a policy refuses. Ids and fingerprints are random, because
//! that is what no compression takes away.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use weighbridge::domain::catalogue::KeyStatus;
use weighbridge::domain::{
    Assurance, Attribution, Budget, CallId, Change, Charge, Code, Component, CostBasis, Dimension, Enforcement,
    Environment, Key, Limit, Metric, Micros, Money, Outcome, PeriodKind, Provider, Service, ServiceKind, Usage,
    UsageBasis,
};
use weighbridge::ledger::entry::{Admit, Content, Deny, Erasable, Network, Settle};
use weighbridge::ledger::request::{AdmitRequest, Request};
use weighbridge::pricing::{PriceBook, PriceContext};

/// Services of the organisation; each has two keys.
const SERVICES: u64 = 60;
/// Most calls under way at once.
const MOST_OPEN: usize = 4_096;

/// (provider, model asked for, model served, thinks, share in a thousand)
const MODELS: [(&str, &str, &str, bool, u64); 8] = [
    ("openai", "gpt-5.2", "gpt-5.2-2025-12-11", true, 260),
    ("openai", "gpt-5-mini", "gpt-5-mini-2025-08-07", true, 200),
    ("openai", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", false, 140),
    ("openai", "gpt-4o", "gpt-4o-2024-11-20", false, 60),
    ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", false, 180),
    ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001", false, 90),
    ("anthropic", "claude-opus-4-5", "claude-opus-4-5-20251101", false, 50),
    ("onprem", "qwen3-coder", "qwen3-coder", false, 20),
];

/// Splitmix64: enough chance, and the same everywhere.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    /// True so many times in a thousand.
    fn once(&mut self, in_thousand: u64) -> bool {
        self.below(1_000) < in_thousand
    }
    /// Many small numbers and a few large ones, up to `most`.
    fn skewed(&mut self, most: u64) -> u64 {
        let bits = 1 + self.below(u64::from(most.ilog2()) + 1);
        self.below(1 << bits).min(most)
    }
    fn text(&mut self, prefix: &str, alphabet: &[u8], length: usize) -> String {
        let mut text = String::with_capacity(prefix.len() + length);
        text.push_str(prefix);
        text.extend((0..length).map(|_| char::from(alphabet[self.below(alphabet.len() as u64) as usize])));
        text
    }
}

const HEX: &[u8] = b"0123456789abcdef";
const WORDS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What the organisation declares before its first call.
pub fn declarations() -> Request {
    let mut changes = Vec::new();
    for (id, dialect) in [("openai", "openai"), ("anthropic", "anthropic"), ("onprem", "openai")] {
        changes.push(Change::Provider(id.into(), Some(provider(id, dialect))));
    }
    for n in 0..SERVICES {
        let who = attribution(n, 0);
        changes.push(Change::Service(who.service.clone(), Some(service(&who))));
        for key in 0..2 {
            let who = attribution(n, key);
            changes.push(Change::Key(who.credential.clone(), Some(self::key(&who))));
        }
        if n < 20 {
            let id = format!("{}-month", who.service);
            let covers = BTreeMap::from([(Dimension::Service, who.service)]);
            changes.push(Change::Budget(id.clone(), Some(budget(&id, covers, if n == 7 { 40 } else { 1_000_000 }))));
        }
    }
    changes.push(Change::Budget("everything".into(), Some(budget("everything", BTreeMap::new(), 100_000_000))));
    Request::Declare { actor: "file".into(), changes, openings: Vec::new(), reason: None }
}

fn attribution(service: u64, key: u64) -> Attribution {
    let name = format!("{}-{service:02}", ["search", "invoice-bot", "support", "etl", "codegen"][service as usize % 5]);
    let environment = if key == 0 { Environment::Prod } else { Environment::Test };
    Attribution {
        agent: None,
        application: format!("app-{:02}", service / 3),
        owner: format!("team-{:02}", service / 4),
        business_unit: ["finance", "research", "sales", "operations"][service as usize % 4].into(),
        cost_centre: Some(format!("cc-{}", 4_000 + service / 2)),
        tenant: (service % 10 == 0).then(|| format!("tenant-{}", service / 10)),
        environment,
        workflow: None,
        run: None,
        prompt_class: None,
        principal: name.clone(),
        charged_to: vec![Charge { service: name.clone(), basis_points: 10_000 }],
        chain: Vec::new(),
        credential: format!("wbk_{}{:011x}", environment.letter(), (service * 2 + key + 1) * 7_919),
        assurance: Assurance::A1,
        provenance: "KCKKKUUUUK".into(),
        service: name,
    }
}

fn provider(id: &str, dialect: &str) -> Provider {
    Provider {
        id: id.into(),
        dialect: dialect.into(),
        base_url: "https://api.example.com/v1".into(),
        internal: false,
        models: vec![],
        price_as: id.into(),
        idle_timeout_s: 300,
        on_client_abort: Default::default(),
        position: 0,
        region: None,
    }
}

fn service(who: &Attribution) -> Service {
    Service {
        id: who.service.clone(),
        application: who.application.clone(),
        kind: ServiceKind::Service,
        owner: who.owner.clone(),
        business_unit: who.business_unit.clone(),
        cost_centre: who.cost_centre.clone(),
        tenant: who.tenant.clone(),
        purpose: None,
        caller_fields: Default::default(),
        mandatory_fields: Default::default(),
        tenants: vec![],
        workflows: vec![],
        prompt_classes: vec![],
    }
}

fn key(who: &Attribution) -> Key {
    Key {
        id: who.credential.clone(),
        hash: [0; 32],
        service: who.service.clone(),
        environment: who.environment,
        created_at: Micros(0),
        expires_at: None,
        status: KeyStatus::Active,
        allow_models: None,
        note: None,
        not_before: None,
        allow_cidrs: None,
        lineage: None,
        successor: None,
    }
}

fn budget(id: &str, matches: BTreeMap<Dimension, String>, usd: i64) -> Budget {
    Budget {
        matches,
        time_zone: "Europe/Berlin".into(),
        enforcement: Enforcement::Hard,
        alert_at_percent: vec![50, 75, 90, 100],
        ..Budget::plain(id, Limit { metric: Metric::Usd, amount: Money::usd(usd).0 }, PeriodKind::Month)
    }
}

/// A settlement to come; ordered by its instant.
struct Due {
    at: Micros,
    call: CallId,
    /// Place in [`MODELS`].
    model: usize,
    endpoint: &'static str,
    input: u64,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.call) == (other.at, other.call)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.call).cmp(&(other.at, other.call))
    }
}

/// The stream of requests. Ends after so many calls, with the last settled.
pub struct Traffic {
    chance: Chance,
    book: Arc<PriceBook>,
    now: Micros,
    gap_us: u64,
    left: u64,
    open: BinaryHeap<Reverse<Due>>,
    runs: Vec<(u64, String)>,
}

impl Traffic {
    /// `calls` calls, evenly spread over `from..to`.
    pub fn new(seed: u64, calls: u64, from: Micros, to: Micros) -> Traffic {
        let span = (to.0 - from.0).max(1) as u64;
        Traffic {
            chance: Chance(seed),
            book: PriceBook::shipped(),
            now: from,
            gap_us: (span / calls.max(1)).max(1),
            left: calls,
            open: BinaryHeap::new(),
            runs: Vec::new(),
        }
    }

    fn who(&mut self) -> Attribution {
        // The square makes the first services busy and the last ones rare.
        let service = self.chance.below(SERVICES) * self.chance.below(SERVICES) / SERVICES;
        let mut who = attribution(service, u64::from(self.chance.once(150)));
        if service.is_multiple_of(3) {
            who.workflow = Some(["nightly", "triage", "review"][self.chance.below(3) as usize].into());
            if self.runs.len() < 64 || self.chance.once(50) {
                let run = self.chance.text("run-", HEX, 16);
                let place = self.chance.below(64) as usize;
                match self.runs.get_mut(place) {
                    Some(old) => *old = (service, run),
                    None => self.runs.push((service, run)),
                }
            }
            let place = self.chance.below(self.runs.len() as u64) as usize;
            who.run = Some(self.runs[place].1.clone());
        }
        if service % 5 == 4 {
            who.agent = Some(["planner", "coder", "tester"][self.chance.below(3) as usize].into());
        }
        who
    }

    fn id(&mut self) -> CallId {
        let millis = (self.now.0 / 1_000) as u128;
        let random = u128::from(self.chance.next()) | u128::from(self.chance.next()) << 64;
        let (a, b) = (random & 0xfff, (random >> 12) & ((1 << 62) - 1));
        CallId(millis << 80 | 7 << 76 | a << 64 | 2 << 62 | b)
    }

    fn erasable(&mut self, who: Option<&Attribution>) -> Erasable {
        let host = self.chance.below(250);
        let port = 32_768 + self.chance.below(28_000);
        let traced = self.chance.once(500);
        let mut body = [0; 32];
        body.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.chance.next().to_le_bytes()));
        Erasable {
            network: Some(Network {
                peer: Some(format!("10.20.{}.{host}:{port}", who.map_or(0, |w| w.service.len()))),
                user_agent: Some(["OpenAI/Python 3.54.0", "Anthropic/Python 2.12.0"][host as usize % 2].into()),
                trace_id: traced.then(|| self.chance.text("", HEX, 32)),
                parent_id: traced.then(|| self.chance.text("", HEX, 16)),
            }),
            person: None,
            content: Some(Content { body: Some(body) }),
            vendor_usage: None,
        }
    }

    fn begin(&mut self) -> Request {
        let who = self.who();
        let call = self.id();
        let erasable = self.erasable(Some(&who));
        let mut share = self.chance.below(1_000);
        let model = MODELS.iter().position(|m| {
            let here = share < m.4;
            share = share.saturating_sub(m.4);
            here
        });
        let model = model.unwrap_or(0);
        let (provider, asked, ..) = MODELS[model];
        if self.chance.once(12) {
            let deny = self.refused(call, self.chance_is_known().then_some(who), asked);
            return Request::Deny { deny: Box::new(deny), erasable: Box::new(erasable) };
        }
        let anthropic = provider == "anthropic";
        let endpoint = match () {
            () if anthropic => "messages",
            () if self.chance.once(300) => "responses",
            () => "chat.completions",
        };
        let input = 200 + self.chance.skewed(120_000);
        let bound = self.book.upper_bound(provider, asked, self.now, &PriceContext::new(), input * 2);
        let took = 300_000 + self.chance.skewed(60_000_000) as i64;
        self.open.push(Reverse(Due { at: Micros(self.now.0 + took), call, model, endpoint, input }));
        let admit = Admit {
            call,
            attempt: 1,
            received_at: Micros(self.now.0 - 300),
            who: Arc::new(who),
            provider: provider.into(),
            dialect: if anthropic { "anthropic" } else { "openai" }.into(),
            endpoint: endpoint.into(),
            unmetered: false,
            stream: self.chance.once(600),
            job: false,
            model: Some(asked.into()),
            price_model: bound.as_ref().map(|b| b.model.clone()),
            price_book: 1,
            catalogue_revision: 1,
            tools_offered: if self.chance.once(400) { 6 } else { 0 },
            hold: Money::ZERO,
            holds: Vec::new(),
            input_bound: input * 2,
            output_bound: 0,
            output_limit: None,
            unbounded: false,
            retry_of: None,
            lease_until: self.now.plus_seconds(900),
            model_sent: None,
            rules: Vec::new(),
        };
        Request::Admit(Box::new(AdmitRequest {
            admit,
            erasable,
            fixed: bound.as_ref().map_or(Money::ZERO, |b| b.fixed),
            per_output_token: bound.as_ref().map(|b| b.per_output_token),
            output_wanted: 4_096,
            may_limit_output: false,
            choices: 1,
            expected_output: None,
            max_cost: None,
            allow_unpriced: true,
            allow_unmetered: false,
            policy: Default::default(),
        }))
    }

    fn chance_is_known(&self) -> bool {
        self.left % 3 != 0
    }

    fn refused(&self, call: CallId, who: Option<Attribution>, model: &str) -> Deny {
        let known = who.is_some();
        Deny {
            call,
            received_at: self.now,
            code: if known { Code::PolicyDenied } else { Code::KeyInvalid },
            detail: (!known).then(|| "credential_unknown".into()),
            by: known.then(|| "policy:no-frontier-in-test".into()),
            who,
            provider: known.then(|| "openai".into()),
            dialect: Some("openai".into()),
            endpoint: Some("chat.completions".into()),
            stream: false,
            model: known.then(|| model.into()),
            http_status: if known { 403 } else { 401 },
            tools_offered: 0,
            hold: None,
            available: None,
            catalogue_revision: 1,
            retry_of: None,
            count: 1,
            rules: Vec::new(),
        }
    }

    fn end(&mut self, due: Due) -> Request {
        let (provider, _, served, thinks, _) = MODELS[due.model];
        let chance = &mut self.chance;
        let failed = chance.once(15);
        let aborted = !failed && chance.once(20);
        let usage = if failed { Usage::new() } else { usage(chance, due.input, provider, thinks, aborted) };
        let cost = if failed {
            Ok((Money::ZERO, Vec::new(), None))
        } else {
            let quote = self.book.quote(provider, served, due.at, &PriceContext::new(), &usage);
            quote.map(|cost| (cost.total, cost.lines, Some(cost.model)))
        };
        let (cost, cost_lines, price_model) = match cost {
            Ok((cost, lines, model)) => (Some(cost), lines, model),
            Err(_) => (None, Vec::new(), None),
        };
        let called = !failed && chance.once(200);
        let total_ms = 400 + chance.skewed(60_000) as u32;
        let vendor_usage = (!failed && !aborted).then(|| vendor_usage(&usage, provider));
        let settle = Settle {
            outcome: match () {
                () if failed => Outcome::Failed,
                () if aborted => Outcome::Cancelled,
                () => Outcome::Completed,
            },
            http_status: Some(if failed { 529 } else { 200 }),
            model_served: (!failed).then(|| served.into()),
            provider_request_id: Some(match provider {
                "anthropic" => chance.text("req_011C", WORDS, 20),
                _ => chance.text("req_", HEX, 32),
            }),
            response_id: (!failed).then(|| match due.endpoint {
                "messages" => chance.text("msg_01", WORDS, 22),
                "responses" => chance.text("resp_", HEX, 48),
                _ => chance.text("chatcmpl-", WORDS, 29),
            }),
            finish_reason: (!failed && !aborted).then(|| if called { "tool_calls" } else { "stop" }.into()),
            service_tier: (!failed).then(|| "default".into()),
            usage,
            usage_basis: match () {
                () if failed => UsageBasis::None,
                () if aborted => UsageBasis::Counted,
                () => UsageBasis::Vendor,
            },
            tools_called: u32::from(called),
            tool_names: if called { vec!["search_documents".into()] } else { Vec::new() },
            cost,
            cost_basis: match cost {
                None => CostBasis::Unpriced,
                Some(_) if aborted => CostBasis::Estimated,
                Some(_) => CostBasis::Exact,
            },
            cost_lines,
            price_model,
            first_byte_ms: Some(150 + chance.skewed(3_000) as u32),
            total_ms,
            overhead_us: 200 + chance.skewed(2_000) as u32,
            flags: if aborted { vec!["client_closed".into()] } else { Vec::new() },
        };
        let erasable = Box::new(Erasable { vendor_usage, ..Erasable::default() });
        Request::Settle { call: due.call, attempt: 1, settle: Box::new(settle), erasable }
    }
}

fn usage(chance: &mut Chance, input: u64, provider: &str, thinks: bool, aborted: bool) -> Usage {
    let output = 20 + chance.skewed(4_000);
    let usage = Usage::new().with(Component::InputTokens, input).with(Component::OutputTokens, output);
    if aborted {
        return usage;
    }
    let cached = if chance.once(600) { input * chance.below(90) / 100 } else { 0 };
    let usage = usage.with(Component::CacheReadTokens, cached);
    if provider == "anthropic" {
        let written = (input - cached) / 8;
        let usage = usage.with(Component::CacheWriteTokens, written);
        return usage.with(Component::CacheWrite5mTokens, written).with(Component::CacheWrite1hTokens, 0);
    }
    let reasoning = if thinks { output * chance.below(70) / 100 } else { 0 };
    usage.with(Component::OutputReasoningTokens, reasoning)
}

/// The usage object as that vendor writes it.
fn vendor_usage(usage: &Usage, provider: &str) -> String {
    let n = |component| usage.get(component).unwrap_or(0);
    let (input, output) = (n(Component::InputTokens), n(Component::OutputTokens));
    let (cached, written) = (n(Component::CacheReadTokens), n(Component::CacheWriteTokens));
    if provider == "anthropic" {
        let plain = input - cached - written;
        return format!(
            r#"{{"input_tokens":{plain},"cache_creation_input_tokens":{written},"cache_read_input_tokens":{cached},"cache_creation":{{"ephemeral_5m_input_tokens":{written},"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard"}}"#
        );
    }
    let reasoning = n(Component::OutputReasoningTokens);
    format!(
        r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
        input + output
    )
}

/// The next request and its instant.
impl Iterator for Traffic {
    type Item = (Micros, Request);

    fn next(&mut self) -> Option<(Micros, Request)> {
        let next_call = (self.left > 0).then(|| Micros(self.now.0 + 1 + self.chance.below(2 * self.gap_us) as i64));
        let due = self.open.peek().map(|Reverse(due)| due.at);
        let ends = match (next_call, due) {
            (None, None) => return None,
            (Some(call), Some(due)) => due <= call || self.open.len() >= MOST_OPEN,
            (call, _) => call.is_none(),
        };
        if ends {
            let Reverse(due) = self.open.pop()?;
            self.now = self.now.max(due.at);
            return Some((self.now, self.end(due)));
        }
        self.now = next_call?;
        self.left -= 1;
        Some((self.now, self.begin()))
    }
}
