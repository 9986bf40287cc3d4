//! Makes rows of entries: the one function by which calls, their indexes and the sums of spend come to be.
//!
//! The follower folds a batch and writes the result; a reader folds the entries that are not yet written and lays the
//! result over the tables. Both do the same thing to the same entries, so no answer depends on which of them was first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::domain::call::CostBasis;
use crate::domain::{Call, CallId, Micros, Money, Outcome, Usage, UsageBasis};
use crate::ledger::entry::{Admit, Body, Deny, Entry, Erasable, Settle};
use crate::rollup::{Bucket, Measures, quarter_of};
use crate::store::{StoreError, give_way};

use super::tables::set_key;
use super::told;

/// What the rows so far are read from.
pub trait Base {
    fn call(&self, seq: u64) -> Result<Option<Call>, StoreError>;
    fn seq_of(&self, id: CallId) -> Result<Option<u64>, StoreError>;
    /// The call that a later attempt's ADMIT belongs to.
    fn call_of_attempt(&self, admit: u64) -> Result<Option<u64>, StoreError>;
    fn bucket(&self, quarter: u32, set: u32) -> Result<Option<Bucket>, StoreError>;
    /// The number of a combination, by its key.
    fn set_id(&self, key: &[u8]) -> Result<Option<u32>, StoreError>;
    /// The number the next new combination gets.
    fn next_set(&self) -> Result<u32, StoreError>;
}

/// Nothing so far.
pub struct Nothing;

impl Base for Nothing {
    fn call(&self, _: u64) -> Result<Option<Call>, StoreError> {
        Ok(None)
    }
    fn seq_of(&self, _: CallId) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn call_of_attempt(&self, _: u64) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn bucket(&self, _: u32, _: u32) -> Result<Option<Bucket>, StoreError> {
        Ok(None)
    }
    fn set_id(&self, _: &[u8]) -> Result<Option<u32>, StoreError> {
        Ok(None)
    }
    fn next_set(&self) -> Result<u32, StoreError> {
        Ok(0)
    }
}

/// Rows that a run of entries made or changed, whole: what is here stands in place of what the tables have.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pub calls: BTreeMap<u64, Call>,
    /// Calls that are new.
    pub ids: HashMap<CallId, u64>,
    /// (provider, the vendor's id of the answer) → call.
    pub responses: HashMap<(String, String), u64>,
    /// The same for answers of attempts that another attempt replaced: the row has them no more.
    pub replaced: BTreeMap<(String, String), u64>,
    pub attempts: BTreeMap<u64, u64>,
    /// ALERT and DELIVERY entries, as rows.
    pub told: BTreeMap<u64, Vec<u8>>,
    /// By quarter and number of the combination. An empty bucket is one to be removed.
    pub buckets: BTreeMap<(u32, u32), Bucket>,
    /// Keys of the combinations not in the tables, in the order in which entries first used them.
    pub new_sets: Vec<Arc<[u8]>>,
    /// Number of the first of those.
    pub first_new_set: u32,
    /// Calls that were part of the sums and changed after that, as they were.
    pub reopened: BTreeMap<u64, Call>,
    sets: HashMap<Arc<[u8]>, u32>,
    /// Room for the key of a combination.
    key: Vec<u8>,
    /// Sequence after the last entry folded, and that entry's time.
    pub end: Option<(u64, Micros)>,
}

