//! What lies in the queue, and what became of it.
//!
//! A letter is the copy of a record that could not be read. A *resolution* is a later record of the same origin that says what somebody did about
//! it; the queue itself is only ever appended to. A letter without one is open.

use std::collections::BTreeMap;

use super::{Resolved, headers};
use crate::client::Connection;
use crate::log_cursor::{Entry, LogCursor};
use crate::reader::{ReadError, Reader};
use crate::topics::{Topic, TopicLayout};

/// Where a letter's record stood: partition and offset of the topic it stood in.
pub type Origin = (i32, i64);

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where its record stood.
    pub origin: Origin,
    /// When its copy was appended to the queue, in ms since the epoch.
    pub parked_at_ms: i64,
    /// Its key, cut to [`super::KEY_BYTES_MAX`].
    pub key: Vec<u8>,
    /// Its bytes, cut to [`super::PAYLOAD_BYTES_MAX`].
    pub payload: Option<Vec<u8>>,
    /// How many bytes the payload had before it was cut.
    pub original_bytes: usize,
    /// The claim it would have been, where that much could be read.
    pub claim_id: Option<String>,
    /// The closed reason, as in its outcome.
    pub reason: String,
    /// What exactly was wrong, for people.
    pub problem: String,
    /// Who could not read it.
    pub service: String,
    /// Which release that was.
    pub release: String,
    /// What somebody did about it; none as long as it is open.
    pub resolution: Option<LetterResolution>,
}

/// What somebody did about a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterResolution {
    /// What.
    pub resolved: Resolved,
    /// When it was noted, in ms since the epoch.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// Why.
    pub note: String,
    /// Redriven: the offset of the new record.
    pub redriven_offset: Option<i64>,
}

/// Whether letters are read with their bytes: up to [`super::PAYLOAD_BYTES_MAX`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payloads {
    /// With them.
    Kept,
    /// Without them.
    LeftOut,
}

/// The queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Everything that stood in this installation's claims topic, by origin.
    pub letters: BTreeMap<Origin, Letter>,
    /// False where retention has taken letters already.
    pub is_whole: bool,
}

/// Reads the queue. Blocks its thread.
///
/// # Errors
/// [`ReadError`].
pub fn read(connection: &Connection, layout: &TopicLayout, payloads: Payloads) -> Result<Queue, ReadError> {
    let reader = Reader::new(connection, &layout.name(Topic::DeadLetters), "dead letters")?;
    let claims_topic = layout.name(Topic::Claims);
    let (mut letters, mut is_whole) = (BTreeMap::new(), true);
    for partition in 0..reader.partition_count()? {
        let bounds = reader.bounds(partition)?;
        is_whole &= bounds.start == 0;
        let mut cursor = LogCursor::new(&reader, partition, bounds)?;
        while let Some(mut entry) = cursor.next()? {
            if payloads == Payloads::LeftOut {
                entry.payload = None;
            }
            if entry.header(headers::ORIGIN_TOPIC) == Some(claims_topic.as_str()) {
                take(entry, &mut letters);
            }
        }
    }
    Ok(Queue { letters, is_whole })
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
            // The first word counts: later ones found the letter open in a race.
            letter.resolution.get_or_insert(LetterResolution {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, headers: &[(&str, &str)]) -> Entry {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Entry { offset, append_time_ms: Some(offset), key: None, payload: None, headers: headers.collect() }
    }

    #[test]
    fn a_letter_is_open_until_its_first_resolution() {
        let origin = [(headers::ORIGIN_PARTITION, "3"), (headers::ORIGIN_OFFSET, "7")];
        let mut letters = BTreeMap::new();
        take(entry(0, &[origin[0], origin[1], (headers::REASON, "undecodable")]), &mut letters);
        take(entry(1, &[origin[0], origin[1], (headers::REASON, "a copy")]), &mut letters);
        let letter = letters.get(&(3, 7)).unwrap();
        assert_eq!(
            (letter.reason.as_str(), letter.parked_at_ms, &letter.resolution),
            ("undecodable", 0, &None)
        );
        for (at, how) in [(2, "redriven"), (3, "discarded")] {
            take(entry(at, &[origin[0], origin[1], (headers::RESOLUTION, how)]), &mut letters);
        }
        let resolution = letters.get(&(3, 7)).unwrap().resolution.clone().unwrap();
        assert_eq!((resolution.resolved, resolution.at_ms), (Resolved::Redriven, 2));
    }

    #[test]
    fn what_names_no_origin_is_no_letter() {
        let mut letters = BTreeMap::new();
        take(entry(0, &[(headers::REASON, "?")]), &mut letters);
        take(entry(1, &[(headers::ORIGIN_PARTITION, "x"), (headers::ORIGIN_OFFSET, "1")]), &mut letters);
        take(
            entry(
                2,
                &[
                    (headers::ORIGIN_PARTITION, "1"),
                    (headers::ORIGIN_OFFSET, "1"),
                    (headers::RESOLUTION, "redriven"),
                ],
            ),
            &mut letters,
        );
        assert!(letters.is_empty());
    }
}
