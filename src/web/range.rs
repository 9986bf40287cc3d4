//! Date ranges and buckets of a page, cut in a time zone.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan, ZonedDateTime};

use crate::domain::Micros;
use crate::report::Step;
use crate::rollup::Calendar;

/// The ranges that have a name in a URL.
pub const PRESETS: [(&str, &str); 8] = [
    ("today", "Today"),
    ("yesterday", "Yesterday"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("mtd", "This month"),
    ("last-month", "Last month"),
    ("qtd", "This quarter"),
    ("ytd", "This year"),
];

/// A range of time, half open, and how the URL says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: Micros,
    pub to: Micros,
    /// The preset; absent where `from` and `to` were given.
    pub preset: Option<&'static str>,
    /// `from` and `to` as they were given.
    pub given: (String, String),
}

/// A bucket of a range: how reports name it and which instants it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub from: Micros,
    pub to: Micros,
    /// `23 Nov`, `18:00`, `Nov 2026`.
    pub label: String,
}

fn start_of(date: Date, zone: &TimeZone) -> Micros {
    // A day that begins in a gap begins where the gap ends; jiff resolves that. Out-of-range dates cannot come in here.
    date.to_zoned_datetime(zone.clone()).map_or(Micros(0), |z| Micros::from_timestamp(z.timestamp()))
}

fn shift(date: Date, span: Span) -> Date {
    date.checked_add(span).unwrap_or(date)
}

impl Range {
    /// A named range as of `now`; it ends with the day that `now` is in.
    pub fn preset(name: &str, zone: &TimeZone, now: Micros) -> Option<Range> {
        let name = PRESETS.iter().find(|(n, _)| *n == name)?.0;
        let today = now.timestamp().to_zoned_datetime(zone.clone()).date();
        let tomorrow = shift(today, 1.day());
        let month = today.first_of_month();
        let (from, to) = match name {
            "today" => (today, tomorrow),
            "yesterday" => (shift(today, -1.day()), today),
            "7d" => (shift(today, -6.days()), tomorrow),
            "30d" => (shift(today, -29.days()), tomorrow),
            "last-month" => (shift(month, -1.month()), month),
            "qtd" => (shift(month, -i64::from((today.month() - 1) % 3).months()), tomorrow),
            "ytd" => (shift(month, -i64::from(today.month() - 1).months()), tomorrow),
            _ => (month, tomorrow),
        };
        let bounds = (start_of(from, zone), start_of(to, zone));
        Some(Range { from: bounds.0, to: bounds.1, preset: Some(name), given: Default::default() })
    }

    /// A range given by its ends: ISO dates in the zone, or RFC 3339 instants; `to` is exclusive.
    pub fn between(from: &str, to: &str, zone: &TimeZone) -> Result<Range, (&'static str, String)> {
        let read = |field: &'static str, text: &str| -> Result<Micros, (&'static str, String)> {
            let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
            match (date, text.parse::<Micros>()) {
                (Some(date), _) => Ok(start_of(date, zone)),
                (None, Ok(at)) => Ok(at),
                (None, Err(_)) => Err((
                    field,
                    format!(
                        "`{}` is no date: write 2026-11-23 or 2026-11-23T18:00:00Z",
                        text.chars().take(40).collect::<String>()
                    ),
                )),
            }
        };
        let range = Range {
            from: read("from", from)?,
            to: read("to", to)?,
            preset: None,
            given: (from.to_owned(), to.to_owned()),
        };
        if range.from >= range.to {
            return Err(("to", format!("`{to}` is not after `{from}`; `to` is the first moment outside the range")));
        }
        Ok(range)
    }

    /// The span before this one that it is fairly compared with. What has not happened yet is left out on both sides,
    /// and calendar ranges compare with the calendar: the first 23 days of a month with the first 23 of the one before.
    pub fn comparable(&self, zone: &TimeZone, now: Micros) -> (Micros, Micros) {
        let local = |at: Micros| at.timestamp().to_zoned_datetime(zone.clone());
        let months = match self.preset {
            Some("mtd" | "last-month") => 1,
            Some("qtd") => 3,
            Some("ytd") => 12,
            _ => 0,
        };
        let end = self.to.min(now.max(self.from));
        if months > 0 {
            let back = |z: ZonedDateTime| {
                z.checked_sub(i64::from(months).months()).map_or(self.from, |z| Micros::from_timestamp(z.timestamp()))
            };
            let (from, to) = (back(local(self.from)), back(local(end)));
            return (from, to.min(self.from));
        }
        let days = self.slots(Step::Day, zone).len().max(1);
        let back = |at: Micros| {
            local(at).checked_sub((days as i64).days()).map_or(self.from, |z| Micros::from_timestamp(z.timestamp()))
        };
        (back(self.from), back(end))
    }

    /// The step a chart of this range has if nobody asks for another.
    pub fn auto_step(&self) -> Step {
        match (self.to.0 - self.from.0) / 3_600_000_000 {
            ..=49 => Step::Hour,
            50..=2_300 => Step::Day,
            2_301..=4_500 => Step::Week,
            _ => Step::Month,
        }
    }

    /// The buckets of the range, in order; at most 400, enough for a year of days.
    pub fn slots(&self, step: Step, zone: &TimeZone) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut at = self.from;
        let mut calendar = zone.iana_name().and_then(|name| Calendar::new(name, step).ok());
        while at < self.to && slots.len() < 400 {
            let (label, next) = bucket(at, step, zone);
            let name = calendar.as_mut().and_then(|c| c.bucket(at)).unwrap_or_default();
            // A range may begin inside a bucket; reports still name it by the bucket's start.
            let to = if next > at { next.min(self.to) } else { self.to };
            slots.push(Slot { name, from: at, to, label });
            at = to;
        }
        slots
    }

    /// `1 – 23 Nov 2026`, in the zone; the last day shown is the last one inside.
    pub fn in_words(&self, zone: &TimeZone) -> String {
        let from = self.from.timestamp().to_zoned_datetime(zone.clone());
        let last = Micros(self.to.0 - 1).timestamp().to_zoned_datetime(zone.clone());
        let whole_days = self.given.0.len() <= 10 && self.given.1.len() <= 10;
        if !whole_days {
            let to = self.to.timestamp().to_zoned_datetime(zone.clone());
            return format!("{} – {}", from.strftime("%-d %b %Y %H:%M"), to.strftime("%-d %b %Y %H:%M"));
        }
        if from.date() == last.date() {
            from.strftime("%-d %b %Y").to_string()
        } else if from.date().first_of_month() == last.date().first_of_month() {
            format!("{} – {}", from.strftime("%-d"), last.strftime("%-d %b %Y"))
        } else if from.year() == last.year() {
            format!("{} – {}", from.strftime("%-d %b"), last.strftime("%-d %b %Y"))
        } else {
            format!("{} – {}", from.strftime("%-d %b %Y"), last.strftime("%-d %b %Y"))
        }
    }
}

