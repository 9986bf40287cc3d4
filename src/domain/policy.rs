//! Policies as declared: which calls one covers, what it allows them, and what becomes of a call that breaks a rule.
//!
//! Nothing is judged here: see [`crate::policy`]. Every rule is optional, and a policy without one is refused where it is
//! declared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Dimension;
use super::money::Money;

/// What becomes of a call that breaks a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It passes; its record says what the rule would have done.
    Observe,
    /// It passes, and its caller is told by `wb-policy-warning`.
    Warn,
    /// It is refused, or changed where the rule changes calls.
    #[default]
    Enforce,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        ["observe", "warn", "enforce"][self as usize]
    }
}

/// Which calls a rate of a policy counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each key for itself.
    #[default]
    Key,
    /// Each service, with all its keys.
    Service,
    /// All that the policy covers.
    Policy,
}

impl Per {
    pub const fn name(self) -> &'static str {
        ["key", "service", "policy"][self as usize]
    }
}

/// What becomes of a model that the price book has no price for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unpriced {
    /// Refused.
    Deny,
    /// Held and charged at the dearest price of its family in the provider's list, marked as estimated; refused under a
    /// hard budget where no model of its family has a price.
    FamilyMax,
    /// Passes; its cost stays unknown.
    Allow,
}

impl Unpriced {
    pub const fn name(self) -> &'static str {
        ["deny", "family_max", "allow"][self as usize]
    }
}

/// A cheaper model for when a budget nears its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Downgrade {
    /// From less than this percentage of any money budget that covers the call on.
    pub below_percent: u8,
    /// The model the provider is asked for instead: one of the same provider.
    pub to: String,
}

/// A rule on what may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub id: String,
    pub matches: BTreeMap<Dimension, String>,
    /// Only these models: globs, or classes of price such as `class:low` ([`PriceClass`]).
    pub allow_models: Option<Vec<String>>,
    /// Not these models.
    pub deny_models: Vec<String>,
    /// Vendor paths we do not meter may pass although a hard budget covers the caller.
    pub allow_unmetered: bool,
    /// A model without a price may be called although a hard budget covers the caller; its cost stays unknown.
    pub allow_unpriced: bool,
    /// A call whose input we cannot see (stored conversation, files, hosted search) may pass under a hard budget without
    /// holding the model's whole context window, and under `max_input_tokens`.
    pub allow_unbounded: bool,
    /// Policies are looked at in this order.
    pub position: u32,
    pub mode: Mode,
    /// Endpoints by their names on record (`chat.completions`, `messages`, …; globs).
    pub allow_endpoints: Option<Vec<String>>,
    pub deny_endpoints: Vec<String>,
    /// Tools a request may offer, by name; of tools that the provider runs itself, by type (globs).
    pub allow_tools: Option<Vec<String>>,
    pub deny_tools: Vec<String>,
    pub allow_providers: Option<Vec<String>>,
    pub deny_providers: Vec<String>,
    /// Regions (globs) calls may go to: where the request asks for one, else that of the provider.
    pub allow_regions: Option<Vec<String>>,
    /// Where calls may come from: the peer of the connection.
    pub allow_networks: Option<Vec<IpNet>>,
    pub deny_networks: Vec<IpNet>,
    /// Headers a request must bring, lower case.
    pub require_headers: BTreeSet<String>,
    /// The owner must be declared with a name or an address.
    pub require_owner: bool,
    /// Fields of the attribution that must not be unassigned.
    pub require_fields: BTreeSet<String>,
    /// When calls may be made, in the organisation's zone; empty = always.
    pub hours: Vec<Hours>,
    /// Most output per answer: written into the request.
    pub max_output_tokens: Option<u64>,
    /// Most input, as it is estimated.
    pub max_input_tokens: Option<u64>,
    pub max_calls_per_minute: Option<u32>,
    pub max_tokens_per_minute: Option<u32>,
    pub max_concurrent: Option<u32>,
    pub per: Per,
    /// How long a call over a rate waits for its turn before it is refused, in milliseconds.
    pub queue_ms: Option<u32>,
    pub downgrade: Option<Downgrade>,
    pub unpriced_policy: Option<Unpriced>,
}

impl Policy {
    /// Whether it limits rates: what calls do together, which no single call can be judged by.
    pub fn has_rates(&self) -> bool {
        self.max_calls_per_minute.is_some() || self.max_tokens_per_minute.is_some() || self.max_concurrent.is_some()
    }

    /// Whether it says anything at all.
    pub fn has_rules(&self) -> bool {
        let plain = Policy {
            id: self.id.clone(),
            matches: self.matches.clone(),
            position: self.position,
            mode: self.mode,
            per: self.per,
            queue_ms: self.queue_ms,
            ..Policy::default()
        };
        plain != *self
    }
}

/// What a rule did with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleResult {
    /// The call keeps it.
    Allowed,
    /// Broken, in a policy that only observes.
    Observed,
    /// Broken, and its caller was told.
    Warned,
    /// The call was changed to keep it.
    Changed,
    /// Broken: refused.
    Denied,
    /// Not judged: what it asks about is not known of this call, or it cannot be changed so. The note says which.
    Unknown,
}

impl RuleResult {
    pub const ALL: [RuleResult; 6] = [
        RuleResult::Allowed,
        RuleResult::Observed,
        RuleResult::Warned,
        RuleResult::Changed,
        RuleResult::Denied,
        RuleResult::Unknown,
    ];
    pub const fn name(self) -> &'static str {
        ["allowed", "observed", "warned", "changed", "denied", "unknown"][self as usize]
    }
}

