//! Where the files of a data folder are: on disk, or in memory for tests.
//!
//! redb files are opened here and nowhere else, so that cache sizes, the concurrency mode and the test doubles are chosen
//! in one place. Small side files (the running snapshot, `head.log`) go through the same door.
//!
//! The in-memory medium keeps what was written apart from what was synced, and fails as it is told to.

pub mod faults;
mod memory;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use redb::{Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};

use super::StoreError;

pub use memory::{Backend, Event, Memory};

/// What a finished redb file begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Cache of the journal file that is written, in bytes.
pub const HOT_CACHE: usize = 32 << 20;
/// Cache of any other file, in bytes.
pub const COLD_CACHE: usize = 4 << 20;

/// A redb handle. Dropping one writes, and panics where the file is damaged in a way redb does not know: that must not
/// end the thread that lets go of it, nor, during a panic, the process.
pub struct Handle<T>(Option<T>);

impl<T> Handle<T> {
    pub fn new(handle: T) -> Handle<T> {
        Handle(Some(handle))
    }

    fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T> std::ops::Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only taken by what consumes the handle")
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        let Some(handle) = self.0.take() else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(handle))).is_err() {
            tracing::error!("a damaged file could not be closed in order; the next start repairs it, or names it");
        }
    }
}

/// An open redb file, for reading and writing or for reading only.
pub enum File {
    Writable(Handle<Database>),
    ReadOnly(Handle<ReadOnlyDatabase>),
}

