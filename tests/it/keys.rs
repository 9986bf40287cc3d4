//! Virtual keys through both front doors: changed by the admin API, used at the gateway.

use secrecy::SecretString;
use serde_json::{Value, json};
use weighbridge::ledger::entry::Body;

use crate::support::client::{Answer, Client};
use crate::support::upstream::json as json_answer;
use crate::support::{Setup, TestApp, chat_answer, chat_request, server};

const TOKEN: &str = "an-operator-token-of-a-test-0123456789";
const CHAT: &str = "/openai/v1/chat/completions";

async fn start() -> TestApp {
    let mut server = server();
    server.operator_token = Some(SecretString::from(TOKEN.to_owned()));
    let app = TestApp::with(Setup { server, ..Setup::default() }).await;
    app.upstream.always(json_answer(&chat_answer(10, 5)));
    app
}

async fn ask(app: &TestApp, method: &str, path: &str, body: Value) -> Answer {
    let client = Client { addr: app.app.web_addr, key: TOKEN.to_owned() };
    let body = body.to_string().into_bytes();
    let mut bytes = client.head(method, &format!("/api/v1{path}"), "", body.len());
    bytes.extend_from_slice(&body);
    client.raw(&bytes).await
}

async fn call(app: &TestApp, key: &str) -> u16 {
    let client = Client { addr: app.app.gateway_addr, key: key.to_owned() };
    client.post(CHAT, &chat_request("")).await.status
}

/// What only the record says of the newest refusal.
fn detail(app: &TestApp) -> String {
    let entries = app.ledger().entries(0, 10_000).unwrap();
    let details = entries.into_iter().rev().find_map(|(entry, _)| match entry.body {
        Body::Deny(deny) => Some(deny.detail),
        _ => None,
    });
    details.flatten().expect("a refusal with a reason")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_and_its_successor_both_work_until_the_overlap_ends() {
    let app = start().await;
    let id = app.key[..16].to_owned();
    let made = ask(&app, "POST", &format!("/keys/{id}/rotate"), json!({ "overlap_s": 3_600 })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let second = made.json()["secret"].as_str().unwrap().to_owned();
    assert_eq!((call(&app, &app.key).await, call(&app, &second).await), (200, 200));
    let shown = ask(&app, "GET", &format!("/keys/{id}"), Value::Null).await.json();
    assert_eq!(shown["successor"], made.json()["id"]);
    let again = ask(&app, "POST", &format!("/keys/{id}/rotate"), json!({})).await;
    assert_eq!(again.status, 409, "a line has one end: {}", again.text());

    let third = ask(&app, "POST", &format!("/keys/{}/rotate", &second[..16]), json!({ "overlap_s": 0 })).await.json();
    assert_eq!(third["lineage"], id.as_str(), "all keys of a line name its first");
    assert_eq!(call(&app, &second).await, 401, "no overlap: the old one ends with the rotation");
    assert_eq!(detail(&app), format!("key_retired:{}", &second[..16]));
    assert_eq!(call(&app, third["secret"].as_str().unwrap()).await, 200);
    let wrong = ask(&app, "POST", &format!("/keys/{}/rotate", &second[..16]), json!({ "overlap_s": 9_999_999 })).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_key_stands_for_nobody_and_one_bound_to_networks_works_only_there() {
    let app = start().await;
    let make = |extra: Value| {
        let mut body = json!({ "service": "svc", "environment": "test" });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let made = ask(&app, "POST", "/keys", make(json!({ "allow_cidrs": ["10.0.0.0/8"] }))).await.json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert_eq!(call(&app, secret).await, 401);
    assert_eq!(detail(&app), format!("source_not_permitted:{id}"));
    ask(&app, "PATCH", &format!("/keys/{id}"), json!({ "allow_cidrs": ["127.0.0.0/8"] })).await;
    assert_eq!(call(&app, secret).await, 200);
    ask(&app, "PATCH", &format!("/keys/{id}"), json!({ "status": "canary" })).await;
    assert_eq!(call(&app, secret).await, 401);
    assert_eq!(detail(&app), format!("key_canary:{id}"));
    let early =
        ask(&app, "POST", "/keys", make(json!({ "not_before": "2999-01-01", "expires": "never" }))).await.json();
    assert_eq!(call(&app, early["secret"].as_str().unwrap()).await, 401);
    let wrong = ask(&app, "POST", "/keys", make(json!({ "allow_cidrs": ["10.0.0.0/40"] }))).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
}
