//! The catalogue of metrics: one row each, from which HELP texts and docs/metrics.md are made. Names start with `coupon_`, and every
//! series carries the constant label `service`.
//!
//! Labels are closed sets, created at boot so that a quiet one reads 0. Never a claim, a user, a path or an error's text.

/// Bucket bounds, by what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// Seconds of single requests: 0.5 ms to 10 s.
    Request,
    /// Seconds on a claim's way: 5 ms to 2 minutes.
    Journey,
    /// Records: 1 to 10,000.
    Records,
}

impl Buckets {
    /// The name in the documentation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Journey => "journey",
            Self::Records => "records",
        }
    }

    /// The upper bounds.
    #[must_use]
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Self::Request => {
                vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
            }
            Self::Journey => {
                vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
            }
            Self::Records => {
                vec![1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0]
            }
        }
    }
}

/// What kind of series it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram(Buckets),
}

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Without the prefix `coupon_`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Besides `service`.
    pub labels: &'static [&'static str],
    /// What it means, with its unit.
    pub help: &'static str,
    /// Who has it: G gateway, S stock-consumer, W db-writer, N notifier, R reconciler.
    pub services: &'static str,
}

/// The processes, by their letters in [`Metric::services`].
pub const SERVICES: [(char, &str); 5] = [
    ('G', "api-gateway"),
    ('S', "stock-consumer"),
    ('W', "db-writer"),
    ('N', "notifier"),
    ('R', "reconciler"),
];

impl Metric {
    /// True where the process of this name has it.
    #[must_use]
    pub fn is_of(&self, service: &str) -> bool {
        SERVICES.iter().any(|(letter, name)| *name == service && self.services.contains(*letter))
    }
}

/// The catalogue as docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Made from the catalogue in `service-runtime`, which registers them; a test compares. Each process serves its own on `/metrics` of\n\
         `ops.listen`. Names start with `coupon_`, and every series has the label `service`; besides there are `process_*`. By: ",
    );
    let letters: Vec<String> = SERVICES.iter().map(|(letter, name)| format!("{letter} {name}")).collect();
    text.push_str(&letters.join(", "));
    text.push_str(".\n\nLabels are closed sets, created at boot so that a quiet one reads 0; what is named by partitions, brokers, routes or coupons comes and\n\
         goes with them. Buckets: ");
    let buckets = [Request, Journey, Records].map(|buckets| {
        let bounds: Vec<String> = buckets.bounds().iter().map(ToString::to_string).collect();
        format!("{} {}", buckets.as_str(), bounds.join(" "))
    });
    text.push_str(&buckets.join(" · "));
    text.push_str(".\n\n| name | type | labels | by | meaning |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let kind = match metric.kind {
            Counter => "counter".to_owned(),
            Gauge => "gauge".to_owned(),
            Histogram(buckets) => format!("histogram, {}", buckets.as_str()),
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `coupon_{}` | {kind} | {} | {} | {} |\n",
            metric.name,
            labels.join(", "),
            metric.services,
            metric.help
        ));
    }
    text
}

