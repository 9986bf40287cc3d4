//! `demo`: the appliance with a sandbox provider, a sample organisation, its history and live traffic.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome};
use crate::demo::run::Demo;
use crate::demo::sandbox::{Pace, Sandbox, Settings};

/// Show the appliance at work: everything built in, nothing leaves the machine
#[derive(Debug, Args)]
pub struct Command {
    /// Decides the organisation's past: the same seed, the same history
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days of history
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(0..=400))]
    days: u16,
    /// Address of the gateway; 127.0.0.1:8700, or a free port if that is taken
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of the web UI and the API; 127.0.0.1:8701, or a free port if that is taken
    #[arg(long)]
    web_listen: Option<SocketAddr>,
    /// Keep the data here and go on with it next time; default: a temporary folder, removed at the end
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only the sandbox provider, at the address of --listen: a fake vendor to try a configuration against
    #[arg(long)]
    sandbox_only: bool,
    /// The sandbox answers at once and nothing fails by chance
    #[arg(long)]
    fast: bool,
    /// No live traffic
    #[arg(long)]
    quiet: bool,
    /// Print addresses, keys and links as one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if self.sandbox_only {
            return runtime.block_on(self.sandbox());
        }
        let demo = Demo {
            seed: self.seed,
            days: self.days,
            listen: self.listen,
            web_listen: self.web_listen,
            sandbox: self.settings(),
            data: self.data,
            traffic: !self.quiet,
            json: self.json,
        };
        Ok(runtime.block_on(demo.run())?)
    }

    fn settings(&self) -> Settings {
        let (pace, faults) = if self.fast { (Pace::Fast, 0.0) } else { (Pace::Real(1.0), 0.02) };
        Settings { seed: self.seed, pace, faults, api_key: None, remember: false }
    }

    async fn sandbox(&self) -> Outcome {
        let address = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8702)));
        let sandbox = Sandbox::start_on(&address.to_string(), self.settings())
            .await
            .map_err(|error| Failure::unreachable(format!("cannot listen on {address}: {error}")))?;
        let mut out = std::io::stdout();
        writeln!(out, "sandbox, OpenAI's API     {}", sandbox.openai_url())?;
        writeln!(out, "sandbox, Anthropic's API  {}", sandbox.anthropic_url())?;
        out.flush()?;
        crate::demo::until_told_to_stop().await;
        sandbox.stop();
        Ok(())
    }
}
