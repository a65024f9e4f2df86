-- ONCE-USED: of many requests at once each waits for the row, looks at it again, and only the first still finds it unused.
WITH used AS (
    UPDATE issued_coupons SET used_at = now(), order_ref = $1
    WHERE claim_mac = $2 AND coupon_id = $3 AND round = $4 AND slot = $5 AND user_id = $6
        AND used_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        AND NOT EXISTS (SELECT FROM redemption_closures WHERE reopened_at IS NULL)
    RETURNING *
), noted AS (
    INSERT INTO redemptions (claim_mac, coupon_id, redeemed_at, idempotency_key, order_ref, redeemed_by)
    SELECT claim_mac, coupon_id, used_at, $7, order_ref, user_id FROM used
)
SELECT spell_claim_id(i.src_partition, i.coupon_id, i.round, i.slot, i.claim_mac) AS claim_id, i.code, i.issue_no,
    i.issued_at, i.expires_at, i.used_at, i.order_ref, coalesce(i.expires_at <= now(), false) AS is_expired
FROM used i
