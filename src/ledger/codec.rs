//! Entries as bytes: deterministic CBOR, described here so that anyone can read them.
//!
//! Group 0 of an entry is a map with integer keys; which keys depends on the kind that stands in the leaf. The numbers
//! are those of the tables below (`key = field`) and are never reused. Rules for every record:
//!
//! - a field that is none, false or empty is left out; every other key is there; keys ascend;
//! - money and balances are integers of 10⁻¹⁵ USD (or tokens, calls, tool calls), beyond 64 bits as bignums;
//! - instants are Unix microseconds; ids of calls are the 16 bytes of the UUID; hashes are 32 bytes;
//! - outcome, usage basis, cost basis, refusal code and usage component are the numbers of the domain, all other
//!   enumerations are their names; usage is a map of component number to count;
//! - maps with text keys are ordered as RFC 8949 4.2.1 says: shorter keys first.
//!
//! | kind | group 0 |
//! |---|---|
//! | 1 ADMIT, 2 SETTLE, 3 DENY | the records of that name below |
//! | 8 CATALOGUE | 0 actor, 1 noun, 2 id, and the declared thing (absent = removed): 3 organisation, 4 owner, 5 service, 6 key, 7 provider, 8 policy, 9 notify, 14 issuer, 15 pause; 12 true = staged |
//! | 8 CATALOGUE, noun `apply` | 0 actor, 1 `apply`, 2 `openings`, `effect` or `dropped`, 13 of the staged entries: 0 the first, 1 how many, 2 their hash, 3 openings of budgets |
//! | 9 PRICE | 0 actor, 1 `price`, 2 price list, 10 model, 11 prices (absent = none of our own), 12 true = staged |
//! | 10 BUDGET | 0 actor, 1 id, 2 budget (absent = removed), 3 openings, 4 true = staged; or 0 actor, 1 id, 5 allocation |
//! | 24 EXTEND | 0 holds, 1 cost, 2 tokens (absent = the holds alone) |
//! | 11 ADMIN | 0 actor, 1 action, 2 subject |
//! | 5 BATCH | 0 the vendor's id, 1 state |
//! | 20 INTERRUPTED | 0 cost (absent = unknown); 1 epoch and ADMIT, of a call of an earlier epoch |
//! | 22 OVERRUN | 0 excess, 1 budgets |
//! | 26 ALERT | 0 budget (empty: none), 1 period, 2 kind, 3 threshold in percent or days, 4 stage (absent = raised), 5 used, 6 limit, 7 foreseen, 8 subject, 9 due, 10 routes, 11 true = nowhere to go |
//! | 27 DELIVERY | 0 step, 1 route, 2 alerts, 3 message, 4 attempt, 5 next try, 6 where to instead, 7 detail, 8 actor |
//! | 19 GAP | 0 reason, 1 count, 2 what it quotes |
//! | 18 KEY | 0 purpose, 1 vkey, 2 actor |
//! | 29 SNAPSHOT | 0 month, 1 SHA-256, 2 bytes |
//!
//! Groups 1 to 4 are the records `network`, `person`, `content`, and for group 4 a map with the vendor's usage object as
//! text under key 0. An owner's name and mail address are in group 2 of their CATALOGUE entry (`claimed`, keys `name` and
//! `email`), never in group 0, which cannot be erased.

use serde_json::{Value, json};

pub use super::field::CodecError;

use super::cbor::{Reader, Writer};
use super::entry::{
    Admit, Alert, AlertStage, Apply, ApplyStep, Body, BudgetOpening, Content, Delivery, DeliveryStep, Deny, Entry,
    Erasable, Kind, MAX_ENTRY_BYTES, Network, Opening, Person, Settle,
};
use super::field::{Field, named, record};
use super::outbox::{AlertId, Route};
use crate::domain::budget::{
    Allocation, AllocationKind, Budget, Enforcement, Limit, Metric, MidstreamExceed, PeriodKind, Reservation, Rollover,
};
use crate::domain::call::{BudgetHold, CostLine};
use crate::domain::catalogue::{
    Change, Key, KeyStatus, OnClientAbort, Organisation, Owner, OwnerKind, PriceOverride, Provider, Service, Successor,
};
use crate::domain::identity::{Assurance, Attribution, Charge, Environment, ServiceKind};
use crate::domain::notify::{ChannelKind, Notify, Quiet, Transport};
use crate::domain::pause::{Pause, PauseKind};
use crate::domain::policy::{Downgrade, Mode, Per, Policy, RuleResult, RuleSeen, Unpriced};
use crate::domain::trust::{Issuer, KeySource, Profile, TrustRule};

