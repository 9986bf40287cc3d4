//! The callers and the upstream: what they ask, and what they have been told.
//!
//! A call reaches the upstream only after it was admitted, and its caller sees the end of the answer only after it was
//! settled; what either of them knows must be in the journal ever after.

use std::collections::BTreeMap;

use crate::domain::catalogue::{KeyStatus, Owner};
use crate::domain::{
    Budget, CallId, Change, Dimension, Enforcement, Environment, Key, Limit, Metric, Micros, Money, Outcome,
    PeriodKind, Service, ServiceKind,
};
use crate::ledger::entry::{Content, Erasable, Network, Opening, Person, Settle};
use crate::ledger::request::{AdmitRequest, Admitted, Reply, Request};
use crate::ledger::testing;
use crate::store::views::samples::Chance;

/// Stands in everything that names a person: it may be on disk only sealed.
pub const PERSON: &str = "Ada-Lovelace-7f3a91";
/// Stands in a provider's secret.
pub const SECRET: &str = "sk-planted-5d02c88e41";

/// A request, and what its answer will mean to whom.
pub struct Asked {
    pub request: Request,
    pub intent: Intent,
}

/// Why something was asked.
#[derive(Clone, Copy, Debug)]
pub enum Intent {
    Call(CallId, u8),
    /// The answer came; its end is held back until this is settled.
    Answer(CallId, u8),
    Other,
}

/// What a caller and the upstream know of an attempt.
#[derive(Clone, Debug)]
pub struct Known {
    /// The ADMIT they were told of; the upstream has had the request since.
    pub admit: u64,
    pub hold: Money,
    /// What the provider bills, once it has answered.
    pub cost: Option<Money>,
    /// The SETTLE, once the caller has the whole answer.
    pub seen: Option<u64>,
    pub job: bool,
    /// The connection is there (or it is a job, which has none).
    pub alive: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    fixed: i128,
    per_token: i128,
    input: u64,
}

/// Everybody outside, and the chance they act by.
pub struct Callers {
    pub calls: BTreeMap<(CallId, u8), Known>,
    asked: BTreeMap<(CallId, u8), (bool, Bound)>,
    /// The newest calls, to come back to.
    recent: Vec<(CallId, u8)>,
    next: u128,
    jobs: u64,
    revision: u64,
    /// Nothing else was asked in this block so far, and all that was recorded is known.
    sure: bool,
}

const SERVICES: [&str; 3] = ["svc", "bot", "etl"];

impl Callers {
    pub fn new() -> Callers {
        Callers {
            calls: BTreeMap::new(),
            asked: BTreeMap::new(),
            recent: Vec::new(),
            next: 1,
            jobs: 0,
            revision: 0,
            sure: true,
        }
    }

    /// What an organisation declares on its first day.
    pub fn first_day(&mut self, chance: &mut Chance) -> Request {
        let mut changes = vec![Change::Provider("openai".into(), Some(testing::provider()))];
        for (n, id) in SERVICES.into_iter().enumerate() {
            changes.push(Change::Owner(format!("owner-{n}"), Some(owner(n, 0))));
            changes.push(Change::Service(id.into(), Some(service(id, n))));
            changes.push(Change::Key(key_id(n), Some(key(n, KeyStatus::Active))));
        }
        for n in 0..BUDGETS {
            if chance.below(3) > 0 {
                let budget = budget(n, chance);
                changes.push(Change::Budget(budget.id.clone(), Some(budget)));
            }
        }
        Request::Declare { actor: "setup".into(), changes, openings: vec![], reason: Some(PERSON.into()) }
    }

    /// A few requests that arrive together. `sure`: what was recorded so far is known.
    pub fn ask(&mut self, chance: &mut Chance, at: Micros, sure: bool) -> Vec<Asked> {
        let many = [1, 1, 1, 2, 3, 8][chance.below(6) as usize];
        let one = |n| {
            self.sure = sure && n == 0;
            self.one(chance, at)
        };
        (0..many).map(one).collect()
    }

    fn one(&mut self, chance: &mut Chance, at: Micros) -> Asked {
        match chance.below(100) {
            0..=39 => self.call(chance, at),
            40..=76 => self.answer(chance).unwrap_or_else(|| self.call(chance, at)),
            77..=80 => self.answer_again(chance),
            81..=82 => self.call_again(chance, at),
            83..=86 => self.job(chance),
            87..=88 => self.refused_at_the_edge(chance, at),
            89..=92 => Asked { request: self.declare(chance), intent: Intent::Other },
            93..=94 => other(Request::ExpireLeases),
            95..=96 => other(Request::Gap { reason: "clock".into(), count: 0, quotes: None }),
            _ => other(Request::Admin {
                actor: "operator:ada".into(),
                action: "signed in".into(),
                subject: None,
                reason: Some(format!("{PERSON} asked for it")),
            }),
        }
    }

