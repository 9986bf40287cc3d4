//! A call as programs read it: the fields of the API, of JSON exports and of a caller's own receipt.
//!
//! Every field is always there; what is not known is `null`, and a usage count that is not known is absent. Money is a
//! decimal string.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::call::{Call, CostBasis, CostLine, Outcome, UsageBasis};
use super::id::CallId;
use super::identity::{Assurance, Charge, Environment};
use super::money::Money;
use super::time::Micros;
use super::usage::Usage;

/// One metered request.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Call")]
pub struct CallView {
    pub id: CallId,
    /// Sequence of the entry that admitted or refused it.
    pub seq: u64,
    /// Sequence of the entry that settled it.
    pub settled_seq: Option<u64>,
    pub started_at: Micros,
    pub completed_at: Option<Micros>,
    pub outcome: Outcome,
    pub refusal: Option<RefusalView>,
    pub service: Option<String>,
    pub agent: Option<String>,
    pub application: Option<String>,
    pub owner: Option<String>,
    pub business_unit: Option<String>,
    pub cost_centre: Option<String>,
    pub tenant: Option<String>,
    pub environment: Option<Environment>,
    pub workflow: Option<String>,
    pub run: Option<String>,
    pub prompt_class: Option<String>,
    pub principal: Option<String>,
    pub charged_to: Vec<Charge>,
    pub chain: Vec<String>,
    pub credential: Option<String>,
    pub assurance: Option<Assurance>,
    pub provenance: Option<String>,
    pub claimed: BTreeMap<String, String>,
    pub provider: Option<String>,
    pub dialect: Option<String>,
    pub endpoint: String,
    pub unmetered: bool,
    pub stream: bool,
    pub model_requested: Option<String>,
    pub model_served: Option<String>,
    pub http_status: Option<u16>,
    pub provider_request_id: Option<String>,
    pub response_id: Option<String>,
    pub finish_reason: Option<String>,
    pub service_tier: Option<String>,
    pub usage: Usage,
    pub usage_basis: UsageBasis,
    pub tools: ToolsView,
    /// Null = unknown: still running, or without a price.
    pub cost_usd: Option<Money>,
    /// Null while the call runs.
    pub cost_basis: Option<CostBasis>,
    pub hold_usd: Money,
    pub avoided_usd: Money,
    /// Version of the price book in force; null where no price was looked for.
    pub price_book: Option<u32>,
    pub cache: &'static str,
    /// The output cap that was written into the request, in tokens.
    pub output_limit: Option<u64>,
    pub attempts: u8,
    pub retry_of: Option<CallId>,
    pub first_byte_ms: Option<u32>,
    pub total_ms: Option<u32>,
    pub overhead_us: Option<u32>,
    /// What was odd about the call.
    pub flags: Vec<String>,
    /// How many requests it stands for: more than 1 only where refusals were folded.
    pub requests: u64,
}

/// Why a call was refused.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Refusal")]
pub struct RefusalView {
    pub code: &'static str,
    /// `budget:…` or `policy:…`.
    pub by: Option<String>,
}

/// Tools of a call.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tools")]
pub struct ToolsView {
    pub offered: u32,
    pub called: u32,
    pub names: Vec<String>,
}

/// What a call posted: the lines of its cost, and what it held on which budget.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Postings")]
pub struct PostingsView {
    pub price_model: Option<String>,
    pub lines: Vec<CostLine>,
    pub holds: Vec<HoldView>,
    pub catalogue_revision: u64,
}

/// A hold on one budget, as a decimal number of the budget's unit (10⁻¹⁵ USD where it counts money).
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Hold")]
pub struct HoldView {
    pub budget: String,
    pub period: String,
    pub amount: String,
}

impl From<&Call> for CallView {
    fn from(call: &Call) -> CallView {
        let who = call.who.clone();
        let refused = call.outcome == Outcome::Refused;
        CallView {
            id: call.id,
            seq: call.seq,
            settled_seq: call.settled_seq,
            started_at: call.started_at,
            completed_at: call.completed_at,
            outcome: call.outcome,
            refusal: call.refusal.as_ref().map(|(code, by)| RefusalView { code: code.name(), by: by.clone() }),
            service: who.as_ref().map(|w| w.service.clone()),
            agent: who.as_ref().and_then(|w| w.agent.clone()),
            application: who.as_ref().map(|w| w.application.clone()),
            owner: who.as_ref().map(|w| w.owner.clone()),
            business_unit: who.as_ref().map(|w| w.business_unit.clone()),
            cost_centre: who.as_ref().and_then(|w| w.cost_centre.clone()),
            tenant: who.as_ref().and_then(|w| w.tenant.clone()),
            environment: who.as_ref().map(|w| w.environment),
            workflow: who.as_ref().and_then(|w| w.workflow.clone()),
            run: who.as_ref().and_then(|w| w.run.clone()),
            prompt_class: who.as_ref().and_then(|w| w.prompt_class.clone()),
            principal: who.as_ref().map(|w| w.principal.clone()),
            credential: who.as_ref().map(|w| w.credential.clone()),
            assurance: who.as_ref().map(|w| w.assurance),
            provenance: who.as_ref().map(|w| w.provenance.clone()),
            charged_to: who.as_ref().map(|w| w.charged_to.clone()).unwrap_or_default(),
            chain: who.map(|w| w.chain).unwrap_or_default(),
            claimed: call.claimed.clone(),
            provider: call.provider.clone(),
            dialect: call.dialect.clone(),
            endpoint: call.endpoint.clone(),
            unmetered: call.unmetered,
            stream: call.stream,
            model_requested: call.model_requested.clone(),
            model_served: call.model_served.clone(),
            http_status: call.http_status,
            provider_request_id: call.provider_request_id.clone(),
            response_id: call.response_id.clone(),
            finish_reason: call.finish_reason.clone(),
            service_tier: call.service_tier.clone(),
            usage: call.usage.clone(),
            usage_basis: call.usage_basis,
            tools: ToolsView { offered: call.tools_offered, called: call.tools_called, names: call.tool_names.clone() },
            // While a further attempt runs: what those before it have cost, as the sums have it.
            cost_usd: call.cost.filter(|_| call.counts()),
            cost_basis: call.counts().then_some(call.cost_basis),
            hold_usd: call.hold,
            avoided_usd: Money::ZERO,
            price_book: (!refused).then_some(call.price_book),
            cache: "miss",
            output_limit: call.output_limit,
            attempts: call.attempts,
            retry_of: call.retry_of,
            first_byte_ms: call.first_byte_ms,
            total_ms: call.total_ms,
            overhead_us: call.overhead_us,
            flags: call.flags.clone(),
            requests: call.stands_for,
        }
    }
}

impl From<&Call> for PostingsView {
    fn from(call: &Call) -> PostingsView {
        let holds = call.holds.iter().map(|hold| HoldView {
            budget: hold.budget.clone(),
            period: hold.period.clone(),
            amount: hold.amount.to_string(),
        });
        PostingsView {
            price_model: call.price_model.clone(),
            lines: call.cost_lines.clone(),
            holds: holds.collect(),
            catalogue_revision: call.catalogue_revision,
        }
    }
}
