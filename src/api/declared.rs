//! Declared state: services, owners, keys, budgets, policies, providers, prices and notify, in the words of the
//! configuration file.

use axum::Json;
use axum::extract::{Path, State};
use axum::routing::get;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::domain::{Budget, Catalogue, Metric, Money};
use crate::store::Balance;

use super::{Api, ApiError, Endpoint, endpoint, words};

/// One kind of declared thing: its path, and how all of them read.
struct Noun {
    list: &'static str,
    one: &'static str,
    path: &'static str,
    singular: &'static str,
    read: fn(&Catalogue) -> Vec<(String, Value)>,
}

macro_rules! noun {
    ($plural:literal, $singular:literal, $read:expr) => {
        Noun {
            list: concat!("All ", $plural),
            one: concat!("One of the ", $plural),
            path: concat!("/", $plural),
            singular: $singular,
            read: $read,
        }
    };
}

/// Every kind but prices, whose list is the price book. Paths are their plural.
const NOUNS: [Noun; 7] = [
    noun!("services", "service", |c| c.services.iter().map(|(id, s)| (id.clone(), words::service(s))).collect()),
    noun!("owners", "owner", |c| c.owners.iter().map(|(id, o)| (id.clone(), words::owner(o))).collect()),
    noun!("keys", "key", |c| c.keys.iter().map(|(id, k)| (id.clone(), words::key(k))).collect()),
    noun!("budgets", "budget", |c| c.budgets.iter().map(|(id, b)| (id.clone(), words::budget(b))).collect()),
    noun!("policies", "policy", |c| {
        c.policies_in_order().into_iter().map(|p| (p.id.clone(), words::policy(p))).collect()
    }),
    noun!("providers", "provider", |c| {
        c.providers_in_order().into_iter().map(|p| (p.id.clone(), words::provider(p))).collect()
    }),
    noun!("notify", "notify", |c| c.notify.iter().map(|(id, n)| (id.clone(), words::notify(n))).collect()),
];

fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

pub fn endpoints() -> Vec<Endpoint> {
    let mut all = Vec::new();
    for noun in &NOUNS {
        let list = move |State(api): State<Api>| async move { list(&api, noun) };
        let show = move |State(api): State<Api>, Path(id): Path<String>| async move { show(&api, noun, &id) };
        all.push(endpoint("GET", noun.path, noun.list, any, get(list)));
        all.push(endpoint("GET", one_path(noun.path), noun.one, any, get(show)));
    }
    all.push(endpoint("GET", "/organisation", "The organisation", any, get(organisation)));
    all.push(endpoint("GET", "/prices", "This organisation's own prices, over the shipped book", any, get(prices)));
    all
}

/// `/services` → `/services/{id}`.
fn one_path(list: &'static str) -> &'static str {
    match list {
        "/services" => "/services/{id}",
        "/owners" => "/owners/{id}",
        "/keys" => "/keys/{id}",
        "/budgets" => "/budgets/{id}",
        "/policies" => "/policies/{id}",
        "/providers" => "/providers/{id}",
        _ => "/notify/{id}",
    }
}

fn list(api: &Api, noun: &Noun) -> Json<Value> {
    let catalogue = api.ledger.catalogue();
    let mut all: Vec<Value> = (noun.read)(&catalogue).into_iter().map(|(_, value)| value).collect();
    if noun.singular == "budget" {
        all = with_balances(api, &catalogue, all);
    }
    let name = noun.path.trim_start_matches('/');
    Json(json!({ name: all, "revision": catalogue.revision }))
}

fn show(api: &Api, noun: &Noun, id: &str) -> Result<Json<Value>, ApiError> {
    let catalogue = api.ledger.catalogue();
    let found = (noun.read)(&catalogue).into_iter().find(|(found, _)| found == id).map(|(_, value)| value);
    let mut found = found.ok_or_else(|| {
        let short: String = id.chars().take(60).collect();
        ApiError::not_found(format!("{} `{short}`", noun.singular))
    })?;
    if noun.singular == "budget" {
        found = with_balances(api, &catalogue, vec![found]).remove(0);
    }
    Ok(Json(found))
}

/// Adds to budgets what their current period has: never behind, since it is the writer's own state.
fn with_balances(api: &Api, catalogue: &Catalogue, mut budgets: Vec<Value>) -> Vec<Value> {
    let balances = api.ledger.balances(api.ledger.clock().now());
    for value in &mut budgets {
        let Some(budget) = value["id"].as_str().and_then(|id| catalogue.budgets.get(id)) else { continue };
        let Some(balance) = balances.iter().find(|b| b.budget == budget.id) else { continue };
        add_balance(value, budget, balance);
    }
    budgets
}

fn add_balance(value: &mut Value, budget: &Budget, balance: &Balance) {
    let remaining = (budget.limit.amount - balance.posted - balance.held).max(0);
    let (unit, show): (&str, fn(i128) -> String) = match budget.limit.metric {
        Metric::Usd => ("usd", |amount| Money(amount).to_string()),
        Metric::Tokens => ("tokens", |n| n.to_string()),
        Metric::Calls => ("calls", |n| n.to_string()),
        Metric::ToolCalls => ("tool_calls", |n| n.to_string()),
    };
    value["current_period"] = balance.period.clone().into();
    value["open_holds"] = balance.open_holds.into();
    for (name, amount) in [("spent", balance.posted), ("held", balance.held), ("remaining", remaining)] {
        value[format!("{name}_{unit}")] = show(amount).into();
    }
}

async fn organisation(State(api): State<Api>) -> Json<Value> {
    Json(words::organisation(&api.ledger.catalogue().organisation))
}

async fn prices(State(api): State<Api>) -> Json<Value> {
    let catalogue = api.ledger.catalogue();
    let own: Vec<Value> = catalogue.prices.values().flat_map(|prices| prices.iter().map(words::price)).collect();
    let book = api.price_book();
    Json(json!({ "prices": own, "price_book": book.version(), "shipped": book.source(), "lists": book.lists() }))
}
