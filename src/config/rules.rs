//! What must be true of every declared noun, wherever it comes from: the file, the API, a page. Each rule names the field
//! and says the way out. References between nouns are checked by who has both.

use std::collections::BTreeMap;
use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};

use crate::domain::id::is_slug;
use crate::domain::identity::Provenance;
use crate::domain::notify::{ChannelKind, Notify, Transport};
use crate::domain::policy::{CLASS, PriceClass};
use crate::domain::trust::{Issuer, unsafe_rule};
use crate::domain::{
    Budget, Dimension, Enforcement, Environment, Metric, MidstreamExceed, Organisation, Owner, PeriodKind, Policy,
    Provider, Rollover, Service,
};

/// Field and sentence of what is wrong.
pub type Problem = (&'static str, String);

/// Provider ids that would hide a path of the gateway.
pub const RESERVED_PROVIDERS: [&str; 8] =
    ["v1", "v1beta", "v1beta1", "model", "wb", "healthz", "readyz", ".well-known"];
/// Policy ids that would hide a page or a path of the API.
const RESERVED_POLICIES: [&str; 4] = ["new", "simulate", "replay", "export"];
/// Dialects this version speaks: those with a protocol of their own, and vendors whose API is OpenAI's.
pub const DIALECTS: [&str; 21] = [
    "openai",
    "anthropic",
    "gemini",
    "vertex",
    "bedrock",
    "azure-openai",
    "cohere",
    "ollama",
    "voyage",
    "mistral",
    "groq",
    "xai",
    "deepseek",
    "openrouter",
    "perplexity",
    "together",
    "fireworks",
    "cerebras",
    "moonshot",
    "zai",
    "vllm",
];
/// What a service's callers may be allowed to say about themselves.
pub const CALLER_FIELDS: [&str; 7] = ["workflow", "run", "batch", "prompt_class", "agent", "tenant", "end_user"];
/// Dimensions whose value the caller sets: a hard budget on one would let the caller choose its budget.
pub const CALLERS_WORDS: [Dimension; 4] =
    [Dimension::Workflow, Dimension::Run, Dimension::Agent, Dimension::PromptClass];
/// Longest list of globs on one noun: each is tried on every call.
const MAX_GLOBS: usize = 200;

/// Why a text is no id.
pub fn id(text: &str) -> Option<String> {
    if text.contains('@') {
        let why = "ids stand in records that cannot be erased, so use a slug such as `team-ap`";
        return Some(format!("`{text}` looks like an e-mail address: {why}"));
    }
    let why = "use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit";
    (!is_slug(text)).then(|| format!("`{text}` is not an id: {why}"))
}

/// Why a text is no label (application, business unit, cost centre, tenant).
fn label(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'_' | b'-' | b'/' | b'&' | b'+');
    let ok = (1..=64).contains(&text.len())
        && text.bytes().all(good)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.ends_with(' ');
    let why = "use 1 to 64 letters, digits, spaces and `._-/&+`, the first a letter or digit; no e-mail address";
    (!ok).then(|| format!("`{text}` cannot stand in reports: {why}"))
}

/// Why a text is no name of a zone.
fn zone(text: &str) -> Option<String> {
    jiff::tz::TimeZone::get(text)
        .is_err()
        .then(|| format!("`{text}` is not a time zone: use an IANA name such as Europe/Berlin or UTC"))
}

fn globs<'a>(field: &'static str, list: impl IntoIterator<Item = &'a String>, problems: &mut Vec<Problem>) {
    let mut count = 0;
    for glob in list {
        count += 1;
        if glob.is_empty() || glob.len() > 200 || glob.chars().any(char::is_control) {
            problems
                .push((field, format!("`{glob}` is not a pattern: use 1 to 200 characters, `*` for any run of them")));
        }
    }
    if count > MAX_GLOBS {
        problems.push((field, format!("{count} patterns are more than {MAX_GLOBS}: use `*` to join some")));
    }
}

fn put(problems: &mut Vec<Problem>, field: &'static str, problem: Option<String>) {
    problems.extend(problem.map(|p| (field, p)));
}

pub fn organisation(o: &Organisation) -> Vec<Problem> {
    let mut problems = Vec::new();
    if o.name.trim().is_empty() || o.name.len() > 200 {
        problems.push(("name", "the organisation has no name of 1 to 200 characters: give it one".to_owned()));
    }
    put(&mut problems, "time_zone", zone(&o.time_zone));
    if !(1..=12).contains(&o.fiscal_year_start_month) {
        let month = o.fiscal_year_start_month;
        problems.push(("fiscal_year_start_month", format!("`{month}` is not a month: use 1 to 12")));
    }
    problems
}

