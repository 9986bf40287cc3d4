//! The dearest model of a family: what a model without a price is held and charged by where production must go on.

use crate::domain::{Micros, Money};

use super::facts::Facts;
use super::{PriceBook, PriceContext};

/// Tokens of input by which two models are compared: about what a call has.
const COMPARED_INPUT: u64 = 1_000;

impl PriceBook {
    /// The model of the same family that is dearest at `at` in a price list; none where no model of the family has a
    /// price. A family is what names begin with: the letters before the first digit or sign (`gpt`, `claude`, `o`), after
    /// the last `/`.
    pub fn family_max(&self, list: &str, model: &str, at: Micros) -> Option<String> {
        let wanted = family(model)?;
        let shipped = Facts::shipped().lists.get(list).into_iter().flat_map(|l| &l.models).map(|m| m.id.as_str());
        let own = self.overrides.models(list);
        let relatives = shipped.chain(own).filter(|name| family(name).as_deref() == Some(&*wanted));
        let priced = relatives.filter_map(|name| {
            let bound = self.upper_bound(list, name, at, &PriceContext::new(), COMPARED_INPUT)?;
            let both: Money = bound.per_output_token.times(COMPARED_INPUT).saturating_add(bound.fixed);
            Some((both, name))
        });
        priced.max().map(|(_, name)| name.to_owned())
    }
}

fn family(model: &str) -> Option<String> {
    let name = model.rsplit('/').next().unwrap_or(model).to_lowercase();
    let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    (end > 0).then(|| name[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_of_the_family_stands_in_and_strangers_do_not() {
        let book = PriceBook::shipped();
        let at: Micros = "2026-11-23T12:00:00Z".parse().unwrap();
        let per_output = |model: &str| {
            book.upper_bound("anthropic", model, at, &PriceContext::new(), COMPARED_INPUT).unwrap().per_output_token
        };
        let dearest = book.family_max("anthropic", "Claude-Next-9", at).unwrap();
        assert!(dearest.starts_with("claude"), "{dearest}");
        for known in ["claude-opus-4-8", "claude-haiku-4-5"] {
            assert!(per_output(&dearest) >= per_output(known), "{known} is dearer than {dearest}");
        }
        assert_eq!(book.family_max("anthropic", "llama-9", at), None);
        assert_eq!(book.family_max("nobody", "claude-9", at), None);
        assert_eq!(book.family_max("anthropic", "9", at), None);
    }
}
