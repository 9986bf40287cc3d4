//! The usage block of chat/completions, completions, embeddings and responses, of OpenAI and its look-alikes.
//!
//! Which formula holds is decided by the figures themselves (provider-usage 2.1 and 3, state of 2026-11-23): does the
//! total say that reasoning, or audio, is outside the counts beside it? Only OpenAI's names are inclusive by contract.

use crate::dialect::Observation;
use crate::dialect::counts::{Counts, at, flag, money_at};
use crate::dialect::small::Small;
use crate::domain::{Component, Money, Usage};

/// Reads a usage object. `model` decides what the figures cannot: Gemini's compatible endpoint hides its thinking.
pub fn read(json: &[u8], model: Option<&str>, obs: &mut Observation) -> Option<Usage> {
    let value = Small::read(json)?;
    if !value.is_object() {
        return None;
    }
    if let Some(cost) = vendor_cost(json, &value) {
        obs.vendor_cost = Some(cost);
    }
    let usage = counts(&value, model, &mut obs.flags);
    (!usage.is_empty()).then_some(usage)
}

/// The counts of a usage object.
pub fn counts(value: &Small, model: Option<&str>, flags: &mut Vec<&'static str>) -> Usage {
    let mut c = Counts::new(value, flags);
    let total = c.get("total_tokens");
    let mut input = c.first(&["prompt_tokens", "input_tokens"]);
    let mut output = c.first(&["completion_tokens", "output_tokens"]);
    // Voyage and some embedding servers state only a total.
    if input.is_none() && output.is_none() {
        input = total;
    }
    // The last spelling is that of transcriptions and of realtime.
    const INPUT: [&str; 3] = ["prompt_tokens_details", "input_tokens_details", "input_token_details"];
    const OUTPUT: [&str; 3] = ["completion_tokens_details", "output_tokens_details", "output_token_details"];
    let detail = |c: &mut Counts, side: [&str; 3], name: &str| side.iter().find_map(|side| c.within(side, name));
    let cached =
        detail(&mut c, INPUT, "cached_tokens").or_else(|| c.first(&["prompt_cache_hit_tokens", "cached_tokens"]));
    let written = detail(&mut c, INPUT, "cache_write_tokens");
    let in_audio = detail(&mut c, INPUT, "audio_tokens");
    let in_image = detail(&mut c, INPUT, "image_tokens");
    let out_audio = detail(&mut c, OUTPUT, "audio_tokens");
    let out_image = detail(&mut c, OUTPUT, "image_tokens");
    let mut reasoning = detail(&mut c, OUTPUT, "reasoning_tokens").or_else(|| c.get("reasoning_tokens"));

    if let (Some(total), Some(p), Some(o)) = (total, input, output) {
        let gap = total.saturating_sub(p.saturating_add(o));
        if gap == 0 {
            if total < p.saturating_add(o) {
                c.flag("total_differs");
            }
        } else if Some(gap) == reasoning {
            // xAI chat, Perplexity deep research: reasoning stands beside the completion.
            output = Some(o + gap);
            c.flag("reasoning_outside");
        } else if Some(gap) == in_audio {
            // Mistral Voxtral: audio stands beside the prompt.
            input = Some(p + gap);
            c.flag("audio_outside");
        } else if reasoning.is_none() && model.is_some_and(is_gemini) {
            output = Some(o + gap);
            reasoning = Some(gap);
            c.flag("hidden_reasoning");
        } else {
            c.flag("total_differs");
        }
    }
    let mut usage = Usage::new();
    let mut set = |component, count: Option<u64>| {
        if let Some(n) = count {
            usage.set(component, n);
        }
    };
    let (cached, written) = fit(&mut c, input, cached, written);
    set(Component::InputTokens, input);
    set(Component::OutputTokens, output);
    set(Component::CacheReadTokens, cached);
    set(Component::CacheWriteTokens, written);
    set(Component::CacheWrite5mTokens, written);
    set(Component::OutputReasoningTokens, reasoning.map(|r| r.min(output.unwrap_or(r))));
    set(Component::InputAudioTokens, in_audio);
    set(Component::InputImageTokens, in_image);
    set(Component::OutputAudioTokens, out_audio);
    set(Component::OutputImageTokens, out_image);
    usage
}

/// Cache reads and writes cannot be more than the input they are parts of.
fn fit(c: &mut Counts, input: Option<u64>, cached: Option<u64>, written: Option<u64>) -> (Option<u64>, Option<u64>) {
    let Some(input) = input else { return (cached, written) };
    let read = cached.map(|n| n.min(input));
    if read != cached {
        // Azure's Grok strips xAI's hidden preamble from one count and not from the other.
        c.flag("cached_over_input");
    }
    let room = input - read.unwrap_or(0);
    let write = written.map(|n| n.min(room));
    if write != written {
        // OpenRouter before Gemini: a surcharge on tokens that are also counted as read.
        c.flag("cache_write_over_input");
    }
    (read, write)
}

