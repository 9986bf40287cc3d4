//! Who is calling: a credential is read, verified in constant time, and answered by the catalogue. From memory, no I/O.

use std::sync::Arc;

use aws_lc_rs::hmac;
use http::request::Parts;

use crate::domain::catalogue::KeyStatus;
use crate::domain::key::{Secret, SecretKind};
use crate::domain::{Attribution, Catalogue, Code, Key, Micros, Refusal, Service};

use super::Gateway;
use super::attribute;
use super::carrier::{self, Unreadable};
use super::refuse::Refused;
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// A verified caller.
pub struct Caller {
    pub key: Arc<Key>,
    pub service: Arc<Service>,
    pub who: Arc<Attribution>,
    /// The request says nothing of its own about its caller: `who` is shared by all such calls of the key.
    pub silent: bool,
}

impl Gateway {
    /// Finds out who is calling; fills the ticket.
    pub(super) fn identify(&self, snapshot: &Snapshot, ticket: &mut Ticket, head: &Parts) -> Result<Caller, Refused> {
        let (source, now) = (ticket.peer.ip(), ticket.received_at);
        let blocked = |seconds: u8| {
            let mut refusal = Refusal::new(
                Code::RateLimited,
                "Weighbridge: too many invalid credentials came from your network. Check the key, then try again.",
            );
            refusal.retry_after_s = Some(seconds);
            Refused::new(refusal)
        };
        if let Some(seconds) = self.throttle().blocked(source, now) {
            return Err(blocked(seconds));
        }
        let verified = carrier::read(&head.headers, head.uri.query()).and_then(|secret| {
            if self.throttle().blocked_key(source, secret.id(), now).is_some() {
                return Err(Unreadable::invalid("throttled", Some(secret.id().to_owned())));
            }
            verify(&snapshot.catalogue, &secret, self.inner.ledger.pepper(), now)
        });
        let (key, service) = match verified {
            Ok(found) => found,
            Err(unreadable) => {
                let counts = matches!(unreadable.refusal.code, Code::KeyInvalid | Code::VendorKeyPresented);
                if counts {
                    self.throttle().bad(source, unreadable.key_id.as_deref(), now);
                }
                let detail = match (unreadable.detail, unreadable.key_id) {
                    (Some(detail), Some(id)) if !detail.contains(&id) => Some(format!("{detail}:{id}")),
                    (detail, _) => detail,
                };
                return Err(Refused { detail, ..Refused::new(unreadable.refusal) });
            }
        };
        self.throttle().good(source, now);
        let silent = attribute::says_nothing(&head.headers);
        if silent && let Some(who) = snapshot.silent(&key, &service, None) {
            ticket.who = Some(who.clone());
            return Ok(Caller { key, service, who, silent });
        }
        let pseudonym = |name: &str| self.pseudonym(service.tenant.as_deref(), name);
        let (who, claimed) = attribute::resolve(&key, &service, &head.headers, pseudonym).map_err(|refusal| {
            // The caller is known even though what it says is not permitted.
            let bare = http::HeaderMap::new();
            if let Ok((who, claimed)) = attribute::resolve(&key, &service, &bare, pseudonym) {
                (ticket.who, ticket.claimed) = (Some(who.into()), claimed);
            }
            for name in ["wb-tenant", "wb-workflow"] {
                if let Some(value) = head.headers.get(name).and_then(|v| v.to_str().ok()) {
                    attribute::claim(&mut ticket.claimed, name, value);
                }
            }
            Refused::new(refusal)
        })?;
        let who = Arc::new(who);
        (ticket.who, ticket.claimed) = (Some(who.clone()), claimed);
        Ok(Caller { key, service, who, silent: false })
    }

    /// An end user's name as a keyed hash: tells users apart without naming them.
    fn pseudonym(&self, tenant: Option<&str>, name: &str) -> String {
        let text = format!("end-user\0{}\0{name}", tenant.unwrap_or_default());
        let tag = hmac::sign(self.inner.ledger.fingerprint_key(), text.as_bytes());
        format!("u-{}", data_encoding::HEXLOWER.encode(&tag.as_ref()[..16]))
    }
}

