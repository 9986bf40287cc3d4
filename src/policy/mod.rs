//! Says what may be called, by whom, how, and which rule said it. Pure: declared policies and the facts of one call in, a
//! [`Verdict`] out.
//!
//! Every policy that covers the call is looked at, in order, until one denies; the key's own list comes first. Of a policy
//! each rule it has is looked at, in the order of `rules`; the verdict lists all of them, because the record of the call
//! does. A policy that only observes or warns never ends the search. Models are compared without regard to case, as price
//! lists and most vendors do, so that spelling is no way around a rule. Rates are not judged here: no single call breaks
//! one (see the gateway).

mod rules;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::catalogue::covers;
use crate::domain::policy::{Mode, RuleResult, RuleSeen, Unpriced};
use crate::domain::{Attribution, Catalogue, Code, Dimension, Environment, Micros, Money, Policy};

use self::rules::{Effect, Finding, RULES};

/// Most rules on the record of one call. What is beyond says how many there were.
pub const MOST_RULES: usize = 48;

/// One call as policies see it.
pub struct Asked<'a> {
    /// For the zone and the owners it declares.
    pub catalogue: &'a Catalogue,
    pub who: &'a Attribution,
    pub provider: &'a str,
    pub endpoint: &'a str,
    /// Costs money: not a list of models or the like.
    pub metered: bool,
    pub model: Option<&'a str>,
    pub at: Micros,
    pub facts: &'a Facts,
    /// The key's own list of models; absent = what policies allow.
    pub key_models: Option<&'a [String]>,
    /// Of the money budgets that cover the call the one with the least left, and how many percent. Only asked for where a
    /// policy downgrades.
    pub left: &'a dyn Fn() -> Option<(String, u8)>,
}

impl Asked<'_> {
    /// The call's value of a dimension; `model` is the one asked for.
    fn value(&self, dimension: Dimension) -> Option<&str> {
        match dimension {
            Dimension::Provider => Some(self.provider),
            Dimension::Model => self.model,
            _ => self.who.dimension(dimension),
        }
    }
}

/// What of a request only its reader knows. Absent = not known: the rule that asks is not judged, and says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub price: Price,
    pub input: Input,
    pub output: Option<Output>,
    /// Names of the tools offered; of those that the provider runs, their types.
    pub tools: Option<Vec<String>>,
    /// Lower-case names of the headers that came.
    pub headers: Option<Vec<String>>,
    pub peer: Option<IpAddr>,
    /// Where the request asks to be computed, else where its provider computes; empty = neither says.
    pub region: Option<String>,
    /// The model stands in the body, where another can be written.
    pub model_writable: bool,
}

/// The model's price as far as classes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Price {
    #[default]
    Unknown,
    /// The price book has none.
    Unpriced,
    /// Of a million output tokens; of input tokens where the model has no output.
    PerMillion(Money),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    #[default]
    Unknown,
    /// It is not in the request: a stored conversation, files.
    Unseen,
    /// As estimated.
    Tokens(u64),
}

/// The output a request asks for, in tokens per answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The caller's cap; absent = none.
    pub cap: Option<u64>,
    /// A cap can be written into the request.
    pub writable: bool,
}

/// What the rules say about one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Absent = allowed.
    pub denied: Option<Denied>,
    /// The rules that were looked at, in order, with what each found.
    pub rules: Vec<RuleSeen>,
    /// Policies of mode `warn` that the call breaks.
    pub warnings: Vec<String>,
    /// Output cap to be written into the request, in tokens per answer.
    pub output_limit: Option<u64>,
    /// Another model to ask the provider for.
    pub downgrade: Option<Downgraded>,
    /// What becomes of the model, if it has no price.
    pub unpriced: Option<Unpriced>,
    /// Some policy lets unmetered paths pass under a hard budget.
    pub allow_unmetered: bool,
    /// Some policy lets models without a price pass under a hard budget.
    pub allow_unpriced: bool,
    /// Some policy lets calls whose input cannot be seen pass without holding the whole context window.
    pub allow_unbounded: bool,
    /// A rule in force that could not be judged for want of a fact.
    pub unjudged: Option<Denied>,
}

/// The cheaper model that a policy sends a call to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downgraded {
    pub to: String,
    /// `policy:` and its id.
    pub by: String,
    /// The budget that nears its end, and the percentage left of it.
    pub budget: String,
    pub left: u8,
}

/// The rule that denies, and what the caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub code: Code,
    /// `key`, `environment:…`, or `policy:` and its id.
    pub by: String,
    /// One sentence: the value, the rule and the way out.
    pub message: String,
}

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.denied.is_none()
    }

    /// Whether any rule found something to say.
    pub fn noteworthy(&self) -> bool {
        self.rules.iter().any(|rule| rule.result != RuleResult::Allowed)
    }

    fn see(&mut self, by: &str, rule: &str, result: RuleResult, note: Option<String>) {
        self.rules.push(RuleSeen { by: by.to_owned(), rule: rule.to_owned(), result, note });
    }
}

