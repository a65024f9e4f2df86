//! The `kafka` section of every service's configuration.

use std::path::PathBuf;

use infrastructure_tls::TlsFiles;
use serde::{Deserialize, Serialize};

use crate::topics::TopicLayout;

/// What is wrong with a value, with the path that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the top of the configuration.
    pub path: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Problem {
    /// A problem of the key at `path`.
    #[must_use]
    pub fn new(path: &str, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }

    /// A problem for each value of `section` that is outside its range; ranges are (key, value, least, most).
    #[must_use]
    pub fn out_of_range(section: &str, ranges: &[(&str, u32, u32, u32)]) -> Vec<Self> {
        let wrong = ranges.iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        wrong
            .map(|(key, value, least, most)| {
                Self::new(&format!("{section}.{key}"), format!("must be {least}..={most}, is {value}"))
            })
            .collect()
    }
}

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Neither encryption nor authentication.
    Plaintext,
    /// TLS; a client certificate authenticates where one is given.
    Ssl,
    /// SASL without encryption.
    SaslPlaintext,
    /// SASL within TLS.
    SaslSsl,
}

impl SecurityProtocol {
    /// librdkafka's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    /// True where bytes travel encrypted.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How SASL proves who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// User and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge and response, RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// librdkafka's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// The `kafka` section.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSection {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// Put before every topic name, so that several installations share a cluster.
    pub topic_prefix: String,
    /// Put before every consumer group name.
    pub group_prefix: String,
    /// Fewest partitions that every topic must have: the number of lines that are decided in parallel. More are allowed.
    pub partitions: u16,
    /// Copies of each partition. Unset: 3 in prod, 1 in dev.
    pub replication_factor: Option<u16>,
    /// Copies that must hold a record before it counts as acknowledged. Unset: 2 in prod, 1 in dev.
    pub min_insync_replicas: Option<u16>,
    /// How connections are secured.
    pub security_protocol: SecurityProtocol,
    /// Prod refuses unencrypted connections unless this says that the network is trusted.
    pub allow_plaintext: bool,
    /// PEM file of the certificate authorities that may have signed the brokers' certificates. Unset: the system's.
    pub ssl_ca_file: Option<PathBuf>,
    /// PEM file of our own certificate.
    pub ssl_certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub ssl_key_file: Option<PathBuf>,
    /// How SASL proves who we are.
    pub sasl_mechanism: Option<SaslMechanism>,
    /// SASL user.
    pub sasl_username: Option<String>,
    /// SASL password; in prod from `sasl_password_file`.
    pub sasl_password: Option<String>,
    /// File with the SASL password.
    pub sasl_password_file: Option<PathBuf>,
    /// How long the gateway's producer waits for company before it sends a batch, in ms. 5 was the fastest in measurements: the
    /// claims of one moment share a request.
    pub linger_ms: u32,
    /// After this time without an acknowledgement the gateway answers 503 "in doubt", in ms.
    pub message_timeout_ms: u32,
    /// Most records waiting in a producer for their acknowledgement. Beyond it: 503 at once.
    pub queue_messages_max: u32,
    /// Most of them in one partition: one that has no leader must not use up the queue of all. Beyond it: 503 at once.
    pub queue_messages_per_partition_max: u32,
    /// Most KiB waiting in a producer.
    pub queue_kib_max: u32,
    /// Most KiB fetched ahead per partition.
    pub fetch_queue_kib_max: u32,
    /// Most KiB fetched ahead by a client that reads many partitions, each with its share by `partitions`. What librdkafka keeps of each record
    /// comes on top, for small records about as much again.
    pub fetch_queue_total_kib_max: u32,
    /// A member that is silent for longer loses its partitions, in ms.
    pub session_timeout_ms: u32,
    /// How long a request about topics, offsets or metadata may take, in ms.
    pub request_timeout_ms: u32,
    /// How often the topics' settings are looked at while the service runs, in ms: they are changed under running systems.
    pub topics_check_ms: u32,
    /// How often librdkafka reports its statistics, in ms.
    pub statistics_interval_ms: u32,
}

