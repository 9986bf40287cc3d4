//! What a tap passes, holds back and drops, and what it costs under hostile answers.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::*;
use crate::domain::Component;

pub struct Played {
    pub seen: Observation,
    /// What the caller got before the settlement, and in all.
    early: Vec<u8>,
    passed: Vec<u8>,
}

pub fn play(
    endpoint: &'static str,
    kind: &str,
    coding: Option<&str>,
    drop_usage: bool,
    pieces: &[&[u8]],
    end: End,
) -> Played {
    let dialect = if endpoint == "messages" { named("anthropic") } else { named("openai") }.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(kind).unwrap());
    if let Some(coding) = coding {
        headers.insert("content-encoding", HeaderValue::from_str(coding).unwrap());
    }
    let facts = CallFacts::of(endpoint, Metering::Metered);
    let mut tap = dialect.tap(&facts, &ResponseHead { status: 200, headers: &headers }, drop_usage);
    let mut pass = Vec::new();
    for piece in pieces {
        tap.feed(Bytes::copy_from_slice(piece), &mut pass);
    }
    let early = pass.concat();
    let seen = tap.finish(end);
    tap.release(&mut pass);
    Played { seen, early, passed: pass.concat() }
}

pub const SSE: &str = "text/event-stream; charset=utf-8";

fn chat(drop: bool, pieces: &[&[u8]]) -> Played {
    play("chat.completions", SSE, None, drop, pieces, End::Complete)
}

fn output(p: &Played) -> Option<u64> {
    p.seen.usage.as_ref().and_then(|u| u.get(Component::OutputTokens))
}

fn stream(end: &str) -> String {
    let lines = [
        r#"data: {"id":"c","model":"m","choices":[],"prompt_filter_results":[]}"#,
        r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"hé"}}],"usage":null}"#,
        r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
        r#"data: {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        ": comment",
        "data: [DONE]",
    ];
    lines.iter().map(|l| format!("{l}{end}{end}")).collect()
}

#[test]
fn the_usage_chunk_we_asked_for_is_dropped_and_nothing_else() {
    for end in ["\n", "\r\n", "\r"] {
        let text = stream(end);
        let dropped: String =
            text.split_inclusive(&format!("{end}{end}")).filter(|e| !e.contains("completion_tokens")).collect();
        for cut in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            let p = chat(true, &[a, b]);
            assert_eq!(String::from_utf8_lossy(&p.passed), dropped, "cut at {cut} with {end:?}");
            assert_eq!(output(&p), Some(2));
            assert_eq!(chat(false, &[a, b]).passed, text.as_bytes());
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(chat(true, &bytes).passed, dropped.as_bytes());
    }
}

#[test]
fn usage_in_a_chunk_with_a_choice_passes() {
    let text = "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1},\"choices\":[{\"index\":0,\"delta\":{}}]}\n\ndata: [DONE]\n\n";
    assert_eq!(chat(true, &[text.as_bytes()]).passed, text.as_bytes());
}

#[test]
fn only_what_ends_the_stream_waits() {
    let text = stream("\n");
    let p = chat(false, &[text.as_bytes()]);
    assert_eq!(p.early, &text.as_bytes()[..text.len() - 2]);
    for (endpoint, event) in [
        (
            "responses",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\"}}",
        ),
        ("responses", "data: {\"response\":{\"status\":\"failed\"},\"type\":\"response.failed\"}"),
        ("messages", "event: message_stop\ndata: {\"type\":\"message_stop\"}"),
        ("messages", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}"),
    ] {
        let text = format!("event: ping\ndata: {{}}\n\n{event}\n\n");
        let p = play(endpoint, SSE, None, false, &[text.as_bytes()], End::Complete);
        assert_eq!(p.early, &text.as_bytes()[..text.len() - 2], "{event}");
        assert_eq!(p.passed, text.as_bytes());
        assert_eq!(p.seen.error.is_some(), event.contains("failed") || event.contains("error"));
    }
}

#[test]
fn a_plain_body_passes_one_piece_behind() {
    let p = play(
        "chat.completions",
        "application/json",
        None,
        false,
        &[b"{\"usage\":", b"{\"prompt_tokens\":1,", b"\"completion_tokens\":2}}"],
        End::Complete,
    );
    assert_eq!(p.early, b"{\"usage\":{\"prompt_tokens\":1,");
    assert_eq!((output(&p), p.seen.verdict), (Some(2), Verdict::Ok));
}

