-- One batch of outcomes: the watermark, the rows and the counters move together or not at all, in one statement and so in one
-- commit. It fences zombies: whoever does not find the watermark that it started from writes nothing.
--
-- No ON CONFLICT DO NOTHING anywhere: a row that is there already would be a broken promise, and is to be heard of.
WITH moved AS (
    UPDATE partition_progress SET
        next_src = $1, next_outcome_offset = $2, chain = $3, beat = beat + 1,
        last_record_id = $4, last_appended_at = $5
    WHERE partition = $6 AND next_src = $7 AND next_outcome_offset = $8 AND chain = $9
    RETURNING partition, beat
), new_claims AS (
    INSERT INTO claims (src_offset, coupon_id, claim_mac, round, slot, user_id, code, final, rank, issue_no, user_nth,
        granted_claim_mac, granted_round, granted_slot, appended_at, src_partition)
    SELECT c.src_offset, c.coupon_id, c.claim_mac, c.round, c.slot, c.user_id, c.code::claim_code, c.final, c.rank,
        c.issue_no, c.user_nth, c.granted_claim_mac, c.granted_round, c.granted_slot, c.appended_at, moved.partition
    FROM moved, unnest($10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
        AS c (src_offset, coupon_id, claim_mac, round, slot, user_id, code, final, rank, issue_no, user_nth,
            granted_claim_mac, granted_round, granted_slot, appended_at)
    RETURNING 1
), new_coupons AS (
    INSERT INTO issued_coupons (claim_mac, coupon_id, round, slot, user_id, user_nth, issue_no, per_user_limit, code,
        issued_at, expires_at, src_partition)
    SELECT i.claim_mac, i.coupon_id, i.round, i.slot, i.user_id, i.user_nth, i.issue_no, i.per_user_limit, i.code,
        i.issued_at, i.expires_at, moved.partition
    FROM moved, unnest($25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35)
        AS i (claim_mac, coupon_id, round, slot, user_id, user_nth, issue_no, per_user_limit, code, issued_at, expires_at)
    RETURNING 1
), raised AS (
    UPDATE coupons SET issued = coupons.issued + r.granted, settled = coupons.settled + r.settled,
        last_grant_offset = coalesce(r.last_grant_offset, coupons.last_grant_offset)
    FROM moved, unnest($36, $37, $38, $39) AS r (coupon_id, granted, settled, last_grant_offset)
    WHERE coupons.coupon_id = r.coupon_id AND coupons.status <> 'retired'
    RETURNING 1
), parked AS (
    INSERT INTO parked_claims (src_offset, coupon_id, claim_mac, src_partition)
    SELECT p.src_offset, p.coupon_id, p.claim_mac, moved.partition
    FROM moved, unnest($40, $41, $42) AS p (src_offset, coupon_id, claim_mac)
    RETURNING 1
)
SELECT moved.beat, demand((SELECT count(*) FROM raised) = $43, 'coupons_counted'), (SELECT count(*) FROM new_claims),
    (SELECT count(*) FROM new_coupons), (SELECT count(*) FROM parked)
FROM moved
