//! What the entries say, added up the slow way. Shares no arithmetic with the state: only calendars, the words of a match
//! and what a percentage is.

use std::collections::{BTreeMap, BTreeSet};

use super::Decide;
use crate::budget::{Calendar, Window};
use crate::domain::call::BudgetHold;
use crate::domain::catalogue::covers;
use crate::domain::{Allocation, AllocationKind, Budget, Enforcement, Metric, Micros, Money, Rollover};
use crate::ledger::entry::{Admit, Body, Entry, Settle};
use crate::ledger::index::dimension;
use crate::ledger::request::Request;
use crate::ledger::state::State;

type Account = (String, String);
type Kept = Result<(), String>;

#[derive(Default)]
struct Sum {
    posted: i128,
    held: i128,
    open: u64,
    /// What settlements came to above their holds, and what was held without asking the budget.
    over: i128,
    /// The most that was allowed when something was held.
    allowed: i128,
    alerts: BTreeSet<(String, Option<u16>)>,
}

struct Open {
    admit: Box<Admit>,
    at: Micros,
    cost: i128,
    tokens: i128,
    /// Account, metric and amount.
    holds: Vec<(Account, Metric, i128)>,
}

/// A budget with its past.
struct Told {
    budget: Budget,
    calendar: Calendar,
    /// Limits with the instant from which each was in force.
    limits: Vec<(Micros, i128)>,
    since: Micros,
    allocated: Vec<(Micros, Allocation)>,
}

#[derive(Default)]
pub struct Naive {
    budgets: BTreeMap<String, Told>,
    sums: BTreeMap<Account, Sum>,
    open: BTreeMap<u64, Open>,
    ended: BTreeMap<u64, u64>,
    touched: BTreeSet<Account>,
}

fn need(metric: Metric, cost: i128, tokens: i128) -> i128 {
    match metric {
        Metric::Usd => cost,
        Metric::Tokens => tokens,
        Metric::Calls => 1,
        Metric::ToolCalls => 0,
    }
}

fn came_to(settle: &Settle, metric: Metric) -> i128 {
    match metric {
        Metric::Usd => settle.cost.map_or(0, |c| c.0),
        Metric::Tokens => settle.usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => 1,
        Metric::ToolCalls => settle.tools_called.into(),
    }
}

fn is(good: bool, what: impl FnOnce() -> String) -> Kept {
    if good { Ok(()) } else { Err(what()) }
}

impl Told {
    fn window(&self, at: Micros) -> Window {
        self.calendar.window(at)
    }

    fn hard(&self) -> bool {
        self.budget.enforcement == Enforcement::Hard
    }

    /// The limit in force just before an instant.
    fn limit_before(&self, at: Micros) -> i128 {
        let before = self.limits.iter().rev().find(|(from, _)| *from < at);
        before.or(self.limits.first()).map_or(0, |(_, limit)| *limit)
    }

    fn given(&self, kind: AllocationKind, counts: impl Fn(Micros, &Allocation) -> bool) -> i128 {
        let of_kind = self.allocated.iter().filter(|(at, a)| a.kind == kind && counts(*at, a));
        of_kind.map(|(_, a)| if kind == AllocationKind::Grant { 1 } else { a.amount }).sum()
    }
}

