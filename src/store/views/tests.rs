//! Views against a naive fold of the same entries: while they follow, after a restart, from nothing.

mod bounded;
mod packed;

use std::collections::BTreeMap;
use std::time::Duration;

use super::samples::{Chance, Made, admit, deny, settle, traffic, who};
use super::*;
use crate::domain::{Call, CallId, Component, CostBasis, Dimension, Filter, Match, Micros, Money, Outcome, Usage};
use crate::ledger::entry::Body;
use crate::rollup::{DimSet, Measures, quarter_of};
use crate::store::KnownResponse;

const START: &str = "2026-10-24T20:07:31Z";

fn all(views: &Views) -> Vec<Call> {
    views.calls(&Filter::default(), None, usize::MAX).unwrap().0
}

fn sums(views: &Views) -> BTreeMap<(u32, DimSet), Measures> {
    let mut sums = BTreeMap::new();
    views
        .rollups(0, u32::MAX, &mut |q, set, m| assert!(sums.insert((q, DimSet::clone(set)), m.clone()).is_none()))
        .unwrap();
    sums
}

/// What the sums must be: every ended call added up by hand.
fn naive(calls: &[Call]) -> BTreeMap<(u32, DimSet), Measures> {
    let mut sums = BTreeMap::<_, Measures>::new();
    for call in calls {
        if let Some(m) = Measures::of(call) {
            sums.entry((quarter_of(call.started_at), DimSet::of(call))).or_default().add(&m);
        }
    }
    sums
}

fn settled_in(views: &Views, made: &Made) {
    assert!(views.wait_for(made.len(), Duration::from_secs(60)), "the follower did not catch up");
}

#[test]
fn a_call_is_whole_before_and_after_the_follower_has_written_it() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let seq = made.admit(at, who("a"), "gpt-5.2");
    views.committed(made.block(0));
    let id = CallId(1);
    let running = views.call(id).unwrap().unwrap();
    assert_eq!((running.outcome, running.cost, running.seq), (Outcome::Running, None, seq));
    let mut end = settle(Some(Money::usd(2)), Usage::new().with(Component::InputTokens, 7));
    end.response_id = Some("resp_1".into());
    made.settle(Micros(at.0 + 1), seq, end);
    views.committed(made.block(1));
    for _ in 0..2 {
        let call = views.call(id).unwrap().unwrap();
        assert_eq!((call.outcome, call.cost, call.settled_seq), (Outcome::Completed, Some(Money::usd(2)), Some(1)));
        assert_eq!(call.started_at, at);
        let known = views.response("openai", "resp_1").unwrap().unwrap();
        assert_eq!(known, KnownResponse { call: id, attempt: 1, open: false });
        assert!(views.response("other", "resp_1").unwrap().is_none());
        settled_in(&views, &made);
    }
}

#[test]
fn attempts_of_one_call_are_one_row_whose_cost_is_their_sum() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let first = made.admit(at, who("a"), "gpt-5.2");
    made.settle(at, first, settle(Some(Money::ZERO), Usage::new()));
    views.committed(made.block(0));
    settled_in(&views, &made);
    let again = made.push(at, None, Body::Admit(Box::new(admit(CallId(1), 2, who("a"), "gpt-5.2"))));
    views.committed(made.block(again));
    assert_eq!(views.call(CallId(1)).unwrap().unwrap().outcome, Outcome::Running);
    made.settle(at, again, settle(Some(Money::usd(3)), Usage::new()));
    views.committed(made.block(again + 1));
    for _ in 0..2 {
        let calls = all(&views);
        assert_eq!((calls.len(), calls[0].attempts, calls[0].cost), (1, 2, Some(Money::usd(3))));
        assert_eq!(sums(&views), naive(&calls));
        settled_in(&views, &made);
    }
}

