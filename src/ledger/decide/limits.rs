//! What a budget may use: raises, resets, break-glass, what a period hands on; and streams that are extended.

use crate::domain::{Budget, Change, Key, MidstreamExceed, Money, PeriodKind, Reservation, Rollover};
use crate::ledger::entry::{Body, Entry};
use crate::ledger::request::{AdmitRequest, Admitted, Allocate, Denied, Reply};
use crate::ledger::state::State;
use crate::ledger::testing::*;

const DAY: i64 = 86_400;

/// With a key that lives long enough for every test.
fn bench(budgets: Vec<Budget>) -> Bench {
    let mut bench = Bench::new(budgets);
    bench.declare(vec![Change::Key(KEY.into(), Some(Key { expires_at: None, ..key() }))]);
    bench
}

fn daily(rollover: Rollover) -> Budget {
    Budget { period: PeriodKind::Day, rollover, ..hard("day", "10") }
}

/// Whether a call of this cost goes; it is settled at once.
fn spend(bench: &mut Bench, call: u128, cost: &str) -> bool {
    match bench.admit(admit(call, usd(cost))) {
        Reply::Admitted(_) => {
            bench.settle(call, settle(Some(usd(cost)), 1));
            true
        }
        _ => false,
    }
}

fn allowed(bench: &Bench, budget: &str) -> Money {
    Money(bench.state.standing(budget, bench.at).unwrap().allowance.total())
}

fn refused(reply: Reply) -> Denied {
    match reply {
        Reply::Denied(denied) => denied,
        other => panic!("{other:?}"),
    }
}

fn replayed(bench: &Bench) {
    let mut state = State::new();
    bench.entries.iter().for_each(|entry| state.apply(entry).unwrap());
    assert_eq!(state, bench.state);
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
}

#[test]
fn a_raise_lifts_the_limit_until_its_instant_and_no_declaration_undoes_it() {
    let mut b = bench(vec![hard("month", "10")]);
    assert!(spend(&mut b, 1, "9"));
    assert!(!spend(&mut b, 2, "4"));
    let until = b.at.plus_seconds(DAY);
    b.allocate("month", Allocate::Raise { by: usd("5").0, until });
    assert_eq!(allowed(&b, "month"), usd("15"));
    // The file says what it said.
    b.declare(vec![Change::Budget("month".into(), Some(Budget { notify: vec![], ..hard("month", "12") }))]);
    assert_eq!(allowed(&b, "month"), usd("17"));
    assert!(spend(&mut b, 3, "4"));
    b.at = until;
    assert_eq!(allowed(&b, "month"), usd("12"), "it ended by itself");
    assert!(!spend(&mut b, 4, "0.01"), "13 of 12 are used");
    assert_eq!(b.state.allocated("month").len(), 1);
    replayed(&b);
}

#[test]
fn a_raise_has_an_amount_and_an_end_to_come() {
    let mut b = bench(vec![hard("month", "10")]);
    let (at, later) = (b.at, b.at.plus_seconds(1));
    for (what, why) in [
        (Allocate::Raise { by: 0, until: later }, "more than 0"),
        (Allocate::Raise { by: 1, until: at }, "has passed"),
        (Allocate::Reset, "nothing posted"),
        (Allocate::Grant { until: later }, "grace_pct"),
    ] {
        let entries = b.entries.len();
        assert!(refused(b.allocate("month", what)).message.contains(why), "{what:?}");
        assert_eq!(b.entries.len(), entries);
    }
    assert!(refused(b.allocate("none", Allocate::Reset)).message.contains("not declared"));
}

#[test]
fn a_reset_gives_back_what_is_posted_to_this_period_alone_and_deletes_nothing() {
    let mut b = bench(vec![Budget { period: PeriodKind::Day, ..hard("day", "10") }]);
    assert!(spend(&mut b, 1, "10") && !spend(&mut b, 2, "1"));
    assert!(matches!(b.allocate("day", Allocate::Reset), Reply::Recorded { .. }));
    assert_eq!((b.balance("day"), allowed(&b, "day")), ((usd("10").0, 0), usd("20")));
    assert!(spend(&mut b, 3, "10") && !spend(&mut b, 4, "1"));
    b.allocate("day", Allocate::Reset);
    assert_eq!((b.balance("day").0, allowed(&b, "day")), (usd("20").0, usd("30")), "what was given back counts once");
    b.at = b.at.plus_seconds(DAY);
    assert_eq!((b.balance("day").0, allowed(&b, "day")), (0, usd("10")));
    replayed(&b);
}

