//! The state of a page as its URL says it: range, zone, grouping, filters, format. One grammar for all pages.
//!
//! Only what differs from the page's default is written. A wrong value is an error that names its field, never a silent
//! default; a filter that matches nothing stays in force and visible.

use jiff::tz::TimeZone;

use crate::domain::{Dimension, Filter, Match, Micros};
use crate::report::Step;

use super::range::Range;

/// Most filters one page takes.
const MAX_FILTERS: usize = 40;
/// Longest value of a filter, in bytes.
const MAX_VALUE: usize = 200;

/// What a figure of the spend page shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    #[default]
    Cost,
    Calls,
    InputTokens,
    OutputTokens,
    CacheReadTokens,
    ToolCalls,
    Refused,
    Failed,
}

impl Metric {
    pub const ALL: [(Metric, &'static str, &'static str); 8] = [
        (Metric::Cost, "cost", "Cost"),
        (Metric::Calls, "calls", "Calls"),
        (Metric::InputTokens, "input_tokens", "Input tokens"),
        (Metric::OutputTokens, "output_tokens", "Output tokens"),
        (Metric::CacheReadTokens, "cache_read_tokens", "Tokens read from cache"),
        (Metric::ToolCalls, "tool_calls", "Tool calls"),
        (Metric::Refused, "refused", "Refused calls"),
        (Metric::Failed, "failed", "Failed calls"),
    ];

    pub fn name(self) -> &'static str {
        Metric::ALL.iter().find(|m| m.0 == self).map_or("cost", |m| m.1)
    }

    pub fn title(self) -> &'static str {
        Metric::ALL.iter().find(|m| m.0 == self).map_or("Cost", |m| m.2)
    }
}

/// What a page is asked to answer in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Html,
    Csv,
    Json,
    Ndjson,
}

impl Format {
    const ALL: [(Format, &'static str); 4] =
        [(Format::Html, "html"), (Format::Csv, "csv"), (Format::Json, "json"), (Format::Ndjson, "ndjson")];

    pub fn name(self) -> &'static str {
        Format::ALL.iter().find(|f| f.0 == self).map_or("html", |f| f.1)
    }
}

/// What a page takes when its URL is silent, and which parameters it understands beside range, zone and filters.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub range: &'static str,
    pub by: &'static [Dimension],
    pub limit: usize,
    pub parameters: &'static [&'static str],
}

/// A parameter that is wrong, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {message}")]
pub struct QueryError {
    pub field: String,
    pub message: String,
}

fn error(field: &str, message: impl Into<String>) -> QueryError {
    QueryError { field: field.chars().take(60).collect(), message: message.into() }
}

/// A page's state.
#[derive(Clone, Debug)]
pub struct Query {
    pub range: Range,
    pub zone: TimeZone,
    pub zone_name: String,
    zone_given: bool,
    pub by: Vec<Dimension>,
    pub metric: Metric,
    pub step: Option<Step>,
    pub filters: Vec<(Dimension, Match)>,
    pub compare: bool,
    pub sort: Option<String>,
    pub cursor: Option<String>,
    pub limit: usize,
    pub format: Format,
    /// The URL was not in its shortest form, as a submitted form's is not: send the browser to the one that is.
    pub untidy: bool,
    defaults: Defaults,
}

impl Query {
    /// Reads the pairs of a query string.
    pub fn read(
        pairs: &[(String, String)],
        defaults: Defaults,
        organisation_zone: &str,
        now: Micros,
    ) -> Result<Query, QueryError> {
        let mut untidy = false;
        let mut given: Vec<(&str, &str)> = Vec::new();
        for (name, value) in pairs {
            untidy |= value.is_empty();
            if !value.is_empty() {
                given.push((name, value.trim()));
            }
        }
        let last = |name: &str| given.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| *v);

