//! What is packed comes out as it went in.

use super::*;
use crate::domain::call::BudgetHold;
use crate::domain::{CallId, CostLine};
use crate::rollup::Bucket;
use crate::store::views::bytes::{Packer, take};
use crate::store::views::chunk::{Wanted, decode, encode};
use crate::store::views::{names, sums};

/// Calls of every fate, and with every kind of oddity.
fn odd_calls(seed: u64) -> Vec<Call> {
    let mut chance = Chance(seed);
    let made = Made::default();
    traffic(&made, &mut chance, 300, START.parse().unwrap(), 40_000_000);
    let mut calls = all(&made.views());
    calls.reverse();
    let texts =
        ["", "req_00ff", "req_00fF", "chatcmpl-Zz9", "_", "ünï-cödé", "0123", "a-b-c", "req_", "REQ_12", "msg_01é"];
    for call in &mut calls {
        let mut text = || (chance.below(3) != 0).then(|| chance.pick(&texts).to_owned());
        (call.provider_request_id, call.response_id) = (text(), text());
        match chance.below(6) {
            0 => call.id = CallId(u128::from(chance.next()) << 64 | u128::from(chance.next())),
            1 => call.completed_at = Some(Micros(call.started_at.0 - 5)),
            2 => (call.hold, call.cost) = (Money(i128::MIN), Some(Money(i128::MAX))),
            3 => call.holds = vec![BudgetHold { budget: "tokens".into(), period: "p".into(), amount: i128::MAX }; 2],
            4 => (call.retry_of, call.output_limit) = (Some(CallId(7)), Some(u64::MAX)),
            _ => {}
        }
        let line = |component, quantity, price: &str, cost| CostLine {
            component,
            quantity,
            unit_price_usd: price.into(),
            per: chance.pick(&[0, 1, 3, 1_000_000]),
            tier_from_tokens: 0,
            cost_usd: Money(cost),
        };
        let mut line = line;
        call.cost_lines = vec![
            line(Component::CacheReadTokens, 40, "0.125", 5),
            line(Component::InputTokens, 60, "1.25", 75_000_000_000),
            line(Component::OutputTokens, 3, "not a price", -1),
        ];
        if chance.below(2) == 0 {
            call.usage.set(Component::InputTokens, 100);
            call.usage.set(Component::CacheReadTokens, 40);
        }
    }
    calls
}

#[test]
fn a_chunk_gives_back_every_call_bit_for_bit() {
    let mut packer = Packer::new().unwrap();
    for seed in 0..8 {
        let calls = odd_calls(seed);
        let chunk = encode(calls.clone(), &mut packer).unwrap();
        let everything = Filter::default();
        let wanted = Wanted { filter: &everything, range: 0..u64::MAX, id: None };
        assert_eq!(decode(&chunk, &wanted).unwrap(), calls, "seed {seed}");
    }
}

#[test]
fn a_chunk_gives_the_calls_a_plain_filter_chooses() {
    let calls = odd_calls(21);
    let chunk = encode(calls.clone(), &mut Packer::new().unwrap()).unwrap();
    let (first, last) = (calls[0].started_at, calls[calls.len() - 1].started_at);
    let mut chance = Chance(3);
    let mut chosen = 0;
    for round in 0..200 {
        let mut filter = Filter::default();
        if chance.below(3) == 0 {
            filter.from = Some(Micros(first.0 + chance.below((last.0 - first.0) as u64) as i64));
        }
        for dimension in Dimension::ALL {
            if chance.below(8) == 0 {
                let value = chance.pick(&calls.iter().collect::<Vec<_>>()).dimension(*dimension);
                filter.dimensions.push((*dimension, value.map_or(Match::None, |v| Match::Is(v.to_owned()))));
            }
        }
        let range = calls[chance.below(40) as usize].seq..calls[calls.len() - 1].seq;
        let wanted: Vec<&Call> = calls
            .iter()
            .filter(|c| range.contains(&c.seq) && filter.in_range(c.started_at))
            .filter(|c| filter.accepts(|d| c.dimension(d)))
            .collect();
        chosen += wanted.len();
        let found = decode(&chunk, &Wanted { filter: &filter, range, id: None }).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "round {round} {filter:?}");
    }
    assert!(chosen > 1_000, "{chosen}");
}

#[test]
fn a_chunk_that_was_cut_or_changed_is_an_error_and_never_a_panic() {
    let calls = odd_calls(5);
    let chunk = encode(calls, &mut Packer::new().unwrap()).unwrap();
    let everything = Filter::default();
    let wanted = Wanted { filter: &everything, range: 0..u64::MAX, id: None };
    for cut in (0..chunk.len()).step_by(7) {
        assert!(decode(&chunk[..cut], &wanted).is_err(), "cut at {cut}");
    }
    let mut chance = Chance(9);
    for _ in 0..400 {
        let mut spoilt = chunk.clone();
        let place = chance.below(spoilt.len() as u64) as usize;
        spoilt[place] ^= 1 << chance.below(8);
        // Some bits are ids, of which any is as good as another: what counts is that it comes back.
        let _ = decode(&spoilt, &wanted);
    }
}

