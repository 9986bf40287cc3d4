//! Who is calling: a credential is read, verified, and answered by the catalogue. From memory; the one thing that is ever
//! waited for is an issuer's keys, where a token names one that is not known yet.
//!
//! A virtual key is compared in constant time, a workload token by its issuer's keys and rules ([`jwt`]).

pub mod credential;
pub mod jwt;
pub mod key_sets;
pub mod tokens;

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use http::request::Parts;

use crate::domain::catalogue::KeyState;
use crate::domain::identity::Claimed;
use crate::domain::key::{Secret, SecretKind};
use crate::domain::{Attribution, Catalogue, Code, Key, Micros, Refusal, Service};

use super::Gateway;
use super::attribute;
use super::carrier::{self, Presented, Unreadable};
use super::refuse::Refused;
use super::snapshot::Snapshot;
use super::ticket::Ticket;

use self::credential::Credential;
use self::tokens::Tokens;

/// A verified caller.
pub struct Caller {
    pub credential: Credential,
    pub service: Arc<Service>,
    pub who: Arc<Attribution>,
    /// The request says nothing of its own about its caller: `who` is shared by all such calls of the credential.
    pub silent: bool,
}

impl Gateway {
    /// Finds out who is calling; fills the ticket.
    pub(super) async fn identify(
        &self,
        snapshot: &Snapshot,
        ticket: &mut Ticket,
        head: &Parts,
    ) -> Result<Caller, Refused> {
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
        let verified = match carrier::read(&head.headers, head.uri.query()) {
            Ok(Presented::Key(secret)) => self.known_key(snapshot, &secret, source, now),
            // Rare, so it does not make every call's task larger.
            Ok(Presented::Token(token)) => Box::pin(self.trusted_token(snapshot, ticket, &token)).await,
            Err(unreadable) => Err(unreadable),
        };
        let (credential, service) = match verified {
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
        let silent = silent && credential.workflow().is_none() && credential.run().is_none();
        if silent && let Some(who) = snapshot.silent(&credential, &service, None) {
            ticket.who = Some(who.clone());
            return Ok(Caller { credential, service, who, silent });
        }
        let pseudonym = |name: &str| self.pseudonym(service.tenant.as_deref(), name);
        let (who, mut claimed) =
            attribute::resolve(&credential, &service, &head.headers, pseudonym).map_err(|refusal| {
                // The caller is known even though what it says is not permitted.
                let bare = http::HeaderMap::new();
                if let Ok((who, claimed)) = attribute::resolve(&credential, &service, &bare, pseudonym) {
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
        claimed.append(&mut ticket.claimed);
        (ticket.who, ticket.claimed) = (Some(who.clone()), claimed);
        Ok(Caller { credential, service, who, silent: false })
    }

    fn known_key(
        &self,
        snapshot: &Snapshot,
        secret: &Secret,
        source: IpAddr,
        now: Micros,
    ) -> Result<(Credential, Arc<Service>), Unreadable> {
        if self.throttle().blocked_key(source, secret.id(), now).is_some() {
            return Err(Unreadable::invalid("throttled", Some(secret.id().to_owned())));
        }
        let (key, service) = verify(&snapshot.catalogue, secret, self.inner.ledger.pepper(), source, now)?;
        Ok((Credential::Key(key), service))
    }

    /// Verifies a workload token, or finds that it did a moment ago. What it says of itself goes on the record.
    async fn trusted_token(
        &self,
        snapshot: &Snapshot,
        ticket: &mut Ticket,
        token: &str,
    ) -> Result<(Credential, Arc<Service>), Unreadable> {
        let (now, hash) = (ticket.received_at, tokens::hash(token));
        let mut asked = false;
        let verified = loop {
            let (sets, reading) = self.inner.key_sets.sets();
            let basis = (snapshot.catalogue.revision, reading);
            if let Some(known) = self.tokens().get(basis, &hash, now) {
                break known;
            }
            let rejected = match jwt::verify(&snapshot.issuers, &sets, token, now) {
                Ok(verified) => {
                    let verified = Arc::new(verified);
                    self.tokens().put(basis, hash, &verified, now);
                    break verified;
                }
                Err(rejected) => rejected,
            };
            let unread = rejected.wants_keys().and_then(|id| snapshot.issuers.iter().find(|i| i.id == id));
            if let Some(issuer) = unread.filter(|_| !asked) {
                asked = true;
                if self.inner.key_sets.ask_again(issuer, reading).await {
                    continue;
                }
            }
            note_claims(ticket, &rejected.shown);
            return Err(Unreadable::invalid(rejected.detail, None));
        };
        note_claims(ticket, &verified.shown);
        let service = snapshot.catalogue.services.get(&verified.rule.service).cloned();
        let service = service.ok_or_else(|| Unreadable::invalid("service_unknown", None))?;
        Ok((Credential::Token(verified), service))
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the keys of trusted issuers that are due. To be called every few seconds.
    pub async fn refresh_issuers(&self) {
        let snapshot = self.snapshot();
        self.inner.key_sets.refresh(&snapshot.issuers).await;
    }

    /// An end user's name as a keyed hash: tells users apart without naming them.
    fn pseudonym(&self, tenant: Option<&str>, name: &str) -> String {
        let text = format!("end-user\0{}\0{name}", tenant.unwrap_or_default());
        let tag = hmac::sign(self.inner.ledger.fingerprint_key(), text.as_bytes());
        format!("u-{}", data_encoding::HEXLOWER.encode(&tag.as_ref()[..16]))
    }
}

/// What a token says of its workload: kept where it can be erased, and never used in a sum.
fn note_claims(ticket: &mut Ticket, shown: &[(String, String)]) {
    for (name, value) in shown {
        attribute::claim(&mut ticket.claimed, &format!("token.{name}"), value);
    }
}

/// Refuses a call that does not say what every call of its service must: budgets may rest on it.
pub(super) fn mandatory(service: &Service, who: &Attribution, claimed: &Claimed) -> Result<(), Refused> {
    let Some(field) = attribute::missing(service, who, claimed) else { return Ok(()) };
    let (id, header) = (&service.id, field.replace('_', "-"));
    let message = format!(
        "Weighbridge: every call of service '{id}' must say its {field}: send the header 'wb-{header}' with a value its \
         catalogue entry permits."
    );
    Err(Refused::new(Refusal { by: Some(format!("service:{id}")), ..Refusal::new(Code::PolicyDenied, message) }))
}

/// Checks a well-formed secret against the catalogue. Unknown ids cost the same HMAC as known ones.
fn verify(
    catalogue: &Catalogue,
    secret: &Secret,
    pepper: &hmac::Key,
    source: IpAddr,
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
    match key.state(now) {
        KeyState::Active | KeyState::Overlapping => {}
        KeyState::Expired => {
            let mut expired = invalid("key_expired");
            let at = key.expires_at.unwrap_or(now);
            let message = format!("Weighbridge: this key ({}) expired at {at}. Ask its owner for a new one.", key.id);
            expired.refusal = Refusal::new(Code::KeyExpired, message);
            return Err(expired);
        }
        // Whoever uses what was replaced, ended or planted may be someone who found it.
        state @ (KeyState::Retired | KeyState::Revoked | KeyState::Canary) => {
            let state = state.name();
            tracing::warn!(key = key.id, state, %source, "a key that must not be in use any more was used");
            return Err(invalid(&format!("key_{state}")));
        }
        state @ (KeyState::Early | KeyState::Suspended) => return Err(invalid(&format!("key_{}", state.name()))),
    }
    let from = source.to_canonical();
    if key.allow_cidrs.as_ref().is_some_and(|nets| !nets.iter().any(|net| net.contains(&from))) {
        return Err(invalid("source_not_permitted"));
    }
    let service = catalogue.services.get(&key.service).ok_or_else(|| invalid("service_unknown"))?;
    Ok((key.clone(), service.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::{KeyStatus, Successor};
    use crate::domain::{Change, Environment, ServiceKind};

    fn catalogue(secret: &Secret, pepper: &hmac::Key, change: impl Fn(&mut Key)) -> Catalogue {
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
            not_before: None,
            allow_cidrs: None,
            lineage: None,
            successor: None,
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
            verify(&catalogue(&secret, &pepper, change), &secret, &pepper, [192, 0, 2, 7].into(), Micros(now))
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

    #[test]
    fn a_replaced_key_works_until_its_overlap_ends_and_one_bound_to_networks_only_there() {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let secret = Secret::parse("wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt").unwrap();
        let detail = |change: &dyn Fn(&mut Key), from: &str, now: i64| {
            let catalogue = catalogue(&secret, &pepper, change);
            verify(&catalogue, &secret, &pepper, from.parse().unwrap(), Micros(now))
                .map_err(|u| u.detail.unwrap())
                .err()
        };
        let replaced = |k: &mut Key| {
            k.successor = Some(Successor { key: "wbk_pother".into(), overlap_until: Micros(50) });
        };
        assert_eq!(detail(&replaced, "192.0.2.7", 49), None);
        assert_eq!(detail(&replaced, "192.0.2.7", 50).as_deref(), Some("key_retired"));
        let early = |k: &mut Key| k.not_before = Some(Micros(10));
        assert_eq!(detail(&early, "192.0.2.7", 9).as_deref(), Some("key_early"));
        assert_eq!(detail(&early, "192.0.2.7", 10), None);
        assert_eq!(detail(&|k| k.status = KeyStatus::Canary, "192.0.2.7", 1).as_deref(), Some("key_canary"));
        let bound =
            |k: &mut Key| k.allow_cidrs = Some(vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        assert_eq!(detail(&bound, "10.1.2.3", 1), None);
        assert_eq!(detail(&bound, "::ffff:10.1.2.3", 1), None, "the same address in the other notation");
        assert_eq!(detail(&bound, "2001:db8::1", 1), None);
        assert_eq!(detail(&bound, "10.2.0.1", 1).as_deref(), Some("source_not_permitted"));
        assert_eq!(detail(&|k| k.allow_cidrs = Some(vec![]), "10.1.2.3", 1).as_deref(), Some("source_not_permitted"));
    }
}