    fn call(&mut self, chance: &mut Chance, at: Micros) -> Asked {
        let call = CallId(self.next);
        self.next += 1;
        let bound =
            Bound { fixed: chance.below(2_000).into(), per_token: chance.below(3).into(), input: chance.below(500) };
        let mut request = self.admit(call, &bound, chance, at);
        let retry = chance.below(20) == 0;
        request.admit.retry_of = retry.then(|| self.recent.last().map(|(call, _)| *call)).flatten();
        self.ask_for(call, 1, bound, request)
    }

    fn ask_for(&mut self, call: CallId, attempt: u8, bound: Bound, mut request: AdmitRequest) -> Asked {
        request.admit.attempt = attempt;
        self.asked.insert((call, attempt), (request.admit.job, bound));
        Asked { request: Request::Admit(Box::new(request)), intent: Intent::Call(call, attempt) }
    }

    fn admit(&self, call: CallId, bound: &Bound, chance: &mut Chance, at: Micros) -> AdmitRequest {
        // All attempts of a call are of one service.
        let n = (call.0 % SERVICES.len() as u128) as usize;
        let mut request = testing::admit(call.0, Money(bound.fixed));
        request.per_output_token = Some(Money(bound.per_token));
        request.output_wanted = chance.below(3_000);
        request.may_limit_output = chance.below(2) == 0;
        request.choices = 1 + chance.below(3);
        let admit = &mut request.admit;
        let mut who = testing::who(SERVICES[n]);
        who.credential = key_id(n);
        who.tenant = Some(format!("tenant-{}", n % 2));
        who.business_unit = format!("bu-{}", n / 2);
        (admit.who, admit.received_at) = (who.into(), at);
        admit.input_bound = bound.input;
        admit.job = chance.below(12) == 0;
        admit.stream = chance.below(2) == 0;
        admit.tools_offered = chance.below(3) as u32;
        admit.lease_until = at.plus_seconds(60 + chance.below(4_000) as i64);
        // Mostly up to date; sometimes the edge judged by an older revision, which makes the ledger look again.
        admit.catalogue_revision = self.revision - (chance.below(8) / 7).min(self.revision);
        let claimed = [("end-user".to_owned(), format!("{PERSON}-{}", call.0))].into();
        request.erasable = Erasable {
            network: Some(Network { peer: Some("192.0.2.7:4711".into()), ..Network::default() }),
            person: Some(Person { claimed, reason: None }),
            content: Some(Content { body: Some([call.0 as u8; 32]) }),
            vendor_usage: None,
        };
        request
    }

    /// One of the newest calls that the upstream has.
    fn open(&self, chance: &mut Chance) -> Option<(CallId, u8)> {
        let open = |of: &&(CallId, u8)| self.calls.get(*of).is_some_and(|known| known.alive && known.seen.is_none());
        let open: Vec<_> = self.recent.iter().filter(open).collect();
        (!open.is_empty()).then(|| *open[chance.below(open.len() as u64) as usize])
    }

    fn answer(&mut self, chance: &mut Chance) -> Option<Asked> {
        let of = self.open(chance)?;
        let known = self.calls.get_mut(&of)?;
        let hold = known.hold.0;
        let cost = *known.cost.get_or_insert_with(|| {
            // Mostly under the hold; sometimes all of it, more than it, or nothing.
            let percent = [10, 40, 60, 90, 100, 100, 105, 130, 0][chance.below(9) as usize];
            Money(hold * percent / 100)
        });
        let failed = chance.below(20) == 0;
        let mut settle = testing::settle(Some(cost), chance.below(3_000));
        settle.tools_called = chance.below(3) as u32;
        if failed {
            (settle.outcome, settle.http_status) = (Outcome::Cancelled, None);
        }
        settle.response_id = Some(format!("resp_{}_{}", of.0.0, of.1));
        Some(answer(of, settle))
    }

    /// A settlement that was made before is asked for once more, at another cost.
    fn answer_again(&mut self, chance: &mut Chance) -> Asked {
        let Some(of) = self.some_recent(chance) else { return other(Request::ExpireLeases) };
        let seen = self.calls.get(&of).is_none_or(|known| known.seen.is_some());
        if !seen {
            return other(Request::ExpireLeases);
        }
        let settle = Settle { cost: Some(Money(7)), ..testing::settle(Some(Money(7)), 7) };
        Asked { intent: Intent::Other, ..answer(of, settle) }
    }

