//! Entries: what the journal says, by kind.
//!
//! A leaf of the tree is the deterministic CBOR of `{v, seq, ts, kind, ref, c}`; `c` holds a salted commitment per group of
//! fields, so that groups can be erased or kept back and proofs still verify. [`Body`] is group 0: everything that
//! balances, sums and replay need, and no personal data. Groups 1 to 4 are [`Erasable`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::outbox::{AlertId, Route};
use crate::domain::call::BudgetHold;
use crate::domain::policy::RuleSeen;
use crate::domain::{
    Allocation, Attribution, Budget, CallId, Change, Code, CostBasis, CostLine, Micros, Money, Outcome, Usage,
    UsageBasis,
};

/// Version of the leaf format.
pub const VERSION: u64 = 1;
/// Longest entry, leaf and group 0 together, in bytes.
pub const MAX_ENTRY_BYTES: usize = 65_535;

// One table, so that number and name cannot drift apart.
macro_rules! kinds {
    ($($variant:ident = $number:literal;)*) => {
        /// What an entry is. Never renumbered; an unknown kind is shown as such and still verified.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($variant = $number),* }
        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];
            /// The name people read, in capitals.
            pub fn name(self) -> String { match self { $(Kind::$variant => stringify!($variant).to_ascii_uppercase()),* } }
            pub fn from_number(n: u64) -> Option<Kind> { match n { $($number => Some(Kind::$variant),)* _ => None } }
        }
    };
}

kinds! {
    Admit = 1;
    Settle = 2;
    Deny = 3;
    Cache = 4;
    Batch = 5;
    Delegate = 6;
    Revoke = 7;
    Catalogue = 8;
    Price = 9;
    Budget = 10;
    Admin = 11;
    Anomaly = 12;
    Review = 13;
    Reconcile = 14;
    Adjust = 15;
    Redact = 16;
    Retention = 17;
    Key = 18;
    Gap = 19;
    Interrupted = 20;
    Import = 21;
    Overrun = 22;
    Export = 23;
    Extend = 24;
    Line = 25;
    Alert = 26;
    Delivery = 27;
    Period = 28;
    Snapshot = 29;
}

/// Group 0 of an entry, by kind. Kinds without a variant are registered and not written by this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Admit(Box<Admit>),
    Settle(Box<Settle>),
    Deny(Box<Deny>),
    /// Declared state but prices and budgets.
    Catalogue {
        actor: Actor,
        change: Box<Change>,
    },
    Price {
        actor: Actor,
        change: Box<Change>,
    },
    /// A budget declared, changed or removed, with what its current period had already posted when it took effect.
    Budget {
        actor: Actor,
        id: String,
        budget: Option<Box<Budget>>,
        opening: Vec<Opening>,
    },
    /// More for a budget than its declared limit: a BUDGET too. What it changes is no declaration, so no `apply` undoes it.
    Allocate {
        actor: Actor,
        budget: String,
        allocation: Allocation,
    },
    Admin {
        actor: Actor,
        action: String,
        subject: Option<String>,
    },
    /// A change that waits: part of an `apply` too large for one turn of the writer. Of the kind of what it carries, which
    /// is CATALOGUE, PRICE or BUDGET.
    Staged(Box<Body>),
    /// What becomes of the staged changes. A CATALOGUE.
    Apply(Box<Apply>),
    /// More held by an open call, whose ADMIT is `ref`: ahead of its stream, or on budgets that came to cover it.
    Extend {
        holds: Vec<BudgetHold>,
        /// What the call itself may cost more, of which `holds` are the budgets' parts; zero where they came later.
        cost: Money,
        /// By how many tokens.
        tokens: u64,
    },
    /// A job that runs on at the vendor: its id there and its state. `ref` is the ADMIT.
    Batch {
        vendor_id: String,
        state: String,
    },
    /// What a crash left open, settled from its hold. `ref` is the ADMIT.
    Interrupted {
        cost: Option<Money>,
    },
    /// A call of an earlier epoch that was open when it ended: INTERRUPTED too, but posted already in the state that this
    /// epoch began with. `admit`: the sequence of its ADMIT there.
    CutOff {
        epoch: u64,
        admit: u64,
        cost: Option<Money>,
    },
    /// The part of a SETTLE above its hold, and the budgets it passed. `ref` is the SETTLE. Adds nothing to any sum.
    Overrun {
        excess: Money,
        budgets: Vec<String>,
    },
    Alert(Alert),
    /// What became of alerts: see [`Delivery`]. `ref` is the first of them.
    Delivery(Box<Delivery>),
    /// Something that could not be recorded as it happened: calls refused while the journal was down, a clock that
    /// jumped, a new epoch.
    Gap {
        reason: String,
        count: u64,
        quotes: Option<String>,
    },
    /// A key of ours from here on: its purpose (`checkpoint`), its public half as a vkey, who had it made.
    Key {
        purpose: String,
        vkey: String,
        actor: Actor,
    },
    /// Hash of the sealed state a month begins with.
    Snapshot {
        month: String,
        sha256: [u8; 32],
        bytes: u64,
    },
    /// A kind this version does not know, kept as it is.
    Unknown {
        kind: u64,
        bytes: Vec<u8>,
    },
}

