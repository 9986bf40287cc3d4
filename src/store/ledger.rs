//! [`Ledger`]: the one handle on state, journal and views that the rest of the product has.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::domain::{Call, CallId, Catalogue, Filter, Micros};
use crate::ledger::entry::{Body, Entry, Erasable};
use crate::ledger::outbox::{AlertId, Outbox};
use crate::ledger::request::{Reply, Request};
use crate::ledger::{Allocated, Standing};

use super::backup::{self, BackupError, Manifest, Source};
use super::ballast::Ballast;
use super::core::{self, Core};
use super::epoch::{self, Begun};
use super::history::{History, Spot};
use super::journal::{Journal, Mode};
use super::keeper::{self, Keeper};
use super::keys::{self, DataKeys};
use super::media::{Media, Memory};
use super::promise;
use super::reader::Reader;
use super::recover::recover;
use super::scrub::{Scrub, Scrubbed};
use super::seal::RootKey;
use super::shared::{Gauges, Shared};
use super::signer::{Signed, Signer};
use super::trouble::{Part, Troubles};
use super::views::{self, Views};
use super::writer::{Hands, Many, Message, Writer, unpoisoned};
use super::{AllocationOf, AsOf, Balance, Head, KnownResponse, Options, Running, StoreError, Watch};

/// Requests accepted and not yet answered, at most.
const QUEUE: usize = 8_192;
/// What the signing key is for, in its KEY entry.
pub const KEY_PURPOSE: &str = "checkpoint";
/// How long a request waits for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle on the one ledger of this process; clones are cheap and equal. Dropping the last one commits what is queued
/// and closes the files some time later; [`Ledger::close`] does it now and says how it went.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    history: Arc<History>,
    views: Arc<Views>,
    core: Arc<Core>,
    signer: Arc<Signer>,
    troubles: Arc<Troubles>,
    scrub: Scrub,
    root: RootKey,
    queue: SyncSender<Message>,
    places: Arc<Semaphore>,
    /// One large `apply` at a time.
    large: Arc<tokio::sync::Mutex<()>>,
    /// One backup at a time: they share a scratch folder.
    backup: Mutex<()>,
    /// Held while the folder is open; released by `close`.
    lock: Mutex<Option<std::fs::File>>,
}

/// An ALERT or a DELIVERY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub position: u64,
    /// What the alert is called, where it is one.
    pub id: AlertId,
    pub at: Micros,
    pub body: Body,
}

/// An entry and its place in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    pub epoch: u64,
    /// In its epoch.
    pub seq: u64,
    /// Entries of the tree, and its root.
    pub tree_size: u64,
    pub root: [u8; 32],
    pub leaf_hash: [u8; 32],
    /// Leaf's sibling first.
    pub path: Vec<[u8; 32]>,
}

impl Ledger {
    /// Begins a new epoch in a folder whose journal cannot be gone on with (see `epoch`); it is not opened.
    pub fn begin_epoch(dir: &Path, clock: &dyn super::Clock, reason: &str) -> Result<Begun, StoreError> {
        let _lock = lock_folder(dir)?;
        epoch::begin(&Media::Folder(dir.into()), clock, reason)
    }

    /// The same in a folder in memory.
    pub fn begin_epoch_in_memory(memory: &Memory, clock: &dyn super::Clock, reason: &str) -> Result<Begun, StoreError> {
        epoch::begin(&Media::Memory(memory.clone()), clock, reason)
    }