impl Delta {
    /// Folds entries in, in the order of their sequence.
    pub fn fold<'a>(
        &mut self,
        base: &dyn Base,
        entries: impl IntoIterator<Item = &'a (Entry, Erasable)>,
    ) -> Result<(), StoreError> {
        for (entry, erasable) in entries {
            give_way(entry.seq);
            self.entry(base, entry, erasable)?;
            self.end = Some((entry.seq + 1, entry.ts));
        }
        Ok(())
    }

    /// The row of a call as it stands.
    pub fn call(&self, base: &dyn Base, seq: u64) -> Result<Option<Call>, StoreError> {
        self.calls.get(&seq).map_or_else(|| base.call(seq), |call| Ok(Some(call.clone())))
    }

    fn entry(&mut self, base: &dyn Base, entry: &Entry, erasable: &Erasable) -> Result<(), StoreError> {
        match &entry.body {
            Body::Admit(admit) if admit.attempt > 1 => self.again(base, entry, admit),
            Body::Admit(admit) => self.new_call(base, admitted(entry, admit, erasable)),
            Body::Deny(deny) => self.new_call(base, denied(entry, deny, erasable)),
            Body::Settle(settle) => self.change(base, entry.reference, |call| settled(call, entry, settle)),
            Body::Interrupted { cost } | Body::CutOff { cost, .. } => {
                self.change(base, entry.reference, |call| interrupted(call, entry, *cost))
            }
            Body::Batch { vendor_id, .. } => {
                self.change(base, entry.reference, |call| call.response_id = Some(vendor_id.clone()))
            }
            Body::Alert(_) | Body::Delivery(_) => {
                self.told.insert(entry.seq, told::row(entry)?);
                Ok(())
            }
            // Nothing else is about a call, or it adds nothing to one (OVERRUN).
            _ => Ok(()),
        }
    }

    fn new_call(&mut self, base: &dyn Base, call: Call) -> Result<(), StoreError> {
        self.ids.insert(call.id, call.seq);
        self.count(base, &call, Bucket::add)?;
        self.calls.insert(call.seq, call);
        Ok(())
    }

    /// A further attempt of a call that is known: it runs again, with what it has cost so far.
    fn again(&mut self, base: &dyn Base, entry: &Entry, admit: &Admit) -> Result<(), StoreError> {
        let seq = self.ids.get(&admit.call).copied().map_or_else(|| base.seq_of(admit.call), |seq| Ok(Some(seq)))?;
        let Some(seq) = seq else { return Ok(()) };
        self.attempts.insert(entry.seq, seq);
        if let Some(call) = self.call(base, seq)?
            && makes_answers(&call)
            && let (Some(provider), Some(response)) = (call.provider, call.response_id)
        {
            self.replaced.insert((provider, response), seq);
        }
        self.change(base, Some(seq), |call| {
            call.attempts = admit.attempt;
            call.outcome = Outcome::Running;
            (call.settled_seq, call.completed_at) = (None, None);
            (call.hold, call.holds) = (admit.hold, admit.holds.clone());
            (call.provider, call.dialect) = (Some(admit.provider.clone()), Some(admit.dialect.clone()));
            (call.model_served, call.response_id) = (None, None);
            call.output_limit = admit.output_limit;
        })
    }

    /// Changes the call that `reference` names by its ADMIT, and the sums it is in.
    fn change(
        &mut self,
        base: &dyn Base,
        reference: Option<u64>,
        change: impl FnOnce(&mut Call),
    ) -> Result<(), StoreError> {
        let Some(admit) = reference else { return Ok(()) };
        let Some(mut call) = self.take(base, admit)? else { return Ok(()) };
        if call.counts() {
            self.count(base, &call, Bucket::subtract)?;
            self.reopened.entry(call.seq).or_insert_with(|| call.clone());
        }
        change(&mut call);
        self.count(base, &call, Bucket::add)?;
        if let (Some(provider), Some(response)) = (&call.provider, &call.response_id)
            && makes_answers(&call)
        {
            self.responses.insert((provider.clone(), response.clone()), call.seq);
        }
        self.calls.insert(call.seq, call);
        Ok(())
    }

    /// Takes the row of the call that an ADMIT belongs to, to be put back.
    fn take(&mut self, base: &dyn Base, admit: u64) -> Result<Option<Call>, StoreError> {
        if let Some(call) = self.calls.remove(&admit) {
            return Ok(Some(call));
        }
        if let Some(call) = base.call(admit)? {
            return Ok(Some(call));
        }
        let first = self.attempts.get(&admit).copied();
        let first = first.map_or_else(|| base.call_of_attempt(admit), |seq| Ok(Some(seq)))?;
        let Some(seq) = first else { return Ok(None) };
        self.calls.remove(&seq).map_or_else(|| base.call(seq), |call| Ok(Some(call)))
    }

    fn count(&mut self, base: &dyn Base, call: &Call, how: fn(&mut Bucket, &Measures)) -> Result<(), StoreError> {
        let Some(measures) = Measures::of(call) else { return Ok(()) };
        let key = (quarter_of(call.started_at), self.intern(base, call)?);
        let bucket = match self.buckets.entry(key) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(base.bucket(key.0, key.1)?.unwrap_or_default())
            }
        };
        how(bucket, &measures);
        Ok(())
    }

    /// The number of the combination a call is counted under. Numbers follow the order of first use, so that they are the
    /// same however the entries were cut into batches.
    fn intern(&mut self, base: &dyn Base, call: &Call) -> Result<u32, StoreError> {
        set_key(call, &mut self.key)?;
        if let Some(known) = self.sets.get(self.key.as_slice()) {
            return Ok(*known);
        }
        let key: Arc<[u8]> = self.key.as_slice().into();
        let number = match base.set_id(&key)? {
            Some(number) => number,
            None => {
                if self.new_sets.is_empty() {
                    self.first_new_set = base.next_set()?;
                }
                self.new_sets.push(key.clone());
                self.first_new_set + (self.new_sets.len() - 1) as u32
            }
        };
        self.sets.insert(key, number);
        Ok(number)
    }
}

fn claimed(erasable: &Erasable) -> BTreeMap<String, String> {
    erasable.person.as_ref().map(|p| p.claimed.clone()).unwrap_or_default()
}

