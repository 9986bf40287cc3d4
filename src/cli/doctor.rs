//! `doctor`: what an operator would look at first, each with the way out.
//!
//! It asks a running server, or opens a folder that nobody serves; a folder that does not open is its first finding. What
//! it cannot see it does not judge.

use std::io::Write;
use std::path::Path;

use clap::Args;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::client::{self, Client, Reach};
use super::{Failure, Outcome, print_json};
use crate::domain::Micros;
use crate::store::Clock;
use crate::store::clock::SystemClock;

/// Entries that may wait for the next checkpoint: two of its intervals.
const UNSIGNED: u64 = 8_192;
/// Entries that the views may be behind: what they take in about a second.
const BEHIND: u64 = 20_000;
/// Room on the disk below which somebody should look, and below which it is late, in bytes.
const ROOM: (u64, u64) = (2 << 30, 256 << 20);
/// How far the newest entry may be ahead of this clock, in microseconds: a minute.
const AHEAD: i64 = 60_000_000;

/// Look at everything that goes wrong first; exit code 1 when something is bad
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    reach: Reach,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warn,
    Bad,
}

/// One thing that was looked at; where it is not well, the words have the way out.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    grade: Grade,
    said: String,
}

fn finding(what: &'static str, grade: Grade, said: impl Into<String>) -> Finding {
    Finding { what, grade, said: said.into() }
}

impl Command {
    pub fn run(self) -> Outcome {
        let mut findings = Vec::new();
        if let Some(dir) = self.reach.folder() {
            if !dir.is_dir() {
                return Err(Failure::unreachable(format!("`{}` is no folder", dir.display())));
            }
            findings.extend(root_key(dir));
        }
        let asked = client::with(&self.reach, async |client| {
            findings.extend(ask(client).await?);
            Ok(())
        });
        match (asked, self.reach.folder()) {
            (Err(failure), Some(_)) => findings.push(finding("journal", Grade::Bad, failure.message)),
            (asked, _) => asked?,
        }
        self.print(&findings)
    }

    fn print(&self, findings: &[Finding]) -> Outcome {
        let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
        if self.json {
            print_json(&json!({ "worst": worst, "findings": findings }))?;
        } else {
            let mut out = std::io::stdout().lock();
            for Finding { what, grade, said } in findings {
                let grade = match grade {
                    Grade::Ok => "ok",
                    Grade::Warn => "warn",
                    Grade::Bad => "BAD",
                };
                writeln!(out, "{grade:<5} {what:<12} {said}")?;
            }
        }
        if worst == Grade::Bad { Err(Failure::no("")) } else { Ok(()) }
    }
}

async fn ask(client: &Client) -> Result<Vec<Finding>, Failure> {
    let health = client.json(Method::GET, "/health", None).await?;
    let head = client.json(Method::GET, "/ledger/checkpoint", None).await?;
    let now = SystemClock.now();
    let mut found = vec![writer(&health), clock(&head, now), checkpoint(&head), views(&health), scrub(&health)];
    found.extend([room(&health), head_log(&health), formats(&health)]);
    found.extend(troubles(&health));
    Ok(found)
}

fn room(health: &Value) -> Finding {
    let Some(free) = health["free_bytes"].as_u64() else {
        return finding("room", Grade::Ok, "kept in memory");
    };
    let said = format!("{} MiB are free on the disk of the data folder", free >> 20);
    let way = "make room, or move the folder to a larger disk: on a full one no call is admitted";
    match free {
        free if free < ROOM.1 => finding("room", Grade::Bad, format!("only {said}: {way}")),
        free if free < ROOM.0 => finding("room", Grade::Warn, format!("only {said}: {way}")),
        _ => finding("room", Grade::Ok, said),
    }
}

fn head_log(health: &Value) -> Finding {
    let entries = health["journal_entries"].as_u64().unwrap_or(0);
    match health["head_log"]["entries"].as_u64() {
        Some(noted) => finding("head.log", Grade::Ok, format!("entries up to {noted} are noted beside the journal")),
        None if entries == 0 => finding("head.log", Grade::Ok, "nothing to note yet"),
        None => {
            let said = "no line of it can be read: newer data put back by older would not be noticed; look at the log, \
                        and keep checkpoints elsewhere (`weighbridge ledger checkpoint`)";
            finding("head.log", Grade::Warn, said)
        }
    }
}

fn formats(health: &Value) -> Finding {
    let of = |(file, format): (&String, &Value)| format!("{file} {format}");
    let all: Vec<String> = health["formats"].as_object().into_iter().flatten().map(of).collect();
    finding("formats", Grade::Ok, format!("{}, version {}", all.join(", "), health["version"].as_str().unwrap_or("?")))
}

/// What cannot be written at the moment, each by its name.
fn troubles(health: &Value) -> Vec<Finding> {
    let all = health["troubles"].as_array().into_iter().flatten();
    all.map(|trouble| {
        let (part, why) = (trouble["part"].as_str().unwrap_or("?"), trouble["why"].as_str().unwrap_or("see the log"));
        let grade = if matches!(part, "journal" | "room" | "core") { Grade::Bad } else { Grade::Warn };
        finding("trouble", grade, format!("{part}: {why}"))
    })
    .collect()
}

