//! What is left to do about alerts: which are still to be delivered and where, which forecasts are being watched, and how
//! far the end of a key was announced. Part of the state, changed by `apply` alone, so that a restart goes on where the
//! journal stands.
//!
//! An alert is routed when it is raised, and its entry says where to; entries of earlier versions say nothing, so nothing
//! that is old is told anew. What was delivered is gone from here and never sent again. Bounded: [`MOST_WAITING`] alerts
//! wait, [`MOST_DEAD`] that could not be delivered are kept to be tried again by hand.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{Alert, AlertStage, Delivery, DeliveryStep};
use crate::domain::Micros;
use crate::domain::catalogue::Map;

/// Deliveries that wait at once. An alert raised beyond it is recorded as not routed.
pub const MOST_WAITING: usize = 10_000;
/// Deliveries given up that are kept, the newest of them.
pub const MOST_DEAD: usize = 1_000;

/// Which alert: journal time and sequence of its entry. In text `al-<microseconds>-<sequence>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlertId {
    pub at: Micros,
    pub seq: u64,
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "al-{}-{}", self.at.0, self.seq)
    }
}

impl FromStr for AlertId {
    type Err = String;
    fn from_str(text: &str) -> Result<AlertId, String> {
        let parts = text.strip_prefix("al-").and_then(|rest| rest.split_once('-'));
        let read = parts.and_then(|(at, seq)| Some(AlertId { at: Micros(at.parse().ok()?), seq: seq.parse().ok()? }));
        read.ok_or_else(|| {
            format!("`{}` is not the id of an alert: they read al-…-…", text.chars().take(60).collect::<String>())
        })
    }
}

/// Where an alert goes: a channel, and by a mail channel perhaps to an owner rather than to the addresses it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    pub channel: String,
    pub owner: Option<String>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{} to {owner}", self.channel),
            None => f.write_str(&self.channel),
        }
    }
}

/// One alert on its way to one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub alert: Arc<Alert>,
    /// Attempts that failed.
    pub attempts: u16,
    /// Not before.
    pub next_at: Micros,
    /// The message it is part of, once one was made.
    pub message: Option<String>,
    /// Given up.
    pub dead: bool,
}

/// A forecast that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub period: String,
    pub stage: Stage,
}

