//! `ledger`: the journal as evidence: checkpoints, proofs, and their verification by who holds a key and nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::client::{self, Reach, escaped};
use super::{Failure, Outcome, print_json};
use crate::ledger::codec::describe;
use crate::ledger::note::{Checkpoint, Note};
use crate::ledger::proof::{self, Fault, Finding, Proof, Proven};
use crate::ledger::trust::Policy;
use crate::store::verify::{Asked, Verdict, Verification, verify_with};

/// Largest proof file read, in bytes.
const MOST_BYTES: u64 = 256 << 20;

#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a proof file, or replay a whole journal and compare it with everything derived from it
    ///
    /// Exit codes: 0 verified, 1 something is not what it was, 2 something cannot be read, 3 a signature is not one the
    /// policy believes, 4 groups are erased or held back (with --strict-disclosure), 5 it does not continue the
    /// checkpoint named with --since (a fork or a rollback), 69 the folder cannot be opened
    Verify {
        /// A file of `ledger proof`; needs no network, no data folder and no clock
        #[arg(required_unless_present = "data")]
        proof: Option<PathBuf>,
        /// The data folder; a server may be running on it
        #[arg(long, env = "WEIGHBRIDGE_DATA")]
        data: Option<PathBuf>,
        /// Whose signatures are believed, as `ledger policy` prints it (C2SP tlog-policy)
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// A checkpoint kept from before: the log must continue it
        #[arg(long, value_name = "CHECKPOINT")]
        since: Option<PathBuf>,
        /// Groups that are erased or held back are a finding too
        #[arg(long)]
        strict_disclosure: bool,
        /// Print what was found as JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign where the journal stands now; keep what this prints somewhere else
    Checkpoint {
        #[command(flatten)]
        reach: Reach,
        /// With size and root apart
        #[arg(long)]
        json: bool,
    },
    /// The policy file that verifies this ledger's checkpoints
    Policy {
        #[command(flatten)]
        reach: Reach,
    },
    /// Prove the entries of one call, one `.tlog-proof` after the other
    Proof {
        call: String,
        #[command(flatten)]
        reach: Reach,
        /// A checkpoint that the receiver has: the proofs show that they continue it
        #[arg(long, value_name = "CHECKPOINT")]
        since: Option<PathBuf>,
    },
    /// Make another signing key; one checkpoint is signed by both
    RotateKey {
        #[command(flatten)]
        reach: Reach,
        /// Why; goes on record
        #[arg(long)]
        reason: String,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Verify { proof: Some(file), policy, since, strict_disclosure, json, .. } => {
                verify_proofs(&file, policy.as_deref(), since.as_deref(), strict_disclosure, json)
            }
            Verb::Verify { proof: None, data, policy, since, strict_disclosure, json } => {
                let data = data.ok_or_else(|| Failure::usage("name a proof, or a folder with --data"))?;
                let asked = asked(policy.as_deref(), since.as_deref());
                let asked = Asked { strict_disclosure, ..asked.map_err(|finding| told(&finding))? };
                verify_folder(&data, &asked, json)
            }
            Verb::Checkpoint { reach, json } => client::with(&reach, async |client| match json {
                true => print_json(&client.json(Method::GET, "/ledger/checkpoint", None).await?),
                false => client.print_as("/ledger/checkpoint", "text/plain").await,
            }),
            Verb::Policy { reach } => client::with(&reach, async |client| {
                let head = client.json(Method::GET, "/ledger/checkpoint", None).await?;
                let vkey = head["vkey"].as_str();
                let vkey =
                    vkey.ok_or_else(|| Failure::no("nothing is signed yet: `ledger checkpoint` begins with it"))?;
                Ok(write!(std::io::stdout(), "log {vkey}\nquorum none\n")?)
            }),
            Verb::Proof { call, reach, since } => {
                let since = since.map(|file| read_checkpoint(&file)).transpose().map_err(|f| told(&f))?;
                let since = since.map_or_else(String::new, |(_, since)| format!("?since={}", since.size));
                let path = format!("/ledger/proof/{}{since}", escaped(&call));
                client::with(&reach, async move |client| client.print_as(&path, "text/plain").await)
            }
            Verb::RotateKey { reach, reason } => client::with(&reach, async move |client| {
                let body = Some(json!({ "reason": reason }));
                print_json(&client.json(Method::POST, "/ledger/rotate-key", body).await?)
            }),
        }
    }
}

fn told(finding: &Finding) -> Failure {
    Failure { message: finding.what.clone(), code: finding.fault as u8 }
}

/// The finding was printed; the exit code says the rest.
fn code(code: u8) -> Outcome {
    if code == 0 { Ok(()) } else { Err(Failure { message: String::new(), code }) }
}

