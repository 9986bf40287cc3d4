//! Turns usage into money: an upper bound before a call, the cost after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Catalogue, Component, CostLine, Micros, Money, Usage};

/// What the price depends on beside the model: `service_tier=flex`, `processing=batch`, `speed=fast`, … Exact matches.
pub type PriceContext = BTreeMap<String, String>;

/// Effective-dated prices: the shipped book under the organisation's overrides.
#[derive(Debug)]
pub struct PriceBook;

/// A priced usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The price book's name of the model.
    pub model: String,
    /// The sum of the lines.
    pub total: Money,
    pub lines: Vec<CostLine>,
}

/// Why there is no cost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("no price for model `{model}` in price list `{list}`")]
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

impl PriceBook {
    /// The book in the binary.
    pub fn shipped() -> Arc<PriceBook> {
        unimplemented!()
    }

    /// The shipped book under the catalogue's overrides.
    pub fn for_catalogue(_catalogue: &Catalogue) -> Arc<PriceBook> {
        unimplemented!()
    }

    /// The cost of `usage` of `model` at `at`. `list` is a price list (`provider` of the price facts).
    pub fn quote(
        &self,
        _list: &str,
        _model: &str,
        _at: Micros,
        _context: &PriceContext,
        _usage: &Usage,
    ) -> Result<Cost, QuoteError> {
        unimplemented!()
    }

    /// The bound for a call with at most `input_tokens` of input.
    pub fn upper_bound(
        &self,
        _list: &str,
        _model: &str,
        _at: Micros,
        _context: &PriceContext,
        _input_tokens: u64,
    ) -> Option<UpperBound> {
        unimplemented!()
    }
}
