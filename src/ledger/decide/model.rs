//! Random requests against a naive model: after every step the invariants of budgets hold, seen from the entries alone.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::domain::{Budget, CallId, Change, Enforcement, Metric, Micros, Money, PeriodKind};
use crate::ledger::entry::{Admit, Body, Entry, Settle};
use crate::ledger::request::Request;
use crate::ledger::state::State;
use crate::ledger::testing::*;

#[derive(Clone, Debug)]
enum Step {
    Admit {
        fixed: i128,
        per_token: i128,
        wanted: u64,
        input: u64,
        may_limit: bool,
        job: bool,
        tools: u32,
    },
    /// Settles one of the calls there ever were, open or not, at so many percent of its hold.
    Settle {
        which: prop::sample::Index,
        percent: i128,
        tokens: u64,
        tools: u32,
        unknown: bool,
    },
    Job {
        which: prop::sample::Index,
    },
    Interrupt,
    Expire,
    Wait {
        seconds: i64,
    },
    Limit {
        which: prop::sample::Index,
        percent: i128,
    },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let admit = (0i128..2000, 0i128..3, 0u64..3000, 0u64..500, any::<bool>(), prop::bool::weighted(0.1), 0u32..3)
        .prop_map(|(fixed, per_token, wanted, input, may_limit, job, tools)| Step::Admit {
            fixed,
            per_token,
            wanted,
            input,
            may_limit,
            job,
            tools,
        });
    let settle = (any::<prop::sample::Index>(), 0i128..130, 0u64..2500, 0u32..4, prop::bool::weighted(0.1))
        .prop_map(|(which, percent, tokens, tools, unknown)| Step::Settle { which, percent, tokens, tools, unknown });
    let step = prop_oneof![
        10 => admit,
        8 => settle,
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Job { which }),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Expire),
        3 => (1i64..4000).prop_map(|seconds| Step::Wait { seconds }),
        1 => (any::<prop::sample::Index>(), 0i128..200).prop_map(|(which, percent)| Step::Limit { which, percent }),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

fn budgets() -> Vec<Budget> {
    let with =
        |id: &str, metric, amount, period, enforcement| Budget { period, ..budget(id, metric, amount, enforcement) };
    vec![
        with("calls-hour", Metric::Calls, 30, PeriodKind::Hour, Enforcement::Hard),
        with("money-day", Metric::Usd, 20_000, PeriodKind::Day, Enforcement::Hard),
        with("money-minute", Metric::Usd, 6_000, PeriodKind::Minute, Enforcement::Hard),
        with("tokens-total", Metric::Tokens, 60_000, PeriodKind::Total, Enforcement::Hard),
        with("tools-day", Metric::ToolCalls, 20, PeriodKind::Day, Enforcement::Alert),
        with("watch-hour", Metric::Usd, 3_000, PeriodKind::Hour, Enforcement::Alert),
    ]
}

type Account = (String, String);

/// What the entries say, added up the slow way.
#[derive(Default)]
struct Naive {
    admits: BTreeMap<u64, Admit>,
    ended: BTreeMap<u64, u64>,
    posted: BTreeMap<Account, i128>,
    held: BTreeMap<Account, i128>,
    excess: BTreeMap<Account, i128>,
    alerts: BTreeSet<(String, String, String, Option<u16>)>,
    budgets: BTreeMap<String, Budget>,
    highest: BTreeMap<String, i128>,
}

