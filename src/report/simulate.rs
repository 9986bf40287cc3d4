//! What policies would say to a call that nobody has made: who, what model, where; decision, rules and what would be changed.

use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::filter::glob;
use crate::domain::identity::{Assurance, Charge, Provenance};
use crate::domain::policy::{PriceClass, RuleSeen};
use crate::domain::{Attribution, Catalogue, Environment, Micros, Money, Policy, Provider, Service};
use crate::policy::{Asked, Facts, Input, Output, Price, Verdict, judge};
use crate::pricing::{PriceBook, PriceContext};

use super::ReportError;

/// A call to be imagined. What is not said is taken to be as most calls are: a chat completion without tools.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Question {
    /// Id of a declared service.
    pub service: String,
    /// prod, pilot, test or exploratory; default prod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Id of a key: its own list of models counts too, and its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    pub model: String,
    /// Default: the first provider that serves the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Default chat.completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Names of tools offered, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// Names of headers sent, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// The caller's own output cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// When; default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Micros>,
    /// Percent left of the tightest money budget that covers the call; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left_percent: Option<u8>,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Answer {
    pub allowed: bool,
    /// Code, rule and sentence of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<AnswerRefusal>,
    pub provider: String,
    pub environment: Environment,
    /// `free`, `low`, `mid`, `high`, `top`, `unpriced`.
    pub price_class: &'static str,
    /// Every rule looked at, in order.
    pub rules: Vec<RuleSeen>,
    /// Policies that would warn.
    pub warnings: Vec<String>,
    /// Output cap that would be written into the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<u64>,
    /// The model that would be asked for instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sent: Option<String>,
    /// Rates that would count the call; they refuse by what other calls do.
    pub rates: Vec<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AnswerRefusal {
    pub code: &'static str,
    pub by: String,
    pub message: String,
}

/// Asks the policies, with those of `proposed` over or behind the declared ones.
pub fn simulate(
    catalogue: &Catalogue,
    prices: &PriceBook,
    proposed: &[Policy],
    question: &Question,
    now: Micros,
) -> Result<Answer, ReportError> {
    let service = catalogue.services.get(&question.service).ok_or_else(|| {
        ReportError::invalid(
            "service",
            format!("`{}` is not declared: service list shows what there is", question.service),
        )
    })?;
    let key = match question.credential.as_deref().filter(|id| !id.is_empty()) {
        None => None,
        Some(id) => Some(catalogue.keys.get(id).filter(|k| k.service == service.id).ok_or_else(|| {
            ReportError::invalid("credential", format!("`{id}` is not a key of service `{}`", service.id))
        })?),
    };
    let environment = match (key, question.environment.as_deref().filter(|e| !e.is_empty())) {
        (Some(key), _) => key.environment,
        (None, None) => Environment::Prod,
        (None, Some(name)) => Environment::from_name(name).ok_or_else(|| {
            ReportError::invalid("environment", format!("`{name}` is not one: use prod, pilot, test or exploratory"))
        })?,
    };
    if question.model.trim().is_empty() {
        return Err(ReportError::invalid("model", "name the model that is asked for"));
    }
    let provider = provider(catalogue, question)?;
    let peer = question.peer.as_deref().filter(|p| !p.is_empty());
    let peer: Option<IpAddr> = peer
        .map(|text| text.parse().map_err(|_| ReportError::invalid("peer", format!("`{text}` is not an address"))))
        .transpose()?;
    let mut who = attribution(service, environment, key.map_or("", |k| &k.id));
    said(&mut who, question);
    let at = question.at.unwrap_or(now);
    let mut model = question.model.trim().to_owned();
    let mut facts = facts(prices, &provider, &model, at, question);
    facts.peer = peer;
    let policies = with_proposed(catalogue, proposed);
    let left = question.budget_left_percent.map(|percent| ("budget".to_owned(), percent.min(100)));
    let ask = |model: &str, facts: &Facts, left: &dyn Fn() -> Option<(String, u8)>| -> Verdict {
        let asked = Asked {
            catalogue,
            who: &who,
            provider: &provider.id,
            endpoint: question.endpoint.as_deref().filter(|e| !e.is_empty()).unwrap_or("chat.completions"),
            metered: true,
            model: Some(model),
            at,
            facts,
            key_models: key.and_then(|k| k.allow_models.as_deref()),
            left,
        };
        judge(&policies, &asked)
    };
    let mut verdict = ask(&model, &facts, &|| left.clone());
    let mut model_sent = None;
    if let (None, Some(down)) = (&verdict.denied, verdict.downgrade.take()) {
        let changed: Vec<RuleSeen> = verdict.rules.into_iter().filter(|r| r.rule == "downgrade").collect();
        model.clone_from(&down.to);
        facts.price = price(prices, &provider, &model, at);
        verdict = ask(&model, &facts, &|| None);
        verdict.rules.retain(|r| r.rule != "downgrade");
        verdict.rules.extend(changed);
        model_sent = Some(model);
    }
    let of = |d| match d {
        crate::domain::Dimension::Provider => Some(provider.id.as_str()),
        crate::domain::Dimension::Model => Some(question.model.as_str()),
        d => who.dimension(d),
    };
    let rates = policies.iter().filter(|p| p.has_rates() && crate::domain::catalogue::covers(&p.matches, of));
    let rates = rates.map(|p| p.id.clone()).collect();
    Ok(Answer {
        allowed: verdict.denied.is_none(),
        refusal: verdict.denied.map(|d| AnswerRefusal { code: d.code.name(), by: d.by, message: d.message }),
        provider: provider.id.clone(),
        environment,
        price_class: match facts.price {
            Price::PerMillion(price) => PriceClass::of(Some(price)).name(),
            Price::Unpriced | Price::Unknown => PriceClass::Unpriced.name(),
        },
        rules: verdict.rules,
        warnings: verdict.warnings,
        output_limit: verdict.output_limit,
        model_sent,
        rates,
    })
}

