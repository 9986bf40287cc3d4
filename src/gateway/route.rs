//! Where a request goes: the provider of its path, and that provider's own URL for it.
//!
//! `/{provider id}/…` names the provider; `/v1/…` is natural: its dialect follows from the path, its provider from the
//! model. Nothing a caller sends can change the host: a URL is the configured base and the path below it, and paths
//! that could climb out of it (`..`, encoded slashes, `@`) are refused.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use crate::dialect::{self, Dialect};
use crate::domain::filter::glob;
use crate::domain::{Code, Provider, Refusal};

/// What a path is about.
pub enum Route {
    /// `/wb/v1/…`: answered by us, to the caller's own key.
    Own(String),
    /// Below a provider's id.
    Provider { provider: Arc<Provider>, dialect: &'static dyn Dialect, rest: String },
    /// A vendor's path without a prefix: the provider is chosen by the model.
    Natural { dialect: &'static dyn Dialect, rest: String },
}

impl Route {
    /// The dialect in which the caller expects errors.
    pub fn dialect(&self) -> &'static dyn Dialect {
        match self {
            Route::Own(_) => openai(),
            Route::Provider { dialect, .. } | Route::Natural { dialect, .. } => *dialect,
        }
    }
}

/// The dialect that speaks for paths which say nothing better.
pub fn openai() -> &'static dyn Dialect {
    dialect::named("openai").expect("the OpenAI dialect is built in")
}

fn built_in(name: &str) -> &'static dyn Dialect {
    dialect::named(name).unwrap_or_else(openai)
}

/// The dialect a refusal is worded in before (or without) a route: decided by the path, never by the key.
pub fn dialect_of(path: &str, headers: &HeaderMap, provider: impl Fn(&str) -> Option<String>) -> &'static dyn Dialect {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if let Some(named) = provider(first).and_then(|d| dialect::named(&d)) {
        return named;
    }
    natural(path, headers)
}

/// The first part of a natural path.
fn is_version(part: &str) -> bool {
    matches!(part, "v1" | "v1beta" | "v1beta1")
}

/// The dialect of a path without a provider's prefix.
fn natural(path: &str, headers: &HeaderMap) -> &'static dyn Dialect {
    // A target may be without a path at all: `*`, or another server's name alone.
    let bare = path.strip_prefix('/').unwrap_or_default();
    let (version, rest) = match bare.split_once('/') {
        Some((version, _)) if is_version(version) => (version, &bare[version.len()..]),
        _ => ("", path),
    };
    let is = |name: &str| rest == name || rest.strip_prefix(name).is_some_and(|r| r.starts_with('/'));
    let google = version.starts_with("v1beta")
        || (is("/models") && rest.rsplit('/').next().is_some_and(|last| last.contains(':')))
        || headers.contains_key("x-goog-api-key") && is("/models");
    if path.starts_with("/model/") {
        built_in("bedrock")
    } else if is("/projects") || is("/publishers") {
        built_in("vertex")
    } else if google {
        built_in("gemini")
    } else if is("/messages") || is("/complete") || (is("/models") && headers.contains_key("anthropic-version")) {
        built_in("anthropic")
    } else {
        openai()
    }
}

