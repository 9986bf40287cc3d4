//! Seeds of the simulator: some in every run of the tests, a thousand in the long tier.

use super::mutants::assert_caught;
use super::{Rules, run};

/// Steps of one seed.
const STEPS: u64 = 1_000;

/// The seeds of one test: a few of its own, many in the long tier, or the one that is asked for.
fn seeds(part: u64) -> Vec<u64> {
    if let Some(seed) = std::env::var("WEIGHBRIDGE_SEED").ok().and_then(|text| text.parse().ok()) {
        return if part == 0 { vec![seed] } else { Vec::new() };
    }
    let many = if std::env::var_os("WEIGHBRIDGE_LONG").is_some() { 128 } else { 3 };
    (0..many).map(|n| part * 1_000 + n).collect()
}

/// Runs every seed of a part, and says at the end which of them failed: one that fails hides no other.
fn all_holds(part: u64) {
    let mut failed = Vec::new();
    for seed in seeds(part) {
        match std::panic::catch_unwind(|| run(seed, STEPS, Rules::default()).map(|_| ())) {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => eprintln!("{failure:?}"),
            Err(_) => eprintln!("seed {seed} panicked"),
        }
        failed.push(seed);
    }
    assert!(failed.is_empty(), "these seeds fail: {failed:?}; again with WEIGHBRIDGE_SEED={}", failed[0]);
}

// Eight tests and not one, so that they run side by side: 8 × 128 seeds × 1,000 steps are the million of the long tier.
macro_rules! parts {
    ($($name:ident = $part:literal;)*) => { $(#[test] fn $name() { all_holds($part) })* };
}

parts! {
    every_invariant_holds_after_every_step_of_the_first_seeds = 0;
    every_invariant_holds_after_every_step_of_the_second_seeds = 1;
    every_invariant_holds_after_every_step_of_the_third_seeds = 2;
    every_invariant_holds_after_every_step_of_the_fourth_seeds = 3;
    every_invariant_holds_after_every_step_of_the_fifth_seeds = 4;
    every_invariant_holds_after_every_step_of_the_sixth_seeds = 5;
    every_invariant_holds_after_every_step_of_the_seventh_seeds = 6;
    every_invariant_holds_after_every_step_of_the_eighth_seeds = 7;
}

#[test]
fn the_same_seed_is_the_same_run() {
    let diary = |seed| {
        let world = run(seed, 300, Rules::default()).unwrap_or_else(|failure| panic!("{failure:?}"));
        (world.diary, world.naive.cost(), world.promised.0)
    };
    assert_eq!(diary(4), diary(4));
    assert_ne!(diary(4).1, diary(5).1);
}

#[test]
fn every_mutant_is_caught() {
    assert_caught();
}
