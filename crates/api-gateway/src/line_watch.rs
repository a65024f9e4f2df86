//! Which lines move: new coupons go to those. A line that stands still has the fewest live coupons in the end, and would attract all.
//!
//! Each record of a line gets at least one outcome, so a line whose outcomes log is shorter than its claims log is undecided for certain,
//! whatever else is known of it. Where copies stand in the outcomes log a line may look better than it is: then it is as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coupon_domain::Partition;
use infrastructure_kafka::{Connection, KafkaError, Reader};
use parking_lot::RwLock;
use service_runtime::{Context, Ended, LoopTurn, Shutdown};

use crate::config::Config;

/// How often the ends of the logs are asked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// The loop turns at least this often while it waits.
const TURN: Duration = Duration::from_secs(1);

/// What is known of the lines.
#[derive(Default)]
pub(crate) struct LineWatch {
    /// By partition.
    lines: RwLock<Vec<Line>>,
}

/// How a line moves.
#[derive(Clone, Copy, Default)]
struct Line {
    /// The end that it had when it was first seen to be undecided, and when that was.
    behind: Option<(i64, Instant)>,
}

impl Line {
    /// The logs end here now.
    fn saw(&mut self, claims_end: i64, outcomes_end: i64, now: Instant) {
        let still = self.behind.filter(|(end, _)| outcomes_end < *end);
        self.behind = still.or((outcomes_end < claims_end).then_some((claims_end, now)));
    }

    fn is_late(&self, late_after: Duration, now: Instant) -> bool {
        self.behind.is_some_and(|(_, since)| now.saturating_duration_since(since) >= late_after)
    }
}

impl LineWatch {
    /// Looks from now on, on a thread of its own.
    pub(crate) fn start(
        context: &Context<Config>,
        connection: &Connection,
        topics: (String, String),
    ) -> Result<Arc<Self>, Ended> {
        let watch = Arc::<Self>::default();
        let (watched, connection) = (Arc::clone(&watch), connection.clone());
        let (turn, shutdown) = (context.health.watch_loop("line-watch"), context.shutdown.clone());
        let work = move || {
            watched.look(&connection, &topics, &turn, &shutdown);
            Ok(())
        };
        context.tasks.thread("line-watch", work)?;
        Ok(watch)
    }

    fn look(
        &self,
        connection: &Connection,
        (claims, outcomes): &(String, String),
        turn: &LoopTurn,
        shutdown: &Shutdown,
    ) {
        let mut readers = None;
        while !shutdown.is_requested() {
            let looked = match &readers {
                Some((claims, outcomes)) => self.compare(claims, outcomes, turn),
                None => Reader::new(connection, claims, "line watch").and_then(|claims| {
                    readers = Some((claims, Reader::new(connection, outcomes, "line watch")?));
                    Ok(())
                }),
            };
            if let Err(error) = looked {
                tracing::debug!("the lines cannot be looked at: {error}");
            }
            let next = Instant::now() + INTERVAL;
            while Instant::now() < next && !shutdown.is_requested() {
                turn.turn();
                std::thread::park_timeout(TURN.min(next.saturating_duration_since(Instant::now())));
            }
        }
    }

    fn compare(&self, claims: &Reader, outcomes: &Reader, turn: &LoopTurn) -> Result<(), KafkaError> {
        for number in 0..claims.partition_count()? {
            turn.turn();
            // In this order: what is decided in between makes the line look better, never worse.
            let (claims_end, outcomes_end) = (claims.bounds(number)?.end, outcomes.bounds(number)?.end);
            let Ok(partition) = Partition::new(number) else { continue };
            let mut lines = self.lines.write();
            if lines.len() <= partition.index() {
                lines.resize(partition.index() + 1, Line::default());
            }
            if let Some(line) = lines.get_mut(partition.index()) {
                line.saw(claims_end, outcomes_end, Instant::now());
            }
        }
        Ok(())
    }

    /// True where something in this line has waited for its decision for at least so long.
    pub(crate) fn is_late(&self, partition: usize, late_after: Duration) -> bool {
        let now = Instant::now();
        self.lines.read().get(partition).is_some_and(|line| line.is_late(late_after, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_late_where_the_same_end_was_not_reached_for_long() {
        let (mut line, start) = (Line::default(), Instant::now());
        let (late_after, later) = (Duration::from_secs(30), |s| start + Duration::from_secs(s));
        line.saw(10, 10, start);
        assert!(!line.is_late(late_after, later(100)), "everything is decided");
        line.saw(12, 10, later(100));
        line.saw(40, 11, later(120));
        assert!(!line.is_late(late_after, later(129)));
        assert!(line.is_late(late_after, later(130)), "12 was not reached");
        line.saw(50, 13, later(131));
        assert!(!line.is_late(late_after, later(160)), "a busy line that moves is behind a later end");
        line.saw(50, 90, later(162));
        assert!(!line.is_late(late_after, later(300)));
    }
}