pub fn owner(o: &Owner) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&o.id));
    let address = o.email.as_deref().filter(|e| !e.contains('@') || e.len() > 254 || e.contains(char::is_whitespace));
    put(&mut problems, "email", address.map(|e| format!("`{e}` is not an e-mail address")));
    problems
}

/// Longest set of keys that stands in the declaration itself, in bytes: it must fit into one entry.
const MAX_INLINE_KEYS: usize = 16 * 1024;
/// Most rules of one issuer: each is tried until one fits.
const MAX_TRUST_RULES: usize = 200;

pub fn issuer(i: &Issuer) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&i.id));
    if i.iss.is_empty() || i.iss.len() > 512 || i.iss.chars().any(|c| c.is_control() || c == ' ') {
        problems.push(("iss", "write the exact `iss` of the tokens, 1 to 512 characters without spaces".to_owned()));
    }
    if i.audience.is_empty() || i.audience.len() > 256 {
        problems.push(("audience", "name the one audience of the tokens, 1 to 256 characters".to_owned()));
    }
    key_source(i, &mut problems);
    if i.algorithms.is_empty() {
        problems.push(("algorithms", "name at least one".to_owned()));
    }
    for name in i.algorithms.iter().filter(|a| !Issuer::ALGORITHMS.contains(&a.as_str())) {
        let known = Issuer::ALGORITHMS.join(", ");
        problems.push(("algorithms", format!("`{name}` proves nothing or is not known here: use some of {known}")));
    }
    if !(60..=Issuer::MOST_LIFETIME_S).contains(&i.max_lifetime_s) {
        problems.push(("max_lifetime_s", format!("use 60 to {} seconds", Issuer::MOST_LIFETIME_S)));
    }
    if !(5..=86_400).contains(&i.refresh_s) {
        problems.push(("refresh_s", "use 5 to 86400 seconds".to_owned()));
    }
    trust_rules(i, &mut problems);
    problems
}

fn key_source(i: &Issuer, problems: &mut Vec<Problem>) {
    let sources = [&i.keys.url, &i.keys.file, &i.keys.inline];
    if sources.iter().filter(|source| source.is_some()).count() != 1 {
        problems.push(("id", "say where its keys are: exactly one of jwks_url, jwks_file and jwks".to_owned()));
    }
    if let Some(url) = &i.keys.url {
        let uri = url.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some());
        match uri.as_ref().and_then(http::Uri::scheme_str) {
            Some("https") => {}
            Some("http") if i.keys.internal => {}
            Some("http") => problems.push(("jwks_url", format!("`{url}` could be changed on its way: use https"))),
            _ => problems.push(("jwks_url", format!("`{url}` is not a URL"))),
        }
    }
    if i.keys.inline.as_ref().is_some_and(|keys| keys.len() > MAX_INLINE_KEYS) {
        problems.push(("jwks", format!("more than {MAX_INLINE_KEYS} bytes: use jwks_file")));
    }
}

fn trust_rules(i: &Issuer, problems: &mut Vec<Problem>) {
    if i.rules.len() > MAX_TRUST_RULES {
        problems.push(("rule", format!("{} rules are more than {MAX_TRUST_RULES}", i.rules.len())));
    }
    for (at, rule) in i.rules.iter().enumerate() {
        put(problems, "rule", id(&rule.id));
        put(problems, "rule", rule.agent.as_deref().and_then(id));
        if i.rules[..at].iter().any(|other| other.id == rule.id) {
            problems.push(("rule", format!("`{}` is there twice: give one another id", rule.id)));
        }
        if let Some(why) = unsafe_rule(i, rule) {
            problems.push(("rule", format!("`{}` cannot be saved: {why}", rule.id)));
        }
    }
}

pub fn service(s: &Service) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&s.id));
    put(&mut problems, "owner", id(&s.owner));
    // Left out, it is the id, which has been told about.
    put(&mut problems, "application", label(&s.application).filter(|_| s.application != s.id));
    put(&mut problems, "business_unit", label(&s.business_unit));
    put(&mut problems, "cost_centre", s.cost_centre.as_deref().and_then(label));
    put(&mut problems, "tenant", s.tenant.as_deref().and_then(label));
    for field in &s.caller_fields {
        if !CALLER_FIELDS.contains(&field.as_str()) {
            let known = CALLER_FIELDS.join(", ");
            problems.push(("caller_fields", format!("`{field}` is not a field of callers: use some of {known}")));
        }
    }
    if let Some(field) = s.mandatory_fields.iter().find(|field| !s.caller_fields.contains(*field)) {
        let what = format!("`{field}` cannot be mandatory before callers may say it: add it to `caller_fields`");
        problems.push(("mandatory_fields", what));
    }
    globs("tenants", &s.tenants, &mut problems);
    globs("workflows", &s.workflows, &mut problems);
    globs("prompt_classes", &s.prompt_classes, &mut problems);
    problems
}

