SELECT spell_claim_id(i.src_partition, i.coupon_id, i.round, i.slot, i.claim_mac) AS claim_id, i.code, i.issue_no,
    i.issued_at, i.expires_at, i.used_at, i.order_ref, coalesce(i.expires_at <= now(), false) AS is_expired
FROM issued_coupons i
WHERE i.user_id = $1 AND (i.issued_at, i.claim_mac, i.coupon_id) < ($2, $3, $4)
ORDER BY i.issued_at DESC, i.claim_mac DESC, i.coupon_id DESC
LIMIT $5