impl Naive {
    /// What a budget may use in `window` when it is asked at `at`.
    fn allowed(&self, id: &str, window: &Window, at: Micros) -> i128 {
        let told = &self.budgets[id];
        let declared = told.budget.limit.amount;
        let in_force = |_, a: &Allocation| a.until.is_none_or(|until| at < until);
        let of_period = |period: &str| {
            let period = period.to_owned();
            told.given(AllocationKind::Reset, move |_, a| a.period.as_deref() == Some(period.as_str()))
        };
        let grace = i128::from(told.budget.grace_pct.unwrap_or(0));
        let mut allowed = declared + told.given(AllocationKind::Raise, in_force) + of_period(&window.id);
        if told.given(AllocationKind::Grant, in_force) > 0 {
            allowed += declared * grace / 100;
        }
        if let (true, Some(start)) = (told.budget.rollover != Rollover::None, window.start)
            && told.since < start
        {
            let before = told.window(Micros(start.0 - 1));
            let used = self.sums.get(&(id.to_owned(), before.id.clone())).map_or(0, |s| s.posted + s.held);
            let limit = told.limit_before(start);
            let left = limit + of_period(&before.id) - used;
            let then = |given: Micros, a: &Allocation| given < start && a.until > before.start;
            allowed += match told.budget.rollover {
                Rollover::Unused => left.clamp(0, limit),
                _ => {
                    let granted = if told.given(AllocationKind::Grant, then) > 0 { limit * grace / 100 } else { 0 };
                    (left + told.given(AllocationKind::Raise, then) + granted).min(0)
                }
            };
        }
        allowed.max(0)
    }

    fn sum(&mut self, account: &Account) -> &mut Sum {
        self.touched.insert(account.clone());
        self.sums.entry(account.clone()).or_default()
    }

    pub fn read(&mut self, entry: &Entry) -> Kept {
        match &entry.body {
            Body::Budget { id, budget, opening, .. } => {
                self.declared(id, budget.as_deref(), entry.ts)?;
                for opening in opening {
                    self.sum(&(id.clone(), opening.period.clone())).posted = opening.posted;
                }
                Ok(())
            }
            Body::Allocate { budget, allocation, .. } => self.allocated(budget, allocation, entry.ts),
            Body::Admit(admit) => self.admitted(entry, admit),
            Body::Extend { holds, cost, tokens } => {
                let seq = entry.reference.ok_or("an EXTEND of nothing")?;
                let asked = *tokens > 0;
                let open = self.open.get_mut(&seq).ok_or("an EXTEND of what is not open")?;
                (open.cost, open.tokens) = (open.cost + cost.0, open.tokens + i128::from(*tokens));
                let at = open.at;
                for hold in holds {
                    self.hold(seq, &hold.budget, &hold.period, hold.amount, !asked)?;
                }
                if asked { self.afforded(holds, at, entry.ts) } else { Ok(()) }
            }
            Body::Settle(settle) => self.end(entry, |metric, _| came_to(settle, metric)),
            Body::Interrupted { cost } => {
                let open = entry.reference.and_then(|seq| self.open.get(&seq)).ok_or("I5: ended twice")?;
                is(cost.is_none_or(|cost| cost.0 == open.cost), || format!("I1: {cost:?}, not what was held"))?;
                let unknown = cost.is_none();
                self.end(entry, |metric, held| if unknown && metric == Metric::Usd { 0 } else { held })
            }
            Body::Alert(a) => {
                let account = (a.budget.clone(), a.period.clone());
                let new = self.sum(&account).alerts.insert((a.kind.clone(), a.threshold));
                is(new, || format!("I7: {a:?} told twice"))
            }
            Body::Deny(deny) => self.warned(deny.by.as_deref(), entry.ts),
            _ => Ok(()),
        }
    }

    fn declared(&mut self, id: &str, budget: Option<&Budget>, at: Micros) -> Kept {
        let Some(budget) = budget else {
            self.budgets.remove(id);
            self.forget(id);
            self.open.values_mut().for_each(|open| open.holds.retain(|((of, _), ..)| of != id));
            return Ok(());
        };
        let calendar = Calendar::of(budget).map_err(|e| e.to_string())?;
        let cut = |b: &Budget| (b.matches.clone(), b.period, b.anchor.clone(), b.time_zone.clone());
        let mut told = Told {
            budget: budget.clone(),
            calendar,
            limits: vec![(at, budget.limit.amount)],
            since: at,
            allocated: Vec::new(),
        };
        if let Some(before) = self.budgets.remove(id) {
            let metric = before.budget.limit.metric != budget.limit.metric;
            if !metric {
                told.allocated = before.allocated;
            }
            if metric || cut(&before.budget) != cut(budget) {
                told.allocated.retain(|(_, a)| a.kind != AllocationKind::Reset);
            } else {
                (told.since, told.limits) = (before.since, before.limits);
                told.limits.push((at, budget.limit.amount));
                if before.budget.rollover == Rollover::None {
                    told.since = at;
                }
            }
            if metric {
                self.count_anew(id, budget.limit.metric);
            }
        }
        self.budgets.insert(id.to_owned(), told);
        Ok(())
    }