#[test]
fn what_is_left_is_there_in_the_next_period_and_not_in_the_one_after() {
    let mut b = bench(vec![daily(Rollover::Unused)]);
    assert_eq!(allowed(&b, "day"), usd("10"), "nothing came before it was declared");
    assert!(spend(&mut b, 1, "4"));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("16"));
    assert!(spend(&mut b, 2, "16") && !spend(&mut b, 3, "0.01"));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("10"), "what was carried in is not handed on");
    b.at = b.at.plus_seconds(2 * DAY);
    assert_eq!(allowed(&b, "day"), usd("20"), "of a day without any call all is left");
    replayed(&b);
}

#[test]
fn what_a_period_hands_on_follows_its_last_calls() {
    let mut b = bench(vec![daily(Rollover::Unused)]);
    b.admit(admit(1, usd("7")));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("13"), "what is held is not left");
    b.settle(1, settle(Some(usd("2")), 1));
    assert_eq!(allowed(&b, "day"), usd("18"));
}

#[test]
fn a_limit_changed_today_does_not_change_what_yesterday_left() {
    let mut b = bench(vec![daily(Rollover::Unused)]);
    assert!(spend(&mut b, 1, "4"));
    b.at = b.at.plus_seconds(DAY);
    for limit in ["50", "5"] {
        b.declare(vec![Change::Budget(
            "day".into(),
            Some(Budget { limit: hard("day", limit).limit, ..daily(Rollover::Unused) }),
        )]);
        assert_eq!(allowed(&b, "day"), usd(limit).saturating_add(usd("6")));
    }
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("10"), "5 of 5 are left of the day of the change");
    replayed(&b);
}

#[test]
fn what_was_used_too_much_is_taken_off_unless_it_was_granted() {
    let mut b = bench(vec![daily(Rollover::Overage)]);
    b.admit(admit(1, usd("8")));
    b.settle(1, settle(Some(usd("13")), 1));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("7"));
    // The same again, with a raise in that day that allowed two of them.
    b.allocate("day", Allocate::Raise { by: usd("2").0, until: b.at.plus_seconds(60) });
    b.admit(admit(2, usd("7")));
    b.settle(2, settle(Some(usd("13")), 1));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("9"));
    b.at = b.at.plus_seconds(DAY);
    assert_eq!(allowed(&b, "day"), usd("10"));
    replayed(&b);
}

#[test]
fn the_band_above_the_limit_opens_only_while_it_is_granted() {
    let mut b = bench(vec![Budget { grace_pct: Some(20), ..hard("month", "10") }]);
    assert!(spend(&mut b, 1, "10") && !spend(&mut b, 2, "1"));
    let until = b.at.plus_seconds(600);
    b.allocate("month", Allocate::Grant { until });
    assert!(spend(&mut b, 3, "1.5") && !spend(&mut b, 4, "1"), "12 is the end of it");
    assert!(spend(&mut b, 5, "0.5"));
    b.at = until;
    assert_eq!(allowed(&b, "month"), usd("10"));
}

#[test]
fn zero_is_a_limit_and_free_calls_pass_it() {
    let mut b = bench(vec![hard("none", "0")]);
    let denied = refused(b.admit(admit(1, Money(1))));
    assert_eq!(denied.by.as_deref(), Some("budget:none"));
    assert!(spend(&mut b, 2, "0"));
}

