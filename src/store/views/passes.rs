//! Long readings of the sums, in many short transactions, and yet of one moment.
//!
//! A transaction that stays open pins every page that is freed meanwhile, and a lock would make the follower wait. So a
//! pass says what moment it is of, and the follower puts aside, before each commit, what it is about to overwrite of
//! that moment: a few quarters of an hour, since new sums are in new quarters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::Call;

use super::write::Batch;

/// The passes under way.
#[derive(Default)]
pub struct Passes(Mutex<Vec<std::sync::Weak<Pass>>>);

/// One pass. Dropping it lets go of what was put aside for it.
#[derive(Default)]
pub struct Pass(Mutex<Aside>);

/// What was overwritten since the pass began, as it was then.
#[derive(Default)]
struct Aside {
    /// By quarter; `None`: there were no sums.
    quarters: HashMap<u32, Option<Arc<[u8]>>>,
    /// Calls that had ended.
    calls: HashMap<u64, Arc<Call>>,
}

impl Passes {
    /// Begins a pass. `look` takes its first look at the file; no commit comes between it and the beginning.
    pub fn begin<T>(&self, look: impl FnOnce() -> T) -> (Arc<Pass>, T) {
        let mut passes = self.lock();
        let pass = Arc::new(Pass::default());
        passes.push(Arc::downgrade(&pass));
        (pass, look())
    }

    /// Commits a batch, after what it overwrites was put aside for those who still read it.
    pub fn around<T>(&self, batch: &Batch, commit: impl FnOnce() -> T) -> T {
        let mut passes = self.lock();
        passes.retain(|pass| pass.strong_count() > 0);
        for pass in passes.iter().filter_map(std::sync::Weak::upgrade) {
            let mut aside = pass.lock();
            for quarter in &batch.quarters {
                let before = || quarter.before.as_deref().map(Arc::from);
                aside.quarters.entry(quarter.quarter).or_insert_with(before);
            }
            for (seq, call) in &batch.reopened {
                aside.calls.entry(*seq).or_insert_with(|| Arc::new(call.clone()));
            }
        }
        commit()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<std::sync::Weak<Pass>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// A quarter as it was, if it was overwritten. To be asked after the file was read: what the file had then is right
    /// unless something was put aside by now.
    pub fn quarter(&self, quarter: u32) -> Option<Option<Arc<[u8]>>> {
        self.lock().quarters.get(&quarter).cloned()
    }

    /// The overwritten or removed quarters of a range.
    pub fn quarters(&self, range: std::ops::Range<u32>) -> Vec<u32> {
        self.lock().quarters.keys().copied().filter(|quarter| range.contains(quarter)).collect()
    }

    /// A call that had ended, as it was, if it was changed.
    pub fn call(&self, seq: u64) -> Option<Arc<Call>> {
        self.lock().calls.get(&seq).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Aside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
