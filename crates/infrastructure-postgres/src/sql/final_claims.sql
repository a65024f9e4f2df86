SELECT c.coupon_id, c.claim_mac, c.round, c.slot, CASE c.code WHEN 'granted' THEN c.user_id END AS granted_to,
    c.code::text AS code, c.src_offset, c.appended_at, c.rank, c.issue_no, c.user_nth, c.granted_claim_mac,
    c.granted_round, c.granted_slot
FROM claims c
WHERE c.src_partition = $1 AND c.final
    AND c.src_offset > (
        SELECT min(published_offset) FROM coupons WHERE partition = $1 AND status <> 'retired'
    )
    AND c.coupon_id IN (SELECT coupon_id FROM coupons WHERE partition = $1 AND status <> 'retired')
ORDER BY c.src_offset
