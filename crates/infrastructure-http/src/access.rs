//! The access log: a line per request. In a stampede a share of them: it must not cost more than the requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::{HttpMessage as _, HttpRequest};
use coupon_domain::{ClaimId, CouponId, KeyRing, UserId};

use crate::problem::Problem;
use crate::trace;

/// So many requests of a second have a line each.
const LINES_PER_SECOND: u32 = 100;
/// Beyond, one of so many has.
const THEN_ONE_OF: u32 = 100;

/// The access log of a process. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    keys: KeyRing,
    pace: Pace,
}

impl AccessLog {
    /// A log in which users are called by what these keys make of them.
    #[must_use]
    pub fn new(keys: &KeyRing) -> Self {
        let pace = Pace { started: Instant::now(), second: AtomicU64::new(0) };
        Self(Arc::new(Shared { keys: keys.clone(), pace }))
    }

    /// A request has arrived. True where it will have a line: what handlers find out about it is noted from now on.
    pub(crate) fn arrived(&self, request: &ServiceRequest, now: Instant) -> bool {
        let has_line = tracing::enabled!(target: "access", tracing::Level::INFO) && self.0.pace.has_line(now);
        if has_line {
            request.extensions_mut().insert(Noted::default());
        }
        has_line
    }

    /// It was answered: the line.
    pub(crate) fn answered<B>(&self, response: &ServiceResponse<B>, route: &str, took: Duration) {
        let (request, status) = (response.request(), response.status().as_u16());
        let method = request.method();
        let noted = request.extensions().get::<Noted>().and_then(|noted| noted.user.clone());
        let user = noted.and_then(|user| self.0.keys.user_hash(&user));
        let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
        let code = problem.map(|problem| problem.code().as_str());
        // What stands in a path may be anything.
        let coupon_id = request.match_info().get("coupon_id").and_then(|id| id.parse::<CouponId>().ok());
        let claim_id = request.match_info().get("claim_id").and_then(|id| id.parse::<ClaimId>().ok());
        let context = trace::of(request);
        tracing::info!(
            target: "access",
            trace_id = context.map(|context| tracing::field::display(context.trace_id_hex())),
            span_id = context.map(|context| tracing::field::display(context.span_id_hex())),
            coupon.id = coupon_id.map(tracing::field::display),
            claim.id = claim_id.map(tracing::field::display),
            user.hash = user,
            code,
            duration_ms = took.as_secs_f64() * 1_000.0,
            "{method} {route} {status}"
        );
    }
}

/// What handlers have found out about a request that will have a line.
#[derive(Default)]
struct Noted {
    user: Option<UserId>,
}

/// Notes who asks, if the request will have a line.
pub(crate) fn note_user(request: &HttpRequest, user: &UserId) {
    if let Some(noted) = request.extensions_mut().get_mut::<Noted>() {
        noted.user = Some(user.clone());
    }
}

/// Counts the requests of the second that it is.
struct Pace {
    started: Instant,
    /// The second in the upper half, its requests in the lower.
    second: AtomicU64,
}

impl Pace {
    fn has_line(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.started).as_secs();
        let this_second = elapsed << 32;
        let before = self.second.load(Ordering::Relaxed);
        if before >> 32 < elapsed {
            // Failed: somebody else has begun the second.
            let _ = self.second.compare_exchange(before, this_second, Ordering::Relaxed, Ordering::Relaxed);
        }
        let number = self.second.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX);
        let (all, one_of) = (u64::from(LINES_PER_SECOND), u64::from(THEN_ONE_OF));
        number < all || (number - all).is_multiple_of(one_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stampede_has_a_hundred_lines_a_second_and_then_one_of_a_hundred() {
        let started = Instant::now();
        let pace = Pace { started, second: AtomicU64::new(0) };
        let lines = |second: u64, requests: u32| {
            let now = started + Duration::from_secs(second);
            (0..requests).filter(|_| pace.has_line(now)).count()
        };
        assert_eq!(lines(0, 80), 80);
        assert_eq!(lines(1, 100), 100);
        assert_eq!(lines(2, 10_100), 100 + 100);
        assert_eq!(lines(3, 50), 50, "each second begins anew");
    }
}
