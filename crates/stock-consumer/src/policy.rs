//! What Redis does when its memory is full. Losing parts of the view is noticed and mended whatever it does; but only `noeviction` keeps it from
//! happening again and again, so another policy is named, at the start and whenever it changes.

use crate::worker::Shared;

const NOEVICTION: &str = "noeviction";

/// Looks whether Redis may throw keys away.
pub(crate) async fn look(shared: &Shared) {
    let policy = match shared.view_maintenance.eviction_policy().await {
        Ok(Some(policy)) => policy,
        // It does not tell its users.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!("Redis was not asked for its maxmemory-policy: {error}");
            return;
        }
    };
    shared.metrics.redis_evicts(policy != NOEVICTION);
    let before = shared.redis_policy.lock().replace(policy.clone());
    if before.as_deref() == Some(policy.as_str()) {
        return;
    }
    if policy == NOEVICTION {
        tracing::info!("Redis' maxmemory-policy is noeviction");
    } else {
        tracing::warn!(
            "Redis' maxmemory-policy is {policy}: parts of the view may be thrown away, to be pushed again each time; \
             set it to noeviction (runbook CouponRedisEvicts)"
        );
    }
}
