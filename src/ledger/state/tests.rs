//! The state after entries that cannot follow, kinds of a later version, and states that are not whole.

use super::*;
use crate::domain::pause::{Pause, PauseKind};
use crate::domain::{Budget, Code, Enforcement, Key, PeriodKind, Service};
use crate::ledger::declared;
use crate::ledger::entry::Body;
use crate::ledger::request::{Reply, Request};
use crate::ledger::testing::*;

fn entry(seq: u64, body: Body, reference: Option<u64>) -> Entry {
    Entry { seq, ts: NOON, reference, body }
}

fn admit_body(call: u128) -> Body {
    Body::Admit(Box::new(admit(call, usd("1")).admit))
}

#[test]
fn entries_that_cannot_follow_change_nothing() {
    let mut state = State::new();
    state.apply(&entry(0, admit_body(1), None)).unwrap();
    let before = state.clone();
    let settle = || Body::Settle(Box::new(settle(None, 0)));
    let bad = [
        (entry(2, settle(), Some(0)), ApplyError::Sequence { expected: 1, found: 2 }),
        (entry(0, settle(), Some(0)), ApplyError::Sequence { expected: 1, found: 0 }),
        (Entry { ts: Micros(NOON.0 - 1), ..entry(1, settle(), Some(0)) }, ApplyError::Time { seq: 1 }),
        (entry(1, settle(), None), ApplyError::NotOpen { seq: 1, reference: None }),
        (entry(1, settle(), Some(7)), ApplyError::NotOpen { seq: 1, reference: Some(7) }),
        (entry(1, admit_body(1), None), ApplyError::AlreadyOpen { seq: 1, call: CallId(1), attempt: 1 }),
        (
            entry(1, Body::Batch { vendor_id: "x".into(), state: "queued".into() }, Some(9)),
            ApplyError::NotOpen { seq: 1, reference: Some(9) },
        ),
    ];
    for (entry, error) in bad {
        assert_eq!(state.apply(&entry), Err(error));
        assert_eq!(state, before);
    }
    state.apply(&entry(1, settle(), Some(0))).unwrap();
    assert_eq!(state.running().count(), 0);
}

#[test]
fn a_kind_of_a_later_version_is_passed_over() {
    let mut state = State::new();
    state.apply(&entry(0, Body::Unknown { kind: 99, bytes: vec![1] }, None)).unwrap();
    assert_eq!((state.next_seq(), state.last_ts()), (1, NOON));
}

