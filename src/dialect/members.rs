//! The top level of a request's JSON: its members by name with their exact bytes, and the two edits made to them.
//!
//! Values are borrowed, never decoded further than a reader asks, so that a prompt of megabytes costs one pass. An edit
//! puts text into the body or over one value; every other byte stays as it was.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::DialectError;
use super::small::Name;

/// A JSON object, one level deep, in the order of the body.
#[derive(Debug)]
pub(super) struct Members<'a> {
    list: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = map.next_key::<Name>()? {
                    list.push((name.0, map.next_value()?));
                }
                Ok(Members { list })
            }
        }
        d.deserialize_map(Pairs)
    }
}

impl<'a> Members<'a> {
    /// The members of a request's body. `known` names may not come twice: which of them would count is anyone's guess.
    pub fn of_body(body: &'a [u8], known: &[&str]) -> Result<Members<'a>, DialectError> {
        let text = std::str::from_utf8(body)
            .map_err(|e| DialectError(format!("the request body is not UTF-8 (byte {})", e.valid_up_to())))?;
        if text.trim_ascii().is_empty() {
            return Err(DialectError("the request body is empty: send a JSON object".into()));
        }
        let members: Members = serde_json::from_str(text)
            .map_err(|e| DialectError(format!("the request body is not a JSON object: {e}")))?;
        for name in known {
            if members.list.iter().filter(|(n, _)| n == name).count() > 1 {
                return Err(DialectError(format!("`{name}` is given twice: send it once")));
            }
        }
        Ok(members)
    }

    /// The members of an object inside; nothing if it is no object.
    pub fn of(value: &'a RawValue) -> Option<Members<'a>> {
        serde_json::from_str(value.get()).ok()
    }

    /// A member; null counts as not given.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|v| v.get() != "null")
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.list.iter().rev().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.list.iter().map(|(n, v)| (n.as_ref(), *v))
    }

    pub fn text(&self, name: &str) -> Result<Option<String>, DialectError> {
        self.typed(name, "a string")
    }

    pub fn truth(&self, name: &str) -> Result<Option<bool>, DialectError> {
        self.typed(name, "true or false")
    }

    /// A whole number that is not negative.
    pub fn count(&self, name: &str) -> Result<Option<u64>, DialectError> {
        self.typed(name, "a whole number, 0 or more")
    }

    fn typed<T: serde::de::DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>, DialectError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| {
            let shown: String = value.get().chars().take(40).collect();
            DialectError(format!("`{name}` is {shown}, but has to be {what}"))
        })
    }

    /// The elements of an array member; nothing if it is no array.
    pub fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|v| serde_json::from_str(v.get()).ok()).unwrap_or_default()
    }
}

/// A text that goes over a range of the body.
struct Splice {
    from: usize,
    to: usize,
    text: String,
}

