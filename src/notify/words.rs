//! What an alert says to people: what, how much, until when, and where to look. No prompt, no secret, no address.

use crate::budget::words::{amount, instant};
use crate::domain::{Catalogue, Metric};
use crate::ledger::entry::Alert;
use crate::ledger::outbox::AlertId;

/// An alert in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub title: String,
    /// One or two sentences.
    pub text: String,
    pub url: String,
    /// 0 to 10, as CEF counts.
    pub severity: u8,
    /// Amounts are money.
    pub in_money: bool,
}

/// The words of an alert. The catalogue adds who is meant; an alert whose budget is gone still says what it knows.
pub fn words(alert: &Alert, id: &AlertId, catalogue: &Catalogue, base: &str) -> Words {
    let page = format!("{base}/alerts/{id}");
    if alert.kind == "key_expiry" {
        return key_words(alert, catalogue, page);
    }
    let budget = catalogue.budgets.get(&alert.budget);
    let metric = budget.map_or(Metric::Usd, |b| b.limit.metric);
    let of = |n: Option<i128>| n.map_or_else(|| "an unknown amount".to_owned(), |n| amount(metric, n));
    let (name, used, limit) = (&alert.budget, of(alert.used), of(alert.limit));
    let percent = alert.threshold.unwrap_or(100);
    let (title, text, severity) = match alert.kind.as_str() {
        "actual" => (
            format!("Budget {name}: {percent} % used"),
            format!("{used} of {limit} are used or held in the period {}.", alert.period),
            if percent >= 100 { 8 } else { 5 },
        ),
        "denied" => (
            format!("Budget {name} refuses calls"),
            format!("{used} of {limit} are used or held in the period {}, and a call did not fit.", alert.period),
            9,
        ),
        "overrun" => (
            format!("Budget {name}: a call cost more than was held for it"),
            format!("{used} of {limit} are used or held in the period {}.", alert.period),
            7,
        ),
        "forecast" => (
            format!("Budget {name} will not last"),
            format!(
                "The period {} is heading for {}; the limit is {limit}, and {used} are used so far.",
                alert.period,
                of(alert.foreseen)
            ),
            6,
        ),
        "no_data" => (
            format!("Budget {name}: nothing is coming"),
            "Nothing was used yesterday and today, on days that used to have calls. Is the service down, or going around \
             the gateway?"
                .to_owned(),
            5,
        ),
        other => (format!("Budget {name}: {other}"), format!("{used} of {limit} are used or held."), 5),
    };
    Words { title, text, url: page, severity, in_money: metric == Metric::Usd }
}

fn key_words(alert: &Alert, catalogue: &Catalogue, url: String) -> Words {
    let key = alert.subject.as_deref().unwrap_or("(unknown)");
    let service = catalogue.keys.get(key).map_or("(unknown)", |k| k.service.as_str());
    let days = alert.threshold.unwrap_or(0);
    let when = alert.due.map_or_else(String::new, |at| format!(" It works until {}.", instant(at)));
    let unit = if days == 1 { "day" } else { "days" };
    Words {
        title: format!("Key {key} of {service} ends in {days} {unit} or less"),
        text: format!(
            "The key {key} of the service {service} is about to end.{when} Make another one and change over in time."
        ),
        url,
        severity: if days <= 1 { 7 } else { 4 },
        in_money: false,
    }
}

/// The words of a test.
pub fn test(base: &str) -> Words {
    Words {
        title: "Weighbridge: a test".to_owned(),
        text: "Somebody pressed the test button of this channel. Nothing else has happened.".to_owned(),
        url: format!("{base}/alerts"),
        severity: 1,
        in_money: false,
    }
}
