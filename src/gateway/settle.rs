//! What a call did cost: once, whole, and durable before the caller sees the end.
//!
//! The provider's own usage wins. Where it is missing (the caller hung up, the upstream died, a stream without usage) the
//! tokens that passed are counted and the call says so. What the provider refused before any byte costs nothing; what has
//! no price has no cost, which is not zero. An error inside a 200 is no refusal: the request was taken, so its input is counted
//! (`provider-usage.md` 10), unless the answer is no answer of the provider at all but a page from in between. A background response stays open until its result is fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dialect::{Billing, End, Metering, NOT_JSON, Observation, Verdict, tokens};
use crate::domain::call::CostLine;
use crate::domain::{Code, Component, CostBasis, Micros, Money, Outcome, Provider, Usage, UsageBasis};
use crate::ledger::entry::{Erasable, Settle};
use crate::ledger::request::{Reply, Request};
use crate::pricing::{PriceContext, QuoteError};
use crate::store::StoreError;

use super::observe::Crossing;

/// Requests up to this size are kept until their call ends, for counting; larger ones are estimated from their length.
const KEPT_REQUEST: usize = 64 * 1024;
/// How long a settlement is tried again while the journal cannot be written.
const KEEP_TRYING: Duration = Duration::from_secs(30);
/// Providers whose own statement of the cost is the truth: it has fees that usage does not show, and routes whose price
/// no list has (`usage.cost` of OpenRouter, `usage.cost.total_cost` of Perplexity, `cost_in_usd_ticks` of xAI; seen
/// 2026-11).
const VENDOR_COST_WINS: [&str; 4] = ["openrouter", "perplexity", "x-ai", "xai"];

/// Marks a call that an operator ended, or that a pause cut.
const STOPPED: &str = "stopped";
/// Marks a stream that was cut because no more could be held for it.
const CUT: &str = "cut_by_budget";

/// How a call ended, as the wire saw it.
pub(super) struct Ending {
    pub end: End,
    /// The caller hung up, or somebody ended the call.
    pub caller_left: bool,
    /// The provider may have received the request.
    pub sent: bool,
    pub status: Option<u16>,
    pub provider_request_id: Option<String>,
    pub first_byte: Option<Instant>,
}

impl Default for Ending {
    fn default() -> Ending {
        Ending {
            end: End::Complete,
            caller_left: false,
            sent: false,
            status: None,
            provider_request_id: None,
            first_byte: None,
        }
    }
}

/// Usage with what it rests on.
struct Weighed {
    usage: Usage,
    basis: UsageBasis,
}

/// Cost with what it rests on.
struct Priced {
    cost: Option<Money>,
    basis: CostBasis,
    lines: Vec<CostLine>,
    model: Option<String>,
}

impl Priced {
    fn nothing() -> Priced {
        Priced { cost: Some(Money::ZERO), basis: CostBasis::Exact, lines: Vec::new(), model: None }
    }
    fn unknown() -> Priced {
        Priced { cost: None, basis: CostBasis::Unpriced, lines: Vec::new(), model: None }
    }
}

