//! The decision on alerts: where one goes, which forecasts, silences and ends of keys are told, and what became of what was
//! sent. All of it from the state and the request, so that a restart repeats nothing and forgets nothing.

use super::decide::{Decision, because, entry};
use super::entry::{Alert, AlertStage, Body, Delivery, DeliveryStep, NewEntry};
use super::outbox::{Route, Stage};
use super::request::{Evaluation, Reply};
use super::state::State;
use crate::domain::catalogue::KeyStatus;
use crate::domain::notify::{ChannelKind, Notify};
use crate::domain::time::SECOND;
use crate::domain::{Budget, Catalogue, Dimension, Micros};

/// Microseconds of an hour and a day.
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// How long a forecast has to stay under 95 % of the limit before it may alert again.
const EASED_FOR: i64 = DAY;
/// Days before a key's end that are announced, fewest first.
pub const KEY_WARNINGS: [u16; 4] = [1, 7, 14, 30];
/// Most alerts in one message, and most entries of one request.
pub const MOST_AT_ONCE: usize = 200;

/// Where the alerts of a budget go: to the channels it names; else to the owner of what it is about, by mail; else to the
/// default channel. Nowhere: an empty list.
pub(super) fn routes_of(catalogue: &Catalogue, budget: &Budget) -> Vec<Route> {
    let named = budget.notify.iter().filter(|id| catalogue.notify.contains_key(*id));
    let named: Vec<Route> = named.map(|id| Route { channel: id.clone(), owner: None }).collect();
    if named.is_empty() { routes_to(catalogue, owner_of(catalogue, budget)) } else { named }
}

/// To an owner by mail, or to the default channel.
fn routes_to(catalogue: &Catalogue, owner: Option<&str>) -> Vec<Route> {
    let by_mail = owner.and_then(|owner| {
        let channel = mail_channel(catalogue)?.id.clone();
        Some(Route { channel, owner: Some(owner.to_owned()) })
    });
    by_mail.or_else(|| default_route(catalogue)).into_iter().collect()
}

/// The channel that takes what nobody else is named for.
pub fn default_route(catalogue: &Catalogue) -> Option<Route> {
    let default = catalogue.notify.values().find(|n| n.default)?;
    Some(Route { channel: default.id.clone(), owner: None })
}

/// The mail channel that carries what goes to owners: the default one, else the first.
fn mail_channel(catalogue: &Catalogue) -> Option<&Notify> {
    let mail = || catalogue.notify.values().filter(|n| n.kind == ChannelKind::Email);
    mail().find(|n| n.default).or_else(|| mail().next()).map(|n| &**n)
}

/// Who answers for what a budget is about, where its `match` says so without a doubt.
pub fn owner_of<'a>(catalogue: &'a Catalogue, budget: &'a Budget) -> Option<&'a str> {
    let exact = |d| budget.matches.get(&d).filter(|v| !v.contains('*')).map(String::as_str);
    let of_service = |service: &str| catalogue.services.get(service).map(|s| s.owner.as_str());
    if let Some(owner) = exact(Dimension::Owner) {
        return Some(owner);
    }
    if let Some(service) = exact(Dimension::Service).or_else(|| exact(Dimension::Principal)) {
        return of_service(service);
    }
    if let Some(key) = exact(Dimension::Credential).and_then(|key| catalogue.keys.get(key)) {
        return of_service(&key.service);
    }
    let application = exact(Dimension::Application)?;
    let mut owners = catalogue.services.values().filter(|s| s.application == application).map(|s| s.owner.as_str());
    let first = owners.next()?;
    owners.all(|other| other == first).then_some(first)
}

/// An alert with where it goes: nowhere, too, where more wait than there is room for.
pub(super) fn routed(state: &State, alert: Alert, routes: Vec<Route>, in_block: usize) -> Body {
    let fits = state.outbox().room() >= in_block.saturating_add(routes.len());
    let routes = if fits { routes } else { Vec::new() };
    Body::Alert(Alert { unrouted: routes.is_empty(), routes, ..alert })
}

/// How many deliveries the alerts of a block ask for.
pub(super) fn asked_for(entries: &[NewEntry]) -> usize {
    let of = |e: &NewEntry| if let Body::Alert(alert) = &e.body { alert.routes.len() } else { 0 };
    entries.iter().map(of).sum()
}

