//! `/budgets/{id}`: will it last, and what happens when it does not; and the forms that change a budget.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Form, Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::control::{self, By, ControlError, Kind, Raise};
use crate::domain::{Budget, CallId, Dimension, Enforcement, Filter, Match, Metric, Micros, Money, Outcome};
use crate::ledger::Standing;
use crate::report::{self, Outlook, SpendQuery, Step, WhatIf};
use crate::store::Ledger;

use super::budgets::{self, BudgetRow};
use super::burn::{self, Burn};
use super::error::PageError;
use super::format::{self, When};
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

/// Open holds that are listed, oldest first.
const MOST_HOLDS: usize = 50;
/// Refusals that are looked through for those of the budget.
const MOST_REFUSALS: usize = 2_000;
/// Consumers that are listed.
const MOST_CONSUMERS: usize = 10;
/// What a what-if looks back over, in days.
const WHAT_IF_DAYS: i64 = 30;

#[derive(Template)]
#[template(path = "budgets/show.html", blocks = ["view"])]
struct BudgetPage {
    shell: Shell,
    row: BudgetRow,
    gauge: String,
    parts: Vec<(&'static str, String)>,
    outlook: Vec<(&'static str, String)>,
    burn: Option<Burn>,
    thresholds: Vec<Threshold>,
    holds: Vec<Hold>,
    holds_words: String,
    consumers: Vec<(String, String, String, String)>,
    refusals: Vec<(String, When, String)>,
    refusals_words: String,
    allocations: Vec<Allocation>,
    children: Vec<(String, String)>,
    children_words: Option<String>,
    parent: Option<String>,
    unit: &'static str,
    grace: bool,
    zone: String,
    what_if: Option<WhatIfView>,
    cap: String,
    problem: Option<String>,
    done: Option<String>,
}

struct Threshold {
    percent: u16,
    amount: String,
    reached: bool,
}

struct Hold {
    href: String,
    id: String,
    since: When,
    amount: String,
    running: bool,
}

struct Allocation {
    kind: &'static str,
    amount: String,
    at: When,
    until: Option<When>,
    in_force: bool,
    actor: String,
    reason: String,
}

struct WhatIfView {
    words: String,
    services: Vec<(String, String, String, String)>,
    truncated: bool,
}

/// What the page reads from disk.
struct Facts {
    outlook: Outlook,
    allocations: Vec<control::AllocationView>,
    consumers: report::Spend,
    refused: Vec<(CallId, Micros, String)>,
    what_if: Option<WhatIf>,
}

#[derive(Default, Deserialize)]
pub struct Params {
    /// A limit to try out, in the budget's unit.
    cap: Option<String>,
    done: Option<String>,
}

/// `GET /budgets/{id}`.
pub async fn show(ctx: Ctx, Path(id): Path<String>, Query(params): Query<Params>) -> Result<Response, PageError> {
    page(&ctx, &id, params, None).await
}

async fn page(ctx: &Ctx, id: &str, params: Params, problem: Option<String>) -> Result<Response, PageError> {
    let short: String = id.chars().take(80).collect();
    let missing = || PageError::not_found(&format!("budget `{short}`")).with_way_out("/budgets", "All budgets");
    let standing = ctx.web.ledger.standing(id, ctx.now).ok_or_else(missing)?;
    let cap = params.cap.as_deref().map(str::trim).filter(|cap| !cap.is_empty());
    let tried = match cap.map(|cap| amount(standing.budget.limit.metric, cap)) {
        None => None,
        Some(Some(amount)) => Some(amount),
        Some(None) => {
            let message = "write an amount in the budget's unit, such as 250.00".to_owned();
            return Err(super::query::QueryError { field: "cap".into(), message }.into());
        }
    };
    let (ledger, of, now) = (ctx.web.ledger.clone(), standing.clone(), ctx.now);
    let facts = tokio::task::spawn_blocking(move || facts(&ledger, &of, now, tried)).await??;
    let page = made(ctx, &standing, facts, cap.unwrap_or_default().to_owned(), problem, params.done);
    let refused = page.problem.is_some();
    let answer = ctx.html(&page, page.as_view())?;
    Ok(if refused { (StatusCode::UNPROCESSABLE_ENTITY, answer).into_response() } else { answer })
}

fn facts(ledger: &Ledger, standing: &Standing, now: Micros, cap: Option<i128>) -> Result<Facts, PageError> {
    let budget = &*standing.budget;
    let filter = filter(budget, standing.window.start);
    let query = SpendQuery {
        filter: filter.clone(),
        by: vec![Dimension::Service],
        step: Step::None,
        time_zone: budget.time_zone.clone(),
    };
    let what_if = match cap {
        None => None,
        Some(amount) => {
            let mut tried = budget.clone();
            tried.limit.amount = amount;
            let from = Some(now.plus_seconds(-WHAT_IF_DAYS * 86_400));
            Some(report::what_if(ledger, &tried, &Filter { from, ..self::filter(budget, None) })?)
        }
    };
    Ok(Facts {
        outlook: report::forecast(ledger, budget, now)?,
        allocations: control::allocations(ledger, &budget.id).map_err(|e| PageError::internal(e.to_string()))?,
        consumers: report::spend(ledger, &query)?,
        refused: refused(ledger, budget, filter)?,
        what_if,
    })
}

/// The calls a budget covers.
fn filter(budget: &Budget, from: Option<Micros>) -> Filter {
    let pairs = budget.matches.iter().map(|(d, pattern)| (*d, Match::Is(pattern.clone())));
    Filter { from, to: None, dimensions: pairs.collect() }
}

/// The newest calls the budget refused in its period.
fn refused(ledger: &Ledger, budget: &Budget, filter: Filter) -> Result<Vec<(CallId, Micros, String)>, PageError> {
    let mut wider = filter;
    wider.dimensions.push((Dimension::Outcome, Match::Is(Outcome::Refused.name().to_owned())));
    let by = format!("budget:{}", budget.id);
    let (calls, _) = ledger.calls(&wider, None, MOST_REFUSALS)?;
    let own = calls.into_iter().filter(|call| matches!(&call.refusal, Some((_, Some(who))) if *who == by));
    let row = |call: crate::domain::Call| {
        let service = call.dimension(Dimension::Service).unwrap_or("nobody identified").to_owned();
        (call.id, call.started_at, service)
    };
    Ok(own.map(row).collect())
}

fn made(
    ctx: &Ctx,
    standing: &Standing,
    facts: Facts,
    cap: String,
    problem: Option<String>,
    done: Option<String>,
) -> BudgetPage {
    let Facts { outlook, allocations, consumers, refused, what_if } = facts;
    let (budget, zone) = (&*standing.budget, ctx.zone());
    let catalogue = ctx.web.ledger.catalogue();
    let words = |n: i128| budgets::amount(budget.limit.metric, n);
    let (limit, used) = (standing.allowance.total(), standing.used());
    let unit = budgets::unit(budget.limit.metric);
    let gauge = format!(
        "{unit} {} of {}, {}; {unit} {} held in flight, {unit} {} left",
        words(standing.posted),
        words(limit),
        format::percent(standing.posted.max(0), limit),
        words(standing.held),
        words(standing.available()),
    );
    let open: Vec<_> = ctx.web.ledger.running();
    let mut holds = Vec::new();
    let mut count = 0_u64;
    for open in &open {
        let Some(hold) = open.holds.iter().find(|hold| hold.budget == budget.id) else { continue };
        count += 1;
        if holds.len() < MOST_HOLDS {
            let id = open.call.to_string();
            holds.push(Hold {
                href: format!("/calls/{id}"),
                since: format::when(open.at, &zone),
                amount: words(hold.amount),
                running: ctx.web.in_flight.get(open.call).is_some(),
                id,
            });
        }
    }
    let holds_words = match holds.first() {
        None => "No call holds on it now.".to_owned(),
        Some(oldest) => format!(
            "{} hold {unit} {}; the oldest since {}.",
            if count == 1 { "1 call".to_owned() } else { format!("{} calls", format::count(count)) },
            words(standing.held),
            oldest.since.short
        ),
    };
    let allowance = standing.allowance;
    let parts = [
        ("Declared limit", allowance.declared),
        ("Raised", allowance.raised),
        ("Carried over", allowance.carried),
        ("Given back by resets", allowance.reset),
        ("Break-glass band", allowance.grace),
    ];
    let (children, children_words) = budgets::children(&catalogue, budget);
    let refusals_words = match refused.len() {
        0 => "It has refused no call in this period.".to_owned(),
        1 => "It has refused 1 call in this period.".to_owned(),
        n => format!("It has refused {} calls in this period.", format::count(n as u64)),
    };
    BudgetPage {
        shell: Shell::new(ctx, format!("Budget {}", budget.id)),
        row: budgets::row(budget, Some(&standing.clone().into())),
        gauge,
        parts: parts
            .into_iter()
            .filter(|(name, n)| *n != 0 || *name == "Declared limit")
            .map(|(name, n)| (name, words(n)))
            .collect(),
        outlook: outlook_words(&outlook, ctx.now, &zone),
        burn: burn::burn(standing, &outlook, &allocations, ctx.now),
        thresholds: budget
            .alert_at_percent
            .iter()
            .map(|percent| {
                let at = limit.saturating_mul((*percent).into()) / 100;
                Threshold { percent: *percent, amount: words(at), reached: used >= at && used > 0 }
            })
            .collect(),
        holds,
        holds_words,
        consumers: consumers
            .rows
            .iter()
            .take(MOST_CONSUMERS)
            .map(|row| {
                let service = row.key.first().cloned().flatten();
                let mut pairs = vec![("service", service.clone().unwrap_or_else(|| "(none)".into()))];
                pairs.extend(
                    budget
                        .matches
                        .iter()
                        .filter(|(d, _)| **d != Dimension::Service)
                        .map(|(d, v)| (d.name(), v.clone())),
                );
                let name = service.unwrap_or_else(|| "(none)".to_owned());
                (
                    name,
                    link("/calls", &pairs),
                    format::count(row.measures.calls),
                    super::spend::cost_words(&row.measures),
                )
            })
            .collect(),
        refusals: refused
            .into_iter()
            .take(MOST_HOLDS)
            .map(|(id, at, service)| (format!("/calls/{id}"), format::when(at, &zone), service))
            .collect(),
        refusals_words,
        allocations: allocations
            .into_iter()
            .map(|a| Allocation {
                kind: a.kind,
                amount: a.amount.map_or_else(|| format::UNKNOWN.to_owned(), |n| shown(budget.limit.metric, &n)),
                at: format::when(a.at, &zone),
                until: a.until.map(|at| format::when(at, &zone)),
                in_force: a.in_force,
                actor: a.actor,
                reason: a.reason.unwrap_or_else(|| format::UNKNOWN.to_owned()),
            })
            .rev()
            .collect(),
        children,
        children_words,
        parent: budget.parent.clone(),
        unit,
        grace: budget.grace_pct.is_some(),
        zone: catalogue.organisation.time_zone.clone(),
        what_if: what_if.map(|found| what_if_view(&found, &cap, unit)),
        cap,
        problem,
        done,
    }
}

fn shown(metric: Metric, text: &str) -> String {
    match (metric, text.parse::<Money>()) {
        (Metric::Usd, Ok(money)) => format::money(money),
        _ => text.to_owned(),
    }
}

fn outlook_words(outlook: &Outlook, now: Micros, zone: &jiff::tz::TimeZone) -> Vec<(&'static str, String)> {
    let (words, unit) = (|n: i128| budgets::amount(outlook.metric, n), budgets::unit(outlook.metric));
    let mut all = Vec::new();
    all.push((
        "Burn rate",
        match outlook.burn_rate {
            Some(rate) => format!("{unit} {} a day, the median of the last 7 whole days", words(rate)),
            None => "not known before a whole day of use".to_owned(),
        },
    ));
    all.push((
        "Lasts",
        match (outlook.left <= 0, outlook.exhausted_at, outlook.days_left(now)) {
            (true, ..) => "used up".to_owned(),
            (_, Some(at), Some(days)) => format!("{days} days at that rate, until {}", format::when(at, zone).short),
            _ => "as long as nothing changes".to_owned(),
        },
    ));
    match &outlook.forecast {
        Ok(f) => {
            let range = format!("{unit} {} to {} in 8 of 10 cases", words(f.low), words(f.high));
            all.push(("At the period's end", format!("about {unit} {}; {range}", words(f.amount))));
            all.push(("How that is reckoned", f.method.words().to_owned()));
        }
        Err(why) => all.push(("At the period's end", format!("no forecast: {why}"))),
    }
    all
}

fn what_if_view(found: &WhatIf, cap: &str, unit: &str) -> WhatIfView {
    let words = if found.refused == 0 {
        format!(
            "A cap of {unit} {cap} would have refused none of the {} calls of the last {WHAT_IF_DAYS} days.",
            format::count(found.calls)
        )
    } else {
        format!(
            "A cap of {unit} {cap} would have refused {} of the {} calls of the last {WHAT_IF_DAYS} days, worth USD {}.",
            format::count(found.refused),
            format::count(found.calls),
            format::money(found.refused_usd)
        )
    };
    let hit = found.by_service.iter().filter(|s| s.refused > 0);
    let service = |s: &report::WhatIfService| {
        (s.service.clone(), format::count(s.calls), format::count(s.refused), format::money(s.refused_usd))
    };
    WhatIfView { words, services: hit.map(service).collect(), truncated: found.truncated }
}

/// An amount as people write it, in units of the metric.
fn amount(metric: Metric, text: &str) -> Option<i128> {
    match metric {
        Metric::Usd => text.parse::<Money>().ok().filter(|m| !m.is_negative()).map(|m| m.0),
        _ => text.parse::<u64>().ok().map(i128::from),
    }
}

/// What the forms of a budget send.
#[derive(Deserialize)]
pub struct Change {
    csrf: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    reason: String,
}

/// `POST /budgets/{id}/raise`, `…/reset`, `…/grant`, `…/remove`.
pub async fn change(
    ctx: Ctx,
    Path((id, what)): Path<(String, String)>,
    Form(form): Form<Change>,
) -> Result<Response, PageError> {
    let by = By::new(format!("operator:{}", ctx.check_csrf(&form.csrf)?.operator), ctx.now);
    let ledger = &ctx.web.ledger;
    let metric = ledger.catalogue().budgets.get(&id).map(|b| b.limit.metric);
    let until = form.until.clone();
    let reason = form.reason.clone();
    let outcome = match what.as_str() {
        "raise" => {
            let count = || form.by.trim().parse::<u64>().ok();
            let raise = Raise {
                by_usd: (metric == Some(Metric::Usd)).then(|| form.by.trim().to_owned()),
                by_tokens: count().filter(|_| metric == Some(Metric::Tokens)),
                by_calls: count().filter(|_| metric == Some(Metric::Calls)),
                by_tool_calls: count().filter(|_| metric == Some(Metric::ToolCalls)),
                until,
                reason,
            };
            control::raise(ledger, &by, &id, raise).await.map(|()| "raised")
        }
        "reset" => control::reset(ledger, &by, &id, control::Reset { reason }).await.map(|()| "reset"),
        "grant" => control::grant(ledger, &by, &id, control::Grant { until, reason }).await.map(|()| "opened"),
        _ => return Err(PageError::not_found("form of a budget with that name")),
    };
    match outcome {
        Ok(done) => Ok(Redirect::to(&link(&format!("/budgets/{id}"), &[("done", done.to_owned())])).into_response()),
        Err(ControlError::Store(error)) => Err(error.into()),
        Err(error) => page(&ctx, &id, Params::default(), Some(error.to_string().replace('`', ""))).await,
    }
}

#[derive(Template)]
#[template(path = "budgets/edit.html", blocks = ["view"])]
struct EditPage {
    shell: Shell,
    /// The budget that is changed; none for a new one.
    of: Option<String>,
    form: Edit,
    periods: Vec<(&'static str, bool)>,
    units: Vec<(&'static str, &'static str, bool)>,
    parents: Vec<String>,
    notify: Vec<String>,
    problem: Option<String>,
}

/// A budget as the form has it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Edit {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    id: String,
    /// Lines of `dimension=value`.
    #[serde(default)]
    matches: String,
    #[serde(default)]
    limit: String,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    period: String,
    #[serde(default)]
    enforcement: String,
    #[serde(default)]
    thresholds: String,
    #[serde(default)]
    notify: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    reason: String,
    /// The budget a new one is like.
    #[serde(default)]
    like: String,
}

const PERIODS: [&str; 8] = ["month", "day", "week", "quarter", "year", "hour", "minute", "total"];
const UNITS: [(&str, &str); 4] =
    [("limit_usd", "USD"), ("limit_tokens", "tokens"), ("limit_calls", "calls"), ("limit_tool_calls", "tool calls")];

/// `GET /budgets/new`; fields may be given, or `like` another.
pub async fn new(ctx: Ctx, Query(mut form): Query<Edit>) -> Result<Response, PageError> {
    if let Some(value) = control::show(&ctx.web.ledger.catalogue(), Kind::Budget, &form.like) {
        let like = form.like.clone();
        form = Edit { id: format!("{like}-copy"), ..written(&value) };
    }
    edit_page(&ctx, None, form, None)
}

/// `GET /budgets/{id}/edit`.
pub async fn edit(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let found = control::show(&ctx.web.ledger.catalogue(), Kind::Budget, &id);
    let value =
        found.ok_or_else(|| PageError::not_found("budget with that id").with_way_out("/budgets", "All budgets"))?;
    edit_page(&ctx, Some(id), written(&value), None)
}

/// What the form begins with: the budget in the words of the file.
fn written(value: &Value) -> Edit {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |name: &str| {
        let items = value[name].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect::<Vec<_>>().join(", ")
    };
    let pairs = value["match"].as_object().into_iter().flatten();
    let matches: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    let unit = UNITS.iter().find(|(name, _)| !value[*name].is_null()).map_or("limit_usd", |(name, _)| name);
    let limit = value[unit].as_str().map_or_else(|| value[unit].to_string(), str::to_owned);
    Edit {
        id: text("id"),
        matches: matches.join("\n"),
        limit,
        unit: unit.to_owned(),
        period: text("period"),
        enforcement: text("enforcement"),
        thresholds: list("alert_at_percent"),
        notify: list("notify"),
        parent: text("parent"),
        ..Edit::default()
    }
}

fn edit_page(ctx: &Ctx, of: Option<String>, form: Edit, problem: Option<String>) -> Result<Response, PageError> {
    let catalogue = ctx.web.ledger.catalogue();
    let title = of.as_ref().map_or_else(|| "New budget".to_owned(), |id| format!("Change budget {id}"));
    let page = EditPage {
        shell: Shell::new(ctx, title),
        periods: PERIODS.map(|p| (p, p == form.period)).to_vec(),
        units: UNITS.map(|(name, words)| (name, words, name == form.unit)).to_vec(),
        parents: catalogue.budgets.keys().filter(|id| Some(*id) != of.as_ref()).take(500).cloned().collect(),
        notify: catalogue.notify.keys().cloned().collect(),
        of,
        form,
        problem,
    };
    let refused = page.problem.is_some();
    let answer = ctx.html(&page, page.as_view())?;
    Ok(if refused { (StatusCode::UNPROCESSABLE_ENTITY, answer).into_response() } else { answer })
}

/// `POST /budgets`: declares a budget.
pub async fn create(ctx: Ctx, Form(form): Form<Edit>) -> Result<Response, PageError> {
    save(ctx, None, form).await
}

/// `POST /budgets/{id}/edit`.
pub async fn update(ctx: Ctx, Path(id): Path<String>, Form(form): Form<Edit>) -> Result<Response, PageError> {
    save(ctx, Some(id), form).await
}

async fn save(ctx: Ctx, of: Option<String>, form: Edit) -> Result<Response, PageError> {
    let by = By::new(format!("operator:{}", ctx.check_csrf(&form.csrf)?.operator), ctx.now);
    let by = if form.reason.trim().is_empty() { by } else { by.because(form.reason.trim()) };
    let body = match body(&form, of.is_some()) {
        Ok(body) => body,
        Err(problem) => return edit_page(&ctx, of, form, Some(problem)),
    };
    let saved = match &of {
        None => control::create(&ctx.web.ledger, &by, Kind::Budget, body).await,
        Some(id) => control::patch(&ctx.web.ledger, &by, Kind::Budget, id, body).await,
    };
    match saved {
        Ok(done) => {
            let to = link(&format!("/budgets/{}", done.id), &[("done", "saved".to_owned())]);
            Ok(Redirect::to(&to).into_response())
        }
        Err(ControlError::Store(error)) => Err(error.into()),
        Err(error) => edit_page(&ctx, of, form, Some(error.to_string().replace('`', ""))),
    }
}

/// The form in the words of the file. What is empty takes its field away.
fn body(form: &Edit, change: bool) -> Result<Value, String> {
    let mut matches = BTreeMap::new();
    for line in form.matches.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once('=').ok_or_else(|| format!("{line} is not dimension=value"))?;
        matches.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    let words = |text: &str| -> Vec<String> {
        text.split([',', ' ']).map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let percents: Result<Vec<u16>, String> =
        words(&form.thresholds).iter().map(|w| w.parse().map_err(|_| format!("{w} is not a percentage"))).collect();
    let mut all = Map::new();
    let unit = UNITS.iter().find(|(name, _)| *name == form.unit).map_or("limit_usd", |(name, _)| name);
    let limit = form.limit.trim();
    let limit = match unit {
        "limit_usd" => json!(limit),
        _ => json!(limit.parse::<u64>().map_err(|_| format!("{limit} is not a whole number"))?),
    };
    // Merging would keep pairs that are gone: each that is not there any more is taken away by its absence below.
    if !change {
        all.insert("id".into(), json!(form.id.trim()));
    }
    let mut pairs = Map::new();
    for dimension in Dimension::ALL.iter().filter(|_| change) {
        pairs.insert(dimension.name().to_owned(), Value::Null);
    }
    pairs.extend(matches.into_iter().map(|(name, value)| (name, json!(value))));
    all.insert("match".into(), Value::Object(pairs));
    all.insert(unit.to_owned(), limit);
    all.insert("period".into(), json!(form.period));
    let enforcement = if form.enforcement == "hard" { Enforcement::Hard } else { Enforcement::Alert };
    all.insert("enforcement".into(), json!(enforcement));
    all.insert("alert_at_percent".into(), json!(percents?));
    all.insert("notify".into(), json!(words(&form.notify)));
    let parent = form.parent.trim();
    if !parent.is_empty() || change {
        all.insert("parent".into(), if parent.is_empty() { Value::Null } else { json!(parent) });
    }
    Ok(Value::Object(all))
}
