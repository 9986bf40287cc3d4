//! The decision that lets a call go upstream: is the caller still who it was, and does every budget afford it.

use std::borrow::Cow;

use super::decide::{Decision, entry, refused as warned, thresholds};
use super::entry::{Admit, Body, Deny, NewEntry};
use super::index::dimension;
use super::request::{AdmitRequest, Admitted, Denied, Reply};
use super::state::State;
use crate::budget::{Bound, Window, percent_used, words};
use crate::domain::call::BudgetHold;
use crate::domain::catalogue::KeyState;
use crate::domain::policy::RuleSeen;
use crate::domain::{Budget, Code, Dimension, Enforcement, Metric, Micros, Money, Reservation};
use crate::policy;

/// No output is cut below this many tokens per choice: a shorter answer helps nobody.
pub const LEAST_OUTPUT: u64 = 256;
/// More budgets than this on one call would not fit into one entry.
pub const MOST_BUDGETS: usize = 256;

/// A budget that covers the call, where it stands now.
struct Covering<'a> {
    budget: &'a Budget,
    window: Cow<'a, Window>,
    used: i128,
    /// What it may use in this period.
    limit: i128,
}

/// What a call gets: output tokens of all choices together.
#[derive(Clone, Copy)]
struct Terms {
    /// The most it may say.
    most: u64,
    /// What its hold covers, which is less where it is extended ahead of its stream.
    held: u64,
}

/// Part of a budget's limit that one `expected` hold takes at most for its output.
const MOST_RESERVED: i128 = 10;

impl Covering<'_> {
    fn available(&self) -> i128 {
        self.limit.saturating_sub(self.used)
    }
    fn is_hard(&self) -> bool {
        self.budget.enforcement == Enforcement::Hard
    }
    fn metric(&self) -> Metric {
        self.budget.limit.metric
    }

    /// Whether the budget lets a call of this bound and output go. What costs nothing passes an exhausted money budget;
    /// a call that offers tools does not pass an exhausted tool budget, though it holds nothing of it.
    fn affords(&self, bound: &Bound, output: u64, tools_offered: u32) -> bool {
        let need = bound.need(self.metric(), output);
        match self.metric() {
            Metric::Usd if need == 0 => true,
            Metric::ToolCalls => tools_offered == 0 || self.available() > 0,
            _ => need <= self.available(),
        }
    }
}

/// A refusal before it is written down.
struct Refused<'a> {
    code: Code,
    message: String,
    by: Option<String>,
    budget: Option<&'a Covering<'a>>,
    /// Where rules were looked at again: what they say now.
    rules: Option<Vec<RuleSeen>>,
}

impl Refused<'_> {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Refused { code, message: message.into(), by: None, budget: None, rules: None }
    }
}

pub(super) fn admit(state: &State, at: Micros, request: &AdmitRequest) -> Decision {
    let admit = &request.admit;
    if (1..=admit.attempt).any(|attempt| state.open_attempt(admit.call, attempt).is_some()) {
        return already_open(state, at, admit);
    }
    let bound =
        Bound { fixed: request.fixed, per_output_token: request.per_output_token, input_tokens: admit.input_bound };
    if let Some(refused) = gone(state, at, request) {
        return deny(state, at, request, &bound, refused);
    }
    let covering: Vec<Covering> = state
        .index()
        .covering(|d| dimension(admit, d))
        .into_iter()
        .filter_map(|c| {
            let window = state.index().window(&c.budget.id, at)?;
            let used = state.balance(&c.budget.id, &window.id).map_or(0, |p| p.used());
            let limit = state.allowance(c, &window, at).total();
            Some(Covering { budget: &c.budget, window, used, limit })
        })
        .collect();
    match judge(request, &bound, &covering) {
        Ok(terms) => go(state, at, request, &bound, terms, &covering),
        Err(refused) => deny(state, at, request, &bound, refused),
    }
}

