//! The state as bytes, and back: whole, or without the catalogue, which a sealed snapshot has beside it.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Accounts, Allotments, BudgetIndex, CallId, Map, Micros, Open, Outbox, Staging, State, legacy};
use crate::ledger::declared;

/// Version of the encoded state.
const STATE_VERSION: u16 = 4;
/// Without the catalogue, which lies beside it.
const APART_VERSION: u16 = 5;
// 1, 2 and 3 are still read: the state, the same with staged changes at its end, and without the catalogue.
const MAGIC: &[u8; 4] = b"WBST";
// Writing into memory cannot fail, and every type here has a length.
const PLAIN: &str = "a state is plain data that postcard can write";

/// A state without its catalogue, as it is read.
type Apart = (
    u64,
    Micros,
    Map<u64, Arc<Open>>,
    Accounts,
    Map<(CallId, u8), u64>,
    Map<String, Map<String, u64>>,
    Allotments,
    Option<Staging>,
    Outbox,
);

/// Why bytes are not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("not a state of the ledger")]
    Foreign,
    #[error("the state has format {found}, this program knows {APART_VERSION}")]
    Version { found: u16 },
    #[error("the state does not decode: {0}")]
    Damaged(String),
}

fn damaged(error: impl ToString) -> StateError {
    StateError::Damaged(error.to_string())
}

/// Version and what follows it.
fn opened(bytes: &[u8]) -> Result<(u16, &[u8]), StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(StateError::Foreign)?;
    Ok((u16::from_be_bytes(*version), rest))
}

/// One value and nothing behind it. Not borrowed, so that what is read here may be of an older type.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    let (value, left) = postcard::take_from_bytes(bytes).map_err(damaged)?;
    end(left).map(|()| value)
}

fn end(left: &[u8]) -> Result<(), StateError> {
    if left.is_empty() { Ok(()) } else { Err(StateError::Damaged(format!("{} bytes left over", left.len()))) }
}

impl State {
    /// The state as bytes: a version envelope around postcard. Equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(STATE_VERSION.to_be_bytes());
        postcard::to_extend(self, bytes).expect(PLAIN)
    }

    /// The state without its catalogue, which is large, changes rarely, and is kept beside it. Equal states give equal bytes.
    pub fn encode_apart(&self) -> Vec<u8> {
        let State { next_seq, last_ts, open, accounts, by_call, jobs, allotments, staging, outbox, .. } = self;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(APART_VERSION.to_be_bytes());
        let rest = (next_seq, last_ts, open, accounts, by_call, jobs, allotments, staging, outbox);
        postcard::to_extend(&rest, bytes).expect(PLAIN)
    }

    /// Reads what [`State::encode_apart`] wrote, with the catalogue that belongs to it as [`declared::encode`] wrote it.
    pub fn decode_apart(bytes: &[u8], catalogue: &[u8]) -> Result<State, StateError> {
        let (version, rest) = opened(bytes)?;
        match version {
            APART_VERSION => {}
            3 => return Ok(whole::<legacy::Apart>(rest)?.into_state(whole(catalogue)?).restored()),
            found => return Err(StateError::Version { found }),
        }
        let (rest, left): (Apart, &[u8]) = postcard::take_from_bytes(rest).map_err(damaged)?;
        end(left)?;
        let (next_seq, last_ts, open, accounts, by_call, jobs, allotments, staging, outbox) = rest;
        let catalogue = Arc::new(declared::decode(catalogue).map_err(damaged)?);
        let index = BudgetIndex::default();
        let state =
            State { next_seq, last_ts, catalogue, open, accounts, by_call, jobs, allotments, staging, outbox, index };
        Ok(state.restored())
    }

    /// Makes what is derived again, after the rest was read.
    fn restored(mut self) -> State {
        Arc::make_mut(&mut self.catalogue).restore();
        for budget in self.catalogue.budgets.values() {
            self.index.replace(None, Some(budget));
        }
        // Since when is not known any more, so every open call is looked at.
        self.index.changed_at = self.next_seq;
        if let Some(staging) = &mut self.staging {
            staging.restore(&self.catalogue, &self.index);
        }
        self
    }

    /// Reads what [`State::encode`] wrote, or an older version of this program.
    pub fn decode(bytes: &[u8]) -> Result<State, StateError> {
        let (version, rest) = opened(bytes)?;
        match version {
            STATE_VERSION => {}
            1 => return Ok(whole::<legacy::Whole>(rest)?.into_state(None).restored()),
            2 => {
                let (old, rest) = postcard::take_from_bytes::<legacy::Whole>(rest).map_err(damaged)?;
                return Ok(old.into_state(Some(whole(rest)?)).restored());
            }
            found => return Err(StateError::Version { found }),
        }
        let (state, left): (State, &[u8]) = postcard::take_from_bytes(rest).map_err(damaged)?;
        end(left)?;
        Ok(state.restored())
    }
}
