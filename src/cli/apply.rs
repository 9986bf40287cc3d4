//! `apply`: bring the declared state of a data folder to what a file says.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::hmac;
use clap::Args;
use serde_json::json;

use super::{Failure, Outcome};
use crate::config::Config;
use crate::control::{self, Applied, By, ControlError, Plan};
use crate::domain::Catalogue;
use crate::store::clock::SystemClock;
use crate::store::{Clock, Durability, Ledger, Options};

#[derive(Debug, Args)]
pub struct Command {
    /// A configuration file: its `[server]` section is not applied, everything else is
    file: PathBuf,
    /// Print the difference and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove what the file does not mention; without it that is listed and left alone
    #[arg(long)]
    prune: bool,
    /// The data folder; default: the file's `data_dir`. A running server applies its own file on SIGHUP instead
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the difference as JSON
    #[arg(long)]
    json: bool,
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        match error {
            ControlError::Store(error) => Failure::unreachable(error),
            other => Failure::config(other),
        }
    }
}

impl Command {
    pub fn run(self) -> Outcome {
        let config = Config::load(&self.file)?;
        for warning in &config.warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
        let folder = self.data.clone().unwrap_or_else(|| config.server.data_dir.clone());
        if self.dry_run && !folder.exists() {
            // Nothing is there yet: everything is new, and nothing is made for a look.
            let pepper = hmac::Key::new(hmac::HMAC_SHA256, &[]);
            let now = SystemClock.now();
            let plan = control::plan(&Catalogue::default(), &config.declared, &pepper, now, self.prune)?;
            return self.print(&plan, None);
        }
        let clock = Arc::new(SystemClock);
        let by = By::new("file", clock.now());
        let runtime = super::runtime()?;
        let ledger = Ledger::open(&folder, Options { durability: Durability::Strict, clock })?;
        let done = self.bring(&config, &ledger, &by, &runtime);
        let closed = runtime.block_on(ledger.close());
        done.and(closed.map_err(Failure::from))
    }

    fn bring(&self, config: &Config, ledger: &Ledger, by: &By, runtime: &tokio::runtime::Runtime) -> Outcome {
        let plan = control::plan(&ledger.catalogue(), &config.declared, ledger.pepper(), by.at, self.prune)?;
        for warning in &plan.warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
        let (lines, not_in_file) = (plan.lines.clone(), plan.not_in_file.clone());
        if self.dry_run {
            return self.print(&plan, None);
        }
        let mut shown = Plan::default();
        (shown.lines, shown.not_in_file) = (lines, not_in_file);
        let applied = runtime.block_on(control::apply(ledger, by, plan))?;
        self.print(&shown, Some(&applied))
    }

    fn print(&self, plan: &Plan, applied: Option<&Applied>) -> Outcome {
        let mut out = std::io::stdout().lock();
        let sealed = applied.map(|a| a.sealed.as_slice()).unwrap_or_default();
        if self.json {
            let answer = json!({
                "changes": plan.lines, "not_in_file": plan.not_in_file, "applied": applied.is_some(),
                "credentials_sealed": sealed, "revision": applied.map(|a| a.revision),
            });
            writeln!(out, "{answer:#}")?;
            return Ok(());
        }
        for line in &plan.lines {
            writeln!(out, "{line}")?;
        }
        for provider in sealed {
            writeln!(out, "~ provider {provider}: credential")?;
        }
        for other in &plan.not_in_file {
            writeln!(out, "  not in the file, left alone: {other}")?;
        }
        match (applied, plan.lines.is_empty()) {
            (None, true) => writeln!(out, "nothing would change")?,
            (None, false) => writeln!(out, "{} would change; nothing was done", plan.lines.len())?,
            (Some(a), _) if a.nothing_changed() => writeln!(out, "nothing changed: everything is as the file says")?,
            (Some(a), _) => writeln!(out, "applied: catalogue revision {}", a.revision)?,
        }
        Ok(())
    }
}
