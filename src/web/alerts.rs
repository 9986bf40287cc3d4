//! `/alerts`: what was told, to whom, whether it got there and whether somebody saw it; `/alerts/channels`: where alerts go.

use askama::Template;
use axum::extract::{Form, Path, Query as AxumQuery};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::control::{self, AlertAct, By, ControlError};
use crate::domain::Catalogue;
use crate::domain::notify::{ChannelKind, Notify, Transport};
use crate::ledger::entry::{Delivery, DeliveryStep};
use crate::ledger::outbox::{AlertId, Route};
use crate::notify::words;
use crate::report::{self, AlertFilter, AlertRow, AlertState, ChannelRow, KINDS, Place, Status};

use super::error::PageError;
use super::format::{self, When};
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

/// Alerts of one page.
const LIMIT: usize = 50;
const TABS: [(&str, &str); 2] = [("/alerts", "History"), ("/alerts/channels", "Channels")];

/// A kind in words.
fn kind_words(kind: &str) -> &'static str {
    match kind {
        "actual" => "threshold",
        "denied" => "refusal",
        "overrun" => "overrun",
        "forecast" => "forecast",
        "no_data" => "silence",
        "key_expiry" => "key ends",
        _ => "other",
    }
}

#[derive(Template)]
#[template(path = "alerts/list.html", blocks = ["view"])]
struct ListPage {
    shell: Shell,
    tabs: Vec<Tab>,
    kinds: Vec<Choice>,
    states: Vec<Choice>,
    budget: String,
    undelivered: bool,
    filtered: bool,
    rows: Vec<Row>,
    zone: String,
    /// Where older ones are.
    older: Option<String>,
}

struct Tab {
    href: &'static str,
    label: &'static str,
    current: bool,
}

struct Choice {
    value: &'static str,
    label: &'static str,
    chosen: bool,
}

struct Row {
    href: String,
    title: String,
    kind: &'static str,
    raised: When,
    state: State,
    told: Told,
}

/// What an alert is in, with the colour of its tag.
#[derive(Clone, Copy)]
struct State {
    label: &'static str,
    tone: &'static str,
}

/// Where an alert went, in short.
struct Told {
    words: String,
    tone: &'static str,
}

fn state(state: AlertState) -> State {
    match state {
        AlertState::Firing => State { label: "▲ firing", tone: "bad" },
        AlertState::Acknowledged => State { label: "◆ acknowledged", tone: "warn" },
        AlertState::Resolved => State { label: "● resolved", tone: "good" },
    }
}

fn told(row: &AlertRow) -> Told {
    if row.alert.unrouted {
        return Told { words: "▲ nobody: there is no channel for it".into(), tone: "bad" };
    }
    let lost = row.places.iter().filter(|p| matches!(p.status, Status::Dead | Status::Undeliverable)).count();
    if lost > 0 {
        return Told { words: format!("▲ not delivered to {lost}"), tone: "bad" };
    }
    let open =
        row.places.iter().filter(|p| matches!(p.status, Status::Waiting | Status::Failed | Status::Held)).count();
    match (row.places.len(), open) {
        // Before alerts were delivered.
        (0, _) => Told { words: "pages only".into(), tone: "" },
        (_, 0) => Told { words: "● delivered".into(), tone: "good" },
        (_, open) => Told { words: format!("◆ on its way to {open}"), tone: "warn" },
    }
}

fn tabs(current: &str) -> Vec<Tab> {
    TABS.iter().map(|(href, label)| Tab { href, label, current: *href == current }).collect()
}

