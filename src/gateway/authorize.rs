//! May it go: the writer decides, and its answer is durable before the first byte goes upstream.

use crate::dialect::{CallFacts, Edit, Metering, tokens};
use crate::domain::{Code, Metric, Money, Refusal};
use crate::ledger::entry::Admit;
use crate::ledger::request::{AdmitRequest, Admitted, Judged, Reply, Request};
use crate::store::StoreError;

use super::Gateway;
use super::classify::{self, Asked};
use super::cover::Cover;
use super::learned::Rule;
use super::refuse::Refused;
use super::snapshot::Snapshot;
use super::ticket::Ticket;

/// Longest a call may take, in seconds; past it the answer is cut. Its hold lives a minute longer.
pub const LONGEST_CALL_S: i64 = 3_600;
/// How long a background response may stay open at the vendor, in seconds.
const JOB_LEASE_S: i64 = 24 * 3_600;

/// A call that may go.
pub struct Granted {
    pub admitted: Admitted,
    /// What is changed in the request's body.
    pub edit: Edit,
    /// Tokens held for the input.
    pub input_bound: u64,
    /// Of a stream that holds less than its upper bound.
    pub cover: Option<Box<Cover>>,
}

impl Gateway {
    /// Asks the writer. Whatever it refuses is on the record when this returns.
    pub(super) async fn authorize(
        &self,
        snapshot: &Snapshot,
        ticket: &Ticket,
        asked: &mut Asked,
    ) -> Result<Granted, Refused> {
        if self.counting_may_decide(snapshot, ticket, asked) {
            // Rare, so it does not make every call's task larger.
            Box::pin(count_input(snapshot, ticket, asked)).await;
        }
        let rule = self.expected(ticket, asked);
        let request = Request::Admit(self.admit_request(snapshot, ticket, asked, rule)?);
        match self.inner.ledger.submit(request).await {
            Ok(Reply::Admitted(admitted)) => Ok(Granted {
                edit: Edit {
                    include_usage: asked.facts.stream && !asked.facts.asked_for_usage,
                    output_cap: admitted.output_limit,
                    model: asked.judgement.model_sent.clone(),
                },
                input_bound: asked.cost.input_tokens,
                cover: Cover::of(ticket.id, asked, &admitted, rule).map(Box::new),
                admitted,
            }),
            Ok(Reply::Denied(denied)) => Err(Refused::recorded(Refusal {
                code: denied.code,
                by: denied.by,
                message: denied.message,
                resets_at: denied.resets_at,
                remaining: denied.remaining,
                retry_after_s: None,
            })),
            Ok(other) => {
                tracing::error!(call = %ticket.id, ?other, "the ledger answered an admission with something else");
                Err(journal_unavailable())
            }
            Err(error) => {
                tracing::warn!(call = %ticket.id, %error, "refused: the journal is unavailable");
                Err(unavailable(error))
            }
        }
    }

    /// What such calls say as a rule.
    fn expected(&self, ticket: &Ticket, asked: &Asked) -> Rule {
        let who = ticket.who.as_ref();
        let (application, class) = who.map_or(("", None), |w| (&w.application, w.prompt_class.as_deref()));
        let model = asked.facts.model.as_deref().unwrap_or_default();
        self.inner.learned.rule(application, model, class.unwrap_or_default())
    }

    fn admit_request(
        &self,
        snapshot: &Snapshot,
        ticket: &Ticket,
        asked: &Asked,
        rule: Rule,
    ) -> Result<Box<AdmitRequest>, Refused> {
        let facts = &asked.facts;
        let Some(who) = ticket.who.clone() else {
            return Err(Refused::with(Code::CredentialMissing, "Weighbridge: no credential."));
        };
        let lease = if facts.job { JOB_LEASE_S } else { LONGEST_CALL_S + 60 };
        let admit = Admit {
            call: ticket.id,
            attempt: 1,
            received_at: ticket.received_at,
            who,
            provider: asked.provider.id.clone(),
            dialect: asked.dialect.name().to_owned(),
            endpoint: facts.endpoint.to_owned(),
            unmetered: facts.metering == Metering::Unmetered,
            stream: facts.stream,
            job: facts.job,
            model: ticket.model.clone(),
            price_model: asked.cost.price_model.clone(),
            price_book: snapshot.prices.version(),
            catalogue_revision: snapshot.catalogue.revision,
            tools_offered: facts.tools_offered,
            hold: Money::ZERO,
            holds: Vec::new(),
            input_bound: asked.cost.input_tokens,
            output_bound: 0,
            output_limit: None,
            unbounded: facts.unbounded,
            retry_of: ticket.retry_of,
            lease_until: ticket.received_at.plus_seconds(lease),
            model_sent: asked.judgement.model_sent.clone(),
            rules: ticket.rules.clone(),
        };
        Ok(Box::new(AdmitRequest {
            admit,
            erasable: ticket.erasable(),
            fixed: asked.cost.fixed,
            per_output_token: asked.cost.per_output_token,
            output_wanted: asked.cost.output_wanted,
            may_limit_output: facts.output_cap.is_none() && facts.output_cap_field.is_some(),
            choices: facts.choices.max(1),
            expected_output: can_be_extended(facts).then_some(rule.output),
            max_cost: asked.max_cost,
            allow_unpriced: asked.judgement.allow_unpriced,
            allow_unmetered: asked.judgement.allow_unmetered,
            policy: Judged { facts: asked.judgement.facts.clone(), output_limit: asked.judgement.output_limit },
        }))
    }

