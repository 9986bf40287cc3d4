//! The nouns as people write them: one struct per section of the file, and the same in the API's requests and answers.
//! Field docs are the schema's descriptions.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::catalogue::{OnClientAbort, OwnerKind};
use crate::domain::policy::{Downgrade, Mode, Per, Unpriced};
use crate::domain::trust::Profile;
use crate::domain::{
    Dimension, Enforcement, Environment, MidstreamExceed, PeriodKind, Reservation, Rollover, ServiceKind,
};

use super::near::nearest;
use super::secret::SecretSource;

/// Configuration of Weighbridge
#[derive(JsonSchema)]
#[schemars(rename = "weighbridge.toml", deny_unknown_fields)]
#[allow(dead_code, reason = "the sections are read one by one; this struct is their list, for the schema")]
pub(super) struct File {
    pub server: Option<Server>,
    pub organisation: Option<Organisation>,
    #[schemars(default)]
    pub provider: Vec<Provider>,
    #[schemars(default)]
    pub owner: Vec<Owner>,
    #[schemars(default)]
    pub service: Vec<Service>,
    #[schemars(default)]
    pub key: Vec<Key>,
    #[schemars(default)]
    pub price: Vec<Price>,
    #[schemars(default)]
    pub budget: Vec<Budget>,
    #[schemars(default)]
    pub policy: Vec<Policy>,
    #[schemars(default)]
    pub notify: Vec<Notify>,
    #[schemars(default)]
    pub issuer: Vec<Issuer>,
}

/// Read at start
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Address of the gateway: what software calls. Default 127.0.0.1:8700
    pub listen: Option<String>,
    /// Address of the web UI and the admin API. Default 127.0.0.1:8701
    pub web_listen: Option<String>,
    /// Folder of everything that is kept. Default ./weighbridge-data
    pub data_dir: Option<String>,
    /// An admin token for automation, at least 20 characters
    pub operator_token: Option<SecretSource>,
    /// Where people reach the pages, for links in alerts: https://weighbridge.example. Default: the web listener's address
    pub public_url: Option<String>,
    /// strict: durable before forwarding (default); relaxed: forwarded first, durable within 50 ms
    #[serde(default)]
    pub durability: Durability,
    /// Largest request body in bytes. Default 33554432
    pub max_body_bytes: Option<u64>,
    /// Most calls under way at once. Default 20000
    pub max_concurrent: Option<u32>,
    pub tls: Option<Tls>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Durability {
    #[default]
    Strict,
    Relaxed,
}

/// PEM files of the gateway's certificate
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// The certificate and its chain
    pub cert: String,
    /// Its private key
    pub key: String,
}

/// The organisation itself
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Organisation {
    pub name: String,
    /// IANA name in which days, months and budgets are cut. Default UTC
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// 1 to 12. Default 1
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fiscal_year_start_month: Option<u8>,
}

/// Where calls go
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its place in paths: {gateway}/{id}/…
    pub id: String,
    /// openai, anthropic, or the name of a vendor that speaks as OpenAI does
    pub dialect: String,
    /// What the vendor's own SDK takes as its base URL
    pub base_url: String,
    /// The vendor's credential
    #[serde(skip_serializing)]
    pub api_key: Option<SecretSource>,
    /// Allows loopback and private addresses
    #[serde(default)]
    pub internal: bool,
    /// Models (globs) of bare /v1 requests it serves; empty = all of its dialect
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Price list. Default: the one named like the id, else the dialect's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_as: Option<String>,
    /// Seconds without a byte before the upstream is given up. Default 300
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<u32>,
    /// What becomes of the upstream when the caller hangs up
    #[serde(default)]
    pub on_client_abort: OnClientAbort,
    /// Where it computes, such as eu: what policies with allow_regions ask about
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A person or team that answers for services
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    pub id: String,
    #[serde(default)]
    pub kind: OwnerKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// A piece of software that calls models
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub id: String,
    /// Default: the service's id
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    #[serde(default)]
    pub kind: ServiceKind,
    /// Id of a person or team; one that is not declared becomes a team without contact
    pub owner: String,
    pub business_unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_centre: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// What its callers may say about themselves
    #[serde(default)]
    pub caller_fields: BTreeSet<String>,
    /// Which of them every call must bring: one without is refused, and hard budgets may match them
    #[serde(default)]
    pub mandatory_fields: BTreeSet<String>,
    /// Values wb-tenant may take (globs)
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Values wb-workflow may take (globs); empty = any
    #[serde(default)]
    pub workflows: Vec<String>,
    /// Values wb-prompt-class may take
    #[serde(default)]
    pub prompt_classes: Vec<String>,
}

/// A key whose secret this file brings
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub service: String,
    /// prod, pilot, test or exploratory
    pub environment: String,
    /// A well-formed key of that environment: `weighbridge key generate` prints one
    #[serde(skip_serializing)]
    pub secret: Option<SecretSource>,
    /// A date (the last day it works), an instant, or "never". Default: the environment's maximum, from the first apply
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Models (globs) it may ask for; absent = what policies allow
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_models: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// A date or an instant from which on it works
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Networks such as 10.1.0.0/16 it may be used from; absent = anywhere
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub allow_cidrs: Option<Vec<ipnet::IpNet>>,
}

