//! Replays the journal from its first entry (or the oldest sealed snapshot) and compares it with everything that was
//! derived from it: what `weighbridge ledger verify --data DIR` runs.
//!
//! Checked, in the order of the entries: canonical bytes of leaf and group 0, sequence without gaps, time that never goes
//! back, every commitment whose group is there, every stored tile, the right edge, every line of `head.log`, every signed
//! checkpoint (its root, and that a key the journal names by then signed it), every sealed
//! snapshot and the running one against the replayed state, each SETTLE and INTERRUPTED against an open ADMIT (the state
//! machine refuses others), and at last the views against a rebuild. Memory does not grow with the journal. It may run
//! beside a server, up to the entry that is the last in the files when it begins; the views are then left out.

mod signed;

use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::domain::{Micros, Money};
use crate::ledger::codec;
use crate::ledger::entry::Body;
use crate::ledger::note::{Checkpoint, Verifier};
use crate::ledger::trust::Policy;

use super::StoreError;
use super::epoch;
use super::history::History;
use super::journal::{Journal, Mode, Stored};
use super::keeper::{Noted, read_head_log};
use super::keys::DataKeys;
use super::ledger::{KEY_PURPOSE, lock_folder};
use super::media::Media;
use super::reader::Reader;
use super::recover::sealed_of;
use super::seal::RootKey;
use super::snapshot::{self, Carried, Running};
use super::tiles::{Tile, tile_end};
use super::views::{self, Views};
use signed::{Signatures, epoch_of};

/// Entries read in one go.
const BATCH: usize = 1_000;
/// Folder for the rebuilt views, in the data folder; removed at the end.
const SCRATCH: &str = "verify.tmp";

/// What was looked at, and how it came out.
#[derive(Debug, Default, Serialize)]
pub struct Verification {
    pub verdict: Verdict,
    /// The entry something is wrong with.
    pub entry: Option<u64>,
    /// What is wrong.
    pub finding: Option<String>,
    pub epoch: u64,
    /// The first entry looked at: 0, unless older months were dropped.
    pub first: u64,
    /// Entries the journal had when the check began.
    pub size: u64,
    /// Root of the tree of those entries, in hex.
    pub root: String,
    pub last_at: Option<Micros>,
    pub tiles: u64,
    pub snapshots: u64,
    pub head_log_lines: u64,
    /// Signed checkpoints, those of `head.log` included.
    pub checkpoints: u64,
    /// Groups that were committed to and are not there any more (erased), or whose key is not at hand.
    pub groups_not_checked: u64,
    pub open_calls: u64,
    /// Calls in the views; absent where they were not compared.
    pub calls: Option<u64>,
    /// The sum of all known costs of those.
    pub cost_usd: Option<Money>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// How it came out; the number is the exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    #[default]
    Verified = 0,
    /// Something is not what it was, or not what follows from the rest.
    Mismatch = 1,
    /// Something cannot be read at all.
    Malformed = 2,
    /// A checkpoint is not signed by whom it should be.
    Unsigned = 3,
    /// Groups are erased, and all were asked for.
    Undisclosed = 4,
    /// The journal does not continue the checkpoint that was named.
    Forked = 5,
}

/// What a verification is to hold the journal against, beside itself.
#[derive(Default)]
pub struct Asked {
    /// Must believe the newest checkpoint.
    pub policy: Option<Policy>,
    /// Must be the beginning of the journal.
    pub since: Option<Checkpoint>,
    /// Erased groups are a finding.
    pub strict_disclosure: bool,
}

struct Finding {
    verdict: Verdict,
    entry: Option<u64>,
    what: String,
}

impl Finding {
    fn mismatch(entry: impl Into<Option<u64>>, what: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Mismatch, entry: entry.into(), what: what.into() }
    }
}

impl Finding {
    fn forked(what: String) -> Finding {
        Finding { verdict: Verdict::Forked, entry: None, what }
    }
}

