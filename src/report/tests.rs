//! Questions about the past against naive sums over the same calls; files as they are written.

use super::csv::CsvStyle;
use super::export::calls_of;
use super::spend::spend_of;
use super::*;
use crate::domain::{Dimension, Match, Money};
use crate::store::views::Views;
use crate::store::views::samples::{Chance, Made, settle, traffic, who};

const START: &str = "2026-10-24T20:07:31Z";
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"];

fn pairs(query: &str) -> Vec<(String, String)> {
    query.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn some_filter(chance: &mut Chance, from: Micros, to: Micros) -> Filter {
    let mut instant = || Micros(from.0 + chance.below((to.0 - from.0) as u64) as i64);
    let (a, b) = (instant(), instant());
    // Half of the ranges are whole quarters, as most that people ask for are.
    let whole =
        |at: Micros, on: bool| if on { crate::rollup::quarter_start(crate::rollup::quarter_of(at)) } else { at };
    let on = chance.below(2) == 0;
    let mut dimensions = Vec::new();
    for _ in 0..chance.below(4) {
        let dimension = chance.pick(Dimension::ALL);
        let text = match dimension {
            Dimension::Service => chance.pick(&["search", "*o*", "!nightly", "=cmd"]),
            Dimension::Owner => chance.pick(&["team-*", "!ada", "ada"]),
            Dimension::Environment => chance.pick(&["prod", "!test"]),
            Dimension::Run => chance.pick(&["run-1", "(none)", "!run-2"]),
            Dimension::Tenant => chance.pick(&["(none)", "acme", "!acme"]),
            Dimension::Outcome => chance.pick(&["failed", "!refused", "refused", "running"]),
            Dimension::Model => chance.pick(&["gpt-5*", "!o9", "(none)"]),
            _ => chance.pick(&["*", "(none)", "!nothing"]),
        };
        dimensions.push((dimension, Match::parse(text)));
    }
    Filter {
        from: (chance.below(4) != 0).then_some(whole(a.min(b), on)),
        to: (chance.below(4) != 0).then_some(whole(a.max(b), on)),
        dimensions,
    }
}

fn stamp(views: &Views) -> Stamp {
    Stamp { as_of: views.as_of().unwrap(), time_zone: "UTC".into(), ledger_head: "1:00".into() }
}

/// The `cost_usd` column of a CSV, added up, and the number of rows.
fn csv_total(bytes: &[u8]) -> (Money, usize) {
    let mut reader = ::csv::Reader::from_reader(bytes);
    let column = reader.headers().unwrap().iter().position(|h| h == "cost_usd").unwrap();
    let costs: Vec<Money> = reader
        .records()
        .map(|row| row.unwrap()[column].to_owned())
        .map(|text| if text.is_empty() { Money::ZERO } else { text.parse().unwrap() })
        .collect();
    (costs.iter().copied().sum(), costs.len())
}

/// The measures of a filter, by adding up every call by hand.
fn by_hand(calls: &[Call], filter: &Filter) -> Measures {
    let mut total = Measures::default();
    let chosen = calls.iter().filter(|c| filter.in_range(c.started_at) && filter.accepts(|d| c.dimension(d)));
    chosen.filter_map(Measures::of).for_each(|m| total.add(&m));
    total
}

#[test]
fn calls_spend_rows_and_csv_agree_to_the_last_digit_for_any_filter() {
    let seed = std::env::var("WEIGHBRIDGE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20261123);
    eprintln!("seed {seed} (WEIGHBRIDGE_SEED)");
    let mut chance = Chance(seed);
    let made = Made::default();
    let views = made.views();
    let from: Micros = START.parse().unwrap();
    let mut to = from;
    // Across the end of summer time, in blocks, with calls that start in one and end in another.
    for _ in 0..10 {
        let first = made.len();
        to = traffic(&made, &mut chance, 60, to, 500_000_000);
        views.committed(made.block(first));
    }
    let everything = views.calls(&Filter::default(), None, usize::MAX).unwrap().0;
    for round in 0..150 {
        let filter = some_filter(&mut chance, from, to);
        let by: Vec<Dimension> = (0..chance.below(3)).map(|_| chance.pick(Dimension::ALL)).collect();
        let step = chance.pick(&Step::ALL);
        let query = SpendQuery { filter: filter.clone(), by, step, time_zone: chance.pick(&ZONES).to_owned() };
        let label = format!("seed {seed}, round {round}: {query:?}");
        let spend = spend_of(&views, &query).unwrap();
        let wanted = by_hand(&everything, &filter);
        assert_eq!(spend.total, wanted, "{label}");
        let mut rows = Measures::default();
        spend.rows.iter().for_each(|row| rows.add(&row.measures));
        assert_eq!(rows, wanted, "{label}");
        for row in &spend.rows {
            // A row is what its own filter chooses.
            let mut own = filter.clone();
            for (dimension, value) in query.by.iter().zip(&row.key) {
                own.dimensions.retain(|(d, _)| d != dimension);
                own.dimensions.push((*dimension, value.clone().map_or(Match::None, Match::Is)));
            }
            if step == Step::None {
                assert_eq!(row.measures, by_hand(&everything_in(&everything, &filter), &own), "{label} {row:?}");
            }
        }
        let plain = Export { format: Format::Csv, style: CsvStyle::default() };
        let csv = export_spend(&query, &spend, plain, &stamp(&views));
        assert_eq!(csv_total(&csv), (wanted.cost, spend.rows.len()), "{label}");
        // What is still running is in the list with what its ended attempts have cost, as in the sums.
        let mut csv = Vec::new();
        let written = calls_of(&views, &filter, plain, &stamp(&views), &mut |chunk| {
            csv.extend(chunk);
            true
        });
        let (cost, rows) = csv_total(&csv);
        assert_eq!((cost, rows as u64), (wanted.cost, written.unwrap()), "{label}");
    }
}

fn everything_in(calls: &[Call], filter: &Filter) -> Vec<Call> {
    calls.iter().filter(|c| filter.accepts(|d| c.dimension(d))).cloned().collect()
}

#[test]
fn buckets_of_a_step_are_the_calls_that_started_in_them() {
    let mut chance = Chance(5);
    let made = Made::default();
    let views = made.views();
    traffic(&made, &mut chance, 400, START.parse().unwrap(), 400_000_000);
    views.committed(made.block(0));
    let calls = views.calls(&Filter::default(), None, usize::MAX).unwrap().0;
    for zone in ZONES {
        for step in [Step::Hour, Step::Day, Step::Week, Step::Month] {
            let query = SpendQuery { filter: Filter::default(), by: Vec::new(), step, time_zone: zone.into() };
            let spend = spend_of(&views, &query).unwrap();
            let mut wanted = std::collections::BTreeMap::<String, Measures>::new();
            for call in &calls {
                let bucket = crate::rollup::Calendar::new(zone, step).unwrap().bucket(call.started_at).unwrap();
                if let Some(m) = Measures::of(call) {
                    wanted.entry(bucket).or_default().add(&m);
                }
            }
            let found = spend.rows.into_iter().map(|row| (row.bucket.unwrap(), row.measures)).collect();
            assert_eq!(wanted, found, "{zone} {step:?}");
        }
    }
}

#[test]
fn a_cell_that_looks_like_a_formula_is_guarded_and_a_negative_amount_is_not() {
    for (text, guarded_text) in
        [("=1+1", "'=1+1"), ("＠x", "'＠x"), ("a=b", "a=b"), ("-x", "'-x"), ("\tx", "'\tx"), ("", "")]
    {
        assert_eq!(guarded(text), guarded_text);
    }
    let made = Made::default();
    let at: Micros = START.parse().unwrap();
    let mut caller = who("=cmd|' /C calc'!A0");
    caller.owner = "a \"b\", c".to_owned();
    let seq = made.admit(at, caller, "gpt-5.2");
    made.settle(at, seq, settle(Some(Money::usd(-3)), crate::domain::Usage::new()));
    let views = made.views();
    let query = SpendQuery {
        filter: Filter::default(),
        by: vec![Dimension::Service, Dimension::Owner],
        step: Step::None,
        time_zone: "UTC".into(),
    };
    let spend = spend_of(&views, &query).unwrap();
    let write = |raw| {
        let export = Export { format: Format::Csv, style: CsvStyle { raw, bom: false } };
        String::from_utf8(export_spend(&query, &spend, export, &stamp(&views))).unwrap()
    };
    let guarded_file = write(false);
    let lines: Vec<&str> = guarded_file.split("\r\n").collect();
    assert!(
        lines[1].starts_with("'=cmd|' /C calc'!A0,\"a \"\"b\"\", c\",1,0,0,0,0,0,-3,exact,0,1.0000,20,"),
        "{}",
        lines[1]
    );
    assert_eq!(lines.len(), 3, "every row ends with CRLF");
    assert!(write(true).contains("\r\n=cmd|"));
}

#[test]
fn files_are_named_after_what_is_in_them() {
    let ask = Ask::spend(&pairs("from=2026-11-01&to=2026-12-01&by=service"), "Europe/Berlin").unwrap();
    let name = |ask: &Ask| file_name("spend", &ask.filter, &ask.time_zone, &ask.by, Format::Csv);
    assert_eq!(name(&ask), "weighbridge_spend_2026-11_Europe-Berlin_by-service.csv");
    let ask = Ask::spend(&pairs("from=2026-11-01&to=2026-11-24&by=service,model&tz=UTC"), "Europe/Berlin").unwrap();
    assert_eq!(name(&ask), "weighbridge_spend_2026-11-01_2026-11-24_UTC_by-service-model.csv");
}

#[test]
fn a_wrong_question_names_its_field_and_the_nearest_right_one() {
    for (query, field, says) in [
        ("servce=a", "servce", "did you mean `service`"),
        ("enviroment=prod", "enviroment", "did you mean `environment`"),
        ("environment=production", "environment", "none of prod, pilot, test, exploratory"),
        ("from=yesterday", "from", "neither a date"),
        ("from=2026-11-02&to=2026-11-02", "to", "not after"),
        ("limit=0", "limit", "1 to 1000"),
        ("tz=Mars", "tz", "IANA"),
        ("outcome=done", "outcome", "none of running"),
        ("format=xml", "format", "none of json"),
        ("zzzzzzzz=1", "zzzzzzzz", "is not a parameter"),
    ] {
        let Err(ReportError::Invalid { field: found, message }) = Ask::calls(&pairs(query), "UTC") else {
            panic!("{query} was understood")
        };
        assert_eq!(found, field, "{query}");
        assert!(message.contains(says), "{query}: {message}");
    }
    let error = Ask::spend(&pairs("by=servise"), "UTC").unwrap_err().to_string();
    assert!(error.contains("did you mean `service`"), "{error}");
}

#[test]
fn a_json_call_has_the_fields_that_are_promised() {
    let made = Made::default();
    let at: Micros = START.parse().unwrap();
    let seq = made.admit(at, who("a"), "gpt-5.2");
    let usage = crate::domain::Usage::new().with(crate::domain::Component::InputTokens, 1200);
    made.settle(at, seq, settle(Some("0.001645".parse().unwrap()), usage));
    let views = made.views();
    let call = &views.calls(&Filter::default(), None, 1).unwrap().0[0];
    let json = serde_json::to_value(crate::domain::CallView::from(call)).unwrap();
    assert_eq!(json["cost_usd"], "0.001645");
    assert_eq!(json["usage"], serde_json::json!({"input_tokens": 1200}), "what is unknown is absent");
    assert_eq!(json["started_at"], "2026-10-24T20:07:31.000000Z");
    for field in [
        "id",
        "seq",
        "completed_at",
        "outcome",
        "refusal",
        "service",
        "agent",
        "application",
        "owner",
        "business_unit",
        "cost_centre",
        "tenant",
        "environment",
        "workflow",
        "run",
        "prompt_class",
        "principal",
        "charged_to",
        "chain",
        "credential",
        "assurance",
        "provenance",
        "claimed",
        "provider",
        "dialect",
        "endpoint",
        "stream",
        "model_requested",
        "model_served",
        "http_status",
        "provider_request_id",
        "finish_reason",
        "usage_basis",
        "tools",
        "cost_basis",
        "hold_usd",
        "avoided_usd",
        "price_book",
        "cache",
        "attempts",
        "retry_of",
        "first_byte_ms",
        "total_ms",
        "overhead_us",
    ] {
        assert!(json.get(field).is_some(), "{field}");
    }
}