/// A price over the shipped ones, or beside them
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Price list
    pub provider: String,
    pub model: String,
    /// input_tokens, output_tokens, cache_read_tokens, web_searches, …
    pub component: String,
    /// Decimal US dollars for a million units
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_million: Option<String>,
    /// Decimal US dollars for `per` units
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<u64>,
    /// Inclusive; absent = always
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A limit for a window of time
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub id: String,
    /// All must fit for a call to be covered; empty covers every call
    #[serde(rename = "match", default, deserialize_with = "read_dimensions")]
    #[schemars(schema_with = "dimensions")]
    pub matches: BTreeMap<Dimension, String>,
    /// Decimal US dollars; exactly one limit
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_usd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_calls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_tool_calls: Option<u64>,
    pub period: PeriodKind,
    /// Date from which periods are counted, for ones that do not begin with the calendar's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// IANA name. Default: the organisation's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Percent of the limit. Default by the environment matched: 50, 75, 90, 100 (prod and where none is named), 50, 80,
    /// 100 (pilot), 80, 100 (test, exploratory)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert_at_percent: Option<Vec<u16>>,
    #[serde(default)]
    pub notify: Vec<String>,
    /// Id of the budget above it, for the tree; every budget that matches a call counts it, with or without
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// strict: a call holds its upper bound; expected: a stream holds what such calls cost as a rule and is extended ahead
    /// of what it says. Default: expected where it matches test or exploratory, else strict
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    /// What becomes of a stream it cannot afford to extend. Default: cut where it is hard, else finish
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_midstream_exceed: Option<MidstreamExceed>,
    /// What a period hands to the next: unused adds what the one before left, overage takes off what it used too much
    #[serde(default)]
    pub rollover: Rollover,
    /// Percent of the limit that `budget grant` (break-glass) opens above it. Default: 10 where it is hard and matches
    /// prod, else 0
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_pct: Option<u16>,
    /// Tell when the forecast for the period's end reaches the limit. Default: true, but false where it matches test or
    /// exploratory
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast_alert: Option<bool>,
}

/// What may be called
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub id: String,
    #[serde(rename = "match", default, deserialize_with = "read_dimensions")]
    #[schemars(schema_with = "dimensions")]
    pub matches: BTreeMap<Dimension, String>,
    /// observe: the record says what the rules would have done; warn: the caller is told; enforce (default)
    #[serde(default)]
    pub mode: Mode,
    /// Only these models: globs, or class:free, class:low (up to 2 USD per million output tokens), class:mid (10),
    /// class:high (30), class:top, class:unpriced
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_models: Option<Vec<String>>,
    /// Not these models
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_models: Vec<String>,
    /// Only these endpoints, as calls record them: chat.completions, responses, messages, embeddings, … (globs)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_endpoints: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_endpoints: Vec<String>,
    /// Only these tools may be offered, by name; tools that the provider runs by type, such as web_search* (globs)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_tools: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_tools: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_providers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_providers: Vec<String>,
    /// Only where requests ask for one of these regions, or their provider's region is one of them (globs)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_regions: Option<Vec<String>>,
    /// Only from these networks: 10.0.0.0/8
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_networks: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_networks: Vec<String>,
    /// Headers every request must bring
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub require_headers: BTreeSet<String>,
    /// No call without an owner who is declared with a name or an e-mail address
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_owner: bool,
    /// No call whose cost_centre, tenant, workflow, … is unassigned
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub require_fields: BTreeSet<String>,
    /// When calls may be made, in the organisation's time zone: "mon-fri 08:00-18:00"; empty = always
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<String>,
    /// Written into requests that ask for more output, or for no limit
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Longest input, as estimated from its bytes
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_calls_per_minute: Option<u32>,
    /// Input and output together
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// What the rates count together: the calls of a key (default), of a service, or all that the policy covers
    #[serde(default)]
    pub per: Per,
    /// Milliseconds a call over a rate waits for its turn before it is refused, at most 30000. Default 0
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u32>,
    /// { below_percent = 10, to = "MODEL" }: another model of the same provider, while less than that is left of a money
    /// budget that covers the call
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<Downgrade>,
    /// Models without a price: deny, family_max (the dearest price of the family), allow (the cost stays unknown).
    /// Default: family_max in prod, deny elsewhere
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpriced_policy: Option<Unpriced>,
    /// Vendor paths that are not metered may pass although a hard budget covers the caller
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_unmetered: bool,
    /// Models without a price may be called although a hard budget covers the caller
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_unpriced: bool,
    /// A call whose input cannot be seen may pass under a hard budget without holding the whole context window
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_unbounded: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Where alerts go: exactly one of webhook, slack, teams, mattermost, email and syslog
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    pub id: String,
    /// URL that JSON is posted to
    #[serde(skip_serializing)]
    pub webhook: Option<SecretSource>,
    /// What a webhook is signed with (HMAC-SHA-256, headers webhook-id, webhook-timestamp and webhook-signature)
    #[serde(skip_serializing)]
    pub secret: Option<SecretSource>,
    /// URL of an incoming webhook of Slack
    #[serde(skip_serializing)]
    pub slack: Option<SecretSource>,
    /// URL of a workflow of Teams
    #[serde(skip_serializing)]
    pub teams: Option<SecretSource>,
    /// URL of an incoming webhook of Mattermost
    #[serde(skip_serializing)]
    pub mattermost: Option<SecretSource>,
    /// Mail addresses; may be empty: then only owners of services get mail
    #[serde(skip_serializing)]
    pub email: Option<Vec<String>>,
    /// The mail server, for email
    #[serde(skip_serializing)]
    pub smtp: Option<Smtp>,
    /// udp://host:514, tcp://host:601 or tls://host:6514: RFC 5424 with CEF
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog: Option<String>,
    /// What it is, as shown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub kind: Option<String>,
    /// Where it goes, as shown: the address itself is sealed
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub host: Option<String>,
    /// How it goes there, as shown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub transport: Option<crate::domain::notify::Transport>,
    /// Allows loopback and private addresses
    #[serde(default)]
    pub internal: bool,
    /// Takes alerts that nobody else is named for; of several mail channels, the one for owners
    #[serde(default)]
    pub default: bool,
    /// Every day from … to …: what comes meanwhile is told together afterwards
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// Refusals by a budget are told in quiet hours, too. Default true
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusals_wake: Option<bool>,
    /// Seconds an alert waits for others, to be told in one message. Default 10
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_s: Option<u16>,
}

