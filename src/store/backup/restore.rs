//! Makes a data folder of a backup, and begins a new epoch in it.
//!
//! What was recorded after the backup may still be held by somebody (a signed checkpoint, a proof, an answer), so the
//! restored journal must not go on under its old name: it would sign another history. That is not left to the operator.
//! Everything is made in a folder inside the one that is to be, new epoch included, and then moved to its place, what
//! makes a journal of it last: a crash in between leaves nothing that would start.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::ledger::tree::Tree;
use crate::store::clock::Clock;
use crate::store::epoch::{self, Begun};
use crate::store::journal::{Journal, Mode, month_of};
use crate::store::keeper::HEAD_LOG;
use crate::store::ledger::{lock_folder, make_folder};
use crate::store::media::Media;
use crate::store::seal::{self, RootKey};

use super::{BackupError, IMPORTS, Manifest, check, walk};

/// Where the folder is made, in itself.
const SCRATCH: &str = "restore.tmp";
const LOCK: &str = "lock";
const ROOT_KEY: &str = "root.key";

/// Where the root key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    /// The systemd credential or the variable, as `serve` will have it too.
    Environment,
    /// A file, of which the folder gets a copy.
    File,
}

/// A backup that was checked, and a folder it can be restored to.
pub struct Plan {
    pub manifest: Manifest,
    pub key: KeyFrom,
    file: PathBuf,
    dir: PathBuf,
    root_key: Option<PathBuf>,
}

/// What was done.
pub struct Restored {
    pub manifest: Manifest,
    pub begun: Begun,
}

impl Plan {
    /// Checks everything that can be checked before a byte is written.
    pub fn new(file: &Path, dir: &Path, root_key: Option<&Path>) -> Result<Plan, BackupError> {
        let key = match (root_key, RootKey::is_given()) {
            (Some(_), false) => KeyFrom::File,
            (None, true) => KeyFrom::Environment,
            (Some(_), true) => {
                let why = "the root key is given twice, by --root-key and by the environment: leave one away";
                return Err(BackupError::Refused(why.into()));
            }
            (None, false) => {
                let why = "a backup never has the root key, and nothing in it opens without: give a copy of the `root.key` \
                           of the folder it was made of with --root-key FILE, or set WEIGHBRIDGE_ROOT_KEY as serve does";
                return Err(BackupError::Refused(why.into()));
            }
        };
        let must_be_empty = || {
            let why = "is not empty: restore goes into an empty or missing folder only, and touches no other";
            Err(BackupError::Refused(format!("`{}` {why}", dir.display())))
        };
        // A file system of its own has that one from its making.
        let counts =
            |entry: &std::io::Result<fs::DirEntry>| !entry.as_ref().is_ok_and(|e| e.file_name() == "lost+found");
        match fs::read_dir(dir).map(|entries| entries.filter(counts).count()) {
            Ok(1..) => return must_be_empty(),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return must_be_empty(),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(dir, &e)),
            _ => {}
        }
        let manifest = check(&mut open(file)?)?;
        Ok(Plan { manifest, key, file: file.into(), dir: dir.into(), root_key: root_key.map(Into::into) })
    }
}

/// Does it. Whatever goes wrong, the folder is empty or missing again afterwards.
pub fn restore(plan: &Plan, clock: &dyn Clock) -> Result<Restored, BackupError> {
    let existed = plan.dir.exists();
    make_folder(&plan.dir).map_err(|e| failed(&plan.dir, &e))?;
    let done = restore_locked(plan, clock);
    if done.is_err() {
        // It was empty: everything in it is ours.
        let _ = fs::remove_dir_all(plan.dir.join(SCRATCH));
        let _ = fs::remove_file(plan.dir.join(LOCK));
        if !existed {
            let _ = fs::remove_dir(&plan.dir);
        }
    }
    done
}

