//! Pure arithmetic of budgets: which period an instant is in, what a call needs of a metric, which thresholds are crossed.
//!
//! Balances are not here: the ledger's state holds them, and nothing else does.

pub mod amount;
pub mod forecast;
pub mod period;
pub mod words;

pub use amount::{Bound, crossed, percent_used};
pub use period::{Calendar, PeriodError, Window};
