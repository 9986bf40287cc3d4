//! A data folder in memory, which loses and refuses what a real disk may lose and refuse.
//!
//! Each file is kept twice: as a program sees it, and as it would be found after a power cut. Between the two stand the
//! writes that no sync followed. What becomes of those when the power goes, which operation fails, and how much room
//! there is, says [`super::faults`]; nothing is wrong by default.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::faults::{Control, End, Faults, Op, Ruling, Survival};

/// A data folder in memory; clones are the same folder, so that a test can close a ledger and open it again.
#[derive(Clone, Default)]
pub struct Memory {
    folder: Arc<Folder>,
}

#[derive(Default)]
struct Folder {
    files: Mutex<BTreeMap<String, Arc<Mutex<Pages>>>>,
    side: Mutex<BTreeMap<String, Side>>,
    control: Mutex<Control>,
    /// Counts deaths of the process: a handle from before one may not touch what came after it.
    generation: AtomicU64,
}

/// A side file: what a program reads, and what a power cut leaves of it.
#[derive(Clone, Default)]
struct Side {
    bytes: Option<Vec<u8>>,
    durable: Option<Vec<u8>>,
}

/// One thing that was done to the folder, so that a test can do it again up to any point.
#[derive(Clone, Debug)]
pub enum Event {
    Made(String),
    Write(String, usize, Vec<u8>),
    Length(String, usize),
    Sync(String),
    Names,
    Replace(String, Vec<u8>),
    Append(String, Vec<u8>),
    Remove(String),
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Loses every write that was not synced, as a power cut may. Handles from before see an error from now on.
    pub fn crash(&self) {
        self.cut(Survival::nothing());
        self.power_on();
    }

    /// The power goes, between two operations. Everything fails until [`Memory::power_on`].
    pub fn cut(&self, survival: Survival) {
        self.end(End::Power(survival));
    }

    /// The process is killed: what it wrote stays, synced or not, and what it still tries fails until
    /// [`Memory::power_on`].
    pub fn kill(&self) {
        self.end(End::Kill);
    }

    /// A new process may use the folder; all faults that were set are gone.
    pub fn power_on(&self) {
        let mut control = lock(&self.folder.control);
        control.dead = false;
        control.full = false;
        control.faults = Faults::default();
    }