fn admitted(entry: &Entry, admit: &Admit, erasable: &Erasable) -> Call {
    Call {
        id: admit.call,
        seq: entry.seq,
        settled_seq: None,
        started_at: entry.ts,
        completed_at: None,
        outcome: Outcome::Running,
        refusal: None,
        who: Some((*admit.who).clone()),
        claimed: claimed(erasable),
        provider: Some(admit.provider.clone()),
        dialect: Some(admit.dialect.clone()),
        endpoint: admit.endpoint.clone(),
        unmetered: admit.unmetered,
        stream: admit.stream,
        model_requested: admit.model.clone(),
        model_served: None,
        http_status: None,
        provider_request_id: None,
        response_id: None,
        finish_reason: None,
        service_tier: None,
        usage: Usage::new(),
        usage_basis: UsageBasis::None,
        tools_offered: admit.tools_offered,
        tools_called: 0,
        tool_names: Vec::new(),
        cost: None,
        cost_basis: CostBasis::Exact,
        cost_lines: Vec::new(),
        price_model: admit.price_model.clone(),
        price_book: admit.price_book,
        hold: admit.hold,
        holds: admit.holds.clone(),
        output_limit: admit.output_limit,
        catalogue_revision: admit.catalogue_revision,
        attempts: admit.attempt,
        retry_of: admit.retry_of,
        first_byte_ms: None,
        total_ms: None,
        overhead_us: None,
        flags: if admit.unbounded { vec!["unbounded".to_owned()] } else { Vec::new() },
        stands_for: 1,
    }
}

fn denied(entry: &Entry, deny: &Deny, erasable: &Erasable) -> Call {
    Call {
        id: deny.call,
        seq: entry.seq,
        settled_seq: Some(entry.seq),
        started_at: entry.ts,
        completed_at: Some(entry.ts),
        outcome: Outcome::Refused,
        refusal: Some((deny.code, deny.by.clone())),
        who: deny.who.clone(),
        claimed: claimed(erasable),
        provider: deny.provider.clone(),
        dialect: deny.dialect.clone(),
        endpoint: deny.endpoint.clone().unwrap_or_else(|| "unknown".to_owned()),
        unmetered: false,
        stream: deny.stream,
        model_requested: deny.model.clone(),
        model_served: None,
        http_status: Some(deny.http_status),
        provider_request_id: None,
        response_id: None,
        finish_reason: None,
        service_tier: None,
        usage: Usage::new(),
        usage_basis: UsageBasis::None,
        tools_offered: deny.tools_offered,
        tools_called: 0,
        tool_names: Vec::new(),
        // A refused call is known to have cost nothing.
        cost: Some(Money::ZERO),
        cost_basis: CostBasis::Exact,
        cost_lines: Vec::new(),
        price_model: None,
        price_book: 0,
        hold: Money::ZERO,
        holds: Vec::new(),
        output_limit: None,
        catalogue_revision: deny.catalogue_revision,
        attempts: 0,
        retry_of: deny.retry_of,
        first_byte_ms: None,
        total_ms: None,
        overhead_us: None,
        flags: deny.detail.iter().cloned().collect(),
        stands_for: deny.count.max(1),
    }
}

/// The sum of two costs; unknown as soon as one is.
fn sum(so_far: Option<Money>, attempt: Option<Money>, first: bool) -> Option<Money> {
    if first { attempt } else { Some(so_far? + attempt?) }
}

fn settled(call: &mut Call, entry: &Entry, settle: &Settle) {
    let first = call.attempts <= 1;
    call.settled_seq = Some(entry.seq);
    call.completed_at = Some(entry.ts);
    call.outcome = settle.outcome;
    call.http_status = settle.http_status;
    call.model_served = settle.model_served.clone();
    call.provider_request_id = settle.provider_request_id.clone();
    call.response_id = settle.response_id.clone().or(call.response_id.take());
    call.finish_reason = settle.finish_reason.clone();
    call.service_tier = settle.service_tier.clone();
    call.usage.add(&settle.usage);
    call.tools_called = call.tools_called.saturating_add(settle.tools_called);
    for name in &settle.tool_names {
        if !call.tool_names.contains(name) {
            call.tool_names.push(name.clone());
        }
    }
    call.cost = sum(call.cost, settle.cost, first);
    // Of several attempts the least sure basis counts.
    call.usage_basis = if first { settle.usage_basis } else { call.usage_basis.max(settle.usage_basis) };
    call.cost_basis = if first { settle.cost_basis } else { call.cost_basis.max(settle.cost_basis) };
    call.cost_lines.extend(settle.cost_lines.iter().cloned());
    call.price_model = settle.price_model.clone().or(call.price_model.take());
    call.first_byte_ms = settle.first_byte_ms;
    call.total_ms = Some(call.total_ms.unwrap_or(0).saturating_add(settle.total_ms));
    call.overhead_us = Some(call.overhead_us.unwrap_or(0).saturating_add(settle.overhead_us));
    call.flags.extend(settle.flags.iter().cloned());
}

fn interrupted(call: &mut Call, entry: &Entry, cost: Option<Money>) {
    call.settled_seq = Some(entry.seq);
    call.completed_at = Some(entry.ts);
    call.outcome = Outcome::Interrupted;
    call.usage_basis = UsageBasis::Estimated;
    call.cost = sum(call.cost, cost, call.attempts <= 1);
    call.cost_basis = if call.cost.is_some() { CostBasis::Estimated } else { CostBasis::Unpriced };
}

/// Whether the answer whose id a call has is its own: those that fetch, list, cancel or delete a stored one
/// (`responses.retrieve` …) have its id too, but whose it is hangs on the call that made it.
fn makes_answers(call: &Call) -> bool {
    !call.unmetered && !call.endpoint.starts_with("responses.")
}
