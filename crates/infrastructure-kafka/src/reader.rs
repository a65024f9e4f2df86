//! Reading partitions from explicit offsets, on the caller's own thread. No group decides what is read, and nothing is committed:
//! whoever reads keeps its place with its data.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::client::{Connection, KafkaError, Observer};
use crate::lines::Line;

/// The first offset of a partition that is still there, and the offset of the next record to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Equal to `end` in an empty partition.
    pub start: i64,
    /// One behind the last record.
    pub end: i64,
}

/// A record, as it lies in the fetched batch.
pub struct RecordView<'a>(&'a BorrowedMessage<'a>);

impl<'a> RecordView<'a> {
    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    /// Its offset.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// When the broker appended it, in ms since the epoch; absent where the topic keeps the producer's time instead.
    #[must_use]
    pub fn append_time_ms(&self) -> Option<i64> {
        match self.0.timestamp() {
            rdkafka::Timestamp::LogAppendTime(ms) => Some(ms),
            rdkafka::Timestamp::CreateTime(_) | rdkafka::Timestamp::NotAvailable => None,
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.0.key()
    }

    /// Its value; none is a tombstone.
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.0.payload()
    }

    /// All headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        self.0
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter().map(|header| (header.key, header.value)))
    }

    /// The first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.0.headers()?.iter().find(|header| header.key == name)?.value
    }
}

/// Why reading cannot go on as it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The next offset is not in the log any more, or not yet: retention took it, or the log was truncated or recreated.
    /// Compare [`Reader::bounds`] with what is known.
    #[error("partition {partition} no longer holds the next offset")]
    OutOfRange {
        /// Which partition; -1 where several are read, since the client does not say.
        partition: i32,
    },
    /// See [`KafkaError`].
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// Reads some partitions of one topic.
pub struct Reader {
    source: Source,
    topic: String,
    request_timeout: Duration,
    /// The ends that partitions had when they were assigned and that were not reached yet.
    ends_ahead: RefCell<BTreeMap<i32, i64>>,
}

/// Where records come from.
enum Source {
    /// A client of the reader's own.
    Own(BaseConsumer<Observer>),
    /// One partition of a client that many readers share.
    Line(Line),
}

