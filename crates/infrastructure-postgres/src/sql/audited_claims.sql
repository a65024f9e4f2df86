SELECT c.src_offset, c.coupon_id, c.claim_mac, c.round, c.slot, c.user_id, c.code::text AS code, c.final AS is_final,
    c.appended_at, c.rank, c.issue_no, c.user_nth, c.granted_claim_mac, c.granted_round, c.granted_slot,
    i.user_id AS issued_user_id, i.issue_no AS issued_issue_no, i.user_nth AS issued_user_nth, i.issued_at,
    i.expires_at AS issued_expires_at, i.round AS issued_round, i.slot AS issued_slot,
    i.per_user_limit AS issued_per_user_limit, i.code AS issued_code
FROM claims c
LEFT JOIN issued_coupons i ON i.claim_mac = c.claim_mac AND i.coupon_id = c.coupon_id AND c.final
WHERE c.src_partition = $1
