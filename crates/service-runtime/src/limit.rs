//! Named limits of things that exist at once. Promise BOUNDED: beyond one the answer is 429 or 503, and the metrics show which.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use coupon_domain::Partition;
use infrastructure_kafka::Producer;
use infrastructure_postgres::Pool;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::catalogue;
use crate::metrics::Metrics;

/// Makes limits, and the series that show them.
#[derive(Clone)]
pub struct Limits {
    depth: IntGaugeVec,
    limit: IntGaugeVec,
    hits: IntCounterVec,
    metrics: Metrics,
}

impl Limits {
    /// The limits of a process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            depth: metrics.int_gauges(&catalogue::QUEUE_DEPTH),
            limit: metrics.int_gauges(&catalogue::QUEUE_LIMIT),
            hits: metrics.counters(&catalogue::LIMIT_HITS_TOTAL),
            metrics: metrics.clone(),
        }
    }

    /// A limit of `most` things at once.
    #[must_use]
    pub fn limit(&self, name: &str, most: u32) -> Limit {
        self.limit.with_label_values(&[name]).set(most.into());
        Limit {
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS))),
            depth: self.depth.with_label_values(&[name]),
            hits: self.hits.with_label_values(&[name]),
        }
    }

    /// Shows a queue that is bounded elsewhere.
    #[must_use]
    pub fn depth_of(&self, name: &str, most: u32) -> IntGauge {
        self.limit.with_label_values(&[name]).set(most.into());
        self.depth.with_label_values(&[name])
    }

    /// Shows a queue that is bounded elsewhere and asked how full it is.
    pub fn ask_depth(&self, name: &str, most: u32, depth: impl Fn() -> usize + Send + Sync + 'static) {
        let gauge = self.depth_of(name, most);
        self.metrics.before_text(move || gauge.set(i64::try_from(depth()).unwrap_or(i64::MAX)));
    }

    /// Shows the queue of a producer, and counts when it was full.
    #[must_use]
    pub fn producer(&self, producer: Producer) -> Producer {
        const NAME: &str = "producer_messages";
        let producer = producer.counting_full(self.hits_of(NAME));
        let asked = producer.clone();
        self.ask_depth(NAME, producer.messages_max(), move || asked.in_flight());
        producer
    }

    /// Shows the connections of a pool that are in use.
    pub fn pool(&self, pool: &Pool) {
        let (asked, most) = (pool.clone(), pool.usage().1);
        self.ask_depth("postgres_pool", most.try_into().unwrap_or(u32::MAX), move || asked.usage().0);
    }

    /// Shows queues of which each partition has one that may hold `most`: how full the fullest is.
    #[must_use]
    pub fn by_partition(&self, name: &str, most: u32) -> QueueByPartition {
        let queues = QueueByPartition { hits: self.hits_of(name), depths: Arc::default() };
        let depths = Arc::clone(&queues.depths);
        self.ask_depth(name, most, move || {
            let fullest = depths.lock().values().map(|depth| depth.load(Ordering::Relaxed)).max();
            fullest.map_or(0, |fullest| usize::try_from(fullest).unwrap_or(0))
        });
        queues
    }

    /// Counts what is held back by a limit that is kept elsewhere.
    #[must_use]
    pub fn hits_of(&self, name: &str) -> IntCounter {
        self.hits.with_label_values(&[name])
    }
}

/// Queues of which each partition has one.
#[derive(Clone)]
pub struct QueueByPartition {
    hits: IntCounter,
    depths: Arc<Mutex<BTreeMap<Partition, Arc<AtomicI64>>>>,
}

impl QueueByPartition {
    /// The queue of a partition, empty at first.
    #[must_use]
    pub fn of(&self, partition: Partition) -> QueueDepth {
        let depth = Arc::<AtomicI64>::default();
        self.depths.lock().insert(partition, Arc::clone(&depth));
        QueueDepth { partition, depth, queues: self.clone() }
    }
}

/// How full a partition's queue is. Dropped, the queue is no longer shown.
pub struct QueueDepth {
    partition: Partition,
    depth: Arc<AtomicI64>,
    queues: QueueByPartition,
}

impl QueueDepth {
    /// So much is in it now.
    pub fn set(&self, depth: usize) {
        self.depth.store(i64::try_from(depth).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Something was put in.
    pub fn grew(&self) {
        self.depth.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was taken out.
    pub fn shrank(&self) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }

    /// It was full, and something was held back or left out.
    pub fn was_full(&self) {
        self.queues.hits.inc();
    }
}

impl Drop for QueueDepth {
    fn drop(&mut self) {
        let mut depths = self.queues.depths.lock();
        if depths.get(&self.partition).is_some_and(|depth| Arc::ptr_eq(depth, &self.depth)) {
            depths.remove(&self.partition);
        }
    }
}

/// A limit. Cheap to clone.
#[derive(Clone)]
pub struct Limit {
    places: Arc<Semaphore>,
    depth: IntGauge,
    hits: IntCounter,
}

impl Limit {
    /// A place, if one is left; it is given back when dropped.
    #[must_use]
    pub fn take(&self) -> Option<Place> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => {
                self.depth.inc();
                Some(Place { _permit: permit, depth: self.depth.clone() })
            }
            Err(_) => {
                self.hits.inc();
                None
            }
        }
    }

    /// A place, as soon as one is left; those who wait get one in their order.
    pub async fn wait(&self) -> Place {
        if let Some(place) = self.take() {
            return place;
        }
        let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else {
            unreachable!("the semaphore is never closed")
        };
        self.depth.inc();
        Place { _permit: permit, depth: self.depth.clone() }
    }
}

/// A place under a limit.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    depth: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.depth.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_there_is_no_place_until_one_is_given_back() {
        let metrics = Metrics::new("test");
        let limit = Limits::new(&metrics).limit("streams", 2);
        let (first, second) = (limit.take(), limit.take());
        assert!(first.is_some() && second.is_some() && limit.take().is_none());
        let text = metrics.text();
        assert!(text.contains(r#"coupon_queue_depth{queue="streams",service="test"} 2"#), "{text}");
        assert!(text.contains(r#"coupon_queue_limit{queue="streams",service="test"} 2"#), "{text}");
        assert!(text.contains(r#"coupon_limit_hits_total{limit="streams",service="test"} 1"#), "{text}");
        drop(first);
        assert!(limit.take().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_next_place() {
        let metrics = Metrics::new("test");
        let limit = Limits::new(&metrics).limit("loads", 1);
        let first = limit.wait().await;
        let mut second = std::pin::pin!(limit.wait());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        let _second = second.await;
        assert!(limit.take().is_none());
    }

    #[test]
    fn of_the_partitions_queues_the_fullest_is_shown() {
        let metrics = Metrics::new("test");
        let queues = Limits::new(&metrics).by_partition("handover", 2);
        let shows = |depth: &str| {
            let series = format!(r#"coupon_queue_depth{{queue="handover",service="test"}} {depth}"#);
            metrics.text().lines().any(|line| line == series)
        };
        assert!(shows("0"));
        let partition = |number| Partition::new(number).unwrap();
        let (first, second) = (queues.of(partition(0)), queues.of(partition(1)));
        first.set(1);
        second.grew();
        second.grew();
        assert!(shows("2"));
        second.shrank();
        second.shrank();
        assert!(shows("1"));
        let again = queues.of(partition(0));
        drop(first);
        again.was_full();
        assert!(shows("0"), "a queue that was replaced is no longer shown");
        assert!(metrics.text().contains(r#"coupon_limit_hits_total{limit="handover",service="test"} 1"#));
    }
}
