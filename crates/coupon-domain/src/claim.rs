//! One user's request for one coupon, as it stands in the line.

use crate::claim_id::ClaimId;
use crate::timestamp::Timestamp;
use crate::user_id::UserId;

/// A claim. Coupon, round and slot are part of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which claim it is.
    pub claim_id: ClaimId,
    /// Whose it is.
    pub user_id: UserId,
    /// When a gateway took it, by the gateway's clock. For latency figures only: the fold never looks at it.
    pub received_at: Timestamp,
}
