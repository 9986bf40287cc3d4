//! Periods in zones with and without changes of clocks, against bounds worked out by hand.

use proptest::prelude::*;

use super::*;
use crate::domain::{Enforcement, Limit, Metric};

fn calendar(kind: PeriodKind, zone: &str, anchor: Option<&str>, fiscal: u8) -> Calendar {
    Calendar::of(&Budget {
        anchor: anchor.map(str::to_owned),
        time_zone: zone.into(),
        fiscal_year_start_month: fiscal,
        enforcement: Enforcement::Hard,
        ..Budget::plain("b", Limit { metric: Metric::Usd, amount: 1 }, kind)
    })
    .unwrap()
}

fn at(text: &str) -> Micros {
    text.parse().unwrap()
}

#[track_caller]
fn check(calendar: &Calendar, instant: &str, id: &str, start: &str, end: &str) {
    let window = calendar.window(at(instant));
    let expected = Window { id: id.into(), start: Some(at(start)), end: Some(at(end)) };
    assert_eq!(
        window,
        expected,
        "start {:?} end {:?}",
        window.start.map(|s| s.to_string()),
        window.end.map(|s| s.to_string())
    );
}

#[test]
fn calendar_periods_are_cut_in_the_zone_of_the_budget() {
    use PeriodKind::*;
    let c = |kind| calendar(kind, "Europe/Berlin", None, 1);
    let now = "2026-11-23T17:05:30Z";
    check(&c(Minute), now, "2026-11-23T18:05@Europe/Berlin", "2026-11-23T17:05:00Z", "2026-11-23T17:06:00Z");
    check(&c(Hour), now, "2026-11-23T18@Europe/Berlin", "2026-11-23T17:00:00Z", "2026-11-23T18:00:00Z");
    check(&c(Day), now, "2026-11-23@Europe/Berlin", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
    check(&c(Week), now, "2026-W48@Europe/Berlin", "2026-11-22T23:00:00Z", "2026-11-29T23:00:00Z");
    check(&c(Month), now, "2026-11@Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z");
    check(&c(Quarter), now, "2026-Q4@Europe/Berlin", "2026-09-30T22:00:00Z", "2026-12-31T23:00:00Z");
    check(&c(Year), now, "2026@Europe/Berlin", "2025-12-31T23:00:00Z", "2026-12-31T23:00:00Z");
    assert_eq!(c(Total).window(at(now)), Window { id: "total".into(), start: None, end: None });
    // The last microsecond of a month in Berlin is the month before's in UTC plus an hour.
    assert_eq!(c(Month).window(at("2026-10-31T22:59:59.999999Z")).id, "2026-10@Europe/Berlin");
    assert_eq!(c(Month).window(at("2026-10-31T23:00:00Z")).id, "2026-11@Europe/Berlin");
}

#[test]
fn weeks_belong_to_the_iso_year() {
    let week = calendar(PeriodKind::Week, "UTC", None, 1);
    check(&week, "2027-01-01T12:00:00Z", "2026-W53@UTC", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z");
}

#[test]
fn fiscal_years_say_when_they_began() {
    let year = calendar(PeriodKind::Year, "UTC", None, 4);
    check(&year, "2027-03-31T23:00:00Z", "FY2026-04@UTC", "2026-04-01T00:00:00Z", "2027-04-01T00:00:00Z");
    let quarter = calendar(PeriodKind::Quarter, "UTC", None, 4);
    check(&quarter, "2026-11-23T00:00:00Z", "FY2026-04-Q3@UTC", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z");
    check(&quarter, "2027-02-01T00:00:00Z", "FY2026-04-Q4@UTC", "2027-01-01T00:00:00Z", "2027-04-01T00:00:00Z");
}

#[test]
fn days_have_23_or_25_hours_where_clocks_change() {
    let day = calendar(PeriodKind::Day, "Europe/Berlin", None, 1);
    check(&day, "2026-03-29T12:00:00Z", "2026-03-29@Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
    check(&day, "2026-10-25T12:00:00Z", "2026-10-25@Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
}

#[test]
fn a_repeated_hour_is_two_periods() {
    let hour = calendar(PeriodKind::Hour, "Europe/Berlin", None, 1);
    check(&hour, "2026-10-25T00:30:00Z", "2026-10-25T02@Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z");
    check(
        &hour,
        "2026-10-25T01:30:00Z",
        "2026-10-25T02+01@Europe/Berlin",
        "2026-10-25T01:00:00Z",
        "2026-10-25T02:00:00Z",
    );
    // Lord Howe goes back by half an hour in the middle of one.
    let lord_howe = calendar(PeriodKind::Hour, "Australia/Lord_Howe", None, 1);
    let windows: Vec<_> = ["2026-04-04T14:10:00Z", "2026-04-04T15:10:00Z", "2026-04-04T15:40:00Z"]
        .map(|t| lord_howe.window(at(t)).id)
        .into();
    assert_eq!(windows[0], "2026-04-05T01@Australia/Lord_Howe");
    assert_eq!(windows[1], "2026-04-05T01+10:30@Australia/Lord_Howe");
    assert_eq!(windows[2], "2026-04-05T02@Australia/Lord_Howe");
}

#[test]
fn anchored_months_clamp_to_their_end_and_come_back() {
    let month = calendar(PeriodKind::Month, "UTC", Some("2026-01-31"), 1);
    check(&month, "2026-02-27T00:00:00Z", "2026-01-31/P1M@UTC", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z");
    check(&month, "2026-02-28T00:00:00Z", "2026-02-28/P1M@UTC", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z");
    check(&month, "2025-12-31T00:00:00Z", "2025-12-31/P1M@UTC", "2025-12-31T00:00:00Z", "2026-01-31T00:00:00Z");
    let week = calendar(PeriodKind::Week, "UTC", Some("2026-11-18"), 1);
    check(&week, "2026-11-23T00:00:00Z", "2026-11-18/P1W@UTC", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z");
    check(&week, "2026-11-17T00:00:00Z", "2026-11-11/P1W@UTC", "2026-11-11T00:00:00Z", "2026-11-18T00:00:00Z");
}

#[test]
fn what_is_no_zone_anchor_or_month_is_refused() {
    assert_eq!(zone("Europe/Atlantis").unwrap_err(), PeriodError::Zone("Europe/Atlantis".into()));
}

/// Zones whose clocks have done what clocks do: half hours, midnights that do not come, days left out, changes at a year's
/// end, none at all.
const AWKWARD: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Asuncion",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
];

/// Walks from period to period: each begins where the one before ended, under an id of its own. How many there were.
fn walk(calendar: &Calendar, from: Micros, to: Micros) -> usize {
    let mut ids = std::collections::BTreeSet::new();
    let mut window = calendar.window(from);
    while let Some(end) = window.end.filter(|end| *end < to) {
        assert!(window.start < window.end, "{window:?} has no length");
        assert_eq!(calendar.window(Micros(end.0 - 1)), window, "the last microsecond");
        let next = calendar.window(end);
        assert_eq!(next.start, Some(end), "{window:?} and {next:?} do not join");
        assert!(ids.insert(std::mem::replace(&mut window, next).id), "{window:?} has an id that was used");
    }
    ids.len()
}

#[test]
fn ten_years_of_periods_have_no_gap_and_no_overlap() {
    use PeriodKind::*;
    let (from, to) = (at("2019-12-25T00:00:00Z"), at("2030-01-10T00:00:00Z"));
    for zone in AWKWARD {
        for (kind, anchor, about) in [
            (Day, None, 3_660),
            (Week, None, 523),
            (Week, Some("2024-02-29"), 523),
            (Month, None, 120),
            (Month, Some("2024-01-31"), 120),
            (Quarter, None, 40),
            (Year, None, 10),
            (Year, Some("2024-02-29"), 10),
        ] {
            let walked = walk(&calendar(kind, zone, anchor, 4), from, to);
            assert!(walked.abs_diff(about) * 100 <= about * 10, "{walked} periods of {kind:?} in {zone}");
        }
    }
    // Where clocks change by an hour in the middle of one.
    assert!(walk(&calendar(Hour, "Pacific/Chatham", None, 1), from, to) > 87_000);
}

#[test]
fn periods_join_wherever_on_earth_clocks_change() {
    let (from, to) = (at("2019-12-25T00:00:00Z"), at("2030-01-10T00:00:00Z"));
    let (mut changes, mut known) = (0, std::collections::BTreeSet::new());
    for name in jiff::tz::db().available() {
        let (name, zone) = (name.to_string(), zone(name.as_str()).unwrap());
        let transitions = zone.following(from.timestamp()).take_while(|t| t.timestamp() < to.timestamp());
        let transitions: Vec<_> = transitions.map(|t| (t.timestamp(), t.offset())).collect();
        // Many zones keep the same time.
        if !known.insert((zone.to_offset(from.timestamp()), transitions.clone())) {
            continue;
        }
        walk(&calendar(PeriodKind::Month, &name, None, 1), from, to);
        // In ten years as many as will do.
        for (change, _) in transitions.into_iter().step_by(5) {
            let change = Micros::from_timestamp(change);
            let around = |hours: i64| (change.plus_seconds(-hours * 3_600), change.plus_seconds(hours * 3_600));
            for (kind, hours) in [(PeriodKind::Minute, 1), (PeriodKind::Hour, 30), (PeriodKind::Day, 72)] {
                let (from, to) = around(hours);
                walk(&calendar(kind, &name, None, 1), from, to);
            }
            changes += 1;
        }
    }
    assert!(changes > 100, "{changes} changes of clocks");
}

proptest! {
    #[test]
    fn every_instant_is_in_its_window_and_windows_join(
        second in 1_500_000_000i64..2_000_000_000, micros in 0i64..1_000_000,
        kind in 0usize..7, zone in 0usize..6, anchored in any::<bool>(), fiscal in 1u8..=12,
    ) {
        use PeriodKind::*;
        let kind = [Minute, Hour, Day, Week, Month, Quarter, Year][kind];
        let zone = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"][zone];
        let calendar = calendar(kind, zone, anchored.then_some("2024-01-31"), fiscal);
        let at = Micros(second * 1_000_000 + micros);
        let window = calendar.window(at);
        prop_assert!(window.contains(at), "{window:?}");
        let (start, end) = (window.start.unwrap(), window.end.unwrap());
        prop_assert_eq!(&calendar.window(start), &window);
        prop_assert_eq!(&calendar.window(Micros(end.0 - 1)), &window);
        let next = calendar.window(end);
        prop_assert_eq!(next.start, Some(end));
        prop_assert_ne!(&next.id, &window.id);
        let before = calendar.window(Micros(start.0 - 1));
        prop_assert_eq!(before.end, Some(start));
        prop_assert_ne!(&before.id, &window.id);
    }
}
