//! Which models a price stands for: `equals:`, `prefix:`, `suffix:`, `contains:`, `regex:`, without regard to case.
//!
//! Alternatives are joined by ` | `; a conjunction stands in parentheses, its parts joined by ` & `. `not-regex:` is ours:
//! the facts have a negative look-ahead here and there, which linear-time matching has no word for.

use regex::{Regex, RegexBuilder};

/// One rule of a list: true for the models it names.
#[derive(Debug)]
pub(super) enum Rule {
    Equals(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
    NotRegex(Regex),
    All(Vec<Rule>),
}

impl Rule {
    /// Reads all alternatives of a match text.
    pub(super) fn parse_all(text: &str) -> Result<Vec<Rule>, String> {
        text.split(" | ").map(Rule::parse).collect()
    }

    fn parse(text: &str) -> Result<Rule, String> {
        if let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
            return Ok(Rule::All(inner.split(" & ").map(Rule::parse).collect::<Result<_, _>>()?));
        }
        let (kind, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not a match rule"))?;
        let regex = || {
            let built = RegexBuilder::new(value).case_insensitive(true).build();
            built.map_err(|e| format!("`{text}` is not a pattern: {e}"))
        };
        let lower = value.to_lowercase();
        Ok(match kind {
            "equals" => Rule::Equals(lower),
            "prefix" => Rule::Prefix(lower),
            "suffix" => Rule::Suffix(lower),
            "contains" => Rule::Contains(lower),
            "regex" => Rule::Regex(regex()?),
            "not-regex" => Rule::NotRegex(regex()?),
            _ => return Err(format!("`{kind}` is not a kind of match rule")),
        })
    }

    /// Whether the rule names this model, given in lower case.
    pub(super) fn matches(&self, model: &str) -> bool {
        match self {
            Rule::Equals(v) => model == v,
            Rule::Prefix(v) => model.starts_with(v.as_str()),
            Rule::Suffix(v) => model.ends_with(v.as_str()),
            Rule::Contains(v) => model.contains(v.as_str()),
            Rule::Regex(r) => r.is_match(model),
            Rule::NotRegex(r) => !r.is_match(model),
            Rule::All(rules) => rules.iter().all(|r| r.matches(model)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(rules: &str, model: &str) -> bool {
        Rule::parse_all(rules).unwrap().iter().any(|r| r.matches(&model.to_lowercase()))
    }

    #[test]
    fn every_kind_of_rule_matches_without_regard_to_case() {
        assert!(matches("equals:GPT-5 | prefix:ft:gpt", "gpt-5"));
        assert!(matches("equals:gpt-5 | prefix:ft:gpt", "FT:GPT-4"));
        assert!(matches("suffix:-latest", "o1-LATEST"));
        assert!(matches("contains:opus", "claude-OPUS-5"));
        assert!(matches(r"regex:^claude-opus-5[-@]\d{8}$", "claude-opus-5@20260101"));
        assert!(!matches(r"regex:^claude-opus-5[-@]\d{8}$", "claude-opus-5@2026"));
    }

    #[test]
    fn a_conjunction_needs_all_of_its_parts() {
        let rules = "(prefix:gemini-2.5-pro & not-regex:^(?:.*-tts(?:$|-)))";
        assert!(matches(rules, "gemini-2.5-pro-preview"));
        assert!(!matches(rules, "gemini-2.5-pro-preview-TTS"));
        assert!(matches(rules, "gemini-2.5-pro-ttsx"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["gpt-5", "like:gpt", "regex:(", "not-regex:(?!a)"] {
            assert!(Rule::parse_all(text).is_err(), "{text}");
        }
    }
}
