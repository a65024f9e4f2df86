//! Beats for what was redeemed while db-writer is silent.
//!
//! A database that was put back in time is known by a beat that is lower than one that was published. db-writer raises and publishes one with every batch and every idle ten seconds. While
//! it is down nobody would, and a restore could take any number of redemptions along unseen. So whoever redeemed and hears no beat within `wallet.beat_interval_ms` raises one itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coupon_domain::Partition;
use coupon_domain::wire::{PersistedWatermark, encode_persisted};
use infrastructure_kafka::NewRecord;
use infrastructure_postgres::{PostgresError, progress};
use parking_lot::Mutex;

use crate::desk::Desk;
use crate::redemption::{Passage, pass};

/// A beat that is heard so much later was raised later, too: what was redeemed before lies behind it.
const HEARD_AFTER: Duration = Duration::from_secs(2);

/// The partitions of coupons that were redeemed here, and since when no beat was heard.
#[derive(Default)]
pub(crate) struct Beats {
    uncovered: Mutex<BTreeMap<Partition, Instant>>,
}

impl Beats {
    /// A coupon of this partition was redeemed.
    pub(crate) fn redeemed(&self, partition: Partition, at: Instant) {
        self.uncovered
            .lock()
            .entry(partition)
            .and_modify(|earliest| *earliest = at.min(*earliest))
            .or_insert(at);
    }

    /// Takes out those that are covered by a beat that was heard, and those that have waited for `patience`; the latter are returned.
    fn take_due(
        &self,
        now: Instant,
        patience: Duration,
        heard: impl Fn(Partition) -> Option<Instant>,
    ) -> Vec<(Partition, Instant)> {
        let mut due = Vec::new();
        self.uncovered.lock().retain(|partition, at| {
            if heard(*partition).is_some_and(|heard| heard >= *at + HEARD_AFTER) {
                return false;
            }
            let waits = now.saturating_duration_since(*at) < patience;
            if !waits {
                due.push((*partition, *at));
            }
            waits
        });
        due
    }
}

impl Desk {
    /// Raises and publishes the beats that are due; `patience` zero: all that are not covered.
    pub(crate) async fn cover_redemptions(&self, patience: Duration) {
        for (partition, at) in
            self.beats.take_due(Instant::now(), patience, |partition| self.published.heard(partition))
        {
            if let Err(reason) = self.publish_beat(partition).await {
                tracing::warn!(%partition, "no beat covers what was redeemed yet: {reason}");
                self.beats.redeemed(partition, at);
            }
        }
    }

    async fn publish_beat(&self, partition: Partition) -> Result<(), String> {
        let raising = self.pool.run_since(async |connection, connected_at| {
            let system_identifier = match pass(&self.published, connection, connected_at).await? {
                Passage::Open(stand) => stand.system_identifier,
                // Somebody has to look first; and then everything that was redeemed is doubted anyway.
                Passage::Closed(_) => return Ok(None),
                Passage::Unknown => {
                    return Err(PostgresError::Unreachable(self.published.what_is_read()));
                }
            };
            let Some(raised) = progress::raise_beat(connection, partition).await? else { return Ok(None) };
            Ok(Some(PersistedWatermark {
                partition,
                next_src: raised.watermark.next_src,
                next_outcome_offset: raised.watermark.next_outcome_offset,
                chain: raised.watermark.chain,
                system_identifier,
                beat: raised.beat,
            }))
        });
        let raised =
            self.metrics.postgres.measure("raise_beat", raising).await.map_err(|error| error.to_string())?;
        let Some(watermark) = raised else { return Ok(()) };
        let (key, payload) = (partition.to_string(), encode_persisted(&watermark));
        let record = NewRecord {
            topic: &self.persisted_topic,
            partition: partition.number(),
            key: key.as_bytes(),
            payload: Some(&payload),
            headers: &[],
        };
        self.appender.producer.append(record).await.map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_redeemed_is_covered_by_a_beat_that_is_heard_later_or_by_one_of_our_own() {
        let (beats, start, patience) = (Beats::default(), Instant::now(), Duration::from_secs(10));
        let partition = |number| Partition::new(number).unwrap();
        let s = |seconds| start + Duration::from_secs(seconds);
        beats.redeemed(partition(0), s(5));
        beats.redeemed(partition(0), s(7));
        beats.redeemed(partition(1), s(5));
        let heard = |of: Partition| (of == partition(1)).then(|| s(8));
        assert_eq!(
            beats.take_due(s(9), patience, |_| Some(s(6))),
            [],
            "that one may have been raised before"
        );
        assert_eq!(beats.take_due(s(14), patience, heard), []);
        assert_eq!(beats.uncovered.lock().len(), 1, "the other is covered");
        assert_eq!(beats.take_due(s(15), patience, heard), [(partition(0), s(5))], "the earliest counts");
        assert!(beats.uncovered.lock().is_empty());
        beats.redeemed(partition(2), s(15));
        assert_eq!(
            beats.take_due(s(15), Duration::ZERO, heard),
            [(partition(2), s(15))],
            "at the end all are"
        );
    }
}