/// What redb cannot read is malformed; bytes that are not what was written are a mismatch, as a promise not kept is.
impl From<StoreError> for Finding {
    fn from(error: StoreError) -> Finding {
        let (verdict, entry) = match error {
            StoreError::Rollback { .. } | StoreError::Missing { .. } => (Verdict::Mismatch, None),
            StoreError::Altered { entry, .. } => (Verdict::Mismatch, Some(entry)),
            _ => (Verdict::Malformed, None),
        };
        Finding { verdict, entry, what: error.to_string() }
    }
}

/// Verifies a data folder. An error says that it cannot be opened at all.
pub fn verify(dir: &Path) -> Result<Verification, StoreError> {
    verify_with(dir, &Asked::default())
}

/// The same, with what was kept elsewhere.
pub fn verify_with(dir: &Path, asked: &Asked) -> Result<Verification, StoreError> {
    if !dir.is_dir() {
        return Err(StoreError::Unwritable(format!("`{}` is not a folder", dir.display())));
    }
    // A running server keeps the lock: everything but the views can be read beside it.
    let lock = match lock_folder(dir) {
        Ok(lock) => Some(lock),
        Err(StoreError::InUse(_)) => None,
        Err(e) => return Err(e),
    };
    let alone = lock.is_some();
    let found = verify_media_with(&Media::Folder(dir.into()), alone, alone.then_some(dir), asked);
    drop(lock);
    Ok(found)
}

/// `alone`: no server has the folder open. `views`: the folder whose views are compared too.
pub fn verify_media(media: &Media, alone: bool, views: Option<&Path>) -> Verification {
    verify_media_with(media, alone, views, &Asked::default())
}

/// The same, with what was kept elsewhere.
pub fn verify_media_with(media: &Media, alone: bool, views: Option<&Path>, asked: &Asked) -> Verification {
    let mut found = Verification::default();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(media, alone, views, asked, &mut found)));
    let result = result.unwrap_or_else(|_| {
        Err(Finding { verdict: Verdict::Malformed, entry: None, what: "a file is damaged beyond reading".into() })
    });
    if let Err(finding) = result {
        (found.verdict, found.entry, found.finding) = (finding.verdict, finding.entry, Some(finding.what));
    }
    found
}

fn run(
    media: &Media,
    alone: bool,
    views: Option<&Path>,
    asked: &Asked,
    found: &mut Verification,
) -> Result<(), Finding> {
    let mode = if alone { Mode::Read } else { Mode::Beside };
    let journal = Arc::new(Journal::open(media.clone(), mode)?);
    let reader = Arc::new(Reader { journal, keys: keys(media, found) });
    let earlier = earlier_epochs(media, &reader, asked, found)?.map(Box::new);
    (found.epoch, found.size) = (reader.journal.epoch, reader.journal.size());
    replay(media, &reader, Kind::Present { alone, earlier }, asked, found)?;
    match views {
        Some(dir) if found.first == 0 => compare_views(dir, media, &reader, found)?,
        Some(_) => found.notes.push("views: not compared, older months were dropped".into()),
        None => found.notes.push("views: not compared, the folder is in use".into()),
    }
    Ok(())
}

/// The epochs that ended, each to its end; the state after the last of them.
fn earlier_epochs(
    media: &Media,
    present: &Reader,
    asked: &Asked,
    found: &mut Verification,
) -> Result<Option<Carried>, Finding> {
    let mut last = None;
    for epoch in Journal::epochs(media)?.into_iter().filter(|epoch| *epoch < present.journal.epoch) {
        let within = |finding: Finding| Finding { what: format!("epoch {epoch}: {}", finding.what), ..finding };
        let journal = Journal::open_epoch(media.clone(), Mode::Read, epoch).map_err(|e| within(e.into()))?;
        let reader = Reader { journal: Arc::new(journal), keys: present.keys.clone() };
        let mut part = Verification { epoch, size: reader.journal.size(), ..Verification::default() };
        let carried = replay(media, &reader, Kind::Ended, asked, &mut part).map_err(within)?;
        found.notes.push(format!("epoch {epoch}: verified, {} entries, root {}", part.size, part.root));
        found.notes.append(&mut part.notes);
        found.tiles += part.tiles;
        found.snapshots += part.snapshots;
        found.head_log_lines += part.head_log_lines;
        found.checkpoints += part.checkpoints;
        found.groups_not_checked += part.groups_not_checked;
        last = Some(carried);
    }
    Ok(last)
}

