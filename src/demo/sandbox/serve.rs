//! The sandbox's server: routing, credentials, faults, and a record of what it saw.

use std::collections::VecDeque;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Random;
use super::answer::Answer;
use super::ask::Ask;
use super::cache::PrefixCache;
use super::faults::Directive;
use super::models::{self, Model, Vendor};
use super::pace::{Pace, Rhythm};
use super::responses::Stored;
use super::wire::{self, Reply};
use super::{anthropic, openai, responses};

/// Requests remembered for tests.
const REMEMBERED: usize = 200_000;
/// Largest request body after decompression, in bytes.
const BODY_LIMIT: usize = 64 << 20;

/// How the sandbox behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub pace: Pace,
    /// Share of calls that fail by chance, 0.0 to 1.0.
    pub faults: f64,
    /// The only credential it takes; absent = any, but one there must be.
    pub api_key: Option<String>,
    /// Remember what was seen, for [`Sandbox::seen`].
    pub remember: bool,
}

impl Settings {
    /// As fast as it can, without faults by chance, remembering everything.
    pub fn for_tests() -> Settings {
        Settings { seed: 1, pace: Pace::Fast, faults: 0.0, api_key: None, remember: true }
    }
}

/// A request the sandbox saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub model: String,
    /// `metadata.run` of the body, else its user: where tests put their marker.
    pub marker: Option<String>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

struct Inner {
    settings: Settings,
    cache: PrefixCache,
    stored: Stored,
    requests: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
    /// False while answers are held back.
    open: watch::Sender<bool>,
}

/// A running sandbox. It stops with the runtime it was started on, or by [`Sandbox::stop`].
#[derive(Clone)]
pub struct Sandbox {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: Arc<tokio::task::JoinHandle<()>>,
}

impl Sandbox {
    /// Starts on a free loopback port.
    pub async fn start(settings: Settings) -> std::io::Result<Sandbox> {
        Sandbox::start_on("127.0.0.1:0", settings).await
    }

    /// Starts on an address.
    pub async fn start_on(address: &str, settings: Settings) -> std::io::Result<Sandbox> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            settings,
            cache: PrefixCache::default(),
            stored: Stored::default(),
            requests: AtomicU64::new(0),
            seen: Mutex::default(),
            open: watch::Sender::new(true),
        });
        let router = Router::new().fallback(handle).layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(inner.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the sandbox stopped");
            }
        });
        Ok(Sandbox { address, inner, task: Arc::new(task) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL as OpenAI's SDKs take it.
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Base URL as Anthropic's SDKs take it.
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was seen so far, oldest first. Empty unless [`Settings::remember`].
    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().cloned().collect()
    }

    /// Holds back every answer, or lets them go. Requests are seen and remembered all the same.
    pub fn set_open(&self, open: bool) {
        self.inner.open.send_replace(open);
    }

    /// Stops taking connections.
    pub fn stop(&self) {
        self.task.abort();
    }
}

async fn handle(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, raw: Bytes) -> Response {
    let number = inner.requests.fetch_add(1, Ordering::Relaxed);
    let mut random = Random::fork(inner.settings.seed.wrapping_add(number), "sandbox-call");
    let anthropic = headers.contains_key("anthropic-version");
    let vendor = if anthropic || uri.path().starts_with("/v1/messages") || uri.path() == "/v1/complete" {
        Vendor::Anthropic
    } else {
        Vendor::OpenAi
    };
    let request_id = match vendor {
        Vendor::Anthropic => format!("req_011C{}", random.token(20)),
        _ => format!("req_{}", random.token(32)),
    };
    let body = decode(&headers, &raw);
    let json: Value = body.as_deref().and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
    let mut ask = Ask::read(body.as_deref().unwrap_or_default(), &json);
    if let Some(directive) = headers.get("sandbox-directive").and_then(|v| v.to_str().ok()) {
        ask.directive = Directive::parse(directive);
    }
    let mut reply = answer(&inner, vendor, &method, uri.path(), &headers, &json, &ask, &mut random, &request_id);
    reply.headers.extend(wire::common_headers(vendor, &mut random, &request_id));
    if inner.settings.remember {
        remember(&inner, &method, &uri, &headers, &ask, reply.status);
    }
    let mut open = inner.open.subscribe();
    // The sender lives in `inner`, which this request holds: it cannot be gone.
    let _ = open.wait_for(|open| *open).await;
    reply.into_response()
}

fn remember(inner: &Inner, method: &Method, uri: &Uri, headers: &HeaderMap, ask: &Ask, status: u16) {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let seen = Seen {
        method: method.to_string(),
        path: uri.path().to_owned(),
        model: ask.model.clone(),
        marker: ask.marker.clone(),
        status,
        headers: headers.iter().map(text).collect(),
    };
    let mut list = inner.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(seen);
}

/// The request body without its compression; `None` where it cannot be read.
fn decode(headers: &HeaderMap, raw: &Bytes) -> Option<Bytes> {
    let limit = BODY_LIMIT as u64;
    let mut out = Vec::new();
    match headers.get("content-encoding").and_then(|v| v.to_str().ok()) {
        Some("gzip") => flate2::read::MultiGzDecoder::new(raw.as_ref()).take(limit).read_to_end(&mut out).ok()?,
        Some("zstd") => zstd::Decoder::new(raw.as_ref()).ok()?.take(limit).read_to_end(&mut out).ok()?,
        _ => return Some(raw.clone()),
    };
    Some(out.into())
}

