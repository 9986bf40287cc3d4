//! What the sample organisation's software does: how often, when, with which models and how much text.
//!
//! History and live traffic are made from this one table, so that the past looks like the present.

use crate::domain::Environment;

/// When in the week a workload is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// Monday to Friday, eight to six, a dip at noon.
    Office,
    /// Every day, into the evening, weekends at half.
    Customers,
    /// Once a night, between one and four.
    Nightly,
    /// In the last two and first three days of a month, nights included.
    MonthEnd,
    /// A few evenings a week, at a person's whim.
    Whim,
}

impl Rhythm {
    /// How busy an hour is, from 0 to 1. `weekday` is 1 (Monday) to 7, days count from the month's start and end.
    pub fn busy(self, weekday: i8, hour: i8, day: i8, days_left: i8) -> f64 {
        let weekend = weekday >= 6;
        match self {
            Rhythm::Office if weekend => 0.02,
            Rhythm::Office => match hour {
                8 | 17 => 0.5,
                9..=11 | 14..=16 => 1.0,
                12 | 13 => 0.6,
                7 | 18 | 19 => 0.2,
                _ => 0.03,
            },
            Rhythm::Customers => {
                let daily = match hour {
                    9..=20 => 1.0,
                    7 | 8 | 21 => 0.5,
                    22 | 23 => 0.2,
                    _ => 0.06,
                };
                if weekend { daily * 0.5 } else { daily }
            }
            Rhythm::Nightly => match hour {
                1..=3 => 1.0,
                _ => 0.0,
            },
            Rhythm::MonthEnd if days_left < 2 || day <= 3 => match hour {
                6..=22 => 1.0,
                _ => 0.5,
            },
            Rhythm::MonthEnd => 0.02,
            Rhythm::Whim => match (weekday, hour) {
                (2 | 4 | 7, 19..=22) => 1.0,
                (_, 10..=16) => 0.15,
                _ => 0.0,
            },
        }
    }
}

/// Which API a workload speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Responses,
    Embeddings,
    Messages,
}

impl Api {
    /// The endpoint's name in the record.
    pub const fn endpoint(self) -> &'static str {
        match self {
            Api::Chat => "chat.completions",
            Api::Responses => "responses",
            Api::Embeddings => "embeddings",
            Api::Messages => "messages",
        }
    }
}

/// A model a workload uses, by which API and provider, and how often against its others.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub provider: &'static str,
    pub api: Api,
    pub model: &'static str,
    pub weight: f64,
}

const fn openai(api: Api, model: &'static str, weight: f64) -> Choice {
    Choice { provider: "openai", api, model, weight }
}
const fn anthropic(model: &'static str, weight: f64) -> Choice {
    Choice { provider: "anthropic", api: Api::Messages, model, weight }
}
const fn onprem(model: &'static str, weight: f64) -> Choice {
    Choice { provider: "onprem", api: Api::Chat, model, weight }
}

/// One service in one environment.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub service: &'static str,
    pub environment: Environment,
    pub rhythm: Rhythm,
    /// Calls in a fully busy hour, at the end of the history.
    pub calls_per_hour: f64,
    /// Growth over 30 days: 0.2 = a fifth more at the end than at the start.
    pub growth: f64,
    pub choices: &'static [Choice],
    /// Median tokens in and out.
    pub input: f64,
    pub output: f64,
    /// Share of the input that the vendor had cached.
    pub cached: f64,
    pub stream: f64,
    pub tools: &'static [&'static str],
    pub workflows: &'static [&'static str],
    /// Steps of one run: agents call many times under one run id.
    pub steps: u64,
}

const fn workload(
    service: &'static str,
    environment: Environment,
    rhythm: Rhythm,
    calls_per_hour: f64,
    choices: &'static [Choice],
    (input, output): (f64, f64),
) -> Workload {
    Workload {
        service,
        environment,
        rhythm,
        calls_per_hour,
        growth: 0.15,
        choices,
        input,
        output,
        cached: 0.0,
        stream: 0.2,
        tools: &[],
        workflows: &[],
        steps: 1,
    }
}

use Api::{Chat, Embeddings, Responses};
use Environment::{Exploratory, Pilot, Prod, Test};
use Rhythm::{Customers, MonthEnd, Nightly, Office, Whim};

