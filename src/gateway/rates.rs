//! Rates of policies: calls and tokens per minute by governor's buckets, calls under way by semaphores.
//!
//! A rate of n per minute is a bucket of n that refills evenly: after a pause n may come at once, in the long run n come a
//! minute. Each key has its own, unless the policy says `per = "service"` or `"policy"`. Tokens are taken before a call by
//! what its input is estimated at and the output such calls have at least; what it used beyond is taken when it is settled,
//! as far as the bucket has it, and what it did not use is not put back. A refused call takes nothing of a budget.
//!
//! A policy with `queue_ms` lets calls wait their turn, first come, first served: so many and so long at most.
//!
//! State is kept by policy, so that other changes of the catalogue do not touch it, and a changed number takes effect on
//! what is there. It lasts as long as the process.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::domain::catalogue::covers;
use crate::domain::policy::{Mode, Per, RuleResult, RuleSeen};
use crate::domain::{Attribution, Code, Policy, Refusal};
use crate::policy::MOST_RULES;

use super::Gateway;
use super::classify::{self, Asked};
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// Most keys or services of one policy that are remembered while they do nothing.
const MOST_IDLE: usize = 10_000;
/// Most calls that wait for their turn at once, all policies together.
const MOST_WAITING: usize = 1_000;
/// Output taken from a bucket of tokens before a call has any, per answer.
const EXPECTED_OUTPUT: u64 = 1_024;
/// What a caller is told to wait for one of the calls under way to end, in seconds.
const FOR_A_PLACE: Duration = Duration::from_secs(2);

type Bucket = DefaultKeyedRateLimiter<String>;

/// Buckets and places of all policies.
pub(super) struct Rates {
    policies: Mutex<HashMap<String, Arc<Limits>>>,
    waiting: Semaphore,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { policies: Mutex::default(), waiting: Semaphore::new(MOST_WAITING) }
    }
}

/// What one policy counts.
#[derive(Default)]
struct Limits {
    calls: Mutex<Option<(u32, Arc<Bucket>)>>,
    tokens: Mutex<Option<(u32, Arc<Bucket>)>>,
    places: Mutex<HashMap<String, Places>>,
    /// Who waits for a bucket stands in a line of its own.
    lines: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Places of one key or service.
struct Places {
    free: Arc<Semaphore>,
    /// Free and taken ones together.
    all: u32,
}

/// What a call holds of rates until it ends. Dropping it gives the places back, once, on whatever way the call ends.
#[derive(Default)]
pub struct Held {
    places: Vec<OwnedSemaphorePermit>,
    tokens: Vec<Taken>,
}

/// Tokens taken out of a bucket ahead of a call.
struct Taken {
    bucket: Arc<Bucket>,
    subject: String,
    most: u32,
    amount: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    /// Takes what the policies' rates ask of a call, waiting for it where they let it wait.
    pub(super) async fn enter(&self, snapshot: &Snapshot, ticket: &mut Ticket, asked: &Asked) -> Result<Held, Refusal> {
        let mut held = Held::default();
        let Some(who) = ticket.who.clone().filter(|_| !snapshot.rated.is_empty()) else { return Ok(held) };
        let model = asked.facts.model.as_deref();
        let of = |d| classify::value(&who, &asked.provider.id, model, d);
        for policy in snapshot.rated.iter().filter(|p| covers(&p.matches, of)) {
            let turn = Turn {
                limits: self.inner.rates.of(policy, &snapshot.rated),
                waiting: &self.inner.rates.waiting,
                policy,
                subject: subject(policy.per, &who),
                deadline: policy.queue_ms.map(|ms| Instant::now() + Duration::from_millis(ms.into())),
            };
            turn.take(ticket, asked, &mut held).await?;
        }
        Ok(held)
    }
}

fn subject(per: Per, who: &Attribution) -> String {
    match per {
        Per::Key => format!("key {}", who.credential),
        Per::Service => format!("service {}", who.service),
        Per::Policy => String::new(),
    }
}

impl Rates {
    fn of(&self, policy: &Policy, rated: &[Arc<Policy>]) -> Arc<Limits> {
        let mut policies = lock(&self.policies);
        if policies.len() > rated.len() {
            policies.retain(|id, _| rated.iter().any(|p| p.id == *id));
        }
        policies.entry(policy.id.clone()).or_default().clone()
    }
}

impl Limits {
    /// The bucket for so many a minute: the one that is there, unless the number is another.
    fn bucket(place: &Mutex<Option<(u32, Arc<Bucket>)>>, most: u32) -> Arc<Bucket> {
        let mut kept = lock(place);
        if let Some((_, bucket)) = kept.as_ref().filter(|(n, _)| *n == most) {
            if bucket.len() > MOST_IDLE {
                bucket.retain_recent();
                bucket.shrink_to_fit();
            }
            return bucket.clone();
        }
        let most_a_minute = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        let bucket = Arc::new(RateLimiter::keyed(Quota::per_minute(most_a_minute)));
        *kept = Some((most, bucket.clone()));
        bucket
    }

