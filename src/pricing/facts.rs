//! The shipped price facts: lists of models with dated prices, read once from the file in the binary.
//!
//! The file is tab-separated and made by `generate.rs`: `model`, then its `entry` lines (one dated price list of the model,
//! in ascending order of `seq`), each followed by its `price` lines. Lines that begin with `#` say where the facts are from.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use crate::domain::{Component, Micros};

use super::rate::Rate;
use super::rule::Rule;

/// The file in the binary. Its date is the day the facts were gathered; prices announced for later days are in it.
const FILE: &str = include_str!("facts-2026-11-23.tsv");
/// The file's name, as receipts and pages cite it.
pub const SHIPPED_SOURCE: &str = "facts-2026-11-23";

/// All shipped lists, by name.
pub(super) struct Facts {
    pub lists: BTreeMap<String, List>,
}

/// The price list of one seller.
#[derive(Default)]
pub(super) struct List {
    pub models: Vec<Model>,
    /// Lower-case name → first model with an `equals:` rule for it.
    equals: HashMap<String, usize>,
    /// The other rules with their model, in the order of models.
    rules: Vec<(usize, Rule)>,
}

/// A model with all its prices.
pub(super) struct Model {
    pub id: String,
    /// The match text, as pages show it.
    pub matches: String,
    pub context_window: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub deprecated: bool,
    /// Audio is billed as at least this many seconds a request.
    pub min_audio_seconds: Option<u64>,
    /// In ascending order of `seq`.
    pub entries: Vec<Entry>,
}

/// One dated price list of a model.
pub(super) struct Entry {
    pub seq: u32,
    /// Empty = the standard price; otherwise what the request must say, exactly.
    pub context: Vec<(String, String)>,
    /// Inclusive.
    pub from: Option<Micros>,
    /// Exclusive.
    pub to: Option<Micros>,
    /// Seconds of the UTC day: start inclusive, end exclusive; may wrap midnight.
    pub window: Option<(i64, i64)>,
    /// Where the fact is from.
    pub source: String,
    pub prices: Vec<Price>,
}

pub(super) struct Price {
    pub component: Component,
    /// Holds for requests with more input tokens than this; 0 = base.
    pub tier_from: u64,
    pub rate: Rate,
}

impl Facts {
    /// The facts in the binary; read at the first use (about a millisecond).
    pub(super) fn shipped() -> &'static Facts {
        static SHIPPED: LazyLock<Facts> =
            LazyLock::new(|| Facts::parse(FILE).expect("the file in the binary is compared with its source by a test"));
        &SHIPPED
    }

    pub(super) fn parse(file: &str) -> Result<Facts, String> {
        let mut lists = BTreeMap::<String, List>::new();
        let mut list = String::new();
        for (number, line) in file.lines().enumerate().filter(|(_, l)| !l.starts_with('#') && !l.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let read = match fields[..] {
                ["model", name, ref rest @ ..] => {
                    list = name.to_owned();
                    Model::parse(rest).and_then(|m| lists.entry(list.clone()).or_default().push(m))
                }
                ["entry", ref rest @ ..] => Entry::parse(rest).and_then(|entry| {
                    let model = lists.get_mut(&list).and_then(|l| l.models.last_mut());
                    model.map(|m| m.entries.push(entry)).ok_or_else(|| "an entry before any model".to_owned())
                }),
                ["price", ref rest @ ..] => Price::parse(rest).and_then(|price| {
                    let model = lists.get_mut(&list).and_then(|l| l.models.last_mut());
                    let entry = model.and_then(|m| m.entries.last_mut());
                    entry.map(|e| e.prices.push(price)).ok_or_else(|| "a price before any entry".to_owned())
                }),
                _ => Err("neither model, entry nor price".to_owned()),
            };
            read.map_err(|what| format!("line {}: {what}", number + 1))?;
        }
        Ok(Facts { lists })
    }

    /// The model a name stands for in a list: the first one, in the list's order, with a rule for it. `lower` is the name
    /// in lower case.
    pub(super) fn find(&self, list: &str, lower: &str) -> Option<&Model> {
        let list = self.lists.get(list)?;
        let exact = list.equals.get(lower).copied();
        let before = |index: &usize| exact.is_none_or(|e| *index < e);
        let by_rule = list.rules.iter().take_while(|(i, _)| before(i)).find(|(_, r)| r.matches(lower)).map(|(i, _)| *i);
        list.models.get(by_rule.or(exact)?)
    }
}

impl List {
    fn push(&mut self, model: Model) -> Result<(), String> {
        let index = self.models.len();
        for rule in Rule::parse_all(&model.matches)? {
            match rule {
                Rule::Equals(name) => drop(self.equals.entry(name).or_insert(index)),
                rule => self.rules.push((index, rule)),
            }
        }
        self.models.push(model);
        Ok(())
    }
}