impl Default for KafkaSection {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            topic_prefix: String::new(),
            group_prefix: String::new(),
            partitions: 12,
            replication_factor: None,
            min_insync_replicas: None,
            security_protocol: SecurityProtocol::Plaintext,
            allow_plaintext: false,
            ssl_ca_file: None,
            ssl_certificate_file: None,
            ssl_key_file: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            sasl_password_file: None,
            linger_ms: 5,
            message_timeout_ms: 5_000,
            queue_messages_max: 20_000,
            queue_messages_per_partition_max: 5_000,
            queue_kib_max: 32 * 1024,
            fetch_queue_kib_max: 16 * 1024,
            fetch_queue_total_kib_max: 128 * 1024,
            session_timeout_ms: 8_000,
            request_timeout_ms: 5_000,
            topics_check_ms: 60_000,
            statistics_interval_ms: 5_000,
        }
    }
}

impl KafkaSection {
    /// The topics that this configuration asks for.
    #[must_use]
    pub fn layout(&self, production: bool) -> TopicLayout {
        let (replicas, in_sync) = if production { (3, 2) } else { (1, 1) };
        TopicLayout {
            prefix: self.topic_prefix.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor.unwrap_or(replicas),
            min_insync_replicas: self.min_insync_replicas.unwrap_or(in_sync),
        }
    }

    /// The name of a consumer group.
    #[must_use]
    pub fn group(&self, service: &str) -> String {
        format!("{}firstcome-{service}", self.group_prefix)
    }

    /// How much of a partition is fetched ahead by a client that reads many, in KiB.
    #[must_use]
    pub fn fetch_queue_kib_of_a_line(&self) -> u32 {
        let share = self.fetch_queue_total_kib_max / u32::from(self.partitions.max(1));
        share.clamp(1, self.fetch_queue_kib_max)
    }

    /// Everything that is wrong with the values, at once.
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| {
            problems.push(Problem { path: format!("kafka.{key}"), problem });
        };
        if self.bootstrap_servers.split(',').any(|server| !is_host_and_port(server)) {
            wrong("bootstrap_servers", "must be host:port, comma-separated".to_owned());
        }
        for (key, prefix) in [("topic_prefix", &self.topic_prefix), ("group_prefix", &self.group_prefix)] {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if prefix.len() > 100 || !prefix.bytes().all(legal) {
                wrong(key, "must have at most 100 characters of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned());
            }
        }
        let ranges = [
            ("partitions", u32::from(self.partitions), 1, 10_000),
            ("linger_ms", self.linger_ms, 0, 1_000),
            ("message_timeout_ms", self.message_timeout_ms, 100, 60_000),
            ("queue_messages_max", self.queue_messages_max, 100, 1_000_000),
            ("queue_messages_per_partition_max", self.queue_messages_per_partition_max, 10, 1_000_000),
            ("queue_kib_max", self.queue_kib_max, 1_024, 1_048_576),
            ("fetch_queue_kib_max", self.fetch_queue_kib_max, 1_024, 1_048_576),
            ("fetch_queue_total_kib_max", self.fetch_queue_total_kib_max, 1_024, 1_048_576),
            ("session_timeout_ms", self.session_timeout_ms, 6_000, 60_000),
            ("request_timeout_ms", self.request_timeout_ms, 500, 60_000),
            ("topics_check_ms", self.topics_check_ms, 500, 600_000),
            ("statistics_interval_ms", self.statistics_interval_ms, 1_000, 60_000),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                wrong(key, format!("must be {least}..={most}, is {value}"));
            }
        }
        let layout = self.layout(production);
        if production && layout.replication_factor < 3 {
            wrong("replication_factor", "must be at least 3 in prod: with fewer copies one lost broker loses claims that were answered 202".to_owned());
        }
        if production && layout.min_insync_replicas < 2 {
            wrong(
                "min_insync_replicas",
                "must be at least 2 in prod: an acknowledgement by one copy is no durability".to_owned(),
            );
        }
        if layout.min_insync_replicas == 0 || layout.min_insync_replicas > layout.replication_factor {
            wrong(
                "min_insync_replicas",
                format!("must be 1..={} (replication_factor)", layout.replication_factor),
            );
        }
        if production && !self.security_protocol.is_encrypted() && !self.allow_plaintext {
            wrong(
                "security_protocol",
                "must be ssl or sasl_ssl in prod, or set kafka.allow_plaintext where the network is trusted"
                    .to_owned(),
            );
        }
        let sasl = [
            ("sasl_mechanism", self.sasl_mechanism.is_some()),
            ("sasl_username", self.sasl_username.is_some()),
            ("sasl_password_file", self.sasl_password.is_some()),
        ];
        for (key, is_set) in sasl {
            if self.security_protocol.is_sasl() && !is_set {
                wrong(key, format!("must be set for {}", self.security_protocol.as_str()));
            }
            if !self.security_protocol.is_sasl() && is_set {
                wrong(key, "is set, but security_protocol is not SASL".to_owned());
            }
        }
        let files = TlsFiles {
            ca_file: self.ssl_ca_file.clone(),
            certificate_file: self.ssl_certificate_file.clone(),
            key_file: self.ssl_key_file.clone(),
        };
        if self.security_protocol.is_encrypted() {
            for found in files.load().err().unwrap_or_default() {
                wrong(&format!("ssl_{}", found.key), found.problem);
            }
        } else {
            for key in files.keys_set() {
                wrong(
                    &format!("ssl_{key}"),
                    "is set, but security_protocol is neither ssl nor sasl_ssl".to_owned(),
                );
            }
        }
        problems
    }
}

