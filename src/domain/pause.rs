//! Pauses: something that may make no calls until an instant, whatever budgets and policies say.

use serde::{Deserialize, Serialize};

use super::filter::glob;
use super::identity::Attribution;
use super::time::Micros;

/// Longest a pause lasts, in days: what is to end for good is revoked or removed.
pub const MOST_DAYS: i64 = 30;
/// Most pauses at once: every call looks at all of them.
pub const MOST_PAUSES: usize = 200;

/// What can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseKind {
    /// One credential, by its id.
    Key,
    /// What a service calls, and what is called on its behalf.
    Service,
    /// What an agent calls, and what it had others call.
    Agent,
    /// Models, by name or glob.
    Model,
    Provider,
}

impl PauseKind {
    pub const ALL: [PauseKind; 5] =
        [PauseKind::Key, PauseKind::Service, PauseKind::Agent, PauseKind::Model, PauseKind::Provider];

    pub const fn name(self) -> &'static str {
        match self {
            PauseKind::Key => "key",
            PauseKind::Service => "service",
            PauseKind::Agent => "agent",
            PauseKind::Model => "model",
            PauseKind::Provider => "provider",
        }
    }

    pub fn from_name(name: &str) -> Option<PauseKind> {
        PauseKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Calls of a subject are refused until an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub kind: PauseKind,
    /// An id; of a model its name or a glob.
    pub subject: String,
    /// Journal time from which calls may go again.
    pub until: Micros,
    /// Calls under way are ended; else they come to their own end.
    pub cut: bool,
    /// Sequence of its entry, where who paused and why stand: known once it is in force, and not in the entry itself. None
    /// for a pause of an earlier epoch.
    pub seq: Option<u64>,
}

impl Pause {
    /// `service:invoice-bot`: there is one pause of a subject.
    pub fn id(&self) -> String {
        format!("{}:{}", self.kind.name(), self.subject)
    }

    /// Whether it still holds at an instant.
    pub fn holds_at(&self, at: Micros) -> bool {
        at < self.until
    }

    /// Whether a call is one of the subject's.
    pub fn covers(&self, who: &Attribution, provider: &str, model: Option<&str>) -> bool {
        let subject = self.subject.as_str();
        match self.kind {
            PauseKind::Key => who.credential == subject,
            PauseKind::Service => who.service == subject || who.principal == subject,
            PauseKind::Agent => who.agent.as_deref() == Some(subject) || who.chain.iter().any(|link| link == subject),
            PauseKind::Model => model.is_some_and(|model| glob(subject, model)),
            PauseKind::Provider => provider == subject,
        }
    }

    /// What its callers are told. The reason is the operators': it may be about them.
    pub fn words(&self) -> String {
        let until = self.until.timestamp().strftime("%Y-%m-%d %H:%M:%S UTC");
        let (kind, subject) = (self.kind.name(), &self.subject);
        format!(
            "Weighbridge: {kind} '{subject}' is paused by an operator until {until}. Ask your operators why; repeating the \
             call before then does not help."
        )
    }
}
