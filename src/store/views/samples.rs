//! A journal made by hand, for tests of what is derived from it: seeded callers, models, failures and refusals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::domain::call::BudgetHold;
use crate::domain::{
    Assurance, Attribution, CallId, Charge, Code, Component, CostBasis, CostLine, Environment, Micros, Money, Outcome,
    Usage, UsageBasis,
};
use crate::ledger::entry::{Admit, Body, Deny, Entry, Erasable, Person, Settle};

use super::{Block, Journal, Views};

/// Splitmix64: enough chance for tests, and the same everywhere.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Entries so far, readable as a journal is.
#[derive(Clone, Default)]
pub struct Made(pub Arc<Mutex<Vec<(Entry, Erasable)>>>);

impl Made {
    pub fn journal(&self) -> Journal {
        let entries = self.0.clone();
        Arc::new(move |from, limit| {
            let entries = entries.lock().unwrap();
            Ok(entries.iter().skip(from as usize).take(limit).cloned().collect())
        })
    }

    pub fn len(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    pub fn push(&self, ts: Micros, reference: Option<u64>, body: Body) -> u64 {
        let mut entries = self.0.lock().unwrap();
        let seq = entries.len() as u64;
        entries.push((Entry { seq, ts, reference, body }, Erasable::default()));
        seq
    }

    /// The entries from `from` on, as one block.
    pub fn block(&self, from: u64) -> Block {
        Arc::new(self.0.lock().unwrap().iter().skip(from as usize).cloned().collect())
    }

    pub fn views(&self) -> Views {
        Views::open(None, self.journal(), self.len()).unwrap()
    }

    pub fn admit(&self, at: Micros, who: Attribution, model: &str) -> u64 {
        self.push(at, None, Body::Admit(Box::new(admit(CallId(u128::from(self.len()) + 1), 1, who, model))))
    }

    pub fn settle(&self, at: Micros, admit: u64, settle: Settle) -> u64 {
        self.push(at, Some(admit), Body::Settle(Box::new(settle)))
    }
}

pub fn who(service: &str) -> Attribution {
    Attribution {
        service: service.to_owned(),
        agent: None,
        application: "app".to_owned(),
        owner: "team-a".to_owned(),
        business_unit: "finance".to_owned(),
        cost_centre: None,
        tenant: None,
        environment: Environment::Prod,
        workflow: None,
        run: None,
        prompt_class: None,
        principal: service.to_owned(),
        charged_to: vec![Charge { service: service.to_owned(), basis_points: 10_000 }],
        chain: Vec::new(),
        credential: "wbk_p00000000000".to_owned(),
        assurance: Assurance::A1,
        provenance: "KCKKUUUUUK".to_owned(),
    }
}

pub fn admit(call: CallId, attempt: u8, who: Attribution, model: &str) -> Admit {
    Admit {
        call,
        attempt,
        received_at: Micros(0),
        who: who.into(),
        provider: "openai".to_owned(),
        dialect: "openai".to_owned(),
        endpoint: "chat.completions".to_owned(),
        unmetered: false,
        stream: true,
        job: false,
        model: Some(model.to_owned()),
        price_model: Some(model.to_owned()),
        price_book: 1,
        catalogue_revision: 1,
        tools_offered: 0,
        hold: Money::usd(1),
        holds: vec![BudgetHold { budget: "b".to_owned(), period: "2026-11".to_owned(), amount: 1 }],
        input_bound: 100,
        output_bound: 100,
        output_limit: None,
        unbounded: false,
        retry_of: None,
        lease_until: Micros(0),
        model_sent: None,
        rules: Vec::new(),
    }
}

pub fn settle(cost: Option<Money>, usage: Usage) -> Settle {
    Settle {
        outcome: Outcome::Completed,
        http_status: Some(200),
        model_served: Some("gpt-5.2-2026-08-07".to_owned()),
        provider_request_id: None,
        response_id: None,
        finish_reason: Some("stop".to_owned()),
        service_tier: None,
        usage,
        usage_basis: UsageBasis::Vendor,
        tools_called: 0,
        tool_names: Vec::new(),
        cost,
        cost_basis: if cost.is_some() { CostBasis::Exact } else { CostBasis::Unpriced },
        cost_lines: cost
            .map(|cost_usd| CostLine {
                component: Component::InputTokens,
                quantity: 1,
                unit_price_usd: "1".to_owned(),
                per: 1,
                tier_from_tokens: 0,
                cost_usd,
            })
            .into_iter()
            .collect(),
        price_model: None,
        first_byte_ms: Some(10),
        total_ms: 20,
        overhead_us: 30,
        flags: Vec::new(),
    }
}

pub fn deny(call: CallId, who: Option<Attribution>, count: u64) -> Deny {
    Deny {
        call,
        received_at: Micros(0),
        who,
        code: Code::KeyInvalid,
        detail: Some("credential_malformed".to_owned()),
        by: None,
        provider: None,
        dialect: None,
        endpoint: None,
        stream: false,
        model: None,
        http_status: 401,
        tools_offered: 0,
        hold: None,
        available: None,
        catalogue_revision: 1,
        retry_of: None,
        count,
        rules: Vec::new(),
    }
}

/// A caller with every kind of value and of absence.
pub fn some_caller(chance: &mut Chance) -> Attribution {
    let mut who = who(chance.pick(&["invoice-bot", "search", "=cmd", "nightly"]));
    who.owner = chance.pick(&["team-ap", "team-x", "ada"]).to_owned();
    who.business_unit = chance.pick(&["finance", "r-and-d"]).to_owned();
    who.environment = chance.pick(&Environment::ALL);
    who.tenant = chance.pick(&[None, Some("acme"), Some("globex")]).map(str::to_owned);
    who.agent = chance.pick(&[None, Some("planner")]).map(str::to_owned);
    who.run = chance.pick(&[None, Some("run-1"), Some("run-2"), Some("run-3")]).map(str::to_owned);
    who.workflow = chance.pick(&[None, None, Some("wf")]).map(str::to_owned);
    who
}

/// Adds `calls` calls of every fate, `gap_us` apart at most, starting at `at`; some stay open. Returns the last instant.
pub fn traffic(made: &Made, chance: &mut Chance, calls: u64, at: Micros, gap_us: u64) -> Micros {
    let mut now = at;
    let mut open: Vec<(u64, CallId, Attribution, u8)> = Vec::new();
    for _ in 0..calls {
        now = Micros(now.0 + chance.below(gap_us) as i64);
        // Most ids tell the time, as those of the edge do; some do not.
        let random = u128::from(chance.next() >> 2) << 10 | u128::from(chance.next() >> 54);
        let time = if chance.below(4) == 0 { u128::from(chance.next() >> 16) } else { (now.0 / 1_000) as u128 };
        let id = CallId(time << 80 | random);
        match chance.below(10) {
            0 => {
                let who = (chance.below(2) == 0).then(|| some_caller(chance));
                let count = 1 + chance.below(3);
                made.push(now, None, Body::Deny(Box::new(deny(id, who, count))));
            }
            _ => {
                let who = some_caller(chance);
                let model = chance.pick(&["gpt-5.2", "gpt-5-mini", "o9"]);
                let seq = made.push(now, None, Body::Admit(Box::new(admit(id, 1, who.clone(), model))));
                if chance.below(5) == 0 {
                    let claimed = BTreeMap::from([("tenant".to_owned(), "other".to_owned())]);
                    let person = Person { claimed, reason: None };
                    made.0.lock().unwrap()[seq as usize].1.person = Some(person);
                }
                open.push((seq, id, who, 1));
            }
        }
        while !open.is_empty() && chance.below(3) != 0 {
            now = Micros(now.0 + chance.below(gap_us) as i64);
            let (seq, id, who, attempt) = open.swap_remove(chance.below(open.len() as u64) as usize);
            end(made, chance, now, seq);
            if attempt < 3 && chance.below(8) == 0 {
                let again = admit(id, attempt + 1, who.clone(), "gpt-5.2");
                let seq = made.push(now, None, Body::Admit(Box::new(again)));
                open.push((seq, id, who, attempt + 1));
            }
        }
    }
    now
}

fn end(made: &Made, chance: &mut Chance, now: Micros, seq: u64) {
    if chance.below(20) == 0 {
        let cost = (chance.below(2) == 0).then(|| Money(i128::from(chance.below(1 << 40))));
        made.push(now, Some(seq), Body::Interrupted { cost });
        return;
    }
    let cost = (chance.below(8) != 0).then(|| Money(i128::from(chance.below(1 << 50))));
    let mut usage = Usage::new();
    for component in
        [Component::InputTokens, Component::OutputTokens, Component::CacheReadTokens, Component::WebSearches]
    {
        if chance.below(4) != 0 {
            usage.set(component, chance.below(3) * chance.below(100_000));
        }
    }
    let mut settle = settle(cost, usage);
    settle.outcome = chance.pick(&[Outcome::Completed, Outcome::Completed, Outcome::Failed, Outcome::Cancelled]);
    settle.model_served = chance.pick(&[None, Some("gpt-5.2-2026-08-07"), Some("gpt-5-mini-x")]).map(str::to_owned);
    settle.usage_basis = chance.pick(&[UsageBasis::Vendor, UsageBasis::Counted, UsageBasis::None]);
    settle.tools_called = chance.below(3) as u32;
    settle.response_id = (chance.below(2) == 0).then(|| format!("resp_{seq}"));
    made.settle(now, seq, settle);
}
