//! Connections: HTTP/2 with prior knowledge, TLS with ALPN, shut-down that lets calls end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use weighbridge::config::Tls;

use crate::support::upstream::{self, Step};
use crate::support::{Setup, TestApp, chat_answer, chat_request, server};

const CHAT: &str = "/openai/v1/chat/completions";

fn request(app: &TestApp, authority: &str) -> Request<Full<Bytes>> {
    Request::post(format!("{authority}{CHAT}"))
        .header("authorization", format!("Bearer {}", app.key))
        .header("content-type", "application/json")
        .body(Full::from(chat_request("")))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_without_tls_is_spoken_on_the_same_port() {
    let app = TestApp::start().await;
    let stream = app.client().connect().await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let answer = sender.send_request(request(&app, "http://gateway")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), chat_answer(10, 5));
    }
    assert_eq!(app.calls().len(), 3);
    assert_eq!(app.client().post(CHAT, &chat_request("")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_offers_both_protocols() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let mut server = server();
    server.tls = Some(Tls { cert, key });
    let app = TestApp::with(Setup { server, ..Setup::default() }).await;

    for (alpn, version) in [(&b"h2"[..], http::Version::HTTP_2), (&b"http/1.1"[..], http::Version::HTTP_11)] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, app.client().connect().await).await.unwrap();
        let answer = if version == http::Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request(&app, "https://localhost")).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut request = request(&app, "");
            request.headers_mut().insert("host", "localhost".parse().unwrap());
            sender.send_request(request).await.unwrap()
        };
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), chat_answer(10, 5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_on_both_listeners() {
    let app = TestApp::start().await;
    for addr in [app.app.gateway_addr, app.app.web_addr] {
        for path in ["/healthz", "/readyz"] {
            let client = crate::support::Client { addr, key: String::new() };
            assert_eq!(client.get(path).await.status, 200, "{addr} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shut_down_lets_calls_end_and_settles_them() {
    let app = TestApp::start().await;
    let go = Arc::new(Notify::new());
    app.upstream.next(vec![Step::Wait(go.clone()), upstream::json(&chat_answer(10, 5)).remove(0)]);
    let client = app.client();
    let caller = tokio::spawn(async move { client.post(CHAT, &chat_request("")).await });
    while app.ledger().running().is_empty() || app.upstream.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stopping = tokio::spawn(app.app.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    go.notify_one();
    let answer = caller.await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, chat_answer(10, 5)));
    stopping.await.unwrap().unwrap();
}
