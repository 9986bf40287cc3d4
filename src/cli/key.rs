//! `key`: virtual keys.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::domain::Environment;
use crate::domain::key::SecretKind;
use crate::store::new_secret;

use super::client::{self, Reach};
use super::{Outcome, noun};

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Kept(noun::Verb),
    /// Make a key's successor; its secret is shown this once, and both work until the overlap ends
    Rotate {
        id: String,
        /// How long both work, in hours: 0 to 720
        #[arg(long, default_value_t = 24)]
        overlap_hours: u16,
        #[arg(long)]
        json: bool,
    },
    /// Print a well-formed key for `secret` of a `[[key]]`; nothing is stored
    Generate {
        /// prod, pilot, test or exploratory: what the key is for
        #[arg(long, value_parser = environment)]
        environment: Environment,
    },
}

fn environment(name: &str) -> Result<Environment, String> {
    Environment::from_name(name).ok_or_else(|| "use prod, pilot, test or exploratory".to_owned())
}

impl Command {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Kept(verb) => noun::Command { reach: self.reach, verb }.run(&noun::KEYS),
            Verb::Rotate { id, overlap_hours, json } => client::with(&self.reach, async move |client| {
                let body = serde_json::json!({ "overlap_s": u32::from(overlap_hours) * 3_600 });
                let path = format!("/keys/{}/rotate", client::escaped(&id));
                noun::show(&client.json(http::Method::POST, &path, Some(body)).await?, json)
            }),
            Verb::Generate { environment } => {
                let secret = new_secret(SecretKind::Service, Some(environment))?;
                writeln!(std::io::stdout(), "{}", secret.expose())?;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::Secret;

    #[test]
    fn a_generated_key_says_its_environment_and_no_two_are_equal() {
        for environment in Environment::ALL {
            let made = || new_secret(SecretKind::Service, Some(environment)).unwrap();
            let (a, b) = (made(), made());
            assert_eq!(Secret::parse(a.expose()).unwrap().environment(), Some(environment));
            assert_ne!(a.expose(), b.expose());
        }
    }
}
