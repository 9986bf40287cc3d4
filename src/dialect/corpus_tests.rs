//! The recorded exchanges, whole and split at awkward places: usage, tools, finish, model and outcome as expected, and
//! every byte passed on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::*;
use crate::domain::Component;

/// Dialect and endpoint of a row that this version reads.
pub fn surface_dialect(row: &Value) -> Option<(&'static dyn Dialect, &'static str, Metering)> {
    use Metering::{Free, Metered, Retrieval, Unmetered};
    let path = row["request"]["path"].as_str()?;
    let google = if row["provider"] == "google-vertex" { "vertex" } else { "gemini" };
    let (dialect, endpoint, metering) = match row["surface"].as_str()? {
        "openai.chat" => ("openai", "chat.completions", Metered),
        "openai.completions" => ("openai", "completions", Metered),
        "openai.responses" => ("openai", "responses", Metered),
        "openai.responses.retrieve" => ("openai", "responses.retrieve", Retrieval),
        "embeddings" => ("openai", "embeddings", Metered),
        "anthropic.messages" => ("anthropic", "messages", Metered),
        "anthropic.complete" => ("anthropic", "complete", Metered),
        "anthropic.count_tokens" => ("anthropic", "messages.count_tokens", Free),
        "gemini.generateContent" => (google, "generateContent", Metered),
        "gemini.embed" => (google, "embeddings", Metered),
        "gemini.countTokens" => (google, "countTokens", Free),
        "gemini.interactions" => (google, "interactions", Metered),
        "vertex.predict" if path.ends_with(":predict") => (google, "predict", Metered),
        "vertex.predict" => (google, "unmetered", Unmetered),
        "bedrock.converse" => ("bedrock", "converse", Metered),
        "bedrock.invoke" => ("bedrock", "invoke", Metered),
        "bedrock.countTokens" => ("bedrock", "countTokens", Free),
        "bedrock.guardrail" => ("bedrock", "guardrail", Metered),
        "cohere.chat" if path.ends_with("/generate") => ("cohere", "generate", Metered),
        "cohere.chat" => ("cohere", "chat", Metered),
        "cohere.embed" => ("cohere", "embeddings", Metered),
        "rerank" if row["provider"] == "cohere" => ("cohere", "rerank", Metered),
        "ollama.chat" if path.ends_with("/generate") => ("ollama", "generate", Metered),
        "ollama.chat" => ("ollama", "chat", Metered),
        _ => return None,
    };
    Some((named(dialect)?, endpoint, metering))
}

/// The rows of a file of the corpus, or nothing where the shared data is not there (an error under `CI`).
pub fn corpus(file: &str) -> Vec<Value> {
    let root = std::env::var_os("WEIGHBRIDGE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join("corpus").join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none(), "{}: {e}", path.display());
            eprintln!("skipped: {}: {e}", path.display());
            Vec::new()
        }
    }
}

