//! One noun at a time: create, change, remove, in the words of the file.

use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::{Noun, Read, SecretSource, file, instant, rules};
use crate::domain::catalogue::KeyStatus;
use crate::domain::key::Secret;
use crate::domain::trust::Issuer;
use crate::domain::{
    Budget, Catalogue, Change, Dimension, Environment, Key, Micros, Organisation, Owner, Policy, PriceOverride,
    Provider, Service,
};
use crate::store::Ledger;
use secrecy::SecretString;

use super::apply::{Contact, declare, put_contact, put_credential};
use super::channels::{address_id, put_notify};
use super::difference::Line;
use super::keys::{KeyView, NewKey, create_key, expiry_warning, revoke_key, rotate_key};
use super::plan::{bare_owner, complete_budget, depth, known_to, price_line};
use super::{By, ControlError, default_price_list, provider_secret_id};

/// A kind of declared noun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Organisation,
    Owner,
    Service,
    Key,
    Provider,
    Policy,
    Notify,
    Budget,
    Price,
    Issuer,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Organisation,
        Kind::Owner,
        Kind::Service,
        Kind::Key,
        Kind::Provider,
        Kind::Policy,
        Kind::Notify,
        Kind::Budget,
        Kind::Price,
        Kind::Issuer,
    ];

    /// Singular, as in the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Organisation => "organisation",
            Kind::Owner => "owner",
            Kind::Service => "service",
            Kind::Key => "key",
            Kind::Provider => "provider",
            Kind::Policy => "policy",
            Kind::Notify => "notify",
            Kind::Budget => "budget",
            Kind::Price => "price",
            Kind::Issuer => "issuer",
        }
    }

    /// As in paths of the API.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Organisation => "organisation",
            Kind::Owner => "owners",
            Kind::Service => "services",
            Kind::Key => "keys",
            Kind::Provider => "providers",
            Kind::Policy => "policies",
            Kind::Notify => "notify",
            Kind::Budget => "budgets",
            Kind::Price => "prices",
            Kind::Issuer => "issuers",
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub id: String,
    /// The noun as it is now; absent = removed.
    pub value: Option<Value>,
    /// A key's secret: shown now or never.
    pub secret: Option<Secret>,
    /// What changed, for people; empty = nothing.
    pub lines: Vec<Line>,
    pub warnings: Vec<String>,
}

/// All of a kind, by id, in the words of the file. Secrets are not among them.
pub fn list(catalogue: &Catalogue, kind: Kind) -> Vec<Value> {
    let c = catalogue;
    match kind {
        Kind::Organisation => vec![written(&*c.organisation)],
        Kind::Owner => c.owners.values().map(|v| written(&**v)).collect(),
        Kind::Service => c.services.values().map(|v| written(&**v)).collect(),
        Kind::Key => c.keys.values().map(|v| json!(KeyView::from(&**v))).collect(),
        Kind::Provider => c.providers_in_order().into_iter().map(|v| written(&**v)).collect(),
        Kind::Policy => c.policies_in_order().into_iter().map(|v| written(&**v)).collect(),
        Kind::Notify => c.notify.values().map(|v| written(&**v)).collect(),
        Kind::Budget => c.budgets.values().map(|v| written(&**v)).collect(),
        Kind::Price => c.prices.values().flat_map(|p| p.iter().map(written)).collect(),
        Kind::Issuer => c.issuers.values().map(|v| written(&**v)).collect(),
    }
}

/// One noun. A price's id is `list/model`: it shows the first of the model's overrides.
pub fn show(catalogue: &Catalogue, kind: Kind, id: &str) -> Option<Value> {
    let c = catalogue;
    match kind {
        Kind::Organisation => Some(written(&*c.organisation)),
        Kind::Owner => c.owners.get(id).map(|v| written(&**v)),
        Kind::Service => c.services.get(id).map(|v| written(&**v)),
        Kind::Key => c.keys.get(id).map(|v| json!(KeyView::from(&**v))),
        Kind::Provider => c.providers.get(id).map(|v| written(&**v)),
        Kind::Policy => c.policies.get(id).map(|v| written(&**v)),
        Kind::Notify => c.notify.get(id).map(|v| written(&**v)),
        Kind::Budget => c.budgets.get(id).map(|v| written(&**v)),
        Kind::Price => {
            let (list, model) = id.split_once('/')?;
            c.prices.get(&(list.to_owned(), model.to_owned()))?.first().map(written)
        }
        Kind::Issuer => c.issuers.get(id).map(|v| written(&**v)),
    }
}

