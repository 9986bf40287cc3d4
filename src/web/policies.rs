//! `/policies`: the rules in their order, one with its effect, and what they would say to a call or would have said to
//! those of the past.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Form, Path};
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use crate::config::Noun;
use crate::control::{self, ControlError, Kind};
use crate::domain::policy::Mode;
use crate::domain::{Dimension, Environment, Filter, Match, Micros, Policy};
use crate::pricing::PriceBook;
use crate::report::{self, Question, Replay, WhatIf};

use super::data;
use super::error::PageError;
use super::filters;
use super::format;
use super::govern;
use super::layers::Ctx;
use super::query::link;
use super::receipt::RuleRow;
use super::shell::Shell;

/// Microseconds of the range whose effect is shown.
const DAY: i64 = 86_400_000_000;

#[derive(Template)]
#[template(path = "policies/list.html", blocks = ["view"])]
struct ListPage {
    shell: Shell,
    tabs: Vec<govern::Tab>,
    policies: Vec<PolicyRow>,
}

struct PolicyRow {
    place: usize,
    id: String,
    mode: &'static str,
    tone: &'static str,
    covers: String,
    rules: Vec<RuleLine>,
    refused: String,
    refused_href: String,
}

/// A rule of a policy and its value.
struct RuleLine {
    name: String,
    value: String,
}

/// `GET /policies`.
pub async fn list(ctx: Ctx) -> Result<Response, PageError> {
    let catalogue = ctx.web.ledger.catalogue();
    let refused = data::refused_by(&ctx.web.ledger, since(&ctx)).await?;
    let row = |(place, p): (usize, &std::sync::Arc<Policy>)| PolicyRow {
        place: place + 1,
        id: p.id.clone(),
        mode: p.mode.name(),
        tone: tone(p.mode),
        covers: covers(p),
        rules: rules(p),
        refused: format::count(refused.get(&format!("policy:{}", p.id)).copied().unwrap_or(0)),
        refused_href: link("/calls", &[("range", "today".into()), ("outcome", "refused".into())]),
    };
    let page = ListPage {
        shell: Shell::new(&ctx, "Policies"),
        tabs: govern::tabs("Policies"),
        policies: catalogue.policies_in_order().into_iter().enumerate().map(row).collect(),
    };
    ctx.html(&page, page.as_view())
}

fn since(ctx: &Ctx) -> Filter {
    Filter { from: Some(Micros(ctx.now.0 - DAY)), to: None, dimensions: Vec::new() }
}

fn tone(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "good",
        Mode::Warn | Mode::Observe => "warn",
    }
}

fn covers(policy: &Policy) -> String {
    if policy.matches.is_empty() {
        return "every call".to_owned();
    }
    let pair = |(d, v): (&Dimension, &String)| format!("{} {v}", filters::words(*d));
    policy.matches.iter().map(pair).collect::<Vec<_>>().join(", ")
}

