//! One small answer for every oddity of a vendor that provider-usage names: what it has to read as.

use super::tap_tests::{SSE, play};
use super::*;
use crate::domain::Component::{self, *};

fn plain(endpoint: &'static str, body: &str) -> Observation {
    play(endpoint, "application/json", None, false, &[body.as_bytes()], End::Complete).seen
}

fn events(endpoint: &'static str, events: &[&str]) -> Observation {
    let text: String = events.iter().map(|e| format!("data: {e}\n\n")).collect();
    play(endpoint, SSE, None, false, &[text.as_bytes()], End::Complete).seen
}

fn counts(seen: &Observation, wanted: &[Component]) -> Vec<Option<u64>> {
    wanted.iter().map(|c| seen.usage.as_ref().and_then(|u| u.get(*c))).collect()
}

#[test]
fn usage_is_found_where_look_alikes_put_it() {
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop""#;
    for last in [
        format!(
            r#"{end}}}],"x_groq":{{"id":"r","usage":{{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}}}}}"#
        ),
        format!(r#"{end},"usage":{{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}}}]}}"#),
        format!(r#"{end}}}],"usage":{{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}}}"#),
    ] {
        let seen = events(
            "chat.completions",
            &[r#"{"id":"a","model":"","choices":[]}"#, r#"{"model":"m","usage":null}"#, &last, "[DONE]"],
        );
        assert_eq!(counts(&seen, &[InputTokens, OutputTokens]), [Some(5), Some(7)], "{last}");
        assert_eq!((seen.model.as_deref(), seen.finish_reason, seen.verdict), (Some("m"), Some("stop"), Verdict::Ok));
    }
}

#[test]
fn cumulative_usage_on_every_chunk_is_never_summed() {
    let chunk = |n: u32| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"x"}}}}],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#
        )
    };
    let seen = events("chat.completions", &[&chunk(1), &chunk(2), &chunk(3), "[DONE]"]);
    assert_eq!(counts(&seen, &[InputTokens, OutputTokens]), [Some(5), Some(3)]);
}

#[test]
fn a_compound_system_is_booked_by_its_inner_calls() {
    let inner = r#"{"model":"a","usage":{"prompt_tokens":10,"completion_tokens":1}},{"model":"b","usage":{"prompt_tokens":20,"completion_tokens":2}}"#;
    let body = format!(
        r#"{{"choices":[{{"message":{{"executed_tools":[{{}},{{}}]}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":20,"completion_tokens":2}},"usage_breakdown":{{"models":[{inner}]}}}}"#
    );
    let seen = plain("chat.completions", &body);
    assert_eq!(counts(&seen, &[InputTokens, OutputTokens]), [Some(30), Some(3)]);
    assert_eq!((seen.server_tool_calls, seen.tools_called), (2, 0));
}

