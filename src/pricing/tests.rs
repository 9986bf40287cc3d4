//! The price book against the public pricing cases, and the rules that those do not reach.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::domain::{Change, PriceOverride};

/// A file of the shared data, or `None` (said so) where it is not at hand and nobody insists on it.
pub(super) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("WEIGHBRIDGE_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let file = root.join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: set WEIGHBRIDGE_SHARED", file.display());
    eprintln!("skipped: {} is not here, set WEIGHBRIDGE_SHARED", file.display());
    None
}

fn usage(value: &Value) -> Usage {
    serde_json::from_value(value.clone()).unwrap()
}

/// Expected money: a decimal, or a fraction that our line rounds half-even. The fraction is rounded by a way of its own.
fn money(value: &Value) -> Money {
    if let Some(text) = value.as_str() {
        return text.parse().unwrap();
    }
    let (numerator, denominator) = value["fraction"].as_str().unwrap().split_once('/').unwrap();
    let (n, d) = (numerator.parse::<i128>().unwrap() * 10i128.pow(15), denominator.parse::<i128>().unwrap());
    let floor = n.div_euclid(d);
    Money(match (n.rem_euclid(d) * 2).cmp(&d) {
        std::cmp::Ordering::Less => floor,
        std::cmp::Ordering::Equal => floor + (floor & 1),
        std::cmp::Ordering::Greater => floor + 1,
    })
}

fn check(book: &PriceBook, case: &Value) -> Result<(), String> {
    let context: PriceContext = serde_json::from_value(case["price_context"].clone()).unwrap();
    let text = |name: &str| case[name].as_str().unwrap();
    let at = text("timestamp").parse().unwrap();
    let found = book.quote(text("provider"), text("model_ref"), at, &context, &usage(&case["usage"]));
    let expected = &case["expected"];
    let cost = match (expected["error"].as_str(), found) {
        (Some("unknown_model"), Err(QuoteError::UnknownModel { .. })) => return Ok(()),
        (Some("invalid_usage"), Err(QuoteError::InvalidUsage(_))) => return Ok(()),
        (None, Ok(cost)) => cost,
        (_, found) => return Err(format!("expected {expected}, found {found:?}")),
    };
    let lines: Vec<CostLine> = expected["breakdown"].as_array().unwrap().iter().map(expected_line).collect();
    let total: Money = lines.iter().map(|l| l.cost_usd).sum();
    let terminates = expected["total_usd"].is_string();
    if terminates && total != money(&expected["total_usd"]) {
        return Err("the case's own lines do not add up".to_owned());
    }
    let same = cost.lines == lines && cost.total == total && cost.model == expected["model_id"].as_str().unwrap();
    if same { Ok(()) } else { Err(format!("expected {expected}, found {cost:?}")) }
}

fn expected_line(line: &Value) -> CostLine {
    CostLine {
        component: Component::from_name(line["component"].as_str().unwrap()).unwrap(),
        quantity: line["quantity"].as_u64().unwrap(),
        unit_price_usd: line["rate_usd"].as_str().unwrap().to_owned(),
        per: line["per"].as_u64().unwrap(),
        tier_from_tokens: line["tier_from_tokens"].as_u64().unwrap(),
        cost_usd: money(&line["cost_usd"]),
    }
}

#[test]
fn every_public_pricing_case_is_met_exactly() {
    let Some(file) = shared("prices/oracle-cases.jsonl") else { return };
    let book = PriceBook::shipped();
    let text = std::fs::read_to_string(file).unwrap();
    let cases: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|c| check(&book, c).err().map(|e| format!("{} {}: {e}", c["id"], c["class"])))
        .collect();
    println!("pricing cases: {} of {} exact", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases.len(), 418);
}

const NOW: &str = "2026-11-23T12:00:00Z";

fn at(text: &str) -> Micros {
    text.parse().unwrap()
}

fn own(model: &str, component: Component, usd: &str, per: u64, from: Option<&str>) -> PriceOverride {
    PriceOverride {
        provider: "openai".into(),
        model: model.into(),
        component,
        usd: usd.into(),
        per,
        effective_from: from.map(at),
        note: None,
    }
}

