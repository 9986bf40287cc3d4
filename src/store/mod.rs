//! Keeps the journal and what is derived from it, and lets many read. The only module that imports redb.
//!
//! [`Ledger`] is the one handle the rest of the product has: it submits requests to the one writer thread and reads from
//! state, views and journal. It stands for the trait that a shared ledger may implement one day.

pub mod clock;
pub mod views;

use std::path::Path;
use std::sync::Arc;

use crate::domain::call::BudgetHold;
use crate::domain::{Call, CallId, Catalogue, Filter, Micros, Money};
use crate::ledger::entry::{Entry, Erasable};
use crate::ledger::request::{Reply, Request};

pub use clock::Clock;

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
    #[error(
        "the journal is behind what was promised ({what}): rollback_detected; restore the newer data or start a new epoch"
    )]
    Rollback { what: String },
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    #[error("the writer's queue is full")]
    Busy,
    #[error("{0}")]
    Refused(String),
    #[error("the store is closed")]
    Closed,
}

/// Up to which entry an answer is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsOf {
    /// Entries with a smaller sequence are in.
    pub seq: u64,
    pub at: Micros,
}

/// A handle on the one ledger of this process; clones are cheap and equal. Dropping the last one does not close it: call
/// [`Ledger::close`].
#[derive(Clone)]
pub struct Ledger {
    _inner: Arc<()>,
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
}

/// Where the journal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub epoch: u64,
    /// Entries in the journal: the next sequence.
    pub size: u64,
    pub root: [u8; 32],
    /// Entries the views have.
    pub applied: u64,
    pub at: Micros,
}

/// What is known of a vendor's answer id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownResponse {
    pub call: CallId,
    pub attempt: u8,
    /// The call is a job that has not ended.
    pub open: bool,
}

impl Ledger {
    /// Opens a data folder, making it if it is empty: replays what the last snapshot does not have, compares with the
    /// side file, settles what a crash left open as *interrupted*. One process at a time.
    pub fn open(_dir: &Path, _options: Options) -> Result<Ledger, StoreError> {
        unimplemented!()
    }

    /// Asks the state machine; answers once the entries are durable (see [`Durability`]).
    pub async fn submit(&self, _request: Request) -> Result<Reply, StoreError> {
        unimplemented!()
    }

    /// The same for many requests in order, as one commit where they fit; for imports and tools, never on an async thread.
    pub fn submit_all(&self, _requests: Vec<Request>) -> Result<Vec<Reply>, StoreError> {
        unimplemented!()
    }

    /// Declared state as of the newest commit; no lock, no I/O.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        unimplemented!()
    }

    /// True while entries can be written.
    pub fn healthy(&self) -> bool {
        unimplemented!()
    }

    pub fn head(&self) -> Head {
        unimplemented!()
    }

    /// Open calls, oldest first.
    pub fn running(&self) -> Vec<Running> {
        unimplemented!()
    }

    /// Current balances; `at` chooses the periods.
    pub fn balances(&self, _at: Micros) -> Vec<Balance> {
        unimplemented!()
    }

    /// The call that a vendor's answer id belongs to.
    pub fn response(&self, _provider: &str, _response_id: &str) -> Option<KnownResponse> {
        unimplemented!()
    }

    /// Entries from `from` on, at most `limit`, with their groups 1 to 4. Short read transactions.
    pub fn entries(&self, _from: u64, _limit: usize) -> Result<Vec<(Entry, Erasable)>, StoreError> {
        unimplemented!()
    }

    /// The leaf hash of an entry and its inclusion path in the tree of `size` entries.
    pub fn inclusion(&self, _seq: u64, _size: u64) -> Result<([u8; 32], Vec<[u8; 32]>), StoreError> {
        unimplemented!()
    }

    /// Everything derived from the journal, for reports.
    pub fn views(&self) -> &views::Views {
        unimplemented!()
    }

    /// One call, never behind: from the views or the unapplied tail.
    pub fn call(&self, _id: CallId) -> Result<Option<Call>, StoreError> {
        unimplemented!()
    }

    /// Calls of the filter, newest first, starting before the sequence `before`.
    pub fn calls(
        &self,
        _filter: &Filter,
        _before: Option<u64>,
        _limit: usize,
    ) -> Result<(Vec<Call>, AsOf), StoreError> {
        unimplemented!()
    }

    /// Commits what is queued and closes the files.
    pub async fn close(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
}
