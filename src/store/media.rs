//! Where the files of a data folder are: on disk, or in memory for tests.
//!
//! redb files are opened here and nowhere else, so that cache sizes, the concurrency mode and the test doubles are chosen
//! in one place. Small side files (the running snapshot, `head.log`) go through the same door.
//!
//! The in-memory medium keeps what was written apart from what was synced: [`Memory::crash`] throws away every write
//! that no sync followed, as a power cut does, and [`Memory::fail_writes`] makes a disk that is full.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase,
    StorageBackend,
};

use super::StoreError;

/// Cache of the journal file that is written, in bytes.
pub const HOT_CACHE: usize = 32 << 20;
/// Cache of any other file, in bytes.
pub const COLD_CACHE: usize = 4 << 20;

/// An open redb file, for reading and writing or for reading only.
pub enum File {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl File {
    /// A short read transaction.
    pub fn read(&self) -> Result<ReadTransaction, redb::TransactionError> {
        match self {
            File::Writable(db) => db.begin_read(),
            File::ReadOnly(db) => db.begin_read(),
        }
    }

    /// Closes the file, saying what went wrong.
    pub fn close(self) -> Result<(), redb::DatabaseError> {
        match self {
            File::Writable(db) => db.close(),
            File::ReadOnly(db) => db.close(),
        }
    }
}

/// The two kinds of data folder.
#[derive(Clone, Debug)]
pub enum Media {
    Folder(PathBuf),
    Memory(Memory),
}

impl Media {
    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Media::Folder(path) => path.display().to_string(),
            Media::Memory(_) => "memory".into(),
        }
    }

    /// Opens a redb file for writing, making it if it is missing. Another process may read a file on disk meanwhile.
    pub fn open(&self, name: &str, cache: usize) -> Result<File, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache);
        let opened = catch(name, || match self {
            Media::Folder(dir) => builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).create(dir.join(name)),
            Media::Memory(memory) => builder.create_with_backend(memory.backend(name)),
        })?;
        opened.map(File::Writable).map_err(|e| self.error(name, e))
    }

    /// Opens a redb file for reading only; a file that a crash left behind is repaired first, if nobody has it open.
    pub fn open_read_only(&self, name: &str) -> Result<File, StoreError> {
        let Media::Folder(dir) = self else { return self.open(name, COLD_CACHE) };
        let path = dir.join(name);
        let mut builder = Builder::new();
        builder.set_cache_size(COLD_CACHE).set_concurrency_mode(ConcurrencyMode::SingleWriter);
        match catch(name, || builder.open_read_only(&path))? {
            Ok(db) => Ok(File::ReadOnly(db)),
            Err(DatabaseError::RepairAborted) => {
                let opened = catch(name, || builder.open(&path))?;
                opened.map(File::Writable).map_err(|e| self.error(name, e))
            }
            Err(e) => Err(self.error(name, e)),
        }
    }

    fn error(&self, name: &str, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse(self.name()),
            DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() != io::ErrorKind::InvalidData => {
                StoreError::Unwritable(format!("`{name}` in `{}`: {e}", self.name()))
            }
            other => StoreError::Damaged { file: name.into(), what: other.to_string() },
        }
    }

    /// Names of the files there, in order.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = match self {
            Media::Folder(dir) => {
                let unreadable = |e: io::Error| StoreError::Unwritable(format!("cannot list `{}`: {e}", dir.display()));
                let mut names = Vec::new();
                for entry in fs::read_dir(dir).map_err(unreadable)? {
                    names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
                }
                names
            }
            Media::Memory(memory) => {
                let files = lock(&memory.files);
                files.keys().cloned().chain(lock(&memory.side).keys().cloned()).collect()
            }
        };
        names.sort();
        Ok(names)
    }

    /// A side file's bytes; `None` where it does not exist.
    pub fn read_side(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match self {
            Media::Folder(dir) => match fs::read(dir.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
            Media::Memory(memory) => Ok(lock(&memory.side).get(name).cloned()),
        }
    }

    /// Replaces a side file as a whole: a crash leaves the old one or the new one.
    pub fn replace_side(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self {
            Media::Folder(dir) => {
                let (new, old) = (dir.join(format!("{name}.new")), dir.join(name));
                let mut file = fs::File::create(&new)?;
                file.write_all(bytes)?;
                file.sync_data()?;
                fs::rename(new, old)?;
                sync_folder(dir)
            }
            Media::Memory(memory) => {
                memory.check()?;
                lock(&memory.side).insert(name.into(), bytes.to_vec());
                Ok(())
            }
        }
    }

    /// Adds to the end of a side file and waits until it is on disk.
    pub fn append_side(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self {
            Media::Folder(dir) => {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(dir.join(name))?;
                file.write_all(bytes)?;
                file.sync_data()
            }
            Media::Memory(memory) => {
                memory.check()?;
                lock(&memory.side).entry(name.into()).or_default().extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Removes a side file that may or may not exist.
    pub fn remove_side(&self, name: &str) {
        match self {
            Media::Folder(dir) => drop(fs::remove_file(dir.join(name))),
            Media::Memory(memory) => drop(lock(&memory.side).remove(name)),
        }
    }

    /// A file of plain bytes at fixed places, at least `len` bytes long and all of them written once, so that writing
    /// them again changes nothing but the bytes: made, or lengthened with zeros, if it is missing or shorter.
    pub fn open_raw(&self, name: &str, len: u64) -> io::Result<RawFile> {
        let file = match self {
            Media::Folder(dir) => {
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false);
                RawFile::Disk(options.open(dir.join(name))?)
            }
            Media::Memory(memory) => RawFile::Memory(memory.backend(name)),
        };
        let old = file.len()?;
        if old < len {
            file.lengthen(old, len)?;
            self.sync_names()?;
        }
        Ok(file)
    }

    /// The same file for reading only; `None` where it does not exist.
    pub fn open_raw_read_only(&self, name: &str) -> io::Result<Option<RawFile>> {
        match self {
            Media::Folder(dir) => match fs::File::open(dir.join(name)) {
                Ok(file) => Ok(Some(RawFile::Disk(file))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
            Media::Memory(memory) if memory.has(name) => Ok(Some(RawFile::Memory(memory.backend(name)))),
            Media::Memory(_) => Ok(None),
        }
    }

    /// Makes new names in the folder survive a power cut.
    pub fn sync_names(&self) -> io::Result<()> {
        match self {
            Media::Folder(dir) => sync_folder(dir),
            Media::Memory(_) => Ok(()),
        }
    }
}

/// Bytes at fixed places: what the log in front of the journal's files is kept in.
pub enum RawFile {
    Disk(fs::File),
    Memory(Backend),
}

impl RawFile {
    pub fn len(&self) -> io::Result<u64> {
        match self {
            RawFile::Disk(file) => Ok(file.metadata()?.len()),
            RawFile::Memory(file) => StorageBackend::len(file),
        }
    }

    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.read_exact_at(out, offset),
            RawFile::Memory(file) => StorageBackend::read(file, offset, out),
        }
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.write_all_at(bytes, offset),
            RawFile::Memory(file) => StorageBackend::write(file, offset, bytes),
        }
    }

    /// Waits until what was written is on disk.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.sync_data(),
            RawFile::Memory(file) => StorageBackend::sync_data(file),
        }
    }

    fn lengthen(&self, old: u64, len: u64) -> io::Result<()> {
        if let RawFile::Memory(file) = self {
            StorageBackend::set_len(file, len)?;
            return self.sync();
        }
        let zeros = vec![0; 1 << 20];
        let mut at = old;
        while at < len {
            let part = zeros.len().min((len - at) as usize);
            self.write_at(at, &zeros[..part])?;
            at += part as u64;
        }
        self.sync()
    }
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Runs what reads a redb file: damaged pages make redb panic, and that must not end the process.
pub fn catch<T>(file: &str, f: impl FnOnce() -> T) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
        .map_err(|_| StoreError::Damaged { file: file.into(), what: "a page cannot be read".into() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data folder in memory; clones are the same folder, so that a test can close a ledger and open it again.
#[derive(Clone, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, Arc<Mutex<Pages>>>>>,
    side: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    failing: Arc<AtomicBool>,
    /// Counts crashes: a handle from before one may not touch what came after it.
    generation: Arc<AtomicU64>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Loses every write that was not synced. Handles from before see an error from now on, like a dead process's.
    pub fn crash(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        for pages in lock(&self.files).values() {
            lock(pages).lose_unsynced();
        }
    }

    /// From now on every write fails (`true`), or works again.
    pub fn fail_writes(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Changes one byte of a file, as a bad disk or a stranger would.
    pub fn flip(&self, name: &str, offset: usize) {
        if let Some(pages) = lock(&self.files).get(name)
            && let Some(byte) = lock(pages).bytes.get_mut(offset)
        {
            *byte ^= 0x01;
        }
    }

    /// The bytes of a redb file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        lock(&self.files).get(name).map(|p| lock(p).bytes.clone()).unwrap_or_default()
    }

    fn check(&self) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        lock(&self.files).contains_key(name)
    }

    fn backend(&self, name: &str) -> Backend {
        let pages = lock(&self.files).entry(name.into()).or_default().clone();
        Backend { memory: self.clone(), born: self.generation.load(Ordering::SeqCst), pages }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// A file's bytes, and how to undo what was not synced.
#[derive(Default)]
struct Pages {
    bytes: Vec<u8>,
    /// Newest last: what stood there before a write, or the length before a change of length.
    undo: Vec<Undo>,
}

enum Undo {
    Write(usize, Vec<u8>),
    Length(usize, Vec<u8>),
}

impl Pages {
    fn lose_unsynced(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Write(at, old) => self.bytes[at..at + old.len()].copy_from_slice(&old),
                Undo::Length(len, tail) => {
                    self.bytes.truncate(len);
                    self.bytes.extend_from_slice(&tail);
                }
            }
        }
    }
}

/// One file's handle; of no use after a crash.
pub struct Backend {
    memory: Memory,
    born: u64,
    pages: Arc<Mutex<Pages>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl Backend {
    fn pages(&self) -> io::Result<MutexGuard<'_, Pages>> {
        if self.memory.generation.load(Ordering::SeqCst) != self.born {
            return Err(io::Error::other("the machine is gone"));
        }
        Ok(lock(&self.pages))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages()?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let pages = self.pages()?;
        let start = offset as usize;
        let bytes = pages.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.check()?;
        let mut pages = self.pages()?;
        let (old, new) = (pages.bytes.len(), len as usize);
        let tail = pages.bytes.get(new..).map(<[u8]>::to_vec).unwrap_or_default();
        pages.bytes.resize(new, 0);
        pages.undo.push(Undo::Length(old.min(new), tail));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.memory.check()?;
        self.pages()?.undo.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.check()?;
        let mut pages = self.pages()?;
        let start = offset as usize;
        let place = pages.bytes.get_mut(start..start + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let old = place.to_vec();
        place.copy_from_slice(data);
        pages.undo.push(Undo::Write(start, old));
        Ok(())
    }
}
