//! The state as bytes, and back: whole, or without the catalogue, which a sealed snapshot has beside it.

use std::sync::Arc;

use super::{Accounts, BudgetIndex, CallId, Catalogue, Map, Micros, Open, Staging, State};

/// Version of the encoded state.
const STATE_VERSION: u16 = 1;
/// The same with staged changes at its end: written only while there are some.
const STAGED_VERSION: u16 = 2;
/// Without the catalogue, which lies beside it.
const APART_VERSION: u16 = 3;
const MAGIC: &[u8; 4] = b"WBST";

/// A state without its catalogue, as it is read.
type Apart = (
    u64,
    Micros,
    Map<u64, Arc<Open>>,
    Accounts,
    Map<(CallId, u8), u64>,
    Map<String, Map<String, u64>>,
    Option<Staging>,
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

impl State {
    /// The state as bytes: a version envelope around postcard. Equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(if self.staging.is_some() { STAGED_VERSION } else { STATE_VERSION }.to_be_bytes());
        // Writing into memory cannot fail, and every type here has a length.
        const PLAIN: &str = "a state is plain data that postcard can write";
        let bytes = postcard::to_extend(self, bytes).expect(PLAIN);
        match &self.staging {
            Some(staging) => postcard::to_extend(staging, bytes).expect(PLAIN),
            None => bytes,
        }
    }

    /// The state without its catalogue, which is large, changes rarely, and is kept beside it. Equal states give equal bytes.
    pub fn encode_apart(&self) -> Vec<u8> {
        let State { next_seq, last_ts, open, accounts, by_call, jobs, staging, .. } = self;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(APART_VERSION.to_be_bytes());
        let rest = (next_seq, last_ts, open, accounts, by_call, jobs, staging);
        postcard::to_extend(&rest, bytes).expect("a state is plain data that postcard can write")
    }

    /// Reads what [`State::encode_apart`] wrote, with the catalogue that belongs to it.
    pub fn decode_apart(bytes: &[u8], catalogue: Catalogue) -> Result<State, StateError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(StateError::Foreign)?;
        match u16::from_be_bytes(*version) {
            APART_VERSION => {}
            found => return Err(StateError::Version { found }),
        }
        let damaged = |e: postcard::Error| StateError::Damaged(e.to_string());
        let (rest, left): (Apart, &[u8]) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let (next_seq, last_ts, open, accounts, by_call, jobs, staging) = rest;
        if !left.is_empty() {
            return Err(StateError::Damaged(format!("{} bytes left over", left.len())));
        }
        let (catalogue, index) = (Arc::new(catalogue), BudgetIndex::default());
        let state = State { next_seq, last_ts, catalogue, open, accounts, by_call, jobs, index, staging };
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

    /// Reads what [`State::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<State, StateError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(StateError::Foreign)?;
        let staged = match u16::from_be_bytes(*version) {
            STATE_VERSION => false,
            STAGED_VERSION => true,
            found => return Err(StateError::Version { found }),
        };
        let damaged = |e: postcard::Error| StateError::Damaged(e.to_string());
        let (mut state, mut left): (State, &[u8]) = postcard::take_from_bytes(rest).map_err(damaged)?;
        if staged {
            let (staging, rest) = postcard::take_from_bytes(left).map_err(damaged)?;
            (state.staging, left) = (Some(staging), rest);
        }
        if !left.is_empty() {
            return Err(StateError::Damaged(format!("{} bytes left over", left.len())));
        }
        Ok(state.restored())
    }
}
