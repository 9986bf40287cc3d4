//! Keeps the side files behind the writer's back: `head.log` about every five seconds, the running snapshot every minute
//! or twenty thousand entries, both once more at the end.
//!
//! `head.log` is append-only text, one record a line: epoch, size, root in hex and, where it was signed, the note as a JSON
//! string. A journal that is shorter than its farthest line, or has another root there, was rolled back or replaced
//! ([`super::promise`]). Checkpoints are signed here too ([`super::signer`]).

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;

use super::media::Media;
use super::signer::Signer;
use super::snapshot::{self, Running};
use super::trouble::{Part, Troubles};
use super::{Head, StoreError};

/// Name of the side file.
pub const HEAD_LOG: &str = "head.log";
const HEAD_EVERY: Duration = Duration::from_secs(5);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
const CHECKPOINT_ENTRIES: u64 = 4_096;
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
const SNAPSHOT_ENTRIES: u64 = 20_000;
/// `head.log` is cut to its last part when it has grown past this, in bytes.
pub const HEAD_LOG_LIMIT: usize = 8 << 20;
const HEAD_LOG_KEPT: usize = 1 << 20;

/// What makes the next month ready.
pub type Making = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

enum Job {
    Head(String),
    Checkpoint(Box<Head>),
    Snapshot(Box<Running>),
    NextMonth(Making),
}

impl Job {
    fn run(self, media: &Media, signer: &Signer, troubles: &Troubles) {
        let (part, done) = match self {
            Job::Checkpoint(head) => (Part::Checkpoint, signer.sign(&head).map(drop)),
            Job::Head(line) => (Part::HeadLog, signer.append(&line).map_err(|e| StoreError::io(HEAD_LOG, &e))),
            Job::Snapshot(running) => {
                let written = media.replace_side(snapshot::FILE, &running.to_file());
                (Part::Snapshot, written.map_err(|e| StoreError::io(snapshot::FILE, &e)))
            }
            Job::NextMonth(job) => (Part::NextMonth, job()),
        };
        match done {
            Ok(()) => troubles.over(part),
            Err(error) => troubles.failed(part, &error),
        }
    }
}

/// The thread that writes side files; the writer only hands over, and skips a turn rather than wait.
pub struct Keeper {
    media: Media,
    signer: Arc<Signer>,
    troubles: Arc<Troubles>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    head_at: Instant,
    noted: u64,
    /// Entries of the last checkpoint that was asked for.
    asked: u64,
    asked_at: Instant,
    snapshot_at: Instant,
    snapshot_size: u64,
}

impl Keeper {
    /// `size`: entries at start. Without a thread, jobs are done where they are handed over.
    pub fn start(
        media: Media,
        signer: Arc<Signer>,
        troubles: Arc<Troubles>,
        size: u64,
        with_thread: bool,
    ) -> Result<Keeper, StoreError> {
        let (jobs, queue) = sync_channel(4);
        let (place, signing, telling) = (media.clone(), signer.clone(), troubles.clone());
        let work = move || queue.iter().for_each(|job: Job| job.run(&place, &signing, &telling));
        let thread = with_thread.then(|| std::thread::Builder::new().name("keeper".into()).spawn(work));
        let thread = thread.transpose();
        let thread = thread.map_err(|e| StoreError::Unwritable(format!("no thread for side files: {e}")))?;
        let now = Instant::now();
        let asked = signer.last().map_or(0, |signed| signed.size);
        Ok(Keeper {
            media,
            signer,
            troubles,
            asked,
            asked_at: now,
            jobs: Some(jobs),
            thread,
            head_at: now,
            noted: size,
            snapshot_at: now,
            snapshot_size: size,
        })
    }

    fn hand_over(&self, job: Job) -> bool {
        if self.thread.is_none() {
            job.run(&self.media, &self.signer, &self.troubles);
            return true;
        }
        !matches!(
            self.jobs.as_ref().map(|jobs| jobs.try_send(job)),
            None | Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
        )
    }

    /// Has the next month made ready off the writer's thread. A full queue skips it.
    pub fn prepare(&self, making: Making) {
        self.hand_over(Job::NextMonth(making));
    }

    /// Notes the head if it moved and it is time, and has it signed when that is due.
    pub fn note_head(&mut self, head: &Head) {
        if self.wants_checkpoint(head.size) && self.hand_over(Job::Checkpoint(Box::new(head.clone()))) {
            (self.asked, self.asked_at) = (head.size, Instant::now());
        }
        let due = self.thread.is_none() || self.head_at.elapsed() >= HEAD_EVERY;
        if head.size != self.noted && due && self.hand_over(Job::Head(line(head))) {
            self.head_at = Instant::now();
            self.noted = head.size;
        }
    }

