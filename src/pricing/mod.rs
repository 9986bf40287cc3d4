//! Turns usage into money: an upper bound before a call, the cost after it.
//!
//! A [`PriceBook`] is the shipped facts under the organisation's overrides. A model's price at an instant is found in four
//! steps, those of `quote` as of `upper_bound`: the model a name stands for; its standard entry in force (one with a daily
//! window before one without, then the highest `seq`); over it, component by component, the first entry for the request's
//! context (batch, flex, priority, fast); over that the organisation's override, which holds in every context and tier.
//! Arithmetic is exact; each line is rounded half-even to 10⁻¹⁵ USD, and a total is the sum of its lines.

mod facts;
mod family;
mod listing;
mod overrides;
mod rate;
mod rule;

#[cfg(test)]
mod generate;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Catalogue, Component, CostLine, Micros, Money, Usage};

pub use facts::SHIPPED_SOURCE;
pub use listing::{ListedModel, ListedPrice};
pub use overrides::check_price;

use facts::{Facts, Model};
use overrides::Overrides;
use rate::Rate;

/// What the price depends on beside the model: `service_tier=flex`, `processing=batch`, `speed=fast`, … Exact matches;
/// what no price list asks for is ignored.
pub type PriceContext = BTreeMap<String, String>;

/// Effective-dated prices: the shipped book under the organisation's overrides.
#[derive(Debug)]
pub struct PriceBook {
    version: u32,
    overrides: Overrides,
}

/// A priced usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The price book's name of the model.
    pub model: String,
    /// The sum of the lines.
    pub total: Money,
    /// In the order of their components' names.
    pub lines: Vec<CostLine>,
}

/// Why there is no cost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error(
        "no price for model `{model}` in price list `{list}`: add a [[price]] for it, or set the provider's price_as"
    )]
    UnknownModel { list: String, model: String },
    #[error("{0}")]
    InvalidUsage(String),
}

/// What a call can cost at most, by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpperBound {
    pub model: String,
    /// The input at its dearest rate in the tier the estimate falls in (no cache discount; cache writes where dearer),
    /// plus the fee per request.
    pub fixed: Money,
    /// The dearest rate one output token can have (text, reasoning, audio, image).
    pub per_output_token: Money,
    /// Price of one unit of each fee the call may cause beside tokens (web searches, …).
    pub fees: Vec<(Component, Money)>,
    pub max_output_tokens: Option<u64>,
    pub context_window: Option<u64>,
}

/// What is billed beside tokens and requests.
const FEES: [Component; 7] = [
    Component::WebSearches,
    Component::AudioSeconds,
    Component::InputAudioSeconds,
    Component::InputCharacters,
    Component::InputDocumentPages,
    Component::InputAnnotatedDocumentPages,
    Component::StorageSearches,
];

