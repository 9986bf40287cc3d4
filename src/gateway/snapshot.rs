//! What every call reads and none changes: the catalogue in the order it is used in, prices, providers' credentials.
//!
//! Rebuilt when the catalogue's revision moves. Credentials of providers are not in the catalogue; they are read again
//! when they are said to have changed, and after a few seconds in any case, so that a rotated one is used without a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use secrecy::SecretString;

use crate::domain::trust::Issuer;
use crate::domain::{Attribution, Catalogue, Enforcement, Metric, Policy, Provider, Service};
use crate::ledger::index::BudgetIndex;
use crate::pricing::PriceBook;

use super::attribute;
use super::identify::credential::Credential;

const SECRETS_FOR: Duration = Duration::from_secs(5);

/// Reads the credential of a provider, by its id.
pub type Secrets = Arc<dyn Fn(&str) -> Option<SecretString> + Send + Sync>;

/// By credential: the attribution of callers who say nothing about themselves, for each class of prompts.
type Silent = HashMap<String, Vec<Arc<Attribution>>>;

/// Declared state as one call sees it throughout.
pub struct Snapshot {
    pub catalogue: Arc<Catalogue>,
    pub prices: Arc<PriceBook>,
    pub providers: Vec<Arc<Provider>>,
    pub policies: Vec<Arc<Policy>>,
    /// Whose workload tokens are believed.
    pub issuers: Vec<Arc<Issuer>>,
    /// Budgets that refuse.
    pub hard: BudgetIndex,
    /// Which facts of requests some policy asks for.
    pub needs: Needs,
    /// Policies that limit rates.
    pub rated: Vec<Arc<Policy>>,
    /// Budgets of money, where some policy looks at what is left of them.
    pub funds: Option<BudgetIndex>,
    secrets: HashMap<String, Arc<SecretString>>,
    silent: RwLock<Silent>,
    made: Instant,
    /// Of how many changes of credentials it knows.
    rotation: u64,
}

/// Facts of requests that cost something to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub tools: bool,
    pub headers: bool,
}

impl Needs {
    fn of(policies: &[Arc<Policy>]) -> Needs {
        Needs {
            tools: policies.iter().any(|p| p.allow_tools.is_some() || !p.deny_tools.is_empty()),
            headers: policies.iter().any(|p| !p.require_headers.is_empty()),
        }
    }
}

impl Snapshot {
    /// The credential for a provider; none where the provider needs none.
    pub fn secret(&self, provider: &str) -> Option<Arc<SecretString>> {
        self.secrets.get(provider).cloned()
    }

    /// The attribution of a credential's callers who say nothing about themselves, for a default class of prompts: made once and
    /// shared by their calls. As many as there are credentials and classes, no more.
    pub fn silent(&self, credential: &Credential, service: &Service, class: Option<&str>) -> Option<Arc<Attribution>> {
        let of_class = |who: &&Arc<Attribution>| who.prompt_class.as_deref() == class;
        let known = self.silent.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(who) = known.get(credential.id()).and_then(|of_key| of_key.iter().find(of_class)) {
            return Some(who.clone());
        }
        drop(known);
        let (mut who, _) = attribute::resolve(credential, service, &HeaderMap::new(), str::to_owned).ok()?;
        who.prompt_class = class.map(str::to_owned);
        let who = Arc::new(who);
        let mut known = self.silent.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(credential.id().to_owned()).or_default().push(who.clone());
        Some(who)
    }
}

/// The newest snapshot, shared by all calls.
pub struct Snapshots {
    current: ArcSwapOption<Snapshot>,
    secrets: Secrets,
    rotations: AtomicU64,
}

impl Snapshots {
    pub fn new(secrets: Secrets) -> Snapshots {
        Snapshots { current: ArcSwapOption::empty(), secrets, rotations: AtomicU64::new(0) }
    }

    /// A credential has changed: no call from now on uses what was read before.
    pub fn rotated(&self) {
        self.rotations.fetch_add(1, Ordering::AcqRel);
    }

    /// The snapshot for this catalogue.
    pub fn of(&self, catalogue: Arc<Catalogue>) -> Arc<Snapshot> {
        let current = self.current.load_full();
        if let Some(snapshot) = &current
            && snapshot.catalogue.revision == catalogue.revision
            && snapshot.rotation == self.rotations.load(Ordering::Acquire)
            && snapshot.made.elapsed() < SECRETS_FOR
        {
            return snapshot.clone();
        }
        let fresh = Arc::new(self.make(catalogue, current.as_deref()));
        self.current.store(Some(fresh.clone()));
        fresh
    }

    fn make(&self, catalogue: Arc<Catalogue>, before: Option<&Snapshot>) -> Snapshot {
        let rotation = self.rotations.load(Ordering::Acquire);
        let providers: Vec<_> = catalogue.providers_in_order().into_iter().cloned().collect();
        let secrets = providers.iter().filter_map(|p| Some((p.id.clone(), Arc::new((self.secrets)(&p.id)?)))).collect();
        let prices = match before {
            Some(before) if before.catalogue.price_book == catalogue.price_book => before.prices.clone(),
            _ => PriceBook::for_catalogue(&catalogue),
        };
        let none = Catalogue::default();
        let known = before.map_or(&none, |before| &*before.catalogue);
        let mut hard = before.map(|before| before.hard.clone()).unwrap_or_default();
        hard.follow(&known.budgets, &catalogue.budgets, |budget| budget.enforcement == Enforcement::Hard);
        let policies: Vec<_> = catalogue.policies_in_order().into_iter().cloned().collect();
        let funds = policies.iter().any(|p| p.downgrade.is_some()).then(|| {
            let before = before.and_then(|before| Some((before.funds.clone()?, &before.catalogue.budgets)));
            let (mut funds, known) = before.unwrap_or_else(|| (BudgetIndex::default(), &none.budgets));
            funds.follow(known, &catalogue.budgets, |budget| budget.limit.metric == Metric::Usd);
            funds
        });
        Snapshot {
            prices,
            needs: Needs::of(&policies),
            rated: policies.iter().filter(|p| p.has_rates()).cloned().collect(),
            funds,
            policies,
            hard,
            issuers: catalogue.issuers.values().cloned().collect(),
            providers,
            secrets,
            silent: RwLock::default(),
            catalogue,
            made: Instant::now(),
            rotation,
        }
    }
}
