//! What a call costs us, piece by piece, without network and disk: `cargo bench`, and a name to run one alone.
//!
//! Each bench does what the product does for one call, on inputs of ordinary size. What a disk and a peer add is measured
//! with the whole binary, not here.

use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};

use weighbridge::dialect::{self, End, RequestHead, ResponseHead};
use weighbridge::domain::{
    Assurance, Attribution, Budget, CallId, Change, Charge, Component, CostBasis, Dimension, Enforcement, Environment,
    Limit, Metric, Micros, Money, Outcome, PeriodKind, Provider, Service, ServiceKind, Usage, UsageBasis,
};
use weighbridge::ledger::codec;
use weighbridge::ledger::decide::decide;
use weighbridge::ledger::entry::{Admit, Entry, Erasable, Settle};
use weighbridge::ledger::leaf::{self, Leaf};
use weighbridge::ledger::request::{AdmitRequest, Reply, Request};
use weighbridge::ledger::state::State;
use weighbridge::pricing::{PriceBook, PriceContext};

/// 2026-11-23T18:00:00Z.
const AT: Micros = Micros(1_795_456_800_000_000);

fn who() -> Attribution {
    Attribution {
        service: "svc".into(),
        agent: None,
        application: "app".into(),
        owner: "team".into(),
        business_unit: "unit".into(),
        cost_centre: Some("4711".into()),
        tenant: None,
        environment: Environment::Prod,
        workflow: None,
        run: None,
        prompt_class: None,
        principal: "svc".into(),
        charged_to: vec![Charge { service: "svc".into(), basis_points: 10_000 }],
        chain: vec![],
        credential: "wbk_p00000000000".into(),
        assurance: Assurance::A1,
        provenance: "KCKUUUUUUU".into(),
    }
}

fn admit(revision: u64) -> Request {
    let admit = Admit {
        call: CallId(1),
        attempt: 1,
        received_at: AT,
        who: who().into(),
        provider: "openai".into(),
        dialect: "openai".into(),
        endpoint: "chat.completions".into(),
        unmetered: false,
        stream: true,
        job: false,
        model: Some("gpt-5.2".into()),
        price_model: Some("gpt-5.2".into()),
        price_book: 1,
        catalogue_revision: revision,
        tools_offered: 0,
        hold: Money::ZERO,
        holds: vec![],
        input_bound: 1_000,
        output_bound: 0,
        output_limit: None,
        unbounded: false,
        retry_of: None,
        lease_until: AT.plus_seconds(600),
        model_sent: None,
        rules: Vec::new(),
    };
    Request::Admit(Box::new(AdmitRequest {
        admit,
        erasable: Erasable::default(),
        fixed: Money(1_750_000_000_000),
        per_output_token: Some(Money(14_000_000_000)),
        output_wanted: 1_000,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: false,
        allow_unmetered: false,
        policy: Default::default(),
    }))
}

fn settle() -> Request {
    let settle = Settle {
        outcome: Outcome::Completed,
        http_status: Some(200),
        model_served: Some("gpt-5.2-2025-12-11".into()),
        provider_request_id: Some("req_0123456789abcdef".into()),
        response_id: Some("chatcmpl-0123456789abcdef".into()),
        finish_reason: Some("stop".into()),
        service_tier: None,
        usage: Usage::new().with(Component::InputTokens, 900).with(Component::OutputTokens, 300),
        usage_basis: UsageBasis::Vendor,
        tools_called: 0,
        tool_names: vec![],
        cost: Some(Money(5_775_000_000_000)),
        cost_basis: CostBasis::Exact,
        cost_lines: vec![],
        price_model: None,
        first_byte_ms: Some(300),
        total_ms: 4_000,
        overhead_us: 300,
        flags: vec![],
    };
    Request::Settle { call: CallId(1), attempt: 1, settle: Box::new(settle), erasable: Box::default() }
}

