//! What this crate measures. The collectors are made and registered by whoever owns the process's metrics.

use prometheus::{HistogramVec, IntGauge};

/// Collectors that connections of this crate fill.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    /// Seconds of requests, by `operation` and `result` (ok, timeout, error).
    pub request_seconds: HistogramVec,
    /// 1 while Redis answered last time.
    pub up: IntGauge,
}