fn written<T: Noun>(noun: &T) -> Value
where
    T::Written: Serialize,
{
    serde_json::to_value(noun.written()).unwrap_or_default()
}

/// Makes a noun; the body has the words of its section in the file. A key's secret is made here and given once.
pub async fn create(ledger: &Ledger, by: &By, kind: Kind, body: Value) -> Result<Done, ControlError> {
    if kind == Kind::Key {
        return create_key_of(ledger, by, body).await;
    }
    let id = body.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == Kind::Organisation {
        return Err(ControlError::Conflict("there is one organisation: change it instead".to_owned()));
    }
    if kind != Kind::Price && show(&ledger.catalogue(), kind, &id).is_some() {
        return Err(ControlError::Conflict(format!("{} `{id}` exists: change it instead", kind.name())));
    }
    put(ledger, by, kind, body).await
}

/// Changes some fields of a noun (RFC 7396: `null` takes a field away). An id does not change.
pub async fn patch(ledger: &Ledger, by: &By, kind: Kind, id: &str, body: Value) -> Result<Done, ControlError> {
    let catalogue = ledger.catalogue();
    let mut value = show(&catalogue, kind, id).ok_or_else(|| not_found(kind, id))?;
    if kind == Kind::Key {
        return patch_key(ledger, by, &catalogue, id, body).await;
    }
    if kind == Kind::Owner {
        let contact = super::contact(ledger, id)?.unwrap_or_default();
        merge(&mut value, json!({ "name": contact.name, "email": contact.email }));
    }
    let limits = ["limit_usd", "limit_tokens", "limit_calls", "limit_tool_calls"];
    if kind == Kind::Budget && limits.iter().any(|l| body.get(l).is_some_and(|v| !v.is_null())) {
        // A new limit takes the place of the old, whatever either counts.
        for limit in limits {
            merge(&mut value, json!({ limit: null }));
        }
    }
    merge(&mut value, body);
    if kind != Kind::Price && kind != Kind::Organisation && value.get("id").and_then(Value::as_str) != Some(id) {
        return Err(ControlError::field("id", format!("{} `{id}` keeps its id: make another one", kind.name())));
    }
    put(ledger, by, kind, value).await
}

/// JSON merge patch.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(&key)),
            value => merge(target.entry(key).or_insert(Value::Null), value),
        }
    }
}

fn not_found(kind: Kind, id: &str) -> ControlError {
    ControlError::NotFound { noun: kind.name(), id: id.to_owned() }
}

/// Reads a body as the noun it is to be.
pub(super) fn read<T: Noun>(kind: Kind, body: Value) -> Result<(T, Vec<String>), ControlError>
where
    T::Written: DeserializeOwned,
{
    let written = parse::<T::Written>(kind, body)?;
    let Read { value, problems, warnings } = T::read(written).map_err(ControlError::invalid)?;
    if !problems.is_empty() {
        return Err(ControlError::invalid(problems));
    }
    Ok((value, warnings.into_iter().map(|(_, what)| what).collect()))
}

pub(super) fn parse<W: DeserializeOwned>(kind: Kind, body: Value) -> Result<W, ControlError> {
    if let Some(key) = body.as_object().and_then(|o| o.keys().find(|k| crate::config::is_later(kind.name(), k))) {
        return Err(ControlError::field(key, "is not enforced by this version; remove it"));
    }
    serde_json::from_value(body).map_err(|e| ControlError::field("body", e.to_string()))
}

