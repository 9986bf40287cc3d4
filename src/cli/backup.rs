//! `backup` and `restore`: one file with everything but the root key, and a data folder made of it.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::client::{self, Reach};
use super::{Failure, Outcome, print_json};
use crate::app;
use crate::store::backup::{self, KeyFrom, Manifest, Plan, Restored};
use crate::store::clock::SystemClock;

/// Write everything but the root key to one file, while calls go on
///
/// The file is written as FILE.part, read back and compared with its manifest, and only then given its name. Keep it, and
/// apart from it a copy of root.key (or of what WEIGHBRIDGE_ROOT_KEY says): neither is of use without the other.
#[derive(Debug, Args)]
pub struct Backup {
    /// Must not exist yet
    file: PathBuf,
    #[command(flatten)]
    reach: Reach,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

/// Make a data folder of a backup, as a new epoch
///
/// Exit codes: 0 restored, 1 the backup does not verify, 2 the folder is not empty or the root key is missing, 69
/// something cannot be read or written
#[derive(Debug, Args)]
pub struct Restore {
    file: PathBuf,
    /// The folder to make; must be empty or missing
    #[arg(long, value_name = "DIR", env = "WEIGHBRIDGE_DATA", default_value = "weighbridge-data")]
    data: PathBuf,
    /// A copy of the root key of the folder the backup was made of; not needed where the environment has it
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// Only check the backup and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub fn run(self) -> Outcome {
        if self.file.exists() {
            return Err(Failure::usage(format!("`{}` exists: name another file", self.file.display())));
        }
        let part = part_of(&self.file);
        let made = self.make(&part);
        if made.is_err() {
            // It may not have been made at all.
            let _ = fs::remove_file(&part);
        }
        let manifest = made?;
        if self.json {
            return print_json(&json!(manifest));
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "backed up to {}", self.file.display())?;
        describe(&mut out, &manifest)?;
        writeln!(out, "  not in it      the root key: keep a copy of it, and not beside the backup")?;
        Ok(())
    }

    fn make(&self, part: &Path) -> Result<Manifest, Failure> {
        let cannot = |e: std::io::Error| Failure::unreachable(format!("`{}`: {e}", part.display()));
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(part).map_err(cannot)?;
        client::with(&self.reach, async |client| client.save("/backup", &mut file).await)?;
        file.sync_all().map_err(cannot)?;
        // What counts is what is on the disk, not what was sent.
        let manifest = backup::check(&mut BufReader::new(File::open(part).map_err(cannot)?))?;
        fs::rename(part, &self.file).map_err(cannot)?;
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        synced.map_err(cannot)?;
        Ok(manifest)
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn describe(out: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    let Manifest { made_at, epoch, size, root, members, notes, .. } = manifest;
    writeln!(out, "  made at        {made_at}, by version {}", manifest.version)?;
    writeln!(out, "  journal        {size} entries of epoch {epoch}")?;
    writeln!(out, "  root           {root}")?;
    writeln!(out, "  files          {}, {} bytes, each as its SHA-256 says", members.len(), manifest.bytes())?;
    notes.iter().try_for_each(|note| writeln!(out, "  note           {note}"))
}

impl Restore {
    pub fn run(self) -> Outcome {
        app::logs::start();
        let plan = Plan::new(&self.file, &self.data, self.root_key.as_deref())?;
        let folder = self.data.display();
        if !self.json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "the backup {} is sound", self.file.display())?;
            describe(&mut out, &plan.manifest)?;
            writeln!(
                out,
                "to do: make {folder} of it, and begin a new epoch there, since calls may have been recorded after it"
            )?;
        }
        if self.dry_run {
            return if self.json {
                print_json(&json!({ "restored": false, "manifest": plan.manifest }))
            } else {
                Ok(())
            };
        }
        let Restored { manifest, begun } = backup::restore(&plan, &SystemClock)?;
        if self.json {
            return print_json(&json!({
                "restored": true, "folder": self.data, "manifest": manifest, "epoch": begun.epoch,
                "carried": begun.carried, "interrupted": begun.interrupted, "quotes": begun.quotes,
            }));
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "restored to {folder}")?;
        writeln!(out, "  epoch          {} from now on; epoch {} is kept as it was", begun.epoch, manifest.epoch)?;
        writeln!(out, "  carried over   {}", begun.carried)?;
        writeln!(
            out,
            "  open calls     {} were open; each is settled from its hold as interrupted",
            begun.interrupted
        )?;
        writeln!(out, "  not in it      what was recorded after {}; who was signed in", manifest.made_at)?;
        match plan.key {
            KeyFrom::File => writeln!(out, "  root key       copied to {folder}/root.key (0400)")?,
            KeyFrom::Environment => writeln!(out, "  root key       of the environment: give the same to `serve`")?,
        }
        writeln!(out, "next: weighbridge serve --data {folder} (with the configuration as before)")?;
        Ok(())
    }
}
