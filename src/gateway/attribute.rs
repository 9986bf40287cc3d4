//! Whom a call is attributed to: a pure function of a verified credential, the catalogue and what the caller says.
//!
//! Identity comes from the credential and attribution from the catalogue. A caller's header adds detail only where the
//! catalogue permits that field for the service; what is not permitted is kept as `claimed` and never used in a sum.

use http::HeaderMap;

use crate::domain::filter::glob;
use crate::domain::id::is_slug;
use crate::domain::identity::{Claimed, Provenance};
use crate::domain::{Attribution, Charge, Code, Refusal, Service};

use super::identify::credential::Credential;

/// Longest claimed value, in bytes.
const MAX_CLAIM: usize = 256;
/// Most claims of one call.
const MAX_CLAIMS: usize = 32;
/// Session ids that agents send by themselves: context, not identity.
const SESSION_HEADERS: [&str; 6] = [
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
    "session-id",
    "thread-id",
    "x-session-id",
    "x-client-request-id",
];

/// Whether a request's head says nothing about its caller beyond its credential: then all calls of a key are alike.
pub fn says_nothing(headers: &HeaderMap) -> bool {
    !headers.keys().any(|name| name.as_str().starts_with("wb-") || SESSION_HEADERS.contains(&name.as_str()))
}

/// Resolves a call's attribution. `pseudonym` turns an end user's name into a keyed hash.
pub fn resolve(
    credential: &Credential,
    service: &Service,
    headers: &HeaderMap,
    pseudonym: impl Fn(&str) -> String,
) -> Result<(Attribution, Claimed), Refusal> {
    use Provenance as P;
    let said = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
    let may = |field: &str| service.caller_fields.contains(field);
    let mut claimed = Claimed::new();

    let (tenant, tenant_from) = tenant(service, said("wb-tenant"), may("tenant"))?;
    let (workflow, workflow_from) = match credential.workflow() {
        Some(verified) => (Some(verified.to_owned()), P::Credential),
        None => workflow(service, said("wb-workflow"), may("workflow"))?,
    };
    let mut label = |header: &str, field: &str, valid: &dyn Fn(&str) -> bool| {
        let value = said(header)?;
        if may(field) && valid(value) {
            return Some(value.to_owned());
        }
        claim(&mut claimed, header, value);
        None
    };
    let run = label("wb-run", "run", &is_run).filter(|_| credential.run().is_none());
    let agent = label("wb-agent", "agent", &is_slug).filter(|_| credential.agent().is_none());
    let prompt_class = label("wb-prompt-class", "prompt_class", &|v| service.prompt_classes.iter().any(|c| c == v));
    let batch = label("wb-batch", "batch", &is_run);
    if let Some(batch) = batch {
        claim(&mut claimed, "batch", &batch);
    }
    if let Some(user) = said("wb-end-user") {
        let name = if may("end_user") { "end_user" } else { "wb-end-user" };
        claim(&mut claimed, name, &pseudonym(user));
    }
    for name in SESSION_HEADERS {
        if let Some(value) = said(name) {
            claim(&mut claimed, name, value);
        }
    }

    // What is verified with the credential stands, whatever a header says.
    for (header, verified) in
        [("wb-workflow", credential.workflow()), ("wb-run", credential.run()), ("wb-agent", credential.agent())]
    {
        if let Some(value) = said(header).filter(|value| verified.is_some_and(|v| v != *value)) {
            claim(&mut claimed, header, value);
        }
    }
    let header_or = |present: bool, otherwise: P| if present { P::Header } else { otherwise };
    let verified_or = |verified: Option<&str>, otherwise: P| if verified.is_some() { P::Credential } else { otherwise };
    let provenance: String = [
        P::Catalogue,
        P::Credential,
        P::Catalogue,
        if service.cost_centre.is_some() { P::Catalogue } else { P::Unassigned },
        tenant_from,
        workflow_from,
        verified_or(credential.run(), header_or(run.is_some(), P::Unassigned)),
        header_or(prompt_class.is_some(), P::Default),
        verified_or(credential.agent(), header_or(agent.is_some(), P::Unassigned)),
        P::Credential,
    ]
    .map(Provenance::letter)
    .iter()
    .collect();

    let attribution = Attribution {
        service: service.id.clone(),
        agent: agent.or_else(|| credential.agent().map(str::to_owned)),
        application: service.application.clone(),
        owner: service.owner.clone(),
        business_unit: service.business_unit.clone(),
        cost_centre: service.cost_centre.clone(),
        tenant,
        environment: credential.environment(),
        workflow,
        run: run.or_else(|| credential.run().map(str::to_owned)),
        prompt_class,
        principal: service.id.clone(),
        charged_to: vec![Charge { service: service.id.clone(), basis_points: 10_000 }],
        chain: Vec::new(),
        credential: credential.id().to_owned(),
        assurance: credential.assurance(),
        provenance,
    };
    Ok((attribution, claimed))
}

