//! The coupons, in memory: fed by `coupon.state`, which is read to its end before the gateway is ready.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use coupon_domain::wire::{DecidedUpTo, PublishedState, StateRecordBody, decode_state_record};
use coupon_domain::{CouponId, HaltReason, Offset, Partition};
use infrastructure_kafka::{Connection, Reader, RecordView};
use parking_lot::RwLock;
use service_runtime::tail::{CompactedTopic, keep_reading};
use service_runtime::{Context, Ended};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::ServiceMetrics;

/// Every coupon that is not retired, and how far each partition is decided.
pub(crate) struct StateMap {
    coupons: RwLock<HashMap<CouponId, Arc<PublishedState>, foldhash::fast::RandomState>>,
    /// The highest decided offset seen of each partition; -1 where none was.
    decided: RwLock<Vec<AtomicI64>>,
    /// The partitions that stand still, and why.
    halted: RwLock<HashMap<Partition, HaltReason>>,
    /// True once the topic has been read to its end.
    complete: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Default for StateMap {
    fn default() -> Self {
        Self {
            coupons: RwLock::default(),
            decided: RwLock::default(),
            halted: RwLock::default(),
            complete: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        }
    }
}

impl StateMap {
    /// A coupon.
    pub(crate) fn get(&self, coupon_id: CouponId) -> Option<Arc<PublishedState>> {
        self.coupons.read().get(&coupon_id).cloned()
    }

    /// False while the topic is read for the first time: until then a coupon that is not here may exist all the same.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The highest offset that is known to be decided in a partition.
    pub(crate) fn decided(&self, partition: Partition) -> Option<Offset> {
        let decided = self.decided.read();
        Offset::new(decided.get(partition.index())?.load(Ordering::Relaxed)).ok()
    }

    /// Why a partition stands still, where its consumer has said so.
    pub(crate) fn halted(&self, partition: Partition) -> Option<HaltReason> {
        self.halted.read().get(&partition).copied()
    }

    fn saw_partition(&self, said: &DecidedUpTo) {
        self.saw_decided(said.partition, said.decided_offset);
        if let Some(reason) = said.halted {
            self.halted.write().insert(said.partition, reason);
        } else if self.halted(said.partition).is_some() {
            // Mostly there is nothing to forget, and nobody has to wait for that.
            self.halted.write().remove(&said.partition);
        }
    }

    /// How many live coupons each of the first `count` partitions holds.
    pub(crate) fn coupons_by_partition(&self, count: u16) -> Vec<u32> {
        let mut counts = vec![0; usize::from(count)];
        for coupon_id in self.coupons.read().keys() {
            if let Some(count) = counts.get_mut(coupon_id.partition().index()) {
                *count += 1;
            }
        }
        counts
    }

