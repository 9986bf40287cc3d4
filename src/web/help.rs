//! `/help/{code}`: what a refusal means and what to do about it. The `wb-help` link of every refusal lands here, so these
//! pages need no session.

use askama::Template;
use axum::extract::Path;
use axum::response::Response;

use crate::domain::Code;

use super::error::PageError;
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

#[derive(Template)]
#[template(path = "help/show.html", blocks = ["view"])]
struct HelpPage {
    shell: Shell,
    code: &'static str,
    status: u16,
    recorded: &'static str,
    meaning: &'static str,
    way_out: &'static str,
    calls: Option<String>,
}

#[derive(Template)]
#[template(path = "help/list.html", blocks = ["view"])]
struct HelpList {
    shell: Shell,
    codes: Vec<(&'static str, u16, &'static str)>,
}

/// `GET /help`.
pub async fn list(ctx: Ctx) -> Result<Response, PageError> {
    let codes = Code::ALL.iter().map(|c| (c.name(), c.status(), words(*c).0)).collect();
    let page = HelpList { shell: Shell::new(&ctx, "Help"), codes };
    ctx.html(&page, page.as_view())
}

/// `GET /help/{code}`.
pub async fn show(ctx: Ctx, Path(name): Path<String>) -> Result<Response, PageError> {
    let code = Code::from_name(&name)
        .ok_or_else(|| PageError::not_found("refusal with that code").with_way_out("/help", "All codes"))?;
    let (meaning, way_out) = words(code);
    let calls = link("/calls", &[("range", "7d".into()), ("outcome", "refused".into())]);
    let page = HelpPage {
        shell: Shell::new(&ctx, code.name()),
        code: code.name(),
        status: code.status(),
        recorded: if code == Code::JournalUnavailable {
            "Calls refused like this are counted and recorded as a gap when the journal is back."
        } else {
            "The refusal is recorded in the journal; nothing was sent to the provider and nothing was charged."
        },
        meaning,
        way_out,
        calls: ctx.session.as_ref().map(|_| calls),
    };
    ctx.html(&page, page.as_view())
}

/// What a code means, and the way out.
pub fn words(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Malformed => (
            "The request could not be read: its JSON, its headers or its encoding is broken, or a required field is missing.",
            "The message names what is wrong. Send the request as the vendor's own API wants it; the gateway adds nothing of its own.",
        ),
        Code::CredentialAmbiguous => (
            "The request carries more than one credential, for example two different keys in two headers.",
            "Send one key in one place: Authorization: Bearer, x-api-key, or where your vendor's SDK puts it.",
        ),
        Code::CredentialInQuery => (
            "A key stood in the address. Addresses end up in access logs, so such a key counts as leaked.",
            "Send the key in a header, and replace the one that stood in the address.",
        ),
        Code::HeaderMismatch => (
            "A wb- header contradicts what the key or the service catalogue says, or may not be set by this service.",
            "Leave the header out, or have the field added to the service's caller_fields.",
        ),
        Code::CredentialMissing => {
            ("The request carries no key.", "Set the SDK's API key to a Weighbridge key (wbk_…), not to the vendor's.")
        }
        Code::KeyInvalid => (
            "The key did not verify: mistyped, unknown, revoked or suspended. Callers are not told which; the record has it.",
            "Check that all 54 characters arrived. If they did, an operator can see the exact reason on the receipt.",
        ),
        Code::KeyExpired => (
            "The key is genuine and its time is over.",
            "Have a new key made for the service and put it in place; both can be valid while you change over.",
        ),
        Code::VendorKeyPresented => (
            "A provider's own key was sent. Callers have no need of one here, and it is now known outside the vault.",
            "Use a Weighbridge key. Replace the vendor key at the vendor, since it was in circulation.",
        ),
        Code::BudgetExceeded => (
            "A hard budget that covers this call cannot afford its upper bound: what it has settled and holds, plus this call, would pass the limit.",
            "The refusal names the budget, what is left and when it resets. A smaller output cap may fit; otherwise its owner can raise it. Retrying before the reset does not help.",
        ),
        Code::MaxCostExceeded => (
            "The call could cost more than its own wb-max-cost allows.",
            "Raise wb-max-cost, lower the output cap, or shorten the input.",
        ),
        Code::PolicyDenied => (
            "A policy forbids this call. The refusal names the policy.",
            "Use what the policy allows, or ask its owner.",
        ),
        Code::TenantNotPermitted => (
            "The service may not act for the tenant in wb-tenant.",
            "Send a tenant that the service's catalogue entry lists, or have it added.",
        ),
        Code::WorkflowNotPermitted => (
            "The service may not name the workflow in wb-workflow.",
            "Send a workflow that the service's catalogue entry lists, or have it added.",
        ),
        Code::ModelUnpriced => (
            "The model has no price, so a hard budget cannot cover it.",
            "Add a price for the model, or a policy with allow_unpriced for this service.",
        ),
        Code::UnmeteredPath => (
            "This path of the vendor is not metered, and a hard budget covers the caller.",
            "Use a metered path, or have a policy with allow_unmetered made for this service.",
        ),
        Code::Paused => (
            "An operator has paused this key, service or provider.",
            "Ask the operator who did; the journal has name and reason.",
        ),
        Code::AnomalyHold => (
            "Calls of this service are held back because something unusual is being looked at.",
            "Ask whoever watches over anomalies to review and release it.",
        ),
        Code::ModelNotAllowed => (
            "The model does not exist for this caller: no provider serves it, or the key does not permit it.",
            "Check the model's spelling, or have it added to the key or provider.",
        ),
        Code::UnknownPath => (
            "No provider stands at this path.",
            "Set the base URL to the gateway's address with the provider's id, such as /openai/v1 or /anthropic.",
        ),
        Code::TooLarge => {
            ("The request is larger than the limit for bodies or headers.", "Send less, or have max_body_bytes raised.")
        }
        Code::UnsupportedEncoding => {
            ("The body has a content encoding other than gzip, zstd or none.", "Send it plain, gzip or zstd.")
        }
        Code::IdempotencyReplay => (
            "A call with this wb-idempotency-key was made before, and its answer is no longer at hand.",
            "The refusal names the first call. Use a new key if you do want a second call.",
        ),
        Code::RateLimited => (
            "The caller's rate is above what its policy allows, or it failed to authenticate too often.",
            "Wait as long as Retry-After says.",
        ),
        Code::UpstreamUnavailable => (
            "The provider cannot be reached, or no provider serves this request at the moment.",
            "Retry after a moment. If it lasts, look at the provider's status.",
        ),
        Code::JournalUnavailable => (
            "The journal cannot be written, and nothing passes without a record.",
            "Retry after a moment; an operator must look at the disk of the appliance.",
        ),
        Code::MethodNotAllowed => ("This path does not take this method.", "Use the method that the vendor documents."),
        Code::UpgradeNotSupported => (
            "The request asks for another protocol on this connection, such as WebSocket.",
            "Use the plain or streamed form of the call.",
        ),
        Code::Stopped => (
            "An operator ended this call while it ran, or paused what it belongs to and had running calls cut. What had passed until then is charged.",
            "Ask your operators before repeating it: they had a reason, and it is on record.",
        ),
        Code::RequestTimeout => (
            "The request's head or body did not arrive in time.",
            "Check the network between caller and gateway; send the body without long pauses.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_words_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let (meaning, way_out) = words(*code);
            assert!(meaning.ends_with('.') && way_out.ends_with('.'), "{code}");
            assert!(seen.insert(meaning), "{code}");
        }
    }
}
