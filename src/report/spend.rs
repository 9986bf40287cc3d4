//! Spend by any dimension, in steps of any zone: sums of whole quarters where they suffice, the calls themselves where
//! they do not, and the same total either way.

use std::collections::HashMap;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::domain::{Call, Dimension};
use crate::rollup::{Calendar, DimSet, Measures, quarter_start};
use crate::store::Ledger;
use crate::store::views::Views;

use super::{ReportError, Spend, SpendQuery, SpendRow};

/// Most rows of one answer.
const MOST_ROWS: usize = 200_000;

/// Adds up what the query chooses.
pub fn spend(ledger: &Ledger, query: &SpendQuery) -> Result<Spend, ReportError> {
    spend_of(ledger.views(), query)
}

pub(super) fn spend_of(views: &Views, query: &SpendQuery) -> Result<Spend, ReportError> {
    let calendar = Calendar::new(&query.time_zone, query.step).map_err(|e| ReportError::invalid("tz", e))?;
    let filtered = query.filter.dimensions.iter().map(|(d, _)| *d);
    let mut groups = Groups { query, calendar, index: HashMap::new(), rows: Vec::new(), full: false };
    let as_of = if query.by.iter().copied().chain(filtered).all(DimSet::has) {
        from_sums(views, &mut groups)?
    } else {
        from_calls(views, &mut groups)?
    };
    if groups.full {
        let message = format!("more than {MOST_ROWS} rows: choose a shorter range, a wider step or fewer dimensions");
        return Err(ReportError::invalid("by", message));
    }
    let mut rows = groups.rows;
    rows.sort_by(|a, b| {
        b.measures.cost.cmp(&a.measures.cost).then_with(|| a.key.cmp(&b.key)).then_with(|| a.bucket.cmp(&b.bucket))
    });
    let mut total = Measures::default();
    rows.iter().for_each(|row| total.add(&row.measures));
    Ok(Spend { rows, total, as_of })
}

/// Values of the dimensions a query groups by.
type Key = Vec<Option<String>>;

fn from_sums(views: &Views, groups: &mut Groups<'_>) -> Result<super::AsOf, ReportError> {
    // What a combination of dimensions comes to is worked out once. The `Arc` kept with it keeps its address its own.
    let mut chosen: HashMap<*const DimSet, (Arc<DimSet>, Option<Key>)> = HashMap::new();
    let query = groups.query;
    let groups = std::cell::RefCell::new(groups);
    let as_of = views.tally(
        query.filter.from,
        query.filter.to,
        &mut |quarter, set, measures| {
            let (_, key) = chosen.entry(Arc::as_ptr(set)).or_insert_with(|| {
                let accepted = query.filter.accepts(|d| set.get(d));
                let key = accepted.then(|| query.by.iter().map(|d| set.get(*d).map(str::to_owned)).collect());
                (set.clone(), key)
            });
            if let Some(key) = key {
                groups.borrow_mut().add(key, quarter_start(quarter), measures);
            }
        },
        &mut |call| groups.borrow_mut().add_call(call),
    )?;
    Ok(as_of)
}

fn from_calls(views: &Views, groups: &mut Groups<'_>) -> Result<super::AsOf, ReportError> {
    let filter = &groups.query.filter;
    let as_of = views.counted(filter, &mut |call| groups.add_call(call))?;
    Ok(as_of)
}

struct Groups<'q> {
    query: &'q SpendQuery,
    calendar: Calendar,
    index: HashMap<(Key, Option<String>), usize>,
    rows: Vec<SpendRow>,
    full: bool,
}

impl Groups<'_> {
    fn add_call(&mut self, call: &Call) {
        let Some(measures) = Measures::of(call) else { return };
        if !self.query.filter.accepts(|d| call.dimension(d)) {
            return;
        }
        let key: Vec<_> = self.query.by.iter().map(|d| call.dimension(*d).map(str::to_owned)).collect();
        self.add(&key, call.started_at, &measures);
    }

    fn add(&mut self, key: &[Option<String>], at: crate::domain::Micros, measures: &Measures) {
        let place = (key.to_vec(), self.calendar.bucket(at));
        if let Some(row) = self.index.get(&place) {
            self.rows[*row].measures.add(measures);
            return;
        }
        if self.rows.len() >= MOST_ROWS {
            self.full = true;
            return;
        }
        let row = SpendRow { key: place.0.clone(), bucket: place.1.clone(), measures: measures.clone() };
        self.index.insert(place, self.rows.len());
        self.rows.push(row);
    }
}

/// A row as programs read it: its dimensions by name, its bucket, its sums.
pub struct SpendRowView<'a> {
    pub by: &'a [Dimension],
    pub row: &'a SpendRow,
}

/// The sums alone.
pub struct SpendTotalView<'a>(pub &'a Measures);

fn measures<M: SerializeMap>(map: &mut M, m: &Measures) -> Result<(), M::Error> {
    map.serialize_entry("calls", &m.calls)?;
    map.serialize_entry("refused", &m.refused)?;
    map.serialize_entry("failed", &m.failed)?;
    map.serialize_entry("unpriced", &m.unpriced)?;
    map.serialize_entry("estimated", &m.estimated)?;
    map.serialize_entry("tool_calls", &m.tool_calls)?;
    map.serialize_entry("usage", &m.usage)?;
    map.serialize_entry("cost_usd", &m.cost)?;
    map.serialize_entry("cost_basis", &m.cost_basis())?;
    map.serialize_entry("avoided_usd", &m.avoided)?;
    map.serialize_entry("coverage", &coverage(m))?;
    map.serialize_entry("total_ms", &m.total_ms)
}

/// The share of calls whose cost is known, as a decimal of four places; absent where there is no call.
pub(super) fn coverage(m: &Measures) -> Option<String> {
    let share = (u128::from(m.calls - m.unpriced) * 10_000).checked_div(u128::from(m.calls))?;
    Some(format!("{}.{:04}", share / 10_000, share % 10_000))
}

impl Serialize for SpendRowView<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for (dimension, value) in self.by.iter().zip(&self.row.key) {
            map.serialize_entry(dimension.name(), value)?;
        }
        if let Some(bucket) = &self.row.bucket {
            map.serialize_entry("bucket", bucket)?;
        }
        measures(&mut map, &self.row.measures)?;
        map.end()
    }
}

impl Serialize for SpendTotalView<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        measures(&mut map, self.0)?;
        map.end()
    }
}
