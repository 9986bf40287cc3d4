//! `/profile`: one's own sessions, and choices a browser keeps (colours, shortcuts).

use askama::Template;
use axum::extract::{Form, State};
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Web;
use super::accounts;
use super::error::PageError;
use super::format::{self, When};
use super::layers::{self, Ctx};
use super::shell::Shell;

#[derive(Template)]
#[template(path = "sign_in/profile.html", blocks = ["view"])]
struct ProfilePage {
    shell: Shell,
    name: String,
    since: When,
    zone: String,
    sessions: Vec<SessionRow>,
}

struct SessionRow {
    id: String,
    current: bool,
    agent: String,
    created: When,
    seen: When,
    ends: When,
}

/// `GET /profile`.
pub async fn show(ctx: Ctx) -> Result<Response, PageError> {
    let session = ctx.session.clone().ok_or_else(PageError::forged)?;
    let operator = accounts::operator(&ctx.web.ledger, &session.operator)?
        .ok_or_else(|| PageError::not_found(&format!("operator `{}`", session.operator)))?;
    let zone = ctx.zone();
    let row = |s: accounts::Session| SessionRow {
        current: s.id == session.id,
        created: format::when(s.created_at, &zone),
        seen: format::when(s.seen_at, &zone),
        ends: format::when(s.ends_at(), &zone),
        agent: s.agent,
        id: s.id,
    };
    let sessions = accounts::sessions(&ctx.web.ledger, &session.operator, ctx.now)?;
    let page = ProfilePage {
        shell: Shell::new(&ctx, "Profile"),
        name: operator.id,
        since: format::when(operator.created_at, &zone),
        zone: ctx.web.ledger.catalogue().organisation.time_zone.clone(),
        sessions: sessions.into_iter().map(row).collect(),
    };
    ctx.html(&page, page.as_view())
}

#[derive(Deserialize)]
pub struct EndSession {
    csrf: String,
    session: String,
}

/// `POST /profile/sessions/end`: ends one of one's own sessions.
pub async fn end_session(ctx: Ctx, Form(form): Form<EndSession>) -> Result<Response, PageError> {
    let own = ctx.check_csrf(&form.csrf)?;
    accounts::end_session(&ctx.web.ledger, &own.operator, &form.session).await?;
    if form.session == own.id {
        return Ok(([(SET_COOKIE, layers::close_session(&ctx.web))], Redirect::to("/sign-in")).into_response());
    }
    Ok(Redirect::to("/profile").into_response())
}

#[derive(Deserialize)]
pub struct SwitchKeys {
    csrf: String,
    keys: String,
}

/// `POST /profile/keys`: keyboard shortcuts on or off in this browser.
pub async fn switch_keys(ctx: Ctx, Form(form): Form<SwitchKeys>) -> Result<Response, PageError> {
    ctx.check_csrf(&form.csrf)?;
    let keys = if form.keys == "off" { "off" } else { "on" };
    Ok(([(SET_COOKIE, layers::keep_keys(&ctx.web, keys))], Redirect::to("/profile")).into_response())
}

#[derive(Deserialize)]
pub struct SwitchTheme {
    theme: String,
    #[serde(default)]
    back: String,
}

/// `POST /theme`: colours in this browser; needs no session, changes nothing here.
pub async fn switch_theme(State(web): State<Web>, Form(form): Form<SwitchTheme>) -> Response {
    let theme = ["auto", "light", "dark"].into_iter().find(|t| *t == form.theme).unwrap_or("auto");
    ([(SET_COOKIE, layers::keep_theme(&web, theme))], Redirect::to(layers::local(&form.back))).into_response()
}
