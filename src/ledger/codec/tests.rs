//! Entries to bytes and back: golden lines, every kind, and bytes that nobody wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::domain::{CallId, Code, Component, CostBasis, Dimension, Micros, Money, Outcome, Usage, UsageBasis};
use crate::ledger::leaf::{Leaf, commitment, leaf_hash};
use crate::ledger::testing;

fn full_admit() -> Admit {
    let mut who = testing::who("invoice-bot");
    who.agent = Some("planner".into());
    who.cost_centre = Some("4711".into());
    who.tenant = Some("acme".into());
    who.workflow = Some("dunning".into());
    who.run = Some("r-1".into());
    who.prompt_class = Some("extract".into());
    who.chain = vec!["root".into(), "planner".into()];
    Admit {
        call: CallId(0x019a_b3f2_0000_7000_8000_0000_0000_0001),
        attempt: 2,
        received_at: Micros(1_795_456_799_999_000),
        who: who.into(),
        unmetered: true,
        stream: true,
        job: true,
        tools_offered: 3,
        hold: Money(264_376_000_000_000),
        holds: vec![BudgetHold {
            budget: "month".into(),
            period: "2026-11@Europe/Berlin".into(),
            amount: 25_000_000_000_000_000_000_000,
        }],
        input_bound: 20_000,
        output_bound: 16_384,
        output_limit: Some(16_384),
        unbounded: true,
        retry_of: Some(CallId(7)),
        ..testing::admit(1, Money::ZERO).admit
    }
}

fn full_settle() -> Settle {
    Settle {
        provider_request_id: Some("req_1".into()),
        response_id: Some("resp_1".into()),
        service_tier: Some("default".into()),
        usage: Usage::new().with(Component::InputTokens, 11_300).with(Component::StorageSearches, 1),
        tools_called: 2,
        tool_names: vec!["search".into(), "book".into()],
        cost_lines: vec![CostLine {
            component: Component::InputTokens,
            quantity: 11_300,
            unit_price_usd: "1.75".into(),
            per: 1_000_000,
            tier_from_tokens: 0,
            cost_usd: Money(19_775_000_000_000),
        }],
        price_model: Some("gpt-5.2".into()),
        flags: vec!["stream_truncated".into()],
        ..testing::settle(Some(Money(34_300_000_000_000)), 0)
    }
}

fn full_deny() -> Deny {
    Deny {
        call: CallId(9),
        received_at: testing::NOON,
        who: Some(testing::who("svc")),
        code: Code::BudgetExceeded,
        detail: Some("credential_malformed".into()),
        by: Some("budget:month".into()),
        provider: Some("openai".into()),
        dialect: Some("openai".into()),
        endpoint: Some("chat.completions".into()),
        stream: true,
        model: Some("gpt-5.2".into()),
        http_status: 402,
        tools_offered: 1,
        hold: Some(Money(2_600_000_000_000_000)),
        available: Some(Money(-1)),
        catalogue_revision: 12,
        retry_of: Some(CallId(8)),
        count: 60,
        rules: Vec::new(),
    }
}

fn declared_budget() -> Budget {
    let mut budget = testing::hard("month", "500");
    budget.matches.insert(Dimension::Environment, "prod".into());
    budget.anchor = Some("2026-11-15".into());
    budget.notify = vec!["finops".into()];
    budget
}

fn staged(body: Body) -> Body {
    Body::Staged(Box::new(body))
}

fn apply(step: ApplyStep, openings: Vec<BudgetOpening>) -> Body {
    Body::Apply(Box::new(Apply { actor: "file".into(), step, first: 4, count: 3, sha256: [6; 32], openings }))
}

fn catalogue(change: Change) -> Body {
    Body::Catalogue { actor: "operator:ada".into(), change: Box::new(change) }
}

fn allocate(allocation: Allocation) -> Body {
    Body::Allocate { actor: "operator:ada".into(), budget: "month".into(), allocation }
}

