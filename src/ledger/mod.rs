//! The truth: entries, their canonical bytes, the Merkle tree over them, and the state machine they drive.
//!
//! Everything here is pure: no clock, no I/O, no randomness. `decide` turns a request into entries, `apply` turns an entry
//! into a new state; replay only applies, so that a later version of the rules cannot change history.

mod accounts;
mod admit;
pub mod cbor;
pub mod codec;
pub mod decide;
mod declare;
pub mod entry;
mod field;
mod index;
pub mod leaf;
pub mod note;
pub mod proof;
pub mod request;
pub mod state;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod trust;

pub use accounts::Position;
