//! The demo: the whole appliance with a provider of its own, an organisation, its history and its traffic.
//!
//! Nothing leaves the machine. [`sandbox`] is the provider; the rest is made by the same code and the same journal path
//! as the real thing, so that what a newcomer sees is what they would get.

pub mod client;
pub mod clock;
pub mod history;
pub mod organisation;
pub mod plan;
pub mod random;
pub mod run;
pub mod sandbox;
pub mod traffic;
pub mod workload;

/// Waits for the signal that ends a program: interrupt (Ctrl-C) or terminate.
pub async fn until_told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
