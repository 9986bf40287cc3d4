//! `/catalogue`, `/keys`, `/providers`: what is declared, and what each of it did in the last 30 days.
//!
//! To look at: changes are made with `weighbridge apply` or the API. What calls name without being declared has a row of
//! its own, so that the rows add up to the total.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::response::Response;

use crate::domain::catalogue::{KeyState, KeyStatus, OnClientAbort};
use crate::domain::{Catalogue, Dimension, Key, Micros};
use crate::report::{Measures, Spend, SpendQuery, Step};

use super::data;
use super::error::PageError;
use super::format;
use super::layers::Ctx;
use super::query::{Defaults, Query, QueryError, link};
use super::shell::{self, Shell};
use super::{calls, spend};

/// What these pages take when their URL is silent.
const DEFAULTS: Defaults = Defaults { range: "30d", by: &[], limit: 50, parameters: &[] };
/// The pages, in the order of their links.
pub const PAGES: [(&str, &str); 4] =
    [("/catalogue", "Services"), ("/keys", "Keys"), ("/providers", "Providers"), ("/policies", "Policies")];

#[derive(Template)]
#[template(path = "govern/list.html", blocks = ["view"])]
struct ListPage {
    shell: Shell,
    intro: String,
    tabs: Vec<Tab>,
    caption: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    total: Vec<Cell>,
    /// Where there is no row: that there is none, what to copy, what to do with it.
    empty: (&'static str, &'static str, &'static str),
    /// The last of these, in pieces: what stood between backticks is code.
    empty_words: Vec<(&'static str, bool)>,
    as_of: Option<String>,
}

pub(super) struct Tab {
    pub href: &'static str,
    pub label: &'static str,
    pub current: bool,
}

/// Links to these pages, the present one marked.
pub(super) fn tabs(title: &str) -> Vec<Tab> {
    let tab = |(href, label): &(&'static str, &'static str)| Tab { href, label, current: *label == title };
    PAGES.iter().map(tab).collect()
}

#[derive(Clone, Copy)]
struct Column {
    label: &'static str,
    /// `n` for figures, `w` for what a narrow screen leaves out.
    class: &'static str,
}

#[derive(Default)]
struct Row {
    cells: Vec<Cell>,
    /// What a narrow screen says below the name.
    summary: String,
}

#[derive(Clone, Default)]
struct Cell {
    text: String,
    note: &'static str,
    /// Empty where it leads nowhere.
    href: String,
    /// A tag's colour; empty for plain text.
    tone: &'static str,
    class: &'static str,
}

fn text(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), ..Cell::default() }
}

fn linked(words: impl Into<String>, href: String) -> Cell {
    Cell { href, ..text(words) }
}

fn or_unknown(value: Option<&str>) -> Cell {
    text(value.unwrap_or(format::UNKNOWN))
}

/// A list on its way to a page: what is declared comes first, by name, then what is not.
struct List<'a> {
    query: &'a Query,
    dimension: Dimension,
    /// Columns between the name and the figures.
    middle: &'a [Column],
    figures: BTreeMap<Option<String>, Measures>,
    /// What is paused, by [`crate::domain::Pause::id`].
    paused: Vec<String>,
    rows: Vec<Row>,
}

