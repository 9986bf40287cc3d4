//! How the entries of one commit lie in a value of `block.v1`, and their erasable groups in values of `group.v1`.
//!
//! All integers are little-endian. Nothing here is trusted when it is read: lengths are bounded by the value, and what
//! counts (leaf, commitment) is checked by hash by whoever reads for proof.
//!
//! | value of `block.v1`, key (epoch, sequence of the first entry) | bytes |
//! | --- | --- |
//! | version of the layout | 1: the number 1 |
//! | then for each entry, in sequence, until the value ends: | |
//! | length of the leaf | 2 |
//! | the leaf: deterministic CBOR, what the tree hashes | as said |
//! | length of salt and group 0 | 2 |
//! | salt of group 0 | 16 |
//! | group 0: deterministic CBOR | the rest |
//!
//! | value of `group.v1`, key (epoch, sequence of the block's first entry, group 1 to 4) | bytes |
//! | --- | --- |
//! | version of the layout | 1: the number 1 |
//! | then for each entry that has the group, in sequence: | |
//! | position of the entry in its block | 2 |
//! | length of what follows | 4 |
//! | groups 1 and 4: salt, then the group | 16 + group |
//! | groups 2 and 3: number of the data key, nonce, then AES-256-GCM of (salt, group), tag at the end | 4 + 12 + 16 + group + 16 |
//!
//! Groups stand in values of their own so that erasing one rewrites no entry. The associated data of a sealed group is
//! the text `group.v1` and (epoch, sequence, group) as 8 + 8 + 1 bytes: a value moved elsewhere does not open. A later
//! layout (large compressed blocks) takes another version; the leaves, and so the tree, stay the same.

use crate::domain::Micros;
use crate::ledger::codec;
use crate::ledger::entry::{Entry, Erasable, MAX_ENTRY_BYTES};
use crate::ledger::leaf::{self, Leaf};

/// Version of both layouts.
const LAYOUT: u8 = 1;
/// Bytes of a salt.
pub const SALT: usize = 16;
/// Most entries in one block.
pub const MAX_ENTRIES: usize = 1_000;
/// Longest erasable group of one entry, in bytes.
pub const MAX_GROUP_BYTES: usize = 1 << 20;

/// An entry as it lies in a block, not yet looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub leaf: Vec<u8>,
    pub salt: [u8; SALT],
    pub body: Vec<u8>,
}

impl Raw {
    /// Reads leaf and group 0 and checks one against the other, and both against the sequence they should have.
    pub fn open(&self, seq: u64) -> Result<(Leaf, Entry), String> {
        let leaf = Leaf::decode(&self.leaf).map_err(|e| format!("entry {seq}: {e}"))?;
        if leaf.seq != seq {
            return Err(format!("entry {seq} calls itself {}", leaf.seq));
        }
        if leaf.commitments.get(&0) != Some(&leaf::commitment(0, &self.salt, &self.body)) {
            return Err(format!("entry {seq}: group 0 does not fit its commitment"));
        }
        let body = codec::decode_body(leaf.kind, &self.body).map_err(|e| format!("entry {seq}: {e}"))?;
        let entry = Entry { seq, ts: leaf.ts, reference: leaf.reference, body };
        Ok((leaf, entry))
    }
}

/// An entry with its canonical bytes, ready for a block.
pub struct Prepared {
    pub raw: Raw,
    pub hash: [u8; 32],
    /// Groups 1 to 4 present: group, salt, bytes.
    pub groups: Vec<(u8, [u8; SALT], Vec<u8>)>,
}

impl Prepared {
    /// Makes the canonical bytes of an entry; `salt` gives fresh random salts. Refuses an entry that is too long.
    pub fn new(entry: &Entry, erasable: &Erasable, mut salt: impl FnMut() -> [u8; SALT]) -> Result<Prepared, String> {
        let body = codec::encode_body(&entry.body);
        let body_salt = salt();
        let mut commitments = std::collections::BTreeMap::new();
        commitments.insert(0u8, leaf::commitment(0, &body_salt, &body));
        let mut groups = Vec::new();
        for (group, bytes) in codec::encode_groups(erasable) {
            if bytes.len() > MAX_GROUP_BYTES {
                return Err(format!("group {group} has {} bytes, more than {MAX_GROUP_BYTES}", bytes.len()));
            }
            let salt = salt();
            commitments.insert(group, leaf::commitment(group, &salt, &bytes));
            groups.push((group, salt, bytes));
        }
        let kind = codec::kind_of(&entry.body);
        let leaf = Leaf { seq: entry.seq, ts: entry.ts, kind, reference: entry.reference, commitments }.encode();
        if leaf.len() + body.len() > MAX_ENTRY_BYTES - SALT {
            return Err(format!("the entry has {} bytes, more than {MAX_ENTRY_BYTES}", leaf.len() + body.len()));
        }
        let hash = leaf::leaf_hash(&leaf);
        Ok(Prepared { raw: Raw { leaf, salt: body_salt, body }, hash, groups })
    }
}

