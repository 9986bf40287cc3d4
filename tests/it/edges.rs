//! The edges of a call's life: slow and leaving clients, a journal that fails, who may read what, what is booked when
//! things go wrong half-way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use weighbridge::domain::{Change, Code, Environment, Outcome, UsageBasis};
use weighbridge::gateway::Upload;
use weighbridge::ledger::entry::Body;
use weighbridge::store::clock::SystemClock;
use weighbridge::store::media::Memory;
use weighbridge::store::{Durability, Ledger, Options};

use crate::support::client::Client;
use crate::support::upstream::{self, Step, chunk, events_head};
use crate::support::{
    MODEL, Setup, TestApp, chat_answer, chat_events, chat_request, declare, hard_budget, key, secret, service,
};

const CHAT: &str = "/openai/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";

fn options(durability: Durability) -> Options {
    Options { durability, clock: Arc::new(SystemClock) }
}

/// Events as the WHATWG standard reads them: an unfinished one at the end is none.
fn strict_events(text: &str) -> Vec<(String, String)> {
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
    let mut lines: Vec<&str> = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
    lines.pop();
    for line in lines {
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push((std::mem::take(&mut name), data));
            }
            name.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => {
                data = Some(match data {
                    Some(before) => format!("{before}\n{value}"),
                    None => value.to_owned(),
                });
            }
            _ => {}
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_in_is_cut_off_with_an_answer_in_the_dialect() {
    let upload = Upload { idle: Duration::from_secs(5), whole: Duration::from_millis(300) };
    let app = TestApp::with(Setup { upload, ..Setup::default() }).await;
    let client = app.client();
    for (path, kind) in [(CHAT, "/error/code"), (MESSAGES, "/error/type")] {
        let request = chat_request("");
        let mut stream = client.connect().await;
        stream.write_all(&client.head("POST", path, "", request.len())).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let trickle = tokio::spawn(async move {
            for byte in request.into_bytes() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        let mut raw = Vec::new();
        while !raw.ends_with(b"}") && tokio::io::AsyncReadExt::read_buf(&mut read, &mut raw).await.unwrap_or(0) > 0 {}
        trickle.abort();
        let answer = crate::support::client::parse(&raw);
        assert_eq!((answer.status, answer.header("wb-deny")), (408, Some("request_timeout")), "{}", answer.text());
        assert!(answer.json().pointer(kind).is_some(), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    assert!(app.upstream.seen().is_empty());
    let calls = app.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|c| c.refusal.as_ref().map(|r| r.0) == Some(Code::RequestTimeout) && c.who.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_during_the_upload_is_on_record_and_reaches_nobody() {
    let app = TestApp::start().await;
    let client = app.client();
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", 1000)).await.unwrap();
    stream.write_all(b"{\"model\":").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(stream);
    for _ in 0..500 {
        if !app.calls().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let calls = app.calls();
    assert_eq!(calls.len(), 1, "one record");
    assert_eq!((calls[0].outcome, calls[0].refusal.as_ref().map(|r| r.0)), (Outcome::Refused, Some(Code::Malformed)));
    assert!(calls[0].who.is_some() && app.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_over_the_limit_get_a_431() {
    let app = TestApp::start().await;
    for more in ["x-many: 1\r\n".repeat(101), format!("x-long: {}\r\n", "a".repeat(33 * 1024))] {
        let answer = app.client().post_with(CHAT, &more, chat_request("").as_bytes()).await;
        assert_eq!(answer.status, 431);
        assert!(answer.whole);
    }
    let answer = app.client().post_with(CHAT, &"x-many: 1\r\n".repeat(80), chat_request("").as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(app.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_durability_loses_nothing_of_an_orderly_end_and_holds_all_the_same() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options(Durability::Relaxed)).unwrap();
    let app = TestApp::on(ledger, Setup { changes: vec![hard_budget("all", "0.003")], ..Setup::default() }).await;
    let mut ids = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        app.upstream.next(upstream::json(&chat_answer(10, 100)));
        let answer = app.client().post(CHAT, &chat_request(r#","max_tokens":100"#)).await;
        match answer.status {
            200 => ids.push(app.settled(&answer).await),
            402 => {
                refused += 1;
                assert_eq!(answer.header("wb-budget"), Some("all"));
            }
            other => panic!("{other}: {}", answer.text()),
        }
        if refused > 0 {
            break;
        }
    }
    assert!(refused == 1 && ids.len() > 5, "{} calls, {refused} refused", ids.len());
    app.app.stop().await.unwrap();
    let again = Ledger::open_memory(&memory, options(Durability::Strict)).unwrap();
    for call in ids {
        assert_eq!(again.call(call.id).unwrap().and_then(|c| c.cost), call.cost);
    }
    assert!(again.running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_fails_stops_every_call_before_its_first_byte_and_says_how_many() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options(Durability::Strict)).unwrap();
    let app = TestApp::on(ledger, Setup::default()).await;
    // One call is under way when the disk fails.
    let go = Arc::new(Notify::new());
    app.upstream.next(vec![Step::Wait(go.clone()), upstream::json(&chat_answer(100, 50)).remove(0)]);
    let client = app.client();
    let under_way = tokio::spawn(async move { client.post(CHAT, &chat_request("")).await });
    while app.upstream.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    memory.fail_writes(true);
    let refused = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((refused.status, refused.header("wb-deny")), (503, Some("journal_unavailable")), "{}", refused.text());
    assert!(refused.json().pointer("/error/message").is_some());
    let other = app.client().post(MESSAGES, &chat_request(r#","max_tokens":5"#)).await;
    assert_eq!((other.status, other.json()["type"].as_str()), (503, Some("error")), "{}", other.text());
    assert_eq!(app.upstream.seen().len(), 1, "nothing goes upstream unseen");
    assert!(!app.ledger().healthy());
    assert_eq!(app.client().get("/readyz").await.status, 503);

    // The one under way ends upstream; its caller must not see the end before it is on record.
    go.notify_one();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!under_way.is_finished());
    memory.fail_writes(false);
    let answer = under_way.await.unwrap();
    assert_eq!((answer.status, answer.whole, answer.text()), (200, true, chat_answer(100, 50)));
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.cost.unwrap().to_string()), (Outcome::Completed, "0.0002".into()));

    assert!(app.ledger().healthy());
    assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 200);
    let entries = app.ledger().entries(0, 1_000).unwrap();
    let gaps: Vec<u64> = entries
        .iter()
        .filter_map(|(e, _)| match &e.body {
            Body::Gap { reason, count, .. } if reason == "journal_unavailable" => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0] >= 2, "{gaps:?}");
    assert!(app.ledger().running().is_empty());
    let admitted = entries.iter().filter(|(e, _)| matches!(e.body, Body::Admit(_))).count();
    let settled = entries.iter().filter(|(e, _)| matches!(e.body, Body::Settle(_))).count();
    assert_eq!((admitted, settled), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_own_statement_of_the_cost_wins_where_it_is_the_truth() {
    let answer = |cost: &str| chat_answer(1000, 100).replace("\"usage\":{", &format!("\"usage\":{{\"cost\":{cost},"));
    for (dialect, expected) in [("openrouter", "0.00345"), ("openai", "0.0012")] {
        let app = TestApp::with(Setup { provider_dialect: dialect, ..Setup::default() }).await;
        app.upstream.next(upstream::json(&answer("0.00345")));
        let got = app.client().post(CHAT, &chat_request("")).await;
        assert_eq!(got.text(), answer("0.00345"));
        let call = app.settled(&got).await;
        assert_eq!(call.cost.unwrap().to_string(), expected, "{dialect}");
        assert_eq!(call.cost_basis.name() == "vendor", dialect == "openrouter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn side_usage_is_part_of_the_cost() {
    let app = TestApp::start().await;
    // Compaction by the same model: billed, and not in the top level.
    let usage = r#""usage":{"input_tokens":200,"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":1000,"output_tokens":100},{"type":"message","input_tokens":200,"output_tokens":10}]}"#;
    let body =
        crate::support::message_answer(200, 10).replace(r#""usage":{"input_tokens":200,"output_tokens":10}"#, usage);
    assert!(body.contains("compaction"));
    app.upstream.next(upstream::json(&body));
    let request = format!(r#"{{"model":"{MODEL}","max_tokens":100,"messages":[{{"role":"user","content":"hi"}}]}}"#);
    let got = app.client().post(MESSAGES, &request).await;
    let call = app.settled(&got).await;
    // (200 + 1000) tokens in at 1, (10 + 100) out at 2 USD per million.
    assert_eq!(call.cost.unwrap().to_string(), "0.00142");
    use weighbridge::domain::Component;
    assert_eq!(
        (call.usage.get(Component::InputTokens), call.usage.get(Component::OutputTokens)),
        (Some(1200), Some(110))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_of_an_answer_is_passed_on_where_nothing_of_it_can_change() {
    let app = TestApp::start().await;
    let body = chat_answer(10, 5);
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), body);
    // An error of a streamed request is plain, and keeps its length too.
    let error = r#"{"error":{"message":"slow down","type":"rate_limit"}}"#;
    app.upstream.next(upstream::answer("429 Too Many Requests", "application/json", "", error.as_bytes()));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!(answer.header("content-length"), Some(error.len().to_string().as_str()));
    // Events may be dropped: their length is ours to say, which is to say nothing.
    let events = chat_events(Some((100, 7))).concat();
    app.upstream.next(upstream::answer("200 OK", "text/event-stream", "", events.as_bytes()));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!((answer.header("content-length"), answer.whole), (None, true));
    assert_eq!(answer.text(), chat_events(None).concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_answer_of_another_service_is_not_handed_over() {
    let app = TestApp::start().await;
    let stored = |id: &str| {
        format!(
            r#"{{"id":"{id}","object":"response","status":"completed","model":"{MODEL}","output":[],"usage":{{"input_tokens":10,"output_tokens":5,"total_tokens":15}}}}"#
        )
    };
    app.upstream.always(upstream::json(&stored("resp_own")));
    let request = format!(r#"{{"model":"{MODEL}","input":"hello"}}"#);
    let own = app.client().post("/openai/v1/responses", &request).await;
    assert_eq!(own.status, 200, "{}", own.text());
    app.settled(&own).await;

    let other = secret(Environment::Prod);
    let row = key(app.ledger(), &other, "other");
    declare(
        app.ledger(),
        vec![Change::Service("other".into(), Some(service("other", &[]))), Change::Key(row.id.clone(), Some(row))],
    )
    .await;
    let stranger = Client { key: other.expose().to_owned(), ..app.client() };
    let before = app.upstream.seen().len();
    let delete = |client: &Client, id: &str| client.head("DELETE", &format!("/v1/responses/{id}"), "", 0);
    let continued = format!(r#"{{"model":"{MODEL}","input":"and?","previous_response_id":"resp_own"}}"#);
    let tries = [
        stranger.get("/openai/v1/responses/resp_own").await,
        stranger.get("/v1/responses/resp_own").await,
        stranger.get("/openai/v1/responses/resp_own/input_items").await,
        stranger.post("/openai/v1/responses/resp_own/cancel", "").await,
        stranger.raw(&delete(&stranger, "resp_own")).await,
        stranger.post("/openai/v1/responses", &continued).await,
    ];
    for (i, answer) in tries.iter().enumerate() {
        assert_eq!((answer.status, answer.header("wb-deny")), (404, Some("unknown_path")), "{i}: {}", answer.text());
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|m| m.contains("resp_own")));
        assert_eq!(app.settled(answer).await.outcome, Outcome::Refused);
    }
    assert_eq!(app.upstream.seen().len(), before, "nothing was forwarded");
    // One's own pass, and so does what we do not know.
    let app_client = app.client();
    for answer in [
        app_client.get("/openai/v1/responses/resp_own").await,
        app_client.get("/v1/responses/resp_own/input_items").await,
        app_client.post("/openai/v1/responses", &continued).await,
        stranger.get("/openai/v1/responses/resp_unknown").await,
        app_client.raw(&delete(&app_client, "resp_own")).await,
    ] {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_reads_what_its_key_and_its_service_have_spent_at_once() {
    let app = TestApp::start().await;
    let second = secret(Environment::Prod);
    let row = key(app.ledger(), &second, "svc");
    declare(app.ledger(), vec![Change::Key(row.id.clone(), Some(row))]).await;
    let colleague = Client { key: second.expose().to_owned(), ..app.client() };
    for n in 1..=3u64 {
        assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 200);
        // Straight after the answer: nothing of it may be missing.
        let spend = app.client().get("/wb/v1/spend").await.json();
        for period in ["today", "month"] {
            assert_eq!(spend["spent"]["key"][period]["calls"], n, "{spend}");
            assert_eq!(spend["spent"]["service"][period]["calls"], n);
        }
    }
    colleague.post(CHAT, &chat_request("")).await;
    let spend = colleague.get("/wb/v1/spend").await.json();
    assert_eq!(spend["spent"]["key"]["today"]["cost_usd"], "0.00002");
    assert_eq!(spend["spent"]["service"]["month"]["cost_usd"], "0.00008");
    assert_eq!(spend["time_zone"], "UTC");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_cut_in_half_is_ended_before_ours_so_that_ours_is_read() {
    let app = TestApp::start().await;
    let whole = chat_events(None);
    for cut in [7, whole[1].len() / 2, whole[1].len() - 2, whole[1].len() - 1, whole[1].len()] {
        app.upstream.next(vec![
            events_head(),
            Step::Send(chunk(whole[0].as_bytes())),
            Step::Send(chunk(&whole[1].as_bytes()[..cut])),
            Step::Sleep(Duration::from_millis(30)),
            Step::Break,
        ]);
        let asked = chat_request(r#","stream":true,"stream_options":{"include_usage":true}"#);
        let answer = app.client().post(CHAT, &asked).await;
        assert!(answer.whole);
        let events = strict_events(&answer.text());
        let errors: Vec<_> = events
            .iter()
            .filter(|(_, data)| {
                serde_json::from_str::<serde_json::Value>(data).is_ok_and(|v| v["error"]["message"].is_string())
            })
            .collect();
        assert_eq!(errors.len(), 1, "cut at {cut}: {events:?}");
        assert_eq!(format!("data: {}\n\n", events[0].1), whole[0]);
    }
    // Anthropic's stream has named events: the name of the half one must not stick to ours.
    let start = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"{MODEL}\",\"content\":[],\"usage\":{{\"input_tokens\":25,\"output_tokens\":1}}}}}}\n\n"
    );
    app.upstream.next(vec![
        events_head(),
        Step::Send(chunk(start.as_bytes())),
        Step::Send(chunk(b"event: content_block_delta\ndata: {\"type\":\"content_bl")),
        Step::Sleep(Duration::from_millis(30)),
        Step::Break,
    ]);
    let request = format!(
        r#"{{"model":"{MODEL}","max_tokens":100,"stream":true,"messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    let answer = app.client().post(MESSAGES, &request).await;
    let events = strict_events(&answer.text());
    assert_eq!(events.last().map(|(name, _)| name.as_str()), Some("error"), "{events:?}");
    let call = app.settled(&answer).await;
    assert_eq!(call.usage.get(weighbridge::domain::Component::InputTokens), Some(25), "the input was stated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_200_books_the_input_that_was_taken() {
    let app = TestApp::start().await;
    let error = r#"{"error":{"message":"overloaded","type":"server_error"}}"#;
    let event = format!("data: {error}\n\n");
    for (steps, extra) in
        [(upstream::json(error), ""), (upstream::events(std::slice::from_ref(&event)), r#","stream":true"#)]
    {
        app.upstream.next(steps);
        let answer = app.client().post(CHAT, &chat_request(extra)).await;
        let call = app.settled(&answer).await;
        assert_eq!((call.outcome, call.usage_basis), (Outcome::Failed, UsageBasis::Counted), "{extra}");
        let input = call.usage.get(weighbridge::domain::Component::InputTokens).unwrap();
        let output = call.usage.get(weighbridge::domain::Component::OutputTokens);
        assert!((1..50).contains(&input) && output == Some(0), "{input} {output:?}");
        assert_eq!(call.cost.unwrap().0, i128::from(input) * 1_000_000_000);
    }
    // What the provider states is booked as stated, the rest counted.
    let stated = r#"{"error":{"message":"late","type":"server_error"},"choices":[],"usage":{"prompt_tokens":70,"completion_tokens":3,"total_tokens":73}}"#;
    app.upstream.next(upstream::json(stated));
    let answer = app.client().post(CHAT, &chat_request("")).await;
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.usage_basis), (Outcome::Failed, UsageBasis::Vendor));
    assert_eq!(call.cost.unwrap().to_string(), "0.000076");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_is_an_estimate_bounds_nothing() {
    // The model's vocabulary is not ours: the bound stays half the bytes, and a budget that affords only the count refuses.
    let app = TestApp::with(Setup { changes: vec![hard_budget("tight", "0.0016")], ..Setup::default() }).await;
    let long = "hello world ".repeat(250);
    let request =
        format!(r#"{{"model":"{MODEL}","max_tokens":100,"messages":[{{"role":"user","content":"{long}"}}]}}"#);
    let refused = app.client().post(CHAT, &request).await;
    assert_eq!((refused.status, refused.header("wb-budget")), (402, Some("tight")), "{}", refused.text());
    // A budget that does not cover the call asks for no counting and refuses nothing.
    let app = TestApp::start().await;
    assert_eq!(app.client().post(CHAT, &request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_credential_is_used_by_the_next_call() {
    let app = TestApp::start().await;
    app.client().post(CHAT, &chat_request("")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weighbridge.toml");
    let mut file = format!(
        "[[provider]]\nid = \"openai\"\ndialect = \"openai\"\nbase_url = \"{}/v1\"\napi_key = \"sk-first\"\ninternal = true\n",
        app.upstream.url()
    );
    file += "[[service]]\nid = \"svc\"\napplication = \"app\"\nowner = \"team\"\nbusiness_unit = \"unit\"\n";
    file += &format!(
        "[[price]]\nprovider = \"openai\"\nmodel = \"{MODEL}\"\ncomponent = \"input_tokens\"\nusd_per_million = \"1\"\n"
    );
    file += &format!("[[key]]\nservice = \"svc\"\nenvironment = \"prod\"\nsecret = \"{}\"\n", app.key);
    for credential in ["sk-first", "sk-second", "sk-third"] {
        std::fs::write(&path, file.replace("sk-first", credential)).unwrap();
        let config = weighbridge::config::Config::load(&path).expect("a valid file");
        let lines = app.app.apply(&config.declared).await.unwrap();
        assert!(lines.iter().all(|l| !l.contains(credential)), "{lines:?}");
        let answer = app.client().post(CHAT, &chat_request("")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = app.upstream.seen().pop().unwrap();
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {credential}").as_str()));
    }
}