fn restore_locked(plan: &Plan, clock: &dyn Clock) -> Result<Restored, BackupError> {
    let lock = lock_folder(&plan.dir)?;
    let scratch = plan.dir.join(SCRATCH);
    make_folder(&scratch).map_err(|e| failed(&scratch, &e))?;
    if let Some(from) = &plan.root_key {
        seal::copy_key(from, &scratch.join(ROOT_KEY))?;
    }
    let manifest = unpack(&plan.file, &scratch)?;
    if manifest != plan.manifest {
        return Err(BackupError::Unsound("it was changed while it was read".into()));
    }
    let media = Media::Folder(scratch.clone());
    check_journal(&media, &manifest)?;
    let reason = format!(
        "restored from the backup of {}, {} entries of epoch {}",
        manifest.made_at, manifest.size, manifest.epoch
    );
    let begun = epoch::begin(&media, clock, &reason)?;
    move_up(&scratch, &plan.dir, begun.epoch)?;
    drop(lock);
    Ok(Restored { manifest, begun })
}

/// Every member, checked again, in a file that is on disk.
fn unpack(file: &Path, to: &Path) -> Result<Manifest, BackupError> {
    let mut made: Vec<PathBuf> = Vec::new();
    let manifest = walk(&mut open(file)?, &mut |name| {
        let path = to.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent).map_err(|e| failed(parent, &e))?;
        }
        let mut options = File::options();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let out = options.open(&path).map_err(|e| failed(&path, &e))?;
        made.push(path);
        Ok(Box::new(out) as Box<dyn Write>)
    })?;
    for path in made {
        File::open(&path).and_then(|file| file.sync_all()).map_err(|e| failed(&path, &e))?;
    }
    Ok(manifest)
}

/// The journal is of the size and root that the manifest says: what is carried over is the state after its last entry.
fn check_journal(media: &Media, manifest: &Manifest) -> Result<(), BackupError> {
    let unsound = |what: String| Err(BackupError::Unsound(what));
    let journal = Journal::open(media.clone(), Mode::Read)?;
    let (size, edge) = journal.last_edge()?.unwrap_or_default();
    let epoch = journal.epoch;
    journal.close()?;
    let root = Tree::from_edge(size, edge).map(|tree| HEXLOWER.encode(&tree.root()));
    match root {
        Ok(root) if (epoch, size) == (manifest.epoch, manifest.size) && root == manifest.root => Ok(()),
        Ok(root) => unsound(format!(
            "its journal has {size} entries of epoch {epoch} with root {root}, its manifest says {} of epoch {} with root {}",
            manifest.size, manifest.epoch, manifest.root
        )),
        Err(error) => unsound(error.to_string()),
    }
}

/// What makes a folder start comes last: `head.log` tells of an epoch that is not there until the very end.
fn move_up(from: &Path, to: &Path, epoch: u64) -> Result<(), BackupError> {
    let mut names = Media::Folder(from.into()).names()?;
    names.retain(|name| name != LOCK);
    let rank = |name: &String| match month_of(name) {
        Some((of, _)) if of == epoch => 3,
        Some(_) => 2,
        None if name == HEAD_LOG => 0,
        None => 1,
    };
    names.sort_by_key(rank);
    let mut moved = Vec::new();
    let done = names.iter().try_for_each(|name| {
        fs::rename(from.join(name), to.join(name)).map_err(|e| failed(&to.join(name), &e))?;
        moved.push(to.join(name));
        Ok(())
    });
    if done.is_err() {
        for path in moved {
            let _ = if path.ends_with(IMPORTS) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        return done;
    }
    fs::remove_dir_all(from).map_err(|e| failed(from, &e))?;
    File::open(to).and_then(|dir| dir.sync_all()).map_err(|e| failed(to, &e))
}

fn open(file: &Path) -> Result<impl Read, BackupError> {
    let opened = File::open(file).map_err(|e| failed(file, &e))?;
    Ok(std::io::BufReader::with_capacity(1 << 20, opened))
}

fn failed(path: &Path, error: &std::io::Error) -> BackupError {
    BackupError::failed(&format!("`{}`", path.display()), error)
}
