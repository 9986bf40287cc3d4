//! One call, never behind: in the file, in the tail, or, while the file is being built anew, in the journal itself.

use crate::domain::{Call, CallId, Micros, Outcome};
use crate::ledger::entry::Body;
use crate::rollup::Bucket;
use crate::store::{KnownResponse, StoreError};

use super::fold::{Base, Delta};
use super::tables::id_time;
use super::{Inner, Views};

/// Entries read at once.
const READ: usize = if cfg!(test) { 256 } else { 4_096 };
/// How many entries after its end a call may still be tried again.
const AGAIN: u64 = if cfg!(test) { 1_024 } else { 4_096 };
/// How far back a call whose id has no time of its own is looked for in the journal.
const FAR: u64 = if cfg!(test) { 16_384 } else { 262_144 };
/// How far around the time in its id a call's admission is looked for, in microseconds.
const EARLY: i64 = 5_000_000;
const LATE: i64 = 600_000_000;

impl Views {
    /// One call, never behind.
    pub fn call(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        let (found, attempts, applied, gap) = self.inner.view(|view| {
            let seq = match view.delta.ids.get(&id) {
                Some(seq) => Some(*seq),
                None => view.reader.seq_of(id)?,
            };
            let found = seq.map(|seq| view.delta.call(&view.reader, seq)).transpose()?.flatten();
            let attempts = match &found {
                Some(call) if view.gap && call.attempts > 1 => view.reader.attempts_of(call.seq)?,
                _ => Vec::new(),
            };
            Ok((found, attempts, view.reader.reached.applied, view.gap))
        })?;
        if !gap {
            return Ok(found);
        }
        match found {
            // It begins in the tail, so the tail has all of it; or it ended long before what the file does not have.
            Some(call) if call.seq >= applied => Ok(Some(call)),
            Some(call) if call.settled_seq.is_some_and(|end| end + AGAIN < applied) => Ok(Some(call)),
            Some(call) => self.inner.life(id, Some(call), attempts, applied),
            None => match self.inner.begins_at(id, applied)? {
                Some(from) => self.inner.life(id, None, Vec::new(), from),
                None => Ok(None),
            },
        }
    }

    /// The call that a vendor's answer id belongs to, never behind: while the file is built anew, one that is not found
    /// may yet be, and that is an error.
    pub fn response(&self, provider: &str, response_id: &str) -> Result<Option<KnownResponse>, StoreError> {
        self.inner.view(|view| {
            let key = (provider.to_owned(), response_id.to_owned());
            let seq = match view.delta.responses.get(&key) {
                Some(seq) => Some(*seq),
                None => view.reader.response(provider, response_id)?,
            };
            let call = seq.map(|seq| view.delta.call(&view.reader, seq)).transpose()?.flatten();
            if call.is_none() && view.gap {
                return Err(StoreError::BeingBuilt { done: view.reader.reached.applied, of: self.inner.tail().end() });
            }
            Ok(call.map(|call| KnownResponse {
                call: call.id,
                attempt: call.attempts,
                open: call.outcome == Outcome::Running,
            }))
        })
    }
}

impl Inner {
    /// About where in the journal the call of an id began, if it is after `applied`: where the time in the id was, by a
    /// binary search; for an id without one, not too far back from the end.
    fn begins_at(&self, id: CallId, applied: u64) -> Result<Option<u64>, StoreError> {
        let end = self.tail().end();
        let at = Micros((id_time(id) as i64).saturating_mul(1_000).saturating_sub(EARLY));
        let (mut low, mut high) = (applied, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match (self.journal)(middle, 1)?.first() {
                Some((entry, _)) if entry.ts < at => low = middle + 1,
                _ => high = middle,
            }
        }
        if low == applied && applied > 0 {
            // Its time is one that the file has: it may be one of the last it has not, or its time says nothing.
            low = applied.max(end.saturating_sub(FAR));
        }
        Ok((low < end).then_some(low).or((end > applied).then(|| applied.max(end.saturating_sub(FAR)))))
    }

    /// The call of an id as its entries from `from` on make it, over what is known of it.
    fn life(&self, id: CallId, known: Option<Call>, attempts: Vec<u64>, from: u64) -> Result<Option<Call>, StoreError> {
        let end = self.tail().end();
        let latest = (id_time(id) as i64).saturating_mul(1_000).saturating_add(LATE);
        let mut mine = attempts;
        mine.extend(known.as_ref().map(|call| call.seq));
        let seq = known.as_ref().map(|call| call.seq);
        let mut base = One { call: known, attempts: mine.clone() };
        let (mut next, mut found) = (from, seq);
        while next < end {
            let entries = (self.journal)(next, READ)?;
            let Some((last, _)) = entries.last() else { break };
            next = last.seq + 1;
            let mut delta = Delta::default();
            for entry in &entries {
                let begins = match &entry.0.body {
                    Body::Admit(admit) => admit.call == id,
                    Body::Deny(deny) => deny.call == id,
                    _ => false,
                };
                if begins {
                    mine.push(entry.0.seq);
                    found.get_or_insert(entry.0.seq);
                }
                if begins || entry.0.reference.is_some_and(|r| mine.contains(&r)) {
                    delta.fold(&base, [entry])?;
                }
            }
            if let Some(call) = delta.calls.into_values().next() {
                base = One { call: Some(call), attempts: mine.clone() };
            }
            let ended = base.call.as_ref().and_then(|call| call.settled_seq);
            let over = match ended {
                Some(seq) => seq + AGAIN < next,
                // By now it would have begun, if its id tells the time at all.
                None => found.is_none() && last.ts.0 > latest && end - next > FAR,
            };
            if over {
                break;
            }
        }
        Ok(base.call)
    }
}

/// All that is known is one call.
struct One {
    call: Option<Call>,
    /// ADMITs of its attempts.
    attempts: Vec<u64>,
}

impl Base for One {
    fn call(&self, seq: u64) -> Result<Option<Call>, StoreError> {
        Ok(self.call.clone().filter(|call| call.seq == seq))
    }
    fn seq_of(&self, id: CallId) -> Result<Option<u64>, StoreError> {
        Ok(self.call.as_ref().filter(|call| call.id == id).map(|call| call.seq))
    }
    fn call_of_attempt(&self, admit: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.call.as_ref().filter(|_| self.attempts.contains(&admit)).map(|call| call.seq))
    }
    fn bucket(&self, _: u32, _: u32) -> Result<Option<Bucket>, StoreError> {
        Ok(None)
    }
    fn set_id(&self, _: &[u8]) -> Result<Option<u32>, StoreError> {
        Ok(None)
    }
    fn next_set(&self) -> Result<u32, StoreError> {
        Ok(0)
    }
}
