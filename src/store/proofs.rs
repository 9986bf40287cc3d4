//! Proofs over the stored tiles: one entry as a `.tlog-proof`, and that an older tree is the beginning of a newer one.

use std::collections::BTreeMap;

use crate::ledger::proof::{Disclosed, Proof};
use crate::ledger::tree;

use super::StoreError;
use super::keys::split;
use super::reader::Reader;
use super::signer::Signed;

/// Groups a proof shows: what was metered, and the vendor's own usage object. Network, person and content stay closed.
const SHOWN: [u8; 1] = [4];

impl Reader {
    /// The proof of an entry in the tree of a checkpoint; with the way from the tree of `since` entries, if named.
    pub fn proof(&self, seq: u64, signed: &Signed, since: Option<u64>) -> Result<Proof, StoreError> {
        if seq >= signed.size {
            return Err(StoreError::Refused(format!("entry {seq} is not in a tree of {} entries", signed.size)));
        }
        let stored = self.journal.read(seq, 1, true)?;
        let stored = stored.first().ok_or_else(|| StoreError::Refused(format!("there is no entry {seq}")))?;
        // Opened first: what does not fit its own hashes is not handed out as proof.
        self.open(stored)?;
        let mut groups = BTreeMap::from([(0, (stored.raw.salt, stored.raw.body.clone()))]);
        let shown = stored.groups.iter().filter(|(group, _)| SHOWN.contains(group));
        groups.extend(shown.filter_map(|(group, value)| Some((*group, split(value)?))));
        let consistency = match since {
            Some(since) => Some((since, self.consistency(since, signed.size)?)),
            None => None,
        };
        let disclosed = Disclosed { leaf: stored.raw.leaf.clone(), groups, consistency };
        let mut nodes = self.nodes(signed.size);
        let path = tree::inclusion(seq, signed.size, |level, index| nodes.node(level, index))?;
        Ok(Proof { extra: Some(disclosed.encode()), index: seq, path, checkpoint: signed.note.clone() })
    }

    /// The proof that the tree of `old` entries is the beginning of the tree of `new`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<[u8; 32]>, StoreError> {
        if old > new {
            return Err(StoreError::Refused(format!("a tree of {old} entries is not the beginning of one of {new}")));
        }
        let mut nodes = self.nodes(new);
        tree::consistency(old, new, |level, index| nodes.node(level, index))
    }
}
