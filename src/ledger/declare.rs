//! The decision on declared state: every change one entry, all or none, and nothing that points nowhere.
//!
//! Who declares has been told in friendlier words long before; this is the last line of defence.

use std::sync::Arc;

use super::codec::encode_body;
use super::decide::{Decision, because, entry};
use super::entry::{Apply, ApplyStep, Body, BudgetOpening, Erasable, MAX_ENTRY_BYTES, NewEntry, Opening};
use super::request::{Denied, Reply};
use super::staging::Staging;
use super::state::State;
use crate::budget::Calendar;
use crate::budget::period::zone;
use crate::domain::id::is_slug;
use crate::domain::trust::{Issuer, TrustRule, unsafe_rule};
use crate::domain::{Budget, Catalogue, Change, Code, Micros, Owner, Pause, PriceOverride};

/// Room an entry keeps for its leaf.
const LEAF_BYTES: usize = 512;

pub(super) fn declare(
    state: &State,
    at: Micros,
    actor: &str,
    changes: &[Change],
    openings: &[(String, Opening)],
    reason: Option<&str>,
) -> Decision {
    let mut after = Catalogue::clone(state.catalogue());
    let opening = |before: &Catalogue, change: &Change| opening(state, at, before, change, openings);
    let entries = entries(&mut after, changes, |before, change| {
        let opening = opening(before, change);
        new_entry(actor, change, opening, reason)
    });
    let beside = || match state.staging() {
        Some(staging) => beside(staging, changes),
        None => Ok(()),
    };
    match entries.and_then(|entries| whole(&after, changes).and_then(|()| beside()).map(|()| entries)) {
        Ok(entries) => Decision { entries, reply: Reply::Declared { revision: after.revision } },
        Err(message) => refuse(state, at, message),
    }
}

/// An entry for every change that is one, made so in `after` on the way.
fn entries(
    after: &mut Catalogue,
    changes: &[Change],
    mut new: impl FnMut(&Catalogue, &Change) -> NewEntry,
) -> Result<Vec<NewEntry>, String> {
    let mut entries = Vec::with_capacity(changes.len());
    for change in changes {
        if is_so(after, change) {
            continue;
        }
        sound(change)?;
        let new = new(after, change);
        if encode_body(&new.body).len() > MAX_ENTRY_BYTES - LEAF_BYTES {
            let (noun, id) = change.subject();
            return Err(format!("{noun} `{id}` is too large: an entry has at most {MAX_ENTRY_BYTES} bytes"));
        }
        entries.push(new);
        after.apply(change.clone());
    }
    Ok(entries)
}

/// Whether what is declared now goes together with what is staged.
fn beside(staging: &Staging, changes: &[Change]) -> Result<(), String> {
    if let Some((noun, id)) = changes.iter().find(|change| staging.has(change)).map(Change::subject) {
        return Err(format!("{noun} `{id}` is part of an apply that is under way: try again when it has ended"));
    }
    let mut then = Catalogue::clone(staging.catalogue());
    changes.iter().for_each(|change| then.apply(change.clone()));
    whole(&then, changes)
}

/// A part of an `apply` that takes effect later. All of the part, or nothing.
pub(super) fn stage(
    state: &State,
    at: Micros,
    actor: &str,
    begin: bool,
    changes: &[Change],
    reason: Option<&str>,
) -> Decision {
    let mut all = Vec::new();
    if begin {
        all.extend(dropped(state, actor));
    }
    let before = state.staging().filter(|_| !begin).map_or(state.catalogue(), Staging::catalogue);
    let mut after = Catalogue::clone(before);
    let staged = entries(&mut after, changes, |_, change| {
        let new = new_entry(actor, change, Vec::new(), reason);
        NewEntry { body: Body::Staged(Box::new(new.body)), ..new }
    });
    match staged.and_then(|staged| whole(&after, changes).map(|()| staged)) {
        Ok(staged) => {
            all.extend(staged);
            Decision { entries: all, reply: Reply::Recorded { seq: state.next_seq() } }
        }
        Err(message) => refuse(state, at, message),
    }
}

