//! Sections as written → nouns, with every problem and its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::domain::Notify;
use crate::domain::key::{Secret, SecretKind};
use crate::domain::trust::Issuer;
use crate::domain::{
    Budget, Dimension, Environment, Micros, Organisation, Owner, Policy, PriceOverride, Provider, Service,
};
use secrecy::{ExposeSecret, SecretString};

use super::channel::{self, Address};
use super::convert::{Noun, instant};
use super::secret::SecretSource;
use super::{Config, ConfigError, Declared, KeyDeclaration, Server, Surroundings, Tls, file, rules, shape};

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
            Err(error) if ["unknown field", "unknown dimension"].iter().any(|w| error.message().starts_with(w)) => None,
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
        if let Some(url) = &read.public_url {
            let uri = url.parse::<http::Uri>().ok().filter(|u| matches!(u.scheme_str(), Some("https" | "http")));
            if uri.is_none_or(|u| u.host().is_none() || u.query().is_some()) {
                self.problem(&place, "public_url", "not a URL: write https://weighbridge.example");
            }
        }
        server.public_url = read.public_url.map(|url| url.trim_end_matches('/').to_owned());
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
        declared.owners = first(self.nouns::<Owner>(table, "owner", |o| &o.id));
        declared.services = first(self.nouns::<Service>(table, "service", |s| &s.id));
        declared.providers = self.providers(table);
        declared.notify = self.channels(table);
        declared.keys = self.keys(table, &zone, &declared.services);
        declared.prices = self.prices(table);
        declared.budgets = self.budgets(table, &declared.notify, &declared.services);
        declared.policies = self.policies(table);
        declared.issuers = self.issuers(table, &declared.services);
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
        self.noun::<Organisation>(read, &place)
    }

    /// A section as a noun, with its problems and warnings told.
    fn noun<T: Noun>(&mut self, written: T::Written, place: &Place) -> Option<T> {
        match T::read(written) {
            Ok(read) => {
                self.rules(place, read.problems);
                for (key, what) in read.warnings {
                    self.warning(place, key, what);
                }
                Some(read.value)
            }
            Err(problems) => {
                self.rules(place, problems);
                None
            }
        }
    }

    /// All sections of a noun; no id twice.
    fn nouns<T>(&mut self, table: &DeTable<'_>, name: &str, id: impl Fn(&T) -> &str) -> Vec<(T, Place)>
    where
        T: Noun,
        T::Written: for<'de> Deserialize<'de>,
    {
        let mut seen = BTreeSet::new();
        let mut nouns = Vec::new();
        for (written, place) in self.sections::<T::Written>(table, name) {
            let Some(noun) = self.noun::<T>(written, &place) else { continue };
            self.unique(&mut seen, &place, "id", name, id(&noun));
            nouns.push((noun, place));
        }
        nouns
    }

    fn providers(&mut self, table: &DeTable<'_>) -> Vec<(Provider, Option<SecretString>)> {
        let mut seen = BTreeSet::new();
        let mut providers = Vec::new();
        for (position, (mut written, place)) in (0..).zip(self.sections::<file::Provider>(table, "provider")) {
            let source = written.api_key.take();
            let credential = self.secret(&place, "api_key", source);
            if let Some(what) = credential.as_ref().and_then(rules::credential) {
                self.problem(&place, "api_key", what);
            }
            let Some(provider) = self.noun::<Provider>(written, &place) else { continue };
            self.unique(&mut seen, &place, "id", "provider", &provider.id);
            providers.push((Provider { position, ..provider }, credential));
        }
        providers
    }

    fn channels(&mut self, table: &DeTable<'_>) -> Vec<(Notify, Address)> {
        let mut seen = BTreeSet::new();
        let mut channels = Vec::new();
        for (mut w, place) in self.sections::<file::Notify>(table, "notify") {
            let literal = |reader: &mut Self, key: &str, source: &mut Option<SecretSource>| {
                *source = reader.secret(&place, key, source.take()).map(SecretSource::Literal);
            };
            literal(self, "webhook", &mut w.webhook);
            literal(self, "secret", &mut w.secret);
            literal(self, "slack", &mut w.slack);
            literal(self, "teams", &mut w.teams);
            literal(self, "mattermost", &mut w.mattermost);
            if let Some(smtp) = &mut w.smtp {
                literal(self, "smtp", &mut smtp.password);
            }
            match channel::read(w, true) {
                Ok(read) => {
                    self.rules(&place, read.problems);
                    read.warnings.into_iter().for_each(|(key, what)| self.warning(&place, key, what));
                    self.unique(&mut seen, &place, "id", "notify", &read.value.notify.id);
                    channels.push((read.value.notify, read.value.address));
                }
                Err(problems) => self.rules(&place, problems),
            }
        }
        channels
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
                    format!("weighbridge key create service={} environment={}", read.service, read.environment);
                self.warning(&place, "service", format!("a key without `secret` makes none: run `{command}`"));
                continue;
            };
            let Some(text) = self.secret(&place, "secret", Some(source)) else { continue };
            let (Some(environment), Some(secret)) = (environment, self.key_secret(&place, &text, environment)) else {
                continue;
            };
            self.unique(&mut seen, &place, "secret", "key", secret.id());
            let not_before = read.not_before.as_deref().and_then(|text| {
                let at = instant(text, zone, 0);
                if at.is_none() {
                    self.problem(&place, "not_before", format!("`{text}` is not a date: write 2027-01-31"));
                }
                at
            });
            keys.push(KeyDeclaration {
                service: read.service,
                environment,
                secret,
                expires,
                allow_models: read.allow_models,
                note: read.note,
                not_before,
                allow_cidrs: read.allow_cidrs,
            });
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

    fn prices(&mut self, table: &DeTable<'_>) -> Vec<PriceOverride> {
        let mut seen = BTreeSet::new();
        let mut prices = Vec::new();
        for (written, place) in self.sections::<file::Price>(table, "price") {
            let Some(price) = self.noun::<PriceOverride>(written, &place) else { continue };
            let from = price.effective_from.map_or_else(|| "always".to_owned(), |at| at.to_string());
            let same = format!("{}/{}/{} from {from}", price.provider, price.model, price.component.name());
            self.unique(&mut seen, &place, "component", "price", &same);
            prices.push(price);
        }
        prices
    }

    fn budgets(&mut self, table: &DeTable<'_>, notify: &[(Notify, Address)], services: &[Service]) -> Vec<Budget> {
        let mut budgets = self.nouns::<Budget>(table, "budget", |b| &b.id);
        for (budget, place) in &mut budgets {
            // A service that is not in the file may be declared all the same: then the plan looks.
            let find = |id: &str| services.iter().find(|s| s.id == id);
            let service = budget.matches.get(&Dimension::Service);
            if service.is_none_or(|id| find(id).is_some())
                && let Some(what) = rules::soften(budget, find)
            {
                self.warning(place, "enforcement", what);
            }
            for id in budget.notify.iter().filter(|id| !notify.iter().any(|(n, _)| n.id == **id)) {
                self.problem(place, "notify", format!("`{id}` is not declared: add a [[notify]] with this id"));
            }
        }
        first(budgets)
    }

    /// Issuers; their files are looked for from the folder of this one.
    fn issuers(&mut self, table: &DeTable<'_>, services: &[Service]) -> Vec<Issuer> {
        let mut issuers = self.nouns::<Issuer>(table, "issuer", |i| &i.id);
        for (issuer, place) in &mut issuers {
            for rule in issuer.rules.iter().filter(|rule| !services.iter().any(|s| s.id == rule.service)) {
                let what = format!("service `{}` is not declared: add a [[service]] with this id", rule.service);
                self.problem(place, "rule", what);
            }
            for file in [&mut issuer.keys.file, &mut issuer.keys.ca].into_iter().flatten() {
                *file = self.folder.join(&*file).display().to_string();
            }
        }
        first(issuers)
    }

    fn policies(&mut self, table: &DeTable<'_>) -> Vec<Policy> {
        let policies = first(self.nouns::<Policy>(table, "policy", |p| &p.id));
        (0..).zip(policies).map(|(position, p)| Policy { position, ..p }).collect()
    }
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

fn first<T>(nouns: Vec<(T, Place)>) -> Vec<T> {
    nouns.into_iter().map(|(noun, _)| noun).collect()
}