impl Model {
    fn parse(fields: &[&str]) -> Result<Model, String> {
        let [id, matches, window, output, deprecated, min_audio] = *fields else {
            return Err("a model has 6 fields after its list".to_owned());
        };
        Ok(Model {
            id: id.to_owned(),
            matches: matches.to_owned(),
            context_window: optional(window)?,
            max_output_tokens: optional(output)?,
            deprecated: deprecated == "true",
            min_audio_seconds: optional(min_audio)?,
            entries: Vec::new(),
        })
    }
}

impl Entry {
    fn parse(fields: &[&str]) -> Result<Entry, String> {
        let [seq, context, from, to, tod_from, tod_to, source] = *fields else {
            return Err("an entry has 7 fields".to_owned());
        };
        let instant = |text: &str| match text {
            "" => Ok(None),
            _ => text.parse::<Micros>().map(Some).map_err(|e| e.to_string()),
        };
        let pairs = context.split(';').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not key=value"))?;
            Ok::<_, String>((key.to_owned(), value.to_owned()))
        });
        Ok(Entry {
            seq: number(seq)?,
            context: pairs.collect::<Result<_, _>>()?,
            from: instant(from)?,
            to: instant(to)?,
            window: if tod_from.is_empty() { None } else { Some((second_of_day(tod_from)?, second_of_day(tod_to)?)) },
            source: source.to_owned(),
            prices: Vec::new(),
        })
    }

    /// Whether the day of `at` lies within the entry's dates.
    pub(super) fn in_force(&self, at: Micros) -> bool {
        self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }

    /// Whether the entry has a daily window and `at` lies in it.
    pub(super) fn in_window(&self, at: Micros) -> bool {
        let now = at.0.rem_euclid(86_400_000_000) / 1_000_000;
        self.window.is_some_and(|(from, to)| if from <= to { now >= from && now < to } else { now >= from || now < to })
    }
}

impl Price {
    fn parse(fields: &[&str]) -> Result<Price, String> {
        let [component, tier, usd] = *fields else {
            return Err("a price has 3 fields".to_owned());
        };
        let component = Component::from_name(component).ok_or_else(|| format!("`{component}` is not a component"))?;
        let rate = Rate::parse(usd, component.per()).map_err(|e| e.to_string())?;
        Ok(Price { component, tier_from: number(tier)?, rate })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn optional(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() { Ok(None) } else { number(text).map(Some) }
}

fn second_of_day(text: &str) -> Result<i64, String> {
    let parts: Vec<i64> = text.split(':').map(number).collect::<Result<_, _>>()?;
    match parts[..] {
        [h @ 0..24, m @ 0..60, s @ 0..60] => Ok(h * 3_600 + m * 60 + s),
        _ => Err(format!("`{text}` is not a time of day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_model_in_order_wins_whatever_kind_of_rule_it_has() {
        let file = "model\tx\ta\tprefix:gpt-5\t\t\t\t\nmodel\tx\tb\tequals:gpt-5 | equals:o1\t\t\t\t\nmodel\tx\tc\tprefix:o\t\t\t\t";
        let facts = Facts::parse(file).unwrap();
        let id = |name: &str| facts.find("x", name).map(|m| m.id.as_str());
        assert_eq!(id("gpt-5"), Some("a"));
        assert_eq!(id("o1"), Some("b"));
        assert_eq!(id("o2"), Some("c"));
        assert_eq!(id("none"), None);
        assert!(facts.find("y", "o1").is_none());
    }

    #[test]
    fn a_daily_window_may_wrap_midnight() {
        let entry = |from: &str, to: &str| Entry::parse(&["1", "", "", "", from, to, "s"]).unwrap();
        let at = |t: &str| format!("2026-11-23T{t}Z").parse::<Micros>().unwrap();
        let night = entry("22:00:00", "02:30:00");
        assert!(
            night.in_window(at("22:00:00")) && night.in_window(at("00:00:00")) && night.in_window(at("02:29:59.9"))
        );
        assert!(!night.in_window(at("02:30:00")) && !night.in_window(at("21:59:59.999999")));
        assert!(!entry("", "").in_window(at("12:00:00")));
    }

    #[test]
    fn a_damaged_line_is_named() {
        for (file, what) in [
            ("price\tinput_tokens\t0\t1", "line 1: a price before any entry"),
            ("model\tx\ta\tequals:a\t\t\t\t\nprices", "line 2: neither"),
            ("model\tx\ta\tlike:a\t\t\t\t", "line 1: `like`"),
        ] {
            let error = Facts::parse(file).err().unwrap();
            assert!(error.starts_with(what), "{error}");
        }
    }
}
