//! Puts the appliance together and takes it apart: configuration, store, gateway, web, background work, drain.
//!
//! [`App::start`] opens the store, applies the declared state and binds both listeners, in this order: a wrong
//! configuration is found before anything is opened, and a store that cannot be opened before a port is taken.
//! [`App::stop`] stops accepting, lets calls end and be settled, and closes the ledger; whatever does not end in time is
//! settled at the next start from its hold.

mod framing;
pub mod listen;
pub mod logs;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::api::{self, Api};
use crate::config::{self, Declared};
use crate::control::{self, By, ControlError};
use crate::gateway::{Gateway, GatewayParts, Settings, Upload};
use crate::ledger::request::Request as LedgerRequest;
use crate::notify::Notifier;
use crate::store::clock::SystemClock;
use crate::store::{Durability, Ledger, Options, StoreError};
use crate::web::{self, Web};

use self::listen::Terms;

/// How long calls under way may take to end at shut-down.
const DRAIN: Duration = Duration::from_secs(20);
/// How often leases are looked at, and folded refusals written.
const TICK: Duration = Duration::from_secs(10);
/// How often stored bytes are read again, and how many: 2 MB/s.
const SCRUB: (Duration, u64) = (Duration::from_secs(1), 2 << 20);
/// How often the ballast is looked at: it grows by 1 MiB at a time.
const BALLAST: Duration = Duration::from_secs(5);
/// How often keys of trusted issuers are looked at; each is read when it is due.
const ISSUERS: Duration = Duration::from_secs(5);
/// Connections beside those of calls: health checks, idle keep-alive.
const SPARE_CONNECTIONS: usize = 1_024;

/// A running appliance.
pub struct App {
    /// Where software reaches the gateway.
    pub gateway_addr: SocketAddr,
    /// Where people and the admin API are.
    pub web_addr: SocketAddr,
    ledger: Ledger,
    gateway: Gateway,
    notifier: Notifier,
    /// No new connections on the gateway.
    stop: CancellationToken,
    /// The web listener and the background tasks end after the calls have.
    stop_web: CancellationToken,
    calls: TaskTracker,
    rest: TaskTracker,
    https: bool,
}

/// Opens the store that a configuration names.
pub fn open(server: &config::Server) -> Result<Ledger, StoreError> {
    let durability = if server.relaxed { Durability::Relaxed } else { Durability::Strict };
    let options = Options { durability, clock: Arc::new(SystemClock) };
    Ledger::open(&server.data_dir, options)
}

/// The same where that was refused: a journal that is not what was promised, or cannot be read, is left as it is, and a
/// new epoch begins. A sound one is opened as ever, so that a service manager may start the same command twice.
pub fn open_anew(server: &config::Server, reason: &str) -> Result<Ledger, StoreError> {
    if reason.trim().is_empty() {
        return Err(StoreError::Refused("say why a new epoch begins: --new-epoch \"<reason>\"".into()));
    }
    match open(server) {
        Ok(ledger) => {
            tracing::warn!("the journal is what was promised: no new epoch was begun");
            Ok(ledger)
        }
        Err(
            why @ (StoreError::Rollback { .. }
            | StoreError::Damaged { .. }
            | StoreError::Altered { .. }
            | StoreError::Missing { .. }),
        ) => {
            tracing::warn!(%why, "the journal cannot be gone on with");
            let begun = Ledger::begin_epoch(&server.data_dir, &SystemClock, reason)?;
            let (epoch, interrupted) = (begun.epoch, begun.interrupted);
            tracing::warn!(epoch, interrupted, carried = begun.carried, "a new epoch has begun");
            open(server)
        }
        Err(other) => Err(other),
    }
}

/// Brings the catalogue to what a configuration declares. Returns what changed, in lines for people.
pub async fn apply(ledger: &Ledger, declared: &Declared) -> Result<Vec<String>, ControlError> {
    bring_about(ledger, declared).await.map(|(lines, _)| lines)
}

