//! How entries lie in a value of `block.v1`, and their erasable groups in values of `group.v1`.
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
//! | either value, packed | bytes |
//! | --- | --- |
//! | version of the layout | 1: the number 2 |
//! | length of what is packed | 4 |
//! | one zstd frame of what follows the version in layout 1 | the rest |
//!
//! A commit goes to the log in layout 1, as it is. In the month's file the entries of many commits share one block, a
//! *stretch*: up to [`STRETCH`] entries, ending where a tile ends, packed. Groups stand in values of their own so that
//! erasing one rewrites no entry. The associated data of a sealed group is the text `group.v1` and (epoch, sequence,
//! group) as 8 + 8 + 1 bytes: a value moved elsewhere does not open. How entries are packed changes no leaf, and so not
//! the tree.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use zstd::bulk::Compressor;

use crate::domain::Micros;
use crate::ledger::codec;
use crate::ledger::entry::{Entry, Erasable, MAX_ENTRY_BYTES};
use crate::ledger::leaf::{self, Leaf};

/// Version of the plain layout of both values.
const LAYOUT: u8 = 1;
/// Version of a packed value.
const PACKED: u8 = 2;
/// Fast, and most of what there is to win: names that repeat from entry to entry.
const ZSTD_LEVEL: i32 = 1;
/// Longest value that is unpacked, in bytes: what a stretch may have, with room.
const MAX_UNPACKED: usize = 1 << 29;
/// Entries a stretch has once it is whole: those of one tile.
pub const STRETCH: u64 = 256;
/// A stretch ends early once it has this many bytes.
const MAX_STRETCH_BYTES: usize = 4 << 20;
/// Bytes of a salt.
pub const SALT: usize = 16;
/// Entries after which a commit waits for no more.
pub const MAX_ENTRIES: usize = 1_000;
/// Most entries in one block: positions have 16 bits.
const MOST_ENTRIES: usize = 1 << 16;
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

/// The values of a block under construction, in layout 1: a commit, or a stretch that grows from commit to commit.
#[derive(Clone)]
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

    /// A block that was written, to be added to.
    pub fn resume(first: u64, block: &[u8], groups: [Option<&[u8]>; 4]) -> Result<Builder, String> {
        let plain = |value: Option<&[u8]>| -> Result<Vec<u8>, String> {
            let Some(value) = value else { return Ok(Vec::new()) };
            Ok([&[LAYOUT], &*unpacked(value)?].concat())
        };
        let [one, two, three, four] = groups;
        let block = plain(Some(block))?;
        let count = ends(&block)?.len();
        Ok(Builder {
            first,
            count,
            block,
            groups: [plain(one)?, plain(two)?, plain(three)?, plain(four)?],
            at: Micros(0),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sequence after the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    pub fn bytes(&self) -> usize {
        self.block.len() + self.groups.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether nothing more belongs into this stretch.
    pub fn is_whole(&self) -> bool {
        self.count > 0 && (self.end().is_multiple_of(STRETCH) || self.bytes() >= MAX_STRETCH_BYTES)
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
            self.push_group(usize::from(*group) - 1, self.count, bytes);
        }
        self.count += 1;
        self.at = at;
    }

    fn push_group(&mut self, group: usize, position: usize, bytes: &[u8]) {
        let value = &mut self.groups[group];
        if value.is_empty() {
            value.push(LAYOUT);
        }
        value.extend_from_slice(&(position as u16).to_le_bytes());
        value.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        value.extend_from_slice(bytes);
    }

    /// Adds a commit's entries to the stretches so far; the last of them may not be whole yet. The commit follows on.
    pub fn stretch(stretches: &mut Vec<Builder>, commit: &Builder) -> Result<(), String> {
        let ends = ends(&commit.block)?;
        let mut from = 0;
        while from < ends.len() {
            let next = commit.first + from as u64;
            if stretches.last().is_none_or(Builder::is_whole) {
                stretches.push(Builder::new(next));
            }
            let Some(stretch) = stretches.last_mut().filter(|stretch| stretch.end() == next) else {
                return Err(format!("entry {next} does not follow on"));
            };
            let room = (STRETCH - next % STRETCH) as usize;
            let to = ends.len().min(from + room);
            stretch.take(commit, &ends, from..to)?;
            from = to;
        }
        Ok(())
    }

    fn take(&mut self, other: &Builder, ends: &[usize], range: Range<usize>) -> Result<(), String> {
        let start = if range.start == 0 { 1 } else { ends[range.start - 1] };
        self.block.extend_from_slice(&other.block[start..ends[range.end - 1]]);
        for (group, value) in other.groups.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            let mut rest = &value[1..];
            while let Some((position, bytes)) = next_group(&mut rest)? {
                if range.contains(&position) {
                    self.push_group(group, self.count + position - range.start, bytes);
                }
            }
        }
        self.count += range.len();
        self.at = other.at;
        Ok(())
    }
}

/// Where each entry of a plain block ends.
fn ends(block: &[u8]) -> Result<Vec<usize>, String> {
    let mut rest = block.get(1..).unwrap_or_default();
    let mut ends = Vec::new();
    while !rest.is_empty() {
        take_sized(&mut rest, 2)?;
        take_sized(&mut rest, 2)?;
        ends.push(block.len() - rest.len());
    }
    Ok(ends)
}

thread_local! {
    /// The feeder's compressor: making one takes as long as packing a small block.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(ZSTD_LEVEL)?,
        };
        let frame = compressor.compress(bytes)?;
        *kept = Some(compressor);
        Ok(frame)
    })
}

