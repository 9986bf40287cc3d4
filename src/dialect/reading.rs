//! What meters have in common: bounded text, tool names, errors, and the verdict.

use serde_json::Value;

use super::json_scan::{Text, Want, Whole};
use super::tap::Seen;
use super::{End, Observation, Verdict};

/// Generated text that is kept for counting.
pub(super) const MAX_TEXT: usize = 256 << 10;
/// Tool names that are kept.
const MAX_TOOL_NAMES: usize = 64;
/// Bytes of a usage object, or of another small object, that are read.
pub(super) const MAX_RAW: usize = 64 << 10;
/// Bytes of the usage object that are kept as they came.
const MAX_VENDOR_USAGE: usize = 4 << 10;
/// Bytes of an id, a model's name, a reason.
const MAX_WORD: usize = 256;

/// Wants as much generated text as still has room.
pub(super) fn want_text(obs: &Observation) -> Want {
    Want::Text(MAX_TEXT.saturating_sub(obs.output_text.len()))
}

/// Adds generated text.
pub(super) fn add_text(obs: &mut Observation, text: Text<'_>) {
    obs.output_bytes = obs.output_bytes.saturating_add(text.bytes);
    let room = MAX_TEXT.saturating_sub(obs.output_text.len());
    obs.output_text.push_str(cut(text.text, room));
}

/// Bytes of text a token has, about, in what models write: prose has more, code and numbers fewer.
const BYTES_PER_TOKEN: u64 = 4;

/// Output tokens as the length of what passed says, without counting them.
pub(super) fn output_so_far(obs: &Observation) -> u64 {
    obs.output_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(obs.hidden_tokens)
}

/// Counts a call that the client is to execute.
pub(super) fn add_tool(obs: &mut Observation, name: Option<&str>) {
    obs.tools_called = obs.tools_called.saturating_add(1);
    // The model writes more than the arguments: its name and marks around it are generated too.
    let call = format!("\n<call name=\"{}\">", cut(name.unwrap_or_default(), MAX_WORD));
    add_text(obs, Text { text: &call, bytes: call.len() as u64 });
    if let Some(name) = name.filter(|n| !n.is_empty())
        && obs.tool_names.len() < MAX_TOOL_NAMES
    {
        obs.tool_names.push(cut(name, MAX_WORD).to_string());
    }
}

/// Keeps the usage object as it came.
pub(super) fn keep_vendor_usage(obs: &mut Observation, json: &[u8]) {
    let text = String::from_utf8_lossy(json);
    obs.vendor_usage = Some(cut(&text, MAX_VENDOR_USAGE).to_string());
}

/// A non-empty word such as an id, cut.
pub(super) fn word(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| cut(text, MAX_WORD).to_string())
}

/// The longest beginning of at most `max` bytes that ends between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The type of an error in an error object, whatever its shape: `{"type"}`, `{"code"}`, a bare text, `{"detail"}`.
pub(super) fn error_type(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap_or(Value::Null);
    let field = |name: &str| match value.get(name)? {
        Value::String(s) => word(s),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    let named = field("type").or_else(|| field("code")).or_else(|| field("status"));
    named.or_else(|| value.as_str().and_then(word)).unwrap_or_else(|| "error".into())
}

/// Ok, error or truncated, from how the body ended. `complete`: the terminal event, or a whole plain body, was seen.
pub(super) fn verdict(obs: &mut Observation, seen: &Seen, complete: bool) -> Verdict {
    if seen.status >= 400 {
        obs.error.get_or_insert_with(|| "error".into());
    } else if !seen.streamed && seen.whole == Whole::Malformed {
        // A page of a proxy in between, most likely.
        obs.error.get_or_insert_with(|| super::NOT_JSON.into());
    }
    if obs.error.is_some() {
        Verdict::Error
    } else if complete || (!seen.streamed && seen.end == End::Complete && seen.status < 300 && is_empty(seen)) {
        Verdict::Ok
    } else {
        Verdict::Truncated
    }
}

/// A success without a body, as for a deletion.
fn is_empty(seen: &Seen) -> bool {
    seen.whole == Whole::Empty
}
