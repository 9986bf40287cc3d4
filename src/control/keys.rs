//! Keys: how they are made, what is shown of them, how long they live.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::catalogue::{KeyState, KeyStatus, Successor};
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
    /// Absent = since it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Micros>,
    /// Networks it may be used from. Absent = anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_cidrs: Option<Vec<String>>,
    /// The first key of its line, where it took another's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// The key that takes its place, and until when both work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_until: Option<Micros>,
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
            not_before: k.not_before,
            allow_cidrs: k.allow_cidrs.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
            lineage: k.lineage.clone(),
            successor: k.successor.as_ref().map(|s| s.key.clone()),
            overlap_until: k.successor.as_ref().map(|s| s.overlap_until),
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

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub service: String,
    pub environment: Environment,
    /// Absent = the environment's longest, `Some(None)` = never.
    pub expires: Option<Option<Micros>>,
    pub allow_models: Option<Vec<String>>,
    pub note: Option<String>,
    pub not_before: Option<Micros>,
    pub allow_cidrs: Option<Vec<IpNet>>,
}

/// Makes a key and gives its secret, once: nothing can show it again.
pub async fn create_key(ledger: &Ledger, by: &By, new: NewKey) -> Result<(KeyView, Secret), ControlError> {
    let NewKey { service, environment, expires, allow_models, note, not_before, allow_cidrs } = new;
    let service = service.as_str();
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
        not_before,
        allow_cidrs,
        lineage: None,
        successor: None,
    };
    let view = KeyView::from(&key);
    declare(ledger, by, vec![Change::Key(key.id.clone(), Some(key))]).await?;
    Ok((view, secret))
}

/// How long a key and its successor both work, in seconds, where nobody says otherwise; and at most.
const OVERLAP_S: i64 = 24 * 3_600;
const MOST_OVERLAP_S: i64 = 30 * 86_400;

/// Puts a new key in the place of a working one: the same in everything but its secret and its end. Both work until the
/// overlap is over. Both changes are one declaration.
pub async fn rotate_key(
    ledger: &Ledger,
    by: &By,
    id: &str,
    overlap_s: Option<i64>,
) -> Result<(KeyView, Secret), ControlError> {
    let catalogue = ledger.catalogue();
    let old = catalogue.keys.get(id).ok_or_else(|| ControlError::NotFound { noun: "key", id: id.to_owned() })?;
    let overlap = overlap_s.unwrap_or(OVERLAP_S);
    if !(0..=MOST_OVERLAP_S).contains(&overlap) {
        let what = format!("`{overlap}` is not possible: use 0 to {MOST_OVERLAP_S} seconds");
        return Err(ControlError::field("overlap_s", what));
    }
    if let Some(successor) = &old.successor {
        return Err(ControlError::Conflict(format!(
            "key `{id}` has the successor `{}`: rotate that one",
            successor.key
        )));
    }
    let state = old.state(by.at);
    if !state.works() && state != KeyState::Early {
        return Err(ControlError::Conflict(format!("key `{id}` is {}: make another key instead", state.name())));
    }
    let secret = new_secret(SecretKind::Service, Some(old.environment))?;
    let new = Key {
        id: secret.id().to_owned(),
        hash: secret.hash(ledger.pepper()),
        created_at: by.at,
        expires_at: old.expires_at.map(|_| default_expiry(old.environment, by.at)),
        lineage: Some(old.lineage.clone().unwrap_or_else(|| old.id.clone())),
        ..Key::clone(old)
    };
    let successor = Successor { key: new.id.clone(), overlap_until: by.at.plus_seconds(overlap) };
    let replaced = Key { successor: Some(successor), ..Key::clone(old) };
    let view = KeyView::from(&new);
    let changes = vec![Change::Key(new.id.clone(), Some(new)), Change::Key(id.to_owned(), Some(replaced))];
    declare(ledger, by, changes).await?;
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
