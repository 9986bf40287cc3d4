//! Cap tests: a thousand callers at once, over HTTP against the real process, on hard budgets that afford some of them:
//! plain calls, streams that are hung up on under nested budgets, and a kill in the middle.

mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use process::Site;
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};
use weighbridge::domain::{Micros, Money};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Balance, Clock, Durability, Ledger, Options};

const CALLERS: usize = 1_000;

/// Exactly 50 tokens of answer to a prompt of always the same length.
fn question(run: &str, stream: bool) -> Value {
    json!({
        "model": "gpt-4o", "max_tokens": 50, "user": "sandbox-length-50", "metadata": {"run": run}, "stream": stream,
        "messages": [{"role": "user", "content": "How heavy is the lorry?"}]
    })
}

/// How a call was answered.
struct Answered {
    status: u16,
    deny: Option<String>,
    body: Value,
    id: String,
}

/// What a caller does.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Plain,
    Streams,
    /// Streams, and hangs up at the first piece.
    HangsUp,
}

async fn ask(site: &Site, client: &Client, run: &str, manner: Manner) -> anyhow::Result<Answered> {
    let authorization = site.authorization();
    let headers = [("authorization", authorization.as_str()), ("wb-run", run)];
    let url = format!("{}/v1/chat/completions", site.url);
    let mut answer = client.post(&url, &headers, &question(run, manner != Manner::Plain)).await?;
    let deny = answer.header("wb-deny").map(str::to_owned);
    let id = answer.header("wb-request-id").unwrap_or_default().to_owned();
    let status = answer.status;
    let body = match manner {
        _ if status != 200 => answer.json().await.unwrap_or_default(),
        Manner::Plain => answer.json().await.unwrap_or_default(),
        Manner::Streams => {
            while answer.piece().await?.is_some() {}
            Value::Null
        }
        Manner::HangsUp => {
            answer.piece().await?;
            Value::Null
        }
    };
    Ok(Answered { status, deny, body, id })
}

/// Runs of the same length, so that every body has the same bound.
fn run(group: &str, number: usize) -> String {
    format!("{group}-{number:04}")
}

/// What one call holds and costs, asked before there is a budget.
async fn weigh(site: &Site, client: &Client, manner: Manner) -> (Money, Money) {
    let served = site.serve().await;
    let tried = ask(site, client, &run("tryy", 0), manner).await.unwrap();
    assert_eq!(tried.status, 200, "{}", site.last_words());
    let authorization = site.authorization();
    let url = format!("{}/wb/v1/calls/{}", site.url, tried.id);
    let body = client.get(&url, &[("authorization", &authorization)]).await.unwrap().json().await.unwrap();
    let call = if body["call"].is_object() { &body["call"] } else { &body };
    let amount =
        |name: &str| call[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).parse::<Money>().unwrap();
    let (hold, cost) = (amount("hold_usd"), amount("cost_usd"));
    assert!(cost <= hold && cost > Money::ZERO, "{call}");
    drop(served);
    (hold, cost)
}

/// A hard budget of this month for so many holds and a half, and for what was spent before.
fn cap(id: &str, matches: &str, holds: usize, hold: Money, before: Money) -> String {
    let limit = Money(hold.0 * holds as i128 + hold.0 / 2 + before.0);
    format!(
        "\n[[budget]]\nid = \"{id}\"\nmatch = {{ {matches} }}\nlimit_usd = \"{limit}\"\nperiod = \"month\"\n\
         enforcement = \"hard\"\n"
    )
}

type Caller = JoinHandle<anyhow::Result<Answered>>;

