//! What was published of PostgreSQL: `coupon.persisted`, read along. By it a gateway knows a database that was put back in time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coupon_domain::Partition;
use coupon_domain::restored::PublishedBeats;
use coupon_domain::wire::{PersistedWatermark, decode_persisted};
use infrastructure_kafka::{Connection, LogBounds, Reader, RecordView};
use parking_lot::RwLock;
use service_runtime::tail::{CompactedTopic, keep_reading};
use service_runtime::{Context, Ended, LoopTurn};
use tokio::sync::watch;

use crate::config::Config;

/// How long a request waits until everything is known that had been published before its connection was made. It waits only on a new
/// connection; with Kafka away it then goes without an answer.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Its name among what `/readyz` tells.
const NOTE: &str = "persisted";

/// What is known, and up to when.
pub(crate) struct Published {
    beats: RwLock<Arc<PublishedBeats>>,
    /// Somebody wants to know everything that was published up to now.
    asked: AtomicBool,
    /// Everything that had been published by this moment is known.
    known_until: watch::Sender<Option<Instant>>,
    /// When each partition was heard of last.
    heard: RwLock<HashMap<Partition, Instant>>,
    /// Records read so far.
    read: AtomicU64,
    /// The topic has been read to an end once.
    was_at_end: AtomicBool,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            beats: RwLock::default(),
            asked: AtomicBool::new(false),
            known_until: watch::Sender::new(None),
            heard: RwLock::default(),
            read: AtomicU64::new(0),
            was_at_end: AtomicBool::new(false),
        }
    }
}

impl Published {
    /// What is known.
    pub(crate) fn beats(&self) -> Arc<PublishedBeats> {
        Arc::clone(&self.beats.read())
    }

    /// What was committed counts from now on, though it is not in the topic yet: no database may fall behind it.
    pub(crate) fn will_see(&self, watermark: &PersistedWatermark) {
        Arc::make_mut(&mut self.beats.write()).saw(watermark);
    }

    /// Waits until everything is known that had been published by this moment. False: it is not, after a while.
    pub(crate) async fn is_known_until(&self, moment: Instant) -> bool {
        let mut known_until = self.known_until.subscribe();
        let is_enough = |until: &Option<Instant>| until.is_some_and(|until| until >= moment);
        if is_enough(&known_until.borrow()) {
            return true;
        }
        self.asked.store(true, Ordering::Release);
        let waited = tokio::time::timeout(CATCH_UP_MAX, known_until.wait_for(is_enough)).await;
        waited.is_ok_and(|known| known.is_ok())
    }

    /// When something was published of this partition last, as far as it was heard here.
    pub(crate) fn heard(&self, partition: Partition) -> Option<Instant> {
        self.heard.read().get(&partition).copied()
    }

    /// Why not everything is known.
    pub(crate) fn what_is_read(&self) -> String {
        if self.was_at_end.load(Ordering::Acquire) {
            return format!("it was not read to its present end within {} s", CATCH_UP_MAX.as_secs());
        }
        format!("it is being read for the first time, {} records so far", self.read.load(Ordering::Relaxed))
    }

    fn take(&self, record: &RecordView<'_>) {
        self.read.fetch_add(1, Ordering::Relaxed);
        let Some(payload) = record.payload() else { return };
        match decode_persisted(payload) {
            Ok(watermark) => {
                Arc::make_mut(&mut self.beats.write()).saw(&watermark);
                self.heard.write().insert(watermark.partition, Instant::now());
            }
            Err(error) => {
                let (partition, offset) = (record.partition(), record.offset());
                tracing::error!(runbook = "UpgradeAndRollback", partition, offset, "a watermark: {error}");
            }
        }
    }
}

/// Starts reading along, on a thread of its own.
pub(crate) fn start(
    context: &Context<Config>,
    connection: &Connection,
    topic: String,
    published: &Arc<Published>,
) -> Result<(), Ended> {
    let (published, connection) = (Arc::clone(published), connection.clone());
    let turn = context.health.watch_loop("persisted-tail");
    let (shutdown, health) = (context.shutdown.clone(), context.health.clone());
    health.note(
        NOTE,
        Some(
            "coupon.persisted is being read for the first time; redemptions say 503 until its end".to_owned(),
        ),
    );
    let work = move || {
        let topic = CompactedTopic {
            connection: &connection,
            name: &topic,
            purpose: "persisted tail",
            shutdown: &shutdown,
            turn: &turn,
            places: RefCell::default(),
        };
        let place = RefCell::new(Place::default());
        keep_reading(&turn, &shutdown, || {
            // Whoever waits asks anew: the ends are not known any more.
            if place.take().wanted.is_some() {
                published.asked.store(true, Ordering::Release);
            }
            let take = |record: &RecordView<'_>| {
                published.take(record);
                place.borrow_mut().read(record.partition(), record.offset());
            };
            let begin = |places: &[i64]| place.borrow_mut().begin(places);
            topic.read(begin, take, |reader| {
                if !published.was_at_end.swap(true, Ordering::AcqRel) {
                    health.note(NOTE, None);
                }
                place.borrow_mut().catch_up(&published, reader, &turn);
            })
        })
    };
    context.tasks.thread("persisted-tail", work).map(drop)
}

