//! Declared state: services, owners, keys, budgets, policies, providers, prices, notify and the organisation, in the words
//! of the configuration file. Reading asks the catalogue, changing gives `control` one command.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::config::file;
use crate::control::{self, By, ControlError, Done, KeyView, Kind};
use crate::domain::notify::{ChannelKind, Notify};
use crate::domain::{Budget, Catalogue, Metric, Money};
use crate::report;
use crate::store::Balance;

use super::{Actor, Api, ApiError, Endpoint, endpoint};

/// Longest body of one noun.
const MOST_BYTES: usize = 256 << 10;

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One kind: its paths, and the schema of its body.
struct Paths {
    kind: Kind,
    list: &'static str,
    one: &'static str,
    /// What is read.
    shape: SchemaOf,
    /// What is written.
    body: SchemaOf,
}

const PATHS: [Paths; 9] = [
    paths(Kind::Service, "/services", "/services/{id}", |g| g.subschema_for::<file::Service>()),
    paths(Kind::Owner, "/owners", "/owners/{id}", |g| g.subschema_for::<file::Owner>()),
    Paths {
        kind: Kind::Key,
        list: "/keys",
        one: "/keys/{id}",
        shape: |g| g.subschema_for::<KeyView>(),
        body: |g| g.subschema_for::<file::Key>(),
    },
    paths(Kind::Budget, "/budgets", "/budgets/{id}", |g| g.subschema_for::<file::Budget>()),
    paths(Kind::Policy, "/policies", "/policies/{id}", |g| g.subschema_for::<file::Policy>()),
    paths(Kind::Provider, "/providers", "/providers/{id}", |g| g.subschema_for::<file::Provider>()),
    // The id of a price is `list/model`, or `list/model/component`: models have slashes.
    paths(Kind::Price, "/prices", "/prices/{*id}", |g| g.subschema_for::<file::Price>()),
    paths(Kind::Notify, "/notify", "/notify/{id}", |g| g.subschema_for::<file::Notify>()),
    paths(Kind::Issuer, "/issuers", "/issuers/{id}", |g| g.subschema_for::<file::Issuer>()),
];

const fn paths(kind: Kind, list: &'static str, one: &'static str, shape: SchemaOf) -> Paths {
    Paths { kind, list, one, shape, body: shape }
}

pub fn endpoints() -> Vec<Endpoint> {
    let mut all = Vec::new();
    for Paths { kind, list: many, one, shape, body } in PATHS {
        let read = move |State(api): State<Api>| async move { list(&api, kind).await };
        let look = move |State(api): State<Api>, Path(id): Path<String>| async move { show(&api, kind, &id).await };
        let make = move |State(api): State<Api>,
                         Extension(actor): Extension<Actor>,
                         reason: Query<Reason>,
                         text: Bytes| async move { create(&api, &actor, reason.0, kind, &text).await };
        let change =
            move |State(api): State<Api>,
                  Extension(actor): Extension<Actor>,
                  Path(id): Path<String>,
                  reason: Query<Reason>,
                  text: Bytes| async move { alter(&api, &actor, reason.0, kind, &id, &text).await };
        let remove =
            move |State(api): State<Api>,
                  Extension(actor): Extension<Actor>,
                  Path(id): Path<String>,
                  reason: Query<Reason>| async move { take(&api, &actor, reason.0, kind, &id).await };
        let written = |mut e: Endpoint| {
            e.body = Some(body);
            e
        };
        all.push(endpoint("GET", many, "All of them, in the words of the configuration file", any, get(read)));
        all.push(written(endpoint(
            "POST",
            many,
            "Declare one; a key's secret is in this answer and never again",
            shape,
            post(make),
        )));
        all.push(endpoint("GET", one, "One of them; a budget with what its current period has", shape, get(look)));
        all.push(written(endpoint(
            "PATCH",
            one,
            "Change fields of one (JSON merge patch); an id stays",
            shape,
            patch(change),
        )));
        all.push(endpoint("DELETE", one, "Remove one that nothing needs; a key is revoked", any, delete(remove)));
    }
    let turn = move |State(api): State<Api>,
                     Extension(actor): Extension<Actor>,
                     Path(id): Path<String>,
                     reason: Query<Reason>,
                     text: Bytes| async move { rotate(&api, &actor, reason.0, &id, &text).await };
    let mut rotate = endpoint(
        "POST",
        "/keys/{id}/rotate",
        "Make its successor, whose secret is in this answer and never again; both work until the overlap ends",
        |g| g.subschema_for::<KeyView>(),
        post(turn),
    );
    rotate.body = Some(|g| g.subschema_for::<Rotate>());
    all.push(rotate);
    let organisation: SchemaOf = |g| g.subschema_for::<file::Organisation>();
    all.push(endpoint("GET", "/organisation", "The organisation", organisation, get(show_organisation)));
    let mut change = endpoint("PATCH", "/organisation", "Change it", organisation, patch(alter_organisation));
    change.body = Some(organisation);
    all.push(change);
    all
}

fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// `?reason=`: why, in the operator's words; kept where it can be erased.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Option<String>,
}

