use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;
use crate::domain::Environment;
use crate::domain::trust::KeySource;

const NOW: i64 = 1_795_000_000;

/// A key pair of ours, with its public half as a JWK.
struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

fn b64(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

fn ed25519(id: &str) -> Signer {
    use aws_lc_rs::signature::KeyPair;
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let der = pair.to_pkcs8v1().unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id, "x": b64(pair.public_key().as_ref())});
    Signer { algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(der.as_ref()), jwk }
}

fn p256(id: &str) -> Signer {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let der = pair.to_pkcs8v1().unwrap();
    let public = pair.public_key().as_ref();
    let (x, y) = (b64(&public[1..33]), b64(&public[33..65]));
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y, "alg": "ES256"});
    Signer { algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(der.as_ref()), jwk }
}

fn rsa(id: &str) -> Signer {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public = pair.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    let jwk = json!({
        "kty": "RSA", "use": "sig", "kid": id,
        "n": b64(n.big_endian_without_leading_zero()), "e": b64(e.big_endian_without_leading_zero()),
    });
    Signer { algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_der(&pkcs1(der.as_ref())), jwk }
}

/// The PKCS#1 key inside a PKCS#8 one: what follows the last OCTET STRING header.
fn pkcs1(pkcs8: &[u8]) -> Vec<u8> {
    let at = (0..pkcs8.len()).find(|at| pkcs8[*at..].starts_with(&[0x04, 0x82]) && pkcs8[at + 4] == 0x30).unwrap();
    pkcs8[at + 4..].to_vec()
}

fn issuer(iss: &str, profile: Profile) -> Issuer {
    Issuer {
        id: "own".into(),
        iss: iss.into(),
        keys: KeySource::default(),
        refresh_s: 600,
        algorithms: Issuer::DEFAULT_ALGORITHMS.map(str::to_owned).into(),
        audience: "weighbridge:acme".into(),
        max_lifetime_s: Issuer::DEFAULT_LIFETIME_S,
        types: vec![],
        profile,
        shared: false,
        rules: vec![],
    }
}

fn rule(id: &str, claims: &[(&str, &str)]) -> Arc<TrustRule> {
    Arc::new(TrustRule {
        id: id.into(),
        claims: claims.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect(),
        service: "invoice-bot".into(),
        agent: None,
        environment: Environment::Prod,
    })
}

const SUB: &str = "system:serviceaccount:ap:invoice-bot";

/// Issuers and their keys, as a call sees them.
struct Trust {
    issuers: Vec<Arc<Issuer>>,
    keys: KeySets,
}

fn trust(issuer: Issuer, keys: &[&Signer], rules: Vec<Arc<TrustRule>>) -> Trust {
    let document = json!({ "keys": keys.iter().map(|s| s.jwk.clone()).collect::<Vec<_>>() });
    let keys = KeySet::read(document.to_string().as_bytes(), issuer.profile).unwrap();
    let keys = KeySets::from([(issuer.id.clone(), Arc::new(keys))]);
    Trust { issuers: vec![Arc::new(Issuer { rules, ..issuer })], keys }
}

fn own(signer: &Signer) -> Trust {
    trust(issuer("https://k8s.example", Profile::Generic), &[signer], vec![rule("bot", &[("sub", SUB)])])
}

fn good() -> Value {
    json!({
        "iss": "https://k8s.example", "sub": SUB, "aud": "weighbridge:acme",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600,
    })
}

/// The good claims, changed: a null removes.
fn claims(changes: Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn sign(signer: &Signer, header: impl FnOnce(&mut Header), claims: &Value) -> String {
    let mut head = Header::new(signer.algorithm);
    head.kid = signer.jwk["kid"].as_str().map(str::to_owned);
    header(&mut head);
    jsonwebtoken::encode(&head, claims, &signer.key).unwrap()
}

fn detail(trust: &Trust, token: &str) -> &'static str {
    match verify(&trust.issuers, &trust.keys, token, Micros(NOW * 1_000_000)) {
        Ok(_) => "verified",
        Err(rejected) => rejected.detail,
    }
}

