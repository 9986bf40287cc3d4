//! The files by month: which of them has an entry, and which are open.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::media::{File, HOT_CACHE};

use super::{FORMAT, Journal, META, Mode, NEEDS_LOG, OPEN_PAST, absent, damaged, number, reading};

/// One month's file.
#[derive(Clone)]
pub struct Month {
    pub epoch: u64,
    pub name: String,
    pub file: Option<Arc<File>>,
    /// Sequence of its first entry, once looked up.
    pub first: Option<u64>,
}

impl Month {
    pub fn file_name(&self) -> String {
        match self.epoch {
            0 => format!("journal-{}.redb", self.name),
            epoch => format!("journal-{}-e{epoch}.redb", self.name),
        }
    }
}

impl Journal {
    /// Opens a month's file and reads where it begins.
    pub(super) fn look_into(&self, month: &mut Month, newest: bool) -> Result<(), StoreError> {
        let name = month.file_name();
        let file = match (&month.file, newest && self.mode == Mode::Write) {
            (Some(file), _) => file.clone(),
            (None, true) => Arc::new(self.media.open(&name, HOT_CACHE)?),
            (None, false) => Arc::new(self.media.open_read_only(&name)?),
        };
        if month.first.is_none() {
            month.first = self.read_beginning(&name, &file)?;
        }
        month.file = Some(file);
        Ok(())
    }

    /// First sequence of a file, after its format was found to be one we know.
    pub(super) fn read_beginning(&self, name: &str, file: &File) -> Result<Option<u64>, StoreError> {
        reading(name, file, |txn| {
            let Some(meta) = absent(txn.open_table(META))? else { return Ok(None) };
            let format = meta.get("format")?.and_then(|v| number(v.value(), 0));
            let genesis = meta.get("genesis")?.and_then(|v| Some((number(v.value(), 0)?, number(v.value(), 8)?)));
            Ok(format.zip(genesis))
        })
        .and_then(|found| match found {
            None => Ok(None),
            Some((format, _)) if format > FORMAT => {
                Err(StoreError::Newer { file: name.into(), found: format, known: FORMAT })
            }
            Some((_, (epoch, first))) if epoch == self.epoch => Ok(Some(first)),
            Some((_, (epoch, _))) => Err(damaged(name, format!("it is of epoch {epoch}, not {}", self.epoch))),
        })
    }

    /// The month being written, if any entry was ever written.
    pub fn month(&self) -> Option<String> {
        self.lock().last().map(|m| m.name.clone())
    }

    /// Names of the months there are, oldest first.
    pub fn months(&self) -> Vec<String> {
        self.lock().iter().map(|m| m.name.clone()).collect()
    }

    /// The open file of a month, by its place in the list.
    pub(super) fn file(&self, months: &mut [Month], place: usize) -> Result<(String, Arc<File>), StoreError> {
        let newest = place + 1 == months.len();
        if !newest && months[place].file.is_none() {
            let open: Vec<usize> = (0..months.len() - 1).filter(|&i| months[i].file.is_some()).collect();
            // Far past months are read rarely and in order: the one farthest away is not needed soon.
            if open.len() >= OPEN_PAST
                && let Some(&farthest) = open.iter().max_by_key(|&&i| i.abs_diff(place))
            {
                months[farthest].file = None;
            }
        }
        let mut month = months[place].clone();
        self.look_into(&mut month, newest)?;
        months[place] = month.clone();
        let file = month.file.clone().ok_or(StoreError::Closed)?;
        Ok((month.file_name(), file))
    }

    /// The file that has the entry `seq`, and the place of its month.
    pub(super) fn file_of(&self, seq: u64) -> Result<Option<(String, Arc<File>, usize)>, StoreError> {
        let mut months = self.lock();
        for place in (0..months.len()).rev() {
            if months[place].first.is_none() {
                self.file(&mut months, place)?;
            }
            if months[place].first.is_some_and(|first| first <= seq) {
                let (name, file) = self.file(&mut months, place)?;
                return Ok(Some((name, file, place)));
            }
        }
        Ok(None)
    }

    /// The file that has the entry `seq`, by name.
    pub fn file_name_of(&self, seq: u64) -> Option<String> {
        self.file_of(seq).ok().flatten().map(|(name, ..)| name)
    }

    pub(super) fn file_at(&self, place: usize) -> Result<Option<(String, Arc<File>)>, StoreError> {
        let mut months = self.lock();
        if place >= months.len() { Ok(None) } else { self.file(&mut months, place).map(Some) }
    }

    /// Sequence of the oldest entry there is: 0 until a month is dropped.
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
        let mut months = self.lock();
        if months.is_empty() {
            return Ok(None);
        }
        self.file(&mut months, 0)?;
        Ok(months[0].first)
    }

    /// Whether entries after those of the files may be in the log. A copy in a backup has all of its own, and so has a
    /// file of the version before the log.
    pub(super) fn needs_log(&self) -> Result<bool, StoreError> {
        let Some(last) = self.lock().len().checked_sub(1) else { return Ok(false) };
        let Some((name, file)) = self.file_at(last)? else { return Ok(false) };
        reading(&name, &file, |txn| Ok(txn.open_table(META)?.get(NEEDS_LOG)?.is_some()))
    }

    /// The newest month's file.
    pub(super) fn newest(&self) -> Result<(String, Arc<File>), StoreError> {
        let mut months = self.lock();
        let last = months.len().checked_sub(1).ok_or(StoreError::Closed)?;
        self.file(&mut months, last)
    }

    /// Lets go of the newest month's file: after an error its handle is of no more use.
    pub(super) fn drop_newest(&self) {
        if let Some(month) = self.lock().last_mut() {
            month.file = None;
        }
    }
}
