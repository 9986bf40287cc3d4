//! A change as people read it: what is new, what is gone, and of what differs each field before and after.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// What happens to a noun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    Create,
    Change,
    Remove,
}

/// One noun's change: `~ budget invoice-bot-month: limit_usd 500 → 600`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Line {
    pub sign: Sign,
    pub noun: &'static str,
    pub id: String,
    /// Fields that differ, as `name before → after`.
    pub fields: Vec<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Create => '+',
            Sign::Change => '~',
            Sign::Remove => '-',
        };
        write!(f, "{sign} {} {}", self.noun, self.id)?;
        if !self.fields.is_empty() {
            write!(f, ": {}", self.fields.join(", "))?;
        }
        Ok(())
    }
}

impl Line {
    /// The line of a change from one written form to another; `None` as either = not there.
    pub(super) fn between<T: Serialize>(noun: &'static str, id: &str, before: Option<&T>, after: Option<&T>) -> Line {
        let sign = match (before.is_some(), after.is_some()) {
            (false, _) => Sign::Create,
            (true, true) => Sign::Change,
            (true, false) => Sign::Remove,
        };
        let fields = match (before, after) {
            (Some(before), Some(after)) => fields(&object(before), &object(after)),
            _ => Vec::new(),
        };
        Line { sign, noun, id: id.to_owned(), fields }
    }
}

fn object<T: Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn fields(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let differs = names.into_iter().filter(|n| before.get(*n) != after.get(*n));
    differs.map(|n| format!("{n} {} → {}", words(before.get(n)), words(after.get(n)))).collect()
}

fn words(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