/// How far the topic was read, and how far it is to be read for those who wait.
#[derive(Default)]
struct Place {
    next_offsets: Vec<i64>,
    wanted: Option<Wanted>,
}

/// The ends that partitions had at a moment.
struct Wanted {
    asked_at: Instant,
    bounds: Vec<LogBounds>,
}

impl Place {
    fn begin(&mut self, places: &[i64]) {
        *self = Self { next_offsets: places.to_vec(), wanted: None };
    }

    fn read(&mut self, partition: i32, offset: i64) {
        let next_offset = usize::try_from(partition).ok().and_then(|index| self.next_offsets.get_mut(index));
        if let Some(next_offset) = next_offset {
            *next_offset = offset.saturating_add(1);
        }
    }

    /// Tells those who wait, once the ends that were there when they asked are reached. Compaction never takes a topic's last record.
    fn catch_up(&mut self, published: &Published, reader: &Reader, turn: &LoopTurn) {
        if self.wanted.is_none() && published.asked.swap(false, Ordering::AcqRel) {
            self.wanted = self.ask_for_ends(reader, turn);
            if self.wanted.is_none() {
                published.asked.store(true, Ordering::Release);
            }
        }
        if let Some(wanted) = self.wanted.take_if(|wanted| wanted.is_reached(&self.next_offsets)) {
            published.known_until.send_replace(Some(wanted.asked_at));
        }
    }

    fn ask_for_ends(&self, reader: &Reader, turn: &LoopTurn) -> Option<Wanted> {
        let asked_at = Instant::now();
        let mut bounds = Vec::with_capacity(self.next_offsets.len());
        for partition in (0i32..).take(self.next_offsets.len()) {
            turn.turn();
            match reader.bounds(partition) {
                Ok(found) => bounds.push(found),
                Err(error) => {
                    tracing::debug!(partition, "the end of coupon.persisted is not known: {error}");
                    return None;
                }
            }
        }
        Some(Wanted { asked_at, bounds })
    }
}

impl Wanted {
    fn is_reached(&self, next_offsets: &[i64]) -> bool {
        let mut ends = self.bounds.iter().zip(next_offsets);
        ends.all(|(bounds, next_offset)| bounds.start == bounds.end || *next_offset >= bounds.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_reached_when_everything_before_it_was_read() {
        let bounds = |start, end| LogBounds { start, end };
        let wanted =
            Wanted { asked_at: Instant::now(), bounds: vec![bounds(0, 5), bounds(0, 0), bounds(3, 3)] };
        let mut place = Place::default();
        place.begin(&[0, 0, 0]);
        assert!(!wanted.is_reached(&place.next_offsets));
        place.read(0, 3);
        assert!(!wanted.is_reached(&place.next_offsets));
        place.read(0, 4);
        assert!(wanted.is_reached(&place.next_offsets), "empty partitions have nothing to read");
        place.read(7, 4);
        place.begin(&[4, 0, 0]);
        assert!(!wanted.is_reached(&place.next_offsets), "some was read before");
        place.begin(&[5, 0, 0]);
        assert!(wanted.is_reached(&place.next_offsets), "all of it was read before");
    }

    #[test]
    fn whoever_is_sent_away_hears_what_is_still_read() {
        let published = Published::default();
        published.read.store(7, Ordering::Relaxed);
        assert_eq!(published.what_is_read(), "it is being read for the first time, 7 records so far");
        published.was_at_end.store(true, Ordering::Release);
        assert_eq!(published.what_is_read(), "it was not read to its present end within 1 s");
    }

    #[tokio::test]
    async fn knowledge_is_as_old_as_the_moment_at_which_it_was_asked_for() {
        let published = Published::default();
        let before = Instant::now();
        assert!(!published.is_known_until(before).await, "nobody has read anything");
        assert!(published.asked.load(Ordering::Acquire));
        published.known_until.send_replace(Some(Instant::now()));
        assert!(published.is_known_until(before).await);
        assert!(!published.is_known_until(Instant::now()).await);
    }
}
