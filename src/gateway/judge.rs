//! What policies say about a call, and what they change of it: a cap on its output, a cheaper model, the price of a model
//! that has none.
//!
//! Without a policy nothing here is looked at. Facts that cost something to find (tools, headers) are found where some
//! policy asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use crate::dialect::{CallFacts, Dialect, Metering};
use crate::domain::policy::{RuleResult, RuleSeen, Unpriced};
use crate::domain::{Attribution, Micros, Money, Policy, Provider, Refusal};
use crate::policy::{self, Asked, Facts, Input, Output, Price, Verdict};

use super::Gateway;
use super::classify::{self, CostBound};
use super::identify::Caller;
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// A request before policies have seen it.
pub(super) struct Unjudged<'a> {
    pub snapshot: &'a Snapshot,
    pub caller: &'a Caller,
    pub provider: &'a Provider,
    pub dialect: &'static dyn Dialect,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What policies made of it.
#[derive(Default)]
pub(super) struct Judgement {
    pub allow_unmetered: bool,
    pub allow_unpriced: bool,
    pub allow_unbounded: bool,
    /// Output cap to be written in, in tokens per answer.
    pub output_limit: Option<u64>,
    /// The model that is asked for instead.
    pub model_sent: Option<String>,
    /// The model whose prices stand in for those that are missing.
    pub family: Option<String>,
    /// For the writer's second look; absent where there was nothing to judge.
    pub facts: Option<Box<Facts>>,
}

impl Gateway {
    /// Asks the policies. Changes `facts` (the model) and `cost` as they say; rules and warnings go to the ticket.
    pub(super) fn judge(
        &self,
        call: &Unjudged<'_>,
        ticket: &mut Ticket,
        facts: &mut CallFacts,
        cost: &mut CostBound,
    ) -> Result<Judgement, Refusal> {
        let snapshot = call.snapshot;
        let metered = facts.metering == Metering::Metered;
        let unpriced = metered && cost.per_output_token.is_none();
        if snapshot.policies.is_empty() && call.caller.credential.allow_models().is_none() && !unpriced {
            return Ok(Judgement::default());
        }
        let who = ticket.who.clone().unwrap_or_else(|| call.caller.who.clone());
        let at = ticket.received_at;
        let mut known = known(call, ticket, facts, cost);
        let mut verdict = self.ask(call, &who, at, facts, &known, true);
        let mut judgement = Judgement::default();
        if let (None, Some(downgraded)) = (&verdict.denied, verdict.downgrade.take()) {
            facts.model = Some(downgraded.to.clone());
            judgement.model_sent = Some(downgraded.to.clone());
            *cost = classify::bound(&snapshot.prices, call.provider, facts, at, None, false);
            known.price = price(facts, cost);
            // What is sent has to keep the rules as well; that it was changed stays on record.
            let first = std::mem::take(&mut verdict.rules);
            verdict = self.ask(call, &who, at, facts, &known, false);
            verdict.rules.retain(|rule| rule.rule != "downgrade");
            verdict.rules.extend(first.into_iter().filter(|rule| rule.rule == "downgrade"));
            verdict.rules.truncate(policy::MOST_RULES);
            ticket.downgraded = Some(downgraded);
        }
        ticket.warnings = std::mem::take(&mut verdict.warnings);
        ticket.rules = std::mem::take(&mut verdict.rules);
        if let Some(denied) = verdict.denied.or(verdict.unjudged) {
            let by = Some(denied.by);
            return Err(Refusal { by, ..Refusal::new(denied.code, format!("Weighbridge: {}.", denied.message)) });
        }
        judgement.allow_unmetered = verdict.allow_unmetered;
        judgement.allow_unbounded = verdict.allow_unbounded;
        judgement.allow_unpriced = verdict.allow_unpriced || verdict.unpriced == Some(Unpriced::Allow);
        if metered && cost.per_output_token.is_none() && verdict.unpriced == Some(Unpriced::FamilyMax) {
            judgement.family = self.family(call, facts, at, cost, &mut ticket.rules);
        }
        if let Some(limit) = verdict.output_limit {
            cost.output_wanted = cost.output_wanted.min(limit);
            judgement.output_limit = Some(limit);
        }
        judgement.facts = Some(Box::new(known));
        Ok(judgement)
    }

    fn ask(
        &self,
        call: &Unjudged<'_>,
        who: &Attribution,
        at: Micros,
        facts: &CallFacts,
        known: &Facts,
        may_downgrade: bool,
    ) -> Verdict {
        let left = || may_downgrade.then(|| self.least_left(call.snapshot, who, call.provider, facts, at)).flatten();
        let asked = Asked {
            catalogue: &call.snapshot.catalogue,
            who,
            provider: &call.provider.id,
            endpoint: facts.endpoint,
            metered: facts.metering == Metering::Metered,
            model: facts.model.as_deref(),
            at,
            facts: known,
            key_models: call.caller.credential.allow_models(),
            left: &left,
        };
        policy::judge(&call.snapshot.policies, &asked)
    }

