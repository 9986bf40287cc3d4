//! The signed side of a verification: every stored checkpoint, and the one that was kept elsewhere.

use crate::ledger::note::{Checkpoint, Note, Verifier};
use crate::store::signer::signed_by;

use super::{Asked, Finding, Kind, Replay, Verdict, Verification};

/// Checkpoints, in the order of their sizes, against the tree as it grows.
#[derive(Default)]
pub(super) struct Signatures {
    /// The keys that KEY entries have named so far.
    pub(super) keys: Vec<Verifier>,
    /// The next stored one.
    pub(super) next: Option<(u64, String)>,
    pub(super) newest: Option<Note>,
    /// The one kept elsewhere, until it is reached.
    pub(super) since: Option<Checkpoint>,
}

impl Replay<'_> {
    /// A checkpoint from elsewhere that the journal is shorter than, or that lies before what is replayed.
    pub(super) fn begin_since(&mut self, found: &Verification) -> Result<(), Finding> {
        let Some(since) = &self.signed.since else { return Ok(()) };
        if since.size > found.size && matches!(self.kind, Kind::Present { alone: false, .. }) {
            let what = format!("a server is at work and its files have {} entries so far: try again", found.size);
            return Err(Finding { verdict: Verdict::Malformed, entry: None, what });
        }
        if since.size > found.size {
            let what = format!("rollback: the checkpoint named has {} entries, the journal {}", since.size, found.size);
            return Err(Finding::forked(what));
        }
        if since.size <= found.first {
            let root = self.reader.root(since.size)?;
            return self.reached(root);
        }
        Ok(())
    }

    /// The tree has the size of the checkpoint from elsewhere, and this root.
    fn reached(&mut self, root: [u8; 32]) -> Result<(), Finding> {
        match self.signed.since.take() {
            Some(since) if since.root != root => {
                let what = format!("fork: the checkpoint named has another root for the first {} entries", since.size);
                Err(Finding::forked(what))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn compare_checkpoints(&mut self, found: &mut Verification) -> Result<(), Finding> {
        let size = self.carried.size();
        if self.signed.since.as_ref().is_some_and(|since| since.size == size) {
            self.reached(self.carried.tree.root())?;
        }
        while let Some((_, note)) = self.signed.next.take_if(|(at, _)| *at <= size) {
            self.compare_note(&note, "the journal", found)?;
            self.signed.next = self.reader.journal.checkpoint_from(size + 1)?;
        }
        Ok(())
    }

    /// A signed note of a tree of the present size.
    pub(super) fn compare_note(&mut self, text: &str, kept_in: &str, found: &mut Verification) -> Result<(), Finding> {
        let size = self.carried.size();
        let malformed = |e: &dyn std::fmt::Display| Finding {
            verdict: Verdict::Malformed,
            entry: size.checked_sub(1),
            what: format!("the checkpoint of {size} entries in {kept_in}: {e}"),
        };
        let note = Note::parse(text).map_err(|e| malformed(&e))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|e| malformed(&e))?;
        if checkpoint.size != size || checkpoint.root != self.carried.tree.root() {
            let what = format!("the checkpoint in {kept_in} has another root or size than the first {size} entries");
            return Err(Finding::mismatch(size.checked_sub(1), what));
        }
        match signed_by(&note, &self.signed.keys) {
            Some(key) if key.name() == checkpoint.origin => {}
            _ => {
                let what =
                    format!("the checkpoint of {size} entries in {kept_in} is not signed by a key of the journal");
                return Err(Finding { verdict: Verdict::Unsigned, entry: size.checked_sub(1), what });
            }
        }
        found.checkpoints += 1;
        self.signed.newest = Some(note);
        Ok(())
    }

    /// What is left over when every entry was replayed.
    pub(super) fn leftovers(&mut self, asked: &Asked, found: &Verification) -> Result<(), Finding> {
        let size = found.size;
        // A server beside us goes on, and its checkpoints with it; an epoch that ended is known to have lost some.
        if let (Kind::Present { alone: true, .. }, Some((at, _))) = (&self.kind, &self.signed.next) {
            let what = format!("rollback_detected: a checkpoint of {at} entries is stored, the journal has {size}");
            return Err(Finding::mismatch(None, what));
        }
        self.own_log(asked)?;
        if matches!(self.kind, Kind::Ended) {
            return Ok(());
        }
        if let Some(policy) = &asked.policy {
            let unsigned = |what: String| Finding { verdict: Verdict::Unsigned, entry: None, what };
            let note = self.signed.newest.as_ref().ok_or_else(|| unsigned("no checkpoint is signed".into()))?;
            policy.check(note).map_err(|e| unsigned(e.to_string()))?;
        }
        if asked.strict_disclosure && found.groups_not_checked > 0 {
            let what = format!("{} groups are erased or sealed", found.groups_not_checked);
            return Err(Finding { verdict: Verdict::Undisclosed, entry: None, what });
        }
        Ok(())
    }

    /// Whether the checkpoint from elsewhere is of this log at all, told by the epoch whose number it bears, or by the
    /// present one.
    fn own_log(&self, asked: &Asked) -> Result<(), Finding> {
        let Some(since) = &asked.since else { return Ok(()) };
        let epoch = self.reader.journal.epoch;
        let told_here = match self.kind {
            Kind::Present { .. } => epoch_of(since).is_none_or(|named| named >= epoch),
            Kind::Ended => epoch_of(since) == Some(epoch),
        };
        if told_here && !self.signed.keys.iter().any(|key| key.name() == since.origin) {
            return Err(Finding::forked(format!("the checkpoint named is of another log: `{}`", since.origin)));
        }
        Ok(())
    }
}

/// The epoch that an origin ends with.
pub(super) fn epoch_of(checkpoint: &Checkpoint) -> Option<u64> {
    checkpoint.origin.rsplit('/').next()?.parse().ok()
}