/// Which epoch is replayed.
enum Kind {
    /// Something later took its place: what was promised beyond its end is known to be lost.
    Ended,
    /// `alone`: no server has it open. `earlier`: the state after the epoch before.
    Present { alone: bool, earlier: Option<Box<Carried>> },
}

/// One epoch, from its first entry (or the oldest sealed snapshot) to its last; the state after it.
fn replay(
    media: &Media,
    reader: &Reader,
    kind: Kind,
    asked: &Asked,
    found: &mut Verification,
) -> Result<Carried, Finding> {
    let (size, edge) = reader.journal.last_edge()?.unwrap_or_default();
    found.size = size;
    let mut replay = Replay::start(media, reader, kind, asked, found)?;
    while replay.carried.size() < size {
        let from = replay.carried.size();
        let wanted = usize::try_from(size - from).unwrap_or(BATCH).min(BATCH);
        let entries = reader.journal.read(from, wanted, true)?;
        if entries.is_empty() {
            return Err(Finding::mismatch(from, format!("entry {from} is missing")));
        }
        for stored in &entries {
            replay.entry(stored, found)?;
        }
    }
    if replay.carried.tree.edge() != edge {
        return Err(Finding::mismatch(None, "the stored edge of the tree is not that of the entries"));
    }
    replay.finish(asked, found)
}

/// The data keys, where the root key is at hand.
fn keys(media: &Media, found: &mut Verification) -> Option<Arc<DataKeys>> {
    let keys = match RootKey::find(media) {
        Ok(Some(root)) => DataKeys::open_read_only(media, &root),
        Ok(None) => Err(StoreError::Refused("there is no root key".into())),
        Err(e) => Err(e),
    };
    match keys {
        Ok(keys) => Some(Arc::new(keys)),
        Err(e) => {
            found.notes.push(format!("sealed groups: not checked, {e}"));
            None
        }
    }
}

struct Replay<'a> {
    reader: &'a Reader,
    kind: Kind,
    /// What the GAP that opened the epoch says of what was carried over.
    opening: String,
    carried: Carried,
    full: Vec<Tile>,
    /// Lines of `head.log` not reached yet, the next one last.
    noted: Vec<Noted>,
    running: Option<Carried>,
    signed: Signatures,
}

