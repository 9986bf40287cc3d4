//! Lists and sums: what is read of many calls at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Call, Dimension, Filter, Micros};
use crate::rollup::{DimSet, Measures, quarter_of, quarter_start};
use crate::store::{AsOf, StoreError};

use super::fold::Delta;
use super::passes::Pass;
use super::tables::{Reader, read_set};
use super::{Inner, View, Views, descent, sums};

use descent::{Descent, Step};

/// Rows read in one transaction.
const ROWS: usize = 50_000;
/// Longest transaction of a list.
const TIME: Duration = if cfg!(test) { Duration::from_micros(200) } else { Duration::from_millis(50) };
/// Bytes of sums read in one transaction.
const SUMS: usize = if cfg!(test) { 256 } else { 1 << 20 };
/// How often a pass begins anew because the follower was quicker, before it makes the follower wait.
const TRIES: usize = 4;

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

    /// The same, looking no longer than about `time`: where that did not suffice, the third is the sequence to go on
    /// before, and the calls are those found so far.
    pub fn calls_within(
        &self,
        filter: &Filter,
        before: Option<u64>,
        limit: usize,
        time: Duration,
    ) -> Result<(Vec<Call>, AsOf, Option<u64>), StoreError> {
        let mut calls = Vec::new();
        let (as_of, left) = self.walk(filter, before, Some(Instant::now() + time), &mut |call| {
            calls.push(call);
            calls.len() < limit
        })?;
        Ok((calls, as_of, left))
    }

    /// Visits calls of the filter, newest first, in short transactions, until `visit` says no. Gives as of which sequence
    /// the first of them was read: a call whose `settled_seq` is not before it was still running then.
    pub fn visit(
        &self,
        filter: &Filter,
        before: Option<u64>,
        visit: &mut dyn FnMut(Call) -> bool,
    ) -> Result<AsOf, StoreError> {
        Ok(self.walk(filter, before, None, visit)?.0)
    }

    /// [`Views::visit`] until an instant: where it came to no end by then, the sequence to go on before.
    fn walk(
        &self,
        filter: &Filter,
        before: Option<u64>,
        until: Option<Instant>,
        visit: &mut dyn FnMut(Call) -> bool,
    ) -> Result<(AsOf, Option<u64>), StoreError> {
        let mut before = before;
        let mut first = None;
        loop {
            let (as_of, resume) = self.inner.view(|view| Ok((view.as_of, page(view, filter, before, visit)?)))?;
            let first = *first.get_or_insert(as_of);
            if resume.is_none() || until.is_some_and(|until| Instant::now() >= until) {
                return Ok((first, resume));
            }
            before = resume;
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

    /// Every call of the range that has ended, or an attempt of which has, once: whole quarters of an hour as sums, what is left at the ragged ends as calls.
    /// All of one moment, which is what is given back, in many short transactions.
    pub fn tally(
        &self,
        from: Option<Micros>,
        to: Option<Micros>,
        sums: &mut dyn FnMut(u32, &Arc<DimSet>, &Measures),
        ends: &mut dyn FnMut(&Call),
    ) -> Result<AsOf, StoreError> {
        let moment = self.inner.moment()?;
        let first = from.map_or(0, |at| quarter_of(Micros(at.0.saturating_add(crate::domain::time::QUARTER - 1))));
        let last = to.map_or(u32::MAX, quarter_of);
        let range = |from, to| Filter { from, to, dimensions: Vec::new() };
        if first > last || (first == last && from.is_some() && to.is_some()) {
            self.inner.ends(&moment, &range(from, to), ends)?;
            return Ok(moment.as_of);
        }
        self.inner.sum(&moment, first..last, sums)?;
        if let Some(from) = from
            && from < quarter_start(first)
        {
            self.inner.ends(&moment, &range(Some(from), Some(quarter_start(first))), ends)?;
        }
        if let Some(to) = to
            && quarter_start(last) < to
        {
            self.inner.ends(&moment, &range(Some(quarter_start(last)), Some(to)), ends)?;
        }
        Ok(moment.as_of)
    }

    /// Every call of the filter that has ended, or an attempt of which has, once and of one moment, which is what is given
    /// back: for sums by what [`Views::tally`] does not know.
    pub fn counted(&self, filter: &Filter, visit: &mut dyn FnMut(&Call)) -> Result<AsOf, StoreError> {
        let moment = self.inner.moment()?;
        // A further attempt may change these: the call as it was then is asked, not as it is.
        let stays = |d: &Dimension| !matches!(d, Dimension::Provider | Dimension::Model | Dimension::Outcome);
        let dimensions = filter.dimensions.iter().filter(|(d, _)| stays(d)).cloned().collect();
        let wider = Filter { dimensions, ..*filter };
        self.inner.ends(&moment, &wider, &mut |call| {
            if filter.accepts(|d| call.dimension(d)) {
                visit(call);
            }
        })?;
        Ok(moment.as_of)
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
        let moment = self.inner.moment()?;
        self.inner.sum(&moment, from_quarter..to_quarter, visit)?;
        Ok(moment.as_of)
    }
}

/// One moment, to be read in many transactions.
struct Moment {
    pass: Arc<Pass>,
    as_of: AsOf,
    /// What the tail adds to the file as it was then.
    delta: Arc<Delta>,
}

impl Inner {
    /// Fixes a moment: what the follower overwrites from now on is put aside.
    fn moment(&self) -> Result<Moment, StoreError> {
        let look = || {
            self.view(|view| {
                // A tail that does not join the file has no sums.
                let delta = if view.gap { Arc::default() } else { view.delta.clone() };
                Ok((view.reader.reached, view.as_of, delta))
            })
        };
        for _ in 0..TRIES {
            let (reached, as_of, delta) = look()?;
            let (pass, now) = self.passes.begin(|| self.file(|reader| Ok(reader.reached)));
            if now? == reached {
                return Ok(Moment { pass, as_of, delta });
            }
        }
        let (pass, looked) = self.passes.begin(look);
        let (_, as_of, delta) = looked?;
        Ok(Moment { pass, as_of, delta })
    }

    /// Sums of quarters at that moment, in slices that are read in a short transaction each and looked at after it.
    fn sum(
        &self,
        moment: &Moment,
        range: Range<u32>,
        visit: &mut dyn FnMut(u32, &Arc<DimSet>, &Measures),
    ) -> Result<(), StoreError> {
        let mut sets = HashMap::new();
        let over = &moment.delta.buckets;
        let mut next = range.start;
        while next < range.end {
            let begun = next;
            let mut slice = BTreeMap::new();
            next = self.file(|reader| {
                let (mut bytes, mut reached) = (0, range.end);
                reader.quarters(begun..range.end, &mut |quarter, value| {
                    bytes += value.len();
                    slice.insert(quarter, Arc::<[u8]>::from(value));
                    let more = bytes < SUMS;
                    if !more {
                        reached = quarter + 1;
                    }
                    more
                })?;
                Ok(reached)
            })?;
            for quarter in moment.pass.quarters(begun..next) {
                match moment.pass.quarter(quarter).flatten() {
                    Some(before) => slice.insert(quarter, before),
                    None => slice.remove(&quarter),
                };
            }
            for (quarter, value) in &slice {
                sums::each(value, &mut |number, bucket| {
                    if !over.contains_key(&(*quarter, number)) {
                        visit(*quarter, self.set(&moment.delta, number, &mut sets)?, &bucket.measures);
                    }
                    Ok(())
                })?;
            }
        }
        for ((quarter, number), bucket) in over.range((range.start, 0)..(range.end, 0)) {
            if !bucket.is_empty() {
                visit(*quarter, self.set(&moment.delta, *number, &mut sets)?, &bucket.measures);
            }
        }
        Ok(())
    }

    fn set<'s>(
        &self,
        delta: &Delta,
        number: u32,
        known: &'s mut HashMap<u32, Arc<DimSet>>,
    ) -> Result<&'s Arc<DimSet>, StoreError> {
        match known.entry(number) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let new = number.checked_sub(delta.first_new_set).and_then(|n| delta.new_sets.get(n as usize));
                Ok(place.insert(match new {
                    Some(key) => Arc::new(read_set(key)?),
                    None => self.file(|reader: &Reader<'_>| reader.set(number))?,
                }))
            }
        }
    }

    /// The calls of a range that were part of the sums at that moment.
    fn ends(&self, moment: &Moment, filter: &Filter, visit: &mut dyn FnMut(&Call)) -> Result<(), StoreError> {
        let mut before = Some(moment.as_of.seq);
        while before.is_some() {
            before = self.reader(|reader| {
                let view = View { reader, delta: moment.delta.clone(), as_of: moment.as_of, gap: false };
                page(&view, filter, before, &mut |call| {
                    let in_tail = moment.delta.calls.contains_key(&call.seq);
                    let then = if in_tail { None } else { moment.pass.call(call.seq) };
                    let call = then.as_deref().unwrap_or(&call);
                    // One that runs again and was not put aside ran again then, too.
                    if call.settled_seq.map_or(call.counts(), |seq| seq < moment.as_of.seq) {
                        visit(call);
                    }
                    true
                })
            })?;
        }
        Ok(())
    }
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
    let high = filter.to.map_or(Ok(u64::MAX), |at| view.reader.end_at(at))?;
    let high = high.min(before.unwrap_or(u64::MAX));
    let mut stored = Descent::new(&view.reader, low..high.max(low), filter)?;
    let mut step = stored.next()?;
    // The search above knows the file only; rows of the tail are few, and each is looked at.
    let end = before.map_or(Bound::Unbounded, Bound::Excluded);
    let tail = if view.gap { None } else { Some(view.delta.calls.range((Bound::Unbounded, end)).rev()) };
    let mut tail = tail.into_iter().flatten().peekable();
    let mut rows = 0;
    loop {
        let here = step.seq();
        let call = match tail.next_if(|(seq, _)| **seq >= here) {
            Some((seq, call)) => {
                if *seq == here && matches!(step, Step::Call(_)) {
                    step = stored.next()?;
                }
                Some(call.clone())
            }
            None => match std::mem::replace(&mut step, Step::End) {
                Step::End => return Ok(None),
                Step::Passed(seq) => {
                    if began.elapsed() > TIME {
                        return Ok(Some(seq));
                    }
                    step = stored.next()?;
                    None
                }
                Step::Call(call) => {
                    step = stored.next()?;
                    Some(*call)
                }
            },
        };
        let Some(call) = call else { continue };
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
