//! The state after entries that cannot follow, kinds of a later version, and states that are not whole.

use super::*;
use crate::domain::Service;
use crate::ledger::entry::Body;
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
    newer[5] = 2;
    assert_eq!(State::decode(&newer), Err(StateError::Version { found: 2 }));
    for cut in 0..bytes.len() {
        assert!(State::decode(&bytes[..cut]).is_err(), "{cut}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(State::decode(&longer), Err(StateError::Damaged(_))));
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
