//! Alerts: what was raised, whether somebody saw it, and what became of it at every place it went to.
//!
//! What was told is walked through newest first, deliveries before the alerts they are of. An alert fires until somebody
//! acknowledges it, and is resolved when what it was about is over: its period, its forecast, its silence, its key.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::budget::Calendar;
use crate::domain::catalogue::KeyStatus;
use crate::domain::notify::Notify;
use crate::domain::{Catalogue, Micros};
use crate::ledger::entry::{Alert, AlertStage, Body, Delivery, DeliveryStep};
use crate::ledger::outbox::{AlertId, Route};
use crate::store::{AsOf, Ledger, Told};

use super::ReportError;

/// Rows looked through for one answer; what is older is in the journal.
const MOST_LOOKED: usize = 50_000;
/// Rows of one look.
const LOOK: usize = 2_000;
/// Most alerts of one page.
pub const MOST_ALERTS: usize = 500;

/// What an alert is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertState {
    Firing,
    Acknowledged,
    Resolved,
}

impl AlertState {
    pub const ALL: [AlertState; 3] = [AlertState::Firing, AlertState::Acknowledged, AlertState::Resolved];

    pub const fn name(self) -> &'static str {
        ["firing", "acknowledged", "resolved"][self as usize]
    }

    pub fn from_name(name: &str) -> Option<AlertState> {
        AlertState::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Kinds of alerts, as filters take them.
pub const KINDS: [&str; 6] = ["actual", "denied", "overrun", "forecast", "no_data", "key_expiry"];

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertFilter {
    pub budget: Option<String>,
    pub kind: Option<String>,
    pub state: Option<AlertState>,
    /// Only those with a delivery that was given up, or with nowhere to go.
    pub undelivered: bool,
}

impl AlertFilter {
    /// Reads `budget`, `kind`, `state` and `undelivered`. What else a query has is not looked at.
    pub fn read(pairs: &[(String, String)]) -> Result<AlertFilter, ReportError> {
        let mut filter = AlertFilter::default();
        for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "budget" => filter.budget = Some(value.clone()),
                "kind" if KINDS.contains(&value.as_str()) => filter.kind = Some(value.clone()),
                "kind" => return Err(ReportError::invalid("kind", format!("use one of {}", KINDS.join(", ")))),
                "state" => {
                    let state = AlertState::from_name(value);
                    let way_out = "use firing, acknowledged or resolved";
                    filter.state = Some(state.ok_or_else(|| ReportError::invalid("state", way_out))?);
                }
                "undelivered" => filter.undelivered = value == "true",
                _ => {}
            }
        }
        Ok(filter)
    }

    fn takes(&self, row: &AlertRow) -> bool {
        self.budget.as_ref().is_none_or(|b| *b == row.alert.budget)
            && self.kind.as_ref().is_none_or(|k| *k == row.alert.kind)
            && self.state.is_none_or(|s| s == row.state)
            && (!self.undelivered || row.is_undelivered())
    }
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRow {
    pub id: AlertId,
    /// Of its entry.
    pub position: u64,
    pub raised_at: Micros,
    pub alert: Alert,
    pub state: AlertState,
    /// Where it went, and what became of it there.
    pub places: Vec<Place>,
    /// Everything that was written down about it, oldest first, with the position of its entry.
    pub history: Vec<(u64, Micros, Delivery)>,
}

impl AlertRow {
    /// Nobody was told, or somebody who should have been was not.
    pub fn is_undelivered(&self) -> bool {
        let lost = |p: &Place| matches!(p.status, Status::Dead | Status::Undeliverable);
        self.alert.unrouted || self.places.iter().any(lost)
    }
}

/// One place an alert goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub route: Route,
    pub status: Status,
    pub attempts: u16,
    /// When it became so.
    pub at: Option<Micros>,
    pub next_at: Option<Micros>,
    pub detail: Option<String>,
    /// Given up, and still there to be tried again.
    pub may_try_again: bool,
}

/// What became of an alert at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Waiting,
    /// Quiet hours.
    Held,
    Delivered,
    /// Tried again later.
    Failed,
    Dead,
    Moved,
    Undeliverable,
}

impl Status {
    pub const fn name(self) -> &'static str {
        ["waiting", "held", "delivered", "failed", "dead", "moved", "undeliverable"][self as usize]
    }
}

