//! `/setup`, `/sign-in`, `/sign-out`: the first operator, passwords, one-time links.
//!
//! Each success and each failure is an ADMIN entry; one that cannot be written fails the action.

use askama::Template;
use axum::extract::Form;
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::domain::id::is_slug;
use crate::ledger::request::Request;

use super::accounts::{self, PASSWORD_MAX, PASSWORD_MIN};
use super::error::PageError;
use super::layers::{self, Ctx};
use super::shell::Shell;
use super::soft_lock::Suspect;

#[derive(Template)]
#[template(path = "sign_in/sign_in.html", blocks = ["view"])]
struct SignInPage {
    shell: Shell,
    error: Option<String>,
    no_operator: bool,
    next: String,
    typed: String,
}

#[derive(Template)]
#[template(path = "sign_in/link.html", blocks = ["view"])]
struct LinkPage {
    shell: Shell,
    operator: String,
    token: String,
}

#[derive(Template)]
#[template(path = "sign_in/setup.html", blocks = ["view"])]
struct SetupPage {
    shell: Shell,
    error: Option<String>,
    token: String,
    typed: String,
}

fn parameter(ctx: &Ctx, name: &str) -> Option<String> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&ctx.uri).ok()?.0;
    pairs.into_iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// `GET /sign-in`, also with a one-time `link`.
pub async fn show(ctx: Ctx) -> Result<Response, PageError> {
    if let Some(token) = parameter(&ctx, "link") {
        let operator = accounts::link_operator(&ctx.web.ledger, &token, ctx.now)?.ok_or_else(used_up)?;
        let page = LinkPage { shell: Shell::new(&ctx, "Sign in"), operator, token };
        return ctx.html(&page, page.as_view());
    }
    let next = parameter(&ctx, "next").unwrap_or_default();
    if ctx.session.is_some() {
        return Ok(Redirect::to(layers::local(&next)).into_response());
    }
    form(&ctx, None, next, String::new())
}

fn form(ctx: &Ctx, error: Option<String>, next: String, typed: String) -> Result<Response, PageError> {
    let no_operator = !accounts::any_operator(&ctx.web.ledger)?;
    let page = SignInPage { shell: Shell::new(ctx, "Sign in"), error, no_operator, next, typed };
    ctx.html(&page, page.as_view())
}

fn used_up() -> PageError {
    PageError::forbidden(
        "This link was used already, or is older than 30 minutes. A restart of the server prints a new one.",
    )
    .with_way_out("/sign-in", "Sign in with a password")
}

#[derive(Deserialize)]
pub struct Credentials {
    operator: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// `POST /sign-in`.
pub async fn sign_in(ctx: Ctx, headers: HeaderMap, Form(form_in): Form<Credentials>) -> Result<Response, PageError> {
    let typed: String = form_in.operator.trim().chars().take(64).collect();
    let account = Suspect::Account(typed.clone());
    let suspects: Vec<Suspect> = std::iter::once(account.clone()).chain(ctx.peer.map(Suspect::source)).collect();
    if let Some(seconds) = lock(&ctx, |l| l.wait(&suspects, ctx.now)) {
        let message = format!("Too many failures of late. Try again in {seconds} s.");
        let page = form(&ctx, Some(message), form_in.next, typed)?;
        return Ok((StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())], page).into_response());
    }
    let operator = accounts::operator(&ctx.web.ledger, &typed)?;
    let stored = operator.as_ref().and_then(|o| o.password.clone()).map(|p| p.0);
    let good = accounts::verify_password(&ctx.web.hashing, form_in.password, stored).await?;
    match operator.filter(|_| good) {
        Some(operator) => {
            record(&ctx, &operator.id, "sign_in").await?;
            lock(&ctx, |l| l.succeeded(&account));
            begin(&ctx, &headers, &operator.id, layers::local(&form_in.next)).await
        }
        None => {
            lock(&ctx, |l| l.failed(&suspects, ctx.now));
            // A name that is no operator's is not recorded: it may be a password typed into the wrong field.
            let actor = accounts::operator(&ctx.web.ledger, &typed)?.map_or("unknown".to_owned(), |o| o.id);
            record(&ctx, &actor, "sign_in_failed").await?;
            let page = form(&ctx, Some("Operator or password is not right.".to_owned()), form_in.next, typed)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
    }
}

#[derive(Deserialize)]
pub struct Link {
    token: String,
}

