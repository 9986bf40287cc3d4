//! Files of calls and spend, in chunks: CSV, NDJSON, and JSON of everything, without a cap on rows.

use serde::Serialize;

use crate::domain::{CallView, Filter};
use crate::store::{AsOf, Ledger};

use super::ask::Format;
use super::csv::{self, CsvStyle, Rows};
use super::{ReportError, Spend, SpendQuery, SpendRowView, SpendTotalView};

/// Calls in one chunk.
const CHUNK: usize = 500;

/// What every row of a file says about the whole of it.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub as_of: AsOf,
    pub time_zone: String,
    /// `size:root`, the root in hexadecimal.
    pub ledger_head: String,
}

impl Stamp {
    /// As things stand now.
    pub fn now(ledger: &Ledger, time_zone: &str) -> Result<Stamp, ReportError> {
        let head = ledger.head();
        let ledger_head = format!("{}:{}", head.size, data_encoding::HEXLOWER.encode(&head.root));
        Ok(Stamp { as_of: ledger.views().as_of()?, time_zone: time_zone.to_owned(), ledger_head })
    }
}

/// How a file is written.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    pub format: Format,
    pub style: CsvStyle,
}

/// Writes every call of the filter, newest first, into `sink`, which says whether it wants more. Gives how many.
pub fn export_calls(
    ledger: &Ledger,
    filter: &Filter,
    export: Export,
    stamp: &Stamp,
    sink: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<u64, ReportError> {
    calls_of(ledger.views(), filter, export, stamp, sink)
}

pub(super) fn calls_of(
    views: &crate::store::views::Views,
    filter: &Filter,
    export: Export,
    stamp: &Stamp,
    sink: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<u64, ReportError> {
    let mut rows = Rows::new(export.style);
    let mut written = 0u64;
    let mut wanted = true;
    match export.format {
        Format::Csv => csv::call_header(&mut rows),
        Format::Json => wanted = sink(b"{\"calls\":[".to_vec()),
        Format::Ndjson => {}
    }
    // Only what was there when the file was begun: it must not run after itself.
    let mut before = Some(stamp.as_of.seq);
    while wanted {
        let (calls, _) = views.calls(filter, before, CHUNK)?;
        before = calls.last().map(|call| call.seq);
        let mut text = Vec::new();
        for call in &calls {
            match export.format {
                Format::Csv => csv::call_row(&mut rows, call, stamp),
                Format::Json => {
                    text.extend_from_slice(if written == 0 { b"\n" } else { b",\n" });
                    json(&mut text, &CallView::from(call));
                }
                Format::Ndjson => {
                    json(&mut text, &CallView::from(call));
                    text.push(b'\n');
                }
            }
            written += 1;
        }
        let chunk = if export.format == Format::Csv { rows.take() } else { text };
        wanted = chunk.is_empty() || sink(chunk);
        if calls.len() < CHUNK {
            break;
        }
    }
    if wanted && export.format == Format::Json {
        let mut end = b"\n],\"next_cursor\":null,".to_vec();
        end_of_json(&mut end, stamp);
        sink(end);
    }
    Ok(written)
}

/// Writes an answer about spend: its rows, and in JSON the total.
pub fn export_spend(query: &SpendQuery, spend: &Spend, export: Export, stamp: &Stamp) -> Vec<u8> {
    let by = &query.by;
    let mut text = Vec::new();
    let views = spend.rows.iter().map(|row| SpendRowView { by, row });
    match export.format {
        Format::Csv => {
            let mut rows = Rows::new(export.style);
            csv::spend_header(&mut rows, by, query.step != super::Step::None);
            spend.rows.iter().for_each(|row| csv::spend_row(&mut rows, row, stamp));
            text = rows.take();
        }
        Format::Ndjson => views.for_each(|view| {
            json(&mut text, &view);
            text.push(b'\n');
        }),
        Format::Json => {
            text.extend_from_slice(b"{\"rows\":[");
            for (n, view) in views.enumerate() {
                text.extend_from_slice(if n == 0 { b"\n" } else { b",\n" });
                json(&mut text, &view);
            }
            text.extend_from_slice(b"\n],\"total\":");
            json(&mut text, &SpendTotalView(&spend.total));
            text.push(b',');
            end_of_json(&mut text, stamp);
        }
    }
    text
}

fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Our own values have string keys and no other way to fail; a vector takes every byte.
    if serde_json::to_writer(&mut *out, value).is_err() {
        tracing::error!("a row could not be written as JSON");
    }
}

fn end_of_json(out: &mut Vec<u8>, stamp: &Stamp) {
    #[derive(Serialize)]
    struct End<'a> {
        as_of: crate::domain::Micros,
        as_of_seq: u64,
        basis: &'static str,
        tz: &'a str,
        ledger_head: &'a str,
    }
    let end = End {
        as_of: stamp.as_of.at,
        as_of_seq: stamp.as_of.seq,
        basis: "metered",
        tz: &stamp.time_zone,
        ledger_head: &stamp.ledger_head,
    };
    let mut object = Vec::new();
    json(&mut object, &end);
    out.extend_from_slice(object.strip_prefix(b"{").unwrap_or(&object));
    out.push(b'\n');
}

/// `weighbridge_spend_2026-11_UTC_by-service.csv`.
pub fn file_name(
    noun: &str,
    filter: &Filter,
    time_zone: &str,
    by: &[crate::domain::Dimension],
    format: Format,
) -> String {
    let range = range_name(filter, time_zone);
    let zone: String = time_zone.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let by: Vec<_> = by.iter().map(|d| d.name()).collect();
    let by = if by.is_empty() { String::new() } else { format!("_by-{}", by.join("-")) };
    format!("weighbridge_{noun}_{range}_{zone}{by}.{}", format.name())
}

/// `2026-11` for a whole month, `2026-11-01_2026-11-24` for other ranges (the end is not in it), `all` for everything.
fn range_name(filter: &Filter, time_zone: &str) -> String {
    let Ok(calendar) = crate::rollup::Calendar::new(time_zone, super::Step::Day) else { return "range".to_owned() };
    let date = |at: Option<crate::domain::Micros>| at.map(|at| calendar.date(at));
    match (date(filter.from), date(filter.to)) {
        (None, None) => "all".to_owned(),
        (Some(from), None) => format!("from-{from}"),
        (None, Some(to)) => format!("to-{to}"),
        (Some(from), Some(to)) => {
            let whole = from.day() == 1
                && to == from.last_of_month().tomorrow().unwrap_or(from)
                && filter.from == Some(calendar.midnight(from))
                && filter.to == Some(calendar.midnight(to));
            if whole { format!("{:04}-{:02}", from.year(), from.month()) } else { format!("{from}_{to}") }
        }
    }
}
