//! What a key and its service have spent today and this month: sums of the views, never behind.
//!
//! One pass over the month's quarters of an hour. Every civil midnight is the start of a quarter, so that the sums are
//! exact. Days and months are the organisation's. While the views are far behind, because their file is built anew, an
//! answer waits for them, and after a while there is none: a sum is never one of some time ago.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::domain::{Attribution, Dimension, Micros, Money};
use crate::rollup::{Calendar, CalendarError, Measures, Step, quarter_start};
use crate::store::{AsOf, Ledger, StoreError};

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