/// Judges a call by these policies, in their order.
pub fn judge(policies: &[Arc<Policy>], call: &Asked<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if policies.is_empty() && call.key_models.is_none() && call.facts.price != Price::Unpriced {
        return verdict;
    }
    if let Some(list) = call.key_models {
        let denied = call.model.and_then(|model| rules::outside(list, model, call)).map(|model| {
            let message = format!("this key may not use model `{model}`: it is limited to {}", rules::some(list));
            Denied { code: Code::ModelNotAllowed, by: "key".to_owned(), message }
        });
        let result = if denied.is_some() { RuleResult::Denied } else { RuleResult::Allowed };
        verdict.see("key", "allow_models", result, None);
        verdict.denied = denied;
    }
    for policy in policies.iter().filter(|p| covers(&p.matches, |d| call.value(d))) {
        if verdict.denied.is_some() {
            break;
        }
        look(policy, call, &mut verdict);
    }
    if verdict.denied.is_none() {
        unpriced_by_environment(call, &mut verdict);
    }
    bound(&mut verdict.rules);
    verdict
}

/// All rules of one policy, until one denies.
fn look(policy: &Policy, call: &Asked<'_>, verdict: &mut Verdict) {
    verdict.allow_unmetered |= policy.allow_unmetered;
    verdict.allow_unpriced |= policy.allow_unpriced;
    verdict.allow_unbounded |= policy.allow_unbounded;
    let by = format!("policy:{}", policy.id);
    for (rule, check) in RULES {
        // Of policies that say what becomes of an unpriced model, the first decides.
        if *rule == "unpriced_policy" && verdict.unpriced.is_some() {
            continue;
        }
        let Some(finding) = check(policy, call) else { continue };
        match (finding, policy.mode) {
            (Finding::Kept, _) => verdict.see(&by, rule, RuleResult::Allowed, None),
            (Finding::Unknown(what), mode) => {
                if mode == Mode::Enforce && verdict.unjudged.is_none() {
                    let message = format!("policy `{}` asks for {what}, which is not known of this call", policy.id);
                    verdict.unjudged = Some(Denied { code: Code::PolicyDenied, by: by.clone(), message });
                }
                verdict.see(&by, rule, RuleResult::Unknown, Some(format!("{what} is not on record")));
            }
            (Finding::Unfit(why), _) => verdict.see(&by, rule, RuleResult::Unknown, Some(why.to_owned())),
            (Finding::Broken { note, .. } | Finding::Change { note, .. }, Mode::Observe) => {
                verdict.see(&by, rule, RuleResult::Observed, note);
            }
            (Finding::Broken { note, .. } | Finding::Change { note, .. }, Mode::Warn) => {
                verdict.see(&by, rule, RuleResult::Warned, note);
                if !verdict.warnings.contains(&policy.id) {
                    verdict.warnings.push(policy.id.clone());
                }
            }
            (Finding::Change { note, effect }, Mode::Enforce) => {
                verdict.see(&by, rule, RuleResult::Changed, note);
                change(effect, &by, verdict);
            }
            (Finding::Broken { code, message, note }, Mode::Enforce) => {
                verdict.see(&by, rule, RuleResult::Denied, note);
                verdict.denied = Some(Denied { code, by, message });
                return;
            }
        }
    }
}

fn change(effect: Effect, by: &str, verdict: &mut Verdict) {
    match effect {
        Effect::Limit(most) => verdict.output_limit = Some(verdict.output_limit.map_or(most, |m| m.min(most))),
        Effect::Unpriced(what) => verdict.unpriced = Some(what),
        Effect::Downgrade { to, budget, left } if verdict.downgrade.is_none() => {
            verdict.downgrade = Some(Downgraded { to, by: by.to_owned(), budget, left });
        }
        Effect::Downgrade { .. } => {}
    }
}

/// Where no policy says what becomes of a model without a price, its environment does: production goes on at the dearest
/// price of the family, everywhere else such a model is refused.
fn unpriced_by_environment(call: &Asked<'_>, verdict: &mut Verdict) {
    let open = verdict.unpriced.is_none() && !verdict.allow_unpriced;
    if !open || !call.metered || call.facts.price != Price::Unpriced {
        return;
    }
    let environment = call.who.environment;
    let by = format!("environment:{environment}");
    if environment == Environment::Prod {
        verdict.see(&by, "unpriced_policy", RuleResult::Changed, Some("family_max".to_owned()));
        verdict.unpriced = Some(Unpriced::FamilyMax);
        return;
    }
    verdict.see(&by, "unpriced_policy", RuleResult::Denied, None);
    let model = call.model.unwrap_or("this model");
    let message = format!(
        "model `{model}` has no price, and calls in {environment} need one: declare a price for it, or a policy with \
         unpriced_policy = \"allow\""
    );
    verdict.denied = Some(Denied { code: Code::ModelUnpriced, by, message });
}

/// Keeps the record small: first goes what was merely kept.
fn bound(rules: &mut Vec<RuleSeen>) {
    if rules.len() <= MOST_RULES {
        return;
    }
    let beyond = rules.len() - (MOST_RULES - 1);
    let mut spare = beyond;
    // From the end, so that the order of what stays is the order in which it was looked at.
    let mut at = rules.len();
    while at > 0 && spare > 0 {
        at -= 1;
        if rules[at].result == RuleResult::Allowed {
            rules.remove(at);
            spare -= 1;
        }
    }
    rules.truncate(MOST_RULES - 1);
    let note = Some(format!("{beyond} more"));
    rules.push(RuleSeen { by: "…".to_owned(), rule: String::new(), result: RuleResult::Allowed, note });
}
