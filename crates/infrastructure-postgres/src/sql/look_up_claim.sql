SELECT coalesce(p.next_outcome_offset, 0) AS next_outcome_offset, coalesce(o.status = 'retired', false) AS retired,
    c.code::text AS code, c.final AS is_final, c.src_offset, c.appended_at, c.rank, c.issue_no, c.user_nth,
    c.granted_claim_mac, c.granted_round, c.granted_slot, i.code AS coupon_code, i.expires_at,
    (SELECT max(p.src_offset) FROM parked_claims p WHERE p.claim_mac = asked.claim_mac AND p.coupon_id = asked.coupon_id AND p.src_partition = asked.partition)
        AS parked_offset
FROM (SELECT $1 AS partition, $2 AS claim_mac, $3 AS coupon_id) AS asked
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