    /// The places of a subject, as many as there are to be. Taken ones that are too many go when they are given back.
    fn places(&self, subject: &str, most: u32) -> Arc<Semaphore> {
        let mut places = lock(&self.places);
        if places.len() > MOST_IDLE {
            places.retain(|_, p| p.free.available_permits() < p.all as usize);
        }
        let new = || Places { free: Arc::new(Semaphore::new(most as usize)), all: most };
        let p = places.entry(subject.to_owned()).or_insert_with(new);
        if most > p.all {
            p.free.add_permits((most - p.all) as usize);
            p.all = most;
        } else if most < p.all {
            p.all -= p.free.forget_permits((p.all - most) as usize) as u32;
        }
        p.free.clone()
    }

    fn line(&self, subject: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut lines = lock(&self.lines);
        if lines.len() > MOST_IDLE {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        lines.entry(subject.to_owned()).or_default().clone()
    }
}

/// A call before one policy.
struct Turn<'a> {
    limits: Arc<Limits>,
    waiting: &'a Semaphore,
    policy: &'a Policy,
    subject: String,
    /// Until when it may wait; absent = not at all.
    deadline: Option<Instant>,
}

impl Turn<'_> {
    async fn take(&self, ticket: &mut Ticket, asked: &Asked, held: &mut Held) -> Result<(), Refusal> {
        if let Some(most) = self.policy.max_concurrent {
            let places = self.limits.places(&self.subject, most);
            let place = self.place(places).await;
            let taken = place.map(|place| held.places.push(place)).ok_or(FOR_A_PLACE);
            self.note(ticket, "max_concurrent", format!("{most} calls at once"), taken)?;
        }
        if let Some(most) = self.policy.max_calls_per_minute {
            let bucket = Limits::bucket(&self.limits.calls, most);
            let taken = self.draw(&bucket, 1).await;
            self.note(ticket, "max_calls_per_minute", format!("{most} calls per minute"), taken)?;
        }
        if let Some(most) = self.policy.max_tokens_per_minute {
            let bucket = Limits::bucket(&self.limits.tokens, most);
            // More than the bucket ever has could never be taken: such a call waits for a full one.
            let amount = u32::try_from(expected(asked)).unwrap_or(u32::MAX).clamp(1, most);
            let taken = self.draw(&bucket, amount).await;
            if taken.is_ok() {
                held.tokens.push(Taken { bucket, subject: self.subject.clone(), most, amount });
            }
            self.note(ticket, "max_tokens_per_minute", format!("{most} tokens per minute"), taken)?;
        }
        Ok(())
    }

    async fn place(&self, places: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        // Whoever waits is first in line: the semaphore is fair, and so is this try.
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Some(place);
        }
        let (deadline, _waiting) = (self.deadline?, self.waiting.try_acquire().ok()?);
        timeout_at(deadline, places.acquire_owned()).await.ok()?.ok()
    }

    /// Takes out of a bucket; or for how long it has not enough.
    async fn draw(&self, bucket: &Bucket, amount: u32) -> Result<(), Duration> {
        let Some(deadline) = self.deadline else { return try_draw(bucket, &self.subject, amount) };
        let line = self.limits.line(&self.subject);
        let _turn = match line.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let full = || Duration::from_secs(1);
                let _waiting = self.waiting.try_acquire().map_err(|_| full())?;
                timeout_at(deadline, line.lock_owned()).await.map_err(|_| full())?
            }
        };
        let Err(wait) = try_draw(bucket, &self.subject, amount) else { return Ok(()) };
        if Instant::now() + wait > deadline {
            return Err(wait);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| wait)?;
        tokio::time::sleep(wait).await;
        try_draw(bucket, &self.subject, amount)
    }

    /// Puts the rule on record; refuses where it is broken and in force.
    fn note(&self, ticket: &mut Ticket, rule: &str, most: String, taken: Result<(), Duration>) -> Result<(), Refusal> {
        let by = format!("policy:{}", self.policy.id);
        let result = match (&taken, self.policy.mode) {
            (Ok(()), _) => RuleResult::Allowed,
            (Err(_), Mode::Observe) => RuleResult::Observed,
            (Err(_), Mode::Warn) => RuleResult::Warned,
            (Err(_), Mode::Enforce) => RuleResult::Denied,
        };
        if ticket.rules.len() < MOST_RULES {
            ticket.rules.push(RuleSeen { by: by.clone(), rule: rule.to_owned(), result, note: None });
        }
        let Err(wait) = taken else { return Ok(()) };
        match self.policy.mode {
            Mode::Observe => Ok(()),
            Mode::Warn => {
                if !ticket.warnings.contains(&self.policy.id) {
                    ticket.warnings.push(self.policy.id.clone());
                }
                Ok(())
            }
            Mode::Enforce => {
                let whose = match self.policy.per {
                    Per::Key => "this key".to_owned(),
                    Per::Service => "this service".to_owned(),
                    Per::Policy => "all it covers".to_owned(),
                };
                let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).clamp(1, 30) as u8;
                let id = &self.policy.id;
                let message = format!("Weighbridge: policy '{id}' allows {most} to {whose}. Try again in {seconds} s.");
                let refusal = Refusal::new(Code::RateLimited, message);
                Err(Refusal { by: Some(by), retry_after_s: Some(seconds), ..refusal })
            }
        }
    }
}

