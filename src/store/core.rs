//! `core.redb`: what is not in the journal and must not be: operators and their tokens, sessions, one-time links, the
//! secrets of providers, sealed, and what the signer of checkpoints keeps.
//!
//! Everything secret is stored as a hash (tokens) or sealed (provider secrets); nothing here prints one. Calls are short
//! disk transactions: from async code, run those that write in `spawn_blocking`.

use std::fmt;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::Micros;

use super::StoreError;
use super::journal::writing;
use super::media::{COLD_CACHE, Media};
use super::seal::{Envelope, KEKS, RootKey};
use super::small::{SmallFile, Table, close};
use super::trouble::Troubles;

/// Name of the file.
pub const NAME: &str = "core.redb";
const OPERATORS: TableDefinition<&str, &[u8]> = TableDefinition::new("operator.v1");
const TOKENS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("operator-token.v1");
const SESSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("session.v1");
const LINKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("link.v1");
const SECRETS: TableDefinition<&str, &[u8]> = TableDefinition::new("secret.v1");
/// Of the ledger: its instance, its signing keys, what was signed last.
const LEDGER: TableDefinition<&str, &[u8]> = TableDefinition::new("ledger.v1");
/// Version of every record below, before its postcard.
const RECORD: u8 = 1;

/// SHA-256 or HMAC of a token: what it is looked up by. The token itself is nowhere.
pub type TokenHash = [u8; 32];

/// A person who may sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// A slug, never an address: it stands in entries.
    pub id: String,
    pub name: String,
    pub role: Role,
    /// Absent: cannot sign in with a password.
    pub password: Option<PasswordHash>,
    pub created_at: Micros,
    pub disabled: bool,
}

/// What an operator may do. The number is stored: never renumber, only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Admin,
}

/// The text of a password hash (PHC string). Does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An operator's API token, found by the hash of its text under the pepper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorToken {
    /// `wbo_` and key id: not secret.
    pub id: String,
    pub operator: String,
    pub note: String,
    pub created_at: Micros,
    pub expires_at: Option<Micros>,
}

/// A signed-in browser, found by the SHA-256 of its cookie.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub operator: String,
    pub created_at: Micros,
    pub last_seen: Micros,
    /// What its forms must carry.
    pub csrf: String,
    /// What the operator recognises it by: the browser's own name.
    pub agent: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("operator", &self.operator).field("csrf", &"***").finish_non_exhaustive()
    }
}

/// A link that works once: to set up the first operator, or to sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Absent: the set-up link.
    pub operator: Option<String>,
    pub expires_at: Micros,
}

/// What may be shown of a sealed secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretInfo {
    pub id: String,
    /// Its last four characters; absent where it is too short to show any.
    pub last4: Option<String>,
    pub version: u32,
    pub set_at: Micros,
}

#[derive(Serialize, Deserialize)]
struct SecretRow {
    sealed: Vec<u8>,
    last4: Option<String>,
    version: u32,
    set_at: Micros,
}

/// The open file.
pub struct Core {
    file: SmallFile,
    envelope: Envelope,
}

impl Core {
    /// Copies the file, without who is signed in and without one-time links. What it says was signed last is `signed`, a
    /// row of its ledger table: the copy is not to promise what the journal beside it does not have.
    pub(super) fn copy(&self, to: &Media, signed: (&str, Option<Vec<u8>>)) -> Result<(), StoreError> {
        let named = [OPERATORS, SECRETS, LEDGER].map(Table::Named);
        let tables = named.into_iter().chain([Table::Numbered(KEKS), Table::Hashed(TOKENS)]).collect::<Vec<_>>();
        self.file.copy(to, &tables, &[Table::Hashed(SESSIONS), Table::Hashed(LINKS)])?;
        let copy = to.open(NAME, COLD_CACHE)?;
        writing(NAME, &copy, |txn| {
            let mut table = txn.open_table(LEDGER)?;
            match &signed.1 {
                Some(row) => table.insert(signed.0, row.as_slice()).map(drop)?,
                None => table.remove(signed.0).map(drop)?,
            }
            Ok(())
        })?;
        close(NAME, copy)
    }

    /// From now on who is told where the file cannot be written.
    pub(super) fn tell(&self, troubles: std::sync::Arc<Troubles>) {
        self.file.tell(troubles);
    }

