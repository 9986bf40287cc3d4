//! Begins a new epoch: a history of its own after one that cannot be gone on with.
//!
//! A journal that was rolled back must not be continued under its old name: what was signed of it before would be
//! contradicted. So its files stay as they are, readable and verifiable, and new ones begin beside them
//! (`journal-2026-11-e1.redb`) with sequence 0, an origin of their own and another signing key. Entry 0 is a GAP that
//! quotes the last checkpoint known of the old epoch, entry 1 the SNAPSHOT of what is carried over: everything declared,
//! every balance. Calls that were open are settled as interrupted before that snapshot is taken, so their holds are
//! posted in it; the entries after it name them, one each, for whoever reads calls.
//!
//! What is carried over is the state after the newest entry that can be read; where the journal cannot be read at all,
//! the running snapshot; where there is none, nothing. The GAP says which.
//!
//! It is done with the folder closed, as one redb transaction in a file that did not exist: a crash before it leaves the
//! old epoch, one after it the new.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::Micros;
use crate::ledger::entry::{Body, Entry, Erasable, NewEntry, Person};
use crate::ledger::state::Open;
use crate::ledger::tree::Tree;

use super::StoreError;
use super::block::{Builder, Prepared};
use super::clock::Clock;
use super::core::Core;
use super::journal::log::Log;
use super::journal::{Journal, Mode, Opening, Pending};
use super::keeper::{self, HEAD_LOG, Noted};
use super::keys::{DataKeys, Place};
use super::media::Media;
use super::promise::{self, Promise};
use super::reader::Reader;
use super::recover::recover;
use super::seal::{RootKey, random};
use super::snapshot::{self, Carried, Running};
use super::tiles::Tiles;

/// Interrupted calls that are named by an entry each, at most: what one block holds. Balances have them all.
const MOST_NAMED: usize = 60_000;
/// How the reason of the GAP begins.
const REASON: &str = "new_epoch: ";
/// The derived file, which may have calls of entries that are lost.
const VIEWS: &str = "views.redb";
/// Where a `head.log` that cannot be read is put.
const DAMAGED_LOG: &str = "head.log.damaged";

/// What was begun, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub epoch: u64,
    /// From where the state was carried over.
    pub carried: String,
    /// Calls that were open.
    pub interrupted: usize,
    /// The last checkpoint known of the epochs before.
    pub quotes: Option<String>,
}

/// What could be saved of the old epoch.
struct Old {
    state: Option<Carried>,
    carried: String,
    /// Entries of all epochs before the new one, as far as they can be read.
    before: u64,
}

/// Begins a new epoch in a folder that nobody has open. The reason is kept where it can be erased.
pub fn begin(media: &Media, clock: &dyn Clock, reason: &str) -> Result<Begun, StoreError> {
    let root = RootKey::load(media)?;
    let keys = Arc::new(DataKeys::open(media, &root)?);
    let core = Core::open(media, &root)?;
    let known = known(media, &core)?;
    // What was in a log that is lost is what the new epoch goes on without.
    Log::make(media)?;
    let newest = newest(media)?;
    let epoch = 1 + known.iter().map(|promise| promise.epoch).max().unwrap_or(0).max(newest);
    let old = save(media, &keys, newest, &known);
    let last = known.iter().max_by_key(|promise| (promise.epoch, promise.size, promise.note.is_some()));
    let quotes = last.map(|promise| match &promise.note {
        Some(note) => note.clone(),
        None => Noted { epoch: promise.epoch, size: promise.size, root: promise.root, note: None }.to_string(),
    });

    let state = old.state.as_ref().map(|carried| carried.state.carried_over());
    let (state, open) = state.unwrap_or_else(|| (Carried::genesis(epoch).state, Vec::new()));
    let at = Micros(clock.now().0.max(state.last_ts().0));
    let carried = Carried { epoch, state, tree: Tree::new(), tiles: Tiles::default() };
    let gap =
        Body::Gap { reason: format!("{REASON}{}", old.carried), count: open.len() as u64, quotes: quotes.clone() };
    let old_epoch = old.state.as_ref().map_or(newest, |carried| carried.epoch);
    write(media, &keys, &carried, &Start { epoch, before: old.before, at, gap, reason, old_epoch, open: &open })?;
    Ok(Begun { epoch, carried: old.carried, interrupted: open.len(), quotes })
}

fn whole(epoch: u64, size: u64) -> String {
    format!("the state after {size} entries of epoch {epoch} is carried over")
}

/// What the GAP of the next epoch says where an epoch of so many entries was carried over.
pub fn carried_over(epoch: u64, size: u64) -> String {
    format!("{REASON}{}", whole(epoch, size))
}

/// The newest epoch that has entries; one that a crash caught before its first does not count.
fn newest(media: &Media) -> Result<u64, StoreError> {
    match Journal::open(media.clone(), Mode::Read) {
        Ok(journal) => {
            journal.close()?;
            Ok(journal.epoch)
        }
        // It cannot be read: its number is all that is known of it.
        Err(_) => Ok(Journal::epochs(media)?.into_iter().max().unwrap_or(0)),
    }
}

