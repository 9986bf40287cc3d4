//! One entry proven to whoever holds a key: C2SP `tlog-proof` texts (`c2sp.org/tlog-proof@v1`, read 2026-11).
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64: what the entry says, below>
//! index 4711
//! <one hash of the inclusion path a line, base64, leaf's sibling first>
//!
//! <the signed checkpoint, verbatim>
//! ```
//!
//! `extra` is deterministic CBOR, a map: 0 the leaf as the tree hashes it; 1 a map of group → salt (16 bytes) and the
//! group's bytes, for the groups disclosed; 2, where the receiver named an older checkpoint, an array of its size and
//! the hashes of the consistency proof up to this one. Nothing in it is believed before it fits the leaf or the root.
//!
//! [`verify`] needs the text and a trust policy, no network, no database and no clock.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::Serialize;

use super::cbor::{Reader, Writer};
use super::codec::{self, CodecError};
use super::entry::{Entry, Erasable};
use super::leaf::{Hash, Leaf, leaf_hash};
use super::note::{Checkpoint, Note};
use super::tree;
use super::trust::{Policy, TrustError};

/// First line of a proof.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Longest proof read, in bytes: an entry and its groups, a note and a path are far smaller.
const MAX_BYTES: usize = 4 << 20;
/// Longest path or consistency proof: a tree has no more than 2^64 leaves.
const MAX_PATH: usize = 128;
const SALT: usize = 16;

/// How a check ended that did not end well; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Something is not what was signed.
    Mismatch = 1,
    /// It cannot be read, or does not say what is asked.
    Malformed = 2,
    /// No signature that the policy believes.
    Unsigned = 3,
    /// Groups are erased or held back, and all were asked for.
    Undisclosed = 4,
    /// It does not continue the checkpoint that was named: a fork or a rollback.
    Forked = 5,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Finding {
    pub fault: Fault,
    pub what: String,
}

impl Finding {
    pub fn new(fault: Fault, what: impl Into<String>) -> Finding {
        Finding { fault, what: what.into() }
    }

    fn malformed(what: impl Into<String>) -> Finding {
        Finding::new(Fault::Malformed, what)
    }

    fn mismatch(what: impl Into<String>) -> Finding {
        Finding::new(Fault::Mismatch, what)
    }
}

impl From<TrustError> for Finding {
    fn from(error: TrustError) -> Finding {
        let fault = match error {
            TrustError::NoLog { .. } | TrustError::NoQuorum => Fault::Unsigned,
            _ => Fault::Malformed,
        };
        Finding::new(fault, error.to_string())
    }
}

/// A proof as written, believed by nobody yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub extra: Option<Vec<u8>>,
    pub index: u64,
    /// Leaf's sibling first.
    pub path: Vec<Hash>,
    /// The signed note, verbatim.
    pub checkpoint: String,
}

