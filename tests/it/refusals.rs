//! Refusals in the caller's dialect: status, body, headers, and a record of each.

use weighbridge::domain::{Change, Code, Environment, Micros, Outcome};

use crate::support::client::Client;
use crate::support::{MODEL, Setup, TestApp, chat_request, declare, hard_budget, key, secret};

const CHAT: &str = "/openai/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";

async fn code_of(app: &TestApp, path: &str, headers: &str, body: &str) -> (u16, String, serde_json::Value) {
    let client = Client { key: String::new(), ..app.client() };
    let answer = client.post_with(path, headers, body.as_bytes()).await;
    assert_eq!(answer.header("wb-request-id"), answer.header("x-request-id"));
    assert!(answer.header("wb-help").is_some_and(|h| h.contains("/help/")));
    (answer.status, answer.header("wb-deny").unwrap_or_default().to_owned(), answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_verify_get_one_body_and_an_exact_record() {
    let app = TestApp::start().await;
    let unknown = secret(Environment::Prod);
    let mut wrong = app.key.clone();
    wrong.replace_range(53..54, if wrong.ends_with('0') { "1" } else { "0" });
    let mut bodies = Vec::new();
    for value in [unknown.expose(), wrong.as_str(), "wbk_short", "no-key-at-all"] {
        let (status, code, body) =
            code_of(&app, CHAT, &format!("authorization: Bearer {value}\r\n"), &chat_request("")).await;
        assert_eq!((status, code.as_str()), (401, "key_invalid"), "{value}");
        assert_eq!(body["error"]["code"], "invalid_api_key");
        let mut error = body["error"].clone();
        if let Some(error) = error.as_object_mut() {
            error.remove("request_id");
        }
        bodies.push(error["type"].clone());
    }
    assert!(bodies.iter().all(|b| *b == bodies[0]));
    assert!(app.upstream.seen().is_empty());
    let calls = app.calls();
    assert_eq!(calls.len(), 4);
    assert!(calls.iter().all(|c| c.outcome == Outcome::Refused && c.who.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_ambiguous_and_misplaced_credentials_have_their_codes() {
    let app = TestApp::start().await;
    let key = app.key.clone();
    let other = secret(Environment::Prod);
    let body = chat_request("");
    for (path, headers, status, code) in [
        (CHAT.to_owned(), String::new(), 401, "credential_missing"),
        (
            CHAT.into(),
            format!("authorization: Bearer {key}\r\nx-api-key: {}\r\n", other.expose()),
            400,
            "credential_ambiguous",
        ),
        (CHAT.into(), format!("x-api-key: {key}\r\nx-api-key: {key}\r\n"), 400, "credential_ambiguous"),
        (format!("{CHAT}?key={key}"), String::new(), 400, "credential_in_query"),
        (CHAT.into(), "authorization: Bearer sk-proj-abcdef\r\n".into(), 401, "vendor_key_presented"),
        (MESSAGES.into(), "x-api-key: sk-ant-api03-abc\r\n".into(), 401, "vendor_key_presented"),
    ] {
        let (got_status, got_code, json) = code_of(&app, &path, &headers, &body).await;
        assert_eq!((got_status, got_code.as_str()), (status, code), "{path}");
        assert!(json["error"]["message"].as_str().is_some_and(|m| m.contains("Weighbridge")), "{json}");
        if path == MESSAGES {
            assert_eq!(json["type"], "error");
        }
    }
    let text = format!("{:?}", app.calls());
    assert!(!text.contains(&key[16..]), "a key is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_told_so_only_with_the_right_secret() {
    let app = TestApp::start().await;
    let old = secret(Environment::Prod);
    let mut row = key(app.ledger(), &old, "svc");
    row.expires_at = Some(Micros(app.ledger().clock().now().0 - 1));
    declare(app.ledger(), vec![Change::Key(row.id.clone(), Some(row))]).await;
    let (status, code, _) =
        code_of(&app, CHAT, &format!("authorization: Bearer {}\r\n", old.expose()), &chat_request("")).await;
    assert_eq!((status, code.as_str()), (401, "key_expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn budget_refusals_have_the_dialects_body_and_are_not_retried() {
    let app = TestApp::with(Setup { changes: vec![hard_budget("spent", "0.0000001")], ..Setup::default() }).await;
    let openai = app.client().post(CHAT, &chat_request("")).await;
    assert_eq!(
        (openai.status, openai.header("wb-deny"), openai.header("wb-budget")),
        (402, Some("budget_exceeded"), Some("spent"))
    );
    assert_eq!((openai.header("x-should-retry"), openai.header("retry-after")), (Some("false"), None));
    assert!(openai.header("wb-budget-resets-at").is_some_and(|t| t.parse::<Micros>().is_ok()));
    assert_eq!(
        (openai.json()["error"]["type"].as_str(), openai.json()["error"]["code"].as_str()),
        (Some("insufficient_quota"), Some("budget_exceeded"))
    );
    let request = format!(r#"{{"model":"{MODEL}","max_tokens":10,"messages":[{{"role":"user","content":"x"}}]}}"#);
    let anthropic = app.client().post(MESSAGES, &request).await;
    assert_eq!((anthropic.status, anthropic.json()["error"]["type"].as_str()), (402, Some("billing_error")));
    let codex = app
        .client()
        .post_with(
            "/openai/v1/responses",
            "originator: codex_cli_rs\r\n",
            format!(r#"{{"model":"{MODEL}","input":"x"}}"#).as_bytes(),
        )
        .await;
    assert_eq!((codex.status, codex.json()["error"]["type"].as_str()), (429, Some("usage_limit_reached")));
    assert!(app.upstream.seen().is_empty());
    let denied = app.calls();
    assert_eq!(denied.len(), 3);
    assert!(denied.iter().all(|c| {
        c.refusal
            .as_ref()
            .is_some_and(|(code, by)| *code == Code::BudgetExceeded && by.as_deref() == Some("budget:spent"))
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_words_that_are_not_permitted_are_refused_or_only_claimed() {
    let app = TestApp::start().await;
    for (header, code) in
        [("wb-tenant: acme\r\n", "tenant_not_permitted"), ("wb-workflow: A b\r\n", "workflow_not_permitted")]
    {
        let answer = app.client().post_with(CHAT, header, chat_request("").as_bytes()).await;
        assert_eq!((answer.status, answer.header("wb-deny")), (403, Some(code)));
        let call = &app.calls()[0];
        assert_eq!(call.who.as_ref().map(|w| w.service.as_str()), Some("svc"));
    }
    let answer = app.client().post_with(CHAT, "wb-agent: boss\r\n", chat_request(r#","user":"u1""#).as_bytes()).await;
    let call = app.settled(&answer).await;
    assert_eq!(call.who.unwrap().agent, None);
    assert_eq!(call.claimed.get("wb-agent").map(String::as_str), Some("boss"));
    assert!(call.claimed.values().any(|v| v == "u1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_models_and_methods_that_do_not_exist_are_answered_in_the_dialect() {
    let app = TestApp::with(Setup { models: vec![MODEL.into()], ..Setup::default() }).await;
    let doubled = app.client().post("/v1/v1/chat/completions", &chat_request("")).await;
    assert_eq!((doubled.status, doubled.header("wb-deny")), (404, Some("unknown_path")));
    assert!(doubled.text().contains("/v1"));
    let nowhere = app.client().post("/nowhere/v1/x", "{}").await;
    assert_eq!((nowhere.status, nowhere.header("wb-deny")), (404, Some("unknown_path")));
    let climbing = app.client().post("/openai/v1/%2e%2e/x", "{}").await;
    assert_eq!(climbing.header("wb-deny"), Some("unknown_path"));
    let unknown = app.client().post("/v1/chat/completions", r#"{"model":"nope","messages":[]}"#).await;
    assert_eq!((unknown.status, unknown.header("wb-deny")), (404, Some("model_not_allowed")));
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    let trace = app.client().raw(&app.client().head("TRACE", CHAT, "", 0)).await;
    assert_eq!(trace.status, 405);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let socket = app.client().raw(&app.client().head("GET", "/openai/v1/responses", upgrade, 0)).await;
    assert_eq!((socket.status, socket.header("wb-deny")), (426, Some("upgrade_not_supported")));
    assert!(app.upstream.seen().is_empty());
    assert_eq!(app.calls().len(), 6);
}