    /// What goes wrong from now on. Points and operations are counted from the making of the folder.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.folder.control).faults = faults;
    }

    /// From now on every write fails (`true`), or works again.
    pub fn fail_writes(&self, failing: bool) {
        lock(&self.folder.control).full = failing;
    }

    /// How many write points there were: writes, syncs, changes of length and of side files.
    pub fn points(&self) -> u64 {
        lock(&self.folder.control).points
    }

    /// True once the process of the handles there are has been ended by a fault.
    pub fn is_dead(&self) -> bool {
        lock(&self.folder.control).dead
    }

    /// Begins to keep every event, or gives those since the beginning and stops.
    pub fn tape(&self, keep: bool) -> Vec<Event> {
        let tape = keep.then(Vec::new);
        std::mem::replace(&mut lock(&self.folder.control).tape, tape).unwrap_or_default()
    }

    /// How many events are on the tape.
    pub fn taped(&self) -> usize {
        lock(&self.folder.control).tape.as_ref().map_or(0, Vec::len)
    }

    /// Does again what was taped; nothing goes wrong.
    pub fn replay(&self, event: &Event) {
        match event {
            Event::Made(name) => drop(self.backend(name)),
            Event::Write(name, at, data) => lock(&self.pages(name)).write(*at, data),
            Event::Length(name, len) => lock(&self.pages(name)).set_len(*len),
            Event::Sync(name) => lock(&self.pages(name)).sync(),
            Event::Names => self.name_all(),
            Event::Replace(name, bytes) => {
                self.put_side(name, bytes.clone());
                self.name_all();
            }
            Event::Append(name, bytes) => {
                self.put_side(name, [self.side(name).unwrap_or_default(), bytes.clone()].concat())
            }
            Event::Remove(name) => {
                lock(&self.folder.side).entry(name.clone()).or_default().bytes = None;
            }
        }
    }

    /// Another folder with the same contents, synced and not.
    pub fn fork(&self) -> Memory {
        let copy = Memory::new();
        let copied = |pages: &Arc<Mutex<Pages>>| Arc::new(Mutex::new(lock(pages).clone()));
        *lock(&copy.folder.files) = lock(&self.folder.files).iter().map(|(n, p)| (n.clone(), copied(p))).collect();
        *lock(&copy.folder.side) = lock(&self.folder.side).clone();
        copy
    }

    /// Changes one byte of a file, as a bad disk or a stranger would.
    pub fn flip(&self, name: &str, offset: usize) {
        if let Some(pages) = lock(&self.folder.files).get(name) {
            let mut pages = lock(pages);
            let Pages { bytes, durable, .. } = &mut *pages;
            for byte in [bytes.get_mut(offset), durable.get_mut(offset)].into_iter().flatten() {
                *byte ^= 0x01;
            }
        }
    }

    /// Puts other bytes in the place of a file's, as a stranger or another version would.
    pub fn overwrite(&self, name: &str, offset: usize, with: &[u8]) {
        if let Some(pages) = lock(&self.folder.files).get(name) {
            let mut pages = lock(pages);
            let Pages { bytes, durable, .. } = &mut *pages;
            for place in [bytes, durable] {
                if let Some(place) = place.get_mut(offset..offset + with.len()) {
                    place.copy_from_slice(with);
                }
            }
        }
    }

    /// The bytes of a file that is not a side file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        lock(&self.folder.files).get(name).map(|p| lock(p).bytes.clone()).unwrap_or_default()
    }

    /// Whether there is such a file, side files left out.
    pub fn has(&self, name: &str) -> bool {
        lock(&self.folder.files).contains_key(name)
    }

    /// Names of all files, in no order.
    pub fn names(&self) -> Vec<String> {
        let side = lock(&self.folder.side);
        let side = side.iter().filter(|(_, side)| side.bytes.is_some()).map(|(name, _)| name.clone());
        lock(&self.folder.files).keys().cloned().chain(side).collect()
    }

    /// Looks at the bytes of every file there is, side files too.
    pub fn for_each_file(&self, mut look: impl FnMut(&str, &[u8])) {
        lock(&self.folder.files).iter().for_each(|(name, pages)| look(name, &lock(pages).bytes));
        for (name, side) in lock(&self.folder.side).iter() {
            side.bytes.iter().for_each(|bytes| look(name, bytes));
        }
    }

    /// Removes a file that is not a side file, as an operator would.
    pub fn remove(&self, name: &str) {
        lock(&self.folder.files).remove(name);
    }

    pub(super) fn read_side(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match self.rule(Op::Read, 0) {
            Ruling::Go => Ok(self.side(name)),
            Ruling::Fail(error, _) => Err(error),
            Ruling::End(end) => Err(self.end(end)),
        }
    }

    pub(super) fn replace_side(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let grown = bytes.len().saturating_sub(self.side(name).map_or(0, |b| b.len()));
        match self.rule(Op::Side, grown) {
            Ruling::Go => {
                self.note(|| Event::Replace(name.into(), bytes.into()));
                self.put_side(name, bytes.into());
                // It is put in place by a sync of the folder.
                self.name_all();
                Ok(())
            }
            Ruling::Fail(error, _) => Err(error),
            Ruling::End(end) => {
                // The rename has happened, or it has not.
                if end.draw(2) == 0 {
                    self.put_side(name, bytes.into());
                }
                Err(self.end(end))
            }
        }
    }

    pub(super) fn append_side(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let before = self.side(name).unwrap_or_default();
        let whole = before.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let put = |part: usize| self.put_side(name, [&before[..whole], &bytes[..part]].concat());
        match self.rule(Op::Side, bytes.len()) {
            Ruling::Go => {
                self.note(|| Event::Append(name.into(), bytes.into()));
                put(bytes.len());
                Ok(())
            }
            Ruling::Fail(error, part) => {
                put(part as usize % bytes.len().max(1));
                Err(error)
            }
            Ruling::End(end) => {
                put(end.draw(bytes.len() as u64 + 1) as usize);
                Err(self.end(end))
            }
        }
    }

    pub(super) fn remove_side(&self, name: &str) {
        match self.rule(Op::Side, 0) {
            Ruling::Go => {
                self.note(|| Event::Remove(name.into()));
                // Until the folder is synced a power cut may bring it back.
                if let Some(side) = lock(&self.folder.side).get_mut(name) {
                    side.bytes = None;
                }
            }
            Ruling::Fail(..) => {}
            Ruling::End(end) => drop(self.end(end)),
        }
    }

    pub(super) fn sync_names(&self) -> io::Result<()> {
        match self.rule(Op::Sync, 0) {
            Ruling::Go => {
                self.note(|| Event::Names);
                self.name_all();
                Ok(())
            }
            Ruling::Fail(error, _) => Err(error),
            Ruling::End(end) => Err(self.end(end)),
        }
    }

    /// A handle on a file, made if it is missing.
    pub(super) fn backend(&self, name: &str) -> Backend {
        let born = self.folder.generation.load(Ordering::SeqCst);
        if !lock(&self.folder.files).contains_key(name) {
            self.note(|| Event::Made(name.into()));
        }
        Backend { memory: self.clone(), name: name.into(), born, pages: self.pages(name) }
    }

    fn pages(&self, name: &str) -> Arc<Mutex<Pages>> {
        lock(&self.folder.files).entry(name.into()).or_default().clone()
    }

    fn side(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.folder.side).get(name).and_then(|side| side.bytes.clone())
    }

    fn put_side(&self, name: &str, bytes: Vec<u8>) {
        lock(&self.folder.side).insert(name.into(), Side { bytes: Some(bytes.clone()), durable: Some(bytes) });
    }

    fn name_all(&self) {
        for pages in lock(&self.folder.files).values() {
            lock(pages).named = true;
        }
        lock(&self.folder.side).retain(|_, side| side.bytes.is_some());
    }

    fn rule(&self, op: Op, grows: usize) -> Ruling {
        lock(&self.folder.control).rule(op, grows as u64)
    }

    fn note(&self, event: impl FnOnce() -> Event) {
        if let Some(tape) = &mut lock(&self.folder.control).tape {
            tape.push(event());
        }
    }

    /// Ends the process, and with the power what was not synced.
    fn end(&self, end: End) -> io::Error {
        lock(&self.folder.control).dead = true;
        self.folder.generation.fetch_add(1, Ordering::SeqCst);
        if let End::Power(mut survival) = end {
            lock(&self.folder.files).retain(|_, pages| {
                let mut pages = lock(pages);
                let stays = pages.named || !survival.is_lost();
                pages.lose(&mut survival);
                stays
            });
            for side in lock(&self.folder.side).values_mut().filter(|side| side.bytes.is_none()) {
                if survival.is_lost() {
                    side.bytes = side.durable.clone();
                }
            }
        }
        gone()
    }
}

