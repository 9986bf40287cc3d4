//! What every answer passes: the request's context, the session, the same-origin check, security headers, error pages.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, Query as AxumQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum_htmx::{HX_REDIRECT, HX_REQUEST};
use cookie::Cookie;
use jiff::tz::TimeZone;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::csrf::CsrfLayer;

use crate::domain::Micros;

use super::Web;
use super::accounts::{self, Session};
use super::error::PageError;
use super::format;
use super::query::{Defaults, Query, link};
use super::shell::Shell;

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                   connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const THEME_COOKIE: &str = "wb-theme";
const KEYS_COOKIE: &str = "wb-keys";
/// A year: what a choice of colours lasts.
const CHOICE_SECONDS: i64 = 365 * 86_400;

/// One request, as pages see it.
#[derive(Clone)]
pub struct Ctx {
    pub web: Web,
    pub session: Option<Arc<Session>>,
    pub uri: Uri,
    pub theme: &'static str,
    pub keys: bool,
    /// htmx wants `#view` alone.
    pub partial: bool,
    pub htmx: bool,
    pub now: Micros,
    pub peer: Option<IpAddr>,
}

impl Ctx {
    /// The organisation's zone; one that this build does not know counts as UTC.
    pub fn zone(&self) -> TimeZone {
        TimeZone::get(&self.web.ledger.catalogue().organisation.time_zone).unwrap_or(TimeZone::UTC)
    }

    /// The page's state, from the query string.
    pub fn query(&self, defaults: Defaults) -> Result<Query, PageError> {
        let pairs = AxumQuery::<Vec<(String, String)>>::try_from_uri(&self.uri)
            .map_err(|e| PageError::bad_form(format!("The query string cannot be read: {e}.")))?;
        let zone = self.web.ledger.catalogue().organisation.time_zone.clone();
        Ok(Query::read(&pairs, defaults, &zone, self.now)?)
    }

    /// A page, or the part of it that htmx asked for.
    pub fn html(&self, whole: impl Template, view: impl Template) -> Result<Response, PageError> {
        let text = if self.partial { view.render()? } else { whole.render()? };
        Ok(Html(text).into_response())
    }

    /// Accepts a form only with the session's own token.
    pub fn check_csrf(&self, token: &str) -> Result<&Session, PageError> {
        let session = self.session.as_deref().ok_or_else(PageError::forged)?;
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), session.csrf.0.as_bytes());
        same.map(|()| session).map_err(|_| PageError::forged())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Ctx, PageError> {
        parts.extensions.get::<Ctx>().cloned().ok_or_else(|| PageError::internal("a page outside its layers"))
    }
}

/// Puts the layers around pages: outermost first, the context; then a panic becomes an error, then same origin.
pub fn around_pages(pages: Router<Web>, web: &Web) -> Router<Web> {
    let refuse = |_| {
        PageError::forbidden("This request came from another site. Open the page here and try again.").into_response()
    };
    let panic = |_: Box<dyn std::any::Any + Send>| PageError::internal("a handler panicked").into_response();
    pages
        .layer(CsrfLayer::new().with_rejection_response(refuse))
        .layer(CatchPanicLayer::custom(panic))
        .layer(middleware::from_fn_with_state(web.clone(), context))
        .layer(CompressionLayer::new())
}

/// Finds session, theme and htmx's wishes; turns a [`PageError`] into a page.
async fn context(State(web): State<Web>, mut request: Request, next: Next) -> Response {
    let ctx = Ctx::of(web, &request);
    request.extensions_mut().insert(ctx.clone());
    let response = next.run(request).await;
    match response.extensions().get::<PageError>() {
        Some(error) => error_page(&ctx, error.clone()),
        None => response,
    }
}

impl Ctx {
    fn of(web: Web, request: &Request) -> Ctx {
        let headers = request.headers();
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
        Ctx {
            session: session(&web, headers).map(Arc::new),
            uri: request.uri().clone(),
            theme: match cookie_value(headers, THEME_COOKIE).as_deref() {
                Some("light") => "light",
                Some("dark") => "dark",
                _ => "auto",
            },
            keys: cookie_value(headers, KEYS_COOKIE).as_deref() != Some("off"),
            partial: is("hx-request-type", "partial"),
            htmx: is(HX_REQUEST.as_str(), "true"),
            now: web.now(),
            peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip()),
            web,
        }
    }
}

/// The session that a request's cookie opens, if it is still good.
pub fn session(web: &Web, headers: &HeaderMap) -> Option<Session> {
    let token = cookie_value(headers, session_cookie(web.https))?;
    accounts::session(&web.ledger, &token, web.now())
}

