//! One file that a ledger can be restored from: made while it is live, checked as a whole, restored as a new epoch.
//!
//! The file is a plain tar archive, readable with any tool: `head.log`, each month's journal file, `keys.redb`,
//! `core.redb`, `imports/`, and last `manifest.json`, which names every member with its length and SHA-256 and says as of
//! which size and root of the journal the whole is. A file without it was cut short. Never in it: the root key, without
//! which nothing sealed in it opens; what is derived (views, running snapshot); who is signed in.
//!
//! [`make`] writes it, [`check`] reads it and believes nothing, [`restore`] makes a data folder of it.

mod make;
mod restore;
mod tar;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::Micros;

use super::StoreError;
use super::journal::month_of;
use super::keeper::HEAD_LOG;
use super::{core, keys};

pub use make::{Source, make};
pub use restore::{KeyFrom, Plan, Restored, restore};

/// Format of the files this version writes, and the newest it reads.
pub const FORMAT: u64 = 1;
const MANIFEST: &str = "manifest.json";
/// Largest manifest read, in bytes.
const MOST_MANIFEST: u64 = 64 << 20;
/// Folder of imported files, in the data folder and in the backup.
const IMPORTS: &str = "imports";

/// Why a backup is not made, not believed or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is not what was written.
    #[error("the backup does not verify: {0}; take another one")]
    Unsound(String),
    /// It cannot be done as it was asked for.
    #[error("{0}")]
    Refused(String),
    /// A file or folder cannot be read or written.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    fn failed(what: &str, error: &io::Error) -> BackupError {
        BackupError::Failed(format!("{what}: {error}"))
    }
}

/// What a backup is of, and what must be in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u64,
    /// Of the binary that made it.
    pub version: String,
    pub made_at: Micros,
    pub epoch: u64,
    /// Entries of the epochs before this one.
    pub before: u64,
    /// Entries of this epoch.
    pub size: u64,
    /// Of the tree of those, hexadecimal.
    pub root: String,
    /// The newest signed note of no more entries than that.
    pub checkpoint: Option<String>,
    /// What an operator should know of it.
    pub notes: Vec<String>,
    pub members: Vec<Member>,
    /// Of this manifest as it stands here without this field; hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A file in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub name: String,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all members.
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }

    fn text(&self) -> Result<Vec<u8>, BackupError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| BackupError::Failed(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// With its own hash in it.
    fn sealed(&self) -> Result<Manifest, BackupError> {
        let bare = Manifest { sha256: None, ..self.clone() };
        let sha256 = Some(HEXLOWER.encode(&Sha256::digest(bare.text()?)));
        Ok(Manifest { sha256, ..bare })
    }

    /// Reads the member; a changed byte anywhere in it is noticed.
    fn parse(text: &[u8]) -> Result<Manifest, BackupError> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let unreadable = |e: serde_json::Error| BackupError::Unsound(format!("`{MANIFEST}` cannot be read: {e}"));
        let Format { format } = serde_json::from_slice(text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(StoreError::Newer { file: MANIFEST.into(), found: format, known: FORMAT }.into());
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(unreadable)?;
        if manifest.sealed()?.text()? != text {
            return Err(BackupError::Unsound(format!("`{MANIFEST}` is not as it was written")));
        }
        Ok(manifest)
    }
}

/// Reads a whole backup and compares every byte with what the manifest promises.
pub fn check(input: &mut dyn Read) -> Result<Manifest, BackupError> {
    walk(input, &mut |_| Ok(Box::new(io::sink())))
}

/// The same, with each member written to where `place` says.
fn walk(
    input: &mut dyn Read,
    place: &mut dyn FnMut(&str) -> Result<Box<dyn Write>, BackupError>,
) -> Result<Manifest, BackupError> {
    let mut archive = tar::Reader::new(input);
    let mut members: Vec<Member> = Vec::new();
    loop {
        let Some((name, bytes)) = archive.next()? else {
            return Err(BackupError::Unsound(format!("it has no `{MANIFEST}`: it was cut short while it was made")));
        };
        if name == MANIFEST {
            if bytes > MOST_MANIFEST {
                return Err(BackupError::Unsound(format!("`{MANIFEST}` is of {bytes} bytes")));
            }
            let mut text = Vec::new();
            archive.copy(bytes, &mut text)?;
            archive.end()?;
            let manifest = Manifest::parse(&text)?;
            compare(&manifest, &members)?;
            return Ok(manifest);
        }
        if !may_be_in(&name) || members.iter().any(|member| member.name == name) {
            return Err(BackupError::Unsound(format!("`{name}` does not belong in a backup, or is in it twice")));
        }
        let mut out = place(&name)?;
        let sha256 = HEXLOWER.encode(&archive.copy(bytes, &mut *out)?);
        out.flush().map_err(|e| BackupError::failed(&name, &e))?;
        members.push(Member { name, bytes, sha256 });
    }
}

fn compare(manifest: &Manifest, found: &[Member]) -> Result<(), BackupError> {
    let odd = found.iter().find(|member| !manifest.members.contains(member));
    let odd = odd.or_else(|| manifest.members.iter().find(|member| !found.contains(member)));
    match odd {
        Some(member) => {
            Err(BackupError::Unsound(format!("`{}` is missing or is not what the manifest promises", member.name)))
        }
        None if manifest.members.len() != found.len() => {
            Err(BackupError::Unsound("the manifest names a member twice".into()))
        }
        None => Ok(()),
    }
}

/// Whether a member may have this name: nothing else is ever written to a folder.
fn may_be_in(name: &str) -> bool {
    let plain = |name: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(good)
    };
    let fixed = [HEAD_LOG, keys::NAME, core::NAME].contains(&name);
    let import = name.strip_prefix(IMPORTS).and_then(|rest| rest.strip_prefix('/'));
    fixed || month_of(name).is_some() || import.is_some_and(plain)
}