        let zone_name = last("tz").unwrap_or(organisation_zone).to_owned();
        let zone = TimeZone::get(&zone_name).map_err(|_| {
            error("tz", format!("`{}` is no time zone: write an IANA name such as Europe/Berlin", cut(&zone_name)))
        })?;
        let mut query = Query {
            range: read_range(last("range"), last("from"), last("to"), defaults, &zone, now)?,
            zone_given: last("tz").is_some_and(|z| z != organisation_zone),
            zone,
            zone_name,
            by: defaults.by.to_vec(),
            metric: Metric::Cost,
            step: None,
            filters: Vec::new(),
            compare: false,
            sort: None,
            cursor: None,
            limit: defaults.limit,
            format: Format::Html,
            untidy,
            defaults,
        };
        let by: Vec<&str> = given.iter().filter(|(n, _)| *n == "by").flat_map(|(_, v)| v.split(',')).collect();
        if !by.is_empty() {
            query.untidy |= given.iter().filter(|(n, _)| *n == "by").count() > 1;
            query.by = read_by(&by)?;
        }
        for (name, value) in &given {
            query.read_one(name, value)?;
        }
        if let (Some(dimension), Some(value)) = (last("add"), last("value")) {
            query.read_filter(dimension, value)?;
        }
        Ok(query)
    }

    fn read_one(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        match name {
            "range" | "from" | "to" | "tz" => Ok(()),
            // What the form for adding a filter sends; its value is read with its dimension.
            "add" | "value" => {
                self.untidy = true;
                Ok(())
            }
            "format" => {
                self.format =
                    Format::ALL.iter().find(|f| f.1 == value).map(|f| f.0).ok_or_else(|| {
                        error("format", format!("`{}` is none of html, csv, json, ndjson", cut(value)))
                    })?;
                Ok(())
            }
            _ if Dimension::from_name(name).is_some() => self.read_filter(name, value),
            _ if !self.defaults.parameters.contains(&name) => Err(unknown(name, self.defaults)),
            "by" => Ok(()),
            "metric" => {
                self.metric = Metric::ALL.iter().find(|m| m.1 == value).map(|m| m.0).ok_or_else(|| {
                    let known: Vec<_> = Metric::ALL.iter().map(|m| m.1).collect();
                    error("metric", format!("`{}` is none of {}", cut(value), known.join(", ")))
                })?;
                Ok(())
            }
            "step" => {
                self.step = Some(step_from(value).ok_or_else(|| {
                    error("step", format!("`{}` is none of hour, day, week, month, none", cut(value)))
                })?);
                Ok(())
            }
            "compare" => {
                self.compare = match value {
                    "prev" => true,
                    "none" => false,
                    _ => return Err(error("compare", format!("`{}` is none of prev, none", cut(value)))),
                };
                Ok(())
            }
            "basis" if value == "metered" => Ok(()),
            "basis" => Err(error(
                "basis",
                format!("`{}` is not available: no bill has been reconciled; use metered", cut(value)),
            )),
            "limit" => {
                self.limit = value
                    .parse()
                    .ok()
                    .filter(|n| [25, 50, 100, 500].contains(n))
                    .ok_or_else(|| error("limit", format!("`{}` is none of 25, 50, 100, 500", cut(value))))?;
                Ok(())
            }
            "sort" => {
                self.sort = Some(value.to_owned());
                Ok(())
            }
            "cursor" => {
                self.cursor = Some(value.to_owned());
                Ok(())
            }
            _ => Err(unknown(name, self.defaults)),
        }
    }

    fn read_filter(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        let Some(dimension) = Dimension::from_name(name) else {
            return Err(unknown(name, self.defaults));
        };
        if value.len() > MAX_VALUE {
            return Err(error(name, format!("a value may have at most {MAX_VALUE} characters")));
        }
        if self.filters.len() >= MAX_FILTERS {
            return Err(error(name, format!("at most {MAX_FILTERS} filters at once")));
        }
        let filter = (dimension, Match::parse(value));
        if !self.filters.contains(&filter) {
            self.filters.push(filter);
        }
        Ok(())
    }

    /// The filter that reports take.
    pub fn filter(&self) -> Filter {
        Filter { from: Some(self.range.from), to: Some(self.range.to), dimensions: self.filters.clone() }
    }

    /// The step in force.
    pub fn step_or_auto(&self) -> Step {
        self.step.unwrap_or_else(|| self.range.auto_step())
    }

    /// The same page with one filter more.
    pub fn with(&self, dimension: Dimension, value: Option<&str>) -> Query {
        let mut query = self.clone();
        let wanted = value.map_or(Match::None, |v| Match::Is(v.to_owned()));
        query.filters.retain(|(d, m)| *d != dimension || matches!(m, Match::IsNot(_)));
        query.filters.push((dimension, wanted));
        query.cursor = None;
        query
    }

    /// The same page without one of its filters.
    pub fn without(&self, index: usize) -> Query {
        let mut query = self.clone();
        if index < query.filters.len() {
            query.filters.remove(index);
        }
        query.cursor = None;
        query
    }

    /// The same page changed as `change` says, from its first row on.
    pub fn changed(&self, change: impl FnOnce(&mut Query)) -> Query {
        let mut query = self.clone();
        query.cursor = None;
        change(&mut query);
        query
    }

    /// The same page over another span.
    pub fn spanning(&self, from: Micros, to: Micros) -> Query {
        self.changed(|q| {
            let text = |at: Micros| {
                let local = at.timestamp().to_zoned_datetime(q.zone.clone());
                let midnight = local.start_of_day().is_ok_and(|s| s == local);
                if midnight { local.date().to_string() } else { at.to_string().replace(".000000Z", "Z") }
            };
            let given = (text(from), text(to));
            q.range = Range { from, to, preset: None, given };
        })
    }

    /// The days of another span, in words. A span that ends at some time of day is named by its days alone.
    pub fn days_in_words(&self, from: Micros, to: Micros) -> String {
        Range { from, to, preset: None, given: Default::default() }.in_words(&self.zone)
    }

    /// This state as the address of `path`, whose own defaults may differ from those it was read with.
    pub fn url(&self, path: &str, defaults: &Defaults) -> String {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        match self.range.preset {
            Some(preset) if preset != defaults.range => pairs.push(("range", preset.to_owned())),
            Some(_) => {}
            None => {
                pairs.push(("from", self.range.given.0.clone()));
                pairs.push(("to", self.range.given.1.clone()));
            }
        }
        if self.zone_given {
            pairs.push(("tz", self.zone_name.clone()));
        }
        let takes = |name: &str| defaults.parameters.contains(&name);
        if takes("by") && !self.by.is_empty() && self.by != defaults.by {
            pairs.push(("by", self.by.iter().map(|d| d.name()).collect::<Vec<_>>().join(",")));
        }
        if takes("metric") && self.metric != Metric::Cost {
            pairs.push(("metric", self.metric.name().to_owned()));
        }
        if let Some(step) = self.step.filter(|_| takes("step")) {
            pairs.push(("step", step_name(step).to_owned()));
        }
        if takes("compare") && self.compare {
            pairs.push(("compare", "prev".to_owned()));
        }
        for (dimension, value) in &self.filters {
            pairs.push((dimension.name(), value.to_string()));
        }
        if takes("limit") && self.limit != defaults.limit {
            pairs.push(("limit", self.limit.to_string()));
        }
        if let Some(sort) = self.sort.as_ref().filter(|_| takes("sort")) {
            pairs.push(("sort", sort.clone()));
        }
        if let Some(cursor) = self.cursor.as_ref().filter(|_| takes("cursor")) {
            pairs.push(("cursor", cursor.clone()));
        }
        if self.format != Format::Html {
            pairs.push(("format", self.format.name().to_owned()));
        }
        link(path, &pairs)
    }

    /// This state as an address of the page it was read for.
    pub fn own_url(&self, path: &str) -> String {
        self.url(path, &self.defaults)
    }
}

