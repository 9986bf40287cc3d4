//! Broken builds: for each invariant at least one, which the simulator must notice. They live here and nowhere else.

use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};

use crate::domain::{Budget, Enforcement, Money};
use crate::ledger::codec;
use crate::ledger::decide::{Decision, decide};
use crate::ledger::entry::{Body, Entry, Erasable, NewEntry};
use crate::ledger::leaf;
use crate::ledger::request::{Reply, Request};
use crate::ledger::state::State;
use crate::ledger::testing;
use crate::store::Ledger;
use crate::store::block::Builder;
use crate::store::journal::writing;
use crate::store::media::{COLD_CACHE, Media, Memory};

use super::callers::PERSON;
use super::{Rules, run};
use crate::domain::Micros;

/// A mutant by name, and the invariants one of which must notice it.
struct Mutant {
    name: &'static str,
    rules: Rules,
    noticed_by: &'static [&'static str],
}

fn with(decide: crate::store::Decide) -> Rules {
    Rules { decide, ..Rules::default() }
}

fn mutants() -> Vec<Mutant> {
    let mutant = |name, rules, noticed_by| Mutant { name, rules, noticed_by };
    vec![
        mutant("holds nothing", with(holds_nothing), &["nothing_overspent"]),
        mutant("holds half", with(holds_half), &["nothing_overspent"]),
        mutant("admits over the limit", with(admits_over_the_limit), &["nothing_overspent"]),
        mutant("does not say what was overrun", with(keeps_overruns_quiet), &["nothing_overspent"]),
        mutant("settles a call again", with(settles_again), &["nothing_counted_twice"]),
        mutant("charges more than was billed", with(charges_more), &["nothing_unseen", "nothing_overspent"]),
        mutant("answers and writes nothing", with(writes_nothing), &["nothing_unseen"]),
        mutant("forgets who was interrupted", with(forgets_the_interrupted), &["nothing_unseen"]),
        mutant("acknowledges before the sync", Rules { syncs_lie: true, ..Rules::default() }, &["nothing_unseen"]),
        mutant("warns of nothing", with(warns_of_nothing), &["alerts_come_first"]),
        mutant("warns too late", with(warns_too_late), &["alerts_come_first"]),
        mutant("names a person in the clear", with(names_a_person), &["nothing_leaked"]),
        mutant(
            "leaves a secret in a side file",
            Rules { tamper: Some(leave_a_secret), ..Rules::default() },
            &["nothing_leaked"],
        ),
        mutant(
            "rewrites an entry",
            Rules { tamper: Some(rewrite), ..Rules::default() },
            &["nothing_rewritten", "nothing_unseen"],
        ),
        mutant("tells the views a tale", Rules { meddle: Some(tell_a_tale), ..Rules::default() }, &["sums_agree"]),
    ]
}

/// Each mutant is noticed within the steps of a few seeds, by an invariant that is meant to.
pub fn assert_caught() {
    for Mutant { name, rules, noticed_by } in mutants() {
        let caught = (0..6).find_map(|seed| run(seed, 600, rules).err());
        let Some(failure) = caught else { panic!("nobody noticed a ledger that {name}") };
        let by = failure.broken.invariant;
        assert!(noticed_by.contains(&by), "a ledger that {name} was noticed by {by}: {failure:?}");
    }
}

fn holds_nothing(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Admit(admit) = &mut new.body {
            admit.holds.clear();
        }
    }
    decision
}

fn holds_half(state: &State, at: Micros, request: &Request) -> Decision {
    let mut request = request.clone();
    if let Request::Admit(admit) = &mut request {
        admit.fixed = Money(admit.fixed.0 / 2);
    }
    decide(state, at, &request)
}

/// Where a hard budget refuses, decides as if it only watched.
fn admits_over_the_limit(state: &State, at: Micros, request: &Request) -> Decision {
    let decision = decide(state, at, request);
    let Reply::Denied(denied) = &decision.reply else { return decision };
    let budget = denied.by.as_deref().and_then(|by| by.strip_prefix("budget:"));
    let Some(budget) = budget.and_then(|id| state.catalogue().budgets.get(id)) else { return decision };
    let lenient = Budget { enforcement: Enforcement::Alert, ..Budget::clone(budget) };
    let mut other = state.clone();
    let body = Body::Budget {
        actor: "file".into(),
        id: lenient.id.clone(),
        budget: Some(Box::new(lenient)),
        opening: Vec::new(),
    };
    let (seq, ts) = (state.next_seq(), state.last_ts());
    if other.apply(&Entry { seq, ts, reference: None, body }).is_err() {
        return decision;
    }
    // The other state is an entry ahead.
    let Decision { mut entries, mut reply } = decide(&other, at, request);
    entries.iter_mut().for_each(|new| new.reference = new.reference.map(|seq| seq - 1));
    match &mut reply {
        Reply::Admitted(admitted) => admitted.seq -= 1,
        Reply::Denied(denied) => denied.seq -= 1,
        _ => {}
    }
    Decision { entries, reply }
}