/// What an hourly look at forecasts, silences and the ends of keys gives.
pub(super) fn evaluate(state: &State, at: Micros, evaluation: &Evaluation) -> Decision {
    let mut entries = Vec::new();
    for outlook in &evaluation.outlooks {
        let Some(budget) = state.catalogue().budgets.get(&outlook.budget) else { continue };
        // A period that has turned since was looked at as another one.
        if entries.len() + 2 > MOST_AT_ONCE || state.period_of(&budget.id, at).as_deref() != Some(&outlook.period) {
            continue;
        }
        let about = Alert {
            budget: budget.id.clone(),
            period: outlook.period.clone(),
            used: Some(outlook.used),
            limit: Some(outlook.limit),
            foreseen: outlook.foreseen,
            ..Alert::default()
        };
        if let Some(foreseen) = outlook.foreseen {
            let stage = state.outbox().stage(&budget.id, &outlook.period);
            let over = foreseen >= outlook.limit && outlook.limit > 0;
            let eased = foreseen.saturating_mul(100) < outlook.limit.saturating_mul(95);
            // What is used up already is told by `actual`: no forecast is needed for it.
            let spent = outlook.used >= outlook.limit;
            if let Some(turn) = turn(stage, at, over, eased).filter(|turn| turn.is_some() || !spent) {
                let alert = Alert { kind: "forecast".into(), stage: turn, ..about.clone() };
                push(state, budget, alert, &mut entries);
            }
        }
        if outlook.silent != state.outbox().is_silent(&budget.id) {
            let stage = (!outlook.silent).then_some(AlertStage::Resolved);
            push(state, budget, Alert { kind: "no_data".into(), stage, foreseen: None, ..about }, &mut entries);
        }
    }
    for key in &evaluation.keys {
        if entries.len() < MOST_AT_ONCE
            && let Some(alert) = key_warning(state, at, key)
        {
            let service = state.catalogue().keys.get(key).map(|k| k.service.as_str()).unwrap_or_default();
            let owner = state.catalogue().services.get(service).map(|s| s.owner.as_str());
            let routes = routes_to(state.catalogue(), owner);
            let asked = asked_for(&entries);
            entries.push(entry(routed(state, alert, routes, asked), None));
        }
    }
    Decision { entries, reply: Reply::Recorded { seq: state.next_seq() } }
}

fn push(state: &State, budget: &Budget, alert: Alert, entries: &mut Vec<NewEntry>) {
    let body = match alert.stage {
        Some(_) => Body::Alert(alert),
        None => routed(state, alert, routes_of(state.catalogue(), budget), asked_for(entries)),
    };
    entries.push(entry(body, None));
}

/// The next step of a watched forecast: `Some(None)` raises the alert, none changes nothing. An evaluation of the same
/// hour is the same evaluation, so that a restart does not count it twice.
fn turn(stage: Option<Stage>, at: Micros, over: bool, eased: bool) -> Option<Option<AlertStage>> {
    let hour = |at: Micros| at.0.div_euclid(HOUR);
    match stage {
        None if over => Some(Some(AlertStage::Pending)),
        Some(Stage::Pending { since }) if hour(at) > hour(since) => {
            Some(if over { None } else { Some(AlertStage::Cleared) })
        }
        Some(Stage::Raised) if eased => Some(Some(AlertStage::Easing)),
        Some(Stage::Easing { .. }) if !eased => Some(Some(AlertStage::Standing)),
        Some(Stage::Easing { since }) if at.0 - since.0 >= EASED_FOR => Some(Some(AlertStage::Resolved)),
        _ => None,
    }
}

/// That a key ends soon, once for each number of days that is announced; of several that are due only the fewest. A key
/// that lives no longer than that many days is not announced on the day it is made.
pub fn key_warning(state: &State, at: Micros, id: &str) -> Option<Alert> {
    let key = state.catalogue().keys.get(id).filter(|key| key.status == KeyStatus::Active)?;
    let ends = key.expires_at.filter(|ends| *ends > at)?;
    let days = due(at, key.created_at, ends)?;
    if state.outbox().warned(id, ends).is_some_and(|told| told <= days) {
        return None;
    }
    Some(Alert {
        kind: "key_expiry".into(),
        threshold: Some(days),
        subject: Some(id.to_owned()),
        due: Some(ends),
        ..Alert::default()
    })
}

/// The number of days before its end whose announcement is due for a key.
pub fn due(at: Micros, made: Micros, ends: Micros) -> Option<u16> {
    let within = |from: Micros, days: u16| ends.0.saturating_sub(from.0) <= i64::from(days).saturating_mul(DAY);
    KEY_WARNINGS.into_iter().find(|days| within(at, *days) && !within(made, *days))
}

/// What became of deliveries. Those that are not on their way (any more) are left out; where none is, nothing is written:
/// a result that comes twice is no result.
pub(super) fn deliver(state: &State, delivery: &Delivery, reason: Option<&str>) -> Decision {
    let mut delivery = delivery.clone();
    let waits = |dead: bool| {
        move |id: &super::outbox::AlertId, route: &Route, state: &State| {
            state.outbox().get(*id, route).is_some_and(|waiting| waiting.dead == dead)
        }
    };
    match delivery.step {
        DeliveryStep::Test | DeliveryStep::Acknowledged | DeliveryStep::Resolved => {}
        DeliveryStep::Again => {
            let route = delivery.route.clone();
            delivery.alerts.retain(|id| waits(true)(id, &route, state));
        }
        _ => {
            let route = delivery.route.clone();
            delivery.alerts.retain(|id| waits(false)(id, &route, state));
        }
    }
    delivery.alerts.truncate(MOST_AT_ONCE);
    if delivery.alerts.is_empty() && delivery.step != DeliveryStep::Test {
        return Decision { entries: Vec::new(), reply: Reply::Settled { seq: None, changed: false } };
    }
    let seq = state.next_seq();
    // An alert of an earlier epoch has no entry in this one to refer to.
    let reference = delivery.alerts.first().map(|id| id.seq).filter(|alert| *alert < seq);
    let new = NewEntry { body: Body::Delivery(Box::new(delivery)), reference, erasable: because(reason) };
    Decision { entries: vec![new], reply: Reply::Settled { seq: Some(seq), changed: true } }
}

#[cfg(test)]
mod tests;
