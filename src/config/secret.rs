//! A secret in the file: a literal, or `{ env = "NAME" }`, or `{ file = "PATH" }`. Never prints.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::Surroundings;

/// Where a secret is.
pub enum SecretSource {
    Literal(SecretString),
    Env(String),
    File(String),
}

impl SecretSource {
    /// The secret itself, without the line end a file has. `folder` is the configuration file's.
    pub(super) fn resolve(self, folder: &Path, surroundings: &dyn Surroundings) -> Result<SecretString, String> {
        let text = match self {
            SecretSource::Literal(secret) => return Ok(secret),
            SecretSource::Env(name) => {
                surroundings.env(&name).ok_or_else(|| format!("environment variable `{name}` is not set: set it"))?
            }
            SecretSource::File(path) => surroundings
                .file(&folder.join(&path))
                .map_err(|e| format!("file `{path}` cannot be read ({e}): make it readable for this user"))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err("the secret is empty: give it a value, or remove the key".to_owned());
        }
        Ok(SecretString::from(text))
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SecretSource, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = SecretSource;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#"a secret: { env = "NAME" }, { file = "PATH" } or a text"#)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretSource, E> {
                match text {
                    "" => Err(E::custom("the secret is empty: give it a value, or remove the key")),
                    _ => Ok(SecretSource::Literal(SecretString::from(text))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
                let mut source = None;
                let mut keys = 0;
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    keys += 1;
                    source = match &*key {
                        "env" => Some(SecretSource::Env(value)),
                        "file" => Some(SecretSource::File(value)),
                        _ => source,
                    };
                }
                source.filter(|_| keys == 1).ok_or_else(|| {
                    serde::de::Error::custom(r#"a secret is { env = "NAME" } or { file = "PATH" }, one of them"#)
                })
            }
        }
        d.deserialize_any(Form)
    }
}

impl JsonSchema for SecretSource {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: from the environment, from a file, or as it is",
            "anyOf": [
                { "type": "object", "properties": { "env": { "type": "string" } }, "required": ["env"], "additionalProperties": false },
                { "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false },
                { "type": "string", "minLength": 1 }
            ]
        })
    }
}
