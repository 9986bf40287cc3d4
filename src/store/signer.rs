//! Signs checkpoints of the journal's tree, and remembers what it signed, so that it never signs two histories.
//!
//! The key is Ed25519, made at the first start, sealed in `core.redb` and never shown; others get its vkey, which a KEY
//! entry puts on record before anything is signed with it. Origin and key name are one:
//! `<organisation>/weighbridge/<instance>/<epoch>`, fixed while the key lives.
//!
//! A checkpoint is written to `head.log` first, then to `core.redb`, then to the journal's file, and only then handed
//! out. So at a start `head.log` has whatever `core.redb` has, and the journal has the entries of both; anything else is
//! a rollback ([`super::promise`]). What was signed last binds the next: a smaller tree, or one that does not begin with
//! it, is refused, and that is shown by a consistency proof from the stored tiles, not by what the writer says.
//!
//! The schedule is the keeper's: every minute if the size changed, every 4,096 entries, at the end; and whenever somebody
//! asks for a proof or a checkpoint. The keeper's thread signs; the path of a call knows nothing of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ledger::note::{self, Checkpoint, Note, Verifier};
use crate::ledger::tree;

use super::core::Core;
use super::keeper::{self, Noted};
use super::media::Media;
use super::reader::Reader;
use super::seal::random;
use super::writer::unpoisoned;
use super::{Head, StoreError};

/// Longest organisation name in an origin, in characters.
const MAX_NAME: usize = 64;

const KEY: &str = "signing-key";
const NEXT_KEY: &str = "signing-key-next";
const SIGNED: &str = "signed";
const INSTANCE: &str = "instance";

/// What was signed: the newest checkpoint there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub epoch: u64,
    /// Entries.
    pub size: u64,
    pub root: [u8; 32],
    /// The whole signed note.
    pub note: String,
}

#[derive(Serialize, Deserialize)]
struct KeyRow {
    origin: String,
    sealed: Vec<u8>,
    /// Counts the keys of this folder: no two rows are sealed alike.
    version: u32,
    /// A KEY entry with its vkey is in the journal.
    announced: bool,
}

struct Key {
    row: KeyRow,
    signer: note::Signer,
}

#[derive(Default)]
struct State {
    key: Option<Key>,
    /// Being rotated to.
    next: Option<Key>,
    last: Option<Signed>,
}

/// The one signer of a data folder.
pub struct Signer {
    media: Media,
    core: Arc<Core>,
    reader: Arc<Reader>,
    state: Mutex<State>,
    /// A key is on record.
    ready: AtomicBool,
    /// Bytes appended to `head.log` since it was cut; held while one is.
    log: Mutex<usize>,
}