/// The values of one commit under construction.
pub struct Builder {
    pub first: u64,
    pub count: usize,
    pub block: Vec<u8>,
    /// Values of groups 1 to 4; empty where no entry has the group.
    pub groups: [Vec<u8>; 4],
    /// Journal time of the last entry.
    pub at: Micros,
}

impl Builder {
    pub fn new(first: u64) -> Builder {
        Builder { first, count: 0, block: vec![LAYOUT], groups: Default::default(), at: Micros(0) }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the next entry; `groups` are (group, value as stored).
    pub fn push(&mut self, at: Micros, raw: &Raw, groups: &[(u8, Vec<u8>)]) {
        let block = &mut self.block;
        block.extend_from_slice(&(raw.leaf.len() as u16).to_le_bytes());
        block.extend_from_slice(&raw.leaf);
        block.extend_from_slice(&((SALT + raw.body.len()) as u16).to_le_bytes());
        block.extend_from_slice(&raw.salt);
        block.extend_from_slice(&raw.body);
        for (group, bytes) in groups {
            let value = &mut self.groups[usize::from(*group) - 1];
            if value.is_empty() {
                value.push(LAYOUT);
            }
            value.extend_from_slice(&(self.count as u16).to_le_bytes());
            value.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            value.extend_from_slice(bytes);
        }
        self.count += 1;
        self.at = at;
    }
}

/// Splits a value of `block.v1` into its entries.
pub fn read_block(value: &[u8]) -> Result<Vec<Raw>, String> {
    let mut rest = versioned(value)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let leaf = take_sized(&mut rest, 2)?.to_vec();
        let salted = take_sized(&mut rest, 2)?;
        let (salt, body) = salted.split_first_chunk::<SALT>().ok_or("a salt is cut short")?;
        entries.push(Raw { leaf, salt: *salt, body: body.to_vec() });
        if entries.len() > MAX_ENTRIES {
            return Err(format!("a block has more than {MAX_ENTRIES} entries"));
        }
    }
    Ok(entries)
}

/// Splits a value of `group.v1` into (position in the block, bytes as stored).
pub fn read_groups(value: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    let mut rest = versioned(value)?;
    let mut groups = Vec::new();
    while !rest.is_empty() {
        let position = take(&mut rest, 2)?;
        groups.push((u16::from_le_bytes([position[0], position[1]]), take_sized(&mut rest, 4)?.to_vec()));
        if groups.len() > MAX_ENTRIES {
            return Err(format!("a block has more than {MAX_ENTRIES} groups of a kind"));
        }
    }
    Ok(groups)
}

fn versioned(value: &[u8]) -> Result<&[u8], String> {
    match value.split_first() {
        Some((&LAYOUT, rest)) => Ok(rest),
        Some((version, _)) => Err(format!("layout {version} of a block is not known to this version")),
        None => Err("a block is empty".into()),
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(n).ok_or("a block is cut short")?;
    *rest = tail;
    Ok(head)
}

fn take_sized<'a>(rest: &mut &'a [u8], width: usize) -> Result<&'a [u8], String> {
    let length = take(rest, width)?.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    take(rest, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reads_back_and_a_cut_one_is_refused() {
        let raw = |n: u8| Raw { leaf: vec![n; 5], salt: [n; SALT], body: vec![n; 300] };
        let mut builder = Builder::new(7);
        builder.push(Micros(1), &raw(1), &[]);
        builder.push(Micros(2), &raw(2), &[(1, vec![9; 20]), (4, vec![8; 70_000])]);
        assert_eq!(read_block(&builder.block).unwrap(), vec![raw(1), raw(2)]);
        assert_eq!(read_groups(&builder.groups[0]).unwrap(), vec![(1, vec![9; 20])]);
        assert_eq!(read_groups(&builder.groups[3]).unwrap(), vec![(1, vec![8; 70_000])]);
        assert!(builder.groups[1].is_empty());
        let whole = 1 + 2 + 5 + 2 + SALT + 300;
        for cut in (2..builder.block.len()).filter(|&cut| cut != whole) {
            assert!(read_block(&builder.block[..cut]).is_err(), "{cut}");
        }
        assert!(read_block(&[2]).unwrap_err().contains("layout 2"));
    }
}
