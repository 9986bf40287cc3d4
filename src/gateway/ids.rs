//! Ids of calls: UUIDv7 with random bits that are drawn a page at a time, since each draw is a call into the system.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;

use crate::domain::CallId;

/// Random bytes of one id.
const RANDOM: usize = 10;
/// Ids per draw.
const DRAWN: usize = 64;

thread_local! {
    static PAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An id for a call that begins now. Ids of one millisecond are in no order.
pub fn new_call() -> CallId {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let uuid = match random() {
        Some(bytes) => uuid::Builder::from_unix_timestamp_millis(since.as_millis() as u64, &bytes).into_uuid(),
        None => uuid::Uuid::now_v7(),
    };
    CallId(uuid.as_u128())
}

fn random() -> Option<[u8; RANDOM]> {
    PAGE.with_borrow_mut(|page| {
        if page.is_empty() {
            page.resize(RANDOM * DRAWN, 0);
            if rand::fill(page).is_err() {
                page.clear();
            }
        }
        let bytes = *page.last_chunk()?;
        page.truncate(page.len() - RANDOM);
        Some(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_distinct_and_of_their_time() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let ids: Vec<uuid::Uuid> = (0..1_000).map(|_| uuid::Uuid::from_u128(new_call().0)).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
        assert!(ids.iter().all(|id| id.as_u128() >> 80 >= before));
        let distinct: std::collections::BTreeSet<u128> = ids.iter().map(|id| id.as_u128() & ((1 << 62) - 1)).collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
