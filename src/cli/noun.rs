//! What `service`, `owner`, `key`, `budget`, `policy`, `provider`, `price`, `notify`, `issuer` and `operator` have in common: list,
//! show, create, update and delete, in the words of the configuration file.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value};

use super::client::{self, Client, Reach, escaped};
use super::{Failure, Outcome, print_json, table};

/// A noun of declared state: its path below `/api/v1`, and what a table shows of it.
pub struct Noun {
    pub path: &'static str,
    pub columns: &'static [&'static str],
}

pub const SERVICES: Noun = Noun {
    path: "/services",
    columns: &["id", "kind", "application", "owner", "business_unit", "cost_centre", "tenant", "purpose"],
};
pub const OWNERS: Noun = Noun { path: "/owners", columns: &["id", "kind", "name", "email"] };
pub const KEYS: Noun =
    Noun { path: "/keys", columns: &["id", "service", "environment", "status", "created_at", "expires_at", "note"] };
pub const BUDGETS: Noun = Noun {
    path: "/budgets",
    columns: &["id", "match", "period", "enforcement", "limit_usd", "spent_usd", "held_usd", "remaining_usd"],
};
pub const POLICIES: Noun = Noun { path: "/policies", columns: &["id", "mode", "match", "allow_models", "deny_models"] };
pub const PROVIDERS: Noun = Noun { path: "/providers", columns: &["id", "dialect", "base_url", "price_as", "models"] };
pub const OPERATORS: Noun =
    Noun { path: "/operators", columns: &["id", "name", "role", "created_at", "disabled", "password"] };
pub const ISSUERS: Noun =
    Noun { path: "/issuers", columns: &["id", "iss", "profile", "audience", "jwks_url", "jwks_file"] };
pub const NOTIFY: Noun =
    Noun { path: "/notify", columns: &["id", "kind", "host", "default", "internal", "waiting", "given_up", "last"] };

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// All of them
    List {
        #[arg(long)]
        json: bool,
    },
    /// One of them
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Declare one; what is made with it (a key's secret) is shown this once
    Create {
        /// Fields as in the configuration file, such as `owner=team-ap` or `match.service=bot`; values may be JSON
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// Change fields of one; the others stay
    Update {
        id: String,
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// Remove one; what was recorded of it stays (a key is revoked)
    Delete { id: String },
}

impl Command {
    pub fn run(self, noun: &Noun) -> Outcome {
        let verb = self.verb;
        client::with(&self.reach, async move |client| run(client, noun, verb).await)
    }
}

/// Does it with an open client.
pub async fn run(client: &Client, noun: &Noun, verb: Verb) -> Outcome {
    let path = noun.path;
    let one = |id: &str| format!("{path}/{}", escaped(id));
    match verb {
        Verb::List { json } => {
            let all = client.json(Method::GET, path, None).await?;
            if json {
                return print_json(&all);
            }
            let rows = all[path.trim_start_matches('/')].as_array().map(Vec::as_slice).unwrap_or_default();
            table::print(rows, noun.columns)
        }
        Verb::Show { id, json } => show(&client.json(Method::GET, &one(&id), None).await?, json),
        Verb::Create { fields, json } => show(&client.json(Method::POST, path, Some(object(&fields)?)).await?, json),
        Verb::Update { id, fields, json } => {
            show(&client.json(Method::PATCH, &one(&id), Some(object(&fields)?)).await?, json)
        }
        Verb::Delete { id } => client.json(Method::DELETE, &one(&id), None).await.map(drop),
    }
}

/// Prints one.
pub fn show(value: &Value, json: bool) -> Outcome {
    if json { print_json(value) } else { table::print_one(value) }
}

/// `a=b c.d=e f=[1]` as an object. A value that is JSON is taken as such, but amounts stay text: they are decimals.
fn object(fields: &[String]) -> Result<Value, Failure> {
    let mut object = Map::new();
    for field in fields {
        let Some((name, text)) = field.split_once('=') else {
            return Err(Failure::usage(format!("`{field}` is not FIELD=VALUE")));
        };
        let value = match serde_json::from_str::<Value>(text) {
            Ok(_) if is_amount(name) => Value::from(text),
            Ok(value) if !value.is_string() || text.starts_with('"') => value,
            _ => Value::from(text),
        };
        match name.split_once('.') {
            None => drop(object.insert(name.to_owned(), value)),
            Some((outer, inner)) => {
                let pairs = object.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                let Some(pairs) = pairs.as_object_mut() else {
                    return Err(Failure::usage(format!("`{outer}` is given both as a value and by its parts")));
                };
                pairs.insert(inner.to_owned(), value);
            }
        }
    }
    Ok(Value::Object(object))
}

/// Fields whose values are decimals in text, and names that may look like numbers.
fn is_amount(name: &str) -> bool {
    name.starts_with("match.")
        || matches!(
            name,
            "limit_usd" | "usd" | "usd_per_million" | "cost_centre" | "id" | "expires" | "anchor" | "note"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_the_object_the_file_would_have() {
        let fields = ["id=b", "limit_usd=500.00", "match.service=007", "alert_at_percent=[50,100]", "enforcement=hard"];
        let fields: Vec<String> = fields.map(str::to_owned).into();
        let wanted = serde_json::json!({
            "id": "b", "limit_usd": "500.00", "match": {"service": "007"}, "alert_at_percent": [50, 100],
            "enforcement": "hard"
        });
        assert_eq!(object(&fields).unwrap(), wanted);
        assert!(object(&["x".to_owned()]).is_err());
    }
}
