//! Which calls the sample organisation made on a day: pure, and the same for the same seed.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::domain::Micros;
use crate::domain::time::SECOND;

use super::random::Random;
use super::workload::{Api, Choice, WORKLOADS, Workload};

/// How a planned call ends at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Completed,
    /// The provider answered with this status and no usage.
    Failed(u16),
    /// The caller hung up; what had passed was counted.
    Cancelled,
    /// The provider's stream broke off; what had passed was counted.
    Truncated,
}

/// A call as it will be asked for and answered.
#[derive(Clone, Debug)]
pub struct Planned {
    pub at: Micros,
    pub workload: &'static Workload,
    pub choice: Choice,
    pub workflow: Option<&'static str>,
    pub run: Option<String>,
    pub fate: Fate,
    pub stream: bool,
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub reasoning: u64,
    pub tool: Option<&'static str>,
    pub first_ms: u32,
    pub total_ms: u32,
    /// A retry of the call planned just before it.
    pub retry: bool,
    /// Decides ids and addresses.
    pub seed: u64,
}

/// The day an agent ran away: how many days before the last one, and its hours.
pub const INCIDENT_DAYS_AGO: i64 = 14;
const INCIDENT_SERVICE: &str = "returns-agent";

/// What a plan is made of.
#[derive(Clone, Debug)]
pub struct Calendar {
    pub seed: u64,
    pub zone: TimeZone,
    /// The day the history ends on.
    pub last: Date,
    pub days: i64,
}

impl Calendar {
    /// The calls of the day `days_ago` days before the last, by time.
    pub fn day(&self, days_ago: i64) -> Vec<Planned> {
        let date = self.last.saturating_sub(jiff::Span::new().days(days_ago));
        let mut calls = Vec::new();
        for (index, workload) in WORKLOADS.iter().enumerate() {
            let mut random = Random::fork(self.seed, &format!("{date}/{index}"));
            let age = days_ago as f64 / 30.0;
            let growth = (1.0 + workload.growth * (1.0 - age)) / (1.0 + workload.growth);
            for hour in 0..24 {
                self.hour(&mut random, workload, date, hour, growth.max(0.1), &mut calls);
            }
        }
        if days_ago == INCIDENT_DAYS_AGO.min(self.days / 2) {
            self.incident(date, &mut calls);
        }
        calls.sort_by_key(|call| call.at);
        calls
    }

    fn hour(
        &self,
        random: &mut Random,
        workload: &'static Workload,
        date: Date,
        hour: i8,
        growth: f64,
        calls: &mut Vec<Planned>,
    ) {
        let days_left = date.days_in_month() - date.day();
        let weekday = date.weekday().to_monday_one_offset();
        let busy = workload.rhythm.busy(weekday, hour, date.day(), days_left);
        let runs = random.poisson(workload.calls_per_hour * busy * growth / workload.steps as f64);
        for _ in 0..runs {
            let start = self.instant(date, hour, random.below(3_600));
            let steps = if workload.steps == 1 { 1 } else { random.between(1, workload.steps * 2 - 1) };
            run(random, workload, start, steps, 1.0, calls);
        }
    }

    /// A run that asks the same thing again and again, its context growing, from two to half past four.
    fn incident(&self, date: Date, calls: &mut Vec<Planned>) {
        let Some(workload) = WORKLOADS.iter().find(|w| w.service == INCIDENT_SERVICE) else { return };
        let mut random = Random::fork(self.seed, "incident");
        let run_id = format!("return-{}", random.between(80_000, 89_999));
        let mut at = self.instant(date, 14, 120);
        let end = self.instant(date, 16, 1_800);
        let mut step = 0;
        while at < end {
            let context = 1.0 + (f64::from(step) / 60.0).min(9.0);
            let mut call = planned(&mut random, workload, at, context);
            call.run = Some(run_id.clone());
            call.workflow = workload.workflows.first().copied();
            call.tool = Some("carrier_status");
            at = Micros(at.0 + i64::from(call.total_ms) * 1_000 + random.between(200_000, 2_000_000) as i64);
            calls.push(call);
            step += 1;
        }
    }

    fn instant(&self, date: Date, hour: i8, second: u64) -> Micros {
        let civil = date.at(hour, 0, 0, 0);
        let start = self.zone.to_ambiguous_timestamp(civil).compatible().unwrap_or_default();
        Micros::from_timestamp(start).plus_seconds(second as i64)
    }
}

