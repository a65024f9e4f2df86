//! One client for many partitions of a topic, however many there are: each partition is read by a [`Reader`] of its own, on its own thread, from
//! its own queue. A client has a handful of threads and connections, so a hundred lines must not mean a hundred clients.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::client::{Connection, KafkaError, Observer};
use crate::reader::{self, ReadError, Reader};

/// How long the client's own queue is waited for; what arrives there is for everybody.
const PUMP: Duration = Duration::from_millis(100);
/// 100 elsewhere. A partition whose queue was full is asked for again when the request under way is answered, and others that have nothing new keep
/// that one waiting: with 100 lines a queue holds about 30 ms of a busy partition.
const FETCH_WAIT_MS: &str = "25";

/// Reads partitions of one topic through one client.
#[derive(Clone)]
pub struct Lines(Arc<Client>);

struct Client {
    // Before the client: no queue may outlive it.
    seats: Mutex<HashMap<i32, Arc<Seat>>>,
    consumer: Arc<BaseConsumer<Observer>>,
    topic: String,
    request_timeout: Duration,
}

/// The place of a partition's reader. Whoever comes later has it: a worker that is late in giving its partition back must not take records from
/// the one that works on it by now.
#[derive(Default)]
struct Seat {
    taken: Mutex<Taken>,
    /// What the client said to everybody, or what became of the partition; told at the next drain.
    trouble: Mutex<Option<ReadError>>,
}

#[derive(Default)]
struct Taken {
    /// Counts the readers that had the seat; the last one has it.
    reader: u64,
    /// While it is assigned.
    queue: Option<PartitionQueue<Observer>>,
}

/// A partition's place in the client, as its reader holds it.
pub(crate) struct Line {
    client: Arc<Client>,
    seat: Arc<Seat>,
    partition: i32,
    reader: u64,
}

impl Lines {
    /// A client for `topic` that reads nothing yet. Its threads end when it and its readers are gone.
    ///
    /// # Errors
    /// [`KafkaError::Fatal`]: librdkafka refuses the settings, or the system gives no thread.
    pub fn new(connection: &Connection, topic: &str, purpose: &'static str) -> Result<Self, KafkaError> {
        let section = connection.section();
        let mut config = reader::consumer_config(connection);
        config
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .set("queued.max.messages.kbytes", section.fetch_queue_kib_of_a_line().to_string());
        let consumer = config
            .create_with_context(connection.observer(purpose))
            .map_err(|error| KafkaError::Fatal(format!("consumer settings: {error}")))?;
        let client = Arc::new(Client {
            seats: Mutex::default(),
            consumer: Arc::new(consumer),
            topic: topic.to_owned(),
            request_timeout: connection.request_timeout(),
        });
        let pumped = Arc::downgrade(&client);
        std::thread::Builder::new()
            .name(format!("lines {purpose}"))
            .spawn(move || pump(&pumped))
            .map_err(|error| KafkaError::Fatal(format!("no thread for {purpose}: {error}")))?;
        Ok(Self(client))
    }

    /// The reader of a partition. One that was there before reads nothing more.
    #[must_use]
    pub fn reader(&self, partition: i32) -> Reader {
        let client = &self.0;
        let seat = Arc::clone(client.seats.lock().entry(partition).or_default());
        // Waits for a drain under way: at most as long as that one waits for records.
        let mut taken = seat.taken.lock();
        client.unassign(partition, &mut taken);
        taken.reader += 1;
        *seat.trouble.lock() = None;
        let reader = taken.reader;
        drop(taken);
        let line = Line { client: Arc::clone(client), seat, partition, reader };
        Reader::of_line(line, &client.topic, client.request_timeout)
    }
}

