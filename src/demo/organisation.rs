//! The sample organisation as a configuration file: the text in `organisation.toml`, with this machine's providers and
//! this data folder's keys added.

use std::fmt::Write as _;

use crate::domain::Environment;
use crate::domain::key::{Secret, SecretKind};

use super::random::Random;
use super::workload::WORKLOADS;

/// The declared part that is the same everywhere.
const DECLARED: &str = include_str!("organisation.toml");

/// A sample key.
pub struct SampleKey {
    pub service: &'static str,
    pub environment: Environment,
    pub secret: Secret,
}

/// One key for each workload. The ids follow from the seed, so that the same demo shows the same names; the secret parts
/// come from `secure`, a CSPRNG, so that nobody who knows the seed has a key to a folder that is later put to real use.
pub fn keys(seed: u64, mut secure: impl FnMut(&mut [u8])) -> Vec<SampleKey> {
    WORKLOADS
        .iter()
        .enumerate()
        .map(|(index, workload)| {
            let mut random = Random::fork(seed, &format!("key/{index}"));
            let mut first = true;
            let secret = Secret::generate(SecretKind::Service, Some(workload.environment), |bytes| {
                secure(bytes);
                if std::mem::take(&mut first) {
                    // The eleven characters of the id; bytes below 248 are taken as they come.
                    bytes.iter_mut().take(11).for_each(|byte| *byte = random.below(248) as u8);
                }
            });
            SampleKey { service: workload.service, environment: workload.environment, secret }
        })
        .collect()
}

/// Where things are.
pub struct Addresses<'a> {
    pub listen: &'a str,
    pub web_listen: &'a str,
    pub data_dir: &'a str,
    pub openai_url: &'a str,
    pub anthropic_url: &'a str,
    /// What the sandbox takes as credential.
    pub provider_key: &'a str,
    pub operator_token: &'a str,
}

/// The whole file. `expires`: the date until which keys hold, per environment.
pub fn configuration(addresses: &Addresses, keys: &[SampleKey], expires: impl Fn(Environment) -> String) -> String {
    let mut text =
        String::from("# Written by `weighbridge demo`: the sandbox and its keys. Nothing here leaves the machine.\n");
    let quoted = |value: &str| serde_json::Value::from(value).to_string();
    let _ = write!(
        text,
        "\n[server]\nlisten = {}\nweb_listen = {}\ndata_dir = {}\noperator_token = {}\n\n",
        quoted(addresses.listen),
        quoted(addresses.web_listen),
        quoted(addresses.data_dir),
        quoted(addresses.operator_token),
    );
    text.push_str(DECLARED);
    for (id, dialect, url, models, price_as) in [
        ("openai", "openai", addresses.openai_url, r#"["gpt-*", "o*", "text-embedding-*", "sandbox-*"]"#, "openai"),
        ("anthropic", "anthropic", addresses.anthropic_url, r#"["claude-*", "sandbox-*"]"#, "anthropic"),
        ("onprem", "openai", addresses.openai_url, r#"["llama-*", "qwen*"]"#, "onprem"),
    ] {
        let _ = write!(
            text,
            "\n[[provider]]\nid = \"{id}\"\ndialect = \"{dialect}\"\nbase_url = {}\napi_key = {}\ninternal = true\n\
             models = {models}\nprice_as = \"{price_as}\"\n",
            quoted(url),
            quoted(addresses.provider_key),
        );
    }
    for key in keys {
        let _ = write!(
            text,
            "\n[[key]]\nservice = \"{}\"\nenvironment = \"{}\"\nsecret = \"{}\"\nexpires = \"{}\"\n",
            key.service,
            key.environment,
            key.secret.expose(),
            expires(key.environment),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_seed_and_secrets_do_not() {
        let make = |seed, byte: u8| keys(seed, |bytes| bytes.fill(byte));
        let (a, b, other) = (make(1, 7), make(1, 9), make(2, 7));
        for ((a, b), other) in a.iter().zip(&b).zip(&other) {
            assert_eq!(a.secret.id(), b.secret.id());
            assert_ne!(a.secret.expose(), b.secret.expose());
            assert_ne!(a.secret.id(), other.secret.id());
            assert_eq!(a.secret.environment(), Some(a.environment));
        }
    }

    #[test]
    fn the_file_is_toml_and_every_workload_has_its_service() {
        let addresses = Addresses {
            listen: "127.0.0.1:0",
            web_listen: "127.0.0.1:0",
            data_dir: "data",
            openai_url: "http://127.0.0.1:9/v1",
            anthropic_url: "http://127.0.0.1:9",
            provider_key: "sandbox",
            operator_token: "token-of-the-test",
        };
        let text = configuration(&addresses, &keys(1, |bytes| bytes.fill(3)), |_| "2027-01-31".into());
        let file: toml::Table = text.parse().unwrap();
        let services: Vec<&str> =
            file["service"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        for workload in WORKLOADS {
            assert!(services.contains(&workload.service), "{} is not declared", workload.service);
            let declared =
                file["service"].as_array().unwrap().iter().find(|s| s["id"].as_str() == Some(workload.service));
            let fields = declared.unwrap()["caller_fields"].to_string();
            assert!(workload.workflows.is_empty() || fields.contains("workflow"), "{}", workload.service);
            assert!(workload.steps == 1 || fields.contains("run"), "{}", workload.service);
        }
        assert_eq!(file["key"].as_array().unwrap().len(), WORKLOADS.len());
    }
}
