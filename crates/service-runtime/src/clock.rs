//! The wall clock, in one place. The fold never asks it; gateways do, within named margins.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use coupon_domain::Timestamp;

/// Tells the time. Tests hold one still and move it.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.ms()))))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let ms = match &self.0 {
            Source::System => system_ms(),
            Source::Manual(ms) => ms.load(Ordering::Relaxed),
        };
        Timestamp::EPOCH.plus_ms(ms)
    }

    /// Moves a manual clock; the system's stays as it is.
    pub fn advance_ms(&self, ms: i64) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(ms, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
fn system_ms() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_ms(1_000).unwrap());
        let same = clock.clone();
        assert_eq!(clock.now().ms(), 1_000);
        clock.advance_ms(500);
        assert_eq!(same.now().ms(), 1_500);
        assert!(Clock::system().now().ms() > 1_700_000_000_000);
    }
}
