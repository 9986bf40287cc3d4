//! Where a request carries its credential, and what kind it is. Nothing here looks anything up.
//!
//! SDKs differ in the header they use, so a key is accepted in any of them; two different ones are ambiguous. A key in the
//! query string is refused, because it ends in access logs. An AWS SDK's signature proves nothing to us, who keep only a
//! hash of the key: the whole key as access key id or session token is a bearer credential like the others.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::domain::key::{Secret, SecretError};
use crate::domain::{Code, Refusal};

use super::identify::jwt;
use super::names;

/// The headers that can carry a credential, `authorization` apart.
static KEY_HEADERS: [&HeaderName; 4] =
    [&names::X_API_KEY, &names::X_GOOG_API_KEY, &names::API_KEY, &names::X_AMZ_SECURITY_TOKEN];
/// Query parameters in which some APIs take keys.
const KEY_PARAMETERS: [&str; 4] = ["key", "api_key", "api-key", "access_token"];
/// How vendors' own keys begin.
const VENDOR_KEYS: [&str; 6] = ["sk-", "AIza", "gsk_", "xai-", "pplx-", "sess-"];

/// Why no credential came out, with what only the record may say.
#[derive(Debug)]
pub struct Unreadable {
    pub refusal: Refusal,
    pub detail: Option<String>,
    /// The key id that was shown, if it is readable: not secret.
    pub key_id: Option<String>,
}

impl Unreadable {
    fn new(code: Code, message: &str) -> Unreadable {
        Unreadable { refusal: Refusal::new(code, format!("Weighbridge: {message}")), detail: None, key_id: None }
    }

    /// One answer for whatever did not verify; the record has the exact reason.
    pub fn invalid(detail: &str, key_id: Option<String>) -> Unreadable {
        let mut this = Unreadable::new(
            Code::KeyInvalid,
            "this credential is not valid here. Check that a key was copied whole (54 characters, wbk_…).",
        );
        this.detail = Some(detail.to_owned());
        this.key_id = key_id;
        this
    }
}

/// A credential as it was presented.
#[derive(Debug)]
pub enum Presented {
    Key(Secret),
    /// A JWT, not looked into yet.
    Token(String),
}

/// Takes the one credential out of a request.
pub fn read(headers: &HeaderMap, query: Option<&str>) -> Result<Presented, Unreadable> {
    if let Some(found) = query.and_then(in_query) {
        let mut refused = Unreadable::new(
            Code::CredentialInQuery,
            "a credential in the query string ends in access logs, so it is not accepted. Send it as 'authorization: Bearer'.",
        );
        refused.key_id = Secret::parse(&found).ok().map(|s| s.id().to_owned());
        refused.detail = refused.key_id.as_ref().map(|id| format!("leaked:{id}"));
        return Err(refused);
    }
    let text = one_value(headers)?;
    parse(&text)
}

fn parse(text: &str) -> Result<Presented, Unreadable> {
    if text.starts_with("wb") {
        return Secret::parse(text).map(Presented::Key).map_err(|e| {
            let detail = match e {
                SecretError::Form => "credential_malformed",
                SecretError::Checksum => "credential_checksum",
            };
            let id = text.get(..16).filter(|id| id.bytes().skip(4).all(|b| b.is_ascii_alphanumeric()));
            Unreadable::invalid(detail, id.map(str::to_owned))
        });
    }
    if VENDOR_KEYS.iter().any(|prefix| text.starts_with(prefix)) {
        return Err(Unreadable::new(
            Code::VendorKeyPresented,
            "this looks like a provider's own key. Give software a Weighbridge key (wbk_…) instead; the provider's key stays here.",
        ));
    }
    if jwt::looks_like(text) {
        return Ok(Presented::Token(text.to_owned()));
    }
    Err(Unreadable::invalid("credential_malformed", None))
}

/// The one value that all carriers agree on.
fn one_value(headers: &HeaderMap) -> Result<String, Unreadable> {
    let ambiguous = || {
        Unreadable::new(
            Code::CredentialAmbiguous,
            "the request carries more than one credential. Send exactly one, for example 'authorization: Bearer wbk_…'.",
        )
    };
    let mut found: Option<String> = None;
    for name in std::iter::once(&AUTHORIZATION).chain(KEY_HEADERS) {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(ambiguous());
        }
        let text = value.to_str().map_err(|_| Unreadable::invalid("credential_malformed", None))?.trim();
        let text = if *name == AUTHORIZATION { from_authorization(text)? } else { text.to_owned() };
        // A session token and the signature beside it are one credential in two parts.
        if *name == names::X_AMZ_SECURITY_TOKEN && !text.starts_with("wb") || text.is_empty() {
            continue;
        }
        match &found {
            Some(other) if *other != text && !is_aws_placeholder(other) => return Err(ambiguous()),
            _ => found = Some(text),
        }
    }
    found.ok_or_else(|| {
        Unreadable::new(
            Code::CredentialMissing,
            "no credential. Send your key as 'authorization: Bearer wbk_…' or 'x-api-key'.",
        )
    })
}