impl Crossing {
    /// Ends the call, or leaves it open as a job. The cost, where it is known. An error means nothing is on record: the
    /// caller must not see the end of the answer.
    pub(super) async fn settle(&self, seen: &mut Observation, ending: &Ending) -> Result<Option<Money>, StoreError> {
        let answered = ending.status.is_some_and(|s| (200..300).contains(&s));
        if self.asked.facts.job
            && answered
            && (seen.verdict == Verdict::Pending || ending.end != End::Complete)
            && let Some(vendor_id) = seen.response_id.clone()
        {
            let (call, attempt) = (self.ticket.id, 1);
            let state = seen.finish_reason_raw.clone().unwrap_or_else(|| "pending".into());
            self.submit(Request::Job { call, attempt, vendor_id, state }).await?;
            return Ok(None);
        }
        if self.asked.facts.metering == Metering::Retrieval && answered {
            Box::pin(self.settle_fetched_job(seen)).await?;
        }
        if let Some(why) = self.flight.stopped_by().filter(|_| ending.caller_left) {
            let unheld = matches!(why.code, Code::BudgetExceeded | Code::JournalUnavailable);
            seen.flags.push(if unheld { CUT } else { STOPPED });
        }
        let outcome = outcome(seen, ending);
        let weighed = match self.stated(seen, ending) {
            Ok(weighed) => weighed,
            // Rare, so it does not make every call's task larger.
            Err(stated) => Box::pin(self.count(stated, seen)).await,
        };
        let tokens = |component| weighed.usage.get(component).unwrap_or(0);
        self.asked.rates.used(tokens(Component::InputTokens).saturating_add(tokens(Component::OutputTokens)));
        let priced = self.price(seen, &weighed, ending);
        let cost = priced.cost;
        if outcome == Outcome::Completed && weighed.basis == UsageBasis::Vendor {
            self.learn(&weighed.usage);
        }
        let settle = Box::new(self.entry(seen, ending, outcome, weighed, priced));
        let erasable = Erasable { vendor_usage: seen.vendor_usage.take(), ..Erasable::default() };
        self.submit(Request::Settle { call: self.ticket.id, attempt: 1, settle, erasable: Box::new(erasable) }).await?;
        Ok(cost)
    }

    /// What such calls say as a rule. Of streams alone: nothing else is held by it.
    fn learn(&self, usage: &Usage) {
        let (facts, who) = (&self.asked.facts, self.ticket.who.as_ref());
        if let (true, Some(who), Some(billed)) = (facts.stream, who, usage.get(Component::OutputTokens)) {
            let (model, class) = (facts.model.as_deref().unwrap_or_default(), who.prompt_class.as_deref());
            let reckoned = self.flight.output_tokens();
            self.gateway.inner.learned.learn(&who.application, model, class.unwrap_or_default(), billed, reckoned);
        }
    }

    /// Submits, again and again for a while: a journal that comes back must not lose what happened meanwhile.
    async fn submit(&self, request: Request) -> Result<Reply, StoreError> {
        let (request, by) = (Arc::new(request), Instant::now() + KEEP_TRYING);
        loop {
            match self.gateway.inner.ledger.submit_shared(request.clone()).await {
                Err(StoreError::Unwritable(_) | StoreError::Full(_) | StoreError::Busy) if Instant::now() < by => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(error) => {
                    tracing::error!(call = %self.ticket.id, %error, "a call could not be settled; a restart settles it from its hold");
                    return Err(error);
                }
                Ok(reply) => return Ok(reply),
            }
        }
    }

    /// What was used, by the provider's word; what there is of it where it is not whole and has to be counted.
    fn stated(&self, seen: &mut Observation, ending: &Ending) -> Result<Weighed, Usage> {
        let nothing = Weighed { usage: Usage::new(), basis: UsageBasis::None };
        if self.asked.facts.metering != Metering::Metered {
            return Ok(nothing);
        }
        let stated = seen.usage.take();
        let whole = stated.as_ref().is_some_and(|u| self.is_whole(u)) && !seen.usage_missing;
        if let (true, Some(usage)) = (whole, &stated) {
            return Ok(Weighed { usage: with_total_writes(usage.clone()), basis: UsageBasis::Vendor });
        }
        let refused = ending.status.is_some_and(|s| s >= 300);
        if self.asked.facts.billing == Billing::Units {
            return Ok(self.units(stated.unwrap_or_default(), !refused && ending.sent));
        }
        let a_page = seen.error.as_deref() == Some(NOT_JSON) && seen.output_bytes == 0;
        if stated.is_none() && (refused || a_page || !ending.sent) {
            return Ok(nothing);
        }
        Err(stated.unwrap_or_default())
    }