/// One body of every kind this version writes, and of every noun; also what is least: nothing optional.
fn samples() -> Vec<(&'static str, Body)> {
    let owner = Owner { id: "payments".into(), kind: OwnerKind::Team, name: None, email: None };
    let mut service = testing::service();
    service.caller_fields = ["run".to_owned(), "workflow".to_owned()].into();
    service.workflows = vec!["dunning*".into()];
    let policy = Policy {
        id: "no-frontier".into(),
        matches: BTreeMap::from([(Dimension::Environment, "test".to_owned())]),
        allow_models: Some(vec!["gpt-5-mini".into()]),
        deny_models: vec!["gpt-5.2*".into()],
        allow_unmetered: true,
        allow_unpriced: false,
        allow_unbounded: true,
        position: 3,
        ..Policy::default()
    };
    let price = PriceOverride {
        provider: "openai".into(),
        model: "own".into(),
        component: Component::OutputTokens,
        usd: "14.00".into(),
        per: 1_000_000,
        effective_from: Some(testing::NOON),
        note: Some("contract".into()),
    };
    let prices = Change::Price { provider: "openai".into(), model: "own".into(), prices: vec![price] };
    let notify = Notify::legacy("finops".into(), "https://hooks.example/1".into());
    let least = Admit { model: None, price_model: None, ..testing::admit(1, Money::ZERO).admit };
    vec![
        ("admit", Body::Admit(Box::new(full_admit()))),
        ("admit, least", Body::Admit(Box::new(least))),
        ("settle", Body::Settle(Box::new(full_settle()))),
        ("settle, unpriced", Body::Settle(Box::new(testing::settle(None, 5)))),
        ("settle, interrupted outcome", {
            let outcome = Outcome::Interrupted;
            let (usage_basis, cost_basis) = (UsageBasis::Estimated, CostBasis::Estimated);
            Body::Settle(Box::new(Settle { outcome, usage_basis, cost_basis, ..full_settle() }))
        }),
        ("deny", Body::Deny(Box::new(full_deny()))),
        ("batch", Body::Batch { vendor_id: "resp_1".into(), state: "in_progress".into() }),
        ("organisation", catalogue(Change::Organisation(Organisation::default()))),
        ("owner", catalogue(Change::Owner("payments".into(), Some(owner)))),
        ("owner removed", catalogue(Change::Owner("payments".into(), None))),
        ("service", catalogue(Change::Service("svc".into(), Some(service)))),
        ("key", catalogue(Change::Key(testing::KEY.into(), Some(testing::key())))),
        ("provider", catalogue(Change::Provider("openai".into(), Some(testing::provider())))),
        ("policy", catalogue(Change::Policy("no-frontier".into(), Some(policy)))),
        ("notify", catalogue(Change::Notify("finops".into(), Some(notify)))),
        ("price", Body::Price { actor: "file".into(), change: Box::new(prices) }),
        (
            "budget",
            Body::Budget {
                actor: "file".into(),
                id: "month".into(),
                budget: Some(Box::new(declared_budget())),
                opening: vec![Opening { period: "2026-11-15/P1M@UTC".into(), posted: -5 }],
            },
        ),
        ("budget removed", Body::Budget { actor: "file".into(), id: "month".into(), budget: None, opening: vec![] }),
        ("admin", Body::Admin { actor: "operator:ada".into(), action: "sign-in".into(), subject: None }),
        ("gap", Body::Gap { reason: "clock_jump".into(), count: 3, quotes: Some("a checkpoint".into()) }),
        ("interrupted", Body::Interrupted { cost: Some(Money(1)) }),
        ("interrupted, unknown", Body::Interrupted { cost: None }),
        ("overrun", Body::Overrun { excess: Money(7), budgets: vec!["month".into()] }),
        (
            "alert",
            Body::Alert(Alert {
                budget: "month".into(),
                period: "2026-11@UTC".into(),
                kind: "actual".into(),
                threshold: Some(90),
                ..Alert::default()
            }),
        ),
        ("snapshot", Body::Snapshot { month: "2026-11".into(), sha256: [9; 32], bytes: 70_000 }),
        ("of a later version", Body::Unknown { kind: 77, bytes: vec![0xa1, 0x00, 0x01] }),
        (
            "key",
            Body::Key {
                purpose: "checkpoint".into(),
                vkey: "acme/weighbridge/u/0+ab+AQ==".into(),
                actor: "setup".into(),
            },
        ),
        ("cut off", Body::CutOff { epoch: 0, admit: 4_711, cost: Some(Money(1)) }),
        ("key, staged", staged(catalogue(Change::Key(testing::KEY.into(), Some(testing::key()))))),
        ("budget, staged", {
            let (actor, id, opening) = ("file".into(), "month".into(), vec![]);
            staged(Body::Budget { actor, id, budget: Some(Box::new(declared_budget())), opening })
        }),
        ("price removed, staged", {
            let change = Change::Price { provider: "openai".into(), model: "own".into(), prices: vec![] };
            staged(Body::Price { actor: "file".into(), change: Box::new(change) })
        }),
        ("openings of what is staged", {
            let (budget, period) = ("month".into(), "2026-11@UTC".into());
            apply(ApplyStep::Openings, vec![BudgetOpening { budget, period, posted: 5 }])
        }),
        ("effect of what is staged", apply(ApplyStep::Effect, vec![])),
        ("what was staged is dropped", apply(ApplyStep::Dropped, vec![])),
        ("extend", {
            let hold = BudgetHold { budget: "month".into(), period: "2026-11@UTC".into(), amount: 9 };
            Body::Extend { holds: vec![hold], cost: Money::ZERO, tokens: 0 }
        }),
        ("extend ahead of a stream", {
            let hold = BudgetHold { budget: "month".into(), period: "2026-11@UTC".into(), amount: 9 };
            Body::Extend { holds: vec![hold], cost: Money(9), tokens: 512 }
        }),
        ("budget with all it can say", {
            let mut budget = declared_budget();
            budget.parent = Some("all".into());
            (budget.reservation, budget.rollover) = (Reservation::Expected, Rollover::Overage);
            budget.on_midstream_exceed = Some(MidstreamExceed::Cut);
            (budget.grace_pct, budget.forecast_alert) = (Some(10), true);
            let (actor, id, budget) = ("file".into(), "month".into(), Some(Box::new(budget)));
            Body::Budget { actor, id, budget, opening: vec![] }
        }),
        ("raise", {
            let until = Some(testing::NOON);
            allocate(Allocation { kind: AllocationKind::Raise, amount: 7, period: None, until })
        }),
        ("reset", {
            let period = Some("2026-11@UTC".into());
            allocate(Allocation { kind: AllocationKind::Reset, amount: 7, period, until: None })
        }),
        ("alert, told", Body::Alert(told_alert())),
        ("alert, easing", {
            let stage = Some(AlertStage::Easing);
            let (budget, period, kind) = ("month".into(), "2026-11@UTC".into(), "forecast".into());
            Body::Alert(Alert { budget, period, kind, stage, ..Alert::default() })
        }),
        ("alert, nowhere to go", {
            let (kind, subject, due) = ("key_expiry".into(), Some(testing::KEY.into()), Some(testing::NOON));
            Body::Alert(Alert { kind, subject, due, threshold: Some(7), unrouted: true, ..Alert::default() })
        }),
        ("delivery", Body::Delivery(Box::new(delivery()))),
        ("delivery, least", Body::Delivery(Box::new(Delivery::of(DeliveryStep::Acknowledged)))),
        ("notify of all it can say", {
            let quiet = Some(Quiet { from: 1_320, to: 420, zone: Some("Europe/Berlin".into()) });
            let plain = Notify::legacy("mail".into(), String::new());
            let (kind, host, transport) =
                (ChannelKind::Email, "smtp.example:587".to_owned(), crate::domain::notify::Transport::StartTls);
            let whole = Notify { kind, host, transport, quiet, default: true, internal: true, webhook: None, ..plain };
            catalogue(Change::Notify("mail".into(), Some(Notify { refusals_wake: false, ..whole })))
        }),
    ]
}

