//! Why a call was refused: the codes callers, records and help pages share.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::money::Money;
use super::time::Micros;

// One table, so that number, name and status cannot drift apart.
macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $status:literal;)*) => {
        /// A refusal's code. The number is what the journal stores: never renumber, only append.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Code { $($variant = $number),* }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];
            /// The code as callers and records read it.
            pub const fn name(self) -> &'static str { match self { $(Code::$variant => $name),* } }
            /// The HTTP status, where the caller's dialect or client needs no other.
            pub const fn status(self) -> u16 { match self { $(Code::$variant => $status),* } }
        }
    };
}

codes! {
    Malformed = 0, "malformed", 400;
    CredentialAmbiguous = 1, "credential_ambiguous", 400;
    CredentialInQuery = 2, "credential_in_query", 400;
    HeaderMismatch = 3, "header_mismatch", 400;
    CredentialMissing = 4, "credential_missing", 401;
    KeyInvalid = 5, "key_invalid", 401;
    KeyExpired = 6, "key_expired", 401;
    VendorKeyPresented = 7, "vendor_key_presented", 401;
    BudgetExceeded = 8, "budget_exceeded", 402;
    MaxCostExceeded = 9, "max_cost_exceeded", 402;
    PolicyDenied = 10, "policy_denied", 403;
    TenantNotPermitted = 11, "tenant_not_permitted", 403;
    WorkflowNotPermitted = 12, "workflow_not_permitted", 403;
    ModelUnpriced = 13, "model_unpriced", 403;
    UnmeteredPath = 14, "unmetered_path", 403;
    Paused = 15, "paused", 403;
    AnomalyHold = 16, "anomaly_hold", 403;
    ModelNotAllowed = 17, "model_not_allowed", 404;
    UnknownPath = 18, "unknown_path", 404;
    TooLarge = 19, "too_large", 413;
    UnsupportedEncoding = 20, "unsupported_encoding", 415;
    IdempotencyReplay = 21, "idempotency_replay", 422;
    RateLimited = 22, "rate_limited", 429;
    UpstreamUnavailable = 23, "upstream_unavailable", 503;
    JournalUnavailable = 24, "journal_unavailable", 503;
    MethodNotAllowed = 25, "method_not_allowed", 405;
    UpgradeNotSupported = 26, "upgrade_not_supported", 426;
    RequestTimeout = 27, "request_timeout", 408;
    Stopped = 28, "stopped", 403;
}

impl Code {
    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.name() == name)
    }

    /// The code with that journal number.
    pub fn from_number(number: u8) -> Option<Code> {
        Code::ALL.get(number as usize).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.serialize_str(self.name()) } else { s.serialize_u8(*self as u8) }
    }
}
impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Code, D::Error> {
        let code = if d.is_human_readable() {
            Code::from_name(&String::deserialize(d)?)
        } else {
            Code::from_number(u8::deserialize(d)?)
        };
        code.ok_or_else(|| serde::de::Error::custom("unknown refusal code"))
    }
}

/// A refusal as the caller is told it, before a dialect gives it its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// What refused: `budget:invoice-bot-month`, `policy:no-frontier-in-test`.
    pub by: Option<String>,
    /// One or two sentences that say what happened and the way out. Shown verbatim by most clients, so it names the
    /// thing and the value, and nothing that the caller may not know.
    pub message: String,
    /// When a budget refused: the start of its next period.
    pub resets_at: Option<Micros>,
    /// When a budget refused: what is left of it.
    pub remaining: Option<Money>,
    /// When a rate refused, or the provider is down: seconds after which a retry makes sense (1 to 30).
    pub retry_after_s: Option<u8>,
}

impl Refusal {
    /// A refusal with nothing but a code and its message.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, by: None, message: message.into(), resets_at: None, remaining: None, retry_after_s: None }
    }
}