    /// An attempt that is under way is asked for once more; or a call goes on with its next attempt.
    fn call_again(&mut self, chance: &mut Chance, at: Micros) -> Asked {
        let Some((call, attempt)) = self.some_recent(chance) else { return other(Request::ExpireLeases) };
        let bound = Bound { fixed: 100, per_token: 1, input: 10 };
        let open = self.calls.get(&(call, attempt)).is_some_and(|known| known.alive && known.seen.is_none());
        let next = attempt + 1;
        if open {
            // An id is never used again once its attempt may have ended: this is a request that arrives twice.
            if !self.sure {
                return other(Request::ExpireLeases);
            }
            let request = self.admit(call, &bound, chance, at);
            let mut asked = self.ask_for(call, attempt, bound, request);
            asked.intent = Intent::Other;
            return asked;
        }
        if next > 3 || self.calls.contains_key(&(call, next)) || self.asked.contains_key(&(call, next)) {
            return other(Request::ExpireLeases);
        }
        let request = self.admit(call, &bound, chance, at);
        self.ask_for(call, next, bound, request)
    }

    fn some_recent(&self, chance: &mut Chance) -> Option<(CallId, u8)> {
        (!self.recent.is_empty()).then(|| self.recent[chance.below(self.recent.len() as u64) as usize])
    }

    fn job(&mut self, chance: &mut Chance) -> Asked {
        let Some((call, attempt)) = self.open(chance) else { return other(Request::ExpireLeases) };
        self.jobs += 1;
        let state = ["queued", "in_progress"][chance.below(2) as usize];
        let vendor_id = format!("resp_{}", if chance.below(2) == 0 { call.0 } else { self.jobs.into() });
        let request = Request::Job { call, attempt, vendor_id, state: state.into() };
        Asked { request, intent: Intent::Other }
    }

    fn refused_at_the_edge(&mut self, chance: &mut Chance, at: Micros) -> Asked {
        let call = CallId(self.next);
        self.next += 1;
        let who = testing::who(SERVICES[chance.below(3) as usize]);
        let mut deny = crate::store::views::samples::deny(call, Some(who), 1);
        deny.received_at = at;
        let claimed = [("end-user".to_owned(), PERSON.to_owned())].into();
        let person = Some(Person { claimed, reason: None });
        let erasable = Box::new(Erasable { person, ..Erasable::default() });
        other(Request::Deny { deny: Box::new(deny), erasable })
    }

    fn declare(&mut self, chance: &mut Chance) -> Request {
        let mut openings = Vec::new();
        let n = chance.below(SERVICES.len() as u64) as usize;
        let change = match chance.below(12) {
            0..=6 => {
                let budget = budget(chance.below(BUDGETS), chance);
                if budget.period == PeriodKind::Total {
                    let opening = Opening { period: "total".into(), posted: chance.below(3_000).into() };
                    openings.push((budget.id.clone(), opening));
                }
                Change::Budget(budget.id.clone(), Some(budget))
            }
            7 => Change::Budget(budget(chance.below(BUDGETS), chance).id, None),
            8 => Change::Owner(format!("owner-{n}"), Some(owner(n, chance.below(100)))),
            9 => {
                let status = if chance.below(3) == 0 { KeyStatus::Suspended } else { KeyStatus::Active };
                Change::Key(key_id(n), Some(key(n, status)))
            }
            _ => Change::Key(key_id(n), Some(key(n, KeyStatus::Active))),
        };
        let reason = Some(format!("because {PERSON} said so"));
        Request::Declare { actor: "operator:ada".into(), changes: vec![change], openings, reason }
    }

