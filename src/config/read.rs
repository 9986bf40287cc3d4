//! Sections as written → nouns, with every problem and its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::domain::catalogue::Notify;
use crate::domain::key::{Secret, SecretKind};
use crate::domain::{
    Budget, Component, Environment, Limit, Metric, Micros, Money, Organisation, Owner, Policy, PriceOverride, Provider,
    Service,
};
use secrecy::{ExposeSecret, SecretString};

use super::secret::SecretSource;
use super::{Config, ConfigError, Declared, KeyDeclaration, Server, Surroundings, Tls, file, rules, shape};

/// Thresholds of a budget that names none.
pub const DEFAULT_THRESHOLDS: [u16; 4] = [50, 75, 90, 100];
/// Shortest operator token: 20 characters of base62 are 119 bits.
const MIN_TOKEN_CHARS: usize = 20;

/// Collects what is wrong while reading on.
struct Reader<'a> {
    /// The file's name as problems cite it.
    name: String,
    folder: &'a Path,
    text: &'a str,
    surroundings: &'a dyn Surroundings,
    /// Line and sentence.
    problems: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
}

/// Where a section and its keys stand.
struct Place {
    line: usize,
    keys: BTreeMap<String, usize>,
}

impl Place {
    fn of(&self, key: &str) -> usize {
        let table = key.split('.').next().unwrap_or(key);
        self.keys.get(table).copied().unwrap_or(self.line)
    }
}

pub(super) fn read(path: &Path, text: &str, surroundings: &dyn Surroundings) -> Result<Config, ConfigError> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut reader = Reader { name, folder, text, surroundings, problems: Vec::new(), warnings: Vec::new() };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let line = reader.line(error.span().map_or(0, |s| s.start));
            let (name, message) = (&reader.name, error.message().replace('\n', ", "));
            return Err(ConfigError(format!("not TOML at {name}:{line}: {message}")));
        }
    };
    for stray in shape::strays(&table) {
        let line = reader.line(stray.offset);
        let place = format!("{}:{line}", reader.name);
        reader.problems.push((line, format!("{}`{}` at {place}: {}", stray.what, stray.key, stray.way_out)));
    }
    let server = reader.server(&table);
    let declared = reader.declared(&table);
    reader.finish(server, declared)
}

