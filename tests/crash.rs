//! Kill test: the real process under load, `kill -9` at random instants, started again, twenty rounds: streams, aborts,
//! hard budgets that refuse, and an `apply` that changes them all the while. Afterwards every call the provider saw is in
//! the journal exactly once, every caller who read a whole answer has its exact cost, no admission was over a limit, the
//! balances are what the entries add up to, the sequence has no gap, and `ledger verify` agrees.
//!
//! `WEIGHBRIDGE_SEED` repeats a run, `WEIGHBRIDGE_LONG=1` makes it ten times as long.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use process::Site;
use weighbridge::demo::client::{Answer, Client};
use weighbridge::demo::random::Random;
use weighbridge::demo::sandbox::{Pace, Sandbox, Settings};
use weighbridge::domain::call::BudgetHold;
use weighbridge::domain::{Code, Component, CostBasis, Metric, Outcome, Usage};
use weighbridge::ledger::entry::{Body, Entry, Settle};
use weighbridge::pricing::{PriceBook, PriceContext};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Durability, Ledger, Options};

const WORKERS: u64 = 24;

/// Two nested hard budgets and one in another unit; the limit of the last changes while calls go on.
fn budgets(calls_a_minute: u64) -> String {
    let budget = |id: &str, matches: &str, limit: &str, period: &str| {
        format!(
            "\n[[budget]]\nid = \"{id}\"\nmatch = {{ {matches} }}\n{limit}\nperiod = \"{period}\"\nenforcement = \"hard\"\n"
        )
    };
    budget("all", "business_unit = \"tests\"", "limit_usd = \"5000\"", "month")
        + &budget("app", "service = \"app\"", "limit_usd = \"4000\"", "day")
        + &budget("pace", "service = \"app\"", &format!("limit_calls = {calls_a_minute}"), "minute")
}

/// What a caller who read its answer to the end knows.
#[derive(Clone, Debug)]
struct Whole {
    list: &'static str,
    model: String,
    /// Absent where the answer did not say.
    usage: Option<Usage>,
}

/// What a worker asks for.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    ChatPlain,
    ChatStream {
        usage: bool,
    },
    Response,
    Message,
    MessageStream,
    /// Hangs up after the first pieces.
    Abort,
}

const ASKS: [Ask; 7] = [
    Ask::ChatPlain,
    Ask::ChatStream { usage: true },
    Ask::ChatStream { usage: false },
    Ask::Response,
    Ask::Message,
    Ask::MessageStream,
    Ask::Abort,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_is_killed() {
    let seed = std::env::var("WEIGHBRIDGE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh_seed);
    let rounds = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 200 } else { 20 };
    println!("seed {seed}, {rounds} rounds");
    let settings = Settings { pace: Pace::Real(0.03), ..Settings::for_tests() };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let site = Arc::new(Site::new(&sandbox, &budgets(2_000)));
    let whole: Arc<Mutex<BTreeMap<String, Whole>>> = Arc::default();
    let mut random = Random::new(seed);
    let mut applied = 0;
    for round in 0..rounds {
        let mut served = site.serve().await;
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let prefix = format!("r{round}-w{worker}");
                let random = Random::new(random.draw());
                tokio::spawn(work(site.clone(), prefix, random, whole.clone(), stop.clone()))
            })
            .collect();
        let applier = tokio::task::spawn_blocking({
            let (site, stop, random) = (site.clone(), stop.clone(), Random::new(random.draw()));
            move || keep_applying(&site, random, &stop)
        });
        tokio::time::sleep(Duration::from_millis(random.between(50, 900))).await;
        served.kill();
        stop.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.await.unwrap();
        }
        applied += applier.await.unwrap();
    }
    // The last start settles what the last kill left open.
    drop(site.serve().await);
    let whole = std::mem::take(&mut *whole.lock().unwrap());
    println!("{applied} applies were acknowledged");
    assert!(applied > 0, "seed {seed}: no apply came through");
    examine(&site, &sandbox, &whole, seed).await;
}

