//! Proof texts: from a tree, through the text, to what is believed.

use super::*;
use crate::domain::Micros;
use crate::ledger::entry::{Body, Network};
use crate::ledger::leaf::commitment;
use crate::ledger::note::Signer;
use crate::ledger::tree::{Tree, root_of};
use proptest::prelude::*;
use std::convert::Infallible;

const ORIGIN: &str = "acme/weighbridge/u/0";

fn signer() -> Signer {
    Signer::from_seed(ORIGIN, &[5; 32]).unwrap()
}

fn policy() -> Policy {
    Policy::of_logs(vec![signer().verifier()])
}

fn entry(seq: u64) -> Disclosed {
    let body = Body::Admin { actor: "operator:ada".into(), action: format!("signed in {seq}"), subject: None };
    let network = Network { peer: Some("192.0.2.7:1".into()), ..Network::default() };
    let mut groups = codec::encode_groups(&Erasable { network: Some(network), ..Erasable::default() });
    groups.push((0, codec::encode_body(&body)));
    let groups: BTreeMap<u8, _> = groups.into_iter().map(|(n, bytes)| (n, ([n; 16], bytes))).collect();
    let commitments = groups.iter().map(|(n, (salt, bytes))| (*n, commitment(*n, salt, bytes))).collect();
    let leaf = Leaf { seq, ts: Micros(seq as i64), kind: codec::kind_of(&body), reference: None, commitments };
    Disclosed { leaf: leaf.encode(), groups, consistency: None }
}

fn checkpoint(leaves: &[Hash]) -> Checkpoint {
    Checkpoint { origin: ORIGIN.into(), size: leaves.len() as u64, root: root_of(leaves) }
}

fn node(leaves: &[Hash]) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> {
    |level, index| {
        let span = 1 << level;
        Ok(root_of(&leaves[index as usize * span..][..span]))
    }
}

fn leaves(size: u64) -> Vec<Hash> {
    (0..size).map(|seq| leaf_hash(&entry(seq).leaf)).collect()
}

fn proof(index: u64, leaves: &[Hash], disclosed: &Disclosed) -> Proof {
    let path = tree::inclusion(index, leaves.len() as u64, node(leaves)).unwrap();
    let checkpoint = signer().sign(&checkpoint(leaves).text()).unwrap();
    Proof { extra: Some(disclosed.encode()), index, path, checkpoint }
}

fn fault(found: Result<Proven, Finding>) -> Fault {
    found.expect_err("it was believed").fault
}

#[test]
fn a_proof_comes_back_from_its_text_and_holds() {
    let leaves = leaves(37);
    let proof = proof(20, &leaves, &entry(20));
    let text = proof.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{text}");
    assert_eq!(Proof::parse(&text).unwrap(), proof);
    assert_eq!(Proof::parse_all(&text.repeat(3)).unwrap(), vec![proof.clone(); 3]);
    let proven = verify(&proof, &policy(), None).unwrap();
    assert_eq!((proven.leaf.seq, proven.checkpoint.size), (20, 37));
    assert!(matches!(proven.entry.unwrap().body, Body::Admin { action, .. } if action == "signed in 20"));
    assert_eq!(proven.erasable.network.unwrap().peer.as_deref(), Some("192.0.2.7:1"));
}

#[test]
fn groups_may_be_kept_back_and_are_named() {
    let leaves = leaves(9);
    let mut kept_back = entry(3);
    kept_back.groups.clear();
    let proven = verify(&proof(3, &leaves, &kept_back), &policy(), None).unwrap();
    assert_eq!((proven.entry, proven.undisclosed), (None, vec![0, 1]));
}

#[test]
fn what_was_changed_is_found_and_says_how() {
    let leaves = leaves(37);
    let whole = proof(20, &leaves, &entry(20));
    let with = |disclosed: &Disclosed| Proof { extra: Some(disclosed.encode()), ..whole.clone() };
    // Another entry, a changed group, a changed leaf with the groups that fit it.
    assert_eq!(fault(verify(&with(&entry(21)), &policy(), None)), Fault::Mismatch);
    let mut changed = entry(20);
    changed.groups.get_mut(&0).unwrap().1[9] ^= 1;
    assert_eq!(fault(verify(&with(&changed), &policy(), None)), Fault::Mismatch);
    let mut raw = entry(20);
    raw.leaf = Leaf { ts: Micros(21), ..Leaf::decode(&raw.leaf).unwrap() }.encode();
    assert_eq!(fault(verify(&with(&raw), &policy(), None)), Fault::Mismatch);
    let moved = Proof { index: 21, ..whole.clone() };
    assert_eq!(fault(verify(&moved, &policy(), None)), Fault::Mismatch);
    let bare = Proof { extra: None, ..whole.clone() };
    assert_eq!(fault(verify(&bare, &policy(), None)), Fault::Malformed);
    let stranger = Policy::of_logs(vec![Signer::from_seed(ORIGIN, &[6; 32]).unwrap().verifier()]);
    assert_eq!(fault(verify(&whole, &stranger, None)), Fault::Unsigned);
    let resized = Proof { checkpoint: whole.checkpoint.replacen("\n37\n", "\n38\n", 1), ..whole };
    assert_eq!(fault(verify(&resized, &policy(), None)), Fault::Unsigned);
}