/// Who changed something: `operator:ada`, `file`, `setup`, `demo`. An opaque id, never a name or address.
pub type Actor = String;

/// A call (or one attempt of it) authorised, with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admit {
    pub call: CallId,
    /// 1 for the first upstream attempt.
    pub attempt: u8,
    /// When the edge had read the request; journal time is the entry's own.
    pub received_at: Micros,
    pub who: Arc<Attribution>,
    pub provider: String,
    pub dialect: String,
    pub endpoint: String,
    pub unmetered: bool,
    pub stream: bool,
    /// Runs on at the vendor when the connection ends: a background response, a batch.
    pub job: bool,
    pub model: Option<String>,
    pub price_model: Option<String>,
    pub price_book: u32,
    pub catalogue_revision: u64,
    pub tools_offered: u32,
    /// Upper bound of the cost; zero where it has no price.
    pub hold: Money,
    pub holds: Vec<BudgetHold>,
    pub input_bound: u64,
    /// Of all choices together.
    pub output_bound: u64,
    /// Output cap written into the request, in tokens per choice.
    pub output_limit: Option<u64>,
    /// The input cannot be seen (stored conversation, files): the hold is the model's context window.
    pub unbounded: bool,
    pub retry_of: Option<CallId>,
    /// When an open hold without an outcome is settled from itself.
    pub lease_until: Micros,
    /// The model that was asked of the provider, where a policy put another in place of `model`: what budgets and prices
    /// go by.
    pub model_sent: Option<String>,
    /// Rules of policies that were looked at, in order; at most [`crate::policy::MOST_RULES`].
    pub rules: Vec<RuleSeen>,
}

/// What an attempt did cost. `ref` is its ADMIT. The whole actual cost, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    pub outcome: Outcome,
    pub http_status: Option<u16>,
    pub model_served: Option<String>,
    pub provider_request_id: Option<String>,
    pub response_id: Option<String>,
    pub finish_reason: Option<String>,
    pub service_tier: Option<String>,
    pub usage: Usage,
    pub usage_basis: UsageBasis,
    pub tools_called: u32,
    /// Distinct, at most 16.
    pub tool_names: Vec<String>,
    /// Absent = unknown.
    pub cost: Option<Money>,
    pub cost_basis: CostBasis,
    pub cost_lines: Vec<CostLine>,
    pub price_model: Option<String>,
    pub first_byte_ms: Option<u32>,
    pub total_ms: u32,
    pub overhead_us: u32,
    pub flags: Vec<String>,
}

/// A call refused. Complete in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    pub call: CallId,
    pub received_at: Micros,
    /// Absent where nobody was identified.
    pub who: Option<Attribution>,
    pub code: Code,
    /// More exact than `code` where callers must not be told (`credential_malformed`).
    pub detail: Option<String>,
    pub by: Option<String>,
    pub provider: Option<String>,
    pub dialect: Option<String>,
    pub endpoint: Option<String>,
    pub stream: bool,
    pub model: Option<String>,
    pub http_status: u16,
    pub tools_offered: u32,
    /// What the call would have held, where that was known.
    pub hold: Option<Money>,
    pub available: Option<Money>,
    pub catalogue_revision: u64,
    pub retry_of: Option<CallId>,
    /// Unidentified attempts beyond 60 a minute from one prefix are folded: how many this entry stands for.
    pub count: u64,
    /// Rules of policies that were looked at, in order.
    pub rules: Vec<RuleSeen>,
}

/// A threshold crossed, a refusal by a budget, a forecast, a silence, a key that ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alert {
    /// Empty where it is about no budget.
    pub budget: String,
    pub period: String,
    /// `actual`, `denied`, `overrun`, `forecast`, `no_data`, `key_expiry`.
    pub kind: String,
    /// Percent of the limit, for `actual`; days, for `key_expiry`.
    pub threshold: Option<u16>,
    /// A step of what is watched before or after it alerts: nobody is told. Absent = raised.
    pub stage: Option<AlertStage>,
    /// Settled and held when it was raised, the limit then, and what the period was heading for, in units of the budget's
    /// metric. Earlier versions did not say.
    pub used: Option<i128>,
    pub limit: Option<i128>,
    pub foreseen: Option<i128>,
    /// The key, for `key_expiry`.
    pub subject: Option<String>,
    /// When it ends.
    pub due: Option<Micros>,
    /// Where it goes.
    pub routes: Vec<Route>,
    /// There was nowhere to go: it is shown, and nobody was told. Earlier versions had neither routes nor this.
    pub unrouted: bool,
}

