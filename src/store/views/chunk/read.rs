//! Reads chunks: what [`super::encode`] took apart, put together again for the calls that are wanted.

use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;

use crate::domain::call::BudgetHold;
use crate::domain::{Attribution, Call, CallId, CostLine, Dimension, Filter, Micros, Money, Usage};
use crate::store::StoreError;
use crate::store::views::bytes::{missing, take, take_signed, take_slice, unpack};
use crate::store::views::tables::damaged;

use super::{Asked, COLUMNS, Column, Ended, ID_TIME_BITS, LAYOUT, Rare, parts_charged, worth};

/// What a reader wants of a chunk.
pub struct Wanted<'a> {
    pub filter: &'a Filter,
    /// Sequences looked at.
    pub range: Range<u64>,
    /// Only the call of this id.
    pub id: Option<CallId>,
}

/// Sections of a chunk, unpacked.
struct Decoder<'a> {
    columns: [&'a [u8]; COLUMNS],
    text: &'a [u8],
    raw: &'a [u8],
    callers: Vec<Option<Attribution>>,
    asked: Vec<Asked>,
    ended: Vec<Ended>,
    runs: Vec<&'a [u8]>,
    prefixes: Vec<&'a [u8]>,
    /// What the filter says of a caller, a request and an ending together.
    judged: HashMap<(usize, usize, usize), bool>,
}

/// The wanted calls of a chunk, ascending.
pub fn decode(chunk: &[u8], wanted: &Wanted<'_>) -> Result<Vec<Call>, StoreError> {
    let Some((&LAYOUT, mut rest)) = chunk.split_first() else {
        return Err(damaged("a chunk of an unknown version"));
    };
    let count = take(&mut rest)?;
    let words = unpack(&mut rest)?;
    let mut words = words.as_slice();
    let mut dictionary = || -> Result<Vec<&[u8]>, StoreError> {
        let count = take(&mut words)?;
        (0..count).map(|_| take_slice(&mut words)).collect()
    };
    let (callers, asked, ended) = (coded(dictionary()?)?, coded(dictionary()?)?, coded(dictionary()?)?);
    let (runs, prefixes) = (dictionary()?, dictionary()?);
    if !may_have(wanted.filter, &callers, &asked, &ended, &runs) {
        return Ok(Vec::new());
    }
    let (numbers, text) = (unpack(&mut rest)?, unpack(&mut rest)?);
    let mut numbers = numbers.as_slice();
    let mut columns = [&[][..]; COLUMNS];
    for column in &mut columns {
        *column = take_slice(&mut numbers)?;
    }
    let mut decoder =
        Decoder { columns, text: &text, raw: rest, callers, asked, ended, runs, prefixes, judged: HashMap::new() };
    let mut calls = Vec::new();
    let mut before = (0, 0);
    for _ in 0..count {
        calls.extend(decoder.call(&mut before, wanted)?);
    }
    Ok(calls)
}

/// Whether a chunk of these words may have a call of the filter: most chunks do not have a rare value, and the rest of
/// those needs not be unpacked. Each dimension is judged by itself, so that some pass that have none.
fn may_have(
    filter: &Filter,
    callers: &[Option<Attribution>],
    asked: &[Asked],
    ended: &[Ended],
    runs: &[&[u8]],
) -> bool {
    filter.dimensions.iter().all(|wanted| {
        let dimension = wanted.0;
        let of_it = filter.dimensions.iter().filter(|(d, _)| *d == dimension).cloned().collect();
        let one = Filter { from: None, to: None, dimensions: of_it };
        let fits = |value: Option<&str>| one.accepts(|_| value);
        match dimension {
            Dimension::Run => fits(None) || runs.iter().any(|run| fits(std::str::from_utf8(run).ok())),
            Dimension::Provider => asked.iter().any(|asked| fits(asked.provider.as_deref())),
            Dimension::Model => {
                let served = ended.iter().map(|ended| ended.model_served.as_deref());
                served.chain(asked.iter().map(|asked| asked.model.as_deref())).any(fits)
            }
            Dimension::Outcome => ended.iter().any(|ended| fits(Some(ended.outcome.name()))),
            _ => callers.iter().any(|who| fits(who.as_ref().and_then(|who| who.dimension(dimension)))),
        }
    })
}

fn coded<T: for<'d> Deserialize<'d>>(words: Vec<&[u8]>) -> Result<Vec<T>, StoreError> {
    words.into_iter().map(|word| postcard::from_bytes(word).map_err(damaged)).collect()
}

/// An id of a vendor, found and not yet made.
enum IdText<'a> {
    None,
    Hex(&'a [u8], &'a [u8]),
    Plain(&'a [u8], &'a [u8]),
}

impl IdText<'_> {
    fn make(&self) -> Result<Option<String>, StoreError> {
        let (prefix, rest) = match self {
            IdText::None => return Ok(None),
            IdText::Hex(prefix, bytes) => (prefix, data_encoding::HEXLOWER.encode(bytes).into_bytes()),
            IdText::Plain(prefix, rest) => (prefix, rest.to_vec()),
        };
        String::from_utf8([prefix.to_vec(), rest].concat()).map(Some).map_err(damaged)
    }
}