impl Naive {
    fn read(&mut self, entry: &Entry, denied_period: impl Fn(&str) -> String) {
        match &entry.body {
            Body::Budget { id, budget: Some(b), .. } => {
                let highest = self.highest.entry(id.clone()).or_default();
                *highest = b.limit.amount.max(*highest);
                self.budgets.insert(id.clone(), (**b).clone());
            }
            Body::Admit(admit) => {
                for h in &admit.holds {
                    let account = (h.budget.clone(), h.period.clone());
                    *self.held.entry(account.clone()).or_default() += h.amount;
                    let used = self.held[&account] + self.posted.get(&account).copied().unwrap_or(0);
                    let b = &self.budgets[&h.budget];
                    let refuses = b.enforcement == Enforcement::Hard && h.amount > 0;
                    assert!(!refuses || used <= b.limit.amount, "I3: {account:?} {used} of {}", b.limit.amount);
                }
                assert_eq!(admit.holds.len(), self.budgets.len(), "every budget that covers the call");
                self.admits.insert(entry.seq, (**admit).clone());
            }
            Body::Settle(settle) => self.end(entry, |metric, _| amount(settle, metric)),
            Body::Interrupted { .. } => self.end(entry, |_, hold| hold),
            Body::Overrun { excess, budgets } => {
                let admit = self.ended.iter().find(|(_, end)| Some(**end) == entry.reference).unwrap().0;
                for h in self.admits[admit].holds.iter().filter(|h| budgets.contains(&h.budget)) {
                    *self.excess.entry((h.budget.clone(), h.period.clone())).or_default() += excess.0;
                }
            }
            Body::Alert(a) => {
                let key = (a.budget.clone(), a.period.clone(), a.kind.clone(), a.threshold);
                assert!(self.alerts.insert(key.clone()), "I7: {key:?} told twice");
            }
            Body::Deny(deny) => {
                let Some(id) = deny.by.as_deref().and_then(|by| by.strip_prefix("budget:")) else { return };
                let period = denied_period(id);
                for percent in [50, 75, 90, 100] {
                    let key = (id.to_owned(), period.clone(), "actual".to_owned(), Some(percent));
                    assert!(self.alerts.contains(&key), "I7: denied without {key:?}");
                }
                assert!(self.alerts.contains(&(id.to_owned(), period, "denied".to_owned(), None)));
            }
            _ => {}
        }
    }

    fn end(&mut self, entry: &Entry, actual: impl Fn(Metric, i128) -> i128) {
        let seq = entry.reference.unwrap();
        assert_eq!(self.ended.insert(seq, entry.seq), None, "I5: ended twice");
        for h in &self.admits[&seq].holds {
            let account = (h.budget.clone(), h.period.clone());
            *self.held.entry(account.clone()).or_default() -= h.amount;
            *self.posted.entry(account).or_default() += actual(self.budgets[&h.budget].limit.metric, h.amount);
        }
    }

    fn compare(&self, state: &State) {
        let open: Vec<u64> = self.admits.keys().copied().filter(|seq| !self.ended.contains_key(seq)).collect();
        assert_eq!(state.running().map(|o| o.seq).collect::<Vec<_>>(), open, "I5");
        let mut kept = BTreeSet::new();
        for p in state.balances() {
            let account = (p.budget.to_owned(), p.period.to_owned());
            assert_eq!(p.posted, self.posted.get(&account).copied().unwrap_or(0), "I1 {account:?}");
            assert_eq!(p.held, self.held.get(&account).copied().unwrap_or(0), "I2 {account:?}");
            let b = &self.budgets[p.budget];
            if b.enforcement == Enforcement::Hard && b.limit.metric == Metric::Usd {
                let most = self.highest[p.budget] + self.excess.get(&account).copied().unwrap_or(0);
                assert!(p.used() <= most, "I4 {account:?}");
            }
            kept.insert(account);
        }
        for seq in open {
            for h in &self.admits[&seq].holds {
                assert!(kept.contains(&(h.budget.clone(), h.period.clone())), "a period with a hold was dropped");
            }
        }
        let held_nowhere_else = self.held.iter().filter(|(account, _)| !kept.contains(*account));
        assert!(held_nowhere_else.into_iter().all(|(_, held)| *held == 0), "I2");
    }
}

