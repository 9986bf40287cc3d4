//! Makes a plan so: seals what is secret, declares what changed, all or nothing.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::domain::{Change, Micros};
use crate::ledger::request::{Reply, Request};
use crate::store::{Ledger, StoreError};

use super::channels::put_address;
use super::{By, ControlError, Plan, openings};

/// Most changes that are declared at once; more are staged.
const AT_ONCE: usize = 100;
/// Changes in one slice of what is staged: a fraction of a millisecond of the writer's time.
const SLICE: usize = 64;
/// Budgets whose openings are stated at once.
const MOST_OPENED: usize = 200;
/// How often budgets are counted before it is given up.
const ATTEMPTS: u32 = 3;

/// What applying did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The catalogue's revision afterwards.
    pub revision: u64,
    /// How many changes were declared.
    pub changes: usize,
    /// Providers whose credential was sealed anew. The catalogue's revision does not tell of them: who keeps credentials in
    /// memory has to fetch them again.
    pub sealed: Vec<String>,
    /// Owners whose contact was sealed anew.
    pub contacts: Vec<String>,
    /// Channels whose address was sealed anew.
    pub addresses: Vec<String>,
}

impl Applied {
    pub fn nothing_changed(&self) -> bool {
        self.changes == 0 && self.sealed.is_empty() && self.contacts.is_empty() && self.addresses.is_empty()
    }
}

/// How to reach an owner. Personal, so it lies sealed in the store and never in the journal's balances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    pub name: Option<String>,
    pub email: Option<String>,
}

/// Under which id a provider's credential is sealed.
pub fn provider_secret_id(provider: &str) -> String {
    format!("provider/{provider}")
}

pub(super) fn contact_id(owner: &str) -> String {
    format!("owner/{owner}")
}

/// An owner's contact, where one was given.
pub fn contact(ledger: &Ledger, owner: &str) -> Result<Option<Contact>, StoreError> {
    let sealed = ledger.core().secret(&contact_id(owner))?;
    Ok(sealed.and_then(|text| serde_json::from_str(text.expose_secret()).ok()))
}

/// Brings about what a plan says. Running it twice changes nothing the second time.
pub async fn apply(ledger: &Ledger, by: &By, plan: Plan) -> Result<Applied, ControlError> {
    let before = ledger.catalogue();
    let changes = plan.changes.len();
    let mut addresses = Vec::new();
    for (channel, address) in plan.addresses {
        if put_address(ledger, by, &channel, &address).await? {
            addresses.push(channel);
        }
    }
    let revision = match changes {
        0 => before.revision,
        _ => declare(ledger, by, plan.changes).await?,
    };
    let mut applied = Applied { revision, changes, addresses, ..Applied::default() };
    for (provider, credential) in plan.credentials {
        if seal(ledger, &provider_secret_id(&provider), &credential, by.at)? {
            note(ledger, by, "provider.credential", &provider).await?;
            applied.sealed.push(provider);
        }
    }
    for (owner, contact) in plan.contacts {
        if put_contact(ledger, &owner, &contact, by.at)? {
            applied.contacts.push(owner);
        }
    }
    Ok(applied)
}

/// The same for tools without a runtime; never on an async thread.
pub fn apply_blocking(ledger: &Ledger, by: &By, plan: Plan) -> Result<Applied, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| StoreError::Unwritable(e.to_string()))?;
    runtime.block_on(apply(ledger, by, plan))
}

pub(super) fn put_contact(ledger: &Ledger, owner: &str, contact: &Contact, at: Micros) -> Result<bool, StoreError> {
    let text = serde_json::to_string(contact).map_err(|e| StoreError::Refused(e.to_string()))?;
    seal(ledger, &contact_id(owner), &SecretString::from(text), at)
}

pub(super) async fn put_credential(
    ledger: &Ledger,
    by: &By,
    provider: &str,
    credential: &SecretString,
) -> Result<(), ControlError> {
    if seal(ledger, &provider_secret_id(provider), credential, by.at)? {
        note(ledger, by, "provider.credential", provider).await?;
    }
    Ok(())
}

