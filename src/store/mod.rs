//! Keeps the journal and what is derived from it, and lets many read. The only module that imports redb.
//!
//! [`Ledger`] is the one handle the rest of the product has: it submits requests to the one writer thread and reads from
//! state, views and journal. It stands for the trait that a shared ledger may implement one day.
//!
//! What makes the journal evidence, each a file: `signer` signs checkpoints and never two histories, `promise` holds a
//! start against what was promised before, `proofs` proves one entry, [`verify`] replays everything, `scrub` reads stored
//! bytes again, and where a history cannot be gone on with, `epoch` begins another and `history` shows all as one row.

pub mod backup;
mod ballast;
mod block;
pub mod clock;
pub mod core;
mod epoch;
mod history;
mod journal;
mod keeper;
mod keys;
mod ledger;
pub mod media;
mod promise;
mod proofs;
mod reader;
mod recover;
mod scrub;
mod seal;
mod shared;
mod signer;
#[cfg(test)]
mod sim;
mod small;
mod snapshot;
mod stepped;
#[cfg(test)]
mod tests;
mod tiles;
mod time;
mod trouble;
pub mod verify;
pub mod views;
mod writer;

use std::io::ErrorKind;
use std::sync::Arc;

use crate::domain::call::BudgetHold;
use crate::domain::{Allowance, CallId, Micros, Money};
pub use crate::ledger::{Allocated, Standing};

pub use clock::Clock;
pub use epoch::Begun;
pub use ledger::{Ledger, Proven, Told};
pub use scrub::Scrubbed;
pub use seal::new_secret;
pub use shared::{Gauges, Watch};
pub use signer::Signed;
pub use stepped::Stepped;
pub use trouble::Part;
pub use writer::Decide;

/// What this version writes, by file.
pub const FORMATS: [(&str, u64); 2] = [("journal", journal::FORMAT), ("views", views::FORMAT)];

/// Lets other threads go first, now and then (`number`: of the step): what is done behind the calls comes in batches of
/// many milliseconds, and on a machine with few cores a call would wait for the whole of one.
fn give_way(number: u64) {
    if number.is_multiple_of(64) {
        std::thread::yield_now();
    }
}

/// When an answer is given to who asked the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the entry is on disk.
    #[default]
    Strict,
    /// Once it is decided; on disk within 50 ms.
    Relaxed,
}

/// How a data folder is opened.
#[derive(Clone)]
pub struct Options {
    pub durability: Durability,
    pub clock: Arc<dyn Clock>,
}

/// Why the store cannot do what was asked. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("data folder `{0}` is in use by another process: stop it, or talk to it with WEIGHBRIDGE_URL")]
    InUse(String),
    #[error(
        "`{file}` was written by a newer version (format {found}, this binary knows {known}): use that version or a newer one"
    )]
    Newer { file: String, found: u64, known: u64 },
    #[error(
        "`{file}` is damaged: {what}; restore a backup, or run `weighbridge ledger verify --data` to see how far it is sound"
    )]
    Damaged { file: String, what: String },
    /// The file opens, and what stands in it is not what was written.
    #[error(
        "`{file}` is damaged: {what}; restore a backup, or run `weighbridge ledger verify --data` to see how far it is sound"
    )]
    Altered { file: String, entry: u64, what: String },
    #[error(
        "`{file}` is missing beside a journal ({what}): put it back from the backup; if it is lost, `weighbridge serve --new-epoch \"<reason>\"` goes on without it"
    )]
    Missing { file: String, what: String },
    #[error(
        "rollback_detected: the journal is not what was promised ({what}); put the newer data back, or, if it is lost, begin a new epoch: `weighbridge serve --new-epoch \"<reason>\"`"
    )]
    Rollback { what: String },
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    /// The disk, or what this user may have of it, is full.
    #[error("no room on the disk: {0}")]
    Full(String),
    /// What is asked for is in the part of the journal that the views do not have yet.
    #[error("the views are being built anew from the journal ({done} of {of} entries): try again in a minute")]
    BeingBuilt { done: u64, of: u64 },
    #[error("the writer's queue is full")]
    Busy,
    #[error("{0}")]
    Refused(String),
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// What is wrong, without the words around it: to be quoted by another error.
    fn reason(&self) -> String {
        match self {
            StoreError::Unwritable(why) => why.clone(),
            other => other.to_string(),
        }
    }

    /// What the operating system said about a file.
    pub(super) fn io(file: &str, error: &std::io::Error) -> StoreError {
        let what = format!("`{file}`: {error}");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(what),
            _ => StoreError::Unwritable(what),
        }
    }
}

/// Up to which entry an answer is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsOf {
    /// Entries with a smaller sequence are in.
    pub seq: u64,
    pub at: Micros,
}

/// A call that is open now.
#[derive(Clone, Debug)]
pub struct Running {
    pub call: CallId,
    pub attempt: u8,
    pub seq: u64,
    pub at: Micros,
    pub job: bool,
    pub hold: Money,
    pub holds: Vec<BudgetHold>,
}

/// What a budget's period has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    pub budget: String,
    pub period: String,
    /// In units of the budget's metric.
    pub posted: i128,
    pub held: i128,
    pub open_holds: u64,
    /// What posted + held must not pass, by its parts: `allowance.total()` is the limit to show.
    pub allowance: Allowance,
    /// First instant of the period, and the first after it.
    pub start: Option<Micros>,
    pub end: Option<Micros>,
}

impl From<Standing> for Balance {
    fn from(standing: Standing) -> Balance {
        let Standing { budget, window, posted, held, open_holds, allowance } = standing;
        let (period, start, end) = (window.id, window.start, window.end);
        Balance { budget: budget.id.clone(), period, posted, held, open_holds, allowance, start, end }
    }
}

/// What an operator allocated to a budget beside its declared limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationOf {
    pub allocated: Allocated,
    /// Why, where the entry still has it.
    pub reason: Option<String>,
}

/// Where the journal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub epoch: u64,
    /// Entries of all epochs before this one.
    pub before: u64,
    /// Entries of this epoch: the next sequence.
    pub size: u64,
    pub root: [u8; 32],
    /// Entries of this epoch that the views have.
    pub applied: u64,
    pub at: Micros,
}

impl Head {
    /// Entries of all epochs: the position of the next one, which lists and cursors go by.
    pub fn position(&self) -> u64 {
        self.before + self.size
    }
}

/// What is known of a vendor's answer id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownResponse {
    pub call: CallId,
    pub attempt: u8,
    /// The call is a job that has not ended.
    pub open: bool,
}
