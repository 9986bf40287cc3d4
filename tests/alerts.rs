//! Alerts through a real process that is killed again and again, to a webhook receiver that fails, hangs and goes away:
//! every alert in the journal arrives, by its id exactly once, and thresholds come before the refusal they warn of.
//!
//! `WEIGHBRIDGE_SEED` repeats a run, `WEIGHBRIDGE_LONG=1` makes it longer.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use process::Site;
use weighbridge::demo::client::Client;
use weighbridge::demo::random::Random;
use weighbridge::demo::sandbox::{Sandbox, Settings};
use weighbridge::ledger::entry::{Alert, Body};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Durability, Ledger, Options};

/// Calls that the hard budget affords.
const AFFORDED: u64 = 60;

/// Messages taken, by their id: the alerts in each.
type Taken = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// What the receiver does with a message.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Takes,
    Fails,
    Hangs,
    /// Takes it and says nothing: as a receiver that dies in between.
    TakesAndBreaksOff,
}

/// A webhook receiver that keeps one port for as long as the test runs, and is not always there.
struct Receiver {
    port: u16,
    taken: Taken,
    mood: Arc<Mutex<Mood>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = door.local_addr().unwrap().port();
        drop(door);
        let mut receiver =
            Receiver { port, taken: Taken::default(), mood: Arc::new(Mutex::new(Mood::Takes)), task: None };
        receiver.open().await;
        receiver
    }

    async fn open(&mut self) {
        let door = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let (taken, mood) = (self.taken.clone(), self.mood.clone());
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = door.accept().await {
                connections.spawn(talk(stream, taken.clone(), mood.clone()));
            }
        }));
    }

    /// Gone, with all its connections.
    async fn close(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    fn feel(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Alert → in how many different messages it came.
    fn alerts(&self) -> BTreeMap<String, usize> {
        let mut alerts = BTreeMap::new();
        for ids in self.taken.lock().unwrap().values() {
            ids.iter().for_each(|id| *alerts.entry(id.clone()).or_default() += 1);
        }
        alerts
    }
}

async fn talk(mut stream: TcpStream, taken: Taken, mood: Arc<Mutex<Mood>>) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, body)) = read(&mut stream, &mut buffer).await else { return };
        let mood = *mood.lock().unwrap();
        if mood == Mood::Hangs {
            return std::future::pending().await;
        }
        if matches!(mood, Mood::Takes | Mood::TakesAndBreaksOff) {
            let message: Value = serde_json::from_slice(&body).unwrap();
            let ids = message["alerts"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap().to_owned());
            let ids: Vec<String> = ids.collect();
            let id = head.iter().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap().to_owned();
            // The same id is the same message, whatever happened in between.
            let before = taken.lock().unwrap().insert(id, ids.clone());
            assert!(before.is_none_or(|before| before == ids), "one id for two messages");
        }
        if mood == Mood::TakesAndBreaksOff {
            return;
        }
        let status = if mood == Mood::Fails { "500 No" } else { "200 OK" };
        if stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One request: the lines of its head, in lower case, and its body.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(Vec<String>, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let head: Vec<String> = head.lines().map(str::to_owned).collect();
            let length = head.iter().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let whole = end + 4 + length;
            if buffer.len() >= whole {
                let body = buffer[end + 4..whole].to_vec();
                buffer.drain(..whole);
                return Some((head, body));
            }
        }
        let mut piece = [0; 8_192];
        match stream.read(&mut piece).await {
            Ok(n) if n > 0 => buffer.extend_from_slice(&piece[..n]),
            _ => return None,
        }
    }
}

fn declared(port: u16) -> String {
    let channel = format!(
        "\n[[notify]]\nid = \"hook\"\nwebhook = \"http://127.0.0.1:{port}/secret-path\"\nsecret = \"shared-with-the-receiver\"\n\
         internal = true\ngroup_s = 0\n"
    );
    let steps: Vec<String> = (1..=20).map(|n| (n * 5).to_string()).collect();
    let steps = steps.join(", ");
    let budget = |id: &str, limit: u64, enforcement: &str| {
        format!(
            "\n[[budget]]\nid = \"{id}\"\nmatch = {{ service = \"app\" }}\nlimit_calls = {limit}\nperiod = \"total\"\n\
             enforcement = \"{enforcement}\"\nalert_at_percent = [{steps}]\nnotify = [\"hook\"]\n"
        )
    };
    channel
        + &budget("cap", AFFORDED, "hard")
        + &budget("wide", 3 * AFFORDED, "alert")
        + &budget("near", AFFORDED / 2, "alert")
}

