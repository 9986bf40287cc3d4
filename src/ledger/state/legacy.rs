//! States as the versions 1 to 3 had them: fields in a fixed order, so that none could come. Read for the sealed
//! snapshots of months that began with them, never written.
//!
//! The types here are those of that time and do not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::{Accounts, BudgetIndex, CallId, Map, Micros, Open, Outbox, Staging, State};
use crate::domain::catalogue::{KeyStatus, OnClientAbort, OwnerKind};
use crate::domain::{self, Component, Dimension, Enforcement, Environment, Limit, PeriodKind, ServiceKind};
use crate::ledger::allot::Allotments;

#[derive(Clone, Deserialize)]
struct Organisation {
    name: String,
    time_zone: String,
    fiscal_year_start_month: u8,
}

#[derive(Clone, Deserialize)]
struct Owner {
    id: String,
    kind: OwnerKind,
    name: Option<String>,
    email: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Service {
    id: String,
    application: String,
    kind: ServiceKind,
    owner: String,
    business_unit: String,
    cost_centre: Option<String>,
    tenant: Option<String>,
    purpose: Option<String>,
    caller_fields: BTreeSet<String>,
    tenants: Vec<String>,
    workflows: Vec<String>,
    prompt_classes: Vec<String>,
}

#[derive(Clone, Deserialize)]
struct Key {
    id: String,
    hash: [u8; 32],
    service: String,
    environment: Environment,
    created_at: Micros,
    expires_at: Option<Micros>,
    status: KeyStatus,
    allow_models: Option<Vec<String>>,
    note: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Provider {
    id: String,
    dialect: String,
    base_url: String,
    internal: bool,
    models: Vec<String>,
    price_as: String,
    idle_timeout_s: u32,
    on_client_abort: OnClientAbort,
    position: u32,
}

#[derive(Clone, Deserialize)]
struct Policy {
    id: String,
    matches: BTreeMap<Dimension, String>,
    allow_models: Option<Vec<String>>,
    deny_models: Vec<String>,
    allow_unmetered: bool,
    allow_unpriced: bool,
    allow_unbounded: bool,
    position: u32,
}

#[derive(Clone, Deserialize)]
struct PriceOverride {
    provider: String,
    model: String,
    component: Component,
    usd: String,
    per: u64,
    effective_from: Option<Micros>,
    note: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Notify {
    id: String,
    webhook: String,
}

#[derive(Clone, Deserialize)]
struct Budget {
    id: String,
    matches: BTreeMap<Dimension, String>,
    limit: Limit,
    period: PeriodKind,
    anchor: Option<String>,
    time_zone: String,
    fiscal_year_start_month: u8,
    enforcement: Enforcement,
    alert_at_percent: Vec<u16>,
    notify: Vec<String>,
}

/// A type of then as the type of now; what has come since has its default.
macro_rules! now {
    ($($type:ident { $($field:ident),* } $(and { $($new:ident: $value:expr),* })?;)*) => { $(
        impl From<$type> for domain::catalogue::$type {
            fn from(old: $type) -> Self {
                let $type { $($field),* } = old;
                domain::catalogue::$type { $($field,)* $($($new: $value,)*)? }
            }
        }
    )* };
}
now! {
    Organisation { name, time_zone, fiscal_year_start_month };
    Owner { id, kind, name, email };
    Service {
        id, application, kind, owner, business_unit, cost_centre, tenant, purpose, caller_fields, tenants, workflows,
        prompt_classes
    } and { mandatory_fields: BTreeSet::new() };
    Key { id, hash, service, environment, created_at, expires_at, status, allow_models, note } and {
        not_before: None, allow_cidrs: None, lineage: None, successor: None
    };
    Provider {
        id, dialect, base_url, internal, models, price_as, idle_timeout_s, on_client_abort, position
    } and { region: None };
    PriceOverride { provider, model, component, usd, per, effective_from, note };
}

impl From<Notify> for domain::Notify {
    fn from(old: Notify) -> domain::Notify {
        domain::Notify::legacy(old.id, old.webhook)
    }
}

impl From<Policy> for domain::Policy {
    fn from(old: Policy) -> domain::Policy {
        let Policy {
            id,
            matches,
            allow_models,
            deny_models,
            allow_unmetered,
            allow_unpriced,
            allow_unbounded,
            position,
        } = old;
        let rules = domain::Policy { allow_unmetered, allow_unpriced, allow_unbounded, ..Default::default() };
        domain::Policy { id, matches, allow_models, deny_models, position, ..rules }
    }
}

impl From<Budget> for domain::Budget {
    fn from(old: Budget) -> domain::Budget {
        let Budget { id, matches, limit, period, anchor, time_zone, fiscal_year_start_month, .. } = old;
        let (enforcement, alert_at_percent, notify) = (old.enforcement, old.alert_at_percent, old.notify);
        let plain = domain::Budget::plain(id, limit, period);
        let cut = domain::Budget { matches, anchor, time_zone, fiscal_year_start_month, ..plain };
        domain::Budget { enforcement, alert_at_percent, notify, ..cut }
    }
}

#[derive(Clone, Deserialize)]
enum Change {
    Organisation(Organisation),
    Owner(String, Option<Owner>),
    Service(String, Option<Service>),
    Key(String, Option<Key>),
    Provider(String, Option<Provider>),
    Policy(String, Option<Policy>),
    Notify(String, Option<Notify>),
    Budget(String, Option<Budget>),
    Price { provider: String, model: String, prices: Vec<PriceOverride> },
}

impl From<Change> for domain::Change {
    fn from(old: Change) -> domain::Change {
        use domain::Change as Now;
        match old {
            Change::Organisation(v) => Now::Organisation(v.into()),
            Change::Owner(id, v) => Now::Owner(id, v.map(Into::into)),
            Change::Service(id, v) => Now::Service(id, v.map(Into::into)),
            Change::Key(id, v) => Now::Key(id, v.map(Into::into)),
            Change::Provider(id, v) => Now::Provider(id, v.map(Into::into)),
            Change::Policy(id, v) => Now::Policy(id, v.map(Into::into)),
            Change::Notify(id, v) => Now::Notify(id, v.map(Into::into)),
            Change::Budget(id, v) => Now::Budget(id, v.map(Into::into)),
            Change::Price { provider, model, prices } => {
                Now::Price { provider, model, prices: prices.into_iter().map(Into::into).collect() }
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Catalogue {
    revision: u64,
    price_book: u32,
    organisation: Organisation,
    owners: Map<String, Owner>,
    services: Map<String, Service>,
    keys: Map<String, Key>,
    providers: Map<String, Provider>,
    policies: Map<String, Policy>,
    notify: Map<String, Notify>,
    budgets: Map<String, Budget>,
    prices: Map<(String, String), Vec<PriceOverride>>,
}

fn all<O: Clone + Into<N>, N>(old: Map<String, O>) -> Map<String, Arc<N>> {
    old.into_iter().map(|(id, v)| (id, Arc::new(v.into()))).collect()
}

impl From<Catalogue> for domain::Catalogue {
    fn from(old: Catalogue) -> domain::Catalogue {
        let prices = |prices: Vec<PriceOverride>| Arc::new(prices.into_iter().map(Into::into).collect::<Vec<_>>());
        let mut now = domain::Catalogue::default();
        (now.revision, now.price_book) = (old.revision, old.price_book);
        now.organisation = Arc::new(old.organisation.into());
        (now.owners, now.services, now.keys) = (all(old.owners), all(old.services), all(old.keys));
        (now.providers, now.policies, now.notify) = (all(old.providers), all(old.policies), all(old.notify));
        now.budgets = all(old.budgets);
        now.prices = old.prices.into_iter().map(|(of, list)| (of, prices(list))).collect();
        now
    }
}

#[derive(Clone, Deserialize)]
struct Period {
    id: String,
    posted: i128,
    held: i128,
    open_holds: u64,
    fired: Vec<(String, Option<u16>)>,
}

type Periods = Map<String, Vec<Period>>;

fn accounts(old: Periods) -> Accounts {
    let old_period = |p: Period| (p.id, p.posted, p.held, p.open_holds, p.fired);
    Accounts::of_old(old.into_iter().map(|(budget, of)| (budget, of.into_iter().map(old_period).collect())))
}

#[derive(Deserialize)]
pub(super) struct OldStaging {
    first: u64,
    count: u64,
    sha256: [u8; 32],
    changes: Map<(String, String), Change>,
    prices: u32,
    touched: Map<String, ()>,
    counting: Map<String, ()>,
}

impl From<OldStaging> for Staging {
    fn from(old: OldStaging) -> Staging {
        let OldStaging { first, count, sha256, prices, touched, counting, .. } = old;
        let changes = old.changes.into_iter().map(|(of, change)| (of, Arc::new(change.into()))).collect();
        Staging::of_parts(first, count, sha256, changes, prices, touched, counting)
    }
}

/// Versions 1 and 2, of which the latter has staged changes behind it.
#[derive(Deserialize)]
pub(super) struct Whole {
    next_seq: u64,
    last_ts: Micros,
    catalogue: Catalogue,
    rest: Rest,
}

/// What stands behind the catalogue.
#[derive(Deserialize)]
struct Rest {
    open: Map<u64, Arc<Open>>,
    by_budget: Periods,
    by_call: Map<(CallId, u8), u64>,
    jobs: Map<String, Map<String, u64>>,
}

/// Version 3.
#[derive(Deserialize)]
pub(super) struct Apart {
    next_seq: u64,
    last_ts: Micros,
    rest: Rest,
    staging: Option<OldStaging>,
}

impl Whole {
    pub(super) fn into_state(self, staging: Option<OldStaging>) -> State {
        let Whole { next_seq, last_ts, catalogue, rest } = self;
        state(next_seq, last_ts, catalogue.into(), rest, staging)
    }
}

impl Apart {
    pub(super) fn into_state(self, catalogue: Catalogue) -> State {
        let Apart { next_seq, last_ts, rest, staging } = self;
        state(next_seq, last_ts, catalogue.into(), rest, staging)
    }
}

fn state(
    next_seq: u64,
    last_ts: Micros,
    catalogue: domain::Catalogue,
    rest: Rest,
    staging: Option<OldStaging>,
) -> State {
    let Rest { open, by_budget, by_call, jobs } = rest;
    let (catalogue, accounts, staging) = (Arc::new(catalogue), accounts(by_budget), staging.map(Into::into));
    let (allotments, index) = (Allotments::default(), BudgetIndex::default());
    let outbox = Outbox::default();
    State { next_seq, last_ts, catalogue, open, accounts, by_call, jobs, allotments, staging, outbox, index }
}