/// Brings about one noun as its body says.
async fn put(ledger: &Ledger, by: &By, kind: Kind, body: Value) -> Result<Done, ControlError> {
    let catalogue = ledger.catalogue();
    let c = &*catalogue;
    match kind {
        Kind::Organisation => {
            let (after, warnings) = read::<Organisation>(kind, body)?;
            let before = c.organisation.as_ref();
            let draft = Draft::new(kind, "organisation", Some(before), &after, warnings);
            draft.declare(ledger, by, (*before != after).then_some(Change::Organisation(after))).await
        }
        Kind::Owner => {
            let (after, warnings) = read::<Owner>(kind, body)?;
            let contact = Contact { name: after.name.clone(), email: after.email.clone() };
            let before = c.owners.get(&after.id).map(|v| &**v);
            let mut draft = Draft::new(kind, &after.id, before, &after, warnings);
            let id = after.id.clone();
            let kind_differs = before.is_none_or(|b| b.kind != after.kind);
            let done = kind_differs.then(|| Change::Owner(id.clone(), Some(after)));
            let had_contact = super::contact(ledger, &id)?;
            if (contact != Contact::default() || had_contact.is_some()) && put_contact(ledger, &id, &contact, by.at)? {
                draft.warnings.push("name and address lie sealed beside the journal, where they can be erased".into());
            }
            draft.declare(ledger, by, done).await
        }
        Kind::Service => {
            let (after, warnings) = read::<Service>(kind, body)?;
            keeps_mandatory(c, &after)?;
            let before = c.services.get(&after.id).map(|v| &**v);
            let mut draft = Draft::new(kind, &after.id, before, &after, warnings);
            let same = before == Some(&after);
            if !c.owners.contains_key(&after.owner) {
                let what =
                    format!("owner `{}` is new: a team without contact, until somebody completes it", after.owner);
                draft.warnings.push(what);
                draft.first.push(Change::Owner(after.owner.clone(), Some(bare_owner(&after.owner))));
            }
            draft.declare(ledger, by, (!same).then(|| Change::Service(after.id.clone(), Some(after)))).await
        }
        Kind::Provider => put_provider(ledger, by, c, body).await,
        Kind::Policy => {
            let (after, warnings) = read::<Policy>(kind, body)?;
            let before = c.policies.get(&after.id).map(|v| &**v);
            let last = c.policies.values().map(|p| p.position + 1).max().unwrap_or(0);
            let after = Policy { position: before.map_or(last, |b| b.position), ..after };
            let draft = Draft::new(kind, &after.id, before, &after, warnings);
            let same = before == Some(&after);
            draft.declare(ledger, by, (!same).then(|| Change::Policy(after.id.clone(), Some(after)))).await
        }
        Kind::Notify => put_notify(ledger, by, c, body).await,
        Kind::Budget => {
            let (after, mut warnings) = read::<Budget>(kind, body)?;
            let mut after = complete_budget(after, &c.organisation);
            check_budget(c, &mut after, &mut warnings)?;
            if let Some(missing) = after.notify.iter().find(|n| !c.notify.contains_key(*n)) {
                return Err(ControlError::field("notify", format!("notify `{missing}` not found: create it first")));
            }
            let before = c.budgets.get(&after.id).map(|v| &**v);
            let draft = Draft::new(kind, &after.id, before, &after, warnings);
            let same = before == Some(&after);
            draft.declare(ledger, by, (!same).then(|| Change::Budget(after.id.clone(), Some(after)))).await
        }
        Kind::Price => put_price(ledger, by, c, body).await,
        Kind::Issuer => {
            let (after, warnings) = read::<Issuer>(kind, body)?;
            let before = c.issuers.get(&after.id).map(|v| &**v);
            own_files_only(&after, before)?;
            let draft = Draft::new(kind, &after.id, before, &after, warnings);
            let same = before == Some(&after);
            draft.declare(ledger, by, (!same).then(|| Change::Issuer(after.id.clone(), Some(after)))).await
        }
        Kind::Key => Err(ControlError::Conflict("a key is made, suspended or revoked, not written".to_owned())),
    }
}

