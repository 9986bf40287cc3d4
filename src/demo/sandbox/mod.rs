//! The sandbox: a provider inside the process that speaks OpenAI's and Anthropic's APIs as the vendors do.
//!
//! It stands on a loopback port and is reached over HTTP like any other provider, so that the demo and the tests go the
//! whole way. What it answers is prose without meaning; what is real is everything around it: dated snapshots, ids,
//! request ids, rate-limit headers, latency, the order of stream events, usage with cached and reasoning tokens, tool
//! calls, limits, errors. The same seed and request give the same answer. Faults on demand: [`faults`].

pub mod answer;
pub mod anthropic;
pub mod ask;
pub mod cache;
pub mod faults;
pub mod models;
pub mod openai;
pub mod pace;
pub mod responses;
mod serve;
#[cfg(test)]
mod tests;
pub mod wire;
mod words;

pub use super::random::Random;
pub use pace::Pace;
pub use serve::{Sandbox, Seen, Settings};