impl Api {
    fn by(&self, actor: &Actor, reason: Reason) -> By {
        let by = By::new(actor.0.clone(), self.ledger.clock().now());
        match reason.reason {
            Some(reason) => by.because(reason),
            None => by,
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        let message = error.to_string();
        match error {
            ControlError::Invalid(problems) => {
                let field = problems.into_iter().next().map_or_else(|| "body".to_owned(), |(field, _)| field);
                ApiError::wrong(&field, message)
            }
            ControlError::NotFound { .. } => ApiError::new(StatusCode::NOT_FOUND, "not_found", message),
            ControlError::Conflict(_) => ApiError::new(StatusCode::CONFLICT, "conflict", message),
            ControlError::Store(error) => error.into(),
        }
    }
}

fn body(text: &[u8]) -> Result<Value, ApiError> {
    if text.len() > MOST_BYTES {
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("more than {MOST_BYTES} bytes")));
    }
    let read = serde_json::from_slice::<Value>(text).ok().filter(Value::is_object);
    read.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "malformed", "the body is not a JSON object"))
}

async fn list(api: &Api, kind: Kind) -> Result<Json<Value>, ApiError> {
    api.blocking(move |api| {
        let catalogue = api.ledger.catalogue();
        let mut all = control::list(&catalogue, kind);
        for value in &mut all {
            complete(api, &catalogue, kind, value)?;
        }
        if kind == Kind::Notify {
            results(api, &mut all)?;
        }
        let mut answer = json!({ kind.plural(): all, "revision": catalogue.revision });
        if kind == Kind::Price {
            let book = api.price_book();
            answer["price_book"] = book.version().into();
            answer["shipped"] = book.source().into();
            answer["lists"] = book.lists().into();
        }
        Ok(Json(answer))
    })
    .await
}

async fn show(api: &Api, kind: Kind, id: &str) -> Result<Json<Value>, ApiError> {
    let id = id.to_owned();
    api.blocking(move |api| {
        let catalogue = api.ledger.catalogue();
        let found = control::show(&catalogue, kind, &id);
        let short: String = id.chars().take(80).collect();
        let mut value = found.ok_or_else(|| ApiError::not_found(format!("{} `{short}`", kind.name())))?;
        complete(api, &catalogue, kind, &mut value)?;
        if kind == Kind::Budget {
            value["allocations"] = json!(control::allocations(&api.ledger, &id)?);
            if let Some(budget) = catalogue.budgets.get(&id) {
                add_outlook(api, &mut value, budget)?;
            }
        }
        if let Some(budget) = catalogue.budgets.get(&id).filter(|_| kind == Kind::Budget) {
            super::outlook::add(api, budget, &mut value)?;
        }
        if kind == Kind::Notify {
            results(api, std::slice::from_mut(&mut value))?;
        }
        Ok(Json(value))
    })
    .await
}

/// How it went to channels last, how much waits for them and how much was given up.
fn results(api: &Api, channels: &mut [Value]) -> Result<(), ApiError> {
    for row in crate::report::channels(&api.ledger)? {
        let Some(value) = channels.iter_mut().find(|v| v["id"] == row.notify.id.as_str()) else { continue };
        (value["waiting"], value["given_up"]) = (row.waiting.into(), row.dead.into());
        if let Some((at, last)) = row.last {
            let step = format!("{:?}", last.step).to_lowercase();
            value["last"] = json!({ "at": at, "step": step, "detail": last.detail });
        }
    }
    Ok(())
}

/// Of a channel's address what may be shown: of a URL its host, of mail everything but the password.
fn channel_of(api: &Api, notify: &Notify, value: &mut Value) -> Result<(), ApiError> {
    let address = control::address(&api.ledger, notify)?.unwrap_or_default();
    match notify.kind {
        ChannelKind::Email => {
            value["email"] = address.to.into();
            value["smtp"] = json!({ "server": notify.host, "from": address.from, "username": address.username });
        }
        ChannelKind::Syslog => {}
        kind => value[kind.name()] = format!("{}/…", notify.host).into(),
    }
    if notify.kind == ChannelKind::Webhook {
        value["signed"] = address.secret.is_some().into();
    }
    Ok(())
}

