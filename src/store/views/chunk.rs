//! The calls of a sealed stretch of the journal as one value: by column, words once, compressed; about a fifth of what
//! rows take.
//!
//! What a call says falls into words that recur (who called, what was asked, how it ended), numbers, and random ids.
//! Words become entries of three dictionaries of the chunk, each written once; numbers are columns of variable length,
//! as differences where that is small; random bytes stay as they are, beside the rest, since compressing them only costs.
//! What follows from other fields (a line's cost from its price, a sum from its lines) is marked as such after it was
//! checked, never assumed: what was put in comes out, bit for bit.
//!
//! A chunk needs nothing but itself to be read, and rows that a filter does not want are skipped without being made.

mod read;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Call, CallId, Code, Component, CostBasis, CostLine, Money, Outcome, UsageBasis};
use crate::store::StoreError;

use super::bytes::{Packer, put, put_signed};
use super::tables::damaged;

pub use read::{Wanted, decode};

/// First byte of a chunk.
const LAYOUT: u8 = 1;
/// Milliseconds of an id stand in its upper 48 bits (UUIDv7).
const ID_TIME_BITS: u32 = 80;

/// What was asked for.
#[derive(Serialize, Deserialize)]
struct Asked {
    provider: Option<String>,
    dialect: Option<String>,
    endpoint: String,
    unmetered: bool,
    stream: bool,
    model: Option<String>,
    tools_offered: u32,
    price_book: u32,
    catalogue_revision: u64,
    /// Budget and period.
    holds: Vec<(String, String)>,
    output_limit: Option<u64>,
}

/// How it ended.
#[derive(Serialize, Deserialize)]
struct Ended {
    outcome: Outcome,
    refusal: Option<(Code, Option<String>)>,
    model_served: Option<String>,
    http_status: Option<u16>,
    finish_reason: Option<String>,
    service_tier: Option<String>,
    /// The counts that are known.
    usage: Vec<Component>,
    usage_basis: UsageBasis,
    tools_called: u32,
    tool_names: Vec<String>,
    cost_basis: CostBasis,
    lines: Vec<Line>,
    price_model: Option<String>,
    attempts: u8,
    flags: Vec<String>,
    stands_for: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    component: Component,
    unit_price_usd: String,
    per: u64,
    tier_from_tokens: u64,
}

/// What few calls have.
#[derive(Serialize, Deserialize)]
struct Rare {
    claimed: std::collections::BTreeMap<String, String>,
    retry_of: Option<CallId>,
}

/// Columns of numbers, in the order in which they are written.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Column {
    Caller,
    Asked,
    Ended,
    Run,
    Seq,
    Settled,
    Started,
    Completed,
    IdTime,
    Usage,
    Cost,
    Quantity,
    Hold,
    Holds,
    FirstByte,
    Total,
    Overhead,
    RequestId,
    ResponseId,
    Rare,
}
const COLUMNS: usize = Column::Rare as usize + 1;

/// Words of a chunk, each once, by number.
#[derive(Default)]
struct Words {
    numbers: HashMap<Vec<u8>, u64>,
    all: Vec<u8>,
}

impl Words {
    fn number(&mut self, word: Vec<u8>) -> u64 {
        let next = self.numbers.len() as u64;
        if let Some(known) = self.numbers.get(&word) {
            return *known;
        }
        put(&mut self.all, word.len() as u64);
        self.all.extend_from_slice(&word);
        self.numbers.insert(word, next);
        next
    }

    fn coded(&mut self, word: &impl Serialize) -> Result<u64, StoreError> {
        Ok(self.number(postcard::to_stdvec(word).map_err(damaged)?))
    }
}

struct Encoder {
    columns: [Vec<u8>; COLUMNS],
    callers: Words,
    asked: Words,
    ended: Words,
    runs: Words,
    prefixes: Words,
    /// Bytes that nothing compresses.
    raw: Vec<u8>,
    text: Vec<u8>,
}

