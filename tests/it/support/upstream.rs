//! A fake provider that speaks raw HTTP/1.1: it sends exactly the bytes it is told and remembers exactly what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// One thing the provider does after it has read a request.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// The same bytes, many times.
    Repeat(Vec<u8>, usize),
    /// Goes on when it is told to.
    Wait(Arc<Notify>),
    Sleep(Duration),
    /// Never goes on.
    Hang,
    /// Breaks the connection off.
    Break,
}

/// A request as the provider got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// Used up first, one per request.
    queue: VecDeque<Vec<Step>>,
    always: Vec<Step>,
    /// Connections the gateway closed while an answer was under way.
    hung_up: usize,
}

/// The fake provider.
#[derive(Clone)]
pub struct Upstream {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = Upstream { addr: listener.local_addr().unwrap(), state: Arc::default() };
        upstream.always(json(&super::chat_answer(10, 5)));
        let own = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Small pieces leave at once, as providers' do.
                stream.set_nodelay(true).expect("a connected socket");
                tokio::spawn(own.clone().connection(stream));
            }
        });
        upstream
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What to do for every request that nothing else is queued for.
    pub fn always(&self, steps: Vec<Step>) {
        self.state.lock().unwrap().always = steps;
    }

    /// What to do for the next request.
    pub fn next(&self, steps: Vec<Step>) {
        self.state.lock().unwrap().queue.push_back(steps);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The request that came last.
    pub fn last_seen(&self) -> Option<Seen> {
        self.state.lock().unwrap().seen.last().cloned()
    }

    /// How often the gateway hung up while an answer was under way.
    pub fn hung_up(&self) -> usize {
        self.state.lock().unwrap().hung_up
    }

    async fn connection(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(seen) = read_request(&mut stream, &mut buffer).await {
            let steps = {
                let mut state = self.state.lock().unwrap();
                state.seen.push(seen);
                state.queue.pop_front().unwrap_or_else(|| state.always.clone())
            };
            if !self.perform(&mut stream, steps).await {
                return;
            }
        }
    }

    /// False if the connection is over.
    async fn perform(&self, stream: &mut TcpStream, steps: Vec<Step>) -> bool {
        let gone = || self.state.lock().unwrap().hung_up += 1;
        for step in steps {
            let mut probe = [0u8; 1];
            let sent = match step {
                Step::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
                Step::Repeat(bytes, times) => {
                    let mut ok = true;
                    for _ in 0..times {
                        ok = ok && stream.write_all(&bytes).await.is_ok();
                    }
                    ok
                }
                Step::Sleep(time) => {
                    tokio::time::sleep(time).await;
                    true
                }
                Step::Wait(notify) => tokio::select! {
                    () = notify.notified() => true,
                    read = stream.read(&mut probe) => matches!(read, Ok(1..)),
                },
                Step::Hang => matches!(stream.read(&mut probe).await, Ok(1..)),
                Step::Break => return false,
            };
            if !sent {
                gone();
                return false;
            }
        }
        true
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let target = first.nth(1)?.to_owned();
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let length: usize = headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(Seen { target, headers, body })
}

/// A whole answer.
pub fn answer(status: &str, content_type: &str, extra: &str, body: &[u8]) -> Vec<Step> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n{extra}content-length: {}\r\n\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    vec![Step::Send(bytes)]
}

/// A plain JSON answer with status 200.
pub fn json(body: &str) -> Vec<Step> {
    answer("200 OK", "application/json", "x-request-id: req_upstream\r\n", body.as_bytes())
}

/// The head of a stream of events in chunks.
pub fn events_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_upstream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
    )
}

/// One chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The end of a chunked body.
pub fn last_chunk() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}

/// A whole stream of events.
pub fn events(events: &[String]) -> Vec<Step> {
    let mut steps = vec![events_head()];
    steps.extend(events.iter().map(|e| Step::Send(chunk(e.as_bytes()))));
    steps.push(last_chunk());
    steps
}
