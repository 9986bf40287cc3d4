//! Delivery of alerts: from the outbox in the ledger's state to webhooks, chats, mail and syslog.
//!
//! What is to be told, and where, stands in the journal (`ledger::outbox`); this module sends it and writes down what
//! became of it. [`Notifier::run`] looks twice a second; alerts that go the same way within a few seconds are one message.
//! A message is put together by a DELIVERY entry before it is first sent, so that it is the same message, with the same id,
//! at every attempt and after a restart: a receiver that got it in the instant before a crash can drop the repetition.
//! A failure is tried again later and later, at most [`MOST_ATTEMPTS`] times; then it is a dead letter, which a person may
//! send again. Nothing here decides what an alert is.
//!
//! `words` says it to people, `post`, `mail` and `syslog` carry it, `watch` has the hourly look at forecasts.

mod mail;
mod post;
mod syslog;
#[cfg(test)]
mod tests;
mod watch;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::control::{self, Address};
use crate::domain::notify::{ChannelKind, Notify};
use crate::domain::{Catalogue, Micros};
use crate::gateway::connect::Clients;
use crate::ledger::default_route;
use crate::ledger::entry::{Alert, Delivery, DeliveryStep};
use crate::ledger::outbox::{AlertId, Outbox, Route, Waiting};
use crate::ledger::request::{Reply, Request};
use crate::store::{Ledger, StoreError};

/// How often the outbox is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long a receiver may take.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(15) };
/// Seconds before the next attempt, by attempts so far; a fifth more or less, so that receivers are not asked in step.
const LATER: [i64; 11] = [10, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 14_400, 14_400, 14_400];
/// Attempts before a message is given up: over about twenty hours.
pub const MOST_ATTEMPTS: u16 = LATER.len() as u16 + 1;
/// Alerts in one message.
const MOST_TOGETHER: usize = 50;
/// Messages under way at once.
const MOST_UNDER_WAY: usize = 16;
/// Longest that a receiver's `Retry-After` is followed, in seconds.
const MOST_RETRY_AFTER: i64 = 3_600;

/// Why a message did not get through. The words never have an address or a secret in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSent {
    pub why: String,
    /// Trying again is of no use.
    pub for_good: bool,
    /// Seconds that the receiver asked for.
    pub retry_after: Option<i64>,
}

impl NotSent {
    fn because(why: impl ToString) -> NotSent {
        // What is recorded is short, and one line.
        let why: String = why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        NotSent { why, for_good: false, retry_after: None }
    }
}

/// What goes out at once to one place.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The same at every attempt.
    pub id: String,
    pub at: Micros,
    pub organisation: String,
    pub parts: Vec<Part>,
    /// Somebody asked for it, to see whether it arrives.
    pub test: bool,
}

/// One alert of a message.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Of this alert at this place: by it a receiver knows a repetition.
    pub id: String,
    pub alert: Alert,
    pub raised_at: Micros,
    pub words: words::Words,
}

/// Sends what is to be told. Clones are equal.
#[derive(Clone)]
pub struct Notifier {
    ledger: Ledger,
    clients: Clients,
    /// Where the pages are, for links: `https://weighbridge.example`.
    base: Arc<str>,
    under_way: Arc<Mutex<BTreeSet<Route>>>,
}

/// One message that is due.
struct Job {
    route: Route,
    alerts: Vec<(AlertId, Waiting)>,
    channel: Arc<Notify>,
}

/// What is to be done now.
enum Due {
    Send(Job),
    /// Nothing is sent: the entry says what becomes of it.
    Record(Delivery),
}

impl Notifier {
    /// `base`: URL of the web listener, without a slash at its end.
    pub fn new(ledger: Ledger, base: impl Into<Arc<str>>) -> Notifier {
        Notifier { ledger, clients: Clients::new(), base: base.into(), under_way: Arc::default() }
    }

