//! A staged apply is the same as one declared at once, takes effect all together or never, and loses no call.

use proptest::prelude::*;

use crate::domain::{Budget, Change, Dimension, Enforcement, Key, Metric, Micros, Money, PeriodKind, Service};
use crate::ledger::entry::{ApplyStep, Body, Entry};
use crate::ledger::opening::{Counting, Ended};
use crate::ledger::request::{Reply, Request};
use crate::ledger::state::{ApplyError, State};
use crate::ledger::testing::*;

fn stage(begin: bool, changes: Vec<Change>) -> Request {
    Request::Stage { actor: "file".into(), begin, changes, reason: None }
}

fn effect() -> Request {
    Request::Effect { actor: "file".into() }
}

fn service_named(id: &str) -> Change {
    Change::Service(id.into(), Some(Service { id: id.into(), ..service() }))
}

fn key_named(id: &str, service: &str) -> Change {
    Change::Key(id.into(), Some(Key { id: id.into(), service: service.into(), ..key() }))
}

fn many() -> Vec<Change> {
    let mut changes: Vec<Change> = (0..40).map(|n| service_named(&format!("svc-{n}"))).collect();
    changes.extend((0..80).map(|n| key_named(&format!("wbk_p{n:011}"), &format!("svc-{}", n % 40))));
    let one = |n: i128| Budget { id: format!("b-{n}"), ..hard("b", "1") };
    changes.extend((0..40).map(|n| Change::Budget(format!("b-{n}"), Some(one(n)))));
    changes
}

/// Bytes and all: what comes after a start from any of these states is the same.
fn from_bytes(state: &State) -> State {
    let again = State::decode(&state.encode()).unwrap();
    assert_eq!(again, *state);
    assert_eq!(again.encode(), state.encode());
    again
}

#[test]
fn what_is_staged_is_in_force_all_at_once_and_as_if_declared() {
    let mut at_once = Bench::new(vec![]);
    assert!(matches!(at_once.declare(many()), Reply::Declared { .. }));
    let mut bench = Bench::new(vec![]);
    let before = bench.state.catalogue().clone();
    for (n, slice) in many().chunks(7).enumerate() {
        assert!(matches!(bench.submit(stage(n == 0, slice.to_vec())), Reply::Recorded { .. }));
        assert_eq!(**bench.state.catalogue(), *before, "nothing of it is in force");
        bench.state = from_bytes(&bench.state);
    }
    // What is declared meanwhile is there before and after; what is staged cannot be declared a second time.
    bench.declare(vec![service_named("other")]);
    at_once.declare(vec![service_named("other")]);
    let refused = bench.declare(vec![Change::Service("svc-1".into(), None)]);
    assert!(matches!(&refused, Reply::Denied(d) if d.message.contains("apply that is under way")), "{refused:?}");
    let Reply::Declared { revision } = bench.submit(effect()) else { panic!("no effect") };
    assert_eq!(revision, bench.state.catalogue().revision);
    assert_eq!(bench.state.catalogue(), at_once.state.catalogue());
    assert_eq!(bench.state.staged(), 0);
    let mut replayed = State::new();
    bench.entries.iter().for_each(|entry| replayed.apply(entry).unwrap());
    assert_eq!(replayed.encode(), from_bytes(&bench.state).encode());
    let denied = bench.admit(admit(1, usd("2")));
    assert!(matches!(denied, Reply::Denied(_)), "the staged budgets refuse: {denied:?}");
}

#[test]
fn the_last_entry_must_name_what_was_staged() {
    let mut bench = Bench::new(vec![]);
    bench.submit(stage(true, vec![service_named("a")]));
    let state = bench.state.clone();
    bench.submit(effect());
    let entry = bench.entries.pop().unwrap();
    let Body::Apply(apply) = &entry.body else { panic!("{entry:?}") };
    assert_eq!((apply.step, apply.count), (ApplyStep::Effect, 1));
    for spoil in 0..3 {
        let mut other = apply.clone();
        match spoil {
            0 => other.first += 1,
            1 => other.count += 1,
            _ => other.sha256[31] ^= 1,
        }
        let other = Entry { body: Body::Apply(other), ..entry.clone() };
        assert_eq!(state.clone().apply(&other), Err(ApplyError::NotStaged { seq: entry.seq }));
    }
    assert_eq!(State::new().apply(&Entry { seq: 0, ..entry.clone() }), Err(ApplyError::NotStaged { seq: 0 }));
    assert_eq!(state.clone().apply(&entry), Ok(()));
}

#[test]
fn what_a_crash_left_staged_is_dropped_by_the_next_start_or_the_next_apply() {
    let mut bench = Bench::new(vec![]);
    let before = bench.state.clone();
    bench.submit(stage(true, many()));
    let opening = |id: &str| (id.to_owned(), crate::ledger::entry::Opening { period: "2026-11@UTC".into(), posted: 7 });
    bench.submit(Request::Openings { actor: "file".into(), openings: vec![opening("b-1"), opening("unknown")] });
    assert_eq!(bench.state.balances().count(), 1);
    let mut other = bench.state.clone();
    bench.submit(Request::InterruptAll);
    assert!(matches!(bench.last(), Body::Apply(apply) if apply.step == ApplyStep::Dropped && apply.count == 160));
    assert_eq!((bench.state.catalogue(), bench.state.staged()), (before.catalogue(), 0));
    assert_eq!(bench.state.balances().count(), 0, "its sums are gone, too");
    assert!(matches!(bench.submit(Request::InterruptAll), Reply::Settled { changed: false, .. }), "dropped once");
    std::mem::swap(&mut bench.state, &mut other);
    bench.submit(stage(true, vec![service_named("new")]));
    assert_eq!(bench.state.staged(), 1);
    bench.submit(effect());
    assert!(bench.state.catalogue().services.contains_key("new"));
    assert!(!bench.state.catalogue().services.contains_key("svc-1"));
}

