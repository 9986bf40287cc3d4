//! Calls under way in this process: what each has come to so far, and the means to end it.
//!
//! One small record per call, from its admission to its settlement: the path of a call puts it in, adds to an atomic as the
//! answer passes and takes it out; whoever looks reckons the cost when he looks. There are as many as calls may be under
//! way (`max_concurrent`). What is held and posted is not here: the ledger has it, and a record that it does not have as
//! open is about to go. After a restart there is nothing: what was open then is settled by the ledger.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::dialect::Metering;
use crate::domain::{Attribution, CallId, Catalogue, Code, Component, Micros, Money, Provider, Refusal, Usage};
use crate::ledger::request::Admitted;
use crate::pricing::PriceContext;
use crate::store::Ledger;

use super::classify::Asked;
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// Locks that share the records, so that calls do not queue for one.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<CallId, Arc<Flight>>>;

/// The calls under way. Clones are one and the same.
#[derive(Clone, Default)]
pub struct InFlight {
    shards: Arc<[Shard; SHARDS]>,
}

/// A call under way as it is shown.
#[derive(Clone, Debug)]
pub struct Underway {
    pub call: CallId,
    /// Journal time of its admission.
    pub started_at: Micros,
    pub who: Option<Arc<Attribution>>,
    pub provider: String,
    pub endpoint: &'static str,
    pub model: Option<String>,
    pub stream: bool,
    /// What it holds: the most it can cost; zero where it has no price.
    pub hold: Money,
    /// The first bytes of the answer have come.
    pub answering: bool,
    /// Output that has passed, reckoned from its length.
    pub output_tokens: u64,
    /// An estimate: the input by its length and the output so far, at the price in force. Absent: no price.
    pub cost_so_far: Option<Money>,
    /// Somebody ended it; it is being settled.
    pub stopping: bool,
}

/// The record of one call.
pub(super) struct Flight {
    snapshot: Arc<Snapshot>,
    ticket: Arc<Ticket>,
    provider: Arc<Provider>,
    context: PriceContext,
    metering: Metering,
    input_tokens: u64,
    admitted_at: Micros,
    hold: Money,
    answering: AtomicBool,
    output: AtomicU64,
    stop: Notify,
    why: OnceLock<Box<Refusal>>,
}

impl Flight {
    /// Output tokens that have passed by now.
    pub fn passed(&self, output_tokens: u64) {
        self.answering.store(true, Ordering::Relaxed);
        self.output.store(output_tokens, Ordering::Relaxed);
    }

    /// Output tokens that have passed, as they were reckoned last.
    pub fn output_tokens(&self) -> u64 {
        self.output.load(Ordering::Relaxed)
    }

    /// Why the call is to end, once somebody wants it to.
    pub fn stopped_by(&self) -> Option<&Refusal> {
        self.why.get().map(|why| &**why)
    }

    /// Waits until somebody ends the call.
    pub async fn stopped(&self) {
        if self.why.get().is_none() {
            self.stop.notified().await;
        }
    }

    /// Ends the call; the caller is told so in these words. The first to do so is who did.
    pub fn stop(&self, refusal: Refusal) -> bool {
        let first = self.why.set(Box::new(refusal)).is_ok();
        self.stop.notify_one();
        first
    }

    /// Ends the call if a pause in the catalogue wants that; true if it was ended just now.
    pub fn cut_by(&self, catalogue: &Catalogue, now: Micros) -> bool {
        let Some(who) = self.ticket.who.as_deref() else { return false };
        let mut cuts = catalogue.pauses.values().filter(|p| p.cut && p.holds_at(now));
        let by = cuts.find(|p| p.covers(who, &self.provider.id, self.ticket.model.as_deref()));
        by.is_some_and(|pause| {
            self.stop(Refusal {
                by: Some(format!("pause:{}", pause.id())),
                ..Refusal::new(Code::Paused, pause.words())
            })
        })
    }

    fn cost_so_far(&self) -> Option<Money> {
        match self.metering {
            Metering::Free | Metering::Retrieval => return Some(Money::ZERO),
            Metering::Unmetered => return None,
            Metering::Metered => {}
        }
        let mut usage = Usage::new().with(Component::InputTokens, self.input_tokens);
        usage.set(Component::OutputTokens, self.output.load(Ordering::Relaxed));
        let (list, model) = (&self.provider.price_as, self.ticket.model.as_deref()?);
        let quote = self.snapshot.prices.quote(list, model, self.admitted_at, &self.context, &usage);
        quote.ok().map(|cost| cost.total)
    }

