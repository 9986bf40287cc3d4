//! What a person does to an alert: has seen it, says it is over, has a delivery tried again. Each an entry with a reason.

use crate::ledger::entry::{Delivery, DeliveryStep};
use crate::ledger::outbox::{AlertId, Route};
use crate::ledger::request::{Reply, Request};
use crate::store::Ledger;

use super::{By, ControlError};

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertAct {
    Acknowledge,
    Resolve,
    /// A delivery that was given up is tried again.
    TryAgain(Route),
}

/// Does it. To acknowledge and to resolve takes a reason. That there is such an alert is for the caller to know.
pub async fn act_on_alert(ledger: &Ledger, by: &By, id: AlertId, act: AlertAct) -> Result<(), ControlError> {
    let (step, route) = match act {
        AlertAct::Acknowledge => (DeliveryStep::Acknowledged, Route::default()),
        AlertAct::Resolve => (DeliveryStep::Resolved, Route::default()),
        AlertAct::TryAgain(route) => (DeliveryStep::Again, route),
    };
    let reason = by.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_none() && step != DeliveryStep::Again {
        return Err(ControlError::field("reason", "say in a few words what was done about it"));
    }
    if reason.is_some_and(|reason| reason.len() > 1_000) {
        return Err(ControlError::field("reason", "at most 1000 bytes"));
    }
    let delivery =
        Delivery { route: route.clone(), alerts: vec![id], actor: Some(by.actor.clone()), ..Delivery::of(step) };
    let request = Request::Deliver { delivery: Box::new(delivery), reason: reason.map(str::to_owned) };
    match ledger.submit(request).await? {
        Reply::Settled { changed: false, .. } => {
            let what = format!("alert {id} has no delivery to {route} that was given up (any more)");
            Err(ControlError::Conflict(what))
        }
        _ => Ok(()),
    }
}
