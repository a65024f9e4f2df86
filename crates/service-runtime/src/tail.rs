//! Reading a topic along on a thread of its own, for as long as the process lives; and once, to its end.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use infrastructure_kafka::{Connection, KafkaError, LogBounds, ReadError, Reader, RecordView};

use crate::exit::Ended;
use crate::health::LoopTurn;
use crate::shutdown::Shutdown;

/// How long a read waits for records. The loop turns at least this often.
pub const POLL: Duration = Duration::from_millis(100);
/// Most records between two turns of the loop.
pub const RECORDS_PER_TURN: usize = 5_000;
/// How often new partitions are looked for.
pub const PARTITIONS_CHECK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Reads again and again: waits out troubles that pass, and ends with the process.
///
/// # Errors
/// [`Ended::Fatal`]: the client is of no use any more.
pub fn keep_reading(
    turn: &LoopTurn,
    shutdown: &Shutdown,
    mut read: impl FnMut() -> Result<(), KafkaError>,
) -> Result<(), Ended> {
    while !shutdown.is_requested() {
        turn.turn();
        match read() {
            Ok(()) => {}
            Err(KafkaError::Fatal(reason)) => return Err(Ended::Fatal(reason)),
            Err(error) => {
                tracing::warn!("the tail waits: {error}");
                let deadline = Instant::now() + RETRY;
                while Instant::now() < deadline && !shutdown.is_requested() {
                    std::thread::park_timeout(POLL);
                }
            }
        }
    }
    Ok(())
}

/// A compacted topic that is read along.
pub struct CompactedTopic<'a> {
    /// Where.
    pub connection: &'a Connection,
    /// Its full name.
    pub name: &'a str,
    /// What for, in the client's log.
    pub purpose: &'static str,
    /// The wish to end.
    pub shutdown: &'a Shutdown,
    /// Proves that the loop turns.
    pub turn: &'a LoopTurn,
    /// The next offset of each partition: kept while this lives, whatever comes between two reads.
    pub places: RefCell<Vec<i64>>,
}

/// True where the topic has other partitions than `known`. Who cannot be asked now is asked again later.
///
/// # Errors
/// [`KafkaError::Fatal`]: the client is of no use any more.
pub fn has_grown(reader: &Reader, known: usize) -> Result<bool, KafkaError> {
    match reader.partition_count() {
        Ok(count) => Ok(usize::try_from(count) != Ok(known)),
        Err(fatal @ KafkaError::Fatal(_)) => Err(fatal),
        Err(error) => {
            tracing::debug!(
                topic = reader.topic(),
                "how many partitions there are is not known now: {error}"
            );
            Ok(false)
        }
    }
}

impl CompactedTopic<'_> {
    /// Reads all partitions, from their beginning or from where an earlier read broke off, until the process ends, or the topic has grown or moved. `begin` is
    /// told from where each partition is read, `take` each record; `at_end` is called again and again from when the ends that they had at the beginning are reached, and may ask
    /// the reader for the ends that they have now.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn read(
        &self,
        begin: impl FnOnce(&[i64]),
        mut take: impl FnMut(&RecordView<'_>),
        mut at_end: impl FnMut(&Reader),
    ) -> Result<(), KafkaError> {
        let reader = Reader::new(self.connection, self.name, self.purpose)?;
        let count = reader.partition_count()?;
        let mut bounds = Vec::new();
        let known = usize::try_from(count).unwrap_or(0);
        self.places.borrow_mut().resize(known, 0);
        for (partition, place) in (0..count).zip(self.places.borrow_mut().iter_mut()) {
            let found = reader.bounds(partition)?;
            *place = start_in(found, *place);
            bounds.push((partition, LogBounds { start: *place, ..found }));
        }
        begin(&self.places.borrow());
        reader.assign_within(&bounds)?;
        let mut checked = Instant::now();
        while !self.shutdown.is_requested() {
            self.turn.turn();
            let drained = reader.drain(RECORDS_PER_TURN, POLL, |record| {
                take(&record);
                self.read_up_to(&record);
                ControlFlow::Continue(())
            });
            match drained {
                Ok(_) => {}
                Err(ReadError::OutOfRange { .. }) => return Ok(()),
                Err(ReadError::Kafka(error)) => return Err(error),
            }
            if reader.is_at_end() {
                at_end(&reader);
            }
            if checked.elapsed() >= PARTITIONS_CHECK {
                checked = Instant::now();
                if has_grown(&reader, known)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read_up_to(&self, record: &RecordView<'_>) {
        let mut places = self.places.borrow_mut();
        let place = usize::try_from(record.partition()).ok().and_then(|index| places.get_mut(index));
        if let Some(place) = place {
            *place = record.offset().saturating_add(1);
        }
    }
}

/// Where a log is read on that was read up to `place`. One that ends before it is another one.
fn start_in(found: LogBounds, place: i64) -> i64 {
    if found.end < place { found.start } else { place.max(found.start) }
}

/// Reads one partition from `from` on (or from where it begins by now) up to the end that it has now, and returns that end. `turn` is called
/// again and again, and ends the reading by failing.
///
/// # Errors
/// [`ReadError`], or that of `turn`.
pub fn read_to_end<E: From<ReadError>>(
    reader: &Reader,
    partition: i32,
    from: i64,
    mut take: impl FnMut(&RecordView<'_>),
    mut turn: impl FnMut() -> Result<(), E>,
) -> Result<i64, E> {
    let found = reader.bounds(partition).map_err(ReadError::from)?;
    let start = start_in(found, from);
    reader.assign_within(&[(partition, LogBounds { start, ..found })]).map_err(ReadError::from)?;
    while !reader.is_at_end() {
        turn()?;
        reader.drain(RECORDS_PER_TURN, POLL, |record| {
            take(&record);
            ControlFlow::Continue(())
        })?;
    }
    Ok(found.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_on_where_reading_it_broke_off() {
        let found = LogBounds { start: 10, end: 20 };
        assert_eq!(start_in(found, 0), 10, "it was not read yet, or the beginning is gone");
        assert_eq!(start_in(found, 15), 15);
        assert_eq!(start_in(found, 20), 20);
        assert_eq!(start_in(found, 21), 10, "it is another log");
    }
}
