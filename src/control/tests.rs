//! Plans against catalogues, commands against a real ledger in memory.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Surroundings};
use crate::domain::catalogue::KeyStatus;
use crate::domain::{CallId, Catalogue, Change, Micros, Money};
use crate::ledger::entry::Admit;
use crate::ledger::request::{AdmitRequest, Reply, Request};
use crate::store::clock::SetClock;
use crate::store::views::samples;
use crate::store::{Durability, Ledger, Options};

const NOW: &str = "2026-11-23T12:00:00Z";
const KEY: &str = "wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt";

struct Nothing;
impl Surroundings for Nothing {
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn file() -> String {
    format!(
        r#"
[organisation]
name = "Acme"
time_zone = "Europe/Berlin"
fiscal_year_start_month = 4

[[owner]]
id = "ada"
kind = "person"
name = "Ada"
email = "ada@acme.example"

[[provider]]
id = "main"
dialect = "xai"
base_url = "https://api.x.example/v1"
api_key = "sk-secret"

[[service]]
id = "bot"
owner = "ada"
business_unit = "finance"
purpose = "reads invoices"

[[service]]
id = "etl"
owner = "team-data"
business_unit = "data"
purpose = "loads"

[[key]]
service = "bot"
environment = "prod"
secret = "{KEY}"

[[budget]]
id = "bot-month"
match = {{ service = "bot" }}
limit_usd = "500"
period = "month"
enforcement = "hard"

[[policy]]
id = "no-pro"
deny_models = ["*-pro"]

[[price]]
provider = "x-ai"
model = "grok-9"
component = "input_tokens"
usd_per_million = "2"
"#
    )
}

fn declared(text: &str) -> crate::config::Declared {
    Config::parse(Path::new("weighbridge.toml"), text, &Nothing).map_err(|e| e.0).unwrap().declared
}

fn now() -> Micros {
    NOW.parse().unwrap()
}

fn pepper() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
}

fn applied_to(mut catalogue: Catalogue, plan: &Plan) -> Catalogue {
    for change in &plan.changes {
        catalogue.apply(change.clone());
    }
    catalogue
}

fn first() -> Catalogue {
    let plan = plan(&Catalogue::default(), &declared(&file()), &pepper(), now(), false).unwrap();
    applied_to(Catalogue::default(), &plan)
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.lines.iter().map(Line::to_string).collect()
}

#[test]
fn what_a_file_leaves_open_is_filled_in() {
    let catalogue = first();
    assert_eq!(catalogue.providers["main"].price_as, "x-ai");
    let budget = &catalogue.budgets["bot-month"];
    assert_eq!((budget.time_zone.as_str(), budget.fiscal_year_start_month), ("Europe/Berlin", 4));
    assert!(catalogue.owners.contains_key("team-data"), "an owner that is only mentioned becomes a team");
    let key = &catalogue.keys[&KEY[..16]];
    assert_eq!(key.expires_at.unwrap().to_string(), "2027-02-21T12:00:00.000000Z");
    assert_eq!(crate::pricing::PriceBook::version_of(&catalogue), 2);
}

#[test]
fn a_second_plan_changes_nothing_also_much_later() {
    let catalogue = first();
    let later = now().plus_seconds(40 * 86_400);
    let again = plan(&catalogue, &declared(&file()), &pepper(), later, true).unwrap();
    assert_eq!(lines(&again), Vec::<String>::new());
    assert!(again.is_empty() && again.not_in_file.is_empty());
}

#[test]
fn a_changed_file_says_each_field_before_and_after() {
    let catalogue = first();
    let text = file().replace("\"500\"", "\"600\"").replace("\"finance\"", "\"treasury\"").replace("\"2\"", "\"2.5\"");
    let changed = plan(&catalogue, &declared(&text), &pepper(), now(), false).unwrap();
    let expected = [
        "~ service bot: business_unit finance → treasury",
        "~ budget bot-month: limit_usd 500 → 600",
        "~ price x-ai/grok-9: input_tokens 2 per 1000000 → 2.5 per 1000000",
    ];
    assert_eq!(lines(&changed), expected);
}

