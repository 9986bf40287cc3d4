//! Numbers, money and times as people read them. Every page formats here and nowhere else.
//!
//! Rounded figures are for reading only: sums are made of exact amounts, receipts and exports print them exactly.

use jiff::tz::TimeZone;

use crate::domain::{Micros, Money};

/// What stands where a figure is not known. Never a zero.
pub const UNKNOWN: &str = "–";
/// Groups digits without letting a line break in between.
const THIN_SPACE: char = '\u{202f}';

/// Whole numbers in groups of three: `1 284 003`.
pub fn count(n: u64) -> String {
    group(&n.to_string())
}

fn group(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(THIN_SPACE);
        }
        out.push(c);
    }
    out
}

/// A count in at most four characters: `950`, `12.4k`, `3.1M`. The exact figure belongs in a title beside it.
pub fn short_count(n: u64) -> String {
    let (divisor, unit) = match n {
        0..1_000 => return n.to_string(),
        1_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "G"),
        _ => (1_000_000_000_000, "T"),
    };
    let tenths = n / (divisor / 10);
    if tenths >= 1_000 { format!("{}{unit}", tenths / 10) } else { format!("{}.{}{unit}", tenths / 10, tenths % 10) }
}

/// Dollars for summaries: two decimals, four below one dollar, six below a cent; never rounded down to nothing.
pub fn money(amount: Money) -> String {
    let magnitude = Money(amount.0.saturating_abs());
    let decimals = if magnitude.is_zero() || magnitude >= Money::usd(1) {
        2
    } else if magnitude.0 >= Money::usd(1).0 / 100 {
        4
    } else {
        6
    };
    let text = magnitude.rounded(decimals);
    if !magnitude.is_zero() && text.bytes().all(|b| matches!(b, b'0' | b'.')) {
        return format!("{}<0.000001", sign(amount));
    }
    format!("{}{}", sign(amount), grouped_decimal(&text))
}

/// The exact amount, digits grouped: for receipts.
pub fn exact_money(amount: Money) -> String {
    let text = Money(amount.0.saturating_abs()).to_string();
    let padded = match text.split_once('.') {
        None => format!("{text}.00"),
        Some((_, fraction)) if fraction.len() == 1 => format!("{text}0"),
        Some(_) => text,
    };
    format!("{}{}", sign(amount), grouped_decimal(&padded))
}

fn sign(amount: Money) -> &'static str {
    if amount.is_negative() { "\u{2212}" } else { "" }
}

fn grouped_decimal(text: &str) -> String {
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", group(whole)),
        None => group(text),
    }
}

/// A count that may be unknown.
pub fn maybe_count(n: Option<u64>) -> String {
    n.map_or_else(|| UNKNOWN.to_owned(), count)
}

/// `part` of `whole` in percent with one decimal: `12.5 %`. Nothing of nothing is unknown.
pub fn percent(part: i128, whole: i128) -> String {
    match per_mille(part, whole) {
        None => UNKNOWN.to_owned(),
        Some(0) if part > 0 => "<0.1\u{a0}%".to_owned(),
        Some(p) => format!("{}.{}\u{a0}%", p / 10, p % 10),
    }
}

/// `part` of `whole` in tenths of a percent, rounded half up.
pub fn per_mille(part: i128, whole: i128) -> Option<u64> {
    if whole <= 0 || part < 0 {
        return None;
    }
    let scaled = part.checked_mul(2_000).map(|p| (p / whole + 1) / 2);
    u64::try_from(scaled.unwrap_or(part / (whole / 1_000).max(1))).ok()
}

/// A change against an earlier figure: `▲ 12 %`, `▼ 3 %`, `± 0 %`, or `new` where there was nothing before.
pub fn change(now: i128, before: i128) -> String {
    if before == 0 {
        return if now == 0 { UNKNOWN.to_owned() } else { "new".to_owned() };
    }
    let difference = (now - before).saturating_abs();
    let percent = difference.saturating_mul(200).checked_div(before.saturating_abs()).map_or(0, |p| (p + 1) / 2);
    let percent = if percent > 999 { "> 999".to_owned() } else { percent.to_string() };
    match now.cmp(&before) {
        std::cmp::Ordering::Greater => format!("▲ {percent}\u{a0}%"),
        std::cmp::Ordering::Less => format!("▼ {percent}\u{a0}%"),
        std::cmp::Ordering::Equal => "± 0\u{a0}%".to_owned(),
    }
}

/// A change in words, against a span: `▲ 12 % against 1 – 23 Oct 2026`. A span without a record is no yardstick.
pub fn change_against(now: i128, before: i128, span: &str) -> String {
    if before == 0 { format!("nothing recorded {span}") } else { format!("{} against {span}", change(now, before)) }
}