fn keeps_overruns_quiet(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    decision.entries.retain(|new| !matches!(new.body, Body::Overrun { .. }));
    decision
}

/// What has ended is admitted and settled once more when it is asked for again.
fn settles_again(state: &State, at: Micros, request: &Request) -> Decision {
    let decision = decide(state, at, request);
    let Request::Settle { call, attempt, settle, .. } = request else { return decision };
    if !decision.entries.is_empty() {
        return decision;
    }
    let mut again = testing::admit(call.0, Money(7)).admit;
    again.attempt = *attempt;
    let seq = state.next_seq();
    let admit = NewEntry { body: Body::Admit(Box::new(again)), reference: None, erasable: Erasable::default() };
    let settle = NewEntry { body: Body::Settle(settle.clone()), reference: Some(seq), erasable: Erasable::default() };
    let reply = Reply::Settled { seq: Some(seq + 1), changed: true };
    Decision { entries: vec![admit, settle], reply }
}

fn charges_more(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        if let Body::Settle(settle) = &mut new.body {
            settle.cost = settle.cost.map(|cost| Money(cost.0 + 1));
        }
    }
    decision
}

/// Some settlements are acknowledged and never written.
fn writes_nothing(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    if matches!(request, Request::Settle { call, .. } if call.0.is_multiple_of(9)) {
        decision.entries.clear();
    }
    decision
}

fn forgets_the_interrupted(state: &State, at: Micros, request: &Request) -> Decision {
    match request {
        Request::InterruptAll => Decision { entries: Vec::new(), reply: Reply::Settled { seq: None, changed: false } },
        request => decide(state, at, request),
    }
}

fn warns_of_nothing(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    let before = decision.entries.len();
    decision.entries.retain(|new| !matches!(new.body, Body::Alert(_)));
    // What comes after has moved up.
    let gone = (before - decision.entries.len()) as u64;
    if let Reply::Denied(denied) = &mut decision.reply {
        denied.seq -= gone;
    }
    decision
}

/// The refusal first, its warnings behind it.
fn warns_too_late(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    if matches!(decision.reply, Reply::Denied(_)) {
        decision.entries.reverse();
    }
    decision
}

fn names_a_person(state: &State, at: Micros, request: &Request) -> Decision {
    let mut decision = decide(state, at, request);
    for new in &mut decision.entries {
        let reason = new.erasable.person.as_ref().and_then(|person| person.reason.clone());
        if let (Body::Admin { action, .. }, Some(reason)) = (&mut new.body, reason) {
            *action = format!("signed in because {reason}");
        }
    }
    decision
}

fn leave_a_secret(memory: &Memory) {
    // A side file that cannot be written leaks nothing.
    let _ = Media::Memory(memory.clone()).replace_side("trace.log", format!("asked by {PERSON}").as_bytes());
}

/// Changes what the second entry of the journal says, with its commitment and its leaf, so that the entry is sound in
/// itself.
fn rewrite(memory: &Memory) {
    const BLOCKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("block.v1");
    memory.power_on();
    let mut names: Vec<String> = memory.names();
    names.retain(|name| name.starts_with("journal-"));
    names.sort();
    let Some(name) = names.first() else { return };
    let Ok(file) = Media::Memory(memory.clone()).open(name, COLD_CACHE) else { return };
    let changed = writing(name, &file, |txn| {
        let mut blocks = txn.open_table(BLOCKS)?;
        let first = blocks.get((0, 0))?.map(|value| value.value().to_vec());
        if let Some(changed) = first.and_then(|value| with_another_actor(&value)) {
            blocks.insert((0, 0), changed.as_slice())?;
        }
        Ok(())
    });
    // A month that was never begun has nothing to rewrite.
    drop((changed, file.close()));
}

fn with_another_actor(block: &[u8]) -> Option<Vec<u8>> {
    let stored = crate::store::block::read_block(block).ok()?;
    let mut again = Builder::new(0);
    for (seq, mut raw) in (0..).zip(stored) {
        let (mut leaf, entry) = raw.open(seq).ok()?;
        if let Body::Catalogue { change, .. } = entry.body {
            raw.body = codec::encode_body(&Body::Catalogue { actor: "operator:eve".into(), change });
            leaf.commitments.insert(0, leaf::commitment(0, &raw.salt, &raw.body));
            raw.leaf = leaf.encode();
        }
        again.push(entry.ts, &raw, &[]);
    }
    Some(again.block)
}

/// Two entries reach the views that never reached the journal.
fn tell_a_tale(ledger: &Ledger) {
    let (seq, ts) = (ledger.head().size, ledger.head().at);
    let admit = testing::admit(u128::from(seq) << 64, Money(5)).admit;
    let settle = testing::settle(Some(Money(5)), 5);
    let entry = |seq, reference, body| (Entry { seq, ts, reference, body }, Erasable::default());
    let tale =
        vec![entry(seq, None, Body::Admit(Box::new(admit))), entry(seq + 1, Some(seq), Body::Settle(Box::new(settle)))];
    ledger.views().committed(Arc::new(tale));
}
