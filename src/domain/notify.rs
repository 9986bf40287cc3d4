//! Channels: where alerts go, as far as the journal knows them. What lets anybody post (a webhook's URL, its signing
//! secret, mail addresses, passwords) is not here: it lies sealed in the store.

use serde::{Deserialize, Serialize};

use super::time::Micros;

/// Seconds an alert waits for others that go the same way, unless the channel says otherwise.
pub const GROUP_S: u16 = 10;

/// How a channel speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// Signed JSON to a URL.
    Webhook,
    Slack,
    Teams,
    Mattermost,
    Email,
    Syslog,
}

impl ChannelKind {
    pub const ALL: [ChannelKind; 6] = [
        ChannelKind::Webhook,
        ChannelKind::Slack,
        ChannelKind::Teams,
        ChannelKind::Mattermost,
        ChannelKind::Email,
        ChannelKind::Syslog,
    ];

    pub const fn name(self) -> &'static str {
        ["webhook", "slack", "teams", "mattermost", "email", "syslog"][self as usize]
    }
}

/// What lies between us and the host of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// `https`, or mail and syslog over TLS from the first byte.
    Tls,
    /// Mail that turns to TLS before anything is said.
    StartTls,
    /// Nothing that hides it: `http`, `smtp`, TCP. For internal hosts only.
    Plain,
    /// Syslog by datagrams.
    Udp,
}

/// Hours in which a channel is not disturbed, every day: what comes meanwhile is told together when they end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Minutes after local midnight, inclusive.
    pub from: u16,
    /// The same, exclusive. Before `from`: on the next day.
    pub to: u16,
    /// IANA name; absent = the organisation's.
    pub zone: Option<String>,
}

impl Quiet {
    /// When the quiet hours around an instant end; none where it is not in them. A clock that is set forward over their
    /// beginning or end moves it to the first instant after the gap; one that is set back makes them longer or shorter.
    pub fn until(&self, at: Micros, zone: &jiff::tz::TimeZone) -> Option<Micros> {
        if self.from == self.to {
            return None;
        }
        let today = zone.to_datetime(at.timestamp()).date();
        let instant = |day: jiff::civil::Date, minute: u16| {
            let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
            let found = zone.to_ambiguous_zoned_datetime(day.at(hour, minute, 0, 0)).compatible().ok()?;
            Some(Micros::from_timestamp(found.timestamp()))
        };
        // They may have begun yesterday.
        [today.yesterday().ok()?, today].into_iter().find_map(|day| {
            let last = if self.to < self.from { day.tomorrow().ok()? } else { day };
            let (from, to) = (instant(day, self.from)?, instant(last, self.to)?);
            (from <= at && at < to).then_some(to)
        })
    }
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    pub id: String,
    pub kind: ChannelKind,
    /// Host, and port where one is named: what is shown of the address.
    pub host: String,
    pub transport: Transport,
    /// May resolve to loopback and private addresses.
    pub internal: bool,
    /// Takes what nobody else is named for; a mail channel that is default, or the only one, also carries what goes to owners.
    pub default: bool,
    pub quiet: Option<Quiet>,
    /// Refusals by a budget are told in quiet hours, too.
    pub refusals_wake: bool,
    /// Seconds an alert waits for others, so that they are told together.
    pub group_s: u16,
    /// The whole URL of a webhook that an earlier version wrote into the journal.
    pub webhook: Option<String>,
}

impl Notify {
    /// A webhook as earlier versions declared it.
    pub fn legacy(id: String, webhook: String) -> Notify {
        let url = webhook.parse::<url_parts::Parts>().unwrap_or_default();
        Notify {
            id,
            kind: ChannelKind::Webhook,
            host: url.host,
            transport: if url.tls { Transport::Tls } else { Transport::Plain },
            internal: false,
            default: false,
            quiet: None,
            refusals_wake: true,
            group_s: GROUP_S,
            webhook: Some(webhook),
        }
    }
}

mod url_parts {
    use std::convert::Infallible;
    use std::str::FromStr;

    /// What a URL says before its path.
    #[derive(Default)]
    pub struct Parts {
        pub host: String,
        pub tls: bool,
    }

    impl FromStr for Parts {
        type Err = Infallible;
        fn from_str(url: &str) -> Result<Parts, Infallible> {
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            Ok(Parts { host: host.to_owned(), tls: scheme.eq_ignore_ascii_case("https") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(from: u16, to: u16) -> Quiet {
        Quiet { from: from * 60, to: to * 60, zone: None }
    }

    #[track_caller]
    fn check(quiet: &Quiet, at: &str, until: Option<&str>) {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        let found = quiet.until(at.parse().unwrap(), &zone).map(|until| until.to_string());
        assert_eq!(found, until.map(|t| t.parse::<Micros>().unwrap().to_string()), "at {at}");
    }

    #[test]
    fn quiet_hours_end_by_the_local_clock_over_midnight_and_changes_of_clocks() {
        let night = quiet(22, 7);
        check(&night, "2026-11-24T21:59:59+01:00", None);
        check(&night, "2026-11-24T22:00:00+01:00", Some("2026-11-25T07:00:00+01:00"));
        check(&night, "2026-11-25T06:59:59+01:00", Some("2026-11-25T07:00:00+01:00"));
        check(&night, "2026-11-25T07:00:00+01:00", None);
        // The night of 25 October has an hour more, that of 29 March one less.
        check(&night, "2026-10-24T23:00:00+02:00", Some("2026-10-25T07:00:00+01:00"));
        check(&night, "2026-03-28T23:00:00+01:00", Some("2026-03-29T07:00:00+02:00"));
        // 02:00 to 03:00 does not come on 29 March: quiet hours that begin in the gap begin after it.
        check(&quiet(2, 4), "2026-03-29T01:59:59+01:00", None);
        check(&quiet(2, 4), "2026-03-29T03:00:00+02:00", Some("2026-03-29T04:00:00+02:00"));
        // On 25 October it comes twice: the first begins them, and both are quiet.
        check(&quiet(2, 4), "2026-10-25T02:30:00+02:00", Some("2026-10-25T04:00:00+01:00"));
        check(&quiet(2, 4), "2026-10-25T02:30:00+01:00", Some("2026-10-25T04:00:00+01:00"));
        check(&quiet(9, 9), "2026-11-24T09:00:00+01:00", None);
    }

    #[test]
    fn a_channel_of_an_earlier_version_is_a_webhook_of_its_host() {
        let legacy = Notify::legacy("finops".into(), "https://hooks.example:8443/T0/secret".into());
        assert_eq!((legacy.host.as_str(), legacy.transport), ("hooks.example:8443", Transport::Tls));
        assert_eq!(Notify::legacy("x".into(), "http://inside/y?z".into()).host, "inside");
    }
}
