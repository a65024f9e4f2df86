//! What the reconciler shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit::{ClaimLedger, Findings, Pass};
use coupon_domain::{CouponId, Timestamp};
use infrastructure_kafka::KafkaMetrics;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec};
use service_runtime::{Metrics, catalogue, metrics};

// What a pass came to.
const CLEAN: &str = "clean";
const BROKEN: &str = "broken";
const FAILED: &str = "failed";

/// Coupons beyond the limit count together under this name.
const OTHER: &str = "_other";

/// How much of the logs a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Everything from the first record on.
    Whole,
    /// What came since every store had come along.
    Rest,
}

impl Span {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Rest => "rest",
        }
    }
}

/// The service's collectors.
#[derive(Clone)]
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    redis_up: IntGauge,
    view_was_read: Arc<AtomicBool>,
    pub(crate) postgres_up: IntGauge,
    pub(crate) watermark: IntGaugeVec,
    pub(crate) lag_claims: IntGaugeVec,
    pub(crate) lag_seconds: GaugeVec,
    passes: IntCounterVec,
    pass_seconds: Gauge,
    ledger_claims: IntGaugeVec,
    violations: IntGaugeVec,
    dlq_depth_records: IntGauge,
    dlq_oldest_seconds: Gauge,
    reconcile_timestamp_seconds: Gauge,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let passes = metrics.counters(&catalogue::RECONCILE_PASSES_TOTAL);
        for span in [Span::Whole, Span::Rest] {
            for result in [CLEAN, BROKEN, FAILED] {
                passes.with_label_values(&[span.as_str(), result]).inc_by(0);
            }
        }
        let violations = metrics.int_gauges(&catalogue::INVARIANT_VIOLATIONS);
        for (id, count) in Findings::new(false).violations() {
            violations.with_label_values(&[id]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let ledger_claims = metrics.int_gauges(&catalogue::LEDGER_CLAIMS);
        for (state, _) in ClaimLedger::default().columns() {
            ledger_claims.with_label_values(&[OTHER, state]).set(0);
        }
        Self {
            kafka: metrics::kafka_reader(metrics, &up),
            redis_up: up.with_label_values(&["redis"]),
            view_was_read: Arc::new(AtomicBool::new(true)),
            postgres_up: up.with_label_values(&["postgres"]),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
            lag_claims: metrics.int_gauges(&catalogue::LAG_CLAIMS),
            lag_seconds: metrics.gauges(&catalogue::LAG_SECONDS),
            passes,
            pass_seconds: metrics.gauge(&catalogue::RECONCILE_PASS_SECONDS),
            ledger_claims,
            violations,
            dlq_depth_records: metrics.int_gauge(&catalogue::DLQ_DEPTH_RECORDS),
            dlq_oldest_seconds: metrics.gauge(&catalogue::DLQ_OLDEST_SECONDS),
            reconcile_timestamp_seconds: metrics.gauge(&catalogue::RECONCILE_TIMESTAMP_SECONDS),
        }
    }

    /// Redis answered or did not. One that answers and does not let passes read the view is lost all the same: nobody compares it.
    pub(crate) fn redis_answered(&self, answered: bool) {
        self.redis_up.set(i64::from(answered && self.view_was_read.load(Ordering::Relaxed)));
    }

    /// A pass read the view, or had to go without it.
    pub(crate) fn view_read(&self, was_read: bool) {
        self.view_was_read.store(was_read, Ordering::Relaxed);
    }

    /// Counts a pass that a dependency did not let be made.
    pub(crate) fn failed(&self, span: Span) {
        self.passes.with_label_values(&[span.as_str(), FAILED]).inc();
    }

    /// Shows what a pass came to; the ledgers of at most `coupons_max` coupons by name.
    pub(crate) fn passed(&self, pass: &Pass, span: Span, seconds: f64, now: Timestamp, coupons_max: usize) {
        for (id, count) in pass.findings.violations() {
            self.violations.with_label_values(&[id]).set(whole(count));
        }
        let result = if pass.findings.verdict().is_empty() { CLEAN } else { BROKEN };
        self.passes.with_label_values(&[span.as_str(), result]).inc();
        self.ledgers(&pass.live, &pass.of_coupon, coupons_max);
        let open = pass.dead_letters.letters.values().filter(|letter| letter.resolution.is_none());
        let parked: Vec<i64> = open.map(|letter| letter.parked_at_ms).collect();
        self.dlq_depth_records.set(i64::try_from(parked.len()).unwrap_or(i64::MAX));
        let oldest = parked.iter().min().map_or(0.0, |oldest| seconds_since(*oldest, now));
        self.dlq_oldest_seconds.set(oldest);
        self.pass_seconds.set(seconds);
        self.reconcile_timestamp_seconds.set(seconds_since(0, now));
    }

    fn ledgers(
        &self,
        live: &BTreeSet<CouponId>,
        of_coupon: &BTreeMap<CouponId, ClaimLedger>,
        coupons_max: usize,
    ) {
        // Coupons that have closed take their series along.
        self.ledger_claims.reset();
        let mut other = ClaimLedger::default();
        for (number, coupon_id) in live.iter().enumerate() {
            let ledger = of_coupon.get(coupon_id).copied().unwrap_or_default();
            if number < coupons_max {
                self.ledger(coupon_id.to_string().as_str(), ledger);
            } else {
                other += ledger;
            }
        }
        self.ledger(OTHER, other);
    }

    fn ledger(&self, name: &str, ledger: ClaimLedger) {
        for (state, count) in ledger.columns() {
            self.ledger_claims.with_label_values(&[name, state]).set(whole(count));
        }
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Seconds from a moment, in ms since the epoch, until now; none where it is still to come by this clock.
pub(crate) fn seconds_since(ms: i64, now: Timestamp) -> f64 {
    let age = u64::try_from(now.ms().saturating_sub(ms)).unwrap_or(0);
    std::time::Duration::from_millis(age).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coupon_domain::Partition;

    #[test]
    fn coupons_beyond_the_limit_count_together_and_closed_ones_go() {
        let metrics = Metrics::new("reconciler");
        let shown = ServiceMetrics::new(&metrics);
        let ids =
            [1, 2, 3].map(|number| CouponId::new(Partition::new(0).unwrap(), uuid::Uuid::from_u128(number)));
        let ledger = ClaimLedger { accepted: 2, granted: 1, rejected: 1, ..ClaimLedger::default() };
        let of_coupon: BTreeMap<_, _> = ids.iter().map(|id| (*id, ledger)).collect();
        let series = |name: &str, state: &str| {
            let prefix = format!(
                r#"coupon_ledger_claims{{coupon_id="{name}",service="reconciler",state="{state}"}} "#
            );
            metrics.text().lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
        };
        shown.ledgers(&ids.into(), &of_coupon, 1);
        assert_eq!(series(&ids[0].to_string(), "granted").as_deref(), Some("1"));
        assert_eq!(series(&ids[1].to_string(), "granted"), None);
        assert_eq!(series(OTHER, "accepted").as_deref(), Some("4"));
        shown.ledgers(&BTreeSet::new(), &of_coupon, 1);
        assert_eq!(series(&ids[0].to_string(), "granted"), None);
        assert_eq!(series(OTHER, "accepted").as_deref(), Some("0"));
    }
}
