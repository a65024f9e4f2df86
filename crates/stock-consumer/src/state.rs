//! Publishing coupon states for the gateways.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coupon_domain::wire::{DecidedUpTo, PublishedState, decided_key, encode_decided, encode_state};
use coupon_domain::{CouponId, CouponState, CouponStatus, HaltReason, Ledger, Offset, Partition};
use infrastructure_kafka::{AppendError, Batch, NewRecord, Reader};
use parking_lot::Mutex;
use service_runtime::Ended;
use service_runtime::partition::Interrupted;

use crate::metrics::ServiceMetrics;
use crate::worker::{Desk, Shared};

/// How often the topic is looked at for states of retired coupons.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_RECORDS_MAX: usize = 10_000;

/// Publishes the states of one partition's coupons, and how far the partition is decided.
///
/// A coupon is looked at when a record spoke of it, and once in `decide.refresh_interval_ms`, in its turn: nothing here looks at all of them.
pub(crate) struct StatePublisher<'a> {
    desk: Desk<'a>,
    published: HashMap<CouponId, Published>,
    /// Those that may differ from what was published.
    changed: HashSet<CouponId>,
    /// The live ones, in the order in which they are said again.
    turns: VecDeque<CouponId>,
    /// Up to here they have had their turns.
    turned: Instant,
    /// What was published of the partition, and when.
    decided: Option<(Offset, Instant)>,
    stock: Stock,
    sweeper: Option<Reader>,
    next_sweep: Instant,
}

/// A record of the topic.
type StateOrTombstone = (CouponId, Option<CouponState>);

struct Published {
    state: CouponState,
    at: Instant,
}

impl<'a> StatePublisher<'a> {
    pub(crate) fn new(desk: Desk<'a>) -> Self {
        Self {
            desk,
            published: HashMap::new(),
            changed: HashSet::new(),
            turns: VecDeque::new(),
            turned: Instant::now(),
            decided: None,
            stock: Stock::default(),
            sweeper: None,
            next_sweep: Instant::now(),
        }
    }

    /// On assignment all are said.
    pub(crate) fn all_changed(&mut self, ledger: &Mutex<Ledger>) {
        self.changed.extend(ledger.lock().coupons().map(|state| state.coupon_id));
    }

    /// Records spoke of these coupons.
    pub(crate) fn touched(&mut self, coupons: impl IntoIterator<Item = CouponId>) {
        self.changed.extend(coupons);
    }

    /// Publishes what is due. Called when everything that the ledger holds is durable.
    pub(crate) fn publish(&mut self, ledger: &Mutex<Ledger>) -> Result<(), Interrupted> {
        let now = Instant::now();
        let sweeper = self.sweeper_due(now)?;
        let (records, next_src) = {
            let ledger = ledger.lock();
            let mut records = self.collect_changed(&ledger, now);
            records.extend(self.collect_turns(&ledger, now));
            if let Some(sweeper) = sweeper {
                records.extend(self.sweep_retired(&ledger, sweeper)?);
            }
            (records, ledger.next_src())
        };
        let decided = self.decided_is_due(next_src, now);
        if records.is_empty() && !decided {
            return Ok(());
        }
        self.append(&records, next_src, decided)?;
        if decided {
            self.decided = Some((next_src, now));
            self.desk.shared.decided.lock().insert(self.desk.partition(), next_src);
        }
        let metrics = &self.desk.shared.metrics;
        let most = usize::try_from(self.desk.shared.context.config.decide.metrics_coupons_max).unwrap_or(0);
        for (coupon_id, state) in records {
            let before = match state.clone() {
                Some(state) => self.published.insert(coupon_id, Published { state, at: now }),
                None => self.published.remove(&coupon_id),
            };
            if before.is_none() && state.is_some() {
                self.turns.push_back(coupon_id);
            }
            self.stock.show(metrics, most, before.as_ref().map(|before| &before.state), state.as_ref());
        }
        Ok(())
    }

    /// Those of the changed ones that are due; the rest stays for later.
    fn collect_changed(&mut self, ledger: &Ledger, now: Instant) -> Vec<StateOrTombstone> {
        let mut records = Vec::new();
        let Self { desk, published, changed, .. } = self;
        let interval = Duration::from_millis(desk.shared.context.config.decide.state_interval_ms.into());
        changed.retain(|coupon_id| {
            let Some(state) = ledger.coupon(*coupon_id) else { return false };
            let known = published.get(coupon_id);
            if state.status == CouponStatus::Retired {
                records.extend(known.map(|_| (*coupon_id, None)));
                return false;
            }
            if known.is_some_and(|known| known.state == *state) {
                return false;
            }
            let waits = known.is_some_and(|known| {
                !is_urgent(&known.state, state) && now.duration_since(known.at) < interval
            });
            if !waits {
                records.push((*coupon_id, Some(state.clone())));
            }
            waits
        });
        records
    }

