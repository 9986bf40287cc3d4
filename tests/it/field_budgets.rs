//! Where the users of other gateways were hurt by budgets: each complaint a test by name. `line N` is the line of the
//! project's collection of complaints; lines that cannot happen here say why.
//!
//! Not here: line 9 (each replica its own counter) and 86 need more than one writer, of which there is none; lines 90 to 92
//! (totals in the viewer's zone) are of reports, whose days are the organisation's for every viewer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use weighbridge::domain::{
    Budget, Change, Component, Dimension, Enforcement, Limit, Metric, Micros, Money, Outcome, PeriodKind,
    PriceOverride, Reservation,
};
use weighbridge::ledger::entry::Body;
use weighbridge::ledger::request::{Allocate, Reply, Request};
use weighbridge::store::clock::SetClock;
use weighbridge::store::{Durability, Ledger, Options, Standing};

use crate::support::client::{Answer, read_until};
use crate::support::upstream::{self, Step, chunk, events_head, last_chunk};
use crate::support::{
    Client, MODEL, Setup, TestApp, chat_answer, chat_events, chat_request, declare, hard_budget, server, service,
};

const CHAT: &str = "/openai/v1/chat/completions";

fn usd(text: &str) -> i128 {
    text.parse::<Money>().unwrap().0
}

fn hard(id: &str, metric: Metric, amount: i128, period: PeriodKind) -> Budget {
    let thresholds = vec![50, 75, 90, 100];
    Budget {
        enforcement: Enforcement::Hard,
        alert_at_percent: thresholds,
        ..Budget::plain(id, Limit { metric, amount }, period)
    }
}

fn change(budget: Budget) -> Change {
    Change::Budget(budget.id.clone(), Some(budget))
}

async fn start(budgets: Vec<Budget>) -> TestApp {
    let changes = budgets.into_iter().map(change).collect();
    TestApp::with(Setup { changes, ..Setup::default() }).await
}

/// The same at an instant that stands still.
async fn start_at(at: &str, budgets: Vec<Budget>) -> (TestApp, Arc<SetClock>) {
    let clock = Arc::new(SetClock::new(at.parse().unwrap()));
    let options = Options { durability: Durability::Strict, clock: clock.clone() };
    let ledger = Ledger::open_in_memory(options).unwrap();
    let changes = budgets.into_iter().map(change).collect();
    (TestApp::on(ledger, Setup { changes, ..Setup::default() }).await, clock)
}

fn standing(app: &TestApp, budget: &str) -> Standing {
    app.ledger().standing(budget, app.ledger().clock().now()).unwrap()
}

/// A short question whose answer is bounded: it holds a little more than it costs.
fn bounded() -> String {
    chat_request(r#","max_tokens":100"#)
}

async fn ask(app: &TestApp) -> Answer {
    app.client().post(CHAT, &bounded()).await
}

/// What [`bounded`] holds.
async fn hold() -> i128 {
    let app = TestApp::start().await;
    let answer = ask(&app).await;
    app.settled(&answer).await.hold.0
}

fn is_refused(answer: &Answer, by: &str) -> bool {
    (answer.status, answer.header("wb-deny"), answer.header("wb-budget")) == (402, Some("budget_exceeded"), Some(by))
}

/// All entries of the journal, as bodies.
fn bodies(app: &TestApp) -> Vec<Body> {
    app.ledger().entries(0, 10_000).unwrap().into_iter().map(|(entry, _)| entry.body).collect()
}

// 2.1 Caps that do not hold.

/// Lines 1, 3, 11 and 16: many calls at once pass a cap before the first is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_under_concurrent_calls() {
    let hold = hold().await;
    let app = start(vec![hard("cap", Metric::Usd, hold * 5 + hold / 2, PeriodKind::Month)]).await;
    let go = Arc::new(Notify::new());
    let mut steps = vec![Step::Wait(go.clone())];
    steps.extend(upstream::json(&chat_answer(10, 5)));
    app.upstream.always(steps);
    let callers: Vec<_> = (0..40)
        .map(|_| {
            let client = app.client();
            tokio::spawn(async move { client.post(CHAT, &bounded()).await })
        })
        .collect();
    while callers.iter().filter(|c| c.is_finished()).count() + app.upstream.seen().len() < 40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.upstream.seen().len(), 5);
    let mut passed = 0;
    for caller in callers {
        go.notify_waiters();
        let answer = caller.await.unwrap();
        passed += usize::from(answer.status == 200);
        assert!(answer.status == 200 || is_refused(&answer, "cap"), "{}", answer.text());
    }
    assert_eq!(passed, 5);
}