// Attempts of a call come one after the other, and a writer is asked once for each; a second time is a mistake of ours
// that must not double a hold.
fn already_open(state: &State, at: Micros, admit: &Admit) -> Decision {
    let reply = Reply::Denied(Denied {
        seq: state.next_seq(),
        at,
        code: Code::IdempotencyReplay,
        by: None,
        message: format!(
            "Weighbridge: attempt {} of call {} cannot begin: it or one before it is under way.",
            admit.attempt, admit.call
        ),
        resets_at: None,
        remaining: None,
    });
    Decision { entries: Vec::new(), reply }
}

/// Looks again where the catalogue moved on after the edge had judged. Expiry and pauses are looked at always: they begin
/// and end by the clock.
fn gone<'a>(state: &State, at: Micros, request: &AdmitRequest) -> Option<Refused<'a>> {
    let admit = &request.admit;
    let (catalogue, who) = (state.catalogue(), &admit.who);
    let key = catalogue.keys.get(&who.credential);
    match key.map(|k| k.state(at)) {
        Some(KeyState::Expired) => {
            let message = format!("Weighbridge: key {} has expired. Ask its owner for a new one.", who.credential);
            return Some(Refused::new(Code::KeyExpired, message));
        }
        Some(KeyState::Retired) => {
            let message = format!("Weighbridge: key {} was replaced. Use its successor.", who.credential);
            return Some(Refused::new(Code::KeyInvalid, message));
        }
        _ => {}
    }
    // The edge leaves pauses to this place: one that is not over by journal time holds, whatever it saw.
    if let Some(pause) = catalogue.paused(who, &admit.provider, admit.model.as_deref(), at) {
        let by = Some(format!("pause:{}", pause.id()));
        return Some(Refused { by, ..Refused::new(Code::Paused, pause.words()) });
    }
    if catalogue.revision == admit.catalogue_revision {
        return None;
    }
    if !catalogue.stands_for(&who.credential, &who.service) || !catalogue.services.contains_key(&who.service) {
        let message = format!("Weighbridge: the credential {} is not valid (any more).", who.credential);
        return Some(Refused::new(Code::KeyInvalid, message));
    }
    if !catalogue.providers.contains_key(&admit.provider) {
        let message = format!("Weighbridge: provider '{}' is not configured (any more).", admit.provider);
        return Some(Refused::new(Code::UnknownPath, message));
    }
    let policies: Vec<_> = catalogue.policies_in_order().into_iter().cloned().collect();
    let unknown = policy::Facts::default();
    let asked = policy::Asked {
        catalogue,
        who,
        provider: &admit.provider,
        endpoint: &admit.endpoint,
        metered: !admit.unmetered,
        model: dimension(admit, Dimension::Model),
        at,
        facts: request.policy.facts.as_deref().unwrap_or(&unknown),
        key_models: key.and_then(|k| k.allow_models.as_deref()),
        // What a call is changed to was decided where its price was known, and holds.
        left: &|| None,
    };
    let verdict = policy::judge(&policies, &asked);
    // A rule that asks for what nobody looked up came into force after the edge had judged: the call is too early.
    let denied = verdict.denied.or(verdict.unjudged)?;
    let message = format!("Weighbridge: {}.", denied.message);
    Some(Refused { by: Some(denied.by), rules: Some(verdict.rules), ..Refused::new(denied.code, message) })
}

/// Output tokens wanted, all choices together: every sum here is of this kind.
fn wanted(request: &AdmitRequest) -> u64 {
    request.output_wanted.saturating_mul(request.choices.max(1))
}

