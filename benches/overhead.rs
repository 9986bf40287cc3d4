//! What the bridge adds to a call: the real gateway process beside direct calls, in one run on this machine.
//!
//! ```text
//! cargo bench --bench overhead [-- --secs 3 --connections 32 --passes 3]
//! ```
//!
//! The sandbox provider and the callers are in this process, the gateway is the binary with its journal on disk (`strict`:
//! durable before the first byte out and before the last byte back). Direct and gateway take turns, so that what else the
//! machine does falls on both; the medians of the passes are printed, and the ratio is what counts. One caller shows the
//! time added to a call, many show how much goes through.

#[path = "../tests/process/mod.rs"]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::json;

use process::Site;
use weighbridge::demo::client::Client;
use weighbridge::demo::sandbox::{Sandbox, Settings};

/// One pass over one way.
#[derive(Clone, Copy, Default)]
struct Pass {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
}

struct Way {
    name: &'static str,
    url: String,
    authorization: String,
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let secs = argument("--secs").unwrap_or(3);
    let connections = argument("--connections").unwrap_or(32) as usize;
    let passes = argument("--passes").unwrap_or(3) as usize;
    let sandbox = Sandbox::start(Settings { remember: false, ..Settings::for_tests() }).await.expect("the sandbox");
    let site = Site::new(&sandbox, "");
    let served = site.serve().await;
    let ways = [
        Way {
            name: "direct",
            url: format!("{}/chat/completions", sandbox.openai_url()),
            authorization: "Bearer sandbox".into(),
        },
        Way {
            name: "weighbridge",
            url: format!("{}/v1/chat/completions", site.url),
            authorization: site.authorization(),
        },
    ];
    println!("{passes} passes of {secs} s each, medians; {}", machine());
    println!("{:<14}{:>12}{:>12}{:>12}{:>14}", "way", "callers", "p50 us", "p99 us", "calls/s");
    for callers in [1, connections] {
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..passes {
            for (way, passes) in ways.iter().zip(&mut all) {
                passes.push(pass(way, callers, Duration::from_secs(secs)).await);
            }
        }
        let [direct, through] = all.map(|passes| median(&passes));
        for (way, pass) in ways.iter().zip([direct, through]) {
            println!("{:<14}{callers:>12}{:>12}{:>12}{:>14.0}", way.name, pass.p50_us, pass.p99_us, pass.per_second);
        }
        println!(
            "{:<14}{callers:>12}{:>+12}{:>+12}{:>13.2}x",
            "added",
            through.p50_us as i64 - direct.p50_us as i64,
            through.p99_us as i64 - direct.p99_us as i64,
            through.per_second / direct.per_second
        );
    }
    drop(served);
}

/// So many callers, each asking again as soon as it is answered.
async fn pass(way: &Way, callers: usize, length: Duration) -> Pass {
    let client = Client::default();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..callers)
        .map(|number| {
            let (client, stop) = (client.clone(), stop.clone());
            let (url, authorization) = (way.url.clone(), way.authorization.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
                while !stop.load(Ordering::Relaxed) {
                    let body = Bytes::from(question(number, took.len()));
                    let started = Instant::now();
                    let mut answer = client.send(Method::POST, &url, &headers, body).await.expect("an answer");
                    assert_eq!(answer.status, 200);
                    assert!(answer.drain().await.1, "the answer broke off");
                    took.push(started.elapsed().as_micros() as u64);
                }
                took
            })
        })
        .collect();
    let started = Instant::now();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for worker in workers {
        took.extend(worker.await.expect("a caller"));
    }
    let per_second = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
    Pass { per_second, p50_us: at(0.5), p99_us: at(0.99) }
}

/// About a kilobyte, different each time.
fn question(caller: usize, number: usize) -> String {
    let text = format!("caller {caller}, question {number}: {}", "how heavy is the lorry? ".repeat(40));
    json!({
        "model": "gpt-4o-mini", "max_tokens": 20, "user": "sandbox-length-20",
        "messages": [{"role": "user", "content": text}]
    })
    .to_string()
}

fn median(passes: &[Pass]) -> Pass {
    let mut passes = passes.to_vec();
    passes.sort_by_key(|pass| pass.p50_us);
    passes.get(passes.len() / 2).copied().unwrap_or_default()
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "checked build: use `cargo bench`" } else { "release build" };
    format!("{cores} cores, {build}")
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).and_then(|value| value.parse().ok())
}