    fn forget(&mut self, id: &str) {
        self.sums.retain(|(of, _), _| of != id);
        self.touched.retain(|(of, _)| of != id);
    }

    fn count_anew(&mut self, id: &str, metric: Metric) {
        self.forget(id);
        let mut held = Vec::new();
        for open in self.open.values_mut() {
            let (cost, tokens) = (open.cost, open.tokens);
            for (account, of, amount) in open.holds.iter_mut().filter(|((of, _), ..)| of == id) {
                (*of, *amount) = (metric, need(metric, cost, tokens));
                held.push((account.clone(), *amount));
            }
        }
        for (account, amount) in held {
            let sum = self.sum(&account);
            (sum.held, sum.open, sum.over) = (sum.held + amount, sum.open + 1, sum.over + amount);
        }
    }

    fn allocated(&mut self, id: &str, allocation: &Allocation, at: Micros) -> Kept {
        let told = self.budgets.get(id).ok_or("an allocation to nothing")?;
        if allocation.kind == AllocationKind::Reset {
            let period = told.window(at).id;
            is(allocation.period.as_ref() == Some(&period), || format!("a reset of {:?}", allocation.period))?;
            let given = told.given(AllocationKind::Reset, |_, a| a.period.as_ref() == Some(&period));
            let posted = self.sums.get(&(id.to_owned(), period)).map_or(0, |s| s.posted);
            let amount = allocation.amount;
            is(amount == posted - given, || format!("a reset gives {amount} of {posted}, {given} was given"))?;
        }
        self.budgets.get_mut(id).expect("it was there").allocated.push((at, allocation.clone()));
        Ok(())
    }

    fn admitted(&mut self, entry: &Entry, admit: &Admit) -> Kept {
        let covering: Vec<Account> = self
            .budgets
            .values()
            .filter(|told| covers(&told.budget.matches, |d| dimension(admit, d)))
            .map(|told| (told.budget.id.clone(), told.window(entry.ts).id))
            .collect();
        let held: Vec<Account> = admit.holds.iter().map(|h| (h.budget.clone(), h.period.clone())).collect();
        is(covering == held, || format!("I2: {covering:?} cover a call that holds on {held:?}"))?;
        let (cost, tokens) = (admit.hold.0, i128::from(admit.input_bound) + i128::from(admit.output_bound));
        let open = Open { admit: Box::new(admit.clone()), at: entry.ts, cost, tokens, holds: Vec::new() };
        self.open.insert(entry.seq, open);
        for h in &admit.holds {
            let metric = self.budgets[&h.budget].budget.limit.metric;
            is(h.amount == need(metric, cost, tokens), || format!("I2: {h:?} of {cost} and {tokens} tokens"))?;
            self.hold(entry.seq, &h.budget, &h.period, h.amount, false)?;
        }
        self.afforded(&admit.holds, entry.ts, entry.ts)
    }

    fn hold(&mut self, seq: u64, id: &str, period: &str, amount: i128, late: bool) -> Kept {
        let metric = self.budgets.get(id).ok_or("a hold on nothing")?.budget.limit.metric;
        let account = (id.to_owned(), period.to_owned());
        let open = self.open.get_mut(&seq).ok_or("a hold of nothing")?;
        let there = open.holds.iter_mut().find(|(of, ..)| *of == account);
        let new = there.is_none();
        match there {
            Some((.., held)) => *held += amount,
            None => open.holds.push((account.clone(), metric, amount)),
        }
        let sum = self.sum(&account);
        sum.held += amount;
        sum.open += u64::from(new);
        sum.over += if late { amount } else { 0 };
        Ok(())
    }

