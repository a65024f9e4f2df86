WITH asked AS (SELECT $1::integer AS partition)
SELECT
    (SELECT count(*) FROM asked, issued_coupons i WHERE i.src_partition = asked.partition AND NOT EXISTS (
        SELECT FROM claims c WHERE c.claim_mac = i.claim_mac AND c.coupon_id = i.coupon_id AND c.final
            AND c.code = 'granted' AND c.src_partition = i.src_partition)) AS without_claim,
    (SELECT count(*) FROM asked, issued_coupons i WHERE i.src_partition = asked.partition AND NOT EXISTS (
        SELECT FROM coupons o WHERE o.coupon_id = i.coupon_id AND o.partition = i.src_partition)) AS without_coupon,
    (SELECT count(*) FROM asked, audit_events e WHERE e.src_partition = asked.partition AND NOT EXISTS (
        SELECT FROM commands c WHERE c.src_partition = e.src_partition AND c.src_offset = e.src_offset)) AS events,
    (SELECT count(*) FROM asked, issued_coupons i JOIN redemptions r USING (claim_mac, coupon_id)
        WHERE i.src_partition = asked.partition) AS redemptions,
    (SELECT count(*) FROM asked, issued_coupons i LEFT JOIN redemptions r USING (claim_mac, coupon_id)
        WHERE i.src_partition = asked.partition AND (
            (i.used_at, i.order_ref) IS DISTINCT FROM (r.redeemed_at, r.order_ref) OR i.user_id <> r.redeemed_by))
    + (SELECT count(*) FROM asked, redemptions r JOIN coupons o USING (coupon_id)
        WHERE o.partition = asked.partition AND NOT EXISTS (
            SELECT FROM issued_coupons i WHERE i.claim_mac = r.claim_mac AND i.coupon_id = r.coupon_id)) AS misused
