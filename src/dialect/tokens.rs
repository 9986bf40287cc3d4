//! Counts tokens where the provider did not: an estimate, always marked as such.
//!
//! OpenAI's models are counted with their own vocabulary; all others with `o200k` as a stand-in, Anthropic's scaled by
//! a factor, since their vocabularies are not public. The vocabularies load on first use (0.2 s, 45 MiB).

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use super::reading::cut;

/// Text counted exactly; the rest is extrapolated.
pub const MAX_COUNTED: usize = 256 << 10;
/// Longer runs without white space are split: the merge of a run costs more than its length.
const MAX_RUN: usize = 4 << 10;

/// The tokens of `text` for `model`. Costs about 60 µs per KiB: not for the threads that carry streams.
pub fn count(model: &str, text: &str) -> u64 {
    if text.is_empty() {
        return 0;
    }
    let head = cut(text, MAX_COUNTED);
    let family = Family::of(model);
    let tokens: u64 = runs(head).map(|run| family.vocabulary().encode_ordinary(run).len() as u64).sum();
    let tokens = (u128::from(tokens) * text.len() as u128).div_ceil(head.len() as u128);
    let (by, of) = family.factor();
    u64::try_from((tokens * by).div_ceil(of)).unwrap_or(u64::MAX)
}

/// Whether [`count`] uses the model's own vocabulary, so that its count of a text of up to [`MAX_COUNTED`] bytes is no
/// estimate: OpenAI's models by their names (the table of tiktoken, 2026-11), fine-tuned ones included. Not for others:
/// a stand-in may count fewer tokens than are billed, and no bound may rest on that.
pub fn is_exact(model: &str) -> bool {
    let name = model.strip_prefix("openai/").unwrap_or(model).to_ascii_lowercase();
    let name = name.strip_prefix("ft:").unwrap_or(&name);
    const OWN: [&str; 14] = [
        "gpt-3.5-turbo",
        "gpt-35-turbo",
        "gpt-4",
        "gpt-4o",
        "gpt-4.1",
        "gpt-4.5",
        "gpt-5",
        "chatgpt-4o",
        "text-embedding-3",
        "text-embedding-ada-002",
        "davinci-002",
        "o1",
        "o3",
        "o4",
    ];
    // The name ends there or goes on with a version: `gpt-4-0613`, `gpt-5.2`, but not `gpt-40-clone` or `o1lama`.
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(['-', '.', ':', '@']);
    OWN.iter().any(|own| name.strip_prefix(own).is_some_and(ends))
}

/// Tokens that providers put around a prompt and charge as input: marks, a preamble, the description of how to call
/// tools. Read off the recorded exchanges of 2026-11 (a handful a family), where the request's own text says less than
/// the bill; part of every input's bound and of every count.
pub fn framing(model: &str, tools_offered: u32) -> u64 {
    let name = model.to_ascii_lowercase();
    let has = |part: &str| name.contains(part);
    let (always, with_tools) = if has("claude") {
        (10, 500)
    } else if has("gpt-oss") {
        (64, 60)
    } else if has("llama-3.") || has("llama-4") {
        (30, 60)
    } else if has("grok") || has("deepseek") {
        (5, 230)
    } else if Family::of(&name) == Family::Cl100k || has("gpt-") || has("/o") || name.starts_with('o') {
        (4, 0)
    } else {
        (5, 100)
    };
    always + if tools_offered > 0 { with_tools } else { 0 }
}

/// Which vocabulary a model has, or borrows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    O200k,
    Cl100k,
    Anthropic,
}

impl Family {
    fn of(model: &str) -> Family {
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        let is = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
        if name.contains("claude") {
            Family::Anthropic
        } else if is(&["gpt-3.5", "gpt-35", "text-embedding", "babbage", "davinci"])
            || (is(&["gpt-4"]) && !is(&["gpt-4o", "gpt-4.1", "gpt-4.5"]))
        {
            Family::Cl100k
        } else {
            Family::O200k
        }
    }

    fn vocabulary(self) -> &'static CoreBPE {
        match self {
            Family::Cl100k => cl100k_base_singleton(),
            Family::O200k | Family::Anthropic => o200k_base_singleton(),
        }
    }

    /// Anthropic's models make more tokens of the same text: 1.2 times on the recorded exchanges of 2026-11.
    fn factor(self) -> (u128, u128) {
        if self == Family::Anthropic { (6, 5) } else { (1, 1) }
    }
}

/// The text in pieces without a run longer than [`MAX_RUN`].
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut run = 0;
        let mut end = rest.len();
        for (i, c) in rest.char_indices() {
            if c.is_whitespace() {
                run = 0;
            } else if run + c.len_utf8() > MAX_RUN {
                end = i;
                break;
            } else {
                run += c.len_utf8();
            }
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_have_known_counts() {
        assert_eq!(count("gpt-5.2", "hello world"), 2);
        assert_eq!(count("gpt-3.5-turbo", "hello world"), 2);
        assert_eq!(count("claude-opus-5", "hello world"), 3);
        assert_eq!(count("gpt-5.2", ""), 0);
    }

    #[test]
    fn only_openais_own_models_are_counted_exactly() {
        for model in ["gpt-5.2", "gpt-4o-mini", "gpt-4-0613", "o3", "o4-mini", "openai/gpt-4.1", "ft:gpt-4o:acme::x"] {
            assert!(is_exact(model), "{model}");
        }
        for model in [
            "claude-sonnet-5",
            "llama-4",
            "gpt-oss-120b",
            "acme/gpt-4",
            "gpt-40",
            "o1lama",
            "mistral-large",
            "test-model",
            "",
        ] {
            assert!(!is_exact(model), "{model}");
        }
    }

    #[test]
    fn families_are_known_under_prefixes() {
        for (model, family) in [
            ("gpt-4o-mini", Family::O200k),
            ("gpt-4-0613", Family::Cl100k),
            ("openai/gpt-3.5-turbo", Family::Cl100k),
            ("anthropic/claude-sonnet-5", Family::Anthropic),
            ("llama-4", Family::O200k),
        ] {
            assert_eq!(Family::of(model), family, "{model}");
        }
    }

    #[test]
    fn a_megabyte_of_one_letter_is_counted_in_pieces() {
        let text = "é".repeat(1 << 20);
        assert!(runs(&text).all(|r| r.len() <= MAX_RUN));
        assert_eq!(runs(&text).map(str::len).sum::<usize>(), text.len());
        let n = count("gpt-5.2", &text);
        assert!(n > 10_000 && n <= 2 << 20, "{n}");
    }
}