#[test]
fn what_an_attempt_has_cost_stays_in_every_sum_while_the_next_one_runs() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let paid = |views: &Views| {
        let rollups: Money = sums(views).values().map(|m| m.cost).sum();
        let ragged = std::cell::RefCell::new(Money::ZERO);
        let add = |m: &Measures| *ragged.borrow_mut() += m.cost;
        // The whole quarters of a range that ends inside one, and its rest call by call.
        let to = Some(Micros(at.0 + 60_000_000));
        views.tally(None, to, &mut |_, _, m| add(m), &mut |c| Measures::of(c).iter().for_each(add)).unwrap();
        let mut counted = Money::ZERO;
        views.counted(&Filter::default(), &mut |call| counted += call.cost.unwrap()).unwrap();
        let rows: Money = all(views).iter().map(|call| call.cost.unwrap_or_default()).sum();
        assert_eq!([ragged.into_inner(), counted, rows], [rollups; 3]);
        rollups
    };
    let first = made.admit(at, who("a"), "gpt-5.2");
    views.committed(made.block(0));
    assert_eq!(paid(&views), Money::ZERO);
    let seen = made.len();
    made.settle(at, first, settle(Some(Money::usd(5)), Usage::new()));
    let again = made.push(at, None, Body::Admit(Box::new(admit(CallId(1), 2, who("a"), "gpt-5.2"))));
    views.committed(made.block(seen));
    for _ in 0..2 {
        assert_eq!(paid(&views), Money::usd(5));
        let calls: u64 = sums(&views).values().map(|m| m.calls).sum();
        assert_eq!(calls, 0, "it is counted as a call when it has ended");
        settled_in(&views, &made);
    }
    made.settle(at, again, settle(Some(Money::usd(3)), Usage::new()));
    views.committed(made.block(again + 1));
    for _ in 0..2 {
        assert_eq!(paid(&views), Money::usd(8));
        settled_in(&views, &made);
    }
}

#[test]
fn an_unknown_cost_is_unpriced_and_never_zero() {
    let made = Made::default();
    let at: Micros = START.parse().unwrap();
    let seq = made.admit(at, who("a"), "gpt-5.2");
    made.push(at, Some(seq), Body::Interrupted { cost: None });
    let call = &all(&made.views())[0];
    assert_eq!((call.outcome, call.cost, call.cost_basis), (Outcome::Interrupted, None, CostBasis::Unpriced));
    assert_eq!(Measures::of(call).unwrap().unpriced, 1);
}

#[test]
fn a_folded_refusal_counts_as_often_as_it_stands_for() {
    let made = Made::default();
    made.push(START.parse().unwrap(), None, Body::Deny(Box::new(deny(CallId(9), None, 40))));
    let views = made.views();
    let refused: u64 = sums(&views).values().map(|m| m.refused).sum();
    assert_eq!(refused, 40);
    assert_eq!(all(&views)[0].flags, ["credential_malformed"]);
}

#[test]
fn sums_equal_calls_at_every_moment() {
    for seed in [1, 2, 3] {
        let mut chance = Chance(seed);
        let made = Made::default();
        let views = made.views();
        let mut at: Micros = START.parse().unwrap();
        for round in 0..12 {
            let from = made.len();
            at = traffic(&made, &mut chance, 40, at, 90_000_000);
            views.committed(made.block(from));
            if round % 4 == 3 {
                settled_in(&views, &made);
            }
            let calls = all(&views);
            assert_eq!(sums(&views), naive(&calls), "seed {seed}, round {round}");
            assert!(calls.is_sorted_by(|a, b| a.seq > b.seq), "seed {seed}: newest first");
        }
    }
}

#[test]
fn pages_and_ranges_choose_the_same_calls_as_a_plain_filter() {
    let mut chance = Chance(7);
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let end = traffic(&made, &mut chance, 400, at, 30_000_000);
    views.committed(made.block(0));
    settled_in(&views, &made);
    let from = made.len();
    let end = traffic(&made, &mut chance, 100, end, 30_000_000);
    views.committed(made.block(from));
    let everything = all(&views);
    for round in 0..40 {
        let instant = |chance: &mut Chance| Micros(at.0 + chance.below((end.0 - at.0) as u64) as i64);
        let (a, b) = (instant(&mut chance), instant(&mut chance));
        let service = Match::parse(chance.pick(&["search", "!search", "*o*", "nobody"]));
        let owner = Match::parse(chance.pick(&["(none)", "team-*", "!ada"]));
        let filter = Filter {
            from: (round % 3 != 0).then_some(a.min(b)),
            to: (round % 4 != 0).then_some(a.max(b)),
            dimensions: vec![(Dimension::Service, service), (Dimension::Owner, owner)],
        };
        let mut paged = Vec::new();
        let mut before = None;
        loop {
            let (page, _) = views.calls(&filter, before, 7).unwrap();
            before = page.last().map(|c| c.seq);
            paged.extend(page);
            if before.is_none() {
                break;
            }
        }
        let wanted: Vec<Call> = everything
            .iter()
            .filter(|c| filter.in_range(c.started_at) && filter.accepts(|d| c.dimension(d)))
            .cloned()
            .collect();
        assert_eq!(paged, wanted, "round {round} {filter:?}");
    }
}