/// An address with a query string.
pub fn link(path: &str, pairs: &[(&str, String)]) -> String {
    let mut url = path.to_owned();
    for (i, (name, value)) in pairs.iter().enumerate() {
        url.push(if i == 0 { '?' } else { '&' });
        url.push_str(name);
        url.push('=');
        url.push_str(&escape(value));
    }
    url
}

/// Percent-encodes what a query value (or path segment) cannot carry as it is; `,` and `*` stay readable.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~,*:@!()".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

fn read_range(
    range: Option<&str>,
    from: Option<&str>,
    to: Option<&str>,
    defaults: Defaults,
    zone: &TimeZone,
    now: Micros,
) -> Result<Range, QueryError> {
    let tomorrow = Range::preset("today", zone, now).map(|r| r.to.to_string());
    match (from, to) {
        (Some(from), to) => {
            let to = to.map(str::to_owned).or(tomorrow).unwrap_or_default();
            Range::between(from, &to, zone).map_err(|(field, message)| error(field, message))
        }
        (None, Some(_)) => Err(error("from", "a range with `to` needs `from` too")),
        (None, None) => {
            let name = range.unwrap_or(defaults.range);
            Range::preset(name, zone, now).ok_or_else(|| {
                let known: Vec<_> = super::range::PRESETS.iter().map(|p| p.0).collect();
                error("range", format!("`{}` is none of {}", cut(name), known.join(", ")))
            })
        }
    }
}

