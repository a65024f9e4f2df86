//! Lag, seen from outside: how far the logs and each store have come, and how old what they lack is. A service that is dead is lag here, not a
//! missing series. It looks at ends and watermarks alone, so it is quick however long a pass of the audit takes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{CouponId, Partition, Timestamp, wire};
use infrastructure_kafka::{Connection, KafkaError, LogBounds, ReadError, Reader, Topic, TopicLayout};
use infrastructure_postgres::{PostgresSection, coupons, progress};
use infrastructure_redis::ViewMaintenance;
use service_runtime::tail::{POLL, RECORDS_PER_TURN};
use service_runtime::{Clock, LoopTurn, Shutdown};
use tokio::runtime::Handle;

use crate::metrics::{ServiceMetrics, seconds_since};

/// How long a store may take to say how far it is.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the records are waited for whose age is the lag; later the age stays what it was.
const AGE_PATIENCE: Duration = Duration::from_secs(2);

/// What is looked at.
pub(crate) struct Sources {
    pub(crate) connection: Connection,
    pub(crate) layout: TopicLayout,
    pub(crate) postgres: PostgresSection,
    pub(crate) view: ViewMaintenance,
    pub(crate) runtime: Handle,
    pub(crate) clock: Clock,
    pub(crate) metrics: ServiceMetrics,
}

/// How far everybody has come in a partition: next offsets of the claims log; what is not known yet is absent.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    log: i64,
    decided: Option<i64>,
    /// Where the outcomes log is read on.
    next_outcome: Option<i64>,
    postgres: Option<i64>,
    /// The view that is furthest behind; absent where no coupon has one.
    view: Option<i64>,
}

/// What is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Decide,
    Persist,
    View,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Decide, Self::Persist, Self::View];

    fn as_str(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Persist => "persist",
            Self::View => "view",
        }
    }
}

impl Line {
    /// The first record that a stage has still to do, and the one behind the last.
    fn behind(&self, stage: Stage) -> Option<(i64, i64)> {
        let decided = self.decided?;
        match stage {
            Stage::Decide => Some((decided, self.log.max(decided))),
            Stage::Persist => Some((self.postgres?.min(decided), decided)),
            Stage::View => Some((self.view.unwrap_or(decided).min(decided), decided)),
        }
    }
}

/// The clients of a look, kept from one to the next.
struct Readers {
    claims: Reader,
    outcomes: Reader,
}

/// Looks again and again.
pub(crate) struct Lag<'a> {
    sources: &'a Sources,
    turn: &'a LoopTurn,
    shutdown: &'a Shutdown,
    readers: Option<Readers>,
    lines: BTreeMap<i32, Line>,
    /// Coupons that are not closed, as PostgreSQL said last.
    live: Vec<CouponId>,
    /// Append times of records, by partition and stage, with the offset that they are of.
    times: BTreeMap<(i32, Stage), (i64, Timestamp)>,
}

impl<'a> Lag<'a> {
    pub(crate) fn new(sources: &'a Sources, turn: &'a LoopTurn, shutdown: &'a Shutdown) -> Self {
        let (lines, times) = (BTreeMap::new(), BTreeMap::new());
        Self { sources, turn, shutdown, readers: None, lines, live: Vec::new(), times }
    }

    /// Looks once. Says what did not answer; what is known of the rest is shown.
    ///
    /// # Errors
    /// The client of Kafka is of no use any more.
    pub(crate) fn look(&mut self) -> Result<Vec<String>, KafkaError> {
        let mut silent = Vec::new();
        // In the order in which each can only be behind the next.
        let stored = self.look_at_postgres();
        self.sources.metrics.postgres_up.set(i64::from(stored.is_ok()));
        silent.extend(stored.err().map(|error| format!("PostgreSQL: {error}")));
        let viewed = self.look_at_view();
        self.sources.metrics.redis_answered(viewed.is_ok());
        silent.extend(viewed.err().map(|error| format!("Redis: {error}")));
        match self.look_at_logs() {
            Ok(()) => {
                self.sources.metrics.kafka.up.set(1);
                self.show();
            }
            Err(KafkaError::Fatal(reason)) => return Err(KafkaError::Fatal(reason)),
            Err(error) => {
                self.sources.metrics.kafka.up.set(0);
                self.readers = None;
                silent.push(format!("Kafka: {error}"));
            }
        }
        Ok(silent)
    }