fn gone() -> io::Error {
    io::Error::other("the machine is gone")
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// A file's bytes as they are seen, and as they are on the platter.
#[derive(Clone, Default)]
struct Pages {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What lies between the two, oldest first.
    unsynced: Vec<Change>,
    /// The folder was synced since the file was made.
    named: bool,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Pages {
    fn write(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.unsynced.push(Change::Write(at, data.to_vec()));
    }

    fn set_len(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.unsynced.push(Change::Length(len));
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write(at, data) => self.durable[at..at + data.len()].copy_from_slice(&data),
                Change::Length(len) => self.durable.resize(len, 0),
            }
        }
    }

    /// A sync that failed as kernels let it fail: the pages count as clean from now on and never reach the platter.
    fn forget(&mut self) {
        for change in self.unsynced.drain(..) {
            if let Change::Length(len) = change {
                self.durable.resize(len, 0);
            }
        }
    }

    /// A power cut: of the writes no sync followed each sector has what one of the writes left in it, or none, or a part
    /// of one; in any order among the sectors. Lengths go in order: a file does not shrink before it has grown.
    fn lose(&mut self, survival: &mut Survival) {
        let changes = std::mem::take(&mut self.unsynced);
        let lengths = changes.iter().filter(|c| matches!(c, Change::Length(_))).count() as u64;
        let mut lengths = survival.up_to(lengths);
        let mut left: BTreeMap<usize, u64> = BTreeMap::new();
        let unit = survival.unit;
        for change in &changes {
            if let Change::Write(at, data) = change {
                (at / unit..(at + data.len()).div_ceil(unit)).for_each(|sector| *left.entry(sector).or_default() += 1);
            }
        }
        // Of so many writes into a sector, how many have reached it.
        left.values_mut().for_each(|writes| *writes = survival.up_to(*writes));
        for change in changes {
            match change {
                Change::Length(len) if lengths > 0 => {
                    lengths -= 1;
                    self.durable.resize(len, 0);
                }
                Change::Length(_) => {}
                Change::Write(at, data) => {
                    for sector in at / unit..(at + data.len()).div_ceil(unit) {
                        let (start, mut end) = ((sector * unit).max(at), ((sector + 1) * unit).min(at + data.len()));
                        let more = left.entry(sector).or_default();
                        match *more {
                            0 => continue,
                            1 => end = start + survival.torn(end - start),
                            _ => {}
                        }
                        *more -= 1;
                        let end = end.min(self.durable.len());
                        if start < end {
                            self.durable[start..end].copy_from_slice(&data[start - at..end - at]);
                        }
                    }
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}

/// A handle on a file in memory, good until the process that has it ends.
pub struct Backend {
    memory: Memory,
    name: String,
    born: u64,
    pages: Arc<Mutex<Pages>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name).finish()
    }
}

impl Backend {
    fn pages(&self) -> io::Result<MutexGuard<'_, Pages>> {
        let pages = lock(&self.pages);
        if self.memory.folder.generation.load(Ordering::SeqCst) != self.born {
            return Err(gone());
        }
        Ok(pages)
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.pages()?.bytes.len() as u64)
    }

    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.memory.rule(Op::Read, 0) {
            Ruling::Go => {}
            Ruling::Fail(error, _) => return Err(error),
            Ruling::End(end) => return Err(self.memory.end(end)),
        }
        let pages = self.pages()?;
        let start = offset as usize;
        let bytes = pages.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes within the length the file has.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        if self.pages()?.bytes.len() < start + data.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.memory.rule(Op::Write, 0) {
            Ruling::Go => {
                self.pages()?.write(start, data);
                self.memory.note(|| Event::Write(self.name.clone(), start, data.into()));
                Ok(())
            }
            Ruling::Fail(error, part) => {
                if !self.memory.is_dead() {
                    self.pages()?.write(start, &data[..part as usize % (data.len() + 1)]);
                }
                Err(error)
            }
            Ruling::End(end) => {
                let part = end.draw(data.len() as u64 + 1) as usize;
                self.pages()?.write(start, &data[..part]);
                Err(self.memory.end(end))
            }
        }
    }

    pub fn set_length(&self, len: u64) -> io::Result<()> {
        let len = len as usize;
        let grows = len.saturating_sub(self.pages()?.bytes.len());
        match self.memory.rule(Op::Length, grows) {
            Ruling::Go => {
                self.pages()?.set_len(len);
                self.memory.note(|| Event::Length(self.name.clone(), len));
                Ok(())
            }
            Ruling::Fail(error, _) => Err(error),
            Ruling::End(end) => {
                self.pages()?.set_len(len);
                Err(self.memory.end(end))
            }
        }
    }

    pub fn sync(&self) -> io::Result<()> {
        drop(self.pages()?);
        match self.memory.rule(Op::Sync, 0) {
            Ruling::Go => {
                if !lock(&self.memory.folder.control).faults.syncs_lie {
                    self.pages()?.sync();
                }
                self.memory.note(|| Event::Sync(self.name.clone()));
                Ok(())
            }
            Ruling::Fail(error, _) => {
                if lock(&self.memory.folder.control).faults.failed_sync_forgets {
                    self.pages()?.forget();
                }
                Err(error)
            }
            Ruling::End(end) => Err(self.memory.end(end)),
        }
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.set_length(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