fn read_by(names: &[&str]) -> Result<Vec<Dimension>, QueryError> {
    let mut by = Vec::new();
    for name in names.iter().filter(|n| !n.is_empty()) {
        let dimension = Dimension::from_name(name).ok_or_else(|| {
            let known: Vec<_> = Dimension::ALL.iter().map(|d| d.name()).collect();
            error("by", format!("`{}` is none of {}", cut(name), known.join(", ")))
        })?;
        if !by.contains(&dimension) {
            by.push(dimension);
        }
    }
    if by.is_empty() || by.len() > 2 {
        return Err(error("by", "one or two dimensions"));
    }
    Ok(by)
}

fn unknown(name: &str, defaults: Defaults) -> QueryError {
    let mut known: Vec<&str> = vec!["range", "from", "to", "tz", "format"];
    known.extend(defaults.parameters);
    known.extend(Dimension::ALL.iter().map(|d| d.name()));
    error(name, format!("this page does not know it; it takes {}", known.join(", ")))
}

fn step_from(name: &str) -> Option<Step> {
    [Step::None, Step::Hour, Step::Day, Step::Week, Step::Month].into_iter().find(|s| step_name(*s) == name)
}

/// The step as URLs say it.
pub fn step_name(step: Step) -> &'static str {
    match step {
        Step::None => "none",
        Step::Hour => "hour",
        Step::Day => "day",
        Step::Week => "week",
        Step::Month => "month",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEND: Defaults = Defaults {
        range: "mtd",
        by: &[Dimension::Service],
        limit: 100,
        parameters: &["by", "metric", "step", "compare", "sort", "limit", "basis"],
    };

    fn read(text: &str) -> Result<Query, QueryError> {
        let pairs: Vec<(String, String)> = text
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        Query::read(&pairs, SPEND, "Europe/Berlin", "2026-11-23T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_url_says_only_what_differs_from_the_default() {
        for text in [
            "",
            "?range=7d",
            "?from=2026-11-01&to=2026-11-08",
            "?tz=Asia/Kathmandu",
            "?by=owner,model",
            "?metric=calls&step=week&compare=prev",
            "?service=a&service=b&environment=!test&owner=(none)&model=gpt-*",
            "?limit=500&sort=-calls",
        ] {
            let url = format!("/spend{text}");
            let escaped = url.replace("Asia/Kathmandu", "Asia%2FKathmandu");
            assert_eq!(read(text.trim_start_matches('?')).unwrap().own_url("/spend"), escaped);
        }
        assert_eq!(read("range=mtd&by=service&metric=cost&limit=100").unwrap().own_url("/spend"), "/spend");
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        for (text, field) in [
            ("range=fortnight", "range"),
            ("from=soon&to=2026-11-02", "from"),
            ("to=2026-11-02", "from"),
            ("tz=Middle/Earth", "tz"),
            ("by=colour", "by"),
            ("by=service,model,owner", "by"),
            ("metric=joy", "metric"),
            ("step=minute", "step"),
            ("format=pdf", "format"),
            ("limit=7", "limit"),
            ("basis=billed", "basis"),
            ("compare=never", "compare"),
            ("colour=red", "colour"),
            ("cursor=12", "cursor"),
            ("add=colour&value=red", "colour"),
        ] {
            assert_eq!(read(text).unwrap_err().field, field, "{text}");
        }
    }

    #[test]
    fn a_submitted_form_becomes_a_short_url() {
        let query = read("from=&to=&range=7d&by=service&by=model&add=owner&value=team-ap&metric=cost").unwrap();
        assert!(query.untidy);
        assert_eq!(query.own_url("/spend"), "/spend?range=7d&by=service,model&owner=team-ap");
        assert!(!read("range=7d").unwrap().untidy);
    }

    #[test]
    fn drilling_down_replaces_the_choice_and_keeps_the_exclusions() {
        let query = read("service=a&service=b&service=!c").unwrap();
        assert_eq!(query.with(Dimension::Service, Some("a")).own_url("/spend"), "/spend?service=!c&service=a");
        assert_eq!(
            query.with(Dimension::Owner, None).without(0).own_url("/spend"),
            "/spend?service=b&service=!c&owner=(none)"
        );
    }
}