/// `GET /alerts`.
pub async fn list(ctx: Ctx, AxumQuery(pairs): AxumQuery<Vec<(String, String)>>) -> Result<Response, PageError> {
    let filter = AlertFilter::read(&pairs).map_err(PageError::from)?;
    let value = |name: &str| pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone());
    let (ledger, wanted, cursor) = (ctx.web.ledger.clone(), filter.clone(), value("cursor"));
    let found =
        tokio::task::spawn_blocking(move || report::alerts(&ledger, &wanted, cursor.as_deref(), LIMIT)).await??;
    let (zone, catalogue) = (ctx.zone(), ctx.web.ledger.catalogue());
    let row = |row: &AlertRow| Row {
        href: format!("/alerts/{}", row.id),
        title: words::words(&row.alert, &row.id, &catalogue, "").title,
        kind: kind_words(&row.alert.kind),
        raised: format::when(row.raised_at, &zone),
        state: state(row.state),
        told: told(row),
    };
    let older = found.next_cursor.as_ref().map(|cursor| {
        let kept = pairs.iter().filter(|(name, value)| name != "cursor" && !value.is_empty());
        let mut pairs: Vec<(&str, String)> = kept.map(|(n, v)| (n.as_str(), v.clone())).collect();
        pairs.push(("cursor", cursor.clone()));
        link("/alerts", &pairs)
    });
    let kinds = KINDS.iter().map(|kind| Choice {
        value: kind,
        label: kind_words(kind),
        chosen: filter.kind.as_deref() == Some(kind),
    });
    let states = AlertState::ALL.into_iter().map(|s| Choice {
        value: s.name(),
        label: s.name(),
        chosen: filter.state == Some(s),
    });
    let page = ListPage {
        shell: Shell::new(&ctx, "Alerts"),
        tabs: tabs("/alerts"),
        kinds: kinds.collect(),
        states: states.collect(),
        budget: filter.budget.clone().unwrap_or_default(),
        undelivered: filter.undelivered,
        filtered: filter != AlertFilter::default(),
        rows: found.alerts.iter().map(row).collect(),
        zone: ctx.web.ledger.catalogue().organisation.time_zone.clone(),
        older,
    };
    ctx.html(&page, page.as_view())
}

#[derive(Template)]
#[template(path = "alerts/show.html", blocks = ["view"])]
struct ShowPage {
    shell: Shell,
    id: String,
    title: String,
    text: String,
    kind: &'static str,
    raised: When,
    state: State,
    firing: bool,
    over: bool,
    unrouted: bool,
    budget: String,
    period: String,
    key: String,
    /// Its entry in the journal.
    position: String,
    places: Vec<PlaceRow>,
    history: Vec<Step>,
    zone: String,
}

struct PlaceRow {
    channel: String,
    owner: String,
    label: String,
    tone: &'static str,
    attempts: u16,
    at: Option<When>,
    next: Option<When>,
    detail: String,
    may_try_again: bool,
}

struct Step {
    at: When,
    what: String,
    detail: String,
    reason: String,
}

fn place(p: &Place, zone: &TimeZone) -> PlaceRow {
    let (shape, tone) = match p.status {
        Status::Delivered => ("●", "good"),
        Status::Dead | Status::Undeliverable => ("▲", "bad"),
        Status::Waiting | Status::Held | Status::Failed => ("◆", "warn"),
        Status::Moved => ("→", ""),
    };
    let label = match p.status {
        Status::Waiting => "waiting",
        Status::Held => "held until quiet hours end",
        Status::Delivered => "delivered",
        Status::Failed => "failed, tried again",
        Status::Dead => "given up",
        Status::Moved => "went elsewhere",
        Status::Undeliverable => "undeliverable",
    };
    PlaceRow {
        channel: p.route.channel.clone(),
        owner: p.route.owner.clone().unwrap_or_default(),
        label: format!("{shape} {label}"),
        tone,
        attempts: p.attempts,
        at: p.at.map(|at| format::when(at, zone)),
        next: p.next_at.map(|at| format::when(at, zone)),
        detail: p.detail.clone().unwrap_or_default(),
        may_try_again: p.may_try_again,
    }
}

fn step_words(d: &Delivery) -> String {
    let to = &d.route;
    match d.step {
        DeliveryStep::Sending => format!("put into a message to {to}"),
        DeliveryStep::Delivered => format!("delivered to {to}, attempt {}", d.attempt),
        DeliveryStep::Failed => format!("not delivered to {to}, attempt {}", d.attempt),
        DeliveryStep::Dead => format!("given up for {to} after {} attempts", d.attempt),
        DeliveryStep::Held => format!("held back for {to}"),
        DeliveryStep::Moved => {
            format!("moved from {to} to {}", d.to.as_ref().map_or_else(|| "nowhere".to_owned(), Route::to_string))
        }
        DeliveryStep::Undeliverable => format!("undeliverable to {to}"),
        DeliveryStep::Test => format!("test of {to}"),
        DeliveryStep::Again => format!("to be tried again for {to}"),
        DeliveryStep::Acknowledged => "acknowledged".to_owned(),
        DeliveryStep::Resolved => "resolved".to_owned(),
    }
}

