//! The rules of a policy, each a function: what it finds in a call, or nothing where the policy does not have the rule.
//!
//! To add one: a field of [`Policy`], its section of the file, a line of [`RULES`].

use jiff::tz::TimeZone;

use crate::domain::filter::glob;
use crate::domain::identity::Provenance;
use crate::domain::policy::{CLASS, PriceClass, Unpriced};
use crate::domain::{Code, Policy};

use super::{Asked, Input, Price};

/// What a rule found.
pub(super) enum Finding {
    Kept,
    Broken {
        code: Code,
        message: String,
        note: Option<String>,
    },
    /// The call keeps the rule once it is changed.
    Change {
        note: Option<String>,
        effect: Effect,
    },
    /// The fact it asks for is not known.
    Unknown(&'static str),
    /// It would change the call, and this call cannot be changed so: it goes as it is.
    Unfit(&'static str),
}

pub(super) enum Effect {
    /// Output cap in tokens per answer.
    Limit(u64),
    Downgrade {
        to: String,
        budget: String,
        left: u8,
    },
    Unpriced(Unpriced),
}

type Check = fn(&Policy, &Asked<'_>) -> Option<Finding>;

/// All rules by their names in the configuration, in the order in which they are looked at: who and where from, what,
/// then what changes the call.
pub(super) const RULES: &[(&str, Check)] = &[
    ("deny_networks", deny_networks),
    ("allow_networks", allow_networks),
    ("require_headers", require_headers),
    ("require_owner", require_owner),
    ("require_fields", require_fields),
    ("hours", hours),
    ("deny_providers", |p, c| denied(&p.deny_providers, c.provider, "provider", &p.id)),
    ("allow_providers", |p, c| allowed(p.allow_providers.as_deref()?, c.provider, "provider", &p.id)),
    ("allow_regions", allow_regions),
    ("deny_endpoints", |p, c| denied(&p.deny_endpoints, c.endpoint, "endpoint", &p.id)),
    ("allow_endpoints", |p, c| allowed(p.allow_endpoints.as_deref()?, c.endpoint, "endpoint", &p.id)),
    ("deny_models", deny_models),
    ("allow_models", allow_models),
    ("deny_tools", deny_tools),
    ("allow_tools", allow_tools),
    ("max_input_tokens", max_input_tokens),
    ("unpriced_policy", unpriced_policy),
    ("downgrade", downgrade),
    ("max_output_tokens", max_output_tokens),
];

fn broken(message: String) -> Finding {
    Finding::Broken { code: Code::PolicyDenied, message, note: None }
}

/// Whether a pattern fits, without regard to case. `text` is lower case.
fn fits(pattern: &str, text: &str) -> bool {
    if pattern.chars().any(char::is_uppercase) { glob(&pattern.to_lowercase(), text) } else { glob(pattern, text) }
}

/// The first few patterns, for a sentence.
pub(super) fn some(patterns: &[String]) -> String {
    match patterns {
        [] => "none".to_owned(),
        few if few.len() <= 5 => few.join(", "),
        many => format!("{}, …", many[..5].join(", ")),
    }
}

fn denied(patterns: &[String], value: &str, what: &str, id: &str) -> Option<Finding> {
    if patterns.is_empty() {
        return None;
    }
    let lower = value.to_lowercase();
    Some(match patterns.iter().any(|p| fits(p, &lower)) {
        true => broken(format!("policy `{id}` denies {what} `{value}`: use another {what}")),
        false => Finding::Kept,
    })
}

fn allowed(patterns: &[String], value: &str, what: &str, id: &str) -> Option<Finding> {
    let lower = value.to_lowercase();
    Some(match patterns.iter().any(|p| fits(p, &lower)) {
        true => Finding::Kept,
        false => broken(format!("policy `{id}` does not allow {what} `{value}`: it allows {}", some(patterns))),
    })
}

/// Whether a model is in a list of patterns and classes; absent where a class decides and the price is not known.
fn in_list(list: &[String], model: &str, call: &Asked<'_>) -> Option<bool> {
    let lower = model.to_lowercase();
    let (mut found, mut unknown) = (false, false);
    for pattern in list {
        match (pattern.strip_prefix(CLASS), call.facts.price) {
            (None, _) => found |= fits(pattern, &lower),
            // What is not metered has no price to have a class by.
            (Some(_), _) if !call.metered => {}
            (Some(_), Price::Unknown) => unknown = true,
            (Some(class), Price::Unpriced) => found |= class == PriceClass::Unpriced.name(),
            (Some(class), Price::PerMillion(price)) => found |= class == PriceClass::of(Some(price)).name(),
        }
    }
    if found || !unknown { Some(found) } else { None }
}

/// The model, if a key's list has no place for it.
pub(super) fn outside<'m>(list: &[String], model: &'m str, call: &Asked<'_>) -> Option<&'m str> {
    (in_list(list, model, call) == Some(false)).then_some(model)
}

fn class_note(call: &Asked<'_>) -> Option<String> {
    match call.facts.price {
        Price::PerMillion(price) => Some(format!("{CLASS}{}", PriceClass::of(Some(price)).name())),
        Price::Unpriced => Some(format!("{CLASS}unpriced")),
        Price::Unknown => None,
    }
}

fn by_model(list: &[String], wanted: bool, call: &Asked<'_>, say: impl Fn(&str) -> String) -> Option<Finding> {
    let Some(model) = call.model else { return Some(Finding::Kept) };
    let classes = list.iter().any(|p| p.starts_with(CLASS));
    let note = classes.then(|| class_note(call)).flatten();
    Some(match in_list(list, model, call) {
        None => Finding::Unknown("the model's price"),
        Some(found) if found == wanted => Finding::Kept,
        Some(_) => Finding::Broken { code: Code::PolicyDenied, message: say(model), note },
    })
}

fn deny_models(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.deny_models.is_empty() {
        return None;
    }
    by_model(&p.deny_models, false, call, |model| {
        format!("policy `{}` denies model `{model}`: use another model", p.id)
    })
}

fn allow_models(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let list = p.allow_models.as_deref()?;
    by_model(list, true, call, |model| {
        format!("policy `{}` does not allow model `{model}`: it allows {}", p.id, some(list))
    })
}

fn deny_tools(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.deny_tools.is_empty() {
        return None;
    }
    by_tool(&p.deny_tools, false, call, |tool| {
        format!("policy `{}` denies tool `{tool}`: send the request without it", p.id)
    })
}

fn allow_tools(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let list = p.allow_tools.as_deref()?;
    by_tool(list, true, call, |tool| {
        format!("policy `{}` does not allow tool `{tool}`: it allows {}", p.id, some(list))
    })
}

/// The first tool offered whose being in the list is not what is wanted.
fn by_tool(list: &[String], wanted: bool, call: &Asked<'_>, say: impl Fn(&str) -> String) -> Option<Finding> {
    let Some(tools) = &call.facts.tools else { return Some(Finding::Unknown("the tools offered")) };
    let wrong = tools.iter().find(|tool| {
        let lower = tool.to_lowercase();
        list.iter().any(|p| fits(p, &lower)) != wanted
    });
    Some(match wrong {
        None => Finding::Kept,
        Some(tool) => {
            let short: String = tool.chars().take(64).collect();
            Finding::Broken { code: Code::PolicyDenied, message: say(&short), note: Some(short) }
        }
    })
}

fn deny_networks(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.deny_networks.is_empty() {
        return None;
    }
    let Some(peer) = call.facts.peer else { return Some(Finding::Unknown("the source address")) };
    Some(match p.deny_networks.iter().any(|n| n.contains(&peer.to_canonical())) {
        true => broken(format!("policy `{}` denies calls from your network", p.id)),
        false => Finding::Kept,
    })
}

fn allow_networks(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let list = p.allow_networks.as_deref()?;
    let Some(peer) = call.facts.peer else { return Some(Finding::Unknown("the source address")) };
    Some(match list.iter().any(|n| n.contains(&peer.to_canonical())) {
        true => Finding::Kept,
        // Which networks would do is nothing for a caller to know.
        false => broken(format!("policy `{}` does not allow calls from your network", p.id)),
    })
}

fn require_headers(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.require_headers.is_empty() {
        return None;
    }
    let Some(headers) = &call.facts.headers else { return Some(Finding::Unknown("the headers")) };
    let missing: Vec<&str> =
        p.require_headers.iter().map(String::as_str).filter(|h| !headers.iter().any(|c| c == h)).collect();
    Some(match missing.as_slice() {
        [] => Finding::Kept,
        names => {
            let names = names.join(", ");
            let message = format!("policy `{}` requires the header {names}: send it with every call", p.id);
            Finding::Broken { code: Code::PolicyDenied, message, note: Some(names) }
        }
    })
}

fn unassigned(call: &Asked<'_>, field: &str) -> bool {
    let at = Provenance::FIELDS.iter().position(|f| *f == field);
    at.and_then(|at| call.who.provenance.chars().nth(at)).is_none_or(|letter| letter == Provenance::Unassigned.letter())
}

/// An owner that is only mentioned answers for nothing: nobody knows how to reach it.
fn owner_missing(call: &Asked<'_>) -> bool {
    let declared = call.catalogue.owners.get(&call.who.owner);
    let reachable = declared.is_some_and(|o| o.name.is_some() || o.email.is_some());
    call.who.owner.is_empty() || unassigned(call, "owner") || !reachable
}

fn require_owner(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if !p.require_owner {
        return None;
    }
    if !owner_missing(call) {
        return Some(Finding::Kept);
    }
    let message = format!(
        "policy `{}` requires an owner who can be reached, and service `{}` has none: declare a name or an e-mail \
         address for owner `{}`",
        p.id, call.who.service, call.who.owner
    );
    Some(broken(message))
}

fn require_fields(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.require_fields.is_empty() {
        return None;
    }
    let missing: Vec<&str> = p.require_fields.iter().map(String::as_str).filter(|f| unassigned(call, f)).collect();
    if missing.is_empty() {
        return Some(Finding::Kept);
    }
    let names = missing.join(", ");
    let message = format!(
        "policy `{}` requires {names}, unassigned for this call of service `{}`: complete the service's entry, or send \
         what its callers may say",
        p.id, call.who.service
    );
    Some(Finding::Broken { code: Code::PolicyDenied, message, note: Some(names) })
}

fn hours(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    if p.hours.is_empty() {
        return None;
    }
    let zone = &call.catalogue.organisation.time_zone;
    let Ok(tz) = TimeZone::get(zone) else { return Some(Finding::Unknown("the organisation's time zone")) };
    let local = call.at.timestamp().to_zoned_datetime(tz);
    let weekday = local.weekday().to_monday_zero_offset() as u8;
    let minute = local.hour() as u16 * 60 + local.minute() as u16;
    if p.hours.iter().any(|h| h.open(weekday, minute)) {
        return Some(Finding::Kept);
    }
    let windows: Vec<String> = p.hours.iter().map(ToString::to_string).collect();
    let now = local.strftime("%a %H:%M").to_string().to_lowercase();
    let message = format!("policy `{}` allows calls at {} ({zone}), and it is {now} there", p.id, windows.join(", "));
    Some(Finding::Broken { code: Code::PolicyDenied, message, note: Some(now) })
}

fn allow_regions(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let list = p.allow_regions.as_deref()?;
    let Some(region) = &call.facts.region else { return Some(Finding::Unknown("the region")) };
    if region.is_empty() {
        let provider = call.provider;
        let message = format!(
            "policy `{}` allows the regions {}, and where provider `{provider}` computes is not declared: set its `region`",
            p.id,
            some(list)
        );
        return Some(broken(message));
    }
    allowed(list, region, "region", &p.id)
}

fn max_input_tokens(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let most = p.max_input_tokens?;
    if !call.metered {
        return Some(Finding::Kept);
    }
    Some(match call.facts.input {
        Input::Unknown => Finding::Unknown("the input's length"),
        Input::Tokens(tokens) if tokens <= most => Finding::Kept,
        Input::Tokens(tokens) => Finding::Broken {
            code: Code::PolicyDenied,
            message: format!("policy `{}` allows {most} input tokens, and this request has about {tokens}", p.id),
            note: Some(tokens.to_string()),
        },
        Input::Unseen if p.allow_unbounded => Finding::Kept,
        Input::Unseen => broken(format!(
            "policy `{}` allows {most} input tokens, and what this request refers to (a stored conversation, files) cannot \
             be counted: send the text itself",
            p.id
        )),
    })
}

fn unpriced_policy(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let what = p.unpriced_policy?;
    if !call.metered {
        return Some(Finding::Kept);
    }
    let model = call.model.unwrap_or("this model");
    Some(match (call.facts.price, what) {
        (Price::Unknown, _) => Finding::Unknown("the model's price"),
        (Price::PerMillion(_), _) => Finding::Kept,
        (Price::Unpriced, Unpriced::Deny) => Finding::Broken {
            code: Code::ModelUnpriced,
            message: format!("policy `{}` denies model `{model}`, which has no price: declare one for it", p.id),
            note: None,
        },
        (Price::Unpriced, what) => {
            Finding::Change { note: Some(what.name().to_owned()), effect: Effect::Unpriced(what) }
        }
    })
}

fn downgrade(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let rule = p.downgrade.as_ref()?;
    let Some(model) = call.model.filter(|m| call.metered && !m.eq_ignore_ascii_case(&rule.to)) else {
        return Some(Finding::Kept);
    };
    let Some((budget, left)) = (call.left)().filter(|(_, left)| *left < rule.below_percent) else {
        return Some(Finding::Kept);
    };
    if !call.facts.model_writable {
        return Some(Finding::Unfit("the model stands in the path and is not changed"));
    }
    let note = Some(format!("{model} → {}, {left} % of {budget} left", rule.to));
    Some(Finding::Change { note, effect: Effect::Downgrade { to: rule.to.clone(), budget, left } })
}

fn max_output_tokens(p: &Policy, call: &Asked<'_>) -> Option<Finding> {
    let most = p.max_output_tokens?;
    if !call.metered {
        return Some(Finding::Kept);
    }
    let Some(output) = call.facts.output else { return Some(Finding::Unknown("the output asked for")) };
    Some(match output.cap {
        Some(cap) if cap <= most => Finding::Kept,
        _ if output.writable => Finding::Change { note: Some(most.to_string()), effect: Effect::Limit(most) },
        _ => broken(format!(
            "policy `{}` allows {most} output tokens, and a cap cannot be written into this request: ask for {most} at most",
            p.id
        )),
    })
}
