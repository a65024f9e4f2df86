//! What the service measures.

use coupon_domain::{HaltReason, Partition};
use infrastructure_kafka::KafkaMetrics;
use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec};
use service_runtime::metrics::PostgresRequests;
use service_runtime::{Metrics, catalogue, metrics};

/// Connecting.
pub(crate) const OPEN: &str = "open";
/// Finding the partition's place, and whether the database was put back in time.
pub(crate) const LOAD_PROGRESS: &str = "load_progress";
/// The batch statement, or a command's transaction.
pub(crate) const WRITE_BATCH: &str = "write_batch";
/// Looking at the row while nothing happens.
pub(crate) const BEAT: &str = "beat";

/// The service's collectors.
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    pub(crate) postgres: PostgresRequests,
    pub(crate) batch_records: Histogram,
    pub(crate) drain_seconds: Histogram,
    pub(crate) write_seconds: Histogram,
    pub(crate) claim_to_persisted_seconds: Histogram,
    pub(crate) claims_written: IntCounter,
    pub(crate) coupons_written: IntCounter,
    pub(crate) commands_written: IntCounter,
    pub(crate) copies_skipped: IntCounter,
    pub(crate) conflicts: IntCounter,
    pub(crate) redemptions_closed: IntGauge,
    halted: IntGaugeVec,
    watermark: IntGaugeVec,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let batch_seconds = metrics.histograms(&catalogue::BATCH_SECONDS);
        let rows = metrics.counters(&catalogue::ROWS_WRITTEN_TOTAL);
        let skips = metrics.counters(&catalogue::WRITER_SKIPS_TOTAL);
        Self {
            kafka: metrics::kafka(metrics, &up),
            postgres: PostgresRequests::new(metrics, &up, &[OPEN, LOAD_PROGRESS, WRITE_BATCH, BEAT]),
            batch_records: metrics.histogram(&catalogue::BATCH_RECORDS),
            drain_seconds: batch_seconds.with_label_values(&["drain"]),
            write_seconds: batch_seconds.with_label_values(&["write"]),
            claim_to_persisted_seconds: metrics.histogram(&catalogue::CLAIM_TO_PERSISTED_SECONDS),
            claims_written: rows.with_label_values(&["claims"]),
            coupons_written: rows.with_label_values(&["issued_coupons"]),
            commands_written: rows.with_label_values(&["commands"]),
            copies_skipped: skips.with_label_values(&["duplicate"]),
            conflicts: skips.with_label_values(&["conflict"]),
            redemptions_closed: metrics.int_gauge(&catalogue::REDEMPTIONS_CLOSED),
            halted: metrics.int_gauges(&catalogue::PARTITION_HALTED),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
        }
    }

    /// Shows that a partition of ours does not stand still for any reason.
    pub(crate) fn assigned(&self, partition: Partition) {
        for reason in HaltReason::ALL {
            self.lifted(partition, reason);
        }
    }

    pub(crate) fn lifted(&self, partition: Partition, reason: HaltReason) {
        self.halted.with_label_values(&[partition.to_string().as_str(), reason.as_str()]).set(0);
    }

    pub(crate) fn halted(&self, partition: Partition, reason: HaltReason) {
        self.halted.with_label_values(&[partition.to_string().as_str(), reason.as_str()]).set(1);
    }

    pub(crate) fn persisted(&self, partition: Partition, next_src: i64) {
        self.watermark.with_label_values(&["postgres", partition.to_string().as_str()]).set(next_src);
    }

    /// Forgets the series of a partition that is no longer ours.
    pub(crate) fn revoked(&self, partition: Partition) {
        let partition = partition.to_string();
        for reason in HaltReason::ALL {
            drop(self.halted.remove_label_values(&[partition.as_str(), reason.as_str()]));
        }
        drop(self.watermark.remove_label_values(&["postgres", partition.as_str()]));
    }
}
