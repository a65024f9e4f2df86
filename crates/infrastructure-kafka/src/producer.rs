//! Producers whose every record is acknowledged by all in-sync copies or accounted for: refused (certainly not in the
//! log) or unknown (it may be).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use prometheus::IntCounter;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use tokio::sync::oneshot;

use crate::client::{Connection, KafkaError, Observer};

/// Most records of [`ProducerPurpose::Outcomes`] waiting for their acknowledgement; a batch that would go beyond waits for room.
pub const OUTCOMES_QUEUE_MESSAGES_MAX: u32 = 200_000;

/// What a producer is for decides how long it insists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerPurpose {
    /// A user waits: after `message_timeout_ms` the answer is "in doubt" (the record may still land).
    Claims,
    /// The log's own bookkeeping: insists for ever, in order and without a gap, or ends the process.
    Outcomes,
}

/// A record to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The full topic name.
    pub topic: &'a str,
    /// The partition. Always explicit: an idempotent producer must not mix explicit and hashed records.
    pub partition: i32,
    /// The key.
    pub key: &'a [u8],
    /// The value; none is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its partition.
    pub partition: i32,
    /// Its offset. librdkafka does not know it where the broker recognised a resent record (DUPLICATE_SEQUENCE).
    pub offset: Option<i64>,
    /// When the broker appended it, in ms since the epoch (topics with LogAppendTime).
    pub append_time_ms: Option<i64>,
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The local queue, or the partition's share of it, is full: certainly not in the log. Come back later.
    #[error("the producer's queue is full")]
    QueueFull,
    /// Certainly not in the log, for another reason.
    #[error("the record was refused: {0}")]
    Refused(String),
    /// No acknowledgement: it may be in the log, or land there yet.
    #[error("the record was not acknowledged: {0}")]
    Unknown(String),
    /// As [`AppendError::Unknown`], and the producer will never append anything again: the process must end.
    #[error("the producer is of no use any more: {0}")]
    Fatal(String),
}

impl AppendError {
    fn of(error: &ClientError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Self::QueueFull,
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Self::Refused(error.to_string()),
            Some(RDKafkaErrorCode::Fatal) => Self::Fatal(error.to_string()),
            _ => Self::Unknown(error.to_string()),
        }
    }

    fn result_label(&self) -> &'static str {
        match self {
            Self::QueueFull | Self::Refused(_) => "refused",
            Self::Unknown(_) | Self::Fatal(_) => "unknown",
        }
    }
}

type Report = Result<Acknowledged, AppendError>;

/// How many records wait in each partition: one without a leader must not fill the queue of all.
struct Shares {
    waiting: RwLock<Vec<Arc<AtomicU32>>>,
    most: u32,
}

/// A place in a partition's share of the queue; given back when dropped.
pub struct Share(Arc<AtomicU32>);

impl Shares {
    fn new(most: u32) -> Self {
        Self { waiting: RwLock::default(), most }
    }

    fn take(&self, partition: i32) -> Option<Share> {
        let index = usize::try_from(partition).ok()?;
        let known = self.waiting.read().get(index).cloned();
        let waiting = known.unwrap_or_else(|| {
            let mut all = self.waiting.write();
            while all.len() <= index {
                all.push(Arc::default());
            }
            all.get(index).cloned().unwrap_or_default()
        });
        let share = Share(waiting);
        if share.0.fetch_add(1, Ordering::AcqRel) < self.most { Some(share) } else { None }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who waits for a record's delivery report.
pub enum Slot {
    /// One caller, who holds a place in the partition's share.
    One(oneshot::Sender<Report>, Share),
    /// A batch.
    Batch(Arc<BatchState>),
}

/// How a batch stands.
#[derive(Default)]
pub struct BatchState {
    counts: Mutex<BatchCounts>,
    changed: Condvar,
}

#[derive(Default)]
struct BatchCounts {
    sent: usize,
    reported: usize,
    last_offset: Option<i64>,
    failure: Option<AppendError>,
}

impl BatchState {
    fn report(&self, report: Report) {
        let mut counts = self.counts.lock();
        counts.reported += 1;
        match report {
            Ok(acknowledged) => counts.last_offset = counts.last_offset.max(acknowledged.offset),
            Err(error) => counts.failure = counts.failure.take().or(Some(error)),
        }
        if counts.reported == counts.sent || counts.failure.is_some() {
            self.changed.notify_all();
        }
    }
}

/// Routes delivery reports to those who wait for them.
pub struct Delivery(Observer);

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.0.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.stats(statistics);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
        let report = match result {
            Ok(message) => Ok(Acknowledged {
                partition: message.partition(),
                offset: Some(message.offset()).filter(|offset| *offset >= 0),
                // Without an answer of its own (a resend that was recognised) librdkafka keeps the time of our clock.
                append_time_ms: match message.timestamp() {
                    rdkafka::Timestamp::LogAppendTime(ms) => Some(ms),
                    rdkafka::Timestamp::CreateTime(_) | rdkafka::Timestamp::NotAvailable => None,
                },
            }),
            Err((error, _)) => Err(AppendError::of(error)),
        };
        match *slot {
            // A caller that has gone away no longer needs the report.
            Slot::One(caller, _share) => drop(caller.send(report)),
            Slot::Batch(batch) => batch.report(report),
        }
    }
}

