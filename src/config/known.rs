//! What is declared, as far as a budget's `match` can name it: a budget that can match nothing would be a limit that is
//! never kept, so it is refused with the reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::filter::glob;
use crate::domain::trust::CREDENTIAL_PREFIX;
use crate::domain::{Budget, Dimension, Environment, Key, Provider, Service};

use super::near::nearest;
use super::rules;

/// Classes of prompts that calls have without anybody naming one.
const OWN_CLASSES: [&str; 3] = ["chat", "completion", "embedding"];

/// Services, keys and providers by what calls get from them.
#[derive(Default)]
pub struct Known<'a> {
    services: BTreeMap<&'a str, &'a Service>,
    credentials: BTreeSet<&'a str>,
    providers: BTreeMap<&'a str, &'a Provider>,
    /// Values of each dimension that comes from a service.
    values: BTreeMap<Dimension, BTreeSet<&'a str>>,
}

/// What a service says of its calls, without asking the caller.
const OF_SERVICES: [Dimension; 5] =
    [Dimension::Application, Dimension::Owner, Dimension::BusinessUnit, Dimension::CostCentre, Dimension::Service];

fn of_service(service: &Service, dimension: Dimension) -> Option<&str> {
    match dimension {
        Dimension::Service | Dimension::Principal | Dimension::ChargedTo => Some(&service.id),
        Dimension::Application => Some(&service.application),
        Dimension::Owner => Some(&service.owner),
        Dimension::BusinessUnit => Some(&service.business_unit),
        Dimension::CostCentre => service.cost_centre.as_deref(),
        _ => None,
    }
}

/// Whether a value of this dimension can fit `pattern` in calls of a service. Dimensions that do not come from it can.
fn can_have(service: &Service, dimension: Dimension, pattern: &str) -> bool {
    let said = |field: &str, allowed: &[String]| {
        let fits = |g: &String| glob(g, pattern) || glob(pattern, g) || (g.contains('*') && pattern.contains('*'));
        service.caller_fields.contains(field) && (allowed.is_empty() || allowed.iter().any(fits))
    };
    match dimension {
        Dimension::Workflow => said("workflow", &service.workflows),
        Dimension::Run => said("run", &[]),
        Dimension::Agent => said("agent", &[]),
        Dimension::PromptClass => {
            OWN_CLASSES.iter().any(|class| glob(pattern, class))
                || !service.prompt_classes.is_empty() && said("prompt_class", &service.prompt_classes)
        }
        Dimension::Tenant => match &service.tenant {
            Some(tenant) => glob(pattern, tenant),
            None => !service.tenants.is_empty() && said("tenant", &service.tenants),
        },
        _ => match of_service(service, dimension) {
            Some(value) => glob(pattern, value),
            None => dimension != Dimension::CostCentre,
        },
    }
}

impl<'a> Known<'a> {
    pub fn service(&mut self, service: &'a Service) {
        self.services.insert(&service.id, service);
    }

    pub fn credential(&mut self, id: &'a str) {
        self.credentials.insert(id);
    }

    pub fn key(&mut self, key: &'a Key) {
        self.credential(&key.id);
    }

    pub fn provider(&mut self, provider: &'a Provider) {
        self.providers.insert(&provider.id, provider);
    }