/// The calls of one stretch, ascending by sequence, as one value.
pub fn encode(calls: Vec<Call>, packer: &mut Packer) -> Result<Vec<u8>, StoreError> {
    let count = calls.len() as u64;
    let mut encoder = Encoder {
        columns: Default::default(),
        callers: Words::default(),
        asked: Words::default(),
        ended: Words::default(),
        runs: Words::default(),
        prefixes: Words::default(),
        raw: Vec::with_capacity(calls.len() * 32),
        text: Vec::with_capacity(calls.len() * 32),
    };
    let mut before = (0, 0);
    for call in calls {
        let here = (call.seq, call.started_at.0);
        encoder.call(call, before)?;
        before = here;
    }
    encoder.finish(count, packer)
}

impl Encoder {
    fn put(&mut self, column: Column, n: u64) {
        put(&mut self.columns[column as usize], n);
    }

    fn put_signed(&mut self, column: Column, n: i128) {
        put_signed(&mut self.columns[column as usize], n);
    }

    fn put_maybe(&mut self, column: Column, n: Option<u32>) {
        self.put(column, n.map_or(0, |n| u64::from(n) + 1));
    }

    fn call(&mut self, mut call: Call, before: (u64, i64)) -> Result<(), StoreError> {
        let run = call.who.as_mut().and_then(|who| who.run.take());
        let number = self.callers.coded(&call.who)?;
        self.put(Column::Caller, number);
        let number = run.map_or(0, |run| 1 + self.runs.number(run.into_bytes()));
        self.put(Column::Run, number);
        self.put(Column::Seq, call.seq - before.0);
        self.put(Column::Settled, call.settled_seq.map_or(0, |seq| 1 + seq.saturating_sub(call.seq)));
        self.put_signed(Column::Started, i128::from(call.started_at.0) - i128::from(before.1));
        let took = call.completed_at.map(|at| i128::from(at.0) - i128::from(call.started_at.0));
        // Zero says that there is none.
        self.put_signed(Column::Completed, took.map_or(0, |took| if took >= 0 { took + 1 } else { took }));
        let millis = i128::from(call.started_at.0.div_euclid(1_000));
        self.put_signed(Column::IdTime, (call.id.0 >> ID_TIME_BITS) as i128 - millis);
        self.raw.extend_from_slice(&call.id.0.to_be_bytes()[6..]);
        self.money(&call);
        for (column, text) in [(Column::RequestId, &call.provider_request_id), (Column::ResponseId, &call.response_id)]
        {
            self.id_text(column, text.as_deref());
        }
        self.put_maybe(Column::FirstByte, call.first_byte_ms);
        self.put_maybe(Column::Total, call.total_ms);
        self.put_maybe(Column::Overhead, call.overhead_us);
        let rare = Rare { claimed: call.claimed, retry_of: call.retry_of };
        if rare.claimed.is_empty() && rare.retry_of.is_none() {
            self.put(Column::Rare, 0);
        } else {
            let bytes = postcard::to_stdvec(&rare).map_err(damaged)?;
            self.put(Column::Rare, bytes.len() as u64);
            self.columns[Column::Rare as usize].extend_from_slice(&bytes);
        }
        let asked = Asked {
            provider: call.provider,
            dialect: call.dialect,
            endpoint: call.endpoint,
            unmetered: call.unmetered,
            stream: call.stream,
            model: call.model_requested,
            tools_offered: call.tools_offered,
            price_book: call.price_book,
            catalogue_revision: call.catalogue_revision,
            holds: call.holds.into_iter().map(|hold| (hold.budget, hold.period)).collect(),
            output_limit: call.output_limit,
        };
        let number = self.asked.coded(&asked)?;
        self.put(Column::Asked, number);
        let line = |line: CostLine| Line {
            component: line.component,
            unit_price_usd: line.unit_price_usd,
            per: line.per,
            tier_from_tokens: line.tier_from_tokens,
        };
        let ended = Ended {
            outcome: call.outcome,
            refusal: call.refusal,
            model_served: call.model_served,
            http_status: call.http_status,
            finish_reason: call.finish_reason,
            service_tier: call.service_tier,
            usage: call.usage.iter().map(|(component, _)| component).collect(),
            usage_basis: call.usage_basis,
            tools_called: call.tools_called,
            tool_names: call.tool_names,
            cost_basis: call.cost_basis,
            lines: call.cost_lines.into_iter().map(line).collect(),
            price_model: call.price_model,
            attempts: call.attempts,
            flags: call.flags,
            stands_for: call.stands_for,
        };
        let number = self.ended.coded(&ended)?;
        self.put(Column::Ended, number);
        Ok(())
    }

