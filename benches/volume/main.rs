//! Many calls through the one front door, and then what they cost: disk, memory, starts, look-ups, catching up.
//!
//! `cargo bench --bench volume -- --calls 10000000 --dir /big/disk/volume` writes ten million believable calls over three
//! months, is killed without warning, starts again, answers the questions people ask, loses `views.redb` and builds it
//! anew while calls go on, and verifies the whole. Memory does not grow with the number of calls; the folder does.
//! Without arguments: 20,000 calls in a temporary folder.
//!
//! The calls are made by one thread, decided and committed by the ledger's own; what is printed as entries per second is
//! therefore a lower bound on a machine with few cores.

mod traffic;

use std::collections::VecDeque;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weighbridge::domain::{CallId, Dimension, Filter, Match, Micros};
use weighbridge::ledger::request::{Reply, Request};
use weighbridge::report::{self, SpendQuery, Step};
use weighbridge::store::{Clock, Durability, Ledger, Options, StoreError, verify};

use traffic::{Chance, Traffic};

/// 2026-11-23T18:00:00Z: where every history ends.
const END: Micros = Micros(1_795_456_800_000_000);
const DAY: i64 = 86_400;
/// Requests handed over at once.
const SLICE: usize = 4_000;
/// Longest wait for the views, at any size.
const PATIENCE: Duration = Duration::from_secs(7_200);

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    calls: u64,
    seed: u64,
    days: i64,
    dir: Option<PathBuf>,
    /// The process that writes and is killed.
    writes: bool,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments { calls: 20_000, seed: 1, days: 90, dir: None, writes: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
        match word.as_str() {
            "--calls" => found.calls = value()?.replace('_', "").parse()?,
            "--seed" => found.seed = value()?.parse()?,
            "--days" => found.days = value()?.parse()?,
            "--dir" => found.dir = Some(value()?.into()),
            "--write-until-killed" => found.writes = true,
            // What cargo adds.
            "--bench" => {}
            other => return Err(format!("`{other}` is not known: --calls, --seed, --days, --dir").into()),
        }
    }
    Ok(found)
}

/// A clock led through the past: one instant for each request, then the last one.
struct Led(Mutex<(VecDeque<Micros>, Micros)>);

impl Led {
    fn lead(&self, instants: Vec<Micros>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.extend(instants);
    }
}

impl Clock for Led {
    fn now(&self) -> Micros {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = clock.0.pop_front() {
            clock.1 = next;
        }
        clock.1
    }
    fn led(&self) -> bool {
        true
    }
}

fn open(dir: &Path, at: Micros) -> Result<(Ledger, Arc<Led>), StoreError> {
    let clock = Arc::new(Led(Mutex::new((VecDeque::new(), at))));
    let ledger = Ledger::open(dir, Options { durability: Durability::Strict, clock: clock.clone() })?;
    Ok((ledger, clock))
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    if arguments.writes {
        let dir = arguments.dir.clone().ok_or("the writer needs a folder")?;
        return write(&dir, &arguments);
    }
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| temporary.path().join("data"));
    if dir.exists() {
        return Err(format!("`{}` is there already: give the name of a new folder", dir.display()).into());
    }
    println!("{} calls over {} days, seed {}", arguments.calls, arguments.days, arguments.seed);
    write_and_kill(&dir, &arguments)?;
    sizes(&dir, arguments.calls)?;
    start(&dir, "start after kill -9 to the first answer")?;
    let first = questions(&dir)?;
    start(&dir, "start after an orderly stop")?;
    build_anew(&dir, first)?;
    let begun = Instant::now();
    let found = verify::verify(&dir)?;
    line("verify", format!("{:.1} s, {:?}", begun.elapsed().as_secs_f64(), found.verdict));
    if let Some(finding) = found.finding {
        return Err(finding.into());
    }
    sizes(&dir, arguments.calls)
}

fn line(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<58} {figure}");
}

