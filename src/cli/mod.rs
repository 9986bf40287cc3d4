//! The command line: noun, then verb. One file per noun; a noun is a clap `Command` with a `run` that ends in [`Failure`]
//! or nothing.
//!
//! Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 64 wrong configuration, 69 cannot reach or open.

pub mod alert;
pub mod apply;
pub mod backup;
pub mod budget;
pub mod calls;
pub mod client;
pub mod config;
pub mod demo;
pub mod doctor;
mod filters;
pub mod key;
pub mod ledger;
pub mod noun;
pub mod operator;
pub mod pause;
mod policy;
pub mod price;
pub mod report;
pub mod serve;
mod table;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::store::StoreError;
use crate::store::backup::BackupError;

/// Weighs every call to a language model at the gate: who made it, for whom, what it may cost, what it did cost
#[derive(Debug, Parser)]
#[command(name = "weighbridge", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Run the appliance
    Serve(serve::Command),
    /// Bring catalogue, budgets, policies and prices to what a file says; never touches usage
    Apply(apply::Command),
    /// The configuration file
    Config(config::Command),
    /// The metered calls, and the receipt of one
    Calls(calls::Command),
    /// What was spent
    Report(report::Command),
    /// Software that calls models
    Service(noun::Command),
    /// People and teams that answer for services
    Owner(noun::Command),
    /// Virtual keys
    Key(key::Command),
    /// Limits, and what they have left
    Budget(budget::Command),
    /// What may be called
    Policy(policy::Command),
    /// Where calls go
    Provider(noun::Command),
    /// Prices over the shipped book, and what a usage costs
    Price(price::Command),
    /// Whose workload tokens are believed
    Issuer(noun::Command),
    /// Stop a key, service, agent, model or provider at once, until a set time
    Pause(pause::Pause),
    /// Let what was paused call again
    Resume(pause::Resume),
    /// What was told, to whom, and whether somebody saw it
    Alert(alert::Command),
    /// Where alerts go, and a test of it
    Notify(alert::Notify),
    /// Who may sign in, and their tokens
    Operator(operator::Command),
    /// The journal as evidence
    Ledger(ledger::Command),
    /// Write everything but the root key to one file, while calls go on
    Backup(backup::Backup),
    /// Make a data folder of a backup, as a new epoch
    Restore(backup::Restore),
    /// Look at everything that goes wrong first, each with the way out
    Doctor(doctor::Command),
    /// The appliance at work with everything built in; nothing leaves the machine
    Demo(demo::Command),
}

/// Why a command did not do what was asked: the words for standard error and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

/// How a command ends.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// The answer is no: a check found something.
    pub fn no(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), code: 1 }
    }

    /// The command was used wrongly in a way clap cannot see.
    pub fn usage(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), code: 2 }
    }

    /// The configuration is wrong.
    pub fn config(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), code: 64 }
    }

    /// A file, a folder or a server cannot be reached or opened.
    pub fn unreachable(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), code: 69 }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::config(error)
    }
}
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::unreachable(error)
    }
}
/// A backup that does not verify is an answer; one that was asked for in a wrong way is not.
impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        match error {
            BackupError::Unsound(_) => Failure::no(error),
            BackupError::Refused(_) => Failure::usage(error),
            BackupError::Failed(_) | BackupError::Store(_) => Failure::unreachable(error),
        }
    }
}
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::unreachable(format!("{error:#}"))
    }
}
/// A pipe that was closed (`| head`) is no failure of ours, and nobody is left to read about it.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure { message: String::new(), code: 0 },
            _ => Failure::unreachable(error),
        }
    }
}

/// Reads the command line, does it, says in one line what went wrong if something did.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().noun {
        Noun::Serve(command) => command.run(),
        Noun::Apply(command) => command.run(),
        Noun::Config(command) => command.run(),
        Noun::Calls(command) => command.run(),
        Noun::Report(command) => command.run(),
        Noun::Service(command) => command.run(&noun::SERVICES),
        Noun::Owner(command) => command.run(&noun::OWNERS),
        Noun::Key(command) => command.run(),
        Noun::Budget(command) => command.run(),
        Noun::Policy(command) => command.run(),
        Noun::Provider(command) => command.run(&noun::PROVIDERS),
        Noun::Price(command) => command.run(),
        Noun::Issuer(command) => command.run(&noun::ISSUERS),
        Noun::Pause(command) => command.run(),
        Noun::Resume(command) => command.run(),
        Noun::Alert(command) => command.run(),
        Noun::Notify(command) => command.run(),
        Noun::Operator(command) => command.run(),
        Noun::Ledger(command) => command.run(),
        Noun::Backup(command) => command.run(),
        Noun::Restore(command) => command.run(),
        Noun::Doctor(command) => command.run(),
        Noun::Demo(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // Nothing is left to do if even standard error is gone.
                let _ = writeln!(std::io::stderr(), "weighbridge: {}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// An answer as JSON, for people and programs alike.
fn print_json(value: &serde_json::Value) -> Outcome {
    writeln!(std::io::stdout(), "{value:#}")?;
    Ok(())
}

/// A runtime for commands that speak to the ledger or to a server; `serve` and `demo` build their own.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