/// Line 2: a key keeps working after its budget is used up.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_stops_working_when_its_budget_is_used_up() {
    let app = TestApp::start().await;
    let matches = [(Dimension::Credential, app.key[..16].to_owned())].into();
    let of_key = Budget { matches, ..hard("key", Metric::Calls, 2, PeriodKind::Month) };
    declare(app.ledger(), vec![change(of_key)]).await;
    assert_eq!([ask(&app).await.status, ask(&app).await.status], [200, 200]);
    assert!(is_refused(&ask(&app).await, "key"));
}

/// Line 4: the first calls of somebody new, at once, all pass the default budget.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_calls_of_somebody_new_share_one_budget() {
    let app = start(vec![hard("all", Metric::Calls, 3, PeriodKind::Day)]).await;
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let client = app.client();
            let run = format!("wb-run: new-{n}\r\n");
            tokio::spawn(async move { client.post_with(CHAT, &run, bounded().as_bytes()).await.status })
        })
        .collect();
    let mut passed = 0;
    for caller in callers {
        passed += usize::from(caller.await.unwrap() == 200);
    }
    assert_eq!(passed, 3);
}

/// Line 5: a cap is passed once a shared counter's time to live has run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_however_long_nobody_called() {
    let (app, clock) = start_at("2026-11-02T00:00:00Z", vec![hard("cap", Metric::Calls, 1, PeriodKind::Month)]).await;
    assert_eq!(ask(&app).await.status, 200);
    for at in ["2026-11-02T00:01:01Z", "2026-11-02T13:00:00Z", "2026-11-30T23:59:59Z"] {
        clock.set(at.parse().unwrap());
        assert!(is_refused(&ask(&app).await, "cap"), "{at}");
    }
}

/// Lines 6 and 94: a cap on whom a header names is not checked, or the caller picks another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_on_what_a_header_says_is_checked_and_the_header_cannot_be_left_out() {
    let mut named = service("svc", &["run"]);
    named.mandatory_fields = ["run".to_owned()].into();
    let matches = [(Dimension::Service, "svc".to_owned()), (Dimension::Run, "*".to_owned())].into();
    let runs = Budget { matches, ..hard("runs", Metric::Calls, 1, PeriodKind::Day) };
    let app = TestApp::start().await;
    declare(app.ledger(), vec![Change::Service("svc".into(), Some(named)), change(runs)]).await;
    let with = |run: &'static str| {
        let client = app.client();
        async move { client.post_with(CHAT, run, bounded().as_bytes()).await }
    };
    assert_eq!(with("wb-run: r-1\r\n").await.status, 200);
    assert!(is_refused(&with("wb-run: r-2\r\n").await, "runs"));
    for said in ["", "wb-run: not a run\r\n"] {
        let answer = with(said).await;
        assert_eq!((answer.status, answer.header("wb-deny")), (403, Some("policy_denied")));
        assert!(answer.text().contains("must say its run"), "{}", answer.text());
    }
    let last = app.calls().remove(0);
    assert_eq!(last.refusal.unwrap().1.as_deref(), Some("service:svc"));
}

/// Lines 7 and 8: pass-through routes ignore budgets.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_metered_does_not_escape_a_budget() {
    let app = start(vec![hard("cap", Metric::Usd, usd("100"), PeriodKind::Month)]).await;
    let answer = app.client().post("/openai/v1/something/new", "{}").await;
    assert_eq!((answer.status, answer.header("wb-deny")), (403, Some("unmetered_path")));
    assert!(app.upstream.seen().is_empty());
}

/// Line 10: a budget's field that a version does not know is ignored in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_a_budget_that_nobody_knows_is_refused() {
    let mut server = server();
    server.operator_token = Some("an-operator-token-for-tests".into());
    let app = TestApp::with(Setup { server, ..Setup::default() }).await;
    let admin = Client { addr: app.app.web_addr, key: "an-operator-token-for-tests".into() };
    let body = json!({ "id": "b", "period": "day", "limit_usd": "1", "max_budget": "1" });
    let answer = admin.post("/api/v1/budgets", &body.to_string()).await;
    assert!(answer.status == 422 || answer.status == 400, "{}", answer.status);
    assert!(answer.text().contains("max_budget"), "{}", answer.text());
    assert!(app.ledger().catalogue().budgets.is_empty());
}