impl Reader<'_> {
    fn finish(mut self, server: Server, declared: Declared) -> Result<Config, ConfigError> {
        self.warnings.sort();
        if self.problems.is_empty() {
            let warnings = self.warnings.into_iter().map(|(_, w)| w).collect();
            return Ok(Config { server, declared, warnings });
        }
        self.problems.sort();
        self.problems.dedup();
        let lines: Vec<String> = self.problems.into_iter().map(|(_, p)| p).collect();
        Err(ConfigError(lines.join("\n")))
    }

    fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn problem(&mut self, place: &Place, key: &str, what: impl std::fmt::Display) {
        let line = place.of(key);
        self.problems.push((line, format!("`{key}` at {}:{line}: {what}", self.name)));
    }

    fn warning(&mut self, place: &Place, key: &str, what: impl std::fmt::Display) {
        let line = place.of(key);
        self.warnings.push((line, format!("`{key}` at {}:{line}: {what}", self.name)));
    }

    fn rules(&mut self, place: &Place, problems: Vec<rules::Problem>) {
        for (key, what) in problems {
            self.problem(place, key, what);
        }
    }

    fn place(&self, value: &Spanned<DeValue<'_>>) -> Place {
        let keys = value.get_ref().as_table().into_iter().flat_map(|t| t.iter());
        let keys: BTreeMap<String, usize> =
            keys.map(|(k, _)| (k.get_ref().to_string(), self.line(k.span().start))).collect();
        Place { line: self.line(value.span().start), keys }
    }

    /// One section; `None` and a problem where it cannot be read.
    fn section<T: for<'de> Deserialize<'de>>(&mut self, value: &Spanned<DeValue<'_>>) -> Option<(T, Place)> {
        let place = self.place(value);
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(read) => Some((read, place)),
            // The shape has told already, with the nearest key.
            Err(error) if error.message().starts_with("unknown field") => None,
            Err(error) => {
                let at = error.span().map_or(value.span().start, |s| s.start);
                let within = |v: &Spanned<DeValue<'_>>| v.span().start <= at && at < v.span().end;
                let mut pairs = value.get_ref().as_table().into_iter().flat_map(|t| t.iter());
                let key = pairs.find(|(_, v)| within(v)).map(|(k, _)| k.get_ref().to_string());
                let line = self.line(at);
                let what = explain(error.message());
                let whom = key.map_or_else(|| "section".to_owned(), |k| format!("`{k}`"));
                self.problems.push((line, format!("{whom} at {}:{line}: {what}", self.name)));
                None
            }
        }
    }

    /// All `[[name]]` sections that can be read, in the order of the file.
    fn sections<T: for<'de> Deserialize<'de>>(&mut self, table: &DeTable<'_>, name: &str) -> Vec<(T, Place)> {
        let Some(value) = table.get(name) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| self.section(item)).collect(),
            _ => {
                let line = self.line(value.span().start);
                let what = format!("`{name}` at {}:{line}: there can be several, so write [[{name}]]", self.name);
                self.problems.push((line, what));
                Vec::new()
            }
        }
    }

    fn secret(&mut self, place: &Place, key: &str, source: Option<SecretSource>) -> Option<SecretString> {
        match source?.resolve(self.folder, self.surroundings) {
            Ok(secret) => Some(secret),
            Err(what) => {
                self.problem(place, key, what);
                None
            }
        }
    }

    fn server(&mut self, table: &DeTable<'_>) -> Server {
        let mut server = Server::default();
        let Some(value) = table.get("server") else { return server };
        let Some((read, place)) = self.section::<file::Server>(value) else { return server };
        server.listen = self.address(&place, "listen", read.listen, server.listen);
        server.web_listen = self.address(&place, "web_listen", read.web_listen, server.web_listen);
        if server.listen == server.web_listen && server.listen.port() != 0 {
            self.problem(&place, "web_listen", "the gateway listens there already: choose another port");
        }
        server.data_dir = read.data_dir.map_or(server.data_dir, Into::into);
        server.operator_token = self.secret(&place, "operator_token", read.operator_token);
        if server.operator_token.as_ref().is_some_and(|t| t.expose_secret().chars().count() < MIN_TOKEN_CHARS) {
            let what = format!("shorter than {MIN_TOKEN_CHARS} characters: make a random one");
            self.problem(&place, "operator_token", what);
        }
        server.relaxed = read.durability == file::Durability::Relaxed;
        server.max_body_bytes = read.max_body_bytes.unwrap_or(server.max_body_bytes);
        if !(1_024..=1 << 30).contains(&server.max_body_bytes) {
            self.problem(&place, "max_body_bytes", "use 1024 to 1073741824 bytes");
        }
        server.max_concurrent = read.max_concurrent.unwrap_or(server.max_concurrent);
        if !(1..=200_000).contains(&server.max_concurrent) {
            self.problem(&place, "max_concurrent", "use 1 to 200000");
        }
        server.tls = read.tls.map(|t| Tls { cert: self.folder.join(t.cert), key: self.folder.join(t.key) });
        server
    }

    fn address(&mut self, place: &Place, key: &str, text: Option<String>, default: SocketAddr) -> SocketAddr {
        let Some(text) = text else { return default };
        text.parse().unwrap_or_else(|_| {
            self.problem(place, key, format!("`{text}` is not an address: write IP:port such as 127.0.0.1:8700"));
            default
        })
    }

    fn declared(&mut self, table: &DeTable<'_>) -> Declared {
        let mut declared = Declared { organisation: self.organisation(table), ..Declared::default() };
        let zone = declared.organisation.as_ref().and_then(|o| jiff::tz::TimeZone::get(&o.time_zone).ok());
        let zone = zone.unwrap_or(jiff::tz::TimeZone::UTC);
        declared.owners = self.owners(table);
        declared.services = self.services(table);
        declared.providers = self.providers(table);
        declared.notify = self.notify(table);
        declared.keys = self.keys(table, &zone, &declared.services);
        declared.prices = self.prices(table, &zone);
        declared.budgets = self.budgets(table, &declared.notify);
        declared.policies = self.policies(table);
        declared
    }

    /// Says so where an id comes twice.
    fn unique(&mut self, seen: &mut BTreeSet<String>, place: &Place, key: &str, noun: &str, id: &str) {
        if !seen.insert(id.to_owned()) {
            self.problem(place, key, format!("{noun} `{id}` is declared twice: remove one"));
        }
    }

    fn organisation(&mut self, table: &DeTable<'_>) -> Option<Organisation> {
        let (read, place) = self.section::<file::Organisation>(table.get("organisation")?)?;
        let organisation = Organisation {
            name: read.name,
            time_zone: read.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            fiscal_year_start_month: read.fiscal_year_start_month.unwrap_or(1),
        };
        self.rules(&place, rules::organisation(&organisation));
        Some(organisation)
    }

    fn owners(&mut self, table: &DeTable<'_>) -> Vec<Owner> {
        let mut seen = BTreeSet::new();
        let mut owners = Vec::new();
        for (read, place) in self.sections::<file::Owner>(table, "owner") {
            let owner = Owner { id: read.id, kind: read.kind, name: read.name, email: read.email };
            self.rules(&place, rules::owner(&owner));
            self.unique(&mut seen, &place, "id", "owner", &owner.id);
            owners.push(owner);
        }
        owners
    }

    fn services(&mut self, table: &DeTable<'_>) -> Vec<Service> {
        let mut seen = BTreeSet::new();
        let mut services = Vec::new();
        for (read, place) in self.sections::<file::Service>(table, "service") {
            let service = Service {
                application: read.application.unwrap_or_else(|| read.id.clone()),
                id: read.id,
                kind: read.kind,
                owner: read.owner,
                business_unit: read.business_unit,
                cost_centre: read.cost_centre,
                tenant: read.tenant,
                purpose: read.purpose,
                caller_fields: read.caller_fields,
                tenants: read.tenants,
                workflows: read.workflows,
                prompt_classes: read.prompt_classes,
            };
            self.rules(&place, rules::service(&service));
            self.unique(&mut seen, &place, "id", "service", &service.id);
            if service.purpose.is_none() {
                let what = format!("service `{}` has no purpose: say in a line what it is for", service.id);
                self.warning(&place, "id", what);
            }
            services.push(service);
        }
        services
    }

    fn providers(&mut self, table: &DeTable<'_>) -> Vec<(Provider, Option<SecretString>)> {
        let mut seen = BTreeSet::new();
        let mut providers = Vec::new();
        for (position, (read, place)) in (0..).zip(self.sections::<file::Provider>(table, "provider")) {
            let provider = Provider {
                id: read.id,
                dialect: read.dialect,
                base_url: read.base_url.trim_end_matches('/').to_owned(),
                internal: read.internal,
                models: read.models,
                price_as: read.price_as.unwrap_or_default(),
                idle_timeout_s: read.idle_timeout_s.unwrap_or(300),
                on_client_abort: read.on_client_abort,
                position,
            };
            self.rules(&place, rules::provider(&provider));
            self.unique(&mut seen, &place, "id", "provider", &provider.id);
            let credential = self.secret(&place, "api_key", read.api_key);
            if credential.as_ref().is_some_and(|c| c.expose_secret().bytes().any(|b| !(0x21..0x7f).contains(&b))) {
                self.problem(&place, "api_key", "a credential has no spaces and no characters beyond ASCII: check it");
            }
            providers.push((provider, credential));
        }
        providers
    }

    fn notify(&mut self, table: &DeTable<'_>) -> Vec<Notify> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (read, place) in self.sections::<file::Notify>(table, "notify") {
            let notify = Notify { id: read.id, webhook: read.webhook };
            self.rules(&place, rules::notify(&notify));
            self.unique(&mut seen, &place, "id", "notify", &notify.id);
            let what = "alerts are recorded and shown on the pages; this version does not send them anywhere yet";
            self.warning(&place, "webhook", what);
            all.push(notify);
        }
        all
    }

    fn keys(&mut self, table: &DeTable<'_>, zone: &jiff::tz::TimeZone, services: &[Service]) -> Vec<KeyDeclaration> {
        let mut seen = BTreeSet::new();
        let mut keys = Vec::new();
        for (read, place) in self.sections::<file::Key>(table, "key") {
            if !services.iter().any(|s| s.id == read.service) {
                let what = format!("service `{}` is not declared: add a [[service]] with this id", read.service);
                self.problem(&place, "service", what);
            }
            let environment = Environment::from_name(&read.environment);
            if environment.is_none() {
                let what =
                    format!("`{}` is not an environment: use prod, pilot, test or exploratory", read.environment);
                self.problem(&place, "environment", what);
            }
            self.rules(&place, rules::key_models(read.allow_models.as_deref()));
            let expires = self.expiry(&place, read.expires.as_deref(), zone);
            let Some(source) = read.secret else {
                let command =
                    format!("weighbridge key create --service {} --environment {}", read.service, read.environment);
                self.warning(&place, "service", format!("a key without `secret` makes none: run `{command}`"));
                continue;
            };
            let Some(text) = self.secret(&place, "secret", Some(source)) else { continue };
            let (Some(environment), Some(secret)) = (environment, self.key_secret(&place, &text, environment)) else {
                continue;
            };
            self.unique(&mut seen, &place, "secret", "key", secret.id());
            let (allow_models, note) = (read.allow_models, read.note);
            keys.push(KeyDeclaration { service: read.service, environment, secret, expires, allow_models, note });
        }
        keys
    }

    fn key_secret(&mut self, place: &Place, text: &SecretString, environment: Option<Environment>) -> Option<Secret> {
        let way_out = "`weighbridge key generate --environment` prints a good one";
        let secret = match Secret::parse(text.expose_secret()) {
            Ok(secret) => secret,
            Err(error) => {
                self.problem(place, "secret", format!("{error}: {way_out}"));
                return None;
            }
        };
        if secret.kind != SecretKind::Service {
            self.problem(place, "secret", format!("`{}…` is not a service's key (wbk_…): {way_out}", secret.id()));
            return None;
        }
        if environment.is_some() && secret.environment() != environment {
            let (of, wanted) =
                (secret.environment().map_or("none", |e| e.name()), environment.map_or("", |e| e.name()));
            let what = format!("`{}…` is a key of environment `{of}`, not `{wanted}`: {way_out}", secret.id());
            self.problem(place, "secret", what);
            return None;
        }
        Some(secret)
    }

    /// `never`, an instant, or a date: the last day, in the organisation's zone, on which the key works.
    fn expiry(&mut self, place: &Place, text: Option<&str>, zone: &jiff::tz::TimeZone) -> Option<Option<Micros>> {
        match text? {
            "never" => {
                self.warning(place, "expires", "a key that never expires: replace it in time yourself");
                Some(None)
            }
            text => match instant(text, zone, 1) {
                Some(at) => Some(Some(at)),
                None => {
                    self.problem(place, "expires", format!("`{text}` is not a date: write 2027-01-31, or \"never\""));
                    None
                }
            },
        }
    }

    fn prices(&mut self, table: &DeTable<'_>, zone: &jiff::tz::TimeZone) -> Vec<PriceOverride> {
        let mut seen = BTreeSet::new();
        let mut prices = Vec::new();
        for (read, place) in self.sections::<file::Price>(table, "price") {
            let component = Component::from_name(&read.component);
            if component.is_none() {
                let near = super::near::nearest(&read.component, Component::ALL.iter().map(|c| c.name()));
                let known: Vec<_> = Component::ALL.iter().map(|c| c.name()).collect();
                let way_out =
                    near.map_or_else(|| format!("use one of {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
                self.problem(&place, "component", format!("`{}` is nothing that is priced: {way_out}", read.component));
            }
            let amount = match (read.usd_per_million, read.usd, read.per) {
                (Some(usd), None, None) => Some(("usd_per_million", usd, 1_000_000)),
                (None, Some(usd), Some(per)) => Some(("usd", usd, per)),
                _ => {
                    let what = "give `usd_per_million`, or `usd` and `per` (such as \"10\" and 1000)";
                    self.problem(&place, "component", what);
                    None
                }
            };
            for (key, text) in [("provider", &read.provider), ("model", &read.model)] {
                if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
                    self.problem(&place, key, "use 1 to 200 characters");
                }
            }
            let from = read.effective_from.as_deref();
            let effective_from = from.and_then(|text| instant(text, zone, 0));
            if effective_from.is_none() && from.is_some() {
                let what = format!("`{}` is not a date: write 2026-12-01 or 2026-12-01T00:00:00Z", from.unwrap_or(""));
                self.problem(&place, "effective_from", what);
            }
            let (Some(component), Some((key, usd, per))) = (component, amount) else { continue };
            if per == 0 || usd.parse::<Money>().is_ok_and(Money::is_negative) {
                self.problem(&place, key, "a price is not negative and is for 1 unit or more");
            } else if let Err(error) = usd.parse::<Money>() {
                self.problem(&place, key, error);
            }
            let same = format!("{}/{}/{}@{}", read.provider, read.model, component.name(), from.unwrap_or("always"));
            self.unique(&mut seen, &place, "component", "price", &same);
            let (provider, model, note) = (read.provider, read.model, read.note);
            prices.push(PriceOverride { provider, model, component, usd, per, effective_from, note });
        }
        prices
    }

    fn limit(&mut self, place: &Place, read: &file::Budget) -> Option<Limit> {
        let mut limits = Vec::new();
        if let Some(text) = &read.limit_usd {
            match text.parse::<Money>() {
                Ok(money) => limits.push(Limit { metric: Metric::Usd, amount: money.0 }),
                Err(error) => {
                    self.problem(place, "limit_usd", error);
                    return None;
                }
            }
        }
        let counted = [
            (Metric::Tokens, read.limit_tokens),
            (Metric::Calls, read.limit_calls),
            (Metric::ToolCalls, read.limit_tool_calls),
        ];
        limits.extend(counted.into_iter().filter_map(|(metric, n)| n.map(|n| Limit { metric, amount: n.into() })));
        match limits[..] {
            [limit] => Some(limit),
            _ => {
                let (id, n) = (&read.id, limits.len());
                let what = format!(
                    "budget `{id}` has {n} limits: give exactly one of limit_usd, limit_tokens, limit_calls, limit_tool_calls"
                );
                self.problem(place, "id", what);
                None
            }
        }
    }

    fn budgets(&mut self, table: &DeTable<'_>, notify: &[Notify]) -> Vec<Budget> {
        let mut seen = BTreeSet::new();
        let mut budgets = Vec::new();
        for (read, place) in self.sections::<file::Budget>(table, "budget") {
            self.unique(&mut seen, &place, "id", "budget", &read.id);
            let limit = self.limit(&place, &read);
            // The shape has told of unknown dimensions.
            let (matches, _) = rules::matches(&read.matches);
            for id in read.notify.iter().filter(|id| !notify.iter().any(|n| n.id == **id)) {
                self.problem(&place, "notify", format!("`{id}` is not declared: add a [[notify]] with this id"));
            }
            let mut alert_at_percent = read.alert_at_percent.unwrap_or_else(|| DEFAULT_THRESHOLDS.to_vec());
            alert_at_percent.sort_unstable();
            alert_at_percent.dedup();
            let Some(limit) = limit else { continue };
            let mut budget = Budget {
                id: read.id,
                matches,
                limit,
                period: read.period,
                anchor: read.anchor,
                time_zone: read.time_zone.unwrap_or_default(),
                fiscal_year_start_month: 0,
                enforcement: read.enforcement,
                alert_at_percent,
                notify: read.notify,
            };
            self.rules(&place, rules::budget(&budget));
            if let Some(what) = rules::soften(&mut budget) {
                self.warning(&place, "enforcement", what);
            }
            budgets.push(budget);
        }
        budgets
    }

    fn policies(&mut self, table: &DeTable<'_>) -> Vec<Policy> {
        let mut seen = BTreeSet::new();
        let mut policies = Vec::new();
        for (position, (read, place)) in (0..).zip(self.sections::<file::Policy>(table, "policy")) {
            // The shape has told of unknown dimensions.
            let (matches, _) = rules::matches(&read.matches);
            let policy = Policy {
                id: read.id,
                matches,
                allow_models: read.allow_models,
                deny_models: read.deny_models,
                allow_unmetered: read.allow_unmetered,
                allow_unpriced: read.allow_unpriced,
                allow_unbounded: read.allow_unbounded,
                position,
            };
            self.rules(&place, rules::policy(&policy));
            self.unique(&mut seen, &place, "id", "policy", &policy.id);
            policies.push(policy);
        }
        policies
    }
}

/// An instant, or the start of a day (`days` after it) in a zone.
fn instant(text: &str, zone: &jiff::tz::TimeZone, days: i64) -> Option<Micros> {
    if let Ok(at) = text.parse::<Micros>() {
        return Some(at);
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    let date = date.checked_add(jiff::Span::new().days(days)).ok()?;
    zone.to_timestamp(date.at(0, 0, 0, 0)).ok().map(Micros::from_timestamp)
}

/// Serde's words, with the way out where it is not plain from them.
fn explain(message: &str) -> String {
    let message = message.replace('\n', ", ");
    let number = message.contains("integer") || message.contains("float");
    if number && message.starts_with("invalid type") && message.ends_with("expected a string") {
        return format!("{message}: write it in quotes");
    }
    message
}
