//! `key`: virtual keys.

use std::io::Write;

use clap::{Args, Subcommand};

use super::client::Reach;
use super::{Failure, Outcome, noun};
use crate::domain::Environment;
use crate::domain::key::{Secret, SecretKind};

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
            Verb::Generate { environment } => {
                let secret = generate(environment)?;
                writeln!(std::io::stdout(), "{}", secret.expose())?;
                Ok(())
            }
        }
    }
}

/// A new service key from the operating system's randomness.
fn generate(environment: Environment) -> Result<Secret, Failure> {
    let mut failed = false;
    let secret = Secret::generate(SecretKind::Service, Some(environment), |bytes| {
        failed |= aws_lc_rs::rand::fill(bytes).is_err();
    });
    if failed {
        return Err(Failure::unreachable("the operating system gave no randomness: no key was made"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_says_its_environment_and_no_two_are_equal() {
        for environment in Environment::ALL {
            let (a, b) = (generate(environment).unwrap(), generate(environment).unwrap());
            assert_eq!(Secret::parse(a.expose()).unwrap().environment(), Some(environment));
            assert_ne!(a.expose(), b.expose());
        }
    }
}
