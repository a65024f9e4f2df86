-- In no order: each row says its rank. By the coupon, through the index of final answers, so that nobody else's rows are read.
SELECT c.claim_mac, c.round, c.slot, CASE c.code WHEN 'granted' THEN c.user_id END AS granted_to, c.code::text AS code,
    c.src_offset, c.appended_at, c.rank, c.issue_no, c.user_nth, c.granted_claim_mac, c.granted_round, c.granted_slot
FROM claims c
WHERE c.coupon_id = $1 AND c.final
