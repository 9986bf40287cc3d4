use std::collections::BTreeMap;

use super::*;
use crate::domain::catalogue::{Organisation, OwnerKind};
use crate::domain::identity::{Assurance, Charge};
use crate::domain::policy::{Downgrade, Per};
use crate::domain::{Change, Owner};

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn who(environment: Environment) -> Attribution {
    Attribution {
        service: "svc".into(),
        agent: None,
        application: "app".into(),
        owner: "team".into(),
        business_unit: "unit".into(),
        cost_centre: None,
        tenant: None,
        environment,
        workflow: None,
        run: None,
        prompt_class: Some("chat".into()),
        principal: "svc".into(),
        charged_to: vec![Charge { service: "svc".into(), basis_points: 10_000 }],
        chain: vec![],
        credential: "wbk_p00000000000".into(),
        assurance: Assurance::A1,
        provenance: "KCKUUUUDUK".into(),
    }
}

/// A call of which everything is known: gpt-5 at 10 USD, from 10.1.2.3, on a Tuesday at noon in Berlin.
struct Sample {
    catalogue: Catalogue,
    who: Attribution,
    facts: Facts,
    model: Option<&'static str>,
    endpoint: &'static str,
    at: Micros,
    key: Option<Vec<String>>,
    left: Option<(String, u8)>,
}

impl Sample {
    fn new() -> Sample {
        let mut catalogue = Catalogue::default();
        let organisation = Organisation { time_zone: "Europe/Berlin".into(), ..Organisation::default() };
        catalogue.apply(Change::Organisation(organisation));
        Sample {
            catalogue,
            who: who(Environment::Test),
            facts: Facts {
                price: Price::PerMillion("10".parse().unwrap()),
                input: Input::Tokens(1_000),
                output: Some(Output { cap: None, writable: true }),
                tools: Some(list(&["lookup", "web_search_preview"])),
                headers: Some(list(&["x-team", "authorization"])),
                peer: Some("10.1.2.3".parse().unwrap()),
                region: Some("eu".into()),
                model_writable: true,
            },
            model: Some("gpt-5"),
            endpoint: "chat.completions",
            at: "2026-11-24T11:00:00Z".parse().unwrap(),
            key: None,
            left: None,
        }
    }

    fn judge(&self, policies: &[Policy]) -> Verdict {
        let policies: Vec<_> = policies.iter().cloned().map(Arc::new).collect();
        let asked = Asked {
            catalogue: &self.catalogue,
            who: &self.who,
            provider: "openai",
            endpoint: self.endpoint,
            metered: true,
            model: self.model,
            at: self.at,
            facts: &self.facts,
            key_models: self.key.as_deref(),
            left: &|| self.left.clone(),
        };
        judge(&policies, &asked)
    }
}

fn policy(id: &str) -> Policy {
    Policy { id: id.into(), ..Policy::default() }
}

fn in_test(id: &str) -> Policy {
    Policy { matches: BTreeMap::from([(Dimension::Environment, "te*".to_owned())]), ..policy(id) }
}

