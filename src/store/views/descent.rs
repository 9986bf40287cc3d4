//! The stored calls of a range, newest first: rows and chunks as one sequence.

use std::ops::Range;

use crate::domain::{Call, Filter};
use crate::store::StoreError;

use super::chunk::Wanted;
use super::tables::{Reader, entries_of, stretch_of};

/// One step down.
pub enum Step {
    Call(Box<Call>),
    /// No call of what was looked at is wanted, down to this sequence.
    Passed(u64),
    End,
}

impl Step {
    /// Everything from this sequence on has been seen.
    pub fn seq(&self) -> u64 {
        match self {
            Step::Call(call) => call.seq,
            Step::Passed(seq) => *seq,
            Step::End => 0,
        }
    }
}

/// Goes down through a range. Calls in chunks are only made if the filter wants them; rows come as they are.
pub struct Descent<'r> {
    reader: &'r Reader<'r>,
    filter: &'r Filter,
    range: Range<u64>,
    rows: std::iter::Peekable<Box<dyn Iterator<Item = Result<Call, StoreError>> + 'r>>,
    /// Calls of the chunk that was opened last, ascending.
    chunk: Vec<Call>,
    /// Chunks before this stretch are still to come.
    next: u32,
}

impl<'r> Descent<'r> {
    pub fn new(reader: &'r Reader<'r>, range: Range<u64>, filter: &'r Filter) -> Result<Descent<'r>, StoreError> {
        let rows: Box<dyn Iterator<Item = _> + 'r> = Box::new(reader.rows(range.clone())?.rev());
        let last = range.end.min(reader.reached.sealed);
        let next = if last == 0 { 0 } else { stretch_of(last - 1)? + 1 };
        Ok(Descent { reader, filter, range, rows: rows.peekable(), chunk: Vec::new(), next })
    }

    pub fn next(&mut self) -> Result<Step, StoreError> {
        let row = match self.rows.peek() {
            None => None,
            Some(Ok(call)) => Some(call.seq),
            Some(Err(_)) => return self.take_row(),
        };
        if let Some(call) = self.chunk.last() {
            if row.is_some_and(|row| row > call.seq) {
                return self.take_row();
            }
            return Ok(self.chunk.pop().map_or(Step::End, |call| Step::Call(Box::new(call))));
        }
        let stretch = self.reader.chunk_before(self.next)?.filter(|s| entries_of(*s).end > self.range.start);
        let Some(stretch) = stretch else { return self.take_row() };
        // Rows that are younger than all of the next chunk come before it.
        if row.is_some_and(|row| row >= entries_of(stretch).end) {
            return self.take_row();
        }
        self.next = stretch;
        self.chunk =
            self.reader.chunk(stretch, &Wanted { filter: self.filter, range: self.range.clone(), id: None })?;
        if self.chunk.is_empty() && row.is_none_or(|row| row < entries_of(stretch).start) {
            return Ok(Step::Passed(entries_of(stretch).start.max(self.range.start)));
        }
        self.next()
    }

    fn take_row(&mut self) -> Result<Step, StoreError> {
        let row = self.rows.next().transpose()?;
        Ok(row.map_or(Step::End, |call| Step::Call(Box::new(call))))
    }
}
