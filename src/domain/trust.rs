//! Whose workload tokens are believed, and what they stand for: trusted issuers and the rules that map claims to services.
//!
//! A rule compares claims with exact values: there are no patterns, because a pattern on an issuer that others share is how
//! strangers become one's service (OWASP NHI6:2025). What is unsafe is refused when it is saved, see [`unsafe_rule`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::identity::Environment;

/// What kind of tokens an issuer makes: which claims name the workload, and what else must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Nothing beyond what every token is checked for.
    #[default]
    Generic,
    /// Projected service account tokens.
    Kubernetes,
    /// Workflow tokens; they name workflow and run.
    GithubActions,
    /// Tokens of Google's metadata server.
    Gcp,
    /// Entra tokens.
    Azure,
    /// AWS outbound identity federation: `sub` is the role's ARN.
    AwsOutbound,
    /// JWT-SVID: `sub` is a SPIFFE ID.
    SpiffeJwt,
    /// OAuth access tokens (RFC 9068).
    OauthAt,
}

impl Profile {
    /// Values the `typ` header may have where the issuer does not say; the empty one stands for an absent header.
    pub fn types(self) -> &'static [&'static str] {
        match self {
            Profile::OauthAt => &["at+jwt", "application/at+jwt"],
            Profile::SpiffeJwt => &["", "jwt", "jose"],
            _ => &["", "jwt"],
        }
    }

    /// Claims that name the workload: kept with a refusal, so that a rule can be made of them.
    pub fn naming_claims(self) -> &'static [&'static str] {
        match self {
            Profile::Kubernetes => {
                &["kubernetes.io/namespace", "kubernetes.io/serviceaccount/name", "kubernetes.io/serviceaccount/uid"]
            }
            Profile::GithubActions => &[
                "repository",
                "repository_id",
                "repository_owner_id",
                "job_workflow_ref",
                "environment",
                "ref",
                "event_name",
                "runner_environment",
            ],
            Profile::Gcp => &["azp", "email"],
            Profile::Azure => &["tid", "oid", "azp", "appid", "idtyp", "xms_par_app_azp"],
            Profile::OauthAt => &["client_id", "scope"],
            Profile::Generic | Profile::AwsOutbound | Profile::SpiffeJwt => &[],
        }
    }

    /// Claims that say which workflow and run it is: verified, so better than a header.
    pub fn run_claims(self) -> Option<(&'static str, &'static str)> {
        (self == Profile::GithubActions).then_some(("workflow", "run_id"))
    }
}

/// Where an issuer's public keys come from: exactly one of `url`, `file` and `inline`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySource {
    /// A JWKS document, fetched over TLS.
    pub url: Option<String>,
    /// A JWKS file on this machine, read again every few seconds.
    pub file: Option<String>,
    /// The JWKS itself.
    pub inline: Option<String>,
    /// A PEM file with the only certificates that may have signed the URL's server.
    pub ca: Option<String>,
    /// The URL may be at a loopback or private address.
    pub internal: bool,
}

/// An issuer whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    pub id: String,
    /// The exact `iss`.
    pub iss: String,
    pub keys: KeySource,
    /// Seconds between two reads of the keys.
    pub refresh_s: u32,
    /// `RS256`, `ES256`, …: never `none`, never an HMAC.
    pub algorithms: Vec<String>,
    /// The one audience a token must have.
    pub audience: String,
    /// Longest life of a token, in seconds.
    pub max_lifetime_s: u32,
    /// Values the `typ` header may have; empty = the profile's.
    pub types: Vec<String>,
    pub profile: Profile,
    /// Strangers get tokens of it too: a rule must name an owner that cannot be renamed.
    pub shared: bool,
    /// The first that fits is taken.
    pub rules: Vec<Arc<TrustRule>>,
}

impl Issuer {
    pub const DEFAULT_REFRESH_S: u32 = 600;
    pub const DEFAULT_LIFETIME_S: u32 = 3_600;
    /// No token lives longer than this, whatever is declared.
    pub const MOST_LIFETIME_S: u32 = 86_400;
    /// How far two clocks may be apart, in seconds.
    pub const SKEW_S: i64 = 60;
    /// Algorithms an issuer may sign with. ES512 is not among them: no key of that curve can be read here.
    pub const ALGORITHMS: [&'static str; 9] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    pub const DEFAULT_ALGORITHMS: [&'static str; 5] = ["RS256", "ES256", "ES384", "PS256", "EdDSA"];
    /// Issuers that anyone can get a token of.
    const KNOWN_SHARED: [&'static str; 7] = [
        "https://token.actions.githubusercontent.com",
        "https://gitlab.com",
        "https://accounts.google.com",
        "https://oidc.circleci.com",
        "https://agent.buildkite.com",
        "https://api.bitbucket.org",
        "https://app.terraform.io",
    ];

