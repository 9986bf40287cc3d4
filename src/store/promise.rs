//! What was promised before, against what is there: run at every start, before anything is replayed.
//!
//! Two witnesses in the folder outlive the journal's files: `head.log` (lines of size and root, some with a signed note)
//! and the signer's last checkpoint in `core.redb`. A journal that is shorter than either, or has another root there, was
//! truncated, replaced or restored; a `head.log` that ends before the last checkpoint was cut or deleted. None of it is
//! taken for normal, an empty folder with a memory least of all. Both gone together with the journal leaves nothing
//! here: only a checkpoint held elsewhere tells then.

use super::StoreError;
use super::core::Core;
use super::keeper::{self, HEAD_LOG, Noted};
use super::media::Media;
use super::reader::Reader;
use super::signer::{self, Signed};

/// Whatever is known of a tree, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub epoch: u64,
    pub size: u64,
    pub root: [u8; 32],
    /// The signed note, where it is one.
    pub note: Option<String>,
    pub by: &'static str,
}

/// The farthest promises of `head.log` and of `core.redb`.
pub fn promises(media: &Media, core: &Core) -> Result<(Vec<Noted>, Option<Signed>), StoreError> {
    Ok((keeper::read_head_log(media)?, signer::last_signed(core)?))
}

/// Refuses a journal that is behind or beside what was promised.
pub fn check(media: &Media, core: &Core, reader: &Reader, size: u64) -> Result<(), StoreError> {
    let (lines, signed) = promises(media, core)?;
    let farthest = lines.iter().max_by_key(|line| (line.epoch, line.size));
    if let Some(line) = farthest {
        compare(reader, size, &Promise::from(line))?;
    }
    if let Some(signed) = &signed {
        compare(reader, size, &Promise::from(signed))?;
        let noted = |line: &Noted| (line.epoch, line.size) >= (signed.epoch, signed.size);
        if !lines.iter().any(noted) {
            let what = format!(
                "`{HEAD_LOG}` was deleted or cut short: it does not have the checkpoint of {} entries that was signed",
                signed.size
            );
            return Err(StoreError::Rollback { what });
        }
    }
    if let Some((at, _)) = reader.journal.checkpoint_from(size + 1)? {
        let what = format!("a checkpoint of {at} entries is stored and the journal has {size}");
        return Err(StoreError::Rollback { what });
    }
    // A crash may leave the very first note in `head.log` alone, but never without the key that signed it.
    let by_key = lines.iter().any(|line| line.note.is_some() && line.epoch == reader.journal.epoch);
    if by_key && !signer::has_key(core, reader.journal.epoch)? {
        let what = format!(
            "`{HEAD_LOG}` has signed checkpoints and `core.redb` no key: it is not the file they were signed with"
        );
        return Err(StoreError::Rollback { what });
    }
    Ok(())
}

fn compare(reader: &Reader, size: u64, promise: &Promise) -> Result<(), StoreError> {
    let by = promise.by;
    let rollback = |what: String| Err(StoreError::Rollback { what });
    if promise.epoch < reader.journal.epoch {
        // Of an epoch that was ended because of it, perhaps.
        return Ok(());
    }
    if promise.epoch > reader.journal.epoch {
        return rollback(format!(
            "`{by}` is of epoch {}, the journal of epoch {}",
            promise.epoch, reader.journal.epoch
        ));
    }
    if promise.size > size {
        return rollback(format!("`{by}` has {} entries, the journal {size}", promise.size));
    }
    if reader.root(promise.size)? != promise.root {
        return rollback(format!("the first {} entries are not those that `{by}` was written for", promise.size));
    }
    Ok(())
}

impl From<&Noted> for Promise {
    fn from(line: &Noted) -> Promise {
        Promise { epoch: line.epoch, size: line.size, root: line.root, note: line.note.clone(), by: HEAD_LOG }
    }
}

impl From<&Signed> for Promise {
    fn from(signed: &Signed) -> Promise {
        let note = Some(signed.note.clone());
        Promise { epoch: signed.epoch, size: signed.size, root: signed.root, note, by: "core.redb" }
    }
}