    pub(super) fn open(media: &Media, root: &RootKey) -> Result<Core, StoreError> {
        let file = SmallFile::open(media, NAME)?;
        let envelope = Envelope::open(&file, root)?;
        // All are made in one transaction, so the last tells of the others. A start that makes nothing writes nothing.
        if !file.read(|txn| Ok(txn.open_table(SECRETS).is_ok()))? {
            file.write(|txn| {
                txn.open_table(OPERATORS)?;
                txn.open_table(TOKENS)?;
                txn.open_table(SESSIONS)?;
                txn.open_table(LINKS)?;
                txn.open_table(SECRETS)?;
                Ok(())
            })?;
        }
        Ok(Core { file, envelope })
    }

    // Operators

    pub fn operators(&self) -> Result<Vec<Operator>, StoreError> {
        let rows = self.file.read(|txn| {
            let table = txn.open_table(OPERATORS)?;
            table.iter()?.map(|row| Ok(row?.1.value().to_vec())).collect::<Result<Vec<_>, redb::Error>>()
        })?;
        rows.iter().map(|row| record(row)).collect()
    }

    pub fn operator(&self, id: &str) -> Result<Option<Operator>, StoreError> {
        self.text_row(OPERATORS, id)
    }

    /// Adds or replaces an operator.
    pub fn put_operator(&self, operator: &Operator) -> Result<(), StoreError> {
        let row = encoded(operator);
        self.write(|txn| Ok(txn.open_table(OPERATORS)?.insert(operator.id.as_str(), row.as_slice()).map(drop)?))
    }

    /// Adds the first operator; false, and nothing done, if there is one already.
    pub fn put_first_operator(&self, operator: &Operator) -> Result<bool, StoreError> {
        let row = encoded(operator);
        self.write(|txn| {
            let mut table = txn.open_table(OPERATORS)?;
            if table.iter()?.next().is_some() {
                return Ok(false);
            }
            table.insert(operator.id.as_str(), row.as_slice())?;
            Ok(true)
        })
    }

    /// Removes an operator with sessions and tokens.
    pub fn remove_operator(&self, id: &str) -> Result<bool, StoreError> {
        let removed = self.write(|txn| Ok(txn.open_table(OPERATORS)?.remove(id)?.is_some()))?;
        self.remove_where(SESSIONS, |session: &Session| session.operator == id)?;
        self.remove_where(TOKENS, |token: &OperatorToken| token.operator == id)?;
        Ok(removed)
    }

    // Operators' API tokens

    pub fn put_token(&self, hash: &TokenHash, token: &OperatorToken) -> Result<(), StoreError> {
        self.put_row(TOKENS, hash, token)
    }

    pub fn token(&self, hash: &TokenHash) -> Result<Option<OperatorToken>, StoreError> {
        self.row(TOKENS, hash)
    }

    pub fn tokens(&self) -> Result<Vec<OperatorToken>, StoreError> {
        Ok(self.rows(TOKENS)?.into_iter().map(|(_, token)| token).collect())
    }

