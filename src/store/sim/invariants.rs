//! The invariants of the design, one function each, and those of the budgets.
//!
//! The light ones look at what a step has changed and run after every step; the thorough ones read everything again, and
//! run after a start and at the end.

use std::collections::BTreeMap;

use memchr::memmem::Finder;

use crate::domain::{CallId, Dimension, Filter, Money};
use crate::store::media::Media;
use crate::store::verify::{Verdict, verify_media};

use super::callers::{PERSON, SECRET};
use super::{Broken, World};

/// Whether it holds.
pub type Kept = Result<(), Broken>;
/// An invariant by its name in the design.
pub type Invariant = (&'static str, fn(&World) -> Result<(), String>);

/// After every step.
pub const ALWAYS: [Invariant; 6] = [
    ("nothing_unseen", nothing_unseen),
    ("nothing_overspent", nothing_overspent),
    ("nothing_counted_twice", nothing_counted_twice),
    ("nothing_rewritten", nothing_rewritten),
    ("nothing_leaked", nothing_leaked),
    ("balances_add_up", balances_add_up),
];

/// After every start.
pub const AFTER_START: [Invariant; 4] = [
    ("nothing_unseen", everything_is_where_it_was_told),
    ("nothing_unseen", nobody_is_left_open),
    ("nothing_rewritten", every_promise_is_kept),
    ("nothing_leaked", no_file_has_a_secret),
];

/// With the process running, now and then and at the end.
pub const THOROUGHLY: [Invariant; 3] = [
    ("nothing_rewritten", every_entry_is_as_it_was),
    ("sums_agree", sums_agree),
    ("nothing_unseen", everything_is_where_it_was_told),
];

/// What the callers learned in this step is in the journal.
fn nothing_unseen(world: &World) -> Result<(), String> {
    world.news.iter().try_for_each(|attempt| told(world, *attempt))
}

fn everything_is_where_it_was_told(world: &World) -> Result<(), String> {
    world.callers.calls.keys().try_for_each(|attempt| told(world, *attempt))
}

fn told(world: &World, attempt: (CallId, u8)) -> Result<(), String> {
    let Some(known) = world.callers.calls.get(&attempt) else { return Ok(()) };
    let admit = world.naive.admits.get(&attempt);
    if admit != Some(&known.admit) {
        return Err(format!("{attempt:?} was forwarded by entry {}; the journal has {admit:?}", known.admit));
    }
    let Some(seen) = known.seen else { return Ok(()) };
    match world.naive.ended.get(&known.admit) {
        Some(end) if end.seq == seen && end.settled && end.cost == known.cost => Ok(()),
        end => Err(format!("{attempt:?}: its caller read the end at {:?} by entry {seen}, not {end:?}", known.cost)),
    }
}

/// A restart has settled every call whose connection died with the process.
fn nobody_is_left_open(world: &World) -> Result<(), String> {
    match world.naive.open.iter().find(|(seq, held)| !held.job && **seq < world.started_at) {
        Some((seq, held)) => Err(format!("entry {seq} is still open after a restart: {held:?}")),
        None => Ok(()),
    }
}

fn nothing_overspent(world: &World) -> Result<(), String> {
    world.with_state(|state| world.naive.within_limits(state).map_err(|broken| broken.what)).unwrap_or(Ok(()))
}

/// No attempt is open that has ended, and none has more than one ADMIT (seen as the entries are read).
fn nothing_counted_twice(world: &World) -> Result<(), String> {
    let both = world.naive.open.keys().find(|seq| world.naive.ended.contains_key(seq));
    let attempts = world.naive.open.len() + world.naive.ended.len();
    match both {
        Some(seq) => Err(format!("entry {seq} is open and has ended")),
        None if attempts != world.naive.admits.len() => {
            Err(format!("{attempts} attempts of {} admitted", world.naive.admits.len()))
        }
        None => Ok(()),
    }
}

/// What is promised only grows, and every entry read so far is in it.
fn nothing_rewritten(world: &World) -> Result<(), String> {
    let Some(head) = world.head() else { return Ok(()) };
    if head.size < world.promised.0 || (head.size == world.promised.0 && head.root != world.promised.1) {
        return Err(format!("{} entries were promised, {} are there", world.promised.0, head.size));
    }
    if world.naive.next() != head.size {
        return Err(format!("{} entries can be read of {}", world.naive.next(), head.size));
    }
    Ok(())
}

fn every_promise_is_kept(world: &World) -> Result<(), String> {
    let Some(ledger) = world.ledger() else { return Ok(()) };
    for (size, root) in &world.roots {
        let now = ledger.root(*size).map_err(|e| format!("the root of {size} entries: {e}"))?;
        if now != *root {
            return Err(format!("the first {size} entries have another root than was promised"));
        }
    }
    Ok(())
}

fn every_entry_is_as_it_was(world: &World) -> Result<(), String> {
    let Some(ledger) = world.ledger() else { return Ok(()) };
    let mut next = 0;
    while next < world.naive.next() {
        let entries = ledger.entries(next, 1_000).map_err(|e| format!("reading from {next}: {e}"))?;
        if entries.is_empty() {
            return Err(format!("entry {next} is gone"));
        }
        for (entry, _) in &entries {
            if world.naive.entries.get(entry.seq as usize).is_some_and(|before| before != entry) {
                return Err(format!("entry {} is not what it was: {entry:?}", entry.seq));
            }
            next = entry.seq + 1;
        }
    }
    every_promise_is_kept(world)
}

/// What this step wrote in the clear has nobody's name in it.
fn nothing_leaked(world: &World) -> Result<(), String> {
    for (body, network, usage) in &world.clear {
        if [body, network, usage].iter().any(|text| text.contains(PERSON) || text.contains(SECRET)) {
            return Err(format!("unsealed in the journal: {body} {network} {usage}"));
        }
    }
    Ok(())
}

/// No file has a name or a secret in its bytes.
fn no_file_has_a_secret(world: &World) -> Result<(), String> {
    let finders = [Finder::new(PERSON), Finder::new(SECRET)];
    let mut found = None;
    world.memory.for_each_file(|name, bytes| {
        if finders.iter().any(|finder| finder.find(bytes).is_some()) {
            found = Some(format!("`{name}` has a name or a secret in the clear"));
        }
    });
    found.map_or(Ok(()), Err)
}

fn balances_add_up(world: &World) -> Result<(), String> {
    world.with_state(|state| world.naive.same_balances(state).map_err(|broken| broken.what)).unwrap_or(Ok(()))
}

/// Ledger total = Σ calls = Σ rollups, in all and by service; and what callers were charged is what providers billed.
fn sums_agree(world: &World) -> Result<(), String> {
    let Some(ledger) = world.ledger() else { return Ok(()) };
    let views = ledger.views();
    let ours = world.naive.cost();
    let mut calls = BTreeMap::<String, Money>::new();
    let mut rows = Vec::new();
    let visit = views.visit(&Filter::default(), None, &mut |call| {
        rows.push((call.id, call.cost.unwrap_or_default()));
        let service = call.who.as_ref().map(|who| who.service.clone());
        *calls.entry(service.unwrap_or_default()).or_default() += call.cost.unwrap_or_default();
        true
    });
    let mut rollups = BTreeMap::<String, Money>::new();
    let sum = views.rollups(0, u32::MAX, &mut |_, dims, measures| {
        let service = dims.get(Dimension::Service).unwrap_or_default().to_owned();
        *rollups.entry(service).or_default() += measures.cost;
    });
    visit.and(sum).map_err(|e| e.to_string())?;
    calls.retain(|_, cost| !cost.is_zero());
    rollups.retain(|_, cost| !cost.is_zero());
    if calls != ours || rollups != ours {
        return Err(format!(
            "by the entries {ours:?}, by the calls {calls:?}, by the rollups {rollups:?}: {:?}",
            odd(world, &rows)
        ));
    }
    let mut counted = BTreeMap::<String, Money>::new();
    let by_call = views.counted(&Filter::default(), &mut |call| {
        let service = call.who.as_ref().map(|who| who.service.clone());
        *counted.entry(service.unwrap_or_default()).or_default() += call.cost.unwrap_or_default();
    });
    by_call.map_err(|e| e.to_string())?;
    counted.retain(|_, cost| !cost.is_zero());
    if counted != ours {
        return Err(format!("by the entries {ours:?}, by the calls that count {counted:?}"));
    }
    let seen = world.callers.calls.values().filter(|known| known.seen.is_some());
    let billed = seen.clone().fold(Money::ZERO, |sum, known| sum + known.cost.unwrap_or_default());
    let charged = seen.fold(Money::ZERO, |sum, known| {
        sum + world.naive.ended.get(&known.admit).and_then(|end| end.cost).unwrap_or_default()
    });
    if billed == charged { Ok(()) } else { Err(format!("providers billed {billed}, the ledger charged {charged}")) }
}

/// The calls whose rows do not have what their entries say: a call, by its rows, by its entries.
fn odd(world: &World, rows: &[(CallId, Money)]) -> Vec<(u128, Money, Money)> {
    let mut both = BTreeMap::<u128, (Money, Money)>::new();
    for (call, cost) in rows {
        both.entry(call.0).or_default().0 += *cost;
    }
    for end in world.naive.ended.values() {
        both.entry(end.call.0).or_default().1 += end.cost.unwrap_or_default();
    }
    both.into_iter().filter(|(_, (rows, ends))| rows != ends).map(|(call, (rows, ends))| (call, rows, ends)).collect()
}

/// The files as they lie there are verified from the first entry, and give what the entries gave.
pub fn verified(world: &World) -> Kept {
    let found = verify_media(&Media::Memory(world.memory.clone()), true, None);
    let open = world.naive.open.len() as u64;
    let fits = found.size == world.naive.next() && found.open_calls == open;
    if found.verdict != Verdict::Verified || !fits {
        let what = format!("{} entries, {open} open; verify says {found:?}", world.naive.next());
        return Err(Broken { invariant: "nothing_rewritten", what });
    }
    Ok(())
}
