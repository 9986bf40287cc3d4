//! The simulator: callers, upstream, clock, disk and process are made up from a seed; everything between them is real.
//!
//! A [`World`] has a folder in memory whose disk tears, loses, reorders and refuses ([`super::media::faults`]), a clock that
//! jumps ([`clock`]), callers and an upstream ([`callers`]), and a ledger without threads ([`super::Stepped`]): the real
//! `decide` and `apply`, writer, log, feeder, files and start-up. After every step the invariants of the design are
//! checked ([`invariants`]) against what everybody was told and against a ledger of plain maps ([`naive`]).
//!
//! The same seed gives the same steps. A failure names its seed, its step and what happened last; run it again with
//! `WEIGHBRIDGE_SEED=17 cargo test --lib store::sim`. `WEIGHBRIDGE_LONG=1` runs a million steps and more.

mod callers;
mod clock;
mod invariants;
mod mutants;
mod naive;
mod points;
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::domain::CallId;
use crate::ledger::decide::decide;
use crate::ledger::request::Request;
use crate::ledger::state::State;
use crate::store::views::samples::Chance;

use super::media::Media;
use super::media::Memory;
use super::media::faults::{End, Faults, Op, Survival, Trouble};
use super::{Clock, Decide, Durability, Head, Ledger, Options, Stepped, StoreError, snapshot};

use callers::{Callers, Intent, SECRET};
use clock::SimClock;
use invariants::{AFTER_START, ALWAYS, Invariant, Kept, THOROUGHLY};
use naive::Naive;

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    pub invariant: &'static str,
    pub what: String,
}

/// The run in which it broke.
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub broken: Broken,
    /// What happened last, newest at the end.
    diary: Vec<String>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, broken, diary } = self;
        writeln!(f, "{} does not hold: {}", broken.invariant, broken.what)?;
        diary.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "at step {step} of seed {seed}; again with WEIGHBRIDGE_SEED={seed}")
    }
}

/// What is broken on purpose. Nothing, by default.
#[derive(Clone, Copy)]
pub struct Rules {
    pub decide: Decide,
    pub syncs_lie: bool,
    /// Done to the folder while no process runs, now and then.
    pub tamper: Option<fn(&Memory)>,
    /// Done to the ledger behind the writer's back.
    pub meddle: Option<fn(&Ledger)>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { decide, syncs_lie: false, tamper: None, meddle: None }
    }
}

/// Lines of the diary kept.
const DIARY: usize = 40;
/// Entries read in one go.
const READ: usize = 1_000;

/// One simulated installation.
pub struct World {
    pub memory: Memory,
    pub callers: Callers,
    pub naive: Naive,
    /// Size and root that were last shown.
    pub promised: (u64, [u8; 32]),
    /// Some of those before.
    pub roots: VecDeque<(u64, [u8; 32])>,
    /// Attempts somebody was told about in this step.
    pub news: Vec<(CallId, u8)>,
    /// What this step's entries have in the clear.
    pub clear: Vec<(String, String, String)>,
    /// Entries there were when the process started.
    pub started_at: u64,
    rules: Rules,
    step: u64,
    chance: Chance,
    clock: Arc<SimClock>,
    machine: Option<Stepped>,
    /// A fault was set and not mended: refusals are what is expected.
    troubled: bool,
    /// Requests refused for trouble, and how many of them GAP entries stand for.
    refused: u64,
    gap: u64,
    diary: VecDeque<String>,
}

