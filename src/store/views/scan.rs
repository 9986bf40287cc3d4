//! Lists and sums: what is read of many calls at once.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::{Call, Filter, Micros};
use crate::rollup::{DimSet, Measures, quarter_of, quarter_start};
use crate::store::{AsOf, StoreError};

use super::{View, Views};

/// Rows read in one transaction.
const ROWS: usize = 50_000;
/// Longest transaction of a list.
const TIME: Duration = Duration::from_millis(50);

impl Views {
    /// Calls of the filter, newest first, starting before the sequence `before`.
    pub fn calls(&self, filter: &Filter, before: Option<u64>, limit: usize) -> Result<(Vec<Call>, AsOf), StoreError> {
        let mut calls = Vec::new();
        if limit == 0 {
            return Ok((calls, self.inner.view(|view| Ok(view.as_of))?));
        }
        let as_of = self.visit(filter, before, &mut |call| {
            calls.push(call);
            calls.len() < limit
        })?;
        Ok((calls, as_of))
    }

    /// Visits calls of the filter, newest first, in short transactions, until `visit` says no. Gives as of which sequence
    /// the first of them was read: a call whose `settled_seq` is not before it was still running then.
    pub fn visit(
        &self,
        filter: &Filter,
        before: Option<u64>,
        visit: &mut dyn FnMut(Call) -> bool,
    ) -> Result<AsOf, StoreError> {
        let mut before = before;
        let mut first = None;
        loop {
            let (as_of, resume) = self.inner.view(|view| Ok((view.as_of, page(view, filter, before, visit)?)))?;
            let first = *first.get_or_insert(as_of);
            match resume {
                Some(seq) => before = Some(seq),
                None => return Ok(first),
            }
        }
    }

    /// Visits calls of the filter that began with the entries `from..to`, newest first.
    pub fn visit_since(
        &self,
        filter: &Filter,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(Call),
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        // Calls outside the filter are looked at too, so that the walk ends where it should.
        let range = Filter { from: filter.from, to: filter.to, dimensions: Vec::new() };
        self.visit(&range, Some(to), &mut |call| {
            let inside = call.seq >= from;
            if inside && filter.accepts(|d| call.dimension(d)) {
                visit(call);
            }
            inside
        })?;
        Ok(())
    }

    /// Every call of the range once: whole quarters of an hour as sums, what is left at the ragged ends as calls. One
    /// consistent look; running calls come only as calls.
    pub fn tally(
        &self,
        from: Option<Micros>,
        to: Option<Micros>,
        sums: &mut dyn FnMut(u32, &Arc<DimSet>, &Measures),
        ends: &mut dyn FnMut(&Call),
    ) -> Result<AsOf, StoreError> {
        let _quiet = self.inner.quiet.read().unwrap_or_else(PoisonError::into_inner);
        let first = from.map_or(0, |at| quarter_of(Micros(at.0.saturating_add(crate::domain::time::QUARTER - 1))));
        let last = to.map_or(u32::MAX, quarter_of);
        self.inner.view(|view| {
            if first > last || (first == last && from.is_some() && to.is_some()) {
                let whole = Filter { from, to, dimensions: Vec::new() };
                drain(view, &whole, ends)?;
                return Ok(view.as_of);
            }
            sum(view, first, last, sums)?;
            if let Some(from) = from
                && from < quarter_start(first)
            {
                drain(
                    view,
                    &Filter { from: Some(from), to: Some(quarter_start(first)), dimensions: Vec::new() },
                    ends,
                )?;
            }
            if let Some(to) = to
                && quarter_start(last) < to
            {
                drain(view, &Filter { from: Some(quarter_start(last)), to: Some(to), dimensions: Vec::new() }, ends)?;
            }
            Ok(view.as_of)
        })
    }

    /// As of which entry an answer given now would be.
    pub fn as_of(&self) -> Result<AsOf, StoreError> {
        self.inner.view(|view| Ok(view.as_of))
    }

