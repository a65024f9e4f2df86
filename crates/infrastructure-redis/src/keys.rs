//! The names of keys.

use coupon_domain::CouponId;

/// The field that every whole bucket bears: which push made the view.
pub(crate) fn mark(push_id: impl std::fmt::Display) -> String {
    format!("push.{push_id}")
}

#[derive(Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A hash: watermark, push, number of buckets, remaining, status, round.
    pub(crate) fn coupon(&self, coupon_id: CouponId) -> String {
        format!("{}coupon:{{{coupon_id}}}", self.prefix)
    }

    /// A bucket: a hash of answers. The script and the reader spell it so, too.
    pub(crate) fn bucket(&self, coupon_id: CouponId, number: u32) -> String {
        format!("{}:{number}", self.coupon(coupon_id))
    }

    /// A pattern of everything that is ours.
    pub(crate) fn everything(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// A pattern of all coupons' hashes, without their buckets.
    pub(crate) fn coupons(&self) -> String {
        format!("{}coupon:{{*}}", self.prefix)
    }

    /// The coupon of a hash's key.
    pub(crate) fn read_coupon(&self, key: &str) -> Option<CouponId> {
        key.strip_prefix(&self.prefix)?.strip_prefix("coupon:{")?.strip_suffix('}')?.parse().ok()
    }

    /// The coupon of a bucket's key.
    pub(crate) fn read_bucket(&self, key: &str) -> Option<CouponId> {
        let (coupon, number) = key.rsplit_once(':')?;
        number.parse::<u32>().ok()?;
        self.read_coupon(coupon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_coupon_share_its_hash_tag_and_read_back() {
        let coupon = format!("c7-{}", "0".repeat(32));
        let coupon_id = coupon.parse().unwrap();
        let keys = Keys::new("p.");
        assert_eq!(keys.coupon(coupon_id), format!("p.coupon:{{{coupon}}}"));
        assert_eq!(keys.bucket(coupon_id, 17), format!("p.coupon:{{{coupon}}}:17"));
        assert_eq!(keys.read_coupon(&keys.coupon(coupon_id)), Some(coupon_id));
        assert_eq!(keys.read_bucket(&keys.bucket(coupon_id, 17)), Some(coupon_id));
        for other in ["", "p.", "p.coupon:{c7}", "coupon:{c7}", &keys.bucket(coupon_id, 1)] {
            assert_eq!(keys.read_coupon(other), None);
        }
        assert_eq!(keys.read_bucket(&keys.coupon(coupon_id)), None);
    }
}
