//! When each user arrives. Fixed before the start: a slow answer never holds the next arrival back.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// How arrivals are spread over the time that they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Evenly, with jitter.
    #[default]
    Uniform,
    /// Half of them within the first sixteenth of the time, the rest ever more thinly.
    Stampede,
}

impl Arrivals {
    /// Each user's arrival after the start, ascending and below `within`; the same for the same seed.
    pub(crate) fn offsets(
        self,
        users: u32,
        within: Duration,
        seed: u64,
    ) -> impl Iterator<Item = Duration> + Send + use<> {
        let mut random = SmallRng::seed_from_u64(seed);
        // One user in each of as many equal slices: even, but never in step.
        let slice = 1.0 / f64::from(users.max(1));
        (0..users).map(move |number| {
            let place = (f64::from(number) + random.random::<f64>()) * slice;
            within.mul_f64(match self {
                Self::Uniform => place,
                Self::Stampede => place.powi(4),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

    fn offsets(arrivals: Arrivals, seed: u64) -> Vec<Duration> {
        arrivals.offsets(10_000, WITHIN, seed).collect()
    }

    #[test]
    fn all_arrive_in_order_and_within_the_time() {
        for arrivals in [Arrivals::Uniform, Arrivals::Stampede] {
            let offsets = offsets(arrivals, 7);
            assert_eq!(offsets.len(), 10_000);
            assert!(offsets.is_sorted());
            assert!(offsets.last().unwrap() <= &WITHIN);
        }
    }

    #[test]
    fn a_seed_fixes_every_arrival() {
        assert_eq!(offsets(Arrivals::Uniform, 7), offsets(Arrivals::Uniform, 7));
        assert_ne!(offsets(Arrivals::Uniform, 7), offsets(Arrivals::Uniform, 8));
    }

    #[test]
    fn uniform_is_even_to_the_millisecond_and_has_jitter() {
        let offsets = offsets(Arrivals::Uniform, 7);
        for ms in [100, 500, 1_500] {
            let before = offsets.iter().filter(|offset| **offset < Duration::from_millis(ms)).count();
            let even = usize::try_from(ms).unwrap() * 5;
            assert!(before.abs_diff(even) <= 1, "{before} within {ms} ms, not {even}");
        }
        let gaps: Vec<Duration> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_ne!(gaps.iter().min(), gaps.iter().max());
    }

    #[test]
    fn in_a_stampede_half_come_at_once() {
        let offsets = offsets(Arrivals::Stampede, 7);
        let at_once = offsets.iter().filter(|offset| **offset < WITHIN / 16).count();
        assert!(at_once.abs_diff(5_000) <= 1, "{at_once}");
    }
}
