//! Latencies: recorded in microseconds, shown in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in µs: ten minutes.
const LONGEST_US: u64 = 600_000_000;
/// Three digits of every value are kept.
const DIGITS: u8 = 3;

/// A distribution of latencies, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Latencies as they come in.
pub(crate) struct Recorder(Option<Histogram<u64>>);

impl Default for Recorder {
    fn default() -> Self {
        // These bounds are never refused; if they were, a summary without counts would show it.
        Self(Histogram::new_with_bounds(1, LONGEST_US, DIGITS).ok())
    }
}

impl Recorder {
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(us);
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Summary::default();
        };
        let at = |quantile| in_ms(histogram.value_at_quantile(quantile));
        Summary {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: in_ms(histogram.max()),
        }
    }
}

fn in_ms(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut recorder = Recorder::default();
        for ms in 1..=1_000 {
            recorder.record(Duration::from_millis(ms));
        }
        let summary = recorder.summary();
        assert_eq!(summary.count, 1_000);
        for (shown, exact) in [(summary.p50_ms, 500.0), (summary.p99_ms, 990.0), (summary.max_ms, 1_000.0)] {
            assert!((shown - exact).abs() <= exact / 500.0, "{shown} is not {exact}");
        }
    }

    #[test]
    fn nothing_recorded_is_all_zero_and_too_long_is_the_longest() {
        assert_eq!(Recorder::default().summary(), Summary::default());
        let mut recorder = Recorder::default();
        recorder.record(Duration::from_secs(100_000));
        assert!(recorder.summary().max_ms >= 600_000.0);
    }
}
