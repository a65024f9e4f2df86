//! What all clients share: how they connect, what they log, and how their statistics become metrics.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::config::KafkaSection;
use crate::metrics::KafkaMetrics;
use crate::refusal::LastRefusal;

/// An error of a client, told apart by what can be done about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KafkaError {
    /// No answer in time, no broker, a broker in trouble: try again.
    #[error("Kafka did not answer: {0}")]
    Unreachable(String),
    /// The topic or partition does not exist (yet): `couponctl topics apply` makes it.
    #[error("topic {topic} partition {partition} does not exist: run `couponctl topics apply`")]
    Missing {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The client is beyond recovery: the process must end, and its restart is the recovery.
    #[error("the Kafka client cannot go on: {0}")]
    Fatal(String),
}

impl KafkaError {
    pub(crate) fn of(error: &ClientError, topic: &str, partition: i32) -> Self {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Self::Missing { topic: topic.to_owned(), partition },
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedForMessageFormat
                | RDKafkaErrorCode::UnsupportedVersion,
            ) => Self::Fatal(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// How to reach the brokers, as whom, and where measurements go.
#[derive(Clone)]
pub struct Connection {
    section: Arc<KafkaSection>,
    client_id: String,
    metrics: KafkaMetrics,
}

impl Connection {
    /// A connection for the service named `client_id`.
    #[must_use]
    pub fn new(section: KafkaSection, client_id: &str, metrics: KafkaMetrics) -> Self {
        Self { section: Arc::new(section), client_id: client_id.to_owned(), metrics }
    }

    /// The configuration it was made from.
    #[must_use]
    pub fn section(&self) -> &KafkaSection {
        &self.section
    }

    /// The collectors it fills.
    #[must_use]
    pub fn metrics(&self) -> &KafkaMetrics {
        &self.metrics
    }

    pub(crate) fn request_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.section.request_timeout_ms.into())
    }

    /// The settings that every client has.
    pub(crate) fn base(&self) -> ClientConfig {
        let section = &self.section;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &section.bootstrap_servers)
            .set("client.id", &self.client_id)
            .set("security.protocol", section.security_protocol.as_str())
            // 10 s by default: a broker that is back should be used within the deadline of a claim.
            .set("reconnect.backoff.max.ms", "2000")
            // 5 min by default: partitions that `couponctl topics apply` has added would have gateways that append to them, but nobody
            // who works on them.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // Half-open connections through load balancers would otherwise be noticed at the first request only.
            .set("socket.keepalive.enable", "true")
            // Events (and with them our metrics) are served whenever the client is polled.
            .set("statistics.interval.ms", section.statistics_interval_ms.to_string())
            // Topics are made by `couponctl topics apply`, never by a typing mistake.
            .set("allow.auto.create.topics", "false");
        config.set_log_level(RDKafkaLogLevel::Info);
        let optional = [
            // `probe`: where distributions keep their authorities. Where the OpenSSL that we run with looks by itself need not exist.
            (
                "ssl.ca.location",
                section
                    .security_protocol
                    .is_encrypted()
                    .then(|| path(section.ssl_ca_file.as_deref()).unwrap_or_else(|| "probe".to_owned())),
            ),
            ("ssl.certificate.location", path(section.ssl_certificate_file.as_deref())),
            ("ssl.key.location", path(section.ssl_key_file.as_deref())),
            // The default is GSSAPI, which this build does not have.
            ("sasl.mechanisms", section.sasl_mechanism.map(|mechanism| mechanism.as_str().to_owned())),
            ("sasl.username", section.sasl_username.clone()),
            ("sasl.password", section.sasl_password.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                config.set(key, value);
            }
        }
        config
    }

    pub(crate) fn observer(&self, purpose: &'static str) -> Observer {
        Observer {
            purpose,
            metrics: self.metrics.clone(),
            seen: Mutex::default(),
            refusal: LastRefusal::default(),
        }
    }
}

fn path(file: Option<&std::path::Path>) -> Option<String> {
    file.map(|file| file.display().to_string())
}

/// Receives what a client reports: log lines, global errors, statistics.
pub struct Observer {
    purpose: &'static str,
    metrics: KafkaMetrics,
    /// librdkafka counts from the start of a client; counters of a process outlive clients, so differences are added.
    seen: Mutex<HashMap<(String, &'static str), u64>>,
    refusal: LastRefusal,
}

impl Observer {
    pub(crate) fn refusal(&self) -> &LastRefusal {
        &self.refusal
    }

    fn count(&self, broker: &str, kind: &'static str, total: u64) {
        let mut seen = self.seen.lock();
        let before = seen.entry((broker.to_owned(), kind)).or_default();
        let more = total.saturating_sub(*before);
        *before = total;
        self.metrics.broker_errors_total.with_label_values(&[broker, kind]).inc_by(more);
    }
}

impl ClientContext for Observer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let purpose = self.purpose;
        if facility == "CONFWARN" {
            // It warns of settings that we chose, each with its reason.
            tracing::debug!(target: "librdkafka", purpose, "{message}");
            return;
        }
        if let Some(refusal) = self.refusal.note(message) {
            // Whatever its level: it stays until somebody changes something.
            tracing::warn!(target: "librdkafka", purpose, facility, "{refusal}");
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", runbook = "CouponKafkaLost", purpose, facility, "{message}");
            }
            // Lost brokers heal by themselves; what does not is told by whoever needed the client.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", purpose, facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", purpose, facility, "{message}");
            }
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            // Nothing is wrong: a reader has reached the end.
            return;
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.metrics.up.set(0);
        }
        tracing::warn!(target: "librdkafka", purpose = self.purpose, error.message = %error, "{reason}");
    }

    fn stats(&self, statistics: Statistics) {
        let mut connected = false;
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let name = broker.nodeid.to_string();
            connected |= broker.state == "UP";
            if let Some(rtt) = &broker.rtt {
                let quantiles = [("p50", rtt.p50), ("p99", rtt.p99)];
                for (quantile, microseconds) in quantiles {
                    let gauge = self.metrics.broker_rtt_seconds.with_label_values(&[name.as_str(), quantile]);
                    gauge.set(
                        std::time::Duration::from_micros(microseconds.try_into().unwrap_or(0)).as_secs_f64(),
                    );
                }
            }
            self.count(&name, "tx", broker.txerrs);
            self.count(&name, "rx", broker.rxerrs);
            self.count(&name, "timeout", broker.req_timeouts);
            self.count(&name, "retry", broker.txretries);
        }
        self.metrics.up.set(i64::from(connected));
    }
}

impl ConsumerContext for Observer {}
