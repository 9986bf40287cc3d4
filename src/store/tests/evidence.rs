//! What makes the journal evidence: signed checkpoints, proofs, and that neither a changed nor a rolled-back journal
//! passes. The names are those of the list of ledger cases.

use super::super::block::Raw;
use super::super::core::Core;
use super::super::journal::rewrite;
use super::super::keeper::HEAD_LOG;
use super::super::media::faults::{End, Faults, Survival};
use super::super::seal::RootKey;
use super::super::verify::{Asked, verify_media_with};
use super::*;
use crate::ledger::codec;
use crate::ledger::leaf::{Leaf, commitment, leaf_hash};
use crate::ledger::note::{Checkpoint, Note, Signer, Verifier};
use crate::ledger::proof::{Fault, Proof, verify as verify_proof};
use crate::ledger::tree;
use crate::ledger::trust::Policy;

const JOURNAL: &str = "journal-2026-11.redb";

/// A ledger that has signed, with calls in it.
fn signed_ledger(memory: &Memory, calls: u128) -> Ledger {
    let ledger = Ledger::open_memory(memory, options()).unwrap();
    ledger.start_signing().unwrap();
    ledger.submit_all((0..calls).map(admit).collect()).unwrap();
    ledger.submit_all((0..calls).map(settle).collect()).unwrap();
    ledger
}

fn media(memory: &Memory) -> Media {
    Media::Memory(memory.clone())
}

fn asked(memory: &Memory, asked: &Asked) -> Verdict {
    verify_media_with(&media(memory), true, None, asked).verdict
}

fn checkpoint(note: &str) -> Checkpoint {
    Checkpoint::parse(&Note::parse(note).unwrap().text).unwrap()
}

fn refused(memory: &Memory) -> String {
    match Ledger::open_memory(memory, options()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => {
            assert!(matches!(error, StoreError::Rollback { .. }), "{error}");
            assert!(error.to_string().starts_with("rollback_detected"), "{error}");
            assert!(error.to_string().contains("--new-epoch"), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn the_first_start_makes_a_key_and_later_ones_find_it() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 20);
    let vkey = ledger.vkey().unwrap();
    assert!(vkey.starts_with("organisation/weighbridge/") && vkey.contains("/0+"), "{vkey}");
    let first = ledger.entries(0, 1).unwrap().remove(0).0;
    let announced = matches!(&first.body, Body::Key { purpose, vkey: v, .. } if purpose == "checkpoint" && *v == vkey);
    assert!(announced, "{first:?}");
    let signed = ledger.checkpoint().unwrap();
    assert_eq!((signed.size, signed.root), (41, ledger.head().root));
    let note = Note::parse(&signed.note).unwrap();
    note.verify(&Verifier::parse(&vkey).unwrap()).unwrap();
    assert_eq!(checkpoint(&signed.note).origin, Verifier::parse(&vkey).unwrap().name());
    assert_eq!(ledger.checkpoint().unwrap(), signed, "nothing new, nothing signed");
    close(ledger);
    let again = Ledger::open_memory(&memory, options()).unwrap();
    again.start_signing().unwrap();
    assert_eq!((again.vkey(), again.head().size), (Some(vkey), 41));
    close(again);
    assert!(verified(&memory).checkpoints >= 2, "one in the journal, one in head.log");
}

#[test]
fn the_end_is_signed_and_the_signing_key_stands_nowhere_in_the_clear() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 3);
    let seed = ledger.signer().seed();
    close(ledger);
    let again = Ledger::open_memory(&memory, options()).unwrap();
    assert_eq!(again.last_checkpoint().unwrap().size, 7);
    close(again);
    memory.for_each_file(|name, bytes| {
        assert!(!bytes.windows(32).any(|window| window == seed), "the seed stands in `{name}`");
    });
}

#[test]
fn a_rotated_key_is_announced_and_one_checkpoint_is_signed_by_both() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 5);
    let (old, before) = (ledger.vkey().unwrap(), ledger.checkpoint().unwrap());
    let both = ledger.rotate_key("operator:ada", Some("yearly".into())).unwrap();
    let new = ledger.vkey().unwrap();
    assert_ne!(old, new);
    assert_eq!(both.size, before.size + 1, "the KEY entry");
    let note = Note::parse(&both.note).unwrap();
    for key in [&old, &new] {
        note.verify(&Verifier::parse(key).unwrap()).unwrap();
    }
    ledger.submit_all(vec![note_request(1)]).unwrap();
    let after = Note::parse(&ledger.checkpoint().unwrap().note).unwrap();
    assert!(after.verify(&Verifier::parse(&old).unwrap()).is_err());
    after.verify(&Verifier::parse(&new).unwrap()).unwrap();
    close(ledger);
    let again = Ledger::open_memory(&memory, options()).unwrap();
    again.start_signing().unwrap();
    assert_eq!(again.vkey(), Some(new));
    close(again);
    verified(&memory);
}