/// Line 12: the header that says what is left never goes down.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_goes_down_with_every_call() {
    let app = start(vec![hard("cap", Metric::Usd, usd("1"), PeriodKind::Month)]).await;
    let mut before = usd("1");
    for _ in 0..3 {
        let left = usd(ask(&app).await.header("wb-budget-remaining-usd").unwrap());
        assert!(left < before, "{left} is not less than {before}");
        before = left;
    }
}

/// Line 13: a token quota is charged one per request.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_cap_counts_tokens() {
    let app = start(vec![hard("tokens", Metric::Tokens, 1_000, PeriodKind::Month)]).await;
    app.upstream.always(upstream::json(&chat_answer(300, 150)));
    assert_eq!([ask(&app).await.status, ask(&app).await.status], [200, 200]);
    assert_eq!(standing(&app, "tokens").posted, 900);
    assert!(is_refused(&ask(&app).await, "tokens"));
}

/// Line 14: a fresh installation accrues nothing, so its blocking budgets never block.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_installation_counts_from_its_first_call() {
    let app = start(vec![hard("cap", Metric::Usd, usd("1"), PeriodKind::Month)]).await;
    ask(&app).await;
    assert_eq!(standing(&app, "cap").posted, usd("0.00002"));
}

/// Line 15: a cap of zero is taken for no cap.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_of_zero_lets_nothing_pass_that_costs() {
    for metric in [Metric::Usd, Metric::Tokens, Metric::Calls] {
        let app = start(vec![hard("zero", metric, 0, PeriodKind::Month)]).await;
        assert!(is_refused(&ask(&app).await, "zero"), "{metric:?}");
        assert!(app.upstream.seen().is_empty());
    }
}

// 2.2 Caps that block the innocent.

