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

    /// A pattern of all coupons' hashes.
    pub(crate) fn coupons(&self) -> String {
        format!("{}coupon:*", self.prefix)
    }

    /// A pattern of all claims.
    pub(crate) fn claims(&self) -> String {
        format!("{}claim:*", self.prefix)
    }

    /// The coupon of a hash's key.
    pub(crate) fn read_coupon(&self, key: &str) -> Option<CouponId> {
        key.strip_prefix(&self.prefix)?.strip_prefix("coupon:{")?.strip_suffix('}')?.parse().ok()
    }

    /// The claim of a claim's key.
    pub(crate) fn read_claim(&self, key: &str) -> Option<ClaimId> {
        let (coupon_id, rest) = key.strip_prefix(&self.prefix)?.strip_prefix("claim:{")?.split_once("}:")?;
        format!("{coupon_id}.{rest}").parse().ok()
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

    #[test]
    fn keys_read_back_and_others_do_not() {
        let coupon = format!("c7-{}", "0".repeat(32));
        let claim = format!("{coupon}.1.00000000000000ab.{}", "a".repeat(32));
        let keys = Keys::new("p.");
        let (coupon_id, claim_id) = (coupon.parse().unwrap(), claim.parse().unwrap());
        assert_eq!(keys.read_coupon(&keys.coupon(coupon_id)), Some(coupon_id));
        assert_eq!(keys.read_claim(&keys.claim(&claim_id)), Some(claim_id));
        for other in ["", "p.", "p.coupon:{c7}", "coupon:{c7}", "p.claim:{}:", &keys.coupon(coupon_id)] {
            assert_eq!(keys.read_claim(other), None);
        }
    }
}
