//! The API through its router, over a real ledger in memory: who may ask, lists and receipts, files, metrics, the price oracle.

use super::*;

#[test]
fn the_document_describes_every_endpoint_and_only_these() {
    let document = openapi::document();
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(described, endpoints().len());
    for endpoint in endpoints() {
        let operation = &document["paths"][format!("/api/v1{}", endpoint.path)][endpoint.method.to_ascii_lowercase()];
        assert_eq!(operation["summary"], endpoint.summary, "{} {}", endpoint.method, endpoint.path);
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

use axum::body::{Body, to_bytes};
use axum::http::{Request as HttpRequest, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::domain::{Change, Money, Usage};
use crate::ledger::request::{AdmitRequest, Reply, Request};
use crate::store::clock::SetClock;
use crate::store::views::samples;
use crate::store::{Durability, Options};

const TOKEN: &str = "an-operator-token-for-tests";

fn ledger() -> (Ledger, Arc<SetClock>) {
    let clock = Arc::new(SetClock::new("2026-11-23T18:00:00Z".parse().unwrap()));
    let options = Options { durability: Durability::Strict, clock: clock.clone() };
    (Ledger::open_in_memory(options).unwrap(), clock)
}

fn app(ledger: &Ledger) -> Router {
    router(Api::new(ledger.clone(), Some(SecretString::from(TOKEN))))
}

async fn ask(app: &Router, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value, String) {
    let request = HttpRequest::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
    let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string()));
    let answer = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = answer.status();
    let text = String::from_utf8(to_bytes(answer.into_body(), 1 << 24).await.unwrap().to_vec()).unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null), text)
}

