//! `/calls/{id}`: the receipt of one call: who, what, the cost line by line, the decision, the proof.

use askama::Template;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;

use crate::domain::identity::Provenance;
use crate::domain::policy::{RuleResult, RuleSeen};
use crate::domain::{Call, CallId, Catalogue, Component, CostBasis, Dimension, Metric, Money, Outcome, UsageBasis};
use crate::report::{Receipt, ReceiptEntry};

use super::calls::{charged, no_cost, tone};
use super::data;
use super::error::PageError;
use super::filters::words;
use super::format::{self, When};
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

#[derive(Template)]
#[template(path = "calls/show.html", blocks = ["view"])]
struct ReceiptPage {
    shell: Shell,
    id: String,
    zone: String,
    started: When,
    outcome: &'static str,
    tone: &'static str,
    cost: Option<String>,
    cost_exact: String,
    no_cost: &'static str,
    basis_words: &'static str,
    refusal: Option<RefusalLine>,
    who: Vec<Fact>,
    claimed: Vec<Fact>,
    what: Vec<Fact>,
    price_words: String,
    lines: Vec<Line>,
    usage: Vec<Fact>,
    decision: Vec<Fact>,
    rules: Vec<RuleRow>,
    timeline: Vec<Moment>,
    tree_size: String,
    root: String,
    proof: Vec<Proof>,
    json_href: String,
    proof_href: String,
}

struct RefusalLine {
    code: &'static str,
    by: Option<String>,
    words: &'static str,
}

/// A rule that was looked at.
pub(super) struct RuleRow {
    pub by: String,
    pub href: Option<String>,
    pub rule: String,
    pub result: &'static str,
    /// A tag's colour; empty for what was merely kept.
    pub tone: &'static str,
    pub note: String,
}

impl RuleRow {
    pub(super) fn of(seen: &RuleSeen) -> RuleRow {
        RuleRow {
            href: seen.by.strip_prefix("policy:").map(|id| format!("/policies/{id}")),
            by: seen.by.strip_prefix("policy:").unwrap_or(&seen.by).to_owned(),
            rule: seen.rule.clone(),
            result: seen.result.name(),
            tone: match seen.result {
                RuleResult::Denied => "bad",
                RuleResult::Allowed => "good",
                RuleResult::Changed | RuleResult::Warned | RuleResult::Observed | RuleResult::Unknown => "warn",
            },
            note: seen.note.clone().unwrap_or_default(),
        }
    }
}

/// A name and its value, with a remark.
struct Fact {
    name: String,
    value: String,
    href: Option<String>,
    note: String,
}

impl Fact {
    fn new(name: impl Into<String>, value: impl Into<String>) -> Fact {
        Fact { name: name.into(), value: value.into(), href: None, note: String::new() }
    }
    fn note(mut self, note: impl Into<String>) -> Fact {
        self.note = note.into();
        self
    }
    fn leads_to(mut self, href: String) -> Fact {
        self.href = Some(href);
        self
    }
}

struct Line {
    component: String,
    quantity: String,
    unit_price: String,
    per: String,
    tier: String,
    amount: String,
    exact: String,
}

struct Moment {
    title: String,
    at: Option<When>,
    detail: String,
}

struct Proof {
    kind: String,
    seq: u64,
    at: When,
    leaf: String,
    path: Vec<String>,
}

/// `GET /calls/{id}`, also as JSON.
pub async fn show(ctx: Ctx, Path(id): Path<String>) -> Result<Response, PageError> {
    let missing = || PageError::not_found("call with this id").with_way_out("/calls", "All calls");
    let id: CallId = id.parse().map_err(|_| missing())?;
    let receipt = data::receipt(&ctx.web.ledger, id).await?.ok_or_else(missing)?;
    if ctx.uri.query() == Some("format=json") {
        return Ok(axum::Json(as_json(&receipt)).into_response());
    }
    let page = ReceiptPage::new(&ctx, &receipt);
    ctx.html(&page, page.as_view())
}

