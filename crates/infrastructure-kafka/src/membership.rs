//! Membership of a consumer group: who works on which partitions. It only shares out the work. Records are read by [`crate::Reader`]s
//! from offsets that their stores know, so a member that wakes up late repeats what was said and harms nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use crate::client::{Connection, KafkaError, Observer};

/// Offsets waiting to be committed; they are for lag figures only, so beyond this they are dropped.
const COMMITS_WAITING_MAX: usize = 1_000;

/// Told of what this member works on, on the membership's own thread. Both calls may take a few seconds: the heartbeat goes on.
pub trait AssignmentHandler: Send + 'static {
    /// These partitions are ours from now on, besides those we had. None at all: we have joined, and there are enough others.
    fn assigned(&mut self, partitions: &[i32]);
    /// These partitions are somebody else's as soon as this returns: stop working on them.
    fn revoked(&mut self, partitions: &[i32]);
    /// Called about every 100 ms, to prove that the loop turns.
    fn turn(&mut self);
}

/// A member of a group.
pub struct Membership {
    stop: Arc<AtomicBool>,
    commits: SyncSender<(i32, i64)>,
    thread: JoinHandle<Result<(), KafkaError>>,
}

impl Membership {
    /// Joins `group` for `topic`, on a thread of its own.
    ///
    /// # Errors
    /// [`KafkaError::Fatal`]: librdkafka refuses the settings, or the system gives no thread.
    pub fn join(
        connection: &Connection,
        group: &str,
        topic: &str,
        handler: Box<dyn AssignmentHandler>,
    ) -> Result<Self, KafkaError> {
        let section = connection.section();
        let mut config = connection.base();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            // Only what moves is stopped; everything else goes on during a rebalance.
            .set("partition.assignment.strategy", "cooperative-sticky")
            // 45 s by default: a line would stand still that long after a crash.
            .set("session.timeout.ms", section.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (section.session_timeout_ms / 4).to_string());
        let metrics = connection.metrics();
        metrics.assigned_partitions.with_label_values(&[group, topic]).set(0);
        metrics.rebalances_total.with_label_values(&[group]).inc_by(0);
        let context = MemberContext {
            observer: connection.observer("membership"),
            connection: connection.clone(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            handler: Mutex::new(handler),
        };
        let consumer: BaseConsumer<MemberContext> = config
            .create_with_context(context)
            .map_err(|error| KafkaError::Fatal(format!("consumer settings: {error}")))?;
        consumer.subscribe(&[topic]).map_err(|error| KafkaError::of(&error, topic, -1))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (commits, waiting) = sync_channel(COMMITS_WAITING_MAX);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("membership".to_owned())
            .spawn(move || run(&consumer, &waiting, &stopped))
            .map_err(|error| KafkaError::Fatal(format!("no thread for the membership: {error}")))?;
        Ok(Self { stop, commits, thread })
    }

    /// Commits the next offset of a partition, for lag figures only: it is dropped when the queue is full.
    pub fn commit(&self, partition: i32, next_offset: i64) {
        if let Err(TrySendError::Full(_)) = self.commits.try_send((partition, next_offset)) {
            tracing::debug!(partition, "a commit for the lag figures was dropped");
        }
    }

    /// True once the member cannot go on; [`Membership::leave`] says why.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Leaves the group: partitions are revoked first, then the group is told. Waits up to `patience`; librdkafka may take as
    /// long as the session timeout, and a process that ends is forgotten by the group anyway.
    ///
    /// # Errors
    /// Why the member had to end by itself before, if it had.
    pub fn leave(self, patience: Duration) -> Result<(), KafkaError> {
        self.stop.store(true, Ordering::Release);
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if !self.thread.is_finished() {
            tracing::warn!(
                "leaving the consumer group takes longer than {patience:?}; it will notice by itself"
            );
            return Ok(());
        }
        self.thread
            .join()
            .unwrap_or_else(|_| Err(KafkaError::Fatal("the membership thread panicked".to_owned())))
    }
}

fn run(
    consumer: &BaseConsumer<MemberContext>,
    commits: &Receiver<(i32, i64)>,
    stop: &AtomicBool,
) -> Result<(), KafkaError> {
    let context = consumer.context();
    while !stop.load(Ordering::Acquire) {
        poll(consumer)?;
        context.handler.lock().turn();
        commit(consumer, commits);
    }
    commit(consumer, commits);
    // Revokes everything through the rebalance callback, then leaves.
    consumer.unsubscribe();
    let deadline = Instant::now() + Duration::from_secs(10);
    while consumer.assignment().is_ok_and(|list| list.count() > 0) && Instant::now() < deadline {
        poll(consumer)?;
    }
    Ok(())
}

fn poll(consumer: &BaseConsumer<MemberContext>) -> Result<(), KafkaError> {
    match consumer.poll(Duration::from_millis(100)) {
        // Partitions are paused before anything is fetched; a straggler is read again by whoever needs it.
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => match KafkaError::of(&error, &consumer.context().topic, -1) {
            KafkaError::Fatal(reason) => Err(KafkaError::Fatal(reason)),
            KafkaError::Unreachable(reason) => {
                tracing::debug!("the membership waits: {reason}");
                Ok(())
            }
            missing @ KafkaError::Missing { .. } => {
                tracing::warn!("the membership waits: {missing}");
                Ok(())
            }
        },
    }
}

fn commit(consumer: &BaseConsumer<MemberContext>, commits: &Receiver<(i32, i64)>) {
    let mut newest = std::collections::BTreeMap::new();
    newest.extend(commits.try_iter());
    if newest.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(newest.len());
    for (partition, offset) in newest {
        if let Err(error) =
            list.add_partition_offset(&consumer.context().topic, partition, Offset::Offset(offset))
        {
            tracing::debug!(partition, "a commit for the lag figures was dropped: {error}");
        }
    }
    if let Err(error) = consumer.commit(&list, CommitMode::Async) {
        tracing::debug!("a commit for the lag figures was dropped: {error}");
    }
}

struct MemberContext {
    observer: Observer,
    connection: Connection,
    group: String,
    topic: String,
    handler: Mutex<Box<dyn AssignmentHandler>>,
}

impl MemberContext {
    fn partitions(list: &TopicPartitionList) -> Vec<i32> {
        list.elements().iter().map(|element| element.partition()).collect()
    }

