-- Coupon by coupon, through keys that begin with it: other partitions' rows are not looked at.
SELECT coalesce(sum(i.without_claim), 0)::bigint AS without_claim, coalesce(sum(i.elsewhere), 0)::bigint AS elsewhere,
    coalesce(sum(i.redemptions), 0)::bigint AS redemptions,
    (coalesce(sum(i.misused), 0) + coalesce(sum(r.without_coupon), 0))::bigint AS misused
FROM coupons o
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE c.coupon_id IS NULL) AS without_claim,
        count(*) FILTER (WHERE i.src_partition <> o.partition) AS elsewhere,
        count(r.claim_mac) AS redemptions,
        count(*) FILTER (
            WHERE (i.used_at, i.order_ref) IS DISTINCT FROM (r.redeemed_at, r.order_ref) OR i.user_id <> r.redeemed_by
        ) AS misused
    FROM issued_coupons i
    LEFT JOIN redemptions r ON r.coupon_id = o.coupon_id AND r.claim_mac = i.claim_mac
    LEFT JOIN claims c ON c.coupon_id = o.coupon_id AND c.claim_mac = i.claim_mac AND c.final AND c.code = 'granted'
        AND c.src_partition = i.src_partition
    WHERE i.coupon_id = o.coupon_id
) i
CROSS JOIN LATERAL (
    SELECT count(*) AS without_coupon
    FROM redemptions r
    LEFT JOIN issued_coupons i ON i.coupon_id = o.coupon_id AND i.claim_mac = r.claim_mac
    WHERE r.coupon_id = o.coupon_id AND i.coupon_id IS NULL
) r