named!(Environment { Prod = "prod", Pilot = "pilot", Test = "test", Exploratory = "exploratory" });
named!(Assurance { A0 = "A0", A1 = "A1", A2 = "A2", A3 = "A3" });
named!(ServiceKind {
    Service = "service", Agent = "agent", Pipeline = "pipeline", Notebook = "notebook", Person = "person",
});
named!(OwnerKind { Person = "person", Team = "team" });
named!(KeyStatus { Active = "active", Suspended = "suspended", Revoked = "revoked", Canary = "canary" });
named!(OnClientAbort { Cancel = "cancel", Drain = "drain" });
named!(Profile {
    Generic = "generic", Kubernetes = "kubernetes", GithubActions = "github-actions", Gcp = "gcp", Azure = "azure",
    AwsOutbound = "aws-outbound", SpiffeJwt = "spiffe-jwt", OauthAt = "oauth-at",
});
named!(Mode or Enforce { Observe = "observe", Warn = "warn", Enforce = "enforce" });
named!(Per or Key { Key = "key", Service = "service", Policy = "policy" });
named!(Unpriced { Deny = "deny", FamilyMax = "family_max", Allow = "allow" });
named!(RuleResult {
    Allowed = "allowed", Observed = "observed", Warned = "warned", Changed = "changed", Denied = "denied", Unknown = "unknown",
});
named!(Metric { Usd = "usd", Tokens = "tokens", Calls = "calls", ToolCalls = "tool_calls" });
named!(Enforcement { Hard = "hard", Alert = "alert" });
named!(Reservation or Strict { Strict = "strict", Expected = "expected" });
named!(MidstreamExceed { Cut = "cut", Finish = "finish" });
named!(AllocationKind { Raise = "raise", Reset = "reset", Grant = "grant" });
named!(Rollover or None { None = "none", Unused = "unused", Overage = "overage" });
named!(PauseKind { Key = "key", Service = "service", Agent = "agent", Model = "model", Provider = "provider" });
named!(PeriodKind {
    Minute = "minute", Hour = "hour", Day = "day", Week = "week", Month = "month", Quarter = "quarter", Year = "year",
    Total = "total",
});