/// Most openings one entry has room for.
const MOST_OPENINGS: usize = 300;

/// What staged budgets have posted; they count from then on.
pub(super) fn open(state: &State, actor: &str, openings: &[(String, Opening)]) -> Decision {
    let Some(staging) = state.staging() else { return nothing_staged(state) };
    let staged = |(id, _): &&(String, Opening)| staging.catalogue().budgets.contains_key(id) && !staging.counts(id);
    let openings = openings.iter().filter(staged).map(|(budget, opening)| BudgetOpening {
        budget: budget.clone(),
        period: opening.period.clone(),
        posted: opening.posted,
    });
    let openings: Vec<BudgetOpening> = openings.collect();
    let of =
        |part: &[BudgetOpening]| entry(step(staging, actor, ApplyStep::Openings, part.to_vec()), Some(staging.first));
    let entries = openings.chunks(MOST_OPENINGS).map(of).collect();
    Decision { entries, reply: Reply::Recorded { seq: state.next_seq() } }
}

/// What is staged takes effect.
pub(super) fn effect(state: &State, actor: &str) -> Decision {
    let Some(staging) = state.staging() else { return nothing_staged(state) };
    let revision = state.catalogue().revision + staging.len() as u64;
    let body = step(staging, actor, ApplyStep::Effect, Vec::new());
    Decision { entries: vec![entry(body, Some(staging.first))], reply: Reply::Declared { revision } }
}

/// What is staged never takes effect.
pub(super) fn unstage(state: &State, actor: &str) -> Decision {
    Decision { entries: Vec::from_iter(dropped(state, actor)), ..nothing_staged(state) }
}

/// The entry that drops what is staged, if anything is.
pub(super) fn dropped(state: &State, actor: &str) -> Option<NewEntry> {
    let staging = state.staging()?;
    Some(entry(step(staging, actor, ApplyStep::Dropped, Vec::new()), Some(staging.first)))
}

fn step(staging: &Staging, actor: &str, step: ApplyStep, openings: Vec<BudgetOpening>) -> Body {
    let Staging { first, count, sha256, .. } = staging;
    let (first, count, sha256) = (*first, *count, *sha256);
    Body::Apply(Box::new(Apply { actor: actor.to_owned(), step, first, count, sha256, openings }))
}

fn nothing_staged(state: &State) -> Decision {
    Decision { entries: Vec::new(), reply: Reply::Declared { revision: state.catalogue().revision } }
}

fn refuse(state: &State, at: Micros, message: String) -> Decision {
    let reply = Reply::Denied(Denied {
        seq: state.next_seq(),
        at,
        code: Code::Malformed,
        by: None,
        message,
        resets_at: None,
        remaining: None,
    });
    Decision { entries: Vec::new(), reply }
}

/// Whether the catalogue says so already: declaring it again is no change and no entry.
fn is_so(catalogue: &Catalogue, change: &Change) -> bool {
    let c = catalogue;
    match change {
        Change::Organisation(v) => *c.organisation == *v,
        Change::Owner(id, v) => c.owners.get(id).map(|x| &**x) == v.as_ref(),
        Change::Service(id, v) => c.services.get(id).map(|x| &**x) == v.as_ref(),
        Change::Key(id, v) => c.keys.get(id).map(|x| &**x) == v.as_ref(),
        Change::Provider(id, v) => c.providers.get(id).map(|x| &**x) == v.as_ref(),
        Change::Policy(id, v) => c.policies.get(id).map(|x| &**x) == v.as_ref(),
        Change::Notify(id, v) => c.notify.get(id).map(|x| &**x) == v.as_ref(),
        Change::Budget(id, v) => c.budgets.get(id).map(|x| &**x) == v.as_ref(),
        Change::Issuer(id, v) => c.issuers.get(id).map(|x| &**x) == v.as_ref(),
        Change::Pause(id, v) => c.pauses.get(id).map(|x| Pause { seq: None, ..Pause::clone(x) }).as_ref() == v.as_ref(),
        Change::Price { provider, model, prices } => {
            c.prices.get(&(provider.clone(), model.clone())).map_or(prices.is_empty(), |p| **p == *prices)
        }
    }
}