/// Lines 17, 20, 21 and 23: holds of calls that failed, hung up or never began stay, until everybody is blocked.
#[tokio::test(flavor = "multi_thread")]
async fn every_hold_ends_with_its_call_however_it_ends() {
    let app = start(vec![hard("cap", Metric::Usd, usd("1"), PeriodKind::Month)]).await;
    let events = chat_events(None);
    let begun = |then: Vec<Step>| [vec![events_head(), Step::Send(chunk(events[0].as_bytes()))], then].concat();
    for steps in [
        upstream::answer("500 Internal Server Error", "application/json", "", b"{}"),
        upstream::answer("429 Too Many Requests", "application/json", "", b"{}"),
        upstream::answer("200 OK", "text/html", "", b"<html>"),
        vec![Step::Break],
        begun(vec![Step::Break]),
        begun(vec![last_chunk()]),
    ] {
        app.upstream.next(steps);
        app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
        app.quiet().await;
        assert_eq!((standing(&app, "cap").held, standing(&app, "cap").open_holds), (0, 0));
    }
    // A caller who hangs up inside a stream.
    app.upstream.next(begun(vec![Step::Hang]));
    let (client, request) = (app.client(), chat_request(r#","stream":true"#));
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, b"Hello").await;
    drop(stream);
    app.quiet().await;
    // Paths that cost nothing hold nothing.
    for _ in 0..5 {
        app.client().get("/openai/v1/models").await;
    }
    assert_eq!((standing(&app, "cap").held, standing(&app, "cap").open_holds), (0, 0));
    assert_eq!(ask(&app).await.status, 200);
}

/// Lines 18, 19 and 22: the counter says more, or less, than what is on record.
#[tokio::test(flavor = "multi_thread")]
async fn the_counter_is_what_is_on_record() {
    let app = start(vec![hard("cap", Metric::Usd, usd("10"), PeriodKind::Month)]).await;
    for n in 0..12u64 {
        match n % 4 {
            0 => app.upstream.next(upstream::json(&chat_answer(100 * n, 50))),
            1 => app.upstream.next(upstream::events(&chat_events(Some((10 + n, 3))))),
            2 => app.upstream.next(upstream::answer("500 Oops", "application/json", "", b"{}")),
            // Broken off: what had passed is counted, posted, and not given back.
            _ => app.upstream.next(vec![
                events_head(),
                Step::Send(chunk(chat_events(None)[0].as_bytes())),
                Step::Sleep(Duration::from_millis(20)),
                Step::Break,
            ]),
        }
        let stream = if n % 2 == 1 { r#","stream":true"# } else { "" };
        app.client().post(CHAT, &chat_request(stream)).await;
    }
    app.quiet().await;
    let calls = app.calls();
    let broken = calls.iter().filter(|c| c.stream && c.outcome == Outcome::Failed);
    assert!(broken.clone().count() == 3 && broken.into_iter().all(|c| !c.cost.unwrap().is_zero()));
    let sum: Money = calls.iter().map(|c| c.cost.unwrap()).sum();
    assert_eq!((standing(&app, "cap").posted, standing(&app, "cap").held), (sum.0, 0));
}

/// Line 24: a price typed per million instead of per token blocks everybody, and only deleting rows helps.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_typed_wrong_is_mended_by_another_and_a_reset_and_nothing_is_deleted() {
    let app = start(vec![hard("cap", Metric::Usd, usd("20"), PeriodKind::Month)]).await;
    let price = |component, usd: &str| PriceOverride {
        provider: "openai".into(),
        model: MODEL.into(),
        component,
        usd: usd.into(),
        per: 1_000_000,
        effective_from: None,
        note: None,
    };
    let prices = |output: &str| Change::Price {
        provider: "openai".into(),
        model: MODEL.into(),
        prices: vec![price(Component::InputTokens, "1"), price(Component::OutputTokens, output)],
    };
    declare(app.ledger(), vec![prices("100000")]).await;
    assert_eq!(ask(&app).await.status, 200);
    app.upstream.always(upstream::json(&chat_answer(10, 99)));
    ask(&app).await;
    assert!(is_refused(&ask(&app).await, "cap"));
    declare(app.ledger(), vec![prices("2")]).await;
    let (actor, reason) = ("operator:ada".to_owned(), Some("a price was wrong".to_owned()));
    let reset = Request::Allocate { actor, budget: "cap".into(), what: Allocate::Reset, reason };
    assert!(matches!(app.ledger().submit(reset).await.unwrap(), Reply::Recorded { .. }));
    let posted = standing(&app, "cap").posted;
    assert!(posted > 0, "what was posted is on record");
    assert_eq!(ask(&app).await.status, 200);
    assert_eq!(standing(&app, "cap").posted - posted, usd("0.000208"));
}

/// Line 25: a budget refuses although there is none.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_none_refuses() {
    let other = Budget {
        matches: [(Dimension::Service, "other".to_owned())].into(),
        ..hard("other", Metric::Calls, 0, PeriodKind::Month)
    };
    let app = start(vec![other]).await;
    assert_eq!(ask(&app).await.status, 200);
}

/// Line 26: models that cost nothing are blocked once a money budget is used up.
#[tokio::test(flavor = "multi_thread")]
async fn models_that_cost_nothing_stay_usable_when_the_money_is_gone() {
    let app = start(vec![hard("cap", Metric::Usd, 1, PeriodKind::Month)]).await;
    assert!(is_refused(&ask(&app).await, "cap"));
    let free = |component| PriceOverride {
        provider: "openai".into(),
        model: "own-model".into(),
        component,
        usd: "0".into(),
        per: 1_000_000,
        effective_from: None,
        note: None,
    };
    let prices = vec![free(Component::InputTokens), free(Component::OutputTokens)];
    let change = Change::Price { provider: "openai".into(), model: "own-model".into(), prices };
    declare(app.ledger(), vec![change]).await;
    app.upstream.always(upstream::json(&chat_answer(10, 5).replace(MODEL, "own-model")));
    let answer = app.client().post(CHAT, &bounded().replace(MODEL, "own-model")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(app.settled(&answer).await.cost, Some(Money::ZERO));
}

/// Line 27: a token limit makes `max_tokens` mandatory. Here the bound is written into the request where it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_cap_does_not_make_max_tokens_mandatory() {
    let app = start(vec![hard("tokens", Metric::Tokens, 1_000, PeriodKind::Month)]).await;
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let limit: u64 = answer.header("wb-output-limit").unwrap().parse().unwrap();
    let sent: Value = serde_json::from_slice(&app.upstream.seen()[0].body).unwrap();
    let cap = sent.get("max_completion_tokens").or(sent.get("max_tokens")).and_then(Value::as_u64);
    assert_eq!(cap, Some(limit));
    assert!((256..1_000).contains(&limit), "{limit}");
}

