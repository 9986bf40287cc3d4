//! Mail: one message to the addresses of a channel, or to an owner, through the organisation's own server.
//!
//! The server's name is resolved here, so that a channel that is not internal never reaches into the network. What a server
//! answers may repeat addresses: only its code is recorded.

use lettre::Message as Mail;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use crate::control::Address;
use crate::domain::notify::{Notify, Transport};
use crate::gateway::connect::resolve;

use super::{Message, NotSent, PATIENCE};

pub async fn send(channel: &Notify, address: &Address, message: &Message) -> Result<(), NotSent> {
    let mail = compose(address, message)?;
    let (host, addresses) = resolve(&channel.host, channel.internal).await.map_err(NotSent::because)?;
    let tls = || TlsParameters::new_rustls(host.clone()).map_err(|_| NotSent::because("no TLS for this host name"));
    let hello = ClientId::Domain("weighbridge".to_owned());
    let wrapped = if channel.transport == Transport::Tls { Some(tls()?) } else { None };
    let connected = AsyncSmtpConnection::connect_tokio1(addresses.as_slice(), Some(PATIENCE), &hello, wrapped, None);
    let mut connection = connected.await.map_err(told)?;
    let result = converse(&mut connection, channel, address, &hello, tls, &mail).await;
    connection.abort().await;
    result
}

async fn converse(
    connection: &mut AsyncSmtpConnection,
    channel: &Notify,
    address: &Address,
    hello: &ClientId,
    tls: impl Fn() -> Result<TlsParameters, NotSent>,
    mail: &Mail,
) -> Result<(), NotSent> {
    if channel.transport == Transport::StartTls {
        connection.starttls(tls()?, hello).await.map_err(told)?;
    }
    if let (Some(name), Some(password)) = (&address.username, &address.password) {
        let credentials = Credentials::new(name.clone(), password.clone());
        connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(told)?;
    }
    connection.send(mail.envelope(), &mail.formatted()).await.map_err(told)?;
    Ok(())
}

/// What may be recorded of an error.
fn told(error: lettre::transport::smtp::Error) -> NotSent {
    if let Some(code) = error.status() {
        return NotSent::because(format!("the mail server answered {code}"));
    }
    NotSent::because(match () {
        () if error.is_timeout() => "the mail server did not answer in time",
        () if error.is_tls() => "TLS with the mail server failed",
        () if error.is_client() => "the mail server lacks what the channel asks for (STARTTLS or a way to sign in)",
        () => "the mail server was not reached",
    })
}

fn compose(address: &Address, message: &Message) -> Result<Mail, NotSent> {
    let bad = |what: &str| NotSent { for_good: true, ..NotSent::because(what) };
    let from: Mailbox =
        address.from.as_deref().unwrap_or_default().parse().map_err(|_| bad("the sender is no mail address"))?;
    let domain = from.email.domain().to_owned();
    let subject = match message.parts.as_slice() {
        [one] => one.words.title.clone(),
        all => format!("{} alerts", all.len()),
    };
    let mut builder = Mail::builder()
        .from(from)
        .subject(format!("[Weighbridge] {subject}"))
        .date(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(message.at.0.max(0).unsigned_abs()))
        .message_id(Some(format!("<{}@{domain}>", message.id)));
    for to in &address.to {
        builder = builder.to(to.parse().map_err(|_| bad("a recipient is no mail address"))?);
    }
    let text = |part: &super::Part| format!("{}\n{}\n{}\n", part.words.title, part.words.text, part.words.url);
    let mut body = message.parts.iter().map(text).collect::<Vec<_>>().join("\n");
    body.push_str(&format!("\n-- \nWeighbridge of {}\n", message.organisation));
    let mut mail = builder.header(ContentType::TEXT_PLAIN).body(body).map_err(|_| bad("the mail cannot be written"))?;
    let headers = [("Auto-Submitted", "auto-generated"), ("Webhook-Id", message.id.as_str())];
    for (name, value) in headers {
        mail.headers_mut().insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
    }
    Ok(mail)
}
