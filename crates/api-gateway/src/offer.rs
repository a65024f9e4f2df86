//! How an offer is shown, to users and operators alike.

use coupon_domain::{CouponState, CouponStatus, Expiry};
use infrastructure_http::time::to_rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use crate::broker_clock::BrokerNow;

/// Where a coupon stands at this moment, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its window has not opened.
    Scheduled,
    /// Claims are eligible.
    Open,
    /// Held back by an operator.
    Paused,
    /// Nothing left.
    SoldOut,
    /// Over.
    Closed,
}

impl Phase {
    pub(crate) fn of(state: &CouponState, now: BrokerNow) -> Self {
        let window = state.definition.window();
        // The best guess is good enough for something that is only shown.
        match state.status {
            CouponStatus::Closed | CouponStatus::Retired => Self::Closed,
            _ if now.likely >= window.closes_at() => Self::Closed,
            CouponStatus::Paused => Self::Paused,
            CouponStatus::Active if now.likely < window.opens_at() => Self::Scheduled,
            CouponStatus::Active if state.remaining() == 0 => Self::SoldOut,
            CouponStatus::Active => Self::Open,
        }
    }
}

/// When issued coupons expire: at a moment, or days after they were issued.
pub(crate) fn spell_expiry(expiry: Option<Expiry>) -> (Option<String>, Option<u16>) {
    match expiry {
        None => (None, None),
        Some(Expiry::At(moment)) => (Some(to_rfc3339(moment)), None),
        Some(Expiry::DaysAfterIssue(days)) => (None, Some(days)),
    }
}
