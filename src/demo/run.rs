//! The demo from start to end: sandbox, organisation, history, appliance, traffic, and what is printed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand;
use serde_json::json;

use crate::app::App;
use crate::config::Config;
use crate::control::{self, By};
use crate::domain::key::{Secret, SecretKind};
use crate::domain::{Environment, Micros};
use crate::ledger::request::Request;
use crate::store::clock::SystemClock;
use crate::store::{Clock, Durability, Ledger, Options};
use crate::web;

use super::clock::DemoClock;
use super::history::{self, Written};
use super::organisation::{self, Addresses, SampleKey};
use super::plan::Calendar;
use super::sandbox::{Sandbox, Settings};
use super::traffic;

/// The operator whom the sign-in link signs in.
const OPERATOR: &str = "demo";
/// Whose key is printed: no hard budget covers it.
const SHOWN: (&str, Environment) = ("support-copilot", Environment::Prod);
/// The configuration that the demo writes into its data folder.
const FILE: &str = "demo.toml";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Demo {
    pub seed: u64,
    pub days: u16,
    pub listen: Option<SocketAddr>,
    pub web_listen: Option<SocketAddr>,
    pub data: Option<PathBuf>,
    pub sandbox: Settings,
    pub traffic: bool,
    pub json: bool,
}

impl Demo {
    /// Runs until it is told to stop.
    pub async fn run(self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let folder = Folder::open(self.data.as_deref())?;
        let provider_key = random_text();
        let sandbox = Sandbox::start(Settings { api_key: Some(provider_key.clone()), ..self.sandbox.clone() }).await?;
        let fresh = !folder.path.join(FILE).exists();
        let config = self.configure(&folder, &sandbox, &provider_key)?;
        let now = SystemClock.now();
        let start = now.plus_seconds(-86_400 * (i64::from(self.days) + 1));
        let clock = Arc::new(if fresh { DemoClock::at(start) } else { DemoClock::present() });
        let options = Options { durability: Durability::Strict, clock: clock.clone() };
        let ledger = Ledger::open(&config.server.data_dir, options)?;
        declare(&ledger, &config, clock.now()).await?;
        let written = if fresh { Some(self.tell(&ledger, &clock, now).await?) } else { None };

        let app = App::start(&config.server, ledger.clone()).await?;
        let ready = begun.elapsed();
        let token = config.server.operator_token.as_ref().map(|t| secrecy::ExposeSecret::expose_secret(t).to_owned());
        let shown = config.declared.keys.iter().find(|key| (key.service.as_str(), key.environment) == SHOWN);
        let words = Words {
            gateway: app.gateway_url(),
            web: app.web_url(),
            sandbox: sandbox.anthropic_url(),
            key: shown.map(|key| key.secret.expose().to_owned()).unwrap_or_default(),
            token: token.unwrap_or_default(),
            sign_in: web::sign_in_link(&ledger, &app.web_url(), OPERATOR)?,
            data: folder.path.display().to_string(),
            kept: !folder.temporary,
            written,
            ready,
        };
        let mut out = std::io::stdout();
        writeln!(out, "{}", if self.json { words.as_json() } else { words.in_words() })?;
        out.flush()?;

        let keys = config.declared.keys.iter();
        let keys = keys.map(|key| ((key.service.clone(), key.environment), key.secret.expose().to_owned())).collect();
        let traffic = self.traffic.then(|| tokio::spawn(traffic::flow(app.gateway_url(), keys, self.seed)));
        super::until_told_to_stop().await;
        if let Some(traffic) = traffic {
            traffic.abort();
        }
        let stopped = app.stop().await;
        sandbox.stop();
        stopped
    }

    /// Writes the configuration, with the keys of last time if there was one, and reads it as any other.
    fn configure(&self, folder: &Folder, sandbox: &Sandbox, provider_key: &str) -> anyhow::Result<Config> {
        let file = folder.path.join(FILE);
        let mut keys = organisation::keys(self.seed, fill);
        if file.exists() {
            keep_secrets(&mut keys, Config::load(&file)?);
        }
        let listen = choose(self.listen, 8700)?;
        let web_listen = choose(self.web_listen, 8701)?;
        let token = Secret::generate(SecretKind::Operator, None, fill);
        let text = organisation::configuration(
            &Addresses {
                listen: &listen.to_string(),
                web_listen: &web_listen.to_string(),
                data_dir: &folder.path.to_string_lossy(),
                openai_url: &sandbox.openai_url(),
                anthropic_url: &sandbox.anthropic_url(),
                provider_key,
                operator_token: token.expose(),
            },
            &keys,
            expires,
        );
        write_private(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Config::load(&file)?)
    }

