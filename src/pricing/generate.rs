//! Makes the shipped facts file from the gathered price facts, and checks that the file in the repository is what it makes.
//!
//! To renew the file: put the new facts beside the repository (`WEIGHBRIDGE_SHARED`, `prices/price-facts.csv`), set its
//! date in `facts.rs` and here, and run `WEIGHBRIDGE_WRITE_PRICES=1 cargo test --lib pricing::generate`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::Component;

const HEADER: &str = "\
# List prices of models, as facts: gathered 2026-11-23; made by src/pricing/generate.rs, not by hand.
# Sources, named on every entry: genai-prices 0.2.3 (PyPI, MIT), litellm 1.106.2 (PyPI, MIT; for azure, and not cross-checked).
# Ten seconds of audio as the least that is billed of a request, for Groq's whisper models: a rule of the pricing cases in tests.rs, not read at the vendor.
# model  list  id  match  context_window  max_output_tokens  deprecated  min_audio_seconds
# entry  seq  context  effective_from  effective_to  tod_from_utc  tod_to_utc  source
# price  component  tier_from_tokens  usd
";

#[derive(Deserialize)]
struct Row {
    seq: String,
    provider: String,
    model_id: String,
    model_match: String,
    component: String,
    unit: String,
    price_usd_decimal: String,
    tier_from_tokens: String,
    effective_from: String,
    effective_to: String,
    price_context: String,
    tod_from_utc: String,
    tod_to_utc: String,
    context_window: String,
    max_output_tokens: String,
    deprecated: String,
    source: String,
}

impl Row {
    fn model(&self) -> String {
        let audio = self.provider == "groq" && matches!(&*self.model_id, "whisper-large-v3" | "whisper-large-v3-turbo");
        let fields = [
            "model",
            &self.provider,
            &self.model_id,
            &linear_time(&self.model_match),
            &self.context_window,
            &self.max_output_tokens,
            &self.deprecated,
            if audio { "10" } else { "" },
        ];
        fields.join("\t")
    }

    fn entry(&self) -> String {
        let fields = [
            "entry",
            &self.seq,
            &self.price_context,
            &self.effective_from,
            &self.effective_to,
            &self.tod_from_utc,
            &self.tod_to_utc,
            &self.source,
        ];
        fields.join("\t")
    }
}

/// A pattern that is nothing but a negative look-ahead at the start says "does not match"; linear-time matching says it so.
fn linear_time(matches: &str) -> String {
    let mut out = String::new();
    let mut rest = matches;
    while let Some(start) = rest.find("regex:^(?!") {
        out.push_str(&rest[..start]);
        let body = &rest[start + "regex:^(?!".len()..];
        let mut depth = 1;
        let end = body.char_indices().find(|(_, c)| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        let (end, _) = end.expect("the look-ahead is closed");
        let after = &body[end + 1..];
        assert!(
            after.is_empty() || after.starts_with(' ') || after.starts_with(')'),
            "more than a look-ahead: {matches}"
        );
        write!(out, "not-regex:^(?:{})", &body[..end]).expect("a string takes everything");
        rest = after;
    }
    out.push_str(rest);
    out
}

fn generate(source: &Path) -> String {
    let rows: Vec<Row> = csv::Reader::from_path(source).unwrap().deserialize().collect::<Result<_, _>>().unwrap();
    let mut out = HEADER.to_owned();
    let (mut model, mut entry) = (String::new(), String::new());
    let mut last_seq = 0;
    for row in &rows {
        let component = Component::from_name(&row.component).unwrap_or_else(|| panic!("component {}", row.component));
        let per = row.unit.split('_').nth(1).and_then(|n| n.parse::<u64>().ok());
        assert_eq!(per, Some(component.per()), "{} of {}", row.unit, row.model_id);
        if row.model() != model {
            model = row.model();
            entry.clear();
            last_seq = 0;
            writeln!(out, "{model}").unwrap();
        }
        if row.entry() != entry {
            entry = row.entry();
            let seq = row.seq.parse().unwrap();
            assert!(seq >= last_seq, "entries of {} are not in order", row.model_id);
            last_seq = seq;
            writeln!(out, "{entry}").unwrap();
        }
        writeln!(out, "price\t{}\t{}\t{}", row.component, row.tier_from_tokens, row.price_usd_decimal).unwrap();
    }
    out
}

#[test]
fn the_shipped_facts_are_what_their_source_says() {
    let Some(source) = super::tests::shared("prices/price-facts.csv") else { return };
    let made = generate(&source);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/pricing/facts-2026-11-23.tsv");
    if std::env::var_os("WEIGHBRIDGE_WRITE_PRICES").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept == made, "the file is not what its source says: see the first lines of generate.rs");
    println!("{} bytes, {} prices", made.len(), made.lines().filter(|l| l.starts_with("price")).count());
}

#[test]
fn a_negative_look_ahead_becomes_a_rule_of_its_own() {
    assert_eq!(
        linear_time("(prefix:g & regex:^(?!.*-[tT](?:$|-))) | equals:h"),
        "(prefix:g & not-regex:^(?:.*-[tT](?:$|-))) | equals:h"
    );
    assert_eq!(linear_time(r"regex:^a-\d{8}$ | equals:a"), r"regex:^a-\d{8}$ | equals:a");
}