record!(Admit as "an ADMIT" {
    0 = call, 1 = attempt, 2 = received_at, 3 = who, 4 = provider, 5 = dialect, 6 = endpoint, 7 = unmetered, 8 = stream,
    9 = job, 10 = model, 11 = price_model, 12 = price_book, 13 = catalogue_revision, 14 = tools_offered, 15 = hold,
    16 = holds, 17 = input_bound, 18 = output_bound, 19 = output_limit, 20 = unbounded, 21 = retry_of, 22 = lease_until,
    23 = model_sent, 24 = rules,
});
record!(RuleSeen as "a rule" { 0 = by, 1 = rule, 2 = result, 3 = note });
record!(Attribution as "an attribution" {
    0 = service, 1 = agent, 2 = application, 3 = owner, 4 = business_unit, 5 = cost_centre, 6 = tenant, 7 = environment,
    8 = workflow, 9 = run, 10 = prompt_class, 11 = principal, 12 = charged_to, 13 = chain, 14 = credential,
    15 = assurance, 16 = provenance,
});
record!(Charge as "a charge" { 0 = service, 1 = basis_points });
record!(BudgetHold as "a hold" { 0 = budget, 1 = period, 2 = amount });
record!(Settle as "a SETTLE" {
    0 = outcome, 1 = http_status, 2 = model_served, 3 = provider_request_id, 4 = response_id, 5 = finish_reason,
    6 = service_tier, 7 = usage, 8 = usage_basis, 9 = tools_called, 10 = tool_names, 11 = cost, 12 = cost_basis,
    13 = cost_lines, 14 = price_model, 15 = first_byte_ms, 16 = total_ms, 17 = overhead_us, 18 = flags,
});
record!(CostLine as "a cost line" {
    0 = component, 1 = quantity, 2 = unit_price_usd, 3 = per, 4 = tier_from_tokens, 5 = cost_usd,
});
record!(Deny as "a DENY" {
    0 = call, 1 = received_at, 2 = who, 3 = code, 4 = detail, 5 = by, 6 = provider, 7 = dialect, 8 = endpoint,
    9 = stream, 10 = model, 11 = http_status, 12 = tools_offered, 13 = hold, 14 = available, 15 = catalogue_revision,
    16 = retry_of, 17 = count, 18 = rules,
});
record!(Alert as "an ALERT" {
    0 = budget, 1 = period, 2 = kind, 3 = threshold, 4 = stage, 5 = used, 6 = limit, 7 = foreseen, 8 = subject, 9 = due,
    10 = routes, 11 = unrouted,
});
named!(AlertStage {
    Pending = "pending", Cleared = "cleared", Easing = "easing", Standing = "standing", Resolved = "resolved",
});
record!(Delivery as "a DELIVERY" {
    0 = step, 1 = route, 2 = alerts, 3 = message, 4 = attempt, 5 = next_at, 6 = to, 7 = detail, 8 = actor,
});
named!(DeliveryStep {
    Sending = "sending", Delivered = "delivered", Failed = "failed", Dead = "dead", Held = "held", Moved = "moved",
    Undeliverable = "undeliverable", Test = "test", Again = "again", Acknowledged = "acknowledged", Resolved = "resolved",
});
record!(Route as "a route" { 0 = channel, 1 = owner });
record!(AlertId as "the id of an alert" { 0 = at, 1 = seq });
record!(Opening as "an opening" { 0 = period, 1 = posted });
record!(BudgetOpening as "a budget's opening" { 0 = budget, 1 = period, 2 = posted });
record!(Network as "network" { 0 = peer, 1 = user_agent, 2 = trace_id, 3 = parent_id });
record!(Person as "person" { 0 = claimed, 1 = reason });
record!(Content as "content" { 0 = body });

record!(Organisation as "an organisation" { 0 = name, 1 = time_zone, 2 = fiscal_year_start_month });
record!(Service as "a service" {
    0 = id, 1 = application, 2 = kind, 3 = owner, 4 = business_unit, 5 = cost_centre, 6 = tenant, 7 = purpose,
    8 = caller_fields, 9 = tenants, 10 = workflows, 11 = prompt_classes, 12 = mandatory_fields,
});
record!(Key as "a key" {
    0 = id, 1 = hash, 2 = service, 3 = environment, 4 = created_at, 5 = expires_at, 6 = status, 7 = allow_models,
    8 = note, 9 = not_before, 10 = allow_cidrs, 11 = lineage, 12 = successor,
});
record!(Successor as "a successor" { 0 = key, 1 = overlap_until });
record!(Provider as "a provider" {
    0 = id, 1 = dialect, 2 = base_url, 3 = internal, 4 = models, 5 = price_as, 6 = idle_timeout_s, 7 = on_client_abort,
    8 = position, 9 = region,
});
record!(Policy as "a policy" {
    0 = id, 1 = matches, 2 = allow_models, 3 = deny_models, 4 = allow_unmetered, 5 = allow_unpriced,
    6 = allow_unbounded, 7 = position, 8 = mode, 9 = allow_endpoints, 10 = deny_endpoints, 11 = allow_tools,
    12 = deny_tools, 13 = allow_providers, 14 = deny_providers, 15 = allow_regions, 16 = allow_networks,
    17 = deny_networks, 18 = require_headers, 19 = require_owner, 20 = require_fields, 21 = hours,
    22 = max_output_tokens, 23 = max_input_tokens, 24 = max_calls_per_minute, 25 = max_tokens_per_minute,
    26 = max_concurrent, 27 = per, 28 = queue_ms, 29 = downgrade, 30 = unpriced_policy,
});
record!(Downgrade as "a downgrade" { 0 = below_percent, 1 = to });
record!(PriceOverride as "a price" {
    0 = provider, 1 = model, 2 = component, 3 = usd, 4 = per, 5 = effective_from, 6 = note,
});
record!(Issuer as "an issuer" {
    0 = id, 1 = iss, 2 = keys, 3 = refresh_s, 4 = algorithms, 5 = audience, 6 = max_lifetime_s, 7 = types, 8 = profile,
    9 = shared, 10 = rules,
});
record!(TrustRule as "a trust rule" { 0 = id, 1 = claims, 2 = service, 3 = agent, 4 = environment });
record!(KeySource as "a source of keys" { 0 = url, 1 = file, 2 = inline, 3 = ca, 4 = internal });
record!(Pause as "a pause" { 0 = kind, 1 = subject, 2 = until, 3 = cut, 4 = seq });
record!(Channel as "a notify" {
    0 = id, 1 = webhook, 2 = kind, 3 = host, 4 = transport, 5 = internal, 6 = default, 7 = quiet, 8 = refusals_wait,
    9 = group_s,
});
named!(ChannelKind {
    Webhook = "webhook", Slack = "slack", Teams = "teams", Mattermost = "mattermost", Email = "email", Syslog = "syslog",
});
named!(Transport { Tls = "tls", StartTls = "starttls", Plain = "plain", Udp = "udp" });
record!(Quiet as "quiet hours" { 0 = from, 1 = to, 2 = zone });
record!(Limit as "a limit" { 0 = metric, 1 = amount });
record!(Budget as "a budget" {
    0 = id, 1 = matches, 2 = limit, 3 = period, 4 = anchor, 5 = time_zone, 6 = fiscal_year_start_month,
    7 = enforcement, 8 = alert_at_percent, 9 = notify, 10 = parent, 11 = reservation, 12 = on_midstream_exceed,
    13 = rollover, 14 = grace_pct, 15 = forecast_alert,
});