/// One run: several calls one after the other, the context growing with each.
fn run(
    random: &mut Random,
    workload: &'static Workload,
    start: Micros,
    steps: u64,
    context: f64,
    calls: &mut Vec<Planned>,
) {
    let workflow = (!workload.workflows.is_empty()).then(|| *random.pick(workload.workflows));
    let run_id = (workload.steps > 1).then(|| format!("{}-{}", workflow.unwrap_or("run"), random.token(8)));
    let mut at = start.0 + random.below(SECOND as u64) as i64;
    for step in 0..steps {
        let mut call = planned(random, workload, Micros(at), context * (1.0 + step as f64 * 0.12));
        call.workflow = workflow;
        call.run.clone_from(&run_id);
        at += i64::from(call.total_ms) * 1_000 + random.between(100_000, 4_000_000) as i64;
        let again = matches!(call.fate, Fate::Failed(429 | 500 | 529)).then(|| Planned {
            at: Micros(at),
            fate: Fate::Completed,
            total_ms: call.first_ms * 4 + 200,
            retry: true,
            seed: random.draw(),
            ..call.clone()
        });
        calls.push(call);
        calls.extend(again);
    }
}

fn planned(random: &mut Random, workload: &'static Workload, at: Micros, context: f64) -> Planned {
    let weights: Vec<f64> = workload.choices.iter().map(|choice| choice.weight).collect();
    let choice = workload.choices[random.weighted(&weights)];
    let embeds = choice.api == Api::Embeddings;
    let model = super::sandbox::models::find(choice.model);
    let input = (random.log_normal(workload.input * context, 0.5) as u64).clamp(20, 180_000);
    let cached = if input > 1_024 && random.chance(0.8) { input as f64 * workload.cached / 128.0 } else { 0.0 };
    let reasons = model.is_some_and(|m| m.reasoning) && !embeds;
    let reasoning = if reasons { random.log_normal(250.0, 0.7) as u64 / 64 * 64 } else { 0 };
    let visible = if embeds { 0 } else { (random.log_normal(workload.output, 0.6) as u64).clamp(5, 8_000) };
    let fate = fate(random);
    let (first, token) = model.map_or((400, 10_000), |m| (m.first_token_ms, m.token_us));
    let first_ms = random.log_normal(f64::from(first), 0.4) as u32 + 20;
    let total_ms = match fate {
        Fate::Failed(_) => first_ms / 2 + 30,
        _ => first_ms + ((visible + reasoning / 4) as f64 * f64::from(token) / 1_000.0) as u32,
    };
    let tool = (!workload.tools.is_empty() && random.chance(0.6)).then(|| *random.pick(workload.tools));
    Planned {
        at,
        workload,
        choice,
        workflow: None,
        run: None,
        fate,
        stream: !embeds && (random.chance(workload.stream) || matches!(fate, Fate::Cancelled | Fate::Truncated)),
        input,
        cached: cached as u64 * 128,
        output: visible + reasoning,
        reasoning,
        tool,
        first_ms,
        total_ms,
        retry: false,
        seed: random.draw(),
    }
}

fn fate(random: &mut Random) -> Fate {
    match random.weighted(&[0.968, 0.012, 0.004, 0.003, 0.010, 0.003]) {
        1 => Fate::Failed(429),
        2 => Fate::Failed(500),
        3 => Fate::Failed(529),
        4 => Fate::Cancelled,
        5 => Fate::Truncated,
        _ => Fate::Completed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(seed: u64) -> Calendar {
        let last = jiff::civil::date(2026, 11, 23);
        Calendar { seed, zone: TimeZone::get("Europe/Berlin").unwrap(), last, days: 30 }
    }

    #[test]
    fn the_same_seed_plans_the_same_day() {
        let digest = |seed| calendar(seed).day(3).iter().map(|c| (c.at, c.input, c.seed)).collect::<Vec<_>>();
        assert_eq!(digest(7), digest(7));
        assert_ne!(digest(7), digest(8));
    }

    #[test]
    fn a_weekday_has_one_to_two_thousand_calls_and_a_sunday_far_fewer() {
        let calendar = calendar(1);
        let (friday, sunday) = (calendar.day(3).len(), calendar.day(1).len());
        assert!((1_000..2_200).contains(&friday), "friday {friday}");
        assert!(sunday * 2 < friday && sunday > 150, "sunday {sunday}, friday {friday}");
    }

    #[test]
    fn the_runaway_agent_stands_out_two_weeks_ago() {
        let calendar = calendar(1);
        let count = |ago| calendar.day(ago).iter().filter(|c| c.workload.service == INCIDENT_SERVICE).count();
        assert!(count(INCIDENT_DAYS_AGO) > count(INCIDENT_DAYS_AGO - 7) * 3);
    }

    #[test]
    fn days_follow_the_zone_and_calls_come_in_order() {
        let calls = calendar(1).day(0);
        assert!(calls.is_sorted_by_key(|c| c.at));
        assert!(calls[0].at >= "2026-11-22T23:00:00Z".parse().unwrap());
        assert!(calls.iter().all(|c| c.cached <= c.input && c.reasoning <= c.output));
    }
}
