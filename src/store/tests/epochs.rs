//! A history that cannot be gone on with, and the one that begins after it.

use super::super::keeper::{HEAD_LOG, read_head_log};
use super::super::media::faults::{End, Faults, Survival};
use super::super::media::{Media, Memory};
use super::super::verify::{Asked, verify_media_with};
use super::*;
use crate::domain::budget::{Enforcement, Limit, Metric, PeriodKind};
use crate::domain::{Budget, Outcome};
use crate::ledger::note::{Checkpoint, Note, Verifier};
use crate::ledger::proof::{Proof, verify as verify_proof};
use crate::ledger::trust::Policy;

const REASON: &str = "the disk of the old machine is lost";

fn media(memory: &Memory) -> Media {
    Media::Memory(memory.clone())
}

fn budget() -> Request {
    let budget = Budget {
        enforcement: Enforcement::Hard,
        alert_at_percent: vec![100],
        ..Budget::plain("month", Limit { metric: Metric::Usd, amount: 1_000_000_000 }, PeriodKind::Month)
    };
    let changes = vec![Change::Budget("month".into(), Some(budget))];
    Request::Declare { actor: "file".into(), changes, openings: Vec::new(), reason: None }
}

/// A ledger with declared things, twenty settled calls and five open ones, signed; killed.
fn old_epoch(memory: &Memory) -> (u64, Vec<Balance>) {
    let ledger = Ledger::open_memory(memory, options()).unwrap();
    ledger.submit_all(vec![owner(), budget()]).unwrap();
    ledger.start_signing().unwrap();
    ledger.submit_all((0..25).map(|call| admit_as_of(call, 2)).collect()).unwrap();
    ledger.submit_all((0..20).map(settle).collect()).unwrap();
    ledger.checkpoint().unwrap();
    let balances = ledger.balances(START.parse().unwrap());
    assert_eq!(balances[0].open_holds, 5);
    let size = ledger.head().size;
    cut_power(memory, ledger);
    (size, balances)
}

/// The folder as it was, under a memory of more.
fn rolled_back(memory: &Memory) {
    let root = "11".repeat(32);
    media(memory).append_side(HEAD_LOG, format!("0 5000 {root}\n").as_bytes()).unwrap();
    assert!(matches!(Ledger::open_memory(memory, options()), Err(StoreError::Rollback { .. })));
}

fn begin(memory: &Memory) -> Begun {
    let clock = clock_at("2026-11-24T09:00:00Z");
    Ledger::begin_epoch_in_memory(memory, &*clock, REASON).unwrap()
}

fn opened(memory: &Memory) -> Ledger {
    Ledger::open_memory(memory, with(clock_at("2026-11-24T09:00:01Z"))).unwrap()
}

#[test]
fn l04_a_new_epoch_quotes_the_old_one_and_carries_on_what_was_declared_and_posted() {
    let memory = Memory::new();
    let (size, balances) = old_epoch(&memory);
    rolled_back(&memory);
    let begun = begin(&memory);
    assert_eq!((begun.epoch, begun.interrupted), (1, 5));
    let ledger = opened(&memory);
    let head = ledger.head();
    assert_eq!((head.epoch, head.before, head.size), (1, size, 7), "GAP, SNAPSHOT, five interrupted calls");

    let entries = ledger.entries(size, 10).unwrap();
    let Body::Gap { reason, count, quotes } = &entries[0].0.body else { panic!("{:?}", entries[0]) };
    assert_eq!(reason, &format!("new_epoch: the state after {size} entries of epoch 0 is carried over"));
    assert_eq!(*count, 5);
    assert!(quotes.as_ref().unwrap().starts_with("0 5000 1111"), "what was known to be promised: {quotes:?}");
    assert_eq!(entries[0].1.person.as_ref().unwrap().reason.as_deref(), Some(REASON));
    assert!(matches!(entries[1].0.body, Body::Snapshot { .. }));

    // What was declared and posted is there; what was open is posted from its hold.
    assert_eq!(ledger.catalogue().owners["team-ap"].name.as_deref(), Some("Ada Lovelace"), "names included");
    let now = ledger.balances(START.parse().unwrap());
    assert_eq!((now[0].posted, now[0].held), (balances[0].posted + balances[0].held, 0));
    assert!(ledger.running().is_empty());

    // Calls of both epochs are found, and every one of the old has its end.
    for call in 0..25 {
        let outcome = ledger.call(CallId(call)).unwrap().unwrap().outcome;
        assert_eq!(outcome == Outcome::Interrupted, call >= 20, "{call}");
    }
    ledger.submit_all(vec![admit_as_of(100, 2), settle(100)]).unwrap();
    let call = ledger.call(CallId(100)).unwrap().unwrap();
    assert_eq!(call.seq, size + 7, "the position goes on");
    assert_eq!(ledger.calls(&Default::default(), None, 100).unwrap().0.len(), 26);
    close(ledger);

    let found = verify_media(&media(&memory), true, None);
    assert_eq!((found.verdict, found.epoch), (Verdict::Verified, 1), "{found:?}");
    let notes = found.notes.join("\n");
    assert!(notes.contains(&format!("epoch 0: verified, {size} entries")), "{notes}");
    assert!(notes.contains(&format!("epoch 0: 5000 entries were promised, {size} are there")), "{notes}");
    assert!(!notes.contains("not compared, the one before"), "{notes}");
}