#[test]
fn a_proof_shows_that_it_goes_on_from_an_older_checkpoint_or_that_it_does_not() {
    let leaves = leaves(37);
    let since = checkpoint(&leaves[..21]);
    let mut disclosed = entry(20);
    disclosed.consistency = Some((21, tree::consistency(21, 37, node(&leaves)).unwrap()));
    let whole = proof(20, &leaves, &disclosed);
    verify(&whole, &policy(), Some(&since)).unwrap();
    verify(&whole, &policy(), Some(&checkpoint(&leaves))).unwrap();
    let other = Checkpoint { root: [1; 32], ..since.clone() };
    assert_eq!(fault(verify(&whole, &policy(), Some(&other))), Fault::Forked);
    let elsewhere = Checkpoint { origin: "acme/weighbridge/u/1".into(), ..since.clone() };
    assert_eq!(fault(verify(&whole, &policy(), Some(&elsewhere))), Fault::Forked);
    let ahead = Checkpoint { size: 38, ..since.clone() };
    assert_eq!(fault(verify(&whole, &policy(), Some(&ahead))), Fault::Forked);
    // Without the hashes nothing can be said either way.
    assert_eq!(fault(verify(&proof(20, &leaves, &entry(20)), &policy(), Some(&since))), Fault::Malformed);
}

/// L07: no changed bit anywhere in a proof leads to another belief.
#[test]
fn l07_one_changed_bit_of_a_proof_is_refused_or_changes_nothing() {
    let leaves = leaves(5);
    let text = proof(2, &leaves, &entry(2)).to_string();
    let sound = verify(&Proof::parse(&text).unwrap(), &policy(), None).unwrap();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let Ok(proof) = Proof::parse(&changed) else { continue };
            if let Ok(proven) = verify(&proof, &policy(), None) {
                assert_eq!(proven.entry, sound.entry, "byte {at} bit {bit}");
                assert_eq!((proven.leaf, proven.checkpoint), (sound.leaf.clone(), sound.checkpoint.clone()));
            }
        }
    }
}

/// The format's own example, with hashes whose ends are not what base64 needs made whole.
#[test]
fn l07_the_example_of_the_format_is_read() {
    let hash = data_encoding::BASE64.encode(&[9; 32]);
    let text = format!(
        "c2sp.org/tlog-proof@v1\nextra YWdlLXYxLjIuMQ==\nindex 73894\n{hash}\n{hash}\n\nexample.com/fancylog\n109482\n{hash}\n\n— example.com/fancylog hI2DJwAAAAA=\n"
    );
    let proof = Proof::parse(&text).unwrap();
    assert_eq!((proof.index, proof.path.len(), proof.extra.as_deref()), (73_894, 2, Some(b"age-v1.2.1".as_slice())));
    assert_eq!(proof.to_string(), text);
    let without = text.replace("extra YWdlLXYxLjIuMQ==\n", "").replace("index 73894", "index 0");
    assert_eq!(Proof::parse(&without).unwrap().to_string(), without);
    for bad in [
        text.replace("v1\n", "v2\n"),
        text.replace("index 73894\n", ""),
        text.replace("index 73894", "index 073894"),
        text.replacen(&hash, "AAAA", 1),
        text.replace("\n\n", "\n"),
        format!("\n{text}"),
    ] {
        assert_eq!(Proof::parse(&bad).unwrap_err().fault, Fault::Malformed, "{bad}");
    }
}

proptest! {
    #[test]
    fn whatever_is_read_never_panics(text in "(c2sp.org/tlog-proof@v1\n)?(extra |index |[0-9a-zA-Z=]|\n|—){0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Proof::parse_all(&text);
        let _ = Disclosed::decode(&bytes);
    }

    #[test]
    fn every_entry_of_every_tree_is_proven_and_no_other(size in 1u64..80, index in any::<prop::sample::Index>()) {
        let index = index.index(size as usize) as u64;
        let leaves = leaves(size);
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        prop_assert_eq!(tree.root(), root_of(&leaves));
        let right = proof(index, &leaves, &entry(index));
        prop_assert!(verify(&right, &policy(), None).is_ok());
        let wrong = Proof { extra: Some(entry(index + 1).encode()), ..right };
        prop_assert!(verify(&wrong, &policy(), None).is_err());
    }
}