/// Checks a well-formed secret against the catalogue. Unknown ids cost the same HMAC as known ones.
fn verify(
    catalogue: &Catalogue,
    secret: &Secret,
    pepper: &hmac::Key,
    now: Micros,
) -> Result<(Arc<Key>, Arc<Service>), Unreadable> {
    let invalid = |detail: &str| Unreadable::invalid(detail, Some(secret.id().to_owned()));
    let key = catalogue.keys.get(secret.id());
    let matches = secret.matches(pepper, key.map_or(&[0u8; 32], |k| &k.hash));
    let Some(key) = key else { return Err(invalid("key_unknown")) };
    if !matches {
        return Err(invalid("secret_mismatch"));
    }
    if secret.kind != SecretKind::Service {
        return Err(invalid("credential_kind"));
    }
    if secret.environment() != Some(key.environment) {
        return Err(invalid("environment_mismatch"));
    }
    if key.expires_at.is_some_and(|at| at <= now) {
        let mut expired = invalid("key_expired");
        let at = key.expires_at.unwrap_or(now);
        let message = format!("Weighbridge: this key ({}) expired at {at}. Ask its owner for a new one.", key.id);
        expired.refusal = Refusal::new(Code::KeyExpired, message);
        return Err(expired);
    }
    match key.status {
        KeyStatus::Active => {}
        KeyStatus::Suspended => return Err(invalid("key_suspended")),
        KeyStatus::Revoked => return Err(invalid("key_revoked")),
    }
    let service = catalogue.services.get(&key.service).ok_or_else(|| invalid("service_unknown"))?;
    Ok((key.clone(), service.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Change, Environment, ServiceKind};

    fn catalogue(secret: &Secret, pepper: &hmac::Key, change: impl FnOnce(&mut Key)) -> Catalogue {
        let mut key = Key {
            id: secret.id().into(),
            hash: secret.hash(pepper),
            service: "s".into(),
            environment: Environment::Prod,
            created_at: Micros(0),
            expires_at: Some(Micros(100)),
            status: KeyStatus::Active,
            allow_models: None,
            note: None,
        };
        change(&mut key);
        let service = Service {
            id: "s".into(),
            application: "a".into(),
            kind: ServiceKind::Service,
            owner: "o".into(),
            business_unit: "b".into(),
            cost_centre: None,
            tenant: None,
            purpose: None,
            caller_fields: Default::default(),
            mandatory_fields: Default::default(),
            tenants: vec![],
            workflows: vec![],
            prompt_classes: vec![],
        };
        let mut catalogue = Catalogue::default();
        catalogue.apply(Change::Service("s".into(), Some(service)));
        catalogue.apply(Change::Key(key.id.clone(), Some(key)));
        catalogue
    }

    #[test]
    fn a_key_verifies_until_it_ends_and_says_why_only_to_the_record() {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let secret = Secret::parse("wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt").unwrap();
        let check = |change: fn(&mut Key), now: i64| {
            verify(&catalogue(&secret, &pepper, change), &secret, &pepper, Micros(now))
                .map(|_| ())
                .map_err(|u| (u.refusal.code, u.refusal.message, u.detail.unwrap_or_default()))
        };
        assert!(check(|_| {}, 99).is_ok());
        assert_eq!(check(|_| {}, 100).unwrap_err().0, Code::KeyExpired);
        let bodies: Vec<_> = [
            check(|k| k.hash = [0; 32], 1),
            check(|k| k.status = KeyStatus::Revoked, 1),
            check(|k| k.environment = Environment::Test, 1),
            check(|k| k.service = "gone".into(), 1),
        ]
        .into_iter()
        .map(Result::unwrap_err)
        .collect();
        assert!(bodies.iter().all(|(code, message, _)| *code == Code::KeyInvalid && *message == bodies[0].1));
        let details: std::collections::BTreeSet<_> = bodies.iter().map(|(_, _, detail)| detail).collect();
        assert_eq!(details.len(), 4);
    }
}
