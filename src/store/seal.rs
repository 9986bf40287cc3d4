//! What secrets are sealed with: the root key, keys derived from it, and AES-256-GCM with random nonces.
//!
//! The root key (32 bytes) comes from exactly one source: the systemd credential `wb-root`, the variable
//! `WEIGHBRIDGE_ROOT_KEY` (64 hex digits), or the file `root.key` (0400) of the data folder, which the first start makes
//! if there is no other. It wraps the key-encryption key of each file ([`Envelope`]); those wrap or seal everything else,
//! so that a change of the root key rewrites one small value per file. Nothing here prints.

use std::fmt;
use std::io::Write;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};
use redb::{ReadableTable, TableDefinition};
use zeroize::Zeroizing;

use crate::domain::Environment;
use crate::domain::key::{Secret, SecretKind};

use super::StoreError;
use super::media::Media;
use super::small::SmallFile;

const NONCE: usize = 12;
/// Wrapped keys of a file.
pub const KEKS: TableDefinition<u32, &[u8]> = TableDefinition::new("kek.v1");

/// Random bytes from the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random generator gives bytes once the system is up");
    bytes
}

/// A new secret from the operating system's randomness. Only an operator's has no environment.
pub fn new_secret(kind: SecretKind, environment: Option<Environment>) -> Result<Secret, StoreError> {
    let mut failed = false;
    let secret = Secret::generate(kind, environment, |bytes| failed |= rand::fill(bytes).is_err());
    match failed {
        true => Err(StoreError::Refused("the operating system gave no randomness: no secret was made".into())),
        false => Ok(secret),
    }
}

/// The root key and what is derived from it.
pub struct RootKey {
    wrapping: Sealer,
    /// Key of stored credential hashes.
    pub pepper: hmac::Key,
    /// Key of content fingerprints.
    pub fingerprints: hmac::Key,
}

impl RootKey {
    fn from_bytes(bytes: &[u8; 32]) -> RootKey {
        let derive = |label: &str| {
            let salt = hkdf::Salt::none(hkdf::HKDF_SHA256);
            let mut key = Zeroizing::new([0u8; 32]);
            let prk = salt.extract(bytes);
            let label = [label.as_bytes()];
            let okm = prk.expand(&label, hkdf::HKDF_SHA256).expect("32 bytes are fewer than HKDF's 8,160");
            okm.fill(key.as_mut_slice()).expect("the length is the one asked for");
            key
        };
        let mac = |label| hmac::Key::new(hmac::HMAC_SHA256, derive(label).as_slice());
        RootKey {
            wrapping: Sealer::new(&derive("wb/wrap/v1")),
            pepper: mac("wb/keyhash/v1"),
            fingerprints: mac("wb/fingerprint/v1"),
        }
    }

    /// The root key of a data folder, if there is one: for readers, who make nothing.
    pub fn find(media: &Media) -> Result<Option<RootKey>, StoreError> {
        match media {
            Media::Folder(dir) if !RootKey::is_given() && !dir.join("root.key").exists() => Ok(None),
            _ => RootKey::load(media).map(Some),
        }
    }