/// What happens to a forecast (and, `resolved`, to a silence) beside the alert itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AlertStage {
    /// At or over the limit for the first time: the next hour decides.
    Pending,
    /// The next hour did not agree.
    Cleared,
    /// Under 95 % of the limit again.
    Easing,
    /// No longer under 95 %: the alert stands.
    Standing,
    /// Over: it may be raised again.
    Resolved,
}

/// What became of alerts on their way to one place, or of an alert by a person's hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub step: DeliveryStep,
    /// Empty where a person did something to the alert itself.
    pub route: Route,
    /// None for a test.
    pub alerts: Vec<AlertId>,
    /// By which the receiver knows the message again.
    pub message: Option<String>,
    /// Which attempt this was, from 1.
    pub attempt: u16,
    pub next_at: Option<Micros>,
    /// Where it goes instead.
    pub to: Option<Route>,
    /// How it went, without addresses and secrets.
    pub detail: Option<String>,
    /// Who asked for it.
    pub actor: Option<Actor>,
}

impl Delivery {
    /// A step and nothing else yet.
    pub fn of(step: DeliveryStep) -> Delivery {
        Delivery {
            step,
            route: Route::default(),
            alerts: Vec::new(),
            message: None,
            attempt: 0,
            next_at: None,
            to: None,
            detail: None,
            actor: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryStep {
    /// A message was put together of these alerts: it stays the same at every attempt.
    Sending,
    Delivered,
    /// Tried again at `next_at`.
    Failed,
    /// Given up; a person may have it tried again.
    Dead,
    /// Quiet hours: told together with others at `next_at`.
    Held,
    /// Its place cannot take it: it goes to another.
    Moved,
    /// There is no place that could take it.
    Undeliverable,
    /// A test message: nothing waits for it.
    Test,
    /// What was given up is tried again.
    Again,
    /// Somebody has seen it.
    Acknowledged,
    /// Somebody says that it is over.
    Resolved,
}

/// A step of a staged `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    pub actor: Actor,
    pub step: ApplyStep,
    /// Sequence of the first staged entry, how many there are, and the hash over their group 0: SHA-256 of (hash before,
    /// group 0), from 32 zero bytes on. As of this entry.
    pub first: u64,
    pub count: u64,
    pub sha256: [u8; 32],
    /// Of budgets that count from this entry on.
    pub openings: Vec<BudgetOpening>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyStep {
    /// States what staged budgets have posted already.
    Openings,
    /// All of it is in force from here on.
    Effect,
    /// None of it ever will be: who sent it did not come to an end.
    Dropped,
}

/// An opening with the budget it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetOpening {
    pub budget: String,
    pub period: String,
    pub posted: i128,
}

/// What a period of a budget had posted before the budget (or its change) took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub period: String,
    pub posted: i128,
}

/// Groups 1 to 4 of an entry, each CBOR of its own: erasable, so never needed for a sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasable {
    /// Group 1.
    pub network: Option<Network>,
    /// Group 2: what may name a person.
    pub person: Option<Person>,
    /// Group 3: keyed fingerprints of content.
    pub content: Option<Content>,
    /// Group 4: the vendor's usage object as it came, at most 4 KiB of JSON.
    pub vendor_usage: Option<String>,
}

/// Group 1: dropped after 90 days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Whole address and port.
    pub peer: Option<String>,
    pub user_agent: Option<String>,
    pub trace_id: Option<String>,
    pub parent_id: Option<String>,
}

/// Group 2: sealed under the tenant's data key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// What the caller claimed about itself or its user.
    pub claimed: std::collections::BTreeMap<String, String>,
    /// Free text a person typed as a reason.
    pub reason: Option<String>,
}

/// Group 3: sealed under the tenant's data key, dropped after 30 days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// HMAC of the request body: tells a retry or a loop from a new request.
    pub body: Option<[u8; 32]>,
}

/// An entry decided but not yet in the journal: the writer gives it sequence, time and salts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub body: Body,
    /// The entry this one completes or amends.
    pub reference: Option<u64>,
    pub erasable: Erasable,
}

/// An entry in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub ts: Micros,
    pub reference: Option<u64>,
    pub body: Body,
}
