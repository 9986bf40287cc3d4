//! `weighbridge serve`: run the appliance until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Outcome};
use crate::app::{self, App};
use crate::config::Config;

/// Run the appliance
#[derive(Debug, Args)]
pub struct Command {
    /// Configuration file; its declared state is applied at start and on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, instead of the file's
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the gateway, instead of the file's
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of web UI and admin API, instead of the file's
    #[arg(long, value_name = "ADDR")]
    web_listen: Option<SocketAddr>,
    /// Only where the start was refused with `rollback_detected` and the newer data is lost: begin a new epoch, which
    /// carries catalogue and balances over and quotes the last checkpoint known; ignored where nothing is wrong
    #[arg(long, value_name = "REASON")]
    new_epoch: Option<String>,
}

impl Command {
    pub fn run(self) -> Outcome {
        app::logs::start();
        let config = self.load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve(config))
    }

    /// The file (or the built-in default without any declared state) with the command line's words over it.
    fn load(&self) -> Result<Config, Failure> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            // Without a file: the defaults of `[server]`, and whatever the data folder has declared already.
            None => Config { declared: Default::default(), ..Config::default_config()? },
        };
        if let Some(dir) = &self.data {
            config.server.data_dir = dir.clone();
        }
        config.server.listen = self.listen.unwrap_or(config.server.listen);
        config.server.web_listen = self.web_listen.unwrap_or(config.server.web_listen);
        app::check(&config.server).map_err(|error| Failure::config(format!("{error:#}")))?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    async fn serve(self, config: Config) -> Outcome {
        // Signals are watched before the first port is open: one that comes early must not kill half a start.
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let ledger = match &self.new_epoch {
            Some(reason) => app::open_anew(&config.server, reason)?,
            None => app::open(&config.server)?,
        };
        for line in app::apply(&ledger, &config.declared).await? {
            tracing::info!("{line}");
        }
        let app = App::start(&config.server, ledger).await?;
        app.keep_ballast();
        announce(&app)?;
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reload(&app).await,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tracing::info!("stopping: calls under way may end");
        Ok(app.stop().await?)
    }

    /// Applies the file again. A wrong file changes nothing.
    async fn reload(&self, app: &App) {
        let Some(path) = &self.config else {
            tracing::info!("SIGHUP without --config: nothing to apply");
            return;
        };
        match Config::load(path) {
            Err(error) => tracing::error!(%error, "the configuration was not applied"),
            Ok(config) => match app.apply(&config.declared).await {
                Err(error) => tracing::error!(%error, "the configuration was not applied"),
                Ok(lines) if lines.is_empty() => tracing::info!("configuration applied: nothing changed"),
                Ok(lines) => lines.iter().for_each(|line| tracing::info!("{line}")),
            },
        }
    }
}

/// Prints where everything is, on standard output, for people and for scripts that wait for it.
fn announce(app: &App) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "gateway  {}", app.gateway_url())?;
    writeln!(out, "web      {}", app.web_url())?;
    if let Some(link) = app.setup_link() {
        writeln!(out, "set up   {link}   (once, within 30 minutes)")?;
    }
    out.flush()?;
    Ok(())
}
