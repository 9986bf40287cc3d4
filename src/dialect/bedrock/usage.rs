//! Bedrock's counts: in bodies, in headers and in the metrics that end a stream (provider-usage 6, state of 2026-11-23).
//!
//! They are exclusive of each other, like Anthropic's, unless the total says otherwise.

use http::HeaderMap;

use crate::dialect::counts::{Counts, MAX_COUNT, flag};
use crate::dialect::small::Small;
use crate::domain::{Component, Usage};

/// Counts as Bedrock states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stated {
    pub input: Option<u64>,
    pub output: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    written_1h: Option<u64>,
    total: Option<u64>,
}

impl Stated {
    /// Of a `usage` object; older names carry the same numbers.
    pub fn usage_object(value: &Small, flags: &mut Vec<&'static str>) -> Stated {
        let details = value.get("cacheDetails").and_then(Small::as_array).unwrap_or_default();
        let hour = details.iter().take(16).filter(|d| d.get("ttl").and_then(Small::as_str) == Some("1h"));
        let written_1h = hour
            .filter_map(|d| Counts::new(d, flags).get("inputTokens"))
            .fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0).saturating_add(n)));
        let mut c = Counts::new(value, flags);
        Stated {
            // Imported models answer in OpenAI's words.
            input: c.first(&["inputTokens", "prompt_tokens", "input_tokens"]),
            output: c.first(&["outputTokens", "completion_tokens", "output_tokens"]),
            read: c.first(&["cacheReadInputTokens", "cacheReadInputTokenCount"]),
            written: c.first(&["cacheWriteInputTokens", "cacheWriteInputTokenCount"]),
            written_1h,
            total: c.first(&["totalTokens", "total_tokens"]),
        }
    }

    /// Of `amazon-bedrock-invocationMetrics`.
    pub fn metrics(value: &Small, flags: &mut Vec<&'static str>) -> Stated {
        let mut c = Counts::new(value, flags);
        Stated {
            input: c.get("inputTokenCount"),
            output: c.get("outputTokenCount"),
            read: c.get("cacheReadInputTokenCount"),
            written: c.get("cacheWriteInputTokenCount"),
            ..Stated::default()
        }
    }

    /// Of the headers of an answer to `invoke`.
    pub fn headers(headers: &HeaderMap) -> Stated {
        let get = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            value.trim().parse::<u64>().ok().filter(|n| *n <= MAX_COUNT)
        };
        Stated {
            input: get("x-amzn-bedrock-input-token-count"),
            output: get("x-amzn-bedrock-output-token-count"),
            read: get("x-amzn-bedrock-cache-read-input-token-count"),
            written: get("x-amzn-bedrock-cache-write-input-token-count"),
            ..Stated::default()
        }
    }

    /// Later counts win, field by field.
    pub fn overlay(self, later: Stated) -> Stated {
        Stated {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            read: later.read.or(self.read),
            written: later.written.or(self.written),
            written_1h: later.written_1h.or(self.written_1h),
            total: later.total.or(self.total),
        }
    }

    /// In our words: inclusive.
    pub fn usage(self, flags: &mut Vec<&'static str>) -> Option<Usage> {
        let mut usage = Usage::new();
        let written = self.written.map(|w| w.max(self.written_1h.unwrap_or(0))).or(self.written_1h);
        let beside = self.read.unwrap_or(0).saturating_add(written.unwrap_or(0));
        if let Some(input) = self.input {
            let stated = input.saturating_add(self.output.unwrap_or(0));
            let inclusive = beside > 0 && beside <= input && self.total == Some(stated);
            if !inclusive && self.total.is_some_and(|t| t != stated.saturating_add(beside)) {
                flag(flags, "total_differs");
            }
            usage.set(Component::InputTokens, if inclusive { input } else { input.saturating_add(beside) });
        }
        let mut set = |component, count: Option<u64>| {
            if let Some(n) = count {
                usage.set(component, n);
            }
        };
        // A cache's counts without the input they are parts of cannot be booked.
        let beside_input = |n: Option<u64>| n.filter(|_| self.input.is_some());
        set(Component::CacheReadTokens, beside_input(self.read));
        set(Component::CacheWriteTokens, beside_input(written));
        let hour = self.written_1h.unwrap_or(0);
        set(Component::CacheWrite5mTokens, beside_input(written.map(|w| w - hour.min(w))));
        set(Component::CacheWrite1hTokens, beside_input(self.written_1h));
        set(Component::OutputTokens, self.output);
        (!usage.is_empty()).then_some(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Component::*;

    fn read(json: &str) -> (Vec<Option<u64>>, Vec<&'static str>) {
        let mut flags = Vec::new();
        let stated = Stated::usage_object(&Small::read(json.as_bytes()).unwrap(), &mut flags);
        let usage = stated.usage(&mut flags).unwrap_or_default();
        let wanted = [InputTokens, CacheReadTokens, CacheWrite5mTokens, CacheWrite1hTokens, OutputTokens];
        (wanted.iter().map(|c| usage.get(*c)).collect(), flags)
    }

    #[test]
    fn caches_stand_beside_the_input_and_the_total_is_the_check() {
        let (counts, flags) = read(
            r#"{"inputTokens":22,"outputTokens":13,"totalTokens":2527,"cacheReadInputTokens":0,"cacheReadInputTokenCount":0,
                "cacheWriteInputTokens":2492,"cacheWriteInputTokenCount":2492,
                "cacheDetails":[{"ttl":"1h","inputTokens":2000},{"ttl":"5m","inputTokens":492}]}"#,
        );
        assert_eq!(counts, [Some(2514), Some(0), Some(492), Some(2000), Some(13)]);
        assert_eq!(flags, Vec::<&str>::new());
        let (inclusive, _) =
            read(r#"{"inputTokens":100,"outputTokens":5,"totalTokens":105,"cacheReadInputTokens":60}"#);
        assert_eq!(inclusive, [Some(100), Some(60), None, None, Some(5)]);
        assert_eq!(read(r#"{"inputTokens":1,"outputTokens":5,"totalTokens":9}"#).1, ["total_differs"]);
        assert_eq!(read(r#"{"inputTokens":-1,"outputTokens":5,"cacheReadInputTokens":7}"#).0[..2], [None, None]);
    }
}