/// Decides and applies, as the writer does, and returns the entries made.
fn submit(state: &mut State, request: &Request) -> (Vec<Entry>, Reply) {
    let decision = decide(state, AT, request);
    let mut entries = Vec::with_capacity(decision.entries.len());
    for new in decision.entries {
        let entry = Entry { seq: state.next_seq(), ts: AT, reference: new.reference, body: new.body };
        state.apply(&entry).expect("what was decided can be applied");
        entries.push(entry);
    }
    (entries, decision.reply)
}

/// An organisation of ten services, each under a hard budget of its own; one budget covers them all.
fn state() -> State {
    let mut state = State::new();
    let names: Vec<String> = std::iter::once("svc".to_owned()).chain((1..10).map(|n| format!("svc-{n}"))).collect();
    let mut changes = vec![Change::Provider("openai".into(), Some(provider()))];
    for name in &names {
        changes.push(Change::Service(name.clone(), Some(service(name))));
        let covers = BTreeMap::from([(Dimension::Service, name.clone())]);
        changes.push(Change::Budget(format!("{name}-month"), Some(budget(&format!("{name}-month"), covers))));
    }
    changes.push(Change::Budget("all".into(), Some(budget("all", BTreeMap::new()))));
    let declare = Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None };
    let (_, reply) = submit(&mut state, &declare);
    assert!(matches!(reply, Reply::Declared { .. }), "{reply:?}");
    state
}

/// One service whose calls so many hard budgets cover, among so many that cover others.
fn state_of_budgets(covering: usize, others: usize) -> State {
    let mut state = State::new();
    let mut changes = vec![Change::Provider("openai".into(), Some(provider()))];
    changes.push(Change::Service("svc".into(), Some(service("svc"))));
    for n in 0..covering {
        let (id, covers) = (format!("own-{n}"), BTreeMap::from([(Dimension::Service, "svc".to_owned())]));
        changes.push(Change::Budget(id.clone(), Some(budget(&id, covers))));
    }
    for n in 0..others {
        let (id, covers) = (format!("other-{n}"), BTreeMap::from([(Dimension::Service, format!("svc-{n}"))]));
        changes.push(Change::Budget(id.clone(), Some(budget(&id, covers))));
    }
    let declare = Request::Declare { actor: "bench".into(), changes, openings: vec![], reason: None };
    let (_, reply) = submit(&mut state, &declare);
    assert!(matches!(reply, Reply::Declared { .. }), "{reply:?}");
    state
}

/// What the budgets on a call cost it: those that cover it, and those that are only declared.
fn authorise(c: &mut Criterion) {
    let mut group = c.benchmark_group("authorise");
    for (name, covering, others) in
        [("1_budget", 1, 0), ("10_budgets", 10, 0), ("100_budgets", 100, 0), ("10_budgets_of_100000", 10, 100_000)]
    {
        let state = state_of_budgets(covering, others);
        let request = admit(state.catalogue().revision);
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| state.clone(), |state| submit(state, black_box(&request)), BatchSize::SmallInput)
        });
        group.bench_function(format!("{name}/decide"), |b| b.iter(|| decide(&state, AT, black_box(&request))));
    }
    group.finish();
}

fn budget(id: &str, matches: BTreeMap<Dimension, String>) -> Budget {
    Budget {
        matches,
        time_zone: "Europe/Berlin".into(),
        enforcement: Enforcement::Hard,
        alert_at_percent: vec![50, 75, 90, 100],
        ..Budget::plain(
            id,
            Limit { metric: Metric::Usd, amount: "1000000".parse::<Money>().expect("a round sum").0 },
            PeriodKind::Month,
        )
    }
}

fn service(id: &str) -> Service {
    Service {
        id: id.into(),
        application: "app".into(),
        kind: ServiceKind::Service,
        owner: "team".into(),
        business_unit: "unit".into(),
        cost_centre: Some("4711".into()),
        tenant: None,
        purpose: None,
        caller_fields: Default::default(),
        mandatory_fields: Default::default(),
        tenants: vec![],
        workflows: vec![],
        prompt_classes: vec![],
    }
}

