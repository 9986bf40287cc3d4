//! What a caller was believed by: a virtual key, or a workload token with the rule it fits.

use std::sync::Arc;

use crate::domain::{Assurance, Environment, Key};

use super::jwt::Verified;

/// A verified credential.
#[derive(Clone)]
pub enum Credential {
    Key(Arc<Key>),
    Token(Arc<Verified>),
}

impl Credential {
    /// As it stands on record: `wbk_…`, or `jwt:` with issuer and rule. Never a secret.
    pub fn id(&self) -> &str {
        match self {
            Credential::Key(key) => &key.id,
            Credential::Token(token) => &token.credential,
        }
    }

    pub fn environment(&self) -> Environment {
        match self {
            Credential::Key(key) => key.environment,
            Credential::Token(token) => token.rule.environment,
        }
    }

    pub fn assurance(&self) -> Assurance {
        match self {
            Credential::Key(_) => Assurance::A1,
            Credential::Token(_) => Assurance::A2,
        }
    }

    /// Models (globs) it is limited to; none: what policies allow.
    pub fn allow_models(&self) -> Option<&[String]> {
        match self {
            Credential::Key(key) => key.allow_models.as_deref(),
            Credential::Token(_) => None,
        }
    }

    /// The agent, workflow and run that are verified with it, so that no header can say otherwise.
    pub fn agent(&self) -> Option<&str> {
        self.token().and_then(|token| token.rule.agent.as_deref())
    }

    pub fn workflow(&self) -> Option<&str> {
        self.token().and_then(|token| token.workflow.as_deref())
    }

    pub fn run(&self) -> Option<&str> {
        self.token().and_then(|token| token.run.as_deref())
    }

    pub fn token(&self) -> Option<&Arc<Verified>> {
        match self {
            Credential::Key(_) => None,
            Credential::Token(token) => Some(token),
        }
    }
}