/// A value as it is to be stored: packed, where that is shorter.
pub fn pack(value: &[u8]) -> Cow<'_, [u8]> {
    let Some((&LAYOUT, rest)) = value.split_first() else { return Cow::Borrowed(value) };
    let (Ok(frame), Ok(length)) = (compress(rest), u32::try_from(rest.len())) else {
        return Cow::Borrowed(value);
    };
    if frame.len() + 4 >= rest.len() {
        return Cow::Borrowed(value);
    }
    let mut packed = Vec::with_capacity(5 + frame.len());
    packed.push(PACKED);
    packed.extend_from_slice(&length.to_le_bytes());
    packed.extend_from_slice(&frame);
    Cow::Owned(packed)
}

/// Splits a value of `block.v1` into its entries.
pub fn read_block(value: &[u8]) -> Result<Vec<Raw>, String> {
    let plain = unpacked(value)?;
    let mut rest = &*plain;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let leaf = take_sized(&mut rest, 2)?.to_vec();
        let salted = take_sized(&mut rest, 2)?;
        let (salt, body) = salted.split_first_chunk::<SALT>().ok_or("a salt is cut short")?;
        entries.push(Raw { leaf, salt: *salt, body: body.to_vec() });
        if entries.len() > MOST_ENTRIES {
            return Err(format!("a block has more than {MOST_ENTRIES} entries"));
        }
    }
    Ok(entries)
}

/// Splits a value of `group.v1` into (position in the block, bytes as stored).
pub fn read_groups(value: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    let plain = unpacked(value)?;
    let mut rest = &*plain;
    let mut groups = Vec::new();
    while let Some((position, bytes)) = next_group(&mut rest)? {
        groups.push((position as u16, bytes.to_vec()));
        if groups.len() > MOST_ENTRIES {
            return Err(format!("a block has more than {MOST_ENTRIES} groups of a kind"));
        }
    }
    Ok(groups)
}

/// The next group of a value in layout 1, behind its version: position of its entry, bytes as stored.
fn next_group<'a>(rest: &mut &'a [u8]) -> Result<Option<(usize, &'a [u8])>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let position = take(rest, 2)?;
    let position = usize::from(u16::from_le_bytes([position[0], position[1]]));
    Ok(Some((position, take_sized(rest, 4)?)))
}

/// What follows the version in layout 1, of a value in either layout.
fn unpacked(value: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    match value.split_first() {
        Some((&LAYOUT, rest)) => Ok(Cow::Borrowed(rest)),
        Some((&PACKED, rest)) => {
            let (length, frame) = rest.split_first_chunk::<4>().ok_or("a packed block is cut short")?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > MAX_UNPACKED {
                return Err(format!("a packed block says it has {length} bytes"));
            }
            let plain = zstd::bulk::decompress(frame, length).map_err(|e| format!("a block does not unpack: {e}"))?;
            if plain.len() != length {
                return Err(format!("a packed block has {} bytes, not {length}", plain.len()));
            }
            Ok(Cow::Owned(plain))
        }
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
        assert!(read_block(&[3]).unwrap_err().contains("layout 3"));
        assert!(read_block(&[2, 255, 255, 255, 255, 0]).is_err());
    }

    #[test]
    fn commits_of_any_size_become_stretches_that_end_where_tiles_end() {
        let raw = |n: u64| Raw { leaf: vec![n as u8; 9], salt: [1; SALT], body: vec![n as u8; 40 + n as usize % 7] };
        let groups = |n: u64| if n.is_multiple_of(3) { vec![(1, vec![n as u8; 20]), (4, vec![7; 33])] } else { vec![] };
        let mut stretches = Vec::new();
        let mut seq = 100;
        for size in [1u64, 2, 300, 1, 513, 40, 1] {
            let mut commit = Builder::new(seq);
            (seq..seq + size).for_each(|n| commit.push(Micros(n as i64), &raw(n), &groups(n)));
            seq += size;
            Builder::stretch(&mut stretches, &commit).unwrap();
            // As if it had been stored and read again.
            let last = stretches.pop().unwrap();
            let stored: Vec<_> = last.groups.iter().map(|g| pack(g)).collect();
            let group = |n: usize| (!stored[n].is_empty()).then_some(&*stored[n]);
            let again = Builder::resume(last.first, &pack(&last.block), [group(0), group(1), group(2), group(3)]);
            assert_eq!(again.as_ref().unwrap().block, last.block);
            stretches.push(again.unwrap());
        }
        let firsts: Vec<_> = stretches.iter().map(|s| (s.first, s.end())).collect();
        assert_eq!(firsts, [(100, 256), (256, 512), (512, 768), (768, 958)]);
        for stretch in &stretches {
            let read = read_block(&pack(&stretch.block)).unwrap();
            assert_eq!(read, (stretch.first..stretch.end()).map(raw).collect::<Vec<_>>());
            for (group, place) in [(1u8, 0), (4, 1)] {
                let found = read_groups(&pack(&stretch.groups[usize::from(group) - 1])).unwrap();
                let with = (stretch.first..stretch.end()).filter(|n| n.is_multiple_of(3));
                let expected = with.map(|n| ((n - stretch.first) as u16, groups(n)[place].1.clone()));
                assert_eq!(found, expected.collect::<Vec<_>>());
            }
        }
        let far = Builder { count: 0, ..Builder::new(2_000) };
        let mut apart = Builder { block: far.block.clone(), ..far };
        apart.push(Micros(1), &raw(1), &[]);
        assert!(Builder::stretch(&mut stretches, &apart).is_err(), "a gap");
    }
}
