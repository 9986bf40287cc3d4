//! Compares a file with the catalogue: what has to change so that the catalogue says what the file says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::hmac;
use secrecy::SecretString;
use serde::Serialize;

use crate::config::{Address, Declared, KeyDeclaration, Known, Noun, rules};
use crate::domain::catalogue::{KeyStatus, Map, OwnerKind};
use crate::domain::{Budget, Catalogue, Change, Key, Micros, Organisation, Owner, Policy, PriceOverride, Provider};

use super::apply::Contact;
use super::difference::Line;
use super::keys::{KeyView, default_expiry, expiry_warning};
use super::{ControlError, default_price_list};

/// What a file would change.
#[derive(Default)]
pub struct Plan {
    /// In an order that can be applied one by one.
    pub changes: Vec<Change>,
    /// The same for people.
    pub lines: Vec<Line>,
    /// What the catalogue has and the file does not, as `noun id`: left alone unless it is to be removed.
    pub not_in_file: Vec<String>,
    /// What is allowed but deserves a look.
    pub warnings: Vec<String>,
    /// Providers' credentials in the file; sealed where they differ from what is sealed.
    pub(super) credentials: Vec<(String, SecretString)>,
    /// Owners' names and addresses in the file.
    pub(super) contacts: Vec<(String, Contact)>,
    /// Addresses of channels in the file.
    pub(super) addresses: Vec<(String, Address)>,
}

impl Plan {
    /// Whether the catalogue says all of it already. Credentials and contacts are compared when it is applied.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What `declared` would change. Pure: `pepper` is what keys are hashed with, `now` what new keys' lives are counted from.
/// With `prune` what the file does not mention is removed.
pub fn plan(
    catalogue: &Catalogue,
    declared: &Declared,
    pepper: &hmac::Key,
    now: Micros,
    prune: bool,
) -> Result<Plan, ControlError> {
    let mut draft = Draft { catalogue, plan: Plan::default() };
    let organisation = draft.organisation(declared);
    draft.owners(declared);
    for service in &declared.services {
        draft.put("service", &service.id, &catalogue.services, service.clone(), Change::Service);
    }
    draft.providers(declared);
    for (notify, address) in &declared.notify {
        draft.plan.addresses.push((notify.id.clone(), address.clone()));
        draft.put("notify", &notify.id, &catalogue.notify, notify.clone(), Change::Notify);
    }
    draft.budgets(declared, &organisation)?;
    for issuer in &declared.issuers {
        draft.put("issuer", &issuer.id, &catalogue.issuers, issuer.clone(), Change::Issuer);
    }
    for policy in &declared.policies {
        draft.put::<Policy>("policy", &policy.id, &catalogue.policies, policy.clone(), Change::Policy);
    }
    draft.prices(declared);
    for key in &declared.keys {
        draft.key(key, pepper, now);
    }
    draft.rest(declared, prune);
    Ok(draft.plan)
}

/// Fills in what a budget leaves to the organisation.
pub(super) fn complete_budget(budget: Budget, organisation: &Organisation) -> Budget {
    let time_zone = if budget.time_zone.is_empty() { organisation.time_zone.clone() } else { budget.time_zone.clone() };
    let fiscal_year_start_month = match budget.fiscal_year_start_month {
        0 => organisation.fiscal_year_start_month,
        month => month,
    };
    Budget { time_zone, fiscal_year_start_month, ..budget }
}

/// Most levels of the tree of budgets.
const MOST_LEVELS: usize = 16;

/// How many budgets stand above one in the tree, or what is wrong with its parents.
pub(super) fn depth<'b>(budget: &Budget, find: impl Fn(&str) -> Option<&'b Budget>) -> Result<usize, String> {
    let (id, mut depth, mut next) = (&budget.id, 0, budget.parent.clone());
    while let Some(parent) = next {
        let Some(above) = find(&parent) else {
            return Err(format!("budget `{id}` has the parent `{parent}`, which is not declared"));
        };
        depth += 1;
        if parent == *id {
            return Err(format!("budget `{id}` would be above itself: take `parent` from one of the budgets between"));
        }
        if depth > MOST_LEVELS {
            return Err(format!("budget `{id}` has more than {MOST_LEVELS} budgets above it, or a circle of them"));
        }
        next = above.parent.clone();
    }
    Ok(depth)
}

