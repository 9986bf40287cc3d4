//! The catalogue: everything an organisation declares, and the changes that make it so.
//!
//! Declared state enters by `apply`, the API or the pages as [`Change`]s, each recorded in the journal with its actor.
//! The catalogue here is what they add up to: read by every call from memory, never written but by the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::filter::{Dimension, glob};
use super::identity::{Attribution, Environment, ServiceKind};
use super::notify::Notify;
use super::pause::Pause;
pub use super::policy::Policy;
use super::time::Micros;
use super::trust::Issuer;
use super::usage::Component;

/// The organisation itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organisation {
    pub name: String,
    /// IANA name; days, months, budgets and reports are cut in it unless they name another.
    pub time_zone: String,
    /// 1 to 12.
    pub fiscal_year_start_month: u8,
}

impl Default for Organisation {
    fn default() -> Organisation {
        Organisation { name: "Organisation".into(), time_zone: "UTC".into(), fiscal_year_start_month: 1 }
    }
}

/// A person or team that answers for services. One that is only mentioned is a team without contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub id: String,
    pub kind: OwnerKind,
    pub name: Option<String>,
    pub email: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OwnerKind {
    Person,
    #[default]
    Team,
}

/// A catalogued piece of software that calls models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: String,
    pub application: String,
    pub kind: ServiceKind,
    pub owner: String,
    pub business_unit: String,
    pub cost_centre: Option<String>,
    pub tenant: Option<String>,
    pub purpose: Option<String>,
    /// What its callers may say about themselves: `workflow`, `run`, `batch`, `prompt_class`, `agent`, `tenant`, `end_user`.
    pub caller_fields: BTreeSet<String>,
    /// Which of them every call must bring: one without is refused, so that a hard budget may match them.
    pub mandatory_fields: BTreeSet<String>,
    /// Values `wb-tenant` may take (globs), for a service that works for several tenants.
    pub tenants: Vec<String>,
    /// Values `wb-workflow` may take (globs); empty = any slug.
    pub workflows: Vec<String>,
    /// Values `wb-prompt-class` may take.
    pub prompt_classes: Vec<String>,
}

/// A virtual key as stored: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `wbk_` and the key id, 16 characters.
    pub id: String,
    /// HMAC-SHA-256 of the whole secret under the pepper.
    pub hash: [u8; 32],
    pub service: String,
    pub environment: Environment,
    pub created_at: Micros,
    /// Absent only where the operator said `never`.
    pub expires_at: Option<Micros>,
    pub status: KeyStatus,
    /// Models (globs) the key may ask for; absent = what policies allow.
    pub allow_models: Option<Vec<String>>,
    pub note: Option<String>,
    /// It works from here on; absent = since it was made.
    pub not_before: Option<Micros>,
    /// Networks (CIDR) it may be used from; absent = anywhere.
    pub allow_cidrs: Option<Vec<IpNet>>,
    /// The first key of its line, where it took another's place.
    pub lineage: Option<String>,
    /// The key that takes its place.
    pub successor: Option<Successor>,
}

/// The key that takes another's place, and until when both work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Successor {
    pub key: String,
    pub overlap_until: Micros,
}

/// What a key is at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    Active,
    /// Its time has not come.
    Early,
    /// Works beside its successor.
    Overlapping,
    /// Its successor has taken its place.
    Retired,
    Expired,
    Suspended,
    Revoked,
    /// Stands for nobody: whoever uses it has found it where it was planted.
    Canary,
}

impl KeyState {
    /// Whether calls go with it.
    pub const fn works(self) -> bool {
        matches!(self, KeyState::Active | KeyState::Overlapping)
    }

    pub const fn name(self) -> &'static str {
        match self {
            KeyState::Active => "active",
            KeyState::Early => "early",
            KeyState::Overlapping => "overlapping",
            KeyState::Retired => "retired",
            KeyState::Expired => "expired",
            KeyState::Suspended => "suspended",
            KeyState::Revoked => "revoked",
            KeyState::Canary => "canary",
        }
    }
}

