//! The parts of a page that show and change its filters: chips, ranges, the form.

use crate::domain::{Catalogue, Dimension, Environment};

use super::query::{Query, step_name};
use super::range::PRESETS;

/// A filter in force, with the address of the page without it.
#[derive(Clone, Debug)]
pub struct Chip {
    pub name: &'static str,
    pub value: String,
    pub href: String,
}

/// A named range.
#[derive(Clone, Debug)]
pub struct RangeLink {
    pub label: &'static str,
    pub href: String,
    pub current: bool,
}

/// An entry of a select.
#[derive(Clone, Debug)]
pub struct Choice {
    pub value: &'static str,
    pub label: &'static str,
    pub chosen: bool,
}

/// What the filter form needs to keep what it does not ask for.
#[derive(Clone, Debug)]
pub struct Form {
    pub hidden: Vec<(&'static str, String)>,
    pub from: String,
    pub to: String,
    pub dimensions: Vec<(&'static str, &'static str)>,
    pub values: Vec<String>,
}

/// A dimension as people say it.
pub fn words(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Tenant => "tenant",
        Dimension::BusinessUnit => "business unit",
        Dimension::Application => "application",
        Dimension::Service => "service",
        Dimension::Agent => "agent",
        Dimension::Owner => "owner",
        Dimension::CostCentre => "cost centre",
        Dimension::Environment => "environment",
        Dimension::Workflow => "workflow",
        Dimension::Run => "run",
        Dimension::Principal => "who started it",
        Dimension::ChargedTo => "who pays",
        Dimension::Provider => "provider",
        Dimension::Model => "model",
        Dimension::PromptClass => "prompt class",
        Dimension::Credential => "key",
        Dimension::Outcome => "outcome",
    }
}

pub fn chips(query: &Query, path: &str) -> Vec<Chip> {
    let chip = |(i, (dimension, value)): (usize, &(Dimension, crate::domain::Match))| Chip {
        name: words(*dimension),
        value: value.to_string(),
        href: query.without(i).own_url(path),
    };
    query.filters.iter().enumerate().map(chip).collect()
}

pub fn ranges(query: &Query, path: &str, now: crate::domain::Micros) -> Vec<RangeLink> {
    let link = |(name, label): &(&'static str, &'static str)| {
        let range = super::range::Range::preset(name, &query.zone, now)?;
        let href = query.changed(|q| q.range = range).own_url(path);
        Some(RangeLink { label, href, current: query.range.preset == Some(name) })
    };
    PRESETS.iter().filter_map(link).collect()
}

pub fn form(query: &Query, catalogue: &Catalogue) -> Form {
    let mut hidden: Vec<(&'static str, String)> = Vec::new();
    if let Some(preset) = query.range.preset {
        hidden.push(("range", preset.to_owned()));
    }
    if query.zone_name != catalogue.organisation.time_zone {
        hidden.push(("tz", query.zone_name.clone()));
    }
    if let Some(step) = query.step {
        hidden.push(("step", step_name(step).to_owned()));
    }
    if let Some(sort) = &query.sort {
        hidden.push(("sort", sort.clone()));
    }
    for (dimension, value) in &query.filters {
        hidden.push((dimension.name(), value.to_string()));
    }
    let date = |text: &str| if text.len() == 10 { text.to_owned() } else { String::new() };
    if query.range.preset.is_none() && (date(&query.range.given.0).is_empty() || date(&query.range.given.1).is_empty())
    {
        hidden.push(("from", query.range.given.0.clone()));
        hidden.push(("to", query.range.given.1.clone()));
    }
    Form {
        hidden,
        from: date(&query.range.given.0),
        to: date(&query.range.given.1),
        dimensions: Dimension::ALL.iter().map(|d| (d.name(), words(*d))).collect(),
        values: values(catalogue),
    }
}

/// What to suggest as values: the names that are declared, at most 300.
fn values(catalogue: &Catalogue) -> Vec<String> {
    let environments = Environment::ALL.iter().map(|e| e.name().to_owned());
    let declared = catalogue.services.keys().chain(catalogue.owners.keys()).chain(catalogue.providers.keys());
    let mut values: Vec<String> = environments.chain(declared.cloned()).take(300).collect();
    let units = catalogue.services.values().map(|s| s.business_unit.clone());
    values.extend(units.take(100));
    values.sort();
    values.dedup();
    values
}
