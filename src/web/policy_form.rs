//! `/policies/new` and `/policies/{id}/edit`: one form for every rule; what is left empty is no rule.
//!
//! The form sends what the API would be sent, so that a rule is checked in one place. What is made here begins by observing.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Form, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::{Map, Value, json};

use crate::config::Noun;
use crate::control::{self, ControlError, Kind};
use crate::domain::{Dimension, Policy};

use super::error::PageError;
use super::layers::Ctx;
use super::policies::{by, missing};
use super::shell::Shell;

/// How a rule is typed in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Words separated by commas.
    List,
    Number,
    Flag,
    /// One of these; the first is "not set".
    One(&'static [&'static str]),
}

/// Every rule of a policy with its words; groups as the form shows them.
const GROUPS: &[(&str, &[(&str, Input, &str)])] = &[
    (
        "Models",
        &[
            (
                "allow_models",
                Input::List,
                "only these: globs, or class:free, class:low, class:mid, class:high, class:top",
            ),
            ("deny_models", Input::List, "not these"),
            ("unpriced_policy", Input::One(&["", "deny", "family_max", "allow"]), "models without a price"),
            ("allow_unpriced", Input::Flag, "models without a price pass under a hard budget"),
        ],
    ),
    (
        "What and where",
        &[
            ("allow_endpoints", Input::List, "chat.completions, responses, messages, embeddings, …"),
            ("deny_endpoints", Input::List, ""),
            ("allow_tools", Input::List, "names; tools the provider runs by type, such as web_search*"),
            ("deny_tools", Input::List, ""),
            ("allow_providers", Input::List, ""),
            ("deny_providers", Input::List, ""),
            ("allow_regions", Input::List, "as requests ask for them or providers declare them"),
            ("allow_unmetered", Input::Flag, "paths that are not metered pass under a hard budget"),
        ],
    ),
    (
        "Who and when",
        &[
            ("require_owner", Input::Flag, "no call without an owner who can be reached"),
            ("require_fields", Input::List, "cost_centre, tenant, workflow, …"),
            ("require_headers", Input::List, ""),
            ("allow_networks", Input::List, "10.0.0.0/8"),
            ("deny_networks", Input::List, ""),
            ("hours", Input::List, "mon-fri 08:00-18:00, in the organisation's time zone; several with ;"),
        ],
    ),
    (
        "How much",
        &[
            ("max_output_tokens", Input::Number, "written into requests"),
            ("max_input_tokens", Input::Number, "as estimated"),
            ("allow_unbounded", Input::Flag, "input that cannot be seen passes"),
            ("max_calls_per_minute", Input::Number, ""),
            ("max_tokens_per_minute", Input::Number, "input and output"),
            ("max_concurrent", Input::Number, "calls under way"),
            ("per", Input::One(&["key", "service", "policy"]), "what the rates count together"),
            ("queue_ms", Input::Number, "milliseconds a call waits for its turn, at most 30000"),
        ],
    ),
];

