//! What the writer is asked, and what it answers. A request is not an entry: `decide` makes entries of it.

use crate::domain::{CallId, Change, Code, Micros, Money};

use crate::policy::Facts;

use super::entry::{Admit, Deny, Erasable, Settle};

/// A request to the state machine.
#[derive(Clone, Debug)]
pub enum Request {
    Admit(Box<AdmitRequest>),
    /// Ends the open attempt of a call. Ending it again changes nothing.
    Settle {
        call: CallId,
        attempt: u8,
        settle: Box<Settle>,
        erasable: Box<Erasable>,
    },
    /// The vendor's id and state of an open job (background response), so that its result finds it.
    Job {
        call: CallId,
        attempt: u8,
        vendor_id: String,
        state: String,
    },
    /// Records a refusal that was decided at the edge.
    Deny {
        deny: Box<Deny>,
        erasable: Box<Erasable>,
    },
    /// Declared state; all or nothing. `openings`: what the budgets among the changes had already posted, computed by
    /// the store from the views and the unapplied tail.
    Declare {
        actor: String,
        changes: Vec<Change>,
        openings: Vec<(String, super::entry::Opening)>,
        reason: Option<String>,
    },
    /// A part of an `apply` too large for one turn: checked like a declaration, and not in force before
    /// [`Request::Effect`]. `begin`: what was staged before and never took effect is dropped first.
    Stage {
        actor: String,
        begin: bool,
        changes: Vec<Change>,
        reason: Option<String>,
    },
    /// A declaration or openings whose budgets are still being counted: the writer adds the calls that ended last.
    Counted {
        request: Box<Request>,
        counting: Box<super::opening::Counting>,
    },
    /// What staged budgets that count anew have posted already, complete as of the decision.
    Openings {
        actor: String,
        openings: Vec<(String, super::entry::Opening)>,
    },
    /// What is staged takes effect, all at once.
    Effect {
        actor: String,
    },
    /// What is staged never will.
    Unstage {
        actor: String,
    },
    /// More for a budget than its declared limit.
    Allocate {
        actor: String,
        budget: String,
        what: Allocate,
        reason: Option<String>,
    },
    /// An open call wants to hold so many more output tokens, ahead of its stream. Fewer may be granted.
    Extend {
        call: CallId,
        attempt: u8,
        per_output_token: Money,
        tokens: u64,
    },
    /// Something an operator did that changes no declared state (signed in, exported).
    Admin {
        actor: String,
        action: String,
        subject: Option<String>,
        reason: Option<String>,
    },
    /// Start-up: settle whatever died with the process. Jobs live at the vendor and stay open.
    InterruptAll,
    /// Settle what has outlived its lease.
    ExpireLeases,
    Gap {
        reason: String,
        count: u64,
        quotes: Option<String>,
    },
    /// The hourly look at forecasts, silences and the ends of keys.
    Evaluate(Box<Evaluation>),
    /// What became of alerts, by a receiver or by a person. Answered as a settlement: `changed` is false where nothing of
    /// it is on its way (any more).
    Deliver {
        delivery: Box<super::entry::Delivery>,
        reason: Option<String>,
    },
    /// A key of ours was made: see [`super::entry::Body::Key`].
    Key {
        purpose: String,
        vkey: String,
        actor: String,
        reason: Option<String>,
    },
}

/// What is asked for a budget; a reset's amount is known when it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// So much more, in units of its metric, until an instant.
    Raise { by: i128, until: Micros },
    /// What the current period has posted does not count against its limit any more.
    Reset,
    /// The band of `grace_pct` is open until an instant.
    Grant { until: Micros },
}

/// What an hourly look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    pub outlooks: Vec<BudgetOutlook>,
    /// Keys whose end may have to be announced.
    pub keys: Vec<String>,
}

/// Where a budget is going, in units of its metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetOutlook {
    pub budget: String,
    /// The period it is about: another one by the time of the decision, and it is passed over.
    pub period: String,
    /// Settled and held.
    pub used: i128,
    pub limit: i128,
    /// Absent: there is no forecast, or nobody wants to be told.
    pub foreseen: Option<i128>,
    /// Nothing comes although it used to.
    pub silent: bool,
}

/// A call that wants to go upstream.
#[derive(Clone, Debug)]
pub struct AdmitRequest {
    /// As it will be recorded; `hold`, `holds`, `output_bound` and `output_limit` are filled in by `decide`.
    pub admit: Admit,
    pub erasable: Erasable,
    /// Cost that does not depend on the output: input at its upper bound, request fees.
    pub fixed: Money,
    /// Price of one output token; absent = the model has no price.
    pub per_output_token: Option<Money>,
    /// Output tokens wanted, per choice: the caller's own cap, else the model's maximum.
    pub output_wanted: u64,
    /// The caller set no cap and the dialect can write one into the request: `decide` may lower the output to what the
    /// budgets afford, but not under 256 tokens.
    pub may_limit_output: bool,
    /// How many answers the cap is for (`n`), at least 1: tokens held are cap × choices.
    pub choices: u64,
    /// Output tokens of such calls as a rule, all choices together, for budgets whose reservation is `expected`; absent =
    /// the call cannot be extended and holds its upper bound under any.
    pub expected_output: Option<u64>,
    /// The caller's `wb-max-cost`.
    pub max_cost: Option<Money>,
    /// A call without a price may go although a hard budget covers it.
    pub allow_unpriced: bool,
    /// A path we do not meter may go although a hard budget covers the caller.
    pub allow_unmetered: bool,
    /// What policies asked about and what they changed.
    pub policy: Judged,
}

/// What the edge tells of the policies it judged a call by.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// For another look, should policies have changed meanwhile; absent where there was no policy.
    pub facts: Option<Box<Facts>>,
    /// The output cap that a policy writes into the request, in tokens per choice. `output_wanted` is not above it.
    pub output_limit: Option<u64>,
}

/// The answer to a request, given once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Admitted(Admitted),
    Denied(Denied),
    /// A settlement: the sequence of its entry. `false`: the attempt was not open (any more), nothing changed.
    Settled {
        seq: Option<u64>,
        changed: bool,
    },
    /// The call holds so many more output tokens.
    Extended {
        tokens: u64,
    },
    Recorded {
        seq: u64,
    },
    Declared {
        revision: u64,
    },
}

/// Go: with this hold, under this cap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Sequence of the ADMIT.
    pub seq: u64,
    /// Journal time: the instant that counts.
    pub at: Micros,
    pub hold: Money,
    /// To be written into the request, in tokens per choice.
    pub output_limit: Option<u64>,
    /// Output tokens of all choices together that the hold covers, where it is less than the upper bound: the stream has to
    /// be extended before it passes them.
    pub covers: Option<u64>,
    /// What the tightest money budget has left after this hold.
    pub remaining: Option<Money>,
    /// A budget past a warning threshold (settled + held): its id and percent used.
    pub warning: Option<(String, u16)>,
}

/// Refused by a budget or because the catalogue moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub seq: u64,
    pub at: Micros,
    pub code: Code,
    pub by: Option<String>,
    pub message: String,
    pub resets_at: Option<Micros>,
    pub remaining: Option<Money>,
}