fn note_request(n: u64) -> Request {
    super::note(n)
}

#[test]
fn entries_of_a_call_are_proven_to_who_has_the_key_alone() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 400);
    let early = ledger.checkpoint().unwrap();
    ledger.submit_all(vec![admit(1_000)]).unwrap();
    let policy = Policy::of_logs(vec![Verifier::parse(&ledger.vkey().unwrap()).unwrap()]);
    // The newest entry is in no checkpoint yet: one is made.
    let last = ledger.head().size - 1;
    let texts = ledger.proofs(&[1, 255, 256, last], Some(early.size)).unwrap();
    for (text, seq) in texts.iter().zip([1, 255, 256, last]) {
        let proof = Proof::parse(text).unwrap();
        let proven = verify_proof(&proof, &policy, Some(&checkpoint(&early.note))).unwrap();
        assert_eq!((proven.leaf.seq, proven.checkpoint.size), (seq, last + 1));
        assert!(matches!(proven.entry.unwrap().body, Body::Admit(_)));
        assert!(proven.erasable.network.is_none(), "the caller's address is not in a proof");
        assert_eq!(proven.undisclosed, [1, 2]);
    }
    close(ledger);
    verified(&memory);
}

/// Each way of changing entries without the key, and that the changed journal never verifies.
#[test]
fn l02_an_entry_deleted_inserted_swapped_duplicated_or_changed_is_found() {
    let original = Memory::new();
    close(signed_ledger(&original, 60));
    verified(&original);
    type Change = Box<dyn FnOnce(&mut Vec<Raw>)>;
    let leaf = |raw: &mut Raw, change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::decode(&raw.leaf).unwrap();
        change(&mut leaf);
        raw.leaf = leaf.encode();
    };
    // Another amount with the commitment and the leaf made to fit it: only the tree tells.
    let amount = |raw: &mut Raw| {
        let Body::Settle(mut settle) = codec::decode_body(2, &raw.body).unwrap() else { panic!("not a SETTLE") };
        settle.cost = Some(Money(1));
        raw.body = codec::encode_body(&Body::Settle(settle));
    };
    let changes: Vec<(&str, Change)> = vec![
        ("deleted", Box::new(|all| drop(all.remove(70)))),
        ("last deleted", Box::new(|all| drop(all.pop()))),
        ("inserted", Box::new(|all| all.insert(70, all[3].clone()))),
        ("swapped", Box::new(|all| all.swap(70, 71))),
        ("duplicated", Box::new(|all| all.insert(70, all[70].clone()))),
        ("kind", Box::new(move |all| leaf(&mut all[70], &|leaf| leaf.kind = 3))),
        ("ts", Box::new(move |all| leaf(&mut all[70], &|leaf| leaf.ts.0 += 1))),
        ("ref", Box::new(move |all| leaf(&mut all[70], &|leaf| leaf.reference = Some(1)))),
        ("amount", Box::new(move |all| amount(&mut all[70]))),
        (
            "amount, leaf hashed anew",
            Box::new(move |all| {
                amount(&mut all[70]);
                let fits = commitment(0, &all[70].salt, &all[70].body);
                leaf(&mut all[70], &|leaf| leaf.commitments.extend([(0, fits)]));
            }),
        ),
    ];
    for (what, change) in changes {
        let memory = original.fork();
        rewrite(&media(&memory), JOURNAL, change);
        let found = verify_media(&media(&memory), true, None);
        assert_eq!(found.verdict, Verdict::Mismatch, "{what}: {found:?}");
        assert!(found.finding.is_some(), "{what}");
    }
    // Writing the same entries again is no change.
    rewrite(&media(&original), JOURNAL, |_| {});
    verified(&original);
}