fn read_id(id: &str) -> Result<AlertId, PageError> {
    id.parse().map_err(|_| PageError::not_found("alert of this id").with_way_out("/alerts", "All alerts"))
}

/// `GET /alerts/{id}`.
pub async fn show(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let (ledger, wanted) = (ctx.web.ledger.clone(), read_id(&id)?);
    let found = tokio::task::spawn_blocking(move || {
        let Some(row) = report::alert(&ledger, wanted)? else { return Ok(None) };
        // What a person typed lies where it can be erased: with the entry itself.
        let reasons = row.history.iter().map(|(position, _, d)| match d.actor {
            Some(_) => reason(&ledger, *position),
            None => Ok(String::new()),
        });
        let reasons = reasons.collect::<Result<Vec<String>, _>>()?;
        Ok::<_, report::ReportError>(Some((row, reasons)))
    });
    let Some((row, reasons)) = found.await?? else {
        return Err(PageError::not_found("alert of this id").with_way_out("/alerts", "All alerts"));
    };
    let (zone, catalogue) = (ctx.zone(), ctx.web.ledger.catalogue());
    let words = words::words(&row.alert, &row.id, &catalogue, "");
    let step = |((_, at, d), reason): (&(u64, crate::domain::Micros, Delivery), String)| Step {
        at: format::when(*at, &zone),
        what: match &d.actor {
            Some(actor) => format!("{} by {actor}", step_words(d)),
            None => step_words(d),
        },
        detail: d.detail.clone().unwrap_or_default(),
        reason,
    };
    let page = ShowPage {
        shell: Shell::new(&ctx, "Alert"),
        id: row.id.to_string(),
        title: words.title,
        text: words.text,
        kind: kind_words(&row.alert.kind),
        raised: format::when(row.raised_at, &zone),
        state: state(row.state),
        firing: row.state == AlertState::Firing,
        over: row.state == AlertState::Resolved,
        unrouted: row.alert.unrouted,
        budget: row.alert.budget.clone(),
        period: row.alert.period.clone(),
        key: row.alert.subject.clone().unwrap_or_default(),
        position: format::count(row.position),
        places: row.places.iter().map(|p| place(p, &zone)).collect(),
        history: row.history.iter().zip(reasons).map(step).collect(),
        zone: catalogue.organisation.time_zone.clone(),
    };
    ctx.html(&page, page.as_view())
}

fn reason(ledger: &crate::store::Ledger, position: u64) -> Result<String, crate::store::StoreError> {
    let found = ledger.entries(position, 1)?;
    let person = found.into_iter().next().and_then(|(_, erasable)| erasable.person);
    Ok(person.and_then(|p| p.reason).unwrap_or_default())
}

#[derive(Deserialize)]
pub struct Act {
    csrf: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    owner: String,
}

/// `POST /alerts/{id}/{acknowledge,resolve,retry}`.
pub async fn act(
    ctx: Ctx,
    Path((id, what)): Path<(String, String)>,
    Form(form): Form<Act>,
) -> Result<Response, PageError> {
    let session = ctx.check_csrf(&form.csrf)?;
    let id = read_id(&id)?;
    let act = match what.as_str() {
        "acknowledge" => AlertAct::Acknowledge,
        "resolve" => AlertAct::Resolve,
        "retry" => {
            let owner = (!form.owner.is_empty()).then(|| form.owner.clone());
            AlertAct::TryAgain(Route { channel: form.channel.clone(), owner })
        }
        _ => return Err(PageError::not_found("such action on an alert")),
    };
    let by = By::new(format!("operator:{}", session.operator), ctx.now).because(form.reason.clone());
    control::act_on_alert(&ctx.web.ledger, &by, id, act).await.map_err(|error| refused(error, &id))?;
    Ok(Redirect::to(&format!("/alerts/{id}")).into_response())
}

fn refused(error: ControlError, id: &AlertId) -> PageError {
    match error {
        ControlError::Store(error) => error.into(),
        other => PageError::bad_form(format!("{other}.")).with_way_out(&format!("/alerts/{id}"), "Back to the alert"),
    }
}

