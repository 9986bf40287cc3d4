//! Cap test: 200 callers at once, over HTTP against the real process, on a hard budget that affords 37 of them.

mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use process::Site;
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};
use weighbridge::domain::{Micros, Money};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Clock, Durability, Ledger, Options};

const CALLERS: usize = 200;
const AFFORDED: usize = 37;

/// Exactly 50 tokens of answer to a prompt of always the same length.
fn question(run: &str) -> Value {
    json!({
        "model": "gpt-4o", "max_tokens": 50, "user": "sandbox-length-50", "metadata": {"run": run},
        "messages": [{"role": "user", "content": "How heavy is the lorry?"}]
    })
}

/// Status, `wb-deny`, body, and the call's id.
async fn ask(site: &Site, client: &Client, run: &str) -> (u16, Option<String>, Value, String) {
    let authorization = site.authorization();
    let headers = [("authorization", authorization.as_str()), ("wb-run", run)];
    let url = format!("{}/v1/chat/completions", site.url);
    let mut answer = client.post(&url, &headers, &question(run)).await.unwrap();
    let deny = answer.header("wb-deny").map(str::to_owned);
    let id = answer.header("wb-request-id").unwrap_or_default().to_owned();
    let body = answer.json().await.unwrap_or_default();
    (answer.status, deny, body, id)
}

async fn receipt(site: &Site, client: &Client, id: &str) -> Value {
    let authorization = site.authorization();
    let url = format!("{}/wb/v1/calls/{id}", site.url);
    let body = client.get(&url, &[("authorization", &authorization)]).await.unwrap().json().await.unwrap();
    if body["call"].is_object() { body["call"].clone() } else { body }
}

/// Runs of the same length, so that every body has the same bound.
fn run(group: &str, number: usize) -> String {
    format!("{group}-{number:04}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_at_once_cannot_pass_a_budget_for_thirty_seven() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut site = Site::new(&sandbox, "");
    let client = Client::default();

    // What one call holds and costs, asked before there is a budget.
    let served = site.serve().await;
    let (status, _, _, id) = ask(&site, &client, &run("tryy", 0)).await;
    assert_eq!(status, 200, "{}", site.last_words());
    let tried = receipt(&site, &client, &id).await;
    let hold: Money = tried["hold_usd"].as_str().unwrap().parse().unwrap();
    let cost: Money = tried["cost_usd"].as_str().unwrap().parse().unwrap();
    assert!(cost <= hold && cost > Money::ZERO, "{tried}");
    drop(served);

    // 37 holds and a half; the call before counts too, it is of this month.
    let limit = Money(hold.0 * AFFORDED as i128 + hold.0 / 2 + cost.0);
    site.declared.push_str(&format!(
        "\n[[budget]]\nid = \"cap\"\nmatch = {{ service = \"app\" }}\nlimit_usd = \"{limit}\"\nperiod = \"month\"\n\
         enforcement = \"hard\"\n"
    ));
    let mut served = site.serve().await;
    let before = sandbox.seen().len();
    sandbox.set_open(false);
    let site = Arc::new(site);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (site, client) = (site.clone(), client.clone());
            tokio::spawn(async move { ask(&site, &client, &run("many", number)).await })
        })
        .collect();
    // Nobody is answered by the provider before all have been decided.
    let deadline = Instant::now() + Duration::from_secs(60);
    while callers.iter().filter(|caller| caller.is_finished()).count() + sandbox.seen().len() - before < CALLERS {
        assert!(Instant::now() < deadline, "not all were decided: {}", site.last_words());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sandbox.seen().len() - before, AFFORDED, "as many reached the provider as the budget affords");
    sandbox.set_open(true);
    let mut passed = Vec::new();
    for (number, caller) in callers.into_iter().enumerate() {
        let (status, deny, body, _) = caller.await.unwrap();
        match status {
            200 => passed.push(run("many", number)),
            402 => {
                assert_eq!(deny.as_deref(), Some("budget_exceeded"));
                assert_eq!(body["error"]["code"], "budget_exceeded", "{body}");
            }
            other => panic!("status {other}: {body}"),
        }
    }
    let mut seen: Vec<String> = sandbox.seen().split_off(before).into_iter().filter_map(|seen| seen.marker).collect();
    seen.sort();
    assert_eq!(seen, passed, "the provider saw exactly those that passed");

    // One by one: the budget fills to within one hold.
    let mut more = 0;
    while ask(&site, &client, &run("more", more)).await.0 == 200 {
        more += 1;
        assert!(more < 1_000, "the budget never fills");
    }
    served.kill();
    let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
    let ledger = Ledger::open(&site.data(), options).unwrap();
    let now: Micros = SystemClock.now();
    let balance =
        ledger.balances(now).into_iter().find(|balance| balance.budget == "cap").expect("the budget's balance");
    assert_eq!((balance.held, balance.open_holds), (0, 0), "no hold is left");
    let left = limit.0 - balance.posted;
    assert!((0..hold.0).contains(&left), "{left} of {} are left, a hold is {}", limit.0, hold.0);
    println!(
        "{AFFORDED} of {CALLERS} passed at once, {more} more one by one, {left} units left of a hold of {}",
        hold.0
    );
    ledger.close().await.unwrap();
}
