//! What does not go as it should beside the calls: shown while it lasts, said once, and met with the [`Ballast`] where
//! the disk is full.
//!
//! Only a journal that cannot be written stops calls. Views, `head.log`, checkpoints and snapshots that cannot be written
//! are behind until they can: everything in them is in the journal, or is made again from it.

use std::collections::BTreeMap;
use std::sync::Mutex;

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
}

impl Part {
    pub const ALL: [Part; 6] =
        [Part::Journal, Part::Views, Part::HeadLog, Part::Checkpoint, Part::Snapshot, Part::NextMonth];

    pub fn name(self) -> &'static str {
        match self {
            Part::Journal => "journal",
            Part::Views => "views",
            Part::HeadLog => "head_log",
            Part::Checkpoint => "checkpoint",
            Part::Snapshot => "snapshot",
            Part::NextMonth => "next_month",
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
        }
    }
}

/// The troubles there are, and what is given up for room.
#[derive(Default)]
pub struct Troubles {
    ballast: Option<Ballast>,
    known: Mutex<BTreeMap<Part, String>>,
}

impl Troubles {
    pub fn of(media: &Media) -> Troubles {
        let ballast = match media {
            Media::Folder(dir) => Some(Ballast::in_folder(dir)),
            Media::Memory(_) => None,
        };
        Troubles { ballast, known: Mutex::default() }
    }

    /// A part failed: said if it is news, and the ballast goes if there was no room.
    pub fn failed(&self, part: Part, error: &StoreError) {
        if unpoisoned(self.known.lock()).insert(part, error.to_string()).is_none() {
            tracing::error!(%error, part = part.name(), "{}", part.meaning());
        }
        if let (StoreError::Full(_), Some(ballast)) = (error, &self.ballast) {
            ballast.give_up();
        }
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
    /// times over. Blocks.
    pub fn grow_ballast(&self) {
        let Some(ballast) = &self.ballast else { return };
        if unpoisoned(self.known.lock()).is_empty()
            && let Err(error) = ballast.grow()
        {
            tracing::warn!(%error, "the ballast is not made");
        }
    }
}
