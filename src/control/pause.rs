//! Pauses: made at once, with a reason and an end; ended early with a reason. Never part of a file, so that no `apply` ends
//! what an operator stopped in an emergency.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::pause::{MOST_DAYS, MOST_PAUSES, Pause, PauseKind};
use crate::domain::{Catalogue, Change, Micros};
use crate::ledger::entry::Body;
use crate::store::{Ledger, StoreError};

use super::apply::declare;
use super::{By, ControlError};

/// Longest subject, in characters: models of some providers are paths.
const MOST_SUBJECT: usize = 200;
/// Words of a duration, with their seconds.
const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];

/// A pause to be, as it is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPause {
    pub kind: PauseKind,
    /// An id; of a model its name or a glob.
    pub subject: String,
    /// `90s`, `30m`, `2h`, `7d`: at most 30 days.
    #[serde(rename = "for")]
    pub lasting: Option<String>,
    /// Instead of `for`: the instant at which calls may go again, RFC 3339.
    pub until: Option<Micros>,
    /// Why; for operators alone.
    pub reason: String,
    /// Running calls are ended, with the dialect's error event. Else they come to their own end.
    #[serde(default)]
    pub cut: bool,
}

/// A pause as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Pause")]
pub struct PauseView {
    /// `service:invoice-bot`.
    pub id: String,
    pub kind: PauseKind,
    pub subject: String,
    pub until: Micros,
    pub cut: bool,
    /// Who paused; null where an earlier epoch has it.
    pub by: Option<String>,
    pub since: Option<Micros>,
    /// Null where it was erased, or an earlier epoch has it.
    pub reason: Option<String>,
    /// Position of its entry.
    pub seq: Option<u64>,
}

/// Pauses calls from the entry on that this makes; one that is there already gets another end.
pub async fn pause(ledger: &Ledger, by: &By, new: NewPause) -> Result<PauseView, ControlError> {
    let by = By { reason: Some(super::reason(&new.reason)?), ..by.clone() };
    let until = end(&new, by.at)?;
    let catalogue = ledger.catalogue();
    let subject = known(&catalogue, new.kind, new.subject.trim())?;
    let pause = Pause { kind: new.kind, subject, until, cut: new.cut, seq: None };
    let id = pause.id();
    // What has ended goes when something new comes, so that the list stays short without a clock of its own.
    let over = catalogue.pauses.values().filter(|p| !p.holds_at(by.at) && p.id() != id);
    let mut changes: Vec<Change> = over.map(|p| Change::Pause(p.id(), None)).collect();
    if catalogue.pauses.len() - changes.len() >= MOST_PAUSES && !catalogue.pauses.contains_key(&id) {
        return Err(ControlError::Conflict(format!("there are {MOST_PAUSES} pauses: resume one first")));
    }
    changes.push(Change::Pause(id.clone(), Some(pause)));
    declare(ledger, &by, changes).await?;
    let made = ledger.catalogue().pauses.get(&id).cloned();
    let made = made.ok_or_else(|| ControlError::Conflict(format!("pause `{id}` was ended at the same moment")))?;
    view(ledger, &made).map_err(Into::into)
}

/// Ends a pause before its time.
pub async fn resume(ledger: &Ledger, by: &By, id: &str, reason: &str) -> Result<PauseView, ControlError> {
    let by = By { reason: Some(super::reason(reason)?), ..by.clone() };
    let found = ledger.catalogue().pauses.get(id).filter(|p| p.holds_at(by.at)).cloned();
    let short = || id.chars().take(80).collect();
    let paused = found.ok_or_else(|| ControlError::NotFound { noun: "pause", id: short() })?;
    let shown = view(ledger, &paused)?;
    declare(ledger, &by, vec![Change::Pause(id.to_owned(), None)]).await?;
    Ok(shown)
}

/// What is paused now, what ends first coming first. Reads the journal.
pub fn pauses(ledger: &Ledger) -> Result<Vec<PauseView>, StoreError> {
    let now = ledger.clock().now();
    let catalogue = ledger.catalogue();
    let held = catalogue.pauses.values().filter(|pause| pause.holds_at(now));
    let mut all = held.map(|pause| view(ledger, pause)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| (a.until, &a.id).cmp(&(b.until, &b.id)));
    Ok(all)
}

