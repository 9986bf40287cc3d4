//! What is asked, of whom, and what it can cost at most.
//!
//! The upper bound is made of what can be seen: bytes of text over two, allowances for what is not text, the caller's own
//! output cap or the model's maximum, fees of hosted tools. Where the input cannot be seen (a stored conversation, files,
//! hosted search) and a hard budget covers the caller, it is the model's whole context window, unless a policy says
//! otherwise.

use std::sync::Arc;

use aws_lc_rs::hmac;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

use crate::dialect::{Billing, CallFacts, Dialect, Metering, RequestHead};
use crate::domain::{Attribution, Budget, Code, Component, Dimension, Money, Provider, Refusal};
use crate::pricing::{PriceBook, PriceContext, UpperBound};
use crate::store::KnownResponse;

use super::Gateway;
use super::attribute;
use super::body::RequestBody;
use super::headers;
use super::identify::Caller;
use super::judge::{Judgement, Unjudged};
use super::names;
use super::rates::Held;
use super::refuse::Refused;
use super::route::{self, Route};
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// Output held where neither the caller nor the model's facts bound it, in tokens (`finance.md` 4.3).
const DEFAULT_OUTPUT: u64 = 16_384;
/// Input held for what cannot be seen where the model's context window is not known, in tokens.
const DEFAULT_WINDOW: u64 = 1_000_000;
/// Calls of a hosted tool held for where the request does not bound them. More is an overrun, recorded as such.
const HOSTED_CALLS: u64 = 20;

/// A request understood: where it goes and what it can cost at most.
pub struct Asked {
    pub provider: Arc<Provider>,
    pub dialect: &'static dyn Dialect,
    pub facts: CallFacts,
    pub method: Method,
    pub url: Uri,
    /// As the provider gets them, without its credential; taken when it is sent.
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub cost: CostBound,
    /// A hard budget covers the caller.
    pub hard: bool,
    /// The caller's `wb-max-cost`.
    pub max_cost: Option<Money>,
    pub judgement: Judgement,
    /// What it holds of rates, until it has ended.
    pub rates: Held,
}

/// The most a call can cost, by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostBound {
    pub input_tokens: u64,
    /// Input at its bound, fees.
    pub fixed: Money,
    /// Absent: the model has no price.
    pub per_output_token: Option<Money>,
    /// Per choice.
    pub output_wanted: u64,
    pub price_model: Option<String>,
}

impl CostBound {
    /// What costs nothing.
    const FREE: CostBound = CostBound {
        input_tokens: 0,
        fixed: Money::ZERO,
        per_output_token: Some(Money::ZERO),
        output_wanted: 0,
        price_model: None,
    };
}

/// The provider and path of a request, before its body is read: a natural path's provider may depend on the model.
struct Target {
    provider: Arc<Provider>,
    path: String,
}

