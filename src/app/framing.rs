//! Watches the bytes of HTTP/1 requests for heads that frame their body in two ways.
//!
//! hyper settles `Transfer-Encoding` beside `Content-Length` in favour of the first and closes afterwards; what we send on
//! is framed anew, so nothing can be smuggled. But a request that two parties could read differently is refused rather
//! than interpreted, and hyper has dropped the evidence by the time a handler runs. So the bytes are looked at as they
//! pass: heads line by line, bodies only counted. The same watch ends connections whose first head does not come to its
//! end, with an answer where the client speaks HTTP/1; later heads are hyper's to time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A head longer than this is left to hyper, which refuses it.
const MAX_HEAD: usize = 64 * 1024;
const MAX_CHUNK_LINE: usize = 4 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// The first head of a connection must be whole within this time: shorter than hyper's own, which gives no answer.
const FIRST_HEAD: Duration = Duration::from_secs(9);
/// No dialect can be known without a path. SDKs retry 408 by themselves.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 113\r\nwb-deny: request_timeout\r\nconnection: close\r\n\r\n{\"error\":{\"code\":\"request_timeout\",\"message\":\"Weighbridge: the request's head must be whole within 9 seconds.\"}}\n";

/// A connection whose requests are watched.
pub struct Watched<T> {
    io: T,
    watch: Watch,
    bad: Arc<AtomicBool>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<T> Watched<T> {
    pub fn new(io: T) -> Watched<T> {
        Watched::within(io, FIRST_HEAD)
    }

    fn within(io: T, first_head: Duration) -> Watched<T> {
        let deadline = Some(Box::pin(tokio::time::sleep(first_head)));
        Watched { io, watch: Watch::default(), bad: Arc::default(), deadline }
    }

    /// Set once a request on this connection framed its body in two ways; the connection is of no use then.
    pub fn bad(&self) -> Arc<AtomicBool> {
        self.bad.clone()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if this.watch.feed(&buf.filled()[before..]) {
                    this.bad.store(true, Ordering::Release);
                }
                if this.watch.past_first_head() {
                    this.deadline = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                let late = this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if late {
                    if this.watch.began() {
                        // Nothing else has been written yet, so the socket takes it whole; if it does not, so be it.
                        let _ = Pin::new(&mut this.io).poll_write(cx, TOO_SLOW);
                        let _ = Pin::new(&mut this.io).poll_flush(cx);
                    }
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")));
                }
                Poll::Pending
            }
            ready => ready,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Where in the stream of requests the watch is.
enum At {
    Head(Vec<u8>),
    Body(u64),
    ChunkLine(Vec<u8>),
    /// Bytes of a chunk and its line end.
    Chunk(u64),
    Trailers {
        line: usize,
    },
    /// HTTP/2, or something hyper will refuse.
    Off,
}

struct Watch {
    at: At,
    past_first: bool,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { at: At::Head(Vec::new()), past_first: false }
    }
}

impl Watch {
    /// The first head is whole, or none is to be expected.
    fn past_first_head(&self) -> bool {
        self.past_first
    }

    /// Part of a first HTTP/1 head is here.
    fn began(&self) -> bool {
        matches!(&self.at, At::Head(head) if !self.past_first && !head.is_empty() && !PREFACE.starts_with(head))
    }

    /// Takes the next bytes; true if a head among them frames its body in two ways.
    fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let (used, next) = match &mut self.at {
                At::Off => return false,
                At::Body(left) => skip(left, bytes, || At::Head(Vec::new())),
                At::Chunk(left) => skip(left, bytes, || At::ChunkLine(Vec::new())),
                At::Head(head) => match head_step(head, bytes) {
                    (used, Step::More) => (used, None),
                    (used, Step::Next(at)) => (used, Some(at)),
                    (_, Step::Bad) => {
                        self.past_first = true;
                        self.at = At::Off;
                        return true;
                    }
                },
                At::ChunkLine(line) => chunk_step(line, bytes),
                At::Trailers { line } => trailer_step(line, bytes),
            };
            bytes = &bytes[used..];
            if let Some(next) = next {
                self.past_first = true;
                self.at = next;
            }
        }
        false
    }
}

/// Counts bytes off; what follows once none is left.
fn skip(left: &mut u64, bytes: &[u8], then: impl Fn() -> At) -> (usize, Option<At>) {
    let used = (bytes.len() as u64).min(*left);
    *left -= used;
    (used as usize, (*left == 0).then(then))
}

enum Step {
    More,
    Next(At),
    Bad,
}