fn book(prices: Vec<PriceOverride>) -> Arc<PriceBook> {
    let mut catalogue = Catalogue::default();
    let mut by_model = BTreeMap::<(String, String), Vec<PriceOverride>>::new();
    for price in prices {
        by_model.entry((price.provider.clone(), price.model.clone())).or_default().push(price);
    }
    for ((provider, model), prices) in by_model {
        catalogue.apply(Change::Price { provider, model, prices });
    }
    PriceBook::for_catalogue(&catalogue)
}

fn total(book: &PriceBook, model: &str, when: &str, usage: &Usage) -> String {
    book.quote("openai", model, at(when), &PriceContext::new(), usage).unwrap().total.to_string()
}

use Component::*;

#[test]
fn overriding_one_component_keeps_the_others() {
    let usage = Usage::new().with(InputTokens, 1_000_000).with(OutputTokens, 1_000_000);
    let book = book(vec![own("gpt-4.1", InputTokens, "1.5", 1_000_000, None)]);
    assert_eq!(total(&PriceBook::shipped(), "gpt-4.1", NOW, &usage), "10");
    assert_eq!(total(&book, "gpt-4.1", NOW, &usage), "9.5");
    // Also under a dated name of the model, and in every context.
    assert_eq!(total(&book, "GPT-4.1-2025-04-14", NOW, &usage), "9.5");
    let batch = PriceContext::from([("processing".into(), "batch".into())]);
    assert_eq!(book.quote("openai", "gpt-4.1", at(NOW), &batch, &usage).unwrap().total.to_string(), "5.5");
}

#[test]
fn an_override_holds_from_its_date_on_and_the_later_one_wins() {
    let usage = Usage::new().with(InputTokens, 1_000_000);
    let book = book(vec![
        own("gpt-4.1", InputTokens, "1", 1_000_000, Some("2026-11-01T00:00:00Z")),
        own("gpt-4.1", InputTokens, "0.5", 1_000_000, Some("2026-11-20T00:00:00Z")),
    ]);
    assert_eq!(total(&book, "gpt-4.1", "2026-10-31T23:59:59.999999Z", &usage), "2");
    assert_eq!(total(&book, "gpt-4.1", "2026-11-01T00:00:00Z", &usage), "1");
    assert_eq!(total(&book, "gpt-4.1", NOW, &usage), "0.5");
}

#[test]
fn a_model_only_the_organisation_knows_has_its_own_price() {
    let book = book(vec![
        own("house-model", InputTokens, "2", 1_000_000, None),
        own("house-model", WebSearches, "3", 1_000, None),
        own("llama-*", InputTokens, "1", 1_000_000, None),
        own("llama-big", InputTokens, "4", 1_000_000, None),
    ]);
    let usage = Usage::new().with(InputTokens, 500_000).with(WebSearches, 2);
    assert_eq!(total(&book, "House-Model", NOW, &usage), "1.006");
    assert_eq!(total(&book, "llama-small", NOW, &usage), "0.5");
    assert_eq!(total(&book, "llama-big", NOW, &usage), "2");
    assert_eq!(book.version(), 4);
    let unknown = book.quote("openai", "none", at(NOW), &PriceContext::new(), &usage);
    assert!(matches!(unknown, Err(QuoteError::UnknownModel { .. })));
    assert!(book.models("openai").iter().any(|m| m.model == "house-model" && m.prices.iter().all(|p| p.is_override())));
    assert!(book.lists().iter().any(|l| l == "anthropic"));
}

#[test]
fn five_minute_writes_without_their_total_are_priced_as_writes() {
    let part = Usage::new().with(InputTokens, 1_000).with(CacheWrite5mTokens, 400);
    let whole = part.clone().with(CacheWriteTokens, 400);
    let book = PriceBook::shipped();
    let quote = |u: &Usage| book.quote("anthropic", "claude-opus-5", at(NOW), &PriceContext::new(), u).unwrap();
    assert_eq!(quote(&part), quote(&whole));
    assert_eq!(quote(&part).lines.len(), 2);
}

