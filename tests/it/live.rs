//! What runs now, seen and ended from outside: by the API, by pages, by a pause.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use weighbridge::dialect::tokens;
use weighbridge::domain::{Component, CostBasis, Money, Outcome, UsageBasis};
use weighbridge::ledger::entry::Body;

use crate::support::client::{self, Answer, read_until};
use crate::support::upstream::{self, Step, chunk, events_head, last_chunk};
use crate::support::{Client, MODEL, Setup, TestApp, chat_events, chat_request, hard_budget, server};

const CHAT: &str = "/openai/v1/chat/completions";
const TOKEN: &str = "an-operator-token-for-tests";

/// An app whose admin API takes [`TOKEN`].
async fn start(setup: Setup) -> TestApp {
    let mut server = server();
    server.operator_token = Some(TOKEN.into());
    TestApp::with(Setup { server, ..setup }).await
}

/// A client of the admin API.
fn admin(app: &TestApp) -> Client {
    Client { addr: app.app.web_addr, key: TOKEN.into() }
}

/// A call that has begun to answer: its connection, what came so far, its id.
struct Begun {
    stream: TcpStream,
    head: Vec<u8>,
    id: String,
}

/// Sends a request and reads until `needle` has come.
async fn begin(client: &Client, path: &str, headers: &str, request: &str, needle: &str) -> Begun {
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", path, headers, request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, needle.as_bytes()).await;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let id = text.split("wb-request-id: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap_or_default();
    Begun { id: id.to_owned(), stream, head }
}

impl Begun {
    /// The answer, now that it ends.
    async fn end(mut self) -> Answer {
        let rest = read_until(&mut self.stream, b"\0never\0").await;
        client::parse(&[self.head, rest].concat())
    }
}