#[test]
fn a_deleted_file_is_rebuilt_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let made = Made::default();
    let mut chance = Chance(11);
    let at = START.parse().unwrap();
    let views = Views::open(Some(dir.path()), made.journal(), 0).unwrap();
    let mut end = at;
    for _ in 0..9 {
        let from = made.len();
        end = traffic(&made, &mut chance, 60, end, 60_000_000);
        views.committed(made.block(from));
        settled_in(&views, &made);
    }
    let before = (all(&views), sums(&views));
    let found = check(&views, Some(scratch.path()), &made.journal()).unwrap();
    assert_eq!((found.difference, found.entries), (None, made.len()));
    assert_eq!(found.calls, before.0.len() as u64);
    views.close();
    drop(views);
    std::fs::remove_file(dir.path().join("views.redb")).unwrap();
    let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
    settled_in(&views, &made);
    assert_eq!((all(&views), sums(&views)), before);
}

#[test]
fn a_reopened_file_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::default();
    let mut chance = Chance(13);
    let end = traffic(&made, &mut chance, 100, START.parse().unwrap(), 60_000_000);
    let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
    views.wait_for(made.len(), Duration::from_secs(60));
    views.close();
    drop(views);
    traffic(&made, &mut chance, 100, end, 60_000_000);
    let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
    assert!(views.applied() > 0, "the file was not thrown away");
    assert_eq!(sums(&views), naive(&all(&views)));
    assert_eq!(all(&views), all(&made.views()));
}

#[test]
fn a_file_of_another_journal_or_of_nonsense_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Made::default(), Made::default());
    traffic(&one, &mut Chance(1), 50, START.parse().unwrap(), 60_000_000);
    traffic(&other, &mut Chance(2), 20, Micros(5), 60_000_000);
    for (made, spoil) in [(&one, false), (&other, false), (&one, true)] {
        if spoil {
            std::fs::write(dir.path().join("views.redb"), b"not a database at all").unwrap();
        }
        let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
        settled_in(&views, made);
        assert_eq!(all(&views), all(&made.views()));
        views.close();
    }
}

#[test]
fn a_tail_that_overflows_loses_nothing() {
    let made = Made::default();
    let views = made.views();
    let mut tail = tail::Tail::new(0, 0);
    let at: Micros = START.parse().unwrap();
    for n in 0..tail::MOST_ENTRIES as u64 + 10 {
        let seq = made.push(at, None, Body::Deny(Box::new(deny(CallId(u128::from(n) + 1), None, 1))));
        tail.push(Arc::new(made.block(seq).iter().take(1).cloned().collect()));
    }
    assert!(matches!(tail.after(0, 0), tail::Pending::Missing(_)));
    assert!(tail.blocks().len() < 20);
    // The same by the front door: one commit after another, never waiting for the follower.
    let whole = made.block(0);
    for chunk in whole.chunks(1_000) {
        views.committed(Arc::new(chunk.to_vec()));
    }
    assert!(views.call(CallId(1)).unwrap().is_some());
    settled_in(&views, &made);
    assert_eq!(views.totals().unwrap().0, made.len());
}

#[test]
fn whole_quarters_and_ragged_ends_are_every_call_once() {
    let mut chance = Chance(17);
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let end = traffic(&made, &mut chance, 300, at, 40_000_000);
    views.committed(made.block(0));
    let calls = all(&views);
    for round in 0..60 {
        let mut instant = || Micros(at.0 + chance.below((end.0 - at.0) as u64) as i64);
        let (a, b) = (instant(), instant());
        let b = if round % 5 == 0 { Micros(a.0 + 1_000_000) } else { b };
        let (from, to) = (a.min(b), a.max(b));
        let (from, to) = ((round % 7 != 0).then_some(from), (round % 11 != 0).then_some(to));
        let found = std::cell::RefCell::new(Measures::default());
        views
            .tally(from, to, &mut |_, _, m| found.borrow_mut().add(m), &mut |call| {
                if let Some(m) = Measures::of(call) {
                    found.borrow_mut().add(&m);
                }
            })
            .unwrap();
        let mut wanted = Measures::default();
        let range = Filter { from, to, dimensions: Vec::new() };
        calls.iter().filter(|c| range.in_range(c.started_at)).filter_map(Measures::of).for_each(|m| wanted.add(&m));
        assert_eq!(found.into_inner(), wanted, "round {round} {from:?} {to:?}");
    }
}
