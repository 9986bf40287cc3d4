//! Says yes or no to a model, and which rule said it. Pure: the catalogue's policies and the facts of one call in, a
//! [`Verdict`] out.
//!
//! Every policy that covers the call is looked at, in order, until one denies; the key's own list comes first. Models are
//! compared without regard to case, as price lists and most vendors do, so that spelling is no way around a rule.

use std::sync::Arc;

use crate::domain::catalogue::covers;
use crate::domain::filter::glob;
use crate::domain::{Code, Dimension, Policy};

/// What the rules say about one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Absent = allowed.
    pub denied: Option<Denied>,
    /// The rules that cover the call, in the order they were looked at: `key`, `policy:…`.
    pub looked_at: Vec<String>,
    /// Some policy lets unmetered paths pass under a hard budget.
    pub allow_unmetered: bool,
    /// Some policy lets models without a price pass under a hard budget.
    pub allow_unpriced: bool,
    /// Some policy lets calls whose input cannot be seen pass without holding the whole context window.
    pub allow_unbounded: bool,
}

/// The rule that denies, and what the caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub code: Code,
    /// `key`, or `policy:` and its id.
    pub by: String,
    /// One sentence: the model, the rule and the way out.
    pub message: String,
}

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.denied.is_none()
    }
}

/// Judges a call. `value` gives the call's dimensions (`model` is the one asked for); `key_models` is the key's own list,
/// absent = what policies allow. A call without a model is only asked about by rules that are not about models.
pub fn judge<'a>(
    policies: &[Arc<Policy>],
    value: impl Fn(Dimension) -> Option<&'a str>,
    model: Option<&str>,
    key_models: Option<&[String]>,
) -> Verdict {
    if policies.is_empty() && key_models.is_none() {
        return Verdict::default();
    }
    let lower = model.map(str::to_lowercase);
    let fits = |patterns: &[String], model: &str| patterns.iter().any(|p| glob(&p.to_lowercase(), model));
    let mut verdict = Verdict::default();
    if let Some(list) = key_models {
        verdict.looked_at.push("key".to_owned());
        if let Some(model) = lower.as_deref().filter(|m| !fits(list, m)) {
            let message = format!("this key may not use model `{model}`: it is limited to {}", some(list));
            verdict.denied = Some(Denied { code: Code::ModelNotAllowed, by: "key".to_owned(), message });
            return verdict;
        }
    }
    for policy in policies.iter().filter(|p| covers(&p.matches, &value)) {
        verdict.looked_at.push(format!("policy:{}", policy.id));
        verdict.allow_unmetered |= policy.allow_unmetered;
        verdict.allow_unpriced |= policy.allow_unpriced;
        verdict.allow_unbounded |= policy.allow_unbounded;
        let Some(model) = lower.as_deref() else { continue };
        let id = &policy.id;
        let message = match &policy.allow_models {
            _ if fits(&policy.deny_models, model) => format!("policy `{id}` denies model `{model}`: use another model"),
            Some(list) if !fits(list, model) => {
                format!("policy `{id}` does not allow model `{model}`: it allows {}", some(list))
            }
            _ => continue,
        };
        verdict.denied = Some(Denied { code: Code::PolicyDenied, by: format!("policy:{id}"), message });
        return verdict;
    }
    verdict
}

/// The first few patterns, for a sentence.
fn some(patterns: &[String]) -> String {
    match patterns {
        [] => "no model".to_owned(),
        few if few.len() <= 5 => few.join(", "),
        many => format!("{}, …", many[..5].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn policy(id: &str, environment: &str, allow: Option<&[&str]>, deny: &[&str]) -> Arc<Policy> {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Arc::new(Policy {
            id: id.into(),
            matches: BTreeMap::from([(Dimension::Environment, environment.to_owned())]),
            allow_models: allow.map(list),
            deny_models: list(deny),
            allow_unmetered: id == "lenient",
            allow_unpriced: id == "lenient",
            allow_unbounded: false,
            position: 0,
        })
    }

    /// Who denies a model in `test`, with the given key list.
    fn check(policies: &[Arc<Policy>], model: &str, key: Option<&[String]>, expected: Option<&str>) {
        let verdict = judge(policies, |d| (d == Dimension::Environment).then_some("test"), Some(model), key);
        assert_eq!(verdict.denied.as_ref().map(|d| d.by.as_str()), expected, "{model}");
        assert_eq!(verdict.allowed(), expected.is_none());
    }

    #[test]
    fn the_first_policy_that_denies_is_named_and_others_do_not_apply() {
        let policies = [
            policy("prod-only", "prod", None, &["*"]),
            policy("no-frontier", "test", None, &["*-pro", "*opus*"]),
            policy("small", "te*", Some(&["gpt-*", "*opus*"]), &[]),
        ];
        check(&policies, "gpt-5", None, None);
        check(&policies, "gpt-5-pro", None, Some("policy:no-frontier"));
        check(&policies, "Claude-OPUS-5", None, Some("policy:no-frontier"));
        check(&policies, "mistral-large", None, Some("policy:small"));
        let verdict = judge(&policies, |d| (d == Dimension::Environment).then_some("test"), Some("gpt-5"), None);
        assert_eq!(verdict.looked_at, ["policy:no-frontier", "policy:small"]);
    }

    #[test]
    fn a_keys_own_list_narrows_and_is_answered_as_a_model_that_is_not_there() {
        let list = ["GPT-5*".to_owned()];
        check(&[], "gpt-5-mini", Some(&list), None);
        check(&[], "o3", Some(&list), Some("key"));
        check(&[], "o3", Some(&[]), Some("key"));
        let verdict = judge(&[], |_| None, Some("o3"), Some(&list));
        assert_eq!(verdict.denied.unwrap().code, Code::ModelNotAllowed);
    }

    #[test]
    fn leave_is_given_by_any_policy_that_covers_the_call() {
        let policies = [policy("strict", "test", None, &["x"]), policy("lenient", "test", None, &[])];
        let value = |d| (d == Dimension::Environment).then_some("test");
        let verdict = judge(&policies, value, None, None);
        assert!(verdict.allowed() && verdict.allow_unmetered && verdict.allow_unpriced && !verdict.allow_unbounded);
        let elsewhere = judge(&policies, |d| (d == Dimension::Environment).then_some("prod"), None, None);
        assert!(!elsewhere.allow_unmetered && elsewhere.looked_at.is_empty());
    }
}