#[derive(Template)]
#[template(path = "alerts/channels.html", blocks = ["view"])]
struct ChannelsPage {
    shell: Shell,
    tabs: Vec<Tab>,
    rows: Vec<Channel>,
    zone: String,
}

struct Channel {
    id: String,
    kind: &'static str,
    goes_to: String,
    takes: &'static str,
    quiet: String,
    waiting: usize,
    dead: usize,
    last: Option<Last>,
}

struct Last {
    at: When,
    label: &'static str,
    tone: &'static str,
    detail: String,
}

/// `GET /alerts/channels`.
pub async fn channels(ctx: Ctx) -> Result<Response, PageError> {
    let ledger = ctx.web.ledger.clone();
    let found = tokio::task::spawn_blocking(move || report::channels(&ledger)).await??;
    let (zone, catalogue) = (ctx.zone(), ctx.web.ledger.catalogue());
    let page = ChannelsPage {
        shell: Shell::new(&ctx, "Channels"),
        tabs: tabs("/alerts/channels"),
        rows: found.iter().map(|row| channel(row, &zone, &catalogue)).collect(),
        zone: catalogue.organisation.time_zone.clone(),
    };
    ctx.html(&page, page.as_view())
}

fn channel(row: &ChannelRow, zone: &TimeZone, catalogue: &Catalogue) -> Channel {
    let n = &row.notify;
    let last = row.last.as_ref().map(|(at, d)| {
        let detail = d.detail.clone().unwrap_or_default();
        let (label, tone, detail) = match d.step {
            DeliveryStep::Delivered => ("● delivered", "good", String::new()),
            DeliveryStep::Test if detail == "delivered" => ("● test delivered", "good", String::new()),
            DeliveryStep::Test => ("▲ test failed", "bad", detail),
            DeliveryStep::Dead => ("▲ given up", "bad", detail),
            _ => ("◆ failed", "warn", detail),
        };
        Last { at: format::when(*at, zone), label, tone, detail }
    });
    Channel {
        id: n.id.clone(),
        kind: n.kind.name(),
        goes_to: goes_to(n),
        takes: match (n.default, n.kind) {
            (true, ChannelKind::Email) => "what names no other channel; mail to owners",
            (true, _) => "what names no other channel",
            (false, ChannelKind::Email) => "what names it; mail to owners",
            (false, _) => "what names it",
        },
        quiet: n.quiet.as_ref().map_or_else(String::new, |quiet| {
            let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            let zone = quiet.zone.as_deref().unwrap_or(&catalogue.organisation.time_zone);
            let wake = if n.refusals_wake { ", but for refusals" } else { "" };
            format!("{} to {}, {zone}{wake}", time(quiet.from), time(quiet.to))
        }),
        waiting: row.waiting,
        dead: row.dead,
        last,
    }
}

/// Never the whole address: whoever knows it may post there.
fn goes_to(n: &Notify) -> String {
    let how = match n.transport {
        Transport::Tls => "TLS",
        Transport::StartTls => "STARTTLS",
        Transport::Plain => "not encrypted",
        Transport::Udp => "UDP",
    };
    format!("{} ({how})", n.host)
}

#[derive(Deserialize)]
pub struct TestChannel {
    csrf: String,
    channel: String,
}

/// `POST /alerts/channels/test`: the answer is the row's last result.
pub async fn test(ctx: Ctx, Form(form): Form<TestChannel>) -> Result<Response, PageError> {
    let session = ctx.check_csrf(&form.csrf)?;
    if !ctx.web.ledger.catalogue().notify.contains_key(&form.channel) {
        return Err(PageError::not_found("channel of this id").with_way_out("/alerts/channels", "All channels"));
    }
    let Some(notifier) = &ctx.web.notifier else {
        return Err(PageError::forbidden("This process does not deliver alerts."));
    };
    let actor = format!("operator:{}", session.operator);
    let result = notifier.test(&form.channel, &actor, None).await?;
    if let Err(failed) = result {
        tracing::info!(channel = form.channel, why = failed.why, "a test of a channel did not arrive");
    }
    Ok(Redirect::to("/alerts/channels").into_response())
}