    fn view(&self) -> Underway {
        Underway {
            call: self.ticket.id,
            started_at: self.admitted_at,
            who: self.ticket.who.clone(),
            provider: self.provider.id.clone(),
            endpoint: self.ticket.endpoint.unwrap_or_default(),
            model: self.ticket.model.clone(),
            stream: self.ticket.stream,
            hold: self.hold,
            answering: self.answering.load(Ordering::Relaxed),
            output_tokens: self.output.load(Ordering::Relaxed),
            cost_so_far: self.cost_so_far(),
            stopping: self.why.get().is_some(),
        }
    }
}

/// A record that goes when its call has ended, however it ends.
pub(super) struct Flying {
    registry: InFlight,
    flight: Arc<Flight>,
}

impl std::ops::Deref for Flying {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.flight
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let id = self.flight.ticket.id;
        self.registry.shard(id).remove(&id);
    }
}

impl InFlight {
    /// A call was admitted.
    pub(super) fn enter(
        &self,
        snapshot: &Arc<Snapshot>,
        ticket: &Arc<Ticket>,
        asked: &Asked,
        admitted: &Admitted,
    ) -> Flying {
        let facts = &asked.facts;
        let by_length = facts.input_bytes.saturating_mul(2).div_ceil(7).saturating_add(facts.input_allowance);
        let flight = Arc::new(Flight {
            snapshot: snapshot.clone(),
            ticket: ticket.clone(),
            provider: asked.provider.clone(),
            context: facts.price_context.clone(),
            metering: facts.metering,
            input_tokens: by_length.min(asked.cost.input_tokens),
            admitted_at: admitted.at,
            hold: admitted.hold,
            answering: AtomicBool::new(false),
            output: AtomicU64::new(0),
            stop: Notify::new(),
            why: OnceLock::new(),
        });
        self.shard(ticket.id).insert(ticket.id, flight.clone());
        Flying { registry: self.clone(), flight }
    }

    /// All calls under way, oldest first.
    pub fn all(&self) -> Vec<Underway> {
        let mut all: Vec<Underway> = self.flights().iter().map(|flight| flight.view()).collect();
        all.sort_by_key(|call| (call.started_at, call.call));
        all
    }

    /// One of them.
    pub fn get(&self, call: CallId) -> Option<Underway> {
        let flight = self.shard(call).get(&call).cloned()?;
        Some(flight.view())
    }

    /// Whose call it is, if it is under way here.
    pub(super) fn who(&self, call: CallId) -> Option<Arc<Attribution>> {
        self.shard(call).get(&call).and_then(|flight| flight.ticket.who.clone())
    }

    /// Ends the calls that a pause wants cut. How many there were.
    pub fn cut_paused(&self, ledger: &Ledger) -> usize {
        let (catalogue, now) = (ledger.catalogue(), ledger.clock().now());
        if catalogue.pauses.values().all(|pause| !pause.cut) {
            return 0;
        }
        self.flights().iter().filter(|flight| flight.cut_by(&catalogue, now)).count()
    }

    /// Ends a call: its upstream is let go, its caller is told that an operator ended it, what had passed is settled.
    /// `false`: it is not under way here (any more), or somebody has ended it already.
    pub fn stop(&self, call: CallId) -> bool {
        let flight = self.shard(call).get(&call).cloned();
        let message = format!(
            "Weighbridge: an operator stopped this call. Ask your operators why, before you repeat it. Receipt {call}."
        );
        flight.is_some_and(|flight| flight.stop(Refusal::new(Code::Stopped, message)))
    }

    // Looked at outside the locks: reckoning a cost takes longer than a call may wait.
    fn flights(&self) -> Vec<Arc<Flight>> {
        self.shards.iter().flat_map(|shard| locked(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    fn shard(&self, call: CallId) -> MutexGuard<'_, HashMap<CallId, Arc<Flight>>> {
        // The end of an id is random.
        locked(&self.shards[(call.0 % SHARDS as u128) as usize])
    }
}

fn locked(shard: &Shard) -> MutexGuard<'_, HashMap<CallId, Arc<Flight>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
