//! Policies and budgets that are only asked about: read by the rules of what is declared, and not declared.

use serde_json::Value;

use crate::domain::{Budget, Catalogue, Policy};

use super::ControlError;
use super::command::{Kind, read};
use super::plan::complete_budget;

/// Longest text of proposals, in bytes.
const MOST_BYTES: usize = 256 << 10;
/// Most of each.
const MOST: usize = 50;

/// What somebody would like to declare.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    pub policies: Vec<Policy>,
    pub budgets: Vec<Budget>,
}

/// Reads `[[policy]]` and `[[budget]]` sections as the configuration file has them; others are refused.
pub fn propose_toml(catalogue: &Catalogue, text: &str) -> Result<Proposal, ControlError> {
    if text.len() > MOST_BYTES {
        return Err(ControlError::field("toml", format!("longer than {MOST_BYTES} bytes")));
    }
    let table: toml::Table =
        toml::from_str(text).map_err(|e| ControlError::field("toml", format!("not TOML: {}", e.message())))?;
    let mut sections = Vec::new();
    for (name, value) in table {
        if !["policy", "budget"].contains(&name.as_str()) {
            let what = format!("`{name}` is nothing that can be tried out: give [[policy]] and [[budget]]");
            return Err(ControlError::field("toml", what));
        }
        let json = serde_json::to_value(value).map_err(|e| ControlError::field("toml", e.to_string()))?;
        let Value::Array(items) = json else {
            return Err(ControlError::field("toml", format!("there can be several, so write [[{name}]]")));
        };
        sections.extend(items.into_iter().map(|item| (name.clone(), item)));
    }
    let of = |name: &str| sections.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect();
    propose(catalogue, of("policy"), of("budget"))
}

/// Reads nouns in the words of the API.
pub fn propose(catalogue: &Catalogue, policies: Vec<Value>, budgets: Vec<Value>) -> Result<Proposal, ControlError> {
    if policies.len() > MOST || budgets.len() > MOST {
        return Err(ControlError::field("policies", format!("more than {MOST} at once: try some of them")));
    }
    let mut proposal = Proposal::default();
    for body in policies {
        let (policy, _) = read::<Policy>(Kind::Policy, body)?;
        proposal.policies.push(policy);
    }
    for body in budgets {
        let (budget, _) = read::<Budget>(Kind::Budget, body)?;
        proposal.budgets.push(complete_budget(budget, &catalogue.organisation));
    }
    Ok(proposal)
}

/// Policies as sections of a configuration file, in their order.
pub fn policies_toml(catalogue: &Catalogue) -> String {
    let sections = catalogue.policies_in_order().into_iter().map(|policy| policy_toml(policy));
    sections.collect::<Vec<_>>().join("\n")
}

/// One policy as a section of a configuration file.
pub fn policy_toml(policy: &Policy) -> String {
    use crate::config::Noun;
    let body = toml::to_string(&policy.written()).unwrap_or_default();
    // Tables within come last in TOML, and are written inline here, so that a section stays one piece.
    format!("[[policy]]\n{}", inline_tables(&body))
}

/// `[match]` and its lines as `match = { … }`.
fn inline_tables(body: &str) -> String {
    let (mut plain, mut tables): (Vec<String>, Vec<(String, Vec<String>)>) = (Vec::new(), Vec::new());
    for line in body.lines().filter(|l| !l.is_empty()) {
        match (line.strip_prefix('[').and_then(|l| l.strip_suffix(']')), tables.last_mut()) {
            (Some(name), _) => tables.push((name.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => plain.push(line.to_owned()),
        }
    }
    let inlined = tables.into_iter().filter(|(_, lines)| !lines.is_empty());
    plain.extend(inlined.map(|(name, lines)| format!("{name} = {{ {} }}", lines.join(", "))));
    plain.iter().map(|line| format!("{line}\n")).collect()
}
