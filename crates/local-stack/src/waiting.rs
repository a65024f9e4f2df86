//! Waiting for a condition, always with a deadline. The only sleep of this crate is here.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks until the condition holds or the deadline has passed; true if it held.
///
/// ```
/// use std::time::Duration;
/// assert!(local_stack::eventually(Duration::from_secs(1), || true));
/// assert!(!local_stack::eventually(Duration::ZERO, || false));
/// ```
#[must_use]
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    poll(deadline, || condition().then_some(())).is_some()
}

/// Asks until there is an answer or the deadline has passed.
pub(crate) fn poll<T>(deadline: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let answer = question();
        let left = deadline.saturating_sub(started.elapsed());
        if answer.is_some() || left.is_zero() {
            return answer;
        }
        std::thread::sleep(POLL_INTERVAL.min(left));
    }
}
