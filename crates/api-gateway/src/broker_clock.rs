//! The broker's clock, as far as it is known. Claims are judged by the broker's append time, so a gateway refuses by time only where no
//! doubt is left.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use coupon_domain::Timestamp;

/// Refusals by time keep this distance from a window's edges, in ms.
const MARGIN_MS: i64 = 1_000;
/// The same until an acknowledgement has taught us the broker's clock.
const UNLEARNED_MARGIN_MS: i64 = 2_000;
/// Longest round trip that teaches the broker's clock, in ms: half of it is the error, and must stay well below the margin.
const ROUND_TRIP_MS_MAX: i64 = 500;
/// Corrections beyond this are not believed, in ms: one of the two clocks is broken, and the metric shows it.
const CORRECTION_MS_MAX: i64 = 2_000;

/// What the broker's clock may show now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerNow {
    /// Certainly not earlier than this.
    pub(crate) earliest: Timestamp,
    /// Certainly not later than this.
    pub(crate) latest: Timestamp,
}

#[derive(Default)]
pub(crate) struct BrokerClock {
    correction_ms: AtomicI64,
    learned: AtomicBool,
}

impl BrokerClock {
    /// An append that was sent and acknowledged at these times of ours, and appended at that time of the broker's. Returns the
    /// offset in ms, uncapped. A long round trip teaches nothing: the append may have happened at either end of it, and what was learnt
    /// wrongly would stay, since presses that are refused by time append nothing.
    pub(crate) fn learn(&self, sent: Timestamp, acknowledged: Timestamp, appended: Timestamp) -> i64 {
        let round_trip = acknowledged.ms() - sent.ms();
        let offset = appended.ms() - (sent.ms() + round_trip / 2);
        if !(0..=ROUND_TRIP_MS_MAX).contains(&round_trip) {
            return offset;
        }
        self.correction_ms.store(offset.clamp(-CORRECTION_MS_MAX, CORRECTION_MS_MAX), Ordering::Relaxed);
        self.learned.store(true, Ordering::Relaxed);
        offset
    }

    pub(crate) fn now(&self, ours: Timestamp) -> BrokerNow {
        let margin = if self.learned.load(Ordering::Relaxed) { MARGIN_MS } else { UNLEARNED_MARGIN_MS };
        let estimate = ours.plus_ms(self.correction_ms.load(Ordering::Relaxed));
        BrokerNow { earliest: estimate.plus_ms(-margin), latest: estimate.plus_ms(margin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    #[test]
    fn the_margin_shrinks_once_the_clock_is_known() {
        let clock = BrokerClock::default();
        let now = clock.now(at(100_000));
        assert_eq!((now.earliest, now.latest), (at(98_000), at(102_000)));
        assert_eq!(clock.learn(at(100_000), at(100_010), at(100_505)), 500);
        let now = clock.now(at(100_000));
        assert_eq!((now.earliest, now.latest), (at(99_500), at(101_500)));
    }

    #[test]
    fn a_long_round_trip_teaches_nothing() {
        let clock = BrokerClock::default();
        clock.learn(at(100_000), at(104_000), at(100_001));
        assert_eq!(clock.now(at(100_000)).latest, at(102_000), "not learnt at all");
        clock.learn(at(100_000), at(100_010), at(100_005));
        clock.learn(at(200_000), at(204_000), at(204_000));
        assert_eq!(clock.now(at(100_000)).latest, at(101_000), "what was learnt before stays");
        clock.learn(at(100_500), at(100_000), at(100_000));
        assert_eq!(clock.now(at(100_000)).latest, at(101_000), "our own clock was put back meanwhile");
    }

    #[test]
    fn corrections_are_capped() {
        let clock = BrokerClock::default();
        assert_eq!(clock.learn(at(100_000), at(100_000), at(160_000)), 60_000);
        assert_eq!(clock.now(at(100_000)).earliest, at(101_000));
        clock.learn(at(100_000), at(100_000), at(10_000));
        assert_eq!(clock.now(at(100_000)).latest, at(99_000));
    }
}
