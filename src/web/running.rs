//! `/calls/running`: what runs now, by service and run, with what it has come to so far; and the way to end a call.
//!
//! The page asks for itself every two seconds where there is JavaScript; without it, loading it again shows the same.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Form, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::control;
use crate::domain::{CallId, Micros, Money};
use crate::gateway::{NotStopped, Underway};

use super::error::PageError;
use super::format::{self, When};
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

/// Most rows of the page: what is more is counted, and the API has it.
const MOST_ROWS: usize = 300;

#[derive(Template)]
#[template(path = "calls/running.html", blocks = ["view"])]
struct RunningPage {
    shell: Shell,
    live: bool,
    total: String,
    groups: Vec<Group>,
    more: Option<String>,
    at: When,
    zone: String,
}

/// The calls of one service.
struct Group {
    service: String,
    href: String,
    sums: String,
    runs: Vec<Run>,
}

/// The calls of one run; those outside of any stand together.
struct Run {
    /// Name, address and sums, where it is a run of several calls.
    head: Option<(String, String, String)>,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    href: String,
    started: When,
    lasting: String,
    model: String,
    provider: String,
    run: Option<String>,
    agent: Option<String>,
    state: &'static str,
    output: String,
    so_far: Option<String>,
    hold: String,
    /// Where it can be ended; none while that is under way.
    stop: Option<String>,
}

/// Sums over calls.
#[derive(Default)]
struct Sums {
    calls: u64,
    so_far: Money,
    unpriced: u64,
    hold: Money,
}

impl Sums {
    fn of<'a>(calls: impl Iterator<Item = &'a Underway>) -> Sums {
        calls.fold(Sums::default(), |mut sums, call| {
            sums.calls += 1;
            sums.hold = sums.hold.saturating_add(call.hold);
            match call.cost_so_far {
                Some(cost) => sums.so_far = sums.so_far.saturating_add(cost),
                None => sums.unpriced += 1,
            }
            sums
        })
    }

    fn words(&self) -> String {
        let Sums { calls, so_far, unpriced, hold } = self;
        let calls = if *calls == 1 { "1 call".to_owned() } else { format!("{} calls", format::count(*calls)) };
        let unpriced = if *unpriced > 0 {
            format!(", {} of them without a price", format::count(*unpriced))
        } else {
            String::new()
        };
        format!("{calls}, about USD {} so far, USD {} held{unpriced}", format::money(*so_far), format::money(*hold))
    }
}

#[derive(Deserialize)]
pub struct Params {
    live: Option<String>,
}

/// `GET /calls/running`.
pub async fn show(ctx: Ctx, axum::extract::Query(params): axum::extract::Query<Params>) -> Result<Response, PageError> {
    let zone = ctx.zone();
    // The ledger says what is open: a record whose call has been settled is about to go.
    let open: std::collections::HashSet<CallId> = ctx.web.ledger.running().iter().map(|open| open.call).collect();
    let all: Vec<Underway> = ctx.web.in_flight.all().into_iter().filter(|call| open.contains(&call.call)).collect();
    let total =
        if all.is_empty() { "Nothing runs at this moment.".to_owned() } else { Sums::of(all.iter()).words() + "." };
    let more = all.len().saturating_sub(MOST_ROWS);
    let page = RunningPage {
        shell: Shell::new(&ctx, "In flight"),
        live: params.live.as_deref() != Some("off"),
        total,
        groups: groups(&all[..all.len().min(MOST_ROWS)], ctx.now, &zone),
        more: (more > 0).then(|| format::count(more as u64)),
        at: format::when(ctx.now, &zone),
        zone: ctx.web.ledger.catalogue().organisation.time_zone.clone(),
    };
    ctx.html(&page, page.as_view())
}