    /// The history, and then the present.
    async fn tell(&self, ledger: &Ledger, clock: &Arc<DemoClock>, now: Micros) -> anyhow::Result<Written> {
        let zone = jiff::tz::TimeZone::get(&ledger.catalogue().organisation.time_zone)?;
        let last = zone.to_datetime(now.timestamp()).date();
        let calendar = Calendar { seed: self.seed, zone, last, days: i64::from(self.days) };
        let (told, leading) = (ledger.clone(), clock.clone());
        let written = tokio::task::spawn_blocking(move || {
            let written = history::write(&told, &leading, &calendar, now)?;
            // One last entry at the present, so that the clock need not jump when it is let go.
            leading.lead([SystemClock.now()]);
            told.submit_all(vec![Request::Admin {
                actor: "demo".into(),
                action: "history.written".into(),
                subject: None,
                reason: None,
            }])?;
            anyhow::Ok(written)
        })
        .await??;
        clock.arrive();
        Ok(written)
    }
}

async fn declare(ledger: &Ledger, config: &Config, at: Micros) -> anyhow::Result<()> {
    let plan = control::plan(&ledger.catalogue(), &config.declared, ledger.pepper(), at, false)?;
    control::apply(ledger, &By::new("demo", at), plan).await?;
    Ok(())
}

fn keep_secrets(keys: &mut [SampleKey], before: Config) {
    for declared in before.declared.keys {
        let same = |key: &&mut SampleKey| key.service == declared.service && key.environment == declared.environment;
        if let Some(key) = keys.iter_mut().find(same) {
            key.secret = declared.secret;
        }
    }
}

/// The last day of a key made today, as a date.
fn expires(environment: Environment) -> String {
    let days = jiff::Span::new().days(environment.max_key_days());
    jiff::tz::TimeZone::UTC.to_datetime(SystemClock.now().timestamp()).date().saturating_add(days).to_string()
}

/// The address asked for, else the usual one if it is free, else any free port. Who asked for one gets it or an error.
fn choose(asked: Option<SocketAddr>, usual: u16) -> anyhow::Result<SocketAddr> {
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    if let Some(address) = asked {
        return Ok(address);
    }
    if std::net::TcpListener::bind(loopback(usual)).is_ok() {
        return Ok(loopback(usual));
    }
    writeln!(std::io::stderr(), "port {usual} is taken: a free one is used")?;
    Ok(loopback(0))
}

fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the operating system gives randomness once it has begun to");
}

fn random_text() -> String {
    let mut bytes = [0; 24];
    fill(&mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}

/// For the owner's eyes alone: there are keys in it.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}

/// The data folder; a temporary one goes with the demo.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn open(asked: Option<&Path>) -> anyhow::Result<Folder> {
        use std::os::unix::fs::DirBuilderExt as _;
        let temporary = asked.is_none();
        let path = match asked {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("weighbridge-demo-{}", &random_text()[..12])),
        };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the data folder {}", path.display()))?;
        Ok(Folder { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is a temporary folder all the same.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// What is printed once it runs.
struct Words {
    gateway: String,
    web: String,
    sandbox: String,
    key: String,
    token: String,
    sign_in: String,
    data: String,
    kept: bool,
    written: Option<Written>,
    ready: Duration,
}

impl Words {
    fn as_json(&self) -> String {
        json!({
            "gateway": self.gateway, "web": self.web, "sandbox": self.sandbox, "key": self.key,
            "service": SHOWN.0, "operator_token": self.token, "sign_in": self.sign_in, "data": self.data,
            "calls": self.written.map(|w| w.calls), "refused": self.written.map(|w| w.refused),
            "ready_ms": self.ready.as_millis() as u64
        })
        .to_string()
    }

    fn in_words(&self) -> String {
        let past = match self.written {
            Some(written) => format!("{} calls of history, {} refused", written.calls, written.refused),
            None => "the history of last time".to_owned(),
        };
        let folder = if self.kept { "kept" } else { "removed at the end" };
        let Words { gateway, web, key, token, sign_in, data, .. } = self;
        let (service, environment) = SHOWN;
        format!(
            r#"Nordwind Logistics is at work: {past}, ready in {:.1} s. Nothing leaves this machine.

  web UI          {web}
  sign in         {sign_in}
                  (once, within 30 minutes)
  gateway         {gateway}
  key             {key}
                  (service {service}, {environment})
  operator token  {token}
  data            {data} ({folder})

A call:

  curl -s {gateway}/v1/chat/completions -H "Authorization: Bearer {key}" \
    -H "Content-Type: application/json" \
    -d '{{"model": "gpt-5.2", "messages": [{{"role": "user", "content": "How heavy is the lorry?"}}]}}'

The same with the vendors' SDKs, only base URL and key changed:

  OpenAI(base_url="{gateway}/v1", api_key="{key}")
  Anthropic(base_url="{gateway}", api_key="{key}")

Ctrl-C ends it."#,
            self.ready.as_secs_f64()
        )
    }
}