/// Runs a seed for so many steps; the first thing that is broken ends it.
pub fn run(seed: u64, steps: u64, rules: Rules) -> Result<World, Failure> {
    let mut world = World::new(seed, rules);
    let done = world.live(steps);
    match done {
        Ok(()) => Ok(world),
        Err(broken) => Err(Failure { seed, step: world.step, broken, diary: world.diary.into() }),
    }
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> World {
        let mut chance = Chance(seed);
        let at = clock::edge(chance.below(64) as usize).plus_seconds(-(chance.below(7_000) as i64));
        World {
            memory: Memory::new(),
            callers: Callers::new(),
            naive: Naive::default(),
            promised: (0, [0; 32]),
            roots: VecDeque::new(),
            news: Vec::new(),
            clear: Vec::new(),
            started_at: 0,
            rules,
            step: 0,
            chance,
            clock: Arc::new(SimClock::new(at)),
            machine: None,
            troubled: false,
            refused: 0,
            gap: 0,
            diary: VecDeque::new(),
        }
    }

    fn live(&mut self, steps: u64) -> Kept {
        self.start()?;
        let first_day = self.callers.first_day(&mut self.chance);
        self.ask(vec![(first_day, Intent::Other)])?;
        if let Some(ledger) = self.ledger() {
            let put = ledger.core().put_secret("provider/openai", &SECRET.to_owned().into(), self.clock.now());
            put.map_err(|e| self.broken("no_needless_refusal", e))?;
        }
        self.after()?;
        while self.step < steps {
            self.one_step()?;
        }
        self.finish()
    }

    /// One thing happens; then everything must hold.
    pub fn one_step(&mut self) -> Kept {
        self.step += 1;
        self.news.clear();
        self.clear.clear();
        match self.chance.below(1_000) {
            0..=719 => self.requests()?,
            720..=799 => self.time_passes(),
            800..=869 => self.feed()?,
            870..=899 => self.behind()?,
            900..=904 => self.clock_is_set(),
            905..=929 => self.trouble(),
            930..=964 => self.mend()?,
            965..=979 => self.end_soon(),
            980..=987 => self.end_now(),
            988..=993 => self.close()?,
            994..=995 => self.thoroughly()?,
            _ => self.meddle(),
        }
        self.after()
    }

    /// Reads what is new and checks it; starts again if the process is gone.
    fn after(&mut self) -> Kept {
        if !self.memory.is_dead() && self.machine.is_some() {
            self.read()?;
            return self.check();
        }
        self.check_all(&[ALWAYS[0]])?;
        self.machine = None;
        self.callers.cut_off();
        self.start()
    }

    fn check(&self) -> Kept {
        self.check_all(&ALWAYS)
    }

    fn check_all(&self, invariants: &[Invariant]) -> Kept {
        invariants.iter().try_for_each(|(invariant, holds)| holds(self).map_err(|what| Broken { invariant, what }))
    }

    fn thoroughly(&mut self) -> Kept {
        if self.troubled {
            return Ok(());
        }
        self.note("everything is read again");
        let found = self.check_all(&THOROUGHLY);
        // Opening the file of a past month writes too: the process may have ended there.
        if self.memory.is_dead() { Ok(()) } else { found }
    }

    /// The end of a run: all is well, quiet, and adds up.
    fn finish(&mut self) -> Kept {
        self.mend()?;
        self.after()?;
        self.clock.pass(100_000_000_000);
        self.ask(vec![(Request::ExpireLeases, Intent::Other)])?;
        self.after()?;
        let held = |state: &State| state.balances().any(|p| p.held != 0 || p.open_holds != 0);
        if !self.naive.open.is_empty() || self.with_state(held).unwrap_or(false) {
            return Err(self.broken("balances_add_up", "I2: something is held when all is quiet"));
        }
        self.check_all(&THOROUGHLY)?;
        self.check_all(&AFTER_START)?;
        if let Some(machine) = self.machine.take() {
            machine.close().map_err(|e| self.broken("no_needless_refusal", e))?;
        }
        invariants::verified(self)
    }

    fn requests(&mut self) -> Kept {
        let asked = self.callers.ask(&mut self.chance, self.clock.now(), !self.troubled);
        self.ask(asked.into_iter().map(|asked| (asked.request, asked.intent)).collect())
    }

    fn ask(&mut self, asked: Vec<(Request, Intent)>) -> Kept {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let (requests, intents): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let replies = machine.submit(requests);
        for (intent, reply) in intents.into_iter().zip(replies) {
            self.note(format_args!("{intent:?} → {}", Short(&reply)));
            if let Intent::Call(call, attempt) | Intent::Answer(call, attempt) = intent {
                self.news.push((call, attempt));
            }
            match &reply {
                Ok(reply) => {
                    let told = self.callers.told(intent, Some(reply));
                    told.map_err(|what| self.broken("nothing_overspent", what))?;
                }
                Err(_) if self.troubled || self.memory.is_dead() => self.refused += 1,
                Err(error) => return Err(self.broken("no_needless_refusal", error)),
            }
        }
        Ok(())
    }

    fn time_passes(&mut self) {
        let second = 1_000_000;
        let micros = match self.chance.below(10) {
            0..=5 => self.chance.below(3 * second),
            6..=7 => self.chance.below(900 * second),
            8 => self.chance.below(86_400 * second),
            // To the next edge of a calendar, or just before it.
            _ => {
                let now = self.clock.now().0;
                let next = (0..clock::EDGES.len()).map(|n| clock::edge(n).0).filter(|at| *at > now).min();
                let to_next = next.map_or(0, |at| (at - now) as u64);
                to_next.saturating_sub([0, 1, 2 * second][self.chance.below(3) as usize])
            }
        };
        self.note(format_args!("{micros} µs pass"));
        self.clock.pass(micros as i64);
    }

    fn clock_is_set(&mut self) {
        let seconds = [-7_200, -90, 61, 3_600, 40_000_000][self.chance.below(5) as usize];
        self.note(format_args!("the clock is set by {seconds} s"));
        self.clock.jump(seconds * 1_000_000);
    }

    fn feed(&mut self) -> Kept {
        self.note("the month's file is fed");
        let Some(machine) = &mut self.machine else { return Ok(()) };
        match machine.feed() {
            Err(error) if !self.troubled && !self.memory.is_dead() => Err(self.broken("no_needless_refusal", error)),
            _ => Ok(()),
        }
    }

    /// What lies behind the commits: side files, and the views.
    fn behind(&mut self) -> Kept {
        self.note("side files and views");
        let Some(machine) = &mut self.machine else { return Ok(()) };
        if self.chance.below(2) == 0 {
            machine.look_round();
            return Ok(());
        }
        match machine.follow() {
            Err(error) if !self.troubled && !self.memory.is_dead() => Err(self.broken("no_needless_refusal", error)),
            _ => Ok(()),
        }
    }

    fn faults(&self) -> Faults {
        Faults { syncs_lie: self.rules.syncs_lie, ..Faults::default() }
    }

    /// The disk begins to fail, for once or for good.
    fn trouble(&mut self) {
        let mut faults = self.faults();
        match self.chance.below(8) {
            0 => faults.room = Some(self.chance.below(200_000)),
            1 => self.memory.fail_writes(true),
            n => {
                let op = [Op::Write, Op::Sync, Op::Length, Op::Side, Op::Read, Op::Sync][n as usize - 2];
                let times = if self.chance.below(2) == 0 { 1 } else { u64::MAX };
                faults.trouble = Some(Trouble { op, after: self.chance.below(20), times });
                faults.failed_sync_forgets = self.chance.below(2) == 0;
            }
        }
        self.note(format_args!("trouble: {faults:?}"));
        self.memory.set_faults(faults);
        self.troubled = true;
    }

    /// The disk is mended; without a restart everything must go on, and what was refused is on record.
    fn mend(&mut self) -> Kept {
        self.memory.fail_writes(false);
        self.memory.set_faults(self.faults());
        if !std::mem::take(&mut self.troubled) {
            return Ok(());
        }
        self.note("the disk is mended");
        let Some(machine) = &mut self.machine else { return Ok(()) };
        // The feeder tries again by itself, and the writer with the next request. What they refused before is no news.
        let _ = machine.feed();
        let tried = machine.submit(vec![Request::ExpireLeases]);
        let fed = machine.feed();
        let replies = machine.submit(vec![Request::ExpireLeases]);
        if let Some(error) = tried.into_iter().chain(replies).find_map(Result::err).or(fed.err()) {
            return Err(self.broken("no_needless_refusal", error));
        }
        self.read()?;
        if self.naive.gap - self.gap != self.refused {
            let what = format!("{} were refused, GAP entries say {}", self.refused, self.naive.gap - self.gap);
            return Err(self.broken("nothing_unseen", what));
        }
        (self.gap, self.refused) = (self.naive.gap, 0);
        Ok(())
    }

    fn an_end(&mut self) -> End {
        if self.chance.below(3) == 0 { End::Kill } else { End::Power(Survival::drawn(self.chance.next())) }
    }

    fn end_soon(&mut self) {
        let at = self.memory.points() + 1 + self.chance.below(60);
        let end = self.an_end();
        self.note(format_args!("the process will end at write point {at}: {end:?}"));
        self.memory.set_faults(Faults { end_at: Some((at, end)), ..self.faults() });
    }

    fn end_now(&mut self) {
        let end = self.an_end();
        self.note(format_args!("the process ends: {end:?}"));
        match end {
            End::Kill => self.memory.kill(),
            End::Power(survival) => self.memory.cut(survival),
        }
    }

    fn close(&mut self) -> Kept {
        self.note("the process is stopped");
        let Some(machine) = self.machine.take() else { return Ok(()) };
        match machine.close() {
            Err(error) if !self.troubled && !self.memory.is_dead() => Err(self.broken("no_needless_refusal", error)),
            _ => Ok(()),
        }
    }

    fn meddle(&mut self) {
        if let (Some(meddle), Some(ledger)) = (self.rules.meddle, self.ledger()) {
            meddle(ledger);
        }
    }

    /// A new process opens the folder; now and then that fails too, and the next one does.
    fn start(&mut self) -> Kept {
        (self.troubled, self.refused) = (false, 0);
        if let Some(tamper) = self.rules.tamper {
            tamper(&self.memory);
        }
        for attempt in 0..8 {
            self.memory.power_on();
            if self.chance.below(6) == 0 {
                self.note("the running snapshot is deleted");
                Media::Memory(self.memory.clone()).remove_side(snapshot::FILE);
            }
            let mut faults = self.faults();
            let faulty = attempt < 5 && self.chance.below(4) == 0;
            if faulty && self.chance.below(2) == 0 {
                faults.end_at = Some((self.memory.points() + 1 + self.chance.below(30), self.an_end()));
            } else if faulty {
                let op = [Op::Read, Op::Write, Op::Sync, Op::Length, Op::Side][self.chance.below(5) as usize];
                faults.trouble = Some(Trouble { op, after: self.chance.below(30), times: 1 });
            }
            self.note(format_args!("start, {faults:?}"));
            self.memory.set_faults(faults);
            match self.open() {
                Ok(machine) if !self.memory.is_dead() => {
                    self.machine = Some(machine);
                    return self.started();
                }
                Ok(_) => {}
                Err(error) if faulty => self.note(format_args!("it does not start: {error}")),
                Err(error) => return Err(self.broken("nothing_unseen", format!("it does not start: {error}"))),
            }
        }
        Err(self.broken("nothing_unseen", "it does not start"))
    }

    fn open(&self) -> Result<Stepped, StoreError> {
        let options = Options { durability: Durability::Strict, clock: self.clock.clone() };
        Stepped::open(&self.memory, options, self.rules.decide)
    }

    fn started(&mut self) -> Kept {
        self.memory.set_faults(self.faults());
        self.started_at = self.head().map_or(0, |head| head.size);
        if let Some(revision) = self.ledger().map(|ledger| ledger.catalogue().revision) {
            self.callers.learn(revision);
        }
        self.read()?;
        self.gap = self.naive.gap;
        self.check()?;
        self.check_all(&AFTER_START)
    }

    /// Reads the entries that are new, as anybody may.
    fn read(&mut self) -> Kept {
        let Some(head) = self.head() else { return Ok(()) };
        while self.naive.next() < head.size {
            let Some(ledger) = self.ledger() else { return Ok(()) };
            let entries = match ledger.entries(self.naive.next(), READ) {
                Ok(entries) => entries,
                Err(_) if self.troubled || self.memory.is_dead() => return Ok(()),
                Err(error) => return Err(self.broken("nothing_unseen", error)),
            };
            if entries.is_empty() {
                return Err(self.broken("nothing_unseen", format!("entry {} cannot be read", self.naive.next())));
            }
            for (entry, erasable) in &entries {
                self.naive.read(entry)?;
                if let Some(end) = entry.reference.and_then(|admit| self.naive.ended.get(&admit)) {
                    self.callers.ended((end.call, end.attempt));
                }
                let network = format!("{:?}", erasable.network);
                self.clear.push((format!("{:?}", entry.body), network, format!("{:?}", erasable.vendor_usage)));
            }
        }
        self.naive.settle_up()?;
        if head.size > self.promised.0 && self.step.is_multiple_of(16) {
            self.roots.push_back((head.size, head.root));
            if self.roots.len() > 12 {
                self.roots.pop_front();
            }
        }
        self.promised = (head.size, head.root);
        Ok(())
    }

    pub fn ledger(&self) -> Option<&Ledger> {
        self.machine.as_ref().map(Stepped::ledger)
    }

    pub fn head(&self) -> Option<Head> {
        self.ledger().map(Ledger::head)
    }

    /// Looks at the state, unless it is known to be ahead of a disk that failed.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> Option<T> {
        let machine = self.machine.as_ref()?;
        let current = machine.ledger().healthy() && self.naive.next() == machine.ledger().head().size;
        current.then(|| machine.state(look))
    }

    fn broken(&self, invariant: &'static str, what: impl fmt::Display) -> Broken {
        Broken { invariant, what: what.to_string() }
    }

    fn note(&mut self, what: impl fmt::Display) {
        if self.diary.len() == DIARY {
            self.diary.pop_front();
        }
        self.diary.push_back(format!("{:>5} {what}", self.step));
    }
}

/// A reply in a few words.
struct Short<'a>(&'a Result<crate::ledger::request::Reply, StoreError>);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::ledger::request::Reply;
        match self.0 {
            Ok(Reply::Admitted(a)) => write!(f, "admitted by {} holding {}", a.seq, a.hold.0),
            Ok(Reply::Denied(d)) => write!(f, "denied: {:?} by {:?}", d.code, d.by),
            Ok(other) => write!(f, "{other:?}"),
            Err(error) => write!(f, "{error}"),
        }
    }
}