/// The settings of every client that reads.
pub(crate) fn consumer_config(connection: &Connection) -> ClientConfig {
    let section = connection.section();
    let mut config = connection.base();
    config
        // Required even for manual assignment. The group is never joined and nothing is committed.
        .set("group.id", section.group("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The default `largest` would skip what retention or a truncation took, without a word.
        .set("auto.offset.reset", "error")
        // Nothing here is written in transactions; bounds and reads must speak of the same records.
        .set("isolation.level", "read_uncommitted")
        .set("check.crcs", "true")
        // 30 s by default: so long a topic that is not there would look like an empty one.
        .set("topic.metadata.propagation.max.ms", "5000")
        // Says when a partition's end is reached, which offsets alone do not tell in a compacted topic.
        .set("enable.partition.eof", "true")
        // 1000 by default: with a full backlog the fetcher would pause 80 % of the time.
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", section.fetch_queue_kib_max.to_string());
    config
}

/// Called behind each change of what is assigned. librdkafka stops a partition in three steps of its own thread and, up to 2.15 at least, aborts the process where the
/// partition is taken out again between the second and the third (confluentinc/librdkafka#5573). A question that the same thread answers in its turn lets the second
/// pass, so that the third stands before whatever is asked next.
pub(crate) fn let_it_stop(consumer: &BaseConsumer<Observer>) {
    if let Err(error) = consumer.assignment() {
        tracing::debug!("what is assigned cannot be told: {error}");
    }
}

/// What an error of polling means for `partition` (-1: nobody knows which); none where the client heals by itself.
pub(crate) fn meaning(error: &ClientError, topic: &str, partition: i32) -> Option<ReadError> {
    match (error, error.rdkafka_error_code()) {
        (ClientError::PartitionEOF(_), _) => None,
        (_, Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)) => {
            Some(ReadError::OutOfRange { partition })
        }
        (ClientError::MessageConsumptionFatal(_), _) => Some(KafkaError::Fatal(error.to_string()).into()),
        _ => match KafkaError::of(error, topic, partition) {
            KafkaError::Unreachable(reason) => {
                tracing::debug!(topic, "reading waits: {reason}");
                None
            }
            other => Some(other.into()),
        },
    }
}

impl Reader {
    /// A reader of `topic` that has no partition yet: it answers for bounds, and reads once assigned.
    ///
    /// # Errors
    /// [`KafkaError::Fatal`]: librdkafka refuses the settings.
    pub fn new(connection: &Connection, topic: &str, purpose: &'static str) -> Result<Self, KafkaError> {
        let consumer = consumer_config(connection)
            .create_with_context(connection.observer(purpose))
            .map_err(|error| KafkaError::Fatal(format!("consumer settings: {error}")))?;
        Ok(Self::of(Source::Own(consumer), topic, connection.request_timeout()))
    }

    pub(crate) fn of_line(line: Line, topic: &str, request_timeout: Duration) -> Self {
        Self::of(Source::Line(line), topic, request_timeout)
    }

    fn of(source: Source, topic: &str, request_timeout: Duration) -> Self {
        Self { source, topic: topic.to_owned(), request_timeout, ends_ahead: RefCell::default() }
    }

    fn consumer(&self) -> &BaseConsumer<Observer> {
        match &self.source {
            Source::Own(consumer) => consumer,
            Source::Line(line) => line.consumer(),
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Reads these partitions from these offsets on, and no others. A reader of [`crate::Lines`] reads its own one.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn assign(&self, starts: &[(i32, i64)]) -> Result<(), KafkaError> {
        let consumer = match &self.source {
            Source::Own(consumer) => consumer,
            Source::Line(line) => return line.assign(starts),
        };
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (partition, offset) in starts {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .map_err(|error| KafkaError::of(&error, &self.topic, *partition))?;
        }
        consumer.assign(&list).map_err(|error| KafkaError::of(&error, &self.topic, -1))?;
        let_it_stop(consumer);
        Ok(())
    }

    /// Reads these partitions from the start of their bounds on, and remembers the ends for [`Reader::is_at_end`].
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn assign_within(&self, bounds: &[(i32, LogBounds)]) -> Result<(), KafkaError> {
        let ahead = bounds.iter().filter(|(_, log)| log.start < log.end);
        *self.ends_ahead.borrow_mut() = ahead.map(|(partition, log)| (*partition, log.end)).collect();
        let starts: Vec<_> = bounds.iter().map(|(partition, log)| (*partition, log.start)).collect();
        self.assign(&starts)
    }

    /// The partition's bounds, asked of its leader.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn bounds(&self, partition: i32) -> Result<LogBounds, KafkaError> {
        let (start, end) = self
            .consumer()
            .fetch_watermarks(&self.topic, partition, self.request_timeout)
            .map_err(|error| KafkaError::of(&error, &self.topic, partition))?;
        Ok(LogBounds { start, end })
    }

    /// True once every partition has been read to the end that it had when it was assigned by [`Reader::assign_within`].
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.ends_ahead.borrow().is_empty()
    }

    /// A record tells that an end is reached; in a compacted topic the last offset may be gone, and then the client tells. It does so only
    /// where nothing new arrives for a while, so neither sign is enough alone.
    fn passed(&self, partition: i32, next_offset: i64) {
        let mut ahead = self.ends_ahead.borrow_mut();
        if ahead.get(&partition).is_some_and(|end| next_offset >= *end) {
            ahead.remove(&partition);
        }
    }

    /// How many partitions the topic has.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn partition_count(&self) -> Result<i32, KafkaError> {
        let metadata = self
            .consumer()
            .fetch_metadata(Some(&self.topic), self.request_timeout)
            .map_err(|error| KafkaError::of(&error, &self.topic, -1))?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        match i32::try_from(count) {
            Ok(0) | Err(_) => Err(KafkaError::Missing { topic: self.topic.clone(), partition: 0 }),
            Ok(count) => Ok(count),
        }
    }

    /// Waits up to `wait` for a record and then takes what is there, at most `most` records, until `each` breaks. Returns how
    /// many were given to `each`.
    ///
    /// # Errors
    /// [`ReadError`]; brokers that are away for a while are no error, there is just nothing to read.
    pub fn drain(
        &self,
        most: usize,
        wait: Duration,
        each: impl FnMut(RecordView<'_>) -> ControlFlow<()>,
    ) -> Result<usize, ReadError> {
        match &self.source {
            Source::Own(consumer) => self.drain_from(|patience| consumer.poll(patience), most, wait, each),
            Source::Line(line) => {
                let drained = line
                    .with_queue(|queue| self.drain_from(|patience| queue.poll(patience), most, wait, each))?;
                // Nobody said yet from where to read.
                Ok(drained.unwrap_or_default())
            }
        }
    }

    fn drain_from<'a>(
        &self,
        poll: impl Fn(Duration) -> Option<KafkaResult<BorrowedMessage<'a>>>,
        most: usize,
        wait: Duration,
        mut each: impl FnMut(RecordView<'_>) -> ControlFlow<()>,
    ) -> Result<usize, ReadError> {
        let mut taken = 0;
        let mut patience = wait;
        while taken < most {
            match poll(patience) {
                None => break,
                Some(Ok(message)) => {
                    taken += 1;
                    patience = Duration::ZERO;
                    self.passed(message.partition(), message.offset().saturating_add(1));
                    if each(RecordView(&message)).is_break() {
                        break;
                    }
                }
                // One partition's end or trouble is no reason to leave the others' records lying.
                Some(Err(error)) => match self.classify(&error) {
                    None => patience = Duration::ZERO,
                    Some(error) => return Err(error),
                },
            }
        }
        Ok(taken)
    }

    /// What an error of polling means; none where the client heals by itself.
    fn classify(&self, error: &ClientError) -> Option<ReadError> {
        if let ClientError::PartitionEOF(partition) = error {
            self.passed(*partition, i64::MAX);
            return None;
        }
        meaning(error, &self.topic, self.assigned_partition())
    }

    /// The partition that an error speaks of, where only one is read; else -1.
    fn assigned_partition(&self) -> i32 {
        let consumer = match &self.source {
            Source::Own(consumer) => consumer,
            Source::Line(line) => return line.partition(),
        };
        match consumer
            .assignment()
            .map(|list| list.elements().first().map(|first| (list.count(), first.partition())))
        {
            Ok(Some((1, partition))) => partition,
            _ => -1,
        }
    }
}