impl<'a> List<'a> {
    fn new(ctx: &Ctx, query: &'a Query, dimension: Dimension, middle: &'a [Column], found: &Spend) -> List<'a> {
        let figure = |r: &crate::report::SpendRow| (r.key.first().cloned().flatten(), r.measures.clone());
        let figures = found.rows.iter().map(figure).collect();
        let catalogue = ctx.web.ledger.catalogue();
        let held = catalogue.pauses.iter().filter(|(_, pause)| pause.holds_at(ctx.now));
        let paused = held.map(|(id, _)| id.clone()).collect();
        List { query, dimension, middle, figures, paused, rows: Vec::new() }
    }

    fn declared(&mut self, id: &str, middle: Vec<Cell>, summary: String) {
        let figures = self.figures.remove(&Some(id.to_owned())).unwrap_or_default();
        self.push(Some(id), middle, summary, &figures);
        let kind = if self.dimension == Dimension::Credential { "key" } else { self.dimension.name() };
        let paused = self.paused.iter().any(|of| *of == format!("{kind}:{id}"));
        let href = link("/emergency", &[("kind", kind.to_owned()), ("subject", id.to_owned())]);
        let cell = if paused { linked("■ paused", "/emergency".into()) } else { linked("Pause", href + "#pause") };
        if let Some(last) = self.rows.last_mut().and_then(|row| row.cells.last_mut()) {
            *last = Cell { class: last.class, ..cell };
        }
    }

    fn push(&mut self, id: Option<&str>, middle: Vec<Cell>, summary: String, figures: &Measures) {
        let here = self.query.with(self.dimension, id);
        let next = if self.dimension == Dimension::Service { Dimension::Model } else { Dimension::Service };
        let deeper = here.changed(|q| q.by = vec![next]).url("/spend", &spend::DEFAULTS);
        let mut cells = vec![linked(id.unwrap_or("(none)"), deeper)];
        cells.extend(middle);
        cells.extend(sums(figures, here.url("/calls", &calls::DEFAULTS)));
        for (cell, column) in cells.iter_mut().zip(self.columns("")) {
            cell.class = column.class;
        }
        self.rows.push(Row { cells, summary });
    }

    fn columns(&self, name: &'static str) -> Vec<Column> {
        let first = Column { label: name, class: "" };
        let figures = [
            Column { label: "Calls", class: "n w" },
            Column { label: "Failed", class: "n w" },
            Column { label: "Refused", class: "n w" },
            Column { label: "Cost, USD", class: "n" },
            Column { label: "Emergency", class: "" },
        ];
        [first].into_iter().chain(self.middle.iter().copied()).chain(figures).collect()
    }

    /// Rows for what calls name and nobody declared.
    fn finish(&mut self) {
        for (id, figures) in std::mem::take(&mut self.figures) {
            let middle = vec![Cell::default(); self.middle.len()];
            self.push(id.as_deref(), middle, String::new(), &figures);
            if let Some(name) = self.rows.last_mut().and_then(|r| r.cells.first_mut()) {
                name.note = if id.is_some() { "not declared" } else { "not identified" };
            }
        }
    }

    fn total(&self, all: &Measures) -> Vec<Cell> {
        let mut cells = vec![text("Total")];
        cells.resize(1 + self.middle.len(), Cell::default());
        cells.extend(sums(all, String::new()));
        for (cell, column) in cells.iter_mut().zip(self.columns("")) {
            cell.class = column.class;
        }
        cells
    }
}

fn sums(m: &Measures, calls: String) -> [Cell; 5] {
    [
        text(format::count(m.calls)),
        text(format::count(m.failed)),
        text(format::count(m.refused)),
        linked(spend::cost_words(m), calls),
        Cell::default(),
    ]
}

/// The range and what was spent in it by a dimension. These lists are whole: they take a range and a zone, no filter.
async fn ask(ctx: &Ctx, dimension: Dimension) -> Result<(Query, Spend), PageError> {
    let query = ctx.query(DEFAULTS)?;
    if let Some((other, _)) = query.filters.first() {
        let message = "this list is always whole; filter in Spend or Calls".to_owned();
        return Err(QueryError { field: other.name().to_owned(), message }.into());
    }
    let question = SpendQuery {
        filter: query.filter(),
        by: vec![dimension],
        step: Step::None,
        time_zone: query.zone_name.clone(),
    };
    let found = data::spend(&ctx.web.ledger, question).await?;
    Ok((query, found))
}

