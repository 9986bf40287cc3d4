//! What a key and its service have spent today and this month: sums of the views, never behind.
//!
//! One pass over the month's quarters of an hour. Every civil midnight is the start of a quarter, so that the sums are
//! exact. Days and months are the organisation's.

use std::sync::Arc;

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

/// Adds up. Reads a month of sums: not for the threads that carry streams.
pub fn spent(ledger: &Ledger, who: &Attribution, zone: &str, now: Micros) -> Result<Both, SpentError> {
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