#[test]
fn a_state_that_is_not_whole_is_refused() {
    let bench = Bench::new(vec![hard("month", "10")]);
    let bytes = bench.state.encode();
    assert_eq!(State::decode(&bytes).unwrap(), bench.state);
    assert_eq!(State::decode(b"something else"), Err(StateError::Foreign));
    let mut newer = bytes.clone();
    newer[5] = 9;
    assert_eq!(State::decode(&newer), Err(StateError::Version { found: 9 }));
    for cut in 0..bytes.len() {
        assert!(State::decode(&bytes[..cut]).is_err(), "{cut}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(State::decode(&longer), Err(StateError::Damaged(_))));
}

/// States as version 1 of the encoding had them, one a line: of a service under one hard budget, and of one under three.
/// Never written anew.
const VERSION_1: &str = include_str!("../../../tests/fixtures/ledger/states-1.txt");

#[test]
fn states_of_older_versions_still_read() {
    let bytes: Vec<Vec<u8>> =
        VERSION_1.lines().map(|line| data_encoding::HEXLOWER.decode(line.as_bytes()).unwrap()).collect();
    for (bytes, budgets) in bytes.iter().zip([1, 3]) {
        let state = State::decode(bytes).unwrap();
        let catalogue = state.catalogue();
        assert_eq!((catalogue.budgets.len(), catalogue.services.len(), catalogue.keys.len()), (budgets, 1, 1));
        assert!(catalogue.budgets.values().all(|b| b.rollover == crate::domain::Rollover::None && b.parent.is_none()));
        assert_eq!(State::decode(&state.encode()).unwrap(), state, "and is kept in the form of now");
        // Version 2 has what is staged behind it: here one removed budget, as the first entry of an apply.
        let mut staged = bytes.clone();
        staged[5] = 2;
        staged.extend([7, 1]);
        staged.extend([9; 32]);
        staged.extend(*b"\x01\x06budget\x01b\x07\x01b\x00\x00\x00\x00");
        assert_eq!(State::decode(&staged).unwrap().staged(), 1);
        assert!(State::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    let state = State::decode(&bytes[0]).unwrap();
    let month = state.balance("perf-month", "2026-11@UTC").unwrap();
    assert!(month.posted > 0 && month.open_holds as usize == state.open_calls());
}

#[test]
fn a_catalogue_once_read_stays_as_it_was() {
    let mut bench = Bench::new(vec![]);
    let before = bench.state.catalogue().clone();
    bench.declare(vec![Change::Service("svc-2".into(), Some(Service { id: "svc-2".into(), ..service() }))]);
    assert!(!before.services.contains_key("svc-2"));
    assert!(bench.state.catalogue().services.contains_key("svc-2"));
    assert!(Arc::ptr_eq(&before.services["svc"], &bench.state.catalogue().services["svc"]), "pointers are copied");
}

#[test]
fn the_state_grows_with_what_is_declared_and_open_and_not_with_what_was() {
    let every = |id: &str, period| Budget { period, ..budget(id, Metric::Usd, 1 << 100, Enforcement::Alert) };
    let periods =
        [("m", PeriodKind::Minute), ("h", PeriodKind::Hour), ("d", PeriodKind::Day), ("t", PeriodKind::Total)];
    let mut bench = Bench::new(periods.map(|(id, period)| every(id, period)).into());
    bench.declare(vec![Change::Key(KEY.into(), Some(Key { expires_at: None, ..key() }))]);
    let (mut sizes, mut call) = (Vec::new(), 0);
    for _ in 0..5 {
        // A call a minute for a day and a bit; every tenth ends five hours late.
        for _ in 0..1_500 {
            call += 1;
            bench.at = bench.at.plus_seconds(60);
            bench.admit(admit(call, usd("0.1")));
            let ends = if call % 10 == 0 { call.checked_sub(300) } else { Some(call) };
            ends.into_iter().for_each(|call| drop(bench.settle(call, settle(Some(usd("0.05")), 7))));
        }
        assert_eq!(bench.state.running().count(), 30);
        sizes.push(bench.state.encode().len());
        bench.entries.clear();
    }
    let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(most - least < 200, "{sizes:?}");
}

/// What a change costs is seen in what is shared afterwards, not by a clock.
#[test]
fn a_change_copies_next_to_nothing_of_what_is_declared() {
    let mut bench = Bench::new(vec![]);
    let keys = (0..5_000).map(|n| {
        let id = format!("wbk_p{n:011}");
        Change::Key(id.clone(), Some(Key { id, ..key() }))
    });
    let budgets = (0..1_000).map(|n| {
        let id = format!("b-{n}");
        let matches = [(crate::domain::Dimension::Run, id.clone())].into();
        Change::Budget(id.clone(), Some(Budget { id, matches, ..hard("b", "1") }))
    });
    bench.declare(keys.chain(budgets).collect());
    let snapshot = bench.state.clone();
    bench.declare(vec![Change::Service("one".into(), Some(Service { id: "one".into(), ..service() }))]);
    let (before, after) = (snapshot.catalogue(), bench.state.catalogue());
    assert!(before.keys.ptr_eq(&after.keys) && before.budgets.ptr_eq(&after.budgets), "untouched maps are the same");
    assert!(!before.services.ptr_eq(&after.services));
    assert_eq!(before.services.len() + 1, after.services.len());
}

fn pause(kind: PauseKind, subject: &str, until: Micros) -> Change {
    let pause = Pause { kind, subject: subject.into(), until, cut: false, seq: None };
    Change::Pause(pause.id(), Some(pause))
}

#[test]
fn what_is_paused_is_refused_from_its_entry_on_and_until_its_instant_to_the_microsecond() {
    let mut bench = Bench::new(vec![]);
    let until = NOON.plus_seconds(60);
    let code = |bench: &mut Bench, call: u128| match bench.submit_as_is(Request::Admit(Box::new(admit(call, usd("1")))))
    {
        Reply::Admitted(_) => None,
        Reply::Denied(denied) => Some((denied.code, denied.by)),
        other => panic!("{other:?}"),
    };
    // Judged by a catalogue of before, as a call that raced the pause is.
    bench.declare(vec![pause(PauseKind::Service, "svc", until)]);
    let by = |id: &str| Some((Code::Paused, Some(format!("pause:{id}"))));
    assert_eq!(code(&mut bench, 1), by("service:svc"));
    bench.at = Micros(until.0 - 1);
    assert_eq!(code(&mut bench, 2), by("service:svc"));
    bench.at = until;
    assert_eq!(code(&mut bench, 3), None, "it has ended by itself");

    let later = until.plus_seconds(60);
    for (kind, subject) in [
        (PauseKind::Key, KEY),
        (PauseKind::Model, "gpt-5*"),
        (PauseKind::Provider, "openai"),
        (PauseKind::Model, "gpt-5.2"),
    ] {
        bench.declare(vec![pause(kind, subject, later)]);
        let id = format!("{}:{subject}", kind.name());
        assert_eq!(code(&mut bench, 4), by(&id));
        bench.declare(vec![Change::Pause(id, None)]);
    }
    for (kind, subject) in [(PauseKind::Agent, "svc"), (PauseKind::Model, "gpt-5"), (PauseKind::Provider, "svc")] {
        bench.declare(vec![pause(kind, subject, later)]);
    }
    assert_eq!(code(&mut bench, 5), None);
}

#[test]
fn what_is_paused_is_in_the_encoded_state_with_where_it_is_on_record() {
    let mut bench = Bench::new(vec![hard("month", "10")]);
    bench.declare(vec![pause(PauseKind::Model, "gpt-*", NOON.plus_seconds(9))]);
    let seq = bench.entries.last().unwrap().seq;
    assert_eq!(bench.state.catalogue().pauses["model:gpt-*"].seq, Some(seq));
    assert_eq!(State::decode(&bench.state.encode()).unwrap(), bench.state);
    let beside = declared::encode(bench.state.catalogue());
    assert_eq!(State::decode_apart(&bench.state.encode_apart(), &beside).unwrap(), bench.state);
    let before = bench.entries.len();
    bench.declare(vec![pause(PauseKind::Model, "gpt-*", NOON.plus_seconds(9))]);
    assert_eq!(bench.entries.len(), before, "the same again is no change");
    let (carried, _) = bench.state.carried_over();
    assert_eq!(carried.catalogue().pauses["model:gpt-*"].seq, None, "its entry stands in the epoch before");
}

#[test]
fn a_pause_outlives_whatever_is_applied_meanwhile() {
    let mut bench = Bench::new(vec![]);
    let stage = |changes| Request::Stage { actor: "file".into(), begin: false, changes, reason: None };
    bench.submit(stage(vec![Change::Budget("month".into(), Some(hard("month", "10")))]));
    bench.declare(vec![pause(PauseKind::Service, "svc", NOON.plus_seconds(60))]);
    assert_eq!(State::decode(&bench.state.encode()).unwrap(), bench.state, "staged and paused at once");
    bench.submit(Request::Effect { actor: "file".into() });
    assert!(bench.state.catalogue().budgets.contains_key("month"));
    assert!(bench.state.catalogue().pauses["service:svc"].seq.is_some());
    let Reply::Denied(denied) = bench.submit(Request::Admit(Box::new(admit(1, usd("1"))))) else { panic!() };
    assert_eq!(denied.code, Code::Paused);
}
