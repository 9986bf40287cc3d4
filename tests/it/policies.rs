//! Policies through the front door: each rule with its refusal in the caller's dialect and its place on record, modes,
//! rates, what is changed on the way.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use weighbridge::domain::policy::{Downgrade, Mode, Per, RuleResult, RuleSeen, Unpriced};
use weighbridge::domain::{Change, Code, Component, CostBasis, Environment, Money, Outcome, Policy, PriceOverride};
use weighbridge::ledger::entry::Body;

use crate::support::client::{Answer, read_until};
use crate::support::upstream::{self, Step};
use crate::support::{
    MODEL, Setup, TestApp, chat_answer, chat_events, chat_request, declare, hard_budget, key, message_answer, secret,
};

const CHAT: &str = "/openai/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn policy(id: &str, change: impl FnOnce(&mut Policy)) -> Change {
    let mut policy = Policy { id: id.into(), ..Policy::default() };
    change(&mut policy);
    Change::Policy(id.into(), Some(policy))
}

async fn with(changes: Vec<Change>) -> TestApp {
    TestApp::with(Setup { changes, ..Setup::default() }).await
}

/// The rules on the entry that begins or refuses a call.
async fn rules(app: &TestApp, answer: &Answer) -> Vec<RuleSeen> {
    let call = app.settled(answer).await;
    let (entry, _) = app.ledger().entries(call.seq, 1).unwrap().remove(0);
    match entry.body {
        Body::Admit(admit) => admit.rules,
        Body::Deny(deny) => deny.rules,
        other => panic!("{other:?}"),
    }
}

fn results(rules: &[RuleSeen]) -> Vec<(&str, RuleResult)> {
    rules.iter().map(|r| (r.rule.as_str(), r.result)).collect()
}

