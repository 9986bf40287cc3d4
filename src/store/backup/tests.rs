//! Backups of ledgers in folders: made while entries come, damaged byte by byte, restored.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::ledger::request::Request;
use crate::store::clock::SetClock;
use crate::store::verify::{Verdict, verify};
use crate::store::{Durability, Ledger, Options};

fn clock() -> Arc<SetClock> {
    Arc::new(SetClock::new("2026-11-23T18:00:00Z".parse().unwrap()))
}

fn open(dir: &Path, clock: &Arc<SetClock>) -> Ledger {
    Ledger::open(dir, Options { durability: Durability::Strict, clock: clock.clone() }).unwrap()
}

fn note(n: u64) -> Request {
    let reason = Some(format!("reason {n}"));
    Request::Admin { actor: "operator:ada".into(), action: format!("signed in {n}"), subject: None, reason }
}

fn notes(ledger: &Ledger, from: u64, to: u64) {
    ledger.submit_all((from..to).map(note).collect()).unwrap();
}

/// A folder of two months, closed, and a backup that was made of it while entries came.
async fn backed_up(dir: &Path) -> (Vec<u8>, Manifest, Vec<String>) {
    let clock = clock();
    let ledger = open(dir, &clock);
    ledger.start_signing().unwrap();
    notes(&ledger, 0, 700);
    clock.set("2026-12-01T00:00:01Z".parse().unwrap());
    notes(&ledger, 700, 1_300);
    let more = Arc::new(AtomicBool::new(true));
    let writer = {
        let (ledger, more) = (ledger.clone(), more.clone());
        std::thread::spawn(move || {
            let mut n = 1_300;
            while more.load(Ordering::SeqCst) {
                notes(&ledger, n, n + 7);
                n += 7;
            }
        })
    };
    let mut file = Vec::new();
    let manifest = ledger.backup(&mut file).unwrap();
    more.store(false, Ordering::SeqCst);
    writer.join().unwrap();
    let said = actions(&ledger, manifest.size);
    ledger.close().await.unwrap();
    (file, manifest, said)
}

/// What the entries of the first epoch say.
fn actions(ledger: &Ledger, size: u64) -> Vec<String> {
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let found = ledger.entries(all.len() as u64, (size as usize - all.len()).min(10_000)).unwrap();
        all.extend(found.iter().map(|(entry, erasable)| format!("{entry:?} {erasable:?}")));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_while_entries_come_restores_to_the_same_entries_in_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let (file, manifest, said) = backed_up(&dir).await;
    assert!(manifest.size >= 1_300 && manifest.checkpoint.is_some(), "{manifest:?}");
    assert!(!dir.join(make::SCRATCH).exists(), "the scratch folder is gone");
    let names: Vec<&str> = manifest.members.iter().map(|member| member.name.as_str()).collect();
    let wanted = ["head.log", "journal-2026-11.redb", "journal-2026-12.redb", "keys.redb", "core.redb"];
    assert_eq!(names, wanted, "and no root key, views or log");
    let key = std::fs::read(dir.join("root.key")).unwrap();
    assert!(!file.windows(key.len()).any(|bytes| bytes == key), "the root key is in the backup");

    let tar = folder.path().join("backup.tar");
    std::fs::write(&tar, &file).unwrap();
    let other = folder.path().join("elsewhere");
    let plan = Plan::new(&tar, &other, Some(&dir.join("root.key"))).unwrap();
    let clock = clock();
    clock.set("2026-12-02T00:00:00Z".parse().unwrap());
    let restored = restore(&plan, &*clock).unwrap();
    assert_eq!((restored.begun.epoch, &restored.manifest), (1, &manifest));
    let kept = std::fs::metadata(other.join("root.key")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept) & 0o777, 0o400);

    let ledger = open(&other, &clock);
    assert_eq!((ledger.head().epoch, ledger.head().before), (1, manifest.size));
    assert_eq!(actions(&ledger, manifest.size), said);
    ledger.start_signing().unwrap();
    notes(&ledger, 0, 3);
    ledger.close().await.unwrap();
    drop(ledger);
    let verified = verify(&other).unwrap();
    assert_eq!((verified.verdict, verified.epoch), (Verdict::Verified, 1), "{verified:#?}");

    let again = Plan::new(&tar, &other, Some(&dir.join("root.key"))).err().unwrap();
    assert!(matches!(&again, BackupError::Refused(why) if why.contains("is not empty")), "{again}");
    let keyless = Plan::new(&tar, &folder.path().join("third"), None).err().unwrap();
    assert!(matches!(&keyless, BackupError::Refused(why) if why.contains("--root-key")), "{keyless}");
    // Another root key opens nothing, and leaves nothing behind.
    let stranger = folder.path().join("stranger.key");
    std::fs::write(&stranger, [7; 32]).unwrap();
    let third = folder.path().join("third");
    let refused = restore(&Plan::new(&tar, &third, Some(&stranger)).unwrap(), &*clock).err().unwrap();
    assert!(refused.to_string().contains("root key does not open"), "{refused}");
    assert!(!third.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_and_every_cut_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, manifest, _) = backed_up(&folder.path().join("data")).await;
    let read = |bytes: &[u8]| check(&mut Cursor::new(bytes));
    assert_eq!(read(&file).unwrap().root, manifest.root);
    let tail = file.len() - 4_096..file.len();
    // The whole of the beginning and of the end with the manifest, and samples of what is between.
    for at in (0..1_024).chain((1_024..tail.start).step_by(file.len() / 50)).chain(tail) {
        let mut flipped = file.clone();
        flipped[at] ^= 0x20;
        assert!(read(&flipped).is_err(), "byte {at} of {}", file.len());
    }
    for len in [0, 100, 512, file.len() / 2, file.len() - 1_024, file.len() - 1] {
        let said = read(&file[..len]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("cut short"), "{len}: {said}");
    }
    let manifest_at = file.windows(13).rposition(|bytes| bytes == b"manifest.json").unwrap();
    let ended = [&file[..manifest_at], &[0; 1_024]].concat();
    let said = read(&ended).unwrap_err().to_string();
    assert!(said.contains("no `manifest.json`"), "{said}");
    let said = read(&[&file[..], b"x"].concat()).unwrap_err().to_string();
    assert!(said.contains("follows its end"), "{said}");
}

