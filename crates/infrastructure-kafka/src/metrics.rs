//! What this crate measures. The collectors are made and registered by whoever owns the process's metrics.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

/// Collectors that clients of this crate fill.
#[derive(Clone, Debug)]
pub struct KafkaMetrics {
    /// Seconds from producing to the delivery report, by `topic` and `result` (acked, refused, unknown).
    pub delivery_seconds: HistogramVec,
    /// Seconds of brokers' round trips in librdkafka's last statistics, by `broker` and `quantile` (p50, p99).
    pub broker_rtt_seconds: GaugeVec,
    /// Errors in librdkafka's statistics, by `broker` and `kind` (tx, rx, timeout, retry).
    pub broker_errors_total: IntCounterVec,
    /// Partitions that this member holds, by `group` and `topic`.
    pub assigned_partitions: IntGaugeVec,
    /// Rebalances that this member took part in, by `group`.
    pub rebalances_total: IntCounterVec,
    /// 1 while at least one broker is connected.
    pub up: IntGauge,
}

impl KafkaMetrics {
    /// This topic will be produced to: its series begin.
    pub fn produces(&self, topic: &str) {
        for result in ["acked", "refused", "unknown"] {
            drop(self.delivery_seconds.with_label_values(&[topic, result]));
        }
    }
}
