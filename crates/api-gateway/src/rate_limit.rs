//! How often one user may ask. Users are remembered as 64-bit hashes with a random seed, for as long as their rate matters.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use coupon_domain::UserId;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use infrastructure_http::{Code, Problem};
use prometheus::{IntCounter, IntGauge};
use service_runtime::Limits;

use crate::config::ClaimsSection;

pub(crate) struct UserRates {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
    hasher: foldhash::quality::RandomState,
    clock: DefaultClock,
    users_max: usize,
    remembered: IntGauge,
    rate_hits: IntCounter,
    users_hits: IntCounter,
}

impl UserRates {
    pub(crate) fn new(section: &ClaimsSection, limits: &Limits) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(section.user_requests_per_s))
            .allow_burst(at_least_one(section.user_requests_burst));
        Self {
            limiter: RateLimiter::dashmap(quota),
            hasher: foldhash::quality::RandomState::default(),
            clock: DefaultClock::default(),
            users_max: usize::try_from(section.users_remembered_max).unwrap_or(usize::MAX),
            remembered: limits.depth_of("users_remembered", section.users_remembered_max),
            rate_hits: limits.hits_of("user_requests_per_s"),
            users_hits: limits.hits_of("users_remembered"),
        }
    }

    /// Counts a request of this user.
    pub(crate) fn admit(&self, user_id: &UserId) -> Result<(), Problem> {
        if let Err(until) = self.limiter.check_key(&self.hasher.hash_one(user_id)) {
            self.rate_hits.inc();
            let wait = until.wait_time_from(self.clock.now());
            let detail =
                format!("more requests than one user may send; try again in {} ms", wait.as_millis());
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Ok(())
    }

    /// Refuses while as many users are remembered as may be.
    pub(crate) fn has_room(&self) -> Result<(), Problem> {
        if usize::try_from(self.remembered.get()).unwrap_or(0) >= self.users_max {
            self.users_hits.inc();
            return Err(Problem::new(Code::Overloaded, "more users at once than this process remembers"));
        }
        Ok(())
    }

    /// Forgets users whose rate no longer matters. Called every second.
    pub(crate) fn forget_the_quiet(&self) {
        self.limiter.retain_recent();
        self.remembered.set(self.limiter.len().try_into().unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use service_runtime::Metrics;

    use super::*;

    fn rates(burst: u32, users_max: u32) -> UserRates {
        let section = ClaimsSection {
            user_requests_per_s: 1,
            user_requests_burst: burst,
            users_remembered_max: users_max,
            ..ClaimsSection::default()
        };
        UserRates::new(&section, &Limits::new(&Metrics::new("test")))
    }

    #[test]
    fn each_user_has_a_rate_of_their_own() {
        let rates = rates(2, 10);
        let (ann, bob): (UserId, UserId) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        assert!(rates.admit(&ann).is_ok() && rates.admit(&ann).is_ok());
        assert_eq!(rates.admit(&ann).unwrap_err().code(), Code::RateLimited);
        assert!(rates.admit(&bob).is_ok());
    }

    #[test]
    fn more_users_than_are_remembered_is_too_much() {
        let rates = rates(1, 2);
        for number in 0..3 {
            assert!(rates.has_room().is_ok());
            rates.admit(&format!("user-{number}").parse().unwrap()).unwrap();
        }
        rates.forget_the_quiet();
        assert_eq!(rates.has_room().unwrap_err().code(), Code::Overloaded);
    }
}