/// A channel as it stands in an entry: earlier versions wrote an id and the URL of a webhook, which is all of theirs.
struct Channel {
    id: String,
    webhook: Option<String>,
    kind: Option<ChannelKind>,
    host: Option<String>,
    transport: Option<Transport>,
    internal: bool,
    default: bool,
    quiet: Option<Quiet>,
    refusals_wait: bool,
    group_s: Option<u16>,
}

impl From<&Notify> for Channel {
    fn from(n: &Notify) -> Channel {
        let new = n.webhook.is_none();
        Channel {
            id: n.id.clone(),
            webhook: n.webhook.clone(),
            kind: new.then_some(n.kind),
            host: new.then(|| n.host.clone()),
            transport: new.then_some(n.transport),
            internal: n.internal,
            default: n.default,
            quiet: n.quiet.clone(),
            refusals_wait: !n.refusals_wake,
            group_s: new.then_some(n.group_s),
        }
    }
}

impl Field for Notify {
    fn put(&self, w: &mut Writer) {
        Channel::from(self).put(w)
    }
    fn get(r: &mut Reader) -> Result<Notify, CodecError> {
        let c = Channel::get(r)?;
        let lacks = |field| CodecError::Missing { record: "a notify", field };
        let plain = match c.webhook {
            Some(webhook) => Notify::legacy(c.id, webhook),
            None => Notify {
                kind: c.kind.ok_or(lacks("kind"))?,
                host: c.host.ok_or(lacks("host"))?,
                transport: c.transport.ok_or(lacks("transport"))?,
                group_s: c.group_s.ok_or(lacks("group_s"))?,
                webhook: None,
                ..Notify::legacy(c.id, String::new())
            },
        };
        let (internal, default, quiet) = (c.internal, c.default, c.quiet);
        Ok(Notify { internal, default, quiet, refusals_wake: !c.refusals_wait, ..plain })
    }
    fn show(&self) -> Value {
        Channel::from(self).show()
    }
}

