//! `coupon.persisted`: how far PostgreSQL reflects a partition.

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::position::{Offset, Partition};
use crate::wire::{PERSISTED_RECORD_VERSION, RecordError, check_version, unreadable};

/// The db-writer's watermark of one partition, published after it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistedWatermark {
    /// Which partition.
    pub partition: Partition,
    /// The first claims offset whose outcome PostgreSQL does not reflect yet.
    pub next_src: Offset,
    /// The outcomes offset to read next.
    pub next_outcome_offset: Offset,
    /// The chain behind the last reflected outcome.
    pub chain: Chain,
    /// PostgreSQL's own name for its cluster (`pg_control_system()`), in decimal: another one is another database.
    pub system_identifier: String,
    /// A number in the progress row that only grows; a lower one than was ever published is a database put back in time.
    pub beat: i64,
    /// Drawn anew by whoever raised the beat: two of one beat were given by two databases. Absent where an older release wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct PersistedRecord<'a> {
    v: u32,
    #[serde(flatten)]
    watermark: std::borrow::Cow<'a, PersistedWatermark>,
}

/// The record of a watermark.
#[must_use]
pub fn encode_persisted(watermark: &PersistedWatermark) -> Vec<u8> {
    super::encode(&PersistedRecord {
        v: PERSISTED_RECORD_VERSION,
        watermark: std::borrow::Cow::Borrowed(watermark),
    })
}

/// Reads a watermark.
///
/// # Errors
/// [`RecordError`]: a newer version, or no watermark at all.
pub fn decode_persisted(bytes: &[u8]) -> Result<PersistedWatermark, RecordError> {
    let record: PersistedRecord<'_> =
        serde_json::from_slice(bytes).map_err(|error| unreadable(bytes, PERSISTED_RECORD_VERSION, &error))?;
    check_version(record.v, PERSISTED_RECORD_VERSION)?;
    Ok(record.watermark.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_record_reads_and_is_written_the_same() {
        let golden = include_str!("../../golden/persisted_v1.json").trim_end();
        let watermark = decode_persisted(golden.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(encode_persisted(&watermark)).unwrap(), golden);
        let stamped = PersistedWatermark { stamp: Some(7), ..watermark };
        assert_eq!(decode_persisted(&encode_persisted(&stamped)).unwrap(), stamped);
    }
}