/// Google's models, also under a router's prefix.
fn is_gemini(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.starts_with("gemini")
}

/// What the vendor says the call cost: OpenRouter's `cost`, xAI's ticks, Perplexity's `cost.total_cost`.
fn vendor_cost(json: &[u8], value: &Small) -> Option<Money> {
    // 1 tick = 10⁻¹⁰ USD. Azure's Grok always says 0, which says nothing.
    if let Some(ticks) = value.get("cost_in_usd_ticks").and_then(Small::as_u64).filter(|t| *t > 0) {
        return Some(Money(100_000).times(ticks));
    }
    if at(value, "cost.total_cost").is_some() {
        return money_at(json, "cost.total_cost");
    }
    value.get("cost")?;
    let cost = money_at(json, "cost")?;
    // A caller who brought a key of their own pays the host, not the router.
    let own_key = value.get("is_byok").and_then(Small::as_bool) == Some(true);
    if own_key && cost.is_zero() {
        return money_at(json, "cost_details.upstream_inference_cost");
    }
    Some(cost)
}

/// Groq's compound systems list the inner calls; the figure at the top is one of them, or their sum.
pub fn breakdown(json: &[u8], obs: &mut Observation) -> Option<Usage> {
    let value = Small::read(json)?;
    let inner = value.get("models")?.as_array().filter(|m| !m.is_empty())?;
    let mut sum = Usage::new();
    for call in inner.iter().take(1000) {
        sum.add(&counts(call.get("usage")?, None, &mut obs.flags));
    }
    flag(&mut obs.flags, "inner_models");
    (!sum.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, model: &str, want: [u64; 4], flag: Option<&'static str>) {
        let mut obs = Observation::default();
        let u = read(json.as_bytes(), Some(model), &mut obs).unwrap();
        let get = |c| u.get(c).unwrap_or(0);
        let got = [
            get(Component::InputTokens),
            get(Component::CacheReadTokens),
            get(Component::OutputTokens),
            get(Component::OutputReasoningTokens),
        ];
        assert_eq!(got, want, "{json}");
        assert_eq!(obs.flags, Vec::from_iter(flag), "{json}");
    }

    #[test]
    fn the_total_decides_what_is_inside() {
        check(
            r#"{"prompt_tokens":12,"completion_tokens":1,"total_tokens":303,"completion_tokens_details":{"reasoning_tokens":290}}"#,
            "grok-4",
            [12, 0, 291, 290],
            Some("reasoning_outside"),
        );
        check(
            r#"{"prompt_tokens":35,"completion_tokens":12,"total_tokens":109}"#,
            "google/gemini-3-pro",
            [35, 0, 74, 62],
            Some("hidden_reasoning"),
        );
        check(
            r#"{"prompt_tokens":35,"completion_tokens":12,"total_tokens":109}"#,
            "m",
            [35, 0, 12, 0],
            Some("total_differs"),
        );
        check(
            r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":386,"prompt_tokens_details":{"audio_tokens":375}}"#,
            "voxtral",
            [384, 0, 2, 0],
            Some("audio_outside"),
        );
        check(
            r#"{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":161}}"#,
            "grok",
            [10, 10, 2, 0],
            Some("cached_over_input"),
        );
        check(
            r#"{"prompt_tokens":10,"completion_tokens":2,"prompt_cache_hit_tokens":4}"#,
            "deepseek",
            [10, 4, 2, 0],
            None,
        );
    }

    #[test]
    fn a_cost_is_the_vendors_own_figure() {
        let cost = |json: &str| {
            let mut obs = Observation::default();
            read(json.as_bytes(), None, &mut obs);
            obs.vendor_cost.map(|m| m.to_string())
        };
        assert_eq!(cost(r#"{"prompt_tokens":1,"cost_in_usd_ticks":1176500}"#).as_deref(), Some("0.00011765"));
        assert_eq!(cost(r#"{"prompt_tokens":1,"cost_in_usd_ticks":0}"#), None);
        assert_eq!(cost(r#"{"prompt_tokens":1,"cost":{"total_cost":0.006}}"#).as_deref(), Some("0.006"));
        let own = r#"{"prompt_tokens":1,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":0.002}}"#;
        assert_eq!(cost(own).as_deref(), Some("0.002"));
    }

    #[test]
    fn absent_counts_stay_absent() {
        let mut obs = Observation::default();
        let usage = read(br#"{"prompt_tokens":5,"completion_tokens":-1,"total_tokens":1e30}"#, None, &mut obs).unwrap();
        assert_eq!(usage, Usage::new().with(Component::InputTokens, 5));
        assert_eq!(obs.flags, ["bad_count"]);
        assert_eq!(read(b"{}", None, &mut Observation::default()), None);
        assert_eq!(read(b"null", None, &mut Observation::default()), None);
    }
}