    /// Whether a checkpoint is due, by what was asked for: the signer's own state is locked while it signs.
    fn wants_checkpoint(&self, size: u64) -> bool {
        let new = size.saturating_sub(self.asked);
        let due = new >= CHECKPOINT_ENTRIES || (new > 0 && self.asked_at.elapsed() >= CHECKPOINT_EVERY);
        due && self.signer.is_ready()
    }

    /// Whether a running snapshot is due.
    pub fn wants_snapshot(&self, size: u64) -> bool {
        let new = size - self.snapshot_size.min(size);
        let due = self.thread.is_none() || self.snapshot_at.elapsed() >= SNAPSHOT_EVERY;
        new >= SNAPSHOT_ENTRIES || (new > 0 && due)
    }

    /// Hands a snapshot over. The next is due after as many entries or as long again, even if this one was skipped.
    pub fn snapshot(&mut self, running: Running) {
        self.snapshot_at = Instant::now();
        self.snapshot_size = running.carried.size();
        self.hand_over(Job::Snapshot(Box::new(running)));
    }

    /// Ends the thread, then signs the end and writes both files as of it.
    pub fn close(&mut self, head: &Head, running: Running) -> Result<(), StoreError> {
        self.stop();
        if self.signer.is_ready() {
            self.signer.sign(head)?;
        }
        let unwritable = |e: std::io::Error| StoreError::Unwritable(e.to_string());
        if head.size != self.noted {
            self.signer.append(&line(head)).map_err(unwritable)?;
        }
        self.media.replace_side(snapshot::FILE, &running.to_file()).map_err(unwritable)
    }

    fn stop(&mut self) {
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps the side files has died");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn line(head: &Head) -> String {
    format!("{}\n", Noted { epoch: head.epoch, size: head.size, root: head.root, note: None })
}

/// A line of `head.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub epoch: u64,
    pub size: u64,
    pub root: [u8; 32],
    /// The signed note, where this was signed.
    pub note: Option<String>,
}

/// The line, without its end.
impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.epoch, self.size, HEXLOWER.encode(&self.root))?;
        match &self.note {
            Some(note) => write!(f, " {}", serde_json::Value::from(note.as_str())),
            None => Ok(()),
        }
    }
}

/// The lines of the side file. A last line without its end is one that a crash cut off; any other odd line is damage.
pub fn read_head_log(media: &Media) -> Result<Vec<Noted>, StoreError> {
    let bytes = media.read_side(HEAD_LOG).map_err(|e| StoreError::Unwritable(format!("`{HEAD_LOG}`: {e}")))?;
    let text = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let parse = |(number, line): (usize, &str)| {
        parse_line(line).ok_or_else(|| StoreError::Damaged {
            file: HEAD_LOG.into(),
            what: format!("line {} is not `epoch size root`", number + 1),
        })
    };
    whole.lines().enumerate().map(parse).collect()
}

fn parse_line(line: &str) -> Option<Noted> {
    let mut words = line.splitn(4, ' ');
    let (epoch, size, root) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    let note = words.next().map(serde_json::from_str::<String>).transpose().ok()?;
    Some(Noted { epoch, size, root: HEXLOWER.decode(root.as_bytes()).ok()?.try_into().ok()?, note })
}

/// Cuts the file short where it has grown long, and off what a crash left at its end.
pub fn shorten(media: &Media) -> Result<(), StoreError> {
    let unwritable = |e: std::io::Error| StoreError::Unwritable(format!("`{HEAD_LOG}`: {e}"));
    let Some(bytes) = media.read_side(HEAD_LOG).map_err(unwritable)? else { return Ok(()) };
    // A line that a crash cut off would run into the next one.
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let start = match bytes.len().checked_sub(HEAD_LOG_KEPT) {
        Some(start) if bytes.len() > HEAD_LOG_LIMIT => {
            bytes[start..].iter().position(|b| *b == b'\n').map_or(start, |at| start + at + 1)
        }
        _ => 0,
    };
    if start > 0 || end < bytes.len() {
        media.replace_side(HEAD_LOG, &bytes[start..end]).map_err(unwritable)?;
    }
    Ok(())
}
