//! The drill: a backup of the real process under load, restored elsewhere, verified, compared and served from.

mod process;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use process::{Site, binary};
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Clock, Durability, Ledger, Options};

const BUDGET: &str = "\n[[budget]]\nid = \"all\"\nmatch = { business_unit = \"tests\" }\nlimit_usd = \"5000\"\nperiod = \"month\"\nenforcement = \"hard\"\n";

async fn call(client: &Client, site: &Site) -> u16 {
    let question = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
    let url = format!("{}/v1/chat/completions", site.url);
    let authorization = site.authorization();
    let mut answer = client.post(&url, &[("authorization", authorization.as_str())], &question).await.unwrap();
    answer.drain().await;
    answer.status
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(words: &[&str]) -> Output {
    Command::new(binary()).args(words).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Entries up to a size, and what the budget's month has of settled cost.
async fn contents(dir: &Path, size: u64) -> (Vec<String>, u64) {
    let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
    let ledger = Ledger::open(dir, options).unwrap();
    let mut entries = Vec::new();
    while (entries.len() as u64) < size {
        let found = ledger.entries(entries.len() as u64, (size as usize - entries.len()).min(10_000)).unwrap();
        assert!(!found.is_empty(), "the journal ends with entry {}", entries.len());
        entries.extend(found.iter().map(|(entry, erasable)| format!("{entry:?} {erasable:?}")));
    }
    let all = ledger.head().position();
    ledger.close().await.unwrap();
    (entries, all)
}

fn verified(dir: &Path) -> Value {
    let output = run(&["ledger", "verify", "--data", text(dir), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_elsewhere_and_serves() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, BUDGET);
    let mut served = site.serve().await;
    let client = Client::default();
    for _ in 0..20 {
        assert_eq!(call(&client, &site).await, 200);
    }
    let site = Arc::new(site);
    let more = Arc::new(AtomicBool::new(true));
    let load: Vec<_> = (0..6)
        .map(|_| {
            let (site, client, more) = (site.clone(), client.clone(), more.clone());
            tokio::spawn(async move {
                let mut calls = 0u32;
                while more.load(Ordering::SeqCst) {
                    assert_eq!(call(&client, &site).await, 200, "no call suffers from a backup");
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let file = site.folder.path().join("backup.tar");
    let mut backup = site.command(&["backup", text(&file), "--json"]);
    let output = tokio::task::spawn_blocking(move || backup.stdout(std::process::Stdio::piped()).output().unwrap());
    let output = output.await.unwrap();
    more.store(false, Ordering::SeqCst);
    for worker in load {
        assert!(worker.await.unwrap() > 0);
    }
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let manifest: Value = serde_json::from_slice(&output.stdout).unwrap();
    let size = manifest["size"].as_u64().unwrap();
    assert!(size > 40, "{manifest:#}");
    let twice = site.command(&["backup", text(&file)]).status().unwrap();
    assert_eq!(twice.code(), Some(2), "a backup is not written over");
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());

    // Elsewhere: refused where something is, told what it lacks, restored.
    let key = site.data().join("root.key");
    let full = run(&["restore", text(&file), "--data", text(&site.data()), "--root-key", text(&key)]);
    assert_eq!(full.status.code(), Some(2), "{}", said(&full));
    assert!(said(&full).contains("is not empty"), "{}", said(&full));
    let elsewhere = site.folder.path().join("elsewhere");
    let keyless = run(&["restore", text(&file), "--data", text(&elsewhere)]);
    assert_eq!(keyless.status.code(), Some(2), "{}", said(&keyless));
    assert!(said(&keyless).contains("--root-key") && !elsewhere.exists(), "{}", said(&keyless));
    let restored = run(&["restore", text(&file), "--data", text(&elsewhere), "--root-key", text(&key)]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    for words in
        [&format!("{size} entries of epoch 0"), manifest["root"].as_str().unwrap(), "1 from now on", "root.key"]
    {
        assert!(said(&restored).contains(words), "`{words}` is missing: {}", said(&restored));
    }

    let found = verified(&elsewhere);
    assert_eq!(found["epoch"], json!(1), "{found:#}");
    let (old, all) = contents(&site.data(), size).await;
    let (new, _) = contents(&elsewhere, size).await;
    assert!(all > size, "calls were recorded after the backup");
    assert_eq!(new, old, "the entries up to the backup are the same");

    // Served from: the same callers with the same keys, and the same budget.
    let old_home = site.folder.path().join("old");
    std::fs::rename(site.data(), &old_home).unwrap();
    std::fs::rename(&elsewhere, site.data()).unwrap();
    let mut served = site.serve().await;
    assert_eq!(call(&client, &site).await, 200, "keys and providers are there");
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    verified(&site.data());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budgets_of_a_restored_folder_have_what_was_posted() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, BUDGET);
    let mut served = site.serve().await;
    for _ in 0..5 {
        assert_eq!(call(&Client::default(), &site).await, 200);
    }
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    let file = site.folder.path().join("backup.tar");
    let made = run(&["backup", text(&file), "--data", text(&site.data())]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let (elsewhere, key) = (site.folder.path().join("elsewhere"), site.data().join("root.key"));
    let restored = run(&["restore", text(&file), "--data", text(&elsewhere), "--root-key", text(&key)]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    let balances = async |dir: &Path| {
        let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
        let ledger = Ledger::open(dir, options).unwrap();
        let balances = ledger.balances(SystemClock.now());
        ledger.close().await.unwrap();
        balances
    };
    let old = balances(&site.data()).await;
    assert!(old.iter().any(|balance| balance.budget == "all" && balance.posted > 0), "{old:?}");
    assert_eq!(balances(&elsewhere).await, old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_with_1_and_words() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let mut served = site.serve().await;
    assert_eq!(call(&Client::default(), &site).await, 200);
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    let file = site.folder.path().join("backup.tar");
    let made = run(&["backup", text(&file), "--data", text(&site.data())]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    assert!(!site.folder.path().join("backup.tar.part").exists());

    let sound = std::fs::read(&file).unwrap();
    let (elsewhere, key) = (site.folder.path().join("elsewhere"), site.data().join("root.key"));
    let refused = |bytes: &[u8], words: &str| {
        std::fs::write(&file, bytes).unwrap();
        let output = run(&["restore", text(&file), "--data", text(&elsewhere), "--root-key", text(&key)]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "`{words}` is missing: {}", said(&output));
        assert!(!elsewhere.exists());
    };
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    refused(&flipped, "is not what the manifest promises");
    refused(&sound[..sound.len() / 2], "cut short");
    let manifest = sound.windows(13).rposition(|bytes| bytes == b"manifest.json").unwrap();
    refused(&[&sound[..manifest], &[0; 1_024]].concat(), "manifest.json");
    refused(b"hello", "cut short");
}
