//! The nouns as people write them → the nouns as they are kept, and back. Shared by the file, the API and the pages, so
//! that each rule is applied in one place.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::domain::trust::{Issuer, KeySource, TrustRule};
use crate::domain::{
    Budget, Component, Dimension, Enforcement, Environment, Limit, Metric, Micros, Money, Organisation, Owner, Policy,
    PriceOverride, Provider, Reservation, Service,
};

use super::file;
use super::near::nearest;
use super::rules::{self, Problem};

/// What a budget is that does not say, by the environment it matches (`finance.md` 4.7).
struct Defaults {
    thresholds: &'static [u16],
    reservation: Reservation,
    forecast_alert: bool,
    /// Of a hard one.
    grace_pct: u16,
}

impl Defaults {
    fn of(environment: Option<Environment>) -> Defaults {
        let strict = |thresholds, grace_pct| Defaults {
            thresholds,
            reservation: Reservation::Strict,
            forecast_alert: true,
            grace_pct,
        };
        match environment {
            None => strict(&[50, 75, 90, 100], 0),
            Some(Environment::Prod) => strict(&[50, 75, 90, 100], 10),
            Some(Environment::Pilot) => strict(&[50, 80, 100], 0),
            Some(Environment::Test | Environment::Exploratory) => Defaults {
                thresholds: &[80, 100],
                reservation: Reservation::Expected,
                forecast_alert: false,
                grace_pct: 0,
            },
        }
    }
}

/// A noun that was read, with what is wrong with it and what deserves a look.
pub struct Read<T> {
    pub value: T,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl<T> Read<T> {
    pub(super) fn new(value: T, problems: Vec<Problem>) -> Read<T> {
        Read { value, problems, warnings: Vec::new() }
    }
}

/// A noun with a form for people.
pub trait Noun: Sized {
    /// The section of the file, the body of the API.
    type Written;
    /// Applies every rule that can be applied to the noun alone. `None`: there is nothing to keep, only problems.
    fn read(written: Self::Written) -> Result<Read<Self>, Vec<Problem>>;
    /// The form for people; secrets are not in it.
    fn written(&self) -> Self::Written;
}

impl Noun for Organisation {
    type Written = file::Organisation;

    fn read(written: file::Organisation) -> Result<Read<Organisation>, Vec<Problem>> {
        let value = Organisation {
            name: written.name,
            time_zone: written.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            fiscal_year_start_month: written.fiscal_year_start_month.unwrap_or(1),
        };
        let problems = rules::organisation(&value);
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Organisation {
        file::Organisation {
            name: self.name.clone(),
            time_zone: Some(self.time_zone.clone()),
            fiscal_year_start_month: Some(self.fiscal_year_start_month),
        }
    }
}

impl Noun for Owner {
    type Written = file::Owner;

    fn read(w: file::Owner) -> Result<Read<Owner>, Vec<Problem>> {
        let value = Owner { id: w.id, kind: w.kind, name: w.name, email: w.email };
        let problems = rules::owner(&value);
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Owner {
        file::Owner { id: self.id.clone(), kind: self.kind, name: self.name.clone(), email: self.email.clone() }
    }
}

impl Noun for Service {
    type Written = file::Service;

    fn read(w: file::Service) -> Result<Read<Service>, Vec<Problem>> {
        let value = Service {
            application: w.application.unwrap_or_else(|| w.id.clone()),
            id: w.id,
            kind: w.kind,
            owner: w.owner,
            business_unit: w.business_unit,
            cost_centre: w.cost_centre,
            tenant: w.tenant,
            purpose: w.purpose,
            caller_fields: w.caller_fields,
            mandatory_fields: w.mandatory_fields,
            tenants: w.tenants,
            workflows: w.workflows,
            prompt_classes: w.prompt_classes,
        };
        let mut read = Read::new(value, Vec::new());
        read.problems = rules::service(&read.value);
        if read.value.purpose.is_none() {
            let what = format!("service `{}` has no purpose: say in a line what it is for", read.value.id);
            read.warnings.push(("id", what));
        }
        Ok(read)
    }

    fn written(&self) -> file::Service {
        file::Service {
            id: self.id.clone(),
            application: Some(self.application.clone()),
            kind: self.kind,
            owner: self.owner.clone(),
            business_unit: self.business_unit.clone(),
            cost_centre: self.cost_centre.clone(),
            tenant: self.tenant.clone(),
            purpose: self.purpose.clone(),
            caller_fields: self.caller_fields.clone(),
            mandatory_fields: self.mandatory_fields.clone(),
            tenants: self.tenants.clone(),
            workflows: self.workflows.clone(),
            prompt_classes: self.prompt_classes.clone(),
        }
    }
}

/// Its credential is read apart; its position is the caller's to set.
impl Noun for Provider {
    type Written = file::Provider;