    /// Looks a service up by its id.
    pub fn find(&self, service: &str) -> Option<&'a Service> {
        self.services.get(service).copied()
    }

    /// To be called once all is in.
    pub fn ready(mut self) -> Known<'a> {
        for service in self.services.values() {
            for dimension in OF_SERVICES {
                if let Some(value) = of_service(service, dimension) {
                    self.values.entry(dimension).or_default().insert(value);
                }
            }
        }
        self
    }

    /// Why a budget can match nothing that is declared.
    pub fn matches_nothing(&self, budget: &Budget) -> Option<String> {
        let why = |what: String| Some(format!("budget `{}` can match nothing: {what}", budget.id));
        for (dimension, pattern) in &budget.matches {
            if let Some(what) = self.unknown(*dimension, pattern) {
                return why(what);
            }
        }
        let fits = |service: &&&Service| budget.matches.iter().all(|(d, pattern)| can_have(service, *d, pattern));
        match budget.matches.get(&Dimension::Service).filter(|id| !id.contains('*')) {
            Some(id) => {
                let service = self.find(id)?;
                let misfit = budget.matches.iter().find(|(d, pattern)| !can_have(service, **d, pattern));
                misfit.and_then(|(dimension, pattern)| why(of_one(service, *dimension, pattern)))
            }
            None if self.services.values().any(|s| fits(&s)) || budget.matches.is_empty() => None,
            None if budget.matches.keys().all(|d| !from_services(*d)) => None,
            None => why("no service has all that it names together".to_owned()),
        }
    }

    /// What deserves a look: a model that no provider serves on its own.
    pub fn unserved(&self, budget: &Budget) -> Option<String> {
        let pattern = budget.matches.get(&Dimension::Model)?;
        let serves = |p: &&Provider| {
            let fits = |g: &String| glob(g, pattern) || glob(pattern, g);
            p.models.is_empty() || p.models.iter().any(fits)
        };
        let served = self.providers.values().any(|p| serves(p)) || self.providers.is_empty();
        (!served).then(|| format!("budget `{}` matches model `{pattern}`, which no provider lists", budget.id))
    }

    fn unknown(&self, dimension: Dimension, pattern: &str) -> Option<String> {
        let any = |set: &BTreeSet<&str>| match pattern.contains('*') {
            true => set.iter().any(|value| glob(pattern, value)),
            false => set.contains(pattern),
        };
        let missing = |what: &str, all: Vec<&str>| {
            let near = nearest(pattern, all.into_iter()).map(|near| format!("; did you mean `{near}`?"));
            Some(format!("{what} `{pattern}` is not declared{}", near.unwrap_or_default()))
        };
        match dimension {
            Dimension::Service | Dimension::Principal | Dimension::ChargedTo => {
                let ids: BTreeSet<&str> = self.values.get(&Dimension::Service).cloned().unwrap_or_default();
                if any(&ids) { None } else { missing("service", ids.into_iter().collect()) }
            }
            Dimension::Application | Dimension::Owner | Dimension::BusinessUnit | Dimension::CostCentre => {
                let values = self.values.get(&dimension).cloned().unwrap_or_default();
                if any(&values) {
                    return None;
                }
                let near = nearest(pattern, values.into_iter()).map(|near| format!("; did you mean `{near}`?"));
                Some(format!("no service has the {dimension} `{pattern}`{}", near.unwrap_or_default()))
            }
            // A workload token stands on record by its issuer and rule, which say themselves whether they are declared.
            Dimension::Credential if pattern.starts_with(CREDENTIAL_PREFIX) => None,
            Dimension::Credential => {
                if any(&self.credentials) {
                    None
                } else {
                    missing("key", Vec::new())
                }
            }
            Dimension::Provider => {
                let ids: BTreeSet<&str> = self.providers.keys().copied().collect();
                if any(&ids) { None } else { missing("provider", ids.into_iter().collect()) }
            }
            Dimension::Environment => {
                let fits = Environment::ALL.iter().any(|e| glob(pattern, e.name()));
                (!fits).then(|| format!("`{pattern}` is no environment: use prod, pilot, test or exploratory"))
            }
            _ => None,
        }
    }
}

/// Whether a service decides if its calls can have it.
fn from_services(dimension: Dimension) -> bool {
    OF_SERVICES.contains(&dimension)
        || rules::CALLERS_WORDS.contains(&dimension)
        || matches!(dimension, Dimension::Tenant | Dimension::Principal | Dimension::ChargedTo)
}

fn of_one(service: &Service, dimension: Dimension, pattern: &str) -> String {
    let id = &service.id;
    match of_service(service, dimension) {
        Some(value) => format!("service `{id}` has the {dimension} `{value}`, not `{pattern}`"),
        None if rules::CALLERS_WORDS.contains(&dimension) => {
            format!("callers of service `{id}` may not say the {dimension} `{pattern}`: see its `caller_fields`")
        }
        None => format!("no call of service `{id}` has the {dimension} `{pattern}`"),
    }
}
