//! The protocols that are not OpenAI's or Anthropic's, under what a network and a hostile provider can do to them: any
//! split, any JSON in the place of usage, streams without end.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::counts::MAX_COUNT;
use super::event_stream::frame;
use super::*;
use crate::domain::Component;

/// A stream of one protocol: who reads it, how it is asked for, what it says of itself.
struct Case {
    dialect: &'static str,
    path: &'static str,
    request: &'static str,
    kind: &'static str,
    body: Vec<u8>,
    /// Bytes at its end that wait for the settlement.
    held: usize,
    input: u64,
    output: u64,
}

fn events(list: &[&str]) -> Vec<u8> {
    list.iter().map(|e| format!("data: {}\r\n\r\n", e.replace('\n', ""))).collect::<String>().into_bytes()
}

fn converse(name: &str, json: &str) -> Vec<u8> {
    frame(&[(":event-type", name), (":content-type", "application/json"), (":message-type", "event")], json.as_bytes())
}

fn invoke(json: &str) -> Vec<u8> {
    let coded = data_encoding::BASE64.encode(json.as_bytes());
    converse("chunk", &format!(r#"{{"bytes":"{coded}","p":"abcdefghij"}}"#))
}

const FIRST: &str = r#"{"candidates":[{"content":{"parts":[{"text":"hé"}]}}],"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7}}"#;
const LAST: &str = r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":"]}"}}}]},"finishReason":"STOP"}],
    "usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":2,"thoughtsTokenCount":3,"totalTokenCount":12},"responseId":"r"}"#;

