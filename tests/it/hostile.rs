//! Input that is wrong on purpose: each gets a defined answer, bounded memory and a record where a caller was identified.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weighbridge::domain::{Outcome, UsageBasis};

use crate::support::client::{parse, read_answer};
use crate::support::upstream::{self, Step, chunk, events_head, last_chunk};
use crate::support::{Setup, TestApp, chat_answer, chat_events, chat_request, server};

const CHAT: &str = "/openai/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn malformed_json_is_named_and_recorded() {
    let app = TestApp::start().await;
    for body in ["{", "", "[]", r#"{"model":7,"messages":[]}"#, r#"{"model":"m","stream":"yes"}"#] {
        let answer = app.client().post(CHAT, body).await;
        assert_eq!((answer.status, answer.header("wb-deny")), (400, Some("malformed")), "{body}: {}", answer.text());
    }
    assert!(app.upstream.seen().is_empty());
    assert!(app.calls().iter().all(|c| c.who.is_some() && c.outcome == Outcome::Refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit_are_refused_whether_they_say_their_length_or_not() {
    let mut server = server();
    server.max_body_bytes = 64 * 1024;
    let app = TestApp::with(Setup { server, ..Setup::default() }).await;
    let big = vec![b' '; 100 * 1024];
    let answer = app.client().post_with(CHAT, "", &big).await;
    assert_eq!((answer.status, answer.header("wb-deny")), (413, Some("too_large")));
    let mut raw = String::from_utf8(app.client().head("POST", CHAT, "", 0)).unwrap();
    raw = raw.replace("content-length: 0\r\n", "transfer-encoding: chunked\r\n");
    let mut bytes = raw.into_bytes();
    bytes.extend_from_slice(&chunk(&big));
    bytes.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(app.client().raw(&bytes).await.status, 413);
    let bomb = zstd::stream::encode_all(&vec![b' '; 8 << 20][..], 19).unwrap();
    let answer = app.client().post_with(CHAT, "content-encoding: zstd\r\n", &bomb).await;
    assert_eq!((answer.status, answer.header("wb-deny")), (413, Some("too_large")));
    let answer = app.client().post_with(CHAT, "content-encoding: br\r\n", b"x").await;
    assert_eq!((answer.status, answer.header("wb-deny")), (415, Some("unsupported_encoding")));
    assert_eq!(app.calls().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_framed_in_two_ways_reach_nobody() {
    let app = TestApp::start().await;
    let auth = format!("authorization: Bearer {}\r\nconnection: close\r\n", app.key);
    let start = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{auth}");
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        let answer = app.client().raw(format!("{start}{framing}\r\n0\r\n\r\n").as_bytes()).await;
        assert_eq!(answer.status, 400, "{framing}");
    }
    for line in [
        format!("GET http://evil.example{CHAT} HTTP/1.1\r\nhost: g\r\n{auth}\r\n"),
        format!("CONNECT api.openai.com:443 HTTP/1.1\r\nhost: g\r\n{auth}\r\n"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{auth}x-fold: a\r\n b\r\n\r\n"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{auth}x-nul: a\0b\r\n\r\n"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{auth}{}\r\n", "x-many: 1\r\n".repeat(200)),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{auth}x-long: {}\r\n\r\n", "a".repeat(64 * 1024)),
    ] {
        let answer = app.client().raw(line.as_bytes()).await;
        assert!((400..=431).contains(&answer.status), "{}: {}", &line[..60], answer.status);
    }
    assert!(app.upstream.seen().is_empty(), "{:?}", app.upstream.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_on_one_connection_are_not_confused() {
    let app = TestApp::start().await;
    let body = chat_request("");
    let one = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        app.key,
        body.len()
    );
    let last = one.replace("host: g\r\n", "host: g\r\nconnection: close\r\n");
    let mut stream = app.client().connect().await;
    stream.write_all(format!("{one}{one}{last}").as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 200);
    assert_eq!(app.upstream.seen().len(), 3);
    assert_eq!(answer.text().matches("HTTP/1.1 200").count(), 2, "two more answers follow the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_html_page_from_upstream_passes_and_costs_nothing() {
    let app = TestApp::start().await;
    for (status, expected) in [("502 Bad Gateway", 502), ("200 OK", 200)] {
        app.upstream.next(upstream::answer(status, "text/html", "", b"<html>Bad gateway</html>"));
        let answer = app.client().post(CHAT, &chat_request("")).await;
        assert_eq!((answer.status, answer.text().as_str()), (expected, "<html>Bad gateway</html>"));
        let call = app.settled(&answer).await;
        assert_eq!(call.outcome, Outcome::Failed, "{status}");
        assert!(call.cost.unwrap().is_zero());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_200_is_a_failure() {
    let app = TestApp::start().await;
    app.upstream.next(upstream::json(r#"{"error":{"message":"overloaded","type":"server_error"}}"#));
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(app.settled(&answer).await.outcome, Outcome::Failed);
    let event = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n".to_owned();
    app.upstream.next(upstream::events(std::slice::from_ref(&event)));
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!(answer.text(), event);
    assert_eq!(app.settled(&answer).await.outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_body_is_an_error_in_the_dialect_and_what_it_cost_is_counted() {
    let app = TestApp::start().await;
    let body = chat_answer(10, 5);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let half = format!("{head}{}", &body[..body.len() / 2]).into_bytes();
    app.upstream.next(vec![Step::Send(half), Step::Sleep(Duration::from_millis(50)), Step::Break]);
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((answer.status, answer.header("wb-deny")), (503, Some("upstream_unavailable")));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("broke off"));
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.usage_basis), (Outcome::Failed, UsageBasis::Counted));
    assert!(!call.cost.unwrap().is_zero());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_upstream_is_given_up() {
    let app = TestApp::with(Setup { idle_timeout_s: 1, ..Setup::default() }).await;
    app.upstream.next(vec![Step::Hang]);
    let answer = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!((answer.status, answer.header("wb-deny")), (503, Some("upstream_unavailable")));
    // It may have worked for us: the input is counted, not forgotten.
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.usage_basis), (Outcome::Failed, UsageBasis::Counted));
    app.upstream.next(vec![events_head(), Step::Hang]);
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert!(answer.whole && answer.text().contains("\"error\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_weight_passes_after_the_last_event() {
    let app = TestApp::start().await;
    let more = chunk(format!(": {}\n\n", "x".repeat(1_000)).as_bytes());
    let mut steps = vec![events_head()];
    steps.extend(chat_events(Some((10, 5))).iter().map(|event| Step::Send(chunk(event.as_bytes()))));
    steps.extend([Step::Repeat(more, 2_000), Step::Hang]);
    app.upstream.next(steps);
    let asked = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let answer = app.client().post(CHAT, &chat_request(asked)).await;
    assert!(answer.whole && answer.text().contains("[DONE]"));
    assert!(answer.body.len() < 80 * 1024, "{} bytes passed", answer.body.len());
    let call = app.settled(&answer).await;
    assert_eq!((call.outcome, call.usage_basis), (Outcome::Completed, UsageBasis::Vendor));
}

/// Held by tests that look at the memory of the process: two at once would measure each other.
static MEMORY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Resident memory of this process, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_hundreds_of_megabytes_costs_no_memory() {
    let _alone = MEMORY.lock().await;
    let app = TestApp::start().await;
    let line =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(32 * 1024));
    let piece = chunk(line.as_bytes());
    let times = 200 * 1024 * 1024 / piece.len();
    let end = "data: [DONE]\n\n".to_owned();
    app.upstream.next(vec![events_head(), Step::Repeat(piece, times), Step::Send(chunk(end.as_bytes())), last_chunk()]);
    let client = app.client();
    let request = chat_request(r#","stream":true"#);
    let mut stream = client.connect().await;
    stream.write_all(&client.head("POST", CHAT, "", request.len())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let before = resident_mib();
    let (mut total, mut most, mut buffer) = (0usize, 0, vec![0u8; 256 * 1024]);
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        total += read;
        most = most.max(resident_mib());
    }
    assert!(total > 200 * 1024 * 1024, "{total}");
    assert!(most < before + 64, "{before} MiB before, {most} MiB at most");
    app.quiet().await;
    assert_eq!(app.calls()[0].outcome, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_passes_in_bounded_memory() {
    let _alone = MEMORY.lock().await;
    let app = TestApp::start().await;
    let piece = chunk(&vec![b'a'; 64 * 1024]);
    app.upstream.next(vec![events_head(), Step::Send(chunk(b"data: ")), Step::Repeat(piece, 1_000), last_chunk()]);
    let before = resident_mib();
    let answer = app.client().post(CHAT, &chat_request(r#","stream":true"#)).await;
    assert_eq!(answer.body.len(), 6 + 64_000 * 1024);
    // The test itself holds the answer twice; the gateway must not add to it.
    assert!(resident_mib() < before + 250, "{before} → {}", resident_mib());
    assert_eq!(app.settled(&answer).await.outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_credentials_in_a_row_do_not_lock_loopback_out() {
    let app = TestApp::start().await;
    let stranger = crate::support::Client { key: "wbk_nonsense".into(), ..app.client() };
    for _ in 0..70 {
        assert_eq!(stranger.post(CHAT, "{}").await.status, 401);
    }
    assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 200);
    // Beyond sixty a minute, records are folded.
    let refused = app.calls().iter().filter(|c| c.outcome == Outcome::Refused).count();
    assert_eq!(refused, 60);
}

#[test]
fn answers_without_a_length_are_read_to_their_end() {
    assert!(parse(b"HTTP/1.1 200 OK\r\n\r\nabc").whole);
}
