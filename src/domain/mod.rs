//! The nouns of the product and their invariants. This layer imports nothing of ours and does no I/O.

pub mod budget;
pub mod call;
pub mod catalogue;
pub mod filter;
pub mod id;
pub mod identity;
pub mod key;
pub mod money;
pub mod notify;
pub mod pause;
pub mod policy;
pub mod refusal;
pub mod time;
pub mod trust;
pub mod usage;
pub mod view;

pub use budget::{
    Allocation, AllocationKind, Allowance, Budget, Enforcement, Limit, Metric, MidstreamExceed, PeriodKind,
    Reservation, Rollover,
};
pub use call::{Call, CostBasis, CostLine, Outcome, UsageBasis};
pub use catalogue::{Catalogue, Change, Key, Organisation, Owner, PriceOverride, Provider, Service};
pub use filter::{Dimension, Filter, Match};
pub use id::CallId;
pub use identity::{Assurance, Attribution, Charge, Environment, ServiceKind};
pub use money::Money;
pub use notify::Notify;
pub use pause::{Pause, PauseKind};
pub use policy::Policy;
pub use refusal::{Code, Refusal};
pub use time::Micros;
pub use usage::{Component, Usage};
pub use view::{CallView, PostingsView};
