//! The sums of one quarter of an hour as one value: every combination of dimensions that had calls in it.
//!
//! Readers of a month take whole quarters, and a batch changes the newest few; so a quarter is the unit of storage, packed
//! as a whole. Sums that a batch does not touch are carried over as bytes.

use std::collections::HashMap;
use std::ops::Range;

use crate::rollup::Bucket;
use crate::store::StoreError;

use super::bytes::{Packer, put, take, take_slice, unpack};
use super::tables::damaged;

/// First byte of a value: plain or packed.
const PLAIN: u8 = 1;
const PACKED: u8 = 2;
/// Below this many bytes packing gains nothing.
const SMALL: usize = 160;

/// The sums of a quarter, by number of the combination.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    bytes: Vec<u8>,
    places: HashMap<u32, Range<usize>>,
    /// Ascending.
    order: Vec<u32>,
}

impl Sums {
    /// Reads a value as stored.
    pub fn open(value: &[u8]) -> Result<Sums, StoreError> {
        let (bytes, mut sums) = (plain(value)?, Sums::default());
        let mut rest = bytes.as_slice();
        let mut set = 0u64;
        while !rest.is_empty() {
            set += take(&mut rest)?;
            let number = u32::try_from(set).map_err(damaged)?;
            let bucket = take_slice(&mut rest)?;
            let end = bytes.len() - rest.len();
            sums.places.insert(number, end - bucket.len()..end);
            sums.order.push(number);
        }
        sums.bytes = bytes;
        Ok(sums)
    }

    pub fn get(&self, set: u32) -> Result<Option<Bucket>, StoreError> {
        let place = self.places.get(&set).cloned();
        place.map(|place| postcard::from_bytes(&self.bytes[place]).map_err(damaged)).transpose()
    }

    /// This quarter with changed sums, as a value to be stored; `None` if nothing is left of it. `changes` ascend.
    pub fn changed(&self, changes: &[(u32, &Bucket)], packer: &mut Packer) -> Result<Option<Vec<u8>>, StoreError> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 64 * changes.len());
        let mut before = 0;
        let mut add = |set: u32, bucket: &[u8]| {
            put(&mut bytes, u64::from(set - before));
            put(&mut bytes, bucket.len() as u64);
            bytes.extend_from_slice(bucket);
            before = set;
        };
        let mut kept = self.order.iter().peekable();
        for (set, bucket) in changes {
            while let Some(old) = kept.next_if(|old| *old < set) {
                add(*old, &self.bytes[self.places[old].clone()]);
            }
            kept.next_if(|old| *old == set);
            if !bucket.is_empty() {
                add(*set, &postcard::to_stdvec(bucket).map_err(damaged)?);
            }
        }
        for old in kept {
            add(*old, &self.bytes[self.places[old].clone()]);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() < SMALL {
            return Ok(Some([&[PLAIN], bytes.as_slice()].concat()));
        }
        let mut value = vec![PACKED];
        packer.pack(&bytes, &mut value)?;
        Ok(Some(value))
    }
}

/// Visits the sums of a value as stored, ascending.
pub fn each(value: &[u8], visit: &mut dyn FnMut(u32, Bucket) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let bytes = plain(value)?;
    let (mut rest, mut set) = (bytes.as_slice(), 0u64);
    while !rest.is_empty() {
        set += take(&mut rest)?;
        let bucket = postcard::from_bytes(take_slice(&mut rest)?).map_err(damaged)?;
        visit(u32::try_from(set).map_err(damaged)?, bucket)?;
    }
    Ok(())
}

fn plain(value: &[u8]) -> Result<Vec<u8>, StoreError> {
    match value.split_first() {
        Some((&PLAIN, bytes)) => Ok(bytes.to_vec()),
        Some((&PACKED, mut rest)) => unpack(&mut rest),
        _ => Err(damaged("sums of an unknown version")),
    }
}