/// Each rule on the sample call: kept, broken with a word of its message, or a change.
#[test]
fn every_rule_keeps_what_it_allows_and_names_what_it_denies() {
    let rule = |change: &dyn Fn(&mut Policy)| {
        let mut p = policy("p");
        change(&mut p);
        p
    };
    let net = |n: &str| vec![n.parse().unwrap()];
    let hours = |h: &str| vec![h.parse().unwrap()];
    let names = |n: &str| [n.to_owned()].into();
    let cases: Vec<(Policy, Option<&str>)> = vec![
        (rule(&|p| p.deny_models = list(&["*-pro"])), None),
        (rule(&|p| p.deny_models = list(&["GPT-5*"])), Some("denies model `gpt-5`")),
        (rule(&|p| p.allow_models = Some(list(&["gpt-*"]))), None),
        (rule(&|p| p.allow_models = Some(list(&["claude*"]))), Some("allows claude*")),
        (rule(&|p| p.allow_models = Some(vec![])), Some("allows none")),
        (rule(&|p| p.allow_models = Some(list(&["class:low", "class:mid"]))), None),
        (rule(&|p| p.deny_models = list(&["class:mid"])), Some("denies model")),
        (rule(&|p| p.deny_models = list(&["class:top"])), None),
        (rule(&|p| p.allow_endpoints = Some(list(&["chat.*"]))), None),
        (rule(&|p| p.deny_endpoints = list(&["chat.*"])), Some("endpoint `chat.completions`")),
        (rule(&|p| p.allow_tools = Some(list(&["lookup", "web_search*"]))), None),
        (rule(&|p| p.allow_tools = Some(list(&["lookup"]))), Some("tool `web_search_preview`")),
        (rule(&|p| p.deny_tools = list(&["web_*"])), Some("denies tool")),
        (rule(&|p| p.deny_providers = list(&["openai"])), Some("provider `openai`")),
        (rule(&|p| p.allow_providers = Some(list(&["azure*"]))), Some("allows azure*")),
        (rule(&|p| p.allow_regions = Some(list(&["eu*"]))), None),
        (rule(&|p| p.allow_regions = Some(list(&["us*"]))), Some("region `eu`")),
        (rule(&|p| p.allow_networks = Some(net("10.0.0.0/8"))), None),
        (rule(&|p| p.allow_networks = Some(net("192.168.0.0/16"))), Some("from your network")),
        (rule(&|p| p.deny_networks = net("10.1.0.0/16")), Some("from your network")),
        (rule(&|p| p.require_headers = names("x-team")), None),
        (rule(&|p| p.require_headers = names("x-case")), Some("header x-case")),
        (rule(&|p| p.require_fields = names("business_unit")), None),
        (rule(&|p| p.require_fields = names("cost_centre")), Some("requires cost_centre")),
        (rule(&|p| p.require_owner = true), Some("owner `team`")),
        (rule(&|p| p.hours = hours("mon-fri 08:00-18:00")), None),
        (rule(&|p| p.hours = hours("sat-sun 00:00-24:00")), Some("tue 12:00")),
        (rule(&|p| p.max_input_tokens = Some(1_000)), None),
        (rule(&|p| p.max_input_tokens = Some(999)), Some("about 1000")),
        (rule(&|p| p.unpriced_policy = Some(Unpriced::Deny)), None),
    ];
    for (policy, expected) in cases {
        let verdict = Sample::new().judge(std::slice::from_ref(&policy));
        let rule = verdict.rules.last().unwrap_or_else(|| panic!("{policy:?} was not looked at")).clone();
        match (expected, &verdict.denied) {
            (None, None) => assert_eq!(rule.result, RuleResult::Allowed, "{policy:?}"),
            (Some(word), Some(denied)) => {
                assert!(denied.message.contains(word), "{}", denied.message);
                assert_eq!((denied.by.as_str(), rule.result), ("policy:p", RuleResult::Denied));
            }
            (expected, found) => panic!("{policy:?}: expected {expected:?}, found {found:?}"),
        }
        // The same in the other modes: it passes, and the record says what would have become of it.
        for (mode, result) in [(Mode::Observe, RuleResult::Observed), (Mode::Warn, RuleResult::Warned)] {
            let verdict = Sample::new().judge(&[Policy { mode, ..policy.clone() }]);
            assert!(verdict.allowed());
            let broken = expected.is_some();
            assert_eq!(verdict.rules.last().unwrap().result, if broken { result } else { RuleResult::Allowed });
            assert_eq!(verdict.warnings.len(), usize::from(broken && mode == Mode::Warn));
        }
    }
}

#[test]
fn the_first_policy_that_denies_is_named_and_those_behind_it_are_not_looked_at() {
    let mut prod = policy("prod-only");
    prod.matches = BTreeMap::from([(Dimension::Environment, "prod".to_owned())]);
    prod.deny_models = list(&["*"]);
    let kept = Policy { deny_models: list(&["*-pro"]), ..in_test("kept") };
    let denies = Policy { allow_models: Some(list(&["claude*"])), ..in_test("denies") };
    let verdict = Sample::new().judge(&[prod, kept, denies, Policy { require_owner: true, ..policy("behind") }]);
    let seen: Vec<_> = verdict.rules.iter().map(|r| (r.by.as_str(), r.rule.as_str(), r.result.name())).collect();
    assert_eq!(seen, [("policy:kept", "deny_models", "allowed"), ("policy:denies", "allow_models", "denied")]);
    assert_eq!(verdict.denied.unwrap().code, Code::PolicyDenied);
}

