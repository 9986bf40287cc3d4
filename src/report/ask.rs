//! A question as it is written: the query of a URL, the same for the API, the pages and the command line.
//!
//! An unknown name is an error that says the nearest known one; an invalid value is an error that names its field.

use crate::domain::{Dimension, Environment, Filter, Match, Micros, Outcome};
use crate::rollup::{Calendar, Step};

use super::csv::CsvStyle;
use super::{ReportError, SpendQuery};

/// What an answer is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Csv,
    Ndjson,
}

impl Format {
    pub const fn name(self) -> &'static str {
        ["json", "csv", "ndjson"][self as usize]
    }

    pub const fn media_type(self) -> &'static str {
        ["application/json", "text/csv; charset=utf-8", "application/x-ndjson"][self as usize]
    }

    pub fn from_name(name: &str) -> Option<Format> {
        [Format::Json, Format::Csv, Format::Ndjson].into_iter().find(|f| f.name() == name)
    }

    /// The best of an `Accept` header that we have; `None` where it names none of ours.
    pub fn accepted(accept: &str) -> Option<Format> {
        accept.split(',').find_map(|part| match part.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Format::Json),
            "text/csv" => Some(Format::Csv),
            "application/x-ndjson" => Some(Format::Ndjson),
            _ => None,
        })
    }
}

/// A question, read.
#[derive(Clone, Debug)]
pub struct Ask {
    pub filter: Filter,
    pub by: Vec<Dimension>,
    pub step: Step,
    pub time_zone: String,
    pub limit: Option<usize>,
    pub cursor: Option<String>,
    pub format: Option<Format>,
    pub style: CsvStyle,
    /// The answer must have the entries before this.
    pub min_seq: Option<u64>,
}

/// Names every list takes beside the dimensions.
const COMMON: [&str; 9] = ["from", "to", "tz", "limit", "cursor", "format", "csv", "bom", "min_seq"];
/// Names that a question about spend takes too.
const SPEND: [&str; 2] = ["by", "step"];
/// Most dimensions of one `by`.
const MOST_BY: usize = 4;

impl Ask {
    /// Reads a question about calls.
    pub fn calls(pairs: &[(String, String)], zone: &str) -> Result<Ask, ReportError> {
        Ask::read(pairs, zone, &COMMON)
    }

    /// Reads a question about spend.
    pub fn spend(pairs: &[(String, String)], zone: &str) -> Result<Ask, ReportError> {
        Ask::read(pairs, zone, &[COMMON.as_slice(), &SPEND].concat())
    }

    /// `zone`: the organisation's, for dates and where the question names none.
    fn read(pairs: &[(String, String)], zone: &str, known: &[&str]) -> Result<Ask, ReportError> {
        let zone = pairs.iter().find(|(name, _)| name == "tz").map_or(zone, |(_, value)| value);
        let calendar = Calendar::new(zone, Step::Day).map_err(|e| ReportError::invalid("tz", e))?;
        let mut ask = Ask {
            filter: Filter::default(),
            by: Vec::new(),
            step: Step::None,
            time_zone: zone.to_owned(),
            limit: None,
            cursor: None,
            format: None,
            style: CsvStyle::default(),
            min_seq: None,
        };
        for (name, value) in pairs {
            match Dimension::from_name(name) {
                Some(dimension) => ask.filter.dimensions.push((dimension, condition(dimension, value)?)),
                None if known.contains(&name.as_str()) => ask.set(name, value, &calendar)?,
                None => {
                    let names = known.iter().copied().chain(Dimension::ALL.iter().map(|d| d.name()));
                    return Err(ReportError::invalid(name, unknown(name, names)));
                }
            }
        }
        if let (Some(from), Some(to)) = (ask.filter.from, ask.filter.to)
            && from >= to
        {
            return Err(ReportError::invalid("to", "is not after `from`; `to` itself is not in the range"));
        }
        Ok(ask)
    }

