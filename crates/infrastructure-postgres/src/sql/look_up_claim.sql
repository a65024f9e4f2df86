SELECT coalesce(p.next_outcome_offset, 0) AS next_outcome_offset, coalesce(p.next_src, 0) AS next_src, o.rules,
    coalesce(o.status = 'retired', false) AS retired,
    c.code::text AS code, c.final AS is_final, c.src_offset, c.appended_at, c.rank, c.issue_no, c.user_nth,
    c.granted_claim_mac, c.granted_round, c.granted_slot, i.code AS coupon_code, i.expires_at,
    (SELECT max(p.src_offset) FROM parked_claims p WHERE p.claim_mac = asked.claim_mac AND p.coupon_id = asked.coupon_id AND p.src_partition = asked.partition)
        AS parked_offset,
    w.round AS winner_round, w.slot AS winner_slot, w.claim_mac AS winner_mac
FROM (SELECT $1 AS partition, $2 AS claim_mac, $3 AS coupon_id, $4 AS slot, $5 AS user_id) AS asked
LEFT JOIN partition_progress p ON p.partition = asked.partition
LEFT JOIN coupons o ON o.coupon_id = asked.coupon_id
LEFT JOIN LATERAL (
    (SELECT * FROM claims f WHERE f.claim_mac = asked.claim_mac AND f.coupon_id = asked.coupon_id AND f.final)
    UNION ALL
    (SELECT * FROM claims d WHERE d.claim_mac = asked.claim_mac AND d.coupon_id = asked.coupon_id AND NOT d.final
        ORDER BY d.src_offset DESC LIMIT 1)
    LIMIT 1
) c ON true
LEFT JOIN issued_coupons i ON i.claim_mac = asked.claim_mac AND i.coupon_id = asked.coupon_id AND c.code = 'granted'
-- The grant because of which this user gets no other: that of the same slot, else, at the limit, the first.
LEFT JOIN LATERAL (
    SELECT g.round, g.slot, g.claim_mac FROM issued_coupons g
    WHERE g.coupon_id = asked.coupon_id AND g.user_id = asked.user_id
        AND (g.slot = asked.slot OR EXISTS (
            SELECT FROM issued_coupons l
            WHERE l.coupon_id = asked.coupon_id AND l.user_id = asked.user_id AND l.user_nth = g.per_user_limit))
    ORDER BY g.slot = asked.slot DESC, g.user_nth
    LIMIT 1
) w ON true
