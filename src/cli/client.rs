//! How a command reaches the ledger: through a running server's API, or through the same API over a data folder.

use std::io::Write;
use std::path::PathBuf;

use axum::body::Body;
use clap::Args;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tower::ServiceExt;

use crate::api::{Api, router};
use crate::domain::key::SecretKind;
use crate::store::{Clock, Durability, Ledger, Options, new_secret};

use super::Failure;

/// Where the server's admin API is, if nothing says.
const DEFAULT_URL: &str = "http://127.0.0.1:8701";
/// Largest answer that is held whole; files are streamed.
const MOST_BYTES: usize = 64 << 20;

/// Which ledger a command is about.
#[derive(Debug, Args)]
pub struct Reach {
    /// Address of a running server's web listener
    #[arg(long, env = "WEIGHBRIDGE_URL", default_value = DEFAULT_URL, global = true)]
    url: String,
    /// An operator's token, or the configured operator token
    #[arg(long, env = "WEIGHBRIDGE_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// Open this data folder instead; no server may be running on it
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

/// An open way to a ledger.
pub struct Client {
    way: Way,
    token: SecretString,
}

enum Way {
    Server {
        url: String,
        http: Box<Http<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Body>>,
    },
    Folder {
        router: axum::Router,
        ledger: Ledger,
    },
}

impl Reach {
    /// The folder, where one was named.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.data.as_deref()
    }

    /// Opens the folder or makes a client; no request is sent yet.
    pub fn open(&self) -> Result<Client, Failure> {
        match &self.data {
            Some(dir) => Client::folder(dir),
            None => Client::server(&self.url, self.token.as_deref()),
        }
    }
}

impl Client {
    fn folder(dir: &std::path::Path) -> Result<Client, Failure> {
        let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(crate::store::clock::SystemClock);
        let ledger = Ledger::open(dir, Options { durability: Durability::Strict, clock })?;
        // The same API, with a token nobody else has: what it checks and records is the same too.
        let secret = new_secret(SecretKind::Operator, None)?;
        let token = SecretString::from(secret.expose());
        let router = router(Api::new(ledger.clone(), Some(token.clone())));
        Ok(Client { way: Way::Folder { router, ledger }, token })
    }

    fn server(url: &str, token: Option<&str>) -> Result<Client, Failure> {
        let Some(token) = token else {
            return Err(Failure::usage(
                "set WEIGHBRIDGE_TOKEN to an operator's token (wbo_…), or name a folder with --data",
            ));
        };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)
            .map_err(|error| Failure::unreachable(format!("no TLS: {error}")))?
            .https_or_http()
            .enable_http1()
            .build();
        let http = Box::new(Http::builder(TokioExecutor::new()).build(connector));
        let url = url.trim_end_matches('/').to_owned();
        Ok(Client { way: Way::Server { url, http }, token: SecretString::from(token) })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        accept: &str,
    ) -> Result<Response<Body>, Failure> {
        let base = match &self.way {
            Way::Server { url, .. } => url.as_str(),
            Way::Folder { .. } => "",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{base}/api/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose_secret()))
            .header(header::ACCEPT, accept);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |value| Body::from(value.to_string()));
        let request = request.body(body).map_err(|e| Failure::usage(format!("`{base}{path}` is no address: {e}")))?;
        match &self.way {
            Way::Server { url, http } => {
                let answer = http.request(request).await;
                let answer = answer.map_err(|error| {
                    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                    Failure::unreachable(format!(
                        "cannot reach `{url}`: {why}; is the server running? (WEIGHBRIDGE_URL)"
                    ))
                })?;
                Ok(answer.map(Body::new))
            }
            Way::Folder { router, .. } => match router.clone().oneshot(request).await {
                Ok(answer) => Ok(answer),
                Err(never) => match never {},
            },
        }
    }

    /// The answer as JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let answer = self.send(method, path, body, "application/json").await?;
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), MOST_BYTES).await;
        let bytes = bytes.map_err(|error| Failure::unreachable(format!("the answer broke off: {error}")))?;
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::unreachable("the answer is not JSON: is that a Weighbridge?"))
    }

    /// The answer as it comes, to standard output.
    pub async fn print(&self, path: &str) -> Result<(), Failure> {
        self.print_as(path, "*/*").await
    }

    /// The same, of one of the forms a path has.
    pub async fn print_as(&self, path: &str, accept: &str) -> Result<(), Failure> {
        let answer = self.send(Method::GET, path, None, accept).await?;
        pass_on(answer, &mut std::io::stdout().lock()).await
    }

    /// The answer as it comes, to a file.
    pub async fn save(&self, path: &str, out: &mut impl Write) -> Result<(), Failure> {
        let answer = self.send(Method::GET, path, None, "*/*").await?;
        pass_on(answer, out).await
    }

    /// Closes what was opened.
    pub async fn close(self) -> Result<(), Failure> {
        if let Way::Folder { router, ledger } = self.way {
            drop(router);
            ledger.close().await?;
        }
        Ok(())
    }
}

/// Writes a body as it comes; what went before a failure stays written.
async fn pass_on(answer: Response<Body>, out: &mut impl Write) -> Result<(), Failure> {
    let status = answer.status();
    let mut body = answer.into_body();
    if !status.is_success() {
        let bytes = axum::body::to_bytes(body, MOST_BYTES).await.unwrap_or_default();
        return Err(refused(status, &bytes));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::unreachable(format!("the answer broke off: {error}")))?;
        if let Some(chunk) = frame.data_ref() {
            out.write_all(chunk)?;
        }
    }
    Ok(())
}

/// What a refusal means for a command: its words, and its exit code.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.as_ref().and_then(|v| v["error"]["message"].as_str()).unwrap_or_default();
    let message = if said.is_empty() { format!("the server answered {status}") } else { said.to_owned() };
    match status {
        StatusCode::BAD_REQUEST => Failure::usage(message),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::unreachable(message),
        status if status.is_server_error() => Failure::unreachable(message),
        _ => Failure::no(message),
    }
}

/// Runs a command with an open client, and closes it whatever became of the command.
pub fn with<F>(reach: &Reach, work: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(&Client) -> Result<(), Failure>,
{
    super::runtime()?.block_on(async {
        let client = reach.open()?;
        let done = work(&client).await;
        let closed = client.close().await;
        done.and(closed)
    })
}

/// One segment of a path or one value of a query.
pub fn escaped(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(b as char);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}
