//! Keys: how they are made, what is shown of them, how long they live.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::catalogue::KeyStatus;
use crate::domain::key::{Secret, SecretKind};
use crate::domain::{Change, Environment, Key, Micros};
use crate::store::{Ledger, new_secret};

use super::apply::declare;
use super::{By, ControlError};

/// A key as shown: everything but what could be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyView {
    /// `wbk_` and the key id, 16 characters.
    pub id: String,
    pub service: String,
    pub environment: Environment,
    pub status: KeyStatus,
    pub created_at: Micros,
    /// Absent = never.
    pub expires_at: Option<Micros>,
    /// Absent = what policies allow.
    pub allow_models: Option<Vec<String>>,
    pub note: Option<String>,
}

impl From<&Key> for KeyView {
    fn from(k: &Key) -> KeyView {
        KeyView {
            id: k.id.clone(),
            service: k.service.clone(),
            environment: k.environment,
            status: k.status,
            created_at: k.created_at,
            expires_at: k.expires_at,
            allow_models: k.allow_models.clone(),
            note: k.note.clone(),
        }
    }
}

/// The longest a key of an environment lives where nobody says otherwise.
pub(super) fn default_expiry(environment: Environment, now: Micros) -> Micros {
    now.plus_seconds(environment.max_key_days() * 86_400)
}

/// What deserves a look about a key's end.
pub(super) fn expiry_warning(key: &Key, now: Micros) -> Option<String> {
    let (id, days) = (&key.id, key.environment.max_key_days());
    match key.expires_at {
        None => Some(format!("key `{id}` never expires: replace it in time yourself")),
        Some(at) if at <= now => Some(format!("key `{id}` has ended already, at {at}")),
        Some(at) if at > default_expiry(key.environment, key.created_at) => {
            let environment = key.environment;
            Some(format!("key `{id}` lives longer than the {days} days usual for `{environment}`"))
        }
        Some(_) => None,
    }
}

/// Makes a key and gives its secret, once: nothing can show it again. `expires`: absent = the environment's longest,
/// `Some(None)` = never.
pub async fn create_key(
    ledger: &Ledger,
    by: &By,
    service: &str,
    environment: Environment,
    expires: Option<Option<Micros>>,
    allow_models: Option<Vec<String>>,
    note: Option<String>,
) -> Result<(KeyView, Secret), ControlError> {
    let catalogue = ledger.catalogue();
    if !catalogue.services.contains_key(service) {
        return Err(ControlError::field("service", format!("service `{service}` not found: create it first")));
    }
    if let Some(Some(at)) = expires.filter(|e| e.is_some_and(|at| at <= by.at)) {
        return Err(ControlError::field(
            "expires",
            format!("`{at}` has passed: give a later instant, or leave it out"),
        ));
    }
    let problems = crate::config::rules::key_models(allow_models.as_deref());
    if !problems.is_empty() {
        return Err(ControlError::invalid(problems));
    }
    let secret = new_secret(SecretKind::Service, Some(environment))?;
    let key = Key {
        id: secret.id().to_owned(),
        hash: secret.hash(ledger.pepper()),
        service: service.to_owned(),
        environment,
        created_at: by.at,
        expires_at: expires.unwrap_or_else(|| Some(default_expiry(environment, by.at))),
        status: KeyStatus::Active,
        allow_models,
        note,
    };
    let view = KeyView::from(&key);
    declare(ledger, by, vec![Change::Key(key.id.clone(), Some(key))]).await?;
    Ok((view, secret))
}

/// Ends a key for good. It stays in the catalogue, so that its later use is recognised and receipts name it.
pub async fn revoke_key(ledger: &Ledger, by: &By, id: &str) -> Result<KeyView, ControlError> {
    let catalogue = ledger.catalogue();
    let key = catalogue.keys.get(id).ok_or_else(|| ControlError::NotFound { noun: "key", id: id.to_owned() })?;
    let revoked = Key { status: KeyStatus::Revoked, ..Key::clone(key) };
    let view = KeyView::from(&revoked);
    if key.status != KeyStatus::Revoked {
        declare(ledger, by, vec![Change::Key(id.to_owned(), Some(revoked))]).await?;
    }
    Ok(view)
}
