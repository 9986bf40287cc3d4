//! Forecasts worked out by hand, and against a naive model of the same words.

use jiff::civil::date;
use proptest::prelude::*;

use super::*;
use crate::budget::Calendar;
use crate::domain::{Budget, PeriodKind};

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn window(kind: PeriodKind, zone: &str, now: &str) -> Window {
    let budget = Budget { period: kind, time_zone: zone.into(), ..crate::ledger::testing::hard("b", "100") };
    Calendar::of(&budget).unwrap().window(at(now))
}

fn at(text: &str) -> Micros {
    text.parse().unwrap()
}

/// Days on which weekdays come to 10 and weekends to nothing, up to yesterday; all of it between 8 and 16 o'clock.
fn office(today: Date, days: usize) -> History {
    let of_day = |back: usize| if weekday(days_before(today, back)) < 5 { 10 } else { 0 };
    let mut hours = [0; 24];
    hours[8..16].fill(days as i128);
    History { days: (1..=days).rev().map(of_day).collect(), hours, today: 0 }
}

#[test]
fn a_month_ends_at_what_is_posted_and_the_medians_of_the_weekdays_that_are_left() {
    // Wednesday 2026-11-25, noon: half of the office hours are over. Left are half of today, Thursday, Friday and Monday.
    let (berlin, now) = (zone("Europe/Berlin"), "2026-11-25T12:00:00+01:00");
    let history = office(date(2026, 11, 25), 28);
    let month = window(PeriodKind::Month, "Europe/Berlin", now);
    let found = forecast(&history, &month, &berlin, at(now), 175).unwrap();
    // Every day was its median, so nothing was off.
    assert_eq!(found, Forecast { amount: 175 + 5 + 30, low: 210, high: 210, method: Method::Weekdays });
    assert_eq!(amount(&history, &month, &berlin, at(now), 175), Ok(210));
    let week = window(PeriodKind::Week, "Europe/Berlin", now);
    assert_eq!(amount(&history, &week, &berlin, at(now), 25), Ok(25 + 5 + 20));
    let day = window(PeriodKind::Day, "Europe/Berlin", now);
    assert_eq!(amount(&history, &day, &berlin, at("2026-11-25T14:00:00+01:00"), 5), Ok(5 + 2));
}

#[test]
fn one_wild_day_moves_the_interval_and_not_the_forecast() {
    let (utc, now) = (zone("UTC"), "2026-11-25T00:00:00Z");
    let mut history = office(date(2026, 11, 25), 28);
    *history.days.last_mut().unwrap() = 1_000;
    let month = window(PeriodKind::Month, "UTC", now);
    let found = forecast(&history, &month, &utc, at(now), 0).unwrap();
    assert_eq!(found.amount, 10 + 10 + 10 + 10, "Wednesday to Friday and Monday");
    assert_eq!(found.low, found.amount);
    assert_eq!(
        found.high,
        found.amount + 990,
        "one of 28 days was off by 990, and six are left: more than one sum in ten has one"
    );
    assert_eq!(found, forecast(&history, &month, &utc, at(now), 0).unwrap(), "the same history, the same interval");
}

#[test]
fn a_young_budget_goes_on_as_it_did_and_a_newborn_is_not_foreseen() {
    let (utc, now) = (zone("UTC"), "2026-11-11T00:00:00Z");
    let month = window(PeriodKind::Month, "UTC", now);
    let mut history = office(date(2026, 11, 11), 9);
    let found = forecast(&history, &month, &utc, at(now), 50).unwrap();
    assert_eq!((found.amount, found.method), (150, Method::Elapsed), "ten of thirty days are over");
    assert!(found.low < 150 && 150 < found.high && found.low >= 50, "{found:?}");
    history.days.truncate(2);
    assert_eq!(forecast(&history, &month, &utc, at(now), 50), Err(Unforeseen::TooYoung(2)));
    history.days = vec![10; 10];
    assert_eq!(forecast(&history, &month, &utc, at(now), 50).unwrap().method, Method::Weekdays);
}

#[test]
fn what_has_no_end_or_is_over_at_once_is_not_foreseen() {
    let (utc, now) = (zone("UTC"), "2026-11-11T10:00:00Z");
    let history = office(date(2026, 11, 11), 28);
    let foreseen = |kind| forecast(&history, &window(kind, "UTC", now), &utc, at(now), 0);
    assert_eq!(foreseen(PeriodKind::Total), Err(Unforeseen::Endless));
    assert_eq!(foreseen(PeriodKind::Hour), Err(Unforeseen::TooShort));
    assert_eq!(foreseen(PeriodKind::Minute), Err(Unforeseen::TooShort));
    assert!(foreseen(PeriodKind::Day).is_ok());
    assert!(foreseen(PeriodKind::Year).is_ok());
}