/// What the call gets, or who refuses.
fn judge<'a>(request: &AdmitRequest, bound: &Bound, covering: &'a [Covering<'a>]) -> Result<Terms, Refused<'a>> {
    let admit = &request.admit;
    if covering.len() > MOST_BUDGETS {
        let message = format!("Weighbridge: {} budgets cover this call; at most {MOST_BUDGETS} may.", covering.len());
        return Err(Refused::new(Code::PolicyDenied, message));
    }
    let hard = |metric: Option<Metric>| {
        covering.iter().find(|c| c.is_hard() && metric.is_none_or(|m| m == c.metric())).map(|c| c.budget.id.as_str())
    };
    let by = |id: &str| Some(format!("budget:{id}"));
    if admit.unmetered
        && !request.allow_unmetered
        && let Some(id) = hard(None)
    {
        let message = format!(
            "Weighbridge: this path is not metered, and the hard budget '{id}' covers the caller. \
             A policy with allow_unmetered lets it pass."
        );
        return Err(Refused { by: by(id), ..Refused::new(Code::UnmeteredPath, message) });
    }
    let unpriced = bound.per_output_token.is_none() && !admit.unmetered;
    if unpriced && !request.allow_unpriced {
        let model = admit.model.as_deref().unwrap_or("this model");
        let price = "Declare a price for it, or a policy with allow_unpriced.";
        if let Some(id) = hard(Some(Metric::Usd)) {
            let message = format!("Weighbridge: {model} has no price, and the hard budget '{id}' needs one. {price}");
            return Err(Refused { by: by(id), ..Refused::new(Code::ModelUnpriced, message) });
        }
        if request.max_cost.is_some() {
            let message = format!("Weighbridge: {model} has no price, so wb-max-cost cannot be kept. {price}");
            return Err(Refused::new(Code::ModelUnpriced, message));
        }
    }
    let output = within_max_cost(request, bound)?;
    // What an expected hold cannot have, a real bound may.
    if let Some(held) = expected(request, bound, output, covering) {
        return Ok(Terms { most: output, held });
    }
    within_budgets(request, bound, output, covering).map(|output| Terms { most: output, held: output })
}

/// The output that the hold of a stream covers at first, where the budgets that may refuse it all reserve what is expected.
/// The input is held at its upper bound even so: what it comes to is spent before the first byte tells.
fn expected(request: &AdmitRequest, bound: &Bound, most: u64, covering: &[Covering]) -> Option<u64> {
    let expected = request.expected_output.filter(|_| request.admit.stream && !request.admit.job)?;
    let any_hard = covering.iter().any(Covering::is_hard);
    let decides = |c: &&Covering| c.is_hard() || !any_hard;
    let lenient = |c: &Covering| c.budget.reservation == Reservation::Expected;
    if covering.is_empty() || !covering.iter().filter(decides).all(lenient) {
        return None;
    }
    let mut held = expected.min(most);
    for c in covering.iter().filter(|c| lenient(c)) {
        held = held.min(bound.affordable_output(c.metric(), c.limit / MOST_RESERVED).unwrap_or(0));
    }
    let tools = request.admit.tools_offered;
    covering.iter().filter(|c| c.is_hard()).all(|c| c.affords(bound, held, tools)).then_some(held)
}

/// Output tokens of all choices together that `available` affords, if every choice still gets enough.
fn lowered(request: &AdmitRequest, bound: &Bound, metric: Metric, available: i128) -> Option<u64> {
    let choices = request.choices.max(1);
    let each = bound.affordable_output(metric, available)? / choices;
    (request.may_limit_output && each >= LEAST_OUTPUT).then(|| each.saturating_mul(choices))
}

fn within_max_cost<'a>(request: &AdmitRequest, bound: &Bound) -> Result<u64, Refused<'a>> {
    let wanted = wanted(request);
    let Some(most) = request.max_cost.filter(|most| bound.cost(wanted) > *most) else { return Ok(wanted) };
    lowered(request, bound, Metric::Usd, most.0).map(|output| output.min(wanted)).ok_or_else(|| {
        let cost = words::amount(Metric::Usd, bound.cost(wanted).0);
        let message = format!(
            "Weighbridge: this call may cost up to {cost}, more than its wb-max-cost of {}. \
             Ask for less output or raise wb-max-cost.",
            words::amount(Metric::Usd, most.0)
        );
        Refused { by: Some("header:wb-max-cost".into()), ..Refused::new(Code::MaxCostExceeded, message) }
    })
}

fn within_budgets<'a>(
    request: &AdmitRequest,
    bound: &Bound,
    wanted: u64,
    covering: &'a [Covering<'a>],
) -> Result<u64, Refused<'a>> {
    let tools = request.admit.tools_offered;
    let mut output = wanted;
    for c in covering.iter().filter(|c| c.is_hard() && !c.affords(bound, wanted, tools)) {
        match lowered(request, bound, c.metric(), c.available()).filter(|o| c.affords(bound, *o, tools)) {
            Some(affordable) => output = output.min(affordable),
            None => {
                let need = bound.need(c.metric(), wanted).max(1);
                let message = words::refusal(c.budget, c.used, c.limit, need, c.window.end);
                let by = Some(format!("budget:{}", c.budget.id));
                return Err(Refused { by, budget: Some(c), ..Refused::new(Code::BudgetExceeded, message) });
            }
        }
    }
    Ok(output)
}