/// Everything promised, of any epoch. A `head.log` that cannot be read is put aside.
fn known(media: &Media, core: &Core) -> Result<Vec<Promise>, StoreError> {
    let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{HEAD_LOG}`: {e}"));
    let (lines, signed) = match promise::promises(media, core) {
        Ok(known) => known,
        Err(StoreError::Damaged { .. }) => {
            let bytes = media.read_side(HEAD_LOG).map_err(unwritable)?.unwrap_or_default();
            media.replace_side(DAMAGED_LOG, &bytes).map_err(unwritable)?;
            media.remove_side(HEAD_LOG);
            promise::promises(media, core)?
        }
        Err(error) => return Err(error),
    };
    Ok(lines.iter().map(Promise::from).chain(signed.iter().map(Promise::from)).collect())
}

/// The state after the newest entry of the old epoch, or what else there is of it.
fn save(media: &Media, keys: &Arc<DataKeys>, epoch: u64, known: &[Promise]) -> Old {
    let read = || {
        let journal = Arc::new(Journal::open_epoch(media.clone(), Mode::Write, epoch)?);
        // What is in the log only belongs to the old epoch: its files get it.
        journal.feed_all()?;
        let reader = Reader { journal, keys: Some(keys.clone()) };
        let carried = recover(&reader, media)?;
        let before = reader.journal.before + carried.size();
        reader.journal.close()?;
        Ok::<_, StoreError>((carried, before))
    };
    match read() {
        Ok((carried, before)) if carried.size() > 0 => {
            let said = whole(epoch, carried.size());
            return Old { state: Some(carried), carried: said, before };
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, epoch, "the old epoch cannot be read"),
    }
    // Its entries cannot be read: their places stay free.
    let sizes = (0..=epoch).map(|e| known.iter().filter(|p| p.epoch == e).map(|p| p.size).max().unwrap_or(0));
    let before = sizes.sum();
    let bytes = media.read_side(snapshot::FILE).ok().flatten();
    let running = bytes.and_then(|bytes| Running::from_file(&bytes).ok());
    match running.and_then(|running| running.opened(Some(keys)).ok()) {
        Some(carried) => {
            let (size, epoch) = (carried.size(), carried.epoch);
            let said = format!(
                "the running snapshot of {size} entries of epoch {epoch} is carried over, the journal cannot be read"
            );
            Old { state: Some(carried), carried: said, before }
        }
        None => Old { state: None, carried: "nothing of the epoch before could be read".into(), before },
    }
}

struct Start<'a> {
    epoch: u64,
    before: u64,
    at: Micros,
    gap: Body,
    reason: &'a str,
    old_epoch: u64,
    open: &'a [Open],
}

/// The new epoch's first file, and what follows from there being one.
fn write(media: &Media, keys: &DataKeys, carried: &Carried, start: &Start) -> Result<(), StoreError> {
    let month = start.at.utc_month();
    let sealed = carried.without_persons().encode();
    let sha256 = Sha256::digest(&sealed).into();
    let person = Some(Person { reason: Some(start.reason.to_owned()), ..Person::default() });
    let plain = |body| NewEntry { body, reference: None, erasable: Erasable::default() };
    let mut entries = vec![
        NewEntry { body: start.gap.clone(), reference: None, erasable: Erasable { person, ..Erasable::default() } },
        plain(Body::Snapshot { month: month.clone(), sha256, bytes: sealed.len() as u64 }),
    ];
    entries.extend(
        start
            .open
            .iter()
            .take(MOST_NAMED)
            .map(|open| plain(Body::CutOff { epoch: start.old_epoch, admit: open.seq, cost: open.cost_if_lost() })),
    );
    let (commit, tree, tiles) = block(keys, start, entries)?;
    let names = carried.persons();
    // Beside the SNAPSHOT entry, as in any month.
    let place = Place { epoch: start.epoch, seq: 1, group: 2 };
    let persons = match names.is_empty() {
        true => None,
        false => Some(keys.seal("", &place, &random(), &names)?),
    };
    let opening = Opening {
        month: &month,
        first: 0,
        root: Tree::new().root(),
        snapshot: Some(&sealed),
        catalogue: None,
        persons: persons.as_deref(),
    };
    media.remove_side(VIEWS);
    let journal = Journal::create(media.clone(), start.epoch, start.before)?;
    let edge = tree.edge().to_vec();
    journal.begin(&opening, Pending { commit, edge, tiles })?;
    journal.close()?;
    media.remove_side(snapshot::FILE);
    let noted = Noted { epoch: start.epoch, size: tree.size(), root: tree.root(), note: None };
    let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{HEAD_LOG}`: {e}"));
    keeper::shorten(media)?;
    media.append_side(HEAD_LOG, format!("{noted}\n").as_bytes()).map_err(unwritable)
}

type Block = (Builder, Tree, Vec<super::tiles::Tile>);

fn block(keys: &DataKeys, start: &Start, entries: Vec<NewEntry>) -> Result<Block, StoreError> {
    let (mut builder, mut tree, mut tiles, mut full) = (Builder::new(0), Tree::new(), Tiles::default(), Vec::new());
    for (seq, new) in (0u64..).zip(entries) {
        let entry = Entry { seq, ts: start.at, reference: new.reference, body: new.body };
        let made = Prepared::new(&entry, &new.erasable, random).map_err(StoreError::Refused)?;
        let mut groups = Vec::new();
        for (group, salt, clear) in &made.groups {
            let place = Place { epoch: start.epoch, seq, group: *group };
            groups.push((*group, keys.seal("", &place, salt, clear)?));
        }
        tree.push(made.hash);
        tiles.push(seq, made.hash, &mut full);
        builder.push(start.at, &made.raw, &groups);
    }
    Ok((builder, tree, full))
}
