//! How many keys one user may use for one coupon. Each key is another claim of theirs (its slot): without a limit one user fills the log.
//!
//! Users are remembered as 64-bit hashes with a random seed; where more users press than are remembered, those who have not pressed for long begin anew.

use std::convert::Infallible;
use std::hash::BuildHasher;
use std::sync::Arc;

use coupon_domain::{CouponState, Slot, UserId};
use infrastructure_http::{Code, Problem};
use parking_lot::Mutex;
use prometheus::IntCounter;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use smallvec::SmallVec;

/// The caches grow from here.
const USERS_AT_FIRST: usize = 1_024;

type Slots = Arc<Mutex<SmallVec<[Slot; 2]>>>;

/// The keys that this gateway has seen.
pub(crate) struct UserSlots {
    seen: Cache<u64, Slots>,
    hasher: foldhash::quality::RandomState,
    slots_max: usize,
    hits: IntCounter,
}

impl UserSlots {
    /// Nobody has pressed yet.
    pub(crate) fn new(slots_max: u32, users_max: u32, hits: IntCounter) -> Self {
        let seen = Cache::with(
            USERS_AT_FIRST,
            users_max.into(),
            UnitWeighter,
            quick_cache::DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        let slots_max = usize::try_from(slots_max).unwrap_or(usize::MAX);
        Self { seen, hasher: foldhash::quality::RandomState::default(), slots_max, hits }
    }

    /// Lets a press with this slot through, if it is one of those that the user has used before, or they may use another one.
    pub(crate) fn admit(&self, state: &CouponState, user_id: &UserId, slot: Slot) -> Result<(), Problem> {
        let limit = state.definition.per_user_limit();
        if limit == 1 {
            // There is but one.
            return Ok(());
        }
        let key = self.hasher.hash_one((state.coupon_id, user_id));
        let Ok(slots) = self.seen.get_or_insert_with(&key, || Ok::<_, Infallible>(Slots::default()));
        let mut slots = slots.lock();
        if slots.contains(&slot) {
            return Ok(());
        }
        let most = self.slots_max.max(limit.into());
        if slots.len() >= most {
            self.hits.inc();
            let detail = format!(
                "{most} keys of yours were used for this coupon already; press again with one of those"
            );
            return Err(Problem::new(Code::TooManyKeys, detail));
        }
        slots.push(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::tests::state_of_limit;

    fn slots(slots_max: u32, users_max: u32) -> UserSlots {
        UserSlots::new(slots_max, users_max, IntCounter::new("slots", "hits").unwrap())
    }

    #[test]
    fn a_user_may_use_so_many_keys_of_a_coupon_and_press_with_each_again() {
        let (slots, two, ann) = (slots(3, 100), state_of_limit(2), "ann".parse().unwrap());
        for round in 0..2 {
            for slot in 0..3 {
                assert!(slots.admit(&two, &ann, Slot(slot)).is_ok(), "{round}");
            }
        }
        assert_eq!(slots.admit(&two, &ann, Slot(3)).unwrap_err().code(), Code::TooManyKeys);
        assert!(slots.admit(&two, &"bob".parse().unwrap(), Slot(3)).is_ok());
        assert_eq!(slots.hits.get(), 1);
    }

    #[test]
    fn a_coupon_of_which_more_may_be_had_takes_as_many_keys() {
        let (slots, five, ann) = (slots(3, 100), state_of_limit(5), "ann".parse().unwrap());
        assert!((0..5).all(|slot| slots.admit(&five, &ann, Slot(slot)).is_ok()));
        assert!(slots.admit(&five, &ann, Slot(5)).is_err());
    }

    #[test]
    fn no_more_users_are_remembered_than_may_be() {
        let (slots, two) = (slots(3, 1_000), state_of_limit(2));
        for number in 0..10_000 {
            slots.admit(&two, &format!("user-{number}").parse().unwrap(), Slot(0)).unwrap();
        }
        // Each part of the cache rounds its share up.
        assert!(slots.seen.len() <= 1_100, "{}", slots.seen.len());
    }
}
