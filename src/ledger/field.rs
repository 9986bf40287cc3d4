//! How a value stands in an entry: one trait, and the macros by which the tables of [`super::codec`] become both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::cbor::{CborError, Reader, Writer};
use crate::domain::policy::Hours;
use crate::domain::{CallId, Code, Component, CostBasis, Dimension, Micros, Money, Outcome, Usage, UsageBasis};

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error(transparent)]
    Cbor(#[from] CborError),
    #[error("format version {0} is newer than this program: use the version that wrote it")]
    Version(u64),
    #[error("{record} has the key {key}, which this version does not know")]
    UnknownKey { record: &'static str, key: u64 },
    #[error("{record} lacks {field}")]
    Missing { record: &'static str, field: &'static str },
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("`{value}` is not a {what}")]
    Name { what: &'static str, value: String },
    #[error("what is absent was written out: not the one encoding of this entry")]
    NotCanonical,
    #[error("group {0} is not one of 1 to 4, or is there twice")]
    Group(u8),
}

/// A value of a record: written, read, and shown to people.
pub trait Field: Sized {
    fn put(&self, w: &mut Writer);
    fn get(r: &mut Reader) -> Result<Self, CodecError>;
    fn show(&self) -> Value;
    /// True if the key is left out.
    fn is_absent(&self) -> bool {
        false
    }
    /// The value a key that was left out stands for; none if the key must be there.
    fn absent() -> Option<Self> {
        None
    }
}

macro_rules! unsigned {
    ($($type:ty),*) => { $(impl Field for $type {
        fn put(&self, w: &mut Writer) { w.uint(u64::from(*self)) }
        fn get(r: &mut Reader) -> Result<Self, CodecError> {
            <$type>::try_from(r.uint()?).map_err(|_| CodecError::Range("a number"))
        }
        fn show(&self) -> Value { (*self).into() }
    })* };
}
unsigned!(u8, u16, u32, u64);

impl Field for i128 {
    fn put(&self, w: &mut Writer) {
        w.int(*self)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        Ok(r.int()?)
    }
    fn show(&self) -> Value {
        self.to_string().into()
    }
}

impl Field for Money {
    fn put(&self, w: &mut Writer) {
        w.int(self.0)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        Ok(Money(r.int()?))
    }
    fn show(&self) -> Value {
        self.to_string().into()
    }
}

impl Field for Micros {
    fn put(&self, w: &mut Writer) {
        w.int(self.0.into())
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        i64::try_from(r.int()?).map(Micros).map_err(|_| CodecError::Range("an instant"))
    }
    fn show(&self) -> Value {
        self.to_string().into()
    }
}

impl Field for CallId {
    fn put(&self, w: &mut Writer) {
        w.bytes(&self.0.to_be_bytes())
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        let bytes = r.bytes()?.try_into().map_err(|_| CodecError::Range("a call id"))?;
        Ok(CallId(u128::from_be_bytes(bytes)))
    }
    fn show(&self) -> Value {
        self.to_string().into()
    }
}

impl Field for [u8; 32] {
    fn put(&self, w: &mut Writer) {
        w.bytes(self)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        r.bytes()?.try_into().map_err(|_| CodecError::Range("a hash"))
    }
    fn show(&self) -> Value {
        data_encoding::HEXLOWER.encode(self).into()
    }
}

impl Field for String {
    fn put(&self, w: &mut Writer) {
        w.text(self)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        Ok(r.text()?.to_owned())
    }
    fn show(&self) -> Value {
        self.as_str().into()
    }
}

/// A flag is there only if it is set.
impl Field for bool {
    fn put(&self, w: &mut Writer) {
        w.bool(*self)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        Ok(r.bool()?)
    }
    fn show(&self) -> Value {
        (*self).into()
    }
    fn is_absent(&self) -> bool {
        !*self
    }
    fn absent() -> Option<Self> {
        Some(false)
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, w: &mut Writer) {
        match self {
            Some(value) => value.put(w),
            None => w.null(),
        }
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        T::get(r).map(Some)
    }
    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::show)
    }
    fn is_absent(&self) -> bool {
        self.is_none()
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, w: &mut Writer) {
        (**self).put(w)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        T::get(r).map(Box::new)
    }
    fn show(&self) -> Value {
        (**self).show()
    }
}

