//! What a key and its service have spent today and this month: sums of the views, never behind.
//!
//! One pass over the month's quarters of an hour. Every civil midnight is the start of a quarter, so that the sums are
//! exact. Days and months are the organisation's. While the views are far behind, because their file is built anew, an
//! answer waits for them, and after a while there is none: a sum is never one of some time ago.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::domain::{Attribution, Call, Dimension, Filter, Match, Micros, Money, Outcome};
use crate::rollup::{Calendar, CalendarError, Measures, Step, quarter_start};
use crate::store::{AsOf, Ledger, StoreError};

use super::flight::InFlight;

/// Why there is no sum.
#[derive(Debug, thiserror::Error)]
pub enum SpentError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Calendar(#[from] CalendarError),
}

/// A sum of calls that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub calls: u64,
    pub refused: u64,
    /// Calls whose cost is unknown: not in `cost_usd`.
    pub unpriced: u64,
    pub cost_usd: Money,
}

/// The day and the month that an instant is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub today: Sum,
    pub month: Sum,
}

/// Both sums, and as of which entry.
pub struct Both {
    pub key: Spent,
    pub service: Spent,
    pub as_of: AsOf,
}

impl Sum {
    fn add(&mut self, m: &Measures) {
        self.calls += m.calls;
        self.refused += m.refused;
        self.unpriced += m.unpriced;
        self.cost_usd = self.cost_usd.saturating_add(m.cost);
    }

    fn call(&mut self, call: &Call) {
        if call.outcome == Outcome::Refused {
            self.refused += call.stands_for;
            return;
        }
        self.calls += 1;
        self.unpriced += u64::from(call.cost.is_none());
        self.cost_usd = self.cost_usd.saturating_add(call.cost.unwrap_or_default());
    }
}

/// Calls under way and what they hold, of a key and of its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub key: (u64, Money),
    pub service: (u64, Money),
}

/// The holds of a caller now. What runs at the vendor is looked up, what runs here is known.
pub fn held(ledger: &Ledger, in_flight: &InFlight, who: &Attribution) -> Result<Held, StoreError> {
    let mut held = Held::default();
    let mut add = |of: &Attribution, hold: Money| {
        if of.service == who.service {
            held.service = (held.service.0 + 1, held.service.1.saturating_add(hold));
            if of.credential == who.credential {
                held.key = (held.key.0 + 1, held.key.1.saturating_add(hold));
            }
        }
    };
    for open in ledger.running() {
        match in_flight.who(open.call) {
            Some(of) => add(&of, open.hold),
            None => {
                if let Some(of) = ledger.call(open.call)?.and_then(|call| call.who) {
                    add(&of, open.hold);
                }
            }
        }
    }
    Ok(held)
}

/// The workflow and the run that a request names, within its service.
#[derive(Clone, Debug, Default)]
pub struct Named {
    pub workflow: Option<Spent>,
    pub run: Option<Spent>,
}

/// Sums of what the request names; nothing where it names nothing. Looks at the service's calls of the month.
pub fn named(ledger: &Ledger, who: &Attribution, zone: &str, now: Micros) -> Result<Named, SpentError> {
    if (&who.workflow, &who.run) == (&None, &None) {
        return Ok(Named::default());
    }
    let calendar = Calendar::new(zone, Step::None)?;
    let day = calendar.date(now);
    let (today, month) = (calendar.midnight(day), calendar.midnight(day.first_of_month()));
    let sum = |dimension: Dimension, value: &Option<String>| -> Result<Option<Spent>, SpentError> {
        let Some(value) = value else { return Ok(None) };
        let is = |text: &str| Match::Is(text.to_owned());
        let dimensions = vec![(Dimension::Service, is(&who.service)), (dimension, is(value))];
        let filter = Filter { from: Some(month), to: None, dimensions };
        let mut spent = Spent::default();
        ledger.views().counted(&filter, &mut |call| {
            // A `*` in a name is a letter here, not a glob.
            if call.dimension(dimension) == Some(value) {
                spent.month.call(call);
                if call.started_at >= today {
                    spent.today.call(call);
                }
            }
        })?;
        Ok(Some(spent))
    };
    Ok(Named { workflow: sum(Dimension::Workflow, &who.workflow)?, run: sum(Dimension::Run, &who.run)? })
}

