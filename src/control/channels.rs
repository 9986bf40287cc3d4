//! Addresses of channels: sealed in the store, never in the journal, and taken out only by who delivers.

use serde_json::Value;

use crate::config::channel::{self, Channel};
use crate::config::{Address, Read, SecretSource, file};
use crate::domain::notify::Notify;
use crate::domain::{Catalogue, Change};
use crate::store::{Ledger, StoreError};

use super::apply::{note, seal};
use super::command::{Draft, parse};
use super::{By, ControlError, Done, Kind};

pub(super) fn address_id(channel: &str) -> String {
    format!("notify/{channel}")
}

/// The address of a channel: sealed, or, of one that an earlier version declared, the URL in the catalogue.
pub fn address(ledger: &Ledger, channel: &Notify) -> Result<Option<Address>, StoreError> {
    let legacy = channel.webhook.clone().map(|url| Address { url: Some(url), ..Address::default() });
    let sealed = ledger.core().secret(&address_id(&channel.id))?;
    Ok(legacy.or_else(|| sealed.and_then(|text| Address::from_secret(&text))))
}

/// Seals an address unless the very same is sealed already. To be done before its channel is declared: an alert may want
/// to go there at once.
pub(super) async fn put_address(
    ledger: &Ledger,
    by: &By,
    channel: &str,
    address: &Address,
) -> Result<bool, ControlError> {
    let changed = seal(ledger, &address_id(channel), &address.to_secret(), by.at)?;
    if changed {
        note(ledger, by, "notify.address", channel).await?;
    }
    Ok(changed)
}

/// Makes a channel what a body says. Where one is changed, what of its address is not given anew stays.
pub(super) async fn put_notify(ledger: &Ledger, by: &By, c: &Catalogue, body: Value) -> Result<Done, ControlError> {
    let written = literals(parse::<file::Notify>(Kind::Notify, body)?)?;
    let before = c.notify.get(&written.id).map(|v| &**v);
    let Read { value, problems, warnings } = channel::read(written, before.is_none()).map_err(ControlError::invalid)?;
    if !problems.is_empty() {
        return Err(ControlError::invalid(problems));
    }
    let Channel { notify: after, address: mut given } = value;
    if let Some(before) = before
        && before.kind == after.kind
    {
        given = given.or(address(ledger, before)?.unwrap_or_default());
    }
    let warnings = warnings.into_iter().map(|(_, what)| what).collect();
    let id = after.id.clone();
    let draft = Draft::new(Kind::Notify, &id, before, &after, warnings);
    put_address(ledger, by, &id, &given).await?;
    let same = before == Some(&after);
    draft.declare(ledger, by, (!same).then(|| Change::Notify(id.clone(), Some(after)))).await
}

/// Through the API a secret is given as it is: a caller must not have the server read its environment or files for it.
fn literals(w: file::Notify) -> Result<file::Notify, ControlError> {
    let password = w.smtp.as_ref().and_then(|smtp| smtp.password.as_ref());
    let all = [
        ("webhook", w.webhook.as_ref()),
        ("secret", w.secret.as_ref()),
        ("slack", w.slack.as_ref()),
        ("teams", w.teams.as_ref()),
        ("mattermost", w.mattermost.as_ref()),
        ("smtp", password),
    ];
    match all.iter().find(|(_, source)| source.is_some_and(|s| !matches!(s, SecretSource::Literal(_)))) {
        Some((field, _)) => {
            let what = "give the value itself: environment and files are for the configuration file";
            Err(ControlError::field(field, what))
        }
        None => Ok(w),
    }
}
