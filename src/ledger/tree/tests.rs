//! The tree against the published vectors and the naive definition of RFC 6962: roots, proofs, edges.

use std::collections::HashMap;
use std::convert::Infallible;

use super::*;
use crate::ledger::leaf::leaf_hash;

fn hex(hash: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

fn numbered(n: u64) -> Vec<Hash> {
    (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

/// RFC 6962's own recursive words over the leaves from..to; roots are kept, since every proof asks for the same ones.
struct Naive {
    leaves: Vec<Hash>,
    roots: HashMap<(usize, usize), Hash>,
}

impl Naive {
    fn new(leaves: &[Hash]) -> Naive {
        Naive { leaves: leaves.to_vec(), roots: HashMap::new() }
    }

    fn split(from: usize, to: usize) -> usize {
        from + (to - from).next_power_of_two() / 2
    }

    fn root(&mut self, from: usize, to: usize) -> Hash {
        match to - from {
            0 => Sha256::digest([]).into(),
            1 => self.leaves[from],
            _ => {
                if let Some(root) = self.roots.get(&(from, to)) {
                    return *root;
                }
                let k = Naive::split(from, to);
                let root = node_hash(&self.root(from, k), &self.root(k, to));
                self.roots.insert((from, to), root);
                root
            }
        }
    }

    fn path(&mut self, m: usize, from: usize, to: usize) -> Vec<Hash> {
        if to - from <= 1 {
            return Vec::new();
        }
        let k = Naive::split(from, to);
        let (mut path, other) =
            if m < k { (self.path(m, from, k), self.root(k, to)) } else { (self.path(m, k, to), self.root(from, k)) };
        path.push(other);
        path
    }

    fn subproof(&mut self, m: usize, from: usize, to: usize, whole: bool) -> Vec<Hash> {
        if m == to {
            return if whole { Vec::new() } else { vec![self.root(from, to)] };
        }
        let k = Naive::split(from, to);
        let (mut proof, other) = if m <= k {
            (self.subproof(m, from, k, whole), self.root(k, to))
        } else {
            (self.subproof(m, k, to, false), self.root(from, k))
        };
        proof.push(other);
        proof
    }
}

/// All perfect subtrees of these leaves, by level.
fn levels(leaves: &[Hash]) -> Vec<Vec<Hash>> {
    let mut levels = vec![leaves.to_vec()];
    while levels[levels.len() - 1].len() > 1 {
        let above = levels[levels.len() - 1].chunks_exact(2).map(|p| node_hash(&p[0], &p[1])).collect();
        levels.push(above);
    }
    levels
}

fn fetch(levels: &[Vec<Hash>]) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> {
    |level, index| Ok(levels[level as usize][index as usize])
}

fn rfc_leaves() -> Vec<Hash> {
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
        .map(|h| leaf_hash(&data_encoding::HEXLOWER.decode(h.as_bytes()).unwrap()))
        .to_vec()
}

#[test]
fn roots_are_those_of_the_published_vectors() {
    let leaves = rfc_leaves();
    for (size, start, end) in [
        (1, "6e340b9c", "afa01d"),
        (2, "fac54203", "e3c125"),
        (3, "aeb6bcfe", "e06e77"),
        (7, "ddb89be4", "a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328", ""),
    ] {
        let root = hex(&root_of(&leaves[..size]));
        assert!(root.starts_with(start) && root.ends_with(end), "{size}: {root}");
    }
    assert_eq!(hex(&Tree::new().root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn proofs_are_those_of_the_published_vectors() {
    let levels = levels(&rfc_leaves());
    let path = inclusion(5, 8, fetch(&levels)).unwrap();
    assert_eq!(
        path.iter().map(|h| hex(h)).collect::<Vec<_>>(),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
        ]
    );
    let proof = consistency(3, 7, fetch(&levels)).unwrap();
    assert_eq!(
        proof.iter().map(|h| hex(h)).collect::<Vec<_>>(),
        [
            "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7",
            "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "837dbb152e9b079010717e84e865da4ebc0fa198a806d59d31bf15accef22d0e"
        ]
    );
}

/// What `tlog_tiles` asks hashes from: its own layout, filled by itself.
struct Theirs(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Theirs {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::tlog::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

#[test]
fn l06_every_proof_up_to_300_leaves_equals_that_of_another_implementation() {
    let leaves = numbered(300);
    let levels = levels(&leaves);
    let mut theirs = Theirs(Vec::new());
    for (n, leaf) in (0u64..).zip(&leaves) {
        let added = tlog_tiles::stored_hashes_for_record_hash(n, tlog_tiles::Hash(*leaf), &theirs).unwrap();
        theirs.0.extend(added);
    }
    let plain = |hashes: Vec<tlog_tiles::Hash>| hashes.into_iter().map(|h| h.0).collect::<Vec<Hash>>();
    for n in 1..=300u64 {
        let root = root_of(&leaves[..n as usize]);
        let their_root = tlog_tiles::tree_hash(n, &theirs).unwrap();
        assert_eq!(their_root.0, root, "{n}");
        for m in 0..n {
            let path = inclusion(m, n, fetch(&levels)).unwrap();
            let their_path = tlog_tiles::prove_record(n, m, &theirs).unwrap();
            tlog_tiles::check_record(&their_path, n, their_root, m, tlog_tiles::Hash(leaves[m as usize])).unwrap();
            assert_eq!(plain(their_path), path, "{m} in {n}");
            let old = root_of(&leaves[..m as usize + 1]);
            let proof = consistency(m + 1, n, fetch(&levels)).unwrap();
            let their_proof = tlog_tiles::prove_tree(n, m + 1, &theirs).unwrap();
            tlog_tiles::check_tree(&their_proof, n, their_root, m + 1, tlog_tiles::Hash(old)).unwrap();
            assert_eq!(plain(their_proof), proof, "{} to {n}", m + 1);
        }
    }
}

#[test]
fn l06_every_proof_up_to_300_leaves_equals_the_naive_one_and_verifies() {
    let leaves = numbered(300);
    let (levels, mut naive) = (levels(&leaves), Naive::new(&leaves));
    let roots: Vec<Hash> = (0..=300).map(|n| naive.root(0, n)).collect();
    for n in 0..=300usize {
        assert_eq!(roots[n], root_of(&leaves[..n]), "{n}");
        for m in 0..=n {
            let (small, size) = (m as u64, n as u64);
            // Wrong ones for a part of the pairs: they fail alike.
            let spoil = (m + n) % 11 == 0;
            if m < n {
                let path = inclusion(small, size, fetch(&levels)).unwrap();
                assert_eq!(path, naive.path(m, 0, n), "{m} in {n}");
                verify_inclusion(&leaves[m], small, size, &path, &roots[n]).unwrap();
                assert!(!spoil || verify_inclusion(&leaves[(m + 1) % 300], small, size, &path, &roots[n]).is_err());
            }
            let proof = consistency(small, size, fetch(&levels)).unwrap();
            if m > 0 && m < n {
                assert_eq!(proof, naive.subproof(m, 0, n, true), "{m} to {n}");
            }
            verify_consistency(small, &roots[m], size, &roots[n], &proof).unwrap();
            assert!(!spoil || m == 0 || verify_consistency(small, &roots[m - 1], size, &roots[n], &proof).is_err());
        }
    }
}

#[test]
fn proofs_with_a_changed_missing_or_added_hash_fail() {
    let leaves = numbered(37);
    let levels = levels(&leaves);
    let (old, root) = (root_of(&leaves[..21]), root_of(&leaves));
    let path = inclusion(20, 37, fetch(&levels)).unwrap();
    let proof = consistency(21, 37, fetch(&levels)).unwrap();
    let spoiled = |hashes: &[Hash]| {
        let mut all: Vec<Vec<Hash>> = (0..hashes.len())
            .flat_map(|i| {
                let mut flipped = hashes.to_vec();
                flipped[i][3] ^= 1;
                let mut missing = hashes.to_vec();
                missing.remove(i);
                [flipped, missing]
            })
            .collect();
        all.push([hashes, &[[0; 32]]].concat());
        all
    };
    for bad in spoiled(&path) {
        assert!(verify_inclusion(&leaves[20], 20, 37, &bad, &root).is_err());
    }
    for bad in spoiled(&proof) {
        assert!(verify_consistency(21, &old, 37, &root, &bad).is_err());
    }
    assert!(verify_inclusion(&leaves[20], 37, 37, &path, &root).is_err());
}

#[test]
fn a_tree_goes_on_from_its_edge() {
    let leaves = numbered(100);
    let mut tree = Tree::new();
    for leaf in &leaves {
        let mut again = Tree::from_edge(tree.size(), tree.edge().to_vec()).unwrap();
        tree.push(*leaf);
        again.push(*leaf);
        assert_eq!(tree, again);
    }
    assert_eq!(tree.root(), Naive::new(&leaves).root(0, 100));
    assert_eq!(Tree::from_edge(3, vec![[0; 32]]), Err(TreeError::Edge { size: 3, found: 1 }));
}

#[test]
fn nodes_are_found_in_tiles_of_height_eight() {
    let leaves = numbered(1024);
    let levels = levels(&leaves);
    for level in 0..=10u8 {
        for index in 0..levels[level as usize].len() as u64 {
            let (tile_level, tile, row) = place_in_tile(level, index);
            let hashes = &levels[usize::from(tile_level) * 8][tile as usize * 256..];
            assert_eq!(root_of(&hashes[row]), levels[level as usize][index as usize], "{level} {index}");
        }
    }
}