/// Finds the route of a request. `provider` looks a provider up by id.
pub fn find(
    uri: &Uri,
    method: &Method,
    headers: &HeaderMap,
    provider: impl Fn(&str) -> Option<Arc<Provider>>,
) -> Result<Route, Refusal> {
    check_form(uri, method)?;
    let path = tidy(uri.path())?;
    if let Some(rest) = path.strip_prefix("/wb/v1/") {
        return Ok(Route::Own(rest.to_owned()));
    }
    let mut segments = path[1..].splitn(2, '/');
    let first = segments.next().unwrap_or_default();
    let rest = segments.next().unwrap_or_default();
    if first == "model" && !rest.is_empty() {
        return Ok(Route::Natural { dialect: built_in("bedrock"), rest: path });
    }
    if is_version(first) && !rest.is_empty() {
        if is_version(rest.split('/').next().unwrap_or_default()) {
            return Err(doubled("/v1"));
        }
        return Ok(Route::Natural { dialect: natural(&path, headers), rest: path });
    }
    let Some(provider) = provider(first) else { return Err(unknown(&path)) };
    if rest == "v1/v1" || rest.starts_with("v1/v1/") {
        return Err(doubled(&format!("/{first}/v1")));
    }
    let dialect = dialect::named(&provider.dialect).ok_or_else(|| {
        Refusal::new(
            Code::UnknownPath,
            format!(
                "Weighbridge: provider '{first}' speaks '{}', which this version does not carry.",
                provider.dialect
            ),
        )
    })?;
    Ok(Route::Provider { provider, dialect, rest: format!("/{rest}") })
}

/// Request targets that a gateway has no business with.
fn check_form(uri: &Uri, method: &Method) -> Result<(), Refusal> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(Refusal::new(Code::MethodNotAllowed, format!("Weighbridge: method {method} is not offered.")));
    }
    if !uri.path().starts_with('/') {
        return Err(Refusal::new(
            Code::Malformed,
            "Weighbridge: the request target must be a path that begins with /.",
        ));
    }
    Ok(())
}

/// The path with doubled and trailing slashes removed; refused where it could be read in two ways.
fn tidy(path: &str) -> Result<String, Refusal> {
    let odd = |b: u8| matches!(b, b'%' | b'@' | b'\\');
    if !path.bytes().any(odd) && !path.contains("//") && !path.contains("/.") && !path.ends_with('/') {
        return Ok(path.to_owned());
    }
    let lower = path.to_ascii_lowercase();
    let climbs = path.split('/').any(|s| s == ".." || s == ".");
    // Vertex writes the version of a model behind an `@`: `models/claude-sonnet-4@20250514:rawPredict`.
    let at = path.split('/').filter(|s| s.contains('@')).any(|s| !s.contains(':'));
    if climbs || at || path.contains('\\') || encoded(&lower) {
        return Err(Refusal::new(
            Code::UnknownPath,
            "Weighbridge: paths with '..', '@', backslashes or encoded slashes and dots are not carried.",
        ));
    }
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    Ok(format!("/{}", segments.join("/")))
}

/// Bytes that stand encoded where they could be read in two ways. A model of AWS may be an ARN, which has slashes of its own
/// inside one segment.
fn encoded(lower: &str) -> bool {
    let arn = |s: &str| s.starts_with("arn%3a") || s.starts_with("arn:");
    let bad = |s: &str| ["%5c", "%2e", "%00", "%40"].iter().any(|b| s.contains(b)) || (s.contains("%2f") && !arn(s));
    lower.split('/').any(bad)
}

fn doubled(base: &str) -> Refusal {
    Refusal::new(
        Code::UnknownPath,
        format!(
            "Weighbridge: the path has /v1 twice. Your SDK adds it by itself or the base URL has it already: OpenAI SDKs \
             take the base URL ending in {base}, Anthropic SDKs take it without /v1."
        ),
    )
}

fn unknown(path: &str) -> Refusal {
    let shown: String = path.chars().take(80).collect();
    Refusal::new(
        Code::UnknownPath,
        format!(
            "Weighbridge: no provider stands at '{shown}'. Base URLs are {{gateway}}/v1 for OpenAI SDKs, {{gateway}} for \
             Anthropic SDKs, and {{gateway}}/{{provider id}} for a provider of your own."
        ),
    )
}

