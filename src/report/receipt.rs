//! A receipt: one call, the entries of its life, and the paths that prove them.

use crate::domain::{Call, CallId};
use crate::ledger::codec::kind_of;
use crate::ledger::entry::{Body, Entry, Erasable, Kind};
use crate::store::{Ledger, StoreError};

use super::{Receipt, ReceiptEntry, ReportError};

/// How far entries of a call with several attempts are looked for.
const MOST_BETWEEN: u64 = 100_000;

/// The receipt of a call; `None` if there is no such call.
pub fn receipt(ledger: &Ledger, id: CallId) -> Result<Option<Receipt>, ReportError> {
    let Some(call) = ledger.call(id)? else { return Ok(None) };
    let head = ledger.head();
    let (mut epoch, mut tree_size, mut root) = (head.epoch, head.size, head.root);
    let mut entries = Vec::new();
    let (mut rules, mut model_sent) = (Vec::new(), None);
    for (entry, erasable) in life(ledger, &call)? {
        let Some(kind) = Kind::from_number(kind_of(&entry.body)) else { continue };
        match &entry.body {
            Body::Admit(admit) => {
                rules.clone_from(&admit.rules);
                model_sent = admit.model_sent.clone().or(model_sent);
            }
            Body::Deny(deny) => rules.clone_from(&deny.rules),
            _ => {}
        }
        let proven = ledger.proven(entry.seq, &head)?;
        (epoch, tree_size, root) = (proven.epoch, proven.tree_size, proven.root);
        entries.push(ReceiptEntry {
            position: entry.seq,
            epoch,
            seq: proven.seq,
            ts: entry.ts,
            kind,
            leaf_hash: proven.leaf_hash,
            path: proven.path,
            erasable,
        });
    }
    Ok(Some(Receipt { call, rules, model_sent, entries, epoch, tree_size, root }))
}

/// The entries that are about the call, in order: what began it, what ended it, what was noted beside.
fn life(ledger: &Ledger, call: &Call) -> Result<Vec<(Entry, Erasable)>, StoreError> {
    let mut found = ledger.entries(call.seq, 1)?;
    let Some(end) = call.settled_seq.filter(|end| *end != call.seq) else { return Ok(found) };
    // An OVERRUN stands in the block of its SETTLE, right behind it. What several attempts left lies in between.
    let from = if call.attempts > 1 && end - call.seq <= MOST_BETWEEN { call.seq + 1 } else { end };
    let mut mine = vec![call.seq];
    for (entry, erasable) in ledger.entries(from, (end - from) as usize + 4)? {
        let again = matches!(&entry.body, Body::Admit(admit) if admit.call == call.id);
        if again || entry.reference.is_some_and(|r| mine.contains(&r)) {
            mine.push(entry.seq);
            found.push((entry, erasable));
        }
    }
    Ok(found)
}