/// A field that every call of the service must bring and this one does not.
pub fn missing<'s>(service: &'s Service, who: &Attribution, claimed: &Claimed) -> Option<&'s str> {
    let brought = |field: &str| match field {
        "workflow" => who.workflow.is_some(),
        "run" => who.run.is_some(),
        "agent" => who.agent.is_some(),
        "prompt_class" => who.prompt_class.is_some(),
        "tenant" => who.tenant.is_some(),
        claim => claimed.contains_key(claim),
    };
    service.mandatory_fields.iter().map(String::as_str).find(|field| !brought(field))
}

fn tenant(service: &Service, said: Option<&str>, may: bool) -> Result<(Option<String>, Provenance), Refusal> {
    let pinned = service.tenant.as_deref();
    let Some(value) = said.filter(|v| Some(*v) != pinned) else {
        let from = if pinned.is_some() { Provenance::Catalogue } else { Provenance::Unassigned };
        return Ok((pinned.map(str::to_owned), from));
    };
    let listed = service.tenants.iter().any(|t| glob(t, value));
    if pinned.is_none() && may && listed && is_slug(value) {
        return Ok((Some(value.to_owned()), Provenance::Header));
    }
    let message = format!(
        "Weighbridge: service '{}' may not call for tenant '{}'. Its catalogue entry must permit the field 'tenant' and list the value.",
        service.id,
        shown(value)
    );
    Err(Refusal::new(Code::TenantNotPermitted, message))
}

fn workflow(service: &Service, said: Option<&str>, may: bool) -> Result<(Option<String>, Provenance), Refusal> {
    let Some(value) = said else { return Ok((None, Provenance::Unassigned)) };
    let listed = service.workflows.is_empty() || service.workflows.iter().any(|w| glob(w, value));
    if may && listed && is_slug(value) {
        return Ok((Some(value.to_owned()), Provenance::Header));
    }
    let message = format!(
        "Weighbridge: service '{}' may not name workflow '{}'. Its catalogue entry must permit the field 'workflow', and the value must be a declared slug.",
        service.id,
        shown(value)
    );
    Err(Refusal::new(Code::WorkflowNotPermitted, message))
}

/// Adds a claim, cut to a bounded length and number.
pub fn claim(claimed: &mut Claimed, name: &str, value: &str) {
    if claimed.len() < MAX_CLAIMS {
        let mut end = value.len().min(MAX_CLAIM);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        claimed.insert(name.to_owned(), value[..end].to_owned());
    }
}

/// The class of prompts an endpoint serves where nobody said better.
pub fn default_class(endpoint: &str) -> Option<&'static str> {
    Some(match endpoint {
        "chat.completions" | "messages" | "responses" | "generateContent" | "interactions" | "converse"
        | "invoke.messages" | "invoke.chat" => "chat",
        "completions" | "complete" => "completion",
        "embeddings" => "embedding",
        _ => return None,
    })
}

