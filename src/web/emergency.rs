//! `/emergency`: what is paused now, pausing at once, letting go again.

use askama::Template;
use axum::extract::{Form, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::control::{self, By, ControlError, NewPause, PauseView};
use crate::domain::Catalogue;
use crate::domain::pause::PauseKind;

use super::error::PageError;
use super::format::{self, When};
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

/// How long, as the form offers it: value and words.
const SPANS: [(&str, &str); 7] = [
    ("15m", "15 minutes"),
    ("1h", "1 hour"),
    ("2h", "2 hours"),
    ("8h", "8 hours"),
    ("1d", "1 day"),
    ("7d", "7 days"),
    ("30d", "30 days"),
];
/// Most names offered for what to pause.
const MOST_NAMES: usize = 500;

#[derive(Template)]
#[template(path = "emergency/list.html", blocks = ["view"])]
struct EmergencyPage {
    shell: Shell,
    pauses: Vec<Row>,
    zone: String,
    form: PauseForm,
    kinds: Vec<(&'static str, bool)>,
    spans: Vec<(&'static str, &'static str, bool)>,
    names: Vec<String>,
    problem: Option<String>,
    /// What was just done.
    done: Option<String>,
}

struct Row {
    id: String,
    kind: &'static str,
    subject: String,
    calls: String,
    until: When,
    cut: bool,
    by: String,
    since: Option<When>,
    reason: String,
}

/// A pause as the form has it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PauseForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    subject: String,
    #[serde(default, rename = "for")]
    lasting: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    cut: Option<String>,
    #[serde(default)]
    done: Option<String>,
}

/// `GET /emergency`; `kind` and `subject` fill the form.
pub async fn show(ctx: Ctx, Query(form): Query<PauseForm>) -> Result<Response, PageError> {
    page(&ctx, form, None).await
}

async fn page(ctx: &Ctx, form: PauseForm, problem: Option<String>) -> Result<Response, PageError> {
    let ledger = ctx.web.ledger.clone();
    let pauses = tokio::task::spawn_blocking(move || control::pauses(&ledger)).await??;
    let zone = ctx.zone();
    let catalogue = ctx.web.ledger.catalogue();
    let lasting = if form.lasting.is_empty() { "1h" } else { form.lasting.as_str() };
    let done = form.done.as_deref().and_then(|done| match done.split_once(' ') {
        Some(("resumed", id)) => Some(format!("{id} may call again.")),
        Some(("paused", id)) => Some(format!("{id} is paused.")),
        _ => None,
    });
    let page = EmergencyPage {
        shell: Shell::new(ctx, "Emergency"),
        pauses: pauses.into_iter().map(|pause| row(pause, &zone)).collect(),
        zone: catalogue.organisation.time_zone.clone(),
        kinds: PauseKind::ALL.map(|kind| (kind.name(), kind.name() == form.kind)).to_vec(),
        spans: SPANS.map(|(value, words)| (value, words, value == lasting)).to_vec(),
        names: names(&catalogue),
        form,
        problem,
        done,
    };
    let refused = page.problem.is_some();
    let answer = ctx.html(&page, page.as_view())?;
    Ok(if refused { (StatusCode::UNPROCESSABLE_ENTITY, answer).into_response() } else { answer })
}

fn row(pause: PauseView, zone: &jiff::tz::TimeZone) -> Row {
    let dimension = if pause.kind == PauseKind::Key { "credential" } else { pause.kind.name() };
    Row {
        kind: pause.kind.name(),
        calls: link("/calls", &[(dimension, pause.subject.clone())]),
        subject: pause.subject,
        until: format::when(pause.until, zone),
        cut: pause.cut,
        by: pause.by.unwrap_or_else(|| format::UNKNOWN.to_owned()),
        since: pause.since.map(|at| format::when(at, zone)),
        reason: pause.reason.unwrap_or_else(|| format::UNKNOWN.to_owned()),
        id: pause.id,
    }
}

/// What the form offers: what is declared.
fn names(catalogue: &Catalogue) -> Vec<String> {
    let services = catalogue.services.keys().chain(catalogue.providers.keys()).chain(catalogue.keys.keys());
    services.take(MOST_NAMES).cloned().collect()
}

/// `POST /emergency/pause`.
pub async fn pause(ctx: Ctx, Form(form): Form<PauseForm>) -> Result<Response, PageError> {
    let by = By::new(format!("operator:{}", ctx.check_csrf(&form.csrf)?.operator), ctx.now);
    let Some(kind) = PauseKind::from_name(&form.kind) else {
        return page(&ctx, form, Some("Choose what kind of thing to pause".to_owned())).await;
    };
    let new = NewPause {
        kind,
        subject: form.subject.clone(),
        lasting: Some(form.lasting.clone()),
        until: None,
        reason: form.reason.clone(),
        cut: form.cut.is_some(),
    };
    match control::pause(&ctx.web.ledger, &by, new).await {
        Ok(made) => {
            ctx.web.in_flight.cut_paused(&ctx.web.ledger);
            Ok(Redirect::to(&link("/emergency", &[("done", format!("paused {}", made.id))])).into_response())
        }
        Err(error) => refused(&ctx, form, error).await,
    }
}

#[derive(Deserialize)]
pub struct ResumeForm {
    csrf: String,
    id: String,
    #[serde(default)]
    reason: String,
}

/// `POST /emergency/resume`.
pub async fn resume(ctx: Ctx, Form(form): Form<ResumeForm>) -> Result<Response, PageError> {
    let by = By::new(format!("operator:{}", ctx.check_csrf(&form.csrf)?.operator), ctx.now);
    match control::resume(&ctx.web.ledger, &by, &form.id, &form.reason).await {
        Ok(ended) => {
            Ok(Redirect::to(&link("/emergency", &[("done", format!("resumed {}", ended.id))])).into_response())
        }
        Err(error) => refused(&ctx, PauseForm::default(), error).await,
    }
}

/// The form again, with what was wrong with it.
async fn refused(ctx: &Ctx, form: PauseForm, error: ControlError) -> Result<Response, PageError> {
    match error {
        ControlError::Store(error) => Err(error.into()),
        error => page(ctx, form, Some(error.to_string().replace('`', ""))).await,
    }
}
