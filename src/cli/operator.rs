//! `operator`: who may sign in, and the tokens of automation.

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
    /// Add one, without a password
    Create {
        id: String,
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove one with sessions and tokens
    Delete { id: String },
    /// Make a token (wbo_…) for automation; it is shown this once
    Token {
        id: String,
        /// What it is for
        #[arg(long)]
        note: String,
        /// 1 to 365
        #[arg(long, default_value_t = 90)]
        days: i64,
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let verb = self.verb;
        client::with(&self.reach, async move |client| match verb {
            Verb::List { json } => noun::run(client, &noun::OPERATORS, noun::Verb::List { json }).await,
            Verb::Show { id, json } => noun::run(client, &noun::OPERATORS, noun::Verb::Show { id, json }).await,
            Verb::Delete { id } => noun::run(client, &noun::OPERATORS, noun::Verb::Delete { id }).await,
            Verb::Create { id, name } => {
                let body = json!({ "id": id, "name": name });
                table::print_one(&client.json(Method::POST, "/operators", Some(body)).await?)
            }
            Verb::Token { id, note, days, json } => {
                let body: Value = json!({ "note": note, "days": days });
                let path = format!("/operators/{}/tokens", escaped(&id));
                let made = client.json(Method::POST, &path, Some(body)).await?;
                if json { print_json(&made) } else { table::print_one(&made) }
            }
        })
    }
}
