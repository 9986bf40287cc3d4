//! A client that writes and reads raw HTTP/1.1, so that tests see every byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A caller with a key.
#[derive(Clone)]
pub struct Client {
    pub addr: SocketAddr,
    pub key: String,
}

/// An answer, whole or as far as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The body was whole as its framing says.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Client {
    /// POSTs JSON with the key as bearer.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.post_with(path, "", body.as_bytes()).await
    }

    /// The same with header lines of one's own, each ending in CRLF.
    pub async fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut bytes = self.head("POST", path, headers, body.len());
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw(&self.head("GET", path, "", 0)).await
    }

    /// The head of a request on a connection that is closed afterwards.
    pub fn head(&self, method: &str, path: &str, headers: &str, length: usize) -> Vec<u8> {
        let framing = if method == "GET" { String::new() } else { format!("content-length: {length}\r\n") };
        let credential =
            if self.key.is_empty() { String::new() } else { format!("authorization: Bearer {}\r\n", self.key) };
        let typed = if headers.contains("content-type") { "" } else { "content-type: application/json\r\n" };
        format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n{credential}{typed}{headers}{framing}\r\n")
            .into_bytes()
    }

    /// Sends raw bytes and reads the first answer to its end.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        // A server that refuses early may close before everything is written; its answer is still there to be read.
        let _ = stream.write_all(bytes).await;
        timeout(PATIENCE, read_answer(&mut stream)).await.expect("an answer within 30 s")
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("the gateway listens")
    }
}

/// Reads until a needle is in what came, or the connection ends.
pub async fn read_until(stream: &mut TcpStream, needle: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let read = async {
        while !seen.windows(needle.len()).any(|w| w == needle) {
            if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the bytes within 30 s");
    seen
}

/// Reads one answer.
pub async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut raw = Vec::new();
    while stream.read_buf(&mut raw).await.unwrap_or(0) > 0 {}
    parse(&raw)
}

/// Parses an answer of a connection that was closed.
pub fn parse(raw: &[u8]) -> Answer {
    let end = raw
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&raw[..raw.len().min(300)])));
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    let headers = header_lines(head.lines().skip(1));
    let rest = &raw[end + 4..];
    let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    if get("transfer-encoding").as_deref() == Some("chunked") {
        let (body, trailers, whole) = dechunk(rest);
        return Answer { status, headers, body, trailers, whole };
    }
    let whole = get("content-length").is_none_or(|n| n.parse() == Ok(rest.len()));
    Answer { status, headers, body: rest.to_vec(), trailers: Vec::new(), whole }
}

fn header_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect()
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, Vec<(String, String)>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(eol) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, vec![], false) };
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..eol]), 16).expect("a chunk size");
        rest = &rest[eol + 2..];
        if size == 0 {
            let text = String::from_utf8_lossy(rest).into_owned();
            return (body, header_lines(text.lines()), rest.ends_with(b"\r\n"));
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(rest);
            return (body, vec![], false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}
