//! `weighbridge.toml` → [`Config`], checked whole before anything is opened.
//!
//! Reading goes in three steps: `shape` finds keys that nobody knows or that this version does not enforce, serde reads each
//! section of `file`, `read` turns sections into nouns and asks `rules` about each. Problems are collected, not thrown: one
//! run names all of them. Nothing in a file is ignored in silence: what has no effect yet is an error or a warning.

pub mod channel;
mod convert;
pub mod file;
mod known;
mod near;
mod read;
pub mod rules;
mod secret;
mod shape;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

pub use channel::Address;
pub use convert::{Noun, Read, instant};
pub use known::Known;
pub use secret::SecretSource;

use crate::domain::Notify;
use crate::domain::key::Secret;
use crate::domain::trust::Issuer;
use crate::domain::{Budget, Environment, Micros, Organisation, Owner, Policy, PriceOverride, Provider, Service};

/// The commented default: what `config default` prints, and what holds where no file is given.
pub const DEFAULT: &str = include_str!("../../packaging/weighbridge.toml");

/// The whole file.
pub struct Config {
    pub server: Server,
    pub declared: Declared,
    /// What is allowed but deserves a look, each naming file and line.
    pub warnings: Vec<String>,
}

/// `[server]`: read at start.
pub struct Server {
    pub listen: SocketAddr,
    pub web_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub operator_token: Option<SecretString>,
    /// Where people reach the pages, for links in alerts and refusals; absent = the web listener's own address.
    pub public_url: Option<String>,
    pub relaxed: bool,
    pub tls: Option<Tls>,
    /// Largest request body in bytes (default 32 MiB), after decompression twice that.
    pub max_body_bytes: u64,
    /// Most calls under way at once (default 20,000, less where descriptors do not suffice).
    pub max_concurrent: u32,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8700)),
            web_listen: SocketAddr::from(([127, 0, 0, 1], 8701)),
            data_dir: PathBuf::from("./weighbridge-data"),
            operator_token: None,
            public_url: None,
            relaxed: false,
            tls: None,
            max_body_bytes: 32 << 20,
            max_concurrent: 20_000,
        }
    }
}

/// `[server.tls]`: PEM files.
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Everything else: declared state, as `apply` brings it about. What a file leaves to the organisation's settings stays
/// open here and is filled in by `apply`: a provider's `price_as` and a budget's `time_zone` are empty, its
/// `fiscal_year_start_month` is 0.
#[derive(Default)]
pub struct Declared {
    pub organisation: Option<Organisation>,
    pub owners: Vec<Owner>,
    pub services: Vec<Service>,
    pub keys: Vec<KeyDeclaration>,
    /// With the credential, where one is given.
    pub providers: Vec<(Provider, Option<SecretString>)>,
    pub policies: Vec<Policy>,
    pub budgets: Vec<Budget>,
    pub prices: Vec<PriceOverride>,
    pub issuers: Vec<Issuer>,
    /// With the address, which is sealed.
    pub notify: Vec<(Notify, Address)>,
}

/// `[[key]]`: a key whose secret the file brings.
pub struct KeyDeclaration {
    pub service: String,
    pub environment: Environment,
    pub secret: Secret,
    /// `None`: the environment's maximum from the first apply; `Some(None)`: `never`.
    pub expires: Option<Option<Micros>>,
    pub allow_models: Option<Vec<String>>,
    pub note: Option<String>,
    pub not_before: Option<Micros>,
    pub allow_cidrs: Option<Vec<ipnet::IpNet>>,
}

/// What is wrong with a file: every problem with file, line, key and, for unknown keys, the nearest known one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where secrets come from that the file only names. Environment and files outside of tests.
pub trait Surroundings {
    fn env(&self, name: &str) -> Option<String>;
    fn file(&self, path: &Path) -> std::io::Result<String>;
}

struct Process;

impl Surroundings for Process {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
    fn file(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

impl Config {
    /// Reads and checks a file; resolves secrets from environment and files (relative to the file's own folder).
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("cannot read configuration `{}`: {e}", path.display())))?;
        Config::parse(path, &text, &Process)
    }

    /// Checks the text of a file.
    pub fn parse(path: &Path, text: &str, surroundings: &dyn Surroundings) -> Result<Config, ConfigError> {
        read::read(path, text, surroundings)
    }

    /// What holds where no file is given: the commented default.
    pub fn default_config() -> Result<Config, ConfigError> {
        Config::parse(Path::new("weighbridge.toml"), DEFAULT, &Process)
    }

    /// The JSON schema of the file (draft 2020-12).
    pub fn schema() -> serde_json::Value {
        shape::schema()
    }
}

/// Whether a key of a section belongs to the interface but is not enforced by this version.
pub fn is_later(section: &str, key: &str) -> bool {
    file::NOT_ENFORCED.iter().any(|(s, keys)| *s == section && keys.contains(&key))
}