    fn read(w: file::Provider) -> Result<Read<Provider>, Vec<Problem>> {
        let value = Provider {
            id: w.id,
            dialect: w.dialect,
            base_url: w.base_url.trim_end_matches('/').to_owned(),
            internal: w.internal,
            models: w.models,
            price_as: w.price_as.unwrap_or_default(),
            idle_timeout_s: w.idle_timeout_s.unwrap_or(300),
            on_client_abort: w.on_client_abort,
            position: 0,
            region: w.region.filter(|region| !region.is_empty()),
        };
        let problems = rules::provider(&value);
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Provider {
        file::Provider {
            id: self.id.clone(),
            dialect: self.dialect.clone(),
            base_url: self.base_url.clone(),
            api_key: None,
            internal: self.internal,
            models: self.models.clone(),
            price_as: Some(self.price_as.clone()),
            idle_timeout_s: Some(self.idle_timeout_s),
            on_client_abort: self.on_client_abort,
            region: self.region.clone(),
        }
    }
}

impl Noun for PriceOverride {
    type Written = file::Price;

    fn read(w: file::Price) -> Result<Read<PriceOverride>, Vec<Problem>> {
        let mut problems = Vec::new();
        let component = component(&w.component, &mut problems);
        let amount = match (w.usd_per_million, w.usd, w.per) {
            (Some(usd), None, None) => Some(("usd_per_million", usd, 1_000_000)),
            (None, Some(usd), Some(per)) => Some(("usd", usd, per)),
            _ => {
                let what = "give `usd_per_million`, or `usd` and `per` (such as \"10\" and 1000)";
                problems.push(("component", what.to_owned()));
                None
            }
        };
        for (key, text) in [("provider", &w.provider), ("model", &w.model)] {
            if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
                problems.push((key, "use 1 to 200 characters".to_owned()));
            }
        }
        let from = w.effective_from.as_deref();
        let effective_from = from.and_then(|text| instant(text, &jiff::tz::TimeZone::UTC, 0));
        if let (Some(text), None) = (from, effective_from) {
            let what = format!("`{text}` is not a date: write 2026-12-01 or 2026-12-01T00:00:00Z");
            problems.push(("effective_from", what));
        }
        let (Some(component), Some((key, usd, per))) = (component, amount) else { return Err(problems) };
        match usd.parse::<Money>() {
            Ok(money) if per > 0 && !money.is_negative() => {}
            Ok(_) => problems.push((key, "a price is not negative and is for 1 unit or more".to_owned())),
            Err(error) => problems.push((key, error.to_string())),
        }
        let (provider, model, note) = (w.provider, w.model, w.note);
        Ok(Read::new(PriceOverride { provider, model, component, usd, per, effective_from, note }, problems))
    }

    fn written(&self) -> file::Price {
        let million = self.per == 1_000_000;
        file::Price {
            provider: self.provider.clone(),
            model: self.model.clone(),
            component: self.component.name().to_owned(),
            usd_per_million: million.then(|| self.usd.clone()),
            usd: (!million).then(|| self.usd.clone()),
            per: (!million).then_some(self.per),
            effective_from: self.effective_from.map(|at| at.to_string()),
            note: self.note.clone(),
        }
    }
}

fn component(name: &str, problems: &mut Vec<Problem>) -> Option<Component> {
    let found = Component::from_name(name);
    if found.is_none() {
        let names = || Component::ALL.iter().map(|c| c.name());
        let way_out = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        problems.push(("component", format!("`{name}` is nothing that is priced: {way_out}")));
    }
    found
}

/// What it leaves to the organisation (`time_zone`, the fiscal year) stays open: empty and 0. Whether it may refuse and
/// whether it can match anything is for who has the catalogue: [`rules::soften`], [`rules::matches_nothing`].
impl Noun for Budget {
    type Written = file::Budget;

