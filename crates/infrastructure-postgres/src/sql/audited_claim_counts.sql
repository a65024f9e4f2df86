-- What coupons have in `claims`, through the keys that begin with them: final answers and deferrals have an index each.
SELECT c.coupon_id, count(*) FILTER (WHERE c.src_offset >= $2 AND c.src_offset < $3) AS below,
    count(*) FILTER (WHERE c.src_offset >= $3) AS beyond
FROM (
    SELECT coupon_id, src_offset FROM claims WHERE coupon_id = ANY($1) AND final
    UNION ALL
    SELECT coupon_id, src_offset FROM claims WHERE coupon_id = ANY($1) AND NOT final
) AS c
GROUP BY c.coupon_id