fn route(owner: Option<&str>) -> Route {
    Route { channel: "mail".into(), owner: owner.map(str::to_owned) }
}

fn told_alert() -> Alert {
    Alert {
        budget: "month".into(),
        period: "2026-11@UTC".into(),
        kind: "forecast".into(),
        used: Some(50),
        limit: Some(100),
        foreseen: Some(120),
        routes: vec![route(Some("payments")), route(None)],
        ..Alert::default()
    }
}

fn delivery() -> Delivery {
    Delivery {
        route: route(Some("payments")),
        alerts: vec![AlertId { at: testing::NOON, seq: 39 }],
        message: Some("gr-1".into()),
        attempt: 2,
        next_at: Some(testing::NOON),
        to: Some(route(None)),
        detail: Some("answered 503".into()),
        actor: Some("operator:ada".into()),
        ..Delivery::of(DeliveryStep::Moved)
    }
}

fn erasable() -> Erasable {
    Erasable {
        network: Some(Network {
            peer: Some("192.0.2.7:50123".into()),
            user_agent: Some("openai-python/2.8".into()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            parent_id: None,
        }),
        person: Some(Person {
            claimed: BTreeMap::from([("user".into(), "u-1".into()), ("b".into(), "short keys first".into())]),
            reason: Some("asked for by audit".into()),
        }),
        content: Some(Content { body: Some([3; 32]) }),
        vendor_usage: Some(r#"{"prompt_tokens":5}"#.into()),
    }
}

#[test]
fn every_body_comes_back_as_it_was() {
    for (name, body) in samples() {
        let bytes = encode_body(&body);
        assert_eq!(decode_body(kind_of(&body), &bytes).as_ref(), Ok(&body), "{name}");
        let mut reader = Reader::new(&bytes);
        reader.skip().unwrap();
        reader.finish().unwrap();
    }
    let groups = encode_groups(&erasable());
    let borrowed: Vec<_> = groups.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    assert_eq!(decode_groups(&borrowed), Ok(erasable()));
    assert_eq!(decode_groups(&borrowed[2..]).unwrap().person, None, "erased is absent");
    assert_eq!(decode_groups(&[borrowed[0], borrowed[0]]), Err(CodecError::Group(1)));
}

/// The evidence of what the format is: a change that breaks old journals fails here. The file is written anew only by
/// `WEIGHBRIDGE_BLESS=1`, and only new lines may be added to it.
#[test]
fn entries_have_the_bytes_of_the_golden_file() {
    let salt: [u8; 16] = std::array::from_fn(|i| i as u8);
    let mut golden = String::new();
    for (seq, (name, body)) in (0u64..).zip(samples()) {
        let group_0 = encode_body(&body);
        let mut groups = if name == "settle" { encode_groups(&erasable()) } else { Vec::new() };
        groups.insert(0, (0, group_0));
        let commitments = groups.iter().map(|(n, bytes)| (*n, commitment(*n, &salt, bytes))).collect();
        let reference = matches!(body, Body::Settle(_) | Body::Interrupted { .. }).then_some(0);
        let (ts, kind) = (testing::NOON, kind_of(&body));
        let leaf = Leaf { seq, ts, kind, reference, commitments }.encode();
        let shown = describe(&Entry { seq, ts, reference, body });
        let groups: BTreeMap<_, _> = groups.iter().map(|(n, bytes)| (n.to_string(), HEXLOWER.encode(bytes))).collect();
        let line = json!({
            "name": name, "entry": shown, "groups": groups, "leaf": HEXLOWER.encode(&leaf),
            "leaf_hash": HEXLOWER.encode(&leaf_hash(&leaf)),
        });
        writeln!(golden, "{line}").unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger/entries.jsonl");
    if std::env::var_os("WEIGHBRIDGE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &golden).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    for (ours, theirs) in golden.lines().zip(kept.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(golden.lines().count(), kept.lines().count());
}

#[test]
fn every_kind_that_is_written_is_in_the_golden_file() {
    let written: std::collections::BTreeSet<u64> = samples().iter().map(|(_, b)| kind_of(b)).collect();
    for kind in Kind::ALL {
        let unknown = matches!(decode_body(*kind as u64, &[0xa0]), Ok(Body::Unknown { .. }));
        assert_ne!(unknown, written.contains(&(*kind as u64)), "{kind:?}");
    }
}

#[test]
fn what_is_absent_may_not_be_written_out() {
    assert!(decode_body(19, &[0xa3, 0x00, 0x61, b'x', 0x01, 0x00, 0x02, 0xf6]).is_err(), "null for absent");
    assert!(decode_body(22, &[0xa2, 0x00, 0x00, 0x01, 0x80]).is_err(), "an empty list");
    assert_eq!(decode_body(22, &[0xa1, 0x00, 0x00]).unwrap(), Body::Overrun { excess: Money(0), budgets: vec![] });
    let later = [0xa3, 0x00, 0x61, b'x', 0x01, 0x61, b'y', 0x02, 0x00];
    assert_eq!(decode_body(5, &later), Err(CodecError::UnknownKey { record: "a BATCH", key: 2 }));
    assert_eq!(decode_body(5, &[0xa0]), Err(CodecError::Missing { record: "a BATCH", field: "vendor_id" }));
    assert!(decode_body(77, &vec![0; MAX_ENTRY_BYTES + 1]).is_err(), "too long");
}

proptest! {
    #[test]
    fn spoiled_bytes_never_panic_and_never_have_two_meanings(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<bool>(),
    ) {
        let samples = samples();
        let (_, body) = which.get(&samples);
        let mut bytes = encode_body(body);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        if let Ok(read) = decode_body(kind_of(body), &bytes) {
            prop_assert_eq!(encode_body(&read), bytes);
        }
    }

    #[test]
    fn any_bytes_of_any_kind_never_panic(kind in 0u64..40, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_body(kind, &bytes);
        let _ = decode_groups(&[(kind as u8, &bytes)]);
        let _ = Leaf::decode(&bytes);
    }

    #[test]
    fn random_settlements_come_back(
        cost in any::<Option<i128>>(), quantity in any::<u64>(), text in any::<Option<String>>(),
        names in proptest::collection::vec(".*", 0..5), number in 0u8..24, ms in any::<Option<u32>>(),
    ) {
        let component = Component::from_number(number).unwrap();
        let settle = Settle {
            cost: cost.map(Money),
            usage: Usage::new().with(component, quantity),
            finish_reason: text,
            tool_names: names,
            first_byte_ms: ms,
            ..full_settle()
        };
        let body = Body::Settle(Box::new(settle));
        prop_assert_eq!(decode_body(2, &encode_body(&body)).unwrap(), body);
    }
}
