//! The brokers' clocks, as far as they are known. Claims are judged by the append time of their line's leader, so a gateway refuses by time only
//! where no doubt is left.
//!
//! A clock is learnt from acknowledgements, line by line, and carried on by our monotonic clock: our wall clock, which somebody may set,
//! decides nothing. What is not known, or no longer, refuses nobody: the press goes to the log, which decides it, and teaches.

use std::time::{Duration, Instant};

use coupon_domain::{Partition, Timestamp};
use parking_lot::RwLock;

/// Refusals by time keep this distance from a window's edges, in ms.
const MARGIN_MS: i64 = 1_000;
/// Longest round trip that teaches a broker's clock: half of it is the error, and must stay well below the margin.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
/// What was learnt is believed for so long: meanwhile the leader may have changed, or its clock been set.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// What the clock of a line's leader may show now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerNow {
    /// Certainly not earlier than this.
    pub(crate) earliest: Timestamp,
    /// Certainly not later than this.
    pub(crate) latest: Timestamp,
    /// Most probably this.
    pub(crate) likely: Timestamp,
}

/// The clocks of all lines' leaders.
#[derive(Default)]
pub(crate) struct BrokerClocks {
    /// By partition.
    lines: RwLock<Vec<Option<Learnt>>>,
}

#[derive(Clone, Copy)]
struct Learnt {
    at: Instant,
    /// What the broker's clock showed then.
    showed: Timestamp,
}

impl BrokerClocks {
    /// An append that was sent and acknowledged at these moments, and appended at that time of the broker's. A long round trip teaches nothing: the
    /// append may have happened at either end of it.
    pub(crate) fn learn(
        &self,
        partition: Partition,
        sent: Instant,
        acknowledged: Instant,
        appended: Timestamp,
    ) {
        let round_trip = acknowledged.saturating_duration_since(sent);
        if round_trip > ROUND_TRIP_MAX {
            return;
        }
        let learnt = Learnt { at: sent + round_trip / 2, showed: appended };
        let mut lines = self.lines.write();
        if lines.len() <= partition.index() {
            lines.resize(partition.index() + 1, None);
        }
        if let Some(line) = lines.get_mut(partition.index()) {
            *line = Some(learnt);
        }
    }

    /// What the leader's clock may show at this moment; `ours` is the best guess where nothing is known of it.
    pub(crate) fn now(&self, partition: Partition, moment: Instant, ours: Timestamp) -> BrokerNow {
        let learnt = self.lines.read().get(partition.index()).copied().flatten();
        let age = learnt.map(|learnt| moment.saturating_duration_since(learnt.at));
        match learnt.zip(age.filter(|age| *age <= BELIEVED_FOR)) {
            Some((learnt, age)) => {
                let likely = learnt.showed.plus_ms(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
                let (earliest, latest) = (likely.plus_ms(-MARGIN_MS), likely.plus_ms(MARGIN_MS));
                BrokerNow { earliest, latest, likely }
            }
            None => BrokerNow {
                earliest: Timestamp::EPOCH,
                latest: Timestamp::EPOCH.plus_ms(i64::MAX),
                likely: ours,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn what_is_not_known_refuses_nobody() {
        let (clocks, start) = (BrokerClocks::default(), Instant::now());
        let [first, second] = [0, 1].map(|number| Partition::new(number).unwrap());
        let unknown = clocks.now(first, start, at(100_000));
        assert_eq!((unknown.earliest, unknown.likely), (Timestamp::EPOCH, at(100_000)));
        assert!(unknown.latest > at(100_000_000_000));
        clocks.learn(first, start, start, at(100_000));
        assert_eq!(clocks.now(second, start, at(100_000)), unknown, "another line has another leader");
    }

    #[test]
    fn whatever_our_wall_clock_shows_the_brokers_decides() {
        let (clocks, start) = (BrokerClocks::default(), Instant::now());
        let line = Partition::new(0).unwrap();
        clocks.learn(line, start, after(start, 10), at(100_005));
        for ours in [40_000, 100_000, 160_000] {
            let now = clocks.now(line, after(start, 2_000), at(ours));
            assert_eq!((now.earliest, now.likely, now.latest), (at(101_000), at(102_000), at(103_000)));
        }
    }

    #[test]
    fn what_was_learnt_is_believed_for_a_while() {
        let (clocks, start) = (BrokerClocks::default(), Instant::now());
        let line = Partition::new(0).unwrap();
        clocks.learn(line, start, start, at(100_000));
        assert_eq!(clocks.now(line, start + BELIEVED_FOR, at(0)).likely, at(160_000));
        let later = start + BELIEVED_FOR + Duration::from_millis(1);
        assert_eq!(clocks.now(line, later, at(0)).earliest, Timestamp::EPOCH);
        clocks.learn(line, later, later, at(50_000));
        assert_eq!(clocks.now(line, later, at(0)).likely, at(50_000), "the broker's clock was put back");
    }

    #[test]
    fn a_long_round_trip_teaches_nothing() {
        let (clocks, start) = (BrokerClocks::default(), Instant::now());
        let line = Partition::new(0).unwrap();
        clocks.learn(line, start, after(start, 4_000), at(100_001));
        assert_eq!(clocks.now(line, start, at(7)).likely, at(7), "not learnt at all");
        clocks.learn(line, start, after(start, 10), at(100_005));
        clocks.learn(line, after(start, 1_000), after(start, 5_000), at(200_000));
        assert_eq!(
            clocks.now(line, after(start, 5), at(7)).likely,
            at(100_005),
            "what was learnt before stays"
        );
    }
}
