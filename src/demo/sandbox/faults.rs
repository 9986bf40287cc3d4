//! What goes wrong in the sandbox: by chance as with real vendors, and on demand for tests.
//!
//! A directive asks for one fault. It is given as the model name, as the caller's user (`user`, `safety_identifier`, or
//! `metadata.user_id`), or in the header `sandbox-directive` where nothing stands between:
//!
//! | directive | what comes back |
//! | --- | --- |
//! | `sandbox-error-429` | rate limited, `retry-after: 1` |
//! | `sandbox-error-N` | that status with the vendor's error object: 400, 401, 403, 404, 409, 413, 422, 500, 503, 529 |
//! | `sandbox-abort` | the connection breaks after a third of the answer |
//! | `sandbox-truncate` | the answer ends properly after a third, without its terminal event |
//! | `sandbox-stream-error` | a stream that ends with the vendor's error event; plain: an error object with status 200 |
//! | `sandbox-html` | status 200, but a web page |
//! | `sandbox-no-usage` | a good answer without usage |
//! | `sandbox-silent` | the head, then nothing for a minute |
//! | `sandbox-slow` | 20 ms per token whatever the pace |
//! | `sandbox-length-N` | exactly N tokens of answer, up to 20,000 |

use super::Random;

/// One fault, asked for or drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    Error(u16),
    Abort,
    Truncate,
    StreamError,
    Html,
    NoUsage,
    Silent,
    Slow,
    Length(u64),
}

impl Directive {
    /// Reads a directive; anything else is none.
    pub fn parse(text: &str) -> Option<Directive> {
        let rest = text.strip_prefix("sandbox-")?;
        if let Some(status) = rest.strip_prefix("error-") {
            return status.parse().ok().filter(|s| (400..600).contains(s)).map(Directive::Error);
        }
        if let Some(tokens) = rest.strip_prefix("length-") {
            return tokens.parse().ok().map(|n: u64| Directive::Length(n.clamp(1, 20_000)));
        }
        Some(match rest {
            "abort" => Directive::Abort,
            "truncate" => Directive::Truncate,
            "stream-error" => Directive::StreamError,
            "html" => Directive::Html,
            "no-usage" => Directive::NoUsage,
            "silent" => Directive::Silent,
            "slow" => Directive::Slow,
            _ => return None,
        })
    }

    /// A fault by chance: `share` of all calls, mostly rate limits, some outages, a few broken streams.
    pub fn by_chance(random: &mut Random, share: f64) -> Option<Directive> {
        if !random.chance(share) {
            return None;
        }
        Some(match random.weighted(&[6.0, 2.0, 1.0, 1.0]) {
            0 => Directive::Error(429),
            1 => Directive::Error(500),
            2 => Directive::Error(529),
            _ => Directive::Abort,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_ordinary_names_are_none() {
        assert_eq!(Directive::parse("sandbox-error-429"), Some(Directive::Error(429)));
        assert_eq!(Directive::parse("sandbox-length-999999"), Some(Directive::Length(20_000)));
        assert_eq!(Directive::parse("sandbox-abort"), Some(Directive::Abort));
        for other in ["gpt-5.2", "sandbox-", "sandbox-error-200", "sandbox-error-x", "error-429"] {
            assert_eq!(Directive::parse(other), None, "{other}");
        }
    }
}