fn amount(settle: &Settle, metric: Metric) -> i128 {
    match metric {
        Metric::Usd => settle.cost.map_or(0, |c| c.0),
        Metric::Tokens => settle.usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => 1,
        Metric::ToolCalls => settle.tools_called.into(),
    }
}

fn take(bench: &mut Bench, step: Step, calls: &mut u128, rejoin: &mut bool) {
    // Some of them were refused or have ended: settling those must change nothing.
    let some_call = |which: prop::sample::Index, calls: u128| which.index(calls.max(1) as usize) as u128 + 1;
    match step {
        Step::Admit { fixed, per_token, wanted, input, may_limit, job, tools } => {
            *calls += 1;
            let mut request = admit(*calls, Money(fixed));
            request.per_output_token = Some(Money(per_token));
            (request.output_wanted, request.may_limit_output) = (wanted, may_limit);
            request.choices = u64::from(tools) + 1;
            (request.admit.input_bound, request.admit.job, request.admit.tools_offered) = (input, job, tools);
            request.admit.lease_until = bench.at.plus_seconds(2_000);
            let open = bench.state.running().count();
            if matches!(bench.admit(request), crate::ledger::request::Reply::Denied(_)) {
                assert_eq!(bench.state.running().count(), open, "I6");
            }
        }
        Step::Settle { which, percent, tokens, tools, unknown } => {
            let call = some_call(which, *calls);
            let hold = bench.state.open_attempt(CallId(call), 1).map_or(1_000, |o| o.hold.0);
            let cost = (!unknown).then_some(Money(hold * percent / 100));
            let mut done = settle(cost, tokens);
            done.tools_called = tools;
            bench.settle(call, done);
        }
        Step::Job { which } => {
            let call = CallId(some_call(which, *calls));
            let (vendor_id, state) = (format!("resp_{}", call.0), "in_progress".to_owned());
            bench.submit(Request::Job { call, attempt: 1, vendor_id, state });
        }
        Step::Interrupt => drop(bench.submit(Request::InterruptAll)),
        Step::Expire => drop(bench.submit(Request::ExpireLeases)),
        Step::Wait { seconds } => bench.at = Micros(bench.at.0 + seconds * 1_000_000),
        Step::Limit { which, percent } => {
            let mut b = which.get(&budgets()).clone();
            b.limit.amount = b.limit.amount * percent / 100;
            bench.declare(vec![Change::Budget(b.id.clone(), Some(b))]);
        }
        Step::Crash => *rejoin = true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_requests_breaks_a_budget(steps in steps()) {
        let mut bench = Bench::new(budgets());
        // Keys live long enough for every wait.
        let mut lasting = key();
        lasting.expires_at = None;
        bench.declare(vec![Change::Key(KEY.into(), Some(lasting))]);
        let (mut naive, mut read, mut calls) = (Naive::default(), 0, 0);
        for step in steps {
            let mut rejoin = false;
            take(&mut bench, step, &mut calls, &mut rejoin);
            let at = bench.at;
            let periods: BTreeMap<String, String> =
                bench.state.standings(at).into_iter().map(|s| (s.budget.id.clone(), s.window.id)).collect();
            for entry in &bench.entries[read..] {
                naive.read(entry, |budget| periods[budget].clone());
            }
            read = bench.entries.len();
            naive.compare(&bench.state);
            if rejoin {
                let decoded = State::decode(&bench.state.encode()).unwrap();
                prop_assert_eq!(&decoded, &bench.state);
                bench.state = decoded;
            }
        }
        let mut replayed = State::new();
        for entry in &bench.entries {
            replayed.apply(entry).unwrap();
        }
        prop_assert_eq!(&replayed, &bench.state);
        prop_assert_eq!(replayed.encode(), bench.state.encode());

        // Quiet at last: nothing is held.
        bench.at = bench.at.plus_seconds(1_000_000);
        bench.submit(Request::ExpireLeases);
        prop_assert!(bench.state.balances().all(|p| p.held == 0 && p.open_holds == 0), "I2");
    }
}