#[test]
fn an_event_without_its_empty_line_counts_if_it_is_whole() {
    let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}";
    let p = chat(false, &[text.as_bytes()]);
    assert_eq!((output(&p), p.seen.verdict, p.passed.len()), (Some(2), Verdict::Ok, text.len()));
    let broken = chat(false, &[&text.as_bytes()[..70]]);
    assert_eq!((output(&broken), broken.seen.verdict), (None, Verdict::Truncated));
    assert!(broken.seen.usage_missing);
    let done = chat(false, &[b"data: {}\n\ndata: [DONE]"]);
    assert_eq!(done.seen.verdict, Verdict::Ok);
}

#[test]
fn usage_stated_twice_is_the_last_one_and_never_the_sum() {
    let text = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n".repeat(3)
        + "data: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9},\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":7}}\n\n";
    assert_eq!(output(&chat(false, &[text.as_bytes()])), Some(7));
}

#[test]
fn counts_that_cannot_be_are_absent_and_flagged() {
    for bad in ["18446744073709551615", "1e30", "-5"] {
        let body = format!("{{\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{bad}}}}}");
        let p = play("chat.completions", "application/json", None, false, &[body.as_bytes()], End::Complete);
        assert_eq!((output(&p), p.seen.flags.as_slice()), (None, ["bad_count"].as_slice()), "{bad}");
    }
}

#[test]
fn a_broken_off_anthropic_stream_states_its_input_and_no_output() {
    let text = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"c\",\"usage\":{\"input_tokens\":50,\"cache_read_input_tokens\":7,\"output_tokens\":1}}}\n\n\
                event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hello\"}}\n\n";
    let p = play("messages", SSE, None, false, &[text.as_bytes()], End::CallerLeft);
    assert_eq!(p.seen.usage.as_ref().and_then(|u| u.get(Component::InputTokens)), Some(57));
    assert_eq!((output(&p), p.seen.usage_missing, p.seen.output_text.as_str()), (None, true, "hello"));
    assert_eq!(p.seen.verdict, Verdict::Truncated);
}

#[test]
fn gzip_is_read_in_a_copy_and_its_last_piece_waits() {
    let text = stream("\n");
    for (coding, wire) in [
        ("gzip", encode(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()), &text)),
        ("deflate", encode(flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best()), &text)),
        ("deflate", encode(flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best()), &text)),
        // Decoded on the way by someone who left the header standing.
        ("gzip", text.clone().into_bytes()),
        ("br", text.clone().into_bytes()),
    ] {
        for pieces in [vec![wire.as_slice()], wire.chunks(1).collect(), wire.chunks(7).collect()] {
            let p = play("chat.completions", SSE, Some(coding), false, &pieces, End::Complete);
            assert_eq!((output(&p), p.seen.verdict), (Some(2), Verdict::Ok), "{coding}");
            assert_eq!(p.passed, wire);
            assert!(p.early.len() < wire.len());
        }
    }
    let p = play("chat.completions", SSE, Some("br"), false, &[b"\x0b\x02", b"xyz"], End::Complete);
    assert_eq!(
        (p.passed.as_slice(), p.seen.usage_missing, p.seen.flags.as_slice()),
        (b"\x0b\x02xyz".as_slice(), true, ["unreadable_encoding"].as_slice())
    );
}

fn encode<W: Write + Finish>(mut encoder: W, text: &str) -> Vec<u8> {
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.done()
}
trait Finish {
    fn done(self) -> Vec<u8>;
}
macro_rules! finish {
    ($($t:ident),*) => { $(impl Finish for flate2::write::$t<Vec<u8>> { fn done(self) -> Vec<u8> { self.finish().unwrap() } })* };
}
finish!(GzEncoder, ZlibEncoder, DeflateEncoder);

/// Feeds a tap and forgets what passes, as a server does; gives the most bytes it ever kept from the caller.
fn most_held(
    endpoint: &'static str,
    drop: bool,
    kind: &str,
    pieces: impl Iterator<Item = Bytes>,
) -> (Observation, usize) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(kind).unwrap());
    let facts = CallFacts::of(endpoint, Metering::Metered);
    let mut tap = named("openai").unwrap().tap(&facts, &ResponseHead { status: 200, headers: &headers }, drop);
    let (mut fed, mut passed, mut most) = (0, 0, 0);
    for piece in pieces {
        let mut pass = Vec::new();
        fed += piece.len();
        tap.feed(piece, &mut pass);
        passed += pass.iter().map(Bytes::len).sum::<usize>();
        most = most.max(fed - passed);
    }
    (tap.finish(End::Complete), most)
}

