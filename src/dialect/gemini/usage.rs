//! `usageMetadata`, and the `usage` of interactions (provider-usage 4, state of 2026-11-23).
//!
//! Thoughts stand beside the visible output, the prompt of tools beside the prompt; cached tokens are part of the prompt.
//! A stream states all of it with every chunk, but not every field every time: fields are merged, later ones win.

use crate::dialect::counts::{Counts, at, flag, text};
use crate::dialect::small::Small;
use crate::domain::{Component, Usage};

/// Vertex's SDK over REST asks for enumerations as numbers.
const MODALITIES: [&str; 6] = ["", "TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT"];
const TRAFFIC: [&str; 3] = ["", "ON_DEMAND", "PROVISIONED_THROUGHPUT"];

/// Tokens by what they stand for. Documents are read as pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    audio: u64,
    image: u64,
    video: u64,
}

impl Kinds {
    fn sum(self) -> u64 {
        self.audio.saturating_add(self.image).saturating_add(self.video)
    }

    fn plus(self, other: Kinds) -> Kinds {
        Kinds {
            audio: self.audio.saturating_add(other.audio),
            image: self.image.saturating_add(other.image),
            video: self.video.saturating_add(other.video),
        }
    }
}

/// Counts as Google states them.
#[derive(Clone, Debug, Default)]
pub(super) struct Stated {
    prompt: Option<u64>,
    cached: Option<u64>,
    answer: Option<u64>,
    thoughts: Option<u64>,
    tool_use: Option<u64>,
    total: Option<u64>,
    prompt_kinds: Option<Kinds>,
    tool_use_kinds: Option<Kinds>,
    cached_kinds: Option<Kinds>,
    answer_kinds: Option<Kinds>,
    pub traffic: Option<String>,
    pub tier: Option<String>,
}

