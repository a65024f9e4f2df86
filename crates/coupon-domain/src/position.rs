//! Where a record stands: the partition (the line) and the offset (the place in it).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::PARTITION_MAX;

/// The number of a partition, the same in every topic that is keyed by coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Partition(u16);

/// A number that is no partition: negative or above [`PARTITION_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("partition {0} is outside 0..={max}", max = PARTITION_MAX)]
pub struct PartitionOutOfRange(pub i32);

impl Partition {
    /// The partition with this number.
    ///
    /// # Errors
    /// The number is negative or above [`PARTITION_MAX`].
    pub fn new(number: i32) -> Result<Self, PartitionOutOfRange> {
        match u16::try_from(number) {
            Ok(small) if small <= PARTITION_MAX => Ok(Self(small)),
            _ => Err(PartitionOutOfRange(number)),
        }
    }

    /// The number, as Kafka counts it.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// The number as an index or a size.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl TryFrom<i32> for Partition {
    type Error = PartitionOutOfRange;

    fn try_from(number: i32) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

impl From<Partition> for i32 {
    fn from(partition: Partition) -> Self {
        partition.number()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's place in its partition, counted from zero. `next_…` offsets name the first record not yet reflected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Offset(i64);

/// A negative number is no offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {0} is negative")]
pub struct NegativeOffset(pub i64);

impl Offset {
    /// The first place of a partition.
    pub const ZERO: Self = Self(0);

    /// The offset with this number.
    ///
    /// # Errors
    /// The number is negative (Kafka's logical offsets are not places).
    pub fn new(number: i64) -> Result<Self, NegativeOffset> {
        if number < 0 { Err(NegativeOffset(number)) } else { Ok(Self(number)) }
    }

    /// The number, as Kafka counts it.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The place behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The place before this one; none before the first.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(Self(self.0 - 1)) }
    }

    /// How many places lie between `earlier` and this one; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl TryFrom<i64> for Offset {
    type Error = NegativeOffset;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

impl From<Offset> for i64 {
    fn from(offset: Offset) -> Self {
        offset.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