#[test]
fn no_member_leads_out_of_the_folder() {
    for name in ["../x", "root.key", "/head.log", "imports/../head.log", "imports/a/b", "imports/.x", "views.redb", ""]
    {
        assert!(!may_be_in(name), "{name}");
    }
    for name in ["head.log", "journal-2026-11-e2.redb", "core.redb", "keys.redb", "imports/0a1b.csv"] {
        assert!(may_be_in(name), "{name}");
    }
}

/// What is signed while a backup is under way, when the journal is in it and `core.redb` is not.
struct Signing<'a> {
    ledger: &'a Ledger,
    file: Vec<u8>,
    signed: u64,
}

impl std::io::Write for Signing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.extend_from_slice(bytes);
        if self.signed == 0 && memchr::memmem::find(&self.file, b"keys.redb").is_some() {
            notes(self.ledger, 5_000, 5_010);
            self.signed = self.ledger.checkpoint().map_err(std::io::Error::other)?.size;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_journal_quotes_no_checkpoint_of_entries_that_its_backup_does_not_have() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = clock();
    let ledger = open(dir.path(), &clock);
    ledger.start_signing().unwrap();
    notes(&ledger, 0, 40);
    let mut out = Signing { ledger: &ledger, file: Vec::new(), signed: 0 };
    let manifest = ledger.backup(&mut out).unwrap();
    let Signing { file, signed, .. } = out;
    assert!(signed > manifest.size, "{signed} were signed while {} were copied", manifest.size);
    ledger.close().await.unwrap();
    let backup = to.path().join("backup.tar");
    std::fs::write(&backup, &file).unwrap();
    // A file system of its own has a folder that is not ours.
    let restored = to.path().join("restored");
    std::fs::create_dir_all(restored.join("lost+found")).unwrap();
    let plan = Plan::new(&backup, &restored, Some(&dir.path().join("root.key"))).unwrap();
    let done = restore(&plan, &*clock).unwrap();
    let quotes = done.begun.quotes.unwrap();
    assert!(quotes.contains(&format!("\n{}\n", manifest.size)), "{quotes} quoted, {} restored", manifest.size);
    assert_eq!(verify(&restored).unwrap().verdict, Verdict::Verified);
}
