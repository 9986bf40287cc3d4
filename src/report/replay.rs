//! Past calls before policies that were not in force: which would have been decided otherwise, and how much money that is.
//!
//! Proposed policies are judged as if they were enforced, whatever their mode, because that is the question. What a rule asks
//! about and no record has (headers, the source address, tools offered but not called) is not judged and counted as such.
//! Rates and cheaper models depend on what other calls do and on balances of the time: they are not replayed.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::policy::{Mode, RuleResult};
use crate::domain::{Call, CallId, Catalogue, Component, Filter, Micros, Money, Outcome, Policy, Provider};
use crate::policy::{Asked, Facts, Input, Output, Price, Verdict, judge};
use crate::pricing::PriceBook;
use crate::store::{AsOf, Ledger};

use super::ReportError;
use super::simulate::{price, with_proposed};

/// Most calls that are judged again: the newest of the range.
pub const MOST_JUDGED: usize = 200_000;
/// Calls that are shown one by one.
const MOST_SHOWN: usize = 50;

/// What proposed policies would have changed.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Replay {
    /// Calls looked at.
    pub calls: u64,
    /// Passed then, refused by a proposed policy.
    pub refused: u64,
    /// What these cost then.
    pub refused_usd: Money,
    /// Refused then by a policy that is to change, and would pass its new form. Budgets are not asked.
    pub admitted: u64,
    /// Passed then and would pass, with less output or otherwise changed.
    pub changed: u64,
    /// Calls of which a proposed rule asks what no record has.
    pub undecided: u64,
    /// By service, most refused first.
    pub by_service: Vec<ReplayService>,
    /// By rule that would refuse, most first.
    pub by_rule: Vec<ReplayRule>,
    /// The newest of them.
    pub examples: Vec<ReplayCall>,
    /// Rules among the proposed that cannot be replayed.
    pub not_replayed: Vec<String>,
    /// There were more calls than are looked at: the older ones are left out.
    pub truncated: bool,
    #[serde(skip)]
    pub as_of: AsOf,
}

#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ReplayService {
    pub service: String,
    pub refused: u64,
    pub refused_usd: Money,
    pub admitted: u64,
    pub changed: u64,
}

#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ReplayRule {
    pub by: String,
    pub rule: String,
    pub calls: u64,
    pub usd: Money,
}

/// A call that would have been decided otherwise.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReplayCall {
    pub id: CallId,
    pub started_at: Micros,
    pub service: String,
    pub model: Option<String>,
    /// `refused`, `admitted` or `changed`.
    pub becomes: &'static str,
    /// The rule, or the sentence of the refusal.
    pub why: String,
    /// What it cost then.
    pub cost_usd: Option<Money>,
}

/// Judges the calls of `filter` again, with `proposed` over or behind the declared policies.
pub fn replay(
    ledger: &Ledger,
    prices: &PriceBook,
    proposed: &[Policy],
    filter: &Filter,
) -> Result<Replay, ReportError> {
    let catalogue = ledger.catalogue();
    let in_force: Vec<Policy> = proposed.iter().map(|p| Policy { mode: Mode::Enforce, ..p.clone() }).collect();
    let mut judge = Judge {
        catalogue: &catalogue,
        prices,
        policies: with_proposed(&catalogue, &in_force),
        names: proposed.iter().map(|p| format!("policy:{}", p.id)).collect(),
        priced: HashMap::new(),
        answer: Replay { not_replayed: not_replayed(proposed), ..Replay::default() },
        services: BTreeMap::new(),
        rules: BTreeMap::new(),
    };
    let as_of = ledger.views().visit(filter, None, &mut |call| {
        if judge.answer.calls >= MOST_JUDGED as u64 {
            judge.answer.truncated = true;
            return false;
        }
        judge.look(&call);
        true
    })?;
    let Judge { mut answer, services, rules, .. } = judge;
    answer.as_of = as_of;
    answer.by_service = services.into_values().collect();
    answer
        .by_service
        .sort_by(|a, b| (b.refused_usd, b.refused, &a.service).cmp(&(a.refused_usd, a.refused, &b.service)));
    answer.by_rule = rules.into_values().collect();
    answer.by_rule.sort_by(|a, b| (b.usd, b.calls, &a.by).cmp(&(a.usd, a.calls, &b.by)));
    Ok(answer)
}

fn not_replayed(proposed: &[Policy]) -> Vec<String> {
    let mut found = Vec::new();
    for p in proposed {
        for (rule, set) in [
            ("max_calls_per_minute", p.max_calls_per_minute.is_some()),
            ("max_tokens_per_minute", p.max_tokens_per_minute.is_some()),
            ("max_concurrent", p.max_concurrent.is_some()),
            ("downgrade", p.downgrade.is_some()),
        ] {
            if set {
                found.push(format!("policy:{} {rule}", p.id));
            }
        }
    }
    found
}

