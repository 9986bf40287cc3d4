//! A ledger without threads, for simulation: nothing happens but what is asked for, in the order in which it is asked.
//!
//! It is the same writer, log, feeder, keeper and start-up; only the loops that would call them are left out, and the
//! rules can be replaced by broken ones, to see that a test notices. The views follow the same way.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::ledger::request::{Reply, Request};
use crate::ledger::state::State;

use super::media::{Media, Memory};
use super::writer::{Decide, Hands, Writer};
use super::{Ledger, Options, StoreError};

/// A ledger in memory whose writer is called and not sent to. Dropping it is what a killed process does.
pub struct Stepped {
    ledger: Ledger,
    writer: Writer,
    places: Arc<Semaphore>,
}

impl Stepped {
    /// Opens a folder in memory as [`Ledger::open_memory`] does, start-up settlements included.
    pub fn open(memory: &Memory, options: Options, decide: Decide) -> Result<Stepped, StoreError> {
        let hands = Hands { threads: false, decide };
        let (ledger, writer) = Ledger::assemble(Media::Memory(memory.clone()), options, None, hands)?;
        let mut stepped = Stepped { ledger, writer, places: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) };
        stepped.submit(vec![Request::InterruptAll]).into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(stepped)
    }

    /// For reading; what is submitted through it is refused as closed.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What does not go as it should.
    #[cfg(test)]
    pub(super) fn troubles(&self) -> &Arc<super::trouble::Troubles> {
        self.ledger.troubles_kept()
    }

    /// The state as decided.
    pub fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.writer.shared.read(look)
    }

    /// The views follow by one batch.
    pub fn follow(&mut self) -> Result<(), StoreError> {
        self.ledger.views().step()
    }

    /// Decides the requests and commits what they become as one block; the answers stand in their order.
    pub fn submit(&mut self, requests: Vec<Request>) -> Vec<Result<Reply, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        self.writer.recover_from_trouble();
        for request in requests {
            let (answer, answered) = oneshot::channel();
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                self.writer.one(&request, answer, permit);
            }
            answers.push(answered);
        }
        // Who waits is told if it failed.
        let _ = self.writer.flush();
        answers.into_iter().map(|mut answered| answered.try_recv().unwrap_or(Err(StoreError::Closed))).collect()
    }

    /// One feed of the month's file: how many entries it got.
    pub fn feed(&mut self) -> Result<u64, StoreError> {
        self.writer.feeder().step()
    }

    /// Side file and running snapshot, if entries came since the last.
    pub fn look_round(&mut self) {
        self.writer.look_round();
    }

    /// Ends it as a process that is stopped does.
    pub fn close(self) -> Result<(), StoreError> {
        self.writer.close()
    }
}
