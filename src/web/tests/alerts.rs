//! Alerts through the pages: the list and its filters, one alert, what a person does about it, channels.

use super::*;
use crate::control::{self, By, Kind};
use crate::ledger::request::{BudgetOutlook, Evaluation};

/// A forecast alert of the budget there is, which goes nowhere: there is no channel.
async fn raised(site: &Site) -> String {
    let ledger = &site.web.ledger;
    // From 18:30 to 19:10, with somebody at the pages in between: a session ends after half an hour without use.
    for later in [0, 2_400] {
        site.clock.set(site.clock.now().plus_seconds(later / 2));
        site.get("/alerts").await;
        site.clock.set(site.clock.now().plus_seconds(later / 2));
        let standing = ledger.standing("everything-month", site.clock.now()).unwrap();
        let (used, limit) = (standing.used(), standing.allowance.total());
        let (budget, period) = ("everything-month".to_owned(), standing.window.id);
        let outlook = BudgetOutlook { budget, period, used, limit, foreseen: Some(limit * 2), silent: false };
        let evaluation = Evaluation { outlooks: vec![outlook], keys: vec![] };
        ledger.submit(Ask::Evaluate(Box::new(evaluation))).await.unwrap();
    }
    let list = site.get("/alerts?kind=forecast").await;
    list.text.split("href=\"/alerts/al-").nth(1).unwrap().split('"').next().map(|id| format!("al-{id}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_shown_acknowledged_with_a_reason_and_resolved() {
    let site = Site::new().await;
    let id = raised(&site).await;
    let page = site.get(&format!("/alerts/{id}")).await;
    assert_eq!(page.status, StatusCode::OK);
    for words in ["Budget everything-month will not last", "▲ firing", "Nobody was told", "Acknowledge"] {
        assert!(page.text.contains(words), "{words}: {}", page.view());
    }
    assert!(site.get("/alerts?undelivered=true&state=firing").await.text.contains(&id));
    let act = async |what: &str, body: String| {
        send(&site.router, form(&format!("/alerts/{id}/{what}"), &body, &site.cookie)).await
    };
    let csrf = page.csrf();
    assert_eq!(act("acknowledge", "csrf=wrong&reason=x".into()).await.status, StatusCode::FORBIDDEN);
    let mute = act("acknowledge", format!("csrf={csrf}&reason=")).await;
    assert!(mute.status == StatusCode::BAD_REQUEST && mute.text.contains("reason"), "{}", mute.view());
    let done = act("acknowledge", format!("csrf={csrf}&reason=asked+%3Cthe%3E+team")).await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, format!("/alerts/{id}").as_str()));
    let page = site.get(&format!("/alerts/{id}")).await;
    assert!(page.text.contains("◆ acknowledged") && page.text.contains("by operator:ada"), "{}", page.view());
    assert!(page.text.contains("asked") && !page.text.contains("asked <the>"), "the reason is shown and escaped");
    act("resolve", format!("csrf={csrf}&reason=raised+the+limit")).await;
    let page = site.get(&format!("/alerts/{id}")).await;
    assert!(page.text.contains("● resolved") && !page.text.contains("<button>Acknowledge"), "{}", page.view());
    assert!(!site.get("/alerts?state=firing").await.text.contains(&id));
    let again = act("retry", format!("csrf={csrf}&channel=nothing")).await;
    assert!(again.text.contains("given up"), "{}", again.view());
    assert_eq!(act("explode", format!("csrf={csrf}")).await.status, StatusCode::NOT_FOUND);
    for nowhere in ["/alerts/al-1-1", "/alerts/nonsense"] {
        assert_eq!(site.get(nowhere).await.status, StatusCode::NOT_FOUND, "{nowhere}");
    }
    let wrong = site.get("/alerts?state=happy").await;
    assert!(wrong.status == StatusCode::BAD_REQUEST && wrong.text.contains("firing"), "{}", wrong.view());
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_show_where_they_go_and_never_their_address() {
    let site = Site::new().await;
    let by = By::new("test", site.clock.now());
    let chat = serde_json::json!({ "id": "chat", "slack": "https://hooks.example/T0/secret-path", "default": true,
        "quiet_hours": { "from": "22:00", "to": "07:00" } });
    control::create(&site.web.ledger, &by, Kind::Notify, chat).await.unwrap();
    let page = site.get("/alerts/channels").await;
    for words in
        ["chat", "hooks.example (TLS)", "what names no other channel", "22:00 to 07:00, Europe/Berlin", "nothing yet"]
    {
        assert!(page.text.contains(words), "{words}: {}", page.view());
    }
    assert!(!page.text.contains("secret-path"));
    let test =
        send(&site.router, form("/alerts/channels/test", &format!("csrf={}&channel=no", page.csrf()), &site.cookie));
    assert_eq!(test.await.status, StatusCode::NOT_FOUND);
}