/// A page of alerts, newest first.
#[derive(Clone, Debug, Default)]
pub struct AlertPage {
    pub alerts: Vec<AlertRow>,
    pub next_cursor: Option<String>,
    pub as_of: AsOf,
}

/// A channel, and how it went there last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRow {
    pub notify: Notify,
    /// The newest delivery, failure or test.
    pub last: Option<(Micros, Delivery)>,
    pub waiting: usize,
    pub dead: usize,
}

/// Alerts of a filter, newest first. Blocks.
pub fn alerts(
    ledger: &Ledger,
    filter: &AlertFilter,
    cursor: Option<&str>,
    limit: usize,
) -> Result<AlertPage, ReportError> {
    let before = cursor.map(str::parse::<u64>).transpose().map_err(|_| {
        ReportError::invalid("cursor", "is not one of ours: take `next_cursor` of the page before as it is")
    })?;
    let limit = limit.clamp(1, MOST_ALERTS);
    let as_of = ledger.views().as_of()?;
    let mut found = Vec::new();
    let ended = walk(ledger, &mut |row| {
        if before.is_none_or(|before| row.position < before) && filter.takes(&row) {
            found.push(row);
        }
        found.len() <= limit
    })?;
    let more = found.len() > limit || !ended;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|row| row.position.to_string());
    Ok(AlertPage { alerts: found, next_cursor, as_of })
}

/// One alert. Blocks.
pub fn alert(ledger: &Ledger, id: AlertId) -> Result<Option<AlertRow>, ReportError> {
    let mut found = None;
    walk(ledger, &mut |row| {
        let older = row.id.at < id.at;
        if row.id == id {
            found = Some(row);
        }
        found.is_none() && !older
    })?;
    Ok(found)
}

/// Every declared channel. Blocks.
pub fn channels(ledger: &Ledger) -> Result<Vec<ChannelRow>, ReportError> {
    let (catalogue, outbox) = (ledger.catalogue(), ledger.outbox());
    let mut rows: BTreeMap<String, ChannelRow> = BTreeMap::new();
    for (id, notify) in &catalogue.notify {
        let here = |((_, route), _): &(&(AlertId, Route), &_)| route.channel == *id;
        let (waiting, dead) = (outbox.waiting().filter(here).count(), outbox.dead().filter(here).count());
        rows.insert(id.clone(), ChannelRow { notify: Notify::clone(notify), last: None, waiting, dead });
    }
    each_told(ledger, &mut |told| {
        if let Body::Delivery(delivery) = &told.body
            && matches!(
                delivery.step,
                DeliveryStep::Delivered | DeliveryStep::Failed | DeliveryStep::Dead | DeliveryStep::Test
            )
            && let Some(row) = rows.get_mut(&delivery.route.channel)
        {
            row.last.get_or_insert_with(|| (told.at, Delivery::clone(delivery)));
        }
        rows.values().any(|row| row.last.is_none())
    })?;
    Ok(rows.into_values().collect())
}