    /// Whether it comes from outside the data folder.
    pub fn is_given() -> bool {
        std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|d| Path::new(&d).join("wb-root").exists())
            || std::env::var_os("WEIGHBRIDGE_ROOT_KEY").is_some()
    }

    /// The root key of a data folder, made at its first start. A folder in memory has one of its own.
    pub fn load(media: &Media) -> Result<RootKey, StoreError> {
        let Media::Folder(dir) = media else {
            let name = "root.key";
            let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{name}`: {e}"));
            let kept = media.read_side(name).map_err(unwritable)?.and_then(|b| <[u8; 32]>::try_from(b).ok());
            let bytes = kept.unwrap_or_else(random);
            if kept.is_none() {
                media.replace_side(name, &bytes).map_err(unwritable)?;
            }
            return Ok(RootKey::from_bytes(&bytes));
        };
        if let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            let path = Path::new(&credentials).join("wb-root");
            if path.exists() {
                return read_key(&path).map(|b| RootKey::from_bytes(&b));
            }
        }
        if let Ok(text) = std::env::var("WEIGHBRIDGE_ROOT_KEY") {
            let text = Zeroizing::new(text);
            tracing::warn!("the root key comes from the environment, where other processes of this user can read it");
            return parse_key(text.as_bytes(), "WEIGHBRIDGE_ROOT_KEY").map(|b| RootKey::from_bytes(&b));
        }
        let path = dir.join("root.key");
        if !path.exists() {
            make_key(&path).map_err(|e| StoreError::Unwritable(format!("`{}`: {e}", path.display())))?;
            tracing::info!(path = %path.display(), "made a root key: keep a copy where backups of the data are not");
        }
        read_key(&path).map(|b| RootKey::from_bytes(&b))
    }
}

fn make_key(path: &Path) -> std::io::Result<()> {
    write_key(path, &Zeroizing::new(random()))
}

/// Puts a copy of the root key in `from` where a data folder has its own.
pub fn copy_key(from: &Path, path: &Path) -> Result<(), StoreError> {
    let key = read_key(from)?;
    write_key(path, &key).map_err(|e| StoreError::Unwritable(format!("`{}`: {e}", path.display())))
}

fn write_key(path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o400);
    let mut file = options.open(path)?;
    file.write_all(key)?;
    file.sync_all()
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let bytes = std::fs::read(path).map(Zeroizing::new);
    let bytes =
        bytes.map_err(|e| StoreError::Refused(format!("cannot read the root key `{}`: {e}", path.display())))?;
    parse_key(&bytes, &path.display().to_string())
}

/// 32 bytes, or 64 hex digits with white space around them.
fn parse_key(bytes: &[u8], source: &str) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let raw = if bytes.len() == 32 {
        Some(Zeroizing::new(bytes.to_vec()))
    } else {
        data_encoding::HEXLOWER_PERMISSIVE.decode(bytes.trim_ascii()).ok().map(Zeroizing::new)
    };
    raw.and_then(|raw| <[u8; 32]>::try_from(raw.as_slice()).ok())
        .map(Zeroizing::new)
        .ok_or_else(|| StoreError::Refused(format!("the root key in `{source}` is not 32 bytes or 64 hex digits")))
}

/// Seals and opens under one key. Each seal has a random nonce, so one key is good for 2³² values.
pub struct Sealer(RandomizedNonceKey);

impl Sealer {
    pub fn new(key: &[u8; 32]) -> Sealer {
        Sealer(RandomizedNonceKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
    }

    /// Nonce, then ciphertext and tag.
    pub fn seal(&self, associated: &[u8], clear: &[u8]) -> Vec<u8> {
        let mut text = clear.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(associated), &mut text)
            .expect("sealing fails only for values of many gigabytes");
        [nonce.as_ref().as_slice(), &text].concat()
    }

    /// `None` where key, place or bytes are not those of the sealing.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self.0.open_in_place(nonce, Aad::from(associated), text.as_mut_slice()).ok()?.len();
        text.truncate(clear);
        Some(text)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

/// The key-encryption keys of one file: random, wrapped by the root key, numbered; the newest seals.
#[derive(Debug)]
pub struct Envelope {
    keys: Vec<(u32, Sealer)>,
}

impl Envelope {
    /// Unwraps the file's keys; the first opening makes the first.
    pub fn open(file: &SmallFile, root: &RootKey) -> Result<Envelope, StoreError> {
        let name = file.name;
        let kept = file.read(|txn| {
            let table = match txn.open_table(KEKS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let rows = table.iter()?.map(|row| row.map(|(id, key)| (id.value(), key.value().to_vec())));
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })?;
        let mut keys = Vec::new();
        for (id, wrapped) in kept {
            let key = root.wrapping.open(&label(name, id), &wrapped).ok_or_else(|| {
                StoreError::Refused(format!(
                    "the root key does not open `{name}`: give the one this data folder was made with"
                ))
            })?;
            let key: Zeroizing<[u8; 32]> = Zeroizing::new(key.as_slice().try_into().map_err(|_| {
                StoreError::Damaged { file: name.into(), what: "a wrapped key has the wrong length".into() }
            })?);
            keys.push((id, Sealer::new(&key)));
        }
        if keys.is_empty() {
            let key = Zeroizing::new(random::<32>());
            let wrapped = root.wrapping.seal(&label(name, 1), key.as_slice());
            file.write(|txn| {
                txn.open_table(KEKS)?.insert(1, wrapped.as_slice())?;
                Ok(())
            })?;
            keys.push((1, Sealer::new(&key)));
        }
        Ok(Envelope { keys })
    }

    /// Number of the key, then the sealed value. `row` names table, row and version.
    pub fn seal(&self, row: &str, clear: &[u8]) -> Vec<u8> {
        let (id, sealer) = self.keys.last().expect("opening leaves at least one key");
        [id.to_le_bytes().as_slice(), &sealer.seal(row.as_bytes(), clear)].concat()
    }

    pub fn open_value(&self, row: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (id, sealed) = sealed.split_first_chunk::<4>()?;
        let id = u32::from_le_bytes(*id);
        self.keys.iter().find(|(known, _)| *known == id)?.1.open(row.as_bytes(), sealed)
    }
}

fn label(name: &str, id: u32) -> Vec<u8> {
    format!("kek.v1/{name}/{id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_never_prints() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal(b"secret.v1/openai/1", b"sk-very-secret");
        assert_eq!(sealed.len(), b"sk-very-secret".len() + NONCE + 16);
        assert_eq!(sealer.open(b"secret.v1/openai/1", &sealed).unwrap().as_slice(), b"sk-very-secret");
        assert!(sealer.open(b"secret.v1/anthropic/1", &sealed).is_none());
        assert!(Sealer::new(&[8; 32]).open(b"secret.v1/openai/1", &sealed).is_none());
        assert!(sealer.open(b"", &sealed[..5]).is_none());
        assert_eq!(format!("{sealer:?}"), "Sealer(***)");
    }

    #[test]
    fn root_keys_are_bytes_or_hex() {
        let hex = format!("{}\n", "0A".repeat(32));
        assert_eq!(parse_key(hex.as_bytes(), "test").unwrap().as_slice(), [10; 32]);
        assert_eq!(parse_key(&[10; 32], "test").unwrap().as_slice(), [10; 32]);
        assert!(parse_key(b"short", "test").unwrap_err().to_string().contains("`test` is not 32 bytes"));
    }
}
