//! How long things take: first token and the pause between tokens, log-normal around the model's medians.

use std::time::Duration;

use super::Random;
use super::models::Model;

/// How fast the sandbox answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// At once: for tests.
    Fast,
    /// As vendors do, times this factor (1 = as they do).
    Real(f64),
}

/// The pauses of one answer.
pub struct Rhythm {
    random: Random,
    first: f64,
    token: f64,
}

impl Rhythm {
    pub fn new(pace: Pace, model: &Model, mut random: Random) -> Rhythm {
        let factor = match pace {
            Pace::Fast => 0.0,
            Pace::Real(factor) => factor,
        };
        let first = factor * random.log_normal(f64::from(model.first_token_ms) * 1_000.0, 0.45);
        Rhythm { first, token: factor * f64::from(model.token_us), random }
    }

    /// At least this long between tokens, for tests that need a stream to last.
    pub fn at_least(mut self, token_us: f64) -> Rhythm {
        self.token = self.token.max(token_us);
        self
    }

    /// Until the first token, thinking included.
    pub fn first(&mut self, reasoning: u64) -> Duration {
        micros(self.first + reasoning as f64 * self.token * 0.25)
    }

    /// Until the next token.
    pub fn later(&mut self) -> Duration {
        if self.token == 0.0 {
            return Duration::ZERO;
        }
        micros(self.random.log_normal(self.token, 0.35))
    }

    /// Until all of an answer that does not stream.
    pub fn whole(&mut self, output: u64) -> Duration {
        micros(self.first + output as f64 * self.token)
    }
}

fn micros(us: f64) -> Duration {
    Duration::from_micros(us.clamp(0.0, 60_000_000.0) as u64)
}
