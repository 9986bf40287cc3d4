//! The burn-down of a budget: what is left, day by day, against the even pace, with the forecast's band.
//!
//! Drawn in thousandths of the period and of the limit; words and figures beside it say the same.

use crate::budget::forecast::midnight;
use crate::budget::period::zone;
use crate::control::AllocationView;
use crate::domain::Micros;
use crate::ledger::Standing;
use crate::report::Outlook;

use super::budgets;

/// Thousandths of the drawing.
const FULL: i128 = 1_000;

/// A burn-down as the page draws it.
pub struct Burn {
    pub description: String,
    /// Points of what was left: `x,y x,y`.
    pub actual: String,
    /// From now to the period's end, where it is foreseen.
    pub expected: Option<String>,
    pub band: Option<String>,
    /// Thresholds: height, percent.
    pub thresholds: Vec<(i128, u16)>,
    /// What operators did: where, words.
    pub marks: Vec<(i128, String)>,
    pub limit: String,
    pub from: String,
    pub to: String,
    /// Day, used that day, left after it.
    pub rows: Vec<(String, String, String)>,
}

/// The drawing; none for a budget without a beginning or an end, or shorter than a day.
pub fn burn(standing: &Standing, outlook: &Outlook, changes: &[AllocationView], now: Micros) -> Option<Burn> {
    let (start, end) = (standing.window.start?, standing.window.end?);
    let (limit, metric) = (standing.allowance.total(), standing.budget.limit.metric);
    if limit <= 0 || end.0 - start.0 < 20 * 3_600 * 1_000_000 {
        return None;
    }
    let zone = zone(&standing.budget.time_zone).ok()?;
    let span = i128::from(end.0 - start.0);
    let x = |at: Micros| (i128::from(at.0 - start.0) * FULL / span).clamp(0, FULL);
    // Left is up: nothing left lies at the bottom. What passes the limit stays there.
    let y = |left: i128| FULL - (left.saturating_mul(FULL) / limit).clamp(0, FULL);
    let words = |n: i128| budgets::amount(metric, n);

    // What the days do not show of the period (it began before them) was used before the first of them.
    let within = outlook.days.iter().filter(|(day, _)| midnight(*day, &zone) >= start || day_end(*day, &zone) > start);
    let days: Vec<_> = within.collect();
    let known: i128 = days.iter().map(|(_, used)| *used).sum();
    let mut used = (outlook.posted - known).max(0);
    let first = days.first().map_or(start, |(day, _)| midnight(*day, &zone).max(start));
    let mut points = vec![(0, y(limit)), (x(first), y(limit - used))];
    let mut rows = Vec::new();
    for (day, amount) in &days {
        used += *amount;
        let at = day_end(*day, &zone).min(now).min(end);
        points.push((x(at), y(limit - used)));
        rows.push((day.strftime("%-d %b").to_string(), words(*amount), words(limit - used)));
    }
    let at = (x(now), y(limit - outlook.posted));
    points.push(at);
    let text = |points: &[(i128, i128)]| points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
    let foreseen = outlook.forecast.as_ref().ok();
    let day = |at: Micros| at.timestamp().to_zoned_datetime(zone.clone()).strftime("%-d %b").to_string();
    Some(Burn {
        description: format!(
            "Of {} {} on {}, {} are left; the period ends on {}{}",
            budgets::unit(metric),
            words(limit),
            day(start),
            words(limit - outlook.posted),
            day(end),
            foreseen.map_or_else(String::new, |f| format!(", when about {} will be used", words(f.amount)))
        ),
        actual: text(&points),
        expected: foreseen.map(|f| text(&[at, (FULL, y(limit - f.amount))])),
        band: foreseen.map(|f| text(&[at, (FULL, y(limit - f.low)), (FULL, y(limit - f.high))])),
        thresholds: {
            let within = standing.budget.alert_at_percent.iter().filter(|p| **p < 100);
            within.map(|p| (y(limit.saturating_mul((100 - i128::from(*p)).max(0)) / 100), *p)).collect()
        },
        marks: changes
            .iter()
            .filter(|c| c.at >= start && c.at < end)
            .map(|c| (x(c.at), format!("{} by {}", c.kind, c.actor)))
            .collect(),
        limit: words(limit),
        from: day(start),
        to: day(end),
        rows,
    })
}

fn day_end(day: jiff::civil::Date, zone: &jiff::tz::TimeZone) -> Micros {
    midnight(day.tomorrow().unwrap_or(day), zone)
}