    /// The rule that a recorded credential (`jwt:`, issuer, rule) names.
    pub fn rule(&self, id: &str) -> Option<&Arc<TrustRule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// Whether strangers get tokens of it, by declaration or because everyone knows.
    pub fn is_shared(&self) -> bool {
        self.shared || Issuer::KNOWN_SHARED.iter().any(|known| self.iss.starts_with(known))
    }
}

/// What a token with these claims stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRule {
    /// Unique among the rules of its issuer.
    pub id: String,
    /// Claim → the values it may have. `kubernetes.io/serviceaccount/uid` is a member of a member.
    pub claims: BTreeMap<String, Vec<String>>,
    pub service: String,
    pub agent: Option<String>,
    pub environment: Environment,
}

impl TrustRule {
    /// Whether every condition holds.
    pub fn fits(&self, claims: &Map<String, Value>) -> bool {
        let holds = |(name, allowed): (&String, &Vec<String>)| match claim(claims, name) {
            Some(Value::Array(values)) => values.iter().filter_map(text).any(|v| allowed.contains(&v)),
            Some(value) => text(value).is_some_and(|v| allowed.contains(&v)),
            None => false,
        };
        !self.claims.is_empty() && self.claims.iter().all(holds)
    }
}

/// How a credential that is a workload token stands on record.
pub const CREDENTIAL_PREFIX: &str = "jwt:";

/// Issuer and rule of a recorded credential, where it is a workload token.
pub fn recorded(credential: &str) -> Option<(&str, &str)> {
    credential.strip_prefix(CREDENTIAL_PREFIX)?.split_once('/')
}

/// A claim by its name, or by the way to it through members.
pub fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('/');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// A claim's value as a rule writes it.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// Claims that say nothing about who the workload is.
const NOT_NAMING: [&str; 6] = ["aud", "iss", "exp", "iat", "nbf", "typ"];

/// Why a rule must not be saved; none where it is sound (`identity-and-evidence`, workload JWTs).
pub fn unsafe_rule(issuer: &Issuer, rule: &TrustRule) -> Option<String> {
    let of = |name: &str| rule.claims.get(name);
    if let Some((name, _)) = rule.claims.iter().find(|(_, values)| values.is_empty()) {
        return Some(format!("its condition on `{name}` has no value: name at least one"));
    }
    if let Some((name, value)) =
        rule.claims.iter().find_map(|(name, values)| Some((name, values.iter().find(|v| v.contains('*'))?)))
    {
        return Some(format!("`{value}` for the claim `{name}` is a pattern: values are compared exactly, list each"));
    }
    if rule.claims.keys().all(|name| NOT_NAMING.contains(&name.as_str())) {
        return Some("it names no workload: add a condition on `sub` or on another claim that names one".to_owned());
    }
    let owners = immutable_owners(issuer);
    if issuer.is_shared() && !owners.iter().any(|name| of(name).is_some()) {
        let list = owners.join("`, `");
        return Some(format!(
            "anyone can get a token of {}: add a condition on `{list}`, which no one else can take over",
            issuer.iss
        ));
    }
    if rule.environment == Environment::Prod && allows_pull_requests(issuer, rule) {
        return Some(
            "a pull request could get prod's identity: add a condition on `environment`, on `ref`, or on `event_name` without pull requests"
                .to_owned(),
        );
    }
    None
}

fn immutable_owners(issuer: &Issuer) -> &'static [&'static str] {
    match issuer.profile {
        Profile::GithubActions => &["repository_owner_id", "repository_id"],
        Profile::Gcp => &["azp", "sub"],
        Profile::Azure => &["oid", "tid"],
        _ => &["repository_owner_id", "repository_id", "namespace_id", "project_id", "azp", "organization_id"],
    }
}