impl<'a> Replay<'a> {
    fn start(
        media: &Media,
        reader: &'a Reader,
        kind: Kind,
        asked: &Asked,
        found: &mut Verification,
    ) -> Result<Replay<'a>, Finding> {
        let oldest = reader.journal.oldest()?.unwrap_or(0);
        let epoch = reader.journal.epoch;
        let carried = match (oldest, reader.journal.months().first()) {
            (0, _) if epoch == 0 => Carried::genesis(0),
            (_, None) => Carried::genesis(epoch),
            (_, Some(month)) => sealed_of(reader, month)?
                .ok_or_else(|| Finding::mismatch(oldest, format!("month {month} has no sealed snapshot")))?
                .without_persons(),
        };
        found.first = carried.size();
        let noted = noted(media, epoch, &kind, carried.size(), found)?;
        let running = match media.read_side(snapshot::FILE) {
            Ok(Some(bytes)) => match Running::from_file(&bytes).map(|running| running.carried) {
                Ok(running) if running.epoch != epoch => None,
                Ok(running) if running.size() <= found.size && running.size() >= carried.size() => Some(running),
                Ok(_) => None,
                Err(what) => return Err(Finding::mismatch(None, format!("running snapshot: {what}"))),
            },
            _ => None,
        };
        let next = reader.journal.checkpoint_from(carried.size() + 1)?;
        let since = asked.since.clone().filter(|since| epoch_of(since) == Some(epoch));
        let signed = Signatures { next, since, ..Signatures::default() };
        let opening = String::new();
        let mut replay = Replay { reader, kind, opening, carried, full: Vec::new(), noted, running, signed };
        replay.begin_since(found)?;
        replay.compare_running(found)?;
        Ok(replay)
    }

    fn entry(&mut self, stored: &Stored, found: &mut Verification) -> Result<(), Finding> {
        let seq = stored.seq;
        let wrong = |what: String| Finding::mismatch(seq, what);
        if seq != self.carried.size() {
            return Err(wrong(format!("entry {} is missing: {seq} follows", self.carried.size())));
        }
        let opened = self.reader.open(stored).map_err(|e| wrong(e.to_string()))?;
        if opened.leaf.encode() != stored.raw.leaf {
            return Err(wrong("its leaf is not in canonical form".into()));
        }
        if codec::encode_body(&opened.entry.body) != stored.raw.body {
            return Err(wrong("its group 0 is not in canonical form".into()));
        }
        found.groups_not_checked += opened.missing.len() as u64;
        if let Body::Gap { reason, .. } = &opened.entry.body
            && seq == 0
        {
            self.opening = reason.clone();
        }
        if let Body::Snapshot { month, sha256, .. } = &opened.entry.body {
            self.snapshot(seq, month, sha256, found)?;
        }
        self.carried.state.apply(&opened.entry).map_err(|e| wrong(e.to_string()))?;
        self.carried.tree.push(opened.hash);
        self.carried.tiles.push(seq, opened.hash, &mut self.full);
        found.last_at = Some(opened.entry.ts);
        if let Body::Key { purpose, vkey, .. } = &opened.entry.body
            && purpose == KEY_PURPOSE
        {
            self.signed.keys.push(Verifier::parse(vkey).map_err(|e| wrong(e.to_string()))?);
        }
        let fed = self.reader.journal.fed();
        for (level, index, bytes) in std::mem::take(&mut self.full) {
            // Stored with its last entry, which is only in the log yet.
            if tile_end(level, index).is_some_and(|end| end > fed) {
                continue;
            }
            if self.reader.journal.tile(level, index)?.as_deref() != Some(&bytes) {
                return Err(wrong(format!("tile {level}/{index}, which ends here, is not made of these entries")));
            }
            found.tiles += 1;
        }
        self.compare_head_log(found)?;
        self.compare_checkpoints(found)?;
        self.compare_running(found)
    }

    /// The state before a SNAPSHOT entry is the one that was sealed.
    fn snapshot(&self, seq: u64, month: &str, sha256: &[u8; 32], found: &mut Verification) -> Result<(), Finding> {
        let sealed = self.reader.journal.sealed(month)?;
        // An epoch begins with a GAP, its SNAPSHOT follows.
        let opens_epoch = seq == 1 && self.reader.journal.epoch > 0;
        let sealed = sealed.filter(|sealed| sealed.first == seq || (sealed.first == 0 && opens_epoch));
        let sealed = sealed.ok_or_else(|| Finding::mismatch(seq, format!("month {month} has no sealed snapshot")))?;
        if Sha256::digest(&sealed.snapshot).as_slice() != sha256 {
            return Err(Finding::mismatch(seq, format!("the sealed snapshot of {month} is not the one recorded")));
        }
        let kept = Carried::decode_sealed(&sealed.snapshot, sealed.catalogue.as_deref());
        let kept = kept.map_err(|what| Finding::mismatch(seq, what))?;
        if sealed.first < seq {
            self.compare_carried_over(&kept, found)?;
        } else if seq > found.first {
            self.compare(&kept, &format!("the sealed snapshot of {month}"))?;
        }
        found.snapshots += 1;
        Ok(())
    }

    /// What an epoch begins with, against what the one before it ended with, where it was that which was carried over.
    fn compare_carried_over(&self, kept: &Carried, found: &mut Verification) -> Result<(), Finding> {
        let Kind::Present { earlier, .. } = &self.kind else { return Ok(()) };
        let promised =
            |earlier: &&Carried| self.opening.starts_with(&epoch::carried_over(earlier.epoch, earlier.size()));
        let Some(earlier) = earlier.as_deref().filter(promised) else {
            found
                .notes
                .push("what the epoch began with: not compared, the one before it could not be read whole".into());
            return Ok(());
        };
        let (state, _) = earlier.without_persons().state.carried_over();
        if state.encode() != kept.without_persons().state.encode() {
            let what = format!("the epoch does not begin with what epoch {} ended with", earlier.epoch);
            return Err(Finding::mismatch(1, what));
        }
        Ok(())
    }

    fn compare(&self, kept: &Carried, what: &str) -> Result<(), Finding> {
        let size = self.carried.size();
        let same = kept.tree == self.carried.tree && kept.tiles.levels_equal(&self.carried.tiles);
        if !same || kept.without_persons().state.encode() != self.carried.without_persons().state.encode() {
            return Err(Finding::mismatch(size, format!("{what} is not the state that the entries before it give")));
        }
        Ok(())
    }

    fn compare_running(&mut self, found: &mut Verification) -> Result<(), Finding> {
        if self.running.as_ref().is_some_and(|running| running.size() == self.carried.size())
            && let Some(running) = self.running.take()
        {
            self.compare(&running, "the running snapshot")?;
            found.snapshots += 1;
        }
        Ok(())
    }

    fn compare_head_log(&mut self, found: &mut Verification) -> Result<(), Finding> {
        while let Some(line) = self.noted.pop_if(|line| line.size <= self.carried.size()) {
            if line.size == self.carried.size() && line.root != self.carried.tree.root() {
                let what = format!("`head.log` has another root for the first {} entries", line.size);
                return Err(Finding::mismatch(line.size.checked_sub(1), what));
            }
            if let Some(note) = line.note.filter(|_| line.size == self.carried.size()) {
                self.compare_note(&note, "`head.log`", found)?;
            }
            found.head_log_lines += 1;
        }
        Ok(())
    }

    fn finish(mut self, asked: &Asked, found: &mut Verification) -> Result<Carried, Finding> {
        found.root = HEXLOWER.encode(&self.carried.tree.root());
        found.open_calls = self.carried.state.running().count() as u64;
        self.leftovers(asked, found)?;
        Ok(self.carried)
    }
}