impl Proof {
    pub fn parse(text: &str) -> Result<Proof, Finding> {
        if text.len() > MAX_BYTES {
            return Err(Finding::malformed("the proof is longer than 4 MiB"));
        }
        let rest = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let rest = rest.ok_or_else(|| Finding::malformed(format!("it does not begin with `{HEADER}`")))?;
        let (head, checkpoint) =
            rest.split_once("\n\n").ok_or_else(|| Finding::malformed("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        let extra = lines.next_if(|line| line.starts_with("extra ")).map(|line| base64(&line["extra ".len()..]));
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(canonical_number);
        let index = index.ok_or_else(|| Finding::malformed("no line `index` with a number"))?;
        let hash = |line: &str| base64(line)?.try_into().map_err(|_| Finding::malformed("a hash has not 32 bytes"));
        let path = lines.map(hash).collect::<Result<Vec<Hash>, Finding>>()?;
        if path.len() > MAX_PATH {
            return Err(Finding::malformed("the path is longer than any tree is high"));
        }
        Ok(Proof { extra: extra.transpose()?, index, path, checkpoint: checkpoint.to_owned() })
    }

    /// The proofs of a text that has several, one after the other.
    pub fn parse_all(text: &str) -> Result<Vec<Proof>, Finding> {
        let mut starts: Vec<usize> = text.match_indices(HEADER).map(|(at, _)| at).collect();
        starts.retain(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n');
        if starts.first() != Some(&0) {
            return Err(Finding::malformed(format!("it does not begin with `{HEADER}`")));
        }
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts.iter().zip(ends).map(|(from, to)| Proof::parse(&text[*from..to])).collect()
    }
}

fn base64(text: &str) -> Result<Vec<u8>, Finding> {
    BASE64.decode(text.as_bytes()).map_err(|_| Finding::malformed("a line is not base64"))
}

fn canonical_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

/// The text of the proof.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// What a proof tells beside the fact of inclusion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disclosed {
    pub leaf: Vec<u8>,
    /// Group → salt and bytes.
    pub groups: BTreeMap<u8, ([u8; SALT], Vec<u8>)>,
    /// Size of an older tree, and the proof that it is the beginning of this one.
    pub consistency: Option<(u64, Vec<Hash>)>,
}

impl Disclosed {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(2 + usize::from(self.consistency.is_some()));
        w.uint(0);
        w.bytes(&self.leaf);
        w.uint(1);
        w.map(self.groups.len());
        for (group, (salt, bytes)) in &self.groups {
            w.uint(u64::from(*group));
            w.bytes(&[salt.as_slice(), bytes].concat());
        }
        if let Some((size, hashes)) = &self.consistency {
            w.uint(2);
            w.array(hashes.len() + 1);
            w.uint(*size);
            hashes.iter().for_each(|hash| w.bytes(hash));
        }
        w.into_bytes()
    }

    /// Strict: only what [`Disclosed::encode`] writes is read.
    pub fn decode(bytes: &[u8]) -> Result<Disclosed, CodecError> {
        let mut read = Disclosed::default();
        let mut keys = [false; 2];
        let mut r = Reader::new(bytes);
        r.fields(|key, r| {
            match key {
                0 => read.leaf = r.bytes()?.to_vec(),
                1 => r.fields(|group, r| {
                    let group = u8::try_from(group).map_err(|_| CodecError::Range("group"))?;
                    let (salt, rest) = r.bytes()?.split_first_chunk().ok_or(CodecError::Range("a salt"))?;
                    read.groups.insert(group, (*salt, rest.to_vec()));
                    Ok::<_, CodecError>(())
                })?,
                2 => read.consistency = Some(consistency(r)?),
                key => return Err(CodecError::UnknownKey { record: "a disclosure", key }),
            }
            if let Some(seen) = keys.get_mut(key as usize) {
                *seen = true;
            }
            Ok(())
        })?;
        r.finish()?;
        if keys == [true; 2] {
            Ok(read)
        } else {
            Err(CodecError::Missing { record: "a disclosure", field: "leaf or groups" })
        }
    }
}

fn consistency(r: &mut Reader) -> Result<(u64, Vec<Hash>), CodecError> {
    let (mut size, mut hashes) = (None, Vec::new());
    r.array(|r| {
        if size.is_none() {
            size = Some(r.uint()?);
        } else if hashes.len() >= MAX_PATH {
            return Err(CodecError::Range("the length of a consistency proof"));
        } else {
            hashes.push(r.bytes()?.try_into().map_err(|_| CodecError::Range("a hash"))?);
        }
        Ok(())
    })?;
    Ok((size.ok_or(CodecError::Range("a consistency proof"))?, hashes))
}

/// What a proof was found to prove.
#[derive(Clone, Debug)]
pub struct Proven {
    pub checkpoint: Checkpoint,
    pub leaf: Leaf,
    /// Absent where group 0 is not disclosed.
    pub entry: Option<Entry>,
    pub erasable: Erasable,
    /// Groups that the leaf commits to and the proof does not show.
    pub undisclosed: Vec<u8>,
}

/// Checks a proof: signatures, path, what is disclosed, and that the log goes on from the checkpoint `since`.
pub fn verify(proof: &Proof, policy: &Policy, since: Option<&Checkpoint>) -> Result<Proven, Finding> {
    let note = Note::parse(&proof.checkpoint).map_err(|e| Finding::malformed(e.to_string()))?;
    let checkpoint = policy.check(&note)?;
    let extra = proof.extra.as_deref().ok_or_else(|| Finding::malformed("the proof has no `extra` with the entry"))?;
    let disclosed = Disclosed::decode(extra).map_err(|e| Finding::malformed(format!("extra: {e}")))?;
    let hash = leaf_hash(&disclosed.leaf);
    tree::verify_inclusion(&hash, proof.index, checkpoint.size, &proof.path, &checkpoint.root)
        .map_err(|e| Finding::mismatch(format!("entry {}: {e}", proof.index)))?;
    let (leaf, entry, erasable) = open(proof.index, &disclosed)?;
    if let Some(since) = since {
        continues(since, &checkpoint, &disclosed)?;
    }
    let undisclosed = leaf.commitments.keys().copied().filter(|g| !disclosed.groups.contains_key(g)).collect();
    Ok(Proven { checkpoint, leaf, entry, erasable, undisclosed })
}

/// The leaf, and the groups that are its own.
fn open(index: u64, disclosed: &Disclosed) -> Result<(Leaf, Option<Entry>, Erasable), Finding> {
    let wrong = |what: String| Finding::mismatch(format!("entry {index}: {what}"));
    let leaf = Leaf::decode(&disclosed.leaf).map_err(|e| wrong(e.to_string()))?;
    if leaf.seq != index || leaf.encode() != disclosed.leaf {
        return Err(wrong(format!("it calls itself {}, or is not in canonical form", leaf.seq)));
    }
    for (group, (salt, bytes)) in &disclosed.groups {
        if !leaf.commits_to(*group, salt, bytes) {
            return Err(wrong(format!("group {group} does not fit its commitment")));
        }
    }
    let entry = match disclosed.groups.get(&0) {
        None => None,
        Some((_, bytes)) => {
            let body = codec::decode_body(leaf.kind, bytes).map_err(|e| wrong(e.to_string()))?;
            Some(Entry { seq: leaf.seq, ts: leaf.ts, reference: leaf.reference, body })
        }
    };
    let erasable: Vec<(u8, &[u8])> =
        disclosed.groups.iter().filter(|(group, _)| **group > 0).map(|(g, (_, b))| (*g, b.as_slice())).collect();
    let erasable = codec::decode_groups(&erasable).map_err(|e| wrong(e.to_string()))?;
    Ok((leaf, entry, erasable))
}

/// Whether the tree of `checkpoint` begins with the tree of `since`.
fn continues(since: &Checkpoint, checkpoint: &Checkpoint, disclosed: &Disclosed) -> Result<(), Finding> {
    let forked = |what: String| Err(Finding::new(Fault::Forked, what));
    if since.origin != checkpoint.origin {
        return forked(format!("`{}` is another log or epoch than `{}`", checkpoint.origin, since.origin));
    }
    if since.size > checkpoint.size {
        return forked(format!("the proof is of {} entries, the checkpoint named of {}", checkpoint.size, since.size));
    }
    let hashes = match &disclosed.consistency {
        Some((size, hashes)) if *size == since.size => hashes.as_slice(),
        _ if since.size == checkpoint.size || since.size == 0 => &[],
        _ => {
            let size = since.size;
            let what = format!("the proof does not show how it goes on from {size} entries: ask for it with --since");
            return Err(Finding::malformed(what));
        }
    };
    match tree::verify_consistency(since.size, &since.root, checkpoint.size, &checkpoint.root, hashes) {
        Ok(()) => Ok(()),
        Err(_) => forked(format!("the log does not continue the checkpoint of {} entries", since.size)),
    }
}

#[cfg(test)]
mod tests;
