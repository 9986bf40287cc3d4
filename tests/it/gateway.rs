//! Calls through the gateway: what passes, what is recorded, what it cost.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use weighbridge::domain::catalogue::OnClientAbort;
use weighbridge::domain::{Component, CostBasis, Outcome, UsageBasis};

use crate::support::client::{self, read_until};
use crate::support::upstream::{self, Step, chunk, events_head, last_chunk};
use crate::support::{
    MODEL, PROVIDER_KEY, Setup, TestApp, chat_answer, chat_events, chat_request, hard_budget, message_answer,
};

const CHAT: &str = "/openai/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_call_passes_untouched_and_is_priced_to_the_last_digit() {
    let app = TestApp::start().await;
    let odd = chat_answer(1200, 80).replace("\"id\"", "  \"id\"").replace("Hello there.", "Ünïcode \\u00e9");
    app.upstream.next(upstream::json(&odd));
    let request = chat_request(",  \"temperature\" : 0.50,\n \"x\":[1 , 2]");
    let answer = app.client().post(CHAT, &request).await;
    assert_eq!((answer.status, answer.text()), (200, odd));
    assert_eq!(answer.header("x-request-id"), Some("req_upstream"));

    let seen = app.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(String::from_utf8_lossy(&seen[0].body), request);
    assert_eq!(seen[0].target, "/v1/chat/completions");

    let call = app.settled(&answer).await;
    assert_eq!(call.outcome, Outcome::Completed);
    assert_eq!(call.cost.unwrap().to_string(), "0.00136");
    assert_eq!((call.usage_basis, call.cost_basis), (UsageBasis::Vendor, CostBasis::Exact));
    assert_eq!((call.http_status, call.provider_request_id.as_deref()), (Some(200), Some("req_upstream")));
    assert_eq!((call.endpoint.as_str(), call.model_served.as_deref()), ("chat.completions", Some(MODEL)));
    let who = call.who.unwrap();
    assert_eq!((who.service.as_str(), who.owner.as_str()), ("svc", "team"));
    assert!(app.ledger().running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_credential_and_headers_of_ours_never_reach_the_provider() {
    let app = TestApp::start().await;
    let extra = "cookie: a=b\r\nwb-run: r1\r\nx-forwarded-for: 1.2.3.4\r\naccept-encoding: gzip\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nanthropic-beta: b1\r\n";
    let answer = app.client().post_with(CHAT, extra, chat_request("").as_bytes()).await;
    assert_eq!(answer.status, 200);
    let seen = &app.upstream.seen()[0];
    let all = format!("{seen:?}");
    assert!(!all.contains(&app.key[16..]), "the caller's key reached the provider");
    for name in ["cookie", "wb-run", "x-forwarded-for", "traceparent", "x-api-key"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("anthropic-beta"), Some("b1"));
    let who = app.settled(&answer).await.who.unwrap();
    assert_eq!((who.run.as_deref(), who.provenance.as_str()), (Some("r1"), "KCKUUUHDUC"));
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_is_native_too() {
    let app = TestApp::start().await;
    app.upstream.next(upstream::json(&message_answer(1000, 10)));
    let request = format!(r#"{{"model":"{MODEL}","max_tokens":100,"messages":[{{"role":"user","content":"hi"}}]}}"#);
    let mut client = app.client();
    let key = std::mem::take(&mut client.key);
    let headers = format!("x-api-key: {key}\r\nanthropic-version: 2026-10-21\r\n");
    let answer = client.post_with("/v1/messages", &headers, request.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &app.upstream.seen()[0];
    assert_eq!((seen.target.as_str(), seen.header("x-api-key")), ("/v1/messages", Some(PROVIDER_KEY)));
    assert_eq!((seen.header("authorization"), seen.header("anthropic-version")), (None, Some("2026-10-21")));
    let call = app.settled(&answer).await;
    assert_eq!((call.cost.unwrap().to_string().as_str(), call.finish_reason.as_deref()), ("0.00102", Some("stop")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_asks_for_usage_passes_byte_for_byte() {
    let app = TestApp::start().await;
    let events = chat_events(Some((100, 7)));
    app.upstream.next(upstream::events(&events));
    let request = chat_request(r#","stream":true,"stream_options":{"include_usage":true}"#);
    let answer = app.client().post(CHAT, &request).await;
    assert_eq!(answer.text(), events.concat());
    assert!(answer.whole);
    assert_eq!(String::from_utf8_lossy(&app.upstream.seen()[0].body), request);
    let call = app.settled(&answer).await;
    assert_eq!((call.stream, call.cost.unwrap().to_string()), (true, "0.000114".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_ask_for_usage_gets_none_and_is_metered_all_the_same() {
    let app = TestApp::start().await;
    app.upstream.next(upstream::events(&chat_events(Some((100, 7)))));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!(answer.text(), chat_events(None).concat());
    let sent: serde_json::Value = serde_json::from_slice(&app.upstream.seen()[0].body).unwrap();
    assert_eq!(sent["stream_options"]["include_usage"], true);
    let call = app.settled(&answer).await;
    assert_eq!((call.usage_basis, call.cost.unwrap().to_string()), (UsageBasis::Vendor, "0.000114".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_does_not_wait_for_the_rest_and_the_last_waits_for_the_settlement() {
    let app = TestApp::start().await;
    let go = Arc::new(Notify::new());
    let events = chat_events(Some((10, 5)));
    let mut steps = vec![events_head(), Step::Send(chunk(events[0].as_bytes())), Step::Wait(go.clone())];
    steps.extend(events[1..].iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(last_chunk());
    app.upstream.next(steps);
    let client = app.client();
    let request = chat_request(r#","stream":true,"stream_options":{"include_usage":true}"#);
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let first = read_until(&mut stream, b"Hello").await;
    assert!(String::from_utf8_lossy(&first).contains("Hello"));
    assert_eq!(app.ledger().running().len(), 1, "the call is still open");
    go.notify_one();
    let rest = read_until(&mut stream, b"[DONE]\n\n").await;
    assert!(rest.windows(6).any(|w| w == b"[DONE]"));
    // The caller has the end in its hands, so the settlement is on record, without any waiting.
    assert!(app.ledger().running().is_empty());
    assert_eq!(app.calls()[0].cost.unwrap().to_string(), "0.00002");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_is_charged_for_what_passed() {
    let app = TestApp::start().await;
    let events = chat_events(None);
    app.upstream.next(vec![
        events_head(),
        Step::Send(chunk(events[0].as_bytes())),
        Step::Send(chunk(events[1].as_bytes())),
        Step::Hang,
    ]);
    let client = app.client();
    let request = chat_request(r#","stream":true"#);
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, b"how are you").await;
    drop(stream);
    app.quiet().await;
    let call = &app.calls()[0];
    assert_eq!(
        (call.outcome, call.usage_basis, call.cost_basis),
        (Outcome::Cancelled, UsageBasis::Counted, CostBasis::Estimated)
    );
    assert!(call.usage.get(Component::InputTokens).unwrap() > 0);
    let output = call.usage.get(Component::OutputTokens).unwrap();
    assert!((4..=12).contains(&output), "{output} tokens for 'Hello there, how are you?'");
    assert!(!call.cost.unwrap().is_zero());
    assert_eq!(app.upstream.hung_up(), 1, "the upstream was let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_set_to_drain_is_read_on_for_its_usage() {
    let app = TestApp::with(Setup { on_client_abort: OnClientAbort::Drain, ..Setup::default() }).await;
    let go = Arc::new(Notify::new());
    let events = chat_events(Some((100, 50)));
    let mut steps = vec![events_head(), Step::Send(chunk(events[0].as_bytes())), Step::Wait(go.clone())];
    steps.extend(events[1..].iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(last_chunk());
    app.upstream.next(steps);
    let client = app.client();
    let request = chat_request(r#","stream":true"#);
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, b"Hello").await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    go.notify_one();
    app.quiet().await;
    let call = &app.calls()[0];
    assert_eq!(
        (call.outcome, call.usage_basis, call.cost.unwrap().to_string()),
        (Outcome::Cancelled, UsageBasis::Vendor, "0.0002".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_dies_inside_a_stream_ends_in_the_dialects_error_event() {
    let app = TestApp::start().await;
    let events = chat_events(None);
    app.upstream.next(vec![
        events_head(),
        Step::Send(chunk(events[0].as_bytes())),
        Step::Sleep(Duration::from_millis(50)),
        Step::Break,
    ]);
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert!(answer.whole, "the body ends cleanly");
    let text = answer.text();
    assert!(text.starts_with(&events[0]), "{text}");
    assert!(text[events[0].len()..].contains("\"error\"") && text.trim_end().ends_with("[DONE]"), "{text}");
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.usage_basis), (Outcome::Failed, UsageBasis::Counted));
    assert!(!call.cost.unwrap().is_zero());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_costs_nothing_and_says_so_in_the_dialect() {
    let app = TestApp::start().await;
    app.upstream.always(vec![Step::Break]);
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((answer.status, answer.header("wb-deny")), (503, Some("upstream_unavailable")));
    assert_eq!(answer.header("retry-after"), Some("2"));
    let call = app.settled(&answer).await;
    assert_eq!(call.outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_provider_passes_and_costs_nothing_and_its_key_is_blotted_out() {
    let app = TestApp::start().await;
    let body = format!(r#"{{"error":{{"message":"bad key {PROVIDER_KEY}","type":"invalid_request_error"}}}}"#);
    let extra = "retry-after: 3\r\nset-cookie: a=b\r\nwb-cost-usd: 99\r\nserver: x\r\n";
    app.upstream.next(upstream::answer("429 Too Many Requests", "application/json", extra, body.as_bytes()));
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3")));
    assert_eq!(
        (answer.header("set-cookie"), answer.header("wb-cost-usd"), answer.header("server")),
        (None, Some("0"), None),
        "nothing of the provider's own passes but what may; the cost is ours"
    );
    assert_eq!(answer.body.len(), body.len());
    assert!(!answer.text().contains(PROVIDER_KEY) && answer.text().contains("bad key ****"));
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.http_status), (Outcome::Failed, Some(429)));
    assert_eq!((call.cost.unwrap().is_zero(), call.usage_basis), (true, UsageBasis::None));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let app = TestApp::start().await;
    app.upstream.next(upstream::answer("302 Found", "text/plain", "location: http://127.0.0.1:1/\r\n", b"moved"));
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((answer.status, answer.header("location")), (302, None));
    assert_eq!(app.upstream.seen().len(), 1);
    assert_eq!(app.settled(&answer).await.outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_response_is_booked_once_when_it_is_fetched() {
    let app = TestApp::start().await;
    let body = |status: &str, usage: &str| {
        format!(
            r#"{{"id":"resp_7","object":"response","status":"{status}","model":"{MODEL}","output":[],"usage":{usage}}}"#
        )
    };
    let usage = r#"{"input_tokens":1000,"output_tokens":500,"total_tokens":1500}"#;
    app.upstream.next(upstream::json(&body("queued", "null")));
    let request = format!(r#"{{"model":"{MODEL}","input":"hello","background":true}}"#);
    let started = app.client().post("/openai/v1/responses", &request).await;
    assert_eq!(started.status, 200, "{}", started.text());
    assert_eq!(app.ledger().running().len(), 1, "the job is open");

    app.upstream.next(upstream::json(&body("in_progress", "null")));
    let polled = app.client().get("/openai/v1/responses/resp_7").await;
    assert!(app.settled(&polled).await.cost.unwrap().is_zero());
    assert_eq!(app.ledger().running().len(), 1);

    for _ in 0..2 {
        app.upstream.next(upstream::json(&body("completed", usage)));
        let fetched = app.client().get("/openai/v1/responses/resp_7").await;
        assert_eq!(fetched.text(), body("completed", usage));
        let call = app.settled(&fetched).await;
        assert_eq!((call.cost.unwrap().is_zero(), call.usage.is_empty()), (true, true));
    }
    let job = app.settled(&started).await;
    assert_eq!((job.outcome, job.cost.unwrap().to_string()), (Outcome::Completed, "0.002".into()));
    assert_eq!(app.calls().iter().map(|c| c.cost.unwrap()).sum::<weighbridge::domain::Money>().to_string(), "0.002");
    assert!(app.ledger().running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cost_comes_as_a_trailer_where_the_client_takes_trailers() {
    let app = TestApp::start().await;
    let answer = app.client().post_with(CHAT, "te: trailers\r\n", chat_request("").as_bytes()).await;
    assert_eq!(answer.trailers, [("wb-cost-usd".to_owned(), "0.00002".to_owned())]);
    assert!(answer.whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_read_and_sent_as_they_came() {
    use std::io::Write;
    let app = TestApp::start().await;
    let request = chat_request("");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(request.as_bytes()).unwrap();
    let zst = zstd::stream::encode_all(request.as_bytes(), 3).unwrap();
    for (name, body) in [("gzip", gz.finish().unwrap()), ("zstd", zst)] {
        let answer = app.client().post_with(CHAT, &format!("content-encoding: {name}\r\n"), &body).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let seen = app.upstream.seen().pop().unwrap();
        assert_eq!((&seen.body, seen.header("content-encoding")), (&body, Some(name)));
        assert_eq!(app.settled(&answer).await.model_requested.as_deref(), Some(MODEL));
    }
    // Where the body has to be edited, it goes on decoded.
    app.upstream.next(upstream::events(&chat_events(Some((1, 1)))));
    let streamed = zstd::stream::encode_all(chat_request(r#","stream":true"#).as_bytes(), 3).unwrap();
    app.client().post_with(CHAT, "content-encoding: zstd\r\n", &streamed).await;
    let seen = app.upstream.seen().pop().unwrap();
    assert_eq!(seen.header("content-encoding"), None);
    assert!(String::from_utf8(seen.body).unwrap().contains("include_usage"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_linked_and_an_idempotency_key_is_used_once() {
    let app = TestApp::start().await;
    let first = app.client().post_with(CHAT, "x-stainless-retry-count: 0\r\n", chat_request("").as_bytes()).await;
    let again = app.client().post_with(CHAT, "x-stainless-retry-count: 1\r\n", chat_request("").as_bytes()).await;
    assert_eq!(app.settled(&again).await.retry_of, Some(app.settled(&first).await.id));

    let header = "wb-idempotency-key: abc\r\n";
    let first = app.client().post_with(CHAT, header, chat_request(",\"n\":1").as_bytes()).await;
    let replay = app.client().post_with(CHAT, header, chat_request(",\"n\":1").as_bytes()).await;
    assert_eq!((first.status, replay.status, replay.header("wb-deny")), (200, 422, Some("idempotency_replay")));
    assert!(replay.text().contains(first.header("wb-request-id").unwrap()));
    assert_eq!(app.upstream.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_reads_its_own_receipts_and_budgets_and_no_others() {
    let setup = Setup { changes: vec![hard_budget("all", "1.00")], ..Setup::default() };
    let app = TestApp::with(setup).await;
    let answer = app.client().post(CHAT, &chat_request(r#","max_tokens":100"#)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.header("wb-request-id").unwrap();
    let receipt = app.client().get(&format!("/wb/v1/calls/{id}")).await;
    assert_eq!((receipt.status, receipt.json()["cost_usd"].as_str()), (200, Some("0.00002")));
    let spend = app.client().get("/wb/v1/spend").await.json();
    // A budget that counts everybody's calls: what is left is told, what the others spent is not.
    let budget = &spend["budgets"][0];
    assert_eq!((budget["remaining_usd"].as_str(), budget["shared"].as_bool()), (Some("0.99998"), Some(true)));
    assert!(budget["spent_usd"].is_null() && budget["limit_usd"].is_null(), "{budget}");

    let other = crate::support::secret(weighbridge::domain::Environment::Prod);
    let key = crate::support::key(app.ledger(), &other, "other");
    let service = crate::support::service("other", &[]);
    use weighbridge::domain::Change;
    crate::support::declare(
        app.ledger(),
        vec![Change::Service("other".into(), Some(service)), Change::Key(key.id.clone(), Some(key))],
    )
    .await;
    let stranger = client::Client { key: other.expose().to_owned(), ..app.client() };
    assert_eq!(stranger.get(&format!("/wb/v1/calls/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_from_the_providers_configuration_in_the_callers_dialect() {
    let app = TestApp::with(Setup { models: vec![MODEL.into(), "other".into()], ..Setup::default() }).await;
    let list = app.client().get("/v1/models").await;
    assert_eq!(list.status, 200, "{}", list.text());
    assert_eq!((list.json()["object"].as_str(), list.json()["data"][0]["id"].as_str()), (Some("list"), Some(MODEL)));
    let mut bytes = app.client().head("GET", "/v1/models", "anthropic-version: 2023-06-01\r\n", 0);
    let list = app.client().raw(&std::mem::take(&mut bytes)).await;
    assert_eq!(
        (list.json()["data"][0]["type"].as_str(), list.json()["has_more"].as_bool()),
        (Some("model"), Some(false))
    );
    assert!(app.upstream.seen().is_empty());
    assert!(app.settled(&list).await.cost.unwrap().is_zero());
    app.client().get("/openai/v1/models").await;
    assert_eq!(app.upstream.seen()[0].target, "/v1/models");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_of_a_provider_pass_recorded_as_unmetered_unless_a_hard_budget_watches() {
    let app = TestApp::start().await;
    let answer = app.client().post("/openai/v1/new-thing?x=1", "{}").await;
    assert_eq!((answer.status, app.upstream.seen()[0].target.as_str()), (200, "/v1/new-thing?x=1"));
    let call = app.settled(&answer).await;
    assert!(call.unmetered && call.cost.is_none());
    crate::support::declare(app.ledger(), vec![hard_budget("all", "5")]).await;
    let refused = app.client().post("/openai/v1/new-thing", "{}").await;
    assert_eq!((refused.status, refused.header("wb-deny")), (403, Some("unmetered_path")));
    assert_eq!(app.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_cannot_pass_a_budget_for_thirty_seven() {
    // Each call holds 400 output tokens (0.0008) and its input; the budget affords 37 of the dearest hold.
    let app = TestApp::start().await;
    let request = chat_request(r#","max_tokens":400"#);
    let probe = app.client().post(CHAT, &request).await;
    let hold = app.settled(&probe).await.hold;
    let limit = weighbridge::domain::Money(hold.0 * 37);
    crate::support::declare(app.ledger(), vec![hard_budget("cap", &limit.to_string())]).await;
    let go = Arc::new(Notify::new());
    app.upstream.always(vec![Step::Wait(go.clone()), upstream::json(&chat_answer(10, 400)).remove(0)]);
    let before = app.upstream.seen().len();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (client, request) = (app.client(), request.clone());
        callers.spawn(async move { client.post(CHAT, &request).await });
    }
    let mut refused = 0;
    while refused < 163 {
        let answer = callers.join_next().await.expect("163 are refused while 37 wait").unwrap();
        assert_eq!((answer.status, answer.header("wb-budget")), (402, Some("cap")), "{}", answer.text());
        refused += 1;
    }
    while app.upstream.seen().len() < before + 37 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.upstream.seen().len() - before, 37);
    go.notify_waiters();
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert!(app.ledger().running().is_empty());
    let balance = app.ledger().balances(app.ledger().clock().now()).remove(0);
    assert_eq!(balance.held, 0);
    assert!(balance.posted <= limit.0, "{} of {}", balance.posted, limit.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_client_sets_no_cap_a_tight_budget_writes_one() {
    let app = TestApp::with(Setup { changes: vec![hard_budget("tight", "0.002")], ..Setup::default() }).await;
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let limit: u64 = answer.header("wb-output-limit").expect("the cap is said").parse().unwrap();
    assert!((256..1000).contains(&limit), "{limit}");
    let sent: serde_json::Value = serde_json::from_slice(&app.upstream.seen()[0].body).unwrap();
    assert_eq!(sent["max_completion_tokens"].as_u64().or(sent["max_tokens"].as_u64()), Some(limit));
    let dear = app.client().post_with(CHAT, "wb-max-cost: 0.0000001\r\n", chat_request("").as_bytes()).await;
    assert_eq!((dear.status, dear.header("wb-deny")), (402, Some("max_cost_exceeded")));
}
