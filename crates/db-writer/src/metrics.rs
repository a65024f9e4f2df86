//! What the service measures.

use coupon_domain::{HaltReason, Partition};
use infrastructure_kafka::KafkaMetrics;
use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec};
use service_runtime::{Metrics, catalogue, metrics};

/// The service's collectors.
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    pub(crate) postgres_up: IntGauge,
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
    statement_ok: Histogram,
    statement_error: Histogram,
    halted: IntGaugeVec,
    watermark: IntGaugeVec,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let batch_seconds = metrics.histograms(&catalogue::BATCH_SECONDS);
        let rows = metrics.counters(&catalogue::ROWS_WRITTEN_TOTAL);
        let skips = metrics.counters(&catalogue::WRITER_SKIPS_TOTAL);
        let statements = metrics.histograms(&catalogue::POSTGRES_SECONDS);
        Self {
            kafka: metrics::kafka(metrics, &up),
            postgres_up: up.with_label_values(&["postgres"]),
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
            statement_ok: statements.with_label_values(&["write_batch", "ok"]),
            statement_error: statements.with_label_values(&["write_batch", "error"]),
            halted: metrics.int_gauges(&catalogue::PARTITION_HALTED),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
        }
    }

    pub(crate) fn statement(&self, ok: bool, seconds: f64) {
        let histogram = if ok { &self.statement_ok } else { &self.statement_error };
        histogram.observe(seconds);
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
