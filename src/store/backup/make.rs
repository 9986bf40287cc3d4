//! Makes a backup of a ledger that is being written.
//!
//! Order is what makes the parts fit: `head.log` first, so that it promises nothing the journal in the backup does not
//! have; the journal's files, oldest first; then the keys, which are on disk before anything is sealed with them; then
//! `core.redb`. Each redb file is copied into a scratch folder, put into the archive and removed, so that the room
//! needed is that of the largest, and a reader that takes its time holds no transaction open.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use data_encoding::HEXLOWER;

use crate::domain::Micros;
use crate::store::core::{self, Core};
use crate::store::history::History;
use crate::store::journal::copy::Copied;
use crate::store::journal::{Journal, month_of};
use crate::store::keeper::HEAD_LOG;
use crate::store::keys::{self, DataKeys};
use crate::store::media::Media;
use crate::store::signer::{self, Signed};
use crate::store::{Head, StoreError};

use super::{BackupError, FORMAT, IMPORTS, MANIFEST, Manifest, Member, tar};

/// Where copies are made, in the data folder. What is left there by a crash is of no use to anybody.
pub const SCRATCH: &str = "backup.tmp";

/// The parts of an open ledger.
pub struct Source<'a> {
    pub history: &'a History,
    pub keys: &'a DataKeys,
    pub core: &'a Core,
    pub head: Head,
    /// The newest checkpoint.
    pub signed: Option<Signed>,
    pub now: Micros,
}

/// Writes a backup of everything committed by now; what is committed meanwhile may be in it too. The manifest says as of
/// which entry it is. Blocks.
pub fn make(source: &Source<'_>, out: &mut dyn Write) -> Result<Manifest, BackupError> {
    let current = source.history.journals().last().ok_or(StoreError::Closed)?;
    let Media::Folder(dir) = current.media() else {
        return Err(BackupError::Refused("a ledger in memory has no backup".into()));
    };
    let scratch = Scratch::new(dir)?;
    let mut archive = Archive { out: tar::Writer(out), members: Vec::new(), notes: Vec::new() };
    if let Some(log) = whole_lines(current.media())? {
        archive.put(HEAD_LOG, log.len() as u64, &mut log.as_slice())?;
    }
    for name in unreadable(source.history, current.media())? {
        archive.note(format!("`{name}` cannot be read and is in the backup as it is"));
        archive.file(&name, &dir.join(&name))?;
    }
    let mut end = Copied { size: 0, root: crate::ledger::tree::empty_root() };
    for journal in source.history.journals() {
        for name in journal.file_names() {
            if let Some(copied) = archive.month(journal, &name, dir, &scratch)? {
                end = copied;
            }
        }
    }
    source.keys.copy(&scratch.media)?;
    archive.copied(keys::NAME, &scratch)?;
    // A checkpoint that was signed meanwhile may be of more than the journal in the backup has.
    let signed = source.signed.as_ref().filter(|signed| signed.epoch == current.epoch && signed.size <= end.size);
    source.core.copy(&scratch.media, signer::signed_row(signed))?;
    archive.copied(core::NAME, &scratch)?;
    archive.imports(dir)?;

    let manifest = (Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        made_at: source.now,
        epoch: current.epoch,
        before: source.head.before,
        size: end.size,
        root: HEXLOWER.encode(&end.root),
        checkpoint: signed.map(|signed| signed.note.clone()),
        notes: archive.notes,
        members: archive.members,
        sha256: None,
    })
    .sealed()?;
    let text = manifest.text()?;
    archive.out.file(MANIFEST, text.len() as u64, &mut text.as_slice())?;
    archive.out.end()?;
    Ok(manifest)
}

/// `head.log`, without a last line that is being written.
fn whole_lines(media: &Media) -> Result<Option<Vec<u8>>, BackupError> {
    let log = media.read_side(HEAD_LOG).map_err(|e| BackupError::failed(HEAD_LOG, &e))?;
    Ok(log.map(|mut log| {
        log.truncate(log.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1));
        log
    }))
}

/// Files of epochs that could not be opened, which nobody writes.
fn unreadable(history: &History, media: &Media) -> Result<Vec<String>, BackupError> {
    let read: BTreeSet<u64> = history.journals().map(|journal| journal.epoch).collect();
    let newest = read.last().copied().unwrap_or(0);
    let unread = |name: &String| month_of(name).is_some_and(|(epoch, _)| epoch < newest && !read.contains(&epoch));
    Ok(media.names()?.into_iter().filter(unread).collect())
}

struct Archive<'a> {
    out: tar::Writer<'a>,
    members: Vec<Member>,
    notes: Vec<String>,
}

impl Archive<'_> {
    fn put(&mut self, name: &str, bytes: u64, from: &mut dyn Read) -> Result<(), BackupError> {
        let sha256 = HEXLOWER.encode(&self.out.file(name, bytes, from)?);
        self.members.push(Member { name: name.into(), bytes, sha256 });
        Ok(())
    }

    fn note(&mut self, note: String) {
        tracing::warn!("backup: {note}");
        self.notes.push(note);
    }

    /// A file that nobody writes.
    fn file(&mut self, name: &str, path: &Path) -> Result<(), BackupError> {
        let failed = |e: std::io::Error| BackupError::failed(&format!("`{}`", path.display()), &e);
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        self.put(name, bytes, &mut file)
    }

    /// A file in the scratch folder, which goes.
    fn copied(&mut self, name: &str, scratch: &Scratch) -> Result<(), BackupError> {
        self.file(name, &scratch.path.join(name))?;
        scratch.media.remove_file(name);
        Ok(())
    }

    /// A month of a journal. One of the past that is damaged is better kept as it is than not at all.
    fn month(
        &mut self,
        journal: &Journal,
        name: &str,
        dir: &Path,
        scratch: &Scratch,
    ) -> Result<Option<Copied>, BackupError> {
        match journal.copy_file(name, &scratch.media) {
            Ok(copied) => {
                self.copied(name, scratch)?;
                Ok(Some(copied))
            }
            Err(error @ (StoreError::Damaged { .. } | StoreError::Altered { .. }))
                if journal.file_names().last().is_some_and(|last| last != name) =>
            {
                scratch.media.remove_file(name);
                self.note(format!("{error}: it is in the backup as it is"));
                self.file(name, &dir.join(name))?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn imports(&mut self, dir: &Path) -> Result<(), BackupError> {
        let folder = dir.join(IMPORTS);
        if !folder.exists() {
            return Ok(());
        }
        for name in Media::Folder(folder.clone()).names()? {
            let (member, path) = (format!("{IMPORTS}/{name}"), folder.join(&name));
            if super::may_be_in(&member) && path.is_file() {
                self.file(&member, &path)?;
            } else {
                self.note(format!("`{member}` is no imported file and is left out"));
            }
        }
        Ok(())
    }
}

/// A folder for copies, empty at first and gone at the end.
struct Scratch {
    path: std::path::PathBuf,
    media: Media,
}

impl Scratch {
    fn new(dir: &Path) -> Result<Scratch, BackupError> {
        let path = dir.join(SCRATCH);
        let failed = |e: std::io::Error| BackupError::failed(&format!("`{}`", path.display()), &e);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed)?;
        }
        fs::create_dir(&path).map_err(failed)?;
        Ok(Scratch { media: Media::Folder(path.clone()), path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next backup tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}
