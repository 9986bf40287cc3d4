//! Budgets against a naive model: random requests, kills, clocks that jump over changes of zone and ends of months, edits
//! of budgets under way; after every step the invariants I1 to I7 hold, seen from the entries alone.
//!
//! `WEIGHBRIDGE_SEEDS` runs more than one seed of [`STEPS`] steps, `WEIGHBRIDGE_LONG` ten.

mod mutants;
mod naive;
mod steps;

use crate::domain::Micros;
use crate::ledger::entry::Entry;
use crate::ledger::request::{Reply, Request};
use crate::ledger::state::State;

use super::{Decision, decide};
use naive::Naive;
use steps::Callers;

/// Steps of one seed.
const STEPS: u64 = 1_000_000;
/// Steps between two looks at all balances.
const ALL: u64 = 5_000;

/// How a ledger decides: as it should, or as a mutant.
type Decide = fn(&State, Micros, &Request) -> Decision;

/// An invariant that does not hold, in words, and where it was found.
struct Broken {
    seed: u64,
    step: u64,
    what: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)
    }
}

/// Runs so many steps; what they came to, or what broke.
fn run(seed: u64, steps: u64, decide: Decide) -> Result<Tally, Broken> {
    let (mut state, mut naive, mut callers) = (State::new(), Naive::default(), Callers::new(seed));
    let mut tally = Tally::default();
    for step in 0..steps {
        let broken = |what| Broken { seed, step, what };
        let at = callers.clock();
        let request = callers.request(&state, step);
        let Decision { entries, reply } = decide(&state, at, &request);
        let before = state.open_calls();
        for new in entries {
            let entry = Entry { seq: state.next_seq(), ts: at, reference: new.reference, body: new.body };
            naive.read(&entry).map_err(broken)?;
            state.apply(&entry).map_err(|e| broken(format!("{e}")))?;
            tally.entries += 1;
        }
        let broken = |what| Broken { seed, step, what };
        if let Reply::Denied(denied) = &reply {
            tally.refused += 1;
            if state.open_calls() != before {
                return Err(broken("I6: a refusal left a call open".to_owned()));
            }
            naive.refused(denied.by.as_deref(), &request, at).map_err(broken)?;
        }
        tally.of(&reply);
        callers.answered(&request, &reply);
        naive.touched(&state, at).map_err(broken)?;
        if step % ALL == 0 || matches!(request, Request::InterruptAll) {
            naive.all(&state).map_err(broken)?;
        }
        if callers.killed() {
            let read = State::decode(&state.encode()).map_err(|e| broken(format!("{e}")))?;
            if read != state {
                return Err(broken("the state that was kept is another one".to_owned()));
            }
            // What lies beside a running call is read from its ADMIT again.
            state = read;
            for (seq, admit) in naive.open_admits() {
                state.remind(seq, admit);
            }
        }
    }
    naive.quiet(&mut state, decide).map_err(|what| Broken { seed, step: steps, what })?;
    Ok(tally)
}

/// What happened on the way.
#[derive(Default, Debug)]
struct Tally {
    entries: u64,
    admitted: u64,
    refused: u64,
    extended: u64,
    settled: u64,
}

impl Tally {
    fn of(&mut self, reply: &Reply) {
        match reply {
            Reply::Admitted(_) => self.admitted += 1,
            Reply::Extended { .. } => self.extended += 1,
            Reply::Settled { changed: true, .. } => self.settled += 1,
            _ => {}
        }
    }
}

#[test]
fn no_sequence_of_requests_breaks_a_budget() {
    let seeds = match std::env::var("WEIGHBRIDGE_SEEDS") {
        Ok(seeds) => seeds.parse().expect("WEIGHBRIDGE_SEEDS is a number"),
        Err(_) if std::env::var_os("WEIGHBRIDGE_LONG").is_some() => 10,
        Err(_) => 1,
    };
    for seed in 0..seeds {
        let tally = run(seed, STEPS, decide).unwrap_or_else(|broken| panic!("{broken}"));
        println!("seed {seed}: {STEPS} steps, {tally:?}");
        let each = [tally.admitted, tally.refused, tally.extended, tally.settled];
        assert!(each.iter().all(|n| *n > STEPS / 200), "too little happened: {tally:?}");
    }
}

/// Each mutant is noticed, by an invariant that is meant to.
#[test]
fn a_ledger_that_decides_wrongly_is_noticed() {
    for mutants::Mutant { name, decide, noticed_by } in mutants::ALL {
        let caught = (0..4).find_map(|seed| run(seed, 20_000, *decide).err());
        let Some(broken) = caught else { panic!("nobody noticed a ledger that {name}") };
        assert!(noticed_by.iter().any(|by| broken.what.starts_with(by)), "a ledger that {name}: {broken}");
    }
}
