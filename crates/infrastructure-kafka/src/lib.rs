//! Kafka for Firstcome: one definition of the topics, acknowledged producers, explicit-offset readers, group membership, and the
//! dead-letter queue. It knows bytes, offsets and headers, and no coupon rule.
//!
//! Every setting that differs from librdkafka's default is set in this crate, once, with its reason.

pub mod client;
pub mod config;
pub mod dead_letter;
pub mod lines;
pub mod log_cursor;
pub mod membership;
pub mod metrics;
pub mod producer;
pub mod reader;
mod refusal;
pub mod topic_admin;
pub mod topics;

pub use client::{Connection, KafkaError};
pub use config::{KafkaSection, Problem};
pub use dead_letter::{DeadLetter, DeadLetterWriter};
pub use lines::Lines;
pub use log_cursor::{Entry, LogCursor};
pub use membership::{AssignmentHandler, Membership};
pub use metrics::KafkaMetrics;
pub use producer::{Acknowledged, AppendError, Batch, NewRecord, Producer, ProducerPurpose};
pub use reader::{LogBounds, ReadError, Reader, RecordView};
pub use topic_admin::{TopicAdmin, TopicProblem};
pub use topics::{Topic, TopicLayout};

/// librdkafka's version, for `--version`.
#[must_use]
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
