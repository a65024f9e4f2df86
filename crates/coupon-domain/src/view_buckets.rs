//! In which bucket of a view a claim's answer lies.
//!
//! A view's buckets are small hashes. Their number follows from the settled claims, so nobody has to know beforehand how many will come: it grows
//! by one bucket at a time, and the claims of that bucket all lie in one other, which is split (linear hashing). A batch's work depends on the
//! batch alone, and no growth moves the rest.

/// Claims in a bucket, on average. Between two doublings buckets that wait for their split hold up to twice as many as those that are split, and chance
/// adds its share: all stay below the 128 entries that every Redis keeps packed.
pub const CLAIMS_PER_BUCKET: u32 = 48;

/// How many buckets the view of so many settled claims has: at least one.
#[must_use]
pub fn bucket_count(settled: u32) -> u32 {
    settled.div_ceil(CLAIMS_PER_BUCKET).max(1)
}

/// The number that decides about the bucket: macs are keyed hashes, so any bits of theirs will do.
#[must_use]
pub fn bucket_hash(mac: &[u8; 16]) -> u32 {
    let [first, second, third, fourth, ..] = *mac;
    u32::from_le_bytes([first, second, third, fourth])
}

/// The bucket of a claim in a view of `count` buckets.
#[must_use]
pub fn bucket_of(mac: &[u8; 16], count: u32) -> u32 {
    let half = last_doubling(count);
    let hash = bucket_hash(mac);
    let in_doubled = hash & half.wrapping_mul(2).wrapping_sub(1);
    if in_doubled < count { in_doubled } else { hash & half.wrapping_sub(1) }
}

/// By what macs are divided for this bucket of a view of `count`: every claim lies in it whose [`bucket_hash`] leaves the bucket's number. It doubles when the
/// bucket is split, so a bucket that says it says which claims it holds.
#[must_use]
pub fn bucket_divisor(number: u32, count: u32) -> u64 {
    let half = last_doubling(count);
    let is_split = number >= half || number < count.saturating_sub(half);
    u64::from(half) << u32::from(is_split)
}

/// The bucket that is split when bucket `new` (not the first) is added.
#[must_use]
pub fn split_bucket(new: u32) -> u32 {
    new - last_doubling(new)
}

/// The highest power of two that is not above `count`; 1 for 0.
fn last_doubling(count: u32) -> u32 {
    1 << count.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The claims of a bucket are those that leave its number.
        #[test]
        fn a_buckets_divisor_says_which_claims_it_holds(mac in any::<[u8; 16]>(), count in 1u32..5_000) {
            for number in 0..count {
                let leaves_it = u64::from(bucket_hash(&mac)) % bucket_divisor(number, count) == u64::from(number);
                prop_assert_eq!(leaves_it, bucket_of(&mac, count) == number);
            }
        }

        /// One more bucket takes claims from the one that is split, and from no other.
        #[test]
        fn growing_moves_claims_of_one_bucket_alone(mac in any::<[u8; 16]>(), count in 1u32..100_000) {
            let (before, after) = (bucket_of(&mac, count), bucket_of(&mac, count + 1));
            prop_assert!(before < count && after <= count);
            prop_assert!(after == before || (after == count && before == split_bucket(count)));
        }
    }

    #[test]
    fn a_view_has_a_bucket_before_it_has_claims() {
        assert_eq!([0, 1, 48, 49, 1_000_000].map(bucket_count), [1, 1, 1, 2, 20_834]);
        assert_eq!([1, 2, 3, 4, 5, 7, 8].map(split_bucket), [0, 0, 1, 0, 1, 3, 0]);
        assert_eq!(bucket_of(&[255; 16], 1), 0);
    }

    /// The claims of a million in buckets: none holds more than Redis keeps packed, at the worst moment between two doublings, too.
    #[test]
    fn no_bucket_is_ever_too_full() {
        let mut state = 7u64;
        let mut mac = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [.., first, second, third, fourth] = state.to_le_bytes();
            let mut mac = [0; 16];
            mac[..4].copy_from_slice(&[first, second, third, fourth]);
            mac
        };
        for settled in [30u32, 3_000, 300_000, 400_000, 800_000, 1_000_000] {
            let count = bucket_count(settled);
            let mut held = BTreeMap::<u32, u32>::new();
            for _ in 0..settled {
                *held.entry(bucket_of(&mac(), count)).or_default() += 1;
            }
            assert!(held.values().max() < Some(&127), "{settled}: {:?}", held.values().max());
        }
    }
}
