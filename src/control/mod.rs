//! Every change a person, a script or a file makes: checked here, in one place, and turned into entries.
//!
//! Two ways lead in. A file is compared with the catalogue ([`plan()`]) and what differs is declared at once, all or nothing
//! ([`apply()`]); applying it again changes nothing. A person changes one noun at a time ([`create`], [`patch`], [`delete`]),
//! in the same words the file has. Secrets take no part in the journal: of a key it keeps the hash, a provider's credential
//! and an owner's contact lie sealed in the store, where they can be erased.

mod alerts;
mod allocate;
mod apply;
mod channels;
mod command;
mod difference;
mod keys;
mod openings;
mod pause;
mod plan;
mod propose;
#[cfg(test)]
mod tests;

pub use crate::config::Address;
use crate::config::rules::Problem;
use crate::domain::{Catalogue, Micros};
use crate::pricing::PriceBook;
use crate::store::StoreError;

pub use alerts::{AlertAct, act_on_alert};
pub use allocate::{AllocationView, Grant, Raise, Reset, allocations, grant, raise, reset};
pub use apply::{Applied, Contact, apply, apply_blocking, contact, provider_secret_id};
pub use channels::address;
pub use command::{Done, Kind, create, delete, list, patch, rotate, show};
pub use difference::{Line, Sign};
pub use keys::{KeyView, create_key, revoke_key};
pub use pause::{NewPause, PauseView, pause, pauses, resume};
pub use plan::{Plan, plan};
pub use propose::{Proposal, policies_toml, policy_toml, propose, propose_toml};

/// Who changes something, why, and when.
#[derive(Clone, Debug)]
pub struct By {
    /// `operator:ada`, `file`, `setup`, `demo`: an id, never a name or address.
    pub actor: String,
    /// Free text; kept where it can be erased.
    pub reason: Option<String>,
    pub at: Micros,
}

impl By {
    pub fn new(actor: impl Into<String>, at: Micros) -> By {
        By { actor: actor.into(), reason: None, at }
    }

    pub fn because(self, reason: impl Into<String>) -> By {
        By { reason: Some(reason.into()), ..self }
    }
}

/// Why a change was not made. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Fields and what is wrong with them.
    #[error("{}", sentences(.0))]
    Invalid(Vec<(String, String)>),
    #[error("{noun} `{id}` not found: {noun} list shows what there is")]
    NotFound { noun: &'static str, id: String },
    /// It would contradict what is there.
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Longest reason a person gives, in characters.
const MOST_REASON: usize = 500;

/// A reason that must be given: trimmed, neither empty nor a novel.
pub fn reason(text: &str) -> Result<String, ControlError> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(ControlError::field("reason", "say why: it is kept with the change")),
        1..=MOST_REASON => Ok(text.to_owned()),
        n => Err(ControlError::field("reason", format!("{n} characters are too many: at most {MOST_REASON}"))),
    }
}

fn sentences(problems: &[(String, String)]) -> String {
    let all: Vec<String> = problems.iter().map(|(field, what)| format!("`{field}`: {what}")).collect();
    all.join("\n")
}

impl ControlError {
    fn invalid(problems: Vec<Problem>) -> ControlError {
        ControlError::Invalid(problems.into_iter().map(|(field, what)| (field.to_owned(), what)).collect())
    }

    fn field(field: &str, what: impl Into<String>) -> ControlError {
        ControlError::Invalid(vec![(field.to_owned(), what.into())])
    }
}

/// The price list of a provider that names none: the one named like its id, else that of its dialect. A list may be one
/// that only the organisation knows.
pub fn default_price_list(catalogue: &Catalogue, id: &str, dialect: &str) -> String {
    let known = |list: &str| PriceBook::is_shipped_list(list) || catalogue.prices.keys().any(|(l, _)| l == list);
    if known(id) {
        return id.to_owned();
    }
    let of_dialect = match dialect {
        "gemini" | "vertex" => "google",
        "bedrock" => "aws",
        "azure-openai" => "azure",
        "xai" => "x-ai",
        "moonshot" => "moonshotai",
        "voyage" => "voyageai",
        other => other,
    };
    of_dialect.to_owned()
}
