//! The recorded exchanges of the shared corpus, replayed by a local provider through a running gateway: what is on record
//! afterwards is what the corpus expects, and the caller got the provider's bytes.
//!
//! `replay` serves the recordings; the tests here say what must hold of whole answers, of polled jobs, and of streams that
//! broke off.

mod expected;
mod replay;

use std::collections::BTreeMap;

use serde_json::Value;
use weighbridge::domain::{Call, CallId, Component, CostBasis, Money, Outcome, UsageBasis};
use weighbridge::ledger::entry::{Body, Entry};

use crate::support::TestApp;
use replay::{Ending, Replay, rows};

/// Right answers and all, by surface.
#[derive(Default)]
struct Score {
    by_surface: BTreeMap<String, (u32, u32)>,
    wrong: Vec<String>,
}

impl Score {
    fn note(&mut self, row: &Value, wrong: Vec<String>) {
        let entry = self.by_surface.entry(row["surface"].as_str().unwrap().to_owned()).or_default();
        entry.1 += 1;
        entry.0 += u32::from(wrong.is_empty());
        if !wrong.is_empty() {
            self.wrong.push(format!("{} {} {}: {}", row["id"], row["provider"], row["surface"], wrong.join("; ")));
        }
    }

    fn print(&self, what: &str) {
        for (surface, (right, all)) in &self.by_surface {
            println!("{what} {surface}: {right} of {all}");
        }
    }
}

/// How often each admission was settled, by its sequence.
fn settlements(app: &TestApp) -> BTreeMap<u64, u32> {
    let mut out = BTreeMap::new();
    let mut from = 0;
    loop {
        let page: Vec<Entry> = app.ledger().entries(from, 1_000).unwrap().into_iter().map(|(entry, _)| entry).collect();
        let Some(last) = page.last() else { return out };
        from = last.seq + 1;
        for entry in &page {
            match &entry.body {
                Body::Admit(_) => drop(out.entry(entry.seq).or_insert(0)),
                Body::Settle(_) => {
                    *out.entry(entry.reference.expect("a settlement names its admission")).or_insert(0) += 1
                }
                _ => {}
            }
        }
    }
}

fn total(app: &TestApp) -> Money {
    app.calls().iter().filter_map(|call| call.cost).fold(Money::ZERO, Money::saturating_add)
}