#[test]
fn sums_that_are_changed_keep_the_rest_of_their_quarter() {
    let mut packer = Packer::new().unwrap();
    let mut chance = Chance(4);
    let mut stored: Option<Vec<u8>> = None;
    let mut naive = BTreeMap::<u32, Bucket>::new();
    for round in 0..60 {
        let mut changes = BTreeMap::new();
        for _ in 0..chance.below(12) {
            let set = chance.below(40) as u32;
            let mut bucket = Bucket::default();
            if chance.below(4) != 0 {
                bucket.add(&Measures { calls: 1, cost: Money(i128::from(chance.next())), ..Measures::default() });
            }
            changes.insert(set, bucket);
        }
        for (set, bucket) in &changes {
            match bucket.is_empty() {
                true => naive.remove(set),
                false => naive.insert(*set, bucket.clone()),
            };
        }
        let before = stored.as_deref().map_or_else(|| Ok(sums::Sums::default()), sums::Sums::open).unwrap();
        let changes: Vec<_> = changes.iter().map(|(set, bucket)| (*set, bucket)).collect();
        stored = before.changed(&changes, &mut packer).unwrap();
        let mut found = BTreeMap::new();
        if let Some(value) = &stored {
            sums::each(value, &mut |set, bucket| Ok(drop(found.insert(set, bucket)))).unwrap();
        }
        assert_eq!(found, naive, "round {round}");
        assert_eq!(stored.is_none(), naive.is_empty(), "round {round}");
    }
}

#[test]
fn an_answer_is_found_in_whatever_run_its_name_is() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    // More names than sixteen runs have, so that runs are joined.
    let most = 64 * 20;
    for n in 0..most {
        let seq = made.admit(at, who("a"), "gpt-5.2");
        let mut end = settle(Some(Money::ZERO), Usage::new());
        end.response_id = Some(format!("resp_{n}"));
        made.settle(at, seq, end);
        views.committed(made.block(seq));
        if n % 50 == 49 {
            settled_in(&views, &made);
        }
    }
    settled_in(&views, &made);
    for n in 0..most {
        let known = views.response("openai", &format!("resp_{n}")).unwrap();
        assert_eq!(known.map(|k| k.call), Some(CallId(2 * n as u128 + 1)), "answer {n}");
    }
    assert_eq!(views.response("openai", "resp_x").unwrap(), None);
    assert_eq!(views.response("azure", "resp_1").unwrap(), None);
    assert!(names::hash("a", "b") < 1 << 40);
}

#[test]
fn an_answer_of_an_attempt_that_was_replaced_still_leads_to_its_call() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let first = made.admit(at, who("a"), "gpt-5.2");
    let mut end = settle(Some(Money::ZERO), Usage::new());
    end.response_id = Some("resp_first".into());
    made.settle(at, first, end);
    views.committed(made.block(0));
    settled_in(&views, &made);
    let again = made.push(at, None, Body::Admit(Box::new(admit(CallId(1), 2, who("a"), "gpt-5.2"))));
    let mut end = settle(Some(Money::ZERO), Usage::new());
    end.response_id = Some("resp_second".into());
    made.settle(at, again, end);
    views.committed(made.block(again));
    for _ in 0..2 {
        for id in ["resp_first", "resp_second"] {
            assert_eq!(views.response("openai", id).unwrap().map(|k| k.call), Some(CallId(1)), "{id}");
        }
        settled_in(&views, &made);
    }
}

#[test]
fn a_list_that_is_cut_short_goes_on_where_it_ended() {
    let mut chance = Chance(83);
    let made = Made::default();
    let views = made.views();
    traffic(&made, &mut chance, 1_500, START.parse().unwrap(), 40_000_000);
    views.committed(made.block(0));
    settled_in(&views, &made);
    for (dimension, value) in [
        (Dimension::Service, "invoice-bot"),
        (Dimension::Service, "of-nobody"),
        (Dimension::Run, "run-2"),
        (Dimension::Model, "gpt-5-mini-x"),
        (Dimension::Outcome, "failed"),
        (Dimension::Provider, "elsewhere"),
    ] {
        let filter = Filter { dimensions: vec![(dimension, Match::Is(value.into()))], ..Filter::default() };
        let wanted = views.calls(&filter, None, usize::MAX).unwrap().0;
        let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let (calls, _, left) = views.calls_within(&filter, before, usize::MAX, Duration::ZERO).unwrap();
            found.extend(calls);
            pages += 1;
            match left {
                Some(seq) => before = Some(seq),
                None => break,
            }
        }
        assert_eq!(found, wanted, "{dimension} {value}");
        assert!(pages < 400, "{pages} pages");
    }
}

#[test]
fn of_a_chunk_without_the_value_only_the_words_are_read() {
    let made = Made::default();
    traffic(&made, &mut Chance(89), 60, START.parse().unwrap(), 40_000_000);
    let mut calls = all(&made.views());
    calls.reverse();
    let mut chunk = encode(calls, &mut Packer::new().unwrap()).unwrap();
    let find = |chunk: &[u8], value: &str| {
        let filter = Filter { dimensions: vec![(Dimension::Service, Match::Is(value.into()))], ..Filter::default() };
        decode(chunk, &Wanted { filter: &filter, range: 0..u64::MAX, id: None })
    };
    assert!(!find(&chunk, "invoice-bot").unwrap().is_empty());
    // What comes after the words is cut off.
    let mut rest = &chunk[1..];
    let (_count, _plain, packed) = (take(&mut rest).unwrap(), take(&mut rest).unwrap(), take(&mut rest).unwrap());
    let words = chunk.len() - rest.len() + packed as usize;
    chunk.truncate(words);
    assert!(find(&chunk, "invoice-bot").is_err());
    assert!(find(&chunk, "of-nobody").unwrap().is_empty());
}