/// Who has the folder and the key can write another history; only a checkpoint held elsewhere tells.
#[test]
fn l03_a_rewritten_and_signed_tree_is_told_by_an_older_checkpoint() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 60);
    let (held, vkey) = (ledger.checkpoint().unwrap(), ledger.vkey().unwrap());
    close(ledger);

    // The same key, nothing remembered, another history that is longer.
    let rewritten = memory.fork();
    for name in rewritten.names() {
        match name.as_str() {
            "core.redb" | "keys.redb" | "root.key" => {}
            _ => {
                rewritten.remove(&name);
                media(&rewritten).remove_side(&name);
            }
        }
    }
    let core = Core::open(&media(&rewritten), &RootKey::load(&media(&rewritten)).unwrap()).unwrap();
    core.put_ledger_rows(&[], &["signed"]).unwrap();
    drop(core);
    let forger = Ledger::open_memory(&rewritten, options()).unwrap();
    let key = Request::Key { purpose: "checkpoint".into(), vkey: vkey.clone(), actor: "setup".into(), reason: None };
    forger.submit_all(vec![key]).unwrap();
    forger.submit_all((500..700).map(admit).collect()).unwrap();
    assert_eq!(forger.vkey(), Some(vkey.clone()));
    close(forger);

    let policy = || Some(Policy::of_logs(vec![Verifier::parse(&vkey).unwrap()]));
    let alone = Asked { policy: policy(), ..Asked::default() };
    assert_eq!(asked(&rewritten, &alone), Verdict::Verified, "nothing in the folder tells");
    let since = || Asked { policy: policy(), since: Some(checkpoint(&held.note)), ..Asked::default() };
    assert_eq!(asked(&rewritten, &since()), Verdict::Forked);
    assert_eq!(asked(&memory, &since()), Verdict::Verified);
    // Held of a longer journal than there is: a rollback.
    let longer = Checkpoint { size: 10_000, ..checkpoint(&held.note) };
    assert_eq!(asked(&memory, &Asked { since: Some(longer), ..Asked::default() }), Verdict::Forked);
    // Another's key believes none of it.
    let name = Verifier::parse(&vkey).unwrap().name().to_owned();
    let stranger = Policy::of_logs(vec![Signer::from_seed(&name, &[1; 32]).unwrap().verifier()]);
    assert_eq!(asked(&memory, &Asked { policy: Some(stranger), ..Asked::default() }), Verdict::Unsigned);
}

#[test]
fn l03_a_proof_of_a_rewritten_tree_does_not_continue_the_older_checkpoint() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 20);
    let held = checkpoint(&ledger.checkpoint().unwrap().note);
    ledger.submit_all(vec![admit(99)]).unwrap();
    ledger.checkpoint().unwrap();
    let policy = Policy::of_logs(vec![Verifier::parse(&ledger.vkey().unwrap()).unwrap()]);
    let proof = Proof::parse(&ledger.proofs(&[3], Some(held.size)).unwrap()[0]).unwrap();
    verify_proof(&proof, &policy, Some(&held)).unwrap();
    let other = Checkpoint { root: leaf_hash(b"another history"), ..held };
    assert_eq!(verify_proof(&proof, &policy, Some(&other)).unwrap_err().fault, Fault::Forked);
    close(ledger);
}

/// Yesterday's copy of the journal's files in today's folder, and the journal or its memory gone in every combination
/// that leaves one witness.
#[test]
fn l04_a_truncated_restored_or_deleted_journal_is_refused_at_start() {
    let memory = Memory::new();
    close(signed_ledger(&memory, 30));
    let yesterday = memory.fork();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all((100..130).map(admit).collect()).unwrap();
    close(ledger);

    // The journal of yesterday under today's memory: files of the journal are those that hold entries.
    let journal = |name: &str| name.starts_with("journal-") || name == "commit.log";
    let restored = yesterday.fork();
    for side in [HEAD_LOG] {
        let bytes = media(&memory).read_side(side).unwrap().unwrap();
        media(&restored).replace_side(side, &bytes).unwrap();
    }
    let said = refused(&restored);
    assert!(said.contains("`head.log` has"), "{said}");

    // Today's folder with the journal deleted altogether.
    let deleted = memory.fork();
    deleted.names().iter().filter(|name| journal(name)).for_each(|name| deleted.remove(name));
    refused(&deleted);
    // And with head.log too: the signer remembers.
    media(&deleted).remove_side(HEAD_LOG);
    assert!(refused(&deleted).contains("core.redb"));

    // head.log alone deleted, or cut.
    let forgetful = memory.fork();
    media(&forgetful).remove_side(HEAD_LOG);
    assert!(refused(&forgetful).contains("`head.log` was deleted or cut short"));
    let lines = String::from_utf8(media(&memory).read_side(HEAD_LOG).unwrap().unwrap()).unwrap();
    let first = lines.lines().next().unwrap();
    media(&forgetful).replace_side(HEAD_LOG, format!("{first}\n").as_bytes()).unwrap();
    refused(&forgetful);

    // The signer's file alone deleted: the key that signed is not there any more.
    let keyless = memory.fork();
    keyless.remove("core.redb");
    let missing = Ledger::open_memory(&keyless, options()).err();
    assert!(matches!(missing, Some(StoreError::Missing { .. })), "{missing:?}");

    // What is whole still opens.
    close(Ledger::open_memory(&memory, options()).unwrap());
    verified(&memory);
}

