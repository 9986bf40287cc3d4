//! Tests of the store through its front door.

use std::sync::Arc;

use super::clock::SetClock;
use super::media::Memory;
use super::*;
use crate::ledger::request::{Reply, Request};

fn options() -> Options {
    Options { durability: Durability::Strict, clock: Arc::new(SetClock::new("2026-11-23T18:00:00Z".parse().unwrap())) }
}

fn note(n: u64) -> Request {
    Request::Admin {
        actor: "operator:ada".into(),
        action: format!("signed in {n}"),
        subject: None,
        reason: Some("why".into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_reopening() {
    let memory = Memory::new();
    let ledger = Ledger::open_memory(&memory, options()).unwrap();
    for n in 0..10 {
        assert_eq!(ledger.submit(note(n)).await.unwrap(), Reply::Recorded { seq: n });
    }
    let head = ledger.head();
    assert_eq!(head.size, 10);
    ledger.close().await.unwrap();
    assert!(matches!(ledger.submit(note(0)).await, Err(StoreError::Closed)));
    drop(ledger);
    let again = tokio::task::spawn_blocking(move || Ledger::open_memory(&memory, options()).unwrap()).await.unwrap();
    assert_eq!((again.head().size, again.head().root), (10, head.root));
    assert_eq!(again.entries(3, 4).unwrap().len(), 4);
    assert_eq!(again.entries(3, 1).unwrap()[0].1.person.as_ref().unwrap().reason.as_deref(), Some("why"));
}