/// What a budget begins with, if what it had posted says nothing about what it counts now. Where nothing is handed in
/// for a period that has a balance, it begins at zero: what is handed in is complete.
fn opening(
    state: &State,
    at: Micros,
    before: &Catalogue,
    change: &Change,
    openings: &[(String, Opening)],
) -> Vec<Opening> {
    let Change::Budget(id, Some(budget)) = change else { return Vec::new() };
    if !counts_anew(before.budgets.get(id).map(|x| &**x), budget) {
        return Vec::new();
    }
    let mut own: Vec<Opening> = openings.iter().filter(|(of, _)| of == id).map(|(_, o)| o.clone()).collect();
    if let Ok(calendar) = Calendar::of(budget) {
        let period = calendar.window(at).id;
        if own.iter().all(|o| o.period != period) && state.balance(id, &period).is_some() {
            own.push(Opening { period, posted: 0 });
        }
    }
    own
}

fn new_entry(actor: &str, change: &Change, opening: Vec<Opening>, reason: Option<&str>) -> NewEntry {
    let mut erasable = because(reason);
    let actor = actor.to_owned();
    let body = match change {
        Change::Budget(id, budget) => {
            Body::Budget { actor, id: id.clone(), budget: budget.clone().map(Box::new), opening }
        }
        Change::Price { .. } => Body::Price { actor, change: Box::new(change.clone()) },
        // What names a person goes where it can be erased.
        Change::Owner(id, Some(owner)) => {
            name_apart(owner, &mut erasable);
            let plain = Owner { name: None, email: None, ..owner.clone() };
            Body::Catalogue { actor, change: Box::new(Change::Owner(id.clone(), Some(plain))) }
        }
        _ => Body::Catalogue { actor, change: Box::new(change.clone()) },
    };
    NewEntry { body, reference: None, erasable }
}

fn name_apart(owner: &Owner, erasable: &mut Erasable) {
    let named = [("name", &owner.name), ("email", &owner.email)];
    let claimed: Vec<_> = named.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?))).collect();
    if !claimed.is_empty() {
        erasable.person.get_or_insert_default().claimed.extend(claimed);
    }
}

/// Whether what a budget had posted says nothing about what it counts now.
pub fn counts_anew(before: Option<&Budget>, after: &Budget) -> bool {
    let Some(before) = before else { return true };
    let cut = |b: &Budget| (b.period, b.anchor.clone(), b.time_zone.clone(), b.fiscal_year_start_month);
    before.matches != after.matches || before.limit.metric != after.limit.metric || cut(before) != cut(after)
}

