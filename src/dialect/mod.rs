//! What providers' bytes mean. We read; we never translate one vendor's API into another's.
//!
//! A [`Dialect`] reads facts out of a request, makes the two permitted edits, puts the provider's credential where it
//! belongs, words refusals as its SDKs expect them, and gives a [`Tap`] that reads the answer as it passes.
//!
//! What all dialects share: `json_scan` reads chosen values out of passing JSON, `sse` frames events, `tap` passes,
//! holds back and drops, `members` reads and edits a request, `prompt` weighs it, [`tokens`] counts it. A dialect's own
//! folder has its paths, its request fields, a meter for each family of answers, and its refusals.

mod anthropic;
mod bedrock;
mod cohere;
mod counts;
mod event_stream;
mod framing;
mod free;
mod gemini;
mod json_scan;
mod members;
mod ollama;
mod openai;
mod prompt;
mod reading;
mod small;
mod sse;
mod tap;
pub mod tokens;

#[cfg(test)]
pub mod corpus_tests;
#[cfg(test)]
mod native_tests;
#[cfg(test)]
mod quirk_tests;
#[cfg(test)]
mod tap_tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Method};
use secrecy::SecretString;

use crate::domain::{Refusal, Usage};

/// The head of a request, below the provider's prefix: `/v1/chat/completions`.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// The head of the provider's answer.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
}

/// What a path is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metering {
    /// Costs money: held, metered, settled.
    Metered,
    /// Known to cost nothing (lists, counting, files, cancelling): recorded with cost 0.
    Free,
    /// The stored answer of an earlier call: costs nothing by itself, ends an open job.
    Retrieval,
    /// Unknown: passed on, recorded, marked unmetered.
    Unmetered,
}

/// What an endpoint is billed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Billing {
    /// Tokens read and generated.
    #[default]
    Tokens,
    /// Tokens read only: embeddings.
    Input,
    /// Something else (pages, seconds, characters, searches, pictures), or tokens where the answer states them. Never
    /// counted by a tokenizer.
    Units,
}

/// What a request asks for, as far as cost and policy care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFacts {
    /// `chat.completions`, `completions`, `embeddings`, `responses`, `responses.retrieve`, `models`, `messages`,
    /// `messages.count_tokens`, `complete`, …; `unmetered` for unknown paths.
    pub endpoint: &'static str,
    pub metering: Metering,
    pub billing: Billing,
    pub model: Option<String>,
    /// The model stands in the body, so that another can be written over it.
    pub model_in_body: bool,
    pub stream: bool,
    /// The caller itself asked for the usage chunk (or the dialect always sends usage).
    pub asked_for_usage: bool,
    pub tools_offered: u32,
    /// The caller's output cap in tokens, per choice.
    pub output_cap: Option<u64>,
    /// Name of the request field a cap of ours would be written to; absent = cannot be written.
    pub output_cap_field: Option<&'static str>,
    /// Answers asked for (`n`, `best_of`): at least 1.
    pub choices: u64,
    /// Bytes of text the model reads: the basis of the input bound.
    pub input_bytes: u64,
    /// Tokens for what is not text (pictures, audio, documents, tools' own prompts), as an upper bound.
    pub input_allowance: u64,
    /// The input cannot be seen from here: stored conversation, file ids, remote pictures, hosted search.
    pub unbounded: bool,
    /// Runs on at the vendor (`background: true`).
    pub job: bool,
    /// The stored answer that is asked for, listed, cancelled or deleted.
    pub response_id: Option<String>,
    /// The stored answer that this request goes on from: its text is read by the model.
    pub continues: Option<String>,
    /// Modifiers of the price as asked for (`service_tier`, `speed`, …): the upper bound uses them; the answer's win.
    pub price_context: BTreeMap<String, String>,
    /// Hosted tools that have a fee per call, by component name, with the most calls that can happen if bounded.
    pub hosted_fees: Vec<(crate::domain::Component, Option<u64>)>,
    /// Units that the request itself states, such as characters to be spoken: booked where the answer does not say.
    pub known: Usage,
    /// What the body says about the caller: `user`, `metadata.user_id`, …: claimed only, values cut at 256 bytes.
    pub claimed: BTreeMap<String, String>,
}

