//! Time: UTC microseconds, one type. Layers 0 to 2 never ask what time it is; they are told.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

/// Microseconds in one second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in one quarter of an hour, the grain of rollups: every civil time zone is a whole number of them off UTC.
pub const QUARTER: i64 = 900 * SECOND;

/// A text that is not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instant: write RFC 3339 such as 2026-11-23T18:00:00Z")]
pub struct TimeError(pub String);

impl Micros {
    /// As a jiff timestamp; instants outside years -9999..9999 are clamped.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }

    /// From a jiff timestamp.
    pub fn from_timestamp(t: Timestamp) -> Micros {
        Micros(t.as_microsecond())
    }

    /// `self + seconds`.
    pub const fn plus_seconds(self, seconds: i64) -> Micros {
        Micros(self.0.saturating_add(seconds.saturating_mul(SECOND)))
    }

    /// The UTC calendar month this instant is in, as `2026-11`: the name of its journal file.
    pub fn utc_month(self) -> String {
        let date = jiff::tz::TimeZone::UTC.to_datetime(self.timestamp()).date();
        format!("{:04}-{:02}", date.year(), date.month())
    }
}

/// RFC 3339 in UTC with six decimals: `2026-11-23T18:00:00.123456Z`.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.timestamp())
    }
}

impl FromStr for Micros {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Micros, TimeError> {
        text.parse::<Timestamp>().map(Micros::from_timestamp).map_err(|_| TimeError(text.chars().take(60).collect()))
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_i64(self.0) }
    }
}
impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Micros, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(d).map(Micros)
        }
    }
}
impl schemars::JsonSchema for Micros {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Instant".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_print_as_rfc_3339_with_microseconds() {
        let t: Micros = "2026-11-23T19:00:00.123456+01:00".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-23T18:00:00.123456Z");
        assert_eq!(Micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(t.utc_month(), "2026-11");
    }
}