fn writer(health: &Value) -> Finding {
    let entries = health["journal_entries"].as_u64().unwrap_or(0);
    match health["status"].as_str() {
        Some("ok") => finding("writer", Grade::Ok, format!("{entries} entries, and calls can be recorded")),
        _ => {
            let way = "the journal cannot be written and calls are refused: see the log; make room on the disk, or \
                       make the folder writable again; it goes on by itself";
            finding("writer", Grade::Bad, way)
        }
    }
}

fn clock(head: &Value, now: Micros) -> Finding {
    let newest = head["at"].as_str().and_then(|at| at.parse::<Micros>().ok());
    match newest {
        Some(at) if at.0.saturating_sub(now.0) > AHEAD => {
            let said = format!("this clock says {now} and the newest entry is of {at}: set the clock");
            finding("clock", Grade::Bad, said)
        }
        _ => finding("clock", Grade::Ok, "not behind the newest entry"),
    }
}

fn checkpoint(head: &Value) -> Finding {
    let size = head["size"].as_u64().unwrap_or(0);
    match head["checkpoint"]["size"].as_u64() {
        Some(signed) if size.saturating_sub(signed) <= UNSIGNED => {
            finding("checkpoint", Grade::Ok, format!("{signed} of {size} entries are signed"))
        }
        Some(signed) => {
            let said = format!("only {signed} of {size} entries are signed: the log says why the signer refuses");
            finding("checkpoint", Grade::Warn, said)
        }
        None if size == 0 => finding("checkpoint", Grade::Ok, "nothing to sign yet"),
        None => finding("checkpoint", Grade::Warn, "none was signed yet: `weighbridge ledger checkpoint` signs one"),
    }
}

fn views(health: &Value) -> Finding {
    match health["views_behind"].as_u64().unwrap_or(0) {
        behind if behind <= BEHIND => finding("views", Grade::Ok, format!("{behind} entries behind")),
        behind => {
            let said = format!(
                "{behind} entries behind: they catch up by themselves; if they do not, stop the server and delete views.redb"
            );
            finding("views", Grade::Warn, said)
        }
    }
}

fn scrub(health: &Value) -> Finding {
    let scrub = &health["scrub"];
    match scrub["findings"].as_u64().unwrap_or(0) {
        0 => {
            let (passes, at, of) = (&scrub["passes"], &scrub["at"], &scrub["of"]);
            finding("stored bytes", Grade::Ok, format!("{passes} passes without a finding, now at {at} of {of}"))
        }
        findings => {
            let newest = scrub["newest_finding"].as_str().unwrap_or("see /api/v1/health");
            let said =
                format!("{findings} do not fit their hashes ({newest}): look at the disk, restore a backup elsewhere");
            finding("stored bytes", Grade::Bad, said)
        }
    }
}

/// The key's file, where the folder has one: nobody else may read it.
fn root_key(dir: &Path) -> Option<Finding> {
    let meta = std::fs::metadata(dir.join("root.key")).ok()?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    Some(match mode & 0o077 {
        0 => finding("root key", Grade::Ok, format!("root.key has mode {mode:04o}")),
        _ => {
            let said =
                format!("root.key has mode {mode:04o}, others can read it: chmod 0400 {}/root.key", dir.display());
            finding("root key", Grade::Bad, said)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_is_called_bad_and_says_the_way_out() {
        let sick =
            json!({ "status": "degraded", "views_behind": 30_000, "scrub": { "findings": 1, "newest_finding": "x" } });
        let head = json!({ "at": "2026-11-24T12:00:00Z", "size": 9_000, "checkpoint": { "size": 10 } });
        let now = "2026-11-24T11:00:00Z".parse().unwrap();
        let grades = [writer(&sick), clock(&head, now), checkpoint(&head), views(&sick), scrub(&sick)].map(|f| f.grade);
        assert_eq!(grades, [Grade::Bad, Grade::Bad, Grade::Warn, Grade::Warn, Grade::Bad]);
        let well =
            json!({ "status": "ok", "views_behind": 3, "scrub": { "findings": 0, "passes": 1, "at": 2, "of": 3 } });
        let head = json!({ "at": "2026-11-24T11:00:30Z", "size": 9_000, "checkpoint": { "size": 8_999 } });
        let grades = [writer(&well), clock(&head, now), checkpoint(&head), views(&well), scrub(&well)].map(|f| f.grade);
        assert_eq!(grades, [Grade::Ok; 5]);
    }

    #[test]
    fn room_side_file_formats_and_troubles_are_looked_at() {
        let of = |free: u64, head_log: Value| {
            json!({
                "version": "1.2.3", "journal_entries": 10, "free_bytes": free, "head_log": head_log,
                "formats": { "journal": 1, "views": 3 },
                "troubles": [{ "part": "views", "why": "x" }, { "part": "room", "why": "no room" }],
            })
        };
        let well = of(1 << 40, json!({ "epoch": 0, "entries": 10 }));
        assert_eq!([room(&well), head_log(&well), formats(&well)].map(|f| f.grade), [Grade::Ok; 3]);
        assert_eq!(formats(&well).said, "journal 1, views 3, version 1.2.3");
        assert_eq!(troubles(&well).iter().map(|f| f.grade).collect::<Vec<_>>(), [Grade::Warn, Grade::Bad]);
        assert_eq!(room(&of(1 << 30, Value::Null)).grade, Grade::Warn);
        let sick = of(9 << 20, Value::Null);
        assert_eq!([room(&sick), head_log(&sick)].map(|f| f.grade), [Grade::Bad, Grade::Warn]);
        assert!(room(&sick).said.starts_with("only 9 MiB are free"));
    }
}
