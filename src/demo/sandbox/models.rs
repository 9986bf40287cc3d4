//! The models the sandbox has: names as callers write them, the dated snapshots that answer, and how fast they are.
//!
//! Names are those of the shipped price book, so that every call has its price. `llama-3.3-70b` and `qwen3-coder` stand
//! for a self-hosted server: the first has a price of the organisation's own, the second has none.

/// Who would serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    Anthropic,
    SelfHosted,
}

/// One model of the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub name: &'static str,
    /// What answers report as `model`.
    pub snapshot: &'static str,
    pub vendor: Vendor,
    /// Thinks before it answers: reasoning tokens in the usage.
    pub reasoning: bool,
    /// Bills cache writes (OpenAI from GPT-5.6 on, Anthropic always).
    pub cache_writes: bool,
    /// Median milliseconds to the first token.
    pub first_token_ms: u32,
    /// Median microseconds between tokens.
    pub token_us: u32,
    pub max_output: u64,
    /// A model for embeddings: no text comes back.
    pub embeds: bool,
}

const fn model(
    name: &'static str,
    snapshot: &'static str,
    vendor: Vendor,
    first_token_ms: u32,
    token_us: u32,
) -> Model {
    Model {
        name,
        snapshot,
        vendor,
        reasoning: false,
        cache_writes: matches!(vendor, Vendor::Anthropic),
        first_token_ms,
        token_us,
        max_output: 32_768,
        embeds: false,
    }
}
const fn thinks(model: Model) -> Model {
    Model { reasoning: true, max_output: 128_000, ..model }
}
const fn writes_cache(model: Model) -> Model {
    Model { cache_writes: true, ..model }
}
const fn embeds(model: Model) -> Model {
    Model { embeds: true, ..model }
}

use Vendor::{Anthropic, OpenAi, SelfHosted};

/// Every model, by vendor.
pub const MODELS: &[Model] = &[
    model("gpt-4o", "gpt-4o-2024-11-20", OpenAi, 420, 14_000),
    model("gpt-4o-mini", "gpt-4o-mini-2024-07-18", OpenAi, 310, 9_000),
    model("gpt-4.1", "gpt-4.1-2025-04-14", OpenAi, 430, 13_000),
    model("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", OpenAi, 300, 9_000),
    thinks(model("gpt-5-mini", "gpt-5-mini-2025-08-07", OpenAi, 600, 8_000)),
    thinks(model("gpt-5.2", "gpt-5.2-2025-12-11", OpenAi, 700, 12_000)),
    thinks(model("gpt-5.2-pro", "gpt-5.2-pro-2025-12-11", OpenAi, 2_400, 22_000)),
    thinks(model("gpt-5.4", "gpt-5.4-2026-03-05", OpenAi, 650, 11_000)),
    thinks(model("gpt-5.4-mini", "gpt-5.4-mini-2026-03-17", OpenAi, 420, 7_000)),
    writes_cache(thinks(model("gpt-6-luna", "gpt-6-luna-2026-09-15", OpenAi, 280, 5_000))),
    writes_cache(thinks(model("gpt-6-sol", "gpt-6-sol-2026-09-15", OpenAi, 560, 9_000))),
    model("gpt-3.5-turbo-instruct", "gpt-3.5-turbo-instruct", OpenAi, 260, 10_000),
    embeds(model("text-embedding-3-small", "text-embedding-3-small", OpenAi, 90, 0)),
    embeds(model("text-embedding-3-large", "text-embedding-3-large", OpenAi, 120, 0)),
    model("claude-haiku-4-5", "claude-haiku-4-5-20251001", Anthropic, 380, 7_000),
    model("claude-haiku-5-5", "claude-haiku-5-5-20260910", Anthropic, 260, 5_000),
    model("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", Anthropic, 620, 13_000),
    model("claude-sonnet-5-5", "claude-sonnet-5-5-20260824", Anthropic, 540, 10_000),
    model("claude-opus-4-8", "claude-opus-4-8", Anthropic, 900, 18_000),
    model("claude-opus-5-5", "claude-opus-5-5-20260824", Anthropic, 820, 15_000),
    model("claude-3-haiku", "claude-3-haiku-20240307", Anthropic, 300, 8_000),
    model("llama-3.3-70b", "llama-3.3-70b", SelfHosted, 180, 22_000),
    model("qwen3-coder", "qwen3-coder", SelfHosted, 160, 18_000),
];

/// The model of that name or snapshot.
pub fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|m| m.name == name || m.snapshot == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_snapshots_find_their_model() {
        for model in MODELS {
            assert_eq!(MODELS.iter().filter(|m| m.name == model.name).count(), 1, "{}", model.name);
            assert_eq!(find(model.snapshot).map(|m| m.name), Some(model.name));
        }
        assert!(find("gpt-99").is_none());
    }
}