fn head_step(head: &mut Vec<u8>, bytes: &[u8]) -> (usize, Step) {
    let before = head.len();
    head.extend_from_slice(bytes);
    if head.starts_with(PREFACE) || head.len() > MAX_HEAD + bytes.len() {
        return (bytes.len(), Step::Next(At::Off));
    }
    // Empty lines before a request line are allowed and mean nothing.
    let blank = head.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let Some(end) = end_of_head(&head[blank..]).map(|end| end + blank) else { return (bytes.len(), Step::More) };
    let step = match framing(&head[blank..end]) {
        Framing::TwoWays => Step::Bad,
        Framing::Chunked => Step::Next(At::ChunkLine(Vec::new())),
        Framing::Length(0) => Step::Next(At::Head(Vec::new())),
        Framing::Length(n) => Step::Next(At::Body(n)),
    };
    (end - before, step)
}

/// The length of a head with its blank line, if it is whole.
fn end_of_head(head: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\n', &head[from..]).map(|i| i + from) {
        match head[at + 1..] {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            _ => from = at + 1,
        }
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    TwoWays,
}

fn framing(head: &[u8]) -> Framing {
    let (mut lengths, mut encodings) = (Vec::new(), Vec::new());
    for line in head.split(|b| *b == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths.push(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings.push(value);
        }
    }
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Framing::Length(0),
        ([], [one]) if one.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        ([one], []) if one.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(one).ok().and_then(|n| n.parse().ok()).map_or(Framing::TwoWays, Framing::Length)
        }
        _ => Framing::TwoWays,
    }
}

fn chunk_step(line: &mut Vec<u8>, bytes: &[u8]) -> (usize, Option<At>) {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        line.extend_from_slice(bytes);
        return (bytes.len(), (line.len() > MAX_CHUNK_LINE).then_some(At::Off));
    };
    line.extend_from_slice(&bytes[..end]);
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let size = std::str::from_utf8(digits).ok().and_then(|d| u64::from_str_radix(d, 16).ok());
    let next = match size {
        None => At::Off,
        Some(0) => At::Trailers { line: 0 },
        Some(size) => At::Chunk(size.saturating_add(2)),
    };
    (end + 1, Some(next))
}

fn trailer_step(line: &mut usize, bytes: &[u8]) -> (usize, Option<At>) {
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if *line == 0 => return (i + 1, Some(At::Head(Vec::new()))),
            b'\n' => *line = 0,
            b'\r' => {}
            _ => *line += 1,
        }
    }
    (bytes.len(), None)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Whether the bytes are noticed, whole and split at every place.
    fn check(text: &str, expected: bool) {
        for at in 0..text.len() {
            let mut watch = Watch::default();
            let bad = watch.feed(&text.as_bytes()[..at]) | watch.feed(&text.as_bytes()[at..]);
            assert_eq!(bad, expected, "split at {at}: {text:?}");
        }
    }

    #[test]
    fn bodies_framed_in_two_ways_are_noticed() {
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true);
        check("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", true);
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", true);
        check("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello", true);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", true);
        check("POST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", true);
    }

    #[test]
    fn requests_in_a_row_are_followed_through_their_bodies() {
        let plain = "POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n";
        let bad = "POST /c HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        check(&format!("{plain}{chunked}{plain}GET / HTTP/1.1\r\n\r\n"), false);
        check(&format!("{plain}{chunked}\r\n{bad}"), true);
        // What stands in a body is not a head.
        check(&format!("POST /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n{bad}", bad.len()), false);
    }

    #[test]
    fn http_2_is_left_alone() {
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", false);
        let mut watch = Watch::default();
        watch.feed(b"PRI * H");
        assert!(!watch.past_first_head() && !watch.began());
        watch.feed(b"TTP/2.0");
        assert!(watch.past_first_head());
    }

    #[tokio::test]
    async fn a_first_head_that_trickles_in_is_answered_and_a_silent_connection_closed() {
        for (sends, answered) in [(true, true), (false, false)] {
            let (mut client, server) = tokio::io::duplex(1024);
            let reader = tokio::spawn(async move {
                let mut watched = Watched::within(server, Duration::from_millis(200));
                let mut bytes = Vec::new();
                watched.read_to_end(&mut bytes).await.unwrap_err().kind()
            });
            let head = b"POST /openai/v1/chat/completions HTTP/1.1\r\n";
            for byte in head.iter().filter(|_| sends) {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(reader.await.unwrap(), io::ErrorKind::TimedOut);
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.starts_with("HTTP/1.1 408 "), answered, "{answer}");
            if let Some((head, body)) = answer.split_once("\r\n\r\n") {
                assert!(head.contains(&format!("content-length: {}", body.len())), "{head}: {}", body.len());
                assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
            }
        }
    }

    #[test]
    fn once_a_head_is_whole_the_clock_stands_still() {
        let mut watch = Watch::default();
        watch.feed(b"GET / HTTP/1.1\r\nhost: x\r\n");
        assert!(watch.began() && !watch.past_first_head());
        watch.feed(b"\r\n");
        assert!(watch.past_first_head());
        watch.feed(b"GET / HT");
        assert!(!watch.began());
    }
}