    /// What is billed by other units than tokens: as the answer states it, completed by what the request does.
    fn units(&self, mut usage: Usage, taken: bool) -> Weighed {
        let mut basis = if usage.is_empty() { UsageBasis::None } else { UsageBasis::Vendor };
        for (component, count) in self.asked.facts.known.iter().filter(|_| taken) {
            if usage.get(component).is_none() {
                usage.set(component, count);
                basis = if basis == UsageBasis::None { UsageBasis::Counted } else { basis };
            }
        }
        Weighed { usage: with_total_writes(usage), basis }
    }

    /// Whether a usage has all that the endpoint is billed by.
    fn is_whole(&self, usage: &Usage) -> bool {
        let output = self.asked.facts.billing != Billing::Tokens || usage.get(Component::OutputTokens).is_some();
        !usage.is_empty() && output
    }

    /// Fills in what the provider did not say, from the text that passed. Never more than was held for.
    async fn count(&self, mut usage: Usage, seen: &Observation) -> Weighed {
        let facts = self.asked.facts.clone();
        let model = seen.model.clone().or_else(|| facts.model.clone()).unwrap_or_default();
        let kept = self.asked.body.decoded.len() <= KEPT_REQUEST;
        let body = if kept { self.asked.body.decoded.clone() } else { Default::default() };
        let (dialect, output, output_bytes) = (self.asked.dialect, seen.output_text.clone(), seen.output_bytes);
        let wants_input = usage.get(Component::InputTokens).is_none();
        let counted = tokio::task::spawn_blocking(move || {
            let input = (wants_input && kept).then(|| tokens::count(&model, &dialect.prompt_text(&facts, &body)));
            let text = tokens::count(&model, &output);
            // What was not kept of a long answer is counted at the rate of what was.
            let whole =
                u128::from(text) * u128::from(output_bytes.max(output.len() as u64)) / (output.len().max(1) as u128);
            (input, if output.is_empty() { 0 } else { whole as u64 })
        })
        .await;
        let facts = &self.asked.facts;
        let (input, output) = counted.unwrap_or((None, seen.output_bytes.div_ceil(3)));
        let output = output.saturating_add(seen.hidden_tokens);
        let by_length = (facts.input_bytes.saturating_mul(2)).div_ceil(7);
        if wants_input {
            let images = facts.input_allowance;
            usage.set(
                Component::InputTokens,
                input.unwrap_or(by_length).saturating_add(images).min(self.granted.input_bound),
            );
        }
        if usage.get(Component::OutputTokens).is_none() && facts.billing == Billing::Tokens {
            let per_choice = self.granted.admitted.output_limit.unwrap_or(self.asked.cost.output_wanted);
            usage.set(Component::OutputTokens, output.min(per_choice.saturating_mul(facts.choices.max(1))));
        }
        let basis = if wants_input && !kept { UsageBasis::Estimated } else { UsageBasis::Counted };
        Weighed { usage: with_total_writes(usage), basis }
    }

    fn price(&self, seen: &mut Observation, weighed: &Weighed, ending: &Ending) -> Priced {
        match self.asked.facts.metering {
            Metering::Free | Metering::Retrieval => return Priced::nothing(),
            Metering::Unmetered if ending.status.is_none_or(|s| s >= 300) && !ending.caller_left => {
                return Priced::nothing();
            }
            Metering::Unmetered => return Priced::unknown(),
            Metering::Metered => {}
        }
        if weighed.usage.is_empty() && weighed.basis == UsageBasis::None {
            // Pictures and sound whose number nobody states cost something; what failed did not.
            let taken = ending.sent && ending.status.is_none_or(|s| s < 300);
            let unknown = self.asked.facts.billing == Billing::Units && taken && seen.verdict != Verdict::Error;
            return if unknown { Priced::unknown() } else { Priced::nothing() };
        }
        let names = [seen.model.clone(), self.asked.facts.model.clone()];
        let names = [names[0].as_deref(), names[1].as_deref()];
        let mut context: PriceContext = self.asked.facts.price_context.clone();
        context.extend(seen.price_context.clone());
        let at = self.granted.admitted.at;
        let priced = self.quote(seen, weighed, &names, &context, at, &self.asked.provider);
        let Some(family) = self.asked.judgement.family.as_deref().filter(|_| priced.cost.is_none()) else {
            return priced;
        };
        let mut by_family = self.quote(seen, weighed, &[Some(family)], &context, at, &self.asked.provider);
        if by_family.cost.is_some() && by_family.basis == CostBasis::Exact {
            // The usage is exact, the price is not.
            by_family.basis = CostBasis::Estimated;
        }
        seen.flags.push("priced_as_family_max");
        by_family
    }

