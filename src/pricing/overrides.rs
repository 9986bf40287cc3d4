//! The organisation's own prices: over the shipped ones, and for models and lists the shipped ones do not know.

use std::collections::HashMap;

use crate::domain::filter::glob;
use crate::domain::{Component, Micros, PriceOverride};

use super::rate::Rate;

/// Overrides by price list.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    by_list: HashMap<String, Vec<Override>>,
}

#[derive(Debug)]
struct Override {
    /// As declared.
    model: String,
    lower: String,
    component: Component,
    from: Option<Micros>,
    rate: Rate,
}

/// How well an override's model fits a request; a better fit wins over a later date.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// By a `*` in it.
    Glob,
    /// The price book's name of the model.
    Model,
    /// The name the request or the answer has.
    Name,
}

/// Whether a price can be read: what `[[price]]` and the pages check before anything is recorded.
pub fn check_price(usd: &str, per: u64) -> Result<(), String> {
    match Rate::parse(usd, per) {
        Ok(_) => Ok(()),
        Err(_) if per == 0 => Err("`per` is 0: say for how many units the price is, 1 or more".to_owned()),
        Err(_) => Err(format!("`{usd}` is not a price: write US dollars as a decimal such as 1.75, not negative")),
    }
}

impl Overrides {
    /// The models of a list that have prices of their own, as declared, without those that are patterns.
    pub(super) fn models(&self, list: &str) -> impl Iterator<Item = &str> {
        let all = self.by_list.get(list).into_iter().flatten();
        all.map(|o| o.model.as_str()).filter(|model| !model.contains('*'))
    }

    /// Prices that cannot be read are left out: `check_price` keeps them from being declared.
    pub(super) fn new<'a>(prices: impl Iterator<Item = &'a PriceOverride>) -> Overrides {
        let mut by_list = HashMap::<String, Vec<Override>>::new();
        for price in prices {
            let Ok(rate) = Rate::parse(&price.usd, price.per) else { continue };
            by_list.entry(price.provider.clone()).or_default().push(Override {
                model: price.model.clone(),
                lower: price.model.to_lowercase(),
                component: price.component,
                from: price.effective_from,
                rate,
            });
        }
        Overrides { by_list }
    }

    /// Lists that have overrides.
    pub(super) fn lists(&self) -> impl Iterator<Item = &str> {
        self.by_list.keys().map(String::as_str)
    }

    /// The overrides of a list as (model, component, in force from, rate).
    pub(super) fn of(&self, list: &str) -> impl Iterator<Item = (&str, Component, Option<Micros>, &Rate)> {
        let all = self.by_list.get(list).into_iter().flatten();
        all.map(|o| (o.model.as_str(), o.component, o.from, &o.rate))
    }

    /// Puts what is overridden for a model into its rates, in every tier. `id` is the price book's name of the model.
    /// Gives the name under which an override knows the model.
    pub(super) fn apply<'a>(
        &'a self,
        list: &str,
        lower: &str,
        id: Option<&str>,
        at: Micros,
        by: &mut [Option<(&'a Rate, u64)>; Component::ALL.len()],
    ) -> Option<&'a str> {
        let mut best = [None::<(Fit, Option<Micros>)>; Component::ALL.len()];
        let mut name = None;
        for o in self.by_list.get(list)? {
            let in_force = o.from.is_none_or(|from| at >= from);
            let Some(fit) = o.fit(lower, id).filter(|_| in_force) else { continue };
            let slot = o.component as usize;
            // Of equals the later declared wins.
            if best[slot].is_none_or(|b| (fit, o.from) >= b) {
                best[slot] = Some((fit, o.from));
                by[slot] = Some((&o.rate, 0));
            }
            // A glob names no model: the request's own name stands then.
            if fit != Fit::Glob {
                name = Some(o.model.as_str());
            }
        }
        name
    }
}

impl Override {
    fn fit(&self, lower: &str, id: Option<&str>) -> Option<Fit> {
        if self.lower == lower {
            Some(Fit::Name)
        } else if id.is_some_and(|id| id.eq_ignore_ascii_case(&self.lower)) {
            Some(Fit::Model)
        } else if self.lower.contains('*') && glob(&self.lower, lower) {
            Some(Fit::Glob)
        } else {
            None
        }
    }
}