#[test]
fn an_endless_line_is_neither_held_nor_kept() {
    let piece = Bytes::from(vec![b'a'; 1 << 20]);
    let start = Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
    let endless = || std::iter::once(start.clone()).chain(std::iter::repeat_n(piece.clone(), 64));
    let (seen, held) = most_held("chat.completions", false, SSE, endless());
    assert_eq!((held, seen.output_bytes, seen.output_text.len()), (0, 64 << 20, 256 << 10));
    let (seen, _) = most_held("responses", false, SSE, endless());
    assert_eq!((seen.verdict, seen.output_bytes), (Verdict::Truncated, 0));
    // An event that could still be the usage chunk waits for 64 KiB and no longer.
    let start = Bytes::from_static(b"data: {\"pad\":\"");
    let undecided = std::iter::once(start).chain(std::iter::repeat_n(piece.slice(..1024), 4096));
    let (_, held) = most_held("chat.completions", true, SSE, undecided);
    assert!(held <= 64 << 10, "{held}");
    let (_, held) = most_held("chat.completions", false, "application/json", std::iter::repeat_n(piece.clone(), 8));
    assert_eq!(held, 1 << 20);
}

#[test]
fn a_terminal_event_of_many_megabytes_is_read_in_passing() {
    let item = r#"{"type":"function_call","name":"f","arguments":"{}"},"#;
    let start = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"status\":\"completed\",\"output\":[";
    let text = "x".repeat(1 << 20);
    let end = format!(
        "{item}{{\"type\":\"message\",\"content\":[{{\"type\":\"output_text\",\"text\":\"{text}\"}}]}}],\"usage\":{{\"input_tokens\":1,\"output_tokens\":5}}}}}}\n\n"
    );
    let body = Bytes::from(format!("{start}{}{end}", item.repeat(100)));
    let pieces: Vec<Bytes> = (0..body.len()).step_by(1000).map(|i| body.slice(i..body.len().min(i + 1000))).collect();
    let (seen, held) = most_held("responses", false, SSE, pieces.into_iter());
    assert_eq!(held, 2);
    assert_eq!((seen.tools_called, seen.tool_names.len(), seen.finish_reason), (101, 64, Some("tool_calls")));
    assert_eq!(seen.usage.unwrap().get(Component::OutputTokens), Some(5));
}

#[test]
fn a_million_tiny_pieces_take_seconds_not_minutes() {
    let text = stream("\n");
    let piece = Bytes::from(text.replace("data: [DONE]\n\n", ""));
    let started = std::time::Instant::now();
    let bytes = (0..1_000_000).map(|i| piece.slice(i % piece.len()..i % piece.len() + 1));
    let (seen, held) = most_held("chat.completions", false, SSE, bytes);
    assert!(held == 0 && seen.usage.is_some());
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn hostile_bytes_end_in_a_verdict() {
    let deep = format!("{{\"choices\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [&[u8]; 7] =
        [b"<html>502</html>", b"\0\0\0", b"\xff\xfe{", b"{\"usage\":\xff}", deep.as_bytes(), b"null", b"[]"];
    for body in bodies {
        for kind in [SSE, "application/json", "text/html"] {
            let p = play("chat.completions", kind, None, true, &[body], End::Complete);
            assert_eq!(p.passed, body);
            assert_eq!(p.seen.usage, None);
            assert!(p.seen.usage_missing);
        }
    }
}

#[test]
fn what_has_passed_so_far_is_known_while_the_answer_runs() {
    let facts = CallFacts::of("chat.completions", Metering::Metered);
    let headers = http::HeaderMap::new();
    let head = ResponseHead { status: 200, headers: &headers };
    let mut tap = named("openai").unwrap().tap(&facts, &head, false);
    let mut pass = Vec::new();
    assert_eq!(tap.output_so_far(), 0);
    for n in 1..=3 {
        let event = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"eight ch\"}}]}\n\n";
        tap.feed(Bytes::from_static(event), &mut pass);
        assert_eq!(tap.output_so_far(), n * 2);
    }
}
