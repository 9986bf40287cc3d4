//! The carried state at one instant: what a month's file begins with, and what makes a start quick.
//!
//! The *sealed* snapshot lies in the month's file; its SHA-256 stands in the SNAPSHOT entry that opens the month, so that
//! the month replays alone. The catalogue in it lies beside it as a value of its own, which the snapshot names by its
//! hash: it is encoded, hashed and on disk before the month turns. It has no names of persons, which must stay erasable:
//! they lie beside it, sealed under the organisation's data key, and are in no hash. The *running* one is the side file
//! `state.snapshot`: derived, written now and then, thrown away when it does not fit the journal, its names sealed too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{Catalogue, Change, Owner};
use crate::ledger::declared;
use crate::ledger::entry::{Body, Erasable, Person};
use crate::ledger::state::State;
use crate::ledger::tree::Tree;

use super::keys::{DataKeys, Place};
use super::tiles::Tiles;

/// Name of the running snapshot's file.
pub const FILE: &str = "state.snapshot";
/// Version of the envelope.
const VERSION: u8 = 1;
/// Of the one whose catalogue lies beside it.
const APART: u8 = 2;
/// Of the running snapshot's file, whose names of persons stand apart and sealed.
const NAMES_APART: u8 = 3;

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

/// A sealed snapshot without its catalogue, which it names by its hash.
#[derive(Serialize, Deserialize)]
struct Apart {
    epoch: u64,
    size: u64,
    edge: Vec<[u8; 32]>,
    unfinished: Vec<Vec<[u8; 32]>>,
    catalogue: [u8; 32],
    state: Vec<u8>,
}

/// The catalogue as it lies beside a sealed snapshot: made ahead, since it is large and changes rarely.
#[derive(Clone)]
pub struct Part {
    /// What it was made of, names of persons included.
    pub of: Arc<Catalogue>,
    pub sha256: [u8; 32],
    pub bytes: Arc<Vec<u8>>,
}

impl Part {
    /// Encodes and hashes a catalogue; names of persons are in no encoding of it.
    pub fn of(catalogue: Arc<Catalogue>) -> Part {
        let bytes = declared::encode(&catalogue);
        Part { of: catalogue, sha256: Sha256::digest(&bytes).into(), bytes: Arc::new(bytes) }
    }
}

impl Carried {
    /// A sealed snapshot whose catalogue lies beside it. `self` is without the names of persons, and `part` is made of
    /// the same catalogue.
    pub fn encode_apart(&self, part: &Part) -> Vec<u8> {
        let apart = Apart {
            epoch: self.epoch,
            size: self.tree.size(),
            edge: self.tree.edge().to_vec(),
            unfinished: self.tiles.levels().to_vec(),
            catalogue: part.sha256,
            state: self.state.encode_apart(),
        };
        postcard::to_extend(&apart, vec![APART]).expect("writing to memory does not fail")
    }

    /// Reads a sealed snapshot of either form. The hash of `snapshot` was found to be the one on record.
    pub fn decode_sealed(snapshot: &[u8], catalogue: Option<&[u8]>) -> Result<Carried, String> {
        let Some(rest) = snapshot.strip_prefix(&[APART]) else { return Carried::decode(snapshot) };
        let damaged = |e: postcard::Error| format!("the snapshot does not decode: {e}");
        let apart: Apart = postcard::from_bytes(rest).map_err(damaged)?;
        let catalogue = catalogue.ok_or("the catalogue beside the snapshot is missing")?;
        if Sha256::digest(catalogue).as_slice() != apart.catalogue {
            return Err("the catalogue beside the snapshot is not the one it names".into());
        }
        let state = State::decode_apart(&apart.state, catalogue).map_err(|e| format!("the snapshot's state: {e}"))?;
        Carried::assembled(apart.epoch, apart.size, apart.edge, apart.unfinished, state)
    }

    fn assembled(
        epoch: u64,
        size: u64,
        edge: Vec<[u8; 32]>,
        unfinished: Vec<Vec<[u8; 32]>>,
        state: State,
    ) -> Result<Carried, String> {
        let tree = Tree::from_edge(size, edge).map_err(|e| format!("the snapshot's tree: {e}"))?;
        let tiles = Tiles::from_levels(size, unfinished).ok_or("the snapshot's tiles do not fit")?;
        if state.next_seq() != size {
            return Err(format!("the snapshot's state is of entry {}, its tree of {size}", state.next_seq()));
        }
        Ok(Carried { epoch, state, tree, tiles })
    }

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
        let named: Vec<&Owner> = self.state.named_owners().collect();
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
        Carried::assembled(envelope.epoch, envelope.size, envelope.edge, envelope.unfinished, state)
    }
}

/// The running snapshot: the state without the names of persons, and those, sealed like a group 2 of the entry that is
/// next. A name in a file that anybody may read could not be erased.
pub struct Running {
    pub carried: Carried,
    pub persons: Option<Vec<u8>>,
}

impl Running {
    /// The file: SHA-256 of the rest; a version byte; length of the sealed names (4, little-endian) and the names; the
    /// encoded snapshot.
    pub fn to_file(&self) -> Vec<u8> {
        let persons = self.persons.as_deref().unwrap_or_default();
        let mut file = vec![0; 32];
        file.push(NAMES_APART);
        file.extend_from_slice(&(persons.len() as u32).to_le_bytes());
        file.extend_from_slice(persons);
        file.extend_from_slice(&self.carried.without_persons().encode());
        let hash = Sha256::digest(&file[32..]);
        file[..32].copy_from_slice(&hash);
        file
    }

    pub fn from_file(file: &[u8]) -> Result<Running, String> {
        let (hash, rest) = file.split_first_chunk::<32>().ok_or("the snapshot is cut short")?;
        if Sha256::digest(rest).as_slice() != hash {
            return Err("the snapshot does not fit its hash".into());
        }
        let Some(rest) = rest.strip_prefix(&[NAMES_APART]) else {
            return Ok(Running { carried: Carried::decode(rest)?, persons: None });
        };
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("the snapshot is cut short")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (persons, encoded) = rest.split_at_checked(length).ok_or("the snapshot is cut short")?;
        let persons = (!persons.is_empty()).then(|| persons.to_vec());
        Ok(Running { carried: Carried::decode(encoded)?, persons })
    }

    /// The snapshot with its names, as far as the keys open them.
    pub fn opened(self, keys: Option<&DataKeys>) -> Result<Carried, String> {
        let Running { mut carried, persons } = self;
        if let (Some(persons), Some(keys)) = (persons, keys) {
            let place = Place { epoch: carried.epoch, seq: carried.size(), group: 2 };
            if let Some((_, names)) = keys.open_group(&place, &persons).map_err(|e| e.to_string())? {
                carried.recall_persons(&names)?;
            }
        }
        Ok(carried)
    }
}