#[test]
fn a_keys_own_list_narrows_and_is_answered_as_a_model_that_is_not_there() {
    let check = |models: &[&str], denied: bool| {
        let verdict = Sample { key: Some(list(models)), ..Sample::new() }.judge(&[]);
        assert_eq!(verdict.denied.as_ref().map(|d| d.code), denied.then_some(Code::ModelNotAllowed));
        assert_eq!(verdict.rules[0].by, "key");
    };
    check(&["GPT-5*"], false);
    check(&["o3"], true);
    check(&[], true);
    check(&["class:mid"], false);
}

#[test]
fn leave_is_given_by_any_policy_that_covers_the_call() {
    let strict = Policy { deny_models: list(&["x"]), ..in_test("strict") };
    let lenient = Policy { allow_unmetered: true, allow_unpriced: true, mode: Mode::Observe, ..in_test("lenient") };
    let verdict = Sample::new().judge(&[strict.clone(), lenient.clone()]);
    assert!(verdict.allowed() && verdict.allow_unmetered && verdict.allow_unpriced && !verdict.allow_unbounded);
    let elsewhere = Sample { who: who(Environment::Prod), ..Sample::new() }.judge(&[strict, lenient]);
    assert!(!elsewhere.allow_unmetered && elsewhere.rules.is_empty());
}

#[test]
fn output_is_clamped_to_the_least_and_refused_where_no_cap_can_be_written() {
    let most = |n| Policy { max_output_tokens: Some(n), ..policy("p") };
    let of = |cap, writable, policies: &[Policy]| {
        let mut sample = Sample::new();
        sample.facts.output = Some(Output { cap, writable });
        sample.judge(policies)
    };
    let clamped = of(None, true, &[most(4_096), most(512), most(8_192)]);
    assert_eq!((clamped.output_limit, clamped.rules[1].note.as_deref()), (Some(512), Some("512")));
    assert_eq!(clamped.rules[1].result, RuleResult::Changed);
    assert_eq!(of(Some(600), true, &[most(512)]).output_limit, Some(512));
    assert_eq!(of(Some(512), true, &[most(512)]).output_limit, None);
    assert!(of(Some(600), false, &[most(512)]).denied.unwrap().message.contains("ask for 512"));
    assert!(of(Some(400), false, &[most(512)]).allowed());
    let observed = of(None, true, &[Policy { mode: Mode::Observe, ..most(512) }]);
    assert_eq!((observed.output_limit, observed.rules[0].result), (None, RuleResult::Observed));
}

#[test]
fn a_cheaper_model_is_asked_for_while_a_budget_nears_its_end() {
    let rule = Policy { downgrade: Some(Downgrade { below_percent: 10, to: "gpt-5-mini".into() }), ..policy("save") };
    let at =
        |left: u8| Sample { left: Some(("month".into(), left)), ..Sample::new() }.judge(std::slice::from_ref(&rule));
    assert_eq!(at(10).downgrade, None);
    let down = at(9).downgrade.unwrap();
    assert_eq!((down.to.as_str(), down.budget.as_str(), down.left), ("gpt-5-mini", "month", 9));
    assert_eq!(Sample::new().judge(std::slice::from_ref(&rule)).downgrade, None, "no budget covers the call");
    let small = Sample { model: Some("GPT-5-mini"), left: Some(("month".into(), 1)), ..Sample::new() };
    assert_eq!(small.judge(std::slice::from_ref(&rule)).downgrade, None, "it asks for it already");
    // Where the model stands in the path the call goes as it is: a rule that saves money does not stop it.
    let mut fixed = Sample { left: Some(("month".into(), 1)), ..Sample::new() };
    fixed.facts.model_writable = false;
    let verdict = fixed.judge(std::slice::from_ref(&rule));
    assert!(verdict.allowed() && verdict.unjudged.is_none() && verdict.downgrade.is_none());
    assert_eq!(verdict.rules[0].result, RuleResult::Unknown);
}

#[test]
fn models_without_a_price_go_by_the_first_policy_that_says_so_and_else_by_the_environment() {
    let of = |environment, policies: &[Policy]| {
        let mut sample = Sample { who: who(environment), ..Sample::new() };
        sample.facts.price = Price::Unpriced;
        sample.judge(policies)
    };
    for environment in [Environment::Pilot, Environment::Test, Environment::Exploratory] {
        let denied = of(environment, &[]).denied.unwrap();
        assert_eq!((denied.code, denied.by), (Code::ModelUnpriced, format!("environment:{environment}")));
    }
    assert_eq!(of(Environment::Prod, &[]).unpriced, Some(Unpriced::FamilyMax));
    let says = |what| Policy { unpriced_policy: Some(what), ..policy("p") };
    assert_eq!(of(Environment::Test, &[says(Unpriced::Allow), says(Unpriced::Deny)]).unpriced, Some(Unpriced::Allow));
    assert_eq!(of(Environment::Prod, &[says(Unpriced::Deny)]).denied.unwrap().code, Code::ModelUnpriced);
    assert!(of(Environment::Test, &[Policy { allow_unpriced: true, ..policy("p") }]).allowed());
    assert!(
        of(Environment::Test, &[Policy { deny_models: list(&["class:unpriced"]), ..policy("p") }]).denied.is_some()
    );
}

