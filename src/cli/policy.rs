//! `policy`: what may be called; what the rules would say to a call, and would have said to those of the past.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{self, Client, Reach};
use super::{Failure, Outcome, noun, print_json, table};

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
    /// Decision and rules for a call that nobody has made; exit code 1 if it would be refused
    Simulate(Simulate),
    /// Past calls before proposed policies and budgets: which would have been decided otherwise, and how much money it is
    Replay(Replay),
    /// All policies as sections of a configuration file
    Export,
}

#[derive(Debug, Args)]
struct Simulate {
    /// Who calls: the id of a declared service
    #[arg(long)]
    service: String,
    #[arg(long)]
    model: String,
    /// prod, pilot, test or exploratory
    #[arg(long)]
    environment: Option<String>,
    /// Id of a key: its own list of models counts too
    #[arg(long)]
    credential: Option<String>,
    /// Default: the first that serves the model
    #[arg(long)]
    provider: Option<String>,
    /// Default: chat.completions
    #[arg(long)]
    endpoint: Option<String>,
    /// Names of tools offered, separated by commas
    #[arg(long)]
    tools: Option<String>,
    /// Names of headers sent, separated by commas
    #[arg(long)]
    headers: Option<String>,
    #[arg(long)]
    workflow: Option<String>,
    #[arg(long)]
    agent: Option<String>,
    #[arg(long)]
    input_tokens: Option<u64>,
    /// The caller's own output cap
    #[arg(long)]
    max_tokens: Option<u64>,
    /// Source address
    #[arg(long)]
    peer: Option<String>,
    /// An instant; default: now
    #[arg(long)]
    at: Option<String>,
    /// Percent left of the tightest budget
    #[arg(long)]
    budget_left_percent: Option<u8>,
    /// `[[policy]]` sections to be tried out with it
    #[arg(long)]
    file: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Replay {
    /// `[[policy]]` and `[[budget]]` sections
    #[arg(long)]
    file: PathBuf,
    /// An instant or a date; default: 24 hours ago
    #[arg(long)]
    from: Option<String>,
    /// Exclusive; default: now
    #[arg(long)]
    to: Option<String>,
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Kept(verb) => noun::Command { reach: self.reach, verb }.run(&noun::POLICIES),
            Verb::Simulate(verb) => {
                let (question, json) = (verb.question()?, verb.json);
                client::with(&self.reach, async move |client| simulate(client, question.clone(), json).await)
            }
            Verb::Replay(verb) => {
                let toml = text(&verb.file)?;
                let mut question = json!({ "toml": toml });
                for (name, value) in [("from", verb.from), ("to", verb.to)] {
                    if let Some(value) = value {
                        question[name] = value.into();
                    }
                }
                client::with(&self.reach, async move |client| replay(client, question.clone(), verb.json).await)
            }
            Verb::Export => client::with(&self.reach, async |client| client.print("/policies/export").await),
        }
    }
}

fn text(file: &PathBuf) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|e| Failure::unreachable(format!("cannot read `{}`: {e}", file.display())))
}

impl Simulate {
    fn question(&self) -> Result<Value, Failure> {
        let mut question = Map::new();
        let texts = [
            ("environment", &self.environment),
            ("credential", &self.credential),
            ("provider", &self.provider),
            ("endpoint", &self.endpoint),
            ("tools", &self.tools),
            ("headers", &self.headers),
            ("workflow", &self.workflow),
            ("agent", &self.agent),
            ("peer", &self.peer),
            ("at", &self.at),
        ];
        question.insert("service".into(), self.service.as_str().into());
        question.insert("model".into(), self.model.as_str().into());
        for (name, value) in texts {
            if let Some(value) = value {
                question.insert(name.into(), value.as_str().into());
            }
        }
        let numbers = [
            ("input_tokens", self.input_tokens),
            ("max_tokens", self.max_tokens),
            ("budget_left_percent", self.budget_left_percent.map(u64::from)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                question.insert(name.into(), value.into());
            }
        }
        if let Some(file) = &self.file {
            question.insert("toml".into(), text(file)?.into());
        }
        Ok(Value::Object(question))
    }
}

async fn simulate(client: &Client, question: Value, json: bool) -> Outcome {
    let answer = client.json(Method::POST, "/policies/simulate", Some(question)).await?;
    if json {
        print_json(&answer)?;
    } else {
        let rules = answer["rules"].as_array().cloned().unwrap_or_default();
        table::print(&rules, &["by", "rule", "result", "note"])?;
        let mut facts = answer.clone();
        if let Some(facts) = facts.as_object_mut() {
            facts.remove("rules");
        }
        table::print_one(&facts)?;
    }
    match answer["allowed"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(Failure::no(answer["refusal"]["message"].as_str().unwrap_or("it would be refused"))),
    }
}

async fn replay(client: &Client, question: Value, json: bool) -> Outcome {
    let answer = client.json(Method::POST, "/policies/replay", Some(question)).await?;
    if json {
        return print_json(&answer);
    }
    let mut rows = Vec::new();
    let row = |what: &str, of: &Value| {
        json!({
            "what": what, "calls": of["calls"], "refused": of["refused"], "refused_usd": of["refused_usd"],
            "admitted": of["admitted"], "changed": of["changed"], "undecided": of["undecided"],
        })
    };
    if let Some(policies) = answer.get("policies").filter(|p| !p.is_null()) {
        rows.push(row("policies", policies));
        rows.extend(
            policies["by_service"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|s| row(&format!("  {}", s["service"].as_str().unwrap_or_default()), s)),
        );
    }
    for budget in answer["budgets"].as_array().into_iter().flatten() {
        rows.push(row(&format!("budget {}", budget["id"].as_str().unwrap_or_default()), budget));
        rows.extend(
            budget["by_service"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|s| row(&format!("  {}", s["service"].as_str().unwrap_or_default()), s)),
        );
    }
    table::print(&rows, &["what", "calls", "refused", "refused_usd", "admitted", "changed", "undecided"])
}