/// The answer of a row as a tap sees it.
struct Row<'a> {
    row: &'a Value,
    dialect: &'static dyn Dialect,
    facts: CallFacts,
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl<'a> Row<'a> {
    fn of(row: &'a Value) -> Option<Row<'a>> {
        let (dialect, endpoint, metering) = surface_dialect(row)?;
        let response = &row["response"];
        let mut headers = HeaderMap::new();
        for (name, value) in response["headers"].as_object()? {
            let value = value.as_str().unwrap_or_default();
            headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
        }
        if let Some(kind) = response["content_type"].as_str() {
            headers.insert("content-type", HeaderValue::from_str(kind).ok()?);
        }
        if response["content_encoding_header_stale"].as_bool() == Some(true) {
            headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        }
        let body = match response["body"]["b64"].as_str() {
            Some(coded) => data_encoding::BASE64.decode(coded.as_bytes()).unwrap().into(),
            None => Bytes::copy_from_slice(response["body"].as_str()?.as_bytes()),
        };
        let mut facts = CallFacts::of(endpoint, metering);
        facts.stream = row["expected"]["stream"] == true;
        facts.model = row["expected"]["model_requested"].as_str().map(str::to_string);
        // A poll of usage figures and a deletion share a surface with calls, but cost nothing.
        let request = &row["request"];
        let headers_sent = HeaderMap::new();
        let head = RequestHead {
            method: &request["method"].as_str()?.parse().ok()?,
            path: request["path"].as_str()?,
            query: None,
            headers: &headers_sent,
        };
        let by_path = !["openai", "anthropic"].contains(&dialect.name());
        let sent = if by_path { request["json"].to_string() } else { String::new() };
        if (head.method != http::Method::POST || by_path)
            && let Ok(read) = dialect.read_request(&head, sent.as_bytes())
        {
            facts = CallFacts { stream: facts.stream, ..read };
        }
        Some(Row { row, dialect, facts, status: response["status"].as_u64()? as u16, headers, body })
    }

    /// Feeds the body in pieces that end at `cuts`; gives what was seen, and what the caller got.
    fn replay(&self, body: &Bytes, cuts: &[usize], end: End) -> (Observation, Vec<u8>) {
        let head = ResponseHead { status: self.status, headers: &self.headers };
        let mut tap = self.dialect.tap(&self.facts, &head, false);
        let (mut pass, mut from, mut seen) = (Vec::new(), 0, None);
        for &to in cuts.iter().chain([&body.len()]) {
            let progress = tap.feed(body.slice(from..to), &mut pass);
            from = to;
            if progress == Progress::Last && seen.is_none() {
                let passed: usize = pass.iter().map(Bytes::len).sum();
                assert!(passed < body.len(), "the end is held back");
                seen = Some(tap.finish(end));
                tap.release(&mut pass);
            }
        }
        let seen = seen.unwrap_or_else(|| tap.finish(end));
        tap.release(&mut pass);
        (seen, pass.concat())
    }
}

impl Row<'_> {
    /// What the gateway books: the vendor's counts, and ours where they are missing.
    fn estimate(&self, seen: &Observation, body: &[u8]) -> crate::domain::Usage {
        let mut usage = seen.usage.clone().unwrap_or_default();
        let model = seen.model.as_deref().or(self.facts.model.as_deref()).unwrap_or_default();
        if usage.get(Component::InputTokens).is_none() {
            let path = self.row["request"]["path"].as_str().unwrap();
            let headers = HeaderMap::new();
            let head = RequestHead { method: &http::Method::POST, path, query: None, headers: &headers };
            let allowance = self.dialect.read_request(&head, body).map_or(0, |f| f.input_allowance);
            let text = self.dialect.prompt_text(&self.facts, body);
            usage.set(Component::InputTokens, tokens::count(model, &text) + allowance);
        }
        if usage.get(Component::OutputTokens).is_none() {
            usage.set(Component::OutputTokens, tokens::count(model, &seen.output_text));
        }
        usage
    }
}

/// What differs between expected and seen; empty = equal.
fn differences(row: &Value, seen: &Observation) -> Vec<String> {
    let expected = &row["expected"];
    let mut out = Vec::new();
    let mut check = |what: &str, want: String, got: String| {
        if want != got {
            out.push(format!("{what}: expected {want}, got {got}"));
        }
    };
    let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_string);
    let disputed = row.get("disputed").is_some();
    // Where two counts are stated, either may be booked: we take the one that Amazon bills by.
    let either = row["disputed"][0].as_str().filter(|d| d.ends_with("accept either")).is_some_and(|text| {
        let output = seen.usage.as_ref().and_then(|u| u.get(Component::OutputTokens)).unwrap_or_default().to_string();
        text.split([' ', ';']).any(|word| word == output)
    });
    if !either {
        check(
            "usage",
            format!("{:?}", usage_of(&expected["usage"], disputed)),
            format!("{:?}", canonical(seen.usage.as_ref(), disputed)),
        );
    }
    let side: Vec<_> = expected["extra"]["side_usage"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| (text(&s["model"]), usage_of(&s["usage"], false)))
        .collect();
    let got: Vec<_> = seen.side_usage.iter().map(|(m, u)| (m.clone(), canonical(Some(u), false))).collect();
    check("side usage", format!("{side:?}"), format!("{got:?}"));
    check("tool calls", expected["tool_calls"].to_string(), seen.tools_called.to_string());
    check("tool names", expected["tool_call_names"].to_string(), serde_json::to_string(&seen.tool_names).unwrap());
    check("server tools", expected["server_tool_calls"].to_string(), seen.server_tool_calls.to_string());
    check("finish", format!("{:?}", expected["finish_reason"].as_str()), format!("{:?}", seen.finish_reason));
    check("model", format!("{:?}", text(&expected["model_reported"])), format!("{:?}", seen.model));
    if expected.get("response_id").is_some() {
        check("id", format!("{:?}", text(&expected["response_id"])), format!("{:?}", seen.response_id));
    }
    if let Some(tier) = text(&expected["service_tier"]).or_else(|| text(&expected["extra"]["service_tier"])) {
        check("tier", format!("{:?}", Some(tier)), format!("{:?}", seen.service_tier));
    }
    if let Some(n) = expected["extra"]["web_search_requests"].as_u64().filter(|n| *n > 0) {
        let got = seen.usage.as_ref().and_then(|u| u.get(Component::WebSearches));
        check("searches", format!("{:?}", Some(n)), format!("{got:?}"));
    }
    if let Some(cost) = expected["extra"]["provider_cost_usd"].as_f64().filter(|c| *c > 0.0) {
        let got = seen.vendor_cost.map_or(0.0, |m| m.0 as f64 / 1e15);
        check(
            "vendor cost",
            "equal".into(),
            if (got - cost).abs() < 1e-12 { "equal".into() } else { format!("{got} for {cost}") },
        );
    }
    if let Some(kind) = text(&expected["error_type"]) {
        check("error", format!("{:?}", Some(kind)), format!("{:?}", seen.error));
    }
    check("outcome", expected["outcome"].to_string(), format!("\"{}\"", outcome(seen, expected)));
    out
}