#[test]
fn what_is_not_in_the_file_stays_unless_it_is_pruned() {
    let catalogue = first();
    let text = "[[service]]\nid = \"etl\"\nowner = \"team-data\"\nbusiness_unit = \"data\"\npurpose = \"loads\"\n";
    let kept = plan(&catalogue, &declared(text), &pepper(), now(), false).unwrap();
    assert!(kept.is_empty());
    assert_eq!(
        kept.not_in_file,
        [
            "key wbk_p7Qm2Xc9LtRa",
            "budget bot-month",
            "policy no-pro",
            "service bot",
            "provider main",
            "price x-ai/grok-9"
        ]
    );
    let pruned = plan(&catalogue, &declared(text), &pepper(), now(), true).unwrap();
    let after = applied_to(catalogue, &pruned);
    assert_eq!(after.services.keys().collect::<Vec<_>>(), ["etl"]);
    assert_eq!(after.owners.keys().collect::<Vec<_>>(), ["team-data"]);
    assert!(after.keys.is_empty() && after.budgets.is_empty() && after.prices.is_empty() && after.providers.is_empty());
    assert!(lines(&pruned).contains(&"- service bot".to_owned()));
}

#[test]
fn a_file_does_not_bring_back_a_revoked_key_and_never_is_possible() {
    let mut catalogue = first();
    let key = Arc::make_mut(catalogue.keys.get_mut(&KEY[..16]).unwrap());
    key.status = KeyStatus::Revoked;
    let again = plan(&catalogue, &declared(&file()), &pepper(), now(), false).unwrap();
    assert!(again.is_empty() && again.warnings[0].contains("revoked"), "{:?}", again.warnings);

    let text = file().replace("environment = \"prod\"", "environment = \"prod\"\nexpires = \"never\"");
    let never = plan(&first(), &declared(&text), &pepper(), now(), false).unwrap();
    assert_eq!(lines(&never), ["~ key wbk_p7Qm2Xc9LtRa: expires_at 2027-02-21T12:00:00.000000Z → none"]);
    assert!(never.warnings[0].contains("never expires"));
}

proptest! {
    /// Whatever is there before: applying a file and planning again finds nothing, and pruning leaves only the file.
    #[test]
    fn applying_twice_is_applying_once(had in proptest::collection::vec(any::<bool>(), 9), prune in any::<bool>()) {
        let blocks: Vec<String> = file().split("\n\n").map(str::to_owned).collect();
        let mut text: String = blocks.iter().zip(had.iter().cycle()).filter(|(_, h)| **h).map(|(b, _)| format!("{b}\n\n")).collect();
        if !text.contains("id = \"bot\"") {
            text = text.split("\n\n").filter(|b| !b.contains("[[key]]")).collect::<Vec<_>>().join("\n\n");
        }
        let declared = declared(&text);
        let start = first();
        let one = plan(&start, &declared, &pepper(), now(), prune).unwrap();
        let after = applied_to(start, &one);
        let two = plan(&after, &declared, &pepper(), now(), prune).unwrap();
        prop_assert!(two.is_empty(), "{:?}", lines(&two));
        if prune {
            prop_assert!(two.not_in_file.is_empty());
            prop_assert_eq!(after.services.len(), declared.services.len());
        }
    }
}

fn ledger() -> Ledger {
    let clock = Arc::new(SetClock::new(now()));
    Ledger::open_in_memory(Options { durability: Durability::Strict, clock }).unwrap()
}