/// Adds what is not in the catalogue: an owner's contact, a budget's balance. The address of a webhook is left out, since
/// with most chat services whoever knows it may post.
fn complete(api: &Api, catalogue: &Catalogue, kind: Kind, value: &mut Value) -> Result<(), ApiError> {
    let id = value["id"].as_str().unwrap_or_default().to_owned();
    match kind {
        Kind::Owner => {
            let contact = control::contact(&api.ledger, &id)?.unwrap_or_default();
            for (name, text) in [("name", contact.name), ("email", contact.email)] {
                if let Some(text) = text {
                    value[name] = text.into();
                }
            }
        }
        Kind::Budget => {
            let standing = api.ledger.standing(&id, api.ledger.clock().now());
            if let (Some(budget), Some(standing)) = (catalogue.budgets.get(&id), standing) {
                add_balance(value, budget, &standing.into());
            }
        }
        Kind::Notify => {
            if let Some(notify) = catalogue.notify.get(&id) {
                channel_of(api, notify, value)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What the current period has and may use: never behind, since it is the writer's own state.
fn add_balance(value: &mut Value, budget: &Budget, balance: &Balance) {
    let allowance = balance.allowance;
    let remaining = (allowance.total() - balance.posted - balance.held).max(0);
    let unit = unit(budget.limit.metric);
    value["current_period"] = balance.period.clone().into();
    value["resets_at"] = json!(balance.end);
    value["open_holds"] = balance.open_holds.into();
    let amounts = [
        ("spent", balance.posted),
        ("held", balance.held),
        ("remaining", remaining),
        ("allowed", allowance.total()),
        ("raised", allowance.raised),
        ("carried", allowance.carried),
        ("reset", allowance.reset),
        ("grace", allowance.grace),
    ];
    let always = ["spent", "held", "remaining", "allowed"];
    for (name, amount) in amounts.into_iter().filter(|(name, n)| always.contains(name) || *n != 0) {
        value[format!("{name}_{unit}")] = in_words(budget.limit.metric, amount).into();
    }
}

/// Where the period is going, with how that is reckoned; or why that cannot be said.
fn add_outlook(api: &Api, value: &mut Value, budget: &Budget) -> Result<(), ApiError> {
    let outlook = report::forecast(&api.ledger, budget, api.ledger.clock().now())?;
    let (metric, unit) = (budget.limit.metric, unit(budget.limit.metric));
    match &outlook.forecast {
        Ok(forecast) => {
            for (name, amount) in [("", forecast.amount), ("_low", forecast.low), ("_high", forecast.high)] {
                value[format!("forecast{name}_{unit}")] = in_words(metric, amount).into();
            }
            value["forecast_method"] = forecast.method.name().into();
        }
        Err(why) => {
            value[format!("forecast_{unit}")] = Value::Null;
            value["forecast_missing"] = why.to_string().into();
        }
    }
    value[format!("burn_rate_{unit}")] = outlook.burn_rate.map(|rate| in_words(metric, rate)).into();
    value["exhausted_at"] = json!(outlook.exhausted_at);
    Ok(())
}

/// As in the names of fields.
fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Usd => "usd",
        Metric::Tokens => "tokens",
        Metric::Calls => "calls",
        Metric::ToolCalls => "tool_calls",
    }
}

fn in_words(metric: Metric, amount: i128) -> String {
    match metric {
        Metric::Usd => Money(amount).to_string(),
        _ => amount.to_string(),
    }
}

async fn create(api: &Api, actor: &Actor, reason: Reason, kind: Kind, text: &[u8]) -> Result<Response, ApiError> {
    let done = control::create(&api.ledger, &api.by(actor, reason), kind, body(text)?).await?;
    Ok((StatusCode::CREATED, Json(answer(api, kind, done).await?)).into_response())
}

async fn alter(
    api: &Api,
    actor: &Actor,
    reason: Reason,
    kind: Kind,
    id: &str,
    text: &[u8],
) -> Result<Json<Value>, ApiError> {
    let done = control::patch(&api.ledger, &api.by(actor, reason), kind, id, body(text)?).await?;
    answer(api, kind, done).await.map(Json)
}

/// How a key is rotated.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// How long both keys work, in seconds: 0 to 2592000. Default 86400
    overlap_s: Option<i64>,
}

async fn rotate(api: &Api, actor: &Actor, reason: Reason, id: &str, text: &[u8]) -> Result<Response, ApiError> {
    let asked = if text.is_empty() { Value::Object(Default::default()) } else { body(text)? };
    let asked: Rotate = serde_json::from_value(asked).map_err(|e| ApiError::wrong("body", e.to_string()))?;
    let done = control::rotate(&api.ledger, &api.by(actor, reason), id, asked.overlap_s).await?;
    Ok((StatusCode::CREATED, Json(answer(api, Kind::Key, done).await?)).into_response())
}

async fn take(api: &Api, actor: &Actor, reason: Reason, kind: Kind, id: &str) -> Result<Json<Value>, ApiError> {
    let done = control::delete(&api.ledger, &api.by(actor, reason), kind, id).await?;
    answer(api, kind, done).await.map(Json)
}

/// The noun as it is now, with what deserves a look, and a new key's secret.
async fn answer(api: &Api, kind: Kind, done: Done) -> Result<Value, ApiError> {
    api.blocking(move |api| {
        let mut value = done.value.unwrap_or_else(|| json!({ "id": done.id, "removed": true }));
        complete(api, &api.ledger.catalogue(), kind, &mut value)?;
        if let Some(secret) = done.secret {
            value["secret"] = secret.expose().into();
        }
        if !done.warnings.is_empty() {
            value["warnings"] = done.warnings.into();
        }
        Ok(value)
    })
    .await
}

async fn show_organisation(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    show(&api, Kind::Organisation, "organisation").await
}

async fn alter_organisation(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Query(reason): Query<Reason>,
    text: Bytes,
) -> Result<Json<Value>, ApiError> {
    alter(&api, &actor, reason, Kind::Organisation, "organisation", &text).await
}
