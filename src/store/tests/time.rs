//! Months that turn, days that are longer or shorter, and clocks that are set: through the real store.

use std::sync::Mutex;

use super::*;
use crate::domain::time::SECOND;
use crate::domain::{Budget, Dimension, Enforcement, Limit, Metric, Micros, PeriodKind};

const OWN_SNAPSHOT: &str = super::super::snapshot::FILE;

fn at(text: &str) -> Micros {
    text.parse().unwrap()
}

fn budget(id: &str, period: PeriodKind, time_zone: &str) -> Change {
    let budget = Budget {
        matches: [(Dimension::Service, "invoice-bot".to_owned())].into(),
        time_zone: time_zone.into(),
        enforcement: Enforcement::Alert,
        ..Budget::plain(id, Limit { metric: Metric::Usd, amount: 1 << 60 }, period)
    };
    Change::Budget(id.into(), Some(budget))
}

fn declare(changes: Vec<Change>) -> Request {
    Request::Declare { actor: "file".into(), changes, openings: Vec::new(), reason: None }
}

/// Period, posted and held of a budget at an instant.
fn balance(ledger: &Ledger, budget: &str, at: Micros) -> (String, i128, i128) {
    let found = ledger.balances(at).into_iter().find(|b| b.budget == budget).unwrap();
    (found.period, found.posted, found.held)
}

#[test]
fn calls_in_flight_at_the_turn_settle_on_the_period_of_their_admit() {
    let (november, december) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z"));
    for (power_cut, snapshot) in [(false, true), (false, false), (true, true), (true, false)] {
        let (memory, clock) = (Memory::new(), Arc::new(SetClock::new(november)));
        let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        ledger.submit_all(vec![declare(vec![budget("month", PeriodKind::Month, "UTC")])]).unwrap();
        ledger.submit_all((0..10).map(|n| admit_as_of(n, 1)).collect()).unwrap();
        clock.set(december);
        ledger.submit_all((0..5).map(settle).collect()).unwrap();
        ledger.submit_all(vec![admit_as_of(100, 1)]).unwrap();
        assert_eq!(balance(&ledger, "month", november), ("2026-11@UTC".into(), 5 * 700, 5 * 2_000));
        assert_eq!(balance(&ledger, "month", december), ("2026-12@UTC".into(), 0, 2_000));
        if power_cut {
            cut_power(&memory, ledger)
        } else {
            close(ledger)
        }
        if !snapshot {
            Media::Memory(memory.clone()).remove_side(OWN_SNAPSHOT);
        }
        let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        assert!(ledger.running().is_empty());
        assert_eq!(balance(&ledger, "month", november), ("2026-11@UTC".into(), 5 * 700 + 5 * 2_000, 0));
        assert_eq!(balance(&ledger, "month", december), ("2026-12@UTC".into(), 2_000, 0));
        close(ledger);
        verified(&memory);
    }
}

#[test]
fn a_month_replays_without_those_before_it() {
    let (memory, clock) = (Memory::new(), clock_at("2026-11-30T12:00:00Z"));
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    ledger.submit_all(vec![owner(), declare(vec![budget("month", PeriodKind::Month, "UTC")])]).unwrap();
    let mut call = 0;
    for month in ["2026-11-30T13:00:00Z", "2026-12-15T00:00:00Z", "2027-01-15T00:00:00Z"] {
        clock.set(at(month));
        ledger.submit_all((call..call + 300).map(|n| admit_as_of(n, 2)).collect()).unwrap();
        ledger.submit_all((call..call + 290).map(settle).collect()).unwrap();
        call += 300;
    }
    let balances: Vec<_> =
        ["2026-12-15T00:00:00Z", "2027-01-15T00:00:00Z"].map(|t| balance(&ledger, "month", at(t))).into();
    let (head, running, catalogue) = (ledger.head(), ledger.running().len(), ledger.catalogue());
    assert_eq!(running, 30);
    close(ledger);
    let media = Media::Memory(memory.clone());
    media.remove_side(OWN_SNAPSHOT);
    for month in ["2026-11", "2026-12"] {
        memory.remove(&format!("journal-{month}.redb"));
    }
    let found = verified(&memory);
    assert_eq!((found.size, found.open_calls), (head.size, 30), "{found:?}");
    assert!(found.first > 0, "{found:?}");
    let journal =
        Arc::new(super::super::journal::Journal::open(media.clone(), super::super::journal::Mode::Write).unwrap());
    let root = super::super::seal::RootKey::load(&media).unwrap();
    let keys = super::super::keys::DataKeys::open(&media, &root).unwrap();
    let reader = super::super::reader::Reader { journal, keys: Some(Arc::new(keys)) };
    let carried = super::super::recover::recover(&reader, &media).unwrap();
    assert_eq!((carried.size(), carried.tree.root()), (head.size, head.root));
    assert_eq!(**carried.state.catalogue(), *catalogue, "names included");
    assert_eq!(carried.state.running().count(), 30);
    let (december, january) = (&balances[0], &balances[1]);
    for (period, posted, held) in [december, january] {
        let position = carried.state.balance("month", period).unwrap();
        assert_eq!((position.posted, position.held), (*posted, *held), "{period}");
    }
}

