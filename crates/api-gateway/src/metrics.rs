//! What the service measures.

use actix_web::http::StatusCode;
use infrastructure_http::Code;
use infrastructure_kafka::KafkaMetrics;
use infrastructure_redis::RedisMetrics;
use infrastructure_redis::metrics::{PING, PREFILTER};
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use service_runtime::metrics::PostgresRequests;
use service_runtime::{Metrics, catalogue, metrics};

/// What is asked of PostgreSQL.
const POSTGRES_OPERATIONS: [&str; 14] = [
    "claim_standings",
    "count_claims",
    "find_command",
    "note_command",
    "find_coupon",
    "find_draft",
    "insert_draft",
    "list_coupons",
    "list_events",
    "list_wallet",
    "look_again",
    metrics::PING,
    "raise_beat",
    "redeem",
];

/// The service's collectors.
pub(crate) struct ServiceMetrics {
    pub(crate) kafka: KafkaMetrics,
    pub(crate) redis: RedisMetrics,
    pub(crate) request_seconds: HistogramVec,
    pub(crate) accepted: IntCounter,
    pub(crate) decided: IntCounter,
    pub(crate) prefilter_hit: Histogram,
    pub(crate) prefilter_miss: Histogram,
    pub(crate) prefilter_timeout: Histogram,
    pub(crate) prefilter_error: Histogram,
    pub(crate) broker_clock_offset_seconds: Gauge,
    pub(crate) watermark: IntGaugeVec,
    pub(crate) redemptions_closed: IntGauge,
    pub(crate) postgres: PostgresRequests,
    claims: IntCounterVec,
    redemptions: IntCounterVec,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let up = metrics.int_gauges(&catalogue::DEPENDENCY_UP);
        let claims = metrics.counters(&catalogue::CLAIMS_TOTAL);
        for refusal in REFUSALS {
            claims.with_label_values(&[result_of(refusal)]).inc_by(0);
        }
        let redemptions = metrics.counters(&catalogue::REDEMPTIONS_TOTAL);
        for result in ["redeemed", "repeated"].into_iter().chain(OBSTACLES.map(obstacle)) {
            redemptions.with_label_values(&[result]).inc_by(0);
        }
        let prefilter = metrics.histograms(&catalogue::PREFILTER_SECONDS);
        Self {
            kafka: metrics::kafka(metrics, &up),
            redis: metrics::redis(metrics, &up, &[PREFILTER, PING]),
            request_seconds: metrics.histograms(&catalogue::HTTP_REQUEST_SECONDS),
            accepted: claims.with_label_values(&["accepted"]),
            decided: claims.with_label_values(&["decided"]),
            prefilter_hit: prefilter.with_label_values(&["hit"]),
            prefilter_miss: prefilter.with_label_values(&["miss"]),
            prefilter_timeout: prefilter.with_label_values(&["timeout"]),
            prefilter_error: prefilter.with_label_values(&["error"]),
            broker_clock_offset_seconds: metrics.gauge(&catalogue::BROKER_CLOCK_OFFSET_SECONDS),
            watermark: metrics.int_gauges(&catalogue::WATERMARK_OFFSET),
            postgres: PostgresRequests::new(metrics, &up, &POSTGRES_OPERATIONS),
            redemptions_closed: metrics.int_gauge(&catalogue::REDEMPTIONS_CLOSED),
            claims,
            redemptions,
        }
    }

    /// A POST of a claim was answered with a problem.
    pub(crate) fn refused(&self, code: Code) {
        self.claims.with_label_values(&[result_of(code)]).inc();
    }

    /// A POST of a redemption was answered.
    pub(crate) fn redemption(&self, answer: Result<StatusCode, Code>) {
        let result = match answer {
            Ok(StatusCode::CREATED) => "redeemed",
            Ok(_) => "repeated",
            Err(code) => obstacle(code),
        };
        self.redemptions.with_label_values(&[result]).inc();
    }
}

const REFUSALS: [Code; 11] = [
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::UnknownCoupon,
    Code::NotOpen,
    Code::Paused,
    Code::SoldOut,
    Code::Closed,
    Code::RateLimited,
    Code::Overloaded,
    Code::InDoubt,
    Code::LogMismatch,
];

/// The catalogue's word for a refusal.
fn result_of(code: Code) -> &'static str {
    match code {
        Code::InvalidRequest => "invalid",
        Code::InDoubt => "doubt",
        Code::NotAccepted => "overloaded",
        other => other.as_str(),
    }
}

const OBSTACLES: [Code; 10] = [
    Code::AlreadyUsed,
    Code::Expired,
    Code::IdempotencyKeyReused,
    Code::NotFound,
    Code::StoreRestored,
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::RateLimited,
    Code::Overloaded,
    Code::Unavailable,
];

/// The catalogue's word for a redemption that was not made.
fn obstacle(code: Code) -> &'static str {
    match code {
        Code::InvalidRequest | Code::PayloadTooLarge => "invalid",
        Code::IdempotencyKeyReused => "key_reused",
        other => other.as_str(),
    }
}