/// Everything that runs.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        cached: 0.55,
        tools: &["lookup_supplier", "lookup_order"],
        workflows: &["invoice-intake", "dunning"],
        steps: 3,
        growth: 0.35,
        ..workload(
            "invoice-bot",
            Prod,
            Office,
            22.0,
            &[anthropic("claude-sonnet-5-5", 3.0), openai(Chat, "gpt-5.2", 1.0)],
            (6_500.0, 420.0),
        )
    },
    workload("invoice-bot", Test, Office, 3.0, &[anthropic("claude-haiku-5-5", 1.0)], (2_500.0, 220.0)),
    Workload {
        tools: &["read_policy", "flag_expense"],
        workflows: &["expense-check"],
        steps: 4,
        ..workload("expense-auditor", Prod, Office, 8.0, &[openai(Responses, "gpt-5.4-mini", 1.0)], (3_200.0, 380.0))
    },
    Workload {
        workflows: &["variance-notes"],
        steps: 12,
        ..workload("month-end-close", Prod, MonthEnd, 14.0, &[openai(Responses, "gpt-5.2", 1.0)], (14_000.0, 1_500.0))
    },
    Workload {
        cached: 0.7,
        stream: 0.95,
        tools: &["search_tickets"],
        workflows: &["draft-answer", "translate-ticket"],
        growth: 0.5,
        ..workload(
            "support-copilot",
            Prod,
            Customers,
            26.0,
            &[anthropic("claude-haiku-5-5", 3.0), anthropic("claude-sonnet-5-5", 2.0)],
            (4_200.0, 310.0),
        )
    },
    Workload {
        stream: 0.9,
        ..workload("support-copilot", Pilot, Customers, 2.0, &[openai(Chat, "gpt-6-sol", 1.0)], (4_000.0, 300.0))
    },
    Workload {
        cached: 0.6,
        tools: &["carrier_status", "issue_refund", "ask_customer"],
        workflows: &["settle-return"],
        steps: 7,
        ..workload("returns-agent", Prod, Customers, 9.0, &[anthropic("claude-sonnet-5-5", 1.0)], (8_000.0, 350.0))
    },
    Workload {
        workflows: &["after-call"],
        ..workload("call-summaries", Prod, Customers, 8.0, &[openai(Chat, "gpt-4o-mini", 1.0)], (3_600.0, 260.0))
    },
    Workload {
        cached: 0.8,
        stream: 0.7,
        tools: &["read_file", "run_tests", "comment"],
        workflows: &["review-pull-request"],
        steps: 9,
        growth: 0.3,
        ..workload(
            "code-review",
            Prod,
            Office,
            16.0,
            &[openai(Responses, "gpt-5.4", 2.0), anthropic("claude-opus-5-5", 1.0)],
            (24_000.0, 900.0),
        )
    },
    workload("code-review", Test, Office, 2.0, &[openai(Responses, "gpt-5.4-mini", 1.0)], (9_000.0, 400.0)),
    Workload {
        workflows: &["incident-timeline"],
        ..workload("incident-scribe", Prod, Customers, 1.2, &[openai(Chat, "gpt-6-sol", 1.0)], (5_000.0, 500.0))
    },
    Workload {
        stream: 0.5,
        workflows: &["answer", "index"],
        ..workload(
            "docs-search",
            Prod,
            Office,
            18.0,
            &[openai(Embeddings, "text-embedding-3-small", 2.0), openai(Chat, "gpt-6-luna", 1.0)],
            (2_200.0, 240.0),
        )
    },
    Workload {
        tools: &["map_distance", "slot_times", "move_order"],
        workflows: &["replan"],
        steps: 5,
        ..workload("route-planner", Prod, Customers, 7.0, &[openai(Responses, "gpt-5.2", 1.0)], (7_000.0, 700.0))
    },
    Workload {
        cached: 0.4,
        workflows: &["tariff-night"],
        steps: 40,
        ..workload("customs-classifier", Prod, Nightly, 60.0, &[anthropic("claude-haiku-4-5", 1.0)], (2_600.0, 120.0))
    },
    Workload {
        stream: 0.9,
        ..workload("warehouse-assistant", Prod, Customers, 8.0, &[onprem("llama-3.3-70b", 1.0)], (1_400.0, 180.0))
    },
    Workload {
        cached: 0.5,
        workflows: &["compare-terms"],
        steps: 3,
        ..workload("contract-reader", Prod, Office, 2.5, &[anthropic("claude-opus-5-5", 1.0)], (48_000.0, 1_600.0))
    },
    Workload {
        stream: 0.6,
        workflows: &["newsletter", "landing-page"],
        ..workload("campaign-writer", Pilot, Office, 3.0, &[openai(Chat, "gpt-4.1", 1.0)], (1_800.0, 900.0))
    },
    Workload {
        stream: 0.3,
        ..workload(
            "churn-notebook",
            Exploratory,
            Whim,
            12.0,
            &[openai(Chat, "gpt-5.2", 3.0), onprem("qwen3-coder", 2.0), openai(Responses, "gpt-5.2-pro", 0.3)],
            (5_000.0, 1_100.0),
        )
    },
];

#[cfg(test)]
mod tests {
    use super::super::sandbox::models;
    use super::*;

    #[test]
    fn every_model_is_one_the_sandbox_has() {
        for workload in WORKLOADS {
            for choice in workload.choices {
                assert!(models::find(choice.model).is_some(), "{} uses {}", workload.service, choice.model);
            }
        }
    }

    #[test]
    fn all_environments_and_many_services_are_there() {
        let services: std::collections::BTreeSet<_> = WORKLOADS.iter().map(|w| w.service).collect();
        assert!((12..=16).contains(&services.len()));
        for environment in Environment::ALL {
            assert!(WORKLOADS.iter().any(|w| w.environment == environment), "{environment}");
        }
    }
}