pub fn key_models(models: Option<&[String]>) -> Vec<Problem> {
    let mut problems = Vec::new();
    globs("allow_models", models.unwrap_or_default(), &mut problems);
    problems
}

pub fn provider(p: &Provider) -> Vec<Problem> {
    let mut problems = Vec::new();
    if RESERVED_PROVIDERS.contains(&p.id.as_str()) {
        problems.push(("id", format!("`{}` would hide a path of the gateway: choose another id", p.id)));
    } else {
        put(&mut problems, "id", id(&p.id));
    }
    if !DIALECTS.contains(&p.dialect.as_str()) {
        let known = DIALECTS.join(", ");
        let dialect = &p.dialect;
        problems.push((
            "dialect",
            format!("`{dialect}` is not a dialect: use one of {known}; any OpenAI-compatible server is `openai`"),
        ));
    }
    put(&mut problems, "base_url", base_url(&p.base_url, p.internal));
    globs("models", &p.models, &mut problems);
    if !p.price_as.is_empty() {
        put(&mut problems, "price_as", id(&p.price_as));
    }
    if !(1..=3_600).contains(&p.idle_timeout_s) {
        let seconds = p.idle_timeout_s;
        problems.push(("idle_timeout_s", format!("`{seconds}` is not a time-out: use 1 to 3600 seconds")));
    }
    problems
}

/// Why a provider's credential cannot go into a header.
pub fn credential(credential: &SecretString) -> Option<String> {
    let text = credential.expose_secret();
    let bad = text.is_empty() || text.bytes().any(|b| !(0x21..0x7f).contains(&b));
    bad.then(|| "a credential has no spaces and no characters beyond ASCII: check it".to_owned())
}

/// https to the world; loopback, private addresses and http only to what is declared internal.
fn base_url(text: &str, internal: bool) -> Option<String> {
    let url = match text.parse::<http::Uri>() {
        Ok(url) if url.host().is_some() && matches!(url.scheme_str(), Some("https" | "http")) => url,
        _ => return Some(format!("`{text}` is not a base URL: write https://host[:port][/path]")),
    };
    if url.query().is_some() || text.contains('#') || url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Some("a base URL has no query, fragment or credential: put the credential in `api_key`".to_owned());
    }
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let local = host == "localhost" || host.ends_with(".localhost") || address.is_some_and(|a| !is_global(a));
    match (internal, local, url.scheme_str()) {
        (false, true, _) => {
            Some(format!("`{host}` is a loopback or private address: set `internal = true` to allow it"))
        }
        (false, _, Some("http")) => {
            Some(format!("`{text}` is not encrypted: use https, or set `internal = true` for a server of your own"))
        }
        _ => None,
    }
}

/// Whether an address is one of the public internet.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let o = a.octets();
            let shared = o[0] == 100 && (64..128).contains(&o[1]);
            let benchmark = o[0] == 198 && (o[1] == 18 || o[1] == 19);
            !(a.is_private()
                || a.is_loopback()
                || a.is_link_local()
                || a.is_unspecified()
                || a.is_broadcast()
                || a.is_multicast()
                || a.is_documentation()
                || o[0] == 0
                || o[0] >= 240
                || shared
                || benchmark)
        }
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => is_global(IpAddr::V4(v4)),
            None => {
                let first = a.segments()[0];
                let local = (first & 0xfe00) == 0xfc00 || (first & 0xffc0) == 0xfe80;
                !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || local)
            }
        },
    }
}

fn covered(matches: &BTreeMap<Dimension, String>, problems: &mut Vec<Problem>) {
    globs("match", matches.values(), problems);
    if matches.contains_key(&Dimension::Outcome) {
        let why = "it is known only after the call: match something that is known before";
        problems.push(("match", format!("`outcome` cannot be matched, {why}")));
    }
    if let Some(environment) = matches.get(&Dimension::Environment)
        && !environment.contains('*')
        && Environment::from_name(environment).is_none()
    {
        let known = "use prod, pilot, test or exploratory";
        problems.push(("match", format!("`{environment}` is not an environment: {known}")));
    }
}

