//! What a call needs of each metric, how much of it fits, and when a threshold is crossed.

use crate::domain::{Metric, Money, Usage};

/// The upper bound of a call before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Cost whatever the output.
    pub fixed: Money,
    /// Price of one output token; absent = no price, and money budgets hold nothing.
    pub per_output_token: Option<Money>,
    pub input_tokens: u64,
}

impl Bound {
    /// The hold in money for so many output tokens; zero where there is no price.
    pub fn cost(&self, output: u64) -> Money {
        self.per_output_token.map_or(Money::ZERO, |price| self.fixed.saturating_add(price.times(output)))
    }

    /// What a budget of this metric holds for so many output tokens. Tool calls are only known afterwards.
    pub fn need(&self, metric: Metric, output: u64) -> i128 {
        match metric {
            Metric::Usd => self.cost(output).0,
            Metric::Tokens => i128::from(self.input_tokens) + i128::from(output),
            Metric::Calls => 1,
            Metric::ToolCalls => 0,
        }
    }

    /// The most output tokens whose need is within `available`; none if not even no output is.
    pub fn affordable_output(&self, metric: Metric, available: i128) -> Option<u64> {
        let left = available - self.need(metric, 0);
        if left < 0 {
            return None;
        }
        let each = match metric {
            Metric::Usd => self.per_output_token.map_or(0, |price| price.0),
            Metric::Tokens => 1,
            Metric::Calls | Metric::ToolCalls => 0,
        };
        Some(if each <= 0 { u64::MAX } else { u64::try_from(left / each).unwrap_or(u64::MAX) })
    }
}

/// What a finished call posts to a budget of this metric. An unknown cost posts nothing: it is listed as unpriced instead.
pub fn actual(metric: Metric, cost: Option<Money>, usage: &Usage, tools_called: u32) -> i128 {
    match metric {
        Metric::Usd => cost.unwrap_or_default().0,
        Metric::Tokens => usage.total_tokens().unwrap_or(0).into(),
        Metric::Calls => 1,
        Metric::ToolCalls => tools_called.into(),
    }
}

/// Whether `used` (settled + held) has reached `percent` of the limit. Nothing used crosses nothing.
pub fn crossed(used: i128, limit: i128, percent: u16) -> bool {
    used > 0 && used.saturating_mul(100) >= limit.saturating_mul(percent.into())
}

/// Percent of the limit used, rounded down; of a limit of zero anything is all of it.
pub fn percent_used(used: i128, limit: i128) -> u16 {
    if used <= 0 {
        return 0;
    }
    if limit <= 0 {
        return u16::MAX;
    }
    u16::try_from(used.saturating_mul(100) / limit).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn affordable_output_is_the_most_that_fits(
            fixed in 0i128..1_000_000, price in 0i128..1000, input in 0u64..10_000, available in -1000i128..5_000_000,
            tokens in any::<bool>(),
        ) {
            let bound = Bound { fixed: Money(fixed), per_output_token: Some(Money(price)), input_tokens: input };
            let metric = if tokens { Metric::Tokens } else { Metric::Usd };
            match bound.affordable_output(metric, available) {
                None => prop_assert!(bound.need(metric, 0) > available),
                Some(u64::MAX) => prop_assert!(bound.need(metric, u64::MAX) <= available),
                Some(n) => {
                    prop_assert!(bound.need(metric, n) <= available);
                    prop_assert!(bound.need(metric, n + 1) > available);
                }
            }
        }
    }

    #[test]
    fn a_threshold_is_crossed_when_it_is_reached() {
        assert!(!crossed(49, 100, 50));
        assert!(crossed(50, 100, 50));
        assert!(!crossed(0, 0, 100), "nothing used of nothing");
        assert!(crossed(1, 0, 100));
        assert_eq!((percent_used(999, 1000), percent_used(1, 0), percent_used(-1, 5)), (99, u16::MAX, 0));
    }
}