// The shapes of group 0 that are no structure of their own elsewhere.
struct Declared {
    actor: String,
    noun: String,
    id: String,
    organisation: Option<Organisation>,
    owner: Option<OwnerId>,
    service: Option<Service>,
    key: Option<Key>,
    provider: Option<Provider>,
    policy: Option<Policy>,
    notify: Option<Notify>,
    model: Option<String>,
    prices: Vec<PriceOverride>,
    staged: bool,
    apply: Option<Stage>,
    issuer: Option<Issuer>,
    pause: Option<Pause>,
}
record!(Declared as "a CATALOGUE or PRICE" {
    0 = actor, 1 = noun, 2 = id, 3 = organisation, 4 = owner, 5 = service, 6 = key, 7 = provider, 8 = policy,
    9 = notify, 10 = model, 11 = prices, 12 = staged, 13 = apply, 14 = issuer, 15 = pause,
});
struct Stage {
    first: u64,
    count: u64,
    sha256: [u8; 32],
    openings: Vec<BudgetOpening>,
}
record!(Stage as "a step of an apply" { 0 = first, 1 = count, 2 = sha256, 3 = openings });
// An owner without what names a person.
struct OwnerId {
    kind: OwnerKind,
}
record!(OwnerId as "an owner" { 0 = kind });
struct BudgetChange {
    actor: String,
    id: String,
    budget: Option<Box<Budget>>,
    opening: Vec<Opening>,
    staged: bool,
    allocation: Option<Allocation>,
}
record!(BudgetChange as "a BUDGET" {
    0 = actor, 1 = id, 2 = budget, 3 = opening, 4 = staged, 5 = allocation,
});
record!(Allocation as "an allocation" { 0 = kind, 1 = amount, 2 = period, 3 = until });
struct Extend {
    holds: Vec<BudgetHold>,
    cost: Option<crate::domain::Money>,
    tokens: Option<u64>,
}
record!(Extend as "an EXTEND" { 0 = holds, 1 = cost, 2 = tokens });
struct Admin {
    actor: String,
    action: String,
    subject: Option<String>,
}
record!(Admin as "an ADMIN" { 0 = actor, 1 = action, 2 = subject });
struct Batch {
    vendor_id: String,
    state: String,
}
record!(Batch as "a BATCH" { 0 = vendor_id, 1 = state });
struct Interrupted {
    cost: Option<crate::domain::Money>,
    earlier: Option<Earlier>,
}
record!(Interrupted as "an INTERRUPTED" { 0 = cost, 1 = earlier });
struct Earlier {
    epoch: u64,
    admit: u64,
}
record!(Earlier as "an earlier ADMIT" { 0 = epoch, 1 = admit });
struct Overrun {
    excess: crate::domain::Money,
    budgets: Vec<String>,
}
record!(Overrun as "an OVERRUN" { 0 = excess, 1 = budgets });
struct Gap {
    reason: String,
    count: u64,
    quotes: Option<String>,
}
record!(Gap as "a GAP" { 0 = reason, 1 = count, 2 = quotes });
struct KeyMade {
    purpose: String,
    vkey: String,
    actor: String,
}
record!(KeyMade as "a KEY" { 0 = purpose, 1 = vkey, 2 = actor });
struct Snapshot {
    month: String,
    sha256: [u8; 32],
    bytes: u64,
}
record!(Snapshot as "a SNAPSHOT" { 0 = month, 1 = sha256, 2 = bytes });
struct VendorUsage {
    usage: String,
}
record!(VendorUsage as "vendor usage" { 0 = usage });

fn bare(actor: &str, noun: &str, id: String) -> Declared {
    Declared {
        actor: actor.to_owned(),
        noun: noun.to_owned(),
        id,
        organisation: None,
        owner: None,
        service: None,
        key: None,
        provider: None,
        policy: None,
        notify: None,
        model: None,
        prices: Vec::new(),
        staged: false,
        apply: None,
        issuer: None,
        pause: None,
    }
}

fn declared(actor: &str, change: &Change) -> Declared {
    let (noun, id) = change.subject();
    let mut d = bare(actor, noun, id);
    match change.clone() {
        Change::Organisation(v) => d.organisation = Some(v),
        Change::Owner(_, v) => d.owner = v.map(|o| OwnerId { kind: o.kind }),
        Change::Service(_, v) => d.service = v,
        Change::Key(_, v) => d.key = v,
        Change::Provider(_, v) => d.provider = v,
        Change::Policy(_, v) => d.policy = v,
        Change::Notify(_, v) => d.notify = v,
        Change::Issuer(_, v) => d.issuer = v,
        Change::Pause(_, v) => d.pause = v,
        // Budgets have a kind of their own; should one come here, its id is all that is kept.
        Change::Budget(..) => {}
        Change::Price { provider, model, prices } => {
            d.id = provider;
            d.model = Some(model);
            d.prices = prices;
        }
    }
    d
}

fn step_name(step: ApplyStep) -> &'static str {
    match step {
        ApplyStep::Openings => "openings",
        ApplyStep::Effect => "effect",
        ApplyStep::Dropped => "dropped",
    }
}

