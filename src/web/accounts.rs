//! Operators, their passwords, sessions and one-time links: the rules; the store keeps the rows.
//!
//! A session or link is known by a random token that only its holder has; kept is its SHA-256. A session ends after 30
//! minutes without use and 12 hours after sign-in at the latest.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use aws_lc_rs::rand;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::domain::Micros;
use crate::store::core::{Link, Operator, PasswordHash as Stored, Role, Session as Row};
use crate::store::{Ledger, StoreError};

use super::error::PageError;

/// A session without use ends after this.
const IDLE_SECONDS: i64 = 30 * 60;
/// A session ends at the latest after this.
pub const ABSOLUTE_SECONDS: i64 = 12 * 3_600;
/// Set-up and sign-in links work for this long.
const LINK_SECONDS: i64 = 30 * 60;
/// A session's last use is noted at most this often: each note is a commit.
const SEEN_SECONDS: i64 = 60;
/// Shortest password, in characters; longest, in bytes.
pub const PASSWORD_MIN: usize = 12;
pub const PASSWORD_MAX: usize = 256;
/// Something to verify against where there is no operator, so that both take as long.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9ib2R5$TjRhsvSNnF0WBhMHvDNnCHzsxxJz6qJ8qNzgEjo1mXQ";

pub type OperatorId = String;

/// An open session.
#[derive(Clone, Debug)]
pub struct Session {
    /// First characters of the token's hash: names the session in lists, opens nothing.
    pub id: String,
    pub operator: OperatorId,
    pub role: &'static str,
    pub created_at: Micros,
    pub seen_at: Micros,
    /// The browser, as it calls itself.
    pub agent: String,
    pub csrf: Csrf,
}

/// What the session's forms must carry. Does not print.
#[derive(Clone)]
pub struct Csrf(pub String);

impl std::fmt::Debug for Csrf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Session {
    /// When it ends at the latest.
    pub fn ends_at(&self) -> Micros {
        self.created_at.plus_seconds(ABSOLUTE_SECONDS)
    }

    fn of(hash: &[u8; 32], row: Row, role: Role) -> Session {
        Session {
            id: public_id(hash),
            operator: row.operator,
            role: match role {
                Role::Admin => "admin",
            },
            created_at: row.created_at,
            seen_at: row.last_seen,
            agent: row.agent,
            csrf: Csrf(row.csrf),
        }
    }
}

fn open(row: &Row, now: Micros) -> bool {
    now < row.created_at.plus_seconds(ABSOLUTE_SECONDS) && now < row.last_seen.plus_seconds(IDLE_SECONDS)
}

fn public_id(hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&hash[..6])
}

/// Random bytes as text that addresses and cookies carry unchanged.
pub fn token(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).expect("the operating system gives randomness once it has begun to");
    data_encoding::BASE64URL_NOPAD.encode(&random)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A link to set up the first operator, with `base` in front; `None` once there is one. It works for 30 minutes, and no
/// longer than until an operator exists.
pub fn setup_link(ledger: &Ledger, base: &str) -> Option<String> {
    if any_operator(ledger).ok()? {
        return None;
    }
    let token = token(32);
    let link = Link { operator: None, expires_at: ledger.clock().now().plus_seconds(LINK_SECONDS) };
    ledger.core().put_link(&hash(&token), &link).ok()?;
    Some(format!("{}/setup?token={token}", base.trim_end_matches('/')))
}

/// A link that signs `operator` in once, within 30 minutes, with `base` in front. An operator who does not exist yet is
/// made, as an admin without a password.
pub fn sign_in_link(ledger: &Ledger, base: &str, operator: &str) -> Result<String, StoreError> {
    let now = ledger.clock().now();
    if ledger.core().operator(operator)?.is_none() {
        ledger.core().put_operator(&admin(operator, None, now))?;
    }
    let token = token(32);
    let link = Link { operator: Some(operator.to_owned()), expires_at: now.plus_seconds(LINK_SECONDS) };
    ledger.core().put_link(&hash(&token), &link)?;
    Ok(format!("{}/sign-in?link={token}", base.trim_end_matches('/')))
}

fn admin(id: &str, password: Option<String>, now: Micros) -> Operator {
    Operator {
        id: id.to_owned(),
        name: id.to_owned(),
        role: Role::Admin,
        password: password.map(Stored),
        created_at: now,
        disabled: false,
    }
}

/// Whether anybody can sign in.
pub fn any_operator(ledger: &Ledger) -> Result<bool, StoreError> {
    Ok(!ledger.core().operators()?.is_empty())
}

/// An operator who may sign in.
pub fn operator(ledger: &Ledger, id: &str) -> Result<Option<Operator>, StoreError> {
    Ok(ledger.core().operator(id)?.filter(|o| !o.disabled))
}

/// Whether a set-up link still works.
pub fn setup_open(ledger: &Ledger, token: &str, now: Micros) -> Result<bool, StoreError> {
    let link = ledger.core().link(&hash(token))?;
    Ok(link.is_some_and(|l| l.operator.is_none() && now < l.expires_at) && !any_operator(ledger)?)
}

