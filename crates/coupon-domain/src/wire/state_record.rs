//! `coupon.state`: what gateways need to know. Compacted. Of each coupon its state, under its id; a tombstone says that it is retired. Of each partition how far
//! it is decided, under [`decided_key`]: a small record of its own, so that a line that moves says nothing of coupons that do not.

use serde::{Deserialize, Serialize};

use crate::coupon::CouponState;
use crate::halt::HaltReason;
use crate::position::{Offset, Partition};
use crate::wire::{RecordError, STATE_RECORD_VERSION, check_version, unreadable};

/// A coupon's state and how far the line was decided when it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedState {
    /// The coupon.
    pub state: CouponState,
    /// The partition's last durably decided claims offset; absent before the first. Of two states of a coupon the one with the higher
    /// offset is the newer.
    pub decided_offset: Option<Offset>,
}

#[derive(Serialize, Deserialize)]
struct StateRecord<'a> {
    v: u32,
    #[serde(flatten)]
    state: std::borrow::Cow<'a, CouponState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decided_offset: Option<Offset>,
}

/// The record of a published state.
#[must_use]
pub fn encode_state(published: &PublishedState) -> Vec<u8> {
    super::encode(&StateRecord {
        v: STATE_RECORD_VERSION,
        state: std::borrow::Cow::Borrowed(&published.state),
        decided_offset: published.decided_offset,
    })
}

fn decode_state(bytes: &[u8]) -> Result<PublishedState, RecordError> {
    let record: StateRecord<'_> =
        serde_json::from_slice(bytes).map_err(|error| unreadable(bytes, STATE_RECORD_VERSION, &error))?;
    check_version(record.v, STATE_RECORD_VERSION)?;
    Ok(PublishedState { state: record.state.into_owned(), decided_offset: record.decided_offset })
}

/// How far a partition is decided, and whether it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedUpTo {
    /// Which partition.
    pub partition: Partition,
    /// Its last durably decided claims offset; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_offset: Option<Offset>,
    /// Why it stands still, if it does; a reason that this release does not know reads as none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "halt_name")]
    pub halted: Option<HaltReason>,
}

mod halt_name {
    use std::borrow::Cow;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::halt::HaltReason;

    #[expect(clippy::ref_option, reason = "serde passes the field so")]
    pub(super) fn serialize<S: Serializer>(
        reason: &Option<HaltReason>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        reason.map(HaltReason::as_str).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<HaltReason>, D::Error> {
        let name = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        Ok(name.and_then(|name| HaltReason::from_name(&name)))
    }
}

/// A record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRecordBody {
    /// Of a coupon.
    Coupon(Box<PublishedState>),
    /// Of a partition.
    Decided(DecidedUpTo),
}

#[derive(Serialize, Deserialize)]
struct DecidedRecord {
    v: u32,
    #[serde(flatten)]
    decided: DecidedUpTo,
}

/// The key of the partition's own record: no coupon id begins so.
#[must_use]
pub fn decided_key(partition: Partition) -> String {
    format!("partition-{partition}")
}

/// The record of how far a partition is decided.
#[must_use]
pub fn encode_decided(decided: &DecidedUpTo) -> Vec<u8> {
    super::encode(&DecidedRecord { v: STATE_RECORD_VERSION, decided: *decided })
}

/// Reads a record of the topic.
///
/// # Errors
/// [`RecordError`]: a newer version, or neither a coupon's nor a partition's.
pub fn decode_state_record(bytes: &[u8]) -> Result<StateRecordBody, RecordError> {
    // A coupon's record names no partition.
    if let Ok(DecidedRecord { v, decided }) = serde_json::from_slice(bytes) {
        check_version(v, STATE_RECORD_VERSION)?;
        return Ok(StateRecordBody::Decided(decided));
    }
    decode_state(bytes).map(|published| StateRecordBody::Coupon(Box::new(published)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_record_reads_and_is_written_the_same() {
        let golden = include_str!("../../golden/state_v1.json").trim_end();
        let published = decode_state(golden.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(encode_state(&published)).unwrap(), golden);
        assert_eq!(decode_state_record(golden.as_bytes()), Ok(StateRecordBody::Coupon(Box::new(published))));
        let newer = golden.replacen(r#""v":1"#, r#""v":9"#, 1);
        assert_eq!(decode_state(newer.as_bytes()), Err(RecordError::NewerVersion { found: 9, newest: 1 }));
    }

    #[test]
    fn the_golden_record_of_a_partition_reads_and_is_written_the_same() {
        let golden = include_str!("../../golden/state_v1_decided.json").trim_end();
        let StateRecordBody::Decided(decided) = decode_state_record(golden.as_bytes()).unwrap() else {
            panic!("it is a partition's")
        };
        assert_eq!(String::from_utf8(encode_decided(&decided)).unwrap(), golden);
        let newer = golden.replacen(r#""v":1"#, r#""v":9"#, 1);
        let refused = RecordError::NewerVersion { found: 9, newest: 1 };
        assert_eq!(decode_state_record(newer.as_bytes()), Err(refused));
        let halted = encode_decided(&DecidedUpTo { halted: Some(HaltReason::LogMismatch), ..decided });
        let of_later =
            String::from_utf8(halted.clone()).unwrap().replace("log_mismatch", "of_a_later_release");
        for (bytes, reason) in [(halted, Some(HaltReason::LogMismatch)), (of_later.into_bytes(), None)] {
            let expected = StateRecordBody::Decided(DecidedUpTo { halted: reason, ..decided });
            assert_eq!(decode_state_record(&bytes), Ok(expected));
        }
        assert!(decided_key(decided.partition).parse::<crate::CouponId>().is_err());
    }
}
