//! Answers of `invoke` whose inside is another protocol that we read already: Claude's messages, and chat completions.
//!
//! The vendor's reader does the work; Bedrock's own counts (metrics of the last event, headers) stand beside its.

use http::HeaderMap;

use super::meter::{METRICS, error_of, finish};
use super::usage::Stated;
use crate::dialect::Observation;
use crate::dialect::counts::flag;
use crate::dialect::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use crate::dialect::reading::{MAX_RAW, word};
use crate::dialect::small::Small;
use crate::dialect::tap::{Meter, Seen};
use crate::domain::Component;

/// A vendor's meter inside Bedrock.
pub(super) struct NativeMeter {
    inner: Box<dyn Meter>,
    metered: Stated,
    ended: bool,
    error: Option<String>,
    flags: Vec<&'static str>,
}

impl NativeMeter {
    pub fn new(inner: Box<dyn Meter>, headers: &HeaderMap) -> NativeMeter {
        NativeMeter {
            inner,
            metered: Stated::headers(headers),
            ended: false,
            error: error_of(headers),
            flags: Vec::new(),
        }
    }
}

impl Sink for NativeMeter {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        if path == [Seg::Key(METRICS)] {
            self.ended = true;
            return Want::Raw(MAX_RAW);
        }
        self.inner.begin(path, kind)
    }
    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        self.inner.string(path, text);
    }
    fn scalar(&mut self, path: &[Seg], text: &str) {
        self.inner.scalar(path, text);
    }
    fn raw(&mut self, path: &[Seg], json: Option<&[u8]>) {
        if path != [Seg::Key(METRICS)] {
            return self.inner.raw(path, json);
        }
        if let Some(value) = json.and_then(Small::read).filter(Small::is_object) {
            self.metered = Stated::metrics(&value, &mut self.flags);
        }
    }
    fn end(&mut self, path: &[Seg], kind: Kind) {
        self.inner.end(path, kind);
    }
}

impl Meter for NativeMeter {
    fn names(&self) -> &'static [&'static str] {
        self.inner.names()
    }

    fn is_last(&self, event: &[u8], head: &[u8]) -> bool {
        event.first() == Some(&b'!') || self.ended || self.inner.is_last(event, head)
    }

    fn done(&mut self, event: &[u8], head: &[u8], whole: Whole) -> bool {
        match event.strip_prefix(b"!") {
            Some(name) => {
                self.error = word(&String::from_utf8_lossy(name));
                self.inner.done(b"error", head, whole)
            }
            None => self.inner.done(event, head, whole),
        }
    }

    fn output_so_far(&self) -> u64 {
        self.inner.output_so_far()
    }

    fn observe(&mut self, mut seen: Seen) -> Observation {
        // The metrics end a stream as well as a vendor's own mark does.
        seen.closed |= self.ended;
        let mut obs = self.inner.observe(seen);
        for name in self.flags.drain(..) {
            flag(&mut obs.flags, name);
        }
        if obs.error.is_some() {
            obs.error = self.error.take().or(obs.error);
        }
        if seen.status >= 400 {
            return obs;
        }
        let mut usage = obs.usage.take().unwrap_or_default();
        // What Bedrock counted is what it bills; the vendor's split of it stays.
        if let Some(output) = self.metered.output {
            if usage.get(Component::OutputTokens).is_some_and(|n| n != output) {
                flag(&mut obs.flags, "metrics_differ");
            }
            usage.set(Component::OutputTokens, output);
            if let Some(reasoning) = usage.get(Component::OutputReasoningTokens) {
                usage.set(Component::OutputReasoningTokens, reasoning.min(output));
            }
        }
        if usage.get(Component::InputTokens).is_none()
            && let Some(counted) = self.metered.usage(&mut obs.flags)
        {
            counted.iter().for_each(|(component, n)| usage.set(component, n));
        }
        obs.usage = (!usage.is_empty()).then_some(usage);
        finish(&mut obs, &seen, false);
        obs
    }
}