#[test]
fn days_and_months_are_as_long_as_they_are() {
    let days = [
        ("2026-10-24T22:00:00Z", "2026-10-25@Europe/Berlin", 25),
        ("2027-03-27T23:00:00Z", "2027-03-28@Europe/Berlin", 23),
        ("2028-02-28T23:00:00Z", "2028-02-29@Europe/Berlin", 24),
    ];
    let (memory, clock) = (Memory::new(), clock_at("2026-10-24T20:00:00Z"));
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    let budgets = [("day", PeriodKind::Day), ("hour", PeriodKind::Hour), ("month", PeriodKind::Month)];
    ledger.submit_all(vec![declare(budgets.map(|(id, period)| budget(id, period, "Europe/Berlin")).into())]).unwrap();
    let mut call = 0u128;
    for (midnight, name, hours) in days {
        let midnight = at(midnight);
        let mut periods = std::collections::BTreeSet::new();
        // One call every half hour, from an hour before the day to an hour after it.
        for half in -2..hours * 2 + 2 {
            let now = midnight.plus_seconds(half * 1_800);
            clock.set(now);
            ledger.submit_all(vec![admit_as_of(call, 3), settle(call)]).unwrap();
            call += 1;
            let (day, posted, _) = balance(&ledger, "day", now);
            if (0..hours * 2).contains(&half) {
                assert_eq!((day.as_str(), posted), (name, i128::from(half + 1) * 700), "{now}");
                periods.insert(balance(&ledger, "hour", now).0);
            } else {
                assert_ne!(day, name);
            }
        }
        assert_eq!(periods.len() as i64, hours, "every hour is one period, also one that comes twice: {periods:?}");
    }
    assert_eq!(balance(&ledger, "month", at("2028-02-29T12:00:00Z")).0, "2028-02@Europe/Berlin");
    close(ledger);
    assert!(Media::Memory(memory.clone()).names().unwrap().iter().any(|n| n == "journal-2028-02.redb"));
    verified(&memory);
}

/// A wall clock that is set, beside one that nobody sets.
struct TwoClocks(Mutex<(i64, i64)>);

impl TwoClocks {
    fn pass(&self, seconds: i64) {
        let mut both = self.0.lock().unwrap();
        (both.0, both.1) = (both.0 + seconds * SECOND, both.1 + seconds * SECOND);
    }
    fn set(&self, seconds: i64) {
        self.0.lock().unwrap().0 += seconds * SECOND;
    }
}

impl Clock for TwoClocks {
    fn now(&self) -> Micros {
        Micros(self.0.lock().unwrap().0)
    }
    fn monotonic(&self) -> i64 {
        self.0.lock().unwrap().1
    }
}