    /// I3: what was just held is within every budget that refuses.
    fn afforded(&mut self, holds: &[BudgetHold], admitted: Micros, at: Micros) -> Kept {
        for hold in holds {
            let (account, amount) = ((hold.budget.clone(), hold.period.clone()), hold.amount);
            let told = &self.budgets[&account.0];
            let window = told.window(admitted);
            if window.id != account.1 {
                // Its periods are cut anew since: the hold is of one that is over.
                continue;
            }
            let (allowed, hard) = (self.allowed(&account.0, &window, at), told.hard());
            let sum = self.sum(&account);
            let used = sum.posted + sum.held;
            if hard && amount > 0 {
                is(used <= allowed, || format!("I3: {account:?} is at {used} of {allowed}"))?;
            }
            sum.allowed = if hard { sum.allowed.max(allowed) } else { i128::MAX / 4 };
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry, actual: impl Fn(Metric, i128) -> i128) -> Kept {
        let seq = entry.reference.ok_or("an end of nothing")?;
        is(self.ended.insert(seq, entry.seq).is_none(), || "I5: ended twice".to_owned())?;
        let open = self.open.remove(&seq).ok_or("I5: ended and never begun")?;
        for (account, metric, held) in open.holds {
            let came_to = actual(metric, held);
            let sum = self.sum(&account);
            (sum.held, sum.posted, sum.open) = (sum.held - held, sum.posted + came_to, sum.open - 1);
            sum.over += (came_to - held).max(0);
        }
        Ok(())
    }

    /// I7: what a budget refuses with stands before the refusal.
    fn warned(&self, by: Option<&str>, at: Micros) -> Kept {
        let Some(id) = by.and_then(|by| by.strip_prefix("budget:")) else { return Ok(()) };
        let told = self.budgets.get(id).ok_or("I7: refused by nothing")?;
        self.told(told, &told.window(at).id)
    }

    fn told(&self, told: &Told, period: &str) -> Kept {
        let account = (told.budget.id.clone(), period.to_owned());
        let has = |kind: &str, percent| {
            self.sums.get(&account).is_some_and(|s| s.alerts.contains(&(kind.to_owned(), percent)))
        };
        let lower = told.budget.alert_at_percent.iter().filter(|p| **p <= 100);
        let missing = lower.into_iter().find(|p| !has("actual", Some(**p)));
        is(missing.is_none(), || format!("I7: {account:?} refused without {missing:?}"))?;
        is(has("denied", None), || format!("I7: {account:?} refused without a word"))
    }

    /// A request was answered with a refusal: a stream that is not extended is warned of, too.
    pub fn refused(&self, by: Option<&str>, request: &Request, at: Micros) -> Kept {
        let Some(id) = by.and_then(|by| by.strip_prefix("budget:")) else { return Ok(()) };
        let Some(told) = self.budgets.get(id) else { return Ok(()) };
        match request {
            Request::Extend { call, .. } => {
                let open = self.open.values().find(|open| open.admit.call == *call).ok_or("I6: not open")?;
                let hold = open.holds.iter().find(|((of, _), ..)| of == id).ok_or("I6: it holds nothing there")?;
                self.told(told, &hold.0.1)
            }
            Request::Admit(_) => self.warned(by, at),
            _ => Ok(()),
        }
    }

    fn compare(&self, state: &State, account: &Account) -> Kept {
        let Some(sum) = self.sums.get(account) else { return Ok(()) };
        let position = state.balance(&account.0, &account.1);
        let Some(p) = position else {
            return is(sum.held == 0 && sum.open == 0, || format!("I2: {account:?} was forgotten with holds"));
        };
        is(p.posted == sum.posted, || format!("I1: {account:?} has {} posted, not {}", p.posted, sum.posted))?;
        is(p.held == sum.held && p.open_holds == sum.open, || {
            format!("I2: {account:?} holds {} of {} calls, not {} of {}", p.held, p.open_holds, sum.held, sum.open)
        })?;
        let most = sum.allowed.saturating_add(sum.over);
        let money = self.budgets.get(&account.0).is_some_and(|t| t.hard() && t.budget.limit.metric == Metric::Usd);
        is(!money || sum.posted <= most || sum.allowed == 0, || {
            format!("I4: {account:?} has {} posted, {most} may be", sum.posted)
        })
    }

    /// Of a budget the present period and the one before are kept, and those with holds; the others may go.
    fn forgotten(&mut self, state: &State, id: &str, at: Micros) -> Kept {
        let Some(told) = self.budgets.get(id) else { return Ok(()) };
        let now = told.window(at);
        let before = now.start.map(|start| told.window(Micros(start.0 - 1)));
        let range = (id.to_owned(), String::new())..(format!("{id}\0"), String::new());
        let gone = |(_, period): &&Account| state.balance(id, period).is_none();
        let gone: Vec<Account> = self.sums.range(range).map(|(account, _)| account).filter(gone).cloned().collect();
        for account in gone {
            // What was counted before it counted anew is of no use any more.
            let old = before.as_ref().is_some_and(|b| b.start.is_some_and(|start| told.since >= start));
            let needed = !old && (account.1 == now.id || before.as_ref().is_some_and(|b| account.1 == b.id));
            is(!needed, || format!("I1: {account:?} was forgotten"))?;
            self.sums.remove(&account);
        }
        Ok(())
    }

    /// What the last step touched, and what the budgets it touched may use now.
    pub fn touched(&mut self, state: &State, at: Micros) -> Kept {
        for account in std::mem::take(&mut self.touched) {
            self.compare(state, &account)?;
            self.forgotten(state, &account.0, at)?;
            let Some(told) = self.budgets.get(&account.0) else { continue };
            let (window, standing) = (told.window(at), state.standing(&account.0, at));
            let ours = self.allowed(&account.0, &window, at);
            let theirs = standing.map(|s| (s.window.id.clone(), s.allowance.total()));
            is(theirs == Some((window.id.clone(), ours)), || {
                format!("I3: {} may use {theirs:?} in {}, not {ours}", account.0, window.id)
            })?;
        }
        Ok(())
    }

    /// Everything.
    pub fn all(&mut self, state: &State) -> Kept {
        let open: Vec<u64> = self.open.keys().copied().collect();
        let theirs: Vec<u64> = state.running().map(|open| open.seq).collect();
        is(open == theirs, || format!("I5: {open:?} are open, not {theirs:?}"))?;
        for p in state.balances() {
            let known = self.sums.contains_key(&(p.budget.to_owned(), p.period.to_owned()));
            is(known || p.used() == 0, || format!("I1: {p:?} comes from nowhere"))?;
        }
        for account in self.sums.keys() {
            self.compare(state, account)?;
        }
        // What nobody can ask for any more need not be known here either.
        let ended = self.ended.len();
        if ended > 10_000 {
            self.ended = self.ended.split_off(&self.ended.keys().copied().nth(ended - 5_000).unwrap_or(0));
        }
        Ok(())
    }

    pub fn open_admits(&self) -> impl Iterator<Item = (u64, &Admit)> {
        self.open.iter().map(|(seq, open)| (*seq, &*open.admit))
    }

    /// I2: nothing is held once every lease is over.
    pub fn quiet(&mut self, state: &mut State, decide: Decide) -> Kept {
        let at = Micros(state.last_ts().0 + 400 * 86_400 * 1_000_000);
        for new in decide(state, at, &Request::ExpireLeases).entries {
            let entry = Entry { seq: state.next_seq(), ts: at, reference: new.reference, body: new.body };
            self.read(&entry)?;
            state.apply(&entry).map_err(|e| e.to_string())?;
        }
        self.all(state)?;
        let held = state.balances().find(|p| p.held != 0 || p.open_holds != 0);
        is(held.is_none(), || format!("I2: {held:?} when all is over"))?;
        let left: Money = self.open.values().map(|open| Money(open.cost)).sum();
        is(self.open.is_empty(), || format!("I5: {left} are open when all is over"))
    }
}