fn price(model: &str, component: Component, usd: &str) -> PriceOverride {
    PriceOverride {
        provider: "openai".into(),
        model: model.into(),
        component,
        usd: usd.into(),
        per: 1_000_000,
        effective_from: None,
        note: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_refuses_in_both_dialects_and_stands_on_record() {
    let app = with(vec![]).await;
    let tools = r#","tools":[{"type":"function","function":{"name":"delete_all"}}]"#;
    let anthropic_tools = r#","tools":[{"name":"delete_all","input_schema":{}}]"#;
    type Set = fn(&mut Policy);
    let cases: [(&str, Set); 12] = [
        ("deny_models", |p| p.deny_models = list(&["test-*"])),
        ("allow_models", |p| p.allow_models = Some(list(&["class:top"]))),
        ("allow_endpoints", |p| p.allow_endpoints = Some(list(&["embeddings"]))),
        ("deny_endpoints", |p| p.deny_endpoints = list(&["chat.completions", "messages"])),
        ("deny_tools", |p| p.deny_tools = list(&["delete_*"])),
        ("allow_tools", |p| p.allow_tools = Some(list(&["lookup"]))),
        ("allow_providers", |p| p.allow_providers = Some(list(&["azure"]))),
        ("allow_regions", |p| p.allow_regions = Some(list(&["eu"]))),
        ("deny_networks", |p| p.deny_networks = vec!["127.0.0.0/8".parse().unwrap()]),
        ("require_headers", |p| p.require_headers = ["x-case".to_owned()].into()),
        ("require_owner", |p| p.require_owner = true),
        ("max_input_tokens", |p| p.max_input_tokens = Some(1)),
    ];
    for (rule, set) in cases {
        declare(app.ledger(), vec![policy("p", set)]).await;
        let openai = app.client().post(CHAT, &chat_request(tools)).await;
        let body = format!(
            r#"{{"model":"{MODEL}","max_tokens":50,"messages":[{{"role":"user","content":"Say hello."}}]{anthropic_tools}}}"#
        );
        let anthropic = app.client().post(MESSAGES, &body).await;
        assert_eq!((openai.status, anthropic.status), (403, 403), "{rule}: {}", openai.text());
        assert_eq!(openai.json()["error"]["code"], "policy_denied");
        assert_eq!(anthropic.json()["error"]["type"], "permission_error");
        for answer in [&openai, &anthropic] {
            assert_eq!((answer.header("wb-deny"), answer.header("wb-policy")), (Some("policy_denied"), Some("p")));
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            let seen = rules(&app, answer).await;
            assert_eq!(results(&seen), [(rule, RuleResult::Denied)]);
            let call = app.settled(answer).await;
            assert_eq!(call.refusal, Some((Code::PolicyDenied, Some("policy:p".into()))));
        }
    }
    assert!(app.upstream.seen().is_empty(), "nothing was forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn observe_changes_nothing_and_warn_tells_the_caller_and_both_are_on_record() {
    let app = with(vec![
        policy("watch", |p| {
            p.mode = Mode::Observe;
            p.deny_models = list(&["*"]);
            p.max_output_tokens = Some(5);
        }),
        policy("nudge", |p| {
            p.mode = Mode::Warn;
            p.require_headers = ["x-case".to_owned()].into();
        }),
    ])
    .await;
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("wb-policy-warning"), Some("nudge"));
    assert_eq!(String::from_utf8(app.upstream.last_seen().unwrap().body).unwrap(), chat_request(""));
    // In the order of their positions, which are the same here, and then of their ids.
    assert_eq!(
        results(&rules(&app, &answer).await),
        [
            ("require_headers", RuleResult::Warned),
            ("deny_models", RuleResult::Observed),
            ("max_output_tokens", RuleResult::Observed),
        ]
    );
    let kept = app.client().post_with(CHAT, "x-case: 7\r\n", chat_request("").as_bytes()).await;
    assert_eq!(kept.header("wb-policy-warning"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_capped_in_the_request_and_the_cap_is_on_record() {
    let app = with(vec![policy("p", |p| p.max_output_tokens = Some(300))]).await;
    for (asked, sent) in [("", 300), (r#","max_tokens":5000"#, 300), (r#","max_tokens":20"#, 20)] {
        let answer = app.client().post(CHAT, &chat_request(asked)).await;
        assert_eq!(answer.status, 200);
        let body: serde_json::Value = serde_json::from_slice(&app.upstream.last_seen().unwrap().body).unwrap();
        assert_eq!(body["max_tokens"], sent, "{asked}");
        let call = app.settled(&answer).await;
        assert_eq!(call.output_limit, (sent == 300).then_some(300));
        // 2 USD a million for what can come out at most.
        let input = call.hold.0 - Money::ZERO.0 - i128::from(sent) * "0.000002".parse::<Money>().unwrap().0;
        assert!(input > 0 && input < "0.0001".parse::<Money>().unwrap().0, "{:?}", call.hold);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_end_of_a_budget_a_cheaper_model_is_asked_for_and_priced_as_served() {
    let cheap = vec![price("small", Component::InputTokens, "0.1"), price("small", Component::OutputTokens, "0.2")];
    let app = with(vec![
        hard_budget("month", "0.01"),
        Change::Price { provider: "openai".into(), model: "small".into(), prices: cheap },
        policy("save", |p| p.downgrade = Some(Downgrade { below_percent: 50, to: "small".into() })),
        policy("later", |p| p.deny_models = list(&["tiny"])),
    ])
    .await;
    app.upstream.next(upstream::json(&chat_answer(3_000, 1_500)));
    let first = app.client().post(CHAT, &chat_request(r#","max_tokens":1500"#)).await;
    assert_eq!((first.status, first.header("wb-model-downgraded")), (200, None));
    assert_eq!(app.settled(&first).await.cost, Some("0.006".parse().unwrap()));

    // As the provider words it: with the model it was asked for.
    app.upstream.next(upstream::json(&chat_answer(10, 5).replace(MODEL, "small")));
    let second = app.client().post(CHAT, &chat_request(r#","max_tokens":1500"#)).await;
    assert_eq!(second.header("wb-model-downgraded"), Some("test-model -> small; policy=save; budget=month"));
    let sent = String::from_utf8(app.upstream.last_seen().unwrap().body).unwrap();
    assert_eq!(sent, chat_request(r#","max_tokens":1500"#).replace(MODEL, "small"), "every other byte as it was");
    let call = app.settled(&second).await;
    assert_eq!((call.model_requested.as_deref(), call.model_served.as_deref()), (Some(MODEL), Some("small")));
    assert_eq!(call.cost, Some("0.000002".parse().unwrap()), "10 at 0.1 and 5 at 0.2 USD a million");
    let seen = rules(&app, &second).await;
    assert_eq!(results(&seen), [("deny_models", RuleResult::Allowed), ("downgrade", RuleResult::Changed)]);
    assert_eq!(seen[1].note.as_deref(), Some("test-model → small, 40 % of month left"));
    let (entry, _) = app.ledger().entries(call.seq, 1).unwrap().remove(0);
    let Body::Admit(admit) = entry.body else { panic!() };
    assert_eq!((admit.model.as_deref(), admit.model_sent.as_deref()), (Some(MODEL), Some("small")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheaper_model_that_another_policy_denies_is_not_asked_for() {
    let app = with(vec![
        hard_budget("month", "0.01"),
        policy("save", |p| p.downgrade = Some(Downgrade { below_percent: 100, to: "small".into() })),
        policy("no-small", |p| p.deny_models = list(&["small"])),
    ])
    .await;
    app.upstream.next(upstream::json(&chat_answer(3_000, 1_500)));
    app.settled(&app.client().post(CHAT, &chat_request(r#","max_tokens":1500"#)).await).await;
    let answer = app.client().post(CHAT, &chat_request(r#","max_tokens":1500"#)).await;
    assert_eq!((answer.status, answer.header("wb-policy")), (403, Some("no-small")));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_without_a_price_are_refused_outside_production_and_charged_as_their_family_in_it() {
    let app = with(vec![policy("lab", |p| {
        p.matches = [(weighbridge::domain::Dimension::Environment, "exploratory".to_owned())].into();
        p.unpriced_policy = Some(Unpriced::Allow);
    })])
    .await;
    let of = async |environment: Environment| {
        let secret = secret(environment);
        declare(app.ledger(), vec![Change::Key(secret.id().into(), Some(key(app.ledger(), &secret, "svc")))]).await;
        let mut client = app.client();
        client.key = secret.expose().to_owned();
        client.post(CHAT, &chat_request(r#","max_tokens":100"#).replace(MODEL, "test-unheard-of")).await
    };
    app.upstream.always(upstream::json(&chat_answer(10, 5).replace(MODEL, "test-unheard-of")));
    for environment in [Environment::Pilot, Environment::Test] {
        let answer = of(environment).await;
        assert_eq!((answer.status, answer.header("wb-deny")), (403, Some("model_unpriced")));
        assert_eq!(rules(&app, &answer).await[0].by, format!("environment:{environment}"));
    }
    let free = app.settled(&of(Environment::Exploratory).await).await;
    assert_eq!((free.cost, free.cost_basis), (None, CostBasis::Unpriced));
    // `test-model` is the one of the family that has a price: 1 USD a million in, 2 out.
    let call = app.settled(&of(Environment::Prod).await).await;
    assert_eq!((call.cost, call.cost_basis), (Some("0.00002".parse().unwrap()), CostBasis::Estimated));
    assert_eq!(call.flags, ["priced_as_family_max"]);
    assert!(call.hold > Money::ZERO, "held by it, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_its_rate_is_429_with_retry_after_and_leaves_the_budget_alone() {
    let app = with(vec![hard_budget("month", "1"), policy("rate", |p| p.max_calls_per_minute = Some(2))]).await;
    for _ in 0..2 {
        assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 200);
    }
    app.quiet().await;
    let used = || app.ledger().used("month", app.ledger().clock().now());
    let before = used();
    let openai = app.client().post(CHAT, &chat_request("")).await;
    let anthropic = app.client().post(MESSAGES, &chat_request(r#","max_tokens":10"#)).await;
    assert_eq!((openai.status, anthropic.status), (429, 429), "one key, one rate, whatever the dialect");
    assert_eq!(openai.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(anthropic.json()["error"]["type"], "rate_limit_error");
    for answer in [&openai, &anthropic] {
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        assert_eq!((answer.header("x-should-retry"), answer.header("wb-deny")), (None, Some("rate_limited")));
        assert_eq!(results(&rules(&app, answer).await), [("max_calls_per_minute", RuleResult::Denied)]);
    }
    assert_eq!(used(), before);
    assert_eq!(app.settled(&openai).await.outcome, Outcome::Refused);

    // Another policy changes: what was counted stays. Another key has a rate of its own.
    declare(app.ledger(), vec![policy("other", |p| p.deny_models = list(&["x"]))]).await;
    assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 429);
    let second = secret(Environment::Prod);
    declare(app.ledger(), vec![Change::Key(second.id().into(), Some(key(app.ledger(), &second, "svc")))]).await;
    let mut client = app.client();
    client.key = second.expose().to_owned();
    assert_eq!(client.post(CHAT, &chat_request("")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_beyond_what_was_expected_are_taken_when_the_call_is_settled() {
    let app = with(vec![policy("rate", |p| {
        p.max_tokens_per_minute = Some(2_000);
        p.per = Per::Service;
    })])
    .await;
    app.upstream.always(upstream::json(&chat_answer(50, 1_900)));
    let small = chat_request(r#","max_tokens":100"#);
    assert_eq!(app.client().post(CHAT, &small).await.status, 200);
    app.quiet().await;
    let answer = app.client().post(CHAT, &small).await;
    assert_eq!((answer.status, answer.header("wb-policy")), (429, Some("rate")), "the first used nearly all");
}

/// A request whose answer waits for `go`.
async fn hanging(app: &TestApp, go: &Arc<Notify>) -> tokio::net::TcpStream {
    let mut steps = upstream::events(&chat_events(Some((10, 5))));
    steps.insert(2, Step::Wait(go.clone()));
    app.upstream.next(steps);
    let client = app.client();
    let mut stream = client.connect().await;
    let body = chat_request(r#","stream":true"#);
    stream.write_all(&client.head("POST", CHAT, "", body.len())).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    read_until(&mut stream, b"Hello").await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_back_when_its_caller_hangs_up_and_when_its_call_ends() {
    let app = with(vec![policy("narrow", |p| p.max_concurrent = Some(1))]).await;
    let go = Arc::new(Notify::new());
    let first = hanging(&app, &go).await;
    let refused = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((refused.status, refused.header("wb-policy")), (429, Some("narrow")));
    drop(first);
    app.quiet().await;
    go.notify_waiters();
    let mut status = 429;
    // The place is given back right after the call is settled.
    for _ in 0..200 {
        status = app.client().post(CHAT, &chat_request("")).await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status, 200);
    for _ in 0..3 {
        app.quiet().await;
        assert_ne!(app.client().post(CHAT, &chat_request("")).await.status, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_queue_a_call_waits_for_its_turn_and_is_served() {
    let app = with(vec![policy("narrow", |p| {
        p.max_concurrent = Some(1);
        p.queue_ms = Some(30_000);
    })])
    .await;
    let go = Arc::new(Notify::new());
    let first = hanging(&app, &go).await;
    let client = app.client();
    let waiting = tokio::spawn(async move { client.post(CHAT, &chat_request("")).await });
    // It is not refused while it waits, and it goes once the first has ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_only_warns_lets_pass_and_says_so() {
    let app = with(vec![policy("soft", |p| {
        p.max_calls_per_minute = Some(1);
        p.mode = Mode::Warn;
    })])
    .await;
    assert_eq!(app.client().post(CHAT, &chat_request("")).await.header("wb-policy-warning"), None);
    app.upstream.next(upstream::json(&message_answer(10, 5)));
    let second = app.client().post(MESSAGES, &chat_request(r#","max_tokens":10"#)).await;
    assert_eq!((second.status, second.header("wb-policy-warning")), (200, Some("soft")));
    assert_eq!(results(&rules(&app, &second).await), [("max_calls_per_minute", RuleResult::Warned)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_nothing_about_policies_is_on_record() {
    let app = with(vec![]).await;
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert!(rules(&app, &answer).await.is_empty());
    assert_eq!(answer.header("wb-policy-warning"), None);
}
