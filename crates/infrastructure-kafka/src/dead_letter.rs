//! The dead-letter queue: bytes that could not be read, kept for a person to look at, with where they came from and why they stand
//! there. A copy is acknowledged before the record's outcome is published.

pub mod queue;

use std::time::Duration;

use crate::producer::{AppendError, NewRecord, Producer};
use crate::reader::RecordView;

/// Most bytes of a record that are kept. A longer one is cut, and `original_bytes` says how long it was.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a key that are kept.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest text of why a record could not be read, in bytes.
pub const PROBLEM_BYTES_MAX: usize = 500;

/// The headers of a dead letter.
pub mod headers {
    /// The topic it stood in.
    pub const ORIGIN_TOPIC: &str = "origin_topic";
    /// The partition it stood in.
    pub const ORIGIN_PARTITION: &str = "origin_partition";
    /// Its offset there.
    pub const ORIGIN_OFFSET: &str = "origin_offset";
    /// When the broker appended it there, in ms since the epoch.
    pub const ORIGIN_TIME_MS: &str = "origin_time_ms";
    /// The claim it would have been, where that much could be read.
    pub const CLAIM_ID: &str = "claim_id";
    /// The closed reason, as in its outcome.
    pub const REASON: &str = "reason";
    /// What exactly was wrong, for people.
    pub const PROBLEM: &str = "problem";
    /// Who could not read it.
    pub const SERVICE: &str = "service";
    /// Which release that was.
    pub const RELEASE: &str = "release";
    /// How many bytes it had.
    pub const ORIGINAL_BYTES: &str = "original_bytes";
    /// On a later record of the same origin: what was done about the letter ([`super::Resolved`]).
    pub const RESOLUTION: &str = "resolution";
    /// Who did it.
    pub const ACTOR: &str = "actor";
    /// Why, in their words.
    pub const NOTE: &str = "note";
    /// Redriven: the offset of the new record in the topic it stood in.
    pub const REDRIVEN_OFFSET: &str = "redriven_offset";
}

/// What was done about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// What it was meant to be was appended at the end of the line.
    Redriven,
    /// Nothing will come of it.
    Discarded,
}

impl Resolved {
    /// The name in the header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }

    /// The resolution of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Redriven, Self::Discarded].into_iter().find(|resolved| resolved.as_str() == name)
    }
}

/// An undecodable record on its way to the queue.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its partition, here as there.
    pub origin_partition: i32,
    /// Its offset in the topic it stood in.
    pub origin_offset: i64,
    /// When the broker appended it, in ms since the epoch.
    pub origin_time_ms: i64,
    /// Its key, cut to [`KEY_BYTES_MAX`].
    pub key: Option<Vec<u8>>,
    /// Its bytes, cut to [`PAYLOAD_BYTES_MAX`]: a batch may hold thousands of letters.
    pub payload: Option<Vec<u8>>,
    /// How many bytes the payload had.
    pub original_bytes: usize,
    /// The claim it would have been, where that much could be read.
    pub claim_id: Option<String>,
    /// The closed reason, as in its outcome.
    pub reason: &'static str,
    /// What exactly is wrong.
    pub problem: String,
}

/// Writes dead letters.
#[derive(Clone)]
pub struct DeadLetterWriter {
    producer: Producer,
    topic: String,
    origin_topic: String,
    service: &'static str,
    release: &'static str,
}

impl DeadLetter {
    /// The copy of a record, cut to what is kept, without the claim it would have been.
    #[must_use]
    pub fn of_record(
        record: &RecordView<'_>,
        origin_time_ms: i64,
        reason: &'static str,
        problem: String,
    ) -> Self {
        let kept = |bytes: &[u8], most: usize| bytes.get(..most).unwrap_or(bytes).to_vec();
        Self {
            origin_partition: record.partition(),
            origin_offset: record.offset(),
            origin_time_ms,
            key: record.key().map(|key| kept(key, KEY_BYTES_MAX)),
            payload: record.payload().map(|payload| kept(payload, PAYLOAD_BYTES_MAX)),
            original_bytes: record.payload().map_or(0, <[u8]>::len),
            claim_id: None,
            reason,
            problem,
        }
    }
}

impl DeadLetterWriter {
    /// A writer to `topic` of records that stood in `origin_topic`. `producer` must be one that insists for ever.
    #[must_use]
    pub fn new(
        producer: Producer,
        topic: String,
        origin_topic: String,
        service: &'static str,
        release: &'static str,
    ) -> Self {
        Self { producer, topic, origin_topic, service, release }
    }

