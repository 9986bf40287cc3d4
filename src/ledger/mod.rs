//! The truth: entries, their canonical bytes, the Merkle tree over them, and the state machine they drive.
//!
//! Everything here is pure: no clock, no I/O, no randomness. `decide` turns a request into entries, `apply` turns an entry
//! into a new state; replay only applies, so that a later version of the rules cannot change history.

mod accounts;
mod admit;
mod allot;
pub mod cbor;
pub mod codec;
pub mod decide;
mod declare;
pub mod declared;
pub mod entry;
mod field;
pub mod index;
pub mod leaf;
pub mod note;
pub mod opening;
pub mod outbox;
pub mod proof;
mod raise;
pub mod request;
mod staging;
mod standing;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod tree;
pub mod trust;
mod words;

pub use accounts::Position;
pub use allot::Allocated;
pub use declare::counts_anew;
pub use raise::{KEY_WARNINGS, default_route, due, owner_of};
pub use standing::Standing;