/// A message cut at its backticks: text and whether it stands between two of them.
pub fn marked(message: &str) -> Vec<(&str, bool)> {
    let pieces = message.split('`').enumerate().map(|(i, text)| (text, i % 2 == 1));
    pieces.filter(|(text, _)| !text.is_empty()).collect()
}

/// Milliseconds: `840 ms`, `2.14 s`, `3 min 05 s`.
pub fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}\u{a0}ms"),
        1_000..60_000 => format!("{}.{:02}\u{a0}s", ms / 1_000, ms % 1_000 / 10),
        _ => format!("{}\u{a0}min {:02}\u{a0}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// Milliseconds that may be unknown.
pub fn maybe_duration(ms: Option<u32>) -> String {
    ms.map_or_else(|| UNKNOWN.to_owned(), |ms| duration_ms(u64::from(ms)))
}

/// Microseconds: `900 µs`, `1.25 ms`.
pub fn duration_us(us: u32) -> String {
    if us < 1_000 { format!("{us}\u{a0}µs") } else { format!("{}.{:02}\u{a0}ms", us / 1_000, us % 1_000 / 10) }
}

/// An instant in a zone, ready for `<time datetime=…>`.
#[derive(Clone, Debug)]
pub struct When {
    /// RFC 3339 in UTC, to the microsecond.
    pub datetime: String,
    /// `23 Nov 18:04:11`.
    pub short: String,
    /// `2026-11-23 18:04:11.412`.
    pub long: String,
}

/// An instant as read in a zone.
pub fn when(at: Micros, zone: &TimeZone) -> When {
    let local = at.timestamp().to_zoned_datetime(zone.clone());
    When {
        datetime: at.to_string(),
        short: local.strftime("%-d %b %H:%M:%S").to_string(),
        long: local.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    }
}

/// Bytes as hex, for hashes.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The first eight characters of a hash or id, enough to compare by eye.
pub fn head(text: &str) -> String {
    text.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn money_has_the_decimals_its_size_asks_for() {
        for (amount, expected) in [
            ("0", "0.00"),
            ("1284.456", "1\u{202f}284.46"),
            ("0.0912345", "0.0912"),
            ("0.001645", "0.001645"),
            ("0.0000000001", "<0.000001"),
            ("-3.5", "\u{2212}3.50"),
        ] {
            assert_eq!(money(m(amount)), expected, "{amount}");
        }
        assert_eq!(exact_money(m("1234.000000000000001")), "1\u{202f}234.000000000000001");
        assert_eq!(exact_money(m("3")), "3.00");
        assert_eq!(exact_money(m("0.5")), "0.50");
    }

    #[test]
    fn unknown_is_never_shown_as_zero() {
        assert_eq!(maybe_count(None), UNKNOWN);
        assert_eq!(percent(0, 0), UNKNOWN);
    }

    #[test]
    fn counts_are_grouped_and_shortened() {
        assert_eq!(count(1_284_003), "1\u{202f}284\u{202f}003");
        assert_eq!(count(12), "12");
        assert_eq!(short_count(999), "999");
        assert_eq!(short_count(12_449), "12.4k");
        assert_eq!(short_count(999_999), "999k");
        assert_eq!(short_count(3_100_000), "3.1M");
    }

    #[test]
    fn shares_and_changes_are_rounded_half_up() {
        assert_eq!(percent(1, 8), "12.5\u{a0}%");
        assert_eq!(percent(1, 100_000), "<0.1\u{a0}%");
        assert_eq!(change(112, 100), "▲ 12\u{a0}%");
        assert_eq!(change(97, 100), "▼ 3\u{a0}%");
        assert_eq!(change(5, 0), "new");
        assert_eq!(change(0, 0), UNKNOWN);
        assert_eq!(change_against(97, 100, "1 – 23 Oct 2026"), "▼ 3\u{a0}% against 1 – 23 Oct 2026");
        assert_eq!(change_against(97, 0, "1 – 23 Oct 2026"), "nothing recorded 1 – 23 Oct 2026");
        assert_eq!(per_mille(i128::MAX / 2, i128::MAX), Some(500));
    }

    #[test]
    fn what_stands_between_backticks_is_marked() {
        assert_eq!(marked("`by` is wrong"), [("by", true), (" is wrong", false)]);
        assert_eq!(marked("nothing here"), [("nothing here", false)]);
    }

    #[test]
    fn durations_use_the_unit_people_think_in() {
        assert_eq!(duration_ms(840), "840\u{a0}ms");
        assert_eq!(duration_ms(2_140), "2.14\u{a0}s");
        assert_eq!(duration_ms(185_000), "3\u{a0}min 05\u{a0}s");
        assert_eq!(duration_us(900), "900\u{a0}µs");
    }
}
