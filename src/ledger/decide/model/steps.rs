//! What callers, operators, crashes and the clock do, one request at a time, drawn from a seed.

use std::collections::VecDeque;

use crate::domain::{
    Budget, CallId, Change, Dimension, Enforcement, Key, Limit, Metric, Micros, MidstreamExceed, Money, PeriodKind,
    Reservation, Rollover,
};
use crate::ledger::request::{Allocate, Reply, Request};
use crate::ledger::state::State;
use crate::ledger::testing::*;
use crate::store::views::samples::Chance;

/// Calls callers remember; more than are open.
const REMEMBERED: usize = 48;
const BUDGETS: u64 = 12;
const SECOND: i64 = 1_000_000;
/// Shortly before clocks change in the zones of the budgets, and before months and years end, of one year after another.
const EDGES: [&str; 9] = [
    "10-25T00:59:58",
    "11-01T05:59:58",
    "11-30T22:59:58",
    "12-31T22:59:59",
    "02-28T23:59:59",
    "03-14T06:59:58",
    "03-29T00:59:58",
    "04-04T14:59:58",
    "10-03T15:29:58",
];

pub struct Callers {
    chance: Chance,
    at: Micros,
    calls: u128,
    /// Calls with their price of an output token.
    open: VecDeque<(u128, Money)>,
    killed: bool,
}

/// A budget by number; what it is worth and how it behaves changes with every draw.
fn budget(n: u64, chance: &mut Chance) -> Budget {
    use Metric::{Calls, Tokens, Usd};
    let (id, run, metric, amount, period, zone) = match n {
        0 => ("minute", None, Usd, 60_000, PeriodKind::Minute, "UTC"),
        1 => ("hour-calls", Some("r1"), Calls, 30, PeriodKind::Hour, "Asia/Kolkata"),
        2 => ("day", Some("r2"), Usd, 60_000, PeriodKind::Day, "Europe/Berlin"),
        3 => ("day-west", Some("r3"), Usd, 60_000, PeriodKind::Day, "America/New_York"),
        4 => ("week", Some("r4"), Tokens, 300_000, PeriodKind::Week, "Australia/Lord_Howe"),
        5 => ("month", Some("r5"), Usd, 400_000, PeriodKind::Month, "Europe/Berlin"),
        6 => ("quarter", Some("r6"), Usd, 900_000, PeriodKind::Quarter, "America/New_York"),
        7 => ("year", Some("r7"), Tokens, 2_000_000, PeriodKind::Year, "UTC"),
        8 => ("total", Some("r8"), Usd, 2_000_000, PeriodKind::Total, "UTC"),
        9 => ("anchored", Some("r5"), Usd, 500_000, PeriodKind::Month, "Europe/Berlin"),
        10 => ("hour", Some("r*"), Usd, 900_000, PeriodKind::Hour, "Australia/Lord_Howe"),
        _ => ("tools", None, Metric::ToolCalls, 50, PeriodKind::Day, "Europe/Berlin"),
    };
    let metric = if chance.below(20) == 0 { chance.pick(&[Usd, Tokens, Calls]) } else { metric };
    let period = if chance.below(20) == 0 { chance.pick(&[PeriodKind::Minute, PeriodKind::Day]) } else { period };
    let limit = Limit { metric, amount: amount * i128::from(40 + chance.below(120)) / 100 };
    let rollovers = [Rollover::None, Rollover::Unused, Rollover::Overage];
    Budget {
        matches: run.map(|run| (Dimension::Run, run.to_owned())).into_iter().collect(),
        anchor: (id == "anchored").then(|| "2026-01-31".to_owned()),
        time_zone: zone.into(),
        fiscal_year_start_month: if n == 6 { 4 } else { 1 },
        enforcement: if chance.below(5) == 0 { Enforcement::Alert } else { Enforcement::Hard },
        alert_at_percent: vec![50, 75, 90, 100],
        reservation: chance.pick(&[Reservation::Strict, Reservation::Expected, Reservation::Expected]),
        rollover: if period == PeriodKind::Total { Rollover::None } else { chance.pick(&rollovers) },
        grace_pct: chance.pick(&[None, Some(10), Some(25)]),
        on_midstream_exceed: chance.pick(&[None, Some(MidstreamExceed::Cut)]),
        ..Budget::plain(id, limit, period)
    }
}

impl Callers {
    pub fn new(seed: u64) -> Callers {
        let at = "2026-10-24T20:00:00Z".parse().expect("an instant");
        let open = VecDeque::with_capacity(REMEMBERED);
        Callers { chance: Chance(seed.wrapping_mul(0x5851_f42d_4c95_7f2d)), at, calls: 0, open, killed: false }
    }

    /// The next instant: mostly a moment later, now and then a jump, and sometimes to where calendars are difficult.
    pub fn clock(&mut self) -> Micros {
        let by = match self.chance.below(2_000) {
            0 => self.to_an_edge(),
            1..=3 => SECOND * 3_600 * (1 + self.chance.below(30) as i64),
            4..=60 => SECOND * (10 + self.chance.below(600) as i64),
            _ => self.chance.below(900_000) as i64,
        };
        self.at = Micros(self.at.0 + by);
        self.at
    }

    fn to_an_edge(&mut self) -> i64 {
        let year: i64 = self.at.to_string()[..4].parse().expect("a year of four digits");
        let edge = self.chance.pick(&EDGES);
        let of = |year: i64| format!("{year}-{edge}Z").parse::<Micros>().expect("an instant");
        let next = [of(year), of(year + 1)].into_iter().find(|edge| edge.0 > self.at.0);
        next.map_or(SECOND, |edge| edge.0 - self.at.0)
    }

