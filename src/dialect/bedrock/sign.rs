//! AWS Signature Version 4, for requests that go to Bedrock with an access key.
//!
//! The crate that AWS has for it brings its credential and runtime types along; the algorithm itself is a page, fixed since
//! 2012, and checked here against AWS's own test suite.

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use jiff::Timestamp;

/// An access key as it is written in a provider's `api_key`: `ID:SECRET`, or `ID:SECRET:SESSION_TOKEN`.
pub(super) struct AccessKey<'a> {
    id: &'a str,
    secret: &'a str,
    token: Option<&'a str>,
}

impl<'a> AccessKey<'a> {
    /// Nothing if the text is no access key: then it is an API key of Bedrock's, sent as a bearer.
    pub fn parse(text: &'a str) -> Option<AccessKey<'a>> {
        let mut parts = text.splitn(3, ':');
        let (id, secret, token) = (parts.next()?, parts.next()?, parts.next());
        let is_id = id.len() >= 16 && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        (is_id && !secret.is_empty()).then_some(AccessKey { id, secret, token })
    }
}

/// What is signed.
pub(super) struct Signed<'a> {
    pub method: &'a Method,
    pub url: &'a Uri,
    pub body: &'a [u8],
    pub region: &'a str,
    pub service: &'a str,
    pub at: Timestamp,
}

/// Adds date, session token and signature to the headers. All headers that are there are signed.
pub(super) fn sign(headers: &mut HeaderMap, key: &AccessKey, what: &Signed) {
    let date = what.at.strftime("%Y%m%dT%H%M%SZ").to_string();
    insert(headers, HeaderName::from_static("x-amz-date"), &date);
    if let Some(token) = key.token {
        insert(headers, HeaderName::from_static("x-amz-security-token"), token);
    }
    let day = &date[..8];
    let scope = format!("{day}/{}/{}/aws4_request", what.region, what.service);
    let (names, canonical) = canonical(headers, what);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut signing = mac(format!("AWS4{}", key.secret).as_bytes(), day.as_bytes());
    for part in [what.region, what.service, "aws4_request"] {
        signing = mac(signing.as_ref(), part.as_bytes());
    }
    let signature = HEXLOWER.encode(mac(signing.as_ref(), text.as_bytes()).as_ref());
    let id = key.id;
    let line = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    insert(headers, AUTHORIZATION, &line);
}

/// The region in the host of an endpoint: `bedrock-runtime.eu-west-1.amazonaws.com`.
pub(super) fn region(host: &str) -> &str {
    let mut parts = host.split('.').filter(|p| p.split('-').count() >= 3 && p.ends_with(|c: char| c.is_ascii_digit()));
    parts.find(|p| !p.starts_with("vpce-")).unwrap_or("us-east-1")
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(mut value) = HeaderValue::from_str(text) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The names of the signed headers, and the canonical request.
fn canonical(headers: &HeaderMap, what: &Signed) -> (String, String) {
    let host = what.url.authority().map_or("", |a| a.as_str());
    let mut lines: Vec<(String, String)> = vec![("host".into(), host.into())];
    for name in headers.keys() {
        // Hops may change these.
        if matches!(name.as_str(), "host" | "user-agent" | "authorization" | "accept-encoding" | "connection") {
            continue;
        }
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        let values: Vec<String> = values.map(|v| v.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.push((name.as_str().to_owned(), values.join(",")));
    }
    lines.sort();
    let names = lines.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(";");
    let block: String = lines.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let mut query: Vec<(String, String)> = what
        .url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    query.sort();
    let query = query.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&");
    // The path is encoded once more than it is sent.
    let path = encode(what.url.path());
    let text = format!("{}\n{path}\n{query}\n{block}\n{names}\n{}", what.method.as_str(), sha256(what.body));
    (names, text)
}

fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    for b in path.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    if out.is_empty() { "/".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIDEXAMPLE00000";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn signature(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let key = AccessKey { id: "AKIDEXAMPLE", secret: SECRET, token: None };
        let what = Signed {
            method: &method.parse().unwrap(),
            url: &url.parse().unwrap(),
            body: body.as_bytes(),
            region: "us-east-1",
            service: "service",
            at: "2015-08-30T12:36:00Z".parse().unwrap(),
        };
        sign(&mut map, &key, &what);
        map[AUTHORIZATION].to_str().unwrap().rsplit('=').next().unwrap().to_owned()
    }

    /// AWS's Signature Version 4 test suite (`get-vanilla`, `post-vanilla`, …).
    #[test]
    fn awss_own_test_vectors_are_met() {
        let host = "http://example.amazonaws.com";
        for (method, path, headers, body, want) in [
            ("GET", "/", vec![], "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "/", vec![], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                vec![],
                "",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "POST",
                "/",
                vec![("content-type", "application/x-www-form-urlencoded")],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ] {
            assert_eq!(signature(method, &format!("{host}{path}"), &headers, body), want, "{method} {path}");
        }
    }

    #[test]
    fn an_encoded_model_is_encoded_once_more() {
        assert_eq!(encode("/model/us.amazon.nova%3A0/converse"), "/model/us.amazon.nova%253A0/converse");
        assert_eq!(encode("/model/a:0/invoke"), "/model/a%3A0/invoke");
    }

    #[test]
    fn an_access_key_is_told_from_an_api_key() {
        let text = format!("{ID}:{SECRET}:to/ken==");
        let key = AccessKey::parse(&text).unwrap();
        assert_eq!((key.id, key.secret, key.token), (ID, SECRET, Some("to/ken==")));
        assert!(AccessKey::parse("ABSKQmVkcm9ja0FQSUtleS0xMjM0").is_none());
        assert!(AccessKey::parse("bedrock-api-key-x:y").is_none());
    }

    #[test]
    fn the_region_stands_in_the_host() {
        for (host, want) in [
            ("bedrock-runtime.eu-west-1.amazonaws.com", "eu-west-1"),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("vpce-0a-1b2.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
            ("bedrock.internal.example", "us-east-1"),
        ] {
            assert_eq!(region(host), want, "{host}");
        }
    }
}