#[test]
fn the_new_epoch_signs_under_an_origin_of_its_own_and_proves_entries_of_both() {
    let memory = Memory::new();
    let (_, _) = old_epoch(&memory);
    rolled_back(&memory);
    let old = read_head_log(&media(&memory)).unwrap().into_iter().rev().find_map(|line| line.note).unwrap();
    begin(&memory);
    let ledger = opened(&memory);
    ledger.start_signing().unwrap();
    let new = ledger.checkpoint().unwrap();
    let origin = |note: &str| Checkpoint::parse(&Note::parse(note).unwrap().text).unwrap().origin;
    assert!(origin(&old).ends_with("/0") && origin(&new.note).ends_with("/1"));
    assert_eq!(origin(&old).trim_end_matches("/0"), origin(&new.note).trim_end_matches("/1"), "the same instance");

    let old_key = ledger.entries(0, 10).unwrap().into_iter().find_map(|(entry, _)| match entry.body {
        Body::Key { vkey, .. } => Some(vkey),
        _ => None,
    });
    let policy = |vkey: &str| Policy::of_logs(vec![Verifier::parse(vkey).unwrap()]);
    let call = ledger.call(CallId(3)).unwrap().unwrap();
    let text = ledger.proofs(&[call.seq], None).unwrap().remove(0);
    let proven = verify_proof(&Proof::parse(&text).unwrap(), &policy(&old_key.unwrap()), None).unwrap();
    assert!(matches!(proven.entry.unwrap().body, Body::Admit(admit) if admit.call == CallId(3)));
    let cut_off = ledger.call(CallId(22)).unwrap().unwrap().settled_seq.unwrap();
    let text = ledger.proofs(&[cut_off], None).unwrap().remove(0);
    let proven = verify_proof(&Proof::parse(&text).unwrap(), &policy(&ledger.vkey().unwrap()), None).unwrap();
    assert!(matches!(proven.entry.unwrap().body, Body::CutOff { epoch: 0, .. }));
    close(ledger);

    // Who kept a checkpoint of the old epoch is told that it still holds; one of what was lost, that it does not.
    let kept = |since: Checkpoint| {
        let asked = Asked { since: Some(since), ..Asked::default() };
        verify_media_with(&media(&memory), true, None, &asked).verdict
    };
    let held = Checkpoint::parse(&Note::parse(&old).unwrap().text).unwrap();
    assert_eq!(kept(held.clone()), Verdict::Verified);
    assert_eq!(kept(Checkpoint { size: 5_000, ..held.clone() }), Verdict::Forked);
    assert_eq!(kept(Checkpoint { root: [1; 32], ..held }), Verdict::Forked);
}

#[test]
fn a_journal_that_is_gone_is_followed_by_an_epoch_of_what_the_running_snapshot_has() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all(vec![owner(), budget()]).unwrap();
    ledger.start_signing().unwrap();
    ledger.submit_all((0..25).map(|call| admit_as_of(call, 2)).collect()).unwrap();
    close(ledger);
    memory.remove("journal-2026-11.redb");
    memory.remove("commit.log");
    assert!(matches!(Ledger::open_memory(&memory, options()), Err(StoreError::Rollback { .. })));
    let begun = begin(&memory);
    assert!(begun.carried.starts_with("the running snapshot of 28 entries of epoch 0"), "{begun:?}");
    assert_eq!(begun.interrupted, 25);
    let ledger = opened(&memory);
    assert!(ledger.catalogue().owners.contains_key("team-ap"));
    assert_eq!(ledger.balances(START.parse().unwrap())[0].held, 0);
    ledger.submit_all(vec![admit_as_of(100, 2), settle(100)]).unwrap();
    assert!(ledger.call(CallId(100)).unwrap().is_some());
    close(ledger);
    verified(&memory);

    // Not even that: an empty history, which says so.
    let bare = memory.fork();
    for name in bare.names() {
        if name.starts_with("journal") || name == "commit.log" {
            bare.remove(&name);
        }
    }
    media(&bare).remove_side(super::super::snapshot::FILE);
    assert!(matches!(Ledger::open_memory(&bare, options()), Err(StoreError::Rollback { .. })));
    let begun = begin(&bare);
    assert_eq!((begun.epoch, begun.carried.as_str()), (2, "nothing of the epoch before could be read"));
    close(opened(&bare));
    verified(&bare);
}

