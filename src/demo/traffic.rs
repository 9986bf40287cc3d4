//! Live traffic: the sample organisation goes on working, by real HTTP calls through the gateway's front door.
//!
//! Gentle on purpose: a few calls a second at most, so that a page can be watched and a laptop stays cool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::domain::Environment;

use super::client::Client;
use super::random::Random;
use super::workload::{Api, Choice, WORKLOADS, Workload};

/// Median pause between two runs, in milliseconds.
const PAUSE_MS: f64 = 1_400.0;
/// Most runs under way; more are not begun.
const RUNS: usize = 24;

/// Keys by service and environment.
pub type Keys = BTreeMap<(String, Environment), String>;

/// Calls until the task is dropped or aborted.
pub async fn flow(gateway: String, keys: Keys, seed: u64) {
    let client = Client::default();
    let keys = Arc::new(keys);
    let places = Arc::new(Semaphore::new(RUNS));
    let mut random = Random::fork(seed, "traffic");
    loop {
        let pause = random.log_normal(PAUSE_MS, 0.7).min(15_000.0);
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let weights: Vec<f64> = WORKLOADS.iter().map(|w| w.calls_per_hour / w.steps as f64).collect();
        let workload = &WORKLOADS[random.weighted(&weights)];
        let caller = Caller { gateway: gateway.clone(), keys: keys.clone(), client: client.clone(), workload };
        let random = Random::new(random.draw());
        tokio::spawn(async move {
            caller.run(random).await;
            drop(place);
        });
    }
}

/// One run of one workload.
struct Caller {
    gateway: String,
    keys: Arc<Keys>,
    client: Client,
    workload: &'static Workload,
}

impl Caller {
    async fn run(&self, mut random: Random) {
        let workflow = (!self.workload.workflows.is_empty()).then(|| *random.pick(self.workload.workflows));
        let run = (self.workload.steps > 1).then(|| format!("{}-{}", workflow.unwrap_or("run"), random.token(8)));
        // Long runs would keep one service in front for minutes.
        let steps = random.between(1, self.workload.steps.min(6));
        for step in 0..steps {
            let weights: Vec<f64> = self.workload.choices.iter().map(|choice| choice.weight).collect();
            let mut choice = self.workload.choices[random.weighted(&weights)];
            if self.workload.environment == Environment::Test && random.chance(0.1) {
                // Somebody tries what the policy denies.
                choice = Choice { provider: "anthropic", api: Api::Messages, model: "claude-opus-5-5", weight: 1.0 };
            }
            // What goes wrong is the point of some of these calls; the journal has it.
            let _ = self.call(&mut random, choice, workflow, run.as_deref(), step).await;
            tokio::time::sleep(Duration::from_millis(random.between(100, 1_500))).await;
        }
    }

    async fn call(
        &self,
        random: &mut Random,
        choice: Choice,
        workflow: Option<&str>,
        run: Option<&str>,
        step: u64,
    ) -> anyhow::Result<()> {
        let key = self.keys.get(&(self.workload.service.to_owned(), self.workload.environment));
        let Some(key) = key else { return Ok(()) };
        let stream = choice.api != Api::Embeddings && random.chance(self.workload.stream);
        let (path, body) = self.body(random, choice, stream, step);
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        if choice.api == Api::Messages {
            headers.push(("anthropic-version", "2023-06-01"));
        }
        headers.extend(workflow.map(|workflow| ("wb-workflow", workflow)));
        headers.extend(run.map(|run| ("wb-run", run)));
        let url = format!("{}{path}", self.gateway);
        let mut answer = self.client.send(Method::POST, &url, &headers, Bytes::from(body.to_string())).await?;
        if stream && random.chance(0.03) {
            // Hangs up in the middle of the answer.
            for _ in 0..random.between(3, 30) {
                if answer.piece().await?.is_none() {
                    break;
                }
            }
            return Ok(());
        }
        answer.drain().await;
        Ok(())
    }

    fn body(&self, random: &mut Random, choice: Choice, stream: bool, step: u64) -> (&'static str, Value) {
        let rules = format!("You work for {}. ", self.workload.service).repeat((self.workload.input / 12.0) as usize);
        let question = format!("Case {}, step {step}: what is to be done?", random.between(10_000, 99_999));
        let model = choice.model;
        match choice.api {
            Api::Embeddings => ("/v1/embeddings", json!({"model": model, "input": [rules, question]})),
            Api::Chat => {
                let messages = json!([{"role": "system", "content": rules}, {"role": "user", "content": question}]);
                let mut body = json!({"model": model, "messages": messages, "max_tokens": 1_200, "stream": stream});
                self.offer(&mut body, |name| json!({"type": "function", "function": function(name, "parameters")}));
                ("/v1/chat/completions", body)
            }
            Api::Responses => {
                let mut body = json!({"model": model, "instructions": rules, "input": question, "max_output_tokens": 1_200, "stream": stream});
                self.offer(&mut body, |name| {
                    let mut tool = function(name, "parameters");
                    tool["type"] = json!("function");
                    tool
                });
                ("/v1/responses", body)
            }
            Api::Messages => {
                let system = json!([{"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}}]);
                let messages = json!([{"role": "user", "content": question}]);
                let mut body = json!({"model": model, "max_tokens": 1_200, "system": system, "messages": messages, "stream": stream});
                self.offer(&mut body, |name| function(name, "input_schema"));
                ("/v1/messages", body)
            }
        }
    }

    fn offer(&self, body: &mut Value, tool: impl Fn(&str) -> Value) {
        if !self.workload.tools.is_empty() {
            body["tools"] = self.workload.tools.iter().map(|name| tool(name)).collect();
        }
    }
}

fn function(name: &str, schema: &str) -> Value {
    let mut function = json!({"name": name, "description": format!("{} for the case", name.replace('_', " "))});
    function[schema] = json!({
        "type": "object",
        "properties": {"id": {"type": "string"}, "amount": {"type": "integer"}},
        "required": ["id"]
    });
    function
}
