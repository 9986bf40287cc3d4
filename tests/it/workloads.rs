//! Workload tokens through the front door: a token of a trusted issuer is a credential, everything else is 401 with one
//! body, and the record has the exact reason.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weighbridge::domain::trust::{Issuer, KeySource, Profile, TrustRule};
use weighbridge::domain::{Assurance, Change, Environment};
use weighbridge::ledger::entry::Body;

use crate::support::client::{Answer, Client};
use crate::support::upstream::json as json_answer;
use crate::support::{Setup, TestApp, chat_answer, chat_request, declare, service};

const CHAT: &str = "/openai/v1/chat/completions";
const ISS: &str = "https://issuer.example";

/// A key of an issuer.
struct Signer {
    id: String,
    key: EncodingKey,
    public: String,
}

impl Signer {
    fn new(id: &str) -> Signer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let public = data_encoding::BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        Signer { id: id.into(), key, public }
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": self.public })
    }

    /// A token with the usual claims and these.
    fn token(&self, claims: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({ "iss": ISS, "aud": "weighbridge", "iat": now, "exp": now + 300 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, &all, &self.key).unwrap()
    }
}

fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|s| s.jwk()).collect::<Vec<_>>() }).to_string()
}

fn issuer(keys: KeySource, profile: Profile, rules: Vec<TrustRule>) -> Change {
    let issuer = Issuer {
        id: "ci".into(),
        iss: ISS.into(),
        keys,
        refresh_s: Issuer::DEFAULT_REFRESH_S,
        algorithms: vec!["EdDSA".into()],
        audience: "weighbridge".into(),
        max_lifetime_s: Issuer::DEFAULT_LIFETIME_S,
        types: vec![],
        profile,
        shared: false,
        rules: rules.into_iter().map(Arc::new).collect(),
    };
    Change::Issuer("ci".into(), Some(issuer))
}

fn rule(id: &str, environment: Environment, claims: &[(&str, &str)]) -> TrustRule {
    TrustRule {
        id: id.into(),
        claims: claims.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect(),
        service: "svc".into(),
        agent: Some("builder".into()),
        environment,
    }
}

fn inline(signers: &[&Signer]) -> KeySource {
    KeySource { inline: Some(jwks(signers)), ..KeySource::default() }
}

async fn call(app: &TestApp, token: &str, headers: &str) -> Answer {
    let client = Client { addr: app.app.gateway_addr, key: token.to_owned() };
    client.post_with(CHAT, headers, chat_request("").as_bytes()).await
}

/// What only the record says of the newest refusal.
fn detail(app: &TestApp) -> String {
    let entries = app.ledger().entries(0, 10_000).unwrap();
    let deny = entries.into_iter().rev().find_map(|(entry, _)| match entry.body {
        Body::Deny(deny) => Some(deny),
        _ => None,
    });
    deny.and_then(|deny| deny.detail).expect("a refusal with a reason")
}

