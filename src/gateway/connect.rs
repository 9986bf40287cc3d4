//! Connections to providers, and to where alerts go: pooled, without redirects, proxies or retries of what was sent.
//!
//! A provider that is not marked `internal` never resolves to loopback, private, link-local or metadata addresses: each
//! name is resolved once, and the addresses that were looked at are the ones connected to.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Largest answer head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A pooled HTTP client. Clones share the pool.
pub type Upstream = Pool<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// The clients for public and for internal providers.
#[derive(Clone)]
pub struct Clients {
    public: Upstream,
    internal: Upstream,
}

impl Clients {
    /// Makes both clients. TLS is always verified, against the Mozilla roots in the binary.
    pub fn new() -> Clients {
        Clients { public: client(Resolver { internal: false }), internal: client(Resolver { internal: true }) }
    }

    /// The client for a provider, or why its address must not be connected to.
    pub fn of(&self, internal: bool, uri: &Uri) -> Result<&Upstream, ForbiddenAddress> {
        if internal {
            return Ok(&self.internal);
        }
        refuse_inside(uri).map(|()| &self.public)
    }
}

/// A client that believes servers with a certificate of `roots` (PEM) alone. Not pooled with the others.
pub fn trusting(roots: &[u8], internal: bool) -> Result<Upstream, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots) {
        let certificate = certificate.map_err(|e| format!("the CA file is no PEM: {e}"))?;
        store.add(certificate).map_err(|e| format!("a certificate of the CA file cannot be used: {e}"))?;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
    Ok(pool(hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config), Resolver { internal }))
}

impl Default for Clients {
    fn default() -> Clients {
        Clients::new()
    }
}

/// An address written as a number never reaches the resolver.
pub fn refuse_inside(uri: &Uri) -> Result<(), ForbiddenAddress> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) if !is_public(address) => Err(ForbiddenAddress(host.to_owned())),
        _ => Ok(()),
    }
}

/// An address that only internal providers may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is a loopback, private or link-local address: set `internal = true` on the provider or channel if that is meant"
)]
pub struct ForbiddenAddress(pub String);

fn client(resolver: Resolver) -> Upstream {
    pool(hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots(), resolver)
}

fn pool(tls: HttpsConnectorBuilder<WantsSchemes>, resolver: Resolver) -> Upstream {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(Duration::from_secs(60)));
    let https = tls.https_or_http().enable_http1().enable_http2().wrap_connector(http);
    Pool::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(256)
        .http1_max_buf_size(MAX_HEAD)
        .http2_max_header_list_size(MAX_HEAD as u32)
        .http2_adaptive_window(true)
        .build(https)
}

/// Resolves names, leaving out the addresses a provider must not have.
#[derive(Clone, Copy)]
pub struct Resolver {
    internal: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let internal = self.internal;
        Box::pin(async move { allowed(name.as_str().to_owned(), 0, internal).await.map(Vec::into_iter) })
    }
}

/// The addresses of a name that may be connected to.
async fn allowed(host: String, port: u16, internal: bool) -> io::Result<Vec<SocketAddr>> {
    let name = host.clone();
    let lookup = tokio::task::spawn_blocking(move || (name.as_str(), port).to_socket_addrs());
    let found = lookup.await.map_err(io::Error::other)??;
    let allowed: Vec<SocketAddr> = found.filter(|a| internal || is_public(a.ip())).collect();
    if allowed.is_empty() { Err(io::Error::other(ForbiddenAddress(host))) } else { Ok(allowed) }
}

/// `host:port`, looked up once: the host, for TLS, and the addresses to connect to.
pub async fn resolve(authority: &str, internal: bool) -> io::Result<(String, Vec<SocketAddr>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "not host:port");
    let authority: http::uri::Authority = authority.parse().map_err(|_| bad())?;
    let port = authority.port_u16().ok_or_else(bad)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses = allowed(host.clone(), port, internal).await?;
    Ok((host, addresses))
}

/// Whether an address may be a public provider's. Addresses that embed an IPv4 address are judged by that one.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            let protocol = a == 192 && b == 0 && c == 0;
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 224
                || shared
                || benchmark
                || protocol)
        }
        IpAddr::V6(v6) => {
            let s = v6.segments();
            // 64:ff9b::/96 (NAT64), 2002::/16 (6to4) and ::/96 carry an IPv4 address that would be reached through them.
            let embedded = match s {
                [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] | [0, 0, 0, 0, 0, 0, hi, lo] | [0x2002, hi, lo, ..] => {
                    Some(std::net::Ipv4Addr::from(u32::from(hi) << 16 | u32::from(lo)))
                }
                _ => None,
            };
            let reserved = v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || (s[0] & 0xfe00) == 0xfc00
                || (s[0] & 0xffc0) == 0xfe80
                || (s[0] & 0xffc0) == 0xfec0
                || (s[0] == 0x2001 && s[1] == 0xdb8);
            !reserved && embedded.is_none_or(|v4| is_public(IpAddr::V4(v4)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_not_public_however_they_are_written() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "ff02::1",
            "2001:db8::1",
            "::7f00:1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["1.1.1.1", "104.18.6.192", "2606:4700::6812:7c0", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn literal_addresses_are_judged_before_any_connection() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let clients = Clients::new();
        for bad in
            ["http://127.0.0.1:1/", "https://[::1]/x", "http://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/"]
        {
            assert!(clients.of(false, &bad.parse().unwrap()).is_err(), "{bad}");
            assert!(clients.of(true, &bad.parse().unwrap()).is_ok(), "{bad}");
        }
    }

    #[tokio::test]
    async fn names_that_resolve_inside_are_refused_for_public_providers() {
        let name: Name = "localhost".parse().unwrap();
        assert!(Resolver { internal: false }.call(name.clone()).await.is_err());
        assert!(Resolver { internal: true }.call(name).await.is_ok());
        // Decimal and hexadecimal spellings are the system resolver's business, and it says what they are.
        for odd in ["2130706433", "0x7f.1"] {
            assert!(Resolver { internal: false }.call(odd.parse().unwrap()).await.is_err(), "{odd}");
        }
    }
}