    /// Changes, for those who wait for one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes a state, unless a newer one is known: the highest decided offset wins.
    pub(crate) fn take(&self, published: PublishedState) {
        self.saw_decided(published.state.coupon_id.partition(), published.decided_offset);
        let mut coupons = self.coupons.write();
        let known = coupons.get(&published.state.coupon_id);
        if known.is_none_or(|known| known.decided_offset <= published.decided_offset) {
            coupons.insert(published.state.coupon_id, Arc::new(published));
        }
        drop(coupons);
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn forget(&self, coupon_id: CouponId) {
        self.coupons.write().remove(&coupon_id);
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn saw_decided(&self, partition: Partition, decided: Option<Offset>) {
        let Some(offset) = decided else { return };
        if let Some(known) = self.decided.read().get(partition.index()) {
            known.fetch_max(offset.number(), Ordering::Relaxed);
            return;
        }
        let mut all = self.decided.write();
        while all.len() <= partition.index() {
            all.push(AtomicI64::new(-1));
        }
        if let Some(known) = all.get(partition.index()) {
            known.fetch_max(offset.number(), Ordering::Relaxed);
        }
    }
}

/// Starts feeding the map, on a thread of its own.
pub(crate) fn start(
    context: &Context<Config>,
    connection: &Connection,
    topic: String,
    map: &Arc<StateMap>,
    metrics: &Arc<ServiceMetrics>,
) -> Result<(), Ended> {
    let (map, metrics, connection) = (Arc::clone(map), Arc::clone(metrics), connection.clone());
    let turn = context.health.watch_loop("state-tail");
    let ready = context.health.ready_condition("state", "coupon.state has not been read to its end");
    let shutdown = context.shutdown.clone();
    let work = move || {
        let feed = Feed { map: &map, metrics: &metrics };
        let topic = CompactedTopic {
            connection: &connection,
            name: &topic,
            purpose: "state tail",
            shutdown: &shutdown,
            turn: &turn,
            places: RefCell::default(),
        };
        let at_end = |_: &Reader| {
            map.complete.store(true, Ordering::Release);
            ready.met();
        };
        keep_reading(&turn, &shutdown, || topic.read(|_| {}, |record| feed.take(record), at_end))
    };
    context.tasks.thread("state-tail", work).map(drop)
}

struct Feed<'a> {
    map: &'a StateMap,
    metrics: &'a ServiceMetrics,
}

impl Feed<'_> {
    fn take(&self, record: &RecordView<'_>) {
        let Some(payload) = record.payload() else {
            let key = record.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
            if let Some(coupon_id) = key {
                self.map.forget(coupon_id);
            }
            return;
        };
        match decode_state_record(payload) {
            Ok(body) => {
                let partition = match body {
                    StateRecordBody::Coupon(published) => {
                        let partition = published.state.coupon_id.partition();
                        self.map.take(*published);
                        partition
                    }
                    StateRecordBody::Decided(decided) => {
                        self.map.saw_partition(&decided);
                        decided.partition
                    }
                };
                if let Some(decided) = self.map.decided(partition) {
                    let labels = ["gateway".to_owned(), partition.to_string()];
                    self.metrics.watermark.with_label_values(&labels).set(decided.next().number());
                }
            }
            Err(error) => {
                tracing::error!(
                    runbook = "UpgradeAndRollback",
                    partition = record.partition(),
                    offset = record.offset(),
                    "a coupon's state: {error}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coupon_domain::coupon::{LastCommand, UncheckedDefinition};
    use coupon_domain::{CommandCode, CommandId, CouponState, CouponStatus, Round};
    use uuid::Uuid;

    use super::*;

    fn published(issued: u32, decided: i64) -> PublishedState {
        let coupon_id = CouponId::new(Partition::new(2).unwrap(), Uuid::from_u128(1));
        let definition = UncheckedDefinition {
            name: "Tea".to_owned(),
            quantity: 10,
            per_user_limit: 1,
            opens_at: 0,
            closes_at: 1,
            expiry: None,
            rules: 1,
            key_id: "k1".parse().unwrap(),
        };
        let state = CouponState {
            coupon_id,
            definition: Arc::new(definition.check().unwrap()),
            status: CouponStatus::Active,
            round: Round::FIRST,
            quantity: 10,
            issued,
            version: 1,
            last_command: LastCommand {
                command_id: CommandId { coupon_id, mac: [0; 16] },
                code: CommandCode::Applied,
            },
            last_grant_offset: None,
        };
        PublishedState { state, decided_offset: Offset::new(decided).ok() }
    }

    #[test]
    fn the_highest_decided_offset_wins() {
        let map = StateMap::default();
        let coupon_id = published(0, -1).state.coupon_id;
        map.take(published(0, -1));
        assert_eq!(map.decided(coupon_id.partition()), None);
        map.take(published(5, 7));
        map.take(published(3, 6));
        assert_eq!(map.get(coupon_id).unwrap().state.issued, 5);
        assert_eq!(map.decided(coupon_id.partition()), Offset::new(7).ok());
        assert_eq!(map.coupons_by_partition(4), [0, 0, 1, 0]);
        let said = DecidedUpTo {
            partition: coupon_id.partition(),
            decided_offset: Offset::new(9).ok(),
            halted: Some(HaltReason::LogMismatch),
        };
        map.saw_partition(&said);
        assert_eq!(map.halted(said.partition), said.halted);
        map.saw_partition(&DecidedUpTo { halted: None, ..said });
        assert_eq!(map.halted(said.partition), None, "it moves again");
        map.take(published(6, 8));
        assert_eq!(map.get(coupon_id).unwrap().state.issued, 6, "a coupon's state is as old as itself says");
        assert_eq!(map.decided(coupon_id.partition()), Offset::new(9).ok(), "the line is further");
        map.forget(coupon_id);
        assert!(map.get(coupon_id).is_none());
        assert_eq!(map.decided(coupon_id.partition()), Offset::new(9).ok());
    }
}