/// How far a forecast alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// At or over the limit once.
    Pending {
        since: Micros,
    },
    Raised,
    /// Raised, and under 95 % since.
    Easing {
        since: Micros,
    },
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    waiting: Map<(AlertId, Route), Arc<Waiting>>,
    dead: Map<(AlertId, Route), Arc<Waiting>>,
    forecasts: Map<String, Watched>,
    /// Budgets that are silent and were said to be.
    silent: Map<String, ()>,
    /// Key → its end and the fewest days before it that were announced.
    warned: Map<String, (Micros, u16)>,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        *self == Outbox::default()
    }

    /// What is still to be delivered, oldest alert first.
    pub fn waiting(&self) -> impl Iterator<Item = (&(AlertId, Route), &Waiting)> {
        self.waiting.iter().map(|(key, waiting)| (key, &**waiting))
    }

    /// What was given up, oldest alert first.
    pub fn dead(&self) -> impl Iterator<Item = (&(AlertId, Route), &Waiting)> {
        self.dead.iter().map(|(key, waiting)| (key, &**waiting))
    }

    /// A delivery that waits or was given up.
    pub fn get(&self, id: AlertId, route: &Route) -> Option<&Waiting> {
        let key = (id, route.clone());
        self.waiting.get(&key).or_else(|| self.dead.get(&key)).map(|waiting| &**waiting)
    }

    /// How many deliveries there is room for.
    pub fn room(&self) -> usize {
        MOST_WAITING.saturating_sub(self.waiting.len())
    }

    /// How far the forecast of a budget's period is watched.
    pub fn stage(&self, budget: &str, period: &str) -> Option<Stage> {
        self.forecasts.get(budget).filter(|watched| watched.period == period).map(|watched| watched.stage)
    }

    pub fn is_silent(&self, budget: &str) -> bool {
        self.silent.contains_key(budget)
    }

    /// The fewest days before its end that were announced for a key with this end.
    pub fn warned(&self, key: &str, ends: Micros) -> Option<u16> {
        self.warned.get(key).filter(|(end, _)| *end == ends).map(|(_, days)| *days)
    }

    /// Takes an ALERT in.
    pub(super) fn raised(&mut self, id: AlertId, alert: &Alert) {
        match alert.kind.as_str() {
            "forecast" => self.foreseen(id.at, alert),
            "no_data" if alert.stage.is_none() => drop(self.silent.insert(alert.budget.clone(), ())),
            "no_data" => drop(self.silent.remove(&alert.budget)),
            "key_expiry" => self.announced(id.at, alert),
            _ => {}
        }
        if alert.stage.is_some() {
            return;
        }
        let shared = Arc::new(alert.clone());
        for route in &alert.routes {
            let (alert, next_at) = (shared.clone(), id.at);
            let waiting = Waiting { alert, attempts: 0, next_at, message: None, dead: false };
            self.waiting.insert((id, route.clone()), Arc::new(waiting));
        }
    }

    fn foreseen(&mut self, at: Micros, alert: &Alert) {
        let stage = match alert.stage {
            None | Some(AlertStage::Standing) => Stage::Raised,
            Some(AlertStage::Pending) => Stage::Pending { since: at },
            Some(AlertStage::Easing) => Stage::Easing { since: at },
            Some(AlertStage::Cleared | AlertStage::Resolved) => return drop(self.forecasts.remove(&alert.budget)),
        };
        self.forecasts.insert(alert.budget.clone(), Watched { period: alert.period.clone(), stage });
    }

    fn announced(&mut self, at: Micros, alert: &Alert) {
        // What has ended is not announced again.
        let ended: Vec<String> =
            self.warned.iter().filter(|(_, (ends, _))| *ends <= at).map(|(key, _)| key.clone()).collect();
        for key in &ended {
            self.warned.remove(key);
        }
        if let (Some(key), Some(ends), Some(days)) = (&alert.subject, alert.due, alert.threshold) {
            self.warned.insert(key.clone(), (ends, days));
        }
    }

    /// Takes a DELIVERY in.
    pub(super) fn delivery(&mut self, at: Micros, delivery: &Delivery) {
        for id in &delivery.alerts {
            self.step((*id, delivery.route.clone()), at, delivery);
        }
    }

    fn step(&mut self, key: (AlertId, Route), at: Micros, delivery: &Delivery) {
        let change = |waiting: &mut Arc<Waiting>, change: &dyn Fn(&mut Waiting)| change(Arc::make_mut(waiting));
        match delivery.step {
            DeliveryStep::Delivered | DeliveryStep::Undeliverable => {
                self.waiting.remove(&key);
            }
            DeliveryStep::Sending => {
                if let Some(waiting) = self.waiting.get_mut(&key) {
                    change(waiting, &|w| w.message = delivery.message.clone());
                }
            }
            DeliveryStep::Failed => {
                if let Some(waiting) = self.waiting.get_mut(&key) {
                    change(waiting, &|w| (w.attempts, w.next_at) = (delivery.attempt, delivery.next_at.unwrap_or(at)));
                }
            }
            DeliveryStep::Held => {
                if let Some(waiting) = self.waiting.get_mut(&key) {
                    change(waiting, &|w| w.next_at = delivery.next_at.unwrap_or(at));
                }
            }
            DeliveryStep::Moved => {
                if let (Some(mut waiting), Some(to)) = (self.waiting.remove(&key), &delivery.to) {
                    change(&mut waiting, &|w| (w.attempts, w.message, w.next_at) = (0, None, at));
                    self.waiting.insert((key.0, to.clone()), waiting);
                }
            }
            DeliveryStep::Dead => {
                if let Some(mut waiting) = self.waiting.remove(&key) {
                    change(&mut waiting, &|w| (w.attempts, w.dead) = (delivery.attempt, true));
                    self.dead.insert(key, waiting);
                    while self.dead.len() > MOST_DEAD {
                        self.dead = self.dead.without_min().1;
                    }
                }
            }
            DeliveryStep::Again => {
                if let Some(mut waiting) = self.dead.remove(&key) {
                    change(&mut waiting, &|w| (w.attempts, w.message, w.next_at, w.dead) = (0, None, at, false));
                    self.waiting.insert(key, waiting);
                }
            }
            DeliveryStep::Test | DeliveryStep::Acknowledged | DeliveryStep::Resolved => {}
        }
    }

    /// A budget is gone: nothing of it is watched. What is on its way is still told.
    pub(super) fn forget(&mut self, budget: &str) {
        self.forecasts.remove(budget);
        self.silent.remove(budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_named_by_when_it_was_raised_and_where_it_stands() {
        let id = AlertId { at: Micros(1_795_456_800_000_000), seq: 42 };
        assert_eq!(id.to_string(), "al-1795456800000000-42");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "al-", "al-1", "al-x-1", "1-2"] {
            assert!(wrong.parse::<AlertId>().is_err(), "{wrong}");
        }
    }
}