/// The writing process: writes everything, waits for the views, says so, and stays until it is killed.
fn write(dir: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let (ledger, clock) = open(dir, END.plus_seconds(-arguments.days * DAY))?;
    ledger.submit_all(vec![traffic::declarations()])?;
    let traffic = Traffic::new(arguments.seed, arguments.calls, END.plus_seconds(-arguments.days * DAY), END);
    // Two slices ahead: the ledger never waits for the maker, and the maker cannot run away.
    let (make, made) = sync_channel::<(Vec<Micros>, Vec<Request>)>(2);
    let maker = std::thread::spawn(move || {
        let mut traffic = traffic.peekable();
        while traffic.peek().is_some() {
            if make.send(traffic.by_ref().take(SLICE).unzip()).is_err() {
                return;
            }
        }
    });
    let begun = Instant::now();
    let (mut refused, mut behind) = (0u64, 0u64);
    for (instants, requests) in made {
        refused += requests.iter().filter(|r| matches!(r, Request::Deny { .. })).count() as u64;
        clock.lead(instants);
        let replies = ledger.submit_all(requests)?;
        refused += replies.iter().filter(|r| matches!(r, Reply::Denied(_))).count() as u64;
        let head = ledger.head();
        behind = behind.max(head.size - head.applied);
    }
    let took = begun.elapsed();
    maker.join().map_err(|_| "the maker of calls has died")?;
    let size = ledger.head().size;
    let waited = Instant::now();
    ledger.views().wait_for(size, PATIENCE);
    let per_second = |took: Duration| format!("{:.0}", size as f64 / took.as_secs_f64());
    line("entries", format!("{size}, of them {refused} refusals"));
    line("entries per second, durable", per_second(took));
    line("entries per second, until the views have all", per_second(begun.elapsed()));
    line("views at the end: behind for", format!("{:.2} s", waited.elapsed().as_secs_f64()));
    line("views at most behind, entries", behind);
    line("memory of the writing process, now and at most", memory());
    println!("done");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn write_and_kill(dir: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--write-until-killed", "--calls", &arguments.calls.to_string()])
        .args(["--seed", &arguments.seed.to_string(), "--days", &arguments.days.to_string()])
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("the writer says nothing")?;
    let mut done = false;
    for text in std::io::BufReader::new(output).lines() {
        let text = text?;
        done = text == "done";
        if done {
            break;
        }
        println!("{text}");
    }
    child.kill()?;
    child.wait()?;
    if done { Ok(()) } else { Err("the writer died before it was done".into()) }
}

/// Resident memory of this process, now and at its largest, as the kernel says.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let megabytes = |name: &str| {
        let kilobytes = status.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
        kilobytes.map_or("unknown".to_owned(), |kb: u64| format!("{} MB", kb / 1_024))
    };
    format!("{}, {}", megabytes("VmRSS:"), megabytes("VmHWM:"))
}

#[cfg(unix)]
fn blocks(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(meta) * 512
}
#[cfg(not(unix))]
fn blocks(meta: &std::fs::Metadata) -> u64 {
    meta.len()
}

/// Every file: its length, and the blocks it has on disk (sparse files are shorter than they look).
fn sizes(dir: &Path, calls: u64) -> Result<(), Failure> {
    let mut files: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let (mut length, mut used) = (0, 0);
    for file in files {
        let meta = file.metadata()?;
        if !meta.is_file() || blocks(&meta) < 1 << 16 {
            continue;
        }
        length += meta.len();
        used += blocks(&meta);
        size_line(&file.file_name().to_string_lossy(), meta.len(), blocks(&meta), calls);
    }
    size_line("all files", length, used, calls);
    Ok(())
}

fn size_line(name: &str, length: u64, used: u64, calls: u64) {
    let (long, disk) = (length as f64 / 1e6, used as f64 / 1e6);
    line(&format!("  {name}"), format!("{long:.1} MB long, {disk:.1} MB on disk, {} B a call", used / calls.max(1)));
}

fn start(dir: &Path, what: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let (ledger, _) = open(dir, END)?;
    ledger.submit_all(vec![Request::ExpireLeases])?;
    let took = begun.elapsed();
    line(what, format!("{:.0} ms", took.as_secs_f64() * 1e3));
    close(&ledger)
}

fn close(ledger: &Ledger) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(ledger.close())?)
}

