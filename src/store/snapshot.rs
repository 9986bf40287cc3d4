//! The carried state at one instant: what a month's file begins with, and what makes a start quick.
//!
//! The *sealed* snapshot lies in the month's file; its SHA-256 stands in the SNAPSHOT entry that opens the month, so that
//! the month replays alone. It has no names of persons, which must stay erasable: they lie beside it, sealed under the
//! organisation's data key, and are in no hash. The *running* one is the side file `state.snapshot`: derived, written now and then, and
//! thrown away when it does not fit the journal.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{Change, Owner};
use crate::ledger::entry::{Body, Erasable, Person};
use crate::ledger::state::State;
use crate::ledger::tree::Tree;

use super::tiles::Tiles;

/// Name of the running snapshot's file.
pub const FILE: &str = "state.snapshot";
/// Version of the envelope.
const VERSION: u8 = 1;

/// State and tree before the entry with sequence `size`.
#[derive(Clone)]
pub struct Carried {
    pub epoch: u64,
    pub state: State,
    pub tree: Tree,
    pub tiles: Tiles,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    epoch: u64,
    size: u64,
    edge: Vec<[u8; 32]>,
    unfinished: Vec<Vec<[u8; 32]>>,
    state: Vec<u8>,
}

impl Carried {
    /// Before the first entry.
    pub fn genesis(epoch: u64) -> Carried {
        Carried { epoch, state: State::new(), tree: Tree::new(), tiles: Tiles::default() }
    }

    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Without the names of persons: what a sealed snapshot has, whose hash outlives their erasure.
    pub fn without_persons(&self) -> Carried {
        Carried { state: self.state.without_persons(), ..self.clone() }
    }

    /// The names of persons, to be sealed beside the snapshot. Empty where there are none.
    pub fn persons(&self) -> Vec<u8> {
        let named = self.state.catalogue().owners.values().filter(|o| o.name.is_some() || o.email.is_some());
        let named: Vec<&Owner> = named.map(|owner| &**owner).collect();
        if named.is_empty() {
            return Vec::new();
        }
        postcard::to_extend(&named, vec![VERSION]).expect("writing to memory does not fail")
    }

    /// Takes the names in again.
    pub fn recall_persons(&mut self, bytes: &[u8]) -> Result<(), String> {
        let rest = bytes.strip_prefix(&[VERSION]).ok_or("the carried names are of a version not known here")?;
        let owners: Vec<Owner> = postcard::from_bytes(rest).map_err(|e| format!("the carried names: {e}"))?;
        for owner in owners {
            let claimed = [("name", owner.name.clone()), ("email", owner.email.clone())];
            let claimed = claimed.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect();
            let person = Some(Person { claimed, reason: None });
            let change = Box::new(Change::Owner(owner.id.clone(), Some(owner)));
            let body = Body::Catalogue { actor: String::new(), change };
            self.state.recall(&body, &Erasable { person, ..Erasable::default() });
        }
        Ok(())
    }

    /// A version byte, then postcard of (epoch, size, edge, unfinished tiles, encoded state).
    pub fn encode(&self) -> Vec<u8> {
        let envelope = Envelope {
            epoch: self.epoch,
            size: self.tree.size(),
            edge: self.tree.edge().to_vec(),
            unfinished: self.tiles.levels().to_vec(),
            state: self.state.encode(),
        };
        postcard::to_extend(&envelope, vec![VERSION]).expect("writing to memory does not fail")
    }

    pub fn decode(bytes: &[u8]) -> Result<Carried, String> {
        let rest = match bytes.split_first() {
            Some((&VERSION, rest)) => rest,
            Some((version, _)) => return Err(format!("snapshot version {version} is not known to this version")),
            None => return Err("the snapshot is empty".into()),
        };
        let envelope: Envelope =
            postcard::from_bytes(rest).map_err(|e| format!("the snapshot does not decode: {e}"))?;
        let state = State::decode(&envelope.state).map_err(|e| format!("the snapshot's state does not decode: {e}"))?;
        let tree = Tree::from_edge(envelope.size, envelope.edge).map_err(|e| format!("the snapshot's tree: {e}"))?;
        let tiles = Tiles::from_levels(envelope.size, envelope.unfinished).ok_or("the snapshot's tiles do not fit")?;
        if state.next_seq() != envelope.size {
            return Err(format!(
                "the snapshot's state is of entry {}, its tree of {}",
                state.next_seq(),
                envelope.size
            ));
        }
        Ok(Carried { epoch: envelope.epoch, state, tree, tiles })
    }

    /// The running snapshot's file: SHA-256 of the rest, then the encoded snapshot.
    pub fn to_file(&self) -> Vec<u8> {
        let encoded = self.encode();
        let mut file = Sha256::digest(&encoded).to_vec();
        file.extend_from_slice(&encoded);
        file
    }

    pub fn from_file(file: &[u8]) -> Result<Carried, String> {
        let (hash, encoded) = file.split_first_chunk::<32>().ok_or("the snapshot is cut short")?;
        if Sha256::digest(encoded).as_slice() != hash {
            return Err("the snapshot does not fit its hash".into());
        }
        Carried::decode(encoded)
    }
}
