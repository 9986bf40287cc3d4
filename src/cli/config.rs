//! `config`: check a configuration file, print the commented default, print the JSON schema.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Outcome;
use crate::config::{Config, DEFAULT};

#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a file, secrets included; exit code 64 and every problem with its line if it is wrong
    Check { file: PathBuf },
    /// Print the default configuration, commented: the manual of every setting
    Default,
    /// Print the JSON schema of the file
    Schema,
}

impl Command {
    pub fn run(self) -> Outcome {
        let mut out = std::io::stdout().lock();
        match self.verb {
            Verb::Check { file } => {
                let config = Config::load(&file)?;
                for warning in &config.warnings {
                    writeln!(std::io::stderr(), "warning: {warning}")?;
                }
                let d = &config.declared;
                let counts = [
                    (d.providers.len(), "provider"),
                    (d.services.len(), "service"),
                    (d.keys.len(), "key"),
                    (d.budgets.len(), "budget"),
                    (d.policies.len(), "policy"),
                    (d.prices.len(), "price"),
                ];
                let counts: Vec<String> = counts.iter().map(|(n, noun)| counted(*n, noun)).collect();
                writeln!(out, "{} is good: {}", file.display(), counts.join(", "))?;
            }
            Verb::Default => out.write_all(DEFAULT.as_bytes())?,
            Verb::Schema => {
                let schema = serde_json::to_string_pretty(&Config::schema()).map_err(anyhow::Error::from)?;
                writeln!(out, "{schema}")?;
            }
        }
        Ok(())
    }
}

fn counted(n: usize, noun: &str) -> String {
    match (n, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "policy") => format!("{n} policies"),
        _ => format!("{n} {noun}s"),
    }
}