/// A rule that was looked at, as the record of a call has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleSeen {
    /// `policy:…`, `key`, `environment:…`.
    pub by: String,
    /// As in the configuration: `deny_models`.
    pub rule: String,
    pub result: RuleResult,
    /// What it found or changed, where that is not plain: `4096`, `gpt-5 → gpt-5-mini`.
    pub note: Option<String>,
}

/// Classes of models by the list price of a million output tokens (of input tokens where a model has no output): what
/// `class:…` in a list of models stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceClass {
    /// Costs nothing.
    Free,
    /// Up to 2 USD.
    Low,
    /// Up to 10 USD.
    Mid,
    /// Up to 30 USD.
    High,
    /// More.
    Top,
    /// The price book has no price.
    Unpriced,
}

/// What a pattern for classes begins with.
pub const CLASS: &str = "class:";

impl PriceClass {
    pub const ALL: [PriceClass; 6] =
        [PriceClass::Free, PriceClass::Low, PriceClass::Mid, PriceClass::High, PriceClass::Top, PriceClass::Unpriced];

    pub const fn name(self) -> &'static str {
        ["free", "low", "mid", "high", "top", "unpriced"][self as usize]
    }

    /// The class of a price per million tokens; absent = no price.
    pub fn of(per_million: Option<Money>) -> PriceClass {
        let usd = |n: i128| Money(n * 1_000_000_000_000_000);
        match per_million {
            None => PriceClass::Unpriced,
            Some(price) if price.is_zero() => PriceClass::Free,
            Some(price) if price <= usd(2) => PriceClass::Low,
            Some(price) if price <= usd(10) => PriceClass::Mid,
            Some(price) if price <= usd(30) => PriceClass::High,
            Some(_) => PriceClass::Top,
        }
    }
}

/// A weekly window, such as `mon-fri 08:00-18:00`: from the first minute until before the last, by the clock on the wall.
/// One that ends before it begins goes on into the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Bit 0 = Monday.
    days: u8,
    /// Minutes of the day: 0 to 1439, and 1 to 1440.
    from: u16,
    to: u16,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Hours {
    /// Whether it is open. `weekday`: 0 = Monday; `minute` of the day.
    pub fn open(self, weekday: u8, minute: u16) -> bool {
        let on = |day: u8| self.days & (1 << (day % 7)) != 0;
        if self.from < self.to {
            return on(weekday) && (self.from..self.to).contains(&minute);
        }
        (on(weekday) && minute >= self.from) || (on(weekday + 6) && minute < self.to)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut day = 0;
        let mut first = true;
        while day < 7 {
            if self.days & (1 << day) == 0 {
                day += 1;
                continue;
            }
            let until = (day..7).take_while(|d| self.days & (1 << d) != 0).last().unwrap_or(day);
            let comma = if first { "" } else { "," };
            first = false;
            match until - day {
                0 => write!(f, "{comma}{}", DAYS[day])?,
                _ => write!(f, "{comma}{}-{}", DAYS[day], DAYS[until])?,
            }
            day = until + 1;
        }
        let clock = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
        write!(f, " {}-{}", clock(self.from), clock(self.to))
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Hours, String> {
        let wrong = || format!("`{text}` is not a window: write days and times such as \"mon-fri 08:00-18:00\"");
        let (days, times) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let day = |name: &str| DAYS.iter().position(|d| d.eq_ignore_ascii_case(name.trim()));
        let mut set = 0u8;
        for part in days.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (day(from).ok_or_else(wrong)?, day(to).ok_or_else(wrong)?);
            // `fri-mon` goes over the end of the week.
            let length = (to + 7 - from) % 7;
            (0..=length).for_each(|n| set |= 1 << ((from + n) % 7));
        }
        let clock = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let two =
                |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u16>().ok())?;
            let at = two(hour)? * 60 + two(minute).filter(|m| *m < 60)?;
            (at <= 24 * 60).then_some(at)
        };
        let (from, to) = times.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (clock(from).ok_or_else(wrong)?, clock(to).ok_or_else(wrong)?);
        if from >= 24 * 60 || to == 0 || from == to {
            return Err(wrong());
        }
        Ok(Hours { days: set, from, to })
    }
}

impl Serialize for Hours {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Hours, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_written_and_open_when_they_say() {
        for (text, written) in [
            ("mon-fri 08:00-18:00", "mon-fri 08:00-18:00"),
            ("MON,wed 00:00-24:00", "mon,wed 00:00-24:00"),
            ("fri-mon 22:00-06:00", "mon,fri-sun 22:00-06:00"),
        ] {
            assert_eq!(text.parse::<Hours>().unwrap().to_string(), written);
        }
        for bad in
            ["", "mon", "mon 8:00-18:00", "mon 08:00-08:00", "mon 24:00-25:00", "may 08:00-18:00", "mon 08:60-09:00"]
        {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
        let day: Hours = "mon-fri 08:00-18:00".parse().unwrap();
        assert!(day.open(0, 480) && day.open(4, 1_079) && !day.open(4, 1_080) && !day.open(5, 600));
        let night: Hours = "sun 22:00-06:00".parse().unwrap();
        assert!(night.open(6, 1_320) && night.open(0, 359) && !night.open(0, 360) && !night.open(6, 100));
    }

    #[test]
    fn classes_go_by_price_and_unknown_is_none_of_them() {
        let of = |usd: &str| PriceClass::of(Some(usd.parse().unwrap())).name();
        assert_eq!(
            ["0", "0.4", "2", "2.01", "10", "15", "30", "75"].map(of),
            ["free", "low", "low", "mid", "mid", "high", "high", "top"]
        );
        assert_eq!(PriceClass::of(None).name(), "unpriced");
    }
}
