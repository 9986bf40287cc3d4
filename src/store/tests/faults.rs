//! What happens when the disk is full, a file is damaged, missing, older or newer, or the power goes at any write: calls
//! are refused in order, nothing that was acknowledged is lost, and whoever starts again is told what is wrong.

use std::fs;
use std::path::Path;

use super::super::journal::{log, set_format, store_as_before_the_log};
use super::super::keeper::HEAD_LOG;
use super::super::media::faults::{End, Faults, Op, Survival, Trouble};
use super::*;
use crate::domain::{Filter, Outcome};
use crate::ledger::decide::decide;

const JOURNAL: &str = "journal-2026-11.redb";

fn media(memory: &Memory) -> Media {
    Media::Memory(memory.clone())
}

fn step(memory: &Memory) -> Stepped {
    Stepped::open(memory, options(), decide).unwrap()
}

/// A change whose reason is long: files grow by it.
fn long_note(n: u64) -> Request {
    let reason = Some("because ".repeat(1_500));
    Request::Admin { actor: "operator:ada".into(), action: format!("wrote {n}"), subject: None, reason }
}

fn why_not(memory: &Memory) -> StoreError {
    Ledger::open_memory(memory, options()).err().expect("it was opened")
}

fn gaps(ledger: &Ledger) -> Vec<(String, u64)> {
    let entries = ledger.entries(0, 10_000).unwrap();
    let gaps = entries.into_iter().filter_map(|(entry, _)| match entry.body {
        Body::Gap { reason, count, .. } => Some((reason, count)),
        _ => None,
    });
    gaps.collect()
}

#[test]
fn on_a_full_disk_no_call_is_admitted_those_under_way_end_and_room_brings_all_back_with_a_gap() {
    for room in [0, 1, 100_000, 700_000] {
        let memory = Memory::new();
        let mut ledger = step(&memory);
        for n in 0..12 {
            ledger.submit(vec![admit(n)]).remove(0).unwrap();
        }
        memory.set_faults(Faults { room: Some(room), ..Faults::default() });
        let mut noted = 0;
        while ledger.feed().is_ok() {
            ledger.submit(vec![long_note(noted)]).remove(0).unwrap();
            noted += 1;
            assert!(noted < 2_000, "room {room}: the file never had to grow");
        }
        let acknowledged = ledger.ledger().head().size;
        ledger.look_round();
        let troubles = ledger.ledger().troubles();
        assert!(
            troubles.iter().any(|(part, why)| *part == Part::Journal && why.contains("no space left")),
            "{troubles:?}"
        );

        let refused = ledger.submit(vec![admit(100), note(1), admit(101)]);
        assert!(refused.iter().all(|r| matches!(r, Err(StoreError::Unwritable(_)))), "room {room}: {refused:?}");
        assert!(!ledger.ledger().healthy());
        for n in 0..10 {
            ledger
                .submit(vec![settle(n)])
                .remove(0)
                .unwrap_or_else(|e| panic!("room {room}: call {n} cannot end: {e}"));
            assert!(ledger.feed().is_err(), "there is still no room");
        }
        assert_eq!(ledger.ledger().head().size, acknowledged + 10);

        memory.set_faults(Faults::default());
        ledger.feed().unwrap();
        ledger.submit(vec![settle(10), admit(200)]).into_iter().for_each(|r| drop(r.unwrap()));
        ledger.look_round();
        assert!(ledger.ledger().healthy() && ledger.ledger().troubles().is_empty(), "{:?}", ledger.ledger().troubles());
        assert_eq!(gaps(ledger.ledger()), [("journal_unavailable".to_owned(), 3)], "room {room}");
        let running: Vec<CallId> = ledger.ledger().running().iter().map(|open| open.call).collect();
        assert_eq!(running, [CallId(11), CallId(200)]);
        drop(ledger);
        memory.crash();
        let again = step(&memory);
        assert_eq!(again.ledger().head().size, acknowledged + 10 + 3 + 2, "two were interrupted");
        again.close().unwrap();
        verified(&memory);
    }
}