impl Key {
    pub fn state(&self, at: Micros) -> KeyState {
        match (self.status, &self.successor) {
            (KeyStatus::Suspended, _) => KeyState::Suspended,
            (KeyStatus::Revoked, _) => KeyState::Revoked,
            (KeyStatus::Canary, _) => KeyState::Canary,
            _ if self.expires_at.is_some_and(|end| end <= at) => KeyState::Expired,
            (_, Some(successor)) if successor.overlap_until <= at => KeyState::Retired,
            _ if self.not_before.is_some_and(|from| at < from) => KeyState::Early,
            (_, Some(_)) => KeyState::Overlapping,
            (KeyStatus::Active, None) => KeyState::Active,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    Active,
    Suspended,
    Revoked,
    Canary,
}

/// Where calls go. The credential is not here: see the store's sealed secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    pub id: String,
    /// `openai`, `anthropic`, or the name of a look-alike that speaks `openai`.
    pub dialect: String,
    /// What that vendor's own SDK takes as its base URL.
    pub base_url: String,
    /// May resolve to loopback and private addresses.
    pub internal: bool,
    /// Models (globs) of bare `/v1` requests it serves; empty = all of its dialect.
    pub models: Vec<String>,
    /// Which price list.
    pub price_as: String,
    /// Seconds without a byte before the upstream is given up.
    pub idle_timeout_s: u32,
    /// What becomes of the upstream when the caller hangs up.
    pub on_client_abort: OnClientAbort,
    /// The first provider in this order that fits serves a bare request.
    pub position: u32,
    /// Where it computes, in the organisation's words (`eu`, `us-east-1`): what policies with `allow_regions` ask about.
    pub region: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnClientAbort {
    /// Stops the cost where the vendor stops.
    #[default]
    Cancel,
    /// Reads on, up to 30 s, for the true usage.
    Drain,
}

/// A price that replaces or adds to the shipped price book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceOverride {
    /// Price list.
    pub provider: String,
    pub model: String,
    pub component: Component,
    /// Decimal US dollars for `per` units.
    pub usd: String,
    pub per: u64,
    /// Inclusive; absent = always.
    pub effective_from: Option<Micros>,
    pub note: Option<String>,
}

/// One change of declared state. `None` as the value removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Organisation(Organisation),
    Owner(String, Option<Owner>),
    Service(String, Option<Service>),
    Key(String, Option<Key>),
    Provider(String, Option<Provider>),
    Policy(String, Option<Policy>),
    Notify(String, Option<Notify>),
    Budget(String, Option<Budget>),
    Issuer(String, Option<Issuer>),
    /// All overrides of one (price list, model) together.
    Price {
        provider: String,
        model: String,
        prices: Vec<PriceOverride>,
    },
    /// By [`Pause::id`]. `None` ends it early.
    Pause(String, Option<Pause>),
}

impl Change {
    /// The noun and id the change is about.
    pub fn subject(&self) -> (&'static str, String) {
        match self {
            Change::Organisation(_) => ("organisation", "organisation".into()),
            Change::Owner(id, _) => ("owner", id.clone()),
            Change::Service(id, _) => ("service", id.clone()),
            Change::Key(id, _) => ("key", id.clone()),
            Change::Provider(id, _) => ("provider", id.clone()),
            Change::Policy(id, _) => ("policy", id.clone()),
            Change::Notify(id, _) => ("notify", id.clone()),
            Change::Budget(id, _) => ("budget", id.clone()),
            Change::Issuer(id, _) => ("issuer", id.clone()),
            Change::Price { provider, model, .. } => ("price", format!("{provider}/{model}")),
            Change::Pause(id, _) => ("pause", id.clone()),
        }
    }
}

/// A sorted map that clones in O(1): copies share what they have in common, and a change copies the few nodes on its way.
pub type Map<K, V> = imbl::OrdMap<K, V>;

/// All declared state. A clone costs the same whatever is declared; so does a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Counts changes; recorded on every call.
    pub revision: u64,
    /// Counts price changes: the version of the price book in force (1 = the shipped one).
    pub price_book: u32,
    pub organisation: Arc<Organisation>,
    pub owners: Map<String, Arc<Owner>>,
    pub services: Map<String, Arc<Service>>,
    pub keys: Map<String, Arc<Key>>,
    pub providers: Map<String, Arc<Provider>>,
    pub policies: Map<String, Arc<Policy>>,
    pub notify: Map<String, Arc<Notify>>,
    pub budgets: Map<String, Arc<Budget>>,
    /// (price list, model) → overrides.
    pub prices: Map<(String, String), Arc<Vec<PriceOverride>>>,
    /// Issuers of workload tokens.
    pub issuers: Map<String, Arc<Issuer>>,
    /// What is paused; those that are over too, until something else is paused.
    pub pauses: Map<String, Arc<Pause>>,
    /// Derived: how many keys a service has.
    #[serde(skip)]
    keys_of: Map<String, u32>,
}

