//! A real gateway on a free port in front of a fake provider, and a client that sees every byte.

pub mod client;
pub mod upstream;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use weighbridge::app::App;
use weighbridge::config::Server;
use weighbridge::domain::catalogue::{KeyStatus, OnClientAbort, Provider, Service};
use weighbridge::domain::key::{Secret, SecretKind};
use weighbridge::domain::{
    Budget, Call, CallId, Change, Component, Enforcement, Environment, Filter, Key, Limit, Metric, Money, PeriodKind,
    PriceOverride, ServiceKind,
};
use weighbridge::gateway::Upload;
use weighbridge::ledger::request::{Reply, Request};
use weighbridge::store::clock::SystemClock;
use weighbridge::store::{Durability, Ledger, Options};

pub use client::{Answer, Client};
pub use upstream::Upstream;

/// The model all tests price: 1 USD per million tokens in, 2 out.
pub const MODEL: &str = "test-model";
/// The credential the fake provider is called with.
pub const PROVIDER_KEY: &str = "sk-provider-secret-0123456789";

/// A running appliance with an in-memory ledger, one service, one key and a fake provider for both dialects.
pub struct TestApp {
    pub app: App,
    pub upstream: Upstream,
    pub key: String,
}

/// What a test wants different.
pub struct Setup {
    pub changes: Vec<Change>,
    pub on_client_abort: OnClientAbort,
    pub idle_timeout_s: u32,
    pub models: Vec<String>,
    pub caller_fields: Vec<&'static str>,
    pub server: Server,
    pub provider_dialect: &'static str,
    pub upload: Upload,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            changes: Vec::new(),
            on_client_abort: OnClientAbort::Cancel,
            idle_timeout_s: 20,
            models: Vec::new(),
            caller_fields: vec!["workflow", "run"],
            server: server(),
            provider_dialect: "openai",
            upload: Upload::default(),
        }
    }
}

/// `[server]` on free ports.
pub fn server() -> Server {
    let mut server = weighbridge::config::Config::default_config().expect("the shipped default is valid").server;
    server.listen = ([127, 0, 0, 1], 0).into();
    server.web_listen = ([127, 0, 0, 1], 0).into();
    server.tls = None;
    server
}

/// A secret of that environment.
pub fn secret(environment: Environment) -> Secret {
    let fill = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).expect("the system has randomness");
    Secret::generate(SecretKind::Service, Some(environment), fill)
}

/// Declares changes.
pub async fn declare(ledger: &Ledger, changes: Vec<Change>) {
    let request = Request::Declare { actor: "test".into(), changes, openings: Vec::new(), reason: None };
    match ledger.submit(request).await.expect("the ledger takes declarations") {
        Reply::Declared { .. } => {}
        other => panic!("declaration refused: {other:?}"),
    }
}

/// A hard budget over everything.
pub fn hard_budget(id: &str, limit: &str) -> Change {
    let budget = Budget {
        enforcement: Enforcement::Hard,
        ..Budget::plain(id, Limit { metric: Metric::Usd, amount: limit.parse::<Money>().unwrap().0 }, PeriodKind::Month)
    };
    Change::Budget(id.into(), Some(budget))
}

