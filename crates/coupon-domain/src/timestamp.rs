//! A moment in milliseconds since 1970-01-01T00:00:00Z: the broker's append time, a window's edges, an expiry.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::TIMESTAMP_MS_MAX;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A moment, in whole milliseconds since the epoch, from 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Timestamp(i64);

/// A number of milliseconds outside 1970..=9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} ms since the epoch is outside the years 1970 to 9999")]
pub struct TimestampOutOfRange(pub i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The moment that many milliseconds after the epoch.
    ///
    /// # Errors
    /// It lies before 1970 or after 9999.
    pub fn from_ms(ms: i64) -> Result<Self, TimestampOutOfRange> {
        if (0..=TIMESTAMP_MS_MAX).contains(&ms) { Ok(Self(ms)) } else { Err(TimestampOutOfRange(ms)) }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0
    }

    /// This moment and `days` times 24 hours, at most the end of 9999.
    #[must_use]
    pub fn plus_days(self, days: u16) -> Self {
        self.plus_ms(i64::from(days) * DAY_MS)
    }

    /// This moment moved by `ms` (back if negative), kept within 1970..=9999.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms).clamp(0, TIMESTAMP_MS_MAX))
    }
}

impl TryFrom<i64> for Timestamp {
    type Error = TimestampOutOfRange;

    fn try_from(ms: i64) -> Result<Self, Self::Error> {
        Self::from_ms(ms)
    }
}

impl From<Timestamp> for i64 {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