fn page(
    ctx: &Ctx,
    mut list: List<'_>,
    found: &Spend,
    names: (&'static str, &'static str),
    intro: &str,
    empty: (&'static str, &'static str, &'static str),
) -> Result<Response, PageError> {
    list.finish();
    let (title, name) = names;
    let words = list.query.range.in_words(&list.query.zone);
    let page = ListPage {
        shell: Shell::new(ctx, title),
        intro: intro.to_owned(),
        tabs: tabs(title),
        caption: format!("{title}, figures of {words}, {}", list.query.zone_name),
        columns: list.columns(name),
        total: list.total(&found.total),
        empty,
        empty_words: format::marked(empty.2),
        as_of: shell::as_of(ctx, found.as_of),
        rows: list.rows,
    };
    ctx.html(&page, page.as_view())
}

const WIDE: &str = "w";
const DECLARE: &str = "Declare it in the configuration file, which is read at start and on SIGHUP; `weighbridge config default` \
                       prints every setting with its meaning.";

/// `GET /catalogue`.
pub async fn services(ctx: Ctx) -> Result<Response, PageError> {
    let (query, found) = ask(&ctx, Dimension::Service).await?;
    let middle = ["Kind", "Owner", "Business unit", "Application", "Cost centre", "Keys"]
        .map(|label| Column { label, class: if label == "Keys" { "n w" } else { WIDE } });
    let catalogue = ctx.web.ledger.catalogue();
    let mut list = List::new(&ctx, &query, Dimension::Service, &middle, &found);
    for s in catalogue.services.values() {
        let contact = catalogue.owners.get(&s.owner).is_some_and(|o| o.email.is_some());
        let owned = query.with(Dimension::Owner, Some(&s.owner)).url("/spend", &spend::DEFAULTS);
        let cells = vec![
            text(format!("{:?}", s.kind).to_lowercase()),
            Cell { note: if contact { "" } else { "no contact" }, ..linked(&s.owner, owned) },
            text(&s.business_unit),
            text(&s.application),
            or_unknown(s.cost_centre.as_deref()),
            linked(format::count(active_keys(&catalogue, &s.id)), "/keys".to_owned()),
        ];
        list.declared(&s.id, cells, format!("{}; {}", s.owner, s.business_unit));
    }
    let empty = (
        "No service is declared",
        "[[service]]\nid = \"invoice-bot\"\napplication = \"ap-automation\"\nowner = \"team-ap\"\nbusiness_unit = \"finance\"",
        DECLARE,
    );
    let intro = "Who may call models, who answers for it, and what it cost in 30 days.";
    page(&ctx, list, &found, ("Services", "Service"), intro, empty)
}

fn active_keys(catalogue: &Catalogue, service: &str) -> u64 {
    catalogue.keys.values().filter(|k| k.service == service && k.status == KeyStatus::Active).count() as u64
}

/// `GET /keys`.
pub async fn keys(ctx: Ctx) -> Result<Response, PageError> {
    let (query, found) = ask(&ctx, Dimension::Credential).await?;
    let middle = ["Service", "Environment", "State", "Made", "Ends", "Models"]
        .map(|label| Column { label, class: if label == "State" { "" } else { WIDE } });
    let catalogue = ctx.web.ledger.catalogue();
    let mut list = List::new(&ctx, &query, Dimension::Credential, &middle, &found);
    let day = |at: Micros| at.timestamp().to_zoned_datetime(query.zone.clone()).strftime("%-d %b %Y").to_string();
    for k in catalogue.keys.values() {
        let (state, tone) = state(k, ctx.now);
        let service = query.with(Dimension::Service, Some(&k.service)).changed(|q| q.by = vec![Dimension::Model]);
        let cells = vec![
            linked(&k.service, service.url("/spend", &spend::DEFAULTS)),
            text(k.environment.name()),
            Cell { tone, ..text(state) },
            text(day(k.created_at)),
            text(k.expires_at.map_or_else(|| "never".to_owned(), day)),
            text(k.allow_models.as_ref().map_or_else(|| "as policies allow".to_owned(), |m| m.join(", "))),
        ];
        list.declared(&k.id, cells, format!("{}; {}", k.service, k.environment.name()));
    }
    let empty = (
        "There is no key yet",
        "weighbridge key create service=invoice-bot environment=test",
        "A key belongs to a declared service and one environment. Making it prints the secret once:",
    );
    let intro = "Which credentials exist and whether they are needed. Secrets are shown once, when a key is made, and not kept.";
    page(&ctx, list, &found, ("Keys", "Key"), intro, empty)
}

fn state(key: &Arc<Key>, now: Micros) -> (&'static str, &'static str) {
    let state = key.state(now);
    let tone = match state {
        KeyState::Active | KeyState::Overlapping => "good",
        KeyState::Revoked | KeyState::Canary => "bad",
        KeyState::Early | KeyState::Retired | KeyState::Expired | KeyState::Suspended => "warn",
    };
    (state.name(), tone)
}

/// `GET /providers`.
pub async fn providers(ctx: Ctx) -> Result<Response, PageError> {
    let (query, found) = ask(&ctx, Dimension::Provider).await?;
    let middle = ["Dialect", "Base URL", "Models of bare paths", "Prices of", "When a caller hangs up"]
        .map(|label| Column { label, class: WIDE });
    let catalogue = ctx.web.ledger.catalogue();
    let mut list = List::new(&ctx, &query, Dimension::Provider, &middle, &found);
    for p in catalogue.providers_in_order() {
        let cells = vec![
            text(&p.dialect),
            text(&p.base_url),
            text(if p.models.is_empty() { "all of its dialect".to_owned() } else { p.models.join(", ") }),
            text(&p.price_as),
            text(match p.on_client_abort {
                OnClientAbort::Cancel => "cancels upstream",
                OnClientAbort::Drain => "reads on for 30 s",
            }),
        ];
        list.declared(&p.id, cells, format!("{}; {}", p.dialect, p.base_url));
    }
    let empty = (
        "No provider is declared",
        "[[provider]]\nid = \"openai\"\ndialect = \"openai\"\nbase_url = \"https://api.openai.com/v1\"\napi_key = { env = \"OPENAI_API_KEY\" }",
        DECLARE,
    );
    let intro = "Where traffic goes, in the order in which bare paths look for a provider.";
    page(&ctx, list, &found, ("Providers", "Provider"), intro, empty)
}