/// How long an answer waits for views that are being built anew.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the sums have every entry there is now.
fn wait_for_sums(ledger: &Ledger, patience: Duration) -> Result<(), StoreError> {
    let (views, of) = (ledger.views(), ledger.head().position());
    if views.as_of()?.seq >= of || views.wait_for(of, patience) {
        return Ok(());
    }
    Err(StoreError::BeingBuilt { done: views.applied(), of })
}

/// Adds up. Waits up to `patience` for views that are far behind, and reads a month of sums: not for the threads that
/// carry streams.
pub fn spent(
    ledger: &Ledger,
    who: &Attribution,
    zone: &str,
    now: Micros,
    patience: Duration,
) -> Result<Both, SpentError> {
    wait_for_sums(ledger, patience)?;
    let calendar = Calendar::new(zone, Step::None)?;
    let day = calendar.date(now);
    let (today, month) = (calendar.midnight(day), calendar.midnight(day.first_of_month()));
    let (mut key, mut service) = (Spent::default(), Spent::default());
    let mut add = |of: &dyn Fn(Dimension) -> Option<String>, at: Micros, measures: &Measures| {
        if of(Dimension::Service).as_deref() != Some(&who.service) {
            return;
        }
        let own = of(Dimension::Credential).as_deref() == Some(&who.credential);
        for spent in [Some(&mut service), own.then_some(&mut key)].into_iter().flatten() {
            spent.month.add(measures);
            if at >= today {
                spent.today.add(measures);
            }
        }
    };
    // Calls come one by one only where the range begins inside a quarter, which no midnight does.
    let mut no_calls = |_: &crate::domain::Call| {};
    let as_of = ledger.views().tally(
        Some(month),
        None,
        &mut |quarter, set: &Arc<_>, measures| {
            add(&|dimension| set.get(dimension).map(str::to_owned), quarter_start(quarter), measures);
        },
        &mut no_calls,
    )?;
    Ok(Both { key, service, as_of })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CallId;
    use crate::ledger::decide::decide;
    use crate::ledger::request::Request;
    use crate::ledger::testing::{self, NOON};
    use crate::store::clock::SetClock;
    use crate::store::media::Memory;
    use crate::store::{Durability, Options, Stepped};

    #[test]
    fn a_sum_is_never_one_of_some_time_ago_while_the_views_are_built_anew() {
        let memory = Memory::new();
        let open = || {
            let options = Options { durability: Durability::Strict, clock: Arc::new(SetClock::new(NOON)) };
            Stepped::open(&memory, options, decide).unwrap()
        };
        let mut machine = open();
        let calls: u64 = 4_200;
        for block in 0..calls / 100 {
            let ids = || (block * 100..block * 100 + 100).map(|n| u128::from(n) + 1);
            let admits = ids().map(|id| Request::Admit(Box::new(testing::admit(id, Money(7)))));
            let settles = ids().map(|id| Request::Settle {
                call: CallId(id),
                attempt: 1,
                settle: Box::new(testing::settle(Some(Money(5)), 1)),
                erasable: Box::default(),
            });
            for reply in machine.submit(admits.chain(settles).collect()) {
                reply.unwrap();
            }
            machine.feed().unwrap();
        }
        machine.close().unwrap();
        // In memory the views begin with nothing.
        let mut machine = open();
        let size = machine.ledger().head().position();
        let who = testing::who("svc");
        let ask = |machine: &Stepped| spent(machine.ledger(), &who, "UTC", NOON, Duration::ZERO);
        while machine.ledger().views().applied() < size / 4 {
            let found = ask(&machine).map(|both| both.key.month.cost_usd);
            let far = matches!(found, Err(SpentError::Store(StoreError::BeingBuilt { of, .. })) if of == size);
            assert!(far, "{found:?} at {} of {size}", machine.ledger().views().applied());
            machine.follow().unwrap();
        }
        while machine.ledger().views().applied() < size {
            machine.follow().unwrap();
        }
        let both = ask(&machine).unwrap();
        let whole = Sum { calls, cost_usd: Money(5 * i128::from(calls)), ..Sum::default() };
        assert_eq!(both.key, Spent { today: whole.clone(), month: whole });
        assert_eq!(both.service, both.key);
    }
}