fn apply_record(apply: &Apply) -> Declared {
    let Apply { actor, step, first, count, sha256, openings } = apply;
    let stage = Stage { first: *first, count: *count, sha256: *sha256, openings: openings.clone() };
    Declared { apply: Some(stage), ..bare(actor, APPLY, step_name(*step).to_owned()) }
}

fn apply_of(d: Declared) -> Result<Apply, CodecError> {
    let steps = [ApplyStep::Openings, ApplyStep::Effect, ApplyStep::Dropped];
    let step = steps.into_iter().find(|step| step_name(*step) == d.id);
    let step = step.ok_or_else(|| CodecError::Name { what: "step", value: d.id.chars().take(40).collect() })?;
    let lacks = CodecError::Missing { record: "a CATALOGUE or PRICE", field: "apply" };
    let Stage { first, count, sha256, openings } = d.apply.ok_or(lacks)?;
    Ok(Apply { actor: d.actor, step, first, count, sha256, openings })
}

/// The noun of the steps of a staged apply.
const APPLY: &str = "apply";

fn change(d: Declared) -> Result<(String, Change), CodecError> {
    let lacks = |field| CodecError::Missing { record: "a CATALOGUE or PRICE", field };
    let id = d.id;
    let change = match d.noun.as_str() {
        "organisation" => Change::Organisation(d.organisation.ok_or(lacks("organisation"))?),
        "owner" => {
            let owner = d.owner.map(|o| Owner { id: id.clone(), kind: o.kind, name: None, email: None });
            Change::Owner(id, owner)
        }
        "service" => Change::Service(id, d.service),
        "key" => Change::Key(id, d.key),
        "provider" => Change::Provider(id, d.provider),
        "policy" => Change::Policy(id, d.policy),
        "notify" => Change::Notify(id, d.notify),
        "issuer" => Change::Issuer(id, d.issuer),
        "pause" => Change::Pause(id, d.pause),
        "price" => Change::Price { provider: id, model: d.model.ok_or(lacks("model"))?, prices: d.prices },
        _ => return Err(CodecError::Name { what: "noun", value: d.noun.chars().take(40).collect() }),
    };
    Ok((d.actor, change))
}

/// The number in the leaf.
pub fn kind_of(body: &Body) -> u64 {
    let kind = match body {
        Body::Admit(_) => Kind::Admit,
        Body::Settle(_) => Kind::Settle,
        Body::Deny(_) => Kind::Deny,
        Body::Catalogue { .. } => Kind::Catalogue,
        Body::Price { .. } => Kind::Price,
        Body::Budget { .. } | Body::Allocate { .. } => Kind::Budget,
        Body::Staged(inner) => return kind_of(inner),
        Body::Apply(_) => Kind::Catalogue,
        Body::Extend { .. } => Kind::Extend,
        Body::Admin { .. } => Kind::Admin,
        Body::Batch { .. } => Kind::Batch,
        Body::Interrupted { .. } | Body::CutOff { .. } => Kind::Interrupted,
        Body::Overrun { .. } => Kind::Overrun,
        Body::Alert(_) => Kind::Alert,
        Body::Delivery(_) => Kind::Delivery,
        Body::Gap { .. } => Kind::Gap,
        Body::Key { .. } => Kind::Key,
        Body::Snapshot { .. } => Kind::Snapshot,
        Body::Unknown { kind, .. } => return *kind,
    };
    kind as u64
}

