//! Beats for what was redeemed while db-writer is silent.
//!
//! A database that was put back in time is known by a beat that is lower than one that was published. db-writer raises and publishes one with every batch and every idle ten seconds. While
//! it is down nobody would, and a restore could take any number of redemptions along unseen. So whoever redeemed and hears no beat within `wallet.beat_interval_ms` raises one itself.
//!
//! Where a standby was promoted while the old primary can still be reached, a beat that is heard may be the other one's. So before what was redeemed counts as covered the database is
//! compared with that beat; and whoever closes redeeming publishes the beat that its closure raised, above all others, so that it is closed in every database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coupon_domain::Partition;
use coupon_domain::wire::{PersistedWatermark, encode_persisted};
use infrastructure_kafka::NewRecord;
use infrastructure_postgres::{PooledConnection, PostgresError, progress};
use parking_lot::Mutex;

use crate::desk::Desk;
use crate::redemption::Passage;

/// A beat that is heard so much later was raised later, too: what was redeemed before lies behind it.
const HEARD_AFTER: Duration = Duration::from_secs(2);

/// The partitions of coupons that were redeemed here, and since when no beat was heard.
#[derive(Default)]
pub(crate) struct Beats {
    uncovered: Mutex<BTreeMap<Partition, Instant>>,
    /// The beats of closures of ours that are not published yet.
    closures: Mutex<BTreeMap<Partition, PersistedWatermark>>,
}

/// What no longer waits for a beat, since when.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    /// One was heard.
    heard: Vec<(Partition, Instant)>,
    /// None was heard for too long.
    due: Vec<(Partition, Instant)>,
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

    /// Takes out those of which a beat was heard, and those that have waited for `patience`.
    fn take(&self, now: Instant, patience: Duration, heard: impl Fn(Partition) -> Option<Instant>) -> Taken {
        let mut taken = Taken::default();
        self.uncovered.lock().retain(|partition, at| {
            if heard(*partition).is_some_and(|heard| heard >= *at + HEARD_AFTER) {
                taken.heard.push((*partition, *at));
                return false;
            }
            let waits = now.saturating_duration_since(*at) < patience;
            if !waits {
                taken.due.push((*partition, *at));
            }
            waits
        });
        taken
    }
}

impl Desk {
    /// Looks again at what was heard, raises and publishes the beats that are due, and tells of closures; `patience` zero: all that are not covered.
    pub(crate) async fn cover_redemptions(&self, patience: Duration) {
        let heard = |partition| self.published.heard(partition);
        let Taken { heard, due } = self.beats.take(Instant::now(), patience, heard);
        if !heard.is_empty()
            && let Err(reason) = self.look_again().await
        {
            tracing::warn!(
                "whether a beat that was heard covers what was redeemed is not known yet: {reason}"
            );
            heard.iter().for_each(|(partition, at)| self.beats.redeemed(*partition, *at));
        }
        for (partition, at) in due {
            if let Err(reason) = self.publish_beat(partition).await {
                tracing::warn!(%partition, "no beat covers what was redeemed yet: {reason}");
                self.beats.redeemed(partition, at);
            }
        }
        self.tell_closures().await;
    }

    /// Compares the database with what was heard, on every connection that is free: an old one may lead to a database that others have left.
    async fn look_again(&self) -> Result<(), String> {
        for _ in 0..self.pool.size().max(1) {
            let looking = self
                .pool
                .run_since(async |connection, connected_at| self.pass(connection, connected_at).await);
            self.note_look(looking).await?;
        }
        Ok(())
    }

    async fn note_look(
        &self,
        looking: impl Future<Output = Result<Passage, PostgresError>>,
    ) -> Result<(), String> {
        let looked = self.metrics.postgres.measure("look_again", looking).await;
        match looked.map_err(|error| error.to_string())? {
            Passage::Open(_) => {}
            Passage::Closed(_) => self.metrics.redemptions_closed.set(1),
            Passage::Unknown => return Err(self.published.what_is_read()),
        }
        Ok(())
    }