    /// Delivers until it is told to stop, and looks at forecasts once an hour.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hour = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now = watch::hour_of(self.ledger.clock().now());
            if hour != Some(now) && self.evaluate().await {
                hour = Some(now);
            }
            for due in self.due() {
                let (this, stop) = (self.clone(), stop.clone());
                let Some(place) = self.take_place(&due) else { continue };
                tokio::spawn(async move {
                    tokio::select! {
                        // What was sent and not written down is sent again after the restart, with the same id.
                        () = stop.cancelled() => {}
                        () = this.carry_out(due) => {}
                    }
                    drop(place);
                });
            }
        }
    }

    /// Does everything that is due now, and waits for it.
    pub async fn turn(&self) {
        let due = self.due();
        let all = due.into_iter().filter_map(|due| Some((self.take_place(&due)?, due)));
        let all = all.map(|(place, due)| async move {
            self.carry_out(due).await;
            drop(place);
        });
        futures_util::future::join_all(all).await;
    }

    /// What is due now, at most one thing for each place.
    fn due(&self) -> Vec<Due> {
        let outbox = self.ledger.outbox();
        if outbox.waiting().next().is_none() {
            return Vec::new();
        }
        due(&outbox, &self.ledger.catalogue(), self.ledger.clock().now())
    }

    /// None while something is under way to the same place, or too much at once.
    fn take_place(&self, due: &Due) -> Option<Place> {
        let route = match due {
            Due::Send(job) => &job.route,
            Due::Record(delivery) => &delivery.route,
        };
        let mut under_way = self.under_way();
        let free = under_way.len() < MOST_UNDER_WAY && under_way.insert(route.clone());
        free.then(|| Place { of: self.clone(), route: route.clone() })
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<Route>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out(&self, due: Due) {
        match due {
            Due::Record(delivery) => drop(self.record(delivery, false).await),
            Due::Send(job) => self.send_job(job).await,
        }
    }

    async fn send_job(&self, job: Job) {
        let Job { route, alerts, channel } = job;
        let ids: Vec<AlertId> = alerts.iter().map(|(id, _)| *id).collect();
        let known = alerts.first().and_then(|(_, waiting)| waiting.message.clone());
        let message_id = known.clone().unwrap_or_else(|| message_id(&ids, &route));
        let step = |step| Delivery {
            route: route.clone(),
            alerts: ids.clone(),
            message: Some(message_id.clone()),
            ..Delivery::of(step)
        };
        let to = match self.recipients(&channel, &route).await {
            Ok(Some(address)) => address,
            Ok(None) => return drop(self.record(self.elsewhere(&route, &channel, ids), false).await),
            Err(error) => {
                return tracing::warn!(%error, channel = channel.id, "the address of a channel cannot be read");
            }
        };
        if known.is_none() && self.record(step(DeliveryStep::Sending), false).await.is_err() {
            return;
        }
        let attempt = alerts.first().map_or(0, |(_, w)| w.attempts).saturating_add(1);
        let message = self.message(message_id.clone(), &route, &alerts);
        let result = self.send(&channel, &to, &message).await;
        let now = self.ledger.clock().now();
        let done = match result {
            Ok(()) => Delivery { attempt, ..step(DeliveryStep::Delivered) },
            Err(failed) if failed.for_good || attempt >= MOST_ATTEMPTS => {
                Delivery { attempt, detail: Some(failed.why), ..step(DeliveryStep::Dead) }
            }
            Err(failed) => {
                let next = now.plus_seconds(later(&message_id, attempt, failed.retry_after));
                Delivery { attempt, next_at: Some(next), detail: Some(failed.why), ..step(DeliveryStep::Failed) }
            }
        };
        // Until it is on record nothing else goes to this place: what was delivered must not be sent again.
        drop(self.record(done, true).await);
    }

    /// Writes down what became of something. `insist`: until the journal takes it.
    async fn record(&self, delivery: Delivery, insist: bool) -> Result<Reply, StoreError> {
        let request = Arc::new(Request::Deliver { delivery: Box::new(delivery), reason: None });
        loop {
            match self.ledger.submit_shared(request.clone()).await {
                Err(error) if insist && !matches!(error, StoreError::Closed) => {
                    tracing::warn!(%error, "what became of an alert is not on record yet");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                answer => return answer,
            }
        }
    }

    /// The sealed address of a channel; for an owner with the owner's own in it. None: there is none.
    async fn recipients(&self, channel: &Notify, route: &Route) -> Result<Option<Address>, StoreError> {
        let (ledger, channel, owner) = (self.ledger.clone(), channel.clone(), route.owner.clone());
        let read = tokio::task::spawn_blocking(move || {
            let Some(mut address) = control::address(&ledger, &channel)? else { return Ok(None) };
            if let Some(owner) = owner {
                let kept = ledger.catalogue().owners.get(&owner).and_then(|o| o.email.clone());
                let sealed = control::contact(&ledger, &owner)?.and_then(|c| c.email);
                let Some(mail) = sealed.or(kept) else { return Ok(None) };
                address.to = vec![mail];
            }
            let nobody = channel.kind == ChannelKind::Email && address.to.is_empty();
            Ok((!nobody).then_some(address))
        });
        read.await.map_err(|e| StoreError::Unwritable(e.to_string()))?
    }

    /// What becomes of alerts that their place cannot take: another place, or none.
    fn elsewhere(&self, route: &Route, channel: &Notify, alerts: Vec<AlertId>) -> Delivery {
        let catalogue = self.ledger.catalogue();
        let why = match &route.owner {
            Some(owner) => format!("owner {owner} has no mail address"),
            None => format!("channel {} has no address", channel.id),
        };
        let to =
            default_route(&catalogue).filter(|to| to != route && to.channel != route.channel || route.owner.is_some());
        let to = to.filter(|to| to != route);
        let step = if to.is_some() { DeliveryStep::Moved } else { DeliveryStep::Undeliverable };
        Delivery { route: route.clone(), alerts, to, detail: Some(why), ..Delivery::of(step) }
    }

    fn message(&self, id: String, route: &Route, alerts: &[(AlertId, Waiting)]) -> Message {
        let catalogue = self.ledger.catalogue();
        let parts = alerts.iter().map(|(alert_id, waiting)| Part {
            id: delivery_id(alert_id, route),
            alert: Alert::clone(&waiting.alert),
            raised_at: alert_id.at,
            words: words::words(&waiting.alert, alert_id, &catalogue, &self.base),
        });
        let organisation = catalogue.organisation.name.clone();
        Message { id, at: self.ledger.clock().now(), organisation, parts: parts.collect(), test: false }
    }

    async fn send(&self, channel: &Notify, address: &Address, message: &Message) -> Result<(), NotSent> {
        let sending = async {
            match channel.kind {
                ChannelKind::Email => mail::send(channel, address, message).await,
                ChannelKind::Syslog => syslog::send(channel, message).await,
                _ => post::send(&self.clients, channel, address, message).await,
            }
        };
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(result) => result,
            Err(_) => Err(NotSent::because(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Sends a test message to a channel, at once and once, and records how it went. The answer says why it did not go.
    pub async fn test(
        &self,
        channel: &str,
        actor: &str,
        reason: Option<String>,
    ) -> Result<Result<(), NotSent>, StoreError> {
        let catalogue = self.ledger.catalogue();
        let Some(found) = catalogue.notify.get(channel).cloned() else {
            return Err(StoreError::Refused(format!("notify `{channel}` not found: notify list shows what there is")));
        };
        let route = Route { channel: channel.to_owned(), owner: None };
        let now = self.ledger.clock().now();
        let id = AlertId { at: now, seq: self.ledger.head().size };
        let part = Part {
            id: format!("test-{}", delivery_id(&id, &route)),
            alert: Alert { kind: "test".into(), ..Alert::default() },
            raised_at: now,
            words: words::test(&self.base),
        };
        let organisation = catalogue.organisation.name.clone();
        let message = Message { id: part.id.clone(), at: now, organisation, parts: vec![part], test: true };
        let result = match self.recipients(&found, &route).await? {
            Some(address) => self.send(&found, &address, &message).await,
            None => Err(NotSent::because("the channel has no address of its own to send a test to")),
        };
        let delivery = Delivery {
            route,
            message: Some(message.id),
            detail: Some(result.as_ref().err().map_or_else(|| "delivered".to_owned(), |failed| failed.why.clone())),
            actor: Some(actor.to_owned()),
            attempt: 1,
            ..Delivery::of(DeliveryStep::Test)
        };
        self.ledger.submit(Request::Deliver { delivery: Box::new(delivery), reason }).await?;
        Ok(result)
    }
}

/// A place that something is under way to.
struct Place {
    of: Notifier,
    route: Route,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.under_way().remove(&self.route);
    }
}

/// What an outbox asks for at an instant, at most one thing for each place.
fn due(outbox: &Outbox, catalogue: &Catalogue, now: Micros) -> Vec<Due> {
    let mut by_route: BTreeMap<&Route, Vec<(AlertId, &Waiting)>> = BTreeMap::new();
    for ((id, route), waiting) in outbox.waiting() {
        by_route.entry(route).or_default().push((*id, waiting));
    }
    by_route.into_iter().filter_map(|(route, waiting)| due_at(route, &waiting, catalogue, now)).collect()
}

fn due_at(route: &Route, waiting: &[(AlertId, &Waiting)], catalogue: &Catalogue, now: Micros) -> Option<Due> {
    let Some(channel) = catalogue.notify.get(&route.channel) else {
        let alerts = waiting.iter().map(|(id, _)| *id).take(MOST_TOGETHER).collect();
        let to = default_route(catalogue);
        let step = if to.is_some() { DeliveryStep::Moved } else { DeliveryStep::Undeliverable };
        let detail = Some(format!("channel {} was removed", route.channel));
        return Some(Due::Record(Delivery { route: route.clone(), alerts, to, detail, ..Delivery::of(step) }));
    };
    // Held back first: whoever waits for quiet hours to end is not looked at for anything else.
    let quiet = quiet_until(channel, catalogue, now);
    let wakes = |w: &Waiting| channel.refusals_wake && w.alert.kind == "denied";
    if let Some(until) = quiet {
        let holds = |w: &&(AlertId, &Waiting)| !wakes(w.1) && w.1.next_at < until;
        let held: Vec<AlertId> = waiting.iter().filter(holds).map(|(id, _)| *id).take(MOST_TOGETHER).collect();
        if !held.is_empty() {
            let detail = Some("quiet hours".to_owned());
            let delivery = Delivery { next_at: Some(until), detail, ..Delivery::of(DeliveryStep::Held) };
            return Some(Due::Record(Delivery { route: route.clone(), alerts: held, ..delivery }));
        }
    }
    let job =
        |alerts: Vec<(AlertId, Waiting)>| Due::Send(Job { route: route.clone(), alerts, channel: channel.clone() });
    let may_go = |w: &Waiting| w.next_at <= now && (quiet.is_none() || wakes(w));
    // A message that was put together stays together.
    let begun = waiting.iter().find(|(_, w)| w.message.is_some() && may_go(w));
    if let Some(message) = begun.and_then(|(_, w)| w.message.as_ref()) {
        let same = waiting.iter().filter(|(_, w)| w.message.as_ref() == Some(message));
        return Some(job(same.map(|(id, w)| (*id, Waiting::clone(w))).collect()));
    }
    let fresh: Vec<_> = waiting.iter().filter(|(_, w)| w.message.is_none() && may_go(w)).take(MOST_TOGETHER).collect();
    let group = i64::from(channel.group_s);
    let ripe = |(id, w): &&&(AlertId, &Waiting)| {
        let waited_before = w.next_at != id.at;
        waited_before || id.at.plus_seconds(group) <= now
    };
    let ripe = fresh.len() == MOST_TOGETHER || fresh.iter().any(|item| ripe(&item));
    ripe.then(|| job(fresh.into_iter().map(|(id, w)| (*id, Waiting::clone(w))).collect()))
}

fn quiet_until(channel: &Notify, catalogue: &Catalogue, now: Micros) -> Option<Micros> {
    let quiet = channel.quiet.as_ref()?;
    let zone = quiet.zone.as_deref().unwrap_or(&catalogue.organisation.time_zone);
    quiet.until(now, &TimeZone::get(zone).unwrap_or(TimeZone::UTC))
}

/// By which a receiver knows one alert again.
pub fn delivery_id(alert: &AlertId, route: &Route) -> String {
    match &route.owner {
        Some(owner) => format!("{alert}.{}.{owner}", route.channel),
        None => format!("{alert}.{}", route.channel),
    }
}

/// By which a receiver knows a message again: that of its alert, or of all of them together.
fn message_id(alerts: &[AlertId], route: &Route) -> String {
    if let [one] = alerts {
        return delivery_id(one, route);
    }
    let mut all = Sha256::new();
    alerts.iter().for_each(|id| all.update(delivery_id(id, route)));
    format!("gr-{}", data_encoding::HEXLOWER.encode(&all.finalize()[..16]))
}

/// Seconds until the next attempt. What is added by chance depends on the message alone: another for each, and the same
/// when a test asks again.
fn later(message: &str, attempt: u16, retry_after: Option<i64>) -> i64 {
    let base = LATER[usize::from(attempt.saturating_sub(1)).min(LATER.len() - 1)];
    let hash = Sha256::digest(format!("{message}/{attempt}"));
    let chance = i64::from(hash[0]) - 128;
    let wait = base + base * chance / 640;
    wait.max(retry_after.unwrap_or(0).min(MOST_RETRY_AFTER))
}
