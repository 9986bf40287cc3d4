//! Where a budget's period will end: medians of weekdays, an hourly profile for the rest of today, and an interval.
//!
//! With ten whole days of history or more, `F = posted + Σ m(weekday)` over the days that are left, `m` being the median
//! of that weekday's use over the last four weeks; of today only the share that the hourly profile says is still to come.
//! With three to nine days the period's use is taken to go on as it did: `posted / elapsed fraction`. With fewer there is
//! no forecast, and it is said so. The interval is the tenth to the ninetieth percentile of what the last 28 days were off
//! by, drawn for each day that is left by a generator with a fixed seed: the same history gives the same interval.
//!
//! All of it in integers of the budget's metric, in the budget's own zone.

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::Window;
use crate::domain::Micros;

/// Whole days that are looked at: four of each weekday.
pub const DAYS: usize = 28;
/// Whole days from which weekdays tell more than an average.
const ENOUGH: usize = 10;
/// Whole days below which nothing is said.
const LEAST: usize = 3;
/// Drawn sums of what days were off by.
const DRAWS: usize = 1_000;
/// Shares are counted in parts of a million.
const WHOLE: i128 = 1_000_000;
/// Shortest period that is foreseen, in hours: a day of 23 is one.
const SHORTEST_HOURS: i64 = 20;

/// What a budget's metric came to, cut in the budget's zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Whole days before today, oldest first, without a gap; the last is yesterday. At most [`DAYS`], and none before the
    /// first of them that had any use.
    pub days: Vec<i128>,
    /// The same days by the hour of the local clock.
    pub hours: [i128; 24],
    /// Today so far.
    pub today: i128,
}

/// How an amount was foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Medians of weekdays over four weeks.
    Weekdays,
    /// The period goes on as it did so far.
    Elapsed,
}

impl Method {
    pub const fn name(self) -> &'static str {
        ["weekday_medians", "elapsed_fraction"][self as usize]
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        [
            "what is posted, and for each day left the median of that weekday over the last 4 weeks",
            "what is posted, by the share of the period that is over: fewer than 10 days of history",
        ][self as usize]
    }
}

/// What a period will come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    pub amount: i128,
    /// Tenth and ninetieth percentile.
    pub low: i128,
    pub high: i128,
    pub method: Method,
}

/// Why there is no forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unforeseen {
    #[error("{0} of the 3 days of history that a forecast needs")]
    TooYoung(usize),
    #[error("the period has no end")]
    Endless,
    #[error("the period is shorter than a day")]
    TooShort,
}

/// What of a period is left, as of an instant.
struct Rest {
    /// Monday is 0.
    weekday: usize,
    /// Whole days after today.
    days: usize,
    /// Of today, what the profile says is still to come, in parts of a million.
    today: i128,
    /// Seconds gone of the period, and all of them.
    gone: i128,
    all: i128,
}

/// What the period `window` will come to, as of `now`, with `posted` in it so far.
pub fn forecast(
    history: &History,
    window: &Window,
    zone: &TimeZone,
    now: Micros,
    posted: i128,
) -> Result<Forecast, Unforeseen> {
    point(history, window, zone, now, posted).map(|(forecast, rest)| with_interval(history, forecast, &rest, posted))
}

/// The amount alone, for who needs no interval.
pub fn amount(
    history: &History,
    window: &Window,
    zone: &TimeZone,
    now: Micros,
    posted: i128,
) -> Result<i128, Unforeseen> {
    point(history, window, zone, now, posted).map(|(forecast, _)| forecast.amount)
}

fn point(
    history: &History,
    window: &Window,
    zone: &TimeZone,
    now: Micros,
    posted: i128,
) -> Result<(Forecast, Rest), Unforeseen> {
    let (Some(start), Some(end)) = (window.start, window.end) else { return Err(Unforeseen::Endless) };
    if end.0 - start.0 < SHORTEST_HOURS * 3_600_000_000 {
        return Err(Unforeseen::TooShort);
    }
    if history.days.len() < LEAST {
        return Err(Unforeseen::TooYoung(history.days.len()));
    }
    let rest = rest(history, (start, end), zone, now);
    let (amount, method) = if history.days.len() < ENOUGH {
        // Nothing is gone yet: what was posted is all that can be said.
        let amount = if rest.gone > 0 { posted.saturating_mul(rest.all) / rest.gone } else { posted };
        (amount, Method::Elapsed)
    } else {
        let medians = medians(&history.days, rest.weekday);
        let later = (1..=rest.days).map(|n| medians[(rest.weekday + n) % 7]);
        let today = medians[rest.weekday].saturating_mul(rest.today) / WHOLE;
        (later.fold(posted.saturating_add(today), i128::saturating_add), Method::Weekdays)
    };
    Ok((Forecast { amount, low: amount, high: amount, method }, rest))
}

fn rest(history: &History, (start, end): (Micros, Micros), zone: &TimeZone, now: Micros) -> Rest {
    let local = zone.to_datetime(now.timestamp());
    let today = local.date();
    let mut days = 0;
    let mut day = today.tomorrow().ok();
    // At most the days of a leap year: no period that ends is longer.
    while let Some(next) = day.filter(|d| days < 366 && midnight(*d, zone) < end) {
        days += 1;
        day = next.tomorrow().ok();
    }
    let seconds = |from: Micros, to: Micros| i128::from((to.0 - from.0) / 1_000_000).max(0);
    Rest {
        weekday: weekday(today),
        days,
        today: WHOLE - gone_of_today(history, zone, now),
        gone: seconds(start, now),
        all: seconds(start, end),
    }
}

