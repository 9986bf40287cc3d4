//! Pages through the front door: a real ledger in memory, requests in, HTML out.

mod alerts;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use tower::ServiceExt;

use super::*;
use crate::domain::{
    Assurance, Attribution, Budget, CallId, Change, Charge, Code, Component, CostBasis, CostLine, Enforcement,
    Environment, Limit, Metric, Money, Organisation, Outcome, Owner, PeriodKind, Service, ServiceKind, Usage,
    UsageBasis,
};
use crate::ledger::entry::{Admit, Deny, Erasable, Settle};
use crate::ledger::request::{AdmitRequest, Reply, Request as Ask};
use crate::store::clock::{Clock, SetClock};
use crate::store::{Durability, Options};

mod policies;

const NOW: &str = "2026-11-23T18:30:00Z";
const HOST: &str = "127.0.0.1:8701";

/// The UI over a small organisation with thirty days of calls.
struct Site {
    web: Web,
    clock: Arc<SetClock>,
    router: Router,
    cookie: String,
    calls: Vec<CallId>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    /// The part that htmx swaps.
    fn view(&self) -> &str {
        let from = self.text.find("<div id=\"view\">").expect("a view");
        self.text[from..].split("\n</main>").next().unwrap().trim_end()
    }
    fn csrf(&self) -> String {
        self.text.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }
}

fn attribution(n: usize) -> Attribution {
    let (service, unit, owner) =
        [("invoice-bot", "finance", "team-ap"), ("search", "shop", "team-shop"), ("night-report", "finance", "data")]
            [n % 3];
    Attribution {
        service: service.into(),
        agent: (n.is_multiple_of(5)).then(|| "planner".into()),
        application: "core".into(),
        owner: owner.into(),
        business_unit: unit.into(),
        cost_centre: None,
        tenant: Some("acme".into()),
        environment: Environment::ALL[n % 4],
        workflow: None,
        run: (n.is_multiple_of(2)).then(|| format!("run-{n}")),
        prompt_class: None,
        principal: service.into(),
        charged_to: vec![Charge { service: service.into(), basis_points: 10_000 }],
        chain: vec![],
        credential: "wbk_pABCDEF01234".into(),
        assurance: Assurance::A1,
        provenance: "KCKUKUHUHC".into(),
    }
}

fn declared() -> Vec<Change> {
    let mut changes = vec![Change::Organisation(Organisation {
        name: "Acme <& Co>".into(),
        time_zone: "Europe/Berlin".into(),
        fiscal_year_start_month: 1,
    })];
    for n in 0..3 {
        let who = attribution(n);
        changes.push(Change::Owner(
            who.owner.clone(),
            Some(Owner {
                id: who.owner.clone(),
                kind: Default::default(),
                name: None,
                email: (n == 0).then(|| "ap@acme.example".into()),
            }),
        ));
        changes.push(Change::Service(
            who.service.clone(),
            Some(Service {
                id: who.service,
                application: who.application,
                kind: ServiceKind::Service,
                owner: who.owner,
                business_unit: who.business_unit,
                cost_centre: None,
                tenant: who.tenant,
                purpose: None,
                caller_fields: Default::default(),
                mandatory_fields: Default::default(),
                tenants: vec![],
                workflows: vec![],
                prompt_classes: vec![],
            }),
        ));
    }
    changes.push(Change::Budget(
        "everything-month".into(),
        Some(Budget {
            time_zone: "Europe/Berlin".into(),
            enforcement: Enforcement::Hard,
            alert_at_percent: vec![80],
            ..Budget::plain(
                "everything-month",
                Limit { metric: Metric::Usd, amount: Money::usd(4).0 },
                PeriodKind::Month,
            )
        }),
    ));
    changes
}

fn admit(id: CallId, at: Micros, n: usize, revision: u64) -> Ask {
    Ask::Admit(Box::new(AdmitRequest {
        admit: Admit {
            call: id,
            attempt: 1,
            received_at: at,
            who: attribution(n).into(),
            provider: "openai".into(),
            dialect: "openai".into(),
            endpoint: "chat.completions".into(),
            unmetered: false,
            stream: n.is_multiple_of(2),
            job: false,
            model: Some(["gpt-5.2", "gpt-5-mini", "<b>odd & model</b>"][n % 3].into()),
            price_model: Some("gpt-5.2".into()),
            price_book: 1,
            catalogue_revision: revision,
            tools_offered: 2,
            hold: Money::ZERO,
            holds: vec![],
            input_bound: 2_000,
            output_bound: 500,
            output_limit: None,
            unbounded: false,
            retry_of: None,
            lease_until: at.plus_seconds(900),
            model_sent: None,
            rules: Vec::new(),
        },
        erasable: Erasable::default(),
        fixed: "0.01".parse().unwrap(),
        per_output_token: Some("0.00001".parse().unwrap()),
        output_wanted: 500,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: false,
        allow_unmetered: false,
        policy: Default::default(),
    }))
}

