//! Small makers of requests and entries for the tests of this module.

use std::collections::BTreeMap;

use super::decide::{Decision, decide};
use super::entry::{Admit, Body, Entry, Erasable, Settle};
use super::request::{AdmitRequest, Allocate, Reply, Request};
use super::state::State;
use crate::domain::catalogue::KeyStatus;
use crate::domain::{
    Assurance, Attribution, Budget, CallId, Change, Charge, Component, CostBasis, Dimension, Enforcement, Environment,
    Key, Limit, Metric, Micros, Money, Outcome, PeriodKind, Provider, Service, ServiceKind, Usage, UsageBasis,
};

/// 2026-11-23T18:00:00Z.
pub const NOON: Micros = Micros(1_795_456_800_000_000);
pub const KEY: &str = "wbk_p00000000000";

pub fn usd(text: &str) -> Money {
    text.parse().unwrap()
}

pub fn who(service: &str) -> Attribution {
    Attribution {
        service: service.into(),
        agent: None,
        application: "app".into(),
        owner: "team".into(),
        business_unit: "bu".into(),
        cost_centre: None,
        tenant: None,
        environment: Environment::Prod,
        workflow: None,
        run: None,
        prompt_class: None,
        principal: service.into(),
        charged_to: vec![Charge { service: service.into(), basis_points: 10_000 }],
        chain: vec![],
        credential: KEY.into(),
        assurance: Assurance::A1,
        provenance: "KCKUUUUUUU".into(),
    }
}

/// A call of `svc` that costs exactly `fixed` and has no output.
pub fn admit(call: u128, fixed: Money) -> AdmitRequest {
    AdmitRequest {
        admit: Admit {
            call: CallId(call),
            attempt: 1,
            received_at: NOON,
            who: who("svc").into(),
            provider: "openai".into(),
            dialect: "openai".into(),
            endpoint: "chat.completions".into(),
            unmetered: false,
            stream: false,
            job: false,
            model: Some("gpt-5.2".into()),
            price_model: Some("gpt-5.2".into()),
            price_book: 1,
            catalogue_revision: 0,
            tools_offered: 0,
            hold: Money::ZERO,
            holds: vec![],
            input_bound: 0,
            output_bound: 0,
            output_limit: None,
            unbounded: false,
            retry_of: None,
            lease_until: NOON.plus_seconds(600),
            model_sent: None,
            rules: Vec::new(),
        },
        erasable: Erasable::default(),
        fixed,
        per_output_token: Some(Money::ZERO),
        output_wanted: 0,
        may_limit_output: false,
        choices: 1,
        expected_output: None,
        max_cost: None,
        allow_unpriced: false,
        allow_unmetered: false,
        policy: Default::default(),
    }
}

pub fn settle(cost: Option<Money>, tokens: u64) -> Settle {
    Settle {
        outcome: Outcome::Completed,
        http_status: Some(200),
        model_served: Some("gpt-5.2-2025-12-11".into()),
        provider_request_id: None,
        response_id: None,
        finish_reason: Some("stop".into()),
        service_tier: None,
        usage: Usage::new().with(Component::InputTokens, tokens).with(Component::OutputTokens, 0),
        usage_basis: UsageBasis::Vendor,
        tools_called: 0,
        tool_names: vec![],
        cost,
        cost_basis: if cost.is_some() { CostBasis::Exact } else { CostBasis::Unpriced },
        cost_lines: vec![],
        price_model: None,
        first_byte_ms: Some(80),
        total_ms: 100,
        overhead_us: 200,
        flags: vec![],
    }
}

pub fn budget(id: &str, metric: Metric, amount: i128, enforcement: Enforcement) -> Budget {
    Budget {
        matches: BTreeMap::from([(Dimension::Service, "svc".to_owned())]),
        enforcement,
        alert_at_percent: vec![50, 75, 90, 100],
        ..Budget::plain(id, Limit { metric, amount }, PeriodKind::Month)
    }
}

pub fn hard(id: &str, limit: &str) -> Budget {
    budget(id, Metric::Usd, usd(limit).0, Enforcement::Hard)
}