fn authorised(inner: &Inner, headers: &HeaderMap) -> bool {
    let bearer = headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    let key = headers.get("x-api-key").and_then(|v| v.to_str().ok()).or(bearer);
    match (&inner.settings.api_key, key) {
        (Some(expected), Some(found)) => expected == found,
        (None, found) => found.is_some(),
        (Some(_), None) => false,
    }
}

fn answer(
    inner: &Inner,
    vendor: Vendor,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &Value,
    ask: &Ask,
    random: &mut Random,
    request_id: &str,
) -> Reply {
    let refuse = |status: u16, message: &str| refusal(vendor, status, message, request_id);
    if !authorised(inner, headers) {
        return refuse(401, "Incorrect API key provided.");
    }
    let path = path.strip_prefix("/v1").unwrap_or(path);
    if let Some(reply) = without_model(inner, vendor, method, path, &refuse) {
        return reply;
    }
    if !body.is_object() {
        return refuse(400, "We could not parse the JSON body of your request.");
    }
    let directive = ask.directive.or_else(|| Directive::by_chance(random, inner.settings.faults));
    let ask = &Ask { directive, ..ask.clone() };
    if let Some(Directive::Error(status)) = directive {
        return refuse(status, fault_message(status));
    }
    // A directive in place of the model is answered by a model of that vendor.
    let stand_in = if vendor == Vendor::Anthropic { "claude-haiku-4-5" } else { "gpt-4o-mini" };
    let name = if Directive::parse(&ask.model).is_some() { stand_in } else { &ask.model };
    let Some(model) = models::find(name) else {
        return refuse(404, &format!("The model `{}` does not exist or you do not have access to it.", ask.model));
    };
    let reply = by_model(inner, path, body, ask, model, random);
    let Some(reply) = reply else { return refuse(404, &format!("Invalid URL (POST /v1{path})")) };
    match directive {
        Some(Directive::Html) => Reply::html(),
        Some(Directive::Abort) => reply.cut(true),
        Some(Directive::Truncate) => reply.cut(false),
        Some(Directive::Silent) => silent(reply),
        _ => reply,
    }
}

/// Paths that name no model: lists, stored answers, the health of a look-alike.
fn without_model(
    inner: &Inner,
    vendor: Vendor,
    method: &Method,
    path: &str,
    refuse: &dyn Fn(u16, &str) -> Reply,
) -> Option<Reply> {
    let found = |body: Option<Value>| match body {
        Some(body) => Reply::json(200, &body, Duration::ZERO),
        None => refuse(404, "No such object."),
    };
    let reply = match (method.as_str(), path.strip_prefix("/responses/")) {
        ("GET", Some(id)) => found(inner.stored.get(id)),
        ("POST", Some(rest)) if rest.ends_with("/cancel") => {
            found(inner.stored.cancel(rest.trim_end_matches("/cancel")))
        }
        ("GET", None) if path == "/models" && vendor == Vendor::Anthropic => found(Some(anthropic::models())),
        ("GET", None) if path == "/models" => found(Some(openai::models())),
        ("GET", None) if path.starts_with("/models/") => {
            let model = models::find(path.trim_start_matches("/models/"));
            found(
                model
                    .map(|m| json!({"id": m.name, "object": "model", "created": 1_760_000_000, "owned_by": "sandbox"})),
            )
        }
        ("GET", None) if path == "/files" => found(Some(json!({"object": "list", "data": [], "has_more": false}))),
        ("POST", _) => return None,
        _ => refuse(404, &format!("Invalid URL ({method} /v1{path})")),
    };
    Some(reply)
}

fn by_model(inner: &Inner, path: &str, body: &Value, ask: &Ask, model: &Model, random: &mut Random) -> Option<Reply> {
    let made = Answer::make(inner.settings.seed, model, ask, &inner.cache);
    let mut rhythm = Rhythm::new(inner.settings.pace, model, Random::new(random.draw()));
    if ask.directive == Some(Directive::Slow) {
        rhythm = rhythm.at_least(20_000.0);
    }
    let now = jiff::Timestamp::now().as_second();
    let rhythm = &mut rhythm;
    Some(match path {
        "/chat/completions" => openai::chat(ask, model, &made, rhythm, random, now),
        "/completions" => openai::completions(ask, model, &made, rhythm, random, now),
        "/embeddings" => openai::embeddings(body, model, rhythm, random),
        "/responses" => responses::create(ask, body, model, &made, rhythm, random, &inner.stored, now),
        "/messages" => anthropic::messages(ask, model, &made, rhythm, random),
        "/messages/count_tokens" => anthropic::count_tokens(&made),
        "/complete" => anthropic::complete(ask, model, &made, rhythm, random),
        _ => return None,
    })
}

fn refusal(vendor: Vendor, status: u16, message: &str, request_id: &str) -> Reply {
    let mut reply = Reply::json(status, &wire::error(vendor, status, message, request_id), Duration::ZERO);
    if status == 429 {
        reply.headers.push(("retry-after", "1".into()));
    }
    reply
}

fn fault_message(status: u16) -> &'static str {
    match status {
        429 => "Rate limit reached for requests. Please try again in 1s.",
        529 => "Overloaded",
        500.. => "The server had an error while processing your request. Sorry about that!",
        _ => "The request was refused by the sandbox, as it was told to.",
    }
}

/// The head at once, then nothing for a minute, then the answer.
fn silent(mut reply: Reply) -> Reply {
    if let Some(first) = reply.frames.first_mut() {
        first.0 = Duration::from_secs(60);
    }
    reply
}
