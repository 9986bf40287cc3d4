//! A small JSON value, such as a usage block, read once and looked into by name: texts and names are borrowed, objects
//! are lists, so that reading one costs a few steps per member.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value. Of a name that is given twice the last counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Small<'a> {
    Null,
    Bool(bool),
    /// A whole number that is not negative.
    Count(u64),
    /// Any other number.
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Small<'a>>),
    Object(Vec<(Cow<'a, str>, Small<'a>)>),
}

impl<'a> Small<'a> {
    /// Reads a whole document; nothing if it is not one.
    pub fn read(json: &'a [u8]) -> Option<Small<'a>> {
        serde_json::from_slice(json).ok()
    }

    /// A member of an object.
    pub fn get(&self, name: &str) -> Option<&Small<'a>> {
        match self {
            Small::Object(members) => members.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Small::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Small::Count(n) => Some(*n),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Small::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Small<'a>]> {
        match self {
            Small::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Small::Object(_))
    }
}

impl<'de> Deserialize<'de> for Small<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Any)
    }
}

struct Any;
impl<'de> Visitor<'de> for Any {
    type Value = Small<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Small<'de>, E> {
        Ok(Small::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Small<'de>, E> {
        Ok(Small::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Small<'de>, E> {
        Ok(Small::Count(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Small<'de>, E> {
        Ok(u64::try_from(value).map_or(Small::Number(value as f64), Small::Count))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Small<'de>, E> {
        Ok(Small::Number(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Small<'de>, E> {
        Ok(Small::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Small<'de>, E> {
        Ok(Small::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Small<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Small::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Small<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(name) = map.next_key::<Name>()? {
            members.push((name.0, map.next_value()?));
        }
        Ok(Small::Object(members))
    }
}

/// A member's name, borrowed where it has no escapes.
pub(super) struct Name<'a>(pub Cow<'a, str>);
impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_string())))
            }
        }
        d.deserialize_str(Either)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The same as serde_json's own value, where that has a place for it.
    fn same(small: &Small, value: &Value) -> bool {
        match (small, value) {
            (Small::Null, Value::Null) => true,
            (Small::Bool(a), Value::Bool(b)) => a == b,
            (Small::Count(a), Value::Number(b)) => Some(*a) == b.as_u64(),
            (Small::Number(a), Value::Number(b)) => Some(*a) == b.as_f64() && b.as_u64().is_none(),
            (Small::Text(a), Value::String(b)) => a == b,
            (Small::List(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Small::Object(_), Value::Object(b)) => {
                b.iter().all(|(name, b)| small.get(name).is_some_and(|a| same(a, b)))
            }
            _ => false,
        }
    }

    #[test]
    fn it_reads_what_serde_json_reads() {
        for json in [
            r#"{"a":1,"b":{"c":[null,true,"x\u00e9",-3,1.5,18446744073709551615,99999999999999999999999]},"a":2}"#,
            r#" {"n\u0061me": "v" , "e": {} , "l": []} "#,
            "7",
            "\"text\"",
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert!(same(&Small::read(json.as_bytes()).unwrap(), &value), "{json}");
        }
        for bad in ["", "{", "{\"a\":}", "[1,]", "{} {}", "nul"] {
            assert_eq!(Small::read(bad.as_bytes()), None, "{bad}");
        }
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(Small::read(&deep), None);
    }
}