/// Seals a secret unless the very same is sealed already.
pub(super) fn seal(ledger: &Ledger, id: &str, secret: &SecretString, at: Micros) -> Result<bool, StoreError> {
    let same = |kept: SecretString| kept.expose_secret() == secret.expose_secret();
    if ledger.core().secret(id)?.is_some_and(same) {
        return Ok(false);
    }
    ledger.core().put_secret(id, secret, at)?;
    Ok(true)
}

/// That something was done which changes no declared state.
pub(super) async fn note(ledger: &Ledger, by: &By, action: &str, subject: &str) -> Result<(), ControlError> {
    let request = Request::Admin {
        actor: by.actor.clone(),
        action: action.to_owned(),
        subject: Some(subject.to_owned()),
        reason: by.reason.clone(),
    };
    ledger.submit(request).await?;
    Ok(())
}

/// Declares changes, with the openings of the budgets among them. Gives the catalogue's new revision.
pub(super) async fn declare(ledger: &Ledger, by: &By, changes: Vec<Change>) -> Result<u64, ControlError> {
    if changes.len() > AT_ONCE {
        return stage(ledger, by, changes).await;
    }
    let declare = Request::Declare {
        actor: by.actor.clone(),
        changes: changes.clone(),
        openings: vec![],
        reason: by.reason.clone(),
    };
    for _ in 0..ATTEMPTS {
        let Some((_watch, counting)) = openings::count(ledger, &changes).await? else { break };
        let request = Request::Counted { request: Box::new(declare.clone()), counting: Box::new(counting) };
        match ledger.submit(request).await {
            // More calls ended meanwhile than could be kept, or a period turned: counted again.
            Err(StoreError::Busy) => {}
            answer => return declared(answer?),
        }
    }
    declared(ledger.submit(declare).await?)
}

fn declared(reply: Reply) -> Result<u64, ControlError> {
    match reply {
        Reply::Declared { revision } => Ok(revision),
        Reply::Denied(denied) => Err(ControlError::Conflict(denied.message)),
        other => Err(ControlError::Conflict(format!("the ledger answered {other:?} to a declaration"))),
    }
}

/// Declares many changes so that no call waits for more than one slice of them: staged first, then in force by one entry.
/// In a task of its own: who asked may go away, the apply comes to its end.
async fn stage(ledger: &Ledger, by: &By, changes: Vec<Change>) -> Result<u64, ControlError> {
    let (ledger, by) = (ledger.clone(), by.clone());
    let task = async move {
        let _turn = ledger.turn_to_stage().await;
        let staged = stage_all(&ledger, &by, &changes).await;
        if staged.is_err() {
            // Best effort: the next start or the next large apply drops it, too.
            let _ = ledger.submit(Request::Unstage { actor: by.actor.clone() }).await;
        }
        staged
    };
    tokio::spawn(task).await.map_err(|e| StoreError::Unwritable(format!("the apply did not come to its end: {e}")))?
}

async fn stage_all(ledger: &Ledger, by: &By, changes: &[Change]) -> Result<u64, ControlError> {
    let actor = || by.actor.clone();
    for (n, slice) in changes.chunks(SLICE).enumerate() {
        let (begin, changes) = (n == 0, slice.to_vec());
        let request = Request::Stage { actor: actor(), begin, changes, reason: by.reason.clone() };
        if let Reply::Denied(denied) = ledger.submit(request).await? {
            return Err(ControlError::Conflict(denied.message));
        }
    }
    let mut attempt = 1;
    while let Err(error) = open_staged(ledger, by, changes).await {
        if attempt == ATTEMPTS || !matches!(error, StoreError::Busy) {
            return Err(error.into());
        }
        attempt += 1;
    }
    declared(ledger.submit(Request::Effect { actor: actor() }).await?)
}

/// States what staged budgets have posted already; those that were stated before are passed over.
async fn open_staged(ledger: &Ledger, by: &By, changes: &[Change]) -> Result<(), StoreError> {
    let Some((watch, counting)) = openings::count(ledger, changes).await? else { return Ok(()) };
    for mut counting in counting.parts(MOST_OPENED) {
        // As much as possible here, so that little is left to the writer.
        watch.catch_up(&mut counting);
        let request = Box::new(Request::Openings { actor: by.actor.clone(), openings: vec![] });
        ledger.submit(Request::Counted { request, counting: Box::new(counting) }).await?;
    }
    Ok(())
}