pub fn policy(p: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&p.id));
    if RESERVED_POLICIES.contains(&p.id.as_str()) {
        problems.push(("id", format!("`{}` is the name of a page: choose another id", p.id)));
    }
    covered(&p.matches, &mut problems);
    models("allow_models", p.allow_models.iter().flatten(), &mut problems);
    models("deny_models", &p.deny_models, &mut problems);
    globs("allow_endpoints", p.allow_endpoints.iter().flatten(), &mut problems);
    globs("deny_endpoints", &p.deny_endpoints, &mut problems);
    globs("allow_tools", p.allow_tools.iter().flatten(), &mut problems);
    globs("deny_tools", &p.deny_tools, &mut problems);
    globs("allow_providers", p.allow_providers.iter().flatten(), &mut problems);
    globs("deny_providers", &p.deny_providers, &mut problems);
    globs("allow_regions", p.allow_regions.iter().flatten(), &mut problems);
    for (field, count) in [
        ("allow_networks", p.allow_networks.as_ref().map_or(0, Vec::len)),
        ("deny_networks", p.deny_networks.len()),
        ("hours", p.hours.len()),
        ("require_headers", p.require_headers.len()),
    ] {
        if count > MAX_GLOBS {
            problems.push((field, format!("{count} entries are more than {MAX_GLOBS}")));
        }
    }
    for name in &p.require_headers {
        if http::HeaderName::try_from(name.as_str()).is_err() {
            problems.push(("require_headers", format!("`{name}` is not the name of a header")));
        }
    }
    for field in &p.require_fields {
        if !Provenance::FIELDS.contains(&field.as_str()) {
            let known = Provenance::FIELDS.join(", ");
            problems.push(("require_fields", format!("`{field}` is not a field of calls: use some of {known}")));
        }
    }
    rates(p, &mut problems);
    if let Some(downgrade) = &p.downgrade {
        if !(1..=100).contains(&downgrade.below_percent) {
            problems.push(("downgrade", "below_percent is a percentage: use 1 to 100".to_owned()));
        }
        if downgrade.to.is_empty() || downgrade.to.contains('*') || downgrade.to.len() > 200 {
            problems.push(("downgrade", "`to` names one model of the provider, without `*`".to_owned()));
        }
    }
    if !p.has_rules() {
        problems.push(("id", format!("policy `{}` allows and denies nothing: add a rule or remove it", p.id)));
    }
    problems
}

/// Globs, and classes of price that exist.
fn models<'a>(field: &'static str, list: impl IntoIterator<Item = &'a String> + Clone, problems: &mut Vec<Problem>) {
    globs(field, list.clone(), problems);
    for class in list.into_iter().filter_map(|pattern| pattern.strip_prefix(CLASS)) {
        if !PriceClass::ALL.iter().any(|c| c.name() == class) {
            let known = PriceClass::ALL.map(|c| c.name()).join(", ");
            problems.push((field, format!("`{CLASS}{class}` is not a class of prices: use one of {known}")));
        }
    }
}

/// Zero would be a way to forbid calls that says something else.
fn rates(p: &Policy, problems: &mut Vec<Problem>) {
    let zero = |what: Option<u64>| what == Some(0);
    for (field, what) in [
        ("max_output_tokens", p.max_output_tokens),
        ("max_input_tokens", p.max_input_tokens),
        ("max_calls_per_minute", p.max_calls_per_minute.map(u64::from)),
        ("max_tokens_per_minute", p.max_tokens_per_minute.map(u64::from)),
        ("max_concurrent", p.max_concurrent.map(u64::from)),
    ] {
        if zero(what) {
            problems.push((field, "use 1 or more: to forbid calls, deny models or endpoints".to_owned()));
        }
    }
    if p.max_concurrent.is_some_and(|n| n > 1_000_000) {
        problems.push(("max_concurrent", "use at most 1000000".to_owned()));
    }
    if p.queue_ms.is_some_and(|ms| ms > 30_000) {
        problems.push(("queue_ms", "callers wait at most 30000 ms".to_owned()));
    }
    if p.queue_ms.is_some() && !p.has_rates() {
        problems.push(("queue_ms", "there is no rate to wait for: set max_concurrent or another".to_owned()));
    }
}

