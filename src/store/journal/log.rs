//! `commit.log`: the preallocated file a commit goes to, so that it costs one write and one flush.
//!
//! A commit in a redb file is five B-trees and two flushes; here it is one record at the next free page of a file whose
//! every byte was written before, so that a flush moves data and no metadata. The month's file gets the same entries
//! behind it ([`super::feed`]); until then they are *pending*: in this file and in memory.
//!
//! The file has two halves. One is being filled; it is left for the other once that one's entries are all in the month's
//! file. Each filling has a number and a random nonce, which its records bear: what an older filling left behind, or what
//! a caller's own bytes may look like, is never taken for a record. A record begins on a page of its own, so that writing
//! the next one does not touch it.
//!
//! | record, little-endian | bytes |
//! | --- | --- |
//! | `wbl1` | 4 |
//! | length of what follows the hash | 4 |
//! | number of the filling (even: first half), its nonce | 8 + 16 |
//! | epoch, first sequence, count of entries | 8 + 8 + 4 |
//! | zero | 4 |
//! | SHA-256 of all of the record but this hash | 32 |
//! | journal time of the last entry, in µs | 8 |
//! | number of hashes of the tree's right edge after the last entry, the hashes | 1 + 32 each |
//! | length and value of `block.v1`, then of `group.v1` for group 1 to 4 ([`crate::store::block`]) | 4 + as said, each |
//! | zeros to the end of the page | |
//!
//! Read again at a start, the records from where the month's file ends must follow on. One that does not fit its hash is
//! what a power cut left of a commit nobody was told of, if no record of the same filling comes after it; else the file
//! is damaged.

use aws_lc_rs::rand;
use sha2::{Digest, Sha256};

use crate::domain::Micros;
use crate::store::StoreError;
use crate::store::block::Builder;
use crate::store::media::{Media, RawFile};

use super::Pending;

/// Name of the file.
pub const NAME: &str = "commit.log";
const MAGIC: &[u8; 4] = b"wbl1";
const PAGE: usize = 4_096;
/// Bytes before the hash, and with it.
const SIGNED: usize = 56;
const HEADER: usize = SIGNED + 32;
/// Bytes of a half on disk: a second and more of the busiest ledger, and 32 MiB of disk in all.
const HALF: u64 = 16 << 20;
/// Bytes of a half in memory, where tests are: small enough to be filled.
const HALF_IN_MEMORY: u64 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filling {
    number: u64,
    nonce: [u8; 16],
}

impl Filling {
    fn new(number: u64) -> Filling {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).expect("the system's random generator gives bytes once the system is up");
        Filling { number, nonce }
    }

    fn half(&self) -> usize {
        (self.number % 2) as usize
    }
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is on disk.
    Written,
    /// The other half still has entries that the month's file does not have.
    Full,
    /// No half can take it.
    TooLarge,
}

/// The file, and where the next record goes.
pub struct Log {
    file: RawFile,
    half: u64,
    filling: Filling,
    /// Offset of the next record in its half.
    at: u64,
    /// Per half, the sequence after its last entry.
    ends: [u64; 2],
    scratch: Vec<u8>,
}

impl Log {
    /// Opens or makes the file, and reads what the month's file, which has `size` entries, does not have yet.
    pub fn open(media: &Media, epoch: u64, size: u64) -> Result<(Log, Vec<Pending>), StoreError> {
        let half = if matches!(media, Media::Memory(_)) { HALF_IN_MEMORY } else { HALF };
        let file = media.open_raw(NAME, 2 * half).map_err(unwritable)?;
        let half = file.len().map_err(unwritable)? / 2 / PAGE as u64 * PAGE as u64;
        let found = Found::scan(&file, half, epoch, size)?;
        found.write_again(&file)?;
        let (filling, at) = found.newest.unwrap_or_else(|| (Filling::new(0), 0));
        let log = Log { file, half, filling, at, ends: found.ends, scratch: Vec::new() };
        Ok((log, found.follow_on(size)?))
    }

    /// Makes the file where there is none.
    pub fn make(media: &Media) -> Result<(), StoreError> {
        let half = if matches!(media, Media::Memory(_)) { HALF_IN_MEMORY } else { HALF };
        media.open_raw(NAME, 2 * half).map(drop).map_err(unwritable)
    }

    /// What the file has beyond `size` entries, without writing to it. Nothing where there is no file.
    pub fn read(media: &Media, epoch: u64, size: u64) -> Result<Vec<Pending>, StoreError> {
        let Some(file) = media.open_raw_read_only(NAME).map_err(unwritable)? else { return Ok(Vec::new()) };
        let half = file.len().map_err(unwritable)? / 2 / PAGE as u64 * PAGE as u64;
        Found::scan(&file, half, epoch, size)?.follow_on(size)
    }

