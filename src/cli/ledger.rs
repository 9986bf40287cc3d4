//! `ledger`: the journal as evidence.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, Outcome};
use crate::store::verify::{Verdict, Verification, verify};

#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Replay the journal from its first entry and compare it with everything derived from it
    ///
    /// Exit codes: 0 verified, 1 something is not what it was, 2 something cannot be read, 69 the folder cannot be opened
    Verify {
        /// The data folder; a server may be running on it
        #[arg(long, env = "WEIGHBRIDGE_DATA")]
        data: PathBuf,
        /// Print what was found as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let Verb::Verify { data, json } = self.verb;
        let found = verify(&data)?;
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, &found).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            print(&mut out, &found)?;
        }
        // The finding was printed; the exit code says the rest.
        match found.verdict {
            Verdict::Verified => Ok(()),
            Verdict::Mismatch => Err(Failure { message: String::new(), code: 1 }),
            Verdict::Malformed => Err(Failure { message: String::new(), code: 2 }),
        }
    }
}

fn print(out: &mut impl Write, found: &Verification) -> std::io::Result<()> {
    let verdict = match found.verdict {
        Verdict::Verified => "verified",
        Verdict::Mismatch => "MISMATCH",
        Verdict::Malformed => "MALFORMED",
    };
    writeln!(out, "{verdict}")?;
    if let Some(finding) = &found.finding {
        match found.entry {
            Some(entry) => writeln!(out, "  at entry {entry}: {finding}")?,
            None => writeln!(out, "  {finding}")?,
        }
    }
    writeln!(out, "  entries        {} from {}, epoch {}", found.size - found.first, found.first, found.epoch)?;
    if !found.root.is_empty() {
        writeln!(out, "  root           {}", found.root)?;
    }
    if let Some(at) = found.last_at {
        writeln!(out, "  last entry at  {at}")?;
    }
    writeln!(
        out,
        "  compared       {} tiles, {} snapshots, {} lines of head.log",
        found.tiles, found.snapshots, found.head_log_lines
    )?;
    writeln!(out, "  open calls     {}", found.open_calls)?;
    if let (Some(calls), Some(cost)) = (found.calls, found.cost_usd) {
        writeln!(out, "  views          {calls} calls, {cost} USD, as a rebuild gives them")?;
    }
    if found.groups_not_checked > 0 {
        writeln!(out, "  not checked    {} erased or sealed groups", found.groups_not_checked)?;
    }
    found.notes.iter().try_for_each(|note| writeln!(out, "  note           {note}"))
}