pub fn budget(b: &Budget) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&b.id));
    covered(&b.matches, &mut problems);
    if b.limit.amount < 0 {
        let field = match b.limit.metric {
            Metric::Usd => "limit_usd",
            Metric::Tokens => "limit_tokens",
            Metric::Calls => "limit_calls",
            Metric::ToolCalls => "limit_tool_calls",
        };
        problems.push((field, "a limit is not below 0; 0 lets only free calls pass".to_owned()));
    }
    if !b.time_zone.is_empty() {
        put(&mut problems, "time_zone", zone(&b.time_zone));
    }
    if b.fiscal_year_start_month > 12 {
        let month = b.fiscal_year_start_month;
        problems.push(("fiscal_year_start_month", format!("`{month}` is not a month: use 1 to 12")));
    }
    if let Some(anchor) = &b.anchor
        && anchor.parse::<jiff::civil::Date>().is_err()
    {
        problems.push(("anchor", format!("`{anchor}` is not a date: write 2026-11-15")));
    }
    if let Some(percent) = b.alert_at_percent.iter().find(|p| !(1..=1_000).contains(*p)) {
        problems.push(("alert_at_percent", format!("`{percent}` is not a threshold: use 1 to 1000 percent")));
    }
    if b.enforcement == Enforcement::Hard && b.on_midstream_exceed == Some(MidstreamExceed::Finish) {
        let why = "a hard budget cuts a stream it cannot afford, or settled + held would pass its limit";
        problems.push(("on_midstream_exceed", format!("`finish` is for `alert` budgets: {why}")));
    }
    if b.grace_pct.is_some_and(|percent| percent > 100) {
        problems.push(("grace_pct", "more than 100 percent above the limit: raise the limit instead".to_owned()));
    }
    if b.rollover != Rollover::None && b.period == PeriodKind::Total {
        problems
            .push(("rollover", "a `total` budget has one period and hands nothing on: remove `rollover`".to_owned()));
    }
    if b.parent.as_deref() == Some(b.id.as_str()) {
        problems.push(("parent", format!("budget `{}` is its own parent: name another or none", b.id)));
    }
    if b.alert_at_percent.len() > 20 {
        problems.push(("alert_at_percent", "more than 20 thresholds: keep the ones somebody acts on".to_owned()));
    }
    problems
}

/// The least of a hard budget's fields that its callers set and that its service does not make mandatory, in words.
fn unkept(budget: &Budget, service: Option<&Service>) -> Option<String> {
    let optional = |d: &Dimension| service.is_none_or(|s| !s.mandatory_fields.contains(d.name()));
    let dimension = CALLERS_WORDS.into_iter().find(|d| budget.matches.contains_key(d) && optional(d))?;
    Some(match budget.matches.get(&Dimension::Service) {
        Some(id) => format!("`{dimension}`, which service `{id}` does not make mandatory for its callers"),
        None => format!("`{dimension}`, which callers set themselves, and no service that makes it mandatory"),
    })
}

/// A hard budget on what the caller may leave out or choose would let the caller choose its budget; it is kept as `alert`.
/// `service`: looks one up by its id.
pub fn soften<'a>(budget: &mut Budget, service: impl Fn(&str) -> Option<&'a Service>) -> Option<String> {
    let service = budget.matches.get(&Dimension::Service).and_then(|id| service(id));
    let unkept = unkept(budget, service).filter(|_| budget.enforcement == Enforcement::Hard)?;
    budget.enforcement = Enforcement::Alert;
    Some(format!("budget `{}` matches {unkept}: kept as `alert`, it refuses nothing", budget.id))
}

pub fn notify(n: &Notify) -> Vec<Problem> {
    let mut problems = Vec::new();
    put(&mut problems, "id", id(&n.id));
    if n.transport == Transport::Plain && n.kind != ChannelKind::Syslog && !n.internal {
        let what =
            format!("{} would be told to everybody on the way: use TLS, or say `internal = true`", n.kind.name());
        problems.push(("internal", what));
    }
    let host = n.host.rsplit_once(':').map_or(n.host.as_str(), |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host.is_empty() || host.len() > 253 {
        problems.push(("host", "a host has 1 to 253 characters".to_owned()));
    }
    if address.is_ok_and(|a| a.is_loopback()) && !n.internal {
        problems.push(("internal", "a loopback address: say `internal = true` if that is meant".to_owned()));
    }
    if let Some(quiet) = n.quiet.as_ref().and_then(|quiet| quiet.zone.as_deref()) {
        put(&mut problems, "quiet_hours", zone(quiet));
    }
    if n.group_s > 3_600 {
        problems.push(("group_s", format!("`{}` is too long: use 0 to 3600 seconds", n.group_s)));
    }
    problems
}