/// The rates of one model at one instant, for one context and tier.
struct Rates<'a> {
    model: Cow<'a, str>,
    facts: Option<&'a Model>,
    /// By component number: the rate and the tier it is of.
    by: [Option<(&'a Rate, u64)>; Component::ALL.len()],
}

impl PriceBook {
    /// The book in the binary, version 1.
    pub fn shipped() -> Arc<PriceBook> {
        Arc::new(PriceBook { version: 1, overrides: Overrides::default() })
    }

    /// The shipped book under the catalogue's overrides.
    pub fn for_catalogue(catalogue: &Catalogue) -> Arc<PriceBook> {
        let overrides = Overrides::new(catalogue.prices.values().flat_map(|prices| prices.iter()));
        Arc::new(PriceBook { version: PriceBook::version_of(catalogue), overrides })
    }

    /// The version in force under a catalogue: 1 is the shipped book, and every change of a price makes the next.
    pub fn version_of(catalogue: &Catalogue) -> u32 {
        catalogue.price_book.saturating_add(1)
    }

    /// What a call records as its `price_book`.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The cost of `usage` of `model` at `at`. `list` is a price list (`provider` of the price facts). A call counts as
    /// one request unless `usage` says otherwise. About a microsecond; no I/O after the first use.
    pub fn quote(
        &self,
        list: &str,
        model: &str,
        at: Micros,
        context: &PriceContext,
        usage: &Usage,
    ) -> Result<Cost, QuoteError> {
        let input = usage.get(Component::InputTokens).unwrap_or(0);
        let unknown = || QuoteError::UnknownModel { list: list.to_owned(), model: model.to_owned() };
        let rates = self.rates(list, model, at, context, input).ok_or_else(unknown)?;
        let billable = rates.billable(&rates.complete(usage))?;
        let mut lines = Vec::new();
        let mut total = Money::ZERO;
        for component in Component::ALL {
            let quantity = billable[component as usize];
            let Some((rate, tier_from_tokens)) = rates.by[component as usize].filter(|_| quantity > 0) else {
                continue;
            };
            let too_much = || QuoteError::InvalidUsage(format!("{} ({quantity}) is beyond counting", component.name()));
            let cost_usd = rate.cost(quantity).ok_or_else(too_much)?;
            total = Money(total.0.checked_add(cost_usd.0).ok_or_else(too_much)?);
            lines.push(CostLine {
                component,
                quantity,
                unit_price_usd: rate.text.as_ref().to_owned(),
                per: rate.per,
                tier_from_tokens,
                cost_usd,
            });
        }
        lines.sort_by_key(|line| line.component.name());
        Ok(Cost { model: rates.model.into_owned(), total, lines })
    }

    /// The bound for a call with at most `input_tokens` of input, `None` where the model has no price. A smaller input may
    /// fall in the base tier, so its rates count too.
    pub fn upper_bound(
        &self,
        list: &str,
        model: &str,
        at: Micros,
        context: &PriceContext,
        input_tokens: u64,
    ) -> Option<UpperBound> {
        let rates = self.rates(list, model, at, context, input_tokens)?;
        let base = self.rates(list, model, at, context, 0)?;
        let dearest = |whole: Component| {
            let parts = Component::ALL.into_iter().filter(|c| *c == whole || c.parents().contains(&whole));
            let all = parts.flat_map(|c| [rates.by[c as usize], base.by[c as usize]]).flatten().map(|(rate, _)| rate);
            all.reduce(|a, b| if b.dearer_than(a) { b } else { a })
        };
        let input = dearest(Component::InputTokens).map_or(Money::ZERO, |r| r.at_most(input_tokens));
        let request = rates.by[Component::Requests as usize].map_or(Money::ZERO, |(r, _)| r.at_most(1));
        let fees = FEES.into_iter();
        Some(UpperBound {
            fixed: input.saturating_add(request),
            per_output_token: dearest(Component::OutputTokens).map_or(Money::ZERO, |r| r.at_most(1)),
            fees: fees.filter_map(|c| rates.by[c as usize].map(|(r, _)| (c, r.at_most(1)))).collect(),
            max_output_tokens: rates.facts.and_then(|m| m.max_output_tokens),
            context_window: rates.facts.and_then(|m| m.context_window),
            model: rates.model.into_owned(),
        })
    }

    /// The rates in force; `None` if there are none at all.
    fn rates(&self, list: &str, model: &str, at: Micros, context: &PriceContext, input: u64) -> Option<Rates<'_>> {
        let lower: Cow<'_, str> =
            if model.bytes().any(|b| b.is_ascii_uppercase()) { model.to_lowercase().into() } else { model.into() };
        let facts = Facts::shipped().find(list, &lower);
        let mut by = [None; Component::ALL.len()];
        if let Some(model) = facts {
            model.rates(at, context, input, &mut by);
        }
        let named = self.overrides.apply(list, &lower, facts.map(|m| m.id.as_str()), at, &mut by);
        by.iter().any(Option::is_some).then(|| Rates {
            model: facts.map_or_else(|| named.unwrap_or(model).to_owned().into(), |m| m.id.as_str().into()),
            facts,
            by,
        })
    }
}

