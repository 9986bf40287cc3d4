//! `keys.redb`: the data keys under which what may name a person is sealed, one per tenant. Destroying a key erases, in
//! every copy of the journal, everything that was sealed under it.
//!
//! `data-key.v1`: number → (tenant, wrapped key) in postcard. Entries without a tenant use the organisation's own key,
//! whose tenant is the empty text. A key is on disk before anything is sealed with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::StoreError;
use super::block::SALT;
use super::media::Media;
use super::seal::{Envelope, KEKS, RootKey, Sealer, random};
use super::small::{SmallFile, Table};

/// Name of the file.
pub const NAME: &str = "keys.redb";
const DATA_KEYS: TableDefinition<u32, &[u8]> = TableDefinition::new("data-key.v1");
/// Unwrapped keys kept in memory; past it they are unwrapped anew.
const CACHED: usize = 4_096;

#[derive(Serialize, Deserialize)]
struct Row {
    tenant: String,
    wrapped: Vec<u8>,
}

/// The data keys, unwrapped as they are needed.
pub struct DataKeys {
    file: SmallFile,
    envelope: Envelope,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Number of each tenant's newest key. Bounded by the tenants declared or permitted; 40 bytes each.
    by_tenant: HashMap<String, u32>,
    next: u32,
    unwrapped: HashMap<u32, Arc<Sealer>>,
}

impl DataKeys {
    pub fn open(media: &Media, root: &RootKey) -> Result<DataKeys, StoreError> {
        DataKeys::from_file(SmallFile::open(media, NAME)?, root)
    }

    /// Without the right to make keys; another process may have them open.
    pub fn open_read_only(media: &Media, root: &RootKey) -> Result<DataKeys, StoreError> {
        DataKeys::from_file(SmallFile::open_read_only(media, NAME)?, root)
    }

    fn from_file(file: SmallFile, root: &RootKey) -> Result<DataKeys, StoreError> {
        let envelope = Envelope::open(&file, root)?;
        let mut known = Known { next: 1, ..Known::default() };
        file.read(|txn| {
            let table = match txn.open_table(DATA_KEYS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for row in table.iter()? {
                let (id, value) = row?;
                if let Ok(row) = postcard::from_bytes::<Row>(value.value()) {
                    known.by_tenant.insert(row.tenant, id.value());
                }
                known.next = id.value() + 1;
            }
            Ok(())
        })?;
        Ok(DataKeys { file, envelope, known: Mutex::new(known) })
    }

    /// Copies the file.
    pub fn copy(&self, to: &Media) -> Result<(), StoreError> {
        self.file.copy(to, &[Table::Numbered(KEKS), Table::Numbered(DATA_KEYS)], &[])
    }

    /// Seals salt and group for a tenant; the value as `group.v1` has it. Makes the tenant's key if it has none.
    pub fn seal(&self, tenant: &str, place: &Place, salt: &[u8; SALT], group: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match known.by_tenant.get(tenant) {
            Some(id) => *id,
            None => self.make(&mut known, tenant)?,
        };
        let sealer = self.sealer(&mut known, id)?.ok_or_else(|| missing(id))?;
        drop(known);
        let clear = Zeroizing::new([salt.as_slice(), group].concat());
        Ok([id.to_le_bytes().as_slice(), &sealer.seal(&place.associated(), &clear)].concat())
    }

    /// Salt and group of a sealed value; `None` where its key was destroyed or does not fit.
    pub fn open_group(&self, place: &Place, sealed: &[u8]) -> Result<Option<Salted>, StoreError> {
        let Some((id, sealed)) = sealed.split_first_chunk::<4>() else { return Ok(None) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let sealer = self.sealer(&mut known, u32::from_le_bytes(*id))?;
        drop(known);
        Ok(sealer.and_then(|sealer| sealer.open(&place.associated(), sealed)).and_then(|clear| split(&clear)))
    }

    fn make(&self, known: &mut Known, tenant: &str) -> Result<u32, StoreError> {
        let id = known.next;
        let key = Zeroizing::new(random::<32>());
        let row = Row { tenant: tenant.into(), wrapped: self.envelope.seal(&row_name(id), key.as_slice()) };
        let row = postcard::to_stdvec(&row).expect("writing to memory does not fail");
        self.file.write(|txn| {
            txn.open_table(DATA_KEYS)?.insert(id, row.as_slice())?;
            Ok(())
        })?;
        known.next += 1;
        known.by_tenant.insert(tenant.into(), id);
        Ok(id)
    }

    fn sealer(&self, known: &mut Known, id: u32) -> Result<Option<Arc<Sealer>>, StoreError> {
        if let Some(sealer) = known.unwrapped.get(&id) {
            return Ok(Some(sealer.clone()));
        }
        let row = self.file.read(|txn| match txn.open_table(DATA_KEYS) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get(id)?.map(|value| value.value().to_vec())),
        })?;
        let Some(row) = row else { return Ok(None) };
        let unwrapped = postcard::from_bytes::<Row>(&row)
            .ok()
            .and_then(|row| self.envelope.open_value(&row_name(id), &row.wrapped))
            .and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok().map(Zeroizing::new));
        let key = unwrapped
            .ok_or_else(|| StoreError::Damaged { file: NAME.into(), what: format!("data key {id} does not unwrap") })?;
        if known.unwrapped.len() >= CACHED {
            known.unwrapped.clear();
        }
        let sealer = Arc::new(Sealer::new(&key));
        known.unwrapped.insert(id, sealer.clone());
        Ok(Some(sealer))
    }
}

/// A salt and the group it was committed with.
pub type Salted = ([u8; SALT], Vec<u8>);

/// Salt and group of `salt || group`.
pub fn split(clear: &[u8]) -> Option<Salted> {
    clear.split_first_chunk::<SALT>().map(|(salt, group)| (*salt, group.to_vec()))
}

/// Where a sealed group belongs.
pub struct Place {
    pub epoch: u64,
    pub seq: u64,
    pub group: u8,
}

impl Place {
    fn associated(&self) -> Vec<u8> {
        let mut bytes = b"group.v1".to_vec();
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.push(self.group);
        bytes
    }
}

fn row_name(id: u32) -> String {
    format!("data-key.v1/{id}/1")
}

fn missing(id: u32) -> StoreError {
    StoreError::Damaged { file: NAME.into(), what: format!("data key {id} is missing") }
}

#[cfg(test)]
mod tests {
    use super::super::media::Memory;
    use super::*;

    #[test]
    fn a_group_opens_in_its_place_also_after_the_file_was_closed() {
        let media = Media::Memory(Memory::new());
        let root = RootKey::load(&media).unwrap();
        let keys = DataKeys::open(&media, &root).unwrap();
        let place = |seq| Place { epoch: 0, seq, group: 2 };
        let one = keys.seal("acme", &place(1), &[1; SALT], b"ada").unwrap();
        let other = keys.seal("globex", &place(2), &[2; SALT], b"bob").unwrap();
        assert_ne!(one[..4], other[..4], "tenants have keys of their own");
        drop(keys);
        let keys = DataKeys::open(&media, &RootKey::load(&media).unwrap()).unwrap();
        assert_eq!(keys.open_group(&place(1), &one).unwrap(), Some(([1; SALT], b"ada".to_vec())));
        assert_eq!(keys.open_group(&place(2), &one).unwrap(), None);
        assert_eq!(keys.seal("acme", &place(3), &[1; SALT], b"x").unwrap()[..4], one[..4]);
    }
}
