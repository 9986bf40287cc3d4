//! CSV as finance reads it: RFC 4180 with CRLF, UTF-8, exact decimals, ISO instants, a header always.
//!
//! A text cell that a spreadsheet would take for a formula gets a leading apostrophe, as OWASP ASVS 5.0, 1.2.10 asks.
//! Numbers are typed by their column and stay as they are: negative amounts must survive.

use std::borrow::Cow;

use crate::domain::{Call, CallView, Component, Dimension};

use super::spend::coverage;
use super::{SpendRow, Stamp};

/// How a CSV is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CsvStyle {
    /// For programs: no apostrophes.
    pub raw: bool,
    /// A byte order mark first, which some spreadsheets need.
    pub bom: bool,
}

/// A text cell that no spreadsheet runs.
pub fn guarded(text: &str) -> Cow<'_, str> {
    let dangerous = |c: char| matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r' | '\0' | '＝' | '＋' | '－' | '＠');
    if text.starts_with(dangerous) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// Rows on their way to bytes.
pub(super) struct Rows {
    style: CsvStyle,
    buffer: Vec<u8>,
    fresh: bool,
}

impl Rows {
    pub fn new(style: CsvStyle) -> Rows {
        Rows { style, buffer: if style.bom { "\u{feff}".into() } else { Vec::new() }, fresh: true }
    }

    /// A name, an id: guarded unless raw.
    pub fn text(&mut self, text: &str) {
        let text = if self.style.raw { Cow::Borrowed(text) } else { guarded(text) };
        self.cell(&text);
    }

    pub fn maybe(&mut self, text: Option<&str>) {
        self.text(text.unwrap_or_default());
    }

    /// A number, an instant, a word of ours.
    pub fn plain(&mut self, value: impl ToString) {
        self.cell(&value.to_string());
    }

    pub fn number(&mut self, value: Option<impl ToString>) {
        self.cell(&value.map(|v| v.to_string()).unwrap_or_default());
    }

    pub fn end(&mut self) {
        self.buffer.extend_from_slice(b"\r\n");
        self.fresh = true;
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    fn cell(&mut self, text: &str) {
        if !self.fresh {
            self.buffer.push(b',');
        }
        self.fresh = false;
        if text.contains([',', '"', '\r', '\n']) {
            self.buffer.push(b'"');
            self.buffer.extend_from_slice(text.replace('"', "\"\"").as_bytes());
            self.buffer.push(b'"');
        } else {
            self.buffer.extend_from_slice(text.as_bytes());
        }
    }

    fn header(&mut self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        names.into_iter().for_each(|name| self.cell(name.as_ref()));
        ["as_of", "as_of_seq", "basis", "tz", "ledger_head"].iter().for_each(|name| self.cell(name));
        self.end();
    }

    fn stamp(&mut self, stamp: &Stamp) {
        self.plain(stamp.as_of.at);
        self.plain(stamp.as_of.seq);
        self.plain("metered");
        self.plain(&stamp.time_zone);
        self.plain(&stamp.ledger_head);
        self.end();
    }
}

const CALL_COLUMNS: [&str; 40] = [
    "id",
    "seq",
    "started_at",
    "completed_at",
    "outcome",
    "refusal_code",
    "refusal_by",
    "service",
    "agent",
    "application",
    "owner",
    "business_unit",
    "cost_centre",
    "tenant",
    "environment",
    "workflow",
    "run",
    "prompt_class",
    "principal",
    "charged_to",
    "credential",
    "provider",
    "dialect",
    "endpoint",
    "stream",
    "model_requested",
    "model_served",
    "http_status",
    "provider_request_id",
    "finish_reason",
    "cost_usd",
    "cost_basis",
    "usage_basis",
    "hold_usd",
    "tools_offered",
    "tools_called",
    "attempts",
    "requests_refused",
    "first_byte_ms",
    "total_ms",
];

pub(super) fn call_header(rows: &mut Rows) {
    rows.header(CALL_COLUMNS.into_iter().chain(Component::ALL.map(Component::name)));
}

pub(super) fn call_row(rows: &mut Rows, call: &Call, stamp: &Stamp) {
    let view = CallView::from(call);
    rows.plain(view.id);
    rows.plain(view.seq);
    rows.plain(view.started_at);
    rows.number(view.completed_at);
    rows.plain(view.outcome.name());
    rows.plain(view.refusal.as_ref().map_or("", |r| r.code));
    rows.maybe(view.refusal.as_ref().and_then(|r| r.by.as_deref()));
    for dimension in [
        Dimension::Service,
        Dimension::Agent,
        Dimension::Application,
        Dimension::Owner,
        Dimension::BusinessUnit,
        Dimension::CostCentre,
        Dimension::Tenant,
        Dimension::Environment,
        Dimension::Workflow,
        Dimension::Run,
        Dimension::PromptClass,
        Dimension::Principal,
        Dimension::ChargedTo,
        Dimension::Credential,
        Dimension::Provider,
    ] {
        rows.maybe(call.dimension(dimension));
    }
    rows.maybe(view.dialect.as_deref());
    rows.text(&view.endpoint);
    rows.plain(view.stream);
    rows.maybe(view.model_requested.as_deref());
    rows.maybe(view.model_served.as_deref());
    rows.number(view.http_status);
    rows.maybe(view.provider_request_id.as_deref());
    rows.maybe(view.finish_reason.as_deref());
    rows.number(view.cost_usd);
    rows.plain(view.cost_basis.map_or("", |b| b.name()));
    rows.plain(view.usage_basis.name());
    rows.plain(view.hold_usd);
    rows.plain(view.tools.offered);
    rows.plain(view.tools.called);
    rows.plain(view.attempts);
    rows.number(view.refusal.map(|_| view.requests));
    rows.number(view.first_byte_ms);
    rows.number(view.total_ms);
    Component::ALL.into_iter().for_each(|c| rows.number(view.usage.get(c)));
    rows.stamp(stamp);
}

pub(super) fn spend_header(rows: &mut Rows, by: &[Dimension], bucket: bool) {
    let mut names: Vec<&str> = by.iter().map(|d| d.name()).collect();
    names.extend(bucket.then_some("bucket"));
    names.extend(["calls", "refused", "failed", "unpriced", "estimated", "tool_calls", "cost_usd", "cost_basis"]);
    names.extend(["avoided_usd", "coverage", "total_ms"]);
    rows.header(names.into_iter().chain(Component::ALL.map(Component::name)));
}

pub(super) fn spend_row(rows: &mut Rows, row: &SpendRow, stamp: &Stamp) {
    row.key.iter().for_each(|value| rows.text(value.as_deref().unwrap_or("(none)")));
    if let Some(bucket) = &row.bucket {
        rows.plain(bucket);
    }
    let m = &row.measures;
    for n in [m.calls, m.refused, m.failed, m.unpriced, m.estimated, m.tool_calls] {
        rows.plain(n);
    }
    rows.plain(m.cost);
    rows.plain(m.cost_basis().name());
    rows.plain(m.avoided);
    rows.number(coverage(m));
    rows.plain(m.total_ms);
    Component::ALL.into_iter().for_each(|c| rows.number(m.usage.get(c)));
    rows.stamp(stamp);
}