    /// The watermark of each partition, and the coupons that are not closed.
    fn look_at_postgres(&mut self) -> Result<(), String> {
        let (sources, now) = (self.sources, self.sources.clock.now());
        let partitions: Vec<i32> = match self.lines.keys().last() {
            Some(last) => (0..=*last).collect(),
            None => (0..i32::from(sources.connection.section().partitions)).collect(),
        };
        let asking = async {
            let mut connection = infrastructure_postgres::Connection::open(&sources.postgres).await?;
            let (mut found, mut live) = (Vec::new(), Vec::new());
            for number in partitions {
                let Ok(partition) = Partition::new(number) else { continue };
                found.push((number, progress::load(&mut connection, partition).await?));
                let states = coupons::in_partition(&mut connection, partition).await?;
                live.extend(
                    states.iter().filter(|state| !state.is_closed_at(now)).map(|state| state.coupon_id),
                );
            }
            Ok::<_, infrastructure_postgres::PostgresError>((found, live))
        };
        let asked =
            self.sources.runtime.block_on(async { tokio::time::timeout(STORE_PATIENCE, asking).await });
        self.turn.turn();
        let (found, live) = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {STORE_PATIENCE:?}")),
        };
        for (number, progress) in found {
            let line = self.lines.entry(number).or_default();
            let watermark = progress.map(|progress| progress.watermark);
            let next_src = watermark.map_or(0, |watermark| watermark.next_src.number());
            line.postgres = Some(next_src);
            // From there on the outcomes log tells the rest.
            let next_outcome = watermark.map_or(0, |watermark| watermark.next_outcome_offset.number());
            line.next_outcome.get_or_insert(next_outcome);
            line.decided = line.decided.max(Some(next_src));
        }
        self.live = live;
        Ok(())
    }

    /// The lowest watermark of each partition's views. A coupon that has none is not reflected at all.
    fn look_at_view(&mut self) -> Result<(), String> {
        let (sources, live) = (self.sources, &self.live);
        let asking = async {
            let mut lowest = BTreeMap::<i32, i64>::new();
            for coupon_id in live {
                let watermark = sources.view.watermark(*coupon_id).await?;
                let next_src =
                    watermark.and_then(ViewWatermark::next_src).map_or(0, |next_src| next_src.number());
                let known = lowest.entry(coupon_id.partition().number()).or_insert(next_src);
                *known = next_src.min(*known);
            }
            // So that a Redis which nothing is asked of is seen, too.
            if live.is_empty() {
                sources.view.ping().await?;
            }
            Ok::<_, infrastructure_redis::RedisError>(lowest)
        };
        let asked = sources.runtime.block_on(async { tokio::time::timeout(STORE_PATIENCE, asking).await });
        self.turn.turn();
        let lowest = match asked {
            Ok(Ok(lowest)) => lowest,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {STORE_PATIENCE:?}")),
        };
        for (number, line) in &mut self.lines {
            line.view = lowest.get(number).copied();
        }
        Ok(())
    }

    fn look_at_logs(&mut self) -> Result<(), KafkaError> {
        let readers = match self.readers.take() {
            Some(readers) => readers,
            None => {
                let open =
                    |topic| Reader::new(&self.sources.connection, &self.sources.layout.name(topic), "lag");
                Readers { claims: open(Topic::Claims)?, outcomes: open(Topic::Outcomes)? }
            }
        };
        for number in 0..readers.claims.partition_count()? {
            self.lines.entry(number).or_default();
        }
        self.read_outcomes(&readers.outcomes)?;
        let mut starts = BTreeMap::new();
        for (number, line) in &mut self.lines {
            let bounds = readers.claims.bounds(*number)?;
            line.log = bounds.end;
            starts.insert(*number, bounds.start);
            self.turn.turn();
        }
        for stage in Stage::ALL {
            self.read_times(&readers.claims, stage, &starts)?;
        }
        self.readers = Some(readers);
        Ok(())
    }

    /// Reads on for the highest offset that is answered: copies of a consumer that was thought dead may stand last.
    fn read_outcomes(&mut self, reader: &Reader) -> Result<(), KafkaError> {
        let mut unread = Vec::new();
        for (number, line) in &mut self.lines {
            let bounds = reader.bounds(*number)?;
            self.turn.turn();
            // A log that ends before the place that was read is another one.
            let known = line.next_outcome.filter(|next| *next <= bounds.end);
            if known.is_none() && line.next_outcome.is_some() {
                line.decided = line.postgres;
            }
            let start = known.unwrap_or(bounds.start).max(bounds.start);
            if start == 0 {
                // Nothing was ever answered before it.
                line.decided.get_or_insert(0);
            }
            line.next_outcome = Some(start);
            if start < bounds.end {
                unread.push((*number, LogBounds { start, end: bounds.end }));
            }
        }
        reader.assign_within(&unread)?;
        while !reader.is_at_end() && !self.shutdown.is_requested() {
            self.turn.turn();
            let lines = &mut self.lines;
            let drained = reader.drain(RECORDS_PER_TURN, POLL, |record| {
                if let Some(line) = lines.get_mut(&record.partition()) {
                    line.next_outcome = Some(record.offset().saturating_add(1));
                    // What cannot be read is the audit's to tell.
                    if let Ok(outcome) = wire::decode_outcome(record.payload().unwrap_or_default()) {
                        line.decided = line.decided.max(Some(outcome.src_offset.next().number()));
                    }
                }
                ControlFlow::Continue(())
            });
            moved_on(drained)?;
        }
        reader.assign(&[])?;
        // Statistics are told only to those who ask.
        moved_on(reader.drain(1, Duration::ZERO, |_| ControlFlow::Break(())))
    }

    /// Reads when the first records were appended that a stage has still to do, of all partitions at once.
    fn read_times(
        &mut self,
        reader: &Reader,
        stage: Stage,
        starts: &BTreeMap<i32, i64>,
    ) -> Result<(), KafkaError> {
        let mut wanted = BTreeMap::new();
        for (number, line) in &self.lines {
            let Some((first, end)) = line.behind(stage).filter(|(first, end)| first < end) else {
                self.times.remove(&(*number, stage));
                continue;
            };
            // Where retention took it, the oldest that is left.
            let first = first.max(starts.get(number).copied().unwrap_or(0));
            let known = self.times.get(&(*number, stage)).is_some_and(|(offset, _)| *offset == first);
            if !known && first < line.log.min(end) {
                wanted.insert(*number, first);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let assigned: Vec<(i32, i64)> = wanted.iter().map(|(number, first)| (*number, *first)).collect();
        reader.assign(&assigned)?;
        let deadline = Instant::now() + AGE_PATIENCE;
        while !wanted.is_empty() && Instant::now() < deadline && !self.shutdown.is_requested() {
            self.turn.turn();
            let times = &mut self.times;
            moved_on(reader.drain(RECORDS_PER_TURN, POLL, |record| {
                let time = record.append_time_ms().and_then(|ms| Timestamp::from_ms(ms).ok());
                if let (Some(first), Some(time)) = (wanted.remove(&record.partition()), time) {
                    times.insert((record.partition(), stage), (first, time));
                }
                if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }))?;
        }
        reader.assign(&[])
    }

    fn show(&self) {
        let (metrics, now) = (&self.sources.metrics, self.sources.clock.now());
        for (number, line) in &self.lines {
            let partition = number.to_string();
            let stores = [
                ("log", Some(line.log)),
                ("outcomes", line.decided),
                ("postgres", line.postgres),
                ("redis", line.view),
            ];
            for (store, next) in stores {
                let labels = [store, partition.as_str()];
                match next {
                    Some(next) => metrics.watermark.with_label_values(&labels).set(next),
                    None => drop(metrics.watermark.remove_label_values(&labels)),
                }
            }
            for stage in Stage::ALL {
                let Some((first, end)) = line.behind(stage) else { continue };
                let labels = [stage.as_str(), partition.as_str()];
                metrics.lag_claims.with_label_values(&labels).set(end - first);
                let time = self.times.get(&(*number, stage));
                let seconds = time.map_or(0.0, |(_, time)| seconds_since(time.ms(), now));
                metrics.lag_seconds.with_label_values(&labels).set(seconds);
            }
        }
    }
}

/// A place that retention has taken meanwhile is looked for again next time.
fn moved_on(drained: Result<usize, ReadError>) -> Result<(), KafkaError> {
    match drained {
        Ok(_) | Err(ReadError::OutOfRange { .. }) => Ok(()),
        Err(ReadError::Kafka(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_behind_the_one_before_it() {
        let line =
            Line { log: 10, decided: Some(7), next_outcome: Some(9), postgres: Some(4), view: Some(6) };
        let behind = Stage::ALL.map(|stage| line.behind(stage));
        assert_eq!(behind, [Some((7, 10)), Some((4, 7)), Some((6, 7))]);
        // PostgreSQL read before the log was put back, no view at all: nothing is behind.
        let line = Line { postgres: Some(9), view: None, ..line };
        assert_eq!(line.behind(Stage::Persist), Some((7, 7)));
        assert_eq!(line.behind(Stage::View), Some((7, 7)));
        assert_eq!(Line::default().behind(Stage::Decide), None);
    }
}