/// One call, admitted and settled through the writer.
async fn call(ledger: &Ledger, n: u128, service: &str, cost: Option<Money>) {
    let mut admit = samples::admit(crate::domain::CallId(n), 1, samples::who(service), "gpt-5.2");
    admit.catalogue_revision = ledger.catalogue().revision;
    let request = AdmitRequest {
        admit,
        erasable: Default::default(),
        fixed: Money::usd(1),
        per_output_token: Some(Money::ZERO),
        output_wanted: 10,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: true,
        allow_unmetered: true,
        policy: Default::default(),
    };
    let reply = ledger.submit(Request::Admit(Box::new(request))).await.unwrap();
    assert!(matches!(reply, Reply::Admitted(_)), "{reply:?}");
    let usage = Usage::new().with(crate::domain::Component::InputTokens, 12);
    let settle = Request::Settle {
        call: crate::domain::CallId(n),
        attempt: 1,
        settle: Box::new(samples::settle(cost, usage)),
        erasable: Default::default(),
    };
    ledger.submit(settle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_there_is_no_answer_and_no_hint() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    for (header, status) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("Bearer wrong"), StatusCode::UNAUTHORIZED),
        (Some("Basic YTpi"), StatusCode::UNAUTHORIZED),
        (Some("Bearer an-operator-token-for-tests"), StatusCode::OK),
    ] {
        for path in ["/api/v1/calls", "/metrics", "/api/v1/health"] {
            let mut request = HttpRequest::get(path);
            if let Some(value) = header {
                request = request.header("authorization", value);
            }
            let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{path} {header:?}");
        }
    }
    let open = app.clone().oneshot(HttpRequest::get("/healthz").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_read_and_not_change() {
    let (ledger, _) = ledger();
    let hook: SessionHook = Arc::new(|headers| headers.contains_key("cookie").then(|| "operator:ada".to_owned()));
    let app = router(Api::new(ledger, None).with_session(hook));
    for (method, path, status) in
        [("GET", "/api/v1/calls", StatusCode::OK), ("POST", "/api/v1/prices/quote", StatusCode::UNAUTHORIZED)]
    {
        let request = HttpRequest::builder().method(method).uri(path).header("cookie", "wb=1").body(Body::empty());
        let answer = app.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_listed_shown_with_its_proof_and_summed() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    for n in 1..=5u128 {
        call(&ledger, n, if n == 3 { "other" } else { "bot" }, Some(Money(1_645_000_000_000 * n as i128))).await;
    }
    let (status, page, _) = ask(&app, "GET", "/api/v1/calls?service=bot&limit=3", None).await;
    assert_eq!(status, StatusCode::OK);
    let ids: Vec<&str> = page["calls"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest, _) = ask(&app, "GET", &format!("/api/v1/calls?service=bot&limit=3&cursor={cursor}"), None).await;
    assert_eq!((rest["calls"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    let (_, shown, _) = ask(&app, "GET", &format!("/api/v1/calls/{}", ids[0]), None).await;
    assert_eq!(shown["cost_usd"], "0.008225");
    assert_eq!(shown["postings"]["lines"][0]["cost_usd"], "0.008225");
    let entries = shown["proof"]["entries"].as_array().unwrap();
    assert_eq!(entries.iter().map(|e| e["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["ADMIT", "SETTLE"]);
    let (_, checkpoint, _) = ask(&app, "GET", "/api/v1/ledger/checkpoint", None).await;
    assert_eq!((&shown["proof"]["root"], &shown["proof"]["tree_size"]), (&checkpoint["root"], &checkpoint["size"]));
    for entry in entries {
        let hash = |v: &Value| -> [u8; 32] {
            data_encoding::HEXLOWER.decode(v.as_str().unwrap().as_bytes()).unwrap().try_into().unwrap()
        };
        let path: Vec<[u8; 32]> = entry["inclusion_path"].as_array().unwrap().iter().map(hash).collect();
        let (seq, size) = (entry["seq"].as_u64().unwrap(), checkpoint["size"].as_u64().unwrap());
        let (leaf, root) = (hash(&entry["leaf_hash"]), hash(&checkpoint["root"]));
        crate::ledger::tree::verify_inclusion(&leaf, seq, size, &path, &root).unwrap();
    }
    let (_, spend, _) = ask(&app, "GET", "/api/v1/spend?by=service", None).await;
    assert_eq!(spend["total"]["cost_usd"], "0.024675");
    assert_eq!((&spend["rows"][0]["service"], &spend["rows"][0]["calls"]), (&json!("bot"), &json!(4)));
    let (status, _, _) = ask(&app, "GET", "/api/v1/calls/00000000-0000-0000-0000-0000000000ff", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_proven_as_text_and_the_key_that_signs_is_changed_for_a_reason() {
    use crate::ledger::{note, proof, trust::Policy};

    let (ledger, _) = ledger();
    let app = app(&ledger);
    call(&ledger, 1, "bot", Some(Money::usd(1))).await;
    let path = format!("/api/v1/ledger/proof/{}?format=tlog-proof", crate::domain::CallId(1));
    let (status, _, text) = ask(&app, "GET", &path, None).await;
    assert_eq!(status, StatusCode::OK);
    let (_, head, _) = ask(&app, "GET", "/api/v1/ledger/checkpoint", None).await;
    let key = |view: &Value| note::Verifier::parse(view["vkey"].as_str().unwrap()).unwrap();
    let policy = Policy::of_logs(vec![key(&head)]);
    for proof in proof::Proof::parse_all(&text).unwrap() {
        assert!(proof::verify(&proof, &policy, None).unwrap().entry.is_some());
    }
    let signed = note::Note::parse(head["checkpoint"]["note"].as_str().unwrap()).unwrap();
    signed.verify(&key(&head)).unwrap();

    for wrong in [None, Some(json!({})), Some(json!({"reason": " "})), Some(json!({"reason": "x", "key": "y"}))] {
        let (status, ..) = ask(&app, "POST", "/api/v1/ledger/rotate-key", wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let reason = json!({"reason": "it was on a disk that was sold"});
    let (status, rotated, _) = ask(&app, "POST", "/api/v1/ledger/rotate-key", Some(reason)).await;
    assert_eq!(status, StatusCode::CREATED);
    let both = note::Note::parse(rotated["checkpoint"]["note"].as_str().unwrap()).unwrap();
    both.verify(&key(&head)).unwrap();
    both.verify(&key(&rotated)).unwrap();
    let (entry, erasable) = ledger.entries(ledger.head().size - 1, 1).unwrap().remove(0);
    let by_token = matches!(&entry.body, crate::ledger::entry::Body::Key { actor, .. } if actor == "token");
    assert!(by_token && erasable.person.is_some_and(|p| p.reason.is_some()), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_every_call_and_is_recorded_with_its_hash() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    for n in 1..=3u128 {
        call(&ledger, n, "bot", Some(Money::usd(1))).await;
    }
    let before = ledger.head().size;
    let (status, _, csv) = ask(&app, "GET", "/api/v1/calls?format=csv", None).await;
    assert_eq!((status, csv.matches("\r\n").count()), (StatusCode::OK, 4));
    let (entry, _) = ledger.entries(before, 1).unwrap().remove(0);
    let crate::ledger::entry::Body::Admin { actor, action, subject } = entry.body else { panic!("{entry:?}") };
    use sha2::Digest;
    let hash = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(csv.as_bytes()));
    assert_eq!((actor.as_str(), action.as_str()), ("token", "export"));
    assert_eq!(subject.unwrap(), format!("weighbridge_calls_all_UTC.csv rows=3 sha256={hash}"));
    let (_, _, lines) = ask(&app, "GET", "/api/v1/calls?format=ndjson", None).await;
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["cost_usd"] == "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_gets_400_that_names_the_field() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    for (path, field, says) in [
        ("/api/v1/calls?servce=a", "servce", "did you mean `service`"),
        ("/api/v1/spend?by=modle", "by", "did you mean `model`"),
        ("/api/v1/calls?from=soon", "from", "neither a date"),
        ("/api/v1/calls?cursor=x", "cursor", "next_cursor"),
        ("/api/v1/calls/nonsense", "id", "not the id of a call"),
        ("/api/v1/calls?format=csv&limit=3", "limit", "pages of JSON"),
    ] {
        let (status, error, _) = ask(&app, "GET", path, None).await;
        assert_eq!((status, &error["error"]["field"]), (StatusCode::BAD_REQUEST, &json!(field)), "{path}");
        assert!(error["error"]["message"].as_str().unwrap().contains(says), "{error}");
    }
    let (status, error, _) = ask(&app, "GET", "/api/v1/nothing", None).await;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    let (status, _, _) = ask(&app, "PUT", "/api/v1/calls", None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_cost_and_refusals_by_code() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    let (_, _, first) = ask(&app, "GET", "/metrics", None).await;
    assert!(first.contains("weighbridge_refusals_total{code=\"key_invalid\"} 0"), "{first}");
    call(&ledger, 1, "bot", Some("0.25".parse().unwrap())).await;
    let deny = Box::new(samples::deny(crate::domain::CallId(9), None, 4));
    ledger.submit(Request::Deny { deny, erasable: Default::default() }).await.unwrap();
    let (_, _, text) = ask(&app, "GET", "/metrics", None).await;
    for line in [
        "weighbridge_calls_total{provider=\"other\",environment=\"prod\",outcome=\"completed\"} 1",
        "weighbridge_cost_usd_total{provider=\"other\"} 0.25",
        "weighbridge_tokens_total{provider=\"other\",kind=\"input\"} 12",
        "weighbridge_refusals_total{code=\"key_invalid\"} 4",
        "weighbridge_open_calls 0",
        "weighbridge_healthy 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    well_formed(&text);
}

/// The rules of OpenMetrics that a scraper refuses a page for.
fn well_formed(text: &str) {
    let mut family = "";
    let mut families = std::collections::HashSet::new();
    let mut seen = std::collections::HashSet::new();
    let mut bucket = 0;
    for line in text.strip_suffix("# EOF\n").expect("the page has an end").lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is declared twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind.split(' ').next(), Some(family), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(family) && seen.insert(series), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            if series.starts_with("weighbridge_commit_seconds_bucket") {
                let count: u64 = value.parse().unwrap();
                assert!(count >= bucket, "{line}");
                bucket = count;
            }
        }
    }
    let count = format!("weighbridge_commit_seconds_count {bucket}");
    assert!(bucket > 0 && text.lines().any(|l| l == count), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_is_answered_over_the_api() {
    let Some(path) = shared("prices/oracle-cases.jsonl") else { return };
    let (ledger, _) = ledger();
    let app = app(&ledger);
    let text = std::fs::read_to_string(path).unwrap();
    let mut right = 0;
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let question = json!({
            "provider": case["provider"], "model": case["model_ref"], "at": case["timestamp"],
            "context": case["price_context"], "usage": case["usage"],
        });
        let (status, answer, _) = ask(&app, "POST", "/api/v1/prices/quote", Some(question)).await;
        let expected = &case["expected"];
        let id = &case["id"];
        if let Some(error) = expected["error"].as_str() {
            assert_eq!(
                (status, answer["error"]["code"].as_str()),
                (StatusCode::UNPROCESSABLE_ENTITY, Some(error)),
                "{id}"
            );
        } else {
            assert_eq!(status, StatusCode::OK, "{id} {answer}");
            assert_eq!(answer["model_id"], expected["model_id"], "{id}");
            let lines = answer["lines"].as_array().unwrap();
            let sum: Money = lines.iter().map(|l| l["cost_usd"].as_str().unwrap().parse::<Money>().unwrap()).sum();
            assert_eq!(answer["cost_usd"], sum.to_string(), "{id}");
            if let Some(total) = expected["total_usd"].as_str() {
                assert_eq!(answer["cost_usd"].as_str().unwrap().parse::<Money>(), total.parse(), "{id}");
            }
            assert_eq!(lines.len(), expected["breakdown"].as_array().unwrap().len(), "{id}");
        }
        right += 1;
    }
    println!("oracle over the API: {right} of {}", text.lines().count());
}

/// A file of the shared data; `None`, said aloud, where there is none.
fn shared(path: &str) -> Option<std::path::PathBuf> {
    let root = std::env::var_os("WEIGHBRIDGE_SHARED").map(std::path::PathBuf::from);
    let root = root.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let file = root.join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", file.display());
    eprintln!("skipped: {} is missing", file.display());
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_state_reads_in_the_words_of_the_file() {
    let (ledger, _) = ledger();
    let budget = crate::domain::Budget {
        matches: [(crate::domain::Dimension::Service, "bot".to_owned())].into(),
        enforcement: crate::domain::Enforcement::Hard,
        alert_at_percent: vec![50],
        ..crate::domain::Budget::plain(
            "bot-month",
            crate::domain::Limit { metric: crate::domain::Metric::Usd, amount: Money::usd(10).0 },
            crate::domain::PeriodKind::Month,
        )
    };
    let changes = vec![Change::Budget(budget.id.clone(), Some(budget))];
    let declare = Request::Declare { actor: "test".into(), changes, openings: Vec::new(), reason: None };
    ledger.submit(declare).await.unwrap();
    call(&ledger, 1, "bot", Some(Money::usd(4))).await;
    let (status, shown, _) = ask(&app(&ledger), "GET", "/api/v1/budgets/bot-month", None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&shown["limit_usd"], &shown["match"]), (&json!("10"), &json!({"service": "bot"})));
    assert_eq!(
        (&shown["spent_usd"], &shown["held_usd"], &shown["remaining_usd"]),
        (&json!("4"), &json!("0"), &json!("6"))
    );
    let (status, error, _) = ask(&app(&ledger), "GET", "/api/v1/budgets/none", None).await;
    assert_eq!((status, &error["error"]["message"]), (StatusCode::NOT_FOUND, &json!("budget `none` not found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_state_is_made_changed_and_removed_in_the_words_of_the_file() {
    let (ledger, _) = ledger();
    let app = app(&ledger);
    let bot = json!({ "id": "bot", "owner": "team-ap", "business_unit": "finance", "purpose": "reads invoices" });
    let (status, made, _) = ask(&app, "POST", "/api/v1/services?reason=first", Some(bot.clone())).await;
    assert_eq!((status, &made["application"]), (StatusCode::CREATED, &json!("bot")), "{made}");
    let (status, error, _) = ask(&app, "POST", "/api/v1/services", Some(bot)).await;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    let (_, changed, _) = ask(&app, "PATCH", "/api/v1/services/bot", Some(json!({ "cost_centre": "4711" }))).await;
    assert_eq!((&changed["cost_centre"], &changed["purpose"]), (&json!("4711"), &json!("reads invoices")));
    let (status, error, _) = ask(&app, "PATCH", "/api/v1/services/bot", Some(json!({ "owner": "a@b.example" }))).await;
    assert_eq!((status, &error["error"]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("owner")), "{error}");
    let key = json!({ "service": "bot", "environment": "test" });
    let (status, made, _) = ask(&app, "POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let secret = crate::domain::key::Secret::parse(made["secret"].as_str().unwrap()).unwrap();
    let (_, _, keys) = ask(&app, "GET", "/api/v1/keys", None).await;
    assert!(keys.contains(secret.id()) && !keys.contains(secret.expose()), "shown once: {keys}");
    let (status, _, _) = ask(&app, "DELETE", "/api/v1/services/bot", None).await;
    assert_eq!(status, StatusCode::CONFLICT, "its key still works");
    let (status, gone, _) = ask(&app, "DELETE", &format!("/api/v1/keys/{}", secret.id()), None).await;
    assert_eq!((status, &gone["status"]), (StatusCode::OK, &json!("revoked")), "{gone}");
    let (status, _, _) = ask(&app, "DELETE", "/api/v1/services/bot", None).await;
    assert_eq!(status, StatusCode::OK);
    let price =
        json!({ "provider": "openai", "model": "org/own", "component": "input_tokens", "usd_per_million": "1.5" });
    let (status, made, _) = ask(&app, "POST", "/api/v1/prices", Some(price)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let question = json!({ "provider": "openai", "model": "org/own", "usage": { "input_tokens": 2_000_000 } });
    let (_, quote, _) = ask(&app, "POST", "/api/v1/prices/quote", Some(question)).await;
    assert_eq!(quote["cost_usd"], "3", "{quote}");
    let (status, _, _) = ask(&app, "DELETE", "/api/v1/prices/openai/org%2Fown", None).await;
    assert_eq!(status, StatusCode::OK);
    let hook = json!({ "id": "finops", "webhook": "https://chat.example/secret-path" });
    ask(&app, "POST", "/api/v1/notify", Some(hook)).await;
    let (_, _, shown) = ask(&app, "GET", "/api/v1/notify", None).await;
    assert!(shown.contains("chat.example") && !shown.contains("secret-path"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_token_opens_the_api_until_it_is_revoked_or_ends() {
    let (ledger, clock) = ledger();
    let app = app(&ledger);
    let (status, _, _) = ask(&app, "POST", "/api/v1/operators", Some(json!({ "id": "ada" }))).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, error, _) = ask(&app, "POST", "/api/v1/operators", Some(json!({ "id": "a@b.example" }))).await;
    assert_eq!((status, &error["error"]["field"]), (StatusCode::BAD_REQUEST, &json!("id")));
    let new = json!({ "note": "nightly report", "days": 1 });
    let (status, token, _) = ask(&app, "POST", "/api/v1/operators/ada/tokens", Some(new.clone())).await;
    assert_eq!(status, StatusCode::CREATED, "{token}");
    let opens = async |token: &Value| {
        let bearer = format!("Bearer {}", token["secret"].as_str().unwrap());
        let request = HttpRequest::get("/api/v1/health").header("authorization", bearer);
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(opens(&token).await, StatusCode::OK);
    let (_, _, listed) = ask(&app, "GET", "/api/v1/operators/ada/tokens", None).await;
    assert!(!listed.contains(token["secret"].as_str().unwrap()), "shown once: {listed}");
    let path = format!("/api/v1/operators/ada/tokens/{}", token["id"].as_str().unwrap());
    assert_eq!(ask(&app, "DELETE", &path, None).await.0, StatusCode::OK);
    assert_eq!(opens(&token).await, StatusCode::UNAUTHORIZED);
    let (_, token, _) = ask(&app, "POST", "/api/v1/operators/ada/tokens", Some(new)).await;
    clock.set("2026-11-24T18:00:00Z".parse().unwrap());
    assert_eq!(opens(&token).await, StatusCode::UNAUTHORIZED, "its day is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_tried_out_on_a_call_and_on_the_past_before_they_are_in_force() {
    let (ledger, clock) = ledger();
    let app = app(&ledger);
    let service = crate::ledger::testing::service();
    let changes = vec![
        Change::Service(service.id.clone(), Some(service.clone())),
        Change::Provider("openai".into(), Some(crate::ledger::testing::provider())),
    ];
    let declare = Request::Declare { actor: "test".into(), changes, openings: vec![], reason: None };
    ledger.submit(declare).await.unwrap();
    for n in 1..=4 {
        call(&ledger, n, if n < 4 { "one" } else { "two" }, Some(Money::usd(2))).await;
        clock.set(ledger.clock().now().plus_seconds(60));
    }
    assert!(ledger.views().wait_for(ledger.head().position(), std::time::Duration::from_secs(10)));

    let question = json!({ "service": service.id, "model": "gpt-5.2", "environment": "test",
        "toml": "[[policy]]\nid = \"p\"\nmode = \"observe\"\ndeny_models = [\"gpt-5.2\"]\n" });
    let (status, answer, _) = ask(&app, "POST", "/api/v1/policies/simulate", Some(question.clone())).await;
    assert_eq!((status, answer["allowed"].as_bool()), (StatusCode::OK, Some(true)), "{answer}");
    assert_eq!(answer["rules"][0]["result"], "observed");
    let enforced = question.to_string().replace("observe", "enforce");
    let (_, answer, _) =
        ask(&app, "POST", "/api/v1/policies/simulate", Some(serde_json::from_str(&enforced).unwrap())).await;
    assert_eq!((answer["allowed"].as_bool(), answer["refusal"]["by"].as_str()), (Some(false), Some("policy:p")));
    for (field, value) in [("service", "none"), ("environment", "moon"), ("colour", "red")] {
        let mut wrong = question.clone();
        wrong[field] = value.into();
        let (status, answer, _) = ask(&app, "POST", "/api/v1/policies/simulate", Some(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }

    let toml = "[[policy]]\nid = \"p\"\nmatch = { service = \"one\" }\nmode = \"observe\"\ndeny_models = [\"gpt-*\"]\n\
                [[budget]]\nid = \"b\"\nperiod = \"day\"\nlimit_usd = \"5\"\n";
    let (status, answer, _) = ask(&app, "POST", "/api/v1/policies/replay", Some(json!({ "toml": toml }))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let policies = &answer["policies"];
    assert_eq!((policies["calls"].as_u64(), policies["refused"].as_u64()), (Some(4), Some(3)), "{answer}");
    assert_eq!((policies["refused_usd"].as_str(), &policies["by_service"][0]["service"]), (Some("6"), &json!("one")));
    assert_eq!(policies["by_rule"][0]["rule"], "deny_models");
    // 5 USD afford two of four calls of 2 USD.
    let budget = &answer["budgets"][0];
    assert_eq!((budget["calls"].as_u64(), budget["refused"].as_u64()), (Some(4), Some(2)), "{answer}");
    assert_eq!(budget["refused_usd"], "4");
    assert!(ledger.catalogue().policies.is_empty() && ledger.catalogue().budgets.is_empty(), "nothing is declared");
    let (status, _, _) = ask(&app, "POST", "/api/v1/policies/replay", Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    let created =
        json!({ "id": "q", "deny_models": ["a*"], "hours": ["mon-fri 08:00-18:00"], "match": { "tenant": "x" } });
    let (status, _, _) = ask(&app, "POST", "/api/v1/policies", Some(created)).await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, _, text) = ask(&app, "GET", "/api/v1/policies/export", None).await;
    assert!(text.starts_with("[[policy]]\nid = \"q\"") && text.contains("match = { tenant = \"x\" }"), "{text}");
}
