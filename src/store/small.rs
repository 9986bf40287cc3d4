//! A small redb file beside the journal, opened again after an I/O error: redb's handle is of no more use then, the file is.

use std::sync::{Arc, Mutex, OnceLock};

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle, WriteTransaction};

use super::StoreError;
use super::journal::{reading, writing};
use super::media::{COLD_CACHE, File, Media, catch};
use super::trouble::{Part, Troubles};
use super::writer::unpoisoned;

/// The file, by name and folder.
pub struct SmallFile {
    pub name: &'static str,
    media: Media,
    read_only: bool,
    handle: Mutex<Option<Arc<File>>>,
    /// Told of a file that cannot be written.
    troubles: OnceLock<Arc<Troubles>>,
}

impl SmallFile {
    /// Opens the file, making it if it is missing.
    pub fn open(media: &Media, name: &'static str) -> Result<SmallFile, StoreError> {
        SmallFile::new(media, name, false)
    }

    /// Opens a file that another process may have open.
    pub fn open_read_only(media: &Media, name: &'static str) -> Result<SmallFile, StoreError> {
        SmallFile::new(media, name, true)
    }

    fn new(media: &Media, name: &'static str, read_only: bool) -> Result<SmallFile, StoreError> {
        let file =
            SmallFile { name, media: media.clone(), read_only, handle: Mutex::new(None), troubles: OnceLock::new() };
        file.handle()?;
        Ok(file)
    }

    fn handle(&self) -> Result<Arc<File>, StoreError> {
        let mut handle = unpoisoned(self.handle.lock());
        if let Some(open) = &*handle {
            return Ok(open.clone());
        }
        let opened = match self.read_only {
            true => self.media.open_read_only(self.name)?,
            false => self.media.open(self.name, COLD_CACHE)?,
        };
        Ok(handle.insert(Arc::new(opened)).clone())
    }

    /// Runs `f` in a read transaction.
    pub fn read<T>(&self, f: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let result = reading(self.name, &*self.handle()?, f);
        self.judge(result)
    }

    /// From now on who is told where it cannot be written, and makes room for it where the disk is full.
    pub fn tell(&self, troubles: Arc<Troubles>) {
        // Told once, when the ledger is put together.
        let _ = self.troubles.set(troubles);
    }

    /// Runs `f` in a write transaction and commits it, durable when this returns; once more where room was made for it.
    pub fn write<T>(&self, f: impl Fn(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let write = || self.judge(writing(self.name, &*self.handle()?, &f));
        let mut result = write();
        let Some(troubles) = self.troubles.get() else { return result };
        if let Err(error @ (StoreError::Full(_) | StoreError::Unwritable(_))) = &result
            && troubles.makes_room(Part::Core, error)
        {
            result = write();
        }
        if result.is_ok() {
            troubles.over(Part::Core);
        }
        result
    }

    /// Copies these tables into a new file of the same name, as one read transaction sees them. A table that is neither
    /// named nor to be empty in the copy is an error: a copy that lacks something is none.
    pub fn copy(&self, to: &Media, tables: &[Table], emptied: &[Table]) -> Result<(), StoreError> {
        let copy = to.make_alone(self.name)?;
        self.read(|source| {
            for found in source.list_tables()? {
                let name = found.name();
                if !tables.iter().chain(emptied).any(|table| table.name() == name) {
                    return Err(redb::Error::TableDoesNotExist(name.to_owned()));
                }
            }
            Ok(())
        })?;
        writing(self.name, &copy, |out| {
            let copied = self.read(|source| tables.iter().try_for_each(|table| table.copy(source, out)));
            copied.map_err(|e| redb::Error::Io(std::io::Error::other(e.to_string())))?;
            emptied.iter().try_for_each(|table| table.make(out))
        })?;
        close(self.name, copy)
    }

    fn judge<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            unpoisoned(self.handle.lock()).take();
        }
        result
    }
}

/// A table of bytes, by the kind of its key.
pub enum Table {
    Numbered(TableDefinition<'static, u32, &'static [u8]>),
    Named(TableDefinition<'static, &'static str, &'static [u8]>),
    Hashed(TableDefinition<'static, &'static [u8], &'static [u8]>),
}

impl Table {
    fn name(&self) -> &str {
        match self {
            Table::Numbered(table) => table.name(),
            Table::Named(table) => table.name(),
            Table::Hashed(table) => table.name(),
        }
    }

    fn make(&self, out: &WriteTransaction) -> Result<(), redb::Error> {
        match self {
            Table::Numbered(table) => out.open_table(*table).map(drop)?,
            Table::Named(table) => out.open_table(*table).map(drop)?,
            Table::Hashed(table) => out.open_table(*table).map(drop)?,
        }
        Ok(())
    }

    fn copy(&self, source: &ReadTransaction, out: &WriteTransaction) -> Result<(), redb::Error> {
        match self {
            Table::Numbered(table) => copy_table(source, out, *table),
            Table::Named(table) => copy_table(source, out, *table),
            Table::Hashed(table) => copy_table(source, out, *table),
        }
    }
}

/// Copies a whole table; one that was never made is made empty.
pub fn copy_table<K: Key + 'static>(
    source: &ReadTransaction,
    out: &WriteTransaction,
    table: TableDefinition<'static, K, &'static [u8]>,
) -> Result<(), redb::Error> {
    let mut out = out.open_table(table)?;
    let source = match source.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        opened => opened?,
    };
    for row in source.iter()? {
        let (key, value) = row?;
        out.insert(key.value(), value.value())?;
    }
    Ok(())
}

/// Closes a file that is to be read as bytes afterwards.
pub fn close(name: &str, file: File) -> Result<(), StoreError> {
    catch(name, || file.close())?.map_err(|e| StoreError::Unwritable(format!("`{name}`: {e}")))
}