/// What of a budget depends on what else is declared.
fn check_budget(c: &Catalogue, budget: &mut Budget, warnings: &mut Vec<String>) -> Result<(), ControlError> {
    let known = known_to(c).ready();
    warnings.extend(rules::soften(budget, |id| known.find(id)));
    let before = c.budgets.get(&budget.id);
    if before.is_none_or(|before| before.matches != budget.matches) {
        if let Some(what) = known.matches_nothing(budget) {
            return Err(ControlError::field("match", what));
        }
        warnings.extend(known.unserved(budget));
    }
    let find = |id: &str| if *id == budget.id { Some(&*budget) } else { c.budgets.get(id).map(|b| &**b) };
    depth(budget, find).map(drop).map_err(|what| ControlError::field("parent", what))
}

/// What a service may not take from its hard budgets.
fn keeps_mandatory(c: &Catalogue, after: &Service) -> Result<(), ControlError> {
    let before = c.services.get(&after.id).map(|s| &s.mandatory_fields);
    if before.is_none_or(|before| before.is_subset(&after.mandatory_fields)) {
        return Ok(());
    }
    let softer = |b: &Budget| rules::soften(&mut b.clone(), |id| (id == after.id).then_some(after)).is_some();
    let of_it = |b: &&std::sync::Arc<Budget>| b.matches.get(&Dimension::Service) == Some(&after.id);
    match c.budgets.values().filter(of_it).find(|b| softer(b)) {
        Some(budget) => {
            let what = format!("hard budget `{}` matches a field that would not be mandatory any more", budget.id);
            Err(ControlError::field("mandatory_fields", what))
        }
        None => Ok(()),
    }
}

/// A change on its way, with what it says to people.
pub(super) struct Draft {
    kind: Kind,
    id: String,
    line: Line,
    /// What has to be there first.
    first: Vec<Change>,
    warnings: Vec<String>,
}

impl Draft {
    pub(super) fn new<T: Noun>(kind: Kind, id: &str, before: Option<&T>, after: &T, warnings: Vec<String>) -> Draft
    where
        T::Written: Serialize,
    {
        let line = Line::between(kind.name(), id, before.map(T::written).as_ref(), Some(&after.written()));
        Draft { kind, id: id.to_owned(), line, first: Vec::new(), warnings }
    }

    /// Declares the change; `None`: everything is so already.
    pub(super) async fn declare(self, ledger: &Ledger, by: &By, change: Option<Change>) -> Result<Done, ControlError> {
        let mut lines = Vec::new();
        if let Some(change) = change {
            let mut changes = self.first;
            changes.push(change);
            declare(ledger, by, changes).await?;
            lines.push(self.line);
        }
        let value = show(&ledger.catalogue(), self.kind, &self.id);
        Ok(Done { id: self.id, value, secret: None, lines, warnings: self.warnings })
    }
}

async fn put_provider(ledger: &Ledger, by: &By, c: &Catalogue, body: Value) -> Result<Done, ControlError> {
    let mut written = parse::<file::Provider>(Kind::Provider, body)?;
    let credential = match written.api_key.take() {
        None => None,
        Some(source) => Some(literal(source)?),
    };
    let Read { value, problems, warnings } = Provider::read(written).map_err(ControlError::invalid)?;
    if !problems.is_empty() {
        return Err(ControlError::invalid(problems));
    }
    let before = c.providers.get(&value.id).map(|v| &**v);
    let last = c.providers.values().map(|p| p.position + 1).max().unwrap_or(0);
    let price_as = match value.price_as.as_str() {
        "" => default_price_list(c, &value.id, &value.dialect),
        list => list.to_owned(),
    };
    let after = Provider { position: before.map_or(last, |b| b.position), price_as, ..value };
    let warnings = warnings.into_iter().map(|(_, what)| what).collect();
    let draft = Draft::new(Kind::Provider, &after.id, before, &after, warnings);
    let id = after.id.clone();
    let same = before == Some(&after);
    let done = draft.declare(ledger, by, (!same).then_some(Change::Provider(id.clone(), Some(after)))).await?;
    if let Some(credential) = credential {
        put_credential(ledger, by, &id, &credential).await?;
    }
    Ok(done)
}