    /// Writes the letters and waits until all are acknowledged, calling `on_wait` about every second.
    ///
    /// # Errors
    /// [`AppendError`]: the process must not go on, and its restart writes them again.
    pub fn write(&self, letters: &[DeadLetter], on_wait: &mut dyn FnMut()) -> Result<(), AppendError> {
        let mut batch = self.producer.batch();
        for letter in letters {
            let problem = cut(&letter.problem);
            let (partition, offset, time, length) = (
                letter.origin_partition.to_string(),
                letter.origin_offset.to_string(),
                letter.origin_time_ms.to_string(),
                letter.original_bytes.to_string(),
            );
            let mut headers: Vec<(&str, &[u8])> = vec![
                (headers::ORIGIN_TOPIC, self.origin_topic.as_bytes()),
                (headers::ORIGIN_PARTITION, partition.as_bytes()),
                (headers::ORIGIN_OFFSET, offset.as_bytes()),
                (headers::ORIGIN_TIME_MS, time.as_bytes()),
                (headers::REASON, letter.reason.as_bytes()),
                (headers::PROBLEM, problem.as_bytes()),
                (headers::SERVICE, self.service.as_bytes()),
                (headers::RELEASE, self.release.as_bytes()),
                (headers::ORIGINAL_BYTES, length.as_bytes()),
            ];
            if let Some(claim_id) = &letter.claim_id {
                headers.push((headers::CLAIM_ID, claim_id.as_bytes()));
            }
            let record = NewRecord {
                topic: &self.topic,
                partition: letter.origin_partition,
                key: letter.key.as_deref().unwrap_or_default(),
                payload: letter.payload.as_deref(),
                headers: &headers,
            };
            batch.produce(record, on_wait)?;
        }
        while batch.wait(Duration::from_secs(1))?.is_err() {
            on_wait();
        }
        Ok(())
    }
}

/// What was done about a letter, on its way to the queue: a record of the same origin behind it.
#[derive(Clone, Copy, Debug)]
pub struct Resolution<'a> {
    /// The topic that the letter's record stood in.
    pub origin_topic: &'a str,
    /// Its partition.
    pub origin_partition: i32,
    /// Its offset.
    pub origin_offset: i64,
    /// Its key.
    pub key: &'a [u8],
    /// What was done.
    pub resolved: Resolved,
    /// By whom.
    pub actor: &'a str,
    /// Why, cut to [`PROBLEM_BYTES_MAX`].
    pub note: &'a str,
    /// Redriven: the offset of the new record.
    pub redriven_offset: Option<i64>,
}

/// Notes what was done about a letter, in the queue `topic`, and waits for the acknowledgement.
///
/// # Errors
/// [`AppendError`]; where it is in doubt, the queue says whether it landed.
pub async fn resolve(
    producer: &Producer,
    topic: &str,
    resolution: &Resolution<'_>,
) -> Result<(), AppendError> {
    let (partition, offset, redriven) = (
        resolution.origin_partition.to_string(),
        resolution.origin_offset.to_string(),
        resolution.redriven_offset.map(|offset| offset.to_string()),
    );
    let mut headers: Vec<(&str, &[u8])> = vec![
        (headers::ORIGIN_TOPIC, resolution.origin_topic.as_bytes()),
        (headers::ORIGIN_PARTITION, partition.as_bytes()),
        (headers::ORIGIN_OFFSET, offset.as_bytes()),
        (headers::RESOLUTION, resolution.resolved.as_str().as_bytes()),
        (headers::ACTOR, resolution.actor.as_bytes()),
        (headers::NOTE, cut(resolution.note).as_bytes()),
    ];
    if let Some(redriven) = &redriven {
        headers.push((headers::REDRIVEN_OFFSET, redriven.as_bytes()));
    }
    let record = NewRecord {
        topic,
        partition: resolution.origin_partition,
        key: resolution.key,
        payload: None,
        headers: &headers,
    };
    producer.append(record).await.map(|_| ())
}

fn cut(problem: &str) -> &str {
    let mut end = problem.len().min(PROBLEM_BYTES_MAX);
    while !problem.is_char_boundary(end) {
        end -= 1;
    }
    problem.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_problem_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(PROBLEM_BYTES_MAX);
        assert_eq!(cut(&long).len(), PROBLEM_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), PROBLEM_BYTES_MAX - 1);
    }
}