/// Whether a token made for a pull request could fit.
fn allows_pull_requests(issuer: &Issuer, rule: &TrustRule) -> bool {
    let is_ci = issuer.profile == Profile::GithubActions
        || ["github", "gitlab", "bitbucket", "circleci", "buildkite"].iter().any(|ci| issuer.iss.contains(ci));
    let all = |name: &str, good: &dyn Fn(&str) -> bool| {
        rule.claims.get(name).is_some_and(|values| values.iter().all(|value| good(value)))
    };
    let branch = |value: &str| !value.contains("/pull/") && !value.contains("merge-requests");
    let safe = all("environment", &|_| true)
        || all("ref_protected", &|v| v == "true")
        || all("ref", &branch)
        || all("event_name", &|v| !v.starts_with("pull_request"))
        || all("sub", &|v| {
            branch(v) && !v.ends_with(":pull_request") && (v.contains(":ref:") || v.contains(":environment:"))
        });
    is_ci && !safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn issuer(iss: &str, profile: Profile) -> Issuer {
        Issuer {
            id: "i".into(),
            iss: iss.into(),
            keys: KeySource::default(),
            refresh_s: 600,
            algorithms: vec!["RS256".into()],
            audience: "weighbridge:acme".into(),
            max_lifetime_s: 3_600,
            types: vec![],
            profile,
            shared: false,
            rules: vec![],
        }
    }

    fn rule(environment: Environment, claims: &[(&str, &[&str])]) -> TrustRule {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        TrustRule {
            id: "r".into(),
            claims: claims.iter().map(|(name, values)| ((*name).to_owned(), list(values))).collect(),
            service: "s".into(),
            agent: None,
            environment,
        }
    }

    const GITHUB: &str = "https://token.actions.githubusercontent.com";

    #[test]
    fn a_rule_fits_where_every_claim_has_one_of_its_values() {
        let claims = json!({
            "sub": "system:serviceaccount:ap:bot",
            "groups": ["a", "b"],
            "run_attempt": 2,
            "kubernetes.io": { "namespace": "ap", "serviceaccount": { "uid": "u-1" } },
        });
        let claims = claims.as_object().unwrap();
        let fits = |conditions: &[(&str, &[&str])]| rule(Environment::Test, conditions).fits(claims);
        assert!(fits(&[("sub", &["x", "system:serviceaccount:ap:bot"]), ("groups", &["b"])]));
        assert!(fits(&[("kubernetes.io/serviceaccount/uid", &["u-1"]), ("run_attempt", &["2"])]));
        assert!(!fits(&[("kubernetes.io/serviceaccount/uid", &["u-2"])]));
        assert!(!fits(&[("sub", &["system:serviceaccount:ap:bot"]), ("missing", &["x"])]));
        assert!(!fits(&[("kubernetes.io", &["ap"])]), "an object has no value to compare");
        assert!(!fits(&[]), "a rule without conditions fits nobody");
    }

    #[test]
    fn rules_that_strangers_could_fit_are_refused_when_saved() {
        let (github, own) =
            (issuer(GITHUB, Profile::GithubActions), issuer("https://k8s.example", Profile::Kubernetes));
        let refused = |issuer: &Issuer, environment, claims: &[(&str, &[&str])]| {
            unsafe_rule(issuer, &rule(environment, claims)).unwrap_or_default()
        };
        let test = Environment::Test;
        assert!(refused(&own, test, &[("sub", &["system:serviceaccount:*:bot"])]).contains("pattern"));
        assert!(refused(&own, test, &[("aud", &["weighbridge:acme"])]).contains("names no workload"));
        assert!(refused(&own, test, &[]).contains("names no workload"));
        assert!(refused(&github, test, &[("repository", &["acme/app"])]).contains("repository_owner_id"));
        assert!(refused(&github, test, &[("repository_id", &["1"])]).is_empty());
        let stranger = Issuer { shared: true, ..issuer("https://ci.example", Profile::Generic) };
        assert!(refused(&stranger, test, &[("sub", &["x"])]).contains("anyone can get"));
    }

    #[test]
    fn no_rule_gives_prod_to_a_pull_request() {
        let github = issuer(GITHUB, Profile::GithubActions);
        let prod = |claims: &[(&str, &[&str])]| {
            let mut all = vec![("repository_id", &["1"] as &[&str])];
            all.extend(claims);
            unsafe_rule(&github, &rule(Environment::Prod, &all)).is_none()
        };
        assert!(!prod(&[]));
        assert!(!prod(&[("event_name", &["push", "pull_request_target"])]));
        assert!(!prod(&[("ref", &["refs/pull/7/merge"])]));
        assert!(!prod(&[("sub", &["repo:acme/app:pull_request"])]));
        assert!(prod(&[("event_name", &["push"])]));
        assert!(prod(&[("ref", &["refs/heads/main"])]));
        assert!(prod(&[("environment", &["production"])]));
        assert!(prod(&[("sub", &["repo:acme/app:ref:refs/heads/main"])]));
    }
}
