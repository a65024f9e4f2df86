//! Who waits for which claim, in this process.

use std::collections::HashMap;
use std::sync::Arc;

use coupon_domain::{ClaimAnswer, ClaimId, Offset};
use parking_lot::Mutex;
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
}

impl Default for Waiters {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Waiters {
    fn shard(&self, claim_id: &ClaimId) -> Option<&Shard> {
        let [first, ..] = claim_id.mac;
        self.shards.get(usize::from(first) % SHARDS)
    }

    /// Registers a waiter, until the registration is dropped.
    pub(crate) fn register(self: &Arc<Self>, claim_id: ClaimId) -> Registration {
        let slot = Arc::<Slot>::default();
        if let Some(shard) = self.shard(&claim_id) {
            shard.lock().entry(claim_id).or_default().push(Arc::clone(&slot));
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
