-- A batch of a retired coupon's answers that won nothing, and of its parked claims; noted in the same commit. Final answers and deferrals have an index each.
WITH due AS (
    (SELECT src_partition, src_offset FROM claims WHERE coupon_id = $1 AND final AND code <> 'granted' LIMIT $2)
    UNION ALL
    (SELECT src_partition, src_offset FROM claims WHERE coupon_id = $1 AND NOT final LIMIT $2)
    LIMIT $2
), losing AS (
    DELETE FROM claims c USING due WHERE c.src_partition = due.src_partition AND c.src_offset = due.src_offset
    RETURNING 1
), parked AS (
    DELETE FROM parked_claims p
    USING (SELECT src_partition, src_offset FROM parked_claims WHERE coupon_id = $1 LIMIT $2) AS due_parked
    WHERE p.src_partition = due_parked.src_partition AND p.src_offset = due_parked.src_offset
    RETURNING 1
), gone AS (
    SELECT (SELECT count(*) FROM losing) + (SELECT count(*) FROM parked) AS rows
), noted AS (
    INSERT INTO coupon_retention AS r (coupon_id, losing_claims, losing_done, last_run_at)
    SELECT $1, gone.rows, gone.rows = 0, now() FROM gone
    ON CONFLICT (coupon_id) DO UPDATE SET losing_claims = r.losing_claims + excluded.losing_claims,
        losing_done = excluded.losing_done, last_run_at = excluded.last_run_at
)
SELECT rows::bigint AS rows FROM gone
