//! Reading a part of a partition record by record, to its end and no further.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::client::KafkaError;
use crate::reader::{LogBounds, ReadError, Reader, RecordView};

const RECORDS_PER_TURN: usize = 5_000;
const POLL: Duration = Duration::from_secs(1);
/// Longest silence of a broker that has more records.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A record, out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, in ms since the epoch; absent where the topic keeps the producer's time instead.
    pub append_time_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// The text of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

impl From<RecordView<'_>> for Entry {
    fn from(record: RecordView<'_>) -> Self {
        let headers = record.headers();
        Self {
            offset: record.offset(),
            append_time_ms: record.append_time_ms(),
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
                .collect(),
        }
    }
}

/// Reads one partition within bounds, in order. Blocks its thread.
pub struct LogCursor<'a> {
    reader: &'a Reader,
    partition: i32,
    end: i64,
    read: VecDeque<Entry>,
}

impl<'a> LogCursor<'a> {
    /// A cursor over these bounds; the reader is the cursor's alone until it is done.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn new(reader: &'a Reader, partition: i32, bounds: LogBounds) -> Result<Self, KafkaError> {
        reader.assign_within(&[(partition, bounds)])?;
        Ok(Self { reader, partition, end: bounds.end, read: VecDeque::new() })
    }

    /// The next record; none behind the last one within the bounds.
    ///
    /// # Errors
    /// [`ReadError`]; also where the broker gives nothing for [`SILENCE_MAX`] though there is more.
    #[expect(clippy::should_implement_trait, reason = "an iterator would hide the error that ends it")]
    pub fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        if self.read.is_empty() {
            self.fill()?;
        }
        Ok(self.read.pop_front())
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let silent_since = Instant::now();
        while self.read.is_empty() && !self.reader.is_at_end() {
            if silent_since.elapsed() > SILENCE_MAX {
                let (topic, partition, end) = (self.reader.topic(), self.partition, self.end);
                let silence =
                    format!("{topic}/{partition}: no record for {SILENCE_MAX:?} before its end {end}");
                return Err(KafkaError::Unreachable(silence).into());
            }
            let (end, read) = (self.end, &mut self.read);
            self.reader.drain(RECORDS_PER_TURN, POLL, |record| {
                if record.offset() >= end {
                    return ControlFlow::Break(());
                }
                read.push_back(Entry::from(record));
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }
}
