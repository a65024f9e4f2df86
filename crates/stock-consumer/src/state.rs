//! Publishing coupon states for the gateways.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use coupon_domain::wire::{PublishedState, encode_state};
use coupon_domain::{CouponId, CouponState, CouponStatus, Ledger, Offset};
use infrastructure_kafka::{NewRecord, Reader};
use parking_lot::Mutex;
use service_runtime::Ended;
use service_runtime::partition::Interrupted;

use crate::worker::Desk;

/// How often the topic is looked at for states of retired coupons.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_RECORDS_MAX: usize = 10_000;

/// Publishes the states of one partition's coupons.
pub(crate) struct StatePublisher<'a> {
    desk: Desk<'a>,
    published: HashMap<CouponId, Published>,
    sweeper: Option<Reader>,
    next_sweep: Instant,
}

/// A record of the topic.
type StateOrTombstone = (CouponId, Option<CouponState>);

struct Published {
    state: CouponState,
    decided: Offset,
    at: Instant,
}

impl<'a> StatePublisher<'a> {
    pub(crate) fn new(desk: Desk<'a>) -> Self {
        Self { desk, published: HashMap::new(), sweeper: None, next_sweep: Instant::now() }
    }

    /// Publishes what is due. Called when everything that the ledger holds is durable.
    pub(crate) fn publish(&mut self, ledger: &Mutex<Ledger>) -> Result<(), Interrupted> {
        let now = Instant::now();
        let sweeper = self.sweeper_due(now)?;
        let (records, decided) = {
            let ledger = ledger.lock();
            let mut records = self.collect_due(&ledger, now);
            if let Some(sweeper) = sweeper {
                records.extend(self.sweep_retired(&ledger, sweeper)?);
            }
            (records, ledger.next_src())
        };
        self.append(&records, decided)?;
        for (coupon_id, state) in records {
            if let Some(state) = state {
                self.published.insert(coupon_id, Published { state, decided, at: now });
            }
        }
        Ok(())
    }

    fn collect_due(&mut self, ledger: &Ledger, now: Instant) -> Vec<StateOrTombstone> {
        let mut records = Vec::new();
        for state in ledger.coupons() {
            if state.status == CouponStatus::Retired {
                if let Some(published) = self.published.remove(&state.coupon_id) {
                    records.push((state.coupon_id, None));
                    self.desk.shared.metrics.forget_stock(&published.state);
                }
            } else if self.is_due(state, ledger.next_src(), now) {
                records.push((state.coupon_id, Some(state.clone())));
            }
        }
        if !records.is_empty() {
            self.show_stock(ledger);
        }
        records
    }

    fn is_due(&self, state: &CouponState, decided: Offset, now: Instant) -> bool {
        let Some(published) = self.published.get(&state.coupon_id) else {
            return true;
        };
        let config = &self.desk.shared.context.config.decide;
        let age = now.duration_since(published.at);
        let moved = published.decided != decided || published.state != *state;
        is_urgent(&published.state, state)
            || moved && age >= Duration::from_millis(config.state_interval_ms.into())
            || age >= Duration::from_millis(config.refresh_interval_ms.into())
    }

    fn append(&self, records: &[StateOrTombstone], decided: Offset) -> Result<(), Interrupted> {
        let shared = self.desk.shared;
        let lost = |error: infrastructure_kafka::AppendError| {
            Interrupted::Ended(Ended::Fatal(format!("a coupon's state was not acknowledged: {error}")))
        };
        let mut batch = shared.producer.batch();
        for (coupon_id, state) in records {
            let payload = state.as_ref().map(|state| {
                encode_state(&PublishedState { state: state.clone(), decided_offset: decided.previous() })
            });
            let key = coupon_id.to_string();
            let record = NewRecord {
                topic: &shared.state_topic,
                partition: self.desk.partition().number(),
                key: key.as_bytes(),
                payload: payload.as_deref(),
                headers: &[],
            };
            batch.produce(record, &mut || self.desk.worker.turn()).map_err(lost)?;
        }
        while batch.wait(Duration::from_secs(1)).map_err(lost)?.is_err() {
            self.desk.worker.turn();
        }
        Ok(())
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

    fn show_stock(&self, ledger: &Ledger) {
        let open = |state: &&CouponState| matches!(state.status, CouponStatus::Active | CouponStatus::Paused);
        let most = usize::try_from(self.desk.shared.context.config.decide.metrics_coupons_max).unwrap_or(0);
        self.desk.shared.metrics.stock(ledger.coupons().filter(open), most);
        for closed in ledger.coupons().filter(|state| state.status == CouponStatus::Closed) {
            self.desk.shared.metrics.forget_stock(closed);
        }
    }
}

impl Drop for StatePublisher<'_> {
    fn drop(&mut self) {
        for published in self.published.values() {
            self.desk.shared.metrics.forget_stock(&published.state);
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
    use std::sync::Arc;

    use coupon_domain::coupon::{LastCommand, UncheckedDefinition};
    use coupon_domain::{CommandCode, CommandId, Partition, Round};

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
