//! Money: an exact count of 10⁻¹⁵ US dollars.
//!
//! List prices have at most six decimals per million tokens, so a token's price is a whole number of 10⁻¹² USD and a
//! discount with three more decimals still divides exactly. Outside the process money is a decimal string, never a float.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount in units of 10⁻¹⁵ USD. Negative amounts exist (corrections); arithmetic that overflows panics in every
/// profile, because an i128 of this unit holds 1.7 × 10²³ dollars and no input can reach it through checked parsing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub i128);

/// Units of [`Money`] in one US dollar.
pub const UNITS_PER_USD: i128 = 1_000_000_000_000_000;
/// Largest amount accepted from outside: a trillion dollars. Keeps sums of any realistic number of rows inside i128.
const MAX_USD: i128 = 1_000_000_000_000;

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount: write US dollars as a decimal such as 12.50, at most 15 decimals and 10^12 dollars")]
pub struct MoneyError(pub String);

impl Money {
    /// No money.
    pub const ZERO: Money = Money(0);

    /// A whole number of dollars.
    pub const fn usd(dollars: i64) -> Money {
        Money(dollars as i128 * UNITS_PER_USD)
    }

    /// True for amounts below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// True for exactly nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Adds without overflow, at the ends of the range if need be.
    pub const fn saturating_add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }

    /// `self × n`, at the ends of the range if need be. `n` is a count such as tokens.
    pub const fn times(self, n: u64) -> Money {
        Money(self.0.saturating_mul(n as i128))
    }

    /// The amount rounded half-even to `decimals` places, for people. Sums are never made of rounded amounts.
    pub fn rounded(self, decimals: u32) -> String {
        let decimals = decimals.min(15);
        let step = 10i128.pow(15 - decimals);
        let mut quotient = self.0.div_euclid(step);
        let rest = self.0.rem_euclid(step) * 2;
        if rest > step || (rest == step && quotient % 2 != 0) {
            quotient += 1;
        }
        let sign = if quotient < 0 { "-" } else { "" };
        let quotient = quotient.unsigned_abs();
        let unit = 10u128.pow(decimals);
        if decimals == 0 {
            return format!("{sign}{quotient}");
        }
        format!("{sign}{}.{:0width$}", quotient / unit, quotient % unit, width = decimals as usize)
    }
}

/// Exact decimal: no exponent, no trailing zeros (`0.001645`, `0`, `-3.5`).
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let unit = UNITS_PER_USD as u128;
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (magnitude / unit, magnitude % unit);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:015}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Money, MoneyError> {
        let error = || MoneyError(text.chars().take(40).collect());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 13 || fraction.len() > 15 || !all_digits(whole) || !all_digits(fraction) {
            return Err(error());
        }
        if digits.ends_with('.') {
            return Err(error());
        }
        let whole: i128 = whole.parse().map_err(|_| error())?;
        if whole > MAX_USD {
            return Err(error());
        }
        let fraction: i128 = format!("{fraction:0<15}").parse().map_err(|_| error())?;
        let units = whole * UNITS_PER_USD + fraction;
        Ok(Money(if negative { -units } else { units }))
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.checked_add(other.0).expect("money overflow"))
    }
}
impl Sub for Money {
    type Output = Money;
    fn sub(self, other: Money) -> Money {
        Money(self.0.checked_sub(other.0).expect("money overflow"))
    }
}
impl Neg for Money {
    type Output = Money;
    fn neg(self) -> Money {
        Money(-self.0)
    }
}
impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}
impl SubAssign for Money {
    fn sub_assign(&mut self, other: Money) {
        *self = *self - other;
    }
}
impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(iter: I) -> Money {
        iter.fold(Money::ZERO, Add::add)
    }
}

/// A decimal string where people read it (JSON, TOML), the plain integer in our own binary encodings.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_i128(self.0) }
    }
}
impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Money, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            i128::deserialize(d).map(Money)
        }
    }
}
impl schemars::JsonSchema for Money {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Money".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": r"^-?\d{1,13}(\.\d{1,15})?$",
            "description": "US dollars as a decimal string: no exponent, no trailing zeros"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_print_without_exponent_or_trailing_zeros() {
        for (units, text) in [
            (0, "0"),
            (UNITS_PER_USD, "1"),
            (1, "0.000000000000001"),
            (1_645_000_000_000, "0.001645"),
            (-3_500_000_000_000_000, "-3.5"),
        ] {
            assert_eq!(Money(units).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_decimal_is_refused() {
        for text in
            ["", ".", "1.", ".5", "1e3", "+1", "1,5", "--1", "0.0000000000000001", "99999999999999", "NaN", "１"]
        {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
    }

    #[test]
    fn rounding_is_half_even() {
        let m = |t: &str| t.parse::<Money>().unwrap();
        assert_eq!(m("0.125").rounded(2), "0.12");
        assert_eq!(m("0.135").rounded(2), "0.14");
        assert_eq!(m("-0.125").rounded(2), "-0.12");
        assert_eq!(m("2.5").rounded(0), "2");
        assert_eq!(m("1.999").rounded(2), "2.00");
    }

    proptest! {
        #[test]
        fn text_and_amount_are_one_to_one(units in -1_000_000_000_000_000_000_000_000i128..1_000_000_000_000_000_000_000_000) {
            prop_assert_eq!(Money(units).to_string().parse::<Money>().unwrap(), Money(units));
        }
    }
}
