//! `serve` as a whole process: what it says and which code it ends with when it cannot start, what SIGHUP and SIGTERM do.

mod process;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};
use serde_json::json;

use process::{Site, binary};
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};

/// Runs `serve` where it is expected to end by itself.
fn refused(site: &Site) -> Output {
    let config = site.write_config();
    Command::new(binary()).args(["serve", "--config"]).arg(config).output().unwrap()
}

/// Exit code and words are as they should be, and no port was announced.
fn check(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is missing: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A provider that answers every request alike and keeps the credentials it was called with.
fn provider() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let own = seen.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0u8];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let credential = head.lines().find_map(|l| l.strip_prefix("authorization: bearer ")).unwrap_or_default();
            own.lock().unwrap().push(credential.to_owned());
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            let _ = stream.read_exact(&mut body);
            let answer = r#"{"id":"c","object":"chat.completion","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            );
        }
    });
    (url, seen)
}

async fn call(site: &Site) -> u16 {
    let authorization = site.authorization();
    let question = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
    let url = format!("{}/v1/chat/completions", site.url);
    let mut answer =
        Client::default().post(&url, &[("authorization", authorization.as_str())], &question).await.unwrap();
    answer.drain().await;
    answer.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_ends_with_64_before_a_port_is_bound() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let mut site = Site::new(&sandbox, "");
    let good = site.declared.clone();
    // The ports are taken: whoever bound them first would say so, and end with another code.
    let ports = site.ports();
    let _taken: Vec<TcpListener> = ports.iter().map(|p| TcpListener::bind(("127.0.0.1", *p)).unwrap()).collect();
    for (wrong, words) in [
        ("\n[[budgett]]\nid = \"x\"\n", ["budgett", "budget"]),
        ("\n[[service]]\nid = \"app2\"\nowner = \"x\"\nbusines_unit = \"y\"\n", ["busines_unit", "business_unit"]),
        ("\nnot toml at all\n", ["weighbridge.toml", ""]),
    ] {
        site.declared = format!("{good}{wrong}");
        check(&refused(&site), 64, &words);
        assert!(!site.data().exists(), "nothing is made of a wrong configuration");
    }
    site.declared = good;
    let output = refused(&site);
    check(&output, 69, &["server.listen", "cannot listen"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_in_use_damaged_or_newer_is_refused_with_69_and_words_that_help() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let mut served = site.serve().await;
    check(&refused(&site), 69, &["in use by another process"]);
    assert_eq!(call(&site).await, 200, "the one that runs is not disturbed");
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());

    let journal = std::fs::read_dir(site.data())
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("journal-")))
        .expect("a journal file");
    let sound = std::fs::read(&journal).unwrap();

    let meta: TableDefinition<&str, &[u8]> = TableDefinition::new("meta.v1");
    let database = Database::open(&journal).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(meta).unwrap().insert("format", 7u64.to_le_bytes().as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    check(&refused(&site), 69, &["newer version", "format 7"]);

    for damage in [vec![0u8; sound.len()], sound[..sound.len() / 3].to_vec(), b"hello".to_vec()] {
        std::fs::write(&journal, &damage).unwrap();
        check(&refused(&site), 69, &["damaged", "weighbridge ledger verify"]);
    }
    std::fs::write(&journal, &sound).unwrap();
    let mut served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_applies_the_file_again_with_new_credentials_and_sigterm_ends_with_0() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let (url, seen) = provider();
    let mut site = Site::new(&sandbox, "");
    let first = site.declared.replacen(&sandbox.openai_url(), &url, 1).replacen("\"sandbox\"", "\"sk-first\"", 1);
    site.declared = first.clone();
    let mut served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    assert_eq!(seen.lock().unwrap().pop().as_deref(), Some("sk-first"));

    let sealed = site.last_words().matches("another credential from now on").count();
    // Only the credential differs: the catalogue does not move, the next call has it all the same.
    site.declared = first.replacen("sk-first", "sk-second", 1);
    site.write_config();
    served.signal("HUP");
    // The first start said so too.
    wait_for_words(&site, "another credential from now on", sealed + 1).await;
    assert_eq!(call(&site).await, 200);
    assert_eq!(seen.lock().unwrap().pop().as_deref(), Some("sk-second"));
    assert!(!site.last_words().contains("sk-second"), "a credential is in the log");

    // A wrong file changes nothing and ends nothing.
    site.declared = format!("{first}\n[[budgett]]\n");
    site.write_config();
    served.signal("HUP");
    wait_for_words(&site, "was not applied", 1).await;
    assert_eq!(call(&site).await, 200);
    assert_eq!(seen.lock().unwrap().pop().as_deref(), Some("sk-second"));

    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
}

