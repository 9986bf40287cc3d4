//! A real gateway process in front of a sandbox in this one: for tests that kill it, or ask of it what only a whole
//! process can show.

// Each test binary uses its part.
#![allow(dead_code)]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weighbridge::demo::client::Client;
use weighbridge::demo::random::Random;
use weighbridge::demo::sandbox::Sandbox;
use weighbridge::domain::Environment;
use weighbridge::domain::key::{Secret, SecretKind};

/// The admin token of every site.
pub const OPERATOR_TOKEN: &str = "token-of-the-process-tests";

/// A data folder, a configuration and the ports to serve them on.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub url: String,
    pub key: Secret,
    /// Declared state as the file has it; a change holds from the next start.
    pub declared: String,
    listen: [u16; 2],
}

impl Site {
    /// Two providers, both the sandbox; one service `app` that may name its runs; one key. `more` is added to the file.
    pub fn new(sandbox: &Sandbox, more: &str) -> Site {
        let mut random = Random::new(4);
        let key = Secret::generate(SecretKind::Service, Some(Environment::Prod), |bytes| random.fill(bytes));
        let ports = [free_port(), free_port()];
        let declared = format!(
            r#"
[organisation]
name = "Process tests"
time_zone = "UTC"

[[provider]]
id = "openai"
dialect = "openai"
base_url = "{openai}"
api_key = "sandbox"
internal = true
models = ["gpt-*"]

[[provider]]
id = "anthropic"
dialect = "anthropic"
base_url = "{anthropic}"
api_key = "sandbox"
internal = true
models = ["claude-*"]

[[service]]
id = "app"
application = "tests"
owner = "team-tests"
business_unit = "tests"
caller_fields = ["run"]

[[key]]
service = "app"
environment = "prod"
secret = "{secret}"
{more}
"#,
            openai = sandbox.openai_url(),
            anthropic = sandbox.anthropic_url(),
            secret = key.expose(),
        );
        let folder = tempfile::tempdir().unwrap();
        let url = format!("http://127.0.0.1:{}", ports[0]);
        Site { folder, url, key, declared, listen: ports }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Those of gateway and web.
    pub fn ports(&self) -> [u16; 2] {
        self.listen
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// The configuration, with `declared` as it is now.
    pub fn write_config(&self) -> PathBuf {
        let config = self.folder.path().join("weighbridge.toml");
        let server = format!(
            "[server]\nlisten = \"127.0.0.1:{}\"\nweb_listen = \"127.0.0.1:{}\"\ndata_dir = \"{}\"\noperator_token = \"{OPERATOR_TOKEN}\"\n",
            self.listen[0],
            self.listen[1],
            self.data().display()
        );
        std::fs::write(&config, server + &self.declared).unwrap();
        config
    }

    /// Starts the process and waits until it says that it is ready.
    pub async fn serve(&self) -> Served {
        self.serve_with(&[]).await
    }

    /// The same with more words on the command line.
    pub async fn serve_with(&self, words: &[&str]) -> Served {
        let config = self.write_config();
        let log = File::create(self.log()).unwrap();
        let child = Command::new(binary())
            .args(["serve", "--config"])
            .arg(&config)
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut served = Served { child };
        let deadline = Instant::now() + Duration::from_secs(60);
        let client = Client::default();
        while !matches!(client.get(&format!("{}/readyz", self.url), &[]).await, Ok(answer) if answer.status == 200) {
            let gone = served.child.try_wait().unwrap();
            assert!(gone.is_none(), "the process ended with {gone:?}: {}", self.last_words());
            assert!(Instant::now() < deadline, "not ready after a minute: {}", self.last_words());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        served
    }

    /// A command of the binary that talks to the process.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("WEIGHBRIDGE_URL", format!("http://127.0.0.1:{}", self.listen[1]));
        command.env("WEIGHBRIDGE_TOKEN", OPERATOR_TOKEN);
        command
    }

    pub fn last_words(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The header that names the caller.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.key.expose())
    }
}

/// A running process; killed when dropped.
pub struct Served {
    child: Child,
}

impl Served {
    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name: `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// Waits for the end, at most half a minute; the exit code.
    pub async fn exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process did not end within 30 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_weighbridge"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