/// An idempotent producer with acks=all. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ThreadedProducer<Delivery>>,
    connection: Connection,
    messages_max: u32,
    shares: Arc<Shares>,
    full: Option<IntCounter>,
}

impl Producer {
    /// A producer for this purpose.
    ///
    /// # Errors
    /// [`KafkaError::Fatal`]: librdkafka refuses the settings.
    pub fn new(connection: &Connection, purpose: ProducerPurpose) -> Result<Self, KafkaError> {
        let section = connection.section();
        let mut config = connection.base();
        config
            .set("acks", "all")
            // Off by default: a resent request must not append twice, nor overtake another.
            .set("enable.idempotence", "true")
            // Defaults are 1 GiB and 100,000: promise BOUNDED wants a queue that fits the pod.
            .set("queue.buffering.max.kbytes", section.queue_kib_max.to_string());
        match purpose {
            ProducerPurpose::Claims => config
                .set("linger.ms", section.linger_ms.to_string())
                .set("queue.buffering.max.messages", section.queue_messages_max.to_string())
                .set("message.timeout.ms", section.message_timeout_ms.to_string()),
            ProducerPurpose::Outcomes => config
                // A batch is produced in one go and awaited: whatever is there is sent at once.
                .set("linger.ms", "0")
                .set("queue.buffering.max.messages", OUTCOMES_QUEUE_MESSAGES_MAX.to_string())
                // A timed-out record would leave a gap even with idempotence: never time out, and make any gap fatal.
                .set("message.timeout.ms", "0")
                .set("enable.gapless.guarantee", "true"),
        };
        let context = Delivery(connection.observer(match purpose {
            ProducerPurpose::Claims => "claims producer",
            ProducerPurpose::Outcomes => "outcomes producer",
        }));
        let inner = config
            .create_with_context(context)
            .map_err(|error| KafkaError::Fatal(format!("producer settings: {error}")))?;
        let messages_max = match purpose {
            ProducerPurpose::Claims => section.queue_messages_max,
            ProducerPurpose::Outcomes => OUTCOMES_QUEUE_MESSAGES_MAX,
        };
        let shares = Arc::new(Shares::new(match purpose {
            ProducerPurpose::Claims => section.queue_messages_per_partition_max,
            ProducerPurpose::Outcomes => OUTCOMES_QUEUE_MESSAGES_MAX,
        }));
        Ok(Self { inner: Arc::new(inner), connection: connection.clone(), messages_max, shares, full: None })
    }

    /// Counts the records that met a full queue.
    #[must_use]
    pub fn counting_full(mut self, full: IntCounter) -> Self {
        self.full = Some(full);
        self
    }

    /// How many records may wait for their acknowledgement.
    #[must_use]
    pub fn messages_max(&self) -> u32 {
        self.messages_max
    }

    /// Appends a record and awaits its acknowledgement.
    ///
    /// # Errors
    /// [`AppendError`] says whether the record can be in the log.
    pub async fn append(&self, record: NewRecord<'_>) -> Report {
        let started = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let queued = match self.shares.take(record.partition) {
            Some(share) => self.enqueue(record, Slot::One(sender, share)),
            None => {
                self.was_full();
                Err(AppendError::QueueFull)
            }
        };
        let report = match queued {
            Err(error) => Err(error),
            Ok(()) => receiver
                .await
                .unwrap_or_else(|_| Err(AppendError::Unknown("the producer was shut down".to_owned()))),
        };
        self.observe(record.topic, started, &report);
        report
    }