fn cases() -> Vec<Case> {
    let stream = "/v1beta/models/gemini-3-pro:streamGenerateContent";
    let gemini = |kind, body, held| Case {
        dialect: "gemini",
        path: stream,
        request: r#"{"contents":[]}"#,
        kind,
        body,
        held,
        input: 7,
        output: 5,
    };
    let bedrock = |path, request, body| Case {
        dialect: "bedrock",
        path,
        request,
        kind: "application/vnd.amazon.eventstream",
        body,
        held: 1,
        input: 9,
        output: 4,
    };
    let claude = [
        r#"{"type":"message_start","message":{"id":"m","model":"claude","usage":{"input_tokens":9,"output_tokens":1}}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hé"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
        r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":4}}"#,
    ];
    let interaction = [
        r#"{"interaction":{"id":"i","status":"in_progress"},"event_type":"interaction.created"}"#,
        r#"{"index":0,"delta":{"text":"hé","type":"text"},"event_type":"step.delta"}"#,
        r#"{"interaction":{"id":"i","status":"completed","usage":{"total_input_tokens":7,"total_output_tokens":2,"total_thought_tokens":3,"total_tokens":12}},"event_type":"interaction.completed"}"#,
        "[DONE]",
    ];
    vec![
        gemini("text/event-stream", events(&[FIRST, LAST]), 4),
        gemini("application/json; charset=UTF-8", format!("[{FIRST}\r\n,\r\n{LAST}\r\n]\r\n").into_bytes(), 6),
        Case { path: "/v1beta/interactions", request: r#"{"model":"m","input":"x","stream":true}"#, ..gemini("text/event-stream", events(&interaction), 4) },
        bedrock(
            "/model/m/converse-stream",
            r#"{"messages":[]}"#,
            [
                converse("contentBlockStart", r#"{"contentBlockIndex":0,"start":{"toolUse":{"name":"f","toolUseId":"t"}}}"#),
                converse("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{}"}}}"#),
                converse("messageStop", r#"{"stopReason":"tool_use"}"#),
                converse("metadata", r#"{"usage":{"inputTokens":9,"outputTokens":4,"totalTokens":13},"metrics":{"latencyMs":1}}"#),
            ]
            .concat(),
        ),
        bedrock(
            "/model/anthropic.claude/invoke-with-response-stream",
            r#"{"anthropic_version":"bedrock-2023-05-31","messages":[],"max_tokens":9}"#,
            claude.iter().flat_map(|e| invoke(e)).collect(),
        ),
        bedrock(
            "/model/amazon.nova-lite-v1:0/invoke-with-response-stream",
            r#"{"messages":[],"inferenceConfig":{}}"#,
            [
                invoke(r#"{"contentBlockDelta":{"delta":{"text":"hé"},"contentBlockIndex":0}}"#),
                invoke(r#"{"messageStop":{"stopReason":"end_turn"}}"#),
                invoke(r#"{"metadata":{"usage":{"inputTokens":9,"outputTokens":4}},"amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":4}}"#),
            ]
            .concat(),
        ),
        Case {
            dialect: "cohere",
            path: "/v2/chat",
            request: r#"{"model":"command-a","messages":[],"stream":true}"#,
            kind: "text/event-stream",
            body: events(&[
                r#"{"type":"message-start","id":"i"}"#,
                r#"{"type":"content-delta","delta":{"message":{"content":{"text":"hé"}}}}"#,
                r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":7,"output_tokens":5}}}}"#,
            ]),
            held: 4,
            input: 7,
            output: 5,
        },
        Case {
            dialect: "ollama",
            path: "/api/generate",
            request: r#"{"model":"llama3","prompt":"x"}"#,
            kind: "application/x-ndjson",
            body: b"{\"model\":\"llama3\",\"response\":\"h\",\"done\":false}\n{\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":7,\"eval_count\":5}\n".to_vec(),
            held: 1,
            input: 7,
            output: 5,
        },
    ]
}

impl Case {
    fn tap(&self) -> Box<dyn Tap> {
        let dialect = named(self.dialect).unwrap();
        let headers = HeaderMap::new();
        let head = RequestHead { method: &Method::POST, path: self.path, query: None, headers: &headers };
        let facts = dialect.read_request(&head, self.request.as_bytes()).unwrap();
        assert!(facts.stream, "{}", self.path);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_str(self.kind).unwrap());
        dialect.tap(&facts, &ResponseHead { status: 200, headers: &headers }, false)
    }

    /// What was seen, what passed before the settlement, and in all.
    fn play(&self, pieces: &[&[u8]], end: End) -> (Observation, Vec<u8>, Vec<u8>) {
        let (mut tap, mut pass) = (self.tap(), Vec::new());
        for piece in pieces {
            tap.feed(Bytes::copy_from_slice(piece), &mut pass);
        }
        let early = pass.concat();
        let seen = tap.finish(end);
        tap.release(&mut pass);
        (seen, early, pass.concat())
    }
}

#[test]
fn a_stream_split_at_any_byte_reads_the_same_passes_whole_and_keeps_only_its_end() {
    for case in cases() {
        let (whole, early, passed) = case.play(&[&case.body], End::Complete);
        let name = format!("{} {} {}", case.dialect, case.path, case.kind);
        let count = |c| whole.usage.as_ref().and_then(|u| u.get(c));
        assert_eq!((whole.verdict, whole.usage_missing), (Verdict::Ok, false), "{name}");
        assert_eq!(count(Component::InputTokens), Some(case.input), "{name}");
        assert_eq!(count(Component::OutputTokens), Some(case.output), "{name}");
        assert_eq!(passed, case.body, "{name}");
        assert_eq!(early, case.body[..case.body.len() - case.held], "{name}");
        for at in 1..case.body.len() {
            let (a, b) = case.body.split_at(at);
            let (seen, early, passed) = case.play(&[a, b], End::Complete);
            assert!(seen == whole && passed == case.body, "{name} split at {at}: {seen:?}");
            assert!(early.len() <= case.body.len() - 1, "{name} split at {at}: nothing waits");
        }
        let bytes: Vec<&[u8]> = case.body.chunks(1).collect();
        assert_eq!(case.play(&bytes, End::Complete).0, whole, "{name} byte by byte");
    }
}

#[test]
fn a_stream_that_breaks_off_anywhere_is_never_taken_for_a_whole_one_without_its_usage() {
    for case in cases() {
        for at in 1..case.body.len() - case.held.max(2) {
            for end in [End::UpstreamDied, End::Complete] {
                let (seen, _, passed) = case.play(&[&case.body[..at]], end);
                assert_eq!(passed, &case.body[..at]);
                let output = seen.usage.as_ref().and_then(|u| u.get(Component::OutputTokens));
                let sure = output == Some(case.output);
                assert!(seen.usage_missing || output.is_some(), "{} {at}", case.path);
                assert!(seen.verdict != Verdict::Ok || sure, "{} {} broken at {at}: {seen:?}", case.path, case.kind);
            }
        }
    }
}

#[test]
fn more_events_after_the_one_that_may_be_the_last_are_read_and_pass() {
    let grounding = r#"{"candidates":[{"groundingMetadata":{"webSearchQueries":["a","b"]}}],"usageMetadata":{"promptTokenCount":7,"toolUsePromptTokenCount":20,"totalTokenCount":32}}"#;
    for case in cases().into_iter().filter(|c| c.path.contains("Generate")) {
        let array = case.kind.starts_with("application/json");
        let body = if array {
            format!("[{FIRST},{LAST},{grounding}]").into_bytes()
        } else {
            events(&[FIRST, LAST, grounding])
        };
        let case = Case { body, ..case };
        for at in 1..case.body.len() {
            let (a, b) = case.body.split_at(at);
            let (seen, _, passed) = case.play(&[a, b], End::Complete);
            let usage = seen.usage.unwrap();
            let counts =
                [Component::InputTokens, Component::OutputTokens, Component::WebSearches].map(|c| usage.get(c));
            assert_eq!(counts, [Some(27), Some(5), Some(2)], "{at}");
            assert_eq!(passed, case.body, "{at}");
        }
    }
}

#[test]
fn a_changed_frame_makes_its_stream_unsure_and_passes_as_it_came() {
    for case in cases().into_iter().filter(|c| c.dialect == "bedrock") {
        let mut body = case.body.clone();
        let at = body.len() / 2;
        body[at] ^= 4;
        let (seen, _, passed) = case.play(&[&body], End::Complete);
        assert_eq!(passed, body);
        assert!(seen.usage.is_none() && seen.usage_missing && seen.flags.contains(&"broken_frame"), "{seen:?}");
    }
}

#[test]
fn an_exception_inside_a_stream_is_its_last_word() {
    for case in cases().into_iter().filter(|c| c.dialect == "bedrock") {
        let exception = frame(
            &[(":message-type", "exception"), (":exception-type", "throttlingException")],
            br#"{"message":"slow down"}"#,
        );
        let first = frame_length(&case.body);
        let body = [&case.body[..first], &exception].concat();
        let (seen, early, passed) = Case { body: body.clone(), ..case }.play(&[&body], End::Complete);
        assert_eq!((seen.verdict, seen.error.as_deref()), (Verdict::Error, Some("throttlingException")));
        assert_eq!((early.len(), passed), (body.len() - 1, body));
    }
}

fn frame_length(stream: &[u8]) -> usize {
    u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize
}

#[test]
fn nothing_is_kept_in_proportion_to_what_passes() {
    let text = "x".repeat(1 << 20);
    let endless: [(&str, Vec<u8>, Vec<u8>, Vec<u8>); 4] = [
        (
            "text/event-stream",
            b"data: {\"candidates\":[{\"content\":{\"parts\":[{\"inlineData\":{\"data\":\"".to_vec(),
            text.clone().into(),
            vec![],
        ),
        (
            "application/json",
            b"[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"".to_vec(),
            text.clone().into(),
            vec![],
        ),
        ("application/x-ndjson", b"{\"response\":\"".to_vec(), text.clone().into(), vec![]),
        (
            "application/vnd.amazon.eventstream",
            vec![],
            converse("contentBlockDelta", &format!(r#"{{"delta":{{"text":"{text}"}}}}"#)),
            vec![],
        ),
    ];
    for (kind, start, piece, _) in endless {
        let Some(case) = cases().into_iter().find(|c| c.kind.starts_with(kind)) else { panic!("{kind}") };
        let mut tap = case.tap();
        let (mut pass, mut fed, mut passed) = (Vec::new(), 0, 0);
        for bytes in std::iter::once(Bytes::from(start)).chain(std::iter::repeat_n(Bytes::from(piece), 40)) {
            fed += bytes.len();
            tap.feed(bytes, &mut pass);
            passed += pass.drain(..).map(|b: Bytes| b.len()).sum::<usize>();
        }
        assert!(fed - passed < 64, "{kind}: {} held", fed - passed);
        let seen = tap.finish(End::UpstreamDied);
        assert!(seen.output_text.len() <= 256 << 10, "{kind}");
        assert!(seen.verdict == Verdict::Truncated && seen.usage.is_none(), "{kind}");
    }
}

/// JSON as nobody would send it: numbers of all kinds, deep nests, names given twice.
fn odd_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("-1".into()),
        Just("1.5".into()),
        Just("1e400".into()),
        Just("18446744073709551616".into()),
        Just("999999999999999".into()),
        (0u64..100_000).prop_map(|n| n.to_string()),
        Just("\"7\"".into()),
        Just("[[[[[[[[]]]]]]]]".into()),
        Just(format!("{}{}", "[".repeat(200), "]".repeat(200))),
        Just(r#"[{"modality":"AUDIO","tokenCount":5},{"modality":4,"tokenCount":-5},7]"#.into()),
        Just(r#"[{"ttl":"1h","inputTokens":50},{"ttl":5}]"#.into()),
    ];
    let names = prop_oneof![
        Just("promptTokenCount"),
        Just("candidatesTokenCount"),
        Just("thoughtsTokenCount"),
        Just("cachedContentTokenCount"),
        Just("toolUsePromptTokenCount"),
        Just("totalTokenCount"),
        Just("promptTokensDetails"),
        Just("cacheTokensDetails"),
        Just("inputTokens"),
        Just("outputTokens"),
        Just("totalTokens"),
        Just("cacheReadInputTokens"),
        Just("cacheWriteInputTokens"),
        Just("cacheDetails"),
        Just("billed_units"),
    ];
    proptest::collection::vec((names, leaf), 0..10).prop_map(|pairs| {
        let inside: Vec<String> = pairs.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
        format!("{{{}}}", inside.join(","))
    })
}

proptest! {
    #[test]
    fn whatever_stands_in_the_place_of_usage_is_booked_within_bounds_or_not_at_all(usage in odd_json(), cut in 0usize..400) {
        let requests = [
            ("gemini", "/v1/models/m:generateContent", r#"{"contents":[]}"#, format!(r#"{{"candidates":[{{"finishReason":"STOP"}}],"usageMetadata":{usage}}}"#)),
            ("bedrock", "/model/m/converse", r#"{"messages":[]}"#, format!(r#"{{"stopReason":"end_turn","usage":{usage}}}"#)),
            ("cohere", "/v2/chat", r#"{"model":"m","messages":[]}"#, format!(r#"{{"finish_reason":"COMPLETE","usage":{{"billed_units":{usage}}}}}"#)),
        ];
        for (dialect, path, request, body) in requests {
            let dialect = named(dialect).unwrap();
            let headers = HeaderMap::new();
            let head = RequestHead { method: &Method::POST, path, query: None, headers: &headers };
            let facts = dialect.read_request(&head, request.as_bytes()).unwrap();
            let read = |pieces: &[&[u8]]| {
                let mut tap = dialect.tap(&facts, &ResponseHead { status: 200, headers: &headers }, false);
                let mut pass = Vec::new();
                for piece in pieces {
                    tap.feed(Bytes::copy_from_slice(piece), &mut pass);
                }
                let seen = tap.finish(End::Complete);
                tap.release(&mut pass);
                (seen, pass.concat())
            };
            let (seen, passed) = read(&[body.as_bytes()]);
            prop_assert_eq!(&passed, body.as_bytes());
            let (a, b) = body.as_bytes().split_at(cut.min(body.len()));
            prop_assert_eq!(&read(&[a, b]).0, &seen);
            let Some(usage) = seen.usage else { continue };
            let get = |c| usage.get(c).unwrap_or(0);
            prop_assert!(usage.iter().all(|(_, n)| n <= 4 * MAX_COUNT));
            use Component::*;
            if usage.get(InputTokens).is_some() {
                prop_assert!(get(CacheReadTokens) + get(CacheWriteTokens) <= get(InputTokens), "{:?}", usage);
                prop_assert!(get(InputAudioTokens) + get(InputImageTokens) + get(InputVideoTokens) <= get(InputTokens));
                prop_assert!(get(CacheAudioReadTokens) <= get(InputAudioTokens).min(get(CacheReadTokens)));
            }
            if usage.get(OutputTokens).is_some() {
                prop_assert!(get(OutputReasoningTokens) <= get(OutputTokens));
            }
        }
    }
}
