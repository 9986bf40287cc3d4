//! Workload tokens: a signed JWT of a trusted issuer in, the rule it fits out. No I/O, and no clock of its own.
//!
//! Checked in a fixed order, and the first failure ends it: length, form, issuer, algorithm, key, signature, type,
//! audience, times, rule. Callers get one answer for all of them; the record has the exact one. Keys come from the issuer's
//! declared source alone: a token that brings its own (`jwk`, `jku`, `x5u`) is measured against the declared ones like any
//! other, and one that asks for something to be understood (`crit`) is refused.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::{Map, Value};

use crate::domain::Micros;
use crate::domain::trust::{CREDENTIAL_PREFIX, Issuer, Profile, TrustRule, claim, text};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Most keys read of one issuer.
const MAX_KEYS: usize = 100;
/// Longest value kept of a claim, in bytes.
const MAX_VALUE: usize = 256;

/// The keys of issuers, by the issuer's id. An issuer without is one whose source could not be read yet.
pub type KeySets = HashMap<String, Arc<KeySet>>;

/// A token that verified, and the rule it fits.
#[derive(Clone, Debug)]
pub struct Verified {
    /// `jwt:`, the issuer and the rule: what stands as the credential on the record.
    pub credential: String,
    pub rule: Arc<TrustRule>,
    /// Naming claims, for the record: bounded.
    pub shown: Vec<(String, String)>,
    /// Workflow and run, where the profile's claims say them.
    pub workflow: Option<String>,
    pub run: Option<String>,
    /// SHA-256 of the client certificate the token is bound to (`cnf.x5t#S256`, base64url).
    pub bound_to: Option<String>,
    pub expires_at: Micros,
}

/// Why a token is not believed: the record's word, and the naming claims once the signature was good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    pub detail: &'static str,
    pub shown: Vec<(String, String)>,
    /// Id of the issuer the token names, where it is a trusted one.
    pub issuer: Option<String>,
}

impl Rejected {
    /// Whether the issuer's keys as they are now could change the answer.
    pub fn wants_keys(&self) -> Option<&str> {
        let unknown = matches!(self.detail, "jwt_key_unknown" | "jwt_keys_unavailable");
        self.issuer.as_deref().filter(|_| unknown)
    }
}

impl From<&'static str> for Rejected {
    fn from(detail: &'static str) -> Rejected {
        Rejected { detail, ..Rejected::default() }
    }
}

/// An issuer's public keys.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

struct PublicKey {
    id: Option<String>,
    /// The only algorithms a key of this type and curve can verify.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a JWKS document. Keys of kinds that sign nothing here are passed over; a document without one is an error.
    pub fn read(json: &[u8], profile: Profile) -> Result<KeySet, String> {
        let document: Value = serde_json::from_slice(json).map_err(|e| format!("is no JSON: {e}"))?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or("has no list `keys`")?;
        let purpose = |jwk: &Value| match jwk.get("use").and_then(Value::as_str) {
            None => profile != Profile::SpiffeJwt,
            Some(purpose) => purpose == if profile == Profile::SpiffeJwt { "jwt-svid" } else { "sig" },
        };
        let keys: Vec<PublicKey> = listed.iter().filter(|jwk| purpose(jwk)).take(MAX_KEYS).filter_map(public).collect();
        if keys.is_empty() {
            Err("has no key that signatures could be checked with".into())
        } else {
            Ok(KeySet { keys })
        }
    }

    /// The key a token names; where it names none, the only one there is.
    fn find(&self, id: Option<&str>) -> Option<&PublicKey> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

/// A key of a JWKS, if it can verify anything. What says `use` was looked at before.
fn public(jwk: &Value) -> Option<PublicKey> {
    let mut plain = jwk.as_object()?.clone();
    ["use", "key_ops", "x5c", "x5u", "x5t", "x5t#S256"].iter().for_each(|name| drop(plain.remove(*name)));
    let named = match plain.remove("alg") {
        Some(name) => Some(name.as_str()?.parse::<Algorithm>().ok()?),
        None => None,
    };
    let jwk: Jwk = serde_json::from_value(Value::Object(plain)).ok()?;
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => vec![EdDSA],
        _ => return None,
    };
    algorithms.retain(|algorithm| named.is_none_or(|named| named == *algorithm));
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then_some(PublicKey { id: jwk.common.key_id, algorithms, key })
}

/// Whether a credential looks like a JWT: three parts, of which the first is a JSON object in base64url.
pub fn looks_like(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|b| *b == b'.').count() == 2
}