/// Rows where the answer says more than the corpus expects; all else of such a row has to be equal.
fn says_more(row: &Value, difference: &str) -> bool {
    let expected = &row["expected"];
    // The old endpoint's events state model and stop reason, as its plain bodies do, where they are expected.
    let legacy = expected["surface"] == "anthropic.complete" && expected["stream"] == true;
    // A chunk with an error also has usage: tokens known so far are booked (provider-usage 10).
    let failed = expected["outcome"] == "error_in_stream" && expected["usage"].is_null();
    // Pictures have a price of their own: their tokens are told apart for embeddings and interactions too.
    let told_apart = ["gemini.embed", "gemini.interactions"]
        .contains(&expected["surface"].as_str().unwrap_or_default())
        && difference.starts_with("usage:")
        && difference.contains("\"input_image\"");
    told_apart
        || (legacy
            && (difference.starts_with("finish: expected None") || difference.starts_with("model: expected None")))
        || (failed && difference.starts_with("usage: expected None"))
}

/// Our verdict in the corpus's words.
fn outcome(seen: &Observation, expected: &Value) -> &'static str {
    match seen.verdict {
        Verdict::Error if expected["outcome"] == "error" => "error",
        Verdict::Error => "error_in_stream",
        Verdict::Truncated => "truncated",
        Verdict::Pending => "pending",
        Verdict::Ok if expected["outcome"] == "not_inference" && seen.usage.is_none() => "not_inference",
        Verdict::Ok if expected["outcome"] == "ok_usage_elsewhere" => "ok_usage_elsewhere",
        Verdict::Ok if seen.usage.is_some() => "ok",
        Verdict::Ok => "ok_no_usage",
    }
}

const FIELDS: [(&str, Component); 10] = [
    ("input_total", Component::InputTokens),
    ("input_cache_read", Component::CacheReadTokens),
    ("input_cache_write_5m", Component::CacheWrite5mTokens),
    ("input_cache_write_1h", Component::CacheWrite1hTokens),
    ("output_total", Component::OutputTokens),
    ("output_reasoning", Component::OutputReasoningTokens),
    ("input_audio", Component::InputAudioTokens),
    ("output_audio", Component::OutputAudioTokens),
    ("input_image", Component::InputImageTokens),
    ("output_image", Component::OutputImageTokens),
];

type Counted = Option<BTreeMap<&'static str, u64>>;

/// Counts that are not 0. Where the split is disputed, only the totals.
fn keep(disputed: bool, name: &str, n: u64) -> bool {
    n > 0 && (!disputed || name.ends_with("_total"))
}

fn usage_of(expected: &Value, disputed: bool) -> Counted {
    let usage = expected.as_object()?;
    Some(FIELDS.iter().map(|(f, _)| (*f, usage[*f].as_u64().unwrap())).filter(|(f, n)| keep(disputed, f, *n)).collect())
}