#[test]
fn counts_beyond_all_reason_are_an_error_and_no_panic() {
    let book = book(vec![own("dear", InputTokens, "999999999999", 1, None)]);
    let usage = Usage::new().with(InputTokens, u64::MAX);
    let quote = book.quote("openai", "dear", at(NOW), &PriceContext::new(), &usage);
    assert!(matches!(quote, Err(QuoteError::InvalidUsage(_))), "{quote:?}");
    assert!(book.upper_bound("openai", "dear", at(NOW), &PriceContext::new(), u64::MAX).is_some());
    assert!(total(&PriceBook::shipped(), "gpt-4.1", NOW, &usage).len() > 10);
}

#[test]
fn the_bound_takes_the_dearest_rates_of_the_tier() {
    let book = PriceBook::shipped();
    let bound = |list, model, n| book.upper_bound(list, model, at(NOW), &PriceContext::new(), n).unwrap();
    // 5 USD a million to read, 10 to keep for an hour.
    let opus = bound("anthropic", "claude-opus-5", 1_000_000);
    assert_eq!((opus.fixed.to_string(), opus.per_output_token.to_string()), ("10".into(), "0.000025".into()));
    assert_eq!(bound("perplexity", "sonar-pro", 0).fixed.to_string(), "0.014");
    let (below, above) = (bound("openai", "gpt-6-sol", 272_000), bound("openai", "gpt-6-sol", 272_001));
    assert!(above.fixed.0 * 272_000 > below.fixed.0 * 272_001 && above.per_output_token > below.per_output_token);
    assert!(bound("openai", "gpt-4.1", 10).fees.iter().any(|(c, m)| *c == WebSearches && m.to_string() == "0.01"));
    assert!(book.upper_bound("openai", "none", at(NOW), &PriceContext::new(), 1).is_none());
}

/// For every shipped model: whatever is made of `n` tokens of input and `m` of output costs no more than the bound.
#[test]
fn no_usage_within_the_bound_costs_more_than_it() {
    let book = PriceBook::shipped();
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % (below + 1)
    };
    let contexts = [("", ""), ("processing", "batch"), ("service_tier", "priority"), ("speed", "fast")];
    for list in book.lists() {
        for model in book.models(&list) {
            for (key, value) in contexts {
                let context = PriceContext::from([(key.to_owned(), value.to_owned())]);
                let name = model.model.as_str();
                let bound_of = random(400_000);
                let Some(bound) = book.upper_bound(&list, name, at(NOW), &context, bound_of) else { continue };
                let (input, output) = (random(bound_of), random(50_000));
                let read = random(input);
                let write = random(input - read);
                let long = random(write);
                let audio = random(input - read - write);
                let usage = Usage::new()
                    .with(InputTokens, input)
                    .with(CacheReadTokens, read)
                    .with(CacheWriteTokens, write)
                    .with(CacheWrite1hTokens, long)
                    .with(InputAudioTokens, audio)
                    .with(OutputTokens, output)
                    .with(OutputAudioTokens, random(output));
                let Ok(cost) = book.quote(&list, name, at(NOW), &context, &usage) else { continue };
                let most = bound.fixed.saturating_add(bound.per_output_token.times(output));
                assert!(cost.total <= most, "seed 7, {list}/{name}: {cost:?} exceeds {bound:?}");
            }
        }
    }
}

#[test]
fn a_quote_takes_microseconds() {
    let book = PriceBook::shipped();
    let usage = Usage::new().with(InputTokens, 1_200).with(CacheReadTokens, 1_000).with(OutputTokens, 80);
    let context = PriceContext::from([("service_tier".to_owned(), "default".to_owned())]);
    let run = |n: u32| {
        let start = std::time::Instant::now();
        for _ in 0..n {
            std::hint::black_box(book.quote("openai", "gpt-5.2-2025-12-11", at(NOW), &context, &usage).is_ok());
        }
        start.elapsed() / n
    };
    run(100);
    let best = (0..5).map(|_| run(400)).min().unwrap_or_default();
    println!("quote: {best:?} each, unoptimised code");
    assert!(best.as_micros() < 200, "{best:?}");
}

#[test]
fn what_is_neither_tokens_nor_requests_is_a_fee() {
    let beside = |c: &Component| *c != Component::Requests && !c.name().ends_with("_tokens");
    let expected: std::collections::BTreeSet<_> = Component::ALL.into_iter().filter(beside).collect();
    assert_eq!(super::FEES.into_iter().collect::<std::collections::BTreeSet<_>>(), expected);
}
