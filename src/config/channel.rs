//! `[[notify]]`: a channel as people write it, taken apart into what the journal may know and the address that is sealed.
//!
//! Whoever knows the URL of a chat's webhook may post there, mail addresses name persons, and a password is a password: none
//! of them is in a [`Notify`]. They are an [`Address`], which never prints and lies sealed in the store.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::convert::{Noun, Read};
use super::file;
use super::rules::{self, Problem};
use super::secret::SecretSource;
use crate::domain::notify::{ChannelKind, GROUP_S, Notify, Quiet, Transport};

/// What of a channel is sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Of a webhook, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What a webhook is signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(sealed)")
    }
}

impl Address {
    /// As it is sealed.
    pub fn to_secret(&self) -> SecretString {
        SecretString::from(serde_json::to_string(self).unwrap_or_default())
    }

    pub fn from_secret(text: &SecretString) -> Option<Address> {
        serde_json::from_str(text.expose_secret()).ok()
    }

    /// What is not given anew stays as it was.
    pub fn or(self, before: Address) -> Address {
        Address {
            url: self.url.or(before.url),
            secret: self.secret.or(before.secret),
            from: self.from.or(before.from),
            to: if self.to.is_empty() { before.to } else { self.to },
            username: self.username.or(before.username),
            password: self.password.or(before.password),
        }
    }
}

/// A channel that was read, with its address as far as one is given.
pub struct Channel {
    pub notify: Notify,
    pub address: Address,
}

/// Takes a section apart. Its secrets are literals by now; `whole`: it must say where it goes, not only what changes.
pub fn read(mut w: file::Notify, whole: bool) -> Result<Read<Channel>, Vec<Problem>> {
    let mut problems = Vec::new();
    let urls = [
        (ChannelKind::Webhook, w.webhook.take()),
        (ChannelKind::Slack, w.slack.take()),
        (ChannelKind::Teams, w.teams.take()),
        (ChannelKind::Mattermost, w.mattermost.take()),
    ];
    let mut address = Address { secret: literal(w.secret.take()), ..Address::default() };
    let mut found: Vec<(ChannelKind, String, Transport)> = Vec::new();
    for (kind, url) in urls.into_iter().filter_map(|(kind, url)| Some((kind, literal(url)?))) {
        match web_host(&url) {
            Some((host, transport)) => found.push((kind, host, transport)),
            None => problems.push((kind.name(), "not a URL: write https://host/path".to_owned())),
        }
        address.url = Some(url);
    }
    if w.email.is_some() || w.smtp.is_some() {
        found.extend(mail(&mut w, &mut address, whole, &mut problems).map(|(host, t)| (ChannelKind::Email, host, t)));
    }
    if let Some(text) = &w.syslog {
        let known = [("udp", Transport::Udp), ("tcp", Transport::Plain), ("tls", Transport::Tls)];
        match server(text, &known) {
            Some((host, transport)) => found.push((ChannelKind::Syslog, host, transport)),
            None => problems.push(("syslog", "write udp://host:514, tcp://host:601 or tls://host:6514".to_owned())),
        }
    }
    let shown = w.kind.as_deref().and_then(|name| ChannelKind::ALL.into_iter().find(|kind| kind.name() == name));
    let (kind, host, transport) = match (found.as_slice(), shown, w.host.clone()) {
        ([one], _, _) => one.clone(),
        // As it is shown: where it goes stays as it is sealed.
        ([], Some(kind), Some(host)) if !whole => (kind, host, w.transport.unwrap_or(Transport::Tls)),
        _ => {
            if problems.is_empty() {
                let what = "give exactly one of webhook, slack, teams, mattermost, email (with smtp) and syslog";
                problems.push(("id", format!("notify `{}`: {what}", w.id)));
            }
            return Err(problems);
        }
    };
    if address.secret.is_some() && kind != ChannelKind::Webhook {
        problems.push(("secret", format!("{} is not signed: `secret` belongs to a webhook", kind.name())));
    }
    let quiet = w.quiet_hours.as_ref().and_then(|quiet| quiet_hours(quiet, &mut problems));
    let notify = Notify {
        id: w.id,
        kind,
        host,
        transport,
        internal: w.internal,
        default: w.default,
        quiet,
        refusals_wake: w.refusals_wake.unwrap_or(true),
        group_s: w.group_s.unwrap_or(GROUP_S),
        webhook: None,
    };
    problems.extend(rules::notify(&notify));
    let mut warnings = Vec::new();
    if whole && kind == ChannelKind::Webhook && address.secret.is_none() {
        let what = "what is posted is not signed: give it a `secret`, so that its receiver can tell it from a forgery";
        warnings.push(("webhook", what.to_owned()));
    }
    Ok(Read { value: Channel { notify, address }, problems, warnings })
}

