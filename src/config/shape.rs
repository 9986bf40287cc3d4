//! Finds keys that do not belong: unknown ones, with the nearest known one, and known ones that this version does not
//! enforce. What is known is the JSON schema of the file's own types, so the two cannot drift apart.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{File, NOT_ENFORCED};
use super::near::nearest;

/// A key that does not belong: where, and what to say.
pub(super) struct Stray {
    pub offset: usize,
    pub key: String,
    /// Begins the sentence: `unknown key `, or nothing.
    pub what: &'static str,
    pub way_out: String,
}

pub(super) fn schema() -> Value {
    schemars::schema_for!(File).to_value()
}

/// All strays of a file, in no order.
pub(super) fn strays(table: &DeTable<'_>) -> Vec<Stray> {
    let schema = schema();
    let mut found = Vec::new();
    walk(table, &schema, &schema, "", &mut found);
    found
}

fn walk(table: &DeTable<'_>, here: &Value, root: &Value, path: &str, found: &mut Vec<Stray>) {
    let known = properties(here, root);
    if known.is_empty() {
        return;
    }
    for (key, value) in table.iter() {
        let name = key.get_ref().as_ref();
        let Some((_, inner)) = known.iter().find(|(k, _)| *k == name) else {
            found.push(stray(name, key.span().start, path, &known));
            continue;
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        descend(value, inner, root, &path, found);
    }
}

fn descend(value: &Spanned<DeValue<'_>>, schema: &Value, root: &Value, path: &str, found: &mut Vec<Stray>) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, schema, root, path, found),
        DeValue::Array(items) => {
            let items_schema = resolve(schema, root).get("items").unwrap_or(&Value::Null);
            for item in items.iter() {
                descend(item, items_schema, root, path, found);
            }
        }
        _ => {}
    }
}

fn stray(name: &str, offset: usize, path: &str, known: &[(&str, &Value)]) -> Stray {
    let later = NOT_ENFORCED.iter().any(|(section, keys)| *section == path && keys.contains(&name));
    let (what, way_out) = if later {
        ("", "is not enforced by this version; remove it".to_owned())
    } else {
        let names = || known.iter().map(|(k, _)| *k);
        let way_out = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here are {}", names().collect::<Vec<_>>().join(", ")),
        };
        ("unknown key ", way_out)
    };
    Stray { offset, key: name.to_owned(), what, way_out }
}

/// Follows `$ref`.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// Names and schemas of the keys a table may have, over all its alternatives.
fn properties<'a>(schema: &'a Value, root: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let schema = resolve(schema, root);
    let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v));
    let others = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|k| schema.get(k)?.as_array()).flatten();
    own.chain(others.flat_map(|s| properties(s, root))).collect()
}