/// An access key id that is not ours: the credential may be in the session token.
fn is_aws_placeholder(text: &str) -> bool {
    text.starts_with("AKIA") || text.starts_with("ASIA")
}

fn from_authorization(text: &str) -> Result<String, Unreadable> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(rest.trim().to_owned());
    }
    if scheme == "AWS4-HMAC-SHA256" {
        let credential = rest.split("Credential=").nth(1).and_then(|r| r.split(['/', ',', ' ']).next());
        return credential.map(str::to_owned).ok_or_else(|| Unreadable::invalid("credential_malformed", None));
    }
    Err(Unreadable::invalid("credential_scheme", None))
}

fn in_query(query: &str) -> Option<String> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        (KEY_PARAMETERS.contains(&name.as_str()) && !value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt";
    const OTHER: &str = "wba_t0000000000A000000000000000000000000000000001DLCdi";

    fn with(pairs: &[(&'static str, &str)]) -> Result<Secret, Unreadable> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        read(&headers, None).map(|presented| match presented {
            Presented::Key(secret) => secret,
            Presented::Token(text) => panic!("{text} is no key"),
        })
    }

    fn code(pairs: &[(&'static str, &str)]) -> Code {
        with(pairs).err().unwrap().refusal.code
    }

    #[test]
    fn a_key_is_accepted_in_every_carrier() {
        let bearer = format!("Bearer {KEY}");
        let lower = format!("bearer {KEY}");
        let aws = format!(
            "AWS4-HMAC-SHA256 Credential={KEY}/20261123/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=ab"
        );
        for pairs in [
            vec![("authorization", bearer.as_str())],
            vec![("authorization", lower.as_str())],
            vec![("x-api-key", KEY)],
            vec![("x-goog-api-key", KEY)],
            vec![("api-key", KEY)],
            vec![("authorization", aws.as_str())],
            vec![
                ("authorization", "AWS4-HMAC-SHA256 Credential=AKIAX/2026, Signature=ab"),
                ("x-amz-security-token", KEY),
            ],
            vec![("authorization", bearer.as_str()), ("x-api-key", KEY)],
        ] {
            assert_eq!(with(&pairs).unwrap().expose(), KEY, "{pairs:?}");
        }
    }

    #[test]
    fn two_keys_or_a_repeated_carrier_are_ambiguous() {
        let bearer = format!("Bearer {KEY}");
        assert_eq!(code(&[("authorization", &bearer), ("x-api-key", OTHER)]), Code::CredentialAmbiguous);
        assert_eq!(code(&[("x-api-key", KEY), ("x-api-key", KEY)]), Code::CredentialAmbiguous);
    }

    #[test]
    fn vendor_keys_missing_keys_and_wrong_checksums_are_told_apart() {
        assert_eq!(code(&[]), Code::CredentialMissing);
        assert_eq!(code(&[("authorization", "Bearer sk-ant-abc")]), Code::VendorKeyPresented);
        assert_eq!(code(&[("x-goog-api-key", "AIzaSyAbc")]), Code::VendorKeyPresented);
        let bad = format!("{}x", &KEY[..53]);
        let refused = with(&[("x-api-key", &bad)]).err().unwrap();
        assert_eq!((refused.refusal.code, refused.detail.as_deref()), (Code::KeyInvalid, Some("credential_checksum")));
        assert_eq!(refused.key_id.as_deref(), Some(&KEY[..16]));
        assert_eq!(code(&[("authorization", "Basic abc")]), Code::KeyInvalid);
    }

    #[test]
    fn a_key_in_the_query_is_refused_and_its_id_noted() {
        let refused = read(&HeaderMap::new(), Some(&format!("alt=sse&KEY={KEY}"))).err().unwrap();
        assert_eq!(refused.refusal.code, Code::CredentialInQuery);
        assert_eq!(refused.key_id.as_deref(), Some(&KEY[..16]));
        assert!(!refused.refusal.message.contains(&KEY[16..]));
    }
}