#[test]
fn tokens_of_every_kind_of_key_verify() {
    for signer in [ed25519("a"), p256("b"), rsa("c")] {
        let trust = own(&signer);
        let token = sign(&signer, |_| {}, &good());
        let verified = verify(&trust.issuers, &trust.keys, &token, Micros(NOW * 1_000_000)).unwrap();
        assert_eq!((verified.rule.id.as_str(), verified.expires_at), ("bot", Micros((NOW + 600) * 1_000_000)));
        assert_eq!(verified.shown[1], ("sub".to_owned(), SUB.to_owned()));
        assert!(looks_like(&token));
    }
}

#[test]
fn every_claim_that_is_not_right_is_told_apart_on_the_record() {
    let signer = ed25519("a");
    let trust = own(&signer);
    for (changes, expected) in [
        (json!({}), "verified"),
        (json!({"iss": "https://k8s.example/"}), "jwt_issuer_unknown"),
        (json!({"iss": "https://K8S.example"}), "jwt_issuer_unknown"),
        (json!({"iss": null}), "jwt_issuer_missing"),
        (json!({"aud": "weighbridge:other"}), "jwt_audience"),
        (json!({"aud": ["weighbridge:acme"]}), "verified"),
        (json!({"aud": ["weighbridge:acme", "vault"]}), "jwt_audience"),
        (json!({"aud": null}), "jwt_audience"),
        (json!({"exp": null}), "jwt_no_expiry"),
        (json!({"exp": "soon"}), "jwt_time"),
        (json!({"exp": 1e300}), "jwt_time"),
        (json!({"exp": NOW - 61}), "jwt_expired"),
        (json!({"exp": NOW - 59}), "verified"),
        (json!({"exp": NOW + 90_000}), "jwt_lifetime"),
        (json!({"exp": NOW + 90_000, "iat": null, "nbf": null}), "jwt_lifetime"),
        (json!({"nbf": NOW + 61}), "jwt_not_yet"),
        (json!({"iat": NOW + 61, "exp": NOW + 120}), "jwt_not_yet"),
        (json!({"sub": "system:serviceaccount:ap:other"}), "identity_unmapped"),
    ] {
        assert_eq!(detail(&trust, &sign(&signer, |_| {}, &claims(changes.clone()))), expected, "{changes}");
    }
}

#[test]
fn what_a_header_says_changes_neither_key_nor_algorithm() {
    let (signer, thief) = (ed25519("a"), ed25519("a"));
    let trust = own(&signer);
    let with = |header: &dyn Fn(&mut Header)| detail(&trust, &sign(&signer, |h| header(h), &good()));
    assert_eq!(with(&|h| h.kid = Some("../../etc/passwd".into())), "jwt_key_unknown");
    assert_eq!(with(&|h| h.kid = None), "verified", "the only key there is");
    assert_eq!(with(&|h| h.crit = Some(vec!["b64".into()])), "jwt_crit");
    assert_eq!(with(&|h| h.typ = Some("at+jwt".into())), "jwt_type");
    assert_eq!(with(&|h| h.typ = None), "verified");
    // The thief brings a key of its own, in every way a header has.
    let jwk: Jwk = serde_json::from_value(thief.jwk.clone()).unwrap();
    let forged = sign(&thief, |h| (h.jwk, h.jku) = (Some(jwk), Some("https://thief.example/jwks".into())), &good());
    assert_eq!(detail(&trust, &forged), "jwt_signature");
}

#[test]
fn no_signature_and_a_public_key_as_a_secret_are_refused() {
    let signer = rsa("a");
    let trust = own(&signer);
    let unsigned = |alg: &str| {
        let header = b64(json!({"alg": alg, "typ": "JWT", "kid": "a"}).to_string().as_bytes());
        format!("{header}.{}.", b64(good().to_string().as_bytes()))
    };
    assert_eq!(detail(&trust, &unsigned("none")), "jwt_header");
    assert_eq!(detail(&trust, &unsigned("NONE")), "jwt_header");
    assert_eq!(detail(&trust, &unsigned("RS256")), "jwt_signature");
    let mut head = Header::new(Algorithm::HS256);
    head.kid = Some("a".into());
    let public = EncodingKey::from_secret(signer.jwk["n"].as_str().unwrap().as_bytes());
    assert_eq!(detail(&trust, &jsonwebtoken::encode(&head, &good(), &public).unwrap()), "jwt_algorithm");
    // Another algorithm of the same family, which the issuer does not use.
    let other = Signer { algorithm: Algorithm::RS512, ..signer };
    assert_eq!(detail(&trust, &sign(&other, |_| {}, &good())), "jwt_algorithm");
}