/// Everything a budget's `match` can name: of the file and of the catalogue.
fn known<'a>(catalogue: &'a Catalogue, declared: &'a Declared) -> Known<'a> {
    let mut known = known_to(catalogue);
    declared.services.iter().for_each(|s| known.service(s));
    declared.providers.iter().for_each(|(p, _)| known.provider(p));
    declared.keys.iter().for_each(|k| known.credential(k.secret.id()));
    known.ready()
}

/// The same of the catalogue alone; not ready yet.
pub(super) fn known_to(catalogue: &Catalogue) -> Known<'_> {
    let mut known = Known::default();
    catalogue.services.values().for_each(|s| known.service(s));
    catalogue.providers.values().for_each(|p| known.provider(p));
    catalogue.keys.values().for_each(|k| known.key(k));
    known
}

struct Draft<'a> {
    catalogue: &'a Catalogue,
    plan: Plan,
}

impl Draft<'_> {
    /// Budgets, each after its parent: they may be declared in several slices.
    fn budgets(&mut self, declared: &Declared, organisation: &Organisation) -> Result<(), ControlError> {
        let known = known(self.catalogue, declared);
        let in_file: BTreeMap<&str, &Budget> = declared.budgets.iter().map(|b| (b.id.as_str(), b)).collect();
        let find = |id: &str| in_file.get(id).copied().or_else(|| self.catalogue.budgets.get(id).map(|b| &**b));
        let mut problems = Vec::new();
        let mut ready = Vec::new();
        for budget in &declared.budgets {
            let mut whole = complete_budget(budget.clone(), organisation);
            self.plan.warnings.extend(rules::soften(&mut whole, |id| known.find(id)));
            let before = self.catalogue.budgets.get(&whole.id);
            // What it matched may have been removed since; that it is still in the file is no mistake made now.
            if before.is_none_or(|before| before.matches != whole.matches) {
                problems.extend(known.matches_nothing(&whole).map(|what| ("match".to_owned(), what)));
                self.plan.warnings.extend(known.unserved(&whole));
            }
            match depth(&whole, find) {
                Ok(depth) => ready.push((depth, whole)),
                Err(what) => problems.push(("parent".to_owned(), what)),
            }
        }
        if !problems.is_empty() {
            return Err(ControlError::Invalid(problems));
        }
        ready.sort_by_key(|(depth, _)| *depth);
        for (_, budget) in ready {
            let id = budget.id.clone();
            self.put("budget", &id, &self.catalogue.budgets.clone(), budget, Change::Budget);
        }
        Ok(())
    }

    /// Declares a noun if the catalogue does not say so already.
    fn put<T>(
        &mut self,
        noun: &'static str,
        id: &str,
        before: &Map<String, Arc<T>>,
        after: T,
        change: fn(String, Option<T>) -> Change,
    ) where
        T: Noun + PartialEq,
        T::Written: Serialize,
    {
        let before = before.get(id).map(Arc::as_ref);
        if before == Some(&after) {
            return;
        }
        let (was, will_be) = (before.map(T::written), after.written());
        let mut line = Line::between(noun, id, was.as_ref(), Some(&will_be));
        if before.is_some() && line.fields.is_empty() {
            // The one thing that is not written in a section: where it stands among its like.
            line.fields.push("order in the file".to_owned());
        }
        self.plan.lines.push(line);
        self.plan.changes.push(change(id.to_owned(), Some(after)));
    }

    fn organisation(&mut self, declared: &Declared) -> Organisation {
        let before = self.catalogue.organisation.as_ref();
        let Some(after) = declared.organisation.clone() else { return before.clone() };
        if *before != after {
            let line = Line::between("organisation", &after.name, Some(&before.written()), Some(&after.written()));
            self.plan.lines.push(line);
            self.plan.changes.push(Change::Organisation(after.clone()));
        }
        after
    }

    /// The journal keeps of an owner what cannot name a person; name and address are compared with the sealed contact
    /// when the plan is applied. One that is only mentioned becomes a team without contact.
    fn owners(&mut self, declared: &Declared) {
        for owner in &declared.owners {
            let contact = Contact { name: owner.name.clone(), email: owner.email.clone() };
            if contact != Contact::default() {
                self.plan.contacts.push((owner.id.clone(), contact));
            }
            let known = self.catalogue.owners.get(&owner.id).is_some_and(|o| same_owner(o, owner));
            if !known {
                self.put("owner", &owner.id, &self.catalogue.owners, owner.clone(), Change::Owner);
            }
        }
        let mentioned: BTreeSet<&str> = declared.services.iter().map(|s| s.owner.as_str()).collect();
        for id in mentioned {
            let known = declared.owners.iter().any(|o| o.id == id) || self.catalogue.owners.contains_key(id);
            if !known {
                self.put("owner", id, &self.catalogue.owners, bare_owner(id), Change::Owner);
                let what =
                    format!("owner `{id}` is only mentioned: a team without contact, until somebody completes it");
                self.plan.warnings.push(what);
            }
        }
    }

    fn providers(&mut self, declared: &Declared) {
        // A list of our own that this very file brings is as good as one that is there.
        let mut known = self.catalogue.clone();
        for price in &declared.prices {
            known.prices.entry((price.provider.clone(), price.model.clone())).or_default();
        }
        for (provider, credential) in &declared.providers {
            let price_as = match provider.price_as.as_str() {
                "" => default_price_list(&known, &provider.id, &provider.dialect),
                list => list.to_owned(),
            };
            let whole = Provider { price_as, ..provider.clone() };
            self.put("provider", &provider.id, &self.catalogue.providers, whole, Change::Provider);
            if let Some(credential) = credential {
                self.plan.credentials.push((provider.id.clone(), credential.clone()));
            }
        }
    }

    fn prices(&mut self, declared: &Declared) {
        let mut by_model = BTreeMap::<(String, String), Vec<PriceOverride>>::new();
        for price in &declared.prices {
            by_model.entry((price.provider.clone(), price.model.clone())).or_default().push(price.clone());
        }
        for ((provider, model), prices) in by_model {
            let before = self.catalogue.prices.get(&(provider.clone(), model.clone()));
            if before.is_some_and(|b| **b == prices) {
                continue;
            }
            self.plan.lines.push(price_line(&provider, &model, before.map(|p| p.as_slice()), Some(&prices)));
            self.plan.changes.push(Change::Price { provider, model, prices });
        }
    }

    fn key(&mut self, declared: &KeyDeclaration, pepper: &hmac::Key, now: Micros) {
        let id = declared.secret.id();
        let before = self.catalogue.keys.get(id).map(Arc::as_ref);
        let expires_at = match declared.expires {
            Some(expires) => expires,
            // From the first apply: what it got then stays.
            None => before.map_or_else(|| Some(default_expiry(declared.environment, now)), |k| k.expires_at),
        };
        let after = Key {
            id: id.to_owned(),
            hash: declared.secret.hash(pepper),
            service: declared.service.clone(),
            environment: declared.environment,
            created_at: before.map_or(now, |k| k.created_at),
            expires_at,
            // A file does not bring back what somebody revoked.
            status: before.map_or(KeyStatus::Active, |k| k.status),
            allow_models: declared.allow_models.clone(),
            note: declared.note.clone(),
            not_before: declared.not_before,
            allow_cidrs: declared.allow_cidrs.clone(),
            lineage: before.and_then(|k| k.lineage.clone()),
            successor: before.and_then(|k| k.successor.clone()),
        };
        if after.status != KeyStatus::Active {
            let what = format!("key `{id}` is {:?}: the file does not bring it back", after.status).to_lowercase();
            self.plan.warnings.push(what);
        }
        self.plan.warnings.extend(expiry_warning(&after, now));
        if before == Some(&after) {
            return;
        }
        let (was, will_be) = (before.map(KeyView::from), KeyView::from(&after));
        let mut line = Line::between("key", id, was.as_ref(), Some(&will_be));
        if before.is_some_and(|b| b.hash != after.hash) {
            line.fields.push("secret".to_owned());
        }
        self.plan.lines.push(line);
        self.plan.changes.push(Change::Key(id.to_owned(), Some(after)));
    }

    /// What is there and not in the file, in an order in which it can be removed.
    fn rest(&mut self, declared: &Declared, prune: bool) {
        let c = self.catalogue;
        let in_file = |ids: Vec<&str>| ids.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
        let keys = in_file(declared.keys.iter().map(|k| k.secret.id()).collect());
        let budgets = in_file(declared.budgets.iter().map(|b| b.id.as_str()).collect());
        let policies = in_file(declared.policies.iter().map(|p| p.id.as_str()).collect());
        let services = in_file(declared.services.iter().map(|s| s.id.as_str()).collect());
        let providers = in_file(declared.providers.iter().map(|(p, _)| p.id.as_str()).collect());
        let notify = in_file(declared.notify.iter().map(|(n, _)| n.id.as_str()).collect());
        let issuers = in_file(declared.issuers.iter().map(|i| i.id.as_str()).collect());
        let named = declared.owners.iter().map(|o| o.id.as_str());
        let mentioned = declared.services.iter().map(|s| s.owner.as_str());
        let staying = c.services.values().filter(|s| !prune && !services.contains(&s.id)).map(|s| s.owner.as_str());
        let owners = in_file(named.chain(mentioned).chain(staying).collect());

        self.leave("key", c.keys.keys(), &keys, prune, |id| Change::Key(id, None));
        self.leave("budget", c.budgets.keys(), &budgets, prune, |id| Change::Budget(id, None));
        self.leave("policy", c.policies.keys(), &policies, prune, |id| Change::Policy(id, None));
        self.leave("issuer", c.issuers.keys(), &issuers, prune, |id| Change::Issuer(id, None));
        self.leave("service", c.services.keys(), &services, prune, |id| Change::Service(id, None));
        self.leave("provider", c.providers.keys(), &providers, prune, |id| Change::Provider(id, None));
        self.leave("notify", c.notify.keys(), &notify, prune, |id| Change::Notify(id, None));
        self.leave("owner", c.owners.keys(), &owners, prune, |id| Change::Owner(id, None));
        for ((provider, model), prices) in &c.prices {
            let declared = declared.prices.iter().any(|p| p.provider == *provider && p.model == *model);
            if declared {
                continue;
            }
            if prune {
                self.plan.lines.push(price_line(provider, model, Some(prices.as_slice()), None));
                let (provider, model) = (provider.clone(), model.clone());
                self.plan.changes.push(Change::Price { provider, model, prices: Vec::new() });
            } else {
                self.plan.not_in_file.push(format!("price {provider}/{model}"));
            }
        }
    }

    fn leave<'c>(
        &mut self,
        noun: &'static str,
        there: impl Iterator<Item = &'c String>,
        in_file: &BTreeSet<String>,
        prune: bool,
        remove: fn(String) -> Change,
    ) {
        for id in there.filter(|id| !in_file.contains(*id)) {
            if prune {
                self.plan.lines.push(Line::between(noun, id, Some(&()), None));
                self.plan.changes.push(remove(id.clone()));
            } else {
                self.plan.not_in_file.push(format!("{noun} {id}"));
            }
        }
    }
}

/// An owner that is only mentioned.
pub(super) fn bare_owner(id: &str) -> Owner {
    Owner { id: id.to_owned(), kind: OwnerKind::Team, name: None, email: None }
}

/// The catalogue may have lost name and address to the sealed contact.
fn same_owner(kept: &Owner, declared: &Owner) -> bool {
    let bare = kept.name.is_none() && kept.email.is_none();
    kept.kind == declared.kind && (bare || (kept.name == declared.name && kept.email == declared.email))
}

/// A model's overrides are one noun; its line names each price that differs.
pub(super) fn price_line(
    provider: &str,
    model: &str,
    before: Option<&[PriceOverride]>,
    after: Option<&[PriceOverride]>,
) -> Line {
    let named = |prices: &[PriceOverride]| -> BTreeMap<String, String> {
        let name = |p: &PriceOverride| match p.effective_from {
            Some(at) => format!("{} from {at}", p.component.name()),
            None => p.component.name().to_owned(),
        };
        prices.iter().map(|p| (name(p), format!("{} per {}", p.usd, p.per))).collect()
    };
    let (was, will_be) = (before.map(named), after.map(named));
    Line::between("price", &format!("{provider}/{model}"), was.as_ref(), will_be.as_ref())
}
