//! What lies in the dead-letter queue, and what became of it.
//!
//! A letter is the copy of a record that could not be read. A *resolution* is a later record of the same origin that says what somebody did about
//! it; the queue itself is only ever appended to. A letter without one is open.

use std::collections::BTreeMap;

use infrastructure_kafka::dead_letter::{Resolved, headers};
use infrastructure_kafka::{Connection, Reader, Topic, TopicLayout};

use crate::exit::{Failure, failed};
use crate::log_cursor::{Entry, LogCursor};

/// Where a letter's record stood: partition and offset of the claims topic.
pub(crate) type Origin = (i32, i64);

/// A record that could not be read.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) origin: Origin,
    /// When its copy was appended to the queue, in ms since the epoch.
    pub(crate) parked_at_ms: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Option<Vec<u8>>,
    /// How many bytes the payload had before it was cut.
    pub(crate) original_bytes: usize,
    pub(crate) claim_id: Option<String>,
    pub(crate) reason: String,
    pub(crate) problem: String,
    pub(crate) service: String,
    pub(crate) release: String,
    pub(crate) resolution: Option<Resolution>,
}

/// What somebody did about a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) resolved: Resolved,
    pub(crate) at_ms: i64,
    pub(crate) actor: String,
    pub(crate) note: String,
    /// Redriven: the offset of the new record.
    pub(crate) redriven_offset: Option<i64>,
}

/// Everything in the queue that stood in this installation's claims topic, by origin.
pub(crate) fn read(
    connection: &Connection,
    layout: &TopicLayout,
) -> Result<BTreeMap<Origin, Letter>, Failure> {
    let reader = Reader::new(connection, &layout.name(Topic::DeadLetters), "dead_letters")
        .map_err(failed("reading the dead-letter queue"))?;
    let claims_topic = layout.name(Topic::Claims);
    let mut letters = BTreeMap::new();
    for partition in 0..reader.partition_count().map_err(failed("reading the dead-letter queue"))? {
        let bounds = reader.bounds(partition).map_err(failed("reading the dead-letter queue"))?;
        let mut cursor = LogCursor::new(&reader, partition, bounds)?;
        while let Some(entry) = cursor.next()? {
            if entry.header(headers::ORIGIN_TOPIC) == Some(claims_topic.as_str()) {
                take(entry, &mut letters);
            }
        }
    }
    Ok(letters)
}

fn take(entry: Entry, letters: &mut BTreeMap<Origin, Letter>) {
    let number = |name: &str| entry.header(name)?.parse::<i64>().ok();
    let text = |name: &str| entry.header(name).unwrap_or_default().to_owned();
    let partition = number(headers::ORIGIN_PARTITION).and_then(|number| i32::try_from(number).ok());
    let (Some(partition), Some(offset)) = (partition, number(headers::ORIGIN_OFFSET)) else { return };
    let at_ms = entry.append_time_ms.unwrap_or_default();
    let origin = (partition, offset);
    if let Some(resolved) = entry.header(headers::RESOLUTION).and_then(Resolved::from_name) {
        if let Some(letter) = letters.get_mut(&origin) {
            letter.resolution.get_or_insert(Resolution {
                resolved,
                at_ms,
                actor: text(headers::ACTOR),
                note: text(headers::NOTE),
                redriven_offset: number(headers::REDRIVEN_OFFSET),
            });
        }
        return;
    }
    // A restarted consumer writes a letter again; the first copy counts.
    letters.entry(origin).or_insert_with(|| Letter {
        origin,
        parked_at_ms: at_ms,
        original_bytes: number(headers::ORIGINAL_BYTES)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or_else(|| entry.payload.as_ref().map_or(0, Vec::len)),
        claim_id: entry.header(headers::CLAIM_ID).map(str::to_owned),
        reason: text(headers::REASON),
        problem: text(headers::PROBLEM),
        service: text(headers::SERVICE),
        release: text(headers::RELEASE),
        key: entry.key.clone().unwrap_or_default(),
        payload: entry.payload.clone(),
        resolution: None,
    });
}
