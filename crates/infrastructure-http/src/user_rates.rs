//! How often one user may ask. Users are remembered as 64-bit hashes with a random seed, for as long as their rate matters.

use std::hash::{BuildHasher, Hash};
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use prometheus::{IntCounter, IntGauge};

use crate::problem::{Code, Problem};

/// How often one user may ask, and how many users are remembered.
#[derive(Clone, Copy, Debug)]
pub struct RateSettings {
    /// Requests per second, on average.
    pub per_s: u32,
    /// Requests at once.
    pub burst: u32,
    /// Users whose rate is remembered at once.
    pub users_max: u32,
}

/// What shows how full the limits are.
#[derive(Clone)]
pub struct RateMetrics {
    /// How many users are remembered.
    pub remembered: IntGauge,
    /// Counts requests beyond a user's rate.
    pub rate_hits: IntCounter,
    /// Counts requests for which no room was left.
    pub users_hits: IntCounter,
}

/// The rates of all users.
pub struct UserRates {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
    hasher: foldhash::quality::RandomState,
    clock: DefaultClock,
    users_max: usize,
    metrics: RateMetrics,
}

impl UserRates {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(settings: RateSettings, metrics: RateMetrics) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(settings.per_s)).allow_burst(at_least_one(settings.burst));
        Self {
            limiter: RateLimiter::dashmap(quota),
            hasher: foldhash::quality::RandomState::default(),
            clock: DefaultClock::default(),
            users_max: usize::try_from(settings.users_max).unwrap_or(usize::MAX),
            metrics,
        }
    }

    /// Counts a request of whoever asks: a user, or whoever else is told apart from all others by `who`.
    ///
    /// # Errors
    /// 429 beyond their rate, 503 while as many users are remembered as may be.
    pub fn admit(&self, who: &impl Hash) -> Result<(), Problem> {
        if usize::try_from(self.metrics.remembered.get()).unwrap_or(0) >= self.users_max {
            self.metrics.users_hits.inc();
            return Err(Problem::new(Code::Overloaded, "more users at once than this process remembers"));
        }
        if let Err(until) = self.limiter.check_key(&self.hasher.hash_one(who)) {
            self.metrics.rate_hits.inc();
            let wait = until.wait_time_from(self.clock.now());
            let detail =
                format!("more requests than one user may send; try again in {} ms", wait.as_millis());
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Ok(())
    }

    /// Forgets users whose rate no longer matters. Called every second.
    pub fn forget_the_quiet(&self) {
        self.limiter.retain_recent();
        self.metrics.remembered.set(self.limiter.len().try_into().unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(burst: u32, users_max: u32) -> UserRates {
        let counter = |name: &str| IntCounter::new(name, "hits").unwrap();
        let metrics = RateMetrics {
            remembered: IntGauge::new("users_remembered", "now").unwrap(),
            rate_hits: counter("rate"),
            users_hits: counter("users"),
        };
        UserRates::new(RateSettings { per_s: 1, burst, users_max }, metrics)
    }

    #[test]
    fn each_user_has_a_rate_of_their_own() {
        let rates = rates(2, 10);
        assert!(rates.admit(&"ann").is_ok() && rates.admit(&"ann").is_ok());
        assert_eq!(rates.admit(&"ann").unwrap_err().code(), Code::RateLimited);
        assert!(rates.admit(&"bob").is_ok());
        assert_eq!(rates.metrics.rate_hits.get(), 1);
    }

    #[test]
    fn more_users_than_are_remembered_is_too_much() {
        let rates = rates(1, 2);
        for number in 0..3 {
            rates.admit(&number).unwrap();
        }
        rates.forget_the_quiet();
        assert_eq!(rates.admit(&"late").unwrap_err().code(), Code::Overloaded);
        assert_eq!(rates.metrics.users_hits.get(), 1);
    }
}