macro_rules! catalogue {
    ($($constant:ident = $name:literal $kind:expr, [$($label:literal),*], $services:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                help: $help,
                services: $services,
            };
        )*

        /// The whole catalogue.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

use Buckets::{Journey, Records, Request};
use Kind::{Counter, Gauge, Histogram};

catalogue! {
    BUILD_INFO = "build_info" Gauge, ["version"], "GSWNR", "1, with the release as label";
    KEY_INFO = "key_info" Gauge, ["key", "fingerprint"], "GWN", "1 for every key held, with a fingerprint that reveals nothing of it";
    AUTH_KEYS = "auth_keys" Gauge, ["of"], "GN", "Public keys of the issuer that count, of users and of operators where they have their own";
    AUTH_KEYS_TIMESTAMP_SECONDS = "auth_keys_timestamp_seconds" Gauge, ["of"], "GN", "When they were last read, in seconds since the epoch";
    AUTH_KEY_READINGS_TOTAL = "auth_key_readings_total" Counter, ["of", "result"], "GN", "Readings of the issuer's keys: read, failed (those that were read last stay)";
    READY = "ready" Gauge, [], "GSWNR", "1 while /readyz answers 200";
    START_TIMESTAMP_SECONDS = "start_timestamp_seconds" Gauge, [], "GSWNR", "When the process started, in seconds since the epoch";
    LOOP_TURN_TIMESTAMP_SECONDS = "loop_turn_timestamp_seconds" Gauge, ["loop"], "GSWNR", "When a loop last turned, in seconds since the epoch: what /livez reads";
    DEPENDENCY_UP = "dependency_up" Gauge, ["dependency"], "GSWNR", "1 where the dependency (kafka, redis, postgres) answered last time";
    QUEUE_DEPTH = "queue_depth" Gauge, ["queue"], "GSWN", "What is waiting in a bounded queue; of queues by partition, in the fullest";
    QUEUE_LIMIT = "queue_limit" Gauge, ["queue"], "GSWN", "How much may wait in it";
    LIMIT_HITS_TOTAL = "limit_hits_total" Counter, ["limit"], "GSWN", "Requests answered 429 or 503, and work held back, because of a named limit";
    KAFKA_DELIVERY_SECONDS = "kafka_delivery_seconds" Histogram(Request), ["topic", "result"], "GSW", "From producing a record or a batch to its delivery report: acked, refused, unknown";
    KAFKA_BROKER_RTT_SECONDS = "kafka_broker_rtt_seconds" Gauge, ["broker", "quantile"], "GSWNR", "Round trips to a broker in librdkafka's last statistics: p50, p99";
    KAFKA_BROKER_ERRORS_TOTAL = "kafka_broker_errors_total" Counter, ["broker", "kind"], "GSWNR", "Errors in librdkafka's statistics: tx, rx, timeout, retry";
    KAFKA_ASSIGNED_PARTITIONS = "kafka_assigned_partitions" Gauge, ["group", "topic"], "SW", "Partitions that this member holds";
    TOPIC_SETTING_WRONG = "topic_setting_wrong" Gauge, ["topic", "setting"], "GSR", "1 while a topic is not kept as promises need it, as last looked at";
    KAFKA_REBALANCES_TOTAL = "kafka_rebalances_total" Counter, ["group"], "SW", "Rebalances that this member took part in";
    HTTP_REQUEST_SECONDS = "http_request_seconds" Histogram(Request), ["route", "status"], "GN", "Requests by route and class of status (2xx, 4xx, 429, 5xx), streams left out";
    CLAIMS_TOTAL = "claims_total" Counter, ["result"], "G", "POSTs of claims, each once: accepted, decided, a refusal's code, invalid, unauthorized, rate_limited, overloaded, or doubt (503 without an acknowledgement)";
    PREFILTER_SECONDS = "prefilter_seconds" Histogram(Request), ["result"], "G", "The look at the Redis view before a claim is appended: hit, miss, timeout, error";
    BROKER_CLOCK_OFFSET_SECONDS = "broker_clock_offset_seconds" Gauge, [], "G", "The broker's append time less our own clock";
    DECISIONS_TOTAL = "decisions_total" Counter, ["code", "repeat"], "S", "Records decided past the last word that was said; repeat: the answer was final before";
    BATCH_RECORDS = "batch_records" Histogram(Records), [], "SW", "Records in a batch";
    BATCH_SECONDS = "batch_seconds" Histogram(Request), ["step"], "SW", "Steps of a batch: drain, fold, publish, view, write";
    PARTITION_HALTED = "partition_halted" Gauge, ["partition", "reason"], "SWN", "1 while a partition stands still for this reason";
    VIEW_REFRESHES_TOTAL = "view_refreshes_total" Counter, ["kind"], "S", "Refreshes of a coupon's view: delta, full where it was lost or put back, bucket for each part that was lost alone";
    REDIS_EVICTS = "redis_evicts" Gauge, [], "S", "1 while Redis' maxmemory-policy is not noeviction: it may throw parts of the view away";
    STOCK_QUANTITY = "stock_quantity" Gauge, ["coupon_id"], "S", "How many of a coupon there are, from the fold";
    STOCK_ISSUED = "stock_issued" Gauge, ["coupon_id"], "S", "How many of a coupon are granted, from the fold";
    CLAIM_TO_DECIDED_SECONDS = "claim_to_decided_seconds" Histogram(Journey), [], "S", "From a claim's append time to the acknowledgement of its outcome";
    CLAIM_TO_PERSISTED_SECONDS = "claim_to_persisted_seconds" Histogram(Journey), [], "W", "From a claim's append time to the commit of its outcome";
    CLAIM_TO_TOLD_SECONDS = "claim_to_told_seconds" Histogram(Journey), ["channel"], "N", "From a claim's append time to telling a client that was already waiting: sse, wait";
    ROWS_WRITTEN_TOTAL = "rows_written_total" Counter, ["table"], "W", "Rows written";
    WRITER_SKIPS_TOTAL = "writer_skips_total" Counter, ["reason"], "W", "Outcomes skipped as copies (duplicate), and batches that found the watermark moved (conflict)";
    POSTGRES_SECONDS = "postgres_seconds" Histogram(Request), ["operation", "result"], "GSWN", "Requests to PostgreSQL: ok, timeout, error";
    REDIS_SECONDS = "redis_seconds" Histogram(Request), ["operation", "result"], "GSN", "Requests to Redis: ok, timeout, error";
    SSE_EVENTS_TOTAL = "sse_events_total" Counter, ["event", "result"], "N", "Events of streams (position, decided, waiting, persisted, end): sent, or dropped because the client had gone";
    SSE_STREAM_SECONDS = "sse_stream_seconds" Histogram(Journey), ["reason"], "N", "Life of a stream, by how it ended: end, client, shutdown";
    WATERMARK_OFFSET = "watermark_offset" Gauge, ["store", "partition"], "GSWNR", "The first claims offset that a store does not reflect yet: log (its end), outcomes, postgres, redis, gateway, notifier";
    REDEMPTIONS_TOTAL = "redemptions_total" Counter, ["result"], "G", "POSTs of redemptions, each once: redeemed, repeated, already_used, expired, key_reused, not_found, store_restored, invalid, unauthorized, rate_limited, overloaded, unavailable";
    REDEMPTIONS_CLOSED = "redemptions_closed" Gauge, [], "GW", "1 while redeeming is closed because PostgreSQL was put back in time or is used in two places, as last seen";
    LAG_CLAIMS = "lag_claims" Gauge, ["stage", "partition"], "R", "Records of the claims log that a stage has still to do, seen from outside: decide (no outcome yet), persist (decided, not in PostgreSQL), view (decided, not in the Redis view that is furthest behind)";
    LAG_SECONDS = "lag_seconds" Gauge, ["stage", "partition"], "R", "Age of the oldest of them by its append time; 0 where there is none";
    LEDGER_CLAIMS = "ledger_claims" Gauge, ["coupon_id", "state"], "R", "Distinct claims of coupons that are not closed, as the last pass counted them: accepted = granted + rejected + deferred + undecided + dead_lettered";
    INVARIANT_VIOLATIONS = "invariant_violations" Gauge, ["id"], "R", "Violations that the last pass found, by promise; promises that data cannot prove have no series";
    DLQ_DEPTH_RECORDS = "dlq_depth_records" Gauge, [], "R", "Dead letters that are open: neither redriven nor discarded";
    DLQ_OLDEST_SECONDS = "dlq_oldest_seconds" Gauge, [], "R", "How long the oldest open dead letter has been there; 0 where there is none";
    RECONCILE_PASSES_TOTAL = "reconcile_passes_total" Counter, ["span", "result"], "R", "Passes of the audit over the whole logs or the rest since the last one: clean, broken (violations were found), failed (a dependency did not answer)";
    RECONCILE_PASS_SECONDS = "reconcile_pass_seconds" Gauge, [], "R", "How long the last pass took";
    RECONCILE_TIMESTAMP_SECONDS = "reconcile_timestamp_seconds" Gauge, [], "R", "When the last pass that did not fail ended, in seconds since the epoch; 0 before";
    DLQ_RECORDS_TOTAL = "dlq_records_total" Counter, ["topic", "reason"], "S", "Copies written to the dead-letter queue";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_this_catalogue() {
        let (made, golden) = (markdown(), include_str!("../../../docs/metrics.md"));
        if made != golden {
            let found = std::env::temp_dir().join("metrics.md");
            std::fs::write(&found, &made).unwrap();
            panic!("docs/metrics.md is not the catalogue; that is in {}", found.display());
        }
    }

    #[test]
    fn each_process_has_rows_of_its_own() {
        assert!(BUILD_INFO.is_of("reconciler") && BUILD_INFO.is_of("api-gateway"));
        assert!(INVARIANT_VIOLATIONS.is_of("reconciler") && !INVARIANT_VIOLATIONS.is_of("notifier"));
        assert!(!BUILD_INFO.is_of("nobody"));
    }

    #[test]
    fn names_and_labels_are_well_formed_and_unique() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Counter, "{}", metric.name);
            assert!(metric.services.chars().all(|service| "GSWNR".contains(service)), "{}", metric.name);
            assert!(!metric.help.is_empty());
        }
    }
}