// Either direction of showing a body goes through the record that is its shape.
fn with_record<T>(body: &Body, use_record: impl FnOnce(&dyn Record) -> T) -> Option<T> {
    Some(match body {
        Body::Admit(b) => use_record(&**b),
        Body::Settle(b) => use_record(&**b),
        Body::Deny(b) => use_record(&**b),
        Body::Alert(b) => use_record(b),
        Body::Delivery(b) => use_record(&**b),
        Body::Catalogue { actor, change } | Body::Price { actor, change } => use_record(&declared(actor, change)),
        Body::Budget { actor, id, budget, opening } => {
            let (actor, id, budget) = (actor.clone(), id.clone(), budget.clone());
            let opening = opening.clone();
            use_record(&BudgetChange { actor, id, budget, opening, staged: false, allocation: None })
        }
        Body::Staged(inner) => match &**inner {
            Body::Catalogue { actor, change } | Body::Price { actor, change } => {
                use_record(&Declared { staged: true, ..declared(actor, change) })
            }
            Body::Budget { actor, id, budget, opening } => {
                let (actor, id, budget) = (actor.clone(), id.clone(), budget.clone());
                let opening = opening.clone();
                use_record(&BudgetChange { actor, id, budget, opening, staged: true, allocation: None })
            }
            // Nothing else is ever staged; it would read as what it carries.
            other => return with_record(other, use_record),
        },
        Body::Apply(apply) => use_record(&apply_record(apply)),
        Body::Allocate { actor, budget, allocation } => {
            let (actor, id, allocation) = (actor.clone(), budget.clone(), Some(allocation.clone()));
            use_record(&BudgetChange { actor, id, budget: None, opening: Vec::new(), staged: false, allocation })
        }
        Body::Extend { holds, cost, tokens } => {
            let (cost, tokens) = (Some(*cost).filter(|c| !c.is_zero()), Some(*tokens).filter(|n| *n > 0));
            use_record(&Extend { holds: holds.clone(), cost, tokens })
        }
        Body::Admin { actor, action, subject } => {
            use_record(&Admin { actor: actor.clone(), action: action.clone(), subject: subject.clone() })
        }
        Body::Batch { vendor_id, state } => use_record(&Batch { vendor_id: vendor_id.clone(), state: state.clone() }),
        Body::Interrupted { cost } => use_record(&Interrupted { cost: *cost, earlier: None }),
        Body::CutOff { epoch, admit, cost } => {
            use_record(&Interrupted { cost: *cost, earlier: Some(Earlier { epoch: *epoch, admit: *admit }) })
        }
        Body::Overrun { excess, budgets } => use_record(&Overrun { excess: *excess, budgets: budgets.clone() }),
        Body::Gap { reason, count, quotes } => {
            use_record(&Gap { reason: reason.clone(), count: *count, quotes: quotes.clone() })
        }
        Body::Key { purpose, vkey, actor } => {
            use_record(&KeyMade { purpose: purpose.clone(), vkey: vkey.clone(), actor: actor.clone() })
        }
        Body::Snapshot { month, sha256, bytes } => {
            use_record(&Snapshot { month: month.clone(), sha256: *sha256, bytes: *bytes })
        }
        Body::Unknown { .. } => return None,
    })
}

trait Record {
    fn write(&self, w: &mut Writer);
    fn tell(&self) -> Value;
}
impl<T: Field> Record for T {
    fn write(&self, w: &mut Writer) {
        self.put(w)
    }
    fn tell(&self) -> Value {
        self.show()
    }
}

/// Group 0 of an entry.
pub fn encode_body(body: &Body) -> Vec<u8> {
    if let Body::Unknown { bytes, .. } = body {
        return bytes.clone();
    }
    let mut w = Writer::new();
    with_record(body, |record| record.write(&mut w));
    w.into_bytes()
}

fn read<T: Field>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut r = Reader::new(bytes);
    let value = T::get(&mut r)?;
    r.finish()?;
    Ok(value)
}

