//! Where alerts go, how forecasts, silences and ends of keys are told, and what the outbox makes of what became of them.

use super::super::decide::decide;
use super::super::entry::Entry;
use super::super::outbox::{AlertId, Outbox};
use super::super::request::{BudgetOutlook, Request};
use super::super::testing::{KEY, NOON, hard, key, service};
use super::*;
use crate::domain::notify::{GROUP_S, Transport};
use crate::domain::{Change, Owner};

fn channel(id: &str, kind: ChannelKind, default: bool) -> Change {
    let notify = Notify {
        id: id.into(),
        kind,
        host: "there.example".into(),
        transport: Transport::Tls,
        internal: false,
        default,
        quiet: None,
        refusals_wake: true,
        group_s: GROUP_S,
        webhook: None,
    };
    Change::Notify(id.into(), Some(notify))
}

/// A state that follows the entries decided on, at instants a test chooses.
struct World {
    state: State,
    at: Micros,
}

impl World {
    fn new(changes: Vec<Change>) -> World {
        let owner = Owner { id: "team".into(), kind: Default::default(), name: None, email: None };
        let mut all = vec![Change::Owner("team".into(), Some(owner)), Change::Service("svc".into(), Some(service()))];
        all.extend(changes);
        let mut world = World { state: State::new(), at: NOON };
        world.ask(Request::Declare { actor: "file".into(), changes: all, openings: vec![], reason: None });
        world
    }

    /// Decides, applies, and gives the alerts and deliveries written.
    fn ask(&mut self, request: Request) -> Vec<Body> {
        let decided = decide(&self.state, self.at, &request);
        assert!(!matches!(decided.reply, Reply::Denied(_)), "{:?}", decided.reply);
        for new in &decided.entries {
            let (seq, ts) = (self.state.next_seq(), self.at);
            let entry = Entry { seq, ts, reference: new.reference, body: new.body.clone() };
            self.state.apply(&entry).unwrap();
        }
        let bytes = self.state.encode();
        assert_eq!(State::decode(&bytes).unwrap(), self.state, "a snapshot taken now is the same state");
        decided.entries.into_iter().map(|new| new.body).collect()
    }

