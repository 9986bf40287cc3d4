//! Tests of the store through its front door.

mod epochs;
mod evidence;
mod faults;
mod large;
mod time;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::{SetClock, SystemClock};
use super::media::{Media, Memory};
use super::verify::{Verdict, Verification, verify, verify_media};
use super::views::samples;
use super::*;
use crate::domain::catalogue::Owner;
use crate::domain::{Change, Money};
use crate::ledger::entry::{Body, Erasable, Network, Person};
use crate::ledger::request::{AdmitRequest, Reply, Request};

const START: &str = "2026-11-23T18:00:00Z";

fn clock_at(at: &str) -> Arc<SetClock> {
    Arc::new(SetClock::new(at.parse().unwrap()))
}

fn with(clock: Arc<SetClock>) -> Options {
    Options { durability: Durability::Strict, clock }
}

fn options() -> Options {
    with(clock_at(START))
}

fn note(n: u64) -> Request {
    let reason = Some(format!("reason {n}"));
    Request::Admin { actor: "operator:ada".into(), action: format!("signed in {n}"), subject: None, reason }
}

fn admit(call: u128) -> Request {
    admit_as_of(call, 0)
}

/// Judged by a revision of the catalogue: where nothing was declared since, nobody looks for the key again.
fn admit_as_of(call: u128, revision: u64) -> Request {
    let mut admit = samples::admit(CallId(call), 1, samples::who("invoice-bot"), "gpt-5.2");
    admit.catalogue_revision = revision;
    std::sync::Arc::make_mut(&mut admit.who).tenant = Some(format!("tenant-{}", call % 3));
    let network = Some(Network { peer: Some("192.0.2.7:4711".into()), ..Network::default() });
    let claimed = [("end-user".to_string(), format!("user-{call}"))].into();
    let person = Some(Person { claimed, reason: None });
    Request::Admit(Box::new(AdmitRequest {
        admit,
        erasable: Erasable { network, person, ..Erasable::default() },
        fixed: Money(1_000),
        per_output_token: Some(Money(10)),
        output_wanted: 100,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: true,
        allow_unmetered: true,
        policy: Default::default(),
    }))
}

fn settle(call: u128) -> Request {
    let settle = Box::new(samples::settle(Some(Money(700)), Default::default()));
    Request::Settle { call: CallId(call), attempt: 1, settle, erasable: Box::default() }
}

fn owner() -> Request {
    let owner = Owner {
        id: "team-ap".into(),
        kind: Default::default(),
        name: Some("Ada Lovelace".into()),
        email: Some("ada@example.com".into()),
    };
    let changes = vec![Change::Owner("team-ap".into(), Some(owner))];
    Request::Declare { actor: "file".into(), changes, openings: Vec::new(), reason: None }
}

/// Ends a ledger as a power cut would: what was not synced is gone, nothing is written afterwards.
fn cut_power(memory: &Memory, ledger: Ledger) {
    memory.fail_writes(true);
    memory.crash();
    let _ = ledger.submit_all(vec![note(0)]);
    drop(ledger);
    memory.fail_writes(false);
}

fn close(ledger: Ledger) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ledger.close()).unwrap();
}

fn verified(memory: &Memory) -> Verification {
    let found = verify_media(&Media::Memory(memory.clone()), true, None);
    assert_eq!(found.verdict, Verdict::Verified, "{found:?}");
    found
}

fn seq(reply: &Reply) -> u64 {
    match reply {
        Reply::Admitted(admitted) => admitted.seq,
        Reply::Recorded { seq } | Reply::Settled { seq: Some(seq), .. } => *seq,
        other => panic!("no entry: {other:?}"),
    }
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    let replies = ledger.submit_all((0..600).map(note).collect()).unwrap();
    assert_eq!(replies.iter().map(seq).collect::<Vec<_>>(), (0..600).collect::<Vec<_>>());
    let head = ledger.head();
    close(ledger.clone());
    assert!(matches!(ledger.submit_all(vec![note(0)]), Err(StoreError::Closed)));
    let again = Ledger::open_memory(&memory, options()).unwrap();
    assert_eq!((again.head().size, again.head().root), (600, head.root));
    let entries = again.entries(300, 10).unwrap();
    assert_eq!(entries.iter().map(|(e, _)| e.seq).collect::<Vec<_>>(), (300..310).collect::<Vec<_>>());
    assert_eq!(entries[0].1.person.as_ref().unwrap().reason.as_deref(), Some("reason 300"));
    close(again);
    assert_eq!((verified(&memory).size, verified(&memory).tiles), (600, 2));
}