/// Sends who is not signed in to the sign-in page, and back here afterwards.
pub async fn require_session(ctx: Ctx, request: Request, next: Next) -> Response {
    if ctx.session.is_some() {
        return next.run(request).await;
    }
    let here = ctx.uri.path_and_query().map_or("/", |p| p.as_str());
    let back = if request.method() == Method::GET && here != "/" { vec![("next", here.to_owned())] } else { vec![] };
    let to = link("/sign-in", &back);
    if ctx.htmx {
        // htmx would put the sign-in page into `#view`; this makes it go there.
        return HeaderValue::from_str(&to).map_or_else(
            |_| StatusCode::UNAUTHORIZED.into_response(),
            |to| (StatusCode::UNAUTHORIZED, [(HX_REDIRECT, to)]).into_response(),
        );
    }
    Redirect::to(&to).into_response()
}

/// Whatever no route takes.
pub async fn not_found() -> PageError {
    PageError::not_found("page at this address")
}

#[derive(Template)]
#[template(path = "error.html", blocks = ["view"])]
struct ErrorPage<'a> {
    shell: Shell,
    /// In pieces: what stood between backticks is code.
    title: Vec<(&'a str, bool)>,
    message: Vec<(&'a str, bool)>,
    way_out: Option<(String, String)>,
    id: Option<String>,
}

fn error_page(ctx: &Ctx, error: PageError) -> Response {
    let id = error.cause.as_ref().map(|cause| {
        let id = accounts::token(6);
        tracing::error!(id, path = ctx.uri.path(), cause, "a page could not be made");
        id
    });
    // A question that cannot be answered is put right by asking it without its details.
    let plain =
        || (error.status == StatusCode::BAD_REQUEST && ctx.uri.query().is_some()).then(|| ctx.uri.path().to_owned());
    let way_out = error.way_out.or_else(|| plain().map(|path| (path, "The page without filters".to_owned())));
    let page = ErrorPage {
        shell: Shell::new(ctx, error.title.replace('`', "")),
        title: format::marked(&error.title),
        message: format::marked(&error.message),
        way_out,
        id,
    };
    match ctx.html(&page, page.as_view()) {
        Ok(page) => (error.status, page).into_response(),
        Err(_) => (error.status, error.message.clone()).into_response(),
    }
}

/// The headers of every answer of this listener's pages.
pub async fn headers(State(web): State<Web>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let head = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", CSP),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ] {
        head.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if web.https {
        head.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains"));
    }
    if !head.contains_key(header::CACHE_CONTROL) {
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        head.append(header::VARY, HeaderValue::from_static("HX-Request-Type, Cookie"));
    }
    response
}

fn cookie_value(headers: &HeaderMap, name: &str) -> Option<String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut cookies = pairs.flat_map(Cookie::split_parse).flatten();
    cookies.find(|c| c.name() == name).map(|c| c.value().to_owned())
}

/// `__Host-` needs `Secure`, which browsers do not send back over plain HTTP.
fn session_cookie(https: bool) -> &'static str {
    if https { "__Host-wb" } else { "wb" }
}

fn set_cookie(https: bool, name: &'static str, value: &str, seconds: i64) -> HeaderValue {
    let cookie = Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .secure(https)
        .same_site(cookie::SameSite::Lax)
        .max_age(cookie::time::Duration::seconds(seconds));
    HeaderValue::from_str(&cookie.build().to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The cookie that opens a session.
pub fn open_session(web: &Web, token: &str) -> HeaderValue {
    set_cookie(web.https, session_cookie(web.https), token, accounts::ABSOLUTE_SECONDS)
}

/// The cookie that forgets one.
pub fn close_session(web: &Web) -> HeaderValue {
    set_cookie(web.https, session_cookie(web.https), "", 0)
}

/// The token of the present session, so that signing in again can end it.
pub fn session_token(web: &Web, headers: &HeaderMap) -> Option<String> {
    cookie_value(headers, session_cookie(web.https))
}

/// The cookie that keeps a choice of colours.
pub fn keep_theme(web: &Web, theme: &str) -> HeaderValue {
    set_cookie(web.https, THEME_COOKIE, theme, CHOICE_SECONDS)
}

/// The cookie that keeps shortcuts on or off.
pub fn keep_keys(web: &Web, keys: &str) -> HeaderValue {
    set_cookie(web.https, KEYS_COOKIE, keys, CHOICE_SECONDS)
}

/// A path of this site to go back to; anything else becomes the front page.
pub fn local(path: &str) -> &str {
    let inside = path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '\n', '\r', '\t']);
    if inside { path } else { "/" }
}