impl Gateway {
    /// Reads the request and bounds its cost; fills the ticket.
    pub(super) fn classify(
        &self,
        snapshot: &Snapshot,
        ticket: &mut Ticket,
        caller: &Caller,
        route: Route,
        head: &Parts,
        body: RequestBody,
    ) -> Result<Box<Asked>, Refused> {
        let dialect = route.dialect();
        let rest = match &route {
            Route::Provider { rest, .. } | Route::Natural { rest, .. } => rest.clone(),
            Route::Own(rest) => rest.clone(),
        };
        let first = match &route {
            Route::Provider { provider, .. } => provider.clone(),
            _ => route::choose(&snapshot.providers, dialect, None)?.clone(),
        };
        let mut target = Target { path: route::dialect_path(dialect, &first, &rest), provider: first };
        let request_head =
            RequestHead { method: &head.method, path: &target.path, query: head.uri.query(), headers: &head.headers };
        let facts = dialect.read_request(&request_head, &body.decoded).map_err(|error| {
            ticket.provider = Some(target.provider.id.clone());
            Refused::with(Code::Malformed, format!("Weighbridge: {error}."))
        })?;
        note(ticket, snapshot, caller, &facts);
        if matches!(route, Route::Natural { .. }) {
            target.provider = self.natural_provider(snapshot, dialect, &facts)?;
        }
        ticket.provider = Some(target.provider.id.clone());

        let mut facts = facts;
        let mut cost = bound(&snapshot.prices, &target.provider, &facts, ticket.received_at, None, false);
        let unjudged = Unjudged {
            snapshot,
            caller,
            provider: &target.provider,
            dialect,
            headers: &head.headers,
            body: &body.decoded,
        };
        let judgement = self.judge(&unjudged, ticket, &mut facts, &mut cost)?;
        let max_cost = max_cost(&head.headers)?;
        self.refuse_foreign(ticket.who.as_ref().unwrap_or(&caller.who), &target.provider, &facts)?;
        let hard = hard_budgets(snapshot, ticket.who.as_ref().unwrap_or(&caller.who), &target.provider, &facts)
            .next()
            .is_some();
        if hard && facts.unbounded && !judgement.allow_unbounded {
            let priced = CallFacts { model: judgement.family.clone().or(facts.model.clone()), ..facts.clone() };
            let most = cost.output_wanted;
            cost = bound(&snapshot.prices, &target.provider, &priced, ticket.received_at, None, true);
            cost.output_wanted = cost.output_wanted.min(most);
        }
        Ok(Box::new(Asked {
            url: route::upstream_url(&target.provider, &rest, head.uri.query())?,
            method: head.method.clone(),
            headers: headers::to_provider(&head.headers),
            provider: target.provider,
            dialect,
            body,
            cost,
            hard,
            max_cost,
            judgement,
            rates: Held::default(),
            facts,
        }))
    }

    /// The provider of a natural path: where a stored answer came from, else by model.
    fn natural_provider(
        &self,
        snapshot: &Snapshot,
        dialect: &'static dyn Dialect,
        facts: &CallFacts,
    ) -> Result<Arc<Provider>, Refused> {
        if let Some(id) = facts.response_id.as_ref().or(facts.continues.as_ref()) {
            for provider in snapshot.providers.iter().filter(|p| route::speaks(p, dialect)) {
                if self.stored_answer(provider, id)?.is_some() {
                    return Ok(provider.clone());
                }
            }
        }
        Ok(route::choose(&snapshot.providers, dialect, facts.model.as_deref()).cloned()?)
    }

    /// The call that made a stored answer. Where that cannot be told at the moment, nobody gets it.
    fn stored_answer(&self, provider: &Provider, id: &str) -> Result<Option<KnownResponse>, Refused> {
        self.inner.ledger.response(&provider.id, id).map_err(super::authorize::cannot_tell)
    }

    /// Refuses stored answers of other services: all share the provider's credential, so the provider would hand them
    /// over. Those we do not know pass: they were made elsewhere, or before us.
    fn refuse_foreign(&self, who: &Attribution, provider: &Provider, facts: &CallFacts) -> Result<(), Refused> {
        for id in facts.response_id.iter().chain(&facts.continues) {
            let Some(known) = self.stored_answer(provider, id)? else { continue };
            let call = self.inner.ledger.call(known.call).map_err(super::authorize::cannot_tell)?;
            let owner = call.and_then(|c| c.who).map(|w| w.service);
            if owner.is_some_and(|owner| owner != who.service) {
                let shown: String = id.chars().take(64).collect();
                let message = format!("Weighbridge: this service has no stored response '{shown}'.");
                let detail = Some("response_of_another_service".to_owned());
                return Err(Refused { detail, ..Refused::with(Code::UnknownPath, message) });
            }
        }
        Ok(())
    }