#[test]
fn two_thousand_at_once_are_gap_free_and_share_commits() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut seqs = runtime.block_on(async {
        let tasks: Vec<_> = (0..2_000u128)
            .map(|n| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let admitted = seq(&ledger.submit(admit(n)).await.unwrap());
                    [admitted, seq(&ledger.submit(settle(n)).await.unwrap())]
                })
            })
            .collect();
        let mut seqs = Vec::new();
        for task in tasks {
            seqs.extend(task.await.unwrap());
        }
        seqs
    });
    seqs.sort_unstable();
    assert_eq!(seqs, (0..4_000).collect::<Vec<_>>());
    let gauges = ledger.gauges();
    assert!(gauges.commits < 1_000, "{gauges:?}");
    assert_eq!((gauges.queued, gauges.open_calls), (0, 0));
    assert!(ledger.running().is_empty());
    close(ledger);
    verified(&memory);
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_and_open_calls_are_interrupted() {
    let memory = Memory::new();
    let mut open = Vec::new();
    let mut size = 0;
    for round in 0..6u128 {
        let ledger = Ledger::open_memory(&memory, options()).unwrap();
        assert_eq!(ledger.head().size, size + open.len() as u64, "round {round}");
        for call in open.drain(..) {
            let call = ledger.call(CallId(call)).unwrap().expect("an acknowledged call is missing");
            assert_eq!((call.outcome, call.cost), (crate::domain::Outcome::Interrupted, Some(Money(2_000))));
        }
        for n in 0..300 {
            ledger.submit_all(vec![admit(round * 1_000 + n)]).unwrap();
            if n % 4 != 0 {
                ledger.submit_all(vec![settle(round * 1_000 + n)]).unwrap();
            } else {
                open.push(round * 1_000 + n);
            }
        }
        assert_eq!(ledger.running().len(), open.len());
        size = ledger.head().size;
        cut_power(&memory, ledger);
    }
    verified(&memory);
}

#[test]
fn a_month_ends_under_open_calls_and_replays_alone() {
    let memory = Memory::new();
    let clock = clock_at("2026-11-30T23:59:59Z");
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    ledger.submit_all(vec![owner()]).unwrap();
    ledger.submit_all((0..400).map(|n| admit_as_of(n, 1)).collect()).unwrap();
    clock.set("2026-12-01T00:00:01Z".parse().unwrap());
    ledger.submit_all((0..100).map(settle).collect()).unwrap();
    assert_eq!(ledger.running().len(), 300);
    let catalogue = ledger.catalogue();
    assert_eq!(catalogue.owners["team-ap"].name.as_deref(), Some("Ada Lovelace"));
    close(ledger);

    let names = Media::Memory(memory.clone()).names().unwrap();
    assert!(names.iter().any(|n| n == "journal-2026-11.redb") && names.iter().any(|n| n == "journal-2026-12.redb"));
    let december = memory.bytes("journal-2026-12.redb");
    assert!(!december.windows(8).any(|w| w == b"Lovelace"), "a name stands unsealed in the month's snapshot");
    // Without the running snapshot, December alone gives the state.
    Media::Memory(memory.clone()).remove_side(super::snapshot::FILE);
    let again = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    assert_eq!(*again.catalogue(), *catalogue, "names included");
    assert!(again.running().is_empty(), "what the close left open was interrupted");
    assert!(matches!(again.entries(401, 1).unwrap()[0].0.body, Body::Snapshot { .. }));
    let across = again.entries(395, 12).unwrap();
    assert_eq!(across.iter().map(|(e, _)| e.seq).collect::<Vec<_>>(), (395..407).collect::<Vec<_>>());
    let head = again.head();
    for seq in [0, 255, 256, 400, 401, head.size - 1] {
        let (leaf, path) = again.inclusion(seq, head.size).unwrap();
        crate::ledger::tree::verify_inclusion(&leaf, seq, head.size, &path, &head.root).unwrap();
    }
    close(again);
    assert_eq!(verified(&memory).snapshots, 2);
}

#[test]
fn a_full_disk_refuses_everything_then_recovers_with_a_gap_entry() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all(vec![admit(1)]).unwrap();
    memory.fail_writes(true);
    let error = ledger.submit_all(vec![admit(2)]).unwrap_err();
    assert!(matches!(&error, StoreError::Unwritable(why) if why.contains("no space left")), "{error}");
    assert!(!ledger.healthy());
    for n in 3..10 {
        assert!(matches!(ledger.submit_all(vec![admit(n)]), Err(StoreError::Unwritable(_))));
    }
    assert_eq!(ledger.head().size, 1, "nothing is promised that is not on disk");
    memory.fail_writes(false);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ledger.healthy() {
        assert!(Instant::now() < deadline, "the ledger did not recover");
        std::thread::sleep(Duration::from_millis(10));
    }
    ledger.submit_all(vec![settle(1), admit(20)]).unwrap();
    let entries = ledger.entries(1, 100).unwrap();
    let gap = entries.iter().find_map(|(entry, _)| match &entry.body {
        Body::Gap { reason, count, quotes } => Some((reason.clone(), *count, quotes.clone())),
        _ => None,
    });
    let (reason, count, quotes) = gap.expect("a GAP entry");
    assert_eq!((reason.as_str(), count), ("journal_unavailable", 8));
    assert!(quotes.unwrap().contains("no space left"));
    assert_eq!(ledger.running().len(), 1, "only the call that was admitted afterwards is open");
    close(ledger);
    verified(&memory);
}

