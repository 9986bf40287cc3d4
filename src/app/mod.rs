//! Puts the appliance together and takes it apart: configuration, store, gateway, web, background work, drain.

mod framing;
pub mod listen;