/// Applies the file with another limit, again and again. Gives how often it was acknowledged.
fn keep_applying(site: &Site, mut random: Random, stop: &AtomicBool) -> u32 {
    let file = site.folder.path().join("applied.toml");
    let catalogue = site.declared.split("\n[[budget]]").next().unwrap_or_default();
    let mut applied = 0;
    while !stop.load(Ordering::SeqCst) {
        std::fs::write(&file, format!("{catalogue}{}", budgets(random.between(200, 4_000)))).unwrap();
        let status = site.command(&["apply", file.to_str().unwrap()]).status().unwrap();
        applied += u32::from(status.success());
    }
    applied
}

async fn work(
    site: Arc<Site>,
    prefix: String,
    mut random: Random,
    whole: Arc<Mutex<BTreeMap<String, Whole>>>,
    stop: Arc<AtomicBool>,
) {
    let client = Client::default();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let run = format!("{prefix}-{number}");
        let ask = *random.pick(&ASKS);
        match call(&site, &client, &run, ask).await {
            Some(read) => drop(whole.lock().unwrap().insert(run, read)),
            None if ask == Ask::Abort => {}
            // The process is gone, or going: no need to ask a thousand times a second.
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One call; what was read if it was read to its end.
async fn call(site: &Site, client: &Client, run: &str, ask: Ask) -> Option<Whole> {
    let question = json!([{"role": "user", "content": format!("How heavy is the lorry of run {run}?")}]);
    let (path, mut body) = match ask {
        Ask::ChatPlain | Ask::ChatStream { .. } | Ask::Abort => (
            "/v1/chat/completions",
            json!({"model": "gpt-5.2", "messages": question, "max_completion_tokens": 400, "user": run}),
        ),
        Ask::Response => ("/v1/responses", json!({"model": "gpt-4.1", "input": "How heavy?", "user": run})),
        Ask::Message | Ask::MessageStream => (
            "/v1/messages",
            json!({"model": "claude-haiku-4-5", "max_tokens": 400, "messages": question, "metadata": {"user_id": run}}),
        ),
    };
    if matches!(ask, Ask::ChatStream { .. } | Ask::MessageStream | Ask::Abort) {
        body["stream"] = json!(true);
    }
    if ask == (Ask::ChatStream { usage: true }) {
        body["stream_options"] = json!({"include_usage": true});
    }
    let authorization = site.authorization();
    let headers = [("authorization", authorization.as_str()), ("wb-run", run), ("anthropic-version", "2023-06-01")];
    // Only Anthropic's callers name a version.
    let headers = if path == "/v1/messages" { &headers[..] } else { &headers[..2] };
    let mut answer = client.post(&format!("{}{path}", site.url), headers, &body).await.ok()?;
    if answer.status != 200 {
        return None;
    }
    if ask == Ask::Abort {
        let _ = answer.piece().await;
        let _ = answer.piece().await;
        return None;
    }
    read_whole(&mut answer, ask).await
}

async fn read_whole(answer: &mut Answer, ask: Ask) -> Option<Whole> {
    let (bytes, ended) = answer.drain().await;
    let text = String::from_utf8(bytes).ok().filter(|_| ended)?;
    let events: Vec<Value> = match ask {
        Ask::ChatStream { .. } | Ask::MessageStream => text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str(data).ok())
            .collect(),
        _ => vec![serde_json::from_str(&text).ok()?],
    };
    let terminal = match ask {
        Ask::ChatStream { .. } => text.ends_with("data: [DONE]\n\n"),
        Ask::MessageStream => events.last().is_some_and(|event| event["type"] == "message_stop"),
        _ => true,
    };
    if !terminal {
        return None;
    }
    let anthropic = matches!(ask, Ask::Message | Ask::MessageStream);
    let model = events.iter().find_map(|e| e["model"].as_str().or_else(|| e["message"]["model"].as_str()))?;
    let mut usage = None;
    for event in &events {
        // The last word counts: Anthropic's counts are cumulative.
        let found = [&event["usage"], &event["message"]["usage"]].into_iter().find(|usage| usage.is_object());
        usage = found.map(|found| canonical(found, anthropic)).or(usage);
    }
    let list = if anthropic { "anthropic" } else { "openai" };
    Some(Whole { list, model: model.to_owned(), usage })
}

fn canonical(usage: &Value, anthropic: bool) -> Usage {
    let n = |value: &Value| value.as_u64().unwrap_or(0);
    if anthropic {
        let (read, written) = (n(&usage["cache_read_input_tokens"]), n(&usage["cache_creation_input_tokens"]));
        return Usage::new()
            .with(Component::InputTokens, n(&usage["input_tokens"]) + read + written)
            .with(Component::CacheReadTokens, read)
            .with(Component::CacheWriteTokens, written)
            .with(Component::OutputTokens, n(&usage["output_tokens"]));
    }
    let (input, output) = if usage["prompt_tokens"].is_u64() {
        ("prompt_tokens", "completion_tokens")
    } else {
        ("input_tokens", "output_tokens")
    };
    Usage::new()
        .with(Component::InputTokens, n(&usage[input]))
        .with(Component::CacheReadTokens, n(&usage[format!("{input}_details")]["cached_tokens"]))
        .with(Component::OutputTokens, n(&usage[output]))
}

/// A call in the journal: its ADMITs, and how each ended.
#[derive(Default)]
struct Kept {
    admits: Vec<u64>,
    settles: Vec<Settle>,
    interrupted: usize,
}

async fn examine(site: &Site, sandbox: &Sandbox, whole: &BTreeMap<String, Whole>, seed: u64) {
    let verify =
        Command::new(process::binary()).args(["ledger", "verify", "--data"]).arg(site.data()).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stdout).into_owned() + &String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success(), "seed {seed}: verify says no: {said}");

    let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
    let ledger = Ledger::open(&site.data(), options).unwrap();
    let entries = all_entries(&ledger);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(entry.seq, index as u64, "seed {seed}: a gap in the sequence");
    }
    let kept = by_run(&entries);
    let seen: Vec<String> = sandbox.seen().into_iter().filter_map(|seen| seen.marker).collect();
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(seen.len(), distinct.len(), "seed {seed}: the provider was asked twice for one call");
    for run in &distinct {
        let kept = kept.get(*run).unwrap_or_else(|| panic!("seed {seed}: {run} reached the provider and is not kept"));
        assert_eq!(kept.admits.len(), 1, "seed {seed}: {run} is kept more than once");
        let ends = kept.settles.len() + kept.interrupted;
        assert_eq!(ends, 1, "seed {seed}: {run} ended {ends} times");
    }
    let book = PriceBook::shipped();
    for (run, read) in whole {
        let kept = kept.get(run).unwrap_or_else(|| panic!("seed {seed}: {run} was read to the end and is not kept"));
        let settle = kept.settles.first().unwrap_or_else(|| panic!("seed {seed}: {run} was read whole, not settled"));
        assert_eq!((settle.outcome, settle.cost_basis), (Outcome::Completed, CostBasis::Exact), "seed {seed}: {run}");
        if let Some(usage) = &read.usage {
            let cost = book.quote(read.list, &read.model, ledger.head().at, &PriceContext::new(), usage).unwrap();
            assert_eq!(settle.cost, Some(cost.total), "seed {seed}: {run}");
        }
    }
    let refused = budgets_hold(&entries, &ledger, seed);
    let interrupted = kept.values().filter(|kept| kept.interrupted > 0).count();
    println!(
        "{} calls kept, {} seen by the provider, {} read whole, {interrupted} interrupted, {refused} refused, {} entries",
        kept.len(),
        distinct.len(),
        whole.len(),
        entries.len()
    );
    assert!(whole.len() > 50 && interrupted > 0, "seed {seed}: the load was too light to show anything");
    assert!(ledger.running().is_empty(), "seed {seed}: holds are left open");
    ledger.close().await.unwrap();
}