impl ReceiptPage {
    fn new(ctx: &Ctx, receipt: &Receipt) -> ReceiptPage {
        let call = &receipt.call;
        let catalogue = ctx.web.ledger.catalogue();
        let zone = ctx.zone();
        ReceiptPage {
            shell: Shell::new(ctx, "Receipt"),
            id: call.id.to_string(),
            zone: catalogue.organisation.time_zone.clone(),
            started: format::when(call.started_at, &zone),
            outcome: call.outcome.name(),
            tone: tone(call.outcome),
            cost: charged(call).map(format::exact_money),
            cost_exact: call.cost.map(|c| c.to_string()).unwrap_or_default(),
            no_cost: match no_cost(call) {
                "not sent" => "Not sent, nothing charged",
                "running" => "Running, not settled yet",
                _ => "Cost unknown: no price",
            },
            basis_words: basis_words(call),
            refusal: call.refusal.as_ref().map(|(code, by)| RefusalLine {
                code: code.name(),
                by: by.clone(),
                words: super::help::words(*code).0,
            }),
            who: who(call, &catalogue),
            claimed: claimed(call),
            what: what(call),
            price_words: price_words(call),
            lines: lines(call),
            usage: usage(call),
            decision: decision(receipt, &catalogue),
            rules: receipt.rules.iter().map(RuleRow::of).collect(),
            timeline: timeline(call, &receipt.entries, &zone),
            tree_size: format::count(receipt.tree_size),
            root: format::hex(&receipt.root),
            proof: receipt.entries.iter().map(|e| proof(e, &zone)).collect(),
            json_href: format!("/calls/{}?format=json", call.id),
            proof_href: format!("/api/v1/ledger/proof/{}?format=tlog-proof", call.id),
        }
    }
}

fn basis_words(call: &Call) -> &'static str {
    match (call.outcome, call.cost_basis) {
        (Outcome::Running, _) => "The hold stands until the call is settled.",
        (Outcome::Refused, _) => "No byte went to the provider.",
        (_, CostBasis::Exact) => "Exact: usage as the provider reported it, at the price book's prices.",
        (_, CostBasis::Estimated) => "Estimated: the provider's usage is missing, see below.",
        (_, CostBasis::Vendor) => "As the provider stated it.",
        (_, CostBasis::Unpriced) => "The price book has no price for this model. Unknown is not zero.",
    }
}

/// Every attribution field with where it came from.
fn who(call: &Call, catalogue: &Catalogue) -> Vec<Fact> {
    let Some(who) = &call.who else {
        return vec![Fact::new("caller", "nobody identified").note("the credential did not verify")];
    };
    let origin = |dimension: Dimension| {
        let field = Provenance::FIELDS.iter().position(|f| *f == dimension.name());
        field.and_then(|i| who.provenance.chars().nth(i)).map_or("", Provenance::in_words)
    };
    let fact = |dimension: Dimension| {
        let value = call.dimension(dimension);
        let href = value.map(|v| link("/calls", &[("range", "30d".into()), (dimension.name(), v.to_owned())]));
        Fact {
            name: words(dimension).to_owned(),
            value: value.unwrap_or("(none)").to_owned(),
            href,
            note: origin(dimension).to_owned(),
        }
    };
    let mut facts = vec![fact(Dimension::Service)];
    facts.extend(who.agent.is_some().then(|| fact(Dimension::Agent)));
    let contact = catalogue.owners.get(&who.owner).and_then(|o| o.email.clone());
    let mut owner = fact(Dimension::Owner);
    if contact.is_none() {
        owner.note.push_str(", no contact declared");
    }
    facts.push(owner);
    facts.extend([Dimension::Application, Dimension::BusinessUnit, Dimension::CostCentre, Dimension::Tenant].map(fact));
    facts.push(fact(Dimension::Environment));
    facts.extend(
        [Dimension::Workflow, Dimension::Run, Dimension::PromptClass]
            .into_iter()
            .filter(|d| call.dimension(*d).is_some())
            .map(fact),
    );
    if who.principal != who.service {
        facts.push(fact(Dimension::Principal));
        facts.push(Fact::new("chain", who.chain.join(" → ")));
    }
    let payers = who.charged_to.iter().map(|c| match c.basis_points {
        10_000 => c.service.clone(),
        part => format!("{} {}.{:02} %", c.service, part / 100, part % 100),
    });
    facts.push(Fact::new("who pays", payers.collect::<Vec<_>>().join(", ")));
    let assurance = match who.assurance.name() {
        "A1" => "A1, a bearer secret",
        "A2" => "A2, a workload token",
        "A3" => "A3, bound by mutual TLS",
        _ => "A0, not authenticated",
    };
    facts.push(fact(Dimension::Credential).note(assurance));
    facts
}

fn claimed(call: &Call) -> Vec<Fact> {
    let effective = |name: &str| Dimension::from_name(name).and_then(|d| call.dimension(d)).unwrap_or("(none)");
    call.claimed
        .iter()
        .map(|(name, value)| Fact::new(name.clone(), value.clone()).note(format!("effective: {}", effective(name))))
        .collect()
}