    /// The keyed fingerprint of a request: tells a retry or a loop from a new request, and says nothing else.
    pub(super) fn fingerprint(&self, path: &str, body: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(self.inner.ledger.fingerprint_key());
        context.update(path.as_bytes());
        context.update(&[0]);
        context.update(body);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

fn note(ticket: &mut Ticket, snapshot: &Snapshot, caller: &Caller, facts: &CallFacts) {
    ticket.endpoint = Some(facts.endpoint);
    ticket.model = facts.model.clone();
    ticket.stream = facts.stream;
    ticket.tools_offered = facts.tools_offered;
    for (name, value) in &facts.claimed {
        attribute::claim(&mut ticket.claimed, name, value);
    }
    if let Some(who) = &mut ticket.who
        && who.prompt_class.is_none()
        && let Some(class) = attribute::default_class(facts.endpoint)
    {
        let shared = caller.silent.then(|| snapshot.silent(&caller.credential, &caller.service, Some(class))).flatten();
        match shared {
            Some(shared) => *who = shared,
            None => Arc::make_mut(who).prompt_class = Some(class.to_owned()),
        }
    }
}

/// A call's value of a dimension, as far as it is known before it runs.
pub(super) fn value<'a>(
    who: &'a Attribution,
    provider: &'a str,
    model: Option<&'a str>,
    dimension: Dimension,
) -> Option<&'a str> {
    match dimension {
        Dimension::Provider => Some(provider),
        Dimension::Model => model,
        _ => who.dimension(dimension),
    }
}

/// The budgets that may refuse the call.
pub(super) fn hard_budgets<'a>(
    snapshot: &'a Snapshot,
    who: &'a Attribution,
    provider: &'a Provider,
    facts: &'a CallFacts,
) -> impl Iterator<Item = &'a Arc<Budget>> {
    let of = |d| value(who, &provider.id, facts.model.as_deref(), d);
    snapshot.hard.covering(of).into_iter().map(|covered| &covered.budget)
}

fn max_cost(headers: &HeaderMap) -> Result<Option<Money>, Refusal> {
    let Some(value) = headers.get(&names::MAX_COST) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|v| v.trim().parse::<Money>().ok()).filter(|m| !m.is_negative());
    match parsed {
        Some(money) => Ok(Some(money)),
        None => Err(Refusal::new(
            Code::Malformed,
            "Weighbridge: wb-max-cost must be US dollars as a decimal, such as 0.25.",
        )),
    }
}

/// Bounds the cost of a request. `counted`: exact input tokens of its text, where they were counted.
pub(super) fn bound(
    prices: &PriceBook,
    provider: &Provider,
    facts: &CallFacts,
    at: crate::domain::Micros,
    counted: Option<u64>,
    whole_window: bool,
) -> CostBound {
    if facts.metering != Metering::Metered {
        return CostBound::FREE;
    }
    let text = counted.unwrap_or_else(|| facts.input_bytes.div_ceil(2));
    let mut input = text.saturating_add(facts.input_allowance);
    let context: PriceContext = facts.price_context.clone();
    let quote = |input| {
        let model = facts.model.as_deref()?;
        prices.upper_bound(&provider.price_as, model, at, &context, input)
    };
    let mut upper = quote(input);
    if whole_window {
        let window = upper.as_ref().and_then(|u| u.context_window).unwrap_or(DEFAULT_WINDOW);
        input = input.max(window);
        upper = quote(input);
    }
    let output_wanted = output_wanted(facts, upper.as_ref());
    match upper {
        None => CostBound {
            input_tokens: input,
            fixed: Money::ZERO,
            per_output_token: None,
            output_wanted,
            price_model: None,
        },
        Some(upper) => CostBound {
            input_tokens: input,
            fixed: upper.fixed.saturating_add(fees(facts, &upper)),
            per_output_token: Some(upper.per_output_token),
            output_wanted,
            price_model: Some(upper.model),
        },
    }
}

fn output_wanted(facts: &CallFacts, upper: Option<&UpperBound>) -> u64 {
    if facts.billing != Billing::Tokens {
        return 0;
    }
    let most = upper.and_then(|u| u.max_output_tokens);
    match (facts.output_cap, most) {
        (Some(cap), Some(most)) => cap.min(most),
        (Some(cap), None) => cap,
        (None, Some(most)) => most,
        (None, None) => DEFAULT_OUTPUT,
    }
}

fn fees(facts: &CallFacts, upper: &UpperBound) -> Money {
    let price = |component: Component| upper.fees.iter().find(|(c, _)| *c == component).map(|(_, price)| *price);
    let of = |(component, most): &(Component, Option<u64>)| {
        price(*component).unwrap_or_default().times(most.unwrap_or(HOSTED_CALLS))
    };
    facts.hosted_fees.iter().map(of).fold(Money::ZERO, Money::saturating_add)
}
