//! From rows to domain values and back. Whatever a row holds was written by db-writer from values that the domain had checked, so a value
//! that does not fit means that somebody else wrote it.

use coupon_domain::{Offset, Timestamp};
use time::OffsetDateTime;

use crate::connection::PostgresError;

pub(crate) fn to_time(timestamp: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp.ms()) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(crate) fn from_time(time: OffsetDateTime) -> Result<Timestamp, PostgresError> {
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_ms(ms).ok())
        .ok_or_else(|| PostgresError::Torn(format!("the time {time} is out of range")))
}

pub(crate) fn offset(column: &str, number: i64) -> Result<Offset, PostgresError> {
    Offset::new(number).map_err(|error| PostgresError::Torn(format!("{column}: {error}")))
}

/// A number of another width; the column's name is for the error.
pub(crate) fn number<T: TryFrom<N>, N: Copy + std::fmt::Display>(
    column: &str,
    found: N,
) -> Result<T, PostgresError> {
    T::try_from(found).map_err(|_| PostgresError::Torn(format!("{column} is {found}")))
}

/// Slots are 64 bits without a sign; PostgreSQL's bigint has one.
pub(crate) fn slot_to_column(slot: coupon_domain::Slot) -> i64 {
    i64::from_be_bytes(slot.0.to_be_bytes())
}

pub(crate) fn slot_from_column(slot: i64) -> coupon_domain::Slot {
    coupon_domain::Slot(u64::from_be_bytes(slot.to_be_bytes()))
}

/// A claim's id from its columns; `column` names the round's for the error.
pub(crate) fn claim_id(
    coupon_id: coupon_domain::CouponId,
    (column, round): (&str, i16),
    slot: i64,
    mac: uuid::Uuid,
) -> Result<coupon_domain::ClaimId, PostgresError> {
    let round = coupon_domain::Round::new(number(column, round)?)
        .map_err(|error| PostgresError::Torn(format!("{column}: {error}")))?;
    Ok(coupon_domain::ClaimId { coupon_id, round, slot: slot_from_column(slot), mac: mac.into_bytes() })
}