/// `POST /sign-in/link`: uses up a one-time link.
pub async fn use_link(ctx: Ctx, headers: HeaderMap, Form(link): Form<Link>) -> Result<Response, PageError> {
    let operator = accounts::take_link(&ctx.web.ledger, &link.token, ctx.now).await?.ok_or_else(used_up)?;
    record(&ctx, &operator, "sign_in_by_link").await?;
    begin(&ctx, &headers, &operator, "/").await
}

/// `GET /setup?token=…`.
pub async fn setup(ctx: Ctx) -> Result<Response, PageError> {
    let token = parameter(&ctx, "token").unwrap_or_default();
    if !accounts::setup_open(&ctx.web.ledger, &token, ctx.now)? {
        return Err(used_up());
    }
    let page = SetupPage { shell: Shell::new(&ctx, "Set up"), error: None, token, typed: String::new() };
    ctx.html(&page, page.as_view())
}

#[derive(Deserialize)]
pub struct First {
    token: String,
    operator: String,
    password: String,
    again: String,
}

/// `POST /setup`: creates the first operator and signs in.
pub async fn create_first(ctx: Ctx, headers: HeaderMap, Form(first): Form<First>) -> Result<Response, PageError> {
    if !accounts::setup_open(&ctx.web.ledger, &first.token, ctx.now)? {
        return Err(used_up());
    }
    if let Some(problem) = problem(&first) {
        let page = SetupPage {
            shell: Shell::new(&ctx, "Set up"),
            error: Some(problem),
            token: first.token,
            typed: first.operator.chars().take(64).collect(),
        };
        let answer = ctx.html(&page, page.as_view())?;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, answer).into_response());
    }
    let hash = accounts::hash_password(&ctx.web.hashing, first.password).await?;
    record(&ctx, &first.operator, "operator_created").await?;
    if !accounts::create_first(&ctx.web.ledger, &first.token, &first.operator, hash, ctx.now).await? {
        return Err(used_up());
    }
    record(&ctx, &first.operator, "sign_in").await?;
    begin(&ctx, &headers, &first.operator, "/").await
}

fn problem(first: &First) -> Option<String> {
    if !is_slug(&first.operator) {
        return Some("An operator's name has 1 to 64 lower-case letters, digits, dots, dashes or underscores, and begins with a letter or digit.".into());
    }
    if first.password.chars().count() < PASSWORD_MIN {
        return Some(format!("The password has fewer than {PASSWORD_MIN} characters."));
    }
    if first.password.len() > PASSWORD_MAX {
        return Some(format!("The password is longer than {PASSWORD_MAX} bytes."));
    }
    (first.password != first.again).then(|| "The two passwords differ.".into())
}

#[derive(Deserialize)]
pub struct SignOut {
    csrf: String,
}

/// `POST /sign-out`.
pub async fn sign_out(ctx: Ctx, Form(form): Form<SignOut>) -> Result<Response, PageError> {
    let session = ctx.check_csrf(&form.csrf)?;
    record(&ctx, &session.operator, "sign_out").await?;
    accounts::end_session(&ctx.web.ledger, &session.operator, &session.id).await?;
    Ok(([(SET_COOKIE, layers::close_session(&ctx.web))], Redirect::to("/sign-in")).into_response())
}

/// Opens a new session in place of the one that the browser may have.
async fn begin(ctx: &Ctx, headers: &HeaderMap, operator: &str, to: &str) -> Result<Response, PageError> {
    let old = layers::session_token(&ctx.web, headers);
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unnamed browser").chars().take(200);
    let token = accounts::open_session(&ctx.web.ledger, operator, agent.collect(), old.as_deref(), ctx.now).await?;
    Ok(([(SET_COOKIE, layers::open_session(&ctx.web, &token))], Redirect::to(to)).into_response())
}

async fn record(ctx: &Ctx, operator: &str, action: &str) -> Result<(), PageError> {
    let actor = if operator == "unknown" { "unknown".to_owned() } else { format!("operator:{operator}") };
    let request = Request::Admin { actor, action: action.to_owned(), subject: None, reason: None };
    ctx.web.ledger.submit(request).await?;
    Ok(())
}

fn lock<T>(ctx: &Ctx, f: impl FnOnce(&mut super::soft_lock::SoftLock) -> T) -> T {
    f(&mut ctx.web.soft_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}
