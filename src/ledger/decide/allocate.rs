//! The decision on what an operator allocates to a budget: raises, resets, break-glass grants.

use super::{Decision, because, nothing};
use crate::domain::{Allocation, AllocationKind, Code, Micros};
use crate::ledger::allot::MOST_ALLOCATIONS;
use crate::ledger::entry::{Body, NewEntry};
use crate::ledger::request::{Allocate, Denied, Reply};
use crate::ledger::standing::Standing;
use crate::ledger::state::State;

pub(super) fn allocate(
    state: &State,
    at: Micros,
    actor: &str,
    budget: &str,
    what: &Allocate,
    reason: Option<&str>,
) -> Decision {
    let made = match state.standing(budget, at) {
        Some(standing) => allocation(state, at, &standing, what),
        None => Err(format!("budget `{budget}` is not declared")),
    };
    match made {
        Ok(allocation) => {
            let body = Body::Allocate { actor: actor.to_owned(), budget: budget.to_owned(), allocation };
            let entries = vec![NewEntry { body, reference: None, erasable: because(reason) }];
            Decision { entries, reply: Reply::Recorded { seq: state.next_seq() } }
        }
        Err(message) => {
            let (seq, code) = (state.next_seq(), Code::Malformed);
            let denied = Denied { seq, at, code, by: None, message, resets_at: None, remaining: None };
            Decision { reply: Reply::Denied(denied), ..nothing() }
        }
    }
}

fn allocation(state: &State, at: Micros, standing: &Standing, what: &Allocate) -> Result<Allocation, String> {
    let id = &standing.budget.id;
    let in_force = state.allocated(id).iter().filter(|a| a.in_force(at)).count();
    if in_force >= MOST_ALLOCATIONS {
        return Err(format!(
            "budget `{id}` has {in_force} raises, resets and grants in force: change its limit instead"
        ));
    }
    let later = |until: Micros| match until > at {
        true => Ok(Some(until)),
        false => Err(format!("`{until}` has passed: give an instant to come")),
    };
    match *what {
        Allocate::Raise { by, .. } if by <= 0 => Err(format!("budget `{id}` is raised by more than 0")),
        Allocate::Raise { by, until } => {
            let until = later(until)?;
            Ok(Allocation { kind: AllocationKind::Raise, amount: by, period: None, until })
        }
        Allocate::Reset => {
            let amount = standing.posted.saturating_sub(standing.allowance.reset);
            if amount <= 0 {
                return Err(format!("budget `{id}` has nothing posted that a reset would give back"));
            }
            let period = Some(standing.window.id.clone());
            Ok(Allocation { kind: AllocationKind::Reset, amount, period, until: standing.window.end })
        }
        Allocate::Grant { .. } if standing.budget.grace_pct.unwrap_or(0) == 0 => {
            Err(format!("budget `{id}` has no band above its limit: declare `grace_pct` first, or raise it"))
        }
        Allocate::Grant { until } => {
            let until = later(until)?;
            Ok(Allocation { kind: AllocationKind::Grant, amount: 0, period: None, until })
        }
    }
}
