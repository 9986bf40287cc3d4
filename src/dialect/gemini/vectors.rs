//! Reads answers of `embedContent`, `batchEmbedContents` and Vertex's `predict`: figures of usage behind long vectors.

use super::usage::Stated;
use crate::dialect::counts::{Counts, MAX_COUNT, flag};
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{MAX_RAW, error_type, keep_vendor_usage, verdict, word};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::dialect::{Observation, Verdict};
use crate::domain::{Component, Usage};

const NAMES: &[&str] =
    &["embeddings", "error", "metadata", "modelVersion", "predictions", "statistics", "token_count", "usageMetadata"];

/// The meter of one answer.
#[derive(Default)]
pub(super) struct VectorMeter {
    obs: Observation,
    stated: Option<Stated>,
    /// Tokens of all predictions: here, and only here, counts are added up.
    tokens: Option<u64>,
    characters: Option<u64>,
}

use Seg::{At, Key};

impl Sink for VectorMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        match path {
            [] | [Key("predictions")] | [Key("predictions"), At(_)] => Want::Enter,
            [At(0)] | [At(0), Key("error")] if kind == Kind::Object => {
                if path.len() == 1 {
                    Want::Enter
                } else {
                    Want::Raw(MAX_RAW)
                }
            }
            [Key("usageMetadata" | "metadata" | "error")] => Want::Raw(MAX_RAW),
            [Key("modelVersion")] => Want::Enter,
            [Key("predictions"), At(_), Key("embeddings")]
            | [Key("predictions"), At(_), Key("embeddings"), Key("statistics")] => Want::Enter,
            [Key("predictions"), At(_), Key("embeddings"), Key("statistics"), Key("token_count")] => Want::Enter,
            _ => Want::Skip,
        }
    }

    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        if path == [Key("modelVersion")] {
            self.obs.model = word(text.text);
        }
    }

    fn scalar(&mut self, _: &[Seg], text: &str) {
        let count = text.strip_suffix(".0").unwrap_or(text).parse::<u64>().ok().filter(|n| *n <= MAX_COUNT);
        match count {
            Some(n) => self.tokens = Some(self.tokens.unwrap_or(0).saturating_add(n)),
            None if text == "null" => {}
            None => flag(&mut self.obs.flags, crate::dialect::counts::BAD_COUNT),
        }
    }

    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        let Some(value) = json.and_then(Small::read).filter(|v| *v != Small::Null) else { return };
        let json = json.unwrap_or_default();
        match path {
            [.., Key("error")] => self.obs.error = Some(error_type(json)),
            [Key("usageMetadata")] => {
                keep_vendor_usage(&mut self.obs, json);
                self.stated = Some(Stated::metadata(&value, &mut self.obs.flags));
            }
            _ => {
                keep_vendor_usage(&mut self.obs, json);
                self.characters = Counts::new(&value, &mut self.obs.flags).get("billableCharacterCount");
            }
        }
    }
}

impl Meter for VectorMeter {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }
    fn is_last(&self, _: &[u8], _: &[u8]) -> bool {
        false
    }
    fn done(&mut self, _: &[u8], _: &[u8], _: Whole) -> bool {
        false
    }
    fn observe(&mut self, seen: Seen) -> Observation {
        let mut obs = std::mem::take(&mut self.obs);
        obs.verdict = verdict(&mut obs, &seen, seen.whole == Whole::Complete);
        let mut usage = Usage::new();
        if let Some(stated) = self.stated.take() {
            usage = stated.usage(false, &mut obs.flags).unwrap_or_default();
            super::tier(&mut obs, &stated);
        }
        if let Some(tokens) = self.tokens.filter(|_| usage.get(Component::InputTokens).is_none()) {
            usage.set(Component::InputTokens, tokens);
        }
        // Old embedding models are billed by the character; where a model has no such price, this changes nothing.
        if let Some(n) = self.characters {
            usage.set(Component::InputCharacters, n);
        }
        let stated = usage.get(Component::InputTokens).is_some();
        obs.usage = (!usage.is_empty()).then_some(usage);
        obs.usage_missing = !stated && obs.verdict != Verdict::Error;
        obs
    }
}