/// Through the API a secret is given as it is: a caller must not have the server read its environment or files for it.
fn literal(source: SecretSource) -> Result<SecretString, ControlError> {
    let SecretSource::Literal(secret) = source else {
        let what = "give the credential itself: environment and files are for the configuration file";
        return Err(ControlError::field("api_key", what));
    };
    match crate::config::rules::credential(&secret) {
        Some(what) => Err(ControlError::field("api_key", what)),
        None => Ok(secret),
    }
}

/// Files are named in the configuration file; through the API they only stay what they are.
fn own_files_only(after: &Issuer, before: Option<&Issuer>) -> Result<(), ControlError> {
    let was = |of: fn(&Issuer) -> &Option<String>| before.and_then(|b| of(b).as_ref());
    let new = |of: fn(&Issuer) -> &Option<String>| of(after).is_some() && of(after).as_ref() != was(of);
    for (field, new) in [("jwks_file", new(|i| &i.keys.file)), ("ca_file", new(|i| &i.keys.ca))] {
        if new {
            return Err(ControlError::field(field, "files are for the configuration file: give `jwks` or `jwks_url`"));
        }
    }
    Ok(())
}

/// One component of a model's overrides; the others stay.
async fn put_price(ledger: &Ledger, by: &By, c: &Catalogue, body: Value) -> Result<Done, ControlError> {
    let (price, warnings) = read::<PriceOverride>(Kind::Price, body)?;
    let (provider, model) = (price.provider.clone(), price.model.clone());
    let before = c.prices.get(&(provider.clone(), model.clone())).map(|p| p.to_vec());
    let mut prices = before.clone().unwrap_or_default();
    let shown = written(&price);
    match prices.iter_mut().find(|p| (p.component, p.effective_from) == (price.component, price.effective_from)) {
        Some(same) => *same = price,
        None => prices.push(price),
    }
    let id = format!("{provider}/{model}");
    let mut lines = Vec::new();
    if before.as_ref() != Some(&prices) {
        lines.push(price_line(&provider, &model, before.as_deref(), Some(&prices)));
        declare(ledger, by, vec![Change::Price { provider, model, prices }]).await?;
    }
    Ok(Done { id, value: Some(shown), secret: None, lines, warnings })
}

fn expiry(text: Option<&str>, catalogue: &Catalogue) -> Result<Option<Option<Micros>>, ControlError> {
    let zone = jiff::tz::TimeZone::get(&catalogue.organisation.time_zone).unwrap_or(jiff::tz::TimeZone::UTC);
    match text {
        None => Ok(None),
        Some("never") => Ok(Some(None)),
        Some(text) => match instant(text, &zone, 1) {
            Some(at) => Ok(Some(Some(at))),
            None => {
                let what = format!("`{text}` is not a date: write 2027-01-31, or \"never\"");
                Err(ControlError::field("expires", what))
            }
        },
    }
}

fn not_before(text: Option<&str>, catalogue: &Catalogue) -> Result<Option<Micros>, ControlError> {
    let Some(text) = text else { return Ok(None) };
    let zone = jiff::tz::TimeZone::get(&catalogue.organisation.time_zone).unwrap_or(jiff::tz::TimeZone::UTC);
    let wrong = || ControlError::field("not_before", format!("`{text}` is not a date: write 2027-01-31"));
    instant(text, &zone, 0).map(Some).ok_or_else(wrong)
}

/// Rotates a key: its successor, with its secret, once.
pub async fn rotate(ledger: &Ledger, by: &By, id: &str, overlap_s: Option<i64>) -> Result<Done, ControlError> {
    let (view, secret) = rotate_key(ledger, by, id, overlap_s).await?;
    Ok(Done {
        id: view.id.clone(),
        lines: vec![Line::between("key", &view.id, None, Some(&view))],
        value: Some(json!(view)),
        secret: Some(secret),
        warnings: Vec::new(),
    })
}

