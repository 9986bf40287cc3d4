//! `/calls`: every metered request, newest first, by cursor.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::tz::TimeZone;

use crate::domain::{Call, Component, CostBasis, Dimension, Money, Outcome};
use crate::report::{Measures, SpendQuery, Step};

use super::error::PageError;
use super::filters::{self, Chip, Form, RangeLink};
use super::format::{self, When};
use super::layers::Ctx;
use super::query::{Defaults, Format, Query, link};
use super::shell::{self, Shell};
use super::{data, export, spend};

/// What `/calls` takes when its URL is silent.
pub const DEFAULTS: Defaults = Defaults { range: "7d", by: &[], limit: 50, parameters: &["limit", "cursor"] };

#[derive(Template)]
#[template(path = "calls/list.html", blocks = ["view"])]
struct CallsPage {
    shell: Shell,
    range_words: String,
    zone: String,
    caption: String,
    chips: Vec<Chip>,
    ranges: Vec<RangeLink>,
    form: Form,
    rows: Vec<CallRow>,
    /// What the whole filter holds, not this page alone.
    all: String,
    total: String,
    first: Option<String>,
    next: Option<String>,
    as_of: Option<String>,
    csv: String,
    json: String,
    ndjson: String,
    snippet: String,
}

/// A call as lists show it.
#[derive(Clone, Debug)]
pub struct CallRow {
    pub href: String,
    pub at: When,
    pub service: Option<String>,
    pub service_href: String,
    pub agent: Option<String>,
    pub model: String,
    /// Where another model answered than was asked for.
    pub served: Option<String>,
    pub input: String,
    pub cached: String,
    pub output: String,
    pub cost: Option<String>,
    pub cost_exact: String,
    pub estimated: bool,
    /// What stands where there is no cost.
    pub no_cost: &'static str,
    pub outcome: &'static str,
    /// `good`, `warn`, `bad` or nothing.
    pub tone: &'static str,
    /// How many refusals the one entry stands for, where it is more than one.
    pub times: Option<String>,
    pub code: Option<&'static str>,
    pub duration: String,
    pub run: Option<String>,
    pub run_href: String,
}

impl CallRow {
    pub fn new(call: &Call, zone: &TimeZone) -> CallRow {
        let filtered = |d: Dimension, v: Option<&str>| link("/calls", &[(d.name(), v.unwrap_or_default().to_owned())]);
        let service = call.dimension(Dimension::Service);
        let run = call.dimension(Dimension::Run);
        let asked = call.model_requested.clone();
        let count = |c| format::maybe_count(call.usage.get(c));
        CallRow {
            href: format!("/calls/{}", call.id),
            at: format::when(call.started_at, zone),
            service: service.map(str::to_owned),
            service_href: filtered(Dimension::Service, service),
            agent: call.dimension(Dimension::Agent).map(str::to_owned),
            served: call.model_served.clone().filter(|s| asked.as_ref().is_some_and(|a| a != s)),
            model: asked.or_else(|| call.model_served.clone()).unwrap_or_else(|| call.endpoint.clone()),
            input: count(Component::InputTokens),
            cached: count(Component::CacheReadTokens),
            output: count(Component::OutputTokens),
            cost: charged(call).map(format::money),
            cost_exact: call.cost.map(|c| c.to_string()).unwrap_or_default(),
            estimated: call.cost_basis == CostBasis::Estimated,
            no_cost: no_cost(call),
            outcome: call.outcome.name(),
            tone: tone(call.outcome),
            times: (call.stands_for > 1).then(|| format::count(call.stands_for)),
            code: call.refusal.as_ref().map(|(code, _)| code.name()),
            duration: format::maybe_duration(call.total_ms),
            run_href: filtered(Dimension::Run, run),
            run: run.map(str::to_owned),
        }
    }
}

/// The cost of a call that was sent; a refused one has none to show.
pub fn charged(call: &Call) -> Option<Money> {
    call.cost.filter(|_| call.outcome != Outcome::Refused)
}