async fn bring_about(ledger: &Ledger, declared: &Declared) -> Result<(Vec<String>, control::Applied), ControlError> {
    let by = By::new("file", ledger.clock().now());
    let plan = control::plan(&ledger.catalogue(), declared, ledger.pepper(), by.at, false)?;
    let mut lines: Vec<String> = plan.lines.iter().map(ToString::to_string).collect();
    lines.extend(plan.warnings.iter().map(|w| format!("warning: {w}")));
    let applied = control::apply(ledger, &by, plan).await?;
    lines.extend(applied.sealed.iter().map(|provider| format!("provider {provider}: another credential from now on")));
    lines.extend(applied.addresses.iter().map(|channel| format!("notify {channel}: another address from now on")));
    Ok((lines, applied))
}

impl App {
    /// Starts on an open ledger: binds both listeners and serves. Needs a tokio runtime.
    pub async fn start(server: &config::Server, ledger: Ledger) -> Result<App> {
        App::start_with(server, ledger, Upload::default()).await
    }

    /// The same with other bounds of time for what callers send.
    pub async fn start_with(server: &config::Server, ledger: Ledger, upload: Upload) -> Result<App> {
        install_crypto();
        let tls = server.tls.as_ref().map(|t| tls::acceptor(&t.cert, &t.key)).transpose()?;
        let https = tls.is_some();
        let gateway_door = bind(server.listen, "server.listen").await?;
        let web_door = bind(server.web_listen, "server.web_listen").await?;
        let (gateway_addr, web_addr) = (gateway_door.local_addr()?, web_door.local_addr()?);
        let scheme = if https { "https" } else { "http" };
        let pages = server.public_url.clone().unwrap_or_else(|| format!("{scheme}://{web_addr}"));
        start_signing(&ledger).await?;

        let gateway = Gateway::new(GatewayParts {
            secrets: secrets(&ledger),
            ledger: ledger.clone(),
            settings: Settings {
                max_body_bytes: server.max_body_bytes,
                upload,
                max_concurrent: server.max_concurrent,
                help_base: Some(pages.clone()),
            },
        });
        let notifier = Notifier::new(ledger.clone(), pages.as_str());
        let app = App {
            gateway_addr,
            web_addr,
            ledger,
            gateway,
            notifier,
            stop: CancellationToken::new(),
            stop_web: CancellationToken::new(),
            calls: TaskTracker::new(),
            rest: TaskTracker::new(),
            https,
        };
        app.serve_gateway(gateway_door, tls.clone(), server.max_concurrent as usize);
        app.serve_web(web_door, tls, server);
        app.rest.spawn(background(app.ledger.clone(), app.gateway.clone(), app.stop_web.clone()));
        app.rest.spawn(issuers(app.gateway.clone(), app.stop_web.clone()));
        app.rest.spawn(app.notifier.clone().run(app.stop_web.clone()));
        let gateway = app.gateway.clone();
        app.rest.spawn_blocking(move || gateway.recall());
        app.rest.spawn(scrub(app.ledger.clone(), app.stop_web.clone()));
        Ok(app)
    }