/// The lines of `head.log` to be reached by an epoch, the next one last.
fn noted(media: &Media, epoch: u64, kind: &Kind, after: u64, found: &mut Verification) -> Result<Vec<Noted>, Finding> {
    let all = read_head_log(media)?;
    if let (Kind::Present { .. }, Some(later)) = (kind, all.iter().find(|line| line.epoch > epoch)) {
        let what = format!("rollback_detected: `head.log` is of epoch {}, the journal of epoch {epoch}", later.epoch);
        return Err(Finding::mismatch(None, what));
    }
    let mut noted: Vec<Noted> = all.into_iter().filter(|line| line.epoch == epoch && line.size > after).collect();
    if let Some(ahead) = noted.iter().map(|line| line.size).max().filter(|size| *size > found.size) {
        match kind {
            Kind::Present { alone: true, .. } => {
                let what = format!("rollback_detected: `head.log` has {ahead} entries, the journal {}", found.size);
                return Err(Finding::mismatch(None, what));
            }
            // The server goes on while we look.
            Kind::Present { alone: false, .. } => {}
            Kind::Ended => {
                found.notes.push(format!("epoch {epoch}: {ahead} entries were promised, {} are there", found.size))
            }
        }
        noted.retain(|line| line.size <= found.size);
    }
    // The keeper's lines and the signer's may have crossed.
    noted.sort_by_key(|line| std::cmp::Reverse(line.size));
    Ok(noted)
}

fn compare_views(dir: &Path, media: &Media, reader: &Arc<Reader>, found: &mut Verification) -> Result<(), Finding> {
    let source = History::open(media, reader.clone())?;
    let size = reader.journal.before + found.size;
    let journal: views::Journal = Arc::new(move |from, limit| source.entries(from, limit));
    let scratch = dir.join(SCRATCH);
    let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{}`: {e}", scratch.display()));
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(unwritable)?;
    let compared = Views::open(Some(dir), journal.clone(), size).and_then(|live| {
        live.wait_for(size, std::time::Duration::from_secs(3_600));
        let check = views::check(&live, Some(&scratch), &journal);
        live.close();
        check
    });
    std::fs::remove_dir_all(&scratch).map_err(unwritable)?;
    let check = compared?;
    if let Some(difference) = check.difference {
        return Err(Finding::mismatch(None, format!("views: {difference}")));
    }
    (found.calls, found.cost_usd) = (Some(check.calls), Some(check.cost));
    Ok(())
}