/// Creates the first operator and uses the link up; `false` if somebody was faster.
pub async fn create_first(
    ledger: &Ledger,
    token: &str,
    operator: &str,
    password: String,
    now: Micros,
) -> Result<bool, PageError> {
    let (key, row) = (hash(token), admin(operator, Some(password), now));
    write(ledger, move |l| {
        let good = l.core().take_link(&key, now)?.is_some_and(|link| link.operator.is_none());
        Ok(good && l.core().put_first_operator(&row)?)
    })
    .await
}

/// Whom a sign-in link is for, while it works.
pub fn link_operator(ledger: &Ledger, token: &str, now: Micros) -> Result<Option<OperatorId>, StoreError> {
    let link = ledger.core().link(&hash(token))?;
    Ok(link.filter(|l| now < l.expires_at).and_then(|l| l.operator))
}

/// Uses a sign-in link up.
pub async fn take_link(ledger: &Ledger, token: &str, now: Micros) -> Result<Option<OperatorId>, PageError> {
    let key = hash(token);
    write(ledger, move |l| {
        let named = l.core().link(&key)?.and_then(|link| link.operator);
        let Some(operator) = named else { return Ok(None) };
        let taken = l.core().take_link(&key, now)?.is_some();
        Ok(self::operator(l, &operator)?.filter(|_| taken).map(|o| o.id))
    })
    .await
}

/// The session that a token opens. Notes its use, behind the answer.
pub fn session(ledger: &Ledger, token: &str, now: Micros) -> Option<Session> {
    let key = hash(token);
    let row = ledger.core().session(&key).ok()?.filter(|row| open(row, now))?;
    let operator = operator(ledger, &row.operator).ok()??;
    if now > row.last_seen.plus_seconds(SEEN_SECONDS) {
        let ledger = ledger.clone();
        tokio::task::spawn_blocking(move || ledger.core().touch_session(&key, now));
    }
    Some(Session::of(&key, row, operator.role))
}

/// Opens a session and gives its token; ends the one whose token is `old`, and all that have run out.
pub async fn open_session(
    ledger: &Ledger,
    operator: &str,
    agent: String,
    old: Option<&str>,
    now: Micros,
) -> Result<String, PageError> {
    let (fresh, old) = (token(32), old.map(hash));
    let key = hash(&fresh);
    let row = Row { operator: operator.to_owned(), created_at: now, last_seen: now, csrf: token(24), agent };
    write(ledger, move |l| {
        if let Some(old) = old {
            l.core().remove_session(&old)?;
        }
        l.core().purge(now, now.plus_seconds(-IDLE_SECONDS), now.plus_seconds(-ABSOLUTE_SECONDS))?;
        l.core().put_session(&key, &row)
    })
    .await?;
    Ok(fresh)
}

/// The open sessions of an operator, newest first.
pub fn sessions(ledger: &Ledger, operator: &str, now: Micros) -> Result<Vec<Session>, StoreError> {
    let rows = ledger.core().sessions(operator)?.into_iter().filter(|(_, row)| open(row, now));
    let mut found: Vec<Session> = rows.map(|(key, row)| Session::of(&key, row, Role::Admin)).collect();
    found.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    Ok(found)
}

/// Ends one of an operator's own sessions, by the id that lists show.
pub async fn end_session(ledger: &Ledger, operator: &str, id: &str) -> Result<(), PageError> {
    let (operator, id) = (operator.to_owned(), id.to_owned());
    write(ledger, move |l| {
        for (key, _) in l.core().sessions(&operator)? {
            if public_id(&key) == id {
                l.core().remove_session(&key)?;
            }
        }
        Ok(())
    })
    .await
}

async fn write<T, F>(ledger: &Ledger, change: F) -> Result<T, PageError>
where
    T: Send + 'static,
    F: FnOnce(&Ledger) -> Result<T, StoreError> + Send + 'static,
{
    let ledger = ledger.clone();
    Ok(tokio::task::spawn_blocking(move || change(&ledger)).await??)
}

/// Argon2id with the crate's defaults (19 MiB, 2 passes: OWASP's first choice), off the async threads.
pub async fn hash_password(turns: &Semaphore, password: String) -> Result<String, PageError> {
    let _turn = turns.acquire().await.map_err(|e| PageError::internal(e.to_string()))?;
    tokio::task::spawn_blocking(move || Argon2::default().hash_password(password.as_bytes()).map(|h| h.to_string()))
        .await?
        .map_err(|e| PageError::internal(format!("password: {e}")))
}

/// Whether the password is the one stored; takes as long where none is.
pub async fn verify_password(turns: &Semaphore, password: String, stored: Option<String>) -> Result<bool, PageError> {
    if password.len() > PASSWORD_MAX {
        return Ok(false);
    }
    let _turn = turns.acquire().await.map_err(|e| PageError::internal(e.to_string()))?;
    let verify = move || {
        let known = stored.is_some();
        let text = stored.unwrap_or_else(|| NOBODY.to_owned());
        let parsed = PasswordHash::new(&text).map_err(|e| PageError::internal(format!("stored password: {e}")))?;
        Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && known)
    };
    tokio::task::spawn_blocking(verify).await?
}