fn what(call: &Call) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>, note: &str| {
        facts.extend(value.map(|v| Fact::new(name, v).note(note)));
    };
    add(
        "provider",
        call.provider.clone(),
        call.dialect.as_deref().map(|d| format!("dialect {d}")).unwrap_or_default().as_str(),
    );
    add("endpoint", Some(call.endpoint.clone()), if call.unmetered { "passed on without metering" } else { "" });
    add("model asked for", call.model_requested.clone(), "");
    add("model served", call.model_served.clone(), "");
    add("answer", Some(if call.stream { "streamed" } else { "in one piece" }.to_owned()), "");
    add("HTTP status", call.http_status.map(|s| s.to_string()), "");
    add(
        "finish reason",
        call.finish_reason.clone(),
        if call.output_limit.is_some() { "an output cap was written in, see Decision" } else { "" },
    );
    add("service tier", call.service_tier.clone(), "");
    if call.tools_offered > 0 || call.tools_called > 0 {
        let value = format!("{} offered, {} called", call.tools_offered, call.tools_called);
        add("tools", Some(value), &call.tool_names.join(", "));
    }
    add("provider's request id", call.provider_request_id.clone(), "");
    add("provider's answer id", call.response_id.clone(), "");
    if call.attempts > 1 {
        add("attempts", Some(call.attempts.to_string()), "the cost is their sum");
    }
    add("odd about it", (!call.flags.is_empty()).then(|| call.flags.join(", ")), "");
    let retry = call.retry_of.map(|id| Fact::new("retry of", id.to_string()).leads_to(format!("/calls/{id}")));
    facts.extend(retry);
    facts
}

fn price_words(call: &Call) -> String {
    let model = call.price_model.as_deref().unwrap_or("no model");
    if call.cost_lines.is_empty() {
        return match charged(call) {
            Some(cost) if cost.is_zero() => "Nothing was used that has a price.".to_owned(),
            Some(_) => "Settled as one amount, without lines: there was no usage to price.".to_owned(),
            None => no_cost_words(call).to_owned(),
        };
    }
    format!("Prices of {model}, price book {}, as of the call's start", call.price_book)
}

fn no_cost_words(call: &Call) -> &'static str {
    match call.outcome {
        Outcome::Running => "The call has not been settled yet.",
        Outcome::Refused => "A refused call costs nothing.",
        _ => {
            "The price book has no price for this model, so the cost is unknown. It is counted as unpriced in every sum."
        }
    }
}

fn lines(call: &Call) -> Vec<Line> {
    let line = |l: &crate::domain::CostLine| Line {
        component: component(l.component),
        quantity: format::count(l.quantity),
        unit_price: l.unit_price_usd.clone(),
        per: format::count(l.per),
        tier: match l.tier_from_tokens {
            0 => "base".to_owned(),
            from => format!("above {} input tokens", format::count(from)),
        },
        amount: format::exact_money(l.cost_usd),
        exact: l.cost_usd.to_string(),
    };
    call.cost_lines.iter().map(line).collect()
}

/// A component's name in words: `cache_read_tokens` → `cache read tokens`.
fn component(component: Component) -> String {
    component.name().replace('_', " ")
}

fn usage(call: &Call) -> Vec<Fact> {
    let basis = match call.usage_basis {
        UsageBasis::Vendor => "as the provider reported it",
        UsageBasis::Counted => "counted by our tokenizer over the bytes that passed",
        UsageBasis::Estimated => "estimated from the hold or the request, without the bytes",
        UsageBasis::None => "",
    };
    let mut facts: Vec<Fact> = call
        .usage
        .iter()
        .map(|(c, n)| {
            let part_of = c.parents().first().map(|p| format!("part of {}", component(*p))).unwrap_or_default();
            Fact::new(component(c), format::count(n)).note(part_of)
        })
        .collect();
    if !facts.is_empty() && !basis.is_empty() {
        facts.push(Fact::new("basis", basis));
    }
    facts
}