/// The middle one of several runs.
fn median(mut ask: impl FnMut(usize) -> Result<(), Failure>, runs: usize) -> Result<String, Failure> {
    let mut took = Vec::with_capacity(runs);
    for run in 0..runs {
        let begun = Instant::now();
        ask(run)?;
        took.push(begun.elapsed());
    }
    took.sort();
    Ok(format!("{:.2} ms (at most {:.2})", took[runs / 2].as_secs_f64() * 1e3, took[runs - 1].as_secs_f64() * 1e3))
}

/// What people ask. Gives the last of some calls taken from all over the history.
fn questions(dir: &Path) -> Result<CallId, Failure> {
    let (ledger, _) = open(dir, END)?;
    let mut chance = Chance(7);
    let all = ledger.head().size;
    let mut ids = Vec::new();
    while ids.len() < 50 {
        let (page, _) = ledger.calls(&Filter::default(), Some(1 + chance.below(all)), 1)?;
        ids.extend(page.first().map(|call| call.id));
    }
    let receipts = median(|n| report::receipt(&ledger, ids[n]).map(drop).map_err(Into::into), ids.len())?;
    line("one receipt with its proof, anywhere in the history", receipts);
    let page = |filter: &Filter| {
        let filter = filter.clone();
        median(|_| report::calls(&ledger, &filter, None, 100).map(drop).map_err(Into::into), 5)
    };
    line("page 1 of the calls, 100 rows", page(&Filter::default())?);
    let rare = vec![(Dimension::Service, Match::parse("no-such-service"))];
    line(
        "the calls of a service that made none (all are looked at)",
        page(&Filter { dimensions: rare, ..Filter::default() })?,
    );
    let month = Filter { from: Some("2026-10-31T23:00:00Z".parse()?), to: Some(END), dimensions: Vec::new() };
    let spend = |by: Vec<Dimension>, step: Step, filter: &Filter| {
        let query = SpendQuery { filter: filter.clone(), by, step, time_zone: "Europe/Berlin".into() };
        median(|_| report::spend(&ledger, &query).map(drop).map_err(Into::into), 5)
    };
    line("a month's spend by service", spend(vec![Dimension::Service], Step::None, &month)?);
    line("a month's spend by service and day", spend(vec![Dimension::Service], Step::Day, &month)?);
    let everything = Filter::default();
    line(
        "the spend of all time by owner and model",
        spend(vec![Dimension::Owner, Dimension::Model], Step::None, &everything)?,
    );
    line("memory after these questions, now and at most", memory());
    close(&ledger)?;
    ids.pop().ok_or("no calls".into())
}

/// Deletes the views and builds them anew while calls go on.
fn build_anew(dir: &Path, old: CallId) -> Result<(), Failure> {
    std::fs::remove_file(dir.join("views.redb"))?;
    let (ledger, _) = open(dir, END)?;
    let size = ledger.head().size;
    let begun = Instant::now();
    let looked = Instant::now();
    let found = report::receipt(&ledger, old)?.is_some();
    line(
        "a receipt while the views are built anew",
        format!("{:.2} ms, found: {found}", looked.elapsed().as_secs_f64() * 1e3),
    );
    let mut waits = Vec::new();
    let mut traffic = Traffic::new(99, u64::MAX / 2, END, END.plus_seconds(DAY)).map(|(_, request)| request);
    while ledger.head().applied < size && begun.elapsed() < PATIENCE {
        let Some(request) = traffic.next() else { break };
        let sent = Instant::now();
        ledger.submit_all(vec![request])?;
        waits.push(sent.elapsed());
        ledger.views().wait_for(size, Duration::from_millis(2));
    }
    let took = begun.elapsed().as_secs_f64();
    waits.sort();
    line("views built anew, entries per second", format!("{:.0} ({took:.1} s)", size as f64 / took));
    let at = |share: usize| waits.get((waits.len() * share / 1_000).min(waits.len().saturating_sub(1)));
    let micros = |share: usize| at(share).map_or(0, |d| d.as_micros());
    line("a submit meanwhile, p50 / p99 / most", format!("{} / {} / {} µs", micros(500), micros(990), micros(999)));
    line("memory meanwhile, now and at most", memory());
    ledger.views().wait_for(ledger.head().size, PATIENCE);
    close(&ledger)
}