fn canonical(usage: Option<&crate::domain::Usage>, disputed: bool) -> Counted {
    let get = |c| usage.and_then(|u| u.get(c)).unwrap_or(0);
    usage.map(|_| FIELDS.iter().map(|(f, c)| (*f, get(*c))).filter(|(f, n)| keep(disputed, f, *n)).collect())
}

/// Awkward places: inside characters, inside line ends, around braces, and some by chance.
fn awkward(body: &[u8], seed: &mut u64) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..body.len())
        .filter(|&i| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            body[i] & 0xC0 == 0x80 || body[i - 1] == b'\r' || body[i - 1] == b'\\' || (*seed >> 33).is_multiple_of(97)
        })
        .collect();
    cuts.dedup();
    cuts
}

#[test]
fn every_recorded_exchange_reads_as_expected_however_it_is_split() {
    let mut score: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let (mut failed, mut more) = (Vec::new(), Vec::new());
    let mut seed = 20_261_123;
    for row in &corpus("exchanges.jsonl") {
        let Some(case) = Row::of(row).filter(|_| row["transport"] == "http") else { continue };
        let (whole, passed) = case.replay(&case.body, &[], End::Complete);
        assert!(passed == case.body, "{}: bytes differ", row["id"]);
        let (extra, wrong): (Vec<_>, Vec<_>) = differences(row, &whole).into_iter().partition(|d| says_more(row, d));
        if !extra.is_empty() {
            more.push(format!("{} {}: {}", row["id"], row["surface"], extra.join("; ")));
        }
        let entry = score.entry(row["surface"].as_str().unwrap().into()).or_default();
        entry.1 += 1;
        entry.0 += u32::from(wrong.is_empty());
        if !wrong.is_empty() {
            failed.push(format!("{} {} {}: {}", row["id"], row["provider"], row["surface"], wrong.join("; ")));
        }
        let mut splits = vec![awkward(&case.body, &mut seed), awkward(&case.body, &mut seed)];
        if case.body.len() < 3000 {
            splits.push((1..case.body.len()).collect());
        }
        for cuts in splits {
            let (split, passed) = case.replay(&case.body, &cuts, End::Complete);
            assert!(passed == case.body, "{}: bytes differ when split", row["id"]);
            assert_eq!(split, whole, "{} split at {cuts:?}", row["id"]);
        }
        if let Some(wire) = row["response"]["wire_b64"].as_str() {
            compressed(&case, wire, &whole);
        }
    }
    for (surface, (right, all)) in &score {
        println!("{surface}: {right} of {all}");
    }
    println!("says more than expected in {} rows:\n{}", more.len(), more.join("\n"));
    assert!(failed.is_empty(), "{} rows differ:\n{}", failed.len(), failed.join("\n"));
}

/// The same answer as it came over the wire, compressed.
fn compressed(case: &Row, wire: &str, whole: &Observation) {
    let wire = Bytes::from(data_encoding::BASE64.decode(wire.as_bytes()).unwrap());
    let mut headers = case.headers.clone();
    headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    let case = Row { headers, facts: case.facts.clone(), body: wire.clone(), ..*case };
    for cuts in [vec![], (1..wire.len()).collect::<Vec<_>>()] {
        let (seen, passed) = case.replay(&wire, &cuts, End::Complete);
        assert!(passed == wire, "{}: compressed bytes differ", case.row["id"]);
        assert_eq!(&seen, whole, "{} compressed", case.row["id"]);
    }
}