async fn call(site: &Site, client: &Client) -> Option<u16> {
    let body = json!({ "model": "gpt-5.2", "messages": [{ "role": "user", "content": "How heavy?" }], "max_completion_tokens": 20 });
    let authorization = site.authorization();
    let headers = [("authorization", authorization.as_str())];
    let mut answer = client.post(&format!("{}/v1/chat/completions", site.url), &headers, &body).await.ok()?;
    let status = answer.status;
    let (_, ended) = answer.drain().await;
    ended.then_some(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_alert_arrives_exactly_once_by_its_id_over_kills_and_a_receiver_that_fails_hangs_and_restarts() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = std::env::var("WEIGHBRIDGE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(clock);
    let rounds = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 40 } else { 8 };
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random::new(seed);
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut receiver = Receiver::start().await;
    let site = Arc::new(Site::new(&sandbox, &declared(receiver.port)));
    let client = Client::default();
    for round in 0..rounds {
        let mut served = site.serve().await;
        receiver.feel(*random.pick(&[Mood::Takes, Mood::Takes, Mood::Fails, Mood::Hangs, Mood::TakesAndBreaksOff]));
        for _ in 0..random.between(2, 2 * AFFORDED / rounds) {
            call(&site, &client).await;
        }
        if round % 3 == 2 {
            receiver.close().await;
        }
        // Somewhere between the alert, the message, its delivery and the record of it.
        tokio::time::sleep(Duration::from_millis(random.between(0, 900))).await;
        served.kill();
        if receiver.task.is_none() {
            receiver.open().await;
        }
    }
    // A last run in which everything may end well: until a call is refused, and until nothing is on its way.
    receiver.feel(Mood::Takes);
    let served = site.serve().await;
    let deadline = Instant::now() + Duration::from_secs(180);
    while call(&site, &client).await != Some(402) {
        assert!(Instant::now() < deadline, "seed {seed}: nothing is refused");
    }
    let web = format!("http://127.0.0.1:{}", site.ports()[1]);
    let token = format!("Bearer {}", process::OPERATOR_TOKEN);
    loop {
        let headers = [("authorization", token.as_str())];
        let mut answer = client.get(&format!("{web}/api/v1/notify/hook"), &headers).await.unwrap();
        let hook = answer.json().await.unwrap();
        assert!(!hook.to_string().contains("secret-path") && !hook.to_string().contains("shared-with"), "{hook}");
        if hook["waiting"] == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "seed {seed}: {hook} after three minutes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let log = site.last_words();
    assert!(!log.contains("secret-path") && !log.contains("shared-with-the-receiver"), "a secret is in the log");
    drop(served);
    examine(&site, &receiver, seed);
}

/// The journal against what the receiver took.
fn examine(site: &Site, receiver: &Receiver, seed: u64) {
    let ledger =
        Ledger::open(&site.data(), Options { durability: Durability::Strict, clock: Arc::new(SystemClock) }).unwrap();
    let (mut raised, mut before_cap, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut from = 0;
    loop {
        let entries = ledger.entries(from, 1_000).unwrap();
        let Some((last, _)) = entries.last() else { break };
        from = last.seq + 1;
        for (entry, _) in &entries {
            let told = format!("{:?}", entry.body);
            assert!(
                !told.contains("secret-path") && !told.contains("shared-with"),
                "a secret is in entry {}",
                entry.seq
            );
            match &entry.body {
                Body::Alert(alert) => {
                    let twice = !raised.insert(format!("al-{}-{}.hook", entry.ts.0, entry.seq));
                    assert!(!twice && !alert.routes.is_empty(), "seed {seed}: {alert:?}");
                    if let Alert { threshold: Some(percent), .. } = alert
                        && alert.budget == "cap"
                    {
                        before_cap.insert(*percent);
                    }
                }
                Body::Deny(deny) if deny.by.as_deref() == Some("budget:cap") => {
                    refused += 1;
                    let all: BTreeSet<u16> = (1..=20).map(|n| n * 5).collect();
                    assert_eq!(before_cap, all, "seed {seed}: entry {} refuses before it warned", entry.seq);
                }
                _ => {}
            }
        }
    }
    assert!(refused > 0 && raised.len() > 40, "seed {seed}: {} alerts, {refused} refusals", raised.len());
    let taken = receiver.alerts();
    let arrived: BTreeSet<String> = taken.keys().cloned().collect();
    assert_eq!(arrived, raised, "seed {seed}: what arrived is not what was raised");
    let twice: Vec<_> = taken.iter().filter(|(_, messages)| **messages != 1).collect();
    assert!(twice.is_empty(), "seed {seed}: in several messages: {twice:?}");
    println!("{} alerts in {} messages", raised.len(), receiver.taken.lock().unwrap().len());
}
