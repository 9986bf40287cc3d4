//! One integration binary: the product through its front doors. HTTP in, ledger, page or file out.

mod support;

/// Recorded exchanges of real providers, replayed through the gateway.
mod corpus;
/// The edges of a call's life: slow and leaving clients, a failing journal, what is booked when things break off.
mod edges;
/// Where budgets of other gateways hurt: each complaint a test by name.
mod field_budgets;
/// Calls through the gateway: what passes, what is recorded, what it cost.
mod gateway;
/// Input that is wrong on purpose: each gets a defined answer, bounded memory and a record.
mod hostile;
/// Virtual keys: rotation, networks, keys that were planted.
mod keys;
/// What runs now, seen and ended from outside.
mod live;
/// Policies: rules, modes, rates, changes on the way.
mod policies;
/// Refusals in the caller's dialect.
mod refusals;
/// Connections: HTTP/2, TLS, shut-down.
mod transport;
/// Workload tokens: who is believed, and what stands on record.
mod workloads;