/// What to say where a call has no cost. An unknown cost is never shown as zero.
pub fn no_cost(call: &Call) -> &'static str {
    match call.outcome {
        Outcome::Running => "running",
        Outcome::Refused => "not sent",
        _ => "unpriced",
    }
}

/// The colour of an outcome; its word always stands beside it.
pub fn tone(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed | Outcome::Cached => "good",
        Outcome::Failed | Outcome::Interrupted => "bad",
        Outcome::Refused | Outcome::Cancelled => "warn",
        Outcome::Running => "",
    }
}

/// `GET /calls`.
pub async fn list(ctx: Ctx) -> Result<Response, PageError> {
    let query = ctx.query(DEFAULTS)?;
    if query.format != Format::Html {
        return export::calls(&ctx, &query).await;
    }
    if let Some(tidy) = tidy(&ctx, &query, "/calls") {
        return Ok(tidy);
    }
    let found = data::calls(&ctx.web.ledger, query.filter(), query.cursor.clone(), query.limit).await?;
    let format = |f: Format| query.changed(|q| q.format = f).own_url("/calls");
    let question =
        SpendQuery { filter: query.filter(), by: Vec::new(), step: Step::None, time_zone: query.zone_name.clone() };
    let all = data::spend(&ctx.web.ledger, question).await?.total;
    let range_words = query.range.in_words(&query.zone);
    let page = CallsPage {
        all: format::count(all.calls + all.refused),
        total: total_words(&all),
        shell: Shell::new(&ctx, "Calls"),
        caption: format!("Calls of {range_words}, times in {}", query.zone_name),
        chips: filters::chips(&query, "/calls"),
        ranges: filters::ranges(&query, "/calls", ctx.now),
        form: filters::form(&query, &ctx.web.ledger.catalogue()),
        rows: found.calls.iter().map(|c| CallRow::new(c, &query.zone)).collect(),
        first: query.cursor.as_ref().map(|_| query.changed(|_| {}).own_url("/calls")),
        next: found.next_cursor.map(|c| query.changed(|q| q.cursor = Some(c)).own_url("/calls")),
        as_of: shell::as_of(&ctx, found.as_of),
        csv: format(Format::Csv),
        json: format(Format::Json),
        ndjson: format(Format::Ndjson),
        snippet: snippet(&ctx),
        zone: query.zone_name.clone(),
        range_words,
    };
    let pushed = ctx.partial.then(|| query.own_url("/calls"));
    Ok(push_url(ctx.html(&page, page.as_view())?, pushed))
}

/// The sum over every call of a filter, with what it does not contain.
fn total_words(all: &Measures) -> String {
    let mut words = format!("in all USD {}", spend::cost_words(all));
    if all.refused > 0 {
        words += &format!(", {} refused", format::count(all.refused));
    }
    if all.unpriced + all.estimated > 0 {
        words += &format!(", {}", spend::marked_words(all));
    }
    words
}

/// Sends a browser whose form made a long URL to the short one; htmx is told which to show instead.
pub fn tidy(ctx: &Ctx, query: &Query, path: &str) -> Option<Response> {
    (query.untidy && !ctx.htmx).then(|| Redirect::to(&query.own_url(path)).into_response())
}

/// Tells htmx which address the browser shall show.
pub fn push_url(mut response: Response, url: Option<String>) -> Response {
    if let Some(value) = url.and_then(|u| axum::http::HeaderValue::from_str(&u).ok()) {
        response.headers_mut().insert("hx-push-url", value);
    }
    response
}

/// A first call that can be copied.
pub fn snippet(ctx: &Ctx) -> String {
    format!(
        "curl {}/v1/chat/completions \\\n  -H \"Authorization: Bearer $WEIGHBRIDGE_KEY\" \\\n  -H \"Content-Type: application/json\" \\\n  -d '{{\"model\": \"gpt-5.2\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'",
        ctx.web.gateway
    )
}