/// The rules a policy has, in the words of the file.
fn rules(policy: &Policy) -> Vec<RuleLine> {
    let written = serde_json::to_value(policy.written()).unwrap_or_default();
    let fields = written.as_object().into_iter().flatten();
    let plain = |name: &str| !["id", "match", "mode", "per"].contains(&name);
    fields
        .filter(|(name, _)| plain(name))
        .map(|(name, value)| RuleLine {
            name: name.clone(),
            value: match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Array(items) if items.is_empty() => "none".to_owned(),
                serde_json::Value::Array(items) => {
                    items.iter().filter_map(|i| i.as_str()).collect::<Vec<_>>().join(", ")
                }
                serde_json::Value::Bool(_) => String::new(),
                serde_json::Value::Object(pairs) => {
                    let pair = |(k, v): (&String, &serde_json::Value)| {
                        format!("{k} {}", v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                    };
                    pairs.iter().map(pair).collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            },
        })
        .collect()
}

#[derive(Template)]
#[template(path = "policies/show.html", blocks = ["view"])]
struct ShowPage {
    shell: Shell,
    id: String,
    mode: &'static str,
    tone: &'static str,
    /// Modes it could have instead.
    others: Vec<&'static str>,
    covers: String,
    per: Option<&'static str>,
    rules: Vec<RuleLine>,
    effect: Effect,
    toml: String,
    deleting: bool,
}

/// What a replay found, in words and rows.
struct Effect {
    intro: String,
    services: Vec<EffectRow>,
    examples: Vec<ExampleRow>,
    not_replayed: String,
}

struct EffectRow {
    service: String,
    refused: String,
    refused_usd: String,
    admitted: String,
    changed: String,
}

struct ExampleRow {
    id: String,
    at: format::When,
    service: String,
    model: String,
    becomes: &'static str,
    why: String,
    cost: String,
}

impl Effect {
    fn of(replay: &Replay, ctx: &Ctx, range: &str) -> Effect {
        let zone = ctx.zone();
        let more = if replay.truncated { ", the newest of more" } else { "" };
        let mut intro = format!(
            "Of {} calls {range}{more}, it would refuse {} (USD {}), change {} and let pass {} that were refused.",
            format::count(replay.calls),
            format::count(replay.refused),
            format::money(replay.refused_usd),
            format::count(replay.changed),
            format::count(replay.admitted),
        );
        if replay.undecided > 0 {
            let undecided = format::count(replay.undecided);
            intro.push_str(&format!(" {undecided} could not be judged: their records lack what a rule asks for."));
        }
        Effect {
            intro,
            services: replay
                .by_service
                .iter()
                .map(|s| EffectRow {
                    service: s.service.clone(),
                    refused: format::count(s.refused),
                    refused_usd: format::money(s.refused_usd),
                    admitted: format::count(s.admitted),
                    changed: format::count(s.changed),
                })
                .collect(),
            examples: replay
                .examples
                .iter()
                .take(10)
                .map(|e| ExampleRow {
                    id: e.id.to_string(),
                    at: format::when(e.started_at, &zone),
                    service: e.service.clone(),
                    model: e.model.clone().unwrap_or_default(),
                    becomes: e.becomes,
                    why: e.why.clone(),
                    cost: e.cost_usd.map_or_else(|| format::UNKNOWN.to_owned(), format::money),
                })
                .collect(),
            not_replayed: replay.not_replayed.join(", "),
        }
    }
}

/// `GET /policies/{id}`; `?delete` asks whether it is to be removed.
pub async fn show(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let catalogue = ctx.web.ledger.catalogue();
    let policy = catalogue.policies.get(&id).ok_or_else(|| missing(&id))?;
    let prices = PriceBook::for_catalogue(&catalogue);
    let replay = data::replay(&ctx.web.ledger, prices, vec![Policy::clone(policy)], since(&ctx)).await?;
    let modes = [Mode::Observe, Mode::Warn, Mode::Enforce];
    let page = ShowPage {
        shell: Shell::new(&ctx, policy.id.clone()),
        id: policy.id.clone(),
        mode: policy.mode.name(),
        tone: tone(policy.mode),
        others: modes.into_iter().filter(|m| *m != policy.mode).map(Mode::name).collect(),
        covers: covers(policy),
        per: policy.has_rates().then(|| policy.per.name()),
        rules: rules(policy),
        effect: Effect::of(&replay, &ctx, "of the last 24 hours"),
        toml: control::policy_toml(policy),
        deleting: ctx.uri.query() == Some("delete"),
    };
    ctx.html(&page, page.as_view())
}

pub(super) fn missing(id: &str) -> PageError {
    let short: String = id.chars().take(64).collect();
    PageError::not_found(&format!("policy `{short}`")).with_way_out("/policies", "All policies")
}

/// `GET /policies/export`: all of them as TOML.
pub async fn export(ctx: Ctx) -> Response {
    let name = "attachment; filename=\"weighbridge_policies.toml\"";
    let text = control::policies_toml(&ctx.web.ledger.catalogue());
    ([(header::CONTENT_TYPE, "application/toml"), (header::CONTENT_DISPOSITION, name)], text).into_response()
}

#[derive(Deserialize)]
pub struct SwitchMode {
    csrf: String,
    mode: String,
}

/// `POST /policies/{id}/mode`.
pub async fn switch(ctx: Ctx, Path(id): Path<String>, Form(form): Form<SwitchMode>) -> Result<Response, PageError> {
    let by = by(&ctx, &form.csrf)?;
    let body = json!({ "mode": form.mode });
    control::patch(&ctx.web.ledger, &by, Kind::Policy, &id, body).await.map_err(refused)?;
    Ok(Redirect::to(&format!("/policies/{id}")).into_response())
}

#[derive(Deserialize)]
pub struct Remove {
    csrf: String,
}

/// `POST /policies/{id}/delete`.
pub async fn remove(ctx: Ctx, Path(id): Path<String>, Form(form): Form<Remove>) -> Result<Response, PageError> {
    let by = by(&ctx, &form.csrf)?;
    control::delete(&ctx.web.ledger, &by, Kind::Policy, &id).await.map_err(refused)?;
    Ok(Redirect::to("/policies").into_response())
}

/// Who sent a form, once it is sure that it came from this UI.
pub(super) fn by(ctx: &Ctx, csrf: &str) -> Result<control::By, PageError> {
    let session = ctx.check_csrf(csrf)?;
    Ok(control::By::new(format!("operator:{}", session.operator), ctx.now))
}

fn refused(error: ControlError) -> PageError {
    match error {
        ControlError::Store(error) => error.into(),
        other => PageError::bad_form(other.to_string()).with_way_out("/policies", "All policies"),
    }
}

#[derive(Template)]
#[template(path = "policies/simulate.html", blocks = ["view"])]
struct SimulatePage {
    shell: Shell,
    question: Question,
    environment: String,
    environments: Vec<(&'static str, bool)>,
    services: Vec<String>,
    models: Vec<String>,
    providers: Vec<String>,
    answer: Option<Decision>,
    error: Option<String>,
    toml: String,
    policies: Option<Effect>,
    budgets: Vec<BudgetEffect>,
    replay_error: Option<String>,
}

struct Decision {
    allowed: bool,
    words: String,
    facts: Vec<(&'static str, String)>,
    rules: Vec<RuleRow>,
}

struct BudgetEffect {
    id: String,
    intro: String,
    services: Vec<(String, String, String, String)>,
}

/// `GET /policies/simulate`: a decision for a call that nobody has made.
pub async fn simulate(ctx: Ctx) -> Result<Response, PageError> {
    let asked: BTreeMap<String, String> = axum::extract::Query::try_from_uri(&ctx.uri)
        .map(|q| q.0)
        .map_err(|_| PageError::bad_form("Unreadable query."))?;
    let question = question(&asked)?;
    let mut page = page(&ctx, question);
    if !page.question.service.is_empty() {
        let catalogue = ctx.web.ledger.catalogue();
        match report::simulate(&catalogue, &PriceBook::for_catalogue(&catalogue), &[], &page.question, ctx.now) {
            Ok(answer) => page.answer = Some(decision(answer)),
            Err(error) => page.error = Some(error.to_string()),
        }
    }
    ctx.html(&page, page.as_view())
}

fn question(asked: &BTreeMap<String, String>) -> Result<Question, PageError> {
    let text = |name: &str| asked.get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
    let number = |name: &str| match text(name) {
        None => Ok(None),
        Some(value) => {
            value.parse().map(Some).map_err(|_| PageError::bad_form(format!("`{name}`: `{value}` is not a count.")))
        }
    };
    let at = match text("at") {
        None => None,
        Some(value) => {
            Some(value.parse().map_err(|_| PageError::bad_form(format!("`at`: `{value}` is not an instant.")))?)
        }
    };
    Ok(Question {
        service: text("service").unwrap_or_default(),
        environment: text("environment"),
        credential: text("credential"),
        model: text("model").unwrap_or_default(),
        provider: text("provider"),
        endpoint: text("endpoint"),
        tools: text("tools"),
        headers: text("headers"),
        workflow: text("workflow"),
        agent: text("agent"),
        input_tokens: number("input_tokens")?,
        max_tokens: number("max_tokens")?,
        peer: text("peer"),
        at,
        budget_left_percent: number("budget_left_percent")?.map(|n| n.min(100) as u8),
    })
}

fn page(ctx: &Ctx, question: Question) -> SimulatePage {
    let catalogue = ctx.web.ledger.catalogue();
    let environment = question.environment.clone().unwrap_or_else(|| "prod".to_owned());
    let plain = |m: &&String| !m.contains('*');
    SimulatePage {
        shell: Shell::new(ctx, "Try policies out"),
        environments: Environment::ALL.map(|e| (e.name(), e.name() == environment)).to_vec(),
        environment,
        services: catalogue.services.keys().cloned().collect(),
        models: catalogue.providers.values().flat_map(|p| p.models.iter().filter(plain).cloned()).collect(),
        providers: catalogue.providers.keys().cloned().collect(),
        question,
        answer: None,
        error: None,
        toml: String::new(),
        policies: None,
        budgets: Vec::new(),
        replay_error: None,
    }
}

fn decision(answer: report::Answer) -> Decision {
    let mut facts = vec![("provider", answer.provider), ("price class", answer.price_class.to_owned())];
    if let Some(refusal) = &answer.refusal {
        facts.push(("code", refusal.code.to_owned()));
        facts.push(("by", refusal.by.clone()));
    }
    facts.extend(answer.output_limit.map(|n| ("output cap written in", format!("{} tokens", format::count(n)))));
    facts.extend(answer.model_sent.map(|model| ("model asked for instead", model)));
    if !answer.warnings.is_empty() {
        facts.push(("warnings", answer.warnings.join(", ")));
    }
    if !answer.rates.is_empty() {
        facts.push(("counted by the rates of", answer.rates.join(", ")));
    }
    Decision {
        allowed: answer.allowed,
        words: answer
            .refusal
            .map_or_else(|| "It would pass.".to_owned(), |r| format!("It would be refused: {}.", r.message)),
        facts,
        rules: answer.rules.iter().map(RuleRow::of).collect(),
    }
}

#[derive(Deserialize)]
pub struct ReplayForm {
    csrf: String,
    toml: String,
}

/// `POST /policies/simulate`: the calls of the last 24 hours before proposed policies and budgets. Changes nothing.
pub async fn replay(ctx: Ctx, Form(form): Form<ReplayForm>) -> Result<Response, PageError> {
    ctx.check_csrf(&form.csrf)?;
    let catalogue = ctx.web.ledger.catalogue();
    let mut page = page(&ctx, Question::default());
    page.toml = form.toml;
    match control::propose_toml(&catalogue, &page.toml) {
        Err(error) => page.replay_error = Some(error.to_string()),
        Ok(proposal) if proposal.policies.is_empty() && proposal.budgets.is_empty() => {
            page.replay_error = Some("There is no [[policy]] and no [[budget]] in it.".to_owned());
        }
        Ok(proposal) => {
            if !proposal.policies.is_empty() {
                let prices = PriceBook::for_catalogue(&catalogue);
                let found = data::replay(&ctx.web.ledger, prices, proposal.policies, since(&ctx)).await?;
                page.policies = Some(Effect::of(&found, &ctx, "of the last 24 hours"));
            }
            for budget in proposal.budgets {
                let id = budget.id.clone();
                let found = data::what_if(&ctx.web.ledger, budget, since(&ctx)).await?;
                page.budgets.push(budget_effect(id, &found));
            }
        }
    }
    ctx.html(&page, page.as_view())
}

fn budget_effect(id: String, found: &WhatIf) -> BudgetEffect {
    BudgetEffect {
        intro: format!(
            "Of {} calls it covers (USD {}), it would have refused {}, which cost USD {}.",
            format::count(found.calls),
            format::money(found.cost_usd),
            format::count(found.refused),
            format::money(found.refused_usd),
        ),
        services: found
            .by_service
            .iter()
            .map(|s| {
                let money = format::money(s.refused_usd);
                (s.service.clone(), format::count(s.calls), format::count(s.refused), money)
            })
            .collect(),
        id,
    }
}

/// How many calls of a range each rule refused.
pub(super) fn refused_filter(filter: Filter) -> Filter {
    Filter { dimensions: vec![(Dimension::Outcome, Match::Is("refused".into()))], ..filter }
}