fn literal(source: Option<SecretSource>) -> Option<String> {
    match source? {
        SecretSource::Literal(secret) => Some(secret.expose_secret().to_owned()),
        SecretSource::Env(_) | SecretSource::File(_) => None,
    }
}

fn mail(
    w: &mut file::Notify,
    address: &mut Address,
    whole: bool,
    problems: &mut Vec<Problem>,
) -> Option<(String, Transport)> {
    address.to = w.email.take().unwrap_or_default();
    let Some(smtp) = w.smtp.take() else {
        if whole {
            let what = "mail needs a server: smtp = { server = \"starttls://smtp.example.com:587\", from = \"…\" }";
            problems.push(("email", what.to_owned()));
        }
        return None;
    };
    (address.from, address.username, address.password) = (smtp.from, smtp.username, literal(smtp.password));
    if whole && address.from.is_none() {
        problems.push(("smtp", "mail needs a sender: from = \"weighbridge@example.com\"".to_owned()));
    }
    for text in address.to.iter().chain(&address.from) {
        let sound = text.len() <= 254 && text.contains('@') && !text.chars().any(char::is_control);
        if !sound {
            problems.push(("email", "not a mail address: write name@host".to_owned()));
        }
    }
    if address.to.len() > 50 {
        problems.push(("email", "more than 50 addresses: use a mailing list".to_owned()));
    }
    let known = [("smtps", Transport::Tls), ("starttls", Transport::StartTls), ("smtp", Transport::Plain)];
    let found = server(&smtp.server, &known);
    if found.is_none() {
        let what = "write starttls://host:587, smtps://host:465, or smtp://host:25 where nothing hides it";
        problems.push(("smtp", what.to_owned()));
    }
    found
}

/// `scheme://host:port`.
fn server(text: &str, known: &[(&str, Transport)]) -> Option<(String, Transport)> {
    let (scheme, host) = text.trim_end_matches('/').split_once("://")?;
    let transport = known.iter().find(|(name, _)| *name == scheme)?.1;
    let authority: http::uri::Authority = host.parse().ok()?;
    (authority.port_u16().is_some() && !host.contains('@')).then(|| (host.to_owned(), transport))
}

fn web_host(url: &str) -> Option<(String, Transport)> {
    let uri: http::Uri = url.parse().ok()?;
    let transport = match uri.scheme_str()? {
        "https" => Transport::Tls,
        "http" => Transport::Plain,
        _ => return None,
    };
    let authority = uri.authority()?;
    (!authority.as_str().contains('@')).then(|| (authority.as_str().to_owned(), transport))
}

fn quiet_hours(written: &file::QuietHours, problems: &mut Vec<Problem>) -> Option<Quiet> {
    let mut minute = |text: &str| {
        let parsed = text.split_once(':').and_then(|(h, m)| Some((h.parse::<u16>().ok()?, m.parse::<u16>().ok()?)));
        let found = parsed.filter(|(h, m)| *h < 24 && *m < 60).map(|(h, m)| h * 60 + m);
        if found.is_none() {
            problems.push(("quiet_hours", format!("`{text}` is not a time of day: write 22:00")));
        }
        found
    };
    let (from, to) = (minute(&written.from)?, minute(&written.to)?);
    if from == to {
        problems.push(("quiet_hours", "they begin when they end: leave them out, or choose another end".to_owned()));
    }
    Some(Quiet { from, to, zone: written.time_zone.clone() })
}

/// For people: everything but the address.
pub fn written(n: &Notify) -> file::Notify {
    let scheme = match (n.kind, n.transport) {
        (ChannelKind::Email, Transport::Tls) => "smtps",
        (ChannelKind::Email, Transport::StartTls) => "starttls",
        (ChannelKind::Email, _) => "smtp",
        (_, Transport::Udp) => "udp",
        (_, Transport::Tls) => "tls",
        _ => "tcp",
    };
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let quiet_hours = n.quiet.as_ref().map(|quiet| file::QuietHours {
        from: time(quiet.from),
        to: time(quiet.to),
        time_zone: quiet.zone.clone(),
    });
    file::Notify {
        id: n.id.clone(),
        webhook: None,
        secret: None,
        slack: None,
        teams: None,
        mattermost: None,
        email: None,
        smtp: None,
        syslog: (n.kind == ChannelKind::Syslog).then(|| format!("{scheme}://{}", n.host)),
        kind: Some(n.kind.name().to_owned()),
        host: Some(n.host.clone()),
        transport: Some(n.transport),
        internal: n.internal,
        default: n.default,
        quiet_hours,
        refusals_wake: Some(n.refusals_wake),
        group_s: Some(n.group_s),
    }
}

impl Noun for Notify {
    type Written = file::Notify;

    fn read(w: file::Notify) -> Result<Read<Notify>, Vec<Problem>> {
        let Read { value, problems, warnings } = read(w, false)?;
        Ok(Read { value: value.notify, problems, warnings })
    }

    fn written(&self) -> file::Notify {
        written(self)
    }
}
