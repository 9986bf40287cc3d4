//! What the writer does when a commit fails: forgets what is not on disk, tries the files again, and records the gap.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::domain::{CostBasis, Money, Outcome, UsageBasis};
use crate::ledger::entry::{Body, Settle};
use crate::ledger::request::Request;
use crate::store::reader::MAX_READ;
use crate::store::recover::recover;
use crate::store::{StoreError, block};

use super::{InTrouble, Writer};

/// Reason of the GAP entries that say how many were refused.
const UNAVAILABLE: &str = "journal_unavailable";
/// First and longest pause before the files are tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The journal cannot be written: since when, why, and who was refused meanwhile.
pub(super) struct Broken {
    pub(super) why: String,
    pub(super) refused: u64,
    pub(super) pause: Duration,
    pub(super) again_at: Instant,
}

impl Writer {
    /// Gives up the block and everything in memory that came with it. `refused`: requests refused beside those waiting.
    pub(super) fn break_off(&mut self, why: String, refused: u64) {
        tracing::error!(
            why,
            "a commit failed; every call is refused until the journal is read again and can be written"
        );
        self.shared.healthy.store(false, Ordering::SeqCst);
        let mut refused = refused + self.answered;
        for (answer, ..) in self.waiting.drain(..) {
            refused += 1;
            let _ = answer.send(Err(StoreError::Unwritable(why.clone())));
        }
        self.done.clear();
        self.full_tiles.clear();
        self.answered = 0;
        self.turned_away += std::mem::take(&mut self.noted);
        self.builder = block::Builder::new(self.shared.head().size);
        match &mut self.broken {
            Some(broken) => broken.refused += refused,
            none => *none = Some(Broken { why, refused, pause: BACK_OFF.0, again_at: Instant::now() + BACK_OFF.0 }),
        }
    }

    /// Tries the files again when it is time, and puts on record who was refused in the meantime.
    pub(in crate::store) fn recover_from_trouble(&mut self) {
        self.heal();
        let cannot = self.why_not_admit().is_some();
        if cannot {
            // Nobody has to be refused first for everybody to know.
            self.shared.healthy.store(false, Ordering::SeqCst);
        } else if self.turned_away == 0 && self.broken.is_none() {
            self.shared.healthy.store(true, Ordering::SeqCst);
        }
        if self.turned_away > 0 && self.broken.is_none() && !cannot {
            let count = std::mem::take(&mut self.turned_away);
            let gap = Request::Gap { reason: UNAVAILABLE.into(), count, quotes: None };
            self.shared.healthy.store(true, Ordering::SeqCst);
            match self.take(&gap) {
                // It is in the next commit; if that fails they are to be put on record again.
                Ok(_) => self.noted += count,
                Err(_) => {
                    self.turned_away += count;
                    // The note itself is nobody's request.
                    if let Some(broken) = &mut self.broken {
                        broken.refused = broken.refused.saturating_sub(1);
                    }
                }
            }
        }
    }

    fn heal(&mut self) {
        if self.broken.as_ref().is_none_or(|broken| self.threads && Instant::now() < broken.again_at) {
            return;
        }
        match self.reopen() {
            Ok(()) => self.troubles.over(InTrouble::Journal),
            Err(error) => {
                self.troubles.failed(InTrouble::Journal, &error);
                if let Some(broken) = &mut self.broken {
                    broken.why = error.reason();
                    broken.pause = (broken.pause * 2).min(BACK_OFF.1);
                    broken.again_at = Instant::now() + broken.pause;
                }
            }
        }
    }

    /// Opens the files anew, makes the state from them, and records what happened.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let promised = self.shared.head().size;
        self.reader.journal.reopen()?;
        let carried = recover(&self.reader, &self.media)?;
        let size = carried.size();
        if size < promised {
            return Err(StoreError::Rollback {
                what: format!("{promised} entries were acknowledged, {size} are there"),
            });
        }
        self.tree = carried.tree;
        self.tiles = carried.tiles;
        self.builder = block::Builder::new(size);
        self.shared.replace(carried.state, &self.tree);
        let (never_sent, recorded) = self.take_in(promised, size)?;
        self.not_twice(recorded);
        self.reader.journal.start_over()?;
        let Some(broken) = self.broken.take() else { return Ok(()) };
        let why = Some(broken.why.clone());
        let gap = Request::Gap { reason: UNAVAILABLE.into(), count: broken.refused, quotes: why };
        let written = self
            .take(&gap)
            .and_then(|_| never_sent.iter().try_for_each(|request| self.take(request).map(drop)))
            .and_then(|()| self.flush().map_err(StoreError::Unwritable));
        match written {
            Ok(()) => {
                self.shared.healthy.store(true, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                // Goes on counting where the last attempt left off.
                self.broken = Some(broken);
                Err(error)
            }
        }
    }

    /// Takes refusals off the count that a GAP entry has recorded whose commit was reported as failed.
    fn not_twice(&mut self, recorded: u64) {
        let broken = self.broken.as_mut().map_or(0, |broken| {
            let known = broken.refused.min(recorded);
            broken.refused -= known;
            known
        });
        self.turned_away = self.turned_away.saturating_sub(recorded - broken);
    }

    /// Entries that reached the disk although their commit was reported as failed: the views get them, and the calls
    /// they admitted, which were refused to their callers, are settled at nothing.
    /// Gives what settles them, and how many refusals GAP entries among them put on record.
    fn take_in(&self, promised: u64, size: u64) -> Result<(Vec<Request>, u64), StoreError> {
        let mut settle = Vec::new();
        let mut recorded = 0;
        let mut from = promised;
        while from < size {
            let entries = self.reader.entries(from, MAX_READ)?;
            if entries.is_empty() {
                break;
            }
            from += entries.len() as u64;
            recorded += entries.iter().map(|(entry, _)| refusals_of(&entry.body)).sum::<u64>();
            settle.extend(entries.iter().filter_map(|(entry, _)| match &entry.body {
                Body::Admit(admit) => Some(Request::Settle {
                    call: admit.call,
                    attempt: admit.attempt,
                    settle: Box::new(never_sent()),
                    erasable: Box::default(),
                }),
                _ => None,
            }));
            self.views.committed(Arc::new(self.reader.positioned(entries)));
        }
        Ok((settle, recorded))
    }
}

/// Refusals that an entry puts on record.
fn refusals_of(body: &Body) -> u64 {
    match body {
        Body::Gap { reason, count, .. } if reason == UNAVAILABLE => *count,
        _ => 0,
    }
}

/// How a call is settled that was admitted and never left.
fn never_sent() -> Settle {
    Settle {
        outcome: Outcome::Failed,
        http_status: None,
        model_served: None,
        provider_request_id: None,
        response_id: None,
        finish_reason: None,
        service_tier: None,
        usage: Default::default(),
        usage_basis: UsageBasis::None,
        tools_called: 0,
        tool_names: Vec::new(),
        cost: Some(Money(0)),
        cost_basis: CostBasis::Exact,
        cost_lines: Vec::new(),
        price_model: None,
        first_byte_ms: None,
        total_ms: 0,
        overhead_us: 0,
        flags: vec!["journal_unavailable".into()],
    }
}
