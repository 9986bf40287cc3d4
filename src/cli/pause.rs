//! `pause` and `resume`: stopping a key, service, agent, model or provider at once, and letting it go again.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::client::{self, Reach, escaped};
use super::filters::query;
use super::{Outcome, print_json, table};

const COLUMNS: [&str; 6] = ["id", "until", "cut", "by", "since", "reason"];

#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What is paused now
    List {
        #[arg(long)]
        json: bool,
    },
    /// One key (wbk_ and its id)
    Key(Subject),
    /// What a service calls, and what is called on its behalf
    Service(Subject),
    /// What an agent calls
    Agent(Subject),
    /// Models, by name or glob
    Model(Subject),
    /// Everything that goes to a provider
    Provider(Subject),
}

#[derive(Debug, Args)]
struct Subject {
    id: String,
    /// How long: 90s, 30m, 2h, 7d; at most 30 days
    #[arg(long = "for", value_name = "TIME")]
    lasting: String,
    /// Why; for operators alone
    #[arg(long)]
    reason: String,
    /// End its running calls too
    #[arg(long)]
    cut: bool,
    #[arg(long)]
    json: bool,
}

/// End a pause before its time.
#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    reach: Reach,
    /// key, service, agent, model or provider
    kind: String,
    id: String,
    /// Why
    #[arg(long)]
    reason: String,
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub fn run(self) -> Outcome {
        let what = self.what;
        client::with(&self.reach, async move |client| {
            let (kind, subject) = match what {
                What::List { json } => {
                    let all = client.json(Method::GET, "/pauses", None).await?;
                    if json {
                        return print_json(&all);
                    }
                    return table::print(all["pauses"].as_array().map(Vec::as_slice).unwrap_or_default(), &COLUMNS);
                }
                What::Key(subject) => ("key", subject),
                What::Service(subject) => ("service", subject),
                What::Agent(subject) => ("agent", subject),
                What::Model(subject) => ("model", subject),
                What::Provider(subject) => ("provider", subject),
            };
            let Subject { id, lasting, reason, cut, json } = subject;
            let body = json!({ "kind": kind, "subject": id, "for": lasting, "reason": reason, "cut": cut });
            let made = client.json(Method::POST, "/pauses", Some(body)).await?;
            if json { print_json(&made) } else { table::print_one(&made) }
        })
    }
}

impl Resume {
    pub fn run(self) -> Outcome {
        let Resume { reach, kind, id, reason, json } = self;
        client::with(&reach, async move |client| {
            let path = format!("/pauses/{}{}", escaped(&format!("{kind}:{id}")), query(&[("reason", reason)]));
            let ended = client.json(Method::DELETE, &path, None).await?;
            if json { print_json(&ended) } else { table::print_one(&ended) }
        })
    }
}
