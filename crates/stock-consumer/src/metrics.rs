//! What the service measures.

use coupon_domain::outcome::{INVALID, InvalidReason};
use coupon_domain::{ClaimCode, CommandCode, CouponId, CouponState, HaltReason, Partition};
use infrastructure_kafka::KafkaMetrics;
use infrastructure_redis::RedisMetrics;
use infrastructure_redis::metrics::{PING, WRITE_VIEW};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use service_runtime::metrics::PostgresRequests;
use service_runtime::{Metrics, catalogue, metrics};

/// What is asked of PostgreSQL.
pub(crate) const LOAD_CHECKPOINT: &str = "load_checkpoint";

/// Coupons beyond the limit count together under this name.
const OTHER: &str = "_other";

/// The service's collectors.
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    pub(crate) redis: RedisMetrics,
    pub(crate) postgres: PostgresRequests,
    pub(crate) batch_records: Histogram,
    pub(crate) drain_seconds: Histogram,
    pub(crate) fold_seconds: Histogram,
    pub(crate) publish_seconds: Histogram,
    pub(crate) view_seconds: Histogram,
    pub(crate) claim_to_decided_seconds: Histogram,
    pub(crate) view_deltas: IntCounter,
    pub(crate) view_pushes: IntCounter,
    pub(crate) view_buckets: IntCounter,
    redis_evicts: IntGauge,
    pub(crate) dead_letters: IntCounterVec,
    decisions: IntCounterVec,
    halted: IntGaugeVec,
    watermark: IntGaugeVec,
    stock_quantity: IntGaugeVec,
    stock_issued: IntGaugeVec,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let batch_seconds = metrics.histograms(&catalogue::BATCH_SECONDS);
        let refreshes = metrics.counters(&catalogue::VIEW_REFRESHES_TOTAL);
        let decisions = metrics.counters(&catalogue::DECISIONS_TOTAL);
        let claims = ClaimCode::ALL.map(ClaimCode::as_str);
        let commands = CommandCode::ALL.map(CommandCode::as_str);
        for code in claims.into_iter().chain(commands).chain([INVALID]) {
            for repeat in ["true", "false"] {
                decisions.with_label_values(&[code, repeat]).inc_by(0);
            }
        }
        Self {
            kafka: metrics::kafka(metrics, &up),
            redis: metrics::redis(metrics, &up, &[WRITE_VIEW, PING]),
            postgres: PostgresRequests::new(metrics, &up, &[LOAD_CHECKPOINT, metrics::PING]),
            batch_records: metrics.histogram(&catalogue::BATCH_RECORDS),
            drain_seconds: batch_seconds.with_label_values(&["drain"]),
            fold_seconds: batch_seconds.with_label_values(&["fold"]),
            publish_seconds: batch_seconds.with_label_values(&["publish"]),
            view_seconds: batch_seconds.with_label_values(&["view"]),
            claim_to_decided_seconds: metrics.histogram(&catalogue::CLAIM_TO_DECIDED_SECONDS),
            view_deltas: refreshes.with_label_values(&["delta"]),
            view_pushes: refreshes.with_label_values(&["full"]),
            view_buckets: refreshes.with_label_values(&["bucket"]),
            redis_evicts: metrics.int_gauge(&catalogue::REDIS_EVICTS),
            dead_letters: metrics.counters(&catalogue::DLQ_RECORDS_TOTAL),
            halted: metrics.int_gauges(&catalogue::PARTITION_HALTED),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
            stock_quantity: metrics.int_gauges(&catalogue::STOCK_QUANTITY),
            stock_issued: metrics.int_gauges(&catalogue::STOCK_ISSUED),
            decisions,
        }
    }

    /// These topics are produced to, and what cannot be read stands in `claims_topic`: their series begin.
    pub(crate) fn topics(&self, claims_topic: &str, produced: &[&str]) {
        for topic in produced {
            self.kafka.produces(topic);
        }
        for reason in InvalidReason::ALL {
            self.dead_letters.with_label_values(&[claims_topic, reason.as_str()]).inc_by(0);
        }
    }

    pub(crate) fn decided(&self, code: &str, is_new: bool) {
        let repeat = if is_new { "false" } else { "true" };
        self.decisions.with_label_values(&[code, repeat]).inc();
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

    pub(crate) fn watermark(&self, store: &str, partition: Partition, next_src: i64) {
        self.watermark.with_label_values(&[store, partition.to_string().as_str()]).set(next_src);
    }

    /// Whether Redis may throw keys of the view away.
    pub(crate) fn redis_evicts(&self, evicts: bool) {
        self.redis_evicts.set(i64::from(evicts));
    }

    /// Forgets the series of a partition that is no longer ours.
    pub(crate) fn revoked(&self, partition: Partition) {
        let partition = partition.to_string();
        for reason in HaltReason::ALL {
            drop(self.halted.remove_label_values(&[partition.as_str(), reason.as_str()]));
        }
        for store in ["outcomes", "redis"] {
            drop(self.watermark.remove_label_values(&[store, partition.as_str()]));
        }
    }

    /// Shows the stock of a coupon in series of its own.
    pub(crate) fn stock_of(&self, coupon: &CouponState) {
        let id = coupon.coupon_id.to_string();
        self.stock_quantity.with_label_values(&[id.as_str()]).set(coupon.quantity.into());
        self.stock_issued.with_label_values(&[id.as_str()]).set(coupon.issued.into());
    }

    /// Shows in the sum of all others, of all partitions, what a coupon was and what it is.
    pub(crate) fn stock_of_others(&self, before: Option<&CouponState>, now: Option<&CouponState>) {
        let change = |of: fn(&CouponState) -> u32| {
            let of = |state: Option<&CouponState>| state.map_or(0, |state| i64::from(of(state)));
            of(now) - of(before)
        };
        self.stock_quantity.with_label_values(&[OTHER]).add(change(|state| state.quantity));
        self.stock_issued.with_label_values(&[OTHER]).add(change(|state| state.issued));
    }

    /// Forgets the stock of a coupon that is closed or no longer ours.
    pub(crate) fn forget_stock(&self, coupon_id: CouponId) {
        let id = coupon_id.to_string();
        drop(self.stock_quantity.remove_label_values(&[id.as_str()]));
        drop(self.stock_issued.remove_label_values(&[id.as_str()]));
    }
}
