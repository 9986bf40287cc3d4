//! L05: the process ends at every write point of a workload, and each time everything that was promised is there.
//!
//! The workload runs once, and everything the disk is asked to do is taped. Then the tape is played onto an empty folder;
//! after each event the folder is copied, the power goes (or the process is killed), and the copy is opened: the first
//! entries are those that had been promised by then, to the last bit of their root, what was open is interrupted, the
//! next call goes through, and what lies there verifies.

use std::sync::Arc;

use crate::domain::{CallId, Money};
use crate::ledger::decide::decide;
use crate::ledger::request::{Reply, Request};
use crate::ledger::testing;
use crate::store::media::faults::{End, Faults, Survival};
use crate::store::media::{Event, Media, Memory};
use crate::store::verify::{Verdict, verify_media};
use crate::store::views::samples::Chance;
use crate::store::{Durability, Options, Stepped};

use super::callers::Callers;
use super::clock::{self, SimClock};

/// What was promised when so many events were taped.
struct Promise {
    events: usize,
    size: u64,
    root: [u8; 32],
    open: usize,
}

/// The tape of a workload, and what was promised on the way.
struct Taped {
    events: Vec<Event>,
    promises: Vec<Promise>,
    at: crate::domain::Micros,
}

fn open(memory: &Memory, clock: &Arc<SimClock>) -> Result<Stepped, crate::store::StoreError> {
    let options = Options { durability: Durability::Strict, clock: clock.clone() };
    Stepped::open(memory, options, decide)
}

/// So many requests, with feeds, side files, a month turn and two restarts in between.
fn tape(operations: u64, seed: u64) -> Taped {
    let (memory, mut chance, mut callers) = (Memory::new(), Chance(seed), Callers::new());
    let clock = Arc::new(SimClock::new(clock::edge(5).plus_seconds(-40)));
    memory.tape(true);
    let mut promises = Vec::new();
    let mut machine = open(&memory, &clock).expect("an empty folder opens");
    machine.submit(vec![callers.first_day(&mut chance)]);
    let mut done = 0;
    while done < operations {
        let asked = callers.ask(&mut chance, crate::store::Clock::now(&*clock), false);
        done += asked.len() as u64;
        let (requests, intents): (Vec<_>, Vec<_>) = asked.into_iter().map(|a| (a.request, a.intent)).unzip();
        for (intent, reply) in intents.into_iter().zip(machine.submit(requests)) {
            callers.told(intent, Some(&reply.expect("nothing is wrong"))).expect("it is what was asked for");
        }
        clock.pass(chance.below(120_000) as i64);
        match chance.below(60) {
            0..=3 => drop(machine.feed().expect("nothing is wrong")),
            4..=6 => machine.look_round(),
            7 if done > operations / 3 && promises.len() % 3 == 0 => {
                machine.close().expect("nothing is wrong");
                callers.cut_off();
                machine = open(&memory, &clock).expect("it was closed well");
            }
            _ => {}
        }
        let head = machine.ledger().head();
        let open = machine.state(|state| state.running().filter(|open| open.job).count());
        promises.push(Promise { events: memory.taped(), size: head.size, root: head.root, open });
    }
    let at = crate::store::Clock::now(&*clock);
    Taped { events: memory.tape(false), promises, at }
}

/// Ends the process after an event, opens what is left, and looks.
fn check(memory: &Memory, promise: Option<&Promise>, seed: u64, at: crate::domain::Micros) {
    let mut chance = Chance(seed);
    if chance.below(4) > 0 {
        memory.cut(Survival::drawn(chance.next()));
    } else {
        memory.kill();
    }
    let clock = Arc::new(SimClock::new(at));
    // Sometimes the power goes again while it starts.
    if chance.below(3) == 0 {
        memory.power_on();
        let end = End::Power(Survival::drawn(chance.next()));
        memory.set_faults(Faults { end_at: Some((memory.points() + 1 + chance.below(20), end)), ..Faults::default() });
        drop(open(memory, &clock));
    }
    memory.power_on();
    let mut machine = open(memory, &clock).unwrap_or_else(|e| panic!("it does not start: {e}"));
    let ledger = machine.ledger();
    if let Some(Promise { size, root, open, .. }) = promise {
        assert!(ledger.head().size >= *size, "{size} entries were promised, {} are there", ledger.head().size);
        assert_eq!(ledger.root(*size).unwrap(), *root, "of the first {size} entries");
        assert!(ledger.running().iter().all(|open| open.job), "a call of a dead process is open");
        assert!(ledger.running().len() + 8 >= *open, "jobs run on at the vendor");
    }
    let probe = testing::admit(u128::MAX, Money(1));
    let reply = machine.submit(vec![Request::Admit(Box::new(probe))]).remove(0).expect("it takes calls");
    let settle = Box::new(testing::settle(Some(Money(1)), 1));
    let settle = Request::Settle { call: CallId(u128::MAX), attempt: 1, settle, erasable: Box::default() };
    let settled = machine.submit(vec![settle]).remove(0).expect("it settles calls");
    assert!(matches!(settled, Reply::Settled { changed: true, .. }) || matches!(reply, Reply::Denied(_)));
    drop(machine);
    memory.kill();
    memory.power_on();
    let found = verify_media(&Media::Memory(memory.clone()), true, None);
    assert_eq!(found.verdict, Verdict::Verified, "{found:?}");
}

fn the_process_ends_at_every(nth: usize, operations: u64) -> usize {
    let Taped { events, promises, at } = tape(operations, 11);
    let memory = Memory::new();
    let (mut promised, mut checked, mut failed) = (0, 0, Vec::new());
    for (n, event) in events.iter().enumerate() {
        memory.replay(event);
        while promises.get(promised).is_some_and(|promise| promise.events <= n + 1) {
            promised += 1;
        }
        // Where nobody was promised anything yet, the first start itself may be what is cut short.
        if n % nth == 0 {
            let promise = promised.checked_sub(1).and_then(|last| promises.get(last));
            let copy = memory.fork();
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&copy, promise, n as u64, at)));
            if seen.is_err() {
                eprintln!("the process ended after write point {n} of {}: {event:?}", events.len());
                failed.push(n);
            }
            checked += 1;
        }
    }
    assert!(failed.is_empty(), "after these write points: {failed:?}");
    checked
}

#[test]
fn l05_the_process_ends_at_every_write_point_of_two_thousand_operations() {
    let nth = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 1 } else { 23 };
    let checked = the_process_ends_at_every(nth, 2_000);
    assert!(checked > 100, "{checked}");
}