    /// Puts a commit on disk. `fed`: entries the month's file has.
    pub fn append(&mut self, epoch: u64, pending: &Pending, fed: u64) -> Result<Appended, StoreError> {
        self.scratch.clear();
        write_record(&mut self.scratch, &self.filling, epoch, pending);
        let length = self.scratch.len() as u64;
        if length > self.half {
            return Ok(Appended::TooLarge);
        }
        if self.at + length > self.half {
            if self.ends[1 - self.filling.half()] > fed {
                return Ok(Appended::Full);
            }
            self.next_filling();
            self.scratch.clear();
            write_record(&mut self.scratch, &self.filling, epoch, pending);
        }
        let offset = self.filling.half() as u64 * self.half + self.at;
        self.file.write_at(offset, &self.scratch).and_then(|()| self.file.sync()).map_err(unwritable)?;
        self.at += length;
        self.ends[self.filling.half()] = pending.end();
        Ok(Appended::Written)
    }

    /// Leaves the half as it is, after a write that failed: nobody knows what is on disk of it. The month's file must
    /// have every entry.
    pub fn start_over(&mut self) {
        self.next_filling();
        self.ends = [0; 2];
    }

    fn next_filling(&mut self) {
        self.filling = Filling::new(self.filling.number + 1);
        self.at = 0;
        self.ends[self.filling.half()] = 0;
    }
}

fn write_record(out: &mut Vec<u8>, filling: &Filling, epoch: u64, pending: &Pending) {
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&filling.number.to_le_bytes());
    out.extend_from_slice(&filling.nonce);
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&pending.commit.first.to_le_bytes());
    out.extend_from_slice(&(pending.commit.count as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&pending.commit.at.0.to_le_bytes());
    out.push(pending.edge.len() as u8);
    out.extend(pending.edge.iter().flatten());
    for value in std::iter::once(&pending.commit.block).chain(&pending.commit.groups) {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    let length = (out.len() - HEADER) as u32;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    let hash = hash(out);
    out[SIGNED..HEADER].copy_from_slice(&hash);
    out.resize(out.len().next_multiple_of(PAGE), 0);
}

fn hash(record: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(&record[..SIGNED]).chain_update(&record[HEADER..]).finalize().into()
}

/// What a scan found.
#[derive(Default)]
struct Found {
    /// The filling with the highest number, and where its records end.
    newest: Option<(Filling, u64)>,
    ends: [u64; 2],
    /// Records with entries the month's file does not have, in the order in which they were written.
    records: Vec<Record>,
}

struct Record {
    /// Number of its filling.
    filling: u64,
    /// Where it lies in the file, and its bytes to the end of its last page.
    offset: u64,
    length: u64,
    pending: Pending,
}

/// The head of a record that looks like one.
struct Head {
    filling: Filling,
    epoch: u64,
    first: u64,
    count: u64,
    /// Of the whole record, to the end of its last page.
    length: u64,
    /// Of what follows the hash.
    payload: usize,
}

impl Found {
    fn scan(file: &RawFile, half: u64, epoch: u64, size: u64) -> Result<Found, StoreError> {
        let mut found = Found::default();
        for number in 0..2 {
            found.scan_half(file, half, number, epoch, size)?;
        }
        found.records.sort_by_key(|record| (record.filling, record.pending.commit.first));
        Ok(found)
    }

    fn scan_half(&mut self, file: &RawFile, half: u64, which: u64, epoch: u64, size: u64) -> Result<(), StoreError> {
        let mut page = vec![0; PAGE];
        let mut own: Option<Filling> = None;
        let mut at = 0;
        while at < half {
            file.read_at(which * half + at, &mut page).map_err(unwritable)?;
            if at == 0 {
                known_version(&page)?;
            }
            let head = Head::read(&page).filter(|head| head.filling.number % 2 == which && at + head.length <= half);
            let head = head.filter(|head| own.is_none_or(|own| own == head.filling));
            let Some(head) = head else {
                at += PAGE as u64;
                continue;
            };
            let end = head.first + head.count;
            if head.epoch == epoch && end > size {
                let mut record = vec![0; HEADER + head.payload];
                file.read_at(which * half + at, &mut record).map_err(unwritable)?;
                match read_record(&head, &record) {
                    Some(pending) => self.records.push(Record {
                        filling: head.filling.number,
                        offset: which * half + at,
                        length: head.length,
                        pending,
                    }),
                    None => {
                        at += PAGE as u64;
                        continue;
                    }
                }
            }
            own = Some(head.filling);
            at += head.length;
            if head.epoch == epoch {
                self.ends[which as usize] = end;
            }
            if self.newest.is_none_or(|(newest, _)| newest.number <= head.filling.number) {
                self.newest = Some((head.filling, at));
            }
        }
        Ok(())
    }

    /// After a flush that failed, or a process that ended before it, what is read may be in the system's memory alone, and
    /// gone with the power. Written once more it is on disk before anything builds on it.
    fn write_again(&self, file: &RawFile) -> Result<(), StoreError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for record in &self.records {
            bytes.resize(record.length as usize, 0);
            file.read_at(record.offset, &mut bytes)
                .and_then(|()| file.write_at(record.offset, &bytes))
                .map_err(unwritable)?;
        }
        file.sync().map_err(unwritable)
    }

    /// The records from `size` on, which must follow on from there and from each other.
    fn follow_on(self, size: u64) -> Result<Vec<Pending>, StoreError> {
        let mut pending: Vec<Pending> = Vec::new();
        for Record { pending: record, .. } in self.records {
            // A commit that failed, and its entries went to another filling: the later one stands.
            while pending.last().is_some_and(|last| last.commit.first >= record.commit.first) {
                pending.pop();
            }
            let next = pending.last().map_or(size, Pending::end);
            if record.commit.first != next {
                let what = format!("entries {next} to {} are missing or damaged", record.commit.first.max(next) - 1);
                return Err(StoreError::Damaged { file: NAME.into(), what });
            }
            pending.push(record);
        }
        Ok(pending)
    }
}

