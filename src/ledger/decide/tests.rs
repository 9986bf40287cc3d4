//! Decisions on calls, one rule at a time: holds, caps, refusals, alerts.

use super::*;
use crate::domain::{Change, Code, Dimension, Enforcement, PeriodKind};
use crate::ledger::entry::Opening;
use crate::ledger::request::{AdmitRequest, Admitted, Denied};
use crate::ledger::testing::*;

#[track_caller]
fn admitted(reply: Reply) -> Admitted {
    match reply {
        Reply::Admitted(a) => a,
        other => panic!("not admitted: {other:?}"),
    }
}

#[track_caller]
fn denied(reply: Reply) -> Denied {
    match reply {
        Reply::Denied(d) => d,
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn the_worked_example_of_a_hard_month() {
    let mut b = Bench::new(vec![hard("month", "100")]);
    admitted(b.admit(admit(1, usd("92"))));
    b.settle(1, settle(Some(usd("92")), 10));
    assert_eq!(b.alerts(), ["month actual 50", "month actual 75", "month actual 90"]);
    admitted(b.admit(admit(2, usd("3"))));
    admitted(b.admit(admit(3, usd("2.50"))));

    let mut call = admit(4, usd("0.035"));
    call.admit.input_bound = 20_000;
    call.per_output_token = Some(usd("0.000014"));
    call.output_wanted = 16_384;
    call.may_limit_output = true;
    let a = admitted(b.admit(call));
    assert_eq!((a.hold, a.output_limit), (usd("0.264376"), None));
    assert_eq!(a.remaining, Some(usd("2.235624")));
    assert_eq!(a.warning, Some(("month".into(), 97)));
    assert_eq!(b.balance("month"), (usd("92").0, usd("5.764376").0));

    b.settle(4, settle(Some(usd("0.0343")), 11_300));
    assert_eq!(b.balance("month"), (usd("92.0343").0, usd("5.50").0));
    assert_eq!(b.alerts().len(), 3, "nothing new");

    let d = denied(b.admit(admit(5, usd("2.60"))));
    assert_eq!((d.code, d.by.as_deref()), (Code::BudgetExceeded, Some("budget:month")));
    assert_eq!(d.remaining, Some(usd("2.4657")));
    assert_eq!(d.resets_at, "2026-12-01T00:00:00Z".parse().ok());
    assert_eq!(
        d.message,
        "Weighbridge: budget 'month' cannot afford this call (USD 2.60 needed, 2.4657 left of 100.00). \
         Resets 2026-12-01 00:00 UTC."
    );
    let Body::Deny(deny) = b.last() else { panic!("the refusal is the last entry") };
    assert_eq!((deny.hold, deny.available, deny.http_status), (Some(usd("2.60")), Some(usd("2.4657")), 402));
    assert_eq!(b.entries.last().unwrap().seq, d.seq);
    assert_eq!(b.alerts()[3..], ["month actual 100", "month denied 0"]);
}

#[test]
fn two_hundred_callers_of_a_budget_for_37_are_37_admitted() {
    let mut b = Bench::new(vec![hard("cap", "37")]);
    let replies: Vec<Reply> = (0..200).map(|n| b.admit(admit(n, usd("1")))).collect();
    assert_eq!(replies.iter().filter(|r| matches!(r, Reply::Admitted(_))).count(), 37);
    let refused: Vec<_> = replies.into_iter().filter(|r| !matches!(r, Reply::Admitted(_))).map(denied).collect();
    assert!(refused.iter().all(|d| d.code == Code::BudgetExceeded));
    assert!(refused[0].message.contains("is used up (USD 37.00 of 37.00)"), "{}", refused[0].message);
    for n in 0..37 {
        b.settle(n, settle(Some(usd("0.5")), 1));
    }
    assert_eq!(b.balance("cap"), (usd("18.5").0, 0));
    let denials = b.alerts().iter().filter(|a| a.contains("denied")).count();
    assert_eq!(denials, 1, "once per period");
}

#[test]
fn output_is_cut_to_what_the_tightest_budget_affords() {
    let mut b =
        Bench::new(vec![hard("a", "1"), hard("b", "0.5"), budget("t", Metric::Tokens, 900_000, Enforcement::Hard)]);
    let call = |n, wanted: u64, choices| {
        let mut call = admit(n, usd("0.1"));
        call.per_output_token = Some(usd("0.0001"));
        (call.output_wanted, call.choices, call.may_limit_output) = (wanted, choices, true);
        call
    };
    let a = admitted(b.admit(call(1, 128_000, 1)));
    assert_eq!((a.output_limit, a.hold), (Some(4_000), usd("0.5")));
    let Body::Admit(entry) = &b.entries[b.entries.len() - 1 - b.alerts().len()].body else { panic!() };
    assert_eq!((entry.output_bound, entry.output_limit), (4_000, Some(4_000)));
    b.settle(1, settle(Some(usd("0")), 0));

    let a = admitted(b.admit(call(2, 40_000, 3)));
    assert_eq!((a.output_limit, a.hold), (Some(1_333), usd("0.4999")), "per choice, all choices held");
    b.settle(2, settle(Some(usd("0.3")), 0));

    // 0.2 left: 0.1 fixed and 1,000 tokens are 333 for each of 3, but only 250 for each of 4.
    assert_eq!(admitted(b.admit(call(3, 128_000, 3))).output_limit, Some(333));
    b.settle(3, settle(Some(usd("0")), 0));
    assert_eq!(denied(b.admit(call(4, 128_000, 4))).by.as_deref(), Some("budget:b"));
    // A cap of the caller's own is not ours to lower.
    let mut own = call(5, 2_000, 1);
    own.may_limit_output = false;
    assert_eq!(denied(b.admit(own)).by.as_deref(), Some("budget:b"));
    let a = admitted(b.admit(call(6, 300, 3)));
    assert_eq!((a.output_limit, a.hold), (None, usd("0.19")), "affordable as it is");
}

#[test]
fn all_or_nothing_over_every_budget_and_the_first_by_id_is_named() {
    let mut b = Bench::new(vec![hard("z", "1"), hard("m", "1"), hard("a", "100")]);
    assert_eq!(denied(b.admit(admit(1, usd("2")))).by.as_deref(), Some("budget:m"));
    for id in ["a", "m", "z"] {
        assert_eq!(b.balance(id), (0, 0));
    }
    assert_eq!(b.state.running().count(), 0);
}

#[test]
fn free_calls_pass_an_exhausted_budget_and_a_limit_of_zero_means_zero() {
    let mut b = Bench::new(vec![hard("none", "0")]);
    admitted(b.admit(admit(1, Money::ZERO)));
    assert!(b.alerts().is_empty(), "nothing used");
    let d = denied(b.admit(admit(2, Money(1))));
    assert!(d.message.contains("is used up (USD 0.00 of 0.00)"), "{}", d.message);
}

#[test]
fn calls_and_tool_calls_are_counted() {
    let calls = budget("calls", Metric::Calls, 2, Enforcement::Hard);
    let mut b = Bench::new(vec![calls, budget("tools", Metric::ToolCalls, 3, Enforcement::Hard)]);
    let with_tools = |n| {
        let mut call = admit(n, usd("1"));
        call.admit.tools_offered = 4;
        call
    };
    admitted(b.admit(with_tools(1)));
    let mut done = settle(Some(usd("1")), 5);
    done.tools_called = 3;
    b.settle(1, done);
    assert_eq!((b.balance("calls"), b.balance("tools")), ((1, 0), (3, 0)));
    assert_eq!(denied(b.admit(with_tools(2))).by.as_deref(), Some("budget:tools"));
    admitted(b.admit(admit(3, usd("1"))));
    assert_eq!(denied(b.admit(admit(4, usd("1")))).by.as_deref(), Some("budget:calls"));
    assert!(b.alerts().contains(&"tools actual 100".to_owned()));
}

#[test]
fn what_has_no_price_or_no_meter_needs_leave_under_a_hard_budget() {
    let mut b = Bench::new(vec![hard("month", "10")]);
    let mut unpriced = admit(1, usd("1"));
    (unpriced.per_output_token, unpriced.admit.price_model) = (None, None);
    unpriced.admit.input_bound = 500;
    assert_eq!(denied(b.admit(unpriced.clone())).code, Code::ModelUnpriced);
    unpriced.allow_unpriced = true;
    assert_eq!(admitted(b.admit(unpriced)).hold, Money::ZERO);
    assert_eq!(b.state.open_attempt(CallId(1), 1).unwrap().cost_if_lost(), None, "unknown is not zero");
    b.settle(1, settle(None, 70));
    assert_eq!(b.balance("month"), (0, 0));

    let mut unmetered = admit(2, Money::ZERO);
    (unmetered.admit.unmetered, unmetered.per_output_token) = (true, None);
    let d = denied(b.admit(unmetered.clone()));
    assert_eq!((d.code, d.by.as_deref()), (Code::UnmeteredPath, Some("budget:month")));
    unmetered.allow_unmetered = true;
    admitted(b.admit(unmetered));

    let mut free = Bench::new(vec![budget("watch", Metric::Usd, 10, Enforcement::Alert)]);
    let mut unpriced = admit(1, usd("1"));
    unpriced.per_output_token = None;
    admitted(free.admit(unpriced));
}

#[test]
fn an_alert_budget_never_refuses_but_holds_and_tells() {
    let mut b = Bench::new(vec![budget("watch", Metric::Usd, usd("10").0, Enforcement::Alert)]);
    let a = admitted(b.admit(admit(1, usd("25"))));
    assert_eq!((a.remaining, a.warning), (None, Some(("watch".into(), 250))));
    assert_eq!(b.alerts(), ["watch actual 50", "watch actual 75", "watch actual 90", "watch actual 100"]);
    assert_eq!(b.balance("watch"), (0, usd("25").0));
}

#[test]
fn a_settlement_above_its_hold_is_an_overrun_and_counts_once() {
    let mut b = Bench::new(vec![hard("month", "10")]);
    admitted(b.admit(admit(1, usd("4"))));
    let reply = b.settle(1, settle(Some(usd("11")), 1));
    let Reply::Settled { seq: Some(seq), changed: true } = reply else { panic!("{reply:?}") };
    let overrun = &b.entries[seq as usize + 1];
    assert_eq!(overrun.body, Body::Overrun { excess: usd("7"), budgets: vec!["month".into()] });
    assert_eq!(overrun.reference, Some(seq));
    assert_eq!(b.balance("month"), (usd("11").0, 0));
    assert!(b.alerts().contains(&"month overrun 0".to_owned()));
    let before = b.entries.len();
    assert_eq!(b.settle(1, settle(Some(usd("1")), 1)), Reply::Settled { seq: None, changed: false });
    assert_eq!(b.entries.len(), before);
    assert_eq!(denied(b.admit(admit(2, usd("1")))).remaining, Some(usd("-1")));
}

#[test]
fn a_max_cost_lowers_the_output_or_refuses() {
    let mut b = Bench::new(vec![]);
    let mut call = admit(1, usd("0.1"));
    (call.per_output_token, call.output_wanted) = (Some(usd("0.001")), 4_000);
    call.max_cost = Some(usd("1.1"));
    assert_eq!(denied(b.admit(call.clone())).code, Code::MaxCostExceeded);
    call.may_limit_output = true;
    let a = admitted(b.admit(call));
    assert_eq!((a.output_limit, a.hold), (Some(1_000), usd("1.1")));
}

#[test]
fn nothing_is_admitted_after_the_entry_that_forbids_it() {
    let mut b = Bench::new(vec![]);
    let mut judged = admit(1, usd("1"));
    judged.admit.catalogue_revision = b.state.catalogue().revision;
    let late = |b: &mut Bench, call: &AdmitRequest| b.submit_as_is(Request::Admit(Box::new(call.clone())));

    let mut suspended = key();
    suspended.status = crate::domain::catalogue::KeyStatus::Suspended;
    b.declare(vec![Change::Key(KEY.into(), Some(suspended))]);
    assert_eq!(denied(late(&mut b, &judged)).code, Code::KeyInvalid);
    b.declare(vec![Change::Key(KEY.into(), Some(key()))]);
    let policy =
        crate::domain::Policy { id: "no-frontier".into(), deny_models: vec!["gpt-5*".into()], ..Default::default() };
    b.declare(vec![Change::Policy("no-frontier".into(), Some(policy))]);
    assert_eq!(denied(late(&mut b, &judged)).by.as_deref(), Some("policy:no-frontier"));
    b.declare(vec![Change::Policy("no-frontier".into(), None), Change::Provider("openai".into(), None)]);
    assert_eq!(denied(late(&mut b, &judged)).code, Code::UnknownPath);
    b.declare(vec![Change::Provider("openai".into(), Some(provider()))]);
    admitted(late(&mut b, &judged));
    let Body::Admit(entry) = b.last() else { panic!() };
    assert_eq!(entry.catalogue_revision, b.state.catalogue().revision);

    b.at = NOON.plus_seconds(86_400);
    assert_eq!(denied(b.admit(admit(2, usd("1")))).code, Code::KeyExpired, "no change needed for that");
}

#[test]
fn a_restart_settles_calls_from_their_holds_and_leaves_jobs_open() {
    let mut b = Bench::new(vec![hard("month", "10")]);
    admitted(b.admit(admit(1, usd("1"))));
    let mut job = admit(2, usd("2"));
    job.admit.job = true;
    admitted(b.admit(job));
    let tell = |b: &mut Bench, state: &str| {
        let (vendor_id, state) = ("resp_1".into(), state.into());
        b.submit(Request::Job { call: CallId(2), attempt: 1, vendor_id, state })
    };
    assert!(matches!(tell(&mut b, "queued"), Reply::Recorded { .. }));
    assert_eq!(tell(&mut b, "queued"), Reply::Settled { seq: None, changed: false });
    assert!(matches!(tell(&mut b, "in_progress"), Reply::Recorded { .. }));
    b.submit(Request::InterruptAll);
    assert_eq!(b.last(), &Body::Interrupted { cost: Some(usd("1")) });
    assert_eq!(b.balance("month"), (usd("1").0, usd("2").0));
    assert_eq!(b.submit(Request::InterruptAll), Reply::Settled { seq: None, changed: false });

    assert_eq!(b.state.job("openai", "resp_1"), Some((CallId(2), 1)));
    assert_eq!(b.state.job("anthropic", "resp_1"), None);
    b.settle(2, settle(Some(usd("0.5")), 9));
    assert_eq!(b.state.job("openai", "resp_1"), None);
    assert_eq!(b.balance("month"), (usd("1.5").0, 0));

    admitted(b.admit(admit(3, usd("3"))));
    b.at = NOON.plus_seconds(599);
    assert_eq!(b.submit(Request::ExpireLeases), Reply::Settled { seq: None, changed: false });
    b.at = NOON.plus_seconds(600);
    b.submit(Request::ExpireLeases);
    assert_eq!(b.balance("month"), (usd("4.5").0, 0));
}

#[test]
fn a_call_counts_in_the_period_it_was_admitted_in() {
    let mut minute = hard("minute", "10");
    minute.period = PeriodKind::Minute;
    let mut b = Bench::new(vec![minute]);
    admitted(b.admit(admit(1, usd("6"))));
    for n in 1..5 {
        b.at = NOON.plus_seconds(60 * n);
        admitted(b.admit(admit(u128::from(n as u64) + 1, usd("6"))));
    }
    assert_eq!(b.state.balances().count(), 5, "all hold");
    b.settle(1, settle(Some(usd("9")), 1));
    let first = b.state.balance("minute", "2026-11-23T18:00@UTC").unwrap();
    assert_eq!((first.posted, first.held), (usd("9").0, 0));
    for n in 2..6 {
        b.settle(n, settle(Some(usd("1")), 1));
    }
    b.at = NOON.plus_seconds(300);
    admitted(b.admit(admit(9, usd("6"))));
    let kept: Vec<_> = b.state.balances().map(|p| p.period.to_owned()).collect();
    assert_eq!(kept, ["2026-11-23T18:04@UTC", "2026-11-23T18:05@UTC"], "the current and the previous");
}

#[test]
fn a_budget_made_in_mid_month_begins_with_what_was_spent() {
    let mut b = Bench::new(vec![]);
    let declare = |b: &mut Bench, budget: Budget, posted: &str| {
        let opening = Opening { period: "2026-11@UTC".into(), posted: usd(posted).0 };
        b.submit(Request::Declare {
            actor: "file".into(),
            openings: vec![(budget.id.clone(), opening)],
            changes: vec![Change::Budget(budget.id.clone(), Some(budget))],
            reason: None,
        })
    };
    declare(&mut b, hard("month", "10"), "9.50");
    assert_eq!(denied(b.admit(admit(1, usd("0.6")))).remaining, Some(usd("0.5")));
    // A new limit says nothing about what was posted; a new match does.
    declare(&mut b, hard("month", "20"), "1");
    assert_eq!(b.balance("month").0, usd("9.50").0);
    admitted(b.admit(admit(2, usd("2"))));
    let mut wider = hard("month", "20");
    wider.matches = [(Dimension::BusinessUnit, "b*".to_owned())].into();
    declare(&mut b, wider, "12");
    assert_eq!(b.balance("month"), (usd("12").0, usd("2").0));
    let mut narrower = hard("month", "20");
    narrower.matches.insert(Dimension::Run, "r-1".into());
    b.declare(vec![Change::Budget("month".into(), Some(narrower))]);
    assert_eq!(b.balance("month"), (0, usd("2").0), "nothing handed in is nothing posted");
    // It counts calls from now on: what is open is held as one.
    declare(&mut b, budget("month", Metric::Calls, 5, Enforcement::Hard), "0");
    assert_eq!(b.balance("month").1, 1);
    b.declare(vec![Change::Budget("month".into(), None)]);
    b.settle(2, settle(Some(usd("1")), 1));
    assert_eq!(b.state.balances().count(), 0);
}

#[test]
fn declarations_are_all_or_none_and_say_nothing_twice() {
    let mut b = Bench::new(vec![]);
    let before = b.entries.len();
    let bad = |b: &mut Bench, changes| denied(b.declare(changes)).message;
    let stray = crate::domain::Key { id: "wbk_p00000000001".into(), service: "nobody".into(), ..key() };
    let owner =
        crate::domain::Owner { id: "ada".into(), kind: Default::default(), name: Some("Ada".into()), email: None };
    let good = Change::Owner("ada".into(), Some(owner));
    let message = bad(&mut b, vec![good.clone(), Change::Key(stray.id.clone(), Some(stray))]);
    assert_eq!(message, "key `wbk_p00000000001` is of service `nobody`, which is not declared");
    let mut zone = hard("z", "1");
    zone.time_zone = "Mars/Olympus".into();
    assert!(bad(&mut b, vec![Change::Budget("z".into(), Some(zone))]).contains("Mars/Olympus"));
    assert!(bad(&mut b, vec![Change::Service("svc".into(), None)]).contains("remove the key first"));
    let mut told = hard("told", "1");
    told.notify = vec!["finops".into()];
    assert!(bad(&mut b, vec![Change::Budget("told".into(), Some(told))]).contains("finops"));
    assert!(bad(&mut b, vec![Change::Budget("A@b".into(), Some(hard("A@b", "1")))]).contains("not an id"));
    assert_eq!(b.entries.len(), before, "not one of them");

    let revision = b.state.catalogue().revision;
    assert_eq!(b.declare(vec![good.clone()]), Reply::Declared { revision: revision + 1 });
    assert_eq!(b.state.catalogue().owners["ada"].name.as_deref(), Some("Ada"));
    let text = String::from_utf8_lossy(&crate::ledger::codec::encode_body(b.last())).into_owned();
    assert!(!text.contains("Ada"), "a name is no part of group 0");
    assert_eq!(b.declare(vec![good]), Reply::Declared { revision: revision + 1 }, "already so");
}

#[test]
fn an_attempt_is_admitted_once() {
    let mut b = Bench::new(vec![hard("month", "10")]);
    admitted(b.admit(admit(1, usd("1"))));
    let entries = b.entries.len();
    assert_eq!(denied(b.admit(admit(1, usd("1")))).code, Code::IdempotencyReplay);
    assert_eq!((b.entries.len(), b.balance("month").1), (entries, usd("1").0));
    let mut second = admit(1, usd("1"));
    second.admit.attempt = 2;
    let early = denied(b.admit(second.clone()));
    assert_eq!(early.code, Code::IdempotencyReplay, "one attempt ends before the next begins");
    b.settle(1, settle(Some(usd("0")), 0));
    admitted(b.admit(second));
}