impl Client {
    fn assign(&self, partition: i32, offset: i64, taken: &mut Taken) -> Result<(), KafkaError> {
        self.unassign(partition, taken);
        // Before the partition is assigned: what is fetched earlier would go to the client's own queue. And each time, since a topic that
        // was made anew has other queues.
        let queue = self.consumer.split_partition_queue(&self.topic, partition).ok_or_else(|| {
            KafkaError::Unreachable(format!("{}/{partition}: the client gives no queue", self.topic))
        })?;
        let list = self.list(partition, Offset::Offset(offset))?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| KafkaError::of(&error, &self.topic, partition))?;
        taken.queue = Some(queue);
        Ok(())
    }

    /// What was fetched and not given out is gone, also what is still on its way: librdkafka numbers its assignments and drops what
    /// belongs to an earlier one.
    fn unassign(&self, partition: i32, taken: &mut Taken) {
        let Some(queue) = taken.queue.take() else { return };
        let unassigned = self.list(partition, Offset::Invalid).and_then(|list| {
            let unassigning = self.consumer.incremental_unassign(&list);
            unassigning.map_err(|error| KafkaError::of(&error, &self.topic, partition))
        });
        if let Err(error) = unassigned {
            tracing::warn!(topic = self.topic, partition, "a partition could not be given back: {error}");
        }
        reader::let_it_stop(&self.consumer);
        while queue.poll(Duration::ZERO).is_some() {}
    }

    fn list(&self, partition: i32, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, offset)
            .map_err(|error| KafkaError::of(&error, &self.topic, partition))?;
        Ok(list)
    }

    /// Serves what the client reports. What keeps it from reading at all is told to every reader.
    fn pump(&self) {
        match self.consumer.poll(PUMP) {
            None => {}
            // Of a queue that the client made anew beside the one that its reader has.
            Some(Ok(stray)) => {
                let reason = format!("the record at {} came by another way", stray.offset());
                self.tell(Some(stray.partition()), &KafkaError::Unreachable(reason).into());
            }
            Some(Err(error)) => match reader::meaning(&error, &self.topic, -1) {
                None => {}
                Some(error) => self.tell(None, &error),
            },
        }
    }

    fn tell(&self, partition: Option<i32>, error: &ReadError) {
        for (number, seat) in self.seats.lock().iter() {
            if partition.is_none_or(|partition| partition == *number) {
                *seat.trouble.lock() = Some(error.clone());
            }
        }
    }
}

fn pump(client: &Weak<Client>) {
    while let Some(client) = client.upgrade() {
        client.pump();
    }
}

impl Line {
    pub(crate) fn consumer(&self) -> &BaseConsumer<Observer> {
        &self.client.consumer
    }

    pub(crate) fn partition(&self) -> i32 {
        self.partition
    }

    /// Reads the partition from this offset on.
    pub(crate) fn assign(&self, starts: &[(i32, i64)]) -> Result<(), KafkaError> {
        let [(partition, offset)] = starts else {
            return Err(self.not_its_own(starts));
        };
        if *partition != self.partition {
            return Err(self.not_its_own(starts));
        }
        let mut taken = self.seat.taken.lock();
        self.has(&taken)?;
        *self.seat.trouble.lock() = None;
        self.client.assign(self.partition, *offset, &mut taken)
    }

    /// Lets `work` take from the partition's queue, alone; none where it is not assigned.
    pub(crate) fn with_queue<T>(
        &self,
        work: impl FnOnce(&PartitionQueue<Observer>) -> Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let taken = self.seat.taken.lock();
        self.has(&taken)?;
        if let Some(trouble) = self.seat.trouble.lock().take() {
            return Err(trouble);
        }
        taken.queue.as_ref().map(work).transpose()
    }

    fn has(&self, taken: &Taken) -> Result<(), KafkaError> {
        if taken.reader == self.reader {
            return Ok(());
        }
        let (topic, partition) = (&self.client.topic, self.partition);
        Err(KafkaError::Unreachable(format!("{topic}/{partition} is read by somebody else by now")))
    }

    fn not_its_own(&self, starts: &[(i32, i64)]) -> KafkaError {
        KafkaError::Fatal(format!("the reader of partition {} cannot read {starts:?}", self.partition))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut taken = self.seat.taken.lock();
        if taken.reader == self.reader {
            self.client.unassign(self.partition, &mut taken);
        }
    }
}
