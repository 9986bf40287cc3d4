//! What tests do to the files behind the program's back.

use redb::ReadableTable;

use crate::store::block::{self, Raw};
use crate::store::media::{COLD_CACHE, Media};

use super::{BLOCKS, GROUPS, Journal, META, Mode, NEEDS_LOG, writing};

/// Makes a file claim another format.
pub fn set_format(media: &Media, name: &str, format: u64) {
    let file = media.open(name, COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        Ok(txn.open_table(META)?.insert("format", format.to_le_bytes().as_slice()).map(drop)?)
    })
    .unwrap();
}

/// Stores a month's blocks as the version before the log did: one for each commit, unpacked.
pub fn store_as_before_the_log(media: &Media, name: &str) {
    let journal = Journal::open(media.clone(), Mode::Write).unwrap();
    let entries = journal.read(0, usize::MAX, true).unwrap();
    journal.close().unwrap();
    let file = media.open(name, COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        txn.open_table(META)?.remove(NEEDS_LOG)?;
        txn.delete_table(GROUPS)?;
        let mut groups = txn.open_table(GROUPS)?;
        let mut blocks = txn.open_table(BLOCKS)?;
        let keys: Vec<(u64, u64)> =
            blocks.iter()?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
        for key in &keys {
            blocks.remove(key)?;
        }
        let mut rest = entries.as_slice();
        for size in (1..=3).cycle() {
            let (commit, after) = rest.split_at(size.min(rest.len()));
            let Some(first) = commit.first() else { break };
            let mut builder = block::Builder::new(first.seq);
            commit.iter().for_each(|e| builder.push(crate::domain::Micros(0), &e.raw, &e.groups));
            blocks.insert((keys[0].0, first.seq), builder.block.as_slice())?;
            for (group, value) in (1u8..).zip(&builder.groups).filter(|(_, value)| !value.is_empty()) {
                groups.insert((keys[0].0, first.seq, group), value.as_slice())?;
            }
            rest = after;
        }
        Ok(())
    })
    .unwrap();
}

/// Writes a month's entries anew, as someone with the file and without the key would. Groups 1 to 4 go: they would have
/// to be moved with their entries.
pub fn rewrite(media: &Media, name: &str, change: impl FnOnce(&mut Vec<Raw>)) {
    let file = media.open(name, COLD_CACHE).unwrap();
    writing(name, &file, |txn| {
        txn.delete_table(GROUPS)?;
        txn.open_table(GROUPS)?;
        let mut blocks = txn.open_table(BLOCKS)?;
        let keys: Vec<(u64, u64)> =
            blocks.iter()?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
        let mut entries = Vec::new();
        for key in &keys {
            entries.extend(block::read_block(blocks.remove(key)?.unwrap().value()).unwrap());
        }
        change(&mut entries);
        let mut builder = block::Builder::new(keys[0].1);
        entries.iter().for_each(|raw| builder.push(crate::domain::Micros(0), raw, &[]));
        blocks.insert(keys[0], builder.block.as_slice())?;
        Ok(())
    })
    .unwrap();
}