    fn read(w: file::Budget) -> Result<Read<Budget>, Vec<Problem>> {
        let mut problems = Vec::new();
        let limit = limit(&w, &mut problems);
        let environment = w.matches.get(&Dimension::Environment).and_then(|name| Environment::from_name(name));
        let defaults = Defaults::of(environment);
        let mut alert_at_percent = w.alert_at_percent.unwrap_or_else(|| defaults.thresholds.to_vec());
        alert_at_percent.sort_unstable();
        alert_at_percent.dedup();
        let Some(limit) = limit else { return Err(problems) };
        let grace_pct = w.grace_pct.unwrap_or(match w.enforcement {
            Enforcement::Hard => defaults.grace_pct,
            Enforcement::Alert => 0,
        });
        let value = Budget {
            id: w.id,
            matches: w.matches,
            limit,
            period: w.period,
            anchor: w.anchor,
            time_zone: w.time_zone.unwrap_or_default(),
            fiscal_year_start_month: 0,
            enforcement: w.enforcement,
            alert_at_percent,
            notify: w.notify,
            parent: w.parent,
            reservation: w.reservation.unwrap_or(defaults.reservation),
            on_midstream_exceed: w.on_midstream_exceed,
            rollover: w.rollover,
            grace_pct: (grace_pct > 0).then_some(grace_pct),
            forecast_alert: w.forecast_alert.unwrap_or(defaults.forecast_alert),
        };
        problems.extend(rules::budget(&value));
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Budget {
        let count =
            |metric| (self.limit.metric == metric).then(|| u64::try_from(self.limit.amount).unwrap_or(u64::MAX));
        file::Budget {
            id: self.id.clone(),
            matches: self.matches.clone(),
            limit_usd: self.limit.usd().map(|m| m.to_string()),
            limit_tokens: count(Metric::Tokens),
            limit_calls: count(Metric::Calls),
            limit_tool_calls: count(Metric::ToolCalls),
            period: self.period,
            anchor: self.anchor.clone(),
            time_zone: (!self.time_zone.is_empty()).then(|| self.time_zone.clone()),
            enforcement: self.enforcement,
            alert_at_percent: Some(self.alert_at_percent.clone()),
            notify: self.notify.clone(),
            parent: self.parent.clone(),
            reservation: Some(self.reservation),
            on_midstream_exceed: self.on_midstream_exceed,
            rollover: self.rollover,
            grace_pct: Some(self.grace_pct.unwrap_or(0)),
            forecast_alert: Some(self.forecast_alert),
        }
    }
}

fn limit(w: &file::Budget, problems: &mut Vec<Problem>) -> Option<Limit> {
    let mut limits = Vec::new();
    if let Some(text) = &w.limit_usd {
        match text.parse::<Money>() {
            Ok(money) => limits.push(Limit { metric: Metric::Usd, amount: money.0 }),
            Err(error) => {
                problems.push(("limit_usd", error.to_string()));
                return None;
            }
        }
    }
    let counted =
        [(Metric::Tokens, w.limit_tokens), (Metric::Calls, w.limit_calls), (Metric::ToolCalls, w.limit_tool_calls)];
    limits.extend(counted.into_iter().filter_map(|(metric, n)| n.map(|n| Limit { metric, amount: n.into() })));
    if let [limit] = limits[..] {
        return Some(limit);
    }
    let names = "limit_usd, limit_tokens, limit_calls, limit_tool_calls";
    problems.push(("id", format!("budget `{}` has {} limits: give exactly one of {names}", w.id, limits.len())));
    None
}

/// Its position is the caller's to set.
impl Noun for Policy {
    type Written = file::Policy;

    fn read(w: file::Policy) -> Result<Read<Policy>, Vec<Problem>> {
        let mut problems = Vec::new();
        let value = Policy {
            id: w.id,
            matches: w.matches,
            allow_models: w.allow_models,
            deny_models: w.deny_models,
            allow_unmetered: w.allow_unmetered,
            allow_unpriced: w.allow_unpriced,
            allow_unbounded: w.allow_unbounded,
            position: 0,
            mode: w.mode,
            allow_endpoints: w.allow_endpoints,
            deny_endpoints: w.deny_endpoints,
            allow_tools: w.allow_tools,
            deny_tools: w.deny_tools,
            allow_providers: w.allow_providers,
            deny_providers: w.deny_providers,
            allow_regions: w.allow_regions,
            allow_networks: w.allow_networks.map(|list| networks("allow_networks", &list, &mut problems)),
            deny_networks: networks("deny_networks", &w.deny_networks, &mut problems),
            require_headers: w.require_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            require_owner: w.require_owner,
            require_fields: w.require_fields,
            hours: parsed("hours", &w.hours, &mut problems),
            max_output_tokens: w.max_output_tokens,
            max_input_tokens: w.max_input_tokens,
            max_calls_per_minute: w.max_calls_per_minute,
            max_tokens_per_minute: w.max_tokens_per_minute,
            max_concurrent: w.max_concurrent,
            per: w.per,
            queue_ms: w.queue_ms.filter(|ms| *ms > 0),
            downgrade: w.downgrade,
            unpriced_policy: w.unpriced_policy,
        };
        problems.extend(rules::policy(&value));
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Policy {
        let p = self.clone();
        file::Policy {
            id: p.id,
            matches: p.matches,
            mode: p.mode,
            allow_models: p.allow_models,
            deny_models: p.deny_models,
            allow_endpoints: p.allow_endpoints,
            deny_endpoints: p.deny_endpoints,
            allow_tools: p.allow_tools,
            deny_tools: p.deny_tools,
            allow_providers: p.allow_providers,
            deny_providers: p.deny_providers,
            allow_regions: p.allow_regions,
            allow_networks: p.allow_networks.map(|list| texts(&list)),
            deny_networks: texts(&p.deny_networks),
            require_headers: p.require_headers,
            require_owner: p.require_owner,
            require_fields: p.require_fields,
            hours: texts(&p.hours),
            max_output_tokens: p.max_output_tokens,
            max_input_tokens: p.max_input_tokens,
            max_calls_per_minute: p.max_calls_per_minute,
            max_tokens_per_minute: p.max_tokens_per_minute,
            max_concurrent: p.max_concurrent,
            per: p.per,
            queue_ms: p.queue_ms,
            downgrade: p.downgrade,
            unpriced_policy: p.unpriced_policy,
            allow_unmetered: p.allow_unmetered,
            allow_unpriced: p.allow_unpriced,
            allow_unbounded: p.allow_unbounded,
        }
    }
}

impl Noun for Issuer {
    type Written = file::Issuer;

