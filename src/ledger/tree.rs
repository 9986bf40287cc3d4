//! The Merkle tree over the leaves (RFC 6962, section 2.1): running root, proofs, and their verification.
//!
//! A running tree needs only its right edge. Proofs are made from the hashes of perfect subtrees, asked for by
//! (level, index): level 0 is leaf hashes, the node (l, i) covers the leaves i·2^l to (i+1)·2^l. [`place_in_tile`] says
//! where such a node is found in tiles of height 8 as C2SP tlog-tiles has them.

use sha2::{Digest, Sha256};

use super::leaf::Hash;

/// Levels per tile.
pub const TILE_HEIGHT: u8 = 8;

/// Why a tree cannot be built or a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("a tree of {size} leaves has {} edge hashes, not {found}", size.count_ones())]
    Edge { size: u64, found: usize },
    #[error("there is no leaf {index} in a tree of {size}")]
    OutOfRange { index: u64, size: u64 },
    #[error("the proof does not lead to the root")]
    Mismatch,
    #[error("the proof has too few or too many hashes")]
    Length,
}

/// RFC 6962 node hash: `SHA-256(01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the empty tree: the hash of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A growing tree, kept as the roots of its perfect subtrees, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    edge: Vec<Hash>,
}

impl Tree {
    pub fn new() -> Tree {
        Tree::default()
    }

    /// The tree whose [`Tree::edge`] was kept.
    pub fn from_edge(size: u64, edge: Vec<Hash>) -> Result<Tree, TreeError> {
        if edge.len() != size.count_ones() as usize {
            return Err(TreeError::Edge { size, found: edge.len() });
        }
        Ok(Tree { size, edge })
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // An edge has one hash per set bit of the size, so each trailing one has its hash.
            if let Some(left) = self.edge.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        fold(&self.edge)
    }

    pub fn edge(&self) -> &[Hash] {
        &self.edge
    }
}

// Perfect subtrees, largest first, hashed together from the right.
fn fold(edge: &[Hash]) -> Hash {
    let mut hashes = edge.iter().rev();
    match hashes.next() {
        None => empty_root(),
        Some(last) => hashes.fold(*last, |right, left| node_hash(left, &right)),
    }
}

/// The root over these leaf hashes.
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

/// Where the node (level, index) is found in tiles: the tile's level and index, and the row of its hashes whose root is
/// the node. A tile of level L holds the nodes of tree level 8·L, 256 each.
pub fn place_in_tile(level: u8, index: u64) -> (u8, u64, std::ops::Range<usize>) {
    let (tile_level, above) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
    let first = index << above;
    let within = (first % 256) as usize;
    (tile_level, first / 256, within..within + (1 << above))
}

/// Hash of the leaves `from..to`, where `from` is a multiple of the largest power of two not over the length: every
/// range RFC 6962 asks for is.
fn range_hash<E>(from: u64, to: u64, fetch: &mut impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let mut edge = Vec::new();
    let mut at = from;
    while at < to {
        let level = (to - at).ilog2() as u8;
        edge.push(fetch(level, at >> level)?);
        at += 1 << level;
    }
    Ok(fold(&edge))
}

// The largest power of two smaller than n; n is at least 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The path that proves leaf `index` to be in the tree of `size` leaves. `index` must be below `size`, else it is empty.
pub fn inclusion<E>(index: u64, size: u64, mut fetch: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    if index >= size {
        return Ok(path);
    }
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range_hash(middle, to, &mut fetch)?);
            to = middle;
        } else {
            path.push(range_hash(from, middle, &mut fetch)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is the beginning of the tree of `new`. Empty if either is: nothing to prove.
pub fn consistency<E>(old: u64, new: u64, mut fetch: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let (mut from, mut to, mut proof) = (0, new, Vec::new());
    if old == 0 || old >= new {
        return Ok(proof);
    }
    // Narrow to the subtree whose right end is the old tree's; what falls off on the way is the proof.
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(range_hash(middle, to, &mut fetch)?);
            to = middle;
        } else {
            proof.push(range_hash(from, middle, &mut fetch)?);
            from = middle;
        }
    }
    if from != 0 {
        proof.push(range_hash(from, to, &mut fetch)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `path` leads from the leaf to the root (RFC 9162, section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> Result<(), TreeError> {
    if index >= size {
        return Err(TreeError::OutOfRange { index, size });
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return Err(TreeError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(TreeError::Length);
    }
    if hash == *root { Ok(()) } else { Err(TreeError::Mismatch) }
}

/// Whether `proof` shows the old tree to be the beginning of the new (RFC 9162, section 2.1.4.2).
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), TreeError> {
    if old > new {
        return Err(TreeError::OutOfRange { index: old, size: new });
    }
    if old == new || old == 0 {
        let expected = if old == 0 { empty_root() } else { *new_root };
        return match (proof.is_empty(), expected == *old_root) {
            (false, _) => Err(TreeError::Length),
            (true, false) => Err(TreeError::Mismatch),
            (true, true) => Ok(()),
        };
    }
    // A power of two is itself a node of the new tree, and the proof leaves it out.
    let (first, rest) = match proof.split_first() {
        _ if old.is_power_of_two() => (*old_root, proof),
        Some((first, rest)) => (*first, rest),
        None => return Err(TreeError::Length),
    };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for step in rest {
        if last == 0 {
            return Err(TreeError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(TreeError::Length);
    }
    if old_hash == *old_root && new_hash == *new_root { Ok(()) } else { Err(TreeError::Mismatch) }
}

#[cfg(test)]
mod tests;
