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