#[test]
fn l04_a_new_epoch_that_is_deleted_is_missed_and_a_further_one_follows() {
    let memory = Memory::new();
    old_epoch(&memory);
    rolled_back(&memory);
    begin(&memory);
    let clock = clock_at("2026-11-30T23:59:59Z");
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    ledger.start_signing().unwrap();
    ledger.submit_all((200..220).map(|call| admit_as_of(call, 2)).collect()).unwrap();
    clock.set("2026-12-01T00:00:01Z".parse().unwrap());
    ledger.submit_all((200..210).map(settle).collect()).unwrap();
    close(ledger);
    verified(&memory);
    let names = media(&memory).names().unwrap();
    for name in ["journal-2026-11.redb", "journal-2026-11-e1.redb", "journal-2026-12-e1.redb"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    let without = memory.fork();
    without.remove("journal-2026-11-e1.redb");
    without.remove("journal-2026-12-e1.redb");
    let error = Ledger::open_memory(&without, options()).err().unwrap().to_string();
    assert!(error.contains("is of epoch 1, the journal of epoch 0"), "{error}");
    assert_eq!(verify_media(&media(&without), true, None).verdict, Verdict::Mismatch);

    // The second time it is epoch 2, after both.
    let root = "22".repeat(32);
    media(&memory).append_side(HEAD_LOG, format!("1 9000 {root}\n").as_bytes()).unwrap();
    let begun = begin(&memory);
    assert_eq!((begun.epoch, begun.interrupted), (2, 10));
    let ledger = opened(&memory);
    for call in [3, 23, 205, 215] {
        let ended = ledger.call(CallId(call)).unwrap().unwrap();
        assert_eq!(ended.outcome == Outcome::Interrupted, call == 23 || call == 215, "{call}");
    }
    // The scrub goes through all of them.
    while ledger.scrub(1 << 20) {}
    let scrubbed = ledger.scrubbed();
    let head = ledger.head();
    assert_eq!((scrubbed.passes, scrubbed.at, scrubbed.findings), (1, head.position(), 0), "{scrubbed:?}");
    close(ledger);
    let found = verified(&memory);
    assert_eq!(found.epoch, 2);
}

/// The power goes at every write point of the making of an epoch: the next attempt finds the old one or the new one, and
/// nothing in between.
#[test]
fn a_power_cut_while_an_epoch_begins_leaves_the_old_one_or_the_new_one() {
    let original = Memory::new();
    old_epoch(&original);
    rolled_back(&original);
    let whole = original.fork();
    let first = whole.points();
    begin(&whole);
    let points = whole.points() - first;
    assert!(points > 5, "{points}");
    let step = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 1 } else { 3 };
    let mut begun = 0;
    for point in (1..=points).step_by(step) {
        let memory = original.fork();
        let at = memory.points() + point;
        memory.set_faults(Faults { end_at: Some((at, End::Power(Survival::drawn(point)))), ..Faults::default() });
        let clock = clock_at("2026-11-24T09:00:00Z");
        let _ = Ledger::begin_epoch_in_memory(&memory, &*clock, REASON);
        memory.crash();
        let ledger = match Ledger::open_memory(&memory, options()) {
            Ok(ledger) => {
                begun += 1;
                ledger
            }
            Err(StoreError::Rollback { .. }) => {
                begin(&memory);
                opened(&memory)
            }
            Err(error) => panic!("point {point}: {error}"),
        };
        assert_eq!(ledger.head().epoch, 1, "point {point}");
        assert_eq!(ledger.call(CallId(22)).unwrap().unwrap().outcome, Outcome::Interrupted, "point {point}");
        assert!(ledger.catalogue().owners.contains_key("team-ap"), "point {point}");
        close(ledger);
        verified(&memory);
    }
    assert!(begun > 0, "the last points come after the new epoch's first file");
}