#[test]
fn every_recorded_request_is_read_and_edited() {
    let mut read = 0;
    for row in &corpus("exchanges.jsonl") {
        let Some((dialect, endpoint, metering)) = surface_dialect(row) else { continue };
        let request = &row["request"];
        // What the recorder cut out, and what was sent to be refused, is no test of reading.
        if request["redacted"] == true || row["response"]["status"] != 200 || !request["json"].is_object() {
            continue;
        }
        let headers = HeaderMap::new();
        let method = request["method"].as_str().unwrap().parse().unwrap();
        let head =
            RequestHead { method: &method, path: request["path"].as_str().unwrap(), query: None, headers: &headers };
        let body = Bytes::from(request["json"].to_string());
        let facts = dialect.read_request(&head, &body).unwrap_or_else(|e| panic!("{}: {e}", row["id"]));
        let shape = facts.endpoint.split('.').next().filter(|e| *e == "invoke").unwrap_or(facts.endpoint);
        assert_eq!((shape, facts.metering), (endpoint, metering), "{}", row["id"]);
        let by_path = ["gemini", "vertex", "bedrock"].contains(&dialect.name());
        if request["json"]["model"].is_string() || by_path && row["expected"]["model_requested"].is_string() {
            let asked = row["expected"]["model_requested"].as_str().unwrap_or_default().replace("%2F", "/");
            // Of an ARN, the model.
            assert!(facts.model.as_deref().is_some_and(|m| asked.ends_with(m)), "{} {:?}", row["id"], facts.model);
        }
        let streams = if by_path { &row["expected"]["stream"] } else { &request["json"]["stream"] };
        if metering == Metering::Metered && row["expected"]["outcome"] != "error" {
            assert_eq!(facts.stream, *streams == true, "{}", row["id"]);
        }
        let edit = Edit {
            include_usage: !facts.asked_for_usage,
            output_cap: facts.output_cap_field.map(|_| 321),
            model: None,
        };
        let edited: Value = serde_json::from_slice(&dialect.edit(&facts, &body, &edit)).unwrap();
        let mut expected = request["json"].clone();
        if edit.include_usage && dialect.name() == "openai" {
            if !expected["stream_options"].is_object() {
                expected["stream_options"] = serde_json::json!({});
            }
            expected["stream_options"]["include_usage"] = true.into();
        }
        if let Some(field) = facts.output_cap_field.filter(|_| metering == Metering::Metered) {
            match field.split_once('.') {
                None => expected[field] = 321.into(),
                Some((object, field)) => expected[object][field] = 321.into(),
            }
        }
        assert_eq!(edited, expected, "{}", row["id"]);
        read += 1;
    }
    println!("{read} requests read and edited");
}

/// The median and the 95th percentile, in per mille.
fn spread(mut errors: Vec<u64>) -> (u64, u64) {
    errors.sort_unstable();
    let at = |per_cent: usize| errors.get((errors.len() * per_cent / 100).min(errors.len().max(1) - 1)).copied();
    (at(50).unwrap_or(0), at(95).unwrap_or(0))
}

#[test]
fn an_answer_that_broke_off_is_counted_and_never_zero() {
    let mut errors: BTreeMap<String, [Vec<u64>; 2]> = BTreeMap::new();
    for row in &corpus("aborted.jsonl") {
        let Some(case) = Row::of(row) else { continue };
        for end in [End::Complete, End::UpstreamDied, End::CallerLeft] {
            let (seen, passed) = case.replay(&case.body, &[], end);
            assert!(passed == case.body, "{}", row["id"]);
            let body = row["request"]["json"].to_string();
            let usage = case.estimate(&seen, body.as_bytes());
            let full = &row["full_usage"];
            let stated = |name: &str| full[name].as_u64().unwrap();
            let got = [usage.get(Component::InputTokens), usage.get(Component::OutputTokens)].map(|n| n.unwrap_or(0));
            let want = [stated("input_total"), stated("output_total")];
            // A request that the recorder cut out cannot be counted.
            let readable = row["request"]["redacted"] != true && row["request"]["json"].is_object();
            assert!(!readable || got[0] > 0, "{}: input lost", row["id"]);
            assert!(seen.usage_missing || seen.usage.is_some(), "{}: neither usage nor a mark", row["id"]);
            if end == End::CallerLeft && readable && row["derivation"] != "half-way, inside an event" {
                let surface = errors.entry(row["surface"].as_str().unwrap().into()).or_default();
                if std::env::var_os("SHOW").is_some() {
                    println!(
                        "{} {} {} {got:?} for {want:?} (reasoning {})",
                        row["id"], row["provider"], row["surface"], full["output_reasoning"]
                    );
                }
                for i in (0..2).filter(|i| want[*i] > 0) {
                    surface[i].push(got[i].abs_diff(want[i]) * 1000 / want[i].max(1));
                }
            }
        }
    }
    for (surface, [input, output]) in errors {
        let n = input.len();
        let ((i50, i95), (o50, o95)) = (spread(input), spread(output));
        println!("{surface}: {n} rows; input off by {i50} (p95 {i95}), output by {o50} (p95 {o95}) per mille");
    }
}
