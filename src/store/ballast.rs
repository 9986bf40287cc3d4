//! `ballast`: a file of nothing, given up when the disk is full, so that what must be written still can be and the
//! operator can log in and make room.
//!
//! It is made slowly while all is well, of at most 64 MiB or a hundredth of what is free, and of bytes that do not
//! compress: a hole, or zeros on a compressing file system, would be worth nothing when it counts.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;

use super::writer::unpoisoned;

/// Name of the file.
pub const NAME: &str = "ballast";
/// Most bytes of it, and the fewest that are worth a file.
const SIZES: (u64, u64) = (64 << 20, 64 << 10);
/// It takes one part in so many of what is free.
const SHARE: u64 = 100;
/// Bytes by which it grows at a time.
const STEP: u64 = 1 << 20;
/// How long after it was given up it is not made again.
const REST: Duration = Duration::from_secs(60);

/// Room there must be again before it is over: so many times what was given up. Else calls would use up what was freed
/// for those who make room.
const ENOUGH: u64 = 4;

/// The file, there or not.
pub struct Ballast {
    folder: PathBuf,
    /// When it was given up last. Held while it is made or given up.
    gone_at: Mutex<Option<Instant>>,
}

impl Ballast {
    pub fn in_folder(folder: &Path) -> Ballast {
        Ballast { folder: folder.into(), gone_at: Mutex::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Its size now, in bytes; 0 where it does not exist.
    fn size(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |file| file.len())
    }

    /// Frees its room and says how much that is. Nothing happens where it is gone already.
    pub fn give_up(&self) -> u64 {
        let mut gone_at = unpoisoned(self.gone_at.lock());
        let bytes = self.size();
        let freed = fs::remove_file(self.path()).is_ok();
        if freed {
            tracing::error!(
                bytes,
                "the disk is full: the ballast was given up for room; no call is admitted until some is free"
            );
        }
        *gone_at = Some(Instant::now());
        if freed { bytes } else { 0 }
    }

    /// Whether there is room again after so many bytes were given up.
    pub fn may_come_back(&self, given_up: u64) -> bool {
        self.free().is_ok_and(|free| free >= given_up.saturating_mul(ENOUGH))
    }

    /// Bytes that may still be written where it is.
    pub fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Makes it larger by a step, if it is not as large as the free room allows.
    pub fn grow(&self) -> io::Result<()> {
        let mut gone_at = unpoisoned(self.gone_at.lock());
        if gone_at.is_some_and(|at| at.elapsed() < REST) {
            return Ok(());
        }
        let has = self.size();
        let whole = wanted(self.free()?, has);
        if whole <= has {
            return Ok(());
        }
        let grown = self.add((whole - has).min(STEP));
        if grown.is_err() {
            // A quota, perhaps, which the free room does not tell of.
            let _ = fs::remove_file(self.path());
            *gone_at = Some(Instant::now());
        }
        grown
    }

    fn add(&self, bytes: u64) -> io::Result<()> {
        let mut noise = vec![0; bytes as usize];
        rand::fill(&mut noise).map_err(|_| io::Error::other("the system gave no randomness"))?;
        let mut file = OpenOptions::new().create(true).append(true).open(self.path())?;
        file.write_all(&noise)?;
        file.sync_data()
    }
}

/// How large it may be where so many bytes are free and it has so many.
fn wanted(free: u64, has: u64) -> u64 {
    let most = (free.saturating_add(has) / SHARE).min(SIZES.0);
    if most < SIZES.1 { 0 } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_hundredth_of_the_room_at_most_64_mib_and_nothing_where_there_is_little() {
        assert_eq!(wanted(1 << 40, 0), 64 << 20);
        assert_eq!(wanted(100 << 20, 0), 1 << 20);
        assert_eq!(wanted(99 << 20, 1 << 20), 1 << 20, "what it has itself counts as room");
        assert_eq!(wanted(6 << 20, 0), 0);
    }

    #[test]
    fn it_grows_step_by_step_is_really_there_and_once_given_up_stays_away_for_a_while() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_folder(folder.path());
        ballast.give_up();
        ballast.grow().unwrap();
        assert_eq!(ballast.size(), 0, "it was asked to be away");
        let ballast = Ballast::in_folder(folder.path());
        ballast.grow().unwrap();
        let first = ballast.size();
        assert!((1..=STEP).contains(&first), "{first}");
        let file = fs::metadata(ballast.path()).unwrap();
        assert!(file.blocks() * 512 >= first, "it takes up the room it says");
        ballast.grow().unwrap();
        assert!(ballast.size() > first || first < STEP);
        ballast.give_up();
        assert!(!ballast.path().exists());
        ballast.grow().unwrap();
        assert!(!ballast.path().exists());
    }
}