fn go(
    state: &State,
    at: Micros,
    request: &AdmitRequest,
    bound: &Bound,
    terms: Terms,
    covering: &[Covering],
) -> Decision {
    let Terms { most, held: output } = terms;
    let seq = state.next_seq();
    let mut admit = request.admit.clone();
    admit.catalogue_revision = state.catalogue().revision;
    admit.hold = bound.cost(output);
    admit.output_bound = output;
    let lowered = (most < wanted(request)).then(|| most / request.choices.max(1));
    admit.output_limit = lowered.or(request.policy.output_limit);
    admit.holds = covering
        .iter()
        .map(|c| BudgetHold {
            budget: c.budget.id.clone(),
            period: c.window.id.clone(),
            amount: bound.need(c.metric(), output),
        })
        .collect();
    let (hold, output_limit) = (admit.hold, admit.output_limit);

    let mut entries =
        vec![NewEntry { body: Body::Admit(Box::new(admit)), reference: None, erasable: request.erasable.clone() }];
    let (mut remaining, mut warning): (Option<Money>, Option<(String, u16)>) = (None, None);
    for c in covering {
        let used = c.used.saturating_add(bound.need(c.metric(), output));
        thresholds(state, c.budget, &c.window.id, used, c.limit, Some(seq), &mut entries);
        if c.is_hard() && c.metric() == Metric::Usd {
            let left = Money(c.limit.saturating_sub(used));
            remaining = Some(remaining.map_or(left, |r| r.min(left)));
        }
        let percent = percent_used(used, c.limit);
        let warns = c.budget.alert_at_percent.iter().any(|p| percent >= *p) && percent > 0;
        if warns && warning.as_ref().is_none_or(|(_, most)| percent > *most) {
            warning = Some((c.budget.id.clone(), percent));
        }
    }
    let covers = (output < most).then_some(output);
    let admitted = Admitted { seq, at, hold, output_limit, covers, remaining, warning };
    Decision { entries, reply: Reply::Admitted(admitted) }
}

/// Writes a refusal down: first what the budget that refuses should have warned of, then the DENY.
fn deny(state: &State, at: Micros, request: &AdmitRequest, bound: &Bound, refused: Refused) -> Decision {
    let Refused { code, message, by, budget, rules } = refused;
    let mut entries = Vec::new();
    if let Some(c) = budget {
        warned(state, c.budget, &c.window.id, None, &mut entries);
    }
    let money_left = budget.filter(|c| c.metric() == Metric::Usd).map(|c| Money(c.available()));
    let admit = &request.admit;
    let record = Deny {
        call: admit.call,
        received_at: admit.received_at,
        who: Some((*admit.who).clone()),
        code,
        detail: None,
        by: by.clone(),
        provider: Some(admit.provider.clone()),
        dialect: Some(admit.dialect.clone()),
        endpoint: Some(admit.endpoint.clone()),
        stream: admit.stream,
        model: admit.model.clone(),
        http_status: code.status(),
        tools_offered: admit.tools_offered,
        hold: bound.per_output_token.map(|_| bound.cost(wanted(request))),
        available: money_left,
        catalogue_revision: state.catalogue().revision,
        retry_of: admit.retry_of,
        count: 1,
        rules: rules.unwrap_or_else(|| admit.rules.clone()),
    };
    let seq = state.next_seq() + entries.len() as u64;
    let body = Body::Deny(Box::new(record));
    entries.push(NewEntry { erasable: request.erasable.clone(), ..entry(body, None) });
    let resets_at = budget.and_then(|c| c.window.end);
    Decision { entries, reply: Reply::Denied(Denied { seq, at, code, by, message, resets_at, remaining: money_left }) }
}
