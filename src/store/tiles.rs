//! The tree's hashes in tiles of 256 (C2SP tlog-tiles, height 8): what proofs are made from.
//!
//! A tile (level, index) has the hashes 256·index to 256·index + 255 of tree level 8·level. Only full tiles are stored,
//! by the commit that fills them; the unfinished ones on the right edge are kept here and can be made again from the
//! blocks and the tiles below.

use crate::ledger::tree;

/// Hashes in a tile.
pub const WIDTH: u64 = 256;
/// Bytes of a stored tile.
pub const BYTES: usize = 8_192;

/// A full tile: level, index, 8,192 bytes.
pub type Tile = (u8, u64, Vec<u8>);

/// The unfinished tiles on the right edge of the tree, lowest level first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiles {
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tiles {
    /// From the unfinished tiles of a tree of `size` leaves; `None` if their lengths cannot be of that size.
    pub fn from_levels(size: u64, levels: Vec<Vec<[u8; 32]>>) -> Option<Tiles> {
        let fits = (0..8u32).all(|level| {
            let hashes = size >> (8 * level);
            levels.get(level as usize).map_or(0, Vec::len) as u64 == hashes % WIDTH
        });
        (fits && levels.len() <= 8).then_some(Tiles { levels })
    }

    pub fn levels(&self) -> &[Vec<[u8; 32]>] {
        &self.levels
    }

    /// Whether both have the same unfinished tiles; a level without any is as good as none.
    pub fn levels_equal(&self, other: &Tiles) -> bool {
        let level = |tiles: &Tiles, n: usize| tiles.levels.get(n).cloned().unwrap_or_default();
        (0..self.levels.len().max(other.levels.len())).all(|n| level(self, n) == level(other, n))
    }

    /// Adds the leaf hash with index `index`; tiles that are full now go to `full`.
    pub fn push(&mut self, index: u64, leaf: [u8; 32], full: &mut Vec<Tile>) {
        let mut hash = leaf;
        for level in 0u8.. {
            let position = usize::from(level);
            if self.levels.len() == position {
                self.levels.push(Vec::new());
            }
            let tile = &mut self.levels[position];
            tile.push(hash);
            if (tile.len() as u64) < WIDTH {
                return;
            }
            hash = tree::root_of(tile);
            full.push((level, index >> (8 * (u32::from(level) + 1)), tile.concat()));
            tile.clear();
        }
    }
}

/// Sequence after the last leaf under a tile; `None` where there can be none.
pub fn tile_end(level: u8, index: u64) -> Option<u64> {
    let span = 1u64.checked_shl(8 * (u32::from(level) + 1))?;
    index.checked_add(1)?.checked_mul(span)
}

/// All hashes of a stored tile.
pub fn hashes(tile: &[u8]) -> Vec<[u8; 32]> {
    tile.as_chunks::<32>().0.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_made_of_the_roots_of_the_one_below() {
        let leaf = |n: u64| crate::ledger::leaf::leaf_hash(&n.to_le_bytes());
        let (mut tiles, mut full) = (Tiles::default(), Vec::new());
        let size = 256 * 256 + 300;
        for n in 0..size {
            tiles.push(n, leaf(n), &mut full);
        }
        let leaves: Vec<_> = (0..size).map(leaf).collect();
        assert_eq!(full.len(), 257 + 1);
        for (level, index, bytes) in &full {
            assert_eq!(bytes.len(), BYTES);
            let span = 1usize << (8 * level);
            for number in [0usize, 1, 255] {
                let from = (*index as usize * 256 + number) * span;
                assert_eq!(hashes(bytes)[number], tree::root_of(&leaves[from..from + span]), "{level} {index}");
            }
        }
        assert_eq!(Tiles::from_levels(size, tiles.levels().to_vec()), Some(tiles.clone()));
        assert_eq!(Tiles::from_levels(size + 1, tiles.levels().to_vec()), None);
    }
}
