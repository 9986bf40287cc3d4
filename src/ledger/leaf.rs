//! The leaf of an entry: what the tree hashes. Fields of the entry itself are only committed to.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::cbor::{Reader, Writer};
use super::codec::CodecError;
use super::entry::VERSION;
use crate::domain::Micros;

/// A hash of the tree.
pub type Hash = [u8; 32];

/// One leaf: deterministic CBOR of a map with integer keys.
///
/// | key | name | value |
/// |---|---|---|
/// | 0 | v | 1 |
/// | 1 | seq | unsigned, equals the leaf index; from 0 in an epoch |
/// | 2 | ts | Unix microseconds, never smaller than the entry's before |
/// | 3 | kind | see [`super::entry::Kind`] |
/// | 4 | ref | unsigned or null: the entry this one completes or amends |
/// | 5 | c | map of group → 32-byte commitment, for the groups present |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub seq: u64,
    pub ts: Micros,
    pub kind: u64,
    pub reference: Option<u64>,
    pub commitments: BTreeMap<u8, Hash>,
}

impl Leaf {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(6);
        for (key, n) in [(0, VERSION.into()), (1, self.seq.into()), (2, self.ts.0.into()), (3, i128::from(self.kind))] {
            w.uint(key);
            w.int(n);
        }
        w.uint(4);
        match self.reference {
            Some(seq) => w.uint(seq),
            None => w.null(),
        }
        w.uint(5);
        w.map(self.commitments.len());
        for (group, hash) in &self.commitments {
            w.uint(u64::from(*group));
            w.bytes(hash);
        }
        w.into_bytes()
    }

    /// Strict: only what [`Leaf::encode`] writes is read.
    pub fn decode(bytes: &[u8]) -> Result<Leaf, CodecError> {
        let mut leaf = Leaf { seq: 0, ts: Micros(0), kind: 0, reference: None, commitments: BTreeMap::new() };
        let mut keys = 0;
        let mut r = Reader::new(bytes);
        r.fields(|key, r| {
            keys += 1;
            match key {
                0 => match r.uint()? {
                    VERSION => {}
                    other => return Err(CodecError::Version(other)),
                },
                1 => leaf.seq = r.uint()?,
                2 => leaf.ts = Micros(i64::try_from(r.int()?).map_err(|_| CodecError::Range("ts"))?),
                3 => leaf.kind = r.uint()?,
                4 => leaf.reference = if r.null()? { None } else { Some(r.uint()?) },
                5 => r.fields(|group, r| {
                    let group = u8::try_from(group).map_err(|_| CodecError::Range("group"))?;
                    let hash = r.bytes()?.try_into().map_err(|_| CodecError::Range("commitment"))?;
                    leaf.commitments.insert(group, hash);
                    Ok::<_, CodecError>(())
                })?,
                other => return Err(CodecError::UnknownKey { record: "leaf", key: other }),
            }
            Ok(())
        })?;
        r.finish()?;
        // Keys are distinct and at most 5, so six of them are all of them.
        if keys == 6 { Ok(leaf) } else { Err(CodecError::Missing { record: "leaf", field: "one of 0 to 5" }) }
    }

    /// Whether these bytes are the group this leaf committed to.
    pub fn commits_to(&self, group: u8, salt: &[u8; 16], bytes: &[u8]) -> bool {
        self.commitments.get(&group) == Some(&commitment(group, salt, bytes))
    }
}

/// `SHA-256("wb/commit/v1" 00 || group || salt || bytes)`: says nothing about the bytes to who has no salt.
pub fn commitment(group: u8, salt: &[u8; 16], bytes: &[u8]) -> Hash {
    Sha256::new()
        .chain_update(b"wb/commit/v1\0")
        .chain_update([group])
        .chain_update(salt)
        .chain_update(bytes)
        .finalize()
        .into()
}

/// RFC 6962 leaf hash: `SHA-256(00 || leaf)`.
pub fn leaf_hash(leaf_bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf_bytes).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commitment_has_the_value_of_the_published_vector() {
        let salt = std::array::from_fn(|i| i as u8);
        let hash = commitment(1, &salt, &[0xa1, 0x61, 0x61, 0x01]);
        let expected = "26905b2fa7eb75070e63a42cc57fe1fd20511fbdda0f0543d0784b4ae536f3d3";
        assert_eq!(data_encoding::HEXLOWER.encode(&hash), expected);
    }

    fn leaf() -> Leaf {
        let commitments = [(0, [7; 32]), (2, [9; 32])].into();
        Leaf { seq: 70_000, ts: Micros(1_795_430_400_000_000), kind: 2, reference: Some(69_999), commitments }
    }

    #[test]
    fn a_leaf_is_the_documented_map() {
        let hex = data_encoding::HEXLOWER.encode(&leaf().encode());
        let (seven, nine) = ("07".repeat(32), "09".repeat(32));
        assert!(hex.starts_with("a60001011a00011170021b"), "{hex}");
        assert!(hex.ends_with(&format!("0302041a0001116f05a2005820{seven}025820{nine}")), "{hex}");
    }

    #[test]
    fn leaves_that_lack_a_key_or_have_another_are_refused() {
        let bytes = leaf().encode();
        assert!(Leaf::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Leaf::decode(&[0xa1, 0x00, 0x01]).is_err());
        assert_eq!(Leaf::decode(&[0xa1, 0x00, 0x02]), Err(CodecError::Version(2)));
        assert!(matches!(Leaf::decode(&[0xa1, 0x06, 0x02]), Err(CodecError::UnknownKey { key: 6, .. })));
    }

    proptest! {
        #[test]
        fn a_leaf_comes_back_and_a_changed_byte_never_passes_as_the_same(
            seq in any::<u64>(), ts in any::<i64>(), kind in any::<u64>(), reference in any::<Option<u64>>(),
            at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let leaf = Leaf { seq, ts: Micros(ts), kind, reference, ..leaf() };
            let mut bytes = leaf.encode();
            prop_assert_eq!(Leaf::decode(&bytes).unwrap(), leaf.clone());
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_ne!(Leaf::decode(&bytes).ok(), Some(leaf));
        }
    }
}