    /// Removes a token by its id.
    pub fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.remove_where(TOKENS, |token: &OperatorToken| token.id == id)? > 0)
    }

    // Sessions

    pub fn put_session(&self, hash: &TokenHash, session: &Session) -> Result<(), StoreError> {
        self.put_row(SESSIONS, hash, session)
    }

    pub fn session(&self, hash: &TokenHash) -> Result<Option<Session>, StoreError> {
        self.row(SESSIONS, hash)
    }

    /// Notes a session's use. One that was removed meanwhile stays removed.
    pub fn touch_session(&self, hash: &TokenHash, at: Micros) -> Result<(), StoreError> {
        let Some(session) = self.session(hash)? else { return Ok(()) };
        let row = encoded(&Session { last_seen: at, ..session });
        self.write(|txn| {
            let mut table = txn.open_table(SESSIONS)?;
            if table.get(hash.as_slice())?.is_some() {
                table.insert(hash.as_slice(), row.as_slice())?;
            }
            Ok(())
        })
    }

    pub fn sessions(&self, operator: &str) -> Result<Vec<(TokenHash, Session)>, StoreError> {
        let all: Vec<(TokenHash, Session)> = self.rows(SESSIONS)?;
        Ok(all.into_iter().filter(|(_, session)| session.operator == operator).collect())
    }

    pub fn remove_session(&self, hash: &TokenHash) -> Result<bool, StoreError> {
        self.write(|txn| Ok(txn.open_table(SESSIONS)?.remove(hash.as_slice())?.is_some()))
    }

    /// Removes what has expired: sessions not seen since, or begun before, and links past their time.
    pub fn purge(&self, now: Micros, idle_before: Micros, begun_before: Micros) -> Result<(), StoreError> {
        self.remove_where(SESSIONS, |s: &Session| s.last_seen < idle_before || s.created_at < begun_before)?;
        self.remove_where(LINKS, |link: &Link| link.expires_at < now)?;
        Ok(())
    }

    // One-time links

    pub fn put_link(&self, hash: &TokenHash, link: &Link) -> Result<(), StoreError> {
        self.put_row(LINKS, hash, link)
    }

    /// Looks a link up without using it.
    pub fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        self.row(LINKS, hash)
    }

    /// Uses a link: of any number at the same time, one gets it.
    pub fn take_link(&self, hash: &TokenHash, now: Micros) -> Result<Option<Link>, StoreError> {
        let row =
            self.write(|txn| Ok(txn.open_table(LINKS)?.remove(hash.as_slice())?.map(|value| value.value().to_vec())))?;
        let link: Option<Link> = row.map(|row| record(&row)).transpose()?;
        Ok(link.filter(|link| link.expires_at >= now))
    }

    // Sealed secrets

    /// Seals a secret under a name such as `provider/openai`; replaces the one before.
    pub fn put_secret(&self, id: &str, secret: &SecretString, at: Micros) -> Result<(), StoreError> {
        let version = self.secret_info(id)?.map_or(1, |info| info.version.saturating_add(1));
        let text = secret.expose_secret();
        let shown = text.len() >= 12 && text.is_ascii();
        let row = SecretRow {
            sealed: self.envelope.seal(&secret_name(id, version), text.as_bytes()),
            last4: shown.then(|| text[text.len() - 4..].to_string()),
            version,
            set_at: at,
        };
        let row = encoded(&row);
        self.write(|txn| Ok(txn.open_table(SECRETS)?.insert(id, row.as_slice()).map(drop)?))
    }

    pub fn secret(&self, id: &str) -> Result<Option<SecretString>, StoreError> {
        let Some(row): Option<SecretRow> = self.text_row(SECRETS, id)? else { return Ok(None) };
        let clear = self.envelope.open_value(&secret_name(id, row.version), &row.sealed);
        let text = clear.and_then(|clear| std::str::from_utf8(&clear).ok().map(SecretString::from));
        text.map(Some).ok_or_else(|| damaged(format!("the secret `{id}` does not open")))
    }

    /// What may be shown of a secret.
    pub fn secret_info(&self, id: &str) -> Result<Option<SecretInfo>, StoreError> {
        let row: Option<SecretRow> = self.text_row(SECRETS, id)?;
        Ok(row.map(|row| SecretInfo { id: id.into(), last4: row.last4, version: row.version, set_at: row.set_at }))
    }

    pub fn remove_secret(&self, id: &str) -> Result<bool, StoreError> {
        self.write(|txn| Ok(txn.open_table(SECRETS)?.remove(id)?.is_some()))
    }

    // What the signer of checkpoints keeps

    pub(super) fn ledger_row<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let row = self.file.read(|txn| match txn.open_table(LEDGER) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get(name)?.map(|v| v.value().to_vec())),
        })?;
        row.map(|row| record(&row)).transpose()
    }

    /// Writes and removes rows, all or none; durable when this returns.
    pub(super) fn put_ledger_rows(&self, rows: &[(&str, Vec<u8>)], gone: &[&str]) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut table = txn.open_table(LEDGER)?;
            for (name, row) in rows {
                table.insert(*name, row.as_slice())?;
            }
            for name in gone {
                table.remove(*name)?;
            }
            Ok(())
        })
    }

    pub(super) fn ledger_bytes(row: &impl Serialize) -> Vec<u8> {
        encoded(row)
    }

    pub(super) fn seal_ledger_secret(&self, name: &str, clear: &[u8]) -> Vec<u8> {
        self.envelope.seal(name, clear)
    }

    pub(super) fn open_ledger_secret(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.envelope.open_value(name, sealed).ok_or_else(|| damaged(format!("the secret `{name}` does not open")))
    }

    // Rows

    fn write<T>(&self, f: impl Fn(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.file.write(f)
    }

    fn text_row<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&'static str, &'static [u8]>,
        id: &str,
    ) -> Result<Option<T>, StoreError> {
        let row = self.file.read(|txn| Ok(txn.open_table(table)?.get(id)?.map(|v| v.value().to_vec())))?;
        row.map(|row| record(&row)).transpose()
    }

    fn row<T: DeserializeOwned>(&self, table: HashTable, hash: &TokenHash) -> Result<Option<T>, StoreError> {
        let row = self.file.read(|txn| Ok(txn.open_table(table)?.get(hash.as_slice())?.map(|v| v.value().to_vec())))?;
        row.map(|row| record(&row)).transpose()
    }

    fn rows<T: DeserializeOwned>(&self, table: HashTable) -> Result<Vec<(TokenHash, T)>, StoreError> {
        let rows = self.file.read(|txn| {
            let table = txn.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
            let hash = key.try_into().map_err(|_| damaged("a key has the wrong length".into()))?;
            Ok((hash, record(&value)?))
        };
        rows.into_iter().map(decode).collect()
    }

    fn put_row(&self, table: HashTable, hash: &TokenHash, row: &impl Serialize) -> Result<(), StoreError> {
        let row = encoded(row);
        self.write(|txn| Ok(txn.open_table(table)?.insert(hash.as_slice(), row.as_slice()).map(drop)?))
    }

    fn remove_where<T: DeserializeOwned>(
        &self,
        table: HashTable,
        which: impl Fn(&T) -> bool,
    ) -> Result<usize, StoreError> {
        let rows: Vec<(TokenHash, T)> = self.rows(table)?;
        let gone: Vec<TokenHash> = rows.into_iter().filter(|(_, row)| which(row)).map(|(hash, _)| hash).collect();
        if !gone.is_empty() {
            self.write(|txn| {
                let mut table = txn.open_table(table)?;
                for hash in &gone {
                    table.remove(hash.as_slice())?;
                }
                Ok(())
            })?;
        }
        Ok(gone.len())
    }
}