fn is_host_and_port(server: &str) -> bool {
    server
        .trim()
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(section: &KafkaSection, production: bool) -> Vec<String> {
        section.problems(production).into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn the_defaults_are_right_in_dev_and_ask_for_encryption_in_prod() {
        assert_eq!(paths(&KafkaSection::default(), false), Vec::<String>::new());
        assert_eq!(paths(&KafkaSection::default(), true), ["kafka.security_protocol"]);
        let trusted = KafkaSection { allow_plaintext: true, ..KafkaSection::default() };
        assert_eq!(paths(&trusted, true), Vec::<String>::new());
        assert_eq!(trusted.layout(true).replication_factor, 3);
        assert_eq!(trusted.layout(false).replication_factor, 1);
    }

    #[test]
    fn many_lines_share_what_is_fetched_ahead_and_few_have_no_more_than_one_may() {
        let share =
            |partitions| KafkaSection { partitions, ..KafkaSection::default() }.fetch_queue_kib_of_a_line();
        assert_eq!(share(3), 16 * 1_024);
        assert_eq!(share(100), 1_310);
        assert_eq!(share(10_000), 13);
    }

    #[test]
    fn every_wrong_value_is_named_at_once() {
        let wrong = KafkaSection {
            bootstrap_servers: "broker".to_owned(),
            topic_prefix: "a b".to_owned(),
            partitions: 0,
            replication_factor: Some(1),
            min_insync_replicas: Some(2),
            security_protocol: SecurityProtocol::SaslSsl,
            ssl_key_file: Some("key.pem".into()),
            session_timeout_ms: 1,
            ..KafkaSection::default()
        };
        assert_eq!(
            paths(&wrong, true),
            [
                "kafka.bootstrap_servers",
                "kafka.topic_prefix",
                "kafka.partitions",
                "kafka.session_timeout_ms",
                "kafka.replication_factor",
                "kafka.min_insync_replicas",
                "kafka.sasl_mechanism",
                "kafka.sasl_username",
                "kafka.sasl_password_file",
                "kafka.ssl_certificate_file",
            ]
        );
        let unused = KafkaSection { ssl_ca_file: Some("ca.pem".into()), ..KafkaSection::default() };
        assert_eq!(paths(&unused, false), ["kafka.ssl_ca_file"]);
    }
}
