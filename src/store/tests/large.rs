//! Much declared: what an apply of thousands, a snapshot and a month's turn cost those who are admitted meanwhile.
//!
//! The long tier (`WEIGHBRIDGE_LONG`) declares 100,000 keys and 10,000 budgets; otherwise a fiftieth of it. What was
//! measured is printed, with the longest that one caller waited; only what came out is asserted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::domain::catalogue::KeyStatus;
use crate::domain::{
    Budget, Dimension, Enforcement, Environment, Key, Limit, Metric, Micros, PeriodKind, Service, ServiceKind,
};

fn at(text: &str) -> Micros {
    text.parse().unwrap()
}

fn service() -> Change {
    let service = Service {
        id: "fleet".into(),
        application: "fleet".into(),
        kind: ServiceKind::Service,
        owner: "team".into(),
        business_unit: "unit".into(),
        cost_centre: None,
        tenant: None,
        purpose: None,
        caller_fields: Default::default(),
        mandatory_fields: Default::default(),
        tenants: vec![],
        workflows: vec![],
        prompt_classes: vec![],
    };
    Change::Service("fleet".into(), Some(service))
}

fn key(n: usize) -> Change {
    key_noted(n, None)
}

fn key_noted(n: usize, note: Option<String>) -> Change {
    let key = Key {
        id: format!("wbk_p{n:011}"),
        hash: [(n % 251) as u8; 32],
        service: "fleet".into(),
        environment: Environment::Prod,
        created_at: at(START),
        expires_at: None,
        status: KeyStatus::Active,
        allow_models: None,
        note,
        not_before: None,
        allow_cidrs: None,
        lineage: None,
        successor: None,
    };
    Change::Key(key.id.clone(), Some(key))
}

fn budget(n: usize) -> Change {
    let budget = Budget {
        matches: [(Dimension::Workflow, format!("w-{n}"))].into(),
        enforcement: Enforcement::Hard,
        alert_at_percent: vec![80],
        ..Budget::plain(format!("b-{n}"), Limit { metric: Metric::Usd, amount: 1 << 60 }, PeriodKind::Month)
    };
    Change::Budget(budget.id.clone(), Some(budget))
}

/// Admits and settles until it is told to stop; gives how many calls went through.
fn traffic(ledger: &Ledger, stop: &AtomicBool, longest_us: &AtomicU64) -> u64 {
    let mut calls = 0u64;
    while !stop.load(Ordering::SeqCst) {
        let call = 1_000_000 + u128::from(calls);
        let began = Instant::now();
        let admitted = ledger.submit_all(vec![admit_as_of(call, ledger.catalogue().revision)]).unwrap();
        longest_us.fetch_max(began.elapsed().as_micros() as u64, Ordering::SeqCst);
        if matches!(admitted[0], Reply::Admitted(_)) {
            ledger.submit_all(vec![settle(call)]).unwrap();
        }
        calls += 1;
    }
    calls
}

#[test]
fn calls_go_on_while_thousands_are_declared_and_while_the_month_turns() {
    let size = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 50 } else { 1 };
    let (keys, budgets) = (2_000 * size, 200 * size);
    let dir = tempfile::tempdir().unwrap();
    let clock = clock_at("2026-11-30T23:55:00Z");
    let ledger = Ledger::open(dir.path(), with(clock.clone())).unwrap();
    let changes: Vec<Change> =
        std::iter::once(service()).chain((0..keys).map(key)).chain((0..budgets).map(budget)).collect();
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| traffic(&ledger, &stop, &longest));
        let phase = |name: &str, work: &dyn Fn()| {
            longest.store(0, Ordering::SeqCst);
            let began = Instant::now();
            work();
            let (took, waited) = (began.elapsed(), longest.load(Ordering::SeqCst));
            println!("{name}: {took:?}, an admission waited {waited} us at most");
        };
        phase("quiet", &|| std::thread::sleep(Duration::from_millis(200)));
        let apply = |changes: &[Change]| {
            phase(&format!("{} changes staged", changes.len()), &|| {
                for (n, slice) in changes.chunks(64).enumerate() {
                    let (actor, changes) = ("file".into(), slice.to_vec());
                    ledger.submit_all(vec![Request::Stage { actor, begin: n == 0, changes, reason: None }]).unwrap();
                }
            });
            phase("effect", &|| {
                ledger.submit_all(vec![Request::Effect { actor: "file".into() }]).unwrap();
                // The waits of those who came while it was decided are counted, too.
                std::thread::sleep(Duration::from_millis(50));
            });
        };
        apply(&changes);
        assert_eq!((ledger.catalogue().keys.len(), ledger.catalogue().budgets.len()), (keys, budgets));
        let again: Vec<Change> = (0..keys / 10).map(|n| key_noted(n * 10, Some("renewed".into()))).collect();
        apply(&again);
        phase("one more change", &|| {
            let changes = vec![key(keys)];
            let one = Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None };
            ledger.submit_all(vec![one]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        });
        // The next month's file is made in these minutes before the turn.
        let ahead = Instant::now() + Duration::from_secs(20);
        let december = dir.path().join("journal-2026-12.redb");
        while !december.exists() && Instant::now() < ahead {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(december.exists(), "not made ready");
        std::thread::sleep(Duration::from_millis(500));
        phase("month's turn", &|| {
            clock.set(at("2026-12-01T00:00:00Z"));
            ledger.submit_all(vec![note(1)]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        });
        stop.store(true, Ordering::SeqCst);
        assert!(calls.join().unwrap() > 0);
    });
    let catalogue = ledger.catalogue();
    close(ledger);
    std::fs::remove_file(dir.path().join(super::super::snapshot::FILE)).unwrap();
    let began = Instant::now();
    let again = Ledger::open(dir.path(), with(clock)).unwrap();
    println!("start from the sealed snapshot: {:?}", began.elapsed());
    assert_eq!(*again.catalogue(), *catalogue);
    close(again);
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.verdict, found.snapshots), (Verdict::Verified, 2), "{found:?}");
}

#[test]
fn a_month_made_ready_that_never_came_is_in_nobodys_way() {
    let memory = Memory::new();
    let clock = clock_at("2026-11-30T23:55:00Z");
    let media = Media::Memory(memory.clone());
    {
        let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        ledger.submit_all(vec![note(1), owner()]).unwrap();
        close(ledger);
        let journal = super::super::journal::Journal::open(media.clone(), super::super::journal::Mode::Write).unwrap();
        journal.prepare("2026-12", &super::super::snapshot::Part::of(Default::default())).unwrap();
        assert_eq!(journal.months(), ["2026-11"]);
        journal.close().unwrap();
    }
    assert!(memory.has("journal-2026-12.redb"));
    verified(&memory);
    // The same month comes after a restart, with another catalogue than was made ready; or a later one comes.
    for month in ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"] {
        let memory = memory.fork();
        clock.set(at("2026-11-30T23:58:00Z"));
        let ledger = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        clock.set(at(month));
        ledger.submit_all(vec![note(2)]).unwrap();
        let catalogue = ledger.catalogue();
        close(ledger);
        assert_eq!(memory.has("journal-2026-12.redb"), month.starts_with("2026-12"), "{month}");
        Media::Memory(memory.clone()).remove_side(super::super::snapshot::FILE);
        let again = Ledger::open_memory(&memory, with(clock.clone())).unwrap();
        assert_eq!(*again.catalogue(), *catalogue, "{month}");
        close(again);
        assert_eq!(verified(&memory).snapshots, 2, "{month}");
    }
}
