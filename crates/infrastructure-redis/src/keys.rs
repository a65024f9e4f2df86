//! The names of keys.

use coupon_domain::{ClaimId, CouponId};

#[derive(Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A hash: watermark, remaining, status, round.
    pub(crate) fn coupon(&self, coupon_id: CouponId) -> String {
        format!("{}coupon:{{{coupon_id}}}", self.prefix)
    }

    /// The answer to a claim. The coupon stands in the hash tag, the rest of the claim's id behind it.
    pub(crate) fn claim(&self, claim_id: &ClaimId) -> String {
        let spelled = claim_id.to_string();
        let (coupon_id, rest) = spelled.split_once('.').unwrap_or((&spelled, ""));
        format!("{}claim:{{{coupon_id}}}:{rest}", self.prefix)
    }

    /// A pattern of everything that is ours.
    pub(crate) fn everything(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// A pattern of all claims of a coupon. Prefixes and ids contain no special characters.
    pub(crate) fn claims_of(&self, coupon_id: CouponId) -> String {
        format!("{}claim:{{{coupon_id}}}:*", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_coupon_share_its_hash_tag() {
        let coupon = format!("c7-{}", "0".repeat(32));
        let claim = format!("{coupon}.1.0.{}", "a".repeat(32));
        let keys = Keys::new("p.");
        assert_eq!(keys.coupon(coupon.parse().unwrap()), format!("p.coupon:{{{coupon}}}"));
        assert_eq!(
            keys.claim(&claim.parse().unwrap()),
            format!("p.claim:{{{coupon}}}:1.0.{}", "a".repeat(32))
        );
    }
}
