//! Deliveries through real sockets, by a clock the test leads: what arrives, how often, and what is on record of it.

mod receivers;

use std::sync::Arc;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::*;
use crate::control::{AlertAct, By, Kind};
use crate::domain::Money;
use crate::ledger::entry::Body;
use crate::ledger::request::{BudgetOutlook, Evaluation};
use crate::ledger::testing;
use crate::report::{AlertFilter, AlertRow, AlertState, Status};
use crate::store::clock::SetClock;
use crate::store::media::Memory;
use crate::store::{Durability, Options};

use receivers::{Answer, Http, Smtp};

/// A Monday noon in Berlin.
const START: &str = "2026-11-23T11:00:00Z";
const SECRET: &str = "the-signing-secret-of-finops";

struct Site {
    ledger: Ledger,
    clock: Arc<SetClock>,
    notifier: Notifier,
    memory: Memory,
}

impl Site {
    async fn new() -> Site {
        let site = Site::open(Memory::new(), START.parse().unwrap());
        let zone = json!({ "name": "Acme", "time_zone": "Europe/Berlin" });
        let by = By::new("test", site.clock_now());
        control::patch(&site.ledger, &by, Kind::Organisation, "organisation", zone).await.unwrap();
        site.declare(Kind::Owner, json!({ "id": "team-ap", "email": "ap@acme.example" })).await;
        let service = json!({ "id": "svc", "owner": "team-ap", "business_unit": "finance" });
        site.declare(Kind::Service, service).await;
        site
    }

    fn open(memory: Memory, at: Micros) -> Site {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let clock = Arc::new(SetClock::new(at));
        let options = Options { durability: Durability::Strict, clock: clock.clone() };
        let ledger = Ledger::open_memory(&memory, options).unwrap();
        let notifier = Notifier::new(ledger.clone(), "https://wb.example");
        Site { ledger, clock, notifier, memory }
    }

    /// The same folder, as another process finds it.
    async fn restarted(self) -> Site {
        let now = self.clock_now();
        self.ledger.close().await.unwrap();
        drop(self.ledger);
        Site::open(self.memory, now)
    }

    fn clock_now(&self) -> Micros {
        use crate::store::Clock;
        self.clock.now()
    }

    async fn declare(&self, kind: Kind, body: Value) {
        let by = By::new("test", self.clock_now());
        control::create(&self.ledger, &by, kind, body).await.unwrap();
    }

    async fn webhook(&self, id: &str, http: &Http, more: Value) {
        let mut body = json!({ "id": id, "webhook": http.url, "secret": SECRET, "internal": true });
        more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        self.declare(Kind::Notify, body).await;
    }

    async fn budget(&self, id: &str, notify: &[&str]) {
        let body = json!({
            "id": id, "match": { "service": "svc" }, "limit_usd": "100", "period": "month", "notify": notify,
            "enforcement": "hard",
        });
        self.declare(Kind::Budget, body).await;
    }

    /// The forecast alerts of these budgets, at once.
    async fn raise(&self, budgets: &[&str]) {
        for later in [0, 3_600] {
            self.pass(later);
            let outlook = |id: &&str| {
                let standing = self.ledger.standing(id, self.clock_now()).unwrap();
                let limit = standing.allowance.total();
                let (budget, period) = (id.to_string(), standing.window.id);
                BudgetOutlook { budget, period, used: limit / 2, limit, foreseen: Some(limit * 2), silent: false }
            };
            let evaluation = Evaluation { outlooks: budgets.iter().map(outlook).collect(), keys: vec![] };
            self.ledger.submit(Request::Evaluate(Box::new(evaluation))).await.unwrap();
        }
    }

    fn pass(&self, seconds: i64) {
        self.clock.set(self.clock_now().plus_seconds(seconds));
    }

    /// Turns until nothing more is due now.
    async fn deliver(&self) {
        for _ in 0..20 {
            if self.notifier.due().is_empty() {
                return;
            }
            self.notifier.turn().await;
        }
        panic!("deliveries do not come to an end");
    }

    fn alerts(&self) -> Vec<AlertRow> {
        crate::report::alerts(&self.ledger, &AlertFilter::default(), None, 100).unwrap().alerts
    }

    fn statuses(&self) -> Vec<Status> {
        self.alerts().iter().flat_map(|row| row.places.iter().map(|p| p.status)).collect()
    }
}

