//! What must be on record after a replay, in words of the differences; none = as expected.

use std::collections::BTreeMap;

use serde_json::Value;
use weighbridge::domain::{Call, Component, CostBasis, Outcome, UsageBasis};

use super::replay::{Ending, Passed};

/// The corpus's names of counts, and ours.
const COUNTS: [(&str, Component); 10] = [
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

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, want: T, got: T) -> Option<String> {
    (want != got).then(|| format!("{what}: expected {want:?}, got {got:?}"))
}

/// The caller got what the provider sent, but for the usage chunk that only the gateway asked for.
pub fn bytes(passed: &Passed) -> Vec<String> {
    let got = &passed.answer.body;
    let same = got == &passed.sent || passed.edited && got == &without_usage_chunk(&passed.sent);
    let mut wrong = Vec::new();
    wrong.extend((!same).then(|| format!("bytes: {} sent, {} came", passed.sent.len(), got.len())));
    wrong.extend((!passed.answer.whole).then(|| "the caller's answer was not whole".to_owned()));
    wrong
}

/// All that the provider sent came before the connection broke; what follows it is the gateway's own word.
pub fn prefix(passed: &Passed) -> Vec<String> {
    let same = passed.answer.body.starts_with(&passed.sent);
    (!same).then(|| "bytes were lost or changed before the break".to_owned()).into_iter().collect()
}

/// A stream without the events that hold usage and no choice.
fn without_usage_chunk(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let end = if text.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
    let events = text.split_inclusive(end).filter(|event| {
        let data = event.lines().find_map(|line| line.strip_prefix("data:")).unwrap_or_default();
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        !(data["usage"].is_object() && data["choices"].as_array().is_some_and(Vec::is_empty))
    });
    events.collect::<String>().into_bytes()
}

/// Everything that a settled call says of a recorded answer.
pub fn record(row: &Value, passed: &Passed) -> Vec<String> {
    let call = &passed.call;
    let mut wrong = head(row, call);
    wrong.extend(cost(call));
    let expected = &row["expected"];
    match expected["outcome"].as_str().unwrap() {
        "pending" => wrong.extend(differ("outcome", Outcome::Running, call.outcome)),
        "not_inference" => wrong.extend(differ("usage", UsageBasis::None, call.usage_basis)),
        // Free, or billed by what no tokenizer counts: then the call says that it has no cost that is known.
        "ok_no_usage" if ["organization", "moderations"].contains(&call.endpoint.as_str()) => {}
        "ok_no_usage" if BY_UNITS.contains(&call.endpoint.as_str()) || call.unmetered || is_rerank(row) => {
            wrong.extend(differ("basis", CostBasis::Unpriced, call.cost_basis));
        }
        "ok_usage_elsewhere" => wrong.extend(elsewhere(row, call)),
        "ok_no_usage" => wrong.extend(counted(call)),
        _ => wrong.extend(usage(row, call)),
    }
    // What failed before anything was generated has its input counted, and no output.
    if !passed.generated {
        wrong.retain(|what| what != "output_total is zero");
    }
    wrong
}

/// Endpoints billed by pictures, seconds, characters, searches, pages.
const BY_UNITS: [&str; 6] = ["images", "audio.transcriptions", "audio.speech", "rerank", "ocr", "guardrail"];

fn is_rerank(row: &Value) -> bool {
    row["request"]["path"].as_str().is_some_and(|path| path.contains("rerank"))
}

/// Units that are not tokens: those that have a name are booked, and no cost is made up for the others.
fn elsewhere(row: &Value, call: &Call) -> Vec<String> {
    let extra = &row["expected"]["extra"];
    let mut wrong = Vec::new();
    for (stated, component) in [
        (&extra["audio_seconds"], Component::InputAudioSeconds),
        (&extra["usage_info"]["pages_processed"], Component::InputDocumentPages),
        (&extra["input_characters"], Component::InputCharacters),
    ] {
        if let Some(n) = stated.as_u64().filter(|_| row["request"]["redacted"] != true) {
            wrong.extend(differ(component.name(), Some(n), call.usage.get(component)));
        }
    }
    if call.usage.is_empty() && call.cost_basis != CostBasis::Vendor {
        wrong.extend(differ("basis", CostBasis::Unpriced, call.cost_basis));
    }
    wrong
}

/// Facts of the answer beside its usage.
pub fn head(row: &Value, call: &Call) -> Vec<String> {
    let expected = &row["expected"];
    let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let mut names: Vec<String> = Vec::new();
    for name in expected["tool_call_names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !names.iter().any(|n| n == name) && names.len() < 16 {
            names.push(name.to_owned());
        }
    }
    let status = row["response"]["status"].as_u64().map(|status| status as u16);
    let request_id = [
        "x-request-id",
        "request-id",
        "apim-request-id",
        "mistral-correlation-id",
        "x-generation-id",
        "x-amzn-requestid",
        "x-debug-trace-id",
    ]
    .iter()
    .find_map(|name| text(&row["response"]["headers"][*name]));
    let mut wrong = Vec::new();
    if expected["outcome"] != "pending" || call.outcome != Outcome::Running {
        wrong.extend(differ("status", status, call.http_status));
        wrong.extend(differ("tool calls", expected["tool_calls"].as_u64(), Some(call.tools_called.into())));
        wrong.extend(differ("tool names", &names, &call.tool_names));
        wrong.extend(differ("provider's request id", request_id, call.provider_request_id.clone()));
        wrong.extend(differ("outcome", outcome(expected), call.outcome));
        // The old endpoint's events state model and stop reason, as its plain bodies do, where they are expected.
        let legacy = expected["surface"] == "anthropic.complete" && expected["stream"] == true;
        if !(legacy && expected["finish_reason"].is_null()) {
            wrong.extend(differ("finish", text(&expected["finish_reason"]), call.finish_reason.clone()));
        }
        if !(legacy && expected["model_reported"].is_null()) {
            wrong.extend(differ("model", text(&expected["model_reported"]), call.model_served.clone()));
        }
        if expected.get("response_id").is_some() {
            wrong.extend(differ("response id", text(&expected["response_id"]), call.response_id.clone()));
        }
    }
    wrong
}