    /// Prices a usage, its side usage, and weighs the provider's own statement of the cost.
    fn quote(
        &self,
        seen: &mut Observation,
        weighed: &Weighed,
        names: &[Option<&str>],
        context: &PriceContext,
        at: Micros,
        provider: &Provider,
    ) -> Priced {
        let mut priced = self.quote_parts(seen, &weighed.usage, names, context, at, provider);
        if weighed.basis != UsageBasis::Vendor && priced.cost.is_some() {
            priced.basis = CostBasis::Estimated;
        }
        let wins = [provider.price_as.as_str(), provider.dialect.as_str()].iter().any(|n| VENDOR_COST_WINS.contains(n));
        if let Some(stated) = seen.vendor_cost.filter(|c| !c.is_negative() && (wins || priced.cost.is_none()))
            && (weighed.basis == UsageBasis::Vendor || self.asked.facts.billing == Billing::Units)
            && (!stated.is_zero() || provider.price_as == "openrouter")
        {
            // The lines stay as the check on the provider's figure.
            priced.cost = Some(stated);
            priced.basis = CostBasis::Vendor;
        }
        priced
    }

    fn quote_parts(
        &self,
        seen: &mut Observation,
        usage: &Usage,
        names: &[Option<&str>],
        context: &PriceContext,
        at: Micros,
        provider: &Provider,
    ) -> Priced {
        let book = &self.snapshot.prices;
        let quote = |usage: &Usage, names: &[Option<&str>]| {
            let mut last = None;
            for name in names.iter().flatten() {
                match book.quote(&provider.price_as, name, at, context, usage) {
                    Ok(cost) => return Ok(cost),
                    Err(error @ QuoteError::InvalidUsage(_)) => return Err(Some(error)),
                    Err(error) => last = Some(error),
                }
            }
            Err(last)
        };
        let main = match quote(usage, names) {
            Ok(cost) => cost,
            Err(error) => {
                if matches!(error, Some(QuoteError::InvalidUsage(_))) {
                    seen.flags.push("usage_not_priceable");
                }
                return Priced::unknown();
            }
        };
        // What a list has no price for leaves no line, and no cost of nothing.
        if self.asked.facts.billing == Billing::Units && main.lines.is_empty() && !usage.is_empty() {
            return Priced::unknown();
        }
        let mut priced =
            Priced { cost: Some(main.total), basis: CostBasis::Exact, lines: main.lines, model: Some(main.model) };
        for (model, side) in &seen.side_usage {
            let names = [model.as_deref().or(names.iter().flatten().next().copied())];
            match quote(side, &names) {
                Ok(cost) => {
                    priced.cost = priced.cost.map(|sum| sum.saturating_add(cost.total));
                    priced.lines.extend(cost.lines);
                }
                Err(_) => {
                    seen.flags.push("side_usage_unpriced");
                    return Priced { cost: None, basis: CostBasis::Unpriced, ..priced };
                }
            }
        }
        priced
    }

