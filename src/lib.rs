//! # Weighbridge: the architecture
//!
//! A weighbridge weighs every truck at the gate and prints a certified ticket before the truck is on the road. This one
//! weighs every call to a language model: who made it, for whom, what it may cost, what it did cost. A call is identified,
//! classified, authorised with a *hold* of the most it can cost, forwarded byte for byte, observed as it passes and settled
//! with what it did cost. Authorisation and settlement are entries of an append-only journal, durable before the first byte
//! goes out and before the last byte comes back. Everything else (balances, lists, reports, pages) is derived from it.
//!
//! ```text
//! client ─► identify ─► classify ─► authorize ─► forward ─► observe ─► settle         pages, API, CLI, files
//!             who         what,      policy,     stream      usage      cost                    │ changes
//!                         bound      hold        through     read        │                      ▼
//!                                      └───────── requests ──────────────┴──────────► one writer thread
//!                                                                                     decide, apply, one commit, ack
//!                     commit.log: one write, one flush, then the ack ◄────────────────────┤
//!                     journal files (stretches of entries, Merkle tree) ◄─────────────────┤ behind, in batches
//!                     views (calls, rollups), running snapshot ◄──────────────────────────┘
//! ```
//!
//! ## Code map, in the order data moves
//!
//! * [`domain`]: the nouns (`Attribution`, `Call`, `Usage`, `Money`, `Budget`, `Catalogue`) and their invariants.
//! * [`config`]: `weighbridge.toml` → `Config`, checked whole before anything is opened.
//! * [`dialect`]: what providers' bytes mean; one file or folder per dialect, one trait `Dialect`, a `Tap` that reads an
//!   answer as it passes.
//! * [`pricing`]: the price book; an upper bound before a call, the cost after it.
//! * [`budget`], [`policy`], [`rollup`]: pure rules and arithmetic: periods and thresholds, may-this-call, adding up.
//! * [`ledger`]: entries, their canonical bytes, the tree, and the state machine: `decide` and `State::apply`.
//! * [`store`]: the one writer thread, the log it waits for, monthly redb files fed behind it, recovery, sealed secrets,
//!   views; and a ledger without threads, for simulation.
//! * [`gateway`]: the path of a call, one file per stage; `gateway/mod.rs` is the whole story on one screen.
//! * [`control`]: every change a person or a file makes, checked and turned into entries.
//! * [`report`]: the read side: calls, receipts, spend, forecasts, alerts.
//! * [`notify`]: alerts out of the outbox in the ledger's state to webhooks, chats, mail and syslog.
//! * [`web`], [`api`]: pages and JSON, one file per noun; they change things only through `control`.
//! * [`app`]: builds everything from a `Config`, runs it, drains it. [`cli`]: one file per noun. [`demo`]: the sandbox
//!   provider and the sample organisation.
//!
//! Their place is kept, not built: `anomaly` (detectors, beside `policy`), `reconcile` (vendor bills, beside `report`).
//!
//! ## Invariants, mostly absences
//!
//! * A module imports only from layers below its own (`tests/tidy.rs` reads every import).
//! * Only `store` imports redb. Only `gateway` and `notify` open connections to the outside (the command line talks to its
//!   own server).
//! * `domain` to `ledger` have no clock, no async, no files, no randomness: time and ids arrive in the request.
//! * There is no balance outside the state machine; no counter in memory or on disk could drift from the records.
//! * No byte goes upstream before its ADMIT is durable, no last byte to the caller before its SETTLE is.
//! * Entries are never edited; a correction is a new entry. Kinds and numbers are never reused.
//! * Prompts and answers are not stored. Secrets live in types that cannot print.
//! * Money is an integer of 10⁻¹⁵ USD, never a float. A count or price that is not known is absent, never 0.
//! * Every queue, buffer, cache and loop has a bound; memory per call does not depend on what passes.
//!
//! ## Cross-cutting
//!
//! * **Time.** UTC microseconds (`Micros`). The instant that counts for price, budget and report is the journal time of the
//!   ADMIT. The writer's clock never goes back. Zones are IANA names with their data in the binary.
//! * **Ids.** Calls: UUIDv7 made at the edge. Declared things: the slug given. Order: the journal's sequence.
//! * **Errors.** `thiserror` where the caller branches, `anyhow` in `cli` and `app`. A message names the thing, the value and
//!   the way out. Callers get theirs in their dialect.
//! * **Logs.** `tracing`; no bodies, no credentials.
//! * **On disk.** Every file and row carries a version; an unknown one is a typed error. Entries are deterministic CBOR
//!   that outsiders can read, everything derived is postcard and may be deleted.
//! * **Tests.** Through the front door (`tests/it`), property tests beside the arithmetic, real processes killed
//!   (`tests/crash.rs`), a seeded simulator with faults of the disk, real SDKs (`tests/clients`), a real browser (`tests/browser`).
//!
//! ## How to add
//!
//! * *a dialect*: a file in `dialect/` that implements `Dialect`, a line in `dialect::named`, a fixture folder.
//! * *a page*: a file in `web/` with params, page struct and handler, a folder in `templates/`, a line in `web::router`.
//! * *an API path*: a row in the route table of `api/`; the OpenAPI document follows from it.
//! * *an entry kind*: a number in `ledger::entry::Kind`, a `Body` variant, its codec, `State::apply`, a golden line.
//! * *a detector or a bill format*: their modules come with their issues; see the layers in `tests/tidy.rs`.

pub mod domain;

pub mod budget;
pub mod config;
pub mod dialect;
pub mod policy;
pub mod pricing;
pub mod rollup;

pub mod ledger;
pub mod store;

pub mod control;
pub mod gateway;
pub mod report;

pub mod notify;

pub mod api;
pub mod web;

pub mod app;
pub mod cli;
pub mod demo;
