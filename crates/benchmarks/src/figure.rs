//! What is measured, and what it is held against.

use serde::Serialize;

/// Which ratio is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wanted {
    /// At least this.
    pub ratio: f64,
    /// Whether it was reached.
    pub met: bool,
}

/// A figure and, where there is one, its reference from the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, which stays.
    pub name: String,
    /// What is counted, or the unit of time.
    pub unit: &'static str,
    /// The median of the measurements.
    pub value: f64,
    /// Each measurement, in the order of the run.
    pub measured: Vec<f64>,
    /// What it is held against, in words.
    pub against: Option<&'static str>,
    /// The median of the reference.
    pub reference: Option<f64>,
    /// Each measurement of the reference.
    pub reference_measured: Vec<f64>,
    /// `value` as a share of `reference`.
    pub ratio: Option<f64>,
    /// The share that is wanted.
    pub wanted: Option<Wanted>,
}

impl Figure {
    /// A figure that stands alone.
    pub(crate) fn alone(name: impl Into<String>, unit: &'static str, measured: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            value: median(&measured),
            measured,
            against: None,
            reference: None,
            reference_measured: Vec::new(),
            ratio: None,
            wanted: None,
        }
    }

    /// Holds it against what the same run measured without our code.
    pub(crate) fn against(self, what: &'static str, measured: &[f64], wanted: f64) -> Self {
        let reference = median(measured);
        let ratio = self.value / reference;
        Self {
            against: Some(what),
            reference: Some(reference),
            reference_measured: measured.to_vec(),
            ratio: Some(ratio),
            wanted: Some(Wanted { ratio: wanted, met: ratio >= wanted }),
            ..self
        }
    }

    /// False where a ratio is wanted and was not reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.wanted.is_none_or(|wanted| wanted.met)
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(measured: &[f64]) -> f64 {
    let mut sorted = measured.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2);
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2);
    match (lower, upper) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

/// So many in this time, per second.
pub(crate) fn per_second(count: u64, time: std::time::Duration) -> f64 {
    // Counts here are far below 2³²; a time of zero is a millisecond, the resolution of the log's clock.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let figure = Figure::alone("claims", "claims/s", vec![30.0, 10.0, 20.0]);
        assert_eq!(figure.value, 20.0);
        assert!(figure.is_met(), "nothing is wanted of a figure that stands alone");
        let against = figure.against("the bare route", &[50.0, 30.0], 0.5);
        assert_eq!((against.reference, against.ratio), (Some(40.0), Some(0.5)));
        assert!(against.is_met());
        let too_slow = Figure::alone("claims", "claims/s", vec![1.0]).against("the bare route", &[40.0], 0.5);
        assert!(!too_slow.is_met());
    }

    #[test]
    fn what_was_measured_in_no_time_took_a_millisecond() {
        assert_eq!(per_second(5, std::time::Duration::ZERO), 5_000.0);
        assert_eq!(per_second(5, std::time::Duration::from_secs(2)), 2.5);
    }
}