    /// Takes the partitions at their end and pauses them at once: this client never fetches.
    fn take(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(&self.topic, *partition, Offset::End)?;
        }
        consumer.incremental_assign(&list)?;
        consumer.pause(&list)
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.observer.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.observer.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.observer.stats(statistics);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = Self::partitions(list);
        let metrics = self.connection.metrics();
        metrics.rebalances_total.with_label_values(&[self.group.as_str()]).inc();
        let result = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let result = self.take(consumer, &partitions);
            tracing::info!(topic = self.topic, ?partitions, "assigned");
            self.handler.lock().assigned(&partitions);
            result
        } else {
            if !partitions.is_empty() {
                tracing::info!(topic = self.topic, ?partitions, lost = consumer.assignment_lost(), "revoked");
                self.handler.lock().revoked(&partitions);
            }
            consumer.incremental_unassign(list)
        };
        if let Err(error) = result {
            // The group's view and ours differ now; the next poll reports it if it is fatal.
            tracing::error!(
                runbook = "CouponPartitionsUnassigned",
                topic = self.topic,
                "a rebalance could not be carried out: {error}"
            );
        }
        let held = consumer.assignment().map_or(0, |list| list.count());
        metrics
            .assigned_partitions
            .with_label_values(&[self.group.as_str(), self.topic.as_str()])
            .set(held.try_into().unwrap_or(i64::MAX));
    }
}
