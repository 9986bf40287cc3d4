//! The naive ledger: what the entries say, added up the slow way in plain maps, and what no entry may say.
//!
//! It shares no code with the state machine but the calendar and the words of a match: if both are wrong, they are wrong
//! in different ways.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::Calendar;
use crate::budget::amount::crossed;
use crate::domain::call::BudgetHold;
use crate::domain::catalogue::covers;
use crate::domain::{Budget, CallId, Dimension, Enforcement, Metric, Micros, Money};
use crate::ledger::entry::{Admit, Body, Entry, Settle};
use crate::ledger::state::State;

use super::Broken;

type Account = (String, String);
type AlertKey = (String, String, String, Option<u16>);
type Kept = Result<(), Broken>;

/// An attempt that has no end yet.
#[derive(Clone, Debug)]
pub struct Held {
    pub call: CallId,
    pub attempt: u8,
    pub service: String,
    pub cost: Money,
    at: Micros,
    tokens: i128,
    pub job: bool,
    holds: Vec<(Account, Metric, i128)>,
    /// Those of budgets that came after it: they are passed when their limit is, since nothing was held for it.
    late: BTreeSet<Account>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub seq: u64,
    pub call: CallId,
    pub attempt: u8,
    pub service: String,
    pub cost: Option<Money>,
    /// By its SETTLE, and not by an INTERRUPTED.
    pub settled: bool,
}

#[derive(Clone, Debug, Default)]
struct Sum {
    posted: i128,
    held: i128,
    open: u64,
    /// What settlements came to above their holds.
    over: i128,
    /// An instant in it, and which it was of those touched for the first time: what makes it older than another.
    age: (Micros, u64),
    /// The highest limit that was in force; the largest number there is where none was.
    allowed: i128,
}

/// Every entry so far, and what they come to.
#[derive(Default)]
pub struct Naive {
    pub entries: Vec<Entry>,
    pub open: BTreeMap<u64, Held>,
    pub ended: BTreeMap<u64, Ended>,
    /// ADMIT of each attempt there ever was.
    pub admits: BTreeMap<(CallId, u8), u64>,
    pub denied: u64,
    /// Refusals that GAP entries stand for.
    pub gap: u64,
    budgets: BTreeMap<String, Budget>,
    sums: BTreeMap<Account, Sum>,
    newest: BTreeMap<String, String>,
    /// Accounts there ever were.
    touched: u64,
    alerts: BTreeSet<AlertKey>,
    /// What the next entries must be: the OVERRUN of a settlement, and the alerts of what was used.
    owed: Owed,
}

#[derive(Default)]
struct Owed {
    overrun: Option<(u64, Money, Vec<String>)>,
    thresholds: Vec<(Account, i128)>,
}

fn broken(invariant: &'static str, what: String) -> Broken {
    Broken { invariant, what }
}