#[test]
fn l04_the_signer_signs_nothing_smaller_and_no_other_history() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 10);
    let signed = ledger.checkpoint().unwrap();
    let signer = ledger.signer();
    let head = ledger.head();
    let smaller = Head { size: head.size - 1, ..head.clone() };
    let error = signer.sign(&smaller).unwrap_err().to_string();
    assert!(error.contains("is not signed: one of 21 entries was signed before"), "{error}");
    let other = Head { root: [7; 32], ..head.clone() };
    assert!(signer.sign(&other).unwrap_err().to_string().contains("does not continue"));
    assert_eq!(signer.sign(&head).unwrap(), signed);
    ledger.submit_all(vec![admit(77)]).unwrap();
    let other = Head { root: [7; 32], ..ledger.head() };
    assert!(signer.sign(&other).unwrap_err().to_string().contains("does not continue the one of 21 entries"));
    assert_eq!(signer.sign(&ledger.head()).unwrap().size, 22);
    close(ledger);
}

#[test]
fn a_stored_checkpoint_that_was_changed_is_found() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 10);
    let signed = ledger.checkpoint().unwrap();
    close(ledger);
    // One of the same tree by a key that no entry names.
    let name = checkpoint(&signed.note).origin;
    let stranger = Signer::from_seed(&name, &[9; 32]).unwrap();
    let forged = stranger.sign(&checkpoint(&signed.note).text()).unwrap();
    let line = |note: &str| {
        let root = data_encoding::HEXLOWER.encode(&signed.root);
        format!("0 {} {root} {}\n", signed.size, serde_json::Value::from(note))
    };
    let with = |line: String| {
        let memory = memory.fork();
        media(&memory).append_side(HEAD_LOG, line.as_bytes()).unwrap();
        verify_media(&media(&memory), true, None)
    };
    assert_eq!(with(line(&signed.note)).verdict, Verdict::Verified);
    assert_eq!(with(line(&forged)).verdict, Verdict::Unsigned);
    let resized = signed.note.replacen("\n21\n", "\n20\n", 1);
    assert_eq!(with(line(&resized)).verdict, Verdict::Mismatch);
    assert_eq!(with(line("no note")).verdict, Verdict::Malformed);
}

#[test]
fn checkpoints_are_consistent_with_one_another_across_months() {
    let memory = Memory::new();
    let clock = clock_at("2026-11-30T23:59:00Z");
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    ledger.start_signing().unwrap();
    let mut signed = vec![ledger.checkpoint().unwrap()];
    for round in 0..12u128 {
        ledger.submit_all((round * 100..round * 100 + 60).map(admit).collect()).unwrap();
        signed.push(ledger.checkpoint().unwrap());
        if round == 5 {
            clock.set("2026-12-01T00:00:01Z".parse().unwrap());
        }
    }
    for (at, old) in signed.iter().enumerate() {
        for new in &signed[at..] {
            let proof = ledger.consistency(old.size, new.size).unwrap();
            tree::verify_consistency(old.size, &old.root, new.size, &new.root, &proof).unwrap();
        }
    }
    close(ledger);
    let found = verified(&memory);
    assert!(found.checkpoints >= 26, "{found:?}");
}

/// Steps the scrub until it has nothing to do.
fn scrubbed(ledger: &Ledger, bytes: u64) -> crate::store::Scrubbed {
    let mut steps = 0;
    while ledger.scrub(bytes) {
        steps += 1;
        assert!(steps < 100_000, "it does not end");
    }
    ledger.scrubbed()
}

