//! What a disk does to those who trust it: which operation fails, when the power goes, and what is left then.
//!
//! All chance comes from seeds, so that a failure seen once is seen again.

use std::io;

use super::memory::Event;

/// What goes wrong with a folder in memory. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The process ends at this write point ([`super::Memory::points`]), in the middle of it.
    pub end_at: Option<(u64, End)>,
    pub trouble: Option<Trouble>,
    /// So many bytes files may still grow; then the disk is full.
    pub room: Option<u64>,
    /// A failed sync counts its pages as written from then on, as kernels do.
    pub failed_sync_forgets: bool,
    /// Syncs say yes and do nothing: a disk nobody can build on. To see that tests notice it.
    pub syncs_lie: bool,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// What was written stays.
    Kill,
    /// What was written and not synced is as the survival has it.
    Power(Survival),
}

impl End {
    /// A number below `n`: how far an operation came that did not come to its end.
    pub(super) fn draw(&self, n: u64) -> u64 {
        match self {
            End::Kill => 0,
            End::Power(survival) => Survival { seed: survival.seed ^ 0x5eed, ..*survival }.below(n),
        }
    }
}

/// An operation that fails.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub op: Op,
    /// So many of its kind still go well.
    pub after: u64,
    /// So many fail.
    pub times: u64,
}

/// What a medium is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Sync,
    Length,
    /// Side files: replaced, appended to, removed.
    Side,
}

/// What becomes of unsynced writes in a power cut.
#[derive(Clone, Copy, Debug)]
pub struct Survival {
    pub seed: u64,
    /// What a disk writes as a whole, in bytes.
    pub unit: usize,
    /// Of a hundred unsynced writes, how many are lost.
    pub lost_percent: u64,
    /// The unit that was being written may have only its first part.
    pub tears: bool,
}

impl Survival {
    /// Every unsynced write is lost.
    pub fn nothing() -> Survival {
        Survival { seed: 0, unit: 4096, lost_percent: 100, tears: false }
    }

    /// Drawn from a seed: sectors or pages, most lost or most kept, torn or whole.
    pub fn drawn(seed: u64) -> Survival {
        let mut of = Survival { seed, unit: 512, lost_percent: 50, tears: false };
        of.unit = [512, 4096][of.below(2) as usize];
        of.lost_percent = [0, 10, 50, 50, 90, 100][of.below(6) as usize];
        of.tears = of.below(2) == 0;
        of
    }

    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn is_lost(&mut self) -> bool {
        self.below(100) < self.lost_percent
    }

    /// Of `n` things in order, how many made it.
    pub(super) fn up_to(&mut self, n: u64) -> u64 {
        if n == 0 || self.is_lost() { self.below(n) * u64::from(self.lost_percent < 100) } else { n }
    }

    /// Of the last `len` bytes to reach a unit, how many did.
    pub(super) fn torn(&mut self, len: usize) -> usize {
        if self.tears && self.below(4) == 0 { self.below(len as u64 + 1) as usize } else { len }
    }
}

/// What becomes of an operation.
pub(super) enum Ruling {
    Go,
    /// It fails, maybe after a part of it was done: the number says which, modulo its length.
    Fail(io::Error, u64),
    End(End),
}

/// The faults of one folder, and what they are counted by.
#[derive(Default)]
pub(super) struct Control {
    pub faults: Faults,
    /// Every write fails for want of room.
    pub full: bool,
    /// The process that had the handles is gone.
    pub dead: bool,
    pub points: u64,
    pub tape: Option<Vec<Event>>,
}

impl Control {
    /// Counts the operation and says what becomes of it. `grows`: bytes that files become longer by it.
    pub fn rule(&mut self, op: Op, grows: u64) -> Ruling {
        if self.dead {
            return Ruling::Fail(io::Error::other("the machine is gone"), 0);
        }
        if op != Op::Read {
            self.points += 1;
            if let Some((at, end)) = self.faults.end_at
                && self.points >= at
            {
                return Ruling::End(end);
            }
        }
        if let Some(trouble) = self.faults.trouble.as_mut().filter(|t| t.op == op && t.times > 0) {
            if trouble.after == 0 {
                trouble.times -= 1;
                return Ruling::Fail(io::Error::other("input/output error"), self.points);
            }
            trouble.after -= 1;
        }
        let full = || io::Error::new(io::ErrorKind::StorageFull, "no space left on device");
        if self.full && op != Op::Read {
            return Ruling::Fail(full(), 0);
        }
        if let Some(room) = &mut self.faults.room {
            match room.checked_sub(grows) {
                Some(left) => *room = left,
                None => return Ruling::Fail(full(), *room),
            }
        }
        Ruling::Go
    }
}