    /// From now on a ballast is kept for the day the disk is full.
    pub fn keep_ballast(&self) {
        self.rest.spawn(ballast(self.ledger.clone(), self.stop_web.clone()));
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Brings the catalogue to what a configuration declares, while calls go on. Returns what changed, in lines for
    /// people.
    pub async fn apply(&self, declared: &Declared) -> Result<Vec<String>, ControlError> {
        let (lines, applied) = bring_about(&self.ledger, declared).await?;
        if !applied.sealed.is_empty() {
            self.gateway.credentials_changed();
        }
        Ok(lines)
    }

    /// Base URL of the gateway.
    pub fn gateway_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.gateway_addr)
    }

    /// Base URL of pages and API.
    pub fn web_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.web_addr)
    }

    /// The one-time link by which the first operator is made; none once there is one.
    pub fn setup_link(&self) -> Option<String> {
        web::setup_link(&self.ledger, &self.web_url())
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn serve_gateway(&self, door: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, most: usize) {
        let terms =
            Terms { tls, connections: most + SPARE_CONNECTIONS, stop: self.stop.clone(), open: self.calls.clone() };
        let gateway = self.gateway.clone();
        let handler = move |request: Request<Incoming>, peer: SocketAddr| {
            let gateway = gateway.clone();
            async move { gateway.handle(request, peer).await }
        };
        self.calls.spawn(listen::serve(door, terms, handler));
    }

    fn serve_web(&self, door: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, server: &config::Server) {
        let terms = Terms { tls, connections: SPARE_CONNECTIONS, stop: self.stop_web.clone(), open: self.rest.clone() };
        let router = self.web_router(server);
        let handler = move |request: Request<Incoming>, peer: SocketAddr| {
            let router = router.clone();
            async move {
                let mut request = request.map(axum::body::Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        self.rest.spawn(listen::serve(door, terms, handler));
    }

    /// Pages and the admin API on one listener.
    fn web_router(&self, server: &config::Server) -> axum::Router {
        let token = server.operator_token.as_ref().map(|t| SecretString::from(t.expose_secret()));
        let notifier = self.notifier.clone();
        let web = Web::new(self.ledger.clone(), self.https, self.gateway_url())
            .with_calls(self.gateway.in_flight())
            .with_notifier(notifier.clone());
        let sessions = web.clone();
        let hook = move |headers: &http::HeaderMap| {
            web::session_operator(&sessions, headers).map(|operator| format!("operator:{operator}"))
        };
        let api = Api::new(self.ledger.clone(), token).with_session(Arc::new(hook)).with_notifier(notifier);
        api::router(api.with_calls(self.gateway.in_flight())).merge(web::router(web))
    }

    /// Stops accepting, waits for the calls under way, closes the ledger.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.calls.close();
        if !self.gateway.drain(DRAIN).await {
            tracing::warn!(calls = self.gateway.under_way(), "calls did not end in time; the next start settles them");
        }
        // Settled answers are on their way; connections get a moment to send them.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.calls.wait()).await;
        self.gateway.write_folded(true).await;
        self.stop_web.cancel();
        self.rest.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.rest.wait()).await;
        self.ledger.close().await.context("the ledger did not close cleanly")
    }
}

/// The one crypto library of the process. Installing it twice is refused and harmless.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Checks what a configuration names before anything is opened: certificate and key.
pub fn check(server: &config::Server) -> Result<()> {
    install_crypto();
    server.tls.as_ref().map(|t| tls::acceptor(&t.cert, &t.key)).transpose().map(drop)
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what}: cannot listen on {address}"))
}

/// The signing key is made at the first start, when the organisation's name is known; later starts find it.
async fn start_signing(ledger: &Ledger) -> Result<()> {
    let ledger = ledger.clone();
    tokio::task::spawn_blocking(move || ledger.start_signing()).await?.context("no key to sign checkpoints with")
}

/// Providers' credentials come out of the store's sealed secrets.
fn secrets(ledger: &Ledger) -> crate::gateway::Secrets {
    let ledger = ledger.clone();
    Arc::new(move |provider| {
        let id = control::provider_secret_id(provider);
        ledger.core().secret(&id).unwrap_or_else(|error| {
            tracing::error!(%error, provider, "the credential of a provider cannot be read");
            None
        })
    })
}

/// What happens by the clock: leases that ran out are settled, folded refusals are written.
async fn background(ledger: Ledger, gateway: Gateway, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = ledger.submit(LedgerRequest::ExpireLeases).await {
            tracing::warn!(%error, "leases could not be looked at");
        }
        gateway.write_folded(false).await;
        // Who paused may have gone away before the calls were cut.
        gateway.in_flight().cut_paused(&ledger);
    }
}

/// Keeps the keys of trusted issuers fresh, so that no call has to ask for them.
async fn issuers(gateway: Gateway, stop: CancellationToken) {
    let mut tick = tokio::time::interval(ISSUERS);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        gateway.refresh_issuers().await;
    }
}

/// Makes the ballast, slowly, and again once there is room after it was given up.
async fn ballast(ledger: Ledger, stop: CancellationToken) {
    let mut tick = tokio::time::interval(BALLAST);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let ledger = ledger.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || ledger.grow_ballast()).await {
            tracing::error!(%error, "the ballast was not looked at");
        }
    }
}

/// Reads the journal again, slowly, against its hashes.
async fn scrub(ledger: Ledger, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SCRUB.0);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let ledger = ledger.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || ledger.scrub(SCRUB.1)).await {
            tracing::error!(%error, "the scrub broke off");
        }
    }
}