fn is_run(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

fn shown(value: &str) -> String {
    value.chars().take(64).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::KeyStatus;
    use std::sync::Arc;

    use crate::domain::{Environment, Key, Micros, ServiceKind};

    fn service(fields: &[&str]) -> Service {
        Service {
            id: "invoice-bot".into(),
            application: "accounts-payable".into(),
            kind: ServiceKind::Service,
            owner: "team-ap".into(),
            business_unit: "finance".into(),
            cost_centre: Some("4711".into()),
            tenant: None,
            purpose: None,
            caller_fields: fields.iter().map(|f| f.to_string()).collect(),
            mandatory_fields: Default::default(),
            tenants: vec!["acme*".into()],
            workflows: vec![],
            prompt_classes: vec!["triage".into()],
        }
    }

    fn key() -> Credential {
        Credential::Key(Arc::new(Key {
            id: "wbk_pABCDEFGHIJK".into(),
            hash: [0; 32],
            service: "invoice-bot".into(),
            environment: Environment::Prod,
            created_at: Micros(0),
            expires_at: None,
            status: KeyStatus::Active,
            allow_models: None,
            note: None,
            not_before: None,
            allow_cidrs: None,
            lineage: None,
            successor: None,
        }))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<http::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    fn run(fields: &[&str], pairs: &[(&'static str, &str)]) -> Result<(Attribution, Claimed), Refusal> {
        resolve(&key(), &service(fields), &headers(pairs), |v| format!("h({v})"))
    }

    #[test]
    fn nothing_said_leaves_the_catalogues_words() {
        let (who, claimed) = run(&[], &[]).unwrap();
        assert_eq!(who.provenance, "KCKKUUUDUC");
        assert_eq!((who.service.as_str(), who.principal.as_str()), ("invoice-bot", "invoice-bot"));
        assert!(claimed.is_empty());
    }

    #[test]
    fn every_header_that_changes_an_attribution_is_noticed() {
        let service = service(&["tenant", "workflow", "run", "agent", "prompt_class", "end_user"]);
        let bare = resolve(&key(), &service, &HeaderMap::new(), |v| v.to_owned()).unwrap();
        let said = ["wb-tenant", "wb-workflow", "wb-run", "wb-agent", "wb-prompt-class", "wb-batch", "wb-end-user"];
        for name in said.into_iter().chain(SESSION_HEADERS) {
            assert!(!says_nothing(&headers(&[(name, "acme")])), "{name}");
        }
        let others = headers(&[("user-agent", "x"), ("x-stainless-lang", "y"), ("originator", "z")]);
        assert!(says_nothing(&others));
        assert_eq!(resolve(&key(), &service, &others, |v| v.to_owned()).unwrap(), bare);
    }

    #[test]
    fn permitted_words_are_taken_and_marked() {
        let all = ["tenant", "workflow", "run", "agent", "prompt_class", "end_user"];
        let said = [
            ("wb-tenant", "acme-eu"),
            ("wb-workflow", "month-end"),
            ("wb-run", "r:1"),
            ("wb-agent", "extractor"),
            ("wb-prompt-class", "triage"),
            ("wb-end-user", "ada@example.org"),
        ];
        let (who, claimed) = run(&all, &said).unwrap();
        assert_eq!(who.provenance, "KCKKHHHHHC");
        assert_eq!(who.tenant.as_deref(), Some("acme-eu"));
        assert_eq!(claimed.get("end_user").map(String::as_str), Some("h(ada@example.org)"));
    }

    #[test]
    fn a_mandatory_field_is_missed_unless_it_is_brought_and_good() {
        let mut service = service(&["run", "end_user", "prompt_class"]);
        service.mandatory_fields = service.caller_fields.clone();
        let missed = |pairs: &[(&'static str, &str)]| {
            let (who, claimed) = resolve(&key(), &service, &headers(pairs), |v| v.to_owned()).unwrap();
            missing(&service, &who, &claimed).map(str::to_owned)
        };
        assert_eq!(missed(&[]).as_deref(), Some("end_user"));
        assert_eq!(missed(&[("wb-end-user", "a"), ("wb-prompt-class", "other")]).as_deref(), Some("prompt_class"));
        assert_eq!(missed(&[("wb-end-user", "a"), ("wb-prompt-class", "triage")]).as_deref(), Some("run"));
        assert_eq!(missed(&[("wb-end-user", "a"), ("wb-prompt-class", "triage"), ("wb-run", "7")]), None);
    }

    #[test]
    fn what_is_not_permitted_is_refused_or_only_claimed() {
        assert_eq!(run(&[], &[("wb-tenant", "acme")]).err().unwrap().code, Code::TenantNotPermitted);
        assert_eq!(run(&["tenant"], &[("wb-tenant", "other")]).err().unwrap().code, Code::TenantNotPermitted);
        assert_eq!(run(&[], &[("wb-workflow", "x")]).err().unwrap().code, Code::WorkflowNotPermitted);
        let (who, claimed) = run(&[], &[("wb-agent", "boss"), ("wb-run", "7")]).unwrap();
        assert_eq!((who.agent, who.run), (None, None));
        assert_eq!(claimed.get("wb-agent").map(String::as_str), Some("boss"));
    }

    #[test]
    fn claims_are_bounded() {
        let mut claimed = Claimed::new();
        claim(&mut claimed, "long", &"ü".repeat(500));
        assert_eq!(claimed["long"].len(), 256);
        for i in 0..100 {
            claim(&mut claimed, &i.to_string(), "x");
        }
        assert_eq!(claimed.len(), MAX_CLAIMS);
    }
}
