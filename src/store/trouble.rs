//! What does not go as it should beside the calls: shown while it lasts, said once, and met with the [`Ballast`] where
//! the disk is full.
//!
//! Only a journal that cannot be written stops calls. Views, `head.log`, checkpoints and snapshots that cannot be written
//! are behind until they can: everything in them is in the journal, or is made again from it. Once the ballast is given
//! up no call is admitted either, until there is room for it again: what it freed is for the calls under way, and for who
//! makes room.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::StoreError;
use super::ballast::Ballast;
use super::media::Media;
use super::writer::unpoisoned;

/// What may be in trouble. The names are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Journal,
    Views,
    HeadLog,
    Checkpoint,
    Snapshot,
    NextMonth,
    Core,
    Room,
}

impl Part {
    pub const ALL: [Part; 8] = [
        Part::Journal,
        Part::Views,
        Part::HeadLog,
        Part::Checkpoint,
        Part::Snapshot,
        Part::NextMonth,
        Part::Core,
        Part::Room,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Part::Journal => "journal",
            Part::Views => "views",
            Part::HeadLog => "head_log",
            Part::Checkpoint => "checkpoint",
            Part::Snapshot => "snapshot",
            Part::NextMonth => "next_month",
            Part::Core => "core",
            Part::Room => "room",
        }
    }

    /// What follows from it.
    fn meaning(self) -> &'static str {
        match self {
            Part::Journal => "the journal's file cannot be written: no call is admitted until it can",
            Part::Views => "the views fall behind the journal: lists and sums are as of what they say",
            Part::HeadLog => "`head.log` cannot be written: a rollback of the newest entries would not be noticed",
            Part::Checkpoint => "a checkpoint was not signed: proofs go up to the last one",
            Part::Snapshot => "the running snapshot cannot be written: the next start takes longer",
            Part::NextMonth => "the next month's file cannot be made ready: its first call will take longer",
            Part::Core => "`core.redb` cannot be written: nobody can sign in, and no credential can be changed",
            Part::Room => "the disk was full and the ballast is given up: no call is admitted, those under way end",
        }
    }
}

/// The troubles there are, and what is given up for room.
#[derive(Default)]
pub struct Troubles {
    ballast: OnceLock<Ballast>,
    /// Bytes of it that were given up and may not come back yet; 0: none.
    given_up: AtomicU64,
    known: Mutex<BTreeMap<Part, String>>,
}

impl Troubles {
    pub fn of(media: &Media) -> Troubles {
        let troubles = Troubles::default();
        if let Media::Folder(dir) = media {
            troubles.keep_ballast_in(dir);
        }
        troubles
    }

    pub(super) fn keep_ballast_in(&self, dir: &Path) {
        // Said once, when the ledger is put together.
        let _ = self.ballast.set(Ballast::in_folder(dir));
    }

    /// A part failed: said if it is news, and the ballast goes if there was no room.
    pub fn failed(&self, part: Part, error: &StoreError) {
        self.makes_room(part, error);
    }

    /// The same. True: there is room now, and it is worth another try.
    pub fn makes_room(&self, part: Part, error: &StoreError) -> bool {
        if unpoisoned(self.known.lock()).insert(part, error.to_string()).is_none() {
            tracing::error!(%error, part = part.name(), "{}", part.meaning());
        }
        let (StoreError::Full(_), Some(ballast)) = (error, self.ballast.get()) else { return false };
        let freed = ballast.give_up();
        self.gave_up(freed);
        freed > 0
    }

    /// So many bytes were given up for room.
    pub(super) fn gave_up(&self, bytes: u64) {
        if bytes > 0 {
            self.given_up.store(bytes, Ordering::SeqCst);
            let why = Part::Room.meaning().to_owned();
            unpoisoned(self.known.lock()).insert(Part::Room, why);
        }
    }

    /// Bytes that may still be written where the ballast is; nothing in memory.
    pub fn free_bytes(&self) -> Option<u64> {
        self.ballast.get()?.free().ok()
    }

    /// Why no call is to be admitted, if the ballast is given up.
    pub fn no_room(&self) -> Option<String> {
        (self.given_up.load(Ordering::SeqCst) > 0).then(|| Part::Room.meaning().to_owned())
    }

    /// A part works, again or still.
    pub fn over(&self, part: Part) {
        if unpoisoned(self.known.lock()).remove(&part).is_some() {
            tracing::info!(part = part.name(), "this can be written again");
        }
    }

    /// Every part in trouble, with the last error.
    pub fn list(&self) -> Vec<(Part, String)> {
        unpoisoned(self.known.lock()).iter().map(|(part, why)| (*part, why.clone())).collect()
    }

    /// Makes the ballast a little larger, if it is not whole, nothing is in trouble and there is room for it a hundred
    /// times over; ends the trouble of one that was given up once there is room again. Blocks.
    pub fn grow_ballast(&self) {
        let Some(ballast) = self.ballast.get() else { return };
        let given_up = self.given_up.load(Ordering::SeqCst);
        if given_up > 0 {
            if ballast.may_come_back(given_up) {
                self.given_up.store(0, Ordering::SeqCst);
                self.over(Part::Room);
            }
        } else if unpoisoned(self.known.lock()).is_empty()
            && let Err(error) = ballast.grow()
        {
            tracing::warn!(%error, "the ballast is not made");
        }
    }
}
