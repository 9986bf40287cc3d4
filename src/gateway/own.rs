//! What the gateway answers by itself: health, a caller's own receipts and spend, the list of models.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::domain::catalogue::covers;
use crate::domain::{CallId, CallView, Code, Dimension, Money};

use super::Gateway;
use super::body::Body;
use super::classify::Asked;
use super::identify::Caller;
use super::judge::may_list;
use super::refuse::{Refused, put};
use super::route;
use super::snapshot::Snapshot;
use super::spent::{self, SpentError};
use super::ticket::Ticket;

impl Gateway {
    /// `/healthz`: the process answers. `/readyz`: it can record, so it can carry calls.
    pub(super) fn health(&self, head: &Parts) -> Option<Response<Body>> {
        if head.method != Method::GET {
            return None;
        }
        match head.uri.path() {
            "/healthz" => Some(json_answer(StatusCode::OK, &json!({"status": "ok"}))),
            "/readyz" if self.inner.ledger.healthy() => Some(json_answer(StatusCode::OK, &json!({"status": "ready"}))),
            "/readyz" => {
                let body = json!({"status": "unavailable", "reason": "the journal cannot be written"});
                Some(json_answer(StatusCode::SERVICE_UNAVAILABLE, &body))
            }
            _ => None,
        }
    }

    /// `/wb/v1/…` for the caller's own key.
    pub(super) async fn own(
        &self,
        caller: &Caller,
        head: &Parts,
        path: &str,
        snapshot: &Snapshot,
    ) -> Result<Response<Body>, Refused> {
        if head.method != Method::GET {
            return Err(Refused::with(Code::MethodNotAllowed, format!("Weighbridge: /wb/v1/{path} is read with GET.")));
        }
        match path.split_once('/') {
            Some(("calls", id)) => self.own_call(caller, id),
            None if path == "spend" => self.own_spend(caller, snapshot).await,
            _ => Err(Refused::with(Code::UnknownPath, "Weighbridge: there is /wb/v1/calls/{id} and /wb/v1/spend.")),
        }
    }

    fn own_call(&self, caller: &Caller, id: &str) -> Result<Response<Body>, Refused> {
        let shown: String = id.chars().take(40).collect();
        let missing = || Refused::with(Code::UnknownPath, format!("Weighbridge: this service has no call '{shown}'."));
        let id: CallId = id.parse().map_err(|_| missing())?;
        let found = self.inner.ledger.call(id).map_err(super::authorize::cannot_tell)?;
        let own =
            found.filter(|c| c.who.as_ref().is_some_and(|w| w.service == caller.service.id)).ok_or_else(missing)?;
        Ok(json_answer(StatusCode::OK, &serde_json::to_value(CallView::from(&own)).unwrap_or_default()))
    }

    /// What this key and its service have spent, and what the budgets that count its calls have used and have left.
    async fn own_spend(&self, caller: &Caller, snapshot: &Snapshot) -> Result<Response<Body>, Refused> {
        let now = self.now();
        let (ledger, zone) = (self.inner.ledger.clone(), snapshot.catalogue.organisation.time_zone.clone());
        let of = caller.who.clone();
        let sum = move || spent::spent(&ledger, &of, &zone, now, spent::PATIENCE);
        let spent = match tokio::task::spawn_blocking(sum).await {
            Ok(Ok(spent)) => spent,
            Ok(Err(SpentError::Store(error))) => return Err(super::authorize::cannot_tell(error)),
            failed => {
                tracing::error!(error = ?failed.map(drop), "a caller's spend could not be added up");
                return Err(super::authorize::journal_unavailable());
            }
        };
        let who = &caller.who;
        let of = |d: Dimension| match d {
            Dimension::Service | Dimension::Principal | Dimension::ChargedTo => Some(who.service.as_str()),
            Dimension::Application => Some(who.application.as_str()),
            Dimension::BusinessUnit => Some(who.business_unit.as_str()),
            Dimension::Owner => Some(who.owner.as_str()),
            Dimension::CostCentre => who.cost_centre.as_deref(),
            Dimension::Tenant => who.tenant.as_deref(),
            Dimension::Environment => Some(who.environment.name()),
            Dimension::Credential => Some(who.credential.as_str()),
            _ => None,
        };
        let balances = self.inner.ledger.balances(now);
        let budgets: Vec<_> = snapshot
            .catalogue
            .budgets
            .values()
            .filter(|b| covers(&b.matches, of))
            .map(|b| {
                let balance = balances.iter().find(|x| x.budget == b.id);
                let (posted, held) = balance.map_or((0, 0), |x| (x.posted, x.held));
                let limit = balance.map_or(b.limit.amount, |x| x.allowance.total());
                let mut row =
                    json!({"budget": b.id, "period": balance.map(|x| x.period.as_str()), "enforcement": b.enforcement});
                match b.limit.usd() {
                    Some(_) => {
                        row["limit_usd"] = json!(Money(limit));
                        row["spent_usd"] = json!(Money(posted));
                        row["held_usd"] = json!(Money(held));
                        row["remaining_usd"] = json!(Money(limit - posted - held));
                    }
                    None => {
                        row["metric"] = json!(format!("{:?}", b.limit.metric).to_lowercase());
                        row["limit"] = json!(limit.to_string());
                        row["used"] = json!(posted.to_string());
                        row["held"] = json!(held.to_string());
                        row["remaining"] = json!((limit - posted - held).to_string());
                    }
                }
                row
            })
            .collect();
        let body = json!({
            "credential": who.credential, "service": who.service, "environment": who.environment,
            "as_of": now, "as_of_seq": spent.as_of.seq, "time_zone": snapshot.catalogue.organisation.time_zone,
            "spent": {"key": spent.key, "service": spent.service},
            "budgets": budgets,
        });
        Ok(json_answer(StatusCode::OK, &body))
    }
}

/// The answer to a bare `GET /v1/models`, where the providers' configuration lists its models; without such lists the
/// first provider is asked.
pub(super) fn listing(snapshot: &Snapshot, caller: &Caller, ticket: &Ticket, asked: &Asked) -> Option<Bytes> {
    if asked.facts.endpoint != "models" || asked.method != Method::GET || !asked.url.path().ends_with("/models") {
        return None;
    }
    let family: Vec<_> = snapshot.providers.iter().filter(|p| route::speaks(p, ticket.dialect)).collect();
    let listed = |p: &&std::sync::Arc<crate::domain::Provider>| {
        !p.models.is_empty() && p.models.iter().all(|m| !m.contains('*'))
    };
    if !family.iter().all(listed) {
        return None;
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut rows = Vec::new();
    for provider in family {
        for model in provider.models.iter().filter(|m| may_list(snapshot, caller, provider, m, ticket.received_at)) {
            if seen.insert(model.as_str()) {
                rows.push((model.as_str(), provider.id.as_str()));
            }
        }
    }
    let body = if ticket.dialect.name() == "anthropic" {
        let data: Vec<_> = rows.iter().map(|(m, _)| json!({"type": "model", "id": m, "display_name": m})).collect();
        let ends = (rows.first().map(|r| r.0), rows.last().map(|r| r.0));
        json!({"data": data, "has_more": false, "first_id": ends.0, "last_id": ends.1})
    } else {
        let data: Vec<_> =
            rows.iter().map(|(m, p)| json!({"id": m, "object": "model", "created": 0, "owned_by": p})).collect();
        json!({"object": "list", "data": data})
    };
    Some(Bytes::from(body.to_string()))
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    put(response.headers_mut(), "content-type", "application/json");
    put(response.headers_mut(), "cache-control", "no-store");
    response
}