#[test]
fn tool_calls_in_pieces_are_counted_once_with_or_without_index_and_id() {
    let piece = |choice: u32, inner: &str| {
        format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{{{inner}}}]}},"index":{choice}}}]}}"#)
    };
    let indexed = [
        piece(0, r#""index":0,"id":"a","function":{"name":"f","arguments":""}"#),
        piece(0, r#""function":{"arguments":"{}"},"index":0"#),
        piece(0, r#""index":1,"id":"b","function":{"name":"g"}"#),
        piece(1, r#""index":0,"id":"c","type":"custom","custom":{"name":"h","input":"x"}"#),
    ];
    let seen = events("chat.completions", &indexed.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((seen.tools_called, seen.tool_names.join(",").as_str()), (3, "f,g,h"));
    let named = [piece(0, r#""id":"a","function":{"name":"f"}"#), piece(0, r#""id":"b","function":{"name":"g"}"#)];
    let seen = events("chat.completions", &named.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(seen.tools_called, 2);
    let legacy = plain(
        "chat.completions",
        r#"{"choices":[{"message":{"function_call":{"name":"f","arguments":"{}"}},"finish_reason":"function_call"}]}"#,
    );
    assert_eq!((legacy.tools_called, legacy.finish_reason), (1, Some("tool_calls")));
    let empty = plain(
        "chat.completions",
        r#"{"choices":[{"message":{"function_call":{"name":"","arguments":""}},"finish_reason":""}]}"#,
    );
    assert_eq!((empty.tools_called, empty.finish_reason), (0, None));
}

#[test]
fn a_body_of_millions_of_tool_calls_is_bounded() {
    let body = format!(
        r#"{{"choices":[{{"message":{{"tool_calls":[{}{{}}]}}}}]}}"#,
        r#"{"function":{"name":"f"}},"#.repeat(20_000)
    );
    let seen = plain("chat.completions", &body);
    assert_eq!((seen.tools_called, seen.tool_names.len()), (4096, 64));
}

#[test]
fn an_error_inside_a_200_is_an_error_that_keeps_its_usage() {
    let seen = events(
        "chat.completions",
        &[
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#,
            r#"{"error":{"code":502,"message":"down"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
            "[DONE]",
        ],
    );
    assert_eq!((seen.verdict, seen.error.as_deref(), seen.finish_reason), (Verdict::Error, Some("502"), Some("error")));
    assert_eq!(counts(&seen, &[InputTokens]), [Some(5)]);
    assert_eq!(plain("chat.completions", r#"{"error":{"type":"server_error"}}"#).verdict, Verdict::Error);
    assert_eq!(plain("chat.completions", "<html>").error.as_deref(), Some("not_json"));
}

#[test]
fn a_response_counts_tools_by_who_executes_them_and_searches_by_its_own_count() {
    let output = r#"[{"type":"function_call","name":"f"},{"type":"shell_call","environment":{"type":"local"}},
        {"type":"shell_call","environment":{"type":"container_reference"}},{"type":"web_search_call","action":{"type":"search"}},
        {"type":"web_search_call","action":{"type":"open_page"}},{"type":"mcp_list_tools"}]"#;
    let usage = r#""usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":12}"#;
    let body = format!(r#"{{"id":"r","model":"m","status":"completed","output":{output},{usage}}}"#);
    let seen = plain("responses", &body);
    assert_eq!((seen.tools_called, seen.tool_names.join(","), seen.server_tool_calls), (2, "f,shell_call".into(), 3));
    assert_eq!(counts(&seen, &[WebSearches, CacheReadTokens, OutputReasoningTokens]), [Some(1), Some(4), Some(2)]);
    let counted =
        plain("responses", &body.replace("\"id\"", "\"tool_usage\":{\"web_search\":{\"num_requests\":5}},\"id\""));
    assert_eq!(counts(&counted, &[WebSearches]), [Some(5)]);
    assert_eq!(counted.finish_reason, Some("tool_calls"));
}

#[test]
fn a_background_response_is_pending_until_it_is_fetched() {
    let queued = plain("responses", r#"{"id":"r","status":"queued","background":true,"output":[],"usage":null}"#);
    assert_eq!(
        (queued.verdict, queued.usage_missing, queued.response_id.as_deref()),
        (Verdict::Pending, false, Some("r"))
    );
    let done = plain(
        "responses.retrieve",
        r#"{"id":"r","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"usage":{"input_tokens":1,"output_tokens":2}}"#,
    );
    assert_eq!(
        (done.verdict, done.finish_reason_raw.as_deref(), done.finish_reason),
        (Verdict::Ok, Some("max_output_tokens"), Some("length"))
    );
}

#[test]
fn a_broken_off_response_knows_the_items_that_were_announced() {
    let seen = events(
        "responses",
        &[
            r#"{"type":"response.created","response":{"id":"r","model":"m","status":"in_progress","usage":null,"output":[]}}"#,
            r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call","name":"f"}}"#,
            r#"{"type":"response.function_call_arguments.delta","delta":"{\"a\":"}"#,
            r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"function_call","name":"f","arguments":"{}"}}"#,
        ],
    );
    assert_eq!((seen.verdict, seen.tools_called, seen.usage_missing), (Verdict::Truncated, 1, true));
    assert!(seen.output_text.starts_with("{\"a\":"));
}

#[test]
fn reasoning_that_passed_encrypted_is_estimated_from_its_length_once() {
    let item = |event: &str, length: usize| {
        format!(
            r#"{{"type":"response.output_item.{event}","output_index":0,"item":{{"type":"reasoning","summary":[],"encrypted_content":"{}"}}}}"#,
            "x".repeat(length)
        )
    };
    let summary = r#"{"type":"response.reasoning_summary_text.delta","delta":"Thinks about it so."}"#;
    let (added, done) = (item("added", 310), item("done", 620));
    let seen = events("responses", &[&added, &done]);
    assert_eq!((seen.hidden_tokens, seen.output_text.as_str(), seen.usage_missing), (100, "", true));
    let seen = events("responses", &[&added, summary, &done]);
    assert_eq!((seen.hidden_tokens, seen.flags.as_slice()), (96, [].as_slice()), "the summary is of the same tokens");
    let seen = events("responses", &[&item("added", 0)]);
    assert_eq!((seen.hidden_tokens, seen.flags.as_slice()), (0, ["reasoning_unseen"].as_slice()));
}

#[test]
fn a_stream_that_ends_inside_an_event_is_not_whole_though_it_finished() {
    let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]";
    for (end, verdict) in [("", Verdict::Truncated), ("}", Verdict::Ok), ("}\n\n", Verdict::Ok)] {
        let pieces = [text.as_bytes(), end.as_bytes()];
        let seen = play("chat.completions", SSE, None, false, &pieces, End::Complete).seen;
        assert_eq!(seen.verdict, verdict, "{end:?}");
    }
}

#[test]
fn a_count_left_out_where_nothing_was_generated_is_zero() {
    let body = |text: &str| {
        format!(
            r#"{{"choices":[{{"text":"{text}","index":0,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":11,"total_tokens":11}}}}"#
        )
    };
    assert_eq!(counts(&plain("completions", &body("")), &[InputTokens, OutputTokens]), [Some(11), Some(0)]);
    assert_eq!(counts(&plain("completions", &body("Hi")), &[InputTokens, OutputTokens]), [Some(11), None]);
    let embedded = plain("embeddings", r#"{"data":[],"usage":{"prompt_tokens":11,"total_tokens":11}}"#);
    assert_eq!(counts(&embedded, &[InputTokens, OutputTokens]), [Some(11), None]);
}

#[test]
fn anthropics_delta_wins_over_its_start_and_extra_writes_are_5_minute_ones() {
    let seen = events(
        "messages",
        &[
            r#"{"type":"message_start","message":{"id":"m","model":"c","usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"cache_read_input_tokens":5,"output_tokens":1,"service_tier":"standard"}}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":12,"cache_creation_input_tokens":37,"cache_read_input_tokens":6,"output_tokens":40,"server_tool_use":{"web_search_requests":2}}}"#,
            r#"{"type":"message_stop"}"#,
        ],
    );
    let wanted = [
        InputTokens,
        CacheReadTokens,
        CacheWriteTokens,
        CacheWrite5mTokens,
        CacheWrite1hTokens,
        OutputTokens,
        WebSearches,
    ];
    assert_eq!(counts(&seen, &wanted), [55, 6, 37, 17, 20, 40, 2].map(Some));
    assert_eq!((seen.verdict, seen.service_tier.as_deref()), (Verdict::Ok, Some("standard")));
}

#[test]
fn compaction_and_advisors_are_usage_beside_the_top_level() {
    let seen = plain(
        "messages",
        r#"{"type":"message","model":"c","content":[{"type":"server_tool_use","name":"advisor"},{"type":"tool_use","name":"f","input":{}}],
        "stop_reason":"tool_use","usage":{"input_tokens":220,"output_tokens":8,"iterations":[
        {"type":"compaction","input_tokens":55196,"output_tokens":125},{"type":"message","input_tokens":220,"output_tokens":8},
        {"type":"advisor_message","model":"claude-opus-4-8","input_tokens":9,"cache_read_input_tokens":1,"output_tokens":2}]}}"#,
    );
    assert_eq!(counts(&seen, &[InputTokens, OutputTokens]), [Some(220), Some(8)]);
    let side: Vec<_> = seen.side_usage.iter().map(|(m, u)| (m.as_deref(), u.get(InputTokens))).collect();
    assert_eq!(side, [(None, Some(55196)), (Some("claude-opus-4-8"), Some(10))]);
    assert_eq!((seen.tools_called, seen.server_tool_calls, seen.finish_reason), (1, 1, Some("tool_calls")));
}

#[test]
fn the_old_complete_endpoint_says_everything_but_usage() {
    let seen = events("complete", &[]);
    assert_eq!(seen.usage, None);
    let anthropic = named("anthropic").unwrap();
    let headers = http::HeaderMap::new();
    let facts = CallFacts::of("complete", Metering::Metered);
    let mut tap = anthropic.tap(&facts, &ResponseHead { status: 200, headers: &headers }, false);
    let body = "event: completion\ndata: {\"type\":\"completion\",\"completion\":\" Hi\",\"stop_reason\":\"stop_sequence\",\"model\":\"claude-2.1\"}\n\n";
    let progress = tap.feed(bytes::Bytes::from(body), &mut Vec::new());
    let seen = tap.finish(End::Complete);
    assert_eq!((progress, seen.verdict, seen.usage_missing), (Progress::Last, Verdict::Ok, true));
    assert_eq!((seen.output_text.as_str(), seen.finish_reason), (" Hi", Some("stop")));
}