    /// Opens a data folder, making it if it is empty: replays what the last snapshot does not have, compares with the
    /// side file, settles what a crash left open as *interrupted*. One process at a time.
    pub fn open(dir: &Path, options: Options) -> Result<Ledger, StoreError> {
        let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{}`: {e}", dir.display()));
        make_folder(dir).map_err(unwritable)?;
        let lock = lock_folder(dir)?;
        let open = || {
            let lock = lock.try_clone().map_err(unwritable)?;
            Ledger::open_media(Media::Folder(dir.into()), options.clone(), Some(lock))
        };
        let (ledger, given_up) = with_room(&Ballast::in_folder(dir), open)?;
        ledger.inner.troubles.gave_up(given_up);
        Ok(ledger)
    }

    /// A ledger that keeps nothing beyond the process: for tests and for trying out.
    pub fn open_in_memory(options: Options) -> Result<Ledger, StoreError> {
        Ledger::open_memory(&Memory::new(), options)
    }

    /// A ledger in a folder in memory that outlives it: closed and opened again, it has what was committed.
    pub fn open_memory(memory: &Memory, options: Options) -> Result<Ledger, StoreError> {
        Ledger::open_media(Media::Memory(memory.clone()), options, None)
    }

    fn open_media(media: Media, options: Options, lock: Option<std::fs::File>) -> Result<Ledger, StoreError> {
        let (queue, requests) = sync_channel(QUEUE + 64);
        let (mut ledger, writer) = Ledger::assemble(media, options, lock, Hands::default())?;
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run(requests));
        thread.map_err(|e| StoreError::Unwritable(format!("no thread for the writer: {e}")))?;
        // Never full by itself: a place in the queue goes with a permit, and tools send one message at a time.
        if let Some(inner) = Arc::get_mut(&mut ledger.inner) {
            inner.queue = queue;
        }
        ledger.submit_all(vec![Request::InterruptAll])?;
        Ok(ledger)
    }

    /// A handle and the writer it is to send to, not connected yet.
    pub(super) fn assemble(
        media: Media,
        options: Options,
        lock: Option<std::fs::File>,
        hands: Hands,
    ) -> Result<(Ledger, Writer), StoreError> {
        all_there(&media)?;
        let troubles = Arc::new(Troubles::of(&media));
        let root = RootKey::load(&media)?;
        let keys = Arc::new(DataKeys::open(&media, &root)?);
        let core = Arc::new(Core::open(&media, &root)?);
        core.tell(troubles.clone());
        let journal = Arc::new(Journal::open(media.clone(), Mode::Write)?);
        let reader = Arc::new(Reader { journal, keys: Some(keys) });
        // What was promised first: a journal that was replaced is not to be replayed at length.
        let size = reader.journal.size();
        promise::check(&media, &core, &reader, size)?;
        keeper::shorten(&media)?;
        let carried = recover(&reader, &media)?;
        let history = Arc::new(History::open(&media, reader.clone())?);
        let before = reader.journal.before;
        let views = Arc::new(open_views(&media, &history, before + size, hands.threads)?);
        views.tell(troubles.clone());
        let shared = Arc::new(Shared::new(options.clock, reader.journal.epoch, before));
        let signer = Arc::new(Signer::open(media.clone(), core.clone(), reader.clone())?);
        let keeper = Keeper::start(media.clone(), signer.clone(), troubles.clone(), size, hands.threads)?;
        let durability = options.durability;
        let writer = Writer::new(
            shared.clone(),
            reader.clone(),
            views.clone(),
            media,
            hands,
            keeper,
            troubles.clone(),
            durability,
            carried,
        )?;
        let places = Arc::new(Semaphore::new(QUEUE));
        let (queue, _) = sync_channel(0);
        let (scrub, large, backup, lock) = (Scrub::default(), Arc::default(), Mutex::default(), Mutex::new(lock));
        let inner = Inner {
            shared,
            reader,
            history,
            views,
            core,
            signer,
            troubles,
            scrub,
            root,
            queue,
            places,
            large,
            backup,
            lock,
        };
        Ok((Ledger { inner: Arc::new(inner) }, writer))
    }

    /// Asks the state machine; answers once the entries are durable (see [`super::Durability`]). A request that was sent
    /// is carried out even if the caller stops waiting.
    pub async fn submit(&self, request: Request) -> Result<Reply, StoreError> {
        self.submit_shared(Arc::new(request)).await
    }

    /// The same for a request that its sender keeps, to send it again if it must.
    pub async fn submit_shared(&self, request: Arc<Request>) -> Result<Reply, StoreError> {
        let permit = match self.inner.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            // Rare, so it does not make every call's task larger.
            Err(_) => Box::pin(self.wait_for_a_place()).await?,
        };
        let (answer, answered) = oneshot::channel();
        self.send(Message::One(request, answer, permit))?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn wait_for_a_place(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let place = self.inner.places.clone().acquire_owned();
        match tokio::time::timeout(PATIENCE, place).await {
            Ok(permit) => permit.map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Busy),
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        self.inner.queue.try_send(message).map_err(|e| match e {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }

    /// The same for many requests in order, as one commit where they fit; for imports and tools, never on an async
    /// thread. The first that fails ends it: those before it stand, those after it are not tried.
    pub fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<Reply>, StoreError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = sync_channel(1);
        let replies = Vec::with_capacity(requests.len());
        self.send(Message::Many(Many { requests: requests.into(), replies, answer }))?;
        answered.recv().map_err(|_| StoreError::Closed)?
    }

    /// From now on the calls that end are kept for who counts what budgets have posted, until the guard is dropped.
    pub fn watch(&self) -> Watch {
        self.inner.shared.watch()
    }

    /// Waits for the turn of a large `apply`: one at a time.
    pub async fn turn_to_stage(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.inner.large.clone().lock_owned().await
    }

    /// Declared state as of the newest commit; no lock, no I/O.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.inner.shared.catalogue()
    }

    /// True while entries can be written.
    pub fn healthy(&self) -> bool {
        self.inner.shared.healthy.load(Ordering::SeqCst)
    }

    /// What cannot be written at the moment, and why. Only the journal stops calls.
    pub fn troubles(&self) -> Vec<(Part, String)> {
        self.inner.troubles.list()
    }

    /// Makes the ballast a little larger where that is due; to be asked now and then. Blocks.
    pub fn grow_ballast(&self) {
        self.inner.troubles.grow_ballast();
    }

    /// Bytes that may still be written to the data folder's file system; nothing in memory.
    pub fn free_bytes(&self) -> Option<u64> {
        self.inner.troubles.free_bytes()
    }

    /// Epoch and entries of the newest line of `head.log`, if there is one. Reads the file.
    pub fn last_noted(&self) -> Option<(u64, u64)> {
        let noted = keeper::read_head_log(self.inner.reader.journal.media()).ok()?;
        noted.last().map(|noted| (noted.epoch, noted.size))
    }

    /// Where journal and views stand.
    pub fn head(&self) -> Head {
        let head = self.inner.shared.head();
        Head { applied: self.inner.views.applied().saturating_sub(head.before), ..head }
    }

    /// Open calls, oldest first. As decided: at most one commit ahead of the disk.
    pub fn running(&self) -> Vec<Running> {
        // Copied in no time; looked through without the lock that every call needs.
        let state = self.inner.shared.read(Clone::clone);
        let running = state.running().map(|open| Running {
            call: open.call,
            attempt: open.attempt,
            seq: open.seq,
            at: open.at,
            job: open.job,
            hold: open.hold,
            holds: open.budget_holds(),
        });
        running.collect()
    }

    /// What a budget has used (settled + held) in the period `at` is in; nothing if no entry has touched it.
    pub fn used(&self, budget: &str, at: Micros) -> Option<i128> {
        self.inner.shared.read(|state| state.used(budget, at))
    }

    /// Balances of every declared budget in the period `at` is in; zero where nothing was posted yet.
    pub fn balances(&self, at: Micros) -> Vec<Balance> {
        self.inner.shared.read(Clone::clone).standings(at).into_iter().map(Balance::from).collect()
    }

    /// Where one declared budget stands at `at`.
    pub fn standing(&self, budget: &str, at: Micros) -> Option<Standing> {
        self.inner.shared.read(|state| state.standing(budget, at))
    }

    /// Raises, resets and grants of a budget that are in force or still count, oldest first. Reads their entries: blocks.
    pub fn allocations(&self, budget: &str) -> Result<Vec<AllocationOf>, StoreError> {
        let allocated = self.inner.shared.read(|state| state.allocated(budget).to_vec());
        let before = self.head().before;
        let with_reason = |allocated: Allocated| {
            let entry = match allocated.seq {
                Some(seq) => self.entries(before + seq, 1)?.into_iter().next(),
                None => None,
            };
            let reason = entry.and_then(|(_, erasable)| erasable.person).and_then(|person| person.reason);
            Ok(AllocationOf { allocated, reason })
        };
        allocated.into_iter().map(with_reason).collect()
    }

    /// Alerts on their way, and what is watched, as decided: at most one commit ahead of the disk. A copy costs nothing.
    pub fn outbox(&self) -> Outbox {
        self.inner.shared.read(|state| state.outbox().clone())
    }

    /// What was told of alerts, newest first: ALERT and DELIVERY entries at positions before `before`, each with its
    /// position, the id its alert has, and its time.
    pub fn told(&self, before: Option<u64>, limit: usize) -> Result<Vec<Told>, StoreError> {
        let told = self.inner.views.told(before, limit)?;
        let id = |position, at| AlertId { at, seq: self.inner.history.spot(position).seq };
        Ok(told.into_iter().map(|(position, at, body)| Told { position, id: id(position, at), at, body }).collect())
    }

    /// The call that a vendor's answer id belongs to: an open job, or any call the views know. Never behind: where it
    /// cannot be told, because the views are being built anew, that is an error and not an unknown id.
    pub fn response(&self, provider: &str, response_id: &str) -> Result<Option<KnownResponse>, StoreError> {
        match self.open_job(provider, response_id) {
            Some((call, attempt)) => Ok(Some(KnownResponse { call, attempt, open: true })),
            None => self.inner.views.response(provider, response_id),
        }
    }

    /// The call and the attempt of an open job, by its id at the vendor.
    pub fn open_job(&self, provider: &str, vendor_id: &str) -> Option<(CallId, u8)> {
        self.inner.shared.read(|state| state.job(provider, vendor_id))
    }

    /// Entries from a position on, at most `limit` (and at most 10,000), with their groups 1 to 4, numbered by position:
    /// in the first epoch that is their sequence. Short read transactions.
    pub fn entries(&self, from: u64, limit: usize) -> Result<Vec<(Entry, Erasable)>, StoreError> {
        self.inner.history.entries(from, limit)
    }

    /// The entry at a position, proven in the tree of its epoch: of the present one as it stood at `head`.
    pub fn proven(&self, position: u64, head: &Head) -> Result<Proven, StoreError> {
        let spot = self.inner.history.spot(position);
        let (size, root) = match spot.size {
            Some(size) => (size, spot.reader.root(size)?),
            None => (head.size, head.root),
        };
        let (leaf_hash, path) = spot.reader.inclusion(spot.seq, size)?;
        Ok(Proven { epoch: spot.reader.journal.epoch, seq: spot.seq, tree_size: size, root, leaf_hash, path })
    }

    /// The leaf hash of an entry and its inclusion path in the tree of `size` entries.
    pub fn inclusion(&self, seq: u64, size: u64) -> Result<([u8; 32], Vec<[u8; 32]>), StoreError> {
        let head = self.head().size;
        if size > head {
            return Err(StoreError::Refused(format!("the tree has {head} entries, not {size}")));
        }
        self.inner.reader.inclusion(seq, size)
    }

    /// Root of the tree of the first `size` entries.
    pub fn root(&self, size: u64) -> Result<[u8; 32], StoreError> {
        self.inner.reader.root(size)
    }

    /// Makes the signing key at the first start and puts it on record, or finishes what a crash broke off. Blocks: never
    /// on an async thread.
    pub fn start_signing(&self) -> Result<(), StoreError> {
        let signer = &self.inner.signer;
        if let Some(vkey) = signer.unannounced(&self.catalogue().organisation.name)? {
            self.record_key(vkey, "setup", None)?;
            signer.announced()?;
        }
        if signer.is_rotating() { self.rotate_key("setup", None).map(drop) } else { Ok(()) }
    }

    /// Another signing key from now on: a KEY entry, then one checkpoint signed by both. Blocks.
    pub fn rotate_key(&self, actor: &str, reason: Option<String>) -> Result<Signed, StoreError> {
        let vkey = self.inner.signer.begin_rotation()?;
        self.record_key(vkey, actor, reason)?;
        self.inner.signer.finish_rotation(&self.head())
    }

    fn record_key(&self, vkey: String, actor: &str, reason: Option<String>) -> Result<(), StoreError> {
        let key = Request::Key { purpose: KEY_PURPOSE.into(), vkey, actor: actor.into(), reason };
        self.submit_all(vec![key]).map(drop)
    }

    /// A signed checkpoint of everything that is on disk now; the first one makes the key. Blocks.
    pub fn checkpoint(&self) -> Result<Signed, StoreError> {
        if self.vkey().is_none() {
            self.start_signing()?;
        }
        self.inner.signer.sign(&self.head())
    }

    /// The newest checkpoint that was signed, whenever that was.
    pub fn last_checkpoint(&self) -> Option<Signed> {
        self.inner.signer.last()
    }

    /// The vkey of the signing key; none before [`Ledger::start_signing`].
    pub fn vkey(&self) -> Option<String> {
        self.inner.signer.vkey()
    }

    /// The `.tlog-proof` texts of the entries at these positions, against the newest checkpoint or, where that is older
    /// than one of them, one made now; those of an earlier epoch against what was signed of it. `since`: the size of an
    /// older checkpoint that the receiver has. Blocks.
    pub fn proofs(&self, positions: &[u64], since: Option<u64>) -> Result<Vec<String>, StoreError> {
        let spots: Vec<Spot<'_>> = positions.iter().map(|position| self.inner.history.spot(*position)).collect();
        let newest = spots.iter().filter(|spot| spot.size.is_none()).map(|spot| spot.seq + 1).max();
        let needed = newest.map(|newest| newest.max(since.unwrap_or(0)));
        let signed = match (needed, self.last_checkpoint()) {
            (None, _) => None,
            (Some(needed), Some(last)) if last.size >= needed => Some(last),
            (Some(_), _) => Some(self.checkpoint()?),
        };
        let prove = |spot: &Spot<'_>| {
            let past = if spot.size.is_some() { Some(signed_of(spot)?) } else { None };
            let signed = past.as_ref().or(signed.as_ref()).ok_or(StoreError::Closed)?;
            Ok(spot.reader.proof(spot.seq, signed, since.filter(|since| *since <= signed.size))?.to_string())
        };
        spots.iter().map(prove).collect()
    }

    /// Reads about so many stored bytes again and holds them against their hashes; false: nothing is to be read now.
    /// Blocks.
    pub fn scrub(&self, bytes: u64) -> bool {
        let now = self.inner.shared.clock.now();
        self.inner.scrub.step(&self.inner.history, &self.head(), now, bytes)
    }

    /// How far the scrub is and what it found.
    pub fn scrubbed(&self) -> Scrubbed {
        self.inner.scrub.shown()
    }

    /// Writes a backup of everything that is on disk now ([`super::backup`]), while calls go on. Blocks.
    pub fn backup(&self, out: &mut dyn std::io::Write) -> Result<Manifest, BackupError> {
        let Ok(_one) = self.inner.backup.try_lock() else {
            return Err(BackupError::Refused("a backup is under way: wait until it is done".into()));
        };
        let Inner { history, core, reader, .. } = &*self.inner;
        let keys = reader.keys.as_deref().ok_or(StoreError::Closed)?;
        // Whoever holds the backup holds a promise too. A journal without a key is as sound without.
        let signed = match self.vkey().map(|_| self.checkpoint()) {
            Some(Err(error)) => {
                tracing::warn!(%error, "the backup has no checkpoint of its own");
                self.last_checkpoint()
            }
            Some(Ok(signed)) => Some(signed),
            None => None,
        };
        let source = Source { history, keys, core, head: self.head(), signed, now: self.clock().now() };
        backup::make(&source, out)
    }

    /// The proof that the tree of `old` entries is the beginning of the tree of `new`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<[u8; 32]>, StoreError> {
        let head = self.head().size;
        if new > head {
            return Err(StoreError::Refused(format!("the tree has {head} entries, not {new}")));
        }
        self.inner.reader.consistency(old, new)
    }

    #[cfg(test)]
    pub(super) fn troubles_kept(&self) -> &Arc<Troubles> {
        &self.inner.troubles
    }

    #[cfg(test)]
    pub(super) fn scrub_told(&self) -> Vec<String> {
        self.inner.scrub.told()
    }

    #[cfg(test)]
    pub(super) fn signer(&self) -> &Signer {
        &self.inner.signer
    }

    /// One call, never behind: from the views or the unapplied tail.
    pub fn call(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        self.inner.views.call(id)
    }

    /// Calls of the filter, newest first, starting before the sequence `before`.
    pub fn calls(&self, filter: &Filter, before: Option<u64>, limit: usize) -> Result<(Vec<Call>, AsOf), StoreError> {
        self.inner.views.calls(filter, before, limit)
    }

    /// The derived side: rollups and scans.
    pub fn views(&self) -> &Views {
        &self.inner.views
    }

    /// What is not in the journal: operators, sessions, provider secrets.
    pub fn core(&self) -> &Core {
        &self.inner.core
    }

    /// Key of stored credential hashes.
    pub fn pepper(&self) -> &hmac::Key {
        &self.inner.root.pepper
    }

    /// Key of content fingerprints.
    pub fn fingerprint_key(&self) -> &hmac::Key {
        &self.inner.root.fingerprints
    }

    /// The writer's clock.
    pub fn clock(&self) -> &Arc<dyn super::Clock> {
        &self.inner.shared.clock
    }

    /// What the writer says about itself, for `/metrics`.
    pub fn gauges(&self) -> Gauges {
        let queued = QUEUE.saturating_sub(self.inner.places.available_permits()) as u64;
        let head = self.head();
        let open = self.inner.shared.read(|state| state.open_calls()) as u64;
        self.inner.shared.gauges.read(queued, head.size.saturating_sub(head.applied), open)
    }

    /// Commits what is queued and closes the files. Everything asked afterwards is refused as closed.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Close(answer))?;
        let result = answered.await.map_err(|_| StoreError::Closed)?;
        unpoisoned(self.inner.lock.lock()).take();
        result
    }
}

/// The checkpoint by which an entry of an epoch that has ended is proven.
fn signed_of(spot: &Spot<'_>) -> Result<Signed, StoreError> {
    let Spot { reader, seq, .. } = spot;
    let epoch = reader.journal.epoch;
    let (size, note) = reader.journal.checkpoint_from(seq + 1)?.ok_or_else(|| {
        StoreError::Refused(format!("entry {seq} of epoch {epoch} is in no checkpoint that was signed while it lasted"))
    })?;
    Ok(Signed { epoch, size, root: reader.root(size)?, note })
}

/// A journal has its keys and its core beside it: new ones in their place would look sound and open nothing.
fn all_there(media: &Media) -> Result<(), StoreError> {
    if Journal::epochs(media)?.is_empty() {
        return Ok(());
    }
    let names = media.names()?;
    for (file, what) in [
        (keys::NAME, "without it nothing that names a person opens again"),
        (core::NAME, "it has the signing key, operators and the credentials of providers"),
    ] {
        if !names.iter().any(|name| name == file) {
            return Err(StoreError::Missing { file: file.into(), what: what.into() });
        }
    }
    Ok(())
}

/// Tries again with the ballast's room where a disk is too full to start; says how much was given up.
fn with_room<T>(ballast: &Ballast, open: impl Fn() -> Result<T, StoreError>) -> Result<(T, u64), StoreError> {
    match open() {
        Err(error @ StoreError::Full(_)) => match ballast.give_up() {
            0 => Err(error),
            given_up => Ok((open()?, given_up)),
        },
        opened => Ok((opened?, 0)),
    }
}

fn open_views(media: &Media, history: &Arc<History>, size: u64, threads: bool) -> Result<Views, StoreError> {
    let dir = match media {
        Media::Folder(dir) => Some(dir.as_path()),
        Media::Memory(_) => None,
    };
    let history = history.clone();
    let journal: views::Journal = Arc::new(move |from, limit| history.entries(from, limit));
    if threads { Views::open(dir, journal, size) } else { Views::still(dir, journal, size) }
}

/// Makes a folder that only its owner can look into.
pub fn make_folder(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Takes the folder for this process until the handle is dropped.
pub fn lock_folder(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path = dir.join("lock");
    let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{}`: {e}", path.display()));
    let options = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(dir.display().to_string())),
        Err(std::fs::TryLockError::Error(e)) => Err(unwritable(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_too_full_to_start_gets_the_room_of_the_ballast_once() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_folder(dir.path());
        ballast.grow().unwrap();
        let file = dir.path().join("ballast");
        assert!(file.exists());
        let full = || StoreError::Full("no space left".into());
        let open = || if file.exists() { Err(full()) } else { Ok(()) };
        assert!(matches!(with_room(&ballast, open), Ok(((), 1..))));
        // There is no more to give.
        assert!(matches!(with_room(&ballast, || Err::<(), _>(full())), Err(StoreError::Full(_))));
        assert!(matches!(with_room(&ballast, || Ok(())), Ok(((), 0))));
    }
}