impl CallFacts {
    /// A call of an endpoint, nothing else known of it.
    pub fn of(endpoint: &'static str, metering: Metering) -> CallFacts {
        CallFacts {
            endpoint,
            metering,
            billing: if endpoint == "embeddings" { Billing::Input } else { Billing::Tokens },
            model: None,
            model_in_body: false,
            stream: false,
            asked_for_usage: false,
            tools_offered: 0,
            output_cap: None,
            output_cap_field: None,
            choices: 1,
            input_bytes: 0,
            input_allowance: 0,
            unbounded: false,
            job: false,
            response_id: None,
            continues: None,
            price_context: BTreeMap::new(),
            hosted_fees: Vec::new(),
            known: Usage::new(),
            claimed: BTreeMap::new(),
        }
    }
}

/// The permitted changes of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Add `stream_options.include_usage`.
    pub include_usage: bool,
    /// Write this output cap (tokens per choice).
    pub output_cap: Option<u64>,
    /// Ask for this model instead; only where [`CallFacts::model_in_body`].
    pub model: Option<String>,
}

/// How the answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The upstream closed it properly.
    Complete,
    /// The connection broke, or it fell silent.
    UpstreamDied,
    /// The caller hung up and the rest was not read.
    CallerLeft,
}

/// Whether more is to come after a piece of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// The answer's last event has been read and is held back: settle, then send [`Tap::release`] and whatever follows.
    Last,
}

/// How an answer ended, seen as a meter sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Success.
    #[default]
    Ok,
    /// An error status, or an error inside a 200.
    Error,
    /// A stream that stopped without its terminal event, a body that is not whole.
    Truncated,
    /// Accepted, runs on at the vendor: no usage yet.
    Pending,
}

/// [`Observation::error`] of a 200 that is no answer of the provider: a page of a proxy in between, most likely.
pub const NOT_JSON: &str = "not_json";

/// What was read out of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    pub verdict: Verdict,
    pub usage: Option<Usage>,
    /// Billed tokens outside the top level, with their own model where it differs (advisor, compaction, inner models).
    pub side_usage: Vec<(Option<String>, Usage)>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub provider_request_id: Option<String>,
    /// As the vendor wrote it.
    pub finish_reason_raw: Option<String>,
    /// stop, length, tool_calls, content_filter, refusal, pause, error, cancelled, other.
    pub finish_reason: Option<&'static str>,
    pub tools_called: u32,
    /// In order of appearance, with repetitions, at most 64.
    pub tool_names: Vec<String>,
    /// Tools the provider executed itself.
    pub server_tool_calls: u32,
    /// Modifiers of the price that the answer states (`service_tier`, `speed`, `inference_geo`, …).
    pub price_context: BTreeMap<String, String>,
    pub service_tier: Option<String>,
    /// The cost the vendor states itself.
    pub vendor_cost: Option<crate::domain::Money>,
    /// The usage object as it came, at most 4 KiB.
    pub vendor_usage: Option<String>,
    /// The vendor's error type or message class, for an error.
    pub error: Option<String>,
    /// Text generated (answer, reasoning, tool arguments), kept for counting: at most 256 KiB, `output_bytes` counts all.
    pub output_text: String,
    pub output_bytes: u64,
    /// Tokens of reasoning that passed encrypted, estimated from its length; not in `output_text`.
    pub hidden_tokens: u64,
    /// The answer did not state all usage although it was metered work: count what `usage` lacks (a broken-off
    /// Anthropic stream states its input, but not its output).
    pub usage_missing: bool,
    pub flags: Vec<&'static str>,
}

/// Reads an answer as it passes. Never delays or alters what need not be: only the last event waits for the settlement,
/// and only the usage chunk that we asked for ourselves is dropped. Memory is bounded whatever arrives.
pub trait Tap: Send {
    /// Takes the next bytes of the body and appends what may go to the caller now to `pass`.
    fn feed(&mut self, bytes: Bytes, pass: &mut Vec<Bytes>) -> Progress;
    /// The body ended: what was seen. Callable once, before or after the last event.
    fn finish(&mut self, end: End) -> Observation;
    /// Output tokens that have passed so far, reckoned from the length of their text at a few nanoseconds a call: for
    /// watching a call that runs. What it costs is counted when it ends.
    fn output_so_far(&mut self) -> u64;
    /// What was held back: to be sent after the settlement. Empty if nothing was.
    fn release(&mut self, pass: &mut Vec<Bytes>);
}