async fn create_key_of(ledger: &Ledger, by: &By, body: Value) -> Result<Done, ControlError> {
    let w = parse::<file::Key>(Kind::Key, body)?;
    if w.secret.is_some() {
        return Err(ControlError::field("secret", "the key is made here and shown once: leave `secret` out"));
    }
    let environment = Environment::from_name(&w.environment).ok_or_else(|| {
        let what = format!("`{}` is not an environment: use prod, pilot, test or exploratory", w.environment);
        ControlError::field("environment", what)
    })?;
    let expires = expiry(w.expires.as_deref(), &ledger.catalogue())?;
    let (service, allow_models, note) = (w.service, w.allow_models, w.note);
    let not_before = not_before(w.not_before.as_deref(), &ledger.catalogue())?;
    let allow_cidrs = w.allow_cidrs;
    let new = NewKey { service, environment, expires, allow_models, note, not_before, allow_cidrs };
    let (view, secret) = create_key(ledger, by, new).await?;
    let warnings = ledger.catalogue().keys.get(&view.id).and_then(|k| expiry_warning(k, by.at));
    Ok(Done {
        id: view.id.clone(),
        lines: vec![Line::between("key", &view.id, None, Some(&view))],
        value: Some(json!(view)),
        secret: Some(secret),
        warnings: warnings.into_iter().collect(),
    })
}

/// What of a key can change.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPatch {
    #[serde(default, with = "given")]
    allow_models: Option<Option<Vec<String>>>,
    #[serde(default, with = "given")]
    note: Option<Option<String>>,
    #[serde(default, with = "given")]
    allow_cidrs: Option<Option<Vec<IpNet>>>,
    expires: Option<String>,
    status: Option<KeyStatus>,
}

/// Tells a field that is `null` from one that is not there.
mod given {
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
        T::deserialize(d).map(Some)
    }
}

async fn patch_key(ledger: &Ledger, by: &By, c: &Catalogue, id: &str, body: Value) -> Result<Done, ControlError> {
    let patch = parse::<KeyPatch>(Kind::Key, body)?;
    let before = c.keys.get(id).ok_or_else(|| not_found(Kind::Key, id))?;
    let mut after = Key::clone(before);
    if let Some(models) = patch.allow_models {
        let problems = crate::config::rules::key_models(models.as_deref());
        if !problems.is_empty() {
            return Err(ControlError::invalid(problems));
        }
        after.allow_models = models;
    }
    if let Some(nets) = patch.allow_cidrs {
        after.allow_cidrs = nets;
    }
    if let Some(note) = patch.note {
        after.note = note;
    }
    if let Some(expires) = expiry(patch.expires.as_deref(), c)? {
        after.expires_at = expires;
    }
    if let Some(status) = patch.status {
        if before.status == KeyStatus::Revoked && status != KeyStatus::Revoked {
            return Err(ControlError::Conflict(format!("key `{id}` is revoked for good: make another one")));
        }
        after.status = status;
    }
    let line = Line::between("key", id, Some(&KeyView::from(&**before)), Some(&KeyView::from(&after)));
    let warnings = expiry_warning(&after, by.at).into_iter().collect();
    let mut lines = Vec::new();
    let value = Some(json!(KeyView::from(&after)));
    if after != **before {
        declare(ledger, by, vec![Change::Key(id.to_owned(), Some(after))]).await?;
        lines.push(line);
    }
    Ok(Done { id: id.to_owned(), value, secret: None, lines, warnings })
}