// 2.9 Time and resets.

/// Line 89: windows reset one UTC offset late.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_resets_at_midnight_of_its_own_zone_and_a_refusal_says_so() {
    let day = Budget { time_zone: "Asia/Kolkata".into(), ..hard("day", Metric::Calls, 1, PeriodKind::Day) };
    let (app, clock) = start_at("2026-11-23T03:00:00Z", vec![day]).await;
    assert_eq!(ask(&app).await.status, 200);
    let refused = ask(&app).await;
    assert!(is_refused(&refused, "day"));
    let resets: Micros = refused.header("wb-budget-resets-at").unwrap().parse().unwrap();
    assert_eq!(resets, "2026-11-23T18:30:00Z".parse().unwrap());
    clock.set(Micros(resets.0 - 1));
    assert!(is_refused(&ask(&app).await, "day"), "a microsecond before");
    clock.set(resets);
    assert_eq!(ask(&app).await.status, 200, "at the stated instant");
}

/// Line 93: a new customer's budget is reset within minutes, wiping what was really spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_budget_is_not_reset_within_minutes() {
    let (app, clock) = start_at("2026-11-23T10:00:00Z", vec![]).await;
    ask(&app).await;
    declare(app.ledger(), vec![change(hard("new", Metric::Calls, 3, PeriodKind::Month))]).await;
    for (minute, status) in [(1, 200), (5, 200), (10, 200), (20, 402), (50, 402)] {
        clock.set(Micros("2026-11-23T10:00:00Z".parse::<Micros>().unwrap().0 + minute * 60_000_000));
        assert_eq!(ask(&app).await.status, status, "minute {minute}");
    }
    assert_eq!(standing(&app, "new").posted, 3);
}

/// Line 93: a window that was shortened keeps its old date for a week.
#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_window_is_in_force_at_once() {
    let (app, clock) = start_at("2026-11-23T10:00:00Z", vec![hard("w", Metric::Calls, 1, PeriodKind::Month)]).await;
    ask(&app).await;
    assert!(is_refused(&ask(&app).await, "w"));
    declare(app.ledger(), vec![change(hard("w", Metric::Calls, 1, PeriodKind::Hour))]).await;
    clock.set("2026-11-23T11:00:00Z".parse().unwrap());
    assert_eq!(ask(&app).await.status, 200);
    let refused = ask(&app).await;
    let resets: Micros = refused.header("wb-budget-resets-at").unwrap().parse().unwrap();
    assert_eq!(resets, "2026-11-23T12:00:00Z".parse().unwrap());
}

/// Line 93: a budget never resets.
#[tokio::test(flavor = "multi_thread")]
async fn every_window_resets_and_a_total_never_does() {
    let windows = [
        (PeriodKind::Minute, "2026-11-23T10:01:00Z"),
        (PeriodKind::Hour, "2026-11-23T11:00:00Z"),
        (PeriodKind::Day, "2026-11-24T00:00:00Z"),
        (PeriodKind::Week, "2026-11-30T00:00:00Z"),
        (PeriodKind::Month, "2026-12-01T00:00:00Z"),
        (PeriodKind::Quarter, "2027-01-01T00:00:00Z"),
        (PeriodKind::Year, "2027-01-01T00:00:00Z"),
    ];
    for (period, next) in windows {
        let (app, clock) = start_at("2026-11-23T10:00:30Z", vec![hard("w", Metric::Calls, 1, period)]).await;
        ask(&app).await;
        let next: Micros = next.parse().unwrap();
        clock.set(Micros(next.0 - 1));
        assert!(is_refused(&ask(&app).await, "w"), "{period:?}");
        clock.set(next);
        assert_eq!(ask(&app).await.status, 200, "{period:?}");
    }
    let (app, clock) = start_at("2026-11-23T10:00:30Z", vec![hard("w", Metric::Calls, 1, PeriodKind::Total)]).await;
    ask(&app).await;
    clock.set("2046-11-23T10:00:30Z".parse().unwrap());
    let refused = ask(&app).await;
    assert!(is_refused(&refused, "w") && refused.header("wb-budget-resets-at").is_none());
}

// What goes with them.

