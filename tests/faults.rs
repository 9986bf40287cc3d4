//! The real process on a real file system that is full or cannot be written: a small one in memory, mounted for the test.
//! Where mounting is not permitted that is said, and nothing is shown.

mod process;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use process::{Site, binary};
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Durability, Ledger, Options};

/// A file system of its own for a site's data; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where it is not permitted.
    fn at(folder: &Path, mebibytes: u32) -> Option<Mounted> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Mounted(folder.into()));
        }
        eprintln!("skipped: this user may not mount a file system of its own");
        None
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(done.success(), "remount {how}");
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.0.join("filler")).unwrap();
        let mut part = vec![7; 1 << 20];
        while !part.is_empty() {
            if file.write_all(&part).is_err() {
                part.truncate(part.len() / 2);
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // At once for new users, for the last one when it is gone.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// One call: its status, its id where it was answered, and what was said.
async fn call(site: &Site, client: &Client) -> (u16, String, Value) {
    let authorization = site.authorization();
    let question = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
    let url = format!("{}/v1/chat/completions", site.url);
    let mut answer = client.post(&url, &[("authorization", authorization.as_str())], &question).await.unwrap();
    let id = answer.header("wb-request-id").unwrap_or_default().to_owned();
    (answer.status, id, answer.json().await.unwrap_or_default())
}

async fn ready(site: &Site, client: &Client) -> u16 {
    client.get(&format!("{}/readyz", site.url), &[]).await.unwrap().status
}

fn refused(site: &Site) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(["serve", "--config"]).arg(site.write_config()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_admission_and_room_brings_it_back_without_a_restart_and_without_a_loss() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let Some(disk) = Mounted::at(&site.data(), 64) else { return };
    let mut served = site.serve().await;
    let client = Client::default();
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let deadline = Instant::now() + Duration::from_secs(120);
    for _ in 0..20 {
        let (status, id, said) = call(&site, &client).await;
        assert_eq!(status, 200, "{said}");
        answered.lock().unwrap().insert(id);
    }
    let refusal = loop {
        assert!(Instant::now() < deadline, "calls never stopped: {}", site.last_words());
        disk.fill();
        let (status, id, said) = call(&site, &client).await;
        match status {
            200 => drop(answered.lock().unwrap().insert(id)),
            503 => break said,
            other => panic!("{other}: {said}"),
        }
    };
    assert_eq!(refusal["error"]["code"], "journal_unavailable", "{refusal}");
    assert_eq!(ready(&site, &client).await, 503);
    assert!(!site.data().join("ballast").exists(), "it was not given up");
    let before = answered.lock().unwrap().len();
    assert!(before > 0, "some were answered");

    std::fs::remove_file(site.data().join("filler")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while ready(&site, &client).await != 200 {
        assert!(Instant::now() < deadline, "not ready again: {}", site.last_words());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..20 {
        let (status, id, said) = call(&site, &client).await;
        assert_eq!(status, 200, "{said}");
        answered.lock().unwrap().insert(id);
    }
    served.kill();
    drop(site.serve().await);
    let verified = Command::new(binary()).args(["ledger", "verify", "--data"]).arg(site.data()).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
    let ledger = Ledger::open(&site.data(), options).unwrap();
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    for id in &answered {
        let call = ledger.call(id.parse().unwrap()).unwrap();
        assert!(call.is_some_and(|call| call.cost.is_some()), "call {id} was answered and is not there");
    }
    println!("{before} calls were answered before the disk was full, {} in all", answered.len());
    ledger.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_cannot_be_written_is_refused_in_words_with_69() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let Some(disk) = Mounted::at(&site.data(), 96) else { return };
    let mut served = site.serve().await;
    assert_eq!(call(&site, &Client::default()).await.0, 200);
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    disk.remount("ro");
    let (code, said) = refused(&site);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("Read-only file system") && said.contains(&site.data().display().to_string()), "{said}");
    disk.remount("rw");
    let mut served = site.serve().await;
    assert_eq!(call(&site, &Client::default()).await.0, 200);
    served.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_a_file_is_refused_in_words_with_69() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    File::create(site.data()).unwrap();
    let (code, said) = refused(&site);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&site.data().display().to_string()), "{said}");
}
