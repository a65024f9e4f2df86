//! What the service measures.

use coupon_domain::{HaltReason, Partition};
use infrastructure_http::listener;
use infrastructure_kafka::KafkaMetrics;
use infrastructure_redis::RedisMetrics;
use infrastructure_redis::metrics::{GET_CLAIM, PING};
use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGaugeVec};
use service_runtime::metrics::PostgresRequests;
use service_runtime::{Metrics, catalogue, metrics};

use crate::openapi;

/// What is asked of PostgreSQL.
pub(crate) const LOOK_UP_CLAIM: &str = "look_up_claim";

/// The events of a stream.
pub(crate) const EVENTS: [&str; 5] = ["position", "decided", "waiting", "persisted", "end"];

/// How streams end.
const STREAM_ENDS: [&str; 5] = ["end", "client", "shutdown", "aged", "replaced"];

/// The service's collectors.
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    pub(crate) redis: RedisMetrics,
    pub(crate) request_seconds: HistogramVec,
    pub(crate) told_by_stream_seconds: Histogram,
    pub(crate) told_by_wait_seconds: Histogram,
    pub(crate) postgres: PostgresRequests,
    stream_seconds: HistogramVec,
    events: IntCounterVec,
    halted: IntGaugeVec,
    watermark: IntGaugeVec,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let told = metrics.histograms(&catalogue::CLAIM_TO_TOLD_SECONDS);
        let events = metrics.counters(&catalogue::SSE_EVENTS_TOTAL);
        for event in EVENTS {
            for result in ["sent", "dropped"] {
                events.with_label_values(&[event, result]).inc_by(0);
            }
        }
        let stream_seconds = metrics.histograms(&catalogue::SSE_STREAM_SECONDS);
        for reason in STREAM_ENDS {
            drop(stream_seconds.with_label_values(&[reason]));
        }
        let request_seconds = metrics.histograms(&catalogue::HTTP_REQUEST_SECONDS);
        listener::serves(&request_seconds, openapi::claims().paths());
        Self {
            kafka: metrics::kafka(metrics, &up),
            redis: metrics::redis(metrics, &up, &[GET_CLAIM, PING]),
            request_seconds,
            told_by_stream_seconds: told.with_label_values(&["sse"]),
            told_by_wait_seconds: told.with_label_values(&["wait"]),
            postgres: PostgresRequests::new(metrics, &up, &[LOOK_UP_CLAIM, metrics::PING]),
            stream_seconds,
            halted: metrics.int_gauges(&catalogue::PARTITION_HALTED),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
            events,
        }
    }

    pub(crate) fn event(&self, event: &str) {
        self.events.with_label_values(&[event, "sent"]).inc();
    }

    pub(crate) fn event_dropped(&self, event: &str) {
        self.events.with_label_values(&[event, "dropped"]).inc();
    }

    pub(crate) fn stream_ended(&self, reason: &str, seconds: f64) {
        self.stream_seconds.with_label_values(&[reason]).observe(seconds);
    }

    /// Shows that a partition's tail does not stand still for any reason.
    pub(crate) fn tailing(&self, partition: Partition) {
        for reason in HaltReason::ALL {
            self.lifted(partition, reason);
        }
    }

    pub(crate) fn halted(&self, partition: Partition, reason: HaltReason) {
        self.halted.with_label_values(&[partition.to_string().as_str(), reason.as_str()]).set(1);
    }

    pub(crate) fn lifted(&self, partition: Partition, reason: HaltReason) {
        self.halted.with_label_values(&[partition.to_string().as_str(), reason.as_str()]).set(0);
    }

    pub(crate) fn watermark(&self, partition: Partition, next_src: i64) {
        self.watermark.with_label_values(&[crate::NAME, partition.to_string().as_str()]).set(next_src);
    }
}