fn all_entries(ledger: &Ledger) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.len() as u64;
        let page = ledger.entries(from, 5_000).unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page.into_iter().map(|(entry, _)| entry));
    }
}

/// What a budget has in a period, by the entries alone.
#[derive(Default)]
struct Account {
    posted: i128,
    held: i128,
}

/// No admission was over a limit in force at that instant, and the ledger's balances are what the entries add up to.
/// Gives how many calls budgets refused.
fn budgets_hold(entries: &[Entry], ledger: &Ledger, seed: u64) -> usize {
    let mut limits: BTreeMap<String, (Metric, i128)> = BTreeMap::new();
    let mut accounts: BTreeMap<(String, String), Account> = BTreeMap::new();
    let mut open: BTreeMap<u64, Vec<BudgetHold>> = BTreeMap::new();
    let mut refused = 0;
    for entry in entries {
        let ended = entry.reference.and_then(|admit| open.get(&admit).cloned()).unwrap_or_default();
        let mut end = |actual: &dyn Fn(&BudgetHold) -> i128| {
            for hold in &ended {
                let account = accounts.get_mut(&(hold.budget.clone(), hold.period.clone())).unwrap();
                account.held -= hold.amount;
                account.posted += actual(hold);
            }
        };
        match &entry.body {
            Body::Budget { id, budget: Some(budget), .. } => {
                limits.insert(id.clone(), (budget.limit.metric, budget.limit.amount));
            }
            Body::Admit(admit) => {
                for hold in &admit.holds {
                    let account = accounts.entry((hold.budget.clone(), hold.period.clone())).or_default();
                    account.held += hold.amount;
                    let limit = limits[&hold.budget].1;
                    let used = account.posted + account.held;
                    assert!(used <= limit, "seed {seed}: entry {}: {used} of {limit} in {}", entry.seq, hold.budget);
                }
                assert_eq!(admit.holds.len(), limits.len(), "seed {seed}: every budget covers every call");
                open.insert(entry.seq, admit.holds.clone());
            }
            Body::Settle(settle) => {
                let cost = settle.cost.map_or(0, |cost| cost.0);
                end(&|hold| if limits[&hold.budget].0 == Metric::Usd { cost } else { 1 });
                open.remove(&entry.reference.unwrap());
            }
            Body::Interrupted { .. } => {
                end(&|hold| hold.amount);
                open.remove(&entry.reference.unwrap());
            }
            Body::Deny(deny) if deny.code == Code::BudgetExceeded => refused += 1,
            Body::Overrun { .. } => panic!("seed {seed}: entry {} is an overrun", entry.seq),
            _ => {}
        }
    }
    for balance in ledger.balances(ledger.head().at) {
        let empty = Account::default();
        let own = accounts.get(&(balance.budget.clone(), balance.period.clone())).unwrap_or(&empty);
        assert_eq!((balance.posted, balance.held), (own.posted, own.held), "seed {seed}: {}", balance.budget);
    }
    refused
}

fn by_run(entries: &[Entry]) -> BTreeMap<String, Kept> {
    let mut run_of: BTreeMap<u64, String> = BTreeMap::new();
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    for entry in entries {
        let end_of = entry.reference.and_then(|admit| run_of.get(&admit));
        match (&entry.body, end_of) {
            (Body::Admit(admit), _) => {
                if let Some(run) = &admit.who.run {
                    run_of.insert(entry.seq, run.clone());
                    kept.entry(run.clone()).or_default().admits.push(entry.seq);
                }
            }
            (Body::Settle(settle), Some(run)) => kept.entry(run.clone()).or_default().settles.push((**settle).clone()),
            (Body::Interrupted { .. }, Some(run)) => kept.entry(run.clone()).or_default().interrupted += 1,
            _ => {}
        }
    }
    kept
}

/// Another one at every run: what the standard library seeds its hash maps with.
fn fresh_seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ())
}
