//! A plain HTTP client for the demo's own traffic and for tests: no TLS, no redirects, no retries.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Longest wait for the head of an answer, or for its next piece.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pooled client; clones share the pool.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Client {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client { pool: Pool::builder(TokioExecutor::new()).build(connector) }
    }
}

/// An answer whose body is read piece by piece. Dropping it hangs up.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
}

impl Client {
    /// Sends one request.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let response = tokio::time::timeout(PATIENCE, self.pool.request(request)).await??;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Posts JSON.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: &serde_json::Value) -> anyhow::Result<Answer> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, url, &all, Bytes::from(body.to_string())).await
    }

    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }
}

impl Answer {
    /// The next piece of the body; `None` at its proper end.
    pub async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.body.frame()).await? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, and whether it ended properly.
    pub async fn drain(&mut self) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        loop {
            match self.piece().await {
                Ok(Some(piece)) => all.extend_from_slice(&piece),
                Ok(None) => return (all, true),
                Err(_) => return (all, false),
            }
        }
    }

    /// The whole body as JSON.
    pub async fn json(&mut self) -> anyhow::Result<serde_json::Value> {
        let (bytes, _) = self.drain().await;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