fn settle(id: CallId, n: usize) -> Ask {
    let cost: Money = "0.012345678".parse().unwrap();
    let settle = Settle {
        outcome: if n.is_multiple_of(11) { Outcome::Failed } else { Outcome::Completed },
        http_status: Some(200),
        model_served: None,
        provider_request_id: Some(format!("req_{n}")),
        response_id: None,
        finish_reason: Some("stop".into()),
        service_tier: None,
        usage: Usage::new()
            .with(Component::InputTokens, 1_200)
            .with(Component::CacheReadTokens, 400)
            .with(Component::OutputTokens, 80),
        usage_basis: UsageBasis::Vendor,
        tools_called: 1,
        tool_names: vec!["lookup".into()],
        cost: Some(cost),
        cost_basis: CostBasis::Exact,
        cost_lines: vec![CostLine {
            component: Component::InputTokens,
            quantity: 800,
            unit_price_usd: "1.75".into(),
            per: 1_000_000,
            tier_from_tokens: 0,
            cost_usd: cost,
        }],
        price_model: Some("gpt-5.2".into()),
        first_byte_ms: Some(310),
        total_ms: 2_140,
        overhead_us: 900,
        flags: vec![],
    };
    Ask::Settle { call: id, attempt: 1, settle: Box::new(settle), erasable: Box::default() }
}

fn deny(id: CallId, at: Micros) -> Ask {
    Ask::Deny {
        deny: Box::new(Deny {
            call: id,
            received_at: at,
            who: Some(attribution(1)),
            code: Code::ModelNotAllowed,
            detail: None,
            by: Some("policy:no-frontier".into()),
            provider: Some("openai".into()),
            dialect: Some("openai".into()),
            endpoint: Some("chat.completions".into()),
            stream: false,
            model: Some("gpt-5-pro".into()),
            http_status: 404,
            tools_offered: 0,
            hold: None,
            available: None,
            catalogue_revision: 9,
            retry_of: None,
            count: 1,
            rules: Vec::new(),
        }),
        erasable: Box::default(),
    }
}

fn empty_ledger() -> (Ledger, Arc<SetClock>) {
    let now: Micros = NOW.parse().unwrap();
    let clock = Arc::new(SetClock::new(now.plus_seconds(-30 * 86_400)));
    let options = Options { durability: Durability::Strict, clock: clock.clone() };
    (Ledger::open_in_memory(options).unwrap(), clock)
}

fn form(url: &str, body: &str, cookie: &str) -> Request<Body> {
    Request::post(url)
        .header(header::HOST, HOST)
        .header("sec-fetch-site", "same-origin")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::COOKIE, cookie)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), 8 << 20).await.unwrap();
    Answer { status, headers, text: String::from_utf8_lossy(&bytes).into_owned() }
}

impl Site {
    /// An organisation with calls every two hours, and one refusal, seen by somebody signed in.
    async fn new() -> Site {
        let (ledger, clock) = empty_ledger();
        let now: Micros = NOW.parse().unwrap();
        let declare = Ask::Declare { actor: "file".into(), changes: declared(), openings: vec![], reason: None };
        let mut calls = Vec::new();
        let seeded = ledger.clone();
        let set = clock.clone();
        let ids: Vec<CallId> = tokio::task::spawn_blocking(move || {
            seeded.submit_all(vec![declare]).unwrap();
            // Judged by the catalogue in force, so that nothing is looked at again.
            let revision = seeded.catalogue().revision;
            for n in 0..300_usize {
                let at = now.plus_seconds(-30 * 86_400 + n as i64 * 8_600);
                let id = CallId(0x0190_0000_0000_7000_8000_0000_0000_0000 + n as u128);
                set.set(at);
                seeded.submit_all(vec![admit(id, at, n, revision)]).unwrap();
                set.set(at.plus_seconds(2));
                let settled = seeded.submit_all(vec![settle(id, n)]).unwrap();
                assert!(matches!(settled[0], Reply::Settled { changed: true, .. }), "the call was admitted");
                calls.push(id);
            }
            set.set(now.plus_seconds(-60));
            seeded.submit_all(vec![deny(CallId(7), now.plus_seconds(-60))]).unwrap();
            set.set(now);
            calls
        })
        .await
        .unwrap();
        let web = Web::new(ledger.clone(), false, "http://127.0.0.1:8700");
        let router = router(web.clone());
        let mut site = Site { web, clock, router, cookie: String::new(), calls: ids };
        let link = sign_in_link(&ledger, "", "ada").unwrap();
        let token = link.split('=').nth(1).unwrap();
        let answer = send(&site.router, form("/sign-in/link", &format!("token={token}"), "")).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        site.cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        site
    }

