//! Who is calling and for whom: the answer of the catalogue to a verified credential.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Dimension;

/// What a deployment is for. Never mixed in one figure unless asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    Prod,
    Pilot,
    Test,
    Exploratory,
}

impl Environment {
    pub const ALL: [Environment; 4] =
        [Environment::Prod, Environment::Pilot, Environment::Test, Environment::Exploratory];

    pub const fn name(self) -> &'static str {
        match self {
            Environment::Prod => "prod",
            Environment::Pilot => "pilot",
            Environment::Test => "test",
            Environment::Exploratory => "exploratory",
        }
    }

    pub fn from_name(name: &str) -> Option<Environment> {
        Environment::ALL.into_iter().find(|e| e.name() == name)
    }

    /// First character of a key id, so that a key says where it belongs.
    pub const fn letter(self) -> char {
        match self {
            Environment::Prod => 'p',
            Environment::Pilot => 'i',
            Environment::Test => 't',
            Environment::Exploratory => 'x',
        }
    }

    /// Longest life of a key, in days.
    pub const fn max_key_days(self) -> i64 {
        match self {
            Environment::Prod => 90,
            Environment::Pilot => 60,
            Environment::Test => 30,
            Environment::Exploratory => 14,
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of workload a service is. Runs that a `pipeline` starts are charged to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    #[default]
    Service,
    Agent,
    Pipeline,
    Notebook,
    Person,
}

/// How strongly the caller's identity was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Assurance {
    /// Not authenticated; never forwarded.
    A0,
    /// A bearer secret: virtual key or delegation token.
    A1,
    /// A workload JWT.
    A2,
    /// Bound to its sender by mutual TLS.
    A3,
}

impl Assurance {
    pub const fn name(self) -> &'static str {
        ["A0", "A1", "A2", "A3"][self as usize]
    }
}

/// Where one attribution field came from; strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// A delegation token's row.
    Token,
    /// The credential's row or a verified claim.
    Credential,
    /// The service catalogue.
    Catalogue,
    /// A caller's header that the catalogue permits.
    Header,
    /// The service's default.
    Default,
    /// Nowhere: unassigned.
    Unassigned,
}

impl Provenance {
    pub const fn letter(self) -> char {
        match self {
            Provenance::Token => 'T',
            Provenance::Credential => 'C',
            Provenance::Catalogue => 'K',
            Provenance::Header => 'H',
            Provenance::Default => 'D',
            Provenance::Unassigned => 'U',
        }
    }

    /// The letter in words, for people.
    pub const fn in_words(letter: char) -> &'static str {
        match letter {
            'T' => "from the delegation token",
            'C' => "from the credential",
            'K' => "from the service catalogue",
            'H' => "from a permitted header",
            'D' => "default of the service",
            _ => "unassigned",
        }
    }

    /// The fields of a provenance string, in its fixed order: one letter each.
    pub const FIELDS: [&'static str; 10] = [
        "owner",
        "environment",
        "business_unit",
        "cost_centre",
        "tenant",
        "workflow",
        "run",
        "prompt_class",
        "agent",
        "principal",
    ];
}

/// One payer of a call and its part in 1/10,000.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Charge {
    pub service: String,
    pub basis_points: u16,
}

/// Everything a call is attributed to, resolved once when it is admitted and recorded as resolved.
///
/// `service` and `agent` are the actor that presented the credential; `principal` is the root of its chain, the same
/// service where nobody delegated. Ids only: names and addresses live in the catalogue, where they can be erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    pub service: String,
    pub agent: Option<String>,
    pub application: String,
    pub owner: String,
    pub business_unit: String,
    pub cost_centre: Option<String>,
    pub tenant: Option<String>,
    pub environment: Environment,
    pub workflow: Option<String>,
    pub run: Option<String>,
    pub prompt_class: Option<String>,
    pub principal: String,
    pub charged_to: Vec<Charge>,
    pub chain: Vec<String>,
    /// `wbk_` and the key id: 16 characters, not secret.
    pub credential: String,
    pub assurance: Assurance,
    /// One letter per field of [`Provenance::FIELDS`].
    pub provenance: String,
}

impl Attribution {
    /// The value of a dimension. Provider, model and outcome are not for an attribution to say.
    pub fn dimension(&self, dimension: Dimension) -> Option<&str> {
        match dimension {
            Dimension::Tenant => self.tenant.as_deref(),
            Dimension::BusinessUnit => Some(&self.business_unit),
            Dimension::Application => Some(&self.application),
            Dimension::Service => Some(&self.service),
            Dimension::Agent => self.agent.as_deref(),
            Dimension::Owner => Some(&self.owner),
            Dimension::CostCentre => self.cost_centre.as_deref(),
            Dimension::Environment => Some(self.environment.name()),
            Dimension::Workflow => self.workflow.as_deref(),
            Dimension::Run => self.run.as_deref(),
            Dimension::Principal => Some(&self.principal),
            // The first payer: no call of this version has more than one.
            Dimension::ChargedTo => self.charged_to.first().map(|c| c.service.as_str()),
            Dimension::PromptClass => self.prompt_class.as_deref(),
            Dimension::Credential => Some(&self.credential),
            Dimension::Provider | Dimension::Model | Dimension::Outcome => None,
        }
    }
}

/// What a caller said about itself without being entitled to: kept as evidence, never used in a sum.
pub type Claimed = BTreeMap<String, String>;
