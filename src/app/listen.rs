//! Accepts connections: HTTP/1.1 and HTTP/2 on one port, TLS where configured, bounded in number, time and header size.
//!
//! The loop is our own because each of these bounds needs a place in it: a handshake may take 10 s and happens in the
//! connection's own task, heads may take 10 s and 32 KiB, and at shut-down every connection is asked to finish its request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::BadFraming;

use super::framing::Watched;

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: u32 = 32 * 1024;
const MAX_STREAMS: u32 = 256;

/// What a listener needs beside its socket.
#[derive(Clone)]
pub struct Terms {
    pub tls: Option<TlsAcceptor>,
    /// Most connections at once; more wait in the system's queue.
    pub connections: usize,
    /// Cancelled at shut-down: no new connections, no new requests on old ones.
    pub stop: CancellationToken,
    /// The connections that are open.
    pub open: TaskTracker,
}

/// Serves a listener until it is told to stop.
pub async fn serve<H, F, B>(listener: TcpListener, terms: Terms, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(terms.connections.min(Semaphore::MAX_PERMITS)));
    loop {
        let place = tokio::select! {
            () = terms.stop.cancelled() => return,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = terms.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was taken: neither ends the listener.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (handler, own) = (handler.clone(), terms.clone());
        terms.open.spawn(async move {
            connection(stream, peer, own, handler).await;
            drop(place);
        });
    }
}

async fn connection<H, F, B>(stream: TcpStream, peer: SocketAddr, terms: Terms, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match &terms.tls {
        None => speak(stream, peer, terms.stop, handler).await,
        Some(tls) => {
            // In a box of its own, so that connections without TLS do not keep room for it.
            let accepted = Box::pin(tokio::time::timeout(HANDSHAKE, tls.accept(stream))).await;
            if let Ok(Ok(stream)) = accepted {
                Box::pin(speak(stream, peer, terms.stop, handler)).await;
            }
        }
    }
}

async fn speak<T, H, F, B>(stream: T, peer: SocketAddr, stop: CancellationToken, handler: H)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = Watched::new(stream);
    let bad = stream.bad();
    let service = service_fn(move |request| answer(request, peer, bad.clone(), handler.clone()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer<H, F, B>(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    bad: Arc<AtomicBool>,
    handler: H,
) -> Result<Response<B>, Infallible>
where
    H: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response<B>>,
{
    let framed_badly = bad.load(Ordering::Acquire);
    if framed_badly {
        request.extensions_mut().insert(BadFraming);
    }
    let mut response = handler(request, peer).await;
    if framed_badly {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