/// Removes a noun that nothing else needs. A key is revoked: it stays, so that its later use is recognised. A price's id
/// is `list/model` for all of a model's overrides, or `list/model/component` for one.
pub async fn delete(ledger: &Ledger, by: &By, kind: Kind, id: &str) -> Result<Done, ControlError> {
    let catalogue = ledger.catalogue();
    let c = &*catalogue;
    if kind == Kind::Price {
        return delete_price(ledger, by, c, id).await;
    }
    if show(c, kind, id).is_none() {
        return Err(not_found(kind, id));
    }
    let owned = id.to_owned();
    let mut changes = Vec::new();
    match kind {
        Kind::Key => {
            let line = Line::between("key", id, Some(&()), None);
            let view = revoke_key(ledger, by, id).await?;
            return Ok(Done { id: owned, value: Some(json!(view)), secret: None, lines: vec![line], warnings: vec![] });
        }
        Kind::Organisation => return Err(ControlError::Conflict("the organisation stays: change it instead".into())),
        Kind::Owner => {
            if let Some(service) = c.services.values().find(|s| s.owner == id) {
                let what = format!("owner `{id}` answers for service `{}`: give it another owner first", service.id);
                return Err(ControlError::Conflict(what));
            }
            changes.push(Change::Owner(owned.clone(), None));
        }
        Kind::Service => {
            let keys = || c.keys.values().filter(|k| k.service == id);
            if let Some(key) = keys().find(|k| k.status != KeyStatus::Revoked) {
                let what = format!("service `{id}` has the key `{}`: revoke it first", key.id);
                return Err(ControlError::Conflict(what));
            }
            changes.extend(keys().map(|k| Change::Key(k.id.clone(), None)));
            changes.push(Change::Service(owned.clone(), None));
        }
        Kind::Provider => changes.push(Change::Provider(owned.clone(), None)),
        Kind::Policy => changes.push(Change::Policy(owned.clone(), None)),
        Kind::Notify => {
            if let Some(budget) = c.budgets.values().find(|b| b.notify.iter().any(|n| n == id)) {
                let what = format!("notify `{id}` is used by budget `{}`: take it out there first", budget.id);
                return Err(ControlError::Conflict(what));
            }
            changes.push(Change::Notify(owned.clone(), None));
        }
        Kind::Budget => changes.push(Change::Budget(owned.clone(), None)),
        Kind::Issuer => changes.push(Change::Issuer(owned.clone(), None)),
        Kind::Price => {}
    }
    declare(ledger, by, changes).await?;
    match kind {
        Kind::Provider => drop(ledger.core().remove_secret(&provider_secret_id(id))?),
        Kind::Owner => drop(ledger.core().remove_secret(&super::apply::contact_id(id))?),
        Kind::Notify => drop(ledger.core().remove_secret(&address_id(id))?),
        _ => {}
    }
    let lines = vec![Line::between(kind.name(), id, Some(&()), None)];
    Ok(Done { id: owned, value: None, secret: None, lines, warnings: Vec::new() })
}

async fn delete_price(ledger: &Ledger, by: &By, c: &Catalogue, id: &str) -> Result<Done, ControlError> {
    let missing = || not_found(Kind::Price, id);
    let (list, rest) = id.split_once('/').ok_or_else(missing)?;
    let whole = c.prices.get(&(list.to_owned(), rest.to_owned())).map(|p| (rest, p, None));
    let one = || {
        let (model, component) = rest.rsplit_once('/')?;
        let component = crate::domain::Component::from_name(component)?;
        Some((model, c.prices.get(&(list.to_owned(), model.to_owned()))?, Some(component)))
    };
    let (model, before, component) = whole.or_else(one).ok_or_else(missing)?;
    let after: Vec<PriceOverride> =
        before.iter().filter(|p| component.is_some_and(|c| p.component != c)).cloned().collect();
    if after.len() == before.len() {
        return Err(missing());
    }
    let line = price_line(list, model, Some(before.as_slice()), (!after.is_empty()).then_some(after.as_slice()));
    let change = Change::Price { provider: list.to_owned(), model: model.to_owned(), prices: after };
    declare(ledger, by, vec![change]).await?;
    Ok(Done { id: id.to_owned(), value: None, secret: None, lines: vec![line], warnings: Vec::new() })
}