impl File {
    fn writable(db: Database) -> File {
        File::Writable(Handle::new(db))
    }

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
            File::Writable(db) => db.take().map_or(Ok(()), Database::close),
            File::ReadOnly(db) => db.take().map_or(Ok(()), ReadOnlyDatabase::close),
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
        let open = || {
            let mut builder = Builder::new();
            builder.set_cache_size(cache);
            catch(name, || match self {
                Media::Folder(dir) => {
                    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).create(dir.join(name))
                }
                Media::Memory(memory) => builder.create_with_backend(memory.backend(name)),
            })
        };
        let opened = match open()? {
            Err(DatabaseError::Storage(redb::StorageError::Io(e)))
                if e.kind() == io::ErrorKind::InvalidData && self.put_aside_unmade(name) =>
            {
                open()?
            }
            opened => opened,
        };
        opened.map(File::writable).map_err(|e| self.error(name, e))
    }

    /// Puts a file out of the way whose making a crash cut short: redb writes its first bytes last, and of that write,
    /// too, only a part may be there. A month's file has
    /// promised nothing before its first commit (one that had is missed, and named, when the start compares what was
    /// promised); any other is new only where there is no journal yet.
    fn put_aside_unmade(&self, name: &str) -> bool {
        let journal = |name: &String| name.starts_with("journal-");
        let may_be_new = journal(&name.into()) || self.names().is_ok_and(|names| !names.iter().any(journal));
        let mut start = MAGIC;
        let read = self.open_raw_read_only(name).and_then(|file| file.map_or(Ok(()), |f| f.read_at(0, &mut start)));
        let written = start.iter().zip(MAGIC).take_while(|(byte, of)| **byte == *of).count();
        if !may_be_new || read.is_err() || written == MAGIC.len() || start[written..] != [0; 9][written..] {
            return false;
        }
        tracing::warn!(file = name, "it was never finished: it is put aside, and made anew");
        match self {
            Media::Folder(dir) => fs::rename(dir.join(name), dir.join(format!("{name}.unfinished"))).is_ok(),
            Media::Memory(memory) => {
                memory.remove(name);
                true
            }
        }
    }

    /// Makes a redb file that no other process looks at before it is closed: its commits need not wait for the disk.
    pub fn make_alone(&self, name: &str) -> Result<File, StoreError> {
        let Media::Folder(dir) = self else { return self.open(name, COLD_CACHE) };
        let mut builder = Builder::new();
        builder.set_cache_size(COLD_CACHE);
        let made = catch(name, || builder.create(dir.join(name)))?;
        made.map(File::writable).map_err(|e| self.error(name, e))
    }

    /// Opens a redb file for reading only; a file that a crash left behind is repaired first, if nobody has it open.
    pub fn open_read_only(&self, name: &str) -> Result<File, StoreError> {
        let Media::Folder(dir) = self else { return self.open(name, COLD_CACHE) };
        let path = dir.join(name);
        let mut builder = Builder::new();
        builder.set_cache_size(COLD_CACHE).set_concurrency_mode(ConcurrencyMode::SingleWriter);
        match catch(name, || builder.open_read_only(&path))? {
            Ok(db) => Ok(File::ReadOnly(Handle::new(db))),
            Err(DatabaseError::RepairAborted) => {
                let opened = catch(name, || builder.open(&path))?;
                opened.map(File::writable).map_err(|e| self.error(name, e))
            }
            Err(e) => Err(self.error(name, e)),
        }
    }

    fn error(&self, name: &str, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse(self.name()),
            DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() != io::ErrorKind::InvalidData => {
                StoreError::io(&format!("{}/{name}", self.name()), &e)
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
            Media::Memory(memory) => memory.names(),
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
            Media::Memory(memory) => memory.read_side(name),
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
            Media::Memory(memory) => memory.replace_side(name, bytes),
        }
    }

    /// Adds a line (or several) to a side file and waits until it is on disk. Half a line that a failed attempt left is
    /// cut off first: two halves would be a line that nobody wrote.
    pub fn append_side(&self, name: &str, line: &[u8]) -> io::Result<()> {
        match self {
            Media::Folder(dir) => {
                let path = dir.join(name);
                let mut file = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
                let end = end_of_lines(&mut file)?;
                file.set_len(end)?;
                file.seek(SeekFrom::Start(end))?;
                file.write_all(line)?;
                file.sync_data()
            }
            Media::Memory(memory) => memory.append_side(name, line),
        }
    }

    /// Removes a side file that may or may not exist.
    pub fn remove_side(&self, name: &str) {
        match self {
            Media::Folder(dir) => drop(fs::remove_file(dir.join(name))),
            Media::Memory(memory) => memory.remove_side(name),
        }
    }

    /// Removes a file that nobody has open and that may or may not exist.
    pub fn remove_file(&self, name: &str) {
        match self {
            Media::Folder(dir) => drop(fs::remove_file(dir.join(name))),
            Media::Memory(memory) => memory.remove(name),
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
            Media::Memory(memory) => memory.sync_names(),
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
            RawFile::Memory(file) => file.length(),
        }
    }

    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.read_exact_at(out, offset),
            RawFile::Memory(file) => file.read_at(offset, out),
        }
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.write_all_at(bytes, offset),
            RawFile::Memory(file) => file.write_at(offset, bytes),
        }
    }

    /// Waits until what was written is on disk.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            RawFile::Disk(file) => file.sync_data(),
            RawFile::Memory(file) => file.sync(),
        }
    }

    fn lengthen(&self, old: u64, len: u64) -> io::Result<()> {
        if let RawFile::Memory(file) = self {
            file.set_length(len)?;
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

/// Where the last whole line of a file ends.
fn end_of_lines(file: &mut fs::File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut last = [0; 256];
    while end > 0 {
        let start = end.saturating_sub(last.len() as u64);
        let part = &mut last[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Runs what reads a redb file: damaged pages make redb panic, and that must not end the process.
pub fn catch<T>(file: &str, f: impl FnOnce() -> T) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
        .map_err(|_| StoreError::Damaged { file: file.into(), what: "a page cannot be read".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the allocator's state is malformed");
        }
    }

    #[test]
    fn a_file_whose_first_write_of_its_first_bytes_was_cut_short_is_made_anew() {
        for written in 0..MAGIC.len() {
            let memory = Memory::new();
            let media = Media::Memory(memory.clone());
            media.open("keys.redb", COLD_CACHE).unwrap().close().unwrap();
            let begun: Vec<u8> = MAGIC.iter().enumerate().map(|(i, b)| if i < written { *b } else { 0 }).collect();
            memory.overwrite("keys.redb", 0, &begun);
            let opened = media.open("keys.redb", COLD_CACHE);
            opened.unwrap_or_else(|e| panic!("{written} bytes of it: {e}")).close().unwrap();
        }
        // Something else is nobody's to put aside.
        let memory = Memory::new();
        let media = Media::Memory(memory.clone());
        media.open("keys.redb", COLD_CACHE).unwrap().close().unwrap();
        memory.overwrite("keys.redb", 0, b"redB");
        assert!(media.open("keys.redb", COLD_CACHE).is_err());
    }

    #[test]
    fn a_handle_that_cannot_be_closed_takes_nobody_with_it() {
        drop(Handle::new(Bomb));
        // Nor where it is let go of by a panic already.
        let panicked = std::panic::catch_unwind(|| {
            let _handle = Handle::new(Bomb);
            panic!("a page cannot be read");
        });
        assert!(panicked.is_err());
    }
}
