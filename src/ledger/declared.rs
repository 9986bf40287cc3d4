//! Declared state as bytes: each thing as group 0 of the entry that would declare it.
//!
//! So a noun may get a field with a default, and what was written before still reads. Names and mail addresses of owners
//! are not in it: they are in no group 0. Layout: for each change its kind (1 byte), the length of group 0 (4,
//! big-endian), group 0. A catalogue begins with its revision (8) and the version of its price book (4).

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serializer};

use super::codec::{decode_body, encode_body, kind_of};
use super::entry::Body;
use crate::domain::catalogue::Map;
use crate::domain::{Catalogue, Change};

/// Why bytes are not declared state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("declared state does not decode: {0}")]
pub struct DeclaredError(String);

fn body(change: Change) -> Body {
    let actor = String::new();
    match change {
        Change::Budget(id, budget) => Body::Budget { actor, id, budget: budget.map(Box::new), opening: Vec::new() },
        Change::Price { .. } => Body::Price { actor, change: Box::new(change) },
        _ => Body::Catalogue { actor, change: Box::new(change) },
    }
}

fn put(change: Change, bytes: &mut Vec<u8>) {
    let body = body(change);
    let group = encode_body(&body);
    // Kinds of declarations are far below 256, and an entry is at most 64 KiB.
    bytes.push(kind_of(&body) as u8);
    bytes.extend_from_slice(&(group.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&group);
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], DeclaredError> {
    let (head, rest) = bytes.split_at_checked(n).ok_or_else(|| DeclaredError("it is cut short".into()))?;
    *bytes = rest;
    Ok(head)
}

fn number(bytes: &mut &[u8], n: usize) -> Result<u64, DeclaredError> {
    Ok(take(bytes, n)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn get(bytes: &mut &[u8]) -> Result<Change, DeclaredError> {
    let (kind, length) = (number(bytes, 1)?, number(bytes, 4)? as usize);
    match decode_body(kind, take(bytes, length)?).map_err(|e| DeclaredError(e.to_string()))? {
        Body::Budget { id, budget, .. } => Ok(Change::Budget(id, budget.map(|b| *b))),
        Body::Price { change, .. } | Body::Catalogue { change, .. } => Ok(*change),
        _ => Err(DeclaredError(format!("kind {kind} declares nothing"))),
    }
}

/// A catalogue as bytes. Equal catalogues give equal bytes.
pub fn encode(catalogue: &Catalogue) -> Vec<u8> {
    fn all<T: Clone>(map: &Map<String, Arc<T>>, change: impl Fn(String, Option<T>) -> Change, bytes: &mut Vec<u8>) {
        map.iter().for_each(|(id, value)| put(change(id.clone(), Some(T::clone(value))), bytes));
    }
    let c = catalogue;
    let mut bytes = c.revision.to_be_bytes().to_vec();
    bytes.extend_from_slice(&c.price_book.to_be_bytes());
    put(Change::Organisation((*c.organisation).clone()), &mut bytes);
    all(&c.owners, Change::Owner, &mut bytes);
    all(&c.services, Change::Service, &mut bytes);
    all(&c.keys, Change::Key, &mut bytes);
    all(&c.providers, Change::Provider, &mut bytes);
    all(&c.policies, Change::Policy, &mut bytes);
    all(&c.notify, Change::Notify, &mut bytes);
    all(&c.budgets, Change::Budget, &mut bytes);
    all(&c.issuers, Change::Issuer, &mut bytes);
    all(&c.pauses, Change::Pause, &mut bytes);
    for ((provider, model), prices) in &c.prices {
        let (provider, model, prices) = (provider.clone(), model.clone(), Vec::clone(prices));
        put(Change::Price { provider, model, prices }, &mut bytes);
    }
    bytes
}

/// Reads what [`encode`] wrote.
pub fn decode(mut bytes: &[u8]) -> Result<Catalogue, DeclaredError> {
    let (revision, price_book) = (number(&mut bytes, 8)?, number(&mut bytes, 4)? as u32);
    let mut catalogue = Catalogue::default();
    while !bytes.is_empty() {
        catalogue.apply(get(&mut bytes)?);
    }
    (catalogue.revision, catalogue.price_book) = (revision, price_book);
    Ok(catalogue)
}

/// A catalogue inside a larger value.
pub mod whole {
    use super::*;

    pub fn serialize<S: Serializer>(catalogue: &Arc<Catalogue>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&encode(catalogue))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<Catalogue>, D::Error> {
        decode(<&[u8]>::deserialize(d)?).map(Arc::new).map_err(serde::de::Error::custom)
    }
}

/// Changes by noun and id inside a larger value.
pub mod changes {
    use super::*;

    type Changes = Map<(String, String), Arc<Change>>;

    pub fn serialize<S: Serializer>(changes: &Changes, s: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        changes.values().for_each(|change| put(Change::clone(change), &mut bytes));
        s.serialize_bytes(&bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Changes, D::Error> {
        let mut bytes = <&[u8]>::deserialize(d)?;
        let mut changes = Changes::new();
        while !bytes.is_empty() {
            let change = get(&mut bytes).map_err(serde::de::Error::custom)?;
            let (noun, id) = change.subject();
            changes.insert((noun.to_owned(), id), Arc::new(change));
        }
        Ok(changes)
    }
}