impl Catalogue {
    /// Makes one change so.
    pub fn apply(&mut self, change: Change) {
        fn put<T>(map: &mut Map<String, Arc<T>>, id: String, value: Option<T>) {
            match value {
                Some(value) => drop(map.insert(id, Arc::new(value))),
                None => drop(map.remove(&id)),
            }
        }
        self.revision += 1;
        match change {
            Change::Organisation(o) => self.organisation = Arc::new(o),
            Change::Owner(id, v) => put(&mut self.owners, id, v),
            Change::Service(id, v) => put(&mut self.services, id, v),
            Change::Key(id, v) => {
                let before = self.keys.get(&id).map(|key| key.service.clone());
                let after = v.as_ref().map(|key| key.service.clone());
                put(&mut self.keys, id, v);
                self.count_keys(before, after);
            }
            Change::Provider(id, v) => put(&mut self.providers, id, v),
            Change::Policy(id, v) => put(&mut self.policies, id, v),
            Change::Notify(id, v) => put(&mut self.notify, id, v),
            Change::Budget(id, v) => put(&mut self.budgets, id, v),
            Change::Issuer(id, v) => put(&mut self.issuers, id, v),
            Change::Price { provider, model, prices } => {
                self.price_book += 1;
                if prices.is_empty() {
                    self.prices.remove(&(provider, model));
                } else {
                    self.prices.insert((provider, model), Arc::new(prices));
                }
            }
            Change::Pause(id, pause) => put(&mut self.pauses, id, pause),
        }
    }

    /// The pause that forbids a call at an instant, if one does.
    pub fn paused(&self, who: &Attribution, provider: &str, model: Option<&str>, at: Micros) -> Option<&Pause> {
        let mut held = self.pauses.values().filter(|pause| pause.holds_at(at));
        held.find(|pause| pause.covers(who, provider, model)).map(|pause| &**pause)
    }

    /// Notes at which entry a pause is on record.
    pub fn note_pause(&mut self, id: &str, seq: Option<u64>) {
        if let Some(pause) = self.pauses.get_mut(id) {
            Arc::make_mut(pause).seq = seq;
        }
    }

    /// Without what names a person: owners' names and mail addresses.
    pub fn without_persons(&self) -> Catalogue {
        let mut plain = self.clone();
        for owner in self.owners.values().filter(|owner| owner.name.is_some() || owner.email.is_some()) {
            let owner = Owner { name: None, email: None, ..Owner::clone(owner) };
            plain.owners.insert(owner.id.clone(), Arc::new(owner));
        }
        plain
    }

    fn count_keys(&mut self, before: Option<String>, after: Option<String>) {
        if before == after {
            return;
        }
        if let Some(service) = before {
            match self.keys_of.get(&service).copied() {
                Some(n) if n > 1 => drop(self.keys_of.insert(service, n - 1)),
                _ => drop(self.keys_of.remove(&service)),
            }
        }
        if let Some(service) = after {
            *self.keys_of.entry(service).or_insert(0) += 1;
        }
    }

    /// Makes what is derived again, after the rest was read.
    pub fn restore(&mut self) {
        self.keys_of = Map::new();
        for key in self.keys.values() {
            *self.keys_of.entry(key.service.clone()).or_insert(0) += 1;
        }
    }

    /// Whether a credential on record still stands for the service it stood for.
    pub fn stands_for(&self, credential: &str, service: &str) -> bool {
        match super::trust::recorded(credential) {
            Some((issuer, rule)) => {
                self.issuers.get(issuer).and_then(|i| i.rule(rule)).is_some_and(|rule| rule.service == service)
            }
            None => self.keys.get(credential).is_some_and(|k| k.status == KeyStatus::Active && k.service == service),
        }
    }

    /// How many keys a service has, whatever their status.
    pub fn keys_of(&self, service: &str) -> u32 {
        self.keys_of.get(service).copied().unwrap_or(0)
    }

    /// Providers in the order in which bare requests look for one.
    pub fn providers_in_order(&self) -> Vec<&Arc<Provider>> {
        let mut list: Vec<_> = self.providers.values().collect();
        list.sort_by_key(|p| (p.position, &p.id));
        list
    }

    /// Policies in the order in which they are looked at.
    pub fn policies_in_order(&self) -> Vec<&Arc<Policy>> {
        let mut list: Vec<_> = self.policies.values().collect();
        list.sort_by_key(|p| (p.position, &p.id));
        list
    }
}

/// Whether every pair of a budget's or policy's `match` fits a call. Values are globs.
pub fn covers<'a>(matches: &BTreeMap<Dimension, String>, value: impl Fn(Dimension) -> Option<&'a str>) -> bool {
    matches.iter().all(|(dimension, pattern)| value(*dimension).is_some_and(|v| glob(pattern, v)))
}