/// The declared policies in their order; a proposed one takes the place of the one of its id, or stands behind them all.
pub(super) fn with_proposed(catalogue: &Catalogue, proposed: &[Policy]) -> Vec<Arc<Policy>> {
    let mut policies: Vec<Arc<Policy>> = catalogue.policies_in_order().into_iter().cloned().collect();
    for new in proposed {
        match policies.iter_mut().find(|p| p.id == new.id) {
            Some(old) => *old = Arc::new(new.clone()),
            None => policies.push(Arc::new(new.clone())),
        }
    }
    policies
}

fn provider(catalogue: &Catalogue, question: &Question) -> Result<Arc<Provider>, ReportError> {
    let named = question.provider.as_deref().filter(|p| !p.is_empty());
    let serves = |p: &&&Arc<Provider>| p.models.is_empty() || p.models.iter().any(|m| glob(m, &question.model));
    let found = match named {
        Some(id) => catalogue.providers.get(id),
        None => {
            let all = catalogue.providers_in_order();
            // A provider that lists the model is a better guess than one that takes all of its dialect.
            let listed = all.iter().find(|p| p.models.iter().any(|m| glob(m, &question.model))).copied();
            listed.or_else(|| all.iter().find(serves).copied())
        }
    };
    found.cloned().ok_or_else(|| match named {
        Some(id) => {
            ReportError::invalid("provider", format!("`{id}` is not declared: provider list shows what there is"))
        }
        None => ReportError::invalid("provider", "no provider serves this model: declare one, or name one"),
    })
}

/// What a service's call is attributed to when its caller says nothing.
fn attribution(service: &Service, environment: Environment, credential: &str) -> Attribution {
    let letter = |assigned: bool| if assigned { Provenance::Catalogue } else { Provenance::Unassigned }.letter();
    let provenance = Provenance::FIELDS.iter().map(|field| match *field {
        "owner" | "business_unit" => Provenance::Catalogue.letter(),
        "environment" | "principal" => Provenance::Credential.letter(),
        "cost_centre" => letter(service.cost_centre.is_some()),
        "tenant" => letter(service.tenant.is_some()),
        "prompt_class" => Provenance::Default.letter(),
        _ => Provenance::Unassigned.letter(),
    });
    Attribution {
        service: service.id.clone(),
        agent: None,
        application: service.application.clone(),
        owner: service.owner.clone(),
        business_unit: service.business_unit.clone(),
        cost_centre: service.cost_centre.clone(),
        tenant: service.tenant.clone(),
        environment,
        workflow: None,
        run: None,
        prompt_class: Some("chat".to_owned()),
        principal: service.id.clone(),
        charged_to: vec![Charge { service: service.id.clone(), basis_points: 10_000 }],
        chain: Vec::new(),
        credential: credential.to_owned(),
        assurance: Assurance::A1,
        provenance: provenance.collect(),
    }
}

/// What its caller says of itself.
fn said(who: &mut Attribution, question: &Question) {
    let mut letters: Vec<char> = who.provenance.chars().collect();
    let mut say = |field: &str, value: &Option<String>, place: &mut Option<String>| {
        let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else { return };
        *place = Some(value.clone());
        if let Some(at) = Provenance::FIELDS.iter().position(|f| *f == field) {
            letters[at] = Provenance::Header.letter();
        }
    };
    say("workflow", &question.workflow, &mut who.workflow);
    say("agent", &question.agent, &mut who.agent);
    who.provenance = letters.into_iter().collect();
}

fn facts(prices: &PriceBook, provider: &Provider, model: &str, at: Micros, question: &Question) -> Facts {
    let names = |list: &Option<String>| -> Vec<String> {
        let split = list.iter().flat_map(|l| l.split(','));
        split.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect()
    };
    Facts {
        price: price(prices, provider, model, at),
        input: Input::Tokens(question.input_tokens.unwrap_or(0)),
        output: Some(Output { cap: question.max_tokens, writable: true }),
        tools: Some(names(&question.tools)),
        headers: Some(names(&question.headers).iter().map(|h| h.to_ascii_lowercase()).collect()),
        peer: None,
        region: Some(provider.region.clone().unwrap_or_default()),
        model_writable: true,
    }
}

/// The price by which a model has its class.
pub(super) fn price(prices: &PriceBook, provider: &Provider, model: &str, at: Micros) -> Price {
    const MILLION: u64 = 1_000_000;
    let bound = |input| prices.upper_bound(&provider.price_as, model, at, &PriceContext::new(), input);
    match bound(0) {
        None => Price::Unpriced,
        Some(upper) if upper.per_output_token.is_zero() => {
            let whole = bound(MILLION).map_or(Money::ZERO, |u| u.fixed);
            Price::PerMillion(Money(whole.0.saturating_sub(upper.fixed.0)))
        }
        Some(upper) => Price::PerMillion(upper.per_output_token.times(MILLION)),
    }
}
