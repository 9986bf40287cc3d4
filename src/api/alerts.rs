//! Alerts and what becomes of them; the test of a channel. Reading asks `report`, acting goes through `control`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::{self, AlertAct, By};
use crate::domain::{Catalogue, Metric, Micros, Money};
use crate::ledger::entry::Delivery;
use crate::ledger::outbox::{AlertId, Route};
use crate::notify::words;
use crate::report::{self, AlertFilter, AlertRow, Place};

use super::{Actor, Api, ApiError, Endpoint, endpoint};

/// An alert, whether somebody saw it, and what became of it at every place it went to.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub(super) struct AlertView {
    id: String,
    /// Position of its entry in the journal.
    seq: u64,
    raised_at: Micros,
    /// actual, denied, overrun, forecast, no_data or key_expiry.
    kind: String,
    /// firing, acknowledged or resolved.
    state: &'static str,
    budget: Option<String>,
    period: Option<String>,
    threshold_percent: Option<u16>,
    threshold_days: Option<u16>,
    key: Option<String>,
    ends_at: Option<Micros>,
    used_usd: Option<String>,
    limit_usd: Option<String>,
    forecast_usd: Option<String>,
    /// The same of a budget that does not count money.
    used: Option<String>,
    limit: Option<String>,
    forecast: Option<String>,
    title: String,
    text: String,
    /// There was nowhere to send it.
    unrouted: bool,
    deliveries: Vec<PlaceView>,
}