/// Verifies a token as of `now`.
pub fn verify(trusted: &[Arc<Issuer>], keys: &KeySets, token: &str, now: Micros) -> Result<Verified, Rejected> {
    if token.len() > MAX_TOKEN {
        return Err("jwt_too_long".into());
    }
    // An algorithm this library does not know (`none`, too) fails here.
    let header = jsonwebtoken::decode_header(token).map_err(|e| match e.kind() {
        ErrorKind::Json(_) => "jwt_header",
        _ => "jwt_malformed",
    })?;
    let unverified: Map<String, Value> =
        jsonwebtoken::dangerous::insecure_decode(token).map(|data| data.claims).map_err(|_| "jwt_malformed")?;
    let iss = unverified.get("iss").and_then(Value::as_str).ok_or("jwt_issuer_missing")?;
    let issuer = trusted.iter().find(|issuer| issuer.iss == iss).ok_or("jwt_issuer_unknown")?;
    let claims = signed(issuer, keys.get(&issuer.id).map(|set| &**set), token, &header).map_err(|detail| Rejected {
        detail,
        shown: Vec::new(),
        issuer: Some(issuer.id.clone()),
    })?;
    let shown = shown(issuer.profile, &claims);
    let rejected = |detail| Rejected { detail, shown: shown.clone(), issuer: Some(issuer.id.clone()) };
    typed(issuer, &header).map_err(rejected)?;
    audience(issuer, &claims).map_err(rejected)?;
    let expires_at = times(issuer, &claims, now).map_err(rejected)?;
    let rule = issuer.rules.iter().find(|rule| rule.fits(&claims)).ok_or_else(|| rejected("identity_unmapped"))?;
    let run = issuer.profile.run_claims();
    let of = |name: &str| claim(&claims, name).and_then(text).map(|value| cut(&value));
    Ok(Verified {
        workflow: run.and_then(|(workflow, _)| of(workflow)),
        run: run.and_then(|(_, run)| of(run)),
        bound_to: claims.get("cnf").and_then(|cnf| cnf.get("x5t#S256")).and_then(Value::as_str).map(str::to_owned),
        credential: format!("{CREDENTIAL_PREFIX}{}/{}", issuer.id, rule.id),
        rule: rule.clone(),
        shown,
        expires_at,
    })
}

/// The claims, once the signature is the issuer's.
fn signed(
    issuer: &Issuer,
    keys: Option<&KeySet>,
    token: &str,
    header: &Header,
) -> Result<Map<String, Value>, &'static str> {
    if header.crit.is_some() {
        return Err("jwt_crit");
    }
    let name = format!("{:?}", header.alg);
    if !issuer.algorithms.contains(&name) || !Issuer::ALGORITHMS.contains(&name.as_str()) {
        return Err("jwt_algorithm");
    }
    let key = keys.ok_or("jwt_keys_unavailable")?.find(header.kid.as_deref()).ok_or("jwt_key_unknown")?;
    if !key.algorithms.contains(&header.alg) {
        return Err("jwt_algorithm");
    }
    // What the claims say is looked at below, by rules of our own.
    let mut validation = Validation::new(header.alg);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation)
        .map(|data| data.claims)
        .map_err(|_| "jwt_signature")
}

fn typed(issuer: &Issuer, header: &Header) -> Result<(), &'static str> {
    let found = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
    let declared = issuer.types.iter().any(|t| t.eq_ignore_ascii_case(&found));
    let by_profile = issuer.types.is_empty() && issuer.profile.types().contains(&found.as_str());
    if declared || by_profile { Ok(()) } else { Err("jwt_type") }
}

/// One audience, ours: a token that others accept, too, could be passed on by them.
fn audience(issuer: &Issuer, claims: &Map<String, Value>) -> Result<(), &'static str> {
    let found = match claims.get("aud") {
        Some(Value::String(one)) => Some(one),
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(one)] => Some(one),
            _ => None,
        },
        _ => None,
    };
    if found == Some(&issuer.audience) { Ok(()) } else { Err("jwt_audience") }
}

/// When the token ends, if it is in force and not made for longer than the issuer may.
fn times(issuer: &Issuer, claims: &Map<String, Value>, now: Micros) -> Result<Micros, &'static str> {
    let seconds = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(n)) => n.as_f64().filter(|s| s.abs() < 1e11).map(|s| Some(s as i64)).ok_or("jwt_time"),
        Some(_) => Err("jwt_time"),
    };
    let now = now.0.div_euclid(1_000_000);
    let exp = seconds("exp")?.ok_or("jwt_no_expiry")?;
    let (nbf, iat) = (seconds("nbf")?, seconds("iat")?);
    if exp + Issuer::SKEW_S <= now {
        return Err("jwt_expired");
    }
    if nbf.max(iat).is_some_and(|from| from - Issuer::SKEW_S > now) {
        return Err("jwt_not_yet");
    }
    let most = i64::from(issuer.max_lifetime_s.min(Issuer::MOST_LIFETIME_S));
    if exp - iat.or(nbf).unwrap_or(now) > most + Issuer::SKEW_S {
        return Err("jwt_lifetime");
    }
    Ok(Micros(exp.saturating_mul(1_000_000)))
}

fn shown(profile: Profile, claims: &Map<String, Value>) -> Vec<(String, String)> {
    let names = ["iss", "sub"].iter().chain(profile.naming_claims());
    names.filter_map(|name| Some(((*name).to_owned(), cut(&text(claim(claims, name)?)?)))).collect()
}

fn cut(value: &str) -> String {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