#[test]
fn the_scrub_reads_everything_once_in_small_steps_and_again_the_next_day() {
    let memory = Memory::new();
    let clock = clock_at(START);
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    ledger.submit_all((0..700).map(admit).collect()).unwrap();
    assert!(ledger.scrub(1), "a first step");
    assert_eq!(ledger.scrubbed().at, 256, "a tile's entries at a time");
    let done = scrubbed(&ledger, 1);
    assert_eq!((done.passes, done.at, done.of, done.findings), (1, 700, 700, 0), "{done:?}");
    assert!(!ledger.scrub(1 << 30), "not again today");
    clock.set("2026-11-24T18:00:01Z".parse().unwrap());
    ledger.submit_all(vec![admit(9_999)]).unwrap();
    let done = scrubbed(&ledger, 1 << 30);
    assert_eq!((done.passes, done.of, done.findings), (2, 701, 0), "{done:?}");
    close(ledger);
}

#[test]
fn the_scrub_names_file_and_entry_of_what_does_not_fit() {
    let memory = Memory::new();
    close(signed_ledger(&memory, 400));
    let changed = memory.fork();
    rewrite(&media(&changed), JOURNAL, |all| {
        // The newest entries are read again at a start; an old one is not.
        let Body::Settle(mut settle) = codec::decode_body(2, &all[450].body).unwrap() else { panic!("not a SETTLE") };
        settle.cost = Some(Money(1));
        all[450].body = codec::encode_body(&Body::Settle(settle));
        // Another whose own hashes fit: only its tile tells.
        let mut leaf = Leaf::decode(&all[70].leaf).unwrap();
        leaf.ts.0 += 1;
        all[70].leaf = leaf.encode();
    });
    let ledger = Ledger::open_memory(&changed, options()).unwrap();
    let done = scrubbed(&ledger, 1 << 20);
    assert_eq!(done.passes, 1);
    assert!(done.findings >= 2, "{done:?}");
    let told = ledger.scrub_told();
    assert!(told.iter().any(|t| t.contains("`journal-2026-11.redb`, entry 450")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("entry 70 is not the one in its tile")), "{told:?}");
    close(ledger);
    let whole = Ledger::open_memory(&memory, options()).unwrap();
    assert_eq!(scrubbed(&whole, 1 << 20).findings, 0);
    close(whole);
}

/// The power goes at every write point of a life with signing in it: the next start is never refused, signs on, and what
/// was signed before stands.
#[test]
fn a_power_cut_never_looks_like_a_rollback() {
    let life = |memory: &Memory| -> Option<u64> {
        let ledger = Ledger::open_memory(memory, options()).ok()?;
        let mut signed = None;
        let mut live = || -> Result<(), StoreError> {
            ledger.start_signing()?;
            for round in 0..4u128 {
                ledger.submit_all((round * 10..round * 10 + 8).map(admit).collect())?;
                signed = Some(ledger.checkpoint()?.size);
            }
            ledger.rotate_key("operator:ada", None).map(drop)
        };
        let _ = live();
        let _ = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ledger.close());
        signed
    };
    let whole = Memory::new();
    life(&whole);
    let points = whole.points();
    let step = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 1 } else { 5 };
    for point in (1..points).step_by(step) {
        let memory = Memory::new();
        memory.set_faults(Faults { end_at: Some((point, End::Power(Survival::drawn(point)))), ..Faults::default() });
        let signed = life(&memory);
        memory.crash();
        let ledger = Ledger::open_memory(&memory, options()).unwrap_or_else(|e| panic!("point {point}: {e}"));
        ledger.start_signing().unwrap_or_else(|e| panic!("point {point}: {e}"));
        let last = ledger.last_checkpoint();
        assert!(signed <= last.as_ref().map(|last| last.size), "point {point}: what was handed out is remembered");
        let now = ledger.checkpoint().unwrap_or_else(|e| panic!("point {point}: {e}"));
        if let Some(last) = last {
            let proof = ledger.consistency(last.size, now.size).unwrap();
            tree::verify_consistency(last.size, &last.root, now.size, &now.root, &proof).unwrap();
        }
        close(ledger);
        verified(&memory);
    }
}

/// `head.log` is written first: what `core.redb` did not get any more binds the signer all the same.
#[test]
fn a_checkpoint_that_only_the_side_file_has_binds_the_signer() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 10);
    let first = ledger.checkpoint().unwrap();
    ledger.submit_all(vec![admit(50)]).unwrap();
    let second = ledger.checkpoint().unwrap();
    close(ledger);
    let core = Core::open(&media(&memory), &RootKey::load(&media(&memory)).unwrap()).unwrap();
    core.put_ledger_rows(&[("signed", Core::ledger_bytes(&first))], &[]).unwrap();
    drop(core);
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    assert_eq!(ledger.last_checkpoint().unwrap(), second);
    close(ledger);
}

