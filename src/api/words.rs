//! Declared state in the words of the configuration file, so that what is read can be written back.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::catalogue::Notify;
use crate::domain::{
    Budget, Dimension, Key, Metric, Money, Organisation, Owner, Policy, PriceOverride, Provider, Service,
};

/// An object of the pairs that have a value.
fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    let known = pairs.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(known.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn matches(pairs: &BTreeMap<Dimension, String>) -> Value {
    Value::Object(pairs.iter().map(|(d, v)| (d.name().to_owned(), Value::from(v.as_str()))).collect::<Map<_, _>>())
}

pub fn organisation(o: &Organisation) -> Value {
    json!({ "name": o.name, "time_zone": o.time_zone, "fiscal_year_start_month": o.fiscal_year_start_month })
}

pub fn owner(o: &Owner) -> Value {
    object([("id", json!(o.id)), ("kind", json!(o.kind)), ("name", json!(o.name)), ("email", json!(o.email))])
}

pub fn service(s: &Service) -> Value {
    object([
        ("id", json!(s.id)),
        ("application", json!(s.application)),
        ("kind", json!(s.kind)),
        ("owner", json!(s.owner)),
        ("business_unit", json!(s.business_unit)),
        ("cost_centre", json!(s.cost_centre)),
        ("tenant", json!(s.tenant)),
        ("purpose", json!(s.purpose)),
        ("caller_fields", json!(s.caller_fields)),
        ("tenants", json!(s.tenants)),
        ("workflows", json!(s.workflows)),
        ("prompt_classes", json!(s.prompt_classes)),
    ])
}

/// Everything but the secret, of which only a hash is kept.
pub fn key(k: &Key) -> Value {
    let expires = k.expires_at.map_or(json!("never"), |at| json!(at));
    object([
        ("id", json!(k.id)),
        ("service", json!(k.service)),
        ("environment", json!(k.environment)),
        ("status", json!(k.status)),
        ("created_at", json!(k.created_at)),
        ("expires", expires),
        ("allow_models", json!(k.allow_models)),
        ("note", json!(k.note)),
    ])
}

/// Everything but the credential, which is sealed elsewhere and never shown.
pub fn provider(p: &Provider) -> Value {
    json!({
        "id": p.id, "dialect": p.dialect, "base_url": p.base_url, "internal": p.internal, "models": p.models,
        "price_as": p.price_as, "idle_timeout_s": p.idle_timeout_s, "on_client_abort": p.on_client_abort,
    })
}

pub fn policy(p: &Policy) -> Value {
    object([
        ("id", json!(p.id)),
        ("match", matches(&p.matches)),
        ("allow_models", json!(p.allow_models)),
        ("deny_models", json!(p.deny_models)),
        ("allow_unmetered", json!(p.allow_unmetered)),
        ("allow_unpriced", json!(p.allow_unpriced)),
        ("allow_unbounded", json!(p.allow_unbounded)),
    ])
}

pub fn budget(b: &Budget) -> Value {
    let (limit, amount) = match b.limit.metric {
        Metric::Usd => ("limit_usd", json!(Money(b.limit.amount))),
        // Counts come in as u64, so they fit again.
        Metric::Tokens => ("limit_tokens", count(b.limit.amount)),
        Metric::Calls => ("limit_calls", count(b.limit.amount)),
        Metric::ToolCalls => ("limit_tool_calls", count(b.limit.amount)),
    };
    object([
        ("id", json!(b.id)),
        ("match", matches(&b.matches)),
        (limit, amount),
        ("period", json!(b.period)),
        ("anchor", json!(b.anchor)),
        ("time_zone", json!(b.time_zone)),
        ("enforcement", json!(b.enforcement)),
        ("alert_at_percent", json!(b.alert_at_percent)),
        ("notify", json!(b.notify)),
    ])
}

fn count(amount: i128) -> Value {
    json!(u64::try_from(amount).unwrap_or(0))
}

pub fn price(p: &PriceOverride) -> Value {
    object([
        ("provider", json!(p.provider)),
        ("model", json!(p.model)),
        ("component", json!(p.component)),
        ("usd", json!(p.usd)),
        ("per", json!(p.per)),
        ("effective_from", json!(p.effective_from)),
        ("note", json!(p.note)),
    ])
}

/// Without the address: a webhook's URL is a secret with most chat services.
pub fn notify(n: &Notify) -> Value {
    let host = n.webhook.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    json!({ "id": n.id, "webhook_host": host })
}