/// Visits what was told, newest first, until `visit` says no; false: it broke off because there was too much.
fn each_told(ledger: &Ledger, visit: &mut dyn FnMut(&Told) -> bool) -> Result<bool, ReportError> {
    let (mut before, mut looked) = (None, 0);
    while looked < MOST_LOOKED {
        let told = ledger.told(before, LOOK)?;
        let Some(last) = told.last() else { return Ok(true) };
        (before, looked) = (Some(last.position), looked + told.len());
        if !told.iter().all(|told| visit(told)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Visits alerts, newest first, until `visit` says no.
fn walk(ledger: &Ledger, visit: &mut dyn FnMut(AlertRow) -> bool) -> Result<bool, ReportError> {
    let (catalogue, outbox, now) = (ledger.catalogue(), ledger.outbox(), ledger.clock().now());
    let mut periods = Periods { catalogue: &catalogue, now, known: HashMap::new() };
    let mut about: HashMap<AlertId, Vec<(u64, Micros, Delivery)>> = HashMap::new();
    // What was said to be over, or was said again, after the alerts that come now.
    let mut over: HashSet<(String, String)> = HashSet::new();
    each_told(ledger, &mut |told| match &told.body {
        Body::Delivery(delivery) => {
            for id in &delivery.alerts {
                about.entry(*id).or_default().push((told.position, told.at, Delivery::clone(delivery)));
            }
            true
        }
        Body::Alert(alert) => {
            let whom = (alert.kind.clone(), alert.subject.clone().unwrap_or_else(|| alert.budget.clone()));
            if alert.stage.is_some() {
                if alert.stage == Some(AlertStage::Resolved) {
                    over.insert(whom);
                }
                return true;
            }
            let mut history = about.remove(&told.id).unwrap_or_default();
            history.reverse();
            let ended = over.contains(&whom) || is_over(alert, &catalogue, &mut periods);
            if matches!(alert.kind.as_str(), "forecast" | "no_data" | "key_expiry") {
                over.insert(whom);
            }
            let places = places(told.id, alert, &history, &outbox);
            let state = state(&history, ended);
            let (id, position, raised_at, alert) = (told.id, told.position, told.at, alert.clone());
            visit(AlertRow { id, position, raised_at, alert, state, places, history })
        }
        _ => true,
    })
}

fn state(history: &[(u64, Micros, Delivery)], ended: bool) -> AlertState {
    let has = |step| history.iter().any(|(_, _, d)| d.step == step);
    match () {
        () if ended || has(DeliveryStep::Resolved) => AlertState::Resolved,
        () if has(DeliveryStep::Acknowledged) => AlertState::Acknowledged,
        () => AlertState::Firing,
    }
}

/// The periods that budgets are in, cut when they are first asked for.
struct Periods<'a> {
    catalogue: &'a Catalogue,
    now: Micros,
    known: HashMap<String, Option<String>>,
}

impl Periods<'_> {
    fn of(&mut self, budget: &str) -> Option<&str> {
        if !self.known.contains_key(budget) {
            let calendar = self.catalogue.budgets.get(budget).and_then(|budget| Calendar::of(budget).ok());
            self.known.insert(budget.to_owned(), calendar.map(|calendar| calendar.window(self.now).id));
        }
        self.known.get(budget)?.as_deref()
    }
}

/// Whether what an alert is about is over by itself.
fn is_over(alert: &Alert, catalogue: &Catalogue, periods: &mut Periods<'_>) -> bool {
    match alert.kind.as_str() {
        "key_expiry" => {
            let key = alert.subject.as_ref().and_then(|id| catalogue.keys.get(id));
            key.is_none_or(|key| key.status != KeyStatus::Active || key.expires_at != alert.due)
                || alert.due.is_some_and(|due| due <= periods.now)
        }
        "no_data" => !catalogue.budgets.contains_key(&alert.budget),
        _ => periods.of(&alert.budget).is_none_or(|period| period != alert.period),
    }
}

fn places(
    id: AlertId,
    alert: &Alert,
    history: &[(u64, Micros, Delivery)],
    outbox: &crate::ledger::outbox::Outbox,
) -> Vec<Place> {
    let mut routes: Vec<Route> = alert.routes.clone();
    for to in history.iter().filter_map(|(_, _, d)| d.to.as_ref()) {
        if !routes.contains(to) {
            routes.push(to.clone());
        }
    }
    let place = |route: Route| {
        let mut place = Place {
            route,
            status: Status::Waiting,
            attempts: 0,
            at: None,
            next_at: None,
            detail: None,
            may_try_again: false,
        };
        for (_, at, d) in history.iter().filter(|(_, _, d)| d.route == place.route) {
            let status = match d.step {
                DeliveryStep::Delivered => Status::Delivered,
                DeliveryStep::Failed => Status::Failed,
                DeliveryStep::Dead => Status::Dead,
                DeliveryStep::Held => Status::Held,
                DeliveryStep::Moved => Status::Moved,
                DeliveryStep::Undeliverable => Status::Undeliverable,
                DeliveryStep::Again => Status::Waiting,
                DeliveryStep::Sending | DeliveryStep::Test | DeliveryStep::Acknowledged | DeliveryStep::Resolved => {
                    continue;
                }
            };
            (place.status, place.at, place.next_at) = (status, Some(*at), d.next_at);
            (place.attempts, place.detail) = (d.attempt, d.detail.clone());
        }
        place.may_try_again = outbox.get(id, &place.route).is_some_and(|waiting| waiting.dead);
        place
    };
    routes.into_iter().map(place).collect()
}