/// Label and end of the bucket that holds `at`.
fn bucket(at: Micros, step: Step, zone: &TimeZone) -> (String, Micros) {
    let local = at.timestamp().to_zoned_datetime(zone.clone());
    let date = local.date();
    let end = |date: Date| start_of(date, zone);
    match step {
        Step::Hour => {
            let passed = i64::from(local.minute()) * 60 + i64::from(local.second());
            let next = Micros(at.0 - at.0.rem_euclid(1_000_000)).plus_seconds(3_600 - passed);
            (local.strftime("%H:00").to_string(), next)
        }
        Step::Day => (local.strftime("%-d %b").to_string(), end(shift(date, 1.day()))),
        Step::Week => {
            let monday = shift(date, -i64::from(date.weekday().to_monday_zero_offset()).days());
            (monday.strftime("%-d %b").to_string(), end(shift(monday, 7.days())))
        }
        Step::Month => {
            let first = date.first_of_month();
            (first.strftime("%b %Y").to_string(), end(shift(first, 1.month())))
        }
        Step::None => (String::new(), Micros(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        text.parse().unwrap()
    }
    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn presets_are_cut_in_the_zone() {
        // 23:30 UTC on the 22nd is the 23rd in Berlin.
        let now = at("2026-11-22T23:30:00Z");
        let range = Range::preset("mtd", &berlin(), now).unwrap();
        assert_eq!(range.from, at("2026-10-31T23:00:00Z"));
        assert_eq!(range.to, at("2026-11-23T23:00:00Z"));
        assert_eq!(range.in_words(&berlin()), "1 – 23 Nov 2026");
        let month = Range::preset("30d", &berlin(), now).unwrap();
        assert_eq!(month.in_words(&berlin()), "25 Oct – 23 Nov 2026");
        assert!(Range::preset("fortnight", &berlin(), now).is_none());
        for (name, _) in PRESETS {
            let range = Range::preset(name, &berlin(), now).unwrap();
            assert!(range.from < range.to, "{name}");
        }
    }

    #[test]
    fn a_month_is_compared_with_as_much_of_the_month_before() {
        let now = at("2026-11-23T12:00:00Z");
        let range = Range::preset("mtd", &berlin(), now).unwrap();
        let (from, to) = range.comparable(&berlin(), now);
        assert_eq!(from, at("2026-09-30T22:00:00Z"));
        assert_eq!(to, at("2026-10-23T11:00:00Z"), "13:00 in Berlin, which was on summer time");
        let week = Range::preset("7d", &berlin(), now).unwrap();
        let (from, to) = week.comparable(&berlin(), now);
        assert_eq!((from, to), (at("2026-11-09T23:00:00Z"), at("2026-11-16T12:00:00Z")));
    }

    #[test]
    fn days_of_a_clock_change_have_23_and_25_hours() {
        let range = Range::between("2026-10-24", "2026-10-27", &berlin()).unwrap();
        let days = range.slots(Step::Day, &berlin());
        let hours: Vec<_> = days.iter().map(|s| (s.to.0 - s.from.0) / 3_600_000_000).collect();
        assert_eq!(hours, [24, 25, 24]);
        assert_eq!(days[1].name, "2026-10-25");
        assert_eq!(range.slots(Step::Hour, &berlin()).len(), 73);
    }

    #[test]
    fn buckets_that_the_range_cuts_keep_their_name() {
        let range = Range::between("2026-11-11", "2026-12-02", &berlin()).unwrap();
        let weeks: Vec<_> = range.slots(Step::Week, &berlin()).into_iter().map(|s| s.name).collect();
        assert_eq!(weeks, ["2026-11-09", "2026-11-16", "2026-11-23", "2026-11-30"]);
        let months: Vec<_> = range.slots(Step::Month, &berlin()).into_iter().map(|s| s.name).collect();
        assert_eq!(months, ["2026-11", "2026-12"]);
    }

    #[test]
    fn wrong_dates_name_their_field() {
        assert_eq!(Range::between("yesterday-ish", "2026-11-02", &berlin()).unwrap_err().0, "from");
        assert_eq!(Range::between("2026-11-02", "2026-11-02", &berlin()).unwrap_err().0, "to");
    }
}
