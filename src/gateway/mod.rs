//! Carries one call across the bridge: identify, classify, authorize, forward, observe, settle.
//!
//! [`Gateway::handle`] is the whole story. Each stage takes what the one before gave, so none can be skipped. From
//! authorization on, a call runs in a task of its own: a caller who hangs up cannot keep it from being settled, and
//! shut-down waits for it. The stages know HTTP; what bytes mean is `dialect`'s, what they cost `pricing`'s, and whether a
//! call may go the ledger's: there is no balance here.

pub mod attribute;
mod authorize;
mod body;
mod carrier;
mod classify;
pub mod connect;
mod cover;
mod flight;
mod forward;
mod headers;
mod identify;
mod ids;
mod judge;
mod learned;
mod names;
mod observe;
mod own;
mod rates;
mod refuse;
mod replay;
mod route;
mod settle;
mod snapshot;
mod spent;
mod stop;
mod throttle;
mod ticket;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::domain::{Code, Micros, Refusal};
use crate::store::Ledger;

use self::classify::Asked;
use self::identify::key_sets::Keeper as KeySetKeeper;
use self::identify::tokens::Tokens;
use self::learned::Learned;
use self::rates::Rates;
use self::refuse::Refused;
use self::replay::Replays;
use self::route::Route;
use self::snapshot::{Snapshot, Snapshots};
use self::throttle::Throttle;
use self::ticket::Ticket;

pub use self::body::{Body, Upload};
pub use self::flight::{InFlight, Underway};
pub use self::identify::credential::Credential;
pub use self::snapshot::Secrets;
pub use self::stop::NotStopped;

/// Most upstreams read on for their usage after their callers left.
const MAX_DRAINS: usize = 64;

/// Marks a request whose length could be read in two ways (`Transfer-Encoding` with `Content-Length`, a repeated
/// length): the listener sees the bytes and says so.
#[derive(Clone, Copy, Debug)]
pub struct BadFraming;

/// What a gateway is made of.
pub struct GatewayParts {
    pub ledger: Ledger,
    /// Reads providers' credentials.
    pub secrets: Secrets,
    pub settings: Settings,
}

/// What the configuration says about the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest request body, in bytes.
    pub max_body_bytes: u64,
    /// How long a request body may take.
    pub upload: Upload,
    /// Most calls under way at once.
    pub max_concurrent: u32,
    /// Where the pages are that explain refusals: `http://127.0.0.1:8701`.
    pub help_base: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_body_bytes: 32 * 1024 * 1024,
            upload: Upload::default(),
            max_concurrent: 20_000,
            help_base: None,
        }
    }
}

/// The data plane. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    settings: Settings,
    snapshots: Snapshots,
    clients: connect::Clients,
    throttle: Mutex<Throttle>,
    /// Keys of the issuers of workload tokens.
    key_sets: KeySetKeeper,
    tokens: Mutex<Tokens>,
    replays: Mutex<Replays>,
    rates: Rates,
    learned: Learned,
    under_way: Arc<Semaphore>,
    drains: Arc<Semaphore>,
    in_flight: InFlight,
    calls: TaskTracker,
}

/// What became of a request before anything was asked of the ledger.
enum Prepared {
    /// Answered from here.
    Answer(Response<Body>),
    Call(Ready),
}

/// A call that is ready to be authorized.
struct Ready {
    asked: Box<Asked>,
    /// The answer, where it is a list of models that we have ourselves.
    listing: Option<Bytes>,
    /// Its place among the calls under way.
    place: OwnedSemaphorePermit,
}

