//! Policies from the first look to a rule in force, with a browser that has no scripts.

use super::*;

async fn post(site: &Site, path: &str, fields: &str) -> Answer {
    let csrf = site.get("/policies/new").await.csrf();
    send(&site.router, form(path, &format!("csrf={csrf}&{fields}"), &site.cookie)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_made_observing_looked_at_tried_out_switched_on_and_removed() {
    let site = Site::new().await;
    assert!(site.get("/policies").await.text.contains("No policy is declared"));
    let fields =
        "id=no-search&mode=observe&match=service+%3D+search&deny_models=*&max_output_tokens=300&require_owner=on";
    let made = post(&site, "/policies/new", fields).await;
    assert_eq!((made.status, made.header("location")), (StatusCode::SEE_OTHER, "/policies/no-search"));
    let policy = site.web.ledger.catalogue().policies["no-search"].clone();
    assert_eq!((policy.mode.name(), policy.max_output_tokens, policy.require_owner), ("observe", Some(300), true));
    assert_eq!(policy.matches[&crate::domain::Dimension::Service], "search");

    let list = site.get("/policies").await.text;
    for expected in ["no-search", "observe", "service search", "deny_models"] {
        assert!(list.contains(expected), "{expected}");
    }
    let shown = site.get("/policies/no-search").await.text;
    assert!(shown.contains("[[policy]]") && shown.contains("match = { service = &#34;search&#34; }"), "{shown}");
    assert!(shown.contains("it would refuse") && shown.contains("<th scope=\"row\">search</th>"), "its effect");

    // One field of the form is emptied: the rule is gone, the others stay.
    let fields = "mode=observe&match=service+%3D+search&deny_models=*&require_owner=";
    assert_eq!(post(&site, "/policies/no-search/edit", fields).await.status, StatusCode::SEE_OTHER);
    let changed = site.web.ledger.catalogue().policies["no-search"].clone();
    assert_eq!((changed.max_output_tokens, changed.require_owner), (None, false));
    assert_eq!(post(&site, "/policies/no-search/mode", "mode=enforce").await.status, StatusCode::SEE_OTHER);
    assert_eq!(site.web.ledger.catalogue().policies["no-search"].mode.name(), "enforce");

    let export = site.get("/policies/export").await.text;
    let read = crate::control::propose_toml(&site.web.ledger.catalogue(), &export).unwrap();
    assert_eq!(
        *site.web.ledger.catalogue().policies["no-search"],
        read.policies[0],
        "the export reads as what it is of"
    );

    assert!(site.get("/policies/no-search?delete").await.text.contains("Remove this policy?"));
    assert_eq!(post(&site, "/policies/no-search/delete", "").await.status, StatusCode::SEE_OTHER);
    assert!(site.web.ledger.catalogue().policies.is_empty());
    assert_eq!(site.get("/policies/no-search").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_form_comes_back_with_what_was_typed_and_a_forged_one_does_nothing() {
    let site = Site::new().await;
    let wrong = post(&site, "/policies/new", "id=p&mode=enforce&hours=whenever&deny_models=abc").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("`whenever` is not a window") && wrong.text.contains("value=\"abc\""));
    let empty = post(&site, "/policies/new", "id=p&mode=enforce").await;
    assert!(empty.text.contains("allows and denies nothing"));
    let forged = send(&site.router, form("/policies/new", "csrf=x&id=p&deny_models=a", &site.cookie)).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert!(site.web.ledger.catalogue().policies.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_imagined_and_the_last_day_replayed() {
    let site = Site::new().await;
    let providers = crate::ledger::testing::provider();
    let change = Change::Provider("openai".into(), Some(providers));
    declare(&site, vec![change]).await;
    post(&site, "/policies/new", "id=p&mode=enforce&deny_models=gpt-5.2").await;
    let refused = site.get("/policies/simulate?service=search&model=gpt-5.2&environment=test").await.text;
    assert!(refused.contains("It would be refused: policy `p` denies model `gpt-5.2`"), "{refused}");
    assert!(refused.contains("<code>deny_models</code>"));
    let passes = site.get("/policies/simulate?service=search&model=gpt-5-mini&environment=test").await.text;
    assert!(passes.contains("It would pass."));
    assert!(site.get("/policies/simulate?service=nobody&model=x").await.text.contains("`nobody` is not declared"));

    let toml = "%5B%5Bbudget%5D%5D%0Aid%3D%22b%22%0Aperiod%3D%22day%22%0Alimit_calls%3D1%0A";
    let replayed = post(&site, "/policies/simulate", &format!("toml={toml}")).await.text;
    assert!(replayed.contains("Budget b") && replayed.contains("it would have refused"), "{replayed}");
    let nonsense = post(&site, "/policies/simulate", "toml=%5B%5Bkey%5D%5D").await.text;
    assert!(nonsense.contains("nothing that can be tried out"));
}

async fn declare(site: &Site, changes: Vec<Change>) {
    let ask = Ask::Declare { actor: "test".into(), changes, openings: Vec::new(), reason: None };
    assert!(matches!(site.web.ledger.submit(ask).await.unwrap(), Reply::Declared { .. }));
}