fn by() -> By {
    By::new("operator:ada", now())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn applying_to_a_ledger_twice_changes_nothing_and_keeps_secrets_out_of_the_journal() {
    let ledger = ledger();
    let declared = declared(&file());
    let apply_once = || {
        let plan = plan(&ledger.catalogue(), &declared, ledger.pepper(), now(), false).unwrap();
        run(apply(&ledger, &by(), plan)).unwrap()
    };
    let applied = apply_once();
    assert_eq!((applied.sealed.clone(), applied.contacts.clone()), (vec!["main".to_owned()], vec!["ada".to_owned()]));
    let size = ledger.head().size;
    assert!(apply_once().nothing_changed());
    assert_eq!(ledger.head().size, size, "an entry was written for nothing");
    let credential = ledger.core().secret(&provider_secret_id("main")).unwrap().unwrap();
    assert_eq!(credential.expose_secret(), "sk-secret");
    assert_eq!(contact(&ledger, "ada").unwrap().unwrap().email.as_deref(), Some("ada@acme.example"));
    let bodies = format!("{:?}", ledger.entries(0, 100).unwrap().iter().map(|(e, _)| e).collect::<Vec<_>>());
    for secret in ["sk-secret", KEY, "ada@acme.example"] {
        assert!(!bodies.contains(secret), "{secret} is in the journal");
    }
    run(ledger.close()).unwrap();
}

fn done(ledger: &Ledger, kind: Kind, body: Value) -> Done {
    run(create(ledger, &by(), kind, body)).unwrap()
}

fn service(id: &str) -> Value {
    json!({ "id": id, "owner": "team-x", "business_unit": "finance", "purpose": "p" })
}

#[test]
fn a_key_is_shown_once_and_a_revoked_one_stays_revoked() {
    let ledger = ledger();
    let made = done(&ledger, Kind::Service, service("bot"));
    assert!(made.warnings[0].contains("owner `team-x` is new"));
    let key = done(&ledger, Kind::Key, json!({ "service": "bot", "environment": "test" }));
    let secret = key.secret.unwrap();
    assert!(secret.matches(ledger.pepper(), &ledger.catalogue().keys[&key.id].hash));
    assert_eq!(key.value.as_ref().unwrap()["expires_at"], "2026-12-23T12:00:00.000000Z");
    assert!(!key.value.unwrap().to_string().contains(secret.expose()));

    let patched =
        run(patch(&ledger, &by(), Kind::Key, &key.id, json!({ "status": "suspended", "note": "away" }))).unwrap();
    assert_eq!(patched.value.unwrap()["status"], "suspended");
    let stuck = run(delete(&ledger, &by(), Kind::Service, "bot")).unwrap_err();
    assert!(stuck.to_string().contains("revoke it first"), "{stuck}");
    run(delete(&ledger, &by(), Kind::Key, &key.id)).unwrap();
    let back = run(patch(&ledger, &by(), Kind::Key, &key.id, json!({ "status": "active" }))).unwrap_err();
    assert!(back.to_string().contains("revoked for good"));
    run(delete(&ledger, &by(), Kind::Service, "bot")).unwrap();
    assert!(ledger.catalogue().keys.is_empty() && ledger.catalogue().services.is_empty());
    run(ledger.close()).unwrap();
}

#[test]
fn one_noun_at_a_time_follows_the_rules_of_the_file() {
    let ledger = ledger();
    done(&ledger, Kind::Service, service("bot"));
    let twice = run(create(&ledger, &by(), Kind::Service, service("bot"))).unwrap_err();
    assert!(twice.to_string().contains("exists"));
    for (kind, body, what) in [
        (Kind::Service, json!({ "id": "A B", "owner": "x", "business_unit": "b" }), "`id`: `A B` is not an id"),
        (Kind::Service, json!({ "id": "a", "ownr": "x" }), "unknown field `ownr`"),
        (Kind::Policy, json!({ "id": "p", "max_concurrent": 0 }), "use 1 or more"),
        (Kind::Policy, json!({ "id": "p", "hours": ["now"] }), "`now` is not a window"),
        (Kind::Policy, json!({ "id": "p", "deny_models": ["class:dear"] }), "not a class of prices"),
        (Kind::Key, json!({ "service": "a", "environment": "test", "binding": "x" }), "not enforced"),
        (Kind::Budget, json!({ "id": "b", "period": "day" }), "exactly one of"),
        (
            Kind::Budget,
            json!({ "id": "b", "period": "day", "limit_calls": 1, "notify": ["x"] }),
            "notify `x` not found",
        ),
        (Kind::Key, json!({ "service": "none", "environment": "prod" }), "service `none` not found"),
        (Kind::Key, json!({ "service": "bot", "environment": "prod", "secret": KEY }), "leave `secret` out"),
        (
            Kind::Provider,
            json!({ "id": "a", "dialect": "openai", "base_url": "https://a.example", "api_key": { "file": "/etc/passwd" } }),
            "give the credential itself",
        ),
        (
            Kind::Provider,
            json!({ "id": "v1", "dialect": "openai", "base_url": "https://a.example" }),
            "would hide a path",
        ),
    ] {
        let error = run(create(&ledger, &by(), kind, body)).unwrap_err().to_string();
        assert!(error.contains(what), "expected `{what}` in: {error}");
    }
    run(ledger.close()).unwrap();
}

#[test]
fn a_patch_changes_what_it_names_and_a_null_takes_away() {
    let ledger = ledger();
    done(&ledger, Kind::Service, service("bot"));
    let budget =
        json!({ "id": "b", "period": "day", "limit_usd": "5", "match": { "service": "bot", "environment": "prod" } });
    assert_eq!(done(&ledger, Kind::Budget, budget).value.unwrap()["time_zone"], "UTC");
    let body = json!({ "limit_calls": 9, "match": { "environment": null }, "enforcement": "hard" });
    let patched = run(patch(&ledger, &by(), Kind::Budget, "b", body)).unwrap();
    let value = patched.value.unwrap();
    assert_eq!(
        (&value["limit_calls"], &value["match"], value.get("limit_usd")),
        (&json!(9), &json!({ "service": "bot" }), None)
    );
    assert_eq!(patched.lines.len(), 1);
    let same = run(patch(&ledger, &by(), Kind::Budget, "b", json!({}))).unwrap();
    assert!(same.lines.is_empty(), "nothing changed, so nothing is recorded");
    let renamed = run(patch(&ledger, &by(), Kind::Budget, "b", json!({ "id": "c" }))).unwrap_err();
    assert!(renamed.to_string().contains("keeps its id"));
    let zone = run(patch(&ledger, &by(), Kind::Organisation, "organisation", json!({ "time_zone": "Mars/Olympus" })));
    assert!(zone.unwrap_err().to_string().contains("not a time zone"));
    let missing = run(delete(&ledger, &by(), Kind::Budget, "none")).unwrap_err();
    assert!(matches!(missing, ControlError::NotFound { .. }));
    run(ledger.close()).unwrap();
}

#[test]
fn prices_of_a_model_are_changed_one_component_at_a_time() {
    let ledger = ledger();
    let price = |component: &str, usd: &str| json!({ "provider": "openai", "model": "org/m", "component": component, "usd_per_million": usd });
    done(&ledger, Kind::Price, price("input_tokens", "1"));
    done(&ledger, Kind::Price, price("output_tokens", "4"));
    let changed = done(&ledger, Kind::Price, price("input_tokens", "2"));
    assert_eq!(changed.lines[0].to_string(), "~ price openai/org/m: input_tokens 1 per 1000000 → 2 per 1000000");
    assert_eq!(list(&ledger.catalogue(), Kind::Price).len(), 2);
    run(delete(&ledger, &by(), Kind::Price, "openai/org/m/input_tokens")).unwrap();
    assert_eq!(list(&ledger.catalogue(), Kind::Price).len(), 1);
    run(delete(&ledger, &by(), Kind::Price, "openai/org/m")).unwrap();
    assert!(ledger.catalogue().prices.is_empty());
    run(ledger.close()).unwrap();
}

#[test]
fn owners_can_be_completed_and_are_not_removed_while_they_answer_for_something() {
    let ledger = ledger();
    done(&ledger, Kind::Service, service("bot"));
    let body = json!({ "kind": "person", "name": "Grace", "email": "grace@acme.example" });
    run(patch(&ledger, &by(), Kind::Owner, "team-x", body)).unwrap();
    assert_eq!(contact(&ledger, "team-x").unwrap().unwrap().name.as_deref(), Some("Grace"));
    run(patch(&ledger, &by(), Kind::Owner, "team-x", json!({ "email": null }))).unwrap();
    let left = contact(&ledger, "team-x").unwrap().unwrap();
    assert_eq!((left.name.as_deref(), left.email), (Some("Grace"), None));
    let held = run(delete(&ledger, &by(), Kind::Owner, "team-x")).unwrap_err();
    assert!(held.to_string().contains("answers for service `bot`"));
    run(ledger.close()).unwrap();
}

/// One call of a service, from admission to its settlement.
fn spend(ledger: &Ledger, call: u128, service: &str, usd: i64) {
    let call = CallId(call);
    let revision = ledger.catalogue().revision;
    let admit = Admit {
        catalogue_revision: revision,
        holds: vec![],
        ..samples::admit(call, 1, samples::who(service), "gpt-5")
    };
    let admit = AdmitRequest {
        admit: Admit { lease_until: now().plus_seconds(600), ..admit },
        erasable: Default::default(),
        fixed: Money::usd(1),
        per_output_token: Some(Money(0)),
        output_wanted: 1,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: false,
        allow_unmetered: false,
        policy: Default::default(),
    };
    let usage = crate::domain::Usage::new().with(crate::domain::Component::InputTokens, 10);
    let settle = Box::new(samples::settle(Some(Money::usd(usd)), usage));
    let settle = Request::Settle { call, attempt: 1, settle, erasable: Default::default() };
    let replies = [run(ledger.submit(Request::Admit(Box::new(admit)))), run(ledger.submit(settle))];
    assert!(matches!(replies[0], Ok(Reply::Admitted(_))), "{:?}", replies[0]);
    assert!(matches!(replies[1], Ok(Reply::Settled { changed: true, .. })), "{:?}", replies[1]);
}

#[test]
fn a_budget_made_in_the_middle_of_a_month_knows_what_was_spent_before() {
    let ledger = ledger();
    for id in ["bot", "etl"] {
        let mut service = service(id);
        service["caller_fields"] = json!(["run"]);
        done(&ledger, Kind::Service, service);
    }
    for (call, service, usd) in [(1, "bot", 3), (2, "etl", 5), (3, "bot", 4)] {
        spend(&ledger, call, service, usd);
    }
    let budget = |id: &str, dimension: &str, value: &str| json!({ "id": id, "period": "month", "limit_usd": "100", "match": { dimension: value } });
    done(&ledger, Kind::Budget, budget("by-service", "service", "bot"));
    done(&ledger, Kind::Budget, budget("by-run", "run", "*"));
    let posted = |id: &str| {
        let balances = ledger.balances(now());
        balances.iter().find(|b| b.budget == id).map_or(0, |b| b.posted)
    };
    assert_eq!(posted("by-service"), Money::usd(7).0);
    assert_eq!(posted("by-run"), 0, "no call had a run");
    // A new limit keeps what was counted, a new match counts again.
    run(patch(&ledger, &by(), Kind::Budget, "by-service", json!({ "limit_usd": "200" }))).unwrap();
    assert_eq!(posted("by-service"), Money::usd(7).0);
    run(patch(&ledger, &by(), Kind::Budget, "by-service", json!({ "match": { "service": "etl" } }))).unwrap();
    assert_eq!(posted("by-service"), Money::usd(5).0);
    run(ledger.close()).unwrap();
}

#[test]
fn a_large_apply_takes_effect_at_once_or_not_at_all_and_its_budgets_know_what_was_spent() {
    let ledger = ledger();
    done(&ledger, Kind::Service, service("bot"));
    spend(&ledger, 1, "bot", 3);
    let budget = |n: usize, notify: &[&str]| {
        let id = format!("b-{n}");
        let matches = [(crate::domain::Dimension::Service, if n % 2 == 0 { "bot" } else { "etl" }.to_owned())].into();
        let budget = crate::domain::Budget {
            matches,
            enforcement: crate::domain::Enforcement::Hard,
            notify: notify.iter().map(|to| to.to_string()).collect(),
            ..crate::domain::Budget::plain(
                id.clone(),
                crate::domain::Limit { metric: crate::domain::Metric::Usd, amount: Money::usd(100).0 },
                crate::domain::PeriodKind::Month,
            )
        };
        Change::Budget(id, Some(budget))
    };
    let before = ledger.catalogue();
    let plan = |last: &[&str]| {
        let changes = (0..250).map(|n| budget(n, if n == 249 { last } else { &[] })).collect();
        Plan { changes, ..Plan::default() }
    };
    let refused = apply_blocking(&ledger, &by(), plan(&["nobody"])).unwrap_err();
    assert!(refused.to_string().contains("notifies `nobody`"), "{refused}");
    assert_eq!(*ledger.catalogue(), *before, "nothing of it is in force");
    let applied = apply_blocking(&ledger, &by(), plan(&[])).unwrap();
    assert_eq!((applied.changes, applied.revision), (250, before.revision + 250));
    let balances = ledger.balances(now());
    assert_eq!(balances.len(), 250);
    for balance in balances {
        let even = balance.budget.trim_start_matches("b-").parse::<usize>().unwrap() % 2 == 0;
        assert_eq!(balance.posted, if even { Money::usd(3).0 } else { 0 }, "{}", balance.budget);
    }
    run(ledger.close()).unwrap();
}

fn plan_of(ledger: &Ledger, text: &str) -> Result<Plan, ControlError> {
    plan(&ledger.catalogue(), &declared(text), ledger.pepper(), now(), false)
}

fn refused(ledger: &Ledger, kind: Kind, body: Value) -> String {
    run(create(ledger, &by(), kind, body)).err().expect("it is refused").to_string()
}

#[test]
fn a_budget_that_can_match_nothing_is_refused_with_the_reason() {
    let ledger = ledger();
    done(&ledger, Kind::Service, service("bot"));
    let mut etl = service("etl");
    etl["business_unit"] = json!("sales");
    done(&ledger, Kind::Service, etl);
    let of = |matches: Value| json!({ "id": "b", "period": "day", "limit_usd": "5", "match": matches });
    for (matches, why) in [
        (json!({ "service": "bott" }), "service `bott` is not declared; did you mean `bot`?"),
        (json!({ "owner": "team-y" }), "no service has the owner `team-y`; did you mean `team-x`?"),
        (json!({ "service": "bot", "business_unit": "sales" }), "service `bot` has the business_unit `finance`"),
        (json!({ "service": "bot", "workflow": "x" }), "may not say the workflow `x`"),
        (json!({ "owner": "team-x", "tenant": "acme" }), "no service has all that it names together"),
        (json!({ "provider": "openai" }), "provider `openai` is not declared"),
        (json!({ "credential": "wbk_p00000000000" }), "key `wbk_p00000000000` is not declared"),
        (json!({ "environment": "p*d*x" }), "is no environment"),
        (json!({ "environment": "production" }), "is not an environment"),
    ] {
        let said = refused(&ledger, Kind::Budget, of(matches.clone()));
        assert!(said.contains(why), "{matches}: {said}");
    }
    for matches in [json!({}), json!({ "service": "b*", "owner": "team-*" }), json!({ "prompt_class": "chat" })] {
        let id = format!("b-{}", matches.as_object().unwrap().len());
        let mut body = of(matches);
        body["id"] = json!(id);
        done(&ledger, Kind::Budget, body);
    }
}

#[test]
fn a_hard_budget_on_the_callers_words_needs_a_service_that_makes_them_mandatory() {
    let ledger = ledger();
    let mut bot = service("bot");
    bot["caller_fields"] = json!(["run", "workflow"]);
    done(&ledger, Kind::Service, bot);
    let of = |id: &str, matches: Value| json!({ "id": id, "period": "day", "limit_usd": "5", "match": matches, "enforcement": "hard" });
    let soft = done(&ledger, Kind::Budget, of("soft", json!({ "service": "bot", "run": "*" })));
    assert_eq!(soft.value.unwrap()["enforcement"], "alert");
    assert!(soft.warnings[0].contains("does not make mandatory"), "{:?}", soft.warnings);
    run(patch(&ledger, &by(), Kind::Service, "bot", json!({ "mandatory_fields": ["run"] }))).unwrap();
    let firm = done(&ledger, Kind::Budget, of("firm", json!({ "service": "bot", "run": "*" })));
    assert_eq!(firm.value.unwrap()["enforcement"], "hard");
    let both = done(&ledger, Kind::Budget, of("both", json!({ "service": "bot", "run": "*", "workflow": "x" })));
    assert_eq!(both.value.unwrap()["enforcement"], "alert", "one of two is not enough");
    let taken = run(patch(&ledger, &by(), Kind::Service, "bot", json!({ "mandatory_fields": [] })));
    assert!(taken.err().unwrap().to_string().contains("hard budget `firm`"));
    let unknown = run(patch(&ledger, &by(), Kind::Service, "bot", json!({ "mandatory_fields": ["run", "agent"] })));
    assert!(unknown.err().unwrap().to_string().contains("cannot be mandatory before callers may say it"));
}

#[test]
fn a_tree_of_budgets_has_no_circle_and_no_gap() {
    let ledger = ledger();
    let of = |id: &str, parent: Option<&str>| json!({ "id": id, "period": "day", "limit_usd": "5", "parent": parent });
    done(&ledger, Kind::Budget, of("all", None));
    done(&ledger, Kind::Budget, of("unit", Some("all")));
    assert!(refused(&ledger, Kind::Budget, of("x", Some("none"))).contains("the parent `none`, which is not declared"));
    assert!(refused(&ledger, Kind::Budget, of("x", Some("x"))).contains("its own parent"));
    let circle = run(patch(&ledger, &by(), Kind::Budget, "all", json!({ "parent": "unit" })));
    assert!(circle.err().unwrap().to_string().contains("above itself"));
    // A file may have them in any order.
    let text = "[[budget]]\nid = \"leaf\"\nparent = \"branch\"\nlimit_calls = 1\nperiod = \"day\"\n\
                [[budget]]\nid = \"branch\"\nlimit_calls = 1\nperiod = \"day\"\n";
    let plan = plan_of(&ledger, text).unwrap();
    let ids: Vec<String> = plan.changes.iter().map(|c| c.subject().1).collect();
    assert_eq!(ids, ["branch", "leaf"]);
}

#[test]
fn a_raise_is_listed_with_its_author_and_reason_and_survives_an_apply() {
    let ledger = ledger();
    let text = "[[budget]]\nid = \"all\"\nlimit_usd = \"5\"\nperiod = \"day\"\nenforcement = \"hard\"\n";
    apply_blocking(&ledger, &by(), plan_of(&ledger, text).unwrap()).unwrap();
    let raise = |amount: &str, reason: &str| Raise {
        by_usd: Some(amount.into()),
        until: "2099-12-31".into(),
        reason: reason.into(),
        ..Raise::default()
    };
    run(super::raise(&ledger, &by(), "all", raise("2.50", "year end"))).unwrap();
    assert!(plan_of(&ledger, text).unwrap().is_empty(), "the file says nothing of it");
    assert_eq!(ledger.standing("all", now()).unwrap().allowance.total(), Money(7_500_000_000_000_000).0);
    let listed = allocations(&ledger, "all").unwrap();
    let raised = &listed[0];
    assert_eq!((raised.kind, raised.amount.as_deref()), ("raise", Some("2.5")));
    assert_eq!((raised.actor.as_str(), raised.reason.as_deref()), (by().actor.as_str(), Some("year end")));
    assert!(raised.in_force);
    for (raise, why) in [
        (raise("1", " "), "say why"),
        (raise("x", "y"), "not an amount"),
        (Raise { by_calls: Some(1), by_usd: None, ..raise("1", "y") }, "exactly one `by_usd`"),
        (Raise { until: "2001-01-01".into(), ..raise("1", "y") }, "has passed"),
    ] {
        assert!(run(super::raise(&ledger, &by(), "all", raise)).unwrap_err().to_string().contains(why), "{why}");
    }
    let gone = run(super::reset(&ledger, &by(), "none", Reset { reason: "r".into() })).unwrap_err();
    assert!(matches!(gone, ControlError::NotFound { .. }));
}