fn read(file: &Path) -> Result<String, Finding> {
    let malformed = |what: String| Finding::new(Fault::Malformed, format!("`{}`: {what}", file.display()));
    let length = std::fs::metadata(file).map_err(|e| malformed(e.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(malformed(format!("{length} bytes are more than 256 MiB")));
    }
    std::fs::read_to_string(file).map_err(|e| malformed(e.to_string()))
}

fn read_checkpoint(file: &Path) -> Result<(Note, Checkpoint), Finding> {
    let malformed = |e: &dyn std::fmt::Display| Finding::new(Fault::Malformed, format!("`{}`: {e}", file.display()));
    let note = Note::parse(&read(file)?).map_err(|e| malformed(&e))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|e| malformed(&e))?;
    Ok((note, checkpoint))
}

/// Policy and older checkpoint; the checkpoint is believed only if the policy believes it.
fn asked(policy: Option<&Path>, since: Option<&Path>) -> Result<Asked, Finding> {
    let policy = policy.map(|file| Ok::<_, Finding>(Policy::parse(&read(file)?)?)).transpose()?;
    let since = since.map(read_checkpoint).transpose()?;
    if let (Some(policy), Some((note, _))) = (&policy, &since) {
        policy.check(note)?;
    }
    Ok(Asked { policy, since: since.map(|(_, checkpoint)| checkpoint), strict_disclosure: false })
}

fn verify_proofs(file: &Path, policy: Option<&Path>, since: Option<&Path>, strict: bool, json: bool) -> Outcome {
    let found = asked(policy, since).and_then(|asked| {
        let policy = asked.policy.ok_or_else(|| Finding::new(Fault::Malformed, "say whom to believe with --policy"))?;
        let mut proven = Vec::new();
        for proof in Proof::parse_all(&read(file)?)? {
            proven.push(proof::verify(&proof, &policy, asked.since.as_ref())?);
        }
        let closed = proven.iter().find(|p| !p.undisclosed.is_empty());
        match closed.filter(|_| strict) {
            Some(p) => {
                let what = format!("entry {} does not show its groups {:?}", p.leaf.seq, p.undisclosed);
                Err(Finding::new(Fault::Undisclosed, what))
            }
            None => Ok(proven),
        }
    });
    let mut out = std::io::stdout().lock();
    match (&found, json) {
        (Ok(proven), false) => {
            writeln!(out, "verified")?;
            proven.iter().try_for_each(|p| print_proven(&mut out, p))?;
        }
        (Err(finding), false) => writeln!(out, "{}\n  {finding}", heading(finding.fault))?,
        (Ok(proven), true) => {
            let entries: Vec<_> = proven.iter().map(|p| p.entry.as_ref().map(describe)).collect();
            let checkpoint =
                proven.first().map(|p| json!({ "origin": p.checkpoint.origin, "size": p.checkpoint.size }));
            writeln!(out, "{:#}", json!({ "verdict": "verified", "checkpoint": checkpoint, "entries": entries }))?;
        }
        (Err(finding), true) => {
            writeln!(out, "{:#}", json!({ "verdict": finding.fault, "finding": finding.what }))?;
        }
    }
    code(found.err().map_or(0, |finding| finding.fault as u8))
}

fn heading(fault: Fault) -> &'static str {
    match fault {
        Fault::Mismatch => "MISMATCH",
        Fault::Malformed => "MALFORMED",
        Fault::Unsigned => "NOT BELIEVED",
        Fault::Undisclosed => "NOT DISCLOSED",
        Fault::Forked => "FORK OR ROLLBACK",
    }
}

fn print_proven(out: &mut impl Write, proven: &Proven) -> std::io::Result<()> {
    let Checkpoint { origin, size, .. } = &proven.checkpoint;
    writeln!(out, "  entry {} of {size}, signed by {origin}", proven.leaf.seq)?;
    match proven.entry.as_ref().map(describe) {
        Some(entry) => writeln!(out, "    {} at {}\n    {}", entry["kind"], entry["ts"], entry["body"])?,
        None => writeln!(out, "    at {}; its contents are not disclosed", proven.leaf.ts)?,
    }
    if proven.undisclosed.is_empty() { Ok(()) } else { writeln!(out, "    not shown  groups {:?}", proven.undisclosed) }
}

fn verify_folder(data: &Path, asked: &Asked, json: bool) -> Outcome {
    let found = verify_with(data, asked)?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &found).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &found)?;
    }
    code(found.verdict as u8)
}
fn print(out: &mut impl Write, found: &Verification) -> std::io::Result<()> {
    let verdict = match found.verdict {
        Verdict::Verified => "verified",
        Verdict::Mismatch => heading(Fault::Mismatch),
        Verdict::Malformed => heading(Fault::Malformed),
        Verdict::Unsigned => heading(Fault::Unsigned),
        Verdict::Undisclosed => heading(Fault::Undisclosed),
        Verdict::Forked => heading(Fault::Forked),
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
        "  compared       {} tiles, {} snapshots, {} checkpoints, {} lines of head.log",
        found.tiles, found.snapshots, found.checkpoints, found.head_log_lines
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