fn try_draw(bucket: &Bucket, subject: &String, amount: u32) -> Result<(), Duration> {
    let amount = NonZeroU32::new(amount).unwrap_or(NonZeroU32::MIN);
    match bucket.check_key_n(subject, amount) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(not_until)) => Err(not_until.wait_time_from(DefaultClock::default().now())),
        // The amount was cut to what the bucket has when it is full.
        Err(_) => Err(Duration::from_secs(60)),
    }
}

/// Tokens a call is expected to have at least.
fn expected(asked: &Asked) -> u64 {
    let facts = &asked.facts;
    let input = facts.input_bytes.saturating_mul(2).div_ceil(7).saturating_add(facts.input_allowance);
    let output = asked.cost.output_wanted.min(EXPECTED_OUTPUT).saturating_mul(facts.choices.max(1));
    input.saturating_add(output)
}

impl Held {
    /// The call has used so many tokens: what is more than was taken is taken now, as far as the buckets have it.
    pub(super) fn used(&self, tokens: u64) {
        for taken in &self.tokens {
            let more = tokens.saturating_sub(taken.amount.into());
            let mut more = u32::try_from(more).unwrap_or(u32::MAX).min(taken.most);
            // A bucket gives all of an amount or nothing: ever smaller ones find what it has left.
            let mut part = more;
            while part > 0 && more > 0 {
                match try_draw(&taken.bucket, &taken.subject, part.min(more)) {
                    Ok(()) => more -= part.min(more),
                    Err(_) => part /= 2,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_that_changes_takes_effect_on_what_is_there() {
        let limits = Limits::default();
        let free = limits.places("a", 2);
        let (one, two) = (free.clone().try_acquire_owned().unwrap(), free.clone().try_acquire_owned().unwrap());
        assert!(free.clone().try_acquire_owned().is_err());
        assert!(limits.places("b", 2).try_acquire_owned().is_ok(), "each subject has its own");
        limits.places("a", 3).try_acquire_owned().unwrap().forget();
        // One place is enough from now on, with three taken: only what is beyond three less two comes back.
        assert!(limits.places("a", 1).try_acquire_owned().is_err());
        drop((one, two));
        let after = limits.places("a", 1);
        assert_eq!(after.available_permits(), 0, "the one that is left is still taken");
    }

    #[test]
    fn a_bucket_outlives_a_look_and_ends_with_its_number() {
        let limits = Limits::default();
        let bucket = || Limits::bucket(&limits.calls, 2);
        let subject = "key".to_owned();
        assert!(try_draw(&bucket(), &subject, 2).is_ok());
        let wait = try_draw(&bucket(), &subject, 1).unwrap_err();
        assert!(wait <= Duration::from_secs(30) && wait > Duration::from_secs(25), "{wait:?}");
        assert!(try_draw(&bucket(), &"other".to_owned(), 2).is_ok());
        assert!(try_draw(&Limits::bucket(&limits.calls, 3), &subject, 3).is_ok());
    }

    #[test]
    fn what_a_call_used_beyond_is_taken_as_far_as_there_is_any() {
        let limits = Limits::default();
        let bucket = Limits::bucket(&limits.tokens, 1_000);
        let subject = String::new();
        try_draw(&bucket, &subject, 100).unwrap();
        let held = Held {
            places: vec![],
            tokens: vec![Taken { bucket: bucket.clone(), subject: subject.clone(), most: 1_000, amount: 100 }],
        };
        held.used(50);
        assert!(try_draw(&bucket, &subject, 100).is_ok());
        held.used(5_000);
        assert!(try_draw(&bucket, &subject, 300).is_err(), "most of what was left is gone");
    }
}
