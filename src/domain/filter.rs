//! The words by which spend is grouped and calls are chosen: the same in the API, the pages and the CLI.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::Micros;

// One table, so that the variants and their names cannot drift apart.
macro_rules! dimensions {
    ($($variant:ident = $name:literal;)*) => {
        /// A dimension of every call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Dimension { $($variant),* }
        impl Dimension {
            pub const ALL: &'static [Dimension] = &[$(Dimension::$variant),*];
            pub const fn name(self) -> &'static str { match self { $(Dimension::$variant => $name),* } }
        }
    };
}

dimensions! {
    Tenant = "tenant";
    BusinessUnit = "business_unit";
    Application = "application";
    Service = "service";
    Agent = "agent";
    Owner = "owner";
    CostCentre = "cost_centre";
    Environment = "environment";
    Workflow = "workflow";
    Run = "run";
    Principal = "principal";
    ChargedTo = "charged_to";
    Provider = "provider";
    Model = "model";
    PromptClass = "prompt_class";
    Credential = "credential";
    Outcome = "outcome";
}

impl Dimension {
    pub fn from_name(name: &str) -> Option<Dimension> {
        Dimension::ALL.iter().copied().find(|d| d.name() == name)
    }
}
impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl Serialize for Dimension {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}
impl<'de> Deserialize<'de> for Dimension {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Dimension, D::Error> {
        let name = String::deserialize(d)?;
        Dimension::from_name(&name).ok_or_else(|| {
            let known: Vec<_> = Dimension::ALL.iter().map(|d| d.name()).collect();
            serde::de::Error::custom(format!("`{name}` is not a dimension: use one of {}", known.join(", ")))
        })
    }
}
impl schemars::JsonSchema for Dimension {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dimension".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<_> = Dimension::ALL.iter().map(|d| d.name()).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}

/// How one value of a filter chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `service=a`; with a `*` it is a glob.
    Is(String),
    /// `environment=!test`.
    IsNot(String),
    /// `owner=(none)`: the calls that have no value there.
    None,
}

impl Match {
    /// Reads one query value.
    pub fn parse(text: &str) -> Match {
        match text.strip_prefix('!') {
            _ if text == "(none)" => Match::None,
            Some(rest) => Match::IsNot(rest.to_owned()),
            Option::None => Match::Is(text.to_owned()),
        }
    }

    /// Whether a call with this value (or without one) is chosen.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        match self {
            Match::Is(pattern) => value.is_some_and(|v| glob(pattern, v)),
            Match::IsNot(pattern) => !value.is_some_and(|v| glob(pattern, v)),
            Match::None => value.is_none(),
        }
    }
}

/// The query text this was read from.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Is(v) => f.write_str(v),
            Match::IsNot(v) => write!(f, "!{v}"),
            Match::None => f.write_str("(none)"),
        }
    }
}

/// Which calls: a call is chosen if it lies in the range and, for every dimension named, at least one value accepts it
/// (all of them where they exclude).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Start of the call, inclusive.
    pub from: Option<Micros>,
    /// Start of the call, exclusive.
    pub to: Option<Micros>,
    pub dimensions: Vec<(Dimension, Match)>,
}

impl Filter {
    /// Whether a call with these values is chosen; the range is not looked at.
    pub fn accepts<'a>(&self, value: impl Fn(Dimension) -> Option<&'a str>) -> bool {
        let mut wanted: Vec<(Dimension, bool)> = Vec::new();
        for (dimension, m) in &self.dimensions {
            let accepted = m.accepts(value(*dimension));
            if matches!(m, Match::IsNot(_)) {
                if !accepted {
                    return false;
                }
                continue;
            }
            match wanted.iter_mut().find(|(d, _)| d == dimension) {
                Some((_, any)) => *any |= accepted,
                Option::None => wanted.push((*dimension, accepted)),
            }
        }
        wanted.iter().all(|(_, any)| *any)
    }

    /// Whether the start lies in the range.
    pub fn in_range(&self, started_at: Micros) -> bool {
        self.from.is_none_or(|from| started_at >= from) && self.to.is_none_or(|to| started_at < to)
    }
}

/// Shell-like match: `*` stands for any run of characters, everything else for itself. Linear in practice: only the
/// last `*` is ever gone back to.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        if i < p.len() && p[i] == b'*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && p[i] == t[j] {
            i += 1;
            j += 1;
        } else if let Some((si, sj)) = star {
            star = Some((si, sj + 1));
            i = si + 1;
            j = sj + 1;
        } else {
            return false;
        }
    }
    p[i..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("gpt-*", "gpt-5.2", true),
            ("*-pro", "gpt-5-pro", true),
            ("*opus*", "claude-opus-4-8", true),
            ("gpt", "gpt-5", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn values_of_one_dimension_are_alternatives_and_dimensions_are_conditions() {
        let filter = Filter {
            dimensions: vec![
                (Dimension::Service, Match::parse("a")),
                (Dimension::Service, Match::parse("b")),
                (Dimension::Environment, Match::parse("!test")),
                (Dimension::Owner, Match::parse("(none)")),
            ],
            ..Filter::default()
        };
        let call = |service: &'static str, env: &'static str, owner: Option<&'static str>| {
            move |d: Dimension| match d {
                Dimension::Service => Some(service),
                Dimension::Environment => Some(env),
                Dimension::Owner => owner,
                _ => None,
            }
        };
        assert!(filter.accepts(call("a", "prod", None)));
        assert!(filter.accepts(call("b", "pilot", None)));
        assert!(!filter.accepts(call("c", "prod", None)));
        assert!(!filter.accepts(call("a", "test", None)));
        assert!(!filter.accepts(call("a", "prod", Some("x"))));
    }
}
