//! Reads counts and amounts out of a small JSON object, such as a usage block, without trusting any of it.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::small::Small;
use crate::domain::Money;
use crate::domain::money::UNITS_PER_USD;

/// Larger counts than this are a provider's mistake: they are left out and flagged, never booked.
pub const MAX_COUNT: u64 = 1_000_000_000_000;
/// Set where a count was negative, fractional, too large or no number at all.
pub const BAD_COUNT: &str = "bad_count";

/// A usage object and what was odd about it.
#[derive(Debug)]
pub struct Counts<'a> {
    value: &'a Small<'a>,
    flags: &'a mut Vec<&'static str>,
}

impl<'a> Counts<'a> {
    pub fn new(value: &'a Small<'a>, flags: &'a mut Vec<&'static str>) -> Counts<'a> {
        Counts { value, flags }
    }

    /// The count at a path of names separated by dots. Missing and null are unknown, not 0.
    pub fn get(&mut self, path: &str) -> Option<u64> {
        self.count(at(self.value, path)?)
    }

    /// The count of that name in an object inside.
    pub fn within(&mut self, object: &str, name: &str) -> Option<u64> {
        self.count(self.value.get(object)?.get(name)?)
    }

    fn count(&mut self, value: &Small) -> Option<u64> {
        let count = match value {
            Small::Null => return None,
            Small::Count(n) => Some(*n),
            Small::Number(n) => whole(*n),
            _ => None,
        };
        match count {
            Some(n) if n <= MAX_COUNT => Some(n),
            _ => {
                flag(self.flags, BAD_COUNT);
                None
            }
        }
    }

    /// The first of several names that has a count.
    pub fn first(&mut self, paths: &[&str]) -> Option<u64> {
        paths.iter().find_map(|p| self.get(p))
    }

    pub fn flag(&mut self, name: &'static str) {
        flag(self.flags, name);
    }
}

/// `12.0` is a whole number too.
fn whole(n: f64) -> Option<u64> {
    (n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n)).then_some(n as u64)
}

/// Adds a flag once.
pub fn flag(flags: &mut Vec<&'static str>, name: &'static str) {
    if !flags.contains(&name) {
        flags.push(name);
    }
}

/// The value at a path of names separated by dots.
pub fn at<'a, 'j>(value: &'a Small<'j>, path: &str) -> Option<&'a Small<'j>> {
    path.split('.').try_fold(value, |v, name| v.get(name))
}

/// The non-empty text at a path.
pub fn text(value: &Small, path: &str) -> Option<String> {
    at(value, path)?.as_str().filter(|s| !s.is_empty()).map(str::to_string)
}

/// The amount of US dollars at a path, read from the digits themselves and never through a float.
pub fn money_at(json: &[u8], path: &str) -> Option<Money> {
    let mut value: &RawValue = serde_json::from_slice(json).ok()?;
    for name in path.split('.') {
        value = *serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get()).ok()?.get(name)?;
    }
    money(value.get())
}

/// A JSON number as US dollars, rounded half up to 10⁻¹⁵; negative, absurd or no number at all is nothing.
pub fn money(text: &str) -> Option<Money> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || whole.len() + fraction.len() > 30 || exponent.abs() > 40 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = 15 + exponent - fraction.len() as i32;
    let units = match shift {
        0..=20 => digits.checked_mul(10i128.pow(shift as u32))?,
        -38..0 => {
            let unit = 10i128.pow(shift.unsigned_abs());
            digits.checked_add(unit / 2)? / unit
        }
        _ => return if digits == 0 || shift < 0 { Some(Money::ZERO) } else { None },
    };
    (0..=1_000_000_000 * UNITS_PER_USD).contains(&units).then_some(Money(units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_cannot_be_are_absent_and_flagged() {
        for bad in ["18446744073709551615", "1e30", "-3", "1.5", "\"7\"", "[]", "99999999999999999999999"] {
            let json = format!("{{\"n\":{bad}}}");
            let value = Small::read(json.as_bytes()).unwrap();
            let mut flags = Vec::new();
            assert_eq!(Counts::new(&value, &mut flags).get("n"), None, "{bad}");
            assert_eq!(flags, [BAD_COUNT], "{bad}");
        }
        let value = Small::read(br#"{"n":12.0,"z":null,"d":{"n":3}}"#).unwrap();
        let mut flags = Vec::new();
        let mut counts = Counts::new(&value, &mut flags);
        assert_eq!(
            (counts.get("n"), counts.get("z"), counts.get("d.n"), counts.get("q")),
            (Some(12), None, Some(3), None)
        );
        assert!(flags.is_empty());
    }

    #[test]
    fn amounts_are_read_from_their_digits() {
        for (text, usd) in [
            ("0.00001234", Some("0.00001234")),
            ("1.23456e-05", Some("0.0000123456")),
            ("0", Some("0")),
            ("2E1", Some("20")),
            ("1e-30", Some("0")),
            ("1e30", None),
            ("-1", None),
            ("null", None),
            ("\"1\"", None),
        ] {
            assert_eq!(money(text).map(|m| m.to_string()).as_deref(), usd, "{text}");
        }
        assert_eq!(money_at(br#"{"cost":{"total_cost":0.005}}"#, "cost.total_cost").unwrap().to_string(), "0.005");
    }
}