impl<T: Field> Field for Arc<T> {
    fn put(&self, w: &mut Writer) {
        (**self).put(w)
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        T::get(r).map(Arc::new)
    }
    fn show(&self) -> Value {
        (**self).show()
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, w: &mut Writer) {
        w.array(self.len());
        self.iter().for_each(|item| item.put(w));
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        let mut items = Vec::new();
        r.array(|r| T::get(r).map(|item| items.push(item)))?;
        Ok(items)
    }
    fn show(&self) -> Value {
        self.iter().map(T::show).collect()
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}

/// An array in the order of the set, which is the order of the texts.
impl Field for BTreeSet<String> {
    fn put(&self, w: &mut Writer) {
        w.array(self.len());
        self.iter().for_each(|item| item.put(w));
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        Vec::<String>::get(r).map(|items| items.into_iter().collect())
    }
    fn show(&self) -> Value {
        self.iter().map(Field::show).collect()
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(BTreeSet::new())
    }
}

// Deterministic order of text keys is by their encoding: shorter first, then by bytes.
fn put_text_map<'a>(pairs: impl Iterator<Item = (&'a str, &'a String)>, w: &mut Writer) {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|(key, _)| (key.len(), *key));
    w.map(pairs.len());
    for (key, value) in pairs {
        w.text(key);
        w.text(value);
    }
}

fn get_text_map(r: &mut Reader, mut put: impl FnMut(&str, String) -> Result<(), CodecError>) -> Result<(), CodecError> {
    r.map(
        |r| Ok(r.text().map(drop)?),
        |r| {
            let key = r.text()?;
            put(key, r.text()?.to_owned())
        },
    )
}

macro_rules! text_map {
    ($key:ty, $name:expr, $from:expr) => {
        impl Field for BTreeMap<$key, String> {
            fn put(&self, w: &mut Writer) {
                put_text_map(self.iter().map(|(k, v)| ($name(k), v)), w)
            }
            fn get(r: &mut Reader) -> Result<Self, CodecError> {
                let mut map = BTreeMap::new();
                get_text_map(r, |key, value| Ok(drop(map.insert($from(key)?, value))))?;
                Ok(map)
            }
            fn show(&self) -> Value {
                Value::Object(self.iter().map(|(k, v)| ($name(k).to_owned(), v.show())).collect())
            }
            fn is_absent(&self) -> bool {
                self.is_empty()
            }
            fn absent() -> Option<Self> {
                Some(BTreeMap::new())
            }
        }
    };
}
text_map!(String, String::as_str, |k: &str| Ok::<_, CodecError>(k.to_owned()));
text_map!(Dimension, |k: &Dimension| k.name(), |k: &str| {
    Dimension::from_name(k).ok_or_else(|| CodecError::Name { what: "dimension", value: k.to_owned() })
});

