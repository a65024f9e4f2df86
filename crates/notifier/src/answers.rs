//! What answers look like once a claim was followed.

use coupon_domain::ClaimId;
use infrastructure_http::ClaimView;
use infrastructure_http::time::to_rfc3339;
use infrastructure_postgres::look_up::IssuedCoupon;
use serde::Serialize;
use utoipa::ToSchema;

use crate::follow::Followed;

/// What following a claim came to.
pub(crate) fn followed(claim_id: ClaimId, followed: &Followed) -> ClaimView {
    match followed {
        Followed::Answer(answer, _) => ClaimView::answered(answer),
        Followed::Parked(offset) => ClaimView::parked(claim_id, *offset),
        Followed::Forgotten => ClaimView::closed(claim_id),
        Followed::AlreadyIssued(refusal) => ClaimView::already_issued(claim_id, refusal.winner),
        Followed::Replaced => ClaimView::pending(claim_id),
    }
}

/// The same with the issued coupon, where PostgreSQL holds it.
pub(crate) fn with_coupon(view: ClaimView, issued: Option<IssuedCoupon>) -> ClaimView {
    match issued {
        Some(issued) => view.with_coupon(issued.code, issued.expires_at),
        None => view,
    }
}

/// The `decided` event: the claim, and the trace that the press of the button belongs to, where it came with a recorded one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecidedEvent)]
pub(crate) struct DecidedView {
    #[serde(flatten)]
    claim: ClaimView,
    /// W3C `traceparent` of the decision; only for whoever was waiting when it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

impl DecidedView {
    pub(crate) fn new(claim_id: ClaimId, followed: &Followed) -> Self {
        let traceparent = match followed {
            Followed::Answer(_, trace) => trace.map(|context| context.to_string()),
            Followed::Parked(_) | Followed::Forgotten | Followed::AlreadyIssued(_) | Followed::Replaced => {
                None
            }
        };
        Self { claim: self::followed(claim_id, followed), traceparent }
    }
}

/// The `persisted` event: the coupon is in the system of record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PersistedEvent)]
pub(crate) struct PersistedView {
    #[schema(value_type = String)]
    claim_id: ClaimId,
    coupon_code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

impl PersistedView {
    pub(crate) fn new(claim_id: ClaimId, issued: IssuedCoupon) -> Self {
        Self { claim_id, coupon_code: issued.code, expires_at: issued.expires_at.map(to_rfc3339) }
    }
}
