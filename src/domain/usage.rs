//! What a call used, in the units providers bill. Names are those of the price book's components.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One billable count. The discriminant is what the journal stores: never renumber, only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Component {
    InputTokens = 0,
    CacheReadTokens = 1,
    CacheWriteTokens = 2,
    CacheWrite5mTokens = 3,
    CacheWrite1hTokens = 4,
    OutputTokens = 5,
    OutputReasoningTokens = 6,
    InputAudioTokens = 7,
    OutputAudioTokens = 8,
    InputImageTokens = 9,
    OutputImageTokens = 10,
    WebSearches = 11,
    Requests = 12,
    InputTextTokens = 13,
    OutputTextTokens = 14,
    InputVideoTokens = 15,
    CacheAudioReadTokens = 16,
    CacheImageReadTokens = 17,
    AudioSeconds = 18,
    InputAudioSeconds = 19,
    InputCharacters = 20,
    InputDocumentPages = 21,
    InputAnnotatedDocumentPages = 22,
    StorageSearches = 23,
}

use Component::*;

impl Component {
    /// Every component, in the order of its journal number.
    pub const ALL: [Component; 24] = [
        InputTokens,
        CacheReadTokens,
        CacheWriteTokens,
        CacheWrite5mTokens,
        CacheWrite1hTokens,
        OutputTokens,
        OutputReasoningTokens,
        InputAudioTokens,
        OutputAudioTokens,
        InputImageTokens,
        OutputImageTokens,
        WebSearches,
        Requests,
        InputTextTokens,
        OutputTextTokens,
        InputVideoTokens,
        CacheAudioReadTokens,
        CacheImageReadTokens,
        AudioSeconds,
        InputAudioSeconds,
        InputCharacters,
        InputDocumentPages,
        InputAnnotatedDocumentPages,
        StorageSearches,
    ];

    /// The name used in the API, in exports and in the price book.
    pub const fn name(self) -> &'static str {
        match self {
            InputTokens => "input_tokens",
            CacheReadTokens => "cache_read_tokens",
            CacheWriteTokens => "cache_write_tokens",
            CacheWrite5mTokens => "cache_write_5m_tokens",
            CacheWrite1hTokens => "cache_write_1h_tokens",
            OutputTokens => "output_tokens",
            OutputReasoningTokens => "output_reasoning_tokens",
            InputAudioTokens => "input_audio_tokens",
            OutputAudioTokens => "output_audio_tokens",
            InputImageTokens => "input_image_tokens",
            OutputImageTokens => "output_image_tokens",
            WebSearches => "web_searches",
            Requests => "requests",
            InputTextTokens => "input_text_tokens",
            OutputTextTokens => "output_text_tokens",
            InputVideoTokens => "input_video_tokens",
            CacheAudioReadTokens => "cache_audio_read_tokens",
            CacheImageReadTokens => "cache_image_read_tokens",
            AudioSeconds => "audio_seconds",
            InputAudioSeconds => "input_audio_seconds",
            InputCharacters => "input_characters",
            InputDocumentPages => "input_document_pages",
            InputAnnotatedDocumentPages => "input_annotated_document_pages",
            StorageSearches => "storage_searches",
        }
    }

    /// The component of that name.
    pub fn from_name(name: &str) -> Option<Component> {
        Component::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The component with that journal number.
    pub fn from_number(number: u8) -> Option<Component> {
        Component::ALL.get(number as usize).copied()
    }

    /// How many units one listed price stands for: a million tokens or characters, an hour, a thousand of the rest.
    pub const fn per(self) -> u64 {
        match self {
            AudioSeconds | InputAudioSeconds => 3_600,
            WebSearches | Requests | InputDocumentPages | InputAnnotatedDocumentPages | StorageSearches => 1_000,
            _ => 1_000_000,
        }
    }

    /// The components this one is counted inside of: counts are inclusive and nested.
    pub const fn parents(self) -> &'static [Component] {
        match self {
            CacheAudioReadTokens => &[CacheReadTokens, InputAudioTokens, InputTokens],
            CacheImageReadTokens => &[CacheReadTokens, InputImageTokens, InputTokens],
            CacheReadTokens | CacheWriteTokens | InputAudioTokens | InputImageTokens | InputTextTokens
            | InputVideoTokens => &[InputTokens],
            CacheWrite5mTokens | CacheWrite1hTokens => &[CacheWriteTokens, InputTokens],
            InputAnnotatedDocumentPages => &[InputDocumentPages],
            InputAudioSeconds => &[AudioSeconds],
            OutputAudioTokens | OutputImageTokens | OutputReasoningTokens | OutputTextTokens => &[OutputTokens],
            _ => &[],
        }
    }
}