/// Whether a change makes sense by itself.
fn sound(change: &Change) -> Result<(), String> {
    let (noun, id) = change.subject();
    let named = |inner: &str| {
        if inner == id { Ok(()) } else { Err(format!("{noun} `{id}` is declared with the id `{inner}` inside")) }
    };
    let slug = |id: &str| {
        if is_slug(id) { Ok(()) } else { Err(format!("`{id}` is not an id: use a-z, 0-9, `.`, `_`, `-`, at most 64")) }
    };
    match change {
        Change::Organisation(o) => {
            zone(&o.time_zone).map_err(|e| e.to_string())?;
            match o.fiscal_year_start_month {
                1..=12 => Ok(()),
                month => Err(format!("a fiscal year starts in month 1 to 12, not {month}")),
            }
        }
        Change::Owner(id, Some(v)) => slug(id).and(named(&v.id)),
        Change::Service(id, Some(v)) => slug(id).and(named(&v.id)),
        Change::Key(_, Some(v)) => named(&v.id),
        Change::Provider(id, Some(v)) => slug(id).and(named(&v.id)),
        Change::Policy(id, Some(v)) => slug(id).and(named(&v.id)),
        Change::Notify(id, Some(v)) => slug(id).and(named(&v.id)),
        Change::Issuer(id, Some(v)) => {
            slug(id).and(named(&v.id))?;
            let unsafe_one = |rule: &Arc<TrustRule>| Some((rule.id.clone(), unsafe_rule(v, rule)?));
            match v.rules.iter().find_map(unsafe_one) {
                Some((rule, why)) => Err(format!("rule `{rule}` of issuer `{id}` cannot be saved: {why}")),
                None => Ok(()),
            }
        }
        Change::Budget(id, Some(v)) => {
            slug(id).and(named(&v.id))?;
            if v.limit.amount < 0 {
                return Err(format!("budget `{id}` has a limit below zero"));
            }
            Calendar::of(v).map(drop).map_err(|e| format!("budget `{id}`: {e}"))
        }
        Change::Price { provider, model, prices } => prices.iter().try_for_each(|p| price(p, provider, model)),
        Change::Pause(id, Some(v)) => {
            named(&v.id())?;
            if v.seq.is_some() { Err(format!("pause `{id}` names its own entry")) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

fn price(p: &PriceOverride, provider: &str, model: &str) -> Result<(), String> {
    if p.provider != provider || p.model != model {
        return Err(format!("a price of `{}/{}` stands among those of `{provider}/{model}`", p.provider, p.model));
    }
    if p.per == 0 {
        return Err(format!("a price of `{provider}/{model}` is for 0 units"));
    }
    let usd: crate::domain::Money = p.usd.parse().map_err(|e| format!("a price of `{provider}/{model}`: {e}"))?;
    if usd.is_negative() { Err(format!("a price of `{provider}/{model}` is below zero")) } else { Ok(()) }
}

/// Whether what was declared points at things that are there, once all of it is.
fn whole(after: &Catalogue, changes: &[Change]) -> Result<(), String> {
    for change in changes {
        match change {
            Change::Key(id, Some(key)) if !after.services.contains_key(&key.service) => {
                return Err(format!("key `{id}` is of service `{}`, which is not declared", key.service));
            }
            Change::Issuer(id, Some(issuer)) => {
                if let Some(rule) = issuer.rules.iter().find(|r| !after.services.contains_key(&r.service)) {
                    let service = &rule.service;
                    return Err(format!(
                        "rule `{}` of issuer `{id}` is of service `{service}`, which is not declared",
                        rule.id
                    ));
                }
            }
            // Looked for only to be named: counting them costs nothing.
            Change::Service(id, None) => {
                if after.keys_of(id) > 0 {
                    let key = after.keys.values().find(|k| k.service == *id).map_or("", |k| &k.id);
                    return Err(format!("service `{id}` has the key `{key}`: remove the key first"));
                }
                let of = |i: &&Arc<Issuer>| i.rules.iter().any(|rule| rule.service == *id);
                if let Some(issuer) = after.issuers.values().find(of) {
                    return Err(format!(
                        "service `{id}` is what a rule of issuer `{}` stands for: change the rule first",
                        issuer.id
                    ));
                }
            }
            Change::Budget(id, Some(budget)) => {
                if let Some(to) = budget.notify.iter().find(|to| !after.notify.contains_key(*to)) {
                    return Err(format!("budget `{id}` notifies `{to}`, which is not declared"));
                }
                let (mut above, mut levels) = (budget.parent.as_ref(), 0);
                while let Some(parent) = above {
                    levels += 1;
                    let Some(next) = after.budgets.get(parent).filter(|_| parent != id && levels <= 64) else {
                        return Err(format!("budget `{id}` stands under `{parent}`, which is not there or under it"));
                    };
                    above = next.parent.as_ref();
                }
            }
            _ => {}
        }
    }
    Ok(())
}