    /// What the answer means to who asked. `died`: the answer never came.
    pub fn told(&mut self, intent: Intent, reply: Option<&Reply>) -> Result<(), String> {
        match (intent, reply) {
            (Intent::Call(call, attempt), Some(Reply::Admitted(admitted))) => self.admitted(call, attempt, admitted),
            (Intent::Answer(call, attempt), Some(Reply::Settled { seq: Some(seq), changed: true })) => {
                if let Some(known) = self.calls.get_mut(&(call, attempt)) {
                    known.seen = Some(*seq);
                }
                Ok(())
            }
            (Intent::Answer(call, attempt), Some(Reply::Settled { changed: false, .. })) => {
                // Its lease had run out, or an earlier try was recorded after all: nobody reads on.
                if let Some(known) = self.calls.get_mut(&(call, attempt)) {
                    known.alive = false;
                }
                Ok(())
            }
            (_, Some(Reply::Declared { revision })) => {
                self.revision = *revision;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn admitted(&mut self, call: CallId, attempt: u8, admitted: &Admitted) -> Result<(), String> {
        let Some((job, bound)) = self.asked.get(&(call, attempt)).copied() else {
            return Err(format!("call {} was never asked for", call.0));
        };
        if admitted.hold.0 < bound.fixed {
            return Err(format!("call {} holds {} and may cost {bound:?}", call.0, admitted.hold));
        }
        let known = Known { admit: admitted.seq, hold: admitted.hold, cost: None, seen: None, job, alive: true };
        if let Some(before) = self.calls.insert((call, attempt), known) {
            return Err(format!("attempt {attempt} of call {} was admitted twice: {before:?}", call.0));
        }
        self.recent.push((call, attempt));
        if self.recent.len() > 40 {
            self.recent.remove(0);
        }
        Ok(())
    }

    /// The process is gone, and with it every connection. Jobs run on at the vendor.
    pub fn cut_off(&mut self) {
        for known in self.calls.values_mut() {
            known.alive &= known.job;
        }
    }

    /// The attempt has ended, whoever ended it.
    pub fn ended(&mut self, attempt: (CallId, u8)) {
        if let Some(known) = self.calls.get_mut(&attempt) {
            known.alive = false;
        }
    }

    /// What decides by revisions knows the newest one again.
    pub fn learn(&mut self, revision: u64) {
        self.revision = revision;
    }
}

fn other(request: Request) -> Asked {
    Asked { request, intent: Intent::Other }
}

fn answer((call, attempt): (CallId, u8), settle: Settle) -> Asked {
    let request = Request::Settle { call, attempt, settle: Box::new(settle), erasable: Box::default() };
    Asked { request, intent: Intent::Answer(call, attempt) }
}

fn owner(n: usize, version: u64) -> Owner {
    Owner {
        id: format!("owner-{n}"),
        kind: Default::default(),
        name: Some(format!("{PERSON} {version}")),
        email: Some(format!("{PERSON}@example.com")),
    }
}

fn service(id: &str, n: usize) -> Service {
    Service {
        id: id.into(),
        kind: ServiceKind::Service,
        owner: format!("owner-{n}"),
        business_unit: format!("bu-{}", n / 2),
        ..testing::service()
    }
}

fn key_id(n: usize) -> String {
    format!("wbk_p0000000000{n}")
}

fn key(n: usize, status: KeyStatus) -> Key {
    let (id, service) = (key_id(n), SERVICES[n].to_owned());
    Key { id, service, status, environment: Environment::Prod, expires_at: None, ..testing::key() }
}

const BUDGETS: u64 = 9;

/// A budget by number: always of the same period and match, of a limit and an enforcement that change.
fn budget(n: u64, chance: &mut Chance) -> Budget {
    use Dimension::{BusinessUnit, Service, Tenant};
    use Enforcement::{Alert, Hard};
    use Metric::{Calls, Tokens, ToolCalls, Usd};
    let (id, matches, metric, amount, period, zone) = match n {
        0 => ("calls-hour", None, Calls, 30, PeriodKind::Hour, "UTC"),
        1 => ("money-day", None, Usd, 20_000, PeriodKind::Day, "Europe/Berlin"),
        2 => ("money-minute", Some((Service, "svc")), Usd, 6_000, PeriodKind::Minute, "UTC"),
        3 => ("tokens-total", Some((BusinessUnit, "bu-0")), Tokens, 200_000, PeriodKind::Total, "UTC"),
        4 => ("tools-day", Some((Service, "bot")), ToolCalls, 20, PeriodKind::Day, "America/New_York"),
        5 => ("money-month", Some((Tenant, "tenant-0")), Usd, 90_000, PeriodKind::Month, "America/New_York"),
        6 => ("money-week", Some((BusinessUnit, "bu-0")), Usd, 60_000, PeriodKind::Week, "Europe/Berlin"),
        7 => ("money-year", Some((Service, "etl")), Usd, 150_000, PeriodKind::Year, "UTC"),
        _ => ("tokens-quarter", Some((Service, "b*")), Tokens, 150_000, PeriodKind::Quarter, "UTC"),
    };
    // Now and then it counts something else from now on.
    let metric = if chance.below(12) == 0 { chance.pick(&[Usd, Tokens, Calls]) } else { metric };
    Budget {
        matches: matches.into_iter().map(|(d, v)| (d, v.to_owned())).collect(),
        limit: Limit { metric, amount: amount * i128::from(50 + chance.below(100)) / 100 },
        period,
        time_zone: zone.into(),
        enforcement: if chance.below(4) == 0 || metric == ToolCalls { Alert } else { Hard },
        ..testing::budget(id, metric, amount, Hard)
    }
}