    /// Usage, lines, cost and holds.
    fn money(&mut self, call: &Call) {
        for (_, count) in call.usage.iter() {
            self.put(Column::Usage, count);
        }
        let mut lines = 0i128;
        for line in &call.cost_lines {
            let own = call.usage.get(line.component);
            let rest = own.and_then(|own| own.checked_sub(parts_charged(line.component, &call.cost_lines)));
            let quantity = match line.quantity {
                n if own == Some(n) => 0,
                n if rest == Some(n) => 1,
                _ => 2,
            };
            let follows = worth(line.quantity, &line.unit_price_usd, line.per) == Some(line.cost_usd);
            self.put(Column::Cost, quantity << 1 | u64::from(follows));
            if quantity == 2 {
                self.put(Column::Quantity, line.quantity);
            }
            if !follows {
                self.put_signed(Column::Quantity, line.cost_usd.0);
            }
            lines = lines.wrapping_add(line.cost_usd.0);
        }
        match call.cost {
            None => self.put(Column::Cost, 0),
            Some(Money(cost)) if cost == lines => self.put(Column::Cost, 1),
            Some(Money(cost)) => {
                self.put(Column::Cost, 2);
                self.put_signed(Column::Quantity, cost);
            }
        }
        self.put_signed(Column::Hold, call.hold.0);
        for hold in &call.holds {
            self.put_signed(Column::Holds, hold.amount.wrapping_sub(call.hold.0));
        }
    }

    /// An id of a vendor: a known beginning, then hexadecimal digits as bytes, or text.
    fn id_text(&mut self, column: Column, text: Option<&str>) {
        let Some(text) = text else { return self.put(column, 0) };
        let (prefix, rest) = text.split_at(prefix_length(text));
        let prefix = self.prefixes.number(prefix.as_bytes().to_vec());
        let hex = rest.len().is_multiple_of(2)
            && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && !rest.is_empty();
        self.put(column, 1 + (prefix << 1 | u64::from(hex)));
        self.put(column, rest.len() as u64);
        if hex {
            let digits = rest.as_bytes().chunks(2);
            self.raw.extend(digits.map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
        } else {
            self.text.extend_from_slice(rest.as_bytes());
        }
    }

    fn finish(self, count: u64, packer: &mut Packer) -> Result<Vec<u8>, StoreError> {
        let mut numbers = Vec::with_capacity(self.columns.iter().map(|c| c.len() + 4).sum());
        for column in &self.columns {
            put(&mut numbers, column.len() as u64);
            numbers.extend_from_slice(column);
        }
        let mut words = Vec::new();
        for dictionary in [&self.callers, &self.asked, &self.ended, &self.runs, &self.prefixes] {
            put(&mut words, dictionary.numbers.len() as u64);
            words.extend_from_slice(&dictionary.all);
        }
        let mut chunk = vec![LAYOUT];
        put(&mut chunk, count);
        for section in [&words, &numbers, &self.text] {
            packer.pack(section, &mut chunk)?;
        }
        chunk.extend_from_slice(&self.raw);
        Ok(chunk)
    }
}

/// What other lines of a cost charge of a count that includes them.
fn parts_charged(whole: Component, lines: &[CostLine]) -> u64 {
    let parts = lines.iter().filter(|line| line.component.parents().contains(&whole));
    parts.fold(0, |sum, line| sum.saturating_add(line.quantity))
}

/// `quantity × price / per` where that is a whole number of units.
fn worth(quantity: u64, unit_price_usd: &str, per: u64) -> Option<Money> {
    let price: Money = unit_price_usd.parse().ok()?;
    let product = price.0.checked_mul(i128::from(quantity))?;
    let per = i128::from(per);
    (per > 0 && product % per == 0).then(|| Money(product / per))
}

/// `chatcmpl-`, `resp_` and the like: small letters up to the first dash or underscore.
fn prefix_length(text: &str) -> usize {
    let end = text.bytes().take(16).position(|b| b == b'_' || b == b'-');
    match end {
        Some(end) if text.bytes().take(end).all(|b| b.is_ascii_lowercase()) => end + 1,
        _ => 0,
    }
}

fn digit(b: u8) -> u8 {
    if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 }
}
