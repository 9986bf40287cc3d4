//! Transactions of a redb file in our words: its errors and its panics become [`StoreError`]s.

use redb::{Durability, ReadTransaction, WriteTransaction};

use crate::store::StoreError;
use crate::store::media::{File, catch};

/// Eight bytes at a place, little-endian.
pub fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub fn damaged(file: &str, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { file: file.into(), what: what.into() }
}

/// `None` where the table was never made.
pub fn absent<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, redb::TableError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Runs `f` in a read transaction; redb's errors and panics become ours.
pub fn reading<T>(
    name: &str,
    file: &File,
    f: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    catch(name, || f(&file.read()?))?.map_err(|e| explain(name, e))
}

/// Runs `f` in a write transaction and commits it, durable when this returns.
pub fn writing<T>(
    name: &str,
    file: &File,
    f: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let File::Writable(db) = file else {
        return Err(StoreError::Unwritable(format!("`{name}` is open for reading only")));
    };
    let write = || {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        let result = f(&txn)?;
        txn.commit()?;
        Ok::<T, redb::Error>(result)
    };
    catch(name, write)?.map_err(|e| explain(name, e))
}

/// redb's error in our words.
pub fn explain(name: &str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. } => damaged(name, error.to_string()),
        redb::Error::Io(e) => StoreError::io(name, &e),
        other => StoreError::Unwritable(format!("`{name}`: {other}")),
    }
}
