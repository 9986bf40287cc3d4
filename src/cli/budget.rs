//! `budget`: limits for windows of time, and what is allocated beside them.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{self, Reach, escaped};
use super::{Outcome, noun, print_json, table};

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Kept(noun::Verb),
    /// Raise one until a day or an instant; it ends by itself, and `apply` does not touch it
    Raise {
        id: String,
        /// In what the budget counts: US dollars, tokens, calls or tool calls
        #[arg(long)]
        by: String,
        /// The last day (2026-11-30) or an instant
        #[arg(long)]
        until: String,
        #[arg(long)]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Give back what its current period has posted; nothing that was spent is deleted
    Reset {
        id: String,
        #[arg(long)]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Break-glass: open the band of `grace_pct` above its limit until a day or an instant
    Grant {
        id: String,
        #[arg(long)]
        until: String,
        #[arg(long)]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Raises, resets and grants of one
    Allocations {
        id: String,
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let Command { reach, verb } = self;
        let path = |id: &str, what: &str| format!("/budgets/{}/{what}", escaped(id));
        let (method, path, body, json) = match verb {
            Verb::Kept(verb) => return noun::Command { reach, verb }.run(&noun::BUDGETS),
            Verb::Raise { id, by, until, reason, json } => return raise(&reach, id, by, until, reason, json),
            Verb::Reset { id, reason, json } => {
                (Method::POST, path(&id, "reset"), Some(json!({ "reason": reason })), json)
            }
            Verb::Grant { id, until, reason, json } => {
                let body = json!({ "until": until, "reason": reason });
                (Method::POST, path(&id, "grants"), Some(body), json)
            }
            Verb::Allocations { id, json } => (Method::GET, path(&id, "allocations"), None, json),
        };
        client::with(&reach, async move |client| shown(&client.json(method, &path, body).await?, json))
    }
}

/// The amount goes under the name of what the budget counts.
fn raise(reach: &Reach, id: String, by: String, until: String, reason: String, json: bool) -> Outcome {
    client::with(reach, async move |client| {
        let one = format!("/budgets/{}", escaped(&id));
        let budget = client.json(Method::GET, &one, None).await?;
        let counted = ["tokens", "calls", "tool_calls"];
        let counted = counted.into_iter().find(|unit| budget.get(format!("limit_{unit}")).is_some());
        let mut body = json!({ "until": until, "reason": reason });
        match counted.map(|unit| (unit, by.parse::<u64>())) {
            Some((unit, Ok(n))) => body[format!("by_{unit}")] = n.into(),
            Some((unit, Err(_))) => body[format!("by_{unit}")] = by.into(),
            None => body["by_usd"] = by.into(),
        }
        shown(&client.json(Method::POST, &format!("{one}/raises"), Some(body)).await?, json)
    })
}

fn shown(answer: &Value, json: bool) -> Outcome {
    if json {
        return print_json(answer);
    }
    let rows = answer["allocations"].as_array().map(Vec::as_slice).unwrap_or_default();
    table::print(rows, &["kind", "amount", "period", "until", "in_force", "at", "actor", "reason"])
}
