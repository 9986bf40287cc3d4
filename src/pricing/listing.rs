//! The price book as pages, the API and the CLI list it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::{Component, Micros};

use super::facts::{Entry, Facts, Model};
use super::{PriceBook, SHIPPED_SOURCE};

/// A model with every price that is, was or will be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ListedModel {
    /// The price list: the seller.
    pub list: String,
    pub model: String,
    /// The names that stand for the model, as rules.
    pub matches: String,
    pub context_window: Option<u64>,
    pub max_output_tokens: Option<u64>,
    /// The seller has announced its end.
    pub deprecated: bool,
    pub prices: Vec<ListedPrice>,
}

/// One price of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ListedPrice {
    pub component: Component,
    /// Number of the dated entry in the shipped facts the price belongs to; absent for overrides.
    pub entry: Option<u32>,
    /// Decimal US dollars for `per` units.
    pub usd: String,
    pub per: u64,
    /// Holds for requests with more input tokens than this. 0 = base.
    pub tier_from_tokens: u64,
    /// `processing=batch` and the like; empty = the standard price. An override holds in every context.
    pub context: String,
    /// Inclusive; absent = always.
    pub effective_from: Option<Micros>,
    /// Exclusive; absent = open.
    pub effective_to: Option<Micros>,
    /// `01:00-04:00` UTC, for prices by the time of day.
    pub time_of_day: Option<String>,
    /// Where the price is from; `override` = this organisation's own.
    pub source: String,
}

impl ListedPrice {
    /// Whether the price is in force at an instant, the time of day left aside.
    pub fn in_force(&self, at: Micros) -> bool {
        self.effective_from.is_none_or(|from| at >= from) && self.effective_to.is_none_or(|to| at < to)
    }

    /// Whether the organisation set it.
    pub fn is_override(&self) -> bool {
        self.source == "override"
    }
}

impl PriceBook {
    /// Names of all price lists, shipped and own.
    pub fn lists(&self) -> Vec<String> {
        let mut names: Vec<String> = Facts::shipped().lists.keys().cloned().collect();
        names.extend(self.overrides.lists().map(str::to_owned));
        names.sort();
        names.dedup();
        names
    }

    /// Whether a price list ships with the binary.
    pub fn is_shipped_list(list: &str) -> bool {
        Facts::shipped().lists.contains_key(list)
    }

    /// The models of a list in the order in which names are looked up, then the organisation's own.
    pub fn models(&self, list: &str) -> Vec<ListedModel> {
        let shipped = Facts::shipped().lists.get(list).into_iter().flat_map(|l| &l.models);
        let mut models: Vec<ListedModel> = shipped.map(|m| listed(list, m)).collect();
        for (model, component, from, rate) in self.overrides.of(list) {
            let index = models.iter().position(|m| m.model.eq_ignore_ascii_case(model)).unwrap_or_else(|| {
                models.push(own(list, model));
                models.len() - 1
            });
            models[index].prices.push(ListedPrice {
                component,
                entry: None,
                usd: rate.text.as_ref().to_owned(),
                per: rate.per,
                tier_from_tokens: 0,
                context: String::new(),
                effective_from: from,
                effective_to: None,
                time_of_day: None,
                source: "override".to_owned(),
            });
        }
        models
    }

    /// What the shipped prices are, for people: the file and its date.
    pub fn source(&self) -> &'static str {
        SHIPPED_SOURCE
    }
}

fn own(list: &str, model: &str) -> ListedModel {
    ListedModel {
        list: list.to_owned(),
        model: model.to_owned(),
        matches: format!("equals:{model}"),
        context_window: None,
        max_output_tokens: None,
        deprecated: false,
        prices: Vec::new(),
    }
}

fn listed(list: &str, model: &Model) -> ListedModel {
    let prices = model.entries.iter().flat_map(|entry| {
        entry.prices.iter().map(|price| ListedPrice {
            component: price.component,
            entry: Some(entry.seq),
            usd: price.rate.text.as_ref().to_owned(),
            per: price.rate.per,
            tier_from_tokens: price.tier_from,
            context: context(entry),
            effective_from: entry.from,
            effective_to: entry.to,
            time_of_day: entry.window.map(|(from, to)| format!("{}-{}", clock(from), clock(to))),
            source: entry.source.clone(),
        })
    });
    ListedModel {
        list: list.to_owned(),
        model: model.id.clone(),
        matches: model.matches.clone(),
        context_window: model.context_window,
        max_output_tokens: model.max_output_tokens,
        deprecated: model.deprecated,
        prices: prices.collect(),
    }
}

fn context(entry: &Entry) -> String {
    let pairs: Vec<String> = entry.context.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(";")
}

fn clock(second_of_day: i64) -> String {
    format!("{:02}:{:02}", second_of_day / 3_600, second_of_day / 60 % 60)
}