#[derive(Template)]
#[template(path = "policies/edit.html", blocks = ["view"])]
struct EditPage {
    shell: Shell,
    /// Absent: a new one.
    id: Option<String>,
    typed_id: String,
    modes: Vec<(&'static str, bool)>,
    matches: String,
    dimensions: String,
    groups: Vec<Group>,
    downgrade_below: String,
    downgrade_to: String,
    error: Option<String>,
}

struct Group {
    label: &'static str,
    fields: Vec<Field>,
}

struct Field {
    name: &'static str,
    hint: &'static str,
    value: String,
    number: bool,
    flag: bool,
    checked: bool,
    /// Value and whether it is chosen.
    options: Vec<(&'static str, bool)>,
}

type Typed = BTreeMap<String, String>;

/// `GET /policies/new`.
pub async fn new(ctx: Ctx) -> Result<Response, PageError> {
    let page = EditPage::new(&ctx, None, &Typed::from([("mode".to_owned(), "observe".to_owned())]), None);
    ctx.html(&page, page.as_view())
}

/// `GET /policies/{id}/edit`.
pub async fn edit(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let catalogue = ctx.web.ledger.catalogue();
    let policy = catalogue.policies.get(&id).ok_or_else(|| missing(&id))?;
    let page = EditPage::new(&ctx, Some(id), &typed(policy), None);
    ctx.html(&page, page.as_view())
}

/// `POST /policies/new`.
pub async fn create(ctx: Ctx, Form(form): Form<Typed>) -> Result<Response, PageError> {
    save(ctx, None, form).await
}

/// `POST /policies/{id}/edit`.
pub async fn change(ctx: Ctx, Path(id): Path<String>, Form(form): Form<Typed>) -> Result<Response, PageError> {
    save(ctx, Some(id), form).await
}

async fn save(ctx: Ctx, id: Option<String>, form: Typed) -> Result<Response, PageError> {
    let by = by(&ctx, form.get("csrf").map_or("", String::as_str))?;
    let ledger = &ctx.web.ledger;
    let done = match (body(&form), &id) {
        (Err(error), _) => Err(error),
        (Ok(body), None) => control::create(ledger, &by, Kind::Policy, without_nulls(body)).await,
        (Ok(body), Some(id)) => control::patch(ledger, &by, Kind::Policy, id, body).await,
    };
    match done {
        Ok(done) => Ok(Redirect::to(&format!("/policies/{}", done.id)).into_response()),
        Err(ControlError::Store(error)) => Err(error.into()),
        Err(error) => {
            let page = EditPage::new(&ctx, id, &form, Some(error.to_string()));
            Ok((StatusCode::UNPROCESSABLE_ENTITY, ctx.html(&page, page.as_view())?).into_response())
        }
    }
}

fn items(text: &str, separator: char) -> Vec<&str> {
    text.split([separator, '\n']).map(str::trim).filter(|t| !t.is_empty()).collect()
}

/// The form as the API's body; what is empty is null, so that a patch takes it away.
fn body(form: &Typed) -> Result<Value, ControlError> {
    let text = |name: &str| form.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
    let wrong = |field: &str, what: String| ControlError::Invalid(vec![(field.to_owned(), what)]);
    let mut body = Map::new();
    if let Some(id) = text("id") {
        body.insert("id".into(), id.into());
    }
    body.insert("mode".into(), text("mode").unwrap_or("observe").into());
    for (name, input, _) in GROUPS.iter().flat_map(|(_, fields)| fields.iter()) {
        let value = match (input, text(name)) {
            (Input::Flag, value) => json!(value.is_some()),
            (_, None) => Value::Null,
            (Input::List, Some(value)) => json!(items(value, if *name == "hours" { ';' } else { ',' })),
            (Input::Number, Some(value)) => {
                let number: u64 = value.parse().map_err(|_| wrong(name, format!("`{value}` is not a count")))?;
                number.into()
            }
            (Input::One(_), Some(value)) => value.into(),
        };
        body.insert((*name).to_owned(), value);
    }
    let mut matches: Map<String, Value> = Dimension::ALL.iter().map(|d| (d.name().to_owned(), Value::Null)).collect();
    for line in items(text("match").unwrap_or_default(), '\n') {
        let (name, value) =
            line.split_once('=').ok_or_else(|| wrong("match", format!("`{line}` is not `dimension = value`")))?;
        matches.insert(name.trim().to_owned(), value.trim().trim_matches('"').into());
    }
    body.insert("match".into(), Value::Object(matches));
    let downgrade = match (text("downgrade_below"), text("downgrade_to")) {
        (None, None) => Value::Null,
        (Some(below), Some(to)) => {
            let below: u8 = below.parse().map_err(|_| wrong("downgrade", format!("`{below}` is not a percentage")))?;
            json!({ "below_percent": below, "to": to })
        }
        _ => return Err(wrong("downgrade", "give both the percentage and the model".to_owned())),
    };
    body.insert("downgrade".into(), downgrade);
    Ok(Value::Object(body))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        other => other,
    }
}

/// A policy as the form would have it typed.
fn typed(policy: &Policy) -> Typed {
    let written = serde_json::to_value(policy.written()).unwrap_or_default();
    let mut typed = Typed::new();
    for (name, value) in written.as_object().into_iter().flatten() {
        let separator = if name == "hours" { "; " } else { ", " };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(true) => "on".to_owned(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        typed.insert(name.clone(), text);
    }
    let lines: Vec<String> = policy.matches.iter().map(|(d, v)| format!("{d} = {v}")).collect();
    typed.insert("match".to_owned(), lines.join("\n"));
    if let Some(downgrade) = &policy.downgrade {
        typed.insert("downgrade_below".to_owned(), downgrade.below_percent.to_string());
        typed.insert("downgrade_to".to_owned(), downgrade.to.clone());
    }
    typed
}

impl EditPage {
    fn new(ctx: &Ctx, id: Option<String>, typed: &Typed, error: Option<String>) -> EditPage {
        let text = |name: &str| typed.get(name).cloned().unwrap_or_default();
        let mode = text("mode");
        let field = |(name, input, hint): &(&'static str, Input, &'static str)| Field {
            name,
            hint,
            value: text(name),
            number: *input == Input::Number,
            flag: *input == Input::Flag,
            checked: *input == Input::Flag && !text(name).is_empty(),
            options: match input {
                Input::One(options) => options.iter().map(|o| (*o, *o == text(name))).collect(),
                _ => Vec::new(),
            },
        };
        let group = |(label, fields): &(&'static str, &[(&'static str, Input, &'static str)])| Group {
            label,
            fields: fields.iter().map(field).collect(),
        };
        EditPage {
            shell: Shell::new(ctx, id.as_ref().map_or_else(|| "New policy".to_owned(), |id| format!("Change {id}"))),
            typed_id: text("id"),
            modes: ["observe", "warn", "enforce"].map(|m| (m, m == mode)).to_vec(),
            matches: text("match"),
            dimensions: Dimension::ALL
                .iter()
                .filter(|d| **d != Dimension::Outcome)
                .map(|d| d.name())
                .collect::<Vec<_>>()
                .join(", "),
            groups: GROUPS.iter().map(group).collect(),
            downgrade_below: text("downgrade_below"),
            downgrade_to: text("downgrade_to"),
            error,
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_has_every_rule_and_gives_back_what_it_was_given() {
        let body = json!({
            "id": "p", "mode": "warn", "match": { "environment": "test" }, "allow_models": ["gpt-*", "class:low"],
            "deny_tools": ["x"], "hours": ["mon-fri 08:00-18:00", "sat 09:00-12:00"], "max_output_tokens": 5,
            "require_owner": true, "per": "service", "max_concurrent": 2, "queue_ms": 10,
            "downgrade": { "below_percent": 10, "to": "m" }, "unpriced_policy": "allow",
        });
        let written: crate::config::file::Policy = serde_json::from_value(body).unwrap();
        let Ok(read) = Policy::read(written) else { panic!("a good policy") };
        let sent = without_nulls(super::body(&typed(&read.value)).unwrap());
        let again: crate::config::file::Policy = serde_json::from_value(sent).unwrap();
        let Ok(again) = Policy::read(again) else { panic!("still a good policy") };
        assert_eq!(again.value, read.value);

        let schema = serde_json::to_value(schemars::schema_for!(crate::config::file::Policy)).unwrap();
        let known: Vec<&str> = GROUPS.iter().flat_map(|(_, f)| f.iter().map(|(name, _, _)| *name)).collect();
        for name in schema["properties"].as_object().unwrap().keys() {
            let beside = ["id", "match", "mode", "downgrade"].contains(&name.as_str());
            assert!(beside || known.contains(&name.as_str()), "`{name}` is not in the form");
        }
    }
}
