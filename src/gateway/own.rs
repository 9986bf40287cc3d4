//! What the gateway answers by itself: health, a caller's own receipts and spend, the list of models.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::budget::percent_used;
use crate::domain::filter::glob;
use crate::domain::{Attribution, Budget, CallId, CallView, Code, Dimension, Metric, Money};
use crate::store::Balance;

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

    /// What this key and its service have spent and hold, the same of the workflow and run that the request names, and
    /// what the budgets that count its calls have used and have left. Of a budget that counts others too, a caller is told
    /// its name and what is left, which every answer tells it anyway, and not what the others spent.
    async fn own_spend(&self, caller: &Caller, snapshot: &Snapshot) -> Result<Response<Body>, Refused> {
        let now = self.now();
        let (ledger, zone) = (self.inner.ledger.clone(), snapshot.catalogue.organisation.time_zone.clone());
        let (of, in_flight) = (caller.who.clone(), self.inner.in_flight.clone());
        let summed = tokio::task::spawn_blocking(move || {
            let spent = spent::spent(&ledger, &of, &zone, now, spent::PATIENCE)?;
            let held = spent::held(&ledger, &in_flight, &of)?;
            let named = spent::named(&ledger, &of, &zone, now)?;
            Ok::<_, SpentError>((spent, held, named))
        });
        let (spent, held, named) = match summed.await {
            Ok(Ok(summed)) => summed,
            Ok(Err(SpentError::Store(error))) => return Err(super::authorize::cannot_tell(error)),
            failed => {
                tracing::error!(error = ?failed.map(drop), "a caller's spend could not be added up");
                return Err(super::authorize::journal_unavailable());
            }
        };
        let who = &caller.who;
        let balances = self.inner.ledger.balances(now);
        let budgets: Vec<_> = snapshot
            .catalogue
            .budgets
            .values()
            .filter(|budget| may_cover(budget, who))
            .filter_map(|budget| Some(own_budget(budget, balances.iter().find(|b| b.budget == budget.id)?, who)))
            .collect();
        let mut body = json!({
            "credential": who.credential, "service": who.service, "environment": who.environment,
            "as_of": now, "as_of_seq": spent.as_of.seq, "time_zone": snapshot.catalogue.organisation.time_zone,
            "spent": {
                "key": with_held(&spent.key, held.key), "service": with_held(&spent.service, held.service),
            },
            "budgets": budgets,
        });
        for (name, value, sum) in [("workflow", &who.workflow, &named.workflow), ("run", &who.run, &named.run)] {
            if let (Some(value), Some(sum)) = (value, sum) {
                body["spent"][name] = json!({ "id": value, "today": sum.today, "month": sum.month });
            }
        }
        Ok(json_answer(StatusCode::OK, &body))
    }
}

fn with_held(spent: &spent::Spent, held: (u64, Money)) -> serde_json::Value {
    json!({ "today": spent.today, "month": spent.month, "running": held.0, "held_usd": held.1 })
}

/// What is known of the caller before it calls; provider, model and class of prompts come with the call.
fn known(who: &Attribution, dimension: Dimension) -> Option<&str> {
    match dimension {
        Dimension::Provider | Dimension::Model | Dimension::PromptClass => None,
        _ => who.dimension(dimension),
    }
}

/// Whether a budget counts calls of this caller, or may: one for a model counts those that ask for it.
fn may_cover(budget: &Budget, who: &Attribution) -> bool {
    budget.matches.iter().all(|(dimension, pattern)| match known(who, *dimension) {
        Some(value) => glob(pattern, value),
        None => depends(who, *dimension),
    })
}

/// Whether the next call may have another value there than this request.
fn depends(who: &Attribution, dimension: Dimension) -> bool {
    let said = who.dimension(dimension).is_some();
    match dimension {
        Dimension::Provider | Dimension::Model | Dimension::PromptClass => true,
        Dimension::Workflow | Dimension::Run | Dimension::Agent => !said,
        _ => false,
    }
}

/// A budget as its caller may see it.
fn own_budget(budget: &Budget, balance: &Balance, who: &Attribution) -> serde_json::Value {
    let limit = balance.allowance.total();
    let used = balance.posted.saturating_add(balance.held);
    let own = |d: Dimension, value: &str| budget.matches.get(&d).is_some_and(|pattern| pattern == value);
    let whole = own(Dimension::Service, &who.service) || own(Dimension::Credential, &who.credential);
    let some: Vec<String> = budget
        .matches
        .iter()
        .filter(|(d, _)| known(who, **d).is_none())
        .map(|(d, pattern)| format!("{d}={pattern}"))
        .collect();
    let usd = budget.limit.metric == Metric::Usd;
    let show = |amount: i128| if usd { Money(amount).to_string() } else { amount.to_string() };
    let name = |name: &str| if usd { format!("{name}_usd") } else { name.to_owned() };
    let mut row = json!({
        "budget": budget.id, "period": balance.period, "enforcement": budget.enforcement,
        "resets_at": balance.end, "shared": !whole,
    });
    row[name("remaining")] = show(limit.saturating_sub(used)).into();
    if !usd {
        let metric = match budget.limit.metric {
            Metric::Usd => "usd",
            Metric::Tokens => "tokens",
            Metric::Calls => "calls",
            Metric::ToolCalls => "tool_calls",
        };
        row["metric"] = metric.into();
    }
    if !some.is_empty() {
        // It counts only those of the caller's calls that have this.
        row["only"] = some.into();
    }
    if whole {
        row[name("limit")] = show(limit).into();
        row[name("spent")] = show(balance.posted).into();
        row[name("held")] = show(balance.held).into();
        row["percent"] = percent_used(used, limit).into();
    }
    row
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