    fn budget(&mut self, budget: Budget) {
        let changes = vec![Change::Budget(budget.id.clone(), Some(budget))];
        self.ask(Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None });
    }

    /// One hourly look at the budget `b`, so many hours after noon: the kinds and stages written.
    fn look(&mut self, hours: i64, foreseen: Option<i128>, silent: bool) -> Vec<(String, Option<AlertStage>)> {
        self.at = NOON.plus_seconds(hours * 3_600);
        let period = self.state.period_of("b", self.at).unwrap();
        let limit = self.state.catalogue().budgets["b"].limit.amount;
        let outlook = BudgetOutlook { budget: "b".into(), period, used: 1, limit, foreseen, silent };
        let evaluation = Evaluation { outlooks: vec![outlook], keys: vec![] };
        let told = self.ask(Request::Evaluate(Box::new(evaluation)));
        told.into_iter()
            .map(|body| match body {
                Body::Alert(alert) => (alert.kind, alert.stage),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn raised(kind: &str) -> Vec<(String, Option<AlertStage>)> {
    vec![(kind.to_owned(), None)]
}

fn stage(stage: AlertStage) -> Vec<(String, Option<AlertStage>)> {
    vec![("forecast".to_owned(), Some(stage))]
}

#[test]
fn an_alert_goes_to_the_channels_named_else_to_the_owner_by_mail_else_to_the_default() {
    let routes = |changes: Vec<Change>, notify: &[&str], of: (Dimension, &str)| {
        let world = World::new(changes);
        let mut budget = hard("b", "1");
        budget.notify = notify.iter().map(|id| id.to_string()).collect();
        budget.matches = [(of.0, of.1.to_owned())].into();
        let routes = routes_of(world.state.catalogue(), &budget);
        routes.into_iter().map(|route| route.to_string()).collect::<Vec<_>>()
    };
    let all = || {
        vec![
            channel("chat", ChannelKind::Slack, true),
            channel("mail", ChannelKind::Email, false),
            channel("ops", ChannelKind::Webhook, false),
        ]
    };
    let svc = (Dimension::Service, "svc");
    assert_eq!(routes(all(), &["ops", "chat"], svc), ["ops", "chat"]);
    assert_eq!(routes(all(), &[], svc), ["mail to team"]);
    assert_eq!(routes(all(), &[], (Dimension::Owner, "team")), ["mail to team"]);
    assert_eq!(routes(all(), &[], (Dimension::Application, "app")), ["mail to team"]);
    assert_eq!(routes(all(), &[], (Dimension::Service, "s*")), ["chat"], "whose it is cannot be said");
    assert_eq!(routes(all(), &[], (Dimension::Model, "gpt-5.2")), ["chat"]);
    assert_eq!(routes(vec![channel("chat", ChannelKind::Slack, true)], &[], svc), ["chat"], "no mail");
    assert_eq!(routes(vec![channel("ops", ChannelKind::Webhook, false)], &[], svc), Vec::<String>::new());
}

#[test]
fn a_forecast_alerts_in_the_second_hour_once_and_again_only_after_a_day_under_95_percent() {
    let mut world = World::new(vec![channel("chat", ChannelKind::Slack, true)]);
    world.budget(hard("b", "100"));
    let limit = world.state.catalogue().budgets["b"].limit.amount;
    let (over, near, under) = (limit, limit * 96 / 100, limit * 94 / 100);
    assert_eq!(world.look(0, Some(near), false), []);
    assert_eq!(world.look(0, Some(over), false), stage(AlertStage::Pending));
    assert_eq!(world.look(0, Some(over), false), [], "the same hour is the same look");
    assert_eq!(world.look(1, Some(near), false), stage(AlertStage::Cleared), "not two in a row");
    assert_eq!(world.look(2, Some(over), false), stage(AlertStage::Pending));
    assert_eq!(world.look(3, Some(over), false), raised("forecast"));
    let waiting = world.state.outbox().waiting().count();
    for hour in 4..30 {
        assert_eq!(world.look(hour, Some(over * 2), false), [], "hour {hour}");
    }
    assert_eq!(world.look(30, Some(under), false), stage(AlertStage::Easing));
    assert_eq!(world.look(40, Some(near), false), stage(AlertStage::Standing));
    assert_eq!(world.look(41, Some(under), false), stage(AlertStage::Easing));
    assert_eq!(world.look(64, Some(under), false), [], "23 hours");
    assert_eq!(world.look(65, Some(under), false), stage(AlertStage::Resolved));
    assert_eq!(world.look(66, Some(over), false), stage(AlertStage::Pending));
    assert_eq!(world.look(67, Some(over), false), raised("forecast"));
    assert_eq!(world.state.outbox().waiting().count(), waiting + 1, "only what is raised is told");
    // Noon of the 23rd and 200 hours: December. What was raised for November says nothing about it.
    assert_eq!(world.look(200, Some(over), false), stage(AlertStage::Pending));
    assert_eq!(world.look(201, Some(over), false), raised("forecast"));
}

#[test]
fn what_is_spent_already_needs_no_forecast() {
    let mut world = World::new(vec![]);
    let mut budget = hard("b", "100");
    budget.limit.amount = 1;
    world.budget(budget);
    assert_eq!(world.look(0, Some(5), false), stage(AlertStage::Pending));
    assert_eq!(world.look(1, Some(5), false), [], "one of one is used");
}

#[test]
fn silence_is_told_once_until_something_comes_again() {
    let mut world = World::new(vec![]);
    world.budget(hard("b", "100"));
    assert_eq!(world.look(0, None, true), raised("no_data"));
    assert_eq!(world.look(1, None, true), []);
    let resolved = vec![("no_data".to_owned(), Some(AlertStage::Resolved))];
    assert_eq!(world.look(2, None, false), resolved);
    assert_eq!(world.look(3, None, false), []);
    assert_eq!(world.look(4, None, true), raised("no_data"));
}

#[test]
fn the_end_of_a_key_is_told_30_14_7_and_1_day_before_and_once_each() {
    let mut world = World::new(vec![channel("mail", ChannelKind::Email, true)]);
    let ends = NOON.plus_seconds(90 * 86_400);
    let declared = crate::domain::Key { created_at: NOON, expires_at: Some(ends), ..key() };
    let changes = vec![Change::Key(KEY.into(), Some(declared))];
    world.ask(Request::Declare { actor: "file".into(), changes, openings: vec![], reason: None });
    let mut told = Vec::new();
    for hour in 0..=90 * 24 + 5 {
        world.at = NOON.plus_seconds(hour * 3_600);
        let evaluation = Evaluation { outlooks: vec![], keys: vec![KEY.into()] };
        for body in world.ask(Request::Evaluate(Box::new(evaluation))) {
            let Body::Alert(alert) = body else { panic!("{body:?}") };
            assert_eq!(alert.routes, [Route { channel: "mail".into(), owner: Some("team".into()) }]);
            told.push((90 * 24 - hour, alert.threshold.unwrap()));
        }
    }
    assert_eq!(told, [(30 * 24, 30), (14 * 24, 14), (7 * 24, 7), (24, 1)]);
    // After a time of silence only the nearest is told, and a key that lives a week is not announced at once.
    assert_eq!(due(NOON, NOON.plus_seconds(-80 * 86_400), NOON.plus_seconds(6 * 86_400)), Some(7));
    assert_eq!(due(NOON, NOON, NOON.plus_seconds(7 * 86_400)), None);
    assert_eq!(due(NOON.plus_seconds(6 * 86_400), NOON, NOON.plus_seconds(7 * 86_400)), Some(1));
}

fn one(outbox: &Outbox) -> (AlertId, Route) {
    outbox.waiting().next().map(|(key, _)| key.clone()).unwrap()
}

#[test]
fn what_was_delivered_is_gone_and_what_was_given_up_can_be_tried_again() {
    let mut world = World::new(vec![channel("chat", ChannelKind::Slack, true)]);
    world.budget(hard("b", "100"));
    world.look(0, Some(i128::MAX / 200), false);
    world.look(1, Some(i128::MAX / 200), false);
    let (id, route) = one(world.state.outbox());
    let step = |step| Delivery { route: route.clone(), alerts: vec![id], attempt: 3, ..Delivery::of(step) };
    let send = |world: &mut World, delivery: Delivery| {
        !world.ask(Request::Deliver { delivery: Box::new(delivery), reason: None }).is_empty()
    };
    let next_at = Some(NOON.plus_seconds(99));
    assert!(send(&mut world, Delivery { message: Some("m".into()), ..step(DeliveryStep::Sending) }));
    assert!(send(&mut world, Delivery { next_at, ..step(DeliveryStep::Failed) }));
    let waiting = world.state.outbox().get(id, &route).unwrap().clone();
    assert_eq!((waiting.attempts, Some(waiting.next_at), waiting.message.as_deref()), (3, next_at, Some("m")));
    assert!(!send(&mut world, step(DeliveryStep::Again)), "it is not given up");
    assert!(send(&mut world, step(DeliveryStep::Dead)));
    assert!(!send(&mut world, step(DeliveryStep::Delivered)), "nobody is sending it");
    assert_eq!((world.state.outbox().waiting().count(), world.state.outbox().dead().count()), (0, 1));
    assert!(send(&mut world, step(DeliveryStep::Again)));
    let waiting = world.state.outbox().get(id, &route).unwrap().clone();
    assert_eq!((waiting.attempts, waiting.next_at, waiting.message), (0, world.at, None));
    assert!(send(&mut world, step(DeliveryStep::Delivered)));
    assert!(!send(&mut world, step(DeliveryStep::Delivered)), "a second time it changes nothing");
    assert!(world.state.outbox().get(id, &route).is_none());
}

#[test]
fn an_alert_that_has_nowhere_to_go_says_so_and_one_of_an_earlier_version_is_not_told() {
    let mut world = World::new(vec![]);
    world.budget(hard("b", "100"));
    world.look(0, Some(i128::MAX / 200), false);
    world.at = NOON.plus_seconds(3_600);
    let period = world.state.period_of("b", world.at).unwrap();
    let limit = world.state.catalogue().budgets["b"].limit.amount;
    let outlook = BudgetOutlook { budget: "b".into(), period, used: 1, limit, foreseen: Some(limit), silent: false };
    let told = world.ask(Request::Evaluate(Box::new(Evaluation { outlooks: vec![outlook], keys: vec![] })));
    assert!(matches!(&told[..], [Body::Alert(alert)] if alert.unrouted && alert.routes.is_empty()), "{told:?}");
    let old = Alert { budget: "b".into(), period: "p".into(), kind: "denied".into(), ..Alert::default() };
    let entry = Entry { seq: world.state.next_seq(), ts: world.at, reference: None, body: Body::Alert(old) };
    world.state.apply(&entry).unwrap();
    assert_eq!(world.state.outbox().waiting().count(), 0);
}
