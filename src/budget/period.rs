//! Periods of budgets: half-open windows cut in the budget's own zone, with ids derived from them.
//!
//! Nothing resets a budget: a new period is a new id. Ids read `2026-11@Europe/Berlin` (month), `2026-11-23@…` (day),
//! `2026-11-23T18@…` (hour), `2026-11-23T18:05@…` (minute), `2026-W48@…` (ISO week, from Monday), `2026-Q4@…`, `2026@…`,
//! `total`. A fiscal year that does not start in January says when it began: `FY2026-04@…`, `FY2026-04-Q2@…`. A period
//! counted from an anchor is its first day and its length: `2026-11-15/P1M@…`. An hour or minute that a clock change
//! repeats carries its offset the second time: `2026-10-25T02+01@…`. Days and longer may have an hour more or less.

use jiff::civil::{Date, date};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Span, Timestamp, ToSpan};

use crate::domain::{Budget, Micros, PeriodKind};

/// Why no periods can be cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("`{0}` is not a time zone: use an IANA name such as Europe/Berlin or UTC")]
    Zone(String),
    #[error("`{0}` is not a date: write it as 2026-11-15")]
    Anchor(String),
    #[error("a fiscal year starts in month 1 to 12, not {0}")]
    FiscalMonth(u8),
}

/// One period: `start <= at < end`. An absent end never comes, an absent start lies before every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub id: String,
    pub start: Option<Micros>,
    pub end: Option<Micros>,
}

impl Window {
    pub fn contains(&self, at: Micros) -> bool {
        self.start.is_none_or(|start| start <= at) && self.end.is_none_or(|end| at < end)
    }
}

/// How a budget cuts time: its zone looked up and its anchor read, once.
#[derive(Clone, Debug)]
pub struct Calendar {
    kind: PeriodKind,
    zone: TimeZone,
    zone_name: String,
    anchor: Option<Date>,
    fiscal_start: i8,
}

impl Calendar {
    /// The calendar of a budget. Anchors mean something for weeks, months, quarters and years; elsewhere they change nothing.
    pub fn of(budget: &Budget) -> Result<Calendar, PeriodError> {
        let month = budget.fiscal_year_start_month;
        if !(1..=12).contains(&month) {
            return Err(PeriodError::FiscalMonth(month));
        }
        let anchor = match &budget.anchor {
            Some(text) => Some(text.parse().map_err(|_| PeriodError::Anchor(text.chars().take(40).collect()))?),
            None => None,
        };
        let zone = zone(&budget.time_zone)?;
        let zone_name = budget.time_zone.clone();
        Ok(Calendar { kind: budget.period, zone, zone_name, anchor, fiscal_start: month as i8 })
    }

    /// The period an instant is in.
    pub fn window(&self, at: Micros) -> Window {
        let now = self.zone.to_datetime(at.timestamp());
        let today = now.date();
        match self.kind {
            PeriodKind::Total => Window { id: "total".into(), start: None, end: None },
            PeriodKind::Minute => self.clock_window(at, 60, &format!("{today}T{:02}:{:02}", now.hour(), now.minute())),
            PeriodKind::Hour => self.clock_window(at, 3600, &format!("{today}T{:02}", now.hour())),
            PeriodKind::Day => self.dates(today, 1.day(), today.to_string()),
            PeriodKind::Week if self.anchor.is_some() => self.anchored(today, 7, 0),
            PeriodKind::Month if self.anchor.is_some() => self.anchored(today, 0, 1),
            PeriodKind::Quarter if self.anchor.is_some() => self.anchored(today, 0, 3),
            PeriodKind::Year if self.anchor.is_some() => self.anchored(today, 0, 12),
            PeriodKind::Week => {
                let week = today.iso_week_date();
                let monday = today.saturating_sub(i64::from(week.weekday().to_monday_zero_offset()).days());
                self.dates(monday, 7.days(), format!("{:04}-W{:02}", week.year(), week.week()))
            }
            PeriodKind::Month => {
                self.dates(today.first_of_month(), 1.month(), format!("{:04}-{:02}", today.year(), today.month()))
            }
            PeriodKind::Quarter => {
                let (year, quarter) = (self.fiscal_year(today), self.month_of_fiscal_year(today) / 3);
                let start = year.saturating_add(i64::from(quarter * 3).months());
                self.dates(start, 3.months(), format!("{}-Q{}", self.fiscal_name(year), quarter + 1))
            }
            PeriodKind::Year => {
                let year = self.fiscal_year(today);
                self.dates(year, 1.year(), self.fiscal_name(year))
            }
        }
    }