fn is_retrieval(row: &Value) -> bool {
    row["surface"] == "openai.responses.retrieve"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_exchange_is_weighed_and_reaches_the_caller_as_it_was() {
    let rows = rows("exchanges.jsonl");
    let mut replay = Replay::start(&rows).await;
    let mut score = Score::default();
    let mut bases: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows.iter().filter(|row| !is_retrieval(row)) {
        let passed = replay.call(row, Ending::Whole).await;
        let mut wrong = expected::bytes(&passed);
        wrong.extend(expected::record(row, &passed));
        *bases.entry(passed.call.cost_basis.name()).or_default() += 1;
        score.note(row, wrong);
    }
    for row in rows.iter().filter(|row| is_retrieval(row)) {
        let wrong = polled(&mut replay, row).await;
        score.note(row, wrong);
    }
    score.print("recorded");
    println!("cost bases: {bases:?}, {} spent", total(&replay.app));
    assert!(score.wrong.is_empty(), "{} rows differ:\n{}", score.wrong.len(), score.wrong.join("\n"));

    let open: Vec<CallId> = replay.app.ledger().running().iter().map(|running| running.call).collect();
    let admitted = replay.app.calls().into_iter().filter(|call| call.outcome != Outcome::Refused);
    let calls: BTreeMap<u64, Call> = admitted.map(|call| (call.seq, call)).collect();
    let settled = settlements(&replay.app);
    assert_eq!(settled.len(), calls.len(), "every admission is a call");
    for (seq, times) in settled {
        let id = calls[&seq].id;
        assert_eq!(times, u32::from(!open.contains(&id)), "call {id} was settled {times} times");
    }
}

/// Polls a stored response twice: the answer passes, the job it belongs to has its usage once, the poll itself costs
/// nothing.
async fn polled(replay: &mut Replay, row: &Value) -> Vec<String> {
    let expected = &row["expected"];
    let mut wrong = Vec::new();
    let id = expected["response_id"].as_str().unwrap();
    if replay.app.ledger().response("openai", id).unwrap().is_none() {
        replay.open_job(id).await;
    }
    let job = replay.app.ledger().response("openai", id).unwrap().expect("the job is on record").call;
    let passed = replay.call(row, Ending::Whole).await;
    wrong.extend(expected::bytes(&passed));
    wrong.extend(expected::head(row, &passed.call));
    if !expected["usage"].is_null() {
        let job = replay.app.call(job).await;
        wrong.extend(expected::usage(row, &job));
        wrong.extend((job.outcome != Outcome::Completed).then(|| format!("the job is {}", job.outcome.name())));
    }
    let before = total(&replay.app);
    let again = replay.call(row, Ending::Whole).await;
    for poll in [&passed.call, &again.call] {
        if (poll.cost, poll.usage_basis) != (Some(Money::ZERO), UsageBasis::None) || !poll.usage.is_empty() {
            wrong.push(format!("the poll booked {:?}, {:?}", poll.cost, poll.usage));
        }
    }
    if total(&replay.app) != before {
        wrong.push(format!("polling again cost {before} to {}", total(&replay.app)));
    }
    wrong
}

/// Errors of estimates in per cent of what the provider counted.
#[derive(Default)]
struct Errors(Vec<f64>);

impl Errors {
    fn note(&mut self, got: u64, full: u64) {
        if full > 0 {
            self.0.push(got.abs_diff(full) as f64 * 100.0 / full as f64);
        }
    }

    fn spread(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |p: usize| sorted.get((sorted.len() * p / 100).min(sorted.len().saturating_sub(1))).copied();
        format!("median {:.1} %, p95 {:.1} %", at(50).unwrap_or(0.0), at(95).unwrap_or(0.0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_broke_off_is_counted_and_never_lost() {
    let rows = rows("aborted.jsonl");
    let mut replay = Replay::start(&rows).await;
    let mut score = Score::default();
    let mut errors: BTreeMap<String, [Errors; 2]> = BTreeMap::new();
    for row in rows.iter().filter(|row| !is_retrieval(row)) {
        for ending in [Ending::Whole, Ending::Broken] {
            let passed = replay.call(row, ending).await;
            let call = &passed.call;
            let mut wrong = if ending == Ending::Whole { expected::bytes(&passed) } else { expected::prefix(&passed) };
            wrong.extend(expected::broken(row, &passed, ending));
            let got = [Component::InputTokens, Component::OutputTokens].map(|c| call.usage.get(c).unwrap_or(0));
            let full = ["input_total", "output_total"].map(|name| row["full_usage"][name].as_u64().unwrap());
            if ending == Ending::Broken && passed.recorded_request {
                let cut = if row["derivation"] == "half-way, inside an event" { "half-way" } else { "at the end" };
                let errors = errors.entry(format!("{} cut {cut}", row["surface"].as_str().unwrap())).or_default();
                errors[0].note(got[0], full[0]);
                errors[1].note(got[1], full[1]);
            }
            score.note(row, wrong);
        }
    }
    score.print("broken off");
    for (surface, [input, output]) in &errors {
        println!("{surface}, {} rows: input off by {}; output by {}", input.0.len(), input.spread(), output.spread());
    }
    assert!(score.wrong.is_empty(), "{} rows differ:\n{}", score.wrong.len(), score.wrong.join("\n"));
    assert!(settlements(&replay.app).values().all(|times| *times == 1), "each call is settled once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_broke_off_leaves_its_job_open_for_the_next() {
    let rows = rows("aborted.jsonl");
    let mut replay = Replay::start(&rows).await;
    for row in rows.iter().filter(|row| is_retrieval(row)) {
        let id = row["expected"]["response_id"].as_str().unwrap();
        if replay.app.ledger().response("openai", id).unwrap().is_none() {
            replay.open_job(id).await;
        }
        let job = replay.app.ledger().response("openai", id).unwrap().expect("the job is on record");
        for ending in [Ending::Whole, Ending::Broken] {
            let poll = replay.call(row, ending).await.call;
            assert_eq!((poll.outcome, poll.cost), (Outcome::Failed, Some(Money::ZERO)), "{}", row["id"]);
            assert_eq!(poll.cost_basis, CostBasis::Exact);
            assert_eq!(replay.app.ledger().response("openai", id).unwrap(), Some(job.clone()), "{}", row["id"]);
        }
    }
}
