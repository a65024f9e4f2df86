-- Ranks count final answers, so the last one says how many there are. What lies before the coupon was published is not looked at.
WITH asked AS (SELECT $1::integer AS partition, $2::uuid AS coupon_id)
SELECT coalesce(p.next_src, 0) AS next_src, coalesce(p.next_outcome_offset, 0) AS next_outcome_offset,
    coalesce(o.issued, 0)::bigint AS granted,
    coalesce((
        SELECT f.rank FROM claims f
        WHERE f.src_partition = asked.partition AND f.src_offset > o.published_offset
            AND f.coupon_id = asked.coupon_id AND f.final
        ORDER BY f.src_offset DESC LIMIT 1
    ), 0)::bigint AS settled,
    (SELECT count(DISTINCT d.claim_mac) FROM claims d
        WHERE d.src_partition = asked.partition AND d.src_offset > o.published_offset
            AND d.coupon_id = asked.coupon_id AND NOT d.final
            AND NOT EXISTS (SELECT FROM claims f
                WHERE f.claim_mac = d.claim_mac AND f.coupon_id = d.coupon_id AND f.final)
            AND d.src_offset > coalesce((SELECT max(k.src_offset) FROM parked_claims k
                WHERE k.claim_mac = d.claim_mac AND k.coupon_id = d.coupon_id
                    AND k.src_partition = asked.partition), -1)) AS deferred,
    (SELECT count(DISTINCT k.claim_mac) FROM parked_claims k
        WHERE k.coupon_id = asked.coupon_id AND k.src_partition = asked.partition
            AND NOT EXISTS (SELECT FROM claims f
                WHERE f.claim_mac = k.claim_mac AND f.coupon_id = k.coupon_id AND f.final)
            AND k.src_offset > coalesce((SELECT max(d.src_offset) FROM claims d
                WHERE d.claim_mac = k.claim_mac AND d.coupon_id = k.coupon_id AND NOT d.final), -1)) AS dead_lettered
FROM asked
LEFT JOIN partition_progress p ON p.partition = asked.partition
LEFT JOIN coupons o ON o.coupon_id = asked.coupon_id
