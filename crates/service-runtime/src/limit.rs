//! Named limits of things that exist at once. Promise BOUNDED: beyond one the answer is 429 or 503, and the metrics show which.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::catalogue;
use crate::metrics::Metrics;

/// Makes limits, and the series that show them.
#[derive(Clone)]
pub struct Limits {
    depth: IntGaugeVec,
    limit: IntGaugeVec,
    hits: IntCounterVec,
}

impl Limits {
    /// The limits of a process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            depth: metrics.int_gauges(&catalogue::QUEUE_DEPTH),
            limit: metrics.int_gauges(&catalogue::QUEUE_LIMIT),
            hits: metrics.counters(&catalogue::LIMIT_HITS_TOTAL),
        }
    }

    /// A limit of `most` things at once.
    #[must_use]
    pub fn limit(&self, name: &str, most: u32) -> Limit {
        self.limit.with_label_values(&[name]).set(most.into());
        Limit {
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS))),
            depth: self.depth.with_label_values(&[name]),
            hits: self.hits.with_label_values(&[name]),
        }
    }

    /// Shows a queue that is bounded elsewhere.
    #[must_use]
    pub fn depth_of(&self, name: &str, most: u32) -> IntGauge {
        self.limit.with_label_values(&[name]).set(most.into());
        self.depth.with_label_values(&[name])
    }

    /// Counts what is held back by a limit that is kept elsewhere.
    #[must_use]
    pub fn hits_of(&self, name: &str) -> IntCounter {
        self.hits.with_label_values(&[name])
    }
}

/// A limit. Cheap to clone.
#[derive(Clone)]
pub struct Limit {
    places: Arc<Semaphore>,
    depth: IntGauge,
    hits: IntCounter,
}

impl Limit {
    /// A place, if one is left; it is given back when dropped.
    #[must_use]
    pub fn take(&self) -> Option<Place> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => {
                self.depth.inc();
                Some(Place { _permit: permit, depth: self.depth.clone() })
            }
            Err(_) => {
                self.hits.inc();
                None
            }
        }
    }
}

/// A place under a limit.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    depth: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.depth.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_there_is_no_place_until_one_is_given_back() {
        let metrics = Metrics::new("test");
        let limit = Limits::new(&metrics).limit("streams", 2);
        let (first, second) = (limit.take(), limit.take());
        assert!(first.is_some() && second.is_some() && limit.take().is_none());
        let text = metrics.text();
        assert!(text.contains(r#"coupon_queue_depth{queue="streams",service="test"} 2"#), "{text}");
        assert!(text.contains(r#"coupon_queue_limit{queue="streams",service="test"} 2"#), "{text}");
        assert!(text.contains(r#"coupon_limit_hits_total{limit="streams",service="test"} 1"#), "{text}");
        drop(first);
        assert!(limit.take().is_some());
    }
}
