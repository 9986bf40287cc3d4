//! `calls`: the metered calls, one receipt, what runs now, and the way to end it.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::client::{self, Reach, escaped};
use super::filters::{Filters, query};
use super::{Outcome, print_json, table};

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Calls, newest first
    List {
        #[command(flatten)]
        filters: Box<Filters>,
        /// How many, for tables and JSON; files have all
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
        /// The same as --format json
        #[arg(long)]
        json: bool,
    },
    /// One call with its cost line by line and its proof
    Show {
        /// The call's id, as `wb-request-id` gave it
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// What runs now, with what it has come to so far
    Running {
        #[command(flatten)]
        filters: Box<Filters>,
        #[arg(long)]
        json: bool,
    },
    /// End a call that runs: its caller gets an error, what had passed is settled
    Stop {
        /// The call's id, as `wb-request-id` gave it
        id: String,
        /// Why; kept with the record of it
        #[arg(long)]
        reason: String,
        #[arg(long)]
        json: bool,
    },
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Table,
    Json,
    Csv,
    Ndjson,
}

const COLUMNS: [&str; 10] = [
    "started_at",
    "id",
    "service",
    "environment",
    "model_served",
    "usage.input_tokens",
    "usage.output_tokens",
    "cost_usd",
    "outcome",
    "refusal.code",
];

const RUNNING: [&str; 10] = [
    "started_at",
    "id",
    "service",
    "run",
    "provider",
    "model_requested",
    "stream",
    "output_tokens_so_far",
    "cost_so_far_usd",
    "hold_usd",
];

impl Command {
    pub fn run(self) -> Outcome {
        let verb = self.verb;
        client::with(&self.reach, async move |client| match verb {
            Verb::List { filters, limit, cursor, format, json } => {
                let mut pairs = filters.pairs();
                let format = if json { Form::Json } else { format };
                if let Form::Csv | Form::Ndjson = format {
                    let name = if format == Form::Csv { "csv" } else { "ndjson" };
                    pairs.push(("format", name.to_owned()));
                    return client.print(&format!("/calls{}", query(&pairs))).await;
                }
                pairs.push(("limit", limit.to_string()));
                pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
                let page = client.json(Method::GET, &format!("/calls{}", query(&pairs)), None).await?;
                if format == Form::Json {
                    return print_json(&page);
                }
                let calls = page["calls"].as_array().map(Vec::as_slice).unwrap_or_default();
                table::print(calls, &COLUMNS)?;
                if let Some(cursor) = page["next_cursor"].as_str() {
                    writeln!(std::io::stderr(), "more: --cursor {cursor}")?;
                }
                Ok(())
            }
            Verb::Show { id, json } => {
                let call = client.json(Method::GET, &format!("/calls/{}", escaped(&id)), None).await?;
                if json {
                    return print_json(&call);
                }
                print_receipt(&call)
            }
            Verb::Running { filters, json } => {
                let page =
                    client.json(Method::GET, &format!("/calls/running{}", query(&filters.pairs())), None).await?;
                if json {
                    return print_json(&page);
                }
                table::print(page["calls"].as_array().map(Vec::as_slice).unwrap_or_default(), &RUNNING)
            }
            Verb::Stop { id, reason, json } => {
                let path = format!("/calls/{}/stop", escaped(&id));
                let call = client.json(Method::POST, &path, Some(json!({ "reason": reason }))).await?;
                if json { print_json(&call) } else { table::print_one(&call) }
            }
        })
    }
}

fn print_receipt(call: &Value) -> Outcome {
    let mut head = call.clone();
    if let Some(fields) = head.as_object_mut() {
        fields.remove("postings");
        fields.remove("proof");
    }
    table::print_one(&head)?;
    let lines = call["postings"]["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !lines.is_empty() {
        writeln!(std::io::stdout())?;
        table::print(lines, &["component", "quantity", "unit_price_usd", "per", "tier_from_tokens", "cost_usd"])?;
    }
    writeln!(std::io::stdout())?;
    let entries = call["proof"]["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    table::print(entries, &["seq", "at", "kind", "leaf_hash"])?;
    let (size, root) = (&call["proof"]["tree_size"], call["proof"]["root"].as_str().unwrap_or("?"));
    writeln!(std::io::stdout(), "in the tree of {size} entries with root {root}")?;
    Ok(())
}
