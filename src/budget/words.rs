//! What a caller is told when a budget refuses: shown verbatim by most SDKs, so it says what, how much and until when.

use jiff::tz::TimeZone;

use crate::domain::{Budget, Metric, Micros, Money};

/// An amount of a metric in words: `USD 500.00`, `1200 tokens`.
pub fn amount(metric: Metric, amount: i128) -> String {
    let unit = match metric {
        Metric::Usd => return format!("USD {}", dollars(Money(amount))),
        Metric::Tokens => "tokens",
        Metric::Calls => "calls",
        Metric::ToolCalls => "tool calls",
    };
    format!("{amount} {unit}")
}

/// Two decimals, or up to six where cents would hide the amount.
pub fn dollars(money: Money) -> String {
    let cents = money.rounded(2);
    if cents.parse() == Ok(money) {
        return cents;
    }
    let fine = money.rounded(6);
    let kept = fine.trim_end_matches('0').len().max(fine.find('.').map_or(0, |dot| dot + 3));
    fine[..kept].to_owned()
}

/// `2026-12-01 00:00 UTC`.
pub fn instant(at: Micros) -> String {
    TimeZone::UTC.to_datetime(at.timestamp()).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The message of a refusal: `used` is settled + held, `limit` what may be, `need` what the call would have held.
pub fn refusal(budget: &Budget, used: i128, limit: i128, need: i128, resets_at: Option<Micros>) -> String {
    let (metric, id) = (budget.limit.metric, &budget.id);
    let bare = |n| match metric {
        Metric::Usd => dollars(Money(n)),
        _ => n.to_string(),
    };
    let mut text = if used >= limit {
        format!("Weighbridge: budget '{id}' is used up ({} of {}).", of(metric, used), bare(limit))
    } else {
        format!(
            "Weighbridge: budget '{id}' cannot afford this call ({} needed, {} left of {}).",
            amount(metric, need),
            bare(limit - used),
            bare(limit)
        )
    };
    if let Some(at) = resets_at {
        text.push_str(&format!(" Resets {}.", instant(at)));
    }
    text
}

// The unit stands once, before dollars and after the rest of `(x of y)`.
fn of(metric: Metric, n: i128) -> String {
    match metric {
        Metric::Usd => amount(metric, n),
        _ => format!("{}: {n}", amount(metric, 0).trim_start_matches("0 ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Enforcement, Limit, PeriodKind};

    fn budget(metric: Metric, amount: i128) -> Budget {
        Budget {
            enforcement: Enforcement::Hard,
            ..Budget::plain("svc-a-prod", Limit { metric, amount }, PeriodKind::Month)
        }
    }

    #[test]
    fn a_refusal_says_what_how_much_and_until_when() {
        let full = Money::usd(500).0;
        let resets = "2026-12-01T00:00:00Z".parse().ok();
        assert_eq!(
            refusal(&budget(Metric::Usd, full), full, full, 1, resets),
            "Weighbridge: budget 'svc-a-prod' is used up (USD 500.00 of 500.00). Resets 2026-12-01 00:00 UTC."
        );
        assert_eq!(
            refusal(&budget(Metric::Usd, full), full - Money::usd(1).0, full, 264_376_000_000_000 * 5, None),
            "Weighbridge: budget 'svc-a-prod' cannot afford this call (USD 1.32188 needed, 1.00 left of 500.00)."
        );
        assert_eq!(
            refusal(&budget(Metric::Calls, 37), 37, 37, 1, None),
            "Weighbridge: budget 'svc-a-prod' is used up (calls: 37 of 37)."
        );
    }
}
