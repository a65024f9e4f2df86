//! An issued coupon, as its owner sees it.

use coupon_domain::{ClaimId, CouponId};
use infrastructure_http::time::to_rfc3339;
use infrastructure_postgres::wallet::{HeldCoupon, Standing};
use serde::Serialize;
use utoipa::ToSchema;

/// What can be done with an issued coupon, by PostgreSQL's clock.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HeldStatus {
    /// It can be redeemed.
    Issued,
    /// It was redeemed.
    Used,
    /// It was not redeemed in time.
    Expired,
}

/// An issued coupon, as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeldCouponView {
    #[schema(value_type = String)]
    claim_id: ClaimId,
    #[schema(value_type = String)]
    coupon_id: CouponId,
    coupon_code: String,
    issue_no: u32,
    status: HeldStatus,
    issued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_ref: Option<String>,
}

impl From<HeldCoupon> for HeldCouponView {
    fn from(held: HeldCoupon) -> Self {
        let (used_at, order_ref) =
            held.used.map(|(at, order)| (to_rfc3339(at), order.as_str().to_owned())).unzip();
        Self {
            claim_id: held.claim_id,
            coupon_id: held.claim_id.coupon_id,
            coupon_code: held.code,
            issue_no: held.issue_no,
            status: match held.standing {
                Standing::Issued => HeldStatus::Issued,
                Standing::Used => HeldStatus::Used,
                Standing::Expired => HeldStatus::Expired,
            },
            issued_at: to_rfc3339(held.issued_at),
            expires_at: held.expires_at.map(to_rfc3339),
            used_at,
            order_ref,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use coupon_domain::Timestamp;

    use super::*;

    pub(crate) fn held() -> HeldCoupon {
        HeldCoupon {
            claim_id: format!("c7-{}.1.00000000000000ab.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap(),
            code: "CODE".to_owned(),
            issue_no: 3,
            issued_at: Timestamp::from_ms(1_795_255_200_123).unwrap(),
            expires_at: None,
            used: None,
            standing: Standing::Issued,
        }
    }

    #[test]
    fn what_a_coupon_has_not_is_left_out() {
        let unused = serde_json::to_value(HeldCouponView::from(held())).unwrap();
        assert_eq!(unused["status"], "issued");
        assert_eq!(unused["coupon_id"], format!("c7-{}", "1".repeat(32)));
        assert!(unused.get("used_at").is_none() && unused.get("expires_at").is_none());
        let used = HeldCoupon {
            used: Some((Timestamp::EPOCH, "order-1".parse().unwrap())),
            standing: Standing::Used,
            ..held()
        };
        let used = serde_json::to_value(HeldCouponView::from(used)).unwrap();
        assert_eq!(used["used_at"], "1970-01-01T00:00:00Z");
        assert_eq!((&used["order_ref"], &used["status"]), (&"order-1".into(), &"used".into()));
    }
}
