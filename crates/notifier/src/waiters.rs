//! Who waits for which claim, in this process.

use std::collections::HashMap;
use std::sync::Arc;

use coupon_domain::{ClaimAnswer, ClaimId, Offset};
use parking_lot::Mutex;
use prometheus::IntCounter;
use service_runtime::trace::TraceContext;
use smallvec::SmallVec;
use tokio::sync::Notify;

/// The map is split, so that thousands of arrivals and the tail do not queue for one lock.
const SHARDS: usize = 64;

/// What the tail has seen about a claim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Told {
    /// An answer: a final one, a deferral, or one that is remembered nowhere; with the trace that its outcome carries.
    Answer(ClaimAnswer, Option<TraceContext>),
    /// Its record could not be read: it is parked in the dead-letter queue.
    Parked(Offset),
    /// As many wait for this claim as may, and somebody came later.
    Replaced,
}

impl Told {
    fn is_final(&self) -> bool {
        matches!(self, Self::Answer(answer, _) if answer.is_final)
    }
}

/// One waiter's place for what it is told. The newest counts, but a final answer is never replaced.
#[derive(Default)]
pub(crate) struct Slot {
    told: Mutex<Option<Told>>,
    changed: Notify,
}

impl Slot {
    fn tell(&self, told: Told) {
        let mut slot = self.told.lock();
        if !slot.is_some_and(|known| known.is_final()) {
            *slot = Some(told);
        }
        drop(slot);
        self.changed.notify_one();
    }

    /// Waits to be told something.
    pub(crate) async fn told(&self) -> Told {
        loop {
            if let Some(told) = self.told.lock().take() {
                return told;
            }
            self.changed.notified().await;
        }
    }
}

type Shard = Mutex<HashMap<ClaimId, SmallVec<[Arc<Slot>; 1]>>>;

/// All waiters.
pub(crate) struct Waiters {
    shards: Vec<Shard>,
    per_claim_max: usize,
    /// Counts waiters who had to give way.
    replaced: IntCounter,
}

impl Waiters {
    /// Nobody waits; at most so many will for one claim.
    pub(crate) fn new(per_claim_max: u32, replaced: IntCounter) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, per_claim_max: usize::try_from(per_claim_max).unwrap_or(usize::MAX), replaced }
    }

    fn shard(&self, claim_id: &ClaimId) -> Option<&Shard> {
        let [first, ..] = claim_id.mac;
        self.shards.get(usize::from(first) % SHARDS)
    }

    /// Registers a waiter, until the registration is dropped. Where as many wait for this claim as may, the one who came first gives way: a phone that has
    /// changed networks leaves a stream behind that nobody reads, and must not be kept out by it.
    pub(crate) fn register(self: &Arc<Self>, claim_id: ClaimId) -> Registration {
        let slot = Arc::<Slot>::default();
        if let Some(shard) = self.shard(&claim_id) {
            let mut waiting = shard.lock();
            let slots = waiting.entry(claim_id).or_default();
            if slots.len() >= self.per_claim_max {
                slots.remove(0).tell(Told::Replaced);
                self.replaced.inc();
            }
            slots.push(Arc::clone(&slot));
        }
        Registration { waiters: Arc::clone(self), claim_id, slot }
    }

    /// Tells everybody who waits for this claim. `told` is asked for only if somebody does.
    pub(crate) fn tell(&self, claim_id: &ClaimId, told: impl FnOnce() -> Told) {
        let Some(shard) = self.shard(claim_id) else { return };
        if let Some(slots) = shard.lock().get(claim_id) {
            let told = told();
            for slot in slots {
                slot.tell(told);
            }
        }
    }
}

/// A waiter's registration.
pub(crate) struct Registration {
    waiters: Arc<Waiters>,
    claim_id: ClaimId,
    slot: Arc<Slot>,
}

impl Registration {
    /// Waits to be told something.
    pub(crate) async fn told(&self) -> Told {
        self.slot.told().await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(shard) = self.waiters.shard(&self.claim_id) else { return };
        let mut waiting = shard.lock();
        if let Some(slots) = waiting.get_mut(&self.claim_id) {
            slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if slots.is_empty() {
                waiting.remove(&self.claim_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn whoever_came_first_gives_way_where_as_many_wait_for_a_claim_as_may() {
        let waiters = Arc::new(Waiters::new(3, IntCounter::new("replaced", "so many").unwrap()));
        let claim_id: ClaimId = format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap();
        let mut waiting: Vec<_> = (0..10_000).map(|_| waiters.register(claim_id)).collect();
        assert_eq!(waiters.replaced.get(), 9_997);
        assert_eq!(waiters.shard(&claim_id).unwrap().lock()[&claim_id].len(), 3);
        waiters.tell(&claim_id, || Told::Parked(Offset::ZERO));
        let last: Vec<_> = waiting.split_off(9_997);
        assert!(waiting.iter().all(|waiter| waiter.told().now_or_never() == Some(Told::Replaced)));
        assert!(last.iter().all(|waiter| waiter.told().now_or_never() == Some(Told::Parked(Offset::ZERO))));
        drop((waiting, last));
        assert!(waiters.shard(&claim_id).unwrap().lock().is_empty());
    }
}