/// The caller's client, as far as its way of handling errors differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    #[default]
    Other,
    /// Re-sends 401, 402 and 403; understands `usage_limit_reached`.
    Codex,
    ClaudeCode,
}

/// An error answer in the caller's dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalResponse {
    pub status: u16,
    /// Beside `content-type`: `retry-after`, `x-should-retry`.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// What cannot be read in a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialectError(pub String);

/// One provider's protocol.
pub trait Dialect: Send + Sync {
    fn name(&self) -> &'static str;
    /// Facts of a request. The body is what arrived, decoded from gzip or zstd.
    fn read_request(&self, head: &RequestHead, body: &[u8]) -> Result<CallFacts, DialectError>;
    /// The body with the permitted edits; every other byte as it was.
    fn edit(&self, facts: &CallFacts, body: &Bytes, edit: &Edit) -> Bytes;
    /// Names of the tools offered, and the types of those that the provider runs itself; none where this dialect does not
    /// read them. Only asked for where a policy does.
    fn tool_names(&self, _facts: &CallFacts, _body: &[u8]) -> Option<Vec<String>> {
        None
    }
    /// The text the model reads, for counting where the vendor does not say: at most 256 KiB.
    fn prompt_text(&self, facts: &CallFacts, body: &[u8]) -> String;
    /// A reader for the answer. `drop_usage`: we asked for the usage chunk, the caller did not.
    fn tap(&self, facts: &CallFacts, head: &ResponseHead, drop_usage: bool) -> Box<dyn Tap>;
    /// A refusal before the first byte.
    fn refuse(&self, refusal: &Refusal, call_id: &str, client: Client) -> RefusalResponse;
    /// A refusal inside a running stream: the bytes of the dialect's error event (and end marker).
    fn cut(&self, facts: &CallFacts, refusal: &Refusal, client: Client) -> Bytes;
    /// Adds the provider's own credential.
    fn authorize(&self, headers: &mut HeaderMap, secret: &SecretString);
    /// Signs a request that is otherwise complete, where the credential is one that signs.
    fn sign(&self, _headers: &mut HeaderMap, _request: &Signing, _secret: &SecretString) {}
}

/// A request as it will be sent, for those who sign it.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    pub method: &'a Method,
    pub url: &'a http::Uri,
    pub body: &'a [u8],
    pub at: jiff::Timestamp,
}

/// The dialect of a provider's `dialect` setting: look-alikes are `openai`. None for protocols that are not read yet.
pub fn named(name: &str) -> Option<&'static dyn Dialect> {
    match name {
        "anthropic" => Some(&anthropic::Anthropic),
        "gemini" => Some(&gemini::AI_STUDIO),
        "vertex" => Some(&gemini::VERTEX),
        "bedrock" => Some(&bedrock::Bedrock),
        "cohere" => Some(&cohere::Cohere),
        "ollama" => Some(&ollama::Ollama),
        "azure-openai" => Some(&openai::Azure),
        _ => Some(&openai::OpenAi),
    }
}

/// The most common mistake in setting up a client: a base URL that ends in `/v1` where the client adds it too.
pub fn path_mistake(path: &str) -> Option<String> {
    let doubled =
        path.split('/').collect::<Vec<_>>().windows(2).any(|w| w[0] == w[1] && matches!(w[0], "v1" | "v1beta"));
    doubled.then(|| {
        format!(
            "`{}` has its version twice: the client adds `/v1` itself, so take it off the end of your base URL",
            path.chars().take(100).collect::<String>()
        )
    })
}

/// `retry-after` only where a retry makes sense, capped at 30 s: SDKs sleep as long as it says. All else says plainly
/// that a retry makes none.
fn retry_headers(refusal: &Refusal) -> Vec<(&'static str, String)> {
    let seconds = match refusal.code.status() {
        429 => refusal.retry_after_s.unwrap_or(5),
        503 => refusal.retry_after_s.unwrap_or(2),
        408 => return Vec::new(),
        _ => return vec![("x-should-retry", "false".into())],
    };
    vec![("retry-after", seconds.clamp(1, 30).to_string())]
}