#[test]
fn a_limit_lowered_below_what_is_used_blocks_new_calls_and_leaves_running_ones() {
    let mut b = bench(vec![hard("month", "10")]);
    b.admit(admit(1, usd("8")));
    b.declare(vec![Change::Budget("month".into(), Some(hard("month", "5")))]);
    assert!(!spend(&mut b, 2, "0.01"));
    b.settle(1, settle(Some(usd("3")), 1));
    assert!(spend(&mut b, 3, "2") && !spend(&mut b, 4, "0.01"));
}

#[test]
fn a_period_is_not_lost_when_a_call_of_an_older_one_is_counted_late() {
    let mut b = bench(vec![]);
    for call in 1..=3 {
        b.admit(admit(call, usd("1")));
        b.at = b.at.plus_seconds(60);
    }
    b.declare(vec![Change::Budget(
        "minute".into(),
        Some(Budget { period: PeriodKind::Minute, ..hard("minute", "5") }),
    )]);
    assert!(spend(&mut b, 4, "5"));
    (1..=3).for_each(|call| drop(b.settle(call, settle(Some(usd("1")), 1))));
    assert_eq!(b.balance("minute").0, usd("5").0);
    assert!(!spend(&mut b, 5, "1"));
}

/// Ten years of days in zones that change their clocks: a refusal says when the budget resets, and then it does.
#[test]
fn refusals_reset_at_the_stated_instant() {
    for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"] {
        let day = Budget { period: PeriodKind::Day, time_zone: zone.into(), ..hard("day", "1") };
        let mut b = bench(vec![day]);
        let mut call = 0;
        let mut goes = |b: &mut Bench, at: i64| {
            (b.at, call) = (crate::domain::Micros(at), call + 1);
            let reply = b.admit(admit(call, usd("1")));
            if matches!(reply, Reply::Admitted(_)) {
                b.settle(call, settle(Some(usd("1")), 1));
            }
            b.entries.clear();
            reply
        };
        let mut at = b.at.0;
        for day in 0..3_653 {
            assert!(matches!(goes(&mut b, at), Reply::Admitted(_)), "day {day} in {zone}");
            let resets = refused(goes(&mut b, at + 1)).resets_at.unwrap();
            refused(goes(&mut b, resets.0 - 1));
            at = resets.0;
        }
    }
}

// Streams.

fn expected(limit: &str) -> Budget {
    Budget { reservation: Reservation::Expected, ..hard("month", limit) }
}

/// A stream that wants up to 10,000 tokens at a cent each and as a rule says 100.
fn stream(call: u128) -> AdmitRequest {
    let mut request = admit(call, usd("0.5"));
    request.admit.stream = true;
    request.per_output_token = Some(usd("0.01"));
    (request.output_wanted, request.expected_output) = (10_000, Some(100));
    request
}