/// The provider that serves a natural request: the first in the file's order whose dialect is that of the path and whose
/// `models` fit. Without a model, the first of the dialect.
pub fn choose<'a>(
    providers: &'a [Arc<Provider>],
    dialect: &dyn Dialect,
    model: Option<&str>,
) -> Result<&'a Arc<Provider>, Refusal> {
    let mut family = providers.iter().filter(|p| speaks(p, dialect)).peekable();
    if family.peek().is_none() {
        let message = format!("Weighbridge: no provider of dialect '{}' is configured here.", dialect.name());
        return Err(Refusal::new(Code::UnknownPath, message));
    }
    let fits = |p: &&Arc<Provider>| match model {
        Some(model) => p.models.is_empty() || p.models.iter().any(|m| glob(m, model)),
        None => true,
    };
    family.find(fits).ok_or_else(|| {
        let shown: String = model.unwrap_or_default().chars().take(80).collect();
        Refusal::new(
            Code::ModelNotAllowed,
            format!(
                "Weighbridge: no provider here serves model '{shown}'. GET /v1/models lists what you may call; a provider's \
                 own path ({{gateway}}/{{provider id}}/v1) reaches models that are not listed."
            ),
        )
    })
}

/// Whether a provider speaks a dialect.
pub fn speaks(provider: &Provider, dialect: &dyn Dialect) -> bool {
    dialect::named(&provider.dialect).is_some_and(|d| d.name() == dialect.name())
}

/// The path as the dialect reads it: OpenAI's with its `/v1`, whether the caller's base URL had it or not.
pub fn dialect_path(dialect: &dyn Dialect, provider: &Provider, rest: &str) -> String {
    match dialect.name() {
        "openai" => format!("/v1{}", below_base(provider, rest)),
        _ => rest.to_owned(),
    }
}

/// What is appended to `base_url`: the caller's path without what the base URL has already.
fn below_base<'a>(provider: &Provider, rest: &'a str) -> &'a str {
    let base = base_path(&provider.base_url);
    let cut =
        |prefix: &str| rest.strip_prefix(prefix).filter(|r| !prefix.is_empty() && (r.is_empty() || r.starts_with('/')));
    if let Some(below) = cut(base) {
        return below;
    }
    let openai_like = dialect::named(&provider.dialect).is_some_and(|d| d.name() == "openai");
    if openai_like { cut("/v1").unwrap_or(rest) } else { rest }
}

/// The path part of a base URL, without a slash at its end.
fn base_path(base_url: &str) -> &str {
    let after_scheme = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("", |i| &after_scheme[i..]);
    path.trim_end_matches('/')
}