    /// Starts a batch: records are produced one by one, in order, and awaited together.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch { producer: self, state: Arc::default(), started: Instant::now(), topic: None }
    }

    /// How many records wait for their acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight_count().try_into().unwrap_or(0)
    }

    fn enqueue(&self, record: NewRecord<'_>, slot: Slot) -> Result<(), AppendError> {
        self.try_enqueue(record, Box::new(slot)).map_err(|(error, _)| {
            if matches!(error, AppendError::QueueFull) {
                self.was_full();
            }
            error
        })
    }

    fn was_full(&self) {
        if let Some(full) = &self.full {
            full.inc();
        }
    }

    fn try_enqueue(&self, record: NewRecord<'_>, slot: Box<Slot>) -> Result<(), (AppendError, Box<Slot>)> {
        let mut base = BaseRecord::<[u8], [u8], Box<Slot>>::with_opaque_to(record.topic, slot)
            .partition(record.partition)
            .key(record.key);
        if let Some(payload) = record.payload {
            base = base.payload(payload);
        }
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            base =
                base.headers(record.headers.iter().fold(headers, |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(*value) })
                }));
        }
        self.inner.send(base).map_err(|(error, base)| (AppendError::of(&error), base.delivery_opaque))
    }

    fn observe(&self, topic: &str, started: Instant, report: &Report) {
        let result = report.as_ref().map_or_else(AppendError::result_label, |_| "acked");
        let histogram = &self.connection.metrics().delivery_seconds;
        histogram.with_label_values(&[topic, result]).observe(started.elapsed().as_secs_f64());
    }
}

/// Records that are produced in order and awaited together.
pub struct Batch<'a> {
    producer: &'a Producer,
    state: Arc<BatchState>,
    started: Instant,
    topic: Option<String>,
}

/// A batch that is not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StillWaiting;

impl Batch<'_> {
    /// Produces a record. A full queue is waited for, `on_wait` being called each time round (about every 20 ms): the order of the
    /// batch allows no skipping.
    ///
    /// # Errors
    /// [`AppendError::Refused`]: the client does not take the record at all.
    pub fn produce(&mut self, record: NewRecord<'_>, on_wait: &mut dyn FnMut()) -> Result<(), AppendError> {
        if self.topic.is_none() {
            self.topic = Some(record.topic.to_owned());
        }
        self.state.counts.lock().sent += 1;
        let mut slot = Box::new(Slot::Batch(Arc::clone(&self.state)));
        let mut has_waited = false;
        loop {
            match self.producer.try_enqueue(record, slot) {
                Ok(()) => return Ok(()),
                Err((AppendError::QueueFull, returned)) => {
                    slot = returned;
                    if !std::mem::replace(&mut has_waited, true) {
                        self.producer.was_full();
                    }
                    on_wait();
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err((error, _)) => {
                    self.state.report(Err(error.clone()));
                    return Err(error);
                }
            }
        }
    }

    /// Waits up to `patience` for the acknowledgement of all records of the batch; the highest offset, where known.
    ///
    /// # Errors
    /// The first failure of a record: something after it may be in the log, so the process must not go on. Or
    /// [`StillWaiting`], and it can be asked again.
    pub fn wait(&self, patience: Duration) -> Result<Result<Option<i64>, StillWaiting>, AppendError> {
        let deadline = Instant::now() + patience;
        let mut counts = self.state.counts.lock();
        loop {
            if let Some(error) = &counts.failure {
                self.observe(&Err(error.clone()));
                return Err(error.clone());
            }
            if counts.reported == counts.sent {
                let acknowledged =
                    Acknowledged { partition: 0, offset: counts.last_offset, append_time_ms: None };
                self.observe(&Ok(acknowledged));
                return Ok(Ok(counts.last_offset));
            }
            if self.state.changed.wait_until(&mut counts, deadline).timed_out() {
                return Ok(Err(StillWaiting));
            }
        }
    }

    fn observe(&self, report: &Report) {
        if let Some(topic) = &self.topic {
            self.producer.observe(topic, self.started, report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_partition_takes_no_more_than_its_share_of_the_queue() {
        let shares = Shares::new(2);
        let (first, second) = (shares.take(7), shares.take(7));
        assert!(first.is_some() && second.is_some() && shares.take(7).is_none());
        assert!(shares.take(0).is_some(), "another partition has a share of its own");
        drop(first);
        assert!(shares.take(7).is_some());
        assert!(shares.take(-1).is_none());
    }
}