#[test]
fn once_the_ballast_is_given_up_no_call_is_admitted_before_there_is_room_for_it_again() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let ballast = dir.path().join("ballast");
    let mut ledger = step(&memory);
    let troubles = ledger.troubles().clone();
    troubles.keep_ballast_in(dir.path());
    troubles.grow_ballast();
    assert!(ballast.exists());
    for n in 0..4 {
        ledger.submit(vec![admit(n)]).remove(0).unwrap();
    }
    memory.set_faults(Faults { room: Some(0), ..Faults::default() });
    for n in 0.. {
        ledger.submit(vec![long_note(n)]).remove(0).unwrap();
        if ledger.feed().is_err() {
            break;
        }
    }
    assert!(!ballast.exists());
    // With what it freed the journal can be written, and calls end; those that would begin would use it up.
    memory.set_faults(Faults::default());
    ledger.feed().unwrap();
    ledger.submit(vec![settle(0)]).remove(0).unwrap();
    let refused = ledger.submit(vec![admit(10)]).remove(0);
    assert!(matches!(&refused, Err(StoreError::Unwritable(why)) if why.contains("ballast")), "{refused:?}");
    assert!(!ledger.ledger().healthy());
    assert_eq!(ledger.ledger().troubles().iter().map(|(part, _)| *part).collect::<Vec<_>>(), [Part::Room]);
    // There is room for four times as much.
    ledger.ledger().grow_ballast();
    ledger.submit(vec![admit(11)]).remove(0).unwrap();
    assert!(ledger.ledger().healthy() && ledger.ledger().troubles().is_empty());
    assert_eq!(gaps(ledger.ledger()), [("journal_unavailable".to_owned(), 1)]);
}

#[test]
fn what_core_redb_cannot_write_for_want_of_room_takes_the_ballast_and_is_shown() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let ledger = step(&memory);
    ledger.troubles().keep_ballast_in(dir.path());
    ledger.troubles().grow_ballast();
    memory.set_faults(Faults { room: Some(0), ..Faults::default() });
    let put = |n: u64| {
        let secret = "s".repeat(200_000).into();
        ledger.ledger().core().put_secret(&format!("provider/p{n}"), &secret, START.parse().unwrap())
    };
    let full = (0..20).find_map(|n| put(n).err());
    assert!(matches!(full, Some(StoreError::Full(_))), "{full:?}");
    assert!(!dir.path().join("ballast").exists());
    let parts = |ledger: &Stepped| ledger.ledger().troubles().into_iter().map(|(part, _)| part).collect::<Vec<_>>();
    assert_eq!(parts(&ledger), [Part::Core, Part::Room]);
    memory.set_faults(Faults::default());
    put(30).unwrap();
    assert_eq!(parts(&ledger), [Part::Room]);
}

#[test]
fn once_the_log_is_full_too_everything_is_refused_and_what_was_acknowledged_comes_back() {
    let memory = Memory::new();
    let mut ledger = step(&memory);
    for n in 0..600 {
        ledger.submit(vec![admit(n)]).remove(0).unwrap();
        ledger.feed().unwrap();
    }
    memory.set_faults(Faults { room: Some(0), ..Faults::default() });
    let mut noted = 0;
    while ledger.feed().is_ok() {
        ledger.submit(vec![long_note(noted)]).remove(0).unwrap();
        noted += 1;
    }
    let ended = (0..600).take_while(|n| ledger.submit(vec![settle(*n)]).remove(0).is_ok()).count() as u64;
    assert!((20..600).contains(&ended), "{ended} calls ended before the log was full");
    let acknowledged = ledger.ledger().head().size;
    assert_eq!(acknowledged, 600 + noted + ended);
    assert!(ledger.submit(vec![settle(599)]).remove(0).is_err());

    memory.set_faults(Faults::default());
    ledger.submit(vec![settle(599)]).remove(0).unwrap();
    ledger.feed().unwrap();
    ledger.submit(vec![admit(1_000)]).remove(0).unwrap();
    assert!(ledger.ledger().healthy());
    assert_eq!(ledger.ledger().running().len() as u64, 600 - ended - 1 + 1);
    assert_eq!(gaps(ledger.ledger()), [("journal_unavailable".to_owned(), 2)]);
    ledger.close().unwrap();
    let found = verified(&memory);
    assert_eq!(found.size, acknowledged + 3);
}

#[test]
fn side_files_that_cannot_be_written_are_told_of_and_stop_nothing() {
    let memory = Memory::new();
    let mut ledger = step(&memory);
    ledger.submit(vec![admit(1)]).remove(0).unwrap();
    ledger.feed().unwrap();
    let trouble = Trouble { op: Op::Side, after: 0, times: 50 };
    memory.set_faults(Faults { trouble: Some(trouble), ..Faults::default() });
    ledger.look_round();
    let parts: Vec<Part> = ledger.ledger().troubles().into_iter().map(|(part, _)| part).collect();
    assert_eq!(parts, [Part::HeadLog, Part::Snapshot]);
    ledger.submit(vec![settle(1), admit(2)]).into_iter().for_each(|r| drop(r.unwrap()));
    assert!(ledger.ledger().healthy(), "calls go on");
    memory.set_faults(Faults::default());
    ledger.look_round();
    assert!(ledger.ledger().troubles().is_empty());
    ledger.close().unwrap();
    verified(&memory);
}