    fn read(w: file::Issuer) -> Result<Read<Issuer>, Vec<Problem>> {
        let texts = |values: &file::OneOrMore| match values {
            file::OneOrMore::One(one) => vec![one.clone()],
            file::OneOrMore::More(more) => more.clone(),
        };
        let rule = |w: file::TrustRule| {
            let claims = w.claims.iter().map(|(name, values)| (name.clone(), texts(values))).collect();
            TrustRule { id: w.id, claims, service: w.service, agent: w.agent, environment: w.environment }
        };
        let keys =
            KeySource { url: w.jwks_url, file: w.jwks_file, inline: w.jwks, ca: w.ca_file, internal: w.internal };
        let value = Issuer {
            id: w.id,
            iss: w.iss,
            keys,
            refresh_s: w.refresh_s.unwrap_or(Issuer::DEFAULT_REFRESH_S),
            algorithms: w.algorithms.unwrap_or_else(|| Issuer::DEFAULT_ALGORITHMS.map(str::to_owned).into()),
            audience: w.audience.unwrap_or_else(|| "weighbridge".to_owned()),
            max_lifetime_s: w.max_lifetime_s.unwrap_or(Issuer::DEFAULT_LIFETIME_S),
            types: w.types,
            profile: w.profile,
            shared: w.shared,
            rules: w.rule.into_iter().map(rule).map(Arc::new).collect(),
        };
        let problems = rules::issuer(&value);
        Ok(Read::new(value, problems))
    }

    fn written(&self) -> file::Issuer {
        let texts = |values: &Vec<String>| match values.as_slice() {
            [one] => file::OneOrMore::One(one.clone()),
            more => file::OneOrMore::More(more.to_vec()),
        };
        let rule = |rule: &Arc<TrustRule>| file::TrustRule {
            id: rule.id.clone(),
            claims: rule.claims.iter().map(|(name, values)| (name.clone(), texts(values))).collect(),
            service: rule.service.clone(),
            agent: rule.agent.clone(),
            environment: rule.environment,
        };
        file::Issuer {
            id: self.id.clone(),
            iss: self.iss.clone(),
            jwks_url: self.keys.url.clone(),
            jwks_file: self.keys.file.clone(),
            jwks: self.keys.inline.clone(),
            ca_file: self.keys.ca.clone(),
            internal: self.keys.internal,
            refresh_s: Some(self.refresh_s),
            algorithms: Some(self.algorithms.clone()),
            audience: Some(self.audience.clone()),
            max_lifetime_s: Some(self.max_lifetime_s),
            types: self.types.clone(),
            profile: self.profile,
            shared: self.shared,
            rule: self.rules.iter().map(rule).collect(),
        }
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn parsed<T: std::str::FromStr<Err = String>>(
    field: &'static str,
    list: &[String],
    problems: &mut Vec<Problem>,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in list {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(what) => problems.push((field, what)),
        }
    }
    values
}

/// Networks without what stands behind their prefix; a single address is a network of one.
fn networks(field: &'static str, list: &[String], problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in list {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) => networks.push(network.trunc()),
            None => problems.push((field, format!("`{text}` is not a network: write 10.0.0.0/8 or an address"))),
        }
    }
    networks
}

/// An instant, or the start of a day (`days` after it) in a zone.
pub fn instant(text: &str, zone: &jiff::tz::TimeZone, days: i64) -> Option<Micros> {
    if let Ok(at) = text.parse::<Micros>() {
        return Some(at);
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    let date = date.checked_add(jiff::Span::new().days(days)).ok()?;
    zone.to_timestamp(date.at(0, 0, 0, 0)).ok().map(Micros::from_timestamp)
}