fn ids(body: &Value) -> Vec<String> {
    body["alerts"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_each_alert_once_signed_and_with_what_it_needs() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({})).await;
    site.budget("b", &["finops"]).await;
    site.raise(&["b"]).await;
    site.deliver().await;
    assert_eq!(http.seen().len(), 0, "it waits for others that go the same way");
    site.pass(10);
    site.deliver().await;
    let [post] = &http.seen()[..] else { panic!("one post, not {}", http.seen().len()) };
    let body: Value = serde_json::from_str(&post.body).unwrap();
    let alert = &body["alerts"][0];
    assert_eq!(body["type"], "alert.raised");
    assert_eq!((&alert["kind"], &alert["budget"]), (&json!("forecast"), &json!("b")));
    assert_eq!((&alert["used_usd"], &alert["limit_usd"]), (&json!("50"), &json!("100")));
    assert_eq!((&alert["forecast_usd"], &alert["period"]), (&json!("200"), &json!("2026-11@Europe/Berlin")));
    assert!(alert["url"].as_str().unwrap().starts_with("https://wb.example/alerts/al-"), "{alert}");
    assert_eq!(post.header("webhook-id"), body["id"], "one alone has the id of its delivery");
    assert_eq!(body["id"], alert["id"]);
    // By the standard's own words, not by our function.
    let signed = format!("{}.{}.{}", post.header("webhook-id"), post.header("webhook-timestamp"), post.body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected = format!("v1,{}", BASE64.encode(hmac::sign(&key, signed.as_bytes()).as_ref()));
    assert_eq!(post.header("webhook-signature"), expected);
    site.pass(86_400);
    site.deliver().await;
    assert_eq!(http.seen().len(), 1, "what was delivered is never sent again");
    assert_eq!(site.statuses(), [Status::Delivered]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_hangs_and_breaks_off_gets_the_same_message_later() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({ "group_s": 0 })).await;
    site.budget("a", &["finops"]).await;
    site.budget("b", &["finops"]).await;
    http.answers(&[Answer::Status(500), Answer::Hang, Answer::BreakOff]);
    site.raise(&["a", "b"]).await;
    for attempt in 1..=3 {
        site.deliver().await;
        assert_eq!(http.seen().len(), attempt);
        assert_eq!(site.statuses(), [Status::Failed; 2]);
        site.pass(1);
        site.deliver().await;
        assert_eq!(http.seen().len(), attempt, "not at once");
        site.pass(3_600);
    }
    // One that comes meanwhile does not change the message that was begun.
    site.budget("c", &["finops"]).await;
    site.raise(&["c"]).await;
    site.deliver().await;
    let seen = http.seen();
    assert_eq!(seen.len(), 5);
    let first: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(ids(&first).len(), 2);
    for again in &seen[1..4] {
        assert_eq!(again.header("webhook-id"), seen[0].header("webhook-id"));
        assert_eq!(ids(&serde_json::from_str(&again.body).unwrap()), ids(&first));
    }
    assert_ne!(seen[4].header("webhook-id"), seen[0].header("webhook-id"));
    assert_eq!(site.statuses(), [Status::Delivered; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_the_journal_stands() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({})).await;
    site.budget("a", &["finops"]).await;
    site.budget("b", &["finops"]).await;
    site.raise(&["a"]).await;
    site.pass(10);
    site.deliver().await;
    site.raise(&["b"]).await;
    let site = site.restarted().await;
    site.pass(10);
    http.answers(&[Answer::Status(503)]);
    site.deliver().await;
    let site = site.restarted().await;
    site.deliver().await;
    assert_eq!(http.seen().len(), 2, "the next try is not due");
    site.pass(60);
    site.deliver().await;
    let site = site.restarted().await;
    site.pass(86_400);
    site.deliver().await;
    let seen = http.seen();
    assert_eq!(seen.len(), 3, "a once, b twice");
    assert_eq!(seen[1].header("webhook-id"), seen[2].header("webhook-id"));
    assert_ne!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_given_up_shown_and_sent_when_somebody_asks() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({ "group_s": 0 })).await;
    site.budget("b", &["finops"]).await;
    http.answers(&[Answer::Status(500); MOST_ATTEMPTS as usize]);
    site.raise(&["b"]).await;
    let mut waits = Vec::new();
    while site.statuses() != [Status::Dead] {
        let before = http.seen().len();
        let from = site.clock_now();
        while http.seen().len() == before {
            site.pass(1);
            site.deliver().await;
        }
        waits.push((site.clock_now().0 - from.0) / 1_000_000);
    }
    assert_eq!(http.seen().len(), usize::from(MOST_ATTEMPTS));
    for (wait, base) in waits[1..].iter().zip(LATER) {
        assert!((wait - base).abs() <= base / 5 + 1, "{wait} s for {base} s");
    }
    let [row] = &site.alerts()[..] else { panic!() };
    assert!(row.is_undelivered() && row.places[0].may_try_again);
    assert_eq!(row.places[0].detail.as_deref(), Some("answered 500 Internal Server Error"));
    let by = By::new("operator:ada", site.clock_now());
    let route = row.places[0].route.clone();
    control::act_on_alert(&site.ledger, &by, row.id, AlertAct::TryAgain(route.clone())).await.unwrap();
    site.deliver().await;
    assert_eq!(site.statuses(), [Status::Delivered]);
    assert!(control::act_on_alert(&site.ledger, &by, row.id, AlertAct::TryAgain(route)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_given_up_at_once() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({ "group_s": 0 })).await;
    site.budget("b", &["finops"]).await;
    http.answers(&[Answer::Status(410)]);
    site.raise(&["b"]).await;
    site.deliver().await;
    assert_eq!(site.statuses(), [Status::Dead]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_hold_everything_back_but_refusals_and_tell_it_together() {
    let (site, http) = (Site::new().await, Http::start().await);
    let quiet = json!({ "quiet_hours": { "from": "22:00", "to": "07:00" }, "group_s": 0 });
    site.webhook("finops", &http, quiet).await;
    site.budget("a", &["finops"]).await;
    site.budget("b", &["finops"]).await;
    // 23:30 in Berlin, an hour after the first look.
    site.clock.set("2026-11-23T21:30:00Z".parse().unwrap());
    site.raise(&["a"]).await;
    site.deliver().await;
    site.raise(&["b"]).await;
    site.deliver().await;
    assert_eq!((http.seen().len(), site.statuses()), (0, vec![Status::Held; 2]));
    let mut refused = testing::admit(1, Money::usd(1_000));
    refused.admit.catalogue_revision = site.ledger.catalogue().revision;
    site.ledger.submit(Request::Admit(Box::new(refused))).await.unwrap();
    site.deliver().await;
    let told: Value = serde_json::from_str(&http.seen()[0].body).unwrap();
    let kinds: Vec<&Value> = told["alerts"].as_array().unwrap().iter().map(|a| &a["kind"]).collect();
    assert_eq!((http.seen().len(), kinds), (1, vec![&json!("denied")]), "only who refuses wakes anybody");
    site.clock.set("2026-11-24T05:59:59Z".parse().unwrap());
    site.deliver().await;
    assert_eq!(http.seen().len(), 1);
    site.clock.set("2026-11-24T06:00:00Z".parse().unwrap());
    site.deliver().await;
    assert_eq!(http.seen().len(), 2, "one message for the night");
    let night: Value = serde_json::from_str(&http.seen()[1].body).unwrap();
    let forecasts = night["alerts"].as_array().unwrap().iter().filter(|a| a["kind"] == "forecast").count();
    assert_eq!((forecasts, ids(&night).len()), (2, 2 + 4), "with the thresholds the refusal passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_channel_goes_to_its_owner_by_mail_and_else_to_the_default_channel() {
    let (site, http, smtp) = (Site::new().await, Http::start().await, Smtp::start().await);
    let mail = json!({
        "id": "mail", "email": [], "internal": true, "group_s": 0,
        "smtp": { "server": format!("smtp://{}", smtp.address), "from": "wb@acme.example" },
    });
    site.declare(Kind::Notify, mail).await;
    site.budget("b", &[]).await;
    site.raise(&["b"]).await;
    site.deliver().await;
    let [letter] = &smtp.letters()[..] else { panic!("one letter") };
    assert_eq!(letter.to, ["ap@acme.example"]);
    for wanted in
        ["To: ap@acme.example", "From: wb@acme.example", "Budget b will not last", "https://wb.example/alerts/al-"]
    {
        assert!(letter.text.contains(wanted), "{wanted}: {}", letter.text);
    }
    let delivery =
        format!("Message-ID: <{}@acme.example>", delivery_id(&site.alerts()[0].id, &site.alerts()[0].places[0].route));
    assert!(letter.text.contains(&delivery), "{delivery}: {}", letter.text);
    // An owner without an address: there is no other place, then there is one.
    site.declare(Kind::Owner, json!({ "id": "nobody" })).await;
    site.declare(Kind::Service, json!({ "id": "orphan", "owner": "nobody", "business_unit": "x" })).await;
    let orphan = json!({ "id": "o", "match": { "service": "orphan" }, "limit_usd": "9", "period": "month" });
    site.declare(Kind::Budget, orphan).await;
    site.raise(&["o"]).await;
    site.deliver().await;
    assert_eq!(site.alerts()[0].places[0].status, Status::Undeliverable);
    assert!(site.alerts()[0].is_undelivered());
    site.webhook("chat", &http, json!({ "default": true, "group_s": 0 })).await;
    let other = json!({ "id": "p", "match": { "service": "orphan" }, "limit_usd": "9", "period": "month" });
    site.declare(Kind::Budget, other).await;
    site.raise(&["p"]).await;
    site.deliver().await;
    let places: Vec<_> = site.alerts()[0].places.iter().map(|p| (p.route.channel.clone(), p.status)).collect();
    assert_eq!(places, [("mail".to_owned(), Status::Moved), ("chat".to_owned(), Status::Delivered)]);
    assert_eq!(http.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_refuses_is_quoted_by_its_code_alone() {
    let (site, smtp) = (Site::new().await, Smtp::refusing("550 <ap@acme.example> unknown").await);
    let mail = json!({
        "id": "mail", "email": ["ap@acme.example"], "internal": true, "group_s": 0,
        "smtp": { "server": format!("smtp://{}", smtp.address), "from": "wb@acme.example" },
    });
    site.declare(Kind::Notify, mail).await;
    site.budget("b", &["mail"]).await;
    site.raise(&["b"]).await;
    site.deliver().await;
    let detail = site.alerts()[0].places[0].detail.clone().unwrap();
    assert_eq!(detail, "the mail server answered 550");
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_rfc_5424_with_cef_by_datagram_and_by_tcp() {
    let site = Site::new().await;
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = |id: &str, to: String| json!({ "id": id, "syslog": to, "internal": true, "group_s": 0 });
    site.declare(Kind::Notify, channel("udp", format!("udp://{}", udp.local_addr().unwrap()))).await;
    site.declare(Kind::Notify, channel("tcp", format!("tcp://{}", tcp.local_addr().unwrap()))).await;
    site.budget("b", &["udp", "tcp"]).await;
    site.raise(&["b"]).await;
    let read = tokio::spawn(async move {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
        text
    });
    site.deliver().await;
    let mut datagram = [0; 4_096];
    let length = udp.recv(&mut datagram).await.unwrap();
    let datagram = String::from_utf8_lossy(&datagram[..length]).into_owned();
    let framed = read.await.unwrap();
    let (length, line) = framed.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), line.len(), "octet counting");
    for (line, channel) in [(datagram.as_str(), "udp"), (line, "tcp")] {
        let head = "<133>1 2026-11-23T12:00:00.000000Z - weighbridge - forecast - CEF:0|Weighbridge|Weighbridge|";
        assert!(line.starts_with(head), "{line}");
        let id = format!("externalId={}.{channel} rt=1795435200000 ", site.alerts()[0].id);
        assert!(line.contains(&id) && line.contains("cs1Label=budget cs1=b"), "{line}");
    }
    assert_eq!(site.statuses(), [Status::Delivered; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_get_their_own_shapes() {
    let (site, http) = (Site::new().await, Http::start().await);
    for kind in ["slack", "teams", "mattermost"] {
        site.declare(Kind::Notify, json!({ "id": kind, kind: http.url, "internal": true, "group_s": 0 })).await;
        site.budget(&format!("<{kind}>").replace(['<', '>'], ""), &[kind]).await;
        site.raise(&[kind]).await;
        site.deliver().await;
    }
    let bodies: Vec<Value> = http.seen().iter().map(|post| serde_json::from_str(&post.body).unwrap()).collect();
    assert_eq!(bodies[0]["blocks"][0]["type"], "section");
    assert!(bodies[0]["blocks"][0]["text"]["text"].as_str().unwrap().contains("<https://wb.example/alerts/al-"));
    let card = &bodies[1]["attachments"][0];
    assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
    assert_eq!((&card["content"]["type"], &card["content"]["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
    assert!(bodies[2]["text"].as_str().unwrap().starts_with("**Budget mattermost will not last**"));
    assert!(http.seen().iter().all(|post| !post.header("webhook-id").is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_sent_at_once_and_recorded_and_an_address_inside_is_refused() {
    let (site, http) = (Site::new().await, Http::start().await);
    site.webhook("finops", &http, json!({})).await;
    site.notifier.test("finops", "operator:ada", None).await.unwrap().unwrap();
    let body: Value = serde_json::from_str(&http.seen()[0].body).unwrap();
    assert_eq!(body["type"], "alert.test");
    http.answers(&[Answer::Status(404)]);
    let failed = site.notifier.test("finops", "operator:ada", None).await.unwrap().unwrap_err();
    assert_eq!(failed.why, "answered 404 Not Found");
    let [row] = &crate::report::channels(&site.ledger).unwrap()[..] else { panic!() };
    let (_, last) = row.last.as_ref().unwrap();
    assert_eq!((last.step, last.detail.as_deref()), (DeliveryStep::Test, Some("answered 404 Not Found")));
    assert!(site.notifier.test("nothing", "operator:ada", None).await.is_err());
    // A name that leads inside, on a channel that is not said to be internal.
    let inside = json!({ "id": "inside", "webhook": "https://localhost:9/x" });
    site.declare(Kind::Notify, inside).await;
    let failed = site.notifier.test("inside", "operator:ada", None).await.unwrap().unwrap_err();
    assert!(failed.why.contains("loopback"), "{failed:?}");
    assert_eq!(site.alerts(), [], "a test is no alert");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_has_seen_an_alert_says_what_is_done_about_it() {
    let site = Site::new().await;
    site.budget("b", &[]).await;
    site.raise(&["b"]).await;
    let row = site.alerts().remove(0);
    assert_eq!((row.state, row.is_undelivered()), (AlertState::Firing, true), "there is no channel");
    let by = By::new("operator:ada", site.clock_now());
    let mute = control::act_on_alert(&site.ledger, &by, row.id, AlertAct::Acknowledge).await;
    assert!(mute.unwrap_err().to_string().contains("reason"));
    let why = by.clone().because("asked the team");
    control::act_on_alert(&site.ledger, &why, row.id, AlertAct::Acknowledge).await.unwrap();
    assert_eq!(site.alerts()[0].state, AlertState::Acknowledged);
    let only = AlertFilter { state: Some(AlertState::Firing), ..AlertFilter::default() };
    assert!(crate::report::alerts(&site.ledger, &only, None, 10).unwrap().alerts.is_empty());
    let (position, _, _) = site.alerts()[0].history[0];
    let (_, erasable) = site.ledger.entries(position, 1).unwrap().remove(0);
    assert_eq!(erasable.person.unwrap().reason.as_deref(), Some("asked the team"));
    // Its period ends, and it with it.
    site.clock.set("2026-12-01T12:00:00Z".parse().unwrap());
    assert_eq!(site.alerts()[0].state, AlertState::Resolved);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_channel_is_in_the_journal_or_in_what_is_shown() {
    let (site, http, smtp) = (Site::new().await, Http::start().await, Smtp::start().await);
    let secrets = ["hidden-path", SECRET, "the-mail-password", "finance@acme.example", "wb@acme.example"];
    site.declare(Kind::Notify, json!({ "id": "chat", "slack": format!("{}/hidden-path", http.url), "internal": true }))
        .await;
    site.webhook("finops", &http, json!({})).await;
    let mail = json!({
        "id": "mail", "email": ["finance@acme.example"], "internal": true,
        "smtp": { "server": format!("smtp://{}", smtp.address), "from": "wb@acme.example", "username": "u", "password": "the-mail-password" },
    });
    site.declare(Kind::Notify, mail).await;
    site.budget("b", &["chat", "finops", "mail"]).await;
    http.answers(&[Answer::Status(500), Answer::BreakOff]);
    site.raise(&["b"]).await;
    site.pass(10);
    site.deliver().await;
    let entries = site.ledger.entries(0, 1_000).unwrap();
    assert!(entries.iter().any(|(e, _)| matches!(e.body, Body::Delivery(_))));
    let mut told = format!("{entries:?}");
    told.push_str(&format!("{:?}", site.alerts()));
    told.push_str(&format!("{:?}", control::list(&site.ledger.catalogue(), Kind::Notify)));
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} is told");
    }
    // A change of something else leaves the address as it is.
    let by = By::new("test", site.clock_now());
    control::patch(&site.ledger, &by, Kind::Notify, "chat", json!({ "group_s": 0 })).await.unwrap();
    let chat = site.ledger.catalogue().notify["chat"].clone();
    let kept = control::address(&site.ledger, &chat).unwrap().unwrap();
    assert!(kept.url.unwrap().ends_with("/hidden-path"));
}