fn groups(calls: &[Underway], now: Micros, zone: &TimeZone) -> Vec<Group> {
    let mut services: BTreeMap<&str, BTreeMap<Option<&str>, Vec<&Underway>>> = BTreeMap::new();
    for call in calls {
        let who = call.who.as_deref();
        let runs = services.entry(who.map_or("", |who| who.service.as_str())).or_default();
        runs.entry(who.and_then(|who| who.run.as_deref())).or_default().push(call);
    }
    let run = |(name, calls): (Option<&str>, Vec<&Underway>)| Run {
        head: name.filter(|_| calls.len() > 1).map(|name| {
            let sums = Sums::of(calls.iter().copied()).words();
            (name.to_owned(), link("/calls", &[("run", name.to_owned())]), sums)
        }),
        rows: calls.iter().map(|call| row(call, now, zone)).collect(),
    };
    let group = |(service, runs): (&str, BTreeMap<Option<&str>, Vec<&Underway>>)| Group {
        service: service.to_owned(),
        href: link("/calls", &[("service", service.to_owned())]),
        sums: Sums::of(runs.values().flatten().copied()).words(),
        runs: runs.into_iter().map(run).collect(),
    };
    services.into_iter().map(group).collect()
}

fn row(call: &Underway, now: Micros, zone: &TimeZone) -> Row {
    let id = call.call.to_string();
    let ms = (now.0 - call.started_at.0).max(0) / 1_000;
    Row {
        href: format!("/calls/{id}"),
        started: format::when(call.started_at, zone),
        lasting: format::duration_ms(ms as u64),
        model: call.model.clone().unwrap_or_else(|| call.endpoint.to_owned()),
        provider: call.provider.clone(),
        run: call.who.as_ref().and_then(|who| who.run.clone()),
        agent: call.who.as_ref().and_then(|who| who.agent.clone()),
        state: match (call.stopping, call.answering, call.stream) {
            (true, ..) => "stopping",
            (_, false, _) => "waiting",
            (_, _, true) => "streaming",
            (_, _, false) => "answering",
        },
        output: format::count(call.output_tokens),
        so_far: call.cost_so_far.map(format::money),
        hold: format::money(call.hold),
        stop: (!call.stopping).then(|| format!("/calls/{id}/stop")),
        id,
    }
}

#[derive(Template)]
#[template(path = "calls/stop.html", blocks = ["view"])]
struct StopPage {
    shell: Shell,
    row: Row,
    service: String,
    problem: Option<String>,
    reason: String,
}

/// `GET /calls/{id}/stop`: asks for the reason before anything is done.
pub async fn ask(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let call = running(&ctx, &id)?;
    asking(&ctx, &call, None, String::new())
}

fn running(ctx: &Ctx, id: &str) -> Result<Underway, PageError> {
    let none = || PageError::not_found("call under way with that id").with_way_out("/calls/running", "What runs now");
    let id: CallId = id.parse().map_err(|_| none())?;
    ctx.web.in_flight.get(id).ok_or_else(|| {
        let href = format!("/calls/{id}");
        PageError::conflict(
            "This call is not under way here",
            "It has ended, or it runs at the vendor; there is nothing to stop.",
        )
        .with_way_out(&href, "Its receipt")
    })
}

fn asking(ctx: &Ctx, call: &Underway, problem: Option<String>, reason: String) -> Result<Response, PageError> {
    let row = row(call, ctx.now, &ctx.zone());
    let service = call.who.as_ref().map(|who| who.service.clone()).unwrap_or_default();
    let page = StopPage { shell: Shell::new(ctx, "Stop a call"), row, service, problem, reason };
    ctx.html(&page, page.as_view())
}

#[derive(Deserialize)]
pub struct Stop {
    csrf: String,
    #[serde(default)]
    reason: String,
}

/// `POST /calls/{id}/stop`.
pub async fn stop(ctx: Ctx, Path(id): Path<String>, Form(form): Form<Stop>) -> Result<Response, PageError> {
    let actor = format!("operator:{}", ctx.check_csrf(&form.csrf)?.operator);
    let call = running(&ctx, &id)?;
    let reason = match control::reason(&form.reason) {
        Ok(reason) => reason,
        Err(error) => {
            let page = asking(&ctx, &call, Some(error.to_string().replace('`', "")), form.reason)?;
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
        }
    };
    match ctx.web.in_flight.end(&ctx.web.ledger, &actor, &reason, call.call).await {
        Ok(_) | Err(NotStopped::Ended(_)) => Ok(Redirect::to(&format!("/calls/{}", call.call)).into_response()),
        Err(NotStopped::Store(error)) => Err(error.into()),
        Err(error) => Err(PageError::conflict("This call was not stopped", format!("It is so: {error}."))),
    }
}