#[test]
fn relaxed_answers_at_once_and_is_on_disk_soon() {
    let memory = Memory::new();
    let relaxed = Options { durability: Durability::Relaxed, clock: clock_at(START) };
    let ledger = Ledger::open_memory(&memory, relaxed).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for n in 0..50 {
        let reply = runtime.block_on(ledger.submit(admit(n))).unwrap();
        assert_eq!(seq(&reply), n as u64);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while ledger.head().size < 50 {
        assert!(Instant::now() < deadline, "not committed");
        std::thread::yield_now();
    }
    assert!(ledger.gauges().commits < 50, "{:?}", ledger.gauges());
    cut_power(&memory, ledger);
    assert_eq!(Ledger::open_memory(&memory, options()).unwrap().head().size, 100, "50 admitted, 50 interrupted");
}

#[test]
fn a_flipped_byte_anywhere_in_a_block_is_found() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all((0..40).map(admit).collect()).unwrap();
    ledger.submit_all((0..40).map(settle).collect()).unwrap();
    close(ledger);
    let before = verified(&memory);
    let file = "journal-2026-11.redb";
    let bytes = memory.bytes(file);
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    let frames: Vec<usize> = (0..bytes.len() - 4).filter(|&i| bytes[i..i + 4] == zstd).collect();
    assert!(!frames.is_empty());
    let mut found = 0;
    for place in frames.iter().flat_map(|frame| (0..20).map(move |n| frame + 1 + n * 97)) {
        memory.flip(file, place);
        let after = verify_media(&Media::Memory(memory.clone()), true, None);
        if after.verdict != Verdict::Verified {
            assert!(after.finding.is_some());
            found += 1;
        } else {
            // redb keeps pages it has freed: a flip there changes no entry.
            assert_eq!(after.root, before.root);
        }
        memory.flip(file, place);
    }
    assert!(found >= 20, "{found}");
    verified(&memory);
}

#[test]
fn a_journal_behind_its_side_file_is_a_rollback() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all(vec![note(1)]).unwrap();
    close(ledger);
    let media = Media::Memory(memory.clone());
    media.append_side(super::keeper::HEAD_LOG, format!("0 9 {}\n", "00".repeat(32)).as_bytes()).unwrap();
    let error = Ledger::open_memory(&memory, options()).err().unwrap();
    assert!(error.to_string().contains("rollback_detected"), "{error}");
    assert_eq!(verify_media(&media, true, None).verdict, Verdict::Mismatch);
    // The same size with another history is no better.
    media.replace_side(super::keeper::HEAD_LOG, format!("0 1 {}\n", "00".repeat(32)).as_bytes()).unwrap();
    assert!(matches!(Ledger::open_memory(&memory, options()), Err(StoreError::Rollback { .. })));
    // And an empty journal is not taken for a new one.
    let empty = Memory::new();
    let media = Media::Memory(empty.clone());
    media.append_side(super::keeper::HEAD_LOG, format!("0 1 {}\n", "00".repeat(32)).as_bytes()).unwrap();
    assert!(matches!(Ledger::open_memory(&empty, options()), Err(StoreError::Rollback { .. })));
}

#[test]
fn a_data_folder_is_for_one_process_and_verifies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    ledger.submit_all((0..300).map(admit).collect()).unwrap();
    ledger.submit_all((0..200).map(settle).collect()).unwrap();
    let second = Ledger::open(dir.path(), options()).err().unwrap();
    assert!(matches!(second, StoreError::InUse(_)) && second.to_string().contains("is in use by another process"));
    let beside = verify(dir.path()).unwrap();
    assert_eq!((beside.verdict, beside.size, beside.open_calls), (Verdict::Verified, 500, 100), "{beside:?}");
    close(ledger);
    let alone = verify(dir.path()).unwrap();
    assert_eq!((alone.verdict, alone.calls), (Verdict::Verified, Some(300)), "{alone:?}");
    assert_eq!(alone.groups_not_checked, 0);
    let again = Ledger::open(dir.path(), options()).unwrap();
    assert_eq!(again.head().size, 600);
    close(again);
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all(vec![note(1)]).unwrap();
    close(ledger);
    super::journal::set_format(&Media::Memory(memory.clone()), "journal-2026-11.redb", 7);
    let error = Ledger::open_memory(&memory, options()).err().unwrap();
    assert!(error.to_string().contains("written by a newer version (format 7, this binary knows 1)"), "{error}");
}