async fn start(changes: Vec<Change>) -> TestApp {
    let app = TestApp::with(Setup { changes, ..Setup::default() }).await;
    app.upstream.always(json_answer(&chat_answer(10, 5)));
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_fits_a_rule_is_its_service_with_what_is_verified_and_nothing_a_header_says() {
    let signer = Signer::new("k1");
    let rules = vec![rule("release", Environment::Test, &[("repository_id", "42")])];
    let changes = vec![issuer(inline(&[&signer]), Profile::GithubActions, rules)];
    let app = start(changes).await;
    let token = signer.token(json!({
        "sub": "repo:acme/app:ref:refs/heads/main", "repository_id": "42", "workflow": "nightly", "run_id": "991",
    }));
    let answer = call(&app, &token, "wb-run: mine\r\nwb-agent: boss\r\n").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let call = app.settled(&answer).await;
    let who = call.who.unwrap();
    assert_eq!((who.credential.as_str(), who.assurance), ("jwt:ci/release", Assurance::A2));
    assert_eq!(
        (who.service.as_str(), who.environment, who.agent.as_deref()),
        ("svc", Environment::Test, Some("builder"))
    );
    assert_eq!((who.workflow.as_deref(), who.run.as_deref()), (Some("nightly"), Some("991")));
    assert_eq!(who.provenance, "KCKUUCCDCC");
    assert_eq!(app.upstream.seen().len(), 1);
    let sent = &app.upstream.seen()[0];
    assert!(!format!("{sent:?}").contains(&token[..40]), "the caller's token goes no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_prove_nothing_get_one_body_and_an_exact_record() {
    let (signer, thief) = (Signer::new("k1"), Signer::new("k1"));
    let rules = vec![rule("bot", Environment::Prod, &[("sub", "bot")])];
    let changes = vec![issuer(inline(&[&signer]), Profile::Generic, rules)];
    let app = start(changes).await;
    let good = signer.token(json!({ "sub": "bot" }));
    assert_eq!(call(&app, &good, "").await.status, 200);
    let tokens = [
        (thief.token(json!({ "sub": "bot" })), "jwt_signature"),
        // Begins like the one that is known, to the last but one character of its signature.
        (
            format!("{}{}", &good[..good.len() - 4], if good.ends_with("AAAA") { "BBBA" } else { "AAAA" }),
            "jwt_signature",
        ),
        (signer.token(json!({ "sub": "other" })), "identity_unmapped"),
        (signer.token(json!({ "sub": "bot", "aud": ["weighbridge", "vault"] })), "jwt_audience"),
        (signer.token(json!({ "sub": "bot", "iss": "https://issuer.example/" })), "jwt_issuer_unknown"),
        (signer.token(json!({ "sub": "bot", "exp": 1 })), "jwt_expired"),
        (signer.token(json!({ "sub": "bot", "pad": "x".repeat(8_192) })), "jwt_too_long"),
    ];
    let mut bodies = Vec::new();
    for (token, detail) in &tokens {
        let answer = call(&app, token, "").await;
        assert_eq!((answer.status, answer.header("wb-deny")), (401, Some("key_invalid")), "{detail}");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        bodies.push(body);
        assert_eq!(self::detail(&app), *detail);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert_eq!(app.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_stood_for_ends_with_the_rule() {
    let signer = Signer::new("k1");
    let rules = vec![rule("bot", Environment::Prod, &[("sub", "bot")])];
    let changes = vec![issuer(inline(&[&signer]), Profile::Generic, rules)];
    let app = start(changes).await;
    let token = signer.token(json!({ "sub": "bot" }));
    assert_eq!(call(&app, &token, "").await.status, 200);
    let other = TrustRule { service: "second".into(), ..rule("bot", Environment::Prod, &[("sub", "bot")]) };
    let second = Change::Service("second".into(), Some(service("second", &[])));
    declare(app.ledger(), vec![second, issuer(inline(&[&signer]), Profile::Generic, vec![other])]).await;
    let answer = call(&app, &token, "").await;
    assert_eq!(app.settled(&answer).await.who.unwrap().service, "second", "no call goes by what was known before");
    declare(app.ledger(), vec![Change::Issuer("ci".into(), None)]).await;
    assert_eq!(call(&app, &token, "").await.status, 401);
    assert_eq!(detail(&app), "jwt_issuer_unknown");
}

/// An issuer's server: answers with the document it holds, and counts.
struct JwksServer {
    addr: SocketAddr,
    document: Arc<Mutex<(String, u32)>>,
}

impl JwksServer {
    async fn start(document: String) -> JwksServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, document) = (listener.local_addr().unwrap(), Arc::new(Mutex::new((document, 0))));
        let held = document.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let held = held.clone();
                let answer = service_fn(move |_| {
                    let mut held = held.lock().unwrap();
                    held.1 += 1;
                    let body = Full::new(Bytes::from(held.0.clone()));
                    async move { Ok::<_, Infallible>(hyper::Response::new(body)) }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, answer));
            }
        });
        JwksServer { addr, document }
    }

    fn turn_to(&self, document: String) {
        self.document.lock().unwrap().0 = document;
    }

    fn asked(&self) -> u32 {
        self.document.lock().unwrap().1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_changes_its_keys_under_load_causes_no_wrong_refusal() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let server = JwksServer::start(jwks(&[&old])).await;
    let keys = KeySource { url: Some(format!("http://{}/jwks", server.addr)), internal: true, ..KeySource::default() };
    let changes = vec![issuer(keys, Profile::Generic, vec![rule("bot", Environment::Prod, &[("sub", "bot")])])];
    let app = Arc::new(start(changes).await);
    let burst = |signer: &Signer| {
        let tokens: Vec<String> = (0..40).map(|n| signer.token(json!({ "sub": "bot", "jti": n }))).collect();
        let app = app.clone();
        async move {
            let calls = tokens.into_iter().map(|token| {
                let app = app.clone();
                tokio::spawn(async move { call(&app, &token, "").await.status })
            });
            let mut statuses = BTreeMap::new();
            for status in futures_util::future::join_all(calls).await {
                *statuses.entry(status.unwrap()).or_insert(0) += 1;
            }
            statuses
        }
    };
    assert_eq!(burst(&old).await, BTreeMap::from([(200, 40)]));
    let asked = server.asked();
    server.turn_to(jwks(&[&old, &new]));
    let (with_new, with_old) = futures_util::future::join(burst(&new), burst(&old)).await;
    assert_eq!((with_new, with_old), (BTreeMap::from([(200, 40)]), BTreeMap::from([(200, 40)])));
    assert_eq!(server.asked(), asked + 1, "a crowd with a new key asks once");
    // Keys that nobody has do not make us ask for ever.
    for n in 0..20 {
        assert_eq!(call(&app, &Signer::new(&n.to_string()).token(json!({ "sub": "bot" })), "").await.status, 401);
    }
    assert!(server.asked() <= asked + 6, "asked {} times", server.asked() - asked);
}
