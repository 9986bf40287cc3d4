//! A small redb file beside the journal, opened again after an I/O error: redb's handle is of no more use then, the file is.

use std::sync::{Arc, Mutex};

use redb::{ReadTransaction, WriteTransaction};

use super::StoreError;
use super::journal::{reading, writing};
use super::media::{COLD_CACHE, File, Media};
use super::writer::unpoisoned;

/// The file, by name and folder.
pub struct SmallFile {
    pub name: &'static str,
    media: Media,
    read_only: bool,
    handle: Mutex<Option<Arc<File>>>,
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
        let file = SmallFile { name, media: media.clone(), read_only, handle: Mutex::new(None) };
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

    /// Runs `f` in a write transaction and commits it, durable when this returns.
    pub fn write<T>(&self, f: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let result = writing(self.name, &*self.handle()?, f);
        self.judge(result)
    }

    fn judge<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            unpoisoned(self.handle.lock()).take();
        }
        result
    }
}
