//! `coupon.state`: what gateways need to know of a coupon. Compacted; a tombstone says that the coupon is retired.

use serde::{Deserialize, Serialize};

use crate::coupon::CouponState;
use crate::position::Offset;
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

/// Reads a published state.
///
/// # Errors
/// [`RecordError`]: a newer version, or no state at all.
pub fn decode_state(bytes: &[u8]) -> Result<PublishedState, RecordError> {
    let record: StateRecord<'_> =
        serde_json::from_slice(bytes).map_err(|error| unreadable(bytes, STATE_RECORD_VERSION, &error))?;
    check_version(record.v, STATE_RECORD_VERSION)?;
    Ok(PublishedState { state: record.state.into_owned(), decided_offset: record.decided_offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_record_reads_and_is_written_the_same() {
        let golden = include_str!("../../golden/state_v1.json").trim_end();
        let published = decode_state(golden.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(encode_state(&published)).unwrap(), golden);
        let newer = golden.replacen(r#""v":1"#, r#""v":9"#, 1);
        assert_eq!(decode_state(newer.as_bytes()), Err(RecordError::NewerVersion { found: 9, newest: 1 }));
    }
}