fn outcome(expected: &Value) -> Outcome {
    match expected["outcome"].as_str().unwrap() {
        "error" | "error_in_stream" | "truncated" => Outcome::Failed,
        _ => Outcome::Completed,
    }
}

/// The provider's counts, with those of tokens outside the top level, and nothing else.
pub fn usage(row: &Value, call: &Call) -> Vec<String> {
    let expected = &row["expected"];
    if expected["usage"].is_null() {
        // What failed on its way may have stated tokens with its error, or passed text that is counted.
        let on_its_way = matches!(expected["outcome"].as_str(), Some("error_in_stream" | "truncated"));
        let missing = on_its_way && call.usage_basis != UsageBasis::None;
        return if missing && call.usage_basis != UsageBasis::Vendor {
            counted(call)
        } else {
            differ("usage", UsageBasis::None, call.usage_basis).filter(|_| !missing).into_iter().collect()
        };
    }
    let side = expected["extra"]["side_usage"].as_array().into_iter().flatten().map(|side| &side["usage"]);
    let mut want: BTreeMap<&str, u64> = BTreeMap::new();
    for usage in side.chain([&expected["usage"]]) {
        for (name, _) in COUNTS {
            *want.entry(name).or_default() += usage[name].as_u64().unwrap();
        }
    }
    // Where two counts are stated, either may be booked.
    let either = row["disputed"][0].as_str().filter(|text| text.ends_with("accept either")).is_some_and(|text| {
        let output = call.usage.get(Component::OutputTokens).unwrap_or(0).to_string();
        text.split([' ', ';']).any(|word| word == output)
    });
    // Pictures that the corpus does not tell apart have a price of their own.
    let embeds = ["gemini.embed", "gemini.interactions"].iter().any(|s| row["surface"] == *s);
    // Where the split is disputed, the totals count.
    let disputed = row.get("disputed").is_some();
    let mut wrong = Vec::new();
    for (name, component) in COUNTS {
        if either && name == "output_total" || embeds && name == "input_image" {
            continue;
        }
        if !disputed || name.ends_with("_total") {
            wrong.extend(differ(name, want[name], call.usage.get(component).unwrap_or(0)));
        }
    }
    let writes = want["input_cache_write_5m"] + want["input_cache_write_1h"];
    wrong.extend(differ("cache writes", writes, call.usage.get(Component::CacheWriteTokens).unwrap_or(0)));
    wrong.extend(differ("basis", UsageBasis::Vendor, call.usage_basis));
    wrong
}

/// Usage that nobody stated: both sides are counted, and said to be.
fn counted(call: &Call) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, component) in &COUNTS[..5] {
        if name.ends_with("_total") && (call.endpoint != "embeddings" || *name == "input_total") {
            wrong.extend((call.usage.get(*component).unwrap_or(0) == 0).then(|| format!("{name} is zero")));
        }
    }
    let marked = matches!(call.usage_basis, UsageBasis::Counted | UsageBasis::Estimated);
    wrong.extend((!marked).then(|| format!("basis is {}", call.usage_basis.name())));
    wrong
}

/// There is a cost, or the call says that there is none; an estimate says so.
fn cost(call: &Call) -> Vec<String> {
    let mut wrong = Vec::new();
    if call.outcome != Outcome::Running && call.cost.is_none() != (call.cost_basis == CostBasis::Unpriced) {
        wrong.push(format!("cost {:?} is {}", call.cost, call.cost_basis.name()));
    }
    let estimated = matches!(call.usage_basis, UsageBasis::Counted | UsageBasis::Estimated);
    if estimated && call.cost.is_some() && call.cost_basis != CostBasis::Estimated {
        wrong.push(format!("the cost of counted usage is {}", call.cost_basis.name()));
    }
    wrong
}

/// A call whose stream broke off, or ended before it said what it used.
pub fn broken(row: &Value, passed: &Passed, ending: Ending) -> Vec<String> {
    let call = &passed.call;
    let surface = row["surface"].as_str().unwrap();
    if surface == "audio.transcriptions" {
        // How much sound was read is not known here: it has no cost that is, and a stream without its end has failed.
        let mut wrong: Vec<String> = differ("basis", CostBasis::Unpriced, call.cost_basis).into_iter().collect();
        wrong.extend(differ("outcome", Outcome::Failed, call.outcome));
        return wrong;
    }
    // Some vendors state usage with every event: what they stated last stands, here where the corpus has none too.
    let running = surface == "gemini.interactions" && call.usage_basis == UsageBasis::Vendor;
    let full = row["full_usage"]["output_total"].as_u64().unwrap_or(0);
    let mut wrong = if running {
        let output = call.usage.get(Component::OutputTokens).unwrap_or(0);
        (output == 0 || output > full).then(|| format!("{output} of {full} output tokens")).into_iter().collect()
    } else if row["expected"]["usage"].is_null() || call.usage_basis != UsageBasis::Vendor {
        counted(call)
    } else {
        usage(row, call)
    };
    if !passed.generated {
        wrong.retain(|what| what != "output_total is zero");
    }
    wrong.extend(cost(call));
    let expected = if ending == Ending::Broken { Outcome::Failed } else { outcome(&row["expected"]) };
    wrong.extend(differ("outcome", expected, call.outcome));
    wrong
}