fn decision(receipt: &Receipt, catalogue: &Catalogue) -> Vec<Fact> {
    let call = &receipt.call;
    let mut facts = vec![match &call.refusal {
        Some((code, by)) => Fact::new("decision", "refused").note(match by {
            Some(by) => format!("{code}, by {by}"),
            None => code.to_string(),
        }),
        None => Fact::new("decision", "admitted"),
    }];
    if !call.hold.is_zero() {
        facts.push(
            Fact::new("hold", format!("USD {}", format::exact_money(call.hold))).note("the most it could have cost"),
        );
    }
    for hold in &call.holds {
        let metric = catalogue.budgets.get(&hold.budget).map(|b| b.limit.metric);
        let amount = match metric {
            Some(Metric::Usd) => format!("USD {}", format::exact_money(Money(hold.amount))),
            Some(_) => format::count(u64::try_from(hold.amount).unwrap_or(0)),
            None => "held".to_owned(),
        };
        facts.push(
            Fact::new("budget", hold.budget.clone())
                .leads_to(format!("/budgets#{}", hold.budget))
                .note(format!("{amount}, period {}", hold.period)),
        );
    }
    if call.refusal.is_none() && call.holds.is_empty() {
        facts.push(Fact::new("budgets", "none covered this call"));
    }
    if let (Some(cost), true) = (call.cost, !call.hold.is_zero() && call.settled_seq.is_some()) {
        let (word, difference) = if cost > call.hold {
            ("above the hold", Money(cost.0 - call.hold.0))
        } else {
            ("released", Money(call.hold.0 - cost.0))
        };
        facts.push(Fact::new(word, format!("USD {}", format::exact_money(difference))));
    }
    if let Some(limit) = call.output_limit {
        let by_rule = receipt.rules.iter().any(|r| r.rule == "max_output_tokens" && r.result == RuleResult::Changed);
        let note = match by_rule {
            true => "written into the request, as a policy says",
            false => "written into the request so that the budgets could afford it",
        };
        facts.push(Fact::new("output cap", format!("{} tokens", format::count(limit))).note(note));
    }
    if let Some(sent) = &receipt.model_sent {
        facts.push(Fact::new("model sent", sent.clone()).note("in place of the one asked for, as a policy says"));
    }
    facts.push(Fact::new("catalogue", format!("revision {}", call.catalogue_revision)));
    facts
}

fn timeline(call: &Call, entries: &[ReceiptEntry], zone: &TimeZone) -> Vec<Moment> {
    let at = |m| Some(format::when(m, zone));
    let refused = call.outcome == Outcome::Refused;
    // Durations count from the request's arrival, which is a little before its entry.
    let arrived = call.completed_at.zip(call.total_ms).map(|(end, ms)| end.0 - i64::from(ms) * 1_000);
    let arrived = arrived.unwrap_or(call.started_at.0).min(call.started_at.0);
    let mut moments = vec![Moment {
        title: if refused { "Refused, recorded" } else { "Admitted, hold on disk" }.to_owned(),
        at: at(call.started_at),
        detail: call
            .overhead_us
            .map(|us| format!("{} of the call were ours", format::duration_us(us)))
            .unwrap_or_default(),
    }];
    if let Some(ms) = call.first_byte_ms {
        moments.push(Moment {
            title: "First byte of the answer".into(),
            at: at(crate::domain::Micros(arrived + i64::from(ms) * 1_000)),
            detail: format!("after {}", format::duration_ms(ms.into())),
        });
    }
    if let Some(end) = call.completed_at.filter(|_| !refused) {
        let after = call.total_ms.map(|ms| format!("after {}", format::duration_ms(ms.into()))).unwrap_or_default();
        moments.push(Moment { title: format!("Settled: {}", call.outcome.name()), at: at(end), detail: after });
    }
    let known = ["ADMIT", "DENY", "SETTLE", "INTERRUPTED"];
    for entry in entries.iter().filter(|e| !known.contains(&e.kind.name().as_str())) {
        moments.push(Moment {
            title: capital_first(&entry.kind.name()),
            at: at(entry.ts),
            detail: format!("entry {}", entry.seq),
        });
    }
    moments
}

/// `OVERRUN` → `Overrun`.
fn capital_first(name: &str) -> String {
    super::spend::capital(&name.to_lowercase())
}

fn proof(entry: &ReceiptEntry, zone: &TimeZone) -> Proof {
    Proof {
        kind: entry.kind.name(),
        seq: entry.seq,
        at: format::when(entry.ts, zone),
        leaf: format::hex(&entry.leaf_hash),
        path: entry.path.iter().map(|h| format::hex(h)).collect(),
    }
}

/// The receipt as data: the call's facts and the proof of each of its entries.
fn as_json(receipt: &Receipt) -> serde_json::Value {
    let entries = receipt.entries.iter().map(|e| {
        serde_json::json!({
            "seq": e.seq,
            "kind": e.kind.name(),
            "recorded_at": e.ts,
            "leaf_hash": format::hex(&e.leaf_hash),
            "inclusion_path": e.path.iter().map(|h| format::hex(h)).collect::<Vec<_>>(),
        })
    });
    serde_json::json!({
        "call": receipt.call,
        "rules": receipt.rules,
        "model_sent": receipt.model_sent,
        "entries": entries.collect::<Vec<_>>(),
        "tree": { "size": receipt.tree_size, "root": format::hex(&receipt.root), "hash": "RFC 6962, SHA-256" },
    })
}