/// The provider's URL for a request.
pub fn upstream_url(provider: &Provider, rest: &str, query: Option<&str>) -> Result<Uri, Refusal> {
    let below = below_base(provider, rest);
    let base = provider.base_url.trim_end_matches('/');
    let text = match query {
        Some(query) => format!("{base}{below}?{query}"),
        None => format!("{base}{below}"),
    };
    text.parse()
        .map_err(|_| Refusal::new(Code::Malformed, "Weighbridge: the path has characters that no URL can carry."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::OnClientAbort;

    fn provider(id: &str, dialect: &str, base_url: &str, models: &[&str]) -> Arc<Provider> {
        Arc::new(Provider {
            id: id.into(),
            dialect: dialect.into(),
            base_url: base_url.into(),
            internal: false,
            models: models.iter().map(|m| m.to_string()).collect(),
            price_as: id.into(),
            idle_timeout_s: 300,
            on_client_abort: OnClientAbort::Cancel,
            position: 0,
            region: None,
        })
    }

    fn route(path: &str) -> Result<Route, Refusal> {
        find(&path.parse().unwrap(), &Method::POST, &HeaderMap::new(), |id| match id {
            "openai" => Some(provider("openai", "openai", "https://api.openai.com/v1", &[])),
            "anthropic" => Some(provider("anthropic", "anthropic", "https://api.anthropic.com", &[])),
            _ => None,
        })
    }

    #[test]
    fn what_an_sdk_appends_is_appended_to_the_base_url() {
        for (dialect, base, rest, expected) in [
            (
                "openai",
                "https://api.openai.com/v1",
                "/v1/chat/completions",
                "https://api.openai.com/v1/chat/completions",
            ),
            ("openai", "https://api.openai.com/v1/", "/chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("groq", "https://api.groq.com/openai/v1", "/openai/v1/models", "https://api.groq.com/openai/v1/models"),
            ("groq", "https://api.groq.com/openai/v1", "/v1/models", "https://api.groq.com/openai/v1/models"),
            (
                "perplexity",
                "https://api.perplexity.ai",
                "/v1/chat/completions",
                "https://api.perplexity.ai/chat/completions",
            ),
            ("anthropic", "https://api.anthropic.com", "/v1/messages", "https://api.anthropic.com/v1/messages"),
            ("anthropic", "https://gate.example/claude", "/v1/messages", "https://gate.example/claude/v1/messages"),
            ("openai", "https://api.openai.com/v1", "/v1x", "https://api.openai.com/v1/v1x"),
        ] {
            let p = provider("p", dialect, base, &[]);
            assert_eq!(upstream_url(&p, rest, None).unwrap().to_string(), expected);
        }
        let p = provider("p", "openai", "https://h/v1", &[]);
        assert_eq!(upstream_url(&p, "/v1/files", Some("limit=2")).unwrap().to_string(), "https://h/v1/files?limit=2");
    }

    #[test]
    fn paths_that_could_climb_out_are_refused() {
        for path in ["/openai/../x", "/openai/%2e%2e/x", "/openai/a%2Fb", "/openai/a@b", "/openai/./x", "/openai/a%5cb"]
        {
            assert_eq!(route(path).err().map(|r| r.code), Some(Code::UnknownPath), "{path}");
        }
    }

    #[test]
    fn a_doubled_version_is_answered_with_the_right_base_url() {
        let refusal = route("/v1/v1/chat/completions").err().unwrap();
        assert_eq!(refusal.code, Code::UnknownPath);
        assert!(refusal.message.contains("ending in /v1"));
        assert!(route("/openai/v1/v1/x").err().unwrap().message.contains("ending in /openai/v1"));
    }

    #[test]
    fn natural_paths_know_their_dialect() {
        for (path, dialect) in [
            ("/v1/messages", "anthropic"),
            ("/v1/messages/count_tokens", "anthropic"),
            ("/v1/complete", "anthropic"),
            ("/v1/completions", "openai"),
            ("/v1/chat/completions/", "openai"),
            ("/v1//responses", "openai"),
            ("/anthropic/v1/messages", "anthropic"),
            ("/model/us.amazon.nova-pro-v1%3A0/converse", "bedrock"),
            ("/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/converse", "bedrock"),
            ("/v1beta/models/gemini-3:generateContent", "gemini"),
            ("/v1/models/gemini-3:streamGenerateContent", "gemini"),
            ("/v1/models/gpt-5.2", "openai"),
            ("/v1beta/interactions", "gemini"),
            ("/v1beta1/publishers/google/models/gemini-3:generateContent", "vertex"),
            ("/v1/projects/p/locations/l/publishers/anthropic/models/claude@20250514:rawPredict", "vertex"),
        ] {
            assert_eq!(route(path).ok().unwrap().dialect().name(), dialect, "{path}");
        }
        assert_eq!(route("/nowhere/v1/x").err().unwrap().code, Code::UnknownPath);
    }

    #[test]
    fn the_first_provider_that_serves_the_model_wins() {
        let list = [
            provider("a", "openai", "https://a/v1", &["gpt-*"]),
            provider("b", "anthropic", "https://b", &[]),
            provider("c", "openai", "https://c/v1", &["llama*"]),
        ];
        assert_eq!(choose(&list, openai(), Some("gpt-5.2")).unwrap().id, "a");
        assert_eq!(choose(&list, openai(), Some("llama-4")).unwrap().id, "c");
        assert_eq!(choose(&list, openai(), None).unwrap().id, "a");
        assert_eq!(choose(&list, openai(), Some("x")).err().unwrap().code, Code::ModelNotAllowed);
        assert_eq!(choose(&list[1..2], openai(), Some("x")).err().unwrap().code, Code::UnknownPath);
    }
}