impl Signer {
    /// Reads key and what was signed last; makes nothing.
    pub fn open(media: Media, core: Arc<Core>, reader: Arc<Reader>) -> Result<Signer, StoreError> {
        let epoch = reader.journal.epoch;
        let kept = last_signed(&core)?.filter(|signed| signed.epoch == epoch);
        // `head.log` may have one more: it is written first.
        let noted = keeper::read_head_log(&media)?.into_iter().filter(|line| line.epoch == epoch);
        let noted = noted.filter_map(Signed::from_line).max_by_key(|signed| signed.size);
        let last = kept.into_iter().chain(noted).max_by_key(|signed| signed.size);
        let mut state = State { key: load(&core, KEY)?, next: load(&core, NEXT_KEY)?, last };
        // A key signs under the origin of one epoch.
        let origin_ends = format!("/{epoch}");
        state.key = state.key.filter(|key| key.row.origin.ends_with(&origin_ends));
        state.next = state.next.filter(|key| key.row.origin.ends_with(&origin_ends));
        let ready = AtomicBool::new(state.key.as_ref().is_some_and(|key| key.row.announced));
        let size = media.read_side(keeper::HEAD_LOG).ok().flatten().map_or(0, |bytes| bytes.len());
        Ok(Signer { media, core, reader, state: Mutex::new(state), ready, log: Mutex::new(size) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    /// The vkey that a KEY entry must put on record before anything is signed; makes the key if there is none. `None`
    /// once that was done.
    pub fn unannounced(&self, organisation: &str) -> Result<Option<String>, StoreError> {
        let mut state = self.lock();
        if state.key.is_none() {
            let origin =
                format!("{}/weighbridge/{}/{}", slug(organisation), self.instance()?, self.reader.journal.epoch);
            let version = version_after(&self.core)?;
            state.key = Some(make(&self.core, KEY, origin, version)?);
        }
        Ok(state.key.as_ref().filter(|key| !key.row.announced).map(Key::vkey))
    }

    /// The KEY entry is on disk.
    pub fn announced(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        let Some(key) = state.key.as_mut() else { return Ok(()) };
        key.row.announced = true;
        self.core.put_ledger_rows(&[(KEY, Core::ledger_bytes(&key.row))], &[])?;
        self.ready.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Makes the next key, or finds the one that a crash left half-way; its vkey.
    pub fn begin_rotation(&self) -> Result<String, StoreError> {
        let mut state = self.lock();
        let Some(key) = state.key.as_ref().filter(|key| key.row.announced) else { return Err(no_key()) };
        let (origin, version) = (key.row.origin.clone(), key.row.version + 1);
        if state.next.is_none() {
            state.next = Some(make(&self.core, NEXT_KEY, origin, version)?);
        }
        Ok(state.next.as_ref().map(Key::vkey).unwrap_or_default())
    }

    /// Whether a rotation was begun and not finished.
    pub fn is_rotating(&self) -> bool {
        self.lock().next.is_some()
    }

    /// The next key's KEY entry is on disk: signs one checkpoint with both, and the new key is the key.
    pub fn finish_rotation(&self, head: &Head) -> Result<Signed, StoreError> {
        let mut state = self.lock();
        let Some(next) = state.next.take() else { return Err(no_key()) };
        let signed = self.check(&state, head).and_then(|checkpoint| {
            let old = state.key.as_ref().ok_or_else(no_key)?;
            let text = checkpoint.text();
            let both = old.signer.sign(&text).and_then(|note| Ok(note + &next.signer.line(&text)?));
            both.map_err(|e| StoreError::Refused(e.to_string()))
        });
        let signed = signed.map(|note| Signed { epoch: head.epoch, size: head.size, root: head.root, note });
        let row =
            KeyRow { announced: true, sealed: next.row.sealed.clone(), origin: next.row.origin.clone(), ..next.row };
        let kept = signed.and_then(|signed| {
            self.keep(&signed, &[(KEY, Core::ledger_bytes(&row))], &[NEXT_KEY])?;
            Ok(signed)
        });
        match kept {
            Ok(signed) => {
                state.key = Some(Key { row, signer: next.signer });
                state.last = Some(signed.clone());
                Ok(signed)
            }
            Err(error) => {
                state.next = Some(Key { row, signer: next.signer });
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub fn seed(&self) -> [u8; 32] {
        let state = self.lock();
        let row = &state.key.as_ref().unwrap().row;
        let seed = self.core.open_ledger_secret(&sealed_name(row.version), &row.sealed).unwrap();
        seed.as_slice().try_into().unwrap()
    }

    /// The newest checkpoint.
    pub fn last(&self) -> Option<Signed> {
        self.lock().last.clone()
    }

    /// The key others verify with; none before [`Signer::announced`].
    pub fn vkey(&self) -> Option<String> {
        self.lock().key.as_ref().filter(|key| key.row.announced).map(Key::vkey)
    }

    /// Whether there is a key to sign with; takes no lock.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Signs the head, unless it is signed already. Refuses what does not continue what was signed last.
    pub fn sign(&self, head: &Head) -> Result<Signed, StoreError> {
        let mut state = self.lock();
        let checkpoint = self.check(&state, head)?;
        // Asked by two at once: the second may come with the older head.
        if let Some(last) = state.last.as_ref().filter(|last| last.size == head.size) {
            return Ok(last.clone());
        }
        let key = state.key.as_ref().ok_or_else(no_key)?;
        let note = key.signer.sign(&checkpoint.text()).map_err(|e| StoreError::Refused(e.to_string()))?;
        let signed = Signed { epoch: head.epoch, size: head.size, root: head.root, note };
        self.keep(&signed, &[], &[])?;
        state.last = Some(signed.clone());
        Ok(signed)
    }

    /// The checkpoint to sign, if it continues the last one.
    fn check(&self, state: &State, head: &Head) -> Result<Checkpoint, StoreError> {
        let Some(key) = state.key.as_ref().filter(|key| key.row.announced) else { return Err(no_key()) };
        let refused = |why: &str| StoreError::Rollback {
            what: format!("a checkpoint of {} entries is not signed: {why}", head.size),
        };
        if head.epoch != self.reader.journal.epoch {
            return Err(refused("it is of another epoch"));
        }
        if let Some(last) = &state.last {
            if head.size < last.size {
                return Err(refused(&format!("one of {} entries was signed before", last.size)));
            }
            let mut nodes = self.reader.nodes(head.size);
            let proof = tree::consistency(last.size, head.size, |level, index| nodes.node(level, index))?;
            tree::verify_consistency(last.size, &last.root, head.size, &head.root, &proof)
                .map_err(|_| refused(&format!("it does not continue the one of {} entries", last.size)))?;
        }
        Ok(Checkpoint { origin: key.row.origin.clone(), size: head.size, root: head.root })
    }

    /// On disk before anybody has it, in the order the start relies on.
    fn keep(&self, signed: &Signed, rows: &[(&str, Vec<u8>)], gone: &[&str]) -> Result<(), StoreError> {
        let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{}`: {e}", keeper::HEAD_LOG));
        self.append(&signed.line()).map_err(unwritable)?;
        let mut all = vec![(SIGNED, Core::ledger_bytes(signed))];
        all.extend(rows.iter().map(|(name, bytes)| (*name, bytes.clone())));
        self.core.put_ledger_rows(&all, gone)?;
        if let Err(error) = self.reader.journal.put_checkpoint(signed.size, &signed.note) {
            tracing::warn!(%error, size = signed.size, "a checkpoint is signed and not in the journal's file");
        }
        Ok(())
    }

    /// Adds a line to `head.log`, and cuts the file where it has grown long.
    pub fn append(&self, line: &str) -> std::io::Result<()> {
        let mut size = unpoisoned(self.log.lock());
        self.media.append_side(keeper::HEAD_LOG, line.as_bytes())?;
        *size += line.len();
        if *size > keeper::HEAD_LOG_LIMIT {
            *size = 0;
            if let Err(error) = keeper::shorten(&self.media) {
                tracing::warn!(%error, "`head.log` was not cut");
            }
        }
        Ok(())
    }

    /// The id of this installation, made once.
    fn instance(&self) -> Result<String, StoreError> {
        if let Some(id) = self.core.ledger_row::<String>(INSTANCE)? {
            return Ok(id);
        }
        let id = uuid::Uuid::now_v7().to_string();
        self.core.put_ledger_rows(&[(INSTANCE, Core::ledger_bytes(&id))], &[])?;
        Ok(id)
    }
}

impl Signed {
    fn from_line(line: Noted) -> Option<Signed> {
        Some(Signed { epoch: line.epoch, size: line.size, root: line.root, note: line.note? })
    }

    fn line(&self) -> String {
        let noted = Noted { epoch: self.epoch, size: self.size, root: self.root, note: Some(self.note.clone()) };
        format!("{noted}\n")
    }

    /// The origin that its text names.
    pub fn origin(&self) -> &str {
        self.note.split('\n').next().unwrap_or_default()
    }
}

impl Key {
    fn vkey(&self) -> String {
        self.signer.verifier().to_string()
    }
}

/// The row by which `core.redb` says what was signed last.
pub fn signed_row(signed: Option<&Signed>) -> (&'static str, Option<Vec<u8>>) {
    (SIGNED, signed.map(Core::ledger_bytes))
}

/// What `core.redb` says was signed last.
pub fn last_signed(core: &Core) -> Result<Option<Signed>, StoreError> {
    core.ledger_row(SIGNED)
}

/// Whether there is a key that signs checkpoints of this epoch.
pub fn has_key(core: &Core, epoch: u64) -> Result<bool, StoreError> {
    Ok(core.ledger_row::<KeyRow>(KEY)?.is_some_and(|row| row.origin.ends_with(&format!("/{epoch}"))))
}

fn load(core: &Core, name: &str) -> Result<Option<Key>, StoreError> {
    let Some(row) = core.ledger_row::<KeyRow>(name)? else { return Ok(None) };
    let seed = core.open_ledger_secret(&sealed_name(row.version), &row.sealed)?;
    let seed = Zeroizing::new(<[u8; 32]>::try_from(seed.as_slice()).map_err(|_| bad("it has not 32 bytes"))?);
    let signer = note::Signer::from_seed(&row.origin, &seed).map_err(|e| bad(&e.to_string()))?;
    Ok(Some(Key { row, signer }))
}

fn make(core: &Core, name: &str, origin: String, version: u32) -> Result<Key, StoreError> {
    let seed = Zeroizing::new(random::<32>());
    let signer = note::Signer::from_seed(&origin, &seed).map_err(|e| bad(&e.to_string()))?;
    let sealed = core.seal_ledger_secret(&sealed_name(version), seed.as_slice());
    let row = KeyRow { origin, sealed, version, announced: false };
    core.put_ledger_rows(&[(name, Core::ledger_bytes(&row))], &[])?;
    Ok(Key { row, signer })
}

/// The number of a key after all there were, also those of earlier epochs.
fn version_after(core: &Core) -> Result<u32, StoreError> {
    let mut newest = 0;
    for name in [KEY, NEXT_KEY] {
        newest = newest.max(core.ledger_row::<KeyRow>(name)?.map_or(0, |row| row.version));
    }
    Ok(newest + 1)
}

fn sealed_name(version: u32) -> String {
    format!("ledger.v1/signing-key/{version}")
}

fn bad(what: &str) -> StoreError {
    StoreError::Damaged { file: "core.redb".into(), what: format!("the signing key: {what}") }
}

fn no_key() -> StoreError {
    StoreError::Refused("there is no signing key yet: the first `weighbridge serve` on this folder makes it".into())
}

/// A name as it may stand in an origin, which is the name of a key: no space, no plus, no slash.
fn slug(organisation: &str) -> String {
    let allowed = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: String = organisation.trim().to_lowercase().chars().take(MAX_NAME).map(allowed).collect();
    if name.is_empty() { "unnamed".into() } else { name }
}

/// The vkeys that a note's signatures could be by, among those given.
pub fn signed_by<'k>(note: &Note, keys: &'k [Verifier]) -> Option<&'k Verifier> {
    keys.iter().find(|key| note.verify(key).is_ok())
}
