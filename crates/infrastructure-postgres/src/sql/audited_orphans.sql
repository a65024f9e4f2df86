-- Rows of coupons that are in no line: from coupon to coupon by the keys, whatever number of rows each has.
WITH RECURSIVE claimed (coupon_id) AS (
    (SELECT coupon_id FROM claims WHERE final ORDER BY coupon_id LIMIT 1)
    UNION ALL
    SELECT (SELECT c.coupon_id FROM claims c WHERE c.final AND c.coupon_id > b.coupon_id ORDER BY c.coupon_id LIMIT 1)
    FROM claimed b WHERE b.coupon_id IS NOT NULL
), issued (coupon_id) AS (
    (SELECT coupon_id FROM issued_coupons ORDER BY coupon_id LIMIT 1)
    UNION ALL
    SELECT (SELECT i.coupon_id FROM issued_coupons i WHERE i.coupon_id > b.coupon_id ORDER BY i.coupon_id LIMIT 1)
    FROM issued b WHERE b.coupon_id IS NOT NULL
)
SELECT count(DISTINCT f.coupon_id) AS rows
FROM (SELECT coupon_id FROM claimed UNION ALL SELECT coupon_id FROM issued) AS f
WHERE f.coupon_id IS NOT NULL AND NOT EXISTS (SELECT FROM coupons o WHERE o.coupon_id = f.coupon_id)
