//! What this crate measures. The collectors are made and registered by whoever owns the process's metrics.

use prometheus::{HistogramVec, IntGauge};

/// [`crate::ViewReader::prefilter`] in the metrics.
pub const PREFILTER: &str = "prefilter";
/// [`crate::ViewReader::claim`] in the metrics.
pub const GET_CLAIM: &str = "get_claim";
/// [`crate::ViewWriter::write`] in the metrics.
pub const WRITE_VIEW: &str = "write_view";

/// `ping` of [`crate::ViewReader`] and [`crate::ViewWriter`] in the metrics.
pub const PING: &str = "ping";

/// Collectors that connections of this crate fill.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    /// Seconds of requests, by `operation` and `result` (ok, timeout, error).
    pub request_seconds: HistogramVec,
    /// 1 while Redis answered last time.
    pub up: IntGauge,
}

impl RedisMetrics {
    /// This operation will be asked for: its series begin.
    pub fn asks(&self, operation: &str) {
        for result in ["ok", "timeout", "error"] {
            drop(self.request_seconds.with_label_values(&[operation, result]));
        }
    }
}