#[test]
fn a_call_under_way_is_counted_by_a_budget_that_came_after_it() {
    let mut bench = Bench::new(vec![]);
    bench.admit(admit(1, usd("5")));
    bench.admit(admit(2, usd("5")));
    bench.declare(vec![Change::Budget("month".into(), Some(hard("month", "4")))]);
    bench.settle(1, settle(Some(usd("3")), 0));
    assert_eq!(bench.balance("month"), (usd("3").0, 0));
    let shown: Vec<&Body> = bench.entries.iter().rev().take(6).map(|e| &e.body).collect();
    assert!(
        shown.iter().any(|b| matches!(b, Body::Extend { holds, .. } if holds[0].amount == usd("5").0)),
        "{shown:?}"
    );
    assert!(!shown.iter().any(|b| matches!(b, Body::Overrun { .. })), "{shown:?}");
    // Past the limit: on record as such.
    bench.settle(2, settle(Some(usd("3")), 0));
    assert_eq!(bench.balance("month"), (usd("6").0, 0));
    let over =
        |b: &Body| matches!(b, Body::Overrun { excess, budgets } if *excess == Money::ZERO && *budgets == ["month"]);
    assert!(bench.entries.iter().any(|e| over(&e.body)));
    assert!(bench.alerts().contains(&"month overrun 0".to_owned()), "{:?}", bench.alerts());
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Settle(prop::sample::Index, i128),
    /// Reads what is posted; declares, or opens what is staged; makes it so.
    Next,
}

fn all_of_production(id: &str) -> Budget {
    let mut budget = Budget { period: PeriodKind::Day, ..budget(id, Metric::Usd, 1 << 60, Enforcement::Hard) };
    budget.matches = [(Dimension::Environment, "prod".to_owned())].into();
    budget
}

proptest! {
    /// Whatever ends when: a budget made in the middle of its period has in the end what all its calls cost.
    #[test]
    fn no_call_is_lost_or_doubled_between_openings_and_effect(
        steps in proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Admit),
                4 => (any::<prop::sample::Index>(), 0i128..900).prop_map(|(i, cost)| Step::Settle(i, cost)),
                1 => Just(Step::Next),
            ],
            1..150,
        ),
        staged in any::<bool>(), there_before in any::<bool>(),
    ) {
        let before = there_before.then(|| Budget { period: PeriodKind::Day, ..hard("day", "900") });
        let mut bench = Bench::new(before.into_iter().collect());
        let after = all_of_production("day");
        let change = Change::Budget("day".into(), Some(after.clone()));
        let (mut calls, mut open, mut cost) = (0u128, Vec::new(), 0i128);
        let mut phase = 0;
        let mut counting: Option<Counting> = None;
        let mut ended: Vec<Ended> = Vec::new();
        for step in steps.into_iter().chain(std::iter::repeat_n(Step::Next, 3)) {
            bench.at = Micros(bench.at.0 + 1);
            let made = bench.entries.len();
            let state = bench.state.clone();
            match step {
                Step::Admit => {
                    calls += 1;
                    if matches!(bench.admit(admit(calls, Money(500))), Reply::Admitted(_)) {
                        open.push(calls);
                    }
                }
                Step::Settle(which, amount) if !open.is_empty() => {
                    let call = open.swap_remove(which.index(open.len()));
                    cost += amount;
                    bench.settle(call, settle(Some(Money(amount)), 0));
                    let entries = &bench.entries[made..];
                    ended.extend(entries.iter().filter_map(|entry| Ended::by(&state, entry)));
                }
                Step::Settle(..) => {}
                Step::Next => {
                    phase += 1;
                    match phase {
                        1 => {
                            if staged {
                                bench.submit(stage(true, vec![change.clone()]));
                            }
                            let mut count = Counting::of([&after], bench.at);
                            for start in count.starts() {
                                let prod = |d| (d == Dimension::Environment).then_some("prod");
                                count.add(start, prod, |_| cost, |_| true);
                                count.complete(start, bench.state.next_seq(), |_| true);
                            }
                            counting = Some(count);
                        }
                        2 => {
                            let mut counting = Box::new(counting.take().unwrap());
                            ended.iter().for_each(|call| counting.ended(call));
                            let request = if staged {
                                Request::Openings { actor: "file".into(), openings: vec![] }
                            } else {
                                let changes = vec![change.clone()];
                                Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None }
                            };
                            bench.submit(Request::Counted { request: Box::new(request), counting });
                        }
                        3 if staged => drop(bench.submit(effect())),
                        _ => {}
                    }
                }
            }
            let bytes = bench.state.encode();
            prop_assert_eq!(State::decode(&bytes).unwrap().encode(), bytes);
        }
        for call in open {
            cost += 7;
            bench.settle(call, settle(Some(Money(7)), 0));
        }
        prop_assert_eq!(bench.balance("day"), (cost, 0));
        let mut replayed = State::new();
        bench.entries.iter().for_each(|entry| replayed.apply(entry).unwrap());
        prop_assert_eq!(replayed.encode(), bench.state.encode());
    }
}