    fn entry(&self, seen: &Observation, ending: &Ending, outcome: Outcome, weighed: Weighed, priced: Priced) -> Settle {
        let since = |at: Instant| at.duration_since(self.ticket.started).as_millis().min(u128::from(u32::MAX)) as u32;
        let ours = self.forwarded_at.duration_since(self.ticket.read_at).as_micros();
        let mut usage = weighed.usage;
        for (_, side) in &seen.side_usage {
            usage.add(side);
        }
        Settle {
            outcome,
            http_status: ending.status,
            model_served: seen.model.clone(),
            provider_request_id: seen.provider_request_id.clone().or_else(|| ending.provider_request_id.clone()),
            response_id: seen.response_id.clone(),
            finish_reason: seen.finish_reason.map(str::to_owned),
            service_tier: seen.service_tier.clone(),
            usage,
            usage_basis: weighed.basis,
            tools_called: seen.tools_called,
            tool_names: distinct(&seen.tool_names),
            cost: priced.cost,
            cost_basis: priced.basis,
            cost_lines: priced.lines,
            price_model: priced.model,
            first_byte_ms: ending.first_byte.map(since),
            total_ms: since(Instant::now()),
            overhead_us: ours.min(u128::from(u32::MAX)) as u32,
            flags: seen.flags.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    /// The stored answer that was fetched may be the end of an open job: it is settled then, once, as the job's.
    async fn settle_fetched_job(&self, seen: &Observation) -> Result<(), StoreError> {
        let Some(id) = seen.response_id.as_deref().or(self.asked.facts.response_id.as_deref()) else { return Ok(()) };
        let ended = !matches!(seen.verdict, Verdict::Pending | Verdict::Truncated);
        let provider = &self.asked.provider;
        let Some((call, attempt)) = self.gateway.inner.ledger.open_job(&provider.id, id) else { return Ok(()) };
        let job = self.gateway.inner.ledger.call(call)?;
        let Some(job) = job.filter(|_| ended) else { return Ok(()) };
        let mut seen = seen.clone();
        let stated = seen.usage.take();
        let weighed = match stated {
            Some(usage) => Weighed { usage: with_total_writes(usage), basis: UsageBasis::Vendor },
            None => Weighed { usage: Usage::new(), basis: UsageBasis::None },
        };
        let names = [seen.model.clone(), job.model_requested.clone()];
        let names = [names[0].as_deref(), names[1].as_deref()];
        let context = seen.price_context.clone();
        let priced = if weighed.usage.is_empty() {
            Priced::nothing()
        } else {
            self.quote(&mut seen, &weighed, &names, &context, job.started_at, provider)
        };
        let outcome = if seen.verdict == Verdict::Ok { Outcome::Completed } else { Outcome::Failed };
        let ending = Ending { status: Some(200), sent: true, ..Ending::default() };
        let mut settle = self.entry(&seen, &ending, outcome, weighed, priced);
        let ran = (self.gateway.now().0 - job.started_at.0).max(0) / 1_000;
        (settle.first_byte_ms, settle.total_ms, settle.overhead_us) = (None, ran.min(i64::from(u32::MAX)) as u32, 0);
        let erasable = Box::new(Erasable { vendor_usage: seen.vendor_usage, ..Erasable::default() });
        self.submit(Request::Settle { call, attempt, settle: Box::new(settle), erasable }).await?;
        Ok(())
    }
}

fn outcome(seen: &Observation, ending: &Ending) -> Outcome {
    match (ending.status, seen.verdict) {
        _ if ending.caller_left => Outcome::Cancelled,
        (None, _) => Outcome::Failed,
        (Some(status), _) if status >= 300 => Outcome::Failed,
        (_, Verdict::Ok | Verdict::Pending) if ending.end == End::Complete => Outcome::Completed,
        _ => Outcome::Failed,
    }
}

/// Price lists price all cache writes together and the one-hour part: the total is always there.
fn with_total_writes(mut usage: Usage) -> Usage {
    use Component::{CacheWrite1hTokens, CacheWrite5mTokens, CacheWriteTokens};
    let parts = (usage.get(CacheWrite5mTokens), usage.get(CacheWrite1hTokens));
    if usage.get(CacheWriteTokens).is_none() && parts != (None, None) {
        usage.set(CacheWriteTokens, parts.0.unwrap_or(0).saturating_add(parts.1.unwrap_or(0)));
    }
    usage
}

fn distinct(names: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names {
        if out.len() < 16 && !out.contains(name) {
            out.push(name.chars().take(128).collect());
        }
    }
    out
}