/// The share of a day's use that has usually come by now; of a profile that says nothing, the share of the clock.
fn gone_of_today(history: &History, zone: &TimeZone, now: Micros) -> i128 {
    let local = zone.to_datetime(now.timestamp());
    let (hour, second) =
        (usize::from(local.hour().unsigned_abs()), i128::from(local.minute()) * 60 + i128::from(local.second()));
    let all: i128 = history.hours.iter().fold(0, |sum, h| i128::saturating_add(sum, *h));
    if all <= 0 {
        return (hour as i128 * 3_600 + second) * WHOLE / 86_400;
    }
    let before: i128 = history.hours[..hour].iter().fold(0, |sum, h| i128::saturating_add(sum, *h));
    let gone = before.saturating_mul(3_600).saturating_add(history.hours[hour].saturating_mul(second));
    // Fits for anything below 10¹³ dollars.
    gone.saturating_mul(WHOLE) / all.saturating_mul(3_600)
}

/// The median use of each weekday, Monday first; of a weekday that is not in the history, the median of all days.
fn medians(days: &[i128], today: usize) -> [i128; 7] {
    let all = median(days.to_vec()).unwrap_or(0);
    std::array::from_fn(|weekday| {
        let of_it = days.iter().rev().enumerate().filter(|(back, _)| (today + 7 * DAYS - 1 - back) % 7 == weekday);
        median(of_it.map(|(_, use_of_day)| *use_of_day).collect()).unwrap_or(all)
    })
}

/// The middle of the values, or the mean of the two in the middle; none of nothing.
pub fn median(mut values: Vec<i128>) -> Option<i128> {
    values.sort_unstable();
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(values[middle - 1].saturating_add(values[middle]) / 2),
    }
}

fn with_interval(history: &History, forecast: Forecast, rest: &Rest, posted: i128) -> Forecast {
    let off = residuals(history, rest.weekday, forecast.method);
    let mut random = Fixed::new();
    let mut sums: Vec<i128> = (0..DRAWS)
        .map(|_| {
            let today = off[random.below(off.len())].saturating_mul(rest.today) / WHOLE;
            (0..rest.days).fold(today, |sum, _| sum.saturating_add(off[random.below(off.len())]))
        })
        .collect();
    sums.sort_unstable();
    // What is posted stays posted, and the forecast itself is among what may come.
    let low = forecast.amount.saturating_add(sums[DRAWS / 10]).clamp(posted.min(forecast.amount), forecast.amount);
    let high = forecast.amount.saturating_add(sums[DRAWS - 1 - DRAWS / 10]).max(forecast.amount);
    Forecast { low, high, ..forecast }
}

/// What each whole day was off the value that stands for it. Never empty: a forecast has days.
fn residuals(history: &History, today: usize, method: Method) -> Vec<i128> {
    let days = &history.days;
    match method {
        Method::Weekdays => {
            let medians = medians(days, today);
            let weekday = |back: usize| (today + 7 * DAYS - 1 - back) % 7;
            days.iter().rev().enumerate().map(|(back, day)| day - medians[weekday(back)]).collect()
        }
        Method::Elapsed => {
            let mean = days.iter().fold(0, |sum, d| i128::saturating_add(sum, *d)) / days.len() as i128;
            days.iter().map(|day| day - mean).collect()
        }
    }
}

/// The median of the last seven whole days: what goes in a day. None of no day.
pub fn burn_rate(history: &History) -> Option<i128> {
    let last = history.days.len().saturating_sub(7);
    median(history.days[last..].to_vec())
}

/// When what is left is gone at so much a day; none if never, or not within a hundred years.
pub fn exhausted_at(now: Micros, left: i128, burn_rate: i128) -> Option<Micros> {
    if left <= 0 {
        return Some(now);
    }
    if burn_rate <= 0 || left / burn_rate > 36_500 {
        return None;
    }
    let seconds = left.saturating_mul(86_400) / burn_rate;
    i64::try_from(seconds).ok().map(|seconds| now.plus_seconds(seconds))
}

/// Whether a budget that used to be used is not: yesterday and today came to nothing, where the medians of both days say
/// that something should have come. Weekends of a service that rests then are no silence.
pub fn is_silent(history: &History, zone: &TimeZone, now: Micros) -> bool {
    let days = &history.days;
    if days.len() < ENOUGH || history.today != 0 || days.last().is_none_or(|yesterday| *yesterday != 0) {
        return false;
    }
    let today = weekday(zone.to_datetime(now.timestamp()).date());
    // Of the days before the silence: a median that the silence itself has moved would hide it.
    let before: Vec<i128> = days[..days.len() - 1].to_vec();
    let yesterday = (today + 6) % 7;
    let of_yesterdays: Vec<i128> = before
        .iter()
        .rev()
        .enumerate()
        .filter(|(back, _)| (yesterday + 7 * DAYS - 1 - back) % 7 == yesterday)
        .map(|(_, day)| *day)
        .collect();
    median(of_yesterdays).is_some_and(|expected| expected > 0)
}

/// The first instant of a civil date.
pub fn midnight(date: Date, zone: &TimeZone) -> Micros {
    let found = zone.to_ambiguous_zoned_datetime(date.at(0, 0, 0, 0)).compatible();
    found.map_or(Micros(i64::MAX), |z| Micros::from_timestamp(z.timestamp()))
}

/// The date so many days before another.
pub fn days_before(date: Date, days: usize) -> Date {
    date.saturating_sub(i64::try_from(days).unwrap_or(0).days())
}

fn weekday(date: Date) -> usize {
    usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())
}

/// SplitMix64 from a fixed seed.
struct Fixed(u64);

impl Fixed {
    fn new() -> Fixed {
        Fixed(0x5765_6967_6862_7269)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests;