    /// Of the money budgets that cover the call the one that has least left, in percent of its limit. The balances are
    /// advice: the writer decides whether the call is affordable at all.
    fn least_left(
        &self,
        snapshot: &Snapshot,
        who: &Attribution,
        provider: &Provider,
        facts: &CallFacts,
        at: Micros,
    ) -> Option<(String, u8)> {
        let of = |d| classify::value(who, &provider.id, facts.model.as_deref(), d);
        let covering = snapshot.funds.as_ref()?.covering(of);
        let percent = covering.into_iter().map(|covered| {
            let budget = &covered.budget;
            // Of the limit in force: raises and what the period before left count too.
            let standing = self.inner.ledger.standing(&budget.id, at);
            let (left, limit) = standing.map_or((0, 0), |s| (s.available(), s.allowance.total()));
            let percent = left.max(0).saturating_mul(100).checked_div(limit).unwrap_or(0);
            (percent.clamp(0, 100) as u8, &budget.id)
        });
        percent.min().map(|(left, id)| (id.clone(), left))
    }

    /// Bounds the cost by the dearest model of the family; notes on record which it was.
    fn family(
        &self,
        call: &Unjudged<'_>,
        facts: &CallFacts,
        at: Micros,
        cost: &mut CostBound,
        rules: &mut [RuleSeen],
    ) -> Option<String> {
        let model = facts.model.as_deref()?;
        let family = call.snapshot.prices.family_max(&call.provider.price_as, model, at)?;
        let like = CallFacts { model: Some(family.clone()), ..facts.clone() };
        *cost = classify::bound(&call.snapshot.prices, call.provider, &like, at, None, false);
        if let Some(rule) = rules.iter_mut().find(|r| r.rule == "unpriced_policy" && r.result == RuleResult::Changed) {
            rule.note = Some(format!("family_max: as {family}"));
        }
        Some(family)
    }
}

/// The facts that policies ask for.
fn known(call: &Unjudged<'_>, ticket: &Ticket, facts: &CallFacts, cost: &CostBound) -> Facts {
    let needs = call.snapshot.needs;
    let none = facts.tools_offered == 0;
    Facts {
        price: price(facts, cost),
        input: match facts.unbounded {
            true => Input::Unseen,
            // As many tokens as text has as a rule, not as few bytes as a token can have.
            false => {
                Input::Tokens((facts.input_bytes.saturating_mul(2)).div_ceil(7).saturating_add(facts.input_allowance))
            }
        },
        output: Some(Output {
            cap: if cost.output_wanted == 0 { Some(0) } else { facts.output_cap },
            writable: facts.output_cap_field.is_some(),
        }),
        tools: match needs.tools && !none {
            true => call.dialect.tool_names(facts, call.body),
            false => none.then(Vec::new),
        },
        headers: needs.headers.then(|| call.headers.keys().map(|name| name.as_str().to_owned()).collect()),
        peer: Some(ticket.peer.ip()),
        region: Some(region(&facts.price_context, call.provider)),
        model_writable: facts.model_in_body,
    }
}

fn region(context: &BTreeMap<String, String>, provider: &Provider) -> String {
    context.get("inference_geo").or(provider.region.as_ref()).cloned().unwrap_or_default()
}

/// The price by which a model has its class.
fn price(facts: &CallFacts, cost: &CostBound) -> Price {
    match cost.per_output_token {
        _ if facts.metering != Metering::Metered => Price::Unknown,
        None => Price::Unpriced,
        Some(each) if each.is_zero() && cost.input_tokens > 0 => {
            Price::PerMillion(Money(cost.fixed.0.saturating_mul(1_000_000) / i128::from(cost.input_tokens)))
        }
        Some(each) => Price::PerMillion(each.times(1_000_000)),
    }
}

/// Whether a key and the policies let its service see a model in a list: what is asked about a call is not known yet, so
/// only rules that are about service, provider and model count.
pub(super) fn may_list(snapshot: &Snapshot, caller: &Caller, provider: &Provider, model: &str, at: Micros) -> bool {
    let facts = Facts::default();
    let asked = Asked {
        catalogue: &snapshot.catalogue,
        who: &caller.who,
        provider: &provider.id,
        endpoint: "models",
        metered: false,
        model: Some(model),
        at,
        facts: &facts,
        key_models: caller.credential.allow_models(),
        left: &|| None,
    };
    let about_models: Vec<Arc<Policy>> = snapshot.policies.iter().filter(|p| names_models(p)).cloned().collect();
    policy::judge(&about_models, &asked).denied.is_none()
}

fn names_models(policy: &Policy) -> bool {
    policy.allow_models.is_some() || !policy.deny_models.is_empty()
}