fn admitted(reply: Reply) -> Admitted {
    match reply {
        Reply::Admitted(admitted) => admitted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_holds_what_is_expected_and_is_extended() {
    let mut b = bench(vec![expected("100")]);
    let got = admitted(b.admit(stream(1)));
    assert_eq!((got.hold, got.covers, got.output_limit), (usd("1.5"), Some(100), None));
    assert_eq!(b.extend(1, usd("0.01"), 200), Reply::Extended { tokens: 200 });
    assert_eq!(b.balance("month"), (0, usd("3.5").0));
    assert_eq!(b.state.running().next().unwrap().cost_if_lost(), Some(usd("3.5")));
    b.settle(1, settle(Some(usd("2.25")), 200));
    assert_eq!(b.balance("month"), (usd("2.25").0, 0));
    assert!(b.entries.iter().all(|e| !matches!(e.body, Body::Overrun { .. })));
    assert_eq!(b.extend(1, usd("0.01"), 1), Reply::Settled { seq: None, changed: false }, "it has ended");
    replayed(&b);
}

#[test]
fn what_does_not_stream_or_meets_a_strict_budget_holds_its_upper_bound() {
    let mut b = bench(vec![expected("1000"), Budget { id: "strict".into(), ..hard("strict", "1000") }]);
    assert_eq!(admitted(b.admit(stream(1))).hold, usd("100.5"), "one strict budget is enough");
    b.declare(vec![Change::Budget("strict".into(), None)]);
    let mut plain = stream(2);
    plain.admit.stream = false;
    assert_eq!(admitted(b.admit(plain)).covers, None);
    let mut job = stream(3);
    job.admit.job = true;
    assert_eq!(admitted(b.admit(job)).hold, usd("100.5"));
    let mut short = stream(4);
    short.output_wanted = 60;
    let got = admitted(b.admit(short));
    assert_eq!((got.hold, got.covers), (usd("1.1"), None), "a cap below what is expected is a bound");
}

#[test]
fn no_expected_hold_takes_more_than_a_tenth_of_a_budget_for_its_output() {
    let mut b = bench(vec![expected("10")]);
    let got = admitted(b.admit(stream(1)));
    assert_eq!((got.hold, got.covers), (usd("1"), Some(50)));
}

#[test]
fn an_extension_gets_what_is_left_and_then_warns_before_it_is_refused() {
    let mut b = bench(vec![expected("100")]);
    admitted(b.admit(stream(1)));
    admitted(b.admit(stream(2)));
    assert_eq!(b.extend(1, usd("0.01"), 9_000), Reply::Extended { tokens: 9_000 });
    assert_eq!(b.extend(2, usd("0.01"), 9_000), Reply::Extended { tokens: 700 }, "93 of 100 were held");
    let before = b.alerts();
    assert_eq!(before, ["month actual 50", "month actual 75", "month actual 90", "month actual 100"]);
    let denied = refused(b.extend(2, usd("0.01"), 500));
    assert_eq!((denied.by.as_deref(), denied.remaining), (Some("budget:month"), Some(Money::ZERO)));
    assert_eq!(b.alerts()[4..], ["month denied 0"]);
    assert_eq!(b.balance("month"), (0, usd("100").0), "a refusal changes no hold");
    replayed(&b);
}

#[test]
fn an_extension_refused_long_before_the_last_threshold_writes_all_of_them_first() {
    let mut b = bench(vec![expected("100")]);
    admitted(b.admit(stream(1)));
    b.declare(vec![Change::Budget("month".into(), Some(expected("1.6")))]);
    refused(b.extend(1, usd("0.01"), 500));
    let told: Vec<String> = b.alerts();
    assert_eq!(told, ["month actual 50", "month actual 75", "month actual 90", "month actual 100", "month denied 0"]);
    let of = |e: &Entry| matches!(e.body, Body::Alert(_)).then_some(e.reference);
    let admit = b.state.running().next().unwrap().seq;
    assert!(b.entries.iter().filter_map(of).all(|reference| reference == Some(admit)));
}

#[test]
fn a_budget_that_only_alerts_lets_streams_finish_unless_it_says_cut() {
    let alerts =
        |cut| Budget { enforcement: crate::domain::Enforcement::Alert, on_midstream_exceed: cut, ..expected("2") };
    let mut b = bench(vec![alerts(None)]);
    assert_eq!(admitted(b.admit(stream(1))).covers, Some(0), "a tenth of 2 is less than the input alone");
    assert_eq!(b.extend(1, usd("0.01"), 500), Reply::Extended { tokens: 500 });
    let mut b = bench(vec![alerts(Some(MidstreamExceed::Cut))]);
    admitted(b.admit(stream(1)));
    assert_eq!(b.extend(1, usd("0.01"), 500), Reply::Extended { tokens: 150 });
    refused(b.extend(1, usd("0.01"), 500));
}

#[test]
fn what_an_expected_hold_cannot_have_a_real_bound_may() {
    let mut b = bench(vec![expected("100")]);
    let mut hungry = stream(1);
    (hungry.expected_output, hungry.may_limit_output) = (Some(9_000), true);
    // A tenth of the budget is all an expected hold takes.
    assert_eq!(admitted(b.admit(hungry)).covers, Some(950));
    let mut all = admit(2, usd("85"));
    all.admit.stream = false;
    admitted(b.admit(all));
    let mut last = stream(3);
    (last.expected_output, last.may_limit_output) = (Some(900), true);
    let got = admitted(b.admit(last));
    assert_eq!((got.hold, got.output_limit, got.covers), (usd("5"), Some(450), None));
}
