//! `alert`: what was told, to whom, and whether somebody saw it. `notify` has the channels.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{self, Client, Reach, escaped};
use super::{Failure, Outcome, noun, print_json, table};

/// What a table shows of an alert.
const COLUMNS: [&str; 5] = ["id", "raised_at", "state", "kind", "title"];

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Alerts, newest first
    List {
        /// Of one budget
        #[arg(long)]
        budget: Option<String>,
        /// actual, denied, overrun, forecast, no_data or key_expiry
        #[arg(long)]
        kind: Option<String>,
        /// firing, acknowledged or resolved
        #[arg(long)]
        state: Option<String>,
        /// Only those that did not get through somewhere, or had nowhere to go
        #[arg(long)]
        undelivered: bool,
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[arg(long)]
        json: bool,
    },
    /// One alert with what became of it everywhere
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Somebody has seen it
    Ack {
        id: String,
        /// What is done about it
        #[arg(long)]
        reason: String,
    },
    /// It is over
    Resolve {
        id: String,
        /// What was done about it
        #[arg(long)]
        reason: String,
    },
    /// Try a delivery again that was given up
    Retry {
        id: String,
        #[arg(long)]
        channel: String,
        /// Where it went by mail to an owner
        #[arg(long)]
        owner: Option<String>,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let verb = self.verb;
        client::with(&self.reach, async move |client| run(client, verb).await)
    }
}

async fn run(client: &Client, verb: Verb) -> Outcome {
    let one = |id: &str, rest: &str| format!("/alerts/{}{rest}", escaped(id));
    match verb {
        Verb::List { budget, kind, state, undelivered, limit, json } => {
            let mut path = format!("/alerts?limit={limit}");
            for (name, value) in [("budget", budget), ("kind", kind), ("state", state)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", escaped(&value)));
                }
            }
            if undelivered {
                path.push_str("&undelivered=true");
            }
            let all = client.json(Method::GET, &path, None).await?;
            if json {
                return print_json(&all);
            }
            table::print(all["alerts"].as_array().map(Vec::as_slice).unwrap_or_default(), &COLUMNS)
        }
        Verb::Show { id, json } => {
            let found = client.json(Method::GET, &one(&id, ""), None).await?;
            if json { print_json(&found) } else { table::print_one(&found) }
        }
        Verb::Ack { id, reason } => told(client, &one(&id, "/acknowledge"), json!({ "reason": reason })).await,
        Verb::Resolve { id, reason } => told(client, &one(&id, "/resolve"), json!({ "reason": reason })).await,
        Verb::Retry { id, channel, owner } => {
            told(client, &one(&id, "/retry"), json!({ "channel": channel, "owner": owner })).await
        }
    }
}

async fn told(client: &Client, path: &str, body: Value) -> Outcome {
    let found = client.json(Method::POST, path, Some(body)).await?;
    table::print(std::slice::from_ref(&found), &COLUMNS)
}

/// `notify`: the channels, and a test of one.
#[derive(Debug, Args)]
pub struct Notify {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
pub enum NotifyVerb {
    #[command(flatten)]
    Declared(noun::Verb),
    /// Send a test message, now; exit code 1 where it does not arrive
    Test { id: String },
}

impl Notify {
    pub fn run(self) -> Outcome {
        let verb = self.verb;
        client::with(&self.reach, async move |client| match verb {
            NotifyVerb::Declared(verb) => noun::run(client, &noun::NOTIFY, verb).await,
            NotifyVerb::Test { id } => test(client, &id).await,
        })
    }
}

async fn test(client: &Client, id: &str) -> Outcome {
    let answer = client.json(Method::POST, &format!("/notify/{}/test", escaped(id)), None).await?;
    if answer["delivered"] == true {
        println_out(&format!("{id}: delivered"))
    } else {
        Err(Failure::no(format!("{id}: not delivered: {}", answer["detail"].as_str().unwrap_or("no reason given"))))
    }
}

fn println_out(line: &str) -> Outcome {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