    async fn publish_beat(&self, partition: Partition) -> Result<(), String> {
        let raising = self.pool.run_since(async |connection, connected_at| {
            let system_identifier = match self.pass(connection, connected_at).await? {
                Passage::Open(stand) => stand.system_identifier,
                // Somebody has to look first; and then everything that was redeemed is doubted anyway.
                Passage::Closed(_) => return Ok(None),
                Passage::Unknown => {
                    return Err(PostgresError::Unreachable(self.published.what_is_read()));
                }
            };
            raise(connection, partition, system_identifier).await
        });
        let raised =
            self.metrics.postgres.measure("raise_beat", raising).await.map_err(|error| error.to_string())?;
        let Some(watermark) = raised else { return Ok(()) };
        self.published.will_see(&watermark);
        self.append_beat(&watermark).await?;
        // Another database may have been given the same beat meanwhile: of two that publish, the second finds the first one's.
        let looking = self.pool.run(async |connection| self.pass(connection, Instant::now()).await);
        self.note_look(looking).await
    }

    /// Behind a closure of ours, which raised the beats above all that were published: once the next one is published, no other database passes.
    pub(crate) async fn note_closure(
        &self,
        connection: &mut PooledConnection,
        partition: Partition,
        system_identifier: String,
    ) -> Result<(), PostgresError> {
        if let Some(watermark) = raise(connection, partition, system_identifier).await? {
            self.beats.closures.lock().insert(partition, watermark);
        }
        Ok(())
    }

    async fn tell_closures(&self) {
        let closures = std::mem::take(&mut *self.beats.closures.lock());
        for (partition, watermark) in closures {
            if let Err(reason) = self.append_beat(&watermark).await {
                tracing::warn!(%partition, "that redeeming is closed is not published yet: {reason}");
                self.beats.closures.lock().entry(partition).or_insert(watermark);
            }
        }
    }

    async fn append_beat(&self, watermark: &PersistedWatermark) -> Result<(), String> {
        let (key, payload) = (watermark.partition.to_string(), encode_persisted(watermark));
        let record = NewRecord {
            topic: &self.persisted_topic,
            partition: watermark.partition.number(),
            key: key.as_bytes(),
            payload: Some(&payload),
            headers: &[],
        };
        self.appender.producer.append(record).await.map(drop).map_err(|error| error.to_string())
    }
}

/// Raises the beat of a partition; what is to be published of it.
async fn raise(
    connection: &mut PooledConnection,
    partition: Partition,
    system_identifier: String,
) -> Result<Option<PersistedWatermark>, PostgresError> {
    let raised = progress::raise_beat(connection, partition).await?;
    Ok(raised.map(|raised| PersistedWatermark {
        partition,
        next_src: raised.watermark.next_src,
        next_outcome_offset: raised.watermark.next_outcome_offset,
        chain: raised.watermark.chain,
        system_identifier,
        beat: raised.beat,
        stamp: Some(rand::random()),
    }))
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
        let taken = |now, patience, heard: &dyn Fn(Partition) -> Option<Instant>| {
            let Taken { heard, due } = beats.take(now, patience, heard);
            (heard, due)
        };
        let nothing = (vec![], vec![]);
        assert_eq!(taken(s(9), patience, &|_| Some(s(6))), nothing, "that one may have been raised before");
        assert_eq!(taken(s(14), patience, &heard), (vec![(partition(1), s(5))], vec![]));
        assert_eq!(beats.uncovered.lock().len(), 1, "the other waits");
        let due = (vec![], vec![(partition(0), s(5))]);
        assert_eq!(taken(s(15), patience, &heard), due, "the earliest counts");
        assert!(beats.uncovered.lock().is_empty());
        beats.redeemed(partition(2), s(15));
        let all = (vec![], vec![(partition(2), s(15))]);
        assert_eq!(taken(s(15), Duration::ZERO, &heard), all, "at the end all are");
    }
}