/// A clock that others set, beside one that nobody does.
#[derive(Default)]
struct TwoClocks(std::sync::Mutex<(i64, i64)>);

impl TwoClocks {
    fn pass(&self, wall: i64, passed: i64) {
        let mut both = self.0.lock().unwrap();
        both.0 += wall;
        both.1 += passed;
    }
}

impl Clock for TwoClocks {
    fn now(&self) -> crate::domain::Micros {
        crate::domain::Micros(self.0.lock().unwrap().0)
    }
    fn monotonic(&self) -> i64 {
        self.0.lock().unwrap().1
    }
}

#[test]
fn l10_a_clock_set_back_two_hours_sets_no_entry_back_and_is_on_record() {
    const SECOND: i64 = 1_000_000;
    let memory = Memory::new();
    let clock = Arc::new(TwoClocks::default());
    clock.pass(1_795_456_800 * SECOND, SECOND);
    let ledger =
        Ledger::open_memory(&memory, Options { durability: Durability::Strict, clock: clock.clone() }).unwrap();
    ledger.submit_all(vec![admit(1)]).unwrap();
    clock.pass(-7_200 * SECOND, SECOND);
    for call in 2..8 {
        ledger.submit_all(vec![admit(call)]).unwrap();
        clock.pass(3 * SECOND, 3 * SECOND);
    }
    let entries = ledger.entries(0, 100).unwrap();
    assert!(entries.windows(2).all(|pair| pair[0].0.ts <= pair[1].0.ts));
    let gaps: Vec<&String> = entries
        .iter()
        .filter_map(|(entry, _)| match &entry.body {
            Body::Gap { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].contains("clock") && gaps[0].contains("-7201 s"), "{gaps:?}");
    close(ledger);
    // Started again with the clock still behind: the journal's time goes on from the last entry, and that is on record.
    let ledger = Ledger::open_memory(&memory, Options { durability: Durability::Strict, clock }).unwrap();
    ledger.submit_all(vec![admit(20)]).unwrap();
    let entries = ledger.entries(0, 100).unwrap();
    assert!(entries.windows(2).all(|pair| pair[0].0.ts <= pair[1].0.ts));
    close(ledger);
    verified(&memory);
}

/// Without anybody asking: the keeper signs as the ledger grows, and the side file stays bounded.
#[test]
fn four_thousand_entries_are_signed_without_being_asked() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.start_signing().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut call = 0;
    while ledger.last_checkpoint().is_none() {
        assert!(Instant::now() < deadline, "not signed after {} entries", ledger.head().size);
        ledger.submit_all((call..call + 500).map(admit).collect()).unwrap();
        call += 500;
    }
    let signed = ledger.last_checkpoint().unwrap();
    assert!(signed.size >= 4_096, "{signed:?}");
    close(ledger);
    verified(&memory);
}

#[test]
fn a_head_log_that_grows_long_is_cut_while_it_is_written_and_keeps_its_end() {
    let memory = Memory::new();
    let ledger = signed_ledger(&memory, 3);
    let head = ledger.head();
    let root = data_encoding::HEXLOWER.encode(&head.root);
    let line = format!("0 {} {root}\n", head.size);
    let many = line.repeat(2_000);
    for _ in 0..(9 << 20) / many.len() {
        ledger.signer().append(&many).unwrap();
    }
    ledger.submit_all(vec![admit(70)]).unwrap();
    let signed = ledger.checkpoint().unwrap();
    let length = media(&memory).read_side(HEAD_LOG).unwrap().unwrap().len();
    assert!(length < 4 << 20, "{length}");
    close(ledger);
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    assert_eq!(ledger.last_checkpoint(), Some(signed));
    close(ledger);
}

/// How long a proof takes in a ledger of some size, printed: `cargo test -- --nocapture`.
#[test]
fn a_proof_of_one_call_is_made_without_reading_the_ledger() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    for round in 0..20 {
        ledger.submit_all((round * 1_000..(round + 1) * 1_000).map(admit).collect()).unwrap();
    }
    ledger.checkpoint().unwrap();
    let started = Instant::now();
    let proofs: Vec<String> = (0..200).flat_map(|n| ledger.proofs(&[n * 97], None).unwrap()).collect();
    println!("{:?} a proof, in a ledger of {} entries", started.elapsed() / 200, ledger.head().size);
    assert_eq!(proofs.len(), 200);
    close(ledger);
}