fn view(ledger: &Ledger, pause: &Pause) -> Result<PauseView, StoreError> {
    let Pause { kind, subject, until, cut, seq } = pause.clone();
    let mut view = PauseView {
        id: pause.id(),
        kind,
        subject,
        until,
        cut,
        by: None,
        since: None,
        reason: None,
        seq: seq.map(|seq| ledger.head().before + seq),
    };
    let Some(position) = view.seq else { return Ok(view) };
    if let Some((entry, erasable)) = ledger.entries(position, 1)?.into_iter().next()
        && let Body::Catalogue { actor, .. } = entry.body
    {
        (view.by, view.since) = (Some(actor), Some(entry.ts));
        view.reason = erasable.person.and_then(|person| person.reason);
    }
    Ok(view)
}

fn end(new: &NewPause, now: Micros) -> Result<Micros, ControlError> {
    let (field, until) = match (&new.lasting, new.until) {
        (Some(text), None) => ("for", now.plus_seconds(span(text)?)),
        (None, Some(until)) => ("until", until),
        _ => {
            return Err(ControlError::field("for", "say how long: `for` such as 30m, 2h or 7d, or `until` an instant"));
        }
    };
    if until <= now {
        return Err(ControlError::field(field, format!("`{until}` has passed: give a later end")));
    }
    if until > now.plus_seconds(MOST_DAYS * 86_400) {
        let what = format!("a pause lasts at most {MOST_DAYS} days: revoke or remove what is to end for good");
        return Err(ControlError::field(field, what));
    }
    Ok(until)
}

/// `90s`, `30m`, `2h`, `7d` in seconds.
fn span(text: &str) -> Result<i64, ControlError> {
    let text = text.trim();
    let seconds = text.chars().next_back().and_then(|unit| {
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let number: u32 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        i64::from(number).checked_mul(*seconds)
    });
    let short: String = text.chars().take(40).collect();
    seconds.ok_or_else(|| ControlError::field("for", format!("`{short}` is no duration: write 90s, 30m, 2h or 7d")))
}

/// The subject, if there can be one of that name.
fn known(catalogue: &Catalogue, kind: PauseKind, subject: &str) -> Result<String, ControlError> {
    let declared = match kind {
        PauseKind::Key => catalogue.keys.contains_key(subject),
        PauseKind::Service => catalogue.services.contains_key(subject),
        PauseKind::Provider => catalogue.providers.contains_key(subject),
        // Callers name them.
        PauseKind::Agent | PauseKind::Model => true,
    };
    let short: String = subject.chars().take(80).collect();
    if !declared {
        let noun = kind.name();
        return Err(ControlError::field(
            "subject",
            format!("{noun} `{short}` not found: {noun} list shows what there is"),
        ));
    }
    match subject.chars().count() {
        1..=MOST_SUBJECT if subject.chars().all(|c| !c.is_control()) => Ok(subject.to_owned()),
        _ => Err(ControlError::field("subject", format!("name what to pause, in at most {MOST_SUBJECT} characters"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_has_an_end_within_thirty_days() {
        let now = Micros(1_000_000);
        let ask = |lasting: Option<&str>, until: Option<i64>| {
            let new = NewPause {
                kind: PauseKind::Model,
                subject: "gpt-*".into(),
                lasting: lasting.map(str::to_owned),
                until: until.map(Micros),
                reason: "r".into(),
                cut: false,
            };
            end(&new, now).map(|at| (at.0 - now.0) / 1_000_000).map_err(|e| e.to_string())
        };
        for (text, seconds) in [("90s", 90), ("30m", 1_800), (" 2h ", 7_200), ("30d", 2_592_000)] {
            assert_eq!(ask(Some(text), None), Ok(seconds), "{text}");
        }
        assert_eq!(ask(None, Some(61_000_000)), Ok(60));
        for text in ["", "2", "h", "-1h", "1.5h", "2w", "99999999999d", "31d", "0s", "4294967295d"] {
            assert!(ask(Some(text), None).is_err(), "{text}");
        }
        assert!(ask(None, None).is_err() && ask(Some("1h"), Some(5)).is_err());
        assert!(ask(None, Some(now.0)).unwrap_err().contains("has passed"));
    }
}
