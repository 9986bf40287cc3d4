//! How a month begins: made ready shortly before, so that the turn itself has little to encode and to write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::domain::Micros;
use crate::ledger::entry::{Body, Erasable, NewEntry};
use crate::store::journal::Opening;
use crate::store::keys::Place;
use crate::store::seal;
use crate::store::snapshot::Part;

use super::{Failure, Writer, unpoisoned};

/// How long before a month ends its successor is made ready, in seconds; and how often that is looked after.
const PREPARE_AHEAD: i64 = 600;
const PREPARE_EVERY: Duration = Duration::from_secs(5);

impl Writer {
    /// Begins the month of `at`: sealed snapshot and SNAPSHOT entry, in a commit of their own.
    pub(super) fn begin_month(&mut self, at: Micros) -> Result<(), Failure> {
        let month = at.utc_month();
        let carried = self.carried();
        let catalogue = carried.state.catalogue();
        let ready = unpoisoned(self.part.lock()).take().filter(|part| Arc::ptr_eq(&part.of, catalogue));
        let part = ready.unwrap_or_else(|| Part::of(catalogue.clone()));
        let sealed = carried.without_persons().encode_apart(&part);
        let names = carried.persons();
        let sha256 = Sha256::digest(&sealed).into();
        let body = Body::Snapshot { month: month.clone(), sha256, bytes: (sealed.len() + part.bytes.len()) as u64 };
        let root = self.tree.root();
        let first = self.tree.size();
        let persons = match &self.reader.keys {
            Some(keys) if !names.is_empty() => {
                let place = Place { epoch: self.reader.journal.epoch, seq: first, group: 2 };
                Some(keys.seal("", &place, &seal::random(), &names).map_err(Failure::Broken)?)
            }
            _ => None,
        };
        self.add(at, vec![NewEntry { body, reference: None, erasable: Erasable::default() }])?;
        let opening = Opening {
            month: &month,
            first,
            root,
            snapshot: Some(&sealed),
            catalogue: Some(&part),
            persons: persons.as_deref(),
        };
        let pending = self.take_block();
        self.reader.journal.begin(&opening, pending).map_err(Failure::Broken)?;
        self.committed();
        tracing::info!(month, entries = first, "a new month of the journal");
        Ok(())
    }

    /// Shortly before a month ends, has the next one's file made, with the catalogue it begins with: the turn then has only
    /// what is small to encode and to write. A change of the catalogue has it made again.
    pub(super) fn prepare_month(&mut self) {
        if self.threads && self.prepared.elapsed() < PREPARE_EVERY {
            return;
        }
        self.prepared = Instant::now();
        // A clock that is led has an instant for each request and none to spare.
        let clock = &self.shared.clock;
        let now = if clock.led() { self.last_ts() } else { clock.now() };
        let next = now.plus_seconds(PREPARE_AHEAD).utc_month();
        if self.reader.journal.month().is_none_or(|month| month >= next) {
            return;
        }
        let catalogue = self.shared.catalogue();
        if unpoisoned(self.part.lock()).as_ref().is_some_and(|part| Arc::ptr_eq(&part.of, &catalogue)) {
            return;
        }
        let (journal, place) = (self.reader.journal.clone(), self.part.clone());
        self.keeper.prepare(Box::new(move || {
            let part = Part::of(catalogue);
            journal.prepare(&next, &part)?;
            *unpoisoned(place.lock()) = Some(part);
            Ok(())
        }));
    }
}
