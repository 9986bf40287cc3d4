//! Answers of the sandbox: plain business prose, put together by a seed, and plausible tool arguments.

use serde_json::{Map, Value, json};

use super::Random;

const SENTENCES: &[&str] = &[
    "The invoice total matches the purchase order within the agreed tolerance.",
    "Two line items refer to the same delivery note and should be merged before posting.",
    "Payment terms are thirty days net, so the amount falls due at the end of the month.",
    "The customer asks for a replacement part and has attached a photograph of the label.",
    "Shipping was delayed by a customs check; the new date has been confirmed by the carrier.",
    "I suggest replying with the tracking number and an apology for the wait.",
    "Clause seven limits liability to the fees paid in the preceding twelve months.",
    "The notice period differs between the German and the English version of the contract.",
    "Compared with last quarter, demand rose most in the southern region.",
    "The forecast assumes that promotional prices end in the second week.",
    "A unit test for the empty basket is missing, and the rounding happens twice.",
    "Moving the query out of the loop reduces the number of round trips to one.",
    "The candidate has six years of experience with distributed systems.",
    "Sensor readings from line four drift by half a degree after each restart.",
    "The sentiment of the message is neutral, with a slightly impatient closing.",
    "No personal data was found in the document beyond the name of the signatory.",
    "The summary leaves out the appendix, which only repeats the tables.",
    "According to the policy, claims under two hundred euros are settled at once.",
    "The translation keeps the formal form of address throughout.",
    "Three of the five options satisfy all constraints; the second is the cheapest.",
];

/// Text that goes on for as long as it is asked for, in pieces a stream would send (a word with what follows it).
pub fn prose(random: &mut Random) -> impl Iterator<Item = String> + '_ {
    let mut pending: Vec<String> = Vec::new();
    let mut sentences = 0u64;
    std::iter::from_fn(move || {
        if pending.is_empty() {
            sentences += 1;
            let sentence = *random.pick(SENTENCES);
            pending = sentence.split_inclusive(' ').map(str::to_owned).rev().collect();
            if let Some(last) = pending.first_mut() {
                last.push_str(if sentences.is_multiple_of(4) { "\n\n" } else { " " });
            }
        }
        pending.pop()
    })
}

/// Arguments that fit a tool's JSON schema, as far as names and plain types go.
pub fn arguments(random: &mut Random, schema: &Value) -> Value {
    let mut out = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten().take(12) {
        out.insert(name.clone(), argument(random, property));
    }
    Value::Object(out)
}

fn argument(random: &mut Random, property: &Value) -> Value {
    if let Some(first) = property.get("enum").and_then(Value::as_array).and_then(|list| list.first()) {
        return first.clone();
    }
    match property.get("type").and_then(Value::as_str) {
        Some("integer" | "number") => json!(random.between(1, 5_000)),
        Some("boolean") => json!(random.chance(0.5)),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => json!(format!("{}-{}", random.pick(&["order", "supplier", "ticket", "part"]), random.between(1000, 9999))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_the_same_for_the_same_seed_and_never_ends() {
        let text = |seed| prose(&mut Random::new(seed)).take(500).collect::<String>();
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
        assert_eq!(prose(&mut Random::new(1)).take(5000).count(), 5000);
    }

    #[test]
    fn arguments_fit_the_schema() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "unit": {"enum": ["kg", "t"]}, "id": {"type": "string"}}});
        let found = arguments(&mut Random::new(1), &schema);
        assert!(found["n"].is_u64() && found["unit"] == "kg" && found["id"].is_string());
    }
}