fn provider() -> Provider {
    Provider {
        id: "openai".into(),
        dialect: "openai".into(),
        base_url: "https://api.openai.com/v1".into(),
        internal: false,
        models: vec![],
        price_as: "openai".into(),
        idle_timeout_s: 300,
        on_client_abort: Default::default(),
        position: 0,
        region: None,
    }
}

/// Admission and settlement of one call: what the one writer thread computes for it.
fn decide_and_apply(c: &mut Criterion) {
    let mut state = state();
    let (admit, settle) = (admit(state.catalogue().revision), settle());
    c.bench_function("decide and apply, one call", |b| {
        b.iter(|| {
            let (_, reply) = submit(&mut state, black_box(&admit));
            assert!(matches!(reply, Reply::Admitted(_)), "{reply:?}");
            submit(&mut state, black_box(&settle))
        });
    });
}

/// The canonical bytes of an admission and a settlement, their commitments and leaf hashes: what goes into a block.
fn entry_bytes(c: &mut Criterion) {
    let mut state = state();
    let revision = state.catalogue().revision;
    let (mut entries, _) = submit(&mut state, &admit(revision));
    entries.extend(submit(&mut state, &settle()).0);
    let salt = [7; 16];
    c.bench_function("entries to bytes and leaf hashes, one call", |b| {
        b.iter(|| {
            let mut written = 0;
            for entry in black_box(&entries) {
                let body = codec::encode_body(&entry.body);
                let commitments = BTreeMap::from([(0, leaf::commitment(0, &salt, &body))]);
                let kind = codec::kind_of(&entry.body);
                let leaf = Leaf { seq: entry.seq, ts: entry.ts, kind, reference: entry.reference, commitments };
                let leaf = leaf.encode();
                black_box(leaf::leaf_hash(&leaf));
                written += leaf.len() + body.len();
            }
            written
        });
    });
}

/// A stream of 200 events: time per event is a two-hundredth of what is printed.
fn tap(c: &mut Criterion) {
    let dialect = dialect::named("openai").expect("it is built in");
    let body = br#"{"model":"gpt-5.2","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
    let (method, none) = (Method::POST, HeaderMap::new());
    let request = RequestHead { method: &method, path: "/v1/chat/completions", query: None, headers: &none };
    let facts = dialect.read_request(&request, body).expect("the request can be read");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))]);
    let answer = ResponseHead { status: 200, headers: &headers };
    let chunk = r#"{"id":"c","object":"chat.completion.chunk","model":"gpt-5.2","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}"#;
    let usage = r#"{"id":"c","model":"gpt-5.2","choices":[],"usage":{"prompt_tokens":900,"completion_tokens":198,"total_tokens":1098}}"#;
    let mut events = vec![Bytes::from(format!("data: {chunk}\n\n")); 198];
    events.push(Bytes::from(format!("data: {usage}\n\n")));
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    c.bench_function("tap, a stream of 200 events", |b| {
        b.iter_batched(
            || (dialect.tap(&facts, &answer, false), Vec::with_capacity(2)),
            |(mut tap, mut pass)| {
                for event in &events {
                    tap.feed(event.clone(), &mut pass);
                    pass.clear();
                }
                let seen = tap.finish(End::Complete);
                assert_eq!(seen.usage.as_ref().and_then(|u| u.get(Component::InputTokens)), Some(900));
                seen
            },
            BatchSize::SmallInput,
        );
    });
}

/// The price of a usage, by a dated model name.
fn quote(c: &mut Criterion) {
    let book = PriceBook::shipped();
    let usage = Usage::new()
        .with(Component::InputTokens, 12_000)
        .with(Component::CacheReadTokens, 8_000)
        .with(Component::OutputTokens, 700);
    let context = PriceContext::default();
    c.bench_function("quote", |b| {
        b.iter(|| book.quote("openai", black_box("gpt-5.2"), AT, &context, black_box(&usage)).expect("it has a price"));
    });
}

criterion_group!(benches, decide_and_apply, authorise, entry_bytes, tap, quote);
criterion_main!(benches);