#[test]
fn a_month_damaged_where_a_start_reads_it_is_refused_by_name_and_anywhere_else_found_by_verify() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all((0..700).map(admit).collect()).unwrap();
    close(ledger);
    let bytes = memory.bytes(JOURNAL);
    let frames: Vec<usize> = (0..bytes.len() - 4).filter(|&i| bytes[i..i + 4] == [0x28, 0xb5, 0x2f, 0xfd]).collect();
    let (mut refused, mut found, mut blocks) = (0, 0, 0);
    for frame in &frames {
        // What says how the rest is packed.
        let copy = memory.fork();
        copy.flip(JOURNAL, frame + 4);
        let verified = verify_media(&media(&copy), true, None);
        if let Some(finding) = verified.finding.filter(|finding| finding.contains(": block ")) {
            // It was changed, which is not the same as a file that cannot be read.
            assert_eq!((verified.verdict, verified.entry.is_some()), (Verdict::Mismatch, true), "{finding}");
            blocks += 1;
        }
    }
    for frame in frames {
        let copy = memory.fork();
        copy.flip(JOURNAL, frame + 40);
        let verified = verify_media(&media(&copy), true, None);
        if verified.verdict == Verdict::Verified {
            continue;
        }
        found += 1;
        let finding = verified.finding.unwrap();
        assert!(verified.entry.is_some() || finding.contains(JOURNAL), "{finding}");
        if let Err(error) = Ledger::open_memory(&copy, options()) {
            let said = error.to_string();
            let by_hash = said.contains("damaged") && said.contains("weighbridge ledger verify");
            let by_promise = said.contains("rollback_detected") && said.contains("--new-epoch");
            assert!(by_hash || by_promise, "{said}");
            refused += 1;
        }
    }
    assert!(found >= 3 && refused >= 1 && blocks >= 1, "{found} found, {refused} starts refused, {blocks} blocks");
}

/// Entries that only the log has, noted in `head.log` or not.
fn unfed(noted: bool) -> Memory {
    let memory = Memory::new();
    let mut ledger = step(&memory);
    ledger.submit(vec![note(0)]).remove(0).unwrap();
    ledger.feed().unwrap();
    for n in 1..6 {
        ledger.submit(vec![note(n)]).remove(0).unwrap();
    }
    if noted {
        ledger.look_round();
    }
    drop(ledger);
    memory.kill();
    memory.power_on();
    memory
}

/// Offsets of the log's records.
fn records(memory: &Memory) -> Vec<usize> {
    let bytes = memory.bytes(log::NAME);
    (0..bytes.len()).step_by(4_096).filter(|&at| bytes[at..].starts_with(b"wbl1")).collect()
}

#[test]
fn a_log_damaged_in_the_middle_or_deleted_is_noticed_and_half_a_record_at_its_end_is_dropped() {
    let memory = unfed(false);
    let records = records(&memory);
    assert_eq!(records.len(), 5);
    let middle = memory.fork();
    middle.flip(log::NAME, records[2] + 100);
    let said = why_not(&middle).to_string();
    assert!(said.contains("`commit.log` is damaged: entries 3 to 3 are missing or damaged"), "{said}");
    let end = memory.fork();
    end.flip(log::NAME, records[4] + 100);
    let ledger = Ledger::open_memory(&end, options()).unwrap();
    assert_eq!(ledger.head().size, 5, "as if the power had gone while it was written");
    close(ledger);
    verified(&end);

    let noted = unfed(true);
    let cut = noted.fork();
    cut.flip(log::NAME, records[4] + 100);
    assert!(why_not(&cut).to_string().contains("rollback_detected"), "it was promised: no power cut takes it");
    // Deleted, with entries that nothing else promises, or with some that are noted: no start makes it anew.
    for without in [unfed(false), noted] {
        without.remove(log::NAME);
        for _ in 0..2 {
            let said = why_not(&without).to_string();
            assert!(said.starts_with("`commit.log` is missing beside a journal"), "{said}");
        }
        assert_eq!(verify_media(&media(&without), true, None).verdict, Verdict::Mismatch);
        let begun = Ledger::begin_epoch_in_memory(&without, &SystemClock, "the log is lost").unwrap();
        assert_eq!(begun.epoch, 1);
        close(Ledger::open_memory(&without, Options { clock: Arc::new(SystemClock), ..options() }).unwrap());
    }
}