    fn set(&mut self, name: &str, value: &str, calendar: &Calendar) -> Result<(), ReportError> {
        let invalid = |message: &str| ReportError::invalid(name, format!("`{}` {message}", short(value)));
        match name {
            "from" => self.filter.from = Some(instant(name, value, calendar)?),
            "to" => self.filter.to = Some(instant(name, value, calendar)?),
            "by" => self.by = dimensions(value)?,
            "step" => {
                self.step = Step::from_name(value).ok_or_else(|| invalid("is none of none, hour, day, week, month"))?
            }
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=super::MOST_CALLS).contains(n));
                self.limit = Some(limit.ok_or_else(|| invalid("is not a number from 1 to 1000"))?);
            }
            "cursor" => self.cursor = Some(value.to_owned()),
            "format" => {
                self.format = Some(Format::from_name(value).ok_or_else(|| invalid("is none of json, csv, ndjson"))?)
            }
            "csv" => {
                self.style.raw = flag(value, "raw", "guarded").ok_or_else(|| invalid("is neither raw nor guarded"))?
            }
            "bom" => self.style.bom = flag(value, "1", "0").ok_or_else(|| invalid("is neither 1 nor 0"))?,
            "min_seq" => self.min_seq = Some(value.parse().map_err(|_| invalid("is not a sequence"))?),
            // `tz` was read before all others.
            _ => {}
        }
        Ok(())
    }

    /// The question about spend in it.
    pub fn spend_query(&self) -> SpendQuery {
        SpendQuery {
            filter: self.filter.clone(),
            by: self.by.clone(),
            step: self.step,
            time_zone: self.time_zone.clone(),
        }
    }
}

fn flag(value: &str, yes: &str, no: &str) -> Option<bool> {
    if value == yes { Some(true) } else { (value == no).then_some(false) }
}

fn short(value: &str) -> String {
    value.chars().take(60).collect()
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("is not a parameter; did you mean `{near}`?"),
        None => "is not a parameter".to_owned(),
    }
}

/// A condition on a dimension with a fixed set of values must name one of them, or the answer would be silently empty.
fn condition(dimension: Dimension, value: &str) -> Result<Match, ReportError> {
    let condition = Match::parse(value);
    let (Match::Is(word) | Match::IsNot(word)) = &condition else { return Ok(condition) };
    let known: Vec<&str> = match dimension {
        Dimension::Environment => Environment::ALL.map(Environment::name).into(),
        Dimension::Outcome => Outcome::ALL.map(Outcome::name).into(),
        _ => return Ok(condition),
    };
    if word.contains('*') || known.contains(&word.as_str()) {
        return Ok(condition);
    }
    Err(ReportError::invalid(dimension.name(), format!("`{}` is none of {}", short(word), known.join(", "))))
}

fn dimensions(value: &str) -> Result<Vec<Dimension>, ReportError> {
    let mut by = Vec::new();
    for name in value.split(',').filter(|name| !name.is_empty()) {
        let names = || Dimension::ALL.iter().map(|d| d.name());
        let Some(dimension) = Dimension::from_name(name) else {
            let near = nearest(name, names()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return Err(ReportError::invalid("by", format!("`{}` is not a dimension{near}", short(name))));
        };
        if by.contains(&dimension) {
            return Err(ReportError::invalid("by", format!("`{name}` stands there twice")));
        }
        by.push(dimension);
    }
    if by.len() > MOST_BY {
        return Err(ReportError::invalid("by", format!("takes at most {MOST_BY} dimensions")));
    }
    Ok(by)
}

/// An RFC 3339 instant, or a date in the question's zone: its first instant.
fn instant(name: &str, value: &str, calendar: &Calendar) -> Result<Micros, ReportError> {
    if let Ok(at) = value.parse::<Micros>() {
        return Ok(at);
    }
    let date = (value.len() == 10).then(|| value.parse::<jiff::civil::Date>().ok()).flatten();
    date.map(|date| calendar.midnight(date)).ok_or_else(|| {
        let message =
            format!("`{}` is neither a date (2026-11-23) nor an instant (2026-11-23T18:00:00Z)", short(value));
        ReportError::invalid(name, message)
    })
}

/// The known name fewest edits away, if it is near enough to have been meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.len() / 3 + 1;
    known.map(|k| (edits(name, k), k)).filter(|(n, _)| *n <= limit).min().map(|(_, k)| k)
}

/// Levenshtein distance of two short names.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