/// Every filling begins with a record on the half's first page: one of a newer version is not to be passed over.
fn known_version(page: &[u8]) -> Result<(), StoreError> {
    match page.get(..4) {
        Some([b'w', b'b', b'l', version @ b'2'..=b'9']) => {
            Err(StoreError::Newer { file: NAME.into(), found: u64::from(version - b'0'), known: 1 })
        }
        _ => Ok(()),
    }
}

impl Head {
    fn read(page: &[u8]) -> Option<Head> {
        if page.get(..4)? != MAGIC {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(page.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?));
        let payload = short(4)? as usize;
        Some(Head {
            filling: Filling { number: number(8)?, nonce: page.get(16..32)?.try_into().ok()? },
            epoch: number(32)?,
            first: number(40)?,
            count: short(48)?.into(),
            length: (HEADER + payload).next_multiple_of(PAGE) as u64,
            payload,
        })
    }
}

/// A record that fits its hash.
fn read_record(head: &Head, record: &[u8]) -> Option<Pending> {
    if record.get(SIGNED..HEADER)? != hash(record) {
        return None;
    }
    let mut rest = &record[HEADER..];
    let mut take = |length: usize| {
        let (value, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(value)
    };
    let at = Micros(i64::from_le_bytes(take(8)?.try_into().ok()?));
    let hashes = take(1)?[0];
    let edge = take(32 * usize::from(hashes))?.as_chunks::<32>().0.to_vec();
    let mut values: [Vec<u8>; 5] = Default::default();
    for value in &mut values {
        let length = u32::from_le_bytes(take(4)?.try_into().ok()?);
        *value = take(length as usize)?.to_vec();
    }
    let [block, one, two, three, four] = values;
    let count = usize::try_from(head.count).ok()?;
    let commit = Builder { first: head.first, count, block, groups: [one, two, three, four], at };
    Some(Pending { commit, edge, tiles: Vec::new() })
}

fn unwritable(error: std::io::Error) -> StoreError {
    StoreError::io(NAME, &error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::block::{Raw, SALT};
    use crate::store::media::Memory;

    fn commit(first: u64, entries: u64, bytes: usize) -> Pending {
        let mut commit = Builder::new(first);
        for n in first..first + entries {
            let raw = Raw { leaf: vec![n as u8; 90], salt: [3; SALT], body: vec![n as u8; bytes] };
            commit.push(Micros(n as i64), &raw, &[(1, vec![9; 40])]);
        }
        Pending { commit, edge: vec![[first as u8; 32]; 3], tiles: Vec::new() }
    }

    fn firsts(pending: &[Pending]) -> Vec<(u64, u64)> {
        pending.iter().map(|p| (p.commit.first, p.end())).collect()
    }

    fn open(memory: &Memory, size: u64) -> Result<(Log, Vec<Pending>), StoreError> {
        Log::open(&Media::Memory(memory.clone()), 0, size)
    }

    #[test]
    fn what_was_appended_is_found_from_where_the_files_end() {
        let memory = Memory::new();
        let (mut log, none) = open(&memory, 0).unwrap();
        assert!(none.is_empty());
        for first in [0, 3, 6] {
            assert_eq!(log.append(0, &commit(first, 3, 200), 0).unwrap(), Appended::Written);
        }
        memory.crash();
        let (mut log, found) = open(&memory, 3).unwrap();
        assert_eq!(firsts(&found), [(3, 6), (6, 9)]);
        assert_eq!((&found[0].commit.block, &found[0].edge), (&commit(3, 3, 200).commit.block, &vec![[3; 32]; 3]));
        assert_eq!(found[1].commit.groups, commit(6, 3, 200).commit.groups);
        assert_eq!(found[1].commit.at, Micros(8));
        assert_eq!(log.append(0, &commit(9, 1, 9_000), 3).unwrap(), Appended::Written);
        assert_eq!(firsts(&open(&memory, 3).unwrap().1), [(3, 6), (6, 9), (9, 10)]);
        assert!(open(&memory, 10).unwrap().1.is_empty());
        assert!(open(&memory, 2).is_err(), "no commit ends there");
    }

    #[test]
    fn the_halves_take_turns_and_neither_is_overwritten_before_its_entries_are_in_the_files() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory, 0).unwrap();
        let (mut next, mut fed, mut waits) = (0, 0, 0);
        while next < 2_000 {
            match log.append(0, &commit(next, 2, 1_500), fed).unwrap() {
                Appended::Written => next += 2,
                Appended::Full => {
                    assert!(waits > 0 || next > 60, "both halves were filled first: {next}");
                    (fed, waits) = (next, waits + 1);
                }
                Appended::TooLarge => panic!("it is small"),
            }
            if next % 50 == 0 {
                let found = open(&memory, fed).unwrap().1;
                assert_eq!(found.last().map_or(fed, Pending::end), next, "all of it is there");
            }
        }
        assert!(waits > 5, "{waits}");
        assert_eq!(log.append(0, &commit(next, 60, 6_000), next).unwrap(), Appended::TooLarge);
    }

    #[test]
    fn half_a_record_at_the_end_is_no_record_and_one_in_the_middle_is_damage() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory, 0).unwrap();
        let mut offsets = Vec::new();
        for first in 0..5 {
            offsets.push(log.at as usize);
            log.append(0, &commit(first, 1, 5_000), 0).unwrap();
        }
        for byte in [4, 9, 41, 60, 100, 5_000] {
            memory.flip(NAME, offsets[4] + byte);
            assert_eq!(firsts(&open(&memory, 1).unwrap().1), [(1, 2), (2, 3), (3, 4)], "byte {byte}");
            memory.flip(NAME, offsets[4] + byte);
            memory.flip(NAME, offsets[2] + byte);
            let Err(StoreError::Damaged { file, what }) = open(&memory, 1) else { panic!("byte {byte}") };
            assert_eq!(file, NAME);
            assert!(what.contains("entries 2 to 2"), "{what}");
            assert!(open(&memory, 3).is_ok(), "what the files have may be damaged here");
            memory.flip(NAME, offsets[2] + byte);
        }
        // What was cut off is overwritten by the next commit, also by a shorter one.
        memory.flip(NAME, offsets[4] + 100);
        let (mut log, _) = open(&memory, 1).unwrap();
        log.append(0, &commit(4, 1, 10), 1).unwrap();
        log.append(0, &commit(5, 1, 10), 1).unwrap();
        assert_eq!(open(&memory, 1).unwrap().1.last().unwrap().end(), 6);
    }

    #[test]
    fn after_a_failed_commit_its_entries_may_come_again_and_the_later_ones_stand() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory, 0).unwrap();
        log.append(0, &commit(0, 2, 100), 0).unwrap();
        log.append(0, &commit(2, 2, 100), 0).unwrap();
        // The second was reported as failed, nothing of it was found, and it is on disk after all.
        log.start_over();
        log.append(0, &commit(2, 1, 300), 2).unwrap();
        log.append(0, &commit(3, 1, 300), 2).unwrap();
        let found = open(&memory, 2).unwrap().1;
        assert_eq!(firsts(&found), [(2, 3), (3, 4)]);
        assert_eq!(found[0].commit.block, commit(2, 1, 300).commit.block);
    }
}