async fn wait_for_words(site: &Site, words: &str, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while site.last_words().matches(words).count() < times {
        assert!(Instant::now() < deadline, "`{words}` was not said: {}", site.last_words());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs another command on the site's folder while no server has it open.
fn command(site: &Site, words: &[&str]) -> Output {
    Command::new(binary()).args(words).arg("--data").arg(site.data()).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The newest call's id.
fn newest_call(site: &Site) -> String {
    let calls = text(&command(site, &["calls", "list", "--json"]));
    let calls: serde_json::Value = serde_json::from_str(&calls).unwrap();
    let calls = calls.get("calls").unwrap_or(&calls);
    calls[0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_proven_to_who_has_the_policy_file_and_nothing_else() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let mut served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());

    let held = text(&command(&site, &["ledger", "checkpoint"]));
    assert!(held.starts_with("process-tests/weighbridge/"), "{held}");
    let policy = text(&command(&site, &["ledger", "policy"]));
    let id = newest_call(&site);
    let elsewhere = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = elsewhere.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (held, policy) = (write("held", &held), write("policy", &policy));
    let proof = text(&command(&site, &["ledger", "proof", &id, "--since", &held]));
    assert_eq!(proof.matches("c2sp.org/tlog-proof@v1").count(), 2, "ADMIT and SETTLE: {proof}");
    let sound = write("sound.tlog-proof", &proof);
    let verify = |words: &[&str]| {
        let output = Command::new(binary()).args(["ledger", "verify"]).args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = verify(&[&sound, "--policy", &policy, "--since", &held]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"SETTLE\"") && said.contains("cost_lines"), "{said}");
    assert_eq!(verify(&[&sound, "--policy", &policy, "--strict-disclosure"]).0, Some(4), "the address is kept back");

    // Another digit in the index, another key, no proof at all, another history.
    let changed = write("changed", &proof.replacen("\nindex ", "\nindex 1", 1));
    assert_eq!(verify(&[&changed, "--policy", &policy]).0, Some(1));
    assert_eq!(verify(&[&policy, "--policy", &policy]).0, Some(2));
    assert_eq!(verify(&[&sound]).0, Some(2), "nobody to believe");
    let stranger = "log process-tests+f4c1ad8f+AbfG1IpAcmOurPE7IhGiugNqAMz6EFsJ3BMlEXdx13VD\nquorum none\n";
    assert_eq!(verify(&[&sound, "--policy", &write("odd", stranger)]).0, Some(2), "a key whose id is not its own");
    let stranger = "log weighbridge.test/vector-1+eaa038c5+AbfG1IpAcmOurPE7IhGiugNqAMz6EFsJ3BMlEXdx13VD\nquorum none\n";
    assert_eq!(verify(&[&sound, "--policy", &write("stranger", stranger)]).0, Some(3));

    // Another key from now on; both sign once, and the old policy does not believe the new key alone.
    let rotated = text(&command(&site, &["ledger", "rotate-key", "--reason", "a yearly habit"]));
    assert!(rotated.contains("\"vkey\""), "{rotated}");
    let mut served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    served.signal("TERM");
    assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    let folder = site.data().display().to_string();
    assert_eq!(verify(&["--data", &folder, "--policy", &policy]).0, Some(3));
    let policy = write("new-policy", &text(&command(&site, &["ledger", "policy"])));
    let (code, said) = verify(&["--data", &folder, "--policy", &policy]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verify(&["--data", &folder, "--since", &held]).0, Some(0));
    let note = std::fs::read_to_string(&held).unwrap();
    let size = note.lines().nth(1).unwrap();
    let forked = note.replacen(&format!("\n{size}\n"), "\n9999\n", 1);
    assert_eq!(verify(&["--data", &folder, "--since", &write("forked", &forked)]).0, Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l04_yesterdays_journal_is_refused_with_69_until_a_new_epoch_is_asked_for() {
    let sandbox = Sandbox::start(Settings::for_tests()).await.unwrap();
    let site = Site::new(&sandbox, "");
    let stop = async |mut served: process::Served| {
        served.signal("TERM");
        assert_eq!(served.exit().await, Some(0), "{}", site.last_words());
    };
    let served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    stop(served).await;
    let journal = || {
        let files = std::fs::read_dir(site.data()).unwrap().map(|f| f.unwrap().path());
        let own = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("journal-") || name == "commit.log"
        };
        files.filter(own).collect::<Vec<_>>()
    };
    let yesterday: Vec<(std::path::PathBuf, Vec<u8>)> =
        journal().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let served = site.serve().await;
    assert_eq!(call(&site).await, 200);
    stop(served).await;
    for (path, bytes) in &yesterday {
        std::fs::write(path, bytes).unwrap();
    }
    check(&refused(&site), 69, &["rollback_detected", "`head.log`", "--new-epoch"]);

    let served = site.serve_with(&["--new-epoch", "restored from a copy"]).await;
    assert!(site.last_words().contains("a new epoch has begun"), "{}", site.last_words());
    assert_eq!(call(&site).await, 200, "keys and providers are carried over");
    stop(served).await;
    // A service manager starts the same command again.
    let served = site.serve_with(&["--new-epoch", "restored from a copy"]).await;
    assert!(site.last_words().contains("no new epoch was begun"), "{}", site.last_words());
    stop(served).await;
    let verified = text(&command(&site, &["ledger", "verify", "--json"]));
    let verified: serde_json::Value = serde_json::from_str(&verified).unwrap();
    assert_eq!((&verified["verdict"], &verified["epoch"]), (&json!("verified"), &json!(1)), "{verified:#}");
    assert_eq!(verified["calls"], json!(2), "one of yesterday, one of the new epoch");
}