pub fn service() -> Service {
    Service {
        id: "svc".into(),
        application: "app".into(),
        kind: ServiceKind::Service,
        owner: "team".into(),
        business_unit: "bu".into(),
        cost_centre: None,
        tenant: None,
        purpose: None,
        caller_fields: Default::default(),
        mandatory_fields: Default::default(),
        tenants: vec![],
        workflows: vec![],
        prompt_classes: vec![],
    }
}

pub fn key() -> Key {
    Key {
        id: KEY.into(),
        hash: [5; 32],
        service: "svc".into(),
        environment: Environment::Prod,
        created_at: NOON,
        expires_at: Some(NOON.plus_seconds(86_400)),
        status: KeyStatus::Active,
        allow_models: None,
        note: None,
        not_before: None,
        allow_cidrs: None,
        lineage: None,
        successor: None,
    }
}

pub fn provider() -> Provider {
    Provider {
        id: "openai".into(),
        dialect: "openai".into(),
        base_url: "https://api.openai.com/v1".into(),
        internal: false,
        models: vec![],
        price_as: "openai".into(),
        idle_timeout_s: 300,
        on_client_abort: Default::default(),
        position: 0,
        region: None,
    }
}

/// A ledger without a disk: decides, applies, and keeps what was written.
pub struct Bench {
    pub state: State,
    pub entries: Vec<Entry>,
    pub at: Micros,
}

impl Bench {
    /// With a service, its key, a provider, and these budgets.
    pub fn new(budgets: Vec<Budget>) -> Bench {
        let mut bench = Bench { state: State::new(), entries: vec![], at: NOON };
        let mut changes = vec![
            Change::Service("svc".into(), Some(service())),
            Change::Key(KEY.into(), Some(key())),
            Change::Provider("openai".into(), Some(provider())),
        ];
        changes.extend(budgets.into_iter().map(|b| Change::Budget(b.id.clone(), Some(b))));
        assert!(matches!(bench.declare(changes), Reply::Declared { .. }));
        bench
    }

    pub fn declare(&mut self, changes: Vec<Change>) -> Reply {
        self.submit(Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None })
    }

    pub fn submit(&mut self, mut request: Request) -> Reply {
        if let Request::Admit(admit) = &mut request {
            admit.admit.catalogue_revision = self.state.catalogue().revision;
        }
        self.submit_as_is(request)
    }

    /// Without making the request fresh.
    pub fn submit_as_is(&mut self, request: Request) -> Reply {
        let Decision { entries, reply } = decide(&self.state, self.at, &request);
        for new in entries {
            let entry = Entry { seq: self.state.next_seq(), ts: self.at, reference: new.reference, body: new.body };
            self.state.apply(&entry).unwrap();
            self.state.recall(&entry.body, &new.erasable);
            self.entries.push(entry);
        }
        reply
    }

    pub fn admit(&mut self, request: AdmitRequest) -> Reply {
        self.submit(Request::Admit(Box::new(request)))
    }

    pub fn allocate(&mut self, budget: &str, what: Allocate) -> Reply {
        let (actor, budget) = ("operator:ada".into(), budget.into());
        self.submit(Request::Allocate { actor, budget, what, reason: Some("year end".into()) })
    }

    pub fn extend(&mut self, call: u128, per_output_token: Money, tokens: u64) -> Reply {
        self.submit(Request::Extend { call: CallId(call), attempt: 1, per_output_token, tokens })
    }

    pub fn settle(&mut self, call: u128, settle: Settle) -> Reply {
        let (settle, erasable) = (Box::new(settle), Box::default());
        self.submit(Request::Settle { call: CallId(call), attempt: 1, settle, erasable })
    }

    /// Posted and held of a budget in the current period.
    pub fn balance(&self, budget: &str) -> (i128, i128) {
        self.state.standing(budget, self.at).map(|s| (s.posted, s.held)).unwrap()
    }

    /// Alerts so far, as `budget kind threshold`.
    pub fn alerts(&self) -> Vec<String> {
        let alert = |e: &Entry| match &e.body {
            Body::Alert(a) => Some(format!("{} {} {}", a.budget, a.kind, a.threshold.unwrap_or(0))),
            _ => None,
        };
        self.entries.iter().filter_map(alert).collect()
    }

    pub fn last(&self) -> &Body {
        &self.entries.last().unwrap().body
    }
}