/// Counts of one call, or summed over many. Inclusive: `input_tokens` is everything that went in, of which cache reads
/// and writes, audio and images are parts; `output_tokens` includes reasoning. A count we do not have is absent, not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    counts: [u64; Component::ALL.len()],
    /// Bit n: count n is known. A count that is not known is 0 in `counts`.
    known: u32,
}

impl Usage {
    /// Nothing known.
    pub fn new() -> Usage {
        Usage::default()
    }

    /// The count, where known.
    pub fn get(&self, component: Component) -> Option<u64> {
        self.knows(component).then(|| self.counts[component as usize])
    }

    fn knows(&self, component: Component) -> bool {
        self.known >> component as u32 & 1 == 1
    }

    /// Makes a count known.
    pub fn set(&mut self, component: Component, count: u64) {
        self.counts[component as usize] = count;
        self.known |= 1 << component as u32;
    }

    /// Like [`Usage::set`], for building in one expression.
    pub fn with(mut self, component: Component, count: u64) -> Usage {
        self.set(component, count);
        self
    }

    /// Forgets a count.
    pub fn clear(&mut self, component: Component) {
        self.counts[component as usize] = 0;
        self.known &= !(1 << component as u32);
    }

    /// True if no count is known.
    pub fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// The known counts in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Component, u64)> + '_ {
        Component::ALL.into_iter().filter_map(|c| self.get(c).map(|n| (c, n)))
    }

    /// Adds another call's counts: the sum of what is known. Saturates rather than wraps.
    pub fn add(&mut self, other: &Usage) {
        for (c, n) in other.iter() {
            self.set(c, self.counts[c as usize].saturating_add(n));
        }
    }

    /// All tokens: input and output, where either is known.
    pub fn total_tokens(&self) -> Option<u64> {
        match (self.get(InputTokens), self.get(OutputTokens)) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        }
    }
}

impl FromIterator<(Component, u64)> for Usage {
    fn from_iter<I: IntoIterator<Item = (Component, u64)>>(iter: I) -> Usage {
        let mut usage = Usage::new();
        for (c, n) in iter {
            usage.set(c, n);
        }
        usage
    }
}

/// A map of names to counts for readers, pairs of numbers in our own binary encodings.
impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_map(self.iter().map(|(c, n)| (c.name(), n)))
        } else {
            s.collect_seq(self.iter().map(|(c, n)| (c as u8, n)).collect::<Vec<_>>())
        }
    }
}
impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Usage, D::Error> {
        if !d.is_human_readable() {
            let pairs = Vec::<(u8, u64)>::deserialize(d)?;
            let known = pairs.into_iter().map(|(c, n)| Component::from_number(c).map(|c| (c, n)));
            return known
                .collect::<Option<Usage>>()
                .ok_or_else(|| serde::de::Error::custom("unknown component number"));
        }
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Usage;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of usage counts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Usage, A::Error> {
                let mut usage = Usage::new();
                while let Some(name) = map.next_key::<String>()? {
                    let component = Component::from_name(&name)
                        .ok_or_else(|| serde::de::Error::custom(format!("`{name}` is not a usage count")))?;
                    usage.set(component, map.next_value()?);
                }
                Ok(usage)
            }
        }
        d.deserialize_map(Names)
    }
}
impl schemars::JsonSchema for Usage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Usage".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let properties: serde_json::Map<String, serde_json::Value> =
            Component::ALL.into_iter().map(|c| (c.name().into(), serde_json::json!({"type": "integer"}))).collect();
        schemars::json_schema!({
            "type": "object", "properties": properties, "additionalProperties": false,
            "description": "Inclusive counts; a count that is not known is absent"
        })
    }
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.serialize_str(self.name()) } else { s.serialize_u8(*self as u8) }
    }
}
impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Component, D::Error> {
        let component = if d.is_human_readable() {
            Component::from_name(&String::deserialize(d)?)
        } else {
            Component::from_number(u8::deserialize(d)?)
        };
        component.ok_or_else(|| serde::de::Error::custom("unknown component"))
    }
}
impl schemars::JsonSchema for Component {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Component".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<_> = Component::ALL.iter().map(|c| c.name()).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}
