//! Numbers of variable length, and bytes compressed: what packed values are made of.

use crate::store::StoreError;

use super::tables::damaged;

/// Level of compression: higher ones cost more than they save here.
const LEVEL: i32 = 3;
/// Longest section, unpacked.
const MAX_SECTION: usize = 64 << 20;

/// Packs chunks; keeps the compressor's memory between them.
pub struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub fn new() -> Result<Packer, StoreError> {
        zstd::bulk::Compressor::new(LEVEL).map(Packer).map_err(damaged)
    }

    /// Length of the bytes, then the bytes compressed.
    pub fn pack(&mut self, bytes: &[u8], into: &mut Vec<u8>) -> Result<(), StoreError> {
        let packed = self.0.compress(bytes).map_err(damaged)?;
        put(into, bytes.len() as u64);
        put(into, packed.len() as u64);
        into.extend_from_slice(&packed);
        Ok(())
    }
}

/// Takes off what [`Packer::pack`] wrote.
pub fn unpack(rest: &mut &[u8]) -> Result<Vec<u8>, StoreError> {
    let length = usize::try_from(take(rest)?).map_err(damaged)?;
    if length > MAX_SECTION {
        return Err(damaged(format!("a section of {length} bytes")));
    }
    let packed = take_slice(rest)?;
    zstd::bulk::decompress(packed, length).map_err(damaged)
}

/// What is wrong with a value that ends too soon.
pub fn missing() -> StoreError {
    damaged("a packed value is cut short")
}

/// Appends a number in seven-bit groups.
pub fn put(into: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        into.push(n as u8 | 0x80);
        n >>= 7;
    }
    into.push(n as u8);
}

/// Takes a number off the front.
pub fn take(rest: &mut &[u8]) -> Result<u64, StoreError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(missing)?;
        *rest = after;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(missing())
}

/// Takes a length and so many bytes off the front.
pub fn take_slice<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], StoreError> {
    let length = usize::try_from(take(rest)?).map_err(damaged)?;
    let (slice, after) = rest.split_at_checked(length).ok_or_else(missing)?;
    *rest = after;
    Ok(slice)
}

/// Appends a number that may be negative; small ones are short.
pub fn put_signed(into: &mut Vec<u8>, n: i128) {
    let mut n = (n << 1 ^ n >> 127) as u128;
    while n >= 0x80 {
        into.push(n as u8 | 0x80);
        n >>= 7;
    }
    into.push(n as u8);
}

/// Takes a number that may be negative off the front.
pub fn take_signed(rest: &mut &[u8]) -> Result<i128, StoreError> {
    let mut n = 0u128;
    for shift in (0..128).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(missing)?;
        *rest = after;
        n |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((n >> 1) as i128 ^ -((n & 1) as i128));
        }
    }
    Err(missing())
}