/// The body with the permitted edits (the cap's field may lie one object deep: `generationConfig.maxOutputTokens`); the
/// body itself where there is nothing to change or it cannot be read.
pub(super) fn edit(body: &Bytes, include_usage: bool, cap: Option<(&str, u64)>) -> Bytes {
    let Ok(members) = Members::of_body(body, &[]) else { return body.clone() };
    let mut splices = Vec::new();
    let mut added = Vec::new();
    if include_usage {
        match members.raw("stream_options") {
            None => added.push(r#""stream_options":{"include_usage":true}"#.to_string()),
            Some(value) => splices.extend(usage_option(body, value)),
        }
    }
    if let Some((field, cap)) = cap {
        match (field.split_once('.'), members.raw(field)) {
            (Some((object, field)), _) => match members.raw(object) {
                None => added.push(format!("\"{object}\":{{\"{field}\":{cap}}}")),
                Some(value) => splices.push(inside(body, value, field, &cap.to_string())),
            },
            (None, None) => added.push(format!("\"{field}\":{cap}")),
            (None, Some(value)) => splices.push(over(body, value, cap.to_string())),
        }
    }
    if let (false, Some(end)) = (added.is_empty(), body.iter().rposition(|b| *b == b'}')) {
        let comma = if members.list.is_empty() { "" } else { "," };
        splices.push(Splice { from: end, to: end, text: format!("{comma}{}", added.join(",")) });
    }
    splices.sort_by_key(|s| s.from);
    let mut out = Vec::with_capacity(body.len() + splices.iter().map(|s| s.text.len()).sum::<usize>());
    let mut at = 0;
    for splice in splices {
        out.extend_from_slice(&body[at..splice.from]);
        out.extend_from_slice(splice.text.as_bytes());
        at = splice.to;
    }
    out.extend_from_slice(&body[at..]);
    out.into()
}

/// The body with another text as the value of a member that is there; every other byte as it was.
pub(super) fn rewrite(body: &Bytes, name: &str, text: Option<&str>) -> Bytes {
    let Some(text) = text else { return body.clone() };
    let Ok(members) = Members::of_body(body, &[]) else { return body.clone() };
    let Some(value) = members.raw(name) else { return body.clone() };
    let Splice { from, to, text } = over(body, value, serde_json::Value::from(text).to_string());
    [&body[..from], text.as_bytes(), &body[to..]].concat().into()
}

/// Sets `include_usage` inside the `stream_options` that are there.
fn usage_option(body: &Bytes, options: &RawValue) -> Option<Splice> {
    let set = Members::of(options).and_then(|o| o.raw("include_usage")).is_some_and(|v| v.get() == "true");
    (!set).then(|| inside(body, options, "include_usage", "true"))
}

/// Sets a member of an object that is there; of what is no object it makes one.
fn inside(body: &Bytes, object: &RawValue, name: &str, json: &str) -> Splice {
    let Some(members) = Members::of(object) else {
        return over(body, object, format!("{{\"{name}\":{json}}}"));
    };
    if let Some(value) = members.raw(name) {
        return over(body, value, json.to_owned());
    }
    let end = offset(body, object) + object.get().len() - 1;
    let comma = if members.list.is_empty() { "" } else { "," };
    Splice { from: end, to: end, text: format!("{comma}\"{name}\":{json}") }
}

fn over(body: &Bytes, value: &RawValue, text: String) -> Splice {
    let from = offset(body, value);
    Splice { from, to: from + value.get().len(), text }
}

/// Where a borrowed value stands in the body it was borrowed from.
fn offset(body: &Bytes, value: &RawValue) -> usize {
    value.get().as_ptr() as usize - body.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edited(body: &str, usage: bool, cap: Option<(&str, u64)>) -> String {
        String::from_utf8(edit(&Bytes::copy_from_slice(body.as_bytes()), usage, cap).to_vec()).unwrap()
    }

    #[test]
    fn an_edit_changes_nothing_but_what_it_says() {
        let usage = r#""stream_options":{"include_usage":true}"#;
        assert_eq!(edited("{}", true, None), format!("{{{usage}}}"));
        assert_eq!(edited(" {\"a\" : 1 }\n", true, None), format!(" {{\"a\" : 1 ,{usage}}}\n"));
        for (body, want) in [
            (r#"{"stream_options":{}}"#, r#"{"stream_options":{"include_usage":true}}"#),
            (r#"{"stream_options":null,"b":2}"#, r#"{"stream_options":{"include_usage":true},"b":2}"#),
            (
                r#"{"stream_options":{"x":{"include_usage":1} }}"#,
                r#"{"stream_options":{"x":{"include_usage":1} ,"include_usage":true}}"#,
            ),
            (r#"{"stream_options":{"include_usage": false}}"#, r#"{"stream_options":{"include_usage": true}}"#),
            (r#"{"stream_options":{"include_usage":true}}"#, r#"{"stream_options":{"include_usage":true}}"#),
            (r#"{"stream\u005foptions":{}}"#, r#"{"stream\u005foptions":{"include_usage":true}}"#),
        ] {
            assert_eq!(edited(body, true, None), want);
        }
        let nested = r#"{"messages":[{"stream_options":{},"max_tokens":7}],"s":"\"max_tokens\":1}"}"#;
        let want = format!("{},\"max_tokens\":99}}", &nested[..nested.len() - 1]);
        assert_eq!(edited(nested, false, Some(("max_tokens", 99))), want);
        assert_eq!(
            edited(r#"{"max_tokens": 500,"n":1}"#, false, Some(("max_tokens", 9))),
            r#"{"max_tokens": 9,"n":1}"#
        );
        for (body, want) in [
            (r#"{"a":1}"#, r#"{"a":1,"config":{"most":9}}"#),
            (r#"{"config":{ "x":2 },"a":1}"#, r#"{"config":{ "x":2 ,"most":9},"a":1}"#),
            (r#"{"config":{"most":500,"x":{"most":1}}}"#, r#"{"config":{"most":9,"x":{"most":1}}}"#),
            (r#"{"config":null}"#, r#"{"config":{"most":9}}"#),
        ] {
            assert_eq!(edited(body, false, Some(("config.most", 9))), want);
        }
        assert_eq!(edited("not json", true, Some(("n", 1))), "not json");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_name() {
        let error = |body: &[u8]| Members::of_body(body, &["model"]).unwrap_err().0;
        assert!(error(b"").contains("empty"));
        assert!(error(b"[1]").contains("not a JSON object"));
        assert!(error(b"{\"a\":").contains("not a JSON object"));
        assert!(error(b"{\"a\":\"\xff\"}").contains("not UTF-8"));
        assert!(error(br#"{"model":"a","mod\u0065l":"b"}"#).contains("given twice"));
        let members = Members::of_body(br#"{"model":7,"n":-1}"#, &[]).unwrap();
        assert_eq!(members.text("model").unwrap_err().0, "`model` is 7, but has to be a string");
        assert!(members.count("n").is_err());
    }

    proptest! {
        #[test]
        fn taking_the_insertion_out_gives_the_body_back(
            names in proptest::collection::vec("[a-z_]{1,12}", 0..5), space in "[ \n\t]{0,3}", value in "[a-z\"\\\\é{}]{0,12}",
        ) {
            let value = serde_json::to_string(&value).unwrap();
            let inside: Vec<String> = names.iter().map(|n| format!("{space}\"x{n}\"{space}:{space}{value}")).collect();
            let body = format!("{space}{{{}{space}}}{space}", inside.join(","));
            let out = edited(&body, true, Some(("max_tokens", 4711)));
            let inserted = r#""stream_options":{"include_usage":true},"max_tokens":4711"#;
            let comma = if names.is_empty() { "" } else { "," };
            prop_assert_eq!(out.replace(&format!("{comma}{inserted}"), ""), body);
            let read: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(&read["max_tokens"], 4711);
        }
    }
}
