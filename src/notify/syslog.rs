//! Syslog: RFC 5424 with a CEF payload, one per alert, by datagram, TCP or TLS (RFC 6587 and 5425: octet counting).
//!
//! Syslog never answers: what was handed to the network is delivered as far as anybody can know. The id in each line tells
//! a repetition.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::domain::notify::{Notify, Transport};
use crate::gateway::connect::resolve;

use super::{Message, NotSent, Part};

/// local0.
const FACILITY: u8 = 16;
/// Longest datagram.
const DATAGRAM: usize = 2_000;

pub async fn send(channel: &Notify, message: &Message) -> Result<(), NotSent> {
    let (host, addresses) = resolve(&channel.host, channel.internal).await.map_err(NotSent::because)?;
    let lines: Vec<String> = message.parts.iter().map(line).collect();
    match channel.transport {
        Transport::Udp => datagrams(&addresses, &lines).await.map_err(NotSent::because),
        Transport::Tls => {
            let name = ServerName::try_from(host).map_err(|_| NotSent::because("no TLS for this host name"))?;
            let stream = TcpStream::connect(addresses.as_slice()).await.map_err(NotSent::because)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls()));
            let stream = connector.connect(name, stream).await.map_err(NotSent::because)?;
            frames(stream, &lines).await.map_err(NotSent::because)
        }
        Transport::Plain | Transport::StartTls => {
            let stream = TcpStream::connect(addresses.as_slice()).await.map_err(NotSent::because)?;
            frames(stream, &lines).await.map_err(NotSent::because)
        }
    }
}

async fn datagrams(addresses: &[SocketAddr], lines: &[String]) -> std::io::Result<()> {
    let Some(to) = addresses.first() else { return Err(std::io::ErrorKind::NotFound.into()) };
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    for line in lines {
        let mut end = line.len().min(DATAGRAM);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        socket.send_to(&line.as_bytes()[..end], to).await?;
    }
    Ok(())
}

async fn frames(mut stream: impl AsyncWrite + Unpin, lines: &[String]) -> std::io::Result<()> {
    for line in lines {
        stream.write_all(format!("{} {line}", line.len()).as_bytes()).await?;
    }
    stream.flush().await?;
    stream.shutdown().await
}

fn tls() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

/// One alert as a line.
fn line(part: &Part) -> String {
    let severity = match part.words.severity {
        9.. => 3,
        7..=8 => 4,
        4..=6 => 5,
        _ => 6,
    };
    let pri = FACILITY * 8 + severity;
    // The header has milliseconds at most six digits wide; the journal's microseconds fit.
    format!("<{pri}>1 {} - weighbridge - {} - {}", part.raised_at, part.alert.kind, cef(part))
}

fn cef(part: &Part) -> String {
    let (a, w) = (&part.alert, &part.words);
    let version = env!("CARGO_PKG_VERSION");
    let header = |t: &str| t.replace('\\', "\\\\").replace('|', "\\|");
    let value = |t: &str| t.replace('\\', "\\\\").replace('=', "\\=").replace('\n', "\\n");
    let mut line = format!(
        "CEF:0|Weighbridge|Weighbridge|{version}|{}|{}|{}|externalId={} rt={} msg={} request={}",
        header(&a.kind),
        header(&w.title),
        w.severity,
        value(&part.id),
        part.raised_at.0.div_euclid(1_000),
        value(&w.text),
        value(&w.url),
    );
    let more =
        [("budget", a.budget.as_str()), ("period", a.period.as_str()), ("key", a.subject.as_deref().unwrap_or(""))];
    for (n, (name, text)) in more.into_iter().filter(|(_, text)| !text.is_empty()).enumerate() {
        let n = n + 1;
        // Writing to a text does not fail.
        let _ = write!(line, " cs{n}Label={name} cs{n}={}", value(text));
    }
    line
}