/// Reads group 0 of an entry of this kind. Exactly one byte string stands for a body: anything else is refused. A kind
/// this version does not know is kept as it is.
pub fn decode_body(kind: u64, bytes: &[u8]) -> Result<Body, CodecError> {
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(CodecError::Range("the length of an entry"));
    }
    let body = match Kind::from_number(kind) {
        Some(Kind::Admit) => Body::Admit(read(bytes)?),
        Some(Kind::Settle) => Body::Settle(read(bytes)?),
        Some(Kind::Deny) => Body::Deny(read(bytes)?),
        Some(Kind::Alert) => Body::Alert(read(bytes)?),
        Some(Kind::Delivery) => Body::Delivery(read(bytes)?),
        Some(k @ (Kind::Catalogue | Kind::Price)) => {
            let declared: Declared = read(bytes)?;
            if declared.noun == APPLY {
                let body = Body::Apply(Box::new(apply_of(declared)?));
                return if encode_body(&body) == bytes { Ok(body) } else { Err(CodecError::NotCanonical) };
            }
            let staged = declared.staged;
            let (actor, change) = change(declared)?;
            let body = match (k, Box::new(change)) {
                (Kind::Price, change) if matches!(*change, Change::Price { .. }) => Body::Price { actor, change },
                (Kind::Catalogue, change) if !matches!(*change, Change::Price { .. }) => {
                    Body::Catalogue { actor, change }
                }
                _ => return Err(CodecError::NotCanonical),
            };
            if staged { Body::Staged(Box::new(body)) } else { body }
        }
        Some(Kind::Budget) => {
            let BudgetChange { actor, id, budget, opening, staged, allocation } = read(bytes)?;
            match allocation {
                Some(allocation) => Body::Allocate { actor, budget: id, allocation },
                None if staged => Body::Staged(Box::new(Body::Budget { actor, id, budget, opening })),
                None => Body::Budget { actor, id, budget, opening },
            }
        }
        Some(Kind::Extend) => {
            let Extend { holds, cost, tokens } = read(bytes)?;
            Body::Extend { holds, cost: cost.unwrap_or_default(), tokens: tokens.unwrap_or(0) }
        }
        Some(Kind::Admin) => {
            let Admin { actor, action, subject } = read(bytes)?;
            Body::Admin { actor, action, subject }
        }
        Some(Kind::Batch) => {
            let Batch { vendor_id, state } = read(bytes)?;
            Body::Batch { vendor_id, state }
        }
        Some(Kind::Interrupted) => match read(bytes)? {
            Interrupted { cost, earlier: None } => Body::Interrupted { cost },
            Interrupted { cost, earlier: Some(Earlier { epoch, admit }) } => Body::CutOff { epoch, admit, cost },
        },
        Some(Kind::Overrun) => {
            let Overrun { excess, budgets } = read(bytes)?;
            Body::Overrun { excess, budgets }
        }
        Some(Kind::Gap) => {
            let Gap { reason, count, quotes } = read(bytes)?;
            Body::Gap { reason, count, quotes }
        }
        Some(Kind::Key) => {
            let KeyMade { purpose, vkey, actor } = read(bytes)?;
            Body::Key { purpose, vkey, actor }
        }
        Some(Kind::Snapshot) => {
            let Snapshot { month, sha256, bytes } = read(bytes)?;
            Body::Snapshot { month, sha256, bytes }
        }
        // Registered kinds that this version does not write are as unknown to it as later ones.
        _ => return Ok(Body::Unknown { kind, bytes: bytes.to_vec() }),
    };
    if encode_body(&body) == bytes { Ok(body) } else { Err(CodecError::NotCanonical) }
}

/// The groups 1 to 4 that are there.
pub fn encode_groups(e: &Erasable) -> Vec<(u8, Vec<u8>)> {
    fn group<T: Field>(number: u8, value: Option<&T>) -> Option<(u8, Vec<u8>)> {
        value.map(|value| {
            let mut w = Writer::new();
            value.put(&mut w);
            (number, w.into_bytes())
        })
    }
    let usage = e.vendor_usage.as_ref().map(|usage| VendorUsage { usage: usage.clone() });
    [group(1, e.network.as_ref()), group(2, e.person.as_ref()), group(3, e.content.as_ref()), group(4, usage.as_ref())]
        .into_iter()
        .flatten()
        .collect()
}

/// Reads groups; those that were erased are simply not given.
pub fn decode_groups(groups: &[(u8, &[u8])]) -> Result<Erasable, CodecError> {
    let mut e = Erasable::default();
    for (number, bytes) in groups {
        let twice = match number {
            1 => e.network.replace(read(bytes)?).is_some(),
            2 => e.person.replace(read(bytes)?).is_some(),
            3 => e.content.replace(read(bytes)?).is_some(),
            4 => e.vendor_usage.replace(read::<VendorUsage>(bytes)?.usage).is_some(),
            _ => true,
        };
        if twice {
            return Err(CodecError::Group(*number));
        }
    }
    Ok(e)
}

/// An entry for people: kind by name, group 0 with the names of its fields.
pub fn describe(entry: &Entry) -> Value {
    let number = kind_of(&entry.body);
    let kind = Kind::from_number(number).map_or_else(|| format!("UNKNOWN {number}"), Kind::name);
    let body = with_record(&entry.body, |record| record.tell()).unwrap_or(Value::Null);
    json!({ "seq": entry.seq, "ts": entry.ts.to_string(), "kind": kind, "ref": entry.reference, "body": body })
}

#[cfg(test)]
mod tests;
