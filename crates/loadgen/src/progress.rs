//! How far a crowd is, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that a running crowd moves.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    arrived: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    unresolved: AtomicU64,
}

impl Progress {
    /// Users there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Users who have arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Users who were granted a coupon.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Users who were refused for good.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Users who know how it ended for them.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.granted() + self.refused()
    }

    /// Users who have arrived and have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.arrived().saturating_sub(self.told() + self.unresolved.load(Ordering::Relaxed))
    }

    pub(crate) fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn count_arrival(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_granted(&self) {
        self.granted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_unresolved(&self) {
        self.unresolved.fetch_add(1, Ordering::Relaxed);
    }
}