/// For every hard refusal all lower thresholds stand before it in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn every_lower_threshold_stands_before_a_refusal() {
    let app = start(vec![hard("cap", Metric::Usd, 1, PeriodKind::Month)]).await;
    ask(&app).await;
    ask(&app).await;
    let told: Vec<String> = bodies(&app)
        .iter()
        .filter_map(|body| match body {
            Body::Alert(a) => Some(format!("{} {}", a.kind, a.threshold.unwrap_or(0))),
            Body::Deny(_) => Some("DENY".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["actual 50", "actual 75", "actual 90", "actual 100", "denied 0", "DENY", "DENY"]);
}

/// A long answer of `tokens` pieces of text, one token each or so, with the usage at its end.
fn long_stream(tokens: u64) -> Vec<Step> {
    let piece = |text: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let mut steps = vec![events_head()];
    for _ in 0..tokens / 50 {
        steps.push(Step::Send(chunk(piece(&"word".repeat(50)).as_bytes())));
        steps.push(Step::Sleep(Duration::from_millis(1)));
    }
    let ends = chat_events(Some((10, tokens)));
    steps.extend(ends[2..].iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(last_chunk());
    steps
}

fn expected(limit: &str) -> Budget {
    Budget { reservation: Reservation::Expected, ..hard("cap", Metric::Usd, usd(limit), PeriodKind::Month) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_hold_is_extended_ahead_of_its_stream_and_never_passed() {
    let app = start(vec![expected("0.5")]).await;
    app.upstream.next(long_stream(6_000));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert!(answer.text().contains("[DONE]"), "{}", answer.text().len());
    assert_eq!(answer.header("wb-output-limit"), None, "nothing was written into the request");
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.cost.unwrap().0), (Outcome::Completed, usd("0.01201")));
    let bodies = bodies(&app);
    let extended: Vec<u64> =
        bodies.iter().filter_map(|b| if let Body::Extend { tokens, .. } = b { Some(*tokens) } else { None }).collect();
    assert!(!extended.is_empty() && 4_096 + extended.iter().sum::<u64>() >= 6_000, "{extended:?}");
    assert!(!bodies.iter().any(|b| matches!(b, Body::Overrun { .. })));
    assert_eq!((standing(&app, "cap").posted, standing(&app, "cap").held), (usd("0.01201"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_the_budget_cannot_extend_is_cut_with_the_dialects_error_and_costs_what_passed() {
    let app = start(vec![expected("0.006")]).await;
    app.upstream.next(long_stream(20_000));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert!(answer.whole && text.contains("budget_exceeded") && text.trim_end().ends_with("[DONE]"), "{text}");
    let call = app.settled(&answer).await;
    assert_eq!(call.outcome, Outcome::Cancelled);
    let cap = standing(&app, "cap");
    assert_eq!((cap.posted, cap.held), (call.cost.unwrap().0, 0));
    assert!(cap.posted > usd("0.002") && cap.posted <= usd("0.006"), "{}", cap.posted);
    let told = bodies(&app);
    let denied = told.iter().position(|b| matches!(b, Body::Alert(a) if a.kind == "denied")).unwrap();
    for percent in [50, 75, 90, 100] {
        let lower = told.iter().position(|b| matches!(b, Body::Alert(a) if a.threshold == Some(percent)));
        assert!(lower.is_some_and(|at| at < denied), "{percent}");
    }
    // The provider is let go: it notices at the next piece it sends.
    for _ in 0..500 {
        if app.upstream.hung_up() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the provider was not let go");
}

/// Under saturation at least 95 % of a hard budget is spent before anything is refused: holds shrink as estimates learn.
#[tokio::test(flavor = "multi_thread")]
async fn holds_shrink_as_estimates_learn_and_a_hard_budget_can_be_spent() {
    let app = start(vec![expected("0.2")]).await;
    app.upstream.always(long_stream(300));
    let mut holds = Vec::new();
    let refused = loop {
        let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
        if answer.status != 200 {
            break answer;
        }
        holds.push(app.settled(&answer).await.hold.0);
        assert!(holds.len() < 2_000, "it never fills");
    };
    assert!(is_refused(&refused, "cap"));
    let (first, last) = (holds[0], holds[holds.len() / 2]);
    assert!(last * 5 < first, "{first} at first, {last} later");
    let cap = standing(&app, "cap");
    let percent = cap.posted * 100 / cap.allowance.total();
    println!("{} calls, first hold {first}, then {last}: {percent} % spent before the first refusal", holds.len());
    assert!(percent >= 95, "{percent} %");
}