fn gaps(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.entries(0, 10_000).unwrap();
    let gap = |(entry, _): &(crate::ledger::entry::Entry, Erasable)| match &entry.body {
        Body::Gap { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    entries.iter().filter_map(gap).collect()
}

/// Case L10: the clock steps back two hours in a running process.
#[test]
fn l10_a_clock_that_steps_back_leaves_journal_time_going_on_and_is_on_record() {
    let memory = Memory::new();
    let clock = Arc::new(TwoClocks(Mutex::new((at(START).0, 1))));
    let options = || Options { durability: Durability::Strict, clock: clock.clone() };
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    ledger.submit_all(vec![declare(vec![budget("hour", PeriodKind::Hour, "UTC")])]).unwrap();
    for n in 0..60u128 {
        clock.pass(1);
        if n == 20 {
            clock.set(-7_200);
        }
        ledger.submit_all(vec![admit_as_of(n, 1), settle(n)]).unwrap();
    }
    let entries = ledger.entries(0, 10_000).unwrap();
    assert!(entries.windows(2).all(|two| two[0].0.ts <= two[1].0.ts), "time goes back");
    assert_eq!(ledger.head().at, at(START).plus_seconds(60), "as if nobody had set the clock");
    assert_eq!(balance(&ledger, "hour", at(START)), ("2026-11-23T18@UTC".into(), 60 * 700, 0), "all in the same hour");
    let noted = gaps(&ledger);
    assert!(noted.len() == 1 && noted[0].contains("clock: the clock jumped by -7200 s"), "{noted:?}");
    // A start finds the clock behind the journal: time goes on from the journal.
    close(ledger);
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    clock.pass(1);
    ledger.submit_all(vec![admit_as_of(100, 1)]).unwrap();
    assert!(ledger.head().at >= at(START).plus_seconds(60));
    assert!(gaps(&ledger)[1].contains("behind the journal"), "{:?}", gaps(&ledger));
    close(ledger);
    verified(&memory);
}

#[test]
fn a_clock_that_leaps_far_ahead_is_followed_only_once_it_stands_by_it() {
    let memory = Memory::new();
    let clock = Arc::new(TwoClocks(Mutex::new((at(START).0, 1))));
    let ledger =
        Ledger::open_memory(&memory, Options { durability: Durability::Strict, clock: clock.clone() }).unwrap();
    ledger.submit_all(vec![note(0)]).unwrap();
    clock.set(400 * 86_400);
    for n in 1..=9 {
        clock.pass(1);
        ledger.submit_all(vec![note(n)]).unwrap();
    }
    assert_eq!(ledger.head().at, at(START).plus_seconds(9), "not yet");
    assert_eq!(Media::Memory(memory.clone()).names().unwrap().iter().filter(|n| n.starts_with("journal-")).count(), 1);
    for n in 10..=13 {
        clock.pass(1);
        ledger.submit_all(vec![note(n)]).unwrap();
    }
    assert_eq!(ledger.head().at, clock.now(), "the clock has stood by it");
    assert_eq!(gaps(&ledger).len(), 2, "{:?}", gaps(&ledger));
    close(ledger);
    assert!(Media::Memory(memory.clone()).names().unwrap().iter().any(|n| n == "journal-2027-12.redb"));
    verified(&memory);
}

fn stage(n: u64, begin: bool) -> Request {
    let owner = |n: u64| {
        let id = format!("team-{n}");
        let owner = Owner { id: id.clone(), kind: Default::default(), name: Some(format!("Team {n}")), email: None };
        Change::Owner(id, Some(owner))
    };
    Request::Stage { actor: "file".into(), begin, changes: (n..n + 20).map(owner).collect(), reason: None }
}

#[test]
fn an_apply_that_a_month_or_a_crash_interrupts_is_whole_or_nothing() {
    for crash in [false, true] {
        let (memory, clock) = (Memory::new(), clock_at("2026-11-30T23:59:59Z"));
        let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        ledger.submit_all(vec![stage(0, true), stage(20, false)]).unwrap();
        clock.set(at("2026-12-01T00:00:01Z"));
        ledger.submit_all(vec![stage(40, false)]).unwrap();
        assert!(ledger.catalogue().owners.is_empty());
        if crash {
            cut_power(&memory, ledger);
            Media::Memory(memory.clone()).remove_side(OWN_SNAPSHOT);
            let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
            assert!(ledger.catalogue().owners.is_empty());
            let entries = ledger.entries(0, 1_000).unwrap();
            let last = &entries.last().unwrap().0.body;
            assert!(matches!(last, Body::Apply(a) if a.step == crate::ledger::entry::ApplyStep::Dropped), "{last:?}");
            close(ledger);
        } else {
            ledger.submit_all(vec![Request::Effect { actor: "file".into() }]).unwrap();
            let catalogue = ledger.catalogue();
            assert_eq!(catalogue.owners.len(), 60);
            assert_eq!(catalogue.owners["team-7"].name.as_deref(), Some("Team 7"));
            cut_power(&memory, ledger);
            let december = memory.bytes("journal-2026-12.redb");
            assert!(!december.windows(6).any(|w| w == b"Team 7"), "a name stands unsealed in the month's snapshot");
            Media::Memory(memory.clone()).remove_side(OWN_SNAPSHOT);
            let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
            assert_eq!(*ledger.catalogue(), *catalogue, "names included");
            close(ledger);
        }
        verified(&memory);
    }
}

#[test]
fn a_job_that_outlives_a_restart_is_counted_by_a_budget_that_came_after_it() {
    let (memory, clock) = (Memory::new(), clock_at(START));
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    let job = |n: u128| {
        let vendor_id = format!("resp_{n}");
        Request::Job { call: CallId(n), attempt: 1, vendor_id, state: "in_progress".into() }
    };
    ledger.submit_all((0..600).flat_map(|n| [admit_as_of(n, 0), job(n)]).collect()).unwrap();
    ledger.submit_all((0..590).map(settle).collect()).unwrap();
    close(ledger);
    let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
    assert_eq!(ledger.running().len(), 10, "jobs go on at the vendor");
    ledger.submit_all(vec![declare(vec![budget("month", PeriodKind::Month, "UTC")])]).unwrap();
    ledger.submit_all((590..595).map(settle).collect()).unwrap();
    assert_eq!(balance(&ledger, "month", at(START)), ("2026-11@UTC".into(), 5 * 700, 0));
    close(ledger);
    verified(&memory);
}