#[test]
fn files_of_a_newer_version_are_refused_in_words() {
    let memory = unfed(false);
    memory.overwrite(log::NAME, records(&memory)[0], b"wbl3");
    let error = why_not(&memory);
    assert!(matches!(error, StoreError::Newer { found: 3, known: 1, .. }), "{error}");
    let memory = unfed(false);
    set_format(&media(&memory), JOURNAL, 7);
    assert!(matches!(why_not(&memory), StoreError::Newer { found: 7, .. }));
    let memory = unfed(true);
    media(&memory).append_side(HEAD_LOG, b"v2 0 6 of another kind\n").unwrap();
    let said = why_not(&memory).to_string();
    assert!(said.contains("`head.log` is damaged: line 2 is not `epoch size root`"), "{said}");
}

#[test]
fn a_journal_of_the_version_before_the_log_is_opened_and_gone_on_with() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all((0..300).map(admit).collect()).unwrap();
    ledger.submit_all((0..290).map(settle).collect()).unwrap();
    close(ledger);
    store_as_before_the_log(&media(&memory), JOURNAL);
    memory.remove(log::NAME);
    let before = verified(&memory);
    assert_eq!((before.size, before.open_calls), (590, 10));
    let mut ledger = step(&memory);
    assert_eq!(ledger.ledger().head().size, 600, "what was open was interrupted");
    ledger.submit((300..310).map(admit).collect()).into_iter().for_each(|r| drop(r.unwrap()));
    ledger.feed().unwrap();
    for n in 300..310 {
        ledger.submit(vec![settle(n)]).remove(0).unwrap();
        ledger.feed().unwrap();
    }
    drop(ledger);
    memory.crash();
    let again = step(&memory);
    assert_eq!(again.ledger().head().size, 620);
    let (_, erasable) = again.ledger().entries(7, 1).unwrap().remove(0);
    assert!(erasable.network.is_some() && erasable.person.is_some(), "groups of old blocks are read");
    again.close().unwrap();
    assert_eq!(verified(&memory).size, 620);
}

/// A folder with calls in it that was closed.
fn folder() -> (tempfile::TempDir, Head) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    ledger.submit_all((0..50).map(admit).collect()).unwrap();
    ledger.submit_all((0..50).map(settle).collect()).unwrap();
    let head = ledger.head();
    close(ledger);
    (dir, head)
}

/// All fifty calls are as they were settled, and the journal is the same.
fn all_right(ledger: &Ledger, head: &Head) {
    assert!(ledger.views().wait_for(head.size, Duration::from_secs(60)), "the views did not catch up");
    assert_eq!((ledger.head().size, ledger.head().root), (head.size, head.root));
    let (calls, _) = ledger.calls(&Filter::default(), None, 1_000).unwrap();
    assert_eq!(calls.len(), 50);
    assert!(calls.iter().all(|call| (call.outcome, call.cost) == (Outcome::Completed, Some(Money(700)))));
}

#[test]
fn views_damaged_newer_or_deleted_are_built_anew_and_the_journal_stays_as_it_was() {
    let (dir, head) = folder();
    let views = dir.path().join("views.redb");
    let sound = fs::read(&views).unwrap();
    let newer = || {
        let db = redb::Database::open(&views).unwrap();
        let write = db.begin_write().unwrap();
        let meta: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("meta.v1");
        write.open_table(meta).unwrap().insert("format", 9).unwrap();
        write.commit().unwrap();
    };
    let change: [&dyn Fn(); 5] = [
        &|| fs::remove_file(&views).unwrap(),
        &|| fs::write(&views, b"hello").unwrap(),
        &|| fs::write(&views, vec![0; sound.len()]).unwrap(),
        &|| fs::write(&views, &sound[..sound.len() / 3]).unwrap(),
        &newer,
    ];
    for change in change {
        fs::write(&views, &sound).unwrap();
        change();
        let ledger = Ledger::open(dir.path(), options()).unwrap();
        all_right(&ledger, &head);
        // Deleted while it is served: nobody notices before the next start, which builds it anew.
        fs::remove_file(&views).unwrap();
        all_right(&ledger, &head);
        close(ledger);
        let again = Ledger::open(dir.path(), options()).unwrap();
        all_right(&again, &head);
        close(again);
    }
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.verdict, found.calls), (Verdict::Verified, Some(50)), "{found:?}");
}

