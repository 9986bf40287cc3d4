//! Which headers cross the bridge, both ways: by allow-list, since heads are rebuilt and never spliced.

use http::header::{self, HeaderMap, HeaderName};

/// Request headers a provider may see, beside those that begin with [`REQUEST_PREFIXES`]. No credential, no cookie, no
/// hop-by-hop header, and no `accept-encoding`: the meter reads what passes, so identity is asked for.
const REQUEST: [&str; 19] = [
    "content-type",
    "content-encoding",
    "accept",
    "accept-language",
    "user-agent",
    "idempotency-key",
    "originator",
    "session-id",
    "thread-id",
    "x-client-request-id",
    "x-app",
    "x-session-id",
    "x-session-affinity",
    "http-referer",
    "x-title",
    "version",
    "x-goog-api-client",
    "x-goog-request-params",
    "x-server-timeout",
];
const REQUEST_PREFIXES: [&str; 8] = [
    "openai-",
    "anthropic-",
    "x-stainless-",
    "x-codex-",
    "x-claude-code-",
    "x-openai-",
    "x-vertex-ai-",
    "x-amzn-bedrock-",
];

/// Answer headers a caller may see, beside those that begin with [`RESPONSE_PREFIXES`].
const RESPONSE: [&str; 15] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "request-id",
    "x-request-id",
    "x-correlation-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "cf-ray",
    "date",
    "apim-request-id",
    "x-generation-id",
];
const RESPONSE_PREFIXES: [&str; 10] = [
    "openai-",
    "anthropic-",
    "x-ratelimit-",
    "ratelimit-",
    "x-groq-",
    "mistral-",
    "x-ms-",
    "azureml-",
    "x-gemini-",
    "x-amzn-",
];

fn listed(name: &HeaderName, names: &[&str], prefixes: &[&str]) -> bool {
    let name = name.as_str();
    names.contains(&name) || prefixes.iter().any(|p| name.starts_with(p))
}

/// Names that a `Connection` header declares to be of this hop only.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|n| n.trim().to_ascii_lowercase()).collect()
}

/// The request head as the provider gets it, without its credential.
pub fn to_provider(headers: &HeaderMap) -> HeaderMap {
    let hop = named_by_connection(headers);
    let passes =
        |name: &HeaderName| listed(name, &REQUEST, &REQUEST_PREFIXES) && !hop.iter().any(|h| h == name.as_str());
    let mut out = HeaderMap::with_capacity(16);
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        out.append(name.clone(), value.clone());
    }
    out
}

/// The answer's head as the caller gets it, without our own headers.
pub fn to_caller(headers: &HeaderMap) -> HeaderMap {
    let hop = named_by_connection(headers);
    let passes =
        |name: &HeaderName| listed(name, &RESPONSE, &RESPONSE_PREFIXES) && !hop.iter().any(|h| h == name.as_str());
    let mut out = HeaderMap::with_capacity(24);
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        out.append(name.clone(), value.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_cookies_and_our_own_headers_stay_here() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "x-amz-security-token",
            "cookie",
            "wb-run",
            "host",
            "te",
            "transfer-encoding",
            "connection",
            "accept-encoding",
            "x-forwarded-for",
            "traceparent",
            "baggage",
            "proxy-authorization",
            "content-length",
        ] {
            headers.insert(name, "x".parse().unwrap());
        }
        assert_eq!(to_provider(&headers).len(), 0);
        headers.insert("anthropic-beta", "a".parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("connection", "close, Anthropic-Beta".parse().unwrap());
        assert_eq!(to_provider(&headers).keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn what_a_provider_must_not_set_is_removed() {
        let mut headers = HeaderMap::new();
        for name in
            ["set-cookie", "server", "alt-svc", "wb-cost-usd", "wb-deny", "location", "strict-transport-security"]
        {
            headers.insert(name, "x".parse().unwrap());
        }
        assert_eq!(to_caller(&headers).len(), 0);
        headers.insert("x-ratelimit-remaining-tokens", "7".parse().unwrap());
        assert_eq!(to_caller(&headers).len(), 1);
    }

    proptest! {
        #[test]
        fn no_header_outside_the_lists_crosses(names in proptest::collection::vec("[a-z][a-z0-9-]{0,20}", 0..20)) {
            let mut headers = HeaderMap::new();
            for name in &names {
                if let Ok(name) = name.parse::<HeaderName>() {
                    headers.append(name, "v".parse().unwrap());
                }
            }
            for name in to_provider(&headers).keys() {
                prop_assert!(REQUEST.contains(&name.as_str()) || REQUEST_PREFIXES.iter().any(|p| name.as_str().starts_with(p)));
            }
            for name in to_caller(&headers).keys() {
                prop_assert!(RESPONSE.contains(&name.as_str()) || RESPONSE_PREFIXES.iter().any(|p| name.as_str().starts_with(p)));
            }
        }
    }
}
