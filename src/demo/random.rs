//! A small seeded generator: the demo must show the same organisation, day by day, for the same seed.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): not for secrets, which never come from here in anything but the demo itself.

/// A stream of numbers that its seed alone decides.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A generator of its own for one purpose, so that drawing more for one thing does not change another.
    pub fn fork(seed: u64, purpose: &str) -> Random {
        Random(seed ^ fnv(purpose.as_bytes()))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 where the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Evenly in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    /// An index of `weights`, as likely as its weight.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// Log-normal: the shape of latencies, prompt lengths and answer lengths.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        median * (sigma * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()).exp()
    }

    /// A count of events with this mean.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 30.0 {
            let spread = self.log_normal(1.0, 1.0 / mean.sqrt());
            return (mean * spread).round() as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// Fills bytes; the shape `Secret::generate` asks for.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = self.draw().to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }

    /// Lower-case letters and digits, as vendors' ids have them.
    pub fn token(&mut self, length: usize) -> String {
        const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        (0..length).map(|_| *self.pick(ALPHABET) as char).collect()
    }
}

/// FNV-1a of 64 bits: names and prefixes to numbers, the same in every build.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, b| fnv_step(hash, *b))
}

/// One more byte.
pub fn fnv_step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_others() {
        let draw = |seed| (0..50).map(move |_| seed).scan(Random::new(seed), |r, _| Some(r.draw())).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn counts_and_lengths_have_the_mean_and_median_asked_for() {
        let mut random = Random::new(1);
        for mean in [0.3, 4.0, 80.0] {
            let sum: u64 = (0..4000).map(|_| random.poisson(mean)).sum();
            let found = sum as f64 / 4000.0;
            assert!((found - mean).abs() < mean * 0.1 + 0.03, "mean {mean}, found {found}");
        }
        let mut values: Vec<f64> = (0..4001).map(|_| random.log_normal(300.0, 0.6)).collect();
        values.sort_by(f64::total_cmp);
        assert!((values[2000] - 300.0).abs() < 30.0, "median {}", values[2000]);
    }
}