impl Gateway {
    pub fn new(parts: GatewayParts) -> Gateway {
        let settings = parts.settings;
        let most = (settings.max_concurrent as usize).min(Semaphore::MAX_PERMITS);
        let clients = connect::Clients::new();
        Gateway {
            inner: Arc::new(Inner {
                ledger: parts.ledger,
                snapshots: Snapshots::new(parts.secrets),
                key_sets: KeySetKeeper::new(clients.clone()),
                tokens: Mutex::default(),
                clients,
                throttle: Mutex::default(),
                replays: Mutex::default(),
                rates: Rates::default(),
                learned: Learned::default(),
                under_way: Arc::new(Semaphore::new(most)),
                drains: Arc::new(Semaphore::new(MAX_DRAINS)),
                in_flight: InFlight::default(),
                calls: TaskTracker::new(),
                settings,
            }),
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer in the caller's dialect.
    pub async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let (head, body) = request.into_parts();
        if let Some(answer) = self.health(&head) {
            return answer;
        }
        let snapshot = self.snapshot();
        let of = |id: &str| snapshot.catalogue.providers.get(id).map(|p| p.dialect.clone());
        let dialect = route::dialect_of(head.uri.path(), &head.headers, of);
        let mut ticket = Box::new(Ticket::new(&head, peer, self.now(), dialect));
        ticket.catalogue_revision = snapshot.catalogue.revision;
        let call = match self.prepare(&snapshot, &mut ticket, head, body).await {
            Ok(Prepared::Answer(answer)) => return answer,
            Ok(Prepared::Call(call)) => call,
            Err(refused) => return self.refuse(&ticket, refused).await,
        };
        // The rest runs in a task that the caller's leaving cannot end.
        let ticket = Arc::<Ticket>::from(ticket);
        let (reply, answer) = oneshot::channel();
        self.inner.calls.spawn(self.clone().run(snapshot, ticket.clone(), call, reply));
        match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(refused)) => self.refuse(&ticket, refused).await,
            Err(_) => self.refuse(&ticket, authorize::journal_unavailable()).await,
        }
    }

    /// The stages up to what the call can cost.
    async fn prepare(
        &self,
        snapshot: &Arc<Snapshot>,
        ticket: &mut Ticket,
        head: Parts,
        body: Incoming,
    ) -> Result<Prepared, Refused> {
        let provider = |id: &str| snapshot.catalogue.providers.get(id).cloned();
        let found = route::find(&head.uri, &head.method, &head.headers, provider);
        refuse_form(&head)?;
        let caller = self.identify(snapshot, ticket, &head).await?;
        let route = found?;
        if let Route::Own(path) = &route {
            return Box::pin(self.own(&caller, &head, path, snapshot)).await.map(Prepared::Answer);
        }
        // Reading one's own receipts needs no more than the credential.
        identify::mandatory(&caller.service, &caller.who, &ticket.claimed)?;
        refuse_upgrade(&head.headers)?;
        let place = self.inner.under_way.clone().try_acquire_owned().map_err(|_| full())?;
        let body =
            body::read(body, &head.headers, self.inner.settings.max_body_bytes, self.inner.settings.upload).await?;
        ticket.read_at = Instant::now();
        let natural = matches!(route, Route::Natural { .. });
        let mut asked = self.classify(snapshot, ticket, &caller, route, &head, body)?;
        self.look_back(ticket, &caller, &asked, &head)?;
        if !snapshot.rated.is_empty() {
            // Rare, so it does not make every call's task larger.
            asked.rates = Box::pin(self.enter(snapshot, ticket, &asked)).await?;
        }
        let listing = if natural { own::listing(snapshot, &caller, ticket, &asked) } else { None };
        Ok(Prepared::Call(Ready { asked, listing, place }))
    }

    /// Repetitions: a used idempotency key ends here, a retry is linked to the call it repeats.
    fn look_back(
        &self,
        ticket: &mut Ticket,
        caller: &identify::Caller,
        asked: &Asked,
        head: &Parts,
    ) -> Result<(), Refused> {
        let credential = caller.credential.id();
        if let Some(key) = head.headers.get(&names::IDEMPOTENCY_KEY) {
            let key = key.to_str().ok().filter(|k| (1..=replay::MAX_KEY).contains(&k.len())).ok_or_else(|| {
                Refused::with(Code::Malformed, "Weighbridge: wb-idempotency-key must be 1 to 128 visible characters.")
            })?;
            self.replays().claim(credential, key, ticket.id, ticket.received_at).map_err(|first| {
                let message = format!(
                    "Weighbridge: this wb-idempotency-key was used by call {first} already, whose answer is not kept. The \
                     request was not forwarded again; GET /wb/v1/calls/{first} has its receipt."
                );
                Refused::with(Code::IdempotencyReplay, message)
            })?;
            ticket.idempotency_key = Some(key.to_owned());
        }
        let body = self.fingerprint(asked.url.path(), &asked.body.decoded);
        let retry = head.headers.get(&names::RETRY_COUNT).is_some_and(|v| v.as_bytes() != b"0");
        ticket.fingerprint = Some(body);
        ticket.retry_of = self.replays().seen(credential, body, ticket.id, retry, ticket.received_at);
        Ok(())
    }

    /// Declared state for one call.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshots.of(self.inner.ledger.catalogue())
    }

    fn now(&self) -> Micros {
        self.inner.ledger.clock().now()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.inner.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replays(&self) -> MutexGuard<'_, Replays> {
        self.inner.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credentials of providers have changed in the store: the next call reads them anew.
    pub fn credentials_changed(&self) {
        self.inner.snapshots.rotated();
    }

    /// The calls under way, to be looked at and ended.
    pub fn in_flight(&self) -> InFlight {
        self.inner.in_flight.clone()
    }

    /// Learns from the newest calls on record what such calls say as a rule. Blocks: for a start, beside the calls.
    pub fn recall(&self) {
        self.inner.learned.recall(&self.inner.ledger, self.now());
    }

    /// Calls under way.
    pub fn under_way(&self) -> usize {
        self.inner.calls.len()
    }

    /// Waits until every call is settled, at most this long; true if all were. New ones must not come any more.
    pub async fn drain(&self, at_most: Duration) -> bool {
        self.inner.calls.close();
        tokio::time::timeout(at_most, self.inner.calls.wait()).await.is_ok()
    }
}

/// Requests that two parties could read differently, and targets that name another server.
fn refuse_form(head: &Parts) -> Result<(), Refusal> {
    if head.extensions.get::<BadFraming>().is_some() {
        return Err(Refusal::new(Code::Malformed, "Weighbridge: the request frames its body in more than one way."));
    }
    if head.version < http::Version::HTTP_2 && head.uri.scheme().is_some() {
        return Err(Refusal::new(
            Code::Malformed,
            "Weighbridge: the request target must be a path; this is no forward proxy.",
        ));
    }
    Ok(())
}

fn refuse_upgrade(headers: &HeaderMap) -> Result<(), Refusal> {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.to_ascii_lowercase().contains("websocket") {
        return Ok(());
    }
    let message = "Weighbridge: WebSocket connections are not carried yet. Use the same API over HTTP; streams work.";
    Err(Refusal::new(Code::UpgradeNotSupported, message))
}

fn full() -> Refused {
    let mut refusal =
        Refusal::new(Code::RateLimited, "Weighbridge: as many calls as this gateway carries are under way.");
    refusal.retry_after_s = Some(1);
    Refused::new(refusal)
}