/// The names of one API.
struct Names {
    prompt: &'static str,
    cached: &'static str,
    answer: [&'static str; 2],
    thoughts: &'static str,
    tool_use: &'static str,
    total: &'static str,
    prompt_kinds: [&'static str; 2],
    tool_use_kinds: &'static str,
    cached_kinds: &'static str,
    answer_kinds: [&'static str; 2],
    count: &'static str,
}

const METADATA: Names = Names {
    prompt: "promptTokenCount",
    cached: "cachedContentTokenCount",
    // The second name is that of live sessions.
    answer: ["candidatesTokenCount", "responseTokenCount"],
    thoughts: "thoughtsTokenCount",
    tool_use: "toolUsePromptTokenCount",
    total: "totalTokenCount",
    // The second name is that of embeddings.
    prompt_kinds: ["promptTokensDetails", "promptTokenDetails"],
    tool_use_kinds: "toolUsePromptTokensDetails",
    cached_kinds: "cacheTokensDetails",
    answer_kinds: ["candidatesTokensDetails", "responseTokensDetails"],
    count: "tokenCount",
};

const INTERACTION: Names = Names {
    prompt: "total_input_tokens",
    cached: "total_cached_tokens",
    answer: ["total_output_tokens"; 2],
    thoughts: "total_thought_tokens",
    tool_use: "total_tool_use_tokens",
    total: "total_tokens",
    prompt_kinds: ["input_tokens_by_modality"; 2],
    tool_use_kinds: "tool_use_tokens_by_modality",
    cached_kinds: "cached_tokens_by_modality",
    answer_kinds: ["output_tokens_by_modality"; 2],
    count: "tokens",
};

impl Stated {
    /// Of a `usageMetadata`.
    pub fn metadata(value: &Small, flags: &mut Vec<&'static str>) -> Stated {
        Stated::of(value, &METADATA, flags)
    }

    /// Of an interaction's `usage`.
    pub fn interaction(value: &Small, flags: &mut Vec<&'static str>) -> Stated {
        Stated::of(value, &INTERACTION, flags)
    }

    fn of(value: &Small, names: &Names, flags: &mut Vec<&'static str>) -> Stated {
        let mut kinds = |lists: &[&str]| lists.iter().find_map(|name| kinds(value.get(name)?, names.count, flags));
        let [prompt_kinds, tool_use_kinds, cached_kinds, answer_kinds] = [
            kinds(&names.prompt_kinds),
            kinds(&[names.tool_use_kinds]),
            kinds(&[names.cached_kinds]),
            kinds(&names.answer_kinds),
        ];
        let mut c = Counts::new(value, flags);
        Stated {
            prompt: c.get(names.prompt),
            cached: c.get(names.cached),
            answer: c.first(&names.answer),
            thoughts: c.get(names.thoughts),
            tool_use: c.get(names.tool_use),
            total: c.get(names.total),
            prompt_kinds,
            tool_use_kinds,
            cached_kinds,
            answer_kinds,
            traffic: word(value, "trafficType", &TRAFFIC),
            tier: text(value, "serviceTier").or_else(|| text(value, "service_tier")),
        }
    }

    /// Later counts win, field by field.
    pub fn overlay(self, later: Stated) -> Stated {
        Stated {
            prompt: later.prompt.or(self.prompt),
            cached: later.cached.or(self.cached),
            answer: later.answer.or(self.answer),
            thoughts: later.thoughts.or(self.thoughts),
            tool_use: later.tool_use.or(self.tool_use),
            total: later.total.or(self.total),
            prompt_kinds: later.prompt_kinds.or(self.prompt_kinds),
            tool_use_kinds: later.tool_use_kinds.or(self.tool_use_kinds),
            cached_kinds: later.cached_kinds.or(self.cached_kinds),
            answer_kinds: later.answer_kinds.or(self.answer_kinds),
            traffic: later.traffic.or(self.traffic),
            tier: later.tier.or(self.tier),
        }
    }

    /// In our words: inclusive. `finished`: a visible output that is not stated is none, for Google leaves it out then.
    pub fn usage(&self, finished: bool, flags: &mut Vec<&'static str>) -> Option<Usage> {
        let mut usage = Usage::new();
        let input = self.prompt.map(|p| p.saturating_add(self.tool_use.unwrap_or(0)));
        let output = self.output(finished, flags);
        let mut set = |component, count: Option<u64>| {
            if let Some(n) = count {
                usage.set(component, n);
            }
        };
        set(Component::InputTokens, input);
        set(Component::OutputTokens, output);
        set(Component::OutputReasoningTokens, self.thoughts.map(|t| t.min(output.unwrap_or(t))));
        if let Some(input) = input {
            let read = self.cached.map(|n| n.min(input));
            if read != self.cached {
                flag(flags, "cached_over_input");
            }
            set(Component::CacheReadTokens, read);
            let kinds = self.prompt_kinds.unwrap_or_default().plus(self.tool_use_kinds.unwrap_or_default());
            if let Some(kinds) = fit(kinds, input, flags) {
                let stated = self.cached_kinds.unwrap_or_default();
                let cached = cached_kinds(kinds, stated, input, read.unwrap_or(0), flags);
                set(Component::InputAudioTokens, Some(kinds.audio));
                set(Component::InputImageTokens, Some(kinds.image));
                set(Component::InputVideoTokens, Some(kinds.video).filter(|n| *n > 0));
                set(Component::CacheAudioReadTokens, Some(cached.audio).filter(|n| *n > 0));
                set(Component::CacheImageReadTokens, Some(cached.image).filter(|n| *n > 0));
            }
        }
        if let (Some(output), Some(kinds)) = (output, self.answer_kinds)
            && let Some(kinds) = fit(kinds, output, flags)
        {
            set(Component::OutputAudioTokens, Some(kinds.audio));
            set(Component::OutputImageTokens, Some(kinds.image));
        }
        (!usage.is_empty()).then_some(usage)
    }

    /// Everything generated. The total is the check, and says what was left out.
    fn output(&self, finished: bool, flags: &mut Vec<&'static str>) -> Option<u64> {
        let thoughts = self.thoughts.unwrap_or(0);
        let known = self.prompt?.saturating_add(self.tool_use.unwrap_or(0)).saturating_add(thoughts);
        let rest = self.total.map(|total| (total.saturating_sub(known), total < known));
        if self.answer.is_none() && self.thoughts.is_none() && !finished {
            return None;
        }
        if let Some((rest, short)) = rest
            && (short || rest != self.answer.unwrap_or(0))
        {
            flag(flags, "total_differs");
            if self.answer.is_none() {
                return Some(thoughts.saturating_add(rest));
            }
        }
        Some(thoughts.saturating_add(self.answer.unwrap_or(0)))
    }
}

/// Parts that exceed their whole say nothing.
fn fit(kinds: Kinds, whole: u64, flags: &mut Vec<&'static str>) -> Option<Kinds> {
    if kinds.sum() > whole {
        flag(flags, "modalities_over_total");
        return None;
    }
    Some(kinds)
}

/// The cached part of audio and pictures. Where Google does not say it, as little as the counts allow: what is both is
/// charged once.
fn cached_kinds(kinds: Kinds, stated: Kinds, input: u64, read: u64, flags: &mut Vec<&'static str>) -> Kinds {
    let audio = stated.audio.min(kinds.audio).min(read);
    let image = stated.image.min(kinds.image).min(read - audio);
    if (audio, image) != (stated.audio, stated.image) {
        flag(flags, "cached_modalities_over");
    }
    let text = read - audio - image;
    let plain = input - kinds.sum();
    let mut over = text.saturating_sub(plain.saturating_add(kinds.video));
    let more_audio = over.min(kinds.audio - audio);
    over -= more_audio;
    Kinds { audio: audio + more_audio, image: image + over.min(kinds.image - image), video: 0 }
}

fn kinds(list: &Small, count: &str, flags: &mut Vec<&'static str>) -> Option<Kinds> {
    let mut kinds = Kinds::default();
    for item in list.as_array()?.iter().take(64) {
        let Some(n) = Counts::new(item, flags).get(count) else { continue };
        match word(item, "modality", &MODALITIES).unwrap_or_default().to_ascii_uppercase().as_str() {
            "AUDIO" => kinds.audio = kinds.audio.saturating_add(n),
            "IMAGE" | "DOCUMENT" => kinds.image = kinds.image.saturating_add(n),
            "VIDEO" => kinds.video = kinds.video.saturating_add(n),
            _ => {}
        }
    }
    Some(kinds)
}

/// A word of an enumeration, also where it comes as its number.
pub(super) fn word(value: &Small, name: &str, by_number: &[&str]) -> Option<String> {
    match at(value, name)? {
        Small::Count(n) => by_number.get(usize::try_from(*n).ok()?).map(|w| (*w).to_owned()).filter(|w| !w.is_empty()),
        _ => text(value, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Component::*;

    fn read(json: &str, finished: bool) -> (Usage, Vec<&'static str>) {
        let mut flags = Vec::new();
        let stated = Stated::metadata(&Small::read(json.as_bytes()).unwrap(), &mut flags);
        (stated.usage(finished, &mut flags).unwrap_or_default(), flags)
    }

    fn counts(usage: &Usage, wanted: &[Component]) -> Vec<Option<u64>> {
        wanted.iter().map(|c| usage.get(*c)).collect()
    }

    #[test]
    fn thoughts_and_the_prompt_of_tools_are_added() {
        let (usage, flags) = read(
            r#"{"promptTokenCount":75,"candidatesTokenCount":414,"thoughtsTokenCount":117,"toolUsePromptTokenCount":573,
                "cachedContentTokenCount":60,"totalTokenCount":1179,"trafficType":1}"#,
            true,
        );
        let wanted = [InputTokens, CacheReadTokens, OutputTokens, OutputReasoningTokens];
        assert_eq!(counts(&usage, &wanted), [Some(648), Some(60), Some(531), Some(117)]);
        assert_eq!(flags, Vec::<&str>::new());
    }

    #[test]
    fn an_output_that_is_left_out_is_none_only_of_a_finished_answer() {
        let json = r#"{"promptTokenCount":9,"totalTokenCount":9}"#;
        assert_eq!(read(json, true).0.get(OutputTokens), Some(0));
        assert_eq!(read(json, false).0.get(OutputTokens), None);
        let thinking = r#"{"promptTokenCount":9,"thoughtsTokenCount":40,"totalTokenCount":49}"#;
        assert_eq!(counts(&read(thinking, false).0, &[OutputTokens, OutputReasoningTokens]), [Some(40), Some(40)]);
        let (gap, flags) = read(r#"{"promptTokenCount":9,"thoughtsTokenCount":40,"totalTokenCount":60}"#, true);
        assert_eq!((gap.get(OutputTokens), flags), (Some(51), vec!["total_differs"]));
    }

    #[test]
    fn what_a_later_chunk_leaves_out_stands() {
        let mut flags = Vec::new();
        let of = |json: &str, flags: &mut _| Stated::metadata(&Small::read(json.as_bytes()).unwrap(), flags);
        let first = of(r#"{"promptTokenCount":10,"candidatesTokenCount":21,"totalTokenCount":31}"#, &mut flags);
        let last = of(r#"{"promptTokenCount":10,"thoughtsTokenCount":5,"totalTokenCount":36}"#, &mut flags);
        let usage = first.overlay(last).usage(true, &mut flags).unwrap();
        assert_eq!((usage.get(OutputTokens), flags), (Some(26), vec![]));
    }

    #[test]
    fn modalities_are_told_apart_by_word_and_number() {
        let (usage, _) = read(
            r#"{"promptTokenCount":1000,"cachedContentTokenCount":300,"candidatesTokenCount":1290,"totalTokenCount":2340,
                "toolUsePromptTokenCount":50,
                "promptTokensDetails":[{"modality":"TEXT","tokenCount":100},{"modality":4,"tokenCount":200},
                  {"modality":"IMAGE","tokenCount":258},{"modality":5,"tokenCount":42},{"modality":"VIDEO","tokenCount":400}],
                "toolUsePromptTokensDetails":[{"modality":"IMAGE","tokenCount":50}],
                "cacheTokensDetails":[{"modality":"AUDIO","tokenCount":150},{"modality":"TEXT","tokenCount":150}],
                "candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290}]}"#,
            true,
        );
        let wanted = [
            InputTokens,
            InputAudioTokens,
            InputImageTokens,
            InputVideoTokens,
            CacheAudioReadTokens,
            OutputImageTokens,
        ];
        assert_eq!(counts(&usage, &wanted), [Some(1050), Some(200), Some(350), Some(400), Some(150), Some(1290)]);
    }

    #[test]
    fn counts_that_contradict_each_other_are_kept_within_their_wholes_and_marked() {
        let audio = |cached: u64, audio: u64, of: u64| {
            read(
                &format!(
                    r#"{{"promptTokenCount":100,"cachedContentTokenCount":{cached},"candidatesTokenCount":1,"totalTokenCount":101,
                    "promptTokensDetails":[{{"modality":"AUDIO","tokenCount":{audio}}}],
                    "cacheTokensDetails":[{{"modality":"AUDIO","tokenCount":{of}}}]}}"#
                ),
                true,
            )
        };
        let both = [CacheReadTokens, InputAudioTokens, CacheAudioReadTokens];
        let (usage, flags) = audio(130, 60, 60);
        assert_eq!((counts(&usage, &both), flags), (vec![Some(100), Some(60), Some(60)], vec!["cached_over_input"]));
        let (usage, flags) = audio(80, 60, 0);
        assert_eq!((counts(&usage, &both), flags), (vec![Some(80), Some(60), Some(40)], vec![]));
        let (usage, flags) = audio(10, 60, 30);
        assert_eq!(
            (counts(&usage, &both), flags),
            (vec![Some(10), Some(60), Some(10)], vec!["cached_modalities_over"])
        );
        let (usage, flags) = audio(10, 600, 0);
        assert_eq!((counts(&usage, &both), flags), (vec![Some(10), None, None], vec!["modalities_over_total"]));
    }
}