    async fn get(&self, url: &str) -> Answer {
        self.get_with(url, &[]).await
    }

    async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(url).header(header::HOST, HOST).header(header::COOKIE, &self.cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.router, request.body(Body::empty()).unwrap()).await
    }
}

const PAGES: [&str; 25] = [
    "/",
    "/spend",
    "/spend?range=30d&by=owner,model&compare=prev&metric=calls&step=week&sort=-calls",
    "/spend?service=nobody",
    "/calls",
    "/calls?range=30d&environment=prod&service=!search",
    "/calls/running",
    "/emergency",
    "/budgets",
    "/alerts",
    "/alerts?kind=forecast&state=firing",
    "/alerts/channels",
    "/budgets?state=warning&period=month",
    "/budgets/new",
    "/budgets/everything-month?cap=1.50",
    "/budgets/everything-month/edit",
    "/catalogue",
    "/policies",
    "/policies/new",
    "/policies/simulate",
    "/keys",
    "/providers?range=7d",
    "/profile",
    "/help",
    "/help/budget_exceeded",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_and_its_part_for_htmx_is_the_same() {
    let site = Site::new().await;
    let receipt = format!("/calls/{}", site.calls[5]);
    for page in PAGES.iter().copied().chain([receipt.as_str(), "/search?q=nonsense"]) {
        let whole = site.get(page).await;
        assert_eq!(whole.status, StatusCode::OK, "{page}: {}", whole.text);
        assert!(whole.text.starts_with("<!doctype html>"), "{page}");
        let part = site.get_with(page, &[("hx-request", "true"), ("hx-request-type", "partial")]).await;
        assert_eq!(part.text.trim_end(), whole.view(), "{page}");
        assert!(!whole.text.contains("<b>odd"), "{page} does not escape");
        assert!(!whole.text.contains("Acme <&"), "{page} does not escape");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_carries_the_headers_and_stays_small() {
    let site = Site::new().await;
    let receipt = format!("/calls/{}", site.calls[5]);
    for page in PAGES.iter().copied().chain([receipt.as_str(), "/nothing-here", "/spend?colour=red"]) {
        let answer = site.get_with(page, &[("accept-encoding", "gzip")]).await;
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none'; script-src 'self'; style-src 'self';")
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), value, "{page}");
        }
        assert!(!answer.headers.contains_key("strict-transport-security"), "plain HTTP");
        let vary: Vec<_> = answer.headers.get_all("vary").iter().map(|v| v.to_str().unwrap().to_lowercase()).collect();
        assert!(vary.join(",").contains("hx-request-type"), "{page}: {vary:?}");
        assert!(answer.headers.contains_key("content-encoding"), "{page}");
        assert!(answer.text.len() < 50_000, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_can_be_followed_from_the_total_to_its_proof() {
    let site = Site::new().await;
    let overview = site.get("/").await.text;
    assert!(overview.contains("Owner data has no contact"), "what needs attention is there");
    for link in overview.split("href=\"/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let url = format!("/{}", link.replace("&#38;", "&").replace("&amp;", "&"));
        assert_eq!(site.get(&url).await.status, StatusCode::OK, "{url}");
    }
    let spend = site.get("/spend?range=ytd").await.text;
    let total = "0.012345678".parse::<Money>().unwrap().times(300);
    assert!(spend.contains(&format!("<data value=\"{total}\">")), "the total is exact");
    let calls = site.get("/calls?range=30d&service=invoice-bot").await.text;
    let id = calls.split("class=\"at\"><a href=\"/calls/").nth(1).unwrap().split('"').next().unwrap();
    let receipt = site.get(&format!("/calls/{id}")).await.text;
    for expected in ["0.012345678", "from the service catalogue", "everything-month", "Leaf hash", "ADMIT", "SETTLE"] {
        assert!(receipt.contains(expected), "{expected}");
    }
    let json = site.get(&format!("/calls/{id}?format=json")).await;
    let json: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 2);
    assert_eq!(json["call"]["id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_calls_follow_each_other_without_gap_and_files_have_them_all() {
    let site = Site::new().await;
    let mut url = "/calls?range=30d&limit=100".to_owned();
    let mut seen = std::collections::BTreeSet::new();
    let mut pages = 0;
    loop {
        let text = site.get(&url).await.text;
        for row in text.split("<th scope=\"row\" class=\"at\"><a href=\"/calls/").skip(1) {
            assert!(seen.insert(row.split('"').next().unwrap().to_owned()), "a call twice");
        }
        pages += 1;
        match text.split("\" rel=\"next\"").next().filter(|_| text.contains("rel=\"next\"")) {
            Some(before) => url = before.rsplit("href=\"").next().unwrap().replace("&#38;", "&").replace("&amp;", "&"),
            None => break,
        }
    }
    let csv = site.get("/calls?range=30d&format=csv").await;
    assert!(csv.header("content-type").starts_with("text/csv"), "{}", csv.text);
    assert_eq!(csv.text.lines().count() - 1, seen.len());
    assert!(pages >= 3 && seen.len() >= 290);
    for format in ["csv", "json", "ndjson"] {
        let packed = site.get_with(&format!("/calls?range=30d&format={format}"), &[("accept-encoding", "gzip")]).await;
        assert_eq!(packed.header("content-encoding"), "gzip", "browsers get files packed, and whole");
    }
    let spend = site.get("/spend?range=30d&by=service,model&format=json").await;
    assert!(serde_json::from_str::<serde_json::Value>(&spend.text).is_ok(), "{}", spend.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_get_a_page_that_names_the_field() {
    let site = Site::new().await;
    for (url, status, word) in [
        ("/spend?by=colour", StatusCode::BAD_REQUEST, "`by`"),
        ("/calls?from=soon", StatusCode::BAD_REQUEST, "`from`"),
        ("/spend?sort=joy", StatusCode::BAD_REQUEST, "`sort`"),
        ("/calls?cursor=joy", StatusCode::BAD_REQUEST, "`cursor`"),
        ("/?basis=billed", StatusCode::BAD_REQUEST, "`basis`"),
        ("/calls/not-an-id", StatusCode::NOT_FOUND, "no call with this id"),
        ("/calls/01900000-0000-7000-8000-00000000ffff", StatusCode::NOT_FOUND, "no call with this id"),
        ("/help/joy", StatusCode::NOT_FOUND, "no refusal"),
        ("/joy", StatusCode::NOT_FOUND, "no page"),
    ] {
        let answer = site.get(url).await;
        assert_eq!(answer.status, status, "{url}");
        assert!(
            answer.text.contains(&word.replacen('`', "<code>", 1).replacen('`', "</code>", 1)),
            "{url}: {}",
            answer.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_box_jumps_to_what_a_name_stands_for() {
    let site = Site::new().await;
    let id = site.calls[3].to_string();
    for (typed, to) in [
        (id.as_str(), format!("/calls/{id}")),
        ("invoice-bot", "/calls?service=invoice-bot".into()),
        ("team-ap", "/calls?owner=team-ap".into()),
        ("finance", "/calls?business_unit=finance".into()),
        ("everything-month", "/budgets#everything-month".into()),
        ("wbk_pABC", "/calls?range=30d&credential=wbk_pABC*".into()),
        ("run-4", "/calls?range=30d&run=run-4".into()),
        ("planner", "/calls?range=30d&agent=planner".into()),
    ] {
        let answer = site.get(&format!("/search?q={typed}")).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, to.as_str()), "{typed}");
    }
    // A key pasted whole goes no further than its id.
    let whole = "wbk_pABCDEF01234SECRETSECRETSECRETSECRETSECRETSECRETxx";
    assert!(!site.get(&format!("/search?q={whole}")).await.header("location").contains("SECRET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_up_link_makes_one_operator_who_can_sign_in() {
    let (ledger, clock) = empty_ledger();
    let router = router(Web::new(ledger.clone(), false, ""));
    let link = setup_link(&ledger, "http://x").unwrap();
    let token = link.split("token=").nth(1).unwrap();
    let path = link.trim_start_matches("http://x");
    let page = send(&router, Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(page.status, StatusCode::OK);
    let create = |operator: &str, password: &str, again: &str| {
        form("/setup", &format!("token={token}&operator={operator}&password={password}&again={again}"), "")
    };
    for (operator, password, again) in [
        ("Ada%40acme", "correct+horse+battery", "correct+horse+battery"),
        ("ada", "short", "short"),
        ("ada", "correct+horse+battery", "correct+horse+batteries"),
    ] {
        assert_eq!(send(&router, create(operator, password, again)).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let made = send(&router, create("ada", "correct+horse+battery", "correct+horse+battery")).await;
    assert_eq!((made.status, made.header("location")), (StatusCode::SEE_OTHER, "/"));
    let cookie = made.header("set-cookie");
    assert!(cookie.starts_with("wb=") && cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains("Secure"), "plain HTTP");
    assert_eq!(
        send(&router, create("eve", "correct+horse+battery", "correct+horse+battery")).await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(setup_link(&ledger, ""), None);

    let wrong = send(&router, form("/sign-in", "operator=ada&password=wrong", "")).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let locked = send(&router, form("/sign-in", "operator=ada&password=correct+horse+battery", "")).await;
    assert_eq!(locked.status, StatusCode::TOO_MANY_REQUESTS);
    clock.set(clock.now().plus_seconds(2));
    let good =
        send(&router, form("/sign-in", "operator=ada&password=correct+horse+battery&next=//evil.example", "")).await;
    assert_eq!((good.status, good.header("location")), (StatusCode::SEE_OTHER, "/"));
    let admin: Vec<String> = ledger
        .entries(0, 100)
        .unwrap()
        .into_iter()
        .filter_map(|(e, _)| match e.body {
            crate::ledger::entry::Body::Admin { actor, action, .. } => Some(format!("{actor} {action}")),
            _ => None,
        })
        .collect();
    let expected = ["operator_created", "sign_in", "sign_in_failed", "sign_in"];
    assert_eq!(admin, expected.map(|a| format!("operator:ada {a}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_link_works_once_and_not_by_looking_at_it() {
    let (ledger, clock) = empty_ledger();
    let router = router(Web::new(ledger.clone(), false, ""));
    let link = sign_in_link(&ledger, "", "demo").unwrap();
    for _ in 0..2 {
        let looked = send(&router, Request::get(&link).body(Body::empty()).unwrap()).await;
        assert_eq!(looked.status, StatusCode::OK);
    }
    let body = format!("token={}", link.split('=').nth(1).unwrap());
    assert_eq!(send(&router, form("/sign-in/link", &body, "")).await.status, StatusCode::SEE_OTHER);
    assert_eq!(send(&router, form("/sign-in/link", &body, "")).await.status, StatusCode::FORBIDDEN);
    let late = sign_in_link(&ledger, "", "demo").unwrap();
    clock.set(clock.now().plus_seconds(31 * 60));
    let body = format!("token={}", late.split('=').nth(1).unwrap());
    assert_eq!(send(&router, form("/sign-in/link", &body, "")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_ask_who_is_there_and_sessions_end() {
    let site = Site::new().await;
    for page in
        ["/", "/spend?range=7d", "/calls", "/budgets", "/catalogue", "/keys", "/providers", "/profile", "/search?q=x"]
    {
        let answer = send(&site.router, Request::get(page).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{page}");
        assert!(answer.header("location").starts_with("/sign-in"), "{page}");
    }
    let htmx = Request::get("/spend").header("hx-request", "true").body(Body::empty()).unwrap();
    let answer = send(&site.router, htmx).await;
    assert_eq!((answer.status, answer.header("hx-redirect")), (StatusCode::UNAUTHORIZED, "/sign-in?next=%2Fspend"));
    let mut cookies = HeaderMap::new();
    cookies.insert(header::COOKIE, site.cookie.parse().unwrap());
    assert_eq!(session_operator(&site.web, &cookies).as_deref(), Some("ada"));
    site.clock.set(site.clock.now().plus_seconds(31 * 60));
    assert_eq!(session_operator(&site.web, &cookies), None, "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_from_elsewhere_are_refused() {
    let site = Site::new().await;
    let csrf = site.get("/profile").await.csrf();
    for (site_says, origin) in [("cross-site", None), ("same-site", None), ("", Some("https://evil.example"))] {
        let mut request = Request::post("/sign-out")
            .header(header::HOST, HOST)
            .header(header::COOKIE, &site.cookie)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !site_says.is_empty() {
            request = request.header("sec-fetch-site", site_says);
        }
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let answer = send(&site.router, request.body(Body::from(format!("csrf={csrf}"))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{site_says} {origin:?}");
    }
    for token in ["", "wrong"] {
        let answer = send(&site.router, form("/sign-out", &format!("csrf={token}"), &site.cookie)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(site.get("/").await.status, StatusCode::OK, "still signed in");
    let out = send(&site.router, form("/sign-out", &format!("csrf={csrf}"), &site.cookie)).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    assert_eq!(site.get("/").await.status, StatusCode::SEE_OTHER, "signed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_ledger_says_what_to_do_next() {
    let (ledger, _clock) = empty_ledger();
    let router = router(Web::new(ledger.clone(), true, "http://127.0.0.1:8700"));
    let link = sign_in_link(&ledger, "", "ada").unwrap();
    let body = format!("token={}", link.split('=').nth(1).unwrap());
    let signed_in = send(&router, form("/sign-in/link", &body, "")).await;
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.starts_with("__Host-wb=") && cookie.contains("Secure"), "{cookie}");
    assert!(signed_in.headers.contains_key("strict-transport-security"));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    for (page, word) in [
        ("/", "No call has crossed"),
        ("/spend", "No metered usage"),
        ("/calls", "No calls in this range"),
        ("/budgets", "No budget is declared"),
        ("/alerts", "Nothing was told yet"),
        ("/alerts/channels", "No channel is declared"),
        ("/catalogue", "No service is declared"),
        ("/keys", "There is no key yet"),
        ("/providers", "No provider is declared"),
    ] {
        let request = Request::get(page).header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
        let answer = send(&router, request).await;
        assert!(answer.text.contains(word), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_that_a_page_names_is_served_for_good() {
    let site = Site::new().await;
    let page = site.get("/").await.text;
    let names: Vec<&str> = page.split("\"/static/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let answer = site.get(&format!("/static/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}");
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable", "{name}");
        let kind = answer.header("content-type");
        assert!(kind.starts_with("text/") || kind.starts_with("image/svg"), "{name}: {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emergency_page_pauses_and_resumes_by_plain_forms() {
    let site = Site::new().await;
    let page = site.get("/emergency?kind=service&subject=search").await;
    assert!(page.text.contains("Nothing is paused") && page.text.contains("<option selected>service</option>"));
    let csrf = page.csrf();
    let send_form = async |path: &str, body: &str| send(&site.router, form(path, body, &site.cookie)).await;

    let forged = send_form("/emergency/pause", "csrf=no&kind=service&subject=search&for=1h&reason=loop").await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    let wrong =
        send_form("/emergency/pause", &format!("csrf={csrf}&kind=service&subject=nobody&for=8h&reason=loop")).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("role=\"alert\"") && wrong.text.contains("service nobody not found"));
    assert!(
        wrong.text.contains("value=\"nobody\"") && wrong.text.contains("<option value=\"8h\" selected>"),
        "what was typed stays"
    );

    let done = send_form(
        "/emergency/pause",
        &format!("csrf={csrf}&kind=service&subject=search&for=1h&reason=it+loops&cut=yes"),
    )
    .await;
    assert_eq!(
        (done.status, done.header("location")),
        (StatusCode::SEE_OTHER, "/emergency?done=paused%20service:search")
    );
    let page = site.get(done.header("location")).await;
    for words in ["service:search is paused.", "it loops", "operator:ada", "were cut", "2026-11-23T19:30:00.000000Z"] {
        assert!(page.text.contains(words), "{words}");
    }
    assert!(site.get("/catalogue").await.text.contains("■ paused"), "the list of services says so");
    let ended = send_form("/emergency/resume", &format!("csrf={csrf}&id=service%3Asearch&reason=mended")).await;
    assert_eq!(ended.status, StatusCode::SEE_OTHER);
    assert!(site.get("/emergency").await.text.contains("Nothing is paused"));
    let again = send_form("/emergency/resume", &format!("csrf={csrf}&id=service%3Asearch&reason=mended")).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_made_changed_raised_reset_and_tried_out_by_plain_forms() {
    let site = Site::new().await;
    let csrf = site.get("/budgets/new").await.csrf();
    let post = async |path: &str, body: &str| {
        send(&site.router, form(path, &format!("csrf={csrf}&{body}"), &site.cookie)).await
    };
    let fields = "matches=service%3Dsearch&limit=2.50&unit=limit_usd&period=month&enforcement=hard&thresholds=50,80&parent=everything-month&reason=first";
    let wrong = post("/budgets", &format!("id=search-month&{}", fields.replace("2.50", "much"))).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        wrong.text.contains("role=\"alert\"") && wrong.text.contains("value=\"search-month\""),
        "what was typed stays"
    );
    let made = post("/budgets", &format!("id=search-month&{fields}")).await;
    assert_eq!(
        (made.status, made.header("location")),
        (StatusCode::SEE_OTHER, "/budgets/search-month?done=saved"),
        "{}",
        made.text
    );

    let standing = |id: &str| site.web.ledger.standing(id, site.web.now()).unwrap();
    let page = site.get("/budgets/search-month").await;
    let spent = format::money(Money(standing("search-month").posted));
    for words in
        [&format!("USD {spent} of 2.50"), "everything-month", "Burn-down", "burn-actual", "No call holds on it now"]
    {
        assert!(page.text.contains(words), "{words}");
    }
    assert!(site.get("/budgets").await.text.contains("└"), "it stands below the one it is a part of");

    let raised = post("/budgets/search-month/raise", "by=1.25&until=2026-11-30&reason=sale").await;
    assert_eq!(raised.status, StatusCode::SEE_OTHER, "{}", raised.text);
    assert_eq!(standing("search-month").allowance.total(), Money::usd(1).0 * 15 / 4);
    let late = post("/budgets/search-month/raise", "by=1.25&until=2020-11-30&reason=sale").await;
    assert_eq!(late.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(post("/budgets/search-month/reset", "reason=a+test+ran+away").await.status, StatusCode::SEE_OTHER);
    let page = site.get("/budgets/search-month").await;
    for words in ["sale", "a test ran away", "operator:ada", "Given back by resets"] {
        assert!(page.text.contains(words), "{words}");
    }
    let changed = post(
        "/budgets/search-month/edit",
        &fields.replace("2.50", "7").replace("service%3Dsearch", "owner%3Dteam-shop"),
    )
    .await;
    assert_eq!(changed.status, StatusCode::SEE_OTHER, "{}", changed.text);
    let budget = standing("search-month").budget;
    assert_eq!((budget.limit.amount, budget.matches.len()), (Money::usd(7).0, 1), "pairs that are gone are gone");
    assert!(site.get("/budgets").await.text.contains("over-allocated"), "7 of 4");

    let tried = site.get("/budgets/everything-month?cap=0.50").await;
    assert!(tried.text.contains("A cap of USD 0.50 would have refused"), "{}", tried.text);
    assert_eq!(site.get("/budgets/everything-month?cap=x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(site.get("/budgets/nothing").await.status, StatusCode::NOT_FOUND);
    let clone = site.get("/budgets/new?like=search-month").await;
    assert!(clone.text.contains("value=\"search-month-copy\"") && clone.text.contains("owner=team-shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_budget_is_one_is_suggested_from_what_was_spent() {
    let site = Site::new().await;
    let gone = Ask::Declare {
        actor: "file".into(),
        changes: vec![Change::Budget("everything-month".into(), None)],
        openings: vec![],
        reason: None,
    };
    site.web.ledger.submit(gone).await.unwrap();
    let page = site.get("/budgets").await;
    // Eleven calls on the busiest days, 0.135802458 in all: a third more, to the cent above.
    assert!(page.text.contains("name=\"limit\" value=\"0.18\""), "{}", page.text);
    let body = format!(
        "csrf={}&id=everything-day&limit=0.18&unit=limit_usd&period=day&enforcement=alert&thresholds=80,+100",
        page.csrf()
    );
    let made = send(&site.router, form("/budgets", &body, &site.cookie)).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text);
    assert_eq!(site.web.ledger.catalogue().budgets["everything-day"].enforcement, Enforcement::Alert);
}