type HashTable = TableDefinition<'static, &'static [u8], &'static [u8]>;

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core(***)")
    }
}

fn secret_name(id: &str, version: u32) -> String {
    format!("secret.v1/{id}/{version}")
}

fn encoded(row: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(row, vec![RECORD]).expect("writing to memory does not fail")
}

fn record<T: DeserializeOwned>(row: &[u8]) -> Result<T, StoreError> {
    match row.split_first() {
        Some((&RECORD, rest)) => {
            postcard::from_bytes(rest).map_err(|e| damaged(format!("a record does not decode: {e}")))
        }
        Some((version, _)) => {
            Err(StoreError::Newer { file: NAME.into(), found: u64::from(*version), known: u64::from(RECORD) })
        }
        None => Err(damaged("a record is empty".into())),
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged { file: NAME.into(), what }
}

#[cfg(test)]
mod tests {
    use super::super::media::Memory;
    use super::*;

    fn open(media: &Media) -> Core {
        Core::open(media, &RootKey::load(media).unwrap()).unwrap()
    }

    #[test]
    fn a_providers_secret_is_sealed_and_comes_back_after_a_restart() {
        let memory = Memory::new();
        let media = Media::Memory(memory.clone());
        let core = open(&media);
        let secret = SecretString::from("sk-planted-0123456789");
        core.put_secret("provider/openai", &secret, Micros(1)).unwrap();
        core.put_secret("provider/openai", &secret, Micros(2)).unwrap();
        drop(core);
        let core = open(&media);
        assert_eq!(core.secret("provider/openai").unwrap().unwrap().expose_secret(), secret.expose_secret());
        let info = core.secret_info("provider/openai").unwrap().unwrap();
        assert_eq!((info.last4.as_deref(), info.version, info.set_at), (Some("6789"), 2, Micros(2)));
        let bytes = memory.bytes(NAME);
        assert!(!bytes.windows(7).any(|w| w == b"planted"), "the secret stands in the file");
    }

    #[test]
    fn a_link_works_once_and_the_first_operator_is_first() {
        let core = open(&Media::Memory(Memory::new()));
        core.put_link(&[1; 32], &Link { operator: None, expires_at: Micros(10) }).unwrap();
        assert!(core.take_link(&[1; 32], Micros(5)).unwrap().is_some());
        assert!(core.take_link(&[1; 32], Micros(5)).unwrap().is_none());
        let ada = Operator {
            id: "ada".into(),
            name: "Ada".into(),
            role: Role::Admin,
            password: Some(PasswordHash("$argon2id$planted".into())),
            created_at: Micros(1),
            disabled: false,
        };
        assert!(core.put_first_operator(&ada).unwrap());
        assert!(!core.put_first_operator(&ada).unwrap());
        assert!(!format!("{ada:?}").contains("planted"));
        let session = Session {
            operator: "ada".into(),
            created_at: Micros(1),
            last_seen: Micros(1),
            csrf: "planted".into(),
            agent: String::new(),
        };
        core.put_session(&[2; 32], &session).unwrap();
        assert!(!format!("{session:?}").contains("planted"));
        assert_eq!(core.sessions("ada").unwrap().len(), 1);
        assert!(core.remove_operator("ada").unwrap());
        assert_eq!(core.session(&[2; 32]).unwrap(), None);
    }
}