    /// Whether the process died with the last request.
    pub fn killed(&mut self) -> bool {
        std::mem::take(&mut self.killed)
    }

    pub fn request(&mut self, state: &State, step: u64) -> Request {
        if step == 0 {
            return self.begin();
        }
        let settles = if self.open.len() > REMEMBERED / 2 { 55 } else { 32 };
        match self.chance.below(1_000) {
            0 => {
                self.killed = true;
                Request::InterruptAll
            }
            1..=2 => Request::ExpireLeases,
            3..=14 => self.edit(state),
            15..=34 => self.allocate(),
            n if n < 35 + settles * 10 => self.settle(state),
            n if n < 140 + settles * 10 => self.extend(),
            _ => self.admit(state),
        }
    }

    fn begin(&mut self) -> Request {
        let mut changes = vec![
            Change::Service("svc".into(), Some(service())),
            Change::Key(KEY.into(), Some(Key { expires_at: None, ..key() })),
            Change::Provider("openai".into(), Some(provider())),
        ];
        changes
            .extend((0..BUDGETS).map(|n| budget(n, &mut self.chance)).map(|b| Change::Budget(b.id.clone(), Some(b))));
        declare(changes)
    }

    fn edit(&mut self, state: &State) -> Request {
        let n = self.chance.below(BUDGETS);
        let drawn = budget(n, &mut self.chance);
        let before = state.catalogue().budgets.get(&drawn.id);
        let after = match (self.chance.below(30), before) {
            (0, Some(_)) => None,
            // Mostly the limit alone.
            (1..=20, Some(before)) if before.limit.metric == drawn.limit.metric => {
                Some(Budget { limit: drawn.limit, ..Budget::clone(before) })
            }
            _ => Some(drawn.clone()),
        };
        declare(vec![Change::Budget(drawn.id, after)])
    }

    fn allocate(&mut self) -> Request {
        let budget = budget(self.chance.below(BUDGETS), &mut self.chance);
        let until = Micros(self.at.0 + SECOND * (1 + self.chance.below(200_000) as i64));
        let what = match self.chance.below(4) {
            0 => Allocate::Raise { by: budget.limit.amount / 4, until },
            1 => Allocate::Grant { until },
            _ => Allocate::Reset,
        };
        Request::Allocate { actor: "operator:ada".into(), budget: budget.id, what, reason: None }
    }

    fn admit(&mut self, state: &State) -> Request {
        let chance = &mut self.chance;
        self.calls += 1;
        let mut request = admit(self.calls, Money(chance.below(2_000).into()));
        let price = Money(chance.below(4).into());
        request.per_output_token = Some(price);
        request.output_wanted = chance.below(4_000);
        request.may_limit_output = chance.below(2) == 0;
        request.choices = 1 + chance.below(8) / 7;
        request.expected_output = Some(chance.below(1_500));
        let admit = &mut request.admit;
        (admit.received_at, admit.catalogue_revision) = (self.at, state.catalogue().revision);
        (admit.input_bound, admit.tools_offered) = (chance.below(500), chance.below(3) as u32);
        (admit.stream, admit.job) = (chance.below(10) < 7, chance.below(40) == 0);
        admit.lease_until = self.at.plus_seconds(600 + chance.below(4_000) as i64);
        let mut who = who("svc");
        who.run = Some(format!("r{}", chance.below(12)));
        admit.who = who.into();
        if self.open.len() == REMEMBERED {
            self.open.pop_front();
        }
        self.open.push_back((self.calls, price));
        Request::Admit(Box::new(request))
    }

    fn some_call(&mut self) -> (u128, Money) {
        match self.open.len() as u64 {
            0 => (1, Money(1)),
            n => self.open[self.chance.below(n) as usize],
        }
    }

    fn settle(&mut self, state: &State) -> Request {
        let (call, _) = self.some_call();
        let (hold, tokens) = match state.open_attempt(CallId(call), 1) {
            Some(open) => (open.hold.0, open.need(Metric::Tokens)),
            None => (100, 100),
        };
        let percent = |chance: &mut Chance| match chance.below(30) {
            0 => 100 + i128::from(chance.below(40)),
            _ => i128::from(chance.below(101)),
        };
        let cost = Money(hold * percent(&mut self.chance) / 100);
        let tokens = tokens * percent(&mut self.chance) / 100;
        let known = self.chance.below(30) > 0;
        let mut settle = settle(known.then_some(cost), u64::try_from(tokens).unwrap_or(0));
        settle.tools_called = self.chance.below(3) as u32;
        Request::Settle { call: CallId(call), attempt: 1, settle: Box::new(settle), erasable: Box::default() }
    }

    fn extend(&mut self) -> Request {
        let (call, per_output_token) = self.some_call();
        Request::Extend { call: CallId(call), attempt: 1, per_output_token, tokens: 1 + self.chance.below(900) }
    }

    /// What a caller knows by the answer.
    pub fn answered(&mut self, request: &Request, reply: &Reply) {
        match (request, reply) {
            (Request::Settle { call, .. }, _) => self.open.retain(|(of, _)| *of != call.0),
            (Request::Admit(_), Reply::Denied(_)) => drop(self.open.pop_back()),
            _ => {}
        }
    }
}

fn declare(changes: Vec<Change>) -> Request {
    Request::Declare { actor: "file".into(), changes, openings: Vec::new(), reason: None }
}