    fn month_of_fiscal_year(&self, day: Date) -> i8 {
        (day.month() - self.fiscal_start).rem_euclid(12)
    }

    fn fiscal_year(&self, day: Date) -> Date {
        day.first_of_month().saturating_sub(i64::from(self.month_of_fiscal_year(day)).months())
    }

    fn fiscal_name(&self, start: Date) -> String {
        match self.fiscal_start {
            1 => format!("{:04}", start.year()),
            month => format!("FY{:04}-{month:02}", start.year()),
        }
    }

    fn start_of(&self, day: Date) -> Option<Micros> {
        let midnight = self.zone.to_ambiguous_zoned_datetime(day.at(0, 0, 0, 0)).compatible();
        midnight.ok().map(|z| Micros::from_timestamp(z.timestamp()))
    }

    fn dates(&self, start: Date, length: Span, name: String) -> Window {
        let end = start.checked_add(length).ok();
        Window {
            id: format!("{name}@{}", self.zone_name),
            start: self.start_of(start),
            end: end.and_then(|day| self.start_of(day)),
        }
    }

    // The k-th period starts at the anchor plus k lengths, never at the one before plus one: the 31st stays the 31st
    // where a month has one.
    fn anchored(&self, today: Date, days: i32, months: i32) -> Window {
        let anchor = self.anchor.unwrap_or(date(1970, 1, 1));
        let nth = |k: i32| match days {
            0 => anchor.saturating_add(i64::from(k * months).months()),
            _ => anchor.saturating_add(i64::from(k * days).days()),
        };
        let mut k = if days > 0 {
            let apart = (today - anchor).get_days();
            apart.div_euclid(days)
        } else {
            let whole = |d: Date| i32::from(d.year()) * 12 + i32::from(d.month());
            (whole(today) - whole(anchor)).div_euclid(months)
        };
        // Off by one where the day of the month has not come yet.
        if nth(k) > today {
            k -= 1;
        } else if nth(k + 1) <= today {
            k += 1;
        }
        let (start, end) = (nth(k), nth(k + 1));
        let length = match (days, months) {
            (0, 12) => "P1Y".to_owned(),
            (0, months) => format!("P{months}M"),
            _ => "P1W".to_owned(),
        };
        Window {
            id: format!("{start}/{length}@{}", self.zone_name),
            start: self.start_of(start),
            end: self.start_of(end),
        }
    }

    // Hours and minutes: whole steps of the local clock, cut short where the clock is changed in the middle of one.
    fn clock_window(&self, at: Micros, step: i64, name: &str) -> Window {
        let instant = at.timestamp();
        let offset = self.zone.to_offset(instant);
        let seconds = instant.as_second() - i64::from(instant.subsec_nanosecond() < 0);
        let local = seconds + i64::from(offset.seconds());
        let from = local.div_euclid(step) * step - i64::from(offset.seconds());
        let mut window = (from, from + step);
        let changed = |t: Option<jiff::tz::TimeZoneTransition>| t.map(|t| t.timestamp().as_second());
        let after = Timestamp::from_second(seconds.saturating_add(1)).unwrap_or(Timestamp::MAX);
        if let Some(change) = changed(self.zone.preceding(after).next()) {
            window.0 = window.0.max(change);
        }
        if let Some(change) = changed(self.zone.following(instant).next()) {
            window.1 = window.1.min(change);
        }
        // By where it starts: the clock may go back inside of it.
        let start = Timestamp::from_second(window.0).unwrap_or(instant);
        let again = match self.zone.to_ambiguous_timestamp(offset.to_datetime(start)).offset() {
            AmbiguousOffset::Fold { after, .. } if after == offset => short(offset),
            _ => String::new(),
        };
        Window {
            id: format!("{name}{again}@{}", self.zone_name),
            start: Some(Micros(window.0.saturating_mul(1_000_000))),
            end: Some(Micros(window.1.saturating_mul(1_000_000))),
        }
    }
}

/// `+01`, `+10:30`.
fn short(offset: Offset) -> String {
    let (sign, minutes) = (if offset.is_negative() { '-' } else { '+' }, offset.seconds().unsigned_abs() / 60);
    match minutes % 60 {
        0 => format!("{sign}{:02}", minutes / 60),
        rest => format!("{sign}{:02}:{rest:02}", minutes / 60),
    }
}

/// The zone of that IANA name.
pub fn zone(name: &str) -> Result<TimeZone, PeriodError> {
    TimeZone::get(name).map_err(|_| PeriodError::Zone(name.chars().take(60).collect()))
}

#[cfg(test)]
mod tests;