struct Judge<'a> {
    catalogue: &'a Catalogue,
    prices: &'a PriceBook,
    policies: Vec<std::sync::Arc<Policy>>,
    /// `policy:…` of the proposed ones.
    names: Vec<String>,
    /// Prices looked up: of the day of the first call that asked.
    priced: HashMap<(String, String), Price>,
    answer: Replay,
    services: BTreeMap<String, ReplayService>,
    rules: BTreeMap<(String, String), ReplayRule>,
}

impl Judge<'_> {
    fn look(&mut self, call: &Call) {
        let (Some(who), Some(provider)) = (&call.who, &call.provider) else { return };
        if call.outcome == Outcome::Running {
            return;
        }
        let refused_by = match &call.refusal {
            // Refused by something that policies do not change.
            Some((_, by)) => match by.as_ref().filter(|by| self.names.contains(by)) {
                None => return,
                by => by,
            },
            None => None,
        };
        self.answer.calls += 1;
        let facts = self.facts(call, provider);
        let asked = Asked {
            catalogue: self.catalogue,
            who,
            provider,
            endpoint: &call.endpoint,
            metered: !call.unmetered && facts.price != Price::Unknown,
            model: call.model_requested.as_deref(),
            at: call.started_at,
            facts: &facts,
            key_models: None,
            left: &|| None,
        };
        let verdict = judge(&self.policies, &asked);
        self.count(call, &who.service, refused_by.is_some(), &verdict);
    }

    fn count(&mut self, call: &Call, service: &str, was_refused: bool, verdict: &Verdict) {
        let proposed = |by: &String| self.names.contains(by);
        let unknown = verdict.rules.iter().any(|r| r.result == RuleResult::Unknown && proposed(&r.by));
        self.answer.undecided += u64::from(unknown);
        let changed = verdict.rules.iter().find(|r| r.result == RuleResult::Changed && proposed(&r.by));
        let denied = verdict.denied.as_ref().filter(|d| proposed(&d.by));
        let (becomes, why) = match (was_refused, denied, changed) {
            (false, Some(denied), _) => ("refused", denied.message.clone()),
            (true, None, _) if !unknown && verdict.denied.is_none() => ("admitted", String::new()),
            (false, None, Some(rule)) => {
                let note = rule.note.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
                ("changed", format!("{} {}{note}", rule.by, rule.rule))
            }
            _ => return,
        };
        let cost = call.cost.unwrap_or_default();
        let row = self
            .services
            .entry(service.to_owned())
            .or_insert_with(|| ReplayService { service: service.to_owned(), ..ReplayService::default() });
        match becomes {
            "refused" => {
                (self.answer.refused, row.refused) = (self.answer.refused + 1, row.refused + 1);
                self.answer.refused_usd = self.answer.refused_usd.saturating_add(cost);
                row.refused_usd = row.refused_usd.saturating_add(cost);
            }
            "admitted" => (self.answer.admitted, row.admitted) = (self.answer.admitted + 1, row.admitted + 1),
            _ => (self.answer.changed, row.changed) = (self.answer.changed + 1, row.changed + 1),
        }
        if let Some(rule) = verdict.rules.iter().find(|r| r.result == RuleResult::Denied && becomes == "refused") {
            let key = (rule.by.clone(), rule.rule.clone());
            let entry = self.rules.entry(key).or_insert_with(|| ReplayRule {
                by: rule.by.clone(),
                rule: rule.rule.clone(),
                ..ReplayRule::default()
            });
            (entry.calls, entry.usd) = (entry.calls + 1, entry.usd.saturating_add(cost));
        }
        if self.answer.examples.len() < MOST_SHOWN {
            self.answer.examples.push(ReplayCall {
                id: call.id,
                started_at: call.started_at,
                service: service.to_owned(),
                model: call.model_requested.clone(),
                becomes,
                why,
                cost_usd: call.cost,
            });
        }
    }

    /// What the record of a call has of the facts that policies ask for.
    fn facts(&mut self, call: &Call, provider: &str) -> Facts {
        let declared = self.catalogue.providers.get(provider);
        let used = |component| call.usage.get(component);
        Facts {
            price: match (&call.model_requested, declared) {
                (Some(model), Some(declared)) if !call.usage.is_empty() || call.refusal.is_some() => {
                    self.price(declared, model, call.started_at)
                }
                _ => Price::Unknown,
            },
            input: used(Component::InputTokens).map_or(Input::Unknown, Input::Tokens),
            // A cap above what was generated would have changed nothing.
            output: used(Component::OutputTokens).map(|n| Output { cap: Some(n), writable: true }),
            tools: (call.tools_offered == 0).then(Vec::new),
            headers: None,
            peer: None,
            region: declared.map(|p| p.region.clone().unwrap_or_default()),
            model_writable: false,
        }
    }

    fn price(&mut self, provider: &Provider, model: &str, at: Micros) -> Price {
        if self.priced.len() > 10_000 {
            self.priced.clear();
        }
        let key = (provider.id.clone(), model.to_owned());
        *self.priced.entry(key).or_insert_with(|| price(self.prices, provider, model, at))
    }
}
