//! A price as listed, exactly: decimal text, and the same as a count of 10⁻¹⁵ USD for `per` units.

use std::sync::Arc;

use crate::domain::Money;
use crate::domain::money::MoneyError;

/// What `per` units of something cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// As the list has it, for receipts.
    pub text: Arc<str>,
    usd: Money,
    /// At least 1.
    pub per: u64,
}

impl Rate {
    /// Reads decimal text; a price is never negative.
    pub(super) fn parse(text: &str, per: u64) -> Result<Rate, MoneyError> {
        let usd: Money = text.parse()?;
        if usd.is_negative() || per == 0 {
            return Err(MoneyError(text.to_owned()));
        }
        Ok(Rate { text: text.into(), usd, per })
    }

    /// `quantity × rate / per`, rounded half-even to 10⁻¹⁵ USD; `None` past the range of money.
    pub(super) fn cost(&self, quantity: u64) -> Option<Money> {
        let exact = self.usd.0.checked_mul(i128::from(quantity))?;
        let per = i128::from(self.per);
        let (quotient, rest) = (exact / per, exact % per);
        let up = rest * 2 > per || (rest * 2 == per && quotient % 2 != 0);
        Some(Money(quotient + i128::from(up)))
    }

    /// The same rounded up, for bounds: the end of the range rather than nothing.
    pub(super) fn at_most(&self, quantity: u64) -> Money {
        let exact = self.usd.0.saturating_mul(i128::from(quantity));
        let per = i128::from(self.per);
        Money(exact / per + i128::from(exact % per != 0))
    }

    /// Whether one unit costs more than at `other`: compared crosswise, so exactly.
    pub(super) fn dearer_than(&self, other: &Rate) -> bool {
        self.usd.0.saturating_mul(i128::from(other.per)) > other.usd.0.saturating_mul(i128::from(self.per))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_that_do_not_terminate_round_half_even() {
        // 0.111 USD an hour, ten seconds: 37/120000 USD.
        assert_eq!(Rate::parse("0.111", 3_600).unwrap().cost(10).unwrap().to_string(), "0.000308333333333");
        let rate = Rate::parse("0.000000000000001", 2).unwrap();
        let costs: Vec<i128> = (0..6).map(|n| rate.cost(n).unwrap().0).collect();
        assert_eq!(costs, [0, 0, 1, 2, 2, 2]);
        assert_eq!(rate.at_most(1), Money(1));
    }

    #[test]
    fn a_price_is_a_decimal_that_is_not_negative() {
        for text in ["-1", "1e-6", "", "0.0000000000000001"] {
            assert!(Rate::parse(text, 1).is_err(), "{text}");
        }
        assert!(Rate::parse("1", 0).is_err());
    }

    proptest! {
        #[test]
        fn rounding_is_within_half_a_unit_and_never_above_the_bound(
            units in 0i128..1_000_000_000_000_000_000_000, n in 0u64..10_000_000_000, per in 1u64..2_000_000,
        ) {
            let rate = Rate { text: "".into(), usd: Money(units), per };
            let cost = rate.cost(n).unwrap().0;
            let distance = (cost * i128::from(per) - units * i128::from(n)).abs() * 2;
            prop_assert!(distance <= i128::from(per));
            prop_assert!(rate.at_most(n).0 >= cost);
        }

        #[test]
        fn dearer_is_what_costs_more(a in 0i128..1_000_000, b in 0i128..1_000_000, p in 1u64..1_000, q in 1u64..1_000) {
            let (x, y) = (
                Rate { text: "".into(), usd: Money(a), per: p },
                Rate { text: "".into(), usd: Money(b), per: q },
            );
            prop_assert_eq!(x.dearer_than(&y), a * i128::from(q) > b * i128::from(p));
        }
    }
}