#[test]
fn a_day_of_23_hours_is_foreseen_and_counted_once() {
    let (berlin, now) = (zone("Europe/Berlin"), "2026-03-29T00:30:00+01:00");
    let history = History { days: vec![10; 28], hours: [1; 24], today: 0 };
    let day = window(PeriodKind::Day, "Europe/Berlin", now);
    assert_eq!(day.end.unwrap().0 - day.start.unwrap().0, 23 * 3_600_000_000);
    assert_eq!(amount(&history, &day, &berlin, at(now), 0), Ok(9), "half an hour of 24 is over, rounded down");
    let month = window(PeriodKind::Month, "Europe/Berlin", now);
    assert_eq!(amount(&history, &month, &berlin, at(now), 0), Ok(9 + 20), "the 29th, the 30th and the 31st");
}

#[test]
fn the_rate_is_a_median_and_says_how_long_it_lasts() {
    let history = History { days: vec![900, 1, 2, 3, 4, 5, 6, 1_000], ..History::default() };
    assert_eq!(burn_rate(&history), Some(4));
    assert_eq!(burn_rate(&History::default()), None);
    let now = at("2026-11-11T00:00:00Z");
    assert_eq!(exhausted_at(now, 10, 4), Some(at("2026-11-13T12:00:00Z")));
    assert_eq!(exhausted_at(now, 0, 4), Some(now));
    assert_eq!(exhausted_at(now, -3, 0), Some(now));
    assert_eq!(exhausted_at(now, 10, 0), None);
    assert_eq!(exhausted_at(now, i128::MAX, 1), None);
}

#[test]
fn silence_is_noticed_on_days_that_used_to_have_calls() {
    let utc = zone("UTC");
    let silent = |now: &str, history: &History| is_silent(history, &utc, at(now));
    // Sunday the 22nd and Monday the 23rd: resting on Sunday is as usual, and Monday has only begun.
    assert!(!silent("2026-11-23T18:00:00Z", &office(date(2026, 11, 23), 28)));
    // Tuesday, after a Monday without any.
    let mut quiet = office(date(2026, 11, 24), 28);
    assert!(!silent("2026-11-24T18:00:00Z", &quiet));
    *quiet.days.last_mut().unwrap() = 0;
    assert!(silent("2026-11-24T18:00:00Z", &quiet));
    quiet.today = 1;
    assert!(!silent("2026-11-24T18:00:00Z", &quiet), "it is back");
    quiet.today = 0;
    quiet.days.drain(..19);
    assert!(!silent("2026-11-24T18:00:00Z", &quiet), "nine days are no habit");
}

/// The words of the method in floating point, day by day.
fn naive(days: &[i128], hours: &[i128; 24], now: Micros, zone: &TimeZone, end: Micros, posted: i128) -> f64 {
    let local = zone.to_datetime(now.timestamp());
    let today = local.date();
    let expected = |day: Date| {
        let same: Vec<f64> = (1..=days.len())
            .filter(|back| days_before(today, *back).weekday() == day.weekday())
            .map(|back| days[days.len() - back] as f64)
            .collect();
        let mut sorted = if same.is_empty() { days.iter().map(|d| *d as f64).collect() } else { same };
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 }
    };
    let all: i128 = hours.iter().sum();
    let clock = f64::from(local.hour()) + f64::from(local.minute()) / 60.0;
    let gone = if all == 0 {
        clock / 24.0
    } else {
        let whole: i128 = hours[..local.hour() as usize].iter().sum();
        (whole as f64 + hours[local.hour() as usize] as f64 * f64::from(local.minute()) / 60.0) / all as f64
    };
    let mut sum = posted as f64 + expected(today) * (1.0 - gone);
    let mut day = today.tomorrow().unwrap();
    while midnight(day, zone) < end {
        sum += expected(day);
        day = day.tomorrow().unwrap();
    }
    sum
}

proptest! {
    #[test]
    fn the_forecast_is_what_a_naive_model_says(
        days in proptest::collection::vec(0i128..1_000_000_000, 10..=28),
        hours in proptest::collection::vec(0i128..1_000_000, 24),
        offset in 0i64..60 * 24 * 400,
        posted in 0i128..1_000_000_000,
        kind in proptest::sample::select(vec![PeriodKind::Day, PeriodKind::Week, PeriodKind::Month, PeriodKind::Quarter, PeriodKind::Year]),
        name in proptest::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"]),
    ) {
        let now = at("2026-01-01T00:00:00Z").plus_seconds(offset * 60);
        let zone = zone(name);
        let hours: [i128; 24] = hours.try_into().unwrap();
        let history = History { days: days.clone(), hours, today: 0 };
        let window = window(kind, name, &now.to_string());
        let found = forecast(&history, &window, &zone, now, posted).unwrap();
        let expected = naive(&days, &hours, now, &zone, window.end.unwrap(), posted);
        // Parts of a million of a day are lost to rounding, and half a unit for each day.
        let allowed = 400.0 + 1_000_000_000.0 * 2e-6;
        prop_assert!((found.amount as f64 - expected).abs() <= allowed, "{} and {expected}", found.amount);
        prop_assert!(posted <= found.low && found.low <= found.amount && found.amount <= found.high);
    }
}