pub fn service(id: &str, fields: &[&'static str]) -> Service {
    Service {
        id: id.into(),
        application: "app".into(),
        kind: ServiceKind::Service,
        owner: "team".into(),
        business_unit: "unit".into(),
        cost_centre: None,
        tenant: None,
        purpose: None,
        caller_fields: fields.iter().map(|f| (*f).to_owned()).collect::<BTreeSet<_>>(),
        mandatory_fields: BTreeSet::new(),
        tenants: vec![],
        workflows: vec![],
        prompt_classes: vec![],
    }
}

pub fn key(ledger: &Ledger, secret: &Secret, service: &str) -> Key {
    Key {
        id: secret.id().into(),
        hash: secret.hash(ledger.pepper()),
        service: service.into(),
        environment: secret.environment().expect("a service key has one"),
        created_at: ledger.clock().now(),
        expires_at: None,
        status: KeyStatus::Active,
        allow_models: None,
        note: None,
        not_before: None,
        allow_cidrs: None,
        lineage: None,
        successor: None,
    }
}

fn price(list: &str, component: Component, usd: &str) -> PriceOverride {
    PriceOverride {
        provider: list.into(),
        model: MODEL.into(),
        component,
        usd: usd.into(),
        per: 1_000_000,
        effective_from: None,
        note: None,
    }
}

fn prices(list: &str) -> Change {
    let prices = vec![price(list, Component::InputTokens, "1"), price(list, Component::OutputTokens, "2")];
    Change::Price { provider: list.into(), model: MODEL.into(), prices }
}

impl TestApp {
    pub async fn start() -> TestApp {
        TestApp::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> TestApp {
        let options = Options { durability: Durability::Strict, clock: Arc::new(SystemClock) };
        let ledger = Ledger::open_in_memory(options).expect("a ledger in memory opens");
        TestApp::on(ledger, setup).await
    }

    pub async fn on(ledger: Ledger, setup: Setup) -> TestApp {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let upstream = Upstream::start().await;
        let provider = |id: &str, dialect: &str, base: String, position| {
            let provider = Provider {
                id: id.into(),
                dialect: dialect.into(),
                base_url: base,
                internal: true,
                models: setup.models.clone(),
                price_as: dialect.into(),
                idle_timeout_s: setup.idle_timeout_s,
                on_client_abort: setup.on_client_abort,
                position,
                region: None,
            };
            Change::Provider(id.into(), Some(provider))
        };
        let secret = secret(Environment::Prod);
        let mut changes = vec![
            Change::Service("svc".into(), Some(service("svc", &setup.caller_fields))),
            provider("openai", setup.provider_dialect, format!("{}/v1", upstream.url()), 0),
            provider("anthropic", "anthropic", upstream.url(), 1),
            prices(setup.provider_dialect),
            prices("anthropic"),
        ];
        changes.push(Change::Key(secret.id().into(), Some(key(&ledger, &secret, "svc"))));
        changes.extend(setup.changes);
        declare(&ledger, changes).await;
        let now = ledger.clock().now();
        for id in ["openai", "anthropic"] {
            ledger.core().put_secret(&format!("provider/{id}"), &PROVIDER_KEY.into(), now).expect("a secret is kept");
        }
        let app = App::start_with(&setup.server, ledger, setup.upload).await.expect("the app starts");
        TestApp { app, upstream, key: secret.expose().to_owned() }
    }

    pub fn ledger(&self) -> &Ledger {
        self.app.ledger()
    }

    /// A client of the gateway.
    pub fn client(&self) -> Client {
        Client { addr: self.app.gateway_addr, key: self.key.clone() }
    }

    /// The call an answer belongs to, once it has ended.
    pub async fn settled(&self, answer: &Answer) -> Call {
        let id = answer.header("wb-request-id").expect("every answer names its call");
        self.call(id.parse().expect("a call id")).await
    }

    /// A call, once it has ended.
    pub async fn call(&self, id: CallId) -> Call {
        for _ in 0..1_000 {
            if let Some(call) = self.ledger().call(id).expect("the ledger answers")
                && call.completed_at.is_some()
            {
                return call;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("call {id} did not end within 10 s");
    }

    /// Every call on record, newest first.
    pub fn calls(&self) -> Vec<Call> {
        self.ledger().calls(&Filter::default(), None, 10_000).expect("the ledger answers").0
    }

    /// Waits until no call is open.
    pub async fn quiet(&self) {
        for _ in 0..1_000 {
            if self.ledger().running().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("calls are still open: {:?}", self.ledger().running());
    }
}

/// A chat completion with the given usage, as OpenAI words it.
pub fn chat_answer(input: u64, output: u64) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"Hello there."}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{}}}}}"#,
        input + output
    )
}

/// A request for a chat completion.
pub fn chat_request(extra: &str) -> String {
    format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"Say hello."}}]{extra}}}"#)
}

/// The events of a streamed chat completion.
pub fn chat_events(usage: Option<(u64, u64)>) -> Vec<String> {
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":[{choices}]{usage}}}\n\n"
        )
    };
    let mut events = vec![
        chunk(r#"{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}"#, ""),
        chunk(r#"{"index":0,"delta":{"content":" there, how are you?"},"finish_reason":null}"#, ""),
        chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, ""),
    ];
    if let Some((input, output)) = usage {
        let text = format!(
            ",\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{}}}",
            input + output
        );
        events.push(chunk("", &text));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

/// A message with the given usage, as Anthropic words it.
pub fn message_answer(input: u64, output: u64) -> String {
    format!(
        r#"{{"id":"msg_1","type":"message","role":"assistant","model":"{MODEL}","content":[{{"type":"text","text":"Hello."}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":{input},"output_tokens":{output}}}}}"#
    )
}
