//! `weighbridge.toml` → [`Config`], checked whole before anything is opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::domain::catalogue::Notify;
use crate::domain::key::Secret;
use crate::domain::{Budget, Environment, Micros, Organisation, Owner, Policy, PriceOverride, Provider, Service};

/// The whole file.
pub struct Config {
    pub server: Server,
    pub declared: Declared,
}

/// `[server]`: read at start.
pub struct Server {
    pub listen: SocketAddr,
    pub web_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub operator_token: Option<SecretString>,
    pub relaxed: bool,
    pub tls: Option<Tls>,
    /// Largest request body in bytes (default 32 MiB), after decompression twice that.
    pub max_body_bytes: u64,
    /// Most calls under way at once (default 20,000, less where descriptors do not suffice).
    pub max_concurrent: u32,
}

/// `[server.tls]`: PEM files.
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Everything else: declared state, as `apply` brings it about.
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
    pub notify: Vec<Notify>,
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
}

/// What is wrong with a file: every problem with file, line, key and, for unknown keys, the nearest known one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Reads and checks a file; resolves secrets from environment and files.
    pub fn load(_path: &Path) -> Result<Config, ConfigError> {
        unimplemented!()
    }
}
