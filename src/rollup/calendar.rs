//! Cuts time into the hours, days, weeks and months of a zone.

use jiff::ToSpan;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::domain::Micros;

/// The width of a bucket, cut in the query's time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    #[default]
    None,
    Hour,
    Day,
    /// Monday to Sunday (ISO 8601).
    Week,
    Month,
}

impl Step {
    pub const ALL: [Step; 5] = [Step::None, Step::Hour, Step::Day, Step::Week, Step::Month];

    pub const fn name(self) -> &'static str {
        ["none", "hour", "day", "week", "month"][self as usize]
    }

    pub fn from_name(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// A zone name nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time zone: write an IANA name such as Europe/Berlin")]
pub struct CalendarError(pub String);

/// Civil time in one zone. Cheap to ask for ascending or repeated instants: the last bucket is remembered.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    step: Step,
    /// Bucket last named: it holds for instants from the first, before the second.
    last: Option<(i64, i64, String)>,
}

impl Calendar {
    pub fn new(zone: &str, step: Step) -> Result<Calendar, CalendarError> {
        let zone = TimeZone::get(zone).map_err(|_| CalendarError(zone.chars().take(60).collect()))?;
        Ok(Calendar { zone, step, last: None })
    }

    /// The bucket an instant is in: `2026-11-23T18:00+01:00` for hours (the offset, since one hour of autumn comes twice), else
    /// the date of its first day (`2026-11` for months).
    pub fn bucket(&mut self, at: Micros) -> Option<String> {
        if self.step == Step::None {
            return None;
        }
        if let Some((from, to, name)) = &self.last
            && (*from..*to).contains(&at.0)
        {
            return Some(name.clone());
        }
        let named = self.cut(at);
        let name = named.2.clone();
        self.last = Some(named);
        Some(name)
    }

    /// Midnight at the start of a civil date, or the first instant after it where clocks jump over midnight.
    pub fn midnight(&self, date: Date) -> Micros {
        instant(date.to_datetime(jiff::civil::Time::midnight()), &self.zone)
    }

    /// The civil date of an instant.
    pub fn date(&self, at: Micros) -> Date {
        self.zone.to_datetime(at.timestamp()).date()
    }

    /// Start, end and name of the bucket around `at`.
    fn cut(&self, at: Micros) -> (i64, i64, String) {
        let local = self.zone.to_datetime(at.timestamp());
        let day = local.date();
        let days = |first: Date, next: Option<Date>, name: String| {
            (self.midnight(first).0, next.map_or(i64::MAX, |d| self.midnight(d).0), name)
        };
        match self.step {
            Step::Hour => self.hour(at, local),
            Step::Week => {
                let back = i64::from(day.weekday().to_monday_zero_offset());
                let monday = day.saturating_sub(back.days());
                days(monday, monday.checked_add(7.days()).ok(), monday.to_string())
            }
            Step::Month => {
                let first = day.first_of_month();
                let name = format!("{:04}-{:02}", first.year(), first.month());
                days(first, first.checked_add(1.month()).ok(), name)
            }
            Step::None | Step::Day => days(day, day.tomorrow().ok(), day.to_string()),
        }
    }

    /// The civil hour around `at`, within one offset: an hour that a change of clocks cuts or repeats is two buckets.
    fn hour(&self, at: Micros, local: DateTime) -> (i64, i64, String) {
        let offset = self.zone.to_offset(at.timestamp());
        let seconds = i64::from(local.minute()) * 60 + i64::from(local.second());
        let start = at.0 - seconds * 1_000_000 - i64::from(local.subsec_nanosecond() / 1_000);
        // A change of clocks inside the hour ends the bucket there; what is remembered must not reach beyond it.
        let until_change =
            self.zone.following(at.timestamp()).next().map_or(i64::MAX, |t| t.timestamp().as_microsecond());
        let since_change =
            self.zone.preceding(at.timestamp()).next().map_or(i64::MIN, |t| t.timestamp().as_microsecond());
        let minutes = offset.seconds() / 60;
        let sign = if minutes < 0 { '-' } else { '+' };
        let name =
            format!("{}T{:02}:00{sign}{:02}:{:02}", local.date(), local.hour(), minutes.abs() / 60, minutes.abs() % 60);
        (start.max(since_change), start.saturating_add(3_600_000_000).min(until_change), name)
    }
}

fn instant(local: DateTime, zone: &TimeZone) -> Micros {
    // `compatible`: in a gap the instant after it, in a fold the earlier of the two.
    let found = zone.clone().into_ambiguous_zoned_datetime(local).compatible();
    found.map_or(Micros(i64::MAX), |z| Micros::from_timestamp(z.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(zone: &str, step: Step, at: &str) -> String {
        Calendar::new(zone, step).unwrap().bucket(at.parse().unwrap()).unwrap()
    }

    #[test]
    fn buckets_are_cut_where_the_zone_cuts_them() {
        for (zone, step, at, expected) in [
            ("UTC", Step::Day, "2026-11-23T23:59:59Z", "2026-11-23"),
            ("Europe/Berlin", Step::Day, "2026-11-23T23:00:00Z", "2026-11-24"),
            ("Asia/Kathmandu", Step::Day, "2026-11-23T18:14:59Z", "2026-11-23"),
            ("Asia/Kathmandu", Step::Day, "2026-11-23T18:15:00Z", "2026-11-24"),
            ("Asia/Kolkata", Step::Hour, "2026-11-23T18:29:59Z", "2026-11-23T23:00+05:30"),
            ("Asia/Kolkata", Step::Month, "2026-11-30T18:30:00Z", "2026-12"),
            ("Europe/Berlin", Step::Week, "2026-11-22T23:00:00Z", "2026-11-23"),
            ("Europe/Berlin", Step::Week, "2026-11-22T22:59:59Z", "2026-11-16"),
        ] {
            assert_eq!(bucket(zone, step, at), expected, "{zone} {at}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_buckets() {
        assert_eq!(bucket("Europe/Berlin", Step::Hour, "2026-10-25T00:30:00Z"), "2026-10-25T02:00+02:00");
        assert_eq!(bucket("Europe/Berlin", Step::Hour, "2026-10-25T01:30:00Z"), "2026-10-25T02:00+01:00");
    }

    #[test]
    fn what_is_remembered_never_changes_an_answer() {
        for zone in ["Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"] {
            for step in [Step::Hour, Step::Day, Step::Week, Step::Month] {
                let mut remembering = Calendar::new(zone, step).unwrap();
                let start: Micros = "2026-03-20T00:00:00Z".parse().unwrap();
                for quarter in 0..96 * 30 {
                    let at = Micros(start.0 + quarter * crate::domain::time::QUARTER);
                    let fresh = Calendar::new(zone, step).unwrap().bucket(at);
                    assert_eq!(remembering.bucket(at), fresh, "{zone} {step:?} {at}");
                }
            }
        }
    }

    #[test]
    fn a_zone_nobody_knows_is_named() {
        assert!(Calendar::new("Mars/Olympus", Step::Day).unwrap_err().to_string().contains("Mars/Olympus"));
    }
}