    /// Those whose turn has come to be said again: all of them within the interval, spread over it.
    fn collect_turns(&mut self, ledger: &Ledger, now: Instant) -> Vec<StateOrTombstone> {
        let interval =
            Duration::from_millis(self.desk.shared.context.config.decide.refresh_interval_ms.into());
        let Some(each) = interval.checked_div(u32::try_from(self.turns.len()).unwrap_or(u32::MAX)) else {
            self.turned = now;
            return Vec::new();
        };
        let mut records = Vec::new();
        let due = usize::try_from(now.duration_since(self.turned).as_nanos() / each.as_nanos().max(1));
        for _ in 0..due.unwrap_or(usize::MAX).min(self.turns.len()) {
            let Some(coupon_id) = self.turns.pop_front() else { break };
            self.turned += each;
            let live = ledger.coupon(coupon_id).filter(|state| state.status != CouponStatus::Retired);
            if let Some(state) = live.filter(|_| self.published.contains_key(&coupon_id)) {
                self.turns.push_back(coupon_id);
                records.push((coupon_id, Some(state.clone())));
            }
        }
        // Whoever was held up does not catch up with several rounds at once.
        self.turned = self.turned.max(now.checked_sub(interval).unwrap_or(now));
        records
    }

    fn decided_is_due(&self, next_src: Offset, now: Instant) -> bool {
        let config = &self.desk.shared.context.config.decide;
        let due_after = |ms: u32, at: Instant| now.duration_since(at) >= Duration::from_millis(ms.into());
        self.decided.is_none_or(|(published, at)| {
            published != next_src && due_after(config.state_interval_ms, at)
                || due_after(config.refresh_interval_ms, at)
        })
    }

    fn append(
        &self,
        records: &[StateOrTombstone],
        next_src: Offset,
        with_decided: bool,
    ) -> Result<(), Interrupted> {
        let (partition, decided_offset) = (self.desk.partition(), next_src.previous());
        let mut batch = self.desk.shared.producer.batch();
        for (coupon_id, state) in records {
            let published = state.clone().map(|state| PublishedState { state, decided_offset });
            let payload = published.as_ref().map(encode_state);
            self.produce(&mut batch, coupon_id.to_string().as_bytes(), payload.as_deref())?;
        }
        if with_decided {
            let payload = encode_decided(&DecidedUpTo { partition, decided_offset, halted: None });
            self.produce(&mut batch, decided_key(partition).as_bytes(), Some(&payload))?;
        }
        while batch.wait(Duration::from_secs(1)).map_err(|error| lost(&error))?.is_err() {
            self.desk.worker.turn();
        }
        Ok(())
    }

    fn produce(&self, batch: &mut Batch<'_>, key: &[u8], payload: Option<&[u8]>) -> Result<(), Interrupted> {
        let record = NewRecord {
            topic: &self.desk.shared.state_topic,
            partition: self.desk.partition().number(),
            key,
            payload,
            headers: &[],
        };
        batch.produce(record, &mut || self.desk.worker.turn()).map_err(|error| lost(&error))
    }