    /// Sums of the quarters `from_quarter..to_quarter`.
    pub fn rollups(
        &self,
        from_quarter: u32,
        to_quarter: u32,
        visit: &mut dyn FnMut(u32, &Arc<DimSet>, &Measures),
    ) -> Result<AsOf, StoreError> {
        let _quiet = self.inner.quiet.read().unwrap_or_else(PoisonError::into_inner);
        self.inner.view(|view| {
            sum(view, from_quarter, to_quarter, visit)?;
            Ok(view.as_of)
        })
    }
}

fn sum(
    view: &View<'_>,
    from: u32,
    to: u32,
    visit: &mut dyn FnMut(u32, &Arc<DimSet>, &Measures),
) -> Result<(), StoreError> {
    let empty = BTreeMap::new();
    // Where the tail does not join the file its sums are of no use: the answer is as of the file.
    let over = if view.gap { &empty } else { &view.delta.buckets };
    let over: BTreeMap<(u32, &Arc<DimSet>), _> = over
        .iter()
        .filter(|((q, _), _)| (from..to).contains(q))
        .map(|((q, set), bucket)| ((*q, set), bucket))
        .collect();
    view.reader.buckets(from, to, &mut |quarter, set, bucket| {
        if !over.contains_key(&(quarter, &set)) {
            visit(quarter, &set, &bucket.measures);
        }
        Ok(())
    })?;
    for ((quarter, set), bucket) in over {
        if !bucket.is_empty() {
            visit(quarter, set, &bucket.measures);
        }
    }
    Ok(())
}

/// All calls of a short range, in this transaction.
fn drain(view: &View<'_>, filter: &Filter, visit: &mut dyn FnMut(&Call)) -> Result<(), StoreError> {
    let mut before = None;
    while let Some(seq) = page(view, filter, before, &mut |call| {
        visit(&call);
        true
    })? {
        before = Some(seq);
    }
    Ok(())
}

/// Visits one transaction's worth of calls. `Some`: there may be more before this sequence.
fn page(
    view: &View<'_>,
    filter: &Filter,
    before: Option<u64>,
    visit: &mut dyn FnMut(Call) -> bool,
) -> Result<Option<u64>, StoreError> {
    let began = Instant::now();
    let low = filter.from.map_or(Ok(0), |at| view.reader.first_at(at))?;
    let high = filter.to.map_or(Ok(u64::MAX), |at| view.reader.first_at(at))?;
    let high = high.min(before.unwrap_or(u64::MAX));
    let mut stored = view.reader.calls_down(low, high)?.peekable();
    // The search above knows the file only; rows of the tail are few, and each is looked at.
    let end = before.map_or(Bound::Unbounded, Bound::Excluded);
    let tail = if view.gap { None } else { Some(view.delta.calls.range((Bound::Unbounded, end)).rev()) };
    let mut tail = tail.into_iter().flatten().peekable();
    let mut rows = 0;
    loop {
        let newer = match (stored.peek(), tail.peek()) {
            (None, None) => return Ok(None),
            (Some(Ok((seq, _))), Some((over, _))) => **over >= *seq,
            (Some(_), _) => false,
            (None, Some(_)) => true,
        };
        let call = if newer {
            let Some((seq, call)) = tail.next() else { continue };
            if matches!(stored.peek(), Some(Ok((same, _))) if same == seq) {
                stored.next();
            }
            call.clone()
        } else {
            match stored.next() {
                Some(row) => row?.1,
                None => continue,
            }
        };
        let seq = call.seq;
        if filter.in_range(call.started_at) && filter.accepts(|d| call.dimension(d)) && !visit(call) {
            return Ok(None);
        }
        rows += 1;
        if rows >= ROWS || (rows % 256 == 0 && began.elapsed() > TIME) {
            return Ok(Some(seq));
        }
    }
}