#[test]
fn hours_go_by_the_clock_on_the_wall_when_it_is_put_forward_and_back() {
    let night = Policy { hours: vec!["sun 02:00-03:00".parse().unwrap()], ..policy("p") };
    let open =
        |at: &str| Sample { at: at.parse().unwrap(), ..Sample::new() }.judge(std::slice::from_ref(&night)).allowed();
    // 29 March 2026: 02:00 to 03:00 does not exist in Berlin.
    for (at, expected) in
        [("2026-03-29T00:59:59Z", false), ("2026-03-29T01:00:00Z", false), ("2026-03-29T01:30:00Z", false)]
    {
        assert_eq!(open(at), expected, "{at}");
    }
    // 25 October 2026: it comes twice.
    for (at, expected) in [
        ("2026-10-24T23:59:59Z", false),
        ("2026-10-25T00:00:00Z", true),
        ("2026-10-25T00:59:59Z", true),
        ("2026-10-25T01:00:00Z", true),
        ("2026-10-25T01:59:59Z", true),
        ("2026-10-25T02:00:00Z", false),
    ] {
        assert_eq!(open(at), expected, "{at}");
    }
}

#[test]
fn an_owner_who_can_be_reached_satisfies_and_a_mere_name_does_not() {
    let rule = Policy { require_owner: true, ..policy("p") };
    let with = |email: Option<&str>| {
        let mut sample = Sample::new();
        let owner = Owner { id: "team".into(), kind: OwnerKind::Team, name: None, email: email.map(str::to_owned) };
        sample.catalogue.apply(Change::Owner("team".into(), Some(owner)));
        sample.judge(std::slice::from_ref(&rule)).allowed()
    };
    assert!(!with(None));
    assert!(with(Some("team@example.com")));
}

#[test]
fn what_is_not_known_is_not_judged_and_says_so() {
    let sample = Sample { facts: Facts::default(), ..Sample::new() };
    let rules = Policy {
        allow_networks: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        require_headers: ["x".to_owned()].into(),
        deny_tools: list(&["x"]),
        deny_models: list(&["class:top"]),
        max_input_tokens: Some(1),
        max_output_tokens: Some(1),
        allow_regions: Some(list(&["eu"])),
        ..policy("p")
    };
    let verdict = sample.judge(std::slice::from_ref(&rules));
    assert!(verdict.allowed() && verdict.unjudged.is_some());
    assert_eq!(verdict.rules.len(), 7);
    assert!(verdict.rules.iter().all(|r| r.result == RuleResult::Unknown), "{:?}", verdict.rules);
    // A plain name needs no price.
    let named = Policy { deny_models: list(&["class:top", "gpt-5"]), ..policy("p") };
    assert!(sample.judge(&[named]).denied.is_some());
}

#[test]
fn the_record_is_bounded_and_keeps_what_was_broken() {
    let mut policies: Vec<Policy> =
        (0..200).map(|n| Policy { deny_models: list(&["x"]), ..policy(&format!("p{n}")) }).collect();
    policies.push(Policy { deny_models: list(&["gpt-5"]), ..policy("last") });
    let verdict = Sample::new().judge(&policies);
    assert_eq!(verdict.rules.len(), MOST_RULES);
    let denied = &verdict.rules[MOST_RULES - 2];
    assert_eq!((denied.by.as_str(), denied.result), ("policy:last", RuleResult::Denied));
    assert_eq!(verdict.rules.last().unwrap().note.as_deref(), Some("154 more"));
}

#[test]
fn rates_alone_are_a_policy_and_judge_no_single_call() {
    let rates = Policy { max_concurrent: Some(1), per: Per::Policy, ..policy("p") };
    assert!(rates.has_rates() && rates.has_rules() && !policy("q").has_rules());
    let verdict = Sample::new().judge(&[rates]);
    assert!(verdict.allowed() && verdict.rules.is_empty());
}