    /// The reader of the topic, when it is time to look at it.
    fn sweeper_due(&mut self, now: Instant) -> Result<Option<Reader>, Interrupted> {
        if now < self.next_sweep {
            return Ok(None);
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        if let Some(reader) = self.sweeper.take() {
            return Ok(Some(reader));
        }
        let (shared, partition) = (self.desk.shared, self.desk.partition().number());
        let reader = shared.states.reader(partition);
        reader.assign(&[(partition, reader.bounds(partition)?.start)])?;
        Ok(Some(reader))
    }

    /// Reads the topic along: a zombie may have said again what a retired coupon was.
    fn sweep_retired(
        &mut self,
        ledger: &Ledger,
        sweeper: Reader,
    ) -> Result<Vec<StateOrTombstone>, Interrupted> {
        let mut retired = Vec::new();
        let swept = sweeper.drain(SWEEP_RECORDS_MAX, Duration::ZERO, |record| {
            let key = record.key().and_then(|key| std::str::from_utf8(key).ok()?.parse::<CouponId>().ok());
            let state = key.and_then(|coupon_id| ledger.coupon(coupon_id));
            if let Some(state) = state
                && state.status == CouponStatus::Retired
            {
                // Only what was said last counts.
                retired.retain(|(coupon_id, _)| *coupon_id != state.coupon_id);
                if record.payload().is_some() {
                    retired.push((state.coupon_id, None));
                }
            }
            ControlFlow::Continue(())
        });
        match swept {
            Ok(_) => self.sweeper = Some(sweeper),
            // Compaction moved on: the next sweep begins at the topic's start.
            Err(infrastructure_kafka::ReadError::OutOfRange { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(retired)
    }
}

impl Drop for StatePublisher<'_> {
    fn drop(&mut self) {
        let metrics = &self.desk.shared.metrics;
        for published in self.published.values() {
            self.stock.show(metrics, 0, Some(&published.state), None);
        }
    }
}

/// Says that a partition stands still. Whoever goes on with it says how far it is, and by that that it moves.
pub(crate) fn publish_halt(shared: &Arc<Shared>, partition: Partition, reason: HaltReason) {
    let decided_offset = shared.decided.lock().get(&partition).and_then(|next_src| next_src.previous());
    let shared = Arc::clone(shared);
    let runtime = shared.runtime.clone();
    drop(runtime.spawn(async move {
        let payload = encode_decided(&DecidedUpTo { partition, decided_offset, halted: Some(reason) });
        let key = decided_key(partition);
        let record = NewRecord {
            topic: &shared.state_topic,
            partition: partition.number(),
            key: key.as_bytes(),
            payload: Some(&payload),
            headers: &[],
        };
        if let Err(error) = shared.producer.append(record).await {
            tracing::warn!(%partition, "gateways do not know that the partition stands still: {error}");
        }
    }));
}

fn lost(error: &AppendError) -> Interrupted {
    Interrupted::Ended(Ended::Fatal(format!("a coupon's state was not acknowledged: {error}")))
}

/// Which coupons' stock has series of its own; that of all others is summed up.
#[derive(Default)]
struct Stock {
    own: HashSet<CouponId>,
}

impl Stock {
    /// Shows what a coupon has become; `most` have series of their own.
    fn show(
        &mut self,
        metrics: &ServiceMetrics,
        most: usize,
        before: Option<&CouponState>,
        now: Option<&CouponState>,
    ) {
        let is_open =
            |state: &&CouponState| matches!(state.status, CouponStatus::Active | CouponStatus::Paused);
        let (before, now) = (before.filter(is_open), now.filter(is_open));
        let Some(coupon_id) = now.or(before).map(|state| state.coupon_id) else { return };
        match now {
            Some(state) if self.own.contains(&coupon_id) || before.is_none() && self.own.len() < most => {
                self.own.insert(coupon_id);
                metrics.stock_of(state);
            }
            None if self.own.remove(&coupon_id) => metrics.forget_stock(coupon_id),
            _ => metrics.stock_of_others(before, now),
        }
    }
}

/// True for what gateways should know at once: everything but how many are left, as long as some are.
fn is_urgent(before: &CouponState, now: &CouponState) -> bool {
    let sold_out = (before.remaining() == 0) != (now.remaining() == 0);
    sold_out || before.version != now.version || before.last_command != now.last_command
}

#[cfg(test)]
mod tests {
    use coupon_domain::coupon::{LastCommand, UncheckedDefinition};
    use coupon_domain::{CommandCode, CommandId, Round};

    use super::*;

    #[test]
    fn commands_and_the_last_unit_are_urgent_and_single_grants_are_not() {
        let coupon_id = CouponId::new(Partition::new(0).unwrap(), uuid::Uuid::from_u128(1));
        let definition = UncheckedDefinition {
            name: "Tea".to_owned(),
            quantity: 2,
            per_user_limit: 1,
            opens_at: 0,
            closes_at: 1,
            expiry: None,
            rules: 1,
            key_id: "k1".parse().unwrap(),
        };
        let published = CouponState {
            coupon_id,
            definition: Arc::new(definition.check().unwrap()),
            status: CouponStatus::Active,
            round: Round::FIRST,
            quantity: 2,
            issued: 0,
            version: 1,
            last_command: LastCommand {
                command_id: CommandId { coupon_id, mac: [0; 16] },
                code: CommandCode::Applied,
            },
            last_grant_offset: None,
        };
        let granted = CouponState { issued: 1, ..published.clone() };
        assert!(!is_urgent(&published, &granted));
        assert!(is_urgent(&granted, &CouponState { issued: 2, ..published.clone() }));
        assert!(is_urgent(&published, &CouponState { version: 2, ..published.clone() }));
        let refused = LastCommand { code: CommandCode::Refused, ..published.last_command };
        assert!(is_urgent(&published, &CouponState { last_command: refused, ..published.clone() }));
    }
}
