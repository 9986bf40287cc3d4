//! The public keys of trusted issuers: read in the background, and at once when a token names a key that is not known yet.
//!
//! A call never waits for an issuer but in that one case, for a few seconds at most, so that an issuer which changes its
//! keys causes no wrong refusal. What was read stays in force while a source cannot be reached; that is logged.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::domain::trust::{Issuer, KeySource};

use super::super::connect;
use super::jwt::{KeySet, KeySets};

/// Largest JWKS document, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// How long a source may take.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// A token with an unknown key makes us ask again, but not more often than this in a minute: anyone can send such a token.
const MOST_ASKED: u32 = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// After a failure a source is tried again this soon.
const AFTER_FAILURE: Duration = Duration::from_secs(15);
/// Files cost nothing to read: a key that was taken out of one stops working soon.
const FILE_REFRESH: Duration = Duration::from_secs(15);

/// Keys of all trusted issuers. Calls read them without a lock.
pub struct Keeper {
    sets: ArcSwap<(Arc<KeySets>, u64)>,
    /// What was read when, by issuer.
    reads: Lock<HashMap<String, Read>>,
    /// One read at a time, so that a thousand calls with a new key ask once.
    reading: Mutex<()>,
    clients: connect::Clients,
}

struct Read {
    source: KeySource,
    at: Instant,
    /// SHA-256 of the document; none while none could be read.
    document: Option<[u8; 32]>,
    failed: bool,
    /// How often tokens made us ask since then.
    asked: (Instant, u32),
}

impl Keeper {
    pub fn new(clients: connect::Clients) -> Keeper {
        Keeper { sets: ArcSwap::default(), reads: Lock::default(), reading: Mutex::new(()), clients }
    }

    /// The keys as they were last read, with the number of that reading.
    pub fn sets(&self) -> (Arc<KeySets>, u64) {
        let held = self.sets.load();
        (held.0.clone(), held.1)
    }

    /// Reads what is due of these issuers, and forgets all others.
    pub async fn refresh(&self, issuers: &[Arc<Issuer>]) {
        let one = self.reading.lock().await;
        let due: Vec<&Arc<Issuer>> = issuers.iter().filter(|issuer| self.is_due(issuer)).collect();
        for issuer in due {
            self.read(issuer).await;
        }
        let gone: Vec<String> =
            self.sets().0.keys().filter(|id| !issuers.iter().any(|i| i.id == **id)).cloned().collect();
        if !gone.is_empty() {
            self.change(|sets| sets.retain(|id, _| !gone.contains(id)));
            self.reads().retain(|id, _| !gone.contains(id));
        }
        drop(one);
    }

    /// Reads an issuer's keys because a token names one that was not among them at that `reading`. Whether there is
    /// anything new since.
    pub async fn ask_again(&self, issuer: &Issuer, reading: u64) -> bool {
        let one = self.reading.lock().await;
        // Who held the lock may have read them for us.
        if self.sets().1 == reading && self.may_ask(issuer) {
            self.read(issuer).await;
        }
        drop(one);
        self.sets().1 != reading
    }

    fn may_ask(&self, issuer: &Issuer) -> bool {
        let mut reads = self.reads();
        let Some(read) = reads.get_mut(&issuer.id) else { return true };
        if read.asked.0.elapsed() >= MINUTE {
            read.asked = (Instant::now(), 0);
        }
        read.asked.1 += 1;
        read.asked.1 <= MOST_ASKED
    }

    fn is_due(&self, issuer: &Issuer) -> bool {
        let reads = self.reads();
        let Some(read) = reads.get(&issuer.id) else { return true };
        let declared = Duration::from_secs(issuer.refresh_s.into());
        let after = match (read.failed, &issuer.keys.file) {
            (true, _) => declared.min(AFTER_FAILURE),
            (false, Some(_)) => declared.min(FILE_REFRESH),
            (false, None) => declared,
        };
        read.source != issuer.keys || read.at.elapsed() >= after
    }

    async fn read(&self, issuer: &Issuer) {
        let read = tokio::time::timeout(READ_TIMEOUT, self.document(&issuer.keys)).await;
        let read = read.unwrap_or_else(|_| Err("did not answer in time".to_owned()));
        let hash = read.as_ref().ok().map(|document| <[u8; 32]>::from(Sha256::digest(document)));
        let set = read.and_then(|document| KeySet::read(&document, issuer.profile));
        let failed = set.is_err();
        let before = self.reads().remove(&issuer.id);
        let of_another_source = before.as_ref().is_some_and(|read| read.source != issuer.keys);
        let (known, asked) = before.map_or((None, (Instant::now(), 0)), |read| (read.document, read.asked));
        match set {
            // Nothing that was verified has to be verified again.
            Ok(_) if hash == known && !of_another_source => {}
            Ok(set) => {
                tracing::info!(issuer = issuer.id, keys = set.len(), "the issuer has other keys");
                let set = Arc::new(set);
                self.change(|sets| drop(sets.insert(issuer.id.clone(), set.clone())));
            }
            Err(error) => {
                tracing::warn!(issuer = issuer.id, error, "the issuer's keys cannot be read: check its source");
                if of_another_source {
                    self.change(|sets| drop(sets.remove(&issuer.id)));
                }
            }
        }
        let document = if failed && !of_another_source { known } else { hash };
        let read = Read { source: issuer.keys.clone(), at: Instant::now(), document, failed, asked };
        self.reads().insert(issuer.id.clone(), read);
    }

    async fn document(&self, source: &KeySource) -> Result<Bytes, String> {
        match source {
            KeySource { inline: Some(text), .. } => Ok(Bytes::from(text.clone())),
            KeySource { file: Some(path), .. } => read_file(path.clone()).await,
            KeySource { url: Some(url), ca, internal, .. } => self.fetch(url, ca.as_deref(), *internal).await,
            _ => Err("has no source".to_owned()),
        }
    }

    async fn fetch(&self, url: &str, ca: Option<&str>, internal: bool) -> Result<Bytes, String> {
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no URL"))?;
        let client = match ca {
            None => self.clients.of(internal, &uri).map_err(|e| e.to_string())?.clone(),
            Some(path) => {
                if !internal {
                    connect::refuse_inside(&uri).map_err(|e| e.to_string())?;
                }
                connect::trusting(&read_file(path.to_owned()).await?, internal)?
            }
        };
        let request = Request::get(uri).header(header::ACCEPT, "application/json").body(Full::default());
        let answer = client.request(request.map_err(|e| e.to_string())?).await.map_err(|e| format!("{e}: {url}"))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("{url} answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|e| format!("{url}: {e}"))
    }

    fn change(&self, change: impl Fn(&mut KeySets)) {
        self.sets.rcu(|held| {
            let mut sets = KeySets::clone(&held.0);
            change(&mut sets);
            (Arc::new(sets), held.1 + 1)
        });
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, HashMap<String, Read>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_file(path: String) -> Result<Bytes, String> {
    let read = move || {
        let size = fs::metadata(&path).map_err(|e| format!("{path}: {e}"))?.len();
        if size > MAX_DOCUMENT as u64 {
            return Err(format!("{path} has {size} bytes: at most {MAX_DOCUMENT} are read"));
        }
        fs::read(&path).map(Bytes::from).map_err(|e| format!("{path}: {e}"))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(e.to_string()))
}