#[test]
fn keys_and_core_are_never_made_anew_beside_a_journal_unless_that_is_asked_for() {
    let (dir, _) = folder();
    let open = |dir: &Path| Ledger::open(dir, options());
    for name in ["keys.redb", "core.redb"] {
        let file = dir.path().join(name);
        let sound = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let said = open(dir.path()).err().expect("opened without it").to_string();
        assert!(said.starts_with(&format!("`{name}` is missing")), "{said}");
        assert!(said.contains("backup") && said.contains("--new-epoch"), "{said}");
        assert!(!file.exists(), "it was made anew");
        for damage in [vec![0; sound.len()], sound[..sound.len() / 3].to_vec(), b"hello".to_vec()] {
            fs::write(&file, &damage).unwrap();
            let error = open(dir.path()).err().expect("opened although damaged");
            assert!(matches!(&error, StoreError::Damaged { file, .. } if file == name), "{error}");
            assert_eq!(fs::read(&file).unwrap(), damage, "nothing was written to it");
        }
        fs::write(&file, &sound).unwrap();
        close(open(dir.path()).unwrap());
    }
    for name in ["keys.redb", "core.redb"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    Ledger::begin_epoch(dir.path(), &*clock_at(START), "both are lost").unwrap();
    let ledger = open(dir.path()).unwrap();
    ledger.submit_all(vec![note(1)]).unwrap();
    close(ledger);
    assert_eq!(verify(dir.path()).unwrap().verdict, Verdict::Verified);
}

/// Calls, feeds, a month's turn, side files: stops where the machine does. Gives what was acknowledged.
fn live(memory: &Memory) -> Vec<(u128, bool)> {
    let clock = clock_at("2026-11-30T23:58:00Z");
    let mut done = Vec::new();
    let Ok(mut ledger) = Stepped::open(memory, with(clock.clone()), decide) else { return done };
    for n in 0..24u128 {
        if n == 12 {
            clock.set("2026-12-01T00:00:01Z".parse().unwrap());
        }
        if ledger.submit(vec![admit(n)]).remove(0).is_ok() {
            done.push((n, false));
            if n % 3 > 0 && ledger.submit(vec![settle(n)]).remove(0).is_ok() {
                done.last_mut().unwrap().1 = true;
            }
        }
        match n % 5 {
            1 | 3 => drop(ledger.feed()),
            4 => ledger.look_round(),
            _ => {}
        }
        if memory.is_dead() {
            break;
        }
    }
    done
}

fn start_after(memory: &Memory) -> Result<Stepped, StoreError> {
    Stepped::open(memory, with(clock_at("2026-12-01T00:10:00Z")), decide)
}

#[test]
fn the_power_may_go_at_any_write_of_calls_feeds_a_months_turn_and_the_start_after_it() {
    let whole = Memory::new();
    assert_eq!(live(&whole).len(), 24);
    let points = whole.points();
    assert!(points > 100, "{points}");
    let stride = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 1 } else { 3 };
    for (turn, at) in (1..points).step_by(stride).enumerate() {
        let seed = 0xd15c ^ at;
        let memory = Memory::new();
        let end = if turn % 5 == 0 { End::Kill } else { End::Power(Survival::drawn(seed)) };
        memory.set_faults(Faults { end_at: Some((at, end)), ..Faults::default() });
        let done = live(&memory);
        memory.power_on();
        // The start after it is cut off too, somewhere.
        let again = memory.points() + 1 + seed % 40;
        memory.set_faults(Faults { end_at: Some((again, End::Power(Survival::drawn(!seed)))), ..Faults::default() });
        drop(start_after(&memory));
        if !memory.is_dead() {
            memory.cut(Survival::drawn(seed));
        }
        memory.power_on();
        let ledger = start_after(&memory).unwrap_or_else(|e| panic!("point {at}, seed {seed}: {e}"));
        for (n, settled) in &done {
            let call = ledger.ledger().call(CallId(*n)).unwrap();
            let call = call.unwrap_or_else(|| panic!("point {at}, seed {seed}: call {n} is lost"));
            assert!(call.outcome != Outcome::Running, "point {at}: call {n} still runs");
            if *settled {
                assert_eq!(call.cost, Some(Money(700)), "point {at}, seed {seed}: call {n}");
            }
        }
        ledger.close().unwrap();
        let found = verify_media(&media(&memory), true, None);
        assert_eq!(found.verdict, Verdict::Verified, "point {at}, seed {seed}: {found:?}");
    }
}