/// What became of an alert at one place.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AlertDelivery")]
pub(super) struct PlaceView {
    channel: String,
    /// By mail to this owner.
    owner: Option<String>,
    /// waiting, held, delivered, failed, dead, moved or undeliverable.
    status: &'static str,
    attempts: u16,
    at: Option<Micros>,
    next_at: Option<Micros>,
    detail: Option<String>,
    may_try_again: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Alerts")]
struct AlertsView {
    alerts: Vec<AlertView>,
    next_cursor: Option<String>,
    as_of: Micros,
    as_of_seq: u64,
}

/// Why.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AlertReason")]
struct Because {
    /// What was done about it.
    reason: String,
}

/// A delivery that was given up.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AlertRetry")]
struct Retry {
    channel: String,
    owner: Option<String>,
    reason: Option<String>,
}

impl From<&Place> for PlaceView {
    fn from(p: &Place) -> PlaceView {
        PlaceView {
            channel: p.route.channel.clone(),
            owner: p.route.owner.clone(),
            status: p.status.name(),
            attempts: p.attempts,
            at: p.at,
            next_at: p.next_at,
            detail: p.detail.clone(),
            may_try_again: p.may_try_again,
        }
    }
}

impl AlertView {
    pub(super) fn of(row: &AlertRow, catalogue: &Catalogue) -> AlertView {
        let a = &row.alert;
        let words = words::words(a, &row.id, catalogue, "");
        let metric = catalogue.budgets.get(&a.budget).map_or(Metric::Usd, |b| b.limit.metric);
        let usd = |n: Option<i128>| n.filter(|_| metric == Metric::Usd).map(|n| Money(n).to_string());
        let counted = |n: Option<i128>| n.filter(|_| metric != Metric::Usd).map(|n| n.to_string());
        let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        let is_key = a.kind == "key_expiry";
        AlertView {
            id: row.id.to_string(),
            seq: row.position,
            raised_at: row.raised_at,
            kind: a.kind.clone(),
            state: row.state.name(),
            budget: text(&a.budget),
            period: text(&a.period),
            threshold_percent: a.threshold.filter(|_| !is_key),
            threshold_days: a.threshold.filter(|_| is_key),
            key: a.subject.clone(),
            ends_at: a.due,
            used_usd: usd(a.used),
            limit_usd: usd(a.limit),
            forecast_usd: usd(a.foreseen),
            used: counted(a.used),
            limit: counted(a.limit),
            forecast: counted(a.foreseen),
            title: words.title,
            text: words.text,
            unrouted: a.unrouted,
            deliveries: row.places.iter().map(PlaceView::from).collect(),
        }
    }
}

pub fn endpoints() -> Vec<Endpoint> {
    let one: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<AlertView>();
    let many: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<AlertsView>();
    let any: fn(&mut SchemaGenerator) -> Schema = |_| schemars::json_schema!({ "type": "object" });
    let reason: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<Because>();
    let mut acknowledge =
        endpoint("POST", "/alerts/{id}/acknowledge", "Somebody has seen it (reason)", one, post(acknowledge));
    acknowledge.body = Some(reason);
    let mut resolve = endpoint("POST", "/alerts/{id}/resolve", "It is over (reason)", one, post(resolve));
    resolve.body = Some(reason);
    let mut retry =
        endpoint("POST", "/alerts/{id}/retry", "Try a delivery again that was given up", one, post(try_again));
    retry.body = Some(|g| g.subschema_for::<Retry>());
    vec![
        endpoint(
            "GET",
            "/alerts",
            "Alerts, newest first, by budget, kind, state (firing, acknowledged, resolved) and undelivered=true",
            many,
            get(list),
        ),
        endpoint("GET", "/alerts/{id}", "One alert with what became of it everywhere", one, get(show)),
        acknowledge,
        resolve,
        retry,
        endpoint("POST", "/notify/{id}/test", "Send a test message to a channel, now", any, post(test)),
    ]
}

async fn list(
    State(api): State<Api>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<AlertsView>, ApiError> {
    const KNOWN: [&str; 6] = ["budget", "kind", "state", "undelivered", "limit", "cursor"];
    if let Some((name, _)) = pairs.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
        let name: String = name.chars().take(60).collect();
        return Err(ApiError::invalid(&name, format!("alerts do not take it; they take {}", KNOWN.join(", "))));
    }
    let value = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let limit = value("limit").map_or(Ok(100), |text| text.parse());
    let limit: usize = limit.map_err(|_| ApiError::invalid("limit", "use 1 to 500"))?;
    let (filter, cursor) = (AlertFilter::read(&pairs)?, value("cursor"));
    api.blocking(move |api| {
        let page = report::alerts(&api.ledger, &filter, cursor.as_deref(), limit)?;
        let catalogue = api.ledger.catalogue();
        Ok(Json(AlertsView {
            alerts: page.alerts.iter().map(|row| AlertView::of(row, &catalogue)).collect(),
            next_cursor: page.next_cursor,
            as_of: page.as_of.at,
            as_of_seq: page.as_of.seq,
        }))
    })
    .await
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    api.blocking(move |api| {
        let row = find(api, &id)?;
        let view = AlertView::of(&row, &api.ledger.catalogue());
        let mut value = serde_json::to_value(view).map_err(ApiError::internal)?;
        value["history"] = row.history.iter().map(|(seq, at, d)| step(*seq, *at, d)).collect::<Vec<_>>().into();
        Ok(Json(value))
    })
    .await
}

fn step(seq: u64, at: Micros, d: &Delivery) -> Value {
    let route = |r: &Route| json!({ "channel": r.channel, "owner": r.owner });
    let mut value = json!({ "seq": seq, "at": at, "step": format!("{:?}", d.step).to_lowercase() });
    if !d.route.channel.is_empty() {
        value["to"] = route(&d.route);
    }
    for (name, text) in [("message", &d.message), ("detail", &d.detail), ("actor", &d.actor)] {
        if let Some(text) = text {
            value[name] = text.as_str().into();
        }
    }
    if let Some(to) = &d.to {
        value["moved_to"] = route(to);
    }
    value
}

fn find(api: &Api, id: &str) -> Result<AlertRow, ApiError> {
    let wanted: AlertId = id.parse().map_err(|error| ApiError::invalid("id", error))?;
    report::alert(&api.ledger, wanted)?.ok_or_else(|| ApiError::not_found(format!("alert `{wanted}`")))
}

async fn acknowledge(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<AlertView>, ApiError> {
    let why: Because = read(&body)?;
    act(&api, &actor, id, AlertAct::Acknowledge, Some(why.reason)).await
}

async fn resolve(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<AlertView>, ApiError> {
    let why: Because = read(&body)?;
    act(&api, &actor, id, AlertAct::Resolve, Some(why.reason)).await
}

async fn try_again(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<AlertView>, ApiError> {
    let Retry { channel, owner, reason } = read(&body)?;
    act(&api, &actor, id, AlertAct::TryAgain(Route { channel, owner }), reason).await
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::wrong("body", error.to_string()))
}

async fn act(
    api: &Api,
    actor: &Actor,
    id: String,
    act: AlertAct,
    reason: Option<String>,
) -> Result<Json<AlertView>, ApiError> {
    let wanted = id.clone();
    let found = api.blocking(move |api| find(api, &wanted)).await?;
    let by = By { reason, ..By::new(actor.0.clone(), api.ledger.clock().now()) };
    control::act_on_alert(&api.ledger, &by, found.id, act).await?;
    api.blocking(move |api| Ok(Json(AlertView::of(&find(api, &id)?, &api.ledger.catalogue())))).await
}

/// A test that does not arrive is an answer, too: 200 with `delivered` false and why.
async fn test(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if !api.ledger.catalogue().notify.contains_key(&id) {
        return Err(ApiError::not_found(format!("notify `{}`", id.chars().take(80).collect::<String>())));
    }
    let Some(notifier) = &api.notifier else {
        let message = "this process does not deliver alerts: ask the server";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_running", message));
    };
    match notifier.test(&id, &actor.0, None).await? {
        Ok(()) => Ok(Json(json!({ "channel": id, "delivered": true }))),
        Err(failed) => Ok(Json(json!({ "channel": id, "delivered": false, "detail": failed.why }))),
    }
}
