//! A user's claims of a coupon: their ids are computed, none is looked up.

use coupon_domain::{ClaimId, CouponState, IdempotencyKey, Key, Slot, UserId};
use infrastructure_http::Problem;
use smallvec::SmallVec;

use crate::desk::Desk;

/// Which of the user's claims this press is: where they may hold several, they say so by a key of their own.
pub(crate) fn slot(state: &CouponState, key: &Key, named: Option<IdempotencyKey>) -> Result<Slot, Problem> {
    match (state.definition.per_user_limit(), named) {
        (1, _) => Ok(Slot::ONLY),
        (_, Some(name)) => Ok(key.slot(state.coupon_id, &name)),
        (limit, None) => Err(Problem::invalid(
            "Idempotency-Key",
            format!("is required: up to {limit} of this coupon may be claimed, each under a key of its own"),
        )),
    }
}

/// The caller's claims of a coupon: that of the present round, and those of the rounds before it.
pub(crate) fn own_claims(
    desk: &Desk,
    state: &CouponState,
    user_id: &UserId,
    named: Option<IdempotencyKey>,
) -> Result<SmallVec<[ClaimId; 2]>, Problem> {
    let key = desk.key_of(state)?;
    Ok(claims_of(key, state, user_id, slot(state, key, named)?))
}

/// The claim of the present round, and those of the rounds before it.
pub(crate) fn claims_of(
    key: &Key,
    state: &CouponState,
    user_id: &UserId,
    slot: Slot,
) -> SmallVec<[ClaimId; 2]> {
    state.round.back_to_first().map(|round| key.claim_id(state.coupon_id, user_id, round, slot)).collect()
}
