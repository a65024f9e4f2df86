-- What is counted while it is written is read from the coupon; the rest is counted through the coupon's own rows.
WITH asked AS (SELECT $1::integer AS partition, $2::uuid AS coupon_id)
SELECT coalesce(p.next_src, 0) AS next_src, coalesce(p.next_outcome_offset, 0) AS next_outcome_offset,
    coalesce(o.issued, 0)::bigint AS granted, coalesce(o.settled, 0)::bigint AS settled,
    (SELECT count(DISTINCT d.claim_mac) FROM claims d
        WHERE d.coupon_id = asked.coupon_id AND NOT d.final
            AND NOT EXISTS (SELECT FROM claims f
                WHERE f.coupon_id = d.coupon_id AND f.claim_mac = d.claim_mac AND f.final)
            AND d.src_offset > coalesce((SELECT max(k.src_offset) FROM parked_claims k
                WHERE k.coupon_id = d.coupon_id AND k.claim_mac = d.claim_mac
                    AND k.src_partition = asked.partition), -1)) AS deferred,
    (SELECT count(DISTINCT k.claim_mac) FROM parked_claims k
        WHERE k.coupon_id = asked.coupon_id AND k.src_partition = asked.partition
            AND NOT EXISTS (SELECT FROM claims f
                WHERE f.coupon_id = k.coupon_id AND f.claim_mac = k.claim_mac AND f.final)
            AND k.src_offset > coalesce((SELECT max(d.src_offset) FROM claims d
                WHERE d.coupon_id = k.coupon_id AND d.claim_mac = k.claim_mac AND NOT d.final), -1)) AS dead_lettered
FROM asked
LEFT JOIN partition_progress p ON p.partition = asked.partition
LEFT JOIN coupons o ON o.coupon_id = asked.coupon_id
