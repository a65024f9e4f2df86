SELECT spell_claim_id(i.src_partition, i.coupon_id, i.round, i.slot, i.claim_mac) AS claim_id, i.code, i.issue_no,
    i.issued_at, i.expires_at, i.used_at, i.order_ref, coalesce(i.expires_at <= now(), false) AS is_expired,
    r.idempotency_key
FROM issued_coupons i
LEFT JOIN redemptions r ON r.claim_mac = i.claim_mac AND r.coupon_id = i.coupon_id
WHERE i.claim_mac = $1 AND i.coupon_id = $2 AND i.round = $3 AND i.slot = $4 AND i.user_id = $5