    /// Whether to count the input's tokens exactly: where the bound by bytes would be refused. Counting costs half a
    /// millisecond per 8 KiB, so it is done only where it may decide, and where the count is no estimate, since it becomes
    /// the bound. The balances looked at are advice; the writer decides.
    fn counting_may_decide(&self, snapshot: &Snapshot, ticket: &Ticket, asked: &Asked) -> bool {
        let facts = &asked.facts;
        if facts.metering != Metering::Metered || facts.unbounded || !(asked.hard || asked.max_cost.is_some()) {
            return false;
        }
        let model = facts.model.as_deref().unwrap_or_default();
        if !tokens::is_exact(model) || facts.input_bytes > tokens::MAX_COUNTED as u64 {
            return false;
        }
        let output = if facts.output_cap.is_none() && facts.output_cap_field.is_some() {
            asked.cost.output_wanted.min(256)
        } else {
            asked.cost.output_wanted
        };
        let per_token = asked.cost.per_output_token.unwrap_or_default();
        let need = asked.cost.fixed.saturating_add(per_token.times(output.saturating_mul(facts.choices.max(1))));
        self.affordable(snapshot, ticket, asked).is_some_and(|left| need > left)
    }

    /// The least that the hard money budgets on the call and the caller's own limit leave.
    fn affordable(&self, snapshot: &Snapshot, ticket: &Ticket, asked: &Asked) -> Option<Money> {
        let who = ticket.who.as_ref()?;
        let covering = classify::hard_budgets(snapshot, who, &asked.provider, &asked.facts);
        let budgets = covering
            .filter(|b| b.limit.metric == Metric::Usd)
            .filter_map(|b| Some(Money(self.inner.ledger.standing(&b.id, ticket.received_at)?.available())));
        budgets.chain(asked.max_cost).min()
    }
}

/// Whether more can be held while the answer passes.
fn can_be_extended(facts: &CallFacts) -> bool {
    facts.stream && !facts.job && facts.metering == Metering::Metered
}

/// Counts the input's tokens; the count becomes the bound where it is the lower one.
async fn count_input(snapshot: &Snapshot, ticket: &Ticket, asked: &mut Asked) {
    let (dialect, facts, body) = (asked.dialect, asked.facts.clone(), asked.body.decoded.clone());
    let counted = tokio::task::spawn_blocking(move || {
        tokens::count(facts.model.as_deref().unwrap_or_default(), &dialect.prompt_text(&facts, &body))
    });
    if let Ok(counted) = counted.await
        && counted < asked.facts.input_bytes.div_ceil(2)
    {
        let at = ticket.received_at;
        let most = asked.cost.output_wanted;
        let mut facts = asked.facts.clone();
        facts.model = asked.judgement.family.clone().or(facts.model);
        asked.cost = classify::bound(&snapshot.prices, &asked.provider, &facts, at, Some(counted), false);
        asked.cost.output_wanted = asked.cost.output_wanted.min(most);
    }
}

fn unavailable(error: StoreError) -> Refused {
    match error {
        StoreError::Busy => {
            let mut refused = journal_unavailable();
            refused.refusal.message =
                "Weighbridge: too many calls wait for the journal at once. Try again in a moment.".into();
            refused
        }
        _ => journal_unavailable(),
    }
}

/// What the journal must say first cannot be read now: rather no answer than a wrong one.
pub(super) fn cannot_tell(error: StoreError) -> Refused {
    tracing::error!(%error, "what a caller asked for could not be read");
    let mut refusal = Refusal::new(Code::JournalUnavailable, "Weighbridge: this cannot be read from the journal now.");
    if matches!(error, StoreError::BeingBuilt { .. }) {
        refusal.message = format!("Weighbridge: {error}.");
    }
    refusal.retry_after_s = Some(10);
    Refused::new(refusal)
}

/// No call goes unseen: a journal that cannot be written stops them all.
pub(super) fn journal_unavailable() -> Refused {
    let message = "Weighbridge: the journal cannot be written, so no call is carried. The operators see why on the readiness page.";
    let mut refusal = Refusal::new(Code::JournalUnavailable, message);
    refusal.retry_after_s = Some(2);
    Refused::recorded(refusal)
}