/// A mail server
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// starttls://host:587, smtps://host:465 or, to an internal host, smtp://host:25
    pub server: String,
    /// The sender
    pub from: Option<String>,
    pub username: Option<String>,
    #[serde(skip_serializing)]
    pub password: Option<SecretSource>,
}

/// Hours of the day
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// Such as 22:00
    pub from: String,
    /// Such as 07:00: on the next day where it is before `from`
    pub to: String,
    /// IANA name. Default: the organisation's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Whose workload tokens (JWT) are believed
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    pub id: String,
    /// The exact `iss` of its tokens
    pub iss: String,
    /// Where its public keys (JWKS) are fetched; one of jwks_url, jwks_file and jwks
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A file with its public keys
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<String>,
    /// Its public keys themselves
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// A PEM file: only a server with a certificate of it is asked for keys. Default: the public roots
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// jwks_url may be at a loopback or private address
    #[serde(default)]
    pub internal: bool,
    /// Seconds between two reads of the keys. Default 600
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_s: Option<u32>,
    /// Default RS256, ES256, ES384, PS256, EdDSA
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<String>>,
    /// The one audience of its tokens. Default weighbridge
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Longest life of a token, at most 86400. Default 3600
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime_s: Option<u32>,
    /// Values of the header `typ`. Default: the profile's
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// What kind of tokens it makes
    #[serde(default)]
    pub profile: Profile,
    /// Strangers get tokens of it too: rules must name an owner that cannot be renamed
    #[serde(default)]
    pub shared: bool,
    /// What its tokens stand for; the first rule that fits is taken
    #[serde(default)]
    pub rule: Vec<TrustRule>,
}

/// What a token with these claims stands for
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustRule {
    pub id: String,
    /// Claim = value, or a list of values; compared exactly
    pub claims: BTreeMap<String, OneOrMore>,
    pub service: String,
    /// The agent inside the service that it is
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// prod, pilot, test or exploratory
    pub environment: Environment,
}

/// One text, or several
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Keys of the interface that this version reads nowhere: refused, since a limit that is not kept is worse than none.
pub(super) const NOT_ENFORCED: &[(&str, &[&str])] = &[
    ("", &["agent", "operator"]),
    ("server", &["witness"]),
    ("server.tls", &["client_ca"]),
    ("service", &["charge_to", "risk_tier", "data_class", "expected_hours"]),
    ("key", &["allow_routes", "binding", "caller_fields", "may_delegate", "max_depth"]),
];

/// The words of the error are what `read` knows it by.
fn read_dimensions<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<Dimension, String>, D::Error> {
    let pairs = BTreeMap::<String, String>::deserialize(d)?;
    let known = |name: &str| {
        let names = Dimension::ALL.iter().map(|d| d.name());
        let way_out = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}", names.collect::<Vec<_>>().join(", ")),
        };
        serde::de::Error::custom(format!("unknown dimension `{name}`: {way_out}"))
    };
    pairs.into_iter().map(|(name, v)| Ok((Dimension::from_name(&name).ok_or_else(|| known(&name))?, v))).collect()
}

fn dimensions(_: &mut SchemaGenerator) -> Schema {
    let text = json_schema!({ "type": "string" });
    let all: serde_json::Map<String, serde_json::Value> =
        Dimension::ALL.iter().map(|d| (d.name().to_owned(), text.clone().to_value())).collect();
    json_schema!({
        "type": "object", "properties": all, "additionalProperties": false,
        "description": "Dimension = value; a * in the value stands for anything"
    })
}
