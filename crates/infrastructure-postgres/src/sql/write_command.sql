-- One command's outcome, a batch of its own: statements of one CTE do not see each other's rows, and the claims behind a
-- command need what it changed.
WITH moved AS (
    UPDATE partition_progress SET
        next_src = $1, next_outcome_offset = $2, chain = $3, beat = beat + 1,
        last_record_id = $4, last_appended_at = $5
    WHERE partition = $6 AND next_src = $7 AND next_outcome_offset = $8 AND chain = $9
    RETURNING partition, beat
), after AS (
    SELECT moved.partition, $10 AS coupon_id, $11 AS name, $12 AS initial_quantity, $13 AS per_user_limit,
        $14 AS opens_at, $15 AS closes_at, $16 AS expires_at, $17 AS expires_after_days, $18 AS rules, $19 AS key_id,
        $20::coupon_status AS status, $21 AS round, $22 AS quantity, $23 AS issued, $24 AS version,
        $25 AS last_command_mac, $26::command_code AS last_command_code, $27 AS command_mac, $28 AS src_offset,
        $29::command_kind AS kind, $30::command_code AS code, $31 AS refusal, $32 AS actor, $33 AS reason,
        $34 AS state, $35 AS appended_at, $36 AS publishes
    FROM moved
), published AS (
    INSERT INTO coupons (coupon_id, partition, name, initial_quantity, per_user_limit, opens_at, closes_at, expires_at,
        expires_after_days, rules, key_id, status, round, quantity, issued, settled, version, last_command_mac, last_command_code,
        published_offset, published_at)
    SELECT coupon_id, partition, name, initial_quantity, per_user_limit, opens_at, closes_at, expires_at,
        expires_after_days, rules, key_id, status, round, quantity, issued, 0, version, last_command_mac, last_command_code,
        src_offset, appended_at
    FROM after WHERE publishes
    RETURNING 1
), changed AS (
    UPDATE coupons SET opens_at = after.opens_at, closes_at = after.closes_at, status = after.status, round = after.round,
        quantity = after.quantity, version = after.version, last_command_mac = after.last_command_mac,
        last_command_code = after.last_command_code
    FROM after WHERE NOT publishes AND coupons.coupon_id = after.coupon_id AND coupons.issued = after.issued
    RETURNING 1
), answered AS (
    INSERT INTO commands (command_mac, coupon_id, src_partition, src_offset, kind, code, refusal, version, appended_at)
    SELECT command_mac, coupon_id, partition, src_offset, kind, code, refusal, version, appended_at FROM after
    RETURNING 1
), noted AS (
    INSERT INTO audit_events (src_partition, src_offset, coupon_id, command_mac, kind, code, actor, reason, state,
        appended_at)
    SELECT partition, src_offset, coupon_id, command_mac, kind, code, actor, reason, state, appended_at FROM after
    RETURNING 1
)
SELECT moved.beat,
    demand((SELECT count(*) FROM published) + (SELECT count(*) FROM changed) = 1, 'coupon_as_the_log_says'),
    (SELECT count(*) FROM answered) + (SELECT count(*) FROM noted)
FROM moved
