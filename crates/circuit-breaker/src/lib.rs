//! A circuit breaker: while a store does not answer, requests go on without it at once instead of waiting for the time-out each.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// This many failures in a row open the circuit.
const FAILURES_MAX: u32 = 5;
/// After this time one request tries again.
const OPEN: Duration = Duration::from_millis(500);

/// Counts how requests end, and says whether the next one may go out.
#[derive(Debug, Default)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    retry_at: Option<Instant>,
}

impl Breaker {
    /// True where a request may go out now. While the circuit is open that is one every [`OPEN`].
    #[must_use]
    pub fn allows(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match state.retry_at {
            Some(retry_at) if now < retry_at => false,
            Some(_) => {
                state.retry_at = Some(now + OPEN);
                true
            }
            None => true,
        }
    }

    /// A request was answered: the circuit is closed.
    pub fn succeeded(&self) {
        let mut state = self.state.lock();
        if state.failures > 0 {
            *state = State::default();
        }
    }

    /// A request was not answered. True where the circuit is open because of this failure, or still.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        let is_open = state.failures >= FAILURES_MAX;
        if is_open {
            state.retry_at = Some(now + OPEN);
        }
        is_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circuit_opens_after_failures_in_a_row_and_lets_one_try_again() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            assert!(!breaker.failed(start));
        }
        assert!(breaker.allows(start));
        breaker.succeeded();
        for _ in 0..FAILURES_MAX {
            assert!(breaker.allows(start));
            breaker.failed(start);
        }
        assert!(breaker.failed(start));
        assert!(!breaker.allows(start));
        let later = start + OPEN;
        assert!(breaker.allows(later));
        assert!(!breaker.allows(later), "only one may try");
        breaker.succeeded();
        assert!(breaker.allows(later));
    }
}
