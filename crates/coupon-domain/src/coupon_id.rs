//! The id of a coupon. It contains the partition, so that whoever holds an id knows the line without a table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::limits::PARTITION_MAX;
use crate::position::Partition;

/// `c<partition>-<32 hex digits>`: the partition in decimal, then a UUID (version 7 where we make it) that is never
/// reused. One coupon has one spelling: lower case, no leading zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CouponId {
    partition: Partition,
    unique: Uuid,
}

/// Longest spelling of a coupon id, in bytes.
pub const COUPON_ID_BYTES_MAX: usize = 1 + 4 + 1 + 32;

/// Why a text is no coupon id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a coupon id reads c<partition>-<32 lower-case hex digits>, with a partition of 0..={max}", max = PARTITION_MAX)]
pub struct MalformedCouponId;

impl CouponId {
    /// The coupon with this unique part, in this partition.
    #[must_use]
    pub fn new(partition: Partition, unique: Uuid) -> Self {
        Self { partition, unique }
    }

    /// The line this coupon stands in.
    #[must_use]
    pub fn partition(self) -> Partition {
        self.partition
    }

    /// The part that no other coupon has.
    #[must_use]
    pub fn unique(self) -> Uuid {
        self.unique
    }

    /// Appends the spelling to `out`.
    pub(crate) fn write_to(self, out: &mut smallvec::SmallVec<[u8; 128]>) {
        out.push(b'c');
        write_decimal(self.partition.number().unsigned_abs(), out);
        out.push(b'-');
        out.extend_from_slice(self.unique.simple().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    }
}

/// Appends `number` in decimal digits.
pub(crate) fn write_decimal(number: u32, out: &mut smallvec::SmallVec<[u8; 128]>) {
    if number >= 10 {
        write_decimal(number / 10, out);
    }
    out.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
}

/// Reads digits that have one spelling only: no sign, no leading zero.
pub(crate) fn parse_decimal(text: &str) -> Option<u32> {
    let canonical = !text.is_empty()
        && text.len() <= 9
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// True where `text` is made of lower-case hex digits alone.
pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for CouponId {
    type Err = MalformedCouponId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, unique) =
            text.strip_prefix('c').and_then(|rest| rest.split_once('-')).ok_or(MalformedCouponId)?;
        let partition = parse_decimal(partition)
            .and_then(|number| i32::try_from(number).ok())
            .and_then(|number| Partition::new(number).ok())
            .ok_or(MalformedCouponId)?;
        if unique.len() != 32 || !is_lower_hex(unique) {
            return Err(MalformedCouponId);
        }
        let unique = Uuid::try_parse_ascii(unique.as_bytes()).map_err(|_| MalformedCouponId)?;
        Ok(Self { partition, unique })
    }
}

impl fmt::Display for CouponId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}-{}", self.partition, self.unique.simple())
    }
}

impl fmt::Debug for CouponId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for CouponId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = smallvec::SmallVec::new();
        self.write_to(&mut text);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for CouponId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_names_its_partition() {
        let id = CouponId::new(Partition::new(120).unwrap(), Uuid::from_u128(7));
        assert_eq!(id.to_string(), "c120-00000000000000000000000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.partition().number(), 120);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }

    #[test]
    fn one_coupon_has_one_spelling() {
        for wrong in [
            "",
            "c1",
            "c-00000000000000000000000000000007",
            "c01-00000000000000000000000000000007",
            "c+1-00000000000000000000000000000007",
            "c10000-00000000000000000000000000000007",
            "c1-0000000000000000000000000000000A",
            "c1-0000000000000000000000000000007",
            "c1-00000000-0000-0000-0000-00000000",
            "C1-00000000000000000000000000000007",
            "c1-00000000000000000000000000000007 ",
        ] {
            assert_eq!(wrong.parse::<CouponId>(), Err(MalformedCouponId), "{wrong:?}");
        }
    }
}