#[test]
fn forms_that_are_no_token_end_before_anything_is_looked_up() {
    let signer = ed25519("a");
    let trust = own(&signer);
    let token = sign(&signer, |_| {}, &good());
    assert_eq!(detail(&trust, &format!("{token}{}", "A".repeat(MAX_TOKEN))), "jwt_too_long");
    for bad in ["", "a.b.c", "...", "eyJ.eyJ", "eyJhbGciOiJFZERTQSJ9.bm90anNvbg.AA"] {
        assert_ne!(detail(&trust, bad), "verified", "{bad}");
    }
    // One character of each part.
    for at in [5, token.find('.').unwrap() + 5, token.len() - 5] {
        let mut other = token.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert_ne!(detail(&trust, &String::from_utf8(other).unwrap()), "verified", "character {at}");
    }
}

#[test]
fn a_subject_of_another_trusted_issuer_is_not_ours() {
    let (ours, theirs) = (ed25519("a"), ed25519("a"));
    let mut both = own(&ours);
    let other = Issuer { id: "other".into(), ..issuer("https://other.example", Profile::Generic) };
    let other = trust(other, &[&theirs], vec![rule("theirs", &[("sub", "x")])]);
    both.issuers.extend(other.issuers);
    both.keys.extend(other.keys);
    assert_eq!(detail(&both, &sign(&theirs, |_| {}, &good())), "jwt_signature");
    let colliding = claims(json!({"iss": "https://other.example"}));
    assert_eq!(detail(&both, &sign(&theirs, |_| {}, &colliding)), "identity_unmapped");
}

#[test]
fn the_first_rule_that_fits_is_taken_and_run_and_workflow_come_from_verified_claims() {
    let signer = p256("g");
    let github = issuer("https://token.actions.githubusercontent.com", Profile::GithubActions);
    let rules = vec![
        rule("deploy", &[("repository_id", "42"), ("event_name", "push")]),
        rule("any", &[("repository_id", "42")]),
    ];
    let trust = trust(github, &[&signer], rules);
    let token = |event: &str| {
        let claims = claims(json!({
            "iss": "https://token.actions.githubusercontent.com", "repository_id": "42", "repository": "acme/app",
            "repository_owner_id": "7", "event_name": event, "workflow": "release", "run_id": "991",
        }));
        sign(&signer, |_| {}, &claims)
    };
    let of = |event: &str| verify(&trust.issuers, &trust.keys, &token(event), Micros(NOW * 1_000_000)).unwrap();
    assert_eq!((of("push").rule.id.as_str(), of("pull_request").rule.id.as_str()), ("deploy", "any"));
    assert_eq!((of("push").workflow.as_deref(), of("push").run.as_deref()), (Some("release"), Some("991")));
    // From a fork: the same name, another owner, another id.
    let fork = claims(json!({
        "iss": "https://token.actions.githubusercontent.com", "repository_id": "43", "repository": "acme/app",
    }));
    let fork = sign(&signer, |_| {}, &fork);
    let rejected = verify(&trust.issuers, &trust.keys, &fork, Micros(NOW * 1_000_000)).unwrap_err();
    assert_eq!(rejected.detail, "identity_unmapped");
    assert!(rejected.shown.contains(&("repository_id".into(), "43".into())), "an operator can make a rule of it");
}

#[test]
fn key_sets_leave_out_what_verifies_nothing_and_refuse_the_rest() {
    let (a, b) = (ed25519("a"), p256("b"));
    let mut encryption = a.jwk.clone();
    encryption["use"] = "enc".into();
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s"});
    let document = json!({"keys": [encryption, symmetric, {"kty": "new"}, 7, b.jwk]}).to_string();
    assert_eq!(KeySet::read(document.as_bytes(), Profile::Generic).unwrap().len(), 1);
    for bad in ["", "[]", "{\"keys\":{}}", "{\"keys\":[]}"] {
        assert!(KeySet::read(bad.as_bytes(), Profile::Generic).is_err(), "{bad}");
    }
    // A SPIFFE bundle holds certificates' keys beside those of tokens.
    let mut svid = a.jwk.clone();
    svid["use"] = "jwt-svid".into();
    let bundle = json!({"keys": [{"kty": "EC", "use": "x509-svid"}, svid, b.jwk]}).to_string();
    assert_eq!(KeySet::read(bundle.as_bytes(), Profile::SpiffeJwt).unwrap().len(), 1);
}
