//! Answers that cost nothing, or that we do not read: passed on, judged by their status alone.

use super::json_scan::{Kind, Seg, Sink, Text, Want, Whole};
use super::reading::error_type;
use super::tap::{Meter, Seen};
use super::{End, Observation, Verdict};

const NAMES: &[&str] = &["error", "id", "model"];

/// The meter of paths without usage.
#[derive(Default)]
pub struct FreeMeter {
    obs: Observation,
}

impl Sink for FreeMeter {
    fn begin(&mut self, path: &[Seg], _: Kind) -> Want {
        match path {
            [] | [Seg::Key("id" | "model")] => Want::Enter,
            [Seg::Key("error")] => Want::Raw(4 << 10),
            _ => Want::Skip,
        }
    }
    fn string(&mut self, path: &[Seg], text: Text<'_>) {
        match path {
            [Seg::Key("id")] => self.obs.response_id = super::reading::word(text.text),
            [Seg::Key("model")] => self.obs.model = super::reading::word(text.text),
            _ => {}
        }
    }
    fn raw(&mut self, _: &[Seg], json: Option<&[u8]>) {
        if let Some(json) = json.filter(|j| *j != b"null") {
            self.obs.error = Some(error_type(json));
        }
    }
}

impl Meter for FreeMeter {
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
        obs.verdict = match (seen.status, seen.end) {
            (400.., _) => Verdict::Error,
            (_, End::Complete) => Verdict::Ok,
            _ => Verdict::Truncated,
        };
        if obs.verdict == Verdict::Error {
            obs.error.get_or_insert_with(|| "error".into());
        } else {
            obs.error = None;
        }
        obs
    }
}