impl<'a> Decoder<'a> {
    fn take(&mut self, column: Column) -> Result<u64, StoreError> {
        take(&mut self.columns[column as usize])
    }

    fn take_signed(&mut self, column: Column) -> Result<i128, StoreError> {
        take_signed(&mut self.columns[column as usize])
    }

    fn take_maybe(&mut self, column: Column) -> Result<Option<u32>, StoreError> {
        let n = self.take(column)?;
        n.checked_sub(1).map(|n| u32::try_from(n).map_err(damaged)).transpose()
    }

    fn take_word(&mut self, column: Column) -> Result<usize, StoreError> {
        usize::try_from(self.take(column)?).map_err(damaged)
    }

    fn id_text(&mut self, column: Column) -> Result<IdText<'a>, StoreError> {
        let Some(shape) = self.take(column)?.checked_sub(1) else { return Ok(IdText::None) };
        let length = self.take_word(column)?;
        let prefix = self.prefixes.get((shape >> 1) as usize).copied().ok_or_else(missing)?;
        let (from, length) = if shape & 1 == 1 { (&mut self.raw, length / 2) } else { (&mut self.text, length) };
        let (bytes, rest) = from.split_at_checked(length).ok_or_else(missing)?;
        *from = rest;
        Ok(if shape & 1 == 1 { IdText::Hex(prefix, bytes) } else { IdText::Plain(prefix, bytes) })
    }

    /// Takes the next call off the columns, and makes it if it is wanted.
    fn call(&mut self, before: &mut (u64, i64), wanted: &Wanted<'_>) -> Result<Option<Call>, StoreError> {
        let places = (self.take_word(Column::Caller)?, self.take_word(Column::Asked)?, self.take_word(Column::Ended)?);
        let run = self.take_word(Column::Run)?;
        let seq = before.0 + self.take(Column::Seq)?;
        let settled_seq = self.take(Column::Settled)?.checked_sub(1).map(|after| seq + after);
        let started = i64::try_from(i128::from(before.1) + self.take_signed(Column::Started)?).map_err(damaged)?;
        *before = (seq, started);
        let took = self.take_signed(Column::Completed)?;
        let id_time = i128::from(started.div_euclid(1_000)) + self.take_signed(Column::IdTime)?;
        let (id, rest) = self.raw.split_first_chunk::<10>().ok_or_else(missing)?;
        self.raw = rest;
        let (usage, cost_lines, cost, hold, holds) = self.money(places)?;
        let (request_id, response_id) = (self.id_text(Column::RequestId)?, self.id_text(Column::ResponseId)?);
        let (first_byte_ms, total_ms) = (self.take_maybe(Column::FirstByte)?, self.take_maybe(Column::Total)?);
        let overhead_us = self.take_maybe(Column::Overhead)?;
        let rare = take_slice(&mut self.columns[Column::Rare as usize])?;
        let run = run.checked_sub(1).map(|run| self.runs.get(run).copied().ok_or_else(missing)).transpose()?;
        let mut bytes = [0; 16];
        bytes[6..].copy_from_slice(id);
        let id = CallId(u128::from_be_bytes(bytes) | (id_time as u128) << ID_TIME_BITS);
        if !wanted.range.contains(&seq)
            || wanted.id.is_some_and(|wanted| wanted != id)
            || !wanted.filter.in_range(Micros(started))
            || !self.judge(places, run, wanted.filter)?
        {
            return Ok(None);
        }
        let (who, asked, ended) = self.words(places)?;
        let mut who = who.clone();
        if let (Some(who), Some(run)) = (&mut who, run) {
            who.run = Some(String::from_utf8(run.to_vec()).map_err(damaged)?);
        }
        let rare = if rare.is_empty() { None } else { Some(postcard::from_bytes::<Rare>(rare).map_err(damaged)?) };
        let (claimed, retry_of) = rare.map_or_else(Default::default, |rare| (rare.claimed, rare.retry_of));
        let holds = asked.holds.iter().zip(holds);
        Ok(Some(Call {
            id,
            seq,
            settled_seq,
            started_at: Micros(started),
            completed_at: match took {
                0 => None,
                took if took > 0 => Some(Micros(started + (took - 1) as i64)),
                took => Some(Micros(started + took as i64)),
            },
            outcome: ended.outcome,
            refusal: ended.refusal.clone(),
            who,
            claimed,
            provider: asked.provider.clone(),
            dialect: asked.dialect.clone(),
            endpoint: asked.endpoint.clone(),
            unmetered: asked.unmetered,
            stream: asked.stream,
            model_requested: asked.model.clone(),
            model_served: ended.model_served.clone(),
            http_status: ended.http_status,
            provider_request_id: request_id.make()?,
            response_id: response_id.make()?,
            finish_reason: ended.finish_reason.clone(),
            service_tier: ended.service_tier.clone(),
            usage,
            usage_basis: ended.usage_basis,
            tools_offered: asked.tools_offered,
            tools_called: ended.tools_called,
            tool_names: ended.tool_names.clone(),
            cost,
            cost_basis: ended.cost_basis,
            cost_lines,
            price_model: ended.price_model.clone(),
            price_book: asked.price_book,
            hold,
            holds: holds
                .map(|((budget, period), amount)| BudgetHold { budget: budget.clone(), period: period.clone(), amount })
                .collect(),
            output_limit: asked.output_limit,
            catalogue_revision: asked.catalogue_revision,
            attempts: ended.attempts,
            retry_of,
            first_byte_ms,
            total_ms,
            overhead_us,
            flags: ended.flags.clone(),
            stands_for: ended.stands_for,
        }))
    }

    fn words(&self, places: (usize, usize, usize)) -> Result<(&Option<Attribution>, &Asked, &Ended), StoreError> {
        let words = self.callers.get(places.0).zip(self.asked.get(places.1)).zip(self.ended.get(places.2));
        words.map(|((who, asked), ended)| (who, asked, ended)).ok_or_else(missing)
    }

    /// Whether the filter wants a call of these words.
    fn judge(
        &mut self,
        places: (usize, usize, usize),
        run: Option<&[u8]>,
        filter: &Filter,
    ) -> Result<bool, StoreError> {
        let by_run = filter.dimensions.iter().any(|(dimension, _)| *dimension == Dimension::Run);
        if let (false, Some(known)) = (by_run, self.judged.get(&places)) {
            return Ok(*known);
        }
        let (who, asked, ended) = self.words(places)?;
        let run = run.and_then(|run| std::str::from_utf8(run).ok());
        let accepted = filter.accepts(|dimension| match dimension {
            Dimension::Run => run,
            Dimension::Provider => asked.provider.as_deref(),
            Dimension::Model => ended.model_served.as_deref().or(asked.model.as_deref()),
            Dimension::Outcome => Some(ended.outcome.name()),
            _ => who.as_ref()?.dimension(dimension),
        });
        if !by_run {
            self.judged.insert(places, accepted);
        }
        Ok(accepted)
    }

    #[allow(clippy::type_complexity)]
    fn money(
        &mut self,
        places: (usize, usize, usize),
    ) -> Result<(Usage, Vec<CostLine>, Option<Money>, Money, Vec<i128>), StoreError> {
        let mut columns = self.columns;
        let (_, asked, ended) = self.words(places)?;
        let mut usage = Usage::new();
        for component in &ended.usage {
            usage.set(*component, take(&mut columns[Column::Usage as usize])?);
        }
        let (mut lines, mut follow) = (Vec::with_capacity(ended.lines.len()), Vec::with_capacity(ended.lines.len()));
        for line in &ended.lines {
            let shape = take(&mut columns[Column::Cost as usize])?;
            let quantity = match shape >> 1 {
                0 | 1 => usage.get(line.component).ok_or_else(missing)?,
                _ => take(&mut columns[Column::Quantity as usize])?,
            };
            let follows = shape & 1 == 1;
            let cost = if follows { 0 } else { take_signed(&mut columns[Column::Quantity as usize])? };
            follow.push((shape >> 1 == 1, follows));
            lines.push(CostLine {
                component: line.component,
                quantity,
                unit_price_usd: line.unit_price_usd.clone(),
                per: line.per,
                tier_from_tokens: line.tier_from_tokens,
                cost_usd: Money(cost),
            });
        }
        finish_lines(&mut lines, &follow)?;
        let cost = match take(&mut columns[Column::Cost as usize])? {
            0 => None,
            1 => Some(Money(lines.iter().fold(0i128, |sum, line| sum.wrapping_add(line.cost_usd.0)))),
            _ => Some(Money(take_signed(&mut columns[Column::Quantity as usize])?)),
        };
        let hold = take_signed(&mut columns[Column::Hold as usize])?;
        let holds = asked.holds.iter().map(|_| {
            let more = take_signed(&mut columns[Column::Holds as usize])?;
            Ok(more.wrapping_add(hold))
        });
        let holds = holds.collect::<Result<_, StoreError>>()?;
        self.columns = columns;
        Ok((usage, lines, cost, Money(hold), holds))
    }
}

/// Works out what was left out of lines because it follows from the rest. A quantity that is what its parts leave comes
/// after those: the parts of parts first.
fn finish_lines(lines: &mut [CostLine], follow: &[(bool, bool)]) -> Result<(), StoreError> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lines[*i].component.parents().len()));
    for i in order {
        let (rest, follows) = follow[i];
        if rest {
            let parts = parts_charged(lines[i].component, lines);
            lines[i].quantity = lines[i].quantity.checked_sub(parts).ok_or_else(missing)?;
        }
        if follows {
            let line = &lines[i];
            lines[i].cost_usd = worth(line.quantity, &line.unit_price_usd, line.per).ok_or_else(missing)?;
        }
    }
    Ok(())
}
