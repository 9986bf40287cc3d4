//! Logs: one line per event on standard error, text for people or JSON for machines. No bodies, no credentials.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; later calls change nothing. `WEIGHBRIDGE_LOG` filters (`info` by default), `WEIGHBRIDGE_LOG_FORMAT=json`
/// or `text` chooses the form: text on a terminal, JSON elsewhere.
pub fn start() {
    let filter = EnvFilter::try_from_env("WEIGHBRIDGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let json = match std::env::var("WEIGHBRIDGE_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start (tests, the demo) keeps the first one's settings.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