/// Text → texts, in the order of the keys' encodings.
impl Field for BTreeMap<String, Vec<String>> {
    fn put(&self, w: &mut Writer) {
        let mut pairs: Vec<_> = self.iter().collect();
        pairs.sort_by_key(|(key, _)| (key.len(), *key));
        w.map(pairs.len());
        for (key, values) in pairs {
            w.text(key);
            values.put(w);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        let mut map = BTreeMap::new();
        r.map(
            |r| Ok(r.text().map(drop)?),
            |r| {
                let key = r.text()?.to_owned();
                map.insert(key, Vec::get(r)?);
                Ok::<_, CodecError>(())
            },
        )?;
        Ok(map)
    }
    fn show(&self) -> Value {
        Value::Object(self.iter().map(|(k, v)| (k.clone(), v.show())).collect())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(BTreeMap::new())
    }
}

/// A map of component number to count.
impl Field for Usage {
    fn put(&self, w: &mut Writer) {
        w.map(self.iter().count());
        for (component, count) in self.iter() {
            w.uint(component as u64);
            w.uint(count);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        let mut usage = Usage::new();
        r.fields(|number, r| {
            let component = u8::try_from(number).ok().and_then(Component::from_number);
            usage.set(component.ok_or(CodecError::UnknownKey { record: "usage", key: number })?, r.uint()?);
            Ok::<_, CodecError>(())
        })?;
        Ok(usage)
    }
    fn show(&self) -> Value {
        Value::Object(self.iter().map(|(c, n)| (c.name().to_owned(), n.into())).collect())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(Usage::new())
    }
}

// Enumerations whose numbers the domain has fixed.
macro_rules! numbered {
    ($($type:ident),*) => { $(impl Field for $type {
        fn put(&self, w: &mut Writer) { w.uint(*self as u64) }
        fn get(r: &mut Reader) -> Result<Self, CodecError> {
            let number = r.uint()?;
            let known = u8::try_from(number).ok().and_then($type::from_number);
            known.ok_or_else(|| CodecError::Name { what: stringify!($type), value: number.to_string() })
        }
        fn show(&self) -> Value { self.name().into() }
    })* };
}
numbered!(Outcome, UsageBasis, CostBasis, Code, Component);

/// Values with one text of their own, which reading gives back.
macro_rules! textual {
    ($($type:ty as $what:literal),*) => { $(impl Field for $type {
        fn put(&self, w: &mut Writer) { w.text(&self.to_string()) }
        fn get(r: &mut Reader) -> Result<Self, CodecError> {
            let text = r.text()?;
            text.parse().map_err(|_| CodecError::Name { what: $what, value: text.chars().take(40).collect() })
        }
        fn show(&self) -> Value { self.to_string().into() }
    })* };
}
textual!(ipnet::IpNet as "network", Hours as "window of hours");

/// Enumerations written as their names. With `or X`, what is left out stands for `X`.
macro_rules! named {
    ($type:ident $(or $default:ident)? { $($variant:ident = $name:literal),* $(,)? }) => {
        impl Field for $type {
            fn put(&self, w: &mut Writer) {
                w.text(match self { $($type::$variant => $name),* })
            }
            fn get(r: &mut Reader) -> Result<Self, CodecError> {
                match r.text()? {
                    $($name => Ok($type::$variant),)*
                    other => Err(CodecError::Name { what: stringify!($type), value: other.chars().take(40).collect() }),
                }
            }
            fn show(&self) -> serde_json::Value {
                match self { $($type::$variant => $name),* }.into()
            }
            $(fn is_absent(&self) -> bool {
                *self == $type::$default
            }
            fn absent() -> Option<Self> {
                Some($type::$default)
            })?
        }
    };
}

/// Structures written as maps with integer keys. One table gives encoder, decoder and what people are shown.
macro_rules! record {
    ($type:ident as $name:literal { $($key:literal = $field:ident),* $(,)? }) => {
        impl Field for $type {
            fn put(&self, w: &mut Writer) {
                w.fields(|w| {
                    let mut count = 0;
                    $(if !self.$field.is_absent() {
                        w.uint($key);
                        self.$field.put(w);
                        count += 1;
                    })*
                    count
                })
            }
            fn get(r: &mut Reader) -> Result<Self, CodecError> {
                $(let mut $field = None;)*
                r.fields(|key, r| {
                    match key {
                        $($key => $field = Some(Field::get(r)?),)*
                        _ => return Err(CodecError::UnknownKey { record: $name, key }),
                    }
                    Ok(())
                })?;
                Ok($type { $($field: match $field.or_else(Field::absent) {
                    Some(value) => value,
                    None => return Err(CodecError::Missing { record: $name, field: stringify!($field) }),
                },)* })
            }
            fn show(&self) -> serde_json::Value {
                let mut shown = serde_json::Map::new();
                $(if !self.$field.is_absent() {
                    shown.insert(stringify!($field).to_owned(), self.$field.show());
                })*
                shown.into()
            }
        }
    };
}

pub(super) use {named, record};