impl Naive {
    pub fn next(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Takes the next entry; an error if it may not follow.
    pub fn read(&mut self, entry: &Entry) -> Kept {
        if entry.seq != self.next() {
            return Err(broken("nothing_rewritten", format!("entry {} where {} is next", entry.seq, self.next())));
        }
        if self.entries.last().is_some_and(|last| last.ts > entry.ts) {
            return Err(broken("nothing_rewritten", format!("entry {} is older than the one before it", entry.seq)));
        }
        if !matches!(entry.body, Body::Alert(_) | Body::Overrun { .. }) {
            self.settle_up()?;
        }
        match &entry.body {
            Body::Admit(admit) => self.admit(entry, admit)?,
            Body::Settle(settle) => self.settle(entry, settle)?,
            Body::Interrupted { cost } => {
                let known = cost.is_some();
                self.end(entry, *cost, false, |metric, hold| if known || metric != Metric::Usd { hold } else { 0 })?;
            }
            Body::Overrun { excess, budgets } => self.overrun(entry, *excess, budgets)?,
            Body::Alert(alert) => {
                let key = (alert.budget.clone(), alert.period.clone(), alert.kind.clone(), alert.threshold);
                if !self.alerts.insert(key.clone()) {
                    return Err(broken("alerts_come_first", format!("I7: {key:?} is told twice")));
                }
                self.touch(&(alert.budget.clone(), alert.period.clone()), entry.ts);
            }
            Body::Deny(deny) => {
                self.denied += 1;
                if let Some(id) = deny.by.as_deref().and_then(|by| by.strip_prefix("budget:")) {
                    self.denied_by(entry, id)?;
                }
            }
            Body::Budget { id, budget, opening, .. } => {
                self.declare(id, budget.as_deref());
                for opening in opening {
                    let sum = self.touch(&(id.clone(), opening.period.clone()), entry.ts);
                    (sum.posted, sum.allowed) = (opening.posted, i128::MAX);
                }
            }
            Body::Batch { .. } => {
                let Some(held) = entry.reference.and_then(|r| self.open.get_mut(&r)) else {
                    return Err(broken("nothing_counted_twice", format!("entry {} is of no open job", entry.seq)));
                };
                held.job = true;
            }
            Body::Extend { holds, .. } => self.extend(entry, holds)?,
            Body::Gap { reason, count, .. } if reason == "journal_unavailable" => self.gap += count,
            _ => {}
        }
        self.entries.push(entry.clone());
        Ok(())
    }

    /// What the newest request owes is there: its OVERRUN, and an alert for each threshold that was reached.
    pub fn settle_up(&mut self) -> Kept {
        let Owed { overrun, thresholds } = std::mem::take(&mut self.owed);
        if let Some((seq, excess, budgets)) = overrun {
            return Err(broken("nothing_overspent", format!("I4: no OVERRUN of {excess} follows {seq}: {budgets:?}")));
        }
        for ((id, period), used) in thresholds {
            let Some(budget) = self.budgets.get(&id) else { continue };
            for percent in budget.alert_at_percent.iter().filter(|p| crossed(used, budget.limit.amount, **p)) {
                let key = (id.clone(), period.clone(), "actual".to_owned(), Some(*percent));
                if !self.alerts.contains(&key) {
                    return Err(broken("alerts_come_first", format!("I7: {used} used and no alert {key:?}")));
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, entry: &Entry, admit: &Admit) -> Kept {
        let attempt = (admit.call, admit.attempt);
        if self.admits.insert(attempt, entry.seq).is_some() {
            return Err(broken("nothing_counted_twice", format!("I5: {attempt:?} is admitted twice")));
        }
        let value = |d| match d {
            Dimension::Provider => Some(admit.provider.as_str()),
            Dimension::Model => admit.model.as_deref(),
            d => admit.who.dimension(d),
        };
        let covering: Vec<Budget> = self.budgets.values().filter(|b| covers(&b.matches, value)).cloned().collect();
        if !covering.iter().map(|b| &b.id).eq(admit.holds.iter().map(|h| &h.budget)) {
            let what = format!("entry {} does not hold on the budgets that cover it: {:?}", entry.seq, admit.holds);
            return Err(broken("nothing_overspent", what));
        }
        let tokens = i128::from(admit.input_bound) + i128::from(admit.output_bound);
        let mut holds = Vec::new();
        for (budget, hold) in covering.iter().zip(&admit.holds) {
            let metric = budget.limit.metric;
            let period = Calendar::of(budget).map(|calendar| calendar.window(entry.ts).id).unwrap_or_default();
            let need = needs(metric, admit.hold, tokens);
            if (hold.period.as_str(), hold.amount) != (&period, need) {
                let what = format!("entry {} holds {hold:?}, not {need} in {period}", entry.seq);
                return Err(broken("nothing_overspent", what));
            }
            let account = (budget.id.clone(), period);
            let sum = self.touch(&account, entry.ts);
            sum.held += need;
            sum.open += 1;
            let used = sum.held + sum.posted;
            if budget.enforcement == Enforcement::Hard && need > 0 && used > budget.limit.amount {
                let what = format!("I3: entry {} brings {account:?} to {used} of {}", entry.seq, budget.limit.amount);
                return Err(broken("nothing_overspent", what));
            }
            self.owed.thresholds.push((account.clone(), used));
            holds.push((account, metric, need));
        }
        let held = Held {
            call: admit.call,
            attempt: admit.attempt,
            service: admit.who.service.clone(),
            cost: admit.hold,
            at: entry.ts,
            tokens,
            job: admit.job,
            holds,
            late: BTreeSet::new(),
        };
        self.open.insert(entry.seq, held);
        Ok(())
    }

    /// A call that is open holds on a budget that came after it, or more.
    fn extend(&mut self, entry: &Entry, holds: &[BudgetHold]) -> Kept {
        let open = entry.reference.and_then(|r| Some((r, self.open.get(&r)?)));
        let Some((admit, at, mut own)) = open.map(|(admit, held)| (admit, held.at, held.holds.clone())) else {
            return Err(broken("nothing_counted_twice", format!("I5: entry {} extends what is not open", entry.seq)));
        };
        for hold in holds {
            let account = (hold.budget.clone(), hold.period.clone());
            let metric = self.budgets.get(&hold.budget).map_or(Metric::Usd, |budget| budget.limit.metric);
            let sum = self.touch(&account, at);
            sum.held += hold.amount;
            // It was let go before the budget was there.
            sum.allowed = i128::MAX;
            match own.iter_mut().find(|(there, ..)| *there == account) {
                Some((.., amount)) => *amount += hold.amount,
                None => {
                    sum.open += 1;
                    own.push((account, metric, hold.amount));
                }
            }
        }
        if let Some(held) = self.open.get_mut(&admit) {
            held.holds = own;
            held.late.extend(holds.iter().map(|hold| (hold.budget.clone(), hold.period.clone())));
        }
        Ok(())
    }

    fn settle(&mut self, entry: &Entry, settle: &Settle) -> Kept {
        let hold = entry.reference.and_then(|r| self.open.get(&r)).map_or(Money::ZERO, |held| held.cost);
        let actual = |metric| match metric {
            Metric::Usd => settle.cost.map_or(0, |c| c.0),
            Metric::Tokens => settle.usage.total_tokens().unwrap_or(0).into(),
            Metric::Calls => 1,
            Metric::ToolCalls => settle.tools_called.into(),
        };
        let passed = self.end(entry, settle.cost, true, |metric, _| actual(metric))?;
        let excess = Money(settle.cost.map_or(0, |cost| (cost.0 - hold.0).max(0)));
        if !excess.is_zero() || !passed.is_empty() {
            self.owed.overrun = Some((entry.seq, excess, passed));
        }
        Ok(())
    }

    fn overrun(&mut self, entry: &Entry, excess: Money, budgets: &[String]) -> Kept {
        let said = (entry.reference.unwrap_or(u64::MAX), excess, budgets.to_vec());
        match self.owed.overrun.take() {
            Some(owed) if owed == said => Ok(()),
            owed => Err(broken("nothing_overspent", format!("I4: OVERRUN {said:?}, and {owed:?} is what was passed"))),
        }
    }

    /// An attempt ends, once. Gives the budgets that its end passed.
    fn end(
        &mut self,
        entry: &Entry,
        cost: Option<Money>,
        settled: bool,
        actual: impl Fn(Metric, i128) -> i128,
    ) -> Result<Vec<String>, Broken> {
        let Some((admit, held)) = entry.reference.and_then(|r| Some((r, self.open.remove(&r)?))) else {
            let what = format!("I5: entry {} ends {:?}, which is not open", entry.seq, entry.reference);
            return Err(broken("nothing_counted_twice", what));
        };
        self.ended.insert(
            admit,
            Ended {
                seq: entry.seq,
                call: held.call,
                attempt: held.attempt,
                service: held.service.clone(),
                cost,
                settled,
            },
        );
        let mut passed = Vec::new();
        for (account, metric, amount) in &held.holds {
            let posted = actual(*metric, *amount);
            let most = self.budgets.get(&account.0).map_or(i128::MAX, limit);
            let sum = self.touch(account, held.at);
            sum.held -= amount;
            sum.open -= 1;
            sum.posted += posted;
            let used = sum.held + sum.posted;
            let late = held.late.contains(account);
            if *metric != Metric::ToolCalls && posted > *amount {
                sum.over += posted - amount;
            }
            let passes = if late { used > most } else { *metric != Metric::ToolCalls && posted > *amount };
            if passes {
                passed.push(account.0.clone());
            }
            if settled {
                self.owed.thresholds.push((account.clone(), used));
            }
        }
        Ok(passed)
    }

    fn denied_by(&mut self, entry: &Entry, id: &str) -> Kept {
        let Some(budget) = self.budgets.get(id) else {
            return Err(broken("alerts_come_first", format!("entry {} is refused by `{id}`, which is not", entry.seq)));
        };
        // Refused because the path or model cannot be weighed: no amount was looked at.
        let Body::Deny(deny) = &entry.body else { return Ok(()) };
        if deny.code != crate::domain::Code::BudgetExceeded {
            return Ok(());
        }
        let period = Calendar::of(budget).map(|calendar| calendar.window(entry.ts).id).unwrap_or_default();
        let early = budget.alert_at_percent.iter().filter(|p| **p <= 100).map(|p| ("actual", Some(*p)));
        for (kind, threshold) in early.chain([("denied", None)]) {
            let key = (id.to_owned(), period.clone(), kind.to_owned(), threshold);
            if !self.alerts.contains(&key) {
                return Err(broken("alerts_come_first", format!("I7: entry {} refuses before {key:?}", entry.seq)));
            }
        }
        Ok(())
    }

    fn declare(&mut self, id: &str, budget: Option<&Budget>) {
        let of_id = |account: &Account| account.0 == id;
        let before = match budget {
            Some(budget) => self.budgets.insert(id.to_owned(), budget.clone()),
            None => self.budgets.remove(id),
        };
        let anew = match (&before, budget) {
            (_, None) => true,
            (Some(before), Some(budget)) => before.limit.metric != budget.limit.metric,
            (None, Some(_)) => false,
        };
        if anew {
            self.sums.retain(|account, _| !of_id(account));
            self.newest.remove(id);
            self.alerts.retain(|key| key.0 != id);
        }
        match budget {
            None => self.open.values_mut().for_each(|held| held.holds.retain(|(account, ..)| !of_id(account))),
            Some(budget) => {
                let metric = budget.limit.metric;
                let mut again = Vec::new();
                for held in self.open.values_mut().filter(|_| anew) {
                    let (need, at) = (needs(metric, held.cost, held.tokens), held.at);
                    for (account, counts, amount) in held.holds.iter_mut().filter(|(account, ..)| of_id(account)) {
                        (*counts, *amount) = (metric, need);
                        again.push((account.clone(), need, at));
                    }
                }
                for (account, need, at) in again {
                    let sum = self.touch(&account, at);
                    sum.held += need;
                    sum.open += 1;
                    sum.allowed = i128::MAX;
                }
                let limit = limit(budget);
                self.sums.iter_mut().filter(|(account, _)| of_id(account)).for_each(|(_, sum)| {
                    sum.allowed = sum.allowed.max(limit);
                });
            }
        }
    }

    /// The sum of an account, by an instant in its period.
    fn touch(&mut self, account: &Account, within: Micros) -> &mut Sum {
        let allowed = self.budgets.get(&account.0).map_or(i128::MAX, limit);
        if !self.sums.contains_key(account) {
            // Beside the new one the newest on which nothing is held is kept, and those on which something is.
            let of_it = self.sums.iter().filter(|((id, _), sum)| *id == account.0 && sum.open == 0);
            let mut idle: Vec<_> = of_it.map(|(account, sum)| (sum.age, account.clone())).collect();
            idle.sort();
            let too_many = idle.len().saturating_sub(1);
            for (_, old) in idle.iter().filter(|((at, _), _)| *at < within).take(too_many) {
                self.sums.remove(old);
            }
            self.newest.insert(account.0.clone(), account.1.clone());
            self.touched += 1;
        }
        let age = (within, self.touched);
        self.sums.entry(account.clone()).or_insert_with(|| Sum { allowed, age, ..Sum::default() })
    }

    /// I1 and I2: the state's balances and open attempts are those of the entries.
    pub fn same_balances(&self, state: &State) -> Kept {
        let open: Vec<(u64, bool)> = self.open.iter().map(|(seq, held)| (*seq, held.job)).collect();
        if !state.running().map(|open| (open.seq, open.job)).eq(open.iter().copied()) {
            let theirs: Vec<u64> = state.running().map(|o| o.seq).collect();
            return Err(broken("balances_add_up", format!("I5: open {theirs:?}, by the entries {open:?}")));
        }
        let mut kept = BTreeSet::new();
        for p in state.balances() {
            let account = (p.budget.to_owned(), p.period.to_owned());
            let ours = self.sums.get(&account).cloned().unwrap_or_default();
            if (p.posted, p.held, p.open_holds) != (ours.posted, ours.held, ours.open) {
                return Err(broken("balances_add_up", format!("I1, I2: {p:?}, by the entries {ours:?}")));
            }
            kept.insert(account);
        }
        let newest = self.newest.iter().map(|(id, period)| (id.clone(), period.clone()));
        let holding = self.open.values().flat_map(|held| held.holds.iter().map(|(account, ..)| account.clone()));
        match newest.chain(holding).find(|account| !kept.contains(account)) {
            Some(account) => Err(broken("balances_add_up", format!("I2: the balance of {account:?} was dropped"))),
            None => Ok(()),
        }
    }

    /// Settled + held ≤ the highest limit there was + what providers reported above the holds.
    pub fn within_limits(&self, state: &State) -> Kept {
        for p in state.balances() {
            let Some(sum) = self.sums.get(&(p.budget.to_owned(), p.period.to_owned())) else { continue };
            let tools = self.budgets.get(p.budget).is_some_and(|b| b.limit.metric == Metric::ToolCalls);
            if !tools && p.used() > sum.allowed.saturating_add(sum.over) {
                return Err(broken("nothing_overspent", format!("I4: {p:?} of {sum:?}")));
            }
        }
        Ok(())
    }

    /// Known cost by service of the calls that have ended, each attempt once.
    pub fn cost(&self) -> BTreeMap<String, Money> {
        let mut cost = BTreeMap::<String, Money>::new();
        for end in self.ended.values() {
            *cost.entry(end.service.clone()).or_default() += end.cost.unwrap_or(Money::ZERO);
        }
        cost.retain(|_, cost| !cost.is_zero());
        cost
    }
}

fn needs(metric: Metric, cost: Money, tokens: i128) -> i128 {
    match metric {
        Metric::Usd => cost.0,
        Metric::Tokens => tokens,
        Metric::Calls => 1,
        Metric::ToolCalls => 0,
    }
}

fn limit(budget: &Budget) -> i128 {
    if budget.enforcement == Enforcement::Hard { budget.limit.amount } else { i128::MAX }
}
