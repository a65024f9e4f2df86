//! Reading a part of a partition record by record.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use infrastructure_kafka::{LogBounds, Reader};

use crate::exit::{Failure, failed};

const RECORDS_PER_TURN: usize = 5_000;
const POLL: Duration = Duration::from_secs(1);
/// Longest silence of a broker that has more records.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A record, out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: i64,
    pub(crate) append_time_ms: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// Reads one partition within bounds, in order.
pub(crate) struct LogCursor<'a> {
    reader: &'a Reader,
    partition: i32,
    end: i64,
    read: VecDeque<Entry>,
}

impl<'a> LogCursor<'a> {
    /// A cursor over these bounds; the reader is the cursor's alone until it is done.
    pub(crate) fn new(reader: &'a Reader, partition: i32, bounds: LogBounds) -> Result<Self, Failure> {
        reader.assign_within(&[(partition, bounds)]).map_err(failed(reader.topic()))?;
        Ok(Self { reader, partition, end: bounds.end, read: VecDeque::new() })
    }

    /// The next record; none behind the last one within the bounds.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        if self.read.is_empty() {
            self.fill()?;
        }
        Ok(self.read.pop_front())
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let silent_since = Instant::now();
        while self.read.is_empty() && !self.reader.is_at_end() {
            if silent_since.elapsed() > SILENCE_MAX {
                return Err(Failure::Failed(format!(
                    "{}: partition {} gave no record for {SILENCE_MAX:?} before its end {}",
                    self.reader.topic(),
                    self.partition,
                    self.end
                )));
            }
            let (end, read) = (self.end, &mut self.read);
            let each = |record: infrastructure_kafka::RecordView<'_>| {
                if record.offset() >= end {
                    return ControlFlow::Break(());
                }
                let headers = record.headers();
                read.push_back(Entry {
                    offset: record.offset(),
                    append_time_ms: record.append_time_ms(),
                    key: record.key().map(<[u8]>::to_vec),
                    payload: record.payload().map(<[u8]>::to_vec),
                    headers: headers
                        .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
                        .collect(),
                });
                ControlFlow::Continue(())
            };
            self.reader.drain(RECORDS_PER_TURN, POLL, each).map_err(failed(self.reader.topic()))?;
        }
        Ok(())
    }
}