/// A thousand callers at once whom nobody answers before all have been decided; gives them and how many got through.
async fn crowd(
    site: &Arc<Site>,
    client: &Client,
    sandbox: &Sandbox,
    of: impl Fn(usize) -> (String, Manner),
) -> (Vec<Caller>, usize) {
    let before = sandbox.seen().len();
    sandbox.set_open(false);
    let callers: Vec<Caller> = (0..CALLERS)
        .map(|number| {
            let (site, client, (run, manner)) = (site.clone(), client.clone(), of(number));
            tokio::spawn(async move { ask(&site, &client, &run, manner).await })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(100);
    while callers.iter().filter(|caller| caller.is_finished()).count() + sandbox.seen().len() - before < CALLERS {
        assert!(Instant::now() < deadline, "not all were decided: {}", site.last_words());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (callers, sandbox.seen().len() - before)
}

/// Who got through; every other was told so in the dialect.
async fn outcome(callers: Vec<Caller>, of: impl Fn(usize) -> String) -> Vec<String> {
    let mut passed = Vec::new();
    for (number, caller) in callers.into_iter().enumerate() {
        let answered = caller.await.unwrap().unwrap();
        match answered.status {
            200 => passed.push(of(number)),
            402 => {
                assert_eq!(answered.deny.as_deref(), Some("budget_exceeded"));
                assert_eq!(answered.body["error"]["code"], "budget_exceeded", "{}", answered.body);
            }
            other => panic!("status {other}: {}", answered.body),
        }
    }
    passed
}

/// The balances that are in the folder once the process is gone.
async fn balances(site: &Site) -> Vec<Balance> {
    let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
    let ledger = Ledger::open(&site.data(), options).unwrap();
    let now: Micros = SystemClock.now();
    let balances = ledger.balances(now);
    ledger.close().await.unwrap();
    balances
}

fn of<'a>(balances: &'a [Balance], budget: &str) -> &'a Balance {
    balances.iter().find(|balance| balance.budget == budget).expect("the budget's balance")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_at_once_cannot_pass_a_budget_for_a_hundred_and_thirty_seven() {
    const AFFORDED: usize = 137;
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut site = Site::new(&sandbox, "");
    let client = Client::default();
    let (hold, cost) = weigh(&site, &client, Manner::Plain).await;
    site.declared.push_str(&cap("cap", "service = \"app\"", AFFORDED, hold, cost));
    let mut served = site.serve().await;
    let before = sandbox.seen().len();
    let site = Arc::new(site);
    let (callers, reached) = crowd(&site, &client, &sandbox, |n| (run("many", n), Manner::Plain)).await;
    assert_eq!(reached, AFFORDED, "as many reached the provider as the budget affords");
    sandbox.set_open(true);
    let passed = outcome(callers, |n| run("many", n)).await;
    let mut seen: Vec<String> = sandbox.seen().split_off(before).into_iter().filter_map(|seen| seen.marker).collect();
    seen.sort();
    assert_eq!(seen, passed, "the provider saw exactly those that passed");

    // One by one: the budget fills to within one hold.
    let mut more = 0;
    while ask(&site, &client, &run("more", more), Manner::Plain).await.unwrap().status == 200 {
        more += 1;
        assert!(more < 1_000, "the budget never fills");
    }
    served.kill();
    let balances = balances(&site).await;
    let balance = of(&balances, "cap");
    assert_eq!((balance.held, balance.open_holds), (0, 0), "no hold is left");
    let left = balance.allowance.total() - balance.posted;
    assert!((0..hold.0).contains(&left), "{left} are left, a hold is {}", hold.0);
    println!(
        "{AFFORDED} of {CALLERS} passed at once, {more} more one by one, {left} units left of a hold of {}",
        hold.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_hung_up_on_cannot_pass_nested_budgets() {
    const AFFORDED: usize = 60;
    const LEFT: usize = 25;
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut site = Site::new(&sandbox, "");
    // A budget may refuse by what callers say, since they have to.
    site.declared =
        site.declared.replace("caller_fields = [\"run\"]", "caller_fields = [\"run\"]\nmandatory_fields = [\"run\"]");
    let client = Client::default();
    let (hold, cost) = weigh(&site, &client, Manner::Streams).await;
    site.declared.push_str(&cap("app", "service = \"app\"", AFFORDED, hold, cost));
    site.declared.push_str(&cap("left", "service = \"app\", run = \"left-*\"", LEFT, hold, Money::ZERO));
    site.declared.push_str(&cap("unit", "business_unit = \"tests\"", AFFORDED + 200, hold, cost));
    let mut served = site.serve().await;
    let site = Arc::new(site);
    let manner = |n: usize| if n % 3 == 0 { Manner::HangsUp } else { Manner::Streams };
    let who = |n: usize| run(if n % 2 == 0 { "left" } else { "rite" }, n);
    let (callers, reached) = crowd(&site, &client, &sandbox, |n| (who(n), manner(n))).await;
    assert_eq!(reached, AFFORDED);
    sandbox.set_open(true);
    let passed = outcome(callers, who).await;
    assert_eq!(passed.len(), AFFORDED);
    let left = passed.iter().filter(|run| run.starts_with("left")).count();
    assert!(left <= LEFT, "{left} passed a budget for {LEFT}");

    // Every hold comes to its end, whoever hung up.
    let deadline = Instant::now() + Duration::from_secs(60);
    let url = format!("{}/wb/v1/spend", site.url);
    loop {
        let authorization = site.authorization();
        let spend = client.get(&url, &[("authorization", &authorization)]).await.unwrap().json().await.unwrap();
        let app = spend["budgets"].as_array().unwrap().iter().find(|b| b["budget"] == "app").unwrap();
        if app["held_usd"] == "0" {
            break;
        }
        assert!(Instant::now() < deadline, "holds are left: {spend}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    served.kill();
    let balances = balances(&site).await;
    for budget in ["app", "left", "unit"] {
        let balance = of(&balances, budget);
        assert_eq!((balance.held, balance.open_holds), (0, 0), "{budget}");
        assert!(balance.posted <= balance.allowance.total(), "{budget}");
    }
    assert_eq!(of(&balances, "app").posted, of(&balances, "unit").posted, "both saw every call");
    println!("{AFFORDED} of {CALLERS} streams passed, {left} of them under the inner budget for {LEFT}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_neither_frees_nor_doubles_what_was_held() {
    const AFFORDED: usize = 90;
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut site = Site::new(&sandbox, "");
    let client = Client::default();
    let (hold, cost) = weigh(&site, &client, Manner::Plain).await;
    site.declared.push_str(&cap("cap", "service = \"app\"", AFFORDED, hold, cost));
    let mut served = site.serve().await;
    let site = Arc::new(site);
    let (callers, reached) = crowd(&site, &client, &sandbox, |n| (run("many", n), Manner::Plain)).await;
    assert_eq!(reached, AFFORDED);
    let before = sandbox.seen().len();
    served.kill();
    sandbox.set_open(true);
    for caller in callers {
        // Those that waited for their answers have lost their connection.
        drop(caller.await.unwrap());
    }
    let mut served = site.serve().await;
    for number in 0..20 {
        let answered = ask(&site, &Client::default(), &run("late", number), Manner::Plain).await.unwrap();
        assert_eq!((answered.status, answered.deny.as_deref()), (402, Some("budget_exceeded")), "{number}");
    }
    assert_eq!(sandbox.seen().len(), before, "nothing more reached the provider");
    served.kill();
    let balances = balances(&site).await;
    let balance = of(&balances, "cap");
    assert_eq!((balance.held, balance.open_holds), (0, 0));
    assert_eq!(balance.posted, cost.0 + hold.0 * AFFORDED as i128, "each was settled from its hold, once");
    println!("{AFFORDED} of {CALLERS} were under way when the process was killed; all are settled from their holds");
}
