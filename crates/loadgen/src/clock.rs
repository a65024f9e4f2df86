//! The wall clock, read once: what is known in the world's time (an opening, a token's end) becomes a moment to sleep until.

use std::time::Duration;

use coupon_domain::Timestamp;
use tokio::time::Instant;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: Timestamp,
    moment: Instant,
}

impl Clock {
    /// Reads both clocks now.
    pub(crate) fn read() -> Self {
        Self { wall: wall_now(), moment: Instant::now() }
    }

    /// The world's time when the clocks were read.
    pub(crate) fn wall(&self) -> Timestamp {
        self.wall
    }

    /// The moment of a time in the world; what lies before the reading is the reading.
    pub(crate) fn moment_of(&self, time: Timestamp) -> Instant {
        let ahead_ms = u64::try_from(time.ms() - self.wall.ms()).unwrap_or(0);
        self.moment + Duration::from_millis(ahead_ms)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
fn wall_now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since_epoch.map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
    Timestamp::EPOCH.plus_ms(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_past_is_now_and_the_future_is_as_far_as_it_is() {
        let clock = Clock::read();
        assert_eq!(clock.moment_of(Timestamp::EPOCH), clock.moment);
        let later = clock.moment_of(clock.wall().plus_ms(1_500));
        assert_eq!(later - clock.moment, Duration::from_millis(1_500));
    }
}