impl Model {
    /// Rules 1, 2 and 4 of the price facts: the standard entry in force, the first fitting context entry over it for each
    /// component, and of each the tier that the request's input reaches.
    fn rates<'a>(
        &'a self,
        at: Micros,
        context: &PriceContext,
        input: u64,
        by: &mut [Option<(&'a Rate, u64)>; Component::ALL.len()],
    ) {
        let standard = || self.entries.iter().rev().filter(|e| e.context.is_empty() && e.in_force(at));
        let windowed = standard().find(|e| e.in_window(at));
        let base = windowed.or_else(|| standard().find(|e| e.window.is_none()));
        let fits = |pairs: &[(String, String)]| pairs.iter().all(|(k, v)| context.get(k) == Some(v));
        let overlays = self.entries.iter().filter(|e| !e.context.is_empty() && e.in_force(at) && fits(&e.context));
        let mut set = [false; Component::ALL.len()];
        for entry in overlays.filter(|_| !context.is_empty()).chain(base) {
            let done = set;
            for price in entry.prices.iter().filter(|p| !done[p.component as usize]) {
                let slot = price.component as usize;
                set[slot] = true;
                let reached = price.tier_from == 0 || input > price.tier_from;
                if reached && by[slot].is_none_or(|(_, tier)| price.tier_from >= tier) {
                    by[slot] = Some((&price.rate, price.tier_from));
                }
            }
        }
    }
}

impl Rates<'_> {
    /// The counts as they are billed: one request; a part that came without its whole gets it (the 5-minute count is
    /// nowhere priced, so its writes would be charged as plain input); the least that is billed of audio.
    fn complete(&self, usage: &Usage) -> Usage {
        use Component::*;
        let mut usage = usage.clone();
        if usage.get(Requests).is_none() {
            usage.set(Requests, 1);
        }
        if usage.get(CacheWriteTokens).is_none() {
            let parts = [usage.get(CacheWrite5mTokens), usage.get(CacheWrite1hTokens)];
            if parts.iter().any(Option::is_some) {
                usage.set(CacheWriteTokens, parts.iter().flatten().fold(0, |a: u64, b| a.saturating_add(*b)));
            }
        }
        if let (None, Some(seconds)) = (usage.get(AudioSeconds), usage.get(InputAudioSeconds)) {
            usage.set(AudioSeconds, seconds);
        }
        if let Some(least) = self.facts.and_then(|m| m.min_audio_seconds) {
            for component in [AudioSeconds, InputAudioSeconds] {
                if let Some(seconds) = usage.get(component).filter(|n| *n > 0) {
                    usage.set(component, seconds.max(least));
                }
            }
        }
        usage
    }

    /// Rule 3: what is billed of each priced component is its count less what is billed of the priced ones within it. A
    /// part without a price stays in its whole; parts that exceed the whole are an error, never a negative line.
    fn billable(&self, usage: &Usage) -> Result<[u64; Component::ALL.len()], QuoteError> {
        let mut billable = [0; Component::ALL.len()];
        let mut nested = [0u64; Component::ALL.len()];
        // Innermost first: the deeper a component, the more parents it has.
        for depth in (0..4).rev() {
            let priced = |c: &Component| c.parents().len() == depth && self.by[*c as usize].is_some();
            for component in Component::ALL.into_iter().filter(priced) {
                let slot = component as usize;
                let count = usage.get(component).unwrap_or(0);
                billable[slot] = count.checked_sub(nested[slot]).ok_or_else(|| {
                    let (name, parts) = (component.name(), nested[slot]);
                    QuoteError::InvalidUsage(format!("the parts of {name} ({parts}) exceed the whole ({count})"))
                })?;
                for parent in component.parents() {
                    nested[*parent as usize] = nested[*parent as usize].saturating_add(billable[slot]);
                }
            }
        }
        Ok(billable)
    }
}
