//! `price`: this organisation's own prices, and what a usage costs by the book in force.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{self, Reach};
use super::{Failure, Outcome, noun, print_json, table};

const PRICES: noun::Noun = noun::Noun {
    path: "/prices",
    columns: &["provider", "model", "component", "usd_per_million", "usd", "per", "effective_from", "note"],
};

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
    /// What a usage costs, line by line
    Quote {
        /// A price list, or a configured provider
        #[arg(long)]
        provider: String,
        #[arg(long)]
        model: String,
        /// An instant; default: now
        #[arg(long)]
        at: Option<String>,
        /// What the price depends on, such as `service_tier=flex`
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
        /// Counts, such as `input_tokens=1200 output_tokens=80`
        #[arg(required = true, value_name = "COUNT=N")]
        usage: Vec<String>,
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let (provider, model, at, context, usage, json) = match self.verb {
            Verb::Kept(verb) => return noun::Command { reach: self.reach, verb }.run(&PRICES),
            Verb::Quote { provider, model, at, context, usage, json } => (provider, model, at, context, usage, json),
        };
        let context = pairs(&context, |text| Ok(Value::from(text)))?;
        let usage = pairs(&usage, |text| {
            let count = text.parse::<u64>().map_err(|_| Failure::usage(format!("`{text}` is not a count")))?;
            Ok(count.into())
        })?;
        let mut question = json!({ "provider": provider, "model": model, "context": context, "usage": usage });
        if let Some(at) = at {
            question["at"] = at.into();
        }
        client::with(&self.reach, async move |client| {
            let quote = client.json(Method::POST, "/prices/quote", Some(question.clone())).await?;
            if json {
                return print_json(&quote);
            }
            let mut lines = quote["lines"].as_array().cloned().unwrap_or_default();
            lines.push(json!({ "component": quote["model_id"], "cost_usd": quote["cost_usd"] }));
            table::print(&lines, &["component", "quantity", "unit_price_usd", "per", "tier_from_tokens", "cost_usd"])
        })
    }
}

fn pairs(texts: &[String], value: impl Fn(&str) -> Result<Value, Failure>) -> Result<Map<String, Value>, Failure> {
    let mut map = Map::new();
    for text in texts {
        let (name, rest) = text.split_once('=').ok_or_else(|| Failure::usage(format!("`{text}` is not NAME=VALUE")))?;
        map.insert(name.to_owned(), value(rest)?);
    }
    Ok(map)
}