/// Two events of a chat stream, and then nothing until it is told to go on.
fn paused_chat(go: &Arc<Notify>) -> Vec<Step> {
    let events = chat_events(Some((10, 5)));
    let mut steps = vec![events_head()];
    steps.extend(events[..2].iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(Step::Wait(go.clone()));
    steps.extend(events[2..].iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(last_chunk());
    steps
}

async fn running(app: &TestApp) -> Value {
    let answer = admin(app).get("/api/v1/calls/running").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn stop(app: &TestApp, id: &str) -> Answer {
    let body = json!({"reason": "runs in circles"}).to_string();
    admin(app).post(&format!("/api/v1/calls/{id}/stop"), &body).await
}

fn usd(text: &str) -> Money {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_call_shows_what_it_has_come_to_and_what_it_holds() {
    let app = start(Setup { changes: vec![hard_budget("all", "5")], ..Setup::default() }).await;
    assert_eq!(running(&app).await["calls"], json!([]));
    let go = Arc::new(Notify::new());
    app.upstream.next(paused_chat(&go));
    let request = chat_request(r#","stream":true,"max_tokens":1000"#);
    let begun = begin(&app.client(), CHAT, "wb-run: r-7\r\n", &request, "how are you?").await;

    let page = running(&app).await;
    let call = &page["calls"][0];
    assert_eq!((&page["running"], &call["id"]), (&json!(1), &json!(begun.id)));
    assert_eq!((&call["service"], &call["run"], &call["outcome"]), (&json!("svc"), &json!("r-7"), &json!("running")));
    assert_eq!((&call["answering"], &call["stopping"], &call["job"]), (&json!(true), &json!(false), &json!(false)));
    // "Hello there, how are you?" has 25 bytes: 7 tokens by their length, at 2 USD a million.
    assert_eq!(call["output_tokens_so_far"], 7);
    let hold = usd(call["hold_usd"].as_str().unwrap());
    let so_far = usd(call["cost_so_far_usd"].as_str().unwrap());
    assert!(so_far >= usd("0.000014") && so_far < hold, "{so_far} of {hold}");
    assert_eq!((&call["cost_so_far_basis"], &call["cost_usd"]), (&json!("estimated"), &Value::Null));
    let others = admin(&app).get("/api/v1/calls/running?service=other").await.json();
    assert_eq!((&others["calls"], &others["running"]), (&json!([]), &json!(1)));

    go.notify_one();
    let answer = begun.end().await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    app.quiet().await;
    assert_eq!(running(&app).await["calls"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_price_has_no_cost_so_far_rather_than_zero() {
    let app = start(Setup::default()).await;
    app.upstream.next(paused_chat(&Arc::default()));
    let request = chat_request(r#","stream":true"#).replace(MODEL, "a-model-nobody-priced");
    let begun = begin(&app.client(), CHAT, "", &request, "how are you?").await;
    let call = running(&app).await["calls"][0].clone();
    assert_eq!((&call["id"], &call["output_tokens_so_far"]), (&json!(begun.id), &json!(7)));
    assert_eq!((&call["cost_so_far_usd"], &call["cost_so_far_basis"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stream_ends_with_the_dialects_error_and_is_settled_with_what_had_passed() {
    let app = start(Setup { changes: vec![hard_budget("all", "5")], ..Setup::default() }).await;
    app.upstream.next(paused_chat(&Arc::default()));
    let request = chat_request(r#","stream":true,"max_tokens":1000"#);
    let begun = begin(&app.client(), CHAT, "", &request, "how are you?").await;
    let id = begun.id.clone();

    let stopped = stop(&app, &id).await;
    assert_eq!(stopped.status, 200, "{}", stopped.text());
    let answer = begun.end().await;
    assert!(answer.whole, "the body ends as its framing says");
    let events: Vec<String> = answer.text().split("\n\n").map(str::to_owned).collect();
    let error: Value = serde_json::from_str(events[2].trim_start().trim_start_matches("data: ")).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["type"]), (&json!("stopped"), &json!("permission_error")));
    assert_eq!(events[3..], ["data: [DONE]", ""]);
    assert_eq!(app.upstream.hung_up(), 1, "the provider is let go");

    let call = app.call(id.parse().unwrap()).await;
    let output = tokens::count(MODEL, "Hello there, how are you?");
    let input = call.usage.get(Component::InputTokens).unwrap();
    assert_eq!(call.usage.get(Component::OutputTokens), Some(output));
    assert_eq!(call.cost, Some(usd("0.000001").times(input).saturating_add(usd("0.000002").times(output))));
    assert_eq!(
        (call.outcome, call.usage_basis, call.cost_basis),
        (Outcome::Cancelled, UsageBasis::Counted, CostBasis::Estimated)
    );
    assert_eq!(call.flags, ["stopped"]);
    assert_eq!(usd(stopped.json()["cost_usd"].as_str().unwrap()), call.cost.unwrap());
    let balance = app.ledger().balances(app.ledger().clock().now()).remove(0);
    assert_eq!((balance.held, balance.open_holds, Money(balance.posted)), (0, 0, call.cost.unwrap()));

    // Who and why stand in the journal before the settlement, the reason where it can be erased.
    let entries = app.ledger().entries(0, 1_000).unwrap();
    let at = entries
        .iter()
        .position(|(entry, _)| matches!(&entry.body, Body::Admin { action, .. } if action == "call.stop"));
    let (entry, erasable) = &entries[at.expect("an ADMIN entry")];
    let Body::Admin { actor, subject, .. } = &entry.body else { unreachable!() };
    assert_eq!((actor.as_str(), subject.as_deref()), ("token", Some(id.as_str())));
    assert_eq!(erasable.person.as_ref().unwrap().reason.as_deref(), Some("runs in circles"));
    assert!(entry.seq < call.settled_seq.unwrap());

    let again = stop(&app, &id).await;
    assert_eq!((again.status, &again.json()["error"]["code"]), (409, &json!("conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_stopped_before_its_first_byte_gets_an_error_that_no_sdk_repeats() {
    let app = start(Setup::default()).await;
    for steps in [
        vec![Step::Hang],
        vec![
            Step::Send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\":".to_vec(),
            ),
            Step::Hang,
        ],
    ] {
        app.upstream.next(steps);
        let client = app.client();
        let asked = tokio::spawn(async move { client.post(CHAT, &chat_request("")).await });
        let id = loop {
            match running(&app).await["calls"][0]["id"].as_str() {
                Some(id) => break id.to_owned(),
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(stop(&app, &id).await.status, 200);
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, answer.header("wb-deny")), (403, Some("stopped")), "{}", answer.text());
        assert_eq!((answer.header("x-should-retry"), answer.header("retry-after")), (Some("false"), None));
        assert_eq!(answer.header("wb-request-id"), Some(id.as_str()));
        let call = app.settled(&answer).await;
        assert_eq!((call.outcome, call.refusal), (Outcome::Cancelled, None));
        assert!(call.cost.unwrap() > Money::ZERO, "what was sent is charged: the provider may have read it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_is_told_in_its_own_words_that_its_stream_was_stopped() {
    let app = start(Setup::default()).await;
    let message = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"{MODEL}\",\"content\":[],\"usage\":{{\"input_tokens\":9,\"output_tokens\":1}}}}}}\n\n"
    );
    let response = format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"resp_1\",\"model\":\"{MODEL}\",\"status\":\"in_progress\"}}}}\n\n"
    );
    let ask = |field: &str| format!(r#"{{"model":"{MODEL}","max_tokens":100,"stream":true,{field}}}"#);
    let messages = ask(r#""messages":[{"role":"user","content":"hi"}]"#);
    let responses = ask(r#""input":"hi""#).replace("max_tokens", "max_output_tokens");
    for (path, headers, request, first, wanted) in [
        (
            "/v1/messages",
            "",
            &messages,
            &message,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"permission_error\",\"message\":\"Weighbridge: an operator stopped",
        ),
        (
            "/openai/v1/responses",
            "",
            &responses,
            &response,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"Weighbridge: an operator stopped",
        ),
        (
            "/openai/v1/responses",
            "originator: codex_cli_rs\r\n",
            &responses,
            &response,
            "event: response.failed\ndata: ",
        ),
    ] {
        // Half an event follows, so that the error must not be glued to it.
        app.upstream.next(vec![
            events_head(),
            Step::Send(chunk(first.as_bytes())),
            Step::Send(chunk(b"data: {\"ha")),
            Step::Hang,
        ]);
        let begun = begin(&app.client(), path, headers, request, "{\"ha").await;
        let id = begun.id.clone();
        assert_eq!(stop(&app, &id).await.status, 200);
        let answer = begun.end().await;
        let text = answer.text();
        let after = text.split("{\"ha\n\n").nth(1).unwrap_or_else(|| panic!("{text}"));
        assert!(after.starts_with(wanted) && answer.whole, "{path} {headers}: {after}");
        assert_eq!(app.call(id.parse().unwrap()).await.outcome, Outcome::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_does_not_read_cannot_keep_his_call_from_being_stopped() {
    let app = start(Setup::default()).await;
    let event =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(60_000));
    app.upstream.next(vec![events_head(), Step::Repeat(chunk(event.as_bytes()), 2_000), Step::Hang]);
    let begun = begin(&app.client(), CHAT, "", &chat_request(r#","stream":true"#), "data: ").await;
    // Nothing moves any more once the buffers on the way are full.
    let mut before = 0;
    loop {
        let now = running(&app).await["calls"][0]["output_tokens_so_far"].as_u64().unwrap();
        if now > 0 && now == before {
            break;
        }
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let stopped = stop(&app, &begun.id).await;
    assert_eq!((stopped.status, &stopped.json()["outcome"]), (200, &json!("cancelled")), "{}", stopped.text());
    assert_eq!(begun.end().await.text().matches("\"code\":\"stopped\"").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stopped_is_said_and_nothing_is_recorded() {
    let app = start(Setup::default()).await;
    let answer = app.client().post(CHAT, &chat_request("")).await;
    let ended = answer.header("wb-request-id").unwrap().to_owned();
    let before = app.ledger().head().size;
    let reason = json!({"reason": "no"}).to_string();
    for (id, body, status) in [
        (ended.as_str(), reason.as_str(), 409),
        ("0193aaaa-0000-7000-8000-000000000000", reason.as_str(), 404),
        ("nonsense", reason.as_str(), 400),
        (ended.as_str(), r#"{"reason":"   "}"#, 422),
        (ended.as_str(), "{}", 400),
    ] {
        let answer = admin(&app).post(&format!("/api/v1/calls/{id}/stop"), body).await;
        assert_eq!(answer.status, status, "{id} {body}: {}", answer.text());
    }
    let nobody = Client { addr: app.app.web_addr, key: "wrong".into() };
    assert_eq!(nobody.post(&format!("/api/v1/calls/{ended}/stop"), &reason).await.status, 401);
    assert_eq!(app.ledger().head().size, before);

    // A background response runs at the vendor.
    app.upstream.next(upstream::json(&format!(
        r#"{{"id":"resp_9","object":"response","status":"queued","model":"{MODEL}","output":[]}}"#
    )));
    let request = format!(r#"{{"model":"{MODEL}","input":"hi","background":true,"max_output_tokens":50}}"#);
    let answer = app.client().post("/openai/v1/responses", &request).await;
    let id = answer.header("wb-request-id").unwrap();
    let call = running(&app).await["calls"][0].clone();
    assert_eq!((&call["id"], &call["job"], &call["cost_so_far_usd"]), (&json!(id), &json!(true), &Value::Null));
    let refused = stop(&app, id).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("runs at the vendor"), "{}", refused.text());
}

async fn pause(app: &TestApp, body: Value) -> Answer {
    admin(app).post("/api/v1/pauses", &body.to_string()).await
}

fn service_pause(cut: bool) -> Value {
    json!({"kind": "service", "subject": "svc", "for": "1h", "reason": "it loops", "cut": cut})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_refuses_in_the_dialect_says_until_when_and_keeps_the_reason_to_operators() {
    let app = start(Setup { caller_fields: vec!["run", "agent"], ..Setup::default() }).await;
    let credential = app.key[..16].to_owned();
    for (kind, subject) in [
        ("key", credential.as_str()),
        ("service", "svc"),
        ("agent", "planner"),
        ("model", "test-*"),
        ("provider", "openai"),
    ] {
        let made =
            pause(&app, json!({"kind": kind, "subject": subject, "for": "2h", "reason": "a secret reason"})).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let answer = app.client().post_with(CHAT, "wb-agent: planner\r\n", chat_request("").as_bytes()).await;
        assert_eq!((answer.status, answer.header("wb-deny")), (403, Some("paused")), "{kind}");
        assert_eq!((answer.header("x-should-retry"), answer.header("retry-after")), (Some("false"), None));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        let until = made.json()["until"].as_str().unwrap()[..19].replace('T', " ");
        assert!(message.contains(&format!("{kind} '{subject}'")) && message.contains(&until), "{message}");
        assert!(!message.contains("secret"), "{message}");
        let call = app.settled(&answer).await;
        assert_eq!(call.refusal, Some((weighbridge::domain::Code::Paused, Some(format!("pause:{kind}:{subject}")))));

        let list = admin(&app).get("/api/v1/pauses").await.json();
        let row = &list["pauses"][0];
        assert_eq!((&row["id"], &row["by"]), (&json!(format!("{kind}:{subject}")), &json!("token")));
        assert_eq!((&row["reason"], &row["until"]), (&json!("a secret reason"), &made.json()["until"]));

        let mut ask = admin(&app);
        let path = format!("/api/v1/pauses/{kind}:{subject}");
        let head = |path: &str, ask: &Client| ask.head("DELETE", path, "", 0);
        assert_eq!(ask.raw(&head(&path, &ask)).await.status, 422, "a reason is required");
        let ended = ask.raw(&head(&format!("{path}?reason=mended"), &ask)).await;
        assert_eq!(ended.status, 200, "{}", ended.text());
        assert_eq!(ask.raw(&head(&format!("{path}?reason=mended"), &ask)).await.status, 404);
        ask.key = app.key.clone();
        assert_eq!(
            app.client().post_with(CHAT, "wb-agent: planner\r\n", chat_request("").as_bytes()).await.status,
            200
        );
    }
    assert_eq!(admin(&app).get("/api/v1/pauses").await.json()["pauses"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_be_is_refused_with_the_way_out() {
    let app = start(Setup::default()).await;
    let before = app.ledger().head().size;
    for (body, status, words) in [
        (json!({"kind": "service", "subject": "nobody", "for": "1h", "reason": "r"}), 422, "not found"),
        (json!({"kind": "service", "subject": "svc", "for": "31d", "reason": "r"}), 422, "at most 30 days"),
        (json!({"kind": "service", "subject": "svc", "for": "soon", "reason": "r"}), 422, "30m"),
        (json!({"kind": "service", "subject": "svc", "reason": "r"}), 422, "how long"),
        (
            json!({"kind": "service", "subject": "svc", "until": "2020-01-01T00:00:00Z", "reason": "r"}),
            422,
            "has passed",
        ),
        (json!({"kind": "service", "subject": "svc", "for": "1h", "reason": " "}), 422, "say why"),
        (json!({"kind": "service", "subject": "svc", "for": "1h"}), 400, "reason"),
        (json!({"kind": "galaxy", "subject": "svc", "for": "1h", "reason": "r"}), 400, "galaxy"),
    ] {
        let answer = pause(&app, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.text().contains(words), "{body}: {}", answer.text());
    }
    assert_eq!(app.ledger().head().size, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_streams_of_what_is_paused_finish_or_are_cut_as_was_chosen() {
    let app = start(Setup::default()).await;
    for cut in [false, true] {
        let go = Arc::new(Notify::new());
        app.upstream.next(paused_chat(&go));
        let begun = begin(&app.client(), CHAT, "", &chat_request(r#","stream":true"#), "how are you?").await;
        let id = begun.id.clone();
        let made = pause(&app, service_pause(cut)).await;
        assert_eq!((made.status, &made.json()["calls_cut"]), (201, &json!(usize::from(cut))), "{}", made.text());
        assert_eq!(app.client().post(CHAT, &chat_request("")).await.header("wb-deny"), Some("paused"));
        go.notify_one();
        let text = begun.end().await.text();
        let call = app.call(id.parse().unwrap()).await;
        if cut {
            assert!(text.contains("\"code\":\"paused\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
            assert_eq!((call.outcome, call.flags.as_slice()), (Outcome::Cancelled, ["stopped".to_owned()].as_slice()));
        } else {
            assert!(!text.contains("error") && text.ends_with("data: [DONE]\n\n"), "{text}");
            assert_eq!(call.outcome, Outcome::Completed);
        }
        let end = admin(&app).head("DELETE", "/api/v1/pauses/service:svc?reason=ok", "", 0);
        assert_eq!(admin(&app).raw(&end).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_that_races_a_pause_is_admitted_after_its_entry_and_a_cut_leaves_none_running() {
    let app = start(Setup::default()).await;
    // Answers begin and never end, so that whatever was admitted runs until it is cut.
    app.upstream.always(paused_chat(&Arc::default())[..3].iter().cloned().chain([Step::Hang]).collect());
    let asks: Vec<_> = (0..120)
        .map(|_| {
            let client = app.client();
            tokio::spawn(async move { client.post(CHAT, &chat_request(r#","stream":true"#)).await })
        })
        .collect();
    // In the middle of them: some are admitted, some are not yet.
    while app.ledger().running().len() < 20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pause(&app, service_pause(true)).await.status, 201);
    let mut refused = 0;
    for ask in asks {
        let answer = ask.await.unwrap();
        assert!(answer.text().contains("paused"), "{}", answer.text());
        refused += usize::from(answer.status == 403);
    }
    app.quiet().await;
    let mut paused_at = None;
    let (mut admitted, mut denied) = (0, 0);
    for (entry, _) in app.ledger().entries(0, 10_000).unwrap() {
        match entry.body {
            Body::Catalogue { change, .. } if change.subject().0 == "pause" => paused_at = Some(entry.seq),
            Body::Admit(_) => {
                admitted += 1;
                assert_eq!(paused_at, None, "entry {} admits a call after the pause", entry.seq);
            }
            Body::Deny(_) => {
                denied += 1;
                assert!(paused_at.is_some(), "entry {} refuses before the pause", entry.seq);
            }
            _ => {}
        }
    }
    assert_eq!(admitted + denied, 120);
    assert!(refused >= denied, "who was cut before his answer began is refused too");
    assert!(admitted >= 20, "{admitted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_an_apply_and_a_restart() {
    let memory = weighbridge::store::media::Memory::default();
    let options = || weighbridge::store::Options {
        durability: weighbridge::store::Durability::Strict,
        clock: Arc::new(weighbridge::store::clock::SystemClock),
    };
    let ledger = weighbridge::store::Ledger::open_memory(&memory, options()).unwrap();
    let mut server = server();
    server.operator_token = Some(TOKEN.into());
    let app = TestApp::on(ledger, Setup { server, ..Setup::default() }).await;
    assert_eq!(pause(&app, service_pause(false)).await.status, 201);
    let config = weighbridge::config::Config::default_config().unwrap();
    app.app.apply(&config.declared).await.unwrap();
    let before = admin(&app).get("/api/v1/pauses").await.json()["pauses"].clone();
    assert_eq!(before[0]["id"], "service:svc");
    app.app.stop().await.unwrap();
    let ledger = weighbridge::store::Ledger::open_memory(&memory, options()).unwrap();
    let after = weighbridge::control::pauses(&ledger).unwrap();
    assert_eq!(json!(after), before);
    ledger.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_what_its_key_service_run_and_budgets_have_used_hold_and_have_left() {
    use weighbridge::domain::{Budget, Change, Dimension};
    let budget = |id: &str, pairs: &[(Dimension, &str)]| {
        let Change::Budget(_, Some(plain)) = hard_budget(id, "2") else { unreachable!() };
        let matches = pairs.iter().map(|(d, v)| (*d, (*v).to_owned())).collect();
        Change::Budget(id.into(), Some(Budget { matches, ..plain }))
    };
    let changes = vec![
        budget("all", &[]),
        budget("own", &[(Dimension::Service, "svc")]),
        budget("own-other-model", &[(Dimension::Service, "svc"), (Dimension::Model, "gpt-*")]),
        budget("other", &[(Dimension::Service, "other")]),
    ];
    let app = start(Setup { changes, ..Setup::default() }).await;
    let run = |name: &str| format!("wb-run: {name}\r\n");
    for name in ["r-1", "r-1", "r-2"] {
        app.upstream.next(upstream::json(&crate::support::chat_answer(1_000, 500)));
        let answer = app.client().post_with(CHAT, &run(name), chat_request(r#","max_tokens":600"#).as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let go = Arc::new(Notify::new());
    app.upstream.next(paused_chat(&go));
    let request = chat_request(r#","stream":true,"max_tokens":1000"#);
    let begun = begin(&app.client(), CHAT, &run("r-1"), &request, "how are you?").await;
    let hold = running(&app).await["calls"][0]["hold_usd"].clone();

    let ask = app.client().head("GET", "/wb/v1/spend", &run("r-1"), 0);
    let spend = app.client().raw(&ask).await.json();
    for of in ["key", "service"] {
        let sum = &spend["spent"][of];
        assert_eq!((&sum["month"]["cost_usd"], &sum["today"]["calls"]), (&json!("0.006"), &json!(3)), "{spend}");
        assert_eq!((&sum["running"], &sum["held_usd"]), (&json!(1), &hold), "{spend}");
    }
    let of_run = &spend["spent"]["run"];
    assert_eq!(
        (&of_run["id"], &of_run["month"]["cost_usd"], &of_run["today"]["calls"]),
        (&json!("r-1"), &json!("0.004"), &json!(2))
    );
    assert_eq!(app.client().get("/wb/v1/spend").await.json()["spent"]["run"], Value::Null, "it named none");

    let rows: Vec<&str> = spend["budgets"].as_array().unwrap().iter().map(|b| b["budget"].as_str().unwrap()).collect();
    assert_eq!(rows, ["all", "own", "own-other-model"], "those of others are not its business");
    let own = &spend["budgets"][1];
    let held = usd(hold.as_str().unwrap());
    let left = Money(usd("2").0 - usd("0.006").0 - held.0).to_string();
    assert_eq!((&own["limit_usd"], &own["spent_usd"], &own["held_usd"]), (&json!("2"), &json!("0.006"), &hold));
    assert_eq!((&own["remaining_usd"], &own["percent"], &own["shared"]), (&json!(left), &json!(0), &json!(false)));
    assert!(own["resets_at"].as_str().unwrap().ends_with("-01T00:00:00.000000Z"), "{own}");
    let shared = &spend["budgets"][0];
    assert_eq!(
        (&shared["remaining_usd"], &shared["shared"], &shared["spent_usd"]),
        (&json!(left), &json!(true), &Value::Null)
    );
    assert_eq!(spend["budgets"][2]["only"], json!(["model=gpt-*"]));
    go.notify_one();
    begun.end().await;
}
